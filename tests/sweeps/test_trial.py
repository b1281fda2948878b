from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from eyespot import files
from eyespot.config import load_config, parse_override, toml_value
from eyespot.runs import Run
from eyespot.sweeps.trial import run_trial

from ..conftest import TINY


@pytest.fixture
def task(pictures: Path, tmp_path: Path) -> dict[str, Any]:
    from eyespot.opening import load_recipe

    recipe = tmp_path / "recipe.toml"
    recipe.write_text(load_recipe("small", {**TINY, "training.epochs": 3}).to_toml())
    settings = {"optimizer.lr": 0.05}
    place = {"folder": str(tmp_path / "trials" / "0001"), "recipe": str(recipe), "data": str(pictures)}
    return {**place, "settings": settings, "device": "cpu", "metric": "val/loss", "threads": 1}


@pytest.fixture(autouse=True)
def _own_argv(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys, "argv", ["eyespot"])


def test_a_trial_reports_its_epochs_and_never_reads_test(task: dict[str, Any]) -> None:
    rows: list[dict[str, Any]] = []
    run_trial(task, rows.append)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [bool(row.get("final")) for row in rows] == [False, False, True]
    run = Run(Path(task["folder"]))
    assert run.finished
    assert run.metrics["test_reads"] == 0
    assert "test" not in run.metrics
    val = run.metrics["val"]
    assert rows[-1]["value"] == rows[-1]["loss"] == val["nll_loss"]
    assert (rows[-1]["low"], rows[-1]["high"]) == tuple(val["top1_ci95"])
    assert run.provenance["command"].startswith("eyespot train ")
    assert "--set optimizer.lr=0.05 --set evaluation.test=false --out" in run.provenance["command"]

    # A second time, as after a kill between the end and the journal: nothing is trained again.
    before = (run.path / "history.jsonl").stat().st_mtime_ns
    again: list[dict[str, Any]] = []
    run_trial(task, again.append)
    assert again == rows[-1:]
    assert (run.path / "history.jsonl").stat().st_mtime_ns == before


def test_a_stopped_trial_keeps_a_checkpoint_and_goes_on_from_it(task: dict[str, Any]) -> None:
    def stop(row: dict[str, Any]) -> None:
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        run_trial(task, stop)
    run = Run(Path(task["folder"]))
    assert [row["epoch"] for row in run.history] == [1]
    assert list(run.path.glob("checkpoints/*.ckpt"))
    rows: list[dict[str, Any]] = []
    run_trial(task, rows.append)
    assert [row["epoch"] for row in rows] == [1, 2, 3]  # the epoch of the earlier process is told again
    assert "epoch   1" not in (run.path / "log.txt").read_text()


def test_what_was_killed_before_it_knew_its_data_begins_again(task: dict[str, Any]) -> None:
    folder = Path(task["folder"])
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.toml").write_text(load_config("fast").to_toml())
    rows: list[dict[str, Any]] = []
    run_trial(task, rows.append)
    assert rows[-1]["final"]


def test_settings_that_fail_fail_the_trial_and_data_that_fail_end_the_sweep(task: dict[str, Any]) -> None:
    rows: list[dict[str, Any]] = []
    run_trial({**task, "settings": {"optimizer.lr": 1e30}}, rows.append)
    assert rows[-1]["ends"] is False
    assert "NaN" in rows[-1]["failed"]
    run_trial({**task, "folder": task["folder"] + "b", "settings": {"schedule.name": "nope"}}, rows.append)
    assert rows[-1]["ends"] is False
    run_trial({**task, "folder": task["folder"] + "c", "recipe": "/nowhere/recipe.toml"}, rows.append)
    assert rows[-1]["ends"] is True
    assert "does not see the sweep's folder" in rows[-1]["failed"]
    assert json.dumps(rows[-1])


def test_an_unexpected_error_is_named(task: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("eyespot.sweeps.trial.train", fail)
    rows: list[dict[str, Any]] = []
    run_trial(task, rows.append)
    assert rows == [{"failed": "ZeroDivisionError: by zero", "ends": False}]


@pytest.mark.parametrize("writes", [4, 9])
def test_a_full_disk_ends_the_sweep_and_the_trial_goes_on_with_the_same_result(
    task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    whole: list[dict[str, Any]] = []
    run_trial({**task, "folder": str(tmp_path / "whole")}, whole.append)
    left = writes
    real = files.os.replace

    def fill(source: str, target: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    rows: list[dict[str, Any]] = []
    with monkeypatch.context() as full:
        full.setattr(files.os, "replace", fill)
        run_trial(task, rows.append)
    assert rows[-1]["ends"]
    assert "the disk is full" in rows[-1]["failed"]
    assert not list(Path(task["folder"]).rglob("*.tmp"))
    run_trial(task, rows.append)
    told = ("epoch", "top1", "loss", "value", "n", "final")
    assert {key: rows[-1][key] for key in told} == {key: whole[-1][key] for key in told}


def test_a_table_is_written_so_that_a_command_can_take_it() -> None:
    assert parse_override(f"v={toml_value({'width': 32, 'a b': [1, 2]})}") == ("v", {"width": 32, "a b": [1, 2]})

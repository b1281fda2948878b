"""The benchmark scripts run; what they measure is no business of a test."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from eyespot.runs import Run

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
    module = load("bench")
    monkeypatch.setattr(module, "ROUNDS", 1)
    return module


def test_every_recipe_can_be_measured(bench: ModuleType) -> None:
    for name in bench.RECIPES:
        config = bench.variant(name, training__batch_size=4)
        assert (config.training.epochs, config.training.batch_size, config.data.final) == (1, 4, True)
        assert config.training.size_schedule == []
    assert bench.training_speed(bench.variant("dll2018", training__batch_size=4), steps=8) > 0


def test_the_csv_has_a_row_a_figure(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "speed.csv"
    monkeypatch.setattr(sys, "argv", ["bench.py", "startup", "--out", str(path)])
    bench.main()
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [row["variant"] for row in rows] == ["python -c pass", "eyespot --help", "import torch"]
    assert all(float(row["low"]) <= float(row["median"]) <= float(row["high"]) for row in rows)
    assert {row["n"] for row in rows} == {"1"}


def test_a_finished_run_becomes_a_row(tmp_path: Path) -> None:
    import eyespot

    run = eyespot.train("digits", settings={"training.epochs": 1}, out=tmp_path / "run")
    row = load("collect").row(Run.open(run.path))
    assert row["data"] == "digits"
    assert row["epochs"] == 1
    assert row["test_n"] == run.metrics["test"]["n"] == 359
    json.dumps(row)

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eyespot import files, finishing
from eyespot.config import Config, TrainingConfig, load_config
from eyespot.errors import ConfigError, RunError, RunLockedError, UsageError
from eyespot.locks import file_lock
from eyespot.runs import LABEL_FIXES, Run, with_label_fixes
from eyespot.studies import estimate, runner
from eyespot.studies.estimate import estimate_seconds
from eyespot.studies.journal import read_journal, read_points
from eyespot.studies.points import Limits, Point, point_config, select_points, with_seeds
from eyespot.studies.runner import read_outcomes, run_points
from eyespot.terminal import Terminal

from ..conftest import TINY


class Listener:
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
        pass

    on_step = on_epoch = attach = on_count  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "estimate_seconds", lambda asked, **rest: (60.0 * len(asked), 0))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, trained: Run) -> list[list[str]]:
    """Put a copy of a finished run in the place of every training, and keep the command lines."""
    seen: list[list[str]] = []

    def train(words: Sequence[str], log: Path, path: Path, epochs: int, label: str, observer: Any) -> int:
        seen.append(list(words))
        log.parent.mkdir(exist_ok=True)
        if any("fails" in word for word in words):
            log.write_text("noise\nerror: the loss is NaN in step 3: lower optimizer.lr\n")
            return 1
        shutil.copytree(trained.path, path, dirs_exist_ok=True)
        point = next(p for p in _points(trained) if path.name.startswith(p.name))
        seed = int(path.name.rpartition("seed")[2])
        minutes = [float(word.partition("=")[2]) for word in words if word.startswith("training.minutes=")]
        limits = Limits(minutes=minutes[0] if minutes else None)
        config = point_config(Point(point.name, point.recipe, point.data, point.settings, seed), limits)
        (path / "config.toml").write_text(config.to_toml())
        return 0

    monkeypatch.setattr(runner, "_train", train)
    return seen


def _points(trained: Run) -> list[Point]:
    data = str(trained.provenance["data"])
    return [Point("base", "small", data, TINY), Point("fails", "small", data, TINY), Point("other", "small", data)]


def test_every_point_is_run_once_and_a_failure_does_not_end_the_rest(
    calls: list[list[str]], trained: Run, tmp_path: Path
) -> None:
    listener = Listener()
    outcomes = run_points(_points(trained), tmp_path, observer=listener)
    assert [outcome.state for outcome in outcomes] == ["finished", "failed", "finished"]
    assert outcomes[1].reason == "the loss is NaN in step 3: lower optimizer.lr"
    assert any("estimate: about 3 min" in message for message in listener.messages)
    again = run_points(_points(trained), tmp_path, observer=listener)
    assert [outcome.state for outcome in again] == ["finished", "failed", "finished"]
    assert len(calls) == 4  # only what failed was tried again
    assert [row["event"] for row in read_journal(tmp_path)].count("finished") == 2
    whole = read_journal(tmp_path)
    with (tmp_path / "journal.jsonl").open("a") as journal:
        journal.write('{"half')
    assert read_journal(tmp_path) == whole


def test_a_full_disk_ends_the_rest_and_the_same_call_goes_on(
    calls: list[list[str]], trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = runner._train

    def fill(words: Sequence[str], log: Path, *others: Any) -> int:
        log.parent.mkdir(exist_ok=True)
        log.write_text(
            "error: cannot write (the disk is full) in /a/b: free some space; a training goes on with --resume"
        )
        return 1

    points = [_points(trained)[0], _points(trained)[2]]
    monkeypatch.setattr(runner, "_train", fill)
    with pytest.raises(RunError) as caught:
        run_points(points, tmp_path, observer=Listener())
    said = "point base-seed0: cannot write (the disk is full) in /a/b: free some space, then go on"
    assert str(caught.value) == said
    assert [row["event"] for row in read_journal(tmp_path)] == ["started", "failed"]  # `other` was not begun
    monkeypatch.setattr(runner, "_train", train)
    assert [one.state for one in run_points(points, tmp_path, observer=Listener())] == ["finished"] * 2


@pytest.mark.parametrize("name", ["report.html", "journal.jsonl"])
def test_a_study_writes_over_no_file_of_another_kind(calls: list[list[str]], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match=rf"{name} is there already, and a study would write over it"):
        run_points([Point("one", "small", "digits")], tmp_path, observer=Listener())
    assert (tmp_path / name).read_text() == "mine"
    assert not calls


def test_more_seeds_add_to_what_is_there(calls: list[list[str]], trained: Run, tmp_path: Path) -> None:
    base = _points(trained)[:1]
    run_points(base, tmp_path, observer=Listener())
    outcomes = run_points(with_seeds(base, 3), tmp_path, observer=Listener())
    assert [outcome.point.id for outcome in outcomes] == ["base-seed0", "base-seed1", "base-seed2"]
    assert len(calls) == 3


def test_a_run_that_was_begun_goes_on_and_one_without_data_begins_anew(
    calls: list[list[str]], trained: Run, tmp_path: Path
) -> None:
    point = _points(trained)[0]
    folder = tmp_path / "runs" / point.id
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(point_config(point, Limits()).to_toml())
    (folder / "provenance.json").write_text(json.dumps({"data": point.data}))
    run_points([point], tmp_path, observer=Listener())
    assert calls[0][:2] == ["train", "--resume"]
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "config.toml").write_text(point_config(point, Limits()).to_toml())
    run_points([point], tmp_path, observer=Listener())
    assert "--recipe" in calls[1]


def test_a_finished_point_whose_figures_are_gone_is_resumed(
    calls: list[list[str]], trained: Run, tmp_path: Path
) -> None:
    point = _points(trained)[0]
    run_points([point], tmp_path, observer=Listener())
    figures = tmp_path / "runs" / point.id / "metrics.json"
    figures.unlink()
    assert [one.state for one in read_outcomes([point], tmp_path)] == ["pending"]
    run_points([point], tmp_path, observer=Listener())
    assert calls[1][:2] == ["train", "--resume"]
    assert figures.exists()


def test_a_point_with_checkpoints_is_not_begun_anew(calls: list[list[str]], trained: Run, tmp_path: Path) -> None:
    point = _points(trained)[0]
    run_points([point], tmp_path, observer=Listener())
    (tmp_path / "runs" / point.id / "provenance.json").unlink()
    run_points([point], tmp_path, observer=Listener())
    assert calls[1][:2] == ["train", "--resume"]  # which says that the file is missing


def test_a_run_of_other_settings_is_not_taken(calls: list[list[str]], trained: Run, tmp_path: Path) -> None:
    point = _points(trained)[0]
    run_points([point], tmp_path, observer=Listener())
    with pytest.raises(RunError, match=r"training.epochs is 2 there and 4 here"):
        run_points([point], tmp_path, limits=Limits(epochs_scale=2), observer=Listener())
    assert len(calls) == 1


def test_what_cannot_be_run_is_listed_with_its_reason(calls: list[list[str]], trained: Run, tmp_path: Path) -> None:
    point = Point("vgg", "nowhere", "cifar10", not_run="its weights cannot be had")
    outcomes = run_points([point, _points(trained)[0]], tmp_path, only=["base"], observer=Listener())
    assert (outcomes[0].state, outcomes[0].reason) == ("not run", "its weights cannot be had")
    assert outcomes[1].state == "finished"


def test_a_run_with_another_backbone_stays_where_the_own_one_cannot_be_had(
    calls: list[list[str]], trained: Run, tmp_path: Path
) -> None:
    base = _points(trained)[0]
    run_points([replace(base, title="base, spot in place of vgg16")], tmp_path, observer=Listener())
    without = replace(base, title="base", not_run="no weights of vgg16")
    (outcome,) = run_points([without], tmp_path, observer=Listener())
    assert outcome.state == "finished"
    assert read_outcomes([without], tmp_path)[0].state == "finished"
    assert [row["title"] for row in read_points(tmp_path)] == ["base, spot in place of vgg16"]


def test_points_that_are_not_chosen_keep_their_runs_whatever_their_limits(
    calls: list[list[str]], trained: Run, tmp_path: Path
) -> None:
    base, _, other = _points(trained)
    run_points([base, other], tmp_path, only=["base"], observer=Listener())
    outcomes = run_points([base, other], tmp_path, limits=Limits(minutes=9), only=["other"], observer=Listener())
    assert [outcome.state for outcome in outcomes] == ["finished", "finished"]
    assert [row["limits"]["minutes"] for row in read_points(tmp_path)] == [None, 9]
    noted = (tmp_path / "points.json").read_text()
    with pytest.raises(RunError, match=r"training.minutes is 0.0 there and 8.0 here"):
        run_points([base, other], tmp_path, limits=Limits(minutes=8), only=["base"], observer=Listener())
    assert (tmp_path / "points.json").read_text() == noted


def test_fewer_seeds_forget_no_run(calls: list[list[str]], trained: Run, tmp_path: Path) -> None:
    base = _points(trained)[:1]
    run_points(with_seeds(base, 3), tmp_path, observer=Listener())
    run_points(base, tmp_path, observer=Listener())
    assert [row["id"] for row in read_points(tmp_path)] == ["base-seed0", "base-seed1", "base-seed2"]
    (tmp_path / "points.json").write_text("{")
    run_points(base, tmp_path, observer=Listener())
    assert [row["id"] for row in read_points(tmp_path)] == ["base-seed0"]


def test_corrected_labels_are_the_same_where_their_content_is(tmp_path: Path) -> None:
    fixes = tmp_path / "fixes.csv"
    fixes.write_text("id,suggested,decision\n")
    point = Point("base", "digits", "digits", {"data.label_fixes": str(fixes)})
    config = point_config(point, Limits())
    folder = tmp_path / "out" / "runs" / point.id
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(with_label_fixes(config, folder / LABEL_FIXES).to_toml())
    kept = {"file": str(fixes.resolve()), "sha256": hashlib.sha256(fixes.read_bytes()).hexdigest()}
    (folder / "provenance.json").write_text(json.dumps({"data": "digits", "finished": "now", "label_fixes": kept}))
    (folder / "metrics.json").write_text('{"epochs": 1}')
    assert read_outcomes([point], tmp_path / "out")[0].state == "finished"
    copy = shutil.copy(fixes, tmp_path / "copy.csv")
    moved = replace(point, settings={"data.label_fixes": str(copy)})
    assert read_outcomes([moved], tmp_path / "out")[0].state == "finished"
    with pytest.raises(RunError, match=r"data.label_fixes is .*fixes.csv there and not set here"):
        read_outcomes([replace(point, settings={})], tmp_path / "out")
    fixes.unlink()
    assert read_outcomes([point], tmp_path / "out")[0].state == "finished"
    fixes.write_text("id,suggested,decision\nother,cat,accept\n")
    with pytest.raises(RunError, match=r"with another content"):
        read_outcomes([point], tmp_path / "out")


def test_a_run_with_other_mistakes_is_not_taken(tmp_path: Path) -> None:
    point = Point("a", "gomez2025-vgg", "cifar10")
    folder = tmp_path / "runs" / point.id
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(point_config(point, Limits()).to_toml())
    with pytest.raises(RunError, match=r"mistakes are \[\] there and \['augmented-val'\] here"):
        read_outcomes([replace(point, settings={"mistakes": ["augmented-val"]})], tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"model.args": {"pool": "flatten"}},
        {"model.args": {}},
        {"model.args": {"pool": "flatten"}, "model.args.hidden": [512]},
        {"schedule": {"name": "step", "step_epochs": [2, 3]}},
        {"name": 'a "name" = {x}', "training.size_schedule": [[0.0, 16], [0.5, 32]], "optimizer.eps": 1e-7},
    ],
)
def test_the_process_of_a_point_has_the_settings_that_its_runner_checks(settings: dict[str, Any]) -> None:
    before = copy.deepcopy(settings)
    if "training.size_schedule" in settings:
        settings = {**settings, "model.mode": "full"}
    point = Point("a", "culp2021-vgg16", "cifar10", settings)
    words = runner._train_words(point, Limits(), Path("out"))
    given = [word for place, word in enumerate(words) if words[place - 1] == "--set"]
    assert load_config(point.recipe, given) == point_config(point, Limits())
    assert {key: settings[key] for key in before} == before


def test_why_a_training_ended_is_what_it_said_this_time(
    calls: list[list[str]], trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = _points(trained)[1]
    run_points([point], tmp_path, observer=Listener())

    def crash(words: Sequence[str], log: Path, *_: Any) -> int:
        with log.open("a") as file:
            file.write("Traceback (most recent call last):\nRuntimeError: boom\n")
        return 1

    monkeypatch.setattr(runner, "_train", crash)
    (outcome,) = run_points([point], tmp_path, observer=Listener())
    assert outcome.reason.startswith("the training was ended with exit code 1; ")


def test_why_a_training_ended_names_no_option_that_a_study_does_not_have(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.toml").touch()
    (run / "provenance.json").write_text('{"data": "digits"}')
    error = files._run_error(OSError(errno.ENOSPC, "No space left on device"), run / "checkpoints" / "step.ckpt")
    assert "--resume" in str(error)
    log.write_text(f"error: {error}\n")
    said = runner._describe_end(1, log)
    assert said.startswith("cannot write (the disk is full) in ")
    assert "--resume" not in said


def test_the_estimate_measures_as_many_training_pictures_as_a_run_does(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_time_steps", lambda *_: (0.0, 1.0))
    config = load_config("small", changes={**TINY, "training.epochs": 1, "evaluation.views": "none"})
    whole, _ = estimate_seconds([(str(pictures), config)], device="cpu", observer=Listener())  # type: ignore[arg-type]
    monkeypatch.setattr(finishing, "TRAIN_SAMPLE", 3)
    sampled, _ = estimate_seconds([(str(pictures), config)], device="cpu", observer=Listener())  # type: ignore[arg-type]
    assert sampled < whole


def test_the_estimate_leaves_the_programs_random_numbers_alone(pictures: Path) -> None:
    config = load_config("small", changes={**TINY, "training.epochs": 1})
    before = torch.get_rng_state()
    estimate_seconds([(str(pictures), config)], device="cpu", observer=Listener())  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_estimate_measures_pictures_of_the_size_that_the_run_trains(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Config] = []
    monkeypatch.setattr(estimate, "_time_steps", lambda model, data, config, plan: (seen.append(config), (0.0, 1.0))[1])
    config = load_config(
        "small", changes={**TINY, "input.size_px": 48, "training.size_schedule": [[0.0, 16], [0.5, 24]]}
    )
    estimate_seconds([(str(pictures), config)], device="cpu", observer=Listener())  # type: ignore[arg-type]
    assert seen[0].training.size_schedule == [(0.0, 32), (0.5, 48)]


def test_the_estimate_counts_pictures_that_are_encoded_alike_once_and_the_epochs_of_every_head(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_time_steps", lambda *_: (0.0, 1.0))
    monkeypatch.setattr(estimate, "_time_head", lambda *_: 0.5)
    monkeypatch.setattr(estimate, "_START_AND_END_SECONDS", 0.0)
    frozen = {
        "model.name": "mobilenetv3_small_050",
        "model.weights": "random",
        "model.mode": "features",
        "input.size_px": 32,
        "training.epochs": 2,
        "augment.translate_px": 0,
        "evaluation.views": "none",
    }

    def seconds(*changes: dict[str, Any]) -> float:
        asked = [(str(pictures), load_config("small", changes={**frozen, "model.args": {}, **one})) for one in changes]
        return estimate_seconds(asked, device="cpu", observer=Listener())[0]  # type: ignore[arg-type]

    solved = seconds({})
    assert solved > 0
    assert seconds({}, {"training.seed": 1}, {"data.train_fraction": 0.5}) == solved
    hidden = {"model.args": {"hidden": [8]}}
    trained = seconds(hidden) - solved  # two epochs of its head
    assert trained > 0
    assert seconds({}, hidden, {**hidden, "training.epochs": 4}) == solved + 3 * trained
    for other in ({"features.views": 1}, {"input.size_px": 40}, {"model.args": {"pool": "flatten"}}):
        assert seconds({}, other) == solved + seconds(other)


def test_no_memory_for_the_estimate_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(data: str, *_: Any) -> tuple[float, float]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory" if data == "large" else "a mistake of ours")

    monkeypatch.setattr(estimate, "_measure", measure)
    config, listener = point_config(Point("a", "digits", "digits"), Limits()), Listener()
    assert estimate_seconds([("large", config)], device="cpu", observer=listener) == (0.0, 1)  # type: ignore[arg-type]
    assert listener.messages == ["no estimate for digits on large: no memory left at batch size 64"]
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        estimate_seconds([("small", config)], device="cpu", observer=listener)  # type: ignore[arg-type]


def test_wrong_data_and_arguments_are_found_before_anything_is_begun(
    calls: list[list[str]], trained: Run, tmp_path: Path
) -> None:
    base, other = _points(trained)[0], _points(trained)[2]
    wrong = replace(other, settings={"model.args.width": [1]})
    with pytest.raises(UsageError, match=r"Unknown argument 'width' of model 'spot'.*in point other-seed0"):
        run_points([base, wrong], tmp_path / "out", observer=Listener())
    with pytest.raises(UsageError, match="nosuchdir"):
        run_points([base, replace(other, data=str(tmp_path / "nosuchdir"))], tmp_path / "out", observer=Listener())
    assert calls == []
    assert not (tmp_path / "out").exists()
    run_points([base], tmp_path / "out", observer=Listener())
    gone = [base, replace(other, data=str(tmp_path / "nosuchdir"))]
    assert run_points(gone, tmp_path / "out", only=["base"], observer=Listener())[0].state == "finished"


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([Point("a/b", "fast", "digits")], "a point called 'a/b'"),
        ([Point("a", "fast", "digits"), Point("A", "fast", "digits")], "two points called 'A-seed0'"),
        ([Point(".a", "fast", "digits")], "a point called"),
    ],
)
def test_names_that_cannot_be_folders_are_refused(points: list[Point], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        run_points(points, tmp_path, observer=Listener())


def test_bad_requests_are_one_clear_line_before_anything_is_run(tmp_path: Path) -> None:
    points = [Point("exp01", "fast", "digits"), Point("exp02", "fast", "digits", {"training.epoch": 3})]
    with pytest.raises(ConfigError, match=r"unknown key training.epoch. Did you mean .* point exp02-seed0"):
        run_points(points, tmp_path, observer=Listener())
    with pytest.raises(UsageError, match=r"no point 'exp1'. Did you mean 'exp01'"):
        select_points(points, ["exp1"])
    with pytest.raises(UsageError, match="--seeds is 0: give 1 or more"):
        with_seeds(points, 0)
    with pytest.raises(UsageError, match="--epochs-scale is 0: give a factor"):
        Limits(epochs_scale=0)
    with pytest.raises(UsageError, match="--minutes is -1: give a number above 0"):
        Limits(minutes=-1)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with file_lock(tmp_path / ".lock"), pytest.raises(RunLockedError, match="another process is running these points"):
        run_points([Point("a", "fast", "digits")], tmp_path, observer=Listener())


def test_a_quick_look_shortens_every_duration_in_epochs() -> None:
    changes = {"training.epochs": 40, "training.early_stopping_epochs": 5, "schedule.warmup_epochs": 2.0}
    changes |= {"schedule.name": "step", "schedule.step_epochs": [20, 30]}
    found = point_config(Point("a", "small", "digits", changes), Limits(epochs_scale=0.1, minutes=3))
    assert (found.training.epochs, found.training.early_stopping_epochs, found.training.minutes) == (4, 1, 3)
    assert (found.schedule.warmup_epochs, found.schedule.step_epochs) == (0.2, [2, 3])


@pytest.mark.skipif(os.name == "nt", reason="a killed Windows process leaves no exit code of its own")
def test_a_training_does_not_outlive_its_runner() -> None:
    import signal
    import subprocess
    import sys

    process = subprocess.Popen(
        [sys.executable, "-c", runner._CHILD, json.dumps(sys.path), "train", "digits", "--set", "training.epochs=9999"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=180) in (128 + signal.SIGTERM, -signal.SIGTERM)


def test_a_users_file_does_not_stand_for_one_of_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json.py", "types.py", "torch.py"):
        (tmp_path / name).write_text("raise SystemExit(7)\n")
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log.txt"
    code = runner._train(["recipes"], log, tmp_path / "run", TrainingConfig(), "a", Terminal(quiet=True))
    assert code == 0
    assert "sprint" in log.read_text(encoding="utf-8")

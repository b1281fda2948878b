from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eyespot
from eyespot import data_verbs, evaluating, files, finishing, opening, starting
from eyespot.analysis.headline import summary_line
from eyespot.caches import cache_folder
from eyespot.data.dataset import Dataset, Items
from eyespot.data.fingerprints import find_near_pairs
from eyespot.data.near_cache import save_near_pairs
from eyespot.data.sources import open_dataset
from eyespot.device import ComputePlan
from eyespot.errors import (
    CheckpointError,
    DataError,
    Interrupted,
    LeakError,
    MemoryLimitError,
    RunError,
    UsageError,
)
from eyespot.evaluation.evaluate import read_predictions
from eyespot.locks import file_lock
from eyespot.runs import BUNDLE, Run
from eyespot.terminal import Terminal

from .conftest import TINY, draw_pictures


class Listener:
    """Keeps what a verb says; presses Ctrl-C after a step if asked to."""

    def __init__(self, *, stop_after: int = -1) -> None:
        self.messages: list[str] = []
        self._stop_after = stop_after

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
        pass

    def on_step(self, state: Any, *, loss: float | None, top1: float | None) -> None:
        if state.step == self._stop_after:
            signal.raise_signal(signal.SIGINT)

    def on_epoch(self, row: dict[str, Any]) -> None:
        pass

    def attach(self, writer: Any) -> None:
        pass


def report_of(run: Run) -> str:
    text = run.report.read_text(encoding="utf-8")
    assert "</html>" in text
    return text


# --------------------------------------------------------------------------------------------------------------- train


@pytest.mark.parametrize(
    ("name", "published", "pictures", "side", "weights", "chosen"),
    [
        ("digits", True, 1438, 8, True, "digits"),
        ("digits", False, 1438, 8, True, "transfer"),
        ("x", False, 9_999, 32, True, "transfer"),
        ("x", False, 9_999, 32, False, "small"),
        ("x", False, 10_000, 64, True, "fast"),
        ("x", False, 10_000, 65, True, "transfer"),
        ("x", False, 10_000, 65, False, "fast"),
    ],
)
def test_the_recipe_is_chosen_by_the_data(
    name: str, published: bool, pictures: int, side: int, weights: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_has_weights", lambda backbone: weights)
    pixels = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (pictures, side, side, 3))
    dataset = Dataset(
        name,
        ("a", "b"),
        {"train": Items([""] * pictures, np.zeros(pictures, np.int64), pixels=pixels)},
        published,
        "",
        "",
    )
    recipe, reason = opening.choose_recipe(dataset)
    assert recipe == chosen
    assert reason


def test_names_stay_names_and_paths_mean_the_same_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert opening.lasting_name("cifar10") == "cifar10"
    assert opening.lasting_name(Path("cifar10")) == str(tmp_path / "cifar10")
    assert opening.lasting_name("pictures/") == str(tmp_path / "pictures")
    if sys.platform != "win32":
        assert opening.lasting_name("~/x.csv") == str(tmp_path / "home" / "x.csv")


def test_a_run_holds_everything(trained: Run) -> None:
    names = {path.name for path in trained.path.iterdir()} - {".lock"}
    assert names == {
        "config.toml", "provenance.json", "split.json", "checkpoints", "bundle", "history.jsonl", "log.txt",
        "metrics.json", "predictions.npz", "report.html", "trained_on.bin",
    }  # fmt: skip
    assert set(trained.metrics) == {
        "train", "val", "test", "train_seconds", "epochs", "stopped", "best_epoch", "test_reads",
            "calibration", "unknown",
    }  # fmt: skip
    assert {"data", "seed", "started", "finished", "dataset_fingerprint", "split_hash", "device"} <= set(
        trained.provenance
    )
    log = (trained.path / "log.txt").read_text()
    said = (
        "pictures: class folders, 3 classes",
        "48 train, 6 val, 6 test; 12 x 12 px, RGB",
        "spot: ",
        "training pictures: ",
        "epoch   1",
    )
    places = [log.index(words) for words in said]
    assert places == sorted(places)
    assert "packed" not in log, "packing sixty pictures is no news"


def test_an_interrupted_run_goes_on_and_keeps_what_it_was_started_with(
    pictures: Path, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    with pytest.raises(Interrupted) as caught:
        eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run", observer=Listener(stop_after=4))
    assert isinstance(caught.value, KeyboardInterrupt)
    assert not Run.open(tmp_path / "run").finished
    with pytest.raises(UsageError, match="a resumed run keeps its data, recipe and settings"):
        eyespot.train(out=tmp_path / "run", resume=True, settings=["training.epochs=3"])
    with pytest.raises(UsageError, match="a resumed run keeps its data"):
        eyespot.train("digits", out=tmp_path / "run", resume=True)
    others = draw_pictures(tmp_path / "others", ("cat", "dog", "eel"), 20, seed=5)
    with pytest.raises(DataError, match="are not those that the run divided"):
        eyespot.train(others, out=tmp_path / "run", resume=True)
    assert Run.open(tmp_path / "run").provenance["data"] == str(pictures)
    with pytest.raises(RunError, match="the run has no model yet"):
        eyespot.load(tmp_path / "run")
    begun_by = Run.open(tmp_path / "run").provenance["command"]
    monkeypatch.setattr("sys.argv", ["eyespot", "train", "--resume"])
    monkeypatch.chdir(tmp_path)
    run = eyespot.train(os.path.relpath(pictures), out="run", resume=True, observer=listener)
    assert run.provenance["command"] == begun_by
    assert "resumed after step 4 (epoch 2 of 2)" in listener.messages
    assert run.metrics["test"]["nll_loss"] == trained.metrics["test"]["nll_loss"]
    again = Listener()
    assert eyespot.train(out="run", resume=True, observer=again) == run
    assert again.messages == ["this run is finished: nothing to resume"]


@pytest.mark.parametrize("gone", [("report.html",), ("bundle",), ("predictions.npz", "metrics.json")])
def test_what_is_gone_from_a_finished_run_is_written_again(gone: tuple[str, ...], trained: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(trained.path, tmp_path / "run")))
    for name in gone:
        path = run.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    listener = Listener()
    eyespot.train(out=run.path, resume=True, observer=listener)
    assert f"from its last checkpoint: {gone[0]}" in listener.messages[0]
    assert run.missing == []
    for name in ("bundle/weights.safetensors", "predictions.npz", "history.jsonl"):
        assert (run.path / name).read_bytes() == (trained.path / name).read_bytes()
    assert run.metrics["test"]["nll_loss"] == trained.metrics["test"]["nll_loss"]


def test_a_finished_run_without_a_checkpoint_is_not_trained_again(trained: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(trained.path, tmp_path / "run")))
    shutil.rmtree(run.path / "checkpoints")
    run.report.unlink()
    with pytest.raises(RunError, match=r"report\.html of the finished run is missing, and there is no checkpoint"):
        eyespot.train(out=run.path, resume=True)


def test_data_that_moved_are_found_by_their_content(pictures: Path, trained: Run, tmp_path: Path) -> None:
    old, new = tmp_path / "old drive", tmp_path / "new drive"
    shutil.copytree(pictures, old)
    with pytest.raises(Interrupted):
        eyespot.train(old, recipe="small", settings=TINY, out=tmp_path / "run", observer=Listener(stop_after=4))
    old.rename(new)
    with pytest.raises(DataError, match=r"the pictures of the run are not there any more.*name their new place"):
        eyespot.train(out=tmp_path / "run", resume=True)
    run = eyespot.train(new, out=tmp_path / "run", resume=True)
    assert run.metrics["test"]["nll_loss"] == trained.metrics["test"]["nll_loss"]
    assert run.provenance["data"] == str(new)
    known = eyespot.evaluate(run.path, split="val")
    assert known.metrics["nll_loss"] == pytest.approx(run.metrics["val"]["nll_loss"], rel=1e-5), "in float32, too"
    new.rename(old)
    with pytest.raises(DataError, match="the pictures of the run are not there any more"):
        eyespot.evaluate(run.path)
    listener = Listener()
    found = eyespot.evaluate(run.path, old, split="val", observer=listener)
    assert found.metrics["n"] == run.metrics["val"]["n"]
    assert found.metrics["nll_loss"] == known.metrics["nll_loss"]
    assert any("holds the run's own pictures" in message for message in listener.messages)


def test_a_resumed_run_says_what_is_not_as_it_was(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run", observer=Listener(stop_after=4))
    begun = Run.open(tmp_path / "run").provenance
    real = starting.environment

    def other() -> dict[str, Any]:
        found = real()
        return {**found, "versions": {**found["versions"], "torch": "9.9"}}

    monkeypatch.setattr(starting, "environment", other)
    listener = Listener()
    run = eyespot.train(out=tmp_path / "run", resume=True, observer=listener)
    told = [message for message in listener.messages if message.startswith("resumed, but not as it was begun")]
    before = begun["versions"]["torch"]
    assert told == [
        f"resumed, but not as it was begun: versions torch 9.9, before {before}; the result can differ from that of an "
        "uninterrupted run"
    ]
    assert run.provenance["versions"] == begun["versions"]
    assert run.provenance["resumed"][0]["versions"]["torch"] == "9.9"


def test_a_run_names_its_gpu_and_says_when_it_goes_on_with_another(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "gpu_name", lambda device: "NVIDIA H200, 151 GB")
    with pytest.raises(Interrupted):
        eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run", observer=Listener(stop_after=4))
    monkeypatch.setattr(starting, "gpu_name", lambda device: "NVIDIA T4, 16 GB")
    listener = Listener()
    run = eyespot.train(out=tmp_path / "run", resume=True, observer=listener)
    assert any("gpu NVIDIA T4, 16 GB, before NVIDIA H200, 151 GB" in message for message in listener.messages)
    assert run.provenance["gpu"] == "NVIDIA H200, 151 GB"
    assert "NVIDIA H200" in report_of(run)


def test_a_recipe_takes_fewer_threads_and_gives_the_others_back(pictures: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = []
        for threads in (0, 1, 9):
            settings = {**TINY, "training.threads": threads}
            run = eyespot.train(pictures, recipe="small", settings=settings, out=tmp_path / str(threads))
            found.append((run.provenance["threads"], torch.get_num_threads()))
    finally:
        torch.set_num_threads(before)
    assert found == [(2, 2), (1, 2), (2, 2)]


def test_a_run_goes_on_where_it_was_begun_or_says_that_it_cannot(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run", observer=Listener(stop_after=4))
    path = tmp_path / "run" / "provenance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "device": "cuda:77"}))
    with pytest.raises(UsageError, match="the run was begun on cuda:77, which is not there"):
        eyespot.train(out=tmp_path / "run", resume=True)
    listener = Listener()
    assert eyespot.train(out=tmp_path / "run", resume=True, device="cpu", observer=listener).finished
    assert any("device cpu, before cuda:77" in message for message in listener.messages)


def test_a_run_goes_on_in_the_precision_in_which_it_was_begun(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = {**TINY, "training.precision": "auto"}
    with pytest.raises(Interrupted):
        eyespot.train(pictures, recipe="small", settings=auto, out=tmp_path / "run", observer=Listener(stop_after=4))
    begun = Run.open(tmp_path / "run").provenance["precision"]
    other = "bf16" if begun == "float32" else "float32"
    monkeypatch.setattr(starting, "plan_compute", lambda *_: ComputePlan("cpu", other, "measured anew"))
    listener = Listener()
    assert eyespot.train(out=tmp_path / "run", resume=True, observer=listener).finished
    assert any(f"cpu, {begun} (as it was begun)" in message for message in listener.messages)
    assert not any("not as it was begun" in message for message in listener.messages)


def test_stopped_before_the_first_picture_was_packed_a_run_can_be_resumed(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any, **keywords: Any) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(starting, "pack_data", stop)
        with pytest.raises(Interrupted):
            eyespot.train(pictures, recipe="small", settings=TINY)
    assert eyespot.train(resume=True).finished
    with pytest.raises(RunError, match="no unfinished run"):
        eyespot.train(resume=True)


def test_stopped_while_it_is_measured_a_run_is_measured_again_and_every_look_at_test_counts(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any, **keywords: Any) -> None:
        raise Interrupted(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(finishing, "_write_report", stop)
        with pytest.raises(Interrupted):
            eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run")
    listener = Listener()
    run = eyespot.train(out=tmp_path / "run", resume=True, observer=listener)
    assert "training was complete; measuring again" in listener.messages
    assert run.metrics["test_reads"] == 2
    assert "2 times" in report_of(run)


def test_a_look_at_test_counts_before_it_is_taken(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise MemoryLimitError("no memory left")

    with monkeypatch.context() as patched:
        patched.setattr("eyespot.evaluation.bundle.save_bundle", fail)  # before metrics.json is written
        with pytest.raises(MemoryLimitError):
            eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        path.unlink()  # as a head in closed form, which needs none
    assert Run.open(tmp_path / "run").provenance["test_reads"] == 1
    run = eyespot.train(out=tmp_path / "run", resume=True)
    assert run.metrics["test_reads"] == 2


def test_a_full_disk_loses_nothing(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def fail(source: Any, target: Any) -> None:
        if str(target).endswith(".ckpt"):
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("eyespot.files.os.replace", fail)
        with pytest.raises(RunError, match=r"the disk is full.*\.ckpt: free some space"):
            eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.tmp"))
    run = eyespot.train(out=tmp_path / "run", resume=True)
    assert [row["epoch"] for row in run.history] == [1, 2]


def test_resumed_on_other_pictures_than_before_it_is_refused(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(shutil.copytree(pictures, tmp_path / "data"))
    with pytest.raises(Interrupted):
        eyespot.train(data, recipe="small", settings=TINY, out=tmp_path / "run", observer=Listener(stop_after=1))
    Image.new("RGB", (12, 12), (200, 1, 2)).save(data / "cat" / "000.png")
    with pytest.raises(
        DataError, match=r"fingerprint .*split\.json: bring back the data as they were, or start a new run"
    ):
        eyespot.train(out=tmp_path / "run", resume=True)
    assert list((tmp_path / "run" / "checkpoints").glob("*.ckpt")), "what was trained stays"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: you tried to allocate")])
def test_no_memory_names_the_batch_size_to_try_and_leaves_the_folder_free(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise error

    monkeypatch.setattr("eyespot.training.prepare.prepare_training", fail)
    with pytest.raises(MemoryLimitError, match=r"batch size 16: try --set training\.batch_size=8"):
        eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_errors_while_training_are_not_hidden(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("eyespot.training.prepare.prepare_training", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run")


def test_files_of_others_survive_a_start_that_fails(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    broken = Path(shutil.copytree(pictures, tmp_path / "broken"))
    (broken / "cat" / "zz.png").write_bytes(b"")
    with pytest.raises(DataError):
        eyespot.train(broken, recipe="small", settings=TINY, out=tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    assert eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run").finished


def test_a_run_that_never_knew_its_data_says_so(trained: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(trained.path / "config.toml", tmp_path / "run")
    with pytest.raises(RunError, match=r"the run ended before it knew its data.*give the command that began it again"):
        eyespot.train(out=tmp_path / "run", resume=True)


def test_a_run_that_lost_its_provenance_is_not_sent_in_a_circle(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run", observer=Listener(stop_after=1))
    (tmp_path / "run" / "provenance.json").unlink()
    with pytest.raises(RunError, match=r"no provenance\.json .*: restore the file, or train again in another folder"):
        eyespot.train(out=tmp_path / "run", resume=True)


def test_damaged_checkpoints_are_refused(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run", observer=Listener(stop_after=1))
    for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="all checkpoints are damaged"):
        eyespot.train(out=tmp_path / "run", resume=True)


# ------------------------------------------------------------------------------------------- the report of every kind


def test_of_many_training_pictures_a_sample_is_measured(
    pictures: Path, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "TRAIN_SAMPLE", 10)
    run = eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run")
    whole = trained.metrics["train"]["n"]
    train = run.metrics["train"]
    assert (train["n"], train["drawn_from"]) == (10, whole)
    assert sum(map(sum, train["confusion"])) == 10
    kept = read_predictions(run.path / "predictions.npz")
    assert len(kept["train"].ids) == len(set(kept["train"].ids)) == 10
    assert set(kept["train"].ids) < set(read_predictions(trained.path / "predictions.npz")["train"].ids)
    assert f"10 of {whole}" in report_of(run)
    assert f"| train | 10 of {whole} |" in (run.path / BUNDLE / "README.md").read_text(encoding="utf-8")
    for split in ("val", "test"):
        assert run.metrics[split]["confusion"] == trained.metrics[split]["confusion"]


def test_a_final_run_has_no_val_figures_and_says_so(pictures: Path, tmp_path: Path) -> None:
    run = eyespot.train(pictures, recipe="small", settings={**TINY, "data.final": True}, out=tmp_path / "run")
    assert set(run.metrics) & {"train", "val", "test"} == {"train", "test"}
    assert run.metrics["train"]["n"] == 54
    assert not any("val/loss" in row for row in run.history)
    assert "there are no val figures" in report_of(run)


def test_without_test_the_report_speaks_of_val(pictures: Path, tmp_path: Path) -> None:
    run = eyespot.train(pictures, recipe="small", settings={**TINY, "data.test_fraction": 0.0}, out=tmp_path / "run")
    assert "test" not in run.metrics
    assert run.metrics["test_reads"] == 0
    assert "Test has not been read" in report_of(run)
    assert " on val (n = 6" in summary_line(run.metrics)
    with pytest.raises(DataError, match="no test split in pictures: there is train, val"):
        eyespot.evaluate(run.path)


def test_without_val_and_test_only_train_is_measured(pictures: Path, tmp_path: Path) -> None:
    settings = {**TINY, "data.test_fraction": 0.0, "data.val_fraction": 0.0}
    run = eyespot.train(pictures, recipe="small", settings=settings, out=tmp_path / "run")
    assert "says nothing about new ones" in report_of(run)


def test_skipped_files_are_counted_in_the_report(pictures: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(pictures, tmp_path / "broken"))
    (broken / "dog" / "zz.png").write_text("no picture")
    run = eyespot.train(broken, recipe="small", settings={**TINY, "data.on_bad_image": "skip"}, out=tmp_path / "run")
    assert "1 file was left out" in report_of(run)
    assert "dog/zz.png" in report_of(run)
    assert (broken / "dog" / "zz.png").read_text() == "no picture"


def test_an_allowed_leak_is_in_the_report_of_two_classes(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "data" / "train", ("cat", "dog"), 12)
    draw_pictures(tmp_path / "data" / "test", ("cat", "dog"), 6, seed=1)
    shutil.copy(tmp_path / "data" / "train" / "cat" / "000.png", tmp_path / "data" / "test" / "cat" / "zz.png")
    with pytest.raises(LeakError, match="1 of the 13 test pictures is also in train"):
        eyespot.train(tmp_path / "data", recipe="small", settings=TINY, out=tmp_path / "run")
    run = eyespot.train(
        tmp_path / "data", recipe="small", settings={**TINY, "data.allow_leak": True}, out=tmp_path / "run"
    )
    assert "--allow-leak" in report_of(run)
    listener = Listener()
    result = eyespot.evaluate(run.path, tmp_path / "data", observer=listener)
    assert result.metrics["n"] == 13
    assert run.metrics["test_reads"] == result.metrics["test_reads"] == 2, "the run's own test split, named by its path"
    assert any(message.startswith("note: Test was read 2 times.") for message in listener.messages)
    assert result.metrics["also_in_train"] == eyespot.evaluate(run.path).metrics["also_in_train"] == 1
    shipped = eyespot.load(run.path).info.metrics
    assert shipped["test"].flaw == "leaked, 1 of 13 also in train or val"
    assert shipped["train"].flaw == ""
    assert "also_in_train" not in eyespot.evaluate(run.path, split="val").metrics


def test_more_than_a_hundred_classes_with_odd_names(tmp_path: Path) -> None:
    names = tuple(f"class {number:03} <b>&é" for number in range(104))
    draw_pictures(tmp_path / "many [x] é", names, 3, size=8)
    run = eyespot.train(tmp_path / "many [x] é", recipe="small", settings=TINY, out=tmp_path / "run")
    assert run.metrics["test"]["n"] == 104
    assert "class 000 &lt;b&gt;&amp;é" in report_of(run)
    assert "<b>&" not in report_of(run)


# ------------------------------------------------------------------------------------------------------------ evaluate


def test_a_read_only_run_is_measured_and_says_that_the_reading_is_not_counted(
    trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, value: Any) -> None:
        raise RunError("cannot write (read-only)", where=path)

    monkeypatch.setattr("eyespot.files.write_json", fail)
    listener = Listener()
    assert eyespot.evaluate(trained.path, observer=listener).metrics["n"] == 6
    assert any("this reading of test is not counted: cannot write" in text for text in listener.messages)


def test_a_run_without_metrics_says_that_the_reading_is_not_counted(trained: Run, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained.path, tmp_path / "run"))
    (run / "metrics.json").unlink()
    listener = Listener()
    eyespot.evaluate(run, observer=listener)
    assert any("this reading of test is not counted: there is no metrics.json" in text for text in listener.messages)


def test_a_bundle_says_that_a_reading_of_its_runs_test_is_not_counted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split, count in (("train", 12), ("test", 6)):
        draw_pictures(data / split, ("cat", "dog", "eel"), count, seed=count)
    run = eyespot.train(data, recipe="small", settings=TINY, out=tmp_path / "run")
    for model in (run.path / "bundle", eyespot.load(run.path)):
        listener = Listener()
        eyespot.evaluate(model, data, observer=listener)
        assert any("not counted: a model does not know its run" in text for text in listener.messages)
        assert run.metrics["test_reads"] == 1


def test_readings_at_the_same_time_are_all_counted(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(Path(shutil.copytree(trained.path, tmp_path / "run")))
    before, real = run.metrics["test_reads"], files.write_json

    def slowly(path: Path, value: Any) -> None:
        time.sleep(0.05)
        real(path, value)

    monkeypatch.setattr("eyespot.files.write_json", slowly)
    threads = [threading.Thread(target=evaluating._count_test_read, args=(run, Listener())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run.metrics["test_reads"] == before + 4


def test_a_run_whose_data_are_not_known_asks_for_them(trained: Run, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained.path, tmp_path / "run"))
    (run / "provenance.json").write_text("{}")
    with pytest.raises(RunError, match="the run does not say its data"):
        eyespot.evaluate(run)


def test_bad_pictures_of_other_data_are_refused_or_left_out(trained: Run, tmp_path: Path) -> None:
    draw_pictures(tmp_path / "more", ("cat", "eel"), 3, seed=5)
    (tmp_path / "more" / "cat" / "zz.png").write_text("no picture")
    with pytest.raises(DataError, match="1 of 7 pictures cannot be used"):
        eyespot.evaluate(trained.path, tmp_path / "more")
    listener = Listener()
    result = eyespot.evaluate(trained.path, tmp_path / "more", on_bad_image="skip", observer=listener)
    assert result.metrics["n"] == 6
    assert any("1 of 7 pictures cannot be used" in text for text in listener.messages)
    assert any("all of its pictures are measured as test" in text for text in listener.messages)


# ----------------------------------------------------------------------------------------------------------- the data


def test_what_does_not_fit_is_said_before_the_work_and_streamed(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    packed = data_verbs.pack(
        pictures, settings={"data.memory_limit_gb": 1e-6, "input.size_px": 24, "model.name": "spot"}, observer=listener
    )
    assert all(split.pixels is None for split in packed.splits.values())
    assert listener.messages[0].startswith("24 px, as asked for; channels 3")
    assert "60 pictures of 24 x 24 x 3 take 0.1 MB, more than the memory limit" in listener.messages[0]


def test_only_what_is_streamed_is_said_to_be_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 4, seed=9)
    settings = {"data.memory_limit_gb": 1.0}
    data_verbs.pack(data, settings=settings, observer=Listener())
    monkeypatch.setattr("eyespot.data.pack_spec._free_disk_bytes", lambda folder: 10)
    packed, streamed = Listener(), Listener()
    found = data_verbs.pack(data, settings=settings, observer=packed)
    assert all(split.pixels is not None for split in found.splits.values())
    assert packed.messages == []
    for _ in range(2):  # scanned, then found in the cache
        found = data_verbs.pack(data, settings={**settings, "input.size_px": 8}, observer=streamed)
        assert all(split.pixels is None for split in found.splits.values())
    assert len(streamed.messages) == 2
    assert all("nine tenths of the free space" in message for message in streamed.messages)


def test_packing_says_the_size_once(tmp_path: Path) -> None:
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 4, seed=8)
    first, second = Listener(), Listener()
    data_verbs.pack(data, observer=first)
    data_verbs.pack(data, observer=second)
    assert len(first.messages) <= 1
    assert second.messages == []


def test_check_tells_what_is_odd_although_nothing_has_to_be_decided(tmp_path: Path) -> None:
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 20)
    for index in range(4, 20):
        (data / "dog" / f"{index:03}.png").unlink()
    shutil.copy(data / "cat" / "000.png", data / "cat" / "copy.png")
    card, decisions = eyespot.check(data)
    assert decisions == []
    told = " ".join(card["notes"])
    assert "exact copy" in told
    assert "imbalanced" in told
    assert "no test split" in told


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_clearing_the_cache_deletes_what_eyespot_made_and_nothing_else(
    cache: Path, pictures: Path, tmp_path: Path
) -> None:
    packed_pictures = data_verbs.pack(pictures)
    no_pairs = find_near_pairs(np.zeros((0, 32, 32), np.uint8), np.zeros(0, np.int64))
    save_near_pairs(packed_pictures, no_pairs)
    (near,) = (cache / "checks").iterdir()
    near.with_name(f".{near.name}.1-0123abcd.tmp").touch()  # of a process that was killed
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", pictures)
    open_dataset(archive)
    mine = [
        cache / "packed" / "my notes.txt",
        cache / "unpacked" / "photos" / "cat.png",
        cache / "downloads" / "Thesis.pdf",
        cache / "other" / "x-0123456789abcdef.lock",
    ]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    downloaded = cache / "downloads" / "cifar-10-python.tar.gz.part"
    downloaded.write_bytes(b"0" * 1000)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    if sys.platform != "win32":
        (cache / "packed" / "linked-0123456789abcdef").symlink_to(outside)

    before = {room.name: room for room in data_verbs.look_at_cache()}
    assert set(before) == {"downloads", "unpacked", "packed", "features", "checks", "exports"}
    assert (before["downloads"].files, before["downloads"].bytes) == (1, 1000)
    assert before["packed"].files >= 3
    assert before["checks"].files == 2
    assert before["unpacked"].files >= 60
    assert downloaded.exists()

    (packed,) = data_verbs.look_at_cache(["packed"], clear=True)
    assert "my notes.txt" in packed.kept
    assert downloaded.exists()
    kept = {room.name: room.kept for room in data_verbs.look_at_cache(clear=True)}
    assert kept["checks"] == ()
    assert not list((cache / "checks").iterdir())
    assert all(room.files == 0 for room in data_verbs.look_at_cache())
    assert all(path.read_text() == "mine" for path in mine)
    assert (outside / "kept").exists()
    with pytest.raises(UsageError, match=r"unknown room 'paked' of the cache\. Did you mean 'packed'\?"):
        data_verbs.look_at_cache(["paked"])


def test_what_a_process_is_making_is_not_deleted(cache: Path, pictures: Path) -> None:
    data_verbs.pack(pictures)
    (entry,) = [path for path in (cache / "packed").iterdir() if path.is_dir()]
    with file_lock(entry.with_name(f"{entry.name}.lock")):
        (room,) = data_verbs.look_at_cache(["packed"], clear=True)
    assert room.kept == (entry.name,)
    assert entry.exists()
    (room,) = data_verbs.look_at_cache(["packed"], clear=True)
    assert room.kept == ()
    assert not list(cache_folder("packed").iterdir())


def test_a_cache_that_cannot_be_deleted_says_so(cache: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    data_verbs.pack(pictures)
    monkeypatch.setattr("eyespot.data_verbs.shutil.rmtree", fail)
    with pytest.raises(DataError, match=r"cannot delete \(Permission denied\) in .*packed"):
        data_verbs.look_at_cache(clear=True)


def test_a_grid_of_every_kind(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_verbs.show(pictures) == tmp_path / "pictures-train.png"
    for kind in ("random", "first"):
        path = data_verbs.show(pictures, kind=kind, count=7, out=f"{kind}.html")
        assert path.read_text().count("<img") == 7
    one = data_verbs.show(pictures, kind="random", count=7, seed=1, out="a.html").read_bytes()
    assert one == data_verbs.show(pictures, kind="random", count=7, seed=1, out="b.html").read_bytes()
    assert one != data_verbs.show(pictures, kind="random", count=7, seed=2, out="c.html").read_bytes()


def test_a_grid_of_what_a_recipe_makes_of_the_pictures(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = {"augment.rotate_degrees": 90}
    grid = data_verbs.show(pictures, recipe="small", settings=turned, out=tmp_path / "a.html", observer=Terminal())
    assert grid.read_text().count("<img") == 3 * 8  # one of each class, as it is and seven times
    assert "rotated by up to 90 degrees" in capsys.readouterr().err
    again = data_verbs.show(pictures, recipe="small", settings=turned, out=tmp_path / "b.html")
    assert again.read_bytes() == grid.read_bytes()
    for words, reason in (
        ({"recipe": "small", "split": "val"}, "only train is augmented"),
        ({"settings": turned}, "name the recipe"),
        ({"recipe": "smal"}, "unknown recipe"),
        ({"recipe": "small", "settings": {"augment.rotate": 3}}, "rotate_degrees"),
    ):
        with pytest.raises(UsageError, match=reason):
            data_verbs.show(pictures, **words, out=tmp_path / "c.html")  # type: ignore[arg-type]


def test_a_bundle_alone_can_be_measured(trained: Run, tmp_path: Path) -> None:
    bundle = shutil.copytree(trained.path / "bundle", tmp_path / "bundle")
    data = draw_pictures(tmp_path / "more", ("cat", "eel"), 3, seed=5)
    assert eyespot.evaluate(bundle, data).metrics["n"] == 6
    info = json.loads((tmp_path / "bundle" / "model.json").read_text())
    assert info["metrics"]["test"]["top1"] == trained.metrics["test"]["top1"]
    assert dataclasses.is_dataclass(eyespot.load(bundle))


# ---------------------------------------------------------------------------------------------- what it was trained on


def test_pictures_that_it_was_trained_on_are_left_out_of_a_test(pictures: Path, trained: Run, tmp_path: Path) -> None:
    more = tmp_path / "more"
    shutil.copytree(pictures, more)
    rng = np.random.default_rng(7)
    folder = sorted(path for path in more.iterdir() if path.is_dir())[0]
    Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(folder / "new.png")
    listener = Listener()
    found = eyespot.evaluate(trained.path, more, observer=listener)
    # 60 pictures, 54 of them in train and val; the new one and the six of test are left.
    assert found.metrics["n"] == 7
    assert any("54 pictures on which the run was trained or selected are left out" in m for m in listener.messages)
    copy = tmp_path / "run"
    shutil.copytree(trained.path, copy)
    record = copy / "trained_on.bin"
    for content in (b"", b"abc", record.read_bytes()[::-1]):
        record.write_bytes(content)
        with pytest.raises(RunError, match=r"trained_on\.bin: restore the file, or train again"):
            eyespot.evaluate(copy, more)
    record.unlink()
    assert eyespot.evaluate(copy, more, observer=listener).metrics["n"] == 61
    assert any("run has no trained_on.bin: pictures that it was trained" in m for m in listener.messages)
    (copy / "split.json").unlink()
    with pytest.raises(UsageError, match=r"split\.json is missing in .*run: name data with --data"):
        eyespot.evaluate(copy)
    test = set(json.loads((trained.path / "split.json").read_text())["splits"]["test"]["train"])
    own = open_dataset(pictures)
    for index, id_ in enumerate(own.splits["train"].ids):
        if index in test:
            (more / id_).unlink()
    (folder / "new.png").unlink()
    with pytest.raises(DataError, match="the model was trained on most of these pictures"):
        eyespot.evaluate(trained.path, more)


def test_a_folder_that_is_half_deleted_is_not_taken_for_whole(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_pictures(tmp_path / "photos", ("a", "b"), 10)
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path / "photos"))
    eyespot.check(archive)
    real = shutil.rmtree

    def stop(path: Any, *args: Any, **options: Any) -> None:
        next(Path(path).rglob("*.png")).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", stop)
    with pytest.raises(KeyboardInterrupt):
        data_verbs.look_at_cache(["unpacked"], clear=True)
    monkeypatch.setattr(shutil, "rmtree", real)
    card, _ = eyespot.check(archive)
    assert sum(card["counts"]["train"].values()) == 20

from __future__ import annotations

import copy
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eyespot
from eyespot.errors import DataError, UsageError
from eyespot.studies.points import Limits
from eyespot.sweeps.sweep import _checked
from eyespot.terminal import Terminal

from .conftest import TINY


def test_the_way_of_the_readme(pictures: Path, trained: eyespot.Run) -> None:
    assert trained.metrics["test"]["n"] == 6
    assert trained.report.exists()
    predictor = eyespot.load(trained.path)
    answers = predictor.predict([pictures / "cat" / "000.png", Image.new("RGB", (40, 30))])
    assert [type(answer) for answer in answers] == [eyespot.Prediction] * 2
    assert answers[0].label in ("cat", "dog", "eel")
    result = eyespot.evaluate(predictor, pictures, split="train")
    assert isinstance(result, eyespot.Evaluation)
    assert result.logits.shape == (60, 3)
    assert result.metrics["n"] == 60


def test_paths_may_be_text_or_path_and_settings_a_mapping_a_list_or_one_text(pictures: Path, tmp_path: Path) -> None:
    text = 'model.args={"widths"=[4,6,8]}'
    one = eyespot.train(str(pictures), recipe="small", settings=[text, "training.epochs=1"], out=str(tmp_path / "one"))
    two = eyespot.train(
        pictures,
        recipe="small",
        settings={"model.args": {"widths": [4, 6, 8]}, "training.epochs": 1},
        out=tmp_path / "2",
    )
    assert one.config == two.config
    with pytest.raises(UsageError, match=r"training\.epochs is 0"):
        eyespot.train(pictures, settings="training.epochs=0")


def test_it_says_nothing_and_logs_everything(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run")
    assert capsys.readouterr() == ("", "")
    log = (run.path / "log.txt").read_text()
    assert "epoch   2" in log


def test_twice_in_one_process_and_in_a_thread_it_gives_the_same(
    trained: eyespot.Run, pictures: Path, tmp_path: Path
) -> None:
    runs: list[eyespot.Run] = []

    def work() -> None:
        runs.append(eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "thread"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    figures = [
        {split: run.metrics[split]["nll_loss"] for split in ("train", "val", "test")} for run in (trained, *runs)
    ]
    assert len(figures) == 2
    assert figures[0] == figures[1]


def test_gradients_may_be_switched_off_and_the_callers_random_numbers_stay_theirs(
    trained: eyespot.Run, pictures: Path, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    for name, off in (("none", torch.no_grad), ("inference", torch.inference_mode)):
        with off():
            run = eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / name)
            assert not torch.is_grad_enabled()
        assert run.metrics["val"]["nll_loss"] == trained.metrics["val"]["nll_loss"]
    assert torch.equal(torch.get_rng_state(), before)


def test_trainings_in_threads_take_turns_and_give_what_they_give_alone(
    trained: eyespot.Run, pictures: Path, tmp_path: Path
) -> None:
    found: dict[int, eyespot.Run] = {}
    waits = threading.Event()

    def work(seed: int, observer: Terminal) -> None:
        settings = {**TINY, "training.seed": seed}
        out = tmp_path / str(seed)
        found[seed] = eyespot.train(pictures, recipe="small", settings=settings, out=out, observer=observer)

    class Second(Terminal):
        def on_message(self, text: str) -> None:
            if "waiting for another training in this process" in text:
                waits.set()

    class First(Terminal):
        def on_epoch(self, row: dict[str, Any]) -> None:
            if row["epoch"] == 1:
                other.start()
                assert waits.wait(60)

    other = threading.Thread(target=work, args=(1, Second(quiet=True)))
    work(0, First(quiet=True))
    other.join()
    losses = [found[seed].metrics["val"]["nll_loss"] for seed in (0, 1)]
    assert losses[0] == trained.metrics["val"]["nll_loss"]
    assert losses[1] != losses[0]


def test_a_model_that_was_loaded_without_gradients_can_be_explained(trained: eyespot.Run) -> None:
    with torch.inference_mode():
        predictor = eyespot.load(trained)
    (answer,) = eyespot.explain(predictor, [np.full((24, 24, 3), 90, np.uint8)])
    assert set(answer.heat) == {"gradcam"}


def test_predictors_measure_other_data_and_need_some(trained: eyespot.Run, pictures: Path, tmp_path: Path) -> None:
    predictor = eyespot.load(trained.path / "bundle")
    with pytest.raises(UsageError, match=r"a bundle has no data of its own: name data with --data"):
        eyespot.evaluate(predictor)
    (tmp_path / "more" / "eel").mkdir(parents=True)
    (tmp_path / "more" / "cat").mkdir()
    for name in ("eel", "cat"):
        for index in range(3):
            shutil.copy(pictures / name / f"{index:03}.png", tmp_path / "more" / name)
    whole = eyespot.evaluate(predictor, tmp_path / "more")
    own = eyespot.load(trained.path).predict_probs(sorted((tmp_path / "more").rglob("*.png")))
    assert whole.metrics["n"] == 6
    # The data's classes are two of three, and stand at other places in the model.
    assert whole.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert np.array_equal(whole.preds, own.argmax(1))
    assert trained.metrics["test_reads"] == 1
    with pytest.raises(DataError, match="the model was trained on most of these pictures"):
        eyespot.evaluate(predictor, pictures)


def test_check_returns_the_card_and_what_must_be_decided(pictures: Path) -> None:
    card, decisions = eyespot.check(pictures)
    assert card["counts"] == {"train": {"cat": 20, "dog": 20, "eel": 20}}
    assert decisions == []
    assert any("no test split" in note for note in card["notes"])


def test_an_observer_is_told_everything(pictures: Path, tmp_path: Path) -> None:
    class Watcher:
        def __init__(self) -> None:
            self.told: dict[str, int] = {}

        def count(self, name: str) -> None:
            self.told[name] = self.told.get(name, 0) + 1

        def on_message(self, text: str) -> None:
            self.count("message")

        def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
            self.count(label)

        def on_step(self, state: Any, *, loss: float | None, top1: float | None) -> None:
            self.count("step")

        def on_epoch(self, row: dict[str, Any]) -> None:
            self.count("epoch")

        def attach(self, writer: Any) -> None:
            self.count("attach")

    watcher = Watcher()
    eyespot.train(
        pictures,
        recipe="small",
        settings={**TINY, "evaluation.batch_size": 100},
        out=tmp_path / "run",
        observer=watcher,
    )
    assert watcher.told["step"] == 6
    assert watcher.told["epoch"] == 2
    assert watcher.told["attach"] == watcher.told["measuring test"] == 1
    assert watcher.told["message"] > 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"data": np.zeros((4, 8, 8, 3), np.uint8)},
            "data are of type ndarray in DATA: give a name or a path; of arrays",
        ),
        ({"data": b"photos"}, "data are of type bytes"),
        ({"recipe": {"training": {"epochs": 1}}}, "recipe is of type dict: give a name or a TOML file"),
        ({"settings": None}, "settings are None: give"),
        ({"settings": [1]}, r"settings are \[1\]: give"),
        ({"settings": {1: 2}}, "settings are {1: 2}: give"),
        ({"device": 0}, "unknown device '0': use auto"),
        ({"track": 3}, "unknown --track 3: use tensorboard or mlflow"),
    ],
)
def test_arguments_of_a_wrong_type_are_said_in_words(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        eyespot.train(**{"data": "digits", "out": tmp_path / "run", **arguments})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: eyespot.ablate("small", "digits", without="flip", seeds="5"), "--seeds is '5': give 1 or more"),
        (lambda: eyespot.ablate("small", "digits", without="flip", minutes="5"), "--minutes is '5': give a number"),
        (lambda: eyespot.run_study("dll2018", seeds=1.5), r"--seeds is 1\.5: give 1 or more"),
        (lambda: eyespot.run_study("dll2018", epochs_scale="0.1"), r"--epochs-scale is '0\.1': give a factor"),
        (lambda: eyespot.sweep(options=eyespot.SweepOptions(trials="5")), "trials is '5': use a whole number, 1 or"),
        (lambda: eyespot.sweep(options=eyespot.SweepOptions(at_once=1.5)), r"at_once is 1\.5: use a whole number"),
        (lambda: eyespot.sweep(options=eyespot.SweepOptions(seed=float("nan"))), "seed is nan: use a whole number"),
        (lambda: eyespot.serve("spot-cifar10", port="8000"), "port is '8000': use 1 to 65535"),
    ],
)
def test_what_is_no_number_is_said_in_words(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call()


def test_numbers_of_numpy_are_numbers(trained: eyespot.Run) -> None:
    predictor = eyespot.load(trained)
    pictures = [np.full((4, 4, 3), 90, np.uint8)] * 201
    assert len(predictor.predict(pictures, batch_size=np.uint8(100), top_k=np.int64(1))) == 201  # 200 + 100 > 255
    plan = _checked(eyespot.SweepOptions(trials=np.int64(2), minutes=np.float32(0.5), seed=np.int64(0)))
    assert json.dumps([plan.trials, plan.minutes, plan.seed]) == "[2, 0.5, 0]"
    limits = Limits(minutes=np.int64(3), epochs_scale=np.float32(0.5))
    assert json.dumps([limits.minutes, limits.epochs_scale]) == "[3.0, 0.5]"


@pytest.mark.parametrize(
    "call",
    [
        lambda: eyespot.train("digits", out=""),
        lambda: eyespot.export("spot-cifar10", out=""),
        lambda: eyespot.run_study("dll2018", out=""),
        lambda: eyespot.ablate("small", "digits", without=["flip"], out=""),
    ],
    ids=["train", "export", "run_study", "ablate"],
)
def test_an_empty_name_of_a_folder_is_not_the_current_one(
    call: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="out is empty: name a folder, or leave it out"):
        call()
    assert not list(tmp_path.iterdir())


def test_one_word_stands_for_a_list_of_one() -> None:
    with pytest.raises(UsageError, match=r"unknown name or setting 'flap'. Did you mean 'flip'\?"):
        eyespot.ablate("small", "digits", without="flap")
    with pytest.raises(UsageError, match=r"no point 'adamm'. Did you mean 'adam'"):
        eyespot.run_study("dll2018", only="adamm")


@pytest.mark.parametrize(
    "call",
    [
        lambda: eyespot.ablate("small", "digits", without=None),
        lambda: eyespot.ablate("small", "digits", factors=[5]),
        lambda: eyespot.run_study("dll2018", data="digits", changes=5),
        lambda: eyespot.run_study("dll2018", data="digits", only=None),
    ],
)
def test_what_is_no_list_of_words_is_said_in_words(
    call: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="where text or a list of texts is needed: give such a one, or leave it out"):
        call()
    assert not list(tmp_path.iterdir())


def test_the_data_of_a_study_may_be_a_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no such file or folder '{tmp_path / 'cifar10'}'"):
        eyespot.run_study("dll2018", data=tmp_path / "cifar10", only="adam", out=tmp_path / "study")
    with pytest.raises(UsageError, match="no data named"):
        eyespot.run_study("dll2018", data="", only="adam", out=tmp_path / "study")


def test_results_with_arrays_and_predictors_are_themselves_and_can_be_keys(trained: eyespot.Run) -> None:
    predictor, evaluation = eyespot.load(trained), eyespot.evaluate(trained, split="val")
    (explanation,) = eyespot.explain(predictor, [np.full((24, 24, 3), 90, np.uint8)])
    for one in (predictor, evaluation, explanation):
        assert {one: 1}[one] == 1
        assert one != copy.copy(one)


def test_a_list_of_runs_and_a_path_named_like_data_get_the_next_step() -> None:
    with pytest.raises(UsageError, match=r"a list where a run folder is needed: give run folders one by one"):
        eyespot.compare(["runs/a", "runs/b"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a Path is never a name in DATA: give the data set's name as text: 'digits'"):
        eyespot.check(Path("digits"))


def test_what_is_no_trained_model_is_not_called_a_bundle() -> None:
    for call in (eyespot.evaluate, lambda run: eyespot.explain(run, [b""])):
        with pytest.raises(UsageError, match=r"None is no trained model: give a run folder, or what eyespot.load"):
            call(None)
    for call in (eyespot.load, eyespot.export, eyespot.Run.open):
        with pytest.raises(UsageError, match=r"a NoneType where a path is needed: give text or a pathlib.Path"):
            call(None)


def test_a_run_stands_for_its_folder(trained: eyespot.Run) -> None:
    assert eyespot.Run.open(trained) == trained
    assert eyespot.load(trained).class_names == ("cat", "dog", "eel")
    assert eyespot.evaluate(trained, split="val").metrics["n"] == trained.metrics["val"]["n"]
    (answer,) = eyespot.explain(trained, [np.full((24, 24, 3), 90, np.uint8)], neighbours=0)
    assert answer.prediction.label in ("cat", "dog", "eel")
    with pytest.raises(UsageError, match="the same run twice"):
        eyespot.compare(trained, trained)

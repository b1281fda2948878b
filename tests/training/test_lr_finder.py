from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import eyespot
from eyespot.config import Config
from eyespot.data.loaders import Batch
from eyespot.device import ComputePlan
from eyespot.errors import DivergedError, Interrupted, RunError
from eyespot.runs import LR_FINDER, Run, RunWriter
from eyespot.training import lr_finder
from eyespot.training.fit import FitResult, fit
from eyespot.training.lr_finder import RangeTest, choose_rate, resolve_learning_rate, run_range_test, smooth
from eyespot.training.step import TrainData

from .conftest import Watcher, prepare, tiny_config, weights

CPU = ComputePlan("cpu", "float32", "test")
SPOT = {"model__name": "spot", "model__args": {"widths": [4, 6, 8]}}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "sgd-spot": SPOT,
    "adam": {},
    "adamw": {},
    "rmsprop": {"optimizer__momentum": 0.0},
    "muon": {**SPOT, "optimizer__head_lr": 0.67, "optimizer__bias_lr": 0.05, "optimizer__momentum": 0.6},
}


def auto_config(case: str = "adam", **changes: Any) -> Config:
    return tiny_config(
        **{"optimizer__name": case.partition("-")[0], "optimizer__lr": "auto", **OPTIMIZERS[case], **changes}
    )


def search(config: Config, observer: Watcher | None = None) -> RangeTest:
    torch.set_num_threads(1)
    prepared = prepare(config)
    return run_range_test(prepared.model, prepared.data, config, plan=CPU, observer=observer or Watcher())


def train(folder: Path, config: Config, watcher: Watcher | None = None, *, resume: bool = False) -> FitResult:
    """Search and fit in a run folder, as `eyespot.train` does."""
    torch.set_num_threads(1)
    prepared, watcher = prepare(config), watcher or Watcher()
    with RunWriter(folder, config, resume=resume) as writer:
        known = resolve_learning_rate(prepared.model, prepared.data, config, plan=CPU, writer=writer, observer=watcher)
        return fit(prepared.model, prepared.data, known, plan=CPU, writer=writer, observer=watcher)


def a_valley(steps: int = 100, begin: float = 1e-3, end: float = 1e-1) -> RangeTest:
    """A loss of 2 that falls in a straight line to 1 between two rates, then rises to 5."""
    rates = [1e-7 * 10 ** (8 * step / (steps - 1)) for step in range(steps)]
    width = math.log(end / begin)

    def loss(rate: float) -> float:
        place = math.log(rate / begin) / width
        return 2.0 if place < 0 else 2 - place if place < 1 else 1 + 4 * (place - 1)

    losses = [loss(rate) for rate in rates]
    return RangeTest(rates, losses, losses, 2.0, False)


# ---- the choice ----


def test_it_is_the_middle_of_the_valley() -> None:
    choice = choose_rate(a_valley(), "sgd")
    # The valley begins where a fifth of the fall is reached: at 1e-3 * 100 ** 0.2, within a step.
    assert choice.rate == pytest.approx(math.sqrt(1e-3 * 100**0.2 * 1e-1), rel=0.2)
    assert choice.found
    assert choice.lowest == pytest.approx(0.1, rel=0.2)
    assert choice.steepest is not None
    assert 1e-3 < choice.steepest <= 0.1
    assert choice.diverges == pytest.approx(0.1 * 100**0.25, rel=0.3)
    assert choice.reason.startswith("found by the range test of 100 steps (loss falls steepest at 0.0")
    assert choice.reason.endswith(f"diverges from {choice.diverges:.2g})")


def test_where_the_test_began_does_not_matter() -> None:
    whole = a_valley()
    cut = RangeTest(whole.rates[30:], whole.losses[30:], whole.smoothed[30:], whole.untrained, False)
    assert choose_rate(cut, "sgd").rate == choose_rate(whole, "sgd").rate


def test_a_second_lower_valley_behind_a_wall_counts_for_its_end_only() -> None:
    test = a_valley()
    smoothed = list(test.smoothed)
    for step, rate in enumerate(test.rates):
        if rate > 1:
            smoothed[step] = 0.9
    choice = choose_rate(dataclasses.replace(test, smoothed=smoothed), "sgd")
    assert 0.01 < choice.rate < 0.1


@pytest.mark.parametrize(("optimizer", "usual"), [("sgd", 0.01), ("adam", 1e-3), ("muon", 0.1)])
@pytest.mark.parametrize("losses", [[2.0] * 20, [2.0 + step / 100 for step in range(20)], [2.0, 1.999, 2.0], []])
def test_a_loss_that_does_not_fall_gives_a_usual_rate(optimizer: str, usual: float, losses: list[float]) -> None:
    rates = [10.0 ** (step - 7) for step in range(len(losses))]
    choice = choose_rate(RangeTest(rates, losses, losses, 2.0, True), optimizer)
    assert choice.rate == usual
    assert not choice.found
    assert choice.reason == (
        f"a usual one for {optimizer}, because the range test of {len(losses)} steps found no rate at which the loss "
        "falls"
    )


def test_an_end_at_a_loss_that_is_no_number_counts_as_divergence() -> None:
    whole = a_valley()
    end = next(step for step, rate in enumerate(whole.rates) if rate > 0.1)
    cut = RangeTest(whole.rates[:end], whole.losses[:end], whole.smoothed[:end], 2.0, True)
    assert choose_rate(cut, "sgd").diverges == whole.rates[end - 1]
    assert "does not diverge up to" in choose_rate(dataclasses.replace(cut, diverged=False), "sgd").reason


@given(st.lists(st.floats(0, 100), max_size=60), st.floats(0, 100), st.sampled_from(["sgd", "adam", "muon"]))
def test_any_curve_gives_a_rate_within_it_or_a_usual_one(losses: list[float], level: float, optimizer: str) -> None:
    rates = [1e-7 * 1.2**step for step in range(len(losses))]
    choice = choose_rate(RangeTest(rates, losses, losses, level, False), optimizer)
    assert choice.rate > 0
    if choice.found:
        assert rates[0] * 0.99 <= choice.rate <= rates[-1] * 1.01
        assert choice.steepest is not None
        assert choice.lowest is not None
        assert choice.rate <= choice.lowest * 1.01
    json.dumps(dataclasses.asdict(choice), allow_nan=False)


def test_smoothing_takes_out_what_both_networks_share() -> None:
    draw = [2.0, 3.0, 1.0, 2.5]
    assert smooth(draw, draw) == pytest.approx([2.125] * 4)
    # By hand: the weighted mean of the differences -1, -2 with the weights 0.9 and 1.
    assert smooth([1.0, 1.0], [2.0, 3.0]) == pytest.approx([2.5 - 1, 2.5 - (0.9 * 1 + 1 * 2) / 1.9])
    assert smooth([], []) == []


# ---- the test ----


def test_the_rates_rise_by_one_factor_and_the_range_belongs_to_the_optimizer() -> None:
    for case, highest in (("adam", 1.0), ("sgd-spot", 10.0)):
        test = search(auto_config(case))
        assert test.rates[0] == 1e-7
        factor = (highest / 1e-7) ** (1 / 99)
        assert all(two / one == pytest.approx(factor) for one, two in zip(test.rates, test.rates[1:], strict=False))
        assert len(test.rates) == 100 or test.diverged
        assert len(test.rates) == len(test.losses) == len(test.smoothed)


def test_at_a_rate_of_nearly_nothing_the_smoothed_loss_does_not_move_whatever_is_drawn() -> None:
    test = search(auto_config("adam"))
    assert max(test.losses[:20]) - min(test.losses[:20]) > 0.01
    assert test.smoothed[:20] == pytest.approx([test.untrained] * 20, abs=2e-4)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    assert search(auto_config("muon")) == search(auto_config("muon"))
    assert search(auto_config("adam")) != search(auto_config("adam", training__seed=1))


def test_nothing_of_the_caller_is_changed() -> None:
    config = auto_config("sgd-spot", training__ema_decay=0.9)
    prepared = prepare(config)
    before = {name: tensor.clone() for name, tensor in prepared.model.state_dict().items()}
    state = torch.get_rng_state()
    run_range_test(prepared.model, prepared.data, config, plan=CPU, observer=Watcher())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in prepared.model.state_dict().items())
    assert all(parameter.grad is None for parameter in prepared.model.parameters())


def test_short_epochs_follow_each_other_and_every_step_is_counted() -> None:
    prepared = prepare(auto_config())
    asked: list[int] = []

    class Spy:
        batch_size, num_images = prepared.data.train.batch_size, prepared.data.train.num_images

        def batches(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
            asked.append(epoch)
            return prepared.data.train.batches(epoch)

    counted: list[tuple[int, int | None, str]] = []

    class Counter(Watcher):
        def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
            counted.append((done, total, unit))

    data = dataclasses.replace(prepared.data, train=Spy())  # type: ignore[arg-type]
    test = run_range_test(prepared.model, data, auto_config(), plan=CPU, observer=Counter())
    steps = len(counted)
    assert asked == list(range(math.ceil(steps / prepared.data.train.steps_per_epoch)))
    assert counted == [(step + 1, 100, "steps") for step in range(steps)]
    assert len(test.rates) <= steps


def test_a_diverging_test_ends_early_without_what_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lr_finder._HIGHEST, "sgd", 1e12)
    test = search(auto_config("sgd"))
    assert test.diverged
    assert len(test.rates) < 100
    json.dumps(dataclasses.asdict(test), allow_nan=False)
    choice = choose_rate(test, "sgd")
    assert choice.found
    assert choice.diverges is not None


def test_a_loss_that_is_no_number_from_the_start_gives_a_usual_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_number(*arguments: Any, **keywords: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(math.nan, requires_grad=True), torch.zeros(1)

    monkeypatch.setattr(lr_finder, "compute_loss", no_number)
    test = search(auto_config())
    assert (test.rates, test.losses, test.smoothed, test.diverged) == ([], [], [], True)
    assert not choose_rate(test, "adam").found


def test_frozen_parameters_stay_frozen() -> None:
    config = auto_config("adam")
    prepared = prepare(config)
    head = {id(parameter) for parameter in prepared.model.get_classifier().parameters()}  # type: ignore[operator]
    for parameter in prepared.model.parameters():
        parameter.requires_grad_(id(parameter) in head)
    frozen = run_range_test(prepared.model, prepared.data, config, plan=CPU, observer=Watcher())
    assert choose_rate(frozen, "adam").found
    assert frozen != search(config)


@dataclasses.dataclass
class Vectors:
    """Two clouds of float vectors, as a cache of features gives them."""

    num_images: int = 64
    batch_size: int = 16
    steps_per_epoch: int = 4

    def batches(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(epoch)
        for _ in range(first_step, self.steps_per_epoch):
            labels = torch.randint(2, (self.batch_size,), generator=generator)
            rows = torch.randn(self.batch_size, 5, generator=generator) + 2.0 * labels[:, None]
            yield Batch(rows, labels, torch.arange(self.batch_size))


def test_batches_need_not_be_pictures() -> None:
    def same(rows: torch.Tensor, labels: torch.Tensor, **keywords: Any) -> torch.Tensor:
        return rows

    data = TrainData(Vectors(), None, same, same, 2)  # type: ignore[arg-type]
    torch.manual_seed(0)
    test = run_range_test(nn.Linear(5, 2), data, auto_config("sgd"), plan=CPU, observer=Watcher())
    choice = choose_rate(test, "sgd")
    assert choice.found
    assert 1e-3 < choice.rate < 1


# ---- the rate is part of the run ----


def test_a_given_number_needs_no_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lr_finder, "run_range_test", None)
    train(tmp_path, tiny_config(training__epochs=1))
    assert not (tmp_path / LR_FINDER).exists()
    assert Run.open(tmp_path).lr_finder == {}


@pytest.mark.usefixtures("one_thread")
def test_the_rate_is_written_said_and_the_same_as_when_it_is_typed_in(tmp_path: Path) -> None:
    watcher = Watcher()
    result = train(tmp_path / "auto", auto_config(), watcher)
    run = Run.open(tmp_path / "auto")
    found = run.lr_finder
    assert run.config.optimizer.lr == "auto"
    assert found["settings"] == {"lr": found["chosen"]}
    assert watcher.messages[0] == f"learning rate {found['chosen']:g}: {found['reason']}"
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"])
    rows = run.history
    typed = train(tmp_path / "typed", tiny_config(optimizer__name="adam", optimizer__lr=found["chosen"]))
    assert all(torch.equal(tensor, weights(typed)[name]) for name, tensor in weights(result).items())
    assert [row["lr"] for row in rows] == [row["lr"] for row in Run.open(tmp_path / "typed").history]


def test_a_resumed_run_does_not_search_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole", auto_config("muon"))

    class Killed(Exception):
        pass

    def die(step: int) -> None:
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "run", auto_config("muon"), Watcher(at_step=die))
    monkeypatch.setattr(lr_finder, "run_range_test", None)
    watcher = Watcher()
    resumed = train(tmp_path / "run", auto_config("muon"), watcher, resume=True)
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(whole).items())
    assert (tmp_path / "run" / LR_FINDER).read_bytes() == (tmp_path / "whole" / LR_FINDER).read_bytes()
    assert watcher.messages[0].startswith("learning rate ")


def test_a_signal_ends_the_search_and_the_next_life_finds_the_same(tmp_path: Path) -> None:
    class Stopped(Watcher):
        def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
            if done == 20:
                signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", auto_config(), Stopped())
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "run" / LR_FINDER).exists()
    resumed = train(tmp_path / "run", auto_config(), resume=True)
    whole = train(tmp_path / "whole", auto_config())
    assert (tmp_path / "run" / LR_FINDER).read_bytes() == (tmp_path / "whole" / LR_FINDER).read_bytes()
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(whole).items())


def test_muons_three_rates_keep_their_ratio(tmp_path: Path) -> None:
    watcher = Watcher()
    config = auto_config("muon")
    train(tmp_path, config, watcher)
    found = Run.open(tmp_path).lr_finder["settings"]
    assert found["head_lr"] / found["lr"] == pytest.approx(config.optimizer.head_lr / 0.1, rel=0.01)
    assert found["bias_lr"] / found["lr"] == pytest.approx(config.optimizer.bias_lr / 0.1, rel=0.01)
    said = "learning rate {lr:g}, bias_lr {bias_lr:g}, head_lr {head_lr:g}: ".format(**found)
    assert watcher.messages[0].startswith(said)


@pytest.mark.parametrize(
    "content",
    ["{}x", "[]", '{"chosen": 0.1}', '{"settings": {}}', '{"settings": {"lr": -1.0}}', '{"settings": {"lr": "a"}}'],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    train(tmp_path, auto_config(training__epochs=1))
    (tmp_path / LR_FINDER).write_text(content)
    with pytest.raises(RunError, match=r"in .*lr_finder\.json: delete the file: the search is repeated"):
        train(tmp_path, auto_config(training__epochs=1), resume=True)


DYING = """
import os, signal, sys
import torch
import eyespot
from eyespot.terminal import Terminal

class Mortal(Terminal):
    def on_count(self, label, done, total, *, unit="pictures"):
        if unit == "steps" and done == 40:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
eyespot.train("digits", recipe=sys.argv[1], out=sys.argv[2], device="cpu", observer=Mortal(quiet=True))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.usefixtures("one_thread")
def test_killed_in_the_middle_of_the_search_it_finds_the_same_rate(tmp_path: Path) -> None:
    recipe = tmp_path / "mortal.toml"
    recipe.write_text(auto_config("adam", training__epochs=2, training__batch_size=64).to_toml())
    whole = eyespot.train("digits", recipe=recipe, out=tmp_path / "whole", device="cpu")
    command = [sys.executable, "-c", DYING, str(recipe), str(tmp_path / "killed")]
    done = subprocess.run(command, check=False, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / LR_FINDER).exists()
    killed = eyespot.train(out=tmp_path / "killed", resume=True, device="cpu")
    assert (whole.path / LR_FINDER).read_bytes() == (killed.path / LR_FINDER).read_bytes()
    assert (whole.path / "bundle" / "weights.safetensors").read_bytes() == (
        killed.path / "bundle" / "weights.safetensors"
    ).read_bytes()
    report = killed.report.read_text(encoding="utf-8")
    assert "range test of the learning rate" in report
    assert f"auto, found {killed.lr_finder['chosen']:.3g}" in report


def test_a_start_that_fails_after_the_search_leaves_no_folder(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        assert (tmp_path / "run" / LR_FINDER).exists()
        raise DivergedError("the loss is NaN", remedy="lower it")

    monkeypatch.setattr("eyespot.training.fit.fit", fail)
    settings = {"optimizer.name": "adam", "optimizer.lr": "auto", "model.name": "convnet3", "model.args": {}}
    with pytest.raises(DivergedError):
        eyespot.train(pictures, recipe="small", settings=settings, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


# ---- it trains ----


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_the_rate_found_trains_and_a_hundredth_of_it_does_not(tmp_path: Path, case: str) -> None:
    config = auto_config(case, training__epochs=8)
    found = train(tmp_path / "auto", config).state.history
    rates = {key: rate / 100 for key, rate in Run.open(tmp_path / "auto").lr_finder["settings"].items()}
    slow = config.model_copy(update={"optimizer": config.optimizer.model_copy(update=rates)})
    lost = train(tmp_path / "slow", slow).state.history
    assert found[-1]["train/loss"] < 0.7 * lost[-1]["train/loss"]
    assert found[-1]["train/top1"] > 0.8


def test_on_real_digits_the_rate_found_trains_and_a_hundredth_of_it_does_not(tmp_path: Path) -> None:
    settings = {
        "model.args": {"widths": [8, 16, 32]}, "optimizer.name": "muon", "optimizer.lr": "auto",
        "training.epochs": 6, "training.precision": "float32",
    }  # fmt: skip
    run = eyespot.train("digits", settings=settings, out=tmp_path / "auto", device="cpu")
    rates = {f"optimizer.{key}": rate / 100 for key, rate in run.lr_finder["settings"].items()}
    slow = eyespot.train("digits", settings={**settings, **rates}, out=tmp_path / "slow", device="cpu")
    assert run.metrics["val"]["top1"] > max(0.7, slow.metrics["val"]["top1"] + 0.15)
    assert run.metrics["val"]["nll_loss"] < 0.7 * slow.metrics["val"]["nll_loss"]

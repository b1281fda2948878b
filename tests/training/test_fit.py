from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from eyespot.data.transforms import EvalTransform
from eyespot.device import ComputePlan
from eyespot.errors import CheckpointError, DivergedError, Interrupted, MemoryLimitError, RunError
from eyespot.runs import Run, RunWriter
from eyespot.training import fit as fit_module
from eyespot.training.checkpoint import read_checkpoint
from eyespot.training.step import compute_loss
from eyespot.training.stopping import collect_signals

from .conftest import Watcher, prepare, run_fit, tiny_config, tiny_packed, weights, without_times


class Killed(Exception):
    pass


def kill_at(step: int) -> Watcher:
    def look(now: int) -> None:
        if now == step:
            raise Killed

    return Watcher(at_step=look)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_it_learns_and_writes_its_history(tmp_path: Path) -> None:
    watcher = Watcher()
    result = run_fit(tmp_path, tiny_config(training__epochs=8), watcher=watcher)
    rows = Run.open(tmp_path).history
    assert rows == watcher.rows == result.state.history
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[-1]["val/top1"] > 0.9
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    assert set(rows[0]) == {
        "epoch", "step", "seconds", "lr", "train/loss", "train/top1", "val/loss", "val/top1", "images_per_second",
    }  # fmt: skip
    assert not result.model.training


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tmp_path: Path) -> None:
    one = run_fit(tmp_path / "1", tiny_config())
    two = run_fit(tmp_path / "2", tiny_config())
    three = run_fit(tmp_path / "3", tiny_config(training__seed=1))
    assert same(weights(one), weights(two))
    assert without_times(one.state.history) == without_times(two.state.history)
    assert not same(weights(one), weights(three))


def test_the_global_random_state_of_the_caller_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    run_fit(tmp_path, tiny_config(training__epochs=1))
    torch.set_rng_state(state)
    assert torch.equal(torch.rand(3), expected)


VARIANTS: dict[str, dict[str, Any]] = {
    "adam": {},
    "ema": {"training__ema_decay": 0.9},
    "bf16": {"training__precision": "bf16"},
    "sgd-plateau-best": {
        "optimizer__name": "sgd", "schedule__name": "plateau", "schedule__patience_epochs": 1,
        "training__restore_best": True,
    },
    "muon-spot-mix": {
        "model__name": "spot", "model__args": {"widths": [4, 6, 8]}, "optimizer__name": "muon", "optimizer__lr": 0.1,
        "training__mixup_alpha": 0.2, "training__cutmix_alpha": 1.0, "training__clip_norm": 1.0,
        "training__size_schedule": [[0.0, 6], [0.5, 8]],
    },
    "hardest": {"training__hardest_share": 0.6, "training__batch_size": 8},
    "rmsprop-final": {"optimizer__name": "rmsprop", "data__final": True},
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_resumed_at_every_step_it_ends_the_same_to_the_bit(tmp_path: Path, name: str) -> None:
    # A checkpoint after every step: checkpoint_minutes is as good as zero.
    config = tiny_config(training__checkpoint_minutes=1e-9, training__epochs=2, **VARIANTS[name])
    whole = run_fit(tmp_path / "whole", config)
    total = whole.state.total_steps
    assert total >= 12
    for step in range(1, total + 1):
        folder = tmp_path / str(step)
        with pytest.raises(Killed):
            run_fit(folder, config, watcher=kill_at(step))
        resumed = run_fit(folder, config, resume=True)
        assert same(weights(whole), weights(resumed)), step
        assert without_times(resumed.state.history) == without_times(whole.state.history)
        assert without_times(Run.open(folder).history) == without_times(whole.state.history)


@pytest.mark.parametrize("name", ["adam", "sgd-plateau-best", "muon-spot-mix", "hardest"])
def test_killed_between_the_end_of_an_epoch_and_its_checkpoint(tmp_path: Path, name: str) -> None:
    config = tiny_config(training__checkpoint_minutes=1e-9, training__epochs=3, **VARIANTS[name])
    whole = run_fit(tmp_path / "whole", config)

    class Mortal(Watcher):
        def on_epoch(self, row: dict[str, Any]) -> None:
            if row["epoch"] == 2:
                raise Killed

    with pytest.raises(Killed):
        run_fit(tmp_path / "run", config, watcher=Mortal())
    resumed = run_fit(tmp_path / "run", config, resume=True)
    assert same(weights(whole), weights(resumed))
    assert without_times(Run.open(tmp_path / "run").history) == without_times(whole.state.history)


def test_a_stem_that_stands_still_costs_no_gradient_and_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(optimizer__stem_bias_fraction=0.5, **{**VARIANTS["muon-spot-mix"], "training__clip_norm": 0.0})
    asked: list[bool] = []

    def noted(model: Any, *args: Any, **others: Any) -> Any:
        asked.append(model.whiten.bias.requires_grad)
        return compute_loss(model, *args, **others)

    with monkeypatch.context() as patched:
        patched.setattr(fit_module, "compute_loss", noted)
        found: Any = run_fit(tmp_path / "1", config).model
    assert asked == sorted(asked, reverse=True)
    assert set(asked) == {True, False}
    assert found.whiten.bias.requires_grad  # the report counts it among what was trained
    assert found.groups[0].norm1.bias.requires_grad

    def rates_alone(loop: Any) -> None:
        for group in loop.optimizer.param_groups:
            group["lr"] = loop._learning_rate(group, loop.state.step)

    with monkeypatch.context() as patched:
        patched.setattr(fit_module._Loop, "_set_learning_rate", rates_alone)
        kept: Any = run_fit(tmp_path / "2", config).model
    assert kept.whiten.bias.requires_grad
    assert bool(kept.whiten.bias.any())
    assert same(found.state_dict(), kept.state_dict())


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    config = tiny_config(training__restore_best=True)
    first = run_fit(tmp_path, config)
    watcher = Watcher()
    second = run_fit(tmp_path, config, watcher=watcher, resume=True)
    assert watcher.steps == 0
    assert same(weights(first), weights(second))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run_fit(tmp_path, tiny_config(training__epochs=5))
    assert len(list((tmp_path / "checkpoints").glob("step-*.ckpt"))) == 2
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_damaged_checkpoint_takes_the_place_of_none_to_fall_back_to(tmp_path: Path) -> None:
    config = tiny_config(training__checkpoint_minutes=1e-9)
    whole = run_fit(tmp_path / "whole", config)
    with pytest.raises(Killed):
        run_fit(tmp_path / "run", config, watcher=kill_at(4))
    kept = tmp_path / "run" / "checkpoints"
    (kept / "step-000000010.ckpt").write_bytes(b"half")
    with pytest.raises(Killed):
        run_fit(tmp_path / "run", config, watcher=kill_at(7), resume=True)
    assert sorted(path.name for path in kept.glob("step-*")) == ["step-000000005.ckpt", "step-000000006.ckpt"]
    (kept / "step-000000006.ckpt").write_bytes(b"half")
    assert same(weights(whole), weights(run_fit(tmp_path / "run", config, resume=True)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_writes_a_checkpoint_and_the_rest_can_be_resumed(tmp_path: Path, number: int) -> None:
    config = tiny_config()
    whole = run_fit(tmp_path / "whole", config)

    def send(step: int) -> None:
        if step == 7:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        run_fit(tmp_path / "run", config, watcher=Watcher(at_step=send))
    assert caught.value.signal == number
    assert signal.getsignal(number) is before
    assert (tmp_path / "run" / "checkpoints" / "step-000000007.ckpt").exists()
    assert same(weights(whole), weights(run_fit(tmp_path / "run", config, resume=True)))


def test_signals_that_are_ignored_stay_so_as_under_nohup(tmp_path: Path) -> None:
    config = tiny_config()

    def send(step: int) -> None:
        if step == 7:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGINT)

    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        assert run_fit(tmp_path, config, watcher=Watcher(at_step=send)).state.done
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)


def test_a_signal_while_val_is_measured_does_not_wait_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    whole = run_fit(tmp_path / "whole", config)
    real = fit_module.F.cross_entropy

    def send(logits: torch.Tensor, targets: torch.Tensor, **keywords: Any) -> torch.Tensor:
        if keywords.get("reduction") == "sum":
            signal.raise_signal(signal.SIGTERM)
        return real(logits, targets, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(fit_module.F, "cross_entropy", send)
        with pytest.raises(Interrupted):
            run_fit(tmp_path / "run", config)
    assert not Run.open(tmp_path / "run").history
    resumed = run_fit(tmp_path / "run", config, resume=True)
    assert same(weights(whole), weights(resumed))
    assert without_times(Run.open(tmp_path / "run").history) == without_times(whole.state.history)


def test_nan_stops_the_run_names_step_and_rate_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    config = tiny_config(optimizer__name="sgd", optimizer__lr=1e12, training__epochs=20)
    with pytest.raises(DivergedError) as caught:
        run_fit(tmp_path, config)
    text = str(caught.value)
    assert "NaN or infinite at learning rate" in text
    assert "step" in text
    assert "optimizer.lr" in text


def test_a_planted_nan_keeps_the_checkpoint_of_the_epoch_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fit_module.F.cross_entropy

    def plant(logits: torch.Tensor, targets: torch.Tensor, **keywords: Any) -> torch.Tensor:
        loss = real(logits, targets, **keywords)
        plant.calls += 1  # type: ignore[attr-defined]
        return loss * float("nan") if plant.calls > 12 else loss  # type: ignore[attr-defined]

    plant.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(fit_module.F, "cross_entropy", plant)
    with pytest.raises(DivergedError, match=r"step-000000006\.ckpt"):
        run_fit(tmp_path, tiny_config())
    monkeypatch.undo()
    assert run_fit(tmp_path, tiny_config(), resume=True).state.epoch == 3


def test_no_memory_names_the_batch_size_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(fit_module.F, "cross_entropy", fail)
    with pytest.raises(MemoryLimitError, match=r"--set training\.batch_size=8"):
        run_fit(tmp_path, tiny_config())


def test_no_memory_for_val_names_its_own_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(EvalTransform, "__call__", fail)
    with pytest.raises(
        MemoryLimitError, match=r"no memory left for \d+ val pictures at once: .*evaluation\.batch_size="
    ):
        run_fit(tmp_path, tiny_config())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no open files")
def test_a_run_folder_that_is_gone_ends_the_training_in_a_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    watcher = Watcher(at_step=lambda step: shutil.rmtree(run) if step == 7 else None)
    with pytest.raises(RunError, match=r"cannot write \(No such file or directory\) in .*run"):
        run_fit(run, tiny_config(), watcher=watcher)


def test_other_errors_of_torch_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(fit_module.F, "cross_entropy", fail)
    with pytest.raises(RuntimeError, match="something else"):
        run_fit(tmp_path, tiny_config())


def test_early_stopping_ends_with_the_best_weights(tmp_path: Path) -> None:
    config = tiny_config(
        optimizer__lr=3e-2, training__epochs=40, training__early_stopping_epochs=2, training__restore_best=True,
        training__monitor="val/top1",
    )  # fmt: skip
    watcher = Watcher()
    result = run_fit(tmp_path, config, watcher=watcher)
    rows = result.state.history
    best = max(row["val/top1"] for row in rows)
    first_best = next(row["epoch"] for row in rows if row["val/top1"] == best)
    assert result.state.best_epoch == first_best
    assert len(rows) == first_best + 2
    assert "early stop" in result.state.stopped
    assert any("early stop" in text for text in watcher.messages)


def test_chance_level_is_said_in_plain_words(tmp_path: Path) -> None:
    packed = tiny_packed()
    dice = np.random.default_rng(1)
    noise = dice.integers(0, 255, packed.splits["train"].pixels.shape, dtype=np.uint8)  # type: ignore[union-attr]
    split = packed.splits["train"]
    blank = type(split)(split.ids, split.labels, split.hashes, split.sizes_px, pixels=noise)
    packed = type(packed)(**{**packed.__dict__, "splits": {"train": blank}})
    watcher = Watcher()
    run_fit(tmp_path, tiny_config(training__epochs=4, optimizer__lr=1e-6), watcher=watcher, packed=packed)
    said = [text for text in watcher.messages if "chance" in text]
    assert len(said) == 1
    assert "guessing gives 33.3 %" in said[0]
    # As the verdict's rule: only where guessing lies in the interval of what was measured, which is said with its n.
    bounds = re.search(r"% \[([0-9.]+), [0-9.]+\] on train \(n = [0-9]+\) after 3 epochs", said[0])
    assert bounds is not None
    assert float(bounds[1]) <= 33.3


@pytest.mark.parametrize(("right", "told"), [(0.40, True), (0.438, False)])
def test_chance_level_is_not_said_of_what_guessing_would_hardly_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: float, told: bool
) -> None:
    # Of 144 pictures, chance being 1/3: the lower ends of their intervals are 32.4 and 36.0 %.
    watcher = Watcher()
    loop = types.SimpleNamespace(
        state=types.SimpleNamespace(
            epoch=3, history=[{"train/top1": 0.3}, {"train/top1": 0.35}, {"train/top1": right}]
        ),
        hardest=None,
        data=types.SimpleNamespace(num_classes=3, train=types.SimpleNamespace(num_images=144)),
        config=tiny_config(),
        observer=watcher,
    )
    fit_module._Loop._warn_at_chance(loop)  # type: ignore[arg-type]
    assert bool(watcher.messages) == told


def test_minutes_plan_the_epochs_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_module._Loop, "_measure_epoch", lambda self: 0.5)
    watcher = Watcher()
    result = run_fit(tmp_path, tiny_config(training__minutes=0.05, training__epochs=100), watcher=watcher)
    assert result.state.planned_epochs == 5
    assert any("5 of 100 epochs" in text for text in watcher.messages)
    assert result.state.stopped == "time limit: 0.05 minutes"


def test_the_wait_for_a_gpu_is_training_time_and_nothing_is_waited_for_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, queued, looks = 0.0, 0, 0
    take_step, look = fit_module._Loop._step, fit_module._Loop._look

    def only_queue(self: Any, batch: Any) -> None:
        nonlocal queued
        take_step(self, batch)
        queued += 1

    def wait(self: Any) -> None:
        nonlocal clock, queued, looks
        looks += self.looked_at != self.state.step
        look(self)
        clock, queued = clock + 10.0 * queued, 0  # a GPU takes 10 s for a step

    monkeypatch.setattr(fit_module._Loop, "_step", only_queue)
    monkeypatch.setattr(fit_module._Loop, "_look", wait)
    monkeypatch.setattr(fit_module, "_CHECK_EVERY_STEPS", {"cpu": 4})
    monkeypatch.setattr(fit_module, "time", SimpleNamespace(perf_counter=lambda: clock))
    state = run_fit(tmp_path, tiny_config(training__epochs=2)).state
    assert state.steps_per_epoch == 6
    assert state.seconds == 2 * 6 * 10.0
    assert [row["seconds"] for row in state.history] == [60.0, 120.0]
    assert [row["images_per_second"] for row in state.history] == [1.6, 1.6]
    assert looks == 4  # after the steps 4, 6, 8 and 12


def pretend_pace(monkeypatch: pytest.MonkeyPatch, seconds_per_epoch: Callable[[int], float]) -> None:
    """Let each epoch take a given time by the clock of the run."""
    real = fit_module._Loop._keep_to_minutes

    def keep(self: Any) -> None:
        self.state.seconds = sum(seconds_per_epoch(epoch) for epoch in range(1, self.state.epoch + 1))
        real(self)

    monkeypatch.setattr(fit_module._Loop, "_keep_to_minutes", keep)


@pytest.mark.parametrize("name", ["constant", "step", "plateau"])
def test_a_run_cut_short_brings_its_learning_rate_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pretend_pace(monkeypatch, lambda epoch: 1.0)
    config = tiny_config(training__minutes=11.4 / 60, training__epochs=100, schedule__name=name, optimizer__lr=1e-3)
    watcher = Watcher()
    result = run_fit(tmp_path, config, watcher=watcher)
    rates = [row["lr"] for row in result.state.history]
    assert rates[:8] == [1e-3] * 8
    assert rates[-1] == pytest.approx(1e-3 / (3 * 6))  # the last of the 3 x 6 steps of the cooldown
    assert len(rates) == 11
    assert [text for text in watcher.messages if "time limit" in text] == [
        "time limit: the learning rate goes down to zero in the last 3 of 11 epochs"
    ]
    assert result.state.stopped == "time limit: 0.19 minutes"


def test_the_plan_follows_a_machine_that_becomes_faster_or_slower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"training__minutes": 0.2, "training__epochs": 100, "schedule__name": "constant"}
    pretend_pace(monkeypatch, lambda epoch: 3.0 if epoch == 1 else 0.5)
    faster = run_fit(tmp_path / "faster", tiny_config(**settings)).state
    assert faster.epoch > 12  # three seconds an epoch would have been four
    monkeypatch.undo()
    pretend_pace(monkeypatch, lambda epoch: 0.5 if epoch < 8 else 4.0)
    slower = run_fit(tmp_path / "slower", tiny_config(**settings)).state
    assert 8 <= slower.epoch <= 10
    assert "time limit" in slower.stopped


def test_a_limit_shorter_than_an_epoch_still_trains_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_pace(monkeypatch, lambda epoch: 100.0)
    state = run_fit(tmp_path, tiny_config(training__minutes=0.1, training__epochs=5, schedule__name="constant")).state
    assert state.epoch == 1
    assert "time limit" in state.stopped


def test_measuring_an_epoch_changes_nothing(tmp_path: Path) -> None:
    plain = run_fit(tmp_path / "plain", tiny_config())
    timed = run_fit(tmp_path / "timed", tiny_config(training__minutes=60))
    assert same(weights(plain), weights(timed))


def test_a_machine_that_became_slower_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_module._Loop, "_measure_epoch", lambda self: 1e-4)
    result = run_fit(tmp_path, tiny_config(training__minutes=0.0005, training__epochs=100))
    assert "time limit" in result.state.stopped
    assert 1 <= result.state.epoch < 100


def test_a_schedule_ends_within_the_time_of_a_machine_that_became_slower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module._Loop, "_measure_epoch", lambda self: 1.0)
    pretend_pace(monkeypatch, lambda epoch: 1.0 if epoch < 5 else 2.0)
    config = tiny_config(training__minutes=12.5 / 60, training__epochs=100, schedule__name="linear")
    watcher = Watcher()
    result = run_fit(tmp_path, config, watcher=watcher)
    rates = [row["lr"] for row in result.state.history]
    assert len(rates) == 8  # 4 epochs of one second, 4 of two
    assert "slower than planned: 8 of 9 epochs fit into 0.208 minutes" in watcher.messages
    assert rates == sorted(rates, reverse=True)
    peak = rates[0] / (1 - 2.5 / 36)  # the middle of the third of 12 x 3 steps
    assert rates[-1] == pytest.approx(peak * 0.5 / 24)  # that of the last of 8 x 3
    assert "time limit" in result.state.stopped


def test_small_pictures_at_first_are_no_reason_to_expect_quick_epochs_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module._Loop, "_measure_epoch", lambda self: 1.0)
    pretend_pace(monkeypatch, lambda epoch: 1.0 if epoch <= 4 else 4.0)
    config = tiny_config(
        training__minutes=19.5 / 60,
        training__epochs=8,
        training__size_schedule=[[0.0, 4], [0.5, 8]],
        schedule__name="linear",
        model__name="spot",
    )
    watcher = Watcher()
    result = run_fit(tmp_path, config, watcher=watcher)
    assert result.state.epoch == 7  # 4 of one second, 3 of four: planned so after the first
    assert next(text for text in watcher.messages if "slower" in text).startswith("slower than planned: 7 of 8")


def test_a_time_limit_knows_the_side_that_the_network_sees(tmp_path: Path) -> None:
    # Packed at 8 px, resized to 16 for a backbone: the first half of the steps is a quarter of the area, not all of it.
    prepared = prepare(tiny_config())
    spec = replace(prepared.data.eval_transform.spec, model_px=16)
    data = replace(prepared.data, eval_transform=replace(prepared.data.eval_transform, spec=spec))
    config = tiny_config(training__size_schedule=[[0.0, 8], [0.5, 16]], model__name="spot")
    with RunWriter(tmp_path, config) as writer:
        loop = fit_module._Loop(prepared.model, data, config, ComputePlan("cpu", "float32", "test"), writer, Watcher())
    assert loop.limit.mean_area() / loop.limit.first_area() == pytest.approx((0.25 * 0.5 + 1 * 0.5) / 0.25)


def test_resuming_with_other_data_or_another_model_is_refused(tmp_path: Path) -> None:
    run_fit(tmp_path, tiny_config())
    with pytest.raises(CheckpointError, match="steps an epoch"):
        run_fit(tmp_path, tiny_config(), resume=True, packed=tiny_packed(300))
    with pytest.raises(CheckpointError, match="another run"):
        run_fit(tmp_path, tiny_config(model__name="resnet18-small", model__args={"width": 4}), resume=True)


@pytest.mark.parametrize("change", [{"training__seed": 7}, {"optimizer__lr": 0.5}, {"training__epochs": 9}])
def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    run_fit(tmp_path / "other", tiny_config(**change))
    run_fit(tmp_path / "run", tiny_config())
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()
    for path in (tmp_path / "other" / "checkpoints").iterdir():
        path.rename(tmp_path / "run" / "checkpoints" / path.name)
    with pytest.raises(CheckpointError, match="another run"):
        run_fit(tmp_path / "run", tiny_config(), resume=True)


def test_a_checkpoint_of_another_split_is_refused(tmp_path: Path) -> None:
    run_fit(tmp_path, tiny_config())
    (tmp_path / "split.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"split\.json were changed"):
        run_fit(tmp_path, tiny_config(), resume=True)


@pytest.mark.parametrize("damage", ["removed", "flipped"])
def test_lost_weights_of_the_best_epoch_are_said_and_the_last_ones_taken(tmp_path: Path, damage: str) -> None:
    # Epoch 1 is the best: the rate is too high for the others.
    config = tiny_config(training__restore_best=True, optimizer__lr=0.3, training__epochs=4)
    first = run_fit(tmp_path, config)
    assert first.state.best_epoch < 4
    path = tmp_path / "checkpoints" / f"best-{first.state.best_epoch:06d}.ckpt"
    content = path.read_bytes()
    path.unlink()
    if damage == "flipped":
        path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    watcher = Watcher()
    second = run_fit(tmp_path, config, watcher=watcher, resume=True)
    assert second.state.best_epoch == 4
    assert any("are lost" in text and "those of the last one, 4," in text for text in watcher.messages)
    last = read_checkpoint(sorted((tmp_path / "checkpoints").glob("step-*.ckpt"))[-1])
    assert same(weights(second), {name: last.tensors[f"model/{name}"] for name in weights(second)})


def test_exploded_weights_are_not_called_the_last_good_checkpoint(tmp_path: Path) -> None:
    # One step an epoch and no val: the checkpoint of step 1 holds what the first step has spoilt.
    config = tiny_config(
        optimizer__name="sgd", optimizer__lr=1e12, data__final=True, training__batch_size=120, training__epochs=9
    )
    with pytest.raises(DivergedError) as caught:
        run_fit(tmp_path, config)
    found = re.search(r"step (\d+) ", str(caught.value))
    assert found
    named = re.search(r"step-(\d+)\.ckpt", str(caught.value))
    assert named is None or int(named[1]) < int(found[1]) - 1


def test_nan_on_val_names_step_and_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_module._Loop, "_evaluate", lambda loop, loader: (float("nan"), 0.1))
    with pytest.raises(DivergedError, match=r"loss on val is NaN or infinite at learning rate .* step 6 .*the start"):
        run_fit(tmp_path, tiny_config())


def test_a_last_batch_of_one_picture_is_left_out_for_batch_norm(tmp_path: Path) -> None:
    packed = tiny_packed(51)  # 41 for train: two batches of 20 and one picture
    config = tiny_config(model__name="spot", model__args={"widths": [4, 4, 4]}, training__batch_size=20)
    prepared = prepare(config, packed)
    assert prepared.data.train.num_images % 20 == 1
    assert prepared.data.train.steps_per_epoch == 2


def test_ema_follows_the_weights(tmp_path: Path) -> None:
    plain = run_fit(tmp_path / "plain", tiny_config())
    averaged = run_fit(tmp_path / "ema", tiny_config(training__ema_decay=0.5))
    assert not same(weights(plain), weights(averaged))
    # The training itself is the same: only what is evaluated and kept differs.
    one = [row["train/loss"] for row in plain.state.history]
    assert one == [row["train/loss"] for row in averaged.state.history]


def test_a_batch_of_more_pictures_than_there_are_is_one_of_all(tmp_path: Path) -> None:
    def trained(batch_size: int) -> dict[str, torch.Tensor]:
        config = tiny_config(
            model__name="spot", model__args={"widths": [4, 6, 8]}, optimizer__name="muon", optimizer__lr=0.1,
            optimizer__sgd_weight_decay=1e-4, training__epochs=2, training__batch_size=batch_size,
        )  # fmt: skip
        return weights(run_fit(tmp_path / str(batch_size), config))

    count = prepare(tiny_config()).data.train.num_images
    assert same(trained(count), trained(100 * count))  # muon's rates are for the sum over a batch


def test_a_handler_that_another_language_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    real = signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGTERM else real(number))
    before = real(signal.SIGTERM)
    with collect_signals():
        assert real(signal.SIGTERM) is before
    assert real(signal.SIGTERM) is before

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyespot.config import ScheduleConfig
from eyespot.training.schedules import PlateauState, schedule_factor

NAMES = ["constant", "cosine", "linear", "one-cycle", "triangular", "step", "plateau"]


def curve(total: int = 100, per_epoch: int = 10, **settings: object) -> list[float]:
    config = ScheduleConfig.model_validate(settings)
    return [schedule_factor(s, total_steps=total, steps_per_epoch=per_epoch, settings=config) for s in range(total)]


@given(
    name=st.sampled_from(NAMES),
    total=st.integers(1, 500),
    per_epoch=st.integers(1, 50),
    warmup=st.floats(0, 5),
    final=st.floats(0, 1),
)
def test_every_schedule_stays_between_zero_and_the_peak(
    name: str, total: int, per_epoch: int, warmup: float, final: float
) -> None:
    values = curve(total, per_epoch, name=name, warmup_epochs=warmup, final_fraction=final, step_epochs=[2, 4])
    assert all(0 <= value <= 1 + 1e-12 for value in values)


def test_cosine_is_torchs_cosine() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert curve(name="cosine") == pytest.approx(expected, abs=1e-9)


def test_linear_triangular_and_one_cycle_by_hand() -> None:
    assert curve(4, name="linear") == pytest.approx([1, 0.75, 0.5, 0.25])
    assert curve(4, name="linear", final_fraction=0.5) == pytest.approx([1, 0.875, 0.75, 0.625])
    up_down = curve(10, name="triangular", peak_fraction=0.5, start_fraction=0.0)
    assert up_down == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0, 0.8, 0.6, 0.4, 0.2])
    cycle = curve(10, name="one-cycle", peak_fraction=0.5, start_fraction=0.2)
    assert cycle[0] == pytest.approx(0.2)
    assert cycle[5] == pytest.approx(1.0)
    assert cycle[-1] == pytest.approx((1 + math.cos(math.pi * 0.8)) / 2)


def test_step_cuts_after_whole_epochs() -> None:
    values = curve(50, 10, name="step", step_epochs=[2, 4], factor=0.1)
    assert values[19] == 1
    assert values[20] == pytest.approx(0.1)
    assert values[40] == pytest.approx(0.01)


def test_warm_up_rises_to_the_schedule() -> None:
    values = curve(100, 10, name="constant", warmup_epochs=1)
    assert values[:3] == pytest.approx([1 / 11, 2 / 11, 3 / 11])
    assert values[10:] == [1.0] * 90


def test_plateau_cuts_like_keras() -> None:
    settings = ScheduleConfig(name="plateau", factor=0.5, patience_epochs=2, min_lr=0.2)
    state = PlateauState()
    cuts = [
        state.update(value, settings, peak_lr=1.0)
        for value in [1.0, 0.9, 0.95, 0.96, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
    ]
    assert cuts == [False, False, False, True, False, False, True, False, True, False, False]
    assert state.factor == 0.2  # the floor, not 0.125
    assert PlateauState(**state.as_dict()) == state

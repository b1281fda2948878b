from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eyespot.config import load_config
from eyespot.sweeps.journal import Journal, Plan, Trial
from eyespot.sweeps.space import Factor, Space

SPACE = Space(
    (
        Factor("optimizer.lr", low=0.01, high=0.5, log=True),
        Factor("augment.translate_px", low=0, high=2, int=True),
        Factor("training.label_smoothing", choice=(0.0, 0.1, 0.2)),
    )
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Return a new sweep of twelve trials, of which none has begun."""
    folder = tmp_path / "sweep"
    (folder / "trials").mkdir(parents=True)
    (folder / "recipe.toml").write_text(load_config("small").to_toml())
    made = Journal(folder, Plan(data="digits", recipe="small", epochs=9, space=SPACE, trials=12))
    made.write_plan()
    return made


def finished(trial: Trial, top1: float, loss: float = 0.5) -> Trial:
    """Return a trial that came to its end."""
    bounds = (max(0.0, top1 - 0.02), min(1.0, top1 + 0.02))
    return replace(trial, state="finished", epochs=9, top1=top1, loss=loss, n=500, top1_ci95=bounds, seconds=3.0)

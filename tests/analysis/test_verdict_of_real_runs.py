"""The verdict on real trainings that were made to fail: handwritten digits, a network of textbooks, seconds each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import eyespot
from eyespot.analysis.verdict import Verdict, judge
from eyespot.errors import DivergedError

PLAIN: dict[str, Any] = {
    "model.name": "convnet3",
    "model.args": {"dropout": [0.0, 0.0, 0.0, 0.0]},
    "optimizer.name": "adam",
    "schedule.name": "constant",
    "training.precision": "float32",
    "training.label_smoothing": 0.0,
    "augment": {},
}


def verdict_on(data: str, tmp_path: Path, **changes: Any) -> Verdict:
    settings = {**PLAIN, **{key.replace("__", "."): value for key, value in changes.items()}}
    run = eyespot.train(data, recipe="digits", settings=settings, out=tmp_path / "run")
    classes = len(run.metrics["test"]["per_class"])
    return judge(run.history, run.metrics, num_classes=classes, epochs_planned=settings["training.epochs"])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("at-chance", {"optimizer__lr": 1.0, "training__epochs": 6}),
        ("learning-rate-too-high", {"optimizer__lr": 0.05, "training__epochs": 9}),
        ("learning-rate-too-low", {"optimizer__lr": 2e-5, "training__epochs": 8}),
        ("not-converged", {"optimizer__lr": 3e-4, "training__epochs": 3}),
        ("overfit", {"optimizer__lr": 3e-3, "training__epochs": 30, "data__train_fraction": 0.03}),
        ("too-few-pictures", {"optimizer__lr": 3e-4, "training__epochs": 3}),
    ],
)
def test_a_run_made_to_fail_is_told_why(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    verdict = verdict_on("digits", tmp_path, **changes)
    found = {finding.kind for finding in verdict.findings}
    assert kind in found, verdict
    if kind == "at-chance":
        assert "learning-rate-too-high" in found, verdict  # and why it is at chance
    else:
        assert not (found & {"learning-rate-too-high", "learning-rate-too-low"}) - {kind}, verdict


@pytest.mark.parametrize("epochs", [6, 14])
def test_a_run_that_goes_well_is_not_blamed(epochs: int, tmp_path: Path) -> None:
    verdict = verdict_on("digits", tmp_path, optimizer__lr=2e-3, training__epochs=epochs, schedule__name="linear")
    assert {finding.kind for finding in verdict.findings} <= {"too-few-pictures"}, verdict


def test_labels_without_a_meaning_are_at_chance(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    for label in range(4):
        (tmp_path / "pictures" / f"class{label}").mkdir(parents=True)
        for number in range(50):
            pixels = dice.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / f"class{label}" / f"{number}.png")
    verdict = verdict_on(str(tmp_path / "pictures"), tmp_path, optimizer__lr=3e-3, training__epochs=6)
    assert verdict.findings[0].kind == "at-chance"


def test_a_rate_beyond_all_bounds_ends_the_run_with_its_step_and_a_rate_to_try(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"in step \d+ \(epoch 1\): lower optimizer\.lr"):
        verdict_on("digits", tmp_path, optimizer__name="sgd", optimizer__lr=1e12, training__epochs=2)

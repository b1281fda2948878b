from __future__ import annotations

import numpy as np
import pytest
import torch

from eyespot.analysis import why
from eyespot.errors import ModelError
from eyespot.runs import Run

from .test_heatmaps import pixels_of_noise, predictor_of


def collect(train_seconds: float = 10_000.0) -> why.Why:
    predictor = predictor_of("spot")
    pixels = pixels_of_noise(12, 32).permute(0, 2, 3, 1).numpy()
    logits = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    labels = np.arange(12) % 4
    labels[:6] = logits[:6].argmax(1)
    torch.manual_seed(0)
    return why.collect_why(predictor, logits, labels, lambda places: pixels[places], train_seconds=train_seconds)


def test_mistakes_come_surest_first_and_one_right_answer_a_class() -> None:
    found = collect()
    assert found.mistakes
    assert all(one.true_name != one.predicted_name for one in found.mistakes)
    assert [one.prob for one in found.mistakes] == sorted((one.prob for one in found.mistakes), reverse=True)
    assert all(one.true_name == one.predicted_name for one in found.right)
    assert len({one.true_name for one in found.right}) == len(found.right)
    assert "Checked on" in found.note


def test_what_fails_or_takes_too_long_is_left_out_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(why, "_ALWAYS_SECONDS", 0.0)
    monkeypatch.setattr(why, "_BATCH", 2)
    assert "Not drawn: it took" in collect(train_seconds=0.0).note

    def refuse(*args: object, **settings: object) -> None:
        raise ModelError("no places")

    monkeypatch.setattr(why, "heat_maps", refuse)
    assert collect().note == "Not drawn: no places."
    assert collect().mistakes == ()


def test_the_panel_is_in_the_report_of_every_run(trained: Run) -> None:
    page = trained.report.read_text()
    assert "Why: where the answers were found" in page
    assert "A right answer of each class" in page

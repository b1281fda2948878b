from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eyespot.analysis import why, words
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
    note = collect(train_seconds=0.0).note
    assert "Not drawn: it took" in note
    assert "eyespot explain" in note

    def refuse(*args: object, **settings: object) -> None:
        raise ModelError("no places")

    monkeypatch.setattr(why, "heat_maps", refuse)
    assert collect().note == "Not drawn: no places."
    assert collect().mistakes == ()


def test_a_panel_that_fails_in_an_unforeseen_way_stops_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise AttributeError("'tuple' object has no attribute 'detach'")

    monkeypatch.setattr(why, "heat_maps", fail)
    assert collect().note == "Not drawn: it failed (AttributeError: 'tuple' object has no attribute 'detach')."


def test_an_answer_is_shown_with_the_probability_that_its_check_begins_with() -> None:
    predictor = predictor_of("spot")
    predictor = replace(predictor, info=predictor.info.model_copy(update={"temperature": 0.01}))
    pixels = pixels_of_noise(4, 32)
    logits = predictor.batch_logits(pixels).numpy() / predictor.info.temperature
    rows = pixels.permute(0, 2, 3, 1).numpy()
    found = why.collect_why(predictor, logits, logits.argmax(1), lambda places: rows[places], train_seconds=0.0)
    answers = {round(answer.prob or 0, 3) for answer in predictor.predict_pixels(list(rows))}
    for one in found.right:
        assert round(one.prob, 3) in answers
        assert f"covered: {words.percent(one.prob)} becomes" in one.told


@pytest.mark.parametrize(
    ("classes", "title"), [(1, "each class"), (100, "1 of 100 classes"), (2000, "1 of 2,000 classes")]
)
def test_the_heading_says_of_how_many_classes(classes: int, title: str) -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    one = why.WhyPicture(picture, picture, "cat", "cat", 0.9, "")
    shown = why.panel(why.Why(right=(one,), num_classes=classes), lambda pixels: "")
    assert shown is not None
    assert [name for name, _ in shown["groups"]] == [f"A right answer of {title}"]  # type: ignore[attr-defined]


def test_the_panel_is_in_the_report_of_every_run(trained: Run) -> None:
    page = trained.report.read_text()
    assert "Why: where the answers were found" in page
    assert "A right answer of " in page

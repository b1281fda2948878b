from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import eyespot
from eyespot.analysis.target import describe_target, measure_target
from eyespot.terminal import Terminal

from ..conftest import TINY


def split(top1: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"n": 400, "top1": top1, "top1_ci95": (low, high), "views": "none", **more}


HISTORY = [
    {"epoch": epoch, "seconds": 10.0 * epoch, "val/top1": top1} for epoch, top1 in enumerate((0.5, 0.8, 0.7), start=1)
]


@pytest.mark.parametrize(
    ("test", "kind", "says"),
    [
        (
            split(0.90, 0.87, 0.93),
            "target-reached",
            "The accuracy of 80 % that was asked for is reached: 90.0 % [87.0, ",
        ),
        (split(0.83, 0.80, 0.86), "target-reached", "is reached: 83.0 % [80.0, 86.0] on test (n = 400, 1 view)."),
        (
            split(0.82, 0.78, 0.86),
            "target-open",
            "may be reached or not: it lies within the interval of 82.0 % [78.0, ",
        ),
        (split(0.76, 0.72, 0.80), "target-open", "within the interval"),
        (split(0.70, 0.66, 0.74), "target-missed", "is missed: 70.0 % [66.0, 74.0] on test"),
        (
            split(0.99, 0.98, 1.00, flaw="leaked"),
            "target-open",
            "cannot be judged by a figure with a mistake: leaked: ",
        ),
    ],
)
def test_a_target_is_judged_by_the_whole_interval_and_never_by_a_spoiled_figure(
    test: dict[str, Any], kind: str, says: str
) -> None:
    metrics: dict[str, Any] = {"test": test, "val": split(0.1, 0.0, 0.2)}
    metrics["target"] = measure_target(0.8, metrics, HISTORY)
    (finding,) = describe_target(metrics)
    assert finding.kind == kind
    assert says in finding.text
    assert metrics["target"]["reached"] is {"target-reached": True, "target-missed": False}.get(kind)
    assert "Val had it first after epoch 2, 20.0 s of training" in finding.text


def test_without_new_pictures_nothing_is_reached_and_a_curve_of_another_network_is_not_told() -> None:
    metrics: dict[str, Any] = {"train": split(1.0, 0.99, 1.0)}
    metrics["target"] = measure_target(0.8, metrics, [{"epoch": 1, "seconds": 1.0}])
    (finding,) = describe_target(metrics)
    assert metrics["target"] == {"top1": 0.8, "reached": None}
    assert finding.text == "The accuracy of 80 % that was asked for is one of new pictures, and none were measured."
    kept = {"val": split(0.9, 0.87, 0.93), "head": {"kept": True}}
    assert measure_target(0.8, kept, HISTORY) == {"top1": 0.8, "reached": True}
    low = {"val": split(0.9, 0.87, 0.93)}
    low["target"] = measure_target(0.85, low, HISTORY)
    assert "Val did not have it after any epoch." in describe_target(low)[0].text
    assert measure_target(0.0, low, HISTORY) == {}
    low["target"] = measure_target(0.85, low, ())
    assert describe_target(low)[0].text.endswith(
        "Epochs and settings may have been chosen by val: test says it better."
    )
    assert describe_target({"val": low["val"]}) == []


def test_a_run_says_whether_it_has_what_was_asked(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {**TINY, "evaluation.target_top1": 0.99}
    run = eyespot.train(pictures, recipe="small", settings=asked, out=tmp_path / "run", observer=Terminal())
    found = run.metrics["target"]
    assert found["top1"] == 0.99
    assert found["reached"] is (False if run.metrics["test"]["top1_ci95"][1] < 0.99 else None)
    (finding,) = describe_target(run.metrics)
    assert finding.text in capsys.readouterr().err
    assert "that was asked for" in run.report.read_text(encoding="utf-8")

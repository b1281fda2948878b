"""The report on confidences and unknown pictures."""

from __future__ import annotations

from typing import Any

from eyespot.analysis.trust_section import trust_of
from eyespot.runs import Run


def metrics_with_rule() -> dict[str, Any]:
    numbers = {"ece": 0.19, "adaptive_ece": 0.18, "brier": 0.2, "nll_loss": 0.5, "reliability": [[0.5, 0.9, 40]]}
    unknown = {
        "refused": 6,
        "refused_fraction": 0.06,
        "refused_ci95": [0.03, 0.12],
        "accepted": 94,
        "accepted_top1": 0.95,
        "accepted_top1_ci95": [0.88, 0.98],
        "histogram": {"edges": [0.0, 1.0, 2.0], "right": [80, 9], "wrong": [4, 7]},
    }
    test = {**numbers, "ece": 0.0117, "ece_ci95": [0.0, 0.0312], "uncalibrated": numbers, "n": 100, "unknown": unknown}
    rule = {"rule": {"threshold": 1.5, "fraction": 0.05, "n": 400}, "note": ""}
    return {"test": test, "calibration": {"temperature": 0.533, "n": 400, "note": ""}, "unknown": rule}


def test_before_and_after_stand_beside_each_other() -> None:
    found = trust_of(metrics_with_rule(), "test")
    assert found is not None
    assert [row[:2] for row in found["rows"]] == [("before", "0.1900"), ("after", "0.0117 [0.0000, 0.0312]")]
    assert found["told"].startswith("Logits are divided by 0.533, the temperature that fits 400 val pictures best")
    assert "Here 6 are refused, 6.0 % [3.0, 12.0]; accuracy on the other 94: 95.0 % [88.0, 98.0]." in found["unknown"]
    # Conformal: of few val pictures, none at all is above the threshold.
    assert (
        "above 1.5, set on 400 val pictures so that of pictures like them at most 5.0 % are, on avera"
        in found["unknown"]
    )
    assert "unknown beyond" in found["histogram"]
    assert "before" in found["diagram"]


def test_without_val_or_a_rule_the_reason_is_said() -> None:
    metrics = metrics_with_rule()
    metrics["calibration"] = {"temperature": 1.0, "n": 0, "note": "there is no val split"}
    metrics["unknown"] = {"rule": None, "note": "there is no val split to set a threshold on"}
    del metrics["test"]["unknown"]
    found = trust_of(metrics, "test")
    assert found is not None
    assert found["told"] == "Logits are taken as they are. There is no val split."
    assert found["unknown"] == "There is no val split to set a threshold on."
    assert found["histogram"] == ""


def test_runs_of_old_and_runs_without_figures_have_no_section() -> None:
    assert trust_of({}, None) is None
    assert trust_of({"test": {"n": 3, "ece": 0.1}}, "test") is None


def test_the_report_of_a_run_has_it(trained: Run) -> None:
    page = trained.report.read_text(encoding="utf-8")
    assert '<section id="trust"' in page
    assert "Right answers by confidence" in page
    assert "the model never says unknown" in page


def test_ranges_of_few_pictures_are_drawn_as_one() -> None:
    metrics = metrics_with_rule()
    bins = [[0.2, 0.0, 1], [0.3, 1.0, 1], [0.5, 0.5, 8], [0.9, 0.95, 40], [0.98, 0.0, 2]]
    metrics["test"]["reliability"] = bins
    found = trust_of(metrics, "test")
    assert found is not None
    # 10 pictures, 5 of them right, at a mean confidence of 45 %; and 42 with 38 right.
    assert "after from 50 % to 90.48 %" in found["diagram"]
    assert found["diagram"].count('class="whisker') == 2
    metrics["test"]["reliability"] = [[0.5, 1.0, 3]]
    found = trust_of(metrics, "test")
    assert found is not None
    assert "after from 100 % to 100 %" in found["diagram"]

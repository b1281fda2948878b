"""What the report says about confidences and unknown pictures: a reliability diagram, its figures, and the score.

Before this: `metrics.json`. After this: `report` puts it on the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from eyespot.analysis import charts, words

_KEYS = ("ece", "adaptive_ece", "brier", "nll_loss")


def trust_of(metrics: Mapping[str, Any], split: str | None) -> dict[str, Any] | None:
    """Return what the template shows; None where the run has no figures before calibration, as runs of old have none.

    Args:
        metrics: `metrics.json`.
        split: The one that the report is about.
    """
    found = metrics.get(split or "", {})
    before, fitted = found.get("uncalibrated"), metrics.get("calibration") or {}
    if not before or not found.get("reliability"):
        return None
    return {
        "told": _calibration(fitted),
        "diagram": Markup(_diagram(before, found)),
        "rows": [
            (title, *(words.decimal(numbers.get(key), 4) for key in _KEYS))
            for title, numbers in (("before", before), ("after", found))
        ],
        "unknown": _unknown(metrics.get("unknown") or {}, found.get("unknown")),
        "histogram": Markup(_histogram(metrics.get("unknown") or {}, found.get("unknown"))),
    }


def _calibration(fitted: Mapping[str, Any]) -> str:
    note = f" {fitted['note'][:1].upper()}{fitted['note'][1:]}." if fitted.get("note") else ""
    if not fitted.get("n"):
        return f"Logits are taken as they are.{note}"
    return (
        f"Logits are divided by {fitted['temperature']:.3g}, the temperature at which {words.whole(fitted['n'])} val "
        f"pictures are most likely to have their labels; no answer changes by that.{note}"
    )


def _diagram(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return how often answers of each confidence are right, before and after, beside what would be true."""

    def series(name: str, css: str, numbers: Mapping[str, Any]) -> charts.Series:
        bins = numbers["reliability"]
        return charts.Series(name, css, [100 * row[0] for row in bins], [100 * row[1] for row in bins])

    return charts.line_chart(
        [
            charts.Series("ideal", "lr", [0.0, 100.0], [0.0, 100.0]),
            series("before", "train", before),
            series("after", "test", after),
        ],
        title="Share of right answers by confidence",
        x_label="confidence (per cent)",
        write_y=lambda value: f"{value:g} %",
    )


def _unknown(fitted: Mapping[str, Any], found: Mapping[str, Any] | None) -> str:
    rule = fitted.get("rule")
    if not rule:
        note = str(fitted.get("note") or "")
        return f"{note[:1].upper()}{note[1:]}." if note else ""
    told = (
        f"A picture is called unknown when its score is above {rule['threshold']:.3g}, as "
        f"{words.percent(rule['fraction'])} of {words.whole(rule['n'])} val pictures are."
    )
    if found:
        told += (
            f" Here {words.whole(found['refused'])} are refused, {words.percent(found['refused_fraction'])} "
            f"{words.interval(found['refused_ci95'])}{words.accuracy_on_the_rest(found)}."
        )
    return f"{told} Pictures that resemble a class without being of it are often not recognised."


def _histogram(fitted: Mapping[str, Any], found: Mapping[str, Any] | None) -> str:
    """Return how many right and wrong answers have which score, with the threshold."""
    if not found or not fitted.get("rule"):
        return ""
    shape = found["histogram"]
    edges = shape["edges"]
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return charts.line_chart(
        [
            charts.Series("right", "test", middles, shape["right"]),
            charts.Series("wrong", "val", middles, shape["wrong"]),
        ],
        title="Pictures by score",
        x_label="score: farther from training to the right",
        write_y=lambda value: f"{value:g}",
        mark_x=(fitted["rule"]["threshold"], "unknown beyond"),
    )

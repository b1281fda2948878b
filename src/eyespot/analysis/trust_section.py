"""What the report says about confidences and unknown pictures: a reliability diagram, its figures, and the score.

Before this: `metrics.json`. After this: `report` puts it on the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from eyespot.analysis import charts, words
from eyespot.evaluation.metrics import wilson_interval

# Fewer pictures say nothing of how often a confidence is right: 5 of 10 may be anything from 24 to 76 %.
LEAST_IN_BIN = 10


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
        "least": LEAST_IN_BIN,
        "diagram": Markup(_diagram(before, found)),
        "rows": [
            (title, *words.calibration_figures(numbers)) for title, numbers in (("before", before), ("after", found))
        ],
        "unknown": _unknown(metrics.get("unknown") or {}, found.get("unknown")),
        "histogram": Markup(_histogram(metrics.get("unknown") or {}, found.get("unknown"))),
    }


def _calibration(fitted: Mapping[str, Any]) -> str:
    note = words.sentence(fitted.get("note") or "")
    if not fitted.get("n"):
        return f"Logits are taken as they are. {note}".rstrip()
    told = (
        f"Logits are divided by {fitted['temperature']:.3g}, the temperature that fits "
        f"{words.plural(fitted['n'], 'val picture')} best, held back towards 1 where they say little; "
        f"no answer changes by that. {note}"
    )
    return told.rstrip()


def _diagram(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return how often answers of each confidence are right, before and after, beside what would be true."""

    def series(name: str, css: str, bins: Sequence[Sequence[float]]) -> charts.Series:
        return charts.Series(name, css, [100 * row[0] for row in bins], [100 * row[1] for row in bins])

    shown = _join_small(after["reliability"])
    bars = [
        charts.Bar("test", 100 * confidence, *(100 * end for end in wilson_interval(round(right * n), n)))
        for confidence, right, n in shown
    ]
    return charts.line_chart(
        [
            charts.Series("ideal", "lr", [0.0, 100.0], [0.0, 100.0]),
            series("before", "train", _join_small(before["reliability"])),
            series("after", "test", shown),
        ],
        bars=bars,
        title="Share of right answers by confidence",
        x_label="confidence (per cent)",
        write_y=lambda value: f"{value:.4g} %",
    )


def _join_small(bins: Sequence[Sequence[float]]) -> list[tuple[float, float, int]]:
    """Return rows of (confidence, accuracy, n), neighbours joined until each has `LEAST_IN_BIN` pictures.

    The accuracy of a range with one picture is 0 or 100 %, and a line through such ranges a zigzag that says nothing.
    """
    sums: list[tuple[float, float, int]] = []  # of the confidences, of the right answers, and pictures
    for confidence, right, n in bins:
        sums.append((confidence * n, right * n, int(n)))
        if len(sums) > 1 and sums[-2][2] < LEAST_IN_BIN:
            sums[-2:] = [_added(*sums[-2:])]
    if len(sums) > 1 and sums[-1][2] < LEAST_IN_BIN:
        sums[-2:] = [_added(*sums[-2:])]
    return [(confidences / n, right / n, n) for confidences, right, n in sums]


def _added(first: tuple[float, float, int], second: tuple[float, float, int]) -> tuple[float, float, int]:
    return first[0] + second[0], first[1] + second[1], first[2] + second[2]


def _unknown(fitted: Mapping[str, Any], found: Mapping[str, Any] | None) -> str:
    rule = fitted.get("rule")
    if not rule:
        return words.sentence(fitted.get("note") or "")
    told = f"A picture is called unknown when its score is above {rule['threshold']:.3g}, {words.unknown_rule(rule)}."
    if found:
        told += (
            f" Here {words.plural(found['refused'], 'is', 'are')} refused, {words.percent(found['refused_fraction'])} "
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
        write_y=words.whole,
        whole_y=True,
        mark_x=(fitted["rule"]["threshold"], "unknown beyond"),
    )

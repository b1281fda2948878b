"""The page of a comparison: what can be told about some runs, what it cost, and the pictures they disagree on.

Before this: `compare` found it, `comparing` fetched the pictures. After this: one HTML file that opens offline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eyespot.analysis import charts, words
from eyespot.analysis.compare import Comparison
from eyespot.analysis.compared_runs import ComparedRun
from eyespot.analysis.pages import render_page, thumbnail, write_page
from eyespot.arrays import UInt8Array
from eyespot.evaluation.statistics import accuracy_error

_COLOURS = 6
# Of more lines two would have one colour.
_MOST_CURVES = _COLOURS


@dataclass(frozen=True)
class Flip:
    """A picture that only one of two runs names right.

    Attributes:
        pixels: uint8 (H, W, C) with C 1 or 3.
        true_name: Its class.
        wrong_name: What the other run called it.
        sample_id: Where it is.
    """

    pixels: UInt8Array
    true_name: str
    wrong_name: str
    sample_id: str


@dataclass(frozen=True)
class Flips:
    """Some of the pictures that `right` names right and `wrong` does not; both are letters, `total` counts them all."""

    right: str
    wrong: str
    total: int
    pictures: Sequence[Flip]


def write_comparison(found: Comparison, path: Path, *, flips: Sequence[Flips] = (), no_flips: str = "") -> None:
    """Write a comparison as one HTML file without any outside request.

    Args:
        found: What is compared.
        path: The file.
        flips: Pictures on which runs disagree.
        no_flips: Why there are none, in a sentence; else it is said which pairs they are of.

    Raises:
        RunError: The file cannot be written.
    """
    write_page(render_comparison(found, flips=flips, no_flips=no_flips), path)


def render_comparison(found: Comparison, *, flips: Sequence[Flips] = (), no_flips: str = "") -> str:
    """Return the page of a comparison as text."""
    runs = found.runs
    context = {
        "title": _title(runs),
        "split": found.split,
        "n": words.whole(found.n),
        "lead": _lead(found),
        "runs": [_row(run, place) for place, run in enumerate(runs)],
        "intervals": Markup(_intervals(found)),
        "groups": [_group_row(found, place) for place in range(len(found.groups))],
        "several_seeds": any(group.top1.n > 1 for group in found.groups),
        "group_sentences": [pair.sentence for pair in found.group_pairs],
        "pairs": [_pair_row(found, place) for place in range(len(found.pairs))],
        "corrected": len(found.pairs) > 1,
        "curves": [(name, Markup(svg)) for name, svg in _curves(runs) if svg],
        "curves_left_out": max(0, len(runs) - _MOST_CURVES),
        "without_curve": ", ".join(run.letter for run in runs[:_MOST_CURVES] if not run.history),
        "costs": [(name, Markup(svg)) for name, svg in _costs(runs) if svg],
        "flips": [_show_flips(one) for one in flips],
        "no_flips": no_flips or _say_shown(runs, flips),
        "notes": found.notes,
    }
    return render_page("comparison.html.j2", context)


def _title(runs: Sequence[ComparedRun]) -> str:
    names = [run.name for run in runs]
    if len(names) > 4:
        return f"{names[0]}, {names[1]} and {len(names) - 2} more runs"
    return _listed(names)


def _listed(names: Sequence[str]) -> str:
    """Return two names or more as `a, b and c`."""
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _css(place: int) -> str:
    return f"r{place % _COLOURS}"


def _lead(found: Comparison) -> str:
    """Return the sentence that answers the first question: which one is best, and can that be told."""
    runs = found.runs
    if len(runs) == 2:
        return found.pairs[0].sentence
    most = max(runs, key=lambda run: run.top1)
    best = [place for place, run in enumerate(runs) if run.top1 == most.top1]
    figure = f"{words.percent(most.top1)} {words.interval((most.low, most.high))}"
    if len(best) == len(runs):
        return f"All {len(runs)} runs name equally many of {words.plural(found.n, 'picture')} right, {figure}."
    alike = {frozenset((pair.first, pair.second)) for pair in found.pairs if pair.p_holm >= 0.05}
    level = [
        run.name
        for place, run in enumerate(runs)
        if place not in best and any(frozenset((place, one)) in alike for one in best)
    ]
    lead = f"{most.name} names" if len(best) == 1 else f"{_listed([runs[place].name for place in best])} name"
    lead += f" the most pictures right, {figure}{' each' if len(best) > 1 else ''}"
    if not level:
        return f"{lead}, and can be told from every other run."
    if len(level) == len(runs) - len(best):
        return f"{lead}, but cannot be told from any other run on {words.plural(found.n, 'picture')}."
    return f"{lead}, but cannot be told from {', '.join(level)} on {words.plural(found.n, 'picture')}."


def _row(run: ComparedRun, place: int) -> dict[str, str]:
    return {
        "letter": run.letter,
        "css": _css(place),
        "name": run.name,
        "seed": str(run.seed),
        "top1": f"{words.percent(run.top1)} {words.interval((run.low, run.high))}",
        "loss": words.decimal(run.nll_loss),
        "ece": words.calibration_error(run.ece, run.ece_ci95),
        "minutes": words.minutes(run.minutes),
        "parameters": words.MISSING if run.parameters is None else words.whole(run.parameters),
        "gflop": words.MISSING if run.gflop is None else f"{run.gflop:.3g}",
        "pace": words.MISSING if run.images_per_second is None else words.whole(run.images_per_second),
        "per_minute": words.decimal(run.points_per_minute, 1),
        "device": run.device or words.MISSING,
        "train": _say_split(run, "train"),
        "val": _say_split(run, "val"),
        "test": _say_split(run, "test"),
        "gap": words.MISSING if run.gap is None else words.signed_points(run.gap),
    }


def _say_split(run: ComparedRun, split: str) -> str:
    """Return the accuracy on a split with its interval and n, as far as the run tells them."""
    top1, n = run.split_top1.get(split), run.split_n.get(split)
    if top1 is None or n is None:
        return words.percent(top1)
    return f"{words.share(round(top1 * n), n)}, n = {words.whole(n)}"


def _intervals(found: Comparison) -> str:
    rows = [
        charts.Interval(run.letter, _css(place), run.top1, run.low, run.high) for place, run in enumerate(found.runs)
    ]
    # Without the class names, the label range: chance is only a mark on the axis.
    classes = len(found.class_names) or int(found.labels.max()) + 1
    return charts.interval_chart(rows, title="Accuracy with 95 % interval by run", chance=1 / classes)


def _group_row(found: Comparison, place: int) -> dict[str, str]:
    group = found.groups[place]
    noise = accuracy_error(group.top1.mean, found.n)
    one = group.top1.n == 1
    return {
        "name": group.name,
        "runs": ", ".join(found.runs[member].letter for member in group.runs),
        "n": str(group.top1.n),
        "mean": words.percent(group.top1.mean),
        "std": words.MISSING if one else f"{100 * group.top1.std:.2f}",
        "interval": words.MISSING
        if math.isnan(group.top1.low)
        else words.interval(words.in_range(group.top1.low, group.top1.high)),
        "noise": f"{100 * noise:.2f}",
    }


def _pair_row(found: Comparison, place: int) -> dict[str, str]:
    pair = found.pairs[place]
    return {
        "first": found.runs[pair.first].letter,
        "second": found.runs[pair.second].letter,
        "first_css": _css(pair.first),
        "second_css": _css(pair.second),
        "difference": words.signed_points(pair.difference),
        "interval": words.signed_interval((pair.low, pair.high)),
        "only_first": words.whole(pair.only_first),
        "only_second": words.whole(pair.only_second),
        "p": words.p_cell(pair.p_value),
        "p_holm": words.p_cell(pair.p_holm),
        "sentence": pair.sentence,
    }


def _curves(runs: Sequence[ComparedRun]) -> list[tuple[str, str]]:
    """Return the charts of loss and accuracy over the epochs, val solid and train dashed."""
    drawn = []
    for key, title in (("top1", "Accuracy"), ("loss", "Loss (nats)")):
        series = [one for place, run in enumerate(runs[:_MOST_CURVES]) for one in _series(run, place, key)]
        chart = charts.line_chart(
            series,
            title=title,
            x_label="epoch",
            write_y=words.axis_percent if key == "top1" else words.axis_number,
            log_y=key == "loss" and charts.loss_is_logarithmic(series),
            height=260.0,
        )
        drawn.append((title, chart))
    return drawn


def _series(run: ComparedRun, place: int, key: str) -> list[charts.Series]:
    """Return a run's lines: val where it has one, which carries the letter, and train."""
    if not run.history:
        return []
    has_val = any(row.get(f"val/{key}") is not None for row in run.history)
    lines = [charts.series_of(run.history, f"val/{key}", run.letter, _css(place))] if has_val else []
    name = "" if has_val else run.letter
    return [*lines, charts.series_of(run.history, f"train/{key}", name, f"{_css(place)} dashed")]


def _costs(runs: Sequence[ComparedRun]) -> list[tuple[str, str]]:
    """Return accuracy over each cost that the runs tell and that is not the same for all of them."""
    axes: tuple[tuple[str, str, list[float | None]], ...] = (
        ("Minutes of training", "minutes", [run.minutes for run in runs]),
        (
            "Parameters",
            "million parameters",
            [None if run.parameters is None else run.parameters / 1e6 for run in runs],
        ),
        ("Computation", "GFLOP for one picture", [run.gflop for run in runs]),
        ("Training pace", "pictures/s", [run.images_per_second for run in runs]),
    )
    drawn = []
    for title, label, values in axes:
        spots = [
            charts.Spot(run.letter, _css(place), value, run.top1, run.low, run.high)
            for place, (run, value) in enumerate(zip(runs, values, strict=True))
            if value
        ]
        if len({spot.x for spot in spots}) > 1:
            chart = charts.cost_chart(spots, title=f"Accuracy over {label}", x_label=label, write_y=words.axis_percent)
            drawn.append((title, chart))
    return drawn


def _say_shown(runs: Sequence[ComparedRun], flips: Sequence[Flips]) -> str:
    """Return which pairs the pictures are of, where those are not all; the table of pairs counts the others."""
    rivals = [run.letter for run in runs[1:] if any(run.letter in (one.right, one.wrong) for one in flips)]
    if not rivals or len(runs) == 2:
        return ""
    return f"Shown for {runs[0].letter} against {', '.join(rivals)} only. Counted for every pair in the table above."


def _show_flips(flips: Flips) -> dict[str, Any]:
    pictures = [
        {**thumbnail(flip.pixels), "true": flip.true_name, "wrong": flip.wrong_name, "id": flip.sample_id}
        for flip in flips.pictures
    ]
    return {
        "right": flips.right,
        "wrong": flips.wrong,
        "total": words.plural(flips.total, "picture"),
        "shown": len(pictures),
        "all": len(pictures) == flips.total,
        "pictures": pictures,
    }

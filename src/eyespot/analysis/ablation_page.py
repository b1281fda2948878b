"""The page of an ablation: what matters, by how much, every seed, and what that can and cannot say.

Before this: `ablation` measured it. After this: one HTML file that opens offline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from eyespot.analysis import charts, words
from eyespot.analysis.ablation import Ablation, Effect
from eyespot.analysis.pages import render_page, write_page

_HUES = {"better": "r2", "worse": "r4", "same": "claim"}


def write_ablation(
    found: Ablation, path: Path, *, reports: Mapping[str, str], commands: Sequence[tuple[str, str]]
) -> None:
    """Write an ablation as one HTML file without any outside request.

    Args:
        found: What is shown.
        path: The file.
        reports: Relative path of a run's report, by point and seed as `NAME-seed0`.
        commands: What to do next, and how.

    Raises:
        RunError: The file cannot be written.
    """
    write_page(render_ablation(found, reports=reports, commands=commands), path)


def render_ablation(
    found: Ablation, *, reports: Mapping[str, str] | None = None, commands: Sequence[tuple[str, str]] = ()
) -> str:
    """Return the page of an ablation as text."""
    measured = [effect for effect in found.effects if effect.seeds]
    seeds = sorted({seed for effect in [found.baseline, *measured] for seed in effect.seeds})
    whole = all(len(effect.seeds) == len(seeds) for effect in found.effects)
    pictures = (
        f", {words.plural(len(seeds), 'seed')} {'each' if whole else 'at most'},"
        f" on {words.plural(found.n, found.split + ' picture')}"
        if found.n
        else ""
    )
    rows = [charts.Delta(e.title, _css(e), 100 * e.difference.mean, *_bounds(e), _each(e)) for e in measured]
    context = {
        "title": f"Ablation of {found.recipe} on {Path(found.data).name}",
        "subtitle": f"{words.plural(len(found.effects), 'change')}, one at a time{pictures}",
        "lead": lead(found),
        "baseline": describe_level(found.baseline),
        "split": found.split,
        "n": words.whole(found.n),
        "measured": ""
        if not found.baseline.seeds
        else f" on {found.split}, n = {words.whole(found.n)}, {words.plural(found.baseline.top1.n, 'seed')}",
        "chart": Markup(charts.delta_chart(rows, title=f"Difference in accuracy on {found.split}, in points")),
        "one_seed": len(seeds) == 1,
        "compared": bool(measured),
        "corrected": len(measured) > 1,
        "effects": [_row(effect, found.baseline) for effect in found.effects],
        "seeds": seeds,
        "runs": [_seed_row(effect, seeds, reports or {}) for effect in [found.baseline, *found.effects]],
        "notes": found.notes,
        "commands": commands,
    }
    return render_page("ablation.html.j2", context)


def lead(found: Ablation) -> str:
    """Return the sentence that answers the first question: what matters."""
    measured = [effect for effect in found.effects if effect.seeds]
    if not measured:
        return "Nothing can be compared yet: the baseline and one change have to be finished."
    told = sorted((e for e in measured if e.is_told), key=lambda effect: effect.difference.mean)
    rest = len(measured) - len(told)
    if not told:
        which = f"{measured[0].title!r}" if len(measured) == 1 else f"any of the {len(measured)} changes"
        return f"No difference to the baseline can be told for {which}."
    parts = [f"{effect.title} {words.signed_points(effect.difference.mean)}" for effect in told]
    text = f"{'These make' if len(told) > 1 else 'This makes'} a difference: {', '.join(parts)}."
    return (
        f"{text} For the other {rest}, none can be told."
        if rest > 1
        else text + (" For the other one, none can be told." if rest else "")
    )


def describe_level(effect: Effect) -> str:
    """Return an accuracy with its interval and its deviation over seeds, as `90.4 % [89.7, 91.1] ± 0.3`."""
    if not effect.seeds:
        return effect.reason
    spread = "" if effect.top1.n == 1 else f" ± {100 * effect.top1.std:.2f}"
    return f"{words.mean_percent(effect.top1.mean, effect.top1.low, effect.top1.high)}{spread}"


def _css(effect: Effect) -> str:
    if not effect.is_told:
        return _HUES["same"]
    return _HUES["better" if effect.difference.mean > 0 else "worse"]


def _bounds(effect: Effect) -> tuple[float, float]:
    return 100 * effect.difference.low, 100 * effect.difference.high


def _each(effect: Effect) -> list[float]:
    return [100 * delta for delta in effect.deltas] if len(effect.deltas) > 1 else []


def _row(effect: Effect, baseline: Effect) -> dict[str, str]:
    found = effect.difference
    known = bool(effect.seeds)
    interval = words.signed_interval((found.low, found.high)) if known and math.isfinite(found.low) else words.MISSING
    minutes = words.duration(None if effect.minutes is None else 60 * effect.minutes)
    if effect.minutes and baseline.minutes:
        minutes += f" ({100 * (effect.minutes / baseline.minutes - 1):+.0f} %)".replace("-", "\N{MINUS SIGN}")
    return {
        "css": _css(effect),
        "title": effect.title,
        "detail": effect.detail,
        "top1": describe_level(effect) if known else words.MISSING,
        "difference": words.signed_points(found.mean) if known else words.MISSING,
        "interval": interval,
        "noise": f"{100 * effect.picture_error:.2f}" if known else words.MISSING,
        "p": words.p_cell(effect.p_value) if known else words.MISSING,
        "p_holm": words.p_cell(effect.p_holm) if known else words.MISSING,
        "minutes": minutes,
        "sentence": effect.sentence,
        "reason": effect.reason,
    }


def _seed_row(effect: Effect, seeds: Sequence[int], reports: Mapping[str, str]) -> dict[str, object]:
    deltas = dict(zip(effect.seeds, effect.deltas, strict=False))
    cells = []
    for seed in seeds:
        text = words.MISSING if seed not in effect.seeds else "finished"
        if seed in deltas:
            text = words.signed_points(deltas[seed]).removesuffix(" points")
        cells.append((text, reports.get(f"{effect.name}-seed{seed}", "")))
    return {"title": effect.title, "cells": cells}

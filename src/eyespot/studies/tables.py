"""What a study has and what came of it, as lines for a terminal and as JSON.

Before this: `schema` and `runner`. After this: `eyespot study show` and `eyespot study run` print it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eyespot.analysis import words
from eyespot.analysis.headline import describe_top1, headline_split
from eyespot.errors import quoted
from eyespot.mistakes import MISTAKES
from eyespot.studies.points import Outcome
from eyespot.studies.schema import RIGHT, Claim, Study

_SPLIT_WORDS = {"unknown": "published, unknown split"}


def describe_claim(claim: Claim, pixels: str = "original pixels") -> str:
    """Return a published number: `77.4 % ± 0.8 on test (n = 10,000, original pixels)`; `pixels`: what it is of."""
    error = f" ± {100 * claim.error:.1f}" if claim.error is not None else ""
    count = f"n = {words.whole(claim.n)}" if claim.n else "n not given"
    split = _SPLIT_WORDS.get(claim.split) or f"on {claim.split}"
    return f"{words.percent(claim.top1)}{error} {split} ({count}{', ' * bool(pixels)}{pixels})"


def cite_claim(claim: Claim, pixels: str) -> str:
    """Return a published number with the place where it stands."""
    return ", ".join(filter(None, (describe_claim(claim, pixels), claim.line)))


def describe_study(study: Study, name: str = "") -> str:
    """Return a study's points, each with its claims, its words and its mistakes, and the command that runs the first.

    Args:
        study: The study.
        name: What the user called it, which may be a file; its own name when left out.
    """
    by = ", ".join(filter(None, (study.author, study.year)))
    lines = [f"{by}{': ' * bool(by)}{study.title} ({study.kind})", ""]
    for point in study.points:
        where = f" ({point.line})" if point.line else ""
        lines.append(f"{point.id}: {point.title}{where}")
        lines += [f"    published: {cite_claim(claim, study.pixels)}" for claim in point.claims]
        lines += [f"    it says: {point.says}"] if point.says else []
        lines += [f"    mistake: {MISTAKES[mistake].text}" for mistake in point.mistakes]
        lines += [f"    done right: {point.id}{RIGHT}"] if point.mistakes else []
    lines += [f"not repeated: {omission.what}: {omission.why}" for omission in study.not_reproduced]
    return "\n".join([*lines, "", f"eyespot study run {quoted(name or study.name)} --only {study.points[0].id}"])


def describe_outcomes(outcomes: Sequence[Outcome]) -> str:
    """Return a line for each point: its figure with split, n and interval, or why there is none."""
    width = max(len(outcome.point.id) for outcome in outcomes)
    lines = []
    for outcome in outcomes:
        text = outcome.state if not outcome.reason else f"{outcome.state}: {outcome.reason}"
        if outcome.state == "finished" and outcome.run is not None:
            metrics = outcome.run.metrics
            split = headline_split(metrics)
            text = describe_top1(metrics[split], split) if split else "nothing was measured"
        lines.append(f"{outcome.point.id:<{width}}  {text}")
    return "\n".join(lines)


def outcomes_as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return what became of each point as JSON values."""
    return [
        {
            "id": outcome.point.id,
            "title": outcome.point.title,
            "state": outcome.state,
            "reason": outcome.reason,
            "run": str(outcome.run.path) if outcome.run is not None else None,
            "metrics": outcome.run.metrics if outcome.run is not None and outcome.state == "finished" else None,
        }
        for outcome in outcomes
    ]

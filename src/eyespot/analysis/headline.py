"""An accuracy as it may be shown: with its split, n, interval and views, and what must be said before it.

Before this: `metrics.json`. After this: the terminal, the report, the model card and every table write it the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eyespot.analysis import words


def headline_split(metrics: Mapping[str, Any]) -> str | None:
    """Return the split whose figure stands for the run: test, else val, else train for want of another, else None."""
    return next((split for split in ("test", "val", "train") if metrics.get(split)), None)


def summary_line(metrics: Mapping[str, Any]) -> str:
    """Return the figure that stands for a run: accuracy with interval, split, n and views."""
    split = headline_split(metrics)
    return describe_top1(metrics[split], split) if split else "nothing was measured"


def describe_top1(metrics_split: Mapping[str, Any], split: str) -> str:
    """Return an accuracy as it may be shown: `94.1 % [93.6, 94.5] on test (n = 10,000, 1 view)`.

    Args:
        metrics_split: One split of `metrics.json`: `top1` and both ends of `top1_ci95` in [0, 1], `n`, and where
            they are recorded the name of the test-time `views`; `flaw` stands before everything else, and how many
            pictures are `also_in_train` at the end; `drawn_from` how many a sample was drawn.
        split: Its name.
    """
    views = describe_views(metrics_split.get("views"))
    bounds = words.interval(metrics_split["top1_ci95"])
    count = f"n = {describe_count(metrics_split)}"
    flaw = f"{metrics_split['flaw']}: " if metrics_split.get("flaw") else ""
    leaked = metrics_split.get("also_in_train", 0)
    shared = f"; {words.whole(leaked)} of them {'is' if leaked == 1 else 'are'} also in train or val" if leaked else ""
    accuracy = f"{words.percent(metrics_split['top1'])} {bounds}"
    return f"{flaw}{accuracy} on {split} ({count}{', ' if views else ''}{views}{shared})"


def describe_views(views: str | None) -> str:
    """Return the name of test-time views as few words: `1 view`; the empty string where none are recorded."""
    short = {"none": "1 view", "mirror": "2 views: mirror", "mirror-shift": "6 views: mirror and shift"}
    return short.get(views, views) if views else ""


def describe_count(metrics_split: Mapping[str, Any]) -> str:
    """Return how many pictures of a split were measured: `10,000 of 45,000` where they were drawn from more."""
    count, drawn_from = words.whole(metrics_split["n"]), metrics_split.get("drawn_from")
    return f"{count} of {words.whole(drawn_from)}" if drawn_from else count

"""The section of a report that shows what corruptions leave of an accuracy, put into a report that is already there.

Before this: `evaluation.robustness` measured the grid, often long after the training. After this: the same page, with
one section more.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eyespot.analysis import words
from eyespot.analysis.headline import describe_top1
from eyespot.analysis.pages import render_page, write_page
from eyespot.errors import RunError

_BEGIN, _END = "<!-- robustness -->", "<!-- end of robustness -->"
_BEFORE = '<section id="data"'
_LINK, _LINK_BEFORE = '<li><a href="#robustness">Worse pictures</a></li>', '<li><a href="#data">'


def add_section(report: Path, found: Mapping[str, Any]) -> None:
    """Put the section into a report, in the place of an older one, and a link to it among those at the top.

    Args:
        report: report.html of a run.
        found: What `robustness` returns.

    Raises:
        RunError: The file cannot be read or written, or is no report.
    """
    try:
        page = report.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError("cannot read the report", where=report, remedy="train again, or leave it") from error
    if _BEGIN in page and _END in page:
        page = page[: page.index(_BEGIN)] + page[page.index(_END) + len(_END) :].lstrip("\n")
    if _BEFORE not in page:
        raise RunError("no place for the grid", where=report, remedy="train again with this version")
    if _LINK not in page:
        page = page.replace(_LINK_BEFORE, f"{_LINK}\n{_LINK_BEFORE}", 1)
    section = f"{_BEGIN}\n{render_section(found)}\n{_END}\n"
    write_page(page.replace(_BEFORE, section + _BEFORE, 1), report)


def render_section(found: Mapping[str, Any]) -> str:
    """Return the section as HTML."""

    def cells(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                "share": figure["top1"],
                "shown": _whole_percent(figure["top1"]),
                "told": f"{words.percent(figure['top1'])} {words.interval(figure['top1_ci95'])}",
            }
            for figure in figures
        ]

    rows = [
        {"kind": kind, "cells": cells(figures), "mean": words.percent(_mean(figures)).removesuffix(" %")}
        for kind, figures in found["corruptions"].items()
    ]
    clean = {**found["clean"], "n": found["n"], "views": found["views"], "flaw": found.get("flaw", "")}
    return render_page(
        "robustness.html.j2",
        {
            "clean": describe_top1(clean, found["split"]),
            "drawn": "" if found["n"] == found["of"] else f" of the {words.whole(found['of'])}",
            "n": words.whole(found["n"]),
            "split": found["split"],
            "flaw": found.get("flaw", ""),
            "reach": words.corruption_reach(found),
            "error": words.corruption_error(found),
            "rows": rows,
            "shifted": cells(found["shifted"]),
            "mirrored": cells([found["mirrored"]])[0],
            "seed": found["seed"],
        },
    ).strip()


def _mean(figures: list[dict[str, Any]]) -> float:
    return float(sum(one["top1"] for one in figures) / len(figures))


def _whole_percent(share: float) -> str:
    """Return a share in per cent without digits, except where that would make all or nothing of what is not."""
    text = f"{100 * share:.0f}"
    return text if text not in {"0", "100"} else words.percent(share).removesuffix(" %").removesuffix(".0")

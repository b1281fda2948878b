"""`eyespot compare`: which of some runs is better, and whether that can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eyespot.commands.options import JsonOption


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders, two or more.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write the comparison as a page.")] = None,
    split: Annotated[
        str | None, typer.Option(metavar="test|val", help="Where to compare; test where every run has it, else val.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare runs picture by picture: accuracies, tests of the differences, seeds, costs.

    Example: eyespot compare runs/a runs/b --out compare.html
    """
    from eyespot.comparing import compare as run_comparison
    from eyespot.comparing import print_comparison
    from eyespot.errors import printable
    from eyespot.terminal import Terminal, print_json

    with Terminal(quiet=json) as terminal:
        found = run_comparison(*runs, out=out, split=split, observer=terminal)
    if json:
        print_json({**found.as_dict(), "page": None if out is None else str(out)})
    else:
        print_comparison(found)
        if out is not None:
            print(printable(f"page: {out}"))

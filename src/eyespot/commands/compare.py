"""`eyespot compare`: which of some runs is better, and whether that can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eyespot.commands.options import JsonOption


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders, two or more.")],
    split: Annotated[
        str | None, typer.Option(metavar="test|val", help="Where to compare; test where every run has it, else val.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare runs picture by picture: accuracies, tests of the differences, seeds, costs.

    Example: eyespot compare runs/a runs/b
    """
    from eyespot.comparing import compare as run_comparison
    from eyespot.comparing import print_comparison
    from eyespot.terminal import print_json

    found = run_comparison(*runs, split=split)
    if json:
        print_json(found.as_dict())
    else:
        print_comparison(found)

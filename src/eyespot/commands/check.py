"""`eyespot check`: look at data before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eyespot.commands.options import DataArgument, JsonOption


def check(
    data: DataArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page with the pictures that were found."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Scan a data set before training: bad files, copies and near copies, leaks, odd pictures, drift, class counts.

    Example: eyespot check photos/ --out check.html
    """
    from eyespot.checking import check as run_check
    from eyespot.terminal import Terminal, print_json

    with Terminal(quiet=json) as terminal:
        card, decisions = run_check(data, out=out, observer=terminal)
    if json:
        print_json({**card, "decisions": decisions})
    else:
        from eyespot.tables import print_data_card

        print_data_card(card, decisions)
        if out is not None:
            print(f"page: {out.expanduser().resolve()}")
        elif card["near"]["pairs"]:
            print("to look at the pictures: --out FILE.html")
    if decisions:
        raise typer.Exit(1)

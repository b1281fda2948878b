"""`eyespot runs`: the runs in a folder as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eyespot.commands.options import JsonOption


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to look.")] = Path("runs"),
    sort: Annotated[
        str, typer.Option(metavar="created|name|test|val|minutes|params", help="Order; the highest comes last.")
    ] = "created",
    tag: Annotated[str | None, typer.Option(help="Only runs with this tag of `eyespot note`.")] = None,
    json: JsonOption = False,
) -> None:
    """List the runs in a folder, with those of its studies and ablations.

    Example: eyespot runs runs/ --sort val
    """
    from eyespot.tables import show_runs

    show_runs(folder, json=json, sort=sort, tag=tag)

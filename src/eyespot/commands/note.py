"""`eyespot note`: notes and tags on a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eyespot.commands.options import JsonOption


def note(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or not.")],
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="A new note; without one, show them.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Add a tag; may be repeated.")] = None,
    untag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Take a tag away.")] = None,
    json: JsonOption = False,
) -> None:
    """Write a note or tags on a run, or show them; `eyespot runs` lists the tags.

    Example: eyespot note runs/photos "second camera, same lens" --tag baseline
    """
    from dataclasses import asdict

    from eyespot.errors import printable
    from eyespot.notes import annotate
    from eyespot.terminal import print_json

    found = annotate(run, note=text, tags=tag or (), untag=untag or ())
    if json:
        print_json(asdict(found))
        return
    print(f"tags: {printable(', '.join(found.tags)) or 'none'}")
    for entry in found.notes:
        print(f"{entry.time}  {printable(entry.text)}")

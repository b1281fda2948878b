"""`eyespot recipes`: the recipes that come with eyespot."""

from __future__ import annotations

from typing import Annotated

import typer

from eyespot.commands.options import JsonOption


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Print this recipe.")] = None,
    json: JsonOption = False,
) -> None:
    """List the recipes that come with eyespot, or print one.

    Example: eyespot recipes fast > mine.toml
    """
    from eyespot.config import load_config, recipe_names, recipe_text
    from eyespot.terminal import print_json

    if name is not None:
        if json:
            print_json(load_config(name).model_dump(mode="json"))
        else:
            print(recipe_text(name), end="")
        return
    rows = [{"name": known, "description": load_config(known).description} for known in recipe_names()]
    if json:
        print_json(rows)
    else:
        for row in rows:
            print(f"{row['name']:<20} {row['description']}")

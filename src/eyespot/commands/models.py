"""`eyespot models`: the networks, and one layer by layer."""

from __future__ import annotations

from typing import Annotated

import typer

from eyespot.commands.options import JsonOption


def models(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this model's layers.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the input in pixels.")] = None,
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 10,
    channels: Annotated[int, typer.Option(min=1, help="1 for grey, 3 for RGB.")] = 3,
    json: JsonOption = False,
) -> None:
    """List the networks, or show one layer by layer.

    Example: eyespot models vgg16-mini --size 32
    """
    from eyespot.tables import show_model, show_models

    if name is None:
        show_models(json=json)
    else:
        show_model(name, size=size, classes=classes, channels=channels, json=json)

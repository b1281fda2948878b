"""`eyespot models`: the networks, and one layer by layer."""

from __future__ import annotations

from typing import Annotated

import typer

from eyespot.commands.options import JsonOption
from eyespot.errors import UsageError


def models(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this model's layers.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="With NAME: side of the input in pixels.")] = None,
    classes: Annotated[int | None, typer.Option(min=2, help="With NAME: number of classes; 10 when left out.")] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, help="With NAME: 1 for grey, 3 for RGB; 3 when left out.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the networks, or show one layer by layer.

    Example: eyespot models vgg16-mini --size 32
    """
    from eyespot.tables import show_model, show_models

    if name is not None:
        show_model(name, size=size, classes=classes or 10, channels=channels or 3, json=json)
        return
    for option, given in (("--size", size), ("--classes", classes), ("--channels", channels)):
        if given is not None:
            raise UsageError(f"{option} is for one model", where="the command line", remedy="name the model")
    show_models(json=json)

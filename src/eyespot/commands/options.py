"""The arguments and options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_DATA = "cifar10, cifar100, fashion-mnist, digits, a folder, an archive, a CSV or arrays in a .npz"
DataArgument = Annotated[str, typer.Argument(metavar="DATA", help=f"{_DATA}.")]
OptionalDataArgument = Annotated[str | None, typer.Argument(metavar="DATA", help=f"{_DATA}; cifar10 when left out.")]
RunArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run folder, a bundle, or a model that comes with eyespot (eyespot models)."),
]
DeviceOption = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute; cuda:1 is the second GPU.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; may be repeated.")
]
FixOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.csv", help="Use the accepted corrections of check --labels --csv; no file is changed."),
]
BadImageOption = Annotated[
    str | None,
    typer.Option("--on-bad-image", metavar="refuse|skip", help="What to do about files that cannot be decoded."),
]


def as_settings(changes: dict[str, Any]) -> list[str]:
    """Return options that were given as --set would have them; JSON values of these kinds are TOML values."""
    from json import dumps

    return [f"{key}={dumps(value)}" for key, value in changes.items() if value is not None]

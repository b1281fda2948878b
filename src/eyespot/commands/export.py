"""`eyespot export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eyespot.commands.options import JsonOption, RunArgument


def export(
    run: RunArgument,
    format: Annotated[str, typer.Option(metavar="onnx|torch|safetensors", help="What to write.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights and activations (onnx); needs the data.")] = False,
    half: Annotated[bool, typer.Option("--half", help="float16 weights, half the size (safetensors).")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to; RUN/export or NAME-export when left out.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a trained model as a file that takes pictures and needs nothing of eyespot.

    Example: eyespot export runs/photos --format onnx --int8
    """
    from eyespot.exporting import export as run_export
    from eyespot.terminal import Terminal, print_json

    with Terminal(quiet=json) as terminal:
        found = run_export(run, format, out=out, int8=int8, half=half, observer=terminal)
    if json:
        print_json(found.as_dict())
    else:
        print(found.describe())

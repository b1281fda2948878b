"""`eyespot serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eyespot.commands.options import DeviceOption


def serve(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN|FILE.onnx", help="A run, a bundle, a model's name, or a file of eyespot export."),
    ],
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 for everybody.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one and tells it.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ask clients for the token in it; or set EYESPOT_TOKEN."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A further Host that requests may name; may be repeated."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not log requests.")] = False,
    device: DeviceOption = "auto",
    engine: Annotated[str, typer.Option(metavar="auto|onnx|torch", help="What computes; torch is predict's.")] = "auto",
) -> None:
    """Answer pictures over HTTP, with a page for people; only this machine can reach it unless told otherwise.

    Example: eyespot serve runs/photos --port 8000
    """
    from eyespot.deployment.server import read_token
    from eyespot.deployment.server import serve as run_server

    token = read_token(token_file)
    run_server(
        run,
        host=host,
        port=port,
        token=token,
        allow_hosts=allow_host or (),
        device=device,
        engine=engine,
        log=not quiet,
    )

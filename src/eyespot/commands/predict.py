"""`eyespot predict`: what is in pictures, printed, as JSON, or a CSV file of any length."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from eyespot.commands.options import DeviceOption, JsonOption, RunArgument
from eyespot.errors import UsageError


def predict(
    run: RunArgument,
    pictures: Annotated[
        list[str], typer.Argument(metavar="PICTURE|FOLDER|-...", help="Files, folders, or - for one picture on stdin.")
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 1,
    json: JsonOption = False,
    csv: Annotated[
        str | None,
        typer.Option("--csv", metavar="FILE|-", help="Write CSV; the same command goes on after a kill. - prints it."),
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(metavar="none|mirror|mirror-shift", help="Test-time views; the model's own when left out."),
    ] = None,
    unknown: Annotated[
        Literal["auto", "never"],
        typer.Option(
            metavar="auto|never", help="auto: say unknown of pictures far from all that the model was trained on."
        ),
    ] = "auto",
    fit: Annotated[
        str | None,
        typer.Option(
            metavar="crop|squash|pad",
            help="How pictures that are not square become square: the middle, all of it stretched, or with black bars; "
            "as in training when left out.",
        ),
    ] = None,
    gallery: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Also write a page with each picture, its answer and its heat map."),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Name what is in pictures.

    Example: eyespot predict runs/photos cat.jpg holiday/ --top 3
    """
    from eyespot.predicting import print_predictions, write_predictions

    if json and csv is not None:
        raise UsageError("--json and --csv exclude each other", where="the command line", remedy="give one of them")
    if csv is not None and csv != "-":
        if gallery is not None:
            raise UsageError("--gallery with --csv FILE", where="the command line", remedy="use --csv - with it")
        if not csv or csv.startswith("-"):
            raise UsageError(f"--csv {csv!r} is no file", where="the command line", remedy="use --csv FILE or --csv -")
        failed = write_predictions(
            run, pictures, Path(csv), top=top, device=device, views=views, unknown=unknown, fit=fit
        )
    else:
        form: Literal["text", "json", "csv"] = "json" if json else "text" if csv is None else "csv"
        failed = print_predictions(
            run, pictures, top=top, form=form, device=device, views=views, unknown=unknown, fit=fit, gallery=gallery
        )
    if failed:
        raise typer.Exit(1)

"""`eyespot explain`: why pictures got their answers, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eyespot.commands.options import DeviceOption, JsonOption, RunArgument


def explain(
    run: RunArgument,
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURE|FOLDER...", help="Files and folders.")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="gradcam|integrated-gradients|occlusion", help="Kind of heat map; may be repeated. gradcam."
        ),
    ] = None,
    class_: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Explain this class instead of the answer.")
    ] = None,
    neighbours: Annotated[int, typer.Option(min=0, help="Nearest training pictures to show.")] = 5,
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The page to write.")] = Path("explain.html"),
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Show where in pictures a model found its answers, and the training pictures nearest to them.

    Example: eyespot explain runs/photos cat.jpg --method gradcam --method occlusion --out why.html
    """
    from eyespot.errors import DataError, printable
    from eyespot.explaining import explain as run_explain
    from eyespot.predicting import Asked, describe_answer, find_missing
    from eyespot.terminal import Terminal, print_json

    with Terminal(quiet=json) as terminal:
        found = run_explain(
            run,
            list(pictures),
            method=method or ["gradcam"],
            target=class_,
            neighbours=neighbours,
            out=out,
            device=device,
            observer=terminal,
        )
    failed = [one.prediction for one in found if one.prediction.error is not None]
    if json:
        print_json({"page": str(out), "pictures": [one.as_dict() for one in found]})
    else:
        for one in found:
            if one.prediction.error is None:
                print(f"{printable(one.prediction.source)}: {describe_answer(one.prediction, top=1)}")
        print(f"page: {out}")
    for answer in failed:
        asked = find_missing(answer.source) or Asked(answer.source)
        error = DataError(f"{answer.source} {asked.error or answer.error}", remedy=asked.remedy)
        typer.echo(f"error: {error}", err=True)
    if failed:
        raise typer.Exit(1)

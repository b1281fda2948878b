"""`eyespot train`: from pictures to a trained, measured run with its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eyespot.commands.options import (
    BadImageOption,
    DeviceOption,
    FixOption,
    JsonOption,
    OptionalDataArgument,
    SetOption,
    as_settings,
)
from eyespot.errors import quoted

if TYPE_CHECKING:
    from eyespot.terminal import Terminal


def train(
    data: OptionalDataArgument = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="A name of `eyespot recipes` or a TOML file; chosen by the data when left out."
        ),
    ] = None,
    set_: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run folder; runs/RECIPE-DATA-TIME when left out.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of weights, order and augmentation.")] = None,
    device: DeviceOption = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, or with the newest unfinished one.")
    ] = False,
    final: Annotated[
        bool, typer.Option("--final", help="Train on train + val with a fixed recipe; no val figures.")
    ] = False,
    lr: Annotated[
        str | None,
        typer.Option(
            "--lr", metavar="RATE|auto", help="Peak learning rate; auto finds it with a range test of 100 steps."
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Cut the epochs to what fits into this much training time.")
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(metavar="0.87", help="Accuracy asked for beforehand: the report says whether it was reached."),
    ] = None,
    on_bad_image: BadImageOption = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Go on although a test picture is also in train.")
    ] = False,
    fix: FixOption = None,
    track: Annotated[
        str | None, typer.Option(metavar="tensorboard|mlflow", help="Write the history there, too.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Train a classifier, measure it and write its report.

    Example: eyespot train photos/ --out runs/photos
    """
    from eyespot.analysis.headline import summary_line
    from eyespot.starting import train as run_training
    from eyespot.terminal import Terminal, print_json

    changes = {
        "training.seed": seed,
        "data.final": final or None,
        "optimizer.lr": lr,
        "training.minutes": minutes,
        "evaluation.target_top1": target,
        "data.on_bad_image": on_bad_image,
        "data.allow_leak": allow_leak or None,
        "data.label_fixes": None if fix is None else str(fix),
    }
    settings = [*(set_ or []), *as_settings(changes)]
    with Terminal() as terminal, terminal.says_how_to_go_on(lambda: _resuming(terminal)):
        run = run_training(
            data,
            recipe=recipe,
            settings=settings,
            out=out,
            device=device,
            resume=resume,
            track=track,
            observer=terminal,
        )
    metrics = run.metrics
    terminal.say(f"report: {run.report}")
    if json:
        print_json({"run": str(run.path), "report": str(run.report), "metrics": metrics})
    else:
        print(summary_line(metrics))


def _resuming(terminal: Terminal) -> str:
    folder = terminal.run_folder
    return "" if folder is None else f"go on with: eyespot train --resume --out {quoted(str(folder))}"

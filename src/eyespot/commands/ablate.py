"""`eyespot ablate`: options in, the verb called, what each change did printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eyespot.commands.options import DeviceOption, JsonOption, OptionalDataArgument, SetOption
from eyespot.errors import quoted


def ablate(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="The baseline: a name of `eyespot recipes` or a TOML file.")
    ] = None,
    data: OptionalDataArgument = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="X", help="Take this away: flip, whitening, ema, ... or a setting; may be repeated."),
    ] = None,
    factor: Annotated[
        list[str] | None, typer.Option(metavar="KEY=A,B,C", help="Try these values of a setting; may be repeated.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(metavar="N", help="Runs of each point; 3 when left out.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Training time of each run.")] = None,
    epochs: Annotated[int | None, typer.Option(metavar="E", help="Epochs of each run; those of the recipe.")] = None,
    set_: SetOption = None,
    test: Annotated[bool, typer.Option("--test", help="Compare on test, which is then used up, not on val.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder; runs/ablate-RECIPE-DATA-TIME when left out.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the ablation in --out, or the newest; --seeds N extends it.")
    ] = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Change a recipe one thing at a time, over seeds, and say what each change does.

    Example: eyespot ablate fast cifar10 --without flip --without whitening --seeds 3
    """
    from eyespot.studies.ablation import ablate as run_ablation
    from eyespot.studies.ablation_table import AblationTerminal, print_ablation
    from eyespot.terminal import print_json

    terminal = AblationTerminal(quiet=json)
    with terminal, terminal.says_how_to_go_on(lambda: _resuming(terminal.folder)):
        result = run_ablation(
            recipe,
            data,
            without=without or (),
            factors=factor or (),
            seeds=seeds,
            minutes=minutes,
            epochs=epochs,
            settings=set_ or (),
            test=test,
            out=out,
            resume=resume,
            device=device,
            observer=terminal,
        )
    terminal.say(f"report: {result.report}")
    if json:
        print_json({"ablation": str(result.path), "report": str(result.report), **result.found.as_dict()})
    else:
        print_ablation(result.found)
    if any(outcome.state == "failed" for outcome in result.outcomes):
        raise typer.Exit(1)


def _resuming(folder: str) -> str:
    return f"go on with: eyespot ablate --resume --out {quoted(folder)}" if folder else ""

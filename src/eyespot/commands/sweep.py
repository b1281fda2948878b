"""`eyespot sweep`: options in, the verb called, what came of it printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eyespot.commands.options import JsonOption, OptionalDataArgument, SetOption
from eyespot.errors import quoted

if TYPE_CHECKING:
    from eyespot.sweeps.screen import SweepTerminal


def sweep(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="What is varied: a name of `eyespot recipes` or a TOML file.")
    ] = None,
    data: OptionalDataArgument = None,
    space: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="What varies, and between what (docs/sweeps.md).")
    ] = None,
    trials: Annotated[int | None, typer.Option(metavar="N", help="Trials in all; 12 when left out.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall clock for all trials together.")] = None,
    epochs: Annotated[int | None, typer.Option(metavar="E", help="Epochs of a trial; those of the recipe.")] = None,
    set_: SetOption = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="val/top1|val/loss", help="What the winner is best at; val/top1 when left out."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Seed of the choice of settings, not of the trainings; 0 when left out."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The sweep's folder; runs/sweep-RECIPE-DATA-TIME.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in --out, or the newest one; --trials N extends it.")
    ] = False,
    at_once: Annotated[
        int | None,
        typer.Option("--at-once", metavar="K", help="Trials at a time on a machine without a GPU; 1 when left out."),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="HOST:PORT of a Ray cluster that shares DIR, or auto.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute; auto when left out.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Search settings: many trials judged on val, the winner tested once.

    Example: eyespot sweep small photos/ --space space.toml --trials 20
    """
    from eyespot.analysis.headline import describe_top1
    from eyespot.sweeps.screen import SweepTerminal
    from eyespot.sweeps.sweep import SweepOptions
    from eyespot.sweeps.sweep import sweep as run_sweep
    from eyespot.terminal import print_json

    options = SweepOptions(
        trials=trials,
        minutes=minutes,
        epochs=epochs,
        metric=metric,
        seed=seed,
        device=device,
        at_once=at_once,
        cluster=cluster or "",
    )
    terminal = SweepTerminal(quiet=json)
    with terminal, terminal.says_how_to_go_on(lambda: _resuming(terminal)):
        found = run_sweep(
            recipe, data, space, options=options, settings=set_ or (), out=out, resume=resume, observer=terminal
        )
    terminal.say(f"report: {found.report}")
    if json:
        from dataclasses import asdict

        trials_json = [asdict(trial) for trial in found.trials]
        print_json({"sweep": str(found.path), "report": str(found.report), "trials": trials_json, **found.result})
        return
    result, winner = found.result, found.winner
    assert winner is not None
    print(f"best of {len(found.trials)} trials on val: {winner.path}")
    print(f"{describe_top1(result['val'], 'val')}: the best of several looks, so optimistic")
    print(describe_top1(result["test"], "test") if result["test"] else "the data have no test split")


def _resuming(terminal: SweepTerminal) -> str:
    terminal.close()
    folder = terminal.folder_name
    return f"go on with: eyespot sweep --resume --out {quoted(folder)}" if folder else ""

"""`eyespot study list|show|run|report`: the published studies, repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eyespot.commands.options import DeviceOption, JsonOption, SetOption

study_app = typer.Typer(
    help="Repeat published studies, their mistakes beside what is right.", no_args_is_help=True, rich_markup_mode=None
)

StudyArgument = Annotated[str, typer.Argument(metavar="NAME", help="A name of `eyespot study list`, or a TOML file.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder of the study's runs; runs/study-NAME when left out.")
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights-from",
        metavar="BACKBONE",
        help="Stands in for backbones whose pretrained weights cannot be had, such as efficientnet_lite0; said in every"
        " row.",
    ),
]


@study_app.command("list")
def list_studies(json: JsonOption = False) -> None:
    """List the studies.

    Example: eyespot study list
    """
    from eyespot.studies.schema import load_study, study_names
    from eyespot.terminal import print_json

    studies = [load_study(name) for name in study_names()]
    if json:
        print_json([{"name": s.name, "title": s.title, "author": s.author, "points": s.point_ids()} for s in studies])
        return
    for study in studies:
        count = len(study.point_ids())
        print(f"{study.name:<12} {count:>3} points   {study.author}, {study.year}: {study.title}")


@study_app.command()
def show(name: StudyArgument, json: JsonOption = False) -> None:
    """Show a study's points: what each tries, what was claimed, which mistakes were made.

    Example: eyespot study show culp2021
    """
    from eyespot.studies.schema import load_study
    from eyespot.studies.tables import describe_study
    from eyespot.terminal import print_json

    study = load_study(name)
    if json:
        print_json(study.model_dump(mode="json"))
    else:
        print(describe_study(study, name))


@study_app.command()
def run(
    name: StudyArgument,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ID", help="Run this point alone; may be repeated.")
    ] = None,
    out: OutOption = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DATA", help="Other data than the study's own, as for train.")
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", metavar="N", help="Runs of each point; their seeds begin with its own, 0 where it names none."
        ),
    ] = 1,
    minutes: Annotated[float | None, typer.Option(help="Training time of each point.")] = None,
    epochs_scale: Annotated[
        float, typer.Option("--epochs-scale", help="Factor on every duration in epochs, for a quick look.")
    ] = 1.0,
    weights_from: WeightsOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Run a study point by point, each a run folder of its own; the same command goes on after any end.

    Example: eyespot study run gomez2025 --only alexnet --minutes 20
    """
    from eyespot.studies.study import run_study
    from eyespot.studies.tables import describe_outcomes, outcomes_as_json
    from eyespot.terminal import Terminal, print_json

    with Terminal() as terminal, terminal.says_how_to_go_on(lambda: "the same command goes on"):
        outcomes = run_study(
            name,
            out=out,
            data=data,
            only=only or (),
            seeds=seeds,
            minutes=minutes,
            epochs_scale=epochs_scale,
            weights_from=weights_from,
            changes=set_ or (),
            device=device,
            observer=terminal,
        )
    if json:
        print_json(outcomes_as_json(outcomes))
    else:
        print(describe_outcomes(outcomes))
    named = set(only or ())
    if any(
        outcome.state == "failed" or (outcome.state == "not run" and named & {outcome.point.name, outcome.point.id})
        for outcome in outcomes
    ):
        raise typer.Exit(1)


@study_app.command()
def report(
    name: StudyArgument,
    out: OutOption = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            "--pictures", metavar="FOLDER", help="Pictures from outside of the data, to be named by every run."
        ),
    ] = None,
) -> None:
    """Write a study's page: our figures beside the published ones, what each mistake does, the publication's charts.

    Example: eyespot study report gomez2025 --pictures photos/
    """
    from eyespot.studies.figures import write_study_report
    from eyespot.studies.schema import load_study
    from eyespot.studies.study import study_folder

    study = load_study(name)
    print(write_study_report(study, out or study_folder(study), pictures=pictures))

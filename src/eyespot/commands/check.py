"""`eyespot check`: look at data before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eyespot.caches import user_path
from eyespot.commands.options import DataArgument, FixOption, JsonOption
from eyespot.errors import UsageError

_LISTED = 20


def check(
    data: DataArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page with the pictures that were found."),
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Look for wrong labels instead, by cross-validation.")
    ] = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="With --labels: write the labels that look wrong.")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="With --labels: parts of the cross-validation; else 3 for networks, 5 for heads."),
    ] = None,
    fix: FixOption = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="With --labels, where networks are trained: time for all folds; 10 when left out."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Scan a data set before training: bad files, copies and near copies, leaks, odd pictures, drift, class counts.

    Example: eyespot check photos/ --out check.html
    """
    from eyespot.checking import check as run_check
    from eyespot.terminal import Terminal, print_json

    if labels:
        _show_labels(data, out, csv, folds, fix, minutes, json=json)
        return
    for option, given in (("--csv", csv), ("--folds", folds), ("--minutes", minutes)):
        if given is not None:
            raise UsageError(f"{option} is for --labels", where="the command line", remedy="add --labels")
    with Terminal(quiet=json) as terminal:
        card, decisions = run_check(data, out=out, fix=fix, observer=terminal)
    if json:
        print_json({**card, "decisions": decisions})
    else:
        from eyespot.tables import print_data_card

        print_data_card(card, decisions)
        if out is not None:
            print(f"page: {user_path(out).resolve()}")
        elif card["near"]["pairs"]:
            print("to look at the pictures: --out FILE.html")
    if decisions:
        raise typer.Exit(1)


def _show_labels(
    data: str,
    out: Path | None,
    csv: Path | None,
    folds: int | None,
    fix: Path | None,
    minutes: float | None,
    *,
    json: bool,
) -> None:
    from eyespot.label_check import check_labels
    from eyespot.terminal import Terminal, add_row, plain_table, print_json, print_table

    with Terminal(quiet=json) as terminal, terminal.says_how_to_go_on(lambda: "the same command goes on"):
        checked = check_labels(data, csv_path=csv, out=out, folds=folds, fix=fix, minutes=minutes, observer=terminal)
    if json:
        print_json(checked.as_dict())
        return
    found = checked.suspects
    table = plain_table("picture", "given", "suggested", "score>")
    for it in found[:_LISTED]:
        add_row(table, it.id, it.given, it.suggested, f"{it.score:.3f}")
    if found:
        print_table(table)
    more = f"; the worst {_LISTED} are listed" if len(found) > _LISTED else ""
    print(f"{len(found):,} labels look wrong{more}: look at the pictures before you change any")
    for path in (csv, out):
        if path is not None:
            print(f"written: {user_path(path).resolve()}")
    if found and csv is not None:
        print("to correct labels: write accept or reject into the column decision, then train with --fix FILE.csv")

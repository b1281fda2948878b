"""`eyespot data list|show|prefetch|pack|table|cache`: data sets, looked at and made ready."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from eyespot.commands.options import BadImageOption, DataArgument, JsonOption, SetOption, as_settings
from eyespot.errors import UsageError

data_app = typer.Typer(help="List, look at, fetch and pack data sets.", no_args_is_help=True, rich_markup_mode=None)


@data_app.command("list")
def data_list(json: JsonOption = False) -> None:
    """List the named data sets and where they were found.

    Example: eyespot data list
    """
    from eyespot.tables import show_datasets

    show_datasets(json=json)


@data_app.command("show")
def data_show(
    data: DataArgument,
    per_class: Annotated[
        int | None,
        typer.Option(
            min=1, help="So many random pictures of each class; 10 when nothing is chosen, or 1 with --recipe."
        ),
    ] = None,
    random: Annotated[int | None, typer.Option(min=1, help="So many random pictures.")] = None,
    first: Annotated[int | None, typer.Option(min=1, help="The first so many pictures.")] = None,
    split: Annotated[str, typer.Option(metavar="train|val|test", help="From which split.")] = "train",
    seed: Annotated[int, typer.Option(help="Seed of the choice.")] = 0,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Each picture as it is, and beside it as this recipe's augmentation shows it."
        ),
    ] = None,
    set_: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png|FILE.html", help="Where to write the grid; NAME-SPLIT.png here when left out."),
    ] = None,
) -> None:
    """Write a grid of pictures as PNG or HTML: as they are, or as a recipe augments them for training.

    Example: eyespot data show cifar10 --recipe gomez2025-vgg --set augment.rotate_degrees=30 --out grid.png
    """
    from eyespot.data_verbs import show
    from eyespot.terminal import Terminal

    choices: dict[Literal["per-class", "random", "first"], int | None]
    choices = {"per-class": per_class, "random": random, "first": first}
    given = [(kind, count) for kind, count in choices.items() if count is not None]
    if len(given) > 1:
        raise UsageError(
            "more than one of --per-class, --random and --first", where="the command line", remedy="give one of them"
        )
    kind, count = given[0] if given else (None, None)
    with Terminal() as terminal:
        path = show(
            data,
            kind=kind or "per-class",
            count=count,
            split=split,
            seed=seed,
            recipe=recipe,
            settings=set_ or [],
            out=out,
            observer=terminal,
        )
    print(str(path))


@data_app.command("prefetch")
def data_prefetch(
    data: Annotated[str, typer.Argument(metavar="NAME", help="A name of `eyespot data list`.")],
    json: JsonOption = False,
) -> None:
    """Download a named data set now, so that training needs no network.

    Example: eyespot data prefetch cifar100
    """
    from eyespot.data.sources import prefetch
    from eyespot.terminal import Terminal, print_json

    with Terminal(quiet=json) as terminal:
        dataset = prefetch(
            data,
            progress=lambda done, total: terminal.on_count(f"reading {data}", done, total, unit="bytes"),
            message=terminal.on_message,
        )
    if json:
        print_json({"name": dataset.name, "found": dataset.origin, "layout": dataset.layout})
    else:
        print(f"{dataset.name}: {dataset.layout}, from {dataset.origin}")


@data_app.command("pack")
def data_pack(
    data: DataArgument,
    set_: SetOption = None,
    on_bad_image: BadImageOption = None,
    json: JsonOption = False,
) -> None:
    """Scan, decode and pack a data set now, so that training starts at once.

    Example: eyespot data pack photos/ --set input.size_px=64
    """
    from eyespot.data_verbs import pack
    from eyespot.tables import print_pack
    from eyespot.terminal import Terminal

    with Terminal(quiet=json) as terminal:
        packed = pack(
            data, settings=[*(set_ or []), *as_settings({"data.on_bad_image": on_bad_image})], observer=terminal
        )
    print_pack(packed, json=json)


@data_app.command("table")
def data_table(
    source: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER|TABLE...",
            help="Pictures named after their class, or a table of names; or a table of each split.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.csv", help="Where to write path,label[,split].")],
    pattern: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="What of a path is the class: the first group. [the name up to its number]"),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the pictures of a table are; its folder when left out.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="PICTURE,CLASS", help="The columns of a table, where they have other names.")
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN|REGEX", help="Draw splits that keep together what is of one patient, video, day, ..."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of that draw.")] = 0,
    json: JsonOption = False,
) -> None:
    """Make a CSV to train on, of pictures whose class is in their names or in a table of somebody else's.

    Example: eyespot data table pets/images --out pets.csv
    """
    from eyespot.data_verbs import tabulate
    from eyespot.tables import print_picture_table

    found = tabulate(source, out, pattern=pattern, pictures=pictures, columns=columns, groups=groups, seed=seed)
    print_picture_table(found, out, json=json)


@data_app.command("cache")
def data_cache(
    rooms: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ROOM]...", help="downloads, unpacked, packed, features, checks, exports; all when left out."
        ),
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete what eyespot downloaded or derived; it will be made again.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Say what the cache holds, or clear it.

    Example: eyespot data cache packed --clear
    """
    from eyespot.tables import show_cache

    show_cache(rooms=rooms or (), clear=clear, json=json)

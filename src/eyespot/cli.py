"""The command line: words in, verbs called, one line for every error.

Nothing heavy is imported before a command needs it, so that `eyespot --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from eyespot import __version__
from eyespot.errors import EyespotError

# Typer carries its own copy of click's exceptions in some versions; these two are found in any of them.
_USAGE_ERROR = typer.BadParameter.__base__
_EXIT_CLOSED_PIPE = 141

app = typer.Typer(
    name="eyespot",
    help="Train, compare, explain and ship image classifiers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="List, look at, fetch and pack data sets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

DataArgument = Annotated[
    str, typer.Argument(metavar="DATA", help="cifar10, cifar100, fashion-mnist, digits, a folder, an archive or a CSV file.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder (or a bundle).")]
DeviceOption = Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; may be repeated.")]
BadImageOption = Annotated[str | None, typer.Option("--on-bad-image", metavar="refuse|skip", help="What to do about files that cannot be decoded.")]


def _version(show: bool) -> None:
    if show:
        typer.echo(f"eyespot {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Train, compare, explain and ship image classifiers."""


@app.command()
def train(
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="As for check; cifar10 when left out.")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="A name of `eyespot recipes` or a TOML file; chosen by the data when left out.")] = None,
    set_: SetOption = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run folder; runs/RECIPE-DATA-TIME when left out.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and augmentation.")] = None,
    device: DeviceOption = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or with the newest unfinished one.")] = False,
    final: Annotated[bool, typer.Option("--final", help="Train on train + val with a fixed recipe; no val figures.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Cut the epochs to what fits into this much training time.")] = None,
    on_bad_image: BadImageOption = None,
    allow_leak: Annotated[bool, typer.Option("--allow-leak", help="Go on although a test picture is also in train.")] = False,
    json: JsonOption = False,
) -> None:
    """Train a classifier, measure it and write its report.

    Example: eyespot train photos/ --out runs/photos
    """
    from eyespot.terminal import Terminal, print_json
    from eyespot.verbs import summary_line, train as run_training

    changes: dict[str, Any] = {}
    for key, value in (
        ("training.seed", seed),
        ("data.final", final or None),
        ("training.minutes", minutes),
        ("data.on_bad_image", on_bad_image),
        ("data.allow_leak", allow_leak or None),
    ):
        if value is not None:
            changes[key] = value
    with Terminal() as terminal:
        run = run_training(
            data, recipe=recipe, settings=[*(set_ or []), *(f"{k}={_toml(v)}" for k, v in changes.items())], out=out, device=device, resume=resume, observer=terminal
        )
        terminal.console.print(f"report: {run.report}", markup=False, soft_wrap=True)
    if json:
        print_json({"run": str(run.path), "report": str(run.report), "metrics": run.metrics})
    else:
        typer.echo(summary_line(run.metrics))


@app.command()
def evaluate(
    run: RunArgument,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="Other pictures with the same class names; the run's own data when left out.")] = None,
    split: Annotated[str, typer.Option(metavar="val|test|train", help="Which split to measure.")] = "test",
    views: Annotated[str | None, typer.Option(metavar="none|mirror|mirror-shift", help="Test-time views; those of the recipe when left out.")] = None,
    on_bad_image: BadImageOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Measure a trained run on a labelled split.

    Example: eyespot evaluate runs/photos --data more-photos/ --split test
    """
    from eyespot.terminal import Terminal, print_json
    from eyespot.verbs import describe_split, evaluate as run_evaluation

    with Terminal(quiet=json) as terminal:
        result = run_evaluation(run, data=data, split=split, views=views, on_bad_image=on_bad_image, device=device, observer=terminal)
    if json:
        print_json(result.metrics)
    else:
        typer.echo(describe_split(result.metrics, split))


@app.command()
def predict(
    run: RunArgument,
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURE|FOLDER|-...", help="Files, folders, or - for one picture on stdin.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 1,
    json: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV: picture,label,probability,...")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Name what is in pictures.

    Example: eyespot predict runs/photos cat.jpg holiday/ --top 3
    """
    from eyespot.predicting import print_predictions

    if json and csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    failed = print_predictions(run, pictures, top=top, form="json" if json else "csv" if csv else "text", device=device)
    if failed:
        raise typer.Exit(1)


@app.command()
def check(
    data: DataArgument,
    json: JsonOption = False,
) -> None:
    """Scan a data set before training: bad files, duplicates, leaks, class counts.

    Example: eyespot check photos/
    """
    from eyespot.terminal import Terminal, print_json
    from eyespot.verbs import check as run_check

    with Terminal(quiet=json) as terminal:
        card, decisions = run_check(data, observer=terminal)
    if json:
        print_json({**card, "decisions": decisions})
    else:
        from eyespot.tables import print_data_card

        print_data_card(card, decisions)
    if decisions:
        raise typer.Exit(1)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this model's layers.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the input in pixels.")] = None,
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 10,
    channels: Annotated[int, typer.Option(min=1, help="1 for grey, 3 for RGB.")] = 3,
    json: JsonOption = False,
) -> None:
    """List the networks, or show one layer by layer.

    Example: eyespot models vgg16-mini --size 32
    """
    from eyespot.tables import show_model, show_models

    if name is None:
        show_models(json=json)
    else:
        show_model(name, size=size, classes=classes, channels=channels, json=json)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this recipe.")] = None,
    json: JsonOption = False,
) -> None:
    """List the recipes that come with eyespot, or print one.

    Example: eyespot recipes fast > mine.toml
    """
    from eyespot.config import load_config, recipe_names, recipe_text
    from eyespot.terminal import print_json

    if name is not None:
        if json:
            print_json(load_config(name).model_dump(mode="json"))
        else:
            typer.echo(recipe_text(name), nl=False)
        return
    rows = [{"name": known, "description": load_config(known).description} for known in recipe_names()]
    if json:
        print_json(rows)
    else:
        for row in rows:
            typer.echo(f"{row['name']:<20} {row['description']}")


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to look.")] = Path("runs"),
    json: JsonOption = False,
) -> None:
    """List the runs in a folder.

    Example: eyespot runs runs/
    """
    from eyespot.tables import show_runs

    show_runs(folder, json=json)


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
    per_class: Annotated[int | None, typer.Option(min=1, help="So many random pictures of each class.")] = None,
    random: Annotated[int | None, typer.Option(min=1, help="So many random pictures.")] = None,
    first: Annotated[int | None, typer.Option(min=1, help="The first so many pictures.")] = None,
    split: Annotated[str, typer.Option(metavar="train|val|test", help="From which split.")] = "train",
    seed: Annotated[int, typer.Option(help="Seed of the choice.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE.png|FILE.html", help="Where to write the grid; DATA.png when left out.")] = None,
) -> None:
    """Write a grid of pictures as PNG or HTML.

    Example: eyespot data show cifar10 --per-class 10 --out grid.png
    """
    from eyespot.terminal import Terminal
    from eyespot.verbs import show

    given = [choice for choice in (("per-class", per_class), ("random", random), ("first", first)) if choice[1] is not None]
    if len(given) > 1:
        raise typer.BadParameter("give one of --per-class, --random and --first")
    kind, count = given[0] if given else ("per-class", 10)
    with Terminal() as terminal:
        path = show(data, kind=kind, count=count or 10, split=split, seed=seed, out=out, observer=terminal)
    typer.echo(str(path))


@data_app.command("prefetch")
def data_prefetch(data: Annotated[str, typer.Argument(metavar="NAME", help="A name of `eyespot data list`.")]) -> None:
    """Download a named data set now, so that training needs no network.

    Example: eyespot data prefetch cifar100
    """
    from eyespot.data.sources import open_dataset
    from eyespot.terminal import Terminal

    with Terminal() as terminal:
        dataset = open_dataset(data, progress=lambda done, total: terminal.on_count(f"downloading {data}", done, total or done))
    typer.echo(dataset.origin)


@data_app.command("pack")
def data_pack(
    data: DataArgument,
    set_: SetOption = None,
    on_bad_image: BadImageOption = None,
) -> None:
    """Scan, decode and pack a data set now, so that training starts at once.

    Example: eyespot data pack photos/ --set input.size_px=64
    """
    from eyespot.terminal import Terminal
    from eyespot.verbs import pack

    settings = [*(set_ or []), *([f"data.on_bad_image={_toml(on_bad_image)}"] if on_bad_image else [])]
    with Terminal() as terminal:
        packed = pack(data, settings=settings, observer=terminal)
    pictures = sum(len(split) for split in packed.splits.values())
    took = f"packed in {packed.seconds:.1f} s" if packed.seconds else "was packed already"
    typer.echo(f"{pictures:,} pictures of {packed.size_px} x {packed.size_px} x {packed.channels}, {took}; fingerprint {packed.fingerprint[:16]}")


@data_app.command("cache")
def data_cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete everything that eyespot derived: it will be made again.")] = False,
    json: JsonOption = False,
) -> None:
    """Say what the cache holds, or clear it.

    Example: eyespot data cache --clear
    """
    from eyespot.tables import show_cache

    show_cache(clear=clear, json=json)


def _toml(value: Any) -> str:
    """Write a plain value as TOML, for --set."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _fail(error: EyespotError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    2 for wrong use, 1 for a failure, 130 and 143 for Ctrl-C and SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    sys.exit(_run(arguments))


def _run(arguments: list[str]) -> int:
    """Run the command line and return the exit code."""
    debug = "--debug" in arguments
    try:
        result = typer.main.get_command(app).main(args=arguments, prog_name="eyespot", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except EyespotError as error:
        if debug:
            raise
        return _fail(error)
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`): not an error of ours, and Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_CLOSED_PIPE
    except Exception as error:
        if debug:
            raise
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    """Return the exit code for what is not one of our errors, after one line about it."""
    if _USAGE_ERROR is not None and isinstance(error, _USAGE_ERROR):
        message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "eyespot"
        print(f"error: {message} in the command line: {command} --help", file=sys.stderr)
        return 2
    if type(error).__name__ == "Interrupted":
        return 128 + int(error.signal)  # type: ignore[attr-defined]
    if isinstance(error, MemoryError):
        print("error: no memory left: close other programs, or try a smaller training.batch_size", file=sys.stderr)
        return 1
    if isinstance(error, OSError):
        print(f"error: {error.strerror or error} in {error.filename or 'the file system'}: check the path and the disk", file=sys.stderr)
        return 1
    print(f"error: unexpected {type(error).__name__} ({error}) in eyespot: run again with --debug and report it", file=sys.stderr)
    return 1

"""The command line: words in, verbs called, one line for every error.

Nothing heavy is imported before a command needs it, so that `eyespot --help` answers at once.
"""

from __future__ import annotations

import _thread
import errno
import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from eyespot import __version__
from eyespot.commands.ablate import ablate
from eyespot.commands.check import check
from eyespot.commands.compare import compare
from eyespot.commands.doctor import doctor
from eyespot.commands.explain import explain
from eyespot.commands.export import export
from eyespot.commands.note import note
from eyespot.commands.options import (
    BadImageOption,
    DataArgument,
    DeviceOption,
    FixOption,
    JsonOption,
    OptionalDataArgument,
    RunArgument,
    SetOption,
)
from eyespot.commands.serve import serve
from eyespot.commands.study import study_app
from eyespot.commands.sweep import sweep
from eyespot.errors import EyespotError, Interrupted, MemoryLimitError, UsageError

if TYPE_CHECKING:
    from eyespot.terminal import Terminal

# Typer carries its own copy of click's exceptions in some versions; this one is found in any of them.
_USAGE_ERROR = cast("type[Exception]", typer.BadParameter.__base__)
_EXIT_CLOSED_PIPE = 141
_AGAIN_SECONDS = 0.05  # after which a signal that was lost in a destructor is sent again

app = typer.Typer(
    name="eyespot",
    help="Train, compare, explain and ship image classifiers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 120},
)
data_app = typer.Typer(help="List, look at, fetch and pack data sets.", no_args_is_help=True, rich_markup_mode=None)


def _version(show: bool) -> None:
    if show:
        print(f"eyespot {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback with an error; may stand anywhere in the line.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, compare, explain and ship image classifiers."""


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
    from eyespot.terminal import Terminal, print_json
    from eyespot.verbs import summary_line
    from eyespot.verbs import train as run_training

    changes = {
        "training.seed": seed,
        "data.final": final or None,
        "optimizer.lr": lr,
        "training.minutes": minutes,
        "data.on_bad_image": on_bad_image,
        "data.allow_leak": allow_leak or None,
        "data.label_fixes": None if fix is None else str(fix),
    }
    settings = [*(set_ or []), *_as_settings(changes)]
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
    return "" if folder is None else f"go on with: eyespot train --resume --out {shlex.quote(str(folder))}"


def evaluate(
    run: RunArgument,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Other pictures with the same class names; the run's own data when left out."
        ),
    ] = None,
    split: Annotated[str, typer.Option(metavar="val|test|train", help="Which split to measure.")] = "test",
    views: Annotated[
        str | None,
        typer.Option(metavar="none|mirror|mirror-shift", help="Test-time views; those of the recipe when left out."),
    ] = None,
    on_bad_image: BadImageOption = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Measure under 15 kinds of corruption at 5 strengths, too.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="With --robustness: at most N pictures (1000 when left out, 0 for all)."),
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Measure a trained run on a labelled split.

    Example: eyespot evaluate runs/photos --data more-photos/ --split test
    """
    from eyespot.analysis.verdict import describe_top1
    from eyespot.errors import UsageError
    from eyespot.terminal import Terminal, print_json
    from eyespot.verbs import evaluate as run_evaluation

    if robustness:
        return _evaluate_robustness(
            run, data, split=split, views=views, on_bad_image=on_bad_image, limit=limit, device=device, json=json
        )
    if limit is not None:
        raise UsageError("--limit without --robustness", where="the command line", remedy="give both or none")
    with Terminal(quiet=json) as terminal:
        result = run_evaluation(
            run, data=data, split=split, views=views, on_bad_image=on_bad_image, device=device, observer=terminal
        )
    if json:
        print_json({"run": str(run), "data": data, "split": split, **result.metrics})
    else:
        print(describe_top1(result.metrics, split))
    return None


def _evaluate_robustness(run: Path, data: str | None, *, json: bool, **asked: Any) -> None:
    """Measure the grid of corruptions and print it."""
    from eyespot.analysis import words
    from eyespot.analysis.verdict import describe_top1
    from eyespot.robustness import evaluate_robustness
    from eyespot.terminal import Terminal, print_json

    goes_on = "" if data is not None else "the same command goes on"
    with Terminal(quiet=json) as terminal, terminal.says_how_to_go_on(lambda: goes_on):
        found = evaluate_robustness(run, data, observer=terminal, **asked)
    if json:
        return print_json({"run": str(run), "data": data, **found})
    flaw = str(found.get("flaw", ""))
    print(describe_top1({**found["clean"], "n": found["n"], "views": found["views"], "flaw": flaw}, found["split"]))
    for kind, figures in found["corruptions"].items():
        print(f"{kind:15}", *(f"{words.percent(figure['top1']):>7}" for figure in figures))
    print(f"{'shifted':15}", *(f"{words.percent(figure['top1']):>7}" for figure in found["shifted"]))
    print(f"{'mirrored':15} {words.percent(found['mirrored']['top1']):>7}")
    cells = [figure for row in (*found["corruptions"].values(), found["shifted"]) for figure in row]
    widest = max(
        max(abs(end - figure["top1"]) for end in figure["top1_ci95"]) for figure in (*cells, found["mirrored"])
    )
    print(f"every figure above is within {words.percent(widest)} of its value, with 95 % confidence")
    print(
        f"{flaw}{': ' * bool(flaw)}mean corruption error {words.percent(found['mean_corruption_error'])} "
        f"on {found['split']} "
        f"(n = {words.whole(found['n'])}; 15 kinds, strengths 1 to 5, drawn by eyespot)"
    )
    return None


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
        typer.Option(help="auto: say unknown of pictures far from all that the model was trained on."),
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


def models(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this model's layers.")] = None,
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


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Print this recipe.")] = None,
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
            print(recipe_text(name), end="")
        return
    rows = [{"name": known, "description": load_config(known).description} for known in recipe_names()]
    if json:
        print_json(rows)
    else:
        for row in rows:
            print(f"{row['name']:<20} {row['description']}")


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to look.")] = Path("runs"),
    sort: Annotated[
        str, typer.Option(metavar="created|name|test|val|minutes|params", help="Order; the highest comes last.")
    ] = "created",
    tag: Annotated[str | None, typer.Option(help="Only runs with this tag of `eyespot note`.")] = None,
    json: JsonOption = False,
) -> None:
    """List the runs in a folder.

    Example: eyespot runs runs/ --sort val
    """
    from eyespot.tables import show_runs

    show_runs(folder, json=json, sort=sort, tag=tag)


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
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png|FILE.html", help="Where to write the grid; DATA.png when left out.")
    ] = None,
) -> None:
    """Write a grid of pictures as PNG or HTML.

    Example: eyespot data show cifar10 --per-class 10 --out grid.png
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
    kind, count = given[0] if given else ("per-class", 10)
    with Terminal() as terminal:
        path = show(data, kind=kind, count=count, split=split, seed=seed, out=out, observer=terminal)
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
            data, progress=lambda done, total: terminal.on_count(f"reading {data}", done, total, unit="bytes")
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
            data, settings=[*(set_ or []), *_as_settings({"data.on_bad_image": on_bad_image})], observer=terminal
        )
    print_pack(packed, json=json)


@data_app.command("table")
def data_table(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER|TABLE", help="Pictures named after their class, or a table of names.")
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
        typer.Argument(metavar="[ROOM]...", help="downloads, unpacked, packed, features, checks; all."),
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


def _as_settings(changes: dict[str, Any]) -> list[str]:
    """Return options that were given as --set would have them; JSON values of these kinds are TOML values."""
    from json import dumps

    return [f"{key}={dumps(value)}" for key, value in changes.items() if value is not None]


# In the order of `eyespot --help`: from the pictures to the shipped model, then what helps on the way.
for _command in (
    *(check, train, evaluate, predict, explain, compare, ablate, sweep, export, serve),
    *(runs, note, models, recipes, doctor),
):
    app.command()(_command)
app.add_typer(data_app, name="data")
app.add_typer(study_app, name="study")


# ------------------------------------------------------------------------------------------------------- the way out


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    2 for wrong use, 1 for a failure, 130, 143 and 129 for Ctrl-C, SIGTERM and a closed terminal.
    """
    for stream in (sys.stdout, sys.stderr):
        # In an old locale a name in another alphabet is printed as escapes instead of ending the command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    _answer_signals()
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _answer_signals() -> None:
    """Let SIGTERM, Ctrl-C and the end of the terminal raise `Interrupted`, wherever the command is.

    In a destructor, or in a callback from C, nothing can be raised: Python prints "Exception ignored" and goes on, and
    the command would work for hours after it was told to stop. There the signal is sent again.
    """
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            os._exit(128 + number)  # a forked child of a library has nothing to tidy up
        raise Interrupted(number)

    signal.signal(signal.SIGTERM, stop)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # `nohup` ignores it
        signal.signal(signal.SIGHUP, stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a job in the background ignores Ctrl-C
        signal.signal(signal.SIGINT, stop)
    usual = sys.unraisablehook

    def on_lost(lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, Interrupted):
            usual(lost)
            return
        again = threading.Timer(_AGAIN_SECONDS, _signal_again, [lost.exc_value.signal])
        again.daemon = True
        again.start()

    sys.unraisablehook = on_lost


def _signal_again(number: int) -> None:
    """Send a signal to the main thread, out of whatever it waits for."""
    main_thread = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main_thread is not None:
        signal.pthread_kill(main_thread, number)
    else:  # pragma: no cover  # Windows
        _thread.interrupt_main(signal.Signals(number))


def _run(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    debug = "--debug" in arguments[:end]
    words = [word for place, word in enumerate(arguments) if word != "--debug" or place > end]
    try:
        if "" in words:  # Path("") is the current folder: `--out "$UNSET"` would fill it
            remedy = "is a variable of the shell unset? leave the option out, or give a value"
            raise UsageError("an empty word", where="the command line", remedy=remedy)
        return _call(words)
    except (Exception, KeyboardInterrupt) as error:
        code, line = _explain(error)
        _abandon_stdout()
        if debug and code in (1, 2):
            raise
        if line:
            with suppress(OSError):  # stderr may be what is full or closed
                print(line, file=sys.stderr)
        return code


def _call(words: list[str]) -> int:
    """Parse the words, call the command, and return the exit code; every failure is an exception."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("eyespot", words) as context:
            command.invoke(context)
        code = 0
    except typer.Exit as stop:
        code = stop.exit_code
    if sys.stdout is not None:
        sys.stdout.flush()
    return code


def _abandon_stdout() -> None:
    """Give up what stdout will not take: Python would try again at its end, and complain."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the one line for whatever ended a command."""
    if isinstance(error, EyespotError):
        return error.exit_code, f"error: {error}"
    interruption = _interruption(error)
    if interruption is not None:
        return 128 + getattr(interruption, "signal", signal.SIGINT), ""
    if isinstance(error, _USAGE_ERROR):
        return 2, _explain_usage(error)
    if isinstance(error, BrokenPipeError):
        return _EXIT_CLOSED_PIPE, ""  # the reader has gone (`| head`): nobody's fault
    if isinstance(error, OSError):
        where = error.filename or ("stdout" if error.errno in (errno.ENOSPC, errno.EBADF) else "the file system")
        failure = EyespotError(error.strerror or str(error), where=where, remedy="check the path and the disk")
        return 1, f"error: {failure}"
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        limit = MemoryLimitError("no memory left", remedy="close other programs, or try a smaller training.batch_size")
        return 1, f"error: {limit}"
    what = f"unexpected {type(error).__name__} ({error})"
    return 1, f"error: {EyespotError(what, where='eyespot', remedy='run it again with --debug and report it')}"


def _interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the signal behind an error: a library that is stopped while it loads may call that an import error."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _explain_usage(error: Exception) -> str:
    """Return the line for a command line that cannot be parsed: typer's words in eyespot's form."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "eyespot"
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        print(context.get_help() + "\n", file=sys.stderr)
        what = "no command"
    else:
        what = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    return f"error: {UsageError(what, where='the command line', remedy=f'{command} --help')}"

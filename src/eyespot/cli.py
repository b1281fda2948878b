"""The command line: the commands put together, and one line for whatever ends one.

Nothing heavy is imported before a command needs it, so that `eyespot --help` answers at once.
"""

from __future__ import annotations

import _thread
import codecs
import errno
import glob
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Annotated, cast

import typer

from eyespot import __version__
from eyespot.commands.ablate import ablate
from eyespot.commands.check import check
from eyespot.commands.compare import compare
from eyespot.commands.data import data_app
from eyespot.commands.doctor import doctor
from eyespot.commands.evaluate import evaluate
from eyespot.commands.explain import explain
from eyespot.commands.export import export
from eyespot.commands.models import models
from eyespot.commands.note import note
from eyespot.commands.predict import predict
from eyespot.commands.recipes import recipes
from eyespot.commands.runs import runs
from eyespot.commands.serve import serve
from eyespot.commands.study import study_app
from eyespot.commands.sweep import sweep
from eyespot.commands.train import train
from eyespot.device import is_memory_error, wait_briefly
from eyespot.errors import EyespotError, Interrupted, MemoryLimitError, UsageError
from eyespot.files import LIMITS

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


# In the order of `eyespot --help`: from the pictures to the shipped model, then what helps on the way.
for _command in (
    *(check, train, evaluate, predict, explain, compare, ablate, sweep, export, serve),
    *(runs, note, models, recipes, doctor),
):
    app.command()(_command)
app.add_typer(data_app, name="data")
app.add_typer(study_app, name="study")


# ------------------------------------------------------------------------------------------------------- the way out


def _expanded(words: list[str]) -> list[str]:
    """Return the words with wildcards expanded where the shell leaves that to the program: on Windows."""
    if os.name != "nt":
        return words
    return [name for word in words for name in (sorted(glob.glob(word)) if glob.has_magic(word) else ()) or [word]]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    2 for wrong use, 1 for a failure, 130, 143 and 129 for Ctrl-C, SIGTERM and a closed terminal.
    """
    _fill_closed_streams()
    codecs.register_error("eyespot", _write_otherwise)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="eyespot")
    _answer_signals()
    wait_briefly()
    sys.exit(_run(_expanded(sys.argv[1:]) if arguments is None else arguments))


def _fill_closed_streams() -> None:
    """Put the null device where stdin, stdout or stderr is closed (`2>&-`).

    The next file that is opened would get the free number, and the words of a library in C would go into it; and Python
    prints on stdout what is meant for a stderr that is None.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process


# What stands for our own signs where a stream cannot carry them: in a pipe on Windows, -0.8 is no \u22120.8.
_SIGNS = {"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "→": "->", "±": "+-", "·": "-", "×": "x", "…": "..."}


def _write_otherwise(error: UnicodeError) -> tuple[str, int]:
    """Return the text for characters that an old locale lacks: a name in another alphabet becomes escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    escape = [_SIGNS.get(c) or c.encode("ascii", "backslashreplace").decode("ascii") for c in missing]
    return "".join(escape), error.end


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
        _abandon_output()
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
            if words[0] != "doctor":  # which looks for itself
                _refuse_deleted_folder()
            command.invoke(context)
        code = 0
    except typer.Exit as stop:
        code = stop.exit_code
    if sys.stdout is not None:
        sys.stdout.flush()
    return code


def _refuse_deleted_folder() -> None:
    """Say that the current folder is gone, before torch is loaded and ends the process with words of oneMKL's.

    Raises:
        UsageError: It is.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UsageError("the current folder was deleted", remedy="cd to a folder that exists") from error


def _abandon_output() -> None:
    """Give up what stdout and stderr will not take: Python would try again at its end, complain, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
    if is_memory_error(error):
        limit = MemoryLimitError("no memory left", remedy="close other programs, or try a smaller training.batch_size")
        return 1, f"error: {limit}"
    if str(error) == "can't start new thread":  # of Python's, which calls it a RuntimeError
        error = OSError(errno.EAGAIN, str(error))
    if isinstance(error, OSError) and error.errno in LIMITS:
        return 1, f"error: {EyespotError(error.strerror or str(error), remedy=LIMITS[error.errno])}"
    if isinstance(error, OSError):
        where = error.filename or ("stdout" if error.errno in (errno.ENOSPC, errno.EBADF) else "the file system")
        failure = EyespotError(error.strerror or str(error), where=where, remedy="check the path and the disk")
        return 1, f"error: {failure}"
    if isinstance(error, ImportError):  # of a library of the system, too, for which a limit leaves no room
        remedy = "eyespot doctor looks at the installation; a limit on memory stops torch as well"
        return 1, f"error: {EyespotError(f'a package cannot be loaded ({error})', remedy=remedy)}"
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
        what = error.format_message().rstrip(".").replace(": Value error, ", ": ")  # type: ignore[attr-defined]
    key = _setting_called(getattr(error, "option_name", None), context)
    remedy = f"{command} --help" if key is None else f"{key} is a setting, so give --set {key}=VALUE; {command} --help"
    return f"error: {UsageError(what, where='the command line', remedy=remedy)}"


def _setting_called(option: str | None, context: typer.Context | None) -> str | None:
    """Return the setting that an option which a command does not have names, as `--epochs` does training.epochs."""
    if option is None or context is None or not any("--set" in param.opts for param in context.command.params):
        return None
    import difflib

    from eyespot.config import config_keys

    keys = {key.rpartition(".")[2].replace("_", "-"): key for key in reversed(config_keys())}
    own = {name.lstrip("-") for param in context.command.params for name in param.opts}
    keys = {name: key for name, key in keys.items() if name not in own}  # --minuts is --minutes
    near = difflib.get_close_matches(option.lstrip("-"), keys, n=1, cutoff=0.9)
    return keys[near[0]] if near else None

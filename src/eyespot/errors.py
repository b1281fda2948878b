"""Every error that eyespot raises on purpose, as one tree.

    EyespotError                 exit code 1: something failed
    ├── UsageError               exit code 2: the command or call was wrong
    │   └── ConfigError          a recipe or a --set that does not validate
    ├── DataError                data that cannot be used as it is
    │   ├── BadImageError        one picture cannot be decoded
    │   │   └── CostlyImageError one picture is over the limits on pixels, bytes or time
    │   ├── LeakError            the same picture in train and test
    │   ├── DownloadError        a data set cannot be fetched or fails its checksum
    │   └── ArchiveError         an archive that is damaged or hostile
    ├── ModelError               unknown architecture, or an input it cannot take
    ├── TrainingError            training cannot go on
    │   ├── DivergedError        NaN or Inf in the loss
    │   └── MemoryLimitError     out of memory, with what to try
    ├── RunError                 a run folder that cannot be read or written
    │   ├── CheckpointError      a checkpoint or bundle that is damaged or foreign
    │   └── RunLockedError       another process is writing this run
    ├── ServerError              the server cannot start
    └── MissingExtraError        an optional package is not installed, or cannot be loaded

`Interrupted`, a KeyboardInterrupt, stands beside the tree: a stop that was asked for is no error.

On the command line an error is one line, `error: WHAT in WHERE: REMEDY`, and the exit code above.
"""

from __future__ import annotations

import copyreg
import difflib
import importlib
import math
import os
import re
import shlex
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

# Of the characters without a look of their own, those that belong to the spelling: of Persian words, of joined emoji.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    """Return text on one line that cannot move the cursor: file names may hold line breaks, escapes, broken bytes."""
    return "".join(
        c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )


class EyespotError(Exception):
    """What went wrong, where, and what to do about it.

    Args:
        what: The wrong thing with what was got and what is allowed, without a final period.
        where: File, key, class or split it happened in; None where `what` already says it.
        remedy: The next step for the user, as an imperative.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, remedy: str = "") -> None:
        self.what = what.removesuffix(".")
        self.where = None if where is None else str(where)
        self.remedy = remedy
        super().__init__(self.what, self.where, remedy)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the error cross to another process: a pool that cannot load what a worker raised waits for ever."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def __str__(self) -> str:
        """Return `WHAT in WHERE: REMEDY` on one line, whatever was in its parts."""
        text = self.what
        if self.where is not None:
            text += f" in {self.where}"
        if self.remedy:
            text += f": {self.remedy}"
        return printable(text)


class UsageError(EyespotError):
    """The command line or the call was wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A recipe, or a setting given with --set, does not validate."""


class DataError(EyespotError):
    """The data cannot be used as they are."""


class BadImageError(DataError):
    """A file is not a picture that can be decoded; `what` is the reason."""


class CostlyImageError(BadImageError):
    """A picture is over the limits on pixels, bytes or decoding time."""


class LeakError(DataError):
    """The same picture is in the training data and in the test data."""


class DownloadError(DataError):
    """A data set or a backbone's weights could not be fetched, or what came is not what was pinned."""


class ArchiveError(DataError):
    """An archive is damaged, or would write outside its folder."""


class ModelError(EyespotError):
    """An unknown architecture, or an input or class count that it cannot take."""


class TrainingError(EyespotError):
    """Training cannot go on."""


class DivergedError(TrainingError):
    """The loss became NaN or infinite."""


class MemoryLimitError(TrainingError):
    """Memory ran out; the remedy names what to try."""


class RunError(EyespotError):
    """A run folder cannot be read or written."""


class CheckpointError(RunError):
    """A checkpoint or bundle is damaged, or belongs to something else."""


class RunLockedError(RunError):
    """Another process is writing this run folder."""


class ServerError(EyespotError):
    """The server cannot start."""


class MissingExtraError(EyespotError):
    """An optional package is needed and not installed, or cannot be loaded; `fault` says why."""

    def __init__(self, package: str, extra: str, *, fault: str = "") -> None:
        if fault:
            super().__init__(f"package {package!r} cannot be loaded ({fault})", remedy=f"pip install -U {package}")
        else:
            super().__init__(f"package {package!r} is not installed", remedy=f'pip install "eyespot[{extra}]"')


class Interrupted(KeyboardInterrupt):
    """A signal asked for an orderly stop; a training that was under way has written a checkpoint.

    It is a `KeyboardInterrupt`, which is what Ctrl-C means in a notebook, and `except Exception` does not swallow it.

    Attributes:
        signal: The number: 2 for Ctrl-C, 15 for SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number

    def __str__(self) -> str:
        return f"stopped by signal {self.signal}"


def require_extra(extra: str, *modules: str) -> None:
    """Load what an extra brings, so that an import of it does not fail.

    Args:
        extra: Its name.
        modules: Of its packages, in the order in which they are tried.

    Raises:
        MissingExtraError: One of them is not installed, or cannot be loaded.
    """
    for module in modules:
        package = module.partition(".")[0]
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a package may raise that is damaged, or does not suit the others
            missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
            if missing and "." not in missing:
                raise MissingExtraError(missing, extra) from error
            fault = f"{type(error).__name__}: {first_line(error)}"
            raise MissingExtraError(package, extra, fault=fault) from error


def first_line(error: BaseException, most: int = 160) -> str:
    """Return the first line of an error's text, or its class where it has none."""
    text = str(error).strip()
    return text.splitlines()[0][:most] if text else type(error).__name__


def whole_number(name: str, given: object, *, least: int = 0, remedy: str = "") -> int:
    """Return a whole number that the user gave, numpy's too, as Python's own: JSON knows no other.

    Raises:
        UsageError: It is none, such as text, or below `least`.
    """
    if not isinstance(given, Integral) or given < least:
        raise UsageError(f"{name} is {given!r}", remedy=remedy or f"use a whole number, {least} or more")
    return int(given)


def positive_number(name: str, given: object, *, or_zero: bool = False, remedy: str = "") -> float:
    """Return a number above 0 that the user gave, numpy's too, as Python's own: JSON knows no other.

    Raises:
        UsageError: It is none, such as text, not finite, or too small.
    """
    try:
        number = float(given) if isinstance(given, Real) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < 0 or (number == 0 and not or_zero):
        raise UsageError(f"{name} is {given!r}", remedy=remedy or "give a number above 0")
    return number


def quoted(text: str) -> str:
    """Return a word of a command line for this system's shell."""
    if os.name != "nt":
        return shlex.quote(text)
    return text if re.fullmatch(r"[\w@%+=:,./\\~-]+", text) else f'"{text}"'


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest allowed word, or an empty string.

    The one that begins with the word is nearest: `rotate` is `rotate_degrees`, and not `contrast`.
    """
    word, known = str(word).lower(), list(allowed)
    begun = [name for name in known if word and name.lower().startswith(word)]
    near = begun if len(begun) == 1 else difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""

"""The pictures of a folder in a fixed order, however many there are: a million names are never in memory at once.

Before this: a folder that somebody wants answered. After this: `predicting` decodes and answers them one after another.
"""

from __future__ import annotations

import heapq
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, NamedTuple

from eyespot.data.names import is_litter, may_be_picture
from eyespot.errors import DataError

# Names that are sorted in memory; a folder with more of them is sorted in pieces on the disk and merged.
_NAMES = 50_000

NO_PICTURES_REMEDY = "give a folder with pictures in it or below it; links to folders are not followed"


class Found(NamedTuple):
    """A picture by its name, or a folder below that cannot be listed.

    Attributes:
        path: The file; the folder where `error` is set.
        error: Why the folder cannot be listed; None for a picture.
    """

    path: str
    error: str | None = None


def walk_pictures(folder: str | os.PathLike[str]) -> Iterator[Found]:
    """Yield the pictures in a folder and below it, in the order of their paths as text.

    What counts is what counts in training: hidden files, a system's litter and files with the extension of something
    else are left out. Links to folders are not followed. No file is opened.

    Args:
        folder: Any folder, of any size: memory holds the names of 50,000 files at most.

    Raises:
        DataError: The folder itself cannot be listed.
    """
    root = os.fspath(folder)
    try:
        levels = [_entries(root)]
        first = next(levels[0], None)
    except OSError as error:
        raise DataError(_reason(error), where=root, remedy="check its permissions") from error
    waiting = [] if first is None else [first]
    here = [root]
    while levels:
        name = waiting.pop() if waiting else next(levels[-1], None)
        if name is None:
            levels.pop()
            here.pop()
            continue
        path = os.path.join(here[-1], name.rstrip("/"))
        if not name.endswith("/"):
            yield Found(path)
            continue
        below = _entries(path)
        try:
            first = next(below, None)
        except OSError as error:
            yield Found(path, _reason(error))
            continue
        if first is not None:
            levels.append(below)
            here.append(path)
            waiting.append(first)


def _reason(error: OSError) -> str:
    return f"cannot list the folder ({error.strerror or type(error).__name__})"


def _entries(folder: str) -> Iterator[str]:
    """Yield the names in one folder, sorted; those of folders end in `/`, by which paths below sort as paths do.

    Raises:
        OSError: The folder cannot be listed; before the first name is yielded.
    """
    with ExitStack() as files:
        runs: list[Iterator[str]] = []
        names: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if name := _wanted(entry):
                    names.append(name)
                if len(names) == _NAMES:
                    runs.append(_spooled(sorted(names), files.enter_context(tempfile.TemporaryFile("w+"))))
                    names = []
        names.sort()
        yield from heapq.merge(*runs, names) if runs else names


def _wanted(entry: os.DirEntry[str]) -> str:
    """Return the name, with `/` for a folder; nothing for what is left out."""
    try:
        is_folder = entry.is_dir()
    except OSError:
        is_folder = False
    if is_folder:
        is_link = entry.is_symlink() or getattr(entry, "is_junction", bool)()  # from Python 3.12 on
        return "" if is_link or is_litter(entry.name) else f"{entry.name}/"
    return entry.name if may_be_picture(entry.name) else ""


def _spooled(names: list[str], file: IO[str]) -> Iterator[str]:
    """Write names to a file and return an iterator that reads them back."""
    # JSON: a name may hold line breaks and bytes that are no text.
    file.writelines(json.dumps(name) + "\n" for name in names)
    file.seek(0)
    return map(json.loads, file)

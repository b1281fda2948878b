"""One job: make the CSV that `csvfile` reads, of pictures whose class is in their names or in somebody's own table.

Before this: `cat.0.jpg`, `cat.1.jpg`, ... in one folder, or a table of picture names and classes beside a folder of
pictures. After this: the user looks at the CSV, corrects it, and trains on it.

Nothing here is guessed behind anybody's back: it is a command of its own, which says what it found.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from eyespot.data.csvfile import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    SPLIT_COLUMNS,
    check_width,
    fail_in_line,
    named_column,
    shown,
    table_rows,
)
from eyespot.data.dataset import SPLIT_NAMES
from eyespot.data.folders import SPLIT_WORDS, few, safe_text, split_of
from eyespot.data.walking import walk_pictures
from eyespot.errors import DataError, UsageError, did_you_mean
from eyespot.files import write_atomic

# `cat.0`, `Abyssinian_100`, `n01440764_10026`, `dog (3)`, `dog12`: the class, then the picture's number.
_NUMBERED = re.compile(r"(.+?)(?:[\s._-]+\(?\d+\)?|(?<=\D)\d+)")
_SEPARATORS = " ._-"
_ID_COLUMNS = (*PATH_COLUMNS, "image_id", "image_name", "img", "id", "name")


class PictureRow(NamedTuple):
    """A picture with its class, and its split where the source has splits."""

    path: str
    label: str
    split: str


@dataclass(frozen=True)
class PictureTable:
    """What becomes a CSV.

    Attributes:
        rows: The pictures, with paths as they can be opened.
        notes: What was left out, and why.
    """

    rows: Sequence[PictureRow]
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Return pictures per class, sorted by class."""
        return dict(sorted(Counter(row.label for row in self.rows).items()))


def label_by_names(folder: Path, pattern: str | None = None) -> PictureTable:
    r"""Return the pictures in a folder and below it with the classes that their names say.

    Args:
        folder: With `train/`, `val/` or `test/` in it, they become the splits; other pictures are then left out.
        pattern: A regular expression that is searched in each path relative to the folder, with forward slashes and
            without extension; its first group (without one, all that matches) is the class. Left out: the file's name
            up to its last number, so that `Abyssinian_100.jpg` is `Abyssinian`.

    Raises:
        UsageError: The pattern is no regular expression.
        DataError: The folder cannot be listed, no name says a class, or all names say the same or one each.
    """
    try:
        wanted = re.compile(pattern) if pattern is not None else None
    except re.error as error:
        raise UsageError(
            f"no regular expression: {error}", where="--pattern", remedy="such as '(.+)_[0-9]+'"
        ) from error
    found: list[PictureRow] = []
    nameless: list[str] = []
    for path, name in _pictures(folder):
        label = _label_in(name, wanted)
        split = split_of(name.partition("/")[0]) if "/" in name else None
        if label:
            found.append(PictureRow(path, label, split or ""))
        else:
            nameless.append(name)
    # Folders that are no splits may well be there for another reason; without train/ they say nothing.
    with_splits = any(row.split == "train" for row in found)
    rows = [row if with_splits else row._replace(split="") for row in found if row.split or not with_splits]
    _check_classes([row.label for row in rows], nameless, folder)
    notes = []
    if nameless:
        notes.append(f"{_pictures_left_out(len(nameless))}, whose names say no class: {few(nameless)}")
    if len(rows) < len(found):
        notes.append(f"{_pictures_left_out(len(found) - len(rows))}: they are in no split")
    return _without_unwritable(rows, notes)


def label_by_table(table: Path, folder: Path, columns: tuple[str, str] | None = None) -> PictureTable:
    """Return the pictures that a table names, found in a folder, with the classes that the table gives them.

    Args:
        table: CSV or TSV with names for its columns. A picture may be named by its path below the folder, by its file
            name or by that without extension.
        folder: Where the pictures are, or below.
        columns: The names of the columns of picture and class; left out: the usual ones.

    Raises:
        DataError: With the line: a picture that is not there or that two files could be, an empty class, an unknown
            split; columns that are not there.
    """
    lines = table_rows(table)
    line, header = next(lines, (1, []))
    path_column, label_column, split_column = _columns(header, columns, line, table)
    by_name: dict[str, list[str]] = {}
    pictures = 0
    for path, name in _pictures(folder):
        pictures += 1
        base = name.rpartition("/")[2]
        for key in {name, os.path.splitext(name)[0], base, os.path.splitext(base)[0]}:
            by_name.setdefault(key, []).append(path)
    rows: list[PictureRow] = []
    missing: list[tuple[int, str]] = []
    for line, cells in lines:
        check_width(cells, len(header), line, table)
        written, label = cells[path_column].strip(), safe_text(cells[label_column].strip())
        if not written or not label:
            fail_in_line(table, line, "an empty class" if written else "an empty name", "fill it in or remove the row")
        paths = by_name.get(written.replace("\\", "/").removeprefix("./"), [])
        if len(paths) > 1:
            fail_in_line(
                table,
                line,
                f"{shown(written)} may be {few(paths)}",
                f"write its path below {folder}, or give a folder with --pictures that has one of them",
            )
        if not paths:
            missing.append((line, written))
            continue
        word = cells[split_column].strip().casefold() if split_column is not None else ""
        if split_column is not None and word not in SPLIT_WORDS:
            fail_in_line(table, line, f"unknown split {shown(cells[split_column])}", "use train, val or test")
        rows.append(PictureRow(paths[0], label, SPLIT_WORDS.get(word, "")))
    if missing:
        line, written = missing[0]
        more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        fail_in_line(table, line, f"no picture {shown(written)} in {folder}{more}", "name the folder with --pictures")
    if not rows:
        raise DataError("a header and no rows", where=table, remedy="fill it in")
    others = pictures - len({row.path for row in rows})
    notes = [f"{_pictures_left_out(others)}, which the table does not name"] if others else []
    return _without_unwritable(rows, notes)


def write_table(found: PictureTable, out: Path) -> None:
    """Write the CSV, with paths relative to its folder; an existing file is left as it is.

    Raises:
        UsageError: There is a file already, or it has another extension.
        RunError: It cannot be written.
    """
    if out.suffix.lower() != ".csv":
        raise UsageError("no name of a CSV", where=out, remedy="give a name that ends with .csv")
    if out.exists():
        raise UsageError(
            "there is a file already, and it may have been corrected by hand",
            where=out,
            remedy="choose another name, or remove it first",
        )
    here = os.path.abspath(out.parent)
    split = any(row.split for row in found.rows)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "label", "split"][: 2 + split])
    for row in found.rows:
        writer.writerow([_relative(row.path, here), row.label, row.split][: 2 + split])
    write_atomic(out, buffer.getvalue().encode())


def _pictures(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each picture's path, and its path below the folder with forward slashes."""
    root = os.path.abspath(folder)
    for found in walk_pictures(root):
        if found.error:
            raise DataError(found.error, where=found.path, remedy="check its permissions")
        yield found.path, os.path.relpath(found.path, root).replace(os.sep, "/")


def _label_in(name: str, wanted: re.Pattern[str] | None) -> str:
    """Return the class that a path says; nothing where it says none."""
    stem = os.path.splitext(name)[0]
    if wanted is not None:
        match = wanted.search(stem)
        text = (match[1] if wanted.groups else match[0]) if match else None
    else:
        match = _NUMBERED.fullmatch(stem.rpartition("/")[2])
        text = match[1].strip(_SEPARATORS) if match else None
    return safe_text((text or "").strip())


def _check_classes(labels: Sequence[str], nameless: Sequence[str], folder: Path) -> None:
    """Raise where the names tell no classes apart."""
    kinds = sorted(set(labels))
    remedy = "say with --pattern what of a name is its class, such as '(.+)_[0-9]+'"
    if not kinds and not nameless:
        raise DataError("no pictures", where=folder, remedy="name the folder that holds them")
    if not kinds:
        raise DataError(f"no name says a class: {few(nameless)}", where=folder, remedy=remedy)
    if len(kinds) == 1:
        raise DataError(f"all names say the same class, {kinds[0]!r}", where=folder, remedy=remedy)
    if len(kinds) * 2 > len(labels):
        raise DataError(
            f"{len(kinds):,} classes in the names of {len(labels):,} pictures: {few(kinds)}",
            where=folder,
            remedy=remedy,
        )


def _columns(
    header: Sequence[str], columns: tuple[str, str] | None, line: int, table: Path
) -> tuple[int, int, int | None]:
    """Return the places of picture, class and split."""
    names = [cell.strip().casefold() for cell in header]
    if columns is not None:
        places = []
        for column in columns:
            if names.count(column.strip().casefold()) != 1:
                near = did_you_mean(column, list(header))
                have = f"it has {few(header, most=20)}"
                fail_in_line(table, line, f"no column {shown(column)}.{near}", have)
            places.append(names.index(column.strip().casefold()))
        path, label = places
    else:
        found = [named_column(names, words, line, table) for words in (_ID_COLUMNS, LABEL_COLUMNS)]
        if found[0] is None or found[1] is None:
            fail_in_line(
                table,
                line,
                f"columns {few(header, most=20)}: which is the picture, which the class?",
                "say it with --columns PICTURE,CLASS",
            )
        path, label = found[0], found[1]
    return path, label, named_column(names, SPLIT_COLUMNS, line, table)


def _without_unwritable(rows: Sequence[PictureRow], notes: list[str]) -> PictureTable:
    """Return the table without what a line of UTF-8 text cannot name, in the order of splits and paths."""
    kept: list[PictureRow] = []
    odd: list[PictureRow] = []
    for row in rows:
        readable = row.path == row.path.strip() and not re.search("[\r\n\ud800-\udfff]", row.path)
        (kept if readable else odd).append(row)
    if odd:
        named = few(safe_text(row.path) for row in odd)
        notes = [*notes, f"{_pictures_left_out(len(odd))}, whose names no CSV can hold: {named}"]
    order = ["", *SPLIT_NAMES]
    return PictureTable(sorted(kept, key=lambda row: (order.index(row.split), row.path)), tuple(notes))


def _pictures_left_out(count: int) -> str:
    return f"{count:,} picture{'' if count == 1 else 's'} left out"


def _relative(path: str, folder: str) -> str:
    try:
        return os.path.relpath(path, folder).replace(os.sep, "/")
    except ValueError:  # another drive on Windows
        return path.replace(os.sep, "/")

"""One job: make the CSV that `csvfile` reads, of pictures whose class is in their names or in somebody's own table.

Before this: `cat.0.jpg`, `cat.1.jpg`, ... in one folder, or a table of picture names and classes beside a folder of
pictures. After this: the user looks at the CSV, corrects it, and trains on it.

Nothing here is guessed behind anybody's back: it is a command of its own, which says what it found.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from eyespot.data.csvfile import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    SPLIT_COLUMNS,
    SplitsUnnamed,
    check_width,
    fail_in_line,
    named_column,
    shown,
    table_rows,
    text_of,
)
from eyespot.data.dataset import SPLIT_NAMES
from eyespot.data.group_splits import split_groups
from eyespot.data.names import SPLIT_WORDS, few, may_be_picture, safe_text, split_of, splits_of_paths
from eyespot.data.walking import NO_PICTURES_REMEDY, walk_pictures
from eyespot.errors import DataError, UsageError, did_you_mean
from eyespot.files import write_atomic

# `cat.0`, `Abyssinian_100`, `n01440764_10026`, `dog (3)`, `dog12`: the class, then the picture's number.
_NUMBERED = re.compile(r"(.+?)(?:[\s._-]+\(?\d+\)?|(?<=\D)\d+)")
_SEPARATORS = " ._-"
_ID_COLUMNS = (*PATH_COLUMNS, "image_id", "image_name", "img", "id", "name")


class PictureRow(NamedTuple):
    """A picture with its class, its split where the source has splits, and its group where one is asked for."""

    path: str
    label: str
    split: str
    group: str = ""


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


def label_by_names(folder: Path, pattern: str | None = None, groups: str | None = None) -> PictureTable:
    r"""Return the pictures in a folder and below it with the classes that their names say.

    Args:
        folder: With `train/`, `val/` or `test/` in it, they become the splits; other pictures are then left out.
        pattern: A regular expression that is searched in each path relative to the folder, with forward slashes and
            without extension; its first group (without one, all that matches) is the class. Left out: the file's name
            up to its last number, so that `Abyssinian_100.jpg` is `Abyssinian`.
        groups: The same for the group of a picture.

    Raises:
        UsageError: A pattern is no regular expression.
        DataError: The folder cannot be listed, no name says a class, or all names say the same or one each; a picture
            without a group.
    """
    wanted, grouping = _compiled(pattern, "--pattern"), _compiled(groups, "--groups")
    found: list[PictureRow] = []
    nameless: list[str] = []
    pictures = list(_pictures(folder))
    around = len(_around([name for _, name in pictures]))
    for path, name in pictures:
        label = _label_in(name, wanted)
        group = _first_group(name, grouping) if grouping is not None else ""
        top, is_below, _ = name[around:].partition("/")
        split = split_of(top) if is_below else None
        if label and grouping is not None and not group:
            raise DataError(f"no group in {name!r}", where=folder, remedy="let --groups match every picture's path")
        if label:
            found.append(PictureRow(path, label, split or "", group))
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


def label_by_table(
    table: Path, folder: Path, columns: tuple[str, str] | None = None, groups: str | None = None
) -> PictureTable:
    """Return the pictures that a table names, found in a folder, with the classes that the table gives them.

    Args:
        table: CSV or TSV with names for its columns, or JSON Lines. A picture may be named by its path from the folder,
            by its file name or by that without extension; where several could be meant, the path goes first.
        folder: Where the pictures are, or below.
        columns: The names of the columns of picture and class; left out: the usual ones, or a column for each class
            with 1 where a picture is of it and 0 elsewhere.
        groups: The name of the column of groups.

    Raises:
        DataError: With the line: a picture that is not there or that two files could be, an empty class or group, none
            or several of the classes, an unknown split, a picture with two classes, splits or groups; columns that are
            not there.
    """
    lines = _json_rows(table) if table.suffix.lower() == ".jsonl" else table_rows(table)
    line, header = next(lines, (1, []))
    if not header:
        raise DataError("an empty table", where=table, remedy="name the file that lists the pictures")
    path_column, label_column, split_column = _columns(header, columns, line, table)
    group_column = None if groups is None else _column(header, groups, line, table)
    hot = [i for i in range(len(header)) if i not in (path_column, split_column, group_column)]
    head = (line, header)
    by_name, pictures = _by_every_name(folder)
    root = os.path.abspath(folder)
    rows: dict[str, tuple[int, PictureRow]] = {}
    unnamed = SplitsUnnamed(header, (path_column, label_column, group_column)) if split_column is None else None
    if unnamed is not None:
        lines = unnamed.watch(lines)
    again = outside = 0
    missing: list[tuple[int, str]] = []
    for line, cells in lines:
        check_width(cells, len(header), line, table)
        written = cells[path_column].strip()
        label = safe_text(
            (_hot_class(head, hot, line, cells, table) if label_column is None else cells[label_column]).strip()
        )
        group = "" if group_column is None else safe_text(cells[group_column].strip())
        for what, text in (("name", written), ("class", label), ("group", group or group_column is None)):
            if not text:
                fail_in_line(table, line, f"an empty {what}", "fill it in or remove the row")
        paths, is_inside = _named(written, root, by_name)
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
        row = PictureRow(paths[0], label, SPLIT_WORDS.get(word, ""), group)
        earlier, before = rows.setdefault(row.path, (line, row))
        if before is row:
            outside += not is_inside
            continue
        again += 1
        _check_same(earlier, before, line, row, table)
    if missing:
        line, written = missing[0]
        more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        fail_in_line(table, line, f"no picture {shown(written)} in {folder}{more}", "name the folder with --pictures")
    if not rows:
        raise DataError("a header and no rows", where=table, remedy="fill it in")
    if unnamed is not None:
        unnamed.check(table)
    others = pictures + outside - len(rows)
    notes = [f"{_pictures_left_out(others)}, which the table does not name"] if others else []
    if again:
        notes.append(f"{again:,} row{' names a picture' if again == 1 else 's name pictures'} once more: counted once")
    named = [row for _, row in rows.values()]
    if split_column is None:
        named = _with_splits_of_folders(named, notes)
    return _without_unwritable(named, notes)


def _with_splits_of_folders(rows: Sequence[PictureRow], notes: list[str]) -> list[PictureRow]:
    """Return rows with the splits that their folders are named after; where they are not, the rows as they are."""
    splits = splits_of_paths([row.path.replace(os.sep, "/") for row in rows])
    if not any(splits):
        return list(rows)
    kept = [row._replace(split=split) for row, split in zip(rows, splits, strict=True) if split]
    notes.append("splits are those that folders of the pictures are named after")
    if len(kept) < len(rows):
        notes.append(f"{_pictures_left_out(len(rows) - len(kept))}: they are in no split")
    return kept


def label_by_tables(
    tables: Sequence[Path], folder: Path | None, columns: tuple[str, str] | None = None, groups: str | None = None
) -> PictureTable:
    """Return the pictures of several tables, each of which is of the split that it, or its folder, is named after.

    Args:
        tables: Such as `train.csv` and `test.csv`, or `train/labels.csv` and `test/labels.csv`; each as for
            `label_by_table`.
        folder: Where the pictures are; left out: each table's own.
        columns: As for `label_by_table`.
        groups: As for `label_by_table`.

    Raises:
        DataError: As `label_by_table`; a table that no split can be told of, a picture in two tables.
    """
    rows: dict[str, tuple[Path, PictureRow]] = {}
    notes = []
    for table in tables:
        found = label_by_table(table, table.parent if folder is None else folder, columns, groups)
        split = _split_of_table(table)
        notes += [f"{table}: {note}" for note in found.notes]
        for row in found.rows:
            row = row if row.split else row._replace(split=split)
            earlier, before = rows.setdefault(row.path, (table, row))
            if before is not row:
                raise DataError(f"{shown(row.path)} is in {earlier} and again", where=table, remedy="keep one of them")
    return _without_unwritable([row for _, row in rows.values()], notes)


def _split_of_table(table: Path) -> str:
    """Return the split of a table such as `train.csv`, `trainLabels.csv` or `train/labels.csv`."""
    words = re.sub("(?<=[a-z])(?=[A-Z])", "_", table.stem).casefold()
    named = {SPLIT_WORDS[word] for word in re.findall("[a-z]+", words) if word in SPLIT_WORDS}
    split = named.pop() if len(named) == 1 else split_of(table.absolute().parent.name)
    if split is None:
        raise DataError(
            "of which split is it?", where=table, remedy="name it, or the folder that it is in, train, val or test"
        )
    return split


def _json_rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of JSON Lines, the names of the first object before all."""
    names: list[str] = []
    # Not by `splitlines`: U+2028 stands as it is inside of JSON's texts.
    for line, text in enumerate(text_of(table).split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            fail_in_line(table, line, "no JSON object", 'write a line such as {"file_name": "1.png", "label": "cat"}')
        if not names:
            names = list(row)
            yield line, names
        yield line, ["" if row.get(name) is None else str(row[name]) for name in names]


def _hot_class(
    head: tuple[int, Sequence[str]], hot: Sequence[int], line: int, cells: Sequence[str], table: Path
) -> str:
    """Return the name of the column that holds a 1, of columns that are classes, with 0 in the others."""
    if len(hot) < 2 or not {cells[i].strip() for i in hot} <= {"0", "1", "0.0", "1.0"}:
        _fail_unnamed(*head, table)
    names = [head[1][i].strip() for i in hot if cells[i].strip() in ("1", "1.0")]
    if len(names) != 1:
        what = f"a picture of {len(names)} classes: {few(names)}" if names else "a picture of no class: all are 0"
        fail_in_line(table, line, what, "put a 1 into one of its columns, or remove the row")
    return names[0]


def keep_groups_together(found: PictureTable, *, seed: int, where: object) -> PictureTable:
    """Return the table with splits drawn so that no group is in two of them.

    Raises:
        UsageError: The source has splits of its own.
        DataError: The groups cannot be divided.
    """
    if any(row.split for row in found.rows):
        raise UsageError("it has splits already", where=where, remedy="leave --groups out, or take the splits out")
    groups = [row.group for row in found.rows]
    splits = split_groups(groups, [row.label for row in found.rows], seed=seed, where=where)
    parts = []
    for name in SPLIT_NAMES:
        of_split = [group for group, split in zip(groups, splits, strict=True) if split == name]
        number = len(set(of_split))
        parts.append(f"{len(of_split):,} {name} ({number:,} group{'' if number == 1 else 's'})")
    rows = [row._replace(split=split) for row, split in zip(found.rows, splits, strict=True)]
    note = f"split by group (seed {seed}): {', '.join(parts)}"
    return _without_unwritable(rows, [*found.notes, note])


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
    columns = [name for name in PictureRow._fields if any(getattr(row, name) for row in found.rows)]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in found.rows:
        writer.writerow({**row._asdict(), "path": _relative(row.path, here)})
    write_atomic(out, buffer.getvalue().encode())


def _pictures(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each picture's path, and its path below the folder with forward slashes."""
    root = os.path.abspath(folder)
    for found in walk_pictures(root):
        if found.error:
            raise DataError(found.error, where=found.path, remedy="check its permissions")
        yield found.path, os.path.relpath(found.path, root).replace(os.sep, "/")


def _by_every_name(folder: Path) -> tuple[dict[str, list[str]], int]:
    """Return the pictures in a folder by their paths and names, with and without extension, and their number."""
    found: dict[str, list[str]] = {}
    number = 0
    for path, name in _pictures(folder):
        number += 1
        base = name.rpartition("/")[2]
        for key in {name, os.path.splitext(name)[0], base, os.path.splitext(base)[0]}:
            found.setdefault(key, []).append(path)
    return found, number


def _check_same(earlier: int, before: PictureRow, line: int, row: PictureRow, table: Path) -> None:
    """Raise where a picture that is named twice is not listed alike."""
    for what, old, new in zip(("paths", "classes", "splits", "groups"), before, row, strict=True):
        if old != new:
            two = f"two {what} for {shown(row.path)}: {old!r} in line {earlier:,}, {new!r} here"
            fail_in_line(table, line, two, "keep one of the two rows")


def _named(written: str, root: str, by_name: Mapping[str, list[str]]) -> tuple[list[str], bool]:
    """Return the files that a table may mean by a name, and whether the walk through the folder `root` found them.

    Accents are taken as they are written, else composed or, as a Mac names files, apart.
    """
    for form in dict.fromkeys([written, *(unicodedata.normalize(kind, written) for kind in ("NFC", "NFD"))]):
        paths, is_inside = _named_exactly(form, root, by_name)
        if paths:
            return paths, is_inside
    return [], True


def _named_exactly(written: str, root: str, by_name: Mapping[str, list[str]]) -> tuple[list[str], bool]:
    name = written.replace("\\", "/")
    # A path goes first, absolute or with `..`, too: else nothing could be written for `1.png` beside `sub/1.png`.
    exact = os.path.normpath(os.path.join(root, name))
    inside = os.path.join(root, "")
    if exact.startswith(inside) and exact in by_name.get(exact[len(inside) :].replace(os.sep, "/"), []):
        return [exact], True
    paths = by_name.get(name.removeprefix("./"), [])
    base = os.path.basename(exact)  # empty for "/"
    if not paths and base and may_be_picture(base) and os.path.isfile(exact):
        return [exact], False
    return paths, True


def _around(names: Sequence[str]) -> str:
    """Return the folder that all paths have around everything, with a slash; nothing where it is named as a split."""
    around = ""
    while True:
        first = {name[len(around) :].partition("/")[:2] for name in names}
        top, is_below = first.pop() if len(first) == 1 else ("", "")
        if not is_below or split_of(top):
            return around
        around += f"{top}/"


def _compiled(pattern: str | None, option: str) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise UsageError(f"no regular expression: {error}", where=option, remedy="such as '(.+)_[0-9]+'") from error


def _label_in(name: str, wanted: re.Pattern[str] | None) -> str:
    """Return the class that a path says; nothing where it says none."""
    if wanted is not None:
        return _first_group(name, wanted)
    match = _NUMBERED.fullmatch(os.path.splitext(name)[0].rpartition("/")[2])
    return safe_text(match[1].strip(_SEPARATORS)) if match else ""


def _first_group(name: str, wanted: re.Pattern[str]) -> str:
    """Return what the first group of a pattern, or all of it, finds in a path; nothing where it finds nothing."""
    match = wanted.search(os.path.splitext(name)[0])
    return safe_text(((match[1] if wanted.groups else match[0]) or "").strip()) if match else ""


def _check_classes(labels: Sequence[str], nameless: Sequence[str], folder: Path) -> None:
    """Raise where the names tell no classes apart."""
    kinds = sorted(set(labels))
    remedy = (
        "say with --pattern what of a name is its class, such as '(.+)_[0-9]+'; "
        "folders named after their classes need no table"
    )
    if not kinds and not nameless:
        raise DataError("no pictures", where=folder, remedy=NO_PICTURES_REMEDY)
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
) -> tuple[int, int | None, int | None]:
    """Return the places of picture, class and split; of the class None where no column has the name of one."""
    names = [cell.strip().casefold() for cell in header]
    label: int | None
    if columns is not None:
        path, label = (_column(header, name, line, table) for name in columns)
        if path == label:
            fail_in_line(table, line, f"one column for picture and class, {shown(columns[0])}", "name two columns")
    else:
        found = [named_column(names, words, line, table) for words in (_ID_COLUMNS, LABEL_COLUMNS)]
        if found[0] is None:
            _fail_unnamed(line, header, table)
        path, label = found[0], found[1]
    return path, label, named_column(names, SPLIT_COLUMNS, line, table)


def _fail_unnamed(line: int, header: Sequence[str], table: Path) -> NoReturn:
    what = f"columns {few(header, most=20)}: which is the picture, which the class?"
    fail_in_line(table, line, what, "say it with --columns PICTURE,CLASS")


def _column(header: Sequence[str], name: str, line: int, table: Path) -> int:
    """Return the place of the column with a name, in whatever case."""
    names = [cell.strip().casefold() for cell in header]
    if names.count(name.strip().casefold()) > 1:
        fail_in_line(table, line, f"two columns named {shown(name)}", "rename one of them")
    if name.strip().casefold() not in names:
        near = did_you_mean(name, list(header))
        fail_in_line(table, line, f"no column {shown(name)}.{near}", f"it has {few(header, most=20)}")
    return names.index(name.strip().casefold())


def _without_unwritable(rows: Sequence[PictureRow], notes: list[str]) -> PictureTable:
    """Return the table without what a line of UTF-8 text cannot name, in the order of splits and paths.

    Raises:
        DataError: Nothing is left, as below a folder with a line break in its name.
    """
    kept: list[PictureRow] = []
    odd: list[PictureRow] = []
    for row in rows:
        readable = row.path == row.path.strip() and not re.search("[\r\n\ud800-\udfff]", row.path)
        (kept if readable else odd).append(row)
    if odd:
        named = few(safe_text(row.path) for row in odd)
        if not kept:
            remedy = "rename them or the folder that they are in: no line break, no space at the end, text in UTF-8"
            raise DataError(f"no CSV can hold the names of these pictures: {named}", remedy=remedy)
        notes = [*notes, f"{_pictures_left_out(len(odd))}, whose names no CSV can hold: {named}"]
    order = ["", *SPLIT_NAMES]
    return PictureTable(sorted(kept, key=lambda row: (order.index(row.split), row.path)), tuple(notes))


def _pictures_left_out(count: int) -> str:
    return f"{count:,} picture{'' if count == 1 else 's'} left out"


def _relative(path: str, folder: str) -> str:
    """Return a path relative to the CSV's folder; a space at its start, which readers strip, comes behind `./`."""
    try:
        name = os.path.relpath(path, folder).replace(os.sep, "/")
    except ValueError:  # another drive on Windows
        return path.replace(os.sep, "/")
    return f"./{name}" if name[0].isspace() else name

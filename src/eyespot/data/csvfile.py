"""One job: read a CSV of path,label[,split] and check every line of it.

Before this: the user's file. After this: `packing` scans and decodes the pictures that it lists.

A table that is wrong somewhere is wrong: nothing is skipped or guessed, and every error names its line in the file.
"""

from __future__ import annotations

import csv
import io
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from eyespot.data.dataset import SPLIT_NAMES, Dataset, Items, PathList, SplitName
from eyespot.data.names import SPLIT_WORDS, check_classes, few, make_unique, safe_text, splits_of_paths
from eyespot.errors import DataError, did_you_mean, quoted

# Ten million rows; the whole table is read into memory.
MAX_BYTES = 1 << 30

PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "picture")
LABEL_COLUMNS = ("label", "class", "class_name", "category", "target")
SPLIT_COLUMNS = ("split", "subset", "partition")
# What pictures may have in common beyond their class: those of one patient are alike in ways that no fingerprint sees.
_GROUPS = ("patient", "subject", "lesion", "case", "person", "group", "video", "scene", "session", "slide")
_ALIKE = 2  # pictures for each of them, from which on it is said that they are not so many
_GROUP_COLUMN = re.compile(f"({'|'.join(_GROUPS)})[ _-]?(id|no|nr|number|name)?")
_YES_NO_SPLIT = re.compile(r"is[ _-]?(train|training|valid|val|validation|test)")  # fastai's tables have is_valid
_YES_NO_COLUMN = re.compile("train|training|val|validation|test|hold[ _-]?out")  # valid may be a row's label
_YES_NO = frozenset(["0", "1", "0.0", "1.0", "false", "true", "no", "yes", "n", "y", "f", "t"])
# What else stands in a column of splits: `PublicTest`, `holdout`, `eval`, `unlabeled`.
_SPLIT_VALUE = re.compile(f"[a-z_-]{{0,12}}({'|'.join(SPLIT_WORDS)}|eval|hold|unlabel)[a-z0-9_-]{{0,12}}")
_DELIMITERS = ",;\t"
_EXCEL_SEPARATOR = re.compile(r"sep=([,;\t|])\r?\n", re.IGNORECASE)  # what Excel reads before the names of the columns
_USUAL_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".tif", ".webp", ".bmp")
_SNIFFED_ROWS = 20
_SNIFFED_CHARACTERS = 1 << 16
_SHOWN_CHARACTERS = 200
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_EXPECTED = "expected path,label (and split, if any) separated by commas, semicolons or tabs"
_OTHERWISE = "eyespot data table makes such a CSV of tables with other columns or names"


@dataclass(frozen=True)
class _Columns:
    """Which column is what, and how many there are."""

    path: int
    label: int
    split: int | None
    group: int | None
    count: int
    header: bool


@dataclass
class _Rows:
    """The rows of one split, in file order."""

    names: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)


class SplitsUnnamed:
    """Watches the cells of a table without a split column for one that is a split column by what it says.

    `set`, `ml_use` or `phase` with train and test in it: to draw other splits in silence would mix what was kept apart.
    """

    def __init__(self, names: Sequence[str], used: Iterable[int | None]) -> None:
        """Begin with the names of the columns, and the indices of those that are something else."""
        self._names = [name.strip() for name in names]
        self._found: dict[int, set[str]] = {i: set() for i in range(len(names)) if i not in set(used)}
        self._yes_no: dict[int, set[str]] = {
            i: set() for i in self._found if _YES_NO_COLUMN.fullmatch(self._names[i].casefold())
        }
        self._is_split = [i for i in self._found if _YES_NO_SPLIT.fullmatch(self._names[i].casefold())]

    def watch(self, rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows as they are, having looked at each; whoever reads them checks their width."""
        for line, cells in rows:
            for columns, is_meant in ((self._found, _is_split_value), (self._yes_no, _YES_NO.__contains__)):
                for index in list(columns):
                    cell = cells[index].strip() if index < len(cells) else ""
                    if is_meant(cell.casefold()):
                        columns[index].add(cell)
                    else:
                        del columns[index]
            yield line, cells

    def check(self, path: Path) -> None:
        """Raise a `DataError` for a column of nothing but splits, train and another one among them, or a yes or no."""
        for index in [*self._is_split, *(i for i, values in self._yes_no.items() if len(values) > 1)]:
            raise DataError(
                f"the column {shown(self._names[index])} tells by yes and no what is of a split, and is not read",
                where=path,
                remedy="write train, val or test into a column named split instead of it",
            )
        for index, values in self._found.items():
            if len(values) > 1 and any(SPLIT_WORDS.get(value.casefold()) == "train" for value in values):
                raise DataError(
                    f"the column {shown(self._names[index])} holds {few(sorted(values))} and is not called split",
                    where=path,
                    remedy="rename it to split, with train, val or test in it; where it means something else, drop it",
                )


def _is_split_value(text: str) -> bool:
    return _SPLIT_VALUE.fullmatch(text) is not None


class _Seen(NamedTuple):
    """Where a picture was listed first; a tuple, since there may be millions."""

    line: int
    label: str
    split: SplitName


def read_csv(path: Path) -> Dataset:
    """Return the data set that a CSV lists.

    The first line may name its columns (`path,label`, `filename;class`, ... in any order, others are ignored); without
    names they are path, label and perhaps split, or split, path and label. Paths are absolute or relative to the CSV's
    folder, and may leave it. The text is UTF-8, with or without a byte order mark. Labels are class names, also where
    they look like numbers.

    Args:
        path: The file; the pictures in it are looked for but not opened.

    Raises:
        DataError: With the line number: a row with too many or too few columns, an empty path or label, a file that is
            missing or not a regular file, an address instead of a path, an unknown split, two labels or splits for one
            picture, text that is not UTF-8, a quote that does not end. An empty table, splits in a column that is not
            called so or in the paths alone, and what `check_classes` finds.
    """
    rows = table_rows(path)
    first_line, first = next(rows, (1, []))
    if not first:
        raise DataError("an empty table", where=path, remedy=_EXPECTED)
    columns = _columns(first, first_line, path)
    found: dict[SplitName, _Rows] = {}
    unnamed = SplitsUnnamed(first, (columns.path, columns.label)) if columns.header and columns.split is None else None
    if unnamed is not None:
        rows = unnamed.watch(rows)
    doubles = _collect(found, columns, [] if columns.header else [(first_line, first)], rows, path)
    if unnamed is not None:
        unnamed.check(path)
    if not found:
        raise DataError("a header and no rows", where=path, remedy=_EXPECTED)
    if columns.split is None and (named := {*splits_of_paths(found["train"].ids)} - {None}):
        first_step = "" if columns.header else "write path,label as the first line; then "
        raise DataError(
            f"the paths are in folders named after {', '.join(sorted(map(str, named)))}, and no column says the split",
            where=path,
            remedy=f"{first_step}eyespot data table {quoted(str(path))} --out NEW.csv makes a column split of them; "
            "to have others drawn, add the column with train in every row",
        )
    if "train" not in found:
        raise DataError(
            f"no row with split train, only {', '.join(found)}", where=path, remedy="mark training rows train"
        )
    counts: dict[SplitName, dict[str, int]] = {split: {} for split in SPLIT_NAMES if split in found}
    for split, of_split in counts.items():
        for label in found[split].labels:
            of_split[label] = of_split.get(label, 0) + 1
    class_names, notes = check_classes(counts, path)
    notes = (*notes, *_note_doubles(doubles))
    if columns.group is not None:
        notes = (*notes, *_note_groups(found, first[columns.group].strip(), columns, path))
    index = {name: number for number, name in enumerate(class_names)}
    splits: dict[SplitName, Items] = {}
    for split in counts:
        part = found[split]
        labels = np.fromiter((index[label] for label in part.labels), dtype=np.int64, count=len(part.labels))
        ids = make_unique(part.ids, part.names)
        paths = PathList(_folder_of(path), part.names)
        splits[split] = Items(ids, labels, paths=paths, groups=part.groups or None)
    return Dataset(
        name=path.name,
        class_names=class_names,
        splits=splits,
        published=False,
        origin=str(path),
        layout="CSV",
        notes=notes,
    )


def _note_doubles(doubles: Sequence[int]) -> tuple[str, ...]:
    """Return a note on lines that only repeat an earlier one."""
    if not doubles:
        return ()
    lines = ", ".join([f"{line:,}" for line in doubles[:3]] + ["..."] * (len(doubles) > 3))
    again, count = ("row lists", "counts") if len(doubles) == 1 else ("rows list", "count")
    return (f"{len(doubles):,} {again} a picture again with the same label and {count} once: line {lines}",)


def _note_groups(found: dict[SplitName, _Rows], name: str, columns: _Columns, path: Path) -> tuple[str, ...]:
    """Return what to know where pictures are alike in a column of patients, ...: splits share them, or hold few."""
    if columns.split is not None:
        groups = {(group, split) for split, part in found.items() for group in part.groups}
        counts = Counter(group for group, _ in groups if group)
        torn = sorted(group for group, splits in counts.items() if splits > 1)
        if not torn:
            return (*_note_val_of_train(found, name), *_note_few_groups(found, name))
        values, are = ("value", "is") if len(torn) == 1 else ("values", "are")
        return (
            f"{len(torn):,} {values} of the column {shown(name)} {are} in more than one split, so val and test may say "
            f"too much: {few(torn)}",
        )
    named = [group for part in found.values() for group in part.groups if group]
    number = len(set(named))
    if number == len(named):
        return ()
    values = "value" if number == 1 else "values"
    return (
        f"the column {shown(name)} has {number:,} {values} for {len(named):,} pictures and is not used: with what "
        "is alike in it both in train and in test, test says too much. Splits that keep it together: "
        f"eyespot data table {quoted(str(path))} --groups {quoted(safe_text(name))} --out NEW.csv",
    )


def _note_val_of_train(found: dict[SplitName, _Rows], name: str) -> tuple[str, ...]:
    """Return a note where val has to be drawn out of train, picture by picture."""
    groups = [group for group in found["train"].groups if group]
    if "val" in found or len(set(groups)) == len(groups):
        return ()
    return (
        f"no row is val: drawn from train, it shares values of the column {shown(name)} with it, so val and what is "
        "chosen or fitted on it say too much; mark val rows",
    )


def _note_few_groups(found: dict[SplitName, _Rows], name: str) -> tuple[str, ...]:
    """Return a note where what is measured are many pictures of few patients, which an interval counts one by one."""
    split: SplitName = "test" if "test" in found else "val"
    groups = [group for group in (found[split].groups if split in found else ()) if group]
    if len(groups) < _ALIKE * len(set(groups)) or not groups:
        return ()
    values = f"{len(set(groups)):,} value{'s' * (len(set(groups)) > 1)}"
    return (
        f"the {len(groups):,} {split} pictures have only {values} of the column {shown(name)}: intervals take pictures "
        "for independent, so for new values they are too narrow, and more pictures than said may be called unknown",
    )


def _folder_of(path: Path) -> str:
    return os.path.dirname(os.path.abspath(path))


def is_address(text: str) -> bool:
    """Return whether this is an address such as `https://...`; eyespot never fetches what it is given."""
    return _URL.match(text) is not None


def shown(text: str) -> str:
    """Return a cell for an error message, in quotes and not longer than a line or two."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")


def fail_in_line(path: Path, line: int, what: str, remedy: str) -> NoReturn:
    """Raise a `DataError` that names the line of a table."""
    raise DataError(what, where=f"{path}, line {line:,}", remedy=remedy)


def check_width(cells: Sequence[str], count: int, line: int, path: Path) -> None:
    """Raise a `DataError` where a row has not as many cells as the first one."""
    if len(cells) != count:
        what = f"{len(cells)} {'column' if len(cells) == 1 else 'columns'} instead of {count}"
        quotes = "put a value with the separator in it into double quotes"
        fail_in_line(path, line, what, quotes if len(cells) > count else "fill in what is missing, or remove the row")


def table_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Return (line, cells) of each row of a table that is not blank, its delimiter found out.

    Raises:
        DataError: The file cannot be read, is no UTF-8 text, or is larger than 1 GB; later, a row cannot be cut.
    """
    text = text_of(path)
    if separator := _EXCEL_SEPARATOR.match(text):
        rows = _rows(text, separator[1], path)
        next(rows)
        return rows
    return _rows(text, _delimiter(text, path), path)


def text_of(path: Path) -> str:
    """Return a table as text.

    Raises:
        DataError: The file cannot be read, is no UTF-8 text, or is larger than 1 GB.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        remedy = "check the path and its permissions"
        raise DataError(f"cannot read the table ({reason})", where=path, remedy=remedy) from error
    if len(content) > MAX_BYTES:
        raise DataError(
            f"a table of more than {MAX_BYTES:,} bytes", where=path, remedy="split it, or use class folders"
        )
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("UTF-16 text", where=path, remedy="save it as CSV UTF-8")
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        fail_in_line(path, line, "a NUL byte: no text file", "save the table as CSV UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        fail_in_line(path, line, f"byte 0x{content[error.start]:02x} is not UTF-8", "save the table as CSV UTF-8")


def _rows(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of each row that is not blank; a row that spans lines has the number of its first one."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fail_in_line(path, line, f"cannot read the row ({error})", "check the quotes in this row and the next ones")
        if any(cell.strip() for cell in cells):  # spreadsheets leave rows of nothing but delimiters
            yield line, cells


def _delimiter(text: str, path: Path) -> str:
    """Return the delimiter that cuts the first rows into the same number of columns, two or more."""
    best, best_score = ",", (0, 0)
    for delimiter in _DELIMITERS:
        widths: list[int] = []
        try:
            for _, cells in _rows(text[:_SNIFFED_CHARACTERS], delimiter, path):
                widths.append(len(cells))
                if len(widths) == _SNIFFED_ROWS:
                    break
        except DataError:
            # The same error comes again, with its line, when the rows are read for good.
            pass
        if widths and widths[0] > 1:
            score = (sum(width == widths[0] for width in widths), widths[0])
            if score > best_score:
                best, best_score = delimiter, score
    return best


def _columns(first: list[str], line: int, path: Path) -> _Columns:
    """Return what the columns are, from their names or from their number."""
    names = [cell.strip().casefold() for cell in first]
    place, label, split = (
        named_column(names, words, line, path) for words in (PATH_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS)
    )
    if place is not None and label is not None:
        groups = [i for i, name in enumerate(names) if _GROUP_COLUMN.fullmatch(name) and i not in (place, label)]
        if split is None:  # beside splits, folds divide train alone
            groups += [i for i, name in enumerate(names) if name in ("fold", "kfold")]
        group = groups[0] if groups else None
        return _Columns(place, label, split, group, len(first), header=True)
    if len(first) == 2 or (len(first) == 3 and names[2] in SPLIT_WORDS):
        return _Columns(0, 1, 2 if len(first) == 3 else None, None, len(first), header=False)
    if len(first) == 3 and names[0] in SPLIT_WORDS:  # as Google's Vertex AI has it
        return _Columns(1, 2, 0, None, len(first), header=False)
    columns = "one column" if len(first) == 1 else f"{len(first)} columns without the names path and label"
    fail_in_line(path, line, columns, f"{_EXPECTED}; {_OTHERWISE}")


def named_column(names: list[str], words: tuple[str, ...], line: int, path: Path) -> int | None:
    """Return the index of the column with the first of these words as its name, None where there is none."""
    for word in words:
        if names.count(word) > 1:
            fail_in_line(path, line, f"two columns named {shown(word)}", "rename one of them")
        if word in names:
            return names.index(word)
    return None


def _collect(
    found: dict[SplitName, _Rows],
    columns: _Columns,
    head: list[tuple[int, list[str]]],
    rows: Iterator[tuple[int, list[str]]],
    path: Path,
) -> list[int]:
    """Put every row into its split, and return the lines that only repeat an earlier one."""
    folder = _folder_of(path)
    seen: dict[str, _Seen] = {}
    doubles: list[int] = []
    missing: list[tuple[int, str]] = []
    for source in (head, rows):
        for line, cells in source:
            written, label, split = _checked(cells, columns, line, path)
            name = _existing(folder, written, line, path)
            if name is None:
                missing.append((line, written))
                continue
            key = os.path.normpath(os.path.join(folder, name))
            now = _Seen(line, label, split)
            earlier = seen.setdefault(key, now)
            if earlier is not now:
                _check_same(earlier, now, written, path)
                doubles.append(line)
                continue
            of_split = found.setdefault(split, _Rows())
            if columns.group is not None:
                of_split.groups.append(cells[columns.group].strip())
            of_split.names.append(name)
            of_split.ids.append(safe_text(_relative(key, folder)))
            of_split.labels.append(label)
    if missing:
        _fail_missing(missing, columns, path)
    return doubles


def _fail_missing(missing: list[tuple[int, str]], columns: _Columns, path: Path) -> NoReturn:
    line, written = missing[0]
    more = f" (and {len(missing) - 1:,} more missing files)" if len(missing) > 1 else ""
    remedy = f"paths are relative to {_folder_of(path)}; {_OTHERWISE}"
    beside = os.path.join(_folder_of(path), written)
    for suffix in _USUAL_SUFFIXES:
        if os.path.isfile(beside + suffix):
            remedy = f"there is {shown(written + suffix)}: write names with their extension; {_OTHERWISE}"
            break
    if line == 1 and not columns.header:
        remedy += "; if line 1 names the columns, call them path,label"
    fail_in_line(path, line, f"no file {shown(written)}{more}", remedy)


def _checked(cells: list[str], columns: _Columns, line: int, path: Path) -> tuple[str, str, SplitName]:
    """Return path, label and split of one row."""
    check_width(cells, columns.count, line, path)
    written, label = cells[columns.path].strip(), safe_text(cells[columns.label].strip())
    if not written or not label:
        fail_in_line(path, line, "an empty label" if written else "an empty path", "fill it in or remove the row")
    if is_address(written):
        fail_in_line(
            path,
            line,
            f"an address instead of a path: {shown(written)}",
            "download the pictures and list their files",
        )
    if columns.split is None:
        return written, label, "train"
    word = cells[columns.split].strip()
    split = SPLIT_WORDS.get(word.casefold())
    if split is None:
        fail_in_line(
            path,
            line,
            f"unknown split {shown(word)}.{did_you_mean(word, SPLIT_WORDS)}",
            "use train, val or test",
        )
    return written, label, split


def _existing(folder: str, written: str, line: int, path: Path) -> str | None:
    """Return the path as it can be opened, or None where there is no such file."""
    candidates = [written]
    if os.sep == "/" and "\\" in written:
        # A table that was written on Windows.
        candidates.append(written.replace("\\", "/"))
    # A table from a Mac writes accents as characters of their own; the files may have been copied without them.
    candidates += [unicodedata.normalize(form, name) for form in ("NFC", "NFD") for name in candidates]
    for name in dict.fromkeys(candidates):
        try:
            mode = os.stat(os.path.join(folder, name)).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            reason = error.strerror or type(error).__name__
            fail_in_line(
                path,
                line,
                f"cannot look up {shown(written)} ({reason})",
                "check the path and its permissions",
            )
        if stat.S_ISREG(mode):
            return name
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        fail_in_line(path, line, f"{shown(written)} is {kind}", "list picture files")
    return None


def _relative(key: str, folder: str) -> str:
    """Return a normalised path relative to the CSV's folder, with forward slashes."""
    if key.startswith(folder + os.sep):
        return key[len(folder) + 1 :].replace(os.sep, "/")
    try:
        return os.path.relpath(key, folder).replace(os.sep, "/")
    except ValueError:
        # Another drive on Windows.
        return key.replace(os.sep, "/")


def _check_same(earlier: _Seen, now: _Seen, written: str, path: Path) -> None:
    """Raise where a picture that is listed twice is not listed alike."""
    for what, before, after in (("labels", earlier.label, now.label), ("splits", earlier.split, now.split)):
        if before != after:
            fail_in_line(
                path,
                now.line,
                f"two {what} for {shown(written)}: {before!r} in line {earlier.line:,}, {after!r} here",
                "keep one of the two rows",
            )

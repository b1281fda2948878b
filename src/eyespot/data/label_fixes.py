"""Corrections of labels, from the CSV of `eyespot check --labels`: read, checked, and put on packed pictures.

Before this: somebody wrote `accept` or `reject` into the CSV; `packing` scanned the pictures as they are labelled on
disk. After this: `splits` and everything later see the corrected labels; no file of the user's is touched, and the
labels as given stay at hand, for a test figure that can be compared with others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eyespot.arrays import Int64Array
from eyespot.data.checks import count_labels, find_duplicates
from eyespot.data.csvfile import PATH_COLUMNS, check_width, fail_in_line, named_column, shown, table_rows
from eyespot.data.dataset import SPLIT_NAMES, Dataset, PackedDataset, SplitName
from eyespot.data.pack_cache import fingerprint
from eyespot.errors import DataError, did_you_mean

COLUMNS = ("id", "split", "given", "suggested", "score", "decision")
_ID_COLUMNS = ("id", *PATH_COLUMNS)
_DECISIONS = {"accept": True, "reject": False}
_EXPECTED = f"expected the columns of eyespot check --labels --csv: {','.join(COLUMNS)}"


@dataclass(frozen=True)
class LabelFixes:
    """What somebody decided about labels that looked wrong.

    Attributes:
        labels: Split -> sample id -> corrected label, of the accepted rows.
        refused: Split -> sample id -> suggested label, of the rejected rows, whose label stays.
        undecided: Rows without a decision; their label stays, too.
        sha256: Of the file.
    """

    labels: Mapping[SplitName, Mapping[str, int]]
    refused: Mapping[SplitName, Mapping[str, int]]
    undecided: int
    sha256: str

    @property
    def accepted(self) -> int:
        """Return how many labels are corrected."""
        return sum(map(len, self.labels.values()))

    @property
    def rejected(self) -> int:
        """Return how many suggestions were rejected."""
        return sum(map(len, self.refused.values()))

    def describe(self) -> str:
        """Return in a sentence what is corrected, and what was left as it is."""
        parts = ", ".join(f"{len(self.labels[name]):,} {name}" for name in SPLIT_NAMES if self.labels.get(name))
        left = [
            f"{count:,} {what}" for count, what in ((self.rejected, "rejected"), (self.undecided, "undecided")) if count
        ]
        kept = f"; {' and '.join(left)} stay as they are" if left else ""
        what = "label is corrected" if self.accepted == 1 else "labels are corrected"
        return f"{self.accepted:,} {what} (in the data's {parts}){kept}. No file was changed."


class _Row(NamedTuple):
    """A decided row; a tuple, since there may be many."""

    line: int
    id: str
    given: str
    suggested: str


@dataclass(frozen=True)
class _Columns:
    """Which column is what, and how many there are."""

    id: int
    given: int
    suggested: int
    decision: int
    count: int


def read_label_fixes(path: Path, dataset: Dataset) -> LabelFixes:
    """Return the decisions of a CSV about the labels of a data set.

    Columns are found by their names, in any order: `id` (or `path`), `given`, `suggested` and `decision`, which is
    `accept`, `reject` or empty; others are not looked at. `suggested` may be changed to any class of the data set.

    Args:
        path: The CSV.
        dataset: As it was found, with the labels as given.

    Raises:
        DataError: With the line: a missing column, a row of another length, an unknown picture, class or decision, a
            given label that is not the picture's, two rows about one picture. Nothing is accepted.
    """
    rows = table_rows(path)
    first_line, first = next(rows, (1, []))
    columns = _find_columns(first, first_line, path)
    known = {id_: (name, row) for name in SPLIT_NAMES if name in dataset.splits for row, id_ in _ids(dataset, name)}
    classes = {name: label for label, name in enumerate(dataset.class_names)}
    labels: dict[SplitName, dict[str, int]] = {}
    refused: dict[SplitName, dict[str, int]] = {}
    seen: dict[tuple[SplitName, int], _Row] = {}  # by picture: an id may be written in two ways
    undecided = 0
    for line, cells in rows:
        check_width(cells, columns.count, line, path)
        word = cells[columns.decision].strip().casefold()
        if word and word not in _DECISIONS:
            hint = did_you_mean(word, _DECISIONS)
            fail_in_line(path, line, f"unknown decision {shown(word)}.{hint}", "write accept, reject, or nothing")
        row = _Row(line, cells[columns.id], cells[columns.given], cells[columns.suggested])
        split, place = known.get(row.id) or known.get(row.id.strip()) or _unknown_picture(row, dataset, path)
        _check_classes(row, classes, path)
        true_given = dataset.class_names[int(dataset.splits[split].labels[place])]
        if row.given != true_given:
            fail_in_line(
                path,
                line,
                f"{shown(row.id)} is labelled {true_given!r}, not {row.given!r} as the row says",
                "write the list again with eyespot check --labels --csv, or remove the row",
            )
        earlier = seen.setdefault((split, place), row)
        if earlier is not row:
            fail_in_line(path, line, f"{shown(row.id)} is also in line {earlier.line:,}", "keep one of the two rows")
        id_ = dataset.splits[split].ids[place]
        if word == "accept" and row.suggested != row.given:
            labels.setdefault(split, {})[id_] = classes[row.suggested]
        elif word == "reject":
            refused.setdefault(split, {})[id_] = classes[row.suggested]
        undecided += not word
    if not labels:
        raise DataError(
            "no row is accepted: nothing to correct",
            where=path,
            remedy="write accept or reject into the column decision, or train without the file",
        )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return LabelFixes(labels, refused, undecided, sha256)


def is_decided(path: Path) -> bool:
    """Return whether somebody has written a decision into a list of `check --labels`.

    Raises:
        DataError: It is no such list.
    """
    rows = table_rows(path)
    first_line, first = next(rows, (1, []))
    column = _find_columns(first, first_line, path).decision
    return any(cells[column].strip() for _, cells in rows if len(cells) > column)


def _ids(dataset: Dataset, split: SplitName) -> list[tuple[int, str]]:
    return list(enumerate(dataset.splits[split].ids))


def _find_columns(first: list[str], line: int, path: Path) -> _Columns:
    names = [cell.strip().casefold() for cell in first]
    found = {
        "id": named_column(names, _ID_COLUMNS, line, path),
        **{word: named_column(names, (word,), line, path) for word in ("given", "suggested", "decision")},
    }
    missing = [word for word, column in found.items() if column is None]
    if missing:
        fail_in_line(path, line, f"no column {' and no column '.join(map(repr, missing))}", _EXPECTED)
    return _Columns(count=len(first), **{word: column for word, column in found.items() if column is not None})


def _unknown_picture(row: _Row, dataset: Dataset, path: Path) -> tuple[SplitName, int]:
    example = next(iter(dataset.splits["train"].ids), "")
    fail_in_line(
        path,
        row.line,
        f"unknown picture {shown(row.id)}: {dataset.name} has no such id",
        f"ids are those of eyespot check --labels --csv, such as {example}",
    )


def _check_classes(row: _Row, classes: Mapping[str, int], path: Path) -> None:
    for column, name in (("given", row.given), ("suggested", row.suggested)):
        if name not in classes:
            listed = ", ".join([*classes][:10]) + (", ..." if len(classes) > 10 else "")
            fail_in_line(
                path,
                row.line,
                f"unknown class {shown(name)} in column {column!r}.{did_you_mean(name, classes)}",
                f"the classes are {listed}",
            )


def with_fixed_labels(packed: PackedDataset, fixes: LabelFixes) -> PackedDataset:
    """Return packed pictures under their corrected labels; pixels and files stay what they are.

    The fingerprint becomes another one, since it is over the labels, too; features, which do not depend on labels, are
    found in the cache under the one before.

    Args:
        packed: Scanned and packed under the labels as given.
        fixes: As `read_label_fixes` returns them for the same data set.

    Raises:
        DataError: A class has no training picture left.
    """
    splits, given = {}, {}
    for name, split in packed.splits.items():
        labels: Int64Array = np.array(split.labels, dtype=np.int64)
        given[name] = split.labels
        of_split = fixes.labels.get(name, {})
        if of_split:
            for row, id_ in enumerate(split.ids):
                labels[row] = of_split.get(id_, labels[row])
        labels.setflags(write=False)
        splits[name] = replace(split, labels=labels)
    classes = packed.dataset.class_names
    counts: dict[str, Mapping[str, int]] = {name: count_labels(classes, split.labels) for name, split in splits.items()}
    empty = [name for name, count in counts["train"].items() if not count and packed.report.counts["train"].get(name)]
    if empty:
        raise DataError(
            f"the corrections leave no training picture of {', '.join(map(repr, empty))}",
            where=packed.dataset.name,
            remedy="reject some of them",
        )
    duplicates = find_duplicates(
        np.concatenate([split.hashes for split in splits.values()]),
        [id_ for split in splits.values() for id_ in split.ids],
        [name for name, split in splits.items() for _ in range(len(split))],
        np.concatenate([split.labels for split in splits.values()]),
    )
    return replace(
        packed,
        splits=splits,
        report=replace(packed.report, counts=counts, duplicates=duplicates),
        fingerprint=fingerprint(classes, splits),
        pixels_fingerprint=packed.pixels_fingerprint or packed.fingerprint,
        given_labels=given,
    )

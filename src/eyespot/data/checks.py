"""What the scan of all pictures found, and whether training may go on with it.

Before this: `packing` decoded every picture once and hashed its pixels. After this: training refuses or goes on, prints
the sentences, and keeps the `ScanReport` with the run; `eyespot check` shows the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eyespot.arrays import Int64Array, UInt8Array
from eyespot.data.dataset import SPLIT_NAMES, BadImage, Dataset, DuplicateGroup, ScanReport, SplitName
from eyespot.data.resizing import RowFormat
from eyespot.errors import DataError, LeakError

_LISTED = 10  # what fits on a screen; the report holds all of them
_MOST_SIZES = 50
_IMBALANCED = 3.0  # largest class over smallest class


@dataclass(frozen=True)
class ScannedPictures:
    """The N usable pictures of all splits, in data set order.

    Attributes:
        ids: N sample ids.
        splits: The split of each.
        labels: int64 (N,).
        hashes: uint8 (N, 16), content hashes.
        sizes_px: int64 (N, 2), width and height.
        modes: Pillow mode -> how many.
    """

    ids: Sequence[str]
    splits: Sequence[SplitName]
    labels: Int64Array
    hashes: UInt8Array
    sizes_px: Int64Array
    modes: Mapping[str, int]


def class_counts(dataset: Dataset) -> dict[SplitName, dict[str, int]]:
    """Return how many pictures each split has of each class, as they were found: `counts["train"]["cat"]`.

    Every class is there, with 0 where a split has none; splits and classes are in the data set's order.
    """
    return {
        split: count_labels(dataset.class_names, dataset.splits[split].labels)
        for split in SPLIT_NAMES
        if split in dataset.splits
    }


def find_duplicates(
    hashes: UInt8Array, ids: Sequence[str], splits: Sequence[SplitName], labels: Int64Array
) -> tuple[DuplicateGroup, ...]:
    """Return the groups of equal pictures, in the order of their first pictures.

    Sorting makes this n log n: a million pictures take about a second.

    Args:
        hashes: uint8 (N, 16), content hashes.
        ids: N sample ids.
        splits: The split of each.
        labels: int64 (N,).
    """
    if len(hashes) < 2:
        return ()
    halves = np.ascontiguousarray(hashes).view(np.uint64)  # (N, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal pictures stay in data set order
    ranked = halves[order]
    starts = np.flatnonzero(np.concatenate(([True], (ranked[1:] != ranked[:-1]).any(axis=1))))
    ends = np.append(starts[1:], len(order))
    several = ends - starts > 1
    groups = [
        order[start:end].tolist() for start, end in zip(starts[several].tolist(), ends[several].tolist(), strict=True)
    ]
    return tuple(
        DuplicateGroup(
            ids=tuple(ids[i] for i in group),
            splits=tuple(splits[i] for i in group),
            labels=tuple(int(labels[i]) for i in group),
        )
        for group in sorted(groups)
    )


def build_report(
    dataset: Dataset, scanned: ScannedPictures, bad: Sequence[BadImage], *, row_format: RowFormat
) -> ScanReport:
    """Return the report over the usable and the bad pictures of a data set.

    Args:
        dataset: The scanned data set.
        scanned: The usable pictures.
        bad: The others.
        row_format: What was kept of them, to count the pictures that had to be enlarged: with `pad` where both sides
            are smaller than S, else where one is.
    """
    names = np.array(scanned.splits, dtype="U5")
    counts: dict[str, Mapping[str, int]] = {
        split: count_labels(dataset.class_names, scanned.labels[names == split])
        for split in SPLIT_NAMES
        if split in dataset.splits
    }
    decisive = scanned.sizes_px.max(axis=1) if row_format.fit == "pad" else scanned.sizes_px.min(axis=1)
    distinct, frequency = np.unique(scanned.sizes_px, axis=0, return_counts=True)
    largest = np.argsort(-frequency, kind="stable")[:_MOST_SIZES]
    return ScanReport(
        counts=counts,
        bad=tuple(bad),
        duplicates=find_duplicates(scanned.hashes, scanned.ids, scanned.splits, scanned.labels),
        sizes={(int(distinct[i, 0]), int(distinct[i, 1])): int(frequency[i]) for i in largest},
        modes=dict(sorted(scanned.modes.items(), key=lambda item: (-item[1], item[0]))),
        small=int((decisive < row_format.size_px).sum()),
    )


def enforce(
    report: ScanReport, dataset: Dataset, *, on_bad_image: Literal["refuse", "skip"], allow_leak: bool
) -> tuple[str, ...]:
    """Return the sentences that the user must read before training, or refuse.

    Args:
        report: What the scan found.
        dataset: The scanned data set.
        on_bad_image: Whether files that cannot be used stop the run or are left out.
        allow_leak: Go on although test pictures are also in train or val.

    Raises:
        DataError: There are bad files and they are refused, or leaving them out leaves nothing of a class in train,
            or nothing of a split.
        LeakError: In a user's own data, a test picture is also in train or val. The split of a published data set is
            what it is: there a sentence has the count.
    """
    return (
        *require_usable(report, dataset, on_bad_image=on_bad_image),
        *judge_leaks(report, dataset, allow_leak=allow_leak),
        *describe_copies(report),
        *describe_conflicts(report, dataset),
        *describe_balance(report),
    )


def describe_copies(report: ScanReport) -> tuple[str, ...]:
    """Return the sentence about equal pictures within a split, if there are any."""
    copies = sum(len(group.ids) - len(set(group.splits)) for group in report.duplicates)
    copy = "an exact copy" if copies == 1 else "exact copies"
    return (f"{copies:,} {_are(copies)} {copy} of other pictures in the same split.",) if copies else ()


def describe_conflicts(report: ScanReport, dataset: Dataset) -> tuple[str, ...]:
    """Return the sentence about equal pictures that carry different labels, if there are any."""
    conflicts = [group for group in report.duplicates if group.conflicts]
    if not conflicts:
        return ()
    first = conflicts[0]
    named = ", ".join(
        f"{id_} ({dataset.class_names[label]})" for id_, label in zip(first.ids, first.labels, strict=True)
    )
    return (
        f"{len(conflicts):,} {_are(len(conflicts))} there with different labels, one of them right at most: {named}"
        + ("." if len(conflicts) == 1 else ", ..."),
    )


def require_usable(report: ScanReport, dataset: Dataset, *, on_bad_image: Literal["refuse", "skip"]) -> tuple[str, ...]:
    """Return a sentence about the files that are left out, or refuse.

    Raises:
        DataError: There are bad files and they are refused, or leaving them out leaves nothing of a class in train,
            or nothing of a split.
    """
    if not report.bad:
        return ()
    total = sum(len(items) for items in dataset.splits.values())
    listed = "; ".join(f"{image.id} {image.reason}" for image in report.bad[:_LISTED])
    more = f"; and {len(report.bad) - _LISTED:,} more" if len(report.bad) > _LISTED else ""
    if on_bad_image == "refuse":
        raise DataError(
            f"{len(report.bad):,} of {total:,} pictures cannot be used ({listed}{more})",
            where=dataset.name,
            remedy="repair or remove them, or leave them out with --on-bad-image skip",
        )
    sentences = [f"{len(report.bad):,} of {total:,} pictures cannot be used and are left out: {listed}{more}."]
    for split, found in class_counts(dataset).items():
        usable = report.counts[split]
        lost = [name for name in dataset.class_names if found[name] and not usable[name]]
        everything = not any(usable.values()) and len(dataset.splits[split])
        if everything or (lost and split == "train"):
            which = f" of class {_listed(lost)}" if not everything else ""
            raise DataError(
                f"none of the {split} pictures{which} can be used ({_first_bad(report, dataset, split, lost)})",
                where=dataset.name,
                remedy="repair or convert them" if everything else "repair or convert them, or remove the class",
            )
        if lost:
            sentences.append(f"None of the {split} pictures of class {_listed(lost)} can be used: it is not measured.")
    return tuple(sentences)


def _first_bad(report: ScanReport, dataset: Dataset, split: SplitName, classes: Sequence[str]) -> str:
    """Return a picture of one of these classes that cannot be used, and why."""
    items = dataset.splits[split]
    label_of = dict(zip(items.ids, items.labels.tolist(), strict=True))
    bad = [image for image in report.bad if image.split == split]
    first = next(image for image in bad if dataset.class_names[label_of[image.id]] in classes)
    return f"{first.id} {first.reason}{', ...' if len(bad) > 1 else ''}"


def count_leaked(report: ScanReport) -> dict[str, int]:
    """Return how many pictures of `test` are in train or val, too, and how many of `val` in train, pixel for pixel."""
    return {
        "test": sum(group.splits.count("test") for group in report.leaks),
        "val": sum(group.splits.count("val") for group in report.leaks if "train" in group.splits),
    }


def judge_leaks(report: ScanReport, dataset: Dataset, *, allow_leak: bool) -> tuple[str, ...]:
    """Return the sentences about pictures that are in more than one split, or refuse.

    Raises:
        LeakError: As `enforce`.
    """
    sentences = []
    leaked = count_leaked(report)
    tested = [group for group in report.leaks if "test" in group.splits]
    if tested:
        number = leaked["test"]
        share = (
            f"{number:,} of the {sum(report.counts['test'].values()):,} test pictures {'is' if number == 1 else 'are'}"
        )
        others = " or ".join(split for split in ("train", "val") if any(split in group.splits for group in tested))
        if dataset.published:
            sentences.append(f"{share} also in {others}; the published split is kept as it is.")
        elif allow_leak:
            sentences.append(f"{share} also in {others} (--allow-leak): the test figures are too good to be true.")
        else:
            pairs = [f"{_in_test(group)} = {_not_in_test(group)}" for group in tested]
            more = f"; and {len(pairs) - _LISTED:,} more" if len(pairs) > _LISTED else ""
            raise LeakError(
                f"{share} also in {others} ({'; '.join(pairs[:_LISTED])}{more})",
                where=dataset.name,
                remedy="remove one of each, or go on with --allow-leak",
            )
    if validated := leaked["val"]:
        total = sum(report.counts["val"].values())
        verb = "is" if validated == 1 else "are"
        sentences.append(
            f"{validated:,} of the {total:,} val pictures {verb} also in train: the validation figures are too good."
        )
    return tuple(sentences)


def describe_balance(report: ScanReport) -> tuple[str, ...]:
    """Return the sentence about pictures to train on whose classes differ much in size, if they do.

    Where the data bring no other split, val and test are still to be taken from them.
    """
    counts = report.counts.get("train", {})
    where = " in train" if len(report.counts) > 1 else ""
    if len(counts) < 2:
        return ()
    largest, smallest = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    if counts[smallest] * _IMBALANCED >= counts[largest]:
        return ()
    ratio = f"{counts[largest] / counts[smallest]:.1f} to 1" if counts[smallest] else "one class is empty"
    return (
        f"The classes are imbalanced ({ratio}): {largest!r} has {counts[largest]:,} pictures{where}, "
        f"{smallest!r} has {counts[smallest]:,}; look at the per-class figures, not at accuracy alone.",
    )


def count_labels(class_names: Sequence[str], labels: Int64Array) -> dict[str, int]:
    """Return how many of the labels, int64 (N,), each class has."""
    counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=len(class_names))
    return dict(zip(class_names, counts.tolist(), strict=True))


def _are(count: int) -> str:
    return "picture is" if count == 1 else "pictures are"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _in_test(group: DuplicateGroup) -> str:
    return group.ids[group.splits.index("test")]


def _not_in_test(group: DuplicateGroup) -> str:
    return next(id_ for id_, split in zip(group.ids, group.splits, strict=True) if split != "test")

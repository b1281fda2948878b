"""The types that the data room hands from file to file: what exists, and what it became.

Before this: nothing. After this: `sources` makes a `Dataset`, `packing` makes a `PackedDataset` of it,
`dividing` draws its `splits` and `loaders` makes batches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, overload

from eyespot.arrays import Int64Array, UInt8Array
from eyespot.data.resizing import Channels, RowFormat

SplitName: TypeAlias = Literal["train", "val", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Items:
    """The labelled pictures of one split as they were found, nothing decoded yet.

    Exactly one of `paths` and `pixels` is set.

    Attributes:
        ids: N sample ids, unique in the data set and stable from start to start: the path relative to the
            data set's folder with forward slashes, or `train/00017` for data sets published as arrays.
        labels: int64 (N,), each in [0, num_classes).
        paths: N files, one picture each.
        pixels: uint8 (N, H, W, C) with C 1 (grey) or 3 (RGB), possibly memory-mapped.
        groups: N names of what a picture shares with others beyond its class (a patient, a video), empty where none
            is known; None where nothing says any.
    """

    ids: Sequence[str]
    labels: Int64Array
    paths: Sequence[Path] | None = None
    pixels: UInt8Array | None = None
    groups: Sequence[str] | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.labels)


@dataclass(frozen=True)
class PathList(Sequence[Path]):
    """N paths that are made only when asked for: a million `Path` objects would take half a gigabyte.

    Attributes:
        folder: What the names are relative to.
        names: N relative paths; an absolute one stays what it is.
    """

    folder: str
    names: Sequence[str]

    def __len__(self) -> int:
        """Return N."""
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> PathList: ...
    def __getitem__(self, index: int | slice) -> Path | PathList:
        """Return one path, or the list of some."""
        if isinstance(index, slice):
            return PathList(self.folder, self.names[index])
        return Path(os.path.join(self.folder, self.names[index]))

    def __iter__(self) -> Iterator[Path]:
        """Yield the paths in order."""
        return (Path(os.path.join(self.folder, name)) for name in self.names)


@dataclass(frozen=True)
class Dataset:
    """What images and labels exist.

    Attributes:
        name: `cifar10`, or the name of the folder, archive or CSV file.
        class_names: Sorted names, one per label value (published data sets and numbered arrays keep their own order).
        splits: Found splits; "train" is always there, "val" and "test" where the data bring them.
        published: True for a named data set, whose split is what it is; False for a user's own pictures.
        origin: The path that was read, for the provenance.
        layout: How it was found, in words: "CIFAR python batches", "class folders", "split folders", "CSV", ...
        notes: Sentences that the user should read, such as that the pictures are re-encoded JPEG files.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[SplitName, Items]
    published: bool
    origin: str
    layout: str
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Return K."""
        return len(self.class_names)


@dataclass(frozen=True)
class BadImage:
    """A file that was found among the pictures and cannot be used, with the reason in words."""

    id: str
    split: SplitName
    reason: str


@dataclass(frozen=True)
class DuplicateGroup:
    """Pictures whose decoded pixels are equal.

    Attributes:
        ids: Two or more sample ids, in data set order.
        splits: The split of each.
        labels: The label of each; more than one value means conflicting labels.
    """

    ids: tuple[str, ...]
    splits: tuple[SplitName, ...]
    labels: tuple[int, ...]

    @property
    def crosses_splits(self) -> bool:
        """Return whether the same picture is in more than one split."""
        return len(set(self.splits)) > 1

    @property
    def conflicts(self) -> bool:
        """Return whether equal pixels carry different labels."""
        return len(set(self.labels)) > 1


@dataclass(frozen=True)
class ScanReport:
    """What the one scan over all pictures found; it is kept beside the packed pixels.

    Attributes:
        counts: Usable pictures per split and class: `counts["train"]["cat"]`.
        bad: Files that cannot be used.
        duplicates: Groups of equal pictures (content hash of the decoded pixels).
        sizes: (width_px, height_px) -> how many pictures, the most frequent 50.
        modes: Pillow mode -> how many pictures, such as {"RGB": 990, "CMYK": 10}.
        small: How many pictures are smaller than the packed size on the side that decides (they were enlarged).
    """

    counts: Mapping[str, Mapping[str, int]]
    bad: tuple[BadImage, ...] = ()
    duplicates: tuple[DuplicateGroup, ...] = ()
    sizes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)
    small: int = 0

    @property
    def leaks(self) -> tuple[DuplicateGroup, ...]:
        """Return the groups of equal pictures that are in more than one split."""
        return tuple(group for group in self.duplicates if group.crosses_splits)


@dataclass(frozen=True)
class PackedSplit:
    """One split with its pixels ready to use, or its files where the pixels would not fit.

    Exactly one of `pixels` and `paths` is set.

    Attributes:
        ids: N sample ids, without the bad files.
        labels: int64 (N,).
        hashes: uint8 (N, 16), content hash of each picture's decoded pixels at full size.
        sizes_px: int64 (N, 2), width and height of each decoded picture.
        pixels: uint8 (N, S, L, C), memory-mapped; L is S, or more where strips are kept (`RowFormat.shape`).
        paths: N files to be decoded by workers at each epoch.
        thumbs: uint8 (N, 32, 32), memory-mapped: a grey thumbnail of each picture; None where nothing looks at them.
    """

    ids: Sequence[str]
    labels: Int64Array
    hashes: UInt8Array
    sizes_px: Int64Array
    pixels: UInt8Array | None = None
    paths: Sequence[Path] | None = None
    thumbs: UInt8Array | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.labels)


@dataclass(frozen=True)
class PackedDataset:
    """A data set that was scanned once and is ready for training.

    Attributes:
        dataset: Where it came from.
        splits: The same splits as `dataset.splits`, without the bad files.
        report: What the scan found.
        fingerprint: Hex digest over class names, splits, labels and content hashes: equal for equal content in equal
            order, wherever it lies.
        row_format: What is kept of each picture: size S, channels C, fit and interpolation.
        seconds: Wall time of the scan and packing; 0 when it was taken from the cache.
        pixels_fingerprint: Where labels were corrected, the fingerprint before that; empty elsewhere. What is derived
            from pixels alone is kept under it.
        given_labels: Where labels were corrected, split -> int64 (N,), those before that; None elsewhere.
    """

    dataset: Dataset
    splits: Mapping[SplitName, PackedSplit]
    report: ScanReport
    fingerprint: str
    row_format: RowFormat
    seconds: float = 0.0
    pixels_fingerprint: str = ""
    given_labels: Mapping[SplitName, Int64Array] | None = None

    @property
    def size_px(self) -> int:
        """Return S, the side of the squares that the model takes."""
        return self.row_format.size_px

    @property
    def channels(self) -> Channels:
        """Return C, 1 or 3."""
        return self.row_format.channels

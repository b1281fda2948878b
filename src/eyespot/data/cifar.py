"""One job: read CIFAR-10 and CIFAR-100 in the two layouts of their publisher, python pickles and binary batches.

Before this: `sources` has found the folder. After this: `sources` makes a `Dataset` of the arrays.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, https://www.cs.toronto.edu/~kriz/cifar.html.
The MD5 sums of the python files are torchvision's; those of CIFAR-10's binary batches are found alike in several
public loaders; for CIFAR-100's binary files no sum is published, so only their counts are checked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eyespot.arrays import Int64Array, UInt8Array
from eyespot.data.dataset import Items, SplitName
from eyespot.data.pickles import MAX_BYTES, load_pickle
from eyespot.data.published import GET_AGAIN, check_class_counts, check_labels, published_ids
from eyespot.errors import DataError

SIDE_PX = 32
_PIXEL_BYTES = 3 * SIDE_PX * SIDE_PX
# Python 2's cPickle numbers its memo from 1 and writes text as SHORT_BINSTRING; no Python 3 writes this beginning.
_PUBLISHED_BEGINNING = b"\x80\x02}q\x01(U"


@dataclass(frozen=True)
class Batch:
    """One file of a published layout; `md5` is None where the publisher's is not known."""

    name: str
    count: int
    md5: str | None = None


@dataclass(frozen=True)
class CifarLayout:
    """Which files a published layout has and how they are read.

    Attributes:
        words: The layout in words.
        folder: The folder's name inside of the publisher's archive.
        batches: The files of each split, in order.
        label_key: Key of the labels in a pickle; empty for binary batches.
        label_bytes: Bytes before the pixels of a binary record, the last one being the label; 0 for pickles.
        meta: File with the class names beside pickles, and its key.
    """

    words: str
    folder: str
    batches: dict[SplitName, tuple[Batch, ...]]
    label_key: str = ""
    label_bytes: int = 0
    meta: tuple[str, str] | None = None

    def files_in(self, folder: Path) -> int:
        """Return how many of the layout's files are in a folder."""
        names = [batch.name for batches in self.batches.values() for batch in batches]
        if self.meta is not None:
            names.append(self.meta[0])
        # Not Path.is_file, which raises where a folder can be listed and not entered.
        return sum(os.path.isfile(folder / name) for name in names)


CIFAR10_PYTHON = CifarLayout(
    words="CIFAR python batches",
    folder="cifar-10-batches-py",
    batches={
        "train": (
            Batch("data_batch_1", 10_000, "c99cafc152244af753f735de768cd75f"),
            Batch("data_batch_2", 10_000, "d4bba439e000b95fd0a9bffe97cbabec"),
            Batch("data_batch_3", 10_000, "54ebc095f3ab1f0389bbae665268c751"),
            Batch("data_batch_4", 10_000, "634d18415352ddfa80567beed471001a"),
            Batch("data_batch_5", 10_000, "482c414d41f54cd18b22e5b47cb7c3cb"),
        ),
        "test": (Batch("test_batch", 10_000, "40351d587109b95175f43aff81a1287e"),),
    },
    label_key="labels",
    meta=("batches.meta", "label_names"),
)

CIFAR10_BINARY = CifarLayout(
    words="CIFAR binary batches",
    folder="cifar-10-batches-bin",
    batches={
        "train": (
            Batch("data_batch_1.bin", 10_000, "5dd7e06a14cb22eb9f671a540d1b7c25"),
            Batch("data_batch_2.bin", 10_000, "5ea93a67294ea407fff1d09f752e9692"),
            Batch("data_batch_3.bin", 10_000, "942cd6a4bcdd0dd3c604fbe906cb4421"),
            Batch("data_batch_4.bin", 10_000, "ae636b3ba5c66a11e91e8cb52e771fcb"),
            Batch("data_batch_5.bin", 10_000, "53f37980c15c3d472c316c40844f3f0d"),
        ),
        "test": (Batch("test_batch.bin", 10_000, "803d5f7f4d78ea53de84dbe85f74fb6d"),),
    },
    label_bytes=1,
)

CIFAR100_PYTHON = CifarLayout(
    words="CIFAR python batches",
    folder="cifar-100-python",
    batches={
        "train": (Batch("train", 50_000, "16019d7e3df5f24257cddd939b257f8d"),),
        "test": (Batch("test", 10_000, "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
    },
    label_key="fine_labels",
    meta=("meta", "fine_label_names"),
)

CIFAR100_BINARY = CifarLayout(
    words="CIFAR binary batches",
    folder="cifar-100-binary",
    batches={"train": (Batch("train.bin", 50_000),), "test": (Batch("test.bin", 10_000),)},
    # Coarse label, fine label.
    label_bytes=2,
)

# By the data set's name, the layout to prefer first.
CIFAR_LAYOUTS = {"cifar10": (CIFAR10_PYTHON, CIFAR10_BINARY), "cifar100": (CIFAR100_PYTHON, CIFAR100_BINARY)}


def read_cifar(
    folder: Path, layout: CifarLayout, class_names: Sequence[str]
) -> tuple[dict[SplitName, Items], tuple[str, ...]]:
    """Return the pictures of a published CIFAR folder, checked against the published counts and sums.

    Args:
        folder: Holds the layout's files.
        layout: How they are read.
        class_names: K official names; a pickled list of names beside the pictures must equal it.

    Returns:
        Items per split, with `pixels` uint8 (N, 32, 32, 3) RGB and ids such as `train/00017`, in the published order;
        and notes, one for each file whose pixels cannot be verified: a re-written copy, or one without a published sum.

    Raises:
        DataError: A file is missing, damaged, too short or too long, or has other labels than were published.
    """
    batches = [batch for split in layout.batches.values() for batch in split]
    missing = [batch.name for batch in batches if not os.path.isfile(folder / batch.name)]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(batches)} files are missing: {', '.join(missing)}",
            where=folder,
            remedy=f"copy the whole folder {layout.folder} again, or move it away to have it downloaded",
        )
    if layout.meta is not None and os.path.isfile(folder / layout.meta[0]):
        _check_names(folder / layout.meta[0], layout.meta[1], class_names)
    notes: list[str] = []
    splits: dict[SplitName, Items] = {}
    for split, files in layout.batches.items():
        total = sum(batch.count for batch in files)
        pixels = np.empty((total, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        labels = np.empty(total, dtype=np.int64)
        start = 0
        for batch in files:
            rows = slice(start, start + batch.count)
            pixels[rows], labels[rows] = _read_batch(folder / batch.name, batch, layout, len(class_names), notes)
            start += batch.count
        check_class_counts(labels, class_names, split, folder)
        splits[split] = Items(published_ids(split, total), labels, pixels=pixels)
    return splits, tuple(notes)


def _read_batch(
    path: Path, batch: Batch, layout: CifarLayout, num_classes: int, notes: list[str]
) -> tuple[UInt8Array, Int64Array]:
    """Return uint8 (count, 32, 32, 3) RGB and int64 (count,) of one file."""
    content = _content(path)
    if batch.md5 is not None:
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if md5 != batch.md5:
            # Somebody's copy, written again with Python 3, can be read and counted; anything else is damage.
            if layout.label_bytes or content.startswith(_PUBLISHED_BEGINNING):
                size = f"{len(content):,} bytes"
                raise DataError(
                    f"a damaged file ({size}, MD5 {md5}; published: {batch.md5})", where=path, remedy=GET_AGAIN
                )
            notes.append(f"{path.name} is not the published file but was written again: its pixels cannot be verified")
    else:
        notes.append(f"of {path.name} no sum is published: its labels were counted, its pixels cannot be verified")
    rows, labels = _binary_rows(content, layout, path) if layout.label_bytes else _pickled_rows(content, layout, path)
    if len(rows) != batch.count or len(labels) != batch.count:
        raise DataError(
            f"{len(rows):,} pictures and {len(labels):,} labels instead of {batch.count:,}",
            where=path,
            remedy=GET_AGAIN,
        )
    check_labels(labels, num_classes, path)
    # Published channel by channel: (count, 3, 32, 32) -> (count, 32, 32, 3).
    return rows.reshape(-1, 3, SIDE_PX, SIDE_PX).transpose(0, 2, 3, 1), labels


def _binary_rows(content: bytes, layout: CifarLayout, path: Path) -> tuple[UInt8Array, Int64Array]:
    """Return uint8 (N, 3072) and int64 (N,) of a binary batch."""
    record = layout.label_bytes + _PIXEL_BYTES
    if len(content) % record:
        raise DataError(
            f"{len(content):,} bytes, no multiple of the {record:,} of a picture: cut off",
            where=path,
            remedy=GET_AGAIN,
        )
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    return rows[:, layout.label_bytes :], rows[:, layout.label_bytes - 1].astype(np.int64)


def _pickled_rows(content: bytes, layout: CifarLayout, path: Path) -> tuple[UInt8Array, Int64Array]:
    """Return uint8 (N, 3072) and int64 (N,) of a pickled batch."""
    parts = load_pickle(content, where=path)
    rows, labels = parts.get("data"), parts.get(layout.label_key)
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != _PIXEL_BYTES:
        raise DataError(f"no array 'data' of N x {_PIXEL_BYTES} bytes", where=path, remedy=GET_AGAIN)
    if not isinstance(labels, list) or not all(isinstance(label, int) and abs(label) < 2**31 for label in labels):
        raise DataError(f"no list {layout.label_key!r} of numbers", where=path, remedy=GET_AGAIN)
    return rows, np.array(labels, dtype=np.int64)


def _check_names(path: Path, key: str, class_names: Sequence[str]) -> None:
    names = load_pickle(_content(path), where=path).get(key)
    found = [n.decode("latin-1") if isinstance(n, bytes) else n for n in names] if isinstance(names, list) else []
    if found != list(class_names):
        raise DataError(f"other class names under {key!r} than the published ones", where=path, remedy=GET_AGAIN)


def _content(path: Path) -> bytes:
    """Return a file's bytes, at most 256 MiB."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"cannot read the file ({reason})", where=path, remedy="check its permissions") from error
    if len(content) > MAX_BYTES:
        raise DataError(f"more than the {MAX_BYTES:,} bytes of any published file", where=path, remedy=GET_AGAIN)
    return content

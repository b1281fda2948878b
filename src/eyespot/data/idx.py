"""One job: read idx files, plain or gzipped, the layout in which Fashion-MNIST is published, and MNIST and its kin.

Before this: `sources` has found the folder. After this: `sources` makes a `Dataset` of the published arrays; those of
anything else are one already.

Source: the idx format is described at the end of https://yann.lecun.org/exdb/mnist/ (Y. LeCun, C. Cortes, C. Burges);
the data are from https://github.com/zalandoresearch/fashion-mnist (H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747).
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eyespot.arrays import UInt8Array
from eyespot.data.dataset import SPLIT_NAMES, Dataset, Items, SplitName
from eyespot.data.names import SPLIT_WORDS, few
from eyespot.data.npz import dataset_of_arrays
from eyespot.data.pack_spec import available_memory_bytes
from eyespot.data.published import check_class_counts, check_labels, published_ids
from eyespot.errors import DataError

MAX_BYTES = 256 << 20
_UNSIGNED_BYTES = 0x08

# MNIST's, KMNIST's and EMNIST's: `train-images-idx3-ubyte`, `t10k-labels.idx1-ubyte.gz`, `emnist-letters-test-...`.
_OWN_NAME = re.compile(
    f"(?P<set>.*?)(?P<split>t10k|{'|'.join(SPLIT_WORDS)})[-_.](?P<kind>images|labels)[-_.]idx[0-9][-_.]ubyte(?:[.]gz)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class IdxFile:
    """One published file.

    Attributes:
        stem: Its name without `.gz`.
        sha256: Sum of the content behind the compression, so that every layout is checked alike.
    """

    stem: str
    sha256: str

    def find(self, folder: Path) -> Path | None:
        """Return the file in a folder, plain or gzipped, or None. Kaggle's copies have a dot for the last hyphen."""
        kaggle = self.stem.replace("-idx", ".idx")
        for name in (self.stem, f"{self.stem}.gz", kaggle, f"{kaggle}.gz"):
            if os.path.isfile(folder / name):
                return folder / name
        return None


# The sums are of the content of the files whose .gz have the MD5 sums that the publisher's README names.
FASHION_FILES: dict[SplitName, tuple[IdxFile, IdxFile]] = {
    "train": (
        IdxFile("train-images-idx3-ubyte", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        IdxFile("train-labels-idx1-ubyte", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    ),
    "test": (
        IdxFile("t10k-images-idx3-ubyte", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        IdxFile("t10k-labels-idx1-ubyte", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
}


def files_in(folder: Path, files: dict[SplitName, tuple[IdxFile, IdxFile]] = FASHION_FILES) -> int:
    """Return how many of the published idx files are in a folder."""
    return sum(file.find(folder) is not None for pair in files.values() for file in pair)


def read_idx_folder(
    folder: Path, class_names: Sequence[str], files: dict[SplitName, tuple[IdxFile, IdxFile]] = FASHION_FILES
) -> dict[SplitName, Items]:
    """Return the pictures of a data set that is published as idx files, checked against the published sums.

    Args:
        folder: Holds the files, each plain or gzipped.
        class_names: K names.
        files: The published (pictures, labels) of each split.

    Returns:
        Items per split, with `pixels` uint8 (N, H, W, 1) and ids such as `train/00017`, in the published order.

    Raises:
        DataError: A file is missing, damaged, cut off or not the published one.
    """
    missing = [file.stem for pair in files.values() for file in pair if file.find(folder) is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {2 * len(files)} files are missing: {', '.join(missing)} (or with .gz)",
            where=folder,
            remedy="copy all of them again, or move the folder away to have them downloaded",
        )
    splits: dict[SplitName, Items] = {}
    for split, (picture_file, label_file) in files.items():
        pixels = _read_published(folder, picture_file, dimensions=3)
        labels = _read_published(folder, label_file, dimensions=1).astype(np.int64)
        if len(pixels) != len(labels):
            raise DataError(
                f"{len(pixels):,} {split} pictures, but {len(labels):,} labels", where=folder, remedy=_APART
            )
        check_labels(labels, len(class_names), folder / label_file.stem)
        check_class_counts(labels, class_names, split, folder)
        splits[split] = Items(published_ids(split, len(labels)), labels, pixels=pixels[..., None])
    return splits


def is_published(folder: Path, files: dict[SplitName, tuple[IdxFile, IdxFile]] = FASHION_FILES) -> bool:
    """Return whether one of the files in a folder is the published one; MNIST has files of the same names."""
    for pictures, labels in files.values():
        for file in (labels, pictures):  # the small one first
            path = file.find(folder)
            if path is not None and hashlib.sha256(_content(path)).hexdigest() == file.sha256:
                return True
    return False


def find_own_idx(folder: Path) -> Path | None:
    """Return the folder with idx files: this one, or `raw` in it or in a folder of it, as torchvision has them.

    Raises:
        DataError: Several folders have some.
    """
    places = [place for place in (folder, folder / "raw", *sorted(folder.glob("*/raw"))) if _own_files(place)]
    if len(places) > 1:
        names = few([place.relative_to(folder).as_posix() for place in places])
        raise DataError(f"idx files of {len(places)} data sets: {names}", where=folder, remedy="give the path of one")
    return places[0] if places else None


def _own_files(folder: Path) -> dict[tuple[str, SplitName, str], Path]:
    """Return the idx files in a folder by data set, split and kind."""
    found: dict[tuple[str, SplitName, str], Path] = {}
    if not os.path.isdir(folder):  # not Path.glob, which raises where a folder can be listed and not entered
        return found
    for path in sorted(folder.glob("*idx*"), reverse=True):  # a plain file hides the .gz beside it
        parts = _OWN_NAME.fullmatch(path.name)
        if parts and os.path.isfile(path):
            split = SPLIT_WORDS.get(parts["split"].lower(), "test")
            found[parts["set"], split, parts["kind"].lower()] = path
    return found


def read_own_idx(folder: Path) -> Dataset:
    """Return the data set in idx files that are not published ones: MNIST, KMNIST, one of EMNIST, or one's own.

    The classes are called as they are numbered. Pictures are (N, H, W), grey, or (N, H, W, C) with C 1 or 3.

    Raises:
        DataError: Files of several data sets, a split without its labels or pictures, or no training pictures; a file
            that is damaged or takes more than half of the free memory. And what `check_classes` finds.
    """
    files = _own_files(folder)
    sets = sorted({name for name, _, _ in files})
    if len(sets) > 1:
        raise DataError(
            f"idx files of {len(sets)} data sets: {few(sets)}",
            where=folder,
            remedy="put those of one into a folder of their own",
        )
    found: dict[SplitName, tuple[UInt8Array, list[str]]] = {}
    for split in SPLIT_NAMES:
        pictures, labels = (files.get((sets[0], split, kind)) for kind in ("images", "labels"))
        if pictures is None or labels is None:
            if pictures or labels or split == "train":
                absent = " and ".join(kind for kind, path in (("images", pictures), ("labels", labels)) if path is None)
                what = f"no file of the {split} {absent}"
                raise DataError(what, where=folder, remedy=f"put {sets[0]}{split}-...-idx-ubyte beside the others")
            continue
        pixels, numbers = _own_array(pictures, dimensions=(3, 4)), _own_array(labels, dimensions=(1,))
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        if pixels.shape[3] not in (1, 3) or 0 in pixels.shape[1:]:
            sides = " x ".join(map(str, pixels.shape[1:]))
            raise DataError(f"pictures of {sides}", where=pictures, remedy="height x width, with 1 or 3 channels")
        if len(pixels) != len(numbers):
            raise DataError(
                f"{len(pixels):,} {split} pictures, but {len(numbers):,} labels", where=folder, remedy=_APART
            )
        found[split] = pixels, [str(number) for number in numbers.tolist()]
    return dataset_of_arrays(found, folder, layout="idx files")


def _own_array(path: Path, *, dimensions: tuple[int, ...]) -> UInt8Array:
    """Return the array of an idx file that has one of these numbers of dimensions."""
    memory = available_memory_bytes()
    content = _content(path, None if memory is None else memory // 2)
    given = content[3] if len(content) > 3 else dimensions[0]
    return read_idx(content, dimensions=given if given in dimensions else dimensions[0], where=path)


def read_idx(content: bytes, *, dimensions: int, where: object) -> UInt8Array:
    """Return the uint8 array of an idx file, a read-only view of its bytes.

    Args:
        content: The whole file, decompressed.
        dimensions: How many the array must have: 3 for pictures (N, H, W), 1 for labels (N,).
        where: The file, for error messages.

    Raises:
        DataError: It is no idx file of bytes with so many dimensions, or not as long as it says.
    """
    header = 4 + 4 * dimensions
    magic = bytes((0, 0, _UNSIGNED_BYTES, dimensions))
    if content[:4] != magic or len(content) < header:
        got = content[:4].hex(" ") or "nothing"
        wanted = magic.hex(" ")
        raise DataError(f"no idx file: it begins with {got} instead of {wanted}", where=where, remedy=_GET_AGAIN)
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    # Not numpy's product: three dimensions of 2**32 would overflow it.
    size = header + math.prod(shape)
    if len(content) != size:
        sides = " x ".join(f"{side:,}" for side in shape)
        what = f"{len(content):,} bytes instead of the {size:,} that {sides} values need"
        raise DataError(what, where=where, remedy=_GET_AGAIN)
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


_GET_AGAIN = "get the published file again"
_APART = "get both files again: they do not belong together"


def _read_published(folder: Path, file: IdxFile, *, dimensions: int) -> UInt8Array:
    path = file.find(folder)
    assert path is not None, "the caller has looked"
    content = _content(path)
    array = read_idx(content, dimensions=dimensions, where=path)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != file.sha256:
        raise DataError(
            f"not the published content (SHA-256 {sha256[:12]}..., published: {file.sha256[:12]}...)",
            where=path,
            remedy=f"{_GET_AGAIN}; to train on MNIST, whose files have the same names, give the path of their folder",
        )
    return array


def _content(path: Path, room: int | None = None) -> bytes:
    """Return a file's bytes, decompressed where its first bytes say gzip, at most so many of them."""
    most = MAX_BYTES if room is None else room
    try:
        with open(path, "rb") as file:
            if file.peek(2)[:2] != b"\x1f\x8b":
                content = file.read(most + 1)
            else:
                with gzip.open(file) as unpacked:
                    content = unpacked.read(most + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"a damaged gzip file ({error})", where=path, remedy=_GET_AGAIN) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"cannot read the file ({reason})", where=path, remedy="check its permissions") from error
    if len(content) > most:
        what = f"more than the {most:,} bytes " + (
            "of any published file" if most == MAX_BYTES else "that memory allows"
        )
        raise DataError(what, where=path, remedy=_GET_AGAIN)
    return content

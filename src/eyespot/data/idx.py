"""One job: read idx files, plain or gzipped, the layout in which Fashion-MNIST is published.

Before this: `sources` has found the folder. After this: `sources` makes a `Dataset` of the arrays.

Source: the idx format is described at the end of https://yann.lecun.org/exdb/mnist/ (Y. LeCun, C. Cortes, C. Burges);
the data are from https://github.com/zalandoresearch/fashion-mnist (H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747).
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eyespot.arrays import UInt8Array
from eyespot.data.dataset import Items, SplitName
from eyespot.data.published import check_class_counts, check_labels, published_ids
from eyespot.errors import DataError

MAX_BYTES = 256 << 20
_UNSIGNED_BYTES = 0x08


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
            if (folder / name).is_file():
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
            raise DataError(f"{len(pixels):,} {split} pictures, but {len(labels):,} labels", where=folder)
        check_labels(labels, len(class_names), folder / label_file.stem)
        check_class_counts(labels, class_names, split, folder)
        splits[split] = Items(published_ids(split, len(labels)), labels, pixels=pixels[..., None])
    return splits


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
            remedy=f"{_GET_AGAIN}; to train on MNIST, whose files have the same names, give its pictures as a .npz",
        )
    return array


def _content(path: Path) -> bytes:
    """Return a file's bytes, decompressed where its first bytes say gzip, at most 256 MiB of them."""
    try:
        with open(path, "rb") as file:
            if file.peek(2)[:2] != b"\x1f\x8b":
                content = file.read(MAX_BYTES + 1)
            else:
                with gzip.open(file) as unpacked:
                    content = unpacked.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"a damaged gzip file ({error})", where=path, remedy=_GET_AGAIN) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"cannot read the file ({reason})", where=path, remedy="check its permissions") from error
    if len(content) > MAX_BYTES:
        raise DataError(f"more than the {MAX_BYTES:,} bytes of any published file", where=path, remedy=_GET_AGAIN)
    return content

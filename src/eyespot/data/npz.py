"""One job: read pictures and labels that somebody saved as arrays in a NumPy archive (`numpy.savez`).

Before this: `sources` was given a .npz. After this: `packing` hashes the pixels like any others.

Keras' `mnist.npz` (x_train, y_train, x_test, y_test), MedMNIST (train_images, train_labels, val_images, ...) and arrays
of one's own (images, labels) are told apart by the arrays' names. Nothing pickled is ever loaded.
"""

from __future__ import annotations

import lzma
import math
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from eyespot.arrays import AnyArray, UInt8Array
from eyespot.data.dataset import SPLIT_NAMES, Dataset, Items, SplitName
from eyespot.data.names import SPLIT_WORDS, check_classes, few, safe_text
from eyespot.data.pack_spec import available_memory_bytes
from eyespot.errors import DataError

_PICTURES = ("x", "images", "image", "pictures", "data", "pixels")
_LABELS = ("y", "labels", "label", "targets", "target", "classes")
_NAMES = ("class_names", "label_names", "classnames")
_EXPECTED = (
    "expected x_train and y_train (and x_test, y_test, ...), train_images and train_labels, or images and labels"
)
# What numpy, zipfile and the decompressors raise for archives that are damaged.
_UNREADABLE = (
    *(OSError, ValueError, EOFError, RuntimeError, LookupError, ArithmeticError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError),
)


class _Arrays:
    """The arrays of an open archive by their names in lower case."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self._archive = path, archive
        files = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        self.members = {info.filename.removesuffix(".npy").casefold(): info for info in files}

    def check_memory(self, names: Sequence[str]) -> None:
        """Raise where these arrays would not leave room to work with them."""
        size, memory = sum(self.members[name].file_size for name in names), available_memory_bytes()
        if memory is not None and size > memory // 2:
            what = f"{size / 1e9:,.1f} GB of arrays, {memory / 1e9:,.1f} GB of memory are free"
            _fail(self.path, what, "write the pictures as files, which are streamed where they do not fit")

    def read(self, name: str) -> AnyArray:
        """Return one array; its shape is believed only where the file is as long as it says."""
        info = self.members[name]
        try:
            with self._archive.open(info) as file:
                claimed = _claimed_bytes(file)
            if claimed != info.file_size:
                _fail(self.path, f"{name} is damaged, or holds Python objects", "save it anew as numbers or texts")
            with self._archive.open(info) as file:
                return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        except _UNREADABLE as error:
            _fail(self.path, f"{name} cannot be read ({error})", "save it anew with numpy.savez", error)
        except MemoryError as error:
            _fail(self.path, f"no memory for {name}", "write the pictures as files instead", error)

    def class_names(self) -> tuple[str, ...] | None:
        """Return the names that numbers stand for, where the archive has them."""
        name = next((name for name in _NAMES if name in self.members), None)
        if name is None:
            return None
        texts = self.read(name)
        if texts.ndim != 1 or texts.dtype.kind not in "US":
            _fail(self.path, f"{name} holds {texts.dtype} of the shape {texts.shape}", "it is a list of texts")
        found = tuple(_text(value, name, self.path) for value in texts.tolist())
        if len(set(found)) < len(found):
            _fail(self.path, f"{name} names a class twice", "give every class a name of its own")
        return found


def read_npz(path: Path) -> Dataset:
    """Return the data set in a NumPy archive.

    Pictures are uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3. Labels are N numbers or texts, (N, 1), or
    (N, K) with a single one in each row; numbers may be named by an array `class_names` of K texts. The id of a picture
    is `SPLIT/INDEX`.

    Raises:
        DataError: No archive of arrays, or arrays that are damaged, pickled, too large, of another kind or shape, or of
            lengths that do not fit together, or more of them than half of the free memory. And what `check_classes`
            finds.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _UNREADABLE as error:
        raise DataError(f"no NumPy archive ({error})", where=path, remedy="save it with numpy.savez") from error
    with archive:
        arrays = _Arrays(path, archive)
        pairs = _pairs(arrays.members, path)
        named = [name for name in _NAMES if name in arrays.members][:1]
        arrays.check_memory([*named, *(name for pair in pairs.values() for name in pair)])
        names = arrays.class_names()
        found = {split: _split(arrays, *pair, names) for split, pair in pairs.items()}
    if len({pixels.shape[3] for pixels, _ in found.values()}) > 1:
        _fail(path, "splits with different numbers of channels", "save all of them as grey, or all as RGB")
    unused = sorted(set(arrays.members).difference(_NAMES, *pairs.values()))
    notes = (f"{len(unused)} array{' is' if len(unused) == 1 else 's are'} not used: {few(unused)}",) if unused else ()
    return dataset_of_arrays(found, path, names=names, layout="arrays in a NumPy archive", notes=notes)


def dataset_of_arrays(
    found: Mapping[SplitName, tuple[UInt8Array, Sequence[str]]],
    path: Path,
    *,
    names: Sequence[str] | None = None,
    layout: str,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Return the data set of pictures that are arrays; the id of a picture is `SPLIT/INDEX`.

    Args:
        found: For each split, train among them, pictures uint8 (N, H, W, C) and N class names.
        path: The file or folder, after which the data set is named.
        names: The classes in their order; by number, else sorted, when left out.
        layout: In words.
        notes: On what was left out.

    Raises:
        DataError: What `check_classes` finds.
    """
    counts = {split: dict(Counter(of_split)) for split, (_, of_split) in found.items()}
    class_names, odd = check_classes(counts, path)
    class_names = _in_order(class_names, names)
    index = {name: place for place, name in enumerate(class_names)}
    return Dataset(
        name=path.name,
        class_names=class_names,
        splits={
            split: Items(
                tuple(f"{split}/{number:05d}" for number in range(len(pixels))),
                np.array([index[name] for name in of_split], dtype=np.int64),
                pixels=pixels,
            )
            for split, (pixels, of_split) in found.items()
        },
        published=False,
        origin=str(path),
        layout=layout,
        notes=(*odd, *notes),
    )


def _pairs(members: Mapping[str, Any], path: Path) -> dict[SplitName, tuple[str, str]]:
    """Return the names of the arrays of pictures and labels of each split; without splits all is train."""
    pairs: dict[SplitName, tuple[str, str]] = {}
    for word, split in SPLIT_WORDS.items():
        pictures, labels = (_named(members, kinds, word) for kinds in (_PICTURES, _LABELS))
        if pictures and labels:
            if split in pairs:
                _fail(path, f"two arrays for {split}: {pairs[split][0]} and {pictures}", "leave one of them out")
            pairs[split] = pictures, labels
        elif pictures or labels:
            alone = pictures or labels
            _fail(path, f"{alone} without its {'labels' if pictures else 'pictures'}", _EXPECTED)
    plain = tuple(next((name for name in kinds if name in members), "") for kinds in (_PICTURES, _LABELS))
    if not pairs and all(plain):
        return {"train": (plain[0], plain[1])}
    if "train" not in pairs:
        have = f"arrays {few(members, most=10)}" if members else "no arrays"
        _fail(path, have if not pairs else f"{have}, but no training pictures", _EXPECTED)
    return {split: pairs[split] for split in SPLIT_NAMES if split in pairs}


def _named(members: Mapping[str, Any], kinds: tuple[str, ...], word: str) -> str:
    """Return the array that is called `x_train`, `train_x`, `xtrain` or the like; nothing where there is none."""
    spellings = (
        f"{a}{joint}{b}" for kind in kinds for joint in ("_", "-", "") for a, b in ((kind, word), (word, kind))
    )
    return next((name for name in spellings if name in members), "")


def _split(arrays: _Arrays, pictures: str, labels: str, names: tuple[str, ...] | None) -> tuple[UInt8Array, list[str]]:
    """Return the pictures of a split, uint8 (N, H, W, C), and N class names."""
    pixels = _as_pictures(arrays.read(pictures), pictures, arrays.path)
    of_split = _as_names(arrays.read(labels), names, labels, arrays.path)
    if len(pixels) != len(of_split):
        what = f"{len(pixels):,} pictures in {pictures}, {len(of_split):,} labels in {labels}"
        _fail(arrays.path, what, "save both anew")
    return pixels, of_split


def _claimed_bytes(file: IO[bytes]) -> int | None:
    """Return how long an array's file must be, header included; None for Python objects."""
    known = np.lib.format
    version = known.read_magic(file)
    header = known.read_array_header_1_0(file) if version == (1, 0) else known.read_array_header_2_0(file)
    shape: tuple[int, ...] = header[0]
    dtype: np.dtype[Any] = header[2]
    if dtype.hasobject or not dtype.itemsize or any(side < 0 for side in shape):
        return None
    return file.tell() + math.prod(shape) * dtype.itemsize


def _as_pictures(array: AnyArray, name: str, path: Path) -> UInt8Array:
    """Return pictures uint8 (N, H, W, C)."""
    if array.dtype != np.uint8:
        if not array.size:
            _fail(path, f"{name} is empty", "leave it and its labels out")
        # 255 times whole numbers would wrap round, and nobody would be told.
        lowest, highest = (0, 1) if array.dtype.kind not in "iuf" else (array.min(), array.max())
        way = ""
        if 0 <= lowest <= highest <= 255:
            way = "(255 * x).round()" if highest <= 1 else "x.round()"
        remedy = f", such as {way}.astype('uint8')" if way else f" (these go from {lowest} to {highest})"
        _fail(path, f"{name} holds {array.dtype}", f"save numbers from 0 to 255 as uint8{remedy}")
    if array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape[1:]:
        _fail(path, f"{name} has the shape {array.shape}", "pictures are (N, H, W) or (N, H, W, C) with C 1 or 3")
    return np.ascontiguousarray(array)


def _as_names(labels: AnyArray, names: tuple[str, ...] | None, name: str, path: Path) -> list[str]:
    """Return N class names for labels of whatever kind."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    elif labels.ndim == 2 and labels.dtype.kind in "buif":
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
            _fail(path, f"{name} has rows with none or several classes", "a picture has one class here")
        labels = labels.argmax(axis=1)
    if labels.ndim != 1 or labels.dtype.kind not in "buiUS":
        _fail(path, f"{name} holds {labels.dtype} of the shape {labels.shape}", "labels are N whole numbers or texts")
    if labels.dtype.kind in "US":
        return [_text(value, name, path) for value in labels.tolist()]
    numbers = labels.astype(np.int64)
    if names is None:
        return [str(number) for number in numbers.tolist()]
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(names):
        worst = numbers.max() if numbers.max() >= len(names) else numbers.min()
        _fail(path, f"label {worst} in {name}, but {len(names)} class names", "number classes from 0")
    return [names[number] for number in numbers.tolist()]


def _text(value: str | bytes, name: str, path: Path) -> str:
    try:
        text = safe_text((value if isinstance(value, str) else value.decode()).strip())
    except UnicodeDecodeError as error:
        _fail(path, f"{name} holds bytes that are no UTF-8", "save texts", error)
    if not text:
        _fail(path, f"an empty text in {name}", "name every class")
    return text


def _in_order(found: tuple[str, ...], names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes as their numbers order them, `2` before `10`; texts stay sorted."""
    if names is not None:
        return tuple(sorted(found, key=names.index)) if set(found) <= set(names) else found
    try:
        return tuple(sorted(found, key=int))
    except ValueError:
        return found


def _fail(path: Path, what: str, remedy: str, cause: BaseException | None = None) -> NoReturn:
    raise DataError(what, where=path, remedy=remedy) from cause

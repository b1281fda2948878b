"""One job: turn what the user names as DATA into a `Dataset`: which labelled pictures exist, nothing decoded yet.

Before this: a name, a folder, an archive, a CSV or a .npz. After this: `packing` scans and decodes the pictures.

`cifar.py`, `idx.py`, `npz.py`, `folders.py` and `csvfile.py` read one layout each; here is the choice between them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypedDict

import numpy as np

from eyespot.arrays import Int64Array
from eyespot.caches import cache_folder, data_folders, user_path
from eyespot.data.archives import ARCHIVE_SUFFIXES, extract_archive
from eyespot.data.cifar import read_cifar
from eyespot.data.csvfile import is_address, read_csv
from eyespot.data.dataset import Dataset, Items, SplitName
from eyespot.data.download import download
from eyespot.data.finding import Found, find_in, find_published
from eyespot.data.folders import read_folder
from eyespot.data.idx import find_own_idx, is_published, read_idx_folder, read_own_idx
from eyespot.data.names import few
from eyespot.data.npz import read_npz
from eyespot.data.published import DIGITS, PUBLISHED, Published, plain_name
from eyespot.errors import DataError, UsageError, did_you_mean

Progress: TypeAlias = Callable[[int, "int | None"], None]
Message: TypeAlias = Callable[[str], None]

TABLE_SUFFIXES = (".csv", ".tsv")
ARRAY_SUFFIX = ".npz"
DIGITS_SEED = 0
_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
_KINDS = "a folder of class folders, an archive of one, a CSV of path,label, or arrays in a .npz"


class DatasetRow(TypedDict):
    """What `eyespot data list` says about a named data set.

    Attributes:
        pictures: In all splits together; `splits` has them apart.
        size: Such as `32 x 32 RGB`.
        found: The path it will be read from, or that it will be downloaded.
        download_bytes: What has to be downloaded; 0 where it was found.
    """

    name: str
    title: str
    pictures: int
    splits: dict[str, int]
    size: str
    classes: int
    class_names: list[str]
    licence: str
    source: str
    citation: str
    found: str
    download_bytes: int


def dataset_names() -> tuple[str, ...]:
    """Return the names that DATA can be."""
    return tuple(PUBLISHED)


def _say_nothing(text: str) -> None:
    pass


def open_dataset(data: str | Path, *, progress: Progress | None = None, message: Message = _say_nothing) -> Dataset:
    """Return the data set that the user names.

    A known name is looked for in the folders of EYESPOT_DATA, which are only read, in eyespot's downloads and among the
    system's data sets, in every layout in which it is published; otherwise it is downloaded from its publisher. All
    else is a path: a folder of class folders or of train/, val/ and test/ folders of them; an archive of one, which is
    unpacked into the cache once; a CSV of path,label[,split]; pictures and labels as arrays in a .npz; or a folder or
    archive as CIFAR, Fashion-MNIST, MNIST and its kin are published.

    Args:
        data: A name of `dataset_names`, or a path. `./cifar10`, and any `Path`, is a path.
        progress: Called with (done, total) bytes while something is downloaded or unpacked.
        message: Told where another process does that, and is waited for.

    Raises:
        UsageError: Neither a known name nor an existing path, or an address.
        DataError: The data cannot be used as they are. The file, class or line is named.
        ArchiveError: A damaged or hostile archive.
        DownloadError: Not here, and not to be had from the publisher; says where to put the file.
    """
    if isinstance(data, str) and data in PUBLISHED:
        return _open_published(PUBLISHED[data], progress, message)
    if not str(data).strip():
        raise UsageError(
            "no data named", where="DATA", remedy=f"give one of {', '.join(PUBLISHED)}, or the path of {_KINDS}"
        )
    if isinstance(data, str) and is_address(data):
        raise UsageError(
            f"{data!r} is an address",
            where="DATA",
            remedy="download it yourself and give the file; eyespot never fetches it",
        )
    path = user_path(data)
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise _unknown(str(data), path) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(
            f"cannot open it ({reason})", where=path, remedy="check the path and its permissions"
        ) from error
    path = path.absolute()
    name = os.path.basename(os.path.abspath(path)) or str(path)
    if stat.S_ISDIR(mode):
        return _open_folder(path, name, str(path))
    if stat.S_ISREG(mode) and name.lower().endswith(ARCHIVE_SUFFIXES):
        folder, notes = _unpack(path, progress, message)
        with _naming(path):
            return _from_archive(_open_folder(folder, name, str(path)), path, notes)
    if stat.S_ISREG(mode) and name.lower().endswith(TABLE_SUFFIXES):
        return read_csv(path)
    if stat.S_ISREG(mode) and name.lower().endswith(ARRAY_SUFFIX):
        return read_npz(path)
    allowed = ", ".join((*ARCHIVE_SUFFIXES, *TABLE_SUFFIXES, ARRAY_SUFFIX))
    raise DataError(f"no data set; expected {_KINDS}", where=path, remedy=f"files of data end with {allowed}")


def prefetch(name: str, *, progress: Progress | None = None, message: Message = _say_nothing) -> Dataset:
    """Return a named data set after making sure that it is on this machine, whole and checked.

    Args:
        name: One of `dataset_names`.
        progress: Called with (done, total) bytes.
        message: As in `open_dataset`.

    Raises:
        UsageError: An unknown name.
        DownloadError: It cannot be had.
        DataError: What was found is damaged.
    """
    if name not in PUBLISHED:
        raise UsageError(
            f"unknown data set {name!r}.{did_you_mean(name, PUBLISHED)}", remedy=f"give one of {', '.join(PUBLISHED)}"
        )
    return open_dataset(name, progress=progress, message=message)


def describe_datasets() -> list[DatasetRow]:
    """Return what is known about each named data set, and where it is; nothing is opened or fetched."""
    return [_describe(published) for published in PUBLISHED.values()]


def absent_folders() -> str:
    """Return, in words, which folders of EYESPOT_DATA are not there; empty where all are."""
    absent = [str(root) for root in data_folders() if not os.path.exists(root)]
    return f"EYESPOT_DATA names {', '.join(absent)}, not there" if absent else ""


def _describe(published: Published) -> DatasetRow:
    bytes_left = 0
    if published is DIGITS:
        where = "bundled with scikit-learn"
    else:
        try:
            found = find_published(published)
        except DataError as error:
            where = f"cannot be looked for: {error}"
        else:
            bytes_left = 0 if found else sum(file.size or 0 for file in published.files)
            where = str(found.path) if found else f"to be downloaded ({bytes_left / 1e6:.0f} MB)"
    colours = "RGB" if published.channels == 3 else "grey"
    return DatasetRow(
        name=published.name,
        title=published.title,
        pictures=sum(published.counts.values()),
        splits={str(split): count for split, count in published.counts.items()},
        size=f"{published.size_px} x {published.size_px} {colours}",
        classes=len(published.class_names),
        class_names=list(published.class_names),
        licence=published.licence,
        source=published.source,
        citation=published.citation,
        found=where,
        download_bytes=bytes_left,
    )


def _unknown(data: str, path: Path) -> UsageError:
    """Return the error for DATA that is neither a name nor there, with the nearest name of either kind."""
    if path.is_symlink():
        return UsageError(f"{data!r} is a link that leads nowhere", where="DATA", remedy="mend the link")
    try:
        beside = os.listdir(path.parent)
    except (OSError, ValueError):
        beside = []
    if data in PUBLISHED:
        what = f"no such file or folder {data!r}, and a Path is never a name"
        return UsageError(what, where="DATA", remedy=f"give the data set's name as text: {data!r}")
    near = did_you_mean(data, PUBLISHED)
    if not near and path.name:
        near = did_you_mean(path.name, [name for name in beside if not name.startswith(".")][:10_000])
    names = ", ".join(PUBLISHED)
    what = f"unknown data {data!r}" if path.name == data else f"no such file or folder {data!r}"
    return UsageError(f"{what}.{near}", where="DATA", remedy=f"give one of {names}, or the path of {_KINDS}")


def _open_folder(folder: Path, name: str, origin: str) -> Dataset:
    """Return the data set in a folder of whatever layout."""
    for published in PUBLISHED.values():
        found = find_in(folder, published, only_pixels=True)
        if found is not None and (found.kind != "idx" or is_published(found.path)):
            return _read(published, found)
    if (own := find_own_idx(folder)) is not None:
        return dataclasses.replace(read_own_idx(own), name=name, origin=origin)
    if all(os.path.isfile(folder / name) for name in ("provenance.json", "config.toml")):
        raise DataError(
            "a run and no pictures",
            where=folder,
            remedy="give the folder of the pictures; to go on with the run: eyespot train --resume --out RUN",
        )
    return dataclasses.replace(read_folder(folder, name=name), origin=origin)


@contextmanager
def _naming(archive: Path) -> Iterator[None]:
    """Make errors name the archive that the user knows, besides the folder in the cache that nobody has heard of."""
    try:
        yield
    except DataError as error:
        raise DataError(error.what, where=f"{archive} (unpacked: {error.where})", remedy=error.remedy) from error


def _from_archive(dataset: Dataset, archive: Path, notes: tuple[str, ...]) -> Dataset:
    layout = f"archive of {dataset.layout}"
    return dataclasses.replace(dataset, origin=str(archive), layout=layout, notes=(*dataset.notes, *notes))


def _unpack(archive: Path, progress: Progress | None, message: Message) -> tuple[Path, tuple[str, ...]]:
    """Return the folder in the cache with an archive's content, and notes; unpacked once while it stays the same."""
    status = archive.stat()
    # Not the content: hashing a large archive at each start would take longer than everything else together.
    known_by = f"{archive.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape")
    stem = re.sub(r"[^\w.-]", "_", archive.name.split(".")[0], flags=re.ASCII)[:80] or "archive"
    target = cache_folder("unpacked") / f"{stem}-{hashlib.sha256(known_by).hexdigest()[:16]}"
    waiting = partial(message, f"waiting for another process that unpacks {archive.name}")
    report = extract_archive(archive, target, progress=progress, on_wait=waiting)
    notes = []
    if report.special:
        members = f"{report.special:,} member{'' if report.special == 1 else 's'}"
        notes.append(f"{members} of the archive left out, no files: {few(report.special_names)}")
    if report.guessed:
        notes.append(
            f"{report.guessed:,} name{' in the archive is' if report.guessed == 1 else 's in the archive are'} in no "
            f"stated encoding, read as CP437: {few(report.guessed_names)}; where that is wrong, unpack it yourself and "
            "give the folder"
        )
    return target, tuple(notes)


def _open_published(published: Published, progress: Progress | None, message: Message) -> Dataset:
    if published is DIGITS:
        return _read_digits()
    found = find_published(published)
    if found is None:
        _download(published, progress, message)
        found = find_in(cache_folder("downloads"), published, whole_only=True)
        if found is None:
            raise DataError("downloaded files vanished", where=cache_folder("downloads"), remedy="start again")
    if found.kind != "archive":
        return _read(published, found)
    folder, notes = _unpack(found.path, progress, message)
    # Whatever the archive calls its folders, it was found by its own name.
    inside = find_in(folder, published, only_pixels=True) or Found("folders", folder)
    with _naming(found.path):
        return _from_archive(_read(published, inside), found.path, notes)


def _download(published: Published, progress: Progress | None, message: Message) -> None:
    """Bring all files of a published data set into eyespot's downloads."""
    folder = cache_folder("downloads")
    if len(published.files) > 1:
        folder /= published.name
    hint = "or into a folder named by EYESPOT_DATA"
    if lost := absent_folders():
        hint += f"; {lost}"
        message(f"note: {lost}: downloading")
    total = sum(file.size or 0 for file in published.files)
    before = 0
    for file in published.files:
        waiting = partial(message, f"waiting for another process that downloads {file.name}")
        of_all = progress and _of_all(progress, before, total)
        download(file, folder, progress=of_all, on_wait=waiting, hint=hint)
        before += file.size or 0


def _of_all(progress: Progress, before: int, total: int) -> Progress:
    """Return a progress for one of several files that reports all of them as one."""
    return lambda done, _: progress(before + done, total)


def _read(published: Published, found: Found) -> Dataset:
    """Return a published data set from where it was found, unpacked."""
    if found.kind == "folders":
        return _read_class_folders(published, found.path)
    notes: tuple[str, ...] = ()
    if found.batches is not None:
        layout = found.batches.words
        splits, notes = read_cifar(found.path, found.batches, published.class_names)
    else:
        layout = "idx files"
        splits = read_idx_folder(found.path, published.class_names)
    return _published_dataset(published, splits, str(found.path), layout, notes)


def _published_dataset(
    published: Published, splits: dict[SplitName, Items], origin: str, layout: str, notes: tuple[str, ...]
) -> Dataset:
    return Dataset(
        name=published.name,
        class_names=published.class_names,
        splits=splits,
        published=True,
        origin=origin,
        layout=layout,
        notes=notes,
    )


def _read_class_folders(published: Published, folder: Path) -> Dataset:
    """Return a published data set that somebody wrote as picture files; what differs from the original is noted."""
    found = read_folder(folder, name=published.name)
    official = published.official_names()
    foreign = [name for name in found.class_names if plain_name(name) not in official]
    present = {plain_name(name) for name in found.class_names}
    missing = [name for plain, name in official.items() if plain not in present]
    if foreign or missing:
        what = f"folders {few(foreign)} that are no classes" if foreign else f"no folders for {few(missing)}"
        raise DataError(
            f"{what} of {published.title}",
            where=folder,
            remedy=f"expected its {len(official)} class folders; to use the folder as your own data, give its path",
        )
    # Folders are sorted by name; the published order is another one for some.
    order = np.array([list(official).index(plain_name(name)) for name in found.class_names], dtype=np.int64)
    splits = {split: dataclasses.replace(items, labels=order[items.labels]) for split, items in found.splits.items()}
    notes = list(found.notes)
    for split, count in published.counts.items():
        got = len(splits[split]) if split in splits else 0
        if got != count:
            notes.append(f"{split} has {got:,} pictures, the published {split} split of {published.title} {count:,}")
    if any(identity.lower().endswith(_JPEG_SUFFIXES) for items in splits.values() for identity in items.ids):
        notes.append(
            "pictures are JPEG files, not the original pixels: accuracies are not comparable with published ones"
        )
    return _published_dataset(published, splits, str(folder), found.layout, tuple(notes))


def _read_digits() -> Dataset:
    """Return scikit-learn's bundled digits, 8 x 8 grey, with a fixed stratified 80/20 split.

    Published values 0..16 become 0..255 as (255 v + 8) // 16, which rounds halves up. The data have no official split.
    Here, in each class, the fifth of the pictures (rounded) with the smallest SHA-256 of `digits/SEED/INDEX` is the
    test split: the same for ever, whatever version of any random generator is installed. INDEX counts from 0 in
    scikit-learn's order, and the id of a picture is `SPLIT/INDEX`.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    values = np.asarray(bunch["images"]).astype(np.int64)
    labels = np.asarray(bunch["target"]).astype(np.int64)
    pixels = ((255 * values + 8) // 16).astype(np.uint8)[..., None]
    rank = [hashlib.sha256(f"digits/{DIGITS_SEED}/{index}".encode()).digest() for index in range(len(labels))]
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(len(DIGITS.class_names)):
        of_class = sorted(np.flatnonzero(labels == label).tolist(), key=rank.__getitem__)
        # Fifths rounded half up.
        is_test[of_class[: (2 * len(of_class) + 5) // 10]] = True
    chosen: dict[SplitName, Int64Array] = {"train": np.flatnonzero(~is_test), "test": np.flatnonzero(is_test)}
    splits = {
        split: Items(
            tuple(f"{split}/{index:05d}" for index in indices.tolist()), labels[indices], pixels=pixels[indices]
        )
        for split, indices in chosen.items()
    }
    note = (
        f"digits has no official split: a fixed stratified one was made, {len(splits['train']):,} train and "
        f"{len(splits['test'])} test pictures, with the same writers in both"
    )
    return _published_dataset(DIGITS, splits, "scikit-learn", "bundled array", (note,))

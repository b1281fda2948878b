"""One job: find a published data set on this machine, in whatever layout and under whatever spelling of its name.

Before this: `published` says what it is called. After this: `sources` reads what was found, or downloads it.

Nothing is opened, unpacked or written here. Original pixels are preferred to pictures that somebody encoded again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eyespot.caches import cache_folder, data_folders
from eyespot.data.archives import ARCHIVE_SUFFIXES
from eyespot.data.cifar import CIFAR_LAYOUTS, CifarLayout
from eyespot.data.idx import FASHION_FILES, files_in
from eyespot.data.names import split_of
from eyespot.data.published import FASHION_MNIST, Published, plain_name
from eyespot.errors import DataError

# Debian's package dataset-fashion-mnist puts its files into /usr/share/datasets/fashion-mnist.
SYSTEM_FOLDERS = (Path("/usr/share/datasets"),)

# Folders of other programs around the files: torchvision's FashionMNIST/raw, a clone's data/fashion, Keras' own.
_INNER_FOLDERS = frozenset({"raw", "data", "fashion", "images"})
_DEEPEST = 3


@dataclass(frozen=True)
class Found:
    """Where a published data set is, and in which layout.

    Attributes:
        kind: `batches` (CIFAR's), `idx`, `folders` (class or split folders) or `archive` (of any of them).
        path: The folder or the archive.
        batches: How to read `batches`.
    """

    kind: Literal["batches", "idx", "folders", "archive"]
    path: Path
    batches: CifarLayout | None = None


@dataclass(frozen=True)
class _Place:
    """A folder to look into; `named` says that it, or one around it, is named after the data set."""

    path: Path
    named: bool
    folders: list[str]
    files: list[str]


def find_published(published: Published) -> Found | None:
    """Return where a published data set is: in EYESPOT_DATA, in eyespot's downloads, or among the system's data sets.

    Args:
        published: What to look for.

    Raises:
        DataError: A folder may not be listed.
    """
    for root in data_folders():
        found = find_in(root, published)
        if found is not None:
            return found
    # A download may have been interrupted between two files: then it is not found, and goes on.
    found = find_in(cache_folder("downloads"), published, whole_only=True)
    for root in SYSTEM_FOLDERS:
        found = found or find_in(root, published)
    return found


def find_in(root: Path, published: Published, *, whole_only: bool = False, only_pixels: bool = False) -> Found | None:
    """Return where a published data set is in one folder, or None.

    Args:
        root: The folder, which may be the data set's own, or an archive.
        published: What to look for.
        whole_only: Take idx files, which are downloaded one by one, for the data set only if all of them are there;
            otherwise a part of them is found, so that reading it says which ones are missing.
        only_pixels: Look for unpacked original pixels only, not for archives or class folders.

    Raises:
        DataError: A folder may not be listed.
    """
    if not only_pixels and os.path.isfile(root):
        return Found("archive", root) if published.names_it(root.name) and _is_archive(root.name) else None
    places = list(_places(root, published))
    for layout in CIFAR_LAYOUTS.get(published.name, ()):
        for place in places:
            if layout.files_in(place.path) >= (1 if place.named else 2):
                return Found("batches", place.path, layout)
    if published is FASHION_MNIST:
        every = sum(len(pair) for pair in FASHION_FILES.values())
        for place in places:
            # MNIST has files of the same names: a folder of another name must hold them all to be asked.
            if files_in(place.path) >= (1 if place.named and not whole_only else every):
                return Found("idx", place.path)
    if only_pixels:
        return None
    for name in published.archives:
        for place in places:
            if name in place.files:
                return Found("archive", place.path / name)
    for place in places:
        if _holds_classes(place, published):
            return Found("folders", place.path)
    archives = [
        place.path / name for place in places for name in place.files if _is_archive(name) and published.names_it(name)
    ]
    # The shortest name is the plainest: cifar10.zip before cifar10-some-variant.zip.
    return Found("archive", min(archives, key=lambda path: (len(path.name), path.name))) if archives else None


def _is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def _places(root: Path, published: Published) -> Iterator[_Place]:
    """Yield the folder, and the folders in it that are named after the data set or lie in such a one."""
    waiting = [(root, published.names_it(os.path.basename(os.path.abspath(root))), 0)]
    while waiting:
        folder, named, depth = waiting.pop(0)
        folders, files = _entries(folder)
        yield _Place(folder, named, folders, files)
        if depth < _DEEPEST:
            for name in folders:
                if published.names_it(name) or (named and name.lower() in _INNER_FOLDERS):
                    waiting.append((folder / name, True, depth + 1))


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of the folders and of the regular files in a folder; none where there is no folder."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                # A link to itself raises here; it leads nowhere, like any broken link.
                with contextlib.suppress(OSError):
                    if entry.is_dir():
                        folders.append(entry.name)
                    elif entry.is_file():
                        files.append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(
            f"cannot list the folder ({reason})", where=folder, remedy="change its permissions, or EYESPOT_DATA"
        ) from error
    return sorted(folders), sorted(files)


def _holds_classes(place: _Place, published: Published) -> bool:
    """Return whether a folder has the data set's class folders, directly or in its training folder."""
    official = published.official_names()
    train = [name for name in place.folders if split_of(name) == "train"]
    for folders in (place.folders, _entries(place.path / train[0])[0] if train else []):
        known = {plain_name(name) for name in folders} & set(official)
        # Folders cat/ and dog/ are not CIFAR-10 yet, unless the folder around them says so.
        if len(known) >= (1 if place.named else len(official)):
            return True
    return False

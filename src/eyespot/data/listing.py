"""One job: list a folder, with what is no picture left out and counted. Nothing is opened; links are resolved.

Before this: `names` says what a name may be. After this: `folders` finds the classes, `doubtful_folders` doubts them.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

from eyespot.data.names import TEXTS, few, is_litter, other_kind, safe_text
from eyespot.errors import DataError

_ARCHIVES = frozenset({"zip", "tar", "tgz", "gz", "bz2", "tbz2", "xz", "txz", "zst", "rar", "7z"})


@dataclass
class LeftOut:
    """What was not listed, for the notes.

    Attributes:
        kinds: How many files of each other kind, by extension.
        irregular: Devices, pipes and sockets.
        broken_links: Links that lead nowhere.
        loops: Folders that were read already.
        stray: Pictures outside of the class folders.
        nested: Folders below a class folder that hold pictures; these are listed.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    irregular: list[str] = field(default_factory=list)
    broken_links: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    nested: list[str] = field(default_factory=list)

    def describe_kinds(self) -> str:
        """Return how many files of which other kinds are no pictures."""
        most = self.kinds.most_common(5)
        kinds = ", ".join(f"{kind if kind in TEXTS else f'.{kind}'} {count:,}" for kind, count in most)
        inside = " (pictures in archives are not looked for: unpack them)" if _ARCHIVES & self.kinds.keys() else ""
        return f"{count_files(self.kinds.total())} of other kinds left out: {kinds}{inside}"

    def notes(self) -> list[str]:
        """Return a sentence for each kind of thing."""
        notes = []
        if self.kinds:
            notes.append(self.describe_kinds())
        for names, words in (
            (self.stray, "outside of the class folders left out"),
            (self.irregular, "left out: not a regular file"),
            (self.broken_links, "left out: a link that leads nowhere"),
        ):
            if names:
                notes.append(f"{count_files(len(names))} {words}: {few(names)}")
        if self.loops:
            notes.append(f"folders that were read already, or link back to themselves, left out: {few(self.loops)}")
        if self.nested:
            notes.append(f"pictures in folders below a class folder count for that class: {few(self.nested)}")
        return notes


def count_files(count: int) -> str:
    """Return `1 file` or `2,000 files`."""
    return f"{count:,} file{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Listing:
    """The sorted names of one folder: folders, and files that may be pictures."""

    folders: list[str]
    pictures: list[str]


def list_folder(folder: str, prefix: str = "", left_out: LeftOut | None = None) -> Listing:
    """Return the sorted names in one folder, without what is no picture; no file is opened, and links are resolved.

    Args:
        folder: To list.
        prefix: Put before the names in `left_out`.
        left_out: Takes what is not listed; None where nobody will tell of it.

    Raises:
        DataError: The folder cannot be listed.
    """
    left_out = left_out or LeftOut()
    folders, pictures = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if is_litter(name):
                    continue
                try:
                    if entry.is_dir():
                        folders.append(name)
                        continue
                    regular = entry.is_file()
                except OSError:
                    regular = False
                if not regular:
                    # A FIFO would block whoever opens it, so it must never become an item.
                    broken = entry.is_symlink() and not os.path.exists(entry.path)
                    group = left_out.broken_links if broken else left_out.irregular
                    group.append(safe_text(prefix + name))
                    continue
                other = other_kind(name)
                if other:
                    left_out.kinds[other] += 1
                else:
                    pictures.append(name)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return Listing(sorted(folders, key=safe_text), sorted(pictures, key=safe_text))


def folder_identity(folder: str) -> tuple[object, ...]:
    """Return what stays the same however a folder is reached.

    Raises:
        DataError: The folder cannot be reached.
    """
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _unreadable(folder, error) from error
    if not status.st_ino:  # some network drives of Windows number nothing
        return (os.path.normcase(os.path.realpath(folder)),)
    return status.st_dev, status.st_ino


def _unreadable(folder: str, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError("the folder vanished while it was read", where=folder, remedy="start again when it is there")
    reason = error.strerror or type(error).__name__
    return DataError(f"cannot list the folder ({reason})", where=folder, remedy="check its permissions, or its disk")

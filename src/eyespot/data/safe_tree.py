"""The folder that an archive is unpacked into: every name is checked and every byte counted before it gets there.

Before this: `archives` reads a member. After this: it gives the folder its name, once everything is in it.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from eyespot.errors import ArchiveError

# Archives of a few files may well shrink a lot; nobody's disk is filled by this much.
_RATIO_FREE_BYTES = 16 << 20
_SKIPPED_NAMES_KEPT = 100
# Systems take 4096 bytes (Linux) or 1024 (macOS), the folder it is unpacked to included.
_MAX_PATH_BYTES = 800

_WINDOWS = os.name == "nt"
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)[ ]*(\..*)?", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*]|[ .]$')
_DRIVE = re.compile(r"[A-Za-z]:")
_NO_DATA = frozenset({"__macosx", "thumbs.db", "desktop.ini"})

_UNPACK_YOURSELF = "if you trust it, unpack it yourself and give the folder instead"


@dataclass(frozen=True)
class ExtractLimits:
    """How much an archive may hold before it is taken for a bomb.

    Attributes:
        max_members: Files, folders and everything else together.
        max_total_bytes: All content together; for tar archives with the headers.
        max_file_bytes: One file.
        max_ratio: Unpacked size over archive size; the first 16 MiB are free.
        max_depth: Folders inside folders.
    """

    max_members: int = 5_000_000
    max_total_bytes: int = 200_000_000_000
    max_file_bytes: int = 20_000_000_000
    max_ratio: float = 200.0
    max_depth: int = 32


DEFAULT_LIMITS = ExtractLimits()


@dataclass
class ExtractReport:
    """What came out of an archive.

    Attributes:
        target: The folder.
        extracted: False where the folder was there already; the counts are those of the extraction that made it, or 0
            where nothing is known about that.
        files: Regular files written.
        total_bytes: Their content.
        hidden: Members left out because a part of their path is hidden or a system's litter (`.DS_Store`, `__MACOSX`).
        special: Members left out because they are links, devices or the like.
        special_names: The first hundred of those, as `NAME (symbolic link)`.
        guessed: Members of a zip whose name is neither ASCII nor UTF-8, with no word on what else: read as CP437.
        guessed_names: The first hundred of those, as they were read.
    """

    target: Path
    extracted: bool = True
    files: int = 0
    total_bytes: int = 0
    hidden: int = 0
    special: int = 0
    special_names: list[str] = field(default_factory=list)
    guessed: int = 0
    guessed_names: list[str] = field(default_factory=list)


@dataclass
class _Folder:
    """A folder that was made here.

    Attributes:
        path: Where it is.
        taken: What is in it: the name as a system that ignores case and accents' spelling sees it -> the name
            of the folder, or None for a file.
    """

    path: str
    taken: dict[str, str | None] = field(default_factory=dict)


class SafeTree:
    """The temporary folder: checks every name, counts every byte, and alone makes files and folders.

    Args:
        archive: For the error messages.
        archive_bytes: Its size.
        root: The empty folder, which nobody else knows.
        limits: What is refused.
        report: Is filled in.
    """

    def __init__(
        self, archive: Path, archive_bytes: int, root: Path, limits: ExtractLimits, report: ExtractReport
    ) -> None:
        self.archive_bytes = archive_bytes
        self.report = report
        self._archive = archive
        self._limits = limits
        self._root = os.path.realpath(root)
        self._most_bytes = min(
            limits.max_total_bytes, max(_RATIO_FREE_BYTES, int(limits.max_ratio * max(archive_bytes, 1)))
        )
        self._bytes = 0
        self._members = 0
        self._made = {self._root: _Folder(self._root)}  # by path
        # Folder names as they stand in the archive, with the last slash -> the folder, or None where it is left out.
        # It saves checking the same path again for each of the thousands of files in it.
        self._known: dict[str, _Folder | None] = {"": self._made[self._root]}

    def refuse(self, name: str, reason: str, remedy: str = _UNPACK_YOURSELF) -> NoReturn:
        """Raise an ArchiveError that names the member."""
        raise ArchiveError(f"member {name[:200]!r} {reason}", where=self._archive, remedy=remedy)

    def count_member(self) -> None:
        """Count one more member against the limit."""
        self._members += 1
        if self._members > self._limits.max_members:
            self._refuse_bomb(f"more than {self._limits.max_members:,} members")

    def count_bytes(self, number: int) -> None:
        """Count bytes that came out of the archive against the limits, before anything is done with them."""
        self._bytes += number
        if self._bytes > self._limits.max_total_bytes:
            self._refuse_bomb(f"more than {self._limits.max_total_bytes:,} bytes of content")
        if self._bytes > self._most_bytes:
            self._refuse_bomb(f"unpacks to more than {self._limits.max_ratio:g} times its size")

    def leave_out(self, name: str, kind: str) -> None:
        """Note a member that is neither file nor folder; its name is checked all the same."""
        self._parts(name, name)
        self.report.special += 1
        if len(self.report.special_names) < _SKIPPED_NAMES_KEPT:
            self.report.special_names.append(f"{name[:200]} ({kind})")

    def note_guess(self, name: str) -> None:
        """Note a name that may have been read in the wrong encoding."""
        self.report.guessed += 1
        if len(self.report.guessed_names) < _SKIPPED_NAMES_KEPT:
            self.report.guessed_names.append(name[:200])

    def add_folder(self, name: str) -> None:
        """Make a folder, and those above it."""
        if self._folder(name if name.endswith("/") or not name else name + "/", name) is None:
            self.report.hidden += 1

    def add_file(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a new file from its pieces."""
        cut = name.rfind("/") + 1
        last = name[cut:]
        folder = self._folder(name[:cut], name)
        if last in ("", "."):
            self.refuse(name, "has no file name")
        self._check_part(name, last)
        if folder is None or _is_hidden(last):
            self.report.hidden += 1
            for _ in pieces:  # still counted and checked
                pass
            return
        self._take_name(name, folder, last, None)
        written = 0
        descriptor = os.open(f"{folder.path}{os.sep}{last}", _NEW_FILE, 0o644)
        try:
            for piece in pieces:
                written += len(piece)
                if written > self._limits.max_file_bytes:
                    self.refuse(name, f"has more than {self._limits.max_file_bytes:,} bytes")
                _write_all(descriptor, piece)
        finally:
            os.close(descriptor)
        self.report.files += 1
        self.report.total_bytes += written

    def _refuse_bomb(self, what: str) -> NoReturn:
        raise ArchiveError(what, where=self._archive, remedy=_UNPACK_YOURSELF)

    def _folder(self, path: str, name: str) -> _Folder | None:
        """Return the folder of this path, made where missing; None for a hidden one.

        Args:
            path: As it stands in the archive, with its last slash.
            name: The member that is in it, for the error message.
        """
        if path in self._known:
            return self._known[path]
        parts = self._parts(path, name)
        if any(map(_is_hidden, parts)):
            self._known[path] = None
            return None
        folder = self._made[self._root]
        for part in parts:
            folder = self._subfolder(name, folder, part)
        self._known[path] = folder
        return folder

    def _subfolder(self, name: str, folder: _Folder, part: str) -> _Folder:
        path = f"{folder.path}{os.sep}{part}"
        if path in self._made:
            return self._made[path]
        self._take_name(name, folder, part, part)
        os.mkdir(path, 0o755)
        # Cannot happen in a fresh folder without links; it is the last line of defence.
        if os.path.commonpath([self._root, os.path.realpath(path)]) != self._root:
            self.refuse(name, "leads out of the folder")
        self._made[path] = _Folder(path)
        return self._made[path]

    def _take_name(self, name: str, folder: _Folder, part: str, as_folder: str | None) -> None:
        """Note a new name in a folder, or refuse it where a system that ignores case would mix two up."""
        key = part.lower() if part.isascii() else unicodedata.normalize("NFC", part).casefold()
        if key in folder.taken:
            other = folder.taken[key]
            if as_folder is not None and other is None:
                self.refuse(name, "needs a folder where the archive has a file")
            if as_folder is None and other is not None:
                self.refuse(name, "is a file where the archive has a folder")
            self.refuse(name, "is there twice, or differs from another one only in case")
        folder.taken[key] = as_folder

    def _parts(self, path: str, name: str) -> list[str]:
        """Return the folders and the file of a path, each checked."""
        if path.startswith("/"):
            self.refuse(name, "has an absolute path")
        if len(path.encode("utf-8", "surrogatepass")) > _MAX_PATH_BYTES:
            self.refuse(name, f"has a path of more than {_MAX_PATH_BYTES} bytes")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if len(parts) > self._limits.max_depth:
            self.refuse(name, f"is more than {self._limits.max_depth} folders deep")
        for part in parts:
            self._check_part(name, part)
        return parts

    def _check_part(self, name: str, part: str) -> None:
        """Refuse a file or folder name that is dangerous on any system, or impossible on this one."""
        if part == "..":
            self.refuse(name, "leads out of the folder")
        if "\\" in part:
            self.refuse(name, "has a backslash in its path")
        if _DRIVE.match(part):
            self.refuse(name, "has a drive letter in its path")
        if _CONTROL.search(part):
            self.refuse(name, "has a control character in its path")
        if _RESERVED.fullmatch(part):
            self.refuse(name, "has a name that Windows reserves for a device")
        if _WINDOWS and _NOT_ON_WINDOWS.search(part):
            self.refuse(name, "has a name that Windows does not allow")
        try:
            length = len(part.encode())
        except UnicodeEncodeError:
            self.refuse(name, "has a path that is not Unicode")
        if length > 255:
            self.refuse(name, "has a part of more than 255 bytes in its path")


# O_EXCL: a file is only ever made, never opened, so that nothing can be written through it.
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part.lower() in _NO_DATA


def _write_all(descriptor: int, piece: bytes) -> None:
    """Write a whole piece; the system may take only a part of it at a time."""
    written = os.write(descriptor, piece)
    while written < len(piece):
        written += os.write(descriptor, piece[written:])

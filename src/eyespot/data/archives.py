"""One job: unpack an archive of pictures so that nothing in it can do harm, and nothing half-done is taken for whole.

Before this: a file from `download` or from the user. After this: `sources` reads the folder.

An archive is believed in nothing. Only regular files and folders are made, in a fresh temporary folder without links,
so no path can lead out of it; bytes are counted as they come, whatever the headers say; and the folder gets its real
name in one step at the very end.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import json
import lzma
import os
import re
import secrets
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from eyespot.data.tar_stream import TarReader
from eyespot.errors import ArchiveError, DataError, require_extra
from eyespot.files import describe_disk_error, fsync_folder
from eyespot.locks import file_lock

ARCHIVE_SUFFIXES = (
    ".zip",
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.bz2",
    ".tbz2",
    ".tar.xz",
    ".txz",
    ".tar.zst",
)

_CHUNK = 1 << 20
# The dictionary of an .xz file says how much memory reading takes: `xz -9` needs 65 MB.
_XZ_MEMORY = 1 << 30
# Archives of a few files may well shrink a lot; nobody's disk is filled by this much.
_RATIO_FREE_BYTES = 16 << 20
_SKIPPED_NAMES_KEPT = 100
# Systems take 4096 bytes (Linux) or 1024 (macOS), the folder it is unpacked to included.
_MAX_PATH_BYTES = 800

_MAGICS = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
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


def extract_archive(
    archive: Path,
    target: Path,
    *,
    limits: ExtractLimits = DEFAULT_LIMITS,
    progress: Callable[[int, int], None] | None = None,
    on_wait: Callable[[], None] | None = None,
) -> ExtractReport:
    """Unpack a .zip, .tar, .tar.gz, .tar.bz2, .tar.xz or .tar.zst into a folder that did not exist before.

    The kind is told by the content, not by the name. Where several processes ask for the same folder, one unpacks and
    the others wait for it. An interrupted extraction leaves no target; what it did leave is removed at the next one.
    That holds for a kill at any moment; after a power cut the files' content is as old as the file system makes it.

    Args:
        archive: The file to read; it is never changed.
        target: The folder to make. One that is there and not empty is taken for the finished work.
        limits: What is refused as a bomb.
        progress: Called with (bytes of the archive read, size of the archive) after each megabyte or zip member.
        on_wait: Called where another process unpacks it, and is waited for.

    Raises:
        ArchiveError: The archive is damaged, cut off, encrypted, no archive, or has a hostile member, which is named.
        DataError: The archive cannot be read, the disk is full, or the folder cannot be written.
        MissingExtraError: A .tar.zst on Python before 3.14 without the `zstd` extra.
    """
    kind = _kind_of(archive)
    if _is_finished(target):
        return _old_report(target)
    try:
        with file_lock(target.with_name(target.name + ".lock"), on_wait=on_wait):
            if _is_finished(target):
                return _old_report(target)
            _remove_leftovers(target)
            return _extract_whole(archive, kind, target, limits, progress)
    except OSError as error:
        what, remedy = describe_disk_error(error)
        raise DataError(f"cannot unpack {archive.name}: {what}", where=target, remedy=remedy) from error


def _kind_of(archive: Path) -> str:
    """Return `zip`, `tar`, or how the tar inside is compressed."""
    try:
        with archive.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        reason = "is a folder" if archive.is_dir() else error.strerror
        raise DataError(f"cannot read the archive ({reason})", where=archive, remedy="check the path") from error
    for magic, kind in _MAGICS:
        if start.startswith(magic):
            return kind
    # Archives from before 1988 have no magic number: there the name has to do.
    if start[257:262] == b"ustar" or archive.name.lower().endswith(".tar"):
        return "tar"
    if not start or start.lstrip()[:1] == b"<":
        what = "a web page (HTML or XML) instead of an archive" if start else "an empty file"
        raise ArchiveError(
            what, where=archive, remedy="download the archive again, after logging in where that is asked"
        )
    raise ArchiveError(
        "not an archive that eyespot reads (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz, .tar.zst)",
        where=archive,
        remedy="unpack it yourself and give the folder instead",
    )


def _is_finished(target: Path) -> bool:
    """Return whether the folder is there; an empty one is not, since an archive without files is refused."""
    try:
        with os.scandir(target) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise DataError("a file stands where the folder should be", where=target, remedy="move it away") from None
    except OSError as error:
        what, remedy = describe_disk_error(error)
        raise DataError(f"cannot look into the folder: {what}", where=target, remedy=remedy) from error


def _note_path(target: Path) -> Path:
    """Return where the report is kept, so that what was left out is not forgotten at the second start."""
    return target.with_name(target.name + ".report.json")


def _old_report(target: Path) -> ExtractReport:
    """Return the report of the extraction that made the folder."""
    with suppress(OSError, ValueError, TypeError):
        return ExtractReport(target, extracted=False, **json.loads(_note_path(target).read_bytes()))
    return ExtractReport(target, extracted=False)


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary folders of extractions that were killed; the lock says that none is alive."""
    pattern = re.compile(re.escape(target.name) + r"\.tmp-\d+-[0-9a-f]{8}")
    for entry in list(target.parent.iterdir()):
        if pattern.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)


def _extract_whole(
    archive: Path,
    kind: str,
    target: Path,
    limits: ExtractLimits,
    progress: Callable[[int, int], None] | None,
) -> ExtractReport:
    """Extract into a temporary folder beside the target and rename that; on any error remove it."""
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    temporary.mkdir(mode=0o755)
    try:
        size = archive.stat().st_size

        def on_read(position: int) -> None:
            if progress is not None:
                progress(position, size)

        tree = _Tree(archive, size, temporary, limits, ExtractReport(target))
        if kind == "zip":
            _extract_zip(archive, tree, on_read)
        else:
            _extract_tar(archive, kind, tree, on_read)
        if not tree.report.files:
            raise ArchiveError("the archive has no files", where=archive, remedy="give an archive of pictures")
        note = {key: value for key, value in vars(tree.report).items() if key not in ("target", "extracted")}
        _note_path(target).write_text(json.dumps(note), encoding="utf-8")
        fsync_folder(temporary)
        if target.exists():
            target.rmdir()  # it is empty; Windows does not rename over it
        os.replace(temporary, target)
        fsync_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return tree.report


def _extract_tar(archive: Path, kind: str, tree: _Tree, on_read: Callable[[int], None]) -> None:
    with closing(_decompressed(archive, kind, tree, on_read)) as chunks:
        reader = TarReader(chunks, archive)
        for member in reader.members():
            tree.count_member()
            if member.kind == "file":
                tree.add_file(member.name, reader.content())
            elif member.kind == "folder":
                tree.add_folder(member.name)
            else:
                tree.leave_out(member.name, member.kind)


def _decompressed(
    archive: Path, kind: str, tree: _Tree, on_read: Callable[[int], None]
) -> Generator[bytes, None, None]:
    """Yield the tar inside, at most a megabyte at a time, counted against the limits."""
    with archive.open("rb") as file:
        pieces, error_type = _decompressor(file, kind)
        while True:
            try:
                piece = next(pieces, b"")
            except (OSError, EOFError, zlib.error, lzma.LZMAError, error_type) as error:
                raise ArchiveError(f"damaged or cut off ({error})", where=archive, remedy="get it again") from error
            if not piece:
                return
            tree.count_bytes(len(piece))
            on_read(file.tell())
            yield piece


def _decompressor(file: IO[bytes], kind: str) -> tuple[Iterator[bytes], type[Exception]]:
    """Return the decompressed pieces of a file, and the error that this decompressor has for itself."""
    if kind == "tar":
        return iter(lambda: file.read(_CHUNK), b""), EOFError
    if kind == "gzip":
        stream = gzip.GzipFile(fileobj=file)
        return iter(lambda: stream.read(_CHUNK), b""), EOFError
    if kind == "bzip2":
        return _inflated(file, bz2.BZ2Decompressor), EOFError
    if kind == "xz":
        return _inflated(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)), EOFError
    for name in ("compression.zstd", "backports.zstd"):
        try:
            zstd = importlib.import_module(name)
        except ImportError:
            continue
        return _inflated(file, zstd.ZstdDecompressor), zstd.ZstdError
    require_extra("zstd", "zstandard")
    zstandard = importlib.import_module("zstandard")
    reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False)
    return iter(lambda: reader.read(_CHUNK), b""), zstandard.ZstdError


def _inflated(file: IO[bytes], new_decompressor: Callable[[], Any]) -> Iterator[bytes]:
    """Yield decompressed pieces of at most a megabyte; one stream may follow another, as pbzip2 and xz -T write them.

    LZMAFile and BZ2File are not used because they take neither a memory limit nor an error in a second stream.
    """
    decompressor = new_decompressor()
    while True:
        if decompressor.eof:
            # Zeros between .xz streams are padding.
            data = decompressor.unused_data.lstrip(b"\0")
            while not data:
                data = file.read(_CHUNK)
                if not data:
                    return
                data = data.lstrip(b"\0")
            decompressor = new_decompressor()
        elif decompressor.needs_input:
            data = file.read(_CHUNK)
            if not data:
                raise EOFError("the compressed data end too early")
        else:
            data = b""
        piece = decompressor.decompress(data, _CHUNK)
        if piece:
            yield piece


_ZIP_UTF8 = 0x800
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,  # with UnicodeDecodeError
    OverflowError,
    NotImplementedError,
    RuntimeError,
)


def _extract_zip(archive: Path, tree: _Tree, on_read: Callable[[int], None]) -> None:
    try:
        book = zipfile.ZipFile(archive)
    except _ZIP_ERRORS as error:
        raise ArchiveError(f"damaged or cut off ({error})", where=archive, remedy="get it again") from error
    with book:
        read = 0
        for info in book.infolist():
            tree.count_member()
            name = _zip_name(info, tree)
            type_bits = stat.S_IFMT(info.external_attr >> 16)
            if type_bits == stat.S_IFLNK:
                tree.leave_out(name, "symbolic link")
            elif type_bits not in (0, stat.S_IFREG, stat.S_IFDIR):
                tree.leave_out(name, "device, FIFO or socket")
            elif name.endswith("/"):
                if info.file_size:
                    tree.refuse(name, "is a folder with content")
                tree.add_folder(name)
            elif info.flag_bits & 0x1:
                tree.refuse(name, "is encrypted", "unpack it yourself with its password and give the folder instead")
            else:
                with closing(_zip_content(book, info, tree)) as pieces:
                    tree.add_file(name, pieces)
            read += info.compress_size
            on_read(min(read, tree.archive_bytes))


def _zip_name(info: zipfile.ZipInfo, tree: _Tree) -> str:
    """Return a member's name; one that may be wrong is noted.

    Without the flag for UTF-8 a name is CP437 by the standard, and that is how zipfile reads it. But macOS and many
    scripts write UTF-8 without the flag, and old Windows whatever its language had.
    """
    # zipfile cuts a name at NUL, and on Windows turns backslashes: the unsafe original is what counts.
    name = info.orig_filename if re.search(r"[\\\0]", info.orig_filename) else info.filename
    # Another name than the original comes from the extra field for Unicode, which Python reads from 3.12 on.
    if name.isascii() or info.flag_bits & _ZIP_UTF8 or name != info.orig_filename:
        return name
    try:
        return name.encode("cp437").decode()
    except UnicodeDecodeError:
        tree.note_guess(name)
        return name


def _zip_content(book: zipfile.ZipFile, info: zipfile.ZipInfo, tree: _Tree) -> Generator[bytes, None, None]:
    """Yield one member's bytes; its CRC and length are checked at the end."""
    # For these two zipfile honours how much is asked for; the others may answer a small read with a huge piece.
    size = _CHUNK if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else 4096
    total = 0
    try:
        with book.open(info) as stream:
            while piece := stream.read(size):
                total += len(piece)
                tree.count_bytes(len(piece))
                yield piece
    except _ZIP_ERRORS as error:
        tree.refuse(info.filename, f"is damaged or cannot be read ({error})", "get the archive again")
    if total != info.file_size:
        tree.refuse(info.filename, f"has {total} bytes, not the {info.file_size} it declares", "get the archive again")


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


class _Tree:
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

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
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any

from eyespot.data.safe_tree import DEFAULT_LIMITS, ExtractLimits, ExtractReport, SafeTree
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
_INPUT = 1 << 16  # what is left of it is moved for every stream in it
# The dictionary of an .xz file says how much memory reading takes: `xz -9` needs 65 MB.
_XZ_MEMORY = 1 << 30
_MAGICS = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


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
    That holds for a kill and a power cut at any moment; on Windows, after a power cut, the files' content is as old as
    the file system makes it.

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

        tree = SafeTree(archive, size, temporary, limits, ExtractReport(target))
        if kind == "zip":
            _extract_zip(archive, tree, on_read)
        else:
            _extract_tar(archive, kind, tree, on_read)
        if not tree.report.files:
            raise ArchiveError("the archive has no files", where=archive, remedy="give an archive of pictures")
        note = {key: value for key, value in vars(tree.report).items() if key not in ("target", "extracted")}
        _note_path(target).write_text(json.dumps(note), encoding="utf-8")
        if hasattr(os, "sync"):
            os.sync()  # at once: an fsync of each of 60,000 files would take minutes
        fsync_folder(temporary)
        if target.exists():
            target.rmdir()  # it is empty; Windows does not rename over it
        os.replace(temporary, target)
        fsync_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return tree.report


def _extract_tar(archive: Path, kind: str, tree: SafeTree, on_read: Callable[[int], None]) -> None:
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
    archive: Path, kind: str, tree: SafeTree, on_read: Callable[[int], None]
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
                data = file.read(_INPUT)
                if not data:
                    return
                data = data.lstrip(b"\0")
            decompressor = new_decompressor()
        elif decompressor.needs_input:
            data = file.read(_INPUT)
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


def _extract_zip(archive: Path, tree: SafeTree, on_read: Callable[[int], None]) -> None:
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


def _zip_name(info: zipfile.ZipInfo, tree: SafeTree) -> str:
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


def _zip_content(book: zipfile.ZipFile, info: zipfile.ZipInfo, tree: SafeTree) -> Generator[bytes, None, None]:
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

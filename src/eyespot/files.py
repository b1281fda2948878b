"""Writing files so that a kill at any moment leaves either the old content or the new, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from pathlib import Path
from typing import Any

from eyespot.caches import user_path
from eyespot.errors import RunError, UsageError
from eyespot.locks import temporary_file

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}  # Windows has no EDQUOT
DISK_FULL = "the disk is full"
PAGE_ENDINGS = (".html", ".htm")
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
# What a process may have, and no disk is to blame for.
LIMITS = {
    errno.ENOMEM: "close other programs",
    errno.EAGAIN: "end other programs, or raise the limits on processes and memory (ulimit -u, -v)",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


def checked_folder(path: str | os.PathLike[str]) -> Path:
    """Return the path of a folder to write into.

    Raises:
        UsageError: The text is empty: `Path("")` would be the current folder.
    """
    if path == "":
        raise UsageError("out is empty", remedy="name a folder, or leave it out")
    return user_path(path)


def checked_page(path: str | os.PathLike[str]) -> Path:
    """Return the path of a page to be written, refused before anything is computed where none can be.

    Raises:
        UsageError: Another ending than .html (`--gallery cat.jpg dog.jpg` would cost a picture), a folder or something
            else that is no file is there, or its folder is not.
        RunError: Its folder is read-only.
    """
    page = user_path(path).resolve()
    if page.is_dir():
        raise UsageError(f"{str(path)!r} is a folder, not a page", remedy="name a file in it that ends in .html")
    if page.suffix.lower() not in PAGE_ENDINGS:
        remedy = f"such as {page.with_suffix('.html').name}" if page.name else ""
        raise UsageError(f"a page needs a name that ends in .html, not {page.name!r}", remedy=remedy)
    if os.path.lexists(page) and not page.is_file():
        raise UsageError(f"{str(path)!r} is there already and is no file", remedy="name another")
    if not page.parent.is_dir():
        raise UsageError(f"there is no folder for the page {str(path)!r}", remedy="make it, or name another")
    refuse_read_only(page)
    return page


def refuse_read_only(path: Path) -> None:
    """Refuse a file that is to be written at the end of long work, before it begins.

    Raises:
        RunError: Nothing can be written in its folder.
    """
    if not os.access(path.parent, os.W_OK):
        raise RunError("no right to write in its folder", where=path, remedy="name another folder")


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file's content in one step: temporary file, fsync, rename, fsync of the folder.

    No temporary file is left, whatever ends it; what SIGKILL left is removed when the file is written again.

    Raises:
        RunError: The disk is full, or the folder is read-only or gone.
    """
    try:
        with temporary_file(path) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":
                file.close()  # Windows renames no open file
            _replace(file.name, path)
        fsync_folder(path.parent)
    except OSError as error:
        raise _run_error(error, path) from error


def _replace(name: str, path: Path) -> None:
    """Rename a file over another one, for which Windows has to wait until nobody reads that."""
    for wait in (0.05, 0.1, 0.2, 0.4, 0.8):
        try:
            os.replace(name, path)
        except PermissionError:
            if os.name != "nt":
                raise
            time.sleep(wait)
        else:
            return
    os.replace(name, path)


def write_json(path: Path, value: Any) -> None:
    """Replace a file's content with a JSON document; NaN and infinity are refused."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    # A file name may hold bytes that are no UTF-8: their escapes are valid JSON, and are read back as they were.
    write_atomic(path, f"{text}\n".encode("utf-8", "backslashreplace"))


def append_line(path: Path, line: str, *, durable: bool = False) -> None:
    """Append one line with a single write, so that a kill leaves no half line behind another one.

    A half line that a power cut left at the end is closed first: it stays one that nobody can read, and this one whole.

    Args:
        path: The file.
        line: Without its end.
        durable: Return only when a power cut cannot take it any more.

    Raises:
        RunError: The disk is full, or the folder is read-only or gone.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            data = (line + "\n").encode("utf-8", "backslashreplace")
            size = os.fstat(descriptor).st_size
            os.lseek(descriptor, max(size - 1, 0), os.SEEK_SET)
            if size and os.read(descriptor, 1) != b"\n":
                data = b"\n" + data
            if os.write(descriptor, data) != len(data):
                os.ftruncate(descriptor, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _run_error(error, path) from error


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can do that.

    Args:
        folder: The folder in which something was just renamed.
    """
    if os.name == "nt":  # pragma: no cover  # Windows cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # pragma: no cover  # some network file systems refuse; the rename itself has succeeded
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left behind in a folder that the caller has locked."""
    for leftover in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def _run_error(error: OSError, path: Path) -> RunError:
    reason, remedy = describe_disk_error(error)
    if _is_of_unfinished_run(path):
        remedy += "; a training goes on with --resume"
    return RunError(f"cannot write ({reason})", where=path, remedy=remedy)


def _is_of_unfinished_run(path: Path) -> bool:
    """Return whether a file belongs to a run that is on its way, and not to a page or grid that somebody asked for."""
    for folder in (path.parent, path.parent.parent):
        # A config.toml alone may be any program's.
        if os.path.isfile(folder / "config.toml") and os.path.isdir(folder / "checkpoints"):
            try:
                known = (folder / "provenance.json").read_bytes()
            except OSError:
                return False  # it does not say its data yet, or is one of the networks of `check --labels`
            return b'"data"' in known and b'"finished"' not in known
    return False


def remedy_for_unreadable(error: Exception, otherwise: str) -> str:
    """Return the next step after a file could not be read: one that is there, and whole, need not be made again.

    Args:
        error: What opening, reading or parsing raised.
        otherwise: The next step where the file is gone, or holds something else.
    """
    hindered = isinstance(error, OSError) and error.errno in _FORBIDDEN | {errno.EIO}
    return "check its permissions and the disk" if hindered else otherwise


def describe_disk_error(error: OSError) -> tuple[str, str]:
    """Return what went wrong with a disk, or what the process lacked, and the next step, as two phrases.

    Args:
        error: What opening, writing or renaming raised.
    """
    if error.errno in _FULL:
        return DISK_FULL, "free some space, or name a folder on a larger disk"
    if error.errno in _FORBIDDEN:
        return f"no right to write ({error.strerror})", "change its permissions, or name another folder"
    return error.strerror or str(error), LIMITS.get(error.errno or 0, "check the path and the disk")

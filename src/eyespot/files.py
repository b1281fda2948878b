"""Writing files so that a kill at any moment leaves either the old content or the new, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from pathlib import Path
from typing import Any

from eyespot.errors import RunError


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file's content in one step: temporary file, fsync, rename, fsync of the folder.

    Raises:
        RunError: The disk is full, or the folder is read-only or gone; no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunError(f"cannot write ({_reason(error)})", where=path, remedy=_remedy(error)) from error


def write_json(path: Path, value: Any) -> None:
    """Replace a file's content with a JSON document; NaN and infinity are refused."""
    write_atomic(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def append_line(path: Path, line: str) -> None:
    """Append one line with a single write, so that a kill leaves no half line behind another one.

    Raises:
        RunError: The disk is full, or the folder is read-only or gone.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            data = (line + "\n").encode("utf-8", "backslashreplace")
            written = os.write(descriptor, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, "only a part of the line was written")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RunError(f"cannot write ({_reason(error)})", where=path, remedy=_remedy(error)) from error


def fsync_folder(folder: Path) -> None:
    """Make a rename in the folder durable; systems that cannot sync a folder (Windows) need no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left behind in a folder that the caller has locked."""
    for leftover in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _remedy(error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return "free some space, then go on with --resume"
    if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return "choose a folder that can be written with --out"
    return "check the folder, then go on with --resume"

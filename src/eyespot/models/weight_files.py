"""One job: say what is wrong with a file that is to hold weights, by its name, its size and its first bytes.

Before this: `weights` has found the file. After this: it is read, a pickle by `pickle_process`.
"""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

MAX_BYTES = 10_000_000_000
"""Files larger than this are refused: the largest networks of timm have a sixth of it."""
_PICKLES = (".pt", ".pth", ".bin", ".pth.tar")
_MAX_HEADER_BYTES = 25_000_000  # as huggingface_hub has it; a network of a thousand tensors spends 100 kB


class FileError(Exception):
    """What is wrong with a file; the caller knows where it came from, and what else can be done."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.remedy = remedy


def check_file(path: Path) -> None:
    """Refuse what is no file of weights by its name, its kind or its size, without opening it."""
    name = path.name.lower()
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise FileError(
            f"cannot read ({reason})", "name a file that exists, or --set model.weights=auto, package or hub"
        ) from error
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise FileError("a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file", "name a file")
    if not name.endswith((".safetensors", *_PICKLES)):
        raise FileError(
            f"unknown kind of file {path.suffix!r}, allowed are .safetensors, {', '.join(_PICKLES)}",
            "rename the file, or give another one",
        )
    if status.st_size == 0:
        raise FileError("an empty file")
    if status.st_size > MAX_BYTES:
        raise FileError(f"{status.st_size:,} bytes, more than the {MAX_BYTES:,} allowed")


def check_header(path: Path) -> None:
    """Refuse a file by its first bytes: the library would call a web page's header too large."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(64)
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or length > _MAX_HEADER_BYTES:
        raise FileError(described(head) or "not a safetensors file")
    if length > size - 8:
        raise FileError("cut off, or damaged (its header does not fit into it)")


def described(head: bytes) -> str:
    """Return what a file's first bytes say it is, where they are text, or nothing."""
    start = head.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS: the weights themselves were not fetched"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page and no weights"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "a text file and no weights"
    return ""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()

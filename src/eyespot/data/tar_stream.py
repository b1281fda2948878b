"""One job: the members of a tar archive, in order, out of a stream of decompressed bytes.

Before this: `archives` decompresses. After this: `archives` checks the names and writes the files.

Why not the standard library's tarfile: it takes a damaged header for the end of the archive and one that was cut off
between two members for whole, so that pictures are missing without a word; it reads extended headers of any declared
size into memory; it keeps every member it has seen; and on 60,000 small files it takes twice as long as tar.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from eyespot.errors import ArchiveError

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
# A name and its attributes are far below this; a header that declares more is there to fill the memory.
_MAX_HEADER_BYTES = 1 << 20

_FILE_TYPES = (b"0", b"\0", b"7")
# GNU tar writes no content behind these, whatever their size field says.
_TYPES_WITHOUT_CONTENT = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"5": "folder",
    b"6": "FIFO",
}


@dataclass
class TarMember:
    """What one header says.

    Attributes:
        name: The path as it stands in the archive, not checked for anything.
        kind: `file`, `folder`, or what else it is, in words.
        content_bytes: Length of its content in the archive, in bytes.
    """

    name: str
    kind: str
    content_bytes: int


class TarReader:
    """Members of a tar stream, each with its content, read exactly once from front to back.

    Args:
        chunks: The decompressed archive, in pieces of any length but 0.
        archive: The file it comes from, for the error messages.
    """

    def __init__(self, chunks: Iterator[bytes], archive: Path) -> None:
        self._chunks = chunks
        self._archive = archive
        self._chunk = b""
        self._at = 0  # position in _chunk
        self._left = 0  # bytes of the present member's content that nobody has read yet
        self._last_name = ""

    def members(self) -> Iterator[TarMember]:
        """Yield every member; `content` then gives the content of the one yielded last.

        Raises:
            ArchiveError: A header is damaged, the archive is cut off, or something follows its end.
        """
        path: str | None = None
        size: int | None = None
        block = self._take(_BLOCK)
        while block != _ZEROS:
            member, type_ = self._header(block)
            if type_ in (b"L", b"K", b"x", b"X", b"g"):
                payload = self._extended(member.content_bytes)
                if type_ == b"L":
                    path = self._text(payload.split(b"\0", 1)[0])
                elif type_ in (b"x", b"X"):
                    path, size = self._pax(payload, path)
            else:
                member.name = member.name if path is None else path
                if size is not None and type_ not in _TYPES_WITHOUT_CONTENT:
                    member.content_bytes = size  # the header's own field holds at most 8 GB
                path = size = None
                if member.kind == "file" and member.name.endswith("/"):  # how archives before 1988 spell a folder
                    if member.content_bytes:
                        self._fail(f"folder {member.name[:200]!r} has content")
                    member.kind = "folder"
                self._last_name = member.name
                self._left = member.content_bytes
                padding = -self._left % _BLOCK
                yield member
                for _ in self.content():
                    pass
                self._take(padding)
            block = self._take(_BLOCK)
        if path is not None or size is not None:
            self._fail("damaged: a long name without its member")
        self._expect_only_zeros()

    def content(self) -> Iterator[bytes]:
        """Yield what is left of the present member's content, in pieces.

        Raises:
            ArchiveError: The archive is cut off.
        """
        while self._left:
            if self._at == len(self._chunk):
                self._refill()
            piece = self._chunk[self._at : self._at + self._left]
            self._at += len(piece)
            self._left -= len(piece)
            yield piece

    def _fail(self, what: str) -> NoReturn:
        raise ArchiveError(what, where=self._archive, remedy="get the archive again")

    def _place(self) -> str:
        return f"after {self._last_name[:200]!r}" if self._last_name else "at its start"

    def _refill(self) -> None:
        """Replace the used-up chunk by the next one."""
        self._chunk, self._at = next(self._chunks, b""), 0
        if not self._chunk:
            self._fail(f"cut off, or not a tar archive: ends {self._place()}")

    def _take(self, size: int) -> bytes:
        """Return exactly the next `size` bytes."""
        end = self._at + size
        if end <= len(self._chunk):
            piece = self._chunk[self._at : end]
            self._at = end
            return piece
        parts = []
        while size:
            if self._at == len(self._chunk):
                self._refill()
            parts.append(self._chunk[self._at : self._at + size])
            self._at += len(parts[-1])
            size -= len(parts[-1])
        return b"".join(parts)

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise ArchiveError(
                f"member name {raw[:200]!r} is not UTF-8",
                where=self._archive,
                remedy="unpack it yourself and give the folder instead",
            ) from None

    def _number(self, field: bytes) -> int:
        if field[0] & 0x80:  # base 256, as GNU tar writes sizes from 8 GB on; the next bit is the sign
            number = int.from_bytes(field, "big") - (1 << (8 * len(field) - 1))
            if field[0] & 0x40:
                self._fail(f"damaged: negative number in the header {self._place()}")
            return number
        digits = field.split(b"\0", 1)[0].strip() or b"0"
        if not digits.isdigit() or b"8" in digits or b"9" in digits:
            self._fail(f"damaged, or not a tar archive: header {self._place()}")
        return int(digits, 8)

    def _header(self, block: bytes) -> tuple[TarMember, bytes]:
        """Return what a header block says, and its type letter."""
        # The sum counts its own field as eight spaces.
        rest = block[:148] + block[156:]
        stated = self._number(block[148:156])
        unsigned = sum(rest) + 8 * 32
        # Some old writers summed signed bytes.
        if stated != unsigned and stated != unsigned - 256 * sum(byte > 127 for byte in rest):
            self._fail(f"damaged, or not a tar archive: header {self._place()}")
        type_ = block[156:157]
        raw = block[:100].split(b"\0", 1)[0]
        if block[257:263] == b"ustar\0" and block[345]:
            raw = block[345:500].split(b"\0", 1)[0] + b"/" + raw
        name = self._text(raw)
        if type_ in (b"S", b"M"):
            self._fail(f"sparse or split member {name[:200]!r}, which eyespot does not read")
        if type_ in _FILE_TYPES:
            return TarMember(name, "file", self._number(block[124:136])), type_
        if type_ in _TYPES_WITHOUT_CONTENT:
            return TarMember(name, _TYPES_WITHOUT_CONTENT[type_], 0), type_
        return TarMember(name, f"member of type {type_.decode('latin-1')!r}", self._number(block[124:136])), type_

    def _extended(self, size: int) -> bytes:
        """Return the content of a header that describes the next member."""
        if size > _MAX_HEADER_BYTES:
            self._fail(f"an extended header of {size} bytes {self._place()}")
        payload = self._take(size)
        self._take(-size % _BLOCK)
        return payload

    def _pax(self, payload: bytes, path: str | None) -> tuple[str | None, int | None]:
        """Return path and size from `LENGTH KEY=VALUE` records, each None where not given."""
        size = None
        at = 0
        while at < len(payload):
            digits = payload[at : at + 12].split(b" ", 1)[0]
            end = at + int(digits) if digits.isdigit() else 0
            if not at + len(digits) < end <= len(payload) or payload[end - 1 : end] != b"\n":
                self._fail(f"damaged: extended header {self._place()}")
            key, _, value = payload[at + len(digits) + 1 : end - 1].partition(b"=")
            at = end
            if key == b"path":
                path = self._text(value)
            elif key == b"size":
                if not value.isdigit() or len(value) > 20:
                    self._fail(f"damaged: extended header {self._place()}")
                size = int(value)
            elif key.startswith(b"GNU.sparse."):
                self._fail(f"sparse member {self._place()}, which eyespot does not read")
        return path, size

    def _expect_only_zeros(self) -> None:
        """Read on to the end of the stream, which also makes the decompressor check its sums."""
        rest = self._chunk[self._at :]
        while True:
            if rest.count(0) != len(rest):
                self._fail(f"something follows the end of the archive, {self._place()}")
            following = next(self._chunks, None)
            if following is None:
                return
            rest = following

"""What a picture file may cost: the limits, and the looks at a file that end it before a decoder is kept busy.

Before this: bytes that somebody handed in. After this: `decoding` opens them.
"""

from __future__ import annotations

import io
import re
import time
from typing import Literal

from eyespot.errors import CostlyImageError

MAX_PIXELS = 89_478_485
"""Largest width times height, Pillow's own limit."""

MAX_FILE_BYTES = 512 * 1024**2
"""Largest file that is read: more than 89 Mpx of uncompressed RGB need."""

# Guards against small files that keep a decoder busy for minutes. Each is far over what real pictures have.
MAX_SECONDS = 5.0  # processor time of this thread, looked at whenever the decoder asks for more bytes
MAX_JPEG_SCANS = 100  # a progressive JPEG has about ten; every further scan walks over the whole picture again
MAX_JPEG_WORK = 2_500_000_000  # scans times pixels: 28 scans of the largest picture
MAX_JPEG2000_BYTES = 32 * 1024**2  # 8 MB/s were measured, and the decoder is one call that nothing can stop
MAX_TIFF_TILES = 500_000  # Pillow makes a Python object of each before the first read

TOO_LARGE = f"is over {MAX_PIXELS // 10**6} Mpx"
TOO_LONG = f"is larger than {MAX_FILE_BYTES // 1024**2} MB"
TOO_SLOW = f"takes more than {MAX_SECONDS:.0f} s to decode"

TIFF_MAGIC = {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}
_TIFF_OFFSET_TAGS = {273, 324}  # StripOffsets, TileOffsets
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class TimedReader(io.BytesIO):
    """Bytes that stop answering after MAX_SECONDS of this thread's processor time.

    Pillow's parsers are loops around `read`: this ends those that a hostile file keeps turning. Processor time, not
    wall time, so that a busy machine does not make a picture bad.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._ends_at = time.thread_time() + MAX_SECONDS
        self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes, or raise TimeoutError."""
        self._reads += 1
        # Asking for the time costs as much as five small reads, and a 32 px JPEG has forty of them.
        if (self._reads % 32 == 0 or size is None or not 0 <= size < 4096) and time.thread_time() > self._ends_at:
            raise TimeoutError(TOO_SLOW)
        return super().read(size)


def count_jpeg_scans(data: bytes) -> int:
    """Return the number of scans of the first picture in the file."""
    scans, position = 0, 2
    while marker := _JPEG_MARKER.search(data, position):
        kind = data[marker.start() + 1]
        if kind == 0xD9:  # end of image; behind it may be a thumbnail or a film with bytes of any kind
            break
        scans += kind == 0xDA
        # Every segment says its length in two bytes; the entropy-coded data behind a scan's holds no bare markers.
        position = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2], "big"))
    return scans


def refuse_tiff_tiles(data: bytes) -> None:
    """Refuse a TIFF of so many strips or tiles that listing them takes longer than any picture.

    Raises:
        CostlyImageError: With the reason.
    """
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    big = data[2:4] in {b"+\0", b"\0+"}
    word, count_size, entry_size = (8, 8, 20) if big else (4, 2, 12)

    def number(position: int, size: int) -> int:
        return int.from_bytes(data[position : position + size], order)

    directory = number(8 if big else 4, word)
    first = directory + count_size
    for entry in range(first, first + min(number(directory, count_size), 4096) * entry_size, entry_size):
        if number(entry, 2) in _TIFF_OFFSET_TAGS and number(entry + 4, word) > MAX_TIFF_TILES:
            raise CostlyImageError(f"{TOO_SLOW} (a TIFF of {number(entry + 4, word):,} strips or tiles)")

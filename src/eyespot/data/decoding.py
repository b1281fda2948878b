"""One picture file in, uint8 pixels out: the only place where pictures are decoded.

Before this: `sources` found the files. After this: `packing` keeps the pixels of a whole data set, the streaming loader
asks for them picture by picture, and prediction decodes what a user hands in: the same pixels for the same file.

What becomes of what:

| in the file | becomes |
|---|---|
| EXIF orientation 1-8 | applied, so that the picture stands upright; a broken EXIF block counts as upright |
| 1 bit (`1`) | 0 and 255 |
| grey, RGB (`L`, `RGB`, `RGBX`) | as they are |
| palette (`P`, `PA`) | the colours of the palette |
| alpha, or one transparent colour | composited over white: round((colour * alpha + 255 * (255 - alpha)) / 255) |
| premultiplied alpha (`La`, `RGBa`) | divided by alpha, then as above |
| 16-bit grey (`I;16`, either byte order) | round(value / 257), so that 65535 becomes 255 |
| 32-bit grey (`I`; Pillow's mode for 16-bit PGM and some TIFF) | clipped to 0..65535, then as 16-bit grey |
| float grey (`F`) | 0..1 becomes 0..255 where no finite value is over 1, else clipped to 0..255; rounded; NaN is 0 |
| 16 bits per colour channel | the high byte (Pillow's rule) |
| CMYK, YCCK, YCbCr, HSV, LAB | RGB by Pillow's formulas; the inversion of Adobe's CMYK is undone |
| several frames or pages | the first (for animated PNG: its default image) |
| ICC profile | ignored: the numbers are taken for sRGB |
| asked for 3 channels, picture is grey | the grey three times |
| asked for 1 channel, picture is RGB | ITU-R 601 luma, (19595 R + 38470 G + 7471 B + 32768) >> 16 |

JPEG files are always decoded at full size. Pillow's `draft` mode, which decodes photographs at 1/2 to 1/8 of their
size, is faster, but its pixels differ and the content hash is over the full size.

What this cannot see: damage inside of JPEG data that the library smooths over (it warns and goes on), since Pillow does
not pass those warnings on.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import re
import stat
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
    features,
)

from eyespot.arrays import Float32Array, UInt8Array
from eyespot.data.resizing import Channels
from eyespot.errors import BadImageError, CostlyImageError

PictureSource: TypeAlias = "Path | str | bytes | BinaryIO | Image.Image"

# Everything else that Pillow opens stays shut: EPS starts Ghostscript; PSD, FITS, ICO, WMF and the like are no
# photographs. The plugins are imported above because Image.open would otherwise import all forty of them at the first
# unknown file.
_PLUGINS = (
    JpegImagePlugin.JpegImageFile,
    MpoImagePlugin.MpoImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    GifImagePlugin.GifImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
    PpmImagePlugin.PpmImageFile,
    Jpeg2KImagePlugin.Jpeg2KImageFile,
    AvifImagePlugin.AvifImageFile,
)
PICTURE_FORMATS: tuple[str, ...] = tuple(plugin.format for plugin in _PLUGINS)
"""Pillow's names of the formats that are read, whatever the file is called."""

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

_TOO_LARGE = f"is over {MAX_PIXELS // 10**6} Mpx"
_TOO_LONG = f"is larger than {MAX_FILE_BYTES // 1024**2} MB"
_TOO_SLOW = f"takes more than {MAX_SECONDS:.0f} s to decode"

_PROBE_BYTES = 256 * 1024  # holds the header of nearly every photograph, with its EXIF and colour profile
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112
# round(value / 257) in integers; a table is ten times faster than dividing 89 million pixels.
_GREY16_TO_8 = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)


class Decoded(NamedTuple):
    """One decoded picture.

    Attributes:
        pixels: uint8 (H, W, C), C 1 where the picture is grey and 3 elsewhere.
        mode: Pillow's mode of the file, such as `RGB`, `CMYK` or `I;16`.
    """

    pixels: UInt8Array
    mode: str


class Header(NamedTuple):
    """What the first bytes of a picture say about it, nothing decoded; the size is the one before EXIF orientation."""

    width_px: int
    height_px: int
    mode: str

    @property
    def is_grey(self) -> bool:
        """Return whether the picture has no colours; a palette counts as colours."""
        return self.mode in {"1", "L", "LA", "La", "I", "F"} or self.mode.startswith("I;16")


def decode_image(source: PictureSource, *, channels: Channels) -> UInt8Array:
    """Return the upright pixels of one picture, by the one conversion that the module's table states.

    Args:
        source: File, the bytes of a file, an open binary file, or a Pillow image (of which the current frame is taken).
        channels: 1 for grey, 3 for RGB.

    Returns:
        uint8 (H, W, C) at the picture's full size.

    Raises:
        BadImageError: It is not a picture that can be decoded; `what` is the reason in words.
    """
    return to_channels(decode_picture(source).pixels, channels)


def decode_picture(source: PictureSource) -> Decoded:
    """Return the upright pixels of one picture with as many channels as it has itself, and its Pillow mode.

    Args:
        source: As for `decode_image`.

    Raises:
        BadImageError: It is not a picture that can be decoded; `what` is the reason in words.
    """
    where = source if isinstance(source, (str, Path)) else None
    if isinstance(source, Image.Image):
        with _quiet_decoders(), _reasons(b"", where):
            return _decode_opened(source)
    data = _read(source, where)
    with _quiet_decoders(), _reasons(data, where), _open(data) as picture:
        return _decode_opened(picture)


def probe_picture(path: Path | str) -> Header:
    """Return a picture's size and mode from its header, without decoding it.

    Raises:
        BadImageError: It is not a picture, or is larger than the limits.
    """
    head = _read_file(path, _PROBE_BYTES)
    try:
        return _probe(head, path)
    except BadImageError:
        if len(head) < _PROBE_BYTES:
            raise
    # TIFF may keep its header at the end, and WebP is only looked at as a whole.
    return _probe(_read_file(path, MAX_FILE_BYTES), path)


def _probe(data: bytes, path: Path | str) -> Header:
    _refuse_length(data, path)
    with _quiet_decoders(), _reasons(data, path), _open(data) as picture:
        return Header(picture.width, picture.height, picture.mode)


def to_channels(pixels: UInt8Array, channels: Channels) -> UInt8Array:
    """Return the picture with 1 or 3 channels; unchanged where it has that many.

    Args:
        pixels: uint8 (H, W, 1) or (H, W, 3).
        channels: 1 takes the ITU-R 601 luma, 3 repeats the grey.

    Returns:
        uint8 (H, W, channels).
    """
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


def content_hash(pixels: UInt8Array) -> bytes:
    """Return 16 bytes that are equal for pictures of equal size and equal colours, grey or RGB.

    Args:
        pixels: uint8 (H, W, C), C 1 or 3; grey is hashed as the RGB picture that it equals.

    Source:
        BLAKE2b (RFC 7693) over height and width (uint32, little endian) and the RGB bytes.
    """
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(height.to_bytes(4, "little") + width.to_bytes(4, "little"), digest_size=16)
    digest.update(np.ascontiguousarray(to_channels(pixels, 3)).data)
    return digest.digest()


# ---------------------------------------------------------------------------------------------------- reading bytes


def _read(source: Path | str | bytes | BinaryIO, where: object) -> bytes:
    """Return the bytes of the file; refuse what is not a regular file before it is opened."""
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, (str, Path)):
        data = _read_file(source, MAX_FILE_BYTES)
    else:
        data = source.read(MAX_FILE_BYTES + 1)
    _refuse_length(data, where)
    return data


def _refuse_length(data: bytes, where: object) -> None:
    if not data:
        raise BadImageError("is empty (0 bytes)", where=where)
    if len(data) > MAX_FILE_BYTES:
        raise CostlyImageError(_TOO_LONG, where=where)


def _read_file(path: Path | str, most_bytes: int) -> bytes:
    try:
        # Opening a device can act on it (a tape rewinds) and opening a pipe can wait forever: look first. The pipe that
        # takes the file's place in between is met by O_NONBLOCK and the second look.
        _require_regular(os.stat(path), path)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        with open(os.open(path, flags), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            _require_regular(status, path)
            if status.st_size > MAX_FILE_BYTES:
                raise CostlyImageError(_TOO_LONG, where=path)
            return file.read(min(most_bytes, status.st_size))
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise BadImageError(_reason_unreadable(error), where=path) from error


def _require_regular(status: os.stat_result, path: object) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        names = {
            stat.S_IFDIR: "is a folder, not a file",
            stat.S_IFIFO: "is a pipe (FIFO), not a file",
            stat.S_IFSOCK: "is a socket, not a file",
            stat.S_IFCHR: "is a device, not a file",
            stat.S_IFBLK: "is a device, not a file",
        }
        raise BadImageError(names.get(kind, "is not a regular file"), where=path)


def _reason_unreadable(error: OSError | ValueError) -> str:
    number = getattr(error, "errno", None)
    reasons = {
        errno.ENOENT: "does not exist",
        errno.ENOTDIR: "does not exist",
        errno.ELOOP: "is a loop of links",
        errno.EACCES: "cannot be read (permission denied)",
        errno.EPERM: "cannot be read (permission denied)",
    }
    return reasons.get(number or 0) or f"cannot be read ({getattr(error, 'strerror', None) or error})"


class _TimedReader(io.BytesIO):
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
            raise TimeoutError(_TOO_SLOW)
        return super().read(size)


# ------------------------------------------------------------------------------------------------- opening, decoding


def _open(data: bytes) -> Image.Image:
    """Return the opened picture, its header read and its cost found acceptable, nothing decoded."""
    if data[:4] in _TIFF_MAGIC:
        if data.startswith(_CR2_MAGIC, 8):
            raise BadImageError(_UNREAD.format(_RAW))
        _refuse_tiff_tiles(data)
    picture = Image.open(_TimedReader(data), formats=[name for name in PICTURE_FORMATS if name in Image.OPEN])
    if isinstance(picture, TiffImagePlugin.TiffImageFile) and _is_raw(picture.tag_v2):
        raise BadImageError(_UNREAD.format(_RAW))
    _refuse_size(picture)
    if picture.format in {"JPEG", "MPO"} and "progressive" in picture.info:
        scans = _count_jpeg_scans(data)
        if scans > MAX_JPEG_SCANS or scans * picture.width * picture.height > MAX_JPEG_WORK:
            raise CostlyImageError(f"{_TOO_SLOW} (a JPEG of {scans} scans)")
    if picture.format == "JPEG2000" and len(data) > MAX_JPEG2000_BYTES:
        raise CostlyImageError(f"{_TOO_SLOW} (JPEG 2000 of more than {MAX_JPEG2000_BYTES // 1024**2} MB)")
    return picture


def _is_raw(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    """Return whether a TIFF is a camera's raw file, such as DNG, NEF or ARW: its first page is only a preview."""
    kind = tags.get(_NEW_SUBFILE_TYPE)
    return _DNG_VERSION in tags or (_SUB_IFDS in tags and isinstance(kind, int) and bool(kind & 1))


def _refuse_size(picture: Image.Image) -> None:
    width, height = picture.size
    if width <= 0 or height <= 0:
        raise BadImageError(f"has no pixels ({width} x {height})")
    if width * height > MAX_PIXELS:
        raise CostlyImageError(f"{_TOO_LARGE} ({width} x {height} px)")


def _decode_opened(picture: Image.Image) -> Decoded:
    _refuse_size(picture)
    mode = picture.mode
    picture.load()
    _refuse_size(picture)  # some formats learn their size only while they are decoded
    orientation = _orientation(picture)  # after load: PNG may keep its EXIF behind the pixels, TIFF is upright already
    flat = _flatten(picture)
    if orientation in _TRANSPOSES:
        flat = flat.transpose(_TRANSPOSES[orientation])
    pixels = np.asarray(flat)
    return Decoded(pixels if pixels.ndim == 3 else pixels[:, :, None], mode)


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        # The parser meets whatever bytes a camera or an editor left: a damaged block is no reason to lose the picture.
        return 1
    return value if isinstance(value, int) else 1


def _flatten(picture: Image.Image) -> Image.Image:
    """Return the picture in mode L or RGB."""
    mode = picture.mode
    if mode.startswith("I;16"):
        values = np.asarray(picture)
        grey = _GREY16_TO_8[values]
        transparent = picture.info.get("transparency")
        if isinstance(transparent, int):
            grey[values == transparent] = 255
        return Image.fromarray(grey)
    if mode == "I":
        return Image.fromarray(_GREY16_TO_8[np.clip(np.asarray(picture), 0, 65535)])
    if mode == "F":
        return Image.fromarray(_float_to_uint8(np.asarray(picture)))
    if picture.has_transparency_data and not _is_16_bit_colour_key(picture):
        return _over_white(picture)
    if mode in {"L", "RGB"}:
        return picture
    return picture.convert("L" if mode == "1" else "RGB")


def _float_to_uint8(values: Float32Array) -> UInt8Array:
    finite = values[np.isfinite(values)]
    top = 1.0 if finite.size == 0 or finite.max() <= 1.0 else 255.0
    clipped = np.clip(np.nan_to_num(values, nan=0.0, posinf=top, neginf=0.0), 0.0, top)
    pixels: UInt8Array = np.rint(clipped * np.float32(255.0 / top)).astype(np.uint8)
    return pixels


def _is_16_bit_colour_key(picture: Image.Image) -> bool:
    """Return whether the transparent colour has 16 bits: Pillow kept only the pixels' high bytes, so none can match."""
    key = picture.info.get("transparency")
    return picture.mode == "RGB" and isinstance(key, tuple) and max(key) > 255


def _over_white(picture: Image.Image) -> Image.Image:
    grey = picture.mode in {"1", "L", "LA", "La"}
    picture = picture.convert("LA" if grey else "RGBA")
    white = Image.new("L" if grey else "RGB", picture.size, "white")
    # paste blends with rounding to the nearest level; alpha 255 gives the colour and alpha 0 gives white exactly.
    white.paste(picture.convert(white.mode), mask=picture.getchannel("A"))
    return white


# ---------------------------------------------------------------------------------------- what hostile files would cost

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_TIFF_MAGIC = {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}
_CR2_MAGIC = b"CR\x02"
_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL = 258, 277
_NEW_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706
_TIFF_OFFSET_TAGS = {273, 324}  # StripOffsets, TileOffsets


def _count_jpeg_scans(data: bytes) -> int:
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


def _refuse_tiff_tiles(data: bytes) -> None:
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    big = data[2:4] in {b"+\0", b"\0+"}
    word, count_size, entry_size = (8, 8, 20) if big else (4, 2, 12)

    def number(position: int, size: int) -> int:
        return int.from_bytes(data[position : position + size], order)

    directory = number(8 if big else 4, word)
    first = directory + count_size
    for entry in range(first, first + min(number(directory, count_size), 4096) * entry_size, entry_size):
        if number(entry, 2) in _TIFF_OFFSET_TAGS and number(entry + 4, word) > MAX_TIFF_TILES:
            raise CostlyImageError(f"{_TOO_SLOW} (a TIFF of {number(entry + 4, word):,} strips or tiles)")


# ---------------------------------------------------------------------------------------------------- reasons in words


@contextmanager
def _reasons(data: bytes, where: object) -> Iterator[None]:
    """Turn whatever a decoder raises into a BadImageError with the reason in words."""
    try:
        yield
    except BadImageError as error:
        raise type(error)(error.what, where=where) from error.__cause__
    except UnidentifiedImageError as error:
        raise BadImageError(_reason_unidentified(data), where=where) from error
    except Image.DecompressionBombError as error:
        raise CostlyImageError(_TOO_LARGE, where=where) from error
    except MemoryError as error:
        raise BadImageError("needs more memory to decode than there is", where=where) from error
    except Exception as error:
        # The decoders are a dozen libraries. For damaged data they raise OSError, ValueError, SyntaxError, EOFError,
        # struct.error, IndexError, ZeroDivisionError, ..., and the list grows with Pillow.
        kind = CostlyImageError if isinstance(error, TimeoutError) else BadImageError
        raise kind(_reason_undecodable(data, error), where=where) from error


def _reason_undecodable(data: bytes, error: Exception) -> str:
    text = str(error)
    if isinstance(error, TimeoutError):
        return _TOO_SLOW
    if "too large" in text and "Decompressed data" in text:
        return "is a decompression bomb (text that unpacks to more than 1 MB)"
    if "truncated" in text.lower() or _is_cut_off(data):
        return "is truncated"
    # Only the libraries' own sentences help; "invalid literal for int()" and "decoder error -2" do not.
    if isinstance(error, OSError) and text and "decoder error" not in text:
        return f"is damaged ({text.splitlines()[0][:120]})"
    return "is damaged" if data else "is a Pillow image that is closed or damaged"


def _is_cut_off(data: bytes) -> bool:
    """Return whether a file that failed to decode ends too early for its format."""
    tail = data[-64:]
    if data[:3] == b"\xff\xd8\xff":
        return b"\xff\xd9" not in tail
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return b"IEND" not in tail
    if data[:4] == b"GIF8":
        return not data.endswith(b";")
    if data[:4] == b"RIFF":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    if data[:2] == b"BM":
        return len(data) < int.from_bytes(data[2:6], "little")
    if data[:4] in _TIFF_MAGIC:
        order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
        return len(data) < 8 or len(data) < int.from_bytes(data[4:8], order) + 2
    if data[:4] == b"\xff\x4f\xff\x51" or data[4:8] == b"jP  ":
        return not data.endswith(b"\xff\xd9")
    return data[4:8] == b"ftyp" and _boxes_cut_off(data)


def _boxes_cut_off(data: bytes) -> bool:
    """Return whether the last box of an ISO media file (AVIF, HEIC, films) reaches behind the end."""
    position = 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if size < 8:  # to the end of the file, or a 64-bit size that no picture needs
            return len(data) - position < 8
        position += size
    return position > len(data)


# Offset, bytes, what it is. What people find in their picture folders, in the order of the look.
_NOT_PICTURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "a PDF"),
    (0, b"%!PS", "a PostScript file"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"\xfd7zXZ", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (0, b"SQLite format 3", "an SQLite database"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a Windows program"),
    (0, b"\x00\x05\x16\x07", "an AppleDouble file of macOS"),
    (0, b"\x00\x00\x01\x00", "an icon (ICO)"),
    (0, b"Bud1", "a .DS_Store file of macOS"),
    (4, b"Bud1", "a .DS_Store file of macOS"),
    (0, b"\x1a\x45\xdf\xa3", "a film"),
    (8, b"AVI ", "a film"),
    (8, b"WAVE", "a sound"),
    (0, b"ID3", "a sound"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"SIMPLE  =", "a FITS file"),
    (0, b"version https://git-lfs", "a Git LFS pointer (the picture itself was not fetched: git lfs pull)"),
)
_RAW = "raw of a camera"  # those that are a TIFF are recognised by their tags
_UNREAD = "is a picture in the format {}, which is not read here (convert it to JPEG or PNG)"
_UNSUPPORTED: tuple[tuple[int, bytes, str], ...] = (
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")),
    (4, b"ftypavif", "AVIF"),  # reached only where this Pillow was built without AVIF
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"qoif", "QOI"),
    *((0, magic, _RAW) for magic in (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"\0MRM")),
    (4, b"ftypcrx ", _RAW),
)
_PICTURE_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    *((0, magic, "TIFF") for magic in sorted(_TIFF_MAGIC)),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
)


def _reason_unidentified(data: bytes) -> str:
    def match(table: tuple[tuple[int, bytes, str], ...]) -> str | None:
        return next((name for offset, magic, name in table if data.startswith(magic, offset)), None)

    name = "AVIF" if features.check("avif") and data[4:12] in {b"ftypavif", b"ftypavis"} else match(_PICTURE_MAGIC)
    if name:
        if _is_cut_off(data):
            return "is truncated"
        return (name == "TIFF" and _reason_tiff(data)) or f"is damaged (broken {name} header)"
    if name := match(_NOT_PICTURES):
        return f"is {name}, not a picture"
    if name := match(_UNSUPPORTED):
        return _UNREAD.format(name)
    if data.startswith(b"ftyp", 4):
        return "is a film, not a picture"
    head = data[:1024]
    if not head.strip(b"\0"):
        return "is not a picture (it holds only zero bytes)" if not data.strip(b"\0") else "is not a picture"
    lower = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in lower:
        return "is an SVG drawing, not a picture of pixels"
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "is an HTML page, not a picture"
    if lower.startswith(b"<?xml"):
        return "is an XML file, not a picture"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "is a text file, not a picture"
    return "is not a picture in a format that is read here"


def _reason_tiff(data: bytes) -> str:
    """Return what Pillow does not read in a whole TIFF, such as 13 bands of a satellite; nothing where it is broken."""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if b"+" in data[2:4] else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bands, bits = int(tags[_SAMPLES_PER_PIXEL]), int(tags[_BITS_PER_SAMPLE][0])
    except Exception:  # whatever stands there
        return ""
    form = f"a TIFF of {bands} band{'' if bands == 1 else 's'} of {bits} bits"
    return f"is {form}, which is not read here (convert it to 8 bits, grey or RGB)"


# --------------------------------------------------------------------------------------------------- Pillow's warnings

# Otherwise Python prints what Pillow logs of a file that it does not read, once for each of ten thousand.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_saved: warnings.catch_warnings[None] | None = None


@contextmanager
def _quiet_decoders() -> Iterator[None]:
    """Keep Pillow's warnings about odd metadata away from the user, and from turning into errors under -W error.

    `warnings.catch_warnings` alone restores the wrong filters when threads overlap (the server decodes in several):
    only the first in changes them and only the last out restores them. Where Python keeps the filters per thread (the
    default of free-threaded builds from 3.14), there is nothing to overlap.
    """
    global _quiet_depth, _quiet_saved
    if getattr(sys.flags, "context_aware_warnings", False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        return
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_saved = warnings.catch_warnings()
            _quiet_saved.__enter__()
            warnings.simplefilter("ignore")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _quiet_saved is not None:
                _quiet_saved.__exit__(None, None, None)
                _quiet_saved = None

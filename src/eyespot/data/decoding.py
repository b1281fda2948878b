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
import logging
import os
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

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
    WebPImagePlugin,
)

from eyespot.arrays import Float32Array, UInt8Array
from eyespot.data.decode_limits import (
    MAX_FILE_BYTES,
    MAX_JPEG2000_BYTES,
    MAX_JPEG_SCANS,
    MAX_JPEG_WORK,
    MAX_PIXELS,
    TIFF_MAGIC,
    TOO_LARGE,
    TOO_LONG,
    TOO_SLOW,
    TimedReader,
    count_jpeg_scans,
    refuse_tiff_tiles,
)
from eyespot.data.resizing import Channels
from eyespot.data.undecodable import RAW, UNREAD, reasons_in_words
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
_CR2_MAGIC = b"CR\x02"
_NEW_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706
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
        with _quiet_decoders(), reasons_in_words(b"", where):
            return _decode_opened(source)
    data = _read(source, where)
    with _quiet_decoders(), reasons_in_words(data, where), _open(data) as picture:
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
    with _quiet_decoders(), reasons_in_words(data, path), _open(data) as picture:
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
        raise CostlyImageError(TOO_LONG, where=where)


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
                raise CostlyImageError(TOO_LONG, where=path)
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


# ------------------------------------------------------------------------------------------------- opening, decoding


def _open(data: bytes) -> Image.Image:
    """Return the opened picture, its header read and its cost found acceptable, nothing decoded."""
    if data[:4] in TIFF_MAGIC:
        if data.startswith(_CR2_MAGIC, 8):
            raise BadImageError(UNREAD.format(RAW))
        refuse_tiff_tiles(data)
    picture = Image.open(TimedReader(data), formats=[name for name in PICTURE_FORMATS if name in Image.OPEN])
    if isinstance(picture, TiffImagePlugin.TiffImageFile) and _is_raw(picture.tag_v2):
        raise BadImageError(UNREAD.format(RAW))
    _refuse_size(picture)
    if picture.format in {"JPEG", "MPO"} and "progressive" in picture.info:
        scans = count_jpeg_scans(data)
        if scans > MAX_JPEG_SCANS or scans * picture.width * picture.height > MAX_JPEG_WORK:
            raise CostlyImageError(f"{TOO_SLOW} (a JPEG of {scans} scans)")
    if picture.format == "JPEG2000" and len(data) > MAX_JPEG2000_BYTES:
        raise CostlyImageError(f"{TOO_SLOW} (JPEG 2000 of more than {MAX_JPEG2000_BYTES // 1024**2} MB)")
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
        raise CostlyImageError(f"{TOO_LARGE} ({width} x {height} px)")


def _decode_opened(picture: Image.Image) -> Decoded:
    _refuse_size(picture)
    mode = picture.mode
    deep = any("16" in str(tile[3]) for tile in getattr(picture, "tile", ()))  # known until the pixels are loaded
    picture.load()
    _refuse_size(picture)  # some formats learn their size only while they are decoded
    orientation = _orientation(picture)  # after load: PNG may keep its EXIF behind the pixels, TIFF is upright already
    flat = _flatten(picture, deep)
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


def _flatten(picture: Image.Image, deep: bool) -> Image.Image:
    """Return the picture in mode L or RGB; `deep` where the file has 16 bits for each channel."""
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
    # Of 16-bit RGB Pillow keeps the high bytes alone: a transparent black would take all that is dark with it.
    if picture.has_transparency_data and not (deep and mode == "RGB"):
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


def _over_white(picture: Image.Image) -> Image.Image:
    grey = picture.mode in {"1", "L", "LA", "La"}
    picture = picture.convert("LA" if grey else "RGBA")
    white = Image.new("L" if grey else "RGB", picture.size, "white")
    # paste blends with rounding to the nearest level; alpha 255 gives the colour and alpha 0 gives white exactly.
    white.paste(picture.convert(white.mode), mask=picture.getchannel("A"))
    return white


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

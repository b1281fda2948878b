"""Why a file is not read as a picture, in words: what it is instead, or what is wrong with it.

Before this: `decoding` failed. After this: the scan, `predict` and the server tell the user.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features

from eyespot.data.decode_limits import TIFF_MAGIC, TOO_LARGE, TOO_SLOW
from eyespot.errors import BadImageError, CostlyImageError

_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL = 258, 277

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
RAW = "raw of a camera"  # those that are a TIFF are recognised by their tags
UNREAD = "is a picture in the format {}, which is not read here (convert it to JPEG or PNG)"
_UNSUPPORTED: tuple[tuple[int, bytes, str], ...] = (
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")),
    (4, b"ftypavif", "AVIF"),  # reached only where this Pillow was built without AVIF
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"qoif", "QOI"),
    *((0, magic, RAW) for magic in (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"\0MRM")),
    (4, b"ftypcrx ", RAW),
)
_PICTURE_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    *((0, magic, "TIFF") for magic in sorted(TIFF_MAGIC)),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
)


@contextmanager
def reasons_in_words(data: bytes, where: object) -> Iterator[None]:
    """Turn whatever a decoder raises into a BadImageError with the reason in words."""
    try:
        yield
    except BadImageError as error:
        raise type(error)(error.what, where=where) from error.__cause__
    except UnidentifiedImageError as error:
        raise BadImageError(_reason_unidentified(data), where=where) from error
    except Image.DecompressionBombError as error:
        raise CostlyImageError(TOO_LARGE, where=where) from error
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
        return TOO_SLOW
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
    if data[:4] in TIFF_MAGIC:
        order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
        return len(data) < 8 or len(data) < int.from_bytes(data[4:8], order) + 2
    if data[:4] == b"\xff\x4f\xff\x51" or data[4:8] == b"jP  ":
        return not data.endswith(b"\xff\xd9")
    return data[4:8] == b"ftyp" and _boxes_cut_off(data)


_MOST_BOXES = 10_000  # a picture has a dozen; each takes time


def _boxes_cut_off(data: bytes) -> bool:
    """Return whether the last box of an ISO media file (AVIF, HEIC, films) reaches behind the end."""
    position = 0
    for _ in range(_MOST_BOXES):
        if position >= len(data):
            return position > len(data)
        size = int.from_bytes(data[position : position + 4], "big")
        if size < 8:  # to the end of the file, or a 64-bit size that no picture needs
            return len(data) - position < 8
        position += size
    return False


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
        return UNREAD.format(name)
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

"""One conversion for every kind of picture, a reason in words for everything else, and no file that hangs."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, TiffImagePlugin

from eyespot.data import decode_limits, decoding, undecodable
from eyespot.data.decode_limits import MAX_PIXELS
from eyespot.data.decoding import (
    content_hash,
    decode_image,
    decode_picture,
    probe_picture,
    to_channels,
)
from eyespot.errors import BadImageError

needs_posix = pytest.mark.skipif(os.name != "posix", reason="POSIX file system")


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def picture_of(values: object, mode: str) -> Image.Image:
    """Return a Pillow picture with these raw samples: (H, W) or (H, W, bands), of the mode's number type."""
    dtype = {"I": "<i4", "F": "<f4", "I;16": "<u2", "I;16B": ">u2"}.get(mode, "u1")
    array = np.asarray(values, dtype=dtype)
    return Image.frombytes(mode, (array.shape[1], array.shape[0]), array.tobytes())


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """Return a PNG from its samples, for the kinds that Pillow cannot write; `rows` without the filter bytes."""
    step = len(rows) // max(height, 1)
    filtered = b"".join(b"\0" + rows[i * step : (i + 1) * step] for i in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", zlib.compress(filtered)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def photo(width: int = 56, height: int = 40) -> Image.Image:
    """Return a smooth picture with every channel in use, which also lossy formats keep nearly as it is."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    channels = [127 + 100 * np.sin(x / 9 + k) * np.cos(y / 11 - k) for k in range(3)]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def reason(source: object) -> str:
    with pytest.raises(BadImageError) as caught:
        decode_image(source, channels=3)  # type: ignore[arg-type]
    return caught.value.what


# ------------------------------------------------------------------------------------------ formats that keep every bit

RGB = photo()
LOSSLESS = {
    "png": encode(RGB, "PNG"),
    "png, fast": encode(RGB, "PNG", compress_level=0),
    "bmp": encode(RGB, "BMP"),
    "ppm binary": encode(RGB, "PPM"),
    "ppm text": b"P3\n# words\n56 40\n255\n" + " ".join(map(str, np.asarray(RGB).ravel())).encode(),
    "tiff raw": encode(RGB, "TIFF"),
    "tiff big": encode(RGB, "TIFF", big_tiff=True),
    "tiff lzw": encode(RGB, "TIFF", compression="tiff_lzw"),
    "tiff deflate": encode(RGB, "TIFF", compression="tiff_adobe_deflate"),
    "tiff packbits": encode(RGB, "TIFF", compression="packbits"),
    "tiff planar": encode(RGB, "TIFF", compression="tiff_lzw", tiffinfo={278: 1}),
    "webp lossless": encode(RGB, "WEBP", lossless=True),
    "jpeg 2000": encode(RGB, "JPEG2000", irreversible=False),
    "jpeg 2000 stream": encode(RGB, "JPEG2000", irreversible=False, no_jp2=True),
}
LOSSY = {
    "jpeg": encode(RGB, "JPEG", quality=95),
    "jpeg progressive": encode(RGB, "JPEG", quality=95, progressive=True),
    "jpeg 4:4:4": encode(RGB, "JPEG", quality=95, subsampling=0),
    "jpeg as rgb": encode(RGB, "JPEG", quality=95, keep_rgb=True),
    "webp": encode(RGB, "WEBP", quality=95),
    "avif": encode(RGB, "AVIF", quality=95),
    "tiff jpeg": encode(RGB, "TIFF", compression="jpeg", quality=95),
    "mpo": encode(RGB, "MPO", quality=95, save_all=True, append_images=[photo().rotate(180)]),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_their_pixels(kind: str) -> None:
    np.testing.assert_array_equal(decode_image(LOSSLESS[kind], channels=3), np.asarray(RGB))


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_formats_give_nearly_their_pixels(kind: str) -> None:
    pixels = decode_image(LOSSY[kind], channels=3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.asarray(RGB)).mean() < 3


# --------------------------------------------------------------------------------------- the conversion table, by hand

WHITE, BLACK = [255, 255, 255], [0, 0, 0]
PALETTE = [10, 20, 30, 200, 100, 50, 0, 255, 0]


def palette_picture(**info: object) -> Image.Image:
    picture = picture_of([[0, 1, 2]], "P")
    picture.putpalette(PALETTE)
    picture.info.update(info)
    return picture


def palette_with_alpha() -> Image.Image:
    picture = picture_of([[[0, 128], [1, 255]]], "PA")
    picture.putpalette(PALETTE)
    return picture


# 128 alpha over white: round((c * 128 + 255 * 127) / 255): 10 -> 132, 20 -> 137, 30 -> 142
CONVERSIONS: dict[str, tuple[object, list[list[int]]]] = {
    "L png": (encode(picture_of([[0, 7, 255]], "L"), "PNG"), [BLACK, [7] * 3, WHITE]),
    "L tiff": (encode(picture_of([[0, 7, 255]], "L"), "TIFF"), [BLACK, [7] * 3, WHITE]),
    "pgm binary": (b"P5 3 1 255\n\x00\x07\xff", [BLACK, [7] * 3, WHITE]),
    "pgm text": (b"P2 3 1 255\n0 7 255\n", [BLACK, [7] * 3, WHITE]),
    "pgm of 4 bits": (b"P5 3 1 15\n\x00\x05\x0f", [BLACK, [85] * 3, WHITE]),
    "pbm binary": (b"P4 3 1\n\x40", [WHITE, BLACK, WHITE]),
    "pbm text": (b"P1 3 1\n0 1 0\n", [WHITE, BLACK, WHITE]),
    "1 bit png": (
        encode(picture_of([[0, 255, 255]], "L").convert("1"), "PNG"),
        [BLACK, WHITE, WHITE],
    ),
    "1 bit bmp": (encode(picture_of([[0, 255, 0]], "L").convert("1"), "BMP"), [BLACK, WHITE, BLACK]),
    "2 bit png": (raw_png(3, 1, 2, 0, bytes([0b00_01_11_00])), [BLACK, [85] * 3, WHITE]),
    "4 bit png": (raw_png(3, 1, 4, 0, bytes([0x08, 0xF0])), [BLACK, [136] * 3, WHITE]),
    "palette png": (encode(palette_picture(), "PNG"), [[10, 20, 30], [200, 100, 50], [0, 255, 0]]),
    "palette gif": (encode(palette_picture(), "GIF"), [[10, 20, 30], [200, 100, 50], [0, 255, 0]]),
    "palette bmp": (encode(palette_picture(), "BMP"), [[10, 20, 30], [200, 100, 50], [0, 255, 0]]),
    "palette tiff": (encode(palette_picture(), "TIFF"), [[10, 20, 30], [200, 100, 50], [0, 255, 0]]),
    "palette png, alphas": (
        encode(palette_picture(), "PNG", transparency=bytes([128, 255, 0])),
        [[132, 137, 142], [200, 100, 50], WHITE],
    ),
    "palette gif, one clear": (encode(palette_picture(), "GIF", transparency=1), [[10, 20, 30], WHITE, [0, 255, 0]]),
    "RGB png, one clear": (
        encode(picture_of([[[1, 2, 3], [4, 5, 6]]], "RGB"), "PNG", transparency=(4, 5, 6)),
        [[1, 2, 3], WHITE],
    ),
    "L png, one clear": (encode(picture_of([[9, 7]], "L"), "PNG", transparency=7), [[9] * 3, WHITE]),
    "1 bit png, one clear": (raw_png(2, 1, 1, 0, b"\x40", png_chunk(b"tRNS", b"\0\0")), [WHITE, WHITE]),
    "RGBA png": (
        encode(picture_of([[[10, 20, 30, 128], [1, 2, 3, 255], [1, 2, 3, 0]]], "RGBA"), "PNG"),
        [[132, 137, 142], [1, 2, 3], WHITE],
    ),
    "RGBA webp": (
        encode(picture_of([[[10, 20, 30, 128], [1, 2, 3, 255]]], "RGBA"), "WEBP", lossless=True, exact=True),
        [[132, 137, 142], [1, 2, 3]],
    ),
    "RGBA tiff": (encode(picture_of([[[10, 20, 30, 128]]], "RGBA"), "TIFF"), [[132, 137, 142]]),
    "RGBA jpeg 2000": (encode(picture_of([[[10, 20, 30, 128]]], "RGBA"), "JPEG2000"), [[132, 137, 142]]),
    "LA png": (encode(picture_of([[[10, 128], [77, 255], [77, 0]]], "LA"), "PNG"), [[132] * 3, [77] * 3, WHITE]),
    "16 bit png": (
        # 128 / 257 = 0.498 and 129 / 257 = 0.502 lie on both sides of a half; 32768 / 257 = 127.502
        encode(picture_of([[0, 128, 129, 257, 32768, 65535]], "I;16"), "PNG"),
        [[v] * 3 for v in (0, 0, 1, 1, 128, 255)],
    ),
    "16 bit png, one clear": (
        raw_png(2, 1, 16, 0, b"\x01\x01\x02\x02", png_chunk(b"tRNS", b"\x02\x02")),
        [[1] * 3, WHITE],
    ),
    "16 bit tiff": (encode(picture_of([[0, 129, 65535]], "I;16"), "TIFF"), [BLACK, [1] * 3, WHITE]),
    "16 bit tiff, big endian": (encode(picture_of([[0, 129, 65535]], "I;16B"), "TIFF"), [BLACK, [1] * 3, WHITE]),
    "16 bit pgm": (b"P5 3 1 65535\n\x00\x00\x00\x81\xff\xff", [BLACK, [1] * 3, WHITE]),
    "16 bit colour png": (raw_png(1, 1, 16, 2, b"\x80\xff\x01\x00\x00\xff"), [[0x80, 0x01, 0x00]]),
    "16 bit colour png, one clear": (
        raw_png(1, 1, 16, 2, b"\x80\xff\x01\x00\x00\xff", png_chunk(b"tRNS", b"\x80\xff\x01\x00\x00\xff")),
        [[0x80, 0x01, 0x00]],
    ),
    "16 bit colour png, black clear": (
        raw_png(1, 1, 16, 2, b"\x00\xff\x00\x00\x00\x07", png_chunk(b"tRNS", bytes(6))),
        [BLACK],
    ),
    "16 bit grey and alpha png": (raw_png(1, 1, 16, 4, b"\x0a\xff\x80\x00"), [[132] * 3]),
    "32 bit tiff": (
        encode(picture_of([[-5, 0, 129, 65535, 70000]], "I"), "TIFF"),
        [[v] * 3 for v in (0, 0, 1, 255, 255)],
    ),
    "float tiff in 0..1": (
        encode(picture_of([[0.0, 0.5, 1.0, -3.0]], "F"), "TIFF"),
        [[v] * 3 for v in (0, 128, 255, 0)],
    ),
    "float tiff in 0..255": (encode(picture_of([[0.4, 99.6, 300.0]], "F"), "TIFF"), [[v] * 3 for v in (0, 100, 255)]),
    "float tiff, odd numbers": (
        encode(picture_of([[np.nan, np.inf, -np.inf, 0.2]], "F"), "TIFF"),
        [[v] * 3 for v in (0, 255, 0, 51)],
    ),
    "float tiff, only NaN": (encode(picture_of([[np.nan]], "F"), "TIFF"), [BLACK]),
    "pfm": (b"Pf\n2 1\n-1.0\n" + struct.pack("<ff", 0.2, 1.0), [[51] * 3, WHITE]),
    # 255 - K = 200; C: 200 - round(100 * 200 / 255) = 122, M: 200 - 39 = 161, Y: 200
    "CMYK tiff": (
        encode(picture_of([[[100, 50, 0, 55], [0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 0]]], "CMYK"), "TIFF"),
        [[122, 161, 200], WHITE, BLACK, [0, 255, 255]],
    ),
    "RGBX in memory": (picture_of([[[1, 2, 3, 9]]], "RGBX"), [[1, 2, 3]]),
    "PA in memory": (palette_with_alpha(), [[132, 137, 142], [200, 100, 50]]),
    "HSV in memory": (picture_of([[[0, 255, 255], [0, 0, 77]]], "HSV"), [[255, 0, 0], [77] * 3]),
    "YCbCr in memory": (picture_of([[[128, 128, 128], [76, 85, 255]]], "YCbCr"), [[128] * 3, [254, 0, 0]]),
    "RGBa in memory": (picture_of([[[5, 10, 15, 128]]], "RGBa"), [[132, 137, 142]]),
    "La in memory": (picture_of([[[5, 128]]], "La"), [[132] * 3]),
    "I;16B in memory": (picture_of([[0, 129, 65535]], "I;16B"), [BLACK, [1] * 3, WHITE]),
}


@pytest.mark.parametrize("kind", CONVERSIONS)
def test_conversion_table(kind: str) -> None:
    source, expected = CONVERSIONS[kind]
    pixels = decode_image(source, channels=3)  # type: ignore[arg-type]
    assert pixels.shape == (1, len(expected), 3)
    np.testing.assert_array_equal(pixels[0], expected)


def test_lab_is_converted_to_rgb() -> None:
    # CIE: L* 100 is white, 0 is black; L* 53.59 is sRGB 128, a* = b* = 0 are stored as 0 in TIFF and 128 here
    neutral = Image.merge("LAB", [picture_of([[255, 0, 137]], "L"), *[picture_of([[128] * 3], "L")] * 2])
    pixels = decode_image(neutral, channels=3)
    np.testing.assert_allclose(pixels[0].astype(int), [WHITE, BLACK, [128] * 3], atol=2)
    stored = decode_image(encode(neutral, "TIFF"), channels=3)
    np.testing.assert_array_equal(stored, pixels)


def test_inverted_cmyk_of_adobe_jpeg_is_undone() -> None:
    data = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    np.testing.assert_allclose(decode_image(data, channels=3)[8, 8].astype(int), [255, 0, 0], atol=3)


def test_ycck_jpeg_is_converted() -> None:
    data = bytearray(encode(Image.new("CMYK", (16, 16), (255 - 180, 127, 127, 0)), "JPEG", quality=100))
    marker = data.index(b"Adobe\0")
    data[marker + 11] = 2  # says that the stored samples are Y = 180, Cb = Cr = 128 and an inverted K of 255
    # libjpeg: CMY = 255 - RGB(Y, Cb, Cr) = 75; Adobe stores it inverted: CMY = 180, K = 0; RGB = 255 - 180
    pixels = decode_image(bytes(data), channels=3)
    np.testing.assert_allclose(pixels[8, 8].astype(int), [75] * 3, atol=2)


def test_colour_becomes_luma_and_grey_is_repeated() -> None:
    data = encode(picture_of([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], "RGB"), "PNG")
    # 0.299 * 255 = 76.2, 0.587 * 255 = 149.7, 0.114 * 255 = 29.07
    np.testing.assert_array_equal(decode_image(data, channels=1), [[[76], [150], [29], [9]]])
    grey = encode(picture_of([[3, 4]], "L"), "PNG")
    np.testing.assert_array_equal(decode_image(grey, channels=1), [[[3], [4]]])
    assert decode_picture(grey).pixels.shape == (1, 2, 1)
    assert decode_picture(grey).mode == "L"


def test_grey_with_alpha_stays_grey() -> None:
    data = encode(picture_of([[[10, 128]]], "LA"), "PNG")
    np.testing.assert_array_equal(decode_picture(data).pixels, [[[132]]])


def test_colour_profile_is_ignored() -> None:
    profile = b"\0" * 128
    data = encode(RGB, "PNG", icc_profile=profile)
    assert b"iCCP" in data
    np.testing.assert_array_equal(decode_image(data, channels=3), np.asarray(RGB))


# ------------------------------------------------------------------------------------------------------- orientation

STORED = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
UPRIGHT = {
    1: STORED,
    2: STORED[:, ::-1],
    3: STORED[::-1, ::-1],
    4: STORED[::-1],
    5: STORED.transpose(1, 0, 2),
    6: np.rot90(STORED, -1),  # to be turned clockwise
    7: STORED[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(STORED, 1),
}


def exif(orientation: object) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_orientation_is_applied(kind: str, options: dict[str, object], orientation: int) -> None:
    data = encode(Image.fromarray(STORED), kind, exif=exif(orientation), **options)
    np.testing.assert_array_equal(decode_image(data, channels=3), UPRIGHT[orientation])


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_orientation_is_applied_to_lossy_formats(kind: str, orientation: int) -> None:
    plain = decode_image(encode(RGB, kind), channels=3)
    turned = decode_image(encode(RGB, kind, exif=exif(orientation)), channels=3)
    stored = Image.fromarray(plain)
    expected = stored.transpose(decoding._TRANSPOSES[orientation]) if orientation > 1 else stored
    np.testing.assert_array_equal(turned, np.asarray(expected))


def test_hand_written_orientation_six() -> None:
    stored = picture_of([[1, 2, 3], [4, 5, 6]], "L")
    data = encode(stored, "PNG", exif=exif(6))
    np.testing.assert_array_equal(decode_image(data, channels=1)[:, :, 0], [[4, 1], [5, 2], [6, 3]])


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_that_do_not_exist_count_as_upright(value: int) -> None:
    data = encode(Image.fromarray(STORED), "PNG", exif=exif(value))
    np.testing.assert_array_equal(decode_image(data, channels=3), STORED)


@pytest.mark.parametrize(
    "block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 60]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_counts_as_upright(kind: str, block: bytes) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(RGB, kind, exif=block, **options)
    np.testing.assert_array_equal(
        decode_image(data, channels=3), decode_image(encode(RGB, kind, **options), channels=3)
    )


def test_orientation_that_is_text_counts_as_upright() -> None:
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x0112, 2, 4, 0x00363636) + b"\0\0\0\0"
    data = encode(Image.fromarray(STORED), "PNG", exif=b"Exif\0\0" + tiff)
    np.testing.assert_array_equal(decode_image(data, channels=3), STORED)


def test_exif_behind_the_pixels_is_found() -> None:
    data = encode(Image.fromarray(STORED), "PNG")
    block = png_chunk(b"eXIf", exif(3).tobytes().removeprefix(b"Exif\0\0"))
    end = data.index(b"IEND") - 4
    np.testing.assert_array_equal(decode_image(data[:end] + block + data[end:], channels=3), STORED[::-1, ::-1])


# -------------------------------------------------------------------------------------------------- frames and sizes


@pytest.mark.parametrize(
    ("kind", "options"),
    [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {}), ("AVIF", {"quality": 100})],
)
def test_first_frame_is_taken(kind: str, options: dict[str, object]) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    pixels = decode_image(data, channels=3)
    assert pixels.shape == (16, 16, 3)
    np.testing.assert_allclose(pixels[8, 8].astype(int), [255, 0, 0], atol=3)


def test_first_frame_smaller_than_its_canvas_lies_on_white() -> None:
    frame = encode(Image.new("P", (2, 2), 0), "GIF", transparency=1)
    data = bytearray(frame)
    data[6:10] = struct.pack("<HH", 4, 4)  # the canvas
    assert decode_image(bytes(data), channels=3).shape == (4, 4, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (3, 7)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_extreme_sizes(kind: str, size: tuple[int, int]) -> None:
    pixels = decode_image(encode(Image.new("RGB", size, (9, 9, 9)), kind), channels=3)
    assert pixels.shape == (size[1], size[0], 3)
    assert np.all(pixels == 9)


@pytest.mark.parametrize(
    "name", ["x.jpg", "x.txt", "x", "ü 漢字.png", " two  spaces .png", "x.tar.gz", "-x.png", "%s{0}.png"]
)
def test_the_content_decides_whatever_the_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(LOSSLESS["png"])
    np.testing.assert_array_equal(decode_image(path, channels=3), np.asarray(RGB))
    np.testing.assert_array_equal(decode_image(str(path), channels=3), np.asarray(RGB))


@needs_posix
def test_names_with_line_breaks_and_foreign_bytes(tmp_path: Path) -> None:
    for raw in (b"a\nb.png", b"caf\xe9.png"):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + raw))
        try:
            path.write_bytes(LOSSLESS["png"])
        except OSError:
            pytest.skip("the file system does not take such names")
        np.testing.assert_array_equal(decode_image(path, channels=3), np.asarray(RGB))


def test_sources_of_every_kind_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(LOSSLESS["png"])
    expected = np.asarray(RGB)
    with open(path, "rb") as file, Image.open(path) as opened:
        for source in (path, str(path), LOSSLESS["png"], file, io.BytesIO(LOSSLESS["png"]), opened, RGB):
            np.testing.assert_array_equal(decode_image(source, channels=3), expected)


def test_pillow_picture_keeps_its_current_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    with Image.open(io.BytesIO(encode(frames[0], "TIFF", save_all=True, append_images=frames[1:]))) as picture:
        picture.seek(1)
        np.testing.assert_array_equal(decode_image(picture, channels=3)[0, 0], [0, 0, 255])


# ------------------------------------------------------------------------------------------------ what is no picture


def tiff_with(tags: dict[int, object]) -> bytes:
    """Return a TIFF of one page with these tags, too."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory[tag] = value
    return encode(Image.new("RGB", (16, 12), "red"), "TIFF", tiffinfo=directory)


NOT_PICTURES = {
    "empty": (b"", "is empty (0 bytes)"),
    "zeros": (bytes(500), "is not a picture (it holds only zero bytes)"),
    "text": (b"hello, I am a picture\n", "is a text file, not a picture"),
    "json": (b'{"a": 1}', "is a text file, not a picture"),
    "html": (b"\n <!DOCTYPE html><html><body>404</body></html>", "is an HTML page, not a picture"),
    "xml": (b"<?xml version='1.0'?><a/>", "is an XML file, not a picture"),
    "svg": (b"<?xml version='1.0'?><svg xmlns='x'></svg>", "is an SVG drawing, not a picture of pixels"),
    "bare svg": (b"\xef\xbb\xbf<svg width='3'/>", "is an SVG drawing, not a picture of pixels"),
    "pdf": (b"%PDF-1.7\n%...", "is a PDF, not a picture"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is a PostScript file, not a picture"),
    "photoshop": (b"8BPS\0\1" + bytes(30), "is a Photoshop file, not a picture"),
    "zip": (b"PK\x03\x04" + bytes(30), "is a ZIP archive, not a picture"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "is a gzip archive, not a picture"),
    "film": (b"\0\0\0\x18ftypmp42" + bytes(30), "is a film, not a picture"),
    "webm": (b"\x1a\x45\xdf\xa3" + bytes(30), "is a film, not a picture"),
    "sound": (b"RIFF\x24\0\0\0WAVEfmt ", "is a sound, not a picture"),
    "icon": (encode(Image.new("RGB", (16, 16)), "ICO"), "is an icon (ICO), not a picture"),
    "program": (b"MZ\x90\0" + bytes(30), "is a Windows program, not a picture"),
    "macos": (b"\0\x05\x16\x07" + bytes(30), "is an AppleDouble file of macOS, not a picture"),
    "numpy": (b"\x93NUMPY\1\0" + bytes(30), "is a numpy array, not a picture"),
    "fits": (b"SIMPLE  =                    T" + bytes(30), "is a FITS file, not a picture"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(30), "is a picture in the format HEIC, which is not read here"),
    **{
        f"raw {number}": (data, "is a picture in the format raw of a camera, which is not read here")
        for number, data in enumerate(
            (
                b"II*\0\x10\0\0\0CR\x02\0" + bytes(30),
                b"\0\0\0\x18ftypcrx " + bytes(30),
                b"IIRO\x08\0\0\0" + bytes(30),
                b"IIU\0\x18\0\0\0" + bytes(30),
                b"FUJIFILMCCD-RAW 0201" + bytes(30),
                tiff_with({50706: b"\1\4\0\0"}),  # DNG
                tiff_with({254: 1, 330: 8}),  # NEF, ARW: a preview first, the picture in another directory
            )
        )
    },
    "jpeg xl": (b"\xff\x0a" + b"\x80" * 30, "is a picture in the format JPEG XL, which is not read here"),
    "tga": (encode(Image.new("RGB", (4, 4), "red"), "TGA"), "is not a picture in a format that is read here"),
    "pcx": (encode(Image.new("RGB", (4, 4), "red"), "PCX"), "is not a picture in a format that is read here"),
    "noise": (bytes(range(200, 256)) * 9, "is not a picture in a format that is read here"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
}


@pytest.mark.parametrize("kind", NOT_PICTURES)
def test_what_is_no_picture_is_named(kind: str, tmp_path: Path) -> None:
    data, expected = NOT_PICTURES[kind]
    assert reason(data).startswith(expected)
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    with pytest.raises(BadImageError) as caught:
        decode_image(path, channels=3)
    assert caught.value.where == str(path)
    assert str(caught.value) == f"{caught.value.what} in {path}"


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
def test_truncated_files_are_refused_unless_all_pixels_are_there(kind: str) -> None:
    data = (LOSSLESS | LOSSY)[kind]
    whole = decode_image(data, channels=3)
    reasons = []
    last = len(data) - (5 if kind == "ppm text" else 1)  # whether 129 lost a digit cannot be seen
    for cut in np.linspace(1, last, 20).astype(int).tolist():
        try:
            np.testing.assert_array_equal(decode_image(data[:cut], channels=3), whole)
        except BadImageError as error:
            reasons.append(error.what)
    assert len(reasons) >= 9  # MPO has two pictures, of which the first is enough
    assert kind == "ppm text" or sum(reason == "is truncated" for reason in reasons) > len(reasons) / 2


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("PNG", b"\x89PNG\r\n\x1a\n" + bytes(90) + b"IEND\xaeB`\x82"),
        ("JPEG", b"\xff\xd8\xff" + b"\x07" * 90 + b"\xff\xd9"),
        ("GIF", b"GIF89a" + b"\0" * 90 + b";"),
    ],
)
def test_broken_headers_are_named(name: str, data: bytes) -> None:
    assert reason(data) == f"is damaged (broken {name} header)"


def test_damaged_data_is_refused() -> None:
    data = bytearray(LOSSLESS["png"])
    middle = data.index(b"IDAT") + 40
    data[middle : middle + 20] = bytes(20)
    assert reason(bytes(data)).startswith("is damaged")
    broken_ppm = b"P6 2x 1 255\n" + bytes(6)
    assert reason(broken_ppm) == "is damaged"


def test_only_listed_formats_are_opened() -> None:
    assert {*decoding.PICTURE_FORMATS} == {
        *("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"),
    }


def test_without_avif_in_pillow_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Image.OPEN, "AVIF")
    monkeypatch.setattr(undecodable.features, "check", lambda name: False)
    assert reason(LOSSY["avif"]).startswith("is a picture in the format AVIF, which is not read here")


# --------------------------------------------------------------------------------------------------- hostile pictures


def header_only_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(bytes(100))), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("size", [(9460, 9460), (13_500, 13_500), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_more_than_89_megapixels_are_refused_from_the_header(size: tuple[int, int]) -> None:
    assert size[0] * size[1] > MAX_PIXELS
    started = time.perf_counter()
    assert reason(header_only_png(*size)).startswith("is over 89 Mpx")
    assert time.perf_counter() - started < 10


def test_89_megapixels_pass_the_header_check(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(header_only_png(9459, 9459))
    assert probe_picture(path) == (9459, 9459, "RGB")
    assert reason(path).startswith(("is damaged", "is truncated"))


def test_a_gif_canvas_of_4_gigapixels_is_refused() -> None:
    data = bytearray(encode(Image.new("P", (4, 4)), "GIF"))
    data[6:10] = struct.pack("<HH", 65535, 65535)
    assert reason(bytes(data)) == "is over 89 Mpx"


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_pictures_without_pixels_are_refused(size: tuple[int, int]) -> None:
    assert reason(header_only_png(*size)).startswith(("is damaged", "has no pixels"))
    assert reason(Image.new("RGB", size)) == f"has no pixels ({size[0]} x {size[1]})"


def test_text_that_unpacks_to_megabytes_is_refused() -> None:
    bomb = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(20_000_000)))
    assert "decompression bomb" in reason(raw_png(1, 1, 8, 0, b"\0", bomb))


def test_a_progressive_jpeg_of_many_scans_is_refused() -> None:
    data = encode(photo(640, 480), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    decode_image(data[:-2] + scan * 50 + b"\xff\xd9", channels=3)
    assert "a JPEG of" in reason(data[:-2] + scan * 200 + b"\xff\xd9")


def test_scans_behind_the_first_picture_do_not_count() -> None:
    data = encode(RGB, "JPEG", progressive=True)
    film = data + b"\xff\xda\0\x02" * 500
    np.testing.assert_array_equal(decode_image(film, channels=3), decode_image(data, channels=3))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_millions_of_strips_is_refused(order: str) -> None:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    entries = [(256, 4, 1, 1), (257, 4, 1, 20_000_000), (273, 4, 20_000_000, 200), (278, 4, 1, 1)]
    directory = struct.pack(order + "H", len(entries)) + b"".join(struct.pack(order + "HHII", *e) for e in entries)
    assert "20,000,000 strips" in reason(magic + struct.pack(order + "I", 8) + directory + bytes(4))


def test_a_big_tiff_of_millions_of_tiles_is_refused() -> None:
    directory = struct.pack("<QHHQQ", 1, 324, 16, 9_000_000, 400)
    assert "9,000,000 strips or tiles" in reason(b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + directory + bytes(8))


def test_parsers_that_loop_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("P", (4, 4)), "GIF")
    start = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    hostile = data[:start] + b"\x21\xfe" + (b"\xff" + b"c" * 255) * 4_000 + b"\0" + data[start:]
    decode_image(hostile, channels=3)
    monkeypatch.setattr(decode_limits, "MAX_SECONDS", 0.0005)
    assert reason(hostile) == "takes more than 5 s to decode"


def test_slow_text_pictures_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_limits, "MAX_SECONDS", 0.05)
    data = b"P3 1000 1000 200\n" + b"1 2 3 " * 1_000_000
    assert reason(data) == "takes more than 5 s to decode"


def test_large_jpeg_2000_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_JPEG2000_BYTES", 100)
    assert "JPEG 2000" in reason(LOSSLESS["jpeg 2000"])


def test_running_out_of_memory_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    assert reason(LOSSLESS["png"]) == "needs more memory to decode than there is"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_a_picture_or_a_reason(data: st.DataObject) -> None:
    kinds = LOSSLESS | LOSSY
    content = bytearray(kinds[data.draw(st.sampled_from(sorted(kinds)))])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode_image(bytes(content), channels=3)
    except BadImageError as error:
        sentence = error.what
    else:
        assert pixels.ndim == 3
        sentence = f"is a picture of {pixels.dtype}"
    assert sentence.startswith(("is ", "has ", "takes ", "needs "))
    assert "\n" not in sentence


# ---------------------------------------------------------------------------------------------------- the file system


def test_a_missing_file(tmp_path: Path) -> None:
    assert reason(tmp_path / "no.jpg") == "does not exist"
    (tmp_path / "file").write_bytes(b"x")
    assert reason(tmp_path / "file" / "no.jpg") == "does not exist"
    assert "null" in reason("a\0b.jpg")


def test_a_folder_with_a_picture_name(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    assert reason(tmp_path / "x.jpg") == "is a folder, not a file"


@needs_posix
def test_links(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    assert reason(tmp_path / "a.png") == "does not exist"
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert reason(tmp_path / "a.png") == "is a loop of links"
    (tmp_path / "b.png").unlink()
    (tmp_path / "b.png").write_bytes(LOSSLESS["png"])
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png", channels=3), np.asarray(RGB))


@needs_posix
def test_pipes_sockets_and_devices_are_never_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "x.jpg"
    os.mkfifo(pipe)
    assert reason(pipe) == "is a pipe (FIFO), not a file"
    assert reason("/dev/zero") == "is a device, not a file"
    here = os.getcwd()
    os.chdir(tmp_path)  # socket names are short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s.jpg")
            assert reason("s.jpg") == "is a socket, not a file"
    finally:
        os.chdir(here)


@needs_posix
def test_a_pipe_that_takes_the_place_of_a_file_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, file = tmp_path / "pipe.jpg", tmp_path / "x.jpg"
    os.mkfifo(pipe)
    file.write_bytes(b"x")
    regular, ask = os.stat(file), os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: regular if path == pipe else ask(path, **options))
    assert reason(pipe) == "is a pipe (FIFO), not a file"


@needs_posix
def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(LOSSLESS["png"])
    path.chmod(0)
    if os.geteuid() == 0:  # root reads everything: the system's answer is put in its mouth

        def refuse(*arguments: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    assert reason(path) == "cannot be read (permission denied)"


def test_other_disk_errors_keep_the_system_s_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: object) -> os.stat_result:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "stat", fail)
    assert reason(tmp_path / "x.png") == "cannot be read (Input/output error)"


def test_files_over_the_limit_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    with open(path, "wb") as file:
        file.truncate(decoding.MAX_FILE_BYTES + 1)  # sparse
    assert reason(path) == "is larger than 512 MB"
    monkeypatch.setattr(decoding, "MAX_FILE_BYTES", 50)
    assert reason(LOSSLESS["png"]) == "is larger than 512 MB"
    assert reason(io.BytesIO(LOSSLESS["png"])) == "is larger than 512 MB"


# ----------------------------------------------------------------------------------------------------------- warnings


def test_pillow_s_warnings_stay_inside_also_with_threads() -> None:
    odd = encode(RGB, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0" + b"\x12\x01\x03\0\xff\xff\xff\x0f" * 4)
    before = list(warnings.filters)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(30):
                decode_image(odd, channels=3)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert list(warnings.filters) == before


# ------------------------------------------------------------------------------------------------------------ probing


@pytest.mark.parametrize(
    ("picture", "kind", "grey"),
    [
        (Image.new("RGB", (7, 5)), "JPEG", False),
        (Image.new("L", (7, 5)), "JPEG", True),
        (Image.new("1", (7, 5)), "PNG", True),
        (Image.new("I;16", (7, 5)), "PNG", True),
        (Image.new("LA", (7, 5)), "PNG", True),
        (Image.new("F", (7, 5)), "TIFF", True),
        (Image.new("P", (7, 5)), "GIF", False),
        (Image.new("CMYK", (7, 5)), "TIFF", False),
    ],
)
def test_probe_reads_size_and_mode(tmp_path: Path, picture: Image.Image, kind: str, grey: bool) -> None:
    path = tmp_path / "x"
    path.write_bytes(encode(picture, kind))
    header = probe_picture(path)
    assert (header.width_px, header.height_px) == (7, 5)
    assert header.is_grey == grey


@pytest.mark.parametrize("options", [{"compression": "tiff_lzw"}, {}])
def test_probe_reads_headers_far_behind(tmp_path: Path, options: dict[str, object]) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 300, 3), dtype=np.uint8))
    path = tmp_path / "x.tif"
    path.write_bytes(encode(noise, "TIFF", **options))
    assert path.stat().st_size > 256 * 1024
    assert probe_picture(path) == (300, 400, "RGB")


def test_probe_refuses_what_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(b"")
    with pytest.raises(BadImageError, match="is empty"):
        probe_picture(path)
    path.write_bytes(b"%PDF" + bytes(300_000))
    with pytest.raises(BadImageError, match="is a PDF"):
        probe_picture(path)


# -------------------------------------------------------------------------------------------------------------- hashes


def test_hash_is_over_size_and_colours() -> None:
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    expected = hashlib.blake2b(struct.pack("<II", 2, 3) + pixels.tobytes(), digest_size=16).digest()
    assert content_hash(pixels) == expected
    assert content_hash(np.asfortranarray(pixels)) == expected
    flat = np.zeros((2, 3, 3), np.uint8)
    assert content_hash(flat) != content_hash(flat.reshape(3, 2, 3))


def test_grey_and_equal_rgb_have_one_hash() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    assert content_hash(grey) == content_hash(to_channels(grey, 3))
    np.testing.assert_array_equal(to_channels(to_channels(grey, 3), 1), grey)
    assert to_channels(grey, 1) is grey


def test_a_tiff_that_is_whole_but_not_read_is_not_called_damaged(capfd: pytest.CaptureFixture[str]) -> None:
    """Satellites have 13 bands, and what Pillow logs of each is not printed a thousand times."""
    buffer = io.BytesIO()
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[256], tags[257], tags[258], tags[262], tags[277], tags[339] = 8, 8, (16,) * 13, 1, 13, (1,) * 13
    buffer.write(b"II*\0\x08\0\0\0")
    tags.save(buffer)
    whole = buffer.getvalue() + bytes(8 * 8 * 13 * 2)
    with pytest.raises(BadImageError, match="is a TIFF of 13 bands of 16 bits, which is not read here"):
        decode_picture(whole)
    with pytest.raises(BadImageError, match="broken TIFF header"):
        decode_picture(b"II*\0\x08\0\0\0" + bytes(100))
    assert capfd.readouterr().err == ""


def test_boxes_without_number_are_not_counted_to_the_end() -> None:
    box = (8).to_bytes(4, "big") + b"free"
    film = (16).to_bytes(4, "big") + b"ftypavif" + bytes(4) + 4_000_000 * box
    started = time.perf_counter()
    assert reason(film)
    assert time.perf_counter() - started < 1

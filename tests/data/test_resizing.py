"""Resizing: every fit gives the stated square, and a strip holds the same square as prediction makes."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eyespot.data.resizing import Channels, Fit, Interpolation, RowFormat, largest_margin_px, margin_px, thumbnail

FITS: tuple[Fit, ...] = get_args(Fit)
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_picture_of_the_right_size_is_returned_as_it_is(fit: Fit, interpolation: Interpolation) -> None:
    pixels = noise(32, 32)
    np.testing.assert_array_equal(RowFormat(32, 3, fit, interpolation).square(pixels), pixels)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1), (7, 3), (64, 48), (5, 8), (9, 9)])
def test_any_shape_becomes_square(fit: Fit, channels: Channels, shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, channels), 77, dtype=np.uint8)
    square = RowFormat(8, channels, fit, "bicubic").square(pixels)
    assert square.shape == (8, 8, channels)
    assert square.dtype == np.uint8
    values = {*np.unique(square).tolist()}
    assert values == ({0, 77} if fit == "pad" and shape[0] != shape[1] else {77})


def test_squash_stretches_both_sides() -> None:
    pixels = np.array([[[10], [200]]], dtype=np.uint8)
    nearest = RowFormat(4, 1, "squash", "nearest").square(pixels)
    np.testing.assert_array_equal(nearest[:, :, 0], [[10, 10, 200, 200]] * 4)
    halved = RowFormat(1, 1, "squash", "bilinear").square(np.array([[[0], [4]], [[8], [12]]], np.uint8))
    assert halved.item() == 6  # antialiased: the mean of all four


@pytest.mark.parametrize("fit", ["crop", "short-side"])
def test_crop_takes_the_centre(fit: Fit) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 6, 1)
    np.testing.assert_array_equal(RowFormat(2, 1, fit, "bicubic").square(pixels), pixels[:, 2:4])
    # five columns: the square begins in the middle of one, where the value between two neighbours stands
    columns = np.tile(np.array([0, 10, 20, 30, 40], np.uint8), (2, 1))[:, :, None]
    half = RowFormat(2, 1, fit, "bilinear").square(columns)
    np.testing.assert_array_equal(half[:, :, 0], [[15, 25]] * 2)


def test_pad_centres_on_black() -> None:
    padded = RowFormat(4, 3, "pad", "bicubic").square(np.full((2, 4, 3), 9, dtype=np.uint8))
    np.testing.assert_array_equal(padded[:, :, 0], [[0] * 4, [9] * 4, [9] * 4, [0] * 4])
    tall = RowFormat(4, 1, "pad", "bicubic").square(np.full((4, 1, 1), 9, np.uint8))
    np.testing.assert_array_equal(tall[:, :, 0], [[0, 9, 0, 0]] * 4)


def test_resizing_is_pillow_s() -> None:
    y, x = np.mgrid[0:60, 0:100].astype(np.float32)
    pixels = np.stack([127 + 100 * np.sin(x / 9 + k) * np.cos(y / 11 - k) for k in range(3)], axis=2).astype(np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(RowFormat(16, 3, "squash", "bicubic").square(pixels), expected)
    centre = np.asarray(Image.fromarray(pixels).crop((20, 0, 80, 60)).resize((16, 16), Image.Resampling.LANCZOS))
    cropped = RowFormat(16, 3, "crop", "lanczos").square(pixels)
    # not bit-equal at the edges, where the filter here also sees what lies outside of the square
    assert np.abs(cropped.astype(int) - centre).max() <= 12
    np.testing.assert_array_equal(cropped[:, 4:12], centre[:, 4:12])


# -------------------------------------------------------------------------------------------------------------- strips


@pytest.mark.parametrize(("size_px", "length_px"), [(32, 58), (224, 400), (1, 3)])
def test_a_strip_is_16_to_9(size_px: int, length_px: int) -> None:
    strip = RowFormat(size_px, 3, "short-side", "bilinear")
    assert strip.shape == (size_px, length_px, 3)
    assert strip.row_bytes == size_px * length_px * 3
    assert strip.empty(5).shape == (5, *strip.shape)
    assert RowFormat(size_px, 3, "crop", "bilinear").shape == (size_px, size_px, 3)


def test_the_margin_follows_from_the_aspect() -> None:
    assert margin_px(640, 480, 96) == margin_px(480, 640, 96) == 16  # 128 x 96: 16 on either side
    assert margin_px(50, 50, 96) == 0
    assert margin_px(101, 100, 96) == 0  # not a whole pixel
    assert margin_px(10_000, 100, 96) == largest_margin_px(96) == 38


def test_a_picture_with_the_strip_s_size_is_kept_bit_for_bit() -> None:
    strip = RowFormat(32, 3, "short-side", "bicubic")
    wide = noise(32, 40)
    row = strip.row(wide)
    np.testing.assert_array_equal(row[:, 9:49], wide)  # 58 columns, 40 of them in the middle
    assert not row[:, :9].any()
    assert not row[:, 49:].any()
    tall = np.ascontiguousarray(wide.transpose(1, 0, 2))
    np.testing.assert_array_equal(strip.row(tall), row)
    np.testing.assert_array_equal(strip.square(tall), tall[4:36])


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size_px=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    interpolation=st.sampled_from(INTERPOLATIONS),
)
@settings(deadline=None)
def test_the_middle_of_a_strip_is_the_square_of_prediction(
    width: int, height: int, size_px: int, channels: Channels, interpolation: Interpolation
) -> None:
    strip = RowFormat(size_px, channels, "short-side", interpolation)
    pixels = noise(height, width, channels)
    square = strip.square(pixels)
    assert square.shape == (size_px, size_px, channels)
    kept = strip.squares(strip.row(pixels)[None], np.array([[width, height]]))
    np.testing.assert_array_equal(kept[0], square)
    if interpolation == "bilinear":
        # That of `crop`, but for rounding: Pillow begins with rows or columns as it is cheaper. (The other filters
        # overshoot, and what is clipped between the two passes depends on the order.)
        cropped = RowFormat(size_px, channels, "crop", interpolation).square(pixels)
        assert np.abs(cropped.astype(int) - square).max() <= 1


@pytest.mark.parametrize("fit", ["squash", "crop", "pad", "short-side"])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (120, 60), (60, 121), (33, 47)])
def test_the_seen_box_is_where_the_square_came_from(fit: str, width: int, height: int) -> None:
    # A picture whose red and green say where each pixel is: what the square shows must lie where the box says.
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    pixels = np.stack([255 * x, 255 * y, np.full_like(x, 255)], axis=2).astype(np.uint8)
    form = RowFormat(16, 3, fit, "bilinear")  # type: ignore[arg-type]
    left, top, right, bottom = form.seen_box(width, height)
    square = form.square(pixels).astype(float)
    rows, columns = np.nonzero(square[..., 2] > 250)
    inner = (rows > 1) & (rows < 14) & (columns > 1) & (columns < 14)
    rows, columns = rows[inner], columns[inner]
    found_x, found_y = square[rows, columns, 0] / 255 * width, square[rows, columns, 1] / 255 * height
    np.testing.assert_allclose(left + (columns + 0.5) / 16 * (right - left), found_x, atol=0.02 * width)
    np.testing.assert_allclose(top + (rows + 0.5) / 16 * (bottom - top), found_y, atol=0.02 * height)


def test_a_thumbnail_looks_the_same_at_any_size_and_mode() -> None:
    dice = np.random.default_rng(0)
    coarse = Image.fromarray(dice.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    known = thumbnail(np.asarray(coarse.resize((360, 280), Image.Resampling.BICUBIC))).ravel().astype(float)
    for size in ((90, 70), (1800, 1400), (3603, 2811)):
        other = coarse.resize(size, Image.Resampling.BICUBIC)
        noisy = np.clip(np.asarray(other) + dice.normal(0, 8, (*other.size[::-1], 3)), 0, 255).astype(np.uint8)
        assert np.corrcoef(known, thumbnail(noisy).ravel())[0, 1] > 0.99
        grey = np.asarray(other.convert("L"))[..., None]
        assert np.corrcoef(known, thumbnail(grey).ravel())[0, 1] > 0.99
    assert thumbnail(np.zeros((1, 300, 1), np.uint8)).shape == (32, 32)

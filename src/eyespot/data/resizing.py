"""Decoded pixels of any shape in, the pixels that are kept of a picture out: the only place where pictures are resized.

Before this: `decoding` read a file. After this: `packing` and the streaming workers keep one row of bytes a picture,
`windows` cuts the squares of a batch out of rows that are longer than wide, and prediction resizes a single picture:
the same square for the same picture, to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from eyespot.arrays import Int64Array, UInt8Array

Fit: TypeAlias = Literal["squash", "crop", "pad", "short-side"]
Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Channels: TypeAlias = Literal[1, 3]

THUMBNAIL_PX = 32

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class RowFormat:
    """What is kept of every picture: one row, uint8 of `shape`.

    Attributes:
        size_px: Side S of the squares that the model takes.
        channels: C.
        fit: How a picture that is not S x S becomes S x S. `squash` stretches both sides to S; `crop` takes the largest
            centred square (short side to S), to fractions of a pixel; `pad` brings the long side to S, centres the
            picture and fills the rest with black. `short-side` keeps a strip: the short side becomes S, the aspect
            stays; training takes a random square along the long side, everything else the middle one.
        interpolation: Pillow's name of the resampling filter.
    """

    size_px: int
    channels: Channels
    fit: Fit
    interpolation: Interpolation

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (S, L, C): L is S, or the length of a strip."""
        length_px = self.size_px + (2 * largest_margin_px(self.size_px) if self.fit == "short-side" else 0)
        return self.size_px, length_px, self.channels

    @property
    def row_bytes(self) -> int:
        """Return the bytes that one picture takes."""
        return math.prod(self.shape)

    def empty(self, count: int) -> UInt8Array:
        """Return uint8 (count, S, L, C) with nothing in it yet."""
        return np.empty((count, *self.shape), np.uint8)

    def row(self, pixels: UInt8Array) -> UInt8Array:
        """Return uint8 (S, L, C), the row of a picture uint8 (H, W, C)."""
        if self.fit != "short-side":
            return self.square(pixels)
        strip = self._strip(pixels)
        row = np.zeros(self.shape, dtype=np.uint8)
        first = (row.shape[1] - strip.shape[1]) // 2
        row[:, first : first + strip.shape[1]] = strip
        return row

    def square(self, pixels: UInt8Array) -> UInt8Array:
        """Return the picture as the square that a model takes when it is not in training.

        A picture that has this size already comes back as it is, bit for bit. Otherwise Pillow resamples, with its
        filter widened where the picture shrinks (antialiasing), in uint8.

        Args:
            pixels: uint8 (H, W, C), C 1 or 3, of any aspect ratio.

        Returns:
            uint8 (S, S, C).
        """
        if self.fit == "pad":
            return self._padded(pixels)
        if self.fit == "short-side":
            strip = self._strip(pixels)
            first = (strip.shape[1] - self.size_px) // 2
            middle = strip[:, first : first + self.size_px]
            return np.ascontiguousarray(_turned(middle)) if _is_portrait(pixels) else middle
        # One step instead of resizing and then cutting: a picture of 1 x 20000 never becomes one of S x 20000 S.
        height, width = pixels.shape[:2]
        return self._resample(pixels, (self.size_px, self.size_px), self.seen_box(width, height))

    def seen_box(self, width_px: int, height_px: int) -> tuple[float, float, float, float]:
        """Return the part of a picture that its `square` shows: left, top, right, bottom in the picture's pixels.

        With `pad` it reaches over the edges of the picture, where the square is black.
        """
        if self.fit == "squash":
            return 0.0, 0.0, float(width_px), float(height_px)
        if self.fit == "pad":
            across, down = self._padded_size(width_px, height_px)
            left_px, top_px = (self.size_px - across) // 2, (self.size_px - down) // 2
            step_x, step_y = width_px / across, height_px / down
            left, top = -left_px * step_x, -top_px * step_y
            return left, top, left + self.size_px * step_x, top + self.size_px * step_y
        side = min(width_px, height_px)
        left, top = (width_px - side) / 2, (height_px - side) / 2
        return left, top, left + side, top + side

    def squares(self, rows: UInt8Array, sizes_px: Int64Array) -> UInt8Array:
        """Return the squares that `square` gives for the same pictures.

        Args:
            rows: uint8 (N, S, L, C), as `row` makes them.
            sizes_px: int64 (N, 2), width and height of the decoded pictures.

        Returns:
            uint8 (N, S, S, C).
        """
        if self.fit != "short-side":
            return rows
        first = largest_margin_px(self.size_px)
        lying = rows[:, :, first : first + self.size_px]
        portrait = (sizes_px[:, 1] > sizes_px[:, 0])[:, None, None, None]
        return np.where(portrait, lying.transpose(0, 2, 1, 3), lying)

    def _strip(self, pixels: UInt8Array) -> UInt8Array:
        """Return uint8 (S, S + 2 * margin, C) around the middle of a picture; one that stands upright is laid down."""
        height, width = pixels.shape[:2]
        short_px = min(height, width)
        margin = margin_px(width, height, self.size_px)
        length_px = self.size_px + 2 * margin
        # As for `crop`, a whole number of packed pixels further on both sides.
        middle, half = max(height, width) / 2, short_px * length_px / self.size_px / 2
        first, last = max(0.0, middle - half), min(2 * middle, middle + half)  # rounding must not lead out of it
        if _is_portrait(pixels):
            return _turned(self._resample(pixels, (self.size_px, length_px), (0, first, width, last)))
        return self._resample(pixels, (length_px, self.size_px), (first, 0, last, height))

    def _padded(self, pixels: UInt8Array) -> UInt8Array:
        height, width, channels = pixels.shape
        target = self._padded_size(width, height)
        resized = self._resample(pixels, target, (0, 0, width, height))
        if target == (self.size_px, self.size_px):
            return resized
        square = np.zeros((self.size_px, self.size_px, channels), dtype=np.uint8)
        left_px, top_px = (self.size_px - target[0]) // 2, (self.size_px - target[1]) // 2
        square[top_px : top_px + target[1], left_px : left_px + target[0]] = resized
        return square

    def _padded_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Return the width and height of a picture inside its padded square."""
        scale = self.size_px / max(height_px, width_px)
        return max(1, round(width_px * scale)), max(1, round(height_px * scale))

    def _resample(
        self, pixels: UInt8Array, target: tuple[int, int], box: tuple[float, float, float, float]
    ) -> UInt8Array:
        """Return uint8 (target[1], target[0], C), the part of the picture inside `box` (left, top, right, bottom)."""
        height, width, channels = pixels.shape
        if target == (width, height) and box == (0, 0, width, height):
            return pixels
        picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
        resized = np.asarray(picture.resize(target, _RESAMPLING[self.interpolation], box=box))
        return resized.reshape(target[1], target[0], channels)


def thumbnail(pixels: UInt8Array) -> UInt8Array:
    """Return all of a picture, uint8 (H, W, C) with C 1 or 3, small, square and grey: uint8 (32, 32).

    It says how a picture looks, whatever a recipe keeps of it: near copies are found by it.
    """
    # Of a large photograph every so many-th pixel is enough: some hundred of them become one.
    step = max(1, min(pixels.shape[:2]) // (8 * THUMBNAIL_PX))
    pixels = np.ascontiguousarray(pixels[step // 2 :: step, step // 2 :: step])
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("L")
    return np.asarray(picture.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR))


def largest_margin_px(size_px: int) -> int:
    """Return how far a strip may reach beyond the middle square on either side: to 16:9, what is longer is cut."""
    return -(-size_px * 7 // 18)


def margin_px(width_px: int, height_px: int, size_px: int) -> int:
    """Return how many whole packed pixels the strip of a picture reaches beyond its middle square on either side."""
    short, long = sorted((width_px, height_px))
    return min((long - short) * size_px // (2 * short), largest_margin_px(size_px))


def _is_portrait(pixels: UInt8Array) -> bool:
    return bool(pixels.shape[0] > pixels.shape[1])


def _turned(pixels: UInt8Array) -> UInt8Array:
    """Return (W, H, C): rows and columns exchanged."""
    return pixels.transpose(1, 0, 2)

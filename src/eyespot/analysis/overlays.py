"""Heat maps laid over the pictures they belong to, at the place of the picture that the model looked at.

Before this: `heatmaps`, and the box of `RowFormat.seen_box`. After this: `gallery` and the report.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from PIL import Image

from eyespot.arrays import Float32Array, FloatArray, UInt8Array

_SHOWN_PX = 240  # longest side of a picture on a page
_ENLARGED_PX = 160  # about this for small pictures, by a whole factor so that their pixels stay squares
_STRONGEST = 0.72  # of the colour over the picture: under the hottest place the picture is still to be seen
_FADED = 0.35  # what is left of the parts that the model did not see


def shown_picture(pixels: UInt8Array) -> UInt8Array:
    """Return a picture at the size of a page: large ones shrunk, small ones enlarged by a whole factor.

    Args:
        pixels: uint8 (H, W, C), C 1 or 3.

    Returns:
        uint8 (H', W', 3).
    """
    height, width = pixels.shape[:2]
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    longest = max(height, width)
    if longest > _SHOWN_PX:
        size = (max(1, round(width * _SHOWN_PX / longest)), max(1, round(height * _SHOWN_PX / longest)))
        return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    factor = max(1, _ENLARGED_PX // longest)
    return np.asarray(picture.resize((width * factor, height * factor), Image.Resampling.NEAREST))


def lay_over(shown: UInt8Array, heat: Float32Array, box: tuple[float, float, float, float]) -> UInt8Array:
    """Return a picture in grey with a heat map in colour on it; what the model did not see is faded.

    Args:
        shown: uint8 (H, W, 3).
        heat: float32 (S, S) in [0, 1].
        box: Left, top, right and bottom of the square that the model saw, as shares of the picture's width and height;
            it may reach over the edges.

    Returns:
        uint8 (H, W, 3).
    """
    height, width = shown.shape[:2]
    left, top, right, bottom = box
    columns = ((np.arange(width) + 0.5) / width - left) / max(right - left, 1e-9)  # 0 to 1 inside the square
    rows = ((np.arange(height) + 0.5) / height - top) / max(bottom - top, 1e-9)
    seen = ((rows >= 0) & (rows <= 1))[:, None] & ((columns >= 0) & (columns <= 1))[None]
    placed = np.where(seen, _sampled(heat, rows, columns), 0.0)[:, :, None]
    grey = shown.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    base = np.repeat(40 + 0.8 * grey[:, :, None], 3, axis=2)
    color = 255 * _inferno()(0.3 + 0.7 * placed[:, :, 0])[:, :, :3]
    alpha = _STRONGEST * np.sqrt(placed)
    mixed = base * (1 - alpha) + color * alpha
    faded = 235 * (1 - _FADED) + base * _FADED
    return np.asarray(np.clip(np.where(seen[:, :, None], mixed, faded), 0, 255).round(), dtype=np.uint8)


def _inferno() -> Any:
    """Return the colour map, without matplotlib's words on stderr where it can write nothing into the home folder."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from matplotlib import colormaps
    finally:
        logger.setLevel(before)
    return colormaps["inferno"]


def _sampled(heat: Float32Array, rows: FloatArray, columns: FloatArray) -> Float32Array:
    """Return the map at places given as shares of its sides: bilinear, the edge goes on."""
    size = heat.shape[0]
    y, x = np.clip(rows * size - 0.5, 0, size - 1), np.clip(columns * size - 0.5, 0, size - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    below, beside = np.minimum(top + 1, size - 1), np.minimum(left + 1, size - 1)
    down, across = (y - top)[:, None], (x - left)[None]
    upper = heat[top][:, left] * (1 - across) + heat[top][:, beside] * across
    lower = heat[below][:, left] * (1 - across) + heat[below][:, beside] * across
    return np.asarray(upper * (1 - down) + lower * down, dtype=np.float32)

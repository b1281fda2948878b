"""Pictures of a data set side by side, as PNG or as a page: look before you train.

Before this: packed pixels and labels. After this: the file that `eyespot data show` names.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eyespot.analysis.charts import shorten
from eyespot.analysis.pages import png_data_uri, render_page, to_picture, write_page
from eyespot.arrays import Int64Array, UInt8Array
from eyespot.errors import UsageError
from eyespot.files import write_atomic

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

# Small pictures are enlarged by a whole factor to about this side, so that their pixels stay squares.
_ENLARGED_PX = 96
_LARGEST_PX = 192
_GAP_PX = 8
_EDGE_PX = 24
_CAPTION_PX = 15
_HEADING_PX = 17
# A name of 200 letters would push the pictures a screen to the right.
_HEADING_LETTERS = 40
_TITLE_PX = 24
_INK, _QUIET, _PAPER = (28, 30, 33), (96, 100, 106), (255, 255, 255)
# Pillow refuses to make pictures that its own reader would take for an attack.
_MOST_PIXELS = 89_000_000


def pick_first(total: int, count: int) -> Int64Array:
    """Return the indices int64 of the first `count` of `total` pictures, or of all where there are fewer.

    Raises:
        UsageError: `count` is below 1.
    """
    return np.arange(min(_at_least_one(count), total), dtype=np.int64)


def pick_random(total: int, count: int, seed: int) -> Int64Array:
    """Return the indices int64 of `count` of `total` pictures in random order, none twice; all where there are fewer.

    Raises:
        UsageError: `count` is below 1.
    """
    order = np.random.default_rng(seed).permutation(total)
    return order[: _at_least_one(count)].astype(np.int64)


def pick_per_class(labels: Int64Array, count: int, seed: int | None = None) -> Int64Array:
    """Return the indices int64 of up to `count` pictures of each class, class after class.

    Args:
        labels: int64 (N,).
        count: Pictures of each class; a class with fewer gives all it has.
        seed: Draws them at random; None takes the first.

    Raises:
        UsageError: `count` is below 1.
    """
    _at_least_one(count)
    order = np.arange(len(labels)) if seed is None else np.random.default_rng(seed).permutation(len(labels))
    picked: list[Int64Array] = [order[labels[order] == label][:count] for label in np.unique(labels)]
    return np.concatenate([*picked, np.empty(0, dtype=np.int64)]).astype(np.int64)


def _at_least_one(count: int) -> int:
    if count < 1:
        raise UsageError(f"{count} pictures to show", remedy="ask for at least 1")
    return count


def write_grid(
    pixels: UInt8Array,
    captions: Sequence[str],
    path: Path,
    *,
    columns: int,
    title: str,
    row_names: Sequence[str] | None = None,
) -> None:
    """Write pictures in rows, each over its caption, as `.png` or as a self-contained `.html`.

    Args:
        pixels: uint8 (N, H, W, C) with C 1 or 3.
        captions: N texts; where all are empty no room is kept for them.
        path: The file; its ending decides.
        columns: Pictures in a row of a PNG; a page wraps to the width of its window.
        title: Written above them.
        row_names: N headings; a row ends where the heading changes, and it stands left of the rows it is for.

    Raises:
        UsageError: Another ending than .png or .html, no pictures, or more than a PNG can hold.
        RunError: The file cannot be written.
    """
    names = list(row_names) if row_names is not None else [""] * len(pixels)
    if not len(pixels) == len(captions) == len(names):
        raise ValueError(f"{len(pixels)} pictures, {len(captions)} captions, {len(names)} row names")
    if not len(pixels):
        raise UsageError("no pictures to show", where=title, remedy="choose a split or a class that has some")
    rows = _split_rows(names, _at_least_one(columns))
    ending = path.suffix.lower()
    if ending == ".png":
        rows = [_Row(shorten(_printable(row.name), _HEADING_LETTERS), row.indices) for row in rows]
        captions = [_printable(caption) for caption in captions]
        write_atomic(path, _draw_png(pixels, captions, rows, columns, _printable(title)))
    elif ending in {".html", ".htm"}:
        write_page(_render_html(pixels, captions, rows, title), path)
    else:
        raise UsageError(
            f"cannot write pictures as {ending or 'a file without an ending'!r}", where=path, remedy="use .png or .html"
        )


@dataclass(frozen=True)
class _Row:
    """One row: its heading, empty where it goes on from the row above, and the indices of its pictures."""

    name: str
    indices: range


def _printable(text: str) -> str:
    """Return text on one line without what cannot be drawn: names of folders may hold line breaks and broken bytes."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _split_rows(names: Sequence[str], columns: int) -> list[_Row]:
    """Return the rows: a new one where the heading changes or the row is full."""
    rows: list[_Row] = []
    start = 0
    for index in range(1, len(names) + 1):
        if index == len(names) or names[index] != names[start]:
            for first in range(start, index, columns):
                rows.append(_Row(names[start] if first == start else "", range(first, min(first + columns, index))))
            start = index
    return rows


def _render_html(pixels: UInt8Array, captions: Sequence[str], rows: list[_Row], title: str) -> str:
    """Return a page that wraps the pictures to the width of the window."""
    groups: list[tuple[str, list[dict[str, str]]]] = []
    for row in rows:
        if row.name or not groups:
            groups.append((row.name, []))
        for index in row.indices:
            caption = captions[index]
            words = ", ".join(filter(None, (groups[-1][0], caption))) or f"picture {index + 1}"
            groups[-1][1].append({"src": png_data_uri(pixels[index], _LARGEST_PX), "caption": caption, "alt": words})
    small = max(pixels.shape[1:3]) < _ENLARGED_PX
    return render_page("grid.html.j2", {"title": title, "groups": groups, "count": len(pixels), "small": small})


def _draw_png(pixels: UInt8Array, captions: Sequence[str], rows: list[_Row], columns: int, title: str) -> bytes:
    """Return the picture of all pictures as the bytes of a PNG."""
    from PIL import Image, ImageDraw

    fonts = _Fonts()
    width, height = _cell_size(pixels.shape[1], pixels.shape[2])
    columns = min(columns, max(len(row.indices) for row in rows))
    caption_height = _CAPTION_PX + 6 if any(captions) else 0
    heading_width = max((fonts.width(row.name, _HEADING_PX) for row in rows), default=0)
    left = _EDGE_PX + (heading_width + 2 * _GAP_PX if heading_width else 0)
    top = _EDGE_PX + _TITLE_PX + 2 * _GAP_PX
    step_x, step_y = width + _GAP_PX, height + caption_height + _GAP_PX
    grid_right = left + columns * step_x - _GAP_PX
    total_width = max(grid_right, _EDGE_PX + fonts.width(title, _TITLE_PX)) + _EDGE_PX
    total_height = top + len(rows) * step_y - _GAP_PX + _EDGE_PX
    if total_width * total_height > _MOST_PIXELS:
        raise UsageError(
            f"{len(pixels)} pictures make a PNG of {total_width} x {total_height} pixels",
            remedy="show fewer, or write .html",
        )

    sheet = Image.new("RGB", (total_width, total_height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_EDGE_PX, _EDGE_PX - 4), title, fill=_INK, font=fonts.of(_TITLE_PX))
    for number, row in enumerate(rows):
        y = top + number * step_y
        if row.name:
            x = left - 2 * _GAP_PX - fonts.width(row.name, _HEADING_PX)
            draw.text((x, y + height // 2), row.name, fill=_INK, font=fonts.of(_HEADING_PX), anchor="lm")
        for place, index in enumerate(row.indices):
            x = left + place * step_x
            sheet.paste(_scaled(pixels[index], width, height), (x, y))
            _draw_caption(draw, fonts, captions[index], (x + width // 2, y + height + 4), width)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _cell_size(height: int, width: int) -> tuple[int, int]:
    """Return (width, height) at which a picture is shown: a whole multiple if it is small, at most 192 px if large."""
    side = max(height, width)
    if side > _LARGEST_PX:
        return max(1, round(width * _LARGEST_PX / side)), max(1, round(height * _LARGEST_PX / side))
    factor = max(1, round(_ENLARGED_PX / side))
    return width * factor, height * factor


def _scaled(pixels: UInt8Array, width: int, height: int) -> Image.Image:
    from PIL import Image

    larger = width > pixels.shape[1] or height > pixels.shape[0]
    picture = to_picture(pixels).convert("RGB")
    return picture.resize((width, height), Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)


def _draw_caption(draw: ImageDraw.ImageDraw, fonts: _Fonts, caption: str, place: tuple[int, int], width: int) -> None:
    """Write a caption centred under its picture, shortened with an ellipsis to the picture's width."""
    text = caption
    while text and fonts.width(text, _CAPTION_PX) > width:
        text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
    draw.text(place, text, fill=_QUIET, font=fonts.of(_CAPTION_PX), anchor="ma")


class _Fonts:
    """DejaVu Sans in the sizes asked for: class names come in many alphabets, and Pillow's own typeface is ASCII."""

    def __init__(self) -> None:
        self._sizes: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}

    def of(self, size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        """Return the typeface in a size."""
        from PIL import ImageFont

        if size_px not in self._sizes:
            file = _dejavu()
            self._sizes[size_px] = ImageFont.truetype(str(file), size_px) if file else ImageFont.load_default(size_px)
        return self._sizes[size_px]

    def width(self, text: str, size_px: int) -> int:
        """Return how many pixels a text is wide."""
        return round(self.of(size_px).getlength(text))


def _dejavu() -> Path | None:
    """Return the font file that comes with matplotlib, found without importing it, or None."""
    from importlib.util import find_spec

    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return file if file.is_file() else None

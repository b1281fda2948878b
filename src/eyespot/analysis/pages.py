"""Self-contained pages: templates filled with everything escaped, pictures inside, written whole or not at all.

Before this: what `report` and `grids` want to show. After this: one HTML file that opens offline and asks nobody for
anything; its own Content-Security-Policy forbids every request.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from eyespot.arrays import UInt8Array
from eyespot.errors import printable
from eyespot.files import write_atomic

# Characters without a look of their own that turn the text after them around: `exe.png` may be the name of a program.
_TURNED = {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Pictures are shown at most this large, so that twenty photographs do not make a page of 50 MB.
_PICTURE_PX = 160
# Up to here, enlarged pixels are shown as squares: smoothing would show what the model never saw.
_PIXELATED_PX = 72
_JPEG_QUALITY = 85
# A number and its unit, `n = 10` or `p < 0.001`, that a line break would tear apart.
_UNIT = re.compile(
    r"(?<=\d) (?=%|s\b|h\b|min\b|MB\b|GB\b|kB\b|views?\b|points?\b)|(?<=\b[np]) (?=[=<>])|(?<=\b[np] [=<>]) (?=\d)"
)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]{,20}(?![\w-])")


def to_picture(pixels: UInt8Array) -> Image.Image:
    """Return a picture of uint8 (H, W, C) with C 1, 3 or 4 (RGBA)."""
    mode = _MODES[pixels.shape[2]]
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if mode == "L" else pixels))


def png_data_uri(pixels: UInt8Array, max_side_px: int = 0) -> str:
    """Return a picture as a `data:` URI that a page can hold.

    Args:
        pixels: uint8 (H, W, C) with C 1, 3 or 4 (RGBA).
        max_side_px: Larger pictures are scaled down to this; 0 keeps every size.
    """
    picture = to_picture(pixels)
    if max_side_px:
        picture.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue(), "png")


def jpeg_data_uri(pixels: UInt8Array) -> str:
    """Return a picture uint8 (H, W, 3) as a small `data:` URI that a page can hold."""
    buffer = io.BytesIO()
    to_picture(pixels).save(buffer, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    return data_uri(buffer.getvalue(), "jpeg")


def thumbnail(pixels: UInt8Array) -> dict[str, Any]:
    """Return `src` of a picture uint8 (H, W, C), made small, and `pixelated`: whether its pixels are to be squares."""
    return {"src": png_data_uri(pixels, _PICTURE_PX), "pixelated": max(pixels.shape[:2]) <= _PIXELATED_PX}


def data_uri(data: bytes, kind: str) -> str:
    """Return the bytes of a picture file (`png`, `jpeg`) as a `data:` URI that a page can hold."""
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def keep_together(text: object) -> Markup:
    """Return text as HTML that breaks no line between a number and its unit, nor inside of an option like `--set`."""
    return keep_options(_UNIT.sub("\N{NO-BREAK SPACE}", str(text)))


def keep_options(text: object) -> Markup:
    """Return text as HTML that breaks no line inside of an option; a command that is copied is what it was."""
    return Markup(_OPTION.sub(r'<span class="nowrap">\g<0></span>', str(escape(text))))


def isolate_folders(path: str) -> Markup:
    """Return a path as HTML that may break after its slashes; no right-to-left name moves the names beside it."""
    return Markup("/<wbr>").join(Markup("<bdi>{}</bdi>").format(part) for part in printable(path).split("/"))


def render_page(template: str, context: Mapping[str, Any]) -> str:
    """Return a template of this room filled in; every value is escaped unless it is `Markup`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eyespot.analysis", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["together"] = keep_together
    environment.filters["command"] = keep_options
    environment.filters["folders"] = isolate_folders
    return environment.get_template(template).render(context)


def write_page(html: str, path: Path) -> None:
    """Write a page so that the file is at any moment the old one or the new one, never half of it.

    Raises:
        RunError: The folder is missing or read-only, or the disk is full.
    """
    # File names that are not valid Unicode arrive as lone surrogates, which UTF-8 cannot hold.
    write_atomic(path, html.translate(_TURNED).encode("utf-8", errors="backslashreplace"))

"""Hostile pictures: each gets an answer or a documented refusal, and none keeps the server."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from eyespot.deployment.engine import open_engine
from eyespot.deployment.limits import Limits
from eyespot.runs import Run

from .test_server import RAW, Running


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
PICTURES: dict[str, tuple[bytes, set[int]]] = {}
for kind in KINDS:
    whole = encoded(kind)
    PICTURES[f"whole {kind}"] = (whole, {200})
    for share in (0.02, 0.1, 0.3, 0.6, 0.95):
        PICTURES[f"{kind} cut at {share:.0%}"] = (whole[: max(3, int(share * len(whole)))], {200, 422})
    noise = bytearray(whole)
    for place in range(len(noise) // 3, len(noise), 7):
        noise[place] ^= 0x5A
    PICTURES[f"{kind} with noise"] = (bytes(noise), {200, 413, 422})
PICTURES |= {
    "grey": (encoded("PNG", "L"), {200}),
    "palette": (encoded("PNG", "P"), {200}),
    "alpha": (encoded("PNG", "RGBA"), {200}),
    "CMYK": (encoded("JPEG", "CMYK"), {200}),
    "1 x 1": (encoded("PNG", size=(1, 1)), {200}),
    "1 x 20000": (encoded("PNG", size=(1, 20000)), {200}),
    "PNG of 100000 x 100000": (png_header(100_000, 100_000), {413, 422}),
    "PNG of 0 x 0": (png_header(0, 0), {422}),
    "PDF": (b"%PDF-1.7 " + bytes(99), {422}),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {422}),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", {422}),
    "ZIP": (b"PK\x03\x04" + bytes(99), {422}),
    "HTML": (b"<!doctype html><script>", {422}),
    "pickle": (b"\x80\x04\x95\x0b", {422}),
    "zeros": (bytes(1000), {422}),
    "one byte": (b"\xff", {422}),
}


@pytest.fixture(scope="module")
def client(trained: Run) -> Iterator[httpx.Client]:
    server = Running(open_engine(trained.path, engine="torch"), Limits())
    with httpx.Client(base_url=server.url, timeout=10) as client:
        yield client
    server.close()


@pytest.mark.parametrize("name", PICTURES)
def test_every_hostile_picture_has_its_status_and_does_not_hang(client: httpx.Client, name: str) -> None:
    data, statuses = PICTURES[name]
    started = time.monotonic()
    found = client.post("/v1/predict", content=data, headers=RAW)
    assert time.monotonic() - started < 5
    assert found.status_code in statuses, found.text
    if found.status_code != 200:
        assert found.json()["what"]
        smaller = "smaller" in found.json()["remedy"]
        assert smaller == (found.status_code == 413), "a PNG over the limits is not asked for as PNG again"


def test_the_server_is_well_after_all_that(client: httpx.Client) -> None:
    assert client.get("/readyz").status_code == 200

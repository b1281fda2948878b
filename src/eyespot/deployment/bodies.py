"""Bodies of requests, read within their bounds: a raw picture, or a form with several files.

Before this: the headers of a request. After this: the bytes of pictures, for `batching`. Nothing is written to disk, no
name that a client gives is opened, no address is fetched, and no JSON is read.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from eyespot.deployment.limits import Limits
from eyespot.deployment.problems import Problem, busy

if TYPE_CHECKING:
    from collections.abc import Iterator

# Named in the interface's description; any other `image/...` is read as well.
RAW_TYPES = (
    *("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff", "image/jp2", "image/avif"),
    *("image/x-portable-anymap", "application/octet-stream"),
)
FORM_TYPE = "multipart/form-data"
_MAX_NAME = 255
_MAX_PART_HEADER = 4096
_ONE_WAY = f"send the bytes of a picture as {RAW_TYPES[0]} or another image type, or a form as {FORM_TYPE}"

Receive = Callable[[], Awaitable[Any]]


class Upload(NamedTuple):
    """The bytes of one file, and the name that the client gives it; the name is only ever said back."""

    name: str
    data: bytes


class HeldBytes:
    """How many bytes of bodies are in memory, and no more than allowed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.count = 0

    @contextmanager
    def reserve(self) -> Iterator[Callable[[int], None]]:
        """Give a function that takes bytes out of what is allowed; they come back at the end."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if self.count + count > self._most:
                raise busy("the server holds too many bytes of other requests")
            taken += count
            self.count += count

        try:
            yield take
        finally:
            self.count -= taken


async def read_body(receive: Receive, length: int | None, limits: Limits, take: Callable[[int], None]) -> bytes:
    """Return the body of a request.

    Args:
        receive: ASGI's.
        length: What the client announced; None where it did not.
        limits: How large and how slow it may be.
        take: Told about every piece before it is kept.

    Raises:
        Problem: 408 slow, 413 large, 503 no room for it; 400 the client left.
    """
    import anyio

    if length is not None and length > limits.body_bytes:
        raise _too_large(limits)
    pieces, received = [], 0
    started = last = time.monotonic()
    while True:
        # A pace alone would let a client that sends nearly all at once be silent for an hour, and hold its bytes.
        paced = started + limits.body_seconds + received / limits.body_bytes_per_second
        until = min(paced, last + limits.body_seconds, started + limits.whole_body_seconds)
        with anyio.move_on_after(max(0.0, until - time.monotonic())):
            message = await receive()
            last = time.monotonic()
            if message["type"] == "http.disconnect":
                raise Problem(400, "the client left", close=True)
            piece = message.get("body", b"")
            received += len(piece)
            if received > limits.body_bytes:
                raise _too_large(limits)
            take(len(piece))
            pieces.append(piece)
            if not message.get("more_body", False):
                return b"".join(pieces)
            continue
        raise Problem(
            408,
            f"{received:,} bytes of the body in {time.monotonic() - started:.1f} s",
            remedy=f"send at least {limits.body_bytes_per_second:,} bytes a second without pauses, and all of it within"
            f" {limits.whole_body_seconds:g} s",
            close=True,
        )


def _too_large(limits: Limits) -> Problem:
    most = limits.body_bytes // 1024**2
    return Problem(413, f"a body of more than {most} MB", remedy="send fewer or smaller pictures", close=True)


def parse_body(content_type: str, body: bytes, limits: Limits) -> list[Upload]:
    """Return the pictures of a body.

    Args:
        content_type: The header; empty counts as raw bytes.
        body: All of it.
        limits: How many pictures there may be.

    Raises:
        Problem: 400 a broken form, 413 too many pictures, 415 another type, 422 no picture in it.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == FORM_TYPE:
        uploads = _parse_form(content_type, body, limits)
    elif kind in RAW_TYPES or kind.startswith("image/") or not kind:  # image/jpg: what a picture is, its bytes say
        uploads = [Upload("picture 1", body)] if body else []
    else:
        raise Problem(415, f"a body of type {kind[:80]!r}", remedy=_ONE_WAY)
    if not uploads:
        raise Problem(422, "no picture in the body", remedy=_ONE_WAY)
    return uploads


def _parse_form(content_type: str, body: bytes, limits: Limits) -> list[Upload]:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    boundary = parse_options_header(content_type.encode("latin-1", "replace"))[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:  # RFC 2046
        raise Problem(400, "a form without a boundary", remedy=_ONE_WAY)
    parts = _Parts(limits)
    try:
        parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Problem(400, "a broken form", remedy=_ONE_WAY) from error
    if not parts.ended:
        raise Problem(400, "a form that ends too early", remedy="send all of it")
    return parts.uploads


class _Parts:
    """The parts of a form, as its parser meets them."""

    def __init__(self, limits: Limits) -> None:
        self.uploads: list[Upload] = []
        self.ended = False
        self._limits = limits
        self._field = self._value = b""
        self._disposition = b""
        self._header_bytes = 0
        self._data: list[bytes] = []

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """Return what the parser calls."""
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "end")
        return {f"on_{name}": getattr(self, f"_{name}") for name in names}

    def _part_begin(self) -> None:
        if len(self.uploads) == self._limits.pictures:
            raise Problem(413, f"more than {self._limits.pictures} pictures", remedy="send them in several requests")
        self._disposition, self._data, self._header_bytes = b"", [], 0

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += self._counted(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted(data[start:end])

    def _counted(self, piece: bytes) -> bytes:
        self._header_bytes += len(piece)
        if self._header_bytes > _MAX_PART_HEADER:
            raise Problem(400, "a part with a header that is too long", remedy=_ONE_WAY)
        return piece

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _part_end(self) -> None:
        from python_multipart.multipart import parse_options_header

        options = parse_options_header(self._disposition)[1]
        if b"filename" not in options:
            field = options.get(b"name", b"").decode("utf-8", "replace")[:80]
            raise Problem(
                422, f"the part {field!r} is no file", remedy="send files only; options such as top_k go into the query"
            )
        self.uploads.append(
            Upload(_plain(options[b"filename"]) or f"picture {len(self.uploads) + 1}", b"".join(self._data))
        )

    def _end(self) -> None:
        self.ended = True


def _plain(name: bytes) -> str:
    """Return a client's name of a file on one line, without folders; it is said back and never opened."""
    text = name.decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2][:_MAX_NAME]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)

"""Connections that are too slow, too long-winded or too many, ended before they reach the application.

uvicorn bounds none of these: a connection that never sends its headers, or never takes its answer, would stay open for
ever. Refusals for want of room are written here, too: under load there are far more of them than answers, and each must
cost next to nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from eyespot.deployment.limits import Limits
from eyespot.errors import MissingExtraError

Refuse = Callable[[bytes, bytes], "bytes | None"]
"""Takes method and target of a request; returns the response that ends it before its body is read, or None."""

_HEAD, _BODY, _BETWEEN = range(3)  # what a connection brings next
_LEAVE_AT_STOP_SECONDS = 5.0  # for answers that are under way when the server is to end


class _ClosedBehindBody:
    """A transport as uvicorn's request sees it, which ends the connection in our way."""

    def __init__(self, transport: Any, close: Callable[[], None]) -> None:
        self._transport = transport
        self.close = close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def bounded_protocol(limits: Limits, refuse: Refuse = lambda method, target: None) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP protocol with bounds on headers and connections.

    Args:
        limits: The bounds.
        refuse: Asked about each request when its headers are there.

    Raises:
        MissingExtraError: httptools is not installed.
    """
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError as error:
        raise MissingExtraError("httptools", "serve") from error
    base: Any = HttpToolsProtocol

    class BoundedProtocol(base):  # type: ignore[misc]
        """One connection."""

        _timer: asyncio.TimerHandle | None = None
        _state = _HEAD
        _head_bytes = 0
        _unread_bytes = 0  # of a body whose request was answered before it came
        _refused = False
        _ending = False  # nothing more is answered: what still comes of a body is thrown away
        _steps = 0  # requests begun and ended
        _cut_timer: asyncio.TimerHandle | None = None
        _leave_seconds = limits.leave_seconds

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=0)  # pause_writing as soon as the client does not take all
            if len(self.connections) > limits.connections:
                self._end(b"503 Service Unavailable\r\nretry-after: 1")
                return
            self._wait(self._too_slow)

        def data_received(self, data: bytes) -> None:
            before = self._steps
            super().data_received(data)
            if self.transport.is_closing():
                return
            if self._state == _HEAD or (self._state == _BETWEEN and self._steps == before):  # or but line breaks
                # A piece that holds earlier requests, too, may be long without this head being so: the next ones count.
                self._head_bytes = self._head_bytes + len(data) if self._steps == before else 0
                if self._head_bytes > limits.header_bytes:
                    self._end(b"431 Request Header Fields Too Large")
                elif self._timer is None:
                    self._wait(self._too_slow)
            elif self._ending or (self._state == _BODY and self._is_answered()):
                self._unread_bytes += len(data)
                if self._unread_bytes > limits.unread_bytes:
                    self._leave()
                elif self._timer is None:
                    self._wait(self._leave, limits.leave_seconds)
            else:
                self._stop_waiting()
                self._head_bytes = self._unread_bytes = 0

        def on_headers_complete(self) -> None:
            if self._ending:
                return
            self._state = _BODY
            self._steps += 1
            response = None
            # Else it would come before an earlier answer, or fill the memory beside one that the client does not take.
            if (self.cycle is None or self.cycle.response_complete) and self._cut_timer is None:
                response = refuse(self.parser.get_method(), self.url)
            if response is None:
                super().on_headers_complete()
                self.cycle.transport = _ClosedBehindBody(self.transport, self._close_behind_body)
                return
            self._refused = True
            self._stop_waiting()
            self.transport.write(response)
            if self.parser.should_keep_alive():
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
            else:
                self._close_behind_body()

        def on_body(self, body: bytes) -> None:
            if not self._refused and not self._ending:
                super().on_body(body)

        def on_message_begin(self) -> None:
            self._state = _HEAD
            super().on_message_begin()

        def on_message_complete(self) -> None:
            self._state = _BETWEEN
            self._steps += 1
            if self._ending:
                self._leave()
                return
            if not self._refused:
                super().on_message_complete()
            self._refused = False

        def on_response_complete(self) -> None:
            if not self._ending:  # else the next request of a pipeline would be begun
                super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            self._stop_cutting()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._cut_timer = self.loop.call_later(self._leave_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_cutting()

        def shutdown(self) -> None:
            super().shutdown()
            self._leave_seconds = min(limits.leave_seconds, _LEAVE_AT_STOP_SECONDS)
            if self._ending:
                self._leave()
            if self._cut_timer is not None:
                self._stop_cutting()
                self._cut_timer = self.loop.call_later(self._leave_seconds, self.transport.abort)

        def _is_answered(self) -> bool:
            return self._refused or (self.cycle is not None and self.cycle.response_complete)

        def _close_behind_body(self) -> None:
            """End the connection when the body is read: closed over unread bytes, the client would lose its answer."""
            if self._state != _BODY:
                self.transport.close()
                return
            self._ending = True
            self._stop_waiting()
            self._wait(self._leave, limits.leave_seconds)
            self.flow.resume_reading()

        def _wait(self, then: Callable[[], None], seconds: float = limits.header_seconds) -> None:
            self._timer = self.loop.call_later(seconds, then)

        def _stop_cutting(self) -> None:
            if self._cut_timer is not None:
                self._cut_timer.cancel()
                self._cut_timer = None

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if not self.transport.is_closing():
                self._end(b"408 Request Timeout")

        def _leave(self) -> None:
            """End the connection without a word: its request has had an answer."""
            self._stop_waiting()
            self.transport.close()

        def _end(self, status: bytes) -> None:
            self._stop_waiting()
            self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()

    return BoundedProtocol

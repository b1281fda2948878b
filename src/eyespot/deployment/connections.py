"""Connections that are too slow, too long-winded or too many, ended before they reach the application.

uvicorn bounds none of these: a connection that never sends its headers would stay open for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from eyespot.deployment.limits import Limits


def bounded_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP protocol with bounds on headers and connections.

    Args:
        limits: The bounds.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base: Any = AutoHTTPProtocol

    class BoundedProtocol(base):  # type: ignore[misc]
        """One connection."""

        _timer: asyncio.TimerHandle | None = None
        _head_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self._end(b"503 Service Unavailable\r\nretry-after: 1")
                return
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.transport.is_closing():
                return
            if self.cycle is None or self.cycle.response_complete:  # the headers of the next request are not whole
                self._head_bytes += len(data)
                if self._head_bytes > limits.header_bytes:
                    self._end(b"431 Request Header Fields Too Large")
                elif self._timer is None:
                    self._wait_for_head()
            else:
                self._stop_waiting()
                self._head_bytes = 0

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait_for_head(self) -> None:
            self._timer = self.loop.call_later(limits.header_seconds, self._too_slow)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if not self.transport.is_closing():
                self._end(b"408 Request Timeout")

        def _end(self, status: bytes) -> None:
            self._stop_waiting()
            self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()

    return BoundedProtocol

"""Connections that are too slow, too long-winded or too many, ended before they reach the application.

uvicorn bounds none of these: a connection that never sends its headers, or never takes its answer, would stay open for
ever. Refusals for want of room are written here, too: under load there are far more of them than answers, and each must
cost next to nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from eyespot.deployment.guard import raw_response
from eyespot.deployment.limits import Limits
from eyespot.deployment.problems import RETRY_SECONDS, Problem

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


class _WithoutUpgrades:
    """httptools' parser, for a server that speaks HTTP/1.1 alone.

    A request that offers another protocol is read as if it did not (RFC 9110, 7.8). httptools takes what follows the
    headers of such a request for that protocol: the body would be lost, of each POST of `curl --http2` and of Java.
    """

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._parser = protocol.parser

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def is_offer(self) -> bool:
        """Return whether the request whose headers are there is to be read again, without its offer."""
        return bool(self._parser.should_upgrade()) and self._parser.get_method() != b"CONNECT"

    def feed_data(self, data: bytes) -> None:
        """Parse a piece of the connection; see httptools."""
        rest = memoryview(data)
        while True:  # a piece may hold thousands of requests
            try:
                self._parser.feed_data(rest)
                return
            except HttpParserUpgrade as offer:
                if not self.is_offer():
                    raise
                rest = rest[offer.args[0] :]
            method, version = self._parser.get_method(), self._parser.get_http_version().encode()
            lines = [b"%s %s HTTP/%s" % (method, self._protocol.url, version)]
            lines += [b"%s: %s" % line for line in self._protocol.headers if line[0] != b"upgrade"]
            self._parser = HttpRequestParser(self._protocol)
            with suppress(AttributeError):  # as uvicorn does: httptools before 0.6.3 has it not
                self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self._parser.feed_data(b"\r\n".join(lines) + b"\r\n\r\n")


class Bounds:
    """What all connections of a server have in common: the limits, and the responses to who is beyond them.

    Args:
        limits: The bounds.
        refuse: Asked about each request when its headers are there.
        note: Told the status of each refusal that the application never sees.
    """

    def __init__(
        self,
        limits: Limits,
        refuse: Refuse = lambda method, target: None,
        note: Callable[[int], None] = lambda status: None,
    ) -> None:
        self.limits = limits
        self.refuse = refuse
        self.note = note
        again = f"try again in {RETRY_SECONDS} s"
        self.no_room = raw_response(Problem(503, "too many connections", remedy=again, close=True))
        long = f"headers of more than {limits.header_bytes // 1024} kB"
        self.too_long = raw_response(Problem(431, long, remedy="send fewer or shorter ones", close=True))
        slow = f"no whole headers within {limits.header_seconds:g} s"
        self.too_slow = raw_response(Problem(408, slow, remedy="send them without pauses", close=True))
        no_http = "a request that is no HTTP"
        self.no_http = raw_response(Problem(400, no_http, remedy="send HTTP/1.1, without TLS", close=True))


class BoundedProtocol(HttpToolsProtocol):
    """One connection: uvicorn's, with bounds on headers, bodies that nobody reads and answers that nobody takes."""

    _timer: asyncio.TimerHandle | None = None
    _state = _HEAD
    _head_bytes = 0
    _unread_bytes = 0  # of a body whose request was answered before it came
    _refused = False
    _ending = False  # nothing more is answered: what still comes of a body is thrown away
    _under_way: Any = None  # the request that is being answered; uvicorn's `cycle` is the last one of a pipeline
    _steps = 0  # requests begun and ended
    _cut_timer: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, bounds: Bounds, **named: Any) -> None:
        super().__init__(*given, **named)
        self._offers = _WithoutUpgrades(self)
        self.parser = cast(Any, self._offers)
        self._bounds = bounds
        self._limits = bounds.limits
        self._leave_seconds = bounds.limits.leave_seconds

    def connection_made(self, transport: Any) -> None:
        """Begin the time within which headers must come; refuse what is beyond the number of connections."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # pause_writing as soon as the client does not take all
        if len(self.connections) > self._limits.connections:
            self._end(self._bounds.no_room)
            return
        self._wait(self._too_slow, self._limits.header_seconds)

    def data_received(self, data: bytes) -> None:
        """Parse a piece, and bound what it brought of headers, or of a body that nobody reads any more."""
        before = self._steps
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._state == _HEAD or (self._state == _BETWEEN and self._steps == before):  # or but line breaks
            if self._steps == before:
                self._head_bytes += len(data)
            else:  # a piece that holds earlier requests, too, may be long without this head being so: the next count
                self._head_bytes = 0
                self._stop_waiting()
            if self._head_bytes > self._limits.header_bytes:
                self._end(self._bounds.too_long)
            elif self._timer is None:
                self._wait(self._too_slow, self._limits.header_seconds)
        elif self._ending or (self._state == _BODY and self._is_answered()):
            self._unread_bytes += len(data)
            if self._unread_bytes > self._limits.unread_bytes:
                self._leave()
            elif self._timer is None:
                self._wait(self._leave, self._limits.leave_seconds)
        else:
            self._stop_waiting()
            self._head_bytes = self._unread_bytes = 0

    def on_headers_complete(self) -> None:
        """Hand the request on, unless its headers are too long or it is refused before its body."""
        if self._ending or self._offers.is_offer():
            return
        # Headers that come whole in one piece are not counted above.
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self._limits.header_bytes:
            self._ending = True
            self._end(self._bounds.too_long)
            return
        self._state = _BODY
        self._steps += 1
        if not self.url.startswith((b"/", b"*")):
            # A whole address: its host takes the header's place (RFC 9112, 3.2.2).
            host = self.url.partition(b"://")[2].partition(b"/")[0].rpartition(b"@")[2]
            self.headers[:] = [line for line in self.headers if line[0] != b"host"] + [(b"host", host)]
        response = None
        # Else it would come before an earlier answer, or fill the memory beside one that the client does not take.
        if (self.cycle is None or self.cycle.response_complete) and self._cut_timer is None:
            response = self._bounds.refuse(self.parser.get_method(), self.url)
        if response is None:
            super().on_headers_complete()
            self.cycle.transport = cast(Any, _ClosedBehindBody(self.transport, self._close_behind_body))
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
        """Hand a piece of the body on, unless its request was refused."""
        if not self._refused and not self._ending:
            super().on_body(body)

    def on_message_begin(self) -> None:
        """Count from here on what comes as headers."""
        self._state = _HEAD
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Hand on that the body is whole, or leave where this was all that the connection waited for."""
        if self._offers.is_offer():
            return
        self._state = _BETWEEN
        self._steps += 1
        if self._ending:
            self._leave()
            return
        if not self._refused:
            super().on_message_complete()
        self._refused = False

    def on_response_complete(self) -> None:
        """Begin the next request of a pipeline, unless the connection is to end."""
        if not self._ending:  # else the next request of a pipeline would be begun
            super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks, and tell the request under way."""
        self._stop_waiting()
        self._stop_cutting()
        self._let_go()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin the time within which the client must take what is there for it."""
        super().pause_writing()
        self._cut_timer = self.loop.call_later(self._leave_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client took it."""
        super().resume_writing()
        self._stop_cutting()

    def shutdown(self) -> None:
        """End without waiting long for who takes nothing."""
        super().shutdown()
        self._leave_seconds = min(self._limits.leave_seconds, _LEAVE_AT_STOP_SECONDS)
        if self._ending:
            self._leave()
        if self._cut_timer is not None:
            self._stop_cutting()
            self._cut_timer = self.loop.call_later(self._leave_seconds, self.transport.abort)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._under_way = cycle
        super()._start_asgi_task(cycle, app)

    def _let_go(self) -> bool:
        """Tell the request under way that nobody takes its answer; uvicorn tells but the last one of a pipeline."""
        if self._under_way is None or self._under_way.response_complete:
            return False
        self._under_way.disconnected = True
        self._under_way.message_event.set()
        return True

    def _is_answered(self) -> bool:
        return self._refused or (self.cycle is not None and self.cycle.response_complete)

    def _close_behind_body(self) -> None:
        """End the connection when the body is read: closed over unread bytes, the client would lose its answer."""
        if self._state != _BODY:
            self.transport.close()
            return
        self._ending = True
        self._stop_waiting()
        self._wait(self._leave, self._limits.leave_seconds)
        self.flow.resume_reading()

    def _wait(self, then: Callable[[], None], seconds: float) -> None:
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
            self._end(self._bounds.too_slow, note=self._head_bytes > 0)  # browsers connect ahead and say nothing

    def _leave(self) -> None:
        """End the connection without a word: its request has had an answer."""
        self._stop_waiting()
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, as a problem document."""
        self._end(self._bounds.no_http)

    def _end(self, response: bytes, *, note: bool = True) -> None:
        self._stop_waiting()
        if not self._let_go() and note:  # a request under way is noted by the application
            self._bounds.note(int(response[len("HTTP/1.1 ") :][:3]))
        self.transport.write(response)
        self.transport.close()

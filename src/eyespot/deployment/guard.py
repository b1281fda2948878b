"""The door of the server: who may come in, what is answered before a body is read, and what is written down.

Pure ASGI, around everything else: a refusal costs the event loop a few dozen microseconds.
"""

from __future__ import annotations

import hmac
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from eyespot.deployment.metrics import Metrics
from eyespot.deployment.problems import Problem, busy

Scope = dict[str, Any]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Send], Awaitable[None]]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
PREDICT = "/v1/predict"
LOCKED = ("/v1/", "/metrics")
_KNOWN = ("/", "/app.js", "/style.css", "/healthz", "/readyz", "/metrics", "/openapi.json", PREDICT, "/v1/model")
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_PROBLEM_TYPE = "application/problem+json"
_SECURITY = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]


@dataclass(frozen=True)
class Door:
    """Who may come in.

    Attributes:
        hosts: Names that the Host header may have, in lower case; empty allows any.
        token: What clients must bring as a bearer token; empty asks for none.
        log: Whether requests are written down.
    """

    hosts: tuple[str, ...] = LOOPBACK_NAMES
    token: str = ""
    log: bool = True


def write_log(event: str, **fields: Any) -> None:
    """Write one line of JSON on stderr. No part of a picture, its name, a token or a query ever is in it."""
    when = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    line = json.dumps({"time": when, "event": event, **fields})
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # a log that nobody can read any more changes no answer
            sys.stderr.write(line + "\n")


class Guard:
    """ASGI middleware.

    Args:
        app: What is behind the door.
        door: Who may come in.
        metrics: Counts requests.
        is_full: Says whether no picture is accepted now.
    """

    def __init__(self, app: App, door: Door, metrics: Metrics, is_full: Callable[[], bool]) -> None:
        self._app = app
        self._door = door
        self._metrics = metrics
        self._is_full = is_full
        self._refused = 0
        self._told = 0.0
        self._full_response = raw_response(busy("the queue is full"))

    async def __call__(self, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        """Answer a refusal, or let the request through; count and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def note(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_SECURITY]
            await send(message)

        try:
            problem = self._problem(scope)
            if problem is None:
                # HEAD is a GET whose body uvicorn leaves away; whoever watches a server asks with it.
                wanted = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
                await self._app(wanted, receive, note)
            else:
                await send_problem(problem, note)
        except Exception as error:  # the last door: a defect is a 500 with nothing about its inside
            write_log("defect", error=f"{type(error).__name__}: {error}"[:500])
            if status:
                raise
            await send_problem(Problem(500, "the server failed", remedy="look into its log"), note)
        finally:
            path = scope["path"] if scope["path"] in _KNOWN else "other"
            method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "other"
            client = scope["client"][0] if scope.get("client") else None
            self._note(method, path, client, status, time.perf_counter() - started)

    def refuse(self, method: bytes, target: bytes) -> bytes | None:
        """Return the response to a request for which there is no room, before its body is read; None for any other."""
        if method != b"POST" or not self._is_full() or target.partition(b"?")[0] != PREDICT.encode():
            return None
        self._note("POST", PREDICT, None, 503, 0.0)
        return self._full_response

    def note(self, status: int) -> None:
        """Count and log a refusal of what never became a request."""
        self._note("other", "other", None, status, 0.0)

    def _problem(self, scope: Scope) -> Problem | None:
        """Return why a request is not let in."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        hosts = sum(name == b"host" for name, _ in scope["headers"])
        if hosts > 1 or (not hosts and scope["http_version"] == "1.1"):  # RFC 9112, 3.2
            return Problem(400, f"a request with {hosts or 'no'} Host header{'s' * (hosts > 1)}", remedy="send one")
        if self._door.hosts and host_name(headers.get(b"host", "")) not in self._door.hosts:
            return Problem(
                421, "an unknown Host", remedy="use the address that the server told, or start it with --allow-host"
            )
        origin = headers.get(b"origin")
        if origin and scope["method"] not in ("GET", "HEAD") and _is_foreign(origin, headers.get(b"host")):
            return Problem(
                403, "a request from the page of another site", remedy="use this server's own page, or a program"
            )
        if self._door.token and scope["path"].startswith(LOCKED) and not self._has_token(headers):
            return Problem(401, "no valid token", remedy="send the header Authorization: Bearer TOKEN")
        if self._is_full() and scope["path"] == PREDICT and scope["method"] == "POST":
            return busy("the queue is full")
        return None

    def _has_token(self, headers: Mapping[bytes, str]) -> bool:
        kind, _, token = headers.get(b"authorization", "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._door.token.encode())

    def _note(self, method: str, path: str, client: str | None, status: int, seconds: float) -> None:
        self._metrics.requests.labels(path, method, str(status)).inc()
        self._metrics.seconds.observe(seconds)
        if not self._door.log:
            return
        if status == 503:  # thousands of lines a second would cost what the refusals are to save
            self._refused += 1
            if time.monotonic() - self._told < 1:
                return
            write_log("refused", requests=self._refused, status=status)
            self._refused, self._told = 0, time.monotonic()
            return
        write_log("request", method=method, path=path, status=status, ms=round(seconds * 1000, 2), client=client)


def _is_foreign(origin: str, host: str | None) -> bool:
    """Return whether an Origin header is not of the address in the Host header; one that is no address is not."""
    try:
        name = urlsplit(origin).netloc
    except ValueError:
        return True
    return not name or name != host


def host_name(host: str) -> str:
    """Return the name in a Host header, without the port, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    name, _, port = host.rpartition(":")
    return (name if not port or port.isdecimal() else host).lower()


def raw_response(problem: Problem) -> bytes:
    """Return the whole of a refusal as it goes over the wire."""
    body = json.dumps(problem.as_dict()).encode()
    headers = {"content-type": _PROBLEM_TYPE, "content-length": str(len(body)), **problem.headers, **_HEADERS}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n{lines}\r\n".encode() + body


async def send_problem(problem: Problem, send: Send) -> None:
    """Answer with a problem document."""
    body = json.dumps(problem.as_dict()).encode()
    headers = {
        "content-type": _PROBLEM_TYPE,
        "content-length": str(len(body)),
        **problem.headers,
    }
    await send(
        {
            "type": "http.response.start",
            "status": problem.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})

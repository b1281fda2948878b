"""Load for `benchmarks/serving.py`: a process of its own, raw sockets on asyncio, one JSON document on stdout.

python benchmarks/http_load.py PORT PICTURES closed --connections 64 --seconds 20
python benchmarks/http_load.py PORT PICTURES closed --connections 32 --requests 100000 --expected expected.json
python benchmarks/http_load.py PORT PICTURES open --rate 3000 --seconds 60

closed: each connection asks again as soon as it is answered. open: requests come at a rate whatever the answers do;
latency counts from when a request was due. Requests are put together before the clock starts; what the client itself
costs is said.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from collections import Counter
from pathlib import Path
from typing import Any

_PICTURES = 500
_TICK = 0.002
_MOST_CONNECTIONS = 900
_TOLERANCE = 1e-6


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.buffer = b""
        self.place = -1
        self.due = 0.0
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Keep what to write to."""
        self.transport = transport

    def send(self, due: float) -> None:
        """Send the next picture."""
        self.place = self.load.sent % len(self.load.requests)
        self.load.sent += 1
        self.due = due
        self.transport.write(self.load.requests[self.place])

    def data_received(self, data: bytes) -> None:
        """Collect an answer."""
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        start = head.index(b"content-length: ") + 16
        length = int(head[start : head.find(b"\r", start) if b"\r" in head[start:] else None])
        if len(body) < length:
            return
        self.buffer = body[length:]
        place, self.place = self.place, -1
        self.load.answered(self, place, int(head[9:12]), head, body[:length])

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that this connection is gone."""
        self.load.lost(self, self.place >= 0)


class Load:
    """What is sent, and what came back."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.requests = [_request(path.read_bytes()) for path in chosen(arguments.pictures)]
        self.expected = json.loads(arguments.expected.read_text()) if arguments.expected else None
        self.most = arguments.requests
        self.until = 0.0
        self.closed = arguments.kind == "closed"
        self.idle: list[Connection] = []
        self.open = 0
        self.sent = self.done = self.wrong = self.dropped = self.without_retry = self.not_sent = 0
        self.rows: list[tuple[float, float, int]] = []  # due, seconds, status

    def answered(self, connection: Connection, place: int, status: int, head: bytes, body: bytes) -> None:
        """Write an answer down, compare it, and go on."""
        now = time.perf_counter()
        self.done += 1
        self.rows.append((connection.due, now - connection.due, status))
        if status == 503 and b"retry-after" not in head:
            self.without_retry += 1
        if self.expected is not None and status == 200:
            self.wrong += not _same(json.loads(body)["predictions"][0], self.expected[place])
        if not self.closed:
            self.idle.append(connection)
        elif now < self.until and (not self.most or self.sent < self.most):
            connection.send(now)

    def lost(self, connection: Connection, was_waiting: bool) -> None:
        """Write down that a connection ended, with or without an answer."""
        self.open -= 1
        self.dropped += was_waiting
        if connection in self.idle:
            self.idle.remove(connection)


def chosen(folder: Path) -> list[Path]:
    """Return the pictures that are sent in turn: 500, evenly over a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return files[:: max(1, len(files) // _PICTURES)][:_PICTURES]


def _request(data: bytes) -> bytes:
    lines = ("POST /v1/predict HTTP/1.1", "host: localhost", "content-type: image/jpeg", f"content-length: {len(data)}")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode() + data


def _same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    pairs = zip(found["top"], expected["top"], strict=True)
    return found["unknown"] == expected["unknown"] and all(
        one["name"] == other["name"] and abs(one["prob"] - other["prob"]) <= _TOLERANCE for one, other in pairs
    )


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    load = Load(arguments)
    loop = asyncio.get_running_loop()

    async def connect() -> Connection:
        load.open += 1
        return (await loop.create_connection(lambda: Connection(load), "127.0.0.1", arguments.port))[1]

    first = [await connect() for _ in range(arguments.connections)]
    start = time.perf_counter()
    cpu = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    load.until = start + (arguments.seconds or 1e9)
    if load.closed:
        for connection in first:
            connection.send(time.perf_counter())
        while load.open and (
            load.done + load.dropped < load.sent or (time.perf_counter() < load.until and load.sent < (load.most or 1))
        ):
            await asyncio.sleep(0.05)
    else:
        await _open_loop(load, first, connect, start, arguments)
    seconds = time.perf_counter() - start
    cpu = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - cpu
    return _told(load, start, seconds, cpu)


async def _open_loop(load: Load, first: list[Connection], connect: Any, start: float, arguments: Any) -> None:
    load.idle += first
    tasks: set[asyncio.Task[None]] = set()

    async def another(due: float) -> None:
        (await connect()).send(due)

    due_count = 0
    while (now := time.perf_counter()) < load.until:
        while due_count < (now - start) * arguments.rate:
            due = start + due_count / arguments.rate
            due_count += 1
            if load.idle:
                load.idle.pop().send(due)
            elif load.open < _MOST_CONNECTIONS:
                task = asyncio.ensure_future(another(due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            else:
                load.not_sent += 1
        await asyncio.sleep(_TICK)
    deadline = time.perf_counter() + 35
    while (load.done + load.dropped < load.sent or tasks) and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)


def _told(load: Load, start: float, seconds: float, cpu: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "seconds": round(seconds, 2),
        "requests": load.done,
        "statuses": dict(Counter(str(status) for _, _, status in load.rows)),
        "client_cpu_ms_per_request": round(1000 * cpu / max(load.done, 1), 3),
        "dropped": load.dropped,
        "not_sent": load.not_sent,
        "unanswered": load.sent - load.done - load.dropped,
        "503_without_retry_after": load.without_retry,
    }
    if load.expected is not None:
        found["wrong"] = load.wrong
    for status in ("200", "503"):
        times = sorted(took for _, took, code in load.rows if str(code) == status)
        if times:
            cut = {f"p{share}": times[min(len(times) - 1, len(times) * share // 100)] for share in (50, 90, 99)}
            found[f"{status}_ms"] = {name: round(1000 * value, 2) for name, value in (*cut.items(), ("max", times[-1]))}
    by_second: dict[int, list[float]] = {}
    for due, took, code in load.rows:
        if code == 200:
            by_second.setdefault(int(due - start), []).append(took)
    found["p99_ms_by_second"] = [
        round(1000 * sorted(times)[len(times) * 99 // 100], 1) for _, times in sorted(by_second.items())
    ][:120]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("pictures", type=Path, help="folder; its files are sent in turn")
    parser.add_argument("kind", choices=("closed", "open"))
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--expected", type=Path, help="JSON list of the answers to them")
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()

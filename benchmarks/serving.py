"""How fast the server answers over loopback, against a bare loop over the same picture in this process.

python benchmarks/serving.py RUN PICTURE [--seconds 20]

The load comes from this process, the server is one of its own; other work on the machine spoils the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import eyespot


async def client(port: int, data: bytes, until: float, seconds: list[float], statuses: dict[int, int]) -> None:
    """Ask over one connection until the time is over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n".encode()
    while time.perf_counter() < until:
        started = time.perf_counter()
        writer.write(head + data)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        seconds.append(time.perf_counter() - started)
        status = int(answer.split()[1])
        statuses[status] = statuses.get(status, 0) + 1
    writer.close()


async def load(port: int, data: bytes, connections: int, duration: float) -> None:
    """Print latency and throughput at a number of connections."""
    seconds: list[float] = []
    statuses: dict[int, int] = {}
    until = time.perf_counter() + duration
    await asyncio.gather(*(client(port, data, until, seconds, statuses) for _ in range(connections)))
    cuts = statistics.quantiles(seconds, n=100)
    print(
        f"{connections} connections: {len(seconds) / duration:.0f} requests/s, p50 {1000 * cuts[49]:.1f} ms, "
        f"p99 {1000 * cuts[98]:.1f} ms, n = {len(seconds)}, statuses {statuses}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    data = arguments.picture.read_bytes()
    predictor = eyespot.load(arguments.run)
    predictor.predict([data] * 64)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < arguments.seconds:
        predictor.predict([data] * 64)
        done += 64
    print(f"bare loop, batches of 64: {done / (time.perf_counter() - started):.0f} pictures/s, n = {done}")
    call = [sys.executable, "-m", "eyespot", "serve", str(arguments.run), "--port", "0", "--quiet"]
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = int(json.loads(process.stderr.readline())["url"].rstrip("/").rpartition(":")[2])
        time.sleep(3)
        for connections in (1, 64):
            asyncio.run(load(port, data, connections, arguments.seconds))
        process.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()

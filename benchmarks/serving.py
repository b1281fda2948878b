"""How fast the server answers over loopback, and what happens when it cannot: latency, throughput, overload, soak.

python benchmarks/serving.py RUN PICTURES [--only latency throughput overload soak] [--engine auto]

RUN: a run, a bundle, a model's name or an ONNX file. PICTURES: a folder; 500 of its pictures are sent in turn. The load
comes from a process of its own (`http_load.py`), the server is another; other work on the machine spoils the figures.
Minutes: latency 0.5, throughput 1, overload 2, soak 3 to 6.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eyespot.data.decode_pool import core_count
from eyespot.deployment.engine import open_engine
from http_load import chosen

_BATCH = 64


class Server:
    """The server under test, and what the system says about its process."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def load(self, pictures: Path, kind: str, **options: Any) -> dict[str, Any]:
        """Return what `http_load.py` tells."""
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        call = [
            sys.executable,
            str(Path(__file__).with_name("http_load.py")),
            str(self.port),
            str(pictures),
            kind,
            *words,
        ]
        before = self.cpu_seconds()
        found: dict[str, Any] = json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
        found["server_cpu_ms_per_request"] = round(1000 * (self.cpu_seconds() - before) / max(found["requests"], 1), 3)
        return found

    def cpu_seconds(self) -> float:
        """Return the processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Return the resident memory."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

    def handles(self) -> int:
        """Return how many files and sockets are open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@contextmanager
def serving(run: str, engine: str) -> Iterator[Server]:
    call = [sys.executable, "-m", "eyespot", "serve", run, "--port", "0", "--quiet", "--engine", engine]
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in map(json.loads, process.stderr) if line["event"] == "listening")
            print(f"serving with {line['engine']}")
            yield Server(process, int(line["url"].rstrip("/").rpartition(":")[2]))
        finally:
            process.send_signal(signal.SIGTERM)


def say(what: str, found: dict[str, Any]) -> None:
    print(f"{what}: {json.dumps(found)}", flush=True)


def latency(server: Server, pictures: Path) -> None:
    server.load(pictures, "closed", connections=1, seconds=3)
    found = server.load(pictures, "closed", connections=1, seconds=20)
    del found["p99_ms_by_second"]
    say("latency, 1 connection (wanted: p50 10 ms, p99 30 ms)", found)


def bare(engine: Any, data: list[bytes], seconds: float) -> float:
    """Return the pictures a second of a loop over batches in this process: decoded in threads, then computed."""
    with ThreadPoolExecutor(core_count()) as pool:
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            batch = [data[(done + place) % len(data)] for place in range(_BATCH)]
            engine.predict(list(pool.map(engine.decode, batch)), top_k=5)
            done += _BATCH
        return done / (time.perf_counter() - started)


def throughput(server: Server, pictures: Path, loop_rate: float) -> None:
    server.load(pictures, "closed", connections=64, seconds=3)
    found = server.load(pictures, "closed", connections=64, seconds=20)
    del found["p99_ms_by_second"]
    rate = found["statuses"].get("200", 0) / found["seconds"]
    share = {"per_second": round(rate, 1), "bare_loop": round(loop_rate, 1), "share": round(rate / loop_rate, 3)}
    say("throughput, 64 connections (wanted: share 0.7)", {**share, **found})


def overload(server: Server, pictures: Path, seconds: float) -> None:
    warm = server.load(pictures, "closed", connections=64, seconds=15)
    saturation = warm["statuses"].get("200", 0) / warm["seconds"]
    if not saturation:
        raise SystemExit(f"no picture was answered: {warm}")
    calm = server.load(pictures, "open", rate=20, seconds=5)["200_ms"]["p99"]
    server.load(pictures, "open", connections=256, rate=5 * saturation, seconds=3)
    memory = server.memory_mb()
    found = server.load(pictures, "open", connections=256, rate=5 * saturation, seconds=seconds)
    after = server.load(pictures, "open", rate=20, seconds=12)["p99_ms_by_second"]
    goodput = found["statuses"].get("200", 0) / found["seconds"]  # which end with the last answer
    del found["p99_ms_by_second"]
    told = {
        "saturation_per_second": round(saturation, 1),
        "goodput_share": round(goodput / saturation, 3),
        "memory_growth": round(server.memory_mb() / memory - 1, 4),
        "p99_ms_before": calm,
        "p99_ms_by_second_after": after,
    }
    say("overload, 5 x saturation (wanted: goodput 0.9, the rest 503 in 50 ms, memory 0.05)", {**told, **found})


def soak(server: Server, pictures: Path, engine: Any, data: list[bytes], requests: int) -> None:
    answers = [engine.predict([engine.decode(one)], top_k=5)[0].as_dict() for one in data]
    server.load(pictures, "closed", connections=32, seconds=3)
    memory, handles = server.memory_mb(), server.handles()
    with tempfile.TemporaryDirectory() as folder:
        expected = Path(folder) / "expected.json"
        expected.write_text(json.dumps(answers))
        found = server.load(pictures, "closed", connections=32, requests=requests, expected=expected)
    time.sleep(1)
    del found["p99_ms_by_second"]
    told = {"handles": [handles, server.handles()], "memory_mb": [round(memory), round(server.memory_mb())]}
    say("soak, 32 connections, each answer compared (wanted: 0 wrong, 0 5xx, handles constant)", {**told, **found})


def main() -> None:
    kinds = ("latency", "throughput", "overload", "soak")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--requests", type=int, default=100_000, help="of the soak")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the overload")
    arguments = parser.parse_args()
    data = [path.read_bytes() for path in chosen(arguments.pictures)]
    engine = open_engine(arguments.run, engine=arguments.engine)
    bare(engine, data, 2)
    loop_rate = bare(engine, data, 20) if "throughput" in arguments.only else 0.0
    with serving(arguments.run, arguments.engine) as server:
        if "latency" in arguments.only:
            latency(server, arguments.pictures)
        if "throughput" in arguments.only:
            throughput(server, arguments.pictures, loop_rate)
        if "overload" in arguments.only:
            overload(server, arguments.pictures, arguments.seconds)
        if "soak" in arguments.only:
            soak(server, arguments.pictures, engine, data, arguments.requests)


if __name__ == "__main__":
    main()

"""Many picture files decoded by processes that cannot hurt the one that asked: they may die, and they never outlive it.

Before this: `packing` lists the files and makes the empty result files. After this: every record and every packed pixel
is in its place in those files; nothing but reasons for bad pictures travels between the processes.

Why not concurrent.futures.ProcessPoolExecutor: its spawned workers import the user's script again, so that the lines
`import eyespot` and `run = eyespot.train("photos/")` start themselves for ever; its forked workers inherit whatever
locks torch's threads hold; and both stay behind as orphans when the parent is killed. See `worker_process`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from eyespot.arrays import UInt8Array
from eyespot.data.decoding import content_hash, decode_picture, to_channels
from eyespot.data.resizing import THUMBNAIL_PX, RowFormat, thumbnail
from eyespot.data.worker_process import search_path, start_worker
from eyespot.device import usable_cores
from eyespot.errors import BadImageError, DataError
from eyespot.files import LIMITS

RECORD = np.dtype(
    [("status", "u1"), ("mode", "u1"), ("width_px", "<u4"), ("height_px", "<u4"), ("hash", "u1", (16,))], align=False
)
"""What is known of one picture after the scan; 26 bytes."""

UNSEEN, READING, GOOD, BAD = range(4)
"""Values of a record's status; a picture that killed its worker is found by READING."""

MODES: tuple[str, ...] = (
    *("other", "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"),
    *("I", "F", "I;16", "I;16L", "I;16B", "I;16N"),
)
"""Pillow modes by the number that a record holds."""
_MODE_NUMBERS = {mode: number for number, mode in enumerate(MODES)}

_END_SECONDS = 5.0  # a killed process is gone at once, unless the kernel itself waits for a dead drive
# A chunk is a few tenths of a second of work: long enough to hide the message, short enough for a moving bar, for an
# even load, and for a worker that is told to stop.
_CHUNK_FILES = 256
_CHUNK_BYTES = 8 * 1024**2  # of files, and of packed pixels
_SMALL_FILES, _SMALL_BYTES = 1000, 16 * 1024**2  # less work than starting two Pythons with numpy takes

STALL_SECONDS = 60.0
"""A worker that finishes no picture for so long is stopped or hangs: decoding one takes a few seconds at most."""
LOOK_SECONDS = 0.5
"""How often that is looked at. Time is counted in such looks: while this process itself was stopped, nothing counts."""


@dataclass(frozen=True)
class DecodeJob:
    """What is done with every file, and where the results go.

    Attributes:
        records_path: File of N records, made before the workers start.
        thumbs_path: File of N thumbnails.
        pixels_path: File of N rows; None where pictures are only scanned.
        row_format: What a row is.
    """

    records_path: str
    thumbs_path: str
    pixels_path: str | None
    row_format: RowFormat


@dataclass(frozen=True)
class FileChunk:
    """Neighbouring files: the first one's position among the N, and the paths."""

    start: int
    paths: tuple[str, ...]


@dataclass(frozen=True)
class FileSegment:
    """Files with neighbouring positions.

    Attributes:
        start: The first one's position among the N.
        paths: The files.
        sizes: Bytes of each, for an even load; -1 where unknown.
    """

    start: int
    paths: Sequence[Path]
    sizes: Sequence[int]

    def chunk(self, first: int, end: int) -> FileChunk:
        """Return the files from `first` up to `end` as a message to a worker."""
        return FileChunk(self.start + first, tuple(os.fspath(path) for path in self.paths[first:end]))


class WorkerDiedError(Exception):
    """A worker process ended on its own, or hung.

    Args:
        how: In words, such as `was killed by signal 9 (out of memory?)`.
        reading: Positions of the pictures that it may have died of.
    """

    def __init__(self, how: str, reading: Sequence[int]) -> None:
        super().__init__(how)
        self.how = how
        self.reading = tuple(reading)


def decode_files(
    job: DecodeJob, segments: Sequence[FileSegment], *, workers: int | None, progress: Callable[[int], None]
) -> dict[int, str]:
    """Decode files into the job's result files.

    Args:
        job: What to do and where to put it.
        segments: The files.
        workers: Number of processes; 1 decodes in this one; None takes one a core, or 1 where the work is small.
        progress: Is told how many files were just done, in the calling thread.

    Returns:
        Position -> reason for the pictures that cannot be used.

    Raises:
        WorkerDiedError: A worker was killed, crashed or hung; the results are incomplete.
        OSError: A result file cannot be written.
    """
    if workers is None:
        files = sum(len(segment.paths) for segment in segments)
        small = files <= _SMALL_FILES and sum(sum(segment.sizes) for segment in segments) <= _SMALL_BYTES
        workers = 1 if small else core_count()
    chunks = (chunk for segment in segments for chunk in _chunks(job, segment))
    if workers == 1 or not sys.executable:  # embedded interpreters have no executable to start
        bad: dict[int, str] = {}
        for chunk in chunks:
            bad |= decode_chunk(job, chunk)
            progress(len(chunk.paths))
        return bad
    return _decode_in_workers(job, chunks, workers, progress)


def core_count() -> int:
    """Return the number of cores that this process may use, at most 32."""
    return min(usable_cores(), 32)  # more would wait for the disk, and each takes the memory of a decoded photograph


def decode_chunk(job: DecodeJob, chunk: FileChunk) -> dict[int, str]:
    """Decode a few files in this process and write their records and pixels in place.

    Returns:
        Position -> reason for the pictures that cannot be used.
    """
    records = np.memmap(job.records_path, dtype=RECORD, mode="r+")[chunk.start : chunk.start + len(chunk.paths)]
    form = job.row_format
    packed = np.zeros((len(chunk.paths), *form.shape), np.uint8) if job.pixels_path else None
    thumbs = np.zeros((len(chunk.paths), THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
    bad: dict[int, str] = {}
    for i, path in enumerate(chunk.paths):
        records["status"][i] = READING
        try:
            pixels, mode = decode_picture(path)
        except BadImageError as error:
            records["status"][i] = BAD
            bad[chunk.start + i] = error.what
            continue
        height, width = pixels.shape[:2]
        if packed is not None:
            # In this order, as prediction and the streaming loader do it: the luma of a mean is not the mean of lumas.
            packed[i] = form.row(to_channels(pixels, form.channels))
        thumbs[i] = thumbnail(pixels)
        records[i] = (GOOD, mode_number(mode), width, height, np.frombuffer(content_hash(pixels), np.uint8))
    write_rows(job.thumbs_path, chunk.start, thumbs)
    if packed is not None and job.pixels_path is not None:
        write_rows(job.pixels_path, chunk.start, packed)
    return bad


def mode_number(mode: str) -> int:
    """Return the position of a Pillow mode in MODES; 0 for modes that are not in it."""
    return _MODE_NUMBERS.get(mode, 0)


def write_rows(path: str, start: int, rows: UInt8Array) -> None:
    """Write rows, uint8 (n, ...), to their places in a file of equal rows, from number `start` on.

    Raises:
        OSError: The disk is full or failed.
    """
    # A plain write, not a memory map: on a full disk a write says so, a map kills the process with SIGBUS.
    with open(path, "r+b", buffering=0) as file:
        file.seek(start * math.prod(rows.shape[1:]))
        _write_fully(file, rows)


def _write_fully(file: io.FileIO, rows: UInt8Array) -> None:
    """Write an array to an unbuffered file, in as many writes as the system wants."""
    data = np.ascontiguousarray(rows).reshape(-1).data
    while data:
        written = file.write(data)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[written:]


def _chunks(job: DecodeJob, segment: FileSegment) -> Iterator[FileChunk]:
    most_files = max(1, min(_CHUNK_FILES, _CHUNK_BYTES // job.row_format.row_bytes))
    first, total = 0, 0
    for i, size in enumerate(segment.sizes):
        if i > first and (i - first == most_files or total + size > _CHUNK_BYTES):
            yield segment.chunk(first, i)
            first, total = i, 0
        total += max(0, size)
    if segment.paths:
        yield segment.chunk(first, len(segment.paths))


# ------------------------------------------------------------------------------------------------- the asking process


def _decode_in_workers(
    job: DecodeJob, chunks: Iterator[FileChunk], count: int, progress: Callable[[int], None]
) -> dict[int, str]:
    """Keep `count` workers busy, each fed by a thread that waits for its answers."""
    bad: dict[int, str] = {}
    workers = _start_workers(job, count)
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(chunk: FileChunk) -> tuple[int, dict[int, str]]:
        worker = idle.get()
        try:
            return len(chunk.paths), worker.decode(chunk)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(count, thread_name_prefix="eyespot-decode")
    finished = False
    try:
        # Two chunks a worker are handed out at a time: a million paths are never queued at once.
        pending: set[Future[tuple[int, dict[int, str]]]] = {threads.submit(run, c) for c in islice(chunks, 2 * count)}
        looked = time.monotonic()
        while pending:
            done, pending = wait(pending, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                files, found = future.result()
                bad |= found
                progress(files)
            pending |= {threads.submit(run, chunk) for chunk in islice(chunks, len(done))}
            if (passed := time.monotonic() - looked) >= LOOK_SECONDS:
                looked += passed
                for worker in workers:
                    worker.watch()
        finished = True
    finally:
        # On an error or Ctrl-C the workers are killed first: that ends the threads' waiting.
        gone = [worker.close(kill=not finished) for worker in workers]
        threads.shutdown(wait=all(gone), cancel_futures=True)
    return bad


def _start_workers(job: DecodeJob, count: int) -> list[_Worker]:
    workers: list[_Worker] = []
    try:
        for number in range(count):
            workers.append(_Worker(job, Path(f"{job.records_path}.worker{number}.log")))
    except BaseException as error:
        for worker in workers:
            worker.close(kill=True)
        if isinstance(error, OSError) and error.errno in LIMITS:
            what = f"cannot start {count} decoding workers ({error.strerror})"
            raise DataError(what, remedy=LIMITS[error.errno]) from error
        raise
    return workers


class _Worker:
    """One decoding process. Ask it from one thread at a time; it ends when its input does, as it does when we die."""

    def __init__(self, job: DecodeJob, log_path: Path) -> None:
        self._job = job
        self._log_path = log_path
        with open(log_path, "wb") as log:
            self._process = start_worker("decode_pool", log)
        self._greeting = search_path() + json.dumps(asdict(job)).encode() + b"\n"
        self._chunk: FileChunk | None = None
        self._seen: tuple[FileChunk | None, int] = (None, 0)
        self._quiet_seconds = 0.0

    def decode(self, chunk: FileChunk) -> dict[int, str]:
        """Send a chunk and wait for its answer."""
        self._chunk = chunk
        try:
            return self._ask(chunk)
        finally:
            self._chunk = None

    def watch(self) -> None:
        """Look whether the worker finishes pictures; call it every LOOK_SECONDS, from another thread than `decode`.

        Raises:
            WorkerDiedError: It has not finished one for STALL_SECONDS.
        """
        chunk = self._chunk
        states = self._states(chunk) if chunk is not None else np.zeros(0, np.uint8)
        now = (chunk, int((states >= GOOD).sum()))
        if chunk is None or now != self._seen:
            self._seen, self._quiet_seconds = now, 0.0
            return
        self._quiet_seconds += LOOK_SECONDS
        if self._quiet_seconds >= STALL_SECONDS:
            # One that was stopped between two pictures was about to read the next.
            reading = np.flatnonzero(states == READING) if READING in states else np.flatnonzero(states == UNSEEN)[:1]
            how = f"has finished no picture for {STALL_SECONDS:g} s"
            raise WorkerDiedError(how, [chunk.start + int(i) for i in reading])

    def _states(self, chunk: FileChunk) -> UInt8Array:
        """Return the status of each picture of a chunk, uint8 (n,)."""
        records = np.memmap(self._job.records_path, dtype=RECORD, mode="r")
        return np.array(records["status"][chunk.start : chunk.start + len(chunk.paths)])

    def _ask(self, chunk: FileChunk) -> dict[int, str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        greeting, self._greeting = self._greeting, b""
        try:
            self._process.stdin.write(greeting + json.dumps(asdict(chunk)).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except (OSError, ValueError):  # a broken pipe, or one that `close` has shut
            answer = b""
        if not answer.endswith(b"\n"):
            raise self._death(chunk)
        reply = json.loads(answer)
        if "errno" in reply:
            raise OSError(reply["errno"], reply["message"])
        return {int(position): reason for position, reason in reply["bad"].items()}

    def close(self, *, kill: bool) -> bool:
        """End the process: at once, or when it has read the end of its input. Return False where the kernel keeps it.

        That waits for a dead drive. The thread that reads its answers then waits, too, and holds their file.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if kill:
            self._process.kill()
        with contextlib.suppress(OSError):  # unsent bytes for a process that is gone
            self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS if kill else None)
        except subprocess.TimeoutExpired:
            return False
        self._process.stdout.close()
        self._log_path.unlink(missing_ok=True)
        return True

    def _death(self, chunk: FileChunk) -> WorkerDiedError:
        code = self._process.wait()
        reading = [chunk.start + int(i) for i in np.flatnonzero(self._states(chunk) == READING)]
        if code < 0:
            guess = " (out of memory?)" if -code == getattr(signal, "SIGKILL", 9) else ""
            return WorkerDiedError(f"was killed by signal {-code}{guess}", reading)
        lines = self._log_path.read_text(errors="replace").split("\n") if self._log_path.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), "")
        return WorkerDiedError(f"ended with code {code}" + (f" ({last.strip()})" if last else ""), reading)


# ------------------------------------------------------------------------------------------------- the worker process


def serve(requests: Iterable[bytes], answers: IO[bytes]) -> None:
    """Be a worker: read the job, then answer one line for each line until the input ends.

    Args:
        requests: Lines of JSON: a `DecodeJob`, then `FileChunk`s.
        answers: Takes a line of JSON for each chunk: `{"bad": {position: reason}}` or `{"errno": ..., "message": ...}`.
    """
    lines = iter(requests)
    job = json.loads(next(lines))
    job = DecodeJob(**job | {"row_format": RowFormat(**job["row_format"])})
    for line in lines:
        request = json.loads(line)
        try:
            answer: dict[str, object] = {"bad": decode_chunk(job, FileChunk(request["start"], tuple(request["paths"])))}
        except OSError as error:
            answer = {"errno": error.errno or errno.EIO, "message": error.strerror or str(error)}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()

"""Processes that decode pictures while the model computes, for data whose pixels do not fit into memory.

Before this: `packing` found that the pixels would not fit and kept the paths, or somebody wants a folder answered.
After this: `StreamLoader` puts the decoded rows together to batches, `predicting` answers the squares.

Why not torch's DataLoader (torch 2.15, forkserver, its timeout set to 4 s): with a stopped worker the asking process
still waited after 25 s, since the time-out does not cover the transfer of the tensor; a killed worker came out as a
ConnectionResetError; and processes that are not forked import the user's script again, so that a script without
`if __name__ == "__main__"` could not train.

Here a worker is a plain Python without torch (`worker_process`). It reads paths from its input and answers with
pixels. In the asking process each worker has a thread, and only threads ever wait for a pipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import IO, NamedTuple

import numpy as np

from eyespot.arrays import UInt8Array
from eyespot.data.decoding import decode_image
from eyespot.data.resizing import RowFormat
from eyespot.data.worker_process import search_path, start_worker
from eyespot.errors import BadImageError, DataError
from eyespot.files import LIMITS

_ALIVE, _ALIVE_SECONDS = b"\n", 1.0
_END_SECONDS = 5.0  # a killed process is gone at once, unless the kernel itself waits for a dead drive: then we do not


def decode_rows(paths: Sequence[str], row_format: RowFormat, rows: UInt8Array) -> None:
    """Decode pictures into rows.

    Args:
        paths: n files.
        row_format: What each becomes.
        rows: uint8 (n, S, L, C), written to.

    Raises:
        BadImageError: A file is gone, or is no picture any more.
    """
    for row, path in zip(rows, paths, strict=True):
        row[...] = row_format.row(decode_image(path, channels=row_format.channels))


def decode_squares(
    paths: Sequence[str], row_format: RowFormat, done: Callable[[], None] = lambda: None
) -> tuple[UInt8Array, dict[int, str]]:
    """Return pictures as prediction takes them, uint8 (n, S, S, C), and position -> reason for those that are bad.

    `done` is called behind each picture.
    """
    squares = np.zeros((len(paths), row_format.size_px, row_format.size_px, row_format.channels), np.uint8)
    bad = {}
    for position, path in enumerate(paths):
        try:
            squares[position] = row_format.square(decode_image(path, channels=row_format.channels))
        except BadImageError as error:
            bad[position] = error.what
        done()
    return squares, bad


# ----------------------------------------------------------------------------------------------- the asking process


class _Task(NamedTuple):
    paths: Sequence[str]
    rows: UInt8Array
    alive: Callable[[], None]
    done: Future[dict[int, str]]


class StreamWorkers:
    """Worker processes that take files in the order in which they are asked for.

    They are killed by `close`, when this object is no longer used, and when Python ends.

    Args:
        row_format: What each picture becomes.
        count: Number of processes, 1 or more.
        squares: Give the squares that prediction takes instead of rows, and a bad picture its reason instead of an
            error.
    """

    def __init__(self, row_format: RowFormat, count: int, *, squares: bool = False) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        # The finalizer and the threads know the list and the queue, never this object: else it would live for ever.
        self._close = weakref.finalize(self, _close_all, self._workers, self._tasks)
        try:
            for _ in range(count):
                self._workers.append(_Worker(row_format, squares, self._tasks))
        except OSError as error:
            self.close()
            raise DataError(
                f"cannot start {count} decoding workers ({error.strerror})",
                remedy=LIMITS.get(error.errno or 0, "use fewer of them, for example --set data.workers=1"),
            ) from error

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the process id of each worker."""
        return tuple(worker.process.pid for worker in self._workers)

    def submit(
        self, paths: Sequence[str], rows: UInt8Array, alive: Callable[[], None] = lambda: None
    ) -> Future[dict[int, str]]:
        """Ask for pictures to be decoded into rows.

        Args:
            paths: n files.
            rows: uint8 (n, S, L, C), or (n, S, S, C) for squares; contiguous; not to be read before the result is
                there.
            alive: Called from another thread about once a second while squares that take longer are decoded.

        Returns:
            A future that is done when the rows are written, with position -> reason of the bad pictures where squares
            were asked for. Otherwise it raises BadImageError for a file that cannot be decoded. It raises DataError
            when the worker died.
        """
        task = _Task(paths, rows, alive, Future())
        self._tasks.put(task)
        return task.done

    def close(self) -> None:
        """End the processes. What was asked for and is not done fails."""
        self._close()


class _Worker:
    """One process, and the thread that feeds it."""

    def __init__(self, row_format: RowFormat, squares: bool, tasks: queue.SimpleQueue[_Task | None]) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the worker
        try:
            self.process = start_worker("stream_workers", self.log)
        except OSError:
            self.log.close()
            raise
        greeting = json.dumps({"row_format": asdict(row_format), "squares": squares}).encode() + b"\n"
        self.thread = threading.Thread(
            target=_feed, args=(self.process, self.log, greeting, tasks), name="eyespot-stream", daemon=True
        )
        self.thread.start()

    def join(self) -> None:
        """Clean up after the process was killed; harmless where it or its thread hangs in the kernel."""
        if self.thread is not threading.current_thread():  # the garbage collector may run this in any thread
            self.thread.join(_END_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_SECONDS)
        for stream in (self.process.stdin, self.process.stdout, self.log):
            assert stream is not None
            with contextlib.suppress(OSError):  # unsent bytes for a process that is gone
                stream.close()


def _close_all(workers: list[_Worker], tasks: queue.SimpleQueue[_Task | None]) -> None:
    for worker in workers:
        worker.process.kill()  # also ends stopped processes; they hold nothing that could be lost
        tasks.put(None)
    for worker in workers:
        worker.join()


def _feed(
    process: subprocess.Popen[bytes], log: IO[bytes], greeting: bytes, tasks: queue.SimpleQueue[_Task | None]
) -> None:
    """Hand tasks to one worker until there is None in the queue."""
    greeting = search_path() + greeting
    while (task := tasks.get()) is not None:
        if not task.done.set_running_or_notify_cancel():
            continue
        try:
            bad = _exchange(process, greeting, task)
        except (OSError, EOFError, ValueError):  # a broken pipe, half an answer, or a pipe that `close` has shut
            task.done.set_exception(_death(process, log, task.paths))
        except BaseException as error:
            task.done.set_exception(error)
        else:
            task.done.set_result(bad)
        greeting = b""
        del task  # the rows of the last batch must not stay in memory while this waits for the next


def _exchange(process: subprocess.Popen[bytes], greeting: bytes, task: _Task) -> dict[int, str]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(greeting + json.dumps(list(task.paths)).encode() + b"\n")
    process.stdin.flush()
    while (line := process.stdout.readline()) == _ALIVE:
        task.alive()
    answer = json.loads(line)  # nothing where the worker is gone: ValueError
    if answer is not None and "path" in answer:
        raise BadImageError(answer["reason"], where=answer["path"])
    remaining = task.rows.data.cast("B")
    while remaining:
        count = process.stdout.readinto(remaining)  # type: ignore[attr-defined]  # BufferedReader has it, IO[bytes] not
        if not count:
            raise EOFError
        remaining = remaining[count:]
    return {int(position): reason for position, reason in (answer or {}).items()}


def _death(process: subprocess.Popen[bytes], log: IO[bytes], paths: Sequence[str]) -> DataError:
    """Return in words how a worker ended."""
    try:
        code = process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        how = "closed its pipe"
    else:
        how = f"was killed ({_signal_name(-code)})" if code < 0 else f"ended with code {code}"
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    others = f" or one of the {len(paths) - 1} pictures after it" if len(paths) > 1 else ""
    return DataError(
        f"a decoding worker {how}" + (f": {last}" if last else ""),
        where=f"{paths[0]}{others}",
        remedy="free some memory, then go on with --resume, or start a new run with --set data.workers=1",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# ------------------------------------------------------------------------------------------------ the worker process


def serve(requests: IO[bytes], output: IO[bytes]) -> None:
    """Be a worker: read the job, then answer each line of paths until the input ends.

    The answer is a line, `null` and the pixels of all paths behind it, or `{"path": ..., "reason": ...}` for the first
    picture that cannot be decoded. Where squares are asked for, `{position: reason}` and the pixels of all, black where
    there is a reason; empty lines come before it while pictures are decoded.
    """
    # Whatever a library prints must not come between the pixels: only this copy of the output reaches the other side.
    answers = os.fdopen(os.dup(output.fileno()), "wb")
    os.dup2(2, output.fileno())
    job = json.loads(requests.readline())
    row_format, answer = RowFormat(**job["row_format"]), _answer_squares if job["squares"] else _answer
    with contextlib.suppress(BrokenPipeError):  # the asking process is gone
        for line in requests:
            answer(json.loads(line), row_format, answers)


def _answer(paths: list[str], row_format: RowFormat, answers: IO[bytes]) -> None:
    rows = row_format.empty(len(paths))
    try:
        decode_rows(paths, row_format, rows)
    except BadImageError as error:
        answers.write(json.dumps({"path": error.where, "reason": error.what}).encode() + b"\n")
    else:
        answers.write(b"null\n")
        answers.write(rows.data.cast("B"))
    answers.flush()


def _answer_squares(paths: list[str], row_format: RowFormat, answers: IO[bytes]) -> None:
    told = time.monotonic()

    def done() -> None:
        nonlocal told
        if time.monotonic() - told >= _ALIVE_SECONDS:
            answers.write(_ALIVE)
            answers.flush()
            told = time.monotonic()

    squares, bad = decode_squares(paths, row_format, done)
    answers.write(json.dumps(bad).encode() + b"\n")
    answers.write(squares.data.cast("B"))
    answers.flush()

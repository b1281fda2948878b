"""Pictures of many requests, decoded in a few threads and answered in batches by one.

Before this: `server` has read the bodies. After this: each request gets the answers to its own pictures.

A picture that is alone is answered at once. Where others are under way it waits for them, `batch_seconds` at most.
While a batch is computed the next one gathers by itself.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from eyespot.arrays import UInt8Array
from eyespot.data.decode_pool import core_count
from eyespot.deployment.engine import Engine
from eyespot.deployment.limits import Limits
from eyespot.deployment.metrics import Metrics
from eyespot.deployment.problems import busy
from eyespot.errors import BadImageError
from eyespot.evaluation.predictor import Prediction

_STAND_BACK = 5


def stand_back() -> None:
    """Let the event loop go before this thread, and before those that it starts, where threads have priorities.

    Decoding and computing fill all cores; a refusal that waits behind them comes late.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _STAND_BACK)


class _Picture:
    """One picture on its way; `future` belongs to the event loop, all else to whichever thread has the picture."""

    __slots__ = ("data", "future", "pixels", "top_k")

    def __init__(self, data: bytes, top_k: int, future: asyncio.Future[Prediction]) -> None:
        self.data = data
        self.top_k = top_k
        self.future = future
        self.pixels: UInt8Array | None = None


_Outcome = Prediction | BaseException


class Batcher:
    """The threads between the event loop and the engine.

    Args:
        engine: Decodes and computes.
        limits: Of batches and of what may wait.
        metrics: Told about batches.

    Attributes:
        waiting: Pictures that are accepted and not answered.
    """

    def __init__(self, engine: Engine, limits: Limits, metrics: Metrics) -> None:
        self._engine = engine
        self._limits = limits
        self._metrics = metrics
        self._encoded: queue.SimpleQueue[_Picture | None] = queue.SimpleQueue()
        self._decoded: queue.SimpleQueue[_Picture | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.waiting = 0

    def start(self) -> None:
        """Start the threads; called in the event loop."""
        self._loop = asyncio.get_running_loop()
        targets = [self._decode] * core_count() + [self._compute]
        self._threads = [threading.Thread(target=target, name="eyespot-serve", daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads when they have done what was accepted."""
        for _ in self._threads[:-1]:
            self._encoded.put(None)
        for thread in self._threads[:-1]:
            thread.join()
        self._decoded.put(None)
        for thread in self._threads[-1:]:
            thread.join()
        self._threads = []

    @property
    def is_alive(self) -> bool:
        """Return whether all threads run."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    @property
    def is_full(self) -> bool:
        """Return whether no further picture is accepted."""
        return self.waiting >= self._limits.waiting_pictures

    async def answer(self, pictures: Sequence[bytes], *, top_k: int) -> list[Prediction | BadImageError]:
        """Return an answer for each picture, or the reason why it has none.

        Args:
            pictures: Bytes of picture files.
            top_k: How many classes an answer lists.

        Raises:
            Problem: 503: too many wait, or the answer took too long.
            EyespotError: The engine failed.
        """
        if self.waiting + len(pictures) > self._limits.waiting_pictures:
            raise busy("the queue is full")
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Prediction]] = []
        self.waiting += len(pictures)
        for data in pictures:
            futures.append(loop.create_future())
            self._encoded.put(_Picture(data, top_k, futures[-1]))
        _, late = await asyncio.wait(futures, timeout=self._limits.answer_seconds)
        for future in late:
            future.cancel()
        # All of them are looked at: asyncio writes a traceback of an error that nobody has seen.
        errors = [None if future.cancelled() else future.exception() for future in futures]
        if late:
            raise busy(f"no answer within {self._limits.answer_seconds:g} s")
        found: list[Prediction | BadImageError] = []
        for future, error in zip(futures, errors, strict=True):
            if error is not None and not isinstance(error, BadImageError):
                raise error
            found.append(future.result() if error is None else error)
        return found

    # ---- the threads ----

    def _decode(self) -> None:
        """Decode pictures until there is None in the queue."""
        stand_back()
        while (picture := self._encoded.get()) is not None:
            if picture.future.cancelled():  # nobody waits for it any more
                self._hand_over([(picture, BadImageError("is late"))])
                continue
            started = time.perf_counter()
            try:
                picture.pixels = self._engine.decode(picture.data)
            except BaseException as error:  # a thread that ended would leave its request without an answer
                self._hand_over([(picture, error)])
            else:
                self._decoded.put(picture)
            self._metrics.decode_seconds.observe(time.perf_counter() - started)

    def _compute(self) -> None:
        """Answer batches until there is None in the queue."""
        stand_back()
        while (first := self._decoded.get()) is not None:
            batch, ends = self._gather(first)
            late = [picture for picture in batch if picture.future.cancelled()]
            if late:  # after an overload most of them: those who wait now would wait for them, too
                self._hand_over([(picture, BadImageError("is late")) for picture in late])
                batch = [picture for picture in batch if picture not in late]  # others may be cancelled by now
            if batch:
                self._answer(batch)
            if ends:
                return

    def _answer(self, batch: list[_Picture]) -> None:
        started = time.perf_counter()
        outcomes: Sequence[_Outcome]
        try:
            pixels = [picture.pixels for picture in batch if picture.pixels is not None]
            outcomes = self._engine.predict(pixels, top_k=max(picture.top_k for picture in batch))
        except BaseException as error:
            outcomes = [error] * len(batch)
        self._metrics.batch_pictures.observe(len(batch))
        self._metrics.compute_seconds.observe(time.perf_counter() - started)
        self._hand_over(list(zip(batch, outcomes, strict=True)))

    def _gather(self, first: _Picture) -> tuple[list[_Picture], bool]:
        """Return a batch, and whether it is the last one."""
        batch = [first]
        until = time.monotonic() + self._limits.batch_seconds
        while len(batch) < self._limits.batch_pictures:
            left = until - time.monotonic()
            try:
                # `waiting` counts those that are still being decoded: without any there is nobody to wait for.
                wait = left > 0 and self.waiting > len(batch)
                another = self._decoded.get(timeout=left) if wait else self._decoded.get_nowait()
            except queue.Empty:
                break
            if another is None:
                return batch, True
            batch.append(another)
        return batch, False

    def _hand_over(self, outcomes: list[tuple[_Picture, _Outcome]]) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._deliver, outcomes)

    def _deliver(self, outcomes: list[tuple[_Picture, _Outcome]]) -> None:
        """Hand results to the requests; runs in the event loop."""
        self.waiting -= len(outcomes)
        for picture, outcome in outcomes:
            if picture.future.done():
                continue
            if isinstance(outcome, Prediction):
                picture.future.set_result(outcome)
            else:
                picture.future.set_exception(outcome)

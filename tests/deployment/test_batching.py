"""The queue between requests and the engine, on an engine that is too slow for them."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from eyespot.deployment.batching import Batcher
from eyespot.deployment.limits import Limits
from eyespot.deployment.metrics import Metrics
from eyespot.deployment.problems import Problem
from eyespot.errors import BadImageError
from eyespot.evaluation.predictor import ClassScore, Prediction


class SlowEngine:
    """Answers after some time, whoever waits."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.answered = 0

    def decode(self, data: bytes) -> Any:
        if data == b"bad":
            raise BadImageError("is bad")
        return np.zeros((2, 2, 3), np.uint8)

    def predict(self, pixels: Sequence[Any], *, top_k: int) -> list[Prediction]:
        time.sleep(self.seconds)
        self.answered += len(pixels)
        return [Prediction("", (ClassScore("a", 1.0),)) for _ in pixels]


def batcher_of(engine: SlowEngine, **limits: Any) -> Batcher:
    return Batcher(cast("Any", engine), replace(Limits(), **limits), Metrics())


@pytest.mark.timeout(60)
def test_an_overloaded_queue_can_be_stopped() -> None:
    engine = SlowEngine(0.4)

    async def overload() -> list[object]:
        batcher = batcher_of(engine, answer_seconds=0.1, batch_pictures=1)
        batcher.start()
        found = await asyncio.gather(*(batcher.answer([b"x"], top_k=1) for _ in range(5)), return_exceptions=True)
        batcher.stop()  # blocks the loop, which does not hear of what is done meanwhile
        return found

    found = asyncio.run(overload())
    assert [type(one) for one in found] == [Problem] * 5
    assert engine.answered <= 2, "those that nobody waits for any more are not computed"


@pytest.mark.timeout(60)
def test_every_error_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    async def ask() -> object:
        batcher = batcher_of(SlowEngine(0.5), answer_seconds=0.2)
        batcher.start()
        found = await asyncio.gather(batcher.answer([b"bad", b"x"], top_k=1), return_exceptions=True)
        await asyncio.sleep(0.6)
        batcher.stop()
        return found[0]

    assert isinstance(asyncio.run(ask()), Problem)
    gc.collect()
    assert not caplog.records, "asyncio tells of errors that nobody has looked at"

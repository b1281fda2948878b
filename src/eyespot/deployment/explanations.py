"""Heat maps for the server: one thread, a short queue, so that they never hold up answers.

Before this: `batching` has answered. After this: `server` puts them into the answers. A heat map costs as much as some
dozens of answers, because each is checked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from eyespot.deployment.batching import stand_back
from eyespot.deployment.engine import Engine
from eyespot.deployment.limits import Limits
from eyespot.deployment.problems import Problem, busy
from eyespot.errors import BadImageError, ModelError


class Explanations:
    """The thread that makes heat maps, and who waits for it.

    Args:
        engine: Explains.
        limits: How many may wait.

    Attributes:
        waiting: Heat maps that are accepted and neither made nor given up.
    """

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="eyespot-explain", initializer=stand_back)
        self.waiting = 0

    def stop(self) -> None:
        """End the thread when it has done what was accepted."""
        self._pool.shutdown()

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Keep so many places in the queue; taken before the answers are computed, so that a full queue costs nothing.

        Raises:
            Problem: 413 too many pictures, 501 the engine makes no heat maps, 503 the queue is full.
        """
        if not self._engine.can_explain:
            raise Problem(
                501, "this server makes no heat maps", remedy="leave explain out, or serve the run instead of a file"
            )
        if count > self._limits.explained_pictures:
            most = self._limits.explained_pictures
            raise Problem(
                413, f"heat maps for {count} pictures", remedy=f"ask for {most} at once, or leave explain out"
            )
        if self.waiting + count > self._limits.waiting_explanations:
            raise busy("the queue for heat maps is full")
        self.waiting += count
        try:
            yield
        finally:
            self.waiting -= count

    async def answer(self, pictures: Sequence[tuple[bytes, str]]) -> list[dict[str, Any]]:
        """Return `Engine.explain` for each picture file and class, inside of `places`.

        Raises:
            Problem: 501 the network has no heat maps, 503 it took too long.
        """
        jobs: list[Future[dict[str, Any]]] = [
            self._pool.submit(self._engine.explain, data, label) for data, label in pictures
        ]
        try:
            made = asyncio.gather(*(asyncio.wrap_future(job) for job in jobs))
            return list(await asyncio.wait_for(made, self._limits.answer_seconds))
        except (TimeoutError, asyncio.TimeoutError) as error:  # not one class before Python 3.11
            raise busy(f"no heat map within {self._limits.answer_seconds:g} s") from error
        except ModelError as error:
            raise Problem(501, error.what, remedy="leave explain out, or use eyespot explain") from error
        except BadImageError as error:  # it was decoded a moment ago: the machine is slower now than its bounds allow
            raise busy(f"no heat map: the picture {error.what}") from error
        finally:
            for job in jobs:
                job.cancel()

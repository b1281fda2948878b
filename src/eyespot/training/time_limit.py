"""Planning under a time limit: how many epochs fit into it, and where the learning rate must come down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_COOLDOWN_SHARE = 0.3  # of the epochs that fit: arXiv:2405.18392
_LIMIT_SHARE = 0.97  # of a limit is planned for: checkpoints take some, and a machine may slow down


@dataclass(frozen=True)
class TimeLimit:
    """A limit on the training time of a run whose pictures may grow on the way.

    Attributes:
        seconds: Of training; 0 where there is no limit.
        sizes: Shares of the run and the side in px from there on, of progressive training; empty: `full_px` throughout.
        full_px: Side of the pictures at the end.
    """

    seconds: float
    sizes: Sequence[tuple[float, int]]
    full_px: int

    def epochs_at_pace(self, epochs: int, seconds: float) -> int:
        """Return how many epochs fit, at least those that are done, if some took so many seconds."""
        return max(epochs, math.floor(self.seconds * _LIMIT_SHARE / max(seconds, 1e-9) * epochs))

    def shortened(self, planned: int, *, epoch: int, seconds: float) -> int:
        """Return the planned epochs, or as many as fit where they do not; at least those that are done.

        Args:
            planned: Epochs that the schedule ends with so far.
            epoch: Finished epochs.
            seconds: What they took.
        """
        pace = seconds / (epoch * self.mean_area(0.0, epoch / planned))

        def end(epochs: int) -> float:
            rest = epochs - epoch
            return seconds + (pace * rest * self.mean_area(epoch / epochs, 1.0) if rest else 0.0)

        if end(planned) <= self.seconds:
            return planned
        return max((epochs for epochs in range(epoch + 1, planned) if end(epochs) <= self.seconds), default=epoch)

    def first_area(self) -> float:
        """Return the area of the pictures at the start, as a share of the full one."""
        first = [size for share, size in self.sizes if share <= 0]
        return self._area(first[-1] if first else self.full_px)

    def mean_area(self, start: float = 0.0, end: float = 1.0) -> float:
        """Return the mean area of the pictures between two shares of the run, as a share of the full one."""
        entries = [(0.0, self.full_px), *self.sizes, (1.0, self.full_px)]
        found = 0.0
        for (first, size), (last, _) in pairwise(entries):
            found += self._area(size) * max(0.0, min(last, end) - max(first, start))
        return found / (end - start)

    def _area(self, size: int) -> float:
        return (min(size, self.full_px) / self.full_px) ** 2


def cooldown_epochs(fits: int, *, epoch: int) -> int:
    """Return in how many of the last epochs a schedule that does not know its end brings the learning rate down.

    Args:
        fits: Epochs that fit into the limit.
        epoch: Finished epochs.
    """
    return min(max(1, round(_COOLDOWN_SHARE * fits)), fits - epoch)

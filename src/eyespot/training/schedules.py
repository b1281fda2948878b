"""Learning-rate schedules: pure functions of the step, except for plateau, whose state is a few plain numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from eyespot.config import ScheduleConfig


def schedule_factor(step: int, *, total_steps: int, steps_per_epoch: int, settings: ScheduleConfig) -> float:
    """Return the share of the peak learning rate for one step.

    Args:
        step: Steps taken so far, 0 for the first.
        total_steps: Steps of the whole run.
        steps_per_epoch: To turn epochs of the settings into steps.
        settings: `plateau` is constant here; `PlateauState` adds what val says.

    Returns:
        In [0, 1]. During warm-up it rises in a straight line; the schedule proper runs over the rest.
    """
    warmup = settings.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
    last, first, peak = settings.final_fraction, settings.start_fraction, settings.peak_fraction
    if settings.name == "cosine":
        return last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2
    if settings.name == "linear":
        return last + (1 - last) * (1 - progress)
    if settings.name == "triangular":
        return (
            first + (1 - first) * progress / peak
            if progress < peak
            else last + (1 - last) * (1 - progress) / (1 - peak)
        )
    if settings.name == "one-cycle":
        # Cosine up, cosine down. Source: Smith and Topin, arXiv:1708.07120; the shape of torch's OneCycleLR.
        if progress < peak:
            return first + (1 - first) * (1 - math.cos(math.pi * progress / peak)) / 2
        return last + (1 - last) * (1 + math.cos(math.pi * (progress - peak) / (1 - peak))) / 2
    if settings.name == "step":
        return settings.factor ** sum(step >= epochs * steps_per_epoch for epochs in settings.step_epochs)
    return 1.0


@dataclass
class PlateauState:
    """Reduce on plateau, as Keras' ReduceLROnPlateau does: the rate is cut when val has not improved for a while.

    Attributes:
        factor: Product of the cuts so far.
        best: Best value so far, smaller is better; None before the first.
        waited_epochs: Epochs since then, or since the last cut.
    """

    factor: float = 1.0
    best: float | None = None
    waited_epochs: int = 0

    def update(self, value: float, settings: ScheduleConfig, *, peak_lr: float) -> bool:
        """Take in one epoch's value (smaller is better) and return whether the rate was cut."""
        # Keras' default threshold: less than 1e-4 is no improvement.
        if self.best is None or value < self.best - 1e-4:
            self.best, self.waited_epochs = value, 0
            return False
        self.waited_epochs += 1
        floor = settings.min_lr / peak_lr
        if self.waited_epochs < max(settings.patience_epochs, 1) or self.factor <= floor:
            return False
        self.factor, self.waited_epochs = max(self.factor * settings.factor, floor), 0
        return True

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the state as plain values for a checkpoint."""
        return asdict(self)

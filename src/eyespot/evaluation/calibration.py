"""Confidence that means what it says: one number, the temperature, is fitted on val, and the error before and after it.

Before this: the logits of val, once the weights are final. After this: the bundle keeps the temperature, and prediction
divides every logit by it. Test is never fitted to. The order of the classes stays what it was, so no answer changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from eyespot.arrays import FloatArray, IntArray
from eyespot.evaluation.metrics import check_scores

LEAST_PICTURES = 100
"""With fewer val pictures than this, the temperature is little more than what was assumed before."""

# Belief about the temperature before any picture was seen: its logarithm is normal around 0 with this deviation, so
# that two thirds of all networks have one from 0.5 to 2. Some hundred pictures outweigh it; a dozen do not, and a model
# that is right on all of them does not become infinitely sure.
_PRIOR_DEVIATION = math.log(2)
_LOWEST, _HIGHEST = 0.05, 20.0
_MOST_LOGITS = 5_000_000  # beyond, every n-th picture is taken: the last digits of one number are not worth seconds
_STEPS = 60  # of bisection, more than a float64 has bits for this range


@dataclass(frozen=True)
class Calibration:
    """What was fitted, and on what.

    Attributes:
        temperature: Logits are divided by it before they become probabilities; 1 changes nothing.
        n: Val pictures it was fitted on; 0 where there were none.
        note: What should be known about it, a sentence; empty where there is nothing.
    """

    temperature: float
    n: int
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the entry `calibration` of metrics.json."""
        return {"temperature": self.temperature, "fitted_on": "val" if self.n else None, "n": self.n, "note": self.note}


def fit_temperature(logits: FloatArray, labels: IntArray) -> Calibration:
    """Return the temperature that makes the labels of val most likely, held back towards 1 where they say little.

    Args:
        logits: float (N, K) of val, finite, with the views that prediction takes.
        labels: int (N,), in [0, K).

    Raises:
        DataError: No pictures, or a label without an output.
        TrainingError: A logit is NaN or infinite.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, section 4.2. Changed: a
        log-normal prior around 1, which only shows with few pictures; bisection of the derivative instead of L-BFGS.
    """
    check_scores(logits, labels)
    step = -(-logits.size // _MOST_LOGITS)
    z = logits[::step].astype(np.float64)  # (n, K)
    z -= z.max(axis=1, keepdims=True)
    own = np.take_along_axis(z, labels[::step, None], axis=1)[:, 0]  # (n,)
    n = len(own)

    def slope(log_t: float) -> float:
        """Return the derivative of the loss by log T, of the pictures and of the prior."""
        scale = math.exp(-log_t)
        with np.errstate(under="ignore"):
            weights = np.exp(z * scale)
            expected = (weights * z).sum(axis=1) / weights.sum(axis=1)  # (n,) mean logit under the model
        gradient = float((own - expected).mean()) * scale
        return gradient * n + log_t / _PRIOR_DEVIATION**2

    low, high = math.log(_LOWEST), math.log(_HIGHEST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    note = ""
    if n < LEAST_PICTURES:
        note = f"fitted on only {n} val picture{'s' * (n != 1)}, and so drawn towards 1"
    return Calibration(float(np.exp((low + high) / 2)), n, note)


def without_val() -> Calibration:
    """Return the temperature of a run that has no val: nothing else may be fitted to."""
    return Calibration(1.0, 0, "there is no val split to fit a temperature on: probabilities are not calibrated")

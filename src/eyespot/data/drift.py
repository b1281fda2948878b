"""What the pictures of a split look like in a few numbers, and whether those of another split differ.

Before this: packed pixels. After this: `eyespot check` says whether test looks like train. With many pictures every
difference is significant: the effect size says whether it matters.

Letters: N and M pictures, F statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eyespot.arrays import Float32Array, Int64Array, UInt8Array
from eyespot.seeds import derive_seed

STATISTICS = ("brightness", "contrast", "red", "green", "blue", "saturation", "sharpness")
"""Mean and deviation of the grey levels; mean of each colour; mean range over the colours; mean step to the right-hand
neighbour: all in [0, 1]."""

DRIFT_AUC = 0.6
"""From this area under the curve on, train and test are said to look different: one pair of pictures in ten more than
chance is told apart."""
DRIFT_P = 0.01
_MOST = 10_000  # pictures of each side
FEWEST = 20
"""Fewer pictures on either side are not compared."""


@dataclass(frozen=True)
class Drift:
    """How far two splits differ.

    Attributes:
        auc: Area under the curve of a logistic regression that tells one split from the other by the statistics,
            measured on pictures that it was not fitted to; 0.5: it cannot, 1: always.
        auc_ci95: Its 95 % interval, lower and upper end.
        p_value: Of the Mann-Whitney test of its scores, one-sided: chance alone gives such an area so often.
        n: Pictures of either split that the area was measured on, the half that it was not fitted to.
        differences: Statistic -> difference of the means in pooled deviations (Cohen's d), second minus first.
        labels_p_value: Of the chi-squared test of equal class shares.
        labels_effect: Cramér's V of the same table, in [0, 1].
    """

    auc: float
    auc_ci95: tuple[float, float]
    p_value: float
    n: tuple[int, int]
    differences: dict[str, float]
    labels_p_value: float
    labels_effect: float

    @property
    def looks_different(self) -> bool:
        """Return whether it is large enough to matter, and more than chance."""
        return self.auc >= DRIFT_AUC and self.p_value < DRIFT_P


def picture_statistics(pixels: UInt8Array) -> Float32Array:
    """Return `STATISTICS` of pictures uint8 (N, H, W, C) with C 1 or 3: float32 (N, 7)."""
    # Plane by plane: numpy goes through an axis of three ten times slower than through three arrays.
    planes = [np.ascontiguousarray(pixels[..., channel]) for channel in range(pixels.shape[3])]
    red, green, blue = planes if len(planes) == 3 else planes * 3
    grey = red * np.float32(0.299 / 255) + green * np.float32(0.587 / 255) + blue * np.float32(0.114 / 255)
    steps = np.abs(np.diff(grey, axis=2)) if grey.shape[2] > 1 else np.zeros_like(grey)
    saturation = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    parts = [
        grey.mean((1, 2)),
        grey.std((1, 2)),
        *(plane.mean((1, 2)) / 255 for plane in (red, green, blue, saturation)),
        steps.mean((1, 2)),
    ]
    return np.stack(parts, axis=1).astype(np.float32)


def measure_drift(
    first: Float32Array, second: Float32Array, first_labels: Int64Array, second_labels: Int64Array, num_classes: int
) -> Drift | None:
    """Return how far two splits differ, None where one has fewer than 20 pictures.

    Args:
        first: float32 (N, F), of train.
        second: float32 (M, F), of test.
        first_labels: int64 (N,).
        second_labels: int64 (M,).
        num_classes: K.

    Source:
        Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017. Changed: the area under the curve in
        place of the accuracy, so that splits of different sizes need no balancing.
    """
    from scipy.stats import chi2_contingency, mannwhitneyu
    from sklearn.linear_model import LogisticRegression

    if min(len(first), len(second)) < FEWEST:
        return None
    dice = np.random.default_rng(derive_seed(0, "drift"))
    parts = [part[dice.permutation(len(part))[:_MOST]].astype(np.float64) for part in (first, second)]
    values = np.concatenate(parts)
    side = np.repeat([0, 1], [len(part) for part in parts])
    deviation = values.std(axis=0)
    varied = deviation > 1e-6
    scaled = (values - values.mean(axis=0)) / np.where(varied, deviation, 1.0)
    scaled = np.concatenate([scaled, scaled**2], axis=1)  # a split may vary more without another mean
    half = np.arange(len(scaled)) % 2 == 0  # the parts were shuffled
    fitted = LogisticRegression(C=1.0, max_iter=500, class_weight="balanced").fit(scaled[half], side[half])
    scores, sides = fitted.decision_function(scaled[~half]), side[~half]
    n = int((sides == 0).sum()), int((sides == 1).sum())
    test = mannwhitneyu(scores[sides == 1], scores[sides == 0], alternative="greater")
    auc = float(test.statistic) / (n[0] * n[1])
    means, spreads = [part.mean(axis=0) for part in parts], [part.var(axis=0) for part in parts]
    pooled = np.sqrt((spreads[0] + spreads[1]) / 2)
    sizes = np.where(varied, (means[1] - means[0]) / np.where(pooled > 1e-6, pooled, 1.0), 0.0)
    table = np.stack([np.bincount(labels, minlength=num_classes) for labels in (first_labels, second_labels)])
    table = table[:, table.sum(axis=0) > 0]
    labels_p, effect = 1.0, 0.0
    if table.shape[1] > 1:
        found = chi2_contingency(table, correction=False)  # Yates's is for p alone, and would shrink V of two classes
        labels_p, effect = float(found.pvalue), float(np.sqrt(found.statistic / table.sum()))
    differences = dict(zip(STATISTICS, map(float, sizes), strict=True))
    return Drift(auc, _auc_interval(auc, n), float(test.pvalue), n, differences, labels_p, effect)


def _auc_interval(auc: float, n: tuple[int, int]) -> tuple[float, float]:
    """Return the 95 % interval of an area under the curve that was measured on n[0] and n[1] pictures.

    Source:
        Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2",
        Statistics in Medicine 25 (2006), method 5: a score interval, which an area of 1 has too.
    """
    from scipy.optimize import brentq

    others = (n[0] + n[1]) / 2 - 1

    def beyond(true: float) -> float:
        """Return how much further than 1.96 deviations the measured area is from a true one, as squares."""
        spread = true * (1 - true) * (1 + others * ((1 - true) / (2 - true) + true / (1 + true))) / (n[0] * n[1])
        return (auc - true) ** 2 - 1.959964**2 * spread

    # Just inside: the spread of a true area of 0 or 1 is none, which is a second root.
    low = brentq(beyond, 0.0, auc - 1e-9) if auc > 0 else 0.0
    high = brentq(beyond, auc + 1e-9, 1.0) if auc < 1 else 1.0
    return float(low), float(high)

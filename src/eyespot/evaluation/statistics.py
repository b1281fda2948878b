"""What two or more results on the same pictures, or over several seeds, allow to be said.

Before this: which pictures each run named right. After this: `compare` and ablations, which put it in words.
Two kinds of chance are kept apart: which test pictures were drawn (`mcnemar_exact`, `paired_bootstrap`), and which
seed the training had (`mean_interval`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from eyespot.arrays import BoolArray, Float64Array, IntArray
from eyespot.errors import UsageError

EQUAL = 1e-12
"""Accuracies are counts over n: a difference that is smaller is rounding."""


class McNemar(NamedTuple):
    """The exact McNemar test of two runs on the same pictures.

    Attributes:
        only_first: Pictures that only the first run names right.
        only_second: Pictures that only the second run names right.
        p_value: Two-sided, in [0, 1]: how often chance alone splits them at least so unevenly.
    """

    only_first: int
    only_second: int
    p_value: float


class MeanInterval(NamedTuple):
    """Mean of a figure over seeds, its standard deviation (n - 1) and 95 % interval; nan where one seed tells none."""

    n: int
    mean: float
    std: float
    low: float
    high: float


def mcnemar_exact(first: BoolArray | IntArray, second: BoolArray | IntArray) -> McNemar:
    """Return the exact McNemar test.

    Args:
        first: bool or 0/1 (N,), whether the first run names each picture right.
        second: The same of the second run, picture by picture.

    Raises:
        UsageError: The arrays have different lengths.

    Source:
        McNemar 1947, Psychometrika 12; exact form: a two-sided binomial test of the discordant pictures at 1/2.
    """
    one, two = _paired(first, second)
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    return McNemar(only_first, only_second, mcnemar_p_value(only_first, only_second))


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of `mcnemar_exact` from its counts."""
    from scipy.stats import binom

    discordant = only_first + only_second
    return 1.0 if not discordant else min(1.0, 2 * float(binom.cdf(min(only_first, only_second), discordant, 0.5)))


def paired_bootstrap(
    first: BoolArray | IntArray,
    second: BoolArray | IntArray,
    *,
    confidence: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the interval of the difference in accuracy, second minus first, by drawing the pictures anew.

    Drawing N pictures with replacement is drawing how many of them are right for only one run, only the other, or
    neither: one multinomial draw instead of N. One picture more is counted for each run alone: without them runs that
    agree on all of five pictures, or differ on all of them, would leave no doubt.

    Args:
        first: bool or 0/1 (N,).
        second: The same pictures in the same order.
        confidence: In (0, 1).
        draws: Bootstrap samples.
        seed: Of the draws.

    Source:
        Efron 1979, percentile interval. Changed: the two added pictures, of Bonett and Price 2012, Journal of
        Educational and Behavioral Statistics 37.
    """
    one, two = _paired(first, second)
    n = len(one) + 2
    shares = np.array([(one & ~two).sum() + 1, (two & ~one).sum() + 1]) / n
    counts = np.random.default_rng(seed).multinomial(n, [*shares, 1 - shares.sum()], size=draws)
    tail = (1 - confidence) / 2
    low, high = np.quantile((counts[:, 1] - counts[:, 0]) / n, [tail, 1 - tail])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> Float64Array:
    """Return p-values corrected for how many there are, float64 (M,), in their order.

    Source:
        Holm 1979, Scandinavian Journal of Statistics 6.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def mean_interval(values: Sequence[float] | Float64Array, confidence: float = 0.95) -> MeanInterval:
    """Return mean, standard deviation and Student's t interval of a figure over seeds.

    Where all values are equal the interval is nan, as for one: two equal seeds do not make a figure certain.

    Raises:
        UsageError: No values.
    """
    if not len(values):
        raise UsageError("a mean of nothing", remedy="give at least one run")
    array = np.asarray(values, dtype=np.float64)
    n, mean = len(array), float(array.mean())
    if n == 1:
        return MeanInterval(1, mean, math.nan, math.nan, math.nan)
    from scipy.stats import t

    std = float(array.std(ddof=1))
    if std < EQUAL:
        return MeanInterval(n, mean, std, math.nan, math.nan)
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * std / math.sqrt(n)
    return MeanInterval(n, mean, std, mean - half, mean + half)


def mean_p_value(values: Sequence[float] | Float64Array) -> float:
    """Return the two-sided p-value, in [0, 1], of differences over seeds against a mean of 0; 1 for one seed.

    Student's t test. Where all differences are equal it has no spread to go by: then the exact sign test, for which
    n seeds of one sign are 2 / 2^n.

    Source:
        scipy.stats.ttest_1samp.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2 or not array.any():
        return 1.0
    if np.ptp(array) < EQUAL:
        return float(2.0 ** (1 - len(array)))
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(array, 0.0).pvalue)


def welch(first: Sequence[float], second: Sequence[float]) -> tuple[MeanInterval, float]:
    """Return the interval of a difference of two means over unequal seeds, and its two-sided p-value.

    Where each group's values are equal the interval is nan, and the test the exact permutation test, which cannot tell
    anything from a few seeds, and says 1 then.

    Source:
        Welch 1947, Biometrika 34; `n` is the smaller count, `std` the standard error times sqrt(n).
    """
    from scipy.stats import t as student

    parts = [float(np.var(group, ddof=1)) / len(group) for group in (first, second)]
    mean, variance = float(np.mean(second) - np.mean(first)), sum(parts)
    count = min(len(first), len(second))
    if math.sqrt(variance) < EQUAL:
        p = 2 / math.comb(len(first) + len(second), len(first))
        return MeanInterval(count, mean, 0.0, math.nan, math.nan), p if abs(mean) > EQUAL and p < 0.05 else 1.0
    # Not ttest_ind, which warns of equal values.
    spread = sum(part**2 / (len(group) - 1) for part, group in zip(parts, (first, second), strict=True))
    freedom, error = variance**2 / spread, math.sqrt(variance)
    half = float(student.ppf(0.975, freedom)) * error
    p = 2 * float(student.sf(abs(mean) / error, freedom))
    return MeanInterval(count, mean, error * math.sqrt(count), mean - half, mean + half), p


def paired_difference(first: BoolArray, second: BoolArray) -> tuple[MeanInterval, float]:
    """Return a difference in accuracy, second minus first, with its 95 % interval, and its two-sided p-value.

    Over seeds Student's interval and test of the differences paired by seed; where these are equal no interval (nan)
    and the sign test. Of one seed, which has no spread, the paired bootstrap of the pictures and the exact McNemar
    test.

    Args:
        first: bool (S, N), whether the first kind of run names each of N pictures right with each of S seeds.
        second: bool (S, N) of the second kind, with the same seeds and pictures.
    """
    deltas = second.mean(axis=1) - first.mean(axis=1)  # (S,)
    found = mean_interval(deltas)
    if len(deltas) > 1:
        return found, mean_p_value(deltas)
    low, high = paired_bootstrap(first[0], second[0])
    return found._replace(low=low, high=high), mcnemar_exact(first[0], second[0]).p_value


def accuracy_error(share: float, n: int) -> float:
    """Return the standard error of an accuracy that comes from which n pictures were drawn, a fraction.

    It is half of Wilson's interval in units of its z: unlike sqrt(share (1 - share) / n), it does not call a figure
    certain because all of a few pictures are right.

    Args:
        share: In [0, 1], perhaps a mean over seeds.
        n: Pictures, at least 1.
    """
    z2 = NormalDist().inv_cdf(0.975) ** 2
    return math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)


def picture_error(first: BoolArray, second: BoolArray) -> float:
    """Return the standard error of a difference in accuracy that comes from which pictures were drawn, a fraction.

    Args:
        first: bool (S, N), whether the first kind of run names each of N pictures right with each of S seeds.
        second: bool (S, N) of the second kind, with the same seeds and pictures.

    More seeds do not make it vanish: it is the spread over pictures of the mean difference over seeds. One picture more
    is counted for each kind alone, as in `paired_bootstrap`: without them runs that agree on all of a dozen pictures
    would leave no doubt.
    """
    differences = (second.astype(np.float64) - first.astype(np.float64)).mean(axis=0)  # (N,)
    counted = np.append(differences, [1.0, -1.0])
    return float(counted.std() / math.sqrt(len(counted)))


def _paired(first: BoolArray | IntArray, second: BoolArray | IntArray) -> tuple[BoolArray, BoolArray]:
    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.shape != two.shape or one.ndim != 1 or not len(one):
        raise UsageError(f"results of shapes {one.shape} and {two.shape}", remedy="give the same pictures for both")
    return one, two

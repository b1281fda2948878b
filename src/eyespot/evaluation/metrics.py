"""Numbers from logits and labels, computed in float64; a share never comes without its n and its interval.

Before this: `evaluate` collects the logits of a split. After this: metrics.json and the report.

`*_accuracy` and `*_score` up is good, `*_loss` and `*_error` down is good. Letters: N images, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np

from eyespot.arrays import BoolArray, Float64Array, FloatArray, Int64Array, IntArray
from eyespot.errors import DataError, TrainingError, UsageError

Interval: TypeAlias = tuple[float, float]

_DRAWS = 2000  # of the noise that an interval of a calibration error allows for


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval in which a share probably lies, from `successes` in `n` independent trials.

    It tells the chance of the drawn test pictures only: another seed of the training moves the share as well.

    Args:
        successes: Trials that succeeded, 0 to `n`.
        n: Trials, at least 1.
        confidence: Probability that such an interval holds the true share, in (0, 1).

    Returns:
        (low, high), 0 <= low <= successes / n <= high <= 1.

    Raises:
        DataError: `n` is 0: a share of nothing.
        UsageError: Counts or confidence that cannot be.

    Source:
        E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if n == 0:
        raise DataError("an interval of 0 trials", remedy="give a split with at least one image")
    if not 0 <= successes <= n:
        raise UsageError(f"{successes} successes in {n} trials", remedy="give 0 <= successes <= n")
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"confidence {confidence:g} is outside of (0, 1)", remedy="use 0.95")
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    share = successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At 0 and n the bound is exact on paper and off by a rounding here.
    low = 0.0 if successes == 0 else min(centre - half, share)
    high = 1.0 if successes == n else max(centre + half, share)
    return low, high


def log_softmax(logits: FloatArray) -> Float64Array:
    """Return the logarithms of the probabilities.

    Args:
        logits: float (..., K), finite.

    Returns:
        float64 (..., K), at most 0; finite also where the probability itself is too small for a float.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True).astype(np.float64)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float64)


def softmax(logits: FloatArray) -> Float64Array:
    """Return the probabilities of logits.

    Args:
        logits: float (..., K), finite.

    Returns:
        float64 (..., K), in [0, 1], sums of 1 over the last axis.
    """
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True).astype(np.float64))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), dtype=np.float64)


def top_k_accuracy(scores: FloatArray, labels: IntArray, k: int = 1) -> float:
    """Return the share of images whose label is among the `k` highest scores.

    Equal scores rank by class index, as `argmax` takes the first: a model that answers the same for all classes is
    not right by chance in all of them.

    Args:
        scores: float (N, K), logits or probabilities.
        labels: int (N,), in [0, K).
        k: How many answers count, 1 to K.

    Returns:
        Fraction in [0, 1].

    Raises:
        UsageError: `k` is not in 1..K.
    """
    num_classes = scores.shape[1]
    if not 1 <= k <= num_classes:
        raise UsageError(f"top-{k} of {num_classes} classes", remedy=f"use k from 1 to {num_classes}")
    own = np.take_along_axis(scores, labels[:, None], axis=1)  # (N, 1)
    ahead = (scores > own) | ((scores == own) & (np.arange(num_classes) < labels[:, None]))  # (N, K)
    return float((ahead.sum(axis=1) < k).mean())


def nll_loss(logits: FloatArray, labels: IntArray) -> float:
    """Return the mean negative log-likelihood of the labels, in nats; guessing evenly gives ln K.

    Args:
        logits: float (N, K), finite.
        labels: int (N,), in [0, K).
    """
    own = np.take_along_axis(log_softmax(logits), labels[:, None], axis=1)
    return max(0.0, float(-own.mean()))


def expected_calibration_error(probs: FloatArray, labels: IntArray, bins: int = 15) -> float:
    """Return how far, on average, the confidence of the first answer is from how often it is right.

    Args:
        probs: float (N, K), rows that sum to 1.
        labels: int (N,), in [0, K).
        bins: Number of equal ranges of confidence, each open at its lower end; at least 1.

    Returns:
        Fraction in [0, 1]; 0 is a model that is right in 80 % of the answers it gives with 80 %.

    Raises:
        UsageError: `bins` is below 1.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, eq. 3.
    """
    confidence, right, home = _confidence_bins(probs, labels, bins)
    # |accuracy - confidence| * n_bin / N, summed: the two divisions by n_bin and by N leave one by N.
    gaps = np.bincount(home, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def adaptive_calibration_error(probs: FloatArray, labels: IntArray, bins: int = 15) -> float:
    """Return the same as `expected_calibration_error`, with ranges of confidence that hold equally many images.

    Most answers of a good model lie in the last of equal ranges, where surplus and lack cancel out; here they are in as
    many ranges as there are.

    Args:
        probs: float (N, K), rows that sum to 1.
        labels: int (N,), in [0, K).
        bins: Number of ranges, at least 1; one for each image where there are fewer.

    Returns:
        Fraction in [0, 1].

    Raises:
        UsageError: `bins` is below 1.

    Source:
        Nguyen and O'Connor 2015, arXiv:1508.05154; as "adaptive" in Nixon et al. 2019, arXiv:1904.01685. Of the first
        answer only.
    """
    confidence, right, _ = _confidence_bins(probs, labels, bins)
    gaps = np.bincount(_even_bins(confidence, bins), weights=right - confidence)
    return float(np.abs(gaps).sum() / len(labels))


def calibration_intervals(probs: FloatArray, labels: IntArray, bins: int = 15) -> tuple[Interval, Interval]:
    """Return the 95 % intervals of the expected and of the adaptive calibration error, as fractions in [0, 1].

    Both errors add up amounts without their signs, so chance makes them larger: a perfectly calibrated model has one
    above 0, and drawing the pictures anew (bootstrap) adds the same surplus a second time. Measured on 10 to 10,000
    simulated answers of calibrated models, a percentile bootstrap never holds the true 0, a reflected one in 20 to 60 %
    of cases. These intervals hold the truth in 95 % and more, and so are wider than they would have to be far from 0.

    Args:
        probs: float (N, K), rows that sum to 1.
        labels: int (N,), in [0, K).
        bins: As for the errors.

    Raises:
        UsageError: `bins` is below 1.

    Source:
        The error is a sum |S_b + Z_b| of true gaps S and noise Z, about normal. Below: at most sum |Z_b| of it is
        chance, the consistency resampling of Bröcker and Smith 2007, Weather and Forecasting 22. Above: it falls short
        of sum |S_b| by at most the sum of Z_b with the signs of S, a normal number. A bin's variance is the larger one
        of what was seen and of what its confidences say; z^2 / 4 and z^2 / 2 are Wilson's, without which a dozen right
        answers with 100 % would leave no doubt.
    """
    confidence, right, home = _confidence_bins(probs, labels, bins)
    return _gap_interval(confidence, right, home), _gap_interval(confidence, right, _even_bins(confidence, bins))


def _gap_interval(confidence: Float64Array, right: BoolArray, home: Int64Array) -> Interval:
    """Return the interval of sum |mean gap| of confidences (N,), right answers (N,) and their ranges (N,)."""
    n, gaps = len(home), right - confidence
    error = np.abs(np.bincount(home, weights=gaps)).sum() / n
    seen, said = (np.bincount(home, weights=one) for one in (gaps**2, confidence * (1 - confidence)))
    variance = np.maximum(np.maximum(seen, said), 0.0)  # a softmax may round to a hair above 1
    noise = np.abs(np.random.default_rng(0).standard_normal((_DRAWS, len(variance))))  # (draws, bins)
    chance = np.quantile(noise @ np.sqrt(variance), 0.975) / n
    z = NormalDist().inv_cdf(0.975)
    short = (z * z / 2 + z * math.sqrt(variance.sum() + z * z / 4)) / n
    return max(0.0, float(error - chance)), min(1.0, float(error + short))


def _even_bins(confidence: Float64Array, bins: int) -> Int64Array:
    """Return the range of each image, int64 (N,), where ranges of rising confidence hold equally many images."""
    home = np.empty(len(confidence), np.int64)
    for number, places in enumerate(np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(home)))):
        home[places] = number
    return home


def reliability_bins(probs: FloatArray, labels: IntArray, bins: int = 15) -> list[list[float]]:
    """Return [mean confidence, accuracy, images] for each range of confidence that has images, rising.

    Args:
        probs: float (N, K), rows that sum to 1.
        labels: int (N,), in [0, K).
        bins: Number of equal ranges, at least 1.

    Raises:
        UsageError: `bins` is below 1.
    """
    confidence, right, home = _confidence_bins(probs, labels, bins)
    counts = np.bincount(home, minlength=bins)
    sums = [np.bincount(home, weights=values, minlength=bins) for values in (confidence, right)]
    return [[float(sums[0][i] / n), float(sums[1][i] / n), int(n)] for i, n in enumerate(counts) if n]


def _confidence_bins(probs: FloatArray, labels: IntArray, bins: int) -> tuple[Float64Array, BoolArray, Int64Array]:
    """Return each image's confidence (N,), whether its first answer is right (N,), and its range (N,)."""
    if bins < 1:
        raise UsageError(f"{bins} bins", remedy="use 15")
    confidence = probs.max(axis=1).astype(np.float64)
    right = probs.argmax(axis=1) == labels
    return confidence, right, np.digitize(confidence, np.linspace(0.0, 1.0, bins + 1)[1:-1], right=True)


def brier_score(probs: FloatArray, labels: IntArray) -> float:
    """Return the mean squared distance between probabilities and the one-hot truth; down is good, as in the literature.

    Args:
        probs: float (N, K), rows that sum to 1.
        labels: int (N,), in [0, K).

    Returns:
        Number in [0, 2]: the sum over all classes, not halved for two.

    Source:
        G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78 (1950).
    """
    distance = probs.astype(np.float64)  # a copy
    distance[np.arange(len(labels)), labels] -= 1.0
    return float((distance**2).sum(axis=1).mean())


def calibration_metrics(logits: FloatArray, labels: IntArray, temperature: float = 1.0) -> dict[str, Any]:
    """Return how far probabilities are from how often they are right, at a temperature.

    Args:
        logits: float (N, K), finite.
        labels: int (N,), in [0, K).
        temperature: Above 0.

    Returns:
        JSON values: `nll_loss` in nats, `ece` and `adaptive_ece` (15 bins) with their intervals, `brier`, all down is
        good, and `reliability`: [confidence, accuracy, n] for each of 15 ranges of confidence that has pictures.
    """
    scaled = logits.astype(np.float64) / temperature
    probs = softmax(scaled)
    ece_ci95, adaptive_ece_ci95 = calibration_intervals(probs, labels)
    return {
        "nll_loss": nll_loss(scaled, labels),
        "ece": expected_calibration_error(probs, labels),
        "ece_ci95": list(ece_ci95),
        "adaptive_ece": adaptive_calibration_error(probs, labels),
        "adaptive_ece_ci95": list(adaptive_ece_ci95),
        "brier": brier_score(probs, labels),
        "reliability": reliability_bins(probs, labels),
    }


def confusion_matrix(labels: IntArray, preds: IntArray, num_classes: int) -> Int64Array:
    """Return how often each class was taken for each.

    Args:
        labels: int (N,), in [0, K).
        preds: int (N,), in [0, K).
        num_classes: K.

    Returns:
        int64 (K, K): rows are the true classes, columns the predicted ones; the sum is N.
    """
    cells = labels.astype(np.int64) * num_classes + preds
    return np.bincount(cells, minlength=num_classes * num_classes).reshape(num_classes, num_classes)


def precision_recall_f1(confusion: IntArray) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return precision, recall and F1 of each class; 0 where there is nothing to divide by.

    Nothing to divide by: the class was never predicted (precision), does not occur (recall), or both (F1).

    Args:
        confusion: int (K, K), rows true, columns predicted.

    Returns:
        Three float64 (K,), in [0, 1].
    """
    hits = confusion.diagonal().astype(np.float64)
    predicted, occurring = confusion.sum(axis=0), confusion.sum(axis=1)

    def share(part: Float64Array, whole: IntArray) -> Float64Array:
        return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)

    return share(hits, predicted), share(hits, occurring), share(2 * hits, predicted + occurring)


def measure(
    logits: FloatArray,
    labels: IntArray,
    class_names: Sequence[str],
    *,
    seconds: float,
    views: str = "none",
    temperature: float = 1.0,
) -> dict[str, Any]:
    """Return everything that metrics.json says about one split.

    Args:
        logits: float32 (N, K), finite.
        labels: int64 (N,), in [0, K).
        class_names: K names, unique.
        seconds: Wall clock that the model took for all N images and views.
        views: Name of the test-time views that the logits are the mean of.
        temperature: Logits are divided by it before they become probabilities.

    Returns:
        JSON values only, all finite: `n`, `top1`, `top1_ci95` [low, high], `top5` (None unless K > 5), what
        `calibration_metrics` returns, under `uncalibrated` the same at temperature 1, `per_class` name -> precision,
        recall, f1, n; `confusion` K rows (true) of K counts (predicted), `seconds`, `images_per_second` (0 where no
        time was measured), `views`.

    Raises:
        DataError: No images, or a label without an output.
        TrainingError: A logit is NaN or infinite.
        UsageError: Shapes that do not belong together.
    """
    check_scores(logits, labels)
    n, num_classes = logits.shape
    if len(class_names) != num_classes:
        raise UsageError(f"{len(class_names)} class names for {num_classes} outputs", remedy="give one name per output")
    preds = logits.argmax(axis=1)
    confusion = confusion_matrix(labels, preds, num_classes)
    hits = int(confusion.diagonal().sum())
    columns = [values.tolist() for values in precision_recall_f1(confusion)]
    support = confusion.sum(axis=1).tolist()
    return {
        "n": n,
        "top1": hits / n,
        "top1_ci95": list(wilson_interval(hits, n)),
        "top5": top_k_accuracy(logits, labels, 5) if num_classes > 5 else None,
        **calibration_metrics(logits, labels, temperature),
        "uncalibrated": calibration_metrics(logits, labels),
        "per_class": {
            name: {"precision": precision, "recall": recall, "f1": f1, "n": count}
            for name, precision, recall, f1, count in zip(class_names, *columns, support, strict=True)
        },
        "confusion": confusion.tolist(),
        "seconds": float(seconds),
        "images_per_second": n / seconds if seconds > 0 else 0.0,
        "views": views,
    }


def check_scores(logits: FloatArray, labels: IntArray) -> None:
    """Refuse logits and labels that no metric can be computed from.

    Args:
        logits: float (N, K).
        labels: int (N,), in [0, K).

    Raises:
        DataError: No images, or a label without an output.
        TrainingError: A logit is NaN or infinite.
        UsageError: Shapes that do not belong together.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise UsageError(
            f"logits of shape {logits.shape} and labels of shape {labels.shape}", remedy="give (N, K) and (N,)"
        )
    n, num_classes = logits.shape
    if n == 0:
        raise DataError("no images to measure", remedy="give a split with at least one image")
    if labels.min() < 0 or labels.max() >= num_classes:
        wrong = int(labels[(labels < 0) | (labels >= num_classes)][0])
        raise DataError(
            f"label {wrong} where the model has the outputs 0 to {num_classes - 1}",
            remedy="evaluate on data with the classes that the model was trained on",
        )
    check_finite(logits)


def check_finite(logits: FloatArray) -> None:
    """Refuse NaN and infinity, which every metric and every probability would turn into nonsense in silence.

    Args:
        logits: float (N, K).

    Raises:
        TrainingError: A logit is NaN or infinite.
    """
    broken = ~np.isfinite(logits).all(axis=1)
    if broken.any():
        raise TrainingError(
            f"the model answers NaN or infinity for {int(broken.sum())} of {len(logits)} images",
            remedy="its weights grew too large: train again with a lower learning rate",
        )

"""Which labels look wrong, from what a model that never saw a picture says about it.

Before this: logits of every picture by a model that was fitted to others. After this: `label_check` writes the list,
the worst first.

A model says which class a picture looks like; it is sometimes wrong, and more often between some classes than others.
So a disagreement with the label is no verdict yet. `estimate_noise` asks how often labels of class j stand on pictures
of class i, given how sure the model is; a label is then as wrong as that table and the model's doubts make it.

Letters: N pictures, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from eyespot.arrays import Float32Array, Float64Array, FloatArray, Int64Array
from eyespot.seeds import derive_seed

# What is believed of a class before its pictures are seen: of 10 labels 9 are right. It fades with their number.
_PRIOR_PICTURES = 10.0
_PRIOR_RIGHT = 0.9
_ITERATIONS = 60
_ALTERNATIONS = 3
_TEMPERATURES = (0.25, 4.0)


@dataclass(frozen=True)
class LabelNoise:
    """How labels go wrong, as estimated.

    Attributes:
        transition: float64 (K, K), row i: the shares of labels that stand on pictures of class i; sums to 1.
        temperature: Of the logits, at which the given labels are most likely under `transition`.
        posterior: float32 (N, K), the probability of each class being the right one, given picture and label.
    """

    transition: Float64Array
    temperature: float
    posterior: Float32Array


@dataclass(frozen=True)
class LabelErrors:
    """Pictures whose label looks wrong, the worst first; M of them.

    Attributes:
        places: int64 (M,), which pictures: those whose label is not their most probable class.
        suggested: int64 (M,), the most probable class.
        score: float64 (M,), the probability that the label is wrong, in [0, 1].
        scores: float64 (N,), the same of every picture; 0 where it was not judged.
        judged: How many pictures were judged; those of a class that is in one fold only cannot be.
        agreed: Of those, how many the models alone, before any estimate, name as they are labelled.
        transition: float64 (K, K), how labels go wrong, as in `LabelNoise`.
    """

    places: Int64Array
    suggested: Int64Array
    score: Float64Array
    scores: Float64Array
    judged: int
    agreed: int
    transition: Float64Array

    @property
    def expected(self) -> float:
        """Return how many labels are wrong by this estimate, those that are not listed included."""
        return float(self.scores.sum())


def assign_folds(labels: Int64Array, contents: Int64Array, folds: int, *, seed: int = 0) -> Int64Array:
    """Return the fold of each picture, int64 (N,) in [0, folds): stratified, equal pictures in the same one.

    Args:
        labels: int64 (N,).
        contents: int64 (N,), equal for pictures that must stay together, such as copies of each other.
        folds: 2 or more.
        seed: Draws them.
    """
    _, first, group = np.unique(contents, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    order = np.random.default_rng(derive_seed(seed, "folds")).permutation(len(first))
    order = order[np.argsort(labels[first[order]], kind="stable")]
    # Classes follow each other without a gap: small ones do not all begin in the first fold.
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % folds
    return fold[group]


def estimate_noise(logits: FloatArray, labels: Int64Array) -> LabelNoise:
    """Return how labels go wrong, and how probable each class is for each picture once this is known.

    The given label is taken as drawn from the true class's row of a table, and the true class as drawn from the
    model's probabilities. The table is the most likely one, found by expectation maximisation; the likelihood is
    concave in it. The model's confusions are so told from wrong labels: a confusion goes with doubtful probabilities,
    a wrong label does not.

    Args:
        logits: float (N, K), finite, out of sample.
        labels: int64 (N,), as given.

    Source:
        A table of label noise from out-of-sample probabilities: Northcutt, Jiang and Chuang, "Confident learning",
        JAIR 2021. Expectation maximisation for it: Dawid and Skene, "Maximum likelihood estimation of observer
        error-rates", 1979. Changed: the thresholds of confident learning count a weak model's confusions as wrong
        labels (docs/decisions/009), so its joint is only the idea; a temperature, and a prior for small classes.
    """
    ranked = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[ranked], np.arange(logits.shape[1] + 1))
    mine = [ranked[start:end] for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]
    temperature = 1.0
    transition = _prior(logits.shape[1]) / _PRIOR_PICTURES
    for _ in range(_ALTERNATIONS):
        probs = _softmax(logits, temperature)
        transition = _most_likely(probs, mine, transition)
        temperature = _fit_temperature(logits, labels, transition)
    probs = _softmax(logits, temperature)
    posterior = np.zeros(logits.shape, np.float32)
    for label, rows in enumerate(mine):
        posterior[rows] = _responsibilities(probs[rows], transition[:, label])
    return LabelNoise(transition, temperature, posterior)


def _prior(classes: int) -> Float64Array:
    """Return the pictures that stand for the prior, float64 (K, K)."""
    others = (1 - _PRIOR_RIGHT) / max(classes - 1, 1)
    prior: Float64Array = _PRIOR_PICTURES * (np.eye(classes) * (_PRIOR_RIGHT - others) + others)
    return prior


def _most_likely(probs: Float64Array, mine: list[Int64Array], transition: Float64Array) -> Float64Array:
    """Return the table of label noise at which the given labels are most likely; `mine` are the rows of each label."""
    prior = _prior(len(transition))
    for _ in range(_ITERATIONS):
        counts = prior.copy()
        for label, rows in enumerate(mine):
            counts[:, label] += _responsibilities(probs[rows], transition[:, label]).sum(axis=0)
        transition = counts / counts.sum(axis=1, keepdims=True)
    return transition


def _responsibilities(probs: Float64Array, column: Float64Array) -> Float64Array:
    """Return the probability of each true class for pictures of one label, float64 (n, K)."""
    joint = probs * column
    return np.asarray(joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-300))


def _fit_temperature(logits: FloatArray, labels: Int64Array, transition: Float64Array) -> float:
    from scipy.optimize import minimize_scalar

    # Some are enough for one number.
    step = -(-logits.size // 2_000_000)
    some, given = logits[::step], transition[:, labels[::step]].T

    def loss(log_t: float) -> float:
        likelihood = (_softmax(some, math.exp(log_t)) * given).sum(axis=1)
        return float(-np.log(np.maximum(likelihood, 1e-300)).mean()) + log_t**2 / len(some)

    low, high = map(math.log, _TEMPERATURES)
    return math.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-2}).x)


def _softmax(logits: FloatArray, temperature: float) -> Float64Array:
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    np.exp(scaled, out=scaled)
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))


def find_label_errors(logits: FloatArray, labels: Int64Array, fold: Int64Array) -> LabelErrors:
    """Return the pictures whose label is not their most probable class, ranked by how probably it is wrong.

    Args:
        logits: float (N, K), out of sample: of a model that was not fitted to the picture or to an equal one.
        labels: int64 (N,), as given.
        fold: int64 (N,), whose model was not fitted to which pictures. A class in one fold only cannot be judged: the
            model that was asked about it has never seen it.
    """
    classes = logits.shape[1]
    distinct = np.unique(np.stack([labels, fold], axis=1), axis=0)[:, 0]
    judgeable = np.flatnonzero(np.bincount(distinct, minlength=classes) >= 2)
    if not len(judgeable):
        nowhere = np.zeros(0, np.int64)
        return LabelErrors(nowhere, nowhere, np.zeros(0), np.zeros(len(labels)), 0, 0, np.eye(classes))
    rows = np.flatnonzero(np.isin(labels, judgeable))
    noise = estimate_noise(logits[np.ix_(rows, judgeable)], np.searchsorted(judgeable, labels[rows]))
    scores = np.zeros(len(labels))
    own = np.searchsorted(judgeable, labels[rows])
    scores[rows] = 1 - noise.posterior[np.arange(len(rows)), own].astype(np.float64)
    best = np.array(labels)
    best[rows] = judgeable[noise.posterior.argmax(axis=1)]
    wrong = np.flatnonzero(best != labels)
    wrong = wrong[np.argsort(-scores[wrong], kind="stable")]
    transition = np.eye(classes)
    transition[np.ix_(judgeable, judgeable)] = noise.transition
    agreed = int((logits[rows].argmax(axis=1) == labels[rows]).sum())
    return LabelErrors(wrong, best[wrong].astype(np.int64), scores[wrong], scores, len(rows), agreed, transition)

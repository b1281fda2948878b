"""Which labels look wrong, from what a model that never saw a picture says about it.

Before this: probabilities of every picture by a model that was fitted to others. After this: `checking` writes the
list, the worst first.

Letters: N pictures, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eyespot.data.dataset import Int64Array
from eyespot.seeds import derive_seed

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class LabelErrors:
    """Pictures whose label looks wrong, the worst first; M of them.

    Attributes:
        places: int64 (M,), which pictures.
        suggested: int64 (M,), the class that is given in place of theirs.
        score: float64 (M,), one minus the probability of the given label, in [0, 1]; higher is worse.
        judged: How many pictures were judged; those of a class with a single picture cannot be.
    """

    places: Int64Array
    suggested: Int64Array
    score: npt.NDArray[np.float64]
    judged: int


def assign_folds(labels: Int64Array, contents: Int64Array, folds: int, *, seed: int = 0) -> Int64Array:
    """Return the fold of each picture, int64 (N,) in [0, folds): stratified, equal pictures in the same one.

    Args:
        labels: int64 (N,).
        contents: int64 (N,), equal for pictures with equal pixels.
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


def find_label_errors(probs: FloatArray, labels: Int64Array, contents: Int64Array) -> LabelErrors:
    """Return the pictures that are confidently another class, ranked by how improbable their label is.

    A class's threshold is the mean probability that its own pictures get for it. A picture counts as class j where its
    probability reaches j's threshold, for the highest such j; where that is not its label, the label looks wrong.

    Args:
        probs: float (N, K), out of sample: of a model that was not fitted to the picture or to an equal one.
        labels: int64 (N,), as given.
        contents: int64 (N,), equal for pictures with equal pixels.

    Source:
        Northcutt, Jiang and Chuang, "Confident learning", JAIR 2021: the confident joint (equation 1), its off-diagonal
        pictures ranked by self-confidence.
    """
    distinct = np.unique(np.stack([labels, contents], axis=1), axis=0)[:, 0]
    judgeable = np.bincount(distinct, minlength=probs.shape[1]) >= 2
    counts = np.maximum(np.bincount(labels, minlength=probs.shape[1]), 1)
    own = probs[np.arange(len(labels)), labels].astype(np.float64)
    thresholds = np.bincount(labels, weights=own, minlength=probs.shape[1]) / counts
    reached = (probs >= thresholds) & judgeable
    confident = np.where(reached, probs, -1.0).argmax(axis=1)
    judged = judgeable[labels]
    wrong = np.flatnonzero(judged & reached.any(axis=1) & (confident != labels))
    wrong = wrong[np.argsort(own[wrong], kind="stable")]
    return LabelErrors(wrong, confident[wrong].astype(np.int64), 1 - own[wrong], int(judged.sum()))

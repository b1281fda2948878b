"""What a picture of each class counts in the loss: all alike, or those of rare classes more.

Before this: `splits`, which knows the labels. After this: the loop in `fit`, and the heads that are solved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from eyespot.arrays import Int64Array

_IMBALANCE = 3  # times the pictures of the smallest class: what "auto" puts up with


def class_weights(labels: Int64Array, num_classes: int, wanted: str) -> torch.Tensor | None:
    """Return one weight per class, so that all classes with pictures count alike; None where all pictures do.

    Args:
        labels: int64 (n,), of train, each in [0, num_classes).
        num_classes: K.
        wanted: `training.class_balance`.

    Returns:
        float32 (K,): inverse to the class's number of pictures, 1 in the mean over the pictures; 0 for a class without.
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = counts[counts > 0]
    if wanted == "none" or (wanted == "auto" and present.max() <= _IMBALANCE * present.min()):
        return None
    each = np.where(counts, len(labels) / (np.maximum(counts, 1) * len(present)), 0.0)
    return torch.from_numpy(each).float()


def balance_note(labels: Int64Array, class_names: Sequence[str]) -> str:
    """Return in words that the classes are weighted, and why."""
    counts = np.bincount(labels, minlength=len(class_names))
    most, least = int(counts.argmax()), int(np.where(counts > 0, counts, counts.max()).argmin())
    return (
        f"classes are weighted in the loss: {class_names[most]!r} has {counts[most]:,} training pictures, "
        f"{class_names[least]!r} has {counts[least]:,}; off with --set training.class_balance=none"
    )

"""What a picture of each class counts: the weights by hand, what they even out, and when there are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyespot.training.balance import class_weights


def test_class_weights_by_hand() -> None:
    weights = class_weights(np.array([0, 0, 0, 1, 3, 3]), 5, "loss")
    assert weights is not None
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([2 / 3, 2, 0, 1, 0])


@pytest.mark.parametrize(("wanted", "rare", "weighted"), [
    ("auto", 10, False),  # three to one
    ("auto", 9, True),
    ("none", 1, False),
    ("loss", 30, True),
])  # fmt: skip
def test_when_classes_are_weighted(wanted: str, rare: int, weighted: bool) -> None:
    labels = np.repeat([0, 2], [30, rare])  # class 1 has no picture: that alone is no imbalance
    assert (class_weights(labels, 3, wanted) is not None) == weighted


@given(labels=st.lists(st.integers(0, 9), min_size=1, max_size=200))
def test_class_weights_even_the_classes_out(labels: list[int]) -> None:
    array = np.array(labels)
    found = class_weights(array, 10, "loss")
    assert found is not None
    weights = found.double().numpy()
    assert weights[array].mean() == pytest.approx(1)
    sums = np.bincount(array, weights=weights[array], minlength=10)
    assert sums[np.unique(array)] == pytest.approx(len(array) / len(np.unique(array)))

"""Test-time views against the six forward passes written out."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from eyespot.config import EvaluationConfig
from eyespot.errors import UsageError
from eyespot.evaluation.views import Views, check_views, view_logits


def weighted_sum(images: Tensor) -> Tensor:
    """Answer with a number that every pixel moves differently: (B, C, H, W) -> (B, 1)."""
    _, channels, height, width = images.shape
    weights = torch.arange(channels * height * width, dtype=torch.float32).view(channels, height, width).sin()
    return (images * weights).sum(dim=(1, 2, 3))[:, None]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 2, 5, 6, generator=torch.Generator().manual_seed(0))


def test_no_views_is_the_model(images: Tensor) -> None:
    assert torch.equal(view_logits(weighted_sum, images, "none"), weighted_sum(images))


def test_mirror_is_the_mean_of_two(images: Tensor) -> None:
    expected = (weighted_sum(images) + weighted_sum(images.flip(-1))) / 2
    torch.testing.assert_close(view_logits(weighted_sum, images, "mirror"), expected)


def test_mirror_shift_is_six_views_with_airbenchs_weights(images: Tensor) -> None:
    padded = torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect"))
    expected = torch.zeros(3, 1)
    for weight, view in (
        (0.5, images),
        (0.25, padded[:, :, 0:5, 0:6]),
        (0.25, padded[:, :, 2:7, 2:8]),
    ):
        expected += weight * (weighted_sum(view) + weighted_sum(view.flip(-1))) / 2
    torch.testing.assert_close(view_logits(weighted_sum, images, "mirror-shift"), expected)


@pytest.mark.parametrize(("views", "passes"), [("none", 1), ("mirror", 2), ("mirror-shift", 6)])
def test_it_takes_as_many_passes_as_it_says_and_gives_float32(views: Views, passes: int, images: Tensor) -> None:
    shapes = []

    def model(batch: Tensor) -> Tensor:
        shapes.append(batch.shape)
        return batch.mean(dim=(2, 3)).bfloat16()

    logits = view_logits(model, images, views)
    assert logits.dtype == torch.float32
    assert shapes == [images.shape] * passes


def test_a_mirrored_picture_gets_the_same_answer(images: Tensor) -> None:
    given, mirrored = (view_logits(weighted_sum, batch, "mirror") for batch in (images, images.flip(-1)))
    torch.testing.assert_close(given, mirrored)


def test_the_recipe_knows_the_same_views() -> None:
    assert get_args(EvaluationConfig.model_fields["views"].annotation) == get_args(Views)


def test_unknown_views() -> None:
    with pytest.raises(UsageError, match=r"unknown views 'miror'. Did you mean 'mirror'\?: use none, mirror, mirror-s"):
        check_views("miror")


def test_one_pixel_cannot_be_shifted() -> None:
    with pytest.raises(UsageError, match="'mirror-shift' of images of 1x1 px: use views 'mirror'"):
        view_logits(weighted_sum, torch.zeros(1, 1, 1, 1), "mirror-shift")

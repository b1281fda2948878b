"""Preparation inside an exported file: the pixels of Pillow, bit for bit, and the numbers of the transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eyespot.data.input_spec import InputSpec
from eyespot.data.transforms import EvalTransform
from eyespot.deployment.graph import Preparation

SHAPES = [(90, 120), (120, 90), (32, 32), (8, 9), (1, 50), (50, 1), (33, 100), (100, 33), (64, 16), (7, 5), (1, 1)]


def picture(height: int, width: int) -> np.ndarray:
    dice = np.random.default_rng(height * 1000 + width)
    rows, columns = np.linspace(0, 200, height)[:, None, None], np.linspace(0, 50, width)[None, :, None]
    return (rows + columns + dice.integers(0, 6, (height, width, 3))).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad", "short-side"])
def test_the_same_pixels_as_prediction(fit: str, interpolation: str) -> None:
    if (fit, interpolation) == ("short-side", "nearest"):
        pytest.skip("at a tie a strip begins to count elsewhere: another pixel is the nearest")
    for size in (32, 40):
        spec = InputSpec(size, 3, (0.0,) * 3, (1.0,) * 3, fit, interpolation)  # type: ignore[arg-type]
        preparation = Preparation(spec)
        for shape in SHAPES:
            pixels = picture(*shape)
            expected = spec.row_format.square(pixels)
            batch = torch.from_numpy(pixels.copy())[None].permute(0, 3, 1, 2).float()
            found = preparation.square(batch)[0].permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(found, expected, err_msg=str(shape))


@pytest.mark.parametrize(("size", "model"), [(16, None), (16, 24), (24, 16)])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_the_same_numbers_as_the_transform(interpolation: str, size: int, model: int | None) -> None:
    spec = InputSpec(size, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "squash", interpolation, model)  # type: ignore[arg-type]
    pixels = torch.from_numpy(picture(size, size).copy())[None]
    expected = EvalTransform(spec)(pixels.permute(0, 3, 1, 2))
    torch.testing.assert_close(Preparation(spec)(pixels), expected, rtol=1e-5, atol=1e-5)


def test_grey_as_pillow_makes_it() -> None:
    from PIL import Image

    spec = InputSpec(20, 1, (0.0,), (1.0,))
    pixels = picture(50, 31)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
    expected = spec.row_format.square(grey)[:, :, 0] / np.float32(255)
    found = Preparation(spec)(torch.from_numpy(pixels.copy())[None])
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-6)

"""Corruptions: each does what its name says, more with every strength, on pictures of any size, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.color import hsv2rgb, rgb2hsv

from eyespot.errors import UsageError
from eyespot.evaluation import corruptions
from eyespot.evaluation.corruptions import CORRUPTIONS, SHIFTS, STRENGTHS, corrupt
from eyespot.evaluation.robustness import cell_names, stratified, summarise

ALL = [*CORRUPTIONS, *SHIFTS]


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """Return uint8 (4, 32, 32, 3)."""
    pictures = [data.astronaut(), data.coffee(), data.cat(), data.chelsea()]
    return np.stack([np.asarray(Image.fromarray(picture).resize((32, 32))) for picture in pictures])


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def test_they_are_the_fifteen_of_cifar_10_c() -> None:
    assert len(CORRUPTIONS) == 15
    assert len(cell_names()) == len(set(cell_names())) == 1 + 75 + 1 + 5


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("side", "channels"), [(8, 3), (16, 1), (28, 1), (32, 1), (48, 3)])
def test_any_size_and_no_colours(kind: str, side: int, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side, channels), dtype=np.uint8)
    for strength in STRENGTHS:
        made = corrupt(pixels, kind, strength, seed=3)
        assert (made.shape, made.dtype) == (pixels.shape, np.uint8)
        assert (made != pixels).any(), "an accuracy on pictures as they are would pass for one on worse ones"
        assert (made == corrupt(pixels, kind, strength, seed=3)).all()


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_strongest_changes_more_than_the_weakest(kind: str, photographs: np.ndarray) -> None:
    if kind == "elastic":
        pytest.skip("published with a larger shear at strength 1 than at 5")
    weak, strong = (distance(corrupt(photographs, kind, strength, seed=0), photographs) for strength in (1, 5))
    assert 0 < weak < strong < 120


@pytest.mark.parametrize("kind", ["gaussian noise", "snow", "fog", "shifted"])
def test_seed_and_batch_give_other_numbers(kind: str, photographs: np.ndarray) -> None:
    first = corrupt(photographs, kind, 3, seed=0)
    assert (first != corrupt(photographs, kind, 3, seed=1)).any()
    assert (first != corrupt(photographs, kind, 3, seed=0, batch=1)).any()


def test_black_white_and_single_colours_stay_finite() -> None:
    pixels = np.stack([np.full((16, 16, 3), shade, np.uint8) for shade in (0, 255, 90)])
    for kind in ALL:
        corrupt(pixels, kind, 5, seed=0)


def test_noise_has_its_published_size() -> None:
    grey = np.full((20, 32, 32, 3), 128, np.uint8)
    assert np.std(corrupt(grey, "gaussian noise", 5, seed=0) / 255) == pytest.approx(0.10, rel=0.02)
    assert np.std(corrupt(grey, "shot noise", 5, seed=0) / 255) == pytest.approx((128 / 255 / 50) ** 0.5, rel=0.02)
    hit = corrupt(grey, "impulse noise", 5, seed=0) != 128
    assert hit.mean() == pytest.approx(0.07, rel=0.05)


def test_brightness_and_contrast_against_other_libraries(photographs: np.ndarray) -> None:
    hsv = rgb2hsv(photographs[0] / 255)
    hsv[..., 2] = np.clip(hsv[..., 2] + 0.2, 0, 1)
    assert np.abs(hsv2rgb(hsv) * 255 - corrupt(photographs[:1], "brightness", 4, seed=0)[0]).max() <= 1.01
    means = photographs[0].mean((0, 1))
    expected = np.clip((photographs[0] - means) * 0.3 + means, 0, 255)
    assert np.abs(expected - corrupt(photographs[:1], "contrast", 4, seed=0)[0]).max() <= 1.01


def test_blur_against_scipy(photographs: np.ndarray) -> None:
    import torch

    images = torch.from_numpy(photographs).permute(0, 3, 1, 2).float()
    own = corruptions._blur(images, 1.2).permute(0, 2, 3, 1).numpy()
    other = gaussian_filter(photographs.astype(np.float32), (0, 1.2, 1.2, 0), mode="mirror", truncate=4.0)
    assert np.abs(own - other).max() < 0.01


def test_mirrored_and_shifted(photographs: np.ndarray) -> None:
    assert (corrupt(photographs, "mirrored", 1, seed=0) == photographs[:, :, ::-1]).all()
    shifted = corrupt(photographs, "shifted", 3, seed=0)
    for one, was in zip(shifted, photographs, strict=True):
        directions = [np.roll(was, by, axis)[5:-5, 5:-5] for by in (3, -3) for axis in (0, 1)]
        assert any((one[5:-5, 5:-5] == moved).all() for moved in directions)


@pytest.mark.parametrize(("kind", "strength"), [("rain", 1), ("snow", 6), ("snow", 0)])
def test_unknown_kinds_and_strengths(kind: str, strength: int) -> None:
    with pytest.raises(UsageError, match="use 1 to 5 of gaussian noise, "):
        corrupt(np.zeros((1, 8, 8, 3), np.uint8), kind, strength, seed=0)


def test_a_sample_has_each_class_by_its_share() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100]).astype(np.int64)
    places = stratified(labels, 100, 0)
    assert np.bincount(labels[places]).tolist() == pytest.approx([60, 30, 10], abs=1)
    assert (np.diff(places) > 0).all()
    assert (stratified(labels, 100, 0) == places).all()
    assert (stratified(labels, 100, 1) != places).any()
    assert len(stratified(labels, 0, 0)) == len(stratified(labels, 5000, 0)) == 1000
    for limit in (-1, 1.5, "3"):
        with pytest.raises(UsageError, match=f"--limit is {limit!r}"):
            stratified(labels, limit, 0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="seed is -1"):
        stratified(labels, 5, -1)


def test_the_mean_corruption_error_is_that_of_the_75_cells() -> None:
    cells = dict.fromkeys(cell_names(), 8) | {"none/0": 10, "mirrored/1": 1, "fog/5": 3}
    found = summarise(cells, 10)
    assert found["mean_corruption_error"] == pytest.approx((74 * 0.2 + 0.7) / 75)
    low, high = found["mean_corruption_error_ci95"]
    assert 0 < low < found["mean_corruption_error"] < high < 1
    assert found["clean"]["top1"] == 1
    assert found["corruptions"]["fog"][4]["top1"] == 0.3
    low, high = found["corruptions"]["fog"][4]["top1_ci95"]
    assert low < 0.3 < high

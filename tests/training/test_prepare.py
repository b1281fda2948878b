from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from eyespot.data.dataset import PackedDataset
from eyespot.data.splits import make_splits
from eyespot.data.transforms import EvalTransform
from eyespot.device import ComputePlan
from eyespot.training.prepare import prepare_training, read_positions

from .conftest import prepare, tiny_config, tiny_packed


def with_pixels(packed: PackedDataset, change: Any) -> PackedDataset:
    split = packed.splits["train"]
    assert split.pixels is not None
    return replace(packed, splits={"train": replace(split, pixels=change(split.pixels.copy()))})


@pytest.mark.parametrize("normalize", ["channel", "scalar", "minmax", "half"])
@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation_statistics_by_hand(normalize: str, channels: int) -> None:
    packed = tiny_packed(channels=channels)
    splits = make_splits(packed, val_fraction=0.2, test_fraction=0.0, stratify=True, seed=0, final=False)
    rows = splits.indices["train"]["train"]
    pixels = packed.splits["train"].pixels[rows] / 255  # type: ignore[index]
    axes = (0, 1, 2) if normalize == "channel" else None
    expected = {
        "minmax": (np.zeros(channels), np.ones(channels)),
        "half": (np.full(channels, 0.5), np.full(channels, 0.5)),
    }.get(normalize, (pixels.mean(axes) * np.ones(channels), pixels.std(axes) * np.ones(channels)))
    spec = prepare(tiny_config(input__normalize=normalize), packed).spec
    assert spec.mean == pytest.approx(expected[0])
    assert spec.std == pytest.approx(expected[1])


def test_val_and_test_pictures_do_not_move_the_statistics_or_the_whitening() -> None:
    packed = tiny_packed()
    splits = make_splits(packed, val_fraction=0.2, test_fraction=0.2, stratify=True, seed=0, final=False)
    others = np.concatenate([splits.indices["val"]["train"], splits.indices["test"]["train"]])

    def spoil(pixels: np.ndarray) -> np.ndarray:
        pixels[others] = 255
        return pixels

    config = tiny_config(model__name="spot", model__args={"widths": [4, 4, 4]})
    plan = ComputePlan("cpu", "float32", "test")
    clean = prepare_training(packed, splits, config, plan)
    spoiled = prepare_training(with_pixels(packed, spoil), splits, config, plan)
    assert clean.spec == spoiled.spec
    for one, two in zip(clean.model.state_dict().values(), spoiled.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_val_pictures_are_never_augmented_and_train_pictures_are() -> None:
    config = tiny_config(augment__flip="random", augment__translate_px=2, augment__rotate_degrees=20.0)
    prepared = prepare(config)
    assert type(prepared.data.eval_transform) is EvalTransform
    assert prepared.data.val is not None
    batch = next(iter(prepared.data.val.batches(0)))
    first, again = prepared.data.eval_transform(batch.images), prepared.data.eval_transform(batch.images)
    plain = (batch.images.float() / 255 - prepared.spec.mean[0]) / prepared.spec.std[0]
    torch.testing.assert_close(first, plain)
    assert torch.equal(first, again)
    train = next(iter(prepared.data.train.batches(0)))
    augmented = prepared.data.train_transform(
        train.images, train.labels, generator=torch.Generator().manual_seed(0), epoch=0, indices=train.indices
    )
    assert not torch.allclose(augmented, prepared.data.eval_transform(train.images))


def test_pictures_of_one_colour_can_be_normalised() -> None:
    packed = with_pixels(tiny_packed(), lambda pixels: np.full_like(pixels, 7))
    spec = prepare(tiny_config(), packed).spec
    assert spec.std == pytest.approx((1 / 255,))


def test_whitened_outputs_are_uncorrelated() -> None:
    prepared = prepare(tiny_config(model__name="spot"), tiny_packed(300, size=12, channels=3))
    batch = next(iter(prepared.data.train.batches(0)))
    with torch.no_grad():
        model: Any = prepared.model
        out = torch.nn.functional.conv2d(prepared.data.eval_transform(batch.images), model.whiten.weight)
    half = out.shape[1] // 2
    flat = out[:, :half].permute(1, 0, 2, 3).reshape(half, -1)
    covariance = flat @ flat.T / flat.shape[1]
    # The regularisation leaves variances at or below 1; off the diagonal there is next to nothing.
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    assert covariance.diagonal().max() < 1.3
    assert off_diagonal.abs().max() < 0.25
    assert torch.equal(out[:, :half], -out[:, half:])


def test_pictures_are_read_by_their_position_in_a_split() -> None:
    packed = tiny_packed()
    splits = make_splits(packed, val_fraction=0.2, test_fraction=0.0, stratify=True, seed=0, final=False)
    rows = splits.indices["val"]["train"]
    found = read_positions(packed, splits, "val", np.array([3, 0]))
    assert np.array_equal(found, packed.splits["train"].pixels[rows[[3, 0]]])  # type: ignore[index]
    assert read_positions(packed, splits, "val", np.array([], dtype=np.int64)).shape == (0, 8, 8, 1)

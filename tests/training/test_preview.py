from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eyespot.arrays import UInt8Array
from eyespot.config import load_config
from eyespot.data.dataset import PackedDataset
from eyespot.opening import divide, open_data, pack_data
from eyespot.terminal import Terminal
from eyespot.training.prepare import read_pixels
from eyespot.training.preview import preview_augmentation

QUIET = Terminal(quiet=True)
ROWS = np.array([3, 25, 41])


def preview(pictures: Path, recipe: str, **changes: object) -> tuple[UInt8Array, UInt8Array, str]:
    """Return the plain pictures (3, H, W, C), their versions (3, V, H, W, C), and what was said of them."""
    config = load_config(recipe, changes={key.replace("__", "."): value for key, value in changes.items()})
    packed: PackedDataset = pack_data(open_data(pictures, QUIET), config, QUIET)
    shown, told = preview_augmentation(packed, divide(packed, config, QUIET), config, ROWS, versions=6, seed=0)
    plain = read_pixels(packed, "train", ROWS)
    return plain, shown.reshape(len(ROWS), -1, *plain.shape[1:]), told


def test_each_picture_stands_before_its_own_versions(pictures: Path) -> None:
    off = {f"augment__{key}": 0 for key in ("translate_px", "rotate_degrees", "zoom", "brightness_shift", "cutout_px")}
    known = load_config("small").augment.model_dump()
    off = {key: value for key, value in off.items() if key.removeprefix("augment__") in known}
    plain, shown, _ = preview(pictures, "small", augment__flip="random", **off)
    assert shown.shape[1] == 6
    mirrored = plain[:, :, ::-1]
    for place in range(len(ROWS)):
        assert np.array_equal(shown[place, 0], plain[place])
        for version in shown[place]:
            assert np.array_equal(version, plain[place]) or np.array_equal(version, mirrored[place])
    assert len({version.tobytes() for version in shown[0]}) == 2


def test_versions_differ_and_the_words_are_those_of_the_training(pictures: Path) -> None:
    plain, shown, told = preview(pictures, "dll2018", augment__rotate_degrees=40)
    assert told.startswith("rotated by up to 40 degrees; ")
    assert len({version.tobytes() for version in shown[1]}) == 6
    assert np.array_equal(shown[:, 0], plain)


@pytest.mark.parametrize(("views", "count"), [(1, 1), (2, 2), (4, 4)])
def test_a_frozen_backbone_sees_the_views_that_are_stored(pictures: Path, views: int, count: int) -> None:
    plain, shown, told = preview(pictures, "features", features__views=views, augment__rotate_degrees=20)
    assert shown.shape[1] == count
    assert "computed once" in told
    assert np.array_equal(shown[:, 0], plain)
    if views > 1:
        assert np.array_equal(shown[:, 1], plain[:, :, ::-1])
    if views > 2:
        assert not np.array_equal(shown[:, 2], shown[:, 3])

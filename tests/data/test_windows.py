"""Which square of a strip is taken: any place along the long side in training, the middle one elsewhere."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from eyespot.data.resizing import RowFormat
from eyespot.data.windows import Windows

STRIP = RowFormat(8, 3, "short-side", "nearest")  # 16 columns: at most 4 on either side of the square
SIZES_PX = np.array([[12, 8], [8, 12], [8, 8], [800, 8]])  # margins 2, 2, 0, 4


def windows(count: int = 1, *, random: bool = True, seed: int = 0) -> Windows:
    return Windows(np.repeat(SIZES_PX, count, axis=0), STRIP, random=random, seed=seed)


def test_evaluation_takes_the_middle() -> None:
    assert windows(random=False).first_columns(5).tolist() == [4, 4, 4, 4]


def test_training_takes_every_place_equally_often_and_never_what_is_padding() -> None:
    first = windows(9000).first_columns(0).view(4, 9000)
    for row, places in zip(first, ({2, 3, 4, 5, 6}, {2, 3, 4, 5, 6}, {4}, set(range(9))), strict=True):
        counts = Counter(row.tolist())
        assert set(counts) == places
        assert max(counts.values()) - min(counts.values()) < 9000 / len(places) * 0.15


def test_places_follow_from_seed_and_epoch() -> None:
    first = windows(50).first_columns(3)
    assert torch.equal(first, windows(50).first_columns(3))
    assert not torch.equal(first, windows(50).first_columns(4))
    assert not torch.equal(first, windows(50, seed=1).first_columns(3))


def test_a_square_stands_as_in_its_file() -> None:
    dice = np.random.default_rng(0)
    pictures = [dice.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in SIZES_PX[:3]]
    strips = torch.from_numpy(np.stack([STRIP.row(picture) for picture in pictures]))
    positions = torch.tensor([2, 0, 1, 1])
    first = torch.tensor([5, 2, 4, 4])
    squares = windows().cut(strips, positions, positions, first)
    assert squares.is_contiguous()
    expected = [pictures[2], pictures[0][:, 3:11], pictures[1][:8], pictures[1][:8]]
    np.testing.assert_array_equal(squares.numpy(), np.stack(expected))

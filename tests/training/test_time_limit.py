"""What a time limit plans: areas of growing pictures, epochs that fit, and where the rate comes down."""

from __future__ import annotations

import pytest

from eyespot.training.time_limit import TimeLimit, cooldown_epochs


def test_growing_pictures_cost_what_their_areas_say() -> None:
    limit = TimeLimit(60, sizes=[(0.0, 4), (0.5, 8)], full_px=8)
    assert limit.first_area() == 0.25
    assert limit.mean_area() == 0.5 * 0.25 + 0.5 * 1
    assert limit.mean_area(0.5, 1.0) == 1
    assert limit.mean_area(0.25, 0.75) == pytest.approx((0.25 + 1) / 2)


def test_pictures_of_one_size_cost_the_same_all_along() -> None:
    limit = TimeLimit(60, sizes=[], full_px=32)
    assert limit.first_area() == limit.mean_area() == limit.mean_area(0.2, 0.3) == 1


def test_a_side_beyond_the_full_one_counts_as_the_full_one() -> None:
    assert TimeLimit(60, sizes=[(0.0, 64)], full_px=32).mean_area() == 1


def test_before_the_first_smaller_size_pictures_are_full() -> None:
    limit = TimeLimit(60, sizes=[(0.5, 16)], full_px=32)
    assert limit.first_area() == 1
    assert limit.mean_area() == 0.5 + 0.5 * 0.25


def test_epochs_at_a_pace_keep_a_margin_and_count_what_is_done() -> None:
    limit = TimeLimit(100, sizes=[], full_px=32)
    assert limit.epochs_at_pace(1, 10.0) == 9  # 97 seconds are planned for
    assert limit.epochs_at_pace(7, 200.0) == 7


def test_a_plan_is_shortened_only_where_it_does_not_fit() -> None:
    limit = TimeLimit(20, sizes=[], full_px=32)
    assert limit.shortened(8, epoch=4, seconds=10.0) == 8
    assert limit.shortened(8, epoch=4, seconds=11.0) == 7
    assert limit.shortened(8, epoch=4, seconds=30.0) == 4


def test_the_rate_comes_down_in_the_last_part_of_what_is_left() -> None:
    assert cooldown_epochs(20, epoch=3) == 6
    assert cooldown_epochs(1, epoch=0) == 1
    assert cooldown_epochs(20, epoch=18) == 2

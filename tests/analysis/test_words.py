from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyespot.analysis import words


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.9412, "94.1 %"),
        (0.1, "10.0 %"),
        (0.01, "1.0 %"),
        (0.0, "0.0 %"),
        (1.0, "100.0 %"),
        (0.9997, "99.97 %"),
        (0.99998, "99.998 %"),
        (0.0004, "0.04 %"),
        (0.99999996, ">99.9999 %"),
        (4e-8, "<0.0001 %"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_percent(fraction: float | None, text: str) -> None:
    assert words.percent(fraction) == text


@given(st.floats(1e-8, 1 - 1e-8))
def test_percent_never_claims_all_or_nothing(fraction: float) -> None:
    assert 0 < float(words.percent(fraction).removesuffix(" %").lstrip("<>")) < 100


def test_points_interval_and_counts() -> None:
    assert words.points(-0.046) == "4.6 points"
    assert words.points(0.01) == "1.0 point"
    assert words.decimal(3142.04, 1) == "3,142.0"
    assert words.interval((0.9361, 0.9449)) == "[93.6, 94.5]"
    assert words.interval((0.99964, 0.99991)) == "[99.96, 99.99]"
    assert words.interval((0.0, 1.0)) == "[0.0, 100.0]"
    assert words.whole(10_000) == "10,000"
    assert words.plural(1, "picture") == "1 picture"
    assert words.plural(1_200, "class", "classes") == "1,200 classes"
    assert words.decimal(0.12345) == "0.123"
    assert words.decimal(None) == words.decimal(math.inf) == "–"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.423, "0.42 s"),
        (38.14, "38.1 s"),
        (59.97, "1 min 00 s"),
        (252, "4 min 12 s"),
        (3599.7, "1 h 00 min"),
        (7_530, "2 h 06 min"),
        (None, "–"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_500, "1.5 kB"),
        (184_320_000, "184 MB"),
        (2.31e9, "2.3 GB"),
        (5e15, "5000 TB"),
        (None, "–"),
    ],
)
def test_size(number: float | None, text: str) -> None:
    assert words.size(number) == text


def test_rate_and_moment() -> None:
    assert words.rate(5309.7) == "5,310 pictures/s"
    assert words.rate(0.83) == "0.8 pictures/s"
    assert words.rate(None) == "–"
    assert words.moment("2026-03-01T14:03:22+01:00") == "2026-03-01 13:03 UTC"
    assert words.moment("2026-03-01T14:03:22") == "2026-03-01T14:03:22"
    assert words.moment("last summer") == "last summer"


@pytest.mark.parametrize(
    ("number", "text"), [(1e-7, "1e-7"), (0.000123, "0.00012"), (0.42292, "0.42"), (9.96, "10"), (10.0, "10")]
)
def test_learning_rates_have_two_digits(number: float, text: str) -> None:
    assert words.learning_rate(number) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.388, "1.388"), (1e-5, "1e-5"), (1.05e-5, "1.05e-5"), (1e-10, "1e-10"), (2e6, "2e6")]
)
def test_numbers_beside_an_axis_are_short(value: float, text: str) -> None:
    assert words.axis_number(value) == text


def test_settings_that_differ_are_spelt_differently() -> None:
    assert [words.spell(value) for value in (0.9999, 0.9995, 0.1, 1e-4)] == ["0.9999", "0.9995", "0.1", "0.0001"]
    assert words.spell(0.1234567) == "0.123"


def test_a_small_difference_is_not_nothing() -> None:
    assert words.points(0.000367) == "0.04 points"
    assert (words.points(0.01), words.points(-0.023), words.points(0.0)) == ("1.0 point", "2.3 points", "0.0 points")


def test_sentence() -> None:
    assert words.sentence("the disk is full") == "The disk is full."
    assert words.sentence("What now?") == "What now?"
    assert words.sentence("") == ""


def test_p_cell() -> None:
    assert [words.p_cell(p) for p in (0.5, 0.0001)] == ["0.50", "< 0.001"]

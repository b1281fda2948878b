"""Near copies: what is found, what is not, and that the search does not compare all with all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyespot.data import fingerprints
from eyespot.data.fingerprints import (
    NearPairs,
    correlations,
    count_chained,
    describe,
    find_candidates,
    find_near_pairs,
    group_pairs,
)
from eyespot.data.resizing import thumbnail


def thumbs_of(pictures: np.ndarray) -> np.ndarray:
    return np.array([thumbnail(picture) for picture in pictures], np.uint8).reshape(-1, 32, 32)


def smooth(count: int, *, side: int = 32, seed: int = 0) -> np.ndarray:
    """Return pictures uint8 (N, S, S, 3) with structure at low frequencies, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3)).astype(np.float32)
    across = np.linspace(0, 5, side)
    low, share = np.minimum(across.astype(int), 4), across - np.minimum(across.astype(int), 4)
    rows = coarse[:, low] * (1 - share)[:, None, None] + coarse[:, low + 1] * share[:, None, None]
    both = rows[:, :, low] * (1 - share)[:, None] + rows[:, :, low + 1] * share[:, None]
    return both.astype(np.uint8)


def test_the_fingerprint_of_the_mirrored_picture_is_known_without_computing_it() -> None:
    thumbs = thumbs_of(smooth(20))
    np.testing.assert_allclose(
        describe(thumbs[:, :, ::-1]), describe(thumbs) * fingerprints._MIRROR, rtol=1e-3, atol=1e-2
    )


def test_description_is_the_cosine_transform() -> None:
    from scipy.fft import dctn

    thumbs = thumbs_of(smooth(5))
    spectra = dctn(thumbs.astype(float), axes=(1, 2), norm="ortho")
    for place, (row, column) in enumerate(fingerprints._FREQUENCIES):
        scale = 2**0.5 if 0 in (row, column) else 1  # the row of zero frequency is not normalised: only signs matter
        np.testing.assert_allclose(describe(thumbs)[:, place], spectra[:, row, column] * scale, atol=0.05)


@pytest.mark.parametrize("kind", ["brighter", "mirrored", "moved", "larger", "noisy"])
def test_changed_copies_are_found(kind: str) -> None:
    pictures = smooth(300)
    sources = pictures[:50]
    changed = {
        "brighter": lambda: (sources * 0.7 + 30).astype(np.uint8),
        "mirrored": lambda: sources[:, :, ::-1],
        "moved": lambda: np.roll(sources, 1, axis=2),
        "larger": lambda: sources.repeat(2, axis=1).repeat(2, axis=2),
        "noisy": lambda: np.clip(sources + np.random.default_rng(1).normal(0, 4, sources.shape), 0, 255).astype("u1"),
    }[kind]()
    thumbs = np.concatenate([thumbs_of(pictures), thumbs_of(changed)])
    found = find_near_pairs(thumbs, np.arange(len(thumbs)))
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert pairs == {(i, 300 + i) for i in range(50)}
    assert (found.mirrored == (kind == "mirrored")).all()
    assert (found.correlation >= fingerprints.NEAR_CORRELATION).all()


def test_equal_and_blank_pictures_are_no_near_copies() -> None:
    pictures = smooth(3)
    thumbs = thumbs_of(np.concatenate([pictures, pictures[:1], np.full((4, 32, 32, 3), 7, np.uint8)]))
    assert not len(find_near_pairs(thumbs, np.array([0, 1, 2, 0, 4, 5, 6, 7])).first)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_almost_no_pictures(count: int) -> None:
    assert not len(find_near_pairs(thumbs_of(smooth(count)), np.arange(count)).first)


def test_planted_neighbours_among_200_000_are_found_without_comparing_all_with_all() -> None:
    dice = np.random.default_rng(0)
    vectors = dice.normal(size=(200_000, 64)).astype(np.float32)
    sources, copies = np.arange(500), np.arange(100_000, 100_500)
    vectors[copies] = vectors[sources] + 0.1 * dice.normal(size=(500, 64)).astype(np.float32)
    found, compared = set(), 0
    for first, second, mirrored, _ in find_candidates(vectors):
        compared += len(first)
        if not mirrored:
            found |= set(zip(first.tolist(), second.tolist(), strict=True))
    planted = set(zip(sources.tolist(), copies.tolist(), strict=True))
    assert len(planted & found) >= 499
    assert compared < 10 * len(vectors)  # 1.4 million of 20,000 million pairs


def test_many_pictures_in_one_bucket_are_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_MOST_IN_BUCKET", 8)
    vectors = np.ones((400, 64), np.float32)
    found = list(find_candidates(vectors))
    assert sum(cut for *_, cut in found) > 0
    assert sum(len(first) for first, *_ in found) < 400 * 399 / 2


def pairs_of(first: np.ndarray, second: np.ndarray) -> NearPairs:
    return NearPairs(first, second, np.ones(len(first), np.float32), np.zeros(len(first), np.bool_), 0, 0)


def test_likeness_that_is_handed_on_is_told_from_copies() -> None:
    chain = np.arange(599)
    assert count_chained(1000, pairs_of(chain, chain + 1)) == 600
    assert count_chained(20_000, pairs_of(chain, chain + 1)) == 0
    assert count_chained(1000, pairs_of(chain[:0], chain[:0])) == 0
    # 40 pictures in 25 copies each, however few of the pairs were found: a group is a small part of all.
    copies = np.arange(1000)[np.arange(1000) % 25 > 0]
    assert count_chained(1000, pairs_of(copies - 1, copies)) == 0
    # All pairs of 300 pictures: one group, and all of it near.
    first, second = np.triu_indices(300, 1)
    assert count_chained(300, pairs_of(first, second)) == 0


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)).filter(lambda pair: pair[0] != pair[1]), max_size=30))
@settings(max_examples=50, deadline=None)
def test_groups_are_what_pairs_tie_together(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array([pair[k] for pair in pairs], np.int64) for k in (0, 1))
    groups = group_pairs(20, first, second)
    home = {int(place): number for number, group in enumerate(groups) for place in group}
    assert set(home) == {place for pair in pairs for place in pair}
    assert all(home[one] == home[other] for one, other in pairs)
    assert [int(group[0]) for group in groups] == sorted(int(group.min()) for group in groups)


def test_correlation_ignores_brightness_and_finds_a_move() -> None:
    thumbs = thumbs_of(smooth(4))
    assert correlations(thumbs, thumbs // 2 + 40).min() > 0.99
    assert correlations(thumbs[:, 2:, :], thumbs[:, :-2, :]).min() > 0.95

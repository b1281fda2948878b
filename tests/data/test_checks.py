"""What the scan reports, what is refused, and what is said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyespot.data.checks import (
    ScannedPictures,
    build_report,
    class_counts,
    count_leaked,
    enforce,
    find_duplicates,
    require_usable,
)
from eyespot.data.dataset import BadImage, Dataset, Items, ScanReport, SplitName
from eyespot.data.resizing import RowFormat
from eyespot.errors import DataError, LeakError

Row = tuple[str, SplitName, int, int]  # id, split, label, content


def hashes_of(contents: Sequence[int]) -> np.ndarray:
    return np.array([list(content.to_bytes(16, "big")) for content in contents], dtype=np.uint8).reshape(-1, 16)


def dataset_of(
    rows: Sequence[Row], bad: Sequence[tuple[str, SplitName, int]] = (), *, published: bool = False
) -> Dataset:
    everything = [*((id_, split, label) for id_, split, label, _ in rows), *bad]
    splits: dict[SplitName, Items] = {}
    for name in ("train", "val", "test"):
        mine = [(id_, label) for id_, split, label in everything if split == name]
        if mine or name == "train":
            pixels = np.zeros((len(mine), 1, 1, 1), np.uint8)
            labels = np.array([label for _, label in mine], dtype=np.int64)
            splits[name] = Items([id_ for id_, _ in mine], labels, pixels=pixels)  # type: ignore[index]
    return Dataset("pets", ("cat", "dog"), splits, published, "pets/", "split folders")


def scan(
    rows: Sequence[Row], bad: Sequence[tuple[str, SplitName, int]] = (), *, published: bool = False
) -> tuple[ScanReport, Dataset]:
    dataset = dataset_of(rows, bad, published=published)
    scanned = ScannedPictures(
        ids=[row[0] for row in rows],
        splits=[row[1] for row in rows],
        labels=np.array([row[2] for row in rows], dtype=np.int64),
        hashes=hashes_of([row[3] for row in rows]),
        sizes_px=np.full((len(rows), 2), 32, dtype=np.int64),
        modes={"RGB": len(rows)},
    )
    broken = [BadImage(id_, split, "is truncated") for id_, split, _ in bad]
    return build_report(dataset, scanned, broken, row_format=RowFormat(32, 3, "crop", "bilinear")), dataset


def sentences(
    rows: Sequence[Row], bad: Sequence[tuple[str, SplitName, int]] = (), *, published: bool = False
) -> tuple[str, ...]:
    report, dataset = scan(rows, bad, published=published)
    return enforce(report, dataset, on_bad_image="skip", allow_leak=True)


CLEAN: list[Row] = [("a", "train", 0, 1), ("b", "train", 1, 2), ("c", "val", 0, 3), ("d", "test", 1, 4)]


def test_clean_data_need_no_words() -> None:
    report, dataset = scan(CLEAN)
    assert enforce(report, dataset, on_bad_image="refuse", allow_leak=False) == ()
    assert report.counts == {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1, "dog": 0}, "test": {"cat": 0, "dog": 1}}
    assert report.duplicates == report.leaks == report.bad == ()


# --------------------------------------------------------------------------------------------------------- duplicates


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["train", "val", "test"]), st.integers(0, 2)), max_size=30)
)
def test_duplicates_are_what_comparing_all_pairs_finds(rows: list[tuple[int, SplitName, int]]) -> None:
    contents = [row[0] for row in rows]
    ids = [f"p{i}" for i in range(len(rows))]
    groups = find_duplicates(
        hashes_of(contents), ids, [row[1] for row in rows], np.array([row[2] for row in rows], dtype=np.int64)
    )
    expected = []
    for content in dict.fromkeys(contents):
        same = [i for i, other in enumerate(contents) if other == content]
        if len(same) > 1:
            expected.append(
                (tuple(ids[i] for i in same), tuple(rows[i][1] for i in same), tuple(rows[i][2] for i in same))
            )
    assert [(group.ids, group.splits, group.labels) for group in groups] == expected


def test_hashes_that_differ_in_one_byte_are_different() -> None:
    hashes = np.zeros((17, 16), dtype=np.uint8)
    hashes[np.arange(16), np.arange(16)] = 1
    assert find_duplicates(hashes, [str(i) for i in range(17)], ["train"] * 17, np.zeros(17, np.int64)) == ()


def test_hundred_thousand_pictures_with_every_second_one_twice() -> None:
    number = 100_000
    hashes = np.random.default_rng(0).integers(0, 256, (number, 16), dtype=np.uint8)
    hashes[1::2] = hashes[::2]
    groups = find_duplicates(hashes, range(number), ["train"] * number, np.zeros(number, np.int64))  # type: ignore[arg-type]
    assert len(groups) == number // 2
    assert groups[0].ids == (0, 1)
    assert groups[-1].ids == (number - 2, number - 1)


def test_copies_in_one_split_are_counted() -> None:
    rows: list[Row] = [*CLEAN, ("b2", "train", 1, 2), ("b3", "train", 1, 2)]
    assert sentences(rows) == ("2 pictures are exact copies of other pictures in the same split.",)
    assert sentences(rows[:-1]) == ("1 picture is an exact copy of other pictures in the same split.",)


def test_equal_pictures_with_different_labels_are_named() -> None:
    said = sentences([*CLEAN, ("b2", "train", 0, 2)])
    assert any("different labels" in sentence and "b (dog), b2 (cat)" in sentence for sentence in said)


# -------------------------------------------------------------------------------------------------------------- leaks

LEAKY: list[Row] = [*CLEAN, ("t1", "test", 0, 1), ("t2", "test", 1, 2), ("t3", "test", 0, 3)]


def test_a_test_picture_in_train_stops_a_user_s_own_data() -> None:
    report, dataset = scan(LEAKY)
    with pytest.raises(LeakError) as caught:
        enforce(report, dataset, on_bad_image="refuse", allow_leak=False)
    text = str(caught.value)
    assert "3 of the 4 test pictures are also in train or val (t1 = a; t2 = b; t3 = c) in pets" in text
    assert "--allow-leak" in text


def test_a_leak_can_be_allowed_and_is_said() -> None:
    (said,) = sentences(LEAKY)
    assert said.startswith("3 of the 4 test pictures are also in train or val (--allow-leak)")


def test_a_published_split_is_kept_and_its_leak_counted() -> None:
    report, dataset = scan(LEAKY, published=True)
    (said,) = enforce(report, dataset, on_bad_image="refuse", allow_leak=False)
    assert said == "3 of the 4 test pictures are also in train or val; the published split is kept as it is."


def test_many_leaks_are_listed_up_to_ten() -> None:
    rows: list[Row] = [(f"a{i}", "train", i % 2, i) for i in range(12)] + [
        (f"t{i}", "test", i % 2, i) for i in range(12)
    ]
    report, dataset = scan(rows)
    with pytest.raises(LeakError) as caught:
        enforce(report, dataset, on_bad_image="refuse", allow_leak=False)
    assert "t9 = a9; and 2 more" in str(caught.value)
    assert "t10" not in str(caught.value)


def test_one_leaking_picture_is_singular() -> None:
    report, dataset = scan([*CLEAN, ("t1", "test", 0, 1)])
    with pytest.raises(LeakError, match="1 of the 2 test pictures is also in train"):
        enforce(report, dataset, on_bad_image="refuse", allow_leak=False)


def test_a_val_picture_in_train_is_said_and_goes_on() -> None:
    report, dataset = scan([*CLEAN, ("v1", "val", 0, 1)])
    (said,) = enforce(report, dataset, on_bad_image="refuse", allow_leak=False)
    assert said == "1 of the 2 val pictures is also in train: the validation figures are too good."


def test_leaked_pictures_are_counted_and_not_their_groups() -> None:
    report, _ = scan([*CLEAN, ("t1", "test", 0, 1), ("t2", "test", 0, 1), ("t3", "test", 0, 1), ("v1", "val", 1, 2)])
    assert len(report.leaks) == 2
    assert count_leaked(report) == {"test": 3, "val": 1}
    assert count_leaked(scan(CLEAN)[0]) == {"test": 0, "val": 0}


def test_copies_within_test_are_no_leak() -> None:
    report, dataset = scan([*CLEAN, ("d2", "test", 1, 4)])
    assert report.leaks == ()
    enforce(report, dataset, on_bad_image="refuse", allow_leak=False)


# --------------------------------------------------------------------------------------------------------- bad pictures


def test_bad_pictures_are_refused_with_names_reasons_and_remedy() -> None:
    report, dataset = scan(CLEAN, [("x.jpg", "train", 0), ("y.jpg", "test", 1)])
    with pytest.raises(DataError) as caught:
        enforce(report, dataset, on_bad_image="refuse", allow_leak=False)
    text = str(caught.value)
    assert text.startswith("2 of 6 pictures cannot be used (x.jpg is truncated; y.jpg is truncated) in pets: ")
    assert text.endswith("leave them out with --on-bad-image skip")


def test_only_ten_bad_pictures_are_listed() -> None:
    report, dataset = scan(CLEAN, [(f"x{i}.jpg", "train", 0) for i in range(13)])
    with pytest.raises(DataError) as caught:
        enforce(report, dataset, on_bad_image="refuse", allow_leak=False)
    assert "13 of 17" in str(caught.value)
    assert "x9.jpg is truncated; and 3 more" in str(caught.value)
    assert "x10.jpg" not in str(caught.value)


def test_bad_pictures_can_be_left_out_and_are_said() -> None:
    (said,) = sentences(CLEAN, [("x.jpg", "train", 0)])
    assert said == "1 of 5 pictures cannot be used and are left out: x.jpg is truncated."


def test_a_class_that_lost_all_its_training_pictures_is_refused() -> None:
    report, dataset = scan([CLEAN[0], *CLEAN[2:]], [("x.jpg", "train", 1)])
    with pytest.raises(DataError, match=r"of the train pictures of class 'dog' can be used \(x.jpg is truncated\) in"):
        require_usable(report, dataset, on_bad_image="skip")


def test_a_split_that_lost_everything_is_refused() -> None:
    report, dataset = scan(CLEAN[:3], [("x.jpg", "test", 1)])
    with pytest.raises(DataError, match=r"none of the test pictures can be used \(x.jpg is truncated\) in pets"):
        require_usable(report, dataset, on_bad_image="skip")


def test_a_class_that_lost_its_test_pictures_is_said() -> None:
    said = sentences(CLEAN, [("x.jpg", "test", 0)])
    assert said[1] == "None of the test pictures of class 'cat' can be used: it is not measured."


# ------------------------------------------------------------------------------------------------- counts and balance


def test_class_counts_have_every_class() -> None:
    dataset = dataset_of(CLEAN)
    assert class_counts(dataset) == {
        "train": {"cat": 1, "dog": 1},
        "val": {"cat": 1, "dog": 0},
        "test": {"cat": 0, "dog": 1},
    }
    assert list(class_counts(dataset)) == ["train", "val", "test"]


@pytest.mark.parametrize(("cats", "said"), [(3, False), (4, True)])
def test_imbalance_is_said_above_three_to_one(cats: int, said: bool) -> None:
    rows: list[Row] = [("d", "train", 1, 1000), *((f"c{i}", "train", 0, i) for i in range(cats))]  # type: ignore[list-item]
    found = sentences(rows)
    assert bool(found) == said
    if said:
        assert "(4.0 to 1): 'cat' has 4 pictures, 'dog' has 1" in found[0]


def test_a_class_without_training_pictures_is_said() -> None:
    (said,) = sentences([("a", "train", 0, 1), ("d", "test", 1, 4)])
    assert "one class is empty" in said
    assert "'dog' has 0" in said


def test_sizes_are_counted_by_frequency_and_cut_at_fifty() -> None:
    sizes = [(100 + i, 50) for i in range(60)] + [(640, 480)] * 3
    scanned = ScannedPictures(
        ids=[str(i) for i in range(len(sizes))],
        splits=["train"] * len(sizes),
        labels=np.zeros(len(sizes), np.int64),
        hashes=hashes_of(range(len(sizes))),
        sizes_px=np.array(sizes, dtype=np.int64),
        modes={"L": 1, "CMYK": 5, "RGB": 57},
    )
    dataset = dataset_of([(str(i), "train", 0, i) for i in range(len(sizes))])
    report = build_report(dataset, scanned, (), row_format=RowFormat(64, 3, "crop", "bilinear"))
    assert len(report.sizes) == 50
    assert next(iter(report.sizes.items())) == ((640, 480), 3)
    assert list(report.modes) == ["RGB", "CMYK", "L"]
    assert report.small == 60  # 50 is less than 64
    padded, squashed = (RowFormat(64, 3, fit, "bilinear") for fit in ("pad", "squash"))  # type: ignore[arg-type]
    assert build_report(dataset, scanned, (), row_format=padded).small == 0  # no long side is less than 64
    assert build_report(dataset, scanned, (), row_format=squashed).small == 60


def test_no_usable_picture_at_all() -> None:
    report, dataset = scan([], [("x.jpg", "train", 0)])
    assert report.sizes == {}
    assert report.small == 0
    with pytest.raises(DataError, match="none of the train pictures can be used"):
        require_usable(report, dataset, on_bad_image="skip")

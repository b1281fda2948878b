"""Splits: disjoint, complete, in the right shares, without leaks of our making, and the same again from the file."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eyespot.data.dataset import SPLIT_NAMES, Dataset, PackedDataset, PackedSplit, ScanReport, SplitName
from eyespot.data.dividing import largest_remainders, make_splits
from eyespot.data.fingerprints import NearPairs
from eyespot.data.resizing import RowFormat
from eyespot.data.splits import Splits
from eyespot.errors import DataError, RunError, UsageError


def packed_of(
    splits: Mapping[SplitName, tuple[list[int], list[int]]], *, num_classes: int | None = None, fingerprint: str = "f00"
) -> PackedDataset:
    """Return a data set from labels and content numbers: equal numbers are equal pictures."""
    parts = {}
    for name, (labels, contents) in splits.items():
        hashes = np.zeros((len(labels), 16), np.uint8)
        hashes[:, :8] = np.asarray(contents, "<u8").reshape(-1, 1).view(np.uint8)
        hashes[:, 8:] = hashes[:, 7::-1]
        ids = [f"{name}/{i:05d}.png" for i in range(len(labels))]
        count = len(labels)
        parts[name] = PackedSplit(
            ids, np.asarray(labels, np.int64), hashes, np.full((count, 2), 2), pixels=np.zeros((count, 2, 2, 1), "u1")
        )
    classes = num_classes or max((max(labels, default=0) for labels, _ in splits.values()), default=0) + 1
    dataset = Dataset("photos", tuple(f"class{k}" for k in range(classes)), {}, False, "photos", "class folders")
    return PackedDataset(dataset, parts, ScanReport({}), fingerprint, RowFormat(2, 1, "crop", "bilinear"))


def simple(*counts: int) -> PackedDataset:
    """Return a data set with only a train split and so many different pictures of each class."""
    labels = [k for k, count in enumerate(counts) for _ in range(count)]
    return packed_of({"train": (labels, list(range(len(labels))))})


def split(packed: PackedDataset, **changes: Any) -> Splits:
    settings = {"val_fraction": 0.1, "test_fraction": 0.1, "stratify": True, "seed": 0, "final": False}
    return make_splits(packed, **{**settings, **changes})


def members(splits: Splits) -> dict[str, set[tuple[str, int]]]:
    """Return for each split its pictures as (source, index)."""
    return {
        name: {(source, int(row)) for source, rows in parts.items() for row in rows}
        for name, parts in splits.indices.items()
    }


def class_counts(splits: Splits, packed: PackedDataset, name: SplitName) -> list[int]:
    return np.bincount(splits.labels(packed, name), minlength=packed.dataset.num_classes).tolist()


# ------------------------------------------------------------------------------------------------------------ the rules


def test_without_val_and_test_train_is_divided_80_10_10_with_a_note() -> None:
    packed = simple(100, 50, 20)
    splits = split(packed)
    assert class_counts(splits, packed, "train") == [80, 40, 16]
    assert class_counts(splits, packed, "val") == class_counts(splits, packed, "test") == [10, 5, 2]
    assert splits.notes == (
        "The data bring no test split: 10 % were set aside (seed 0): 136 train / 17 val / 17 test.",
    )


def test_the_note_says_the_share_that_became_test_not_the_one_asked_for() -> None:
    notes = split(simple(3, 3)).notes
    assert notes[0] == "The data bring no test split: 33.3 % were set aside (seed 0): 2 train / 2 val / 2 test."


def test_a_given_test_split_is_never_touched() -> None:
    packed = packed_of({"train": ([0, 1] * 20, list(range(40))), "test": ([0, 1] * 5, list(range(100, 110)))})
    for final in (False, True):
        splits = split(packed, final=final, test_fraction=0.5)
        assert {name: rows.tolist() for name, rows in splits.indices["test"].items()} == {"test": list(range(10))}
        assert all("test" not in splits.indices.get(name, {}) for name in ("train", "val"))
    assert split(packed).notes == ()
    assert class_counts(split(packed), packed, "val") == [2, 2]


def test_a_given_val_split_is_used_as_it_is() -> None:
    packed = packed_of(
        {
            "train": ([0, 1] * 20, list(range(40))),
            "val": ([0, 1, 1], [100, 101, 102]),
            "test": ([1, 0], [200, 201]),
        }
    )
    splits = split(packed)
    assert splits.indices["val"]["val"].tolist() == [0, 1, 2]
    assert splits.indices["train"]["train"].tolist() == list(range(40))
    assert splits.notes == ()


def test_a_given_val_split_without_test_leaves_test_to_be_taken_from_train() -> None:
    packed = packed_of({"train": ([0, 1] * 20, list(range(40))), "val": ([0, 1, 1], [100, 101, 102])})
    splits = split(packed)
    assert class_counts(splits, packed, "test") == [2, 2]
    assert splits.indices["val"]["val"].tolist() == [0, 1, 2]
    assert "4 test" in splits.notes[0]


def test_final_trains_on_val_too() -> None:
    packed = packed_of(
        {"train": ([0, 1] * 20, list(range(40))), "val": ([0, 1, 1], [100, 101, 102]), "test": ([1], [200])}
    )
    splits = split(packed, final=True)
    assert splits.count("train") == 43
    assert "val" not in splits.indices
    assert splits.ids(packed, "train")[-4:] == ["train/00039.png", "val/00000.png", "val/00001.png", "val/00002.png"]
    assert splits.labels(packed, "train").tolist() == [0, 1] * 20 + [0, 1, 1]
    (note,) = splits.notes
    assert note.startswith("Final run: trains on all 43 pictures, with the 3 pictures of val; no val figures, no early")


def test_final_without_given_splits_keeps_the_same_test_pictures() -> None:
    packed = simple(30, 30)
    splits = split(packed, final=True)
    assert "val" not in splits.indices
    assert splits.count("train") == 54
    assert splits.indices["test"]["train"].tolist() == split(packed).indices["test"]["train"].tolist()
    assert any(note.startswith("Final run: trains on all 54 pictures; no val figures") for note in splits.notes)


@pytest.mark.parametrize("sizes", [(3, 3), (10, 17), (200, 5)])
@pytest.mark.parametrize("stratify", [True, False])
def test_test_pictures_do_not_depend_on_val_or_final(sizes: tuple[int, ...], stratify: bool) -> None:
    packed = simple(*sizes)
    tests = [
        split(packed, stratify=stratify, **changes).indices["test"]["train"].tolist()
        for changes in ({}, {"val_fraction": 0.3}, {"val_fraction": 0.0}, {"final": True})
    ]
    assert tests[0]
    assert tests == [tests[0]] * 4


def test_fractions_of_zero_mean_no_such_split_and_are_noted() -> None:
    splits = split(simple(5, 5), val_fraction=0.0, test_fraction=0.0)
    assert list(splits.indices) == ["train"]
    assert splits.count("train") == 10
    assert splits.count("val") == splits.count("test") == 0
    assert splits.notes == (
        "There is no test split, and data.test_fraction is 0: no test figures.",
        "There is no val split, and data.val_fraction is 0: no val figures, and nothing can be selected.",
    )


def test_a_missing_split_has_no_ids_and_no_labels() -> None:
    packed = simple(5, 5)
    splits = split(packed, val_fraction=0.0)
    assert splits.ids(packed, "val") == []
    assert splits.labels(packed, "val").dtype == np.int64
    assert len(splits.labels(packed, "val")) == 0


def test_an_empty_given_split_counts_as_missing() -> None:
    packed = packed_of({"train": ([0, 1] * 20, list(range(40))), "test": ([], [])})
    assert split(packed).count("test") == 4


def test_indices_cannot_be_written_to() -> None:
    splits = split(simple(20, 20))
    with pytest.raises(ValueError, match="read-only"):
        splits.indices["train"]["train"][0] = 5


# ----------------------------------------------------------------------------------------------------------- properties

LABELLED = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 200)), min_size=30, max_size=150)
SHARES = st.sampled_from([0.0, 0.05, 0.1, 0.15, 0.29, 0.4])


FORTY = [(number % 2, number) for number in range(40)]


def _try_split(packed: PackedDataset, rows: list[tuple[int, int]], **changes: Any) -> Splits | None:
    """Return the split, or None where a class is too small for one, which has tests of its own."""
    try:
        return split(packed, **changes)
    except DataError:
        assert rows != FORTY
        return None


@settings(max_examples=150, deadline=None)
@given(
    rows=LABELLED,
    agree=st.booleans(),
    val=SHARES,
    test=SHARES,
    stratify=st.booleans(),
    seed=st.integers(0, 5),
    final=st.booleans(),
)
@example(rows=FORTY, agree=False, val=0.1, test=0.1, stratify=True, seed=0, final=False)
def test_disjoint_complete_deterministic_and_copies_together(
    rows: list[tuple[int, int]], agree: bool, val: float, test: float, stratify: bool, seed: int, final: bool
) -> None:
    if agree:  # or copies of one picture may have several labels
        rows = [(content % 4, content) for _, content in rows]
    labels, contents = [label for label, _ in rows], [content for _, content in rows]
    packed = packed_of({"train": (labels, contents)}, num_classes=max(labels) + 1)
    options = {"val_fraction": val, "test_fraction": test, "stratify": stratify, "seed": seed, "final": final}
    splits = _try_split(packed, rows, **options)
    if splits is None:
        return
    parts = members(splits)
    everything = [member for part in parts.values() for member in part]
    assert len(everything) == len(set(everything)) == len(rows)
    home: dict[int, str] = {}
    for name, part in parts.items():
        for _, row in part:
            assert home.setdefault(contents[row], name) == name, "copies of one picture are in two splits"
    for sources in splits.indices.values():
        for indices in sources.values():
            assert indices.dtype == np.int64
            assert (np.diff(indices) > 0).all()
    assert ("test" in parts) == (test > 0)
    assert ("val" in parts) == (val > 0 and not final)
    assert all(parts.values())
    again = split(packed, **options)
    assert again.hash() == splits.hash()
    assert again.notes == splits.notes
    if agree and stratify:
        assert set(splits.labels(packed, "train").tolist()) == set(labels), "a class is not in train any more"


@settings(max_examples=150, deadline=None)
@given(counts=st.lists(st.integers(10, 60), min_size=1, max_size=12), val=SHARES, test=SHARES, seed=st.integers(0, 5))
def test_shares_are_exact_to_one_picture_in_each_class_and_in_total(
    counts: list[int], val: float, test: float, seed: int
) -> None:
    packed = simple(*counts)
    splits = split(packed, val_fraction=val, test_fraction=test, seed=seed)
    for name, share in (("val", val), ("test", test)):
        if not share:
            continue
        got = class_counts(splits, packed, name)
        for count, total in zip(got, counts, strict=True):
            assert count >= 1
            assert count == 1 or abs(count - share * total) < 1
        least = sum(max(1, int(share * total + 1e-9)) for total in counts)
        assert sum(got) == max(least, int(sum(counts) * share + 0.5))


@given(counts=st.lists(st.integers(3, 9), min_size=1, max_size=5), val=SHARES, test=SHARES, seed=st.integers(0, 5))
def test_even_the_smallest_classes_are_in_every_split(counts: list[int], val: float, test: float, seed: int) -> None:
    packed = simple(*counts)
    splits = split(packed, val_fraction=val, test_fraction=test, seed=seed)
    for name in splits.indices:
        assert min(class_counts(splits, packed, name)) >= 1


@settings(max_examples=60, deadline=None)
@example(rows=FORTY, stratify=True, order=random.Random(0))
@given(rows=LABELLED, stratify=st.booleans(), order=st.randoms(use_true_random=False))
def test_the_division_follows_from_content_not_from_file_order(
    rows: list[tuple[int, int]], stratify: bool, order: Any
) -> None:
    shuffled = list(rows)
    order.shuffle(shuffled)
    results = []
    for these in (rows, shuffled):
        packed = packed_of({"train": ([r[0] for r in these], [r[1] for r in these])})
        splits = _try_split(packed, rows, stratify=stratify)
        if splits is None:
            results.append(None)
            continue
        results.append(
            {name: sorted(these[i] for i in splits.indices[name]["train"]) for name in ("train", "val", "test")}
        )
    assert results[0] == results[1]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20), st.floats(0, 0.99), st.integers(0, 1))
def test_largest_remainders(counts: list[int], share: float, least: int) -> None:
    result = largest_remainders(np.asarray(counts), share, least=least)
    floor = sum(max(int(share * count + 1e-9), min(least, count)) for count in counts)
    assert result.sum() == max(floor, int(sum(counts) * share + 0.5))
    for got, count in zip(result.tolist(), counts, strict=True):
        assert 0 <= got <= count
        assert got <= least or abs(got - share * count) < 1 + 1e-6


def test_largest_remainders_against_a_hand_computation() -> None:
    # Quotas 1.6, 1.5, 0.9: floors 1, 1, 0 leave two of four, for the remainders .9 and .6.
    assert largest_remainders(np.asarray([16, 15, 9]), 0.1, least=0).tolist() == [2, 1, 1]
    assert largest_remainders(np.asarray([100]), 0.29, least=0).tolist() == [29]


def test_another_seed_gives_another_split() -> None:
    packed = simple(50, 50)
    assert len({split(packed, seed=seed).hash() for seed in range(5)}) == 5


def test_every_picture_can_be_drawn() -> None:
    packed = simple(10, 10)
    drawn: set[int] = set()
    for seed in range(60):
        drawn |= set(split(packed, seed=seed).indices["val"]["train"].tolist())
    assert drawn == set(range(20))


def test_the_split_of_a_release_never_changes() -> None:
    # A run that is resumed or compared with a later release must mean the same pictures.
    splits = split(simple(20, 20), seed=7)
    assert splits.indices["test"]["train"].tolist() == [5, 9, 22, 23]
    assert splits.indices["val"]["train"].tolist() == [1, 15, 28, 38]


# --------------------------------------------------------------------------------------------------------------- copies


def test_pictures_without_copies_are_drawn_first() -> None:
    # Class 0: 10 pictures twice and 20 once; class 1: 40 once.
    contents = [*(i // 2 for i in range(20)), *range(100, 120), *range(200, 240)]
    packed = packed_of({"train": ([0] * 40 + [1] * 40, contents)})
    splits = split(packed, val_fraction=0.2, test_fraction=0.2)
    assert class_counts(splits, packed, "val") == class_counts(splits, packed, "test") == [8, 8]
    assert set(range(20)) <= set(splits.indices["train"]["train"].tolist())
    assert "20 pictures of train have exact copies: 10 different pictures. Copies stay in one split." in splits.notes


def test_a_class_of_nothing_but_copies_is_divided_in_whole_groups() -> None:
    contents = [i // 4 for i in range(40)]
    packed = packed_of({"train": ([0] * 40, contents)})
    splits = split(packed, val_fraction=0.1, test_fraction=0.2)
    assert splits.count("test") == 8
    assert splits.count("val") == 4
    for name in SPLIT_NAMES:
        rows = splits.indices[name]["train"]
        assert set(np.bincount(rows // 4, minlength=10)) <= {0, 4}


def test_a_group_larger_than_its_share_is_still_drawn_where_nothing_else_is_there() -> None:
    packed = packed_of({"train": ([0] * 12, [i // 4 for i in range(12)])})
    splits = split(packed)
    assert [splits.count(name) for name in SPLIT_NAMES] == [4, 4, 4]


def test_copies_with_other_labels_stay_together_too() -> None:
    packed = packed_of({"train": ([0, 1] * 20, [i // 2 for i in range(40)])})
    splits = split(packed, stratify=False)
    for name in SPLIT_NAMES:
        assert set(np.bincount(splits.indices[name]["train"] // 2, minlength=20)) <= {0, 2}


def test_a_picture_that_is_in_a_given_split_too_is_never_drawn() -> None:
    # Half of train is also in the given test: as val they would select on test pictures.
    train = ([0, 1] * 40, list(range(80)))
    packed = packed_of({"train": train, "test": ([0, 1] * 20, list(range(40)))})
    for stratify in (True, False):
        assert split(packed, val_fraction=0.4, stratify=stratify).indices["val"]["train"].min() >= 40
    packed = packed_of({"train": train, "val": ([0, 1] * 20, list(range(40)))})
    assert split(packed, test_fraction=0.4).indices["test"]["train"].min() >= 40


# ------------------------------------------------------------------------------------------------------------ bad input


def test_a_class_with_one_picture_is_named() -> None:
    with pytest.raises(DataError) as caught:
        split(simple(10, 1, 10))
    assert str(caught.value) == (
        "class 'class1' has 1 picture, too few to be in train and val and test in photos: give each class 3 different "
        "pictures or more, remove the class, or leave it to chance with --set data.stratify=false"
    )


def test_how_many_a_class_needs_depends_on_what_the_data_bring() -> None:
    labels, contents = [0] * 10 + [1] * 2, list(range(12))
    with pytest.raises(DataError, match=r"'class1' has 2 pictures, too few to be in train and val and test"):
        split(packed_of({"train": (labels, contents)}))
    packed = packed_of({"train": (labels, contents), "test": ([0], [99])})
    assert class_counts(split(packed), packed, "val") == [1, 1]
    with pytest.raises(DataError, match=r"'class1' has 1 picture, too few to be in train and val in photos"):
        split(packed_of({"train": (labels[:-1], contents[:-1]), "test": ([0], [99])}))
    lonely = packed_of({"train": ([0, 1], [0, 1]), "val": ([0], [98]), "test": ([0], [99])})
    assert split(lonely).count("train") == 2


def test_copies_do_not_make_a_class_large_and_other_small_classes_are_counted() -> None:
    packed = packed_of({"train": ([0] * 10 + [1] * 5 + [2] * 6, [*range(10), *[50] * 5, *[60, 61] * 3])})
    with pytest.raises(DataError, match=r"'class1' has 5 pictures \(1 different\), too few .*; 1 more have too few"):
        split(packed)


def test_a_class_without_a_picture_in_train_is_named() -> None:
    packed = packed_of({"train": ([0] * 10, list(range(10))), "test": ([1], [99])})
    for stratify in (True, False):
        with pytest.raises(DataError, match=r"class 'class1' has no picture in train in photos: add pictures of it"):
            split(packed, stratify=stratify)


def test_without_stratify_small_classes_stay_in_train_with_a_note() -> None:
    for seed in range(20):
        packed = simple(30, 1)
        splits = split(packed, stratify=False, seed=seed)
        assert class_counts(splits, packed, "train")[1] == 1
        assert [splits.count(name) for name in SPLIT_NAMES] == [25, 3, 3]
        assert "No picture of 'class1' is in test: nothing is measured of that class there." in splits.notes


def test_a_long_list_of_unmeasured_classes_is_cut() -> None:
    splits = split(simple(300, *[1] * 8), stratify=False)
    assert any("'class5' and 3 more is in val" in note for note in splits.notes)


def test_too_few_pictures_for_a_split_without_stratify() -> None:
    with pytest.raises(DataError, match=r"2 pictures in train are too few to take 10 % of them for test in photos"):
        split(simple(1, 1), stratify=False)


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="no picture in train can be used in photos"):
        split(packed_of({"train": ([], [])}))


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (-0.1, 0.1), (0.1, -0.1), (1.0, 0.0), (float("nan"), 0.1)])
def test_fractions_must_leave_something(val: float, test: float) -> None:
    with pytest.raises(UsageError, match=r"val_fraction is .*choose shares from 0 up whose sum is under 1"):
        split(simple(10, 10), val_fraction=val, test_fraction=test)


# -------------------------------------------------------------------------------------------------------- save and load


@pytest.mark.parametrize("final", [False, True])
def test_saved_and_loaded_is_the_same(tmp_path: Path, final: bool) -> None:
    packed = packed_of({"train": ([0, 1] * 20, list(range(40))), "val": ([0, 1], [100, 101])})
    splits = split(packed, final=final)
    splits.save(tmp_path / "split.json")
    loaded = Splits.load(tmp_path / "split.json", packed)
    assert members(loaded) == members(splits)
    assert [*loaded.indices] == [*splits.indices]
    assert loaded.hash() == splits.hash()
    assert loaded.notes == splits.notes
    assert loaded.fingerprint == "f00"
    assert not loaded.indices["train"]["train"].flags.writeable
    assert (tmp_path / "split.json").read_text().count("\n") == 1


def test_the_file_says_what_it_holds(tmp_path: Path) -> None:
    packed = simple(10, 10)
    splits = split(packed)
    splits.save(tmp_path / "split.json")
    document = json.loads((tmp_path / "split.json").read_text())
    assert document["fingerprint"] == packed.fingerprint
    assert document["hash"] == splits.hash()
    assert document["splits"]["val"]["train"] == splits.indices["val"]["train"].tolist()
    assert document["notes"] == list(splits.notes)


@pytest.mark.parametrize(
    ("count", "train_fraction", "told"),
    [
        (20, 1.0, ": as many as then, with other content, labels, order or class names"),
        (24, 1.0, ": 20 then, 24 now"),
        (24, 0.5, ""),
    ],
)
def test_another_data_set_is_refused_with_what_changed(
    tmp_path: Path, count: int, train_fraction: float, told: str
) -> None:
    split(simple(10, 10), train_fraction=train_fraction).save(tmp_path / "split.json")
    other = packed_of({"train": ([0, 1] * (count // 2), list(range(count)))}, fingerprint="bar")
    message = f"the pictures of 'photos' are not those that the run divided{told} (fingerprint f00, now bar) in "
    with pytest.raises(DataError, match=re.escape(message)):
        Splits.load(tmp_path / "split.json", other)


def test_another_data_set_and_a_damaged_division_are_refused(tmp_path: Path) -> None:
    split(simple(10, 10)).save(tmp_path / "split.json")
    other = packed_of({"train": ([0, 1] * 10, list(range(20)))}, fingerprint="bar")
    for tree in ([], {"train": 3}, {"train": {"train": 3}}, {"train": {"train": ["a", 2]}}, {"train": {"train": []}}):
        document = json.loads((tmp_path / "split.json").read_text()) | {"splits": tree}
        (tmp_path / "split.json").write_text(json.dumps(document))
        with pytest.raises(DataError, match="are not those that the run divided"):
            Splits.load(tmp_path / "split.json", other)


def test_a_sample_of_a_split_is_drawn_from_all_of_it_and_leaves_the_others() -> None:
    parts: dict[SplitName, Any] = {
        "train": {"train": np.arange(60) * 2, "val": np.arange(40)},
        "test": {"test": np.arange(9)},
    }
    splits = Splits("f", parts, ("a note",))
    drawn = splits.sampled("train", 50, seed=3)
    assert drawn.count("train") == 50
    assert members(drawn)["train"] < members(splits)["train"]
    assert all(15 < len(rows) < 40 for rows in drawn.indices["train"].values())  # 30 and 20 are expected
    assert all((np.diff(rows) > 0).all() for rows in drawn.indices["train"].values())
    assert members(drawn)["test"] == members(splits)["test"]
    assert drawn.notes == splits.notes
    assert members(splits.sampled("train", 50, seed=3)) == members(drawn)
    assert members(splits.sampled("train", 50, seed=4)) != members(drawn)
    assert splits.sampled("train", 100, seed=3) is splits
    assert splits.sampled("val", 1, seed=3) is splits


def test_hash_tells_splits_apart() -> None:
    rows = np.arange(4)
    hashes = [
        Splits("f", {"train": {"train": rows}}).hash(),
        Splits("g", {"train": {"train": rows}}).hash(),
        Splits("f", {"train": {"train": rows[:3]}}).hash(),
        Splits("f", {"train": {"train": rows[:3]}, "val": {"train": rows[3:]}}).hash(),
        Splits("f", {"train": {"train": rows[:3]}, "test": {"train": rows[3:]}}).hash(),
        Splits("f", {"train": {"train": rows[:3], "val": rows[3:]}}).hash(),
    ]
    assert len(set(hashes)) == len(hashes)
    assert Splits("f", {"train": {"train": rows}}, ("a note",)).hash() == hashes[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["splits"].pop("train"), "names no train split"),
        (lambda d: d["splits"].update(extra={}), "names no train split, or unknown ones"),
        (lambda d: d.update(splits=[]), "names no train split"),
        (lambda d: d["splits"].update(val=[1]), "val is taken from a split that the data do not have"),
        (lambda d: d["splits"]["val"].update(test=[1]), "val is taken from a split that the data do not have"),
        (lambda d: d["splits"]["val"].update(train=[20]), "val are not integers rising from 0 to 19"),
        (lambda d: d["splits"]["val"].update(train=[-1]), "val are not integers rising"),
        (lambda d: d["splits"]["val"].update(train=[2, 1]), "val are not integers rising"),
        (lambda d: d["splits"]["val"].update(train=[1, 1]), "val are not integers rising"),
        (lambda d: d["splits"]["val"].update(train=[0.5]), "val are not integers rising"),
        (lambda d: d["splits"]["val"].update(train=["0"]), "val are not integers rising"),
        (lambda d: d["splits"]["val"].update(train=[[1], [1, 2]]), "val are not integers rising"),
        (lambda d: d["splits"]["val"].update(train=[10**30]), "val are not integers rising"),
        (lambda d: d["splits"]["val"].update(train="all"), "val are not integers rising"),
        (lambda d: d["splits"]["val"].update(train=d["splits"]["train"]["train"]), "val are also in another split"),
        (lambda d: d["splits"]["val"].update(train=[]), "its indices do not match its hash"),
        (lambda d: d.update(hash="0"), "its indices do not match its hash"),
        (lambda d: d.pop("notes"), "it is not a split.json"),
        (lambda d: d.pop("splits"), "it is not a split.json"),
    ],
)
def test_a_damaged_file_is_named_with_the_reason(tmp_path: Path, change: Any, reason: str) -> None:
    packed, path = simple(10, 10), tmp_path / "split.json"
    split(packed).save(path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(RunError, match=reason) as caught:
        Splits.load(path, packed)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_split_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "split.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"damaged: it is not a split\.json in .*start a new run"):
        Splits.load(path, simple(5, 5))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot read \(No such file or directory\) in .*split\.json"):
        Splits.load(tmp_path / "split.json", simple(5, 5))


def test_a_folder_that_is_gone_cannot_be_saved_to(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        split(simple(5, 5)).save(tmp_path / "gone" / "split.json")


def near_of(*pairs: tuple[int, int]) -> NearPairs:
    first, second = (np.array(side, np.int64) for side in zip(*pairs, strict=True))
    return NearPairs(first, second, np.ones(len(pairs), np.float32), np.zeros(len(pairs), np.bool_), 0, 0)


def test_near_copies_stay_together_and_a_draw_that_has_too_few_others_takes_them_whole() -> None:
    packed = simple(40, 40)
    chains = [(i, i + 1) for i in range(0, 20, 2)] + [(i, i + 1) for i in range(40, 60, 2)]
    homes = [members(split(packed, seed=seed, near=near_of(*chains))) for seed in range(5)]
    for home in homes:
        place = {row: name for name, rows in home.items() for _, row in rows}
        assert all(place[one] == place[other] for one, other in chains)
    apart = [members(split(packed, seed=seed)) for seed in range(5)]
    assert any(
        {row: name for name, rows in home.items() for _, row in rows}[one]
        != {row: name for name, rows in home.items() for _, row in rows}[other]
        for home in apart
        for one, other in chains
    )


def test_a_class_of_which_most_pictures_are_alike_is_divided_as_ever_and_that_is_said() -> None:
    packed = simple(10, 20)
    chain = [(i, i + 1) for i in range(7)]
    tied = split(packed, near=near_of(*chain, (10, 11)))
    assert class_counts(tied, packed, "test") == [1, 2]
    assert any("Most pictures of 'class0' nearly equal another one" in note for note in tied.notes)
    assert any("2 pictures nearly equal another one, in 1 group, each" in note for note in tied.notes)


def test_near_copies_with_other_labels_or_in_other_splits_tie_nothing() -> None:
    packed = packed_of({"train": ([0] * 10 + [1] * 10, list(range(20))), "test": ([0, 1], [20, 21])})
    plain = split(packed)
    assert split(packed, near=near_of((0, 10), (3, 20), (12, 21))).hash() == plain.hash()


def test_a_million_pictures(tmp_path: Path) -> None:
    count = 1_000_000
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, count)
    hashes = rng.integers(0, 256, (count, 16), dtype=np.uint8)
    hashes[500_000:510_000] = hashes[:10_000]
    pixels = np.broadcast_to(np.uint8(0), (count, 1, 1, 1))
    packed = simple(1)
    dataset = Dataset("big", tuple(map(str, range(1000))), {}, False, "big", "class folders")
    train = PackedSplit(range(count), labels, hashes, np.ones((count, 2), np.int64), pixels=pixels)  # type: ignore[arg-type]
    packed = PackedDataset(dataset, {"train": train}, packed.report, "f", RowFormat(1, 1, "crop", "bilinear"))
    splits = split(packed)
    assert sum(splits.count(name) for name in SPLIT_NAMES) == count
    assert splits.count("val") == splits.count("test") == 100_000
    splits.save(tmp_path / "split.json")
    assert Splits.load(tmp_path / "split.json", packed).hash() == splits.hash()


@given(share=st.floats(0.01, 1), larger=st.floats(0.01, 1), seed=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_smaller_share_of_train_is_part_of_a_larger_one(share: float, larger: float, seed: int) -> None:
    # The first 20 pictures are ten pairs of copies.
    contents = [i // 2 if i < 20 else i for i in range(200)]
    packed = packed_of({"train": ([0 if i < 20 else i % 4 for i in range(200)], contents)})
    low, high = sorted((share, larger))
    small, big, whole = (split(packed, seed=seed, train_fraction=fraction) for fraction in (low, high, 1.0))
    assert set(small.indices["train"]["train"]) <= set(big.indices["train"]["train"])
    for name in SPLIT_NAMES[1:]:
        assert np.array_equal(small.indices[name]["train"], whole.indices[name]["train"])
    counts = np.bincount(small.labels(packed, "train"), minlength=4)
    expected = low * np.bincount(whole.labels(packed, "train"), minlength=4)
    assert (counts >= np.maximum(expected - 1e-6, 1)).all()
    assert (counts < expected + 2).all()  # up to the next picture, or the next pair of copies


def test_a_share_of_train_is_said_and_none_is_refused() -> None:
    with pytest.raises(UsageError, match="train_fraction is 0: choose a share over 0, at most 1"):
        split(simple(20, 20), train_fraction=0.0)
    halved = split(simple(20, 20), train_fraction=0.5)
    assert halved.notes[-1] == "Trains on 16 of the 32 training pictures (data.train_fraction)."


def test_a_share_of_train_keeps_a_picture_of_each_class_though_chance_draws_it() -> None:
    packed = simple(990, 10)
    for seed in range(8):
        splits = split(packed, stratify=False, train_fraction=0.02, seed=seed)
        assert set(splits.labels(packed, "train").tolist()) == {0, 1}

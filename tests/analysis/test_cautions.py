from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eyespot.analysis.cautions import DataCard, count_pictures, find_cautions

Split = Callable[..., dict[str, Any]]


def found(card: DataCard, metrics: dict[str, Any] | None = None, *, final: bool = False) -> dict[str, tuple[str, str]]:
    cautions = find_cautions(card, metrics or {}, num_classes=4, final=final)
    return {caution.kind: (caution.severity, caution.text) for caution in cautions}


def test_nothing_known_is_nothing_to_say() -> None:
    assert found({}) == {}
    assert count_pictures({}) == 0


@pytest.mark.parametrize(
    ("card", "kind", "severity", "text"),
    [
        (
            {"skipped": 7, "counts": {"train": {"cat": 900}, "test": {"cat": 100}}},
            "bad-files-skipped",
            "warning",
            "7 files were left out because nothing could be read from them; 1,000 pictures remained.",
        ),
        ({"skipped": 1}, "bad-files-skipped", "warning", "1 file was left out because nothing could be read from it"),
        (
            {"leaks": 1, "leaked": {"test": 3, "val": 0}},
            "test-pictures-in-train",
            "serious",
            "3 test pictures are also in train or val (allowed by --allow-leak): the figures on test are too high.",
        ),
        (
            {"leaks": 1, "leaked": {"test": 1, "val": 0}, "published": True},
            "test-pictures-in-train",
            "note",
            "1 test picture is also in train or val, as this data set was published.",
        ),
        (
            {"leaks": 2, "leaked": {"test": 0, "val": 2}},
            "val-pictures-in-train",
            "warning",
            "2 val pictures are also in train: the figures on val are too high.",
        ),
        ({"leaks": 1}, "same-picture-in-two-splits", "warning", "1 group of equal pictures is in more than one split."),
        (
            {"near_across": {"test": 3, "test_total": 200, "val": 0, "val_total": 50}},
            "near-copies-in-test",
            "warning",
            "3 of the 200 test pictures (1.5 %) nearly equal one in train or val, of those that were found",
        ),
        (
            {"near_across": {"test": 0, "test_total": 200, "val": 1, "val_total": 50}, "published": True},
            "near-copies-in-val",
            "note",
            "1 of the 50 val pictures (2.0 %) nearly equals one in train, of those that were found",
        ),
        ({"conflicts": 2}, "conflicting-labels", "warning", "2 pictures are there under different labels"),
        ({"duplicates": 14}, "duplicates", "note", "14 pictures are there more than once"),
        (
            {"enlarged": 60, "counts": {"train": {"cat": 1000}}},
            "enlarged-pictures",
            "note",
            "60 of 1,000 pictures are smaller than the input",
        ),
        (
            {"counts": {"train": {"cat": 900, "dog": 299}}},
            "class-imbalance",
            "warning",
            "Train has 900 pictures of cat and 299 of dog",
        ),
        ({"notes": ["JPEG of quality 75."]}, "about-the-run", "note", "JPEG of quality 75."),
    ],
)
def test_what_the_data_make_of_the_figures(card: DataCard, kind: str, severity: str, text: str) -> None:
    assert found(card)[kind][0] == severity
    assert text in found(card)[kind][1]


def test_what_is_in_order_is_not_mentioned(split_of: Split) -> None:
    card: DataCard = {"counts": {"train": {"cat": 299, "dog": 100}, "test": {"cat": 20, "dog": 20}}, "enlarged": 20}
    assert found(card) == {}
    assert "few-pictures-in-a-class" not in found(card, {"test": split_of(0.9)})


@pytest.mark.parametrize(("split", "few"), [("test", "1 class has"), ("val", "2 classes have")])
def test_few_pictures_of_a_class_are_counted_where_its_figures_are_measured(
    split_of: Split, split: str, few: str
) -> None:
    sizes = {"train": {"cat": 50, "dog": 50}, "val": {"cat": 15, "dog": 3}, "test": {"cat": 30, "dog": 5}}
    text = found({"counts": sizes}, {split: split_of(0.9)})["few-pictures-in-a-class"][1]
    assert text.startswith(f"{few} fewer than 20 pictures in {split}:")


def test_a_copy_in_val_is_no_leak_into_test(split_of: Split) -> None:
    assert list(found({"leaks": 1, "leaked": {"test": 0, "val": 1}})) == ["val-pictures-in-train"]
    both = found({"leaks": 2, "leaked": {"test": 3, "val": 1}})
    assert set(both) == {"test-pictures-in-train", "val-pictures-in-train"}
    measured = found({"leaks": 1}, {"test": {**split_of(0.9), "also_in_train": 4}})
    assert measured["test-pictures-in-train"][1].startswith("4 test pictures are also in train or val")
    assert "same-picture-in-two-splits" not in measured


def test_test_reads_and_final_runs_are_said(split_of: Split) -> None:
    metrics = {"test": split_of(0.9), "test_reads": 3}
    cautions = found({}, metrics, final=True)
    assert cautions["test-read-more-than-once"][1].startswith("Test was read 3 times.")
    assert "no val figures" in cautions["final-run"][1]
    assert "test-read-more-than-once" not in found({}, {**metrics, "test_reads": 1})
    assert "Test has not been read" in found({}, {"val": split_of(0.9)})["no-test-figure"][1]


def test_chance_is_that_of_guessing_and_of_the_most_frequent_class(metrics_of: Split) -> None:
    balanced = metrics_of([[9, 1, 0, 0], [0, 10, 0, 0], [0, 0, 10, 0], [0, 0, 0, 10]])
    assert found({}, {"test": balanced})["chance-level"][1] == "Guessing gives 25.0 % with 4 classes."
    skewed = metrics_of([[70, 0, 0, 0], [0, 10, 0, 0], [0, 0, 10, 0], [0, 0, 0, 10]])
    assert "most frequent class gives 70.0 % on test (n = 100)" in found({}, {"test": skewed})["chance-level"][1]
    assert "most frequent" not in found({}, {"test": {**skewed, "confusion": None}})["chance-level"][1]


def test_the_worst_comes_first(split_of: Split) -> None:
    cautions = find_cautions(
        {"duplicates": 1, "skipped": 1, "leaked": {"test": 1}}, {"test": split_of(0.9)}, num_classes=10, final=False
    )
    assert [caution.severity for caution in cautions] == ["serious", "warning", "note", "note"]

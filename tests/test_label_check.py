"""`check --labels`: planted errors come first, and what cannot be judged is not."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import draw_pictures

from eyespot.analysis.label_errors import assign_folds, find_label_errors
from eyespot.errors import DataError, UsageError
from eyespot.label_check import check_labels


def test_folds_are_stratified_and_keep_equal_pictures_together() -> None:
    labels = np.repeat([0, 1, 2], [50, 25, 1])
    contents = np.arange(76)
    contents[1] = contents[0]
    fold = assign_folds(labels, contents, 5)
    assert fold[0] == fold[1]
    assert np.ptp(np.bincount(fold[labels == 1], minlength=5)) <= 1
    assert set(fold.tolist()) == set(range(5))


def test_confident_learning_by_hand() -> None:
    probs = np.array([[0.9, 0.1], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.95, 0.05]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    found = find_label_errors(probs, labels, np.arange(6))
    assert found.places.tolist() == [5, 2]
    assert found.suggested.tolist() == [0, 1]
    assert found.score.tolist() == pytest.approx([0.95, 0.9])
    assert found.judged == 6


def test_a_class_with_one_picture_is_neither_judged_nor_suggested() -> None:
    probs = np.array([[0.9, 0.0, 0.1], [0.8, 0.1, 0.1], [0.1, 0.9, 0.0], [0.1, 0.8, 0.1], [0.9, 0.1, 0.0]])
    found = find_label_errors(probs, np.array([0, 0, 1, 1, 2]), np.arange(5))
    assert not len(found.places)
    assert found.judged == 4


def test_planted_errors_come_first_and_files_stay(tmp_path: Path) -> None:
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 15)
    (data / "cat" / "003.png").rename(data / "dog" / "planted.png")
    before = sorted(path.name for path in data.rglob("*"))
    found = check_labels(data, csv_path=tmp_path / "labels.csv", out=tmp_path / "labels.html")
    assert found[0].id == "dog/planted.png"
    assert (found[0].given, found[0].suggested) == ("dog", "cat")
    rows = list(csv.DictReader((tmp_path / "labels.csv").read_text(encoding="utf-8").splitlines()))
    assert (rows[0]["id"], rows[0]["decision"]) == ("dog/planted.png", "")
    assert "dog → cat?" in (tmp_path / "labels.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in data.rglob("*")) == before


def test_too_few_pictures_and_folds(tmp_path: Path) -> None:
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 2)
    with pytest.raises(DataError, match="4 different pictures are too few for 5 folds"):
        check_labels(data)
    with pytest.raises(UsageError, match="1 folds"):
        check_labels(data, folds=1)

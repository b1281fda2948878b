"""`check --labels`: planted errors come first, and what cannot be judged is not."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from tests.conftest import TINY, draw_pictures

from eyespot import label_check
from eyespot.analysis.label_errors import LabelErrors, assign_folds, estimate_noise, find_label_errors
from eyespot.config import Config
from eyespot.cross_validation import recipe_from_scratch
from eyespot.data.csvfile import table_rows
from eyespot.data.dataset import PackedDataset
from eyespot.data.fingerprints import contents_of
from eyespot.data.label_fixes import read_label_fixes
from eyespot.errors import CheckpointError, DataError, DownloadError, Interrupted, RunError, UsageError
from eyespot.evaluation.metrics import softmax, wilson_interval
from eyespot.label_check import SuspectLabel, _suspects, check_labels, judge_features, together
from eyespot.opening import load_recipe, open_data, pack_data
from eyespot.terminal import Terminal
from eyespot.training.prepare import read_pixels


class Listener(Terminal):
    """Keeps what it is told."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        self.heard: list[str] = []

    def on_message(self, text: str) -> None:
        self.heard.append(text)


def test_folds_are_stratified_and_keep_equal_pictures_together() -> None:
    labels = np.repeat([0, 1, 2], [50, 25, 1])
    contents = np.arange(76)
    contents[1] = contents[0]
    fold = assign_folds(labels, contents, 5)
    assert fold[0] == fold[1]
    assert np.ptp(np.bincount(fold[labels == 1], minlength=5)) <= 1
    assert set(fold.tolist()) == set(range(5))


def noisy_labels(dice: np.random.Generator, n: int = 6000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits (N, 3), calibrated for the true labels; labels, a fifth of class 0 under class 1; true labels."""
    truth = np.repeat([0, 1, 2], n // 3)
    logits = dice.normal(0, 1.5, (n, 3))
    logits[np.arange(n), truth] += 1.5**2  # the log-likelihood ratio of two normals a distance apart
    labels = truth.copy()
    wrong = dice.permutation(np.flatnonzero(truth == 0))[: n // 15]
    labels[wrong] = 1
    return logits, labels, truth


def test_where_every_class_is_in_one_fold_nothing_is_judged() -> None:
    found = find_label_errors(np.zeros((6, 2)), np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1]))
    assert (found.judged, len(found.places), found.scores.tolist()) == (0, 0, [0.0] * 6)


def test_a_class_whose_name_begins_with_a_space_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    row = (" cat/1.png", "train", " cat", "dog", "0.9", "")
    label_check._write_csv([row, ("dog/1.png", "train", "dog", " cat", "0.8", "")], path)
    assert list(table_rows(path))[1][1] == list(row)


def test_the_table_of_label_noise_is_found_behind_the_models_confusions() -> None:
    logits, labels, truth = noisy_labels(np.random.default_rng(0))
    noise = estimate_noise(logits, labels)
    expected = np.array([[0.8, 0.2, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert np.abs(noise.transition - expected).max() < 0.03
    assert noise.transition.sum(axis=1) == pytest.approx(1)
    assert 0.9 < noise.temperature < 1.1
    assert noise.posterior.sum(axis=1) == pytest.approx(1, abs=1e-5)
    found = find_label_errors(logits, labels, np.arange(len(labels)))
    wrong = labels != truth
    assert found.expected == pytest.approx(wrong.sum(), rel=0.15)
    worst = np.argsort(-found.scores)[: wrong.sum()]
    doubtful = np.argsort(softmax(logits)[np.arange(len(labels)), labels])[: wrong.sum()]
    assert wrong[worst].mean() > wrong[doubtful].mean() + 0.1
    assert (found.suggested[labels[found.places] == 1] == 0).mean() > 0.95


def test_posterior_by_hand() -> None:
    """Ten sure pictures of each class and one sure cat that is labelled dog: Bayes' rule on the estimated table."""
    logits = np.array([[9.0, -9.0]] * 11 + [[-9.0, 9.0]] * 10)
    labels = np.repeat([0, 1], [10, 11])
    noise = estimate_noise(logits, labels)
    # 10 pictures of the prior, of which 9 are right, beside 10 right ones of 11 and 10 of 10.
    assert noise.transition == pytest.approx(np.array([[19 / 21, 2 / 21], [1 / 20, 19 / 20]]), abs=1e-4)
    found = find_label_errors(logits, labels, np.arange(21))
    assert (found.places.tolist(), found.suggested.tolist(), found.judged) == ([10], [0], 21)
    assert found.score[0] > 0.99


def test_a_class_with_one_picture_is_neither_judged_nor_suggested() -> None:
    probs = np.array([[0.9, 0.0, 0.1], [0.8, 0.1, 0.1], [0.1, 0.9, 0.0], [0.1, 0.8, 0.1], [0.9, 0.1, 0.0]])
    found = find_label_errors(np.log(probs + 1e-6), np.array([0, 0, 1, 1, 2]), np.arange(5))
    assert not len(found.places)
    assert found.judged == 4
    assert found.scores[4] == 0


def test_how_many_are_named_right_is_said_of_the_round_that_has_not_chosen_by_their_labels() -> None:
    dice = np.random.default_rng(0)
    labels = dice.integers(0, 2, 200)
    features = (dice.standard_normal((200, 64)) + 0.15 * labels[:, None]).astype(np.float32)
    rounds = judge_features([features], labels, dice.permutation(200) % 5, num_classes=2)
    logits, first = next(rounds)
    assert first.agreed == (logits.argmax(axis=1) == labels).sum()
    _, second = next(rounds)
    assert second.agreed == first.agreed


def test_near_copies_are_in_one_fold(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    data = tmp_path / "data"
    for name in ("cat", "dog"):
        (data / name).mkdir(parents=True)
        for index in range(6):
            smooth = Image.fromarray(dice.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((64, 64))
            smooth.save(data / name / f"{index}.png")
    with Image.open(data / "cat" / "0.png") as picture:
        picture.save(data / "dog" / "copy.jpg", quality=60)
    watcher = Terminal(quiet=True)
    packed = pack_data(open_data(data, watcher), load_recipe("features", {"features.views": 1}), watcher)
    contents = contents_of(packed.splits["train"].hashes)
    groups = together(packed, contents, 2, watcher)
    ids = list(packed.splits["train"].ids)
    assert groups[ids.index("cat/0.png")] == groups[ids.index("dog/copy.jpg")]
    assert len(np.unique(groups)) == 12
    fold = assign_folds(packed.splits["train"].labels, groups, 2)
    assert fold[ids.index("cat/0.png")] == fold[ids.index("dog/copy.jpg")]


def test_networks_of_folds_that_are_done_are_not_trained_again_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eyespot.training import fit as loop

    def no_weights(*_: object) -> None:
        raise CheckpointError("no weights of efficientnet_lite0 are at hand")

    class Impatient(Listener):
        def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
            if label == "cross-validating, network 2 of 2":
                raise Interrupted(15)

    def tiny(number: int, minutes: float) -> Config:
        return load_recipe("small", {**TINY, "data.val_fraction": 0.0, "training.epochs": 3})

    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 24)
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("eyespot.cross_validation.encode_all", no_weights)
    monkeypatch.setattr("eyespot.cross_validation.recipe_from_scratch", tiny)
    whole = check_labels(data, folds=2, observer=Listener(quiet=True))
    with pytest.raises(Interrupted):
        check_labels(data, folds=2, observer=Impatient(quiet=True))
    steps: list[None] = []
    real = loop.descend
    monkeypatch.setattr(loop, "descend", lambda *args, **named: (steps.append(None), real(*args, **named)))
    assert check_labels(data, folds=2, observer=Listener(quiet=True)) == whole
    assert len(steps) == 3 * 2  # epochs of 24 pictures in batches of 16, of the second fold alone

    def full(*_: object) -> None:
        raise RunError("cannot write (the disk is full)")

    real_write = label_check._write_csv
    monkeypatch.setattr(label_check, "_write_csv", full)
    with pytest.raises(RunError, match="the disk is full"):
        check_labels(data, csv_path=tmp_path / "labels.csv", folds=2, observer=Listener(quiet=True))
    monkeypatch.setattr(label_check, "_write_csv", real_write)
    del steps[:]
    assert check_labels(data, folds=2, observer=Listener(quiet=True)) == whole
    assert not steps
    left = [path.name for path in (tmp_path / "cache" / "checks").glob("folds-*")]
    assert [Path(name).suffix for name in left] == [".lock"]


def test_without_weights_a_network_is_trained_for_each_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 24)
    for index in (3, 4):
        (data / "cat" / f"00{index}.png").rename(data / "dog" / f"planted{index}.png")

    def no_weights(*_: object) -> None:
        raise DownloadError("cannot get pretrained weights of efficientnet_lite0")

    monkeypatch.setattr("eyespot.cross_validation.encode_all", no_weights)
    asked: list[tuple[int, float]] = []

    def tiny(number: int, minutes: float) -> Config:
        asked.append((number, minutes))
        return load_recipe("small", {**TINY, "data.val_fraction": 0.0, "training.epochs": 20})

    assert recipe_from_scratch(48, 3.0).training.minutes == 3
    assert recipe_from_scratch(20_000, 3.0).name == "fast"
    monkeypatch.setattr("eyespot.cross_validation.recipe_from_scratch", tiny)
    listener = Listener(quiet=True)
    found = check_labels(data, folds=2, minutes=6, observer=listener).suspects
    assert any("so from scratch: a network for each of 2 folds, 6 min in all" in line for line in listener.heard)
    assert asked == [(48, 3.0)]
    assert {it.id for it in found[:2]} == {"dog/planted3.png", "dog/planted4.png"}
    with pytest.raises(UsageError, match="minutes is 0"):
        check_labels(data, minutes=0)


@pytest.mark.parametrize(
    ("few", "has_weights", "reason"),
    [
        (40, True, "48 training pictures, from scratch"),
        (100, False, r"48 training pictures are few and no pretrained weights are at hand .* from scratch"),
    ],
)
def test_many_small_pictures_and_those_for_which_there_are_no_weights_are_judged_by_networks(
    few: int, has_weights: bool, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: object) -> None:
        raise AssertionError("nothing is encoded")

    def tiny(number: int, minutes: float) -> Config:
        return load_recipe("fast", {**TINY, "data.val_fraction": 0.0, "training.size_schedule": []})

    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 24)
    monkeypatch.setattr("eyespot.opening._FEW_PICTURES", few)
    monkeypatch.setattr("eyespot.opening._has_weights", lambda backbone: has_weights)
    monkeypatch.setattr("eyespot.cross_validation.encode_all", encode)
    monkeypatch.setattr("eyespot.cross_validation.recipe_from_scratch", tiny)
    listener = Listener(quiet=True)
    check_labels(data, observer=listener)
    assert any(re.fullmatch(f"{reason}: a network for each of 3 folds, 10 min in all", it) for it in listener.heard)


def mean_colours(packed: PackedDataset, *_: object) -> list[np.ndarray]:
    rows = np.arange(len(packed.splits["train"]))
    return [read_pixels(packed, "train", rows).mean(axis=(1, 2)).astype(np.float32)]


def test_a_class_with_one_grey_picture_is_said_and_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 10)
    (data / "eel").mkdir()
    Image.fromarray(np.full((16, 16), 90, np.uint8)).save(data / "eel" / "only.png")

    monkeypatch.setattr("eyespot.cross_validation.encode_all", mean_colours)
    listener = Listener(quiet=True)
    assert all(it.given != "eel" for it in check_labels(data, observer=listener).suspects)
    assert any(line.startswith("note: 1 picture is of a class that is in one fold only") for line in listener.heard)


def table_of_patients(folder: Path, patient_of: Callable[[int, str], str]) -> Path:
    """Write 12 pictures of cats and 12 of dogs, and a table that names the patient of each."""
    data = draw_pictures(folder / "data", ("cat", "dog"), 12)
    names = [(path.parent.name, path) for path in sorted(data.rglob("*.png"))]
    rows = [f"{path},{label},{patient_of(number, label)}" for number, (label, path) in enumerate(names)]
    (folder / "data.csv").write_text("\n".join(["path,label,patient", *rows]), encoding="utf-8")
    return folder / "data.csv"


def test_the_folds_keep_patients_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    @contextmanager
    def judge(
        dataset: object, packed: PackedDataset, labels: np.ndarray, tied: np.ndarray, *_: object
    ) -> Iterator[LabelErrors]:
        seen.append(assign_folds(labels, tied, 3))
        nothing = np.zeros(0, np.int64)
        yield LabelErrors(nothing, nothing, np.zeros(0), np.zeros(len(labels)), len(labels), 0, np.eye(2))

    monkeypatch.setattr("eyespot.label_check._judge", judge)
    listener = Listener(quiet=True)
    table = table_of_patients(tmp_path, lambda number, _: "" if number == 5 else f"p{number % 5}")
    check_labels(table, folds=3, observer=listener)
    assert all(len({seen[0][i] for i in range(24) if i % 5 == one and i != 5}) == 1 for one in range(5))
    assert len(set(seen[0])) == 3
    assert "5 groups of the table stay together, each in one fold" in listener.heard


def test_groups_that_cannot_fill_the_folds_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyespot.cross_validation.encode_all", mean_colours)
    listener = Listener(quiet=True)
    check_labels(table_of_patients(tmp_path, lambda number, _: f"p{number % 2}"), folds=3, observer=listener)
    assert any(line.startswith("note: 2 groups are too few for 3 folds") for line in listener.heard)


def test_the_estimate_is_of_the_labels_that_were_judged() -> None:
    listener = Listener(quiet=True)
    names = ("cat", "dog")
    split = SimpleNamespace(ids=[f"{number}" for number in range(5)])
    packed = SimpleNamespace(dataset=SimpleNamespace(class_names=names), splits={"train": split})
    found = LabelErrors(
        np.array([1]), np.array([1]), np.array([0.9]), np.array([0.0, 0.9, 0.1, 0.0, 0.0]), 3, 2, np.eye(2)
    )
    _suspects(cast("Any", packed), found, np.zeros(5, np.int64), listener)
    assert listener.heard[-1].startswith("about 1 of 3 labels are wrong by this estimate")
    assert listener.heard[-2].endswith("name 66.7 % [20.8, 93.9] as labelled (n = 3, all splits)")


def test_a_class_of_one_patient_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model that is asked about this class was fitted without it, and would call all its labels wrong."""
    monkeypatch.setattr("eyespot.cross_validation.encode_all", mean_colours)
    listener = Listener(quiet=True)
    table = table_of_patients(tmp_path, lambda number, label: "p" if label == "dog" else f"q{number}")
    found = check_labels(table, folds=3, observer=listener)
    assert (found.suspects, found.judged) == ([], 12)  # the cats
    assert any(line.startswith("note: 12 pictures are of a class that is in one fold only") for line in listener.heard)


def test_planted_errors_come_first_and_files_stay(tmp_path: Path) -> None:
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 20, size=24)
    (data / "cat" / "003.png").rename(data / "dog" / "planted.png")
    before = sorted(path.name for path in data.rglob("*"))
    table = tmp_path / "labels.csv"
    checked = check_labels(data, csv_path=table, out=tmp_path / "labels.html", folds=2)
    found = checked.suspects
    assert found[0].id == "dog/planted.png"
    assert (found[0].given, found[0].suggested) == ("dog", "cat")
    told = checked.as_dict()
    assert told["labels"][0]["id"] == "dog/planted.png"
    assert told["expected_wrong"] == checked.expected_wrong > 0
    assert told["judged"] == 40
    assert told["cross_validated_top1"] == checked.agreed / 40 < 1
    assert told["cross_validated_top1_ci95"] == wilson_interval(checked.agreed, 40)
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert (rows[0]["id"], rows[0]["decision"]) == ("dog/planted.png", "")
    page = (tmp_path / "labels.html").read_text(encoding="utf-8")
    # Each name by itself: between two names that are read from the right, the arrow would point at the first.
    named = '<span class="name clip" title="{0}">{0}</span>'
    assert f'{named.format("dog")} <span class="quiet">→</span> {named.format("cat")}?' in page
    assert "labels look" in page
    assert sorted(path.name for path in data.rglob("*")) == before


def test_a_second_list_holds_the_decisions_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def suspect_dogs_2_to_4(
        dataset: object, packed: PackedDataset, labels: np.ndarray, *_: object
    ) -> Iterator[LabelErrors]:
        ids = list(packed.splits["train"].ids)
        places = np.array([ids.index(f"dog/00{index}.png") for index in (2, 3, 4)])
        score = np.array([0.9, 0.8, 0.7])
        yield LabelErrors(places, 1 - labels[places], score, np.zeros(len(ids)), len(ids), 0, np.eye(2))

    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 6)
    monkeypatch.setattr("eyespot.label_check._judge", suspect_dogs_2_to_4)
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    check_labels(data, csv_path=first)
    table = first.read_text(encoding="utf-8").splitlines()
    decisions = {"dog/002.png": "accept", "dog/003.png": "reject"}
    first.write_text("".join(f"{row}{decisions.get(row.split(',')[0], '')}\n" for row in table), encoding="utf-8")
    listener = Listener(quiet=True)
    found = check_labels(data, csv_path=second, fix=first, observer=listener).suspects
    assert (found[0].id, found[0].given, found[0].suggested) == ("dog/002.png", "cat", "dog")
    rows = [tuple(row.values()) for row in csv.DictReader(second.read_text(encoding="utf-8").splitlines())]
    assert rows == [
        ("dog/002.png", "train", "dog", "cat", "", "accept"),
        ("dog/003.png", "train", "dog", "cat", "", "reject"),
        ("dog/004.png", "train", "dog", "cat", "0.7000", ""),
    ]
    assert f"note: the decisions of {first} stand first in {second}: 2 rows" in listener.heard
    fixes = read_label_fixes(second, open_data(data, listener))
    assert (fixes.accepted, fixes.rejected, fixes.undecided) == (1, 1, 1)


def test_no_list_takes_the_place_of_decisions_or_of_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eyespot.label_check.open_data", lambda *_: pytest.fail("it was not refused at once"))
    pictures, listed = tmp_path / "data.csv", tmp_path / "labels.csv"
    pictures.write_text("path,label\na.png,cat\n", encoding="utf-8")
    listed.write_text("id,split,given,suggested,score,decision\na.png,train,cat,dog,0.9,accept\n", encoding="utf-8")
    for path, words in (
        (pictures, r"is there already and is no list of eyespot check --labels: name another file"),
        (listed, r"holds decisions, which a new list would replace: go on from them with --fix .*labels.csv"),
        (tmp_path, "is a folder, not a CSV file"),
        (tmp_path / "none" / "labels.csv", "there is no folder for the list"),
    ):
        with pytest.raises(UsageError, match=words):
            check_labels(tmp_path, csv_path=path)
    assert "accept" in listed.read_text(encoding="utf-8")


def test_what_is_decided_in_a_list_while_a_new_one_is_made_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 6)
    table = tmp_path / "labels.csv"
    header = "id,split,given,suggested,score,decision\n"
    table.write_text(f"{header}old.png,train,cat,dog,0.9,\n", encoding="utf-8")

    def decide_meanwhile(*_: object) -> list[SuspectLabel]:
        table.write_text(f"{header}old.png,train,cat,dog,0.9,accept\n", encoding="utf-8")
        return []

    monkeypatch.setattr("eyespot.label_check._suspects", decide_meanwhile)
    with pytest.raises(UsageError, match="holds decisions, which a new list would replace"):
        check_labels(data, csv_path=table, folds=2)
    assert "accept" in table.read_text(encoding="utf-8")


def test_an_undecided_list_is_written_again(tmp_path: Path) -> None:
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 6)
    table = tmp_path / "labels.csv"
    table.write_text("id,split,given,suggested,score,decision\nold.png,train,cat,dog,0.9,\n", encoding="utf-8")
    check_labels(data, csv_path=table, folds=2)
    assert "old.png" not in table.read_text(encoding="utf-8")


def test_labels_need_two_different_pictures_of_a_class(tmp_path: Path) -> None:
    data = draw_pictures(tmp_path / "data", tuple("abcdef"), 1)
    with pytest.raises(DataError, match="no class has two different pictures"):
        check_labels(data)
    shutil.copy(data / "a" / "000.png", data / "a" / "copy.png")
    with pytest.raises(DataError, match="no class has two different pictures"):
        check_labels(data)


def test_too_few_pictures_and_folds(tmp_path: Path) -> None:
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 2)
    with pytest.raises(DataError, match="4 different pictures are too few for 5 folds"):
        check_labels(data)
    with pytest.raises(UsageError, match="1 folds"):
        check_labels(data, folds=1)


def test_a_page_without_a_wrong_label_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def none(dataset: object, packed: PackedDataset, labels: np.ndarray, *_: object) -> Iterator[LabelErrors]:
        nothing = np.zeros(0, np.int64)
        yield LabelErrors(nothing, nothing, np.zeros(0), np.full(len(labels), 0.1), len(labels), 0, np.eye(2))

    monkeypatch.setattr("eyespot.label_check._judge", none)
    check_labels(draw_pictures(tmp_path / "data", ("cat", "dog"), 6), out=tmp_path / "labels.html")
    page = (tmp_path / "labels.html").read_text(encoding="utf-8")
    assert "<h2>None of 12 labels looks wrong</h2>" in page
    assert "about 1 label is wrong." in page
    assert "--fix" not in page  # there is nothing to correct

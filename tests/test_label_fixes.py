"""`--fix`: accepted corrections change what is trained on and measured, never files, and a run keeps them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.conftest import TINY, draw_pictures
from torch import nn

import eyespot
from eyespot.augment_config import AugmentConfig
from eyespot.data.input_spec import InputSpec
from eyespot.data.label_fixes import read_label_fixes
from eyespot.data.sources import open_dataset
from eyespot.device import plan_compute
from eyespot.errors import DataError, Interrupted, UsageError
from eyespot.opening import load_recipe, open_data, pack_data
from eyespot.runs import Run
from eyespot.terminal import Terminal
from eyespot.training.features import Encoder, FrozenNetwork

HEAD = "id,split,given,suggested,score,decision\n"


@pytest.fixture(scope="module")
def mislabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return three classes in train and test; each has a dog among the cats."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    for split, count in (("train", 20), ("test", 8)):
        draw_pictures(folder / split, ("cat", "dog", "eel"), count, seed=len(split))
        (folder / split / "dog" / "003.png").rename(folder / split / "cat" / "planted.png")
    return folder


def write(path: Path, *rows: str, head: str = HEAD) -> Path:
    path.write_text(head + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


ACCEPTED = (
    "train/cat/planted.png,train,cat,dog,0.99,accept",
    "test/cat/planted.png,test,cat,dog,0.98,accept",
    "train/cat/001.png,train,cat,dog,0.60,reject",
    "train/cat/002.png,train,cat,eel,0.50,",
)


def test_decisions_are_read_and_counted(mislabelled: Path, tmp_path: Path) -> None:
    fixes = read_label_fixes(write(tmp_path / "fix.csv", *ACCEPTED), open_dataset(mislabelled))
    assert fixes.labels == {"train": {"train/cat/planted.png": 1}, "test": {"test/cat/planted.png": 1}}
    assert (fixes.accepted, fixes.rejected, fixes.undecided) == (2, 1, 1)
    assert fixes.describe() == (
        "2 labels are corrected (in the data's 1 train, 1 test); 1 rejected and 1 undecided stay as they are. "
        "No file was changed."
    )


def test_columns_are_found_by_name_and_class_may_be_changed(mislabelled: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "fix.csv", " Accept ;train/cat/planted.png;eel;cat", head="Decision;path;suggested;given\n")
    assert read_label_fixes(path, open_dataset(mislabelled)).labels == {"train": {"train/cat/planted.png": 2}}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("cat/nothing.png,train,cat,dog,0.9,accept",), "unknown picture 'cat/nothing.png'.*line 2: ids are those of"),
        (("train/cat/planted.png,train,cat,dogg,0.9,accept",), "unknown class 'dogg'.*Did you mean 'dog'.*line 2"),
        (("train/cat/planted.png,train,cow,dog,0.9,accept",), "unknown class 'cow' in column 'given'.*line 2"),
        (("train/cat/planted.png,train,dog,cat,0.9,accept",), "is labelled 'cat', not 'dog'.*line 2"),
        (("train/cat/planted.png,train,cat,dog,0.9,acept",), "unknown decision 'acept'. Did you mean 'accept'.*line 2"),
        (("train/cat/planted.png,train,cat,dog,accept",), "5 columns instead of 6 in .*line 2"),
        ((ACCEPTED[0], ACCEPTED[0].replace("dog", "eel")), "is also in line 2 in .*line 3: keep one"),
        ((ACCEPTED[0], " " + ACCEPTED[0].replace("dog", "eel")), "is also in line 2 in .*line 3: keep one"),
        (
            (ACCEPTED[0], ACCEPTED[0].replace("planted.png", "planted.png ").replace("accept", "reject")),
            "also in line 2",
        ),
        ((ACCEPTED[2], ACCEPTED[3]), "no row is accepted: nothing to correct"),
        ((), "no row is accepted"),
    ],
)
def test_a_row_that_does_not_fit_is_named_with_its_line(
    rows: tuple[str, ...], message: str, mislabelled: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_label_fixes(write(tmp_path / "fix.csv", *rows), open_dataset(mislabelled))


def test_missing_columns_and_files(mislabelled: Path, tmp_path: Path) -> None:
    dataset = open_dataset(mislabelled)
    with pytest.raises(
        DataError, match=r"no column 'given' and no column 'decision' in .*line 1: expected the columns"
    ):
        read_label_fixes(write(tmp_path / "fix.csv", head="id,suggested\n"), dataset)
    with pytest.raises(DataError, match="cannot read the table"):
        read_label_fixes(tmp_path / "none.csv", dataset)
    with pytest.raises(DataError, match="no column 'id'"):
        read_label_fixes(write(tmp_path / "empty.csv", head=""), dataset)


def test_corrections_that_empty_a_class_are_refused(tmp_path: Path) -> None:
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 2)
    path = write(tmp_path / "fix.csv", *(f"cat/00{i}.png,train,cat,dog,0.9,accept" for i in range(2)))
    with pytest.raises(DataError, match="leave no training picture of 'cat'"):
        eyespot.train(data, recipe="small", settings={**TINY, "data.label_fixes": str(path)}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pixels_and_features_are_not_made_again(mislabelled: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "fix.csv", *ACCEPTED)
    watcher, dataset = Terminal(quiet=True), open_data(mislabelled, Terminal(quiet=True))
    plain = pack_data(dataset, load_recipe("small", {}), watcher)
    fixed = pack_data(dataset, load_recipe("small", {"data.label_fixes": str(path)}), watcher)
    assert fixed.seconds == 0
    assert fixed.fingerprint != plain.fingerprint == fixed.pixels_fingerprint
    assert fixed.report.counts["train"] == {"cat": 20, "dog": 20, "eel": 20}
    assert plain.report.counts["train"] == {"cat": 21, "dog": 19, "eel": 20}
    frozen = FrozenNetwork("net", "pooled", 3, nn.Identity(), "weights")
    spec = InputSpec(12, 3, (0.5,) * 3, (0.5,) * 3)
    folders = {
        Encoder(frozen, packed, spec, plan_compute("cpu"), AugmentConfig())._folder(0) for packed in (plain, fixed)
    }
    assert len(folders) == 1


def test_a_run_keeps_its_corrections_through_a_stop_and_says_what_they_did_to_test(
    mislabelled: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "fix.csv", *ACCEPTED)
    before = {file: file.read_bytes() for file in mislabelled.rglob("*.png")}
    settings = {**TINY, "data.label_fixes": str(path)}
    whole = eyespot.train(mislabelled, recipe="small", settings=settings, out=tmp_path / "whole")

    class Stopper(Terminal):
        def on_epoch(self, row: dict[str, object]) -> None:
            raise Interrupted(2)

    with pytest.raises(Interrupted):
        eyespot.train(
            mislabelled, recipe="small", settings=settings, out=tmp_path / "stopped", observer=Stopper(quiet=True)
        )
    path.unlink()
    with pytest.raises(UsageError, match="a resumed run keeps its data"):
        eyespot.train(out=tmp_path / "stopped", resume=True, settings={"data.label_fixes": str(path)})
    resumed = eyespot.train(out=tmp_path / "stopped", resume=True)
    assert {file: file.read_bytes() for file in mislabelled.rglob("*.png")} == before
    for run in (whole, resumed):
        assert run.provenance["label_fixes"]["file"] == str(path)
        assert run.config.data.label_fixes == str(run.path / "label_fixes.csv")
        figures = run.metrics["test"]["label_fixes"]
        assert figures["corrected"] == 1
        assert figures["top1_as_given"] != run.metrics["test"]["top1"]
        report = run.report.read_text(encoding="utf-8")
        assert re.search(r"1 of the 24 test labels was corrected \((<[^>]+>)?--fix", report)
        assert "2 labels are corrected" in report
    for key in ("top1", "nll_loss", "label_fixes"):
        assert resumed.metrics["test"][key] == whole.metrics["test"][key]
    assert json.loads((resumed.path / "split.json").read_bytes()) == json.loads(
        (whole.path / "split.json").read_bytes()
    )
    again = eyespot.evaluate(whole.path, split="test")
    assert again.metrics["label_fixes"] == whole.metrics["test"]["label_fixes"]
    by_path = eyespot.evaluate(whole.path, mislabelled, split="test")  # the same pictures with the same labels
    assert (by_path.metrics["label_fixes"], by_path.metrics["test_reads"]) == (again.metrics["label_fixes"], 3)
    moved = (tmp_path / "whole").rename(tmp_path / "moved")
    assert eyespot.evaluate(moved, split="val").metrics["top1"] == resumed.metrics["val"]["top1"]
    assert Run.open(moved).config.data.label_fixes == str(moved / "label_fixes.csv")


def test_check_looks_at_the_data_as_corrected(mislabelled: Path, tmp_path: Path) -> None:
    card, _ = eyespot.check(mislabelled, fix=write(tmp_path / "fix.csv", *ACCEPTED))
    assert card["counts"]["test"] == {"cat": 8, "dog": 8, "eel": 8}
    assert any("2 labels are corrected" in note for note in card["notes"])


def test_a_bundle_knows_its_pictures_without_the_corrections(tmp_path: Path) -> None:
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 20)
    path = write(tmp_path / "fix.csv", "cat/001.png,train,cat,dog,0.99,accept")
    run = eyespot.train(data, recipe="small", settings={**TINY, "data.label_fixes": str(path)}, out=tmp_path / "run")
    with pytest.raises(DataError, match="the model was trained on most of these pictures"):
        eyespot.evaluate(run.path / "bundle", data)

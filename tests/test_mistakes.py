"""The mistakes of publications: made only where a recipe asks aloud, refused elsewhere, and stamped on every figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

import eyespot
from eyespot.analysis.headline import describe_top1
from eyespot.analysis.verdict import judge
from eyespot.augment_config import AugmentConfig
from eyespot.config import load_config
from eyespot.data.dataset import Dataset, Items
from eyespot.data.input_spec import InputSpec
from eyespot.data.planting import plant_mistakes
from eyespot.data.transforms import AugmentedEvalTransform, EvalTransform
from eyespot.errors import ConfigError, LeakError, UsageError
from eyespot.mistakes import MISTAKES, MistakeName, flaw_of, stamped

from .conftest import TINY, draw_pictures

LEAK = {"mistakes": ["train-on-test"], "data.allow_leak": True, "data.val_fraction": 0.0}


@pytest.fixture(scope="module")
def split_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with train/ and test/ of three classes."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    for seed, split in enumerate(("train", "test")):
        draw_pictures(folder / split, ("cat", "dog", "eel"), 12, seed=seed)
    return folder


def test_every_name_is_explained_and_spoils_known_splits() -> None:
    assert set(MISTAKES) == set(get_args(MistakeName))
    for mistake in MISTAKES.values():
        assert set(mistake.spoils) <= {"train", "val", "test"}
        assert mistake.stamp
        assert mistake.text.endswith(".")


def test_flaws_stand_before_the_figures_they_spoil() -> None:
    assert flaw_of(["train-on-test", "linear-stack"], "test") == "leaked, linear layers only"
    assert flaw_of(["train-on-test"], "train") == ""
    figures = {"top1": 0.99, "top1_ci95": [0.988, 0.992], "n": 10_000}
    assert stamped(figures, [], "test") == figures
    text = describe_top1(stamped(figures, ["train-on-test"], "test"), "test")
    assert text == "leaked: 99.0 % [98.8, 99.2] on test (n = 10,000)"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mistakes": ["train-on-test"], "data.val_fraction": 0.0}, "needs data.allow_leak = true"),
        ({"mistakes": ["train-on-test"], "data.allow_leak": True}, "data.val_fraction must be 0"),
        ({"mistakes": ["train-on-test", "select-on-test"], "data.allow_leak": True}, "exclude each other"),
        ({"mistakes": ["select-on-test"]}, "needs data.allow_leak = true"),
        ({"mistakes": ["augmented-val"], "augment": {}}, "needs [augment]"),
        ({"mistakes": ["augmented-val"], "model.mode": "last-block"}, "and a network that sees pictures"),
        ({"mistakes": ["augmented-val"], "model.freeze_until": "layer4"}, "and no model.freeze_until"),
        ({"mistakes": ["wrong-preprocessing"]}, "input.normalize = 'auto' is right"),
        ({"input.normalize": "twice"}, "needs mistakes = ['wrong-preprocessing']"),
        ({"mistakes": ["linear-stack"]}, "needs model.args.activation = 'none'"),
        ({"mistakes": ["train-on-tset"]}, "mistakes.0 is 'train-on-tset'"),
    ],
)
def test_a_stamp_neither_lies_nor_is_missing(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("small", changes=changes)
    assert sentence in str(caught.value)


def test_planting_copies_test_and_ends_the_special_rules_for_published_data() -> None:
    items = Items(["train/0"], np.zeros(1, np.int64), pixels=np.zeros((1, 4, 4, 3), np.uint8))
    test = Items(["test/0"], np.ones(1, np.int64), pixels=np.ones((1, 4, 4, 3), np.uint8))
    dataset = Dataset("d", ("a", "b"), {"train": items, "test": test}, True, "memory", "arrays")
    assert plant_mistakes(dataset, ["linear-stack"]) is dataset
    leaked = plant_mistakes(dataset, ["train-on-test"])
    assert (leaked.splits["train"].ids, leaked.splits["train"].pixels is test.pixels) == (
        ["train-is-test/test/0"],
        True,
    )
    assert not leaked.published
    assert plant_mistakes(dataset, ["select-on-test"]).splits["val"].ids == ["val-is-test/test/0"]
    with pytest.raises(UsageError, match="needs a test split of its own in d: use data with a test split"):
        plant_mistakes(Dataset("d", ("a", "b"), {"train": items}, True, "memory", "arrays"), ["train-on-test"])


def test_a_planted_leak_is_found_by_the_guard_like_any_other(split_pictures: Path, tmp_path: Path) -> None:
    from eyespot.data.checks import enforce
    from eyespot.data.sources import open_dataset
    from eyespot.opening import pack_data
    from eyespot.terminal import Terminal

    dataset = plant_mistakes(open_dataset(split_pictures), ["train-on-test"])
    packed = pack_data(dataset, load_config("small"), Terminal(quiet=True))
    with pytest.raises(LeakError, match="36 of the 36 test pictures are also in train"):
        enforce(packed.report, dataset, on_bad_image="refuse", allow_leak=False)


def test_a_leaked_run_says_so_everywhere_and_resumes(split_pictures: Path, tmp_path: Path) -> None:
    run = eyespot.train(split_pictures, recipe="small", settings={**TINY, **LEAK}, out=tmp_path / "leaked")
    assert run.metrics["mistakes"] == ["train-on-test"]
    assert run.metrics["test"]["flaw"] == "leaked"
    assert "flaw" not in run.metrics["train"]
    assert 'mistakes = [\n    "train-on-test",\n]' in (run.path / "config.toml").read_text()
    page = run.report.read_text()
    assert "trained on the very test pictures" in page
    assert '<span class="badge">leaked</span>' in page
    assert eyespot.load(run.path).info.metrics["test"].flaw == "leaked"
    assert eyespot.evaluate(run.path).metrics["flaw"] == "leaked"
    split = json.loads((run.path / "split.json").read_text())["splits"]
    assert len(split["train"]["train"]) == len(split["test"]["test"]) == 36
    assert eyespot.train(resume=True, out=run.path).path == run.path


def test_choosing_on_test_measures_val_on_test(split_pictures: Path, tmp_path: Path) -> None:
    changes = {"mistakes": ["select-on-test"], "data.allow_leak": True, "training.restore_best": True}
    run = eyespot.train(split_pictures, recipe="small", settings={**TINY, **changes}, out=tmp_path / "selected")
    assert run.metrics["val"]["confusion"] == run.metrics["test"]["confusion"]
    assert run.metrics["val"]["flaw"] == run.metrics["test"]["flaw"] == "selected on test"


def test_an_augmented_val_changes_the_curve_and_not_the_final_figures(pictures: Path, tmp_path: Path) -> None:
    settings = {**TINY, "augment.rotate_degrees": 90.0, "augment.brightness": [0.2, 1.8]}
    right = eyespot.train(pictures, recipe="small", settings=settings, out=tmp_path / "right")
    wrong = eyespot.train(
        pictures, recipe="small", settings={**settings, "mistakes": ["augmented-val"]}, out=tmp_path / "wrong"
    )
    assert [row["train/loss"] for row in right.history] == [row["train/loss"] for row in wrong.history]
    assert [row["val/loss"] for row in right.history] != [row["val/loss"] for row in wrong.history]
    assert right.metrics["val"]["confusion"] == wrong.metrics["val"]["confusion"]
    assert "mistake-on-purpose" in {
        finding.kind
        for finding in judge(wrong.history, wrong.metrics, num_classes=3, epochs_planned=len(wrong.history)).findings
    }


def test_augmented_val_is_the_same_for_the_same_pictures() -> None:
    spec = InputSpec(8, 3, (0.5,) * 3, (0.2,) * 3)
    transform = AugmentedEvalTransform(spec, AugmentConfig(flip="random", rotate_degrees=30))
    images = torch.randint(0, 256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(transform(images), transform(images))
    assert not torch.equal(transform(images), EvalTransform(spec)(images))
    assert transform.describe().startswith("augmented while training, on purpose: ")

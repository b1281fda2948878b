"""Near copies are searched once, kept, and counted across a run's own division."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import TINY

import eyespot
from eyespot.data import near_cache
from eyespot.data.dataset import PackedDataset, SplitName
from eyespot.data.fingerprints import NearPairs
from eyespot.data.near_cache import _path, load_near_pairs, near_across, near_pairs_for_training, save_near_pairs
from eyespot.data.splits import Splits
from eyespot.opening import divide, load_recipe, open_data, pack_data
from eyespot.terminal import Terminal


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return train and test of two classes; one test picture of each is a re-encoded training picture."""
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
    dice = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(count):
                smooth = Image.fromarray(dice.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((32, 32))
                smooth.save(tmp_path / "data" / split / name / f"{index}.png")
    for name in ("cat", "dog"):
        with Image.open(tmp_path / "data" / "train" / name / "0.png") as picture:
            picture.save(tmp_path / "data" / "test" / name / "copy.jpg", quality=70)
    return tmp_path / "data"


def packed_of(data: Path) -> PackedDataset:
    watcher = Terminal(quiet=True)
    return pack_data(open_data(data, watcher), load_recipe("small", {}), watcher)


def test_a_run_says_which_test_pictures_nearly_equal_a_training_picture(copied: Path, tmp_path: Path) -> None:
    packed = packed_of(copied)
    assert load_near_pairs(packed) is None
    run = eyespot.train(copied, recipe="small", settings=TINY, out=tmp_path / "run")
    told = "2 of the 14 test pictures (14.3 %) nearly equal one in train or val, of those that were found"
    assert told in run.report.read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    assert f"note: {told}" in (run.path / "log.txt").read_text(encoding="utf-8"), "who never opens the report"
    pairs = load_near_pairs(packed)
    assert pairs is not None
    assert len(pairs.first) == 2
    assert eyespot.check(copied)[0]["near"]["test"] == 2


def bursts(folder: Path, names: tuple[str, ...], scenes: int, shots: int) -> Path:
    """Write pictures of so many scenes a class, each shot several times with other noise."""
    dice = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for scene in range(scenes):
            smooth = Image.fromarray(dice.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((48, 48))
            for shot in range(shots if scene % 3 == 0 else 1):
                noise = dice.normal(0, 3, (48, 48, 3))
                pixels = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{scene:02}-{shot}.png")
    return folder


def scenes_of(splits: Splits, packed: PackedDataset, name: SplitName) -> set[str]:
    return {id_.rsplit("-", 1)[0] for id_ in splits.ids(packed, name)}


def test_shots_of_a_scene_stay_in_one_split_whatever_size_a_recipe_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
    data = bursts(tmp_path / "data", ("cat", "dog"), scenes=30, shots=2)
    watcher, found = Terminal(quiet=True), []
    for size in (16, 40):
        config = load_recipe("small", {"input.size_px": size})
        packed = pack_data(open_data(data, watcher), config, watcher)
        found.append((divide(packed, config, watcher), packed))
    splits, packed = found[0]
    assert splits.hash() == found[1][0].hash()
    parts: list[set[str]] = [scenes_of(splits, packed, name) for name in ("train", "val", "test")]
    assert all(parts)
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert any("40 pictures nearly equal another one, in 20 groups, each of which stays" in it for it in splits.notes)
    pairs = load_near_pairs(packed)
    assert pairs is not None
    facts = near_across(pairs, packed, splits)
    assert (facts["test"], facts["val"]) == (0, 0)


def test_more_pictures_than_training_waits_for_are_divided_as_if_nobody_had_looked(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = packed_of(copied)
    assert near_pairs_for_training(packed) is not None
    recipe, watcher = load_recipe("small", {}), Terminal(quiet=True)
    assert not any("were not looked for" in note for note in divide(packed, recipe, watcher).notes)
    monkeypatch.setattr(near_cache, "MOST_SEARCHED", 20)
    assert near_pairs_for_training(packed) is None
    assert load_near_pairs(packed) is not None
    assert "More than 20 pictures: near copies were not looked for" in divide(packed, recipe, watcher).notes[-1]


def test_what_is_damaged_is_searched_again(copied: Path) -> None:
    packed = packed_of(copied)
    none = np.zeros(0, np.int64)
    pairs = NearPairs(none, none, np.zeros(0, np.float32), np.zeros(0, np.bool_), 7, 0)
    save_near_pairs(packed, pairs)
    known = load_near_pairs(packed)
    assert known is not None
    assert known.compared == 7
    path = _path(packed)
    content = path.read_bytes()
    for damaged in (b"", content[:-9], content[:40], b"no archive"):
        path.write_bytes(damaged)
        assert load_near_pairs(packed) is None
    for place in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        found = load_near_pairs(packed)  # dates and the like say nothing about pairs
        assert found is None or (found.compared, len(found.first)) == (7, 0)
    outside = replace(pairs, first=np.array([0]), second=np.array([99]), correlation=np.ones(1, np.float32))
    save_near_pairs(packed, replace(outside, mirrored=np.zeros(1, np.bool_)))
    assert load_near_pairs(packed) is None


def test_a_runs_own_division_decides(copied: Path) -> None:
    packed = packed_of(copied)
    first, second = np.array([0, 0, 3, 4]), np.array([1, 2, 4, 30])
    pairs = NearPairs(first, second, np.ones(4, np.float32), np.zeros(4, np.bool_), 4, 0)
    splits = Splits(
        packed.fingerprint,
        {
            "train": {"train": np.setdiff1d(np.arange(24), [0, 4])},
            "val": {"train": np.array([0, 4])},
            "test": {"test": np.arange(14)},
        },
    )
    # Of val, 0 is like 1 and 2, and 4 is like 3; of test, 30 is like 4, which is in val.
    facts = near_across(pairs, packed, splits)
    assert facts == {"correlation": 0.94, "val": 2, "val_total": 2, "test": 1, "test_total": 14}
    splits.indices["val"]["train"] = np.array([0])
    assert near_across(pairs, packed, splits)["test"] == 0, "4 is in no split now"


def test_pictures_that_are_too_alike_are_not_counted(copied: Path) -> None:
    packed = packed_of(copied)
    splits = Splits(packed.fingerprint, {"train": {"train": np.arange(24)}, "test": {"test": np.arange(14)}})
    chain = np.arange(37)
    pairs = NearPairs(chain, chain + 1, np.ones(37, np.float32), np.zeros(37, np.bool_), 37, 0)
    facts = near_across(pairs, packed, splits)
    assert facts == {"correlation": 0.94, "too_alike": 1, "val": 0, "val_total": 0, "test": 0, "test_total": 14}


def test_a_copy_of_a_picture_is_as_near_as_the_picture(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    base = dice.integers(0, 200, (8, 8, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    for split, pictures in (("train", [base]), ("test", [base + 3, base + 3])):
        for kind in ("a", "b"):
            (tmp_path / split / kind).mkdir(parents=True)
        for number, pixels in enumerate(pictures):
            Image.fromarray(pixels).save(tmp_path / split / "a" / f"{number}.png")
        for number in range(3):
            noise = dice.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / split / "b" / f"{number}.png")
    config = load_recipe("small", {"data.allow_leak": True, "data.val_fraction": 0.0})
    packed = pack_data(open_data(tmp_path, Terminal(quiet=True)), config, Terminal(quiet=True))
    splits = Splits("f", {name: {name: np.arange(len(part))} for name, part in packed.splits.items()})
    assert near_across(near_cache.near_pairs(packed), packed, splits)["test"] == 2

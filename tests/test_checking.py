"""`check`: near copies, odd pictures, drift, and the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import eyespot
from eyespot.data.drift import STATISTICS, measure_drift, picture_statistics
from eyespot.errors import UsageError


def draw_smooth(folder: Path, count: int, *, seed: int, shift: int = 0) -> None:
    """Write class folders of pictures with structure, as photographs have."""
    dice = np.random.default_rng(seed)
    for number, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            coarse = dice.integers(0, 200, (6, 6, 3)).astype(np.uint8) + np.uint8(shift)
            coarse[..., number] //= 2
            Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(folder / name / f"{index:03}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    draw_smooth(tmp_path / "photos" / "train", 30, seed=0)
    draw_smooth(tmp_path / "photos" / "test", 15, seed=1)
    return tmp_path / "photos"


def test_near_copies_across_splits_are_counted_shown_and_are_no_decision(data: Path, tmp_path: Path) -> None:
    with Image.open(data / "train" / "cat" / "003.png") as picture:
        ImageOps.mirror(picture).save(data / "test" / "cat" / "mirrored.png")
        picture.save(data / "test" / "dog" / "again.jpg", quality=60)
    Image.new("RGB", (32, 32), (9, 9, 9)).save(data / "train" / "cat" / "blank.png")
    Image.new("RGB", (5, 40), (9, 90, 9)).save(data / "train" / "dog" / "tiny.png")
    page = tmp_path / "check.html"
    card, decisions = eyespot.check(data, out=page)
    assert decisions == []
    near = card["near"]
    assert (near["test"], near["test_total"], near["groups"], near["conflicts"]) == (2, 32, 1, 2)
    assert near["blank"] == 2
    assert near["tiny"] == 1
    told = " ".join(card["notes"])
    assert "2 of the 32 test pictures (6.2 %) nearly equal one in train or val" in told
    assert "near copies with different labels" in told
    assert "train/cat/blank.png" in told
    html = page.read_text(encoding="utf-8")
    assert "test/cat/mirrored.png" in html
    assert "Near copies with different labels" in html
    assert "Blank pictures" in html


def test_nothing_is_found_where_there_is_nothing(data: Path) -> None:
    card, decisions = eyespot.check(data)
    assert decisions == []
    assert card["near"]["pairs"] == 0
    assert card["drift"]["auc"] < 0.7
    assert not any("different from train" in note for note in card["notes"])


def test_darker_test_pictures_are_drift(tmp_path: Path) -> None:
    draw_smooth(tmp_path / "photos" / "train", 40, seed=0, shift=50)
    draw_smooth(tmp_path / "photos" / "test", 40, seed=1)
    card, _ = eyespot.check(tmp_path / "photos")
    assert card["drift"]["auc"] > 0.9
    assert card["drift"]["differences"]["brightness"] < -1
    assert any("test looks different from train" in note for note in card["notes"])


def test_many_pictures_make_a_small_difference_significant_but_not_large() -> None:
    dice = np.random.default_rng(0)
    labels = np.zeros(10_000, np.int64)
    first = dice.normal(size=(10_000, 7)).astype(np.float32)
    second = (dice.normal(size=(10_000, 7)) + 0.08).astype(np.float32)
    found = measure_drift(first, second, labels, labels, 1)
    assert found is not None
    assert found.p_value < 1e-4
    assert not found.looks_different
    assert measure_drift(first[:19], second, labels[:19], labels, 1) is None


def test_other_class_shares_are_said(data: Path) -> None:
    for index in range(6, 15):
        (data / "test" / "dog" / f"{index:03}.png").unlink()
    card, _ = eyespot.check(data)
    assert card["drift"]["labels_effect"] > 0.1


def test_statistics_of_a_grey_ramp() -> None:
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))[None, :, :, None]
    values = dict(zip(STATISTICS, picture_statistics(ramp)[0].tolist(), strict=True))
    assert values["brightness"] == pytest.approx(values["red"], abs=1e-4)
    assert values["saturation"] == 0
    assert values["sharpness"] == pytest.approx(8 / 255)


def test_a_page_needs_an_html_name(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a page needs a name that ends in \.html"):
        eyespot.check(data, out=tmp_path / "check.png")


def test_near_copies_of_tiny_symbols_are_not_claimed() -> None:
    card, _ = eyespot.check("digits")
    assert card["near"]["pairs"] == 0
    assert any("near copies were not searched: pictures of 8 px" in note for note in card["notes"])

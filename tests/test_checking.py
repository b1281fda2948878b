"""`check`: near copies, odd pictures, drift, and the page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from typer.testing import CliRunner

import eyespot
from eyespot import checking
from eyespot.cli import app
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


def without_isolation(page: Path) -> str:
    """Return a page whose paths are not divided into folders."""
    return re.sub("</?(bdi|wbr)>", "", page.read_text(encoding="utf-8"))


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
    html = without_isolation(page)
    assert "test/cat/mirrored.png" in html
    assert "Near copies with different labels" in html
    assert 'Blank pictures</h2>\n<p class="quiet small">2 pictures</p>' in html


def test_equal_pictures_are_on_the_page_with_every_place_and_label(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        copied = (data / "train" / "cat" / f"{number:03d}.png").read_bytes()
        (data / "train" / "dog" / f"other-{number}.png").write_bytes(copied)
    copied = (data / "train" / "cat" / "005.png").read_bytes()
    (data / "test" / "cat" / "leaked.png").write_bytes(copied)
    (data / "train" / "cat" / "twice.png").write_bytes((data / "train" / "cat" / "006.png").read_bytes())
    monkeypatch.setattr(checking, "_SHOWN", 2)
    page = tmp_path / "check.html"
    eyespot.check(data, out=page)
    html = without_isolation(page)
    for title in ("with different labels", "in different splits", "in one split"):
        assert f"<h2>Equal pictures {title}</h2>" in html
    conflicts = html.split("<h2>Equal pictures with different labels</h2>")[1].split("</section>")[0]
    assert conflicts.count("<img") == 2
    assert "3 pictures, each there more than once" in conflicts
    for number in range(3):
        assert f"train/cat/{number:03d}.png" in conflicts
        assert f"train/dog/other-{number}.png" in conflicts
    assert "test/cat/leaked.png" in html
    assert "train/cat/twice.png" in html


@pytest.mark.parametrize("also", ["nothing", "a bad file", "a leak"])
def test_every_finding_is_said_whatever_else_is_wrong(data: Path, tmp_path: Path, also: str) -> None:
    train = data / "train"
    for number in range(8, 30):
        (train / "dog" / f"{number:03}.png").unlink()
    shutil.copy(train / "cat" / "000.png", train / "dog" / "same.png")
    shutil.copy(train / "cat" / "001.png", train / "cat" / "copy.png")
    if also == "a bad file":
        (train / "cat" / "bad.png").write_bytes(b"no picture")
    elif also == "a leak":
        shutil.copy(train / "cat" / "002.png", data / "test" / "cat" / "leak.png")
    card, decisions = eyespot.check(data)
    told = " ".join(card["notes"])
    assert "2 pictures are exact copies of other pictures in the same split." in told
    assert "The classes are imbalanced (3.4 to 1)" in told
    expected = {"a bad file": "1 of 71 pictures cannot be used", "a leak": "1 of the 31 test pictures is also in train"}
    first = [expected[also]] if also in expected else []
    conflict = "1 picture is there with different labels, one of them right at most: train/cat/000.png (cat)"
    assert len(decisions) == len(first) + 1
    assert all(found.startswith(start) for found, start in zip(decisions, [*first, conflict], strict=True))
    assert decisions[-1].endswith("correct their labels with --fix FILE.csv.")
    if also == "nothing":
        assert CliRunner().invoke(app, ["check", str(data)]).exit_code == 1
        fix = tmp_path / "fix.csv"
        fix.write_text("id,given,suggested,decision\ntrain/dog/same.png,dog,cat,accept\n", encoding="utf-8")
        assert eyespot.check(data, fix=fix)[1] == []


def test_nothing_is_found_where_there_is_nothing(data: Path) -> None:
    card, decisions = eyespot.check(data)
    assert decisions == []
    assert card["near"]["pairs"] == 0
    assert card["drift"]["auc"] < 0.7
    assert not any("different from train" in note for note in card["notes"])


def test_darker_test_pictures_are_drift(tmp_path: Path) -> None:
    draw_smooth(tmp_path / "photos" / "train", 40, seed=0, shift=50)
    draw_smooth(tmp_path / "photos" / "test", 40, seed=1)
    card, _ = eyespot.check(tmp_path / "photos", out=tmp_path / "check.html")
    assert card["drift"]["auc"] > 0.9
    assert card["drift"]["differences"]["brightness"] < -1
    (told,) = [note for note in card["notes"] if "test looks different from train" in note]
    page = (tmp_path / "check.html").read_text(encoding="utf-8")
    assert "p &lt; 0.001" in page  # a p-value that is too small to write is not 0
    assert "p < 0.001" in told
    assert not re.search(r"[( >]-\d", told + page.split("Test minus train")[1])  # a minus sign, not a hyphen


def test_light_and_colour_of_each_split_are_told_though_there_are_few_pictures(tmp_path: Path) -> None:
    for split, count, level in (("train", 12, 51), ("test", 3, 204)):
        for kind in ("a", "b"):
            (tmp_path / "photos" / split / kind).mkdir(parents=True)
            for number in range(count):
                picture = Image.new("RGB", (16, 16), (level, level, level + number))
                picture.save(tmp_path / "photos" / split / kind / f"{number}{kind}.png")
    card, _ = eyespot.check(tmp_path / "photos", out=tmp_path / "check.html")
    assert card["statistics"]["train"]["red"] == pytest.approx((0.2, 0.0), abs=1e-6)
    assert card["statistics"]["test"]["blue"] == pytest.approx((205 / 255, (2 / 3) ** 0.5 / 255), abs=1e-6)
    assert "drift" not in card
    assert any("fewer than 20 pictures" in note for note in card["notes"])
    page = (tmp_path / "check.html").read_text(encoding="utf-8")
    assert '<th scope="row">red</th><td class="num">0.200 ± 0.000</td><td class="num">0.800 ± 0.000</td>' in page


def test_many_pictures_make_a_small_difference_significant_but_not_large() -> None:
    dice = np.random.default_rng(0)
    labels = np.zeros(10_000, np.int64)
    first = dice.normal(size=(10_000, 7)).astype(np.float32)
    second = (dice.normal(size=(10_000, 7)) + 0.08).astype(np.float32)
    found = measure_drift(first, second, labels, labels, 1)
    assert found is not None
    assert found.p_value < 1e-4
    assert not found.looks_different
    assert found.n == (5_000, 5_000)  # the half that the area was measured on
    assert measure_drift(first[:19], second, labels[:19], labels, 1) is None


def test_the_interval_of_the_area_holds_the_true_one_in_nearly_every_draw() -> None:
    """Two normal distributions 1.5 deviations apart in brightness: the area of the best model is known."""
    dice = np.random.default_rng(0)
    labels = np.zeros(200, np.int64)
    true, held, draws = NormalDist().cdf(1.5 / 2**0.5), 0, 60
    for _ in range(draws):
        first, second = np.zeros((200, 7), np.float32), np.zeros((200, 7), np.float32)
        first[:, 0], second[:, 0] = dice.normal(size=200), dice.normal(1.5, size=200)
        found = measure_drift(first, second, labels, labels, 1)
        assert found is not None
        held += found.auc_ci95[0] <= true <= found.auc_ci95[1]
    assert 53 <= held <= 60  # 57 of 60 on average


def test_an_area_of_one_has_an_interval() -> None:
    labels = np.zeros(20, np.int64)
    first = np.zeros((20, 7), np.float32)
    found = measure_drift(first, first + 1, labels, labels, 1)
    assert found is not None
    assert found.auc == 1
    assert found.auc_ci95 == (pytest.approx(0.8002, abs=1e-4), 1)  # 10 pictures of each were measured


def test_other_class_shares_are_said(data: Path) -> None:
    for index in range(6, 15):
        (data / "test" / "dog" / f"{index:03}.png").unlink()
    card, _ = eyespot.check(data)
    assert card["drift"]["labels_effect"] > 0.1


def test_the_effect_on_the_shares_of_two_classes_is_cramers_v() -> None:
    from scipy.stats.contingency import association

    values = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32)
    labels = np.repeat([0, 1], [40, 20])
    found = measure_drift(values, values[:40], labels, labels[20:], 2)
    assert found is not None
    assert found.labels_effect == pytest.approx(association(np.array([[40, 20], [20, 20]]), method="cramer"))


def test_statistics_of_a_grey_ramp() -> None:
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))[None, :, :, None]
    values = dict(zip(STATISTICS, picture_statistics(ramp)[0].tolist(), strict=True))
    assert values["brightness"] == pytest.approx(values["red"], abs=1e-4)
    assert values["saturation"] == 0
    assert values["sharpness"] == pytest.approx(8 / 255)


def test_a_page_needs_an_html_name(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a page needs a name that ends in \.html"):
        eyespot.check(data, out=tmp_path / "check.png")


def test_digits_of_28_px_are_too_alike_to_tell_copies(tmp_path: Path) -> None:
    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images[:600], digits.target, strict=False)):
        folder = tmp_path / "symbols" / ("test" if index % 4 == 0 else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        symbol = Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((20, 20), Image.Resampling.BICUBIC)
        ImageOps.expand(symbol, 4).save(folder / f"{index:04}.png")
    card, _ = eyespot.check(tmp_path / "symbols", out=tmp_path / "check.html")
    assert card["near"]["too_alike"]
    assert (card["near"]["pairs"], card["near"]["test"], card["near"]["conflicts"]) == (0, 0, 0)
    told = " ".join(card["notes"])
    assert "these pictures are too alike to tell copies" in told
    assert "nearly equal" not in told
    assert "different labels" not in told
    html = (tmp_path / "check.html").read_text(encoding="utf-8")
    assert "Pictures that look alike" in html
    assert "Near copies" not in html


def test_near_copies_of_data_without_a_test_split_are_told_of_once(tmp_path: Path) -> None:
    draw_smooth(tmp_path / "photos", 30, seed=0)
    with Image.open(tmp_path / "photos" / "cat" / "003.png") as picture:
        picture.save(tmp_path / "photos" / "cat" / "again.jpg", quality=60)
    card, _ = eyespot.check(tmp_path / "photos")
    assert len([note for note in card["notes"] if note.startswith("2 pictures nearly equal another one")]) == 1


def test_pictures_that_differ_in_hue_have_no_conflicting_labels(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    for index in range(12):
        texture = Image.fromarray(dice.integers(60, 256, (6, 6), dtype=np.uint8)).resize((32, 32))
        for name, channel in (("red", 0), ("blue", 2)):
            (tmp_path / "tiles" / name).mkdir(parents=True, exist_ok=True)
            bands = [Image.new("L", (32, 32)) for _ in range(3)]
            bands[channel] = texture
            Image.merge("RGB", bands).save(tmp_path / "tiles" / name / f"{index}.png")
    with Image.open(tmp_path / "tiles" / "red" / "0.png") as picture:
        picture.save(tmp_path / "tiles" / "blue" / "wrong.jpg", quality=90)
    card, _ = eyespot.check(tmp_path / "tiles")
    assert card["near"]["conflicts"] == 1
    assert any("1 pair of near copies with different labels" in note for note in card["notes"])


def test_near_copies_of_tiny_symbols_are_not_claimed() -> None:
    card, _ = eyespot.check("digits")
    assert card["near"]["pairs"] == 0
    assert any("near copies were not searched: most pictures have a side under 24 px" in note for note in card["notes"])

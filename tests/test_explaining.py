from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import eyespot
from eyespot.analysis import explain, gallery
from eyespot.analysis.overlays import lay_over, shown_picture
from eyespot.cli import app
from eyespot.errors import DataError, RunError, UsageError
from eyespot.evaluation.views import Views
from eyespot.runs import Run

from .conftest import TINY, draw_pictures


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name, size in (("wide", (90, 40)), ("tall", (30, 70)), ("tiny", (1, 1))):
        noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "<b>&.png").write_bytes((folder / "wide.png").read_bytes())
    return folder


def test_no_method_is_an_error(trained: Run) -> None:
    with pytest.raises(UsageError, match="no method: leave it out for gradcam"):
        eyespot.explain(trained, ["cat.jpg"], method=[])


def test_the_command_says_what_to_do_about_each_picture(trained: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    asked = [str(tmp_path / "missing.jpg"), "https://example.org/cat.jpg", str(tmp_path / "empty.jpg")]
    found = CliRunner().invoke(app, ["explain", str(trained.path), *asked, "--out", str(tmp_path / "why.html")])
    assert found.exit_code == 1
    said = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert [line.rpartition(": ")[2] for line in said] == [
        "check the path",
        "download it and give the file",
        "repair it or leave it out",
    ]


def test_explain_returns_maps_neighbours_and_reasons(trained: Run, photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "why.html"
    found = eyespot.explain(trained.path, [photographs], neighbours=3, out=out)
    by_name = {Path(one.prediction.source).stem: one for one in found}
    assert len(found) == 5
    assert "not a picture" in (by_name["broken"].prediction.error or "")
    wide = by_name["wide"]
    assert wide.heat["gradcam"].ndim == 2
    assert wide.box == pytest.approx((25 / 90, 0, 65 / 90, 1))
    assert wide.target == wide.prediction.label
    assert len(wide.neighbours) == 3
    similarities = [one.similarity for one in wide.neighbours]
    assert similarities == sorted(similarities, reverse=True)
    assert json.dumps(wide.as_dict())
    page = out.read_text()
    assert "&lt;b&gt;&amp;.png" in page
    assert "<b>&" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "by cosine of the features" in page


def test_a_training_picture_is_its_own_nearest_neighbour(trained: Run, pictures: Path) -> None:
    splits = json.loads((trained.path / "split.json").read_text())
    assert splits
    inside = sorted((pictures / "cat").glob("*.png"))
    found = eyespot.explain(trained.path, inside, neighbours=1)
    exact = [one for one in found if one.neighbours[0].sample_id.endswith(Path(one.prediction.source).name)]
    assert len(exact) > len(found) / 3  # about half of a class is in train
    assert all(one.neighbours[0].similarity > 0.999 for one in exact)


def test_a_bundle_says_that_it_has_no_data(trained: Run, photographs: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(trained.path / "bundle", tmp_path / "bundle")
    out = tmp_path / "why.html"
    found = eyespot.explain(bundle, [photographs / "wide.png"], out=out, target="dog")
    assert found[0].neighbours == ()
    assert found[0].target == "dog"
    assert "a bundle does not carry its data" in out.read_text()


def test_a_run_without_its_data_says_what_is_missing(trained: Run, photographs: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained.path, tmp_path / "run"))
    for name, said in (("split.json", r"split\.json"), ("provenance.json", "the run does not say its data in ")):
        (run / name).unlink()
        out = tmp_path / "why.html"
        eyespot.explain(run, [photographs / "wide.png"], out=out)
        assert re.search(f"the run&#39;s data are not at hand .*{said}", out.read_text())


def test_neighbours_of_a_run_with_leaked_pictures_are_found(photographs: Path, tmp_path: Path) -> None:
    leak = {"mistakes": ["train-on-test"], "data.allow_leak": True, "data.val_fraction": 0.0}
    data = tmp_path / "data"
    for split in ("train", "test"):
        draw_pictures(data / split, ("cat", "dog", "eel"), 10, seed=len(split))
    run = eyespot.train(data, recipe="small", settings={**TINY, **leak}, out=tmp_path / "run")
    assert eyespot.explain(run, [photographs / "wide.png"])[0].neighbours


def test_refusals(trained: Run, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown class 'dgo'. Did you mean 'dog'"):
        eyespot.explain(trained.path, [photographs], target="dgo")
    with pytest.raises(UsageError, match="unknown method 'cam'"):
        eyespot.explain(trained.path, [photographs], method="cam")
    with pytest.raises(UsageError, match="no pictures to explain"):
        eyespot.explain(trained.path, [])
    with pytest.raises(UsageError, match="neighbours is -1: use a whole number, 0 for none"):
        eyespot.explain(trained.path, [photographs], neighbours=-1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no pictures in .*: give a folder with pictures in it"):
        eyespot.explain(trained.path, [tmp_path / "empty"])


def test_commands(trained: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "MOST_PICTURES", 2)
    page = tmp_path / "gallery.html"
    result = CliRunner().invoke(app, ["predict", str(trained.path), str(photographs), "--gallery", str(page)])
    assert result.exit_code == 1  # broken.jpg
    text = page.read_text()
    assert text.count('<li class="card">') == 2
    assert "2 more pictures were answered and are not shown" in text
    assert "not a picture" in text
    why = tmp_path / "why.html"
    one = str(photographs / "tall.png")
    result = CliRunner().invoke(app, ["explain", str(trained.path), one, "--out", str(why), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["pictures"][0]["explained"]
    assert "Grad-CAM" in why.read_text()


@pytest.mark.parametrize("words", [["predict", "--gallery"], ["explain", "--out"]])
def test_a_page_takes_the_place_of_nothing_but_a_page(
    words: list[str], trained: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eyespot.evaluation.predictor.load_predictor", lambda *given, **named: pytest.fail("too late"))
    picture = tmp_path / "cat.jpg"
    picture.write_bytes(b"a picture")
    (tmp_path / "folder.html").mkdir()
    verb, option = words
    for place, what in (
        (picture, "a page needs a name that ends in .html, not 'cat.jpg': such as cat.html"),
        (tmp_path / "why", "a page needs a name that ends in .html, not 'why': such as why.html"),
        (tmp_path / "folder.html", "is a folder, not a page: name a file in it"),
        (tmp_path / "none" / "page.html", "there is no folder for the page"),
    ):
        result = CliRunner().invoke(app, [verb, str(trained.path), str(photographs), option, str(place)])
        assert isinstance(result.exception, UsageError)
        assert what in str(result.exception)
    assert picture.read_bytes() == b"a picture"


def test_a_folder_without_the_right_to_write_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere but on a read-only disk
    monkeypatch.setattr("eyespot.evaluation.predictor.load_predictor", lambda *given, **named: pytest.fail("too late"))
    with pytest.raises(RunError, match=r"no right to write in its folder in .*why\.html: name another folder"):
        eyespot.explain("run", ["cat.jpg"], out=tmp_path / "why.html")


@pytest.mark.parametrize("views", ["none", "mirror"])
def test_the_page_shows_the_answer_that_is_printed(
    views: Views, trained: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[explain.Explanation] = []
    add = gallery.Gallery.add
    monkeypatch.setattr(gallery.Gallery, "add", lambda page, found: (shown.extend(found), add(page, found)))
    asked = ["predict", str(trained.path), str(photographs / "wide.png"), "--views", views, "--json"]
    result = CliRunner().invoke(app, [*asked, "--gallery", str(tmp_path / "gallery.html")])
    assert result.exit_code == 0, result.output
    predictor = eyespot.load(trained.path)
    known = {of: predictor.predict([photographs / "wide.png"], views=of)[0].prob for of in ("none", "mirror")}
    assert known["none"] != known["mirror"]
    assert shown[0].prediction.prob == json.loads(result.stdout)[0]["prob"] == known[views]


def test_pictures_wait_in_the_size_in_which_they_are_needed(trained: Run) -> None:
    form = eyespot.load(trained.path).info.input.row_format
    large, small = np.zeros((2000, 3000, 3), np.uint8), np.zeros((form.size_px, form.size_px, 3), np.uint8)
    for pixels in (large, small):
        waiting = explain._Waiting.of("picture", pixels, form)
        assert waiting.square.base is None
        assert waiting.shown.nbytes <= 240 * 240 * 3
        assert not np.shares_memory(waiting.square, pixels)


def test_pictures_without_room_on_the_page_keep_no_arrays(
    trained: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "MOST_PICTURES", 2)
    found = eyespot.explain(trained.path, [photographs], neighbours=1, out=tmp_path / "why.html")
    answered = [one for one in found if one.prediction.error is None]
    assert [one.shown is not None for one in answered] == [True, True, False, False]
    last = answered[-1]
    assert (last.heat, last.neighbours[0].pixels.size) == ({}, 0)
    assert last.as_dict()["checks"]["gradcam"]["prob"] == pytest.approx(last.prediction.prob, abs=0.05)
    with pytest.raises(UsageError, match=r"no gradcam map of .* is kept: explain fewer pictures"):
        last.overlay("gradcam")
    assert all(one.shown is not None for one in eyespot.explain(trained.path, [photographs]) if one.target)


def test_a_map_lies_over_the_part_that_the_model_saw() -> None:
    shown = shown_picture(np.full((100, 300, 1), 128, dtype=np.uint8))
    assert shown.shape == (80, 240, 3)
    assert shown_picture(np.zeros((8, 8, 3), np.uint8)).shape == (160, 160, 3)
    heat = np.zeros((4, 4), np.float32)
    heat[:, 3] = 1  # the right edge of the middle square
    laid = lay_over(shown, heat, (1 / 3, 0, 2 / 3, 1)).astype(int)
    colored = np.abs(laid[..., 0] - laid[..., 2]).max(axis=0) > 30
    assert 130 < np.flatnonzero(colored).min() < 155
    assert np.flatnonzero(colored).max() == 159
    assert laid[0, 0, 0] > laid[0, 90, 0]  # faded outside


def test_colours_are_had_without_words_where_the_home_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = "from eyespot.analysis.overlays import _inferno; print(_inferno()(1.0))"
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "file" / "below")}
    call = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"]
    found = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    assert found.stderr == ""
    assert found.stdout


def test_a_folder_in_a_folder_that_cannot_be_listed_is_an_error(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_pictures(tmp_path / "photos", ("a", "b"), 1)
    real = os.scandir

    def scan(path: str | Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(DataError, match=r"cannot list the folder \(Permission denied\).*b"):
        eyespot.explain(trained.path, [tmp_path / "photos"])

from __future__ import annotations

import base64
import io
import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyespot.analysis.pages import isolate_folders, keep_options, keep_together, png_data_uri, render_page, write_page
from eyespot.errors import RunError

TEMPLATES = resources.files("eyespot.analysis") / "templates"
GALLERY = {
    "title": "Answers",
    "subtitle": "spot",
    "cards": [],
    "failures": [],
    "more_failures": 0,
    "left_out": 0,
    "most": 1000,
    "check": "",
    "notes": [],
}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_comes_back_from_its_data_uri(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    uri = png_data_uri(pixels)
    assert uri.startswith("data:image/png;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert np.array_equal(np.asarray(picture).reshape(5, 7, channels), pixels)


def test_pixels_may_lie_in_any_order_in_memory() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8).transpose(1, 2, 0)
    assert png_data_uri(pixels) == png_data_uri(np.ascontiguousarray(pixels))


def test_large_pictures_are_scaled_down_and_small_ones_kept() -> None:
    def size(height: int, width: int) -> tuple[int, int]:
        uri = png_data_uri(np.zeros((height, width, 3), dtype=np.uint8), max_side_px=160)
        return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size

    assert size(480, 640) == (160, 120)
    assert size(32, 32) == (32, 32)


def test_numbers_keep_their_units() -> None:
    space = "\N{NO-BREAK SPACE}"
    assert keep_together("94.1 % of n = 10 in 4 min") == f"94.1{space}% of n{space}={space}10 in 4{space}min"
    assert keep_together("100 secrets") == "100 secrets"
    assert keep_together("p < 0.001, p = 0.04") == f"p{space}&lt;{space}0.001, p{space}={space}0.04"


def test_an_option_is_not_torn_between_its_hyphens_and_copied_as_it_is() -> None:
    assert keep_together("then --on-bad-image skip") == 'then <span class="nowrap">--on-bad-image</span> skip'
    assert keep_options("train 5 s --top 3") == 'train 5 s <span class="nowrap">--top</span> 3'
    assert keep_together("<b> -- a--b ---") == "&lt;b&gt; -- a--b ---"


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page("old", path)
    write_page("new \udcff", path)  # a byte of a file name that is not UTF-8
    assert path.read_text() == r"new \udcff"
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(RunError, match="cannot write"):
        write_page("x", tmp_path / "missing" / "page.html")


def test_a_name_cannot_turn_around_what_follows_it(tmp_path: Path) -> None:
    write_page("photo\u202egnp.exe, \u05e9\u05dc\u05d5\u05dd", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "photo\\u202egnp.exe, \u05e9\u05dc\u05d5\u05dd"


def test_a_template_escapes_every_value() -> None:
    page = render_page("grid.html.j2", {"title": "<b>&", "groups": [], "count": 1, "small": False})
    assert "<b>" not in page
    assert page.count("&lt;b&gt;&amp;") == 2


def test_a_right_to_left_folder_does_not_move_the_number_of_its_picture() -> None:
    assert isolate_folders("train/\u05db\u05dc\u05d1/0003.jpg") == (
        "<bdi>train</bdi>/<wbr><bdi>\u05db\u05dc\u05d1</bdi>/<wbr><bdi>0003.jpg</bdi>"
    )
    assert isolate_folders("<b>/a\nb.jpg") == "<bdi>&lt;b&gt;</bdi>/<wbr><bdi>a\\nb.jpg</bdi>"


def test_a_long_name_is_cut_between_lines() -> None:
    # Never a height: what it is in lines depends on where the name stands.
    style = render_page("gallery.html.j2", GALLERY).split("<style>")[1].split("</style>")[0]
    clip = style.split(".clip {")[1].split("}")[0]
    assert "-webkit-line-clamp: 3" in clip
    assert "height" not in clip
    on_paper = style.split("@media print {")[1]  # where no pointer shows the rest
    assert "display: revert; overflow: visible" in on_paper.split(".clip {")[1].split("}")[0]
    assert "max-height: none" in on_paper.split(".pictures .id {")[1].split("}")[0]


def test_a_picture_that_is_unknown_is_not_headed_by_a_class() -> None:
    card = {"source": "a.png", "src": "", "label": "cat", "prob": "41 %", "classes": [], "unknown": True, "maps": []}
    page = render_page("gallery.html.j2", {**GALLERY, "cards": [{**card, "neighbours": []}]})
    assert re.search(r'<p class="answer"><span class="unknown">unknown</span> .*nearest:.*cat', page)


def test_a_printed_card_keeps_its_pictures_beside_each_other() -> None:
    printed = render_page("gallery.html.j2", GALLERY).split("@media print {")[-1].split("</style>")[0]
    assert "minmax(90px, 1fr)" in printed


@pytest.mark.parametrize("template", [one.name for one in TEMPLATES.iterdir() if one.name.endswith(".html.j2")])
def test_what_is_named_by_a_heading_has_that_heading(template: str) -> None:
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    named, ids = (set(re.findall(rf'{key}="(h-[^"]+)"', text)) for key in (" aria-labelledby", " id"))
    named |= set(re.findall(r'rows\(\w.*, "(h-\w+)"\)', text))
    assert named <= ids
    assert 'aria-label="Table"' not in text
    assert text.count('tabindex="0"') == text.count('role="group" aria-labelledby=')

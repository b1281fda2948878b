from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eyespot.analysis.report import (
    Mistake,
    ReportInput,
    collect_mistakes,
    most_confident_mistakes,
    render_report,
    write_report,
)
from eyespot.config import Config
from eyespot.errors import RunError

Make = Callable[..., Any]
EVIL = "<script>alert('x')</script>\"&"
SECTIONS = [
    *("verdict", "know", "splits", "curves", "confusion", "classes"),
    *("mistakes", "augmented", "data", "model", "settings", "cost", "again"),
]
VOID = {"meta", "img", "br", "wbr", "path", "circle", "rect", "image"}


class Page(HTMLParser):
    """Collects what a page is made of, and checks on the way that every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "br":
            self.text += " "
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in {"th", "td", "p", "li", "h1", "h2", "h3", "dt", "dd", "pre", "text"}:
            self.text += " "

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def plain(self) -> str:
        return re.sub(r"\s+", " ", self.text.replace("\N{NO-BREAK SPACE}", " "))


@pytest.fixture
def report(input_of: Make) -> ReportInput:
    return input_of()


# ---- what it says ----


def test_the_report_says_everything_with_split_and_n(report: ReportInput) -> None:
    text = Page(render_report(report)).plain
    for expected in (
        "fast-photos",
        "photos · model spot · recipe fast · 2026-03-01 13:03 UTC",
        "87.5 %",
        "87.5 % [83.9, 90.4] on test (n = 400, 1 view)",
        "Most confused: 17 of 100 'cat' taken for 'dog' and 12 of 100 'dog' taken for 'cat', on test.",
        "ECE on test, n = 400",
        "1 min 33 s",
        "12 epochs on cpu bf16",
        "2,000",
        "2 files were left out",
        "There was no test split",
        "Guessing gives 25.0 % with 4 classes",
        "On test, n = 400: 50 mistakes",
        "On test, n = 400: the 3 wrong answers",
        "said dog is cat 99.9 % sure",
        "test/cat/0.jpg",
        "5 pictures of train as the training gets them",
        "Mirrored in every other epoch.",
        "/home/ann/photos",
        "train/cat/1.jpg",
        "truncated",
        "train/cat/3.jpg = train/cat/4.jpg",
        "640 x 480 (4,000), 32 x 32 (400)",
        "32 x 32 px, 3 channels, 13.5 MB; crop, bilinear",
        "12.3 million multiplications",
        "The map is already 1x1",
        "training.epochs",
        "2.3 GB",
        "3.2 s",
        "the processor has AMX-BF16",
        "python 3.12.1, eyespot 0.1.0, torch 2.10.0, timm not installed",
        "split_hash",
        "pip install eyespot==0.1.0 torch==2.10.0",
        "eyespot train photos/ --seed 7",
        "the seed is 7",
        "9f2c1b7d",
    ):
        assert expected in text, expected


def test_sections_come_in_the_order_of_the_questions(report: ReportInput) -> None:
    page = Page(render_report(report))
    ids = [attributes["id"] for attributes in page.all("section")]
    assert ids == (
        [
            "verdict",
            "know",
            "splits",
            "curves",
            "confusion",
            "classes",
            "mistakes",
            "augmented",
            "data",
            "model",
            "settings",
            "cost",
            "again",
        ]
    )
    links = [attributes["href"] for attributes in page.all("a")]
    assert links == [f"#{name}" for name in ids[1:]]


def test_the_worst_class_comes_first_and_says_what_it_is_taken_for(report: ReportInput) -> None:
    text = Page(render_report(report)).plain
    section = text[text.index("Class by class") : text.index("The surest mistakes")]
    assert section.index("dog 100") < section.index("cat 100") < section.index("bird 100") < section.index("ship 100")
    assert "dog (17)" in section


def test_figures_of_a_class_have_their_n_and_interval_and_none_without_pictures(
    input_of: Make, metrics_of: Make
) -> None:
    confusion = [[90, 10, 0, 0], [5, 5, 0, 0], [0, 0, 0, 0], [1, 0, 0, 9]]
    table = render_report(input_of(metrics={"test": metrics_of(confusion)})).split('id="classes"')[1]
    text = Page("<section" + table.split("</section>")[0] + "</section>").plain
    assert "100 90.0 % [82.6, 94.5] 96 93.8 % [87.0, 97.1]" in text
    assert "dog 0 – 0 – – –" in text
    assert text.index("dog 0") > text.index("bird 100")


def test_ticks_of_a_low_accuracy_differ(input_of: Make, history_of: Make) -> None:
    history = history_of([5.7, 5.6], [5.7, 5.6], [0.0, 0.0009])
    for row in history:
        row["train/top1"] = 0.0005
    page = render_report(input_of(history=history))
    accuracy = next(svg for svg in re.findall(r"<svg.*?</svg>", page) if 'aria-label="Accuracy.' in svg)
    ticks = re.findall(r">([\d.]+) %</text>", accuracy)
    assert len(ticks) == len(set(ticks)) > 2


def test_settings_that_differ_from_the_defaults_come_first(input_of: Make) -> None:
    config = Config().model_dump(mode="json")
    assert "Every setting has eyespot's default." in Page(render_report(input_of(config=config))).plain
    config["optimizer"]["lr"] = 0.24
    config["model"]["args"] = {"widths": [8, 16]}
    text = Page(render_report(input_of(config=config))).plain
    changed = text[text.index("eyespot's default") : text.index("All settings")]
    assert "optimizer.lr 0.24 0.01" in changed
    assert "model.args.widths [8, 16]" in changed
    assert "training.epochs" not in changed
    assert "early_stopping_epochs 0" in text


def test_the_best_epoch_is_that_of_the_recipes_own_measure(input_of: Make, history_of: Make) -> None:
    history = history_of([2, 1.5, 1.2, 1.0], [2.0, 1.0, 1.1, 1.2], [0.3, 0.5, 0.7, 0.6])
    by_loss = {"training": {"monitor": "val/loss", "restore_best": True}}
    assert "best val/loss: epoch 2 (kept)" in render_report(input_of(history=history, config=by_loss))
    by_top1 = {"training": {"monitor": "val/top1"}}
    assert "best val/top1: epoch 3<" in render_report(input_of(history=history, config=by_top1))
    twice = history_of([2, 1.5, 1.2, 1.0], [2.0, 1.0, 1.1, 1.0], [0.3, 0.5, 0.5, 0.4])
    kept = {"training": {"monitor": "val/top1", "restore_best": True}}
    assert "best val/top1: epoch 2 (kept)" in render_report(input_of(history=twice, config=kept)), "the first, as fit"
    lost = input_of(history=twice, config=kept)
    lost = replace(lost, metrics={**lost.metrics, "best_epoch": 4})  # its weights were gone
    assert "best val/top1: epoch 2<" in render_report(lost)


def test_a_loss_over_many_decades_gets_a_logarithmic_axis(input_of: Make, history_of: Make) -> None:
    assert "logarithmic" in render_report(input_of(history=history_of([2.3, 0.5, 0.01])))
    assert "logarithmic" not in render_report(input_of(history=history_of([2.3, 0.5, 0.3])))


def range_test(**changes: Any) -> dict[str, Any]:
    """Return a small lr_finder.json."""
    return {
        "chosen": 0.0123,
        "settings": {"lr": 0.0123},
        "found": True,
        "steepest": 0.02,
        "lowest": 0.1,
        "diverges": 0.4,
        "rates": [1e-7, 1e-5, 1e-3, 1e-1, 10.0],
        "losses": [2.1, 1.9, 1.8, 1.2, 90.0],
        "smoothed": [2.0, 2.0, 1.8, 1.5, 80.0],
        "untrained": 2.0,
        **changes,
    }


def test_the_search_for_the_learning_rate_is_shown_and_explained(input_of: Make) -> None:
    config = Config().model_dump(mode="json")
    config["optimizer"]["lr"] = "auto"
    html = render_report(input_of(lr_finder=range_test(), config=config))
    page = Page(html)
    assert "Range test of the learning rate, logarithmic axis, 0.0123 chosen. loss from 2 to 1.5." in html
    assert "chosen: 0.0123<" in html
    assert "took 5 steps at a rate that rose from 1e-7 to 10." in page.plain
    assert "It falls steepest at 0.02 and is lowest at 0.1; the run got 0.0123" in page.plain
    assert "From 0.4 on it is worse than before any training." in page.plain
    changed = page.plain[page.plain.index("eyespot's default") : page.plain.index("All settings")]
    assert "optimizer.lr auto, found 0.0123 0.01" in changed
    assert "than before any training" not in render_report(input_of(lr_finder=range_test(diverges=None)))
    no_fall = range_test(found=False, steepest=None, lowest=None, diverges=None, chosen=20.0)
    usual = render_report(input_of(lr_finder=no_fall))
    assert "No rate made it fall, so the run got a usual one, 20." in usual
    assert "chosen: " not in usual, "it lies outside of the chart"


@pytest.mark.parametrize("found", [{}, range_test(rates=[], losses=[], smoothed=[])])
def test_without_a_search_there_is_no_chart_of_it(input_of: Make, found: dict[str, Any]) -> None:
    assert "ange test" not in render_report(input_of(lr_finder=found))


# ---- what may be missing ----


def test_a_run_without_anything_still_has_a_report() -> None:
    page = Page(render_report(ReportInput("x", {}, {}, [], {}, ["a", "b"], {})))
    assert "No accuracy was measured." in page.plain
    assert "Nothing was found" in page.plain
    assert "no curves" in page.plain
    assert [attributes["id"] for attributes in page.all("section")] == [
        "verdict",
        "know",
        "curves",
        "data",
        "settings",
        "cost",
        "again",
    ]


@pytest.mark.parametrize("kept", [("val", "train"), ("test", "train"), ("train",), ("test",)])
def test_splits_that_were_not_measured_are_left_out(input_of: Make, report: ReportInput, kept: tuple[str, ...]) -> None:
    metrics = {
        name: value for name, value in report.metrics.items() if name not in {"test", "val", "train"} or name in kept
    }
    config = {**report.config, "data": {"final": "val" not in kept}}
    history = [{k: v for k, v in row.items() if "val" in kept or not k.startswith("val/")} for row in report.history]
    page = Page(render_report(input_of(metrics=metrics, config=config, history=history)))
    assert f"On {kept[0]}, n = " in page.plain
    assert ("Test has not been read" in page.plain) == (kept[0] == "val")
    assert ("there are no val figures" in page.plain) == ("val" not in kept)


def test_figures_that_were_not_measured_become_dashes(input_of: Make, report: ReportInput) -> None:
    test = {**report.metrics["test"], "ece": None, "top5": None, "images_per_second": 0.0, "seconds": 0}
    page = Page(render_report(input_of(metrics={"test": test})))
    assert "ECE on test" not in page.plain
    assert "–" in page.plain
    del test["confusion"], test["per_class"]
    ids = [a["id"] for a in Page(render_report(input_of(metrics={"test": test}))).all("section")]
    assert "confusion" not in ids
    assert "classes" not in ids


def test_a_diverged_run_is_drawn_as_far_as_it_went(input_of: Make, history_of: Make) -> None:
    page = Page(
        render_report(input_of(history=history_of([2.0, 1.5, math.nan], [2.0, 1.6, math.inf], [0.2, 0.4, 0.1])))
    )
    assert "Diverged" in page.plain
    assert "nan" not in "".join(attributes.get("d", "") for attributes in page.all("path"))


# ---- many classes, many files ----


def test_one_mistake_is_told_as_one_and_a_class_without_pictures_has_no_share(
    report: ReportInput, input_of: Make, metrics_of: Make
) -> None:
    confusion = [[10, 0, 1, 0], [0, 10, 0, 0], [0, 0, 0, 0], [0, 0, 0, 10]]
    text = Page(render_report(input_of(metrics={"test": metrics_of(confusion)}, mistakes=report.mistakes[:1]))).plain
    assert ": 1 mistake. Rows" in text
    assert "the wrong answer of which the model was surest" in text
    assert "1 of 11 –" in text
    assert "of 0" not in text


def test_a_hundred_classes_get_a_heat_map_and_the_worst_pairs(input_of: Make, split_of: Make) -> None:
    test = split_of(0.7, 10_000, 100)
    names = tuple(test["per_class"])
    page = Page(
        render_report(input_of(metrics={"test": test}, class_names=names, data_card={}, mistakes=(), augmented=None))
    )
    assert len(page.all("image")) == 1
    assert not any("confusion" in attributes.get("class", "") for attributes in page.all("table"))
    assert page.plain.count(" and class ") >= 20
    assert len(render_report(input_of(metrics={"test": test}, class_names=names))) < 500_000


@pytest.mark.parametrize(("classes", "css"), [(19, "confusion"), (25, "confusion many")])
def test_a_table_of_many_classes_has_narrow_cells(input_of: Make, split_of: Make, classes: int, css: str) -> None:
    test = split_of(0.7, 100 * classes, classes)
    more = {"class_names": tuple(test["per_class"]), "data_card": {}, "mistakes": (), "augmented": None}
    tables = Page(render_report(input_of(metrics={"test": test}, **more))).all("table")
    assert css in [table.get("class") for table in tables]


def test_long_lists_are_cut_and_counted(input_of: Make) -> None:
    bad = [(f"file-{index}.jpg", "empty") for index in range(60)]
    sizes = [(100 + index, 100, 1) for index in range(20)]
    modes = {f"M{index}": 1 for index in range(10)}
    card = {"bad": bad, "sizes": sizes, "modes": modes, "packed_shape": (32, 32, 1), "packed_bytes": 0}
    text = Page(render_report(input_of(data_card=card))).plain
    assert "file-49.jpg" in text
    assert "file-50.jpg" not in text
    assert "And 10 more" in text
    assert "and 14 more" in text
    assert "and 2 more" in text
    assert "32 x 32 px, 1 channel, streamed from the files" in text


def test_photographs_are_shown_small(input_of: Make) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    html = render_report(input_of(mistakes=[Mistake(photo, "cat", "dog", 0.9, "a.jpg")] * 2))
    assert len(html) < 500_000


# ---- the page itself ----


def test_the_page_asks_nobody_for_anything(report: ReportInput) -> None:
    html = render_report(report)
    page = Page(html)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "audio", "video"}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "srcset", "action", "data"}:
                assert value.startswith(("data:image/png;base64,", "#"))
    for forbidden in ("http://", "https://", "@import", "url(", "javascript:"):
        assert forbidden not in html


def test_hostile_names_are_text_everywhere(input_of: Make, report: ReportInput, metrics_of: Make) -> None:
    names = (EVIL, "{{ 7 * 7 }}", "\u202eevil", "lone \udcff")
    metrics = {"test": metrics_of(report.metrics["test"]["confusion"], names), "stopped": EVIL}
    card = {
        "name": EVIL,
        "origin": EVIL,
        "notes": [EVIL],
        "counts": {"train": dict.fromkeys(names, 5)},
        "bad": [(EVIL, EVIL)],
        "duplicate_examples": [[EVIL, EVIL]],
        "modes": {EVIL: 1},
    }
    pixels = np.zeros((8, 8, 1), dtype=np.uint8)
    html = render_report(
        input_of(
            run_name=EVIL,
            class_names=names,
            metrics=metrics,
            data_card=card,
            config={"name": EVIL, EVIL: {EVIL: [EVIL]}},
            provenance={"command": EVIL, EVIL: EVIL, "versions": {EVIL: EVIL}, "started": EVIL},
            mistakes=[Mistake(pixels, EVIL, names[1], 0.5, f"{EVIL}/{EVIL}")],
            augmentation=EVIL,
        )
    )
    page = Page(html)  # would fail where a quote or a bracket broke out of its place
    assert not page.all("script")
    assert page.text.count("<script>alert('x')</script>") > 15
    assert "{{ 7 * 7 }}" in page.text
    assert "49" not in page.text.replace("n = 400", "")


def test_a_lone_surrogate_does_not_stop_the_writing(input_of: Make, tmp_path: Path) -> None:
    write_report(input_of(run_name="caf\udce9"), tmp_path / "report.html")
    assert r"caf\udce9" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_name_that_is_cut_in_the_confusion_table_is_cut_at_its_own_end_and_told_whole(report: ReportInput) -> None:
    heads = [head for head in Page(render_report(report)).all("th") if head.get("title")]
    assert {head["title"] for head in heads} == set(report.class_names)
    rows = [head for head in heads if head["scope"] == "row"]
    assert len(rows) == len(report.class_names)
    assert all(head.get("dir") == "auto" for head in rows)  # an Arabic name begins on the right


def test_the_page_can_be_read_without_seeing_it(report: ReportInput) -> None:
    page = Page(render_report(report))
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    drawings = page.all("svg")
    assert len(drawings) == 4
    assert all(drawing["role"] == "img" and len(drawing["aria-label"]) > 20 for drawing in drawings)
    assert all(head["scope"] in {"col", "row"} for head in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(second - first <= 1 for first, second in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = [attributes["aria-labelledby"] for attributes in page.all("section")]
    assert set(labels) <= set(ids)
    stops = [attributes for _, attributes in page.tags if "tabindex" in attributes]
    assert stops
    names = [stop["aria-labelledby"] for stop in stops if stop["role"] == "group"]
    assert len(set(names)) == len(names) == len(stops), "no two tables are called the same"
    assert set(names) <= set(ids)


def luminance(colour: tuple[int, ...]) -> float:
    """Return the relative luminance of WCAG 2.2."""
    parts = [value / 255 for value in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_enough_contrast_in_both_themes_and_on_paper() -> None:
    css = (resources.files("eyespot.analysis") / "templates" / "base.css").read_text(encoding="utf-8")
    themes = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)
    assert len(themes) == 3
    for theme in themes:
        colours = {
            name: tuple(int(value[i : i + 2], 16) for i in (0, 2, 4))
            for name, value in re.findall(r"--([\w-]+): #(\w{6})", theme)
        }
        colours |= {
            name: tuple(map(int, value.split())) for name, value in re.findall(r"--([\w-]+): (\d+ \d+ \d+)", theme)
        }
        pairs = [
            (name, "card")
            for name in ["ink", "quiet", "accent", "train", "val", "test", "lr", "serious", "warning", "note"]
        ]
        pairs += [("ink", "paper"), ("quiet", "paper"), ("accent", "paper")]
        pairs += [("ink", "heat-right"), ("ink", "heat-wrong"), ("ink", "bar")]
        for front, back in pairs:
            high, low = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)
    css = (resources.files("eyespot.analysis") / "templates" / "report.css").read_text(encoding="utf-8")
    faded = [rule for rule in re.findall(r"([^{}]+)\{[^}]*\bopacity:", css) if not rule.strip().startswith(".chart ")]
    assert not faded  # text that is made paler than its colour


# How the cone fundamentals of full deuteranopia and protanopia see linear RGB: Machado, Oliveira and Fernandes 2009.
SIGHTS = {
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
}


def lab(colour: str, sight: list[list[float]]) -> np.ndarray:
    """Return CIELAB (3,) of `#rrggbb` as somebody sees it."""
    parts = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(sight) @ linear, 0, 1)
    xyz = np.array([[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8728]]) @ seen  # of white
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize(
    ("sheet", "names"),
    [("study.css", [f"r{place}" for place in range(6)]), ("base.css", ["train", "val", "test", "lr"])],
)
def test_a_colour_blind_reader_tells_the_lines_of_a_chart_apart(sheet: str, names: list[str], sight: str) -> None:
    css = (resources.files("eyespot.analysis") / "templates" / sheet).read_text(encoding="utf-8")
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w{6})", theme)) for theme in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    ]
    assert len(themes) >= 2
    for theme, card in zip(themes, ("#ffffff", "#1b1e24"), strict=False):
        for one, other in itertools.combinations(names, 2):
            apart = np.linalg.norm(lab(theme[one], SIGHTS[sight]) - lab(theme[other], SIGHTS[sight]))
            assert apart > 12.5, (sheet, one, other)
        for name in names:  # the names of the lines have their colours
            pair = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in (theme[name], card)]
            low, high = sorted(map(luminance, pair))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (sheet, name)


def test_the_file_is_replaced_whole_and_equal_for_equal_runs(report: ReportInput, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(report, path)
    first = path.read_bytes()
    write_report(report, path)
    assert path.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(RunError, match="cannot write"):
        write_report(report, tmp_path / "gone" / "report.html")


# ---- the surest mistakes ----


def test_the_surest_mistakes_come_first_and_right_answers_never() -> None:
    logits = np.array([[9, 0, 0], [0, 3, 0], [0, 5, 0], [1, 0, 0], [0, 3, 0]], dtype=np.float32)
    labels = np.array([0, 0, 0, 2, 2])
    assert most_confident_mistakes(logits, labels, 10).tolist() == [2, 1, 4, 3]
    assert most_confident_mistakes(logits, labels, 2).tolist() == [2, 1]
    assert most_confident_mistakes(logits, logits.argmax(1), 2).tolist() == []


def test_only_the_pictures_that_are_shown_are_read() -> None:
    logits = np.array([[9, 0], [0, 3], [0, 5]], dtype=np.float32)
    labels = np.array([0, 0, 0])
    asked = []

    def read_pixels(indices: np.ndarray) -> np.ndarray:
        asked.append(indices.tolist())
        return np.full((len(indices), 2, 2, 3), 7, dtype=np.uint8)

    mistakes = collect_mistakes(logits, labels, ["a", "b", "c"], ["cat", "dog"], read_pixels, count=1)
    assert asked == [[2]]
    assert mistakes[0][1:] == ("cat", "dog", pytest.approx(1 / (1 + math.exp(-5))), "c")
    assert collect_mistakes(logits, np.array([0, 1, 1]), ["a", "b", "c"], ["cat", "dog"], read_pixels) == []
    assert len(asked) == 1


def test_a_train_curve_of_the_hardest_pictures_says_so(input_of: Make) -> None:
    shown = "which shows only the 60.0 % with the largest loss"
    assert shown in render_report(input_of(config={"training": {"hardest_share": 0.6}}))
    assert "with the largest loss" not in render_report(input_of())


def test_the_table_and_the_curves_say_which_loss_they_show(report: ReportInput) -> None:
    said = "Loss, ECE and Brier are those after calibration; the learning curves show the loss before it."
    fitted = {"temperature": 0.3, "fitted_on": "val", "n": 144, "note": ""}
    assert said in render_report(replace(report, metrics={**report.metrics, "calibration": fitted}))
    unfitted = {"temperature": 1.0, "fitted_on": None, "n": 0, "note": "no val"}
    assert said not in render_report(replace(report, metrics={**report.metrics, "calibration": unfitted}))


def test_curves_of_a_network_that_was_not_kept_are_said_to_be_of_another(input_of: Make) -> None:
    head = {"l2": 0.1, "path": [{}], "chosen_on": "val", "encode_seconds": 1.0, "solve_seconds": 1.0}
    for kept in (True, False):
        metrics = {**input_of().metrics, "head": {**head, **({"kept": True} if kept else {})}}
        page = render_report(input_of(metrics=metrics))
        assert ("These are the curves of the fine-tuning" in page) == kept
        assert ("Fine tuning not kept" in page) == kept

from __future__ import annotations

import base64
import io
import itertools
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from eyespot.analysis.charts import (
    Dot,
    Interval,
    Series,
    Spot,
    confusion_cells,
    cost_chart,
    heat_map,
    interval_chart,
    line_chart,
    log_ticks,
    nice_ticks,
    scatter_chart,
)


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(root: ElementTree.Element) -> list[str]:
    return ["".join(element.itertext()) for element in root.iter("text")]


def paths(root: ElementTree.Element, css: str) -> list[str]:
    return [element.get("d", "") for element in root.iter("path") if element.get("class", "").startswith(css)]


def draw(*series: Series, **more: object) -> ElementTree.Element:
    settings = {"title": "Loss", "x_label": "epoch", "write_y": lambda value: f"{value:.3g}", **more}
    return parse(line_chart(series, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [
        (0, 1, 6, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.13, 0.31, 5, [0.15, 0.2, 0.25, 0.3]),
        (1, 30, 6, [10, 20, 30]),
        (0, 12_000, 5, [0, 5000, 10_000]),
        (-2, 2, 5, [-2, -1, 0, 1, 2]),
        (3, 3, 5, [3]),
    ],
)
def test_ticks_are_round(low: float, high: float, count: int, ticks: list[float]) -> None:
    assert nice_ticks(low, high, count) == ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 10))
def test_ticks_lie_within_and_rise(low: float, span: float, count: int) -> None:
    assume(low + span > low)
    ticks = nice_ticks(low, low + span, count)
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 2 * count
    slack = 1e-6 * max(abs(low), span)
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)


def test_log_ticks() -> None:
    assert log_ticks(0.01, 1.5) == pytest.approx([0.01, 0.1, 1])
    assert log_ticks(0.2, 3) == pytest.approx([0.3, 1, 3])
    assert log_ticks(0.2, 2.5) == pytest.approx([0.2, 0.5, 1, 2])


def test_a_line_goes_up_where_the_value_does_and_ends_at_the_frame() -> None:
    root = draw(Series("train", "train", [1, 2, 3], [1.0, 2.0, 0.5]))
    (path,) = paths(root, "line")
    points = [tuple(map(float, pair.split())) for pair in re.split("[ML]", path)[1:]]
    assert points[0][0] == 42.0
    assert points[2][0] == 370 - 56
    assert points[1][1] < points[0][1] < points[2][1]  # y grows downwards
    assert "train" in texts(root)
    assert "epoch" in texts(root)
    assert root.get("aria-label") == "Loss. train from 1 to 0.5."
    assert root.get("role") == "img"


def test_missing_values_leave_gaps_and_single_points_become_dots() -> None:
    root = draw(Series("val", "val", [1, 2, 3, 4, 5], [1.0, math.nan, 0.5, 0.4, math.inf]))
    (path,) = paths(root, "line")
    assert path.count("M") == 2
    assert path.count("L") == 1
    assert len(list(root.iter("circle"))) == 1


def test_one_epoch_and_constant_values_can_be_drawn() -> None:
    root = draw(Series("train", "train", [1], [0.7]))
    assert len(list(root.iter("circle"))) == 1
    assert "nan" not in ElementTree.tostring(root, encoding="unicode")
    draw(Series("train", "train", [1, 2], [0.0, 0.0]))
    root = draw(Series("train", "train", [-5, 0, 5], [-3.0, 2.0, 1.0]))
    assert "\N{MINUS SIGN}4" in texts(root)


@pytest.mark.parametrize("value", [0.115, 0.9999, 2.302585, 9.99, 4321.0])
def test_ticks_of_values_that_hardly_differ_are_written_differently(value: float) -> None:
    values = [value, value * (1 + 1e-6), value * (1 + 2e-6)]
    root = parse(
        line_chart([Series("lr", "lr", [1, 2, 3], values)], title="t", x_label="epoch", write_y="{:.4g}".format)
    )
    ticks = [text.text for text in root.iter() if text.get("text-anchor") == "end"]
    assert len(ticks) >= 2
    assert len(set(ticks)) == len(ticks)


def test_nothing_to_draw_is_an_empty_text() -> None:
    nothing = Series("val", "val", [1, 2], [math.nan, math.nan])
    assert line_chart([nothing], title="", x_label="", write_y=str) == ""
    assert "val" not in texts(draw(Series("train", "train", [1, 2], [1.0, 2.0]), nothing))


def test_labels_of_lines_that_end_together_do_not_cover_each_other() -> None:
    series = [Series(name, name, [1, 2], [1.0, end]) for name, end in (("a", 0.0), ("b", 0.001), ("c", 0.002))]
    root = draw(*series)
    places = sorted(float(element.get("y", "")) for element in root.iter("text") if "label" in element.get("class", ""))
    assert len(places) == 3
    assert all(second - first >= 13.9 for first, second in itertools.pairwise(places))
    assert places[-1] <= 220 - 34 + 4


def test_lines_without_a_name_do_not_push_the_names_of_others_away() -> None:
    named = [Series(name, name, [1, 2], [0.0, end]) for name, end in (("a", 0.5), ("b", 0.9))]
    nameless = [Series("", "a dashed", [1, 2], [0.0, end]) for end in (0.97, 0.98, 1.0)]

    def places(root: ElementTree.Element) -> list[str | None]:
        return [element.get("y") for element in root.iter("text") if element.get("class") in {"label c-a", "label c-b"}]

    top = Series("top", "top", [1, 2], [0.0, 1.0], points=True)
    assert places(draw(*named, *nameless)) == places(draw(*named, top))


def test_a_logarithmic_axis_leaves_out_what_is_not_positive() -> None:
    root = draw(Series("train", "train", [1, 2, 3], [10.0, 0.1, 0.0]), log_y=True)
    (path,) = paths(root, "line")
    assert path.count("L") == 1
    assert "0.1" in texts(root)


def test_on_a_logarithmic_x_axis_equal_factors_are_equal_steps() -> None:
    rates = [1e-6, 1e-4, 1e-2, 1.0]
    root = draw(Series("loss", "lr", rates, [2.0, 2.0, 1.0, 3.0]), log_x=True, mark_x=(1e-2, "chosen"))
    (path,) = paths(root, "line")
    places = [float(pair.split()[0]) for pair in re.split("[ML]", path)[1:]]
    steps = [second - first for first, second in itertools.pairwise(places)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.11)
    assert paths(root, "mark") == [f"M{places[2]:.1f} 16.0V186.0"]
    labels = [element.text for element in root.iter("text") if element.get("text-anchor") == "middle"]
    assert labels == ["1e-6", "1e-5", "0.0001", "0.001", "0.01", "0.1", "1", "epoch"]
    wide = draw(Series("loss", "lr", [1e-7, 10.0], [2.0, 1.0]), log_x=True)
    labels = [element.text for element in wide.iter("text") if element.get("text-anchor") == "middle"]
    assert labels == ["1e-7", "1e-5", "0.001", "0.1", "10", "epoch"]
    draw(Series("loss", "lr", [0.1], [2.0]), log_x=True)


def test_points_are_one_path_without_a_name() -> None:
    measured = Series("measured", "lr", [1, 2, 3, 4], [1.0, math.nan, 3.0, 2.0], points=True)
    root = draw(measured, Series("mean", "lr", [1, 2, 3, 4], [1.0, 1.5, 2.0, 2.0]))
    (path,) = paths(root, "points c-lr")
    assert path.count("M") == path.count("h0") == 3
    assert len(paths(root, "line")) == 1
    assert "mean" in texts(root)
    assert "measured" not in texts(root)
    assert root.get("aria-label") == "Loss. mean from 1 to 2."


def test_the_mark_is_labelled_on_the_side_with_room() -> None:
    series = Series("train", "train", list(range(1, 11)), [1.0] * 10)
    for epoch, anchor in ((2, "start"), (9, "end")):
        root = draw(series, mark_x=(epoch, f"best: {epoch}"))
        (label,) = [element for element in root.iter("text") if element.get("class") == "mark-label"]
        assert label.get("text-anchor") == anchor
        assert label.text == f"best: {epoch}"


def test_a_mark_beside_the_lines_lies_on_the_axis() -> None:
    root = draw(Series("train", "train", [1, 2], [0.0, 1.0]), mark_x=(3.0, "beyond"))
    (mark,) = [element for element in root.iter("path") if element.get("class") == "mark"]
    (axis,) = [element for element in root.iter("path") if element.get("class") == "axis"]
    assert mark.get("d", "").partition(" ")[0].removeprefix("M") == axis.get("d", "").rpartition("H")[2]


def test_names_are_text_not_markup() -> None:
    evil = '<script>alert("&")</script>'
    root = draw(Series(evil, "train", [1, 2], [1.0, 2.0]), title=evil, x_label=evil, mark_x=(1, evil))
    assert not list(root.iter("script"))
    assert texts(root).count(evil) == 3
    assert evil in root.get("aria-label", "")


@pytest.mark.parametrize(("lowest", "first"), [(0.0, "0"), (0.7, "50"), (0.88, "80"), (0.93, "90"), (0.985, "95")])
def test_the_interval_axis_starts_where_the_values_need_it(lowest: float, first: str) -> None:
    rows = [
        Interval("test", "test", lowest + 0.005, lowest, lowest + 0.01),
        Interval("train", "train", 1.0, 0.999, 1.0),
    ]
    root = parse(interval_chart(rows, title="Accuracy", chance=0.1))
    assert texts(root)[0] == first
    assert len(list(root.iter("circle"))) == 2
    assert len(paths(root, "mark")) == (first == "0")
    assert f"test {100 * lowest + 0.5:.1f} %" in root.get("aria-label", "")


def test_a_long_name_of_an_interval_does_not_cover_it() -> None:
    rows = [Interval(name, "test", 0.3, 0.2, 0.4) for name in ("test (selected on test)", "train")]
    root = parse(interval_chart(rows, title="Accuracy", chance=0.1))
    names = [float(one.get("y", "")) for one in root.iter() if one.get("class") == "label c-test"]
    dots = [float(one.get("cy", "")) for one in root.iter("circle")]
    assert [dot - name for name, dot in zip(names, dots, strict=True)] == pytest.approx([14, 14])


def test_counts_have_no_ticks_between_them() -> None:
    assert "0.5" in texts(draw(Series("right", "test", [0, 1], [0, 2])))
    assert texts(draw(Series("right", "test", [0, 1], [0, 2]), whole_y=True))[:3] == ["0", "1", "2"]


def test_confusion_shades_show_shares_and_lift_rare_mistakes() -> None:
    cells = confusion_cells(np.array([[98, 2, 0], [8, 92, 0], [0, 0, 0]]))
    assert cells[0][0].shade == pytest.approx(0.98)
    assert cells[1][0].shade == 1.0  # the largest mistake
    assert cells[0][1].shade == pytest.approx(0.5)  # a quarter of it, under the square root
    assert cells[2][2].shade == 0.0  # a class without pictures
    assert [cell.count for cell in cells[1]] == [8, 92, 0]
    assert confusion_cells(np.eye(2, dtype=np.int64))[0][1].shade == 0.0


def test_a_heat_map_holds_every_cell_and_as_many_names_as_have_room() -> None:
    confusion = np.diag(np.full(100, 9))
    confusion[3, 7] = 1
    names = [f"<class {index}>" for index in range(100)]
    root = parse(heat_map(confusion, names))
    assert texts(root).count("<class 42>") == 2
    (image,) = root.iter("image")
    picture = Image.open(io.BytesIO(base64.b64decode(image.get("href", "").partition(",")[2])))
    pixels = np.asarray(picture)
    assert pixels.shape == (100, 100, 4)
    assert pixels[3, 7, 3] == 255
    assert pixels[7, 3, 3] == 0
    assert tuple(pixels[0, 0, :3]) != tuple(pixels[3, 7, :3])
    many = parse(heat_map(np.diag(np.full(300, 9)), [f"class {index}" for index in range(300)]))
    assert texts(many)[:4] == ["class 0", "class 0", "class 3", "class 3"]
    for drawn in (root, many):
        assert float(drawn.get("viewBox", "").split()[2]) <= 990  # of a section on a page 1080 px wide
    assert "a very very very lo…" in texts(
        parse(heat_map(np.eye(30, dtype=np.int64), ["a very very very long name"] * 30))
    )
    assert "\N{CJK UNIFIED IDEOGRAPH-732B}" * 9 + "…" in texts(
        parse(heat_map(np.eye(30, dtype=np.int64), ["\N{CJK UNIFIED IDEOGRAPH-732B}" * 12] * 30))
    )


@pytest.mark.parametrize(("low", "high"), [(0.00228, 0.0038532), (5.5, 9.3), (1.1, 1.9), (2e-7, 2.1e-7), (90, 30000)])
def test_a_narrow_logarithmic_axis_has_ticks(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert ticks
    assert all(low * 0.99 <= tick <= high * 1.01 for tick in ticks)


def test_a_log_axis_without_a_round_number_on_it_is_drawn_without_ticks() -> None:
    series = [Series("a", "train", [1_150, 1_200], [0.5, 0.6])]
    assert "<svg" in line_chart(series, title="t", x_label="n", write_y=str, log_x=True)


def test_whose_a_value_is_can_be_seen_without_colours_and_heard() -> None:
    spots = [
        Spot(1, "test", 120.0, 0.6, 0.5, 0.7, "ours"),
        Spot(1, "claim", 12_500.0, 0.7, 0.6, 0.8, "published", True),
    ]
    root = parse(cost_chart(spots, title="t", x_label="x", write_y=str))
    assert [one.get("class") for one in root.iter("circle")] == ["dot c-test", "dot hollow c-claim"]
    assert root.get("aria-label") == "t. 1 (ours): 0.6 at 120; 1 (published): 0.7 at 1.25e4."


def test_labels_of_equal_costs_do_not_cover_each_other() -> None:
    spots = [Spot(number, "test", 1.0, 0.6 + 0.002 * number, 0.55, 0.65) for number in range(10, 17)]
    drawing = cost_chart(spots, title="t", x_label="x", write_y=str)
    labels = re.findall(r'<text class="label c-test" x="([\d.]+)" y="([\d.]+)">', drawing)
    places = [(float(x), float(y)) for x, y in labels]
    assert len(places) == len(spots)
    for (x, y), (other_x, other_y) in itertools.combinations(places, 2):
        assert abs(x - other_x) >= 16 or abs(y - other_y) >= 12  # two digits


@pytest.mark.parametrize(("count", "names"), [(3, 3), (12, 12), (13, 7), (31, 11), (61, 11), (500, 12)])
def test_of_many_categories_as_many_are_named_as_have_room(count: int, names: int) -> None:
    categories = [f"{place}-a-long-name" for place in range(count)]
    dots = [Dot(float(place), 0.5, "val", "") for place in range(count)]
    root = parse(scatter_chart(dots, title="t", x_label="x", write_y=str, categories=categories))
    shown = [text for text in texts(root) if re.match(r"\d+-", text)]
    assert len(shown) == names
    assert len(set(shown)) == names, "each can be told from the others"

"""Charts as small SVG texts that take their colours and fonts from the page they stand in.

Before this: curves and the confusion matrix. After this: `report` puts the SVG into its page. An SVG of our own is a
few kilobytes, sharp at every zoom and on paper, follows the page into dark mode, and its text can be read out.
Style sheets name these classes: `chart`, `grid`, `axis`, `label`, `line`, `points`, `dot`, `ring`, `mark`, and `c-NAME`
for a series.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, TypeAlias

import numpy as np
from rich.cells import cell_len

from eyespot.analysis import words
from eyespot.analysis.pages import png_data_uri
from eyespot.arrays import Float64Array, Int64Array

# User units of the drawing. At this width text of 12 units is 10 px high on a phone and 15 px in a half column.
_WIDTH = 370.0
_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 42.0, 56.0, 16.0, 34.0
_LABEL_GAP = 14.0
_LETTER_WIDTH, _LETTER_HEIGHT = 8.0, 12.0  # of a bold digit
# Readable in both themes, on white and on near-black: the picture itself has no theme.
_RIGHT_RGB, _WRONG_RGB = (58, 122, 214), (222, 106, 32)
# In px. A page 1080 px wide shows the widest map without scrolling; up to about 60 classes have cells of full size.
_WIDEST_MAP, _WIDEST_CELL, _WIDEST_NAMES = 986.0, 14.0, 145.0
_SMALLEST_NAME = 8.5  # where the cells are smaller, some classes are not named
_LETTER_OF_EM = 0.6
# A loss that falls by more than this factor presses everything but its first epochs to the floor of a linear axis.
_LOG_RATIO = 30.0
# Names along an x axis: of more, some are left out, since so many letters have room side by side.
_MOST_CATEGORIES, _TICK_LETTERS = 12, 60


_Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: Written at its end; empty for a line that another one's name tells of.
        css: Its colour and dashes are those of the class `c-CSS`.
        x: Float (E,), rising.
        y: Float (E,); nan leaves a gap.
        points: Drawn as light points without a name, for what was measured beside a smoothed line of it.
    """

    name: str
    css: str
    x: Sequence[float] | Float64Array
    y: Sequence[float] | Float64Array
    points: bool = False


@dataclass(frozen=True)
class Interval:
    """One row of an interval chart: a measured value with both ends of its interval, in [0, 1]."""

    name: str
    css: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bar:
    """An upright interval in a line chart: its colour, its place, and both ends."""

    css: str
    x: float
    low: float
    high: float


@dataclass(frozen=True)
class Spot:
    """One measured value over what it cost.

    Attributes:
        number: Its number or letter in the table, written beside it.
        css: Its colour is that of the class `c-CSS`.
        x: What it cost.
        y: The value.
        low: Lower end of its interval.
        high: Upper end.
        source: Whose it is, read out after its number; empty where all are of one kind.
        hollow: Drawn as a ring, for what colour alone would not tell from the others.
    """

    number: int | str
    css: str
    x: float
    y: float
    low: float
    high: float
    source: str = ""
    hollow: bool = False


@dataclass(frozen=True)
class Dot:
    """One point of a scatter chart.

    Attributes:
        x: Its place; on an axis of categories the number of its category.
        y: Its height.
        css: Its colour is that of the class `c-CSS`.
        name: Shown where the pointer rests on it.
        light: Drawn small and pale, for what is not quite comparable.
        ringed: Drawn large with a ring, to be found at one glance.
    """

    x: float
    y: float
    css: str
    name: str
    light: bool = False
    ringed: bool = False


@dataclass(frozen=True)
class Delta:
    """One row of a chart of differences, in points: its mean, both ends of its interval, and the single values."""

    name: str
    css: str
    value: float
    low: float
    high: float
    values: Sequence[float] = ()


@dataclass(frozen=True)
class Cell:
    """One cell of a confusion table.

    Attributes:
        count: Pictures.
        shade: How strongly it is coloured, in [0, 1].
    """

    count: int
    shade: float


def nice_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return about `count` round numbers within [low, high]: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Rounded to the step's own digits: 3 * 0.1 must not be written as 0.30000000000000004.
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(index * step, digits) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten within [low, high], with 2 and 5 times them where there are few; at least one number."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) >= 3:
            break
    # Within half a power of ten the round numbers of a linear axis lie closer.
    return ticks if len(ticks) >= 2 else nice_ticks(low, high, 4)


def _few_log_ticks(low: float, high: float) -> list[float]:
    """Return the ticks of a logarithmic x axis: seven labels have room side by side."""
    ticks = log_ticks(low, high)
    return ticks[:: 1 + (len(ticks) - 1) // 7]


def _write_log(tick: float) -> str:
    return words.learning_rate(tick) if tick < 0.01 else f"{tick:g}"


def series_of(history: Sequence[Mapping[str, Any]], key: str, name: str, css: str) -> Series:
    """Return a line over the epochs of a run, with a gap where an epoch has no figure.

    Args:
        history: Rows of `history.jsonl`, one an epoch.
        key: Which figure, such as `val/loss`.
        name: As in `Series`.
        css: As in `Series`.
    """
    values = [row.get(key) for row in history]
    return Series(
        name,
        css,
        [row.get("epoch", index + 1) for index, row in enumerate(history)],
        [math.nan if value is None else float(value) for value in values],
    )


def loss_is_logarithmic(losses: Sequence[Series]) -> bool:
    """Return whether losses over many decades, all of them positive, are to have a logarithmic axis."""
    known = [float(y) for one in losses for y in one.y if math.isfinite(y)]
    return bool(known) and min(known) > 0 and max(known) > _LOG_RATIO * min(known)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    write_y: Callable[[float], str],
    log_x: bool = False,
    log_y: bool = False,
    mark_x: tuple[float, str] | None = None,
    bars: Sequence[Bar] = (),
    whole_y: bool = False,
    height: float = 220.0,
) -> str:
    """Return a line chart as SVG; series without a finite point are left out.

    Args:
        series: The lines; their names stand at their right ends, so there is no legend to match colours with.
        title: Read out instead of the picture, followed by where each line starts and ends.
        x_label: Under the x axis.
        write_y: Turns a tick of the y axis into text.
        log_x: Logarithmic x axis, for x that are all positive.
        log_y: Logarithmic y axis, which is read out, too; points that are not positive are left out.
        mark_x: A place on the x axis to point out, and its label.
        bars: Intervals, drawn under the lines.
        whole_y: Whether y are whole numbers: no ticks between them.
        height: In units of 1/370 of the width.
    """
    lines = [(one, _usable(one, log_y)) for one in series]
    lines = [(one, points) for one, points in lines if np.isfinite(points[:, 1]).any()]
    if not lines:
        return ""
    every = [points[np.isfinite(points[:, 1])] for _, points in lines]
    every += [np.array([(bar.x, bar.low), (bar.x, bar.high)], dtype=np.float64) for bar in bars]
    if mark_x is not None:
        every.append(np.array([(mark_x[0], every[0][0, 1])], dtype=np.float64))  # it may lie beside the lines
    frame = _Frame.around(np.concatenate(every), height, log_x=log_x, log_y=log_y)
    parts = [_axes(frame, x_label, write_y, height, whole_y=whole_y)]
    for bar in bars:
        ends = f"M{frame.x(bar.x):.1f} {frame.y(bar.low):.1f}V{frame.y(bar.high):.1f}"
        parts.append(f'<path class="whisker c-{bar.css}" d="{ends}"/>')
    if mark_x is not None:
        parts.append(_mark(frame, *mark_x))
    labels = []
    for one, points in lines:
        if one.points:
            parts.append(_scatter(frame, one.css, points))
            continue
        parts.append(_polyline(frame, one.css, points))
        if one.name:
            last = points[np.isfinite(points[:, 1])][-1]
            labels.append((frame.y(last[1]), one))
    for y, one in _spread(labels, frame.bottom):
        x = frame.right + 7
        parts.append(f'<text class="label c-{one.css}" x="{x:.1f}" y="{y + 4:.1f}">{escape(one.name)}</text>')
    spoken = "; ".join(_say_line(one.name, points, write_y) for one, points in lines if one.name and not one.points)
    return _svg(_WIDTH, height, f"{title}{', logarithmic axis' * log_y}. {spoken}.", "".join(parts))


def scatter_chart(
    dots: Sequence[Dot],
    *,
    title: str,
    x_label: str,
    write_y: Callable[[float], str],
    log_x: bool = False,
    whole_x: bool = False,
    categories: Sequence[str] = (),
    height: float = 200.0,
) -> str:
    """Return a scatter chart as SVG; an empty text where there is no dot.

    Args:
        dots: The points; ringed ones are drawn last, so that nothing covers them.
        title: Read out instead of the picture, followed by the range of y.
        x_label: Under the x axis.
        write_y: Turns a tick of the y axis into text.
        log_x: Logarithmic x axis, for x that are all positive.
        whole_x: Whether x are whole numbers: no ticks between them.
        categories: Names along the x axis in place of numbers; each second, third, ... where not all have room.
        height: In units of 1/370 of the width.
    """
    if not dots:
        return ""
    points = np.array([(dot.x, dot.y) for dot in dots], dtype=np.float64)
    around = _Frame.around(points, height, log_x=log_x, log_y=False)
    if categories:
        low, high = -0.5, len(categories) - 0.5
        shown = range(0, len(categories), math.ceil(len(categories) / _MOST_CATEGORIES))
        x_ticks = [(float(place), shorten(categories[place], _TICK_LETTERS // len(shown))) for place in shown]
    else:
        air = 0.03 * (math.log10(around.x_high / around.x_low) if log_x else around.x_high - around.x_low)
        low = around.x_low / 10**air if log_x else around.x_low - air
        high = around.x_high * 10**air if log_x else around.x_high + air
        ticks = _few_log_ticks(low, high) if log_x else nice_ticks(low, high, 6)
        ticks = [tick for tick in ticks if not whole_x or tick == int(tick)]
        x_ticks = [(tick, _write_log(tick) if log_x else f"{tick:g}") for tick in ticks]
    frame = replace(around, x_low=low, x_high=high, right=_WIDTH - 12)
    parts = [_axes(frame, x_label, write_y, height, x_ticks)]
    for dot in sorted(dots, key=lambda one: (one.ringed, not one.light)):
        place = f'cx="{frame.x(dot.x):.1f}" cy="{frame.y(dot.y):.1f}"'
        named = f"<title>{escape(dot.name)}</title>"
        kind = "dot pale" if dot.light else "dot"
        parts.append(f'<circle class="{kind} c-{dot.css}" {place} r="{3 if dot.light else 4.5}">{named}</circle>')
        if dot.ringed:
            parts.append(f'<circle class="ring c-{dot.css}" {place} r="8.5">{named}</circle>')
    spoken = f"{len(dots)} points from {write_y(points[:, 1].min())} to {write_y(points[:, 1].max())}"
    return _svg(_WIDTH, height, f"{title}. {spoken}.", "".join(parts))


def _usable(one: Series, log_y: bool) -> Float64Array:
    """Return float64 (E, 2), x and y, with nan where there is nothing to draw."""
    points = np.stack([np.asarray(one.x, dtype=np.float64), np.asarray(one.y, dtype=np.float64)], axis=1)
    points[~np.isfinite(points[:, 1]), 1] = np.nan
    if log_y:
        points[~(points[:, 1] > 0), 1] = np.nan
    return points


def _say_line(name: str, points: Float64Array, write_y: Callable[[float], str]) -> str:
    known = points[np.isfinite(points[:, 1])]
    return f"{name} from {write_y(known[0, 1])} to {write_y(known[-1, 1])}"


@dataclass(frozen=True)
class _Frame:
    """Where data values lie in the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    bottom: float
    log_x: bool
    log_y: bool
    right: float = _WIDTH - _MARGIN_RIGHT

    @classmethod
    def around(cls, points: Float64Array, height: float, *, log_x: bool, log_y: bool) -> _Frame:
        """Return a frame with a little air above and below the points."""
        low, high = float(points[:, 1].min()), float(points[:, 1].max())
        if log_y:
            low, high = low / 1.15, high * 1.15
        else:
            air = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
            # Ticks are written with four digits: on a narrower axis several would be written alike.
            air = max(air, 0.002 * max(abs(low), abs(high)))
            # A loss or an accuracy is never negative: air must not pretend that it could be.
            low, high = (low - air if low < 0 else max(0.0, low - air)), high + air
        x_low, x_high = float(points[:, 0].min()), float(points[:, 0].max())
        if x_low == x_high:
            x_low, x_high = (x_low / 2, 2 * x_high) if log_x else (x_low - 0.5, x_high + 0.5)
        return cls(x_low, x_high, low, high, height - _MARGIN_BOTTOM, log_x, log_y)

    def x(self, value: float) -> float:
        low, high = self.x_low, self.x_high
        if self.log_x:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return _MARGIN_LEFT + (self.right - _MARGIN_LEFT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_low, self.y_high
        if self.log_y:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return self.bottom - (self.bottom - _MARGIN_TOP) * (value - low) / (high - low)


def _axes(
    frame: _Frame,
    x_label: str,
    write_y: Callable[[float], str],
    height: float,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    *,
    whole_y: bool = False,
) -> str:
    """Return grid lines, tick labels and the axis title; without ticks of its own the x axis counts epochs."""
    parts = []
    count = max(2, round(height / 36))
    y_ticks = log_ticks(frame.y_low, frame.y_high) if frame.log_y else nice_ticks(frame.y_low, frame.y_high, count)
    for tick in y_ticks:
        if whole_y and tick != int(tick):
            continue
        y = frame.y(tick)
        parts.append(f'<path class="grid" d="M{_MARGIN_LEFT:.1f} {y:.1f}H{frame.right:.1f}"/>')
        parts.append(
            f'<text x="{_MARGIN_LEFT - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(write_y(tick))}</text>'
        )
    if x_ticks is None and frame.log_x:
        x_ticks = [(tick, _write_log(tick)) for tick in _few_log_ticks(frame.x_low, frame.x_high)]
    elif x_ticks is None:
        # Epochs are whole: no ticks between them.
        ticks = nice_ticks(frame.x_low, frame.x_high, 6)
        x_ticks = [(tick, f"{tick:g}") for tick in ticks if tick == int(tick)]
    for tick, text in x_ticks:
        place = f'x="{frame.x(tick):.1f}" y="{frame.bottom + 15:.1f}"'
        shown = f"\N{MINUS SIGN}{text[1:]}" if tick < 0 and text.startswith("-") else text
        parts.append(f'<text {place} text-anchor="middle">{escape(shown)}</text>')
    parts.append(f'<path class="axis" d="M{_MARGIN_LEFT:.1f} {frame.bottom:.1f}H{frame.right:.1f}"/>')
    middle = (_MARGIN_LEFT + frame.right) / 2
    parts.append(f'<text x="{middle:.1f}" y="{frame.bottom + 30:.1f}" text-anchor="middle">{escape(x_label)}</text>')
    return "".join(parts)


def _mark(frame: _Frame, x_value: float, label: str) -> str:
    """Return a dashed upright line with its label on the side that has more room."""
    x = frame.x(x_value)
    side, anchor = (-5, "end") if x > (_MARGIN_LEFT + frame.right) / 2 else (5, "start")
    place = f'x="{x + side:.1f}" y="{_MARGIN_TOP - 3:.1f}" text-anchor="{anchor}"'
    return (
        f'<path class="mark" d="M{x:.1f} {_MARGIN_TOP:.1f}V{frame.bottom:.1f}"/>'
        f'<text class="mark-label" {place}>{escape(label)}</text>'
    )


def _polyline(frame: _Frame, css: str, points: Float64Array) -> str:
    """Return a line with gaps where y is nan; a point without neighbours becomes a dot."""
    path, dots, pen_down = [], [], False
    finite = np.isfinite(points[:, 1])
    for index, (x_value, y_value) in enumerate(points):
        if not finite[index]:
            pen_down = False
            continue
        x, y = frame.x(float(x_value)), frame.y(float(y_value))
        path.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
        alone = not pen_down and not (index + 1 < len(points) and finite[index + 1])
        if alone:
            dots.append(f'<circle class="dot c-{css}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
        pen_down = True
    return f'<path class="line c-{css}" d="{"".join(path)}"/>{"".join(dots)}'


def _scatter(frame: _Frame, css: str, points: Float64Array) -> str:
    """Return light points: one path of lines without a length, whose round ends are all there is of them."""
    known = points[np.isfinite(points[:, 1])]
    path = "".join(f"M{frame.x(float(x)):.1f} {frame.y(float(y)):.1f}h0" for x, y in known)
    return f'<path class="points c-{css}" d="{path}"/>'


def _spread(ends: list[tuple[float, Series]], bottom: float) -> list[tuple[float, Series]]:
    """Move labels apart that would cover each other, keeping their order and staying above the axis."""
    placed: list[tuple[float, Series]] = []
    for y, one in sorted(ends, key=lambda end: end[0]):
        placed.append((max(y, placed[-1][0] + _LABEL_GAP) if placed else y, one))
    ceiling = bottom
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = (min(placed[index][0], ceiling), placed[index][1])
        ceiling = placed[index][0] - _LABEL_GAP
    return placed


def interval_chart(rows: Sequence[Interval], *, title: str, chance: float) -> str:
    """Return accuracies with their intervals on one axis from below chance to 100 %, as SVG.

    Args:
        rows: One for each split, drawn from top to bottom.
        title: Read out instead of the picture, followed by the values.
        chance: Accuracy of guessing, marked where the axis reaches it.
    """
    lowest = min(row.low for row in rows)
    # Near the top, an axis from zero would press all values together; the marked ticks say where it starts.
    start = next((bound for bound in (0.95, 0.9, 0.8, 0.5) if lowest > bound + 0.2 * (1 - bound)), 0.0)
    left, right, row_height = 46.0, _WIDTH - 14, 24.0
    over = any(_LETTER_WIDTH * len(row.name) > left for row in rows)  # a stamped name has no room beside its bar
    if over:
        left, row_height = 8.0, 40.0
    bottom = 8 + row_height * len(rows)

    def place(value: float) -> float:
        return left + (right - left) * (value - start) / (1 - start)

    parts = []
    for tick in nice_ticks(start, 1.0, 6):
        x = place(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} 4V{bottom:.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15:.1f}" text-anchor="middle">{100 * tick:g}</text>')
    if chance > start:
        x = place(chance)
        parts.append(f'<path class="mark" d="M{x:.1f} 4V{bottom:.1f}"/>')
    for index, row in enumerate(rows):
        y = 8 + row_height * (index + (0.7 if over else 0.5))
        name_y = y - 14 if over else y + 4
        parts.append(f'<text class="label c-{row.css}" x="0" y="{name_y:.1f}">{escape(row.name)}</text>')
        # At least 3 units wide, so that a narrow interval is still seen as one.
        x_low, x_high = place(row.low), max(place(row.high), place(row.low) + 3)
        parts.append(f'<path class="whisker c-{row.css}" d="M{x_low:.1f} {y:.1f}H{x_high:.1f}"/>')
        parts.append(f'<circle class="dot c-{row.css}" cx="{place(row.value):.1f}" cy="{y:.1f}" r="4"/>')
    spoken = "; ".join(f"{row.name} {words.percent(row.value)} {words.interval((row.low, row.high))}" for row in rows)
    return _svg(_WIDTH, bottom + 22, f"{title}. {spoken}.", "".join(parts))


def delta_chart(rows: Sequence[Delta], *, title: str) -> str:
    """Return differences with their intervals around a line at zero, as SVG; an empty text where there is none.

    Args:
        rows: Drawn from top to bottom, each under its name; an interval that is not finite is not drawn.
        title: Read out instead of the picture, followed by the values.
    """
    if not rows:
        return ""
    ends = [x for row in rows for x in (row.low, row.high, row.value, *row.values) if math.isfinite(x)]
    reach = max(*(abs(x) for x in ends), 0.1)
    low, high = min(0.0, *ends) - 0.06 * reach, max(0.0, *ends) + 0.06 * reach
    left, right, row_height = 8.0, _WIDTH - 8, 40.0
    bottom = 6 + row_height * len(rows)

    def place(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    parts = []
    for tick in nice_ticks(low, high, 6):
        x = place(tick)
        kind = "mark" if tick == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{x:.1f} 4V{bottom:.1f}"/>')
        text = f"{tick:+g}".replace("-", "\N{MINUS SIGN}") if tick else "0"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15:.1f}" text-anchor="middle">{text}</text>')
    for index, row in enumerate(rows):
        top = 6 + row_height * index
        y = top + 27
        parts.append(f'<text class="label c-{row.css}" x="0" y="{top + 13:.1f}">{escape(shorten(row.name, 48))}</text>')
        if math.isfinite(row.low) and math.isfinite(row.high):
            parts.append(f'<path class="whisker c-{row.css}" d="M{place(row.low):.1f} {y:.1f}H{place(row.high):.1f}"/>')
        parts += [
            f'<circle class="dot pale c-{row.css}" cx="{place(one):.1f}" cy="{y:.1f}" r="3"/>' for one in row.values
        ]
        parts.append(f'<circle class="dot c-{row.css}" cx="{place(row.value):.1f}" cy="{y:.1f}" r="4.5"/>')
    spoken = "; ".join(f"{row.name} {row.value:+.1f} points" for row in rows)
    return _svg(_WIDTH, bottom + 22, f"{title}. {spoken}.", "".join(parts))


def cost_chart(
    spots: Sequence[Spot], *, title: str, x_label: str, write_y: Callable[[float], str], height: float = 220.0
) -> str:
    """Return values with their intervals over their cost, on a logarithmic axis, as SVG; nothing where there is none.

    Args:
        spots: The values; a cost that is not positive is left out.
        title: Read out instead of the picture, followed by the values.
        x_label: Under the x axis.
        write_y: Turns a tick of the y axis into text.
        height: In units of 1/370 of the width.
    """
    spots = [spot for spot in spots if spot.x > 0 and math.isfinite(spot.x)]
    if not spots:
        return ""
    ends = np.array([(x, y) for s in spots for x in (s.x / 2, s.x * 2) for y in (s.low, s.high)], dtype=np.float64)
    frame = _Frame.around(ends, height, log_x=True, log_y=False)
    parts = [_axes(frame, x_label, write_y, height)]
    taken = []
    for spot in spots:
        x, y, low, high = frame.x(spot.x), frame.y(spot.y), frame.y(spot.low), frame.y(spot.high)
        parts.append(f'<path class="line c-{spot.css}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
        kind = "dot hollow" if spot.hollow else "dot"
        parts.append(f'<circle class="{kind} c-{spot.css}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        taken += [(x - 1, high, x + 1, low), (x - 4, y - 4, x + 4, y + 4)]
    for spot in spots:
        box = _free_box(frame.x(spot.x), frame.y(spot.y), _LETTER_WIDTH * len(str(spot.number)), taken)
        taken.append(box)
        parts.append(f'<text class="label c-{spot.css}" x="{box[0]:.1f}" y="{box[3] - 2:.1f}">{spot.number}</text>')
    spoken = "; ".join(
        f"{spot.number}{f' ({spot.source})' if spot.source else ''}: {write_y(spot.y)} at {words.axis_number(spot.x)}"
        for spot in spots
    )
    return _svg(_WIDTH, height, f"{title}. {spoken}.", "".join(parts))


def _free_box(x: float, y: float, width: float, taken: Sequence[_Box]) -> _Box:
    """Return where a label beside a dot covers the least: to its right if that is free, else to its left, or shifted.

    Args:
        x: Middle of the dot.
        y: Middle of the dot.
        width: Of the label.
        taken: What is drawn already.
    """

    def covered(box: _Box) -> int:
        return sum(
            box[0] < right and left < box[2] and box[1] < bottom and top < box[3] for left, top, right, bottom in taken
        )

    boxes = []
    for shift in (0, -1, 1, -2, 2, -3, 3):
        top = y - _LETTER_HEIGHT / 2 + shift * _LETTER_HEIGHT
        boxes += [
            (left, top, left + width, top + _LETTER_HEIGHT)
            for left in (x + 7, x - 7 - width)
            if _MARGIN_LEFT <= left <= _WIDTH - width
        ]
    return min(boxes, key=covered)


def confusion_cells(confusion: Int64Array) -> list[list[Cell]]:
    """Return the cells of a confusion table with their shades.

    The diagonal is shaded by its share of the row; mistakes by their share relative to the largest mistake, with a
    square root, so that a mistake in a hundred can still be seen beside an accuracy of 99 %.

    Args:
        confusion: Counts int64 (K, K), rows true, columns predicted.
    """
    shades = _shades_of(confusion)
    return [
        [Cell(int(confusion[i, j]), float(shades[i, j])) for j in range(len(confusion))] for i in range(len(confusion))
    ]


def _shades_of(confusion: Int64Array) -> Float64Array:
    """Return float64 (K, K) in [0, 1]."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    wrong = shares * (1 - np.eye(len(confusion)))
    shades: Float64Array = np.sqrt(wrong / max(float(wrong.max(initial=0.0)), 1e-12))
    np.fill_diagonal(shades, shares.diagonal())
    return shades


def heat_map(confusion: Int64Array, class_names: Sequence[str]) -> str:
    """Return a confusion matrix of many classes as SVG: one picture for the cells, text for the names.

    Args:
        confusion: Counts int64 (K, K), rows true, columns predicted.
        class_names: K names; each second, third, ... is written where not all have room.
    """
    classes = len(confusion)
    shades = _shades_of(confusion)
    pixels = np.zeros((classes, classes, 4), dtype=np.uint8)  # RGBA
    pixels[..., :3] = _WRONG_RGB
    pixels[np.arange(classes), np.arange(classes), :3] = _RIGHT_RGB
    pixels[..., 3] = np.round(255 * shades)
    names = [shorten(name, 20) for name in class_names]
    letter = min(11.0, max(_SMALLEST_NAME, 0.8 * (_WIDEST_MAP - _WIDEST_NAMES) / classes))  # height, in px
    margin = min(_WIDEST_NAMES, 12 + _LETTER_OF_EM * letter * max(map(cell_len, names)))
    cell = min(_WIDEST_CELL, (_WIDEST_MAP - margin - 4) / classes)
    side = cell * classes
    parts = [
        f'<rect class="frame" x="{margin:.1f}" y="{margin:.1f}" width="{side:.1f}" height="{side:.1f}"/>',
        f'<image class="cells" x="{margin:.1f}" y="{margin:.1f}" width="{side:.1f}" height="{side:.1f}"'
        f' preserveAspectRatio="none" href="{png_data_uri(pixels)}"/>',
        f'<g style="--letter:{letter:.1f}px">',
    ]
    for index in range(0, classes, math.ceil(letter / cell)):
        text, middle = escape(names[index]), margin + cell * (index + 0.5)
        line = middle + 0.36 * letter
        parts.append(f'<text class="tiny" x="{margin - 4:.1f}" y="{line:.1f}" text-anchor="end">{text}</text>')
        parts.append(
            f'<text class="tiny" x="{line:.1f}" y="{margin - 4:.1f}"'
            f' transform="rotate(-90 {line:.1f} {margin - 4:.1f})">{text}</text>'
        )
    parts.append("</g>")
    spoken = (
        f"Confusion matrix of {classes} classes as a heat map, rows true, columns predicted; the tables list the most"
        " frequent confusions, metrics.json every cell"
    )
    return _svg(margin + side + 4, margin + side + 4, spoken, "".join(parts))


def shorten(text: str, most: int) -> str:
    """Return text of at most so many letters, with an ellipsis where some are left out; wide ones count as two."""
    if cell_len(text) <= most:
        return text
    while text and cell_len(text) >= most:
        text = text[:-1]
    return text + "…"


def _svg(width: float, height: float, spoken: str, inside: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(spoken)}"'
        f' style="--drawn-width:{width:.0f}px">{inside}</svg>'
    )

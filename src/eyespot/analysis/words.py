"""Numbers as people read them: per cents, counts, times, sizes; the same in the terminal and in the report.

Before this: metrics as fractions, seconds and bytes. After this: `verdict`, `cautions` and `report` use them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

MISSING = "–"


def percent(fraction: float | None) -> str:
    """Return a fraction in [0, 1] as `94.1 %`; never `100.0 %` or `0.0 %` for what is not exactly that.

    Closer to all or nothing than four digits can say it is `>99.9999 %` or `<0.0001 %`.
    """
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    return f"{_hundredths(fraction)} %"


def axis_percent(fraction: float) -> str:
    """Return a round fraction beside an axis as `60 %` or `0.05 %`: ticks that differ are written differently."""
    return f"{100 * fraction:.4g} %"


def axis_number(value: float) -> str:
    """Return a round loss or rate beside an axis with four digits, as `1.388`, `1e-5` or `1e6`: room is little."""
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e")


def points(difference: float) -> str:
    """Return the difference of two fractions, without its sign, as `4.6 points`."""
    text = f"{100 * abs(difference):.{_digits(difference)}f}"
    return f"{text} point{'' if text == '1.0' else 's'}"


def interval(bounds: tuple[float, float]) -> str:
    """Return both ends of an interval of fractions as `[93.6, 94.5]`, in per cent, as exact as `percent`."""
    low, high = bounds
    return f"[{_hundredths(low)}, {_hundredths(high)}]"


def signed_points(difference: float) -> str:
    """Return a difference of fractions as `+0.3 points` or `-1.2 points`."""
    difference = 0.0 if abs(difference) < 1e-12 else difference  # of two counts over n: rounding
    return f"{100 * difference:+.{_digits(difference)}f} points".replace("-", "\N{MINUS SIGN}")


def _digits(difference: float) -> int:
    """Return how many digits of a difference in points are written: what is there is not written as nothing."""
    size = abs(difference)
    return 1 if size <= 1e-12 or size >= 0.001 else max(2, math.ceil(-math.log10(100 * size)))


def in_range(low: float, high: float) -> tuple[float, float]:
    """Return both ends of an interval of fractions inside of [0, 1], which Student's may leave."""
    return max(0.0, low), min(1.0, high)


def mean_percent(mean: float, low: float, high: float) -> str:
    """Return a mean over seeds with its interval as `63.0 % [59.0, 66.9]`; alone where there is none (nan)."""
    return percent(mean) if math.isnan(low) else f"{percent(mean)} {interval(in_range(low, high))}"


def signed_interval(bounds: Sequence[float]) -> str:
    """Return both ends of a difference as `[-0.1, +0.7]`, in points; none lies beyond 100, which Student's may do.

    Where all seeds agree there is no spread to go by, and no interval (nan): then `with every seed`.
    """
    if math.isnan(bounds[0]):
        return "with every seed"
    ends = [0.0 if abs(bound) < 1e-12 else 100 * min(max(bound, -1.0), 1.0) for bound in bounds]
    digits = 2 if any(0 < abs(end) < 0.05 for end in ends) else 1  # which side of 0 decides what can be told
    return f"[{ends[0]:+.{digits}f}, {ends[1]:+.{digits}f}]".replace("-", "\N{MINUS SIGN}")


def p_value(p: float) -> str:
    """Return a p-value as `p = 0.03`, never as 0, and beside 0.05, which decides, on its own side of it."""
    if p < 0.001:
        return "p < 0.001"
    if f"{p:.3f}" == "0.050" and p != 0.05:
        return f"p = {p:.4f}" if f"{p:.4f}" != "0.0500" else f"p {'<' if p < 0.05 else '>'} 0.05"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def p_cell(p: float) -> str:
    """Return a p-value for a column of them: `0.03` or `< 0.001`."""
    return p_value(p).removeprefix("p = ").removeprefix("p ")


def _hundredths(fraction: float) -> str:
    """Return a fraction in per cent with as many digits as keep it from looking like all or nothing."""
    text = f"{100 * fraction:.1f}"
    if min(abs(fraction), abs(1 - fraction)) < 1e-9:  # rounding of a bound
        return text.replace("-0.0", "0.0")
    for digits in (2, 3, 4):
        if float(text) not in {0.0, 100.0}:
            return text
        text = f"{100 * fraction:.{digits}f}"
    return {0.0: "<0.0001", 100.0: ">99.9999"}.get(float(text), text)


def share(count: int, n: int) -> str:
    """Return a share of pictures with its interval, as `94.1 % [93.6, 94.5]`, or a dash where there are none."""
    # Every command imports this file: numpy must not come with it.
    from eyespot.evaluation.metrics import wilson_interval

    return f"{percent(count / n)} {interval(wilson_interval(count, n))}" if n else MISSING


def top5(figures: Mapping[str, Any]) -> str:
    """Return the top-5 accuracy of a split of `metrics.json` with its interval, or a dash under six classes."""
    value, n = figures.get("top5"), figures["n"]
    return MISSING if value is None else share(round(value * n), n)


def calibration_error(value: float | None, bounds: Sequence[float] | None, digits: int = 1, scale: float = 100) -> str:
    """Return a calibration error with its interval, in points as `0.8 [0.0, 1.9]`; runs of old have no interval."""
    if value is None:
        return MISSING
    ends = f" [{', '.join(decimal(scale * end, digits) for end in bounds)}]" if bounds else ""
    return f"{decimal(scale * value, digits)}{ends}"


def corruption_error(found: Mapping[str, Any]) -> str:
    """Return the mean corruption error of `robustness.json` with its interval, which grids of old do not have."""
    bounds = found.get("mean_corruption_error_ci95")
    return f"{percent(found['mean_corruption_error'])}{f' {interval(bounds)}' if bounds else ''}"


def corruption_reach(found: Mapping[str, Any]) -> str:
    """Return how far an interval in `robustness.json` reaches from its figure at most, as `2.7 points`."""
    cells = [one for row in (*found["corruptions"].values(), found["shifted"]) for one in row]
    return points(max(abs(end - one["top1"]) for one in (*cells, found["mirrored"]) for end in one["top1_ci95"]))


def calibration_figures(figures: Mapping[str, Any]) -> list[str]:
    """Return ECE and adaptive ECE with their intervals, Brier score and loss of a split of `metrics.json`."""
    errors = [calibration_error(figures.get(key), figures.get(f"{key}_ci95"), 4, 1) for key in ("ece", "adaptive_ece")]
    return [*errors, *(decimal(figures.get(key), 4) for key in ("brier", "nll_loss"))]


def whole(number: float) -> str:
    """Return a count as `10,000`."""
    return f"{round(number):,}"


def plural(number: int, one: str, many: str = "") -> str:
    """Return `1 picture` or `2 pictures`."""
    return f"{whole(number)} {one if number == 1 else many or one + 's'}"


def sentence(text: str) -> str:
    """Return a note with a capital letter and a full stop; nothing for nothing."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) or not text else '.'}"


def decimal(number: float | None, digits: int = 3) -> str:
    """Return a loss or score as `0.295` or `3,142.0`, or a dash where it was not measured."""
    return MISSING if number is None or not math.isfinite(number) else f"{number:,.{digits}f}"


def duration(seconds: float | None) -> str:
    """Return a time as `0.42 s`, `38.1 s`, `4 min 12 s` or `2 h 05 min`."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole_seconds = round(seconds)
    if whole_seconds < 3600:
        return f"{whole_seconds // 60} min {whole_seconds % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def minutes(number: float | None) -> str:
    """Return minutes, or seconds in a column of them, as `8.6`, and as `0.036` where one digit would leave nothing."""
    return (
        MISSING if number is None or not math.isfinite(number) else f"{number:.1f}" if number >= 1 else f"{number:#.2g}"
    )


def size(num_bytes: float | None) -> str:
    """Return a size as `184 MB`, in powers of ten as disks are sold."""
    if num_bytes is None:
        return MISSING
    number, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 999.5:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} {unit}" if unit == "B" or number >= 99.5 else f"{number:.1f} {unit}"


def rate(per_second: float | None) -> str:
    """Return a throughput as `5,310 pictures/s`."""
    if per_second is None or not math.isfinite(per_second):
        return MISSING
    return f"{whole(per_second)} pictures/s" if per_second >= 10 else f"{per_second:.1f} pictures/s"


def learning_rate(number: float) -> str:
    """Return a learning rate with two digits, as `0.012` or `1e-7`."""
    return f"{number:.2g}".replace("e-0", "e-")


def spell(value: Any) -> str:
    """Return a setting's value in few characters, as `0.05`, `true` or `[64, 128]`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        typed = f"{value:g}"  # as somebody wrote it: 0.9999 is another decay than 1
        return typed if float(typed) == value else f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(spell, value))}]"
    return str(value)


def moment(iso: str) -> str:
    """Return an ISO 8601 time with its zone as `2026-03-01 14:03 UTC`; other text comes back as it is."""
    try:
        time = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return time.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC") if time.tzinfo else iso


def unknown_rule(rule: Mapping[str, Any]) -> str:
    """Return what the threshold for unknown pictures was set for, with the n and the split it was set on."""
    return (
        f"set on {whole(rule['n'])} val pictures so that of pictures like them at most {percent(rule['fraction'])} "
        "are, on average"
    )


def accuracy_on_the_rest(unknown: Mapping[str, Any]) -> str:
    """Return `; accuracy on the other 9,500: 92.0 % [91.4, 92.5]` of the figures on unknown pictures; "" of none."""
    if not unknown["accepted"]:
        return ""
    accuracy = f"{percent(unknown['accepted_top1'])} {interval(unknown['accepted_top1_ci95'])}"
    return f"; accuracy on the other {whole(unknown['accepted'])}: {accuracy}"

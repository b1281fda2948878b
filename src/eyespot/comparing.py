"""Comparing runs: read them, show them, fetch the pictures on which they disagree.

Before this: finished run folders. After this: whoever chooses between them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eyespot.analysis import words
from eyespot.analysis.compare import Comparison, compare_runs
from eyespot.arrays import Int64Array, UInt8Array
from eyespot.data.dataset import PackedDataset
from eyespot.errors import DataError, EyespotError, RunError, UsageError, printable
from eyespot.files import checked_page
from eyespot.opening import Observer, checked_split, open_for, pack_data
from eyespot.runs import Run
from eyespot.terminal import Terminal, add_row, plain_table, print_table

if TYPE_CHECKING:
    from eyespot.analysis.comparison_page import Flips
    from eyespot.data.splits import Splits

# Pictures for each direction of a pair, and pairs of the first run with another, so that the page stays small.
_MOST_FLIPS = 12
_MOST_RIVALS = 4


def compare(
    *runs: str | os.PathLike[str],
    out: str | Path | None = None,
    split: str | None = None,
    observer: Observer | None = None,
) -> Comparison:
    """Compare finished runs on the same pictures.

    Args:
        runs: Two or more run folders.
        out: Where to write the page, a file that ends in .html; None writes none.
        split: test or val; test where every run has it, else val.
        observer: Told about what happens.

    Raises:
        UsageError: Fewer than two runs, a list of them, a run twice, another split or ending.
        RunError: A folder is no run, not finished or damaged, or the page cannot be written.
        DataError: The runs were measured on different pictures.
    """
    from eyespot.analysis.comparison_page import write_comparison

    for run in runs:
        if not isinstance(run, (str, os.PathLike)):
            remedy = "give run folders one by one: compare('runs/a', 'runs/b')"
            raise UsageError(f"a {type(run).__name__} where a run folder is needed", remedy=remedy)
    page = None if out is None else checked_page(out)
    found = compare_runs(runs, split=split)
    if page is not None:
        flips, reason = _collect_flips(found, observer or Terminal(quiet=True))
        write_comparison(found, page, flips=flips, no_flips=reason)
    return found


def _collect_flips(found: Comparison, watcher: Observer) -> tuple[list[Flips], str]:
    """Return pictures on which the first run and each other disagree, and why there are none, in a sentence."""
    from eyespot.analysis.comparison_page import Flip, Flips

    places: list[tuple[int, int, Int64Array]] = []
    rivals = min(len(found.runs) - 1, _MOST_RIVALS)
    for other in range(1, rivals + 1):
        for right, wrong in ((0, other), (other, 0)):
            flipped = np.flatnonzero(found.runs[right].right & ~found.runs[wrong].right)
            places.append((right, wrong, flipped))
    if not any(len(flipped) for _, _, flipped in places):
        if rivals < len(found.runs) - 1:
            first = found.runs[0].letter
            return [], f"None of them between {first} and the next {rivals}; the table above counts every pair."
        return [], "There are none: every picture is named right by all of these runs, or wrong by all of them."
    shown = [_spread_evenly(flipped) for _, _, flipped in places]
    pixels, reason = _read_pictures(found, sorted({int(index) for indices in shown for index in indices}), watcher)
    flips = []
    for (right, wrong, flipped), indices in zip(places, shown, strict=True):
        letters = found.runs[right].letter, found.runs[wrong].letter
        pictures = [
            Flip(
                pixels[int(index)],
                _class_name(found, int(found.labels[index])),
                _class_name(found, int(found.runs[wrong].preds[index])),
                found.ids[index],
            )
            for index in indices
            if int(index) in pixels
        ]
        flips.append(Flips(*letters, len(flipped), pictures))
    return flips, reason


def _spread_evenly(indices: Int64Array) -> Int64Array:
    """Return a few of them, evenly: data that are sorted by class show every class."""
    if len(indices) <= _MOST_FLIPS:
        return indices
    return indices[np.linspace(0, len(indices) - 1, _MOST_FLIPS).astype(np.int64)]


def _class_name(found: Comparison, label: int) -> str:
    return found.class_names[label] if label < len(found.class_names) else f"class {label}"


def _read_pictures(found: Comparison, indices: list[int], watcher: Observer) -> tuple[dict[int, UInt8Array], str]:
    """Return the pixels uint8 (H, W, C) of some pictures from the first run whose data are here; nothing is fetched."""
    reason = ""
    for compared in found.runs:
        try:
            packed, splits = _data_at_hand(Run.open(compared.path), watcher)
            split = checked_split(found.split)
            place = {one: index for index, one in enumerate(splits.ids(packed, split))}
            positions = np.array([place[found.ids[index]] for index in indices], dtype=np.int64)
        except (EyespotError, KeyError) as error:
            reason = reason or f"The pictures cannot be shown: {error}."
            continue
        from eyespot.training.prepare import read_positions

        return dict(zip(indices, read_positions(packed, splits, split, positions), strict=True)), ""
    return {}, reason


def _data_at_hand(run: Run, watcher: Observer) -> tuple[PackedDataset, Splits]:
    """Return a run's data and its division, where they are on this machine.

    Raises:
        EyespotError: They are not, or they have changed.
    """
    from eyespot.data.finding import find_published
    from eyespot.data.published import DIGITS, PUBLISHED
    from eyespot.data.splits import Splits

    data = run.provenance.get("data")
    if not data:
        raise RunError("the run does not say its data", where=run.path)
    published = PUBLISHED.get(str(data))
    if published is not None and published is not DIGITS and find_published(published) is None:
        raise DataError(f"{data} is not on this machine", remedy=f"eyespot data prefetch {data}")
    packed = pack_data(open_for(run.config, str(data), watcher), run.config, watcher)
    return packed, Splits.load(run.path / "split.json", packed)


def print_comparison(found: Comparison) -> None:
    """Print the table, the sentences and the notes."""
    columns = ("", "run", "seed>", f"top-1 on {found.split}>", "[95 %]", "loss>", "ECE (points) [95 %]>", "train gap>")
    table = plain_table(*columns, "minutes>", "parameters>", "pictures/s>", "points/min>")
    for run in found.runs:
        figures = (
            words.percent(run.top1),
            words.interval((run.low, run.high)),
            words.decimal(run.nll_loss),
            words.calibration_error(run.ece, run.ece_ci95),
            words.MISSING if run.gap is None else words.signed_points(run.gap).removesuffix(" points"),
            words.minutes(run.minutes),
            words.MISSING if run.parameters is None else words.whole(run.parameters),
            words.MISSING if run.images_per_second is None else words.whole(run.images_per_second),
            words.decimal(run.points_per_minute, 1),
        )
        add_row(table, run.letter, run.name, str(run.seed), *figures)
    print_table(table)
    print(f"n = {words.whole(found.n)} {found.split} pictures, the same for every run")
    for group in found.groups:
        if group.top1.n > 1:
            print(printable(group.sentence))
    sentences = [pair.sentence for pair in found.group_pairs] + [pair.sentence for pair in found.pairs]
    for sentence in [*sentences, *(f"note: {note}" for note in found.notes)]:
        print(printable(sentence))

"""Comparing runs: read them, show them, fetch the pictures on which they disagree.

Before this: finished run folders. After this: whoever chooses between them.
"""

from __future__ import annotations

from pathlib import Path

from eyespot.analysis import words
from eyespot.analysis.compare import Comparison, compare_runs
from eyespot.terminal import add_row, plain_table, print_table, printable


def compare(*runs: str | Path, split: str | None = None) -> Comparison:
    """Compare finished runs on the same pictures.

    Args:
        runs: Two or more run folders.
        split: test or val; test where every run has it, else val.

    Raises:
        UsageError: Fewer than two runs, a run twice, another split.
        RunError: A folder is no run, not finished, or damaged.
        DataError: The runs were measured on different pictures.
    """
    return compare_runs(runs, split=split)


def print_comparison(found: Comparison) -> None:
    """Print the table, the sentences and the notes."""
    columns = ("", "run", "seed>", f"top-1 on {found.split}>", "[95 %]", "loss>", "ECE>", "train gap>")
    table = plain_table(*columns, "minutes>", "parameters>", "pictures/s>", "points/min>")
    for run in found.runs:
        figures = (
            words.percent(run.top1),
            words.interval((run.low, run.high)),
            words.decimal(run.nll_loss),
            words.decimal(None if run.ece is None else 100 * run.ece, 1),
            words.MISSING if run.gap is None else f"{100 * run.gap:+.1f}",
            words.decimal(run.minutes, 1),
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

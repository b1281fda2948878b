"""What people see of an ablation on a terminal: the table, and a sentence for each change."""

from __future__ import annotations

import math

from eyespot.analysis import words
from eyespot.analysis.ablation import Ablation, Effect
from eyespot.analysis.ablation_page import describe_level, lead
from eyespot.errors import printable
from eyespot.terminal import Terminal, add_row, plain_table, print_table


class AblationTerminal(Terminal):
    """A terminal that remembers the folder, to say how an interrupted ablation goes on."""

    folder = ""

    def __enter__(self) -> AblationTerminal:
        return self

    def on_message(self, text: str) -> None:
        """Show a sentence."""
        if text.startswith("folder: "):
            self.folder = text.removeprefix("folder: ")
        super().on_message(text)


def print_ablation(found: Ablation) -> None:
    """Print the table, the answer and the notes."""
    table = plain_table(
        "change", f"top-1 on {found.split} [95 %]>", "difference>", "[95 %]", "p, Holm>", "pictures ±>", "training>"
    )
    for effect in [found.baseline, *found.effects]:
        style = None if not effect.is_told else "green" if effect.difference.mean > 0 else "red"
        add_row(table, effect.title, *_cells(effect), style=style)
    print_table(table)
    if found.n:
        pictures = f"n = {words.whole(found.n)} {found.split} pictures, the same for every run"
        print(f"{pictures}; ± standard deviation over seeds")
    print(printable(lead(found)))
    for effect in found.effects:
        if effect.sentence:
            print(printable(effect.sentence))
        if effect.reason and effect.reason not in effect.sentence:
            print(printable(f"{effect.title}: {effect.reason}"))
    for note in found.notes:
        print(printable(f"note: {note}"))


def _cells(effect: Effect) -> tuple[str, ...]:
    if not effect.seeds:
        return (effect.reason, "", "", "", "", "")
    level = describe_level(effect)
    minutes = words.duration(None if effect.minutes is None else 60 * effect.minutes)
    if not effect.deltas:
        return (level, "", "", "", "", minutes)
    found = effect.difference
    interval = words.signed_interval((found.low, found.high)) if math.isfinite(found.low) else words.MISSING
    p = words.p_cell(effect.p_holm)
    return (level, words.signed_points(found.mean), interval, p, f"{100 * effect.picture_error:.2f}", minutes)

"""The mistakes of published experiments by name: made only where a recipe asks aloud, and stamped on every number.

Before this: nothing. After this: `config` takes the names, `data.planting` and `training.prepare` make the mistakes,
and `finishing` stamps the figures that they spoil. An ordinary run has none, and each needs a setting that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

MistakeName: TypeAlias = Literal[
    "train-on-test", "select-on-test", "augmented-val", "wrong-preprocessing", "linear-stack"
]


@dataclass(frozen=True)
class Mistake:
    """One way in which a publication fooled itself.

    Attributes:
        spoils: The splits whose figures are worth nothing by it, or less than they seem.
        stamp: Stands before every figure of these splits.
        text: What was done, and what it does to the figures.
    """

    spoils: tuple[str, ...]
    stamp: str
    text: str


MISTAKES: Mapping[str, Mistake] = {
    "train-on-test": Mistake(
        ("val", "test"),
        "leaked",
        "The network was trained on the very test pictures that it is measured on: the figure says what it remembers.",
    ),
    "select-on-test": Mistake(
        ("val", "test"),
        "selected on test",
        "The val pictures are the test pictures: the epoch was chosen on them, so their figure is the best of many.",
    ),
    "augmented-val": Mistake(
        (),
        "augmented val",
        "While it was trained, val was measured on augmented pictures: its curve is that of harder pictures, and the "
        "epoch was chosen on it. The figures of the splits are of pictures as they are.",
    ),
    "wrong-preprocessing": Mistake(
        ("train", "val", "test"),
        "wrong preprocessing",
        "The backbone was given pixels on another scale than the one that its weights were trained with.",
    ),
    "linear-stack": Mistake(
        ("train", "val", "test"),
        "linear layers only",
        "The hidden layers of the head have no activation: together they can do no more than one linear layer.",
    ),
}


def flaw_of(mistakes: Sequence[str], split: str) -> str:
    """Return what must be said before a figure of a split, such as `leaked`; empty where nothing spoils it."""
    return ", ".join(MISTAKES[name].stamp for name in mistakes if split in MISTAKES[name].spoils)


def stamped(figures: Mapping[str, Any], mistakes: Sequence[str], split: str) -> dict[str, Any]:
    """Return the figures of a split with the stamp that they must carry, under `flaw`."""
    flaw = flaw_of(mistakes, split)
    return {**figures, "flaw": flaw} if flaw else dict(figures)

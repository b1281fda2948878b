"""The report's panel "why": heat maps of the surest mistakes, and of one right answer of each of some classes.

Before this: the logits of the measured split. After this: `report`. It costs seconds, and is left out with a reason
where it would cost more than a few per cent of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from eyespot.analysis import words
from eyespot.analysis.gallery import describe_check
from eyespot.analysis.heatmaps import check_maps, heat_maps, summarise_checks
from eyespot.analysis.overlays import lay_over, shown_picture
from eyespot.arrays import Float32Array, Int64Array, UInt8Array
from eyespot.errors import EyespotError
from eyespot.evaluation.metrics import softmax
from eyespot.evaluation.predictor import Predictor

_MISTAKES, _MOST_RIGHT = 8, 20
_DRAWS = 4
_BATCH = 8
_MOST_SHARE, _ALWAYS_SECONDS = 0.03, 10.0  # of the training time; so much is never too much


class WhyPicture(NamedTuple):
    """One answer with what speaks for it.

    Attributes:
        shown: uint8 (H, W, 3), the picture.
        laid: uint8 (H, W, 3), the picture with its heat map.
        true_name: Its class.
        predicted_name: The answer, which the map explains.
        prob: Its probability, 0 to 1.
        told: The check in words.
    """

    shown: UInt8Array
    laid: UInt8Array
    true_name: str
    predicted_name: str
    prob: float
    told: str


@dataclass(frozen=True)
class Why:
    """The whole panel.

    Attributes:
        mistakes: The surest wrong answers, the surest first.
        right: The surest right answer of each class, of at most 20 classes.
        num_classes: K.
        note: The check in one sentence, or why there is no panel.
    """

    mistakes: tuple[WhyPicture, ...] = ()
    right: tuple[WhyPicture, ...] = ()
    num_classes: int = 0
    note: str = ""


def collect_why(
    predictor: Predictor,
    logits: Float32Array,
    labels: Int64Array,
    read_pixels: Callable[[Int64Array], UInt8Array],
    *,
    train_seconds: float,
) -> Why:
    """Return the panel for a measured split.

    A network that Grad-CAM cannot explain, or a panel that fails in any way, must not stop a run from being finished:
    the reason is said in the note.

    Args:
        predictor: The trained model.
        logits: float32 (N, K), calibrated (divided by the predictor's temperature): the probability shown with an
            answer is then the one that `predict` says, and that the check of its map begins with, but for the check's
            float32.
        labels: int64 (N,).
        read_pixels: Takes indices int64 (M,) and returns their pixels uint8 (M, S, S, C).
        train_seconds: What the run took, to say what is too much.
    """
    probs = softmax(logits)
    preds, sureness = probs.argmax(axis=1), probs.max(axis=1)
    order = np.argsort(-sureness, kind="stable")
    wrong = order[preds[order] != labels[order]][:_MISTAKES]
    first: dict[int, int] = {}
    for place in order[preds[order] == labels[order]].tolist():
        first.setdefault(int(labels[place]), place)
    right = [first[label] for label in sorted(first)][:_MOST_RIGHT]
    places = np.array([*wrong.tolist(), *right], dtype=np.int64)
    if not len(places):
        return Why()
    targets = preds[places]
    limit = max(_ALWAYS_SECONDS, _MOST_SHARE * train_seconds)
    try:
        pixels = read_pixels(places)
        found: list[WhyPicture] = []
        checks = []
        started = time.perf_counter()
        for start in range(0, len(places), _BATCH):
            part = slice(start, start + _BATCH)
            batch, chosen = torch.from_numpy(pixels[part].copy()).permute(0, 3, 1, 2), torch.from_numpy(targets[part])
            heat = heat_maps(predictor, batch, chosen)
            checked = check_maps(predictor, batch, chosen, heat, draws=_DRAWS)
            checks += checked
            for number, check in enumerate(checked):
                shown = shown_picture(pixels[start + number])
                laid = lay_over(shown, heat[number], (0.0, 0.0, 1.0, 1.0))
                place = places[start + number]
                true, said = predictor.class_names[labels[place]], predictor.class_names[preds[place]]
                found.append(WhyPicture(shown, laid, true, said, float(sureness[place]), describe_check(check)))
            seconds = time.perf_counter() - started
            if seconds > limit and len(found) < len(places):
                told = f"it took {words.duration(seconds)} for {words.plural(len(found), 'picture')}"
                told += ", more than a few per cent of the training; eyespot explain RUN PICTURE draws them at any time"
                return Why(note=f"Not drawn: {told}.")
    except Exception as error:  # whatever it is, hours of training are behind it and the report is still to be written
        reason = error.what if isinstance(error, EyespotError) else _described(error)
        return Why(note=f"Not drawn: {reason}.")
    right_ones = tuple(found[len(wrong) :])
    return Why(tuple(found[: len(wrong)]), right_ones, len(predictor.class_names), summarise_checks(checks))


def _described(error: Exception) -> str:
    """Return what failed in one line."""
    told = str(error).partition("\n")[0][:160].rstrip(".")
    return f"it failed ({type(error).__name__}{': ' if told else ''}{told})"


def panel(why: Why, uri: Callable[[UInt8Array], str]) -> dict[str, object] | None:
    """Return what the page shows; None where there is nothing."""
    if not (why.note or why.mistakes or why.right):
        return None

    def shown(pictures: Sequence[WhyPicture]) -> list[dict[str, str]]:
        return [
            {
                "src": uri(one.shown),
                "heat": uri(one.laid),
                "true": one.true_name,
                "predicted": one.predicted_name,
                "prob": words.percent(one.prob),
                "told": one.told,
            }
            for one in pictures
        ]

    of = "each class" if len(why.right) == why.num_classes else f"{len(why.right)} of {why.num_classes:,} classes"
    groups = (("The surest mistakes", why.mistakes), (f"A right answer of {of}", why.right))
    return {"groups": [(title, shown(pictures)) for title, pictures in groups if pictures], "note": why.note}

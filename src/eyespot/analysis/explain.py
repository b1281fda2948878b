"""Why a picture got its answer: heat maps with their check, and the training pictures that are nearest to the model.

Before this: a `Predictor` and pictures. After this: `gallery` shows it, and Python callers get it as arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from eyespot.analysis.heatmaps import MapCheck, Method, check_maps, heat_maps
from eyespot.analysis.overlays import lay_over, shown_picture
from eyespot.arrays import Float32Array, UInt8Array
from eyespot.data.pictures import Picture, decode_any
from eyespot.data.resizing import RowFormat
from eyespot.errors import BadImageError, UsageError
from eyespot.evaluation.predictor import Prediction, Predictor
from eyespot.evaluation.views import Views

_BATCH = 16
_CLASSES = 5  # named for each picture


@dataclass(frozen=True)
class Neighbour:
    """A training picture near to the one explained.

    Attributes:
        sample_id: Where it is.
        label: Its class.
        similarity: Cosine of the angle between both pictures' features before the classifier, -1 to 1.
        pixels: uint8 (S, S, C), as the model gets it.
    """

    sample_id: str
    label: str
    similarity: float
    pixels: UInt8Array = field(repr=False)


@dataclass(frozen=True, eq=False)  # arrays have no plain equality
class Explanation:
    """What speaks for one answer.

    Attributes:
        prediction: The answer; its `error` says why there is none, and then there is nothing else.
        target: The class that the maps explain.
        shown: uint8 (H, W, 3), the picture at the size of a page.
        box: Left, top, right, bottom of the square that the model saw, as shares of the picture's sides.
        heat: By method, float32 (S, S) in [0, 1]: over the square that the model saw.
        checks: By method; None where a map is empty.
        neighbours: The nearest first.
    """

    prediction: Prediction
    target: str = ""
    shown: UInt8Array | None = field(default=None, repr=False)
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    heat: Mapping[str, Float32Array] = field(default_factory=dict, repr=False)
    checks: Mapping[str, MapCheck | None] = field(default_factory=dict)
    neighbours: tuple[Neighbour, ...] = ()

    def overlay(self, method: str) -> UInt8Array:
        """Return the picture with the map of a method over it, uint8 (H, W, 3).

        Raises:
            UsageError: There is no such map.
        """
        if self.shown is None or method not in self.heat:
            raise UsageError(
                f"no {method} map of {self.prediction.source} is kept",
                remedy="explain fewer pictures at once, with this method",
            )
        return lay_over(self.shown, self.heat[method], self.box)

    def without_arrays(self) -> Explanation:
        """Return the same without pixels and maps, which take about a megabyte a picture."""
        none = np.zeros((0, 0, 3), np.uint8)
        neighbours = tuple(replace(one, pixels=none) for one in self.neighbours)
        return replace(self, shown=None, heat={}, neighbours=neighbours)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values: the prediction's, the class explained, checks and neighbours; no pixels."""
        return {
            **self.prediction.as_dict(),
            "explained": self.target or None,
            "checks": {
                method: None if check is None else {**vars(check), "passed": check.is_passed}
                for method, check in self.checks.items()
            },
            "neighbours": [
                {"id": one.sample_id, "label": one.label, "similarity": one.similarity} for one in self.neighbours
            ],
        }


@dataclass(frozen=True)
class TrainFeatures:
    """The training pictures as the classifier sees them.

    Attributes:
        features: float32 (N, D), rows of length 1.
        labels: N class names.
        ids: N sample ids.
        read_pixels: Takes places int64 (M,) and returns uint8 (M, S, S, C).
    """

    features: Float32Array
    labels: Sequence[str]
    ids: Sequence[str]
    read_pixels: Callable[[Any], UInt8Array]

    def nearest(self, features: Float32Array, count: int) -> list[tuple[Neighbour, ...]]:
        """Return the nearest training pictures of each row of features (B, D)."""
        found = []
        for row in features @ self.features.T:
            best = np.argsort(-row, kind="stable")[:count]
            pixels = self.read_pixels(best)
            found.append(
                tuple(
                    Neighbour(self.ids[place], self.labels[place], float(row[place]), picture)
                    for place, picture in zip(best.tolist(), pixels, strict=True)
                )
            )
        return found


def features_of(predictor: Predictor, pixels: torch.Tensor) -> Float32Array:
    """Return what the classifier reads, float32 (B, D) with rows of length 1, of pixels uint8 (B, C, S, S)."""
    model: Any = predictor.model
    with torch.inference_mode():
        images = predictor.transform(pixels.to(predictor.plan.device))
        with predictor.plan.autocast():
            vectors = model.forward_head(model.forward_features(images), pre_logits=True)
        return np.asarray(F.normalize(vectors.float(), dim=1).cpu().numpy())


def explain_pictures(
    predictor: Predictor,
    pictures: Iterable[tuple[str, Picture]],
    *,
    methods: Sequence[Method] = ("gradcam",),
    target: int | None = None,
    train: TrainFeatures | None = None,
    neighbours: int = 0,
    draws: int = 8,
    seed: int = 0,
    views: Views | None = None,
    top_k: int = _CLASSES,
) -> list[Explanation]:
    """Return an explanation for each picture, in their order; a bad picture has its reason in `prediction.error`.

    Args:
        predictor: The model.
        pictures: Name and picture, as for `Predictor.predict`.
        methods: Of the heat maps.
        target: The class to explain; None explains the answer.
        train: Where neighbours are looked for.
        neighbours: How many of them.
        draws: Random places in the check of each map.
        seed: Of those places.
        views: Test-time views of the answer, which is what the maps and their check explain; None takes the model's
            own.
        top_k: How many classes an answer lists.

    Raises:
        MissingExtraError: captum is not installed, for the methods other than `gradcam`.
        ModelError: The network has no layer with places in it.
        UsageError: Something that is no picture.
    """
    asked = _Asked(methods, target, train, neighbours, draws, seed, views, top_k)
    form = predictor.info.input.row_format
    found: list[Explanation] = []
    waiting: list[_Waiting] = []

    def flush() -> None:
        found.extend(_explained(predictor, waiting, asked))
        waiting.clear()

    for name, picture in pictures:
        try:
            waiting.append(_Waiting.of(name, decode_any(picture, predictor.info.input), form))
        except BadImageError as error:
            flush()
            found.append(Explanation(Prediction(name, (), error.what)))
        if len(waiting) == _BATCH:
            flush()
    flush()
    return found


@dataclass(frozen=True)
class _Asked:
    """What `explain_pictures` was asked for; its arguments."""

    methods: Sequence[Method]
    target: int | None
    train: TrainFeatures | None
    neighbours: int
    draws: int
    seed: int
    views: Views | None
    top_k: int


class _Waiting(NamedTuple):
    """What is needed of a decoded picture; at its own size it may have hundreds of megabytes.

    Attributes:
        name: As it was given.
        square: uint8 (S, S, C), as the model gets it.
        shown: uint8 (H, W, 3), at the size of a page.
        box: As in `Explanation`.
    """

    name: str
    square: UInt8Array
    shown: UInt8Array
    box: tuple[float, float, float, float]

    @classmethod
    def of(cls, name: str, pixels: UInt8Array, form: RowFormat) -> _Waiting:
        height, width = pixels.shape[:2]
        left, top, right, bottom = form.seen_box(width, height)
        box = (left / width, top / height, right / width, bottom / height)
        return cls(name, form.square(pixels).copy(), shown_picture(pixels), box)


def _explained(predictor: Predictor, waiting: Sequence[_Waiting], asked: _Asked) -> list[Explanation]:
    """Return the explanations of one batch."""
    if not waiting:
        return []
    squares = [one.square for one in waiting]
    pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)  # (B, C, S, S)
    answers = predictor.predict_pixels(squares, top_k=asked.top_k, views=asked.views)
    places = {name: place for place, name in enumerate(predictor.class_names)}
    chosen = torch.tensor([places[answer.label or ""] if asked.target is None else asked.target for answer in answers])
    heat = {method: heat_maps(predictor, pixels, chosen, method=method, views=asked.views) for method in asked.methods}
    checks = {
        method: check_maps(predictor, pixels, chosen, maps, draws=asked.draws, seed=asked.seed, views=asked.views)
        for method, maps in heat.items()
    }
    near: list[tuple[Neighbour, ...]] = [()] * len(waiting)
    if asked.train is not None and asked.neighbours:
        near = asked.train.nearest(features_of(predictor, pixels), asked.neighbours)
    return [
        Explanation(
            prediction=replace(answer, source=one.name),
            target=predictor.class_names[int(chosen[number])],
            shown=one.shown,
            box=one.box,
            heat={method: maps[number] for method, maps in heat.items()},
            checks={method: listed[number] for method, listed in checks.items()},
            neighbours=near[number],
        )
        for number, (one, answer) in enumerate(zip(waiting, answers, strict=True))
    ]

"""What the server asks for answers: a model behind two functions, one that decodes and one that computes.

Before this: a run, a bundle or an exported file. After this: `batching` puts pictures of many requests together.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

from eyespot.data.dataset import UInt8Array
from eyespot.evaluation.predictor import Prediction, Predictor, load_predictor, pixels_of


class Engine(Protocol):
    """A model that answers. `decode` is called in several threads at once, `predict` in one."""

    def decode(self, data: bytes) -> UInt8Array:
        """Return the pixels uint8 (S, S, C) of a picture file.

        Raises:
            BadImageError: It is not a picture that can be decoded.
        """

    def predict(self, batch: Sequence[UInt8Array], *, top_k: int) -> list[Prediction]:
        """Return an answer for each picture, uint8 (S, S, C)."""

    def describe(self) -> dict[str, Any]:
        """Return what `GET /v1/model` says about the model, as JSON values."""


class TorchEngine:
    """The model of a run or bundle, in the very code of `eyespot predict`.

    Args:
        predictor: The model.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def decode(self, data: bytes) -> UInt8Array:
        """Return the pixels of a picture file; see `Engine.decode`."""
        return pixels_of(data, self._predictor.info.input)

    def predict(self, batch: Sequence[UInt8Array], *, top_k: int) -> list[Prediction]:
        """Return an answer for each picture; see `Engine.predict`."""
        return self._predictor.predict_pixels(batch, top_k=top_k)

    def describe(self) -> dict[str, Any]:
        """Return what is known of the model; see `Engine.describe`."""
        info = self._predictor.info
        values = info.model_dump(mode="json", include=set(_TOLD))
        plan = self._predictor.plan
        return {"engine": f"torch, {plan.device}, {plan.precision}", "explain": False, **values}


_TOLD = (
    *("architecture", "num_classes", "class_names", "input", "eval_transform", "views", "temperature"),
    *("metrics", "pretrained", "provenance", "eyespot_version", "weights_sha256"),
)


def open_engine(model: str | os.PathLike[str], *, device: str = "auto") -> Engine:
    """Return the engine for a run or a bundle.

    Args:
        model: Run folder, or bundle folder.
        device: Where to compute.

    Raises:
        RunError: There is no model.
        CheckpointError: The bundle is damaged or foreign.
        UsageError: The device is unknown or not on this machine.
    """
    return TorchEngine(load_predictor(model, device=device))

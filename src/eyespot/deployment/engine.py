"""What the server asks for answers: a model that decodes pictures, computes, and explains.

Before this: a run, a bundle or an exported file. After this: `batching` puts pictures of many requests together.

ONNX Runtime answers where it can, in float32 on every processor. torch is the very code of `eyespot predict`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np

from eyespot import __version__
from eyespot.arrays import UInt8Array
from eyespot.caches import cache_folder, user_path
from eyespot.data.decode_pool import core_count
from eyespot.data.pictures import pixels_of
from eyespot.deployment.export import export_onnx, sample_pictures
from eyespot.deployment.onnx_file import OnnxFile, open_onnx, run_file
from eyespot.deployment.problems import Problem
from eyespot.device import find_device, is_memory_error
from eyespot.errors import (
    CheckpointError,
    EyespotError,
    MemoryLimitError,
    ModelError,
    RunError,
    UsageError,
    did_you_mean,
)
from eyespot.evaluation.bundle import find_bundle, load_bundle
from eyespot.evaluation.bundle_info import BundleInfo
from eyespot.evaluation.metrics import check_finite
from eyespot.evaluation.predictor import Prediction, Predictor, best_classes, load_predictor
from eyespot.files import describe_disk_error

EngineName: TypeAlias = Literal["auto", "onnx", "torch"]
_START_AGAIN = "start the server again"
_CACHE_VERSION = 1  # of the files in the cache: to be raised when `graph` or `export` writes others


class Engine(Protocol):
    """A model that answers. `decode` is called in several threads at once, `predict` and `explain` each in one.

    Attributes:
        can_explain: Whether it makes heat maps.
    """

    can_explain: bool

    def decode(self, data: bytes) -> UInt8Array:
        """Return the pixels uint8 (S, S, C) of a picture file.

        Raises:
            BadImageError: It is not a picture that can be decoded.
        """

    def predict(self, batch: Sequence[UInt8Array], *, top_k: int) -> list[Prediction]:
        """Return an answer for each picture, uint8 (S, S, C)."""

    def explain(self, data: bytes, label: str) -> dict[str, Any]:
        """Return why a picture file got an answer, as JSON values; see `Explainer`."""

    def describe(self) -> dict[str, Any]:
        """Return what `GET /v1/model` says about the model, as JSON values."""


class Explainer:
    """Heat maps of the model of a bundle. The network is read when the first one is asked for.

    It has a network of its own: Grad-CAM hangs hooks into it while the engine's computes other answers.

    Args:
        folder: The bundle.
        device: Where to compute.
        info_sha256: Of the model that answers; another one that came into the folder since then explains nothing.
    """

    def __init__(self, folder: Path, device: str, info_sha256: str) -> None:
        self._folder = folder
        self._device = device
        self._info_sha256 = info_sha256
        self._predictor: Predictor | None = None

    def explain(self, data: bytes, label: str) -> dict[str, Any]:
        """Return the places of a picture that speak for a class.

        Args:
            data: A picture file.
            label: The class.

        Returns:
            JSON values: `image`, the picture in grey with the map in colour on it, a PNG as a data URI; `label`;
            `method`; `check`, the probability of the class with nothing covered, with the hottest places covered, and
            with the same shape covered at random places (None where nothing speaks for the class).

        Raises:
            BadImageError: It is not a picture that can be decoded.
            ModelError: The network has no layer with places in it.
            Problem: 501 the folder has no longer the model that answers.
        """
        from PIL import Image

        from eyespot.analysis.explain import explain_pictures

        self._predictor = self._predictor or self._load()
        place = self._predictor.class_names.index(label)
        (found,) = explain_pictures(self._predictor, [("", data)], methods=("gradcam",), target=place, neighbours=0)
        buffer = io.BytesIO()
        Image.fromarray(found.overlay("gradcam")).save(buffer, "PNG")
        check = found.checks["gradcam"]
        told = None
        if check is not None:
            told = {
                "prob": check.prob,
                "covered_share": check.share,
                "prob_covered": check.hidden,
                "prob_covered_elsewhere": check.hidden_elsewhere,
                "passed": check.is_passed,
            }
        image = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        return {"image": image, "label": label, "method": "gradcam", "check": told}

    def _load(self) -> Predictor:
        try:
            found = load_predictor(self._folder, device=self._device, unknown="never")
        except (RunError, CheckpointError) as error:
            raise Problem(501, "the model that answers is no longer in its folder", remedy=_START_AGAIN) from error
        if found.info.info_sha256 != self._info_sha256:
            raise Problem(501, "another model is in the folder of the one that answers", remedy=_START_AGAIN)
        return found


class TorchEngine:
    """The model of a run or bundle, in the very code of `eyespot predict`.

    Args:
        predictor: The model.
        explainer: Makes heat maps.
    """

    def __init__(self, predictor: Predictor, explainer: Explainer) -> None:
        self._predictor = predictor
        self.can_explain = True
        self.explain = explainer.explain

    def decode(self, data: bytes) -> UInt8Array:
        """Return the pixels of a picture file; see `Engine.decode`."""
        return pixels_of(data, self._predictor.info.input)

    def predict(self, batch: Sequence[UInt8Array], *, top_k: int) -> list[Prediction]:
        """Return an answer for each picture; see `Engine.predict`."""
        return self._predictor.predict_pixels(batch, top_k=top_k)

    def describe(self) -> dict[str, Any]:
        """Return what is known of the model; see `Engine.describe`."""
        plan = self._predictor.plan
        return {"engine": f"torch, {plan.device}, {plan.precision}", "explain": True, **_told(self._predictor.info)}


class OnnxEngine:
    """An exported file in ONNX Runtime, on the processor.

    Pictures are decoded and made square by the code of `eyespot predict`, so that those of one batch have one size; the
    preparation in the file leaves a square of its own size as it is.

    Args:
        file: The file.
        info: Of the bundle that it was made of; None for a file that stands alone.
        explainer: Makes heat maps, which a graph cannot; None for a file that stands alone.
    """

    def __init__(self, file: OnnxFile, info: BundleInfo | None = None, explainer: Explainer | None = None) -> None:
        self._file = file
        self._info = info
        self._explainer = explainer
        self.can_explain = explainer is not None

    def decode(self, data: bytes) -> UInt8Array:
        """Return the pixels of a picture file; see `Engine.decode`."""
        return pixels_of(data, self._file.spec)

    def predict(self, batch: Sequence[UInt8Array], *, top_k: int) -> list[Prediction]:
        """Return an answer for each picture; see `Engine.predict`.

        Raises:
            MemoryLimitError: Memory ran out.
            TrainingError: The model answers NaN.
        """
        if not batch:
            return []
        images = np.stack(batch)
        if images.shape[3] == 1:  # the file makes grey of three equal channels, exactly
            images = np.repeat(images, 3, axis=3)
        try:
            probs, logits, *score = run_file(self._file, images)
        except Exception as error:
            if not is_memory_error(error) and "allocate memory" not in str(error):
                raise
            raise MemoryLimitError(f"no memory left for {len(batch)} images at once") from error
        check_finite(logits)
        threshold = self._file.threshold
        answers = []
        for place in range(len(batch)):
            far = float(score[0][place]) if threshold is not None else None
            is_unknown = far > threshold if far is not None and threshold is not None else None
            best = best_classes(self._file.class_names, probs[place], logits[place], top_k)
            answers.append(Prediction(f"picture {place + 1}", best, None, is_unknown, far))
        return answers

    def explain(self, data: bytes, label: str) -> dict[str, Any]:
        """Return why a picture file got an answer; see `Engine.explain`.

        Raises:
            ModelError: The file stands alone.
        """
        if self._explainer is None:
            raise ModelError("an ONNX file makes no heat maps", remedy="serve the run or bundle that it was made of")
        return self._explainer.explain(data, label)

    def describe(self) -> dict[str, Any]:
        """Return what is known of the model; see `Engine.describe`."""
        import onnxruntime

        file = self._file
        engine = f"onnxruntime {onnxruntime.__version__}, cpu, {'int8' if file.is_int8 else 'float32'}"
        values = {
            **file.told,
            "num_classes": len(file.class_names),
            "class_names": list(file.class_names),
            "input": file.spec.as_dict(),
            "unknown": None if file.threshold is None else {"threshold": file.threshold},
        }
        return {"engine": engine, "explain": self.can_explain, **(_told(self._info) if self._info else values)}


_TOLD = (
    *("architecture", "num_classes", "class_names", "input", "eval_transform", "views", "temperature"),
    *("unknown", "metrics", "pretrained", "provenance", "eyespot_version", "weights_sha256"),
)


def _told(info: BundleInfo) -> dict[str, Any]:
    values = info.model_dump(mode="json", include=set(_TOLD))
    if info.unknown is not None:
        values["unknown"] = {key: values["unknown"][key] for key in ("threshold", "fraction", "n")}
    return values


def open_engine(
    model: str | os.PathLike[str],
    *,
    device: str = "auto",
    engine: str = "auto",
    say: Callable[[str], None] = lambda message: None,
    opener: Executor | None = None,
) -> Engine:
    """Return the engine for a run, a bundle or an exported file.

    Args:
        model: Run folder, bundle folder, the name of a model that comes with eyespot, or an ONNX file.
        device: Where to compute.
        engine: `onnx`; `torch`; or `auto`: ONNX Runtime on a processor where the model can be exported, else torch.
        say: Told what happens before the first answer, and why torch answers.
        opener: Where what computes is opened, whose priority the engine's own threads inherit; here when left out. A
            file is always exported here, where a signal can stop it.

    Raises:
        RunError: There is no model.
        CheckpointError: The bundle is damaged or foreign.
        UsageError: The device is unknown or not on this machine, or the engine does not run there.
        MissingExtraError: A package that `onnx` needs is not installed.
        ModelError: The file is not one of eyespot; the model cannot be exported, and `onnx` was asked for.
    """
    names = get_args(EngineName)
    if engine not in names:
        raise UsageError(f"unknown engine {engine!r}.{did_you_mean(engine, names)}", remedy=f"use {', '.join(names)}")
    path = user_path(model)
    on_processor = find_device(device) == "cpu" or device == "auto"
    if path.suffix.lower() == ".onnx" or path.is_file():
        if engine == "torch" or not on_processor:
            wrong = "--engine torch" if engine == "torch" else f"--device {device}"
            raise UsageError(f"an ONNX file with {wrong}", where=path, remedy="serve the run, or leave the option out")
        return OnnxEngine(_opened(path, opener))
    folder = find_bundle(model)
    if engine == "onnx" and not on_processor:
        raise UsageError(f"--engine onnx with --device {device}", remedy="use --device cpu, or --engine torch")
    if engine == "onnx" or (engine == "auto" and find_device(device) == "cpu"):
        try:
            info, file = exported(folder, say=say, opener=opener)
            return OnnxEngine(file, info, Explainer(folder, device, info.info_sha256))
        except CheckpointError:
            raise
        except EyespotError as error:
            if engine == "onnx":
                raise
            say(f"torch answers, because ONNX Runtime cannot: {error}")
    load = partial(load_predictor, model, device=device)
    predictor = load() if opener is None else opener.submit(load).result()
    return TorchEngine(predictor, Explainer(folder, device, predictor.info.info_sha256))


def _opened(path: Path, opener: Executor | None) -> OnnxFile:
    load = partial(open_onnx, path, threads=core_count())
    return load() if opener is None else opener.submit(load).result()


def exported(
    folder: Path, *, say: Callable[[str], None] = lambda message: None, opener: Executor | None = None
) -> tuple[BundleInfo, OnnxFile]:
    """Return a bundle as an ONNX file in the cache; made, and compared as `eyespot export` does, if it is not there.

    Args:
        folder: The bundle.
        say: Told that it is made, which takes a while.
        opener: Where the file is opened; see `open_engine`.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        CheckpointError: The bundle is damaged.
        ModelError: The network cannot be exported, or the file's answers are not the predictor's.
        RunError: The cache cannot be written.
    """
    info = load_bundle(folder)[1]  # weights too: a damaged bundle is refused whatever the cache holds
    key = hashlib.sha256(f"{_CACHE_VERSION} {__version__} {info.info_sha256}".encode()).hexdigest()[:24]
    path = cache_folder("exports") / f"{info.architecture.name.replace('/', '-')}-{key}" / "model.onnx"
    if path.is_file():
        try:
            return info, _opened(path, opener)
        except ModelError:
            try:
                path.unlink()  # damaged in the cache
            except OSError as error:
                what, remedy = describe_disk_error(error)
                raise RunError(f"a damaged export cannot be removed ({what})", where=path, remedy=remedy) from error
    say("exporting the model to ONNX and comparing it, once")
    try:
        export_onnx(folder, path, pictures=sample_pictures())
    except EyespotError:
        if not path.is_file():  # another server of the same model was faster
            raise
    return info, _opened(path, opener)


__all__ = ["Engine", "EngineName", "Explainer", "OnnxEngine", "TorchEngine", "exported", "open_engine"]

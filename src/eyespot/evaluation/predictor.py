"""Pictures in, classes out: the model of a bundle with the very pixels path and transform that it was trained with.

Before this: `bundle` holds the model, `data.pictures` makes pixels of what somebody gives. After this: `evaluate` runs
it over a labelled split, the command line and the server over a user's pictures.

One picture takes the same way here as in training: `pictures.pixels_of`, then the `EvalTransform` of the
bundle's input spec. There is no other one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from eyespot.arrays import Float32Array, Float64Array, Int64Array, UInt8Array
from eyespot.data.pictures import Picture, named_pictures, pixels_of
from eyespot.data.transforms import EvalTransform
from eyespot.device import ComputePlan, choose_kernels, find_device, is_memory_error, plan_compute
from eyespot.errors import (
    BadImageError,
    CheckpointError,
    DataError,
    MemoryLimitError,
    UsageError,
    did_you_mean,
    whole_number,
)
from eyespot.evaluation.bundle import find_bundle, load_bundle, load_unknown
from eyespot.evaluation.bundle_info import REMEDY, BundleInfo
from eyespot.evaluation.metrics import check_finite, softmax
from eyespot.evaluation.unknown import UnknownScore, num_pixel_statistics, pixel_statistics
from eyespot.evaluation.views import Views, check_views, view_logits
from eyespot.models.folding import folded

if TYPE_CHECKING:
    from eyespot.data.loaders import Loader
    from eyespot.data.resizing import Fit

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many pictures are done, and of how many."""

FITS = ("crop", "squash", "pad")
_BATCH_SIZE = 128
_SAMPLE = 2  # images on which the folding of batch norms is checked


@dataclass(frozen=True)
class ClassScore:
    """One class and its probability, 0 to 1."""

    name: str
    prob: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture, or the reason why there is none.

    Attributes:
        source: The path as it was given, or `picture 3` where the third has none.
        top: The most probable classes, best first; empty where the picture is bad.
        error: Why there is no answer; None where there is one.
        unknown: Whether the picture is too far from what the model was trained on for its answer to mean much; None
            where the model has no rule for it, or was told not to ask.
        unknown_score: How far it is, higher is farther; comparable for one model only. None likewise.
    """

    source: str
    top: tuple[ClassScore, ...]
    error: str | None = None
    unknown: bool | None = None
    unknown_score: float | None = None

    @property
    def label(self) -> str | None:
        """Return the most probable class; None where the picture is bad."""
        return self.top[0].name if self.top else None

    @property
    def prob(self) -> float | None:
        """Return its probability, 0 to 1; None where the picture is bad."""
        return self.top[0].prob if self.top else None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values: source, label, prob, top (name and prob each), unknown, unknown_score, error."""
        return {
            "source": self.source,
            "label": self.label,
            "prob": self.prob,
            "top": [asdict(score) for score in self.top],
            "unknown": self.unknown,
            "unknown_score": self.unknown_score,
            "error": self.error,
        }


class SplitLogits(NamedTuple):
    """What the model says about a labelled split, in the order of the split's positions.

    Attributes:
        logits: float32 (N, K).
        labels: int64 (N,), as the loader gives them.
        distances: float32 (N, parts), of the unknown score; None where there is none.
        kept: Of the pictures that were asked for, what the classifier reads, float32 (M, D), and their pixel
            statistics, (M, P); None where nothing was asked for.
    """

    logits: Float32Array
    labels: Int64Array
    distances: Float32Array | None = None
    kept: tuple[Float32Array, Float32Array] | None = None


class Outputs(NamedTuple):
    """What the model says about one batch, float32 on the CPU.

    Attributes:
        logits: (B, K).
        features: What the classifier reads, (B, D); D is 0 where nobody asked.
        pixels: Pixel statistics, (B, P); P is 0 where nobody asked.
        distances: Of the unknown score, (B, parts); no parts where there is none.
    """

    logits: Tensor
    features: Tensor
    pixels: Tensor
    distances: Tensor


@dataclass(frozen=True, eq=False)  # networks have no plain equality
class Predictor:
    """A trained model, ready to answer; made by `eyespot.load`, or at the end of a training.

    The model is moved to the plan's device, put in eval mode and, as in training, in channels_last.

    Attributes:
        model: The network: float32 (B, C, S, S) in, logits (B, K) out.
        info: What the bundle says about it.
        plan: Device and precision.
        unknown: Says how far a picture is from training; None where the bundle has no rule, or nobody asks.
    """

    model: nn.Module
    info: BundleInfo
    plan: ComputePlan
    unknown: UnknownScore | None = None
    _folded: list[nn.Module] = field(default_factory=list, init=False, repr=False, compare=False)
    _folding: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Put the model where the plan says, in the same state whether it was just trained or loaded."""
        self.model.to(device=self.plan.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.eval()
        if self.unknown is not None:
            self.unknown.to(self.plan.device).eval()

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it be copied, and sent to other processes; what was folded is folded again there."""
        return Predictor, (self.model, self.info, self.plan, self.unknown)

    @property
    def transform(self) -> EvalTransform:
        """Return the way from uint8 pixels to what the model takes, the class that training used for val."""
        return EvalTransform(self.info.input)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return K names, in the order of the outputs."""
        return self.info.class_names

    def predict(
        self,
        pictures: Sequence[Picture],
        *,
        top_k: int = 5,
        batch_size: int = _BATCH_SIZE,
        views: Views | None = None,
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """Return an answer for each picture, in their order.

        A picture that cannot be decoded gets its reason in `error`; the others are answered.

        Args:
            pictures: Paths, bytes of picture files, Pillow images, or uint8 arrays (H, W), (H, W, 1), (H, W, 3) RGB or
                (H, W, 4) RGBA, of any size and mode. Folders: `eyespot.data.pictures.find_pictures`.
            top_k: How many classes an answer lists; K where there are fewer.
            batch_size: Pictures in one forward pass; no more of them are in memory at a time.
            views: Test-time views; None takes the model's own.
            progress: Told (done, all) after each batch.

        Raises:
            UsageError: Something that is no picture, such as float arrays, or a number below 1.
            MemoryLimitError: Memory ran out.
            TrainingError: The model answers NaN.
        """
        top_k = whole_number("top_k", top_k, least=1)
        named = named_pictures(pictures)
        predictions: list[Prediction] = []
        for batch in self._decoded(named, batch_size):
            good = [pixels for pixels in batch if not isinstance(pixels, BadImageError)]
            answers = iter(self.predict_pixels(good, top_k=top_k, views=views))
            for (source, _), pixels in zip(named[len(predictions) :], batch, strict=False):
                if isinstance(pixels, BadImageError):
                    predictions.append(Prediction(source, (), pixels.what))
                else:
                    predictions.append(replace(next(answers), source=source))
            if progress is not None:
                progress(len(predictions), len(named))
        return predictions

    def predict_pixels(
        self, batch: Sequence[UInt8Array], *, top_k: int = 5, views: Views | None = None
    ) -> list[Prediction]:
        """Return an answer for each picture of one batch that was decoded elsewhere, by `pixels_of`.

        Args:
            batch: uint8 (S, S, C) each.
            top_k: How many classes an answer lists.
            views: Test-time views; None takes the model's own.

        Raises:
            MemoryLimitError: Memory ran out.
            TrainingError: The model answers NaN.
        """
        if not batch:
            return []
        found = self._outputs_of(batch, views)
        probs = self._probs_of(found.logits)
        scores: list[float] | None = None
        if self.unknown is not None and self.info.unknown is not None:
            scores = self.unknown.total(found.distances.to(self.plan.device)).tolist()
        answers = []
        for place, (row, logits) in enumerate(zip(probs, found.logits.numpy(), strict=True)):
            answer = Prediction(f"picture {place + 1}", best_classes(self.class_names, row, logits, top_k))
            if scores is not None and self.info.unknown is not None:
                unknown = scores[place] > self.info.unknown.threshold
                answer = replace(answer, unknown=unknown, unknown_score=scores[place])
            answers.append(answer)
        return answers

    def predict_probs(
        self, pictures: Sequence[Picture], *, batch_size: int = _BATCH_SIZE, views: Views | None = None
    ) -> Float64Array:
        """Return the probabilities of all classes for each picture.

        Args:
            pictures: As for `predict`.
            batch_size: Pictures in one forward pass.
            views: Test-time views; None takes the model's own.

        Returns:
            float64 (N, K), rows that sum to 1.

        Raises:
            BadImageError: A picture cannot be decoded.
            UsageError: As `predict`.
            MemoryLimitError: Memory ran out.
            TrainingError: The model answers NaN.
        """
        named = named_pictures(pictures)
        rows: list[Float64Array] = [np.zeros((0, self.info.num_classes))]
        done = 0
        for batch in self._decoded(named, batch_size):
            for (source, _), pixels in zip(named[done:], batch, strict=False):
                if isinstance(pixels, BadImageError):
                    raise BadImageError(pixels.what, where=source, remedy="leave it out, or use predict")
            good = [pixels for pixels in batch if not isinstance(pixels, BadImageError)]
            rows.append(self._probs_of(self._outputs_of(good, views).logits))
            done += len(batch)
        return np.concatenate(rows)

    def logits_of(
        self,
        loader: Loader,
        *,
        views: Views = "none",
        keep: Int64Array | None = None,
        progress: Progress | None = None,
    ) -> SplitLogits:
        """Return the logits of every image of a split, each exactly once, in the order of their positions.

        Args:
            loader: Batches of uint8 (B, C, S, S) with labels and positions, in any order.
            views: Test-time views, averaged as logits.
            keep: Rising positions, int64 (M,), of images whose features are wanted too.
            progress: Told (done, all) after each batch.

        Raises:
            DataError: The split is empty, or its images have another size or channel count than the model's.
            MemoryLimitError: Memory ran out.
            UsageError: The loader leaves images out or gives them twice; unknown views.
        """
        n = loader.num_images
        logits = np.empty((n, self.info.num_classes), dtype=np.float32)
        labels = np.empty(n, dtype=np.int64)
        distances = np.empty((n, len(self.unknown.parts)), np.float32) if self.unknown is not None else None
        kept: list[tuple[Int64Array, Float32Array, Float32Array]] = []
        seen = np.zeros(n, dtype=np.int64)
        done = 0
        for batch in loader.batches(0):
            places = batch.indices.cpu().numpy()
            wanted = np.flatnonzero(np.isin(places, keep)) if keep is not None else np.zeros(0, np.int64)
            found = self.outputs(batch.images, views=views, features=len(wanted) > 0)
            logits[places] = found.logits.numpy()
            labels[places] = batch.labels.cpu().numpy()
            if distances is not None:
                distances[places] = found.distances.numpy()
            if len(wanted):
                kept.append((places[wanted], found.features.numpy()[wanted], found.pixels.numpy()[wanted]))
            np.add.at(seen, places, 1)
            done += len(places)
            if progress is not None:
                progress(done, n)
        if n == 0:
            raise DataError("no images to evaluate", remedy="give a split with at least one image")
        if (seen != 1).any():
            raise UsageError(
                f"a loader that leaves out {(seen == 0).sum()} and repeats {(seen > 1).sum()} of {n} images",
                remedy="evaluate with one that keeps the last short batch",
            )
        return SplitLogits(logits, labels, distances, _in_order(kept))

    def batch_logits(self, pixels: Tensor, *, views: Views = "none") -> Tensor:
        """Return the logits of one batch, float32 (B, K), on the CPU; see `outputs`."""
        return self.outputs(pixels, views=views, distances=False).logits

    def outputs(
        self, pixels: Tensor, *, views: Views = "none", features: bool = False, distances: bool = True
    ) -> Outputs:
        """Return what the model says about one batch, in one forward pass a view; in halves where memory is short.

        Args:
            pixels: uint8 0..255 (B, C, S, S), on any device.
            views: Test-time views, averaged as logits, and as features.
            features: Whether features and pixel statistics are wanted.
            distances: Whether the distances of the unknown score are wanted, where there is one.

        Raises:
            DataError: The pixels are not uint8, or of another shape than the model's input.
            MemoryLimitError: There is no memory for one of them.
        """
        try:
            return self._outputs(pixels, views=views, features=features, distances=distances)
        except (MemoryError, RuntimeError) as error:
            if not is_memory_error(error):
                raise
            if len(pixels) <= 1:
                remedy = f"close other programs{'' if self.plan.device == 'cpu' else ', or use --device cpu'}"
                where = f"device {self.plan.device}"
                raise MemoryLimitError("no memory left for one image", where=where, remedy=remedy) from error
        # Behind the handler: its traceback holds what did not fit.
        halves = [self.outputs(half, views=views, features=features, distances=distances) for half in pixels.chunk(2)]
        return Outputs(*(torch.cat(parts) for parts in zip(*halves, strict=True)))

    @torch.inference_mode()
    def _outputs(self, pixels: Tensor, *, views: Views, features: bool, distances: bool) -> Outputs:
        unknown = self.unknown if distances else None
        images = self.transform(pixels.to(self.plan.device))
        network = self._network(images)
        both = features or unknown is not None
        with self.plan.autocast():
            found = view_logits(partial(logits_and_features, network) if both else network, images, views)
        classes = self.info.num_classes
        logits, vectors = found[:, :classes], found[:, classes:]
        nothing = logits[:, :0]
        statistics = pixel_statistics(images) if both else nothing
        return Outputs(
            logits.cpu(),
            vectors.cpu() if features else nothing.cpu(),
            (statistics if features else nothing).cpu(),
            (nothing if unknown is None else unknown.distances(statistics, logits, vectors)).cpu(),
        )

    def _network(self, images: Tensor) -> nn.Module:
        """Return the model without its batch norms, made when the first images are there."""
        with self._folding:
            if not self._folded:
                with torch.autocast(images.device.type, enabled=False):
                    self._folded.append(folded(self.model, images[:_SAMPLE]))
            return self._folded[0]

    def _decoded(
        self, named: Sequence[tuple[str, Picture]], batch_size: int
    ) -> Iterator[list[UInt8Array | BadImageError]]:
        """Yield, batch by batch, the pixels (S, S, C) of each picture or the reason why it has none."""
        batch_size = whole_number("batch_size", batch_size, least=1)  # a small integer of numpy's would overflow

        def decode(item: tuple[str, Picture]) -> UInt8Array | BadImageError:
            try:
                return pixels_of(item[1], self.info.input)
            except BadImageError as error:
                return error

        # Pillow's decoders release the interpreter lock, and photographs take longer to decode than to classify.
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 16), thread_name_prefix="eyespot-decode") as pool:
            for start in range(0, len(named), batch_size):
                batch = named[start : start + batch_size]
                # A Pillow image may be in the list twice, and two threads must not load it at once.
                in_threads = all(isinstance(picture, (str, os.PathLike, bytes)) for _, picture in batch)
                yield list((pool.map if in_threads and len(batch) > 1 else map)(decode, batch))

    def _outputs_of(self, batch: Sequence[UInt8Array], views: Views | None) -> Outputs:
        """Return what the model says about pixels uint8 (S, S, C) each, finite."""
        views = check_views(self.info.views if views is None else views)
        if not batch:
            nothing = torch.zeros(0, self.info.num_classes)
            return Outputs(nothing, nothing, nothing, nothing)
        found = self.outputs(torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2), views=views)  # (B, C, S, S)
        check_finite(found.logits.numpy())
        return found

    def _probs_of(self, logits: Tensor) -> Float64Array:
        """Return float64 (B, K) of logits (B, K)."""
        return (
            softmax(logits.numpy().astype(np.float64) / self.info.temperature)
            if len(logits)
            else logits.numpy().astype(np.float64)
        )


def best_classes(
    class_names: Sequence[str], probs: Float64Array | Float32Array, logits: Float32Array, top_k: int
) -> tuple[ClassScore, ...]:
    """Return the best classes of one row (K,), best first; equal ones in the order of the outputs.

    Ranked by logits: at a low temperature different logits become equal probabilities.
    """
    best = np.argsort(-logits, kind="stable")[:top_k]
    return tuple(ClassScore(class_names[place], float(probs[place])) for place in best)


def logits_and_features(model: nn.Module, images: Tensor) -> Tensor:
    """Return a classifier's logits and, behind them, what its last layer reads, in one forward pass.

    Args:
        model: float32 (B, C, S, S) in, logits (B, K) out; with timm's `forward_features` and `forward_head`.
        images: float32 (B, C, S, S), normalised.

    Returns:
        float32 (B, K + D).
    """
    maps = model.forward_features(images)  # type: ignore[operator]
    return torch.cat([model.forward_head(maps).float(), model.forward_head(maps, pre_logits=True).float()], dim=1)  # type: ignore[operator]


def _in_order(
    kept: Sequence[tuple[Int64Array, Float32Array, Float32Array]],
) -> tuple[Float32Array, Float32Array] | None:
    """Return the features and pixel statistics of kept images in the order of their positions."""
    if not kept:
        return None
    order = np.argsort(np.concatenate([places for places, _, _ in kept]))
    return np.concatenate([part[1] for part in kept])[order], np.concatenate([part[2] for part in kept])[order]


@torch.inference_mode(False)  # explaining takes gradients, wherever the weights were loaded
def load_predictor(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    unknown: Literal["auto", "never"] = "auto",
    fit: str | None = None,
) -> Predictor:
    """Return a trained model, ready to answer.

    Args:
        path: Run folder, bundle folder, or the name of a model that comes with eyespot.
        device: `auto`, `cpu`, `cuda` or `mps`.
        unknown: `auto`: every answer says how far its picture is from training, where the bundle has a rule for that;
            `never`: nobody asks.
        fit: How pictures that are not square become square: `crop`, `squash` or `pad`; None does as in training. Square
            ones come out the same in any case.

    Raises:
        RunError: There is no run and no bundle, or the run has no model yet.
        CheckpointError: The bundle is damaged or foreign.
        UsageError: The device is unknown or not on this machine; another word for `unknown`.
    """
    if unknown not in ("auto", "never"):
        raise UsageError(f"unknown = {unknown!r}", remedy="use auto or never")
    if fit not in (None, *FITS):
        raise UsageError(f"unknown fit {fit!r}.{did_you_mean(str(fit), FITS)}", remedy=f"use {', '.join(FITS)}")
    folder = find_bundle(path)
    find_device(device)  # a wrong device is found before a byte is read
    model, info = load_bundle(folder)
    plan = plan_compute(device, info.precision)
    choose_kernels(plan)
    if fit is not None:
        info = info.model_copy(update={"input": replace(info.input, fit=cast("Fit", fit))})
    return Predictor(model, info, plan, _fitting(model, info, folder) if unknown == "auto" else None)


def _fitting(model: nn.Module, info: BundleInfo, folder: Path) -> UnknownScore | None:
    """Return the score of a bundle after a look at whether it belongs to the network and to its pictures."""
    rule = info.unknown
    if rule is None:
        return None
    widths = (
        (rule.num_features, int(model.num_features)),  # type: ignore[arg-type]
        (rule.num_pixel_statistics, num_pixel_statistics(info.input.channels, info.input.input_px)),
    )
    for own, needed in widths:
        if own not in (0, needed):
            raise CheckpointError(
                f"its rule for unknown pictures compares {own} numbers where the model has {needed}",
                where=folder,
                remedy=REMEDY,
            )
    return load_unknown(folder, info)

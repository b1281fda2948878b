"""How far a picture is from what was trained on, and from where on the answer is "unknown".

Before this: a network whose weights are final, some thousand training pictures and val. After this: the bundle carries
the rule and what it compares with, and every prediction has a score.

The score adds up to three distances, each in units of its spread on val, because each sees what the others miss:
`energy`, how little any class is named; `features`, the distance to the nearest training pictures in what the
classifier reads; `pixels`, the same in plain statistics of the picture (colours, contrast, edges at three scales):
it sees drawings, noise and textures that a network presses into its classes. What was measured: docs/trust.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from eyespot.arrays import Float32Array, Float64Array, Int64Array
from eyespot.errors import CheckpointError

Part: TypeAlias = Literal["energy", "features", "pixels"]

WEIGHTS: Mapping[Part, float] = {"energy": 1.0, "features": 1.0, "pixels": 0.5}
MOST_ROWS = 1600
MOST_BYTES = 4 * 2**20
"""Of the kept training pictures' features: the file stays smaller than the network of the smallest recipe."""

_NEIGHBOURS = 10
_SIDE_PX = 32  # larger pictures are shrunk by a whole factor to 32 to 63 px first: one scale for all sizes
_SCALES = (1, 2, 4)  # px over which edges are measured then
_LEAST_SPREAD = 1e-6  # of distances that are all equal
_CLIP = 1e4  # far below float16's largest number, far above what any picture has
_SLACK_BYTES = 4096  # names, types and places of the tensors in the file
_REMEDY = "take the bundle again from where it was trained, or train again"


class Scaling(BaseModel):
    """How one distance enters the score: weight x (distance - centre) / scale.

    Attributes:
        weight: Above 0.
        centre: Its median on val.
        scale: Its standard deviation on val.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weight: float = Field(gt=0.0, le=100.0)
    centre: float
    scale: float = Field(gt=0.0)


class UnknownRule(BaseModel):
    """When a picture is called unknown: the part of model.json that says so.

    Attributes:
        parts: Distance -> how it enters the score.
        threshold: Scores above it are unknown.
        fraction: Share of genuine val pictures that may be refused; the threshold follows from it.
        n: Val pictures that the threshold was set on.
        rows: Training pictures that are compared with.
        neighbours: The distance is that to the so-many-th nearest of them.
        num_features: Width of the features; 0 where they are not compared.
        num_pixel_statistics: Width of the pixel statistics; 0 where they are not compared.
        sha256: Digest of unknown.safetensors; empty where nothing is compared with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    parts: dict[Part, Scaling]
    threshold: float
    fraction: float = Field(gt=0.0, lt=1.0)
    n: int = Field(ge=1)
    rows: int = Field(ge=0, le=100_000)
    neighbours: int = Field(ge=1, le=1000)
    num_features: int = Field(ge=0, le=100_000)
    num_pixel_statistics: int = Field(ge=0, le=10_000)
    sha256: str = Field(default="", max_length=64)

    @model_validator(mode="after")
    def _consistent(self) -> UnknownRule:
        if not self.parts:
            raise ValueError("a rule without distances")
        for part, width in (("features", self.num_features), ("pixels", self.num_pixel_statistics)):
            if (part in self.parts) != (width > 0):
                raise ValueError(f"{part} of width {width}")
        if bool(self.num_features + self.num_pixel_statistics) != (self.rows > 0) or self.neighbours > max(
            self.rows, 1
        ):
            raise ValueError(f"{self.neighbours} neighbours in {self.rows} rows")
        if self.rows * (self.num_features + self.num_pixel_statistics) > 4 * MOST_BYTES:
            raise ValueError(
                f"{self.rows} rows of {self.num_features + self.num_pixel_statistics} numbers are too many"
            )
        if bool(self.sha256) != (self.rows > 0):
            raise ValueError(f"{self.rows} rows and {'a' if self.sha256 else 'no'} digest of them")
        return self

    @property
    def max_bytes(self) -> int:
        """Return the most that unknown.safetensors may have."""
        width = self.num_features + self.num_pixel_statistics
        return 2 * self.rows * width + 8 * self.num_pixel_statistics + _SLACK_BYTES


class UnknownScore(nn.Module):
    """The score as a network of its own: only matrix products, sums and top-k, so that it can be exported.

    Buffers (of a part that is not used: none): `features` float16 (M, D), rows of length 1; `pixels` float16 (M, P),
    in units of their spread; `pixel_mean` and `pixel_std` float32 (P,).

    Args:
        tensors: The buffers.
        neighbours: The distance is that to the so-many-th nearest row.
        parts: How the distances are added up; None before val was seen: 0 and 1, with the usual weights.
    """

    def __init__(self, tensors: Mapping[str, Tensor], neighbours: int, parts: Mapping[Part, Scaling] | None = None):
        super().__init__()
        names: list[Part] = ["energy"]
        names += ["features"] if "features" in tensors else []
        names += ["pixels"] if "pixels" in tensors else []
        self.parts: dict[Part, Scaling] = dict(
            parts or {part: Scaling(weight=WEIGHTS[part], centre=0.0, scale=1.0) for part in names}
        )
        self.neighbours = neighbours
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        for name in ("features", "pixels"):  # kept in half the bytes, compared in whole ones
            if name in tensors:
                self.register_buffer(f"_{name}", tensors[name].float(), persistent=False)

    @classmethod
    def from_rows(cls, features: Float32Array, pixels: Float32Array, num_classes: int) -> UnknownScore:
        """Return a score that compares with some training pictures; `fitted_to` makes it comparable.

        Args:
            features: float32 (M, D), what the classifier reads; D may be 0.
            pixels: float32 (M, P), `pixel_statistics`; P may be 0.
            num_classes: K: where a class has few rows, fewer neighbours are asked.
        """
        tensors = {}
        if features.size:
            tensors["features"] = F.normalize(torch.from_numpy(features).float(), dim=1).half()
        if pixels.size:
            mean, std = torch.from_numpy(pixels.mean(0)), torch.from_numpy(np.maximum(pixels.std(0), 1e-4))
            rows = (torch.from_numpy(pixels) - mean) / std
            tensors |= {"pixels": rows.clamp(-_CLIP, _CLIP).half(), "pixel_mean": mean, "pixel_std": std}
        rows_per_class = len(features) // num_classes
        return cls(tensors, neighbours=max(1, min(_NEIGHBOURS, rows_per_class // 4)))

    def distances(self, statistics: Tensor, logits: Tensor, features: Tensor) -> Tensor:
        """Return the distances of the parts in their order, float32 (B, parts).

        Args:
            statistics: float32 (B, P), `pixel_statistics` of the images.
            logits: float32 (B, K), before the temperature.
            features: float32 (B, D), what the classifier reads.
        """
        found = []
        for part in self.parts:
            if part == "energy":
                found.append(-logits.float().logsumexp(dim=1))
            elif part == "features":
                near = F.normalize(features.float(), dim=1) @ self._compared("features").T  # (B, M) cosines
                found.append(1 - near.topk(self.neighbours, dim=1).values[:, -1])
            else:
                rows = self._compared("pixels")
                seen = (statistics - self._buffer("pixel_mean")) / self._buffer("pixel_std")
                seen = seen.clamp(-_CLIP, _CLIP)
                squares = (seen**2).sum(1, keepdim=True) + (rows**2).sum(1) - 2 * seen @ rows.T  # (B, M)
                nearest = (-squares).topk(self.neighbours, dim=1).values[:, -1]
                found.append((-nearest).clamp_min(0).sqrt())
        return torch.stack(found, dim=1)

    def forward(self, images: Tensor, logits: Tensor, features: Tensor) -> Tensor:
        """Return the score, float32 (B,), higher is farther from training, of normalised images (B, C, S, S)."""
        return self.total(self.distances(pixel_statistics(images), logits, features))

    def total(self, distances: Tensor) -> Tensor:
        """Return the score, float32 (B,), of distances (B, parts)."""
        score = torch.zeros_like(distances[:, 0])
        for column, scaling in enumerate(self.parts.values()):
            score = score + scaling.weight * (distances[:, column] - scaling.centre) / scaling.scale
        return score

    def fitted_to(self, distances: Float32Array, fraction: float) -> tuple[UnknownScore, UnknownRule]:
        """Return the score in units of val's spread, and the rule that refuses so many of such pictures.

        Args:
            distances: float32 (N, parts), of val; N is at least `least_pictures(fraction)`.
            fraction: Share of genuine pictures that may be refused, in (0, 1).

        Source:
            The threshold is that of split conformal prediction: of pictures like those of val, at most `fraction`
            are refused, on average over draws of val (Vovk et al., "Algorithmic Learning in a Random World", 2005).
            Each val picture is put in units of the others' spread, as new pictures are: its own part in it hides the
            farthest of few, and of 19 with skewed distances 6 to 8 % of new ones were refused where 5 % may be
            (simulated; so it is 3 to 5 %).
        """
        parts = {
            part: Scaling(
                weight=scaling.weight,
                centre=float(np.median(distances[:, column])),
                scale=max(float(distances[:, column].std()), _LEAST_SPREAD),
            )
            for column, (part, scaling) in enumerate(self.parts.items())
        }
        fitted = UnknownScore(dict(self.state_dict()), self.neighbours, parts)
        weights, centres = ([getattr(part, name) for part in parts.values()] for name in ("weight", "centre"))
        scores = np.sort(
            (np.array(weights) * (distances - np.array(centres)) / _spread_of_others(distances)).sum(axis=1)
        )
        n = len(scores)
        place = int(np.ceil((n + 1) * (1 - fraction))) - 1
        return fitted, UnknownRule(
            parts=parts,
            threshold=float(scores[min(place, n - 1)]),
            fraction=fraction,
            n=n,
            rows=self._rows,
            neighbours=self.neighbours,
            num_features=self._width("features"),
            num_pixel_statistics=self._width("pixels"),
            sha256=hashlib.sha256(content).hexdigest() if (content := fitted.content()) else "",
        )

    def content(self) -> bytes:
        """Return what unknown.safetensors holds; nothing where nothing is compared with."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        return save(tensors) if tensors else b""

    @property
    def _rows(self) -> int:
        return max((len(self.state_dict()[name]) for name in ("features", "pixels") if self._width(name)), default=0)

    def _width(self, name: str) -> int:
        tensor = self.state_dict().get(name)
        return 0 if tensor is None else int(tensor.shape[1])

    def _buffer(self, name: str) -> Tensor:
        return self.get_buffer(name)

    def _compared(self, name: str) -> Tensor:
        """Return kept rows, float32 (M, D or P)."""
        if torch.compiler.is_exporting():  # an exported file keeps them in half the bytes, too
            return self.get_buffer(name).float()
        return self.get_buffer(f"_{name}")


def _spread_of_others(distances: Float32Array) -> Float64Array:
    """Return the standard deviation of all other rows, float64 (N, parts), of distances (N, parts), N at least 2."""
    n, squares = len(distances), (distances.astype(np.float64) - distances.mean(axis=0, dtype=np.float64)) ** 2
    others = (squares.sum(axis=0) - squares * n / (n - 1)) / (n - 1)
    return np.asarray(np.sqrt(np.maximum(others, _LEAST_SPREAD**2)), dtype=np.float64)


def least_pictures(fraction: float) -> int:
    """Return how many val pictures a threshold needs that refuses this share of them: 19 for 5 %."""
    return int(np.ceil(1 / fraction)) - 1


def rows_to_keep(labels: Int64Array, num_classes: int, num_features: int) -> Int64Array:
    """Return positions of training pictures to compare with, rising, int64 (M,): spread over classes and over the data.

    Where there is no room for two pictures of each class, they are spread over the data alone: the nearest of them is
    then often of another class, which the threshold allows for, since val is compared with the same ones.

    Args:
        labels: int64 (N,), of train.
        num_classes: K.
        num_features: D: the wider the features, the fewer pictures.
    """
    most = min(MOST_ROWS, MOST_BYTES // (2 * max(num_features, 1)))
    if most < 2 * num_classes:
        return np.unique(np.linspace(0, len(labels) - 1, min(most, len(labels))).round().astype(np.int64))
    share = most // num_classes
    kept = []
    for label in range(num_classes):
        own = np.flatnonzero(labels == label)
        if len(own):
            kept.append(own[np.unique(np.linspace(0, len(own) - 1, min(share, len(own))).round().astype(np.int64))])
    return np.sort(np.concatenate(kept)).astype(np.int64)


def pixel_statistics(images: Tensor) -> Tensor:
    """Return what can be said of pictures without a network: colours, contrast and edges.

    Args:
        images: float32 (B, C, S, S), normalised.

    Returns:
        float32 (B, P): mean, deviation and colourfulness of each channel, then mean and deviation of the differences
        between neighbours, across and down, at each scale that leaves two of them.
    """
    images = images.float()
    if (factor := images.shape[2] // _SIDE_PX) > 1:
        images = F.avg_pool2d(images, factor)
    found = [images.mean((2, 3)), _deviation(images), (images - images.mean(1, keepdim=True)).abs().mean((2, 3))]
    for scale in _SCALES:
        if images.shape[2] // scale < 2:
            break
        shrunk = F.avg_pool2d(images, scale) if scale > 1 else images
        across = (shrunk[:, :, :, 1:] - shrunk[:, :, :, :-1]).abs()
        down = (shrunk[:, :, 1:] - shrunk[:, :, :-1]).abs()
        found += [across.mean((2, 3)), down.mean((2, 3)), _deviation(across), _deviation(down)]
    return torch.cat(found, dim=1)


def _deviation(values: Tensor) -> Tensor:
    """Return the standard deviation over the map, (B, C)."""
    return (values - values.mean((2, 3), keepdim=True)).square().mean((2, 3)).sqrt()


def num_pixel_statistics(channels: int, side_px: int) -> int:
    """Return P for images (B, C, S, S)."""
    return int(pixel_statistics(torch.zeros(1, channels, side_px, side_px)).shape[1])


def parse_score(content: bytes, rule: UnknownRule, where: object) -> UnknownScore:
    """Return the score of a bundle from the bytes of its unknown.safetensors.

    Raises:
        CheckpointError: They are damaged, or not what the rule says.
    """
    if hashlib.sha256(content).hexdigest() != rule.sha256:
        raise CheckpointError(
            "the file for unknown pictures is damaged, or belongs to another model.json", where=where, remedy=_REMEDY
        )
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError("not a safetensors file", where=where, remedy=_REMEDY) from error
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    if rule.num_features:
        expected["features"] = (torch.float16, (rule.rows, rule.num_features))
    if rule.num_pixel_statistics:
        width = rule.num_pixel_statistics
        expected["pixels"] = (torch.float16, (rule.rows, width))
        expected |= dict.fromkeys(("pixel_mean", "pixel_std"), (torch.float32, (width,)))
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    if found != expected or not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise CheckpointError("the file for unknown pictures does not fit the model", where=where, remedy=_REMEDY)
    return UnknownScore(tensors, rule.neighbours, rule.parts)


def unknown_metrics(scores: Float32Array, rule: UnknownRule, preds: Int64Array, labels: Int64Array) -> dict[str, Any]:
    """Return what the rule does to a split of genuine pictures.

    Args:
        scores: float32 (N,).
        rule: Knows the threshold.
        preds: int64 (N,).
        labels: int64 (N,).

    Returns:
        JSON values: `refused` and its `refused_fraction` with `refused_ci95`; of the others, `accepted`, `top1` and
        `top1_ci95` (None where none is left); `histogram`: 41 rising `edges` and 40 `counts` of right and wrong ones.
    """
    from eyespot.evaluation.metrics import wilson_interval

    scores = scores.astype(np.float64)  # as a prediction's is compared
    refused = scores > rule.threshold
    right = preds == labels
    kept, hits = int((~refused).sum()), int(right[~refused].sum())
    low, high = min(float(scores.min()), rule.threshold), max(float(np.quantile(scores, 0.995)), rule.threshold)
    edges = np.linspace(low, max(high, low + 1e-6), 41)
    inside = np.clip(scores, edges[0], edges[-1])
    return {
        "refused": int(refused.sum()),
        "refused_fraction": float(refused.mean()),
        "refused_ci95": list(wilson_interval(int(refused.sum()), len(scores))),
        "accepted": kept,
        "accepted_top1": hits / kept if kept else None,
        "accepted_top1_ci95": list(wilson_interval(hits, kept)) if kept else None,
        "histogram": {
            "edges": edges.tolist(),
            "right": np.histogram(inside[right], edges)[0].tolist(),
            "wrong": np.histogram(inside[~right], edges)[0].tolist(),
        },
    }

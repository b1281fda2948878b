"""How a head is trained and measured on stored features, as if they were pictures.

Before this: `features` encoded every picture once. After this: the training loop, and `measuring`, which asks the
trained head for its answers on the same features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from eyespot.arrays import FeatureArray, Float32Array, Int64Array
from eyespot.data.loaders import Batch, BatchPlan, Loader
from eyespot.data.transforms import EvalTransform, TrainTransform
from eyespot.models.pretrained import PretrainedClassifier
from eyespot.seeds import derive_seed


class FeatureHead(nn.Module):
    """A classifier's head on its own, over stored features; it shares its layers with the whole model.

    Args:
        model: The whole model.
    """

    def __init__(self, model: PretrainedClassifier) -> None:
        super().__init__()
        self.head = model.head
        self._columns = model.head_columns

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, K) of stored features (B, D)."""
        logits: Tensor = self.head(features[:, self._columns])
        return logits

    def both(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) and what the last layer reads, (B, D'), of stored features (B, D)."""
        inputs = self.head[:-1](features[:, self._columns])
        return self.head[-1](inputs), inputs

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer."""
        return self.head[-1]


class FeatureLoader(Loader):
    """A loader whose images are stored features, float32 (B, D): a random view of each picture in each epoch.

    Args:
        parts: Sources of the split: arrays (one a view, (N, D) each) and rows of them.
        labels: int64 (N,), in the order of the parts.
        plan: Which pictures come when; without shuffling the first view is taken.
        device: Where the batches go.
    """

    def __init__(
        self,
        parts: Sequence[tuple[tuple[FeatureArray, ...], Int64Array]],
        labels: Int64Array,
        plan: BatchPlan,
        *,
        device: str = "cpu",
    ) -> None:
        super().__init__(labels, plan, device)
        self._parts = parts
        self._ends = np.cumsum([len(rows) for _, rows in parts])
        self._views = min(len(arrays) for arrays, _ in parts) if plan.shuffle else 1

    def batches(self, epoch: int, *, first_step: int = 0, order: Tensor | None = None) -> Iterator[Batch]:
        """Yield the batches of an epoch; see `Loader`."""
        generator = torch.Generator().manual_seed(derive_seed(self._plan.seed, "feature view", epoch))
        views = torch.randint(self._views, (self.num_images,), generator=generator).numpy()
        for positions, indices in self._plan.positions_on(self._device, epoch, first_step, order):
            places = positions.numpy()
            features = self._gather(places, views[places]).to(self._device, non_blocking=True)
            yield Batch(features, self._labels[indices], indices)

    def _gather(self, places: Int64Array, views: Int64Array) -> Tensor:
        """Return float32 (B, D): the chosen view of each position; pinned, so that nobody waits for a GPU's copy."""
        owners = np.searchsorted(self._ends, places, side="right")
        shape = (len(places), self._parts[0][0][0].shape[1])
        pinned = torch.empty(shape, dtype=torch.float32, pin_memory=self._device.type == "cuda")
        gathered = pinned.numpy()
        for part, (arrays, rows) in enumerate(self._parts):
            offset = int(self._ends[part]) - len(rows)
            for view in range(self._views):
                mine = np.flatnonzero((owners == part) & (views == view))
                gathered[mine] = arrays[view][rows[places[mine] - offset]]
        return pinned


class StoredTrainTransform(TrainTransform):
    """In training on features: they were augmented and normalised before they were stored."""

    def __call__(
        self, images_uint8: Tensor, labels: Tensor, *, generator: torch.Generator, epoch: int, indices: Tensor
    ) -> Tensor:
        """Return float32 (B, D) as they are."""
        return images_uint8


class StoredEvalTransform(EvalTransform):
    """In evaluation on features: they were normalised before they were stored."""

    def __call__(self, images_uint8: Tensor) -> Tensor:
        """Return float32 (B, D) as they are."""
        return images_uint8


def head_logits(
    head: FeatureHead,
    parts: Sequence[tuple[tuple[FeatureArray, ...], Int64Array]],
    *,
    mirror: bool,
    device: str,
    batch_size: int = 4096,
) -> Float32Array:
    """Return the logits float32 (N, K) of a split's stored features; see `head_outputs`."""
    found = head_outputs(head, parts, mirror=mirror, device=device, batch_size=batch_size)
    return torch.cat([logits for logits, _ in found]).numpy()


def head_outputs(
    head: FeatureHead,
    parts: Sequence[tuple[tuple[FeatureArray, ...], Int64Array]],
    *,
    mirror: bool,
    device: str,
    batch_size: int = 4096,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, in the order of a split, logits (B, K) and what the last layer reads (B, D'), float32 on the CPU.

    Args:
        head: In eval mode.
        parts: As `FeatureStore.parts` returns them.
        mirror: Take the mean with the mirrored view.
        device: Where the head is.
        batch_size: Pictures at once.
    """
    for arrays, rows in parts:
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            with torch.inference_mode():
                views = [torch.from_numpy(arrays[view][chosen].astype(np.float32)) for view in range(1 + mirror)]
                found = [head.both(view.to(device)) for view in views]
                logits, inputs = (sum(part.float() for part in kind) / len(views) for kind in zip(*found, strict=True))
                yield logits.cpu(), inputs.cpu()

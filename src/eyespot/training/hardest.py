"""Which pictures an epoch shows, where it does not show all: those with the largest loss when they were last seen.

A network that is right about most pictures learns little from seeing them again. The losses are those of the training
steps themselves, so that the choice costs nothing but a sort in each epoch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from eyespot.errors import CheckpointError
from eyespot.seeds import derive_seed

_BEGUN, _NOW = "hardest/begun", "hardest/now"  # in checkpoints


class HardestPictures:
    """The last known loss of every training picture, and the order of an epoch that follows from it.

    Pictures that were not seen yet come first. The losses of an epoch count from the next one on, so that a run
    resumed in the middle of an epoch goes on with the same order.

    Args:
        num_images: N, of train.
        steps: Of an epoch; at most those of an epoch of all pictures.
        batch_size: Pictures in a step.
        seed: Of the order.
        device: Where the losses are kept.

    Source:
        Jiang et al. 2019, Accelerating Deep Learning by Focusing on the Biggest Losers (arXiv:1910.00762), and the
        filtering of training pictures in airbench96 (arXiv:2404.00498). Changed: no pass and no network only for the
        choice; the loss of the last step that saw the picture is taken.
    """

    def __init__(self, num_images: int, steps: int, *, batch_size: int, seed: int, device: str) -> None:
        self._count = min(num_images, steps * batch_size)
        self._seed = seed
        self._begun = torch.full((num_images,), torch.inf, device=device)  # when the epoch began
        self._now = self._begun.clone()

    def order(self, epoch: int) -> torch.Tensor:
        """Return int64 (M,) on the CPU, the positions of the epoch's pictures in the order of its steps."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "hardest", epoch))
        mixed = torch.randperm(len(self._begun), generator=generator)  # equal losses in an order of the epoch's own
        losses = self._begun.cpu()[mixed]
        chosen = mixed[losses.argsort(descending=True, stable=True)[: self._count]]
        return chosen[torch.randperm(len(chosen), generator=generator)]

    def note(self, indices: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Keep the losses of a step.

        Args:
            indices: int64 (B,), positions in train.
            logits: float32 (B, K), detached.
            labels: int64 (B,).
        """
        self._now[indices] = F.cross_entropy(logits, labels, reduction="none")

    def end_epoch(self) -> None:
        """Let what was noted decide from the next epoch on."""
        self._begun.copy_(self._now)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint must keep."""
        return {_BEGUN: self._begun, _NOW: self._now}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put back what `tensors` returned.

        Raises:
            CheckpointError: They are of a run on other pictures, or of one that showed all.
        """
        for name, losses in ((_BEGUN, self._begun), (_NOW, self._now)):
            if name not in tensors or tensors[name].shape != losses.shape:
                raise CheckpointError(
                    f"the checkpoint has no {name} for {len(losses):,} pictures",
                    remedy="resume with the data and recipe it was started with",
                )
            losses.copy_(tensors[name])

"""Dropout that does not wait for random numbers on the CPU; the study networks use it in place of torch's.

torch draws one Mersenne-Twister number in one thread for every element: in `gomez2025-vgg` at batch 64 that was 15 % of
the training step (profile of 60 steps on two cores). Here a random byte decides, drawn in bulk by numpy's SFC64.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

_LEVELS = 256


class Dropout(nn.Module):
    """Sets elements to zero at random while training, and scales the others so that the mean stays.

    Args:
        p: Probability of a zero, in [0, 1). On the CPU it is rounded to a multiple of 1/256, 255 of them at
            most, and the scale with it.

    Source:
        Srivastava et al. 2014. Changed: where the random bits come from.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, or in training `x` with some elements zero; any shape and floating type."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = min(round(self.p * _LEVELS), _LEVELS - 1)  # of all of them nothing would be left to scale
        if dropped == 0:
            return x
        # One number from torch's generator seeds the bytes: whoever seeds torch decides about them, too.
        seed = int(torch.randint(2**62, ()).item())
        # Whole words of the generator, eight elements each: numpy draws single bytes several times more slowly.
        words = np.random.Generator(np.random.SFC64(seed)).integers(0, 2**64, -(-x.numel() // 8), dtype=np.uint64)
        noise = torch.from_numpy(words.view(np.uint8))[: x.numel()]
        mask = torch.empty_like(x)  # in the memory order of x: for channels_last the product below is one pass
        torch.mul(noise >= dropped, _LEVELS / (_LEVELS - dropped), out=torch.as_strided(mask, (x.numel(),), (1,)))
        return x * mask

    def extra_repr(self) -> str:
        """Return the probability for `print(model)`."""
        return f"p={self.p}"

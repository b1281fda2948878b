"""Mixup and CutMix: each image of a batch mixed with another one, and its target in the same proportion.

Before this: `transforms` has normalised a batch. After this: the loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eyespot.data import augmentations as ops
from eyespot.errors import UsageError


def mix_batch(
    images: Tensor, targets: Tensor, *, mixup_alpha: float, cutmix_alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return a batch in which each image is mixed with another one, and its target in the same proportion.

    Mixing may follow normalisation: both operations are averages or copies of pixels, which commute with it.

    Args:
        images: float32 (B, C, H, W), normalised.
        targets: float (B, K), each row a distribution over the classes.
        mixup_alpha: Strength of mixup, 0 = off; 0.2 to 1 is usual.
        cutmix_alpha: Strength of cutmix, 0 = off; 1 is usual. With both on, each batch throws a coin for one of them.
        generator: The only source of chance.

    Returns:
        Images and targets of the same shapes and types; the very same tensors where both are off.

    Raises:
        UsageError: A negative strength, or targets that are not (B, K) floats.

    Source:
        arXiv:1710.09412 (mixup), arXiv:1905.04899 (CutMix), with one proportion for a batch as in the papers' code.
    """
    for name, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
        if not (0 <= alpha < math.inf):
            raise UsageError(f"{name} = {alpha}", where="mix_batch", remedy="use 0 (off) or a positive number")
    if targets.ndim != 2 or not targets.is_floating_point() or len(targets) != len(images):
        raise UsageError(
            f"targets of type {str(targets.dtype).removeprefix('torch.')} and shape {tuple(targets.shape)}",
            where="mix_batch",
            remedy=f"give soft targets (B, K), one row for each of the {len(images)} images, such as one_hot(labels)",
        )
    if mixup_alpha == 0 and cutmix_alpha == 0:
        return images, targets
    home = generator.device
    partner = ops.moved({"": torch.randperm(len(images), generator=generator, device=home)}, images.device)[""]
    cut = mixup_alpha == 0
    if mixup_alpha > 0 and cutmix_alpha > 0:
        cut = bool(torch.rand((), generator=generator, device=home) < 0.5)
    kept = _beta(cutmix_alpha if cut else mixup_alpha, generator)
    if not cut:
        mixed = images.lerp(images[partner], 1 - kept)
    else:
        height, width = images.shape[2:]
        box, kept = _cutmix_box((height, width), kept, generator)
        mixed = images.clone()
        mixed[:, :, box[0], box[1]] = images[partner][:, :, box[0], box[1]]
    return mixed, targets.lerp(targets[partner], 1 - kept)


def _beta(alpha: float, generator: torch.Generator) -> float:
    """Return a number 0..1 drawn from Beta(alpha, alpha).

    Source:
        R. W. Bailey, "Polar generation of random variates with the t-distribution", Math. Comp. 62 (1994): a t variate
        with 2 alpha degrees of freedom from two uniform numbers, and from it the symmetric beta variate. No rejection,
        so that each call takes as many numbers from the generator. torch's gamma sampler with a generator is private.
    """
    first, second = torch.rand(2, generator=generator, dtype=torch.float64, device=generator.device).tolist()
    cosine = math.cos(2 * math.pi * second)
    # t^2 / (2 alpha) = (u^(-1/alpha) - 1) cos^2; computed as a power of a number under 1, which cannot overflow.
    power = (1 - first) ** (1 / alpha)
    share = (1 - power) * cosine**2 / (power + (1 - power) * cosine**2)
    return 0.5 + math.copysign(0.5, cosine) * math.sqrt(share)


def _cutmix_box(size: tuple[int, int], kept: float, generator: torch.Generator) -> tuple[tuple[slice, slice], float]:
    """Return the rows and columns that come from the partner, and the share of the area that does not.

    The box has the picture's shape and the area `1 - kept`, around a random point; what lies outside is cut off.
    """
    height, width = size
    side = math.sqrt(1 - kept)
    tall, wide = int(height * side), int(width * side)
    at = torch.rand(2, generator=generator, dtype=torch.float64, device=generator.device).tolist()
    middle_row, middle_col = int(at[0] * height), int(at[1] * width)
    top, left = middle_row - tall // 2, middle_col - wide // 2
    rows = slice(max(top, 0), min(top + tall, height))
    cols = slice(max(left, 0), min(left + wide, width))
    area = (rows.stop - rows.start) * (cols.stop - cols.start)
    return (rows, cols), 1 - area / (height * width)

"""Several views of the same image, averaged: the one place where test-time views are made.

Before this: `predictor` has normalised images. After this: logits, as if there had been one view.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch.nn.functional as F
from torch import Tensor

from eyespot.errors import UsageError, did_you_mean

Views: TypeAlias = Literal["none", "mirror", "mirror-shift"]


def check_views(views: str) -> Views:
    """Return the name of views as it is, or refuse it.

    Raises:
        UsageError: Unknown views.
    """
    for allowed in get_args(Views):
        if views == allowed:
            known: Views = allowed
            return known
    names = get_args(Views)
    raise UsageError(f"unknown views {views!r}.{did_you_mean(str(views), names)}", remedy=f"use {', '.join(names)}")


def view_logits(model: Callable[[Tensor], Tensor], images: Tensor, views: Views) -> Tensor:
    """Return the logits of a batch, averaged over the views of each image.

    Args:
        model: float32 (B, C, H, W) in, logits (B, K) out, of any float type; no batch statistics.
        images: float32 (B, C, H, W), normalised.
        views: `none`; `mirror`: the mean with the mirrored image; `mirror-shift`: half of the weight for those two, a
            quarter each for the image moved by one pixel down and right, and by one up and left, with reflected
            borders, both also mirrored.

    Returns:
        float32 (B, K). A mean of logits, not of probabilities.

    Raises:
        UsageError: Unknown views, or images of 1 px, which cannot be shifted.

    Source:
        arXiv:2404.00498 (airbench), section 3.5 and its code, `infer_mirror_translate`. Changed: each view's logits
        become float32 before they are averaged.
    """
    views = check_views(views)
    if views == "none":
        return model(images).float()
    centre = _mirror_mean(model, images)
    if views == "mirror":
        return centre
    height, width = images.shape[2:]
    if min(height, width) < 2:
        raise UsageError(
            f"views 'mirror-shift' of images of {height}x{width} px", remedy="use views 'mirror' or larger images"
        )
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")  # (B, C, H + 2, W + 2)
    down_right = _mirror_mean(model, padded[:, :, :height, :width])
    up_left = _mirror_mean(model, padded[:, :, 2:, 2:])
    return 0.5 * centre + 0.25 * down_right + 0.25 * up_left


def _mirror_mean(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return float32 (B, K): the mean logits of the images as they are and mirrored."""
    return 0.5 * model(images).float() + 0.5 * model(images.flip(3)).float()

"""What every eyespot model can do, and what it refuses.

Before it: the registry, which calls the checks here when a model is built. After it: training, evaluation and export,
which know models only by `ImageClassifier`, so that our own networks and timm's are used in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from eyespot.errors import ModelError

if TYPE_CHECKING:  # Only for the types: looking a model up must not wait for torch.
    from torch import Tensor, nn


@runtime_checkable
class ImageClassifier(Protocol):
    """A backbone with a head, in timm's vocabulary.

    `forward(images)` always equals `forward_head(forward_features(images))`.

    Attributes:
        num_classes: Number of outputs, K.
        in_channels: Number of image channels, C.
        num_features: Length of the vector that the classifier reads.
    """

    num_classes: int
    in_channels: int
    num_features: int

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last feature map, float (B, C', H', W'), of images float (B, C, H, W)."""

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (B, K) of a feature map, or with `pre_logits` what the classifier reads, (B, num_features)."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float (B, K), of images float (B, C, H, W)."""

    def get_classifier(self) -> nn.Module:
        """Return the last layer: (B, num_features) in, (B, K) out."""

    def reset_classifier(self, num_classes: int) -> None:
        """Put a newly initialised last layer with `num_classes` outputs in place of the old one."""


def check_num_classes(name: str, num_classes: int) -> None:
    """Refuse a class count that is no classification.

    Args:
        name: Name of the model, for the error.
        num_classes: Number of classes asked for.

    Raises:
        ModelError: Fewer than two classes.
    """
    if num_classes < 2:
        raise ModelError(
            f"the number of classes is {num_classes}, at least 2 are needed",
            where=f"model {name!r}",
            remedy="give it pictures of two classes or more",
        )


def check_request(name: str, *, num_classes: int, in_channels: int, size_px: int, min_size_px: int) -> None:
    """Refuse what a model cannot be built for, before any layer is made.

    Args:
        name: Name of the model, for the error.
        num_classes: Number of classes asked for; at least 2.
        in_channels: Number of image channels asked for; at least 1.
        size_px: Side of the square images asked for, in pixels.
        min_size_px: Smallest side that leaves at least one pixel of every map.

    Raises:
        ModelError: Too few classes, no channel, or images that are too small; it says the smallest.
    """
    check_num_classes(name, num_classes)
    if in_channels < 1:
        raise ModelError(
            f"the number of image channels is {in_channels}, at least 1 is needed",
            where=f"model {name!r}",
            remedy="use 3 for colour or 1 for grey pictures",
        )
    if size_px < min_size_px:
        raise ModelError(
            f"images of {size_px}x{size_px} px are too small, the smallest are {min_size_px}x{min_size_px} px",
            where=f"model {name!r}",
            remedy="use larger images, or another model (list: eyespot models)",
        )


def check_images(name: str, images: Tensor, *, in_channels: int, size_px: int | None = None) -> None:
    """Refuse a batch that a model was not built for, in words instead of torch's matrix shapes.

    Reads the shape only, so that it costs nothing beside a convolution.

    Args:
        name: Name of the model, for the error.
        images: Batch, (B, C, H, W).
        in_channels: The channels the model was built for.
        size_px: The side the model was built for, in pixels; None where any size will do.

    Raises:
        ModelError: Another rank, channel count or size; it names the expected and the given shape.
    """
    fits = images.ndim == 4 and images.shape[1] == in_channels
    if fits and (size_px is None or (images.shape[2] == size_px and images.shape[3] == size_px)):
        return
    side = ("H", "W") if size_px is None else (size_px, size_px)
    if images.ndim != 4:
        remedy = "stack the images to one batch (torch.stack), a single image is a batch of one"
    elif not fits:
        remedy = f"convert the images, or build the model with in_channels={images.shape[1]}"
    else:
        remedy = f"resize the images to {size_px}x{size_px} px, or build the model with another size_px"
    raise ModelError(
        f"images of shape {tuple(images.shape)} where (B, {in_channels}, {side[0]}, {side[1]}) is expected",
        where=f"model {name!r}",
        remedy=remedy,
    )


def check_dropout(where: str, rate: float) -> None:
    """Refuse a dropout rate that is no probability.

    Args:
        where: What it was given for, for the error.
        rate: Probability of a zero, in [0, 1).

    Raises:
        ModelError: A rate outside of [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ModelError(
            f"dropout rate {rate:g} is outside of [0, 1)",
            where=where,
            remedy="use 0 for none, 0.5 for every second value",
        )

"""spot: eyespot's own network for small pictures.

Source:
    The network of airbench94 (Keller Jordan, arXiv:2404.00498, and its Muon variant); with `depth=3` its groups are the
    residual ones of airbench96 (same paper). Changed: any input size from 8 px and any number of channels (a 3x3
    whitening for grey pictures), global max-pooling, float32 weights under autocast, and timm's protocol. The recipe
    `fast` adds to the speed by training on smaller pictures at first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from eyespot.errors import ModelError
from eyespot.models.protocol import check_images, check_num_classes

NAME = "spot"

_LEAST_VARIANCE = 2e-2
_PATCHES = 5_000 * 32 * 32  # at a time
"""Added to each direction's variance, so that those that hardly vary are not blown up (docs/decisions/003).

airbench94 adds 5e-4 to pixels like these; on JPEG files, which have next to no fine colour, that multiplies the
faintest noise of another camera by 40.
"""


class Spot(nn.Module):
    """Whitening convolution, three groups of two or three 3x3 convolutions, global max-pooling, linear classifier.

    Args:
        num_classes: K.
        in_channels: C.
        widths: Channels of the three groups.
        depth: Convolutions in each group, 2 or 3; the third is added to what the first gave.
        whiten: Whether the first convolution whitens and stays as it is; without, it is learned like the others, which
            is for ablations.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        widths: tuple[int, int, int] = (64, 256, 256),
        depth: int = 2,
        whiten: bool = True,
    ) -> None:
        super().__init__()
        if min(widths) < 1:
            raise ModelError(f"widths are {list(widths)}", where=NAME, remedy="give three numbers of channels from 1")
        if depth not in (2, 3):
            raise ModelError(f"depth is {depth}", where=NAME, remedy="give 2 or 3")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.num_features = widths[-1]
        # 2x2 patches of colour carry 12 directions; grey ones only 4, too few to start with, so they get 3x3.
        kernel = 2 if in_channels >= 3 else 3
        whitened = 2 * in_channels * kernel * kernel
        self.whiten = nn.Conv2d(in_channels, whitened, kernel)
        self.whiten.weight.requires_grad_(not whiten)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        inputs = (whitened, *widths[:-1])
        self.groups = nn.Sequential(*(_Group(i, o, depth) for i, o in zip(inputs, widths, strict=True)))
        self.head = _classifier(self.num_features, num_classes)

    @torch.no_grad()
    def init_from_images(self, images: torch.Tensor) -> None:
        """Set the first convolution so that its outputs on these images are uncorrelated with variance 1.

        Args:
            images: float32 (N, C, H, W), normalised, from the training split only; some thousands are enough.
        """
        if self.whiten.weight.requires_grad:  # built without whitening
            return
        kernel = self.whiten.kernel_size[0]
        width = self.in_channels * kernel * kernel
        covariance, count = torch.zeros(width, width, dtype=torch.float64), 0
        # Patches take 36 times the bytes of their pictures.
        for part in torch.split(images, max(1, _PATCHES // (images.shape[2] * images.shape[3]))):
            patches = part.unfold(2, kernel, 1).unfold(3, kernel, 1)  # (N, C, H', W', k, k)
            flat = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, width).double()
            covariance += flat.T @ flat
            count += len(flat)
        covariance /= count
        values, vectors = torch.linalg.eigh(covariance)
        scaled = vectors.T / torch.sqrt(values.clamp_min(0) + _LEAST_VARIANCE).unsqueeze(1)
        filters = scaled.reshape(-1, self.in_channels, kernel, kernel).to(self.whiten.weight.dtype)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last feature map, float (B, num_features, H', W')."""
        check_images(NAME, images, in_channels=self.in_channels)
        features: torch.Tensor = self.groups(F.gelu(self.whiten(images)))
        return features

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return logits (B, K), or the pooled features (B, num_features) with `pre_logits`."""
        pooled = features.amax((2, 3))
        if pre_logits:
            return pooled
        # The division keeps the logits small at the start, so that the classifier can learn fast.
        logits: torch.Tensor = self.head(pooled) / self.num_features
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) for images (B, C, H, W)."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh classifier for another number of classes in place."""
        check_num_classes(NAME, num_classes)
        self.num_classes = num_classes
        self.head = _classifier(self.num_features, num_classes).to(self.head.weight)


class _Group(nn.Module):
    """Conv, pool, norm, GELU, conv, norm, GELU, and with depth 3 a residual conv; a map of one pixel is not pooled."""

    def __init__(self, channels_in: int, channels_out: int, depth: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels_in, channels_out)
        self.norm1 = _norm(channels_out)
        self.conv2 = _conv(channels_out, channels_out)
        self.norm2 = _norm(channels_out)
        self.conv3 = _conv(channels_out, channels_out) if depth == 3 else None
        self.norm3 = _norm(channels_out) if depth == 3 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        if min(x.shape[2:]) > 1:
            x = F.max_pool2d(x, 2)
        first = F.gelu(self.norm1(x))
        x = F.gelu(self.norm2(self.conv2(first)))
        if self.conv3 is None or self.norm3 is None:
            return x
        return F.gelu(self.norm3(self.conv3(x)) + first)


def _classifier(num_features: int, num_classes: int) -> nn.Linear:
    """Return a linear layer whose weights have deviation 1; `forward_head` divides by `num_features`."""
    head = nn.Linear(num_features, num_classes, bias=False)
    with torch.no_grad():
        head.weight.div_(head.weight.std())
    return head


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    """Return a 3x3 convolution that starts by passing its input through."""
    conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight[: min(channels_in, channels_out)].data)
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm with a fixed scale and fast statistics, which a short training needs."""
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def build_spot(
    *,
    num_classes: int,
    in_channels: int,
    size_px: int,
    widths: list[int] | tuple[int, ...] = (64, 256, 256),
    depth: int = 2,
    whiten: bool = True,
) -> Spot:
    """Build spot for the registry; it takes any size, so `size_px` is not used."""
    first, second, third = widths
    return Spot(num_classes, in_channels, widths=(first, second, third), depth=depth, whiten=whiten)

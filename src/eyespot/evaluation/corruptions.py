"""Pictures made worse on purpose: fifteen kinds of corruption at five strengths, mirrored and shifted pictures.

Before this: uint8 squares of a split. After this: `robustness` measures what a model makes of them.

Source:
    Kinds and numbers: CIFAR-10-C, Hendrycks and Dietterich 2019, arXiv:1903.12261, section 3 and its published table of
    parameters. Drawn by us: the random numbers are others, and lengths grow with the picture (side / 32), those of
    defocus and motion blur not below 32 px. Changed: frost is drawn instead of cut out of six photographs; fog is
    summed noise of all scales instead of a diamond-square map; in glass blur each pixel takes a neighbour's place
    instead of changing places with it.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from eyespot.arrays import UInt8Array
from eyespot.errors import UsageError

STRENGTHS = (1, 2, 3, 4, 5)
_PUBLISHED_SIDE = 32  # of the pictures that the parameters were made for


@dataclass(frozen=True)
class _Draw:
    """What a corruption is drawn with.

    Attributes:
        strength: 1 to 5.
        scale: Side of the pictures / 32: lengths in pixels are multiplied by it.
        dice: Random numbers of this batch.
    """

    strength: int
    scale: float
    dice: torch.Generator

    @property
    def blur_scale(self) -> float:
        """Return `scale`, at least 1: a kernel that is smaller than a pixel would leave the pictures as they are."""
        return max(1.0, self.scale)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return float32 in [low, high)."""
        return torch.rand(shape, generator=self.dice) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        """Return float32 of mean 0 and deviation 1."""
        return torch.randn(shape, generator=self.dice)


def corrupt(pixels: UInt8Array, kind: str, strength: int, *, seed: int, batch: int = 0) -> UInt8Array:
    """Return pictures made worse.

    Args:
        pixels: uint8 (N, S, S, C), C 1 or 3.
        kind: A name of `CORRUPTIONS` or `SHIFTS`.
        strength: 1 to 5.
        seed: The same seed, batch and pixels give the same result.
        batch: Number of the batch, so that each has random numbers of its own.

    Returns:
        uint8 (N, S, S, C).

    Raises:
        UsageError: Unknown kind or strength.
    """
    made = CORRUPTIONS.get(kind) or SHIFTS.get(kind)
    if made is None or strength not in STRENGTHS:
        raise UsageError(
            f"corruption {kind!r} of strength {strength}", remedy=f"use 1 to 5 of {', '.join([*CORRUPTIONS, *SHIFTS])}"
        )
    number = hashlib.sha256(f"{seed}/{kind}/{strength}/{batch}".encode()).digest()[:8]
    dice = torch.Generator().manual_seed(int.from_bytes(number, "little") >> 1)
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255  # (N, C, S, S)
    changed = made(images, _Draw(strength, images.shape[2] / _PUBLISHED_SIDE, dice))
    # As published: cut off, not rounded. A whole step of 255 may have come out a hair below itself.
    whole = (changed.clamp(0, 1) * 255 + 1e-3).to(torch.uint8)
    return np.ascontiguousarray(whole.permute(0, 2, 3, 1).numpy())


# --------------------------------------------------------------------------------------------------------------- noise


def _gaussian_noise(images: Tensor, draw: _Draw) -> Tensor:
    deviation = (0.04, 0.06, 0.08, 0.09, 0.10)[draw.strength - 1]
    return images + deviation * draw.normal(*images.shape)


def _shot_noise(images: Tensor, draw: _Draw) -> Tensor:
    photons = (500, 250, 100, 75, 50)[draw.strength - 1]
    return torch.poisson(images * photons, generator=draw.dice) / photons


def _impulse_noise(images: Tensor, draw: _Draw) -> Tensor:
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[draw.strength - 1]
    hit = draw.uniform(*images.shape) < share
    return torch.where(hit, (draw.uniform(*images.shape) < 0.5).float(), images)


# ---------------------------------------------------------------------------------------------------------------- blur


def _defocus_blur(images: Tensor, draw: _Draw) -> Tensor:
    radius, soft = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[draw.strength - 1]
    radius, soft = radius * draw.blur_scale, soft * draw.blur_scale
    reach = math.ceil(radius) + max(1, math.ceil(2 * soft))
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    disk = (places[:, None] ** 2 + places**2 <= radius**2).float()
    near = _bell(soft, 1 if draw.scale <= 1 else math.ceil(2 * soft))
    disk = F.conv2d(disk[None, None], (near[:, None] * near)[None, None], padding="same")[0, 0]
    return _filter(images, disk / disk.sum())


def _glass_blur(images: Tensor, draw: _Draw) -> Tensor:
    sigma, _, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[draw.strength - 1]
    reach = max(1, round(draw.scale))
    n, channels, side, _ = images.shape
    images = _blur(images, sigma * draw.scale)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for _ in range(rounds):
        moved = torch.randint(-reach, reach, (2, n, side, side), generator=draw.dice)
        places = (rows + moved[0]).clamp(0, side - 1) * side + (columns + moved[1]).clamp(0, side - 1)  # (N, S, S)
        taken = places.view(n, 1, -1).expand(-1, channels, -1)
        images = images.flatten(2).gather(2, taken).view_as(images)
    return _blur(images, sigma * draw.scale)


def _motion_blur(images: Tensor, draw: _Draw) -> Tensor:
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[draw.strength - 1]
    return _streak(images, radius, sigma, draw.uniform(len(images), low=-45, high=45), draw.blur_scale)


def _zoom_blur(images: Tensor, draw: _Draw) -> Tensor:
    steps = (6, 11, 16, 21, 26)[draw.strength - 1]
    mixed = images.clone()
    for step in range(steps):
        mixed += _zoomed(images, 1 + step / 100)
    return mixed / (steps + 1)


# ------------------------------------------------------------------------------------------------------------- weather


def _snow(images: Tensor, draw: _Draw) -> Tensor:
    mean, deviation, zoom, least, radius, sigma, clear = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[draw.strength - 1]
    n, _, side, _ = images.shape
    small = max(1, round(side / draw.scale))  # flakes grow with the picture
    flakes = F.interpolate(mean + deviation * draw.normal(n, 1, small, small), side, mode="nearest")
    flakes = _zoomed(flakes, zoom)
    flakes = torch.where(flakes < least, 0.0, flakes).clamp(0, 1)
    flakes = _streak(flakes, radius, sigma, draw.uniform(n, low=-135, high=-45), draw.scale)
    pale = torch.maximum(images, _grey(images) * 1.5 + 0.5)
    return clear * images + (1 - clear) * pale + flakes + flakes.rot90(2, (2, 3))


def _frost(images: Tensor, draw: _Draw) -> Tensor:
    kept, ice = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[draw.strength - 1]
    n, _, side, _ = images.shape
    ridges = 1 - (2 * _plasma(n, side, 1.4, draw) - 1).abs()  # bright lines where the noise crosses its middle
    return kept * images + ice * (0.25 + 0.75 * ridges**3)


def _fog(images: Tensor, draw: _Draw) -> Tensor:
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[draw.strength - 1]
    brightest = images.amax((1, 2, 3), keepdim=True)
    foggy = images + amount * _plasma(len(images), images.shape[2], decay, draw)
    return foggy * brightest / (brightest + amount)


def _brightness(images: Tensor, draw: _Draw) -> Tensor:
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[draw.strength - 1]
    value = images.amax(1, keepdim=True)  # V of HSV; hue and saturation stay when all channels grow alike
    raised = (value + more).clamp(max=1)
    return torch.where(value > 0, images * (raised / value.clamp_min(1e-6)), raised)


# ------------------------------------------------------------------------------------------------------------- digital


def _contrast(images: Tensor, draw: _Draw) -> Tensor:
    share = (0.75, 0.5, 0.4, 0.3, 0.15)[draw.strength - 1]
    means = images.mean((2, 3), keepdim=True)
    return (images - means) * share + means


def _elastic(images: Tensor, draw: _Draw) -> Tensor:
    far, sigma, shear = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))[
        draw.strength - 1
    ]
    n, _, side, _ = images.shape
    middle, arm = side // 2, side // 3
    corners = torch.tensor([[middle + arm, middle + arm], [middle + arm, middle - arm], [middle - arm, middle - arm]])
    moved = corners + draw.uniform(n, 3, 2, low=-shear * side, high=shear * side)
    ones = torch.ones(n, 3, 1)
    # (x, y, 1) of the result times this is the place in the picture that it shows, (N, 3, 2).
    back = torch.linalg.solve(torch.cat([moved, ones], 2), corners.float().expand(n, -1, -1))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack([columns, rows, torch.ones_like(rows)], 2).float()  # (S, S, 3)
    images = _taken(images, torch.einsum("yxc,ncd->nyxd", places, back))
    if not far:
        return images
    bent = _blur(draw.uniform(n, 2, side, side, low=-1, high=1), sigma * side) * far * side
    return _taken(images, places[..., :2] + bent.permute(0, 2, 3, 1))


def _pixelate(images: Tensor, draw: _Draw) -> Tensor:
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[draw.strength - 1]
    side = images.shape[2]
    box, small = Image.Resampling.BOX, max(1, int(side * share))
    return _by_pillow(images, lambda picture: picture.resize((small, small), box).resize((side, side), box))


def _jpeg(images: Tensor, draw: _Draw) -> Tensor:
    quality = (80, 65, 58, 50, 40)[draw.strength - 1]

    def again(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return _by_pillow(images, again)


# ------------------------------------------------------------------------------------------------- mirrored and shifted


def _mirrored(images: Tensor, draw: _Draw) -> Tensor:
    return images.flip(3)


def _shifted(images: Tensor, draw: _Draw) -> Tensor:
    """Shift by 1 to 5 px of 32, each picture in one of four directions; what is uncovered shows the mirrored edge."""
    by = min(max(1, round(draw.strength * draw.scale)), images.shape[2] - 1)
    padded, side = F.pad(images, (by, by, by, by), mode="reflect"), images.shape[2]
    corners = torch.tensor([(0, by), (2 * by, by), (by, 0), (by, 2 * by)])
    chosen = corners[torch.randint(4, (len(images),), generator=draw.dice)]
    return torch.stack(
        [one[:, y : y + side, x : x + side] for one, (y, x) in zip(padded, chosen.tolist(), strict=True)]
    )


_Kind = Callable[[Tensor, _Draw], Tensor]
CORRUPTIONS: Mapping[str, _Kind] = {
    "gaussian noise": _gaussian_noise,
    "shot noise": _shot_noise,
    "impulse noise": _impulse_noise,
    "defocus blur": _defocus_blur,
    "glass blur": _glass_blur,
    "motion blur": _motion_blur,
    "zoom blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic": _elastic,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
"""The fifteen kinds of CIFAR-10-C, in their order."""
SHIFTS: Mapping[str, _Kind] = {"mirrored": _mirrored, "shifted": _shifted}
"""What changes no picture for a person; `mirrored` has one strength."""


# --------------------------------------------------------------------------------------------------------------- tools


def _bell(sigma: float, reach: int) -> Tensor:
    """Return the weights of a Gaussian, float32 (2 * reach + 1,), of sum 1."""
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.exp(-(places**2) / (2 * max(sigma, 1e-3) ** 2))
    return weights / weights.sum()


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Return images (N, C, S, S) under a Gaussian, mirrored at the edges, cut off at four deviations."""
    reach = min(int(4 * sigma + 0.5), images.shape[2] - 1)
    if reach == 0:
        return images
    bell = _bell(sigma, reach)
    flat = F.pad(images, (reach, reach, reach, reach), mode="reflect").flatten(0, 1)[:, None]
    found = F.conv2d(F.conv2d(flat, bell.view(1, 1, -1, 1)), bell.view(1, 1, 1, -1))
    return found.view_as(images)


def _filter(images: Tensor, kernel: Tensor) -> Tensor:
    """Return images (N, C, S, S) under a kernel (2r + 1, 2r + 1), mirrored at the edges."""
    reach = min(len(kernel) // 2, images.shape[2] - 1)
    cut = len(kernel) // 2 - reach
    kernel = kernel[cut : len(kernel) - cut, cut : len(kernel) - cut]
    flat = F.pad(images, (reach, reach, reach, reach), mode="reflect").flatten(0, 1)[:, None]
    return F.conv2d(flat, (kernel / kernel.sum())[None, None]).view_as(images)


def _taken(images: Tensor, places: Tensor) -> Tensor:
    """Return what images (N, C, S, S) show at places (N, S, S, 2), x and y in pixels, mirrored at the edges."""
    side = images.shape[2]
    grid = places * (2 / max(side - 1, 1)) - 1
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def _zoomed(images: Tensor, factor: float) -> Tensor:
    """Return the middle of images (N, C, S, S), enlarged."""
    side = images.shape[2]
    middle = (side - 1) / 2
    line = (torch.arange(side) - middle) / factor + middle
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return _taken(images, torch.stack([columns, rows], 2).expand(len(images), -1, -1, -1))


def _streak(images: Tensor, radius: float, sigma: float, degrees: Tensor, scale: float) -> Tensor:
    """Return images (N, C, S, S) as seen in motion: half a Gaussian along a line, at N angles of their own."""
    side = images.shape[2]
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    here = torch.stack([columns, rows], 2).float()  # (S, S, 2)
    along = torch.stack([torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))], 1)  # (N, 2)
    mixed, total = torch.zeros_like(images), 0.0
    for step in range(round(2 * radius * scale) + 1):
        weight = math.exp(-(step**2) / (2 * (sigma * scale) ** 2))
        if weight < 1e-3:
            break
        mixed += weight * _taken(images, here + step * along[:, None, None])
        total += weight
    return mixed / total


def _plasma(count: int, side: int, decay: float, draw: _Draw) -> Tensor:
    """Return clouds, float32 (N, 1, S, S) from 0 to 1: noise of every scale, each finer one weaker by decay squared."""
    cloud = torch.zeros(count, 1, side, side)
    for level in range(1, int(math.log2(_PUBLISHED_SIDE)) + 1):
        noise = draw.uniform(count, 1, 2**level, 2**level, low=-1)
        cloud += F.interpolate(noise, side, mode="bilinear", align_corners=True) * decay ** (-2 * level)
    cloud -= cloud.amin((1, 2, 3), keepdim=True)
    return cloud / cloud.amax((1, 2, 3), keepdim=True).clamp_min(1e-9)


def _grey(images: Tensor) -> Tensor:
    """Return the brightness to the eye, (N, 1, S, S)."""
    if images.shape[1] == 1:
        return images
    return (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _by_pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Return images (N, C, S, S) of which each was changed as a Pillow picture."""
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    squeezed = pixels[..., 0] if pixels.shape[3] == 1 else pixels
    changed = np.stack([np.asarray(change(Image.fromarray(np.ascontiguousarray(one)))) for one in squeezed])
    return torch.from_numpy(changed.reshape(pixels.shape)).permute(0, 3, 1, 2).float() / 255

"""The single operations of augmentation: pixels and one strength per image in, pixels out, on whole batches.

Before this: `transforms` draws the strengths. After this: `transforms` puts the operations in order and normalises.

"Pixels" are uint8 0..255, or float32 in the same 0..255 range once an operation had to interpolate: never values
that were normalised. No operation changes its input in place. Nothing here knows a random generator other than the
one that it is handed inside `Dice`.

Nothing here waits for a GPU (counted on tensors without a device, not measured): a batch's random numbers go there in
one piece (`moved`), and constants once (`constant`).
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Fill: TypeAlias = Literal["reflect", "nearest", "zeros"]
Padding: TypeAlias = Literal["reflect", "zeros", "edge"]
Policy: TypeAlias = Literal["randaugment", "trivialaugment"]

AUTO_OPS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
NUM_STRENGTHS = 31  # steps from "nothing" to "strongest", in both papers' published code
_SIGNED_OPS = frozenset(AUTO_OPS[1:10])


@dataclass(frozen=True)
class Dice:
    """The random numbers of one batch, all from one generator.

    They are drawn and reckoned with where the generator lives, and `moved` brings them to the images: with a generator
    on the CPU a GPU sees the same numbers.

    Attributes:
        count: B, how many numbers each throw gives.
        generator: The only source of chance.
    """

    count: int
    generator: torch.Generator

    def uniform(self, low: float, high: float) -> Tensor:
        """Return float32 (B,), even between `low` and `high`."""
        drawn = torch.rand(self.count, generator=self.generator, device=self.generator.device)
        return drawn.mul_(high - low).add_(low)

    def integers(self, low: int, high: int) -> Tensor:
        """Return int64 (B,), each of `low`..`high` (both included) equally often."""
        return torch.randint(low, high + 1, (self.count,), generator=self.generator, device=self.generator.device)

    def chance(self, probability: float) -> Tensor:
        """Return bool (B,), True with `probability`."""
        return self.uniform(0.0, 1.0) < probability

    def signs(self) -> Tensor:
        """Return float32 (B,), -1 or 1."""
        return self.chance(0.5).float().mul_(2).sub_(1)

    def boxes(
        self, size: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """Return random rectangles inside the picture, as torchvision's RandomResizedCrop and RandomErasing draw them.

        Args:
            size: (H, W) in px.
            area: Smallest and largest share of H * W.
            ratio: Smallest and largest width / height, even on a logarithmic scale.

        Returns:
            int64 (B, 4): top, left, height, width in px; and bool (B,): False where none of ten tries fitted into the
            picture, whose box is then the whole picture.
        """
        height, width = size
        tries = Dice(self.count * 10, self.generator)
        areas = tries.uniform(*area).view(-1, 10) * (height * width)
        ratios = tries.uniform(math.log(ratio[0]), math.log(ratio[1])).view(-1, 10).exp()
        tall = (areas / ratios).sqrt().round().long()  # (B, 10)
        wide = (areas * ratios).sqrt().round().long()
        fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
        first = fits.int().argmax(dim=1, keepdim=True)
        found = fits.any(dim=1)
        tall = tall.gather(1, first).squeeze(1).where(found, height)
        wide = wide.gather(1, first).squeeze(1).where(found, width)
        # u < 1, but float32 u * n can round up to n: the minimum keeps the box inside.
        top = (self.uniform(0.0, 1.0) * (height - tall + 1)).long().minimum(height - tall)
        left = (self.uniform(0.0, 1.0) * (width - wide + 1)).long().minimum(width - wide)
        return torch.stack((top, left, tall, wide), dim=1), found


def moved(numbers: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return the random numbers of a batch where its images are.

    To a GPU they go in one copy out of pinned memory, which nobody waits for: one for each of them, out of ordinary
    memory, would each wait until the GPU has done all that it was asked before.

    Args:
        numbers: By name, of any types and shapes.
        device: Of the images.
    """
    at_home = all(value.device.type == "cpu" for value in numbers.values())
    if device.type != "cuda" or not at_home or not numbers:
        return {name: value.to(device) for name, value in numbers.items()}
    return parted(joined(numbers, pinned=True).to(device, non_blocking=True), numbers)


def joined(numbers: Mapping[str, Tensor], *, pinned: bool = False) -> Tensor:
    """Return the bytes of all tensors in one, uint8 (n,), for `parted`; `pinned` where a GPU can fetch it itself."""
    pieces = [numbers[name].contiguous().view(-1).view(torch.uint8) for name in _largest_first(numbers)]
    whole = torch.empty(sum(map(len, pieces)), dtype=torch.uint8, pin_memory=pinned)
    return torch.cat(pieces, out=whole)


def parted(whole: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that `joined` put into one, as views of it, with the types and shapes of `like`."""
    found, start = {}, 0
    for name in _largest_first(like):
        end = start + like[name].numel() * like[name].element_size()
        found[name] = whole[start:end].view(like[name].dtype).view(like[name].shape)
        start = end
    return found


def _largest_first(numbers: Mapping[str, Tensor]) -> list[str]:
    """Return the names, those of the widest types first: each view then begins at a multiple of its type's width."""
    return sorted(numbers, key=lambda name: -numbers[name].element_size())


@functools.lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers on a device, float32 (n,), copied there the first time; not to be changed in place."""
    with torch.inference_mode(False):  # kept for training, too
        return torch.tensor(values, dtype=torch.float32, device=device)


def per_image(values: Tensor) -> Tensor:
    """Return (B,) values as (B, 1, 1, 1), to be broadcast over images."""
    return values.view(-1, 1, 1, 1)


def as_rows(images: Tensor) -> Tensor:
    """Return (B, C, H, W) as (B, H, W*C), a view where the images are channels_last.

    On the CPU an operation that differs per channel or column is several times faster on whole rows than with an
    innermost axis of 3.
    """
    batch, channels, height, width = images.shape
    return images.permute(0, 2, 3, 1).reshape(batch, height, width * channels)


def from_rows(rows: Tensor, channels: int) -> Tensor:
    """Return (B, H, W*C) as (B, C, H, W), channels_last, sharing memory."""
    batch, height, width = rows.shape
    return rows.view(batch, height, width // channels, channels).permute(0, 3, 1, 2)


def to_uint8(pixels: Tensor) -> Tensor:
    """Return pixels 0..255 (B, C, H, W) as uint8, rounded to the nearest; uint8 comes back as it is."""
    if pixels.dtype == torch.uint8:
        return pixels
    return pixels.round().clamp_(0, 255).to(torch.uint8)


# --- whole pixels: no interpolation, uint8 stays uint8 -------------------------------------------------------------


def mirrored_at_first(indices: Tensor, seed: int) -> Tensor:
    """Return which images are mirrored in epoch 0 of an alternating flip: a coin per image that costs no memory.

    Args:
        indices: int64 (B,), the images' places in the training split.
        seed: The run's seed.

    Returns:
        bool (B,), the same for the same index and seed in every epoch and process.

    Source:
        arXiv:2404.00498, section 3.6, which hashes the index as well. The hash is an integer finaliser in the manner of
        MurmurHash3 whose products stay below 2^63, so that int64 tensors compute it on every device.
    """
    salt = int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=4).digest(), "little")
    bits = (indices & 0xFFFFFFFF) ^ salt
    for _ in range(2):
        bits = ((bits ^ (bits >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return ((bits ^ (bits >> 16)) & 1).bool()


def mirror_and_move(
    images: Tensor, *, mirror: Tensor, upside_down: Tensor, down_px: Tensor, right_px: Tensor, padding: Padding
) -> Tensor:
    """Return images that were mirrored and then cut at another place, by index arithmetic alone.

    Padding by P and cropping at (P + down, P + right) gives the same picture; nothing is padded here.

    Args:
        images: uint8 (B, C, H, W), channels_last for speed.
        mirror: bool (B,), left and right swapped.
        upside_down: bool (B,), top and bottom swapped.
        down_px: int64 (B,), the output's first row is this row of the mirrored image; under H either way.
        right_px: int64 (B,), likewise its first column; under W either way.
        padding: What lies beyond the border.

    Returns:
        uint8 (B, C, H, W), channels_last.
    """
    batch, channels, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device) + down_px[:, None]  # (B, H), may lie outside
    cols = torch.arange(width, device=device) + right_px[:, None]  # (B, W)
    outside = None
    if padding == "zeros":
        outside = ((rows < 0) | (rows >= height))[:, None, :, None] | ((cols < 0) | (cols >= width))[:, None, None, :]
    rows, cols = _into(rows, height, padding), _into(cols, width, padding)
    rows = torch.where(upside_down[:, None], height - 1 - rows, rows)
    cols = torch.where(mirror[:, None], width - 1 - cols, cols)

    # Whole rows are copied first, then the bytes inside them: of nine ways tried on channels_last uint8 the fastest,
    # several times faster than sorting the images by shift or than one index of three dimensions.
    row_index = (torch.arange(batch, device=device)[:, None] * height + rows).view(-1)
    by_row = as_rows(images).reshape(batch * height, width * channels).index_select(0, row_index)
    byte_index = (cols[:, :, None] * channels + torch.arange(channels, device=device)).view(batch, 1, -1)
    moved = from_rows(by_row.view(batch, height, -1).gather(2, byte_index.expand(-1, height, -1)), channels)
    return moved if outside is None else moved.masked_fill(outside, 0)


def _into(index: Tensor, size: int, padding: Padding) -> Tensor:
    """Return the index that supplies the pixel for an index at most `size - 1` outside of 0..size-1."""
    if padding == "reflect":
        last = size - 1
        return last - (last - index.abs()).abs()
    return index.clamp(0, size - 1)


def erase(images: Tensor, boxes: Tensor, color: tuple[float, ...]) -> Tensor:
    """Return images with one rectangle each covered with a colour.

    Args:
        images: Pixels (B, C, H, W), uint8 or float32.
        boxes: int64 (B, 4): top, left, height, width in px; may reach outside; height 0 covers nothing.
        color: C pixel values 0..255, rounded where the images are uint8.

    Returns:
        Pixels of the same dtype and shape, channels_last.
    """
    _, channels, height, width = images.shape
    top, left, tall, wide = (side[:, None] for side in boxes.unbind(1))
    rows = torch.arange(height, device=images.device)
    cols = torch.arange(width, device=images.device).repeat_interleave(channels)
    covered_rows = (rows >= top) & (rows < top + tall)  # (B, H)
    covered_cols = (cols >= left) & (cols < left + wide)  # (B, W*C)
    paint = constant(color, images.device)
    paint = (paint if images.is_floating_point() else paint.round()).to(images.dtype).repeat(width)
    covered = covered_rows[:, :, None] & covered_cols[:, None, :]
    return from_rows(torch.where(covered, paint, as_rows(images)), channels)


# --- one resampling -------------------------------------------------------------------------------------------------


def affine_matrices(
    *, degrees: Tensor, shear_degrees: Tensor, zoom_x: Tensor, zoom_y: Tensor, right_px: Tensor, down_px: Tensor
) -> Tensor:
    """Return rotate x shift x shear x zoom as one matrix per image.

    Args:
        degrees: float32 (B,), rotation, clockwise on the input.
        shear_degrees: float32 (B,), the slant of the vertical.
        zoom_x: float32 (B,), px of the input per px of the output: under 1 enlarges.
        zoom_y: float32 (B,), likewise.
        right_px: float32 (B,), how much further right the input is read: the picture moves left.
        down_px: float32 (B,), how much further down: the picture moves up.

    Returns:
        float32 (B, 2, 3): from an output position (x right, y down, 1) in px from the centre to the input position.

    Source:
        Keras, `apply_affine_transform` of ImageDataGenerator, with its order of operations. Changed: width_shift moves
        along the width (there, the two shifts are swapped).
    """
    angle, slanted = degrees.deg2rad(), (degrees + shear_degrees).deg2rad()
    cos, sin = angle.cos(), angle.sin()
    along_x = torch.stack((cos * zoom_x, -slanted.sin() * zoom_y, cos * right_px - sin * down_px), dim=1)
    along_y = torch.stack((sin * zoom_x, slanted.cos() * zoom_y, sin * right_px + cos * down_px), dim=1)
    return torch.stack((along_x, along_y), dim=1)


def into_boxes(matrices: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the matrices that read from a box of the input, enlarged to the full size, instead of the whole input.

    Args:
        matrices: float32 (B, 2, 3), as `affine_matrices` returns them.
        boxes: int64 (B, 4): top, left, height, width in px.
        size: (H, W) in px.

    Returns:
        float32 (B, 2, 3). Beside the box lie the picture's own pixels, not the fill.
    """
    height, width = size
    top, left, tall, wide = boxes.to(torch.float32).unbind(1)
    scale = torch.stack((wide / width, tall / height), dim=1)  # (B, 2): x, y
    centre = torch.stack((left + (wide - width) / 2, top + (tall - height) / 2), dim=1)
    scaled = matrices * scale[:, :, None]
    return torch.cat((scaled[:, :, :2], scaled[:, :, 2:] + centre[:, :, None]), dim=2)


def affine(images: Tensor, matrices: Tensor, fill: Fill) -> Tensor:
    """Return images resampled once, with bilinear interpolation between pixel centres.

    Args:
        images: Pixels (B, C, H, W), uint8 or float32.
        matrices: float32 (B, 2, 3), as `affine_matrices` returns them.
        fill: What lies beyond the border: the mirrored picture, the nearest edge pixel, or black.

    Returns:
        float32 pixels 0..255 (B, C, H, W).
    """
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device, dtype=torch.float32) - (width - 1) / 2
    y = (torch.arange(height, device=images.device, dtype=torch.float32) - (height - 1) / 2)[:, None]
    # Not F.affine_grid: its matrix product would run in bf16 or TF32 where training allows that, and miss by pixels.
    steps = matrices[:, :, :, None, None]  # (B, 2, 3, 1, 1)
    positions = steps[:, :, 0] * x + steps[:, :, 1] * y + steps[:, :, 2]  # (B, 2, H, W) in px from the centre
    grid = torch.stack((positions[:, 0] * (2 / width), positions[:, 1] * (2 / height)), dim=3)
    beyond = {"reflect": "reflection", "nearest": "border", "zeros": "zeros"}[fill]
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode=beyond, align_corners=False)


# --- light and colour: float32 pixels 0..255 ------------------------------------------------------------------------


def luminance(pixels: Tensor) -> Tensor:
    """Return float32 (B, 1, H, W): the grey value of float32 RGB pixels (ITU-R 601), or the grey pixels themselves."""
    if pixels.shape[1] == 1:
        return pixels
    weights = constant((0.299, 0.587, 0.114), pixels.device).view(1, 3, 1, 1)
    return (pixels * weights).sum(dim=1, keepdim=True)


def _away_from(base: Tensor, pixels: Tensor, factors: Tensor) -> Tensor:
    """Return `base + factor * (pixels - base)`, cut off at 0 and 255; factor 0 gives the base, 1 the pixels."""
    return ((pixels - base) * per_image(factors)).add_(base).clamp_(0, 255)


def adjust_brightness(pixels: Tensor, factors: Tensor) -> Tensor:
    """Return float32 pixels (B, C, H, W) times factors (B,), cut off at 255."""
    return (pixels * per_image(factors)).clamp_(0, 255)


def adjust_contrast(pixels: Tensor, factors: Tensor) -> Tensor:
    """Return float32 pixels (B, C, H, W) whose distance from the image's mean grey was multiplied by factors (B,)."""
    return _away_from(luminance(pixels).mean(dim=(1, 2, 3), keepdim=True), pixels, factors)


def adjust_saturation(pixels: Tensor, factors: Tensor) -> Tensor:
    """Return float32 pixels (B, C, H, W) whose distance from grey was multiplied by factors (B,); C = 1: unchanged."""
    return pixels if pixels.shape[1] == 1 else _away_from(luminance(pixels), pixels, factors)


def adjust_sharpness(pixels: Tensor, factors: Tensor) -> Tensor:
    """Return float32 pixels (B, C, H, W) away from (factor > 1) or towards (< 1) their smoothed selves; factors (B,).

    Source:
        Pillow, `ImageEnhance.Sharpness`: 3x3 filter with weight 5 in the middle and 1 around; the border stays.
    """
    if min(pixels.shape[2:]) < 3:
        return pixels
    smooth = pixels.clone()
    smooth[:, :, 1:-1, 1:-1] = (F.avg_pool2d(pixels, 3, stride=1) * 9 + pixels[:, :, 1:-1, 1:-1] * 4) / 13
    return _away_from(smooth, pixels, factors)


def adjust_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Return RGB images with every hue turned, value and saturation kept.

    Args:
        pixels: float32 0..255 (B, 3, H, W).
        turns: float32 (B,), parts of the colour circle, such as 1/3: red becomes green.

    Returns:
        float32 pixels (B, 3, H, W).

    Source:
        A. R. Smith, "Color gamut transform pairs", SIGGRAPH 1978 (HSV), in the form without cases: channel n is
        V - V S max(0, min(k, 4 - k, 1)) with k = (n + 6 H) mod 6 and n = 5, 3, 1 for red, green and blue.
    """
    red, green, blue = pixels.unbind(1)
    value = pixels.amax(dim=1)  # (B, H, W)
    spread = value - pixels.amin(dim=1)
    safe = spread.clamp(min=1e-6)  # a grey pixel has no hue; its spread of 0 keeps it grey below
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixths = sixths + 6 * turns.view(-1, 1, 1)
    offsets = constant((5.0, 3.0, 1.0), pixels.device).view(1, 3, 1, 1)
    k = (offsets + sixths[:, None]).remainder(6)
    return value[:, None] - spread[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1)


def shift_channels(pixels: Tensor, amounts: Tensor) -> Tensor:
    """Return images with one amount added to all channels, cut off at each image's own smallest and largest value.

    Args:
        pixels: float32 0..255 (B, C, H, W).
        amounts: float32 (B,), in pixel levels.

    Returns:
        float32 pixels (B, C, H, W).

    Source:
        Keras, `apply_channel_shift` of ImageDataGenerator.
    """
    low, high = pixels.amin(dim=(1, 2, 3), keepdim=True), pixels.amax(dim=(1, 2, 3), keepdim=True)
    return torch.minimum(torch.maximum(pixels + per_image(amounts), low), high)


# --- RandAugment and TrivialAugment ---------------------------------------------------------------------------------


def strength_table(policy: Policy, size: tuple[int, int]) -> Tensor:
    """Return how strong each operation is at each of the 31 steps.

    Args:
        policy: Whose space.
        size: (H, W) in px.

    Returns:
        float32 (14, 31), rows in the order of `AUTO_OPS`: slope, px, degrees, change of the factor, bits, or level from
        which a solarised pixel is inverted; 0 where an operation has no strength.
    """
    height, width = size
    wide = policy == "trivialaugment"
    strongest = {
        "shear_x": 0.99 if wide else 0.3,
        "shear_y": 0.99 if wide else 0.3,
        "translate_x": 32.0 if wide else 150 / 331 * width,
        "translate_y": 32.0 if wide else 150 / 331 * height,
        "rotate": 135.0 if wide else 30.0,
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), 0.99 if wide else 0.9),
    }
    steps = torch.linspace(0, 1, NUM_STRENGTHS)
    rows = {name: steps * most for name, most in strongest.items()}
    rows["translate_x"], rows["translate_y"] = rows["translate_x"].floor(), rows["translate_y"].floor()
    rows["posterize"] = (8 - steps * (6 if wide else 4)).round()
    rows["solarize"] = 255 - steps * 255
    return torch.stack([rows.get(name, torch.zeros(NUM_STRENGTHS)) for name in AUTO_OPS])


def throw_auto_ops(
    dice: Dice, size: tuple[int, int], *, policy: Policy, num_ops: int, magnitude: int
) -> list[tuple[Tensor, Tensor]]:
    """Return which random operations of a published policy are applied to each image, and how strong they are.

    Args:
        dice: The batch's random numbers.
        size: (H, W) in px.
        policy: "randaugment": `num_ops` operations of strength `magnitude`; "trivialaugment": one of random strength.
        num_ops: For RandAugment.
        magnitude: For RandAugment, 0..30.

    Returns:
        For each round, where the generator lives, the operations, int64 (B,), and their strengths, float32 (B,), as
        `apply_auto_ops` takes them.

    Source:
        arXiv:1909.13719 (RandAugment), arXiv:2103.10158 (TrivialAugment, its "wide" space), with torchvision's spaces.
        Changed: geometric operations interpolate between pixels and uncover `fill`; torchvision picks the nearest pixel
        and uncovers black by default.
    """
    home = dice.generator.device
    table = strength_table(policy, size).to(home)
    signed = torch.tensor([name in _SIGNED_OPS for name in AUTO_OPS], device=home)
    rounds = []
    for _ in range(num_ops if policy == "randaugment" else 1):
        ops = dice.integers(0, len(AUTO_OPS) - 1)
        steps = dice.integers(0, NUM_STRENGTHS - 1) if policy == "trivialaugment" else torch.full_like(ops, magnitude)
        rounds.append((ops, table[ops, steps] * torch.where(signed[ops], dice.signs(), 1.0)))
    return rounds


def auto_groups(ops: Tensor) -> dict[int, Tensor]:
    """Return the images that are computed together, int64 (n,) each: by operation, the geometric ones under 1.

    How many there are of each decides about shapes. Asked of a GPU that is an answer to be waited for.

    Args:
        ops: int64 (B,), places in `AUTO_OPS`.
    """
    groups = {1: ((ops >= 1) & (ops <= 5)).nonzero().squeeze(1)}
    groups |= {op: (ops == op).nonzero().squeeze(1) for op in range(6, len(AUTO_OPS))}
    return {op: chosen for op, chosen in groups.items() if len(chosen)}


def apply_auto_ops(
    images: Tensor, ops: Tensor, strengths: Tensor, fill: Fill, *, groups: Mapping[int, Tensor] | None = None
) -> Tensor:
    """Return images with one operation of `AUTO_OPS` applied to each.

    Images with the same operation are computed together, whatever their strengths; geometric ones in one resampling.

    Args:
        images: uint8 (B, C, H, W), C 1 or 3. Colour operations leave grey images as they are.
        ops: int64 (B,), places in `AUTO_OPS`.
        strengths: float32 (B,), in the units of `strength_table`, with a sign where the operation has a direction.
        fill: What geometric operations uncover.
        groups: `auto_groups` of the operations, where somebody has them already.

    Returns:
        uint8 (B, C, H, W).
    """
    result = images.clone()
    for op, chosen in (auto_groups(ops) if groups is None else groups).items():
        if op == 1:
            matrices = _auto_matrices(ops[chosen], strengths[chosen], (images.shape[2], images.shape[3]))
            result[chosen] = to_uint8(affine(images[chosen], matrices, fill))
        else:
            result[chosen] = _recolor(AUTO_OPS[op], images[chosen], strengths[chosen])
    return result


def _auto_matrices(ops: Tensor, strengths: Tensor, size: tuple[int, int]) -> Tensor:
    """Return float32 (B, 2, 3) for the geometric operations, in the form of `affine_matrices`."""
    height, width = size
    slope_x, slope_y, right, down, degrees = (
        strengths.where(ops == op, torch.zeros_like(strengths)) for op in range(1, 6)
    )
    cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    # Shears keep the top and the left edge in place, as in the policies' own code; positions count from the centre.
    along_x = torch.stack((cos, -sin + slope_x, -right + slope_x * (height / 2)), dim=1)
    along_y = torch.stack((sin + slope_y, cos, -down + slope_y * (width / 2)), dim=1)
    return torch.stack((along_x, along_y), dim=1)


def _recolor(name: str, images: Tensor, strengths: Tensor) -> Tensor:
    """Return uint8 images (B, C, H, W) after the light or colour operation `name` with strengths (B,)."""
    from torchvision.transforms.v2 import functional as vision  # not at the top: its import takes a second

    if name == "posterize":
        return images & per_image(256 - 2 ** (8 - strengths)).to(torch.uint8)
    if name == "solarize":
        return torch.where(images >= per_image(strengths), 255 - images, images)
    if name == "autocontrast":
        stretched: Tensor = vision.autocontrast(images)
        return stretched
    if name == "equalize":
        flattened: Tensor = vision.equalize(images)
        return flattened
    adjust = {
        "brightness": adjust_brightness,
        "color": adjust_saturation,
        "contrast": adjust_contrast,
        "sharpness": adjust_sharpness,
    }[name]
    return to_uint8(adjust(images.float(), 1 + strengths))

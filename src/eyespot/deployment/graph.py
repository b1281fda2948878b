"""The whole way from decoded pixels to calibrated probabilities as one network, for a file to carry.

Before this: `bundle` gives the network and its input spec. After this: `export` writes the network as ONNX or as a
torch program, and whoever runs the file needs nothing of eyespot.

Pictures are resized here as Pillow resizes them for prediction (`data.resizing`), in operations that ONNX has: each
side is one product with a matrix whose rows are the filter at the places of the output, and the result is rounded to
whole numbers after each side, as Pillow does. `export` compares every file with the predictor, so the two cannot drift
apart.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import PIL
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyespot.data.resizing import largest_margin_px
from eyespot.evaluation.predictor import logits_and_features
from eyespot.evaluation.views import view_logits

if TYPE_CHECKING:
    from eyespot.data.input_spec import InputSpec
    from eyespot.data.resizing import Interpolation
    from eyespot.evaluation.bundle_info import BundleInfo
    from eyespot.evaluation.unknown import UnknownScore

_SUPPORT = {"nearest": 0.5, "bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}  # Pillow's, in pixels of the output
_HALF = 2.0**11  # half of the 22 bits of Pillow's weights
_GREY = (19595.0, 38470.0, 7471.0)  # ITU-R 601-2 luma in 1/65536, as Pillow converts to "L"
_HEIGHT_FIRST = int(PIL.__version__.split(".")[0]) >= 13  # some pictures; earlier versions always begin with the width


class ShippedClassifier(nn.Module):
    """uint8 pictures of any size in; probabilities, logits and, where there is a rule for it, the unknown score out.

    Args:
        model: float32 (B, C, S, S) in, logits (B, K) out; in eval mode.
        info: Input spec, test-time views and temperature.
        unknown: Says how far a picture is from training; None leaves that output away.
    """

    def __init__(self, model: nn.Module, info: BundleInfo, unknown: UnknownScore | None = None) -> None:
        super().__init__()
        self.model = model
        self.spec = info.input
        self.views = info.views
        self.temperature = info.temperature
        self.num_classes = info.num_classes
        self.preparation = Preparation(info.input)
        self.unknown = unknown

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the answer for a batch of pictures of one size.

        Args:
            images: uint8 RGB 0..255 (B, H, W, 3).

        Returns:
            Probabilities float32 (B, K), divided by the temperature before softmax; logits float32 (B, K), averaged
            over the views, not divided; with a rule the unknown score float32 (B,), higher is farther from training.
        """
        prepared = self.preparation(images)
        if self.unknown is None:
            logits = view_logits(self.model, prepared, self.views)
            return torch.softmax(logits / self.temperature, dim=1), logits
        found = view_logits(partial(logits_and_features, self.model), prepared, self.views)
        logits, features = found[:, : self.num_classes], found[:, self.num_classes :]
        return torch.softmax(logits / self.temperature, dim=1), logits, self.unknown(prepared, logits, features)


class Preparation(nn.Module):
    """Resizing and normalisation of decoded pictures, in the operations of the predictor.

    Args:
        spec: The model's input.
    """

    scale: Tensor
    offset: Tensor
    enlarge: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        scale = torch.tensor([1 / (255 * std) for std in spec.std]).reshape(-1, 1, 1)
        offset = torch.tensor([m / s for m, s in zip(spec.mean, spec.std, strict=True)]).reshape(-1, 1, 1)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        if spec.input_px != spec.size_px:
            self.register_buffer("enlarge", _interpolation_matrix(spec), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 (B, C, S, S) of uint8 RGB pictures (B, H, W, 3)."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)  # (B, 3, H, W)
        if self.spec.channels == 1:
            red, green, blue = (weight * pixels[:, place] for place, weight in enumerate(_GREY))
            pixels = torch.floor((red + green + blue + 32768.0) / 65536.0).unsqueeze(1)
        squares = self.square(pixels) * self.scale - self.offset
        if self.spec.input_px == self.spec.size_px:
            return squares
        return self.enlarge @ squares @ self.enlarge.T

    def square(self, pixels: Tensor) -> Tensor:
        """Return whole numbers 0..255, float32 (B, C, S, S), of (B, C, H, W): `RowFormat.square` for a batch."""
        # Places of pixels need more digits than float32 has; the matrices are small beside a photograph.
        height, width = (torch.full((), pixels.shape[axis], dtype=torch.float64) for axis in (2, 3))
        size = torch.full((), self.spec.size_px, dtype=torch.float64)
        zero = torch.zeros((), dtype=torch.float64)
        target = [size, size]
        if self.spec.fit == "squash":
            boxes = ((zero, height, zero, size), (zero, width, zero, size))
        elif self.spec.fit == "pad":
            scale = size / torch.maximum(height, width)
            tall, wide = (torch.clamp(torch.round(side * scale), min=1.0) for side in (height, width))
            top, left = torch.floor((size - tall) / 2), torch.floor((size - wide) / 2)
            boxes = ((zero, height, top, tall), (zero, width, left, wide))
            target = [tall, wide]
        else:
            side = torch.minimum(height, width)
            boxes = (((height - side) / 2, side, zero, size), ((width - side) / 2, side, zero, size))
            if self.spec.fit == "short-side":
                boxes = (_strip_box(height, side, self.spec.size_px), _strip_box(width, side, self.spec.size_px))
                target = [boxes[0][3], boxes[1][3]]
        down, across = (
            resize_matrix(self.spec.size_px, pixels.shape[axis], *box, self.spec.interpolation)
            for axis, box in zip((2, 3), boxes, strict=True)
        )
        # Not in the branches: they would have two inputs that share memory, which torch 2.10 refuses.
        across = across.T
        if not _HEIGHT_FIRST:
            return _width_first(pixels, down, across)
        # Where the height is what shrinks; Pillow rounds in between, so the order shows.
        upright = (height - target[0] > 2 * (width - target[1])) & (target[0] < height)
        if torch.compiler.is_exporting():
            squares: Tensor = torch.cond(upright, _height_first, _width_first, (pixels, down, across))
            return squares
        return (_height_first if upright else _width_first)(pixels, down, across)


def _height_first(pixels: Tensor, down: Tensor, across: Tensor) -> Tensor:
    return _across(_down(pixels, down), across)


def _width_first(pixels: Tensor, down: Tensor, across: Tensor) -> Tensor:
    return _down(_across(pixels, across), down)


def _across(pixels: Tensor, matrix: Tensor) -> Tensor:
    """Return (B, C, H, S) of whole numbers (B, C, H, W) and a matrix (W, 2 S)."""
    high, low = (pixels @ matrix).chunk(2, dim=3)
    return _whole(high, low)


def _down(pixels: Tensor, matrix: Tensor) -> Tensor:
    """Return (B, C, S, W) of whole numbers (B, C, H, W) and a matrix (2 S, H)."""
    high, low = (matrix @ pixels).chunk(2, dim=2)
    return _whole(high, low)


def _whole(high: Tensor, low: Tensor) -> Tensor:
    """Return `high` 2^11 + `low`, in 1/2^22, rounded half up and clipped to 0..255, as Pillow does after each side.

    A sum of pixels in 22 bits has more digits than float32; its two halves have not. (Where more than 32 pixels are
    averaged, `low` may round in the last of the 22 bits.)
    """
    whole = torch.floor(high / _HALF)
    rest = (high - whole * _HALF) * _HALF + low
    return torch.clamp(whole + torch.floor(rest / _HALF**2 + 0.5), 0.0, 255.0)


def _strip_box(long: Tensor, short: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return start, extent, first row and count of one side of a strip; its middle is the square."""
    margin = torch.floor((long - short) * size / (2 * short))
    margin = torch.clamp(margin, max=float(largest_margin_px(size)))
    length = size + 2 * margin
    half = short * length / size / 2
    # Pillow keeps the edges of a box, and their difference, in float32.
    start = torch.clamp(long / 2 - half, min=0.0).to(torch.float32)
    end = torch.minimum(long, long / 2 + half).to(torch.float32)
    return start.to(torch.float64), (end - start).to(torch.float64), -margin, length


def resize_matrix(
    size_px: int, length: int, start: Tensor, extent: Tensor, first: Tensor, count: Tensor, filter_name: Interpolation
) -> Tensor:
    """Return the matrix that resizes one side of a picture: the part from `start` on becomes `count` pixels.

    Args:
        size_px: Rows of the matrix, S.
        length: Pixels of the side, L.
        start: Where the part begins, in pixels; float64 ().
        extent: How long it is, in pixels; float64 ().
        first: Row at which the output begins; rows outside of it are zero. float64 ().
        count: Rows of the output; float64 ().
        filter_name: Pillow's name of the filter.

    Returns:
        float32 (2 S, L): Pillow's weights of 22 bits, the upper half of their bits in the first S rows, in 1/2^11, and
        the lower half in the others, in 1/2^22.

    Source:
        Pillow's `Resample.c`, precompute_coeffs and normalize_coeffs_8bpc. Changed: whole numbers are kept in floats.
    """
    rows = torch.arange(size_px, dtype=torch.float64) - first
    scale = extent / count
    centers = (start + (rows + 0.5) * scale).unsqueeze(1)  # (S, 1)
    pixels = torch.arange(length, dtype=torch.float64).unsqueeze(0)  # (1, L)
    if filter_name == "nearest":
        # Added up as Pillow does it: at a tie the last bit decides.
        steps = torch.where(rows < 0, 0.0, torch.where(rows == 0, start + 0.5 * scale, scale))
        weights = (pixels == torch.floor(torch.cumsum(steps, 0)).unsqueeze(1)).to(torch.float64)
    else:
        places = (pixels + 0.5 - centers) / torch.clamp(scale, min=1.0)
        weights = _filter(places, filter_name)
        weights = weights / torch.clamp(weights.sum(dim=1, keepdim=True), min=1e-6)
    inside = ((rows >= 0) & (rows < count)).to(torch.float64).unsqueeze(1)
    fixed = torch.sign(weights) * torch.floor(weights.abs() * inside * _HALF**2 + 0.5)
    high = torch.floor(fixed / _HALF)
    return torch.cat([high, fixed - high * _HALF]).to(torch.float32)


def _filter(places: Tensor, name: Interpolation) -> Tensor:
    """Return Pillow's resampling filter at these distances from its middle."""
    x = places.abs()
    if name == "bilinear":
        return torch.clamp(1.0 - x, min=0.0)
    if name == "bicubic":
        a = -0.5
        near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
        far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
        return torch.where(x < 1.0, near, torch.where(x < 2.0, far, torch.zeros_like(x)))
    return torch.where(x < _SUPPORT[name], _sinc(x) * _sinc(x / 3.0), torch.zeros_like(x))


def _sinc(x: Tensor) -> Tensor:
    angle = x * math.pi
    return torch.where(x == 0.0, torch.ones_like(x), torch.sin(angle) / torch.where(x == 0.0, 1.0, angle))


def _interpolation_matrix(spec: InputSpec) -> Tensor:
    """Return float32 (M, S): what `EvalTransform` does to each side of a square, which is linear, as a matrix."""
    mode = "bicubic" if spec.interpolation == "lanczos" else spec.interpolation
    smooth = {} if mode == "nearest" else {"align_corners": False, "antialias": spec.input_px < spec.size_px}
    columns = torch.eye(spec.size_px).reshape(spec.size_px, 1, spec.size_px, 1).expand(-1, -1, -1, 2)
    resized = F.interpolate(columns, size=(spec.input_px, 2), mode=mode, **smooth)
    return resized[:, 0, :, 0].T.contiguous()

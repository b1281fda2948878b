"""Pixels in, normalised images out, on whole batches: the one place where images are normalised.

Before this: `packing` and `loaders` hand over uint8 pixels of the right size. After this: the model.

`EvalTransform` is the same object in evaluation during training, in the shipped bundle and in prediction.
`TrainTransform` puts the operations of `augmentations` before the same normalisation: an augmentation after it cannot
be expressed. All chance comes from a `torch.Generator` that the caller seeds per seed, epoch and step.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from eyespot.augment_config import AugmentConfig
from eyespot.data import augmentations as ops
from eyespot.data.input_spec import InputSpec
from eyespot.errors import ConfigError, DataError, did_you_mean

_FIT_WORDS = {
    "squash": "squeezed or stretched to a square",
    "crop": "short side resized and the middle square kept",
    "short-side": "short side resized; a random square along the long side in training, else the middle one",
    "pad": "long side resized and the rest padded to a square",
}
_CROP_RATIO = (3 / 4, 4 / 3)  # RandomResizedCrop of torchvision, width / height
_ERASE_AREA, _ERASE_RATIO = (0.02, 0.33), (0.3, 3.3)  # RandomErasing of torchvision


@dataclass(frozen=True)
class EvalTransform:
    """Normalisation and nothing else, the same for the same pixels always.

    Attributes:
        spec: Size, channels, mean and std.
    """

    spec: InputSpec

    def __call__(self, images_uint8: Tensor) -> Tensor:
        """Return the images that the model takes.

        Args:
            images_uint8: uint8 0..255 (B, C, H, W) of the spec's channels and size.

        Returns:
            float32 (B, C, H, W), `(x / 255 - mean) / std`, of the side that the model takes, channels_last where C > 1.
            A picture's values do not depend, to the last bit, on the batch that it is in.

        Raises:
            DataError: The pixels are not uint8, or have another shape than the spec.
        """
        _check_pixels(images_uint8, self.spec)
        return _to_model(_normalise(images_uint8, self.spec), self.spec)

    def describe(self) -> str:
        """Return the whole way from a picture to the model's input in plain words."""
        spec = self.spec
        return (
            f"{'RGB' if spec.channels == 3 else 'grey'} pictures of {spec.size_px} x {spec.size_px} px"
            f" ({_FIT_WORDS[spec.fit]}, {spec.interpolation} interpolation); {_describe_normalisation(spec)}"
        )


@dataclass(frozen=True)
class TrainTransform:
    """Augmentation on pixels, then the normalisation of `EvalTransform`; made by `build_train_transform`.

    Attributes:
        config: What is switched on and how strong.
        spec: Size, channels, mean and std.
        seed: The run's seed: it decides which images an alternating flip mirrors first, nothing else.
    """

    config: AugmentConfig
    spec: InputSpec
    seed: int = 0

    def __call__(
        self, images_uint8: Tensor, labels: Tensor, *, generator: torch.Generator, epoch: int, indices: Tensor
    ) -> Tensor:
        """Return augmented images for the model, the same for the same arguments and generator state.

        Args:
            images_uint8: uint8 0..255 (B, C, H, W) of the spec's channels and size.
            labels: int64 (B,) or targets (B, K). No augmentation here reads or changes a label; they are counted.
            generator: The only source of chance, seeded by the caller per seed, epoch and step. One on the CPU gives
                the same random numbers on every device, and they reach a GPU in one copy that nobody waits for.
            epoch: From 0; alternating flips need it.
            indices: int64 (B,), the images' places in the training split; alternating flips need them.

        Returns:
            float32 (B, C, H, W), normalised, channels_last where C > 1.

        Raises:
            DataError: The pixels are not uint8 or have another shape than the spec, or the numbers of images, labels
                and indices differ.
        """
        augmented = self._augment(images_uint8, labels, generator, epoch, indices)
        return _to_model(_normalise(augmented, self.spec), self.spec)

    def pixels(
        self, images_uint8: Tensor, labels: Tensor, *, generator: torch.Generator, epoch: int, indices: Tensor
    ) -> Tensor:
        """Return what `__call__` would show the model, before normalisation, to be looked at.

        Args:
            images_uint8: As for `__call__`, and so are the others.
            labels: int64 (B,).
            generator: In the same state it gives the same augmentation as in `__call__`.
            epoch: From 0.
            indices: int64 (B,).

        Returns:
            uint8 0..255 (B, C, H, W), new memory.

        Raises:
            DataError: As `__call__`.
        """
        augmented = self._augment(images_uint8, labels, generator, epoch, indices)
        return ops.to_uint8(augmented).clone(memory_format=torch.contiguous_format)

    def describe(self) -> str:
        """Return every active augmentation with its strength, in order, and the normalisation, in plain words."""
        active = [text for is_on, text in _augmentation_words(self.config) if is_on]
        return "; ".join([*(active or ["no augmentation"]), _describe_normalisation(self.spec)])

    def _augment(
        self, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int, indices: Tensor
    ) -> Tensor:
        """Return pixels 0..255 (B, C, H, W), uint8 or, where something was interpolated or recoloured, float32."""
        _check_pixels(images, self.spec)
        if not len(images) == len(labels) == len(indices):
            raise DataError(
                f"{len(images)} images, {len(labels)} labels and {len(indices)} indices",
                where="training batch",
                remedy="give one label and one index per image",
            )
        config = self.config
        thrown = _throw(config, ops.Dice(len(images), generator), (images.shape[2], images.shape[3]))
        thrown = ops.moved(thrown, images.device)
        if config.flip == "alternating":
            thrown["mirror"] = ops.mirrored_at_first(indices.to(images.device), self.seed) ^ bool(epoch % 2)
        pixels = _resample(_mirror_and_move(images, config, thrown), config, thrown)
        pixels = _recolor(_auto_augment(pixels, config, thrown), thrown)
        return _erase(pixels, thrown, tuple(255 * mean for mean in self.spec.mean))


@dataclass(frozen=True)
class AugmentedEvalTransform(EvalTransform):
    """What gomez2025 did to its validation pictures: augmented like training pictures (`mistakes`, never by default).

    Attributes:
        augment: What is switched on. Each batch gets the same augmentation in every epoch, drawn from its content, so
            that a resumed run measures what it would have measured; Keras draws it anew in each epoch.
    """

    augment: AugmentConfig

    def __call__(self, images_uint8: Tensor) -> Tensor:
        """Return augmented and normalised images, float32 (B, C, H, W)."""
        content = zlib.crc32(images_uint8.cpu().contiguous().numpy().tobytes())
        indices = torch.arange(len(images_uint8))
        transform = TrainTransform(self.augment, self.spec)
        generator = torch.Generator().manual_seed(content)
        return transform(images_uint8, indices, generator=generator, epoch=0, indices=indices)

    def describe(self) -> str:
        """Return what is done in plain words, the mistake first."""
        return f"augmented while training, on purpose: {TrainTransform(self.augment, self.spec).describe()}"


def build_train_transform(
    settings: AugmentConfig | Mapping[str, object], spec: InputSpec, *, seed: int = 0
) -> TrainTransform:
    """Return the augmentation pipeline of a recipe's settings for a model's input.

    Args:
        settings: What is switched on; a mapping is validated first.
        spec: Size, channels, mean and std.
        seed: The run's seed, for alternating flips.

    Raises:
        ConfigError: An unknown key or a bad value, a shift or square that is larger than the picture, or a colour
            operation on grey pictures, where it could do nothing. (The colour operation among the 14 of RandAugment and
            TrivialAugment leaves grey pictures as they are, as in Pillow.)
    """
    config = settings if isinstance(settings, AugmentConfig) else _validated(settings)
    if config.translate_px >= spec.size_px:
        raise ConfigError(
            f"translate_px = {config.translate_px} would move pictures of {spec.size_px} px out of sight",
            where="augment",
            remedy=f"use at most {spec.size_px - 1}; an eighth of the side is usual",
        )
    if config.cutout_px >= spec.size_px:
        raise ConfigError(
            f"cutout_px = {config.cutout_px} would cover most of a picture of {spec.size_px} px",
            where="augment",
            remedy=f"use at most {spec.size_px - 1}; a quarter to a half of the side is usual",
        )
    for key, is_on in (
        ("saturation", config.saturation != (1.0, 1.0)),
        ("hue", config.hue > 0),
        ("grayscale", config.grayscale > 0),
    ):
        if is_on and spec.channels == 1:
            raise ConfigError(
                f"{key} = {getattr(config, key)} has no colours to work on in grey pictures",
                where="augment",
                remedy=f"remove {key}, or use brightness and contrast",
            )
    return TrainTransform(config, spec, seed)


def _validated(settings: Mapping[str, object]) -> AugmentConfig:
    """Return the settings as a config, or all that is wrong with them in one error."""
    try:
        return AugmentConfig.model_validate(dict(settings))
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                problems.append(f"unknown key {key!r}.{did_you_mean(key, AugmentConfig.model_fields)}")
            else:
                problems.append(f"{key} = {problem['input']!r}: {problem['msg']}")
        allowed = ", ".join(AugmentConfig.model_fields)
        raise ConfigError("; ".join(problems), where="augment", remedy=f"the keys are {allowed}") from error


def _check_pixels(images: Tensor, spec: InputSpec) -> None:
    """Refuse pixels that are not uint8 (B, C, H, W) of the spec: they may have been normalised or resized elsewhere."""
    if images.dtype != torch.uint8:
        raise DataError(
            f"pixels of type {str(images.dtype).removeprefix('torch.')}, which look as if they were already normalised",
            where="transform",
            remedy="give uint8 pixels 0..255; normalisation is done here, once",
        )
    expected = (spec.channels, spec.size_px, spec.size_px)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise DataError(
            f"pixels of shape {tuple(images.shape)} where (B, {', '.join(map(str, expected))}) is needed",
            where="transform",
            remedy="decode the pictures with the model's input spec",
        )


def _normalise(pixels: Tensor, spec: InputSpec) -> Tensor:
    """Return float32 (B, C, H, W) from pixels 0..255, uint8 or float32."""
    scale, offset = _scale_and_offset(spec, pixels.shape[3], pixels.device)
    # Two roundings, not a fused multiply-add: vector and remainder loops would round it differently, and a picture's
    # values would depend on its place in the batch. In place: float32 pixels are this file's own, never the caller's.
    rows = ops.as_rows(pixels).to(torch.float32).mul_(scale).sub_(offset)
    return ops.from_rows(rows, spec.channels)


@functools.lru_cache(maxsize=16)
def _scale_and_offset(spec: InputSpec, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what each value of a row is multiplied with, and what is then taken off: float32 (W * C,), kept there."""
    scales = [1 / (255 * std) for std in spec.std]
    offsets = [mean / std for mean, std in zip(spec.mean, spec.std, strict=True)]
    with torch.inference_mode(False):  # kept for training, too
        return torch.tensor(scales, device=device).repeat(width), torch.tensor(offsets, device=device).repeat(width)


def _to_model(images: Tensor, spec: InputSpec) -> Tensor:
    """Return normalised images (B, C, S, S) at the side that the model takes, channels_last where C > 1.

    As two matrix products, which is what an interpolation is: 32 to 192 pixels take 32 ms for a batch of 64 on one core
    where `interpolate` takes 150. Each picture is a product of its own, so its values do not depend on its batch.
    """
    side = spec.input_px
    if side == spec.size_px:
        return images
    count, channels = images.shape[:2]
    down, across = _resize_weights(spec.size_px, side, spec.interpolation, channels, images.device)
    with torch.autocast(images.device.type, enabled=False):
        tall = torch.bmm(down.expand(count, -1, -1), ops.as_rows(images))  # (B, S, W * C)
        return ops.from_rows(torch.bmm(tall, across.expand(count, -1, -1)), channels)


@functools.lru_cache(maxsize=8)
def _resize_weights(
    size_px: int, side: int, interpolation: str, channels: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return what `as_rows` is multiplied with from the left, float32 (S, H), and from the right, (W * C, S * C).

    Args:
        size_px: H and W.
        side: S.
        interpolation: As in the input spec.
        channels: C, side by side in a row as channels_last has them.
        device: Where to.
    """
    mode = "bicubic" if interpolation == "lanczos" else interpolation  # torch has no lanczos
    smooth = {} if mode == "nearest" else {"align_corners": False, "antialias": side < size_px}
    with torch.inference_mode(False):  # kept for training, too
        # What torch's interpolation does to the columns of the identity are its weights.
        identity = torch.eye(size_px)[None, None]  # (1, 1, H, H)
        down = F.interpolate(identity, size=(side, size_px), mode=mode, **smooth)[0, 0]
        across = torch.kron(down.T.contiguous(), torch.eye(channels))
        return down.to(device), across.to(device)


def _throw(config: AugmentConfig, dice: ops.Dice, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return all that chance decides about a batch of images (H, W), by the names of the operations, in their order.

    It is drawn before the first operation, so that it goes to the images in one piece. An operation that is off has no
    entry.
    """
    thrown: dict[str, Tensor] = {}
    if config.flip != "none" or config.vertical_flip or config.translate_px:
        if config.flip != "alternating":
            thrown["mirror"] = dice.chance(0.5 if config.flip == "random" else 0.0)
        thrown["upside_down"] = dice.chance(0.5 if config.vertical_flip else 0.0)
        thrown["down_px"] = dice.integers(-config.translate_px, config.translate_px)
        thrown["right_px"] = dice.integers(-config.translate_px, config.translate_px)
    strengths = (config.rotate_degrees, config.zoom, config.shear_degrees, config.width_shift, config.height_shift)
    if any(strengths) or config.random_resized_crop:
        thrown["matrices"] = _throw_matrices(config, dice, size)
    if config.auto != "none":
        rounds = ops.throw_auto_ops(
            dice,
            size,
            policy=config.auto,
            num_ops=config.randaugment_num_ops,
            magnitude=config.randaugment_magnitude,
        )
        for number, (chosen, strength) in enumerate(rounds):
            thrown |= {_auto(number, "ops"): chosen, _auto(number, "strengths"): strength}
            thrown |= {_auto(number, op): places for op, places in ops.auto_groups(chosen).items()}
    return thrown | _throw_colors(config, dice) | _throw_boxes(config, dice, size)


def _auto(number: int, what: str | int) -> str:
    """Return the name of what was thrown for a round of a policy: `ops`, `strengths`, or the places of an operation."""
    return f"auto {number} {what}"


def _throw_matrices(config: AugmentConfig, dice: ops.Dice, size: tuple[int, int]) -> Tensor:
    """Return float32 (B, 2, 3) for crop, rotation, zoom, shear and shift in one step."""
    height, width = size
    matrices = ops.affine_matrices(
        degrees=dice.uniform(-config.rotate_degrees, config.rotate_degrees),
        shear_degrees=dice.uniform(-config.shear_degrees, config.shear_degrees),
        zoom_x=dice.uniform(1 - config.zoom, 1 + config.zoom),
        zoom_y=dice.uniform(1 - config.zoom, 1 + config.zoom),
        right_px=dice.uniform(-config.width_shift * width, config.width_shift * width),
        down_px=dice.uniform(-config.height_shift * height, config.height_shift * height),
    )
    if config.random_resized_crop:
        boxes, _ = dice.boxes(size, (config.random_resized_crop, 1.0), _CROP_RATIO)
        matrices = ops.into_boxes(matrices, boxes, size)
    return matrices


def _throw_colors(config: AugmentConfig, dice: ops.Dice) -> dict[str, Tensor]:
    """Return the strengths of the light and colour operations that are on, (B,) each."""
    thrown, off = {}, (1.0, 1.0)
    if config.channel_shift:
        most = 255 * config.channel_shift
        thrown["channel_shift"] = dice.uniform(-most, most)
    for name in ("brightness", "contrast", "saturation"):
        if (factors := getattr(config, name)) != off:
            thrown[name] = dice.uniform(*factors)
    if config.hue:
        thrown["hue"] = dice.uniform(-config.hue, config.hue)
    if config.grayscale:
        thrown["grayscale"] = dice.chance(config.grayscale)
    return thrown


def _throw_boxes(config: AugmentConfig, dice: ops.Dice, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return the square of cutout and the rectangle of random erasing, int64 (B, 4) each."""
    thrown = {}
    if config.cutout_px:
        top = dice.integers(0, size[0] - 1) - config.cutout_px // 2
        left = dice.integers(0, size[1] - 1) - config.cutout_px // 2
        side = torch.full_like(top, config.cutout_px)
        thrown["cutout"] = torch.stack((top, left, side, side), dim=1)
    if config.random_erasing:
        boxes, found = dice.boxes(size, _ERASE_AREA, _ERASE_RATIO)
        erased = found & dice.chance(config.random_erasing)
        thrown["random_erasing"] = boxes * erased[:, None]
    return thrown


def _mirror_and_move(images: Tensor, config: AugmentConfig, thrown: Mapping[str, Tensor]) -> Tensor:
    """Return uint8 pixels after flips and shifts by whole pixels, or the images where all are off."""
    if "upside_down" not in thrown:
        return images
    moves = {name: thrown[name] for name in ("mirror", "upside_down", "down_px", "right_px")}
    return ops.mirror_and_move(images, **moves, padding=config.padding_mode)


def _resample(images: Tensor, config: AugmentConfig, thrown: Mapping[str, Tensor]) -> Tensor:
    """Return float32 pixels after crop, rotation, zoom, shear and shift in one step, or the images if all are off."""
    return ops.affine(images, thrown["matrices"], config.fill) if "matrices" in thrown else images


def _auto_augment(pixels: Tensor, config: AugmentConfig, thrown: Mapping[str, Tensor]) -> Tensor:
    """Return uint8 pixels after the rounds of a policy, or the pixels as they came without one."""
    number = 0
    while (name := _auto(number, "ops")) in thrown:
        groups = {op: thrown[key] for op in range(len(ops.AUTO_OPS)) if (key := _auto(number, op)) in thrown}
        strengths = thrown[_auto(number, "strengths")]
        pixels = ops.apply_auto_ops(ops.to_uint8(pixels), thrown[name], strengths, config.fill, groups=groups)
        number += 1
    return pixels


def _recolor(pixels: Tensor, thrown: Mapping[str, Tensor]) -> Tensor:
    """Return float32 pixels after the light and colour operations, or the pixels as they came where all are off."""
    operations = {
        "channel_shift": ops.shift_channels,
        "brightness": ops.adjust_brightness,
        "contrast": ops.adjust_contrast,
        "saturation": ops.adjust_saturation,
        "hue": ops.adjust_hue,
    }
    for name, operation in operations.items():
        if name in thrown:
            pixels = operation(pixels.float(), thrown[name])
    if "grayscale" in thrown:
        pixels = torch.where(ops.per_image(thrown["grayscale"]), ops.luminance(pixels.float()), pixels.float())
    return pixels


def _erase(pixels: Tensor, thrown: Mapping[str, Tensor], color: tuple[float, ...]) -> Tensor:
    """Return pixels with the square of cutout and the rectangle of random erasing covered, which normalise to zero."""
    for name in ("cutout", "random_erasing"):
        if name in thrown:
            pixels = ops.erase(pixels, thrown[name], color)
    return pixels


def _describe_normalisation(spec: InputSpec) -> str:
    """Return the last step of both transforms in words."""
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (spec.mean, spec.std))
    resized = f"; then resized to {spec.model_px} px ({spec.interpolation})" if spec.input_px != spec.size_px else ""
    return f"then pixels / 255, minus mean ({mean}), divided by std ({std}){resized}"


def _augmentation_words(config: AugmentConfig) -> list[tuple[bool, str]]:
    """Return, for each operation in the order of application, whether it is on and what it does in words."""
    beyond = {"reflect": "mirrored picture", "nearest": "nearest edge pixel", "edge": "edge pixel", "zeros": "black"}
    fill = f"uncovered: {beyond[config.fill]}"
    off = (1.0, 1.0)
    uncovers = any((config.rotate_degrees, config.zoom, config.shear_degrees, config.width_shift, config.height_shift))

    def factors(name: str, value: tuple[float, float]) -> tuple[bool, str]:
        return value != off, f"{name} times {value[0]:g} to {value[1]:g}"

    auto = {
        "randaugment": f"RandAugment, {config.randaugment_num_ops} of 14 operations of strength"
        f" {config.randaugment_magnitude} of 30 ({fill})",
        "trivialaugment": f"TrivialAugment, 1 of 14 operations of random strength ({fill})",
    }
    return [
        (config.flip == "random", "mirrored left-right with probability 0.5"),
        (config.flip == "alternating", "mirrored left-right in every other epoch, half of the pictures first"),
        (config.vertical_flip, "turned upside down with probability 0.5"),
        (
            config.translate_px > 0,
            f"shifted by up to {config.translate_px} px each way (uncovered: {beyond[config.padding_mode]})",
        ),
        (
            config.random_resized_crop > 0,
            f"cropped to {100 * config.random_resized_crop:.3g} to 100 % of the area and enlarged to full size",
        ),
        (config.rotate_degrees > 0, f"rotated by up to {config.rotate_degrees:g} degrees"),
        (config.width_shift > 0, f"shifted sideways by up to {config.width_shift:.3g} of the width"),
        (config.height_shift > 0, f"shifted up or down by up to {config.height_shift:.3g} of the height"),
        (config.shear_degrees > 0, f"sheared by up to {config.shear_degrees:g} degrees"),
        (config.zoom > 0, f"{1 - config.zoom:.3g} to {1 + config.zoom:.3g} of width and height shown at full size"),
        (uncovers, fill),
        (config.auto != "none", auto.get(config.auto, "")),
        (config.channel_shift > 0, f"all channels shifted by up to {config.channel_shift:g} of the pixel range"),
        factors("brightness", config.brightness),
        factors("contrast", config.contrast),
        factors("saturation", config.saturation),
        (config.hue > 0, f"hue turned by up to {config.hue:g} of the colour circle"),
        (config.grayscale > 0, f"turned to grey with probability {config.grayscale:g}"),
        (
            config.cutout_px > 0,
            f"a square of {config.cutout_px} px set to the colour that normalises to zero (cutout)",
        ),
        (
            config.random_erasing > 0,
            f"with probability {config.random_erasing:g} a random rectangle set to the colour that normalises to zero",
        ),
    ]

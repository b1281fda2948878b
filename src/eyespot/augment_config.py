"""The settings of the training augmentation, validated, every one of them off by default.

Before this: a recipe's `[augment]` table. After this: `data.transforms.build_train_transform` makes the pipeline of it.
This file knows no tensors, so that the configuration can be read and printed without loading torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _ordered(factors: tuple[float, float]) -> tuple[float, float]:
    """Refuse (max, min) and negative factors."""
    low, high = factors
    if not 0 <= low <= high:
        raise ValueError(f"must be [smallest, largest] factor with 0 <= smallest <= largest, got [{low:g}, {high:g}]")
    return factors


# Smallest and largest factor, drawn per picture; 1 leaves the picture as it is.
FactorRange = Annotated[tuple[float, float], AfterValidator(_ordered)]


class AugmentConfig(BaseModel):
    """How training pictures are varied; validation and test pictures never are.

    Whatever is switched on is applied in one fixed order, on pixels, before normalisation: mirror and shift by whole
    pixels; crop, rotate, zoom, shear and shift in one resampling; `auto`; colour; erasing.

    "Pad by P px and take a random crop of the old size" is the same operation as `translate_px = P`, with
    `padding_mode` saying what was padded: there is only the one setting for both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    flip: Literal["none", "random", "alternating"] = Field(
        default="none",
        description="Mirror left and right: 'random' tosses a coin each time; 'alternating' tosses it once per picture"
        " and then mirrors every picture in every other epoch, so that two epochs in a row always show both sides"
        " (arXiv:2404.00498, section 3.6). Turned off with --set, mirrored test-time views and stored features go too,"
        " unless evaluation.views or features.views is set as well.",
    )
    vertical_flip: bool = Field(
        default=False, description="Turn half of the pictures upside down, which suits pictures without an up and down."
    )
    translate_px: int = Field(
        default=0,
        ge=0,
        description="Shift by a random whole number of pixels up to this many in each direction, which is the same as"
        " padding by so many pixels and taking a random crop; 0 = off.",
    )
    padding_mode: Literal["reflect", "zeros", "edge"] = Field(
        default="reflect",
        description="What translate_px uncovers: the mirrored picture, black, or the repeated edge pixel.",
    )
    random_resized_crop: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Cut out a random part of at least this fraction of the picture's area, with sides in a ratio of"
        " 3:4 to 4:3, and enlarge it to the full size; 0 = off.",
    )
    rotate_degrees: float = Field(
        default=0.0, ge=0, le=180, description="Rotate by a random angle up to this many degrees either way; 0 = off."
    )
    zoom: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Show a random 1 - zoom to 1 + zoom of the picture's width, and of its height on its own, at the"
        " full size (under 1 enlarges, as in Keras); 0 = off.",
    )
    shear_degrees: float = Field(
        default=0.0, ge=0, lt=90, description="Slant by a random angle up to this many degrees either way; 0 = off."
    )
    width_shift: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Shift left or right by up to this fraction of the width, not only by whole pixels; 0 = off.",
    )
    height_shift: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Shift up or down by up to this fraction of the height, not only by whole pixels; 0 = off.",
    )
    fill: Literal["reflect", "nearest", "zeros"] = Field(
        default="reflect",
        description="What rotate, zoom, shear, shifts and auto uncover: the mirrored picture, the nearest edge pixel"
        " (as in Keras), or black.",
    )
    auto: Literal["none", "randaugment", "trivialaugment"] = Field(
        default="none",
        description="A published random policy of 14 operations: RandAugment (arXiv:1909.13719) applies"
        " randaugment_num_ops of one strength, TrivialAugment (arXiv:2103.10158) one operation of random strength.",
    )
    randaugment_num_ops: int = Field(
        default=2,
        ge=1,
        le=14,
        description="How many operations RandAugment applies to each picture, one after another.",
    )
    randaugment_magnitude: int = Field(
        default=9, ge=0, le=30, description="How strong the operations of RandAugment are, from 0 to 30."
    )
    channel_shift: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Add one random amount up to this fraction of the full pixel range to all channels, cut off at the"
        " picture's own darkest and brightest value (as in Keras); 0 = off.",
    )
    brightness: FactorRange = Field(
        default=(1.0, 1.0), description="Multiply the pixels by a random factor from this range; [1, 1] = off."
    )
    contrast: FactorRange = Field(
        default=(1.0, 1.0),
        description="Multiply the distance of the pixels from the picture's mean grey by a random factor from this"
        " range; [1, 1] = off.",
    )
    saturation: FactorRange = Field(
        default=(1.0, 1.0),
        description="Multiply the distance of the colours from grey by a random factor from this range, for colour"
        " pictures only; [1, 1] = off.",
    )
    hue: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Turn the hue by a random part of the colour circle up to this one either way (0.5 reaches every"
        " hue), for colour pictures only; 0 = off.",
    )
    grayscale: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Probability that a colour picture is turned to grey; 0 = off.",
    )
    cutout_px: int = Field(
        default=0,
        ge=0,
        description="Cover one square with sides of this many pixels, around a random point, with the colour that"
        " normalises to zero: the mean of the training pictures, of a backbone its own (arXiv:1708.04552); 0 = off.",
    )
    random_erasing: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Probability that a random rectangle of 2 % to 33 % of the picture is covered with the colour"
        " that normalises to zero, as for cutout (arXiv:1708.04896); 0 = off.",
    )

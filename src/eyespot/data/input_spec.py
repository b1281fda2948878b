"""What a model takes: size, channels, normalisation, and how a picture is brought to it.

Before this: a backbone's own configuration, or what the recipe and the training pictures say. After this: `transforms`,
`decoding` and the bundle hold to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import get_args

from eyespot.data.resizing import Fit, Interpolation, RowFormat
from eyespot.errors import DataError, did_you_mean


@dataclass(frozen=True)
class InputSpec:
    """What a model's images must look like; kept in the bundle, so that prediction does what training did.

    Attributes:
        size_px: Height and width.
        channels: 1 (grey) or 3 (RGB).
        mean: One per channel, in units of pixel / 255.
        std: One per channel, in units of pixel / 255.
        fit: How a picture of another shape becomes a square.
        interpolation: How it is resized.
        model_px: Height and width that the model takes, where that is not `size_px`: squares are resized inside the
            batch, after augmentation and normalisation.

    Raises:
        DataError: A value that no image can have.
    """

    size_px: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Fit = "squash"
    interpolation: Interpolation = "bicubic"
    model_px: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if type(self.size_px) is not int or self.size_px < 1:
            raise _bad_spec("size_px", self.size_px, "a whole number of pixels from 1", "give the side of the square")
        if self.model_px is not None and (type(self.model_px) is not int or self.model_px < 1):
            raise _bad_spec("model_px", self.model_px, "a whole number of pixels from 1", "give the model's side")
        if type(self.channels) is not int or self.channels not in (1, 3):
            raise _bad_spec("channels", self.channels, "1 (grey) or 3 (RGB)", "convert the pictures to one of them")
        for name, smallest, largest in (("mean", "from 0", 1), ("std", "over 0", 255)):
            values = getattr(self, name)
            remedy = "divide statistics of 0..255 pixels by 255"
            if not isinstance(values, tuple) or len(values) != self.channels:
                raise _bad_spec(name, values, f"a tuple of {self.channels}, one number per channel", remedy)
            for value in values:
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if not number or not 0 <= value <= largest or (name == "std" and value == 0):
                    raise _bad_spec(name, values, f"numbers {smallest} to {largest}, in units of pixel / 255", remedy)
        for name, value, allowed in (
            ("fit", self.fit, get_args(Fit)),
            ("interpolation", self.interpolation, get_args(Interpolation)),
        ):
            if value not in allowed:
                raise _bad_spec(name, value, f"one of {', '.join(allowed)}", f"use one of them.{_near(value, allowed)}")

    @property
    def input_px(self) -> int:
        """Return the side of the images that the model takes."""
        return self.model_px or self.size_px

    @property
    def row_format(self) -> RowFormat:
        """Return how a picture becomes the square of this spec."""
        return RowFormat(self.size_px, 1 if self.channels == 1 else 3, self.fit, self.interpolation)

    def as_dict(self) -> dict[str, object]:
        """Return the spec as JSON values, for `from_dict`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> InputSpec:
        """Return the spec that `as_dict` wrote.

        Raises:
            DataError: A key is missing, unknown, or has a value that no image can have.
        """
        known = tuple(cls.__dataclass_fields__)
        for key in values:
            if key not in known:
                raise DataError(
                    f"unknown key {key!r}",
                    where="input spec",
                    remedy=f"allowed are {', '.join(known)}.{_near(key, known)}",
                )
        missing = [key for key in known if key not in values and key != "model_px"]
        if missing:
            raise DataError(f"no {', '.join(missing)}", where="input spec", remedy="write the file with as_dict()")
        parts = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**parts)  # type: ignore[arg-type]  # __post_init__ checks every one of them


def _near(word: object, allowed: tuple[str, ...]) -> str:
    """Return ` Did you mean ...?` where `word` is a word."""
    return did_you_mean(word, allowed) if isinstance(word, str) else ""


def _bad_spec(key: str, value: object, allowed: str, remedy: str) -> DataError:
    """Return the error for one wrong value of an input spec."""
    return DataError(f"{key} = {value!r} is not {allowed}", where="input spec", remedy=remedy)

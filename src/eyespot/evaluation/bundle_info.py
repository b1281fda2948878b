"""What model.json says about a model, and every check of it that needs no weights.

Before this: `finishing` knows what was trained on what, and how well it does. After this: `bundle` writes it beside the
weights, and reads it again from a stranger.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)

from eyespot import __version__
from eyespot.data.dataset import PackedDataset, SplitName
from eyespot.data.input_spec import InputSpec
from eyespot.errors import CheckpointError, DataError, ModelError
from eyespot.evaluation.unknown import UnknownRule
from eyespot.evaluation.views import Views

FORMAT_VERSION: Literal[2] = 2
# Limits on what a bundle may declare, each far over what a real one needs.
_MAX_CLASSES = 100_000
_MAX_NAME_LENGTH = 1000
_MAX_SIZE_PX = 4096  # as in a recipe
_MAX_ARG = 2**14  # an argument of an architecture is a width, a depth or a rate; building loops over it
_MAX_ARG_ITEMS = 64
REMEDY = "take the bundle again from where it was trained, or train again"
ArgValue: TypeAlias = bool | int | float | str | list[int] | list[float]


def _as_unicode(value: object) -> object:
    """Return text that JSON can hold: names of files on Linux may hold bytes that are no text."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


_Text: TypeAlias = Annotated[str, BeforeValidator(_as_unicode)]


class _Part(BaseModel):
    """A part of model.json: unknown keys are errors, numbers are finite, values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Architecture(_Part):
    """Which network.

    Attributes:
        name: A name of the registry.
        args: Its arguments.
    """

    name: str = Field(max_length=_MAX_NAME_LENGTH)
    args: dict[str, ArgValue] = Field(default_factory=dict, max_length=_MAX_ARG_ITEMS)

    @field_validator("args")
    @classmethod
    def _bounded(cls, args: dict[str, ArgValue]) -> dict[str, ArgValue]:
        for key, value in args.items():
            items = value if isinstance(value, list) else [value]
            if len(items) > _MAX_ARG_ITEMS or (isinstance(value, str) and len(value) > _MAX_NAME_LENGTH):
                raise ValueError(f"{key} is too long")
            if any(isinstance(item, (int, float)) and abs(item) > _MAX_ARG for item in items):
                raise ValueError(f"{key} is out of bounds, at most {_MAX_ARG} is allowed")
        return args


class SplitMetrics(_Part):
    """What was measured on one split.

    Attributes:
        n: Images.
        top1: Accuracy, 0 to 1.
        top1_ci95: Its 95 % Wilson interval.
        views: Test-time views it was measured with.
        flaw: What must be said before the figure, such as `leaked`; empty for an honest one.
    """

    n: int = Field(ge=1)
    top1: float = Field(ge=0.0, le=1.0)
    top1_ci95: tuple[float, float]
    views: Views = "none"
    flaw: str = Field("", max_length=200)


class Pretrained(_Part):
    """Where weights came from that were not trained in this run.

    Attributes:
        source: Name and version of the weights.
        licence: Licence they are under, as an SPDX name where it has one.
    """

    source: _Text
    licence: _Text


class Provenance(_Part):
    """How the weights came to be.

    Attributes:
        recipe: Name of the recipe.
        dataset: Name of the data set.
        dataset_fingerprint: Content digest of the data set, as packing computes it.
        pixels_fingerprint: The same before labels were corrected; empty where none were.
        seed: Seed of the training.
        created: Time, UTC, ISO 8601.
        train_seconds: Wall clock of the training.
    """

    recipe: _Text
    dataset: _Text
    dataset_fingerprint: str
    pixels_fingerprint: str = ""
    seed: int = Field(ge=0)
    created: str
    train_seconds: float = Field(ge=0.0)

    def is_of(self, packed: PackedDataset) -> bool:
        """Return whether these are the pictures that it was trained on, with corrected labels or without."""
        known = {self.dataset_fingerprint, self.pixels_fingerprint}
        return packed.fingerprint in known or packed.pixels_fingerprint in known - {""}


def _read_input_spec(value: object) -> InputSpec:
    """Return the input spec of its JSON values; the spec itself checks them."""
    if isinstance(value, InputSpec):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("must be an object")
    try:
        return InputSpec.from_dict(value)
    except DataError as error:
        raise ValueError(error.what) from error


class BundleInfo(_Part):
    """Everything about a model but its weights: the content of model.json.

    Attributes:
        format: Always `eyespot bundle`.
        format_version: Version of this layout.
        eyespot_version: The eyespot that wrote it.
        architecture: Name and arguments for the registry.
        num_classes: K.
        class_names: K names, in the order of the outputs.
        input: Size, channels and normalisation of the images.
        eval_transform: The way from a picture to the model's input in words; written from `input` when it is saved.
        views: Test-time views that predictions are averaged over unless others are asked for.
        temperature: Logits are divided by it before they become probabilities; 1 changes nothing.
        unknown: When a picture is called unknown; None where there was no val to decide it on.
        metrics: What was measured, by split.
        pretrained: Origin and licence of foreign weights; None where training began at random ones.
        provenance: Recipe, data, seed, time.
        precision: `float32` where the run asked for it, and answers keep to it; `auto`: bf16 where it is native.
        weights_dtype: What matrices and filters are stored in: `float16` halves the file; they are loaded to float32.
            Biases, norms and statistics are float32 in both.
        weights_sha256: Digest of weights.safetensors; set when it is saved.
        info_sha256: Digest of all the other values here; set when it is saved.
    """

    format: Literal["eyespot bundle"] = "eyespot bundle"
    format_version: Literal[1, 2] = FORMAT_VERSION
    eyespot_version: str = Field(default=__version__, max_length=_MAX_NAME_LENGTH)
    architecture: Architecture
    num_classes: int = Field(ge=2, le=_MAX_CLASSES)
    class_names: tuple[str, ...] = Field(max_length=_MAX_CLASSES)
    input: Annotated[
        InputSpec, PlainValidator(_read_input_spec), PlainSerializer(InputSpec.as_dict, return_type=dict[str, Any])
    ]
    eval_transform: str = ""
    views: Views = "none"
    temperature: float = Field(default=1.0, ge=1e-3, le=1e3)
    unknown: UnknownRule | None = None
    # The first version kept this key for a later one; it is read and not written.
    unknown_threshold: None = Field(default=None, exclude=True)
    metrics: dict[SplitName, SplitMetrics] = Field(default_factory=dict)
    pretrained: Pretrained | None = None
    provenance: Provenance
    precision: Literal["auto", "float32"] = "auto"
    weights_dtype: Literal["float32", "float16"] = "float32"
    weights_sha256: str = Field(default="", max_length=64)
    info_sha256: str = Field(default="", max_length=64)

    @model_validator(mode="after")
    def _consistent(self) -> BundleInfo:
        if problem := _class_name_problem(self.class_names):
            raise ValueError(problem)
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.num_classes} classes")
        side = max(self.input.size_px, self.input.input_px)
        if side > _MAX_SIZE_PX:
            raise ValueError(f"images of {side} px, at most {_MAX_SIZE_PX} are allowed")
        return self

    def digest(self) -> str:
        """Return the SHA-256 of all values but `info_sha256`, independent of the file's line breaks and spacing."""
        return _digest(self.model_dump(mode="json"))


def _digest(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the values of a model.json but `info_sha256`.

    Of the values that the file has: one of an earlier eyespot lacks the fields that came later.
    """
    sealed = {key: value for key, value in values.items() if key != "info_sha256"}
    text = json.dumps(sealed, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def parse_info(content: bytes, where: Path) -> BundleInfo:
    """Return model.json's content after all checks that need no weights."""
    # pydantic's own JSON parser bounds the nesting, and takes neither NaN nor text for numbers in strict mode.
    try:
        header = _Header.model_validate_json(content)
    except ValidationError as error:
        raise CheckpointError(
            f"not the model.json of an eyespot bundle ({_first_problem(error)})", where=where, remedy=REMEDY
        ) from error
    if header.format_version > FORMAT_VERSION:
        raise CheckpointError(
            f"format version {header.format_version}, this eyespot ({__version__}) reads up to {FORMAT_VERSION}",
            where=where,
            remedy="update it: pip install --upgrade eyespot",
        )
    try:
        info = BundleInfo.model_validate_json(content, strict=True)
    except (ValidationError, ModelError) as error:
        reason = _first_problem(error) if isinstance(error, ValidationError) else error.what
        raise CheckpointError(f"not a valid model.json ({reason})", where=where, remedy=REMEDY) from error
    if _digest(json.loads(content)) != info.info_sha256:
        raise CheckpointError("model.json was changed after it was written", where=where, remedy=REMEDY)
    return info


class _Header(BaseModel):
    """The two values that are read first: they say whether the rest can be understood."""

    model_config = ConfigDict(strict=True)

    format: Literal["eyespot bundle"]
    format_version: int = Field(ge=1)


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"])[:80]
    return f"{key}: {first['msg'][:160]}" if key else first["msg"][:160]


def check_class_names(class_names: Sequence[str]) -> None:
    """Refuse class names that a bundle cannot carry; training asks before its first step, not after its last.

    Class names become words on a terminal and in a page, and programs use them as names of folders: control characters
    and names that lead out of a folder are refused.

    Args:
        class_names: K names.

    Raises:
        DataError: A name is empty, double, very long, has control characters, or is a path that leads elsewhere.
    """
    if problem := _class_name_problem(class_names):
        raise DataError(problem, where="the class names", remedy="rename the class")


def _class_name_problem(class_names: Sequence[str]) -> str:
    """Return what is wrong with the first bad name, or an empty string."""
    seen = set()
    for name in class_names:
        parts = name.replace("\\", "/").split("/")
        if not name.strip():
            problem = "is empty"
        elif len(name) > _MAX_NAME_LENGTH:
            problem = f"has more than {_MAX_NAME_LENGTH} characters"
        elif any(unicodedata.category(c) in {"Cc", "Cs"} for c in name):
            problem = "has control characters"
        elif parts[0] == "" or parts[0][1:2] == ":" or {".", ".."} & set(parts):
            problem = "is a path"
        elif name in seen:
            problem = "is there twice"
        else:
            seen.add(name)
            continue
        return f"class name {name[:80]!r} {problem}"
    return ""

"""The fixed table of eyespot's own networks, timm's beside it, and the one way to build one of them by its name.

Before it: a recipe, a bundle or a call that names a model. After it: training and evaluation, which get a module that
follows `ImageClassifier`. A name is looked up in the table, then among timm's networks, and never imported, so that a
bundle from a stranger cannot name code to run. The modules are imported when a model is built, so that the table can be
listed without torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from eyespot.errors import UsageError, did_you_mean
from eyespot.models.protocol import check_request

if TYPE_CHECKING:  # Only for the types: looking a model up must not wait for torch.
    from torch import nn


@dataclass(frozen=True)
class ModelEntry:
    """What the registry knows about a model without building it.

    Attributes:
        name: The name in recipes, bundles and on the command line.
        title: What it is, in one line.
        build: `module:callable`; called with num_classes, in_channels, size_px and `args`.
        min_size_px: Smallest side of the square images it takes, in pixels.
        default_size_px: Side it is meant for, in pixels.
        source: The publication it comes from.
        args: The keyword arguments it takes, with their defaults; the type of a default is the type of the argument.
            An empty tuple stands for a list of whole numbers of any length.
        is_backbone: Whether it is one of timm's networks under a head, which can have pretrained weights.
    """

    name: str
    title: str
    build: str
    min_size_px: int
    default_size_px: int
    source: str
    args: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    is_backbone: bool = False


_ENTRIES = (
    ModelEntry(
        name="spot",
        title="eyespot's fast network for small pictures, after airbench94",
        build="eyespot.models.spot:build_spot",
        min_size_px=8,
        default_size_px=32,
        source="Jordan 2024, arXiv:2404.00498",
        args=MappingProxyType({"widths": (64, 256, 256), "depth": 2, "whiten": True}),
    ),
    ModelEntry(
        name="convnet3",
        title="three convolutions and a hidden layer (study dll2018)",
        build="eyespot.models.convnet3:ConvNet3",
        min_size_px=8,
        default_size_px=32,
        source="Deep Learning Turkey 2018, Deep Learning Lab, Episode 2: CIFAR-10",
        args=MappingProxyType({"dropout": (0.3, 0.3, 0.4, 0.3)}),
    ),
    ModelEntry(
        name="vgg16-mini",
        title="eight 3x3 convolutions in four blocks (study gomez2025)",
        build="eyespot.models.vgg_mini:VGGMini",
        min_size_px=16,
        default_size_px=32,
        source="Gomez Cruz 2025, CIFAR-10 Image Classification, figure 2",
        args=MappingProxyType({"dropout": (0.2, 0.3, 0.4, 0.5)}),
    ),
    ModelEntry(
        name="alexnet-mini",
        title="five convolutions and three dense layers (study gomez2025)",
        build="eyespot.models.alexnet_mini:AlexNetMini",
        min_size_px=23,
        default_size_px=32,
        source="Gomez Cruz 2025, CIFAR-10 Image Classification, figure 3",
        args=MappingProxyType({"dropout": 0.5}),
    ),
    ModelEntry(
        name="resnet18-small",
        title="ResNet-18 with a 3x3 stem and no first pooling",
        build="eyespot.models.resnet_small:build_resnet18_small",
        min_size_px=8,
        default_size_px=32,
        source="He et al. 2016, arXiv:1512.03385",
        args=MappingProxyType({"width": 64, "zero_init": False}),
    ),
)
# What every backbone takes: its head, and how many of the stages before the last the head sees.
_HEAD_ARGS: Mapping[str, object] = MappingProxyType(
    {"pool": "gap", "hidden": (), "dropout": 0.0, "batch_norm": False, "activation": "relu", "taps": 0}
)
_TABLE: Mapping[str, ModelEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def model_names() -> tuple[str, ...]:
    """Return the names of all models, in the order of the table."""
    return tuple(_TABLE)


def model_entry(name: str) -> ModelEntry:
    """Return what is known about the model `name`.

    Raises:
        UsageError: Neither eyespot nor timm has a model of that name; the nearest one is offered.
    """
    return _TABLE[name] if name in _TABLE else _backbone_entry(name)


def _backbone_entry(name: str) -> ModelEntry:
    """Return the entry of one of timm's networks."""
    from eyespot.models.pretrained import backbone_facts, is_backbone, nearest_backbone

    if not is_backbone(name):
        near = nearest_backbone(name, _TABLE)
        raise UsageError(
            f"Unknown model {name!r}.{near} {len(_TABLE)} models of eyespot, and every model of timm",
            remedy="eyespot models",
        )
    facts = backbone_facts(name)
    return ModelEntry(
        name=name,
        title=f"timm's {facts.name}{f', weights {facts.tag}' if facts.tag else ''}",
        build="eyespot.models.pretrained:build_backbone_classifier",
        min_size_px=1,  # the network itself says where images do not pass
        default_size_px=facts.size_px,
        source="timm (Wightman 2019, doi:10.5281/zenodo.4414861)",
        args=_HEAD_ARGS,
        is_backbone=True,
    )


def check_args(name: str, args: Mapping[str, object]) -> dict[str, object]:
    """Return a model's arguments in the types of their defaults, without building it.

    Raises:
        UsageError: An unknown name, an unknown argument, or an argument of the wrong type.
    """
    entry = model_entry(name)
    return {key: _checked(entry, key, value) for key, value in args.items()}


def all_args(name: str, args: Mapping[str, object]) -> dict[str, object]:
    """Return a model's arguments with the defaults of those that are missing, as JSON has them.

    What is stored with weights must not change its meaning when a default does.

    Raises:
        UsageError: An unknown name, an unknown argument, or an argument of the wrong type.
    """
    complete = {**model_entry(name).args, **check_args(name, args)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in complete.items()}


def build_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    size_px: int,
    args: Mapping[str, object] | None = None,
) -> nn.Module:
    """Return a new model, its weights drawn from torch's global generator.

    Args:
        name: A name from `model_names()`.
        num_classes: Number of outputs, K; at least 2.
        in_channels: Number of image channels, C; at least 1.
        size_px: Side of the square images, in pixels. A model with a Flatten layer takes this size only.
        args: Arguments of the model, as `ModelEntry.args` lists them; what is missing keeps its default. Lists are
            taken for tuples and whole numbers for floats, so that values can come from TOML or JSON.

    Returns:
        A module in training mode, on the CPU, that follows `ImageClassifier`.

    Raises:
        UsageError: An unknown name, an unknown argument, or an argument of the wrong type.
        ModelError: A class count, channel count, size or argument value that the model cannot have.
    """
    entry = model_entry(name)
    checked = check_args(name, args or {})
    check_request(
        name, num_classes=num_classes, in_channels=in_channels, size_px=size_px, min_size_px=entry.min_size_px
    )
    module_name, _, attribute = entry.build.partition(":")
    build = getattr(importlib.import_module(module_name), attribute)
    extra = {"name": name, "args": {**entry.args, **checked}} if entry.is_backbone else checked
    model: nn.Module = build(num_classes=num_classes, in_channels=in_channels, size_px=size_px, **extra)
    return model


def _checked(entry: ModelEntry, key: str, value: object) -> object:
    """Return an argument's value in the type of its default, or refuse it."""
    if key not in entry.args:
        raise UsageError(
            f"Unknown argument {key!r} of model {entry.name!r}.{did_you_mean(key, entry.args)}"
            f" Allowed: {', '.join(entry.args) or 'none'}",
            remedy=f"eyespot models {entry.name}",
        )
    default = entry.args[key]
    if default == ():
        if isinstance(value, (list, tuple)) and all(type(item) is int for item in value):
            return tuple(value)
        kind = "a list of whole numbers"
    elif isinstance(default, tuple):
        if isinstance(value, (list, tuple)) and len(value) == len(default):
            items = [_converted(item, default_item) for item, default_item in zip(value, default, strict=True)]
            if None not in items:
                return tuple(items)
        kind = f"a list of {len(default)} numbers"
    else:
        converted = _converted(value, default)
        if converted is not None:
            return converted
        kind = {bool: "true or false", int: "a whole number", float: "a number"}.get(type(default), "text")
    shown = list(default) if isinstance(default, tuple) else default
    raise UsageError(
        f"{key} is {value!r} and must be {kind}",
        where=f"the arguments of model {entry.name!r}",
        remedy=f"use for example {key} = {shown!r}",
    )


def _converted(value: object, default: object) -> object | None:
    """Return `value` in the type of `default`, or None where that would change what it says."""
    # bool is an int in Python: `dropout = true` must not become 1.0.
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else None
    return value if type(value) is type(default) else None

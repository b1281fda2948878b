"""A backbone cut where its trained part begins: the frozen part encodes each picture once, the rest trains on that.

Before this: a backbone with some first layers frozen. After this: `features` stores what the frozen part makes of every
picture, and the loop trains the rest.

The rest is the same network with nothing in the places of the frozen modules, so that what the frozen part made goes
straight through to the first trained one. Not every network is built so that this works: it is tried on a few images,
and where the logits differ there is no cut.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eyespot.models.pretrained import PretrainedClassifier

# In float32, as a share of the largest logit: the same operations in the same order, so no more than rounding.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Cut:
    """A classifier in two parts.

    Attributes:
        first: Name of the first trained module of the backbone.
        shape: (C, H, W), what it takes.
        frozen: Images (B, C', S, S) in, what the first trained module takes out, flat: (B, C * H * W).
        rest: That in, logits (B, K) out; it shares the trained modules with the classifier.
    """

    first: str
    shape: tuple[int, int, int]
    frozen: nn.Module
    rest: nn.Module


def cut_at_first_trained(model: PretrainedClassifier, images: Tensor) -> Cut | None:
    """Return a classifier in two parts, or None where nothing is frozen, all is, or the network cannot be cut.

    Args:
        model: With some of its backbone's first layers frozen.
        images: float32 (B, C, S, S), two or more, on the model's device; random ones will do.
    """
    first = _first_trained(model.backbone)
    if first is None or model.taps:
        return None
    was_training = model.training
    model.eval()
    try:
        frozen = _Frozen(model, first)
        with torch.no_grad():
            made = frozen.map(images)
            if made.ndim != 4:
                return None
            rest = _Rest(model, first, (made.shape[1], made.shape[2], made.shape[3]))
            expected, found = model(images), rest(made.flatten(1))
        allowed = _TOLERANCE * float(expected.abs().max())
        if found.shape != expected.shape or not bool(((found - expected).abs() <= allowed).all()):
            return None
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, NotImplementedError):
        return None  # a network that cannot do without its first modules
    finally:
        model.train(was_training)
    return Cut(first, rest.shape, frozen, rest)


def _first_trained(backbone: nn.Module) -> str | None:
    """Return the largest module with the first trained parameter and no frozen one; None where there is no cut."""
    flags = [(name, parameter.requires_grad) for name, parameter in backbone.named_parameters()]
    places = [place for place, (_, trained) in enumerate(flags) if trained]
    if not places or places[0] == 0 or not all(trained for _, trained in flags[places[0] :]):
        return None
    parts = flags[places[0]][0].split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        if all(parameter.requires_grad for parameter in backbone.get_submodule(name).parameters()):
            return name
    return None  # one module has frozen and trained parameters


class _Stop(Exception):
    """Ends a forward pass where the rest begins."""


class _Frozen(nn.Module):
    """The frozen part on its own."""

    def __init__(self, model: PretrainedClassifier, first: str) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.first = first

    def map(self, images: Tensor) -> Tensor:
        """Return what the first trained module would take."""
        caught: list[Tensor] = []

        def stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            caught.append(inputs[0])
            raise _Stop

        handle = self.backbone.get_submodule(self.first).register_forward_pre_hook(stop)
        try:
            self.backbone.forward_features(images)  # type: ignore[operator]
        except _Stop:
            return caught[0]
        finally:
            handle.remove()
        raise ValueError(f"{self.first} is not called")

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, C * H * W)."""
        return self.map(images).flatten(1)


class _Rest(nn.Module):
    """The trained part on its own, over what the frozen part made."""

    def __init__(self, model: PretrainedClassifier, first: str, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.model = copy.copy(model)
        self.model._modules = {**model._modules, "backbone": _without_before(model.backbone, first.split("."))}
        self.model.in_channels = shape[0]

    def forward(self, made: Tensor) -> Tensor:
        """Return logits (B, K) of what the frozen part made, (B, C * H * W)."""
        maps = made.view(-1, *self.shape).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.model(maps)
        return logits

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer."""
        return self.model.get_classifier()

    def parameter_depths(self) -> dict[str, int]:
        """Return how deep each parameter lies; see `PretrainedClassifier`."""
        return {f"model.{name}": depth for name, depth in self.model.parameter_depths().items()}


def _without_before(module: nn.Module, path: list[str]) -> nn.Module:
    """Return a copy of a module that shares its children, with nothing in the places of those before a path."""
    copied = copy.copy(module)
    names = list(module._modules)
    place = names.index(path[0])
    children: dict[str, nn.Module | None] = {}
    for number, (name, child) in enumerate(module._modules.items()):
        if number < place:
            children[name] = nn.Identity()
        elif number == place and len(path) > 1 and child is not None:
            children[name] = _without_before(child, path[1:])
        else:
            children[name] = child
    copied._modules = children
    return copied

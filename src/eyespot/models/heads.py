"""The classifier on top of a backbone: pooling, hidden layers, and what they cost before anybody trains them.

Before it: a backbone's feature map. After it: logits. A hidden layer is, in this order, an optional batch norm, the
linear layer, the activation, and dropout; the last linear layer has an optional batch norm before it, and dropout too
where there is no hidden layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from torch import nn

from eyespot.errors import ModelError, did_you_mean
from eyespot.models.dropout import Dropout
from eyespot.models.protocol import check_dropout

Pool: TypeAlias = Literal["gap", "gmp", "concat", "flatten"]
Activation: TypeAlias = Literal["relu", "gelu", "none"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


@dataclass(frozen=True)
class HeadSpec:
    """What stands on top of a backbone.

    Attributes:
        pool: `gap` global average (or what the backbone itself does), `gmp` global maximum, `concat` both, `flatten`
            every place of the map.
        hidden: Widths of the hidden layers; empty for a linear classifier.
        dropout: Share of zeros after each hidden layer, or before the classifier where there is none.
        batch_norm: A batch norm before every linear layer.
        activation: After each hidden layer.

    Raises:
        ModelError: A value that no head can have.
    """

    pool: Pool = "gap"
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    batch_norm: bool = False
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        for key, value, allowed in (
            ("pool", self.pool, get_args(Pool)),
            ("activation", self.activation, get_args(Activation)),
        ):
            if value not in allowed:
                raise ModelError(
                    f"{key} = {value!r}.{did_you_mean(str(value), allowed)}",
                    where="the head",
                    remedy=f"use {', '.join(allowed)}",
                )
        if any(width < 1 for width in self.hidden):
            raise ModelError(f"hidden = {list(self.hidden)}", where="the head", remedy="give widths from 1")
        check_dropout("the head", self.dropout)

    @property
    def is_linear(self) -> bool:
        """Return whether the head is one linear layer and nothing else that is trained."""
        return not self.hidden and not self.batch_norm

    def describe(self) -> str:
        """Return the head in a few words, such as `gap, 512 relu, dropout 0.4`."""
        parts: list[str] = [self.pool]
        if self.hidden:
            parts.append(f"{'-'.join(map(str, self.hidden))} {self.activation}")
        if self.batch_norm:
            parts.append("batch norm")
        if self.dropout:
            parts.append(f"dropout {self.dropout:g}")
        return ", ".join(parts)


def build_head(spec: HeadSpec, num_inputs: int, num_classes: int) -> nn.Sequential:
    """Return the layers from pooled features (B, D) to logits (B, K); the classifier is the last one.

    Args:
        spec: What to build.
        num_inputs: D.
        num_classes: K.
    """
    layers: list[nn.Module] = []
    width = num_inputs
    for hidden in spec.hidden:
        if spec.batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.Linear(width, hidden))
        if spec.activation != "none":
            layers.append(_ACTIVATIONS[spec.activation]())
        if spec.dropout:
            layers.append(Dropout(spec.dropout))
        width = hidden
    if spec.batch_norm:
        layers.append(nn.BatchNorm1d(width))
    if spec.dropout and not spec.hidden:
        layers.append(Dropout(spec.dropout))
    layers.append(nn.Linear(width, num_classes))
    return nn.Sequential(*layers)


def head_parameters(spec: HeadSpec, num_inputs: int, num_classes: int) -> int:
    """Return the trained numbers of a head, batch statistics not among them."""
    widths = [num_inputs, *spec.hidden]
    linear = sum((i + 1) * o for i, o in zip(widths, [*spec.hidden, num_classes], strict=True))
    return linear + (2 * sum(widths) if spec.batch_norm else 0)


def head_notes(
    spec: HeadSpec, map_shape: Sequence[int], num_inputs: int, num_classes: int, *, average_width: int | None = None
) -> list[str]:
    """Return what should be known about a head before it is trained.

    Args:
        spec: The head.
        map_shape: (C, H, W) of the backbone's last map.
        num_inputs: Length of the vectors that the head takes.
        num_classes: K.
        average_width: Length of the vectors under pool `gap`, where the backbone has layers behind its own pooling;
            None where it has none, and they are C long.
    """
    channels, height, width = map_shape
    note = f"head: {spec.describe()}; {head_parameters(spec, num_inputs, num_classes):,} parameters"
    if height * width > 1:
        other = "gap" if spec.pool == "flatten" else "flatten"
        inputs = (average_width or channels) if other == "gap" else channels * height * width
        note += f", with {other} {head_parameters(spec, inputs, num_classes):,} ({height} x {width} map)"
    notes = [note]
    if spec.hidden and spec.activation == "none":
        notes.append(
            "warning: hidden layers without an activation are together no more than one linear layer; "
            "set model.args.activation to relu"
        )
    return notes

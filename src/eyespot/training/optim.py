"""Optimizers by name, each built from plain settings into ordinary torch parameter groups.

Before this: a model. After this: `fit` multiplies each group's `peak_lr` by the schedule's factor and calls `step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from eyespot.config import OptimizerConfig

# A group whose learning rate falls to zero early carries the share of all steps after which it stands still.
UNTIL = "until_fraction"


def build_optimizer(model: nn.Module, settings: OptimizerConfig, *, batch_size: int) -> torch.optim.Optimizer:
    """Return the optimizer over the model's trainable parameters.

    Args:
        model: Parameters with one dimension or less (biases, norms) get no weight decay.
        settings: `lr` is for the mean of the loss over a batch.
        batch_size: Pictures of a step. muon's `bias_lr` and `head_lr` are for the sum over a batch and are
            multiplied by this.
    """
    if settings.name == "muon":
        groups = _muon_groups(model, settings, batch_size)
    else:
        groups = _decay_groups(model, settings.weight_decay, settings.peak_lr, settings.layer_decay)
    optimizer = _OPTIMIZERS[settings.name](groups, settings)
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


def _decay_groups(model: nn.Module, weight_decay: float, lr: float, layer_decay: float) -> list[dict[str, Any]]:
    """Split the parameters by depth, and into those that decay and those that do not.

    Source:
        Layer-wise rates: Howard and Ruder 2018, arXiv:1801.06146; as a geometric series over layers as in BEiT.
    """
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    depths: dict[str, int] = {}
    if layer_decay != 1 and hasattr(model, "parameter_depths"):
        depths = model.parameter_depths()  # type: ignore[operator]
    deepest = max(depths.values(), default=0)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in trainable:
        depth, decays = depths.get(name, deepest), parameter.ndim > 1
        fresh = {"lr": lr * layer_decay ** (deepest - depth), "weight_decay": weight_decay if decays else 0.0}
        groups.setdefault((-depth, not decays), {"params": [], **fresh})["params"].append(parameter)
    # The first group is the deepest layer's: its rate stands in the history.
    return [groups[key] for key in sorted(groups)]


def _muon_groups(model: nn.Module, settings: OptimizerConfig, batch_size: int) -> list[dict[str, Any]]:
    """Filters get orthogonal steps, everything else SGD; the stem's bias is trained for a part of the steps only."""
    classifier = {id(parameter) for parameter in model.get_classifier().parameters()}  # type: ignore[operator]
    filters, biases, head, stem = [], [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in classifier:
            head.append(parameter)
        elif parameter.ndim >= 2:
            filters.append(parameter)
        elif name.startswith("whiten."):
            stem.append(parameter)
        else:
            biases.append(parameter)

    def sgd(parameters: list[nn.Parameter], lr: float, **extra: float) -> dict[str, Any]:
        # The decay is given per picture and independent of the learning rate: each step takes off decay x batch_size.
        return {
            "params": parameters,
            "lr": lr * batch_size,
            "momentum": settings.sgd_momentum,
            "weight_decay": settings.sgd_weight_decay / lr,
            "orthogonal": False,
            **extra,
        }

    groups = [
        {
            "params": filters,
            "lr": settings.peak_lr,
            "momentum": settings.momentum,
            "weight_decay": 0.0,
            "orthogonal": True,
        },
        sgd(stem, settings.bias_lr, **{UNTIL: settings.stem_bias_fraction}),
        sgd(biases, settings.bias_lr),
        sgd(head, settings.head_lr),
    ]
    return [group for group in groups if group["params"]]


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose steps on filters are made orthogonal.

    Each filter bank is also brought back to the norm sqrt(output channels) before its step, so that the learning
    rate alone says how far a step turns it.

    Source:
        Keller Jordan, Muon, and its use in cifar10-airbench's airbench94_muon. Changed: one optimizer for both kinds
        of parameters; the orthogonalisation runs in float32 where bf16 is not native.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, dtype: torch.dtype) -> None:
        defaults = {"lr": 0.1, "momentum": 0.6, "weight_decay": 0.0, "orthogonal": True}
        super().__init__(groups, defaults)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step; parameters without a gradient stay."""
        for group in self.param_groups:
            if group["lr"] == 0:
                continue
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                self._update(parameter, state["momentum_buffer"], group)

    def _update(self, parameter: torch.Tensor, buffer: torch.Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        buffer.mul_(group["momentum"]).add_(gradient)
        update = gradient.add(buffer, alpha=group["momentum"])
        if group["orthogonal"]:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm().clamp_min(1e-12))
            matrix = update.reshape(len(update), -1).to(self._dtype)  # (out, in * kh * kw)
            update = orthogonalize(matrix).view(update.shape).to(parameter.dtype)
        parameter.add_(update, alpha=-group["lr"])


def orthogonalize(matrix: torch.Tensor, *, steps: int = 3) -> torch.Tensor:
    """Return a matrix with the same singular vectors and all singular values near 1.

    Args:
        matrix: float32 or bf16 (M, N).
        steps: Newton-Schulz iterations; three leave the values within about 0.5 to 1.5, which is enough.

    Returns:
        Same dtype and shape.

    Source:
        Quintic Newton-Schulz iteration of Muon (Jordan et al. 2024); coefficients from airbench94_muon.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x: torch.Tensor = matrix / (matrix.norm() + 1e-7)
    tall = matrix.size(0) > matrix.size(1)
    if tall:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def _sgd(groups: list[dict[str, Any]], s: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups, lr=s.peak_lr, momentum=s.momentum, nesterov=s.nesterov and s.momentum > 0, fused=True
    )


def _adam(groups: list[dict[str, Any]], s: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=s.peak_lr, betas=(s.beta1, s.beta2), eps=s.eps, fused=True)


def _adamw(groups: list[dict[str, Any]], s: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=s.peak_lr, betas=(s.beta1, s.beta2), eps=s.eps, fused=True)


def _rmsprop(groups: list[dict[str, Any]], s: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(groups, lr=s.peak_lr, alpha=s.alpha, eps=s.eps, momentum=s.momentum)


def _muon(groups: list[dict[str, Any]], s: OptimizerConfig) -> torch.optim.Optimizer:
    from eyespot.device import plan_compute

    device = groups[0]["params"][0].device
    native = plan_compute(str(device)).precision == "bf16"
    return Muon(groups, dtype=torch.bfloat16 if native else torch.float32)


_OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], OptimizerConfig], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "rmsprop": _rmsprop,
    "muon": _muon,
}

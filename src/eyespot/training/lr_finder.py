"""The learning rate found by a range test: some steps on a copy of the network at a rate that rises until it diverges.

Before this: `prepare` made model and loaders, and the recipe has `optimizer.lr = "auto"`. After this: `fit` gets a
recipe with a number. The number is kept in the run folder (`lr_finder.json`), so that a resumed run has the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import nn

from eyespot.config import Config, OptimizerConfig
from eyespot.data.loaders import Batch, Loader
from eyespot.device import ComputePlan, random_numbers_kept
from eyespot.errors import RunError
from eyespot.files import write_json
from eyespot.runs import LR_FINDER, Run, RunWriter
from eyespot.training.optim import build_optimizer
from eyespot.training.step import TrainData, compute_loss, descend, draw_inputs
from eyespot.training.stopping import stop_signals

_STEPS = 100
_LOWEST = 1e-7
# Steps of Adam's kind are as long as the rate whatever the gradient is: at 1 every weight is lost.
_HIGHEST = {"sgd": 10.0, "muon": 10.0, "adam": 1.0, "adamw": 1.0, "rmsprop": 1.0}
_SMOOTHING = 0.9
_DIVERGED = 4.0
_VALLEY_BEGINS = 0.2  # of the whole fall
_LEAST_FALL = 1e-3  # of the untrained network's loss
# Where no rate makes the loss fall, the run gets a rate that is usual and not one that was found.
_USUAL = {"sgd": 0.01, "muon": 0.1, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-3}
# muon has three rates. `bias_lr` and `head_lr` of a recipe are taken for what goes with this rate of the filters, as
# in the recipes that come with eyespot (0.08 to 0.12).
_MUON_LR = 0.1


class Observer(Protocol):
    """What watches the search."""

    def on_message(self, text: str) -> None:
        """Called with a sentence that the user should read."""

    def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
        """Called after each step."""


@dataclass(frozen=True)
class RangeTest:
    """What a range test measured, all lists of the same length E.

    Attributes:
        rates: Learning rates, rising by the same factor from step to step.
        losses: Loss of each batch before its step.
        smoothed: The same without the chance of the draw: the untrained network's mean loss over all batches, plus the
            smoothed difference to the untrained network's loss on the same batch.
        untrained: That mean loss.
        diverged: Whether it ended before its last step, with a loss that was too high or no number.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    untrained: float
    diverged: bool


@dataclass(frozen=True)
class Choice:
    """A learning rate, and how the loss behaves around it.

    Attributes:
        rate: For the recipe's `optimizer.lr`, three significant digits.
        reason: Where it comes from, in words.
        found: False where no rate made the loss fall, and `rate` is a usual one.
        steepest: Rate at which the loss falls fastest; None where it does not fall.
        lowest: Rate at which it is lowest; None likewise.
        diverges: Rate from which it is higher than that of the untrained network; None where there is none.
    """

    rate: float
    reason: str
    found: bool
    steepest: float | None
    lowest: float | None
    diverges: float | None


def resolve_learning_rate(
    model: nn.Module, data: TrainData, config: Config, *, plan: ComputePlan, writer: RunWriter, observer: Observer
) -> Config:
    """Return the recipe with a number for `optimizer.lr`: the given one, the one found earlier, or one found now.

    Args:
        model: As `prepare_training` made it; it is not changed.
        data: Loaders and transforms; only train is read.
        config: The recipe.
        plan: Device and precision.
        writer: The locked run folder; what is found is written there before this returns.
        observer: Told about steps and the result.

    Raises:
        RunError: `lr_finder.json` was damaged, or the folder cannot be written.
        Interrupted: A signal came during the search.
    """
    if config.optimizer.lr != "auto":
        return config
    known = Run(writer.path).lr_finder
    if not known:
        test = run_range_test(model, data, config, plan=plan, observer=observer)
        choice = choose_rate(test, config.optimizer.name)
        settings = {key: _short(rate) for key, rate in rates_of(config.optimizer, choice.rate).items()}
        known = {"chosen": choice.rate, "settings": settings, **asdict(choice), **asdict(test)}
        del known["rate"]
        write_json(writer.path / LR_FINDER, known)
    settings = _read_settings(known, writer)
    others = "".join(f", {key} {value:.3g}" for key, value in settings.items() if key != "lr")
    observer.on_message(f"learning rate {settings['lr']:.3g}{others}: {known.get('reason')}")
    return config.model_copy(update={"optimizer": config.optimizer.model_copy(update=settings)})


def _read_settings(known: Mapping[str, Any], writer: RunWriter) -> dict[str, float]:
    """Return the rates that a search found, from the content of lr_finder.json."""
    found = known.get("settings")
    values = found.values() if isinstance(found, dict) and "lr" in found else [None]
    if not all(isinstance(value, float) and 0 < value < math.inf for value in values):
        raise RunError(
            "no learning rate", where=writer.path / LR_FINDER, remedy="delete the file: the search is repeated"
        )
    assert isinstance(found, dict)
    return {key: found[key] for key in found if key in OptimizerConfig.model_fields}


def rates_of(settings: OptimizerConfig, rate: float) -> dict[str, float]:
    """Return all learning rates of an optimizer, by their keys in the recipe, for one rate `lr`.

    muon's `bias_lr` and `head_lr` keep their ratio to `lr`: one factor moves all three. A test of `lr` alone would show
    little, because the classifier's own rate brings the loss down whatever the filters do.
    """
    if settings.name != "muon":
        return {"lr": rate}
    factor = rate / _MUON_LR
    return {"lr": rate, "bias_lr": settings.bias_lr * factor, "head_lr": settings.head_lr * factor}


def run_range_test(
    model: nn.Module, data: TrainData, config: Config, *, plan: ComputePlan, observer: Observer
) -> RangeTest:
    """Train a copy of a network for at most 100 steps, at a rate that rises from 1e-7 by a fixed factor each step.

    Everything random is a function of seed and step, as in the loop, and the first steps see what the run's first steps
    will see: the same seed gives the same bits. It ends early where the loss is no number, or where the smoothed loss
    is more than four times its lowest and worse than without training. An epoch of fewer steps is followed by the
    next. Of progressive sizes the first is taken, and parts that are frozen only for the first epochs are trained.

    Raises:
        Interrupted: A signal asked for a stop; a resumed run searches from the start and finds the same.

    Source:
        Smith, Cyclical learning rates (arXiv:1506.01186), section 3.3; rates, number of steps, smoothing and end as in
        fastai's `lr_find`. Changed: each batch's loss is compared with that of the untrained network on the same
        pictures. In the loss alone, the chance of the draw hides a fall of less than a few per cent, which is all that
        a network without normalisation shows in 100 steps (docs/decisions/007-the-learning-rate-finder.md).
    """
    growth = (_HIGHEST[config.optimizer.name] / _LOWEST) ** (1 / (_STEPS - 1))
    untrained, trained = copy.deepcopy(model), copy.deepcopy(model)
    optimizer = _at_rate(trained, data, config, _LOWEST)
    rates: list[float] = []
    losses: list[float] = []
    before: list[float] = []
    diverged = False
    with random_numbers_kept(plan), stop_signals() as check_signals:
        for step, (epoch, batch) in zip(range(_STEPS), _cycle(data.train), strict=False):
            rate = _LOWEST * growth**step
            images, targets = draw_inputs(batch, data, config, step=step, epoch=epoch, progress=0.0)
            with torch.no_grad():
                reference, _ = compute_loss(untrained, images, targets, data, config, plan, step=step)
            loss, _ = compute_loss(trained, images, targets, data, config, plan, step=step)
            observer.on_count("range test of the learning rate", step + 1, _STEPS, unit="steps")
            check_signals()
            if not math.isfinite(float(loss.detach())):
                diverged = True
                break
            rates.append(rate)
            losses.append(float(loss.detach()))
            before.append(float(reference))
            smoothed = smooth(losses, before)
            if smoothed[-1] > max(_DIVERGED * min(smoothed), _mean(before)):
                diverged = True
                break
            wanted_groups = _at_rate(trained, data, config, rate).param_groups
            for group, wanted in zip(optimizer.param_groups, wanted_groups, strict=True):
                # The decay too: that of muon's biases is divided by their rate.
                group["lr"], group["weight_decay"] = wanted["lr"], wanted["weight_decay"]
            descend(trained, optimizer, loss, clip_norm=config.training.clip_norm)
    return RangeTest(rates, losses, smooth(losses, before), _mean(before), diverged)


def _at_rate(model: nn.Module, data: TrainData, config: Config, rate: float) -> torch.optim.Optimizer:
    """Return the recipe's optimizer with a number for `lr`."""
    settings = config.optimizer.model_copy(update=rates_of(config.optimizer, rate))
    return build_optimizer(model, settings, batch_size=data.batch_size)


def _short(rate: float) -> float:
    """Return a rate with three significant digits: typed in by hand it is the same number."""
    return float(f"{rate:.3g}")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def _cycle(loader: Loader) -> Iterator[tuple[int, Batch]]:
    """Yield the batches of one epoch after the other, each with its epoch."""
    epoch = 0
    while True:
        for batch in loader.batches(epoch):
            yield epoch, batch
        epoch += 1


def smooth(losses: Sequence[float], untrained: Sequence[float]) -> list[float]:
    """Return the mean of `untrained` plus the exponentially smoothed difference, free of the bias towards its start.

    Args:
        losses: Floats (E,) of the network that is trained.
        untrained: Floats (E,) of the network it was before, on the same batches.
    """
    level = _mean(untrained)
    average, smoothed = 0.0, []
    for step, (loss, reference) in enumerate(zip(losses, untrained, strict=True)):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * (loss - reference)
        smoothed.append(level + average / (1 - _SMOOTHING ** (step + 1)))
    return smoothed


def choose_rate(test: RangeTest, optimizer: str) -> Choice:
    """Return the middle, on a logarithmic scale, of the valley that a range test went down.

    The valley begins where the smoothed loss has come down a fifth of its fall, and ends where it is lowest.

    Args:
        test: What was measured.
        optimizer: Name of the optimizer, for a usual rate where the loss does not fall by a thousandth.

    Source:
        fastai 2's suggestion `valley`: the middle of the longest stretch over which the loss falls. Changed: theirs
        begins with the first step that is a little lower than the ones before, and so in the flat part. Over 13 tasks
        with three seeds each, theirs was 1.8 powers of ten below the best rate to 1.2 above it (median 0.9 below), this
        one 0.9 below to 0.5 above (median 0.1 below): docs/decisions/007-the-learning-rate-finder.md.
    """
    rates, smoothed = test.rates, test.smoothed
    tried = f"the range test of {len(rates)} steps"
    lowest = min(range(len(rates)), key=lambda step: smoothed[step], default=0)
    fall = test.untrained - smoothed[lowest] if rates else 0.0
    if not fall > _LEAST_FALL * test.untrained:
        reason = f"a usual one for {optimizer}, because {tried} found no rate at which the loss falls"
        return Choice(_USUAL[optimizer], reason, False, None, None, None)
    begin = next(step for step in range(len(rates)) if smoothed[step] <= test.untrained - _VALLEY_BEGINS * fall)
    rate = _short(math.sqrt(rates[begin] * rates[lowest]))
    # One step more on the left: at its first point the valley is already going down.
    steepest = min(
        range(max(begin, 1), lowest + 1), key=lambda step: smoothed[step] - smoothed[step - 1], default=lowest
    )
    worse = (rates[step] for step in range(lowest, len(rates)) if smoothed[step] > test.untrained)
    diverges = next(worse, rates[-1] if test.diverged else None)
    end = f"diverges from {diverges:.2g}" if diverges else f"does not diverge up to {rates[-1]:.2g}"
    reason = f"found by {tried} (loss falls steepest at {rates[steepest]:.2g}, {end})"
    return Choice(rate, reason, True, rates[steepest], rates[lowest], diverges)

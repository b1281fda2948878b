"""How long points will take, from a few real steps of each kind of them.

Before this: `runner` knows what is to be run. After this: it says the time before the first point begins. Data are
opened and packed for it, which the first point would do otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from eyespot.config import Config
from eyespot.device import is_memory_error
from eyespot.errors import EyespotError
from eyespot.opening import Observer

if TYPE_CHECKING:
    from torch import nn

    from eyespot.device import ComputePlan
    from eyespot.models.pretrained import PretrainedClassifier
    from eyespot.training.step import TrainData

# Importing torch, opening the data, writing predictions and report: measured on two cores, without the training.
_START_AND_END_SECONDS = 8.0
_PROBE_SECONDS = 2.0
_MOST_STEPS = 12
_HEAD_STEPS = 5


def estimate_seconds(asked: Sequence[tuple[str, Config]], *, device: str, observer: Observer) -> tuple[float, int]:
    """Return about how long some trainings take one after another, and how many could not be estimated.

    Pictures that several of them encode alike count for the first. Early stopping, and features that are stored before
    or of a frozen part, may end them sooner; what is measured is the machine as busy as it is now.

    Args:
        asked: DATA and settings of each.
        device: `auto`, `cpu`, `cuda` or `mps`.
        observer: Told about data that are packed for it.
    """
    known: dict[str, tuple[float, float] | None] = {}
    total, unknown = 0.0, 0
    encoded: set[str] = set()
    for data, config in asked:
        key = _kind(data, config)
        if key not in known:
            try:
                known[key] = _measure(data, config, device, observer)
            except EyespotError as error:
                known[key] = None
                observer.on_message(f"no estimate for {config.name} on {data}: {error}")
            except BaseException as error:  # safetensors panics with one that is no Exception
                if not is_memory_error(error):
                    raise
                known[key] = None
                batch = config.training.batch_size
                observer.on_message(f"no estimate for {config.name} on {data}: no memory left at batch size {batch}")
        found = known[key]
        if found is None:
            unknown += 1
            continue
        epoch, once = found
        features = _features(data, config)
        if features in encoded:
            once = 0.0
        elif features:
            encoded.add(features)
        training = epoch * config.training.epochs
        if config.training.minutes:
            training = min(training, config.training.minutes * 60)
        total += training + once + _START_AND_END_SECONDS
    _free_gpu()
    return total, unknown


def _free_gpu() -> None:
    """Give back what torch keeps of a GPU's memory: the points are other processes, which would lack it."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def _kind(data: str, config: Config) -> str:
    """Return what is equal for trainings whose steps cost the same."""
    training = config.training.model_copy(update={"seed": 0, "epochs": 1, "minutes": 0.0})
    same = {"name": "", "description": "", "training": training, "schedule": {}, "optimizer": config.optimizer.name}
    return f"{data}|{config.model_copy(update=same)!r}"


def _features(data: str, config: Config) -> str:
    """Return what is equal for trainings that read the same stored features; empty for one that stores none."""
    from eyespot.models.registry import model_entry
    from eyespot.training.prepare import frozen_mode

    model = config.model
    if not model_entry(model.name).is_backbone or model.freeze_until or frozen_mode(config) != "features":
        return ""
    read = (model.name, model.weights, model.args.get("pool") == "flatten", model.args.get("taps", 0))
    views = (config.features.views, config.augment if config.features.views > 2 else "", config.evaluation.views)
    return repr((data, config.input, read, views, "train-on-test" in config.mistakes, config.evaluation.test))


def _measure(data: str, config: Config, device: str, observer: Observer) -> tuple[float, float]:
    """Return the seconds of an epoch with its look at val, and of everything that is done once."""
    from eyespot.device import plan_compute, prepare_process, random_numbers_kept
    from eyespot.finishing import TRAIN_SAMPLE
    from eyespot.models.pretrained import PretrainedClassifier
    from eyespot.opening import divide, open_for, pack_data
    from eyespot.training.prepare import prepare_training
    from eyespot.training.step import fit_sizes
    from eyespot.training.transfer import is_solved, sources_of

    plan = plan_compute(device, config.training.precision)
    prepare_process(plan)  # the points are trained so
    packed = pack_data(open_for(config, data, observer), config, observer)
    splits = divide(packed, config, observer)
    with random_numbers_kept(plan):
        prepared = prepare_training(packed, splits, config, plan)
        with prepared.data.train, prepared.data.val or nullcontext():
            step, forward = _time_steps(prepared.model, prepared.data, fit_sizes(config, prepared.spec.input_px), plan)
    train, val, test = (splits.count("train"), splits.count("val"), splits.count("test"))
    if not config.evaluation.test:
        test = 0
    views = {"none": 1, "mirror": 2, "mirror-shift": 6}[config.evaluation.views]
    if isinstance(prepared.model, PretrainedClassifier) and _features(data, config):
        # Every picture goes through the backbone once, whatever share of them is trained on.
        sources = sources_of(splits, "train", "val")
        known = sum(len(packed.splits[source]) for source in sources)
        unseen = 0 if "test" in sources else test
        with random_numbers_kept(plan):
            head = 0.0 if is_solved(config, prepared.model) else _time_head(prepared.model, config, plan)
        return head * train, forward * (known * config.features.views + unseen * views)
    return step * train * config.training.hardest_share + forward * val, forward * views * (
        min(train, TRAIN_SAMPLE) + val + test
    )


def _time_head(model: PretrainedClassifier, config: Config, plan: ComputePlan) -> float:
    """Return the seconds that a picture's stored features cost in a training step of the head, which is used up."""
    import torch

    from eyespot.training.optim import build_optimizer
    from eyespot.training.step import descend
    from eyespot.training.stored_features import FeatureHead

    settings, size = config.optimizer, config.training.batch_size
    if settings.lr == "auto":
        settings = settings.model_copy(update={"lr": 1e-3})
    head = FeatureHead(model).train()
    optimizer = build_optimizer(head, settings, batch_size=size)
    features = torch.zeros(size, model.encoded_width, device=plan.device)
    labels = torch.zeros(size, dtype=torch.int64, device=plan.device)
    steps = []
    for _ in range(_HEAD_STEPS):
        started = time.perf_counter()
        with plan.autocast():
            logits = head(features)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        descend(head, optimizer, loss, clip_norm=config.training.clip_norm)
        loss.item()  # waits for a GPU
        steps.append(time.perf_counter() - started)
    return sorted(steps)[len(steps) // 2] / size


def _time_steps(model: nn.Module, data: TrainData, config: Config, plan: ComputePlan) -> tuple[float, float]:
    """Return the seconds that a picture costs in a training step, and in a forward pass; the model is used up."""
    import torch

    from eyespot.training.optim import build_optimizer
    from eyespot.training.step import compute_loss, descend, draw_inputs

    settings = config.optimizer
    if settings.lr == "auto":
        settings = settings.model_copy(update={"lr": 1e-3})
    optimizer = build_optimizer(model, settings, batch_size=data.batch_size)
    steps: list[float] = []
    begun = time.perf_counter()
    for number, batch in enumerate(data.train.batches(0)):
        started = time.perf_counter()
        # The last share of the run: with progressive sizes the largest pictures.
        images, targets = draw_inputs(batch, data, config, step=number, epoch=0, progress=1.0)
        loss, _ = compute_loss(model, images, targets, data, config, plan, step=number)
        descend(model, optimizer, loss, clip_norm=config.training.clip_norm)
        loss.item()  # waits for a GPU
        steps.append((time.perf_counter() - started) / len(batch.labels))
        if len(steps) >= _MOST_STEPS or (len(steps) >= 2 and time.perf_counter() - begun > _PROBE_SECONDS):
            break
    model.eval()
    started = time.perf_counter()
    with torch.inference_mode(), plan.autocast():
        model(images).float().sum().item()
    forward = (time.perf_counter() - started) / len(images)
    settled = sorted(steps[1:] or steps)  # the first step chooses kernels
    return settled[len(settled) // 2], forward

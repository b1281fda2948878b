"""From a recipe and packed pictures to what the loop takes: statistics, transforms, loaders and an initialised network.

Before this: `packing` and `splits`. After this: `fit`. The test split is not touched here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import nn

from eyespot.arrays import Int64Array, UInt8Array
from eyespot.config import Config
from eyespot.data.dataset import PackedDataset, SplitName
from eyespot.data.decoding import decode_image
from eyespot.data.input_spec import InputSpec
from eyespot.data.loaders import Loader, make_loader
from eyespot.data.splits import Splits
from eyespot.data.transforms import AugmentedEvalTransform, EvalTransform, build_train_transform
from eyespot.device import ComputePlan
from eyespot.errors import ConfigError, DataError, RunError
from eyespot.models.pretrained import PretrainedClassifier, backbone_facts, smallest_size_px
from eyespot.models.registry import build_model, model_entry
from eyespot.models.weights import LoadedWeights
from eyespot.runs import CHECKPOINTS, Run, RunWriter
from eyespot.seeds import derive_seed
from eyespot.training.balance import balance_note, class_weights
from eyespot.training.checkpoint import latest_checkpoint
from eyespot.training.step import TrainData, fit_sizes

_Progress = Callable[[int, int], None]

_INPUT = "input"  # in provenance
_STATISTICS_CHUNK = 4096
_STREAM_CHUNK = 16  # between two marks of progress: a large photograph takes a tenth of a second
_STREAM_SAMPLE = 500  # streamed pictures would have to be decoded for their statistics: a sample is enough
_WHITENING_SAMPLE = 5000  # as airbench94
# Which settings each optimizer and schedule reads; the others of their section have no effect on it.
_DECAY = {"lr", "weight_decay", "layer_decay"}
_READ_BY_OPTIMIZER = {
    "sgd": _DECAY | {"momentum", "nesterov"},
    "adam": _DECAY | {"beta1", "beta2", "eps"},
    "adamw": _DECAY | {"beta1", "beta2", "eps"},
    "rmsprop": _DECAY | {"alpha", "eps", "momentum"},
    "muon": {"lr", "momentum", "bias_lr", "head_lr", "sgd_momentum", "sgd_weight_decay", "stem_bias_fraction"},
}
_ENDS = {"warmup_epochs", "final_fraction"}
_PEAKS = _ENDS | {"peak_fraction", "start_fraction"}
_READ_BY_SCHEDULE = {
    "constant": {"warmup_epochs"},
    "cosine": _ENDS,
    "linear": _ENDS,
    "one-cycle": _PEAKS,
    "triangular": _PEAKS,
    "step": {"warmup_epochs", "step_epochs", "factor"},
    "plateau": {"warmup_epochs", "factor", "patience_epochs", "min_lr"},
}
_NO_EFFECT = ("it has no effect", "they have no effect")
_ENLARGEMENT = 5  # times the pictures' own side, up to that of the weights: docs/decisions/006


class Observer(Protocol):
    """What watches the preparation."""

    def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
        """Called while streamed pictures are decoded for their statistics."""


@dataclass(frozen=True)
class Prepared:
    """What `fit` takes.

    Attributes:
        model: On the device, float32, channels_last, initialised for the recipe's seed.
        data: Loaders and transforms for train and val.
        spec: What a picture must become for this model.
        pretrained: Where a backbone's weights came from; None where training begins at random ones.
        notes: Sentences that the user should read before training.
    """

    model: nn.Module
    data: TrainData
    spec: InputSpec
    pretrained: LoadedWeights | None = None
    notes: tuple[str, ...] = ()


def prepare_training(
    packed: PackedDataset,
    splits: Splits,
    config: Config,
    plan: ComputePlan,
    *,
    writer: RunWriter | None = None,
    observer: Observer | None = None,
) -> Prepared:
    """Return model, loaders and transforms for a recipe.

    What is measured on the pictures is measured once a run: whether they are streamed, and so how many of them are
    looked at, depends on the memory that is free when a process starts.

    Args:
        packed: Scanned and packed pictures.
        splits: Which of them are train, val and test.
        config: The recipe.
        plan: Device and precision.
        writer: The locked run folder, which keeps the input spec; without it nothing is kept.
        observer: Told how far decoding is.

    Raises:
        ModelError: The network does not take pictures of this size or this number of classes.
        ConfigError: An augmentation that these pictures do not allow.
        CheckpointError: The backbone's weights cannot be had, or are of another architecture; or all checkpoints of the
            run are damaged.
        RunError: The run's provenance is damaged, or cannot be written.
    """
    train_count = splits.count("train")
    spec = _kept_spec(writer)
    if spec is None:
        spec = recipe_spec(packed, splits, config, _counter(observer, "measuring colours"))
        if writer is not None:
            writer.write_provenance({_INPUT: spec.as_dict()})
    # The weights are drawn on the processor; `torch.manual_seed` would seed the program's GPUs too.
    torch.default_generator.manual_seed(derive_seed(config.training.seed, "weights"))
    model = build_model(
        config.model.name,
        num_classes=packed.dataset.num_classes,
        in_channels=packed.channels,
        size_px=spec.input_px,
        args=config.model.args,
    )
    pretrained = None
    notes: list[str] = []
    if isinstance(model, PretrainedClassifier):
        pretrained, notes = _prepare_backbone(model, spec, config)
    if min(train_count, config.training.batch_size) == 1:
        _check_batch_of_one(model, packed.channels, spec.input_px, train_count, config)
    transform = EvalTransform(spec)
    if hasattr(model, "init_from_images") and not _is_restored(writer, config):
        _whiten(model, packed, splits, transform, observer)
    model = model.to(plan.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loader(split: SplitName, *, shuffle: bool) -> Loader:
        return make_loader(
            packed,
            splits,
            split,
            batch_size=config.training.batch_size if shuffle else config.evaluation.batch_size,
            shuffle=shuffle,
            seed=config.training.seed,
            drop_last=shuffle and _drops_last(train_count, config),
            device=plan.device,
            workers=config.data.workers,
        )

    train_labels = splits.labels(packed, "train")
    weights = class_weights(train_labels, packed.dataset.num_classes, config.training.class_balance)
    if weights is not None:
        weights = weights.to(plan.device)
        notes.append(balance_note(train_labels, packed.dataset.class_names))
    notes += unused_settings(config)
    data = TrainData(
        train=loader("train", shuffle=True),
        val=loader("val", shuffle=False) if splits.count("val") else None,
        train_transform=build_train_transform(config.augment, spec, seed=config.training.seed),
        eval_transform=AugmentedEvalTransform(spec, config.augment)
        if "augmented-val" in config.mistakes
        else transform,
        num_classes=packed.dataset.num_classes,
        class_weights=weights,
    )
    return Prepared(model, data, spec, pretrained, tuple(notes))


def _whiten(
    model: nn.Module, packed: PackedDataset, splits: Splits, transform: EvalTransform, observer: Observer | None
) -> None:
    """Set the first convolution after some training pictures.

    As many for streamed pictures as for others: a run may be both in turn before its first checkpoint.
    """
    fewer = _WHITENING_SAMPLE * 64**2 // transform.spec.input_px**2  # large ones have more patches, and take memory
    sample = _sample(splits, "train", max(500, min(_WHITENING_SAMPLE, fewer)))
    pixels = np.concatenate(list(_read(packed, sample, _counter(observer, "whitening"))))
    model.init_from_images(transform(torch.from_numpy(pixels).permute(0, 3, 1, 2)))  # type: ignore[operator]


def _check_batch_of_one(model: nn.Module, channels: int, side_px: int, train_count: int, config: Config) -> None:
    """Find batch norm over a single value, which the loop would meet only after the pictures were encoded.

    Raises:
        ConfigError: There is one.
    """
    side = min([side_px, *(size for _, size in fit_sizes(config, side_px).training.size_schedule)])
    try:
        with torch.no_grad():
            copy.deepcopy(model).train()(torch.zeros(1, channels, side, side))
    except ValueError as error:  # torch has no class of its own for it
        raise ConfigError(
            "batch norm has no statistics of a batch of one picture",
            where=f"{train_count:,} training pictures, training.batch_size {config.training.batch_size}",
            remedy="--set training.batch_size=2 or more, or a network without batch norm where there is one picture",
        ) from error


def _counter(observer: Observer | None, label: str) -> _Progress:
    """Return what tells an observer how far a count is."""

    def tell(done: int, total: int) -> None:
        if observer is not None:
            observer.on_count(label, done, total)

    return tell


def _kept_spec(writer: RunWriter | None) -> InputSpec | None:
    """Return the input spec that the run began with; None where there is none yet.

    Raises:
        RunError: What provenance says is no input spec.
    """
    known = None if writer is None else Run(writer.path).provenance.get(_INPUT)
    if writer is None or known is None:
        return None
    try:
        if not isinstance(known, dict):
            raise DataError(f"{known!r} is not an object")
        return InputSpec.from_dict(known)
    except DataError as error:
        raise RunError(
            f"no input spec under {_INPUT!r} ({error.what})",
            where=writer.path / "provenance.json",
            remedy="restore the file, or train again",
        ) from error


def _is_restored(writer: RunWriter | None, config: Config) -> bool:
    """Return whether the loop puts a checkpoint's weights over all that are prepared here, before it uses any.

    Raises:
        CheckpointError: There are checkpoints, and all are damaged.
    """
    if writer is None or (config.optimizer.lr == "auto" and not Run(writer.path).lr_finder):
        return False  # the range test comes before the checkpoint
    return latest_checkpoint(writer.path / CHECKPOINTS)[0] is not None


def _prepare_backbone(
    model: PretrainedClassifier, spec: InputSpec, config: Config
) -> tuple[LoadedWeights | None, list[str]]:
    """Put weights into a backbone, freeze what is not trained, and return what should be known about it."""
    settings = config.model
    facts = backbone_facts(settings.name)
    notes = []
    pretrained = None if settings.weights == "random" else model.load_backbone(facts, settings.weights)
    if pretrained is None:
        notes.append(f"the weights of {facts.name} are random: nothing is transferred")
    else:
        notes.append(f"weights of {facts.name}: {pretrained.source}; licence {pretrained.licence}")
        if config.input.normalize != "auto":
            notes.append(
                f"warning: input.normalize = {config.input.normalize} in place of what the weights were trained with; "
                "leave it at auto unless that is the experiment"
            )
    smallest = smallest_size_px(facts)
    if spec.input_px < smallest:
        notes.append(
            f"warning: {spec.input_px} px are less than the {smallest} px that {facts.name} is made for "
            f"(its weights: {facts.size_px} px); --set input.size_px={facts.size_px}"
        )
    model.freeze(frozen_mode(config), settings.freeze_until)
    return pretrained, [*notes, *model.notes(), model.describe_training()]


def unused_settings(config: Config) -> list[str]:
    """Return a sentence for each section with settings that were changed and have no effect: none for most recipes.

    Whoever varies one of them would find that it makes no difference, and believe it.
    """
    sentences = []
    for section, name, used in (
        ("optimizer", config.optimizer.name, _READ_BY_OPTIMIZER[config.optimizer.name]),
        ("schedule", config.schedule.name, _READ_BY_SCHEDULE[config.schedule.name]),
    ):
        changed = getattr(config, section).model_dump(exclude_defaults=True)
        unused = [f"{section}.{key}" for key in changed if key not in {"name", *used}]
        if unused:
            sentences.append(f"note: {name} does not use {', '.join(unused)}: {_NO_EFFECT[len(unused) > 1]}")
    return sentences


def frozen_mode(config: Config) -> str:
    """Return the mode that is meant: `auto` is `features`, and with a time limit `finetune` after them."""
    if config.model.mode != "auto":
        return config.model.mode
    return "finetune" if config.training.minutes else "features"


def recipe_spec(
    packed: PackedDataset, splits: Splits, config: Config, progress: _Progress = lambda done, total: None
) -> InputSpec:
    """Return the input spec of a recipe: of the weights for a backbone, else of the training pictures."""
    normalize = config.input.normalize
    facts = backbone_facts(config.model.name) if model_entry(config.model.name).is_backbone else None
    if facts is not None and normalize in ("auto", "twice") and config.model.weights != "random":
        form = packed.row_format
        std = facts.std if normalize == "auto" else tuple(255 * value for value in facts.std)
        spec = InputSpec(form.size_px, form.channels, facts.mean, std, form.fit, form.interpolation)
    else:
        streamed = any(packed.splits[source].pixels is None for source in splits.indices["train"])
        statistics = _sample(splits, "train", _STREAM_SAMPLE if streamed else splits.count("train"))
        kind = "channel" if normalize == "auto" else normalize
        spec = input_spec(packed, statistics, normalize=kind, progress=progress)
    if facts is None:
        return spec
    side = facts.size_px if facts.fixed_size else min(facts.size_px, _ENLARGEMENT * spec.size_px)
    if config.input.size_px != "auto":
        side = config.input.size_px
    return replace(spec, model_px=None if side == spec.size_px else side)


def _drops_last(train_count: int, config: Config) -> bool:
    """Return whether the last short batch is left out; never where it is the only one."""
    size = config.training.batch_size
    # Batch norm has no statistics for a single picture: which picture is left out changes with every epoch.
    return train_count > size and (config.training.drop_last or train_count % size == 1)


def input_spec(
    packed: PackedDataset,
    train: Mapping[SplitName, Int64Array],
    *,
    normalize: str,
    progress: _Progress = lambda done, total: None,
) -> InputSpec:
    """Return the input spec with statistics of the training pictures alone.

    Args:
        packed: The pictures.
        train: The training pictures: source split -> int64 (N,) rows in it.
        normalize: `channel`, `scalar`, `minmax`, `half`, `raw` or `twice`, as in the recipe.
        progress: Told (done, all) where pictures are decoded for it.
    """
    channels = packed.channels
    if normalize == "minmax":
        mean, std = [0.0] * channels, [1.0] * channels
    elif normalize == "half":
        mean, std = [0.5] * channels, [0.5] * channels
    elif normalize == "raw":
        mean, std = [0.0] * channels, [1 / 255] * channels
    else:
        counts = _histogram(packed, train, progress)  # (C, 256)
        if normalize == "scalar":
            counts = np.tile(counts.sum(0), (channels, 1))
        levels = np.arange(256) / 255
        total = counts.sum(1)
        means = counts @ levels / total
        deviations = np.sqrt(np.maximum(counts @ levels**2 / total - means**2, 0))
        # Pictures of one colour have no deviation: one grey level keeps the division finite.
        mean, std = means.tolist(), np.maximum(deviations, 1 / 255).tolist()
        if normalize == "twice":
            std = [255 * value for value in std]
    form = packed.row_format
    return InputSpec(form.size_px, channels, tuple(mean), tuple(std), form.fit, form.interpolation)


def read_pixels(packed: PackedDataset, source: SplitName, rows: Int64Array) -> UInt8Array:
    """Return uint8 (N, S, S, C) of some pictures of a source split, decoded now where they are streamed."""
    split = packed.splits[source]
    form = packed.row_format
    if split.pixels is not None:
        return form.squares(np.asarray(split.pixels[rows]), split.sizes_px[rows])
    assert split.paths is not None
    return np.stack([form.square(decode_image(split.paths[row], channels=form.channels)) for row in rows])


def read_positions(packed: PackedDataset, splits: Splits, split: SplitName, positions: Int64Array) -> UInt8Array:
    """Return uint8 (N, S, S, C) of the pictures at some positions of a split, in the order of its labels."""
    sources = [(source, row) for source, rows in splits.indices[split].items() for row in rows.tolist()]
    shape = (0, packed.size_px, packed.size_px, packed.channels)
    pictures = [
        read_pixels(packed, sources[place][0], np.array([sources[place][1]], dtype=np.int64)) for place in positions
    ]
    return np.concatenate([np.zeros(shape, dtype=np.uint8), *pictures])


def _histogram(packed: PackedDataset, train: Mapping[SplitName, Int64Array], progress: _Progress) -> Int64Array:
    """Count pixel values: int64 (C, 256). Whole numbers add up to the same sum in any order."""
    counts = np.zeros((packed.channels, 256), dtype=np.int64)
    for chunk in _read(packed, train, progress):
        for channel in range(packed.channels):
            counts[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    return counts


def _read(packed: PackedDataset, rows_of: Mapping[SplitName, Int64Array], progress: _Progress) -> Iterator[UInt8Array]:
    """Yield uint8 (n, S, S, C) of some pictures, part by part; where they are decoded, how far it is is told."""
    done, total = 0, sum(map(len, rows_of.values()))
    for source, rows in rows_of.items():
        streamed = packed.splits[source].pixels is None
        size = _STREAM_CHUNK if streamed else _STATISTICS_CHUNK
        for start in range(0, len(rows), size):
            chunk = read_pixels(packed, source, rows[start : start + size])
            done += len(chunk)
            if streamed:
                progress(done, total)
            yield chunk


def _sample(splits: Splits, split: SplitName, count: int) -> dict[SplitName, Int64Array]:
    """Return about `count` rows, each source by its share, spread evenly: a sorted data set gives every class."""
    total = splits.count(split)
    if total <= count:
        return dict(splits.indices[split])
    shares = {source: max(1, round(count * len(rows) / total)) for source, rows in splits.indices[split].items()}
    return {
        source: rows[np.linspace(0, len(rows) - 1, shares[source]).astype(np.int64)]
        for source, rows in splits.indices[split].items()
        if len(rows)
    }

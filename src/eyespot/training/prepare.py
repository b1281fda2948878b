"""From a recipe and packed pictures to what the loop takes: statistics, transforms, loaders and an initialised network.

Before this: `packing` and `splits`. After this: `fit`. The test split is not touched here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from eyespot.config import Config
from eyespot.data.dataset import Int64Array, PackedDataset, SplitName, UInt8Array
from eyespot.data.decoding import decode_image
from eyespot.data.loaders import Loader, make_loader
from eyespot.data.splits import Splits
from eyespot.data.transforms import EvalTransform, InputSpec, build_train_transform
from eyespot.device import ComputePlan
from eyespot.models.registry import build_model
from eyespot.seeds import derive_seed
from eyespot.training.fit import TrainData

_STATISTICS_CHUNK = 4096
_STREAM_SAMPLE = 2000  # streamed pictures would have to be decoded for their statistics: a sample is enough
_WHITENING_SAMPLE = 5000  # as airbench94


@dataclass(frozen=True)
class Prepared:
    """What `fit` takes.

    Attributes:
        model: On the device, float32, channels_last, initialised for the recipe's seed.
        data: Loaders and transforms for train and val.
        spec: What a picture must become for this model.
    """

    model: nn.Module
    data: TrainData
    spec: InputSpec


def prepare_training(packed: PackedDataset, splits: Splits, config: Config, plan: ComputePlan) -> Prepared:
    """Return model, loaders and transforms for a recipe.

    Args:
        packed: Scanned and packed pictures.
        splits: Which of them are train, val and test.
        config: The recipe.
        plan: Device and precision.

    Raises:
        ModelError: The network does not take pictures of this size or this number of classes.
        ConfigError: An augmentation that these pictures do not allow.
    """
    train_count = splits.count("train")
    streamed = any(packed.splits[source].pixels is None for source in splits.indices["train"])
    statistics = _sample(splits, "train", _STREAM_SAMPLE if streamed else train_count)
    spec = input_spec(packed, statistics, normalize=config.input.normalize)
    torch.manual_seed(derive_seed(config.training.seed, "weights"))
    model = build_model(
        config.model.name,
        num_classes=packed.dataset.num_classes,
        in_channels=packed.channels,
        size_px=packed.size_px,
        args=config.model.args,
    )
    transform = EvalTransform(spec)
    if hasattr(model, "init_from_images"):
        sample = _sample(splits, "train", _WHITENING_SAMPLE)
        pixels = np.concatenate([read_pixels(packed, source, rows) for source, rows in sample.items()])
        model.init_from_images(transform(torch.from_numpy(pixels).permute(0, 3, 1, 2)))  # type: ignore[operator]
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

    data = TrainData(
        train=loader("train", shuffle=True),
        val=loader("val", shuffle=False) if splits.count("val") else None,
        train_transform=build_train_transform(config.augment, spec, seed=config.training.seed),
        eval_transform=transform,
        num_classes=packed.dataset.num_classes,
    )
    return Prepared(model, data, spec)


def _drops_last(train_count: int, config: Config) -> bool:
    """Return whether the last short batch is left out; never where it is the only one."""
    size = config.training.batch_size
    # Batch norm has no statistics for a single picture: which picture is left out changes with every epoch.
    return train_count > size and (config.training.drop_last or train_count % size == 1)


def input_spec(packed: PackedDataset, train: Mapping[SplitName, Int64Array], *, normalize: str) -> InputSpec:
    """Return the input spec with statistics of the training pictures alone.

    Args:
        packed: The pictures.
        train: The training pictures: source split -> int64 (N,) rows in it.
        normalize: `channel`, `scalar`, `minmax` or `half`, as in the recipe.
    """
    channels = packed.channels
    if normalize == "minmax":
        mean, std = [0.0] * channels, [1.0] * channels
    elif normalize == "half":
        mean, std = [0.5] * channels, [0.5] * channels
    else:
        counts = _histogram(packed, train)  # (C, 256)
        if normalize == "scalar":
            counts = np.tile(counts.sum(0), (channels, 1))
        levels = np.arange(256) / 255
        total = counts.sum(1)
        means = counts @ levels / total
        deviations = np.sqrt(np.maximum(counts @ levels**2 / total - means**2, 0))
        # Pictures of one colour have no deviation: one grey level keeps the division finite.
        mean, std = means.tolist(), np.maximum(deviations, 1 / 255).tolist()
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


def _histogram(packed: PackedDataset, train: Mapping[SplitName, Int64Array]) -> Int64Array:
    """Count pixel values: int64 (C, 256). Whole numbers add up to the same sum in any order."""
    counts = np.zeros((packed.channels, 256), dtype=np.int64)
    for source, rows in train.items():
        for start in range(0, len(rows), _STATISTICS_CHUNK):
            chunk = read_pixels(packed, source, rows[start : start + _STATISTICS_CHUNK])
            for channel in range(packed.channels):
                counts[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    return counts


def _sample(splits: Splits, split: SplitName, count: int) -> dict[SplitName, Int64Array]:
    """Return at most about `count` rows of each source, spread evenly: a sorted data set gives every class."""
    return {
        source: rows if len(rows) <= count else rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
        for source, rows in splits.indices[split].items()
    }

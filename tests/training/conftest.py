"""A tiny classification task that trains in a second, and everything `fit` needs for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eyespot.config import Config, parse_config
from eyespot.data.dataset import Dataset, Items, PackedDataset, PackedSplit, ScanReport
from eyespot.data.dividing import make_splits
from eyespot.data.resizing import Channels, RowFormat
from eyespot.device import ComputePlan
from eyespot.runs import RunWriter
from eyespot.training.fit import FitResult, fit
from eyespot.training.prepare import Prepared, prepare_training

TINY = """
name = "tiny"
description = "small enough for a test"
[augment]
flip = "alternating"
translate_px = 1
[model]
name = "convnet3"
[optimizer]
name = "adam"
lr = 3e-3
[training]
epochs = 3
batch_size = 16
precision = "float32"
"""


def tiny_config(**changes: Any) -> Config:
    return parse_config(TINY, where="tiny", changes={key.replace("__", "."): value for key, value in changes.items()})


def tiny_packed(count: int = 120, size: int = 8, channels: Channels = 1) -> PackedDataset:
    """Three classes of noisy stripes that a small network learns in a few epochs."""
    dice = np.random.default_rng(0)
    labels = np.arange(count) % 3
    pixels = dice.integers(0, 60, (count, size, size, channels))
    for index, label in enumerate(labels):
        pixels[index, label * 2 : label * 2 + 3] += 150
    pixels = pixels.astype(np.uint8)
    ids = [f"train/{index:05d}" for index in range(count)]
    items = Items(ids, labels.astype(np.int64), pixels=pixels)
    dataset = Dataset("tiny", ("a", "b", "c"), {"train": items}, False, "memory", "arrays")
    hashes = np.frombuffer(b"".join(index.to_bytes(16, "big") for index in range(count)), np.uint8).reshape(-1, 16)
    split = PackedSplit(ids, labels.astype(np.int64), hashes, np.full((count, 2), size), pixels=pixels)
    return PackedDataset(
        dataset, {"train": split}, ScanReport({}), "f" * 32, RowFormat(size, channels, "crop", "bilinear")
    )


@dataclass
class Watcher:
    """Remembers what it was told; `at_step` is called after each step."""

    at_step: Callable[[int], None] = lambda step: None
    messages: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_epoch(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def on_step(self, state: Any, *, loss: float | None, top1: float | None) -> None:
        self.steps += 1
        self.at_step(state.step)

    def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
        pass

    def attach(self, writer: RunWriter) -> None:
        pass


def prepare(config: Config, packed: PackedDataset | None = None) -> Prepared:
    packed = packed or tiny_packed()
    splits = make_splits(packed, val_fraction=0.2, test_fraction=0.0, stratify=True, seed=0, final=config.data.final)
    return prepare_training(packed, splits, config, ComputePlan("cpu", "float32", "test"))


def run_fit(
    folder: Path,
    config: Config,
    *,
    watcher: Watcher | None = None,
    resume: bool = False,
    packed: PackedDataset | None = None,
) -> FitResult:
    """Prepare and fit in a run folder, as `train` does."""
    torch.set_num_threads(1)
    prepared = prepare(config, packed)
    precision = "bf16" if config.training.precision == "bf16" else "float32"
    plan = ComputePlan("cpu", precision, "test")
    with RunWriter(folder, config, resume=resume) as writer:
        return fit(prepared.model, prepared.data, config, plan=plan, writer=writer, observer=watcher or Watcher())


def weights(result: FitResult) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in result.model.state_dict().items()}


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in {"seconds", "images_per_second"}} for row in rows]


@pytest.fixture
def one_thread() -> None:
    torch.set_num_threads(1)

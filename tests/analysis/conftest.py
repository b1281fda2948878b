"""Metrics and whole report inputs as a run of eyespot leaves them, small enough to be made in a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from eyespot.analysis.report import Mistake, ReportInput
from eyespot.evaluation.metrics import wilson_interval

NAMES = ("bird", "cat", "dog", "ship")


def make_metrics(
    confusion: Sequence[Sequence[int]], names: Sequence[str] = NAMES, views: str = "none", **more: Any
) -> dict[str, Any]:
    """Return the figures of one split that belong to a confusion matrix; no probabilities, so made-up losses."""
    table = np.asarray(confusion)
    n, hits = int(table.sum()), int(np.trace(table))
    recall = table.diagonal() / np.maximum(table.sum(axis=1), 1)
    precision = table.diagonal() / np.maximum(table.sum(axis=0), 1)
    f1 = 2 * recall * precision / np.maximum(recall + precision, 1e-12)
    return {
        "n": n,
        "top1": hits / n,
        "top1_ci95": list(wilson_interval(hits, n)),
        "top5": None,
        "nll_loss": 0.31,
        "ece": 0.021,
        "brier": 0.12,
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "n": int(count)}
            for name, p, r, f, count in zip(names, precision, recall, f1, table.sum(axis=1), strict=True)
        },
        "confusion": table.tolist(),
        "seconds": 1.5,
        "images_per_second": n / 1.5,
        "views": views,
        **more,
    }


def make_split(top1: float, n: int = 10_000, classes: int = 10, views: str = "none") -> dict[str, Any]:
    """Return the figures of a balanced split with an accuracy, its mistakes spread evenly."""
    each = n // classes
    right = round(each * top1)
    table = np.full((classes, classes), (each - right) // (classes - 1))
    np.fill_diagonal(table, right)
    # What the even spread leaves over goes to the next class, so that every row holds `each` pictures.
    for row in range(classes):
        table[row, (row + 1) % classes] += each - table[row].sum()
    return make_metrics(table.tolist(), [f"class {index}" for index in range(classes)], views)


def make_history(
    train_loss: Sequence[float],
    val_loss: Sequence[float] | None = None,
    val_top1: Sequence[float] | None = None,
    lr: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of history.jsonl for curves; train/top1 follows from the loss."""
    rows = []
    for index, loss in enumerate(train_loss):
        row: dict[str, Any] = {
            "epoch": index + 1,
            "step": 100 * (index + 1),
            "seconds": 2.0 * (index + 1),
            "lr": 0.1 if lr is None else float(lr[index]),
            "train/loss": loss,
            "train/top1": math.exp(-loss) if math.isfinite(loss) else 0.1,
            "images_per_second": 1000.0,
        }
        if val_loss is not None:
            row["val/loss"] = val_loss[index]
        if val_top1 is not None:
            row["val/top1"] = val_top1[index]
        rows.append(row)
    return rows


def falling(epochs: int, start: float = 2.3, end: float = 0.3, pace: float = 5.0) -> list[float]:
    """Return a loss that falls like a healthy one: fast, then slower."""
    return [end + (start - end) * math.exp(-index / pace) for index in range(epochs)]


def cosine(epochs: int) -> list[float]:
    """Return a learning rate that falls to zero."""
    return [0.05 * (1 + math.cos(math.pi * (index + 1) / epochs)) for index in range(epochs)]


def make_input(**changes: Any) -> ReportInput:
    """Return a small but complete report input."""
    rng = np.random.default_rng(0)
    loss, val_loss = falling(12), falling(12, 2.0, 0.35)
    confusion = [[90, 3, 4, 3], [2, 80, 17, 1], [3, 12, 84, 1], [2, 1, 1, 96]]
    values: dict[str, Any] = {
        "run_name": "fast-photos",
        "config": {
            "name": "fast",
            "description": "Small pictures in minutes.",
            "model": {"name": "spot", "args": {}},
            "training": {"epochs": 12, "monitor": "val/loss", "restore_best": False, "seed": 7},
            "data": {"final": False},
        },
        "provenance": {
            "command": "eyespot train photos/ --seed 7",
            "python": "3.12.1",
            "platform": "Linux",
            "processor": "A processor",
            "cores": 2,
            "versions": {"eyespot": "0.1.0", "torch": "2.10.0", "timm": "not installed"},
            "device": "cpu",
            "precision": "bf16",
            "precision_reason": "the processor has AMX-BF16",
            "threads": 2,
            "cpu_features": ["avx2", "amx_bf16"],
            "peak_memory_bytes": 2_310_000_000,
            "packing_seconds": 3.2,
            "started": "2026-03-01T13:00:00+00:00",
            "finished": "2026-03-01T14:03:00+01:00",
            "split_hash": "abc123",
        },
        "history": make_history(loss, val_loss, [1 - x / 3 for x in val_loss], cosine(12)),
        "metrics": {
            "test": make_metrics(confusion),
            "val": make_metrics(confusion),
            "train": make_metrics((10 * np.array(confusion) + 10 * np.eye(4, dtype=int)).tolist()),
            "train_seconds": 93.4,
            "test_reads": 1,
        },
        "class_names": NAMES,
        "data_card": {
            "name": "photos",
            "origin": "/home/ann/photos",
            "layout": "class folders",
            "published": False,
            "notes": ["There was no test split: 10 % were kept apart."],
            "counts": {split: dict.fromkeys(NAMES, number) for split, number in (("train", 1000), ("test", 100))},
            "bad": [("train/cat/1.jpg", "truncated"), ("train/cat/2.jpg", "empty")],
            "skipped": 2,
            "duplicates": 1,
            "duplicate_examples": [["train/cat/3.jpg", "train/cat/4.jpg"]],
            "leaks": 0,
            "sizes": [(640, 480, 4000), (32, 32, 400)],
            "modes": {"RGB": 4400},
            "enlarged": 0,
            "fingerprint": "9f2c1b7d",
            "packed_shape": (32, 32, 3),
            "packed_bytes": 13_500_000,
            "fit": "crop",
            "interpolation": "bilinear",
            "preparation": "RGB pictures of 32 x 32 px",
        },
        "mistakes": [
            Mistake(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), "cat", "dog", 0.9987, f"test/cat/{i}.jpg")
            for i in range(3)
        ],
        "augmented": rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8),
        "augmented_labels": [0, 1, 2, 3, 0],
        "augmentation": "mirrored in every other epoch",
        "model": {
            "input_shape": [3, 32, 32],
            "rows": [
                {"name": "stem", "kind": "Conv2d", "output_shape": [24, 31, 31], "parameters": 300, "trainable": 12}
            ],
            "parameters": 2000,
            "trainable": 1712,
            "macs": 12_300_000,
            "warnings": ["The map is already 1x1 after pool."],
        },
    }
    return ReportInput(**{**values, **changes})


@pytest.fixture
def metrics_of() -> Callable[..., dict[str, Any]]:
    return make_metrics


@pytest.fixture
def split_of() -> Callable[..., dict[str, Any]]:
    return make_split


@pytest.fixture
def history_of() -> Callable[..., list[dict[str, Any]]]:
    return make_history


@pytest.fixture
def input_of() -> Callable[..., ReportInput]:
    return make_input

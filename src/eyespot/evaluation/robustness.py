"""How much of a model's accuracy is left when pictures become worse: fifteen kinds of corruption, mirroring, shifts.

Before this: `corruptions` draws them. After this: robustness.json, the report and the command line.

A cell of the grid is one kind at one strength, the same pictures in each. What is done is handed to the caller after
every cell, so that a killed measurement goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from eyespot.arrays import Int64Array, UInt8Array
from eyespot.errors import DataError, whole_number
from eyespot.evaluation.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from eyespot.evaluation.metrics import wilson_interval
from eyespot.evaluation.predictor import Predictor
from eyespot.evaluation.views import Views

Cells: TypeAlias = dict[str, int]
"""`KIND/STRENGTH` -> how many pictures were named rightly; `none/0` for the pictures as they are."""

MOST_PICTURES = 1000
"""Of a split, unless asked for others: an accuracy of 90 % is then known to 2 points in every cell."""
_BATCH = 250
_CLEAN = "none/0"


def stratified(labels: Int64Array, limit: int, seed: int) -> Int64Array:
    """Return rising positions, int64 (M,): each class by its share, drawn; all of them where `limit` is 0 or enough.

    Args:
        labels: int64 (N,).
        limit: M at most.
        seed: Another seed draws others.

    Raises:
        UsageError: A limit or seed that is no whole number from 0.
    """
    limit = whole_number("--limit", limit, remedy="use a number of pictures from 1, or 0 for all")
    seed = whole_number("seed", seed)
    if not limit or limit >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    dice = np.random.default_rng(seed)
    shuffled = dice.permutation(len(labels))
    rank = np.empty(len(labels))  # of each picture within its class, as a share of the class
    for label in np.unique(labels):
        own = shuffled[labels[shuffled] == label]
        rank[own] = (np.arange(len(own)) + dice.random()) / len(own)
    return np.sort(np.argsort(rank, kind="stable")[:limit]).astype(np.int64)


def cell_names() -> list[str]:
    """Return the cells in the order in which they are measured."""
    cells = [f"{kind}/{strength}" for kind in CORRUPTIONS for strength in STRENGTHS]
    return [_CLEAN, *cells, "mirrored/1", *(f"shifted/{strength}" for strength in STRENGTHS)]


def measure_cells(
    predictor: Predictor,
    labels: Int64Array,
    read: Callable[[Int64Array], UInt8Array],
    *,
    seed: int,
    views: Views,
    done: Mapping[str, int],
    on_cell: Callable[[Cells], None],
) -> Cells:
    """Return the number of right answers of every cell.

    Args:
        predictor: The model.
        labels: int64 (M,), in the model's order of classes.
        read: Takes positions int64 (B,) in [0, M) and returns uint8 (B, S, S, C); one batch is in memory.
        seed: Of the corruptions.
        views: Test-time views.
        done: Cells that were measured before.
        on_cell: Called after each new cell with all of them.

    Raises:
        DataError: No pictures.
        MemoryLimitError: Memory ran out.
    """
    if not len(labels):
        raise DataError("no pictures to measure", remedy="give a split with at least one")
    cells: Cells = {name: done[name] for name in cell_names() if name in done}
    for name in cell_names():
        if name in cells:
            continue
        kind, _, strength = name.rpartition("/")
        right = 0
        for start in range(0, len(labels), _BATCH):
            places = np.arange(start, min(start + _BATCH, len(labels)), dtype=np.int64)
            pixels = read(places)
            if name != _CLEAN:
                pixels = corrupt(pixels, kind, int(strength), seed=seed, batch=start // _BATCH)
            logits = predictor.batch_logits(torch.from_numpy(pixels).permute(0, 3, 1, 2), views=views)
            right += int((logits.argmax(1).numpy() == labels[places]).sum())
        cells[name] = right
        on_cell(cells)
    return cells


def summarise(cells: Mapping[str, int], n: int) -> dict[str, Any]:
    """Return `clean`, `mean_corruption_error`, `corruptions` (kind -> figures), `mirrored`, `shifted`, as JSON values.

    Args:
        cells: All of them.
        n: Pictures in each.

    Returns:
        A figure has `top1` and `top1_ci95`. The mean corruption error is that of the 75 cells, a fraction; it is not
        divided by another network's, as for CIFAR-10-C. Its interval has the mean width of the cells', as if all cells
        erred together: they hold the same pictures, and which of them go wrong together is not kept. So it is too wide.
    """

    def figure(name: str) -> dict[str, Any]:
        return {"top1": cells[name] / n, "top1_ci95": list(wilson_interval(cells[name], n))}

    kinds = {kind: [figure(f"{kind}/{strength}") for strength in STRENGTHS] for kind in CORRUPTIONS}
    grid = [one for row in kinds.values() for one in row]
    low, high = np.mean([one["top1_ci95"] for one in grid], axis=0)
    return {
        "n": n,
        "clean": figure(_CLEAN),
        "mean_corruption_error": 1 - float(np.mean([one["top1"] for one in grid])),
        "mean_corruption_error_ci95": [1 - float(high), 1 - float(low)],
        "corruptions": kinds,
        "mirrored": figure("mirrored/1"),
        "shifted": [figure(f"shifted/{strength}") for strength in STRENGTHS],
    }

"""Near copies of a data set, kept in the cache: found once by `eyespot check`, told in every report.

Before this: `fingerprints` searched all pictures. After this: `checking` shows them, `label_check` keeps them in one
fold, and `finishing` says how many of them a run's own division put on both sides.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.caches import cache_folder
from eyespot.data.dataset import SPLIT_NAMES, PackedDataset, SplitName
from eyespot.data.fingerprints import MOST_CHAINED, NEAR_CORRELATION, NearPairs, count_chained
from eyespot.data.splits import Splits
from eyespot.errors import RunError
from eyespot.files import write_atomic

_FORMAT_VERSION = 1
_FIELDS = ("first", "second", "correlation", "mirrored", "compared", "cut")


def load_near_pairs(packed: PackedDataset) -> NearPairs | None:
    """Return what was found in these pictures before, in the order of the splits; None where nobody has looked."""
    total = sum(map(len, packed.splits.values()))
    try:
        with np.load(io.BytesIO(_path(packed).read_bytes()), allow_pickle=False) as file:
            first, second, correlation, mirrored = (file[name] for name in _FIELDS[:4])
            pairs = NearPairs(first, second, correlation, mirrored, int(file["compared"]), int(file["cut"]))
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        return None  # nothing there, or nothing that we wrote: it is searched again
    same = len({len(first), len(second), len(correlation), len(mirrored)}) == 1
    inside = not len(first) or bool((first >= 0).all() and (first < second).all() and (second < total).all())
    return pairs if same and inside else None


def save_near_pairs(packed: PackedDataset, pairs: NearPairs) -> None:
    """Keep what was found; a cache that cannot be written is no reason to fail."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(getattr(pairs, name)) for name in _FIELDS}
    np.savez_compressed(buffer, **arrays)
    path = _path(packed)
    with contextlib.suppress(OSError, RunError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())


def _path(packed: PackedDataset) -> Path:
    content = packed.pixels_fingerprint or packed.fingerprint
    return cache_folder("checks") / f"near-{content}-{NEAR_CORRELATION:g}-v{_FORMAT_VERSION}.npz"


def near_across(pairs: NearPairs, packed: PackedDataset, splits: Splits) -> dict[str, int | float]:
    """Return how many test and val pictures of a run nearly equal one that it trains on, as JSON values.

    Args:
        pairs: Places in all source splits together, in their order.
        packed: The pictures.
        splits: The run's division of them.

    Returns:
        `test` and `val`, pictures with a near copy in train; `test_total` and `val_total`; the `correlation` from which
        on two pictures are called near copies. Where most pictures are too alike to tell copies, `too_alike` is 1 and
        nothing is counted.
    """
    names = [name for name in SPLIT_NAMES if name in packed.splits]
    starts = dict(zip(names, np.cumsum([0, *(len(packed.splits[name]) for name in names)]).tolist(), strict=False))
    owner = np.zeros(sum(len(packed.splits[name]) for name in names), np.int64)
    numbers: dict[SplitName, int] = {"train": 1, "val": 2, "test": 3}
    for split, parts in splits.indices.items():
        for source, rows in parts.items():
            owner[starts[source] + rows] = numbers[split]
    one, other = np.concatenate([pairs.first, pairs.second]), np.concatenate([pairs.second, pairs.first])
    facts: dict[str, int | float] = {"correlation": NEAR_CORRELATION}
    if count_chained(len(owner), pairs) > MOST_CHAINED * len(owner):
        one, other = one[:0], other[:0]
        facts["too_alike"] = 1
    held_out: tuple[SplitName, ...] = ("val", "test")
    for split in held_out:
        mine = (owner[one] == numbers[split]) & (owner[other] == numbers["train"])
        facts[split] = len(np.unique(one[mine]))
        facts[f"{split}_total"] = splits.count(split)
    return facts

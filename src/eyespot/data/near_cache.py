"""Near copies of a data set, searched once and kept in the cache, told in every report.

Before this: `packing` made a thumbnail of every picture, whatever size a recipe takes: which pictures are near copies
does not depend on it. After this: `dividing` and `label_check` keep them together, `checking` shows them, and
`finishing` says how many of them are on both sides of a division.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.caches import cache_folder
from eyespot.data.dataset import SPLIT_NAMES, PackedDataset, SplitName
from eyespot.data.fingerprints import (
    MOST_CHAINED,
    NEAR_CORRELATION,
    NearPairs,
    Progress,
    contents_of,
    count_chained,
    find_near_pairs,
)
from eyespot.data.resizing import THUMBNAIL_PX
from eyespot.data.splits import Splits
from eyespot.errors import RunError
from eyespot.files import write_atomic

_FORMAT_VERSION = 2
_FIELDS = ("first", "second", "correlation", "mirrored", "compared", "cut")


COMPARED_PX = 24
"""Symbols of 8 x 8 px are alike because there is little to tell them apart: 91 % of the test pictures of `digits` would
be called near copies."""

MOST_SEARCHED = 100_000
"""So many pictures of somebody's own are searched before they are divided, for at most about 20 s (docs/decisions/009);
`eyespot check` searches more."""


def near_pairs(packed: PackedDataset, progress: Progress | None = None) -> NearPairs:
    """Return the near copies among all pictures, in the order of the splits; from the cache where they are known.

    Args:
        packed: The pictures; none where they cannot be compared.
        progress: Told (done, all), in pictures.
    """
    known = load_near_pairs(packed)
    if known is not None:
        return known
    parts = [packed.splits[name] for name in SPLIT_NAMES if name in packed.splits]
    if not can_be_compared(packed):
        return find_near_pairs(np.zeros((0, THUMBNAIL_PX, THUMBNAIL_PX), np.uint8), np.zeros(0, np.int64))
    thumbs = [part.thumbs for part in parts if part.thumbs is not None]
    contents = contents_of(np.concatenate([part.hashes for part in parts]))
    pairs = find_near_pairs(np.concatenate(thumbs), contents, progress=progress)
    save_near_pairs(packed, pairs)
    return pairs


def can_be_compared(packed: PackedDataset) -> bool:
    """Return whether the pictures, at least half of them, have sides of `COMPARED_PX` or more, and thumbnails."""
    parts = packed.splits.values()
    sides = np.concatenate([part.sizes_px.min(axis=1) for part in parts])
    return float(np.median(sides)) >= COMPARED_PX and all(part.thumbs is not None for part in parts)


def near_pairs_for_training(packed: PackedDataset, progress: Progress | None = None) -> NearPairs | None:
    """Return the near copies where a division is to keep them together, else None.

    That does not depend on whether somebody has looked before: the same data are divided the same way everywhere.
    """
    total = sum(map(len, packed.splits.values()))
    if packed.dataset.published or total > MOST_SEARCHED or not can_be_compared(packed):
        return None
    pairs = near_pairs(packed, progress)
    return None if count_chained(total, pairs) > MOST_CHAINED * total else pairs


def say_unsearched(packed: PackedDataset) -> str:
    """Return in a sentence that pictures of somebody's own are too many to be searched; empty where they are not."""
    if packed.dataset.published or sum(map(len, packed.splits.values())) <= MOST_SEARCHED:
        return ""
    return (
        f"More than {MOST_SEARCHED:,} pictures: near copies were not looked for, and shots of one scene may be in "
        "train and in what is measured (eyespot check finds them)."
    )


def load_near_pairs(packed: PackedDataset) -> NearPairs | None:
    """Return what was found in these pictures before, in the order of the splits; None where nobody has looked."""
    total = sum(map(len, packed.splits.values()))
    try:
        with np.load(io.BytesIO(_path(packed).read_bytes()), allow_pickle=False) as file:
            first, second, correlation, mirrored = (file[name] for name in _FIELDS[:4])
            pairs = NearPairs(first, second, correlation, mirrored, int(file["compared"]), int(file["cut"]))
    except Exception:  # of damaged archives zipfile, zlib and NumPy raise a dozen kinds
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
    """Return how many test and val pictures of a run nearly equal one that it trains or selects on, as JSON values.

    Args:
        pairs: Places in all source splits together, in their order.
        packed: The pictures.
        splits: The run's division of them.

    Returns:
        `test`, pictures with a near copy in train or val, and `val`, with one in train; `test_total` and `val_total`;
        the `correlation` from which on two pictures are called near copies. Where most pictures are too alike to tell
        copies, `too_alike` is 1 and nothing is counted.
    """
    names = [name for name in SPLIT_NAMES if name in packed.splits]
    starts = dict(zip(names, np.cumsum([0, *(len(packed.splits[name]) for name in names)]).tolist(), strict=False))
    owner = np.zeros(sum(len(packed.splits[name]) for name in names), np.int64)
    numbers: dict[SplitName, int] = {"train": 1, "val": 2, "test": 3}
    for split, parts in splits.indices.items():
        for source, rows in parts.items():
            owner[starts[source] + rows] = numbers[split]
    # Of equal pictures only the first was compared: what is near to one of them is near to all.
    contents = contents_of(np.concatenate([packed.splits[name].hashes for name in names]))
    one = contents[np.concatenate([pairs.first, pairs.second])]
    other = contents[np.concatenate([pairs.second, pairs.first])]
    facts: dict[str, int | float] = {"correlation": NEAR_CORRELATION}
    if count_chained(len(owner), pairs) > MOST_CHAINED * len(owner):
        one, other = one[:0], other[:0]
        facts["too_alike"] = 1
    held_out: tuple[SplitName, ...] = ("val", "test")
    for split in held_out:
        before, near = np.zeros((2, int(contents.max(initial=-1)) + 1), np.bool_)
        before[contents[(owner > 0) & (owner < numbers[split])]] = True  # train, and val before test
        near[one[before[other]]] = True
        facts[split] = int((near[contents] & (owner == numbers[split])).sum())
        facts[f"{split}_total"] = splits.count(split)
    return facts

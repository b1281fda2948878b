"""One job: divide groups of pictures (of a patient, a video, a day) among train, val and test; none is torn apart.

Before this: `picture_table` knows the group of each picture. After this: it writes the split column of a CSV.

Pictures of one patient are alike in ways that no fingerprint sees. With some of them in train, test measures whether
the network knows the patient again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from eyespot.arrays import Float64Array, Int64Array
from eyespot.data.dataset import SPLIT_NAMES, SplitName
from eyespot.errors import DataError
from eyespot.seeds import derive_seed

SHARES: Mapping[SplitName, float] = {"train": 0.8, "val": 0.1, "test": 0.1}


def split_groups(groups: Sequence[str], labels: Sequence[str], *, seed: int, where: object) -> list[SplitName]:
    """Return the split of each picture: every group is in one, and every class is divided as evenly as groups allow.

    Groups are taken from large to small, by chance among those of about one size, and each goes where its classes are
    farthest from their share, relative to that share; so val and test get large and small groups alike.

    Args:
        groups: N names.
        labels: N class names.
        seed: Of the draw.
        where: For error messages.

    Raises:
        DataError: Fewer than three groups, or no division found that leaves each class in train and pictures in each
            split.

    Source:
        The greedy idea is that of scikit-learn's StratifiedGroupKFold. Changed: shares that differ, and the order.
    """
    group_names, group = np.unique(np.array(groups, dtype=object), return_inverse=True)
    class_names, label = np.unique(np.array(labels, dtype=object), return_inverse=True)
    if len(group_names) < len(SHARES):
        few = f"{len(group_names)} group{'' if len(group_names) == 1 else 's'}"
        raise DataError(f"{few} cannot be divided among {len(SHARES)} splits", where=where, remedy="name a finer group")
    counts = np.zeros((len(group_names), len(class_names)), np.int64)
    np.add.at(counts, (group, label), 1)
    home = _divide(counts, seed)
    missing = np.flatnonzero(counts[home == 0].sum(axis=0) == 0)
    empty = [name for place, name in enumerate(SHARES) if not (home == place).any()]
    if missing.size or empty:
        what = f"class {class_names[missing[0]]!r} in train" if missing.size else f"a group in {empty[0]}"
        raise DataError(f"found no division with {what}", where=where, remedy="name a finer group, or add pictures")
    return [SPLIT_NAMES[place] for place in home[group].tolist()]


def _divide(counts: Int64Array, seed: int) -> Int64Array:
    """Return the split of each group, int64 (G,), of pictures per group and class, int64 (G, K)."""
    target: Float64Array = np.outer(list(SHARES.values()), counts.sum(axis=0))  # (S, K)
    filled = np.zeros_like(target)
    home = np.zeros(len(counts), np.int64)
    chance = np.random.PCG64(derive_seed(seed, "split groups")).random_raw(len(counts))
    magnitude = np.log2(counts.sum(axis=1)).astype(np.int64)
    order = np.lexsort((chance, -magnitude))
    for one in order.tolist():
        # How much the squared distances from the targets grow, each in units of its target.
        mine = counts[one]
        growth = (mine * (mine + 2 * (filled - target)) / target).sum(axis=1)
        home[one] = int(growth.argmin())
        filled[home[one]] += mine
    for place in range(len(SHARES)):
        if not (home == place).any():
            _spare_one(home, place, counts[order], order, target)
    return home


def _spare_one(home: Int64Array, place: int, counts: Int64Array, order: Int64Array, target: Float64Array) -> None:
    """Move into an empty split the group that fits best there, of those that theirs can spare; perhaps there is none.

    Where groups are few, or each is of one class, the next one fits train best to the end.

    Args:
        home: Split of each group, int64 (G,); changed.
        place: The split without a group.
        counts: Pictures per group, in the order of `order`, and class, int64 (G, K).
        order: Numbers of the groups, int64 (G,), as they were divided.
        target: Wanted pictures per split and class, float64 (S, K).
    """
    own = home[order]
    filled = np.array([counts[own == split].sum(axis=0) for split in range(len(SHARES))])
    spared = filled[own] - counts  # (G, K)
    free = (np.bincount(own, minlength=len(SHARES))[own] > 1) & ((own != 0) | (spared > 0).all(axis=1))
    shrink = ((spared - target[own]) ** 2 - (filled[own] - target[own]) ** 2) / target[own]
    growth = (shrink + counts * (counts - 2 * target[place]) / target[place]).sum(axis=1)
    if free.any():
        home[order[np.where(free, growth, np.inf).argmin()]] = place

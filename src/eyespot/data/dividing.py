"""Divides pictures among train, val and test: seeded, stratified, copies and near copies together.

Before this: `packing` hands over the pictures that can be used, with the splits that the data bring. After this:
`splits` keeps who is where with the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eyespot.arrays import BoolArray, Int64Array, UInt8Array, UInt64Array
from eyespot.data.dataset import SPLIT_NAMES, PackedDataset, PackedSplit, SplitName
from eyespot.data.fingerprints import NearPairs, contents_of, group_equal, group_pairs
from eyespot.data.splits import Splits, frozen
from eyespot.errors import DataError, UsageError
from eyespot.seeds import derive_seed

SHOWN_BY_CHECK = "(eyespot check DATA --out FILE.html shows them)."
"""How the note on near copies ends; `check` itself says the same with more."""


def make_splits(
    packed: PackedDataset,
    *,
    val_fraction: float,
    test_fraction: float,
    stratify: bool,
    seed: int,
    final: bool,
    train_fraction: float = 1.0,
    near: NearPairs | None = None,
) -> Splits:
    """Return train, val and test for a run.

    What the data bring is used as it is: nothing is ever taken from or added to a given test split, and a given val
    split stays val. What is missing is taken out of train, by chance from the seed. Test is drawn first and with a seed
    of its own, so that the same pictures are test whatever `val_fraction` and `final` say.

    Shares are exact to one picture: the total is the rounded share of the given train split, and with `stratify` every
    class gives its rounded share (largest remainders), at least one picture so that each class is measured, and never
    the last ones that the other splits need.

    Exact copies of a picture always stay together, for a picture in train whose copy is in val or test is a leak that
    we would make ourselves. Pictures without copies go into val and test first, so that there each counts once; copies
    follow, fewest first, where a class has too few others, and a group that would overshoot its class's share stays in
    train. So does a picture whose copy is in a given val or test split, or val would select on a picture of test. Near
    copies, where they are given, stay together like exact ones, except in classes of which most pictures are near one
    another: there likeness says little. Which pictures are drawn follows from their content and the seed, not from file
    names or their order.

    Args:
        packed: The data with their own splits; only the labels and content hashes are read.
        val_fraction: Share of the given train split that becomes val where the data bring none; 0 for no val.
        test_fraction: Share of the given train split that becomes test where the data bring none; 0 for no test.
        stratify: Whether every class gives the same share. Without it, chance decides, except that each class keeps a
            picture in train.
        seed: Of the draw, not of the training.
        final: Whether val becomes a part of train (whoever made it); there is no val then.
        train_fraction: Share of what is left for train that is used. A smaller share is part of every larger one with
            the same seed; val and test do not depend on it.
        near: Pairs among all pictures, in the order of the splits; those within train are kept together.

    Raises:
        UsageError: The fractions leave nothing for train.
        DataError: Train is empty, a class has no picture in train, or too few to be in every split.

    Source:
        Largest remainders: Hamilton's method of apportionment.
    """
    _check_fractions(val_fraction, test_fraction, train_fraction)
    given = {name: split for name, split in packed.splits.items() if len(split)}
    if "train" not in given:
        raise DataError("no picture in train can be used", where=packed.dataset.name, remedy="see eyespot check")
    shares: dict[SplitName, float] = {}
    if "test" not in given and test_fraction:
        shares["test"] = test_fraction
    if "val" not in given and val_fraction and not final:
        shares["val"] = val_fraction
    pool = _Pool.of(packed, near, stratify=stratify)
    pool.refuse_small_classes(packed, [*shares])

    indices: dict[SplitName, dict[SplitName, Int64Array]] = {"train": {}}
    for name, share in shares.items():
        indices[name] = {"train": pool.draw(share, derive_seed(seed, "split", name), last=name == "val")}
        if not indices[name]["train"].size:
            raise DataError(
                f"{len(given['train'])} pictures in train are too few to take {100 * share:.3g} % of them for {name}",
                where=packed.dataset.name,
                remedy=f"add pictures, or --set data.{name}_fraction=0",
            )
    indices["train"]["train"] = pool.rest() if train_fraction == 1 else pool.part(train_fraction, seed)
    for name in SPLIT_NAMES[1:]:
        if name in given:
            home: SplitName = "train" if final and name == "val" else name
            indices.setdefault(home, {})[name] = np.arange(len(given[name]))
    ordered = {name: frozen(indices[name]) for name in SPLIT_NAMES if name in indices}
    splits = Splits(packed.fingerprint, ordered)
    notes = [
        *_division_notes(splits, given, shares, seed=seed, final=final),
        *_draw_notes(splits, packed, pool, shares),
    ]
    if train_fraction < 1:
        used, left = len(indices["train"]["train"]), len(pool.rest())
        notes.append(f"Trains on {used:,} of the {left:,} training pictures (data.train_fraction).")
    return Splits(packed.fingerprint, ordered, tuple(notes))


def _check_fractions(val_fraction: float, test_fraction: float, train_fraction: float) -> None:
    if not 0 < train_fraction <= 1:
        raise UsageError(f"train_fraction is {train_fraction:g}", remedy="choose a share over 0, at most 1")
    if min(val_fraction, test_fraction) < 0 or not val_fraction + test_fraction < 1:  # "not": NaN is refused too
        raise UsageError(
            f"val_fraction is {val_fraction:g} and test_fraction {test_fraction:g}",
            remedy="choose shares from 0 up whose sum is under 1, such as 0.1 and 0.1",
        )


@dataclass
class _Pool:
    """The given train split as groups of equal pictures, of which `draw` takes some away.

    N pictures, G groups, S strata (the K classes, or a single one for all), all in the order of content.

    Attributes:
        group: int64 (N,), the group of each picture.
        label: int64 (G,), the label of each group; the lowest where copies disagree.
        size: int64 (G,), pictures in each group.
        stratum: int64 (G,), what the shares are kept equal over.
        free: bool (G,), False for what was drawn.
        tied: bool (G,), True for what is also in a val or test split that the data bring.
        copies: Pictures with an exact copy, and how many different ones they are.
        alike: Pictures with a near copy, and the groups they are kept together in.
        loose: Classes of which most pictures are near one another, so that they are not kept together.
        num_classes: K.
        stratify: Whether the strata are the classes.
    """

    group: Int64Array
    label: Int64Array
    size: Int64Array
    stratum: Int64Array
    free: BoolArray
    tied: BoolArray
    copies: tuple[int, int]
    alike: tuple[int, int]
    loose: tuple[int, ...]
    num_classes: int
    stratify: bool

    @classmethod
    def of(cls, packed: PackedDataset, near: NearPairs | None, *, stratify: bool) -> _Pool:
        """Return the pool with everything free."""
        split = packed.splits["train"]
        others = [packed.splits[name].hashes for name in SPLIT_NAMES[1:] if name in packed.splits]
        group, first = group_equal(split.hashes, split.labels)
        exact = np.bincount(group, minlength=len(first))
        tied = _occurs(split.hashes[first], others)
        label = split.labels[first]
        home: Int64Array = np.arange(len(first))
        loose: Int64Array = np.zeros(0, np.int64)
        if near is not None:
            inside = near.second < len(group)  # train comes first
            home, loose = _tie_near(group[near.first[inside]], group[near.second[inside]], exact, label)
        size = np.bincount(home, exact).astype(np.int64)
        alike = np.bincount(home) > 1
        label = label[np.unique(home, return_index=True)[1]]
        return cls(
            group=home[group],
            label=label,
            size=size,
            stratum=label if stratify else np.zeros_like(label),
            free=np.ones(len(size), np.bool_),
            tied=np.bincount(home, tied) > 0,
            copies=(int(exact[exact > 1].sum()), int((exact > 1).sum())),
            alike=(int(size[alike].sum()), int(alike.sum())),
            loose=tuple(loose.tolist()),
            num_classes=packed.dataset.num_classes,
            stratify=stratify,
        )

    def refuse_small_classes(self, packed: PackedDataset, drawn: list[SplitName]) -> None:
        """Raise DataError where a class has no picture in train, or too few to be in every split that will be drawn."""
        counts = np.bincount(packed.splits["train"].labels, minlength=self.num_classes)
        distinct = np.bincount(self.label, minlength=self.num_classes)
        needed = 1 + len(drawn) if self.stratify and drawn else 0
        small = np.flatnonzero((counts == 0) | (distinct < needed))
        if not small.size:
            return
        worst = int(small[np.argmin(counts[small])])
        name, count = packed.dataset.class_names[worst], int(counts[worst])
        more = f"; {small.size - 1} more have too few" if small.size > 1 else ""
        if count == 0:
            raise DataError(
                f"class {name!r} has no picture in train{more}",
                where=packed.dataset.name,
                remedy="add pictures of it, or remove the class",
            )
        copies = f" ({distinct[worst]} different)" if 0 < distinct[worst] < count else ""
        raise DataError(
            f"class {name!r} has {count} picture{'' if count == 1 else 's'}{copies}, too few to be in train and "
            f"{' and '.join(reversed(drawn))}{more}",
            where=packed.dataset.name,
            remedy=f"give each class {needed} different pictures or more, remove the class, or leave it to chance with "
            "--set data.stratify=false",
        )

    def draw(self, share: float, seed: int, *, last: bool) -> Int64Array:
        """Take groups away and return their pictures as rising indices.

        Args:
            share: Of all pictures, drawn ones included.
            seed: Of the draw.
            last: Whether nothing will be drawn after this. Before the last, one more picture of each class stays where
                there are enough, whether or not it will be drawn later, so that this draw does not depend on the next
                one.
        """
        # Not a Generator's methods: numpy may change what they return, the bits of PCG64 it may not.
        key = np.random.PCG64(seed).random_raw(len(self.size))
        usable = self.free & ~self.tied
        strata = self.num_classes if self.stratify else 1
        if self.stratify:
            room = (
                np.bincount(self.stratum[self.free], minlength=strata) - 1
            )  # the last group of a class stays in train
        else:
            # A class that is not in train cannot be learned: one group of each stays, by chance.
            order = np.lexsort((key, ~self.free, self.label))
            usable[order[_starts(self.label[order])]] = False
            room = np.bincount(self.stratum[usable], minlength=strata)
        most = room if last else np.maximum(room - 1, np.minimum(room, 1))
        pictures = np.bincount(self.stratum, weights=self.size, minlength=strata).astype(np.int64)
        wanted = largest_remainders(pictures, share, least=1)
        taken = _fewest_first(self.stratum, self.size, key, usable, wanted, most)
        self.free[taken] = False
        drawn = np.zeros(len(self.size), np.bool_)
        drawn[taken] = True
        return np.flatnonzero(drawn[self.group])

    def rest(self) -> Int64Array:
        """Return the indices of the pictures that were not drawn, rising."""
        return np.flatnonzero(self.free[self.group])

    def part(self, share: float, seed: int) -> Int64Array:
        """Return a share of the pictures that were not drawn, rising: smaller shares are parts of larger ones.

        Every stratum gives the first groups of one random order, until it has its share; one group at least. Without
        stratification so does every class.
        """
        key = np.random.PCG64(derive_seed(seed, "split", "part")).random_raw(len(self.size))
        groups = np.flatnonzero(self.free)
        order = groups[np.lexsort((key[groups], self.stratum[groups]))]
        place = self.stratum[order]
        starts = _starts(place)
        total = np.cumsum(self.size[order])
        first = np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        before = total - self.size[order] - (total[first] - self.size[order][first])  # pictures of the stratum so far
        left = np.bincount(place, weights=self.size[order], minlength=self.num_classes)
        chosen = np.zeros(len(self.size), np.bool_)
        # The small subtrahend lets 0.07 * 100 = 7.000000000000001 be 7.
        chosen[order[before < left[place] * share - 1e-9]] = True
        if not self.stratify:  # a class that is not in train cannot be learned
            own = groups[np.lexsort((key[groups], self.label[groups]))]
            chosen[own[_starts(self.label[own])]] = True
        return np.flatnonzero(chosen[self.group])


def largest_remainders(counts: Int64Array, share: float, *, least: int) -> Int64Array:
    """Return how many of each class make up a share of all, exact in total and within one in each class.

    Args:
        counts: int64 (S,), pictures of each class.
        share: In [0, 1).
        least: Each class that has any gives this many, even if the total grows by it.

    Returns:
        int64 (S,). The total is the rounded share of all, or more where `least` asks for it.

    Source:
        Hamilton's method of apportionment. Changed: `least`.
    """
    quota = counts * share
    # 0.29 * 100 is 28.999999999999996 in binary: the small addend lets it be 29.
    whole = np.floor(quota + 1e-9).astype(np.int64)
    result: Int64Array = np.maximum(whole, np.minimum(least, counts))
    missing = int(np.floor(counts.sum() * share + 0.5)) - int(result.sum())
    if missing > 0:
        result[np.argsort(-(quota - result), kind="stable")[:missing]] += 1
    return result


def _tie_near(
    one: Int64Array, other: Int64Array, sizes: Int64Array, label: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Return groups of groups that pairs of one label tie together, and the classes in which nothing is tied.

    Args:
        one: int64 (M,), a group of equal pictures of each pair.
        other: int64 (M,), the other one.
        sizes: int64 (G,), pictures in each group.
        label: int64 (G,).

    Returns:
        int64 (G,), new numbers in the order of the old ones; and the classes.
    """
    same = label[one] == label[other]
    groups = group_pairs(len(sizes), one[same], other[same])
    members = np.concatenate([np.zeros(0, np.int64), *groups])
    tied = np.bincount(label[members], sizes[members], minlength=int(label.max()) + 1)
    loose = np.flatnonzero(2 * tied > np.bincount(label, sizes))
    home = np.arange(len(sizes))
    for group in groups:
        if label[group[0]] not in loose:
            home[group] = group[0]
    return np.unique(home, return_inverse=True)[1].astype(np.int64), loose


def _occurs(hashes: UInt8Array, others: list[UInt8Array]) -> BoolArray:
    """Return bool (G,): whether each hash, uint8 (G, 16), is among the others, uint8 (n, 16) each."""
    together = np.concatenate([hashes, *others])
    group = contents_of(together)
    found = np.zeros(len(together), np.bool_)
    found[group[len(hashes) :]] = True
    return found[group[: len(hashes)]]


def _starts(values: Int64Array) -> Int64Array:
    """Return where each run of equal values begins in a sorted array."""
    return np.flatnonzero(np.r_[True, values[1:] != values[:-1]]) if len(values) else np.zeros(0, np.int64)


def _fewest_first(
    stratum: Int64Array,
    size: Int64Array,
    key: UInt64Array,
    usable: BoolArray,
    wanted: Int64Array,
    most: Int64Array,
) -> Int64Array:
    """Return the groups to take: in each stratum the smallest first, equal sizes in the order of the key.

    Args:
        stratum: int64 (G,).
        size: int64 (G,), pictures in each group.
        key: uint64 (G,), random.
        usable: bool (G,).
        wanted: int64 (S,), pictures to take. A stratum stays under it by less than its next group, except that its
            first group is taken in any case.
        most: int64 (S,), groups that may be taken.
    """
    candidates = np.flatnonzero(usable)
    order = candidates[np.lexsort((key[candidates], size[candidates], stratum[candidates]))]
    place = stratum[order]
    starts = _starts(place)
    lengths = np.diff(np.r_[starts, len(order)])
    rank = np.arange(len(order)) - np.repeat(starts, lengths)
    total = np.cumsum(size[order])
    before = total[starts] - size[order][starts]
    pictures = total - np.repeat(before, lengths)  # of the stratum up to and with this group
    fits = (pictures <= wanted[place]) | ((rank == 0) & (wanted[place] > 0))
    taken: Int64Array = order[fits & (rank < most[place])]
    return taken


def _division_notes(
    splits: Splits,
    given: Mapping[SplitName, PackedSplit],
    shares: Mapping[SplitName, float],
    *,
    seed: int,
    final: bool,
) -> list[str]:
    """Return in sentences what was taken from where, as far as the user would not expect it."""
    notes = []
    if "test" in shares:
        parts = " / ".join(f"{splits.count(name):,} {name}" for name in SPLIT_NAMES if splits.count(name))
        # Of few pictures it is not the share that was asked for: each class gives at least one.
        share = splits.count("test") / len(given["train"])
        notes.append(f"The data bring no test split: {100 * share:.3g} % were set aside (seed {seed}): {parts}.")
    elif "test" not in given:
        notes.append("There is no test split, and data.test_fraction is 0: no test figures.")
    if final:
        merged = f", with the {len(given['val']):,} pictures of val" if "val" in given else ""
        notes.append(
            f"Final run: trains on all {splits.count('train'):,} pictures{merged}; no val figures, no early stop, "
            "no selection."
        )
    elif not splits.count("val"):
        notes.append("There is no val split, and data.val_fraction is 0: no val figures, and nothing can be selected.")
    return notes


def _draw_notes(splits: Splits, packed: PackedDataset, pool: _Pool, shares: Mapping[SplitName, float]) -> list[str]:
    """Return in sentences what the draw had to do about copies, and which classes it left out."""
    notes = []
    pictures, different = pool.copies
    if shares and pictures:
        notes.append(
            f"{pictures:,} pictures of train have exact copies: {different:,} different "
            f"picture{'' if different == 1 else 's'}. Copies stay in one split."
        )
    pictures, groups = pool.alike
    if shares and pictures:
        notes.append(
            f"{pictures:,} pictures nearly equal another one, in {groups:,} group{'' if groups == 1 else 's'}, each of "
            f"which stays in one split {SHOWN_BY_CHECK}"
        )
    if shares and pool.loose:
        names = ", ".join(repr(packed.dataset.class_names[k]) for k in pool.loose[:5])
        more = f" and {len(pool.loose) - 5} more" if len(pool.loose) > 5 else ""
        notes.append(
            f"Most pictures of {names}{more} nearly equal another one: likeness says little there, and such pictures "
            "may be in train and in what is measured."
        )
    for split in shares:
        counts = np.bincount(splits.labels(packed, split), minlength=pool.num_classes)
        absent = [repr(packed.dataset.class_names[k]) for k in np.flatnonzero(counts == 0)]
        if absent:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            notes.append(
                f"No picture of {', '.join(absent[:5])}{more} is in {split}: nothing is measured of "
                f"{'that class' if len(absent) == 1 else 'those classes'} there."
            )
    return notes

"""Who is in train, in val and in test, kept with the run.

Before this: `dividing` has drawn the splits. After this: `loaders` read the pictures of one split by the indices that
are fixed here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.arrays import Int64Array, UInt8Array, UInt64Array
from eyespot.data.dataset import SPLIT_NAMES, PackedDataset, SplitName
from eyespot.errors import DataError, RunError
from eyespot.files import remedy_for_unreadable, write_atomic
from eyespot.seeds import derive_seed


@dataclass(frozen=True, eq=False)
class Splits:
    """Which pictures of a packed data set are train, val and test.

    Attributes:
        fingerprint: Of the packed data set that the indices point into.
        indices: Split -> split of the packed data set that its pictures are taken from -> int64 (n,), rising. A split
            reads one source, except that a final run trains on the data's own train and val. A split that is missing
            here does not exist in this run; "train" always does.
        notes: What the user should read about the division, in sentences.
    """

    fingerprint: str
    indices: Mapping[SplitName, Mapping[SplitName, Int64Array]]
    notes: tuple[str, ...] = ()

    def count(self, split: SplitName) -> int:
        """Return how many pictures a split has; 0 where it does not exist."""
        return sum(len(rows) for rows in self.indices.get(split, {}).values())

    def labels(self, packed: PackedDataset, split: SplitName) -> Int64Array:
        """Return the labels of a split, int64 (n,), in the order in which every loader counts its pictures."""
        parts = [packed.splits[source].labels[rows] for source, rows in self.indices.get(split, {}).items()]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def ids(self, packed: PackedDataset, split: SplitName) -> list[str]:
        """Return the sample ids of a split, in the order of `labels`."""
        parts = self.indices.get(split, {})
        return [packed.splits[source].ids[row] for source, rows in parts.items() for row in rows.tolist()]

    def sampled(self, split: SplitName, most: int, *, seed: int) -> Splits:
        """Return the same division with at most so many pictures of a split, drawn at random where it has more.

        Args:
            split: Which one.
            most: Pictures, 1 or more.
            seed: The same one draws the same pictures.
        """
        parts, count = self.indices.get(split, {}), self.count(split)
        if count <= most:
            return self
        drawn = np.zeros(count, bool)
        drawn[np.random.default_rng(derive_seed(seed, "sample", split)).permutation(count)[:most]] = True
        ends = np.cumsum([len(rows) for rows in parts.values()])[:-1]
        fewer = {source: rows[own] for (source, rows), own in zip(parts.items(), np.split(drawn, ends), strict=True)}
        return replace(self, indices={**self.indices, split: fewer})

    def hash(self) -> str:
        """Return 32 hex digits that are equal for the same pictures in the same splits; the notes do not count."""
        digest = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        for split in SPLIT_NAMES:
            for source, rows in self.indices.get(split, {}).items():
                digest.update(f"|{split}<{source}:{len(rows)}|".encode())
                digest.update(np.ascontiguousarray(rows, dtype="<i8").data)
        return digest.hexdigest()

    def digests(self, packed: PackedDataset) -> dict[str, str]:
        """Return, for each split, 32 hex digits that are equal for the same pictures under the same labels.

        Neither the order of the pictures nor their names count, nor what is in the other splits.
        """
        found: dict[str, str] = {}
        for split, parts in self.indices.items():
            rows = [
                np.concatenate([packed.splits[source].hashes[at], _as_bytes(packed.splits[source].labels[at])], axis=1)
                for source, at in parts.items()
            ]
            table = np.concatenate(rows) if rows else np.zeros((0, 24), np.uint8)
            found[split] = hashlib.blake2b(b"".join(sorted(map(bytes, table))), digest_size=16).hexdigest()
        return found

    def seen(self, packed: PackedDataset) -> UInt64Array:
        """Return the short hashes (M,) of the pictures that training or selection sees: those of train and val."""
        return np.unique(self._hashes(packed, "train", "val"))

    def leaked(self, packed: PackedDataset) -> dict[str, int]:
        """Return how many pictures of test are in train or val, too, and how many of val in train, pixel for pixel."""
        test, val, train = (self._hashes(packed, split) for split in ("test", "val", "train"))
        return {"test": int(np.isin(test, self.seen(packed)).sum()), "val": int(np.isin(val, train).sum())}

    def _hashes(self, packed: PackedDataset, *splits: SplitName) -> UInt64Array:
        parts = [
            packed.splits[source].hashes[rows]
            for split in splits
            for source, rows in self.indices.get(split, {}).items()
        ]
        return short_hashes(np.concatenate([np.zeros((0, 16), np.uint8), *parts]))

    def save(self, path: Path) -> None:
        """Write `split.json`: fingerprint, hash, notes, and for each split the indices into each source.

        Raises:
            RunError: The file cannot be written.
        """
        document = {
            "fingerprint": self.fingerprint,
            "hash": self.hash(),
            "notes": self.notes,
            "splits": {
                split: {source: rows.tolist() for source, rows in parts.items()}
                for split, parts in self.indices.items()
            },
        }
        write_atomic(path, (json.dumps(document, separators=(",", ":"), ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path, packed: PackedDataset) -> Splits:
        """Return the division that a run was started with.

        Args:
            path: A run's `split.json`.
            packed: The data set it is about to be used with.

        Raises:
            RunError: The file cannot be read, or is damaged.
            DataError: The data set is not the one that was divided.
        """
        try:
            document = json.loads(path.read_bytes())
            fingerprint, saved_hash, notes = document["fingerprint"], document["hash"], tuple(document["notes"])
            tree = document["splits"]
        except OSError as error:
            remedy = remedy_for_unreadable(error, "name the folder of a run")
            raise RunError(f"cannot read ({error.strerror})", where=path, remedy=remedy) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged(path, "it is not a split.json") from error
        if fingerprint != packed.fingerprint:
            raise DataError(
                f"the pictures of {packed.dataset.name!r} are not those that the run divided"
                f"{_what_changed(tree, packed)} (fingerprint {fingerprint}, now {packed.fingerprint})",
                where=path,
                remedy="bring back the data as they were, or start a new run",
            )
        splits = cls(fingerprint, _parse_indices(tree, packed, path), notes)
        if splits.hash() != saved_hash:
            raise _damaged(path, "its indices do not match its hash")
        return splits


def short_hashes(hashes: UInt8Array) -> UInt64Array:
    """Return the first eight bytes of content hashes, uint8 (N, 16), as numbers (N,): enough to tell pictures apart."""
    return np.ascontiguousarray(hashes[:, :8]).view("<u8")[:, 0]


def _as_bytes(labels: Int64Array) -> UInt8Array:
    return np.ascontiguousarray(labels, dtype="<i8").view(np.uint8).reshape(len(labels), 8)


def frozen(parts: Mapping[SplitName, Int64Array]) -> dict[SplitName, Int64Array]:
    """Return the parts as int64 arrays that nobody can write to."""
    result = {source: rows.astype(np.int64) for source, rows in parts.items()}
    for rows in result.values():
        rows.setflags(write=False)
    return result


def _what_changed(tree: Any, packed: PackedDataset) -> str:
    """Return how many pictures there were and are; empty where a split.json does not have the indices of all."""
    try:
        rows = [(source, row) for parts in tree.values() for source, of_source in parts.items() for row in of_source]
        last = {source: max(row for of, row in rows if of == source) for source in {source for source, _ in rows}}
        whole = len(rows) == sum(last.values()) + len(last)  # with data.train_fraction it has gaps
    except (AttributeError, TypeError):
        return ""
    if not whole:
        return ""
    now = sum(map(len, packed.splits.values()))
    if len(rows) != now:
        return f": {len(rows):,} then, {now:,} now"
    return ": as many as then, with other content, labels, order or class names"


def _parse_indices(tree: Any, packed: PackedDataset, path: Path) -> dict[SplitName, dict[SplitName, Int64Array]]:
    """Return the indices of a split.json, after making sure that they are ones."""
    if not isinstance(tree, dict) or "train" not in tree or not set(tree) <= set(SPLIT_NAMES):
        raise _damaged(path, "it names no train split, or unknown ones")
    result: dict[SplitName, dict[SplitName, Int64Array]] = {}
    used = {source: np.zeros(len(split), np.bool_) for source, split in packed.splits.items()}
    for split in SPLIT_NAMES:
        parts = tree.get(split, {})
        if not isinstance(parts, dict) or not set(parts) <= set(used):
            raise _damaged(path, f"{split} is taken from a split that the data do not have")
        for source, rows in parts.items():
            array = _rising_integers(rows, len(used[source]))
            if array is None:
                raise _damaged(
                    path, f"the indices of {split} are not integers rising from 0 to {len(used[source]) - 1}"
                )
            if used[source][array].any():
                raise _damaged(path, f"pictures of {split} are also in another split")
            used[source][array] = True
            result.setdefault(split, {})[source] = array
    return {split: frozen(parts) for split, parts in result.items()}


def _rising_integers(values: Any, end: int) -> Int64Array | None:
    """Return a list of JSON as int64 (n,), or None where it is not integers that rise and lie in [0, end)."""
    if not isinstance(values, list):
        return None
    try:
        array = np.asarray(values) if values else np.zeros(0, np.int64)
    except (ValueError, OverflowError):  # lists of different lengths in the list
        return None
    if array.ndim != 1 or array.dtype.kind != "i":
        return None
    if array.size and not (array[0] >= 0 and array[-1] < end and (np.diff(array) > 0).all()):
        return None
    return array.astype(np.int64)


def _damaged(path: Path, why: str) -> RunError:
    return RunError(f"damaged: {why}", where=path, remedy="take the run's own split.json, or start a new run")

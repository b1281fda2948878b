"""Stored features as a solver reads them: checked, standardised, in blocks, from a copy or from the memory map.

Before this: `features` wrote memory-mapped arrays. After this: `solvers` goes over the rows once for each look at the
loss.

Letters: n pictures, N rows (pictures times views), M pictures of a source, D features, K classes, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from eyespot.arrays import BoolArray, FeatureArray, Int64Array
from eyespot.errors import DataError, UsageError

# Above this the standardised float32 copy of the training rows is not made: each pass reads the source anew.
COPY_LIMIT_BYTES = 2 * 2**30
# A block of rows that is read or multiplied at once holds about this many numbers.
_BLOCK_NUMBERS = 2**22


@dataclass(frozen=True)
class FeatureRows:
    """Some rows of one source of features; a split is one or several of these.

    Attributes:
        views: One array per view of the pictures (say as they are, and mirrored), each float16 or float32 (M, D),
            usually memory-mapped. Row i is the same picture in all of them.
        rows: int64 (n,), which of the M pictures belong to the split. Rising order reads fastest.
        labels: int64 (n,), the label of each of these pictures, in [0, num_classes).
    """

    views: tuple[FeatureArray, ...]
    rows: Int64Array
    labels: Int64Array

    def __len__(self) -> int:
        """Return n."""
        return len(self.rows)

    def pick(self, places: BoolArray | slice) -> FeatureRows:
        """Return a part of the pictures in all their views; `places` is within `rows`."""
        return replace(self, rows=self.rows[places], labels=self.labels[places])


def check_rows(parts: Sequence[FeatureRows], num_classes: int, split: str, width: int | None = None) -> None:
    """Refuse parts whose arrays do not fit together, or, for train, that are empty."""
    for part in parts:
        shapes = [view.shape for view in part.views]
        if not shapes or len(set(shapes)) > 1 or len(shapes[0]) != 2 or not shapes[0][1]:
            raise UsageError(f"views of shapes {shapes}", where=split, remedy="give arrays of one shape (M, D)")
        if any(view.dtype not in (np.float16, np.float32) for view in part.views):
            raise UsageError(
                f"views of {[str(view.dtype) for view in part.views]}", where=split, remedy="give float16 or float32"
            )
        width = width or shapes[0][1]
        if shapes[0][1] != width:
            raise UsageError(f"{shapes[0][1]} features beside {width}", where=split, remedy="use one backbone for all")
        if part.rows.shape != part.labels.shape or part.rows.ndim != 1:
            raise UsageError(
                f"rows {part.rows.shape} and labels {part.labels.shape}", where=split, remedy="give one label a row"
            )
        if len(part) and not 0 <= part.rows.min() <= part.rows.max() < shapes[0][0]:
            raise UsageError(
                f"rows {part.rows.min()} to {part.rows.max()} of {shapes[0][0]}", where=split, remedy="count from 0"
            )
        _check_labels(part.labels, num_classes, split)
    if split == "train" and not sum(map(len, parts)):
        raise UsageError("no rows to train on", where=split, remedy="give at least one picture")


def _check_labels(labels: Int64Array, num_classes: int, where: str) -> None:
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UsageError(
            f"labels {labels.min()} to {labels.max()} for {num_classes} classes", where=where, remedy="count from 0"
        )


@dataclass(frozen=True)
class Scale:
    """The standardisation: `(x - mean) * factor`, both float32 (D,)."""

    mean: Tensor
    factor: Tensor

    def apply_(self, x: Tensor) -> Tensor:
        """Standardise float32 (B, D) in place and return it."""
        return x.sub_(self.mean).mul_(self.factor)

    def fold(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight float32 (K, D) and bias float32 (K,) for raw features; `parameters` is (K, D + 1)."""
        weight = parameters[:, :-1].double() * self.factor.double()
        bias = parameters[:, -1].double() - weight @ self.mean.double()
        return weight.float(), bias.float()


class _Moments:
    """Mean and deviation of each feature, gathered block by block in float64."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.shift = torch.zeros(width, dtype=torch.float64)
        self.sums = torch.zeros(width, dtype=torch.float64)
        self.squares = torch.zeros(width, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Take in float32 (B, D)."""
        if not self.count:
            # Sums around some row: nothing cancels where the mean is large, and a constant feature gives exact zeros.
            self.shift = x[0].double()
        apart = x.double().sub_(self.shift)
        self.count += len(x)
        self.sums += apart.sum(0)
        self.squares += apart.square_().sum(0)

    def scale(self) -> Scale:
        """Return the standardisation; a feature that does not vary keeps its deviation."""
        mean = self.sums / max(self.count, 1)
        deviation = (self.squares / max(self.count, 1) - mean.square()).clamp_(min=0).sqrt_()
        # Below this the weight for the raw feature would be no float32 number.
        deviation[deviation < 1e-30] = 1.0
        return Scale((self.shift + mean).float(), deviation.reciprocal().float())


@dataclass(frozen=True)
class StandardRows:
    """The rows of a split, standardised float32, in blocks: from a copy, or from the source where that is too large.

    Attributes:
        parts: Where they come from; all views of a part one after the other.
        labels: int64 (N,).
        scale: What standardises them.
        block_rows: B; the last block of a view may be shorter.
        copy: The blocks as `_packed` gives them; None where each pass reads the source.
    """

    parts: Sequence[FeatureRows]
    labels: Tensor
    scale: Scale
    block_rows: int
    copy: list[Tensor] | None

    @classmethod
    def read(
        cls, parts: Sequence[FeatureRows], split: str, *, num_classes: int, scale: Scale | None = None
    ) -> StandardRows:
        """Read and check every row, take the scale from them unless one is given, and copy them where that fits.

        Raises:
            DataError: A feature is NaN or infinite.
        """
        labels = torch.from_numpy(np.concatenate([part.labels for part in parts for _ in part.views]))
        width = parts[0].views[0].shape[1]
        block_rows = max(1, _BLOCK_NUMBERS // max(width, num_classes))
        moments = _Moments(width)
        for at, x in _read_blocks(parts, block_rows):
            moments.add(x)
            if not bool(moments.squares.isfinite().all()):
                row = at.start + int((~x.isfinite()).any(1).nonzero()[0])
                raise DataError(
                    f"a feature of {_name_row(parts, row)} is NaN or infinite",
                    where=split,
                    remedy="look at that picture, or encode in float32 if the backbone's numbers are beyond float16",
                )
        rows = cls(parts, labels, scale or moments.scale(), block_rows, None)
        small = len(labels) * width * 4 <= COPY_LIMIT_BYTES
        return replace(rows, copy=[x for _, x in rows]) if small else rows

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield each block's place among the N rows and its features (B, D), packed."""
        if self.copy is None:
            for at, x in _read_blocks(self.parts, self.block_rows):
                yield at, _packed(self.scale.apply_(x))
            return
        start = 0
        for x in self.copy:
            yield slice(start, start + len(x)), x
            start += len(x)

    def sample(self, count: int) -> Tensor:
        """Return about `count` evenly spaced rows, float32 (S, D)."""
        step = max(1, len(self.labels) // count)
        thinned = [part.pick(slice(None, None, step)) for part in self.parts]
        return torch.cat([self.scale.apply_(x) for _, x in _read_blocks(thinned, self.block_rows)])


def _read_blocks(parts: Sequence[FeatureRows], block_rows: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield the raw rows block by block with their place among all: float32 (B, D), the caller's to write on."""
    done = 0
    for part in parts:
        for view in part.views:
            for start in range(0, len(part), block_rows):
                # A gather always copies: what torch gets is writable even where the map is not.
                block = torch.from_numpy(np.asarray(view[part.rows[start : start + block_rows]]))
                yield slice(done, done + len(block)), block.float()
                done += len(block)


def _name_row(parts: Sequence[FeatureRows], row: int) -> str:
    """Return in words where the row with this number among all N comes from."""
    for number, part in enumerate(parts):
        if row < len(part) * len(part.views):
            view, place = divmod(row, len(part))
            source = f" of source {number}" if len(parts) > 1 else ""
            return f"row {part.rows[place]} in view {view}{source}"
        row -= len(part) * len(part.views)
    raise AssertionError(row)


def _packed(x: Tensor) -> Tensor:
    """Return float32 (B, D) in the form that multiplies fastest.

    As a oneDNN tensor where torch has oneDNN: with ten classes the product is tall and thin, for which torch otherwise
    takes MKL's general kernel. A pass over 90,000 x 2,560 took 72 ms instead of 189 (AMD EPYC 9005, two cores).
    """
    return x.to_mkldnn() if torch.backends.mkldnn.is_available() else x  # type: ignore[no-untyped-call]


def dense(x: Tensor) -> Tensor:
    """Return a product of packed rows as a tensor of torch's own."""
    return x.to_dense() if x.is_mkldnn else x

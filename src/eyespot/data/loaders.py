"""How batches of one split reach the model: from memory where the pixels fit, else from the files.

Before this: `packing` made the pixels (or kept the paths) and `splits` the indices. After this: `transforms` augment
and normalise each batch.

The order of the pictures is a function of seed and epoch alone. A run that is resumed in the middle of an epoch asks
for the epoch's remaining steps and gets the batches that it would have got; no state has to be saved.
"""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # the built-in TimeoutError only from Python 3.11 on
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch

from eyespot.arrays import Int64Array, UInt8Array
from eyespot.data.dataset import PackedDataset, SplitName
from eyespot.data.decode_pool import core_count
from eyespot.data.resizing import RowFormat
from eyespot.data.splits import Splits
from eyespot.data.stream_workers import StreamWorkers, decode_rows
from eyespot.data.windows import Windows
from eyespot.errors import BadImageError, DataError, UsageError
from eyespot.seeds import derive_seed

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing only from Python 3.11 on

STREAM_TIMEOUT_SECONDS = 60.0
"""A decoding worker that gives no picture for so long is taken for stuck."""

_GPU_SHARE = 0.5  # of a GPU's free memory may hold pixels: network, gradients and maps need the rest
_CHUNK_PICTURES = 16  # one question to a worker: all of them work on the first batch, and none for long on one question


class Batch(NamedTuple):
    """Some pictures of a split; the tensors are the caller's own.

    Attributes:
        images: uint8 (B, C, H, W), 0..255, in channels_last memory format.
        labels: int64 (B,), each in [0, K).
        indices: int64 (B,), positions in the split, each in [0, N).
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


@dataclass(frozen=True)
class BatchPlan:
    """Which pictures come in which batch.

    Attributes:
        num_images: N, 1 or more.
        batch_size: Pictures in a batch, 1 or more.
        shuffle: False: the order of the data set, for evaluation. True: an order of its own for every epoch.
        seed: Of the shuffling.
        drop_last: Leave out the last batch of an epoch where it is short.

    Raises:
        UsageError: The batch size is under 1, or leaves no batch.
    """

    num_images: int
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size is {self.batch_size}", remedy="choose 1 or more")
        if self.steps_per_epoch < 1:
            raise UsageError(
                f"batch_size {self.batch_size} is more than the {self.num_images} pictures, and drop_last leaves none",
                remedy=f"choose a batch_size of {self.num_images} or less, or --set training.drop_last=false",
            )

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of batches of an epoch."""
        return self._steps(self.num_images)

    def _steps(self, num_images: int) -> int:
        full, rest = divmod(num_images, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def positions(self, epoch: int, first_step: int = 0, order: torch.Tensor | None = None) -> Iterator[torch.Tensor]:
        """Yield int64 (B,) for every batch of an epoch from a step on: the positions of its pictures.

        Args:
            epoch: From 0.
            first_step: Leave out the batches before this one.
            order: int64 (M,), the positions to take instead of all of them in an order of the epoch's own.
        """
        order = self._order(epoch) if order is None else order
        steps = self._steps(len(order))
        if not 0 <= first_step <= steps:
            raise ValueError(f"first_step is {first_step}, the epoch has {steps} steps")
        for step in range(first_step, steps):
            yield order[step * self.batch_size : (step + 1) * self.batch_size]

    def positions_on(
        self, device: torch.device, epoch: int, first_step: int = 0, order: torch.Tensor | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield what `positions` does, int64 (B,), twice: on the CPU, and on a device as the caller's own.

        The order is moved there once: a copy for each batch would wait each time until a GPU has done all its work.
        """
        order = self._order(epoch) if order is None else order
        here, there = (self.positions(epoch, first_step, each) for each in (order, order.to(device)))
        for positions, indices in zip(here, there, strict=True):
            yield positions, indices.clone()

    def _order(self, epoch: int) -> torch.Tensor:
        """Return int64 (N,), all positions."""
        if not self.shuffle:
            return torch.arange(self.num_images)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        return torch.randperm(self.num_images, generator=generator)


class Loader(ABC):
    """One split, in batches; a context manager that ends what it started.

    Args:
        labels: int64 (N,), in the order of the positions.
        plan: Which pictures come when.
        device: Where labels and batches are.
    """

    def __init__(self, labels: Int64Array, plan: BatchPlan, device: str) -> None:
        self._labels = torch.tensor(labels, dtype=torch.int64, device=device)
        self._plan = plan
        self._device = torch.device(device)

    @property
    def num_images(self) -> int:
        """Return N, the pictures in the split."""
        return self._plan.num_images

    @property
    def batch_size(self) -> int:
        """Return how many pictures a full batch has."""
        return self._plan.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Return how many batches an epoch has, the last short one included unless it is dropped."""
        return self._plan.steps_per_epoch

    @property
    def labels(self) -> torch.Tensor:
        """Return int64 (N,), on the device: the labels in the order of the positions."""
        return self._labels

    @abstractmethod
    def batches(self, epoch: int, *, first_step: int = 0, order: torch.Tensor | None = None) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Args:
            epoch: From 0; with the seed it decides the order. Without shuffling all epochs are alike.
            first_step: Leave out the batches before this one, without reading them.
            order: int64 (M,), the positions of the epoch's pictures in the wanted order, instead of all N.

        Raises:
            DataError: A picture cannot be read any more, or a decoding worker died or hangs.
        """

    def close(self) -> None:  # noqa: B027  # most have nothing to end
        """End worker processes, where there are any; `batches` may start them again."""

    def __enter__(self) -> Self:
        """Return the loader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the loader."""
        self.close()


def _has_room(num_bytes: int, device: torch.device) -> bool:
    """Return whether pixels can lie on a device and leave it the memory to train in."""
    return device.type != "cuda" or num_bytes <= _GPU_SHARE * torch.cuda.mem_get_info(device)[0]


class MemoryLoader(Loader):
    """A loader that has all pixels in memory: the device's, or the computer's where a GPU has too little.

    Args:
        pixels: uint8 (N, S, L, C), contiguous. Not copied for the CPU and never written to: it may be a read-only
            memory map.
        labels: int64 (N,).
        plan: Which pictures come when.
        windows: What of each strip is taken; None where the rows are squares.
        device: Where labels and batches are; and pixels, where they take at most half of its free memory.
    """

    def __init__(
        self,
        pixels: UInt8Array,
        labels: Int64Array,
        plan: BatchPlan,
        *,
        windows: Windows | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(labels, plan, device)
        with warnings.catch_warnings():
            # torch has no read-only tensors and warns. Each batch is a copy, so that nobody gets at these pixels to
            # write.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self._pixels = torch.from_numpy(np.asarray(pixels))  # (N, S, L, C)
        self._is_there = _has_room(self._pixels.nbytes, self._device)
        if self._is_there:
            self._pixels = self._pixels.to(self._device)
        self._windows = windows

    def batches(self, epoch: int, *, first_step: int = 0, order: torch.Tensor | None = None) -> Iterator[Batch]:
        """Yield the batches of an epoch; see `Loader`."""
        rows = self._pixels.view(len(self._pixels), -1)  # (N, S * L * C): one run of memory for each picture
        first_columns = self._windows.first_columns(epoch) if self._windows else None
        for positions, indices in self._plan.positions_on(self._device, epoch, first_step, order):
            strips, chosen = (self._pixels, indices) if self._is_there else self._moved(positions)
            if self._windows and first_columns is not None:
                images = self._windows.cut(strips, chosen, indices, first_columns)
            elif self._is_there:
                images = rows.index_select(0, indices).view(-1, *self._pixels.shape[1:])  # (B, S, S, C)
            else:
                images = strips
            yield Batch(images.permute(0, 3, 1, 2), self._labels[indices], indices)

    def _moved(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch's rows on the device, uint8 (B, S, L, C), and their places there, int64 (B,).

        Out of pinned memory, so that nobody waits for the copy. Of the batch, not of all the pixels: they may be a
        memory map, larger than what can be pinned.
        """
        shape = (len(positions), *self._pixels.shape[1:])
        nhwc = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        torch.index_select(self._pixels.flatten(1), 0, positions, out=nhwc.view(len(positions), -1))
        return nhwc.to(self._device, non_blocking=True), torch.arange(len(positions), device=self._device)


class _Pending(NamedTuple):
    """A batch that is being decoded: its positions on the CPU, its rows uint8 (B, S, L, C), what is waited for.

    `indices` are the positions on the device.
    """

    positions: torch.Tensor
    indices: torch.Tensor
    nhwc: torch.Tensor
    parts: list[Future[dict[int, str]]]


class StreamLoader(Loader):
    """A loader that decodes the files anew in every epoch, by worker processes that stay from epoch to epoch.

    The batches are the same for any number of processes. Only the next few batches are in memory.

    Args:
        paths: N files.
        labels: int64 (N,).
        row_format: What each picture becomes.
        plan: Which pictures come when.
        windows: What of each strip is taken; None where the rows are squares.
        device: Where labels and batches are.
        processes: Number of worker processes; 0 decodes in this one.
        timeout_seconds: A worker that gives no picture for so long is taken for stuck.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: Int64Array,
        row_format: RowFormat,
        plan: BatchPlan,
        *,
        windows: Windows | None = None,
        device: str = "cpu",
        processes: int = 1,
        timeout_seconds: float = STREAM_TIMEOUT_SECONDS,
    ) -> None:
        super().__init__(labels, plan, device)
        self._paths = paths
        self._row_format = row_format
        self._windows = windows
        self._processes = processes
        self._timeout_seconds = timeout_seconds
        self._workers: StreamWorkers | None = None
        # Two questions a worker, so that none waits for us, and two batches, so that we seldom wait for a slow picture.
        self._batches_ahead = max(2, -(-2 * processes * _CHUNK_PICTURES // plan.batch_size)) if processes else 0

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Return the process ids of the workers; none before the first batch and after `close`."""
        return self._workers.pids if self._workers else ()

    def batches(self, epoch: int, *, first_step: int = 0, order: torch.Tensor | None = None) -> Iterator[Batch]:
        """Yield the batches of an epoch; see `Loader`."""
        ahead: deque[_Pending] = deque()
        first_columns = self._windows.first_columns(epoch) if self._windows else None
        try:
            for positions, indices in self._plan.positions_on(self._device, epoch, first_step, order):
                ahead.append(self._request(positions, indices))
                if len(ahead) > self._batches_ahead:
                    yield self._finish(ahead.popleft(), first_columns)
            while ahead:
                yield self._finish(ahead.popleft(), first_columns)
        except BadImageError as error:
            raise BadImageError(
                f"a picture that was good when it was scanned {error.what} now",
                where=error.where,
                remedy="put the file back and go on with --resume, or start a new run, which scans the pictures again",
            ) from error
        finally:
            for pending in ahead:  # of an iteration that was left early: nobody will ask for these
                for part in pending.parts:
                    part.cancel()

    def _request(self, positions: torch.Tensor, indices: torch.Tensor) -> _Pending:
        """Have the workers begin with a batch; without workers, decode it."""
        shape = (len(positions), *self._row_format.shape)
        nhwc = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        rows = cast(UInt8Array, nhwc.numpy())
        paths = [self._paths[position] for position in positions.tolist()]
        if not self._processes:
            decode_rows(paths, self._row_format, rows)
            return _Pending(positions, indices, nhwc, [])
        if self._workers is None:
            self._workers = StreamWorkers(self._row_format, self._processes)
        chunks = [slice(start, start + _CHUNK_PICTURES) for start in range(0, len(paths), _CHUNK_PICTURES)]
        parts = [self._workers.submit(paths[chunk], rows[chunk]) for chunk in chunks]
        return _Pending(positions, indices, nhwc, parts)

    def _finish(self, pending: _Pending, first_columns: torch.Tensor | None) -> Batch:
        """Wait for a batch."""
        for part in pending.parts:
            try:
                part.result(self._timeout_seconds)
            except FutureTimeoutError as error:
                self.close()
                raise DataError(
                    f"the decoding workers gave no picture for {self._timeout_seconds:g} s",
                    where=self._paths[int(pending.positions[0])],
                    remedy="see whether the drive with the pictures answers, then go on with --resume",
                ) from error
            except BadImageError:
                raise
            except DataError:
                self.close()
                raise
        nhwc, indices = pending.nhwc.to(self._device, non_blocking=True), pending.indices
        if self._windows and first_columns is not None:
            nhwc = self._windows.cut(nhwc, torch.arange(len(nhwc), device=self._device), indices, first_columns)
        return Batch(nhwc.permute(0, 3, 1, 2), self._labels[indices], indices)

    def close(self) -> None:
        """End the worker processes; the next batch starts new ones."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None


def make_loader(
    packed: PackedDataset,
    splits: Splits,
    split: SplitName,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    drop_last: bool,
    device: str,
    workers: int,
) -> Loader:
    """Return the batches of one split: from memory where it was packed, else from its files.

    Args:
        packed: The pictures.
        splits: Their division, made for these pictures.
        split: Which of them.
        batch_size: Pictures in a batch.
        shuffle: True for training; False gives every picture once in the order of `splits.labels`.
        seed: Of the shuffling.
        drop_last: Leave out the last batch of an epoch where it is short.
        device: Where the batches are wanted, as torch writes it.
        workers: Processes that decode files; 0 for one per core. Not used where the pixels are in memory.

    Raises:
        DataError: There is no such split, `splits` belongs to other data, or the pixels do not fit into memory.
        UsageError: The batch size is under 1, or leaves no batch.
    """
    if splits.fingerprint != packed.fingerprint:
        raise DataError(
            f"the split belongs to data with fingerprint {splits.fingerprint}, these have {packed.fingerprint}",
            where=packed.dataset.name,
            remedy="bring back the data as they were, or start a new run",
        )
    count = splits.count(split)
    if not count:
        raise DataError(
            f"there is no {split} split",
            where=packed.dataset.name,
            remedy=f"the run has {', '.join(name for name in splits.indices if splits.count(name))}",
        )
    plan = BatchPlan(count, batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last)
    parts = splits.indices[split]
    labels = splits.labels(packed, split)
    windows = None
    if packed.row_format.fit == "short-side":
        sizes_px = np.concatenate([packed.splits[source].sizes_px[rows] for source, rows in parts.items()])
        windows = Windows(sizes_px, packed.row_format, random=shuffle, seed=seed, device=device)
    if all(packed.splits[source].pixels is not None for source in parts):
        return MemoryLoader(_gather_pixels(packed, parts), labels, plan, windows=windows, device=device)
    paths, processes = _gather_paths(packed, parts), workers or core_count()
    return StreamLoader(paths, labels, packed.row_format, plan, windows=windows, device=device, processes=processes)


def _gather_pixels(packed: PackedDataset, parts: Mapping[SplitName, Int64Array]) -> UInt8Array:
    """Return uint8 (N, S, L, C): the memory map itself where the split is one run of it, else a copy."""
    sources = [(cast(UInt8Array, packed.splits[name].pixels), rows) for name, rows in parts.items() if len(rows)]
    if len(sources) == 1:
        pixels, rows = sources[0]
        first, last = int(rows[0]), int(rows[-1])
        if last - first + 1 == len(rows):
            return pixels[first : last + 1]
    shape = (sum(len(rows) for _, rows in sources), *sources[0][0].shape[1:])
    try:
        result = np.empty(shape, np.uint8)
    except MemoryError as error:
        raise DataError(
            f"no memory for {shape[0]:,} pictures ({np.prod(shape, dtype=float) / 1e9:.1f} GB)",
            where=packed.dataset.name,
            remedy="have them read from the files instead with a smaller --set data.memory_limit_gb=...",
        ) from error
    start = 0
    for pixels, rows in sources:
        # clip, because with the default mode take makes a second copy so as not to write to `out` before an error.
        np.take(pixels, rows, axis=0, out=result[start : start + len(rows)], mode="clip")
        start += len(rows)
    return result


def _gather_paths(packed: PackedDataset, parts: Mapping[SplitName, Int64Array]) -> list[str]:
    """Return the N files of a split."""
    result: list[str] = []
    for name, rows in parts.items():
        paths = packed.splits[name].paths
        if paths is None:
            raise DataError(
                f"{name} is in memory, but other pictures of the same split are read from files",
                where=packed.dataset.name,
                remedy="pack the data again with another --set data.memory_limit_gb=...",
            )
        result.extend(os.fspath(paths[row]) for row in rows.tolist())
    return result

"""Every picture once through a frozen backbone: features in a memory-mapped cache, and how a head is trained on them.

Before this: packed pictures and a backbone with its weights. After this: `solvers` or the training loop, which take
seconds, and `finishing`, which measures the trained head on the same features.

The cache knows the pictures by their content and the backbone by its weights: another head, learning rate, split or
seed encodes nothing again. It grows by whole chunks, so that a killed process goes on where it was, with the same bits.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor, nn

from eyespot.arrays import FeatureArray, Int64Array
from eyespot.augment_config import AugmentConfig
from eyespot.caches import cache_folder
from eyespot.data.dataset import PackedDataset, SplitName
from eyespot.data.input_spec import InputSpec
from eyespot.data.loaders import Batch, make_loader
from eyespot.data.pack_spec import size_words
from eyespot.data.splits import Splits
from eyespot.data.transforms import EvalTransform, TrainTransform
from eyespot.device import ComputePlan, is_memory_error
from eyespot.errors import DataError, MemoryLimitError, ModelError
from eyespot.files import describe_disk_error, write_json
from eyespot.locks import file_lock
from eyespot.models.folding import folded
from eyespot.models.frozen_part import Cut
from eyespot.models.pretrained import PretrainedClassifier
from eyespot.models.weights import tensors_sha256
from eyespot.seeds import derive_seed

Progress = Callable[[int, int], None]

_TRAIN: tuple[SplitName, ...] = ("train",)
_FORMAT_VERSION = 1
_CHUNK = 1024  # pictures between two marks of progress; a whole number of forward passes
_BATCH = 64  # pictures in a forward pass: their maps stay in the cache
_LOCK_SECONDS = 0.2  # between two looks at the signals while another process encodes
_MAP = "map"  # the level of features that are whole maps
_SAMPLE = 2  # images on which folding is checked


@dataclass(frozen=True)
class FeatureKey:
    """What features depend on; equal keys mean equal features.

    Attributes:
        fingerprint: Of the data's content.
        weights: Digest of the backbone's weights.
        backbone: Name of the network.
        level: What of the network is kept.
        spec: Input spec as JSON values.
        device: Kind of device.
        precision: Of the matrix products.
        augment: Settings of the augmented views; empty where there are none.
        versions: Of what decodes and computes: their last bits differ.
    """

    fingerprint: str
    weights: str
    backbone: str
    level: str
    spec: Mapping[str, object]
    device: str
    precision: str
    augment: Mapping[str, object]
    versions: Mapping[str, str]

    def digest(self) -> str:
        """Return 32 hex digits."""
        text = json.dumps({"version": _FORMAT_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class FeatureStore:
    """The features of all pictures of a data set.

    Attributes:
        arrays: Source split -> one array a view, float16 or float32 (N, D), memory-mapped, read-only.
        view_seconds: Source split -> what encoding each view took, whenever that was.
        encoded: Pictures times views that were encoded now; 0 where all were in the cache.
        seconds: Wall clock of encoding them.
    """

    arrays: Mapping[SplitName, tuple[FeatureArray, ...]]
    view_seconds: Mapping[SplitName, tuple[float, ...]]
    encoded: int
    seconds: float

    def parts(self, splits: Splits, split: SplitName) -> list[tuple[tuple[FeatureArray, ...], Int64Array]]:
        """Return the sources of a split, in the order of its labels: arrays (one a view) and rows of them."""
        return [(self.arrays[source], rows) for source, rows in splits.indices[split].items()]

    def encode_seconds(self, splits: Splits, split: SplitName, views: int) -> float:
        """Return what encoding so many views of a split took, its share of its sources."""
        return sum(
            sum(self.view_seconds[source][:views]) * len(rows) / max(len(self.arrays[source][0]), 1)
            for source, rows in splits.indices[split].items()
        )


@dataclass(frozen=True)
class FrozenNetwork:
    """What encodes a picture: a network that does not change any more.

    Attributes:
        name: Of the backbone.
        level: What of it is kept, in words that tell one kind of features from another.
        width: D.
        network: float32 (B, C, S, S) in, (B, D) out; in eval mode.
        weights: Digest of its weights.
    """

    name: str
    level: str
    width: int
    network: nn.Module
    weights: str

    @classmethod
    def pooled(cls, model: PretrainedClassifier) -> FrozenNetwork:
        """Return the whole backbone, for every pooling of its head but `flatten`, which has features of its own."""
        kind = _MAP if model.head_spec.pool == "flatten" else "pooled"
        weights = tensors_sha256(model.backbone.state_dict())
        return cls(model.name, f"{kind} {model.taps}", model.encoded_width, _FeaturesOf(model).eval(), weights)

    @classmethod
    def before(cls, model: PretrainedClassifier, cut: Cut) -> FrozenNetwork:
        """Return the part of a backbone before its first trained module."""
        names = {name for name, parameter in model.backbone.named_parameters() if not parameter.requires_grad}
        owners = {name.rpartition(".")[0] for name in names}
        frozen = {
            name: tensor for name, tensor in model.backbone.state_dict().items() if name.rpartition(".")[0] in owners
        }
        weights = tensors_sha256(frozen)
        return cls(model.name, f"before {cut.first}", math.prod(cut.shape), cut.frozen.eval(), weights)


class Encoder:
    """A frozen network that encodes a data set's pictures, and the place in the cache where their features go.

    Args:
        frozen: On the plan's device.
        packed: The pictures.
        spec: What they become for the model.
        plan: Device and precision.
        augment: Settings of views beyond the mirrored one.
        trained: Source splits that are trained on: the others have two views at most.
        workers: Decoding processes where pictures are streamed; 0: one a core.
    """

    def __init__(
        self,
        frozen: FrozenNetwork,
        packed: PackedDataset,
        spec: InputSpec,
        plan: ComputePlan,
        augment: AugmentConfig,
        *,
        trained: Collection[SplitName] = _TRAIN,
        workers: int = 0,
    ) -> None:
        self._frozen, self._packed, self._spec, self._plan = frozen, packed, spec, plan
        self._augment, self._trained = augment, trained
        self._workers = workers
        self.width = frozen.width
        # Features that come out of bf16 products lose nothing in float16; those of float32 would.
        self.dtype = np.dtype(np.float16 if plan.precision == "bf16" else np.float32)
        self._network: nn.Module | None = None

    def size_bytes(self, splits: Sequence[SplitName], views: int) -> int:
        """Return what the features of source splits take on disk."""
        return self._rows(splits, views) * self.width * self.dtype.itemsize

    def fits(self, splits: Sequence[SplitName], views: int) -> bool:
        """Return whether the features of source splits fit on the cache's disk, with a tenth of it to spare.

        What of them lies there already needs no more room.
        """
        return self._missing_bytes(splits, views) < 0.9 * _free_bytes()

    def check_space(self, splits: Sequence[SplitName], views: int) -> None:
        """Refuse to go on where the rest of the features cannot be kept any more.

        Raises:
            DataError: The disk has less room than they need.
        """
        missing, free = self._missing_bytes(splits, views), _free_bytes()
        if missing > free:
            smaller = "take pool gap instead of flatten, " if self._frozen.level.startswith(_MAP) else ""
            raise DataError(
                f"{size_words(missing)} of features are still to be stored, {size_words(free)} are free",
                where=cache_folder("features"),
                remedy=f"{smaller}free some space, or name a larger disk with EYESPOT_CACHE, and go on with --resume",
            )

    def seconds_kept(self, splits: Sequence[SplitName], views: int) -> float:
        """Return what encoding took of the features that are in the cache now."""
        return sum(self._shard(source, view).read_seconds() for source, view in self._jobs(splits, views))

    def estimate(self, splits: Sequence[SplitName], views: int) -> str:
        """Return in words how much the features will take on disk."""
        rows, size = self._rows(splits, views), self.size_bytes(splits, views)
        return f"{rows:,} views of {self.width:,} features, {size_words(size)} in {cache_folder('features')}"

    def encode(
        self,
        sources: Sequence[SplitName],
        views: int,
        *,
        progress: Progress,
        should_stop: Callable[[], None],
        message: Callable[[str], None] = lambda text: None,
    ) -> FeatureStore:
        """Return the features of source splits, from the cache as far as they are there.

        Args:
            sources: Splits that the data bring. Train has all views, the others at most the mirrored one.
            views: 1: as they are; 2: mirrored too; more: augmented.
            progress: Told (done, all), in pictures times views.
            should_stop: Called before each forward pass, and while another process is waited for; may raise.
            message: Told a sentence that the user should read.

        Raises:
            DataError: The cache cannot be written, or a picture cannot be read any more.
            ModelError: The backbone answers NaN or infinity.
        """
        started = time.monotonic()
        encoded = done = 0
        total = self._rows(sources, views)
        arrays: dict[SplitName, tuple[FeatureArray, ...]] = {}
        seconds: dict[SplitName, tuple[float, ...]] = {}
        try:
            for source, view in self._jobs(sources, views):

                def look(rows: int, before: int = done) -> None:
                    progress(before + rows, total)
                    should_stop()

                shard = self._shard(source, view)
                kept = shard.read()
                if kept < len(self._packed.splits[source]):  # else nothing is written: the cache may be read-only
                    with _locked(shard.lock_path, should_stop, message):
                        encoded += self._fill(shard, source, view, look)
                else:
                    look(kept)
                array = shard.map()
                done += len(array)
                arrays[source] = (*arrays.get(source, ()), array)
                seconds[source] = (*seconds.get(source, ()), shard.seconds)
        except OSError as error:
            what, step = describe_disk_error(error)
            raise DataError(
                f"cannot keep features ({what})",
                where=cache_folder("features"),
                remedy=f"{step}; EYESPOT_CACHE names the folder",
            ) from error
        return FeatureStore(arrays, seconds, encoded, time.monotonic() - started if encoded else 0.0)

    def _fill(self, shard: _Shard, source: SplitName, view: int, look: Callable[[int], None]) -> int:
        """Encode what a shard lacks, and return how many pictures that were."""
        kept = shard.open()
        look(kept)
        begun = time.monotonic()
        for first, rows in self._chunks(source, view, kept, look):
            shard.write(first, rows, time.monotonic() - begun)
            begun = time.monotonic()
            look(first + len(rows))
        return len(self._packed.splits[source]) - kept

    def _rows(self, splits: Sequence[SplitName], views: int) -> int:
        return sum(len(self._packed.splits[source]) for source, _ in self._jobs(splits, views))

    def _missing_bytes(self, splits: Sequence[SplitName], views: int) -> int:
        kept = sum(self._shard(source, view).allocated_bytes() for source, view in self._jobs(splits, views))
        return self.size_bytes(splits, views) - kept

    def _jobs(self, splits: Sequence[SplitName], views: int) -> list[tuple[SplitName, int]]:
        """Return what is encoded, source by source and view by view."""
        return [(source, view) for source in splits for view in range(self._views(source, views))]

    def _shard(self, source: SplitName, view: int) -> _Shard:
        shape = (len(self._packed.splits[source]), self.width)
        return _Shard(self._folder(view), f"{source}-{view}", shape, self.dtype)

    def _views(self, source: SplitName, views: int) -> int:
        return views if source in self._trained else min(views, 2)

    def _folder(self, view: int) -> Path:
        key = FeatureKey(
            fingerprint=self._packed.pixels_fingerprint or self._packed.fingerprint,
            weights=self._frozen.weights,
            backbone=self._frozen.name,
            level=self._frozen.level,
            spec=self._spec.as_dict(),
            device=self._plan.device.split(":")[0],
            precision=self._plan.precision,
            augment=self._augment.model_dump(mode="json") if view > 1 else {},
            versions=_versions(),
        )
        return cache_folder("features") / f"{self._frozen.name}-{key.digest()}"

    def _chunks(
        self, source: SplitName, view: int, first: int, look: Callable[[int], None]
    ) -> Iterator[tuple[int, FeatureArray]]:
        """Yield the place of a chunk's first row, and its features (n, D), from row `first` on, a chunk's beginning.

        Args:
            source: Split that the data bring.
            view: From 0.
            first: Rows that are there already.
            look: Told the rows that are encoded, before each forward pass; may raise.
        """
        count = len(self._packed.splits[source])
        if first >= count:
            return
        everything = Splits(self._packed.fingerprint, {source: {source: np.arange(count)}})
        # Batches of a forward pass, not of a chunk: on large streamed pictures a chunk takes minutes to come.
        with make_loader(
            self._packed,
            everything,
            source,
            batch_size=_BATCH,
            shuffle=False,
            seed=0,
            drop_last=False,
            device=self._plan.device,
            workers=self._workers,
        ) as loader:
            parts: list[FeatureArray] = []
            row = first
            for batch in loader.batches(0, first_step=first // _BATCH):
                look(row)
                parts.append(self._features(batch, view, row))
                row += len(batch.labels)
                if row % _CHUNK == 0 or row == count:
                    yield first, np.concatenate(parts)
                    first, parts = row, []

    @torch.inference_mode()
    def _features(self, batch: Batch, view: int, first: int) -> FeatureArray:
        """Return the features of one batch, (B, D); `first` is the row of its first picture."""
        images = self._view(batch, view, first)
        try:
            with self._plan.autocast():
                features = self._folded(images)(images).float().cpu().numpy()
        except (MemoryError, RuntimeError) as error:
            if not is_memory_error(error):
                raise
            raise MemoryLimitError(
                f"no memory left to encode {len(images)} pictures at once",
                where=self._frozen.name,
                remedy="close other programs, or use a smaller input.size_px or backbone",
            ) from error
        with np.errstate(over="ignore"):  # it is said in our words
            stored = features.astype(self.dtype)
        if not np.isfinite(stored).all():
            what = "NaN or infinity" if not np.isfinite(features).all() else f"values over {np.finfo(np.float16).max:g}"
            reduced = self._plan.precision != "float32"
            raise ModelError(
                f"the backbone answers {what}",
                where=self._frozen.name,
                remedy=f"{'--set training.precision=float32, or ' if reduced else ''}give other weights",
            )
        return np.asarray(stored)

    def _view(self, batch: Batch, view: int, first: int) -> Tensor:
        """Return one view of a batch, normalised, (B, C, S, S)."""
        if view < 2:
            images = EvalTransform(self._spec)(batch.images)
            return images.flip(3) if view else images
        # The same views for every seed of the training: another seed encodes nothing again.
        generator = torch.Generator().manual_seed(derive_seed("view", view, first))
        transform = TrainTransform(self._augment, self._spec)
        return transform(batch.images, batch.labels, generator=generator, epoch=view, indices=batch.indices)

    def _folded(self, images: Tensor) -> nn.Module:
        if self._network is None:
            # Not pictures: which ones come first depends on where an encoding was killed.
            sample = torch.randn(_SAMPLE, *images.shape[1:], generator=torch.Generator().manual_seed(0))
            with torch.autocast(images.device.type, enabled=False):
                self._network = folded(self._frozen.network, sample.to(images.device))
        return self._network


class _FeaturesOf(nn.Module):
    """A classifier's features as a module's forward pass."""

    def __init__(self, model: PretrainedClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, D)."""
        return self.model.features_of(images)


def _versions() -> dict[str, str]:
    """Return the versions on which the last bits of features depend."""
    return {"torch": torch.__version__, "timm": metadata.version("timm"), "pillow": PIL.__version__}


def _free_bytes() -> int:
    folder = cache_folder("features")
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free


@contextmanager
def _locked(path: Path, should_stop: Callable[[], None], message: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a shard; another process may hold it for hours, and a stop is heard all the same."""
    with ExitStack() as stack:
        told = False
        while True:
            try:
                stack.enter_context(file_lock(path, timeout_seconds=_LOCK_SECONDS))
                break
            except TimeoutError:
                if not told:
                    message("waiting for another process that encodes the same pictures")
                told = True
                should_stop()
        yield


class _Shard:
    """The features of one view of one source split: a file of rows, and one that says how many of them are whole."""

    def __init__(self, folder: Path, name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._rows_path = folder / f"{name}.bin"
        self._index_path = folder / f"{name}.json"
        self.lock_path = folder.with_name(f"{folder.name}.lock")
        self._shape, self._dtype = shape, dtype
        self._checksums: list[int] = []
        self.seconds = 0.0  # of encoding the rows that are there

    def read(self) -> int:
        """Return how many rows are there already: all before the first damaged chunk."""
        self._checksums = []
        checksums, seconds = self._read_index()
        with suppress(OSError), open(self._rows_path, "rb") as file:
            for checksum in checksums:
                if zlib.crc32(file.read(_CHUNK * self._row_bytes)) != checksum:
                    break
                self._checksums.append(checksum)
        # Of the rows that are encoded again only the second time counts.
        self.seconds = seconds * self._rows(len(self._checksums)) / max(self._rows(len(checksums)), 1)
        return self._rows(len(self._checksums))

    def open(self) -> int:
        """Return what `read` does, with room for all rows: those from there on are to be encoded."""
        self._rows_path.parent.mkdir(parents=True, exist_ok=True)
        kept = self.read()
        if not self._rows_path.exists() or self._rows_path.stat().st_size != self._row_bytes * self._shape[0]:
            needed = self._row_bytes * self._shape[0]
            free = shutil.disk_usage(self._rows_path.parent).free
            if needed > free:
                size = f"{size_words(needed)}, {size_words(free)} are free"
                raise DataError(
                    f"the features of {self._shape[0]:,} pictures take {size}",
                    where=self._rows_path.parent,
                    remedy="free some space, or name a larger disk with EYESPOT_CACHE",
                )
            with open(self._rows_path, "ab") as file:
                file.truncate(needed)
        return kept

    def read_seconds(self) -> float:
        """Return what encoding the rows took that are said to be there; nothing is checked."""
        return self._read_index()[1]

    def allocated_bytes(self) -> int:
        """Return what the rows take on the disk now; all of it where they are said to be whole: disks may compress."""
        try:
            status = self._rows_path.stat()
        except OSError:
            return 0
        if self._rows(len(self._read_index()[0])) == self._shape[0]:
            return self._row_bytes * self._shape[0]
        # The file has its full length from the beginning; Windows, which counts no blocks, allocates all of it.
        blocks: int | None = getattr(status, "st_blocks", None)
        taken = status.st_size if blocks is None else min(512 * blocks, status.st_size)
        return min(taken, self._row_bytes * self._shape[0])

    def write(self, first: int, rows: FeatureArray, seconds: float) -> None:
        """Write a chunk that took some seconds, then say that it is there."""
        data = np.ascontiguousarray(rows).tobytes()
        with open(self._rows_path, "r+b") as file:
            file.seek(first * self._row_bytes)
            file.write(data)
        self._checksums.append(zlib.crc32(data))
        self.seconds += seconds
        index = {"shape": list(self._shape), "checksums": self._checksums, "seconds": self.seconds}
        write_json(self._index_path, index)

    def map(self) -> FeatureArray:
        """Return all rows, memory-mapped and read-only."""
        if self._shape[0] == 0:
            return np.zeros(self._shape, self._dtype)
        return np.memmap(self._rows_path, dtype=self._dtype, mode="r", shape=self._shape)

    def _read_index(self) -> tuple[list[int], float]:
        """Return the checksums of the chunks, and what encoding them took; none where no index of these rows is."""
        try:
            index = json.loads(self._index_path.read_text(encoding="utf-8"))
            checksums, seconds = list(index["checksums"]), float(index["seconds"])
            whole = index["shape"] == list(self._shape) and 0 <= seconds < math.inf  # false for NaN
        except (OSError, ValueError, KeyError, TypeError):
            return [], 0.0
        return (checksums, seconds) if whole and checksums else ([], 0.0)

    def _rows(self, chunks: int) -> int:
        return min(chunks * _CHUNK, self._shape[0])

    @property
    def _row_bytes(self) -> int:
        return self._shape[1] * self._dtype.itemsize

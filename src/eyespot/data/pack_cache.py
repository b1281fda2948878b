"""One packed data set in the cache: found by its key, believed when its checksums hold, and never there in part.

Before this: `pack_spec` said what the pictures become. After this: `packing` hands the `PackedDataset` out.

An entry is a folder `<name>-<key>` with

    records.bin   N records (`decode_pool.RECORD`): status, mode, size and content hash of each picture, bad ones too
    thumbs.bin    uint8 (usable pictures, 32, 32), a grey thumbnail of each, whatever the row format
    pixels.bin    uint8 (usable pictures, S, L, C), all splits in order; absent where pixels are streamed or referenced
    index.json    the report, and the checksums of the others

It is built in a temporary folder, made durable, and renamed: what has the final name is whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL

from eyespot.arrays import BoolArray, Int64Array, UInt8Array
from eyespot.caches import cache_folder
from eyespot.data.checks import ScannedPictures, build_report
from eyespot.data.dataset import (
    SPLIT_NAMES,
    BadImage,
    Dataset,
    DuplicateGroup,
    Items,
    PackedDataset,
    PackedSplit,
    ScanReport,
    SplitName,
)
from eyespot.data.decode_pool import (
    GOOD,
    MODES,
    RECORD,
    DecodeJob,
    FileSegment,
    WorkerDiedError,
    decode_files,
    mode_number,
    write_rows,
)
from eyespot.data.decoding import content_hash, to_channels
from eyespot.data.pack_spec import PackSpec, is_ready
from eyespot.data.resizing import THUMBNAIL_PX, thumbnail
from eyespot.errors import DataError
from eyespot.files import fsync_folder
from eyespot.locks import file_lock

_FORMAT_VERSION = 2
_BATCH = 4096  # array pictures handled at once
_BLOCK_BYTES = 16 * 1024**2  # a checksum for each
_CHECKED_BLOCKS = 16  # looked at when a pack is opened: all of a pack up to 256 MB, a spread of a larger one

Records = npt.NDArray[np.void]


def fingerprint(class_names: Sequence[str], splits: Mapping[SplitName, PackedSplit]) -> str:
    """Return 32 hex digits that are equal for equal classes, labels and pictures in equal order.

    Names, times and places of files do not enter, only the order that they give: the indices of a saved split are valid
    for every data set with this fingerprint.
    """
    digest = hashlib.blake2b(json.dumps(list(class_names)).encode(), digest_size=16)
    for name in SPLIT_NAMES:
        if name in splits:
            digest.update(f"{name} {len(splits[name])}\n".encode())
            digest.update(np.ascontiguousarray(splits[name].labels, dtype="<i8").data)
            digest.update(np.ascontiguousarray(splits[name].hashes).data)
    return digest.hexdigest()


def remove_leftovers(room: Path) -> None:
    """Remove the temporary folders of processes that were killed while they packed."""
    with contextlib.suppress(OSError):
        for leftover in list(room.glob(".*.tmp")):
            # A living packer holds the lock; a killed one's is gone with it.
            with contextlib.suppress(TimeoutError), file_lock(_lock_path(leftover), timeout_seconds=0):
                shutil.rmtree(leftover, ignore_errors=True)


def _lock_path(folder: Path) -> Path:
    return folder.with_name(folder.name.removeprefix(".").removesuffix(".tmp") + ".lock")


class CacheEntry:
    """A data set, packed in one way, in the cache or about to be.

    Args:
        dataset: What was found; its files are listed here, not read.
        spec: What every picture becomes.
    """

    def __init__(self, dataset: Dataset, spec: PackSpec) -> None:
        self.dataset = dataset
        self.spec = spec
        self.splits: list[tuple[SplitName, Items]] = [
            (name, dataset.splits[name]) for name in SPLIT_NAMES if name in dataset.splits
        ]
        self.number = sum(len(items) for _, items in self.splits)
        self.copies_pixels = not is_ready(dataset, spec)
        self.key, self.file_sizes = _list_content(self.splits, [*dataset.class_names], spec)
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", dataset.name).strip("._")[:40] or "pictures"
        self.folder = cache_folder("packed") / f"{name}-{self.key}"
        self.lock_path = _lock_path(self.folder)

    # -------------------------------------------------------------------------------------------------------- loading

    def load(self, *, with_pixels: bool) -> PackedDataset | None:
        """Return what is kept, or None where nothing is, where it is damaged, or where it lacks the pixels."""
        try:
            index = _read_index(self.folder / "index.json")
            raw = (self.folder / "records.bin").read_bytes()
            if index["key"] != self.key or zlib.crc32(raw) != index["records_checksum"]:
                return None
            records = np.frombuffer(raw, dtype=RECORD)
            usable = int((records["status"] == GOOD).sum())
            thumbs = self._map("thumbs.bin", (usable, THUMBNAIL_PX, THUMBNAIL_PX), index["thumb_checksums"])
            pixels = None
            if with_pixels and self.copies_pixels:
                pixels = self._map("pixels.bin", (usable, *self.spec.row_format.shape), index["pixel_checksums"])
            report = _report_from_json(index["report"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # nothing there, or nothing that we wrote: it is packed again
        splits = self._packed_splits(records, thumbs, pixels, with_pixels=with_pixels)
        return PackedDataset(
            dataset=self.dataset,
            splits=splits,
            report=report,
            fingerprint=fingerprint(self.dataset.class_names, splits),
            row_format=self.spec.row_format,
        )

    def _map(self, name: str, shape: tuple[int, ...], checksums: list[int] | None) -> UInt8Array:
        """Return a memory-mapped file of one row a usable picture.

        Raises:
            ValueError: It is not there, or not what was written.
        """
        path = self.folder / name
        if checksums is None or path.stat().st_size != math.prod(shape):
            raise ValueError(f"{name} is not what was written")
        if not shape[0]:
            return np.zeros(shape, dtype=np.uint8)  # an empty file cannot be mapped
        looks = np.unique(np.linspace(0, len(checksums) - 1, min(len(checksums), _CHECKED_BLOCKS)).astype(int)).tolist()
        with open(path, "rb") as file:
            for block in looks:
                file.seek(block * _BLOCK_BYTES)
                if zlib.crc32(file.read(_BLOCK_BYTES)) != checksums[block]:
                    raise ValueError(f"{name} is damaged")
        return np.memmap(path, dtype=np.uint8, mode="r", shape=shape)

    def _packed_splits(
        self, records: Records, thumbs: UInt8Array, pixels: UInt8Array | None, *, with_pixels: bool
    ) -> dict[SplitName, PackedSplit]:
        """Return the usable pictures of each split, with their packed pixels, their own arrays, or their files."""
        splits: dict[SplitName, PackedSplit] = {}
        first, first_row = 0, 0
        for name, items in self.splits:
            mine = records[first : first + len(items)]
            kept = np.flatnonzero(mine["status"] == GOOD)
            rows = slice(first_row, first_row + len(kept))
            first, first_row = first + len(items), first_row + len(kept)
            split_pixels, paths = None, None
            if with_pixels:
                split_pixels = pixels[rows] if pixels is not None else items.pixels
            elif items.paths is not None:
                paths = [items.paths[i] for i in kept.tolist()]
            splits[name] = PackedSplit(
                ids=items.ids if len(kept) == len(items) else [items.ids[i] for i in kept.tolist()],
                labels=np.asarray(items.labels, dtype=np.int64)[kept],
                hashes=np.ascontiguousarray(mine["hash"][kept]),
                sizes_px=_sizes_px(mine[kept]),
                pixels=split_pixels,
                paths=paths,
                thumbs=thumbs[rows],
            )
        return splits

    # ------------------------------------------------------------------------------------------------------- building

    def build(self, with_pixels: bool, workers: int | None, progress: Callable[[int, int], None]) -> PackedDataset:
        """Scan and pack all pictures and keep the result; the caller holds the lock.

        Args:
            with_pixels: Keep the pixels, or only what the scan finds.
            workers: As in `decode_files`.
            progress: Is called with the number of pictures done and of all.

        Raises:
            DataError: A worker was killed, or files changed meanwhile.
            OSError: The cache's disk is full or read-only.
        """
        started = time.monotonic()
        temporary = self.folder.with_name(f".{self.folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            job = self._make_files(temporary, with_pixels and self.copies_pixels)
            bad = self._scan(job, workers, progress)
            if _list_content(self.splits, [*self.dataset.class_names], self.spec)[0] != self.key:
                raise DataError(
                    "pictures changed while they were read", where=self.dataset.origin, remedy="start again"
                )
            self._finish(temporary, job, bad)
            self._move_into_place(temporary)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        packed = self.load(with_pixels=with_pixels)
        if packed is None:
            raise OSError(errno.EIO, "what was written could not be read back")
        return replace(packed, seconds=time.monotonic() - started)

    def _make_files(self, temporary: Path, with_pixels: bool) -> DecodeJob:
        """Make the result files at their full sizes, so that a full disk shows now and not after minutes."""
        records, thumbs, pixels = (temporary / name for name in ("records.bin", "thumbs.bin", "pixels.bin"))
        records.write_bytes(bytes(self.number * RECORD.itemsize))
        _reserve(thumbs, self.number * THUMBNAIL_PX**2)
        job = DecodeJob(
            records_path=os.fspath(records),
            thumbs_path=os.fspath(thumbs),
            pixels_path=os.fspath(pixels) if with_pixels else None,
            row_format=self.spec.row_format,
        )
        if with_pixels:
            _reserve(pixels, self.number * job.row_format.row_bytes)
        return job

    def _scan(self, job: DecodeJob, workers: int | None, progress: Callable[[int, int], None]) -> list[BadImage]:
        """Fill the result files and return the pictures that cannot be used."""
        done = 0

        def advance(pictures: int) -> None:
            nonlocal done
            done += pictures
            progress(done, self.number)

        segments: list[FileSegment] = []
        start = 0
        for name, items in self.splits:
            if items.paths is not None:
                segments.append(FileSegment(start, items.paths, self.file_sizes[name]))
            elif items.pixels is not None:
                _scan_array(job, start, items.pixels, advance)
            start += len(items)
        try:
            reasons = decode_files(job, segments, workers=workers, progress=advance)
        except WorkerDiedError as error:
            suspects = ", ".join(id_ for id_, _ in self._names(error.reading)) or "a picture"
            raise DataError(
                f"a decoding worker {error.how} while reading {suspects}",
                where=self.dataset.name,
                remedy="start again with more free memory or fewer workers; if it is the same picture again, remove it",
            ) from error
        positions = sorted(reasons)
        return [
            BadImage(id_, split, reasons[position])
            for position, (id_, split) in zip(positions, self._names(positions), strict=True)
        ]

    def _names(self, positions: Sequence[int]) -> Iterator[tuple[str, SplitName]]:
        """Yield the sample id and the split of each position among the N."""
        for position in positions:
            for name, items in self.splits:
                if position < len(items):
                    yield items.ids[position], name
                    break
                position -= len(items)

    def _finish(self, temporary: Path, job: DecodeJob, bad: Sequence[BadImage]) -> None:
        """Close the gaps that bad pictures left in the rows, write the index, and make all of it durable."""
        records = np.fromfile(job.records_path, dtype=RECORD)
        usable = records["status"] == GOOD
        _close_gaps(Path(job.thumbs_path), usable, THUMBNAIL_PX**2)
        checksums = None
        if job.pixels_path is not None:
            _close_gaps(Path(job.pixels_path), usable, job.row_format.row_bytes)
            checksums = _block_checksums(Path(job.pixels_path))
        index = {
            "version": _FORMAT_VERSION,
            "key": self.key,
            "records_checksum": zlib.crc32(records.tobytes()),
            "thumb_checksums": _block_checksums(Path(job.thumbs_path)),
            "pixel_checksums": checksums,
            "report": _report_to_json(self._report(records[usable], np.flatnonzero(usable).tolist(), bad)),
        }
        _write_index(temporary / "index.json", index)
        for path in temporary.iterdir():
            with open(path, "r+b") as file:
                os.fsync(file.fileno())
        fsync_folder(temporary)

    def _report(self, records: Records, positions: list[int], bad: Sequence[BadImage]) -> ScanReport:
        """Return the report; `records` and `positions` are those of the usable pictures."""
        ids = [id_ for _, items in self.splits for id_ in items.ids]
        splits: list[SplitName] = [name for name, items in self.splits for _ in range(len(items))]
        labels = np.concatenate([np.asarray(items.labels, dtype=np.int64) for _, items in self.splits])
        modes = np.bincount(records["mode"], minlength=len(MODES)).tolist()
        scanned = ScannedPictures(
            ids=[ids[i] for i in positions],
            splits=[splits[i] for i in positions],
            labels=labels[positions],
            hashes=records["hash"],
            sizes_px=_sizes_px(records),
            modes={mode: count for mode, count in zip(MODES, modes, strict=True) if count},
        )
        return build_report(self.dataset, scanned, bad, row_format=self.spec.row_format)

    def _move_into_place(self, temporary: Path) -> None:
        """Give the finished folder its name; what was damaged or had no pixels makes way."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        os.replace(temporary, self.folder)
        fsync_folder(self.folder.parent)


# ------------------------------------------------------------------------------------------------------------- the key


def _list_content(
    splits: Sequence[tuple[SplitName, Items]], class_names: list[str], spec: PackSpec
) -> tuple[str, dict[SplitName, list[int]]]:
    """Return the cache key, and the size in bytes of each file, -1 where there is none.

    Sizes and times stand for the content of files. The change time is among them because archives and copies keep the
    modification time. Pillow's version is in the key because its decoders differ in the last bit.
    """
    header = [_FORMAT_VERSION, PIL.__version__, *astuple(spec.row_format), class_names]
    digest = hashlib.blake2b(json.dumps(header).encode(), digest_size=12)
    sizes: dict[SplitName, list[int]] = {}
    for name, items in splits:
        digest.update(f"{name} {len(items)}\n".encode())
        digest.update(np.ascontiguousarray(items.labels, dtype="<i8").data)
        digest.update("\0".join(items.ids).encode("utf-8", "surrogatepass"))
        if items.pixels is not None:
            digest.update(json.dumps(items.pixels.shape).encode())
            for start in range(0, len(items), _BATCH):
                digest.update(np.ascontiguousarray(items.pixels[start : start + _BATCH]).data)
        elif items.paths is not None:
            facts = np.full((len(items), 3), -1, dtype="<i8")
            for i, path in enumerate(items.paths):
                with contextlib.suppress(OSError, ValueError):  # the scan will say what is wrong with it
                    status = os.stat(path)
                    facts[i] = status.st_size, status.st_mtime_ns, status.st_ctime_ns
            digest.update(facts.data)
            sizes[name] = facts[:, 0].tolist()
    return digest.hexdigest(), sizes


# ---------------------------------------------------------------------------------------------------- the result files


def _sizes_px(records: Records) -> Int64Array:
    """Return int64 (N, 2): width and height."""
    return np.stack([records["width_px"], records["height_px"]], axis=1).astype(np.int64)


def _scan_array(job: DecodeJob, start: int, images: UInt8Array, advance: Callable[[int], None]) -> None:
    """Hash pictures that came as an array, and pack them where their shape is another one."""
    records = np.memmap(job.records_path, dtype=RECORD, mode="r+")
    height, width, depth = images.shape[1:]
    mode = mode_number("L" if depth == 1 else "RGB")
    for first in range(0, len(images), _BATCH):
        batch = np.ascontiguousarray(images[first : first + _BATCH])
        rows = records[start + first : start + first + len(batch)]
        hashes = b"".join(content_hash(image) for image in batch)
        rows["status"], rows["mode"], rows["width_px"], rows["height_px"] = GOOD, mode, width, height
        rows["hash"] = np.frombuffer(hashes, dtype=np.uint8).reshape(-1, 16)
        write_rows(job.thumbs_path, start + first, np.stack([thumbnail(image) for image in batch]))
        if job.pixels_path is not None:
            form = job.row_format
            packed = [form.row(to_channels(image, form.channels)) for image in batch]
            write_rows(job.pixels_path, start + first, np.stack(packed))
        advance(len(batch))


def _reserve(path: Path, size: int) -> None:
    """Make a file of so many bytes that the disk has room for."""
    with open(path, "wb") as file:
        file.truncate(size)
        if size and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:  # file systems that cannot reserve
                    raise


def _close_gaps(path: Path, usable: BoolArray, picture_bytes: int) -> None:
    """Move the usable pictures together and cut the file: bad ones have no row."""
    kept = np.flatnonzero(usable)
    moved = kept[kept != np.arange(len(kept))]  # everything behind the first bad picture
    if len(moved):
        rows = np.memmap(path, dtype=np.uint8, mode="r+", shape=(len(usable), picture_bytes))
        target = len(kept) - len(moved)
        for first in range(0, len(moved), _BATCH):
            batch = moved[first : first + _BATCH]
            rows[target : target + len(batch)] = rows[batch]
            target += len(batch)
        rows.flush()
        del rows
    os.truncate(path, len(kept) * picture_bytes)


def _block_checksums(path: Path) -> list[int]:
    with open(path, "rb") as file:
        return [zlib.crc32(block) for block in iter(lambda: file.read(_BLOCK_BYTES), b"")]


def _read_index(path: Path) -> dict[str, Any]:
    """Return the index.

    Raises:
        ValueError: It is not what was written.
    """
    document = json.loads(path.read_bytes())
    index: dict[str, Any] = document["index"]
    if document["checksum"] != _checksum(index):
        raise ValueError("damaged index")
    return index


def _write_index(path: Path, index: dict[str, Any]) -> None:
    path.write_text(json.dumps({"checksum": _checksum(index), "index": index}), encoding="ascii")


def _checksum(index: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(index, sort_keys=True).encode())


def _report_to_json(report: ScanReport) -> dict[str, Any]:
    return {
        "counts": report.counts,
        "bad": [asdict(image) for image in report.bad],
        "duplicates": [asdict(group) for group in report.duplicates],
        "sizes": [[width, height, count] for (width, height), count in report.sizes.items()],
        "modes": report.modes,
        "small": report.small,
    }


def _report_from_json(data: Mapping[str, Any]) -> ScanReport:
    return ScanReport(
        counts=data["counts"],
        bad=tuple(BadImage(**image) for image in data["bad"]),
        duplicates=tuple(
            DuplicateGroup(tuple(group["ids"]), tuple(group["splits"]), tuple(group["labels"]))
            for group in data["duplicates"]
        ),
        sizes={(width, height): count for width, height, count in data["sizes"]},
        modes=data["modes"],
        small=data["small"],
    )

"""Writes small copies of published layouts, for the tests of what reads them."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eyespot.arrays import Int64Array, UInt8Array
from eyespot.data.cifar import Batch, CifarLayout
from eyespot.data.dataset import SplitName
from eyespot.data.idx import IdxFile


class Python2Pickle:
    """Writes what Python 2's cPickle wrote in protocol 2, the format of the published CIFAR files."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.memo = 0

    def dump(self, value: object) -> bytes:
        """Return the pickle of a value."""
        self.write(value)
        return bytes(self.out + b".")

    def put(self) -> None:
        self.memo += 1
        self.out += b"q" + bytes([self.memo]) if self.memo < 256 else b"r" + self.memo.to_bytes(4, "little")

    def write(self, value: object) -> None:
        if isinstance(value, str):
            content = value.encode("latin-1")
            self.out += b"U" + bytes([len(content)]) + content
            self.put()
        elif isinstance(value, int):
            if value < 256:
                self.out += b"K" + bytes([value])
            elif value < 65536:
                self.out += b"M" + value.to_bytes(2, "little")
            else:
                self.out += b"J" + value.to_bytes(4, "little")
        elif isinstance(value, list):
            self.out += b"]"
            self.put()
            for start in range(0, len(value), 1000):
                self.out += b"("
                for part in value[start : start + 1000]:
                    self.write(part)
                self.out += b"e"
        elif isinstance(value, dict):
            self.out += b"}"
            self.put()
            self.out += b"("
            for key, part in value.items():
                self.write(key)
                self.write(part)
            self.out += b"u"
        elif isinstance(value, np.ndarray):
            self.write_array(value)
        else:
            raise AssertionError(f"CIFAR has no {type(value)}")

    def write_array(self, array: UInt8Array) -> None:
        self.out += b"cnumpy.core.multiarray\n_reconstruct\n"
        self.put()
        self.out += b"cnumpy\nndarray\n"
        self.put()
        self.out += b"K\x00\x85U\x01b\x87R"
        self.put()
        self.out += b"(K\x01"
        for side in array.shape:
            self.write(side)
        self.out += b"\x86cnumpy\ndtype\n"
        self.put()
        self.out += b"U\x02u1K\x00K\x01\x87R"
        self.put()
        self.out += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        self.out += b"T" + array.nbytes.to_bytes(4, "little") + array.tobytes() + b"tb"


def cifar_arrays(count: int, num_classes: int, seed: int) -> tuple[UInt8Array, Int64Array]:
    """Return random uint8 (count, 32, 32, 3), and int64 (count,) with equally many labels of each class."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = rng.permutation(np.arange(count, dtype=np.int64) % num_classes)
    return pixels, labels


def write_cifar(
    folder: Path, layout: CifarLayout, class_names: Sequence[str], per_batch: int
) -> tuple[CifarLayout, dict[SplitName, tuple[UInt8Array, Int64Array]]]:
    """Write a small copy and return its layout, with its own counts and sums, and what is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    batches: dict[SplitName, tuple[Batch, ...]] = {}
    content: dict[SplitName, tuple[UInt8Array, Int64Array]] = {}
    seed = 0
    for split, files in layout.batches.items():
        written, parts = [], []
        for batch in files:
            seed += 1
            pixels, labels = cifar_arrays(per_batch, len(class_names), seed)
            data = cifar_file(pixels, labels, layout)
            (folder / batch.name).write_bytes(data)
            md5 = None if batch.md5 is None else hashlib.md5(data).hexdigest()
            written.append(Batch(batch.name, per_batch, md5))
            parts.append((pixels, labels))
        batches[split] = tuple(written)
        content[split] = (np.concatenate([p for p, _ in parts]), np.concatenate([y for _, y in parts]))
    if layout.meta is not None:
        (folder / layout.meta[0]).write_bytes(Python2Pickle().dump({layout.meta[1]: list(class_names)}))
    return dataclasses.replace(layout, batches=batches), content


def cifar_file(pixels: UInt8Array, labels: Int64Array, layout: CifarLayout) -> bytes:
    """Return the bytes of one batch: uint8 (N, 32, 32, 3) and int64 (N,) in CIFAR's order, channel by channel."""
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    if layout.label_bytes:
        # A coarse label, where there is one, is a number that must not be taken for the fine one.
        heads = np.full((len(rows), layout.label_bytes), 99, dtype=np.uint8)
        heads[:, -1] = labels
        return np.concatenate([heads, rows], axis=1).tobytes()
    names = [f"picture_s_{number:06d}.png" for number in range(len(rows))]
    parts: dict[str, object] = {"batch_label": "training batch 1 of 5", layout.label_key: labels.tolist()}
    return Python2Pickle().dump({**parts, "data": rows, "filenames": names})


def write_idx(folder: Path, *, count: int, zipped: bool) -> dict[SplitName, tuple[IdxFile, IdxFile]]:
    """Write a small copy of Fashion-MNIST's files and return their names and sums."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[SplitName, tuple[IdxFile, IdxFile]] = {}
    splits: tuple[tuple[SplitName, str], ...] = (("train", "train"), ("test", "t10k"))
    for number, (split, prefix) in enumerate(splits):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        pair = []
        for kind, array in ((f"{prefix}-images-idx3-ubyte", pixels), (f"{prefix}-labels-idx1-ubyte", labels)):
            content = idx_bytes(array)
            path = folder / (f"{kind}.gz" if zipped else kind)
            path.write_bytes(gzip.compress(content) if zipped else content)
            pair.append(IdxFile(kind, hashlib.sha256(content).hexdigest()))
        files[split] = (pair[0], pair[1])
    return files


def idx_bytes(array: UInt8Array) -> bytes:
    """Return an array as an idx file."""
    sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sides + array.tobytes()


def pack_tar(archive: Path, folder: Path, inner: str) -> Path:
    """Pack a folder as `inner/` into a tar archive whose compression is told by its name."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    mode = {"gz": "w:gz", "xz": "w:xz", "bz2": "w:bz2"}.get(archive.suffix[1:], "w")
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                info = tarfile.TarInfo(f"{inner}/{path.relative_to(folder).as_posix()}")
                info.size = path.stat().st_size
                tar.addfile(info, io.BytesIO(path.read_bytes()))
    return archive

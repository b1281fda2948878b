"""Packed once, found again, never believed when damaged, and nothing left behind by a kill."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eyespot
from eyespot.data import decode_pool, pack_cache, pack_spec, worker_process
from eyespot.data.dataset import Dataset, Items, PackedDataset, SplitName
from eyespot.data.decode_pool import (
    RECORD,
    DecodeJob,
    FileChunk,
    FileSegment,
    WorkerDiedError,
    decode_chunk,
    decode_files,
)
from eyespot.data.decoding import content_hash, decode_image
from eyespot.data.packing import choose_spec, estimate_pack, pack_dataset
from eyespot.data.resizing import RowFormat
from eyespot.errors import DataError, UsageError
from eyespot.locks import file_lock

needs_posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and files")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


def write_pictures(root: Path, number: int = 12, *, size: tuple[int, int] = (20, 16), suffix: str = ".png") -> Dataset:
    """Write pictures that are all different to `root/{train,test}/{cat,dog}` and return them as a data set."""
    rng = np.random.default_rng(7)
    splits: dict[SplitName, Items] = {}
    for split in ("train", "test"):
        paths, labels = [], []
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(number // 2):
                path = folder / f"{i:05d}{suffix}"
                Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
                paths.append(path)
                labels.append(label)
        splits[split] = items_of(root, paths, labels)  # type: ignore[index]
    return Dataset("pets", ("cat", "dog"), splits, False, str(root), "split folders")


def items_of(root: Path, paths: Sequence[Path], labels: Sequence[int]) -> Items:
    ids = [path.relative_to(root).as_posix() for path in paths]
    return Items(ids, np.array(labels, dtype=np.int64), paths=list(paths))


def relisted(dataset: Dataset, root: Path) -> Dataset:
    """Return the data set as it would be found below another folder."""
    splits = {
        split: items_of(root, [root / id_ for id_ in items.ids], items.labels.tolist())
        for split, items in dataset.splits.items()
    }
    return Dataset(dataset.name, dataset.class_names, splits, False, str(root), dataset.layout)


def arrays(number: int = 30, side: int = 8, channels: int = 3) -> Dataset:
    rng = np.random.default_rng(3)
    splits: dict[SplitName, Items] = {}
    for split, count in (("train", number), ("test", number // 3)):
        pixels = rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
        ids = [f"{split}/{i:05d}" for i in range(count)]
        splits[split] = Items(ids, np.arange(count) % 2, pixels=pixels)  # type: ignore[index]
    return Dataset("digits", ("even", "odd"), splits, True, "arrays", "arrays")


def expected_pixels(items: Items, packed: PackedDataset) -> np.ndarray:
    assert items.paths is not None
    return np.stack([packed.row_format.row(decode_image(path, channels=packed.channels)) for path in items.paths])


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(pack_cache, "decode_files", fail)
    monkeypatch.setattr(pack_cache, "_scan_array", fail)


def assert_equal(a: PackedDataset, b: PackedDataset) -> None:
    assert a.fingerprint == b.fingerprint
    assert a.report == b.report
    assert a.splits.keys() == b.splits.keys()
    for name, split in a.splits.items():
        other = b.splits[name]
        assert list(split.ids) == list(other.ids)
        np.testing.assert_array_equal(split.labels, other.labels)
        np.testing.assert_array_equal(split.hashes, other.hashes)
        if split.pixels is not None:
            np.testing.assert_array_equal(split.pixels, other.pixels)


# -------------------------------------------------------------------------------------------------------- the pixels


@pytest.mark.parametrize("fit", ["squash", "crop", "pad", "short-side"])
@pytest.mark.parametrize("channels", [1, 3])
def test_packed_pixels_are_those_of_one_picture_at_a_time(tmp_path: Path, fit: str, channels: int) -> None:
    dataset = write_pictures(tmp_path / "data")
    packed = pack_dataset(dataset, size_px=16, fit=fit, channels=channels)  # type: ignore[arg-type]
    for name, items in dataset.splits.items():
        split = packed.splits[name]
        assert split.pixels is not None
        assert split.pixels.shape == (12, 16, 30 if fit == "short-side" else 16, channels)
        assert split.sizes_px.tolist() == [[20, 16]] * 12
        np.testing.assert_array_equal(split.pixels, expected_pixels(items, packed))
        np.testing.assert_array_equal(split.labels, items.labels)
        assert split.paths is None
        assert items.paths is not None
        full_size = decode_image(items.paths[3], channels=3)
        assert split.hashes[3].tobytes() == content_hash(full_size)
    assert packed.report.sizes == {(20, 16): 24}
    assert packed.report.modes == {"RGB": 24}
    assert packed.report.counts == {"train": {"cat": 6, "dog": 6}, "test": {"cat": 6, "dog": 6}}
    assert packed.seconds > 0


def test_pictures_of_many_kinds_are_packed_together(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    rgb = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    kinds = {
        "a.jpg": rgb,
        "b.png": rgb.convert("L"),
        "c.gif": rgb.quantize(8),
        "d.tif": rgb.convert("CMYK"),
        "e.png": rgb.convert("RGBA"),
        "f.png": rgb.convert("1"),
        "g.png": Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257),
        "h.bmp": rgb.resize((1, 300)),
    }
    for name, picture in kinds.items():
        picture.save(root / name)
    dataset = Dataset("mix", ("x",), {"train": items_of(root, [root / n for n in kinds], [0] * 8)}, False, "", "")
    packed = pack_dataset(dataset, size_px=24)
    np.testing.assert_array_equal(packed.splits["train"].pixels, expected_pixels(dataset.splits["train"], packed))
    assert packed.report.modes == {"RGB": 2, "1": 1, "CMYK": 1, "I;16": 1, "L": 1, "P": 1, "RGBA": 1}
    assert packed.report.small == 1


def test_several_processes_pack_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_pool, "_CHUNK_FILES", 3)
    dataset = write_pictures(tmp_path / "data", 40)
    bad = dataset.splits["train"].paths[5]  # type: ignore[index]
    bad.write_bytes(b"%PDF")
    alone = pack_dataset(dataset, size_px=16, workers=1, on_bad_image="skip")
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "other"))
    steps: list[tuple[int, int]] = []
    together = pack_dataset(
        dataset, size_px=16, workers=2, on_bad_image="skip", progress=lambda done, total: steps.append((done, total))
    )
    assert_equal(alone, together)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (80, 80)
    assert not list((tmp_path / "other").rglob("*.log"))


@needs_posix
def test_names_that_are_no_unicode_reach_the_workers(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    paths = [
        Path(os.fsdecode(os.fsencode(root) + b"/" + raw)) for raw in (b"caf\xe9.png", b"a\nb.png", "ü漢.png".encode())
    ]
    for i, path in enumerate(paths):
        try:
            Image.new("RGB", (16, 16), (i, i, i)).save(path)
        except OSError:
            pytest.skip("the file system does not take such names")
    dataset = Dataset("x/y ü", ("x",), {"train": items_of(root, paths, [0, 0, 0])}, False, str(root), "")
    packed = pack_dataset(dataset, workers=2)
    assert packed.splits["train"].pixels[:, 0, 0, 0].tolist() == [0, 1, 2]  # type: ignore[index]
    assert_equal(packed, pack_dataset(dataset))


# ---------------------------------------------------------------------------------------------------------- the cache


def test_the_second_start_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_pictures(tmp_path / "data")
    Image.open(dataset.splits["train"].paths[0]).save(dataset.splits["test"].paths[3])  # type: ignore[index]
    first = pack_dataset(dataset)
    forbid_decoding(monkeypatch)
    steps: list[tuple[int, int]] = []
    second = pack_dataset(dataset, progress=lambda done, total: steps.append((done, total)))
    assert_equal(first, second)
    assert len(second.report.leaks) == 1
    assert second.seconds == 0
    assert steps == [(24, 24)]
    pixels = second.splits["train"].pixels
    assert isinstance(pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 0


def change_content(path: Path) -> None:
    status = path.stat()
    data = bytearray(path.read_bytes())
    Image.new("RGB", (20, 16), "red").save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert path.read_bytes() != data


CHANGES: dict[str, Callable[[Dataset], Dataset]] = {
    "labels": lambda d: swap(d, labels=1 - d.splits["train"].labels),
    "names": lambda d: swap(d, ids=["x" + id_ for id_ in d.splits["train"].ids]),
    "order": lambda d: swap(d, paths=list(reversed(d.splits["train"].paths or ()))),
    "classes": lambda d: Dataset(d.name, ("cat", "fox"), d.splits, False, d.origin, d.layout),
    "fewer": lambda d: Dataset(d.name, d.class_names, {"train": d.splits["train"]}, False, d.origin, d.layout),
}


def swap(dataset: Dataset, **changes: object) -> Dataset:
    old = dataset.splits["train"]
    items = Items(**{"ids": old.ids, "labels": old.labels, "paths": old.paths, **changes})  # type: ignore[arg-type]
    return Dataset(dataset.name, dataset.class_names, {**dataset.splits, "train": items}, False, dataset.origin, "")


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_is_packed_again(tmp_path: Path, what: str) -> None:
    dataset = write_pictures(tmp_path / "data")
    pack_dataset(dataset)
    assert pack_dataset(CHANGES[what](dataset)).seconds > 0


def test_a_changed_file_is_packed_again(tmp_path: Path) -> None:
    dataset = write_pictures(tmp_path / "data")
    first = pack_dataset(dataset)
    change_content(dataset.splits["train"].paths[2])  # type: ignore[index]
    second = pack_dataset(dataset)
    assert second.fingerprint != first.fingerprint
    assert second.splits["train"].pixels[2, 0, 0].tolist() == [255, 0, 0]  # type: ignore[index]


@needs_posix
def test_a_file_replaced_under_equal_size_and_time_is_seen(tmp_path: Path) -> None:
    dataset = write_pictures(tmp_path / "data", suffix=".bmp")
    first = pack_dataset(dataset)
    path = dataset.splits["train"].paths[2]  # type: ignore[index]
    status = path.stat()
    Image.new("RGB", (20, 16), "red").save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert pack_dataset(dataset).fingerprint != first.fingerprint


@pytest.mark.parametrize("options", [{"size_px": 8}, {"channels": 1}, {"fit": "pad"}, {"interpolation": "nearest"}])
def test_another_spec_is_packed_apart(tmp_path: Path, options: dict[str, object]) -> None:
    dataset = write_pictures(tmp_path / "data")
    first = pack_dataset(dataset)
    second = pack_dataset(dataset, **options)  # type: ignore[arg-type]
    assert second.seconds > 0
    assert second.fingerprint == first.fingerprint  # the content is the same
    assert pack_dataset(dataset).seconds == 0


PACK_FILES = ("records.bin", "thumbs.bin", "pixels.bin", "index.json")
DAMAGES: dict[str, Callable[[Path], object]] = {
    "pixels cut": lambda f: os.truncate(f / "pixels.bin", 100),
    "pixels longer": lambda f: (f / "pixels.bin").write_bytes((f / "pixels.bin").read_bytes() + b"x"),
    "pixel flipped": lambda f: flip(f / "pixels.bin", 777),
    "pixels gone": lambda f: (f / "pixels.bin").unlink(),
    "thumbnails cut": lambda f: os.truncate(f / "thumbs.bin", 100),
    "thumbnail flipped": lambda f: flip(f / "thumbs.bin", 777),
    "thumbnails gone": lambda f: (f / "thumbs.bin").unlink(),
    "record flipped": lambda f: flip(f / "records.bin", 40),
    "records cut": lambda f: os.truncate(f / "records.bin", 26),
    "index cut": lambda f: os.truncate(f / "index.json", 60),
    "index empty": lambda f: (f / "index.json").write_bytes(b""),
    "index of another kind": lambda f: (f / "index.json").write_text("[1, 2]"),
    "index altered": lambda f: (f / "index.json").write_text(
        (f / "index.json").read_text().replace('"cat": 6', '"cat": 7')
    ),
    "index binary": lambda f: (f / "index.json").write_bytes(b"\xff\xfe\x00"),
    "index gone": lambda f: (f / "index.json").unlink(),
}


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_packed_again(tmp_path: Path, cache: Path, damage: str) -> None:
    dataset = write_pictures(tmp_path / "data")
    first = pack_dataset(dataset)
    kept = {name: np.array(split.pixels) for name, split in first.splits.items()}
    (folder,) = [path for path in cache.iterdir() if path.is_dir()]
    del first
    DAMAGES[damage](folder)
    again = pack_dataset(dataset)
    assert again.seconds > 0
    for name, pixels in kept.items():
        np.testing.assert_array_equal(again.splits[name].pixels, pixels)
    assert pack_dataset(dataset).seconds == 0


def test_an_index_of_another_entry_is_not_believed(tmp_path: Path, cache: Path) -> None:
    dataset = write_pictures(tmp_path / "data")
    pack_dataset(dataset)
    pack_dataset(dataset, fit="squash")
    a, b = (path for path in cache.iterdir() if path.is_dir())
    (b / "index.json").write_bytes((a / "index.json").read_bytes())
    assert {pack_dataset(dataset).seconds > 0, pack_dataset(dataset, fit="squash").seconds > 0} == {True, False}


def test_many_blocks_are_checked_in_a_spread(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_cache, "_BLOCK_BYTES", 512)
    dataset = write_pictures(tmp_path / "data")
    pack_dataset(dataset)
    (folder,) = [path for path in cache.iterdir() if path.is_dir()]
    assert (folder / "pixels.bin").stat().st_size // 512 > 16
    assert pack_dataset(dataset).seconds == 0
    flip(folder / "pixels.bin", (folder / "pixels.bin").stat().st_size - 1)
    assert pack_dataset(dataset).seconds > 0


def test_threads_that_ask_together_pack_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_pictures(tmp_path / "data")
    built: list[float] = []
    build = pack_cache.CacheEntry.build

    def counted(self: pack_cache.CacheEntry, *arguments: object) -> PackedDataset:
        built.append(1)
        time.sleep(0.2)
        return build(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pack_cache.CacheEntry, "build", counted)
    results: list[PackedDataset] = []
    told: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(pack_dataset(dataset, message=told.append))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert len(results) == 4
    assert told == ["waiting for another process that packs the same pictures"] * 3
    for result in results:
        assert_equal(result, results[0])


def test_leftovers_of_killed_packers_go_and_those_of_living_ones_stay(tmp_path: Path, cache: Path) -> None:
    for name in (".dead-1.tmp", ".alive-2.tmp"):
        (cache / name).mkdir(parents=True)
        (cache / name / "pixels.bin").write_bytes(b"x")
    with file_lock(cache / "alive-2.lock"):
        pack_dataset(write_pictures(tmp_path / "data"))
        assert not (cache / ".dead-1.tmp").exists()
        assert (cache / ".alive-2.tmp").exists()


def test_the_cache_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError) as caught:
        pack_dataset(write_pictures(tmp_path / "data"))
    assert str(tmp_path / "file" / "packed") in str(caught.value)
    assert "EYESPOT_CACHE" in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOMEM])
def test_a_full_or_read_only_disk_is_named(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pack_cache, "decode_files", fail)
    with pytest.raises(DataError) as caught:
        pack_dataset(write_pictures(tmp_path / "data"))
    assert str(cache) in str(caught.value)
    assert "EYESPOT_CACHE" in str(caught.value)
    told = {errno.ENOSPC: "full", errno.EROFS: "no right to write", errno.ENOMEM: "close other programs; EYESPOT_CACHE"}
    assert told[number] in str(caught.value)
    assert not list(cache.glob(".*.tmp"))


def test_disks_that_cannot_reserve_space_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    dataset = write_pictures(tmp_path / "data")
    packed = pack_dataset(dataset)
    np.testing.assert_array_equal(packed.splits["test"].pixels, expected_pixels(dataset.splits["test"], packed))


def test_no_space_to_reserve_is_said_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "no")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    forbid_decoding(monkeypatch)
    with pytest.raises(DataError, match="the disk is full"):
        pack_dataset(write_pictures(tmp_path / "data"))


def test_what_cannot_be_read_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_cache.CacheEntry, "load", lambda self, with_pixels: None)
    with pytest.raises(DataError, match="could not be read back"):
        pack_dataset(write_pictures(tmp_path / "data"))


def test_files_that_change_while_they_are_read_stop_the_packing(tmp_path: Path, cache: Path) -> None:
    dataset = write_pictures(tmp_path / "data")

    def meddle(done: int, total: int) -> None:
        if done == total:
            change_content(dataset.splits["train"].paths[0])  # type: ignore[index]

    with pytest.raises(DataError, match="changed while they were read"):
        pack_dataset(dataset, progress=meddle)
    assert not [path for path in cache.iterdir() if path.is_dir()]


# --------------------------------------------------------------------------------------------------------- fingerprint


def test_the_fingerprint_is_over_the_content(tmp_path: Path) -> None:
    dataset = write_pictures(tmp_path / "data")
    first = pack_dataset(dataset)
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = relisted(dataset, tmp_path / "moved")
    for items in moved.splits.values():
        for path in items.paths or ():
            os.utime(path, (1, 1))
            # other bytes and another format, the same pixels
            Image.open(path).save(path.with_suffix(".bmp"))
            path.with_suffix(".bmp").replace(path)
    assert pack_dataset(moved).fingerprint == first.fingerprint
    assert pack_dataset(swap(moved, labels=1 - moved.splits["train"].labels)).fingerprint != first.fingerprint
    backwards = list(reversed(moved.splits["train"].paths or ()))
    assert pack_dataset(swap(moved, paths=backwards)).fingerprint != first.fingerprint


def test_arrays_and_files_of_the_same_pictures_have_one_fingerprint(tmp_path: Path) -> None:
    dataset = arrays(channels=1)
    splits: dict[SplitName, Items] = {}
    for name, items in dataset.splits.items():
        paths = []
        for id_, pixels in zip(items.ids, items.pixels, strict=True):  # type: ignore[arg-type]
            paths.append(tmp_path / f"{id_}.png")
            paths[-1].parent.mkdir(exist_ok=True)
            Image.fromarray(pixels[:, :, 0]).save(paths[-1])
        splits[name] = items_of(tmp_path, paths, items.labels.tolist())
    files = Dataset("digits", dataset.class_names, splits, True, "", "")
    assert pack_dataset(files).fingerprint == pack_dataset(dataset).fingerprint
    assert pack_dataset(files).channels == 1


# --------------------------------------------------------------------------------------------------------- bad pictures


def spoil(dataset: Dataset) -> list[str]:
    """Make six training pictures and the last test picture unusable; return their ids."""
    train, test = dataset.splits["train"].paths, dataset.splits["test"].paths
    assert train is not None
    assert test is not None
    train[0].write_bytes(b"")
    train[1].write_bytes(train[1].read_bytes()[:300])
    train[4].unlink()
    train[7].unlink()
    train[7].mkdir()
    train[8].write_bytes(b"<html></html>")
    test[-1].write_bytes(b"%PDF")
    return [dataset.splits["train"].ids[i] for i in (0, 1, 4, 7, 8)] + [dataset.splits["test"].ids[-1]]


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_pictures_are_left_out_without_a_gap(tmp_path: Path, workers: int) -> None:
    dataset = write_pictures(tmp_path / "data")
    spoiled = spoil(dataset)
    packed = pack_dataset(dataset, on_bad_image="skip", workers=workers)
    assert [image.id for image in packed.report.bad] == spoiled
    assert [image.split for image in packed.report.bad] == ["train"] * 5 + ["test"]
    assert [image.reason for image in packed.report.bad] == [
        "is empty (0 bytes)",
        "is truncated",
        "does not exist",
        "is a folder, not a file",
        "is an HTML page, not a picture",
        "is a PDF, not a picture",
    ]
    for name, items in dataset.splits.items():
        good = [i for i, id_ in enumerate(items.ids) if id_ not in spoiled]
        usable = items_of(tmp_path / "data", [items.paths[i] for i in good], items.labels[good].tolist())  # type: ignore[index]
        assert list(packed.splits[name].ids) == list(usable.ids)
        np.testing.assert_array_equal(packed.splits[name].pixels, expected_pixels(usable, packed))
        np.testing.assert_array_equal(packed.splits[name].labels, usable.labels)
    assert_equal(packed, pack_dataset(dataset, on_bad_image="skip"))


def test_bad_pictures_are_refused_but_the_scan_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_pictures(tmp_path / "data")
    spoil(dataset)
    with pytest.raises(DataError, match="6 of 24 pictures cannot be used"):
        pack_dataset(dataset)
    forbid_decoding(monkeypatch)
    with pytest.raises(DataError, match="is an HTML page"):
        pack_dataset(dataset)
    assert len(pack_dataset(dataset, on_bad_image="skip").report.bad) == 6


def test_nothing_usable_at_all(tmp_path: Path) -> None:
    dataset = write_pictures(tmp_path / "data")
    for items in dataset.splits.values():
        for path in items.paths or ():
            path.write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(DataError, match="none of the train pictures can be used"):
            pack_dataset(dataset, on_bad_image="skip")


def test_large_gaps_are_closed_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_cache, "_BATCH", 5)
    path = tmp_path / "pixels"
    rows = np.arange(40 * 3, dtype=np.uint8).reshape(40, 3)
    usable = np.random.default_rng(5).random(40) > 0.4
    path.write_bytes(rows.tobytes())
    pack_cache._close_gaps(path, usable, 3)
    assert path.read_bytes() == rows[usable].tobytes()


def test_no_pictures(tmp_path: Path) -> None:
    empty = Dataset("none", ("a",), {"train": items_of(tmp_path, [], [])}, False, "none/", "class folders")
    with pytest.raises(DataError, match="no pictures in none/"):
        pack_dataset(empty)


# ----------------------------------------------------------------------------------------------------------- streaming


def test_what_does_not_fit_stays_in_its_files_and_is_scanned(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_pictures(tmp_path / "data")
    spoiled = spoil(dataset)
    streamed = pack_dataset(dataset, on_bad_image="skip", memory_limit_bytes=1000)
    for name, split in streamed.splits.items():
        assert split.pixels is None
        assert split.paths == [
            p for p, i in zip(dataset.splits[name].paths, dataset.splits[name].ids, strict=True) if i not in spoiled
        ]  # type: ignore[arg-type]
    assert not list(cache.rglob("pixels.bin"))
    with monkeypatch.context() as patch:
        forbid_decoding(patch)
        assert_equal(streamed, pack_dataset(dataset, on_bad_image="skip", memory_limit_bytes=1000))
    packed = pack_dataset(dataset, on_bad_image="skip")
    assert packed.seconds > 0
    assert packed.splits["train"].pixels is not None
    assert packed.fingerprint == streamed.fingerprint
    assert packed.report == streamed.report
    again = pack_dataset(dataset, on_bad_image="skip", memory_limit_bytes=1000)
    assert again.splits["train"].paths is not None  # an explicit limit holds
    assert again.seconds == 0


def test_what_is_packed_is_used_whatever_memory_is_free_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_pictures(tmp_path / "data")
    pack_dataset(dataset)
    monkeypatch.setattr(pack_spec, "available_memory_bytes", lambda: 10)
    packed = pack_dataset(dataset)
    assert packed.seconds == 0
    assert packed.splits["train"].pixels is not None
    assert pack_dataset(dataset, fit="pad").splits["train"].pixels is None


@pytest.mark.parametrize("limit", [None, 10**6])
def test_what_is_packed_is_used_however_full_the_disk_is_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    dataset = write_pictures(tmp_path / "data")
    first = pack_dataset(dataset)
    monkeypatch.setattr(pack_spec, "_free_disk_bytes", lambda folder: 100)
    forbid_decoding(monkeypatch)
    packed = pack_dataset(dataset, memory_limit_bytes=limit)
    assert packed.seconds == 0
    assert packed.splits["train"].pixels is not None
    assert_equal(packed, first)
    assert pack_dataset(dataset, memory_limit_bytes=10).splits["train"].pixels is None  # the caller's own limit holds


def test_what_another_process_packs_meanwhile_is_used_however_full_the_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_pictures(tmp_path / "data")
    pack_dataset(dataset)
    monkeypatch.setattr(pack_spec, "_free_disk_bytes", lambda folder: 100)
    load, asked = pack_cache.CacheEntry.load, []

    def load_late(self: pack_cache.CacheEntry, *, with_pixels: bool) -> PackedDataset | None:
        asked.append(with_pixels)
        return load(self, with_pixels=with_pixels) if len(asked) > 2 else None

    monkeypatch.setattr(pack_cache.CacheEntry, "load", load_late)
    assert pack_dataset(dataset, memory_limit_bytes=10**6).splits["train"].pixels is not None
    assert asked == [True, False, True]


def test_estimates_say_what_they_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_pictures(tmp_path / "data")
    spec = choose_spec(dataset, size_px=64, channels=3, fit="crop", interpolation="bicubic")
    estimate = estimate_pack(dataset, spec)
    assert estimate.bytes == 24 * 64 * 64 * 3
    assert estimate.fits
    assert estimate.reason == "24 pictures of 64 x 64 x 3 take 0.3 MB; they are decoded once and packed"
    limited = estimate_pack(dataset, spec, memory_limit_bytes=100_000)
    assert not limited.fits
    assert "more than the memory limit (0.1 MB): they are streamed from their files" in limited.reason
    monkeypatch.setattr(pack_spec, "available_memory_bytes", lambda: 500_000)
    assert "more than half of the available memory (0.2 MB)" in estimate_pack(dataset, spec).reason
    monkeypatch.setattr(pack_spec, "available_memory_bytes", lambda: None)
    assert estimate_pack(dataset, spec).fits
    monkeypatch.setattr(pack_spec, "_free_disk_bytes", lambda folder: 100)
    assert "more than nine tenths of the free space in" in estimate_pack(dataset, spec).reason
    assert estimate_pack(dataset, spec).allowed  # the disk has room for what it holds already
    assert estimate_pack(dataset, spec, memory_limit_bytes=10**6).allowed
    assert not limited.allowed
    ready = arrays()
    ready_spec = choose_spec(ready, size_px="auto", channels="auto", fit="crop", interpolation="bicubic")
    assert estimate_pack(ready, ready_spec, memory_limit_bytes=1).fits  # they are in memory already
    assert estimate_pack(ready, spec, memory_limit_bytes=1).fits  # and there are no files to stream from
    big = pack_spec.PackSpec(RowFormat(224, 3, "crop", "bicubic"), "")
    assert estimate_pack(swap(dataset, labels=np.zeros(10**6, np.int64)), big).reason.startswith(
        "1,000,012 pictures of 224 x 224 x 3 take 150.5 GB"
    )


def test_files_that_were_read_are_no_memory_that_a_container_lacks(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("4000000\n")
    (tmp_path / "memory.current").write_text("3900000\n")
    assert pack_spec._container_memory_bytes(tmp_path) == 100_000
    (tmp_path / "memory.stat").write_text("anon 900000\nfile 3000000\ninactive_file 2500000\nactive_file 500000\n")
    assert pack_spec._container_memory_bytes(tmp_path) == 2_600_000
    (tmp_path / "memory.current").write_text("4100000\n")
    (tmp_path / "memory.stat").write_text("inactive_file 0\n")
    assert pack_spec._container_memory_bytes(tmp_path) == 0
    (tmp_path / "memory.max").write_text("max\n")
    with pytest.raises(ValueError, match="max"):
        pack_spec._container_memory_bytes(tmp_path)


def test_available_memory_is_plausible() -> None:
    available = pack_spec.available_memory_bytes()
    assert available is None or 10**6 < available < 10**14
    assert pack_spec._free_disk_bytes(Path.cwd() / "no" / "such" / "folder") == pytest.approx(
        pack_spec._free_disk_bytes(Path.cwd()), rel=0.2
    )


# -------------------------------------------------------------------------------------------------------------- arrays


def test_arrays_of_the_right_shape_are_referenced(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = arrays()
    images = dataset.splits["train"].pixels
    assert images is not None
    images[5] = images[2]
    images[6] = dataset.splits["test"].pixels[1]  # type: ignore[index]
    packed = pack_dataset(dataset)
    assert packed.splits["train"].pixels is images
    assert (packed.size_px, packed.channels) == (8, 3)
    assert [group.ids for group in packed.report.duplicates] == [
        ("train/00002", "train/00005"),
        ("train/00006", "test/00001"),
    ]
    assert packed.splits["train"].hashes[2].tobytes() == content_hash(images[2])
    assert packed.report.sizes == {(8, 8): 40}
    assert not list(cache.rglob("pixels.bin"))
    forbid_decoding(monkeypatch)
    assert_equal(packed, pack_dataset(dataset))


def test_an_array_with_another_pixel_is_scanned_again() -> None:
    dataset = arrays()
    first = pack_dataset(dataset)
    dataset.splits["test"].pixels[3, 2, 1, 0] ^= 1  # type: ignore[index]
    assert pack_dataset(dataset).fingerprint != first.fingerprint


@pytest.mark.parametrize(("side", "channels", "target"), [(28, 1, 3), (8, 3, 1), (12, 3, 3)])
def test_arrays_of_another_shape_are_packed(
    monkeypatch: pytest.MonkeyPatch, side: int, channels: int, target: int
) -> None:
    monkeypatch.setattr(pack_cache, "_BATCH", 7)
    dataset = arrays(side=side, channels=channels)
    packed = pack_dataset(dataset, size_px=16, channels=target)  # type: ignore[arg-type]
    for name, items in dataset.splits.items():
        expected = [
            packed.row_format.row(decode_image(Image.fromarray(image.squeeze()), channels=packed.channels))
            for image in items.pixels  # type: ignore[union-attr]
        ]
        np.testing.assert_array_equal(packed.splits[name].pixels, np.stack(expected))
    assert pack_dataset(dataset, size_px=16, channels=target).seconds == 0  # type: ignore[arg-type]
    assert packed.report.modes == {"L" if channels == 1 else "RGB": 40}


def test_arrays_and_files_mix(tmp_path: Path) -> None:
    files = write_pictures(tmp_path / "data")
    images = arrays().splits["test"]
    dataset = Dataset("mix", ("a", "b"), {"train": images, "test": files.splits["test"]}, False, "", "")
    packed = pack_dataset(dataset, size_px=16, memory_limit_bytes=1)
    np.testing.assert_array_equal(packed.splits["test"].pixels, expected_pixels(files.splits["test"], packed))
    assert packed.splits["train"].pixels is not None
    assert packed.splits["train"].pixels.shape == (10, 16, 16, 3)


# ---------------------------------------------------------------------------------------------------- size and channels


@pytest.mark.parametrize(
    ("size", "side", "words"),
    [
        ((32, 32), 32, "32 px, which all sampled pictures have"),
        ((64, 64), 64, "64 px, which all sampled pictures have"),
        ((5, 5), 5, "5 px, which all sampled pictures have"),
        ((20, 16), 16, "median short side of 16 px"),
        ((500, 300), 64, "median short side of 300 px"),
        ((70, 44), 48, "48 px, for a median short side of 44 px (multiples of 8 between 16 and 64)"),
        ((70, 43), 40, "median short side of 43 px"),
        ((9, 3), 16, "16 px, for a median short side of 3 px"),
    ],
)
def test_auto_size(tmp_path: Path, size: tuple[int, int], side: int, words: str) -> None:
    dataset = write_pictures(tmp_path / "data", size=size)
    spec = choose_spec(dataset, size_px="auto", channels="auto", fit="crop", interpolation="bicubic")
    assert spec.row_format == RowFormat(side, 3, "crop", "bicubic")
    assert words in spec.reason
    asked = choose_spec(dataset, size_px=40, channels="auto", fit="crop", interpolation="bicubic")
    assert asked.reason.startswith("40 px, as asked for;")


def test_auto_channels_takes_grey_only_where_all_are(tmp_path: Path) -> None:
    dataset = write_pictures(tmp_path / "data")
    paths = dataset.splits["train"].paths
    assert paths is not None
    for i, path in enumerate(paths):
        Image.open(path).convert("1" if i % 2 else "L").save(path)
    assert pack_dataset(dataset).channels == 1
    assert pack_dataset(dataset, channels=3).channels == 3
    Image.new("RGB", (20, 16)).save(paths[3])
    assert pack_dataset(dataset).channels == 3


def test_only_training_pictures_decide(tmp_path: Path) -> None:
    dataset = write_pictures(tmp_path / "data", size=(24, 24))
    for path in dataset.splits["test"].paths or ():
        Image.new("L", (60, 60)).save(path)
    assert pack_dataset(dataset).size_px == 24


def test_sample_is_spread_over_all_and_skips_bad_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_spec, "_SAMPLE", 5)
    dataset = write_pictures(tmp_path / "data", 20, size=(24, 24))
    paths = dataset.splits["train"].paths
    assert paths is not None
    Image.new("RGB", (40, 40)).save(paths[-1])
    paths[0].write_bytes(b"")

    def reason() -> str:
        return choose_spec(dataset, size_px="auto", channels="auto", fit="crop", interpolation="bicubic").reason

    assert "median" in reason()
    for path in paths:
        path.write_bytes(b"")
    assert reason().startswith("32 px, because no sampled picture can be read;")


def test_size_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="picture size 0 px"):
        pack_dataset(write_pictures(tmp_path / "data"), size_px=0)


# ------------------------------------------------------------------------------------------------------------- workers


def make_job(folder: Path, number: int, *, pixels: str | None = None) -> DecodeJob:
    records, thumbs = folder / "records", folder / "thumbs"
    records.write_bytes(bytes(number * RECORD.itemsize))
    thumbs.write_bytes(bytes(number * 32 * 32))
    return DecodeJob(str(records), str(thumbs), pixels, RowFormat(16, 3, "crop", "bicubic"))


def deadly_workers(monkeypatch: pytest.MonkeyPatch, deed: str) -> None:
    """Let every worker do the deed when it meets a file of the name `deadly.png`."""
    monkeypatch.setattr(
        worker_process,
        "_BOOTSTRAP",
        "import json, os, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline())\n"
        "from eyespot.data import decode_pool\n"
        "decode = decode_pool.decode_picture\n"
        "def decode_picture(path):\n"
        f"    if path.endswith('deadly.png'): {deed}\n"
        "    return decode(path)\n"
        "decode_pool.decode_picture = decode_picture\n"
        "decode_pool.serve(sys.stdin.buffer, sys.stdout.buffer)\n",
    )


def with_deadly_picture(tmp_path: Path) -> Dataset:
    dataset = write_pictures(tmp_path / "data", 40)
    old = dataset.splits["test"].paths[7]  # type: ignore[index]
    deadly = old.with_name("deadly.png")
    old.rename(deadly)
    paths = [deadly if path == old else path for path in dataset.splits["test"].paths or ()]
    test = items_of(tmp_path / "data", paths, dataset.splits["test"].labels.tolist())
    return Dataset("pets", ("cat", "dog"), {**dataset.splits, "test": test}, False, dataset.origin, dataset.layout)


@needs_posix
def test_a_killed_worker_is_an_error_that_names_the_picture(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = with_deadly_picture(tmp_path)
    with monkeypatch.context() as patch:
        deadly_workers(patch, "os.kill(os.getpid(), 9)")
        with pytest.raises(DataError) as caught:
            pack_dataset(dataset, workers=2)
    assert "a decoding worker was killed by signal 9 (out of memory?) while reading test/cat/deadly.png in pets" in str(
        caught.value
    )
    assert "more free memory or fewer workers" in str(caught.value)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    assert pack_dataset(dataset, workers=2).report.bad == ()


@needs_posix
def test_a_stopped_worker_is_killed_and_named_instead_of_waited_for(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_pool, "STALL_SECONDS", 3.0)
    started = record_workers(monkeypatch)
    deadly_workers(monkeypatch, "import signal; os.kill(os.getpid(), signal.SIGSTOP)")
    outcome: list[BaseException] = []

    def pack() -> None:
        try:
            pack_dataset(with_deadly_picture(tmp_path), workers=2)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=pack, daemon=True)
    thread.start()
    thread.join(60)
    for worker in started:  # where it hangs, nothing may be left of it
        worker.kill()
    assert outcome, "it hangs"
    assert "a decoding worker has finished no picture for 3 s while reading test/cat/deadly.png in pets" in str(
        outcome[0]
    )
    assert all(worker.wait(10) for worker in started)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_slow_pictures_are_waited_for_as_long_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_pool, "STALL_SECONDS", 4.0)
    deadly_workers(monkeypatch, "import time; time.sleep(2)")
    dataset = with_deadly_picture(tmp_path)
    (slow,) = (path for path in dataset.splits["test"].paths or () if path.name == "deadly.png")
    pictures = [slow.with_name(f"{number}") / "deadly.png" for number in range(3)]
    for path in pictures:
        path.parent.mkdir()
        path.write_bytes(slow.read_bytes())
    job = make_job(tmp_path, 3)
    segments = [FileSegment(0, pictures, [100] * 3)]  # one chunk of 6 s
    assert decode_files(job, segments, workers=2, progress=lambda files: None) == {}


def test_a_worker_that_stops_between_two_pictures_was_about_to_read_the_next(tmp_path: Path) -> None:
    job = make_job(tmp_path, 5)
    worker = decode_pool._Worker.__new__(decode_pool._Worker)
    worker._job, worker._seen, worker._quiet_seconds = job, (None, 0), 0.0
    worker._chunk = FileChunk(1, ("a", "b", "c"))
    records = np.memmap(job.records_path, dtype=RECORD, mode="r+")

    def look(times: float) -> None:
        for _ in range(int(times)):
            worker.watch()

    looks = decode_pool.STALL_SECONDS / decode_pool.LOOK_SECONDS
    look(looks)
    records["status"][1] = decode_pool.BAD  # a picture was finished: the time begins anew
    look(looks)
    with pytest.raises(WorkerDiedError, match="has finished no picture for 60 s") as caught:
        look(1)
    assert caught.value.reading == (2,)
    worker._chunk = None
    look(3 * looks)  # nobody asks it for anything


def test_a_crashed_worker_is_an_error_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deadly_workers(monkeypatch, "raise RuntimeError('no such luck')")
    with pytest.raises(
        DataError, match="ended with code 1 \\(RuntimeError: no such luck\\) while reading test/cat/deadly"
    ):
        pack_dataset(with_deadly_picture(tmp_path), workers=2)


def test_a_worker_that_ends_silently_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deadly_workers(monkeypatch, "os._exit(3)")
    with pytest.raises(DataError, match="ended with code 3 while reading"):
        pack_dataset(with_deadly_picture(tmp_path), workers=1 + 1)


def test_a_worker_that_cannot_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_BOOTSTRAP", "raise SystemExit(5)")
    with pytest.raises(DataError, match="ended with code 5 while reading a picture"):
        pack_dataset(write_pictures(tmp_path / "data"), workers=2)


def test_a_python_that_cannot_be_started_leaves_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = record_workers(monkeypatch)
    start = subprocess.Popen

    def second_fails(*arguments: object, **options: object) -> subprocess.Popen[str]:
        if started:
            raise OSError(errno.EAGAIN, "no more processes")
        return start(*arguments, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(subprocess, "Popen", second_fails)
    with pytest.raises(DataError, match="no more processes"):
        pack_dataset(write_pictures(tmp_path / "data"), workers=2)
    assert len(started) == 1
    assert started[0].poll() is not None


def record_workers(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    started: list[subprocess.Popen[str]] = []
    start = subprocess.Popen

    def recorded(*arguments: object, **options: object) -> subprocess.Popen[str]:
        started.append(start(*arguments, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", recorded)
    return started


def test_ctrl_c_leaves_neither_workers_nor_folders(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_pool, "_CHUNK_FILES", 2)
    started = record_workers(monkeypatch)

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        pack_dataset(write_pictures(tmp_path / "data", 60), workers=2, progress=interrupt)
    assert len(started) == 2
    assert all(worker.poll() is not None for worker in started)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    assert threading.active_count() == threads


def test_without_an_executable_pictures_are_decoded_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    started = record_workers(monkeypatch)
    pack_dataset(write_pictures(tmp_path / "data"), workers=2)
    assert not started


def test_little_work_starts_no_processes_and_much_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = record_workers(monkeypatch)
    dataset = write_pictures(tmp_path / "data")
    pack_dataset(dataset)
    assert not started
    monkeypatch.setattr(decode_pool, "_SMALL_FILES", 10)
    monkeypatch.setattr(decode_pool, "core_count", lambda: 2)
    pack_dataset(dataset, fit="pad")
    assert len(started) == 2
    assert 1 <= decode_pool.core_count() <= 32


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_fills_up_while_workers_write(tmp_path: Path, workers: int) -> None:
    picture = tmp_path / "x.png"
    Image.new("RGB", (16, 16)).save(picture)
    job = make_job(tmp_path, 1, pixels="/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        decode_files(job, [FileSegment(0, [picture], [100])], workers=workers, progress=lambda files: None)
    assert caught.value.errno == errno.ENOSPC


def test_a_write_that_writes_nothing_is_a_full_disk() -> None:
    class Stuck(io.RawIOBase):
        def write(self, data: object) -> int:
            return 0

    with pytest.raises(OSError) as caught:  # noqa: PT011
        decode_pool._write_fully(Stuck(), np.zeros((2, 2), np.uint8))  # type: ignore[arg-type]
    assert caught.value.errno == errno.ENOSPC


def test_a_worker_answers_line_by_line(tmp_path: Path) -> None:
    good, bad = tmp_path / "a.png", tmp_path / "b.png"
    Image.new("LAB", (18, 16)).convert("RGB").save(good)
    bad.write_bytes(b"x")
    job = make_job(tmp_path, 3)
    answers = io.BytesIO()
    requests = [asdict(job), {"start": 1, "paths": [str(good), str(bad)]}, {"start": 0, "paths": []}]
    decode_pool.serve((json.dumps(request).encode() for request in requests), answers)
    assert [json.loads(line) for line in answers.getvalue().splitlines()] == [
        {"bad": {"2": "is a text file, not a picture"}},
        {"bad": {}},
    ]
    records = np.fromfile(job.records_path, dtype=RECORD)
    assert records["status"].tolist() == [decode_pool.UNSEEN, decode_pool.GOOD, decode_pool.BAD]
    assert (records["width_px"][1], records["height_px"][1]) == (18, 16)
    (tmp_path / "records").unlink()
    answers = io.BytesIO()
    decode_pool.serve((json.dumps(request).encode() for request in requests[:2]), answers)
    assert json.loads(answers.getvalue())["errno"] == errno.ENOENT


def test_chunks_are_bounded_in_files_and_bytes(tmp_path: Path) -> None:
    job = make_job(tmp_path, 1)
    paths = [Path(str(i)) for i in range(1000)]
    chunks = list(decode_pool._chunks(job, FileSegment(10, paths, [100] * 1000)))
    assert [len(chunk.paths) for chunk in chunks] == [256, 256, 256, 232]
    assert [chunk.start for chunk in chunks] == [10, 266, 522, 778]
    large = list(decode_pool._chunks(job, FileSegment(0, paths[:5], [6 * 1024**2, 6 * 1024**2, -1, 10**9, 1])))
    assert [chunk.paths for chunk in large] == [("0",), ("1", "2"), ("3",), ("4",)]
    assert list(decode_pool._chunks(job, FileSegment(0, [], []))) == []
    photos = DecodeJob("", "", None, RowFormat(1024, 3, "crop", "bicubic"))
    assert len(next(iter(decode_pool._chunks(photos, FileSegment(0, paths, [1] * 1000)))).paths) == 2


def test_unknown_modes_are_counted_as_other() -> None:
    assert decode_pool.MODES[decode_pool.mode_number("BGR;15")] == "other"


def test_worker_death_carries_positions() -> None:
    error = WorkerDiedError("was killed", [3, 4])
    assert (error.how, error.reading) == ("was killed", (3, 4))


def test_a_chunk_marks_the_picture_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise SystemError

    monkeypatch.setattr(decode_pool, "decode_picture", fail)
    job = make_job(tmp_path, 2)
    with pytest.raises(SystemError):
        decode_chunk(job, FileChunk(1, ("x",)))
    assert np.fromfile(job.records_path, dtype=RECORD)["status"].tolist() == [decode_pool.UNSEEN, decode_pool.READING]


def test_packing_imports_no_torch() -> None:
    code = "import sys, eyespot.data.packing; assert not {'torch', 'timm', 'sklearn', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=child_environment())


# ------------------------------------------------------------------------------------------------- scripts and kills

SCRIPT = """
import subprocess, sys
from pathlib import Path
import numpy as np
from eyespot.data.dataset import Dataset, Items
from eyespot.data.packing import pack_dataset

start = subprocess.Popen
def recorded(*arguments, **options):
    worker = start(*arguments, **options)
    with open(sys.argv[2], "a") as file:
        print(worker.pid, file=file, flush=True)
    return worker
subprocess.Popen = recorded

root = Path(sys.argv[1])
paths = sorted(root.rglob("*.png"))
ids = [path.relative_to(root).as_posix() for path in paths]
items = Items(ids, np.arange(len(paths)) % 2, paths=paths)
print("begin", flush=True)
packed = pack_dataset(Dataset("pets", ("a", "b"), {"train": items}, False, str(root), ""), size_px=48, workers=2)
print("packed", packed.fingerprint, flush=True)
"""


def child_environment(**extra: str) -> dict[str, str]:
    source = str(Path(eyespot.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]), **extra}


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # an ended child that nobody has waited for yet is no running process
    state = Path(f"/proc/{pid}/stat")
    try:
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_script_without_main_guard_packs_once(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 20)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "data"), str(tmp_path / "pids")],
        capture_output=True, text=True, check=True, env=child_environment(),
    )  # fmt: skip
    assert done.stdout.count("begin") == 1
    assert "packed" in done.stdout
    assert len((tmp_path / "pids").read_text().split()) == 2


@needs_posix
def test_kills_at_any_moment_leave_nothing_that_is_taken_for_whole(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "data"
    write_pictures(root, 400, size=(60, 60))
    script, pids = tmp_path / "script.py", tmp_path / "pids"
    script.write_text(SCRIPT)

    def start(place: Path) -> subprocess.Popen[str]:
        environment = child_environment(EYESPOT_CACHE=str(place))
        command = [sys.executable, str(script), str(root), str(pids)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        assert process.stdout.readline() == "begin\n"
        return process

    began = time.monotonic()
    whole, _ = start(tmp_path / "reference").communicate(timeout=180)
    seconds = time.monotonic() - began
    survived = 0
    for k in range(8):
        process = start(cache.parent)
        time.sleep(seconds * k / 8)
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=180)
        survived += "packed" in output
        for folder in cache.iterdir() if cache.exists() else ():
            if folder.is_dir() and not folder.name.endswith(".tmp"):
                assert {path.name for path in folder.iterdir()} == set(PACK_FILES)
        if survived:
            break
    final, _ = start(cache.parent).communicate(timeout=180)
    assert final == whole
    assert not list(cache.glob(".*.tmp"))
    deadline = time.monotonic() + 20
    left = [int(pid) for pid in pids.read_text().split()]
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if is_running(pid)]
        time.sleep(0.05)
    assert not left, "workers outlived the process that started them"


# ---------------------------------------------------------------------------------------------------------- real data


@pytest.mark.real
def test_real_pictures(tmp_path: Path, real_data: Path) -> None:
    archives = sorted(real_data.glob("cifar10*.tar.xz"))
    if not archives:
        pytest.skip("no cifar10*.tar.xz in the folder of real pictures")
    root = tmp_path / "data"
    paths, labels = [], []
    with tarfile.open(archives[0], "r|xz") as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".jpg"):
                path = root / f"{len(paths):05d}.jpg"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
                paths.append(path)
                labels.append(0)
            if len(paths) == 1500:
                break
    items = items_of(root, paths, labels)
    packed = pack_dataset(Dataset("cifar10", ("x",), {"train": items}, True, str(root), ""), workers=2)
    assert (packed.size_px, packed.channels, packed.report.bad) == (32, 3, ())
    assert packed.report.sizes == {(32, 32): 1500}
    for i in range(0, 1500, 100):
        with Image.open(paths[i]) as picture:
            np.testing.assert_array_equal(packed.splits["train"].pixels[i], np.asarray(picture))  # type: ignore[index]


# ----------------------------------------------------------------------------------------------------------- the shape


def test_strips_are_kept_only_where_pictures_are_longer_than_wide(tmp_path: Path) -> None:
    square = write_pictures(tmp_path / "square", size=(24, 24))
    wide = write_pictures(tmp_path / "wide", size=(30, 24))
    for dataset, fit in ((square, "crop"), (wide, "short-side"), (arrays(side=8), "crop")):
        spec = choose_spec(dataset, size_px=16, channels=3, fit="short-side", interpolation="bilinear")
        assert spec.row_format.fit == fit
    assert estimate_pack(wide, spec).reason.startswith("24 pictures of 16 x 16 x 3")
    strips = choose_spec(wide, size_px=16, channels=3, fit="short-side", interpolation="bilinear")
    estimate = estimate_pack(wide, strips)
    assert estimate.bytes == 24 * 16 * 30 * 3
    assert estimate.reason.startswith("24 pictures of 30 x 16 x 3 take 0.0 MB")

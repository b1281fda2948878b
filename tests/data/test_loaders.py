"""Loaders: the same batches from memory and from files, at every step, whatever happens to the workers."""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import eyespot
from eyespot.data import loaders, stream_workers, worker_process
from eyespot.data.dataset import Dataset, PackedDataset, PackedSplit, ScanReport, SplitName
from eyespot.data.decoding import decode_image
from eyespot.data.dividing import make_splits
from eyespot.data.loaders import Batch, BatchPlan, Loader, MemoryLoader, StreamLoader, make_loader
from eyespot.data.resizing import Channels, Fit, RowFormat
from eyespot.data.splits import Splits
from eyespot.data.stream_workers import StreamWorkers
from eyespot.errors import BadImageError, DataError, UsageError

from .without_gpu import Traffic, no_gpu

SIZE_PX = 12
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Write different pictures of different sizes and modes."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        height, width = rng.integers(6, 30, 2)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).convert(("RGB", "L", "P")[i % 3])
        paths.append(folder / f"bild ä{i:03d}.png")
        picture.save(paths[-1])
    return paths


def packed_of(
    paths: dict[SplitName, list[Path]],
    *,
    in_memory: bool | dict[str, bool],
    channels: Channels = 3,
    fit: Fit = "crop",
) -> PackedDataset:
    """Return the same data set with its pixels in memory, or with its files."""
    row_format = RowFormat(SIZE_PX, channels, fit, "bilinear")
    parts: dict[SplitName, PackedSplit] = {}
    start = 0
    for name, files in paths.items():
        count = len(files)
        hashes = np.zeros((count, 16), np.uint8)
        hashes[:, 0] = np.arange(start, start + count)
        pixels = None
        if in_memory if isinstance(in_memory, bool) else in_memory[name]:
            pixels = np.stack([row_format.row(decode_image(file, channels=channels)) for file in files])
            pixels.setflags(write=False)  # like a memory map
        parts[name] = PackedSplit(
            [file.name for file in files],
            np.arange(count, dtype=np.int64) % 2,
            hashes,
            np.array([decode_image(file, channels=1).shape[1::-1] for file in files], np.int64),
            pixels=pixels,
            paths=None if pixels is not None else files,
        )
        start += count
    dataset = Dataset("photos", ("cat", "dog"), {}, False, "photos", "class folders")
    return PackedDataset(dataset, parts, ScanReport({}), "f00", row_format)


def splits_of(packed: PackedDataset, *, final: bool = False) -> Splits:
    return make_splits(packed, val_fraction=0.2, test_fraction=0.2, stratify=True, seed=0, final=final)


def loader_of(packed: PackedDataset, split: SplitName = "train", **changes: object) -> Loader:
    options = {"batch_size": 7, "shuffle": True, "seed": 3, "drop_last": False, "device": "cpu", "workers": 2}
    final = bool(changes.pop("final", False))
    return make_loader(packed, splits_of(packed, final=final), split, **{**options, **changes})  # type: ignore[arg-type]


def stream_of(
    paths: list[Path], *, processes: int, batch_size: int = 4, timeout_seconds: float = 60.0, shuffle: bool = False
) -> StreamLoader:
    return StreamLoader(
        [str(path) for path in paths],
        np.arange(len(paths), dtype=np.int64),
        RowFormat(SIZE_PX, 3, "crop", "bilinear"),
        BatchPlan(len(paths), batch_size, shuffle=shuffle),
        processes=processes,
        timeout_seconds=timeout_seconds,
    )


def assert_equal(first: Batch, second: Batch) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.dtype == other.dtype
        assert one.stride() == other.stride()
        assert torch.equal(one, other)


def is_alive(pid: int) -> bool:
    """Return whether a process exists that has not ended; nobody may have waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        if Path("/proc/self/stat").exists():
            return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def assert_gone(pids: tuple[int, ...], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers are still there"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("photos"), 50)


# --------------------------------------------------------------------------------------------------------------- plan


@settings(deadline=None)
@given(
    count=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_an_epoch_has_every_picture_once(
    count: int, batch_size: int, shuffle: bool, drop_last: bool, epoch: int
) -> None:
    if drop_last and batch_size > count:
        return
    plan = BatchPlan(count, batch_size, shuffle=shuffle, drop_last=drop_last)
    steps = list(plan.positions(epoch))
    assert len(steps) == plan.steps_per_epoch
    seen = torch.cat(steps)
    assert seen.dtype == torch.int64
    assert len(set(seen.tolist())) == len(seen)
    assert len(seen) == (count - count % batch_size if drop_last else count)
    assert all(len(step) == batch_size for step in steps[:-1])
    if not shuffle:
        assert seen.tolist() == list(range(len(seen)))
    for first_step in range(len(steps) + 1):
        assert [s.tolist() for s in plan.positions(epoch, first_step)] == [s.tolist() for s in steps[first_step:]]


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(list(BatchPlan(100, 9, shuffle=True, seed=seed).positions(epoch))).tolist()

    expected = order(0, 0)
    torch.manual_seed(5)
    assert order(0, 0) == expected
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    # The batch size only cuts the order.
    assert torch.cat(list(BatchPlan(100, 20, shuffle=True).positions(0))).tolist() == expected


def test_a_batch_size_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="batch_size is 0: choose 1 or more"):
        BatchPlan(5, 0)
    with pytest.raises(UsageError, match=r"batch_size 6 is more than the 5 pictures.*choose a batch_size of 5 or less"):
        BatchPlan(5, 6, drop_last=True)
    assert BatchPlan(5, 6).steps_per_epoch == 1
    assert BatchPlan(5, 5, drop_last=True).steps_per_epoch == 1


@pytest.mark.parametrize("first_step", [-1, 4])
def test_a_first_step_outside_of_the_epoch_is_a_mistake_of_the_caller(first_step: int) -> None:
    with pytest.raises(ValueError, match="the epoch has 3 steps"):
        next(BatchPlan(5, 2).positions(0, first_step))


# ------------------------------------------------------------------------------------------------- memory and files


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_and_files_give_the_same_batches(
    pictures: list[Path], channels: Channels, drop_last: bool, workers: int
) -> None:
    in_memory = packed_of({"train": pictures}, in_memory=True, channels=channels)
    in_files = packed_of({"train": pictures}, in_memory=False, channels=channels)
    with (
        loader_of(in_memory, drop_last=drop_last) as memory,
        loader_of(in_files, drop_last=drop_last, workers=workers) as stream,
    ):
        assert isinstance(memory, MemoryLoader)
        assert isinstance(stream, StreamLoader)
        assert stream.num_images == memory.num_images == 30
        assert stream.batch_size == memory.batch_size == 7
        assert stream.steps_per_epoch == memory.steps_per_epoch == (4 if drop_last else 5)
        assert torch.equal(stream.labels, memory.labels)
        for epoch in range(3):
            batches = list(zip(memory.batches(epoch), stream.batches(epoch), strict=True))
            assert len(batches) == memory.steps_per_epoch
            for one, other in batches:
                assert_equal(one, other)


def test_batches_are_the_right_pictures_with_the_right_labels(pictures: list[Path]) -> None:
    packed = packed_of({"train": pictures}, in_memory=True)
    splits = splits_of(packed)
    rows = splits.indices["train"]["train"]
    for batch in loader_of(packed).batches(0):
        assert batch.images.dtype == torch.uint8
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        assert batch.images.shape[1:] == (3, SIZE_PX, SIZE_PX)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        for image, label, index in zip(*batch, strict=True):
            pixels = packed.splits["train"].pixels
            assert pixels is not None
            assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels[rows[index]])
            assert label == packed.splits["train"].labels[rows[index]]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_without_shuffling_every_picture_comes_once_in_the_order_of_the_split(
    pictures: list[Path], split: SplitName
) -> None:
    packed = packed_of({"train": pictures}, in_memory=True)
    loader = loader_of(packed, split, shuffle=False, batch_size=4)
    batches = list(loader.batches(0))
    assert torch.cat([b.indices for b in batches]).tolist() == list(range(loader.num_images))
    assert torch.cat([b.labels for b in batches]).tolist() == splits_of(packed).labels(packed, split).tolist()
    assert len(batches[-1].labels) == loader.num_images - 4 * (len(batches) - 1)
    for one, other in zip(batches, loader.batches(1), strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("in_memory", [True, False])
def test_resumed_at_any_step_the_rest_of_the_epoch_is_the_same(pictures: list[Path], in_memory: bool) -> None:
    packed = packed_of({"train": pictures}, in_memory=in_memory)
    with loader_of(packed, batch_size=4) as loader:
        whole = list(loader.batches(2))
        for step in range(len(whole) + 1):
            rest = list(loader.batches(2, first_step=step))
            assert len(rest) == len(whole) - step
            for one, other in zip(rest, whole[step:], strict=True):
                assert_equal(one, other)
    # Another process, which knows nothing of the first.
    with loader_of(packed, batch_size=4) as fresh:
        assert_equal(next(iter(fresh.batches(2, first_step=3))), whole[3])


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_final_run_reads_train_and_val(pictures: list[Path], in_memory: bool) -> None:
    packed = packed_of({"train": pictures[:20], "val": pictures[20:30], "test": pictures[30:]}, in_memory=in_memory)
    with loader_of(packed, final=True, shuffle=False) as loader:
        assert loader.num_images == 30
        images = torch.cat([batch.images for batch in loader.batches(0)])
        assert torch.cat([batch.labels for batch in loader.batches(0)]).tolist() == [0, 1] * 15
    for image, path in zip(images, pictures, strict=False):
        expected = RowFormat(SIZE_PX, 3, "crop", "bilinear").row(decode_image(path, channels=3))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_pixels_that_are_one_run_are_not_copied_and_cannot_be_spoilt(pictures: list[Path], tmp_path: Path) -> None:
    packed = packed_of({"train": pictures[:20], "test": pictures[20:]}, in_memory=True)
    pixels = packed.splits["test"].pixels
    assert pixels is not None
    np.save(tmp_path / "pixels.npy", pixels)
    on_disk = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    loader = MemoryLoader(on_disk, packed.splits["test"].labels, BatchPlan(30, 30))
    assert loader._pixels.data_ptr() == on_disk.ctypes.data
    next(iter(loader.batches(0))).images.zero_()
    again = next(iter(loader.batches(0))).images
    assert np.array_equal(again.permute(0, 2, 3, 1).numpy(), pixels)
    gathered = loaders._gather_pixels(packed, {"test": np.arange(3, 9)})
    assert np.shares_memory(gathered, pixels)
    assert np.array_equal(gathered, pixels[3:9])
    assert np.array_equal(loaders._gather_pixels(packed, {"test": np.asarray([3, 5])}), pixels[[3, 5]])


def test_memory_gives_batches_wherever_torch_has_a_device() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pixels = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    loader = MemoryLoader(pixels, np.arange(5), BatchPlan(5, 5, shuffle=True), device=device)
    (batch,) = loader.batches(0)
    assert {tensor.device.type for tensor in (*batch, loader.labels)} == {device}
    assert np.array_equal(batch.images.permute(0, 2, 3, 1).cpu().numpy(), pixels[batch.indices.cpu().numpy()])


@pytest.mark.parametrize("fit", ["crop", "short-side"])
def test_pixels_that_a_gpu_has_no_room_for_give_the_same_batches(
    pictures: list[Path], fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = packed_of({"train": pictures}, in_memory=True, fit=fit)
    expected = list(loader_of(packed).batches(1, first_step=1))
    monkeypatch.setattr(loaders, "_has_room", lambda num_bytes, device: False)
    loader = loader_of(packed)
    for one, other in zip(loader.batches(1, first_step=1), expected, strict=True):
        assert_equal(one, other)


def test_pixels_take_at_most_half_of_what_is_free_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 8000))
    assert loaders._has_room(500, torch.device("cuda:1"))
    assert not loaders._has_room(501, torch.device("cuda:1"))
    assert loaders._has_room(10**15, torch.device("cpu"))


@pytest.mark.parametrize(("free", "copies"), [(10**9, 0), (10, 10)])
def test_an_epochs_order_goes_to_a_gpu_once(free: int, copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    with no_gpu():
        pixels, labels = np.zeros((60, 4, 4, 3), np.uint8), np.zeros(60, np.int64)
        loader = MemoryLoader(pixels, labels, BatchPlan(60, 6, shuffle=True), device="cuda")
        with Traffic() as traffic:
            batches = list(loader.batches(0))
        assert {tensor.device.type for batch in batches for tensor in batch} == {"cuda"}
        assert traffic.waited == 1  # for the order
        assert traffic.copies == copies  # a batch out of the computer's memory each


# ------------------------------------------------------------------------------------------------------- make_loader


def test_no_workers_means_one_for_each_core(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "core_count", lambda: 3)
    with loader_of(packed_of({"train": pictures}, in_memory=False), workers=0) as loader:
        next(iter(loader.batches(0)))
        assert isinstance(loader, StreamLoader)
        assert len(loader.worker_pids) == 3


def test_a_split_that_is_not_there_is_named(pictures: list[Path]) -> None:
    packed = packed_of({"train": pictures}, in_memory=True)
    with pytest.raises(DataError, match=r"there is no val split in photos: the run has train, test"):
        loader_of(packed, "val", final=True)


def test_splits_of_other_data_are_refused(pictures: list[Path]) -> None:
    packed = packed_of({"train": pictures}, in_memory=True)
    splits = Splits("bar", splits_of(packed).indices)
    with pytest.raises(DataError, match="belongs to data with fingerprint bar, these have f00 in photos"):
        make_loader(
            packed, splits, "train", batch_size=1, shuffle=False, seed=0, drop_last=False, device="cpu", workers=1
        )


def test_pixels_that_do_not_fit_into_memory(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    packed = packed_of({"train": pictures}, in_memory=True)

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(loaders.np, "empty", full)
    with pytest.raises(DataError, match=r"no memory for 25 pictures \(0\.0 GB\) in photos: .*data\.memory_limit_gb"):
        make_loader(
            packed,
            Splits("f00", {"train": {"train": np.arange(0, 50, 2)}}),
            "train",
            batch_size=1,
            shuffle=False,
            seed=0,
            drop_last=False,
            device="cpu",
            workers=1,
        )


def test_a_split_half_in_memory_is_refused(pictures: list[Path]) -> None:
    packed = packed_of({"train": pictures[:20], "val": pictures[20:]}, in_memory={"train": True, "val": False})
    with pytest.raises(DataError, match="train is in memory, but other pictures of the same split are read from files"):
        loader_of(packed, final=True)


# ------------------------------------------------------------------------------------------------------- the workers


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_the_number_of_processes_changes_nothing(pictures: list[Path], processes: int) -> None:
    with (
        stream_of(pictures, processes=0, shuffle=True) as here,
        stream_of(pictures, processes=processes, shuffle=True) as there,
    ):
        for epoch in range(2):
            for one, other in zip(here.batches(epoch), there.batches(epoch), strict=True):
                assert_equal(one, other)
        assert len(there.worker_pids) == processes


def test_workers_stay_from_epoch_to_epoch_and_go_at_the_end(pictures: list[Path]) -> None:
    with stream_of(pictures, processes=2) as loader:
        assert loader.worker_pids == ()
        list(loader.batches(0))
        pids = loader.worker_pids
        assert len(set(pids)) == 2
        list(loader.batches(1))
        assert loader.worker_pids == pids
    assert loader.worker_pids == ()
    assert_gone(pids)
    loader.close()
    assert len(list(loader.batches(0))) == 13, "a closed loader starts again"
    loader.close()


def test_an_iteration_that_is_left_or_doubled_disturbs_no_other(pictures: list[Path]) -> None:
    with stream_of(pictures, processes=2, batch_size=3, shuffle=True) as loader:
        expected = list(loader.batches(1))
        left = loader.batches(0)
        next(left)
        del left
        one, other = loader.batches(1), loader.batches(1)
        for first, second, third in zip(one, other, expected, strict=True):
            assert_equal(first, third)
            assert_equal(second, third)


def test_a_loader_that_is_forgotten_takes_its_workers_along(pictures: list[Path]) -> None:
    loader = stream_of(pictures, processes=2)
    batches = loader.batches(0)
    next(batches)
    pids = loader.worker_pids
    del loader, batches
    gc.collect()
    assert_gone(pids)


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "is truncated"),
        (lambda path: path.write_text("gone"), "is a text file, not a picture"),
    ],
)
def test_a_picture_that_went_bad_after_the_scan_is_named(
    tmp_path: Path, processes: int, change: Callable[[Path], None], reason: str
) -> None:
    paths = write_pictures(tmp_path, 40)
    with stream_of(paths, processes=processes, batch_size=5) as loader:
        assert len(list(loader.batches(0))) == 8
        change(paths[23])
        seen = []
        with pytest.raises(BadImageError, match=f"good when it was scanned {reason}.*put the file back") as caught:
            seen.extend(loader.batches(1))
        assert caught.value.where == str(paths[23])
        assert len(seen) <= 4, "no batch at or behind the bad picture comes"
        write_pictures(tmp_path, 40)
        assert len(list(loader.batches(1))) == 8, "the workers go on"


@POSIX
@pytest.mark.parametrize("victim", ["all", "one"])
def test_a_killed_worker_is_named_at_once(pictures: list[Path], victim: str) -> None:
    with stream_of(pictures * 20, processes=2) as loader:
        batches = loader.batches(0)
        next(batches)
        pids = loader.worker_pids
        for pid in pids if victim == "all" else pids[:1]:
            os.kill(pid, signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(
            DataError,
            match=r"a decoding worker was killed \(SIGKILL\) in .*\.png or one of the 3 pictures after it: .*",
        ) as caught:
            list(batches)
        assert time.monotonic() - start < 30
        assert "--set data.workers=1" in caught.value.remedy
        assert_gone(pids)
        assert len(list(loader.batches(1))) == 250, "new workers were started"


@POSIX
def test_a_stopped_worker_is_named_after_the_time_out(pictures: list[Path]) -> None:
    with stream_of(pictures * 20, processes=2, timeout_seconds=5.0) as loader:  # they have to start in that time, too
        batches = loader.batches(0)
        next(batches)
        pids = loader.worker_pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(DataError, match=r"the decoding workers gave no picture for 5 s in .*\.png: .*--resume"):
            list(batches)
        assert loader.worker_pids == ()
        assert_gone(pids)


@POSIX
def test_workers_killed_at_random_moments_never_change_a_batch(pictures: list[Path]) -> None:
    rng = random.Random(0)
    expected = list(stream_of(pictures * 4, processes=0, shuffle=True).batches(0))
    finished = 0
    for _ in range(8):
        with stream_of(pictures * 4, processes=2, shuffle=True) as loader:
            batches, error = loader.batches(0), ""
            got = [next(batches)]
            moment = rng.randrange(1, len(expected))
            try:
                for batch in batches:
                    got.append(batch)
                    if len(got) == moment:
                        os.kill(rng.choice(loader.worker_pids), signal.SIGKILL)
                finished += 1  # the kill came behind the last question
            except DataError as caught:
                error = str(caught)
            for one, other in zip(got, expected, strict=False):
                assert_equal(one, other)
            assert len(got) == len(expected) or "was killed (SIGKILL)" in error
    assert finished < 8


@POSIX
def test_signals_for_the_whole_job_do_not_end_the_workers(pictures: list[Path]) -> None:
    # Clusters send SIGTERM to every process of a job: we want to write a checkpoint first.
    with stream_of(pictures * 4, processes=2) as loader:
        list(loader.batches(0))
        batches = loader.batches(1)
        next(batches)
        for pid in loader.worker_pids:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        assert len(list(batches)) == 49


def run_script(tmp_path: Path, pictures: list[Path], code: str, *, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start a user's script, without `if __name__ == "__main__"`, that has a loader with two workers."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import signal, sys, time
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs have it ignored
            sys.path.insert(0, {str(Path(eyespot.__file__).parents[1])!r})
            import numpy as np
            from eyespot.data.loaders import BatchPlan, StreamLoader
            from eyespot.data.stream_workers import RowFormat
            paths = {[str(path) for path in pictures]!r} * 5
            plan = BatchPlan(len(paths), 4)
            loader = StreamLoader(paths, np.zeros(len(paths)), RowFormat(8, 3, "pad", "nearest"), plan, processes=2)
            batches = loader.batches(0)
            next(batches)
            print(*loader.worker_pids, flush=True)
            """
        )
        + textwrap.dedent(code),
        encoding="utf-8",
    )
    command = [sys.executable, str(script)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)


def test_a_script_without_a_main_guard_runs_and_leaves_nothing_behind(tmp_path: Path, pictures: list[Path]) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "json.py").write_text("raise SystemExit('the working folder must not stand for the library')")
    process = run_script(tmp_path, pictures, "print(sum(1 for _ in batches))", cwd=tmp_path / "here")
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert errors == ""
    first, second = output.splitlines()
    assert second == "62"
    assert_gone(tuple(map(int, first.split())))


@POSIX
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_never_outlive_the_process_that_asked(
    tmp_path: Path, pictures: list[Path], number: signal.Signals
) -> None:
    process = run_script(tmp_path, pictures, "time.sleep(60)")
    assert process.stdout is not None
    pids = tuple(map(int, process.stdout.readline().split()))
    assert len(pids) == 2
    process.send_signal(number)
    _, errors = process.communicate(timeout=180)
    assert process.returncode != 0
    assert errors.count("Traceback") <= 1, "only the script itself speaks"
    assert_gone(pids)


@POSIX
def test_a_program_ends_although_its_workers_hang(tmp_path: Path, pictures: list[Path]) -> None:
    code = "import os, signal; [os.kill(pid, signal.SIGSTOP) for pid in loader.worker_pids]"
    process = run_script(tmp_path, pictures, code)
    output, errors = process.communicate(timeout=180)
    assert (process.returncode, errors) == (0, "")
    assert_gone(tuple(map(int, output.split())))


def test_workers_load_no_torch() -> None:
    code = "import eyespot.data.stream_workers, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"], check=True)


def test_a_worker_that_cannot_start_says_why(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_BOOTSTRAP", "raise SystemExit('no numpy here')")
    loader = stream_of(pictures, processes=1)
    with pytest.raises(DataError, match="a decoding worker ended with code 1: no numpy here"):
        list(loader.batches(0))
    monkeypatch.setattr(sys, "executable", str(pictures[0].parent / "no-python"))
    with pytest.raises(DataError, match=r"cannot start 1 decoding workers \(No such file or directory\): use fewer"):
        list(loader.batches(0))

    def start(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(stream_workers, "start_worker", start)
    with pytest.raises(DataError, match=r"\(Too many open files\): raise the limit on open files \(ulimit -n\)"):
        list(loader.batches(0))


def test_signal_names() -> None:
    assert stream_workers._signal_name(int(signal.SIGTERM)) == "SIGTERM"
    assert stream_workers._signal_name(250) == "signal 250"


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> Iterator[StreamWorkers]:
    row_format = RowFormat(8, 3, "squash", "bilinear")
    pool = StreamWorkers(row_format, 1)
    yield pool
    pool.close()


def test_what_is_asked_for_after_the_end_fails_or_waits_for_nothing(
    workers: StreamWorkers, pictures: list[Path]
) -> None:
    rows = RowFormat(8, 3, "squash", "bilinear").empty(len(pictures))
    futures = [workers.submit([str(path) for path in pictures], rows) for _ in range(5)]
    futures[0].result(30)
    assert futures[-1].cancel() or futures[-1].done()
    workers.close()
    workers.close()
    assert all(future.done() for future in futures)


def test_serve_answers_rows_and_reasons(pictures: list[Path]) -> None:
    """The worker's side, run in this process."""
    import io

    row_format = RowFormat(8, 3, "squash", "bilinear")
    answers = io.BytesIO()
    stream_workers._answer([str(path) for path in pictures[:3]], row_format, answers)
    expected = row_format.empty(3)
    stream_workers.decode_rows([str(path) for path in pictures[:3]], row_format, expected)
    assert answers.getvalue() == b"null\n" + expected.tobytes()
    answers = io.BytesIO()
    stream_workers._answer(["/no/such.png"], row_format, answers)
    assert answers.getvalue() == b'{"path": "/no/such.png", "reason": "does not exist"}\n'


# -------------------------------------------------------------------------------------------------------------- strips


@pytest.mark.parametrize("shuffle", [False, True])
def test_strips_from_memory_and_from_files_give_the_same_squares(tmp_path: Path, shuffle: bool) -> None:
    files: dict[SplitName, list[Path]] = {"train": write_pictures(tmp_path, 40)}
    plans = [packed_of(files, in_memory=kept, fit="short-side") for kept in (True, False)]
    splits = splits_of(plans[0])
    options = {"batch_size": 7, "shuffle": shuffle, "seed": 3, "drop_last": False, "device": "cpu", "workers": 2}
    with (
        make_loader(plans[0], splits, "train", **options) as memory,  # type: ignore[arg-type]
        make_loader(plans[1], splits, "train", **options) as stream,  # type: ignore[arg-type]
    ):
        assert isinstance(memory, MemoryLoader)
        assert isinstance(stream, StreamLoader)
        seen = []
        for epoch in (0, 1):
            batches = list(memory.batches(epoch))
            for batch, streamed in zip(batches, stream.batches(epoch), strict=True):
                assert_equal(batch, streamed)
            for batch, resumed in zip(batches[2:], memory.batches(epoch, first_step=2), strict=True):
                assert_equal(batch, resumed)
            order = torch.cat([batch.indices for batch in batches]).argsort()
            seen.append(torch.cat([batch.images for batch in batches])[order])
        assert seen[0].shape == (len(seen[0]), 3, SIZE_PX, SIZE_PX)
        assert torch.equal(seen[0], seen[1]) is not shuffle  # in training the squares move along the long side
        if not shuffle:
            rows = splits.indices["train"]["train"]
            square = plans[0].row_format.square
            expected = np.stack([square(decode_image(files["train"][row], channels=3)) for row in rows])
            np.testing.assert_array_equal(seen[0].permute(0, 2, 3, 1).numpy(), expected)

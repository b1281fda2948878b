"""idx files, and Fashion-MNIST as it is published and as Debian packages it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyespot.data import idx
from eyespot.data.idx import FASHION_FILES, files_in, read_idx, read_idx_folder
from eyespot.data.published import FASHION_MNIST
from eyespot.data.sources import open_dataset
from eyespot.errors import DataError

from .published_copies import idx_bytes, write_idx

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
NAMES = FASHION_MNIST.class_names


@pytest.mark.real
@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_real_files() -> None:
    splits = read_idx_folder(DEBIAN, NAMES)
    assert {split: len(items) for split, items in splits.items()} == dict(FASHION_MNIST.counts)
    pixels = splits["train"].pixels
    assert pixels is not None
    assert (pixels.shape, pixels.dtype) == ((60_000, 28, 28, 1), np.uint8)
    # The mean that everybody divides by: 0.2860.
    assert pixels.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    # The first training picture is an ankle boot.
    assert NAMES[splits["train"].labels[0]] == "Ankle boot"
    assert splits["test"].ids[-1] == "test/09999"


def test_the_pinned_sums_are_those_of_torchvision() -> None:
    peer = pytest.importorskip("torchvision.datasets").FashionMNIST
    assert [(file.name, file.md5) for file in FASHION_MNIST.files] == peer.resources
    assert list(FASHION_MNIST.class_names) == peer.classes
    assert all(url.startswith("https://") for file in FASHION_MNIST.files for url in file.urls)
    assert [f"{file.stem}.gz" for pair in FASHION_FILES.values() for file in pair] == [
        f.name for f in FASHION_MNIST.files
    ]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dotted", [True, False])
def test_plain_and_zipped_and_kaggles_names(tmp_path: Path, zipped: bool, dotted: bool) -> None:
    files = write_idx(tmp_path, count=50, zipped=zipped)
    if dotted:
        for path in list(tmp_path.iterdir()):
            path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert files_in(tmp_path, files) == 4
    splits = read_idx_folder(tmp_path, NAMES, files)
    assert {split: len(items) for split, items in splits.items()} == {"train": 50, "test": 50}
    np.testing.assert_array_equal(splits["train"].labels, np.arange(50) % 10)
    assert splits["train"].pixels is not None
    assert splits["train"].pixels.shape == (50, 28, 28, 1)


def test_missing_files_are_named(tmp_path: Path) -> None:
    files = write_idx(tmp_path, count=10, zipped=True)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    assert files_in(tmp_path, files) == 3
    with pytest.raises(DataError, match="1 of 4 files are missing: t10k-labels-idx1-ubyte"):
        read_idx_folder(tmp_path, NAMES, files)


def test_other_files_of_the_same_names_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, count=10, zipped=True)
    with pytest.raises(DataError, match="not the published content") as caught:
        read_idx_folder(tmp_path, NAMES)
    assert caught.value.where == str(tmp_path / "train-images-idx3-ubyte.gz")
    assert "to train on MNIST" in caught.value.remedy


@pytest.mark.parametrize("where", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_and_its_kin_are_data_of_ones_own(tmp_path: Path, where: str, zipped: bool) -> None:
    write_idx(tmp_path / where, count=50, zipped=zipped)
    dataset = open_dataset(tmp_path)
    assert not dataset.published
    assert (dataset.layout, dataset.class_names) == ("idx files", tuple("0123456789"))
    assert list(dataset.splits) == ["train", "test"]
    np.testing.assert_array_equal(dataset.splits["train"].labels, np.arange(50) % 10)
    assert dataset.splits["test"].pixels is not None
    assert dataset.splits["test"].pixels.shape == (50, 28, 28, 1)


def test_one_of_several_folders_has_to_be_named(tmp_path: Path) -> None:
    for name in ("KMNIST/raw", "MNIST/raw"):
        write_idx(tmp_path / name, count=10, zipped=False)
    with pytest.raises(DataError, match="idx files of 2 data sets: 'KMNIST/raw', 'MNIST/raw'"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path / "KMNIST").name == "KMNIST"


def write_own(folder: Path, arrays: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        (folder / f"{name}-ubyte").write_bytes(idx_bytes(np.asarray(array, np.uint8)))
    return folder


def test_own_idx_files_of_other_names_and_in_colour(tmp_path: Path) -> None:
    pixels, labels = np.arange(6 * 4 * 5 * 3).reshape(6, 4, 5, 3) % 256, [26, 3, 3, 11, 26, 11]
    write_own(tmp_path, {"emnist-letters-train-images-idx4": pixels, "emnist-letters-train-labels-idx1": labels})
    dataset = open_dataset(tmp_path)
    assert dataset.class_names == ("3", "11", "26")
    np.testing.assert_array_equal(dataset.splits["train"].labels, [2, 0, 0, 1, 2, 1])
    assert dataset.splits["train"].pixels is not None
    np.testing.assert_array_equal(dataset.splits["train"].pixels, pixels)


@pytest.mark.parametrize(
    ("files", "error"),
    [
        (("a-train-images-idx3", "b-train-images-idx3"), "idx files of 2 data sets: 'a-', 'b-'"),
        (("train-images-idx3",), "no file of the train labels"),
        (("t10k-images-idx3",), "no file of the train images and labels"),
        (("train-images-idx3", "train-labels-idx1", "t10k-labels-idx1"), "no file of the test images"),
    ],
)
def test_own_idx_files_that_do_not_fit_together_are_named(tmp_path: Path, files: tuple[str, ...], error: str) -> None:
    write_own(tmp_path, {name: np.arange(4) % 2 if "labels" in name else np.zeros((4, 5, 5)) for name in files})
    with pytest.raises(DataError, match=error):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("pictures", "labels", "error"),
    [
        (np.zeros((4, 5, 5)), [0, 1, 0], "4 train pictures, but 3 labels"),
        (np.zeros((4, 5, 5, 7)), [0, 1, 0, 1], "pictures of 5 x 5 x 7"),
        (np.zeros((4, 25)), [0, 1, 0, 1], "no idx file: it begins with 00 00 08 02 instead of 00 00 08 03"),
        (np.zeros((4, 5, 5)), [7, 7, 7, 7], "only one class, '7'"),
    ],
)
def test_own_idx_files_that_cannot_be_used_say_why(tmp_path: Path, pictures: Any, labels: Any, error: str) -> None:
    write_own(tmp_path, {"train-images-idx3": pictures, "train-labels-idx1": labels})
    with pytest.raises(DataError, match=error):
        open_dataset(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_damage_is_named(tmp_path: Path, zipped: bool) -> None:
    files = write_idx(tmp_path, count=10, zipped=zipped)
    path = next(tmp_path.glob("train-images*"))
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (bytes(flipped), content[:-1], content[: len(content) // 2], content[:3], b"", content + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(DataError) as caught:
            read_idx_folder(tmp_path, NAMES, files)
        assert caught.value.where == str(path)
        assert caught.value.remedy


def test_labels_and_counts_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_idx(tmp_path, count=10, zipped=False)
    path = tmp_path / "train-labels-idx1-ubyte"
    for labels, expected in (
        (np.arange(9), "10 train pictures, but 9 labels"),
        (np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 10]), "label 10, allowed are 0 to 9"),
        (np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8]), "class 'Bag' has 2 train pictures instead of 1"),
    ):
        content = idx_bytes(labels.astype(np.uint8))
        path.write_bytes(content)
        wanted = idx.IdxFile(files["train"][1].stem, idx.hashlib.sha256(content).hexdigest())
        with pytest.raises(DataError, match=expected):
            read_idx_folder(tmp_path, NAMES, {"train": (files["train"][0], wanted)})


def test_a_bomb_and_a_closed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_idx(tmp_path, count=10, zipped=True)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(5_000_000)))
    monkeypatch.setattr(idx, "MAX_BYTES", 1_000_000)
    with pytest.raises(DataError, match="more than the 1,000,000 bytes"):
        read_idx_folder(tmp_path, NAMES, files)

    def closed(*args: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(idx, "open", closed, raising=False)
    with pytest.raises(DataError, match="Permission denied"):
        read_idx_folder(tmp_path, NAMES, files)


class TestReadIdx:
    def test_arrays_come_back(self) -> None:
        array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        np.testing.assert_array_equal(read_idx(idx_bytes(array), dimensions=3, where="x"), array)
        assert read_idx(idx_bytes(array[:0]), dimensions=3, where="x").shape == (0, 3, 4)

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"", "begins with nothing"),
            (b"\0\0\x08\x01", "no idx file"),
            (b"\0\0\x08\x03\0\0", "no idx file"),
            (b"\0\0\x0d\x03" + bytes(12), "begins with 00 00 0d 03"),
            (b"\x1f\x8b\x08\x00", "no idx file"),
            (b"\0\0\x08\x03" + b"\xff" * 12 + b"xyz", "19 bytes instead of the 79,228,162,458,924,105,385,300,197,391"),
            (b"\0\0\x08\x03" + b"\0\0\0\x01" * 3, "16 bytes instead of the 17 that 1 x 1 x 1 values need"),
        ],
    )
    def test_refused(self, content: bytes, expected: str) -> None:
        with pytest.raises(DataError, match=expected):
            read_idx(content, dimensions=3, where="x")

    @settings(max_examples=300, deadline=None)
    @given(content=st.binary(max_size=60), dimensions=st.sampled_from([1, 3]))
    def test_random_bytes(self, content: bytes, dimensions: int) -> None:
        for data in (content, bytes((0, 0, 8, dimensions)) + content):
            try:
                array = read_idx(data, dimensions=dimensions, where="x")
            except DataError:
                continue
            assert array.ndim == dimensions

"""CIFAR in its published layouts, and the reader of its pickles, which must never do what a pickle says."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import pickletools
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eyespot.data import cifar, pickles
from eyespot.data.cifar import (
    CIFAR10_BINARY,
    CIFAR10_PYTHON,
    CIFAR100_BINARY,
    CIFAR100_PYTHON,
    CIFAR_LAYOUTS,
    CifarLayout,
    read_cifar,
)
from eyespot.data.pickles import load_pickle
from eyespot.data.published import CIFAR10, CIFAR100, PUBLISHED, Published
from eyespot.errors import DataError

from .published_copies import Python2Pickle, cifar_arrays, cifar_file, write_cifar

COARSE_NAMES = (
    "aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices "
    "household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes "
    "large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees "
    "vehicles_1 vehicles_2"
)

LAYOUTS = [
    pytest.param(CIFAR10, CIFAR10_PYTHON, id="cifar10-python"),
    pytest.param(CIFAR10, CIFAR10_BINARY, id="cifar10-binary"),
    pytest.param(CIFAR100, CIFAR100_PYTHON, id="cifar100-python"),
    pytest.param(CIFAR100, CIFAR100_BINARY, id="cifar100-binary"),
]


def refused(folder: Path, layout: CifarLayout, published: Published = CIFAR10) -> DataError:
    with pytest.raises(DataError) as caught:
        read_cifar(folder, layout, published.class_names)
    assert caught.value.remedy
    return caught.value


class TestReadCifar:
    @pytest.mark.parametrize(("published", "layout"), LAYOUTS)
    def test_pixels_and_labels_come_back(self, tmp_path: Path, published: Published, layout: CifarLayout) -> None:
        layout, content = write_cifar(tmp_path, layout, published.class_names, per_batch=200)
        splits, notes = read_cifar(tmp_path, layout, published.class_names)
        assert all("no sum is published" in note for note in notes), notes
        assert len(notes) == (2 if layout.folder == CIFAR100_BINARY.folder else 0), "nobody can verify those pixels"
        assert list(splits) == ["train", "test"]
        for split, items in splits.items():
            pixels, labels = content[split]
            np.testing.assert_array_equal(items.pixels, pixels)
            np.testing.assert_array_equal(items.labels, labels)
            assert items.pixels is not None
            assert (items.pixels.dtype, items.labels.dtype) == (np.uint8, np.int64)
            assert items.ids[17] == f"{split}/00017"
            assert len(set(items.ids)) == len(items)

    @pytest.mark.parametrize(("published", "layout"), LAYOUTS)
    def test_the_pinned_layouts_add_up(self, published: Published, layout: CifarLayout) -> None:
        counts = {split: sum(batch.count for batch in files) for split, files in layout.batches.items()}
        assert counts == dict(published.counts)
        assert len(published.class_names) == {"cifar10": 10, "cifar100": 100}[published.name]
        assert layout in CIFAR_LAYOUTS[published.name]

    @pytest.mark.parametrize(
        ("published", "layout", "peer_name"),
        [(CIFAR10, CIFAR10_PYTHON, "CIFAR10"), (CIFAR100, CIFAR100_PYTHON, "CIFAR100")],
    )
    def test_the_sums_are_torchvisions(self, published: Published, layout: CifarLayout, peer_name: str) -> None:
        peer = getattr(pytest.importorskip("torchvision.datasets"), peer_name)
        ours = [[batch.name, batch.md5] for files in layout.batches.values() for batch in files]
        assert ours == peer.train_list + peer.test_list
        assert published.files[0].md5 == peer.tgz_md5
        assert published.files[0].urls == (peer.url,)
        assert layout.meta == (peer.meta["filename"], peer.meta["key"])
        assert layout.folder == peer.base_folder

    def test_names_and_pickle_format_are_the_published_ones(self) -> None:
        # The published files of class names, written again byte by byte: so our names and our idea of their format
        # are right, without the 170 MB.
        names10 = {"num_cases_per_batch": 10_000, "label_names": list(CIFAR10.class_names), "num_vis": 3072}
        names100 = {"fine_label_names": list(CIFAR100.class_names), "coarse_label_names": COARSE_NAMES.split()}
        for names, md5 in (
            (names10, "5ff9c542aee3614f3951f8cda6e48888"),
            (names100, "7973b15100ade9c7d40fb424638fde48"),
        ):
            content = Python2Pickle().dump(names)
            assert hashlib.md5(content).hexdigest() == md5, "torchvision's sum of the published file"
            read = load_pickle(content, where="meta")
            assert list(read) == list(names)

    def test_missing_files_are_named(self, tmp_path: Path) -> None:
        layout, _ = write_cifar(tmp_path, CIFAR10_PYTHON, CIFAR10.class_names, per_batch=20)
        (tmp_path / "data_batch_3").unlink()
        (tmp_path / "test_batch").unlink()
        message = str(refused(tmp_path, layout))
        assert "2 of 6 files are missing: data_batch_3, test_batch" in message
        assert "cifar-10-batches-py" in message

    @pytest.mark.parametrize("layout", [CIFAR10_PYTHON, CIFAR10_BINARY])
    def test_a_flipped_bit_is_damage(self, tmp_path: Path, layout: CifarLayout) -> None:
        layout, _ = write_cifar(tmp_path, layout, CIFAR10.class_names, per_batch=20)
        path = tmp_path / layout.batches["train"][1].name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
        error = refused(tmp_path, layout)
        assert error.where == str(path)
        assert "a damaged file" in error.what
        assert str(layout.batches["train"][1].md5) in error.what

    @pytest.mark.parametrize("layout", [CIFAR10_PYTHON, CIFAR10_BINARY, CIFAR100_BINARY])
    def test_a_cut_off_file_is_named(self, tmp_path: Path, layout: CifarLayout) -> None:
        published = PUBLISHED["cifar100" if layout is CIFAR100_BINARY else "cifar10"]
        layout, _ = write_cifar(tmp_path, layout, published.class_names, per_batch=100)
        path = tmp_path / layout.batches["test"][0].name
        content = path.read_bytes()
        for length in (0, 1, 9, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            assert refused(tmp_path, layout, published).where == str(path)

    def test_whole_records_too_few_are_counted(self, tmp_path: Path) -> None:
        layout, _ = write_cifar(tmp_path, CIFAR100_BINARY, CIFAR100.class_names, per_batch=100)
        path = tmp_path / "test.bin"
        path.write_bytes(path.read_bytes()[:-3074])
        assert "99 pictures and 99 labels instead of 100" in refused(tmp_path, layout, CIFAR100).what

    def test_a_wrong_label_is_named(self, tmp_path: Path) -> None:
        layout, _ = write_cifar(tmp_path, CIFAR100_BINARY, CIFAR100.class_names, per_batch=100)
        path = tmp_path / "train.bin"
        content = bytearray(path.read_bytes())
        content[1] = 200
        path.write_bytes(content)
        error = refused(tmp_path, layout, CIFAR100)
        assert "label 200, allowed are 0 to 99" in error.what
        assert error.where == str(path)

    def test_unequal_classes_are_refused(self, tmp_path: Path) -> None:
        layout, _ = write_cifar(tmp_path, CIFAR100_BINARY, CIFAR100.class_names, per_batch=100)
        path = tmp_path / "train.bin"
        content = bytearray(path.read_bytes())
        first = content[1]
        content[1] = (first + 1) % 100
        path.write_bytes(content)
        assert "train pictures instead of 1" in refused(tmp_path, layout, CIFAR100).what

    def test_other_class_names_are_refused(self, tmp_path: Path) -> None:
        layout, _ = write_cifar(tmp_path, CIFAR10_PYTHON, CIFAR10.class_names, per_batch=20)
        (tmp_path / "batches.meta").write_bytes(Python2Pickle().dump({"label_names": ["a", "b"]}))
        assert "other class names" in refused(tmp_path, layout).what
        (tmp_path / "batches.meta").write_bytes(Python2Pickle().dump({"label_names": 3}))
        assert "other class names" in refused(tmp_path, layout).what
        (tmp_path / "batches.meta").unlink()
        assert len(read_cifar(tmp_path, layout, CIFAR10.class_names)[0]["train"]) == 100

    @pytest.mark.parametrize("protocol", [2, 3, 4])
    def test_a_copy_written_again_by_python_3_is_read_and_noted(self, tmp_path: Path, protocol: int) -> None:
        layout, content = write_cifar(tmp_path, CIFAR10_PYTHON, CIFAR10.class_names, per_batch=20)
        pixels, labels = cifar_arrays(20, 10, seed=6)
        rows = pixels.transpose(0, 3, 1, 2).reshape(20, -1)
        parts: dict[Any, Any] = {b"data": np.asfortranarray(rows), b"labels": labels.tolist()}
        (tmp_path / "test_batch").write_bytes(pickle.dumps(parts, protocol))
        splits, notes = read_cifar(tmp_path, layout, CIFAR10.class_names)
        np.testing.assert_array_equal(splits["test"].pixels, pixels)
        assert len(notes) == 1
        assert "test_batch is not the published file" in notes[0]
        assert content["train"][0].shape == (100, 32, 32, 3)

    @pytest.mark.parametrize(
        "parts",
        [
            {},
            {"data": b"xx", "labels": [1]},
            {"data": np.zeros((2, 10), np.uint8), "labels": [1, 2]},
            {"data": np.zeros((2, 3072), np.uint8), "labels": "xx"},
            {"data": np.zeros((2, 3072), np.uint8), "labels": ["1", "2"]},
            {"data": np.zeros((2, 3072), np.uint8), "labels": [2**40, 1]},
            {"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
            {"data": np.zeros(6144, np.uint8), "labels": [1, 2]},
        ],
    )
    def test_other_content_is_refused(self, tmp_path: Path, parts: dict[str, Any]) -> None:
        layout, _ = write_cifar(tmp_path, CIFAR10_PYTHON, CIFAR10.class_names, per_batch=20)
        path = tmp_path / "data_batch_1"
        path.write_bytes(pickle.dumps(parts, 2))
        assert refused(tmp_path, layout).where == str(path)

    def test_a_file_that_is_too_large_or_closed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        layout, _ = write_cifar(tmp_path, CIFAR10_BINARY, CIFAR10.class_names, per_batch=20)
        monkeypatch.setattr(cifar, "MAX_BYTES", 100)
        assert "more than the 100 bytes" in refused(tmp_path, layout).what

        def closed(*args: Any) -> Any:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(cifar, "open", closed, raising=False)
        assert "Permission denied" in refused(tmp_path, layout).what

    def test_files_in_counts_only_files(self, tmp_path: Path) -> None:
        assert CIFAR100_PYTHON.files_in(tmp_path) == 0
        (tmp_path / "train").mkdir()
        (tmp_path / "meta").touch()
        assert CIFAR100_PYTHON.files_in(tmp_path) == 1


class Calls:
    """Pickles into a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Slotted:
    """Pickles with NEWOBJ."""


def load(content: bytes) -> dict[str, Any]:
    return load_pickle(content, where="file")


plain = st.recursive(
    st.none() | st.integers(-(2**40), 2**40) | st.text(max_size=300) | st.binary(min_size=1, max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.lists(inner, max_size=5).map(tuple),
    max_leaves=20,
)


class TestPickles:
    @settings(max_examples=200, deadline=None)
    @given(value=st.dictionaries(st.text(max_size=8), plain, max_size=4), protocol=st.integers(2, 5))
    def test_plain_values_are_read_as_pythons_own_reader_reads_them(self, value: Any, protocol: int) -> None:
        assert load(pickle.dumps(value, protocol)) == value

    @pytest.mark.parametrize("protocol", [2, 3, 4])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_arrays(self, protocol: int, order: Any) -> None:
        array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4).copy(order=order)
        found = load(pickle.dumps({"data": array, "again": 1}, protocol))
        np.testing.assert_array_equal(found["data"], array)
        assert found["again"] == 1

    def test_old_and_new_numpy_names(self) -> None:
        content = pickle.dumps({"data": np.arange(3, dtype=np.uint8)}, 2)
        old, new = b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"
        for name in (old, new):
            np.testing.assert_array_equal(load(content.replace(old, name).replace(new, name))["data"], [0, 1, 2])

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    @pytest.mark.parametrize(
        ("function", "arguments"),
        [
            (os.system, ("touch CANARY",)),
            (os.mkdir, ("CANARY",)),
            (eval, ("open('CANARY', 'w')",)),
            (exec, ("open('CANARY', 'w')",)),
            (open, ("CANARY", "w")),
            (subprocess.Popen, (["touch", "CANARY"],)),
            (Path, ("CANARY",)),
            (np.load, ("CANARY",)),
            (np.frombuffer, (b"abc",)),
            (getattr, (1, "real")),
            (__import__, ("os",)),
            (bytearray, (10,)),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    def test_a_call_is_refused_by_name_and_never_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, function: Any, arguments: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        content = pickle.dumps({"data": Calls(function, *arguments)}, protocol)
        with pytest.raises(DataError, match="which no CIFAR file contains") as caught:
            load(content)
        assert list(tmp_path.iterdir()) == []
        assert caught.value.remedy

    def test_the_refused_global_is_named(self) -> None:
        with pytest.raises(DataError, match=r"asks for (posix|nt)\.system"):
            load(pickle.dumps({"x": Calls(os.system, "true")}))

    @pytest.mark.parametrize(
        "content",
        [
            pickle.dumps({"x": Slotted()}),
            pickle.dumps({"x": 1.5}),
            pickle.dumps({"x": {1, 2}}),
            pickle.dumps({"x": np.float64(3)}),
            pickle.dumps({"x": np.zeros(3)}),
            pickle.dumps({"x": np.array([None, "object"])}),
            pickle.dumps({"x": np.zeros(3, np.uint8)}, 5),
            pickle.dumps({"x": 1}, 0),
            pickle.dumps([1]),
            pickle.dumps({3: 1}),
            pickle.dumps({("a",): 1}),
            b"",
            b".",
            b"\x80\x02.",
            b"\x80\x02}",
            b"(",
            b"K",
            b"cos\nsystem\n(S'true'\ntR.",
            b"(ios\nsystem\n.",
            b"(cos\nsystem\no.",
            b"P1\n.",
            b"\x82\x01.",
            b"cnumpy\ndtype\n(U\x01Oq\x01tR.",
            b"cnumpy\ndtype\n)R.",
            b"cnumpy\nndarray\n(K\x05tR.",
            b"cnumpy.core.multiarray\n_reconstruct\n(K\x01K\x00\x85tR.",
            b"c_codecs\nencode\n(X\x01\x00\x00\x00aU\x08zlib_bittR.",
            b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
            b"}cnumpy\ndtype\nb.",
            b"cnumpy\n" + b"x" * 500 + b"\n.",
            b"}U\x01aU\x01b(u.",
            b"}(U\x01au.",
            b"]}a.",
            b"K\x01K\x02a.",
            b"K\x01K\x02\x87.",
            b"h\x05.",
        ],
    )
    def test_everything_else_is_refused(self, content: bytes) -> None:
        with pytest.raises(DataError):
            load(content)

    def test_no_memory_is_taken_that_the_file_does_not_hold(self) -> None:
        head = b"\x80\x04}q\x01(U\x04data"
        array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        huge = b"\x8a\x08" + (2**60).to_bytes(8, "little")
        bombs = [
            head + b"r\xff\xff\xff\x7fu.",
            head + b"\x8e" + (2**50).to_bytes(8, "little"),
            head + b"\x8d" + (2**62).to_bytes(8, "little"),
            head + b"T\xff\xff\xff\xff",
            head + b"B\xff\xff\xff\xff",
            head + array + huge + b"\x85" + dtype + b"\x89U\x01xtbu.",
            head + array + huge + huge + huge + b"\x87" + dtype + b"\x89U\x00tbu.",
            b"}" + b"(" * 10_000 + b"t" * 5_000 + b"K\x01s.",
            # One long text, encoded again and again.
            b"c_codecs\nencode\nq\x01(X"
            + (10**6).to_bytes(4, "little")
            + b"a" * 10**6
            + b"X\x06\x00\x00\x00latin1tq\x020"
            b"(" + b"h\x01h\x02R" * 1_000 + b"t.",
            # The same without POP, which we do not have.
            b"c_codecs\nencode\nq\x01X"
            + (10**6).to_bytes(4, "little")
            + b"a" * 10**6
            + b"X\x06\x00\x00\x00latin1\x86q\x02"
            b"(" + b"h\x01h\x02R" * 1_000 + b"t.",
        ]
        for bomb in bombs:
            tracemalloc.start()
            with pytest.raises(DataError):
                load(bomb)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 20_000_000

    def test_caps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pickles, "MAX_OPCODES", 50)
        with pytest.raises(DataError):
            load(b"]" * 100 + b".")
        monkeypatch.setattr(pickles, "MAX_BYTES", 10)
        with pytest.raises(DataError, match="more than the 10 allowed"):
            load(b"}" * 11)

    def test_a_nested_file_does_not_exhaust_the_stack(self) -> None:
        with pytest.raises(DataError):
            load(b"K\x01" + b"\x85" * 500_000 + b".")
        with pytest.raises(DataError):
            load(b"}" + b"K\x01" + b"\x85" * 500_000 + b"K\x01s.")

    @settings(max_examples=1_000, deadline=None)
    @given(content=st.binary(max_size=100))
    @example(content=b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff}.")
    def test_random_bytes(self, content: bytes) -> None:
        _loads_or_refuses(content)

    @settings(max_examples=1_000, deadline=None)
    @given(content=st.lists(st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes]
                                            + [b"\x01", b"\x00", b"cos\nsystem\n", b"cnumpy\nndarray\n", b"U\x01a"]),
                            max_size=40).map(b"".join))  # fmt: skip
    def test_random_opcodes(self, content: bytes) -> None:
        _loads_or_refuses(content + b".")

    @settings(max_examples=1_000, deadline=None)
    @given(data=st.data())
    def test_damaged_batches(self, data: st.DataObject) -> None:
        pixels, labels = cifar_arrays(1, 1, seed=1)
        content = bytearray(cifar_file(pixels[:, :1, :1], labels, dataclasses.replace(CIFAR10_PYTHON)))
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        _loads_or_refuses(bytes(content[: data.draw(st.integers(0, len(content)))]))


def _loads_or_refuses(content: bytes) -> None:
    try:
        assert isinstance(load(content), dict)
    except DataError as error:
        message = str(error)
        assert "file" in message

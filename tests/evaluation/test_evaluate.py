"""A labelled split once through the model, by name of the classes, and predictions.npz."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eyespot.data.dataset import Dataset, Items
from eyespot.data.loaders import Batch, BatchPlan, MemoryLoader
from eyespot.device import ComputePlan
from eyespot.errors import DataError, RunError, TrainingError, UsageError
from eyespot.evaluation.bundle_info import BundleInfo
from eyespot.evaluation.evaluate import evaluate, match_classes, read_predictions, write_predictions
from eyespot.evaluation.metrics import measure
from eyespot.evaluation.predictor import Predictor

CPU = ComputePlan("cpu", "float32", "a test")
N = 23


def some_pixels(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), rng.integers(0, 3, n)


def loader_of(pixels: np.ndarray, labels: np.ndarray, **plan: Any) -> MemoryLoader:
    return MemoryLoader(pixels, labels, BatchPlan(len(labels), **{"batch_size": 5, **plan}))


class Broken:
    """A loader whose batches and number of images are what a test says."""

    def __init__(self, batches: list[Batch], num_images: int) -> None:
        self.num_images = num_images
        self._batches = batches

    def batches(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        yield from self._batches


class TestEvaluate:
    @pytest.mark.parametrize("views", ["none", "mirror", "mirror-shift"])
    def test_logits_labels_and_numbers(self, views: Any, predictor: Predictor) -> None:
        pixels, labels = some_pixels()
        result = evaluate(predictor, loader_of(pixels, labels), views=views)
        whole = predictor.batch_logits(torch.from_numpy(pixels).permute(0, 3, 1, 2), views=views).numpy()
        assert result.logits.dtype == np.float32
        np.testing.assert_allclose(result.logits, whole, atol=1e-5)
        np.testing.assert_array_equal(result.labels, labels)
        assert result.labels.dtype == np.int64
        np.testing.assert_array_equal(result.preds, result.logits.argmax(1))
        expected = measure(result.logits, labels, predictor.class_names, seconds=result.seconds, views=views)
        assert result.metrics == expected
        assert result.metrics["n"] == N
        assert result.views == result.metrics["views"] == views
        assert result.images_per_second == pytest.approx(N / result.seconds)

    def test_prediction_and_evaluation_give_the_same_answer(self, predictor: Predictor) -> None:
        pixels, labels = some_pixels()
        result = evaluate(predictor, loader_of(pixels, labels), views="mirror-shift")
        predictions = predictor.predict(list(pixels), views="mirror-shift")
        assert [prediction.label for prediction in predictions] == [predictor.class_names[k] for k in result.preds]

    def test_shuffled_batches_come_back_in_order(self, predictor: Predictor) -> None:
        pixels, labels = some_pixels()
        in_order = evaluate(predictor, loader_of(pixels, labels))
        shuffled = evaluate(predictor, loader_of(pixels, labels, shuffle=True, seed=3, batch_size=4))
        np.testing.assert_allclose(shuffled.logits, in_order.logits, atol=1e-5)
        np.testing.assert_array_equal(shuffled.labels, in_order.labels)

    def test_progress(self, predictor: Predictor) -> None:
        told: list[tuple[int, int]] = []
        evaluate(predictor, loader_of(*some_pixels()), progress=lambda done, total: told.append((done, total)))
        assert told == [(5, N), (10, N), (15, N), (20, N), (23, N)]

    def test_labels_by_name(self, predictor: Predictor) -> None:
        pixels, labels = some_pixels()
        # The data call the model's classes 0, 1, 2 by 2, 0, 1.
        label_map = np.array([1, 2, 0])
        theirs = np.argsort(label_map)[labels]
        result = evaluate(predictor, loader_of(pixels, theirs), label_map=label_map)
        np.testing.assert_array_equal(result.labels, labels)
        assert result.metrics["top1"] == evaluate(predictor, loader_of(pixels, labels)).metrics["top1"]

    def test_an_empty_split(self, predictor: Predictor) -> None:
        with pytest.raises(DataError, match="no images to evaluate: give a split with at least one image"):
            evaluate(predictor, Broken([], 0))  # type: ignore[arg-type]

    def test_a_label_without_an_output(self, predictor: Predictor) -> None:
        pixels, labels = some_pixels()
        labels[4] = 3
        with pytest.raises(DataError, match="label 3 where the model has the outputs 0 to 2"):
            evaluate(predictor, loader_of(pixels, labels))
        with pytest.raises(DataError, match="labels from 0 to 3 where the class list has 3 names"):
            evaluate(predictor, loader_of(pixels, labels), label_map=np.arange(3))

    def test_a_loader_that_leaves_images_out(self, predictor: Predictor) -> None:
        with pytest.raises(UsageError, match=r"leaves out 3 and repeats 0 of 23 images: .* keeps the last short batch"):
            evaluate(predictor, loader_of(*some_pixels(), drop_last=True))

    def test_a_loader_that_repeats_images(self, predictor: Predictor) -> None:
        pixels, labels = some_pixels(3)
        (batch,) = loader_of(pixels, labels).batches(0)
        with pytest.raises(UsageError, match="leaves out 0 and repeats 3 of 3 images"):
            evaluate(predictor, Broken([batch, batch], 3))  # type: ignore[arg-type]

    def test_images_of_another_size(self, predictor: Predictor) -> None:
        with pytest.raises(DataError, match=r"pixels of shape \(5, 3, 9, 9\)"):
            evaluate(predictor, loader_of(np.zeros((5, 9, 9, 3), np.uint8), np.zeros(5, np.int64)))

    def test_unknown_views(self, predictor: Predictor) -> None:
        with pytest.raises(UsageError, match="unknown views 'ten'"):
            evaluate(predictor, loader_of(*some_pixels()), views="ten")  # type: ignore[arg-type]

    def test_nan(self, new_info: Callable[..., BundleInfo], new_model: Callable[..., nn.Module]) -> None:
        model = new_model(new_info())
        model.get_classifier().weight.data.fill_(float("nan"))
        with pytest.raises(TrainingError, match="NaN or infinity for 23 of 23 images"):
            evaluate(Predictor(model, new_info(), CPU), loader_of(*some_pixels()))


def dataset_of(*class_names: str) -> Dataset:
    items = Items([], np.zeros(0, np.int64), paths=[])
    return Dataset("holiday", class_names, {"train": items}, published=False, origin="x", layout="class folders")


class TestMatchClasses:
    def test_another_order_works_by_name(self, predictor: Predictor) -> None:
        assert predictor.class_names == ("cat", "dog", "crème brûlée")
        mapping = match_classes(predictor, dataset_of("cat", "crème brûlée", "dog"))
        assert mapping.dtype == np.int64
        assert mapping.tolist() == [0, 2, 1]

    def test_fewer_classes(self, predictor: Predictor) -> None:
        assert match_classes(predictor, dataset_of("dog", "cat")).tolist() == [1, 0]

    def test_another_class_list(self, predictor: Predictor) -> None:
        message = (
            "the data have classes 'Cat', 'bird', which the model does not know; "
            "it knows classes 'cat', 'crème brûlée', which the data do not have in holiday: name the classes as in"
        )
        with pytest.raises(DataError, match=message):
            match_classes(predictor, dataset_of("Cat", "bird", "dog"))

    def test_a_class_more(self, predictor: Predictor) -> None:
        with pytest.raises(DataError, match="the data have class 'owl', which the model does not know in holiday"):
            match_classes(predictor, dataset_of("cat", "dog", "crème brûlée", "owl"))

    def test_many_classes_are_not_all_listed(self, predictor: Predictor) -> None:
        with pytest.raises(DataError, match="'c4' and 95 more, which the model"):
            match_classes(predictor, dataset_of(*(f"c{i}" for i in range(100))))


class TestPredictionsFile:
    def splits(self) -> Any:
        rng = np.random.default_rng(1)
        return {
            "val": (rng.normal(size=(4, 3)).astype(np.float32), np.array([0, 1, 2, 0]), ["a", "b/ü.jpg", "日本", "d"]),
            "test": (rng.normal(size=(2, 3)).astype(np.float32), np.array([2, 2]), ["test/00001", "test/00002"]),
        }

    def test_round_trip(self, tmp_path: Path) -> None:
        splits = self.splits()
        write_predictions(tmp_path / "p.npz", splits)
        read = read_predictions(tmp_path / "p.npz")
        assert list(read) == ["val", "test"]
        for split, (logits, labels, ids) in splits.items():
            np.testing.assert_array_equal(read[split].logits, logits)
            np.testing.assert_array_equal(read[split].labels, labels)
            assert read[split].logits.dtype == np.float32
            assert read[split].labels.dtype == np.int64
            assert read[split].ids == ids

    def test_plain_numpy_reads_it_without_pickle(self, tmp_path: Path) -> None:
        write_predictions(tmp_path / "p.npz", self.splits())
        with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
            names = [f"{split}_{part}" for split in ("val", "test") for part in ("logits", "labels", "ids")]
            assert file.files == names
            assert file["val_ids"].dtype.kind == "U"

    def test_the_same_content_gives_the_same_bytes_and_nothing_is_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_predictions(tmp_path / "a.npz", self.splits())
        monkeypatch.setattr("time.time", lambda: 2e9)
        write_predictions(tmp_path / "b.npz", self.splits())
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]

    def test_lengths_and_names_are_checked(self, tmp_path: Path) -> None:
        logits, labels, ids = self.splits()["val"]
        for splits in ({"val": (logits, labels, ids[:2])}, {"dev": (logits, labels, ids)}):
            with pytest.raises(UsageError, match=r"split '(val|dev)' with logits \(4, 3\), 4 labels and [24] ids"):
                write_predictions(tmp_path / "p.npz", splits)  # type: ignore[arg-type]

    def test_a_folder_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="cannot write"):
            write_predictions(tmp_path / "gone" / "p.npz", self.splits())

    def test_damage_is_found(self, tmp_path: Path) -> None:
        path = tmp_path / "p.npz"
        write_predictions(path, self.splits())
        content = path.read_bytes()
        good = read_predictions(path)
        for place in range(len(content)):
            damaged = bytearray(content)
            damaged[place] ^= 1 << place % 8
            path.write_bytes(damaged)
            try:
                read = read_predictions(path)
            except RunError:
                continue
            # Bits that no reader looks at, such as the version of the program that packed the archive.
            for split, part in good.items():
                np.testing.assert_array_equal(read[split].logits, part.logits)
                assert read[split].ids == part.ids
        for length in (0, 10, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises(RunError, match=r"cannot read .*p\.npz: restore the file, or train again"):
                read_predictions(path)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match=r"cannot read \(No such file or directory\)"):
            read_predictions(tmp_path / "p.npz")

    def test_objects_are_not_unpickled(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "p.npz", val_logits=np.array([{}], dtype=object))
        with pytest.raises(RunError, match=r"cannot read .*pickle"):
            read_predictions(tmp_path / "p.npz")

    def test_other_files(self, tmp_path: Path) -> None:
        path = tmp_path / "p.npz"
        np.savez(path, x=np.zeros(3))
        with pytest.raises(RunError, match=r"not predictions of eyespot \(x\)"):
            read_predictions(path)
        with zipfile.ZipFile(path, "w"):
            pass
        with pytest.raises(RunError, match=r"not predictions of eyespot \(empty\)"):
            read_predictions(path)
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(3))
        for content in (buffer.getvalue(), b"PK is no archive"):
            path.write_bytes(content)
            with pytest.raises(RunError, match=r"cannot read \(File is not a zip file\)"):
                read_predictions(path)

    @pytest.mark.parametrize(
        ("logits", "labels", "ids"),
        [
            (np.zeros((2, 3), np.float32), None, None),
            (np.zeros((2, 3)), np.zeros(2, np.int64), ["a", "b"]),
            (np.zeros(2, np.float32), np.zeros(2, np.int64), ["a", "b"]),
            (np.zeros((2, 3), np.float32), np.zeros(2, np.int64), ["a"]),
            (np.zeros((2, 3), np.float32), np.zeros(2, np.int64), [1, 2]),
        ],
    )
    def test_arrays_that_do_not_belong_together(self, logits: Any, labels: Any, ids: Any, tmp_path: Path) -> None:
        arrays = {"val_logits": logits, "val_labels": labels, "val_ids": ids}
        np.savez(tmp_path / "p.npz", **{name: array for name, array in arrays.items() if array is not None})
        with pytest.raises(RunError, match="the arrays of val are not logits, labels and ids"):
            read_predictions(tmp_path / "p.npz")

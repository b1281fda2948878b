"""Pictures in, classes out: the same pixels as in training, every kind of picture, every kind of wrong call."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from eyespot.data.folders import read_folder
from eyespot.data.input_spec import InputSpec
from eyespot.data.loaders import make_loader
from eyespot.data.packing import pack_dataset
from eyespot.data.pictures import find_pictures, pixels_of
from eyespot.data.splits import Splits
from eyespot.data.transforms import EvalTransform
from eyespot.device import ComputePlan, is_memory_error
from eyespot.errors import (
    BadImageError,
    CheckpointError,
    DataError,
    MemoryLimitError,
    RunError,
    TrainingError,
    UsageError,
)
from eyespot.evaluation.bundle import load_bundle, save_bundle
from eyespot.evaluation.bundle_info import BundleInfo
from eyespot.evaluation.predictor import (
    ClassScore,
    Prediction,
    Predictor,
    best_classes,
    load_predictor,
)

CPU = ComputePlan("cpu", "float32", "a test")


def picture(seed: int, width: int = 20, height: int = 13, mode: str = "RGB") -> Image.Image:
    """Return a smooth coloured picture, different for each seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of class folders with pictures of many sizes, modes and formats."""
    folder = tmp_path / "photos"
    for label, name in enumerate(("cat", "crème brûlée", "dog")):
        (folder / name).mkdir(parents=True)
        for number, (suffix, mode, size) in enumerate(
            [
                ("jpg", "RGB", (20, 13)),
                ("png", "RGBA", (8, 8)),
                ("jpg", "L", (7, 40)),
                ("jpg", "CMYK", (31, 31)),
                ("gif", "P", (16, 9)),
                ("png", "I;16", (9, 9)),
                ("webp", "RGB", (64, 3)),
                ("png", "1", (5, 6)),
            ]
        ):
            image = picture(10 * label + number, *size, mode="RGB" if mode == "I;16" else mode)
            if mode == "I;16":
                image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
            exif = Image.Exif()
            exif[0x0112] = 1 + number % 8
            extra = {"exif": exif} if suffix == "jpg" else {}
            image.save(folder / name / f"{number}.{suffix}", **extra)
    return folder


class TestOneWayToTheModel:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("fit", ["squash", "crop", "pad", "short-side"])
    @pytest.mark.parametrize("interpolation", ["bilinear", "lanczos"])
    def test_the_same_file_gives_the_same_tensor_in_training_and_in_prediction(
        self,
        channels: Any,
        fit: Any,
        interpolation: Any,
        photos: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        new_info: Callable[..., BundleInfo],
    ) -> None:
        monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
        packed = pack_dataset(
            read_folder(photos, name="photos"), size_px=8, fit=fit, interpolation=interpolation, channels=channels
        )
        train = packed.splits["train"]
        splits = Splits(packed.fingerprint, {"train": {"train": np.arange(len(train))}})
        spec = InputSpec(8, channels, (0.5,) * channels, (0.25,) * channels, fit, interpolation)
        with make_loader(
            packed, splits, "train", batch_size=5, shuffle=False, seed=0, drop_last=False, device="cpu", workers=1
        ) as loader:
            in_training = torch.cat([EvalTransform(spec)(batch.images) for batch in loader.batches(0)])

        seen: list[torch.Tensor] = []

        class Recorder(nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                seen.append(images.clone())
                return torch.zeros(len(images), 3)

        predictor = Predictor(Recorder(), new_info(input=spec), CPU)
        paths = [photos / name for name in train.ids]
        assert len(paths) == 24
        predictor.predict(paths, batch_size=7)
        assert torch.equal(torch.cat(seen), in_training)
        # And the same once more from bytes and from opened pictures.
        for source in ([path.read_bytes() for path in paths], [Image.open(path) for path in paths]):
            seen.clear()
            predictor.predict(source)
            assert torch.equal(torch.cat(seen), in_training)
            for item in source:
                if isinstance(item, Image.Image):
                    item.close()

    def test_the_transform_is_the_class_of_training(self, predictor: Predictor) -> None:
        assert type(predictor.transform) is EvalTransform
        assert predictor.transform.spec == predictor.info.input

    def test_an_array_is_taken_as_the_picture_it_is(self, predictor: Predictor) -> None:
        rgb = picture(1)
        as_png = io.BytesIO()
        rgb.save(as_png, "png")
        probs = predictor.predict_probs([np.asarray(rgb), rgb, as_png.getvalue()])
        np.testing.assert_allclose(probs, np.broadcast_to(probs[0], probs.shape), rtol=1e-5)

    def test_arrays_of_grey_and_alpha(self, predictor: Predictor) -> None:
        grey = np.asarray(picture(1, mode="L"))
        rgba = np.asarray(picture(1, mode="RGBA"))
        probs = predictor.predict_probs([grey, grey[:, :, None], np.repeat(grey[:, :, None], 3, axis=2)])
        np.testing.assert_allclose(probs, np.broadcast_to(probs[0], probs.shape), rtol=1e-5)
        np.testing.assert_array_equal(predictor.predict_probs([rgba]), predictor.predict_probs([rgba[:, :, :3]]))
        turned = np.asarray(picture(1))[::-1, ::2]  # not contiguous
        np.testing.assert_array_equal(predictor.predict_probs([turned]), predictor.predict_probs([turned.copy()]))


class TestPredict:
    def test_answers_are_ordered_named_and_probable(self, predictor: Predictor, photos: Path) -> None:
        paths = find_pictures(photos)
        predictions = predictor.predict(paths, top_k=2)
        probs = predictor.predict_probs(paths)
        assert [prediction.source for prediction in predictions] == [str(path) for path in paths]
        assert len({prediction.label for prediction in predictions}) > 1
        for prediction, row in zip(predictions, probs, strict=True):
            assert prediction.error is None
            assert prediction.label == predictor.class_names[row.argmax()]
            assert prediction.prob == row.max()
            assert [score.prob for score in prediction.top] == sorted(row, reverse=True)[:2]
        np.testing.assert_allclose(probs.sum(axis=1), 1)

    def test_more_classes_than_there_are(self, predictor: Predictor) -> None:
        (prediction,) = predictor.predict([picture(1)], top_k=100)
        assert sorted(score.name for score in prediction.top) == sorted(predictor.class_names)

    def test_a_bad_picture_among_good_ones(self, predictor: Predictor, tmp_path: Path) -> None:
        good, text, cut, missing = (tmp_path / name for name in ("good.png", "text.jpg", "cut.png", "missing.jpg"))
        picture(1).save(good)
        text.write_text("hello")
        cut.write_bytes(good.read_bytes()[:60])
        found = predictor.predict([text, good, missing, cut, tmp_path, b"", good], batch_size=2)
        assert [prediction.error for prediction in found] == [
            "is a text file, not a picture",
            None,
            "does not exist",
            "is truncated",
            "is a folder, not a file",
            "is empty (0 bytes)",
            None,
        ]
        bad = found[0]
        assert (bad.label, bad.prob, bad.top) == (None, None, ())
        assert found[1].top == found[6].top
        assert found[5].source == "picture 6"
        with pytest.raises(BadImageError, match=r"does not exist in .*missing.jpg: leave it out, or use predict"):
            predictor.predict_probs([good, missing])

    def test_only_bad_pictures_and_no_pictures(self, predictor: Predictor) -> None:
        assert predictor.predict([b"x"])[0].error is not None
        assert predictor.predict([]) == []
        assert predictor.predict_probs([]).shape == (0, 3)

    def test_the_answer_does_not_depend_on_the_company(self, predictor: Predictor) -> None:
        pictures = [picture(seed) for seed in range(11)]
        alone = predictor.predict_probs(pictures, batch_size=1)
        for batch_size in (2, 3, 11, 100):
            np.testing.assert_allclose(predictor.predict_probs(pictures, batch_size=batch_size), alone, atol=1e-5)
        backwards = predictor.predict_probs(pictures[::-1])[::-1]
        np.testing.assert_allclose(backwards, alone, atol=1e-5)

    def test_as_json(self, predictor: Predictor) -> None:
        good, bad = predictor.predict([picture(1), b"no"])
        values = json.loads(json.dumps([good.as_dict(), bad.as_dict()], allow_nan=False))
        assert values[0]["top"][0] == {"name": good.label, "prob": good.prob}
        assert list(values[0]) == ["source", "label", "prob", "top", "unknown", "unknown_score", "error"]
        assert values[1]["label"] is None
        assert values[1]["top"] == []

    def test_views_are_the_models_own_unless_others_are_asked_for(
        self, new_info: Callable[..., BundleInfo], new_model: Callable[..., nn.Module]
    ) -> None:
        info = new_info(views="mirror")
        predictor = Predictor(new_model(info), info, CPU)
        given = picture(4)
        mirrored = given.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        np.testing.assert_allclose(*(predictor.predict_probs([p]) for p in (given, mirrored)), atol=1e-6)
        plain = [predictor.predict_probs([p], views="none") for p in (given, mirrored)]
        assert np.abs(np.log(plain[0]) - np.log(plain[1])).max() > 0.1
        assert predictor.predict([given], views="none")[0].prob == plain[0].max()
        with pytest.raises(UsageError, match="unknown views 'al'"):
            predictor.predict([given], views="al")  # type: ignore[arg-type]

    def test_temperature_softens(self, predictor: Predictor) -> None:
        soft = Predictor(predictor.model, predictor.info.model_copy(update={"temperature": 2.0}), CPU)
        given = predictor.predict_probs([picture(4)])
        expected = np.sqrt(given) / np.sqrt(given).sum()
        np.testing.assert_allclose(soft.predict_probs([picture(4)]), expected)

    @pytest.mark.parametrize("temperature", [0.05, 0.5, 20.0])
    def test_no_temperature_changes_an_answer(self, temperature: float, predictor: Predictor) -> None:
        other = Predictor(predictor.model, predictor.info.model_copy(update={"temperature": temperature}), CPU)
        pictures = [picture(number) for number in range(20)]
        first, second = (
            [[score.name for score in answer.top] for answer in one.predict(pictures, top_k=3)]
            for one in (predictor, other)
        )
        assert first == second

    def test_classes_are_ranked_by_logits_where_probabilities_are_equal(self) -> None:
        best = best_classes(("a", "b"), np.array([0.5, 0.5]), np.array([1.0, 2.0], np.float32), 2)
        assert [score.name for score in best] == ["b", "a"]

    def test_progress(self, predictor: Predictor) -> None:
        told: list[tuple[int, int]] = []
        predictor.predict([picture(1)] * 5, batch_size=2, progress=lambda done, total: told.append((done, total)))
        assert told == [(2, 5), (4, 5), (5, 5)]

    def test_bf16_gives_float32_logits_near_by(self, predictor: Predictor) -> None:
        half = Predictor(predictor.model, predictor.info, ComputePlan("cpu", "bf16", "a test"))
        pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
        logits = half.batch_logits(pixels)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, predictor.batch_logits(pixels), atol=0.05, rtol=0.05)

    def test_a_model_in_training_mode_is_put_in_eval_mode(
        self, new_info: Callable[..., BundleInfo], new_model: Callable[..., nn.Module]
    ) -> None:
        model = new_model(new_info()).train()
        assert not Predictor(model, new_info(), CPU).model.training


class TestWrongCalls:
    @pytest.mark.parametrize(
        "single", ["cat.jpg", Path("cat.jpg"), b"123", picture(1), np.zeros((4, 4, 3), np.uint8), None, 3]
    )
    def test_one_picture_instead_of_a_list(self, single: Any, predictor: Predictor) -> None:
        with pytest.raises(UsageError, match=r"where a list of pictures is needed: put it in a list: \[picture\]"):
            predictor.predict(single)

    @pytest.mark.parametrize(
        ("item", "problem"),
        [
            (np.zeros((4, 4, 3)), "an array of type float64, which looks as if it were already normalised: give uint8"),
            (np.zeros((4, 4, 3), np.float32), "float32, which looks as if it were already normalised"),
            (np.zeros((4, 4, 3), np.int64), "an array of type int64: give uint8 pixels"),
            (np.zeros((3, 9, 9), np.uint8), r"shape \(3, 9, 9\) is not a picture; colours come last"),
            (np.zeros((9, 9, 2), np.uint8), r"shape \(9, 9, 2\) is not a picture: give paths"),
            (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\) is not a picture"),
            (np.zeros(4, np.uint8), r"shape \(4,\) is not a picture"),
            (torch.zeros(3, 4, 4), "picture 2 is a Tensor: give paths, bytes"),
            (None, "picture 2 is a NoneType"),
            (7, "picture 2 is a int"),
        ],
    )
    def test_what_is_no_picture(self, item: Any, problem: str, predictor: Predictor) -> None:
        with pytest.raises(UsageError, match=problem):
            predictor.predict([picture(1), item])

    def test_a_batch_of_arrays_is_a_list_of_pictures(self, predictor: Predictor) -> None:
        batch = np.random.default_rng(0).integers(0, 256, (3, 9, 9, 3), dtype=np.uint8)
        np.testing.assert_array_equal(predictor.predict_probs(batch), predictor.predict_probs(list(batch)))

    @pytest.mark.parametrize("keyword", ["top_k", "batch_size"])
    @pytest.mark.parametrize("number", [0, 2.5, "3", None])
    def test_what_is_no_whole_number_from_one(self, keyword: str, number: Any, predictor: Predictor) -> None:
        with pytest.raises(UsageError, match=f"{keyword} is {number!r}: use a whole number, 1 or more"):
            predictor.predict([picture(1)], **{keyword: number})

    def test_a_closed_pillow_image_is_not_called_damaged_alone(self, predictor: Predictor, tmp_path: Path) -> None:
        picture(1).save(tmp_path / "cat.png")
        with Image.open(tmp_path / "cat.png") as closed:
            pass
        assert predictor.predict([closed])[0].error == "is a Pillow image that is closed or damaged"

    def test_pixels_of_another_size(self, predictor: Predictor) -> None:
        with pytest.raises(DataError, match=r"pixels of shape \(2, 3, 9, 9\)"):
            predictor.batch_logits(torch.zeros(2, 3, 9, 9, dtype=torch.uint8))


class Failing(nn.Module):
    """A model that raises, or answers NaN."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.error is not None:
            raise self.error
        return torch.full((len(images), 3), float("nan"))


class TestWhenTheModelFails:
    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried"),
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        ],
    )
    def test_no_memory_for_a_single_picture_is_said(
        self, error: Exception, new_info: Callable[..., BundleInfo]
    ) -> None:
        predictor = Predictor(Failing(error), new_info(), CPU)
        with pytest.raises(MemoryLimitError, match=r"no memory left for one image in device cpu: close other programs"):
            predictor.predict([picture(1)] * 10)

    def test_where_memory_is_short_fewer_are_answered_at_once(self, predictor: Predictor) -> None:
        pictures = [picture(number) for number in range(11)]
        expected, seen = predictor.predict(pictures), []

        class Short(nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                seen.append(len(images))
                if len(images) > 3:
                    raise MemoryError
                return predictor.model(images)  # type: ignore[no-any-return]

        short = Predictor(Short(), predictor.info, CPU)
        assert [answer.label for answer in short.predict(pictures)] == [answer.label for answer in expected]
        assert max(number for number in seen if number <= 3) == 3

    def test_other_errors_are_not_hidden(self, new_info: Callable[..., BundleInfo]) -> None:
        assert not is_memory_error(RuntimeError("shapes do not fit"))
        with pytest.raises(RuntimeError, match="shapes do not fit"):
            Predictor(Failing(RuntimeError("shapes do not fit")), new_info(), CPU).predict([picture(1)])

    def test_nan_is_not_a_class(self, new_info: Callable[..., BundleInfo]) -> None:
        with pytest.raises(TrainingError, match="NaN or infinity for 1 of 1 images"):
            Predictor(Failing(None), new_info(), CPU).predict([picture(1)])


class TestLoad:
    def test_a_bundle_and_a_run_answer_as_the_model_did(
        self, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = tmp_path / "run"
        save_bundle(run / "bundle", predictor.model, predictor.info)
        (run / "config.toml").write_text("")
        expected = predictor.predict_probs([picture(1), picture(2)])
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        for path in (run, run / "bundle", str(run), "~/run"):
            loaded = load_predictor(path, device="cpu")
            same = Predictor(loaded.model, loaded.info, CPU)  # the machine may have bf16
            np.testing.assert_array_equal(same.predict_probs([picture(1), picture(2)]), expected)

    def test_what_is_neither(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match=r"no such folder in .*nowhere: give a folder that eyespot train wrote"):
            load_predictor(tmp_path / "nowhere")
        with pytest.raises(RunError, match=r"neither a run nor a bundle: no bundle/model\.json and no model\.json"):
            load_predictor(tmp_path)
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match="not a folder"):
            load_predictor(tmp_path / "file")

    def test_a_run_without_a_model_yet(self, tmp_path: Path) -> None:
        (tmp_path / "config.toml").write_text("")
        with pytest.raises(RunError, match=r"the run has no model yet .*: finish it: eyespot train --out .* --resume"):
            load_predictor(tmp_path)

    def test_a_damaged_bundle_in_a_run(self, bundle: Path) -> None:
        (bundle / "model.json").unlink()
        with pytest.raises(CheckpointError, match=r"cannot read .*model\.json"):
            load_predictor(bundle.parent)

    def test_an_unknown_device(self, bundle: Path) -> None:
        with pytest.raises(UsageError, match="unknown device 'tpu'"):
            load_predictor(bundle, device="tpu")

    def test_the_gpu_is_told_how_to_compute(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[ComputePlan] = []
        monkeypatch.setattr("eyespot.evaluation.predictor.choose_kernels", told.append)
        assert load_predictor(bundle, device="cpu").plan == told[0]

    def test_the_bundle_alone_is_enough(self, bundle: Path) -> None:
        model, info = load_bundle(bundle)
        assert Predictor(model, info, CPU).predict([picture(1)])[0].error is None


def test_an_array_of_paths_is_a_list_of_them(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture(1).save(path)
    (answer,) = predictor.predict([path])
    for paths in (np.array([str(path)]), np.array([path], dtype=object)):  # a column of a table comes as the second
        assert predictor.predict(paths) == [answer]  # type: ignore[arg-type]


def test_a_predictor_can_be_copied_and_sent_to_another_process(predictor: Predictor) -> None:
    pictures = [picture(seed) for seed in range(3)]
    answers = predictor.predict(pictures)
    for other in (pickle.loads(pickle.dumps(predictor)), copy.deepcopy(predictor)):
        assert other.predict(pictures) == answers


def test_predictions_do_not_change() -> None:
    prediction = Prediction("x", (ClassScore("cat", 0.5),))
    with pytest.raises(dataclasses.FrozenInstanceError):
        prediction.source = "y"  # type: ignore[misc]


def test_pictures_decoded_elsewhere_get_the_same_answers(predictor: Predictor) -> None:
    pictures = [picture(seed) for seed in range(3)]
    pixels = [pixels_of(image, predictor.info.input) for image in pictures]
    assert predictor.predict_pixels(pixels, top_k=2) == predictor.predict(pictures, top_k=2)
    assert predictor.predict_pixels([]) == []

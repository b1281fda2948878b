"""The model that comes with eyespot: what its card says is what it does, with no training and no network."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import eyespot
from eyespot.deployment.engine import open_engine
from eyespot.evaluation.bundle import boxed_names, find_bundle, read_info

NAME = "spot-cifar10"


@pytest.fixture(scope="module")
def predictor() -> eyespot.Predictor:
    return eyespot.load(NAME, device="cpu")


def test_it_is_there_and_small() -> None:
    assert boxed_names() == [NAME]
    folder = find_bundle(NAME)
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    assert set(sizes) == {"model.json", "weights.safetensors", "unknown.safetensors", "README.md"}
    assert sum(sizes.values()) < 5_000_000
    info = read_info(folder)
    assert " ".join(info.class_names) == "airplane automobile bird cat deer dog frog horse ship truck"
    assert info.temperature != 1
    assert info.unknown is not None


def test_its_card_says_on_which_pixels_and_how_good() -> None:
    folder = find_bundle(NAME)
    card = (folder / "README.md").read_text(encoding="utf-8")
    test = read_info(folder).metrics["test"]
    assert "JPEG" in card
    assert f"Accuracy: {100 * test.top1:.1f} %" in card
    assert f"n = {test.n:,}" in card


def test_photographs_are_answered(predictor: eyespot.Predictor) -> None:
    answers = predictor.predict(load_sample_images().images)
    assert len(answers) == 2
    assert all(answer.error is None and answer.unknown is not None for answer in answers)


def test_it_explains_and_is_served_by_its_name(tmp_path: Path) -> None:
    photo = load_sample_images().images[0]
    Image.fromarray(photo).save(tmp_path / "temple.png")
    (found,) = eyespot.explain(NAME, [tmp_path / "temple.png"], out=tmp_path / "why.html")
    assert (found.prediction.error, set(found.heat)) == (None, {"gradcam"})
    assert "temple.png" in (tmp_path / "why.html").read_text(encoding="utf-8")
    engine = open_engine(NAME, device="cpu", engine="torch")
    (served,) = engine.predict([engine.decode((tmp_path / "temple.png").read_bytes())], top_k=3)
    assert [score.name for score in served.top] == [score.name for score in found.prediction.top[:3]]


@pytest.mark.slow
def test_it_is_exported_by_its_name(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    found = eyespot.export(NAME, out=tmp_path)
    assert found.path == tmp_path / "model.onnx"
    assert found.difference is not None
    assert found.difference < 1e-4


@pytest.mark.real
def test_real_pictures_are_known_as_the_card_says(predictor: eyespot.Predictor, real_data: Path) -> None:
    pictures, truth = [], []
    with tarfile.open(next(real_data.glob("cifar10*.tar.xz")), "r|xz") as archive:
        for member in archive:
            kind, _, path = member.name.partition("/")[2].partition("/")
            if kind == "test" and path.endswith("5.jpg"):  # each tenth
                pictures.append(archive.extractfile(member).read())  # type: ignore[union-attr]
                truth.append(path.partition("/")[0])
            if kind != "test" and pictures:
                break
    assert len(pictures) == 1000
    answers = predictor.predict(pictures)
    right = np.mean([answer.label == name for answer, name in zip(answers, truth, strict=True)])
    expected = predictor.info.metrics["test"].top1
    assert abs(right - expected) < 4 * np.sqrt(expected * (1 - expected) / len(pictures))

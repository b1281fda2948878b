"""ONNX Runtime as the engine: the answers of predict, heat maps beside it, and files that strangers made."""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from PIL import Image

import eyespot
from eyespot.deployment import engine as engine_module
from eyespot.deployment.engine import OnnxEngine, TorchEngine, open_engine
from eyespot.deployment.export import export_onnx, sample_pictures
from eyespot.deployment.limits import Limits
from eyespot.device import ComputePlan
from eyespot.errors import CheckpointError, EyespotError, MissingExtraError, ModelError, RunError, UsageError

from .test_export import write_bundle
from .test_server import RAW, Running, png


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", rule=True, views="mirror")


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Any:
    return open_engine(bundle, device="cpu")


@pytest.fixture(scope="module")
def file(engine: OnnxEngine) -> Path:
    return engine._file.path


@pytest.fixture(scope="module")
def client(engine: Any) -> Iterator[httpx.Client]:
    server = Running(engine, Limits())
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client
    server.close()


def photo(number: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(sample_pictures()[number]).save(buffer, "PNG")
    return buffer.getvalue()


class TestAnswers:
    def test_they_are_those_of_predict_in_float32(self, engine: OnnxEngine, bundle: Path) -> None:
        assert isinstance(engine, OnnxEngine)
        loaded = eyespot.load(bundle, device="cpu")
        predictor = eyespot.Predictor(
            loaded.model, loaded.info, ComputePlan("cpu", "float32", "a test"), loaded.unknown
        )
        pictures = [engine.decode(photo(number)) for number in range(12)]
        expected = predictor.predict_pixels(pictures, top_k=3)
        for found in (engine.predict(pictures, top_k=3), [engine.predict([one], top_k=3)[0] for one in pictures]):
            for own, other in zip(found, expected, strict=True):
                assert [score.name for score in own.top] == [score.name for score in other.top]
                np.testing.assert_allclose([s.prob for s in own.top], [s.prob for s in other.top], atol=1e-6)
                assert own.unknown_score == pytest.approx(other.unknown_score, rel=1e-4, abs=1e-4)
                assert own.unknown == other.unknown
        assert engine.predict([], top_k=1) == []

    def test_over_http_with_what_is_unknown(self, client: httpx.Client, bundle: Path) -> None:
        found = client.post("/v1/predict", content=photo(), headers=RAW).json()["predictions"][0]
        expected = eyespot.load(bundle, device="cpu").predict([photo()])[0]
        assert (found["label"], found["unknown"]) == (expected.label, expected.unknown)
        assert found["prob"] == pytest.approx(expected.prob, abs=0.05)  # predict may compute in bf16
        assert found["unknown_score"] == pytest.approx(expected.unknown_score, rel=0.05)
        assert "heatmap" not in found
        model = client.get("/v1/model").json()
        assert model["engine"].startswith("onnxruntime ")
        assert model["engine"].endswith(", cpu, float32")
        assert set(model["unknown"]) == {"threshold", "fraction", "n"}

    def test_grey(self, tmp_path: Path) -> None:
        from eyespot.data.input_spec import InputSpec

        bundle = write_bundle(tmp_path / "grey", channels=1, input=InputSpec(16, 1, (0.5,), (0.25,), "pad", "bicubic"))
        engine = open_engine(bundle, device="cpu", engine="onnx")
        pixels = engine.decode(photo())
        assert pixels.shape == (16, 16, 1)
        expected = eyespot.load(bundle, device="cpu").predict([photo()])[0]
        assert engine.predict([pixels], top_k=1)[0].prob == pytest.approx(expected.prob, abs=0.02)


class TestHeatMaps:
    def test_with_the_run_at_hand(self, client: httpx.Client) -> None:
        files = [("file", ("a.png", photo())), ("file", ("b.png", b"no picture"))]
        found = client.post("/v1/predict?explain=true", files=files)
        assert found.status_code == 200, found.text
        good, bad = found.json()["predictions"]
        assert "heatmap" not in bad
        heat = good["heatmap"]
        assert (heat["label"], heat["method"]) == (good["label"], "gradcam")
        assert heat["check"] is None or 0 <= heat["check"]["prob_covered"] <= 1
        kind, _, data = heat["image"].partition(",")
        assert kind == "data:image/png;base64"
        assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) == 240
        assert client.get("/v1/model").json()["explain"] is True

    def test_a_file_alone_has_none(self, file: Path) -> None:
        server = Running(open_engine(file), Limits())
        try:
            with httpx.Client(base_url=server.url, timeout=20) as client:
                assert client.post("/v1/predict", content=photo(), headers=RAW).status_code == 200
                refused = client.post("/v1/predict?explain=true", content=photo(), headers=RAW)
                assert refused.status_code == 501
                assert refused.json()["remedy"] == "leave explain out, or serve the run instead of a file"
                assert client.get("/v1/model").json()["explain"] is False
        finally:
            server.close()

    def test_a_network_without_places(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        engine: Any = open_engine(bundle, device="cpu", engine="torch")

        def explain(data: bytes, label: str) -> Any:
            raise ModelError("no layer of the network has places that could be hot or cold")

        monkeypatch.setattr(engine, "explain", explain)
        server = Running(engine, Limits())
        try:
            refused = httpx.post(f"{server.url}/v1/predict?explain=1", content=png(), headers=RAW)
            assert refused.status_code == 501
            assert refused.json()["what"].startswith("no layer of the network")
        finally:
            server.close()


class TestChoice:
    def test_the_file_is_made_once(self, bundle: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        said: list[str] = []
        assert file.is_relative_to(os.environ["EYESPOT_CACHE"])
        monkeypatch.setattr(engine_module, "export_onnx", lambda *args, **kwargs: pytest.fail("made again"))
        assert isinstance(open_engine(bundle, device="cpu", say=said.append), OnnxEngine)
        assert said == []

    def test_torch_when_asked_for(self, bundle: Path) -> None:
        assert isinstance(open_engine(bundle, engine="torch"), TorchEngine)

    def test_torch_where_the_model_cannot_be_exported(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise MissingExtraError("onnxscript", "export")

        monkeypatch.setattr(engine_module, "exported", refuse)
        said: list[str] = []
        assert isinstance(open_engine(bundle, device="cpu", say=said.append), TorchEngine)
        assert len(said) == 1
        assert said[0].startswith(
            "torch answers, because ONNX Runtime cannot: package 'onnxscript' is not installed: pip"
        )
        with pytest.raises(MissingExtraError):
            open_engine(bundle, device="cpu", engine="onnx")

    def test_a_damaged_file_in_the_cache_is_made_again(
        self, file: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = file.read_bytes()
        monkeypatch.setattr(engine_module, "export_onnx", lambda folder, path, **kwargs: path.write_bytes(content))
        file.write_bytes(content[: len(content) // 2])
        said: list[str] = []
        try:
            assert isinstance(open_engine(bundle, device="cpu", say=said.append), OnnxEngine)
        finally:
            file.write_bytes(content)
        assert said == ["exporting the model to ONNX and comparing it, once"]

    def test_a_damaged_bundle_is_refused_whatever_the_cache_holds(self, bundle: Path, tmp_path: Path) -> None:
        damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
        content = bytearray((damaged / "weights.safetensors").read_bytes())
        content[-1] ^= 1
        (damaged / "weights.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match="weights are damaged"):
            open_engine(damaged, device="cpu")

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            ({"engine": "onxx"}, r"unknown engine 'onxx'. Did you mean 'onnx'\?: use auto, onnx, torch"),
            ({"device": "tpu"}, "unknown device 'tpu'"),
        ],
    )
    def test_wrong_use(self, bundle: Path, options: dict[str, str], line: str) -> None:
        with pytest.raises(UsageError, match=line):
            open_engine(bundle, **options)

    def test_a_file_with_torch(self, file: Path) -> None:
        with pytest.raises(UsageError, match=r"an ONNX file with --engine torch in .*: serve the run"):
            open_engine(file, engine="torch")


def changed(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        model = onnx.load_model_from_string(content)
        change(model)
        return bytes(model.SerializeToString())

    return apply


def metadata(key: str, value: str | None) -> Callable[[bytes], bytes]:
    def change(model: Any) -> None:
        kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != key}
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, kept if value is None else {**kept, key: value})

    return changed(change)


def weights_in(location: str) -> Callable[[bytes], bytes]:
    def change(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return changed(change)


def endless(model: Any) -> None:
    model.graph.node[-1].op_type = "Loop"


def other_outputs(model: Any) -> None:
    model.graph.output[0].name = "answers"


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], type[EyespotError], str]] = {
    "empty": (lambda content: b"", ModelError, "not an ONNX file, or a damaged one"),
    "text": (lambda content: b"hello", ModelError, "not an ONNX file, or a damaged one"),
    "a picture": (lambda content: png(), ModelError, "not an ONNX file, or a damaged one"),
    "cut": (lambda content: content[: len(content) // 2], ModelError, "not an ONNX file, or a damaged one"),
    "a damaged graph": (changed(lambda m: m.graph.node[5].ClearField("input")), ModelError, "cannot open the file"),
    "without class names": (metadata("class_names", None), ModelError, "it does not name its classes"),
    "class names of numbers": (metadata("class_names", "[1, 2, 3]"), ModelError, "it does not name its classes"),
    "a class that is a path": (metadata("class_names", '["a", "../b", "c"]'), ModelError, "is a path"),
    "other classes": (
        metadata("class_names", '["a", "b"]'),
        ModelError,
        r"its answers have the shape \[2, 3\], its class names ask for \[2, 2\]",
    ),
    "deep metadata": (metadata("class_names", "[" * 100_000), ModelError, "it does not name its classes"),
    "long metadata": (metadata("x", "y" * 5_000_000), ModelError, "its metadata are too long"),
    "without preparation": (metadata("input_spec", None), ModelError, "it does not say how pictures are prepared"),
    "huge images": (metadata("input_spec", '{"size_px": 100000000}'), ModelError, "not a classifier that eyespot"),
    "no threshold": (metadata("unknown_threshold", None), ModelError, "has no threshold for them"),
    "NaN threshold": (metadata("unknown_threshold", "nan"), ModelError, "has no threshold for them"),
    "a loop": (changed(endless), ModelError, "it has a Loop, which may never end"),
    "weights elsewhere": (weights_in("/etc/passwd"), ModelError, "which is not a file beside it"),
    "weights above": (weights_in("../weights"), ModelError, "which is not a file beside it"),
    "weights by a link": (weights_in("link"), ModelError, "which is not a file beside it"),
    "missing weights": (weights_in("none"), ModelError, "its weights are missing: 'none'"),
    "other outputs": (
        changed(other_outputs),
        ModelError,
        "not a classifier that eyespot exported|cannot open the file",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_not_ours_ends_in_one_line(name: str, file: Path, tmp_path: Path) -> None:
    make, kind, line = HOSTILE[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(make(file.read_bytes()))
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(kind, match=line) as caught:
        open_engine(path)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_no_file_and_a_missing_package(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=r"cannot read the file \(No such file or directory\)"):
        open_engine(tmp_path / "none.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"'onnx' is not installed: pip install \"eyespot\[serve\]\""):
        open_engine(file)


def test_8_bits(bundle: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eyespot.deployment import export as export_module
    from eyespot.deployment.export import Labelled

    monkeypatch.setattr(export_module, "MOST_LOST_TOP1", 1.0)  # a random network has nothing to lose
    monkeypatch.setattr(export_module, "MOST_MOVED_REFUSALS", 1.0)
    monkeypatch.setattr(export_module, "_write_onnx", lambda _, path: shutil.copyfile(file, path))
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    labelled = Labelled(images, np.zeros(16, np.int64), "val")
    path = tmp_path / "model-int8.onnx"
    export_onnx(bundle, path, pictures=[], int8=True, calibration=images, labelled=labelled)
    small = open_engine(path)
    assert small.describe()["engine"].endswith(", int8")
    assert small.predict([small.decode(photo())], top_k=1)[0].unknown_score is not None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("gone", "the model that answers is no longer in its folder"),
        ("another", "another model is in the folder of the one that answers"),
    ],
)
def test_a_run_that_went_or_was_trained_again_explains_nothing(change: str, told: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    server = Running(open_engine(folder, engine="torch", device="cpu"), Limits())
    try:
        shutil.rmtree(folder)
        if change == "another":
            write_bundle(folder, temperature=0.5)
        found = httpx.post(f"{server.url}/v1/predict?explain=true", content=png(), headers=RAW, timeout=60)
        assert (found.status_code, found.json()["what"]) == (501, told)
        assert found.json()["remedy"] == "start the server again"
        assert httpx.post(f"{server.url}/v1/predict", content=png(), headers=RAW, timeout=60).status_code == 200
    finally:
        server.close()

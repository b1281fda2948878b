"""Exported files: the same answers as the predictor, nothing half-written, and clear refusals."""

from __future__ import annotations

import errno
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eyespot
from eyespot import cli
from eyespot.data.input_spec import InputSpec
from eyespot.deployment import export as export_module
from eyespot.deployment.export import Exported, export_bundle, export_onnx, export_torch, open_session, sample_pictures
from eyespot.errors import (
    CheckpointError,
    DataError,
    MemoryLimitError,
    MissingExtraError,
    ModelError,
    RunError,
    UsageError,
)
from eyespot.evaluation.bundle import load_bundle, save_bundle
from eyespot.evaluation.bundle_info import Architecture, BundleInfo, Provenance
from eyespot.evaluation.unknown import UnknownScore, num_pixel_statistics
from eyespot.models.registry import build_model
from eyespot.runs import Run

NAMES = ("cat", 'dog "x", ünï\u202e', "eel/二")


def write_bundle(
    folder: Path, name: str = "spot", size: int = 32, *, channels: int = 3, rule: bool = False, **changes: Any
) -> Path:
    """Write a bundle of a network with random weights whose answers depend on the picture."""
    args = changes.pop("args", {"widths": [4, 6, 8]} if name == "spot" else {})
    values: dict[str, Any] = {
        "architecture": Architecture(name=name, args=args),
        "num_classes": 3,
        "class_names": NAMES,
        "input": InputSpec(size, channels, (0.5,) * channels, (0.25,) * channels, "crop", "bilinear"),
        "temperature": 1.7,
        "provenance": Provenance(
            recipe="fast", dataset="photos", dataset_fingerprint="f", seed=1, created="2026", train_seconds=1.0
        ),
    }
    info = BundleInfo(**{**values, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(
            name, num_classes=3, in_channels=channels, size_px=info.input.input_px, args=info.architecture.args
        )
    score = None
    if rule:
        dice = np.random.default_rng(3)
        width = num_pixel_statistics(channels, info.input.input_px)
        features = dice.random((60, int(model.num_features)), np.float32)  # type: ignore[call-overload]
        score = UnknownScore.from_rows(features, dice.normal(0, 1, (60, width)).astype(np.float32), num_classes=3)
        score, known = score.fitted_to(dice.normal(0, 1, (200, 3)).astype(np.float32), 0.05)
        info = info.model_copy(update={"unknown": known})
    save_bundle(folder, model.eval(), info, unknown=score)
    return folder


def few() -> list[Any]:
    return [picture for picture in sample_pictures() if max(picture.shape) <= 230][::3]


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("onnx")
    bundle = write_bundle(here / "bundle", views="mirror-shift")
    found = export_onnx(bundle, here / "model.onnx", pictures=sample_pictures())
    assert found.difference is not None
    assert found.difference < 1e-5
    assert "probabilities differ by at most" in found.describe()
    return found.path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A file with a rule for unknown pictures; its bundle is beside it."""
    here = tmp_path_factory.mktemp("written")
    bundle = write_bundle(here / "bundle", rule=True, views="mirror-shift")
    return export_onnx(bundle, here / "model.onnx", pictures=few())


@pytest.fixture
def traced(written: Exported, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle of `written`, with its file at hand: tracing the network takes seconds."""
    monkeypatch.setattr(export_module, "_write_onnx", lambda _, path: shutil.copyfile(written.path, path))
    return written.path.parent / "bundle"


class TestOnnx:
    def test_every_size_and_batch_and_the_temperature(self, onnx_file: Path) -> None:
        session = open_session(onnx_file)
        predictor = eyespot.load(onnx_file.parent / "bundle", device="cpu")
        dice = np.random.default_rng(1)
        for shape in ((1, 1, 1, 3), (2, 5, 300, 3), (3, 300, 5, 3), (4, 32, 32, 3)):
            images = dice.integers(0, 256, shape, dtype=np.uint8)
            probs, logits = session.run(["probs", "logits"], {"images": images})
            scaled = np.exp(logits / predictor.info.temperature)
            np.testing.assert_allclose(probs, scaled / scaled.sum(1, keepdims=True), rtol=1e-4)
            plan = export_module.ComputePlan("cpu", "float32", "a test")
            own = eyespot.Predictor(predictor.model, predictor.info, plan).predict_probs(list(images))
            np.testing.assert_allclose(probs, own, atol=1e-5)

    def test_onnx_runtime_does_not_report_home(self, onnx_file: Path, tmp_path: Path) -> None:
        code = (
            "import sys, pathlib; from eyespot.deployment.export import open_session as o; o(pathlib.Path(sys.argv[1]))"
        )
        kept = {"PATH", "LD_LIBRARY_PATH", "PYTHONPATH"}  # nothing that marks a machine for tests: there it is silent
        environment = {name: os.environ[name] for name in kept & set(os.environ)} | {"HOME": str(tmp_path)}
        subprocess.run([sys.executable, "-c", code, str(onnx_file)], check=True, env=environment)
        assert not list(tmp_path.rglob("deviceid")), "what it sends is marked with this"

    def test_it_says_what_it_is(self, onnx_file: Path) -> None:
        session = open_session(onnx_file)
        told = session.get_modelmeta().custom_metadata_map
        assert tuple(json.loads(told["class_names"])) == NAMES
        assert "uint8 RGB" in told["input"]
        assert told["views"] == "mirror-shift"
        assert json.loads(told["provenance"])["dataset"] == "photos"
        assert {"licence", "temperature", "weights_sha256", "metrics"} <= set(told)
        (entry,) = session.get_inputs()
        assert (entry.name, entry.type, entry.shape) == ("images", "tensor(uint8)", ["batch", "height", "width", 3])
        assert [(o.name, o.shape) for o in session.get_outputs()] == [("probs", ["batch", 3]), ("logits", ["batch", 3])]

    def test_it_runs_with_nothing_of_eyespot(self, onnx_file: Path, tmp_path: Path) -> None:
        example = Path(__file__).parents[2] / "examples" / "classify.py"
        from PIL import Image

        Image.fromarray(sample_pictures()[1]).save(tmp_path / "photo.png")
        code = f"import sys; sys.modules['eyespot'] = sys.modules['torch'] = None; exec(open({str(example)!r}).read())"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, str(onnx_file), str(tmp_path / "photo.png")],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            check=True,
        )
        assert any(done.stdout.startswith(name) for name in NAMES), done.stdout

    def test_the_example_sees_what_predict_sees_of_a_transparent_picture(
        self, onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from PIL import Image

        pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 4), np.uint8)
        pixels[5:, :, 3] //= 8
        Image.fromarray(pixels).save(tmp_path / "transparent.png")
        predictor = eyespot.load(onnx_file.parent / "bundle", device="cpu")
        plan = export_module.ComputePlan("cpu", "float32", "a test")
        own = eyespot.Predictor(predictor.model, predictor.info, plan)
        over_white = own.predict([tmp_path / "transparent.png"])[0]
        assert f"{over_white.prob:.1%}" != f"{own.predict([pixels[..., :3]])[0].prob:.1%}"
        monkeypatch.setattr(sys, "argv", ["classify.py", str(onnx_file), str(tmp_path / "transparent.png")])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(Path(__file__).parents[2] / "examples" / "classify.py"))
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith(f"{over_white.label} {over_white.prob:.1%}")

    def test_the_example_sees_what_predict_sees_of_grey_of_16_bits_and_refuses_floating_point(
        self, onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from PIL import Image

        grey = np.random.default_rng(0).integers(0, 65536, (40, 30), np.uint16)
        Image.fromarray(grey).save(tmp_path / "deep.png")
        Image.fromarray(grey.astype(np.float32)).save(tmp_path / "float.tif")
        predictor = eyespot.load(onnx_file.parent / "bundle", device="cpu")
        own = eyespot.Predictor(predictor.model, predictor.info, export_module.ComputePlan("cpu", "float32", "a test"))
        wanted = own.predict([tmp_path / "deep.png"])[0]
        cut_off = np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
        assert f"{wanted.prob:.1%}" != f"{own.predict([cut_off])[0].prob:.1%}"
        pictures = [str(tmp_path / name) for name in ("deep.png", "float.tif")]
        monkeypatch.setattr(sys, "argv", ["classify.py", str(onnx_file), *pictures])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(Path(__file__).parents[2] / "examples" / "classify.py"))
        assert end.value.code == 1
        told = capsys.readouterr()
        assert told.out == f"{wanted.label} {wanted.prob:.1%}  {pictures[0]}\n"
        assert "floating-point" in told.err

    def test_the_example_names_what_is_no_picture_and_answers_the_others(
        self, onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from PIL import Image

        def classify(*arguments: str) -> Any:
            monkeypatch.setattr(sys, "argv", ["classify.py", *arguments])
            with pytest.raises(SystemExit) as end:
                runpy.run_path(str(Path(__file__).parents[2] / "examples" / "classify.py"))
            return end.value.code

        Image.fromarray(sample_pictures()[1]).save(tmp_path / "photo.png")
        (tmp_path / "notes.jpg").write_text("no picture")
        (tmp_path / "cut.png").write_bytes((tmp_path / "photo.png").read_bytes()[:200])
        wrong = [str(tmp_path / name) for name in ("notes.jpg", "cut.png", "missing.png", ".")]
        assert classify(str(onnx_file), *wrong, str(tmp_path / "photo.png")) == 1
        told = capsys.readouterr()
        assert len(told.out.splitlines()) == 1
        assert "photo.png" in told.out
        lines = told.err.splitlines()
        assert [path for path, line in zip(wrong, lines, strict=True) if not line.startswith(f"error: {path} ")] == []
        assert classify() == "usage: python classify.py model.onnx PICTURE..."
        for path in (tmp_path / "photo.png", tmp_path / "missing.onnx", tmp_path):
            assert classify(str(path), wrong[0]).startswith(f"error: no file of `eyespot export` in {path}: make one")

    @pytest.mark.parametrize("name", ["spot", "convnet3"])
    def test_it_says_what_is_unknown(self, name: str, written: Exported, tmp_path: Path) -> None:
        bundle, found = written.path.parent / "bundle", written
        if name != "spot":
            bundle = write_bundle(tmp_path / "bundle", name, rule=True)
            found = export_onnx(bundle, tmp_path / "model.onnx", pictures=few())
        assert found.score_difference is not None
        assert found.score_difference < 1e-4
        session = open_session(found.path)
        told = session.get_modelmeta().custom_metadata_map
        rule = load_bundle(bundle)[1].unknown
        assert rule is not None
        assert float(told["unknown_threshold"]) == rule.threshold
        assert "unknown_score" in told["input"]
        assert (session.get_outputs()[2].name, session.get_outputs()[2].shape) == ("unknown_score", ["batch"])
        images = np.random.default_rng(1).integers(0, 256, (3, 40, 30, 3), dtype=np.uint8)
        (scores,) = session.run(["unknown_score"], {"images": images})
        own = eyespot.load(bundle, device="cpu").predict(list(images))
        assert [score > rule.threshold for score in scores] == [prediction.unknown for prediction in own]

    def test_grey_and_enlarged_in_the_batch(self, tmp_path: Path) -> None:
        spec = InputSpec(16, 1, (0.5,), (0.25,), "pad", "bicubic", 24)
        bundle = write_bundle(tmp_path / "bundle", channels=1, input=spec, rule=True)
        found = export_onnx(bundle, tmp_path / "model.onnx", pictures=few())
        assert found.difference is not None
        assert found.difference < 1e-5


def test_torch_program(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", views="mirror", rule=True)
    found = export_torch(bundle, tmp_path / "model.pt2", pictures=few())
    assert found.difference is not None
    assert found.difference < 1e-5
    assert found.score_difference is not None
    assert found.score_difference < 1e-4
    notes = {"class_names.txt": ""}
    program = torch.export.load(found.path, extra_files=notes)
    assert tuple(json.loads(notes["class_names.txt"])) == NAMES
    probs, logits, score = program.module()(torch.zeros(2, 9, 50, 3, dtype=torch.uint8))
    assert probs.shape == logits.shape == (2, 3)
    assert score.shape == (2,)


def test_bundle_alone_and_in_half(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", args={"widths": [16, 32, 32]}, rule=True)
    (bundle / "README.md").write_text("The card", encoding="utf-8")
    whole = export_bundle(bundle, tmp_path / "a")
    half = export_bundle(bundle, tmp_path / "b", half=True, pictures=few())
    assert half.difference is not None
    assert 0 < half.difference < 0.01
    assert half.pictures == len(few())
    assert half.bytes < 0.75 * whole.bytes
    assert load_bundle(tmp_path / "b")[1].weights_dtype == "float16"
    assert (tmp_path / "a" / "README.md").read_text(encoding="utf-8") == "The card"
    card = (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("The card\n\n## Rounded weights\n\nThe figures above are those of float32 weights.")
    assert half.describe_answers() in card
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "bundle"]
    pictures = sample_pictures()[:2]
    own, exported = (eyespot.load(folder).predict(pictures) for folder in (bundle, tmp_path / "b"))
    for one, other in zip(own, exported, strict=True):
        assert one.unknown_score is not None
        assert other.unknown_score == pytest.approx(one.unknown_score, abs=0.02)


class TestRefusals:
    def test_a_file_that_answers_differently_is_not_written(
        self, traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = export_module._run_onnx

        def wrong(session: Any, batch: Any) -> Any:
            probs, *rest = real(session, batch)
            return probs + 0.002, *rest

        monkeypatch.setattr(export_module, "_run_onnx", wrong)
        with pytest.raises(
            ModelError, match=r"probabilities of the file differ by 0\.002 from the predictor's, at most"
        ):
            export_onnx(traced, tmp_path / "model.onnx", pictures=few())
        assert os.listdir(tmp_path) == []

    def test_a_file_that_calls_others_unknown_is_not_written(
        self, traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = export_module._run_onnx

        def wrong(session: Any, batch: Any) -> Any:
            probs, logits, score = real(session, batch)
            return probs, logits, score * 1.01 + 0.1

        monkeypatch.setattr(export_module, "_run_onnx", wrong)
        with pytest.raises(
            ModelError, match=r"unknown scores of the file differ by .* from the predictor's, at most 0\.001"
        ):
            export_onnx(traced, tmp_path / "model.onnx", pictures=few())
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("output", [0, 2])
    def test_a_file_that_answers_nan_is_not_written(
        self, output: int, traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, calls = export_module._run_onnx, []

        def wrong(session: Any, batch: Any) -> Any:
            calls.append(batch)
            answers = list(real(session, batch))
            if len(calls) == 2:  # neither the first picture nor the last
                answers[output] = answers[output] * np.nan
            return tuple(answers)

        monkeypatch.setattr(export_module, "_run_onnx", wrong)
        with pytest.raises(ModelError, match=r"some answers of the file are NaN or infinite; no file was written in"):
            export_onnx(traced, tmp_path / "model.onnx", pictures=few())
        assert os.listdir(tmp_path) == []

    def test_nor_one_in_8_bits_whose_accuracy_holds(self, tmp_path: Path) -> None:
        labelled = export_module.Labelled(np.zeros((1, 1, 1, 3), np.uint8), np.zeros(1, np.int64), "val")
        for differences in ((np.nan, 0.0), (0.0, np.nan), (np.inf, None)):
            found = export_module.Agreement(2, *differences, (0.9, 0.9), (0.05, 0.05))
            with pytest.raises(ModelError, match=r"NaN or infinite.*: export it without --int8"):
                export_module._check(tmp_path / "model.onnx", found, labelled, int8=True)

    def test_nor_one_in_8_bits_that_refuses_others(self, tmp_path: Path) -> None:
        labelled = export_module.Labelled(np.zeros((1, 1, 1, 3), np.uint8), np.zeros(1, np.int64), "val")
        found = export_module.Agreement(2, 0.0, 0.0, (0.9, 0.9), (0.05, 0.08))
        with pytest.raises(ModelError, match=r"in 8 bits 8\.0 % of val are called unknown instead of 5\.0 %"):
            export_module._check(tmp_path / "model.onnx", found, labelled, int8=True)

    def test_something_is_there_already(self, tmp_path: Path) -> None:
        bundle = write_bundle(tmp_path / "bundle")
        (tmp_path / "model.onnx").write_text("mine")
        for write in (export_onnx, export_torch):
            with pytest.raises(RunError, match=r"there is something of this name in .*: delete it, or name a folder"):
                write(bundle, tmp_path / "model.onnx", pictures=[])
        with pytest.raises(RunError, match="there is something of this name"):
            export_bundle(bundle, bundle)
        assert (tmp_path / "model.onnx").read_text() == "mine"

    def test_memory_runs_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bundle = write_bundle(tmp_path / "bundle")

        def wrapped(*args: Any, **more: Any) -> None:
            raise RuntimeError("step 2 of 3 failed") from MemoryError()

        for name, write in (("export.export", export_torch), ("onnx.export", export_onnx)):
            monkeypatch.setattr(f"torch.{name}", wrapped)
            with pytest.raises(MemoryLimitError, match="no memory left for the export: close other programs"):
                write(bundle, tmp_path / "model", pictures=few()[:1])
            monkeypatch.undo()

    def test_something_came_there_meanwhile(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bundle = write_bundle(tmp_path / "bundle")
        check = export_module._check

        def check_beside_another_export(path: Path, *rest: Any, **more: Any) -> None:
            check(path, *rest, **more)
            path.write_text("another's")

        monkeypatch.setattr(export_module, "_check", check_beside_another_export)
        with pytest.raises(RunError, match="there is something of this name"):
            export_torch(bundle, tmp_path / "model.pt2", pictures=few()[:1])
        assert (tmp_path / "model.pt2").read_text() == "another's"
        assert sorted(os.listdir(tmp_path)) == ["bundle", "model.pt2"]

    def test_no_folder_can_be_made(self, tmp_path: Path) -> None:
        bundle = write_bundle(tmp_path / "bundle")
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match="cannot write the file"):
            export_onnx(bundle, tmp_path / "file" / "model.onnx", pictures=[])

    def test_the_disk_is_full(self, traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

        def full(*args: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(export_module.os, "replace", full)
        with pytest.raises(RunError, match=r"the disk is full.*: free some space"):
            export_onnx(traced, tmp_path / "model.onnx", pictures=few()[:1])
        assert os.listdir(tmp_path) == []

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a file")
    @pytest.mark.parametrize("write", [export_onnx, export_torch])
    def test_the_disk_is_full_in_the_middle_of_the_file(self, write: Any, tmp_path: Path) -> None:
        import resource

        bundle = write_bundle(tmp_path / "bundle")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(RunError, match=r"the disk is full.*: free some space"):
                write(bundle, tmp_path / "model.any", pictures=few()[:1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert os.listdir(tmp_path) == ["bundle"]

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a file")
    def test_the_disk_is_full_where_a_library_would_cut_its_files_off_and_say_nothing(
        self, written: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import resource

        monkeypatch.setattr("onnxruntime.quantization.quantize_static", lambda *args, **words: pytest.fail("too late"))
        pictures = np.stack([few()[0][:8, :8]] * 2)
        labelled = export_module.Labelled(pictures, np.zeros(2, np.int64), "val")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (written.bytes + 1000, before[1]))
        try:
            with pytest.raises(RunError, match=r"the disk is full.*: free some space"):
                export_onnx(
                    written.path.parent / "bundle",
                    tmp_path / "int8.onnx",
                    pictures=few()[:1],
                    int8=True,
                    calibration=pictures,
                    labelled=labelled,
                )
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("package", ["onnx", "onnx_ir", "onnxscript", "onnxruntime"])
    def test_a_missing_extra(self, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bundle = write_bundle(tmp_path / "bundle")
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(
            MissingExtraError, match=rf"'{package}' is not installed: pip install \"eyespot\[export\]\""
        ):
            export_onnx(bundle, tmp_path / "model.onnx", pictures=[])

    def test_a_damaged_bundle(self, tmp_path: Path) -> None:
        bundle = write_bundle(tmp_path / "bundle")
        content = bytearray((bundle / "weights.safetensors").read_bytes())
        content[-1] ^= 1
        (bundle / "weights.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match="weights are damaged"):
            export_onnx(bundle, tmp_path / "model.onnx", pictures=[])

    def test_no_onnx_file(self, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").write_text("no")
        with pytest.raises(ModelError, match=r"ONNX Runtime cannot open the file .*: export it again"):
            open_session(tmp_path / "model.onnx")


@pytest.fixture(scope="module")
def draft(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `trained`, to be brought to 8 bits."""
    return export_onnx(
        trained.path / "bundle", tmp_path_factory.mktemp("draft") / "model.onnx", pictures=few()[:1]
    ).path


class TestRun:
    @pytest.fixture
    def run(self, trained: Run, tmp_path: Path) -> Path:
        return Path(shutil.copytree(trained.path, tmp_path / "run"))

    @pytest.fixture
    def words(self, capsys: pytest.CaptureFixture[str]) -> Any:
        def call(*words: str | Path) -> tuple[int, str, str]:
            code = cli._run([str(word) for word in words])
            out, err = capsys.readouterr()
            return code, out, err.splitlines()[-1] if err else ""

        return call

    @pytest.fixture
    def drafted(self, draft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(export_module, "_write_onnx", lambda _, path: shutil.copyfile(draft, path))

    @pytest.mark.usefixtures("drafted")
    def test_int8_with_the_runs_own_pictures(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(export_module, "MOST_LOST_TOP1", 1.0)  # a network of a second has nothing to lose
        made: list[str] = []
        make = tempfile.mkdtemp
        monkeypatch.setattr(tempfile, "mkdtemp", lambda *args, **words: made.append(make(*args, **words)) or made[-1])
        found = eyespot.export(run, int8=True)
        assert found.path == run / "export" / "model-int8.onnx"
        assert found.int8
        assert found.top1 is not None
        assert found.top1_pictures > 0
        assert found.top1_split == "val"
        before, after = (rf"{100 * value:.2f} % \[[\d., ]+\]" for value in found.top1)
        assert re.search(rf"top-1 on val {before} -> {after} \(n = {found.top1_pictures}\)", found.describe())

        # Whenever it is killed, it leaves nothing in the temporary directory.
        assert [name for name in made if "quant" in name]  # or ONNX Runtime has another way by now
        assert all(Path(name).is_relative_to(run / "export") for name in made if "quant" in name)

    @pytest.mark.usefixtures("drafted")
    def test_int8_that_loses_too_much_is_not_written(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(export_module, "_shares", lambda *args: ((0.9, 0.8), None))
        with pytest.raises(ModelError, match=r"in 8 bits 10\.0 points of accuracy are lost on val .*without --int8"):
            eyespot.export(run, int8=True)
        assert os.listdir(run / "export") == []

    def test_int8_without_the_data_says_what_would_bring_them(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        alone = Path(shutil.copytree(run / "bundle", run.parent / "alone"))
        said = r"int8 is calibrated on training pictures, and they are not at hand"
        with pytest.raises(DataError, match=rf"{said} .*: export the run where its data are, or leave --int8 out"):
            eyespot.export(alone, int8=True)

        def full(*_: object) -> None:
            raise DataError("cannot keep packed pixels (the disk is full)", where="cache", remedy="free some space")

        monkeypatch.setattr("eyespot.exporting.own_data", full)
        with pytest.raises(DataError, match=rf"{said} .* in cache: free some space, or leave --int8 out"):
            eyespot.export(run, int8=True)

    def test_command(self, run: Path, words: Any, tmp_path: Path) -> None:
        code, out, _ = words("export", run, "--out", tmp_path / "x")
        assert code == 0
        assert out.startswith(f"{tmp_path / 'x' / 'model.onnx'}: ")
        assert "probabilities differ by at most" in out
        code, out, _ = words("export", run, "--format", "safetensors", "--half", "--json", "--out", tmp_path / "x")
        assert json.loads(out)["path"] == str(tmp_path / "x" / "bundle")
        assert eyespot.load(tmp_path / "x" / "bundle").class_names == ("cat", "dog", "eel")

    @pytest.mark.parametrize(
        ("arguments", "code", "line"),
        [
            (["--format", "onx"], 2, "error: unknown format 'onx'. Did you mean 'onnx'?: use onnx, torch, safetensors"),
            (["--format", "torch", "--int8"], 2, "error: int8 with format torch: use int8 with format onnx"),
            (["--half"], 2, "error: half with format onnx: use half with format safetensors"),
        ],
    )
    def test_wrong_use(self, run: Path, words: Any, arguments: Sequence[str], code: int, line: str) -> None:
        assert words("export", run, *arguments) == (code, "", line)

    def test_a_run_without_a_model(self, run: Path, words: Any) -> None:
        shutil.rmtree(run / "bundle")
        code, _, line = words("export", run)
        assert code == 1
        assert line.startswith("error: the run has no model yet")

    def test_unknown_use_of_the_verb(self, run: Path) -> None:
        with pytest.raises(UsageError):
            eyespot.export(run, "tflite")


@pytest.mark.skipif(os.name != "posix", reason="POSIX locks")
def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path) -> None:
    leftover = tmp_path / ".model.onnx-0123abcd.tmp"
    leftover.mkdir()
    (leftover / "model.onnx").write_bytes(b"half")
    with export_module._place(tmp_path / "model.onnx") as beside:
        (beside / "model.onnx").write_bytes(b"whole")
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"whole"


def test_each_share_is_told_with_its_split_n_and_interval() -> None:
    found = Exported(Path("m.onnx"), "onnx", 1, 9, 0.0, (0.98, 0.97), 100, "val", refused=(0.05, 0.05))
    assert found.describe().endswith(
        "; top-1 on val 98.00 % [93.0, 99.4] -> 97.00 % [91.5, 99.0] (n = 100)"
        "; called unknown on val 5.00 % [2.2, 11.2] -> 5.00 % [2.2, 11.2] (n = 100)"
    )

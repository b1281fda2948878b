"""One test for each way in which published studies fooled themselves or lost their work; the table: docs/guards.md.

Each of them takes the road of a user: a verb, a run folder, a page. The details are tested beside the code.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import eyespot
from eyespot import terminal
from eyespot.analysis.cautions import find_cautions
from eyespot.analysis.headline import describe_top1
from eyespot.analysis.verdict import judge
from eyespot.augment_config import AugmentConfig
from eyespot.data.input_spec import InputSpec
from eyespot.data.resizing import RowFormat
from eyespot.data.transforms import EvalTransform, TrainTransform
from eyespot.errors import DataError, Interrupted, LeakError, UsageError
from eyespot.models.heads import HeadSpec, head_notes
from eyespot.models.pretrained import PretrainedClassifier
from eyespot.models.registry import build_model
from eyespot.models.summary import layer_table
from eyespot.runs import Run
from eyespot.terminal import Terminal
from eyespot.training.step import TrainData

from .conftest import PROJECT, TINY, draw_pictures

SPEC = InputSpec(size_px=8, channels=3, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
CURVE = [1.0, 0.6, 0.4, 0.3, 0.25, 0.22, 0.2, 0.19, 0.18, 0.18]


class Killer(Terminal):
    """An observer that stops the training after some steps."""

    def on_step(self, state: Any, **found: Any) -> None:
        if state.step == 4:
            raise KeyboardInterrupt


def history_of(train: float, val: float) -> list[dict[str, float]]:
    return [
        {"epoch": n + 1, "train/loss": loss, "val/loss": loss + 0.1, "train/top1": train, "val/top1": val, "lr": 0.1}
        for n, loss in enumerate(CURVE)
    ]


def figures(top1: float, n: int = 10_000) -> dict[str, Any]:
    wrong = round((1 - top1) * n / 2)
    confusion = [[n // 2 - wrong, wrong], [wrong, n // 2 - wrong]]
    return {"top1": top1, "top1_ci95": [top1 - 0.01, top1 + 0.01], "n": n, "confusion": confusion, "views": "none"}


def test_train_is_test(pictures: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(pictures, tmp_path / "data" / split)
    with pytest.raises(LeakError, match=r"60 of the 60 test pictures are also in train \(test/cat/000.png = train/"):
        eyespot.train(tmp_path / "data", recipe="small", settings=TINY, out=tmp_path / "run")
    assert not (tmp_path / "run" / "bundle").exists()


def test_selection_on_test(trained: Run, tmp_path: Path) -> None:
    assert not [name for name in TrainData.__dataclass_fields__ if "test" in name]
    assert trained.metrics["test_reads"] == 1
    run = Path(shutil.copytree(trained.path, tmp_path / "run"))
    eyespot.evaluate(run)
    metrics = Run(run).metrics
    assert metrics["test_reads"] == 2
    told = [found.text for found in find_cautions({}, metrics, num_classes=3, final=False)]
    assert any(text.startswith("Test was read 2 times") for text in told)


def test_augmentation_after_normalisation() -> None:
    normalised = EvalTransform(SPEC)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(DataError, match="already normalised"):
        TrainTransform(AugmentConfig(), SPEC)(
            normalised, torch.zeros(2), generator=torch.Generator(), epoch=0, indices=torch.arange(2)
        )


def test_double_preprocessing(trained: Run) -> None:
    predictor = eyespot.load(trained.path)
    pixels = np.full((12, 12, 3), 200, np.uint8)
    with pytest.raises(UsageError, match="looks as if it were already normalised"):
        predictor.predict([(pixels / 255).astype(np.float32)])
    assert predictor.info.input.mean != (0.0, 0.0, 0.0), "the bundle carries its own preparation"


def test_integer_resize() -> None:
    # 31 columns to 8: a factor of 3 would drop the last seven, and the red edge with them.
    picture = np.zeros((31, 31, 3), np.uint8)
    picture[:, -4:, 0] = 255
    square = RowFormat(8, 3, "squash", "bilinear").square(picture)
    assert square.shape == (8, 8, 3)
    assert square[:, -1, 0].min() > 200
    assert square[:, 0].max() == 0


def test_frozen_batch_statistics() -> None:
    model = build_model("resnet18", num_classes=3, size_px=64)
    assert isinstance(model, PretrainedClassifier)
    model.freeze("features")
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model.train()
    model(torch.randn(4, 3, 64, 64)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())


def test_linear_head_stacks() -> None:
    spec = HeadSpec(hidden=(64, 32), activation="none")
    assert any("no more than one linear layer" in note for note in head_notes(spec, (512, 1, 1), 512, 10))
    assert HeadSpec(hidden=(64, 32)).activation == "relu"
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9), nn.Linear(9, 2))
    assert len(layer_table(model, in_channels=3, size_px=8).warnings) == 1


def test_flatten_explosion() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 512, 1), nn.Flatten(), nn.Linear(512 * 49, 512), nn.ReLU())
    (warning,) = layer_table(model, in_channels=3, size_px=7).warnings
    assert "flattened map of 25,088 features" in warning
    assert "global average pooling" in warning


def test_chance_level() -> None:
    metrics = {"test": figures(0.5), "train": figures(0.5), "val": figures(0.5)}
    verdict = judge(history_of(0.5, 0.5), metrics, num_classes=2, epochs_planned=10)
    assert ("at-chance", "serious") in [(finding.kind, finding.severity) for finding in verdict.findings]


def test_no_intervals(trained: Run) -> None:
    for split in ("train", "val", "test"):
        low, high = trained.metrics[split]["top1_ci95"]
        assert 0 <= low <= trained.metrics[split]["top1"] <= high <= 1
        assert low < high
        assert re.search(r"\d %\s\[\d+\.\d, \d+\.\d\]", describe_top1(trained.metrics[split], split))


def test_numbers_without_split(trained: Run) -> None:
    assert re.search(r"\] on test \(n = \d+", describe_top1(trained.metrics["test"], "test"))
    said = (trained.path / "log.txt").read_text(encoding="utf-8")
    accuracies = [line for line in said.splitlines() if re.search(r"\d %", line)]
    assert accuracies
    assert all(re.search(r"\b(train|val|test)\b", line) for line in accuracies), accuracies
    report = trained.report.read_text(encoding="utf-8")
    assert "on test" in report
    assert f"n = {trained.metrics['test']['n']}" in report.replace("\u00a0", " ")


def test_kernel_death(trained: Run, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run", observer=Killer(quiet=True))
    resumed = eyespot.train(resume=True, out=tmp_path / "run")
    weights = [Path(run.path, "bundle", "weights.safetensors").read_bytes() for run in (trained, resumed)]
    assert weights[0] == weights[1]


def test_overfit() -> None:
    metrics = {"test": figures(0.7), "val": figures(0.7), "train": figures(0.99)}
    findings = judge(history_of(0.99, 0.7), metrics, num_classes=2, epochs_planned=10).findings
    assert "overfit" in [finding.kind for finding in findings]


def test_out_of_set_confidence(tmp_path: Path) -> None:
    data = draw_pictures(tmp_path / "data", ("cat", "dog", "eel"), 90)
    run = eyespot.train(data, recipe="small", settings=TINY, out=tmp_path / "run")
    rule = run.metrics["unknown"]["rule"]
    assert rule["fraction"] == 0.05
    strange = [Image.fromarray(np.full((12, 12, 3), shade, np.uint8)) for shade in (255, 0)]
    known = sorted(data.rglob("*.png"))
    predictor = eyespot.load(run.path)
    assert all(answer.unknown for answer in predictor.predict(strange))
    assert np.mean([answer.unknown for answer in predictor.predict(known)]) < 0.2


def test_too_slow(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_ESTIMATE_AFTER_SECONDS", 0.0)
    run = eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path / "run")
    said = (run.path / "log.txt").read_text(encoding="utf-8")
    assert 0 < said.index("estimate: about") < said.index("epoch   1")


def test_lost_outputs(trained: Run) -> None:
    names = {path.name for path in trained.path.iterdir()}
    assert {
        "config.toml",
        "provenance.json",
        "split.json",
        "history.jsonl",
        "metrics.json",
        "predictions.npz",
        "report.html",
        "log.txt",
        "bundle",
    } <= names
    assert {path.name for path in (trained.path / "bundle").iterdir()} >= {"weights.safetensors", "README.md"}


def test_every_row_of_the_table_has_its_test_and_every_test_its_row() -> None:
    text = (PROJECT / "docs" / "guards.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    named = [re.search(r"`(test_\w+)`(?: in `(tests/\w+\.py)`)? \|$", row) for row in rows]
    assert all(named), "a row has its test"
    here = {name for name in globals() if name.startswith("test_") and "every_row" not in name}
    assert {found[1] for found in named if found and not found[2]} == here
    for row, found in zip(rows, named, strict=True):
        test, place = found.groups() if found else ("", None)
        assert not place or f"\ndef {test}(" in (PROJECT / place).read_text(encoding="utf-8")
        for file in re.findall(r"`([\w/]+\.py)`", row.rpartition(" | ")[0]):
            assert (PROJECT / "src" / "eyespot" / file).is_file(), f"docs/guards.md: no {file}"

"""Exported files of every network: the same answers as the predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eyespot.deployment.export import export_onnx
from eyespot.models.registry import model_names

from .test_export import few, write_bundle

SMALL: list[tuple[str, int, dict[str, Any]]] = [(name, 32, {}) for name in model_names()]
# Tracing a deep network takes ten seconds and more.
BACKBONES: list[tuple[str, int, dict[str, Any]]] = [
    ("vgg16", 32, {"pool": "flatten", "hidden": [8], "dropout": 0.5, "batch_norm": True}),
    ("resnet50", 32, {"pool": "concat"}),
    ("efficientnet_lite0", 32, {"taps": 1}),
    ("vit_tiny_patch16_224", 224, {}),
]
BACKBONES += [("inception_v3", 96, {}), ("densenet121", 32, {}), ("inception_resnet_v2", 96, {})]


@pytest.mark.parametrize(
    ("name", "size", "args"),
    [
        *(pytest.param(*case, id=case[0]) for case in SMALL),
        *(pytest.param(*case, id=case[0], marks=pytest.mark.slow) for case in BACKBONES),
    ],
)
def test_every_network(name: str, size: int, args: dict[str, Any], tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", name, size, args=args)
    found = export_onnx(bundle, tmp_path / "model.onnx", pictures=few())
    assert found.difference is not None
    assert found.difference < 1e-4

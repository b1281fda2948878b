"""A small trained-looking model, its info and its bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eyespot.data.input_spec import InputSpec
from eyespot.device import ComputePlan
from eyespot.evaluation.bundle import save_bundle
from eyespot.evaluation.bundle_info import Architecture, BundleInfo, Provenance, SplitMetrics
from eyespot.evaluation.predictor import Predictor
from eyespot.models.registry import build_model

PLAN = ComputePlan("cpu", "float32", "a test")


def make_info(**changes: Any) -> BundleInfo:
    values: dict[str, Any] = {
        "architecture": Architecture(name="spot", args={"widths": [4, 6, 8]}),
        "num_classes": 3,
        "class_names": ("cat", "dog", "crème brûlée"),
        "input": InputSpec(8, 3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "crop", "bilinear"),
        "metrics": {"test": SplitMetrics(n=100, top1=0.9, top1_ci95=(0.82, 0.95), views="mirror")},
        "provenance": Provenance(
            recipe="fast",
            dataset="photos",
            dataset_fingerprint="f00d",
            seed=1,
            created="2026-01-01T00:00:00+00:00",
            train_seconds=12.5,
        ),
    }
    return BundleInfo(**{**values, **changes})


def make_model(info: BundleInfo, seed: int = 0) -> nn.Module:
    """Return a network whose answers depend on the picture: random weights, and batch statistics that were moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(
            info.architecture.name,
            num_classes=info.num_classes,
            in_channels=info.input.channels,
            size_px=info.input.size_px,
            args=info.architecture.args,
        )
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture
def new_info() -> Callable[..., BundleInfo]:
    return make_info


@pytest.fixture
def new_model() -> Callable[..., nn.Module]:
    return make_model


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    info = make_info()
    save_bundle(folder, make_model(info), info)
    return folder


@pytest.fixture
def predictor() -> Predictor:
    info = make_info()
    return Predictor(make_model(info), info, PLAN)

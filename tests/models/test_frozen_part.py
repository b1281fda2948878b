"""Cutting a backbone where its trained part begins: two parts that are one network."""

from __future__ import annotations

import pytest
import torch

from eyespot.models.frozen_part import cut_at_first_trained
from eyespot.models.pretrained import PretrainedClassifier
from eyespot.models.registry import build_model


def build(name: str, size_px: int = 64, **args: object) -> PretrainedClassifier:
    torch.manual_seed(0)
    model = build_model(name, num_classes=5, size_px=size_px, args=args)
    assert isinstance(model, PretrainedClassifier)
    return model


def images(size_px: int = 64) -> torch.Tensor:
    return torch.randn(3, 3, size_px, size_px, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "size_px", "first"),
    [
        ("resnet18", 64, "layer4"),
        ("vgg11", 64, "features.16"),
        ("efficientnet_lite0", 64, "blocks.5"),
        ("densenet121", 64, "features.transition3"),
        ("inception_v3", 96, "Mixed_7a"),
        ("convnext_atto", 64, "stages.3"),
    ],
)
def test_the_two_parts_are_the_whole_network(name: str, size_px: int, first: str) -> None:
    model = build(name, size_px)
    model.freeze("last-block")
    cut = cut_at_first_trained(model, images(size_px))
    assert cut is not None
    assert cut.first == first
    model.eval()
    cut.rest.eval()
    with torch.no_grad():
        torch.testing.assert_close(cut.rest(cut.frozen(images(size_px))), model(images(size_px)), rtol=1e-3, atol=1e-4)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert {id(parameter) for parameter in cut.rest.parameters()} == trained
    assert sum(parameter.numel() for parameter in model.parameters()) > 0


def test_the_rest_trains_the_models_own_weights() -> None:
    model = build("resnet18", hidden=[6], pool="flatten")
    model.freeze("last-block")
    cut = cut_at_first_trained(model, images())
    assert cut is not None
    made = cut.frozen(images()).detach()
    cut.rest.train()
    cut.rest(made).sum().backward()
    gradients = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert gradients == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert model.backbone.layer4[0].bn1.training  # type: ignore[index,union-attr]
    depths = cut.rest.parameter_depths()  # type: ignore[operator]
    assert depths.keys() == {name for name, _ in cut.rest.named_parameters()}


def test_a_block_in_the_middle_can_be_the_first() -> None:
    model = build("resnet18")
    model.freeze("full", "layer4.1")
    cut = cut_at_first_trained(model, images())
    assert cut is not None
    assert cut.first == "layer4.1"


@pytest.mark.parametrize(("mode", "until"), [("full", ""), ("features", ""), ("full", "layer4.1.conv2")])
def test_there_is_no_cut_where_all_or_nothing_is_frozen_or_a_block_is_in_two_parts(mode: str, until: str) -> None:
    model = build("resnet18")
    model.freeze(mode, until)
    cut = cut_at_first_trained(model, images())
    assert cut is None


def test_taps_read_what_a_cut_would_skip() -> None:
    model = build("resnet18", taps=1)
    model.freeze("last-block")
    assert cut_at_first_trained(model, images()) is None

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eyespot.errors import ModelError
from eyespot.models.registry import build_model
from eyespot.models.spot import Spot


def spot(**args: object) -> Spot:
    model = build_model("spot", num_classes=4, in_channels=3, size_px=16, args={"widths": [4, 6, 8], **args})
    assert isinstance(model, Spot)
    return model


def pictures(count: int = 64, size: int = 12) -> torch.Tensor:
    """float32 (N, 3, S, S) whose neighbouring pixels are alike, as in photographs."""
    noise = torch.rand(count, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, size=(size, size), mode="bilinear") - 0.5


def test_whitened_patches_have_no_correlation() -> None:
    model = spot()
    images = pictures() * 10  # much more variance than what is added to it
    model.init_from_images(images)
    with torch.no_grad():
        out = model.whiten(images)[:, :12].permute(1, 0, 2, 3).flatten(1)  # the other half is its negative
    moments = out @ out.T / out.shape[1]
    diagonal = moments.diagonal()
    assert torch.allclose(moments, torch.diag(diagonal), atol=1e-3)
    assert bool((diagonal <= 1.001).all())
    assert float(diagonal.max()) > 0.99


def test_a_group_of_three_adds_what_the_first_convolution_gave() -> None:
    model = spot(depth=3).eval()
    group = model.groups[0]
    x = torch.randn(2, 24, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first = F.gelu(group.norm1(F.max_pool2d(group.conv1(x), 2)))
        second = F.gelu(group.norm2(group.conv2(first)))
        expected = F.gelu(group.norm3(group.conv3(second)) + first)
        assert torch.equal(group(x), expected)


@pytest.mark.parametrize("depth", [2, 3])
def test_depth_counts_the_convolutions_of_a_group(depth: int) -> None:
    model = spot(depth=depth)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 1 + 3 * depth
    logits = model(pictures(count=2, size=8))
    assert logits.shape == (2, 4)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("args", [{"depth": 1}, {"depth": 4}, {"widths": [0, 1, 1]}])
def test_other_shapes_are_refused(args: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="spot"):
        spot(**args)


def test_whitening_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = []
    for patches in (10**9, 16 * 16 * 7):
        monkeypatch.setattr("eyespot.models.spot._PATCHES", patches)
        model = spot()
        model.init_from_images(images)
        found.append(model.whiten.weight.abs().sum((0, 1)))
    torch.testing.assert_close(*found)

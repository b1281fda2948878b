"""Folded batch norms: the same outputs, or the network as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from eyespot.models.folding import folded
from eyespot.models.registry import build_model


def with_statistics(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics and a scale of its own."""
    dice = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(torch.randn(module.num_features, generator=dice) / 4)
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=dice))
            with torch.no_grad():
                module.weight.copy_(0.5 + torch.rand(module.num_features, generator=dice))
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "size_px"),
    [("spot", 32), ("resnet18-small", 32), ("efficientnet_lite0", 64), ("resnet18", 64), ("vgg11_bn", 64)],
)
def test_networks_lose_all_their_norms_and_keep_their_outputs(name: str, size_px: int) -> None:
    torch.manual_seed(0)
    model = with_statistics(build_model(name, num_classes=5, size_px=size_px))
    images = torch.randn(4, 3, size_px, size_px)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    found = folded(model, images[:2])
    assert norms(model) > 0
    assert norms(found) == 0
    with torch.no_grad():
        torch.testing.assert_close(found(images), model(images), rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


class _NormFirst(nn.Module):
    """Convolution and norm stand next to each other, but the norm comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(self.norm(images))


def test_a_norm_that_does_not_follow_its_convolution_is_left_where_it_is() -> None:
    model = with_statistics(_NormFirst())
    assert folded(model, torch.randn(2, 3, 8, 8)) is model


def test_a_network_without_norms_is_returned_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()).eval()
    assert folded(model, torch.randn(2, 3, 8, 8)) is model

"""Depthwise convolutions: outputs to the bit, gradients within bf16 rounding, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import nn

from eyespot.models.depthwise import DepthwiseConv2d, use_fast_depthwise


def converted(conv: nn.Conv2d) -> nn.Conv2d:
    model = nn.Sequential(conv)
    use_fast_depthwise(model, Conv2dSame, pad_same)
    assert model[0] is conv
    return conv


def gradients(conv: nn.Module, images: torch.Tensor, *, bf16: bool) -> tuple[torch.Tensor, ...]:
    images = images.clone().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = conv(images)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    (output.float() * direction).sum().backward()
    found = [output.detach(), images.grad, *(parameter.grad.clone() for parameter in conv.parameters())]
    for parameter in conv.parameters():
        parameter.grad = None
    return tuple(found)  # type: ignore[arg-type]


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_those_of_the_plain_convolution(same: bool, kernel: int, stride: int, bias: bool) -> None:
    torch.manual_seed(0)
    kind, padding = (Conv2dSame, 0) if same else (nn.Conv2d, kernel // 2)
    conv = kind(8, 8, kernel, stride=stride, padding=padding, groups=8, bias=bias)
    images = torch.randn(4, 8, 13, 13).to(memory_format=torch.channels_last)
    exact = gradients(conv, images, bf16=False)
    plain = gradients(conv, images, bf16=True)
    names = list(conv.state_dict())
    fast = converted(conv)
    assert isinstance(fast, DepthwiseConv2d)
    assert list(fast.state_dict()) == names
    for one, two in zip(gradients(fast, images, bf16=False), exact, strict=True):
        assert torch.equal(one, two)
    if not bias:  # added to the sum before or after it is rounded
        assert torch.equal(gradients(fast, images, bf16=True)[0], plain[0])
    for found, reference, expected in zip(gradients(fast, images, bf16=True), plain, exact, strict=True):
        allowed = 1.5 * float((reference.float() - expected).norm()) + 1e-3 * float(expected.norm())
        assert float((found.float() - expected).norm()) <= allowed


def test_frozen_weights_and_images_without_gradient_get_none() -> None:
    conv = converted(nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4, bias=False))
    conv.weight.requires_grad_(False)
    images = torch.randn(2, 4, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        conv(images).float().sum().backward()
    assert conv.weight.grad is None
    assert images.grad is not None


def test_in_evaluation_it_is_the_plain_convolution() -> None:
    conv = converted(nn.Conv2d(4, 4, 5, padding=2, groups=4))
    images = torch.randn(2, 4, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = conv(images)
        assert torch.equal(found, F.conv2d(images, conv.weight, conv.bias, padding=2, groups=4))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, groups=4, padding="same"),
        nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="reflect"),
    ],
)
def test_other_convolutions_are_left_alone(conv: nn.Conv2d) -> None:
    assert type(converted(conv)) is nn.Conv2d

"""Depthwise convolutions whose gradients do not take the slow roads of the CPU library.

Before this: a backbone of timm. After this: the same network, same weights and outputs, and gradients within rounding.

In bf16 the gradient of a strided depthwise convolution with respect to its input is 10 to 300 times slower than in
float32, and that of 5 x 5 filters 3 to 5 times (oneDNN of torch 2.15, 2 cores with AVX512-BF16): there, and nowhere
else, it is computed in float32. A training step of EfficientNet-Lite0 at 128 px takes a third of the time by it
(docs/decisions/006).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LARGEST_FAST_KERNEL = 3


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution with fast gradients in bf16 on the CPU; elsewhere what it was before.

    Made by `use_fast_depthwise`, which changes the class of a convolution in place.
    """

    pad_same: Callable[..., Tensor] | None = None
    """TensorFlow's padding, which depends on the size of the images; None for a fixed one."""

    def forward(self, input: Tensor) -> Tensor:
        """Return float (B, C, H', W') for float (B, C, H, W)."""
        if self.pad_same is not None:
            input = self.pad_same(input, self.kernel_size, self.stride, self.dilation)
        padding = cast("tuple[int, int]", self.padding)
        in_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
        if input.device.type == "cpu" and in_bf16 and torch.is_grad_enabled():
            output: Tensor = _Depthwise.apply(
                input.to(torch.bfloat16), self.weight, self.stride, padding, self.dilation
            )
            return output if self.bias is None else output + self.bias[:, None, None].to(output.dtype)
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution in bf16 with float32 weights."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        """Return bf16 (B, C, H', W') of bf16 (B, C, H, W) and float32 weights (C, 1, k, k)."""
        ctx.save_for_backward(images, weight)
        ctx.settings = (stride, padding, dilation)
        return F.conv2d(images, weight.to(torch.bfloat16), None, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients for images, bf16, and weights, float32."""
        images, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.settings
        (grad,) = grads

        def gradient(dtype: torch.dtype, images: Tensor, *, of_images: bool) -> Tensor:
            found = torch.ops.aten.convolution_backward(
                grad.to(dtype),
                images,
                weight.to(dtype),
                None,
                list(stride),
                list(padding),
                list(dilation),
                False,
                [0, 0],
                len(weight),
                [of_images, not of_images, False],
            )
            return cast("Tensor", found[0 if of_images else 1])

        of_images = None
        if ctx.needs_input_grad[0]:
            if max(stride) > 1:
                # Of the images only the shape is read.
                shape = torch.empty_like(images, dtype=torch.float32)
                of_images = gradient(torch.float32, shape, of_images=True).to(torch.bfloat16)
            else:
                of_images = gradient(torch.bfloat16, images, of_images=True)
        of_weight = None
        if ctx.needs_input_grad[1]:
            dtype = torch.float32 if max(weight.shape[2:]) > _LARGEST_FAST_KERNEL else torch.bfloat16
            of_weight = gradient(dtype, images.to(dtype), of_images=False).to(torch.float32)
        return of_images, of_weight, None, None, None


def use_fast_depthwise(model: nn.Module, same_padded: type[nn.Module], pad_same: Callable[..., Tensor]) -> None:
    """Change the depthwise convolutions of a network in place; names, weights and outputs stay.

    Args:
        model: The network.
        same_padded: timm's class of convolutions with TensorFlow's padding.
        pad_same: Their padding.
    """
    for module in model.modules():
        kind = type(module)
        if kind not in (nn.Conv2d, same_padded) or not isinstance(module, nn.Conv2d):
            continue
        plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        if module.groups > 1 and module.groups == module.in_channels == module.out_channels and plain:
            module.__class__ = DepthwiseConv2d
            if kind is same_padded:
                module.pad_same = pad_same  # type: ignore[assignment]

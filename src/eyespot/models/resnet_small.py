"""`resnet18-small`: ResNet-18 with a stem for small pictures.

Before it: normalised images. After it: loss or probabilities.
"""

from __future__ import annotations

from torch import Tensor, nn

from eyespot.errors import ModelError
from eyespot.models.protocol import check_images, check_num_classes, check_request

NAME = "resnet18-small"
MIN_SIZE_PX = 8  # Three strides of 2: below 8 px the last stage would only convolve its own padding.


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.relu2 = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's map, (B, out_channels, H / stride, W / stride), of one (B, in_channels, H, W)."""
        residual = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(features)))))
        output: Tensor = self.relu2(residual + self.shortcut(features))
        return output


class ResNet18Small(nn.Module):
    """ResNet-18 for pictures around 32 px: 11,173,962 parameters at RGB, 10 classes, and any image size from 8 px.

    The stem is one 3x3 convolution with stride 1 and no pooling, so that the four stages see maps of 32, 16, 8 and 4 px
    where ImageNet's stem would leave 8, 4, 2 and 1. Global average pooling before the classifier.

    Args:
        num_classes: Number of outputs, K; at least 2.
        in_channels: Number of image channels, C.
        width: Channels of the stem and the first stage; the others have 2, 4 and 8 times as many.
        zero_init: Start the last normalisation of each block at zero, so that every block begins as its shortcut.

    Raises:
        ModelError: A class count, channel count or width that cannot be.

    Source:
        He, Zhang, Ren and Sun 2016, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, table 1 (18
        layers, projection shortcuts), weights started after arXiv:1502.01852 (fan out). Changed: the stem, as is usual
        for CIFAR-10 (github.com/kuangliu/pytorch-cifar). `zero_init`: Goyal et al. 2017, arXiv:1706.02677, section 5.1.
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 3, *, width: int = 64, zero_init: bool = False
    ) -> None:
        super().__init__()
        # Global pooling: no size is fixed at construction, so only the other two requests can fail here.
        check_request(
            NAME, num_classes=num_classes, in_channels=in_channels, size_px=MIN_SIZE_PX, min_size_px=MIN_SIZE_PX
        )
        if width < 1:
            raise ModelError(f"width {width} is below 1", where=f"model {NAME!r}", remedy="use 64, the usual width")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.num_features = 8 * width
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stage1 = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, width, 1))
        self.stage2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1))
        self.stage3 = nn.Sequential(BasicBlock(2 * width, 4 * width, 2), BasicBlock(4 * width, 4 * width, 1))
        self.stage4 = nn.Sequential(BasicBlock(4 * width, 8 * width, 2), BasicBlock(8 * width, 8 * width, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(self.num_features, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, BasicBlock) and zero_init:
                nn.init.zeros_(layer.norm2.weight)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last map, (B, 8 * width, H / 8, W / 8) rounded up, of images float (B, C, H, W)."""
        check_images(NAME, images, in_channels=self.in_channels)
        stem = self.relu(self.norm(self.conv(images)))
        features: Tensor = self.stage4(self.stage3(self.stage2(self.stage1(stem))))
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (B, K) of the last map, or with `pre_logits` its mean over positions (B, num_features)."""
        vector: Tensor = self.flatten(self.pool(features))
        return vector if pre_logits else self.classifier(vector)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float (B, K), of images float (B, C, H, W)."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """Return the last layer: (B, num_features) in, (B, K) out."""
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Put a newly initialised last layer with `num_classes` outputs in place of the old one."""
        check_num_classes(NAME, num_classes)
        old = self.classifier
        self.num_classes = num_classes
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)


def build_resnet18_small(
    *, num_classes: int, in_channels: int, size_px: int, width: int = 64, zero_init: bool = False
) -> ResNet18Small:
    """Return a `resnet18-small` for images of `size_px`, which only has to be large enough.

    Args:
        num_classes: Number of outputs, K; at least 2.
        in_channels: Number of image channels, C.
        size_px: Side of the images to come, in pixels; at least 8.
        width: Channels of the first stage.
        zero_init: Start every block as its shortcut.

    Raises:
        ModelError: A class count, channel count, size or width that cannot be.
    """
    check_request(NAME, num_classes=num_classes, in_channels=in_channels, size_px=size_px, min_size_px=MIN_SIZE_PX)
    return ResNet18Small(num_classes, in_channels, width=width, zero_init=zero_init)

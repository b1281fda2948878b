"""`vgg16-mini`: eight 3x3 convolutions in four blocks, the small VGG of the gomez2025 study.

Before it: normalised images. After it: loss or probabilities.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from eyespot.models.dropout import Dropout
from eyespot.models.keras_defaults import KerasNetwork, keras_init, keras_norm
from eyespot.models.protocol import check_dropout, check_request

NAME = "vgg16-mini"
MIN_SIZE_PX = 16  # Four poolings halve the map; below 16 px the last one has nothing left.
WIDTHS = (32, 64, 128, 256)


class VGGMini(KerasNetwork):
    """A VGG with nine weight layers: 1,184,426 parameters and 1,920 statistics at 32 px, RGB, 10 classes.

    Four blocks of (conv 3x3 "same" - ReLU - batch norm) twice - pool 2x2 - dropout, with 32, 64, 128 and 256 channels,
    then Flatten and Dense K. The name is the publication's; "16" layers are 9. Initial weights are Keras' defaults:
    Glorot uniform, zero bias.

    Args:
        num_classes: Number of outputs, K; at least 2.
        in_channels: Number of image channels, C.
        size_px: Side of the square images, in pixels; at least 16. The dense layer's size follows from it.
        dropout: Rates after the four blocks, each in [0, 1).

    Raises:
        ModelError: A class count, channel count, size or rate that cannot be.

    Source:
        Gomez Cruz, "CIFAR-10 Image Classification", 2025, figure 2, whose caption counts 1,186,346 parameters, the
        statistics included. It gives neither activation nor dropout rates: ReLU in the convolution (before the
        normalisation, as `Conv2D(activation="relu")` does it) and the rates 0.2, 0.3, 0.4, 0.5 are ours. Changed:
        logits instead of softmax, and see `keras_norm`.
    """

    name = NAME

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        size_px: int = 32,
        dropout: Sequence[float] = (0.2, 0.3, 0.4, 0.5),
    ) -> None:
        super().__init__()
        check_request(NAME, num_classes=num_classes, in_channels=in_channels, size_px=size_px, min_size_px=MIN_SIZE_PX)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, map_px = in_channels, size_px
        for block, (width, rate) in enumerate(zip(WIDTHS, dropout, strict=True), start=1):
            check_dropout(f"model {NAME!r}", rate)
            for number in (1, 2):
                layers[f"conv{block}_{number}"] = nn.Conv2d(channels, width, 3, padding=1)
                layers[f"relu{block}_{number}"] = nn.ReLU()
                layers[f"norm{block}_{number}"] = keras_norm(width)
                channels = width
            layers[f"pool{block}"] = nn.MaxPool2d(2)
            layers[f"drop{block}"] = Dropout(rate)
            map_px //= 2
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.num_features = channels * map_px * map_px
        self.size_px = size_px
        self.features = nn.Sequential(layers)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(self.num_features, num_classes)
        keras_init(self)

    def read_map(self, features: Tensor) -> Tensor:
        """Return the last map (B, 256, size_px // 16, size_px // 16), flattened."""
        vector: Tensor = self.flatten(features)
        return vector

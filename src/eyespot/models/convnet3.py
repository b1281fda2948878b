"""`convnet3`: three convolutions and one hidden layer, the network of the dll2018 study.

Before it: normalised images. After it: loss or probabilities.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from eyespot.models.dropout import Dropout
from eyespot.models.keras_defaults import KerasNetwork, keras_init
from eyespot.models.protocol import check_dropout, check_request

NAME = "convnet3"
MIN_SIZE_PX = 8  # Three poolings halve the map; below 8 px the last one has nothing left.
HIDDEN = 80


class ConvNet3(KerasNetwork):
    """A small network for small pictures: 257,978 parameters at 32 px, RGB, 10 classes.

    Conv 3x3 (32) - ReLU - pool - dropout, the same with 64 and 128 channels, Flatten, Dense 80 - ReLU - dropout,
    Dense K. Convolutions keep the map's size ("same"), poolings are 2x2 and drop an odd last row, as in Keras.
    Initial weights are Keras' defaults: Glorot uniform, zero bias.

    Args:
        num_classes: Number of outputs, K; at least 2.
        in_channels: Number of image channels, C.
        size_px: Side of the square images, in pixels; at least 8. The hidden layer's size follows from it.
        dropout: Rates after pool 1, 2 and 3 and after the hidden layer, each in [0, 1).

    Raises:
        ModelError: A class count, channel count, size or rate that cannot be.

    Source:
        "[Deep Learning Lab] Episode-2: CIFAR-10", Deep Learning Turkey, 2018. The article lost its activation, dropout
        and dense lines; they are recovered from public copies of the program. Changed: logits instead of softmax.
    """

    name = NAME

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        size_px: int = 32,
        dropout: Sequence[float] = (0.3, 0.3, 0.4, 0.3),
    ) -> None:
        super().__init__()
        check_request(NAME, num_classes=num_classes, in_channels=in_channels, size_px=size_px, min_size_px=MIN_SIZE_PX)
        drop1, drop2, drop3, drop_hidden = dropout
        for rate in dropout:
            check_dropout(f"model {NAME!r}", rate)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.num_features = HIDDEN
        self.size_px = size_px

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for number, (width, rate) in enumerate(zip((32, 64, 128), (drop1, drop2, drop3), strict=True), start=1):
            layers[f"conv{number}"] = nn.Conv2d(channels, width, 3, padding=1)
            # Published the other way round: the same numbers and gradients, to the bit, and four times the elements.
            layers[f"pool{number}"] = nn.MaxPool2d(2)
            layers[f"relu{number}"] = nn.ReLU()
            layers[f"drop{number}"] = Dropout(rate)
            channels = width
        self.features = nn.Sequential(layers)
        map_px = size_px // 2 // 2 // 2
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(channels * map_px * map_px, HIDDEN)
        self.hidden_relu = nn.ReLU()
        self.hidden_drop = Dropout(drop_hidden)
        self.classifier = nn.Linear(HIDDEN, num_classes)
        keras_init(self)

    def read_map(self, features: Tensor) -> Tensor:
        """Return the hidden vector (B, 80), at least 0, of the last map (B, 128, size_px // 8, size_px // 8)."""
        vector: Tensor = self.hidden_drop(self.hidden_relu(self.hidden(self.flatten(features))))
        return vector

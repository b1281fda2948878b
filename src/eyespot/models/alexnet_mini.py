"""`alexnet-mini`: five convolutions and three dense layers, the small AlexNet of the gomez2025 study.

Before it: normalised images. After it: loss or probabilities.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from eyespot.models.dropout import Dropout
from eyespot.models.keras_defaults import KerasNetwork, keras_init, keras_norm
from eyespot.models.protocol import check_dropout, check_request

NAME = "alexnet-mini"
MIN_SIZE_PX = 23  # 11x11 with stride 4 leaves 4x4 of 23 px, which two poolings halve to 1x1.
HIDDEN = 1024


class AlexNetMini(KerasNetwork):
    """An AlexNet cut for 32 px: 2,913,034 parameters and 2,304 statistics at 32 px, RGB, 10 classes.

    Conv 11x11 stride 4 "valid" (128) - pool - conv 5x5 (256) - pool - conv 3x3, 1x1, 1x1 (256) - pool - Flatten - Dense
    1024 twice, each with ReLU and dropout - Dense K. Each convolution is followed by ReLU and batch norm. At 32 px the
    map is 6x6 after the first layer and 1x1 before the third convolution, which explains the study's 72 %: `eyespot
    models alexnet-mini` warns of it. Initial weights are Keras' defaults: Glorot uniform, zero bias.

    Args:
        num_classes: Number of outputs, K; at least 2.
        in_channels: Number of image channels, C.
        size_px: Side of the square images, in pixels; at least 23. The first dense layer's size follows from it.
        dropout: Rate after each of the two hidden dense layers, in [0, 1).

    Raises:
        ModelError: A class count, channel count, size or rate that cannot be.

    Source:
        Gomez Cruz, "CIFAR-10 Image Classification", 2025, figure 3, whose caption counts 2,915,338 parameters, the
        statistics included. Its map sizes 6, 3, 1, 1 allow no single setting for the three poolings: 2x2 with stride 2
        here, the first two dropping an odd last row ("valid"), the third keeping it ("same"). Activation and dropout
        rate are not given: ReLU before the normalisation and 0.5 are ours. Changed: logits instead of softmax, and see
        `keras_norm`.
    """

    name = NAME

    def __init__(self, num_classes: int = 10, in_channels: int = 3, *, size_px: int = 32, dropout: float = 0.5) -> None:
        super().__init__()
        check_request(NAME, num_classes=num_classes, in_channels=in_channels, size_px=size_px, min_size_px=MIN_SIZE_PX)
        check_dropout(f"model {NAME!r}", dropout)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.num_features = HIDDEN
        self.size_px = size_px

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        convolutions = (
            nn.Conv2d(in_channels, 128, 11, stride=4),
            nn.Conv2d(128, 256, 5, padding=2),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.Conv2d(256, 256, 1),
            nn.Conv2d(256, 256, 1),
        )
        # Keras pads "same" pooling at the end only, which is what ceil_mode does; "valid" is the floor.
        poolings = {1: nn.MaxPool2d(2), 2: nn.MaxPool2d(2), 5: nn.MaxPool2d(2, ceil_mode=True)}
        for number, convolution in enumerate(convolutions, start=1):
            layers[f"conv{number}"] = convolution
            layers[f"relu{number}"] = nn.ReLU()
            layers[f"norm{number}"] = keras_norm(convolution.out_channels)
            if number in poolings:
                layers[f"pool{number}"] = poolings[number]
        self.features = nn.Sequential(layers)

        map_px = ((size_px - 11) // 4 + 1) // 2 // 2  # 32 px: 6 -> 3 -> 1
        map_px = (map_px + 1) // 2  # "same": 1 -> 1
        self.hidden = nn.Sequential(
            OrderedDict[str, nn.Module](
                flatten=nn.Flatten(),
                dense1=nn.Linear(256 * map_px * map_px, HIDDEN),
                relu1=nn.ReLU(),
                drop1=Dropout(dropout),
                dense2=nn.Linear(HIDDEN, HIDDEN),
                relu2=nn.ReLU(),
                drop2=Dropout(dropout),
            )
        )
        self.classifier = nn.Linear(HIDDEN, num_classes)
        keras_init(self)

    def read_map(self, features: Tensor) -> Tensor:
        """Return the hidden vector (B, 1024), at least 0, of the last map (B, 256, H', H'), H' = 1 at 32 px."""
        vector: Tensor = self.hidden(features)
        return vector

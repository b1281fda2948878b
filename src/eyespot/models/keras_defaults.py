"""What the networks of the published studies share: Keras' initial weights, its batch normalisation, and one way.

Before it: nothing. After it: the networks of the published studies, which were all Keras programs.
"""

from __future__ import annotations

from torch import Tensor, nn

from eyespot.models.protocol import check_images, check_num_classes

KERAS_NORM_EPS = 1e-3


def keras_norm(channels: int) -> nn.BatchNorm2d:
    """Return batch normalisation over maps (B, channels, H, W) with Keras' epsilon.

    Changed: the moving statistics forget at torch's rate (0.9 of the old value is kept at a step), not at Keras' 0.99,
    which still holds 80 % of its meaningless start value after 22 steps, an epoch of 1,400 pictures. A long training
    does not notice.
    """
    return nn.BatchNorm2d(channels, eps=KERAS_NORM_EPS)


def keras_init(module: nn.Module) -> None:
    """Set every convolution and linear layer in `module` to Keras' initial weights: Glorot uniform, zero bias.

    The limit is sqrt(6 / (fan_in + fan_out)), where a convolution's fans count its kernel area. Draws from torch's
    global generator, so that `torch.manual_seed` decides the weights.

    Args:
        module: Network or layer, changed in place.

    Source:
        Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", eq. 16.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class KerasNetwork(nn.Module):
    """A network of a fixed picture size: `features` makes the last map, `read_map` a vector of it, `classifier` logits.

    Attributes:
        name: Of the model, for errors.
        num_classes: Number of outputs, K.
        in_channels: Number of image channels, C.
        num_features: Length of the vector that the classifier reads.
        size_px: Side of the square images, in pixels.
    """

    name: str
    num_classes: int
    in_channels: int
    num_features: int
    size_px: int
    features: nn.Sequential
    classifier: nn.Linear

    def read_map(self, features: Tensor) -> Tensor:
        """Return what the classifier reads, (B, num_features), of the last map."""
        raise NotImplementedError

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last map, (B, C', H', W'), of images float (B, C, size_px, size_px)."""
        check_images(self.name, images, in_channels=self.in_channels, size_px=self.size_px)
        features: Tensor = self.features(images)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (B, K) of the last map, or with `pre_logits` what the classifier reads, (B, num_features)."""
        vector = self.read_map(features)
        return vector if pre_logits else self.classifier(vector)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float (B, K), of images float (B, C, size_px, size_px)."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """Return the last layer: (B, num_features) in, (B, K) out."""
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Put a newly initialised last layer with `num_classes` outputs in place of the old one."""
        check_num_classes(self.name, num_classes)
        old = self.classifier
        self.num_classes = num_classes
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        keras_init(self.classifier)

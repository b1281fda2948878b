"""What Keras does where a publication says nothing: initial weights and the epsilon of its batch normalisation.

Before it: nothing. After it: the networks of the published studies, which were all Keras programs.
"""

from __future__ import annotations

from torch import nn

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


def keras_linear_like(old: nn.Linear, num_classes: int) -> nn.Linear:
    """Return a new classifier with `num_classes` outputs for the place of `old`: its inputs, device and dtype."""
    new = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    keras_init(new)
    return new

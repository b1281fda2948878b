"""Training pictures as a recipe's augmentation would show them to the network: look before you train.

Before this: packed pictures and a recipe. After this: `eyespot data show --recipe` writes them as a grid.
"""

from __future__ import annotations

import numpy as np
import torch

from eyespot.arrays import Int64Array, UInt8Array
from eyespot.config import Config
from eyespot.data.dataset import PackedDataset
from eyespot.data.splits import Splits
from eyespot.data.transforms import build_train_transform
from eyespot.models.registry import model_entry
from eyespot.seeds import derive_seed
from eyespot.training.prepare import frozen_mode, read_pixels, recipe_spec
from eyespot.training.transfer import describe_views


def preview_augmentation(
    packed: PackedDataset, splits: Splits, config: Config, rows: Int64Array, *, versions: int, seed: int
) -> tuple[UInt8Array, str]:
    """Return some training pictures as they are, each followed by what the first epochs would make of it.

    Args:
        packed: Scanned and packed pictures.
        splits: Which of them are trained on: a recipe's statistics are theirs.
        config: The recipe.
        rows: int64 (N,) of pictures of the source split `train`.
        versions: How often each picture is shown, the plain one counted; a frozen backbone sees as many as are stored
            at most.
        seed: Another one draws other versions.

    Returns:
        uint8 (N * V, H, W, C), the V pictures of each row side by side, and what was done to them in words.

    Raises:
        ConfigError: An augmentation that these pictures do not allow.
    """
    transform = build_train_transform(config.augment, recipe_spec(packed, splits, config), seed=config.training.seed)
    stored = 0
    if model_entry(config.model.name).is_backbone and frozen_mode(config) == "features":
        stored = config.features.views
        versions = min(versions, stored)
    plain = torch.from_numpy(read_pixels(packed, "train", rows)).permute(0, 3, 1, 2)  # (N, C, H, W)
    labels = torch.from_numpy(packed.splits["train"].labels[rows])
    columns = [plain]
    for version in range(1, versions):
        if version == 1 and stored:
            columns.append(plain.flip(3))
            continue
        generator = torch.Generator().manual_seed(derive_seed(seed, "preview", version))
        columns.append(
            transform.pixels(plain, labels, generator=generator, epoch=version - 1, indices=torch.from_numpy(rows))
        )
    pixels = torch.stack(columns, dim=1).flatten(0, 1).permute(0, 2, 3, 1)  # (N * V, H, W, C)
    return np.ascontiguousarray(pixels.numpy()), describe_views(transform.describe(), stored)

"""One step of training: a batch becomes what the network sees, a loss, and moved weights.

Before this: `prepare`, which makes the data. After this: the loop in `fit`, the range test of `lr_finder`, the estimate
of a study. All of them train with the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from eyespot.config import Config
from eyespot.data.loaders import Batch, Loader
from eyespot.data.mixing import mix_batch
from eyespot.data.transforms import EvalTransform, TrainTransform
from eyespot.device import ComputePlan
from eyespot.seeds import derive_seed


@dataclass(frozen=True)
class TrainData:
    """What the loop may see: train, and val to select on. There is no test.

    Attributes:
        train: Shuffled batches.
        val: Batches in order; None with --final.
        train_transform: Augmentation, then normalisation.
        eval_transform: Normalisation only; the object that is stored with the model.
        num_classes: K.
        class_weights: float32 (K,) on the device, what a picture of each class counts in the loss; None: all the same.
    """

    train: Loader
    val: Loader | None
    train_transform: TrainTransform
    eval_transform: EvalTransform
    num_classes: int
    class_weights: torch.Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Return the pictures of a full step: all of train, where the recipe asks for more than there are."""
        return min(self.train.batch_size, self.train.num_images)


def draw_inputs(
    batch: Batch, data: TrainData, config: Config, *, step: int, epoch: int, progress: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the network sees of a batch at a training step: augmented, normalised, resized and mixed.

    Args:
        batch: From the training loader.
        data: For its augmentation and number of classes.
        config: The recipe.
        step: Steps taken before; with the seed it decides augmentation and mixing.
        epoch: Finished epochs, for augmentation that alternates.
        progress: Share of the run that is over, in [0, 1], for progressive sizes.

    Returns:
        Images float32 (B, C, S, S), and targets float32 (B, K), each row with the sum 1.
    """
    settings = config.training
    # On the CPU: the same draws on every device, and a GPU need not be waited for.
    generator = torch.Generator()
    generator.manual_seed(derive_seed(settings.seed, "augment", step))
    images = data.train_transform(batch.images, batch.labels, generator=generator, epoch=epoch, indices=batch.indices)
    images = resize_images(images, settings.size_schedule, progress)
    targets = F.one_hot(batch.labels, data.num_classes).to(images.dtype)  # (B, K)
    if settings.mixup_alpha or settings.cutmix_alpha:
        images, targets = mix_batch(
            images,
            targets,
            mixup_alpha=settings.mixup_alpha,
            cutmix_alpha=settings.cutmix_alpha,
            generator=generator,
        )
    return images, targets


def compute_loss(
    model: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    data: TrainData,
    config: Config,
    plan: ComputePlan,
    *,
    step: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of a training step, float32 (), and its logits, float32 (B, K).

    Args:
        model: Put into training mode.
        images: float32 (B, C, S, S).
        targets: float32 (B, K).
        data: For the weights of the classes.
        config: The recipe.
        plan: Device and precision.
        step: Steps taken before; with the seed it decides the dropout.
    """
    # Dropout and everything else that asks torch for randomness: a function of (seed, step).
    _seed_torch(derive_seed(config.training.seed, "dropout", step), plan.device)
    model.train()
    with plan.autocast():
        logits = model(images)  # (B, K)
    logits = logits.float()
    smoothing = config.training.label_smoothing
    if data.class_weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing), logits
    # torch would weigh each class's share of a smoothed target: a rare class then has the most of every picture's.
    weighted = targets * data.class_weights
    spread = smoothing / targets.shape[1] * weighted.sum(1, keepdim=True)
    return F.cross_entropy(logits, (1 - smoothing) * weighted + spread), logits


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, *, clip_norm: float) -> None:
    """Take an optimizer step down the gradient of a loss; a `clip_norm` of 0 clips nothing."""
    loss.backward()  # type: ignore[no-untyped-call]
    if clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def fit_sizes(config: Config, full_px: int) -> Config:
    """Return a recipe whose progressive sizes end at the full side: those it names are for pictures of the last one.

    A network that ends its training on smaller pictures than it is shipped for has not seen their scale.
    """
    sizes = config.training.size_schedule
    if not sizes or sizes[-1][1] >= full_px:
        return config
    fitted = [(share, round(size * full_px / sizes[-1][1])) for share, size in sizes]
    return config.model_copy(update={"training": config.training.model_copy(update={"size_schedule": fitted})})


def resize_images(images: torch.Tensor, size_schedule: Sequence[tuple[float, int]], progress: float) -> torch.Tensor:
    """Return the images at the side that progressive training asks for at a share of the run."""
    side = images.shape[-1]
    for share, size in size_schedule:
        if progress >= share:
            side = size
    if side >= images.shape[-1]:
        return images
    smaller = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return smaller.contiguous(memory_format=torch.channels_last)


def _seed_torch(seed: int, device: str) -> None:
    """Seed the generators that a model on a device draws from.

    Not `torch.manual_seed`: for every kind of accelerator that is not in use it keeps a formatted stack trace, a
    millisecond a step (profile of 300 steps of `dll2018`, of 14 ms each).
    """
    torch.default_generator.manual_seed(seed)
    kind = device.split(":")[0]
    if kind == "cuda":
        torch.cuda.manual_seed_all(seed)  # the other one seeds the current GPU, which may not be this
    elif kind == "mps":
        torch.mps.manual_seed(seed)

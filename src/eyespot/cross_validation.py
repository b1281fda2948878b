"""What a model says about pictures that it was not fitted to, for all pictures of a data set: cross-validation.

Before this: `label_check` divided the pictures into folds. After this: `analysis.label_errors` judges the labels.

Of many small pictures a network is trained from scratch for each fold, in a given time. Others are encoded once by a
pretrained backbone, and each fold costs a solved head.

Letters: N pictures of all splits, in the order of the splits; K classes; D features.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from eyespot.arrays import BoolArray, FeatureArray, Float32Array, Int64Array
from eyespot.caches import cache_folder
from eyespot.locks import file_lock
from eyespot.opening import Observer, load_recipe

if TYPE_CHECKING:
    from eyespot.config import Config
    from eyespot.data.dataset import PackedDataset, SplitName
    from eyespot.evaluation.views import Views
    from eyespot.training.fit import TrainState

Progress: TypeAlias = Callable[[int, int], None]

_BLOCK = 4096
_FEW_PICTURES = 10_000


def encode_all(packed: PackedDataset, names: Sequence[SplitName], config: Config, watcher: Observer) -> Any:
    """Return the features of all pictures, one array float16 or float32 (n, D) a split; they stay in the cache.

    Raises:
        DownloadError: The backbone's weights cannot be had.
        CheckpointError: They are damaged.
        DataError: The cache cannot be written.
    """
    from eyespot.data.splits import Splits
    from eyespot.device import plan_compute, prepare_process, random_numbers_kept
    from eyespot.models.pretrained import PretrainedClassifier
    from eyespot.training.features import Encoder, FrozenNetwork
    from eyespot.training.prepare import prepare_training
    from eyespot.training.transfer import encode

    plan = plan_compute("auto", config.training.precision)
    prepare_process(plan)
    everything = {name: np.arange(len(packed.splits[name])) for name in names}
    with random_numbers_kept(plan):
        prepared = prepare_training(packed, Splits(packed.fingerprint, {"train": everything}), config, plan)
    assert isinstance(prepared.model, PretrainedClassifier)
    encoder = Encoder(FrozenNetwork.pooled(prepared.model), packed, prepared.spec, plan, config.augment)
    store = encode(encoder, [*names], 1, watcher)
    return [store.arrays[name][0] for name in names]


def heads_out_of_sample(
    features: Sequence[FeatureArray],
    labels: Int64Array,
    fold: Int64Array,
    *,
    num_classes: int,
    keep: BoolArray | None = None,
    penalty: float | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[Float32Array, float]:
    """Return each picture's logits by a linear head that was fitted to the other folds, and the penalty.

    Args:
        features: One array float16 or float32 (n, D) a split; together N rows.
        labels: int64 (N,).
        fold: int64 (N,), in [0, folds).
        num_classes: K.
        keep: bool (N,), the pictures that heads may be fitted to; all when left out. All are judged.
        penalty: L2; chosen in the first fold, on a tenth of what it is fitted to, when left out.
        progress: Told (done, all), in folds.

    Returns:
        float32 (N, K), and the penalty.
    """
    from eyespot.training.feature_rows import FeatureRows
    from eyespot.training.solvers import solve_linear_head

    logits = np.zeros((len(labels), num_classes), np.float32)
    starts = np.cumsum([0, *map(len, features)]).tolist()
    fitted = np.ones(len(labels), np.bool_) if keep is None else keep
    folds = int(fold.max()) + 1
    for number in range(folds):
        parts, others = [], fitted & (fold != number)
        for start, array in zip(starts, features, strict=False):
            rows = np.flatnonzero(others[start : start + len(array)])
            if len(rows):
                parts.append(FeatureRows((array,), rows, labels[start + rows]))
        grid = None if penalty is None else [penalty]
        head = solve_linear_head(parts, [], num_classes=num_classes, l2_grid=grid, seed=number)
        penalty = head.l2
        weight, bias = head.weight.numpy(), head.bias.numpy()
        for start, array in zip(starts, features, strict=False):
            rows = np.flatnonzero(fold[start : start + len(array)] == number)
            for block in np.array_split(rows, max(1, len(rows) // _BLOCK)):
                logits[start + block] = array[block].astype(np.float32) @ weight.T + bias
        progress(number + 1, folds)
    assert penalty is not None
    return logits, penalty


def recipe_from_scratch(number: int, minutes: float) -> Config:
    """Return the recipe for a network that is trained for each fold, cut to its share of the time."""
    settings = {"data.on_bad_image": "skip", "data.val_fraction": 0.0, "training.minutes": minutes}
    return load_recipe("fast" if number >= _FEW_PICTURES else "small", settings)


@contextmanager
def networks_out_of_sample(
    packed: PackedDataset, names: Sequence[SplitName], fold: Int64Array, config: Config, watcher: Observer
) -> Iterator[Float32Array]:
    """Yield each picture's logits, float32 (N, K), by a network that was trained from scratch on the other folds.

    The networks are in the cache until the `with` block has ended well: the same call goes on after a kill.

    Args:
        packed: Packed for the recipe.
        names: Its splits.
        fold: int64 (N,), in [0, folds).
        config: The recipe of one fold.
        watcher: Told how far it is.

    Raises:
        DivergedError, MemoryLimitError, Interrupted: As `fit`.
    """
    from eyespot.device import plan_compute, prepare_process, random_numbers_kept
    from eyespot.runs import RunWriter
    from eyespot.training.fit import fit
    from eyespot.training.prepare import prepare_training

    plan = plan_compute("auto", config.training.precision)
    prepare_process(plan)
    logits = np.zeros((len(fold), packed.dataset.num_classes), np.float32)
    folds = int(fold.max()) + 1
    folder = cache_folder("checks") / f"folds-{_key_of_folds(packed, names, fold, config)}"
    waiting = partial(watcher.on_message, "waiting for another process that checks the same labels")
    with file_lock(folder.with_name(f"{folder.name}.lock"), on_wait=waiting):
        for number in range(folds):
            told = _Steps(watcher, f"cross-validating, network {number + 1} of {folds}")
            with RunWriter(folder / str(number), config, resume=True) as writer:
                others = _rows_of(packed, names, fold != number)
                with random_numbers_kept(plan):
                    prepared = prepare_training(packed, others, config, plan, writer=writer)
                with prepared.data.train:
                    result = fit(prepared.model, prepared.data, config, plan=plan, writer=writer, observer=told)
            mine = fold == number
            views = config.evaluation.views
            logits[mine] = _answers(result.model, prepared, packed, _rows_of(packed, names, mine), plan, views)
        yield logits
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Steps:
    """Of the training of one network only the steps are told."""

    watcher: Observer
    label: str

    def on_step(self, state: TrainState, *, loss: float | None, top1: float | None) -> None:
        self.watcher.on_count(self.label, state.step, state.total_steps, unit="steps")

    def on_epoch(self, row: dict[str, Any]) -> None:
        pass

    def on_message(self, text: str) -> None:
        pass


def _key_of_folds(packed: PackedDataset, names: Sequence[SplitName], fold: Int64Array, config: Config) -> str:
    """Return 32 hex digits for what the networks of all folds depend on; labels may have been corrected since."""
    digest = hashlib.blake2b(f"{packed.fingerprint}\n{config.to_toml()}".encode(), digest_size=16)
    for numbers in (fold, *(packed.splits[name].labels for name in names)):
        digest.update(np.ascontiguousarray(numbers, dtype="<i8").data)
    return digest.hexdigest()


def _rows_of(packed: PackedDataset, names: Sequence[SplitName], chosen: BoolArray) -> Any:
    """Return some of the N pictures as the train split of a division."""
    from eyespot.data.splits import Splits

    starts = np.cumsum([0, *(len(packed.splits[name]) for name in names)])
    rows = {
        name: np.flatnonzero(chosen[start : start + len(packed.splits[name])])
        for name, start in zip(names, starts.tolist(), strict=False)
    }
    return Splits(packed.fingerprint, {"train": {name: found for name, found in rows.items() if len(found)}})


def _answers(model: Any, prepared: Any, packed: PackedDataset, splits: Any, plan: Any, views: Views) -> Float32Array:
    """Return the logits of the pictures of a division, in their order, float32 (n, K)."""
    import torch

    from eyespot.data.loaders import make_loader
    from eyespot.evaluation.views import view_logits

    parts = []
    with (
        make_loader(
            packed,
            splits,
            "train",
            batch_size=500,
            shuffle=False,
            seed=0,
            drop_last=False,
            device=plan.device,
            workers=0,
        ) as loader,
        torch.inference_mode(),
    ):
        model.eval()
        for batch in loader.batches(0):
            with plan.autocast():
                images = prepared.data.eval_transform(batch.images)
                parts.append(view_logits(model, images, views).cpu())
    return np.asarray(torch.cat(parts).numpy())

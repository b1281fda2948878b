"""How a backbone is trained: its head on stored features, everything in the loop, or the one after the other.

Before this: `prepare`. After this: `finishing`. Networks without pretrained parts go straight to `fit`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import nn

from eyespot.config import Config
from eyespot.data.dataset import PackedDataset, SplitName
from eyespot.data.loaders import BatchPlan, Loader
from eyespot.data.splits import Splits
from eyespot.device import ComputePlan
from eyespot.errors import CheckpointError
from eyespot.evaluation.metrics import nll_loss
from eyespot.models.frozen_part import cut_at_first_trained
from eyespot.models.pretrained import PretrainedClassifier
from eyespot.runs import Run, RunWriter
from eyespot.training import fit as loop
from eyespot.training.balance import class_weights
from eyespot.training.feature_rows import FeatureRows
from eyespot.training.features import Encoder, FeatureStore, FrozenNetwork
from eyespot.training.fit import FitResult, TrainState
from eyespot.training.lr_finder import resolve_learning_rate
from eyespot.training.prepare import Prepared, frozen_mode
from eyespot.training.solvers import LinearHead, solve_linear_head
from eyespot.training.step import TrainData, fit_sizes
from eyespot.training.stopping import stop_signals
from eyespot.training.stored_features import (
    FeatureHead,
    FeatureLoader,
    StoredEvalTransform,
    StoredTrainTransform,
    head_logits,
)

# What provenance keeps: decisions that a resumed run must not take anew, on another disk or with another clock.
_FROZEN_PART, _STORED, _COMPUTED = "frozen_part", "stored", "computed"
_SECONDS_IN_CACHE = "seconds_in_cache"
_FINETUNE_MINUTES = "finetune_minutes"

_T = TypeVar("_T", str, float)

# Of the section `training`, what only the loop reads.
_OF_THE_LOOP = {
    f"training.{name}"
    for name in ("epochs", "batch_size", "drop_last", "clip_norm", "ema_decay", "early_stopping_epochs", "restore_best")
}


class Observer(loop.Observer, Protocol):
    """What watches a training: the loop's observer, told about counts too."""

    def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
        """Called while pictures are encoded."""


@dataclass(frozen=True)
class Trained:
    """What training left.

    Attributes:
        result: The whole model and the counters.
        store: The features of the pictures, where the head was trained on them and the backbone is as it was.
        encoder: Encodes the pictures that `store` lacks.
        head: How the head was found; empty where the loop trained it.
        stored_views: How many stored views of each picture training saw; 0 where it augmented pixels.
        seconds_before: What encoding train and val took, whenever that was, and solving the head: the loop's own
            counter knows nothing of it.
    """

    result: FitResult
    store: FeatureStore | None = None
    encoder: Encoder | None = None
    head: dict[str, Any] = field(default_factory=dict)
    stored_views: int = 0
    seconds_before: float = 0.0


def train_model(
    prepared: Prepared,
    packed: PackedDataset,
    splits: Splits,
    config: Config,
    *,
    plan: ComputePlan,
    writer: RunWriter,
    observer: Observer,
) -> Trained:
    """Train a prepared model as the recipe's mode says.

    Args:
        prepared: Model, loaders and transforms.
        packed: The pictures.
        splits: Which of them are train and val.
        config: The recipe.
        plan: Device and precision.
        writer: The locked run folder.
        observer: Told about steps, epochs, counts and messages.

    Raises:
        DataError: The feature cache cannot be written, or has no room any more for what this run stores in it.
        DivergedError, MemoryLimitError, CheckpointError, Interrupted: As `fit`.
    """
    model, mode = prepared.model, frozen_mode(config)
    if not isinstance(model, PretrainedClassifier):
        return Trained(_fit_pixels(prepared, config, plan=plan, writer=writer, observer=observer))
    if mode == "last-block" or config.model.freeze_until:
        return _fit_rest(prepared, packed, splits, config, plan=plan, writer=writer, observer=observer)
    # A head that needs the loop is trained in it: training.freeze_epochs keeps the backbone still at first.
    if mode == "full" or (mode == "finetune" and not is_solved(config, model)):
        return Trained(_fit_pixels(prepared, config, plan=plan, writer=writer, observer=observer))
    views = config.features.views
    observer.on_message(f"training pictures: {describe_views(prepared.data.train_transform.describe(), views)}")
    encoder = _encoder(FrozenNetwork.pooled(model), prepared, packed, splits, config, plan)
    sources = sources_of(splits, "train", "val")
    observer.on_message(f"features: {encoder.estimate(sources, views)}")
    encoder.check_space(sources, views)
    in_cache = 0.0
    if config.training.minutes:
        # What this run encodes counts towards the limit, whatever life of it; what was there when it began does not.
        in_cache = _once(writer, _SECONDS_IN_CACHE, lambda: encoder.seconds_kept(sources, views))
    store = encode(encoder, sources, views, observer)
    if not is_solved(config, model):
        return _fit_head(prepared, splits, config, store, encoder, plan=plan, writer=writer, observer=observer)
    encode_seconds = _encode_seconds(store)
    begun = time.monotonic()
    found = _solve_head(model, splits, config, store, packed, observer)
    solve_seconds = time.monotonic() - begun
    head = {**_summary(found), "encode_seconds": encode_seconds, "solve_seconds": solve_seconds}
    state = TrainState(planned_epochs=0, steps_per_epoch=1)  # a closed solution: no epoch, no step
    seconds = encode_seconds + solve_seconds
    trained = Trained(FitResult(model.eval(), state), store, encoder, head, views, seconds)
    if mode == "features":
        return trained
    if config.training.minutes:
        used = max(encode_seconds - in_cache, 0.0) + solve_seconds
        minutes = config.training.minutes
        left = _once(writer, _FINETUNE_MINUTES, lambda: minutes - used / 60)
        if left <= 0:
            observer.on_message("the time limit is over: no fine-tuning")
            return trained
        limited = config.training.model_copy(update={"minutes": left})
        config = config.model_copy(update={"training": limited})
    return _fine_tune(trained, prepared, splits, config, plan=plan, writer=writer, observer=observer)


def describe_views(augmented: str, stored_views: int) -> str:
    """Return in words what the training sees of a picture.

    Args:
        augmented: What the augmentation does, as `TrainTransform.describe` says it.
        stored_views: Views whose features are computed once; 0 where pictures are augmented anew in every epoch.
    """
    if not stored_views:
        return augmented
    once = "; their features are computed once, and nothing else is changed"
    if stored_views == 1:
        return f"as they are{once}"
    if stored_views == 2:
        return f"as they are and mirrored left-right{once}"
    drawn = stored_views - 2
    return f"as they are, mirrored left-right, and in {drawn} augmented view{'s' * (drawn > 1)} ({augmented}){once}"


def _fit_pixels(
    prepared: Prepared, config: Config, *, plan: ComputePlan, writer: RunWriter, observer: Observer
) -> FitResult:
    """Run the loop on the pictures themselves, and say what it sees of them."""
    observer.on_message(f"training pictures: {describe_views(prepared.data.train_transform.describe(), 0)}")
    return _fit(prepared.model, prepared.data, config, plan=plan, writer=writer, observer=observer)


def _fit(
    model: nn.Module, data: TrainData, config: Config, *, plan: ComputePlan, writer: RunWriter, observer: Observer
) -> FitResult:
    """Run the loop, at the rate that the recipe names or that a range test finds."""
    fitted = fit_sizes(config, data.eval_transform.spec.input_px)
    if fitted is not config:
        sizes = ", ".join(f"{size} px" for _, size in fitted.training.size_schedule)
        observer.on_message(f"progressive sizes fitted to the pictures: {sizes}")
    config = resolve_learning_rate(model, data, fitted, plan=plan, writer=writer, observer=observer)
    return loop.fit(model, data, config, plan=plan, writer=writer, observer=observer)


def _once(writer: RunWriter, key: str, decide: Callable[[], _T]) -> _T:
    """Return what the run's provenance says under a key; the first time it is decided, and written before it counts."""
    known = Run(writer.path).provenance
    if key not in known:
        known = {key: decide()}
        writer.write_provenance(known)
    return cast(_T, known[key])


def sources_of(splits: Splits, *names: SplitName) -> list[SplitName]:
    """Return the source splits that some splits of a run are drawn from."""
    return list(dict.fromkeys(source for name in names for source in splits.indices.get(name, {})))


def encode(encoder: Encoder, sources: list[SplitName], views: int, observer: Observer) -> FeatureStore:
    """Return the features of source splits; the user sees how far it is, and how fast it was."""
    with stop_signals() as check:
        store = encoder.encode(
            sources,
            views,
            progress=lambda done, total: observer.on_count("encoding", done, total, unit="views"),
            should_stop=check,
            message=observer.on_message,
        )
    if store.encoded:
        rate = store.encoded / max(store.seconds, 1e-9)
        observer.on_message(f"encoded {store.encoded:,} views in {store.seconds:.1f} s ({rate:,.0f} a second)")
    else:
        observer.on_message("features are in the cache: nothing is encoded again")
    return store


def _encode_seconds(store: FeatureStore) -> float:
    """Return what encoding all pictures of a store took, whenever that was."""
    return sum(sum(seconds) for seconds in store.view_seconds.values())


def is_solved(config: Config, model: PretrainedClassifier) -> bool:
    """Return whether a head on stored features is solved in closed form, and not trained in steps."""
    return config.features.solver != "gradient" and model.head_spec.is_linear


# ---------------------------------------------------------------------------------------------------- heads on features


def _solve_head(
    model: PretrainedClassifier,
    splits: Splits,
    config: Config,
    store: FeatureStore,
    packed: PackedDataset,
    observer: Observer,
) -> LinearHead:
    """Fit the linear head and put it into the model."""
    if unused := _unused_by_solver(model, config):
        observer.on_message(
            f"warning: the head is solved, not trained in steps: {', '.join(unused)} has no part in it; "
            "--set features.solver=gradient trains it"
        )

    def split(name: SplitName, *, all_views: bool) -> list[FeatureRows]:
        labels = splits.labels(packed, name)
        parts, start = [], 0
        for arrays, rows in store.parts(splits, name):
            views = tuple(array[:, model.head_columns] for array in (arrays if all_views else arrays[:1]))
            parts.append(FeatureRows(views, rows, labels[start : start + len(rows)]))
            start += len(rows)
        return parts

    found = solve_linear_head(
        split("train", all_views=True),
        split("val", all_views=False) if splits.count("val") else [],
        num_classes=model.num_classes,
        class_weights=class_weights(splits.labels(packed, "train"), model.num_classes, config.training.class_balance),
        label_smoothing=config.training.label_smoothing,
        seed=config.training.seed,
        progress=lambda done, total: observer.on_count("fitting the head", done, total, unit="penalties"),
    )
    classifier = model.get_classifier()
    assert isinstance(classifier, nn.Linear)
    with torch.no_grad():
        classifier.weight.copy_(found.weight)
        assert classifier.bias is not None
        classifier.bias.copy_(found.bias)
    observer.on_message(
        f"head: logistic regression, L2 penalty {found.l2:.1e} of {len(found.path)} chosen on {found.chosen_on}, "
        f"{found.iterations} iterations"
    )
    return found


def _unused_by_solver(model: PretrainedClassifier, config: Config) -> list[str]:
    """Return the settings that do nothing where a head is solved and no fine-tuning follows."""
    if frozen_mode(config) != "features":
        return []
    asked = {
        "model.args.dropout": model.head_spec.dropout,
        "optimizer.lr = auto": config.optimizer.lr == "auto",
        "training.mixup_alpha": config.training.mixup_alpha,
        "training.hardest_share": config.training.hardest_share < 1,
    }
    return [key for key, value in asked.items() if value]


def note_unused(model: nn.Module, config: Config, named: Collection[str]) -> list[str]:
    """Return a sentence on the settings that the user named and that a head on stored features does not read.

    Args:
        model: Any network; only a frozen backbone with a head leaves something to say.
        config: The recipe.
        named: `section.key` of what was changed; what a recipe says of itself is for when it is fine-tuned.
    """
    if not isinstance(model, PretrainedClassifier) or config.model.freeze_until or frozen_mode(config) != "features":
        return []
    notes = []
    unused = [key for key in sorted(named) if key.startswith(("optimizer.", "schedule.")) or key in _OF_THE_LOOP]
    if config.optimizer.lr == "auto":  # `_unused_by_solver` says that, whoever asked for it
        unused = [key for key in unused if key != "optimizer.lr"]
    if unused and is_solved(config, model):
        notes.append(
            f"note: the head is solved, not trained in steps: {', '.join(unused)} {_has(unused)} no part in it; "
            "--set features.solver=gradient trains it"
        )
    drawn = sorted(key for key in named if key.startswith("augment.") and key != "augment.flip")
    if drawn and config.features.views <= 2:
        notes.append(
            f"note: stored features are those of pictures that are not augmented: {', '.join(drawn)} {_has(drawn)} no "
            "part in them; --set features.views=4 adds two augmented views"
        )
    return notes


def _has(settings: Sequence[str]) -> str:
    return "has" if len(settings) == 1 else "have"


def _summary(found: LinearHead) -> dict[str, Any]:
    """Return how a head was found, as JSON values for metrics.json."""
    return {
        "solver": "closed",
        "l2": found.l2,
        "chosen_on": found.chosen_on,
        "iterations": found.iterations,
        "path": [
            {"l2": point.l2, "train/loss": point.train_loss, "val/loss": point.val_loss, "val/top1": point.val_top1}
            for point in found.path
        ],
    }


def _fit_head(
    prepared: Prepared,
    splits: Splits,
    config: Config,
    store: FeatureStore,
    encoder: Encoder,
    *,
    plan: ComputePlan,
    writer: RunWriter,
    observer: Observer,
) -> Trained:
    """Train a head of several layers in the loop, on stored features."""
    model = prepared.model
    assert isinstance(model, PretrainedClassifier)
    head = FeatureHead(model).to(plan.device)
    result = _fit_stored(head, store, prepared, splits, config, plan=plan, writer=writer, observer=observer)
    views, seconds = config.features.views, _encode_seconds(store)
    return Trained(FitResult(model.eval(), result.state), store, encoder, stored_views=views, seconds_before=seconds)


def _fit_rest(
    prepared: Prepared,
    packed: PackedDataset,
    splits: Splits,
    config: Config,
    *,
    plan: ComputePlan,
    writer: RunWriter,
    observer: Observer,
) -> Trained:
    """Train what comes after a backbone's frozen part: on stored features where the network can be cut and they fit.

    Whether they do is decided once: what trains on stored features cannot go on from a checkpoint of the whole network.

    Raises:
        CheckpointError: The run began on stored features, and the network cannot be cut any more.
        DataError: It began so, and the disk has no room for the rest of them.
    """
    model, spec = prepared.model, prepared.spec
    assert isinstance(model, PretrainedClassifier)
    sample = torch.randn(2, spec.channels, spec.input_px, spec.input_px, generator=torch.Generator().manual_seed(0))
    cut = cut_at_first_trained(model, sample.to(plan.device))
    before = None if cut is None else FrozenNetwork.before(model, cut)
    encoder = None if before is None else _encoder(before, prepared, packed, splits, config, plan)
    sources, views = sources_of(splits, "train", "val"), config.features.views
    fits = encoder is not None and encoder.fits(sources, views)
    way = _once(writer, _FROZEN_PART, lambda: _STORED if fits else _COMPUTED)
    if way == _STORED:
        if cut is None or encoder is None:
            raise CheckpointError(
                "the run trains on stored features, and the network cannot be cut here where its trained part begins",
                where=writer.path,
                remedy="resume it with the versions of torch and timm in its provenance.json, or train again",
            )
        encoder.check_space(sources, views)
        observer.on_message(f"features of the frozen part: {encoder.estimate(sources, views)}")
        observer.on_message(f"training pictures: {describe_views(prepared.data.train_transform.describe(), views)}")
        if views > 1 and config.augment.flip == "none":
            observer.on_message(
                f"note: augment.flip is none, and features.views = {views} mirrors: --set features.views=1 does not"
            )
        store = encode(encoder, sources, views, observer)
        result = _fit_stored(cut.rest, store, prepared, splits, config, plan=plan, writer=writer, observer=observer)
        trained = FitResult(model.eval(), result.state)
        return Trained(trained, stored_views=views, seconds_before=_encode_seconds(store))
    why = "it cannot be cut where its trained part begins"
    if encoder is not None:
        why = f"its features would not fit on the disk when the run began: {encoder.estimate(sources, views)}"
    observer.on_message(f"the frozen part is computed in every step: {why}")
    return Trained(_fit_pixels(prepared, config, plan=plan, writer=writer, observer=observer))


def _encoder(
    frozen: FrozenNetwork,
    prepared: Prepared,
    packed: PackedDataset,
    splits: Splits,
    config: Config,
    plan: ComputePlan,
) -> Encoder:
    trained = tuple(splits.indices["train"])  # with data.final val is part of train
    return Encoder(frozen, packed, prepared.spec, plan, config.augment, trained=trained, workers=config.data.workers)


def _fit_stored(
    module: nn.Module,
    store: FeatureStore,
    prepared: Prepared,
    splits: Splits,
    config: Config,
    *,
    plan: ComputePlan,
    writer: RunWriter,
    observer: Observer,
) -> FitResult:
    """Train a part of the model in the loop, on stored features; at the end the best or averaged weights are in it."""
    images = prepared.data

    def loader(name: SplitName, like: Loader, *, shuffle: bool) -> FeatureLoader:
        drop_last = like.num_images % like.batch_size > 0 and like.steps_per_epoch == like.num_images // like.batch_size
        batches = BatchPlan(
            like.num_images, like.batch_size, shuffle=shuffle, seed=config.training.seed, drop_last=drop_last
        )
        return FeatureLoader(store.parts(splits, name), like.labels.cpu().numpy(), batches, device=plan.device)

    data = TrainData(
        train=loader("train", images.train, shuffle=True),
        val=loader("val", images.val, shuffle=False) if images.val is not None else None,
        train_transform=StoredTrainTransform(config.augment, prepared.spec),
        eval_transform=StoredEvalTransform(prepared.spec),
        num_classes=images.num_classes,
        class_weights=images.class_weights,
    )
    result = _fit(module, data, config, plan=plan, writer=writer, observer=observer)
    if result.model is not module:  # averaged weights are a copy's
        module.load_state_dict(result.model.state_dict())
    return result


# ---------------------------------------------------------------------------------------------------------- fine-tuning


def _fine_tune(
    before: Trained,
    prepared: Prepared,
    splits: Splits,
    config: Config,
    *,
    plan: ComputePlan,
    writer: RunWriter,
    observer: Observer,
) -> Trained:
    """Train everything from the fitted head on, and keep what is better on val: before, or after.

    Source:
        Kumar et al. 2022, arXiv:2202.10054: a head that was fitted first keeps fine-tuning from distorting features.
    """
    model = prepared.model
    assert isinstance(model, PretrainedClassifier)
    assert before.store is not None
    kept = copy.deepcopy(model.state_dict())
    loss_before = None
    if splits.count("val"):
        loss_before = _val_loss(before.result.model, splits, before.store, prepared, plan)
    result = _fit_pixels(prepared, config, plan=plan, writer=writer, observer=observer)
    if loss_before is None or not result.state.history:
        return replace(before, result=result, store=None, encoder=None, stored_views=0)
    best = result.state.best_epoch if config.training.restore_best else len(result.state.history)
    loss_after = result.state.history[best - 1]["val/loss"]
    if loss_after < loss_before:
        observer.on_message(f"fine-tuning brought the loss on val from {loss_before:.3f} to {loss_after:.3f}")
        return replace(before, result=result, store=None, encoder=None, stored_views=0)
    observer.on_message(
        f"fine-tuning made the loss on val no better ({loss_before:.3f} before, {loss_after:.3f} after): "
        "the head on frozen features is kept"
    )
    model.load_state_dict(kept)
    return replace(before, result=FitResult(model.eval(), result.state), head={**before.head, "kept": True})


def _val_loss(model: nn.Module, splits: Splits, store: FeatureStore, prepared: Prepared, plan: ComputePlan) -> float:
    """Return the loss on val of a head on stored features, without mirrored views, as the loop measures it."""
    assert isinstance(model, PretrainedClassifier)
    assert prepared.data.val is not None
    logits = head_logits(FeatureHead(model).eval(), store.parts(splits, "val"), mirror=False, device=plan.device)
    return nll_loss(logits, prepared.data.val.labels.cpu().numpy())

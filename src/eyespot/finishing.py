"""After the last step: the trained model is measured, and predictions, metrics, bundle and report are written.

Before this: `training.fit`. After this: `evaluate`, `predict` and whoever reads the report. The test split is opened
here for the first time, and every look at it is counted in metrics.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from eyespot.analysis.headline import describe_top1, headline_split
from eyespot.analysis.target import describe_target, measure_target
from eyespot.analysis.verdict import judge
from eyespot.config import Config
from eyespot.device import ComputePlan, peak_memory_bytes
from eyespot.mistakes import stamped
from eyespot.opening import Observer, data_card
from eyespot.runs import BUNDLE, Run, RunWriter, now

if TYPE_CHECKING:
    from eyespot.analysis.cautions import DataCard
    from eyespot.data.dataset import PackedDataset, SplitName
    from eyespot.data.splits import Splits
    from eyespot.evaluation.bundle_info import BundleInfo, SplitMetrics
    from eyespot.evaluation.evaluate import Evaluation
    from eyespot.evaluation.predictor import Predictor
    from eyespot.training.prepare import Prepared
    from eyespot.training.transfer import Trained

_AUGMENTED_SAMPLE = 24
# Of the training pictures so many are measured: an interval of a point at most. All 50,000 of CIFAR-10 with six views
# would take a quarter of the time that `fast` trains (docs/performance.md).
TRAIN_SAMPLE = 10_000


def finish(
    packed: PackedDataset,
    splits: Splits,
    prepared: Prepared,
    trained: Trained,
    plan: ComputePlan,
    writer: RunWriter,
    watcher: Observer,
) -> Run:
    """Measure the trained model, then write predictions, metrics, bundle and report."""
    from eyespot.analysis.cautions import describe_near_copies
    from eyespot.analysis.model_card import model_card
    from eyespot.evaluation.bundle import save_bundle
    from eyespot.evaluation.evaluate import write_predictions
    from eyespot.evaluation.predictor import Predictor
    from eyespot.measuring import Measuring

    config = writer.config
    train_seconds = trained.result.state.seconds + trained.seconds_before
    info = _bundle_info(packed, prepared, train_seconds, config)
    sampled = splits.sampled("train", TRAIN_SAMPLE, seed=config.training.seed)
    job = Measuring(packed, sampled, trained, config, watcher)
    names = [name for name in split_names(splits) if name != "test" or config.evaluation.test]
    reads = _count_test_read(writer, "test" in names)
    predictor, measured, calibration, unknown = job.run(Predictor(trained.result.model, info, plan), names)
    info = predictor.info
    metrics = _figures(measured, packed, splits, config)
    metrics |= {"calibration": calibration, "unknown": unknown, "train_seconds": train_seconds, "test_reads": reads}
    metrics |= _training(trained, config)
    if target := measure_target(config.evaluation.target_top1, metrics, Run(writer.path).history):
        metrics["target"] = target
    predictions = {
        split: (evaluation.logits, evaluation.labels, sampled.ids(packed, split))
        for split, evaluation in measured.items()
    }
    write_predictions(writer.path / "predictions.npz", predictions)
    info = info.model_copy(update={"metrics": {split: _shipped(metrics[split]) for split in names}})
    card = _card(packed, splits, prepared)
    for split in names:
        if "near_across" in card and (told := describe_near_copies(card["near_across"], split)):
            watcher.on_message(f"note: {told}")
    verdict = judge(
        Run(writer.path).history,
        metrics,
        num_classes=info.num_classes,
        epochs_planned=config.training.epochs,
        class_names=info.class_names,
        found_lr=Run(writer.path).lr_finder.get("chosen"),
    )
    readme = model_card(info, metrics, card, final=config.data.final, verdict=verdict)
    save_bundle(writer.path / BUNDLE, predictor.model, info, unknown=predictor.unknown, card=readme)
    writer.write_metrics(metrics)
    writer.write_provenance({"peak_memory_bytes": peak_memory_bytes()})
    _write_report(writer, packed, splits, prepared, trained, predictor, predictions, card)
    writer.write_provenance({"finished": now()})
    for split in names:
        watcher.on_message(describe_top1(metrics[split], split))
    for finding in describe_target(metrics):
        watcher.on_message(finding.text)
    return Run(writer.path)


def _figures(
    measured: Mapping[SplitName, Evaluation], packed: PackedDataset, splits: Splits, config: Config
) -> dict[str, Any]:
    """Return the figures of each split, with what must be said beside them."""
    found: dict[str, Any] = {
        split: stamped(evaluation.metrics, config.mistakes, split) for split, evaluation in measured.items()
    }
    if config.mistakes:
        found["mistakes"] = list(config.mistakes)
    if "test" in found and (shared := splits.leaked(packed)["test"]):
        found["test"]["also_in_train"] = shared
    if "train" in found and found["train"]["n"] < splits.count("train"):
        found["train"]["drawn_from"] = splits.count("train")
    return found


def _training(trained: Trained, config: Config) -> dict[str, Any]:
    """Return how the training went."""
    state, kept = trained.result.state, trained.head.get("kept")
    best = state.best_epoch if config.training.restore_best else state.epoch
    # A head that was kept was solved: no epoch made its weights.
    found = {"epochs": state.epoch, "stopped": state.stopped, "best_epoch": 0 if kept else best}
    return found | ({"head": trained.head} if trained.head else {})


def _card(packed: PackedDataset, splits: Splits, prepared: Prepared) -> DataCard:
    """Return what the report and the model card say of the data."""
    from eyespot.data.near_cache import load_near_pairs, near_across

    card = data_card(packed, splits)
    card["notes"] = [*card["notes"], *prepared.notes]
    if (known := load_near_pairs(packed)) is not None:
        card["near_across"] = near_across(known, packed, splits)
    card["preparation"] = prepared.data.eval_transform.describe()
    return card


def _shipped(measured: dict[str, Any]) -> SplitMetrics:
    """Return what the bundle says of a split; pictures that train holds, too, are told as its flaw."""
    from eyespot.evaluation.bundle_info import SplitMetrics

    figures = SplitMetrics(**{key: measured[key] for key in SplitMetrics.model_fields if key in measured})
    shared = measured.get("also_in_train", 0)
    if not shared or figures.flaw:
        return figures
    return figures.model_copy(update={"flaw": f"leaked, {shared:,} of {figures.n:,} also in train or val"})


def _count_test_read(writer: RunWriter, read: bool) -> int:
    """Return how often test was read, counted before it is: a kill in between must not hide that it was seen."""
    run = Run(writer.path)
    reads = max(run.metrics.get("test_reads", 0), run.provenance.get("test_reads", 0)) + read
    if read:
        writer.write_provenance({"test_reads": reads})
    return int(reads)


def _bundle_info(packed: PackedDataset, prepared: Prepared, train_seconds: float, config: Config) -> BundleInfo:
    from eyespot.evaluation.bundle_info import Architecture, BundleInfo, Pretrained, Provenance
    from eyespot.models.registry import all_args

    return BundleInfo(
        architecture=Architecture(name=config.model.name, args=all_args(config.model.name, config.model.args)),
        num_classes=packed.dataset.num_classes,
        class_names=packed.dataset.class_names,
        input=prepared.spec,
        views=config.evaluation.views,
        precision="float32" if config.training.precision == "float32" else "auto",
        pretrained=Pretrained(source=prepared.pretrained.source, licence=prepared.pretrained.licence)
        if prepared.pretrained is not None
        else None,
        provenance=Provenance(
            recipe=config.name,
            dataset=packed.dataset.name,
            dataset_fingerprint=packed.fingerprint,
            pixels_fingerprint=packed.pixels_fingerprint,
            seed=config.training.seed,
            created=now(),
            train_seconds=train_seconds,
        ),
    )


def _write_report(
    writer: RunWriter,
    packed: PackedDataset,
    splits: Splits,
    prepared: Prepared,
    trained: Trained,
    predictor: Predictor,
    predictions: Mapping[SplitName, tuple[Any, Any, Any]],
    card: DataCard,
) -> None:
    """Write report.html from what the run folder holds and a few pictures."""
    from eyespot.analysis.report import ReportInput, collect_mistakes, write_report
    from eyespot.analysis.why import collect_why
    from eyespot.models.summary import layer_table
    from eyespot.training.prepare import read_positions
    from eyespot.training.transfer import describe_views

    run = Run(writer.path)
    shown = cast("SplitName", headline_split(run.metrics))
    class_names = packed.dataset.class_names
    logits, labels, ids = predictions[shown]
    augmented, augmented_labels = _sample_seen(prepared, trained.stored_views)
    write_report(
        ReportInput(
            run_name=run.path.name,
            config=writer.config.model_dump(mode="json"),
            provenance=run.provenance,
            history=run.history,
            metrics=run.metrics,
            class_names=class_names,
            data_card=card,
            mistakes=collect_mistakes(
                logits / predictor.info.temperature,
                labels,
                ids,
                class_names,
                lambda places: read_positions(packed, splits, shown, places),
            ),
            why=collect_why(
                predictor,
                logits / predictor.info.temperature,
                labels,
                lambda places: read_positions(packed, splits, shown, places),
                train_seconds=run.metrics.get("train_seconds", 0.0),
            ),
            augmented=augmented,
            augmented_labels=augmented_labels,
            augmentation=describe_views(prepared.data.train_transform.describe(), trained.stored_views),
            lr_finder=run.lr_finder,
            model=layer_table(prepared.model, in_channels=packed.channels, size_px=prepared.spec.input_px).as_dict(),
        ),
        run.report,
    )


def _sample_seen(prepared: Prepared, stored_views: int) -> tuple[Any, list[int]]:
    """Return some training pictures as the network saw them in the first epoch: uint8 (M, H, W, C), M labels.

    Of stored views it is the plain one and the mirrored one in turn, and an augmented one where there are more.
    """
    import torch

    batch = next(iter(prepared.data.train.batches(0)))
    count = min(_AUGMENTED_SAMPLE, len(batch.labels))
    images, labels, indices = batch.images[:count], batch.labels[:count], batch.indices[:count]
    pixels = prepared.data.train_transform.pixels(
        images, labels, generator=torch.Generator().manual_seed(0), epoch=0, indices=indices
    )
    for place in range(count if stored_views else 0):
        view = place % stored_views
        if view < 2:
            pixels[place] = images[place].flip(2) if view else images[place]
    return pixels.permute(0, 2, 3, 1).cpu().numpy(), labels.tolist()


def split_names(splits: Splits) -> list[SplitName]:
    """Return the splits that have pictures."""
    names: tuple[SplitName, ...] = ("train", "val", "test")
    return [name for name in names if splits.count(name)]

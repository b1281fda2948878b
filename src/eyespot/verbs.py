"""The verbs of the Python API and of the command line: each walks the whole way of the data.

`train`: pictures -> dataset -> checks -> splits -> packed pixels -> augmentation -> model -> fit -> evaluate -> report.
The test split is opened after training, once, and every look at it is counted in metrics.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from eyespot.config import Config, load_config
from eyespot.device import ComputePlan, cpu_features, peak_memory_bytes, plan_compute, prepare_process
from eyespot.errors import DataError, RunError, UsageError
from eyespot.runs import BUNDLE, Run, RunWriter, environment, latest_unfinished_run, new_run_folder, now

if TYPE_CHECKING:
    from eyespot.analysis.cautions import DataCard
    from eyespot.data.dataset import Dataset, PackedDataset, SplitName
    from eyespot.data.splits import Splits
    from eyespot.evaluation.bundle import BundleInfo
    from eyespot.evaluation.evaluate import Evaluation
    from eyespot.evaluation.predictor import Predictor
    from eyespot.training.fit import FitResult, TrainState
    from eyespot.training.prepare import Prepared

Settings = Sequence[str] | Mapping[str, Any]

_FEW_PICTURES = 10_000
_AUGMENTED_SAMPLE = 24
_EXAMPLES = 10


class Observer(Protocol):
    """What watches a verb at work: the terminal, a notebook, a test."""

    def on_message(self, text: str) -> None:
        """Called with a sentence that the user should read."""

    def on_count(self, label: str, done: int, total: int) -> None:
        """Called while pictures are counted up, such as in packing."""

    def on_step(self, state: TrainState, *, loss: float | None, top1: float | None) -> None:
        """Called after each training step."""

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Called with each finished epoch's row of the history."""

    def attach(self, writer: RunWriter) -> None:
        """Called when the run folder is there: what is said from now on belongs in its log."""


class Silent:
    """Watches and says nothing, but keeps messages for the run's log."""

    def __init__(self) -> None:
        self._writer: RunWriter | None = None

    def on_message(self, text: str) -> None:
        """Log the sentence once there is a log."""
        if self._writer is not None:
            self._writer.log(text)

    def on_count(self, label: str, done: int, total: int) -> None:
        """Say nothing."""

    def on_step(self, state: TrainState, *, loss: float | None, top1: float | None) -> None:
        """Say nothing."""

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Say nothing."""

    def attach(self, writer: RunWriter) -> None:
        """Log to this run."""
        self._writer = writer


# ---------------------------------------------------------------------------------------------------------------- train


def train(
    data: str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    settings: Settings = (),
    out: str | Path | None = None,
    device: str = "auto",
    resume: bool = False,
    observer: Observer | None = None,
) -> Run:
    """Train a classifier, measure it on train, val and test, and write its run folder with the report.

    Args:
        data: `cifar10` (the default), another known name, a folder, an archive or a CSV file.
        recipe: Name or TOML file; chosen by the data when left out.
        settings: Changes to the recipe, `{"training.epochs": 5}` or `["training.epochs=5"]`.
        out: The run folder; `runs/RECIPE-DATA-TIME` when left out.
        device: `auto`, `cpu`, `cuda` or `mps`.
        resume: Go on with the run in `out`, or with the newest unfinished one, from its last checkpoint.
        observer: Told about everything on the way; silent when left out.

    Returns:
        The finished run.

    Raises:
        UsageError: Unknown data, recipe, model, setting or device.
        DataError: Data that cannot be trained on as they are; `LeakError` where test pictures are also in train.
        TrainingError: The loss became NaN, or memory ran out.
        RunError: The run folder cannot be used.
    """
    watcher = observer or Silent()
    if resume:
        folder = Path(out).expanduser().resolve() if out else latest_unfinished_run()
        run = Run.open(folder)
        request = _resumed_request(run, data, recipe, settings)
        if run.finished:
            watcher.on_message("this run is finished: nothing to resume")
            return run
        dataset = _open(request.data, watcher)
    else:
        source = str(data) if data is not None else "cifar10"
        if recipe is not None:
            config = _load(str(recipe), settings)
            dataset = _open(source, watcher)
        else:
            dataset = _open(source, watcher)
            chosen, reason = choose_recipe(dataset)
            watcher.on_message(f"recipe {chosen}: {reason}")
            config = _load(chosen, settings)
        folder = Path(out).expanduser().resolve() if out else new_run_folder(config.name, source)
        request = _Request(source, config)
    _check_before_packing(request.config, dataset)
    prepare_process()
    plan = plan_compute(device, request.config.training.precision)
    with RunWriter(folder, request.config, resume=resume) as writer:
        watcher.attach(writer)
        return _train(request, dataset, plan, writer, watcher)


@dataclass(frozen=True)
class _Request:
    """What to train on, and how."""

    data: str
    config: Config


def _load(recipe: str, settings: Settings) -> Config:
    if isinstance(settings, Mapping):
        return load_config(recipe, changes=settings)
    return load_config(recipe, settings)


def _resumed_request(run: Run, data: object, recipe: object, settings: Settings) -> _Request:
    """Return what a run was started with; a resumed run keeps it to the last setting."""
    known = run.provenance
    if "data" not in known:
        raise RunError("the run ended before it knew its data", where=run.path, remedy="delete the folder and train again")
    if (data is not None and _absolute(str(data)) != known["data"]) or recipe is not None or len(settings):
        raise UsageError(
            "a resumed run keeps its data, recipe and settings", where=run.path, remedy="give only --resume and --out"
        )
    return _Request(str(known["data"]), run.config)


def _absolute(data: str) -> str:
    """Return DATA so that it means the same from another folder; names stay names."""
    from eyespot.data.sources import dataset_names

    return data if data in dataset_names() else str(Path(data).expanduser().resolve())


def choose_recipe(dataset: Dataset) -> tuple[str, str]:
    """Return the recipe for a data set when the user names none, and why.

    Returns:
        Name, and the reason in a sentence.
    """
    pictures = len(dataset.splits["train"])
    if dataset.published and dataset.name == "digits":
        return "digits", "tiny grey symbols, which must not be mirrored"
    if pictures < _FEW_PICTURES:
        return "small", f"{pictures:,} training pictures are few, so small batches and many epochs"
    return "fast", f"{pictures:,} training pictures, from scratch"


def _open(data: str, watcher: Observer) -> Dataset:
    from eyespot.data.sources import open_dataset

    return open_dataset(data, progress=lambda done, total: watcher.on_count(f"reading {data}", done, total or done))


def _check_before_packing(config: Config, dataset: Dataset) -> None:
    """Find what can be found wrong before a picture is decoded.

    Raises:
        UsageError: Unknown model or argument.
        DataError: Class names that a bundle cannot carry.
    """
    from eyespot.evaluation.bundle import check_class_names
    from eyespot.models.registry import check_args

    check_args(config.model.name, config.model.args)
    check_class_names(dataset.class_names)


def _train(request: _Request, dataset: Dataset, plan: ComputePlan, writer: RunWriter, watcher: Observer) -> Run:
    """Walk the whole way of the data in a locked run folder."""
    import torch

    from eyespot.data.checks import enforce
    from eyespot.training.fit import fit
    from eyespot.training.prepare import prepare_training

    config = request.config
    watcher.on_message(f"{dataset.name}: {dataset.layout}, {dataset.num_classes} classes, from {dataset.origin}")
    for note in dataset.notes:
        watcher.on_message(f"note: {note}")
    packed = _pack(dataset, config, watcher)
    for sentence in enforce(packed.report, dataset, on_bad_image=config.data.on_bad_image, allow_leak=config.data.allow_leak):
        watcher.on_message(f"note: {sentence}")
    splits = _divide(packed, config, writer)
    for note in splits.notes:
        watcher.on_message(f"note: {note}")
    counted = ", ".join(f"{splits.count(split):,} {split}" for split in ("train", "val", "test") if splits.count(split))
    watcher.on_message(f"{counted}; {packed.size_px} x {packed.size_px} px, {packed.channels} channels; {plan.device}, {plan.precision} ({plan.reason})")
    if "started" not in Run(writer.path).provenance:
        writer.write_provenance({"data": _absolute(request.data), "started": now(), "seed": config.training.seed})
    writer.write_provenance(
        {
            **environment(),
            "device": plan.device,
            "precision": plan.precision,
            "precision_reason": plan.reason,
            "cpu_features": cpu_features(),
            "threads": torch.get_num_threads(),
            "dataset": dataset.name,
            "dataset_origin": dataset.origin,
            "dataset_layout": dataset.layout,
            "dataset_fingerprint": packed.fingerprint,
            "split_hash": splits.hash(),
            "packing_seconds": packed.seconds,
        }
    )
    prepared = prepare_training(packed, splits, config, plan)
    parameters = sum(parameter.numel() for parameter in prepared.model.parameters())
    watcher.on_message(f"{config.model.name}: {parameters:,} parameters; augmentation: {prepared.data.train_transform.describe()}")
    result = fit(prepared.model, prepared.data, config, plan=plan, writer=writer, observer=watcher)
    return _finish(packed, splits, prepared, result, plan, writer, watcher)


def _pack(dataset: Dataset, config: Config, watcher: Observer) -> PackedDataset:
    from eyespot.data.packing import pack_dataset

    limit = config.data.memory_limit_gb
    packed = pack_dataset(
        dataset,
        size_px=config.input.size_px,
        fit=config.input.fit,
        interpolation=config.input.interpolation,
        channels=config.input.channels,
        on_bad_image=config.data.on_bad_image,
        workers=config.data.workers or None,
        memory_limit_bytes=int(limit * 1e9) if limit else None,
        progress=lambda done, total: watcher.on_count("packing pictures", done, total),
    )
    if packed.seconds:
        watcher.on_message(f"packed {sum(map(len, packed.splits.values())):,} pictures in {packed.seconds:.1f} s")
    return packed


def _divide(packed: PackedDataset, config: Config, writer: RunWriter) -> Splits:
    """Return the run's split: the saved one of a resumed run, else a new one, saved."""
    from eyespot.data.splits import Splits, make_splits

    path = writer.path / "split.json"
    if path.exists():
        return Splits.load(path, packed)
    splits = make_splits(
        packed,
        val_fraction=config.data.val_fraction,
        test_fraction=config.data.test_fraction,
        stratify=config.data.stratify,
        seed=config.data.split_seed,
        final=config.data.final,
    )
    splits.save(path)
    return splits


# --------------------------------------------------------------------------------------------- after the last step


def _finish(
    packed: PackedDataset,
    splits: Splits,
    prepared: Prepared,
    result: FitResult,
    plan: ComputePlan,
    writer: RunWriter,
    watcher: Observer,
) -> Run:
    """Measure the trained model, then write predictions, metrics, bundle and report."""
    from eyespot.data.loaders import make_loader
    from eyespot.evaluation.bundle import SplitMetrics, save_bundle
    from eyespot.evaluation.evaluate import evaluate as measure_split
    from eyespot.evaluation.evaluate import write_predictions
    from eyespot.evaluation.predictor import Predictor

    config = writer.config
    state = result.state
    info = _bundle_info(packed, prepared, state, config)
    predictor = Predictor(result.model, info, plan)
    metrics: dict[str, Any] = {}
    predictions = {}
    names: list[SplitName] = [name for name in ("val", "test", "train") if splits.count(name)]
    for split in names:
        with make_loader(
            packed,
            splits,
            split,
            batch_size=config.evaluation.batch_size,
            shuffle=False,
            seed=config.training.seed,
            drop_last=False,
            device=plan.device,
            workers=config.data.workers,
        ) as loader:
            evaluation = measure_split(
                predictor,
                loader,
                views=config.evaluation.views,
                progress=lambda done, total, split=split: watcher.on_count(f"evaluating {split}", done, total),
            )
        metrics[split] = evaluation.metrics
        predictions[split] = (evaluation.logits, evaluation.labels, splits.ids(packed, split))
    metrics["train_seconds"] = state.seconds
    metrics["epochs"] = state.epoch
    metrics["stopped"] = state.stopped
    metrics["best_epoch"] = state.best_epoch if config.training.restore_best else state.epoch
    metrics["test_reads"] = Run(writer.path).metrics.get("test_reads", 0) + ("test" in metrics)
    write_predictions(writer.path / "predictions.npz", predictions)
    info = info.model_copy(
        update={"metrics": {split: SplitMetrics.model_validate(_subset(metrics[split], SplitMetrics.model_fields)) for split in names}}
    )
    save_bundle(writer.path / BUNDLE, result.model, info)
    writer.write_metrics(metrics)
    writer.write_provenance({"peak_memory_bytes": peak_memory_bytes()})
    _write_report(writer, packed, splits, prepared, predictions)
    writer.write_provenance({"finished": now()})
    for split in names:
        watcher.on_message(describe_split(metrics[split], split))
    return Run(writer.path)


def _subset(values: Mapping[str, Any], keys: Any) -> dict[str, Any]:
    return {key: values[key] for key in keys}


def _bundle_info(packed: PackedDataset, prepared: Prepared, state: TrainState, config: Config) -> BundleInfo:
    from eyespot.evaluation.bundle import Architecture, BundleInfo, Provenance

    return BundleInfo(
        architecture=Architecture(name=config.model.name, args=dict(config.model.args)),
        num_classes=packed.dataset.num_classes,
        class_names=packed.dataset.class_names,
        input=prepared.spec,
        views=config.evaluation.views,
        provenance=Provenance(
            recipe=config.name,
            dataset=packed.dataset.name,
            dataset_fingerprint=packed.fingerprint,
            seed=config.training.seed,
            created=now(),
            train_seconds=state.seconds,
        ),
    )


def data_card(packed: PackedDataset, splits: Splits | None = None) -> DataCard:
    """Return what the scan found as JSON values, for the report and for `eyespot check --json`."""
    dataset, report = packed.dataset, packed.report
    counts: Mapping[str, Mapping[str, int]] = report.counts
    if splits is not None:
        names: tuple[SplitName, ...] = ("train", "val", "test")
        counts = {
            split: _class_counts(splits.labels(packed, split), dataset.class_names)
            for split in names
            if splits.count(split)
        }
    return {
        "name": dataset.name,
        "origin": dataset.origin,
        "layout": dataset.layout,
        "published": dataset.published,
        "notes": [*dataset.notes, *(splits.notes if splits is not None else ())],
        "counts": {split: dict(classes) for split, classes in counts.items()},
        "bad": [(image.id, image.reason) for image in report.bad],
        "skipped": len(report.bad),
        "duplicates": len(report.duplicates),
        "duplicate_examples": [list(group.ids) for group in report.duplicates[:_EXAMPLES]],
        "leaks": len(report.leaks),
        "leak_examples": [list(group.ids) for group in report.leaks[:_EXAMPLES]],
        "conflicts": sum(group.conflicts for group in report.duplicates),
        "sizes": [(width, height, count) for (width, height), count in report.sizes.items()],
        "modes": dict(report.modes),
        "enlarged": report.small,
        "fingerprint": packed.fingerprint,
        "packed_shape": (packed.size_px, packed.size_px, packed.channels),
        "packed_bytes": sum(split.pixels.nbytes for split in packed.splits.values() if split.pixels is not None),
        "fit": packed.fit,
        "interpolation": packed.interpolation,
    }


def _report_card(packed: PackedDataset, splits: Splits, prepared: Prepared) -> DataCard:
    card = data_card(packed, splits)
    card["preparation"] = prepared.data.eval_transform.describe()
    return card


def _class_counts(labels: Any, names: Sequence[str]) -> dict[str, int]:
    import numpy as np

    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))


def _write_report(
    writer: RunWriter,
    packed: PackedDataset,
    splits: Splits,
    prepared: Prepared,
    predictions: Mapping[SplitName, tuple[Any, Any, Sequence[str]]],
) -> None:
    """Write report.html from what the run folder holds and a few pictures."""
    from eyespot.analysis.report import ReportInput, collect_mistakes, write_report
    from eyespot.models.summary import layer_table
    from eyespot.training.prepare import read_positions

    run = Run(writer.path)
    shown: SplitName = "test" if "test" in predictions else "val" if "val" in predictions else "train"
    augmented, labels = _augmented_sample(prepared)
    write_report(
        ReportInput(
            run_name=run.path.name,
            config=writer.config.model_dump(mode="json"),
            provenance=run.provenance,
            history=run.history,
            metrics=run.metrics,
            class_names=packed.dataset.class_names,
            data_card=_report_card(packed, splits, prepared),
            mistakes=collect_mistakes(
                *predictions[shown], packed.dataset.class_names, lambda places: read_positions(packed, splits, shown, places)
            ),
            augmented=augmented,
            augmented_labels=labels,
            augmentation=prepared.data.train_transform.describe(),
            model=layer_table(prepared.model, in_channels=packed.channels, size_px=packed.size_px).as_dict(),
        ),
        run.report,
    )


def _augmented_sample(prepared: Prepared) -> tuple[Any, list[int]]:
    """Return some training pictures as the network saw them in the first epoch: uint8 (M, H, W, C), M labels."""
    import torch

    batch = next(iter(prepared.data.train.batches(0)))
    count = min(_AUGMENTED_SAMPLE, len(batch.labels))
    images, labels, indices = batch.images[:count], batch.labels[:count], batch.indices[:count]
    pixels = prepared.data.train_transform.pixels(
        images, labels, generator=torch.Generator().manual_seed(0), epoch=0, indices=indices
    )
    return pixels.permute(0, 2, 3, 1).cpu().numpy(), labels.tolist()


# ------------------------------------------------------------------------------------------------------- other verbs


def evaluate(
    run: str | Path | Predictor,
    data: str | Path | None = None,
    *,
    split: str = "test",
    views: str | None = None,
    on_bad_image: str | None = None,
    device: str = "auto",
    observer: Observer | None = None,
) -> Evaluation:
    """Measure a trained model on a labelled split.

    Args:
        run: Run folder, bundle, or what `load` returned.
        data: Pictures with the same class names; the run's own data when left out. A folder of class folders without
            splits is measured as a whole.
        split: `val`, `test` or `train` of those data.
        views: `none`, `mirror` or `mirror-shift`; those of the recipe when left out.
        on_bad_image: `refuse` (the default) or `skip`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        observer: Told about what happens.

    Raises:
        DataError: The split is empty or has classes that the model does not know.
        RunError: The folder is not a run or bundle.
        UsageError: Unknown split or views.
    """
    from eyespot.evaluation.evaluate import evaluate as measure_split
    from eyespot.evaluation.predictor import load_predictor

    watcher = observer or Silent()
    if split not in ("train", "val", "test"):
        raise UsageError(f"unknown split {split!r}", remedy="use train, val or test")
    if on_bad_image not in (None, "refuse", "skip"):
        raise UsageError(f"unknown --on-bad-image {on_bad_image!r}", remedy="use refuse or skip")
    prepare_process()
    predictor = load_predictor(run, device=device) if isinstance(run, (str, Path)) else run
    name = cast("SplitName", split)
    folder = Path(run) if isinstance(run, (str, Path)) else None
    own = data is None
    label_map = None
    if own:
        if folder is None or not (folder / "split.json").exists():
            raise UsageError("a bundle has no data of its own", where=run, remedy="name them with --data")
        packed, splits = _own_data(Run.open(folder), watcher)
    else:
        packed, splits, label_map = _other_data(str(data), predictor, name, on_bad_image or "refuse", watcher)
    loader = _evaluation_loader(packed, splits, name, predictor)
    with loader:
        result = measure_split(
            predictor,
            loader,
            views=views if views is not None else predictor.info.views,  # type: ignore[arg-type]
            label_map=label_map,
            progress=lambda done, total: watcher.on_count(f"evaluating {split}", done, total),
        )
    if own and folder is not None and split == "test":
        _count_test_read(Run.open(folder))
    return result


def _own_data(run: Run, watcher: Observer) -> tuple[PackedDataset, Splits]:
    """Return a run's data and its saved split."""
    from eyespot.data.splits import Splits

    known = run.provenance
    if "data" not in known:
        raise RunError("the run does not say its data", where=run.path, remedy="name them with --data")
    packed = _pack(_open(str(known["data"]), watcher), run.config, watcher)
    return packed, Splits.load(run.path / "split.json", packed)


def _other_data(
    data: str, predictor: Predictor, split: SplitName, on_bad_image: str, watcher: Observer
) -> tuple[PackedDataset, Splits, Any]:
    """Return other data prepared as the model's input asks, and the model's label for each of their labels."""
    import numpy as np

    from eyespot.data.checks import require_usable
    from eyespot.data.packing import pack_dataset
    from eyespot.data.splits import Splits
    from eyespot.evaluation.evaluate import match_classes

    dataset = _open(data, watcher)
    label_map = match_classes(predictor, dataset)
    spec = predictor.info.input
    policy: Literal["refuse", "skip"] = "skip" if on_bad_image == "skip" else "refuse"
    packed = pack_dataset(
        dataset,
        size_px=spec.size_px,
        fit=spec.fit,
        interpolation=spec.interpolation,
        channels=1 if spec.channels == 1 else 3,
        on_bad_image=policy,
        workers=None,
        memory_limit_bytes=None,
        progress=lambda done, total: watcher.on_count("packing pictures", done, total),
    )
    for sentence in require_usable(packed.report, dataset, on_bad_image=policy):
        watcher.on_message(f"note: {sentence}")
    source = split
    if split not in packed.splits:
        if split != "test" or set(packed.splits) != {"train"}:
            raise DataError(f"no {split} split", where=data, remedy=f"there is {', '.join(packed.splits)}")
        source = "train"
        watcher.on_message(f"note: {data} has no splits: all of its pictures are measured as test")
    rows = np.arange(len(packed.splits[source]), dtype=np.int64)
    # Training pictures are needed nowhere here; `Splits` names them for completeness only.
    return packed, Splits(packed.fingerprint, {split: {source: rows}}), label_map


def _evaluation_loader(packed: PackedDataset, splits: Splits, split: SplitName, predictor: Predictor) -> Any:
    from eyespot.data.loaders import make_loader

    if not splits.count(split):
        known = ", ".join(name for name in splits.indices if splits.count(name))
        raise DataError(f"no {split} split", where=packed.dataset.name, remedy=f"there is {known}")
    return make_loader(
        packed, splits, split, batch_size=500, shuffle=False, seed=0, drop_last=False, device=predictor.plan.device, workers=0
    )


def _count_test_read(run: Run) -> None:
    """Add one to the count of how often the run's test split was read."""
    from eyespot.files import write_json

    metrics = run.metrics
    if metrics:
        metrics["test_reads"] = metrics.get("test_reads", 0) + 1
        write_json(run.path / "metrics.json", metrics)


def check(data: str | Path, *, observer: Observer | None = None) -> tuple[DataCard, list[str]]:
    """Scan a data set without training.

    Returns:
        The data card as JSON values, and a sentence for each thing that must be decided before training.
    """
    from eyespot.data.checks import enforce

    watcher = observer or Silent()
    dataset = _open(str(data), watcher)
    config = load_config("fast", changes={"data.on_bad_image": "skip"})
    packed = _pack(dataset, config, watcher)
    decisions = []
    for changes in ({"on_bad_image": "refuse", "allow_leak": True}, {"on_bad_image": "skip", "allow_leak": False}):
        try:
            enforce(packed.report, dataset, **changes)  # type: ignore[arg-type]
        except DataError as error:
            decisions.append(str(error))
    return data_card(packed), decisions


def pack(data: str | Path, *, settings: Settings = (), observer: Observer | None = None) -> PackedDataset:
    """Scan, decode and pack a data set now, so that training on it starts at once."""
    watcher = observer or Silent()
    dataset = _open(str(data), watcher)
    return _pack(dataset, _load(choose_recipe(dataset)[0], settings), watcher)


def show(
    data: str | Path,
    *,
    kind: str = "per-class",
    count: int = 10,
    split: str = "train",
    seed: int = 0,
    out: str | Path | None = None,
    observer: Observer | None = None,
) -> Path:
    """Write a grid of pictures and return its path.

    Args:
        data: As for `train`.
        kind: `per-class`, `random` or `first`.
        count: How many pictures (of each class).
        split: From which split.
        seed: Of the choice.
        out: PNG or HTML file; `NAME.png` in the current folder when left out.
        observer: Told about what happens.
    """
    from eyespot.analysis.grids import pick_first, pick_per_class, pick_random, write_grid
    from eyespot.training.prepare import read_pixels

    watcher = observer or Silent()
    dataset = _open(str(data), watcher)
    if split not in dataset.splits:
        raise DataError(f"no {split} split", where=dataset.name, remedy=f"there is {', '.join(dataset.splits)}")
    packed = _pack(dataset, load_config("fast", changes={"data.on_bad_image": "skip"}), watcher)
    name = cast("SplitName", split)
    labels = packed.splits[name].labels
    names = dataset.class_names
    if kind == "per-class":
        indices = pick_per_class(labels, count, seed=seed)
    elif kind == "random":
        indices = pick_random(len(labels), count, seed=seed)
    else:
        indices = pick_first(len(labels), count)
    path = Path(out) if out is not None else Path(f"{Path(dataset.name).name}.png")
    chosen = [names[label] for label in labels[indices]]
    by_class = kind == "per-class"
    write_grid(
        read_pixels(packed, name, indices),
        [""] * len(chosen) if by_class else chosen,
        path,
        columns=min(count, 12) if by_class else min(len(chosen), 8),
        title=f"{dataset.name}, {split}: {len(indices):,} of {len(labels):,} pictures ({kind.replace('-', ' ')})",
        row_names=chosen if by_class else None,
    )
    return path.resolve()


def describe_split(metrics_of_split: Mapping[str, Any], split: str) -> str:
    """Return an accuracy with its interval, split, n and views, in words."""
    from eyespot.analysis.verdict import describe_top1

    return describe_top1(metrics_of_split, split)


def summary_line(metrics: Mapping[str, Any]) -> str:
    """Return the figure that stands for a run."""
    split = next((name for name in ("test", "val", "train") if name in metrics), None)
    return describe_split(metrics[split], split) if split else json.dumps(dict(metrics))

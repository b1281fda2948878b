"""The verb `evaluate`: a trained model measured on labelled pictures, its own or others'.

Before this: a run or bundle, and data. After this: figures with split, n and interval. Pictures that the run was
trained or selected on are left out of others' data, and every look at test is counted in metrics.json.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from eyespot.caches import user_path
from eyespot.device import prepare_process
from eyespot.errors import DataError, RunError, UsageError
from eyespot.files import remedy_for_unreadable
from eyespot.finishing import split_names
from eyespot.locks import file_lock
from eyespot.mistakes import stamped
from eyespot.opening import Observer, checked_split, open_again, open_data, pack_data, read_fixes
from eyespot.runs import TRAINED_ON, Run
from eyespot.terminal import Terminal

if TYPE_CHECKING:
    from eyespot.arrays import BoolArray, Int64Array, UInt8Array
    from eyespot.data.dataset import PackedDataset, SplitName
    from eyespot.data.splits import Splits
    from eyespot.evaluation.evaluate import Evaluation
    from eyespot.evaluation.predictor import Predictor

_OTHER_DATA_BATCH = 500
_LOCK_SECONDS = 10.0


def evaluate(
    run: str | os.PathLike[str] | Predictor,
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
        on_bad_image: `refuse` (the default) or `skip`, for other data; a run's own data are what it was trained with.
        device: `auto`, `cpu`, `cuda` or `mps`; a `Predictor` has its own.
        observer: Told about what happens.

    Raises:
        DataError: The split is empty, has classes that the model does not know, or is what it was trained on.
        RunError: The folder is not a run or bundle.
        UsageError: Unknown split or views, or no data.
    """
    from eyespot.data.checks import count_leaked
    from eyespot.measuring import measure, measured_as_given

    watcher = observer or Terminal(quiet=True)
    found = open_to_measure(
        run, data, split=split, views=views, on_bad_image=on_bad_image, device=device, watcher=watcher
    )
    name, packed, splits = found.split, found.packed, found.splits
    batch_size = found.home.config.evaluation.batch_size if found.own and found.home is not None else _OTHER_DATA_BATCH
    result = measure(
        found.predictor, packed, splits, name, watcher, batch_size=batch_size, views=views, label_map=found.label_map
    )
    if found.home is not None and (found.own or found.shared):
        result.metrics.update(stamped(result.metrics, found.home.config.mistakes, name))
    if found.home is not None and found.own:
        result.metrics.update(measured_as_given(packed, splits, name, result.logits))
    shared = found.shared
    if name == "test" and found.trained_on and not shared:
        divided = "train" in splits.indices  # as the run divided them; else what the data bring
        shared = (splits.leaked(packed) if divided else count_leaked(packed.report))["test"]
    if shared:
        result.metrics["also_in_train"] = shared
    if reads := found.count_test_read(watcher):
        result.metrics["test_reads"] = reads
    return result


@dataclass(frozen=True)
class ToMeasure:
    """A model and the pictures that it is measured on.

    Attributes:
        predictor: The model.
        home: Its run folder; None where only the bundle is there.
        packed: The pictures.
        splits: Their division.
        split: The one to measure; it is not empty.
        label_map: int64, the model's label for each of theirs; None where they are the same.
        own: They are the run's own, by whatever path.
        shared: How many of them, which are a published split's, the run was trained or selected on.
    """

    predictor: Predictor
    home: Run | None
    packed: PackedDataset
    splits: Splits
    split: SplitName
    label_map: Any
    own: bool
    shared: int = 0

    @property
    def trained_on(self) -> bool:
        """Return whether these are the data that the model was trained on a part of, by whatever path."""
        return self.predictor.info.provenance.is_of(self.packed)

    def count_test_read(self, watcher: Observer) -> int:
        """Count that the test split of the run was read, and return how often it was by now; 0 where it was not."""
        if self.split != "test" or not self.trained_on:
            return 0
        if self.home is None:
            watcher.on_message(
                "note: this reading of test is not counted: a model does not know its run; name its folder"
            )
            return 0
        return _count_test_read(self.home, watcher)


def open_to_measure(
    run: str | os.PathLike[str] | Predictor,
    data: str | Path | None,
    *,
    split: str,
    views: str | None,
    on_bad_image: str | None,
    device: str,
    watcher: Observer,
) -> ToMeasure:
    """Open what `evaluate` measures, with the arguments and errors of that."""
    from eyespot.evaluation.predictor import load_predictor
    from eyespot.evaluation.views import check_views

    name = checked_split(split)
    if on_bad_image not in (None, "refuse", "skip"):
        raise UsageError(f"unknown policy {on_bad_image!r} for bad pictures", remedy="use refuse or skip")
    if views is not None:
        check_views(views)
    folder = folder_of(run)
    if data is None and (folder is None or not (folder / "split.json").exists()):
        if folder is not None:
            load_predictor(folder, device=device)  # a folder that is neither run nor bundle gets its own error
        what = "a bundle has no data of its own"
        if folder is not None and (folder / "config.toml").exists():
            what = "the run does not say its test pictures: split.json is missing"
        raise UsageError(what, where=folder, remedy="name data with --data")
    predictor = cast("Predictor", run) if folder is None else load_predictor(folder, device=device)
    prepare_process(predictor.plan)
    is_run = folder is not None and (data is None or (folder / "config.toml").exists())
    home = Run.open(folder) if folder is not None and is_run else None
    label_map, shared = None, 0
    if data is None:
        assert home is not None
        packed, splits = own_data(home, watcher)
    else:
        packed, splits, label_map, shared = _other_data(data, predictor, home, name, on_bad_image or "refuse", watcher)
    if not splits.count(name):
        known = ", ".join(split_names(splits))
        raise DataError(f"no {split} split", where=packed.dataset.name, remedy=f"there is {known}")
    own = data is None or (home is not None and _is_own(packed, home))
    return ToMeasure(predictor, home, packed, splits, name, label_map, own, shared)


def folder_of(run: object) -> Path | None:
    """Return the folder of a run or bundle; None where a `Predictor` was given.

    Raises:
        UsageError: It is neither.
    """
    if isinstance(run, (str, os.PathLike)):
        return user_path(run)
    if not hasattr(run, "predict_probs"):
        raise UsageError(f"{run!r} is no trained model", remedy="give a run folder, or what eyespot.load returned")
    return None


def own_data(run: Run, watcher: Observer) -> tuple[PackedDataset, Splits]:
    """Return a run's data and its saved split."""
    from eyespot.data.splits import Splits

    known = run.provenance
    if "data" not in known:
        raise RunError("the run does not say its data", where=run.path, remedy="name them with --data")
    packed = pack_data(open_again(run, str(known["data"]), watcher), run.config, watcher)
    return packed, Splits.load(run.path / "split.json", packed)


def refuse_changed(runs: Iterable[Run], watcher: Observer) -> None:
    """Refuse to go on with many trainings whose pictures are others by now: what is there would be compared with them.

    Args:
        runs: Those on the same data, in order: the first one that has divided its pictures is looked at.
        watcher: Told about the work.

    Raises:
        DataError: The pictures have changed, or are gone.
        RunError: The run's split.json is damaged.
    """
    for run in runs:
        if (run.path / "split.json").exists() and "dataset_fingerprint" in run.provenance:
            own_data(run, watcher)
            return


def _other_data(
    data: str | Path, predictor: Predictor, home: Run | None, split: SplitName, on_bad_image: str, watcher: Observer
) -> tuple[PackedDataset, Splits, Any, int]:
    """Return other data prepared as the model's input asks, the label map, and how many pictures it knows.

    Pictures that the run was trained or selected on are left out, unless the data are published ones, whose test split
    is what it is. The run's own data, perhaps at another place, are divided as the run divided them.
    """
    import numpy as np

    from eyespot.data.checks import require_usable
    from eyespot.data.packing import pack_dataset
    from eyespot.data.splits import Splits
    from eyespot.evaluation.evaluate import match_classes

    dataset = open_data(data, watcher)
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
        progress=lambda done, total: watcher.on_count("packing pictures", done, total),
        message=watcher.on_message,
    )
    for sentence in require_usable(packed.report, dataset, on_bad_image=policy):
        watcher.on_message(f"note: {sentence}")
    if home is not None:
        packed = _corrected(packed, home)
    if home is not None and _is_own(packed, home) and (home.path / "split.json").exists():
        watcher.on_message(f"note: {data} holds the run's own pictures: they are divided as the run divided them")
        return packed, Splits.load(home.path / "split.json", packed), label_map, 0
    source = split
    if split not in packed.splits:
        if split != "test" or set(packed.splits) != {"train"}:
            raise DataError(f"no {split} split", where=data, remedy=f"there is {', '.join(packed.splits)}")
        if predictor.info.provenance.is_of(packed):
            raise _trained_on_most(data)
        source = "train"
        watcher.on_message(f"note: {data} has no splits: all of its pictures are measured as test")
    rows: Int64Array = np.arange(len(packed.splits[source]), dtype=np.int64)
    rows = rows[~_seen(packed.splits[source].hashes, home, watcher)]
    seen = len(packed.splits[source]) - len(rows)
    if seen and dataset.published:
        watcher.on_message(f"note: the run was trained or selected on {seen:,} of these pictures")
        rows = np.arange(len(packed.splits[source]), dtype=np.int64)
    elif seen:
        if not len(rows):
            raise _trained_on_most(data)
        watcher.on_message(
            f"note: {seen:,} pictures on which the run was trained or selected are left out; {len(rows):,} are measured"
        )
    # Training pictures are needed nowhere here: the split to measure is the only one.
    return packed, Splits(packed.fingerprint, {split: {source: rows}}), label_map, seen if dataset.published else 0


def _is_own(packed: PackedDataset, home: Run) -> bool:
    return packed.fingerprint == home.provenance.get("dataset_fingerprint")


def _corrected(packed: PackedDataset, home: Run) -> PackedDataset:
    """Return the run's own pictures with the labels that it was trained with; others as they are."""
    from eyespot.data.label_fixes import with_fixed_labels

    try:
        fixes = read_fixes(packed.dataset, home.config)
    except DataError:  # of other pictures
        return packed
    fixed = packed if fixes is None else with_fixed_labels(packed, fixes)
    return fixed if _is_own(fixed, home) else packed


def _trained_on_most(data: str | Path) -> DataError:
    return DataError(
        "the model was trained on most of these pictures",
        where=data,
        remedy="give others, or leave the data out to measure the test split that was set aside",
    )


def _seen(hashes: UInt8Array, home: Run | None, watcher: Observer) -> BoolArray:
    """Return, bool (N,), which pictures a run was trained or selected on; none where that is not known.

    Args:
        hashes: uint8 (N, 16), their content hashes.
        home: The run; None for a bundle without its run.
        watcher: Told where the run does not know it.

    Raises:
        RunError: The run's record of them is damaged.
    """
    import numpy as np

    from eyespot.data.splits import short_hashes

    if home is None:
        return np.zeros(len(hashes), dtype=bool)
    path = home.path / TRAINED_ON
    if not path.exists():
        watcher.on_message(
            f"note: {home.path.name} has no {TRAINED_ON}: pictures that it was trained or selected on are not left out"
        )
        return np.zeros(len(hashes), dtype=bool)
    try:
        known = np.frombuffer(path.read_bytes(), dtype="<u8")
    except (OSError, ValueError) as error:
        remedy = remedy_for_unreadable(error, "restore the file, or train again")
        raise RunError(f"cannot read ({error})", where=path, remedy=remedy) from error
    if not len(known) or (known[1:] <= known[:-1]).any():
        raise RunError("damaged: it is no sorted list", where=path, remedy="restore the file, or train again")
    return np.isin(short_hashes(hashes), known)


def _count_test_read(run: Run, watcher: Observer) -> int:
    """Add one to the count of how often the run's test split was read, and return it; 0 where it cannot be written."""
    from eyespot.analysis.cautions import describe_test_reads
    from eyespot.files import write_json

    if not run.metrics:
        watcher.on_message(f"note: this reading of test is not counted: there is no metrics.json in {run.path}")
        return 0
    try:
        # Two that measure at the same time would both write the number that both have read.
        with file_lock(run.path / ".lock", timeout_seconds=_LOCK_SECONDS):
            metrics = run.metrics
            reads = metrics.get("test_reads", 0) + 1
            write_json(run.path / "metrics.json", {**metrics, "test_reads": reads})
    except (RunError, OSError) as error:
        why = error.what if isinstance(error, RunError) else f"cannot write ({error.strerror or error})"
        watcher.on_message(f"note: this reading of test is not counted: {why} {run.path}")
        return 0
    if told := describe_test_reads(reads):
        watcher.on_message(f"note: {told}")
    return int(reads)

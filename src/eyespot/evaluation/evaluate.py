"""A labelled split, once through the model: logits, and the numbers that are computed from them.

Before this: `predictor`, and a loader over val or test. After this: metrics.json, predictions.npz and the report.
"""

from __future__ import annotations

import io
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from eyespot.arrays import Float32Array, Int64Array
from eyespot.data.dataset import SPLIT_NAMES, Dataset, SplitName
from eyespot.errors import DataError, RunError, UsageError
from eyespot.evaluation.metrics import measure
from eyespot.evaluation.predictor import Predictor, Progress
from eyespot.evaluation.unknown import unknown_metrics
from eyespot.evaluation.views import Views, check_views
from eyespot.files import remedy_for_unreadable, write_atomic

if TYPE_CHECKING:
    from eyespot.data.loaders import Loader


@dataclass(frozen=True, eq=False)  # arrays have no plain equality
class Evaluation:
    """What a model says about a labelled split, and how good that is.

    Attributes:
        logits: float32 (N, K), in the order of the split's positions.
        labels: int64 (N,), in [0, K), in the model's order of classes.
        metrics: The split's entry of metrics.json; see `metrics.measure`.
        seconds: Wall clock of loading and of all forward passes.
        images_per_second: N / seconds.
        views: Test-time views that the logits are the mean of.
        distances: float32 (N, parts), of the unknown score; None where the predictor has none.
        kept: Features float32 (M, D) and pixel statistics (M, P) of the images that were asked for; None likewise.
    """

    logits: Float32Array
    labels: Int64Array
    metrics: dict[str, Any]
    seconds: float
    images_per_second: float
    views: Views
    distances: Float32Array | None = None
    kept: tuple[Float32Array, Float32Array] | None = None

    @property
    def preds(self) -> Int64Array:
        """Return int64 (N,): the class of the highest logit, the first of equal ones."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)


def evaluate(
    predictor: Predictor,
    loader: Loader,
    *,
    views: Views = "none",
    label_map: Int64Array | None = None,
    keep: Int64Array | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run a trained model once over a labelled split and measure it.

    Every image counts exactly once: the last short batch is kept.

    Args:
        predictor: Model, eval transform and class names, as `load_predictor` returns them.
        loader: Yields uint8 (B, C, S, S) of the predictor's input spec, int64 labels (B,) and positions (B,).
        views: Test-time views averaged in logit space: `none`, `mirror` (2) or `mirror-shift` (6 forward passes).
        label_map: int64, the model's label for each label of the data, from `match_classes`; None where they are the
            same.
        keep: Rising positions, int64 (M,), of images whose features are wanted too.
        progress: Told (done, all) images after each batch.

    Returns:
        Logits and labels in the order of the split's positions, and metrics as fractions in [0, 1].

    Raises:
        DataError: The split is empty, has images of another size, or a class the model has no output for.
        MemoryLimitError: There is no memory for a single image.
        TrainingError: The model answers NaN or infinity.
        UsageError: Unknown views, or a loader that leaves images out.

    Source:
        Mirror and shift averaging: arXiv:2404.00498, section 3.5. Changed: float32 logits.
    """
    views = check_views(views)
    started = time.perf_counter()
    split = predictor.logits_of(loader, views=views, keep=keep, progress=progress)
    seconds = time.perf_counter() - started
    labels = split.labels
    if label_map is not None:
        if labels.min() < 0 or labels.max() >= len(label_map):
            raise DataError(
                f"labels from {labels.min()} to {labels.max()} where the class list has {len(label_map)} names",
                remedy="use the label map of the same data set",
            )
        labels = np.asarray(label_map, dtype=np.int64)[labels]
    found = evaluation_of(predictor, split.logits, labels, seconds=seconds, views=views, distances=split.distances)
    return replace(found, kept=split.kept)


def evaluation_of(
    predictor: Predictor,
    logits: Float32Array,
    labels: Int64Array,
    *,
    seconds: float,
    views: Views,
    distances: Float32Array | None = None,
) -> Evaluation:
    """Return what logits say about a split.

    Args:
        predictor: Knows the class names, the temperature, and when a picture is unknown.
        logits: float32 (N, K), before the temperature.
        labels: int64 (N,), in the model's order of classes.
        seconds: Wall clock of loading and of all forward passes.
        views: Test-time views that the logits are the mean of.
        distances: float32 (N, parts), of the predictor's unknown score.

    Raises:
        DataError, TrainingError, UsageError: As `metrics.measure`.
    """
    info = predictor.info
    metrics = measure(logits, labels, info.class_names, seconds=seconds, views=views, temperature=info.temperature)
    if distances is not None and predictor.unknown is not None and info.unknown is not None:
        scores = predictor.unknown.total(torch.from_numpy(distances)).numpy()
        metrics["unknown"] = unknown_metrics(scores, info.unknown, logits.argmax(axis=1), labels)
    return Evaluation(
        logits=logits,
        labels=labels,
        metrics=metrics,
        seconds=seconds,
        images_per_second=metrics["images_per_second"],
        views=views,
        distances=distances,
    )


def match_classes(predictor: Predictor, dataset: Dataset) -> Int64Array:
    """Return, for each class of a data set, the model's output of the same name.

    The order may differ, and the data may have fewer classes than the model (its other classes then have n = 0).

    Args:
        predictor: Knows the model's class names.
        dataset: Knows the data's.

    Returns:
        int64 (classes of the data,): `labels_of_model = mapping[labels_of_data]`.

    Raises:
        DataError: The data have a class that the model does not know; both differences are named.
    """
    place = {name: number for number, name in enumerate(predictor.class_names)}
    unknown = [name for name in dataset.class_names if name not in place]
    if unknown:
        absent = [name for name in predictor.class_names if name not in dataset.class_names]
        what = f"the data have {_named(unknown)}, which the model does not know"
        if absent:
            what += f"; it knows {_named(absent)}, which the data do not have"
        raise DataError(what, where=dataset.name, remedy="name the classes as in training, or train on these data")
    return np.array([place[name] for name in dataset.class_names], dtype=np.int64)


def _named(names: Sequence[str], most: int = 5) -> str:
    """Return `class 'a'` or `classes 'a', 'b' and 7 more`."""
    listed = ", ".join(repr(name) for name in names[:most])
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{'class' if len(names) == 1 else 'classes'} {listed}{more}"


class SplitPredictions(NamedTuple):
    """What predictions.npz keeps of one split.

    Attributes:
        logits: float32 (N, K).
        labels: int64 (N,), in [0, K).
        ids: N sample ids.
    """

    logits: Float32Array
    labels: Int64Array
    ids: Sequence[str]


_DAMAGED = "restore the file, or train again"
# What numpy and zipfile raise for files that were damaged or are something else, a bare .npy among them.
_UNREADABLE = (OSError, ValueError, TypeError, AttributeError, KeyError, EOFError, MemoryError, RuntimeError)


def write_predictions(path: Path, splits: Mapping[SplitName, tuple[Float32Array, Int64Array, Sequence[str]]]) -> None:
    """Write the logits, labels and sample ids of each split, in one step.

    The file is a NumPy .npz of plain arrays, `val_logits` float32 (N, K), `val_labels` int64 (N,), `val_ids` text (N,);
    the same content gives the same bytes.

    Args:
        path: predictions.npz in the run folder.
        splits: Split -> logits (N, K), labels (N,), N sample ids.

    Raises:
        RunError: The disk is full, or the folder cannot be written.
        UsageError: Lengths that do not belong together, or an unknown split.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for split, (logits, labels, ids) in splits.items():
            if split not in SPLIT_NAMES or logits.ndim != 2 or not len(logits) == len(labels) == len(ids):
                raise UsageError(
                    f"split {split!r} with logits {logits.shape}, {len(labels)} labels and {len(ids)} ids",
                    remedy=f"give (N, K), N and N, for {', '.join(SPLIT_NAMES)}",
                )
            arrays = (
                ("logits", np.asarray(logits, dtype=np.float32)),
                ("labels", np.asarray(labels, dtype=np.int64)),
                ("ids", np.array(list(ids), dtype=np.str_)),
            )
            for name, array in arrays:
                # numpy.savez would write the time of day into the archive.
                entry = zipfile.ZipInfo(f"{split}_{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(entry, "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def read_predictions(path: Path) -> dict[SplitName, SplitPredictions]:
    """Return what `write_predictions` wrote.

    Args:
        path: predictions.npz of a run folder.

    Raises:
        RunError: The file is missing, damaged, or something else; nothing in it is unpickled.
    """
    try:
        # Not numpy.load: of a file that is no archive it says that it could be loaded unsafely.
        with zipfile.ZipFile(path) as archive:
            if any(entry.comment for entry in archive.infolist()):  # none was written: it hides the entries behind it
                raise ValueError("damaged directory")
            found: dict[str, Any] = {
                name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
                for name in archive.namelist()
            }
    except (*_UNREADABLE, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0][:160] or type(error).__name__
        remedy = remedy_for_unreadable(error, _DAMAGED)
        raise RunError(f"cannot read ({reason})", where=path, remedy=remedy) from error
    splits: dict[SplitName, SplitPredictions] = {}
    for split in SPLIT_NAMES:
        parts = [found.pop(f"{split}_{name}", None) for name in ("logits", "labels", "ids")]
        if all(part is None for part in parts):
            continue
        logits, labels, ids = parts
        if (
            logits is None
            or labels is None
            or ids is None
            or (logits.dtype, labels.dtype, ids.dtype.kind) != (np.float32, np.int64, "U")
            or (logits.ndim, labels.ndim, ids.ndim) != (2, 1, 1)
            or not len(logits) == len(labels) == len(ids)
        ):
            raise RunError(f"the arrays of {split} are not logits, labels and ids", where=path, remedy=_DAMAGED)
        splits[split] = SplitPredictions(logits, labels, ids.tolist())
    if found or not splits:
        raise RunError(f"not predictions of eyespot ({', '.join(found) or 'empty'})", where=path, remedy=_DAMAGED)
    return splits

"""Finished runs that were measured on the same pictures, put side by side.

Before this: run folders. After this: `compare` says what can be told from them. Runs are matched picture by picture by
their ids, never by their place; whatever would compare different pictures is refused.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eyespot.analysis import words
from eyespot.arrays import BoolArray, Int64Array
from eyespot.errors import DataError, EyespotError, RunError, UsageError, quoted
from eyespot.evaluation.evaluate import SplitPredictions, read_predictions
from eyespot.evaluation.metrics import nll_loss, wilson_interval
from eyespot.runs import BUNDLE, Run

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_RETRAIN = "compare runs of the same data and the same split_seed"
_RESTORE = "restore the file, or train again"
_CURVES = ("epoch", "train/loss", "train/top1", "val/loss", "val/top1", "images_per_second")


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One run of a comparison; None where the run folder does not tell.

    Attributes:
        letter: Its short name on this page: A, B, ...
        name: Its folder, with the folder above where two have the same name.
        path: The run folder.
        seed: Of weights, order and augmentation.
        n: Pictures that all runs were measured on.
        top1: Accuracy on them, in [0, 1].
        low: Lower end of its 95 % Wilson interval.
        high: Upper end.
        nll_loss: In nats.
        ece: In [0, 1].
        ece_ci95: Its interval; None of runs of old.
        split_top1: Accuracy on each split that was measured.
        split_n: Pictures of each of them, where the run tells.
        gap: Train top-1 minus that of the compared split, in [-1, 1].
        minutes: Of training.
        parameters: Of the network.
        gflop: For one picture; one multiply-accumulate is two operations.
        images_per_second: Training pace, median of the epochs.
        points_per_minute: 100 top1 / minutes.
        device: Processor or accelerator with the precision.
        history: Rows of history.jsonl; none where they are of a fine-tuning that was not kept.
        preds: int64 (n,), answers in the order of the comparison's ids.
        right: bool (n,).
    """

    letter: str
    name: str
    path: Path
    seed: int
    n: int
    top1: float
    low: float
    high: float
    nll_loss: float | None
    ece: float | None
    ece_ci95: tuple[float, float] | None
    split_top1: Mapping[str, float]
    split_n: Mapping[str, int]
    gap: float | None
    minutes: float | None
    parameters: int | None
    gflop: float | None
    images_per_second: float | None
    points_per_minute: float | None
    device: str
    history: Sequence[Mapping[str, Any]]
    preds: Int64Array
    right: BoolArray


class MatchedRuns(NamedTuple):
    """Runs on the same pictures of one split.

    Attributes:
        split: test or val.
        ids: n sample ids.
        labels: int64 (n,).
        class_names: In label order; empty where no run tells.
        folders: The runs' folders, in the order given.
        runs: What they tell, in the same order.
    """

    split: str
    ids: Sequence[str]
    labels: Int64Array
    class_names: Sequence[str]
    folders: tuple[Run, ...]
    runs: tuple[ComparedRun, ...]


def match_runs(paths: Sequence[str | os.PathLike[str]], split: str | None) -> MatchedRuns:
    """Read finished runs and match their pictures; `split` None is test where every run has it, else val.

    Raises:
        UsageError: Fewer than two runs, one of them twice, or a split that is not compared.
        RunError: A folder is no run, not finished, or damaged.
        DataError: The runs were measured on different pictures.
    """
    folders = tuple(Run.open(path) for path in paths)
    if len(folders) < 2:
        raise UsageError(f"{words.plural(len(folders), 'run')} to compare", remedy="name two run folders or more")
    twice = next((one for place, one in enumerate(folders) if one.path in [o.path for o in folders[:place]]), None)
    if twice is not None:
        raise UsageError("the same run twice", where=twice.path, remedy="name each run once")
    found = [_read_run(run) for run in folders]
    name = _common_split(folders, found, split)
    parts = [one[name] for one in found]
    orders = _match(folders, parts, name)
    for run, predictions in zip(folders, found, strict=True):
        _check_figures(run, predictions, name)
    names = _names(folders)
    runs = tuple(
        _compared(run, part, order, name, names[place], place)
        for place, (run, part, order) in enumerate(zip(folders, parts, orders, strict=True))
    )
    class_names: Sequence[str] = next((known for run in folders if (known := _class_names(run, name))), [])
    return MatchedRuns(name, parts[0].ids, parts[0].labels, class_names, folders, runs)


def _read_run(run: Run) -> dict[Any, SplitPredictions]:
    if not run.metrics and not run.finished:
        raise RunError(
            "the run is not finished",
            where=run.path,
            remedy=f"eyespot train --resume --out {quoted(str(run.path))}",
        )
    for name in ("metrics.json", "predictions.npz"):
        if not (run.path / name).is_file():
            remedy = f"restore the file, or write it again: eyespot train --resume --out {quoted(str(run.path))}"
            raise RunError(f"{name} is missing", where=run.path, remedy=remedy)
    return dict(read_predictions(run.path / "predictions.npz"))


def _common_split(runs: Sequence[Run], found: Sequence[Mapping[Any, Any]], asked: str | None) -> str:
    """Return the split to compare: the one asked for, else test where every run has it, else val."""
    if asked not in (None, "test", "val"):
        raise UsageError(f"cannot compare on split {asked!r}", where="--split", remedy="give test or val")
    for name in [asked] if asked else ["test", "val"]:
        lacking = [run.path.name for run, one in zip(runs, found, strict=True) if name not in one]
        if not lacking:
            return str(name)
    raise DataError(
        f"no {asked or 'test or val'} split that every run was measured on",
        where=lacking[0],
        remedy="compare runs that were measured on the same split",
    )


def _match(runs: Sequence[Run], parts: Sequence[SplitPredictions], split: str) -> list[Int64Array]:
    """Return for each run the order int64 (n,) that puts its pictures into that of the first run."""
    base = parts[0]
    orders: list[Int64Array] = []
    for run, part in zip(runs, parts, strict=True):
        where = f"{runs[0].path.name} and {run.path.name}"
        if list(part.ids) == list(base.ids):
            order: Int64Array = np.arange(len(base.ids), dtype=np.int64)
        else:
            order = _order_by_id(base.ids, part.ids, split, where)
        differing = int((part.labels[order] != base.labels).sum())
        if differing:
            what = f"{words.plural(differing, split + ' picture')} with different labels"
            raise DataError(what, where=where, remedy=_RETRAIN)
        orders.append(order)
    for (one, known), (two, other) in itertools.combinations([(run, run.provenance) for run in runs], 2):
        what = _other_content(known, other, split)
        if what:
            raise DataError(what, where=f"{one.path.name} and {two.path.name}", remedy=_RETRAIN)
    return orders


def _other_content(one: Mapping[str, Any], two: Mapping[str, Any], split: str) -> str:
    """Return how pictures of equal names differ between two runs; empty where they do not, or nobody knows.

    Args:
        one: Provenance of a run.
        two: Provenance of another.
        split: The compared split. Only its pictures have to be the same: its own digest decides where both runs have
            it, else the fingerprint of all data does, in which train and val are too.
    """
    digests = split_digest(one, split), split_digest(two, split)
    if all(digests):
        return "" if digests[0] == digests[1] else f"different {split} pictures, though they have equal names"
    fingerprints = one.get("dataset_fingerprint"), two.get("dataset_fingerprint")
    if not all(fingerprints) or fingerprints[0] == fingerprints[1]:
        return ""
    told = " and ".join(map(str, fingerprints))
    return f"different data: fingerprint {told}, though the {split} pictures have equal names"


def split_digest(provenance: Mapping[str, Any], split: str) -> str:
    """Return the digest over content and labels of a split's pictures; empty where a run does not tell."""
    found = provenance.get("split_digests")
    return str(found.get(split) or "") if isinstance(found, dict) else ""


def _order_by_id(base: Sequence[str], ids: Sequence[str], split: str, where: str) -> Int64Array:
    place = {one: index for index, one in enumerate(ids)}
    missing, added = sorted(set(base) - set(ids)), sorted(set(ids) - set(base))
    if missing or added:
        counted = (
            f"{words.whole(len(base))} and {words.whole(len(ids))}, {words.whole(len(set(base) & set(ids)))} shared"
        )
        example = missing[0] if missing else added[0]
        raise DataError(f"different {split} pictures ({counted}; such as {example!r})", where=where, remedy=_RETRAIN)
    if len(place) != len(ids) or len(set(base)) != len(base):
        raise DataError(f"several {split} pictures have the same id", where=where, remedy=_RETRAIN)
    return np.array([place[one] for one in base], dtype=np.int64)


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the folder names, with as many folders above as tell them apart."""
    for depth in range(1, 1 + max(len(run.path.parts) for run in runs)):
        names = ["/".join(run.path.parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            break
    return names


def _class_names(run: Run, split: str) -> list[str]:
    """Return the class names in label order, as metrics.json lists them."""
    classes = run.metrics.get(split, {}).get("per_class")
    return [str(name) for name in classes] if isinstance(classes, dict) else []


def read_number(values: Mapping[str, Any], key: str, path: Path, of: str = "", *, needed: bool = False) -> float | None:
    """Return a number that a run wrote down, None where it did not.

    Args:
        values: What a file says.
        key: Of the number.
        path: The file.
        of: The split that it is said of.
        needed: Refuse a file without it.

    Raises:
        RunError: It is something else, or is needed and missing.
    """
    value = values.get(key)
    if value is None and not needed:
        return None
    if isinstance(value, int) and abs(value) > 1e300:  # no float
        value = math.inf
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        name = f"{key} of {of}" if of else key
        what = f"{name} is {value!r}, not a number" if key in values else f"it says nothing of {name}"
        raise RunError(what, where=path, remedy=_RESTORE)
    return value


def _interval(values: Mapping[str, Any], key: str, path: Path, of: str) -> tuple[float, float] | None:
    """Return an interval that a run wrote down, None where it did not.

    Raises:
        RunError: It is something else than two numbers.
    """
    found = values.get(key)
    if found is None:
        return None
    if not isinstance(found, list) or len(found) != 2:
        what = f"{key} of {of} is {found!r}, not two numbers"
        raise RunError(what, where=path, remedy=_RESTORE)
    low, high = (read_number({key: end}, key, path, of, needed=True) for end in found)
    assert low is not None
    assert high is not None
    return low, high


def _letter(place: int) -> str:
    return _LETTERS[place] if place < len(_LETTERS) else f"{_LETTERS[place % 26]}{place // 26}"


def _check_figures(run: Run, predictions: Mapping[Any, SplitPredictions], compared: str) -> None:
    """Refuse figures that the run's answers contradict: accuracies of all splits, the loss of the compared one.

    Raises:
        RunError: They do, or something else stands where a number belongs.
    """
    path, metrics = run.path / "metrics.json", run.metrics
    for split, part in predictions.items():
        figures, n = metrics.get(split) or {}, len(part.labels)
        hits = int((part.logits.argmax(axis=1) == part.labels).sum())
        said = read_number(figures, "top1", path, split)
        if said is not None and abs(said * n - hits) > 0.5:
            raise _contradiction(run, split, words.percent(said), words.percent(hits / n))
    figures, part = metrics.get(compared) or {}, predictions[compared]
    loss = read_number(figures, "nll_loss", path, compared)
    temperature = read_number(metrics.get("calibration") or {}, "temperature", path) or 1.0
    if loss is not None:
        found = nll_loss(part.logits / temperature, part.labels)
        if not math.isclose(loss, found, rel_tol=1e-3, abs_tol=1e-6):
            raise _contradiction(run, compared, f"a loss of {loss:.6g}", f"{found:.6g}")


def _contradiction(run: Run, split: str, said: str, found: str) -> RunError:
    return RunError(
        f"metrics.json says {said} on {split}, predictions.npz {found}",
        where=run.path,
        remedy="restore the files, or train again",
    )


def _compared(run: Run, part: SplitPredictions, order: Int64Array, split: str, name: str, place: int) -> ComparedRun:
    preds = part.logits[order].argmax(axis=1).astype(np.int64)
    right = preds == part.labels[order]
    n, hits = len(right), int(right.sum())
    metrics, history, known = run.metrics, run.history, run.provenance
    path = run.path / "metrics.json"
    figures = metrics.get(split) or {}
    low, high = wilson_interval(hits, n)
    tops = {
        one: read_number(metrics[one], "top1", path, one, needed=True) or 0.0
        for one in ("train", "val", "test")
        if metrics.get(one)
    }
    seconds = read_number(metrics, "train_seconds", path)
    minutes = seconds / 60 if seconds else None
    for row in history:
        for key in _CURVES:
            read_number(row, key, run.path / "history.jsonl")
    rates = [row["images_per_second"] for row in history if row.get("images_per_second")]
    not_kept = bool((metrics.get("head") or {}).get("kept"))  # the head on frozen features is what was measured
    parameters, gflop = _size(run)
    return ComparedRun(
        letter=_letter(place),
        name=name,
        path=run.path,
        seed=run.config.training.seed,
        n=n,
        top1=hits / n,
        low=low,
        high=high,
        nll_loss=read_number(figures, "nll_loss", path, split),
        ece=read_number(figures, "ece", path, split),
        ece_ci95=_interval(figures, "ece_ci95", path, split),
        split_top1=tops,
        split_n={one: int(count) for one in tops if (count := read_number(metrics[one], "n", path, one))},
        gap=tops["train"] - hits / n if "train" in tops else None,
        minutes=minutes,
        parameters=parameters,
        gflop=gflop,
        images_per_second=float(np.median(rates)) if rates else None,
        points_per_minute=100 * hits / n / minutes if minutes else None,
        device=" ".join(str(known[key]) for key in ("processor", "gpu", "device", "precision") if known.get(key)),
        history=() if not_kept else history,
        preds=preds,
        right=right,
    )


def _size(run: Run) -> tuple[int | None, float | None]:
    """Return the parameters and the GFLOP for one picture of the run's network, None without a whole bundle."""
    from eyespot.evaluation.bundle import load_bundle
    from eyespot.models.summary import layer_table

    try:
        model, info = load_bundle(run.path / BUNDLE)
        table = layer_table(model, in_channels=info.input.channels, size_px=info.input.input_px)
    except EyespotError:
        count = read_number(run.provenance, "parameters", run.path / "provenance.json")
        return None if count is None else int(count), None
    return table.count.parameters, 2 * table.macs / 1e9

"""Two or more runs on the same pictures: which is better, by how much, at what cost, and whether that can be told.

Before this: finished run folders. After this: `comparison_page` shows it, `eyespot compare` prints it. Runs are matched
picture by picture by their ids, never by their place; whatever would compare different pictures is refused. Two kinds
of chance are kept apart: the pairs speak about which test pictures were drawn, the groups about the seed.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.analysis import words
from eyespot.arrays import BoolArray, Int64Array
from eyespot.errors import DataError, EyespotError, RunError, UsageError
from eyespot.evaluation.evaluate import SplitPredictions, read_predictions
from eyespot.evaluation.metrics import wilson_interval
from eyespot.evaluation.statistics import (
    MeanInterval,
    holm,
    mcnemar_exact,
    mean_interval,
    mean_p_value,
    paired_bootstrap,
)
from eyespot.runs import BUNDLE, Run

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SIGNIFICANT = 0.05
_RETRAIN = "compare runs of the same data and the same split_seed"
_EQUAL = 1e-12  # accuracies are counts over n: what is smaller is rounding
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
        history: Rows of history.jsonl.
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


@dataclass(frozen=True)
class RunPair:
    """Two runs on the same pictures; places count in `Comparison.runs`, differences are second minus first."""

    first: int
    second: int
    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float
    p_holm: float
    sentence: str


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ only in their seed; `runs` are places in `Comparison.runs`, one for each seed."""

    name: str
    runs: tuple[int, ...]
    seeds: tuple[int, ...]
    top1: MeanInterval
    sentence: str


@dataclass(frozen=True)
class GroupPair:
    """Two groups of runs: the difference of their means over seeds, second minus first, and its 95 % interval.

    The interval is nan where all seeds agree, which leaves no spread to go by. `p_value` is that of the t test, or of
    an exact test where there is no spread; `p_holm` is corrected for the number of pairs of groups, and decides
    `sentence`.
    """

    first: int
    second: int
    paired: bool
    difference: MeanInterval
    p_value: float
    p_holm: float
    sentence: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that is said about some runs on the same pictures.

    Attributes:
        split: The split that is compared.
        ids: n sample ids.
        labels: int64 (n,).
        class_names: In label order; empty where no run tells.
        runs: In the order given.
        pairs: Every pair of runs.
        groups: Runs that differ only in their seed; a run alone is a group of one.
        group_pairs: Pairs of groups that have two seeds or more each.
        notes: What to know before believing it, in sentences.
    """

    split: str
    ids: Sequence[str]
    labels: Int64Array
    class_names: Sequence[str]
    runs: tuple[ComparedRun, ...]
    pairs: tuple[RunPair, ...]
    groups: tuple[SeedGroup, ...]
    group_pairs: tuple[GroupPair, ...]
    notes: tuple[str, ...]

    @property
    def n(self) -> int:
        """Return how many pictures the runs are compared on."""
        return len(self.labels)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values, runs named by their letters; what is not known is null."""
        letters = [run.letter for run in self.runs]
        group_letters = [[letters[place] for place in group.runs] for group in self.groups]
        left_out = {"history", "preds", "right", "path"}
        return {
            "split": self.split,
            "n": self.n,
            "runs": [{"path": str(run.path), **_plain(run, left_out)} for run in self.runs],
            "pairs": [
                {**_plain(pair), "first": letters[pair.first], "second": letters[pair.second]} for pair in self.pairs
            ],
            "groups": [
                {**_plain(group), "runs": named, "top1": _finite(group.top1._asdict())}
                for group, named in zip(self.groups, group_letters, strict=True)
            ],
            "group_pairs": [
                {
                    **_plain(pair),
                    "first": group_letters[pair.first],
                    "second": group_letters[pair.second],
                    "difference": _finite(pair.difference._asdict()),
                }
                for pair in self.group_pairs
            ],
            "notes": list(self.notes),
        }


def _plain(value: Any, left_out: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    return _finite({one.name: getattr(value, one.name) for one in fields(value) if one.name not in left_out})


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def compare_runs(paths: Sequence[str | os.PathLike[str]], *, split: str | None = None) -> Comparison:
    """Compare finished runs picture by picture.

    Args:
        paths: Two or more run folders; they may have been copied from another machine.
        split: test or val; test where every run has it, else val.

    Raises:
        UsageError: Fewer than two runs, one of them twice, or a split that is not compared.
        RunError: A folder is no run, not finished, or damaged.
        DataError: The runs were measured on different pictures. Train and val may be others.
    """
    runs = [Run.open(path) for path in paths]
    if len(runs) < 2:
        raise UsageError(f"{words.plural(len(runs), 'run')} to compare", remedy="name two run folders or more")
    twice = next((run for place, run in enumerate(runs) if run.path in [one.path for one in runs[:place]]), None)
    if twice is not None:
        raise UsageError("the same run twice", where=twice.path, remedy="name each run once")
    found = [_read_run(run) for run in runs]
    name = _common_split(runs, found, split)
    parts = [one[name] for one in found]
    orders = _match(runs, parts, name)
    labels, ids = parts[0].labels, parts[0].ids
    names = _names(runs)
    compared = tuple(
        _compared(run, part, order, name, names[place], place)
        for place, (run, part, order) in enumerate(zip(runs, parts, orders, strict=True))
    )
    groups = _group(runs, compared)
    return Comparison(
        split=name,
        ids=ids,
        labels=labels,
        class_names=_class_names(runs[0], name),
        runs=compared,
        pairs=_pairs(compared, groups, name),
        groups=groups,
        group_pairs=_group_pairs(compared, groups),
        notes=_notes(runs, compared, groups, name),
    )


def _read_run(run: Run) -> dict[Any, SplitPredictions]:
    if not run.metrics and not run.finished:
        raise RunError("the run is not finished", where=run.path, remedy=f"eyespot train --resume --out {run.path}")
    for name in ("metrics.json", "predictions.npz"):
        if not (run.path / name).is_file():
            raise RunError(f"{name} is missing", where=run.path, remedy="restore the file, or train again")
    return dict(read_predictions(run.path / "predictions.npz"))


def _common_split(runs: Sequence[Run], found: Sequence[Mapping[Any, Any]], asked: str | None) -> str:
    """Return the split to compare: the one asked for, else test where every run has it, else val."""
    if asked not in {None, "test", "val"}:
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
    orders = []
    for run, part in zip(runs, parts, strict=True):
        where = f"{runs[0].path.name} and {run.path.name}"
        if list(part.ids) == list(base.ids):
            order = np.arange(len(base.ids), dtype=np.int64)
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
    digests = _digest(one, split), _digest(two, split)
    if all(digests):
        return "" if digests[0] == digests[1] else f"different {split} pictures, though they have equal names"
    fingerprints = one.get("dataset_fingerprint"), two.get("dataset_fingerprint")
    if not all(fingerprints) or fingerprints[0] == fingerprints[1]:
        return ""
    told = " and ".join(map(str, fingerprints))
    return f"different data: fingerprint {told}, though the {split} pictures have equal names"


def _digest(provenance: Mapping[str, Any], split: str) -> str:
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


def _number(values: Mapping[str, Any], key: str, path: Path, of: str = "", *, needed: bool = False) -> float | None:
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
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        name = f"{key} of {of}" if of else key
        what = f"{name} is {value!r}, not a number" if key in values else f"it says nothing of {name}"
        raise RunError(what, where=path, remedy="restore the file, or train again")
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
        raise RunError(what, where=path, remedy="restore the file, or train again")
    low, high = (_number({key: end}, key, path, of, needed=True) for end in found)
    assert low is not None
    assert high is not None
    return low, high


def _letter(place: int) -> str:
    return _LETTERS[place] if place < len(_LETTERS) else f"{_LETTERS[place % 26]}{place // 26}"


def _compared(run: Run, part: SplitPredictions, order: Int64Array, split: str, name: str, place: int) -> ComparedRun:
    preds = part.logits[order].argmax(axis=1).astype(np.int64)
    right = preds == part.labels[order]
    n, hits = len(right), int(right.sum())
    metrics, history, known = run.metrics, run.history, run.provenance
    path = run.path / "metrics.json"
    figures = metrics.get(split) or {}
    recorded = _number(figures, "top1", path, split)
    if recorded is not None and abs(recorded * n - hits) > 0.5:
        raise RunError(
            f"metrics.json says {words.percent(recorded)} on {split}, predictions.npz {words.percent(hits / n)}",
            where=run.path,
            remedy="restore the files, or train again",
        )
    low, high = wilson_interval(hits, n)
    tops = {
        one: _number(metrics[one], "top1", path, one, needed=True) or 0.0
        for one in ("train", "val", "test")
        if metrics.get(one)
    }
    seconds = _number(metrics, "train_seconds", path)
    minutes = seconds / 60 if seconds else None
    for row in history:
        for key in _CURVES:
            _number(row, key, run.path / "history.jsonl")
    rates = [row["images_per_second"] for row in history if row.get("images_per_second")]
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
        nll_loss=_number(figures, "nll_loss", path, split),
        ece=_number(figures, "ece", path, split),
        ece_ci95=_interval(figures, "ece_ci95", path, split),
        split_top1=tops,
        split_n={one: int(count) for one in tops if (count := _number(metrics[one], "n", path, one))},
        gap=tops["train"] - hits / n if "train" in tops else None,
        minutes=minutes,
        parameters=parameters,
        gflop=gflop,
        images_per_second=float(np.median(rates)) if rates else None,
        points_per_minute=100 * hits / n / minutes if minutes else None,
        device=" ".join(str(known[key]) for key in ("processor", "device", "precision") if known.get(key)),
        history=history,
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
        count = _number(run.provenance, "parameters", run.path / "provenance.json")
        return None if count is None else int(count), None
    return table.count.parameters, 2 * table.macs / 1e9


# -------------------------------------------------------------------------------------------------------------- pairs


def _pairs(runs: Sequence[ComparedRun], groups: Sequence[SeedGroup], split: str) -> tuple[RunPair, ...]:
    places = list(itertools.combinations(range(len(runs)), 2))
    tests = [mcnemar_exact(runs[i].right, runs[j].right) for i, j in places]
    corrected = holm([test.p_value for test in tests])
    pairs = []
    for (i, j), test, p_holm in zip(places, tests, corrected, strict=True):
        low, high = paired_bootstrap(runs[i].right, runs[j].right)
        difference = (test.only_second - test.only_first) / runs[i].n
        sentence = _say_pair(runs[i], runs[j], split, (difference, low, high), float(p_holm), len(places))
        if any(i in group.runs and j in group.runs for group in groups):
            sentence += " They differ only in their seed."
        pairs.append(RunPair(i, j, difference, low, high, *test, p_holm=float(p_holm), sentence=sentence))
    return tuple(pairs)


def _say_pair(
    first: ComparedRun, second: ComparedRun, split: str, found: tuple[float, float, float], p: float, pairs: int
) -> str:
    """Return the plain sentence of a pair."""
    pictures = f"{words.plural(first.n, split + ' picture')}"
    if (first.preds == second.preds).all():
        return f"{first.name} and {second.name} give the same answer to all {pictures}."
    corrected = f" after Holm's correction for {pairs} pairs" if pairs > 1 else ""
    measured = f"{signed_points(found[0])} {signed_interval(found[1:])}, {say_p(p)}{corrected}"
    if p >= _SIGNIFICANT:
        return f"No difference between {first.name} and {second.name} can be told from {pictures} ({measured})."
    better, worse = (second, first) if found[0] > 0 else (first, second)
    return (
        f"{better.name} names more of the {pictures} right than {worse.name} ({second.name} minus {first.name}: "
        f"{measured})."
    )


def signed_points(difference: float) -> str:
    """Return a difference of fractions as `+0.3 points` or `-1.2 points`."""
    difference = 0.0 if abs(difference) < _EQUAL else difference
    digits = 2 if 0 < abs(difference) < 0.001 else 1
    return f"{100 * difference:+.{digits}f} points".replace("-", "\N{MINUS SIGN}")


def signed_interval(bounds: Sequence[float]) -> str:
    """Return both ends of a difference as `[-0.1, +0.7]`, in points; none lies beyond 100, which Student's may do."""
    low, high = (100 * min(max(bound, -1.0), 1.0) for bound in bounds)
    return f"[{low:+.1f}, {high:+.1f}]".replace("-", "\N{MINUS SIGN}")


def say_p(p: float) -> str:
    """Return a p-value as `p = 0.03`, never as 0."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


# ------------------------------------------------------------------------------------------------------------- groups


def _group(runs: Sequence[Run], compared: Sequence[ComparedRun]) -> tuple[SeedGroup, ...]:
    """Return the groups of runs that differ only in their seed; of equal seeds only the first counts."""
    members: dict[str, dict[int, int]] = {}
    for place, run in enumerate(runs):
        settings = run.config.model_dump(mode="json")
        settings["training"].pop("seed")
        if settings["data"]["label_fixes"]:  # each run has a copy of its own: it is the content that counts
            settings["data"]["label_fixes"] = run.provenance.get("label_fixes")
        key = json.dumps([settings, run.provenance.get("dataset_fingerprint")], sort_keys=True)
        members.setdefault(key, {}).setdefault(run.config.training.seed, place)
    recipes = [runs[next(iter(seeds.values()))].config.name for seeds in members.values()]
    groups = []
    for recipe, seeds in zip(recipes, members.values(), strict=True):
        places = tuple(seeds.values())
        alone = len(places) == 1 or recipes.count(recipe) > 1
        name = compared[places[0]].name if len(places) == 1 else recipe
        if alone and len(places) > 1:
            name = f"{recipe} ({', '.join(compared[place].letter for place in places)})"
        found = _only_with_spread(mean_interval([compared[place].top1 for place in places]))
        groups.append(SeedGroup(name, places, tuple(seeds), found, _say_group(name, found, compared[places[0]].n)))
    return tuple(groups)


def _say_group(name: str, found: MeanInterval, n: int) -> str:
    noise = 100 * math.sqrt(found.mean * (1 - found.mean) / n)
    drawn = f"which {words.whole(n)} pictures were drawn gives every one of them a standard error of {noise:.2f} points"
    if found.n == 1:
        return f"{name}: one seed, so nothing is known about the spread over seeds."
    if math.isnan(found.low):
        return f"{name}: {words.percent(found.mean)} with each of {found.n} seeds, so no spread to go by; {drawn}."
    interval = words.interval((max(0.0, found.low), min(1.0, found.high)))
    return (
        f"{name}: {words.percent(found.mean)} over {found.n} seeds, standard deviation {100 * found.std:.2f} points,"
        f" 95 % interval of the mean {interval}; {drawn}."
    )


def _only_with_spread(found: MeanInterval) -> MeanInterval:
    """Return a mean without its interval where all values are equal: two equal seeds do not make a figure certain."""
    return found._replace(low=math.nan, high=math.nan) if found.std < _EQUAL else found


def _group_pairs(runs: Sequence[ComparedRun], groups: Sequence[SeedGroup]) -> tuple[GroupPair, ...]:
    measured = []
    for i, j in itertools.combinations(range(len(groups)), 2):
        first, second = groups[i], groups[j]
        if first.top1.n < 2 or second.top1.n < 2:
            continue
        of = [{runs[place].seed: runs[place].top1 for place in group.runs} for group in (first, second)]
        shared = sorted(set(of[0]) & set(of[1]))
        paired = len(shared) == len(of[0]) == len(of[1])
        if paired:
            differences = [of[1][seed] - of[0][seed] for seed in shared]
            found, p = mean_interval(differences), mean_p_value(differences)
        else:
            found, p = _welch(list(of[0].values()), list(of[1].values()))
        measured.append((i, j, paired, _only_with_spread(found), p))
    corrected = holm([p for *_, p in measured]).tolist()
    return tuple(
        GroupPair(
            i, j, paired, found, p, p_holm, _say_groups(groups[i], groups[j], found, paired, p_holm, len(measured))
        )
        for (i, j, paired, found, p), p_holm in zip(measured, corrected, strict=True)
    )


def _welch(first: Sequence[float], second: Sequence[float]) -> tuple[MeanInterval, float]:
    """Return the interval of a difference of two means over unequal seeds, and its two-sided p-value.

    Where each group's values are equal there is no spread to go by: then the exact permutation test, which cannot tell
    anything from a few seeds, and says 1 then.

    Source:
        Welch 1947, Biometrika 34; `n` is the smaller count, `std` the standard error times sqrt(n).
    """
    from scipy.stats import t as student

    parts = [float(np.var(group, ddof=1)) / len(group) for group in (first, second)]
    mean, variance = float(np.mean(second) - np.mean(first)), sum(parts)
    count = min(len(first), len(second))
    if math.sqrt(variance) < _EQUAL:
        p = 2 / math.comb(len(first) + len(second), len(first))
        return MeanInterval(count, mean, 0.0, mean, mean), p if abs(mean) > _EQUAL and p < _SIGNIFICANT else 1.0
    # Not ttest_ind, which warns of equal values.
    spread = sum(part**2 / (len(group) - 1) for part, group in zip(parts, (first, second), strict=True))
    freedom, error = variance**2 / spread, math.sqrt(variance)
    half = float(student.ppf(0.975, freedom)) * error
    p = 2 * float(student.sf(abs(mean) / error, freedom))
    return MeanInterval(count, mean, error * math.sqrt(count), mean - half, mean + half), p


def _say_groups(first: SeedGroup, second: SeedGroup, found: MeanInterval, paired: bool, p: float, pairs: int) -> str:
    """Return the plain sentence of two groups."""
    how = f"{found.n} seeds, paired" if paired else f"{first.top1.n} and {second.top1.n} seeds, not paired"
    interval = "with every seed" if math.isnan(found.low) else signed_interval((found.low, found.high))
    corrected = f" after Holm's correction for {pairs} pairs" if pairs > 1 else ""
    measured = f"{signed_points(found.mean)} {interval}, {say_p(p)}{corrected}, {how}"
    if p >= _SIGNIFICANT:
        return f"Over seeds, no difference between {first.name} and {second.name} can be told ({measured})."
    better, worse = (second, first) if found.mean > 0 else (first, second)
    return f"Over seeds, {better.name} is better than {worse.name} ({second.name} minus {first.name}: {measured})."


# -------------------------------------------------------------------------------------------------------------- notes


def _notes(
    runs: Sequence[Run], compared: Sequence[ComparedRun], groups: Sequence[SeedGroup], split: str
) -> tuple[str, ...]:
    """Return what to know before believing the comparison."""
    notes = []
    if any(group.top1.n == 1 for group in groups):
        notes.append(
            "The tests of the pairs say whether these trained networks differ, not their recipes: another seed moves"
            " each of them. Three seeds or more of each tell how far."
        )
    for run, one in zip(runs, compared, strict=True):
        if run.config.mistakes:
            notes.append(
                f"{one.name} makes a mistake on purpose ({', '.join(run.config.mistakes)}): its figures flatter."
            )
    if split == "val":
        notes.append("The runs are compared on val, which may have chosen their epochs or settings: it flatters.")
    counted = {place for group in groups for place in group.runs}
    if len(counted) < len(compared):
        left = ", ".join(run.name for place, run in enumerate(compared) if place not in counted)
        notes.append(f"Runs with settings and seed of an earlier one are no further seed, and are not counted: {left}.")
    notes += _data_notes(runs, compared, split)
    views = {str((run.metrics.get(split) or {}).get("views")) for run in runs}
    if len(views) > 1:
        notes.append(f"The runs were measured with different test-time views: {', '.join(sorted(views))}.")
    if len({run.device for run in compared}) > 1:
        notes.append("The runs were trained on different machines or precisions: their minutes are no fair comparison.")
    reads = [
        _number({"test_reads": 0, **run.metrics}, "test_reads", run.path / "metrics.json", needed=True) for run in runs
    ]
    most = max(count or 0 for count in reads)
    if split == "test" and most > 1:
        notes.append(
            f"The test split of a run was read up to {most} times: the more often one looks and chooses, the more"
            " it flatters."
        )
    if split == "test" and len(compared) > 2:
        notes.append("The best of several runs on the same test pictures flatters itself: choose on val, report test.")
    return tuple(notes)


def _data_notes(runs: Sequence[Run], compared: Sequence[ComparedRun], split: str) -> list[str]:
    """Return what is not the same, or not known to be, about the data of the runs."""
    known, notes = [run.provenance for run in runs], []
    final = [one.name for one, run in zip(compared, runs, strict=True) if run.config.data.final]
    if final and len(final) < len(runs):
        notes.append(
            f"{', '.join(final)} trained on train + val (--final), the others on train alone: part of a difference may"
            " come from the additional pictures."
        )
    fingerprints = [one.get("dataset_fingerprint") for one in known]
    other = [one.name for one, found in zip(compared, fingerprints, strict=True) if found != fingerprints[0] and found]
    if other and fingerprints[0]:
        notes.append(
            f"Only the {split} pictures are the same for all runs: {', '.join(other)} had other train or val pictures"
            f" than {compared[0].name}."
        )
    loose = [
        one.name
        for one, found in zip(compared, known, strict=True)
        if not found.get("dataset_fingerprint") and not _digest(found, split)
    ]
    if loose:
        notes.append(
            f"{', '.join(loose)}: the run folder does not tell which pictures these were, so they were matched by id"
            " and label only."
        )
    return notes

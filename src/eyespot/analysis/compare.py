"""Two or more runs on the same pictures: which is better, by how much, at what cost, and whether that can be told.

Before this: finished run folders. After this: `comparison_page` shows it, `eyespot compare` prints it. Runs are matched
picture by picture by their ids, never by their place; whatever would compare different pictures is refused. Two kinds
of chance are kept apart: the pairs speak about which test pictures were drawn, the groups about the seed.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eyespot.analysis import words
from eyespot.errors import DataError, EyespotError, RunError, UsageError
from eyespot.evaluation.evaluate import SplitPredictions, read_predictions
from eyespot.evaluation.metrics import wilson_interval
from eyespot.evaluation.statistics import MeanInterval, holm, mcnemar_exact, mean_interval, paired_bootstrap
from eyespot.runs import BUNDLE, Run

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SIGNIFICANT = 0.05
_RETRAIN = "compare runs of the same data and the same split_seed"


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
        split_top1: Accuracy on each split that was measured.
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
    split_top1: Mapping[str, float]
    gap: float | None
    minutes: float | None
    parameters: int | None
    gflop: float | None
    images_per_second: float | None
    points_per_minute: float | None
    device: str
    history: Sequence[Mapping[str, Any]]
    preds: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]


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
    """Two groups of runs: the difference of their means over seeds, second minus first, and its 95 % interval."""

    first: int
    second: int
    paired: bool
    difference: MeanInterval
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
    labels: npt.NDArray[np.int64]
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


def compare_runs(paths: Sequence[str | Path], *, split: str | None = None) -> Comparison:
    """Compare finished runs picture by picture.

    Args:
        paths: Two or more run folders; they may have been copied from another machine.
        split: test or val; test where every run has it, else val.

    Raises:
        UsageError: Fewer than two runs, one of them twice, or a split that is not compared.
        RunError: A folder is no run, not finished, or damaged.
        DataError: The runs were measured on different pictures.
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
    if not run.metrics or not (run.path / "predictions.npz").is_file():
        raise RunError(
            "the run is not finished, or its predictions.npz is missing",
            where=run.path,
            remedy=f"eyespot train --resume --out {run.path}",
        )
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


def _match(runs: Sequence[Run], parts: Sequence[SplitPredictions], split: str) -> list[npt.NDArray[np.int64]]:
    """Return for each run the order int64 (n,) that puts its pictures into that of the first run."""
    base = parts[0]
    fingerprint = runs[0].provenance.get("dataset_fingerprint")
    orders = []
    for run, part in zip(runs, parts, strict=True):
        where = f"{runs[0].path.name} and {run.path.name}"
        if list(part.ids) == list(base.ids):
            order = np.arange(len(base.ids), dtype=np.int64)
        else:
            order = _order_by_id(base.ids, part.ids, split, where)
        other = run.provenance.get("dataset_fingerprint")
        if fingerprint and other and other != fingerprint:
            raise DataError(
                f"different data: fingerprint {fingerprint} and {other}, though the {split} pictures have equal names",
                where=where,
                remedy=_RETRAIN,
            )
        differing = int((part.labels[order] != base.labels).sum())
        if differing:
            what = f"{words.plural(differing, split + ' picture')} with different labels"
            raise DataError(what, where=where, remedy=_RETRAIN)
        orders.append(order)
    return orders


def _order_by_id(base: Sequence[str], ids: Sequence[str], split: str, where: str) -> npt.NDArray[np.int64]:
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
    return [str(name) for name in run.metrics.get(split, {}).get("per_class", {})]


def _letter(place: int) -> str:
    return _LETTERS[place] if place < len(_LETTERS) else f"{_LETTERS[place % 26]}{place // 26}"


def _compared(
    run: Run, part: SplitPredictions, order: npt.NDArray[np.int64], split: str, name: str, place: int
) -> ComparedRun:
    preds = part.logits[order].argmax(axis=1).astype(np.int64)
    right = preds == part.labels[order]
    n, hits = len(right), int(right.sum())
    metrics, history = run.metrics, run.history
    figures = metrics.get(split) or {}
    recorded = figures.get("top1")
    if recorded is not None and abs(recorded * n - hits) > 0.5:
        raise RunError(
            f"metrics.json says {words.percent(recorded)} on {split}, predictions.npz {words.percent(hits / n)}",
            where=run.path,
            remedy="restore the files, or train again",
        )
    low, high = wilson_interval(hits, n)
    tops = {one: metrics[one]["top1"] for one in ("train", "val", "test") if metrics.get(one)}
    seconds = metrics.get("train_seconds")
    minutes = seconds / 60 if seconds else None
    rates = [row["images_per_second"] for row in history if row.get("images_per_second")]
    parameters, gflop = _size(run)
    known = run.provenance
    return ComparedRun(
        letter=_letter(place),
        name=name,
        path=run.path,
        seed=run.config.training.seed,
        n=n,
        top1=hits / n,
        low=low,
        high=high,
        nll_loss=figures.get("nll_loss"),
        ece=figures.get("ece"),
        split_top1=tops,
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
        return run.provenance.get("parameters"), None
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
    digits = 2 if abs(difference) < 0.001 else 1
    return f"{100 * difference:+.{digits}f} points".replace("-", "\N{MINUS SIGN}")


def signed_interval(bounds: Sequence[float]) -> str:
    """Return both ends of a difference as `[-0.1, +0.7]`, in points."""
    return f"[{100 * bounds[0]:+.1f}, {100 * bounds[1]:+.1f}]".replace("-", "\N{MINUS SIGN}")


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
        members.setdefault(json.dumps(settings, sort_keys=True), {}).setdefault(run.config.training.seed, place)
    recipes = [runs[next(iter(seeds.values()))].config.name for seeds in members.values()]
    groups = []
    for recipe, seeds in zip(recipes, members.values(), strict=True):
        places = tuple(seeds.values())
        alone = len(places) == 1 or recipes.count(recipe) > 1
        name = compared[places[0]].name if len(places) == 1 else recipe
        if alone and len(places) > 1:
            name = f"{recipe} ({', '.join(compared[place].letter for place in places)})"
        found = mean_interval([compared[place].top1 for place in places])
        groups.append(SeedGroup(name, places, tuple(seeds), found, _say_group(name, found, compared[places[0]].n)))
    return tuple(groups)


def _say_group(name: str, found: MeanInterval, n: int) -> str:
    noise = 100 * math.sqrt(found.mean * (1 - found.mean) / n)
    drawn = f"which {words.whole(n)} pictures were drawn gives every one of them a standard error of {noise:.2f} points"
    if found.n == 1:
        return f"{name}: one seed, so nothing is known about the spread over seeds."
    interval = words.interval((max(0.0, found.low), min(1.0, found.high)))
    return (
        f"{name}: {words.percent(found.mean)} over {found.n} seeds, standard deviation {100 * found.std:.2f} points,"
        f" 95 % interval of the mean {interval}; {drawn}."
    )


def _group_pairs(runs: Sequence[ComparedRun], groups: Sequence[SeedGroup]) -> tuple[GroupPair, ...]:
    pairs = []
    for i, j in itertools.combinations(range(len(groups)), 2):
        first, second = groups[i], groups[j]
        if first.top1.n < 2 or second.top1.n < 2:
            continue
        of = [{runs[place].seed: runs[place].top1 for place in group.runs} for group in (first, second)]
        shared = sorted(set(of[0]) & set(of[1]))
        paired = len(shared) == len(of[0]) == len(of[1])
        if paired:
            found = mean_interval([of[1][seed] - of[0][seed] for seed in shared])
        else:
            found = _welch(list(of[0].values()), list(of[1].values()))
        pairs.append(GroupPair(i, j, paired, found, _say_groups(first, second, found, paired)))
    return tuple(pairs)


def _welch(first: Sequence[float], second: Sequence[float]) -> MeanInterval:
    """Return the interval of a difference of two means over unequal seeds.

    Source:
        Welch 1947, Biometrika 34; `n` is the smaller count, `std` the standard error times sqrt(n).
    """
    from scipy.stats import t as student

    parts = [float(np.var(group, ddof=1)) / len(group) for group in (first, second)]
    mean, variance = float(np.mean(second) - np.mean(first)), sum(parts)
    count, half = min(len(first), len(second)), 0.0
    if variance:
        # Not ttest_ind, which warns of equal values.
        spread = sum(part**2 / (len(group) - 1) for part, group in zip(parts, (first, second), strict=True))
        half = float(student.ppf(0.975, variance**2 / spread)) * math.sqrt(variance)
    return MeanInterval(count, mean, math.sqrt(variance * count), mean - half, mean + half)


def _say_groups(first: SeedGroup, second: SeedGroup, found: MeanInterval, paired: bool) -> str:
    how = f"{found.n} seeds, paired" if paired else f"{first.top1.n} and {second.top1.n} seeds, not paired"
    measured = f"{signed_points(found.mean)} {signed_interval((found.low, found.high))}, {how}"
    if found.low <= 0 <= found.high:
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
    views = {str((run.metrics.get(split) or {}).get("views")) for run in runs}
    if len(views) > 1:
        notes.append(f"The runs were measured with different test-time views: {', '.join(sorted(views))}.")
    if len({run.device for run in compared}) > 1:
        notes.append("The runs were trained on different machines or precisions: their minutes are no fair comparison.")
    reads = [run.metrics.get("test_reads", 0) for run in runs]
    if split == "test" and max(reads) > 1:
        notes.append(
            f"The test split of a run was read up to {max(reads)} times: the more often one looks and chooses, the more"
            " it flatters."
        )
    if split == "test" and len(compared) > 2:
        notes.append("The best of several runs on the same test pictures flatters itself: choose on val, report test.")
    return tuple(notes)

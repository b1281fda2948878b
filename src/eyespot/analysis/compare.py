"""Two or more runs on the same pictures: which is better, by how much, at what cost, and whether that can be told.

Before this: `compared_runs` matched their pictures. After this: `comparison_page` shows it, `eyespot compare` prints
it. Two kinds of chance are kept apart: the pairs speak about which test pictures were drawn, the groups about the seed.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from eyespot.analysis import words
from eyespot.analysis.compared_runs import ComparedRun, match_runs, read_number, split_digest
from eyespot.analysis.headline import describe_views
from eyespot.arrays import Int64Array
from eyespot.evaluation.statistics import (
    MeanInterval,
    accuracy_error,
    holm,
    mcnemar_exact,
    mean_interval,
    mean_p_value,
    paired_bootstrap,
    welch,
)
from eyespot.runs import Run

_SIGNIFICANT = 0.05


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


def _plain(value: Any, left_out: Collection[str] = ()) -> dict[str, Any]:
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
    found = match_runs(paths, split)
    groups = _group(found.folders, found.runs)
    return Comparison(
        split=found.split,
        ids=found.ids,
        labels=found.labels,
        class_names=found.class_names,
        runs=found.runs,
        pairs=_pairs(found.runs, groups, found.split),
        groups=groups,
        group_pairs=_group_pairs(found.runs, groups),
        notes=_notes(found.folders, found.runs, groups, found.split),
    )


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
    measured = f"{words.signed_points(found[0])} {words.signed_interval(found[1:])}, {words.p_value(p)}{corrected}"
    if p >= _SIGNIFICANT:
        return f"No difference between {first.name} and {second.name} can be told from {pictures} ({measured})."
    better, worse = (second, first) if found[0] > 0 else (first, second)
    return (
        f"{better.name} names more of the {pictures} right than {worse.name} ({second.name} minus {first.name}: "
        f"{measured})."
    )


# ------------------------------------------------------------------------------------------------------------- groups


def _group(runs: Sequence[Run], compared: Sequence[ComparedRun]) -> tuple[SeedGroup, ...]:
    """Return the groups of runs that differ only in their seed; of equal seeds only the first counts."""
    members: dict[str, dict[int, int]] = {}
    for place, run in enumerate(runs):
        settings = run.config.model_dump(mode="json")
        settings["training"].pop("seed")
        settings["evaluation"].pop("target_top1")  # changes no figure
        if settings["data"]["label_fixes"]:  # each run has a copy of its own: it is the content that counts
            settings["data"]["label_fixes"] = (run.provenance.get("label_fixes") or {}).get("sha256")
        key = json.dumps([settings, run.provenance.get("dataset_fingerprint")], sort_keys=True)
        members.setdefault(key, {}).setdefault(run.config.training.seed, place)
    recipes = [runs[next(iter(seeds.values()))].config.name for seeds in members.values()]
    groups = []
    for recipe, seeds in zip(recipes, members.values(), strict=True):
        places = tuple(seeds.values())
        name = recipe if len(places) > 1 else compared[places[0]].name
        if len(places) > 1 and recipes.count(recipe) > 1:
            name = f"{recipe} ({', '.join(compared[place].letter for place in places)})"
        found = mean_interval([compared[place].top1 for place in places])
        groups.append(SeedGroup(name, places, tuple(seeds), found, _say_group(name, found, compared[places[0]].n)))
    return tuple(groups)


def _say_group(name: str, found: MeanInterval, n: int) -> str:
    noise = 100 * accuracy_error(found.mean, n)
    drawn = f"which {words.whole(n)} pictures were drawn gives every one of them a standard error of {noise:.2f} points"
    if found.n == 1:
        return f"{name}: one seed, so nothing is known about the spread over seeds."
    if math.isnan(found.low):
        return f"{name}: {words.percent(found.mean)} with each of {found.n} seeds, so no spread to go by; {drawn}."
    interval = words.interval(words.in_range(found.low, found.high))
    return (
        f"{name}: {words.percent(found.mean)} over {found.n} seeds, standard deviation {100 * found.std:.2f} points,"
        f" 95 % interval of the mean {interval}; {drawn}."
    )


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
            found, p = welch(list(of[0].values()), list(of[1].values()))
        measured.append((i, j, paired, found, p))
    corrected = holm([p for *_, p in measured]).tolist()
    return tuple(
        GroupPair(
            i, j, paired, found, p, p_holm, _say_groups(groups[i], groups[j], found, paired, p_holm, len(measured))
        )
        for (i, j, paired, found, p), p_holm in zip(measured, corrected, strict=True)
    )


def _say_groups(first: SeedGroup, second: SeedGroup, found: MeanInterval, paired: bool, p: float, pairs: int) -> str:
    """Return the plain sentence of two groups."""
    how = f"{found.n} seeds, paired" if paired else f"{first.top1.n} and {second.top1.n} seeds, not paired"
    interval = words.signed_interval((found.low, found.high))
    corrected = f" after Holm's correction for {pairs} pairs" if pairs > 1 else ""
    measured = f"{words.signed_points(found.mean)} {interval}, {words.p_value(p)}{corrected}, {how}"
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
    views = {describe_views((run.metrics.get(split) or {}).get("views")) or "not recorded" for run in runs}
    if len(views) > 1:
        notes.append(f"The runs were measured with different test-time views: {'; '.join(sorted(views))}.")
    machines = {run.device for run in compared}
    if "" in machines:
        notes.append("Not every run says on what machine it was trained: their minutes may be no fair comparison.")
    elif len(machines) > 1:
        notes.append("The runs were trained on different machines or precisions: their minutes are no fair comparison.")
    reads = [
        read_number({"test_reads": 0, **run.metrics}, "test_reads", run.path / "metrics.json", needed=True)
        for run in runs
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
        if not found.get("dataset_fingerprint") and not split_digest(found, split)
    ]
    if loose:
        notes.append(
            f"{', '.join(loose)}: the run folder does not tell which pictures these were, so they were matched by id"
            " and label only."
        )
    return notes

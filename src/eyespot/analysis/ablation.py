"""What each change to a recipe did: differences to the baseline, paired by seed, with what can be told of them.

Before this: finished runs of a baseline and of its changes, each with several seeds. After this: `ablation_page` shows
it, `eyespot ablate` prints it. Two kinds of chance are kept apart, as in `compare`: the interval and its p-value speak
about the seed, the picture error about which pictures were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.analysis import words
from eyespot.analysis.compared_runs import ComparedRun, match_runs
from eyespot.evaluation.statistics import (
    MeanInterval,
    holm,
    mean_interval,
    paired_difference,
    picture_error,
)

_SIGNIFICANT = 0.05
_MANY_SEEDS = 5  # see the simulation in docs/ablations.md
_NOTHING = MeanInterval(0, math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Arm:
    """One point of an ablation before it is measured.

    Attributes:
        name: Of the point.
        title: In words.
        detail: What was changed, from what to what.
        runs: Run folder of each seed that is finished.
        reason: Why seeds are missing; empty where none is.
    """

    name: str
    title: str
    detail: str
    runs: Mapping[int, Path]
    reason: str = ""


@dataclass(frozen=True)
class Effect:
    """What one change did; differences are change minus baseline, in fractions.

    Attributes:
        name: Of the point.
        title: In words.
        detail: What was changed, from what to what.
        seeds: That both the change and the baseline have.
        top1: Accuracy with the change, over these seeds; with one seed its interval is Wilson's of the pictures.
        deltas: Difference for each seed.
        difference: Their mean; its interval is Student's over seeds, none (nan) where all seeds agree, or with one seed
            the paired bootstrap of the pictures.
        picture_error: Standard error of the mean that comes from which pictures were drawn.
        p_value: Of the t test over seeds; with one seed the exact McNemar test.
        p_holm: The same, corrected for the number of changes.
        minutes: Of training, mean over seeds; None where no run tells.
        sentence: What can be said, with its numbers.
        reason: Why there is no figure, or not from every seed.
    """

    name: str
    title: str
    detail: str
    seeds: tuple[int, ...] = ()
    top1: MeanInterval = _NOTHING
    deltas: tuple[float, ...] = ()
    difference: MeanInterval = _NOTHING
    picture_error: float = math.nan
    p_value: float = 1.0
    p_holm: float = 1.0
    minutes: float | None = None
    sentence: str = ""
    reason: str = ""

    @property
    def is_told(self) -> bool:
        """Return whether the difference can be told from none, after the correction."""
        return bool(self.seeds) and self.p_holm < _SIGNIFICANT


@dataclass(frozen=True)
class Ablation:
    """A recipe, and what each change to it did.

    Attributes:
        recipe: Name of the recipe.
        data: DATA, as it was named.
        split: On which everything was measured.
        n: Its pictures.
        classes: How many.
        baseline: The recipe as it is; its differences are empty.
        effects: In the order asked for.
        notes: What to know before believing it, in sentences.
    """

    recipe: str
    data: str
    split: str
    n: int
    classes: int
    baseline: Effect
    effects: tuple[Effect, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values; what is not known is null."""
        plain: dict[str, Any] = _finite({**asdict(self), "baseline": _plain(self.baseline)})
        return plain | {"effects": [_plain(effect) for effect in self.effects], "notes": list(self.notes)}


def _plain(effect: Effect) -> dict[str, Any]:
    row = asdict(effect) | {"top1": effect.top1._asdict(), "difference": effect.difference._asdict()}
    found: dict[str, Any] = _finite(row)
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def measure_ablation(baseline: Arm, changes: Sequence[Arm], *, recipe: str, data: str, split: str) -> Ablation:
    """Return what each change did, on the pictures that all runs share.

    Args:
        baseline: The recipe as it is.
        changes: Each of its changes; seeds that it or the baseline lacks are left out of its difference.
        recipe: Name of the recipe.
        data: DATA, as it was named.
        split: val or test.

    Raises:
        RunError: A run folder is damaged.
        DataError: The runs were measured on different pictures, or not on this split.
    """
    arms = [baseline, *changes]
    paths = [path for arm in arms for path in arm.runs.values()]
    if len(paths) < 2:
        return _unmeasured(baseline, changes, recipe=recipe, data=data, split=split)
    found = match_runs(paths, split)
    n = len(found.labels)
    known = iter(found.runs)
    runs = [{seed: next(known) for seed in arm.runs} for arm in arms]
    effects = [_effect(arm, runs[0], own) for arm, own in zip(changes, runs[1:], strict=True)]
    measured = [effect for effect in effects if effect.seeds]
    corrected = dict(
        zip([one.name for one in measured], holm([one.p_value for one in measured]).tolist(), strict=True)
        if measured
        else ()
    )
    effects = [_told(effect, corrected.get(effect.name, 1.0), len(measured), split, n) for effect in effects]
    return Ablation(
        recipe,
        data,
        split,
        n,
        len(found.class_names) or int(found.labels.max()) + 1,
        _level(baseline, runs[0]),
        tuple(effects),
        _notes(effects, runs[0], split, n),
    )


def _unmeasured(baseline: Arm, changes: Sequence[Arm], *, recipe: str, data: str, split: str) -> Ablation:
    """Return an ablation of which too little is finished to compare."""
    effects = tuple(Effect(a.name, a.title, a.detail, reason=a.reason or "not finished yet") for a in changes)
    reason = baseline.reason or ("finished, with nothing to compare it with" if baseline.runs else "not finished yet")
    level = Effect(baseline.name, baseline.title, baseline.detail, reason=reason)
    return Ablation(recipe, data, split, 0, 0, level, effects, ())


def _level(arm: Arm, runs: Mapping[int, ComparedRun]) -> Effect:
    """Return the baseline: figures of its own, and no difference."""
    if not runs:
        return Effect(arm.name, arm.title, arm.detail, reason=arm.reason or "not finished yet")
    top1, minutes = _top1(list(runs.values())), _minutes(runs.values())
    return Effect(arm.name, arm.title, arm.detail, tuple(runs), top1, minutes=minutes, reason=arm.reason)


def _top1(runs: Sequence[ComparedRun]) -> MeanInterval:
    found = mean_interval([run.top1 for run in runs])
    return found if len(runs) > 1 else found._replace(low=runs[0].low, high=runs[0].high)


def _minutes(runs: Any) -> float | None:
    known = [run.minutes for run in runs if run.minutes is not None]
    return float(np.mean(known)) if known else None


def _effect(arm: Arm, baseline: Mapping[int, ComparedRun], runs: Mapping[int, ComparedRun]) -> Effect:
    """Return a change's difference, still without the correction for the number of changes."""
    seeds = tuple(seed for seed in runs if seed in baseline)
    if not seeds:
        reason = arm.reason or ("the baseline has none of its seeds" if runs else "not finished yet")
        return Effect(arm.name, arm.title, arm.detail, reason=reason)
    before = np.stack([baseline[seed].right for seed in seeds])  # (S, N)
    after = np.stack([runs[seed].right for seed in seeds])  # (S, N)
    difference, p = paired_difference(before, after)
    return Effect(
        arm.name,
        arm.title,
        arm.detail,
        seeds,
        _top1([runs[seed] for seed in seeds]),
        tuple((after.mean(axis=1) - before.mean(axis=1)).tolist()),
        difference,
        picture_error(before, after),
        p,
        minutes=_minutes(runs[seed] for seed in seeds),
        reason=arm.reason,
    )


def _told(effect: Effect, p_holm: float, count: int, split: str, n: int) -> Effect:
    """Return an effect with its corrected p-value and its sentence."""
    if not effect.seeds:
        return replace(effect, sentence=f"{effect.title}: no figure ({effect.reason}).")
    found = effect.difference
    corrected = f" after Holm's correction for {count} changes" if count > 1 else ""
    how = words.plural(len(effect.seeds), "seed")
    measured = (
        f"{words.signed_points(found.mean)} {words.signed_interval((found.low, found.high))} on {split}, {how}, "
        f"{words.p_value(p_holm)}{corrected}"
    )
    if p_holm >= _SIGNIFICANT:
        sentence = f"{effect.title}: no difference to the baseline can be told ({measured})."
    else:
        verb = "gains" if found.mean > 0 else "loses"
        sentence = f"{effect.title}: {verb} {words.points(found.mean)} against the baseline ({measured})."
        if len(effect.seeds) > 1 and abs(found.mean) < 1.96 * effect.picture_error:
            sentence += (
                f" It holds for these {words.whole(n)} pictures; others move it by {100 * effect.picture_error:.2f} "
                "points (standard error), so it may not hold for them."
            )
    return replace(effect, p_holm=p_holm, sentence=sentence)


def _notes(effects: Sequence[Effect], baseline: Mapping[int, ComparedRun], split: str, n: int) -> tuple[str, ...]:
    """Return what to know before believing it."""
    notes = []
    if len(baseline) == 1:
        notes.append(
            "One seed: intervals and p say whether these two trained networks differ on these pictures, not whether "
            "the change matters. --resume --seeds 3 adds two seeds of each."
        )
    elif 1 < len(baseline) < _MANY_SEEDS:
        notes.append(
            f"{len(baseline)} seeds tell only large differences: 3 find 4.6 standard deviations over seeds for one "
            "change and 10 for five, 5 find 2.4 and 3.7 (docs/ablations.md). --resume --seeds N adds seeds; decide "
            "on N before looking."
        )
    once = [effect.title for effect in effects if len(effect.seeds) == 1]
    if once and len(baseline) > 1:
        notes.append(
            f"Only one seed of {', '.join(once)} can be compared: that interval is the paired bootstrap of the pictures"
            " and that p the exact McNemar test, which say whether two trained networks differ on these pictures, not"
            " whether the change matters."
        )
    if split == "val":
        notes.append(
            f"Measured on val (n = {words.whole(n)}); test was not read, so that the recipe that comes of this can "
            "still be tested honestly. Where epochs or weights are chosen on val, val flatters every point."
        )
    else:
        notes.append(
            "Measured on test: a recipe that is chosen from this table has been chosen on test, and its figure on test "
            "flatters."
        )
    notes.append(
        "One factor at a time: two changes together may do more or less than the sum of both, and a setting that was "
        "tuned with another one is at a disadvantage without it."
    )
    if any(effect.reason for effect in effects):
        notes.append("Some points have no figure, or not from every seed; their rows say why.")
    return tuple(notes)

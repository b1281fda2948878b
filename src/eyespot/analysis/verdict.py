"""What the curves and figures of a run mean, in plain words with the numbers behind them.

Before this: `history.jsonl` and `metrics.json`. After this: the terminal and the report show the verdict.
Every rule is a function of its own with its threshold above it, and says nothing where it cannot know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from eyespot.analysis import words
from eyespot.analysis.headline import describe_top1, describe_views, headline_split
from eyespot.arrays import Float64Array, Int64Array
from eyespot.mistakes import MISTAKES

Severity: TypeAlias = Literal["note", "warning", "serious"]

_SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")

# Networks that are trained well still know their own pictures some points better: 94 % on CIFAR-10 comes with 99 to
# 100 % on train, a gap of 5 to 6 points. Ten is beyond that; at twenty-five, most of what was learned is the pictures.
OVERFIT_GAP = 0.10
SERIOUS_GAP = 0.25
# Val losses of neighbouring epochs differ by some per cent without any overfitting.
VAL_LOSS_RISE = 0.10
# A rise of a loss counts from this share of ln K, the loss of guessing: close to zero every rise is a large share.
LOSS_RISE_SCALE = 0.02
# Less than half of the way from guessing to perfect, on the very pictures it was trained on ...
UNDERFIT_SKILL = 0.5
# ... while new pictures fare about as well: with a wider gap it is not the fitting that is missing.
UNDERFIT_GAP = 0.05
# A tenth of the training that still brings half a point is worth another tenth, where the learning rate is still up.
UNCONVERGED_GAIN = 0.005
# A learning rate that falls to zero brings the last points at the very end of any run: only a steep end is too short.
UNCONVERGED_GAIN_ANNEALED = 0.03
# Under a tenth of its peak the learning rate counts as brought down.
ANNEALED_FRACTION = 0.1
# Train loss is a mean over thousands of pictures: this much above its own best is not noise.
TRAIN_LOSS_RISE = 0.15
# Noise moves the train loss up by a per cent now and then; rises over 3 % in every third epoch are overshooting.
OVERSHOOT = 0.03
OVERSHOOT_SHARE = 1 / 3
# A first epoch this much worse than guessing, the loss ln K: the first steps threw the weights far off ...
FIRST_LOSS = 1.2
# ... which is no harm where the training pictures are known well in the end.
RECOVERED_TOP1 = 0.9
# Val accuracy that jumps by this much from epoch to epoch in the last third of a run has not settled.
VAL_SWING = 0.02
# A loss that falls by less than this over the whole run, and on a straight line, has only begun to fall.
SLOW_FALL = 0.4
# A rate that falls to zero bends even that line, as the end of a curve is bent. It is straight over the rates added up;
# so are healthy curves of a few epochs, which fall by more than this.
BARELY_FALL = 0.1
STRAIGHT_R2 = 0.95
# An interval wider than this cannot tell a good change from luck: most changes to a recipe bring less.
WIDE_INTERVAL = 0.05
# At most one pair of val and test in a hundred differs by more through chance alone.
DISAGREE_Z, DISAGREE_P = 2.58, 0.01
# So many times as frequent as the rarest, the most frequent class is worth naming always.
UNEVEN = 1.5
# A network whose outputs have died says the same for nearly every picture.
SAME_ANSWER_SHARE = 0.9
# How narrow an interval to count pictures for.
_FEW = 200  # of a split that is a tenth of the data, cross-validation has ten times as many
_USEFUL_WIDTH = 0.02

_GUESSING = {"at-chance", "worse-than-chance"}

_MEANING = {
    "mistake-on-purpose": "it repeats a published mistake on purpose, and is not what the model can do",
    "diverged": "the training diverged, so the figure means nothing",
    "worse-than-chance": "guessing would do better",
    "at-chance": "it cannot be told from guessing",
    "only-train-measured": "these are the pictures it was trained on, so this says nothing about new ones",
    "worse-than-one-answer": "always naming the most frequent class would do better",
    "no-better-than-one-answer": "it cannot be told from always naming the most frequent class",
    "overfit": "it knows its training pictures much better than new ones",
    "val-loss-turned": "its val loss turned upwards while train loss fell, the first sign of overfitting",
    "underfit": "it cannot tell even its training pictures apart well",
    "learning-rate-too-high": "the learning rate was too high for it to settle",
    "learning-rate-too-low": "the learning rate was too low to get far",
    "not-converged": "it was still improving when it ended",
    "too-few-pictures": "there are too few pictures to say it more exactly",
    "val-and-test-disagree": "val and test do not agree, so neither can be trusted alone",
}


@dataclass(frozen=True)
class Finding:
    """One thing that a reader of the figures should know.

    Attributes:
        kind: A slug such as `not-converged`.
        severity: `note` explains, `warning` asks for care, `serious` makes the figures worth little.
        text: What was seen, with its numbers, and the next step.
    """

    kind: str
    severity: Severity
    text: str

    @property
    def title(self) -> str:
        """Return the kind as a heading: `Not converged`."""
        return self.kind.replace("-", " ").capitalize()


@dataclass(frozen=True)
class Verdict:
    """What a run amounts to.

    Attributes:
        headline: The accuracy as `describe_top1` writes it; empty where none was measured.
        sentence: The headline, what it means, the gap between train and val, and the most confused pair.
        findings: The worst first.
    """

    headline: str
    sentence: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that are taken for each other.

    Attributes:
        first: Index of the class that is mistaken more often.
        second: Index of the other.
        first_as_second: Pictures of `first` that were called `second`.
        second_as_first: Pictures of `second` that were called `first`.
        first_count: Pictures of `first`.
        second_count: Pictures of `second`.
    """

    first: int
    second: int
    first_as_second: int
    second_as_first: int
    first_count: int
    second_count: int


def sort_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the findings, the worst first, otherwise in the order given."""
    return tuple(sorted(findings, key=lambda finding: _SEVERITIES.index(finding.severity)))


def confused_pairs(confusion: Sequence[Sequence[int]] | Int64Array, count: int) -> list[ConfusedPair]:
    """Return the pairs of classes that are taken for each other most often, both directions together.

    Args:
        confusion: Counts (K, K), rows true, columns predicted.
        count: At most so many pairs; pairs without a mistake are left out.
    """
    table = np.asarray(confusion, dtype=np.int64)
    both = np.triu(table + table.T, k=1)
    rows, columns = np.nonzero(both)
    order = np.argsort(-both[rows, columns], kind="stable")[:count]
    pairs = []
    for a, b in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        first, second = (a, b) if table[a, b] >= table[b, a] else (b, a)
        counts = (int(table[first, second]), int(table[second, first]))
        pairs.append(ConfusedPair(first, second, *counts, int(table[first].sum()), int(table[second].sum())))
    return pairs


def judge(
    history: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    *,
    num_classes: int,
    epochs_planned: int,
    class_names: Sequence[str] = (),
    found_lr: float | None = None,
) -> Verdict:
    """Return what a run amounts to, and what its curves say was wrong.

    Args:
        history: Rows of `history.jsonl`, one an epoch; rows of a `--final` run have no `val/...`.
        metrics: `metrics.json`; each of `test`, `val` and `train` may be missing.
        num_classes: K.
        epochs_planned: Epochs the recipe asked for; fewer in the history means that the run ended early.
        class_names: K names in the order of the confusion matrix; without them the keys of `per_class` are used.
        found_lr: The learning rate that `--lr auto` found; None where the recipe gave one.
    """
    kept = bool((metrics.get("head") or {}).get("kept"))
    if kept:  # the curves are those of another network than the one that was measured
        history = ()
    run = _Run(history, metrics, num_classes, epochs_planned, found_lr)
    found = [finding for rule in _RULES if (finding := rule(run)) is not None]
    if any(finding.kind in _GUESSING | {"diverged"} for finding in found):
        # Whoever guesses underfits, too; and curves around chance carry no further message.
        found = [f for f in found if f.kind not in {"underfit", "val-and-test-disagree", "learning-rate-too-low"}]
    if any(finding.kind in {"overfit", "val-loss-turned"} for finding in found):
        # Whoever knows the training pictures better than new ones has learned: more of it, or faster, does not help.
        found = [f for f in found if f.kind not in {"underfit", "learning-rate-too-low"}]
    if any(finding.kind in _GUESSING for finding in found):
        # Pictures known by heart and nothing beyond them: more augmentation does not mend labels that are wrong.
        found = [f for f in found if f.kind != "overfit"]
    split = headline_split(metrics)
    if split is None:
        return Verdict("", "No accuracy was measured.", sort_findings(found))
    headline = describe_top1(metrics[split], split)
    kinds = {finding.kind for finding in found}
    quiet = "nothing in its curves speaks against it" if len(history) > 1 else "a single epoch leaves no curve to judge"
    if not history and metrics.get("head"):
        after = "and the fine-tuning after it was not kept" if kept else "without epochs"
        quiet = f"its head was solved on frozen features, {after}"
    meaning = next((text for kind, text in _MEANING.items() if kind in kinds), quiet)
    names = list(class_names) or list(metrics[split].get("per_class", {}))
    sentences = [f"{headline}: {meaning}.", _say_gap(metrics, split)]
    if not kinds & _GUESSING:  # a guesser confuses everything with everything
        sentences.append(_say_confusion(metrics[split], split, names))
    return Verdict(headline, " ".join(filter(None, sentences)), sort_findings(found))


class _Run:
    """The curves and figures of one run, as the rules read them."""

    def __init__(
        self,
        history: Sequence[Mapping[str, Any]],
        metrics: Mapping[str, Any],
        num_classes: int,
        epochs_planned: int,
        found_lr: float | None,
    ) -> None:
        self.metrics = metrics
        self.num_classes = num_classes
        self.epochs_planned = epochs_planned
        # Whoever has searched for the rate already is not sent to search for it.
        self.rate = "optimizer.lr" if found_lr is None else f"the rate that --lr auto found ({found_lr:g})"
        self.search = "find a rate with --lr auto, or " if found_lr is None else ""
        self.epochs = len(history)
        self.log_classes = math.log(max(num_classes, 2))  # the loss of guessing, in nats
        self.rows = history
        # float64 (E,), nan where an epoch has no such figure
        self.epoch = np.array([row.get("epoch", index + 1) for index, row in enumerate(history)], dtype=np.float64)
        self.lr = self._curve("lr")
        self.train_loss = self._curve("train/loss")
        self.val_loss = self._curve("val/loss")
        self.val_top1 = self._curve("val/top1")

    def _curve(self, key: str) -> Float64Array:
        return np.array([np.nan if row.get(key) is None else row[key] for row in self.rows], dtype=np.float64)

    def split(self, name: str) -> Mapping[str, Any] | None:
        """Return the figures of a split, or None."""
        return self.metrics.get(name) or None

    def held_out(self) -> tuple[str, Mapping[str, Any]] | None:
        """Return val, or test where a `--final` run has no val."""
        return next(((name, found) for name in ("val", "test") if (found := self.split(name))), None)

    def has_fitted(self) -> bool:
        """Return whether it was measured to be half of the way from guessing to perfect on its training pictures."""
        train, chance = self.split("train"), 1 / self.num_classes
        return train is not None and (train["top1"] - chance) / (1 - chance) >= UNDERFIT_SKILL

    def tail(self) -> int:
        """Return how many epochs make the last tenth."""
        return max(1, self.epochs // 10)

    def annealed(self) -> bool:
        """Return whether the learning rate was brought down by the end."""
        known = self.lr[np.isfinite(self.lr)]
        return bool(known.size and known[-1] < ANNEALED_FRACTION * known.max())


def _mistakes(run: _Run) -> Finding | None:
    """Say which mistakes of a publication were made on purpose."""
    names = [name for name in run.metrics.get("mistakes", ()) if name in MISTAKES]
    if not names:
        return None
    return Finding("mistake-on-purpose", "serious", " ".join(MISTAKES[name].text for name in names))


def _diverged(run: _Run) -> Finding | None:
    """Find a loss that is no number."""
    broken = [row.get("epoch", i + 1) for i, row in enumerate(run.rows) if _is_broken(row, "train/loss")]
    if not broken:
        return None
    text = f"The train loss is not a number from epoch {broken[0]:g} on. Lower optimizer.lr, or set training.clip_norm."
    return Finding("diverged", "serious", text)


def _is_broken(row: Mapping[str, Any], key: str) -> bool:
    return key in row and (row[key] is None or not math.isfinite(row[key]))


def _at_chance(run: _Run) -> Finding | None:
    """Find an accuracy that guessing would reach as well, or that is even worse."""
    name = headline_split(run.metrics)
    if name is None:
        return None
    figures, chance = run.metrics[name], 1 / run.num_classes
    low, high = figures["top1_ci95"]
    guessing = f"guessing among {run.num_classes} classes gives {words.percent(chance)}"
    if low > chance:
        return None
    kind, place = ("worse-than-chance", "is worse than") if high < chance else ("at-chance", "cannot be told from")
    seen = f"{describe_top1(figures, name)} {place} chance: {guessing}."
    answers = _counts(figures, axis=0)
    if answers.sum() and answers.max() >= SAME_ANSWER_SHARE * answers.sum():
        share = words.percent(float(answers.max() / answers.sum()))
        seen += f" It gives one and the same answer for {share} of the pictures."
    train = run.split("train")
    if high < chance and not (train and train["top1_ci95"][0] <= chance):
        advice = (
            f"Probably the labels of {name} and train do not mean the same classes: compare the class lists, and look"
            " at the pictures with eyespot data show."
        )
    elif train and name != "train" and train["top1_ci95"][0] > chance and (chance + train["top1"]) / 2 <= high:
        # A network that holds half of what it learned would often look like this, too: no reason to doubt the labels.
        reaches = "reaches" if train["top1"] <= high else "reaches more than half of the way from guessing to"
        advice = (
            f"But its interval {reaches} {describe_top1(train, 'train')}: n = {words.whole(figures['n'])} is too few"
            " to tell. Measure on more pictures."
        )
    elif train and name != "train" and train["top1_ci95"][0] > chance + OVERFIT_GAP:
        advice = f"{describe_top1(train, 'train')} shows that it did learn its own pictures"
        val = run.split("val") if name != "val" else None
        if val and val["top1_ci95"][0] <= chance:
            advice += (
                f", but nothing that holds for {describe_top1(val, 'val')} either: look for labels that do not belong"
                " to their pictures, in train first."
            )
        else:
            advice += (
                f": look for labels of {name} that do not belong to their pictures, or for other pictures than those"
                " of train."
            )
    else:
        advice = (
            "Likely causes: a learning rate that is too high or far too low, labels that do not belong to their"
            f" pictures, or too few steps. {words.sentence(f'{run.search}try a tenth of {run.rate}')}"
        )
    return Finding(kind, "serious", f"{seen} {advice}")


def _one_answer(run: _Run) -> Finding | None:
    """Find an accuracy that always naming the most frequent class would reach as well."""
    name = headline_split(run.metrics)
    if name is None:
        return None
    figures, truths = run.metrics[name], _counts(run.metrics[name], axis=1)
    share = float(truths.max() / truths.sum()) if truths.sum() else 0.0
    low = figures["top1_ci95"][0]
    if not 1 / run.num_classes < low <= share or (difference := _against_one_answer(figures)) > 0:
        return None
    text = (
        f"{describe_top1(figures, name)}, where always naming the most frequent class gives {words.percent(share)}."
        " Read the recall of each class"
    )
    # Of classes that are about as frequent none is rare, and there is nothing to balance.
    if truths.max() < UNEVEN * truths[truths > 0].min():
        text += "."
    elif _misses_the_frequent(figures):
        text += (
            "; it is the most frequent one that is missed: --set training.class_balance=none weighs all pictures alike."
        )
    else:
        text += "; show the rare classes more often, or collect more of them."
    return Finding("worse-than-one-answer" if difference < 0 else "no-better-than-one-answer", "warning", text)


def _misses_the_frequent(figures: Mapping[str, Any]) -> bool:
    """Return whether more of the wrong answers are about pictures of the most frequent class than about all others."""
    confusion = np.asarray(figures["confusion"], dtype=np.int64)
    missed = confusion.sum(axis=1) - confusion.diagonal()
    return bool(2 * missed[confusion.sum(axis=1).argmax()] > missed.sum())


def _against_one_answer(figures: Mapping[str, Any]) -> int:
    """Return how many pictures more are right than by always naming the most frequent class; 0 where it may be chance.

    The same pictures are counted for both, so they are compared in pairs: intervals that overlap do not settle it.
    """
    from eyespot.evaluation.statistics import mcnemar_p_value

    confusion = np.asarray(figures["confusion"], dtype=np.int64)
    most, hits = confusion.sum(axis=1).argmax(), confusion.diagonal()
    lost, won = int(confusion[most].sum() - hits[most]), int(hits.sum() - hits[most])
    return won - lost if mcnemar_p_value(lost, won) < 0.05 else 0


def _counts(figures: Mapping[str, Any], axis: int) -> Int64Array:
    """Return int64 (K,) how often each class was given (axis 0) or true (axis 1); (1,) zero where it is not known."""
    confusion = figures.get("confusion")
    return np.zeros(1, dtype=np.int64) if confusion is None else np.asarray(confusion, dtype=np.int64).sum(axis=axis)


def _only_train(run: _Run) -> Finding | None:
    """Find a run of which only the accuracy on its own training pictures is known."""
    if headline_split(run.metrics) != "train":
        return None
    text = (
        "Only train was measured, the pictures it learned from. Keep some apart: data.val_fraction, data.test_fraction."
    )
    return Finding("only-train-measured", "serious", text)


def _overfit(run: _Run) -> Finding | None:
    """Find a wide gap between train and held-out pictures that is not chance, or a val loss that turned upwards."""
    turned = _val_loss_turned(run)
    train, held = run.split("train"), run.held_out()
    gap = train["top1"] - held[1]["top1"] if train and held else 0.0
    if not (train and held and gap >= OVERFIT_GAP and held[1]["top1_ci95"][1] < train["top1_ci95"][0]):
        if not turned:
            return None
        text = f"{turned}: overfitting shows there first, as too much certainty. Augment more, or raise weight decay."
        return Finding("val-loss-turned", "warning", text[0].upper() + text[1:])
    text = f"Train is {words.points(gap)} above {held[0]}: {_both(train, 'train', held[1], held[0])}"
    text += f"; and {turned}" if turned else ""
    if (head := run.metrics.get("head")) and not run.epochs:  # there are none to choose from; nothing was augmented
        text += ". More pictures of each class narrow it"
        text += "." if head.get("kept") else "; --minutes fine-tunes the network after the head."
    else:
        text += ". Augment more, or raise weight decay or dropout"
        # Without val there is no best epoch to choose, and with restore_best it has been kept.
        was_better = run.val_loss[-1:] > np.nanmin(run.val_loss, initial=np.inf)
        may_choose = held[0] == "val" and was_better.any() and run.metrics.get("best_epoch", run.epochs) == run.epochs
        text += ", or keep the best epoch with training.restore_best = true." if may_choose else "."
    return Finding("overfit", "serious" if gap >= SERIOUS_GAP else "warning", text)


def _val_loss_turned(run: _Run) -> str:
    """Return how far the val loss rose from its best epoch while the train loss went on falling, or nothing."""
    if run.epochs < 4 or not np.isfinite(run.val_loss).all() or not np.isfinite(run.train_loss).all():
        return ""
    # The lowest of many epochs is mostly luck, with few val pictures above all: a mean over some neighbours is not.
    width = max(3, run.tail()) if run.epochs >= 9 else 1
    smooth = np.convolve(run.val_loss, np.full(width, 1 / width), mode="valid")
    best = int(smooth.argmin())
    rise, noise = float(smooth[-1] - smooth[best]), float(np.median(np.abs(np.diff(run.val_loss))))
    needed = max(VAL_LOSS_RISE * smooth[best], LOSS_RISE_SCALE * run.log_classes, noise)
    epoch = best + width // 2
    if rise < needed or run.train_loss[-1] >= 0.98 * run.train_loss[epoch]:
        return ""
    return (
        f"val loss rose from {smooth[best]:.3f} around epoch {run.epoch[epoch]:g} to {smooth[-1]:.3f} at the end, while"
        f" train loss fell from {run.train_loss[epoch]:.3f} to {run.train_loss[-1]:.3f}"
    )


def _underfit(run: _Run) -> Finding | None:
    """Find a model that is far from right on its own training pictures."""
    train, held = run.split("train"), run.held_out()
    if not train or not held or run.has_fitted() or train["top1"] - held[1]["top1"] >= UNDERFIT_GAP:
        return None
    chance = words.percent(1 / run.num_classes)
    text = (
        f"{describe_top1(train, 'train')} is less than half of the way from guessing ({chance}) to"
        f" perfect, and {held[0]} is about as good."
    )
    first, last = (float(run.train_loss[place]) for place in (0, -1)) if run.epochs else (0.0, 0.0)
    if math.isfinite(first) and (1 - BARELY_FALL) * first < last < first:
        other = f"{run.search}try a third and three times {run.rate}"
        text += f" The train loss fell by only {words.percent(1 - last / first)}: {other} first."
    text += " Train longer, take a larger model or more input pixels, or augment less."
    return Finding("underfit", "warning", text)


def _learning_rate_too_high(run: _Run) -> Finding | None:
    """Find a train loss that rises again or jumps about, or a val accuracy that never settles."""
    loss = run.train_loss[run.epochs // 10 :]  # the first tenth may be warm-up
    if run.epochs < 6 or not np.isfinite(loss).all():
        return None
    # The best is looked for before the end: on a steep fall the median of the last two lies above the last.
    last = max(2, run.tail())
    best, end = float(loss[:-last].min()), float(np.median(loss[-last:]))
    jumps = np.diff(loss) > np.maximum(OVERSHOOT * loss[:-1], LOSS_RISE_SCALE / 2 * run.log_classes)
    if jumps.mean() >= OVERSHOOT_SHARE:
        seen = f"The train loss went up in {int(jumps.sum())} of {len(jumps)} epochs"
    elif end > (1 + TRAIN_LOSS_RISE) * best and end - best > LOSS_RISE_SCALE * run.log_classes:
        seen = f"The train loss rose from {best:.3f} to {end:.3f}"
    else:
        seen = _blown_up_at_the_start(run) or _val_swings(run)
    if not seen:
        return None
    advice = f"{run.search}lower {run.rate} to a third{'' if run.annealed() else ', or let it fall to zero'}"
    return Finding("learning-rate-too-high", "warning", f"{seen}. {words.sentence(advice)}")


def _blown_up_at_the_start(run: _Run) -> str:
    """Return how far the first epoch's loss lay above guessing, where the run never made up for it, or nothing."""
    train, first = run.split("train"), float(run.train_loss[0])
    if not train or first < FIRST_LOSS * run.log_classes or train["top1"] >= RECOVERED_TOP1:
        return ""
    return f"The train loss of the first epoch was {first:.3f}, and guessing is {run.log_classes:.3f}"


def _val_swings(run: _Run) -> str:
    """Return how much val accuracy swings from epoch to epoch in the last third, or nothing."""
    late = run.val_top1[-max(6, run.epochs // 3) :]
    if len(late) < 6 or run.epochs < 9 or not np.isfinite(late).all():
        return ""
    steps = np.diff(late)
    swing, turns = float(np.median(np.abs(steps))), float((steps[1:] * steps[:-1] < 0).mean())
    noise = 2 * _standard_error(run.split("val"))
    if swing < max(VAL_SWING, noise) or turns < 0.5:
        return ""
    return f"val/top1 swings by {words.points(swing)} from epoch to epoch at the end of the run"


def _learning_rate_too_low(run: _Run) -> Finding | None:
    """Find a train loss that falls little, and on a straight line: the start of a curve, stretched over the run."""
    loss = run.train_loss
    # Label smoothing keeps a loss up, and the hardest pictures alone do too: then the pictures are known all the same.
    if run.epochs < 5 or not np.isfinite(loss).all() or loss[0] <= 0 or run.has_fitted():
        return None
    fall = float(1 - loss[-1] / loss[0])
    if not 0.01 < fall < SLOW_FALL:
        return None
    straight = _straightness(loss, np.arange(run.epochs, dtype=np.float64)) >= STRAIGHT_R2
    if not straight and fall < BARELY_FALL and np.isfinite(run.lr).all():
        straight = _straightness(loss, run.lr.cumsum()) >= STRAIGHT_R2
    if not straight:
        return None
    text = (
        f"The train loss fell by only {words.percent(fall)}, from {loss[0]:.3f} to {loss[-1]:.3f}, and almost evenly"
        f" with the rate over {run.epochs} epochs: learning had barely begun."
        f" {words.sentence(f'{run.search}raise {run.rate} three- to tenfold')}"
    )
    return Finding("learning-rate-too-low", "warning", text)


def _straightness(loss: Float64Array, steps: Float64Array) -> float:
    """Return the share of the loss's (E,) spread that a straight line over steps (E,) explains; 0 without any."""
    spread = float(((loss - loss.mean()) ** 2).sum())
    if not spread or not np.ptp(steps):
        return 0.0
    fitted = np.polyval(np.polyfit(steps, loss, 1), steps)
    return 1 - float(((loss - fitted) ** 2).sum()) / spread


def _not_converged(run: _Run) -> Finding | None:
    """Find a val accuracy that the last tenth of the epochs still raised."""
    tail = run.tail()
    if run.epochs < 3 or not np.isfinite(run.val_top1[-2 * tail :]).all():
        return None
    before, after = float(run.val_top1[-2 * tail : -tail].mean()), float(run.val_top1[-tail:].mean())
    needed = UNCONVERGED_GAIN_ANNEALED if run.annealed() else UNCONVERGED_GAIN
    val = run.split("val")
    picture = 1.01 / val["n"] if val else 0.0  # one of four is 25 points, and luck
    # Two epochs answer some pictures differently by chance: one standard error is passed in one flat run of five.
    if after == 1 or after - before <= max(needed, picture, 2 * _standard_error(val)):
        return None
    last = "epoch" if tail == 1 else f"{tail} epochs"
    text = (
        f"The last {last} of {run.epochs} still raised val/top1 by {words.points(after - before)}, from"
        f" {words.percent(before)} to {words.percent(after)}. Train for more epochs."
    )
    return Finding("not-converged", "warning", text)


def _head_kept(run: _Run) -> Finding | None:
    """Say that the figures are not those of the network that the epochs trained."""
    if not (run.metrics.get("head") or {}).get("kept"):
        return None
    text = (
        "Fine-tuning made the loss on val no better, so the head on frozen features was kept: every figure is that of"
        " the head, and the learning curves are those of the network that was not kept."
    )
    return Finding("fine-tuning-not-kept", "note", text)


def _stopped_early(run: _Run) -> Finding | None:
    """Find a run that ended before its planned epochs."""
    if not 0 < run.epochs < run.epochs_planned:
        return None
    text = f"The run ended after {run.epochs} of {words.plural(run.epochs_planned, 'planned epoch')}"
    reason = run.metrics.get("stopped") or "early stopping, a time limit or an interruption"
    return Finding("stopped-early", "note", f"{text} ({reason}).")


def _too_few_pictures(run: _Run) -> Finding | None:
    """Find an interval that is too wide to compare anything."""
    name = headline_split(run.metrics)
    if name is None:
        return None
    figures = run.metrics[name]
    width = figures["top1_ci95"][1] - figures["top1_ci95"][0]
    if width <= WIDE_INTERVAL:
        return None
    # Of few pictures the width does not shrink with the square root of n yet: the middle of the interval says enough.
    middle = sum(figures["top1_ci95"]) / 2
    enough = max(100, round(middle * (1 - middle) * (2 * 1.96 / _USEFUL_WIDTH) ** 2, -2))
    text = (
        f"{describe_top1(figures, name)}: the interval is {words.points(width)} wide, so a smaller difference may be"
        f" luck. About {words.whole(enough)} pictures would make it {words.points(_USEFUL_WIDTH)} wide."
    )
    if figures["n"] < _FEW:
        text += " Until then eyespot check DATA --labels tells how many of all pictures cross-validation names right."
    return Finding("too-few-pictures", "warning", text)


def _disagree(run: _Run) -> Finding | None:
    """Find val and test figures that differ by more than chance."""
    val, test = run.split("val"), run.split("test")
    if not val or not test:
        return None
    error = math.hypot(_standard_error(val), _standard_error(test))
    difference = test["top1"] - val["top1"]
    if error == 0 or abs(difference) <= DISAGREE_Z * error:
        return None
    from scipy.stats import fisher_exact  # only here: it takes most of a second to load

    # With ten val pictures the standard errors call one pair in ten different that chance has made: exactly, then.
    hits = [round(figures["top1"] * figures["n"]) for figures in (val, test)]
    if float(fisher_exact([hits, [val["n"] - hits[0], test["n"] - hits[1]]]).pvalue) >= DISAGREE_P:
        return None
    side = "above" if difference > 0 else "below"
    seen = f"Test is {words.points(difference)} {side} val: {_both(val, 'val', test, 'test')}."
    if describe_views(val.get("views")) != describe_views(test.get("views")):
        return Finding("val-and-test-disagree", "note", f"{seen} They were measured with different test-time views.")
    cause = "the two splits hold different kinds of pictures"
    if difference < 0:
        cause += ", train and val share near copies, or val was used to choose too often"
    return Finding("val-and-test-disagree", "warning", f"{seen} More than chance explains: {cause}.")


_RULES = (
    _mistakes,
    _diverged,
    _at_chance,
    _one_answer,
    _only_train,
    _overfit,
    _underfit,
    _learning_rate_too_high,
    _learning_rate_too_low,
    _not_converged,
    _too_few_pictures,
    _disagree,
    _head_kept,
    _stopped_early,
)


def _standard_error(figures: Mapping[str, Any] | None) -> float:
    """Return the standard error of an accuracy, from its own interval; 0 where it was not measured."""
    # The 95 % interval is 1.96 errors to each side. Unlike p (1 - p) / n, it does not vanish at 0 and 100 %.
    return 0.0 if figures is None else float(figures["top1_ci95"][1] - figures["top1_ci95"][0]) / (2 * 1.96)


def _both(first: Mapping[str, Any], first_name: str, second: Mapping[str, Any], second_name: str) -> str:
    return f"{describe_top1(first, first_name)}, {describe_top1(second, second_name)}"


def _say_gap(metrics: Mapping[str, Any], split: str) -> str:
    """Return the gap between train and val (test where there is no val) as a sentence, or nothing."""
    train, held = metrics.get("train"), "val" if metrics.get("val") else split
    if not train or held == "train":
        return ""
    gap = train["top1"] - metrics[held]["top1"]
    # The headline has said the held-out figure already where it is the same split.
    figures = describe_top1(train, "train")
    if held != split:
        figures += f", {describe_top1(metrics[held], held)}"
    apart = words.points(gap)
    if apart == words.points(0.0):
        return f"Train is level with {held}: {figures}."
    return f"Train is {apart} {'above' if gap >= 0 else 'below'} {held}: {figures}."


def _say_confusion(figures: Mapping[str, Any], split: str, names: Sequence[str]) -> str:
    """Return the most confused pair as a sentence; nothing where there is none, or several are confused as often."""
    pairs = confused_pairs(figures["confusion"], 2) if figures.get("confusion") is not None else []
    if not pairs or len({pair.first_as_second + pair.second_as_first for pair in pairs}) < len(pairs):
        return ""
    pair = pairs[0]
    # In quotes: classes may be called 3 and 7.
    first, second = (repr(names[i]) if i < len(names) else f"class {i}" for i in (pair.first, pair.second))
    there = f"{words.whole(pair.first_as_second)} of {words.whole(pair.first_count)} {first} taken for {second}"
    back = f"{words.whole(pair.second_as_first)} of {words.whole(pair.second_count)} {second} taken for {first}"
    return f"Most confused: {there}{f' and {back}' if pair.second_as_first else ''}, on {split}."

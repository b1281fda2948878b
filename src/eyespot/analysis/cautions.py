"""What a reader must know before believing a figure: the state of the data and how the run was measured.

Before this: the data card, the configuration and `metrics.json`. After this: the report lists these beside the
findings of `verdict`, which judges curves; nothing here looks at a curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from eyespot.analysis import words
from eyespot.analysis.headline import headline_split
from eyespot.analysis.verdict import Finding, sort_findings

# From three to one on, accuracy rewards naming the frequent class, and the rare one is learned visibly worse.
IMBALANCE_RATIO = 3.0
# With fewer pictures, one of them moves a class's recall by over 5 points.
FEW_PER_CLASS = 20
# Pictures enlarged to the input size carry no more than they did; beyond this share it should be said.
ENLARGED_SHARE = 0.05


class DataCard(TypedDict, total=False):
    """What is known about the data of a run; every part may be missing.

    Keys:
        name, origin, layout: As in `Dataset`.
        published: True for a named data set, whose split is what it is.
        notes: Sentences for the user, such as that the pictures are re-encoded.
        counts: Pictures per split and class, as used: `{"train": {"cat": 4500}}`.
        bad: (sample id, reason) of each file that cannot be used.
        skipped: How many of them the run went on without.
        duplicates: Groups of equal pictures; `duplicate_examples` some of them, each a list of sample ids.
        leaks: Groups that are in more than one split; `leak_examples` likewise.
        leaked: Pictures of `test` that are in train or val, too, and of `val` that are in train, by `count_leaked`.
        conflicts: Groups of equal pictures with different labels.
        sizes: (width_px, height_px, how many pictures), the most frequent first.
        modes: Pillow mode -> how many pictures.
        enlarged: How many pictures have a side smaller than the packed size.
        fingerprint: Hex digest of the content.
        packed_shape: (height_px, width_px, channels) of what is kept of each picture.
        packed_bytes: Size of the packed pixels; 0 where the files are streamed.
        fit, interpolation: How a picture became that shape.
        near: What `eyespot check` found of near copies; `checking` names its keys.
        near_across: How many of them are on both sides of a run's division, where they were searched; see
            `near_cache`.
        statistics: Its mean and deviation of each statistic of `drift.STATISTICS`, by split.
        drift: Its comparison of train with test.
        preparation: What is done to every picture before the model, in words.
    """

    name: str
    origin: str
    layout: str
    published: bool
    notes: Sequence[str]
    counts: Mapping[str, Mapping[str, int]]
    bad: Sequence[tuple[str, str]]
    skipped: int
    duplicates: int
    duplicate_examples: Sequence[Sequence[str]]
    leaks: int
    leak_examples: Sequence[Sequence[str]]
    leaked: Mapping[str, int]
    conflicts: int
    sizes: Sequence[tuple[int, int, int]]
    modes: Mapping[str, int]
    enlarged: int
    fingerprint: str
    packed_shape: Sequence[int]
    packed_bytes: int
    fit: str
    interpolation: str
    near: Mapping[str, Any]
    near_across: Mapping[str, Any]
    statistics: dict[str, dict[str, tuple[float, float]]]
    drift: Mapping[str, Any]
    preparation: str


def find_cautions(
    data_card: DataCard, metrics: Mapping[str, Any], *, num_classes: int, final: bool
) -> tuple[Finding, ...]:
    """Return what limits the figures of a run, the worst first.

    Args:
        data_card: What the scan of the pictures found.
        metrics: `metrics.json`.
        num_classes: K.
        final: The run trained on train + val with `--final`.
    """
    found = [
        *_about_pictures(data_card),
        *_about_leaks(data_card, metrics),
        *_about_copies(data_card),
        *_about_balance(data_card, headline_split(metrics)),
        *_about_measuring(metrics, num_classes, final),
        *(Finding("about-the-run", "note", words.sentence(note)) for note in data_card.get("notes", ())),
    ]
    return sort_findings(found)


def _about_pictures(card: DataCard) -> list[Finding]:
    """Say which pictures were left out or had to be enlarged."""
    found = []
    skipped, total = card.get("skipped", 0), count_pictures(card)
    if skipped:
        text = f"{words.plural(skipped, 'file was', 'files were')} left out because nothing could be read from"
        text += f" {'it' if skipped == 1 else 'them'}; {words.plural(total, 'picture')} remained."
        found.append(Finding("bad-files-skipped", "warning", text))
    enlarged = card.get("enlarged", 0)
    if total and enlarged / total > ENLARGED_SHARE:
        text = f"{words.whole(enlarged)} of {words.whole(total)} pictures are smaller than the input and were enlarged"
        found.append(Finding("enlarged-pictures", "note", f"{text}: the model sees no more than they held."))
    return found


def _about_leaks(card: DataCard, metrics: Mapping[str, Any]) -> list[Finding]:
    """Say which measured pictures are among those that were trained on, pixel for pixel."""
    found = []
    published = bool(card.get("published"))
    leaked = card.get("leaked", {})
    test = leaked.get("test", (metrics.get("test") or {}).get("also_in_train", 0))
    val = leaked.get("val", 0)
    if test:
        text = f"{words.plural(test, 'test picture is', 'test pictures are')} also in train or val"
        allowed = " (allowed by --allow-leak): the figures on test are too high."
        text += ", as this data set was published." if published else allowed
        found.append(Finding("test-pictures-in-train", "note" if published else "serious", text))
    if val:
        text = f"{words.plural(val, 'val picture is', 'val pictures are')} also in train"
        text += ", as this data set was published." if published else ": the figures on val are too high."
        found.append(Finding("val-pictures-in-train", "note" if published else "warning", text))
    if (groups := card.get("leaks", 0)) and not (test or val):
        text = f"{words.plural(groups, 'group of equal pictures is', 'groups of equal pictures are')} in more than one"
        found.append(Finding("same-picture-in-two-splits", "note" if published else "warning", f"{text} split."))
    return found


def _about_copies(card: DataCard) -> list[Finding]:
    """Say which pictures are there more than once."""
    found = []
    for split in ("test", "val"):
        if text := describe_near_copies(card.get("near_across", {}), split):
            found.append(Finding(f"near-copies-in-{split}", "note" if card.get("published") else "warning", text))
    if conflicts := card.get("conflicts", 0):
        text = f"{words.plural(conflicts, 'picture is', 'pictures are')} there under different labels"
        found.append(Finding("conflicting-labels", "warning", f"{text}: no model can get all of them right."))
    if duplicates := card.get("duplicates", 0):
        text = f"{words.plural(duplicates, 'picture is', 'pictures are')} there more than once, equal in every pixel."
        found.append(Finding("duplicates", "note", text))
    return found


def describe_near_copies(across: Mapping[str, Any], split: str) -> str:
    """Return how much of a figure near copies may make, as a sentence; empty where none were found.

    Args:
        across: `near_across` of a data card.
        split: test or val.
    """
    near = across.get(split, 0)
    if not near:
        return ""
    total = across[f"{split}_total"]
    others = "train or val" if split == "test" and across.get("val_total") else "train"
    return (
        f"{words.whole(near)} of the {words.plural(total, f'{split} picture')} ({words.percent(near / total)})"
        f" nearly equal{'s' if near == 1 else ''} one in {others}, of those that were found: at most so much of"
        f" the {split} accuracy is recognising instead of classifying."
    )


def describe_test_reads(reads: int) -> str:
    """Return what to think of a test split that was read so often, as a sentence; empty where it was read once."""
    if reads < 2:
        return ""
    return f"Test was read {reads} times. Where a reading decided what to do next, the next figure is too high."


def _about_balance(card: DataCard, split: str | None) -> list[Finding]:
    """Say whether some classes have far fewer pictures than others, in train and in the split they are measured on."""
    found = []
    counts = card.get("counts", {})
    train = counts.get("train", {})
    if train and max(train.values()) > IMBALANCE_RATIO * max(min(train.values()), 1):
        most, least = max(train, key=lambda name: train[name]), min(train, key=lambda name: train[name])
        text = f"Train has {words.plural(train[most], 'picture')} of {most} and {words.whole(train[least])} of {least}"
        text += ": read the recall of each class, not only the accuracy."
        found.append(Finding("class-imbalance", "warning", text))
    few = [name for name, number in counts.get(split or "", {}).items() if number < FEW_PER_CLASS]
    if few:
        text = (
            f"{words.plural(len(few), 'class has', 'classes have')} fewer than {FEW_PER_CLASS} pictures in {split}:"
            f" {'its' if len(few) == 1 else 'their'} own figures are rough."
        )
        found.append(Finding("few-pictures-in-a-class", "note", text))
    return found


def _about_measuring(metrics: Mapping[str, Any], num_classes: int, final: bool) -> list[Finding]:
    """Say what chance would give, how often test was read, and what was not measured."""
    found = []
    split = headline_split(metrics)
    if text := describe_test_reads(metrics.get("test_reads", 0)):
        found.append(Finding("test-read-more-than-once", "warning", text))
    if split and (fixes := metrics[split].get("label_fixes")):
        found.append(Finding("corrected-test-labels", "warning", _as_given(split, metrics[split], fixes)))
    if final:
        text = (
            "Trained on train + val with a fixed recipe: nothing was selected, and there are no val figures. Without"
            " val the probabilities are not calibrated, and the model never says unknown."
        )
        found.append(Finding("final-run", "note", text))
    if split == "val":
        text = "Test has not been read. Val guided the choice of settings, so expect a little less on new pictures."
        found.append(Finding("no-test-figure", "note", text))
    if split:
        text = f"Guessing gives {words.percent(1 / num_classes)} with {words.plural(num_classes, 'class', 'classes')}"
        frequent = _most_frequent(metrics[split])
        if frequent and frequent > 1.05 / num_classes:
            text += f"; always naming the most frequent class gives {words.percent(frequent)} on {split}"
            text += f" (n = {words.whole(metrics[split]['n'])})"
        found.append(Finding("chance-level", "note", f"{text}."))
    return found


def _as_given(split: str, figures: Mapping[str, Any], fixes: Mapping[str, Any]) -> str:
    """Say how much of a figure comes from labels that were corrected where it was measured."""
    labels = f"{words.whole(fixes['corrected'])} of the {words.plural(figures['n'], f'{split} label')}"
    given = f"{words.percent(fixes['top1_as_given'])} {words.interval(fixes['top1_as_given_ci95'])}"
    return (
        f"{labels} {'was' if fixes['corrected'] == 1 else 'were'} corrected (--fix): {words.percent(figures['top1'])} "
        f"right with the corrections, {given} with the labels as given. Compare only the second with other runs, and "
        "with care: a model chose which labels were looked at."
    )


def _most_frequent(figures: Mapping[str, Any]) -> float | None:
    """Return the share of the most frequent class of a split, or None."""
    rows = [sum(row) for row in figures.get("confusion") or []]
    return max(rows) / sum(rows) if sum(rows) else None


def count_pictures(card: DataCard) -> int:
    """Return how many pictures all splits hold together."""
    return sum(sum(classes.values()) for classes in card.get("counts", {}).values())

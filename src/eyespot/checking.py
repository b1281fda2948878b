"""`check`: look at a data set before anything is trained on it.

Before this: the command line or Python. After this: a data card, what must be decided, and a page of pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyespot.caches import user_path
from eyespot.errors import DataError
from eyespot.files import checked_page
from eyespot.opening import Observer, choose_recipe, data_card, divide, load_recipe, open_data, pack_data
from eyespot.terminal import Terminal

if TYPE_CHECKING:
    from eyespot.analysis.cautions import DataCard
    from eyespot.arrays import BoolArray, Float32Array, Int64Array, UInt8Array
    from eyespot.data.dataset import DuplicateGroup, PackedDataset, SplitName
    from eyespot.data.drift import Drift
    from eyespot.data.fingerprints import NearPairs

_BLOCK_BYTES = 2**25  # of pixels that are read at once
_EXAMPLES = 10
_SHOWN = 48  # pairs or pictures in a section of the page
_LISTED = 1000  # groups of equal pictures on the page, those beyond `_SHOWN` without a picture
_TINY_PX = 8
# Of the shares that red, green and blue have of a picture's light. Re-encoding as JPEG 40 moves them by 0.005 at most
# in 99 % of the pictures, by 0.022 in the worst (the first 1,000 test pictures of CIFAR-10, JPEG 75).
_SAME_COLOUR = 0.05


@dataclass(frozen=True)
class Look:
    """What was seen in all pictures of all splits together, N of them, in the order of the splits.

    Attributes:
        packed: The pictures.
        splits: The split of each, N names.
        rows: int64 (N,), its row in that split.
        labels: int64 (N,).
        ids: N sample ids.
        pairs: Near copies.
        colours: float32 (N, 3), the shares of red, green and blue in the light of each picture, in [0, 1].
        blank: int64, places of pictures of a single colour, or nearly.
        tiny: int64, places of pictures with a side under 8 px.
        statistics: Split -> statistic -> its mean over the pictures and its deviation between them.
        drift: Train against test, None where there is no test or few pictures.
    """

    packed: PackedDataset
    splits: list[SplitName]
    rows: Int64Array
    labels: Int64Array
    ids: list[str]
    pairs: NearPairs
    colours: Float32Array
    blank: Int64Array
    tiny: Int64Array
    statistics: dict[str, dict[str, tuple[float, float]]]
    drift: Drift | None

    def pixels(self, place: int) -> UInt8Array:
        """Return one picture, uint8 (S, S, C)."""
        from eyespot.training.prepare import read_pixels

        pixels: UInt8Array = read_pixels(self.packed, self.splits[place], self.rows[place : place + 1])[0]
        return pixels

    @cached_property
    def chained(self) -> int:
        """Return how many pictures hang together by likeness that is handed on."""
        from eyespot.data.fingerprints import count_chained

        return count_chained(len(self.ids), self.pairs)

    @property
    def too_alike(self) -> bool:
        """Return whether so many do that nothing can be said of copies."""
        from eyespot.data.fingerprints import MOST_CHAINED

        return self.chained > MOST_CHAINED * len(self.ids)

    @property
    def conflicting(self) -> BoolArray:
        """Return, bool (M,), which pairs have different labels for one thing.

        Thumbnails are compared without their colours; where classes differ in colour alone, a red and a blue one are
        alike and both labels are right.
        """
        import numpy as np

        first, second = self.pairs.first, self.pairs.second
        apart = np.abs(self.colours[first] - self.colours[second]).max(axis=1, initial=0)
        return np.asarray((self.labels[first] != self.labels[second]) & (apart <= _SAME_COLOUR))


def check(
    data: str | Path,
    *,
    out: str | Path | None = None,
    fix: str | Path | None = None,
    observer: Observer | None = None,
) -> tuple[DataCard, list[str]]:
    """Look at a data set without training: bad files, copies, near copies, odd pictures, class counts, drift.

    Args:
        data: As for `train`.
        out: A page with the pictures that were found, `.html`; none is written when left out.
        fix: Corrections of labels, a CSV of `check_labels` with decisions; the data are looked at with them.
        observer: Told about what happens.

    Returns:
        The data card as JSON values, and a sentence for each thing that must be decided before training.

    Raises:
        UsageError: Unknown data, or a page that is no .html.
        DataError: Data that are no data set at all, such as an empty folder; corrections that do not fit them.
        RunError: The page cannot be written.
    """
    from eyespot.data.dividing import SHOWN_BY_CHECK

    watcher = observer or Terminal(quiet=True)
    page = None if out is None else checked_page(out)
    dataset = open_data(data, watcher)
    config = load_recipe(choose_recipe(dataset)[0], {"data.on_bad_image": "skip", **fix_settings(fix)})
    packed = pack_data(dataset, config, watcher)
    decisions: list[str] = []
    notes = [*packed.dataset.notes]
    card = data_card(packed)
    for sentence, decided in _policies(packed):
        (decisions if decided else notes).append(sentence)
    try:
        # Near copies are told of below, in all splits and with their pictures.
        notes += [note for note in divide(packed, config, watcher).notes if not note.endswith(SHOWN_BY_CHECK)]
    except DataError as error:
        decisions.append(str(error))
    look = look_at(packed, watcher)
    notes += describe_look(look)
    card["notes"] = notes
    card["near"] = _near_facts(look)
    card["statistics"] = look.statistics
    if look.drift is not None:
        card["drift"] = _drift_facts(look.drift)
    if page is not None:
        write_check_page(look, card, decisions, page)
    return card, decisions


def fix_settings(fix: str | Path | None) -> dict[str, str]:
    """Return the setting that stands for corrections of labels, if there are any."""
    return {} if fix is None else {"data.label_fixes": str(user_path(fix).resolve())}


def _policies(packed: PackedDataset) -> list[tuple[str, bool]]:
    """Return sentences, and of each whether it must be decided; each is there whatever else is wrong.

    Training itself goes on with equal pictures under different labels, and says so: who looks at data before that can
    still correct them. What is published is what it is.
    """
    from eyespot.data import checks

    report, dataset = packed.report, packed.dataset
    told: list[tuple[str, bool]] = []

    def judge(judged: Callable[[], Sequence[str]]) -> None:
        try:
            told.extend((sentence, False) for sentence in judged())
        except DataError as error:
            told.append((str(error), True))

    judge(lambda: checks.require_usable(report, dataset, on_bad_image="refuse"))
    # What leaving them out would leave of a class; that they are left out is said already.
    judge(lambda: checks.require_usable(report, dataset, on_bad_image="skip")[1:])
    judge(lambda: checks.judge_leaks(report, dataset, allow_leak=False))
    judge(lambda: checks.describe_copies(report))
    for sentence in checks.describe_conflicts(report, dataset):
        step = "Remove the wrong ones, or correct their labels with --fix FILE.csv."
        told.append((sentence, False) if dataset.published else (f"{sentence} {step}", True))
    judge(lambda: checks.describe_balance(report))
    return told


def look_at(packed: PackedDataset, watcher: Observer) -> Look:
    """Return what is seen in the pictures themselves: near copies, blank and tiny ones, drift from train to test."""
    import numpy as np

    from eyespot.data.dataset import SPLIT_NAMES
    from eyespot.data.drift import STATISTICS, measure_drift, picture_statistics
    from eyespot.data.fingerprints import BLANK_DEVIATION
    from eyespot.data.near_cache import near_pairs

    names = [name for name in SPLIT_NAMES if name in packed.splits]
    counts = [len(packed.splits[name]) for name in names]
    total = sum(counts)
    statistics: list[Float32Array] = [np.zeros((0, 7), np.float32)]
    done = 0
    for name in names:
        for pixels in _blocks(packed, name):
            statistics.append(picture_statistics(pixels))
            done += len(pixels)
            watcher.on_count("looking at pictures", done, total)
    values, labels = np.concatenate(statistics), np.concatenate([packed.splits[name].labels for name in names])
    owner = np.repeat(np.arange(len(names)), counts)
    pairs = near_pairs(packed, partial(watcher.on_count, "comparing pictures"))
    drift = None
    if "train" in names and "test" in names:
        mine, other = owner == names.index("train"), owner == names.index("test")
        drift = measure_drift(values[mine], values[other], labels[mine], labels[other], packed.dataset.num_classes)
    sizes = np.concatenate([packed.splits[name].sizes_px for name in names])
    red = STATISTICS.index("red")
    light = values[:, red : red + 3]
    return Look(
        packed=packed,
        splits=[names[number] for number in owner.tolist()],
        rows=np.concatenate([np.arange(count) for count in counts]).astype(np.int64),
        labels=labels,
        ids=[id_ for name in names for id_ in packed.splits[name].ids],
        pairs=pairs,
        # What is added keeps the colours of a nearly black picture, which are noise, from being told apart.
        colours=((light + 0.01) / (light.sum(axis=1, keepdims=True) + 0.03)).astype(np.float32),
        blank=np.flatnonzero(values[:, 1] * 255 < BLANK_DEVIATION),
        tiny=np.flatnonzero(sizes.min(axis=1) < _TINY_PX),
        statistics={
            name: dict(zip(STATISTICS, zip(part.mean(0).tolist(), part.std(0).tolist(), strict=True), strict=True))
            for number, name in enumerate(names)
            if len(part := values[owner == number].astype(np.float64))
        },
        drift=drift,
    )


def _blocks(packed: PackedDataset, name: SplitName) -> Iterator[UInt8Array]:
    """Yield a split's pictures in order, uint8 (B, S, S, C), so many at once as memory has room for beside others."""
    import numpy as np

    from eyespot.training.prepare import read_pixels

    count = len(packed.splits[name])
    rows = max(1, _BLOCK_BYTES // (packed.size_px**2 * packed.channels))
    for start in range(0, count, rows):
        yield read_pixels(packed, name, np.arange(start, min(start + rows, count)))


def describe_look(look: Look) -> list[str]:
    """Return the sentences about near copies, odd pictures and drift."""
    from eyespot.analysis import words
    from eyespot.data.drift import FEWEST
    from eyespot.data.near_cache import COMPARED_PX, can_be_compared

    facts, notes = _near_facts(look), []
    if look.too_alike:
        count, total = look.chained, len(look.ids)
        notes.append(
            f"these pictures are too alike to tell copies: {words.whole(count)} of {words.whole(total)} "
            f"({words.percent(count / total)}) hang together in chains of likeness, as symbols do, and frames of one "
            "scene, which belong in one split"
        )
    if facts["pairs"]:
        groups = words.plural(facts["groups"], "group")
        notes.append(
            f"{words.plural(facts['pictures'], 'picture', 'pictures')} nearly equal another one, in {groups}: "
            f"re-encoded, resized, moved, mirrored or recoloured copies, or the same scene"
        )
    if facts["test"]:
        n = facts["test_total"]
        notes.append(
            f"{words.whole(facts['test'])} of the {words.whole(n)} test pictures ({words.percent(facts['test'] / n)}) "
            f"nearly equal one in train or val: at most so much of the test accuracy is recognising instead of "
            f"classifying; training goes on with them"
        )
    if facts["conflicts"]:
        pairs = words.plural(facts["conflicts"], "pair")
        notes.append(f"{pairs} of near copies with different labels: one label is wrong, or both classes fit")
    if not can_be_compared(look.packed):
        notes.append(
            f"near copies were not searched: most pictures have a side under {COMPARED_PX} px, too little to tell "
            "copies from likeness"
        )
    if facts["cut"]:
        notes.append("very many pictures look alike: near copies were searched in a part of them only")
    if len(look.blank):
        notes.append(f"{words.plural(len(look.blank), 'picture is', 'pictures are')} blank: {_named(look, look.blank)}")
    if len(look.tiny):
        tiny = words.plural(len(look.tiny), "picture has", "pictures have")
        notes.append(f"{tiny} a side under {_TINY_PX} px: {_named(look, look.tiny)}")
    if look.drift is not None:
        notes += _drift_notes(look.drift)
    elif {"train", "test"} <= set(look.splits):
        notes.append(f"whether test looks like train was not asked: one of them has fewer than {FEWEST} pictures")
    return notes


def _named(look: Look, places: Int64Array) -> str:
    listed = ", ".join(look.ids[place] for place in places[:_EXAMPLES].tolist())
    return listed + (", ..." if len(places) > _EXAMPLES else "")


def _drift_notes(drift: Drift) -> list[str]:
    """Say whether train and test look different, the effect before the p-value."""
    from eyespot.analysis import words

    notes = []
    if drift.looks_different:
        low, high = drift.auc_ci95
        most = max(drift.differences, key=lambda name: abs(drift.differences[name]))
        apart = f"{drift.differences[most]:+.2f}".replace("-", "\N{MINUS SIGN}")
        notes.append(
            f"test looks different from train: by colours and contrast alone a linear model tells them apart with an "
            f"area under the curve of {drift.auc:.2f} [{low:.2f}, {high:.2f}] (0.5 is chance, "
            f"{words.p_value(drift.p_value)}, n = {sum(drift.n):,} that it was not fitted to); most in {most} "
            f"({apart} deviations)"
        )
    if drift.labels_effect >= 0.1 and drift.labels_p_value < 0.01:
        notes.append(
            f"the classes have other shares in test than in train (Cramér's V {drift.labels_effect:.2f}, "
            f"{words.p_value(drift.labels_p_value)})"
        )
    return notes


def _near_facts(look: Look) -> dict[str, Any]:
    """Return what was found of near copies, as JSON values; where pictures are too alike nothing is counted."""
    import numpy as np

    from eyespot.data.fingerprints import NEAR_CORRELATION, group_pairs

    pairs, names = look.pairs, np.array(look.splits, dtype="U5")
    conflicting = look.conflicting
    if look.too_alike:
        none = np.zeros(0, np.int64)
        pairs = replace(pairs, first=none, second=none, correlation=pairs.correlation[:0], mirrored=pairs.mirrored[:0])
        conflicting = conflicting[:0]
    groups = group_pairs(len(names), pairs.first, pairs.second)
    cross = np.flatnonzero(names[pairs.first] != names[pairs.second])
    tested = np.concatenate([pairs.first[cross], pairs.second[cross]])
    tested = np.unique(tested[names[tested] == "test"])
    shown = cross if len(cross) else np.arange(len(pairs.first))
    shown = shown[np.argsort(-pairs.correlation[shown], kind="stable")][:_EXAMPLES]
    return {
        "correlation": NEAR_CORRELATION,
        "pairs": len(pairs.first),
        "groups": len(groups),
        "pictures": sum(map(len, groups)),
        "across_splits": len(cross),
        "test": len(tested),
        "test_total": int((names == "test").sum()),
        "conflicts": int(conflicting.sum()),
        "mirrored": int(pairs.mirrored.sum()),
        "too_alike": look.too_alike,
        "cut": pairs.cut,
        "blank": len(look.blank),
        "tiny": len(look.tiny),
        "examples": [[look.ids[pairs.first[i]], look.ids[pairs.second[i]]] for i in shown.tolist()],
    }


def _drift_facts(drift: Drift) -> dict[str, Any]:
    return {
        "auc": drift.auc,
        "auc_ci95": list(drift.auc_ci95),
        "p_value": drift.p_value,
        "n": list(drift.n),
        "differences": drift.differences,
        "labels_p_value": drift.labels_p_value,
        "labels_effect": drift.labels_effect,
    }


# ------------------------------------------------------------------------------------------------------------ the page


def _shown_statistics(look: Look) -> list[tuple[str, list[str]]]:
    """Return each statistic with a cell for each split, as `0.473 ± 0.121`."""
    from eyespot.data.drift import STATISTICS

    parts = look.statistics.values()
    return [(name, [f"{part[name][0]:.3f} ± {part[name][1]:.3f}" for part in parts]) for name in STATISTICS]


def write_check_page(look: Look, card: DataCard, decisions: list[str], path: Path) -> None:
    """Write the page: what must be decided, and the pictures it is about.

    Raises:
        RunError: It cannot be written.
    """
    import numpy as np

    from eyespot.analysis import words
    from eyespot.analysis.pages import render_page, write_page

    pairs, names = look.pairs, np.array(look.splits, dtype="U5")
    order = np.argsort(-pairs.correlation, kind="stable")
    across = names[pairs.first] != names[pairs.second]
    conflicting = look.conflicting
    kinds = [
        ("Near copies across splits", across & ~conflicting),
        ("Near copies with different labels", conflicting),
        ("Near copies within a split", ~across & ~conflicting),
    ]
    if look.too_alike:
        kinds = [("Pictures that look alike", np.ones(len(order), np.bool_))]
    sections = []
    for title, mask in kinds:
        mine = order[mask[order]]
        if len(mine):
            sections.append(
                {"title": title, "total": len(mine), "pairs": [_shown_pair(look, i) for i in mine[:_SHOWN].tolist()]}
            )
    singles = [
        {"title": title, "total": len(places), "pictures": [_shown(look, i) for i in places[:_SHOWN].tolist()]}
        for title, places in (("Blank pictures", look.blank), ("Tiny pictures", look.tiny))
        if len(places)
    ]
    counts = card["counts"]
    context = {
        "title": card["name"],
        "origin": f"{card['layout']}, from {card['origin']}",
        "decisions": decisions,
        "notes": card["notes"],
        "splits": list(counts),
        "classes": [
            (name, [of_split.get(name, 0) for of_split in counts.values()]) for name in look.packed.dataset.class_names
        ],
        "totals": [sum(of_split.values()) for of_split in counts.values()],
        "sizes": card["sizes"][:_EXAMPLES],
        "sizes_more": max(0, len(card["sizes"]) - _EXAMPLES),
        "modes": dict(card["modes"]),
        "bad": card["bad"],
        "copies_found": _shown_copies(look),
        "sections": sections,
        "singles": singles,
        "statistics": _shown_statistics(look),
        "measured_splits": list(look.statistics),
        "drift": card.get("drift"),
        "p_value": words.p_value,
        "small": look.packed.size_px < 96,
    }
    write_page(render_page("check.html.j2", context), path)


def _shown_copies(look: Look) -> list[dict[str, Any]]:
    """Return the groups of equal pictures by what is wrong with them, the first of each kind with their picture."""
    place = {where: index for index, where in enumerate(zip(look.splits, look.ids, strict=True))}
    names = look.packed.dataset.class_names
    kinds: dict[str, list[DuplicateGroup]] = {
        "Equal pictures with different labels": [],
        "Equal pictures in different splits": [],
        "Equal pictures in one split": [],
    }
    conflicting, crossing, others = kinds.values()
    for group in look.packed.report.duplicates:
        (conflicting if group.conflicts else crossing if group.crosses_splits else others).append(group)
    return [
        {
            "title": title,
            "total": len(groups),
            "groups": [
                {
                    "picture": _shown(look, place[group.splits[0], group.ids[0]]) if number < _SHOWN else None,
                    "copies": list(zip([names[label] for label in group.labels], group.splits, group.ids, strict=True)),
                }
                for number, group in enumerate(groups[:_LISTED])
            ],
        }
        for title, groups in kinds.items()
        if groups
    ]


def _shown(look: Look, place: int) -> dict[str, str]:
    from eyespot.analysis.pages import png_data_uri

    label = look.packed.dataset.class_names[look.labels[place]]
    return {
        "src": png_data_uri(look.pixels(place), 192),
        "label": label,
        "id": look.ids[place],
        "split": look.splits[place],
    }


def _shown_pair(look: Look, index: int) -> dict[str, Any]:
    pairs = look.pairs
    return {
        "pictures": [_shown(look, int(pairs.first[index])), _shown(look, int(pairs.second[index]))],
        "correlation": float(pairs.correlation[index]),
        "mirrored": bool(pairs.mirrored[index]),
    }

"""`check --labels`: cross-validate, and list the labels that look wrong.

Before this: the command line or Python. After this: a CSV and a page, to be looked at by somebody.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyespot.caches import user_path
from eyespot.checking import fix_settings
from eyespot.errors import CheckpointError, DataError, DownloadError, UsageError, positive_number
from eyespot.files import checked_page, refuse_read_only
from eyespot.opening import Observer, choose_recipe, load_recipe, open_data, pack_data
from eyespot.runs import with_label_fixes
from eyespot.terminal import Terminal

if TYPE_CHECKING:
    from eyespot.analysis.label_errors import LabelErrors
    from eyespot.arrays import FeatureArray, Float32Array, Int64Array
    from eyespot.config import Config
    from eyespot.cross_validation import Progress
    from eyespot.data.dataset import Dataset, PackedDataset, SplitName

_RECIPE = "features"
_SCRATCH = ("fast", "small")  # the second one where no weights are at hand
_ROUNDS = 2
_FOLDS = 5
_MINUTES = 10.0
_NETWORK_FOLDS = 3  # each takes its share of the time: fewer networks are better ones
_SHOWN = 96
_PAIRS = 12


@dataclass(frozen=True)
class SuspectLabel:
    """A picture whose label looks wrong.

    Attributes:
        id: Sample id.
        split: Where it is.
        given: Its label.
        suggested: The label that the other pictures suggest.
        score: The probability that the label is wrong, in [0, 1].
    """

    id: str
    split: str
    given: str
    suggested: str
    score: float


@dataclass(frozen=True)
class LabelCheck:
    """What cross-validation says about the labels of a data set.

    Attributes:
        suspects: Pictures whose labels look wrong, the worst first.
        judged: How many pictures were judged, of all splits.
        agreed: How many of them models that were fitted to others name as labelled.
        expected_wrong: How many labels are wrong by this estimate, listed or not.
    """

    suspects: list[SuspectLabel]
    judged: int
    agreed: int
    expected_wrong: float

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints: accuracies are fractions; None where no picture was judged."""
        from eyespot.evaluation.metrics import wilson_interval

        return {
            "judged": self.judged,
            "agreed": self.agreed,
            "cross_validated_top1": self.agreed / self.judged if self.judged else None,
            "cross_validated_top1_ci95": wilson_interval(self.agreed, self.judged) if self.judged else None,
            "expected_wrong": self.expected_wrong,
            "labels": [asdict(it) for it in self.suspects],
        }


def check_labels(
    data: str | Path,
    *,
    csv_path: str | Path | None = None,
    out: str | Path | None = None,
    folds: int | None = None,
    fix: str | Path | None = None,
    minutes: float | None = None,
    observer: Observer | None = None,
) -> LabelCheck:
    """Return the pictures whose labels look wrong, the worst first, judged by models that were fitted to others.

    Many small pictures, those that `train` would take from scratch, are judged by a network for each fold that was
    trained on the other folds. Of others every picture goes once through a frozen EfficientNet-Lite0, whose features
    stay in the cache; a linear head is fitted to all folds but one and asked about that one, and then once more,
    without the labels that looked wrong. Where no weights are at hand, networks are trained all the same. Exact and
    near copies are in one fold. No file is changed.

    Args:
        data: As for `train`.
        csv_path: Where to write the list, with an empty column `decision` for `accept` or `reject`: see `--fix`. What
            was decided in `fix` stands first, with its decision, so that the new list alone is enough from then on.
        out: A page with the first 96 of them, `.html`.
        folds: 2 or more; 3 for networks and 5 for heads when left out.
        fix: Corrections that were accepted before, a CSV of this function; what still looks wrong with them is listed.
        minutes: For the networks of all folds together; 10 when left out.
        observer: Told about what happens.

    Raises:
        UsageError: Unknown data, fewer than 2 folds, a page that is no .html, or a list that would take the place of
            decisions or of another file.
        DataError: Fewer different pictures than folds, no class with two different ones, or corrections that do not
            fit.
        RunError: The list or the page cannot be written.
    """
    import numpy as np

    from eyespot.data.fingerprints import contents_of

    watcher = observer or Terminal(quiet=True)
    if folds is not None and folds < 2:
        raise UsageError(f"{folds} folds", remedy="use 2 or more")
    minutes = positive_number("minutes", _MINUTES if minutes is None else minutes)
    page = None if out is None else checked_page(out)
    target = None if csv_path is None else _checked_list(csv_path, fix)
    config = load_recipe(_RECIPE, {"data.on_bad_image": "skip", "features.views": 1, **fix_settings(fix)})
    dataset = open_data(data, watcher)
    recipe, reason = choose_recipe(dataset)
    scratch = reason if recipe in _SCRATCH else ""
    if folds is None:
        folds = _NETWORK_FOLDS if scratch else _FOLDS
    packed = pack_data(dataset, config, watcher)
    names = _names(packed)
    labels = np.concatenate([packed.splits[name].labels for name in names])
    contents = contents_of(np.concatenate([packed.splits[name].hashes for name in names]))
    _require_enough(labels, contents, folds, packed.dataset.name)
    tied = with_groups(packed, together(packed, contents, folds, watcher), folds, watcher)
    # What was trained is kept until the list is written: a full disk must not cost the networks.
    with _judge(dataset, packed, labels, tied, folds, config, minutes, watcher, scratch) as found:
        suspects = _suspects(packed, found, labels, watcher)
        if target is not None:
            decided = _decided_rows(packed.dataset, user_path(fix), suspects) if fix is not None else {}
            new = {it.id: (it.id, it.split, it.given, it.suggested, f"{it.score:.4f}", "") for it in suspects}
            _checked_list(target, fix)  # again: somebody may have decided in it meanwhile
            _write_csv([*decided.values(), *(new[id_] for id_ in new if id_ not in decided)], target)
            if decided:
                watcher.on_message(f"note: the decisions of {fix} stand first in {csv_path}: {len(decided):,} rows")
        if page is not None:
            _write_page(packed, suspects, found, page)
    return LabelCheck(suspects, found.judged, found.agreed, found.expected)


def _checked_list(path: str | Path, fix: str | Path | None) -> Path:
    """Return the path of a list to be written, refused before anything is computed where something would be lost.

    Raises:
        UsageError: No file can be there, or one is there that is no list, or one with decisions that `fix` does not
            carry on.
        RunError: Its folder is read-only.
    """
    from eyespot.answer_file import check_target
    from eyespot.data.label_fixes import is_decided

    target = user_path(path).resolve()
    check_target(target)
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder for the list {str(path)!r}", remedy="make it, or name another")
    refuse_read_only(target)
    if not target.exists() or not target.stat().st_size or (fix is not None and target == user_path(fix).resolve()):
        return target
    try:
        decided = is_decided(target)
    except DataError as error:
        what = f"{str(path)!r} is there already and is no list of eyespot check --labels"
        raise UsageError(what, remedy="name another file") from error
    if decided:
        remedy = f"go on from them with --fix {path}, or name another file"
        raise UsageError(f"{str(path)!r} holds decisions, which a new list would replace", remedy=remedy)
    return target


def _suspects(packed: PackedDataset, found: LabelErrors, labels: Int64Array, watcher: Observer) -> list[SuspectLabel]:
    """Return what was found, the worst first, and say how much that is."""
    if found.judged < len(labels):
        alone = len(labels) - found.judged
        are = "picture is" if alone == 1 else "pictures are"
        watcher.on_message(
            f"note: {alone:,} {are} of a class that is in one fold only, so that no model that was fitted to others"
            " knows it: not judged"
        )
    if found.judged:
        watcher.on_message(_agreement(found))
    if len(found.places):
        watcher.on_message(
            f"about {found.expected:,.0f} of {found.judged:,} labels are wrong by this estimate, listed or not"
        )
    ids = [(id_, name) for name in _names(packed) for id_ in packed.splits[name].ids]
    classes = packed.dataset.class_names
    return [
        SuspectLabel(ids[place][0], ids[place][1], classes[labels[place]], classes[suggestion], score)
        for place, suggestion, score in zip(
            found.places.tolist(), found.suggested.tolist(), found.score.tolist(), strict=True
        )
    ]


def _agreement(found: LabelErrors) -> str:
    """Return how many pictures models name right that did not see them: a figure on all, not on a small test split."""
    from eyespot.analysis import words

    agreed, n = words.share(found.agreed, found.judged), words.whole(found.judged)
    return f"cross-validation: models fitted to the other folds name {agreed} as labelled (n = {n}, all splits)"


def _require_enough(labels: Int64Array, contents: Int64Array, folds: int, name: str) -> None:
    """Refuse data in which no label can be judged, or that do not fill the folds.

    Raises:
        DataError: They are such data.
    """
    import numpy as np

    distinct = np.unique(np.stack([labels, contents], axis=1), axis=0)  # exact copies count once a class
    if np.bincount(distinct[:, 0]).max(initial=0) < 2:
        raise DataError(
            "no class has two different pictures: nothing can say what the pictures of a class look like",
            where=name,
            remedy="add pictures",
        )
    different = len(np.unique(contents))
    if different < folds:
        raise DataError(
            f"{different} different pictures are too few for {folds} folds",
            where=name,
            remedy="add pictures, or use fewer --folds",
        )


@contextmanager
def _judge(
    dataset: Dataset,
    packed: PackedDataset,
    labels: Int64Array,
    tied: Int64Array,
    folds: int,
    config: Config,
    minutes: float,
    watcher: Observer,
    scratch: str,
) -> Iterator[LabelErrors]:
    """Yield which labels look wrong: by networks with `scratch`, the reason for them, else on frozen features."""
    from eyespot.analysis.label_errors import assign_folds, find_label_errors
    from eyespot.cross_validation import encode_all, networks_out_of_sample, recipe_from_scratch

    names = _names(packed)
    fold = assign_folds(labels, tied, folds)
    features = None
    if not scratch:
        try:
            features = encode_all(packed, names, config, watcher)
        except (CheckpointError, DownloadError) as error:
            scratch = f"{error.what}, so from scratch"
    if features is None:
        watcher.on_message(f"{scratch}: a network for each of {folds} folds, {minutes:g} min in all")
        recipe = recipe_from_scratch(len(labels), minutes / folds)
        if config.data.label_fixes:
            recipe = with_label_fixes(recipe, Path(config.data.label_fixes))
        with networks_out_of_sample(pack_data(dataset, recipe, watcher), names, fold, recipe, watcher) as logits:
            yield find_label_errors(logits, labels, fold)
        return
    done = 0

    def tell(of_round: int, total: int) -> None:
        watcher.on_count("cross-validating", done * total + of_round, _ROUNDS * total, unit="folds")

    classes = packed.dataset.num_classes
    rounds = judge_features(features, labels, fold, num_classes=classes, progress=tell)
    _, found = next(rounds)
    for done in range(1, _ROUNDS):  # noqa: B007
        _, found = next(rounds)
    yield found


def _names(packed: PackedDataset) -> list[SplitName]:
    from eyespot.data.dataset import SPLIT_NAMES

    return [name for name in SPLIT_NAMES if name in packed.splits]


def judge_features(
    features: Sequence[FeatureArray],
    labels: Int64Array,
    fold: Int64Array,
    *,
    num_classes: int,
    progress: Progress = lambda done, total: None,
) -> Iterator[tuple[Float32Array, LabelErrors]]:
    """Yield out-of-sample logits by linear heads, and which labels look wrong by them, round after round.

    Each round fits the heads without the labels that the last one suspected. Ask for as many rounds as you need.

    Args:
        features: One array float16 or float32 (n, D) a split; together N rows.
        labels: int64 (N,), as given.
        fold: int64 (N,), as `assign_folds` returns it.
        num_classes: K.
        progress: Told (done, all), in the folds of a round.

    Yields:
        float32 (N, K), and what was found.
    """
    import numpy as np

    from eyespot.analysis.label_errors import find_label_errors
    from eyespot.cross_validation import heads_out_of_sample

    keep, penalty, agreed = None, None, None
    while True:
        logits, penalty = heads_out_of_sample(
            features, labels, fold, num_classes=num_classes, keep=keep, penalty=penalty, progress=progress
        )
        found = find_label_errors(logits, labels, fold)
        # Later rounds have chosen their pictures by all labels, those of the fold that they judge among them: on 200
        # pictures they name 1 to 2 points more right than fresh ones would be (simulated).
        agreed = found.agreed if agreed is None else agreed
        found = replace(found, agreed=agreed)
        yield logits, found
        keep = np.ones(len(labels), np.bool_)
        keep[found.places] = False
        # A class that would lose most of its pictures is one that the model cannot tell, not one of wrong labels.
        left, all_ = (np.bincount(labels[mask], minlength=num_classes) for mask in (keep, slice(None)))
        keep |= (2 * left < all_)[labels]
        # Nor one that would be left in one fold: the model that is asked about it there would never have seen it.
        folds_left = np.unique(np.stack([labels[keep], fold[keep]], axis=1), axis=0)[:, 0]
        keep |= (np.bincount(folds_left, minlength=num_classes) < 2)[labels]


def together(packed: PackedDataset, contents: Int64Array, folds: int, watcher: Observer) -> Int64Array:
    """Return int64 (N,), equal for pictures that must be in one fold: exact and near copies.

    A head that was fitted to a copy under the same wrong label would say that the label is right.
    """
    import numpy as np

    from eyespot.data.fingerprints import group_pairs
    from eyespot.data.near_cache import near_pairs

    pairs = near_pairs(packed, partial(watcher.on_count, "comparing pictures"))
    # Exact copies are compared by their first one only: the pairs speak of groups of contents.
    one, other = contents[pairs.first], contents[pairs.second]
    sizes = np.bincount(contents)
    tied = np.arange(len(sizes))
    for group in group_pairs(len(sizes), one, other):
        if sizes[group].sum() * 2 * folds <= len(contents):  # chained likeness, such as symbols: no group fills a fold
            tied[group] = group[0]
    return np.asarray(tied[contents])


def with_groups(packed: PackedDataset, tied: Int64Array, folds: int, watcher: Observer) -> Int64Array:
    """Return int64 (N,), equal for pictures that must be in one fold: those of `tied`, and those of one group.

    A model that was fitted to other pictures of a patient knows the patient, and says what their labels say.
    """
    import numpy as np

    from eyespot.data.fingerprints import group_pairs

    named: dict[str, int] = {}
    pairs: list[tuple[int, int]] = []
    place = 0
    for name in _names(packed):
        items = packed.dataset.splits[name]
        group_of = dict(zip(items.ids, items.groups or (), strict=False))
        for id_ in packed.splits[name].ids:
            if group := group_of.get(id_):
                pairs.append((int(tied[named.setdefault(group, place)]), int(tied[place])))
            place += 1
    if not named:
        return tied
    one, other = np.array(pairs, dtype=np.int64).T
    merged = np.arange(int(tied.max()) + 1)
    for members in group_pairs(len(merged), one, other):
        merged[members] = members[0]
    whole = merged[tied]
    if len(np.unique(whole)) < folds:
        watcher.on_message(
            f"note: {len(named):,} groups are too few for {folds} folds: pictures of one group are in several folds, "
            "and a label that is wrong throughout a group may look right"
        )
        return tied
    watcher.on_message(f"{len(named):,} groups of the table stay together, each in one fold")
    return np.asarray(whole)


def _decided_rows(dataset: Dataset, fix: Path, suspects: Sequence[SuspectLabel]) -> dict[str, tuple[str, ...]]:
    """Return the decided rows of corrections by their ids, with the labels as given.

    Without them a new list would give up the corrections that it was made with, and be refused: it would name corrected
    labels as those of the data. A suggestion that was rejected is given up where another one is made now.
    """
    from eyespot.data.label_fixes import read_label_fixes

    fixes, classes = read_label_fixes(fix, dataset), dataset.class_names
    suggested = {it.id: it.suggested for it in suspects}
    rows: dict[str, tuple[str, ...]] = {}
    for decision, decided in (("accept", fixes.labels), ("reject", fixes.refused)):
        for split, labels in decided.items():
            items = dataset.splits[split]
            given = dict(zip(items.ids, items.labels.tolist(), strict=True))
            for id_, label in labels.items():
                if decision == "accept" or suggested.get(id_, classes[label]) == classes[label]:
                    rows[id_] = (id_, split, classes[given[id_]], classes[label], "", decision)
    return rows


def _write_csv(rows: Iterable[tuple[str, ...]], path: Path) -> None:
    """Write rows of `label_fixes.COLUMNS`."""
    from eyespot.data.label_fixes import COLUMNS
    from eyespot.files import write_atomic

    buffer = io.StringIO()
    for row in (COLUMNS, *rows):
        spaced = any(cell.startswith(" ") for cell in row)  # a space before a word is read only inside of quotes
        csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL if spaced else csv.QUOTE_MINIMAL).writerow(row)
    write_atomic(path, buffer.getvalue().encode("utf-8", "surrogateescape"))


def _write_page(packed: PackedDataset, suspects: list[SuspectLabel], found: LabelErrors, path: Path) -> None:
    """Write what the list is, which classes stand for which, and the worst pictures.

    Raises:
        RunError: It cannot be written.
    """
    from collections import Counter

    import numpy as np

    from eyespot.analysis import words
    from eyespot.analysis.pages import png_data_uri, render_page, write_page
    from eyespot.training.prepare import read_pixels

    names = _names(packed)
    starts = np.cumsum([0, *(len(packed.splits[name]) for name in names)])
    pictures = []
    for it, place in zip(suspects, found.places[:_SHOWN].tolist(), strict=False):
        owner = int(np.searchsorted(starts, place, side="right")) - 1
        pixels = read_pixels(packed, names[owner], np.array([place - starts[owner]]))[0]
        facts = {"given": it.given, "suggested": it.suggested, "id": it.id, "split": it.split}
        pictures.append({**facts, "wrong": words.percent(it.score), "src": png_data_uri(pixels, 192)})
    pairs = Counter((it.given, it.suggested) for it in suspects).most_common(_PAIRS)
    context = {
        "title": packed.dataset.name,
        "origin": f"{packed.dataset.layout}, from {packed.dataset.origin}",
        "listed": len(suspects),
        "total": int(starts[-1]),
        "expected": found.expected,
        "agreement": _agreement(found) if found.judged else "",
        "pairs": [(given, suggested, count) for (given, suggested), count in pairs],
        "pictures": pictures,
        "small": packed.size_px < 96,
    }
    write_page(render_page("labels.html.j2", context), path)

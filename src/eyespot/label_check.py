"""`check --labels`: cross-validate a head on frozen features, and list the labels that look wrong.

Before this: the command line or Python. After this: a CSV and a page, to be looked at by somebody.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyespot.checking import contents_of, fix_settings
from eyespot.errors import DataError, UsageError
from eyespot.opening import Observer, load_recipe, open_data, pack_data
from eyespot.terminal import Terminal

if TYPE_CHECKING:
    from eyespot.data.dataset import PackedDataset, SplitName

_RECIPE = "features"
_SHOWN = 96


@dataclass(frozen=True)
class SuspectLabel:
    """A picture whose label looks wrong.

    Attributes:
        id: Sample id.
        split: Where it is.
        given: Its label.
        suggested: The label that the other pictures suggest.
        score: One minus the probability of the given label, in [0, 1].
    """

    id: str
    split: str
    given: str
    suggested: str
    score: float


def check_labels(
    data: str | Path,
    *,
    csv_path: str | Path | None = None,
    out: str | Path | None = None,
    folds: int = 5,
    fix: str | Path | None = None,
    observer: Observer | None = None,
) -> list[SuspectLabel]:
    """Return the pictures whose labels look wrong, the worst first, judged by models that were fitted to others.

    Every picture of all splits goes once through a frozen EfficientNet-Lite0; the features stay in the cache. A linear
    head is fitted to all folds but one and asked about that one. No file is changed.

    Args:
        data: As for `train`.
        csv_path: Where to write the list, with an empty column `decision` for notes.
        out: A page with the first 96 of them, `.html`.
        folds: 2 or more.
        fix: Corrections that were accepted before, a CSV of this function; what still looks wrong with them is listed.
        observer: Told about what happens.

    Raises:
        UsageError: Unknown data, fewer than 2 folds, or a page that is no .html.
        DataError: Fewer different pictures than folds, or no class with two.
        CheckpointError: The backbone's weights cannot be had.
        RunError: The list or the page cannot be written.
    """
    import numpy as np

    from eyespot.analysis.label_errors import assign_folds, find_label_errors

    watcher = observer or Terminal(quiet=True)
    if folds < 2:
        raise UsageError(f"{folds} folds", remedy="use 2 or more")
    page = Path(out).expanduser().resolve() if out is not None else None
    if page is not None and page.suffix.lower() not in {".html", ".htm"}:
        raise UsageError("a page needs a name that ends in .html", where=page, remedy="--out labels.html")
    config = load_recipe(_RECIPE, {"data.on_bad_image": "skip", "features.views": 1, **fix_settings(fix)})
    packed = pack_data(open_data(data, watcher), config, watcher)
    names: list[SplitName] = [name for name in ("train", "val", "test") if name in packed.splits]
    labels = np.concatenate([packed.splits[name].labels for name in names])
    contents = contents_of(np.concatenate([packed.splits[name].hashes for name in names]))
    distinct = len(np.unique(contents))
    if distinct < folds or np.bincount(labels).max(initial=0) < 2:
        raise DataError(
            f"{distinct} different pictures are too few for {folds} folds",
            where=packed.dataset.name,
            remedy="add pictures, or use fewer --folds",
        )
    probs = _out_of_sample(packed, names, assign_folds(labels, contents, folds), config, watcher)
    found = find_label_errors(probs, labels, contents)
    if found.judged < len(labels):
        watcher.on_message(f"note: {len(labels) - found.judged:,} pictures are the only one of their class: not judged")
    ids = [(id_, name) for name in names for id_ in packed.splits[name].ids]
    classes = packed.dataset.class_names
    suspects = [
        SuspectLabel(ids[place][0], ids[place][1], classes[labels[place]], classes[suggestion], score)
        for place, suggestion, score in zip(
            found.places.tolist(), found.suggested.tolist(), found.score.tolist(), strict=True
        )
    ]
    if csv_path is not None:
        _write_csv(suspects, Path(csv_path).expanduser())
    if page is not None:
        _write_page(packed, names, suspects, found.places[:_SHOWN].tolist(), len(labels), page)
    return suspects


def _out_of_sample(packed: PackedDataset, names: list[SplitName], fold: Any, config: Any, watcher: Observer) -> Any:
    """Return float32 (N, K): each picture's probabilities by a head that was fitted to the other folds."""
    import numpy as np

    from eyespot.data.splits import Splits
    from eyespot.device import plan_compute, prepare_process
    from eyespot.evaluation.metrics import softmax
    from eyespot.models.pretrained import PretrainedClassifier
    from eyespot.training.features import Encoder, FrozenNetwork
    from eyespot.training.prepare import prepare_training
    from eyespot.training.solvers import FeatureRows, solve_linear_head
    from eyespot.training.transfer import encode

    prepare_process()
    plan = plan_compute("auto", config.training.precision)
    everything = {name: np.arange(len(packed.splits[name])) for name in names}
    prepared = prepare_training(packed, Splits(packed.fingerprint, {"train": everything}), config, plan)
    assert isinstance(prepared.model, PretrainedClassifier)
    encoder = Encoder(FrozenNetwork.pooled(prepared.model), packed, prepared.spec, plan, config.augment)
    store = encode(encoder, names, 1, watcher)
    classes = packed.dataset.num_classes
    probs = np.zeros((len(fold), classes), np.float32)
    starts = np.cumsum([0, *(len(packed.splits[name]) for name in names)])
    penalty: list[float] | None = None  # chosen in the first fold on a tenth of what it is fitted to
    folds = int(fold.max()) + 1
    for number in range(folds):
        parts = []
        for name, start in zip(names, starts[:-1].tolist(), strict=True):
            rows = np.flatnonzero(fold[start : start + len(packed.splits[name])] != number)
            parts.append(FeatureRows(store.arrays[name][:1], rows, packed.splits[name].labels[rows]))
        head = solve_linear_head(
            [part for part in parts if len(part)], [], num_classes=classes, l2_grid=penalty, seed=number
        )
        penalty = [head.l2]
        weight, bias = head.weight.numpy(), head.bias.numpy()
        for name, start in zip(names, starts[:-1].tolist(), strict=True):
            rows = np.flatnonzero(fold[start : start + len(packed.splits[name])] == number)
            for block in np.array_split(rows, max(1, len(rows) // 4096)):
                logits = store.arrays[name][0][block].astype(np.float32) @ weight.T + bias
                probs[start + block] = softmax(logits)
        watcher.on_count("cross-validating", number + 1, folds, unit="folds")
    return probs


def _write_csv(suspects: list[SuspectLabel], path: Path) -> None:
    from eyespot.data.label_fixes import COLUMNS
    from eyespot.files import write_atomic

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for it in suspects:
        writer.writerow((it.id, it.split, it.given, it.suggested, f"{it.score:.4f}", ""))
    write_atomic(path.resolve(), buffer.getvalue().encode("utf-8", "surrogateescape"))


def _write_page(
    packed: PackedDataset,
    names: list[SplitName],
    suspects: list[SuspectLabel],
    places: list[int],
    total: int,
    path: Path,
) -> None:
    """Write the worst ones with their given and suggested labels."""
    import numpy as np

    from eyespot.analysis.grids import write_grid
    from eyespot.training.prepare import read_pixels

    if not places:
        from eyespot.analysis.pages import render_page, write_page

        title = f"{packed.dataset.name}: no label of {total:,} looks wrong"
        write_page(render_page("grid.html.j2", {"title": title, "groups": [], "count": 0, "small": False}), path)
        return
    starts = np.cumsum([0, *(len(packed.splits[name]) for name in names)])
    owners = np.searchsorted(starts, places, side="right") - 1
    pixels = [
        read_pixels(packed, names[owner], np.array([place - starts[owner]]))
        for place, owner in zip(places, owners.tolist(), strict=True)
    ]
    captions = [f"{it.given} → {it.suggested}? ({it.id})" for it in suspects[: len(places)]]
    title = f"{packed.dataset.name}: {len(suspects):,} of {total:,} labels look wrong, the worst {len(places)}"
    write_grid(np.concatenate(pixels), captions, path, columns=8, title=title)

"""The verb `explain`: why a model gave its answers, as arrays and as a page.

Before this: a run, and pictures that anybody may name. After this: `analysis.explain`, and the page of `gallery`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from eyespot.config import as_list
from eyespot.errors import EyespotError, UsageError, did_you_mean, whole_number
from eyespot.evaluating import folder_of, own_data
from eyespot.files import checked_page
from eyespot.opening import Observer
from eyespot.runs import Run
from eyespot.terminal import Terminal

if TYPE_CHECKING:
    from eyespot.analysis.explain import Explanation, TrainFeatures
    from eyespot.data.pictures import Picture
    from eyespot.evaluation.predictor import Predictor

_MOST_TRAIN = 5_000  # training pictures that neighbours are looked for among


def explain(
    run: str | os.PathLike[str] | Predictor,
    pictures: Sequence[Picture],
    *,
    method: str | Sequence[str] = "gradcam",
    target: str | None = None,
    neighbours: int = 5,
    out: str | Path | None = None,
    device: str = "auto",
    observer: Observer | None = None,
) -> list[Explanation]:
    """Say why pictures got their answers: heat maps with a check of them, and the nearest training pictures.

    Args:
        run: Run folder, bundle, or what `load` returned.
        pictures: Paths of files and folders, bytes, Pillow images or uint8 arrays, as for `Predictor.predict`.
        method: `gradcam`, `integrated-gradients` or `occlusion`, or several of them.
        target: The class to explain; the answer of each picture when left out.
        neighbours: So many nearest training pictures, where the run's data are at hand; 0 for none.
        out: A page to write.
        device: `auto`, `cpu`, `cuda` or `mps`; a `Predictor` has its own.
        observer: Told about what happens.

    Returns:
        One for each picture, in their order; a bad picture has its reason in `prediction.error`. With a page, pictures
        that have no room on it come without pixels and maps; without one all are kept, up to a megabyte a picture.

    Raises:
        UsageError: Unknown method or class, nothing that could be a picture, or no place for a page.
        MissingExtraError: captum is not installed, for the methods other than `gradcam`.
        ModelError: The network has no layer with places in it that is known, for `gradcam`.
        RunError: The folder is not a run or bundle, or the page cannot be written.
    """
    from eyespot.analysis.explain import explain_pictures
    from eyespot.analysis.gallery import Gallery
    from eyespot.analysis.heatmaps import checked_method
    from eyespot.evaluation.predictor import load_predictor

    watcher = observer or Terminal(quiet=True)
    methods = [checked_method(name) for name in as_list(method)]
    if not methods:
        raise UsageError("no method", remedy="leave it out for gradcam")
    neighbours = whole_number("neighbours", neighbours, remedy="use a whole number, 0 for none")
    where = None if out is None else checked_page(out)
    named = _named(pictures)
    folder = folder_of(run)
    predictor = cast("Predictor", run) if folder is None else load_predictor(folder, device=device)
    place = _class_place(predictor, target)
    notes = []
    train = None
    if neighbours and folder is not None:
        train, told = _train_features(folder, predictor, watcher)
        notes.append(told)
        watcher.on_message(f"note: {told}")
    found: list[Explanation] = []
    title = "Why the model answers so"
    page = Gallery(title, f"{folder.name if folder else 'model'}, {predictor.info.architecture.name}", notes)
    for start in range(0, len(named), 16):
        batch = explain_pictures(
            predictor,
            named[start : start + 16],
            methods=methods,
            target=place,
            train=train,
            neighbours=neighbours,
        )
        found += batch if where is None else _as_shown(batch, page.room)
        page.add(batch)
        watcher.on_count("explaining", len(found), len(named))
    if where is not None:
        page.write(where)
    return found


def _named(pictures: Sequence[Picture]) -> list[tuple[str, Picture]]:
    """Return a name for each picture, and the pictures of folders in place of the folders."""
    from eyespot.data.pictures import find_pictures, named_pictures

    named: list[tuple[str, Picture]] = []
    for name, picture in named_pictures(pictures):
        if isinstance(picture, (str, os.PathLike)) and os.path.isdir(picture):
            named += [(str(path), path) for path in find_pictures(picture)]
        else:
            named.append((name, picture))
    if not named:
        raise UsageError("no pictures to explain", remedy="name at least one")
    return named


def _as_shown(explanations: Sequence[Explanation], room: int) -> list[Explanation]:
    """Return explanations with their arrays as long as a page has room: a folder may hold a million pictures."""
    kept = []
    for one in explanations:
        is_answered = one.prediction.error is None
        kept.append(one.without_arrays() if is_answered and room <= 0 else one)
        room -= is_answered
    return kept


def _class_place(predictor: Predictor, target: str | None) -> int | None:
    if target is None:
        return None
    names = list(predictor.class_names)
    if target not in names:
        raise UsageError(
            f"unknown class {target!r}.{did_you_mean(target, names)}",
            remedy=f"the model knows {', '.join(names[:20])}",
        )
    return names.index(target)


def _train_features(folder: Path, predictor: Predictor, watcher: Observer) -> tuple[TrainFeatures | None, str]:
    """Return the run's training pictures as the classifier sees them, and what was done, in a sentence."""
    import numpy as np
    import torch

    from eyespot.analysis.explain import TrainFeatures, features_of
    from eyespot.training.prepare import read_positions

    if not (folder / "config.toml").is_file():
        return None, "No nearest training pictures: a bundle does not carry its data."
    try:
        packed, splits = own_data(Run.open(folder), watcher)
    except EyespotError as error:
        what = error.what if error.where is None else f"{error.what} in {error.where}"
        return None, f"No nearest training pictures: the run's data are not at hand ({what})."
    total = splits.count("train")
    places = np.unique(np.linspace(0, total - 1, min(total, _MOST_TRAIN)).round().astype(np.int64))
    labels, ids = splits.labels(packed, "train"), splits.ids(packed, "train")
    features = []
    for start in range(0, len(places), 128):
        pixels = read_positions(packed, splits, "train", places[start : start + 128])
        features.append(features_of(predictor, torch.from_numpy(pixels).permute(0, 3, 1, 2)))
        watcher.on_count("reading training pictures", min(start + 128, len(places)), len(places))

    def read(best: Any) -> Any:
        return read_positions(packed, splits, "train", places[best])

    names = packed.dataset.class_names
    told = f"Nearest training pictures: by cosine of the features before the classifier, among {len(places):,}"
    told += "." if len(places) == total else f" of {total:,}, evenly spread."
    return (
        TrainFeatures(
            np.concatenate(features), [names[labels[place]] for place in places], [ids[place] for place in places], read
        ),
        told,
    )

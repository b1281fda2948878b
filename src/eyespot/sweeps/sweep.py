"""The verb `sweep`: try settings on val, keep every trial, test the winner once, and report all of it.

Before this: a recipe and a search space. After this: a folder of run folders, `best.toml` and `report.html`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, get_args

from eyespot import opening
from eyespot.config import Config, parse_config, recipe_text
from eyespot.device import find_device
from eyespot.errors import (
    RunError,
    RunLockedError,
    TrainingError,
    UsageError,
    did_you_mean,
    positive_number,
    whole_number,
)
from eyespot.evaluating import evaluate, refuse_changed
from eyespot.files import checked_folder, remove_temporaries, write_atomic
from eyespot.locks import file_lock
from eyespot.models.registry import check_args
from eyespot.opening import Settings, check_data, lasting_name, load_recipe, refuse_moved
from eyespot.runs import Run, command_line, new_run_folder, refuse_other_recipe, refuse_overwriting
from eyespot.sweeps.journal import Journal, Metric, Plan, Trial
from eyespot.sweeps.space import Space, load_space, setting_of
from eyespot.terminal import Terminal


class Observer(opening.Observer, Protocol):
    """What watches a sweep: an observer of verbs that is told about trials too."""

    def on_sweep(self, journal: Journal) -> None:
        """Called once, before the first trial begins."""

    def on_trial(self, trial: Trial) -> None:
        """Called when a trial begins, finishes an epoch, or ends."""


class QuietObserver(Terminal):
    """Shows nothing of trials."""

    def on_sweep(self, journal: Journal) -> None:
        """Nobody watches."""

    def on_trial(self, trial: Trial) -> None:
        """Nobody watches."""


@dataclass(frozen=True)
class SweepOptions:
    """The budget of a sweep, and where it runs; None: the default, or what a resumed sweep was asked for.

    Attributes:
        trials: Trials in all; 12.
        minutes: Wall clock for all trials, over interruptions; 0, no limit.
        epochs: Of a trial; those of the recipe. A resumed sweep keeps them.
        metric: `val/top1` or `val/loss`: what the winner is best at; the first. A resumed sweep keeps it.
        seed: Of the choice of settings; 0. A resumed sweep keeps it.
        device: As for `train`; `auto`.
        at_once: Trials at a time on one machine without a GPU, which share its cores; 1.
        cluster: HOST:PORT of a Ray cluster, or `auto`; empty: this machine.
    """

    trials: int | None = None
    minutes: float | None = None
    epochs: int | None = None
    metric: str | None = None
    seed: int | None = None
    device: str | None = None
    at_once: int | None = None
    cluster: str = ""


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder, read.

    Attributes:
        path: The folder, absolute.
        trials: All of them, by number.
        result: `winner` (a trial's number), `val` and `test` (metrics; `test` None where the data have none),
            `test_reads`, `told` (how many trials the report knows); empty while the sweep is not finished.
    """

    path: Path
    trials: tuple[Trial, ...]
    result: Mapping[str, Any]

    @property
    def report(self) -> Path:
        """Return the path of report.html."""
        return self.path / "report.html"

    @property
    def winner(self) -> Run | None:
        """Return the run of the winner."""
        number = self.result.get("winner")
        return Run(self.path / "trials" / f"{number:04d}") if number else None


def sweep(
    recipe: str | Path | None = None,
    data: str | Path | None = None,
    space: str | Path | None = None,
    *,
    options: SweepOptions | None = None,
    settings: Settings = (),
    out: str | Path | None = None,
    resume: bool = False,
    observer: Observer | None = None,
) -> Sweep:
    """Search settings: many trials judged on val, of which only the best one sees test, once.

    Args:
        recipe: Name or TOML file of what is varied.
        data: As for `train`; cifar10 when left out.
        space: TOML file of what varies, see docs/sweeps.md.
        options: Budget and machines.
        settings: Changes to the recipe, for all trials.
        out: The sweep's folder; `runs/sweep-RECIPE-DATA-TIME` when left out.
        resume: Go on with the sweep in `out`; a larger `trials` or `minutes` extends it, `at_once`, `device` and
            `cluster` change where it runs.
        observer: Told about everything on the way; besides what `train` needs it has `on_sweep(journal)` and
            `on_trial(trial)`.

    Raises:
        UsageError: An unknown recipe, setting or data; an empty space; a number that is none; what a resumed sweep
            keeps, changed; a cluster that does not answer.
        DataError: Data that cannot be trained on, or that have no val; of a resumed sweep, others than its trials saw.
        RunError: The folder cannot be used; `RunLockedError` where another process drives this sweep.
        TrainingError: No trial was finished.
        MissingExtraError: Ray, psutil or Optuna is not installed.
        KeyboardInterrupt: A signal asked for a stop; go on with `resume`.
    """
    watcher = observer or QuietObserver(quiet=True)
    options = _checked(options or SweepOptions())
    with ExitStack() as stack:
        if resume:
            if recipe is not None or data is not None or space is not None or settings:
                raise UsageError(
                    "a resumed sweep keeps its data, recipe and space", where="--resume", remedy="give only --out"
                )
            folder = _known_folder(out)
            _lock(folder, stack)
            journal = _extended(Journal.open(folder), options)
            if _has_work(journal):
                refuse_moved(journal.plan.data, folder)
                _check(journal.plan, _recipe(folder), watcher)
                refuse_changed((Run(journal.run_folder(trial)) for trial in journal.ordered()), watcher)
        else:
            plan, config = _plan(recipe, data, space, settings, options)
            _check(plan, config, watcher, data)
            folder = new_run_folder(f"sweep-{config.name}", plan.data) if out is None else checked_folder(out).resolve()
            journal = _new_journal(folder, plan, config, stack)
        return _run(journal, watcher)


# ---------------------------------------------------------------------------------------------------- before the trials


def _known_folder(out: str | Path | None) -> Path:
    """Return the folder to go on with: the one named, or the newest sweep in `runs/`."""
    if out is not None:
        folder = checked_folder(out).resolve()
        if not (folder / "sweep.json").is_file():
            raise RunError("no sweep (no sweep.json)", where=folder, remedy="give the folder of a sweep with --out")
        return folder
    found = sorted(Path("runs").glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RunError("no sweep", where=Path("runs").resolve(), remedy="name its folder with --out")
    return found[-1].parent.resolve()


def _lock(folder: Path, stack: ExitStack) -> None:
    try:
        stack.enter_context(file_lock(folder / ".lock", timeout_seconds=0))
    except TimeoutError as error:
        raise RunLockedError(
            "another process drives this sweep", where=folder, remedy="wait for it, or choose another --out"
        ) from error
    except OSError as error:
        raise RunError(f"cannot write ({error.strerror})", where=folder, remedy="choose another with --out") from error


def _plan(
    recipe: str | Path | None,
    data: str | Path | None,
    space: str | Path | None,
    settings: Settings,
    options: SweepOptions,
) -> tuple[Plan, Config]:
    """Return what is asked for and what all trials share; everything wrong with it is found here."""
    if recipe is None:
        raise UsageError("no recipe", where="the sweep", remedy="name one of `eyespot recipes`, or a TOML file")
    if space is None:
        raise UsageError("no search space", where="the sweep", remedy="name a TOML file with --space (docs/sweeps.md)")
    config = load_recipe(recipe, settings)
    if options.epochs is not None:
        config = parse_config(config.to_toml(), where=str(recipe), changes={"training.epochs": options.epochs})
    if config.data.final:
        raise UsageError("data.final leaves no val to choose on", where=recipe, remedy="leave it out of a sweep")
    if "select-on-test" in config.mistakes:
        what = "with mistakes = ['select-on-test'] val is test, on which no sweep chooses"
        raise UsageError(what, where=recipe, remedy="leave it out")
    check_args(config.model.name, config.model.args)
    found = load_space(space, config.to_toml(), str(recipe))
    lasting = [factor for factor in found.factors if factor.key == "training.epochs"]
    most = int(max(lasting[0].choice or (lasting[0].high,))) if lasting else 0
    plan = Plan(
        data=lasting_name("cifar10" if data is None else data),
        recipe=config.name,
        epochs=most or config.training.epochs,
        space=found,
        trials=12 if options.trials is None else options.trials,
        minutes=options.minutes or 0.0,
        metric="val/loss" if options.metric == "val/loss" else "val/top1",
        seed=options.seed or 0,
        device=options.device or "auto",
        at_once=options.at_once or 1,
        cluster=options.cluster,
        command=command_line(),
    )
    return plan, config


def _checked(options: SweepOptions) -> SweepOptions:
    """Return the options, numpy's numbers as Python's own; refuse what no sweep can keep to.

    Raises:
        UsageError: An unknown metric or device, or a number that is too small, infinite or none.
    """
    known = get_args(Metric)
    if options.metric is not None and options.metric not in known:
        near = did_you_mean(options.metric, known)
        raise UsageError(f"unknown metric {options.metric!r}.{near}", remedy=f"use {' or '.join(known)}")
    if find_device(options.device or "auto").startswith("cuda:"):
        remedy = "use --device cuda; CUDA_VISIBLE_DEVICES says which GPUs"
        raise UsageError(f"a sweep on {options.device}, where each trial sees one GPU", remedy=remedy)
    numbers: dict[str, Any] = {}
    for name, least in (("trials", 1), ("at_once", 1), ("epochs", 1), ("seed", 0)):
        if (value := getattr(options, name)) is not None:
            numbers[name] = whole_number(name, value, least=least)
    if options.minutes is not None:
        remedy = "give 0 or more, 0 for no limit"
        numbers["minutes"] = positive_number("minutes", options.minutes, or_zero=True, remedy=remedy)
    return replace(options, **numbers)


def _extended(journal: Journal, options: SweepOptions) -> Journal:
    """Return a resumed sweep with a larger budget, or to be run elsewhere, where that is asked for.

    Raises:
        UsageError: What cannot be changed any more: the trials that are there would not be comparable.
    """
    plan = journal.plan
    for name in ("metric", "epochs", "seed"):
        own, asked = getattr(plan, name), getattr(options, name)
        if asked is not None and asked != own:
            raise UsageError(
                f"a resumed sweep keeps its {name}, {own}; asked for {asked}",
                where=journal.folder,
                remedy=f"leave out --{name}, or begin another sweep",
            )
    trials = plan.trials if options.trials is None else options.trials
    minutes = plan.minutes if options.minutes is None else options.minutes
    begun = len(journal.trials)
    if trials < begun:
        raise UsageError(
            f"{begun} trials have begun already", where=journal.folder, remedy=f"give --trials {begun} or more"
        )
    journal.plan = replace(
        plan,
        trials=trials,
        minutes=minutes,
        device=options.device or plan.device,
        at_once=options.at_once or plan.at_once,
        cluster=options.cluster or plan.cluster,
    )
    return journal


def _new_journal(folder: Path, plan: Plan, config: Config, stack: ExitStack) -> Journal:
    """Make the folder of a new sweep."""
    pictures = Path(plan.data)
    if pictures.is_dir() and folder.is_relative_to(pictures.resolve()):
        raise UsageError("the sweep's folder would lie among the pictures", where=folder, remedy="choose another --out")
    if (folder / "sweep.json").exists():
        raise RunError(
            "this folder already holds a sweep", where=folder, remedy="go on with --resume, or choose another"
        )
    refuse_overwriting(folder, ("journal.jsonl", "best.toml", "report.html"), "a sweep")
    refuse_other_recipe(folder, config, "a sweep")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "trials").mkdir(exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"cannot make the sweep's folder ({reason})", where=folder, remedy="choose another --out"
        ) from error
    _lock(folder, stack)
    write_atomic(folder / "recipe.toml", config.to_toml().encode())
    journal = Journal(folder, plan)
    journal.write_plan()
    return journal


def _check(plan: Plan, config: Config, watcher: Observer, data: str | Path | None = None) -> None:
    """Find what is wrong with the data once, and pack them once, before trials find it twelve times; then the engine.

    Raises:
        DataError: Data that cannot be trained on, or that have no val.
        MissingExtraError: Ray, psutil or Optuna is not installed.
        UsageError: Unknown data, or a cluster that does not answer.
    """
    from eyespot.sweeps.engine import check_engine

    check_data(plan.data if data is None else data, config, watcher, needs="val")  # named as the user named it
    check_engine(plan.cluster)


def _has_work(journal: Journal) -> bool:
    begun = journal.trials.values()
    return journal.plan.trials > len(begun) or any(not trial.is_over for trial in begun)


def _recipe(folder: Path) -> Config:
    path = str(folder / "recipe.toml")
    return parse_config(recipe_text(path), where=path)


# -------------------------------------------------------------------------------------------------------- the whole way


def _run(journal: Journal, watcher: Observer) -> Sweep:
    """Run what is left of a sweep, test the winner and write the report."""
    from eyespot.sweeps.chooser import Chooser
    from eyespot.sweeps.engine import clear_engine, run_trials

    folder, plan = journal.folder, journal.plan
    remove_temporaries(folder)
    clear_engine(folder)  # also where no trial is left for which Ray would be started again
    left = _has_work(journal)
    if not left and _is_told(journal):
        watcher.on_message("this sweep is finished: nothing to resume; --trials N extends it")
        return Sweep(folder, tuple(journal.ordered()), journal.result)
    config = _recipe(folder)
    own = {key: setting_of(config, key) for key in plan.space.keys}
    chooser = Chooser(journal, own, watcher.on_trial)
    if left and not chooser.is_over:
        journal.begin()
        journal.write_plan()
        watcher.on_sweep(journal)
        try:
            run_trials(journal, chooser, watcher.on_message)
        finally:
            journal.end()
    if chooser.exhausted:
        watcher.on_message(f"every one of the {plan.space.size} points of the space was tried")
    if chooser.seconds_left == 0.0:
        watcher.on_message(f"the {plan.minutes:g} minutes are over; --resume --minutes N goes on")
    _finish(journal, watcher)
    return Sweep(folder, tuple(journal.ordered()), journal.result)


def _is_told(journal: Journal) -> bool:
    """Return whether result, best.toml and report are of the trials as they are: a kill may have come before them."""
    winner, result = journal.winner(), journal.result
    if winner is None or (result.get("winner"), result.get("told")) != (winner.number, _over(journal)):
        return False
    return all((journal.folder / name).exists() for name in ("best.toml", "report.html"))


def _over(journal: Journal) -> int:
    return sum(trial.is_over for trial in journal.trials.values())


def _finish(journal: Journal, watcher: Observer) -> None:
    """Test the winner once, and write result, recipe and report."""
    from eyespot.sweeps.report import write_sweep_report

    winner = journal.winner()
    if winner is None:
        write_sweep_report(journal)
        reasons = [f"{trial.name}: {trial.reason}" for trial in journal.ordered() if trial.state == "failed"]
        raise TrainingError(
            f"no trial was finished ({reasons[0] if reasons else 'the time was over before the first one'})",
            where=journal.folder,
            remedy="widen the space towards gentler settings" if reasons else "give more --minutes, with --resume",
        )
    run = Run(journal.run_folder(winner))
    before = journal.result
    if before.get("winner") != winner.number:
        watcher.on_message(f"trial {winner.number} is best on val; test is read now")
        measured = _test_once(run, journal.plan.device)
        # Of this winner as its run counts them: a process that was killed while it wrote the result has read test too.
        reads = before.get("test_reads", 0) + (0 if measured is None else Run(run.path).metrics["test_reads"])
        journal.result = {"winner": winner.number, "val": run.metrics["val"], "test": measured, "test_reads": reads}
    settings = {**winner.settings, "evaluation.test": True}
    text = recipe_text(str(journal.folder / "recipe.toml"))
    best = parse_config(text, where=str(journal.folder), changes=settings)
    head = f"# {journal.plan.recipe} with the settings of trial {winner.number} of a sweep\n"
    write_atomic(journal.folder / "best.toml", (head + best.to_toml()).encode())
    journal.write_plan()
    write_sweep_report(journal)
    # Not told by the times of the files, which a copy or a clock that was set changes.
    journal.result = {**journal.result, "told": _over(journal)}
    journal.write_plan()


def _test_once(run: Run, device: str) -> dict[str, Any] | None:
    """Return the winner's figures on test; None where the data have none."""
    import json

    saved = json.loads((run.path / "split.json").read_text(encoding="utf-8"))
    if not any(saved["splits"].get("test", {}).values()):
        return None
    return dict(evaluate(run.path, split="test", device=device).metrics)


__all__ = ["Observer", "QuietObserver", "Space", "Sweep", "SweepOptions", "sweep"]

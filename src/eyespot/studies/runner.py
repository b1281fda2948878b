"""Runs a list of named points one after another, each a process and a run folder of its own, killed or not.

Before this: an ablation or a published study says which points it has. After this: their run folders, which `compare`
reads like any others. A point that is finished is never run twice; one that was killed goes on from its checkpoint;
one that fails does not end the rest.

    OUT/points.json     what was asked for          OUT/runs/NAME-seed0/   the run folders
    OUT/journal.jsonl   what became of it           OUT/logs/NAME-seed0.log   what each process said
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from eyespot.config import Config
from eyespot.errors import (
    ConfigError,
    EyespotError,
    Interrupted,
    RunError,
    RunLockedError,
    UsageError,
    did_you_mean,
)
from eyespot.files import append_line, describe_disk_error, write_json
from eyespot.locks import file_lock
from eyespot.opening import Observer, lasting_name, load_recipe
from eyespot.runs import Run, now

_POLL_SECONDS = 0.2
# A process that lost its runner writes a checkpoint and ends; on a slow disk that takes a while.
_ORPHAN_SECONDS = 120.0
_STOP_SECONDS = 120.0
_JOURNAL = "journal.jsonl"
# Durations in epochs that --epochs-scale shortens along with the epochs themselves.
_WHOLE_EPOCHS = ("training.early_stopping_epochs", "schedule.patience_epochs")
_PART_EPOCHS = ("training.freeze_epochs", "schedule.warmup_epochs")

State = Literal["finished", "failed", "pending", "not run"]


@dataclass(frozen=True)
class Point:
    """One training of an experiment.

    Attributes:
        name: Unique among the points but for the seed; letters, digits, `-`, `_` and `.`: it names the folder.
        recipe: Name or TOML file.
        data: DATA, as for `eyespot train`.
        settings: Changes to the recipe, `{"training.epochs": 5}`.
        seed: Of weights, order and augmentation.
        title: What it is, in words; the name where empty.
        not_run: Why this point is listed and not run, such as weights that cannot be had; empty for one that is run.
    """

    name: str
    recipe: str
    data: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    title: str = ""
    not_run: str = ""

    @property
    def id(self) -> str:
        """Return the name of its run folder."""
        return f"{self.name}-seed{self.seed}"


@dataclass(frozen=True)
class Limits:
    """What all points of an experiment are held to.

    Attributes:
        minutes: Training time of each point; None for that of its recipe.
        epochs_scale: Factor on the epochs of each point and on every duration that is counted in epochs.
        device: `auto`, `cpu`, `cuda` or `mps`.
    """

    minutes: float | None = None
    epochs_scale: float = 1.0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse numbers that no training can keep to."""
        if not (math.isfinite(self.epochs_scale) and self.epochs_scale > 0):
            raise UsageError(f"--epochs-scale {self.epochs_scale:g}", remedy="give a factor above 0, such as 0.1")
        if self.minutes is not None and not (math.isfinite(self.minutes) and self.minutes > 0):
            raise UsageError(f"--minutes {self.minutes:g}", remedy="give a number above 0")


@dataclass(frozen=True)
class Outcome:
    """What became of a point.

    Attributes:
        point: The point.
        state: `finished`; `failed` with its reason; `pending` where it was not its turn yet or it was left out by
            `only`; `not run` where it cannot be run, with its reason.
        run: Its run folder, where there is one.
        reason: Why it failed or was not run, in one line.
    """

    point: Point
    state: State
    run: Run | None = None
    reason: str = ""


def with_seeds(points: Sequence[Point], seeds: int) -> list[Point]:
    """Return each point with the seeds 0 to `seeds` - 1, seed by seed: an early end leaves whole rounds.

    Raises:
        UsageError: Less than one seed.
    """
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}", remedy="give 1 or more; 3 tell a spread")
    return [
        Point(p.name, p.recipe, p.data, p.settings, p.seed + seed, p.title, p.not_run)
        for seed in range(seeds)
        for p in points
    ]


def point_settings(point: Point, limits: Limits) -> dict[str, Any]:
    """Return the changes to a point's recipe, its seed and the limits among them."""
    settings = {**point.settings, "training.seed": point.seed}
    if limits.minutes is not None:
        settings["training.minutes"] = limits.minutes
    scale = limits.epochs_scale
    if scale != 1.0:
        config = load_recipe(point.recipe, settings)
        settings["training.epochs"] = max(1, round(config.training.epochs * scale))
        for key in _WHOLE_EPOCHS:
            if value := _value(config, key):
                settings[key] = max(1, math.ceil(value * scale))
        for key in _PART_EPOCHS:
            if value := _value(config, key):
                settings[key] = value * scale
        if config.schedule.step_epochs:
            settings["schedule.step_epochs"] = sorted({max(1, round(e * scale)) for e in config.schedule.step_epochs})
    return settings


def _value(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def point_config(point: Point, limits: Limits) -> Config:
    """Return every setting of a point.

    Raises:
        ConfigError: An unknown recipe, or settings that do not validate; the point is named.
    """
    try:
        return load_recipe(point.recipe, point_settings(point, limits))
    except ConfigError as error:
        raise ConfigError(f"{error.what} in {error.where}", where=f"point {point.id}", remedy=error.remedy) from error


def select_points(points: Sequence[Point], only: Sequence[str]) -> list[Point]:
    """Return the points that are named; all where none is.

    Args:
        points: All points.
        only: Names, or ids with their seed.

    Raises:
        UsageError: A name that no point has; the nearest one is offered.
    """
    known = {word for point in points for word in (point.name, point.id)}
    for word in only:
        if word not in known:
            names = list(dict.fromkeys(point.name for point in points))
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise UsageError(
                f"no point {word!r}.{did_you_mean(word, known)}", where="--only", remedy=f"{len(names)} points: {shown}"
            )
    return [point for point in points if not only or point.name in only or point.id in only]


def run_points(
    points: Sequence[Point],
    out: str | Path,
    *,
    limits: Limits | None = None,
    only: Sequence[str] = (),
    observer: Observer,
) -> list[Outcome]:
    """Run points one after another, and leave alone those that are finished.

    Called again with the same folder it goes on where it was, however it ended: with the same points, more of them or
    more seeds.

    Args:
        points: In the order in which they are to be run.
        out: Folder of the experiment; made where it does not exist.
        limits: Time, epochs and device of every point.
        only: Names or ids of the points to run; all of them when empty.
        observer: Told about what happens.

    Returns:
        One outcome for each point of `points`, in their order.

    Raises:
        ConfigError: A point's settings do not validate: found before the first one is run.
        UsageError: Two points of one name, a name that cannot be a folder's, or an unknown one in `only`.
        RunError: The folder cannot be written, or holds a run with other settings; `RunLockedError` where another
            process runs its points.
        Interrupted: A signal asked for a stop; the training under way has written a checkpoint.
    """
    limits, folder = limits or Limits(), Path(out).expanduser().resolve()
    _check_names(points)
    chosen = {point.id for point in select_points(points, only)}
    configs = {point.id: point_config(point, limits) for point in points if not point.not_run}
    with _claimed(folder):
        _note_points(folder, points, limits)
        outcomes = [_look(folder, point, configs.get(point.id)) for point in points]
        todo = [
            outcome for outcome in outcomes if outcome.state in ("pending", "failed") and outcome.point.id in chosen
        ]
        done = {outcome.point.id: outcome for outcome in outcomes}
        if todo:
            _announce(todo, done, configs, folder, limits, observer)
        for number, outcome in enumerate(todo, start=1):
            point = outcome.point
            label = f"{number} of {len(todo)}: {point.title or point.name}, seed {point.seed}"
            done[point.id] = _run_point(folder, point, configs[point.id], limits, label, observer)
            _tell_rest(done, todo[number:], folder, observer)
    return [done[point.id] for point in points]


def read_outcomes(points: Sequence[Point], out: str | Path, limits: Limits | None = None) -> list[Outcome]:
    """Return what has become of points so far, without running any."""
    limits, folder = limits or Limits(), Path(out).expanduser().resolve()
    return [_look(folder, point, None if point.not_run else point_config(point, limits)) for point in points]


# ------------------------------------------------------------------------------------------------------------- a point


def _look(folder: Path, point: Point, config: Config | None) -> Outcome:
    """Return what a point's run folder says about it."""
    if config is None:
        return Outcome(point, "not run", reason=point.not_run)
    path = folder / "runs" / point.id
    if not (path / "config.toml").is_file():
        return Outcome(point, "pending", reason=_last_failure(folder, point.id))
    run = Run(path)
    _check_same(run, config, point)
    if run.finished:
        return Outcome(point, "finished", run)
    reason = _last_failure(folder, point.id)
    return Outcome(point, "failed" if reason else "pending", run, reason)


def _check_same(run: Run, config: Config, point: Point) -> None:
    """Refuse to take a run of other settings or data for this point's."""
    known, wanted = run.config.model_dump(mode="json"), config.model_dump(mode="json")
    differing = [
        f"{section}.{key} is {value[key]!r} there and {wanted[section][key]!r} here"
        for section, value in known.items()
        if isinstance(value, dict)
        for key in value
        if value[key] != wanted[section][key]
    ]
    data, asked = run.provenance.get("data"), lasting_name(point.data)
    if data is not None and data != asked:
        differing.append(f"the data are {data} there and {asked} here")
    if differing:
        more = f" and {len(differing) - 2} more" if len(differing) > 2 else ""
        raise RunError(
            f"this run has other settings: {'; '.join(differing[:2])}{more}",
            where=run.path,
            remedy="choose another folder with --out, or give what it was begun with",
        )


def _run_point(folder: Path, point: Point, config: Config, limits: Limits, label: str, observer: Observer) -> Outcome:
    """Run one point to its end in a process of its own."""
    path = folder / "runs" / point.id
    observer.on_message(label)
    try:
        _wait_for_orphan(path, observer)
    except RunLockedError as error:
        return _failed(folder, point, str(error), observer)
    run = Run(path)
    resume = "data" in run.provenance  # one that was killed before is begun again
    words = ["train", "--resume", "--out", str(path)] if resume else _train_words(point, limits, path)
    append_line(
        folder / _JOURNAL, json.dumps({"time": now(), "point": point.id, "event": "resumed" if resume else "started"})
    )
    started = time.monotonic()
    code = _train(words, folder / "logs" / f"{point.id}.log", path, config.training.epochs, label, observer)
    seconds = round(time.monotonic() - started, 1)
    if code != 0 or not run.finished:
        return _failed(folder, point, _describe_end(code, folder / "logs" / f"{point.id}.log"), observer)
    append_line(
        folder / _JOURNAL, json.dumps({"time": now(), "point": point.id, "event": "finished", "seconds": seconds})
    )
    return Outcome(point, "finished", run)


def _failed(folder: Path, point: Point, reason: str, observer: Observer) -> Outcome:
    append_line(folder / _JOURNAL, json.dumps({"time": now(), "point": point.id, "event": "failed", "reason": reason}))
    observer.on_message(f"point {point.id} failed, the others go on: {reason}")
    path = folder / "runs" / point.id
    return Outcome(point, "failed", Run(path) if (path / "config.toml").is_file() else None, reason)


def _train_words(point: Point, limits: Limits, path: Path) -> list[str]:
    """Return the command line of a new run."""
    words = ["train", "--recipe", point.recipe, "--out", str(path), "--device", limits.device]
    for key, value in _dotted(point_settings(point, limits)):
        # JSON values of these kinds are TOML values, but for surrogates.
        words += ["--set", f"{key}={json.dumps(value, ensure_ascii=False)}"]
    return [*words, "--", point.data]


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `section.key` and a value that is no table."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _train(words: Sequence[str], log: Path, run: Path, epochs: int, label: str, observer: Observer) -> int:
    """Run `eyespot train` in a process of its own and return its exit code; its words go to the log.

    Raises:
        KeyboardInterrupt: This process was asked to stop; the other one has written its checkpoint and ended.
    """
    command = [sys.executable, "-m", "eyespot.studies.child", *words]
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = open(log, "ab")  # noqa: SIM115
    except OSError as error:
        reason, remedy = describe_disk_error(error)
        raise RunError(f"cannot write ({reason})", where=log, remedy=remedy) from error
    with file:
        # Standard input is never written to: its end tells the training that this process is gone.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file)
    try:
        while process.poll() is None:
            finished = _count_epochs(run / "history.jsonl")
            if 0 < finished < epochs:
                observer.on_count(label, finished, epochs, unit="epochs")
            time.sleep(_POLL_SECONDS)
    except BaseException:
        process.terminate()
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    finally:
        assert process.stdin is not None
        process.stdin.close()
    if process.returncode in (129, 130, 143):
        # Ctrl-C and the end of a terminal reach both processes at once, and the other one may be the first to end.
        raise Interrupted(process.returncode - 128)
    return process.returncode


def _count_epochs(history: Path) -> int:
    try:
        return history.read_bytes().count(b"\n")
    except OSError:
        return 0


def _wait_for_orphan(path: Path, observer: Observer) -> None:
    """Wait until nobody holds the lock of a run folder: the training of a killed runner is writing its checkpoint.

    Raises:
        RunLockedError: Somebody holds it all the time.
    """
    lock = path / ".lock"
    if not lock.exists():
        return
    for seconds in (0.0, _ORPHAN_SECONDS):
        try:
            with file_lock(lock, timeout_seconds=seconds):
                return
        except TimeoutError:
            if not seconds:
                observer.on_message(f"waiting for the process that still writes {path}")
    raise RunLockedError("another process is writing this run", where=path, remedy="end it, then go on")


def _describe_end(code: int, log: Path) -> str:
    """Return why a training ended: its own error line, else its exit code."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    errors = [line for line in lines if line.startswith("error: ")]
    if code > 0 and errors:
        return errors[-1].removeprefix("error: ")
    killed = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    hint = ", perhaps for want of memory" if code == -9 else ""
    return f"the training was {killed}{hint}; {log} has its words"


# ---------------------------------------------------------------------------------------------------------- the folder


def _check_names(points: Sequence[Point]) -> None:
    seen = set()
    for point in points:
        if not point.name or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in point.name):
            raise UsageError(f"a point called {point.name!r}", remedy="use letters, digits, '-', '_' and '.'")
        if point.name.startswith(".") or len(point.id) > 100:
            raise UsageError(f"a point called {point.name!r}", remedy="use a shorter name that begins with a letter")
        if point.id.lower() in seen:
            raise UsageError(f"two points called {point.id!r}", remedy="give each a name of its own")
        seen.add(point.id.lower())


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Hold the experiment's folder against other processes."""
    try:
        (folder / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason, remedy = describe_disk_error(error)
        raise RunError(f"cannot make the folder ({reason})", where=folder, remedy=remedy) from error
    lock = file_lock(folder / ".lock", timeout_seconds=0)
    try:
        lock.__enter__()
    except TimeoutError as error:
        raise RunLockedError(
            "another process is running these points",
            where=folder,
            remedy="wait for it, or choose another folder with --out",
        ) from error
    except OSError as error:
        reason, remedy = describe_disk_error(error)
        raise RunError(f"cannot write ({reason})", where=folder, remedy=remedy) from error
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _note_points(folder: Path, points: Sequence[Point], limits: Limits) -> None:
    """Write points.json: what was asked for, for whoever reads the folder later."""
    rows = [
        {"id": p.id, "title": p.title, "recipe": p.recipe, "data": p.data, "settings": dict(p.settings), "seed": p.seed}
        | ({"not_run": p.not_run} if p.not_run else {})
        for p in points
    ]
    held = {"minutes": limits.minutes, "epochs_scale": limits.epochs_scale}
    write_json(folder / "points.json", {"limits": held, "points": rows})


def read_journal(folder: str | Path) -> list[dict[str, Any]]:
    """Return the lines of an experiment's journal that are whole, in order."""
    try:
        lines = (Path(folder) / _JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the disk was full, or the machine lost its power
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _last_failure(folder: Path, point_id: str) -> str:
    """Return why a point failed the last time; empty where it did not, or goes on since."""
    own = [row for row in read_journal(folder) if row.get("point") == point_id]
    return str(own[-1].get("reason", "")) if own and own[-1].get("event") == "failed" else ""


# -------------------------------------------------------------------------------------------------------- time to come


def _announce(
    todo: Sequence[Outcome],
    done: Mapping[str, Outcome],
    configs: Mapping[str, Config],
    folder: Path,
    limits: Limits,
    observer: Observer,
) -> None:
    """Say how much there is to do, and about how long it will take, before it begins."""
    from eyespot.analysis import words
    from eyespot.studies.estimate import estimate_seconds

    finished = sum(outcome.state == "finished" for outcome in done.values())
    there = f", {finished} finished already" if finished else ""
    observer.on_message(f"{words.plural(len(todo), 'point')} to run{there}, into {folder}")
    if limits.epochs_scale != 1.0:
        observer.on_message(
            f"a quick look: every duration in epochs is multiplied by {limits.epochs_scale:g}; "
            "these figures are not those of the recipes"
        )
    asked = [(outcome.point.data, configs[outcome.point.id]) for outcome in todo]
    seconds, unknown = estimate_seconds(asked, device=limits.device, observer=observer)
    rest = f", and {words.plural(unknown, 'point')} of unknown length" if unknown else ""
    observer.on_message(f"estimate: at most about {words.duration(seconds)} for all{rest}, from a few measured steps")


def _tell_rest(done: Mapping[str, Outcome], rest: Sequence[Outcome], folder: Path, observer: Observer) -> None:
    """Say how long the points that are left will take, at the pace of those that are done."""
    from eyespot.analysis import words

    took = [row["seconds"] for row in read_journal(folder) if row.get("event") == "finished" and "seconds" in row]
    if rest and took:
        mean = sum(took) / len(took)
        observer.on_message(
            f"{words.plural(len(rest), 'point')} left: about {words.duration(mean * len(rest))}, "
            f"at the mean of {words.plural(len(took), 'finished point')}"
        )


__all__ = [
    "EyespotError",
    "Limits",
    "Outcome",
    "Point",
    "point_config",
    "point_settings",
    "read_journal",
    "read_outcomes",
    "run_points",
    "select_points",
    "with_seeds",
]

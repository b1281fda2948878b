"""Runs a list of named points one after another, each a process and a run folder of its own, killed or not.

Before this: an ablation or a published study says which points it has. After this: their run folders, which `compare`
reads like any others. A point that is finished is never run twice; one that was killed goes on from its checkpoint;
one that fails does not end the rest, but where the disk is full.

    OUT/points.json     what was asked for          OUT/runs/NAME-seed0/   the run folders
    OUT/journal.jsonl   what became of it           OUT/logs/NAME-seed0.log   what each process said
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from eyespot.caches import user_path
from eyespot.config import Config, TrainingConfig, toml_value
from eyespot.errors import Interrupted, RunError, RunLockedError
from eyespot.evaluating import refuse_changed
from eyespot.files import DISK_FULL, describe_disk_error
from eyespot.locks import file_lock
from eyespot.opening import Observer, lasting_name, open_data
from eyespot.runs import CHECKPOINTS, Run, refuse_overwriting
from eyespot.studies.journal import JOURNAL, POINTS, claimed, last_failure, note_event, note_points, read_journal
from eyespot.studies.points import (
    Limits,
    Outcome,
    Point,
    check_models,
    check_names,
    point_config,
    point_settings,
    select_points,
)

_POLL_SECONDS = 0.2
# A process that lost its runner writes a checkpoint and ends; on a slow disk that takes a while.
_ORPHAN_SECONDS = 120.0
_STOP_SECONDS = 120.0
# Without the folder that -c puts first, whose files could stand for the standard library's.
_CHILD = (
    "import sys; sys.path[:] = [place for place in sys.path if place]; "
    "import json; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from eyespot.studies.child import main; main()"
)


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
        limits: Time, epochs and device of every point that is run now.
        only: Names or ids of the points to run; all of them when empty. What is there of the others is left as it is,
            whatever its settings.
        observer: Told about what happens.

    Returns:
        One outcome for each point of `points`, in their order.

    Raises:
        ConfigError: A point's settings do not validate: found before the first one is run.
        UsageError: Two points of one name, a name that cannot be a folder's, an unknown one in `only`, an argument that
            a model does not have, or unknown data: all before the first one is run.
        DataError: Data that cannot be opened, or are others than those of the runs that are there.
        RunError: The folder cannot be written, holds a run with other settings, or a point found the disk full;
            `RunLockedError` where another process runs its points.
        Interrupted: A signal asked for a stop; the training under way has written a checkpoint.
    """
    limits, folder = limits or Limits(), user_path(out).resolve()
    check_names(points)
    chosen = {point.id for point in select_points(points, only)}
    configs = {point.id: point_config(point, limits) for point in points if not point.not_run}
    check_models(configs)
    _check_data(folder, [point for point in points if point.id in chosen and not point.not_run], observer)
    with claimed(folder):
        # Before anything is noted: a folder whose runs are others stays as it is.
        outcomes = [_look(folder, point, configs.get(point.id), check=point.id in chosen) for point in points]
        if not (folder / POINTS).exists() and not any(outcome.run for outcome in outcomes):
            refuse_overwriting(folder, (JOURNAL, "report.html"), "a study")
        todo = [
            outcome for outcome in outcomes if outcome.state in ("pending", "failed") and outcome.point.id in chosen
        ]
        for data in dict.fromkeys(outcome.point.data for outcome in todo):
            begun = (outcome.run for outcome in outcomes if outcome.run is not None)
            refuse_changed((run for run in begun if run.provenance.get("data") == lasting_name(data)), observer)
        note_points(folder, points, limits, chosen)
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
    limits, folder = limits or Limits(), user_path(out).resolve()
    return [_look(folder, point, None if point.not_run else point_config(point, limits)) for point in points]


# ------------------------------------------------------------------------------------------------------------- a point


def _look(folder: Path, point: Point, config: Config | None, *, check: bool = True) -> Outcome:
    """Return what a point's run folder says about it; `check`: it must have the settings asked for."""
    path = folder / "runs" / point.id
    run = Run(path) if (path / "config.toml").is_file() else None
    if config is None:
        if run is not None and run.finished:
            return Outcome(point, "finished", run)
        return Outcome(point, "not run", reason=point.not_run)
    if run is None:
        return Outcome(point, "pending", reason=last_failure(folder, point.id))
    if check:
        _check_same(run, config, point)
    if run.finished and run.metrics:  # where they are gone, `train --resume` writes them again
        return Outcome(point, "finished", run)
    reason = last_failure(folder, point.id)
    return Outcome(point, "failed" if reason else "pending", run, reason)


def _check_same(run: Run, config: Config, point: Point) -> None:
    """Refuse to take a run of other settings or data for this point's."""
    own = run.config
    known, wanted = own.model_dump(mode="json"), config.model_dump(mode="json")
    differing = [
        f"{section}.{key} is {value[key]!r} there and {wanted[section][key]!r} here"
        for section, value in known.items()
        if isinstance(value, dict)
        for key in value
        if value[key] != wanted[section][key] and (section, key) != ("data", "label_fixes")
    ]
    if known["mistakes"] != wanted["mistakes"]:
        differing.append(f"mistakes are {known['mistakes']} there and {wanted['mistakes']} here")
    differing += _differing_fixes(run, own.data.label_fixes, config.data.label_fixes)
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


def _differing_fixes(run: Run, own: str, asked: str) -> list[str]:
    """Return how corrected labels differ, by the content of their files: a run has a copy of its own."""
    if not own and not asked:
        return []
    kept = run.provenance.get("label_fixes")
    file, sha256 = (kept.get("file"), kept.get("sha256")) if isinstance(kept, dict) else (None, None)
    if not own or not asked:
        return [f"data.label_fixes is {(file or own) if own else 'not set'} there and {asked or 'not set'} here"]
    path = user_path(asked)
    try:
        same = sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        same = str(path.resolve()) == file  # gone since: the run does not need it any more
    return (
        [] if same or sha256 is None else [f"data.label_fixes is {file} there and {asked} here, with another content"]
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
    # One that was killed before either is begun again.
    resume = "data" in run.provenance or any((path / CHECKPOINTS).glob("*.ckpt"))
    words = ["train", "--resume", "--out", str(path)] if resume else _train_words(point, limits, path)
    note_event(folder, point, "resumed" if resume else "started")
    log = folder / "logs" / f"{point.id}.log"
    said_before = log.stat().st_size if log.exists() else 0
    started = time.monotonic()
    code = _train(words, log, path, config.training, label, observer)
    seconds = round(time.monotonic() - started, 1)
    if code != 0 or not run.finished:
        reason = _describe_end(code, log, said_before)
        if DISK_FULL in reason:  # every other point would train up to its first write
            note_event(folder, point, "failed", reason=reason)
            what = f"point {point.id}: {reason.partition(': free some space')[0]}"
            raise RunError(what, remedy="free some space, then go on")
        return _failed(folder, point, reason, observer)
    # Of one that was resumed it is not the whole time, by which what is left is estimated.
    note_event(folder, point, "finished", **({} if resume else {"seconds": seconds}))
    return Outcome(point, "finished", run)


def _failed(folder: Path, point: Point, reason: str, observer: Observer) -> Outcome:
    note_event(folder, point, "failed", reason=reason)
    observer.on_message(f"point {point.id} failed, the others go on: {reason}")
    path = folder / "runs" / point.id
    return Outcome(point, "failed", Run(path) if (path / "config.toml").is_file() else None, reason)


def _train_words(point: Point, limits: Limits, path: Path) -> list[str]:
    """Return the command line of a new run."""
    words = ["train", "--recipe", point.recipe, "--out", str(path), "--device", limits.device]
    for key, value in point_settings(point, limits).items():
        words += ["--set", f"{key}={toml_value(value)}"]
    return [*words, "--", point.data]


def _train(words: Sequence[str], log: Path, run: Path, training: TrainingConfig, label: str, observer: Observer) -> int:
    """Run `eyespot train` in a process of its own and return its exit code; its words go to the log.

    Raises:
        KeyboardInterrupt: This process was asked to stop; the other one has written its checkpoint and ended.
    """
    command = [sys.executable, "-X", f"utf8={sys.flags.utf8_mode}", "-c", _CHILD, json.dumps(sys.path), *words]
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = open(log, "ab")  # noqa: SIM115
    except OSError as error:
        reason, remedy = describe_disk_error(error)
        raise RunError(f"cannot write ({reason})", where=log, remedy=remedy) from error
    with file:
        # Standard input is never written to: its end tells the training that this process is gone.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file)
    assert process.stdin is not None
    try:
        while process.poll() is None:
            finished, epochs = _count_epochs(run / "history.jsonl", training)
            if 0 < finished < epochs:
                observer.on_count(label, finished, epochs, unit="epochs")
            time.sleep(_POLL_SECONDS)
    except BaseException:
        process.stdin.close()  # asks for an orderly stop, on Windows too, where `terminate` is none
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    finally:
        process.stdin.close()
    if process.returncode in (129, 130, 143):
        # Ctrl-C and the end of a terminal reach both processes at once, and the other one may be the first to end.
        raise Interrupted(process.returncode - 128)
    return process.returncode


def _count_epochs(history: Path, training: TrainingConfig) -> tuple[int, int]:
    """Return how many epochs are over, and how many there will be at their pace."""
    try:
        rows = history.read_bytes().splitlines()
        finished, seconds = len(rows), float(json.loads(rows[-1])["seconds"])
    except (OSError, IndexError, ValueError, KeyError):  # not there yet, or half a line
        return 0, training.epochs
    if not training.minutes or not seconds:
        return finished, training.epochs
    return finished, min(training.epochs, math.floor(training.minutes * 60 / seconds * finished))


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


def _describe_end(code: int, log: Path, start: int = 0) -> str:
    """Return why a training ended: its own error line, else its exit code.

    Args:
        code: Its exit code.
        log: What it said.
        start: Byte at which it began to; what stands before is of earlier attempts.
    """
    try:
        lines = log.read_bytes()[start:].decode("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    errors = [line for line in lines if line.startswith("error: ")]
    if code > 0 and errors:
        # What goes on is the study or the ablation, each in its own way.
        return errors[-1].removeprefix("error: ").removesuffix("; a training goes on with --resume")
    killed = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    hint = ", perhaps for want of memory" if code == -9 else ""
    return f"the training was {killed}{hint}; {log} has its words"


# ---------------------------------------------------------------------------------------------------------- the folder


def _check_data(folder: Path, points: Sequence[Point], observer: Observer) -> None:
    """Open what is to be trained on, once: wrong data would be found by every point again."""
    waiting = [point for point in points if not Run(folder / "runs" / point.id).finished]
    for data in dict.fromkeys(point.data for point in waiting):
        open_data(data, observer)


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
    observer.on_message(
        f"estimate: about {words.duration(seconds)} for all{rest}, from a few measured steps; early stopping and "
        "features that are stored make it shorter, other work on the machine longer"
    )


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

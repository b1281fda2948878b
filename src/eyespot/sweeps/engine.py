"""Ray Tune at work: trials on this machine or on a cluster, early stopping, nothing left behind.

Before this: `chooser` knows what comes next. After this: finished run folders and a journal. Ray is started for one
sweep and ended with it; it shows no dashboard, reports nothing to anybody, and says nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

from eyespot.device import usable_cores
from eyespot.errors import EyespotError, Interrupted, MissingExtraError, UsageError, first_line, require_extra
from eyespot.files import write_json
from eyespot.locks import temporary_folder
from eyespot.runs import Run
from eyespot.sweeps.chooser import Chooser
from eyespot.sweeps.journal import Journal, Plan
from eyespot.sweeps.processes import Born, children, end_processes, needed, watched
from eyespot.sweeps.trial import run_trial

# The smallest that Ray takes: trials exchange a few numbers, and /dev/shm is 64 MB in a container.
_OBJECT_STORE_BYTES = 80 * 2**20
_CONNECT_SECONDS, _PROBE_SECONDS = 5.0, 60.0
_TEMPORARY = "eyeray-"  # and 8 digits: nobody else's folder may look like one of ours
_REDUCTION = 3  # of three trials that came as far, the best one goes on
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # EYESPOT_DATA and EYESPOT_CACHE may be relative
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_local_fs_capacity_threshold": "0.999",  # nothing is spilled: a disk that is 95 % full is no reason to stop
    "RAY_worker_niceness": "0",  # at its 15, trials starve beside whatever else runs in the same session
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_THRESHOLD_S": "1000000",
}


@dataclass(frozen=True)
class Machines:
    """What Ray has to work with.

    Attributes:
        threads: CPU cores of one trial.
        gpus: GPUs of one trial, 0 or 1.
        at_once: Trials at a time, over all machines.
        words: The same in words.
        processes: Of Ray on this machine, that it cannot do without.
    """

    threads: int
    gpus: int
    at_once: int
    words: str
    processes: Sequence[Born] = ()


def run_trials(journal: Journal, chooser: Chooser, say: Callable[[str], None]) -> None:
    """Run the trials of a sweep until the budget is used up.

    Args:
        journal: What is known; `begin` was called.
        chooser: Says what comes next.
        say: Takes sentences for the user.

    Raises:
        UsageError: The cluster cannot be reached.
        EyespotError: What would fail every trial: data that have gone, a full disk, processes that die.
        KeyboardInterrupt: The user wants to stop; everything is written.
    """
    with _ray(journal, say) as (machines, storage):
        say(machines.words)
        _fit(journal, chooser, machines, storage)
    if chooser.failure is not None:
        raise chooser.failure


def _fit(journal: Journal, chooser: Chooser, machines: Machines, storage: Path) -> None:
    """Let Ray Tune run the trials."""
    from ray import tune

    def trainable(task: dict[str, Any]) -> None:
        run_trial(task, tune.report)

    plan = journal.plan
    common = {"device": plan.device, "metric": plan.metric, "threads": machines.threads}
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": machines.threads, "gpu": machines.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=_searcher(journal, chooser, common),
            scheduler=_scheduler(journal),
            num_samples=-1,
            max_concurrent_trials=machines.at_once,
            time_budget_s=chooser.seconds_left,
            reuse_actors=True,  # a new process for each trial would load torch each time
        ),
        run_config=tune.RunConfig(name="sweep", storage_path=str(storage), verbose=0),
    )

    def died() -> None:
        remedy = "look whether memory ran out; eyespot sweep --resume goes on"
        chooser.failure = EyespotError("Ray's own processes were ended", where=journal.folder, remedy=remedy)

    try:
        with _noted_signals() as received, watched(machines.processes, died):
            tuner.fit()
    except KeyboardInterrupt as error:
        if chooser.failure is not None:
            raise chooser.failure from error
        raise Interrupted(received[0] if received else signal.SIGINT) from error  # Ray forgets which signal it was
    except Exception as error:
        # Ray wraps what a callback raises: the journal could not be written.
        if chooser.failure is not None:
            raise chooser.failure from error
        raise


def _searcher(journal: Journal, chooser: Chooser, common: Mapping[str, Any]) -> Any:
    """Return what Ray asks for the next trial and tells what came of it."""
    from ray.tune.search import Searcher

    class Bridge(Searcher):  # type: ignore[misc, unused-ignore]
        """Ray's names for what `Chooser` does."""

        def __init__(self) -> None:
            super().__init__(metric="value", mode=journal.plan.mode)
            self.numbers: dict[str, int] = {}

        def suggest(self, trial_id: str) -> Any:
            with _kept(chooser):
                trial = chooser.next()
            if trial is None:
                return Searcher.FINISHED
            self.numbers[trial_id] = trial.number
            task = {"folder": str(journal.run_folder(trial)), "recipe": str(journal.folder / "recipe.toml")}
            return {**common, **task, "data": journal.plan.data, "settings": dict(trial.settings)}

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            chooser.on_row(self.numbers[trial_id], _flat(result))

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            number = self.numbers.pop(trial_id, None)  # a trial that is stopped is told of twice
            if number is not None:
                with _kept(chooser):
                    chooser.on_end(number, _flat(result or {}), crashed=error)

        def __reduce__(self) -> tuple[type, tuple[()]]:
            """Let Ray's snapshots of itself keep nothing: the journal is the truth."""
            return dict, ()

        def save(self, checkpoint_path: str) -> None:
            """Keep nothing."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing was kept."""

    return Bridge()


@contextmanager
def _kept(chooser: Chooser) -> Iterator[None]:
    """Remember an error of ours before Ray wraps it."""
    try:
        yield
    except EyespotError as error:
        chooser.failure = error
        raise


def _flat(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result without Ray's own entries; it has put the parts of lists under keys of their own."""
    known = ("epoch", "top1", "loss", "n", "low", "high", "seconds", "final", "failed", "ends", "what")
    return {key: result[key] for key in known if key in result}


def _scheduler(journal: Journal) -> Any:
    """Return the early stopping: asynchronous successive halving, which has seen the trials of earlier processes.

    Source:
        Li et al. 2018, "A system for massively parallel hyperparameter tuning", arXiv:1810.05934; Ray Tune's ASHA.
    """
    schedulers: Any = importlib.import_module("ray.tune.schedulers")
    plan = journal.plan
    if not plan.stops_early:
        return schedulers.FIFOScheduler()
    scheduler = schedulers.ASHAScheduler(
        time_attr="epoch",
        metric="value",
        mode=plan.mode,
        max_t=plan.epochs,
        grace_period=grace_epochs(plan.epochs),
        reduction_factor=_REDUCTION,
        stop_last_trials=False,  # the last epoch is for the trial to finish: measured, with its report
    )
    key = plan.metric
    for trial in journal.ordered():
        if trial.state not in ("finished", "stopped"):
            continue
        past = SimpleNamespace(trial_id=f"past-{trial.number}")
        scheduler.on_trial_add(None, past)
        for row in Run(journal.run_folder(trial)).history:
            if row["epoch"] < trial.epochs or trial.state == "stopped":
                scheduler.on_trial_result(None, past, {"epoch": row["epoch"], "value": row[key]})
    return scheduler


def grace_epochs(epochs: int) -> int:
    """Return the epochs that every trial gets before it may be stopped: a ninth, so that it is looked at twice."""
    return max(1, round(epochs / _REDUCTION**2))


# ------------------------------------------------------------------------------------------------------ Ray's processes


@contextmanager
def _ray(journal: Journal, say: Callable[[str], None]) -> Iterator[tuple[Machines, Path]]:
    """Start Ray or join a cluster; afterwards no process and no file of it is left.

    Yields:
        What there is to work with, and a folder for what Ray wants to write.
    """
    handlers = _signal_handlers()
    with (
        temporary_folder(_short_temporary_folder(), _TEMPORARY, mode=0o700) as temporary,
        _environment(_QUIET if journal.plan.cluster else {**_QUIET, **_guard()}),
        contextlib.ExitStack() as stack,
    ):
        others: list[Born] | None = None  # as long as Ray has started nothing
        own: list[Born] = []
        try:
            ray = _import_ray()
            stack.enter_context(_wordless())
            others = children()
            plan = journal.plan
            quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
            if plan.cluster:
                say(f"joining the cluster at {plan.cluster}")
                ray.init(address=plan.cluster, job_config=_job([]), **quiet)
            else:
                say("starting Ray on this machine")
                cores, gpus = usable_cores(), _gpus(plan.device)
                try:
                    ray.init(
                        address="local",
                        num_cpus=cores,
                        num_gpus=gpus,
                        include_dashboard=False,
                        object_store_memory=_OBJECT_STORE_BYTES,
                        _temp_dir=str(temporary),
                        _node_ip_address="127.0.0.1",
                        job_config=_job(sys.path),
                        **quiet,
                    )
                except Exception as error:
                    remedy = "free memory, disk and ports of this machine, then --resume"
                    raise EyespotError(
                        f"Ray did not start ({first_line(error)})", where=temporary, remedy=remedy
                    ) from error
                write_json(journal.folder / "engine.json", {"processes": (started := children(others))})
                own = needed(started)
            for name in ("ray", "ray.tune", "ray.train", "ray.data"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
            _restore_handlers(handlers)
            yield replace(_machines(ray, plan), processes=own), temporary
        except SystemExit as error:
            if error.code != signal.SIGTERM:
                raise
            raise Interrupted(signal.SIGTERM) from error  # Ray's answer while it starts, before ours is back in place
        finally:
            if others is not None:
                with _no_signals():
                    started = children(others)
                    ray.shutdown()
                    end_processes(started)  # of a start that broke off Ray knows nothing
            _restore_handlers(handlers)
            with contextlib.suppress(OSError):
                (journal.folder / "engine.json").unlink(missing_ok=True)


@functools.cache
def _guard() -> dict[str, str]:
    """Return what keeps others out: Ray listens on every address, and whoever reaches its ports runs code.

    Once in a process, because Ray reads it once, and not where somebody has loaded Ray before: then Ray's own default
    holds, a token in the user's home.
    """
    return {} if "ray" in sys.modules else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _job(search_path: Sequence[str]) -> Any:
    """Return where the processes of trials look for modules: a torch.py in the current folder is not torch for them.

    Ray puts the current folder first, but for jobs of its clients.

    Args:
        search_path: Of this process; empty where they are on other machines, which have their own.
    """
    # Each is put before the ones that were named before it.
    paths = [os.path.abspath(path) for path in reversed(search_path)]
    return importlib.import_module("ray.job_config").JobConfig(_client_job=True, _py_driver_sys_path=paths)


def _import_ray() -> Any:
    require_extra("cluster", "ray", "ray.tune")
    return importlib.import_module("ray")


@contextmanager
def _wordless() -> Iterator[None]:
    """Keep Ray from printing that a worker died: the journal says so, and with --json stdout is one document.

    No setting of Ray does that: `log_to_driver` is for what the workers print.
    """
    module: Any = importlib.import_module("ray._private.worker")
    before = getattr(module, "print_to_stdstream", None)
    if before is None:  # Ray has another way by now
        yield
        return
    module.print_to_stdstream = lambda *args, **words: None
    try:
        yield
    finally:
        module.print_to_stdstream = before


def clear_engine(folder: Path) -> None:
    """End what a killed driver left of Ray, and remove its temporary folder.

    Ray's own processes notice the driver's death, its agents only after a minute.
    """
    path = folder / "engine.json"
    try:
        left = json.loads(path.read_text(encoding="utf-8"))["processes"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    end_processes(left)  # first: what still runs would write into the folder that is removed next
    with contextlib.suppress(OSError), temporary_folder(_short_temporary_folder(), _TEMPORARY, mode=0o700):
        pass  # making one removes what is held by nobody
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _short_temporary_folder() -> Path:
    """Return where Ray may put its sockets: their paths may have 107 characters, which a long TMPDIR exceeds."""
    usual = tempfile.gettempdir()
    return Path(usual if len(usual) <= 24 or not os.access("/tmp", os.W_OK) else "/tmp")


def _gpus(device: str) -> int:
    import torch

    wanted = device.split(":")[0] in ("auto", "cuda")
    return torch.cuda.device_count() if wanted and torch.cuda.is_available() else 0


def _machines(ray: Any, plan: Plan) -> Machines:
    """Return how many trials run at a time, and what each of them gets."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(node.get("CPU", 0)) for node in nodes]
    usable = [count for count in cores if count]
    if not usable:
        raise UsageError("the cluster has no CPU cores", where=plan.cluster, remedy="start its nodes with cores")
    kind = plan.device.split(":")[0]
    pairs = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    with_gpu = [pair for pair in pairs if all(pair)] if kind in ("auto", "cuda") else []
    if with_gpu:
        threads = max(1, min(count // gpus for count, gpus in with_gpu))
        at_once = sum(min(count // threads, gpus) for count, gpus in with_gpu)
        return Machines(threads, 1, at_once, f"{at_once} at a time, one on each GPU")
    threads = max(1, min(usable) // plan.at_once)
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list is for nested teams
    if limit.isdecimal() and int(limit):
        threads = min(threads, int(limit))
    at_once = sum(min(count // threads, plan.at_once) for count in usable)
    where = f"{len(usable)} machines" if len(usable) > 1 else "this machine" if not plan.cluster else "1 machine"
    one = "one trial at a time" if at_once == 1 else f"{at_once} trials at a time"
    return Machines(threads, 0, at_once, f"{one} on {where}, {threads} thread{'s' * (threads > 1)} each")


def check_engine(cluster: str) -> None:
    """Refuse to begin without what a sweep needs, or with a cluster that does not answer.

    Raises:
        MissingExtraError: Ray, psutil or Optuna is not installed.
        UsageError: The cluster cannot be reached.
    """
    if importlib.util.find_spec("ray") is None:  # not imported here: Ray reads its environment then
        raise MissingExtraError("ray", "cluster")
    require_extra("cluster", "psutil", "optuna")
    if cluster:
        with _environment(_QUIET):
            check_cluster(cluster)


def check_cluster(address: str) -> None:
    """Refuse an address at which no cluster answers, within seconds.

    Ray itself tries for minutes, and ends the whole process where it does not like the answer: a process of its own
    tries first.

    Raises:
        UsageError: Nobody answers, or it is no Ray cluster of this version.
    """
    remedy = "start it with `ray start --head`, and give its HOST:PORT; or leave --cluster out"
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(f"{address!r} is no HOST:PORT", where="--cluster", remedy=remedy)
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        except (OSError, UnicodeError) as error:  # a name that no host can have
            reason = getattr(error, "strerror", None) or first_line(error)
            raise UsageError(f"no cluster answers at {address} ({reason})", where="--cluster", remedy=remedy) from error
    code = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='CRITICAL')"
    try:
        probe = subprocess.run(
            [sys.executable, "-c", code, address], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        seconds = f"{_PROBE_SECONDS:g} s"
        what = f"no cluster answers at {address} (not within {seconds})"
        raise UsageError(what, where="--cluster", remedy=remedy) from error
    if "AuthenticationError" in probe.stderr:
        what = f"the cluster at {address} wants its token"
        raise UsageError(what, where="--cluster", remedy="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, as on its head")
    if probe.returncode:
        lines = [line for line in probe.stderr.splitlines() if line.strip() and not line.startswith((" ", "["))]
        reason = lines[-1][:200] if lines else f"exit code {probe.returncode}"
        raise UsageError(f"no cluster of this version at {address} ({reason})", where="--cluster", remedy=remedy)


@contextmanager
def _environment(entries: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while; what the user has set stays."""
    before = dict(os.environ)
    for key, value in entries.items():
        os.environ.setdefault(key, value)
    try:
        yield
    finally:
        for key in set(os.environ) - set(before):
            if key.startswith(("RAY_", "TUNE_")):
                del os.environ[key]


def _signal_handlers() -> dict[int, Any]:
    """Return who answers Ctrl-C, SIGTERM and a closed terminal: Ray puts its own answers, a sudden end, in place."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    return {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names if hasattr(signal, name)}


def _restore_handlers(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Write down the signals that ask for a stop, on their way to who answers them."""
    received: list[int] = []
    before = _signal_handlers()

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        answer = before[number]
        if callable(answer):
            answer(number, frame)
        else:
            raise Interrupted(number)

    for number, answer in before.items():
        if answer is not signal.SIG_IGN:  # as under `nohup`
            signal.signal(number, note)
    try:
        yield received
    finally:
        _restore_handlers(before)


@contextmanager
def _no_signals() -> Iterator[None]:
    """Let nobody interrupt the way out: an impatient second Ctrl-C would leave Ray's processes behind."""
    before = _signal_handlers()
    for number in before:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        _restore_handlers(before)

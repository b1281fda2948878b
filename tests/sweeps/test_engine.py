from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import eyespot
from eyespot import cli
from eyespot.errors import Interrupted, MissingExtraError, UsageError
from eyespot.runs import Run
from eyespot.sweeps import engine
from eyespot.sweeps import sweep as sweeps
from eyespot.sweeps.journal import Journal, Plan, Trial
from eyespot.sweeps.processes import Born, children
from eyespot.sweeps.space import Space
from eyespot.sweeps.sweep import QuietObserver, SweepOptions, _extended

from ..conftest import TINY, draw_pictures
from .conftest import finished

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
SPACE = "[optimizer]\nlr = { low = 0.01, high = 0.3, log = true }\n[augment]\ntranslate_px = { low = 0, high = 2 }\n"


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.toml"
    path.write_text(SPACE)
    return path


def words_of(settings: dict[str, Any]) -> list[str]:
    values = [f"{key}={json.dumps(value).replace(':', '=')}" for key, value in settings.items() if key != "model.args"]
    return [part for value in [*values, "model.args={widths=[4,6,8]}"] for part in ("--set", value)]


def rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "journal.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [row["trial"] for row in map(json.loads, lines) if "trial" in row]


def niceness_of(processes: list[Born]) -> set[int]:
    found = set()
    for pid, _ in processes:
        with contextlib.suppress(ProcessLookupError):
            found.add(os.getpriority(os.PRIO_PROCESS, pid))
    return found


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(1800)  # four starts of Ray, which take half a minute each on a machine with other work
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_driver_that_is_killed_three_times_loses_no_finished_trial_and_runs_none_twice(
    pictures: Path, space: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    temporary = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own path is too long for Ray's sockets
    base = [sys.executable, "-m", "eyespot", "sweep"]
    begin = [*base, "small", str(pictures), "--space", str(space), "--trials", "12", "--out", str(folder)]
    for life in range(4):
        begun = len(rows(folder))
        words = (
            [*begin, *words_of({**TINY, "training.epochs": 1})]
            if life == 0
            else [*base, "--resume", "--out", str(folder)]
        )
        environment = {**os.environ, "TMPDIR": str(temporary)}
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        if life < 3:
            while len(rows(folder)) < begun + 4 and process.poll() is None:
                time.sleep(0.01)
            assert niceness_of(children()) == {os.nice(0)}
            process.send_signal(signal.SIGKILL)
        out, err = process.communicate()
        assert process.returncode == (-signal.SIGKILL if life < 3 else 0), err
    ended = [row["number"] for row in rows(folder) if row["state"] != "running"]
    assert sorted(ended) == list(range(1, 13))  # each of them ended, and ended once
    left = json.loads((folder / "sweep.json").read_text())["result"]
    assert left["test_reads"] == 1
    assert "best of 12 trials on val" in out
    assert (folder / "report.html").exists()
    assert not (folder / "engine.json").exists()
    assert not list(temporary.glob("eyeray-*"))
    shutil.rmtree(temporary, ignore_errors=True)
    winner = Run(folder / "trials" / f"{left['winner']:04d}")
    assert winner.metrics["test_reads"] == 1
    others = [path for path in (folder / "trials").iterdir() if path != winner.path]
    assert all(Run(path).metrics["test_reads"] == 0 for path in others)
    for noise in ("ray", "warning", "deprecat"):
        assert noise not in err.lower().replace("starting ray on this machine", ""), err


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)  # a start of Ray
def test_trials_find_data_and_modules_where_the_sweep_finds_them(space: Path, tmp_path: Path) -> None:
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    for split, count in (("train", 6), ("test", 2)):
        draw_pictures(tmp_path / "data" / "cifar10" / split, names, count, seed=count)
    for module in ("torch", "random"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('a file of the user')\n")
    begin = [sys.executable, "-c", "import sys; sys.path.pop(0); from eyespot.cli import main; main()", "sweep"]
    words = ["small", "cifar10", "--space", str(space), "--trials", "1", "--out", "sweep", *words_of(TINY)]
    environment = {**os.environ, "EYESPOT_DATA": "data"}  # of the folder in which the sweep was started
    found = subprocess.run([*begin, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert [row["state"] for row in rows(tmp_path / "sweep")] == ["running", "finished"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_its_number_although_ray_forgets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    class Tuner:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def fit(self) -> None:
            try:
                os.kill(os.getpid(), number)
                time.sleep(10)
            except KeyboardInterrupt:
                raise KeyboardInterrupt from None

    def nothing(*_: object, **__: object) -> None:
        pass

    tune = SimpleNamespace(Tuner=Tuner, TuneConfig=nothing, RunConfig=nothing, with_resources=nothing)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(tune=tune))
    for name in ("_searcher", "_scheduler"):
        monkeypatch.setattr(engine, name, nothing)
    before = {known: signal.getsignal(known) for known in (signal.SIGTERM, signal.SIGINT)}
    chooser: Any = SimpleNamespace(seconds_left=None, failure=None)
    journal = Journal(tmp_path, Plan("digits", "small", 1, Space(()), 1))
    with pytest.raises(Interrupted) as caught:
        engine._fit(journal, chooser, engine.Machines(1, 0, 1, ""), tmp_path)
    assert caught.value.signal == number
    assert {known: signal.getsignal(known) for known in before} == before


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_sigterm_while_ray_starts_is_one_and_leaves_no_process_of_ray_and_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[subprocess.Popen[bytes]] = []

    def sleeper() -> subprocess.Popen[bytes]:
        children.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return children[-1]

    def init(**_: object) -> None:
        sleeper()
        sys.exit(signal.SIGTERM)  # as Ray's own handler does

    own = sleeper()
    ray = SimpleNamespace(init=init, shutdown=lambda: None)
    monkeypatch.setattr(engine, "_short_temporary_folder", lambda: tmp_path)
    monkeypatch.setattr(engine, "_import_ray", lambda: ray)
    journal = Journal(tmp_path, Plan("digits", "small", 1, Space(()), 1))
    try:
        with pytest.raises(Interrupted) as caught, engine._ray(journal, print):
            pass
        assert caught.value.signal == signal.SIGTERM
        assert len(children) == 2
        assert children[1].wait(10) is not None
        assert own.poll() is None
    finally:
        for child in children:
            child.kill()
            child.wait()


@pytest.mark.skipif(os.name != "posix", reason="POSIX locks")
def test_the_next_sweep_removes_what_a_killed_one_left_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingExtraError("ray", "cluster")

    leftover = tmp_path / "eyeray-0123abcd"
    (leftover / "session_latest").mkdir(parents=True)
    (tmp_path / "eyeray-notes").mkdir()
    monkeypatch.setattr(engine, "_short_temporary_folder", lambda: tmp_path)
    monkeypatch.setattr(engine, "_import_ray", missing)
    plan = Plan("digits", "small", 1, Space(()), 1)
    with pytest.raises(MissingExtraError), engine._ray(Journal(tmp_path, plan), print):
        pass
    assert os.listdir(tmp_path) == ["eyeray-notes"]


@needs_ray
def test_what_ray_says_of_dead_workers_does_not_reach_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    ray: Any = importlib.import_module("ray._private.worker")

    def hear(words: str) -> str:
        heard = [(None, {"job_id": None, "error_message": words})]

        def poll() -> tuple[None, dict[str, Any]]:
            if not heard:
                raise ConnectionError
            return heard.pop()

        subscriber = SimpleNamespace(subscribe=lambda: None, poll=poll)
        worker = SimpleNamespace(gcs_error_subscriber=subscriber, current_job_id=ray.JobID.nil())
        ray.listen_error_messages(worker, threading.Event())
        return capsys.readouterr().out

    with engine._wordless():
        assert hear("a worker died") == ""
    assert "another worker died" in hear("another worker died")  # else Ray has another way by now


def test_a_dead_cluster_address_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(UsageError, match=rf"no cluster answers at 127\.0\.0\.1:{port}.*in --cluster: start it with"):
        engine.check_cluster(f"127.0.0.1:{port}")
    assert time.monotonic() - started < 2 * engine._CONNECT_SECONDS


@pytest.mark.parametrize("host", ["my..host", f"{64 * 'x'}.org"])
def test_a_name_that_no_host_can_have_is_said(host: str) -> None:
    with pytest.raises(UsageError, match="no cluster answers at"):
        engine.check_cluster(f"{host}:6379")


@pytest.mark.parametrize(("limit", "threads"), [("4,2", 4), ("0", 8), ("3", 3), ("many", 8), ("", 8)])
def test_threads_are_those_of_openmp(
    limit: str, threads: int, monkeypatch: pytest.MonkeyPatch, journal: Journal
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", limit)

    class Ray:
        def nodes(self) -> list[dict[str, object]]:
            return [{"Alive": True, "Resources": {"CPU": 8}}]

    assert engine._machines(Ray(), replace(journal.plan, at_once=1)).threads == threads


@pytest.mark.parametrize(
    ("device", "nodes", "expected"),
    [
        ("cuda", [(16, 4), (2, 0)], (4, 1, 4)),  # a node without a GPU takes no part and no threads away
        ("auto", [(4, 0), (16, 2), (8, 1)], (8, 1, 3)),
        ("cuda", [(2, 4)], (1, 1, 2)),
        ("cpu:0", [(8, 2)], (8, 0, 1)),
    ],
)
def test_trials_on_gpus_are_reckoned_from_the_nodes_that_have_them(
    device: str,
    nodes: list[tuple[int, int]],
    expected: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
    journal: Journal,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    resources = [{"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus}} for cpus, gpus in nodes]
    found = engine._machines(SimpleNamespace(nodes=lambda: resources), replace(journal.plan, device=device))
    assert (found.threads, found.gpus, found.at_once) == expected


@pytest.mark.parametrize("content", [b"{}", b"[]", b"\xff", b"{"])
def test_a_damaged_note_of_what_ran_stops_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_bytes(content)
    engine.clear_engine(tmp_path)


@pytest.mark.parametrize(
    "address",
    ["", "nowhere", "host:", ":6379", "host:port", "host:\N{SUPERSCRIPT TWO}", "host:99999", "ray://host:10001"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is no HOST:PORT"):
        engine.check_cluster(address)


@needs_ray
def test_somebody_who_answers_and_is_no_cluster_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_PROBE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UsageError, match=r"not within 0\.5 s"):
            engine.check_cluster(address)


def test_a_cluster_that_wants_its_token_is_told_from_a_dead_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(
            [], 1, "", "ray.exceptions.AuthenticationError: RPC error\nConnectionError: x\n"
        )

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(UsageError, match=r"wants its token.*RAY_AUTH_TOKEN"):
        engine.check_cluster("auto")


def test_without_ray_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "eyespot\[cluster\]"'):
        engine.check_engine("")


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    before = dict(os.environ)
    with engine._environment(engine._QUIET):
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"  # what the user has set stays
        assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "1"
    assert dict(os.environ) == before


def test_every_trial_gets_a_ninth_of_its_epochs() -> None:
    assert [engine.grace_epochs(epochs) for epochs in (1, 3, 9, 40, 300)] == [1, 1, 1, 4, 33]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("small digits", "no search space"),
        ("", "no recipe"),
        ("smal digits --space SPACE", r"unknown recipe 'smal'\. Did you mean 'small'"),
        ("small digit --space SPACE", r"Did you mean 'digits'"),
        ("small digits --space nowhere.toml", "cannot read the search space"),
        ("small digits --space SPACE --metric val/acc", r"unknown metric 'val/acc'"),
        ("small digits --space SPACE --trials 0", "trials is 0"),
        ("small digits --space SPACE --minutes -1", "minutes is -1"),
        ("small digits --space SPACE --minutes inf", "minutes is inf: give 0 or more, 0 for no limit"),
        ("small digits --space SPACE --minutes nan", "minutes is nan: give 0 or more, 0 for no limit"),
        ("small digits --space SPACE --set data.final=true", r"data\.final leaves no val"),
        (
            "small digits --space SPACE --set data.allow_leak=true --set mistakes=['select-on-test']",
            "val is test, on which no sweep chooses",
        ),
        ("small digits --space SPACE --set data.val_fraction=0", "no val split to choose on"),
        ("digits digits --space SPACE --set model.name=convnet3", "Unknown argument 'widths' of model 'convnet3'"),
        ("small digits --space SPACE --cluster nowhere", "is no HOST:PORT"),
        ("--resume --out nowhere", r"no sweep \(no sweep\.json\)"),
        ("small --resume --out nowhere", "a resumed sweep keeps"),
        ("small PICTURES --space SPACE --out PICTURES/sweep", "would lie among the pictures"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(
    words: str,
    said: str,
    space: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    line = words.replace("SPACE", str(space)).replace("PICTURES", str(pictures))
    assert cli._run(["sweep", *line.split()]) in (1, 2)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(said, last), last
    assert not (tmp_path / "runs").exists()
    assert not (pictures / "sweep").exists()


@pytest.mark.parametrize("package", ["psutil", "optuna"])
def test_without_a_package_that_it_needs_no_folder_is_begun(
    package: str, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert cli._run(["sweep", "small", "digits", "--space", str(space), "--out", str(tmp_path / "sweep")]) == 1
    assert f"package {package!r} is not installed: pip install" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "sweep").exists()


def test_a_finished_or_foreign_sweep_is_not_run_again(
    journal: Journal, space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["small", "digits", "--space", str(space), "--out", str(journal.folder)]
    assert cli._run(["sweep", *words]) == 1
    assert "already holds a sweep in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--metric val/loss", "a resumed sweep keeps its metric, val/top1; asked for val/loss"),
        ("--epochs 3", "a resumed sweep keeps its epochs, 9; asked for 3"),
        ("--seed 1", "a resumed sweep keeps its seed, 0; asked for 1"),
        ("--trials 0", "trials is 0: use a whole number, 1 or more"),
        ("--minutes -3", "minutes is -3"),
        ("--minutes nan", "minutes is nan"),
        ("--seed -1", "seed is -1: use a whole number, 0 or more"),
        ("--at-once 0", "at_once is 0"),
        ("--device gpu", "unknown device 'gpu'"),
    ],
)
def test_what_a_resumed_sweep_cannot_do_is_said(
    journal: Journal, words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli._run(["sweep", "--resume", "--out", str(journal.folder), *words.split()]) == 2
    assert re.search(said, capsys.readouterr().err.splitlines()[-1])
    assert Journal.open(journal.folder).plan == journal.plan


def test_a_resumed_sweep_goes_on_where_and_as_it_is_asked_to(journal: Journal) -> None:
    same = SweepOptions(metric="val/top1", epochs=9, seed=0)
    assert _extended(Journal.open(journal.folder), same).plan == journal.plan
    other = _extended(Journal.open(journal.folder), SweepOptions(at_once=2, device="cpu", trials=20, minutes=3)).plan
    assert (other.at_once, other.device, other.trials, other.minutes) == (2, "cpu", 20, 3)
    journal.plan = replace(other)
    assert _extended(journal, SweepOptions(at_once=1)).plan.at_once == 1


@pytest.fixture
def ended(journal: Journal, trained: Run, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """Return a sweep that ended with trial 1 of 1, whose figures on test cost nothing."""
    pytest.importorskip("optuna")
    journal.plan = replace(journal.plan, trials=1)
    settings = {"optimizer.lr": 0.1, "augment.translate_px": 1, "training.label_smoothing": 0.1}
    for number in (1, 2):
        shutil.copytree(trained.path, journal.folder / "trials" / f"{number:04d}")
    monkeypatch.setattr(sweeps, "_test_once", lambda run, device: dict(run.metrics["test"]))
    journal.begin()
    journal.write(finished(Trial(1, settings), 0.8))
    sweeps._run(journal, QuietObserver(quiet=True))
    return journal


def test_a_sweep_that_is_told_is_not_told_again(ended: Journal) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in ended.folder.iterdir() if path.is_file()}
    found = eyespot.sweep(out=ended.folder, resume=True)
    assert found.result["winner"] == 1
    after = {path.name: path.stat().st_mtime_ns for path in ended.folder.iterdir() if path.is_file()}
    assert {name: after[name] for name in before} == before


@pytest.mark.skipif(os.name != "posix", reason="POSIX locks")
def test_a_resumed_sweep_without_trials_left_ends_what_a_killed_driver_left_of_ray(
    ended: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps._finish(ended, QuietObserver(quiet=True))
    (tmp_path / "eyeray-0123abcd").mkdir()
    monkeypatch.setattr(engine, "_short_temporary_folder", lambda: tmp_path)
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (ended.folder / "engine.json").write_text(json.dumps({"processes": children()}), encoding="utf-8")
        sweeps._run(ended, QuietObserver(quiet=True))
        left.wait(10)  # raises where it still runs
    finally:
        left.kill()
    assert not (tmp_path / "eyeray-0123abcd").exists()
    assert not (ended.folder / "engine.json").exists()


def test_an_extended_sweep_that_is_killed_before_it_tests_its_winner_tests_it_when_resumed(ended: Journal) -> None:
    journal = _extended(Journal.open(ended.folder), SweepOptions(trials=2))
    journal.begin()
    journal.write_plan()
    settings = {**journal.trials[1].settings, "optimizer.lr": 0.2}
    journal.write(finished(Trial(2, settings), 0.95))
    found = eyespot.sweep(out=ended.folder, resume=True)
    assert (found.result["winner"], found.result["test_reads"]) == (2, 2)
    assert "lr = 0.2" in (ended.folder / "best.toml").read_text()
    assert "Trial 2 was the best of 2" in re.sub("\u00a0", " ", (ended.folder / "report.html").read_text())


def test_an_extended_sweep_that_is_killed_before_its_report_tells_all_trials_whatever_times_its_files_have(
    ended: Journal,
) -> None:
    journal = _extended(Journal.open(ended.folder), SweepOptions(trials=2))
    journal.begin()
    journal.write_plan()
    journal.write(finished(Trial(2, {**journal.trials[1].settings, "optimizer.lr": 0.2}), 0.7))
    for name in ("best.toml", "report.html"):  # as after `cp -r`, or of a clock that was set back
        os.utime(ended.folder / name, (2**32, 2**32))
    found = eyespot.sweep(out=ended.folder, resume=True)
    assert (found.result["winner"], found.result["test_reads"]) == (1, 1)
    assert "Trial 1 was the best of 2" in re.sub("\u00a0", " ", (ended.folder / "report.html").read_text())


@pytest.mark.parametrize("missing", ["report.html", "best.toml"])
def test_a_sweep_that_is_killed_before_its_report_writes_it_when_resumed(ended: Journal, missing: str) -> None:
    (ended.folder / missing).unlink()
    assert eyespot.sweep(out=ended.folder, resume=True).result["test_reads"] == 1
    assert (ended.folder / missing).exists()


@pytest.mark.parametrize("name", ["recipe.toml", "report.html", "best.toml", "journal.jsonl"])
def test_a_sweep_writes_over_no_file_of_another_kind(
    name: str, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_text("mine")
    assert cli._run(["sweep", "small", "digits", "--space", str(space), "--out", str(folder)]) == 1
    assert f"{name} is there already, and a sweep would write over it" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, "mine")]

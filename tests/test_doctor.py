from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement

from eyespot import cli, doctor
from eyespot.analysis import words
from eyespot.doctor import Check, Diagnosis, print_diagnosis


@contextmanager
def answered(*_: Any, **__: Any) -> Iterator[None]:
    yield


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_SPEED_SECONDS", 0.0)
    monkeypatch.setattr(doctor, "_MATRIX", 64)
    monkeypatch.setattr(doctor, "_NETWORK_SECONDS", 1.0)
    monkeypatch.setattr(urllib.request, "urlopen", answered)


def one(found: Diagnosis, name: str, group: str = "") -> Check:
    (check,) = [check for check in found.checks if check.name == name and group in ("", check.group)]
    return check


def test_a_whole_machine_can_train(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["can_train"]
    assert found["matmul_gflops"] > 0
    groups = list(dict.fromkeys(check["group"] for check in found["checks"]))
    assert groups == ["software", "machine", "folders", "data", "network", "extras"]
    names = {check["name"] for check in found["checks"]}
    assert {"torch", "device", "CPU features", "memory", "speed", "recipe fast", "cache", "digits"} <= names
    assert {"www.cs.toronto.edu", "raw.githubusercontent.com", "huggingface.co", "serve", "cluster"} <= names
    assert cli._run(["doctor"]) == 0
    assert "eyespot can train here" in capsys.readouterr().out


def test_more_threads_than_cores_are_a_warning_and_fewer_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    for threads, status in (("64", "warning"), ("1", "note"), ("2", None), ("abc", None)):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        assert next((check.status for check in doctor._machine() if check.name == "threads"), None) == status


def test_the_estimate_for_fast_is_the_measured_one_at_the_measured_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor.doctor()
    assert found.gflops is not None
    assert found.fast_minutes == pytest.approx(7.2 * 874 / found.gflops)
    assert "estimate" in one(found, "recipe fast").value
    assert words.duration(60 * found.fast_minutes) in one(found, "recipe fast").value


def test_no_network_is_said_in_bounded_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EYESPOT_DATA", str(tmp_path))
    monkeypatch.setattr("eyespot.data.finding.SYSTEM_FOLDERS", ())
    hanging = threading.Event()

    def ask(request: urllib.request.Request, timeout: float) -> Any:
        if "githubusercontent" in request.full_url:
            raise urllib.error.HTTPError(request.full_url, 404, "not found", Message(), None)
        if "toronto" in request.full_url:
            hanging.wait()
        raise urllib.error.URLError(OSError(101, "Network is unreachable"))

    monkeypatch.setattr(urllib.request, "urlopen", ask)
    started = time.monotonic()
    reach = doctor._Reach(doctor._sources())
    rows = {check.name: check for check in reach.checks(doctor._missing_data())}
    assert time.monotonic() - started < 15
    hanging.set()
    toronto = rows["www.cs.toronto.edu"]
    assert toronto.status == "warning"
    assert toronto.value == "out of reach (no answer in 1 s)"
    assert toronto.advice.startswith("cifar10, cifar100: copy the files here")
    assert rows["raw.githubusercontent.com"].status == "ok"  # an error page is an answer
    assert "Network is unreachable" in rows["huggingface.co"].value
    assert "pretrained-offline" in rows["huggingface.co"].advice


def test_a_cache_that_cannot_be_written_makes_training_impossible(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
    real = tempfile.TemporaryFile

    def refuse(*args: Any, dir: Any = None, **rest: Any) -> Any:
        if Path(dir) == tmp_path:
            raise OSError(30, "Read-only file system")
        return real(*args, dir=dir, **rest)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert cli._run(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "cannot be written (Read-only file system)" in out
    assert "name another folder with EYESPOT_CACHE" in out
    assert "eyespot cannot train here: cache" in out
    assert not (tmp_path / "cache").exists()  # a look changes nothing


def test_a_nearly_full_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = type("usage", (), {"free": 5 * 10**8})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    found = doctor._writable("cache", tmp_path, "problem", "name another")
    assert (found.status, "500 MB free" in found.value) == ("warning", True)


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = {
        "": [Requirement("torch>=999"), Requirement("no-such-package>=1")],
        "serve": [Requirement("no-such-server"), Requirement("numpy>=1")],
        "dev": [Requirement("no-such-tool")],
    }
    rows = {check.name: check for check in doctor._software(requirements) if check.status != "ok"}
    assert rows["torch"].status == "warning"
    assert rows["no-such-package"].status == "problem"
    assert rows["no-such-package"].advice == 'pip install "no-such-package>=1"'
    (extra,) = doctor._extras(requirements)
    assert (extra.value, extra.advice) == ("no-such-server missing", 'pip install "eyespot[serve]"')


def test_torch_that_cannot_be_loaded_is_a_problem_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    real, plain = importlib.import_module, builtins.__import__

    def broken(name: str, *args: Any, **rest: Any) -> Any:
        if name.split(".")[0] == "torch":
            raise OSError("libcudart.so.13: cannot open shared object file")
        return (real if not args and not rest else plain)(name, *args, **rest)

    monkeypatch.setattr(importlib, "import_module", broken)
    monkeypatch.setattr(builtins, "__import__", broken)
    found = doctor.doctor()
    assert not found.can_train
    assert "libcudart.so.13" in one(found, "torch").value
    assert found.fast_minutes is None


def test_a_look_that_fails_is_a_finding() -> None:
    def fail() -> list[Check]:
        raise ValueError("odd")

    (check,) = doctor._bounded(fail)
    assert (check.status, check.value) == ("warning", "ValueError: odd")


def test_an_address_that_is_none_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://[")
    monkeypatch.setattr(urllib.request, "urlopen", lambda request, timeout: urlsplit(request.full_url) and answered())
    (row,) = [check for check in doctor._Reach(doctor._sources()).checks({}) if check.name == "http://["]
    assert (row.status, row.value) == ("note", "out of reach (Invalid IPv6 URL)")
    assert row.advice == "mend or unset HF_ENDPOINT, which names it"


def test_paths_that_cannot_be_looked_at_cost_their_own_rows_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "shut").mkdir()
    real = os.stat

    def refuse(path: Any, **options: Any) -> Any:
        if str(path).startswith(str(tmp_path / "shut")):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    for folder, reason in ((tmp_path / "shut" / "x", "Permission denied"), (tmp_path / ("a" * 5000), "name too long")):
        monkeypatch.setenv("EYESPOT_DATA", f"{folder}{os.pathsep}{tmp_path}")
        monkeypatch.setenv("EYESPOT_CACHE", str(folder))
        found = doctor.doctor()
        assert reason in one(found, "cache", "folders").value
        assert one(found, "cache", "folders").status == "problem"
        named = [check for check in found.checks if check.name == "EYESPOT_DATA"]
        assert [check.status for check in named] == ["warning", "ok"]
        assert "cannot be looked into" in named[0].value
        assert one(found, "torch").status == one(found, "temporary").status == "ok"
        assert {"serve", "here"} <= {check.name for check in found.checks}
        assert max(len(check.value) for check in found.checks) < 500


def test_looks_that_fail_before_the_others_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise ValueError("odd")

    for name, group in (("_sources", "network"), ("_requirements", "software")):
        with monkeypatch.context() as patch:
            patch.setattr(doctor, name, fail)
            assert one(doctor.doctor(), "this check", group).value == "ValueError: odd"
    monkeypatch.setattr("eyespot.data.sources.describe_datasets", fail)
    found = doctor.doctor()
    assert one(found, "data sets").value == "ValueError: odd"
    assert one(found, "huggingface.co").status == "ok"


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no folder that somebody works in")
def test_a_deleted_working_folder_is_a_finding_and_ends_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); from eyespot import doctor as d\n"
        "d._SPEED_SECONDS, d._MATRIX, d._NETWORK_SECONDS = 0.0, 64, 0.6\n"
        "print([(c.name, c.status, c.value, c.advice) for c in d.doctor().checks if c.group == 'folders'])"
    )
    environment = {**os.environ, "HTTPS_PROXY": "http://127.0.0.1:9"}
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (here, cache, temporary) = ast.literal_eval(done.stdout)
    assert here == ("here", "problem", "the working folder was deleted", "cd to a folder that exists")
    assert (cache[:2], temporary[:2]) == (("cache", "ok"), ("temporary", "ok"))


def test_no_home_and_an_old_locale_are_no_trouble(tmp_path: Path) -> None:
    keep = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")}
    env = {
        **keep,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii:strict",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-m", "eyespot", "doctor"], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "eyespot can train here" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("columns", [20, 40, 100])
def test_on_a_narrow_terminal_nothing_of_a_finding_is_lost(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eyespot.terminal.is_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    checks = (
        Check("software", "torch", "ok", "2.15.0, 2 threads"),
        Check("network", "raw.githubusercontent.com", "warning", "out of reach", "name a folder with EYESPOT_DATA"),
    )
    print_diagnosis(Diagnosis(checks))
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= columns
    letters = "".join(told.split())
    for text in (text for check in checks for text in (check.name, check.value, check.advice)):
        assert "".join(text.split()) in letters

"""The lock is exclusive between processes and threads, and dies with its holder however that one dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from eyespot import locks
from eyespot.locks import file_lock

HOLDER = """
import os, sys, time
from pathlib import Path
from eyespot.locks import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
"""


def _start_holder(path: Path, then: str) -> subprocess.Popen[str]:
    code = HOLDER + textwrap.indent(textwrap.dedent(then), "    ")
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def _finish(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _is_free(path: Path) -> bool:
    try:
        with file_lock(path, timeout_seconds=0):
            return True
    except TimeoutError:
        return False


def test_lock_file_is_created_with_its_folder_and_left_empty(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x.lock"
    with file_lock(path):
        assert path.exists()
    assert path.read_bytes() == b""
    assert _is_free(path)


def test_another_process_waits_in_vain_and_the_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    process = _start_holder(path, "time.sleep(60)")
    try:
        assert not _is_free(path)
        start = time.monotonic()
        with pytest.raises(TimeoutError, match=r"x\.lock is held"), file_lock(path, timeout_seconds=0.15):
            pass
        assert time.monotonic() - start >= 0.14
    finally:
        _finish(process)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_lock_of_a_killed_holder_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    for _ in range(3):
        process = _start_holder(path, "time.sleep(60)")
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        _finish(process)
        assert _is_free(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is POSIX")
def test_a_living_forked_child_does_not_prolong_its_dead_parents_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    child_file = tmp_path / "child"
    then = f"""
        if os.fork() == 0:
            Path({str(child_file)!r}).write_text(str(os.getpid()))
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
    """
    process = _start_holder(path, then)
    while not child_file.exists() or not child_file.read_text():
        time.sleep(0.01)
    child = int(child_file.read_text())
    try:
        assert not _is_free(path)  # the fork did not drop the parent's lock
        process.kill()
        process.wait()
        os.kill(child, 0)  # still alive
        assert _is_free(path)
    finally:
        os.kill(child, signal.SIGKILL)
        _finish(process)


def _count(path: Path, counter: Path, rounds: int) -> None:
    for _ in range(rounds):
        with file_lock(path, poll_seconds=0.001):
            counter.write_text(str(int(counter.read_text()) + 1))


def test_processes_and_threads_never_hold_it_together(tmp_path: Path) -> None:
    path, counter = tmp_path / "x.lock", tmp_path / "counter"
    counter.write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(path, counter, 40)) for _ in range(2)]
    threads = [threading.Thread(target=_count, args=(path, counter, 40)) for _ in range(4)]
    for worker in (*processes, *threads):
        worker.start()
    for worker in (*processes, *threads):
        worker.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert counter.read_text() == str(40 * 6)


def test_the_same_thread_is_kept_out_too_and_an_error_inside_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with file_lock(path):
        assert not _is_free(path)
    with pytest.raises(RuntimeError, match="inside"), file_lock(path):
        raise RuntimeError("inside")
    assert _is_free(path)


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_a_lock_file_removed_while_waiting_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.lock"
    real_wait, calls = locks._wait, []

    def wait_and_clear(descriptor: int, deadline: float | None, poll_seconds: float) -> bool:
        got = real_wait(descriptor, deadline, poll_seconds)
        if not calls:
            path.unlink()  # somebody clears the cache between opening and locking
        calls.append(descriptor)
        return got

    monkeypatch.setattr(locks, "_wait", wait_and_clear)
    with file_lock(path):
        assert path.exists()
        assert len(calls) == 2
        monkeypatch.undo()
        assert not _is_free(path)


def test_an_impossible_place_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), file_lock(tmp_path / "file" / "x.lock"):
        pass


def test_closing_in_a_child_forgets_what_was_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The handler runs in forked children, which coverage does not see: call it on a descriptor of our own.
    descriptor = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    monkeypatch.setattr(locks, "_held", {descriptor, 999_999})
    locks._close_in_child()
    assert locks._held == set()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)

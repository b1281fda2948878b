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
from eyespot.locks import file_lock, temporary_file, temporary_folder

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


def test_who_waits_is_told_so_once_and_who_does_not_is_told_nothing(tmp_path: Path) -> None:
    path, told = tmp_path / "x.lock", []
    with file_lock(path, on_wait=lambda: told.append("waiting")):
        assert not told
    process = _start_holder(path, "time.sleep(0.5)")
    try:
        with file_lock(path, on_wait=lambda: told.append("waiting"), poll_seconds=0.01):
            assert told == ["waiting"]
    finally:
        _finish(process)


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


LEAVER = """
import os, sys
from pathlib import Path
from eyespot.locks import temporary_file, temporary_folder
place = Path(sys.argv[1])
with temporary_file(place / "a.json") as file, temporary_folder(place, ".x-", ".tmp") as folder:
    (folder / "inside").write_text("x")
    print("held", flush=True)
    sys.stdin.read()
"""


def _leaver(place: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", LEAVER, str(place)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.skipif(os.name != "posix", reason="POSIX locks")
def test_what_a_killed_process_left_goes_and_what_a_living_one_holds_stays(tmp_path: Path) -> None:
    living, dead = _leaver(tmp_path), _leaver(tmp_path)
    assert len(os.listdir(tmp_path)) == 4
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    elsewhere = {".b.json.12-00000000.tmp", ".a.json.tmp", ".x-notes.tmp", "a.json"}
    for name in elsewhere:
        (tmp_path / name).write_text("not ours")
    with temporary_file(tmp_path / "a.json") as file, temporary_folder(tmp_path, ".x-", ".tmp") as folder:
        assert len(set(os.listdir(tmp_path)) - elsewhere - {Path(file.name).name, folder.name}) == 2
    assert len(set(os.listdir(tmp_path)) - elsewhere) == 2
    living.communicate("")  # it ends in peace, and nothing has taken its files away
    assert living.returncode == 0
    assert set(os.listdir(tmp_path)) == elsewhere
    for process in (living, dead):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()


@pytest.mark.skipif(os.name != "posix", reason="POSIX links and pipes")
def test_a_planted_link_or_pipe_of_a_temporary_name_harms_nothing(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    place = tmp_path / "place"
    place.mkdir()
    (place / ".a.json.1-00000000.tmp").symlink_to(precious)
    os.mkfifo(place / ".a.json.1-00000001.tmp")
    with temporary_file(place / "a.json"):
        pass
    assert precious.read_text() == "kept"


def test_a_folder_taken_for_a_leftover_before_it_was_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, True, False, True])
    monkeypatch.setattr(locks, "_hold", lambda descriptor, path: next(answers))
    with temporary_folder(tmp_path, ".x-") as folder, temporary_file(tmp_path / "a") as file:
        assert folder.is_dir()
        assert Path(file.name).is_file()
        assert len(os.listdir(tmp_path)) == 2
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_locks_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> bool:
        raise OSError("no locks here")

    monkeypatch.setattr(locks, "_try_lock", refuse)
    (tmp_path / ".a.1-00000000.tmp").touch()
    with temporary_file(tmp_path / "a") as file:
        os.replace(file.name, tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == [".a.1-00000000.tmp", "a"]  # who knows who holds it

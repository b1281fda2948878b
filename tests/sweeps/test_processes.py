from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from eyespot.sweeps import processes
from eyespot.sweeps.processes import children, end_processes, needed, watched


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits, and that its parent has not asked about when it ends."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def kill_and_wait(process: subprocess.Popen[bytes]) -> None:
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        signal.raise_signal(signal.SIGINT)  # a Ctrl-C that is for somebody else
    process.kill()  # it stays a zombie, as nobody asks for it
    for _ in range(600):
        time.sleep(0.1)


@pytest.mark.parametrize("answer", [signal.default_int_handler, signal.SIG_IGN])
def test_the_end_of_a_watched_process_interrupts_a_job_in_the_background_too(
    answer: Any, child: subprocess.Popen[bytes]
) -> None:
    mine = [one for one in children() if one[0] == child.pid]
    said = []
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, answer)
    try:
        with pytest.raises(KeyboardInterrupt), watched(mine, lambda: said.append("died"), every=0.05):
            kill_and_wait(child)
        assert signal.getsignal(signal.SIGINT) is answer
    finally:
        signal.signal(signal.SIGINT, before)
    assert said == ["died"]


def test_nothing_happens_while_they_run_and_afterwards(child: subprocess.Popen[bytes]) -> None:
    mine = [one for one in children() if one[0] == child.pid]
    with watched(mine, lambda: pytest.fail("it runs"), every=0.01):
        time.sleep(0.2)
    child.kill()
    time.sleep(0.1)


def test_only_a_process_that_was_born_then_is_killed(child: subprocess.Popen[bytes]) -> None:
    (mine,) = [one for one in children() if one[0] == child.pid]
    assert mine not in children([mine])
    end_processes([(mine[0], mine[1] - 60.0)])
    assert child.poll() is None
    end_processes([mine])
    assert mine not in children()


def test_what_is_needed_is_told_by_its_name(child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    mine = [one for one in children() if one[0] == child.pid]
    assert needed(mine) == []
    monkeypatch.setattr(processes, "_NEEDED", (psutil.Process(child.pid).name().removesuffix(".exe"),))
    assert needed(mine) == mine != []
    child.kill()
    child.wait()
    assert needed(mine) == []

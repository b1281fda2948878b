"""The processes of an engine: which there are, what happens when one dies, and that none is left behind.

Before this: `engine` started Ray. After this: a sweep whose engine died ends instead of waiting for ever.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any

_END_SECONDS = 5.0  # for killed processes to be gone
_LOOK_SECONDS = 5.0
_NEEDED = ("gcs_server", "raylet")  # Ray's own; one that lacks an agent ends itself

Born = tuple[int, float]
"""A process: its number, and the moment of its birth, since the number is given to another one in time."""


def children(others: Sequence[Born] = ()) -> list[Born]:
    """Return the processes below this one but for some others."""
    psutil = _psutil()
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found.append((process.pid, process.create_time()))
    return [process for process in found if process not in others]


def end_processes(processes: Iterable[Born]) -> None:
    """Kill those of some processes that still run, and wait a little until they are gone."""
    psutil = _psutil()
    killed = []
    for one in processes:
        with contextlib.suppress(psutil.Error):
            if (process := _found(one)) is not None:
                process.kill()
                killed.append(process)
    psutil.wait_procs(killed, timeout=_END_SECONDS)


def needed(processes: Iterable[Born]) -> list[Born]:
    """Return those without which Ray does nothing, and says nothing of it."""
    psutil = _psutil()
    found = []
    for one in processes:
        with contextlib.suppress(psutil.Error):
            process = _found(one)
            if process is not None and process.name().removesuffix(".exe") in _NEEDED:
                found.append(one)
    return found


@contextlib.contextmanager
def watched(processes: Sequence[Born], died: Callable[[], None], *, every: float = _LOOK_SECONDS) -> Iterator[None]:
    """Interrupt this thread, as Ctrl-C does, when one of some processes has ended; only the main one can be.

    Also a job in the background of a script, which ignores Ctrl-C.

    Args:
        processes: To look at.
        died: Called before the interruption, in another thread.
        every: Seconds between two looks.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over, ended = threading.Event(), threading.Event()

    def look() -> None:
        while not over.wait(every):
            if not all(map(_runs, processes)):
                died()
                ended.set()
                signal.raise_signal(signal.SIGINT)
                return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if ended.is_set():
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)
    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if before is signal.SIG_IGN:
            signal.signal(signal.SIGINT, before)


def _runs(one: Born) -> bool:
    psutil = _psutil()
    try:
        process = _found(one)
        return process is not None and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True  # nobody may say


def _found(one: Born) -> Any:
    """Return the process that was meant, None where its number is another's by now.

    Raises:
        psutil.Error: There is no process of this number, or nobody may look at it.
    """
    process = _psutil().Process(one[0])
    return process if process.create_time() == one[1] else None


def _psutil() -> Any:
    return importlib.import_module("psutil")  # has no types

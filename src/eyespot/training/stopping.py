"""Signals that ask for an orderly stop: collected while work is under way, acted on between two of its steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from eyespot.errors import Interrupted

# Ctrl-C, a cluster's warning, a terminal that was closed, and a batch system's warning.
_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collect the signals that ask for an orderly stop; a second Ctrl-C stops at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # signals can only be caught in the main thread
        return

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    # Windows has two of them. What is ignored stays so: under `nohup`, or in the background of a script. So does what
    # another language set (None), since it could not be put back.
    numbers = [getattr(signal, name) for name in _STOP_SIGNALS if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_signals() -> Iterator[Callable[[], None]]:
    """Collect the signals that ask for an orderly stop, for work outside of the loop.

    Yields:
        A function that raises Interrupted once such a signal has come.
    """
    with collect_signals() as received:

        def check() -> None:
            if received:
                raise Interrupted(received[0])

        yield check
        check()  # one that came after the work had looked the last time

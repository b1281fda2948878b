"""A training that does not outlive the process that started it: `main`, with the words of the command line.

Before this: `runner` starts one of these for each point and keeps the other end of its standard input. After this: the
command line, as if it had been called by hand. Without it, a runner that is killed with SIGKILL would leave a training
behind that goes on unseen and holds the lock of its run folder.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading


def _end_with_parent() -> None:
    """Ask for an orderly stop when standard input ends, which it does with the process at its other end."""
    # Not sys.stdin.read: at the end of this process Python would wait for its lock, and abort.
    while os.read(0, 1):
        pass
    if os.name == "nt":  # there os.kill ends the process at once
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run the command line with the words of this one."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runpy.run_module("eyespot", run_name="__main__", alter_sys=True)

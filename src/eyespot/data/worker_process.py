"""Plain Python processes that work for this one: the one place where they are started.

A worker reads requests from its input and ends when the input does, so also when the process that asked is killed. It
is neither forked, since it would inherit whatever locks torch's threads hold, nor does it import the user's script.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import IO

# Without the folder that -c puts first, whose files could stand for the standard library's. The process that asks
# decides when to stop: it may want a last batch for a checkpoint after a cluster has sent SIGTERM to the whole job.
_BOOTSTRAP = (
    "import sys; sys.path[:] = [place for place in sys.path if place]; import json, signal; "
    "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "sys.path[:] = json.loads(sys.stdin.buffer.readline()); "
    "from eyespot.data.{module} import serve; serve(sys.stdin.buffer, sys.stdout.buffer)"
)


def start_worker(module: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a process that runs `serve(requests, answers)` of a module of this room.

    Args:
        module: Name of the module; a literal of the caller, never from outside.
        log: Takes what libraries print: libtiff and libjpeg say there what they think of a damaged picture.

    Returns:
        The process with binary pipes. The first line on its input must be `search_path()`.

    Raises:
        OSError: The system has no room for another process.
    """
    return subprocess.Popen(
        [sys.executable, "-X", f"utf8={sys.flags.utf8_mode}", "-c", _BOOTSTRAP.format(module=module)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        # One picture is decoded by one thread; OpenBLAS would start one a core just by being imported.
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        start_new_session=os.name == "posix",  # Ctrl-C is for the asking process alone
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def search_path() -> bytes:
    """Return the line that tells a worker where Python finds its modules.

    Whatever the asking process has changed there (an editable install, a test's path) holds for the worker too.
    """
    return json.dumps(sys.path).encode() + b"\n"

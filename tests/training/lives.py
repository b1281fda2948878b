"""Train one run in many short lives: a process that imports everything once, then forks a child for each life.

    python lives.py RUN RECIPE SEED LIVES    each life but the last is ended by SIGKILL at a random moment

Importing torch takes seconds, a life a fraction of one. The parent starts no thread, so that forking it is safe.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time


def live(run: str, recipe: str) -> None:
    """Train, or go on, until the end."""
    from eyespot import train

    if os.path.exists(os.path.join(run, "provenance.json")):
        train(out=run, resume=True, device="cpu")
    else:
        train("digits", recipe=recipe, out=run, device="cpu")


def _wait(run: str, child: int, dice: random.Random) -> None:
    """Wait for the moment of death: at first one life in four dies before or at its start, the others later on.

    On a busy machine a life may not come to its first step within any fixed time, so the others are given until they
    have written a checkpoint, and some random time more.
    """
    if dice.random() < 0.25:
        time.sleep(dice.uniform(0.0, 1.0))
        return
    known = _checkpoints(run)
    deadline = time.monotonic() + 60
    while _checkpoints(run) == known and time.monotonic() < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.001)
    time.sleep(dice.uniform(0.0, 0.3))


def _checkpoints(run: str) -> set[str]:
    folder = os.path.join(run, "checkpoints")
    return {name for name in os.listdir(folder) if name.endswith(".ckpt")} if os.path.isdir(folder) else set()


def main() -> None:
    """Fork the lives, kill all but the last, and print how many were killed while they trained."""
    run, recipe, seed, lives = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    import torch

    import eyespot.analysis.report
    import eyespot.data.packing
    import eyespot.data.sources
    import eyespot.evaluation.evaluate
    import eyespot.starting
    import eyespot.training.fit
    import eyespot.training.prepare  # noqa: F401

    torch.set_num_threads(1)
    dice = random.Random(seed)
    killed = 0
    while killed < lives:
        child = os.fork()
        if child == 0:
            live(run, recipe)
            os._exit(0)
        _wait(run, child, dice)
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, f"a life ended with status {status}"
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1
    child = os.fork()
    if child == 0:
        live(run, recipe)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(killed)
    sys.exit(status != 0)


if __name__ == "__main__":
    main()

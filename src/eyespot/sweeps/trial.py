"""One trial, in the process that Ray gives it: a training like any other, whose val figures are told epoch by epoch.

Before this: `engine` hands out a task. After this: the run folder, and the figures on their way to the scheduler. The
training runs in Ray's own process, not in a child of it: whatever kills the driver, Ray ends its processes, and nothing
is left that would go on writing.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyespot.config import toml_value
from eyespot.errors import DivergedError, EyespotError, ModelError, RunError, TrainingError, UsageError
from eyespot.locks import file_lock
from eyespot.runs import Run, RunWriter
from eyespot.starting import train

if TYPE_CHECKING:
    from eyespot.training.fit import TrainState

Report = Callable[[dict[str, Any]], object]
# What settings can cause fails the trial; anything else (data, disk, a missing package) would fail every other one too.
_OF_THE_SETTINGS = (TrainingError, ModelError, UsageError)
_LOCK_SECONDS = 60.0


def run_trial(task: Mapping[str, Any], report: Report) -> None:
    """Train one trial, from its last checkpoint where it has one, and report every epoch and the end.

    Args:
        task: `folder`, `recipe`, `data`, `settings`, `device`, `metric`, `threads`.
        report: Takes rows with `epoch`, `top1`, `loss`, `value`, `seconds`; the last one has `final`, or `failed` with
            the reason and `ends` where other trials would fail in the same way. It raises SystemExit where the trial
            is to stop.
    """
    import torch

    torch.set_num_threads(task["threads"])
    try:
        run = _train(task, _Reporter(Path(task["folder"]), str(task["metric"]), report))
        val = run.metrics.get("val")
        if val is None:
            raise UsageError("no figures on val", where=run.path, remedy="a sweep chooses on val")
    except EyespotError as error:
        ends = not isinstance(error, _OF_THE_SETTINGS)
        report({"failed": _reason(error), "ends": ends, "what": [error.what, error.where, error.remedy]})
        return
    except Exception as error:
        report({"failed": f"{type(error).__name__}: {error}", "ends": False})
        return
    row = {"epoch": max(len(run.history), 1), "top1": val["top1"], "loss": val["nll_loss"], "n": val["n"]}
    low, high = val["top1_ci95"]
    seconds = run.metrics["train_seconds"]
    report({**_valued(row, str(task["metric"])), "low": low, "high": high, "seconds": seconds, "final": True})


def _train(task: Mapping[str, Any], watcher: _Reporter) -> Run:
    folder, recipe = Path(task["folder"]), Path(task["recipe"])
    if not recipe.exists():
        raise RunError(
            f"machine {platform.node()} does not see the sweep's folder",
            where=recipe.parent,
            remedy="name a folder with --out that all machines of the cluster share",
        )
    settings = {**task["settings"], "evaluation.test": False}
    # The run's provenance says how to repeat it: as a command of its own, not as a worker of Ray.
    words = [f"{key}={toml_value(value)}" for key, value in settings.items()]
    arguments = [part for word in words for part in ("--set", word)]
    sys.argv = ["eyespot", "train", task["data"], "--recipe", str(recipe), *arguments, "--out", str(folder)]
    if folder.exists():
        with suppress(TimeoutError), file_lock(folder / ".lock", timeout_seconds=_LOCK_SECONDS):
            pass  # a trial whose driver was killed may still be ending
        if "data" in Run(folder).provenance:
            return train(out=folder, device=task["device"], resume=True, observer=watcher)
    return train(task["data"], recipe=recipe, settings=settings, out=folder, device=task["device"], observer=watcher)


def _reason(error: EyespotError) -> str:
    if isinstance(error, DivergedError):
        return f"{error.what} at {error.where}"
    return error.what


def _valued(row: dict[str, Any], metric: str) -> dict[str, Any]:
    return {**row, "value": row["top1" if metric == "val/top1" else "loss"]}


class _Reporter:
    """Watches a training, writes its log, and reports each finished epoch when the next one has begun.

    Not before: then the epoch's checkpoint is written, and a trial that is stopped can be gone on with from there. The
    last epoch is never reported, because its figures come with the end.
    """

    def __init__(self, folder: Path, metric: str, report: Report) -> None:
        self._folder, self._metric, self._report = folder, metric, report
        self._reported = 0
        self._pending = True  # a resumed run has epochs that this process has not seen
        self._writer: RunWriter | None = None

    def on_message(self, text: str) -> None:
        """Log a sentence."""
        if self._writer is not None:
            self._writer.log(text)

    def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
        """Nobody watches."""

    def attach(self, writer: RunWriter) -> None:
        """Log to this run from now on."""
        self._writer = writer

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Note that there is something to report."""
        self._pending = True

    def on_step(self, state: TrainState, *, loss: float | None, top1: float | None) -> None:
        """Report what was finished before this step."""
        if not self._pending:
            return
        self._pending = False
        rows, self._reported = state.history[self._reported :], len(state.history)
        for row in rows:
            told = {"epoch": row["epoch"], "top1": row["val/top1"], "loss": row["val/loss"], "seconds": row["seconds"]}
            self._report(_valued(told, self._metric))

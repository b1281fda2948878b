"""What people see while eyespot works: a live bar on a terminal, plain lines elsewhere; all of it on stderr.

Results that a program may want go to stdout; progress and notes do not mix with them.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from eyespot.runs import RunWriter

if TYPE_CHECKING:
    from eyespot.training.fit import TrainState

_ESTIMATE_AFTER_SECONDS = 4.0
_PLAIN_EVERY_SECONDS = 30.0


class Terminal:
    """Shows messages and progress, and keeps the words for the run's log.

    Args:
        quiet: Show nothing; the log is written all the same.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._writer: RunWriter | None = None
        self._early: list[str] = []
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._started = 0.0
        self._first_step = 0
        self._estimated = False
        self._last_plain = 0.0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close_bar()

    # ---- words ----

    def on_message(self, text: str) -> None:
        """Show a sentence and log it."""
        self.console.print(text, markup=False)
        if self._writer is None:
            self._early.append(text)
        else:
            self._writer.log(text)

    def attach(self, writer: RunWriter) -> None:
        """Log to this run from now on, beginning with what was shown before the run folder was there."""
        self._writer = writer
        for text in self._early:
            writer.log(text)
        self._early.clear()

    # ---- work that counts pictures ----

    def on_count(self, label: str, done: int, total: int) -> None:
        """Show how far a count has come; the bar ends by itself when it is full."""
        if self.console.is_terminal:
            if self._progress is None:
                self._open_bar(label, total)
            self._update(done, "")
            if done >= total:
                self.close_bar()
        elif time.monotonic() - self._last_plain > _PLAIN_EVERY_SECONDS:
            self._last_plain = time.monotonic()
            self.console.print(f"{label}: {done:,} of {total:,}", markup=False)

    # ---- training ----

    def on_step(self, state: TrainState, *, loss: float | None, top1: float | None) -> None:
        """Move the bar of the epoch, and say within the first seconds how long the whole run will take."""
        now = time.monotonic()
        if not self._started:
            self._started, self._first_step = now, state.step
        if not self._estimated and now - self._started > _ESTIMATE_AFTER_SECONDS:
            self._estimate(state, now)
        if not self.console.is_terminal:
            return
        if self._progress is None:
            self._open_bar(f"epoch {state.epoch + 1}/{state.planned_epochs}", state.steps_per_epoch)
        words = "" if loss is None or top1 is None else f"loss {loss:.3f}  top-1 {top1:.1%}"
        rate = state.seen / state.epoch_seconds if state.epoch_seconds else 0.0
        left = self._seconds_left(state, now)
        self._update(state.step_in_epoch, f"{words}  {rate:,.0f} pictures/s  {clock(left)} left")

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Show and log the row of a finished epoch."""
        self.close_bar()
        parts = [f"epoch {row['epoch']:>3}", f"train loss {row['train/loss']:.3f} top-1 {row['train/top1']:.1%}"]
        if "val/loss" in row:
            parts.append(f"val loss {row['val/loss']:.3f} top-1 {row['val/top1']:.1%}")
        parts += [f"lr {row['lr']:.3g}", f"{row['images_per_second']:,.0f} pictures/s", clock(row["seconds"])]
        self.on_message("  ".join(parts))

    def _estimate(self, state: TrainState, now: float) -> None:
        self._estimated = True
        if state.step == self._first_step:
            return
        left = self._seconds_left(state, now)
        self.on_message(f"estimate: about {clock(left)} for {state.planned_epochs - state.epoch} epochs")

    def _seconds_left(self, state: TrainState, now: float) -> float:
        """Return the time for the steps that are left, at the pace of the steps that this process took."""
        taken = max(state.step - self._first_step, 1)
        return (now - self._started) / taken * (state.total_steps - state.step)

    # ---- the bar ----

    def _open_bar(self, label: str, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            *([] if label.startswith("epoch") else [TimeRemainingColumn()]),
            console=self.console,
            transient=True,
            expand=True,
        )
        self._progress.start()
        self._task = self._progress.add_task(label, total=total, words="")

    def _update(self, done: int, words: str) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, words=words)

    def close_bar(self) -> None:
        """Take the bar off the screen."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None


def clock(seconds: float) -> str:
    """Return `42 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    import json

    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")

"""What people see of a sweep: a live table on a terminal, a line for each trial elsewhere; all of it on stderr."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from eyespot.analysis import words
from eyespot.errors import printable
from eyespot.sweeps.journal import Journal, Trial
from eyespot.terminal import Terminal, add_row, plain_table

_SHOWN = 14  # rows of a live table: more would not fit on a usual screen
_STYLES = {"finished": "green", "stopped": "dim", "failed": "red", "running": "bold", "waiting": "yellow"}


class SweepTerminal(Terminal):
    """A terminal that shows trials as well.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self.folder_name = ""
        self._journal: Journal | None = None
        self._table: Live | None = None
        self._started = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def on_sweep(self, journal: Journal) -> None:
        """Say what is to be done, and begin the table."""
        plan = journal.plan
        self._journal, self._started = journal, time.monotonic()
        self.folder_name = str(journal.folder)
        over = sum(trial.is_over for trial in journal.trials.values())
        limit = f", at most {plan.minutes:g} min" if plan.minutes else ""
        done = f"; {over} of them are done" if over else ""
        trials, epochs = words.plural(plan.trials, "trial"), words.plural(plan.epochs, "epoch")
        self.on_message(f"sweep of {plan.recipe} on {plan.data}: {trials} of up to {epochs}{limit}{done}")
        for factor in plan.space.factors:
            self.on_message(f"  {factor.key}: {factor.describe()}")
        if self._live:
            self._table = Live(get_renderable=self._render, console=self.console, refresh_per_second=2, transient=True)
            self._table.start()

    def on_trial(self, trial: Trial) -> None:
        """Show a trial that began, moved on or ended."""
        if self._table is not None:
            return  # the table draws itself from the journal
        if trial.state == "running":
            if trial.epochs == 0:
                self.say(f"trial {trial.number:>3}  {_settings(trial)}")
            return
        n = self._journal.val_n if self._journal is not None else None
        self.say(f"trial {trial.number:>3}  {trial.state}  {describe(trial, n)}")

    def on_message(self, text: str) -> None:
        """Show a sentence; what comes after the trials takes their table away."""
        if text.startswith("trial ") or text.endswith("goes on"):
            self._end_table()
        super().on_message(text)

    def close(self) -> None:
        """Take bar and table off the screen; the table stays as text."""
        self._end_table()
        self.close_bar()

    def _end_table(self) -> None:
        if self._table is not None:
            self._table.stop()
            self._table = None
            self.console.print(self._render(all_rows=True))

    def _render(self, all_rows: bool = False) -> Group:
        """Return the table of trials and the line below it."""
        assert self._journal is not None
        journal, plan = self._journal, self._journal.plan
        trials = journal.ordered()
        winner = journal.winner()
        hidden = 0 if all_rows else max(0, len(trials) - _SHOWN)
        return Group(trials_table(journal, trials[hidden:]), Text(self._line(trials, winner, plan.trials, hidden)))

    def _line(self, trials: list[Trial], winner: Trial | None, planned: int, hidden: int) -> str:
        over = sum(trial.is_over for trial in trials)
        seconds = time.monotonic() - self._started
        parts = [f"{over} of {planned} trials", words.duration(seconds)]
        if hidden:
            parts.append(f"{hidden} earlier ones not shown")
        if winner is not None:
            parts.append(f"best so far: {winner.number}")
        return "  ".join(parts)


def trials_table(journal: Journal, trials: list[Trial]) -> Table:
    """Return trials as a table for the terminal."""
    keys, best = journal.plan.space.keys, journal.winner()
    short = [key.rpartition(".")[2] for key in keys]
    names = [key if short.count(name) > 1 else name for key, name in zip(keys, short, strict=True)]
    table = plain_table(
        "trial>", "state", *(f"{name}>" for name in names), "epochs>", "val top-1", "calibrated loss>", "time>"
    )
    for trial in trials:
        is_best = best is not None and trial.number == best.number
        style = "bold green" if is_best else _STYLES[trial.state]
        add_row(
            table,
            str(trial.number),
            "best so far" if is_best else trial.state,
            *(words.spell(trial.settings.get(key, "")) for key in keys),
            str(trial.epochs),
            trial.reason if trial.state == "failed" else _accuracy(trial, journal.val_n),
            words.decimal(trial.loss if trial.state == "finished" else None),
            words.duration(trial.seconds),
            style=style,
        )
    return table


def _accuracy(trial: Trial, n: int | None) -> str:
    """Return accuracy and interval of a trial on n val pictures, as far as they are known."""
    return words.percent(trial.top1) if trial.top1 is None or not n else words.share(round(trial.top1 * n), n)


def describe(trial: Trial, n: int | None) -> str:
    """Return in words what came of a trial on n val pictures; None where their number is not known."""
    if trial.state == "failed":
        return printable(trial.reason)
    if trial.top1 is None:
        return "before its first epoch was over"
    ended = trial.state == "finished"
    where = f"val{f', n = {words.whole(n)}' if n else ''}{'' if ended else f', after epoch {trial.epochs}'}"
    loss = f"loss {words.decimal(trial.loss)}{'' if ended else ' before calibration'}"
    return f"{_accuracy(trial, n)} ({where}), {loss}, {words.duration(trial.seconds)}"


def _settings(trial: Trial) -> str:
    return "  ".join(f"{key} = {words.spell(value)}" for key, value in trial.settings.items())

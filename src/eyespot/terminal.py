"""What people see while eyespot works: a live bar on a terminal, plain lines elsewhere; all of it on stderr.

Results that a program may want go to stdout; progress and notes do not mix with them.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from eyespot.analysis import words
from eyespot.errors import printable
from eyespot.runs import RunWriter

if TYPE_CHECKING:
    from pathlib import Path

    from eyespot.training.fit import TrainState

# The first steps are slower than the others: an estimate needs some steps and some seconds.
_ESTIMATE_AFTER_SECONDS = 3.0
_PLAIN_AFTER_SECONDS = 5.0
_PLAIN_EVERY_SECONDS = 30.0
_TRAINING = "training"


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether somebody watches a stream; rich says so of a file, too, where FORCE_COLOR asks for colours."""
    return stream is not None and stream.isatty()


class OutputConsole(Console):
    """A console of rich whose reader may go (`| head`): an error like any other, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Say that nobody reads.

        Raises:
            BrokenPipeError: Always.
        """
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class Terminal:
    """Shows messages and progress, and keeps the words for the run's log.

    Args:
        quiet: Show nothing; the log is written all the same.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = OutputConsole(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        # A dumb terminal cannot go back in a line: plain lines tell it more than no bar.
        self._live = is_terminal(sys.stderr) and not self.console.is_dumb_terminal and not quiet
        self._writer: RunWriter | None = None
        self._early: list[str] = []
        self._bar: _Bar | None = None
        self._pace: _Pace | None = None

    @property
    def run_folder(self) -> Path | None:
        """Return the folder of the run that is being watched; None before there is one."""
        return self._writer.path if self._writer is not None else None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_bar()

    @contextmanager
    def says_how_to_go_on(self, how: Callable[[], str]) -> Iterator[None]:
        """Tell, when a command is stopped on purpose, what goes on with it.

        Args:
            how: Asked then; what it says is empty where nothing was begun.
        """
        try:
            yield
        except KeyboardInterrupt:
            self.close_bar()
            if told := how():
                self.say(f"stopped; {told}")
            raise

    # ---- words ----

    def say(self, text: str) -> None:
        """Show a sentence."""
        with _unless_nobody_reads():
            self.console.print(printable(text), markup=False, emoji=False)

    def on_message(self, text: str) -> None:
        """Show a sentence and log it."""
        if self._bar is not None and self._bar.label != _TRAINING:
            self.close_bar()  # what was counted is over, full or not
        self.say(text)
        if self._writer is None:
            self._early.append(text)
        else:
            self._writer.log(printable(text))

    def attach(self, writer: RunWriter) -> None:
        """Log to this run from now on, beginning with what was shown before the run folder was there."""
        self._writer, self._pace = writer, None
        for text in self._early:
            writer.log(printable(text))
        self._early.clear()

    # ---- work that counts pictures, bytes or steps ----

    def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
        """Show how far a count has come; the bar ends when it is full, or when something else begins."""
        bar = self._open_bar(label, total)
        bar.update(done, _describe_count(done, total, unit, bar.seconds, before=bar.counts_from(done)))
        if total is not None and done >= total:
            self.close_bar()

    # ---- training ----

    def on_step(self, state: TrainState, *, loss: float | None, top1: float | None) -> None:
        """Move the bar of the training, and say within the first seconds how long the whole of it will take."""
        if self._pace is None:
            sizes = self._writer.config.training.size_schedule if self._writer is not None else []
            self._pace = _Pace(state, sizes)
        left = self._pace.seconds_left(state)
        limit = self._writer.config.training.minutes if self._writer is not None else 0
        if left and not self._pace.told:
            self._pace.told = True
            epochs = words.plural(state.planned_epochs - state.epoch, "epoch")
            cut = f"; the time limit cuts it to {limit:g} min" if 0 < limit * 60 < left else ""
            self.on_message(f"estimate: about {words.duration(left)} for {epochs}{cut}")
        if left is not None and limit:
            left = min(left, max(0.0, limit * 60 - state.seconds))
        parts = []
        if loss is not None and top1 is not None:
            parts.append(f"loss {loss:.3f}  top-1 {words.percent(top1)}")
        if state.epoch_seconds:
            parts.append(words.rate(state.seen / state.epoch_seconds))
        if left is not None:
            parts.append(f"{words.duration(left)} left")
        bar = self._open_bar(_TRAINING, state.total_steps)
        bar.update(state.step, parts, title=f"epoch {state.epoch + 1}/{state.planned_epochs}")
        if state.step >= state.total_steps:
            self.close_bar()

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Show and log the row of a finished epoch."""
        parts = [f"epoch {row['epoch']:>3}", f"train loss {row['train/loss']:.3f} {_accuracy(row['train/top1'])}"]
        if "val/loss" in row:
            parts.append(f"val loss {row['val/loss']:.3f} {_accuracy(row['val/top1'])}")
        parts += [f"lr {row['lr']:.3g}", words.rate(row["images_per_second"])]
        parts.append(f"{words.duration(row['seconds'])} so far")
        self.on_message("  ".join(parts))

    # ---- the bar ----

    def _open_bar(self, label: str, total: int | None) -> _Bar:
        if self._bar is None or self._bar.label != label:
            self.close_bar()
            self._bar = _Bar(self, label, total, live=self._live)
        return self._bar

    def close_bar(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Bar:
    """One count on its way: a live bar on a terminal, now and then a line elsewhere."""

    def __init__(self, terminal: Terminal, label: str, total: int | None, *, live: bool) -> None:
        self.label = label
        self._terminal = terminal
        self._started = time.monotonic()
        self._next_line = self._started + _PLAIN_AFTER_SECONDS
        self._first: int | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if live:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[words]}", markup=False),
                console=terminal.console,
                transient=True,
                expand=True,
            )
            self._task = self._progress.add_task(printable(label), total=total, words="")
            with _unless_nobody_reads():
                self._progress.start()

    @property
    def seconds(self) -> float:
        """Return the time since the count began."""
        return time.monotonic() - self._started

    def counts_from(self, done: int) -> int:
        """Return the first count that was told: what was there before, as in a cache, says nothing about the pace."""
        if self._first is None:
            self._first = done
        return self._first

    def update(self, done: int, parts: Sequence[str], *, title: str | None = None) -> None:
        """Show how far it is, under its label or another title.

        Args:
            done: Of the total.
            parts: What to tell of it; a narrow terminal shows the last ones, which end in the time left.
            title: In place of the label.
        """
        title = printable(self.label if title is None else title)
        if self._progress is not None and self._task is not None:
            room = self._terminal.console.width - cell_len(title) - 2
            while len(parts) > 1 and cell_len("  ".join(parts)) > room:
                parts = parts[1:]
            self._progress.update(self._task, completed=done, words="  ".join(parts), description=title)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _PLAIN_EVERY_SECONDS
            self._terminal.say(f"{title}: {'  '.join(parts)}")

    def close(self) -> None:
        """Take it off the screen."""
        if self._progress is not None:
            with _unless_nobody_reads():
                self._progress.stop()


@contextmanager
def _unless_nobody_reads() -> Iterator[None]:
    """Let a terminal that was closed take no words: its signal is on the way, and a training writes a checkpoint."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


class _Pace:
    """How fast this process trains: what the time left is computed from.

    A step on smaller pictures is cheaper, about as the area: with progressive sizes the first steps say too little.

    Args:
        state: After the first step of this process, which is not counted: it warms up.
        sizes: Progressive sizes, (from this share of the steps, side in pixels).

    Attributes:
        told: Whether the estimate was said.
    """

    def __init__(self, state: TrainState, sizes: Sequence[tuple[float, int]]) -> None:
        self._sizes = sizes
        self._before = self._work(state.step, state.total_steps)
        self._started = time.monotonic()
        self.told = False

    def seconds_left(self, state: TrainState) -> float | None:
        """Return the time for the steps that are left, at the pace of the steps so far; None while it is too early."""
        seconds = time.monotonic() - self._started
        done = self._work(state.step, state.total_steps)
        if done <= self._before or (seconds < _ESTIMATE_AFTER_SECONDS and not self.told):
            return None
        left = self._work(state.total_steps, state.total_steps) - done
        return seconds / (done - self._before) * left

    def _work(self, steps: int, total: int) -> float:
        """Return the cost of the first steps, in steps on the largest pictures."""
        if not self._sizes:
            return float(steps)
        largest = max(size for _, size in self._sizes)
        starts = [share * total for share, _ in self._sizes] + [float(total)]
        work = min(steps, starts[0])
        for (_, size), start, end in zip(self._sizes, starts, starts[1:], strict=False):
            work += max(0.0, min(steps, end) - start) * (size / largest) ** 2
        return work


def _accuracy(top1: float) -> str:
    return f"top-1 {words.percent(top1):>6}"


def _describe_count(done: int, total: int | None, unit: str, seconds: float, *, before: int = 0) -> list[str]:
    """Return `1,200 of 60,000 pictures`, `5,310 pictures/s`, `11.1 s left`; the first `before` of them took no time."""
    count = words.size if unit == "bytes" else words.whole
    per_second = (done - before) / seconds if seconds > 0 else 0.0
    text = count(done) if total is None else f"{count(done)} of {count(total)}"
    parts = [text if unit == "bytes" else f"{text} {unit}"]
    if done > before and seconds > 1:
        pace = words.size(per_second) if unit == "bytes" else f"{per_second:.1f} {unit}"
        if per_second >= 0.1 or unit == "bytes":  # 0.0 folds/s tells nobody anything
            parts.append(words.rate(per_second) if unit == "pictures" else f"{pace}/s")
        if total is not None:
            parts.append(f"{words.duration((total - done) / per_second)} left")
    return parts


def print_json(value: Any) -> None:
    """Print one JSON document on stdout, in ASCII where stdout cannot carry it otherwise."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # an old locale, or a file name with broken bytes
        text = json.dumps(value, indent=1)
    print(text)


def flush_output() -> None:
    """Hand over what was printed, so that a reader sees it now and a full disk or closed pipe shows here."""
    if sys.stdout is not None:
        sys.stdout.flush()


# A text column narrower than this is a tower of syllables.
_TEXT_WIDTH = 24


def plain_table(*columns: str) -> Table:
    """Return a plain table; a column name that ends in `>` is set flush right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    return table


def add_row(table: Table, *cells: str, style: str | None = None) -> None:
    """Add a row of plain text: square brackets in names are no markup."""
    table.add_row(*(Text(printable(cell)) for cell in cells), style=style)


def print_table(table: Table) -> None:
    """Print a table on stdout; in a pipe no line is folded, so that `grep` finds whole rows.

    On a terminal that is too narrow for its figures each row becomes a record: a number that is broken in two lines is
    read as another one.
    """
    console = OutputConsole(highlight=False)
    if not is_terminal(sys.stdout):
        console = OutputConsole(highlight=False, width=10_000)
    elif _least_width(table) > console.width:
        for record in _records(table, console.width):
            console.print(record)
        return
    console.print(table, soft_wrap=False)


def _cells(table: Table) -> list[list[Text]]:
    """Return the cells by columns, without their headings."""
    return [[cell for cell in column.cells if isinstance(cell, Text)] for column in table.columns]


def _least_width(table: Table) -> int:
    """Return how many characters a table needs for its figures in one piece and a start of its texts."""
    widths = []
    for column, cells in zip(table.columns, _cells(table), strict=True):
        widest = max((cell.cell_len for cell in cells), default=0)
        heading = cell_len(str(column.header))
        widths.append(max(heading, widest if column.justify == "right" else min(widest, _TEXT_WIDTH)))
    return sum(widths) + 2 * (len(widths) - 1)


def _records(table: Table, width: int) -> Iterator[Text]:
    """Yield each row as its first cell and under it the others with their names; empty ones are left out."""
    first, *others = _cells(table)
    names = [str(column.header) for column in table.columns[1:]]
    for number, title in enumerate(first):
        lines = [""]
        for name, cells in zip(names, others, strict=True):
            if not cells[number].plain:
                continue
            pair = f"  {name} {cells[number].plain}"
            if lines[-1] and cell_len(lines[-1] + pair) > width:
                lines.append("")
            lines[-1] += pair
        yield Text.assemble((title.plain, "bold"), "\n", "\n".join(lines), overflow="fold")

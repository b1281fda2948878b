from __future__ import annotations

import errno
import io
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from eyespot import terminal as module
from eyespot.config import load_config
from eyespot.errors import printable
from eyespot.runs import RunWriter
from eyespot.terminal import Terminal, add_row, plain_table, print_json, print_table
from eyespot.training.fit import TrainState


class Clock:
    """A clock that only moves when it is told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the captured stream pass for a terminal of 100 columns."""
    monkeypatch.setattr(module, "is_terminal", lambda stream: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")


def state_at(step: int, *, epochs: int = 10, steps: int = 100, seconds: float = 2.0) -> TrainState:
    done, within = divmod(step, steps)
    return TrainState(epochs, steps, epoch=done, step_in_epoch=within, step=step, seen=500, epoch_seconds=seconds)


Read = Callable[[], str]


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Read:
    def read() -> str:
        captured = capsys.readouterr()
        assert captured.out == "", "progress does not belong on stdout"
        return captured.err

    return read


def test_messages_are_shown_and_logged_even_those_before_the_run_folder(tmp_path: Path, stderr: Read) -> None:
    terminal = Terminal()
    terminal.on_message("first")
    with RunWriter(tmp_path / "run", load_config("small")) as writer:
        terminal.attach(writer)
        terminal.on_message("second [bold] \x1b[2J")
    assert terminal.run_folder == tmp_path / "run"
    assert stderr() == "first\nsecond [bold] \\x1b[2J\n"
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["first", "second [bold] \\x1b[2J"]


def test_quiet_shows_nothing_and_logs_all_the_same(tmp_path: Path, stderr: Read, live: None) -> None:
    with RunWriter(tmp_path / "run", load_config("small")) as writer, Terminal(quiet=True) as terminal:
        terminal.attach(writer)
        terminal.on_message("said")
        terminal.on_count("packing pictures", 1, 2)
        terminal.on_step(state_at(1), loss=1.0, top1=0.5)
    assert stderr() == ""
    assert "said" in (tmp_path / "run" / "log.txt").read_text()


def test_without_a_terminal_a_quick_count_says_nothing_and_a_long_one_now_and_then(clock: Clock, stderr: Read) -> None:
    with Terminal() as terminal:
        for done in range(1, 101):
            clock.now += 0.01
            terminal.on_count("packing pictures", done, 100)
        assert stderr() == ""
        for done in range(1, 101):
            clock.now += 1
            terminal.on_count("packing pictures", 10 * done, 1000)
    lines = stderr().splitlines()
    assert lines[0] == "packing pictures: 60 of 1,000 pictures  10 pictures/s  1 min 34 s left"
    assert len(lines) == 4


def test_bytes_are_counted_as_bytes_and_their_total_may_be_unknown(clock: Clock, stderr: Read) -> None:
    with Terminal() as terminal:
        terminal.on_count("reading x", 0, None, unit="bytes")
        clock.now += 10
        terminal.on_count("reading x", 40_000_000, None, unit="bytes")
        terminal.on_message("done")
    assert stderr() == "reading x: 40.0 MB  4.0 MB/s\ndone\n"


@pytest.mark.parametrize("gone", [True, False])
def test_a_terminal_that_was_closed_takes_no_words_and_other_failures_count(
    monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    terminal = Terminal()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO if gone else errno.ENOSPC, "no")

    monkeypatch.setattr(terminal.console, "print", fail)
    with nullcontext() if gone else pytest.raises(OSError, match="no"):
        terminal.say("something")


def test_a_slow_count_says_the_time_left_and_no_pace_of_nothing(clock: Clock, stderr: Read) -> None:
    with Terminal() as terminal:
        terminal.on_count("cross-validating", 0, 3, unit="folds")
        clock.now += 100
        terminal.on_count("cross-validating", 1, 3, unit="folds")
    assert stderr() == "cross-validating: 1 of 3 folds  3 min 20 s left\n"


def test_what_was_in_the_cache_before_says_nothing_about_the_pace(clock: Clock, stderr: Read) -> None:
    terminal = Terminal()
    terminal.on_count("encoding", 900, 1000, unit="views")
    clock.now += 10
    terminal.on_count("encoding", 950, 1000, unit="views")
    assert "950 of 1,000 views  5.0 views/s  10.0 s left" in stderr()


def test_the_whole_time_is_estimated_within_seconds_also_in_a_long_epoch(clock: Clock, stderr: Read) -> None:
    with Terminal() as terminal:
        for step in range(1, 6):
            terminal.on_step(state_at(step, steps=1000), loss=2.0, top1=0.1)
            clock.now += 1
    assert stderr() == "estimate: about 2 h 47 min for 10 epochs\n"


def test_a_long_epoch_without_a_terminal_gives_a_sign_of_life(clock: Clock, stderr: Read) -> None:
    with Terminal() as terminal:
        for step in range(1, 62):
            terminal.on_step(state_at(step, steps=1000), loss=2.0, top1=0.1)
            clock.now += 1
    lines = [line for line in stderr().splitlines() if line.startswith("epoch 1/10")]
    assert lines[0] == "epoch 1/10: loss 2.000  top-1 10.0 %  250 pictures/s  2 h 47 min left"
    assert len(lines) == 2


def test_small_pictures_at_the_start_do_not_make_the_estimate_too_low(
    tmp_path: Path, clock: Clock, stderr: Read
) -> None:
    sizes = {"training.size_schedule": [[0.0, 16], [0.5, 32]]}
    with RunWriter(tmp_path / "run", load_config("small", changes=sizes)) as writer, Terminal() as terminal:
        terminal.attach(writer)
        for step in range(1, 6):
            terminal.on_step(state_at(step), loss=None, top1=None)
            clock.now += 1
    # 496 cheap steps of 1 s are left, and 500 that cost four times as much.
    assert stderr() == "estimate: about 41 min 36 s for 10 epochs\n"


def test_an_estimate_over_the_time_limit_says_so(tmp_path: Path, clock: Clock, stderr: Read) -> None:
    limit = load_config("small", changes={"training.minutes": 7})
    with RunWriter(tmp_path / "run", limit) as writer, Terminal() as terminal:
        terminal.attach(writer)
        for step in range(1, 6):
            terminal.on_step(state_at(step), loss=None, top1=None)
            clock.now += 1
    assert stderr() == "estimate: about 16 min 36 s for 10 epochs; the time limit cuts it to 7 min\n"


def test_a_resumed_run_is_estimated_by_the_steps_of_this_process(clock: Clock, stderr: Read) -> None:
    with Terminal() as terminal:
        for step in range(901, 906):
            terminal.on_step(state_at(step), loss=2.0, top1=0.1)
            clock.now += 1
    assert stderr() == "estimate: about 1 min 36 s for 1 epoch\n"


def test_a_training_that_ends_with_its_second_step_gets_no_estimate(clock: Clock, stderr: Read) -> None:
    with Terminal() as terminal:
        for step in (1, 2):
            terminal.on_step(state_at(step, epochs=2, steps=1), loss=2.0, top1=0.1)
            clock.now += 4
    assert "estimate" not in stderr()


def test_a_row_of_the_history_becomes_a_line(stderr: Read) -> None:
    row: dict[str, Any] = {"epoch": 3, "seconds": 61.2, "lr": 0.08, "train/loss": 1.25, "train/top1": 0.5}
    row["images_per_second"] = 1234.5
    Terminal().on_epoch(row)
    Terminal().on_epoch({**row, "val/loss": 1.5, "val/top1": 0.4567})
    final, usual = stderr().splitlines()
    assert final == "epoch   3  train loss 1.250 top-1 50.0 %  lr 0.08  1,234 pictures/s  1 min 01 s so far"
    assert "val loss 1.500 top-1 45.7 %" in usual


def test_on_a_terminal_there_is_a_bar_with_loss_accuracy_rate_and_time_left(
    clock: Clock, stderr: Read, live: None
) -> None:
    with Terminal() as terminal:
        terminal.on_count("packing pictures", 0, 10)
        terminal.on_count("packing pictures", 10, 10)
        for step in range(1, 1001):
            terminal.on_step(state_at(step), loss=1.5, top1=0.25)
            clock.now += 1
            if step == 500:
                terminal.on_message("a message above the bar")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stderr())
    assert "packing pictures" in shown
    assert "loss 1.500  top-1 25.0 %  250 pictures/s" in shown
    assert " left" in shown
    assert "━" in shown
    assert "a message above the bar" in shown


def test_on_a_narrow_terminal_the_bar_keeps_its_name_and_the_time_left(
    clock: Clock, stderr: Read, live: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with Terminal() as terminal:
        for step in range(1, 501):
            terminal.on_step(state_at(step), loss=1.5, top1=0.25)
            clock.now += 1
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stderr())
    assert re.search(r"epoch 6/10 .* 8 min \d\d s left", shown)
    assert "…" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é", "plain é"),
        ("a\nb", "a\\nb"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\udcff", "\\udcff"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
    ],
)
def test_names_cannot_move_the_cursor_or_break_the_line(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("encoding", "text"), [("utf-8", "é"), ("utf-8", "\udcff"), ("ascii", "é\U0001f600"), ("cp1252", "–日")]
)
def test_json_is_valid_in_every_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str, text: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    print_json({"name": text})
    stream.flush()
    assert json.loads(stream.buffer.getvalue().decode(encoding)) == {"name": text}  # type: ignore[attr-defined]


def test_a_table_in_a_pipe_keeps_rows_whole_and_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = plain_table("name", "count>")
    add_row(table, "[/bold] " + "x" * 200, "1")
    add_row(table, "b", "1,000", style="bold")
    print_table(table)
    header, first, second = (line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert header.split() == ["name", "count"]
    assert first.startswith("[/bold] xxx")
    assert first.endswith(" 1")
    assert second.endswith("1,000")
    assert len(first) == len(second)


def test_colours_that_are_asked_for_make_a_file_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm-256color")
    table = plain_table("name", "count>")
    add_row(table, "x" * 200, "1")
    print_table(table)
    terminal = Terminal()
    terminal.on_count("packing pictures", 1, 2)
    terminal.on_count("packing pictures", 2, 2)
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2  # the heading and the row
    assert captured.err == ""  # no bar, and lines only after some seconds


def test_a_dumb_terminal_gets_lines_instead_of_a_bar(
    live: None, clock: Clock, monkeypatch: pytest.MonkeyPatch, stderr: Read
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    terminal.on_count("packing pictures", 1, 100)
    clock.now += 10
    terminal.on_count("packing pictures", 50, 100)
    assert stderr().startswith("packing pictures: 50 of 100 pictures")


def test_a_table_that_does_not_fit_becomes_records_with_whole_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = plain_table("run", "data", "parameters>", "result", "tags")
    add_row(table, "first", "photos of everything that flies", "1,970,744", "97.5 % [95.3, 98.7] on test (n = 359)", "")
    add_row(table, "[b]second", "digits", "293,236", "not finished", "keep")
    monkeypatch.setattr(module, "is_terminal", lambda stream: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    for width, expected in ((60, 6), (200, 3)):
        monkeypatch.setenv("COLUMNS", str(width))
        print_table(table)
        lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
        assert len(lines) == expected
        assert all(len(line) <= width for line in lines)
        told = "\n".join(lines)
        for whole in ("1,970,744", "97.5 % [95.3, 98.7] on test (n = 359)", "[b]second"):
            assert whole in told

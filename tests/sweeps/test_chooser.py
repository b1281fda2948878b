from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from eyespot.errors import EyespotError, MissingExtraError, TrainingError
from eyespot.sweeps.chooser import Chooser
from eyespot.sweeps.journal import Journal, Trial
from eyespot.sweeps.space import Factor, Space

pytest.importorskip("optuna")
OWN = {"optimizer.lr": 0.08, "augment.translate_px": 2, "training.label_smoothing": 0.1}


def make(journal: Journal) -> Chooser:
    return Chooser(journal, OWN, lambda trial: None)


def outcome(trial: Trial) -> dict[str, Any]:
    """Return what a trial with these settings would report: best near a rate of 0.1."""
    top1 = 0.9 - abs(trial.settings["optimizer.lr"] - 0.1) - 0.1 * trial.settings["training.label_smoothing"]
    row = {"epoch": 9, "top1": top1, "loss": 1 - top1, "seconds": 1.0}
    return row | {"final": True, "n": 100, "low": top1 - 0.05, "high": top1 + 0.05}


def drive(journal: Journal, stop: Callable[[int], bool] = lambda number: False) -> list[dict[str, Any]]:
    """Run a sweep, each process of which is killed where `stop` says so; return the settings in their order."""
    chooser = make(journal)
    while (trial := chooser.next()) is not None:
        if stop(trial.number):
            return drive(Journal.open(journal.folder))
        chooser.on_end(trial.number, outcome(trial), crashed=False)
    return [dict(trial.settings) for trial in Journal.open(journal.folder).ordered()]


def test_a_killed_sweep_tries_what_it_would_have_tried(journal: Journal, tmp_path: Any) -> None:
    import shutil

    twin = shutil.copytree(journal.folder, tmp_path / "twin")
    straight = drive(journal)
    killed = drive(Journal.open(twin), stop=lambda number: number == 7)
    assert straight == killed
    assert straight[0] == OWN  # the recipe as it is comes first
    assert len(straight) == 12


def test_another_seed_tries_something_else(journal: Journal) -> None:
    journal.plan = replace(journal.plan, seed=1, trials=3)
    assert drive(journal)[1:] != []
    first = [dict(trial.settings) for trial in journal.ordered()]
    journal.trials.clear()
    journal.plan = replace(journal.plan, seed=2)
    chooser = make(journal)
    chooser.next()
    second = chooser.next()
    assert second is not None
    assert dict(second.settings) != first[1]


def test_no_settings_are_tried_twice_and_a_small_space_ends(journal: Journal) -> None:
    small = Space(
        (Factor("training.label_smoothing", choice=(0.0, 0.1)), Factor("augment.translate_px", high=2, int=True))
    )
    journal.plan = replace(journal.plan, space=small, trials=50)
    chooser = Chooser(journal, {}, lambda trial: None)
    while (trial := chooser.next()) is not None:
        row = {"epoch": 1, "top1": 0.5, "loss": 1.0, "seconds": 1.0, "final": True, "n": 9, "low": 0.1, "high": 0.9}
        chooser.on_end(trial.number, row, crashed=False)
    assert chooser.exhausted
    tried = [tuple(trial.settings.values()) for trial in journal.ordered()]
    assert len(tried) == len(set(tried)) == 6


def test_a_failed_trial_does_not_end_a_sweep_and_a_full_disk_does(journal: Journal) -> None:
    chooser = make(journal)
    chooser.next()
    chooser.on_end(1, {"failed": "the loss is NaN", "ends": False}, crashed=False)
    assert journal.trials[1].state == "failed"
    chooser.next()
    what = ["cannot write (the disk is full)", "here", "free some space; a training goes on with --resume"]
    chooser.on_end(2, {"failed": what[0], "ends": True, "what": what}, crashed=False)
    assert isinstance(chooser.failure, EyespotError)
    assert str(chooser.failure).endswith("in here: free some space; eyespot sweep --resume goes on")
    assert chooser.next() is None
    again = Journal.open(journal.folder)
    assert again.trials[2].state == "waiting"
    resumed = make(again).next()
    assert resumed is not None
    assert resumed.number == 2


def test_a_stopped_trial_keeps_its_last_figures(journal: Journal) -> None:
    chooser = make(journal)
    chooser.next()
    row = {"epoch": 3, "top1": 0.4, "loss": 2.0, "seconds": 1.5}
    chooser.on_row(1, row)
    assert journal.trials[1].epochs == 3
    chooser.on_end(1, row, crashed=False)
    assert journal.trials[1].state == "stopped"
    assert journal.trials[1].reason == "behind the others after epoch 3"


def test_a_trial_whose_process_dies_once_is_gone_on_with(journal: Journal) -> None:
    chooser, tried = make(journal), []
    while (trial := chooser.next()) is not None:
        tried.append(trial.number)
        if tried.count(4) == 1 and trial.number == 4:
            chooser.on_end(4, None, crashed=True)
        else:
            chooser.on_end(trial.number, outcome(trial), crashed=False)
    assert tried == [1, 2, 3, 4, 4, *range(5, 13)]
    assert all(trial.state == "finished" for trial in Journal.open(journal.folder).ordered())


def test_a_trial_whose_process_dies_is_waiting_for_the_next_driver(journal: Journal) -> None:
    chooser = make(journal)
    chooser.next()
    chooser.on_end(1, None, crashed=True)
    resumed = make(Journal.open(journal.folder)).next()
    assert resumed is not None
    assert resumed.number == 1


def test_three_processes_that_die_in_a_row_end_a_sweep(journal: Journal) -> None:
    chooser = make(journal)
    for number in (1, 1, 2):
        assert chooser.failure is None
        trial = chooser.next()
        assert trial is not None
        assert trial.number == number
        chooser.on_end(number, None, crashed=True)
    assert isinstance(chooser.failure, TrainingError)
    assert journal.trials[1].state == "failed"
    assert "out of memory" in journal.trials[1].reason
    assert Journal.open(journal.folder).trials[2].state == "waiting"
    # A resumed sweep keeps its settings, so that a smaller batch is for another one.
    assert chooser.failure.remedy.endswith("or begin another sweep with a smaller training.batch_size")


def test_processes_that_die_beside_each_other_are_gone_on_with_one_at_a_time(journal: Journal) -> None:
    journal.plan = replace(journal.plan, at_once=2)
    chooser = make(journal)
    chooser.next(), chooser.next()
    for number in (1, 2):
        chooser.on_end(number, None, crashed=True)
    chooser.next()
    chooser.on_end(1, None, crashed=True)
    assert chooser.failure is not None
    assert chooser.failure.remedy.endswith("eyespot sweep --resume --at-once 1")


def test_after_the_time_limit_nothing_begins_and_nothing_counts_as_stopped(journal: Journal) -> None:
    journal.plan = replace(journal.plan, minutes=1.0)
    chooser = make(journal)
    chooser.next()
    chooser.on_row(1, {"epoch": 1, "top1": 0.4, "loss": 2.0, "seconds": 1.5})
    journal.seconds_before = 60.0
    assert chooser.seconds_left == 0.0
    assert chooser.next() is None
    chooser.on_end(1, {"epoch": 1, "top1": 0.4, "loss": 2.0, "seconds": 1.5}, crashed=False)
    assert Journal.open(journal.folder).trials[1].state == "waiting"


def test_without_optuna_the_command_that_installs_it_is_said(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r'pip install "eyespot\[cluster\]"'):
        make(journal)

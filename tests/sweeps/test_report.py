from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from eyespot.analysis import words
from eyespot.sweeps.journal import Journal, Trial
from eyespot.sweeps.report import importances, render_sweep_report, write_sweep_report
from eyespot.sweeps.screen import describe

from .conftest import finished

pytest.importorskip("optuna")


def figures(top1: float, n: int) -> dict[str, Any]:
    bounds = [top1 - 0.02, top1 + 0.02]
    return {"top1": top1, "top1_ci95": bounds, "n": n, "views": "none", "confusion": [[1, 0], [0, 1]]}


@pytest.fixture
def done(journal: Journal) -> Journal:
    """Return a sweep of eight trials, in which the rate decides."""
    for number in range(1, 9):
        lr = 0.01 * 1.6**number
        settings = {
            "optimizer.lr": lr,
            "augment.translate_px": number % 3,
            "training.label_smoothing": (0.0, 0.1, 0.2)[number % 2],
        }
        trial = finished(Trial(number, settings), 0.6 + 0.03 * number, 1 - 0.05 * number)
        if number == 3:
            trial = replace(trial, state="failed", top1=None, loss=None, n=None, top1_ci95=None, reason="NaN <b>")
        if number == 4:
            trial = replace(trial, state="stopped", n=None, top1_ci95=None, epochs=2, reason="behind the others")
        journal.write(trial)
    journal.result = {"winner": 8, "val": figures(0.84, 500), "test": figures(0.81, 400), "test_reads": 1}
    return journal


def test_every_trial_and_every_figure_is_in_the_report(done: Journal) -> None:
    html = render_sweep_report(done)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).replace("\N{NO-BREAK SPACE}", " ")
    assert "Trial 8 was the best of 8 trials on val: 84.0 % [82.0, 86.0] on val (n = 500, 1 view)" in text
    assert "test, which no trial has seen, says 81.0 % [79.0, 83.0] on test (n = 400, 1 view)" in text
    assert "optimistic" in text
    assert text.count("behind the others") == 1
    stopped = 0.6 + 0.03 * 4  # of the same val pictures as the others
    assert f"{words.share(round(stopped * 500), 500)} " in text
    assert "NaN &lt;b&gt;" in text
    assert "0.01 to 0.5, on a logarithmic scale" in text
    assert "From 6 trials that is a hint and no finding" in text
    assert "eyespot sweep --resume" in text
    assert html.count('class="ring') == 4  # the winner, in each factor's chart and in the order of the trials
    assert "://" not in html
    assert "<script" not in html


def test_a_winner_without_figures_on_test_yet_has_its_interval_and_n(done: Journal) -> None:
    done.result = {}
    text = render_sweep_report(done).replace("\N{NO-BREAK SPACE}", " ")
    assert re.search(r"was the best of 8 trials on val: 84.0 % \[[\d.]+, [\d.]+\] on val \(n = 500\)", text)


def test_a_sweep_that_read_test_twice_says_so(done: Journal) -> None:
    assert "read test 2 times" not in render_sweep_report(done)
    done.result["test_reads"] = 2
    page = render_sweep_report(done)
    assert "read test 2 times" in page
    assert "2 winners" not in page  # one that was killed while it tested its only winner counts two, too


def test_only_a_sweep_of_trials_that_last_says_that_it_stops_them_early(done: Journal) -> None:
    assert "(ASHA) of Ray Tune" in render_sweep_report(done)
    done.plan = replace(done.plan, epochs=2)
    page = render_sweep_report(done)
    assert "(ASHA) of Ray Tune" not in page
    assert "the trials are too short for that" in page


def test_trials_that_cannot_be_told_apart_are_named(done: Journal) -> None:
    assert "Not told apart" not in render_sweep_report(done)
    done.write(replace(done.trials[6], top1=0.83))
    assert "1 other finished trial (6) lies" in render_sweep_report(done)


def test_the_loss_of_a_stopped_trial_is_not_taken_for_one_after_calibration(done: Journal) -> None:
    assert "its loss is that before calibration" in render_sweep_report(done)
    told = describe(done.trials[4], done.val_n).replace("\N{NO-BREAK SPACE}", " ")
    assert told.startswith("72.0 % [67.9, 75.8] (val, n = 500, after epoch 2), loss 0.800 before calibration")
    assert "before calibration" not in describe(done.trials[8], done.val_n)
    done.plan = replace(done.plan, metric="val/loss")
    page = render_sweep_report(done).replace("\N{NO-BREAK SPACE}", " ")
    assert "trial 4: " not in page  # no dot beside those of finished trials
    assert "trial 5: " in page
    assert "loss on val after calibration (n = 500)" in page
    done.write(replace(done.trials[6], top1=0.99))
    assert "interval on val or above it" in render_sweep_report(done)


def test_ticks_of_losses_that_hardly_differ_are_written_differently(done: Journal) -> None:
    done.plan = replace(done.plan, metric="val/loss")
    for number, trial in list(done.trials.items()):
        if trial.loss is not None:
            done.write(replace(trial, loss=2.3 + 0.001 * number))
    charts = re.findall(r"<svg.*?</svg>", render_sweep_report(done))
    for chart in (one for one in charts if "val/loss" in one):
        ticks = re.findall(r'text-anchor="end">([^<]*)<', chart)
        assert len(ticks) == len(set(ticks)) > 2


def test_a_winner_at_the_end_of_the_range_is_said_where_the_setting_goes_on(done: Journal) -> None:
    best = done.trials[8]
    done.write(replace(best, settings={**best.settings, "optimizer.lr": 0.49, "augment.translate_px": 0}))
    html = render_sweep_report(done)
    assert "optimizer.lr = 0.49 lies at the upper end" in html
    assert "augment.translate_px = 0 lies" not in html  # a shift cannot be negative


def test_without_a_finished_trial_or_a_test_split_the_report_says_so(journal: Journal, done: Journal) -> None:
    done.result["test"] = None
    assert "have no test split" in render_sweep_report(done)
    done.trials.clear()
    done.result = {}
    done.write(replace(Trial(1, {}), state="failed", reason="NaN"))
    assert "No trial was finished" in render_sweep_report(done)
    write_sweep_report(done)
    assert (done.folder / "report.html").exists()


def test_importance_finds_the_factor_that_matters(journal: Journal) -> None:
    assert importances(journal) == {}
    for number in range(1, 31):
        lr = 0.01 * 50 ** (number * 7 % 30 / 30)
        settings = {"optimizer.lr": lr, "augment.translate_px": number % 3, "training.label_smoothing": 0.1}
        journal.write(finished(Trial(number, settings), 0.5 + lr))
    shares = importances(journal)
    assert max(shares, key=lambda key: shares[key]) == "optimizer.lr"
    assert shares["optimizer.lr"] > 0.8


def test_what_settings_do_only_together_is_no_importance_of_one(journal: Journal) -> None:
    dice = np.random.default_rng(0)
    for number in range(1, 81):
        lr, shift = 0.01 * 50 ** dice.random(), int(dice.integers(0, 5))
        right = (lr < 0.01 * 50**0.5) == (shift < 2)  # half of the range of the rate, on the scale that is searched
        settings = {"optimizer.lr": lr, "augment.translate_px": shift, "training.label_smoothing": 0.1}
        journal.write(finished(Trial(number, settings), 0.8 if right else 0.4))
    shares = importances(journal)
    assert sum(shares.values()) < 0.5

"""Which settings are tried next: Optuna's tree-structured Parzen estimator, fed from the journal.

Before this: `journal` says what is known. After this: `engine` hands the trials to Ray. What is suggested for a number
follows from the sweep's seed, that number and the results so far: a sweep that was killed and resumed, one trial at a
time, tries what it would have tried.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from eyespot.errors import EyespotError, TrainingError, require_extra
from eyespot.seeds import derive_seed
from eyespot.sweeps.journal import Journal, Trial

# Random points before the model takes over. Optuna's ten would be most of a small sweep.
_STARTUP_SHARE, _FEWEST_STARTUP, _MOST_STARTUP = 0.3, 4, 10
_RETRIES = 20
_CRASHES = 3


class Chooser:
    """Chooses the next trial, keeps the journal, and notices when the sweep has to end.

    Args:
        journal: What is known; every start and end is written there first.
        own: The recipe's own settings: they are the first trial where the space has them.
        tell: Called with each trial that began, moved on or ended.

    Attributes:
        failure: What ended the sweep; None while it goes on.
        exhausted: Whether every point of the space was tried.
    """

    def __init__(self, journal: Journal, own: Mapping[str, Any], tell: Callable[[Trial], None]) -> None:
        require_extra("cluster", "optuna")
        import optuna

        self._optuna = optuna
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._journal, self._plan, self._tell = journal, journal.plan, tell
        self._distributions = {factor.key: factor.distribution() for factor in self._plan.space.factors}
        self._study = optuna.create_study(direction="maximize" if self._plan.mode == "max" else "minimize")
        self._asked: dict[int, Any] = {}
        self._own = self._plan.space.drawn(own)
        self._started = time.monotonic()
        self._crashes = 0
        self._crashed: set[int] = set()
        self.failure: EyespotError | None = None
        self.exhausted = False
        for trial in journal.ordered():
            if trial.is_over:
                self._add_past(trial)
        self._waiting = [trial for trial in journal.ordered() if trial.state == "waiting"]

    @property
    def seconds(self) -> float:
        """Return the wall clock of the sweep so far, over all processes that drove it."""
        return self._journal.seconds_before + time.monotonic() - self._started

    @property
    def seconds_left(self) -> float | None:
        """Return what is left of a time limit; None where there is none."""
        return max(0.0, self._plan.minutes * 60 - self.seconds) if self._plan.minutes else None

    @property
    def is_over(self) -> bool:
        """Return whether no other trial may begin."""
        return self.failure is not None or self.seconds_left == 0.0

    # ---- the next trial ----

    def next(self) -> Trial | None:
        """Return the trial to begin or to go on with; None where none is left."""
        if self.is_over:
            return None
        if self._waiting:
            trial = self._waiting.pop(0)
            drawn = self._plan.space.drawn(trial.settings)
            self._study.enqueue_trial(drawn or {})
            self._asked[trial.number] = self._ask(trial.number)
        else:
            number = len(self._journal.trials) + 1
            if number > self._plan.trials:
                return None
            settings = self._draw(number)
            if settings is None:
                self.exhausted = True
                return None
            trial = Trial(number, settings)
        trial = replace(trial, state="running")
        self._journal.write(trial)
        self._tell(trial)
        return trial

    def _draw(self, number: int) -> dict[str, Any] | None:
        """Return settings that no trial had; the same settings would give the same result to the last bit."""
        space, tried = self._plan.space, [dict(trial.settings) for trial in self._journal.trials.values()]
        if number == 1 and self._own is not None:
            self._study.enqueue_trial(self._own)
        for retry in range(_RETRIES):
            asked = self._ask(number, retry)
            settings = space.settings(asked.params)
            if settings not in tried:
                self._asked[number] = asked
                return settings
            self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
        left = [point for point in space.points() if point not in tried] if space.size is not None else []
        if not left:
            return None
        point = left[derive_seed(self._plan.seed, "sweep-left", number) % len(left)]
        self._study.enqueue_trial(space.drawn(point) or {})
        self._asked[number] = self._ask(number)
        return point

    def _ask(self, number: int, retry: int = 0) -> Any:
        startup = min(max(round(_STARTUP_SHARE * self._plan.trials), _FEWEST_STARTUP), _MOST_STARTUP)
        seed = derive_seed(self._plan.seed, "sweep", number, retry) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental options come and go with Optuna's releases
            self._study.sampler = self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
            return self._study.ask(self._distributions)

    # ---- what came of it ----

    def on_row(self, number: int, row: Mapping[str, Any]) -> None:
        """Take note of a finished epoch."""
        if "epoch" in row and not row.get("final"):
            trial = self._moved_on(number, row)
            self._journal.trials[number] = trial
            self._tell(trial)

    def on_end(self, number: int, row: Mapping[str, Any] | None, *, crashed: bool) -> None:
        """Take note of the end of a trial, and write it down."""
        trial = self._end_of(number, row or {}, crashed=crashed)
        if trial.is_over:
            self._journal.write(trial)
            self._tell_optuna(trial)
        elif crashed:
            self._study.tell(self._asked.pop(number), state=self._optuna.trial.TrialState.FAIL)  # it is asked again
            self._waiting.append(trial)
        self._tell(trial)

    def _moved_on(self, number: int, row: Mapping[str, Any]) -> Trial:
        trial = self._journal.trials[number]
        return replace(trial, epochs=row["epoch"], top1=row["top1"], loss=row["loss"], seconds=row["seconds"])

    def _end_of(self, number: int, row: Mapping[str, Any], *, crashed: bool) -> Trial:
        trial = self._journal.trials[number]
        self._crashes = self._crashes + 1 if crashed else 0
        if crashed:
            if self._crashes >= _CRASHES:
                self.failure = TrainingError(
                    f"the processes of trials ended {self._crashes} times in a row",
                    where=self._journal.run_folder(trial),
                    remedy=_after_crashes(self._plan.at_once),
                )
            # Once more, from its checkpoint: that another program took the memory says nothing about these settings.
            if trial.number in self._crashed and self.failure is None:
                return replace(trial, state="failed", reason="its process ended twice: killed, or out of memory")
            self._crashed.add(trial.number)
            return replace(trial, state="waiting")
        if "failed" in row:
            if row.get("ends"):
                what, where, remedy = row["what"]
                remedy = remedy.replace("; a training goes on with --resume", "")
                self.failure = EyespotError(what, where=where, remedy=f"{remedy}; eyespot sweep --resume goes on")
                return replace(trial, state="waiting")
            return replace(trial, state="failed", reason=str(row["failed"]))
        if row.get("final"):
            trial = self._moved_on(number, row)
            return replace(trial, state="finished", n=row["n"], top1_ci95=(row["low"], row["high"]))
        if self.is_over or (trial.epochs == 0 and "epoch" not in row):
            return replace(trial, state="waiting")
        trial = self._moved_on(number, row)
        return replace(trial, state="stopped", reason=f"behind the others after epoch {trial.epochs}")

    # ---- Optuna's book ----

    def _tell_optuna(self, trial: Trial) -> None:
        asked, value = self._asked.pop(trial.number), trial.value(self._plan.metric)
        states = self._optuna.trial.TrialState
        if trial.state == "finished":
            self._study.tell(asked, value)
            return
        if trial.state == "stopped" and value is not None:
            asked.report(value, trial.epochs)
        # A failed trial has no value: among the pruned ones that is the worst rank, so its region is left.
        self._study.tell(asked, state=states.PRUNED)

    def _add_past(self, trial: Trial) -> None:
        drawn, value = self._plan.space.drawn(trial.settings), trial.value(self._plan.metric)
        if drawn is None:
            return
        states, finished = self._optuna.trial.TrialState, trial.state == "finished"
        seen = {trial.epochs: value} if trial.state == "stopped" and value is not None else {}
        self._study.add_trial(
            self._optuna.trial.create_trial(
                state=states.COMPLETE if finished else states.PRUNED,
                value=value if finished else None,
                params=drawn,
                distributions=self._distributions,
                intermediate_values=seen,
            )
        )


def _after_crashes(at_once: int) -> str:
    """Return the next step after processes that died; a resumed sweep keeps its settings, the batch size among them."""
    if at_once > 1:
        return "memory may have run out: go on with eyespot sweep --resume --at-once 1"
    return (
        "memory may have run out: free some, then go on with eyespot sweep --resume; or begin another sweep with a "
        "smaller training.batch_size"
    )

"""The truth about a sweep: what was asked for, and a line for every trial that began or ended.

Before this: `sweep` made the folder. After this: whoever goes on with a sweep, or reports it, reads only this and the
run folders of the trials. Ray's own snapshots are not used: they are some seconds old when the driver is killed, and a
trial that ended in between would be run again (docs/decisions/013-sweeps.md).

    DIR/sweep.json      the plan: data, recipe, space, budget, seed; at the end the winner and its test figures
    DIR/recipe.toml     what all trials share
    DIR/journal.jsonl   a line for each start and each end, written before anything is done with it
    DIR/trials/0007/    a run folder for each trial
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eyespot.errors import RunError
from eyespot.files import append_line, write_atomic, write_json
from eyespot.sweeps.space import Space

State = Literal["running", "finished", "stopped", "failed", "waiting"]
Metric = Literal["val/top1", "val/loss"]
_FORMAT = 1
_FEWEST_EPOCHS = 3


@dataclass(frozen=True)
class Trial:
    """One point of the space, and what came of it.

    Attributes:
        number: Counted from 1; its run folder is `trials/0001`.
        settings: Of each factor.
        state: `finished`: trained as planned and measured; `stopped`: ended early because it was behind; `failed`:
            ended by an error; `running`; `waiting`: begun, and interrupted with the sweep.
        epochs: Finished epochs.
        top1: Accuracy on val, at the end or at the last finished epoch.
        loss: Loss on val in nats, likewise: at the end after calibration, before it until then.
        n: Pictures of val, where it is finished.
        top1_ci95: 95 % interval of `top1`, where it is finished.
        seconds: Training time.
        reason: Why it failed or was stopped.
    """

    number: int
    settings: Mapping[str, Any]
    state: State = "running"
    epochs: int = 0
    top1: float | None = None
    loss: float | None = None
    n: int | None = None
    top1_ci95: tuple[float, float] | None = None
    seconds: float | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """Return the name of its run folder."""
        return f"{self.number:04d}"

    @property
    def is_over(self) -> bool:
        """Return whether it will never be run again."""
        return self.state in ("finished", "stopped", "failed")

    def value(self, metric: str) -> float | None:
        """Return what the sweep makes large (`val/top1`) or small (`val/loss`)."""
        return self.top1 if metric == "val/top1" else self.loss


@dataclass(frozen=True)
class Plan:
    """What a sweep was asked for.

    Attributes:
        data: DATA as provenance keeps it.
        recipe: Name of the recipe that is varied.
        epochs: Of a trial that is not stopped.
        space: What varies.
        trials: Trials in all.
        minutes: Wall clock for all of them; 0: no limit.
        metric: What decides.
        seed: Of the choice of settings; every trial is trained with the recipe's seed.
        device: As for `train`.
        at_once: Trials at a time on one machine.
        cluster: Address of a Ray cluster; empty: this machine.
        command: What was typed.
    """

    data: str
    recipe: str
    epochs: int
    space: Space
    trials: int
    minutes: float = 0.0
    metric: Metric = "val/top1"
    seed: int = 0
    device: str = "auto"
    at_once: int = 1
    cluster: str = ""
    command: str = ""

    @property
    def mode(self) -> Literal["max", "min"]:
        """Return which values of the metric are good."""
        return "max" if self.metric == "val/top1" else "min"

    @property
    def stops_early(self) -> bool:
        """Return whether trials that are behind are stopped: of shorter ones it would save nothing."""
        return self.epochs >= _FEWEST_EPOCHS


@dataclass
class Journal:
    """A sweep's folder, held by the process that drives it.

    Attributes:
        folder: The sweep's folder, absolute.
        plan: What was asked for.
        result: The winner and what test says; empty before the end.
        trials: By number, as last written.
        seconds_before: Wall clock of the earlier processes that drove it, to the last line of each.
    """

    folder: Path
    plan: Plan
    result: dict[str, Any] = field(default_factory=dict)
    trials: dict[int, Trial] = field(default_factory=dict)
    seconds_before: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, folder: Path) -> Journal:
        """Return the sweep in a folder as it was left; nothing is written.

        Raises:
            RunError: There is none, or its files are damaged.
        """
        path = folder / "sweep.json"
        if not path.is_file():
            raise RunError("no sweep (no sweep.json)", where=folder, remedy="give the folder of a sweep with --out")
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["format"] != _FORMAT:
                raise RunError(f"written by another version (format {saved['format']})", where=path, remedy="update")
            plan = Plan(**{**saved["plan"], "space": Space.from_json(saved["plan"]["space"])})
            journal = cls(folder, plan, saved["result"])
            journal._read()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            remedy = "restore the file, or start another sweep"
            raise RunError(f"damaged ({type(error).__name__}: {error})", where=path, remedy=remedy) from error
        return journal

    def _read(self) -> None:
        """Read the lines; a last one that a full disk cut short counts for nothing."""
        path = self.folder / "journal.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        spent = 0.0
        for place, line in enumerate(lines):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                if place == len(lines) - 1:
                    break
                raise
            if "begin" in row:
                self.seconds_before += spent
            spent = float(row.get("seconds", spent))
            if "trial" in row:
                entry = row["trial"]
                bounds = entry["top1_ci95"]
                trial = Trial(**{**entry, "top1_ci95": tuple(bounds) if bounds else None})
                self.trials[trial.number] = trial if trial.is_over else replace(trial, state="waiting")
        self.seconds_before += spent

    def begin(self) -> None:
        """Note that a process drives the sweep from now on; a line that a power cut tore is taken away."""
        path = self.folder / "journal.jsonl"
        content = path.read_bytes() if path.exists() else b""
        if content and not content.endswith(b"\n"):
            write_atomic(path, content[: content.rfind(b"\n") + 1])
        self._began = time.monotonic()
        self._append({"begin": True})

    def end(self) -> None:
        """Note that no process drives it any more: its time counts, and trials on their way wait."""
        for number, trial in self.trials.items():
            if not trial.is_over:
                self.trials[number] = replace(trial, state="waiting")
        with suppress(RunError):  # a full disk has been said already
            self._append({"end": True})

    def write(self, trial: Trial) -> None:
        """Note where a trial is.

        Raises:
            RunError: The disk is full, or the folder is gone.
        """
        self.trials[trial.number] = trial
        self._append({"trial": asdict(trial)})

    def write_plan(self) -> None:
        """Write sweep.json."""
        plan = {**asdict(self.plan), "space": self.plan.space.as_json()}
        write_json(self.folder / "sweep.json", {"format": _FORMAT, "plan": plan, "result": self.result})

    def run_folder(self, trial: Trial) -> Path:
        """Return where a trial is trained."""
        return self.folder / "trials" / trial.name

    def ordered(self) -> list[Trial]:
        """Return the trials by number."""
        return [self.trials[number] for number in sorted(self.trials)]

    @property
    def val_n(self) -> int | None:
        """Return how many val pictures all trials share; None before the first one is finished."""
        return next((trial.n for trial in self.trials.values() if trial.n), None)

    def winner(self) -> Trial | None:
        """Return the best finished trial: equal ones are told apart by their loss, then the earlier one wins."""
        finished = [trial for trial in self.ordered() if trial.state == "finished"]

        def rank(trial: Trial) -> tuple[float, float]:
            value, loss = trial.value(self.plan.metric), trial.loss
            first = math.inf if value is None else -value if self.plan.mode == "max" else value
            return first, math.inf if loss is None else loss

        return min(finished, key=rank) if finished else None

    def _append(self, row: dict[str, Any]) -> None:
        path = self.folder / "journal.jsonl"
        try:
            # Of a clock that cannot be set: a machine that starts in 1970 would else have spent every limit.
            row = {"time": round(time.time(), 3), "seconds": round(time.monotonic() - self._began, 3), **row}
            append_line(path, json.dumps(row, allow_nan=False), durable=True)
        except RunError as error:
            raise RunError(error.what, where=path, remedy="free some space; eyespot sweep --resume goes on") from error

"""The history of a run in somebody's TensorBoard or MLflow, beside the run folder, which stays the truth.

Before this: `fit` appends a row to history.jsonl after each epoch. After this: whatever reads those services.
What is written follows from the history alone and is compared with what is there already, so a killed and resumed run
has every epoch once. A service that fails ends neither the training nor the run: it is said, and tried again later.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from eyespot.errors import MissingExtraError, UsageError, did_you_mean, first_line
from eyespot.files import write_json
from eyespot.opening import Observer
from eyespot.runs import Run, RunWriter, read_json

KINDS = ("tensorboard", "mlflow")
_MLFLOW = "mlflow.json"
_TENSORBOARD = "tensorboard"
# A dead server must not hold up the training: MLflow's own defaults wait for minutes. Its maker is not told of runs.
_MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

_MOST_PARAMS = 100  # of one call

Row = Mapping[str, Any]


class Tracker(Protocol):
    """Where a history is copied to."""

    def write_epochs(self, history: Sequence[Row]) -> None:
        """Write the rows that are not there yet; `history` is the whole of it."""

    def write_result(self, metrics: Mapping[str, Any]) -> None:
        """Write metrics.json's figures of each split, and close."""


def check_kind(kind: str) -> None:
    """Refuse an unknown service, and one whose package is missing.

    Raises:
        UsageError: Unknown.
        MissingExtraError: Not installed.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown --track {kind!r}.{did_you_mean(kind, KINDS)}", remedy=f"use {' or '.join(KINDS)}")
    if importlib.util.find_spec(kind) is None:
        raise MissingExtraError(kind, "track")


class Tracked:
    """An observer that passes everything on and copies the history.

    Args:
        observer: Told about everything, first.
        kind: One of `KINDS`.
        writer: The run.
    """

    def __init__(self, observer: Observer, kind: str, writer: RunWriter) -> None:
        self._observer, self._run, self._failed = observer, Run(writer.path), False
        self.on_message, self.on_count, self.on_step = observer.on_message, observer.on_count, observer.on_step
        self.attach = observer.attach
        make: type[Tracker] = TensorBoardTracker if kind == "tensorboard" else MlflowTracker
        self._kind, self._make = kind, make
        self._tracker: Tracker | None = None

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Pass a finished epoch on, then copy the history."""
        self._observer.on_epoch(row)
        if not self._failed:
            self._try(lambda tracker: tracker.write_epochs(self._run.history))

    def finish(self) -> None:
        """Copy what is still missing, and the figures."""

        def write_all(tracker: Tracker) -> None:
            tracker.write_epochs(self._run.history)
            tracker.write_result(self._run.metrics)

        self._try(write_all)

    def _try(self, write: Any) -> None:
        try:
            if self._tracker is None:
                self._tracker = self._make(self._run)  # type: ignore[call-arg]
            write(self._tracker)
        except Exception as error:  # whatever a service or its package may raise: the training is worth more
            self._failed, self._tracker = True, None
            self.on_message(
                f"note: {self._kind} could not be written ({first_line(error, 200)}); history.jsonl has everything"
            )


class TensorBoardTracker:
    """An event file in `tensorboard/` of the run folder; after a resume all rows are written anew, for the old files.

    Not by `SummaryWriter`: its thread, and its way out, print tracebacks where the disk is full.
    """

    def __init__(self, run: Run) -> None:
        folder = run.path / _TENSORBOARD
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        folder.mkdir(exist_ok=True)
        self._path = folder / f"events.out.tfevents.{time.time_ns()}.eyespot"
        self._written = 0
        self._write(file_version="brain.Event:2")

    def write_epochs(self, history: Sequence[Row]) -> None:
        """Write the rows that are not there yet."""
        for row in history[self._written :]:
            self._write_figures(_figures(row), row["epoch"])
            self._written += 1

    def write_result(self, metrics: Mapping[str, Any]) -> None:
        """Write the figures of each split at the last epoch."""
        self._write_figures(_results(metrics), self._written)

    def _write_figures(self, figures: Mapping[str, float], step: int) -> None:
        values = [{"tag": name, "simple_value": value} for name, value in figures.items()]
        self._write(step=step, summary={"value": values})

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        with open(self._path, "ab") as file:
            RecordWriter(file).write(Event(wall_time=time.time(), **fields).SerializeToString())


class MlflowTracker:
    """A run on the server that MLFLOW_TRACKING_URI names, in the experiment of MLFLOW_EXPERIMENT_NAME, or `eyespot`.

    Its id is kept in the run folder, so that a resumed run goes on with the same one.
    """

    def __init__(self, run: Run) -> None:
        for key, value in _MLFLOW_SETTINGS.items():
            os.environ.setdefault(key, value)
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        known = read_json(run.path / _MLFLOW, default={})
        if known.get("tracking_uri") == self._client.tracking_uri:
            self._id = str(known["run_id"])
        else:
            self._id = self._begin(run)
        # Written again after a resume: the same values are no change, and a kill may have come before them.
        self._client.log_batch(self._id, params=[Param(key, value) for key, value in _settings(run)])
        self._last = max((m.step for m in self._client.get_metric_history(self._id, "train/loss")), default=0)

    def _begin(self, run: Run) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "eyespot")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
        begun = self._client.create_run(number, run_name=run.path.name, tags={"eyespot.run": str(run.path)})
        identity = str(begun.info.run_id)
        write_json(run.path / _MLFLOW, {"tracking_uri": self._client.tracking_uri, "run_id": identity})
        return identity

    def write_epochs(self, history: Sequence[Row]) -> None:
        """Write the rows that are not there yet, each in one call."""
        for row in history:
            if row["epoch"] > self._last:
                self._log(_figures(row), row["epoch"])
                self._last = row["epoch"]

    def write_result(self, metrics: Mapping[str, Any]) -> None:
        """Write the figures of each split, and say that the run is over."""
        self._log(_results(metrics), self._last)
        self._client.set_terminated(self._id)

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        stamp = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(key, value, stamp, step) for key, value in figures.items()])


def _settings(run: Run) -> list[tuple[str, str]]:
    """Return every setting of a run as `section.key` and its value in words, as long as MLflow takes them."""
    found = []
    for section, values in run.config.model_dump(mode="json").items():
        pairs = values.items() if isinstance(values, dict) else [("", values)]
        found += [(f"{section}.{key}".rstrip("."), str(value)[:500]) for key, value in pairs]
    return found[:_MOST_PARAMS]


def _figures(row: Row) -> dict[str, float]:
    """Return the numbers of a row of the history, but its epoch."""
    return {key: float(value) for key, value in row.items() if key != "epoch" and isinstance(value, (int, float))}


def _results(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return `result/test/top1` and its kin, with n and the bounds of the interval."""
    found = {}
    for split in ("train", "val", "test"):
        for key in ("top1", "nll_loss", "ece", "n"):
            if isinstance(value := metrics.get(split, {}).get(key), (int, float)):
                found[f"result/{split}/{key}"] = float(value)
        for key in ("top1_ci95", "ece_ci95"):
            for name, bound in zip(("low", "high"), metrics.get(split, {}).get(key, ()), strict=False):
                found[f"result/{split}/{key}_{name}"] = float(bound)
    return found


__all__ = ["KINDS", "MlflowTracker", "TensorBoardTracker", "Tracked", "Tracker", "check_kind"]

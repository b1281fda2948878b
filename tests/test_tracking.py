"""The history in TensorBoard and MLflow: every epoch once, after a resume too; a dead service ends nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eyespot.config import load_config
from eyespot.errors import MissingExtraError, UsageError
from eyespot.runs import Run, RunWriter
from eyespot.tracking import MlflowTracker, Tracked, check_kind

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorBoard's and MLflow's own

METRICS = {"test": {"n": 10, "top1": 0.5, "top1_ci95": [0.2, 0.8], "nll_loss": 1.0, "ece": 0.1, "views": "none"}}


class Silent:
    """An observer that only remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def on_message(self, text: str) -> None:
        self.said.append(text)

    def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None: ...

    def on_step(self, state: Any, *, loss: float | None, top1: float | None) -> None: ...

    def on_epoch(self, row: dict[str, Any]) -> None:
        self.said.append(f"epoch {row['epoch']}")

    def attach(self, writer: RunWriter) -> None: ...


def row(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "step": 10 * epoch, "train/loss": 1 / epoch, "train/top1": 0.1 * epoch, "val/top1": 0.2}


def live(folder: Path, kind: str, epochs: range, *, resume: bool = False, finish: bool = False) -> list[str]:
    """Live through some epochs of a run as `train` does, in one process of its life; return what was said."""
    silent = Silent()
    with RunWriter(folder, load_config("digits"), resume=resume) as writer:
        watcher = Tracked(silent, kind, writer)
        for epoch in epochs:
            writer.add_epoch(row(epoch))
            watcher.on_epoch(row(epoch))
        if finish:
            writer.write_metrics(METRICS)
            watcher.finish()
    return silent.said


def test_tensorboard_has_every_epoch_once_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert live(tmp_path / "run", "tensorboard", range(1, 4)) == ["epoch 1", "epoch 2", "epoch 3"]
    with RunWriter(tmp_path / "run", load_config("digits"), resume=True) as writer:
        writer.restore_history([row(1), row(2)])  # the checkpoint was older: epoch 3 comes again
    live(tmp_path / "run", "tensorboard", range(3, 6), resume=True, finish=True)
    reader = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    reader.Reload()
    assert [event.step for event in reader.Scalars("train/loss")] == [1, 2, 3, 4, 5]
    assert [event.value for event in reader.Scalars("train/loss")] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert reader.Scalars("result/test/top1")[0].value == 0.5
    assert reader.Scalars("result/test/top1_ci95_low")[0].value == pytest.approx(0.2)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
def test_tensorboard_on_a_full_disk_is_one_note_and_all_of_it_is_there_when_there_is_room_at_the_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import resource

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    silent, before = Silent(), resource.getrlimit(resource.RLIMIT_FSIZE)
    threads = set(threading.enumerate())
    with RunWriter(tmp_path / "run", load_config("digits")) as writer:
        watcher = Tracked(silent, "tensorboard", writer)
        for epoch in (1, 2, 3):
            writer.add_epoch(row(epoch))
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, before[1]))
        try:
            watcher.on_epoch(row(3))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert set(threading.enumerate()) <= threads  # none that would say it in its own way, now or at the end
        writer.write_metrics(METRICS)
        watcher.finish()
    assert silent.said[0] == "epoch 3"
    assert "note: tensorboard could not be written ([Errno 27] File too large)" in silent.said[1]
    assert capfd.readouterr().err == ""
    reader = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    reader.Reload()
    assert [event.step for event in reader.Scalars("train/loss")] == [1, 2, 3]
    assert reader.Scalars("result/test/top1")[0].step == 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server with SQLite on a free port."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--default-artifact-root", str(folder / "artifacts")]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
        import os
        import signal

        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_mlflow_has_every_epoch_once_after_a_resume(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert live(tmp_path / "run", "mlflow", range(1, 4)) == ["epoch 1", "epoch 2", "epoch 3"]
    with RunWriter(tmp_path / "run", load_config("digits"), resume=True) as writer:
        writer.restore_history([row(1), row(2)])
    assert len(live(tmp_path / "run", "mlflow", range(3, 6), resume=True, finish=True)) == 3
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("eyespot")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert sorted(metric.step for metric in history) == [1, 2, 3, 4, 5]
    assert found.data.metrics["result/test/top1"] == 0.5
    assert found.data.params["model.name"] == load_config("digits").model.name
    assert found.info.status == "FINISHED"


def test_a_dead_server_is_said_once_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said = live(tmp_path / "run", "mlflow", range(1, 4))
    assert sum("mlflow could not be written" in text for text in said) == 1
    assert said[-1] == "epoch 3"
    assert len(Run(tmp_path / "run").history) == 3


def test_a_server_that_fails_in_the_middle_gets_the_rest_at_the_end(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "fails")
    whole = MlflowTracker.write_epochs
    calls: list[int] = []

    def fails_once(self: MlflowTracker, history: Any) -> None:
        calls.append(len(history))
        if len(calls) == 2:
            raise ConnectionError("gone")
        whole(self, history)

    monkeypatch.setattr(MlflowTracker, "write_epochs", fails_once)
    said = live(tmp_path / "run", "mlflow", range(1, 4), finish=True)
    assert calls == [1, 2, 3]
    assert sum("mlflow could not be written (gone)" in text for text in said) == 1
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server)
    (found,) = client.search_runs([client.get_experiment_by_name("fails").experiment_id])
    assert sorted(m.step for m in client.get_metric_history(found.info.run_id, "train/loss")) == [1, 2, 3]


def test_an_unknown_or_missing_service_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown --track 'mlfow'. Did you mean 'mlflow'"):
        check_kind("mlfow")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "eyespot\[track\]"'):
        check_kind("tensorboard")

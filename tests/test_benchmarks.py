"""The benchmark scripts run; what they measure is no business of a test."""

from __future__ import annotations

import csv
import importlib.util
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from eyespot.data.dataset import Dataset, PackedDataset
from eyespot.data.published import PUBLISHED
from eyespot.runs import Run
from eyespot.training.prepare import read_pixels

from .conftest import draw_pictures

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks.{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
    module = load("bench")
    monkeypatch.setattr(module, "ROUNDS", 1)
    return module


def test_every_recipe_can_be_measured(bench: ModuleType) -> None:
    for name in bench.RECIPES:
        config = bench.variant(name, training__batch_size=4)
        assert (config.training.epochs, config.training.batch_size, config.data.final) == (1, 4, True)
        assert config.training.size_schedule == []
    assert bench.training_speed(bench.variant("dll2018", training__batch_size=4), steps=8) > 0


def test_the_csv_has_a_row_a_figure(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "speed.csv"
    monkeypatch.setattr(sys, "argv", ["bench.py", "startup", "--out", str(path)])
    bench.main()
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [row["variant"] for row in rows] == ["python -c pass", "eyespot --help", "import torch"]
    assert all(float(row["low"]) <= float(row["median"]) <= float(row["high"]) for row in rows)
    assert {row["n"] for row in rows} == {"1"}


def test_a_part_of_the_figures_does_not_replace_the_published_ones(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["startup"], ["--recipe", "dll2018"]):
        monkeypatch.setattr(sys, "argv", ["bench.py", *words])
        with pytest.raises(SystemExit):
            bench.main()
        assert "--out" in capsys.readouterr().err


def test_the_data_side_is_measured_by_the_loader_of_a_training(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = bench.pictures, []

    def few(count: int, size_px: int) -> Dataset:
        asked.append((count, size_px))
        return real(500, size_px)

    monkeypatch.setattr(bench, "pictures", few)
    figures = {name: values for _, name, values, _ in bench.loader(("fast", "digits"))}
    assert asked == [(12_500, 32), (12_800, 8)]
    assert all(value > 0 for values in figures.values() for value in values)


def test_a_finished_run_becomes_a_row(tmp_path: Path) -> None:
    import eyespot

    run = eyespot.train("digits", settings={"training.epochs": 1}, out=tmp_path / "run")
    row = load("collect").row(Run.open(run.path))
    assert row["data"] == "digits"
    assert row["epochs"] == 1
    assert row["test_n"] == run.metrics["test"]["n"] == 359
    json.dumps(row)


def test_rules_for_unknown_pictures_are_measured_on_classes_that_were_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = load("unknown")
    data, out = tmp_path / "data", tmp_path / "unknown.csv"
    for split, count in (("train", 110), ("test", 4)):
        draw_pictures(data / split, ("cat", "dog", "eel"), count, seed=count)
    real = unknown.far_sets
    monkeypatch.setattr(unknown, "EPOCHS", 1)
    monkeypatch.setattr(unknown, "HELD_OUT", ("eel",))
    monkeypatch.setattr(unknown, "far_sets", lambda *asked: {name: some[:3] for name, some in real(*asked).items()})
    words = ["unknown.py", str(data), "--work", str(tmp_path / "work"), "--recipe", "small", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    unknown.main()
    rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    near = {row["rule"]: row for row in rows if row["kind"] == "near"}
    assert {"shipped", "MSP", "energy + kNN", "ViM"} <= set(near)
    assert {(row["set"], row["n"], row["networks"]) for row in near.values()} == {("left-out classes", "4", "1")}
    assert all(0 <= float(row["auroc"]) <= 100 and 0 <= float(row["fpr95"]) <= 100 for row in rows)
    assert {"digits", "noise", "upside down", "grey"} <= {row["set"] for row in rows}


def test_growth_of_the_search_for_near_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 20, size=32)
    module, path = load("near_copies"), tmp_path / "copies.csv"
    monkeypatch.setattr(sys, "argv", ["near_copies.py", "100", "400", "--data", str(data), "--out", str(path)])
    module.main()
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [(row["pictures"], row["planted"]) for row in rows] == [("100", "1"), ("400", "4")]


def test_planted_labels_are_measured_in_every_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
    data = draw_pictures(tmp_path / "data", ("cat", "dog", "eel"), 30)
    module, path = load("label_errors"), tmp_path / "labels.csv"

    def mean_colours(packed: PackedDataset, *_: object) -> list[np.ndarray]:
        return [read_pixels(packed, "train", np.arange(90)).mean(axis=(1, 2)).astype(np.float32)]

    monkeypatch.setattr(module, "encode_all", mean_colours)
    arguments = ["--data", str(data), "--kinds", "random", "--judge", "heads", "--seeds", "0", "--out", str(path)]
    monkeypatch.setattr(sys, "argv", ["label_errors.py", *arguments])
    module.main()
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [(row["round"], row["score"]) for row in rows] == [
        ("1", "1-p"),
        ("1", "posterior"),
        ("2", "1-p"),
        ("2", "posterior"),
    ]
    assert float(rows[-1]["precision_at_planted"]) == 1
    given = module.plant(np.arange(10).repeat(100), PUBLISHED["cifar10"].class_names, "by-class", 0)
    assert (given != np.arange(10).repeat(100)).sum() == 100


def test_photographs_are_made_of_the_test_pictures_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import eyespot

    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
    data = draw_pictures(tmp_path / "data", ("cat", "dog"), 60)  # without a test split of its own
    run = eyespot.train(data, recipe="small", settings={"training.epochs": 1}, out=tmp_path / "run")
    path = tmp_path / "photographs.csv"
    words = ["photographs.py", str(run.path), "--pictures", "5", "--out", str(path)]
    monkeypatch.setattr(sys, "argv", words)
    load("photographs").main()
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 2 * 5 * 5
    assert {(row["run"], row["n"]) for row in rows} == {("run", "5")}


def test_a_load_ends_when_the_server_is_gone(tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").write_bytes(b"one")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_one() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                connection.recv(4096)  # the second request has no answer

        thread = threading.Thread(target=answer_one)
        thread.start()
        words = [str(server.getsockname()[1]), str(tmp_path), "closed", "--requests", "100"]
        done = subprocess.run(
            [sys.executable, str(FOLDER / "http_load.py"), *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        thread.join()
    told = json.loads(done.stdout)
    assert (told["requests"], told["dropped"], told["statuses"]) == (1, 1, {"200": 1})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_damaged_training_passes_the_drill(tmp_path: Path) -> None:
    words = ["--jobs", "train", "--faults", "damage", "--trials", "1", "--out", str(tmp_path / "faults.csv")]
    done = subprocess.run(  # in a process of its own: it forks
        [sys.executable, str(FOLDER / "faults.py"), *words], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "faults.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["job"], row["fault"], row["failed"]) for row in rows] == [("train", "damage", "0")]
    assert int(rows[0]["struck"]) + int(rows[0]["not_struck"]) == 1


def test_the_drill_tells_a_wrong_result_and_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    faults = load("faults")
    digest = load("fault_jobs").digest(b"one")
    place = tmp_path / "trial"
    lines = iter(["", "one", "another"])

    class Trial(faults.Trial):
        def run(self, words: list[str], strike: object) -> int:
            (place / "out.csv").write_text(next(lines))
            (place / ".out.tmp").touch()
            return 0 if strike is None else -9

        def said(self) -> str:
            return "quiet"

    job = faults.Job(("predict",), load("fault_jobs").one_file("out.csv"))
    strike = faults.Strike("kill", 0.5)
    struck, wrong = faults.attempt(job, strike, Trial(place), {"out.csv": digest})
    assert struck
    assert wrong == [f"left: ['{place / '.out.tmp'}']"]
    lines = iter(["", "another"])
    _, wrong = faults.attempt(job, strike, Trial(place), {"out.csv": digest})
    assert wrong[0] == "another result: ['out.csv']"
    lines = iter(["", "one"])
    (place / "out.csv").unlink()
    struck, _ = faults.attempt(job, faults.Strike("damage", 0.5), Trial(place), {"out.csv": digest})
    assert not struck, "there was no file that could be damaged"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_drill_looks_for_processes_of_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    faults = load("faults")
    monkeypatch.setattr(faults.time, "sleep", lambda seconds: None)
    trial = faults.Trial(tmp_path / "trial")
    words = [sys.executable, "-c", "input()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, text=True, start_new_session=True) as left:
        trial.leaders.add(left.pid)
        trial.leader = 1 << 30  # a second command, which ended
        assert trial.leftovers() == [f"process {left.pid}"]
        left.communicate("\n")
    assert trial.leftovers() == []


def test_a_crowded_machine_is_measured_by_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
    crowded = load("crowded")
    monkeypatch.setattr(crowded, "EPOCHS", {8: 1})
    monkeypatch.setattr(sys, "argv", ["crowded.py", "--busy", "1", "--rounds", "1", "--spins", "20000"])
    crowded.main()
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (row["busy_processes"], row["spins"], row["n"]) == ("1", "20000", "1")
    assert float(row["pictures_per_second"]) > 0

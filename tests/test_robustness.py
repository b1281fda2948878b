"""The grid of corruptions as a verb: resumed after a kill, counted as a reading of test, shown in the report."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from eyespot import cli
from eyespot.analysis.robustness_section import add_section, render_section
from eyespot.errors import RunError
from eyespot.mistakes import stamped
from eyespot.robustness import FILE, evaluate_robustness
from eyespot.runs import Run
from eyespot.terminal import Terminal


class Listener(Terminal):
    """An observer that keeps what is said, and stops after some cells."""

    def __init__(self, stop_after: int = 1000) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []
        self.cells = 0
        self.stop_after = stop_after

    def on_message(self, text: str) -> None:
        self.said.append(text)

    def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
        if unit == "cells":
            self.cells += 1
            if self.cells == self.stop_after:
                raise KeyboardInterrupt


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.path, tmp_path / "run"))


def test_after_a_kill_the_same_call_goes_on_and_ends_the_same(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    whole = evaluate_robustness(other)
    with pytest.raises(KeyboardInterrupt):
        evaluate_robustness(run, observer=Listener(stop_after=30))
    listener = Listener()
    assert evaluate_robustness(run, observer=listener) == whole
    assert "30 of 82 cells are measured; going on behind them" in listener.said
    assert listener.cells == 52
    assert Run(run).metrics["test_reads"] == 2, "one look at test, however often it was interrupted"
    again = Listener()
    assert evaluate_robustness(run, observer=again) == whole
    assert again.cells == 0
    assert json.loads((run / FILE).read_text(encoding="utf-8"))["summary"] == whole


def test_a_full_disk_says_what_goes_on_with_the_grid(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, value: Any) -> None:
        raise RunError("cannot write (the disk is full)", where=path, remedy="free some space")

    monkeypatch.setattr("eyespot.robustness.write_json", fail)
    with pytest.raises(RunError, match="free some space; the same command goes on"):
        evaluate_robustness(run, split="val")


def test_a_damaged_grid_asks_for_no_training(run: Path) -> None:
    (run / FILE).write_text('{"job": {', encoding="utf-8")
    with pytest.raises(
        RunError, match=r"not valid JSON .*robustness\.json: delete the file: the grid is measured again"
    ):
        evaluate_robustness(run)


def test_clean_pictures_have_the_accuracy_of_evaluate(run: Path) -> None:
    found = evaluate_robustness(run, split="val")
    assert found["clean"]["top1"] == Run(run).metrics["val"]["top1"]
    assert found["n"] == found["of"] == Run(run).metrics["val"]["n"]
    assert Run(run).metrics["test_reads"] == 1


def test_another_question_begins_anew_and_the_answer_before_stays_until_it_is_answered(run: Path) -> None:
    evaluate_robustness(run, split="val")
    whole = (run / FILE).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        evaluate_robustness(run, split="val", limit=3, observer=Listener(stop_after=5))
    assert (run / FILE).read_bytes() == whole
    evaluate_robustness(run, split="val", limit=4)
    listener = Listener()
    assert evaluate_robustness(run, split="val", limit=3, observer=listener)["n"] == 3
    assert listener.cells == 82


def test_the_report_has_the_grid_once_and_says_who_drew_it(run: Path) -> None:
    before = (run / "report.html").read_text(encoding="utf-8")
    evaluate_robustness(run, limit=3)
    evaluate_robustness(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count('id="robustness"') == 1
    assert "eyespot drew the corruption itself" in page
    assert page.count('<th scope="row">gaussian noise</th>') == 1
    assert page.count('<a href="#robustness">') == 1
    page = page.replace(page[page.index("<!-- robustness") : page.index('<section id="data"')], "")
    assert page.replace('<li><a href="#robustness">Worse pictures</a></li>\n', "") == before


def test_a_report_that_is_none(tmp_path: Path) -> None:
    for content in (None, "", "<html>"):
        if content is not None:
            (tmp_path / "report.html").write_text(content)
        with pytest.raises(RunError, match="report"):
            add_section(tmp_path / "report.html", figures())


def figures() -> dict[str, Any]:
    one = {"top1": 0.5, "top1_ci95": [0.2, 0.8]}
    grid = {"corruptions": {"fog": [one] * 5}, "clean": one, "mirrored": one, "shifted": [one] * 5}
    return {**grid, "n": 9, "of": 90, "split": "val", "views": "none", "seed": 0, "mean_corruption_error": 0.5}


def test_a_cell_that_is_nearly_all_or_nothing_does_not_look_like_it() -> None:
    cells = [{"top1": share, "top1_ci95": [share, share]} for share in (1.0, 0.9965, 0.5, 0.004, 0.0)]
    shown = re.findall(
        r">([\d.]+)</td>", render_section({**figures(), "corruptions": {"fog": cells}}).split("shifted")[0]
    )
    assert shown == ["100", "99.7", "50", "0.4", "0", "50.0"]  # the last is their mean


def test_a_mistake_on_purpose_stamps_these_figures_too() -> None:
    one = {**figures(), "flaw": "leaked"}
    page = render_section(one)
    assert "<strong>leaked:</strong> Mean corruption error" in page
    assert "leaked: 50.0" in page.replace("\u00a0", " ")
    assert stamped({"n": 1}, ["train-on-test"], "test")["flaw"]


def test_a_run_without_a_report_is_measured_all_the_same(run: Path) -> None:
    (run / "report.html").unlink()
    listener = Listener()
    assert evaluate_robustness(run, split="val", observer=listener)["n"]
    assert any(said.startswith("note: the report was not changed: cannot read") for said in listener.said)


def test_the_command(run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run(["evaluate", str(run), "--robustness", "--split", "val", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= {"run", "data", "n", "split", "mean_corruption_error", "corruptions"}
    assert cli._run(["evaluate", str(run / "bundle"), "--robustness", "--data", str(pictures), "--limit", "9"]) == 1
    assert "the model was trained on most of these pictures" in capsys.readouterr().err
    assert cli._run(["evaluate", str(run), "--robustness", "--split", "val"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20
    assert lines[-2].startswith("each figure above has a 95 % interval that reaches at most ")
    reach = re.search(r"reaches at most ([\d.]+) points from it", lines[-2])
    assert reach is not None
    page = (run / "report.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    assert f"the 95 % interval of a cell, and of a row's mean, reaches at most {reach[1]} points from it" in page
    assert lines[-1].startswith("mean corruption error ")
    assert cli._run(["evaluate", str(run), "--robustness", "--split", "train", "--limit", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r"on train \(n = 4 of \d+, ", lines[0])
    assert re.search(r"on train \(n = 4 of \d+; 15 kinds", lines[-1])
    assert cli._run(["evaluate", str(run), "--limit", "9"]) == 2
    assert "--limit without --robustness in the command line: give both or none" in capsys.readouterr().err
    assert cli._run(["evaluate", str(run), "--robustness", "--limit", "-1"]) == 2

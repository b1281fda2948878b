"""Notes and tags on a run, and the list of runs that shows them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from eyespot.config import load_config
from eyespot.errors import EyespotError, RunError, UsageError
from eyespot.notes import NOTES, Annotations, annotate, read_annotations
from eyespot.runs import Run, RunWriter
from eyespot.tables import RUN_ORDERS, show_runs


def make_run(folder: Path, **figures: float) -> Run:
    """Return a run folder of a few lines: val, test (top-1), seconds and parameters where they are given."""
    with RunWriter(folder, load_config("digits")) as writer:
        shares = {name: figures[name] for name in ("val", "test") if name in figures}
        splits = {name: {"n": 10, "top1": top1, "top1_ci95": [0.1, 0.9]} for name, top1 in shares.items()}
        writer.write_metrics({**splits, "train_seconds": figures.get("seconds", 1.0)})
        writer.write_provenance({"dataset": "digits", "parameters": figures.get("parameters"), "finished": "now"})
    return Run(folder)


def test_notes_are_kept_in_order_and_tags_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    assert read_annotations(run) == Annotations()
    annotate(run.path, note="first", tags=["b", "a"])
    found = annotate(run.path, note=" second ", tags=["b"], untag=["a"])
    assert [note.text for note in found.notes] == ["first", "second"]
    assert found.tags == ("b",)
    assert read_annotations(Run(run.path)) == found


def test_whoever_only_looks_needs_no_right_to_write(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    annotate(run.path, note="first")
    (run.path / f"{NOTES}.lock").unlink()
    assert [note.text for note in annotate(run.path).notes] == ["first"]
    assert not (run.path / f"{NOTES}.lock").exists()


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: annotate(run.path, note=f"n{number}", tags=[f"t{number}"]), range(12)))
    found = read_annotations(run)
    assert {note.text for note in found.notes} == {f"n{number}" for number in range(12)}
    assert len(found.tags) == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"note": " "}, "an empty or overlong note"),
        ({"note": "x" * 10_001}, "an empty or overlong note"),
        ({"tags": ["a,b"]}, "'a,b' cannot be a tag"),
        ({"tags": ["a\nb"]}, "cannot be a tag"),
        ({"tags": [""]}, "'' cannot be a tag"),
        ({"untag": ["gone"]}, "no tag 'gone'.*its tags: here"),
    ],
)
def test_what_cannot_be_written_is_refused_and_changes_nothing(
    tmp_path: Path, words: dict[str, Any], message: str
) -> None:
    run = make_run(tmp_path / "a")
    before = annotate(run.path, tags=["here"])
    with pytest.raises(UsageError, match=message):
        annotate(run.path, **words)
    assert read_annotations(run) == before


@pytest.mark.parametrize("content", ["{", "[]", '{"notes": [1], "tags": []}', '{"notes": []}', "[" * 100_000])
def test_a_damaged_file_is_named_and_never_overwritten(tmp_path: Path, content: str) -> None:
    run = make_run(tmp_path / "a")
    (run.path / NOTES).write_text(content)
    for call in (lambda: read_annotations(run), lambda: annotate(run.path, note="new")):
        with pytest.raises(RunError, match="not the notes of a run"):
            call()
    assert (run.path / NOTES).read_text() == content


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        annotate(tmp_path, note="x")


DAMAGES = [
    ("metrics.json", {"train_seconds": "x"}, "train_seconds is 'x', not a number"),
    ("metrics.json", {"train_seconds": float("nan")}, "train_seconds is nan, not a number"),
    ("metrics.json", {"train_seconds": 10**400}, "int too large"),
    ("metrics.json", {"test": {"n": 10, "top1": "x", "top1_ci95": [0, 1]}}, "damaged: "),
    ("metrics.json", {"test": {"n": 10, "top1": 0.5, "top1_ci95": []}}, "damaged: "),
    ("metrics.json", {"val": {"top1": True, "n": 1, "top1_ci95": [0, 1]}}, "top1 is True, not a number"),
    ("provenance.json", {"dataset": 5}, "dataset is 5, not text"),
    ("provenance.json", {"dataset": None}, "dataset is None, not text"),
    ("provenance.json", {"parameters": "many"}, "parameters is 'many', not a number"),
    ("provenance.json", {"parameters": [1]}, "parameters is [1], not a number"),
    ("provenance.json", {"started": 7}, "started is 7, not text"),
]


@pytest.mark.parametrize(("file", "content", "reason"), DAMAGES)
def test_a_damaged_run_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: dict[str, Any], reason: str
) -> None:
    make_run(tmp_path / "a", val=0.5, test=0.9, seconds=3.0, parameters=20)
    make_run(tmp_path / "b", val=0.5)
    for run, started in (("a", "2026-01-01"), ("b", "2026-01-02")):
        known = json.loads((tmp_path / run / "provenance.json").read_text())
        (tmp_path / run / "provenance.json").write_text(json.dumps({**known, "started": started}))
    path = tmp_path / "b" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))
    for sort in RUN_ORDERS:
        show_runs(tmp_path, json=True, sort=sort)
        rows = {row["run"]: row for row in json.loads(capsys.readouterr().out)}
        assert rows["a"]["result"].startswith("90.0 %")
        assert rows["b"]["result"].startswith("damaged: ")
        assert reason in rows["b"]["result"]
        show_runs(tmp_path, json=False, sort=sort)
        assert "90.0 %" in capsys.readouterr().out


def test_runs_are_sorted_and_found_by_their_tags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", val=0.5, test=0.9, seconds=3.0, parameters=20)
    make_run(tmp_path / "b", val=0.7, seconds=2.0, parameters=10)
    make_run(tmp_path / "c", test=0.8, seconds=1.0)
    annotate(tmp_path / "b", tags=["good", "old"], note="why")
    (tmp_path / "c" / NOTES).write_text("{")

    def order(*, sort: str, tag: str | None = None) -> list[str]:
        show_runs(tmp_path, json=True, sort=sort, tag=tag)
        return [row["run"] for row in json.loads(capsys.readouterr().out)]

    assert order(sort="name") == ["a", "b", "c"]
    assert order(sort="test") == ["b", "c", "a"]
    assert order(sort="val") == ["c", "a", "b"]
    assert order(sort="params") == ["c", "b", "a"]
    assert order(sort="minutes")[-2:] == ["b", "a"]
    assert order(sort="created", tag="good") == ["b"]
    show_runs(tmp_path, json=False)
    told = capsys.readouterr().out
    assert "good, old" in told
    header, first = told.splitlines()[:2]
    assert not first[header.index("epochs") : header.index("epochs") + 6].strip()  # trained without epochs, not for 0
    assert "damaged: not the notes of a run" in told
    show_runs(tmp_path, json=False, tag="none")
    assert "no runs in" in capsys.readouterr().out
    with pytest.raises(EyespotError, match=r"unknown order 'tset'. Did you mean 'test'"):
        show_runs(tmp_path, json=False, sort="tset")


def test_runs_of_studies_are_listed_by_where_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", val=0.5)
    make_run(tmp_path / "study-x" / "runs" / "vgg-seed0", val=0.6)
    for folder, names in ((tmp_path, ["a", "study-x/runs/vgg-seed0"]), (tmp_path / "study-x", ["runs/vgg-seed0"])):
        show_runs(folder, json=True, sort="name")
        assert [row["run"] for row in json.loads(capsys.readouterr().out)] == names


def test_one_tag_is_a_word_and_not_its_letters(tmp_path: Path) -> None:
    assert annotate(make_run(tmp_path / "a").path, tags="baseline").tags == ("baseline",)

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import eyespot
from eyespot.errors import DataError, RunError
from eyespot.runs import Run
from eyespot.sweeps.journal import Journal, Trial

from .conftest import finished


def test_what_is_written_is_read_again(journal: Journal) -> None:
    journal.begin()
    done = finished(Trial(1, {"optimizer.lr": 0.1}), 0.9)
    journal.write(Trial(1, {"optimizer.lr": 0.1}))
    journal.write(done)
    journal.write(Trial(2, {"optimizer.lr": 0.2}))
    again = Journal.open(journal.folder)
    assert again.plan == journal.plan
    assert again.trials[1] == done
    assert again.trials[2].state == "waiting"  # its process is gone
    assert again.run_folder(done).name == "0001"


def test_a_line_that_was_torn_counts_for_nothing_and_is_taken_away(journal: Journal) -> None:
    journal.begin()
    journal.write(Trial(1, {}))
    path = journal.folder / "journal.jsonl"
    path.write_text(path.read_text() + '{"time": 3, "tri')
    again = Journal.open(journal.folder)
    assert list(again.trials) == [1]
    again.begin()
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert list(Journal.open(journal.folder).trials) == [1]


def test_time_is_counted_over_all_processes(journal: Journal) -> None:
    path = journal.folder / "journal.jsonl"
    rows = [{"seconds": 0.0, "begin": True}, {"seconds": 30.0}, {"seconds": 0.1, "begin": True}, {"seconds": 12.0}]
    path.write_text("".join(json.dumps({"time": 1.0, **row}) + "\n" for row in rows))
    assert Journal.open(journal.folder).seconds_before == 42.0


def test_a_clock_that_is_set_while_a_sweep_runs_spends_no_time(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.begin()  # on a machine that starts in 1970 and asks for the time a moment later
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 56 * 365 * 86400)
    journal.write(Trial(1, {}))
    assert Journal.open(journal.folder).seconds_before < 60


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("sweep.json", "{", "damaged"),
        ("sweep.json", "[]", "damaged"),
        ("sweep.json", '{"format": 99}', "another version"),
        ("journal.jsonl", '{"time": 1, "trial": {"number": 1}}\n', "damaged"),
        ("journal.jsonl", 'nonsense\n{"time": 1}\n', "damaged"),
    ],
)
def test_a_damaged_sweep_is_refused(journal: Journal, file: str, text: str, words: str) -> None:
    (journal.folder / file).write_text(text)
    with pytest.raises(RunError, match=words):
        Journal.open(journal.folder)


def test_the_winner_is_best_on_val_then_by_loss_then_the_earlier_one(journal: Journal) -> None:
    assert journal.winner() is None
    for number, (top1, loss) in enumerate([(0.8, 0.3), (0.9, 0.6), (0.9, 0.5), (0.9, 0.5)], 1):
        journal.write(finished(Trial(number, {}), top1, loss))
    journal.write(replace(Trial(5, {}), state="stopped", top1=0.99, loss=0.1, epochs=1))
    found = journal.winner()
    assert found is not None
    assert found.number == 3
    journal.plan = replace(journal.plan, metric="val/loss")
    found = journal.winner()
    assert found is not None
    assert found.number == 1


def test_a_full_disk_is_said_with_the_way_on(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: object, line: str, *, durable: bool) -> None:
        raise RunError("cannot write (the disk is full)", where=path, remedy="free some space")

    monkeypatch.setattr("eyespot.sweeps.journal.append_line", full)
    with pytest.raises(RunError, match=r"disk is full.*eyespot sweep --resume goes on"):
        journal.write(Trial(1, {}))


def test_a_sweep_does_not_go_on_on_other_pictures(
    journal: Journal, pictures: Path, trained: Run, tmp_path: Path
) -> None:
    photos = Path(shutil.copytree(pictures, tmp_path / "photos"))
    journal.plan = replace(journal.plan, data=str(photos))
    journal.write_plan()
    journal.write(replace(Trial(1, {"optimizer.lr": 0.1}), state="running"))
    run = Path(shutil.copytree(trained.path, journal.run_folder(journal.trials[1])))
    known = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps(known | {"data": str(photos)}))
    Image.new("RGB", (12, 12), (200, 1, 2)).save(photos / "cat" / "more.png")
    with pytest.raises(DataError, match=r"are not those that the run divided: 60 then, 61 now .*trials.0001"):
        eyespot.sweep(out=journal.folder, resume=True)


def test_a_sweep_whose_pictures_have_moved_says_how_to_go_on(journal: Journal, tmp_path: Path) -> None:
    journal.plan = replace(journal.plan, data=str(tmp_path / "photos"))
    journal.write_plan()
    with pytest.raises(DataError, match=r"its pictures are not there any more: .*photos in .*sweep: .* a link to them"):
        eyespot.sweep(out=journal.folder, resume=True)


def test_what_was_on_its_way_when_a_sweep_was_ended_waits_and_its_time_counts(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.begin()
    journal.write(Trial(1, {}))
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + 300)
    journal.end()
    assert journal.trials[1].state == "waiting"
    again = Journal.open(journal.folder)
    assert again.trials[1].state == "waiting"
    assert again.seconds_before >= 300

"""Prediction on many: one order, constant memory, and a CSV file that no kill harms."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eyespot import predicting
from eyespot.analysis import words
from eyespot.answer_file import AnswerFile, csv_row
from eyespot.data import decoding, walking, worker_process
from eyespot.data.resizing import RowFormat
from eyespot.data.stream_workers import StreamWorkers, decode_squares
from eyespot.data.walking import walk_pictures
from eyespot.errors import DataError, EyespotError, MemoryLimitError, RunError, UsageError
from eyespot.evaluation.bundle import save_bundle
from eyespot.evaluation.predictor import Predictor, load_predictor
from eyespot.evaluation.unknown import Scaling, UnknownRule, UnknownScore
from eyespot.locks import file_lock
from eyespot.runs import Run

# ------------------------------------------------------------------------------------------------------------- walking


def make_tree(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


TREE = [
    "b.png",
    "a/z.png",
    "a/b/c.jpg",
    "a!.png",
    "a.png",
    "a-1.png",
    "ab/x.png",
    ".hidden/x.png",
    "a/notes.txt",
    "é/ü.png",
]


@pytest.mark.parametrize("names", [50_000, 2])
def test_pictures_come_in_the_order_of_their_paths_however_many_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: int
) -> None:
    monkeypatch.setattr(walking, "_NAMES", names)
    make_tree(tmp_path, [*TREE, *(f"many/{n:02}.png" for n in range(20))])
    found = [Path(path).relative_to(tmp_path).as_posix() for path, _ in walk_pictures(tmp_path)]
    wanted = [name for name in TREE if not name.startswith(".") and not name.endswith("txt")]
    assert found == sorted([*wanted, *(f"many/{n:02}.png" for n in range(20))])


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither such names nor such links")
def test_odd_names_links_and_folders_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "_NAMES", 2)
    make_tree(tmp_path, ["shut/x.png", "a\nb.png", '"q".png'])
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    real = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = {os.path.basename(path): error for path, error in walk_pictures(tmp_path)}
    assert found == {
        "a\nb.png": None,
        '"q".png': None,
        "\udcff.png": None,
        "shut": "cannot list the folder (Permission denied)",
    }
    with pytest.raises(DataError, match=r"cannot list the folder \(Permission denied\) in .*shut: check its perm"):
        list(walk_pictures(tmp_path / "shut"))


# -------------------------------------------------------------------------------------------------------------- squares


def test_processes_give_the_squares_and_the_reasons_that_this_process_gives(tmp_path: Path) -> None:
    form = RowFormat(8, 3, "short-side", "bilinear")
    dice = np.random.default_rng(0)
    for n, (width, height) in enumerate([(20, 13), (13, 20), (8, 8)]):
        Image.fromarray(dice.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{n}.png")
    (tmp_path / "bad.png").write_text("no picture")
    paths = [str(tmp_path / name) for name in ("0.png", "bad.png", "1.png", "2.png", "none.png")]
    expected, reasons = decode_squares(paths, form)
    assert reasons == {1: "is a text file, not a picture", 4: "does not exist"}
    assert expected[[0, 2, 3]].any(axis=(1, 2, 3)).all()
    workers = StreamWorkers(form, 1, squares=True)
    try:
        squares = np.ones_like(expected)
        assert workers.submit(paths, squares).result(60) == reasons
        assert (squares == expected).all()
    finally:
        workers.close()


def test_processes_give_signs_of_life_between_slow_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = "from eyespot.data import stream_workers; stream_workers._ALIVE_SECONDS = 0; from eyespot"
    monkeypatch.setattr(worker_process, "_BOOTSTRAP", worker_process._BOOTSTRAP.replace("from eyespot", at_once, 1))
    form, signs = RowFormat(8, 3, "short-side", "bilinear"), []
    workers = StreamWorkers(form, 1, squares=True)
    try:
        paths = [str(tmp_path / f"{n}.png") for n in range(5)]
        squares = np.ones((5, 8, 8, 3), np.uint8)
        assert len(workers.submit(paths, squares, lambda: signs.append(1)).result(60)) == 5
        assert len(signs) == 5
        assert not squares.any()
    finally:
        workers.close()


STOPPED = (
    "import json, os, signal, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline())\n"
    "from eyespot.data import stream_workers\n"
    "real = stream_workers.decode_image\n"
    "def decode_image(path, **options):\n"
    "    if path.endswith('3.png'): os.kill(os.getpid(), signal.SIGSTOP)\n"
    "    return real(path, **options)\n"
    "stream_workers.decode_image = decode_image\n"
    "stream_workers.serve(sys.stdin.buffer, sys.stdout.buffer)\n"
)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGSTOP")
def test_a_stopped_process_is_an_error_and_no_hang(trained: Run, many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_BOOTSTRAP", STOPPED)
    for name, value in (("_FOR_PROCESSES", 10), ("_PIECE", 2), ("STALL_SECONDS", 2.0)):
        monkeypatch.setattr(predicting, name, value)
    outcome: list[Any] = []

    def answer() -> None:
        asked = [predicting.Asked(path) for path, _ in walk_pictures(many)]
        try:
            outcome.append(list(predicting.answers(load_predictor(trained.path), asked, top=1)))
        except DataError as error:
            outcome.append(error)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    thread.join(60)
    assert outcome, "it hangs"
    assert re.match(
        r"the decoding workers have finished no picture for 2 s in .*\.png or one of the 1 pictures after it: "
        "see whether the drive with the pictures answers",
        str(outcome[0]),
    )


# ------------------------------------------------------------------------------------------------------------- the file


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return a folder with forty pictures, of which two are bad, and odd names."""
    folder = tmp_path / "many"
    (folder / "below").mkdir(parents=True)
    dice = np.random.default_rng(0)
    for n in range(38):
        Image.fromarray(dice.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / f"{n:02}.png")
    (folder / "05.png").write_text("no picture")
    (folder / "below" / "bad.jpg").write_bytes(b"")
    if os.name != "nt":
        (folder / "07.png").rename(folder / '07 "a",\nb.png')
        (folder / "09.png").rename(folder / "09 a\rb.png")
        (folder / "11.png").rename(folder / r"11 a\b.png")
    return folder


def test_every_name_has_a_cell_of_its_own_that_a_reader_of_csv_gets_whole() -> None:
    read = {
        "a b.png": "a b.png",
        "a\rb.png": "a\rb.png",
        "a\nb.png": "a\nb.png",
        "a\r\nb.png": "a\r\nb.png",
        '"a",b.png': '"a",b.png',
        r"C:\pictures\a.png": r"C:\pictures\a.png",
        r"\udcfg.png": r"\udcfg.png",
        "\udcff\udcfe.png": r"\udcff\udcfe.png",  # the bytes FF FE, which are no UTF-8
        r"\udcff\udcfe.png": r"\\udcff\\udcfe.png",  # a name that reads so
        "\\\udcff.png": r"\\\udcff.png",
        r"\\udcff.png": r"\\\\udcff.png",
        "\udcff\\udcff.png": r"\udcff\\udcff.png",
        r"\udcff\\udcff.png": r"\\udcff\\\\udcff.png",
    }
    written = b"".join(csv_row([name, ""]) for name in read).decode()
    assert [row[0] for row in csv.reader(io.StringIO(written, newline=""))] == list(read.values())
    assert len(set(read.values())) == len(read)


def write(trained: Run, folder: Path, out: Path, **changes: Any) -> int:
    return predicting.write_predictions(trained.path, [str(folder)], out, **{"top": 2, **changes})


def test_every_picture_has_a_row_in_order_and_the_answer_of_predict(
    trained: Run, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    assert write(trained, many, out) == 2
    assert "39 rows in" in capsys.readouterr().err
    one = next(path for path, error in walk_pictures(many) if not error)
    write(trained, Path(one), tmp_path / "one.csv")
    assert "1 row in" in capsys.readouterr().err
    rows = list(csv.reader(io.StringIO(out.read_bytes().decode(), newline="")))
    assert rows[0] == ["picture", "label1", "prob1", "label2", "prob2", "unknown", "unknown_score", "error"]
    paths = [path for path, _ in walk_pictures(many)]
    assert [row[0] for row in rows[1:]] == paths
    for row, answer in zip(rows[1:], load_predictor(trained.path).predict(paths, top_k=2), strict=True):
        assert row[-1] == (answer.error or "")
        if answer.error is None:
            assert row[1:3] == [answer.label, f"{answer.prob:.6f}"]
    assert not list(tmp_path.glob("out.csv.*"))


def test_processes_and_threads_write_the_same_bytes(
    trained: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(trained, many, tmp_path / "threads.csv")
    monkeypatch.setattr(predicting, "_FOR_PROCESSES", 10)
    write(trained, many, tmp_path / "processes.csv")
    assert (tmp_path / "threads.csv").read_bytes() == (tmp_path / "processes.csv").read_bytes()


def test_the_same_command_is_named_only_where_it_goes_on(
    trained: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "_FOR_PROCESSES", 10)
    monkeypatch.setattr(worker_process, "_BOOTSTRAP", "raise SystemExit(5)")
    with pytest.raises(DataError, match=r"a decoding worker ended with code 5.*; the same command goes on$"):
        write(trained, many, tmp_path / "out.csv")
    with pytest.raises(DataError, match=r"a decoding worker ended with code 5.* take that picture away$"):
        predicting.print_predictions(trained.path, [str(many)], top=1, form="json")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_batches_that_are_computed_at_once_have_the_same_bytes_and_leave_the_threads_as_they_were(
    trained: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "_BATCH", 8)
    write(trained, many, tmp_path / "in-turn.csv")
    monkeypatch.setattr(predicting, "_FOR_PROCESSES", 10)
    write(trained, many, tmp_path / "at-once.csv")
    assert (tmp_path / "in-turn.csv").read_bytes() == (tmp_path / "at-once.csv").read_bytes()
    real, names = Predictor.predict_pixels, set()

    def fail_at_last(self: Predictor, batch: Any, **options: Any) -> Any:
        names.add(threading.current_thread().name.rsplit("_", 1)[0])
        if len(batch) < 8:
            raise MemoryLimitError("no memory left", remedy="free some")
        return real(self, batch, **options)

    monkeypatch.setattr(Predictor, "predict_pixels", fail_at_last)
    with pytest.raises(MemoryLimitError, match="no memory left: free some"):
        write(trained, many, tmp_path / "failed.csv")
    assert names == {"eyespot-compute"}
    assert torch.get_num_threads() == 2


def with_rule(trained: Run, folder: Path, threshold: float) -> Path:
    """Return a bundle that calls pictures unknown whose energy is above a threshold."""
    predictor = load_predictor(trained.path, unknown="never")
    parts = {"energy": Scaling(weight=1.0, centre=0.0, scale=1.0)}
    widths = {"rows": 0, "neighbours": 1, "num_features": 0, "num_pixel_statistics": 0}
    rule = UnknownRule(parts=parts, threshold=threshold, fraction=0.05, n=99, **widths)
    info = predictor.info.model_copy(update={"unknown": rule})
    save_bundle(folder, predictor.model, info, unknown=UnknownScore({}, 1, parts))
    return folder


@pytest.mark.parametrize(("threshold", "cell"), [(-1e6, "true"), (1e6, "false")])
def test_an_unknown_picture_is_called_so_in_every_form_unless_nobody_asks(
    trained: Run, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], threshold: float, cell: str
) -> None:
    bundle = with_rule(trained, tmp_path / "bundle", threshold)
    picture = str(many / "00.png")
    nearest = load_predictor(bundle).predict([picture])[0]
    assert nearest.unknown is (cell == "true")
    assert nearest.unknown_score is not None

    def printed(form: predicting.Form, unknown: predicting.Asking) -> str:
        capsys.readouterr()
        assert predicting.print_predictions(bundle, [picture], top=1, form=form, unknown=unknown) == 0
        return capsys.readouterr().out

    known = f"{nearest.label} {words.percent(nearest.prob)}"
    told = f"unknown (nearest: {known})" if nearest.unknown else known
    assert printed("text", "auto") == f"{picture}: {told}\n"
    assert printed("text", "never") == f"{picture}: {known}\n"
    row = next(csv.DictReader(io.StringIO(printed("csv", "auto"))))
    assert (row["unknown"], row["unknown_score"]) == (cell, f"{nearest.unknown_score:.4f}")
    row = next(csv.DictReader(io.StringIO(printed("csv", "never"))))
    assert (row["unknown"], row["unknown_score"]) == ("", "")
    answer = json.loads(printed("json", "never"))[0]
    assert answer["unknown"] is answer["unknown_score"] is None
    assert json.loads(printed("json", "auto"))[0]["unknown"] is nearest.unknown


@pytest.fixture
def whole(trained: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return the bytes of an undisturbed run in batches of eight."""
    monkeypatch.setattr(predicting, "_BATCH", 8)
    write(trained, many, tmp_path / "whole.csv")
    return (tmp_path / "whole.csv").read_bytes()


def interrupt(trained: Run, many: Path, out: Path, monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Leave a file as a kill would after some batches."""
    with monkeypatch.context() as patch:
        real, done = AnswerFile.append, []

        def append(self: AnswerFile, *args: Any, **keywords: Any) -> None:
            if len(done) == batches:
                raise KeyboardInterrupt
            done.append(real(self, *args, **keywords))

        patch.setattr(AnswerFile, "append", append)
        with pytest.raises(KeyboardInterrupt):
            write(trained, many, out)
    assert out.with_name("out.csv.journal").exists()


@pytest.mark.parametrize("batches", [0, 1, 4])
@pytest.mark.parametrize("damage", ["none", "torn", "half a batch", "zeros", "no head"])
def test_after_a_kill_the_same_command_gives_the_same_bytes(
    trained: Run,
    many: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: bytes,
    batches: int,
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.csv"
    interrupt(trained, many, out, monkeypatch, batches)
    there = out.read_bytes()
    assert whole.startswith(there)
    if damage == "torn":
        out.write_bytes(there[:-3])
    elif damage == "half a batch":
        out.write_bytes(whole[: len(there) + 150])
    elif damage == "zeros":
        out.write_bytes(there + bytes(100))
    elif damage == "no head":
        out.write_bytes(there[:9])
    assert write(trained, many, out) == 2
    assert out.read_bytes() == whole
    if damage == "none" and batches:
        assert f"{8 * batches} pictures are answered in {out}; going on behind them" in capsys.readouterr().err
    with pytest.raises(RunError, match="the file is there already"):
        write(trained, many, out)


def test_another_job_another_folder_or_a_second_process_is_refused(
    trained: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes
) -> None:
    out = tmp_path / "out.csv"
    interrupt(trained, many, out, monkeypatch, 2)
    there = out.read_bytes()
    with pytest.raises(RunError, match=r"begun with another model, other pictures or other options in .*: give them"):
        write(trained, many, out, top=1)
    journal = out.with_name("out.csv.journal")
    kept = journal.read_bytes()
    journal.write_bytes(b"\xff\xfe damaged")
    with pytest.raises(RunError, match=r"begun with another model, .*: give them again, give another name, or delete"):
        write(trained, many, out)
    journal.write_bytes(kept)
    with pytest.raises(RunError, match="begun with another model, other pictures or other options"):
        write(trained, many, out, unknown="never")
    with file_lock(tmp_path / "out.csv.journal"), pytest.raises(RunError, match="another process writes it"):
        write(trained, many, out)
    (many / "00a.png").write_bytes((many / "00.png").read_bytes())
    with pytest.raises(DataError, match=r"not those that the first 16 rows answer \(one is new or gone near .*00a"):
        write(trained, many, out)
    (many / "00a.png").unlink()
    for path in list(many.glob("*.png")):
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(DataError, match="near"):
        write(trained, many, out)
    assert out.read_bytes() == there, "a refused file was changed"


ROWS = {
    "a table of mine": "name,height\nAda,170\n" * 50,
    "less than a first line": "mine",
    "the same first line": "HEAD" + "mine,cat,0.5,dog,0.5,,,\n" * 3,
    "the same first line and a note": "HEAD" + "remember: buy milk",
    "an open quote": "HEAD" + '"remember: buy milk\n' * 9,
    "saved by a spreadsheet": "HEAD\r\n",
}


@pytest.mark.parametrize("name", ROWS)
def test_a_file_of_somebody_else_beside_an_old_journal_is_left_alone(
    trained: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes, name: str
) -> None:
    out = tmp_path / "out.csv"
    interrupt(trained, many, out, monkeypatch, 1)
    head = whole.partition(b"\n")[0]
    mine = ROWS[name].encode().replace(b"HEAD\r\n", head + b"\r\n").replace(b"HEAD", head + b"\n")
    out.write_bytes(mine)
    with pytest.raises(EyespotError, match=r"not the file that out\.csv\.journal is of|pictures are not those that"):
        write(trained, many, out)
    assert out.read_bytes() == mine


@pytest.mark.parametrize("target", [".", "/", "..", "folder", "pipe", "/dev/null"])
def test_what_cannot_be_a_csv_file_is_said_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    if os.name == "nt" and target in ("pipe", "/dev/null"):
        pytest.skip("Windows has no such files")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    if target == "pipe":
        os.mkfifo(tmp_path / "pipe")
    what = "is not a regular file: name another" if target in ("pipe", "/dev/null") else "is a folder, not a CSV file"
    with pytest.raises(UsageError, match=what):
        predicting.write_predictions(tmp_path / "no run", ["a.png"], Path(target), top=1)
    assert sorted(os.listdir(tmp_path)) == sorted({"folder", *({"pipe"} if target == "pipe" else ())})


def test_what_lies_in_a_folder_that_may_not_be_entered_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.lstat

    def refuse(path: Any, **options: Any) -> Any:
        if "shut" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, **options)

    monkeypatch.setattr(os, "lstat", refuse)
    below_a_file = tmp_path / "file" / "b.png"
    (tmp_path / "file").touch()
    names = [str(tmp_path / "shut" / "a.png"), str(tmp_path / "none.png"), str(below_a_file), "a" * 5000, "a\0"]
    found = [asked.error for asked in predicting.collect(names)]
    too_long = f"cannot be reached ({os.strerror(errno.ENAMETOOLONG)})"
    assert found == ["cannot be reached (Permission denied)", *["does not exist"] * 2, too_long, "does not exist"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no way to have a full disk")
def test_a_full_disk_is_one_clear_line_and_the_rows_before_it_stay(
    trained: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes
) -> None:
    import resource

    out = tmp_path / "out.csv"
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.getsignal(signal.SIGXFSZ)
    assert ignored is signal.SIG_IGN, "Python ignores it, so that the write says EFBIG"
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, limit[1]))
    try:
        with pytest.raises(EyespotError, match=r"cannot write \(the disk is full\) in .*out\.csv: free some space"):
            write(trained, many, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert whole.startswith(out.read_bytes())
    write(trained, many, out)
    assert out.read_bytes() == whole


@pytest.mark.skipif(os.name == "nt", reason="Windows moves no open file")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_moved_away_while_it_is_written_is_not_called_done(
    trained: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes, replaced: bool
) -> None:
    out, moved = tmp_path / "out.csv", tmp_path / "moved.csv"
    usual = predicting.AnswerFile.finish

    def overtaken(file: predicting.AnswerFile) -> None:
        out.rename(moved)
        if replaced:
            out.write_bytes(whole[:9])
        usual(file)

    with monkeypatch.context() as patch:
        patch.setattr(predicting.AnswerFile, "finish", overtaken)
        with pytest.raises(RunError, match=r"moved, replaced or deleted while it was written in .*out\.csv"):
            write(trained, many, out)
    assert moved.read_bytes() == whole
    write(trained, many, out)
    assert out.read_bytes() == whole


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_for_good_at_some_moment_and_taken_up_again(trained: Run, many: Path, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    for n in range(12):
        for path in sorted(many.glob("1*.png")):
            (folder / f"{n:02}").mkdir(parents=True, exist_ok=True)
            os.link(path, folder / f"{n:02}" / path.name)
    script = (
        "import sys, time; from pathlib import Path; from eyespot import predicting, answer_file\n"
        "predicting._BATCH = 4; real = answer_file.AnswerFile.append\n"
        "def slow(self, rows, **k): real(self, rows, **k); print('.', flush=True); time.sleep(0.02)\n"
        "answer_file.AnswerFile.append = slow\n"
        "predicting.write_predictions(Path(sys.argv[1]), [sys.argv[2]], Path(sys.argv[3]), top=1)\n"
    )
    call = [sys.executable, "-c", script, str(trained.path), str(folder)]
    subprocess.run([*call, str(tmp_path / "whole.csv")], check=True, capture_output=True)
    with subprocess.Popen(
        [*call, str(tmp_path / "out.csv")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.11)
        process.kill()
    rows = (tmp_path / "out.csv").read_bytes().count(b"\n")
    assert 4 < rows < 121
    subprocess.run([*call, str(tmp_path / "out.csv")], check=True, capture_output=True)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


# --------------------------------------------------------------------------------------------------------------- stdin


def test_stdin_that_is_closed_or_cannot_be_read(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreadable:
        class buffer:
            @staticmethod
            def read(size: int) -> bytes:
                raise OSError(errno.EBADF, "Bad file descriptor")

    expected = {"cannot be read: stdin is closed": None, "cannot be read: Bad file descriptor": Unreadable}
    for reason, stdin in expected.items():  # the first is what Python makes of `<&-`
        monkeypatch.setattr(sys, "stdin", stdin)
        (batch,) = predicting.answers(load_predictor(trained.path), predicting.collect(["-"]), top=1)
        ((asked, answer),) = batch
        assert (answer.source, answer.error) == ("-", reason)
        assert asked.remedy.startswith("send the bytes of a picture")


def test_endless_stdin_is_read_to_the_limit_of_files(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Stdin:
        class buffer:
            @staticmethod
            def read(size: int = -1) -> bytes:
                sizes.append(size)
                return bytes(size)

    monkeypatch.setattr(sys, "stdin", Stdin)
    for module in (predicting, decoding):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", 1000)
    (batch,) = predicting.answers(load_predictor(trained.path), predicting.collect(["-"]), top=1)
    assert sizes == [1001]
    assert batch[0][1].error == "is larger than 512 MB"


# ----------------------------------------------------------------------------------------------------------------- fit


def test_fit_changes_pictures_that_are_not_square_and_no_others(trained: Run, tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    square, wide = dice.integers(0, 256, (40, 40, 3), np.uint8), dice.integers(0, 256, (20, 60, 3), np.uint8)
    wide[:, 20:40] //= 4
    usual = load_predictor(trained.path)
    for fit in ("crop", "squash", "pad"):
        predictor = load_predictor(trained.path, fit=fit)
        assert predictor.info.input.fit == fit
        assert (predictor.predict_probs([square]) == usual.predict_probs([square])).all()
        same = (predictor.predict_probs([wide]) == usual.predict_probs([wide])).all()
        assert same == (fit == usual.info.input.fit)
    with pytest.raises(EyespotError, match=r"unknown fit 'sqash'\. Did you mean 'squash'.*: use crop, squash, pad"):
        load_predictor(trained.path, fit="sqash")
    Image.fromarray(wide).save(tmp_path / "wide.png")
    out = tmp_path / "out.csv"
    predicting.write_predictions(trained.path, [str(tmp_path / "wide.png")], out, top=1, fit="squash")
    row = next(iter(csv.DictReader(out.read_text(encoding="utf-8").splitlines())))
    expected = load_predictor(trained.path, fit="squash").predict([wide])[0]
    assert expected.label in row.values()

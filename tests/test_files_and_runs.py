from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from eyespot import doctor, files
from eyespot.caches import cache_folder, data_folders, user_path
from eyespot.config import load_config
from eyespot.errors import (
    Interrupted,
    MissingExtraError,
    RunError,
    RunLockedError,
    UsageError,
    did_you_mean,
    quoted,
    require_extra,
)
from eyespot.evaluation.bundle import read_info
from eyespot.evaluation.evaluate import read_predictions
from eyespot.notes import read_annotations
from eyespot.runs import Run, RunWriter, environment, latest_unfinished_run, new_run_folder, now

CONFIG = load_config("fast")


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert os.listdir(tmp_path) == ["a.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("nan")})


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "name another folder"),
        (errno.EIO, "check the path and the disk"),
    ],
)
def test_a_failing_disk_is_one_clear_error_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str
) -> None:
    path = tmp_path / "state"
    files.write_atomic(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(RunError, match="cannot write") as caught:
        files.write_atomic(path, b"new")
    assert remedy in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no way to have a full disk")
def test_only_in_a_run_folder_a_failing_disk_speaks_of_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunWriter(tmp_path / "run", CONFIG) as writer:
        writer.write_provenance({"data": "digits"})
    with RunWriter(tmp_path / "fold", CONFIG):
        pass  # a network of `check --labels`, which has no --resume
    (tmp_path / "config.toml").touch()  # some other program's

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fail)
    for name, resumes in (
        ("run/state", True), ("run/checkpoints/1.ckpt", True), ("fold/checkpoints/1.ckpt", False), ("grid.png", False)
    ):  # fmt: skip
        with pytest.raises(RunError, match=r"cannot write \(the disk is full\)") as caught:
            files.write_atomic(tmp_path / name, b"new")
        assert caught.value.remedy.startswith("free some space, or name a folder on a larger disk")
        assert ("--resume" in caught.value.remedy) is resumes
    (tmp_path / "run" / "log.txt").symlink_to("/dev/full")
    for folder, resumes in (("run", True), ("gone", False)):
        with pytest.raises(RunError, match="cannot write") as caught:
            files.append_line(tmp_path / folder / "log.txt", "x")
        assert ("--resume" in caught.value.remedy) is resumes
    (tmp_path / "run" / "provenance.json").write_text('{"finished": "now"}')
    with pytest.raises(RunError, match="cannot write") as caught:
        files.write_atomic(tmp_path / "run" / "notes.json", b"new")
    assert "--resume" not in caught.value.remedy, "there is nothing to resume"


def test_a_signal_in_the_middle_of_a_write_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(descriptor: int) -> None:
        raise Interrupted(15)

    files.write_atomic(tmp_path / "state", b"old")
    monkeypatch.setattr(files.os, "fsync", stop)
    with pytest.raises(Interrupted):
        files.write_atomic(tmp_path / "state", b"new")
    assert os.listdir(tmp_path) == ["state"]
    assert (tmp_path / "state").read_bytes() == b"old"


@pytest.mark.skipif(os.name != "posix", reason="POSIX locks")
def test_the_next_write_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / f".state.{os.getpid()}-0123abcd.tmp").write_bytes(b"ha")
    files.write_atomic(tmp_path / "state", b"whole")
    assert os.listdir(tmp_path) == ["state"]


def test_order_of_an_atomic_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda fd: (calls.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(files.os, "replace", lambda a, b: (calls.append("rename"), real_replace(a, b))[1])
    files.write_atomic(tmp_path / "x", b"1")
    assert calls == ["fsync", "rename", "fsync"]


def test_append_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    files.append_line(path, "one")
    files.append_line(path, "two \udcff")
    assert path.read_text().splitlines() == ["one", "two \\udcff"]
    path.write_text("one\nhal")  # a power cut
    files.append_line(path, "two")
    assert path.read_text().splitlines() == ["one", "hal", "two"]
    with pytest.raises(RunError, match="cannot write"):
        files.append_line(tmp_path / "missing" / "log", "x")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_a_group_that_shares_a_folder_may_append_to_what_others_began(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        files.append_line(tmp_path / "log.txt", "one")
        files.write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"log.txt": 0o664, "a.json": 0o664}


def test_a_disk_that_fills_up_in_the_middle_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    files.append_line(path, "whole")
    real = os.write
    monkeypatch.setattr(files.os, "write", lambda fd, data: real(fd, data[:3]))
    with pytest.raises(RunError, match="disk is full"):
        files.append_line(path, "another line")
    assert path.read_text() == "whole\n"


def test_a_run_folder_is_written_and_read(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunWriter(folder, CONFIG) as writer:
        writer.log("hello")
        writer.add_epoch({"epoch": 1, "val/top1": 0.5})
        writer.add_epoch({"epoch": 2, "val/top1": 0.6})
        writer.write_provenance({"command": "x"})
        writer.write_provenance({"seed": 1})
        writer.write_metrics({"test": {"n": 1}})
    run = Run.open(folder)
    assert run.config == CONFIG
    assert [row["epoch"] for row in run.history] == [1, 2]
    assert run.provenance == {"command": "x", "seed": 1}
    assert run.metrics == {"test": {"n": 1}}
    assert not run.finished
    assert "hello" in (folder / "log.txt").read_text()
    with RunWriter(folder, CONFIG, resume=True) as writer:
        writer.restore_history(run.history[:1])
        writer.write_provenance({"finished": now()})
    assert [row["epoch"] for row in run.history] == [1]
    assert run.finished
    assert run.report == folder / "report.html"


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", CONFIG) as writer:
        writer.write_provenance({"data": "digits"})
    with pytest.raises(RunError, match="already holds a run") as caught, RunWriter(tmp_path / "run", CONFIG):
        pass
    assert "--resume" in str(caught.value)


def test_a_run_killed_before_it_noted_its_data_is_begun_again(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", CONFIG) as writer:
        writer.write_provenance({"track": "mlflow"})  # the moment of death is between this and the data
    other = load_config("digits")
    with RunWriter(tmp_path / "run", other):
        assert Run(tmp_path / "run").config == other


@pytest.mark.parametrize("there", ["checkpoints/step-000000001.ckpt", "metrics.json", "config.toml"])
def test_what_may_be_worth_something_is_not_begun_again(tmp_path: Path, there: str) -> None:
    with RunWriter(tmp_path / "run", CONFIG):
        pass
    (tmp_path / "run" / there).write_text('{"a": 1}')
    with pytest.raises(RunError, match="already holds a run"), RunWriter(tmp_path / "run", CONFIG):
        pass
    assert (tmp_path / "run" / there).read_text() == '{"a": 1}'


@pytest.mark.parametrize("name", ["log.txt", "report.html", "bundle/model.json", "checkpoints/mine.ckpt"])
def test_a_new_run_does_not_write_over_what_somebody_else_has(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with (
        pytest.raises(RunError, match=r"is there already, and a run would write over it.*--out"),
        RunWriter(tmp_path, CONFIG),
    ):
        pass
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "config.toml").exists()


def test_settings_that_were_cut_off_are_not_taken_for_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    text = CONFIG.to_toml()
    path.write_text(text)
    assert Run.open(tmp_path).config == CONFIG
    for end in (0, text.index("[evaluation]"), len(text) - 1):
        path.write_text(text[:end])
        with pytest.raises(RunError, match=r"damaged: its end is missing in .*config\.toml: restore the file"):
            _ = Run.open(tmp_path).config
        with pytest.raises(RunError, match="already holds a run"), RunWriter(tmp_path, CONFIG):
            pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_what_is_whole_and_cannot_be_read_just_now_is_not_to_be_made_again(
    number: int, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hindered(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for function, name, read in (
        ("pathlib.Path.read_text", "metrics.json", lambda: trained.metrics),
        ("pathlib.Path.read_text", "notes.json", lambda: read_annotations(trained)),
        ("zipfile.ZipFile", "predictions.npz", lambda: read_predictions(trained.path / "predictions.npz")),
        ("builtins.open", "model.json", lambda: read_info(trained.path / "bundle")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(function, hindered)
            with pytest.raises(RunError) as caught:
                read()
        assert str(caught.value).endswith(f"{name}: check its permissions and the disk")


def test_a_history_of_endless_brackets(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("[" * 100_000)
    with pytest.raises(RunError, match="damaged line"):
        _ = Run(tmp_path).history


@pytest.mark.parametrize("line", ["[]", "null", "3"])
def test_a_history_that_is_json_and_no_history(tmp_path: Path, line: str) -> None:
    (tmp_path / "history.jsonl").write_text(f'{{"epoch": 1}}\n{line}\n')
    with pytest.raises(RunError, match="a line is not a JSON object in"):
        _ = Run(tmp_path).history


@pytest.mark.parametrize("text", ['{"val": 3}', '{"test": [1]}', "[]", "{"])
def test_metrics_that_are_json_and_no_metrics(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(RunError, match=r"JSON.* in .*metrics.json: restore the file"):
        _ = Run(tmp_path).metrics


@pytest.mark.parametrize(
    ("resume", "remedy"),
    [
        (False, "choose another with --out"),
        (True, "change its permissions, or copy the folder and resume the copy"),
    ],
)
def test_a_run_of_another_user_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool, remedy: str
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("eyespot.runs.file_lock", refuse)
    with pytest.raises(RunError, match=rf"cannot write \(Permission denied\) in .*: {remedy}"):
        RunWriter(tmp_path / "run", CONFIG, resume=resume).__enter__()


@pytest.mark.parametrize("resume", [False, True])
def test_a_disk_with_no_room_for_another_run_is_not_taken_for_a_lack_of_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", refuse)
    said = r"cannot make the run folder \(the disk is full\) in .*run: free some space"
    with pytest.raises(RunError, match=said):
        RunWriter(tmp_path / "run", CONFIG, resume=resume).__enter__()


def test_two_writers_cannot_share_a_folder_and_a_dead_one_is_taken_over(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from eyespot.runs import RunWriter; from eyespot.config import load_config\n"
        f"with RunWriter(Path({str(folder)!r}), load_config('fast')): print('in', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    with (
        pytest.raises(RunLockedError, match="another process is writing this run"),
        RunWriter(folder, CONFIG, resume=True),
    ):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with RunWriter(folder, CONFIG, resume=True):
        pass


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunWriter(folder, CONFIG):
        pass
    (folder / ".metrics.json.1-ab.tmp").write_text("half")
    (folder / "checkpoints" / ".step.1-ab.tmp").write_text("half")
    with RunWriter(folder, CONFIG, resume=True):
        assert not list(folder.rglob("*.tmp"))


def test_what_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        Run.open(tmp_path / "none")
    with pytest.raises(RunError, match="not a run folder"):
        Run.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot make the run folder"), RunWriter(tmp_path / "file" / "run", CONFIG):
        pass


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_damaged_json_is_named(tmp_path: Path, content: str) -> None:
    with RunWriter(tmp_path, CONFIG):
        pass
    (tmp_path / "metrics.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match=r"metrics\.json"):
        _ = Run.open(tmp_path).metrics


def test_damaged_history_is_named(tmp_path: Path) -> None:
    with RunWriter(tmp_path, CONFIG):
        pass
    assert Run.open(tmp_path).history == []
    (tmp_path / "history.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(RunError, match="damaged line"):
        _ = Run.open(tmp_path).history


def test_new_run_folders_are_free_and_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = new_run_folder("fast", "../my photos/x y")
    assert first.parent == tmp_path / "runs"
    assert first.name.startswith("fast-x-y-")
    assert first.is_dir(), "the name is taken at once"
    assert len({new_run_folder("fast", "../my photos/x y") for _ in range(5)} | {first}) == 6


def test_latest_unfinished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="no unfinished run"):
        latest_unfinished_run()
    for name, done in (("a", False), ("b", True)):
        with RunWriter(tmp_path / "runs" / name, CONFIG) as writer:
            writer.write_provenance({"data": "digits", **({"finished": now()} if done else {})})
    with RunWriter(tmp_path / "runs" / "c", CONFIG):
        pass  # killed before it noted its data: there is nothing to resume
    assert latest_unfinished_run() == tmp_path / "runs" / "a"


def test_environment_names_what_the_result_depends_on() -> None:
    found = environment()
    assert found["versions"]["torch"] != "not installed"
    assert found["cores"] >= 1
    assert found["processor"]


def test_a_home_that_nobody_has_is_a_name_like_others_and_what_is_no_path_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EYESPOT_CACHE", "~nobody-of-this-name/c")
    monkeypatch.setenv("EYESPOT_DATA", "~nobody-of-this-name")
    assert cache_folder("packed") == Path("~nobody-of-this-name/c/packed")
    assert data_folders() == (Path("~nobody-of-this-name"),)
    assert user_path("~nobody-of-this-name/runs/a") == Path("~nobody-of-this-name/runs/a")
    for value, kind in ((None, "NoneType"), (3, "int"), (b"runs/a", "bytes"), (["runs/a"], "list")):
        with pytest.raises(UsageError, match=f"a {kind} where a path is needed: give text or a pathlib.Path"):
            user_path(value)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="an empty path: name a file or a folder"):
        user_path("")


def test_cache_and_data_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("EYESPOT_DATA", os.pathsep.join([str(tmp_path / "a"), "", str(tmp_path / "b")]))
    assert cache_folder("packed") == tmp_path / "c" / "packed"
    assert data_folders() == (tmp_path / "a", tmp_path / "b")
    monkeypatch.delenv("EYESPOT_CACHE")
    monkeypatch.delenv("EYESPOT_DATA")
    assert cache_folder("packed").name == "packed"
    assert data_folders() == ()


def test_without_any_home_the_cache_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, appauthor: bool) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("EYESPOT_CACHE", raising=False)
    for answer in (refuse, lambda name, appauthor: "~/.cache/eyespot"):  # new and old releases of platformdirs
        monkeypatch.setattr("platformdirs.user_cache_dir", answer)
        with pytest.raises(UsageError, match="no home folder for the cache: set HOME, or name a folder with EYESPOT_C"):
            cache_folder("packed")
        assert doctor._cache().status == "problem"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "raise AttributeError('no numpy.bool\\nsecond line')",
            r"package 'odd_extra' cannot be loaded \(AttributeError: no",
        ),
        (
            "raise OSError('libx.so.1: wrong ELF class')",
            r"cannot be loaded \(OSError: libx.*\): pip install -U odd_extra$",
        ),
        ("from errno import a_name_of_a_newer_version", r"cannot be loaded \(ImportError: cannot import name"),
        ("import odd_extra.engine", r"cannot be loaded \(ModuleNotFoundError: No module named 'odd_extra.engine'"),
        (
            "import needed_by_odd_extra",
            r"package 'needed_by_odd_extra' is not installed: pip install \"eyespot\[serve\]\"$",
        ),
    ],
)
def test_an_extra_that_is_there_and_cannot_be_loaded_is_not_called_missing(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_extra.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=said) as caught:
        require_extra("serve", "odd_extra")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RunError("damaged", where="runs/a", remedy="restore it"),
        UsageError("wrong"),
        MissingExtraError("onnx", "export"),
        MissingExtraError("onnx", "export", fault="ImportError: old"),
        Interrupted(15),
    ],
    ids=repr,
)
def test_errors_cross_to_other_processes_whole(error: BaseException) -> None:
    # multiprocessing.Pool waits for ever for an error that it cannot load.
    for other in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other) == vars(error)


def test_errors_are_one_line_whatever_they_name() -> None:
    error = RunError("bad\nfile", where="a\x1b[31m.jpg", remedy="mend it")
    assert str(error) == "bad\\nfile in a\\x1b[31m.jpg: mend it"
    joined = "\U0001f408\u200d\u2b1b"
    assert str(RunError(joined, where="line\u2028end")) == f"{joined} in line\\u2028end"
    assert (
        str(MissingExtraError("onnx", "export")) == "package 'onnx' is not installed: pip install \"eyespot[export]\""
    )
    assert did_you_mean("resnt18", ["resnet18", "vgg"]) == " Did you mean 'resnet18'?"
    assert did_you_mean("zzz", ["resnet18"]) == ""
    assert did_you_mean("rotate", ["contrast", "rotate_degrees"]) == " Did you mean 'rotate_degrees'?"
    assert did_you_mean("resnet", ["resnets", "resnet18"]) == " Did you mean 'resnets'?"
    assert did_you_mean("", ["resnet18"]) == ""


def test_a_word_of_a_command_line_is_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("/data/R&D", "photos(1)", "it's", "a b", "plain"):
        assert shlex.split(quoted(word)) == [word]
    monkeypatch.setattr("eyespot.errors.os.name", "nt")
    assert [quoted(word) for word in (r"C:\runs\a", r"C:\my runs", "R&D")] == [r"C:\runs\a", r'"C:\my runs"', '"R&D"']

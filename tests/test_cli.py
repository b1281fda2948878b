from __future__ import annotations

import codecs
import csv
import errno
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import typer
from PIL import Image

from eyespot import cli
from eyespot.errors import Interrupted
from eyespot.runs import Run, RunWriter
from eyespot.studies import runner
from eyespot.training.checkpoint import latest_checkpoint

from .conftest import draw_pictures

TINY_WORDS = [
    "--recipe",
    "small",
    "--set",
    "model.args={widths=[4,6,8]}",
    "--set",
    "training.epochs=2",
    "--set",
    "training.batch_size=16",
]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """Return the last line on stderr."""
        return (self.err.splitlines() or [""])[-1]


Call = Callable[..., Outcome]


@pytest.fixture
def eyespot(capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs a command line in this process."""

    def call(*words: str | Path) -> Outcome:
        capsys.readouterr()
        code = cli._run([str(word) for word in words])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Path:
    """Return a finished run that may be changed."""
    return Path(shutil.copytree(trained.path, tmp_path / "run"))


# --------------------------------------------------------------------------------------------------------- wrong input


@pytest.fixture(scope="module")
def place(pictures: Path, trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with everything that can be wrong."""
    here = tmp_path_factory.mktemp("place")
    shutil.copytree(pictures, here / "pictures")
    shutil.copytree(trained.path, here / "run")
    shutil.copytree(trained.path, here / "damaged")
    shutil.copytree(trained.path, here / "unsettled")
    (here / "unsettled" / "config.toml").unlink()
    weights = here / "damaged" / "bundle" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    (here / "empty").mkdir()
    (here / "file").write_text("in the way")
    draw_pictures(here / "one", ("cat",), 3)
    shutil.copytree(pictures, here / "single")
    (here / "single" / "rare").mkdir()
    Image.new("RGB", (12, 12), (1, 2, 3)).save(here / "single" / "rare" / "x.png")
    shutil.copytree(pictures, here / "broken")
    (here / "broken" / "cat" / "zz.jpg").write_text("no picture")
    draw_pictures(here / "leaky" / "train", ("cat", "dog"), 20)
    draw_pictures(here / "leaky" / "test", ("cat", "dog"), 6, seed=1)
    shutil.copy(here / "leaky" / "train" / "cat" / "000.png", here / "leaky" / "test" / "cat" / "zz.png")
    draw_pictures(here / "foxes", ("cat", "fox"), 3)
    (here / "missing.csv").write_text("path,label\npictures/cat/000.png,cat\npictures/cat/999.png,dog\n")
    (here / "short.csv").write_text("path,label\npictures/cat/000.png,cat\npictures/dog/000.png\n")
    (here / "conflict.csv").write_text("path,label\npictures/cat/000.png,cat\npictures/cat/000.png,dog\n")
    (here / "wrong.toml").write_text("[training\nepochs = 1")
    return here


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
WRONG = [
    # the command line itself
    ("trian", 2, r"No such command 'trian'\. Did you mean 'train'\?"),
    ("--nope", 2, "No such option: --nope in the command line: eyespot --help"),
    ("train --rceipe small", 2, r"--rceipe .*--recipe.* in the command line: eyespot train --help"),
    ("train pictures --epoch 3", 2, r"--epoch .*: training\.epochs is a setting, so give --set training\.epochs=VALUE"),
    ("data pack pictures --size-px 64", 2, r"input\.size_px is a setting, so give --set input\.size_px=VALUE"),
    ("train pictures --minuts 3", 2, r"--minuts .*--minutes.* in the command line: eyespot train --help$"),
    ("train pictures --nope 3", 2, "No such option: --nope in the command line: eyespot train --help$"),
    ("evaluate runs/a --batch-size 3", 2, "No such option: --batch-size in the command line: eyespot evaluate --help$"),
    ("predict", 2, "Missing argument 'RUN' in the command line: eyespot predict --help"),
    ("", 2, "no command in the command line: eyespot --help"),
    ("data", 2, "no command in the command line: eyespot data --help"),
    ("train pictures --recipe small --minutes soon", 2, "--minutes"),
    ("train pictures --minutes inf", 2, r"training\.minutes is .*: input should be a finite number"),
    ("train pictures --lr fast", 2, r"optimizer\.lr is 'fast': .*'auto' in the settings"),
    ("train pictures --lr 0", 2, r"optimizer\.lr is '0': input should be greater than 0"),
    # DATA
    ("check nowhere", 2, "unknown data 'nowhere' in DATA: give one of cifar10"),
    ("check cifar11", 2, r"unknown data 'cifar11'\. Did you mean 'cifar10'\?"),
    ("check pictures --csv found.csv", 2, "--csv is for --labels in the command line: add --labels"),
    ("check pictures --folds 3", 2, "--folds is for --labels in the command line: add --labels"),
    ("check pictures --minutes 5", 2, "--minutes is for --labels in the command line: add --labels"),
    ("train pictures --out ''", 2, "an empty word in the command line: is a variable of the shell unset"),
    ("train pictures --fix nowhere.csv", 1, r"cannot read the table .* in .*nowhere\.csv: check the path"),
    ("train picturs", 2, r"Did you mean 'pictures'\?"),
    ("train https://example.org/pictures.zip", 2, "is an address"),
    ("check empty", 1, "an empty folder in .*empty: expected folders named after the classes"),
    ("train one", 1, "only one class, 'cat' in .*one: a classifier needs two"),
    ("train single", 1, "class 'rare' has 1 picture, too few .* in single: give each class 3"),
    ("train missing.csv", 1, r"no file 'pictures/cat/999\.png' in .*missing\.csv, line 3: paths are relative to"),
    ("train short.csv", 1, r"1 column instead of 2 in .*short\.csv, line 3: fill in what is missing"),
    ("check conflict.csv", 1, r"two labels .*'cat' in line 2, 'dog' here in .*conflict\.csv, line 3: keep one"),
    ("train broken", 1, r"1 of 61 pictures cannot be used \(cat/zz\.jpg .* in broken: .*--on-bad-image skip"),
    ("train leaky", 1, "1 of the 13 test pictures is also in train .* in leaky: .*--allow-leak"),
    ("train file", 1, "no data set; expected a folder"),
    # recipe, model, settings, device
    ("train pictures --recipe smal", 2, r"unknown recipe 'smal'\. Did you mean 'small'\?: \d+ recipes: .*digits"),
    ("train pictures --recipe wrong.toml", 2, r"not valid TOML .* in wrong\.toml: mend the line named"),
    ("train pictures --recipe small --set model.name=spott", 2, r"Unknown model 'spott'\. Did you mean 'spot'\?"),
    (
        "train pictures --recipe small --set model.args={widht=3}",
        2,
        r"Unknown argument 'widht' .*Did you mean 'widths'\?",
    ),
    (
        "train pictures --set trainin.epochs=3 --set model.nam=x --set training.epochs=0",
        2,
        r"(?=.*unknown key trainin\. Did you mean 'training'\?)(?=.*model\.nam\. Did you mean 'model\.name'\?)"
        r"(?=.*training\.epochs is 0).* in the settings: docs/recipes\.md lists every key",
    ),
    ("train pictures --recipe small --set epochs", 2, "--set takes section.key=value, got 'epochs': for example"),
    ("train pictures --recipe small --on-bad-image no", 2, "data.on_bad_image is 'no'"),
    ("train pictures --recipe small --seed -1", 2, "training.seed is -1"),
    ("train pictures --recipe small --device gpu", 2, "unknown device 'gpu': use auto, cpu, cuda or mps"),
    pytest.param(
        "train pictures --recipe small --device cuda", 2, "device 'cuda' is not on this machine", marks=NO_GPU
    ),
    (
        "train pictures --recipe small --final --set training.early_stopping_epochs=3",
        2,
        r"training\.early_stopping_epochs must be 0",
    ),
    ("train pictures --recipe gomez2025-vgg --final", 2, r"training\.restore_best must be false"),
    ("train pictures --recipe small --set input.size_px=4", 1, "4"),
    # run folders
    (
        "train pictures --recipe small --out run",
        1,
        "this folder already holds a run in .*run: go on with --resume, or choose",
    ),
    (
        "train pictures --recipe small --out file",
        1,
        r"cannot make the run folder \(.*\) in .*file: choose another with --out",
    ),
    ("train pictures --recipe small --out file/run", 1, "cannot make the run folder"),
    ("train pictures --recipe small --out pictures/run", 2, "the run folder would lie among the pictures"),
    ("train --resume --out empty", 1, r"not a run folder \(it has no config\.toml\) in empty"),
    ("train --resume --out nowhere", 1, "no such folder in nowhere: give a run folder"),
    ("train --resume", 1, "no unfinished run in .*runs: name the run folder with --out"),
    ("train --resume --out run --seed 1", 2, "a resumed run keeps its data, recipe and settings"),
    ("train digits --resume --out run", 2, "a resumed run keeps its data"),
    ("evaluate empty", 1, "neither a run nor a bundle"),
    ("predict . file", 1, r"neither a run nor a bundle: .* in \.: give a folder that eyespot train wrote"),
    ("predict / file", 1, "neither a run nor a bundle: .* in /: give a folder that eyespot train wrote"),
    ("evaluate unsettled", 1, r"not a run folder \(it has no config\.toml\) in unsettled"),
    ("evaluate nowhere", 1, "no such folder in nowhere"),
    ("evaluate damaged", 1, r"weights are damaged.* in damaged.*weights\.safetensors"),
    ("predict damaged pictures", 1, r"weights are damaged.* in damaged.*weights\.safetensors"),
    ("runs nowhere", 1, "no such folder in nowhere"),
    # evaluating and predicting
    ("evaluate run --data foxes", 1, "the data have class 'fox', which the model does not know; it knows classes"),
    ("evaluate run --data digits", 1, "which the model does not know"),
    ("evaluate run/bundle --data pictures", 1, "the model was trained on most of these pictures"),
    ("evaluate run --data foxes --split nope", 2, "unknown split 'nope': use train, val, test"),
    ("evaluate run --split tset", 2, r"unknown split 'tset'\. Did you mean 'test'\?"),
    ("evaluate run --views mirro", 2, r"unknown views 'mirro'\. Did you mean 'mirror'\?"),
    ("evaluate run/bundle --data pictures --split val", 1, "no val split in pictures: there is train"),
    ("evaluate run --data foxes --on-bad-image hide", 2, "use refuse or skip"),
    ("evaluate run/bundle", 2, "a bundle has no data of its own in run/bundle: name data with --data"),
    ("predict run nowhere.png", 1, "nowhere.png does not exist: check the path"),
    ("predict run https://example.org/a.png", 1, "a.png is an address, which is never fetched: download it and give"),
    (
        "predict run empty",
        1,
        "empty holds no pictures: give a folder with pictures in it or below it; links to folders are not",
    ),
    ("predict run file --csv --top 2", 2, "--csv '--top' is no file in the command line: use --csv FILE or --csv -"),
    ("predict run file --csv file", 1, "the file is there already in file: give another name, or delete it"),
    ("predict run - --csv out.csv", 2, "stdin"),
    ("predict run file --views both", 2, "unknown views 'both'"),
    ("predict run file --top 0", 2, "--top"),
    ("predict run file --unknown x", 2, r"'--unknown': 'x' is not one of 'auto', 'never' in the command line"),
    ("predict run file --json --csv -", 2, "--json and --csv exclude each other in the command line: give one"),
    # the other commands
    ("models spott", 2, r"Unknown model 'spott'\. Did you mean 'spot'\?"),
    ("models vgg16-mini --size 3", 1, "16"),
    ("models spot --size 0", 2, "--size"),
    ("models --classes 3", 2, "--classes is for one model in the command line: name the model"),
    ("recipes nope", 2, "unknown recipe 'nope'"),
    ("data show pictures --out grid.gif", 2, r"cannot write pictures as '\.gif' in grid\.gif: use \.png or \.html"),
    ("data show pictures --split test", 1, "no test split in pictures: there is train"),
    ("data show pictures --split tset", 2, "unknown split 'tset'"),
    ("data show pictures --out pictures/cat/grid.png", 2, "the grid would lie among the pictures in pictures/cat/grid"),
    ("data show pictures --seed -1", 2, "seed is -1: use a whole number, 0 or more"),
    ("data show pictures --first 1 --random 2", 2, "more than one of --per-class, --random and --first"),
    ("data prefetch cifar11", 2, r"unknown data set 'cifar11'\. Did you mean 'cifar10'\?"),
    ("data pack pictures --set input.size_px=0", 2, "size_px is 0, allowed are 1 to 4096"),
    ("data cache room", 2, "unknown room 'room' of the cache"),
]


@pytest.mark.parametrize(("line", "code", "pattern"), WRONG)
def test_wrong_input_gets_one_clear_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, eyespot: Call, line: str, code: int, pattern: str
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.iterdir())
    found = eyespot(*shlex.split(line))
    assert found.last.startswith("error: ")
    assert re.search(pattern, found.last)
    assert found.code == code
    assert found.out == ""
    assert "Traceback" not in found.err
    assert sorted(place.iterdir()) in (before, sorted([*before, place / "runs"])), "something was left behind"
    assert not list(place.glob("runs/*")), "a run that never began was left behind"


def test_an_interpreter_error_is_one_line_and_debug_shows_the_traceback_wherever_it_stands(
    eyespot: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("eyespot.tables.show_runs", fail)
    found = eyespot("runs", tmp_path)
    assert found.code == 1
    assert found.err == "error: unexpected KeyError ('a bug') in eyespot: run it again with --debug and report it\n"
    for words in (["--debug", "runs"], ["runs", "--debug"]):
        with pytest.raises(KeyError):
            eyespot(*words)
    with pytest.raises(Exception, match="no such folder"):
        eyespot("evaluate", tmp_path / "nowhere", "--debug")
    assert "unknown data '--debug'" in eyespot("check", "--", "--debug").last


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(28, "No space left on device", "x.bin"), 1, "No space left on device in x.bin: check the path"),
        (OSError(28, "No space left on device"), 1, "No space left on device in stdout"),
        (PermissionError(13, "Permission denied", "a\nb"), 1, "Permission denied in a\\nb: check"),
        (MemoryError(), 1, "no memory left: close other programs, or try a smaller training.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "no memory left"),
        (RuntimeError("std::bad_alloc"), 1, "no memory left"),
        (RuntimeError("[ONNXRuntimeError] : 1 : Failed to allocate memory for requested buffer"), 1, "no memory left"),
        (ValueError("Failed to serialize proto"), 1, "no memory left"),
        (OSError(12, "Cannot allocate memory"), 1, "no memory left"),
        (RuntimeError("can't start new thread"), 1, "error: can't start new thread: end other programs, or raise"),
        (OSError(errno.EAGAIN, "Try again"), 1, "error: Try again: end other programs, or raise the limits"),
        (OSError(errno.EMFILE, "Too many", "x.bin"), 1, "error: Too many: raise the limit on open files (ulimit -n)"),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            1,
            "a package cannot be loaded (libtorch_cpu.so: failed to map segment from shared object): eyespot doctor",
        ),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_whatever_ends_a_command_has_its_line_and_code(
    eyespot: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise error

    monkeypatch.setattr("eyespot.tables.show_runs", fail)
    found = eyespot("runs")
    assert found.code == code
    assert line in found.last
    assert bool(found.last) == bool(line)


# ------------------------------------------------------------------------------------------------------------ the verbs


def test_train_prints_the_result_on_stdout_and_the_rest_on_stderr(
    eyespot: Call, pictures: Path, tmp_path: Path
) -> None:
    found = eyespot("train", pictures, "--out", tmp_path / "run", *TINY_WORDS, "--seed", "3")
    assert found.code == 0
    assert re.fullmatch(r"[\d.]+ % \[[\d.]+, [\d.]+\] on test \(n = \d+, 1 view\)\n", found.out)
    assert "note: The data bring no test split" in found.err
    assert found.last == f"report: {tmp_path / 'run' / 'report.html'}"
    run = Run.open(tmp_path / "run")
    assert run.finished
    assert run.config.training.seed == 3
    log = (run.path / "log.txt").read_text()
    assert "epoch   2  train loss" in log
    again = eyespot("train", "--resume", "--out", tmp_path / "run")
    assert again.code == 0
    assert again.out == found.out
    assert "this run is finished: nothing to resume" in again.err


def test_lr_is_a_number_or_found_before_the_training(eyespot: Call, pictures: Path, tmp_path: Path) -> None:
    words = ["train", pictures, *TINY_WORDS]
    found = eyespot(*words, "--out", tmp_path / "auto", "--lr", "auto")
    assert found.code == 0
    said = re.search(
        r"^learning rate ([\d.]+), bias_lr [\d.]+, head_lr [\d.]+: found by the range test of \d+ steps \(loss falls "
        r"steepest at [\d.]+, (diverges from|does not diverge up to) [\d.]+\)$",
        found.err,
        re.MULTILINE,
    )
    assert said
    run = Run.open(tmp_path / "auto")
    assert f"learning rate {said[1]}," in (run.path / "log.txt").read_text()
    assert run.lr_finder["chosen"] == float(said[1])
    assert run.config.optimizer.lr == "auto"
    assert "Range test of the learning rate" in run.report.read_text(encoding="utf-8")
    given = eyespot(*words, "--out", tmp_path / "given", "--lr", "0.02")
    assert given.code == 0
    assert "range test" not in given.err
    run = Run.open(tmp_path / "given")
    assert run.config.optimizer.lr == 0.02
    assert "Range test" not in run.report.read_text(encoding="utf-8")


def test_train_json_is_one_document(eyespot: Call, pictures: Path, tmp_path: Path) -> None:
    found = eyespot("train", pictures, "--out", tmp_path / "run", *TINY_WORDS, "--json", "--final")
    document = json.loads(found.out)
    assert document["run"] == str(tmp_path / "run")
    assert Path(document["report"]).exists()
    assert "val" not in document["metrics"]
    assert document["metrics"]["test"]["n"] == 6
    assert "no val" in found.err.lower() or "train + val" in found.err


def test_a_start_that_fails_leaves_no_folder_in_the_way(eyespot: Call, pictures: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(pictures, tmp_path / "broken"))
    (broken / "cat" / "zz.png").write_bytes(b"")
    words = ["train", broken, "--out", tmp_path / "run", *TINY_WORDS]
    assert eyespot(*words).code == 1
    assert not (tmp_path / "run").exists()
    found = eyespot(*words, "--on-bad-image", "skip")
    assert found.code == 0
    assert "1 of 61 pictures" in found.err
    assert "left out" in found.err


def test_evaluate_names_split_n_interval_and_views(eyespot: Call, run: Path) -> None:
    found = eyespot("evaluate", run, "--views", "mirror")
    assert found.code == 0
    assert re.fullmatch(r"[\d.]+ % \[[\d.]+, [\d.]+\] on test \(n = 6, 2 views: mirror\)\n", found.out)
    document = json.loads(eyespot("evaluate", run, "--split", "val", "--json").out)
    assert (document["split"], document["n"], document["views"]) == ("val", 6, "none")
    assert Run.open(run).metrics["test_reads"] == 2, "one by training, one by evaluate; val does not count"


def test_predict_answers_files_folders_and_stdin(
    eyespot: Call, run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stdin:
        buffer = io.BytesIO((pictures / "dog" / "000.png").read_bytes())

    monkeypatch.setattr("sys.stdin", Stdin)
    found = eyespot("predict", run, pictures / "cat" / "001.png", pictures, "-", "--top", "2")
    assert found.code == 0
    assert found.err == ""
    lines = found.out.splitlines()
    assert len(lines) == 1 + 60 + 1
    assert re.fullmatch(rf"{re.escape(str(pictures))}/cat/001\.png: \w+ [\d.]+ %  \w+ [\d.]+ %", lines[0])
    assert lines[-1].startswith("-: ")


@pytest.fixture
def mixed(pictures: Path, tmp_path: Path) -> Path:
    """Return a folder with a good, a bad, a nested, and oddly named pictures."""
    folder = tmp_path / "mixed"
    (folder / "below").mkdir(parents=True)
    shutil.copy(pictures / "cat" / "000.png", folder / "good.png")
    shutil.copy(pictures / "cat" / "000.png", folder / "below" / "[bold]é.png")
    (folder / "bad.png").write_text("no picture")
    if sys.platform == "linux":
        shutil.copy(pictures / "cat" / "000.png", folder / "a\nb.png")
        shutil.copy(os.fsencode(pictures / "cat" / "000.png"), os.fsencode(folder) + b"/\xff.png")
    return folder


def test_a_bad_picture_among_many_is_reported_and_the_others_are_answered(
    eyespot: Call, run: Path, mixed: Path
) -> None:
    found = eyespot("predict", run, mixed, mixed / "nowhere.png")
    assert found.code == 1
    errors = found.err.splitlines()
    assert len(errors) == 2
    assert errors[0] == f"error: {mixed}/bad.png is a text file, not a picture: repair it or leave it out"
    assert "nowhere.png does not exist" in errors[1]
    assert f"{mixed}/good.png: " in found.out
    assert f"{mixed}/below/[bold]é.png: " in found.out
    if sys.platform == "linux":
        assert f"{mixed}/a\\nb.png: " in found.out
        assert f"{mixed}/\\udcff.png: " in found.out


def test_predict_json_and_csv_hold_every_picture(eyespot: Call, run: Path, mixed: Path) -> None:
    found = eyespot("predict", run, mixed, "--json", "--top", "9")
    assert found.code == 1
    document = {Path(row["source"]).name: row for row in json.loads(found.out)}
    assert document["bad.png"]["error"] == "is a text file, not a picture"
    assert len(document["good.png"]["top"]) == 3
    assert sum(score["prob"] for score in document["good.png"]["top"]) == pytest.approx(1)
    table = eyespot("predict", run, mixed, "--csv", "-", "--top", "2")
    assert table.code == 1
    rows = {Path(row["picture"]).name: row for row in csv.DictReader(io.StringIO(table.out))}
    columns = ["picture", "label1", "prob1", "label2", "prob2", "unknown", "unknown_score", "error"]
    assert list(rows["good.png"]) == columns
    assert rows["good.png"]["label1"] == document["good.png"]["label"]
    assert rows["bad.png"]["error"] == "is a text file, not a picture"
    if sys.platform == "linux":
        assert {"a\nb.png", "\udcff.png"} <= set(document)
        assert "a\nb.png" in rows


def test_many_pictures_are_answered_a_few_at_a_time(
    eyespot: Call, run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eyespot.evaluation.predictor import Predictor

    sizes = []
    real = Predictor.predict_pixels

    def watch(self: Predictor, batch: Any, **keywords: Any) -> Any:
        sizes.append(len(batch))
        return real(self, batch, **keywords)

    monkeypatch.setattr(Predictor, "predict_pixels", watch)
    monkeypatch.setattr("eyespot.predicting._BATCH", 25)
    assert len(eyespot("predict", run, pictures).out.splitlines()) == 60
    assert sizes == [25, 25, 10]


def test_check_shows_the_data_and_ends_with_1_where_something_must_be_decided(
    eyespot: Call, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    good = eyespot("check", "pictures")
    assert good.code == 0
    assert re.search(r"^eel +20 *$", good.out, re.MULTILINE)
    assert "nothing has to be decided" in good.out
    for name, reason in (("broken", "cannot be used"), ("leaky", "also in train"), ("single", "too few")):
        found = eyespot("check", name)
        assert found.code == 1
        assert re.search(f"^to decide: .*{reason}", found.out, re.MULTILINE)
        document = json.loads(eyespot("check", name, "--json").out)
        assert len(document["decisions"]) == 1
        assert reason in document["decisions"][0]


def test_models_recipes_and_runs_are_listed_and_shown(eyespot: Call, trained: Run, tmp_path: Path) -> None:
    assert {row["name"] for row in json.loads(eyespot("models", "--json").out)} >= {"spot", "convnet3"}
    assert re.search(r"^convnet3 +257,978 ", eyespot("models").out, re.MULTILINE)
    layers = eyespot("models", "convnet3", "--size", "32")
    assert "257,978 in all" in layers.out
    assert json.loads(eyespot("models", "convnet3", "--json").out)["name"] == "convnet3"
    assert re.search(r"^fast +\S", eyespot("recipes").out, re.MULTILINE)
    assert eyespot("recipes", "fast").out.startswith("# eyespot train cifar10")
    assert json.loads(eyespot("recipes", "fast", "--json").out)["name"] == "fast"
    assert {row["name"] for row in json.loads(eyespot("recipes", "--json").out)} >= {"fast", "digits"}

    (row,) = json.loads(eyespot("runs", trained.path.parent, "--json").out)
    assert (row["run"], row["recipe"], row["split"], row["finished"]) == ("trained", "small", "test", True)
    shutil.copytree(trained.path, tmp_path / "damaged")
    (tmp_path / "damaged" / "metrics.json").write_text("{")
    shutil.copytree(trained.path, tmp_path / "thinned")
    (tmp_path / "thinned" / "metrics.json").unlink()
    (tmp_path / "begun").mkdir()
    shutil.copy(trained.path / "config.toml", tmp_path / "begun")
    told = eyespot("runs", tmp_path).out
    assert re.search(r"^damaged .*damaged: not valid JSON", told, re.MULTILINE)
    assert re.search(r"^begun .*not finished: eyespot train --resume --out ", told, re.MULTILINE)
    assert re.search(r"^thinned .*metrics\.json is missing: eyespot train --resume --out ", told, re.MULTILINE)
    assert "no runs in" in eyespot("runs", tmp_path / "begun").out


def test_data_commands(eyespot: Call, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {row["name"] for row in json.loads(eyespot("data", "list", "--json").out)}
    assert names == {"cifar10", "cifar100", "fashion-mnist", "digits"}
    assert re.search(r"^digits +1,797 ", eyespot("data", "list").out, re.MULTILINE)
    with monkeypatch.context() as patch:
        patch.setenv("EYESPOT_DATA", str(tmp_path / "typo"))
        assert eyespot("data", "list").out.endswith(f"note: EYESPOT_DATA names {tmp_path / 'typo'}, not there\n")
    assert eyespot("data", "prefetch", "digits").out == "digits: bundled array, from scikit-learn\n"
    assert json.loads(eyespot("data", "prefetch", "digits", "--json").out)["name"] == "digits"
    assert "60 pictures of 12 x 12 x 3" in eyespot("data", "pack", pictures).out
    assert "packed already" in eyespot("data", "pack", pictures).out
    small = ("data", "pack", pictures, "--set", "input.size_px=16", "--set", "data.memory_limit_gb=1e-9")
    assert re.search(r"scanned (in .*|already), to be streamed from the files;", eyespot(*small).out)
    packed = json.loads(eyespot("data", "pack", pictures, "--set", "input.size_px=8", "--json").out)
    assert (packed["pictures"], packed["size_px"], packed["streamed"]) == (60, 8, False)
    assert eyespot("data", "show", pictures, "--per-class", "3").out == f"{tmp_path / 'pictures-train.png'}\n"
    with Image.open(tmp_path / "pictures-train.png") as grid:
        assert min(grid.size) > 100
    for choice in (["--random", "5"], ["--first", "5"]):
        found = eyespot("data", "show", pictures, *choice, "--out", "grid.html", "--seed", "2")
        assert found.code == 0
        assert (tmp_path / "grid.html").read_text().count("<img") == 5


def test_what_was_packed_has_the_shape_that_was_estimated(eyespot: Call, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "wide" / name).mkdir(parents=True)
        Image.effect_noise((80, 40), 60).convert("RGB").save(tmp_path / "wide" / name / "a.png")
    told = eyespot("data", "pack", tmp_path / "wide", "--set", "input.size_px=16")
    assert told.out.startswith("2 pictures of 30 x 16 x 3, packed in "), "strips, of which a square is taken"


def test_the_cache_is_listed_and_cleared(
    eyespot: Call, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path))
    eyespot("data", "pack", pictures)
    (tmp_path / "packed" / "mine").touch()
    rooms = {row["room"]: row for row in json.loads(eyespot("data", "cache", "--json").out)["rooms"]}
    assert rooms["packed"]["bytes"] > 60 * 12 * 12 * 3
    assert rooms["downloads"]["files"] == 0
    assert re.search(r"^packed +\d files +\S+ kB$", eyespot("data", "cache").out, re.MULTILINE)
    found = eyespot("data", "cache", "packed", "--clear")
    assert found.out.startswith(f"{tmp_path} (cleared)\npacked ")
    assert f"kept, in use or not eyespot's: {tmp_path / 'packed' / 'mine'}" in found.out
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["mine"]


def test_a_long_list_of_classes_is_cut(eyespot: Call, tmp_path: Path) -> None:
    draw_pictures(tmp_path / "many", tuple(f"class {number:03}" for number in range(60)), 3, size=8)
    found = eyespot("check", tmp_path / "many")
    assert "class 049" in found.out
    assert "class 050" not in found.out
    assert "... and 10 more classes" in found.out


# ------------------------------------------------------------------------------------------------------ help and words


def commands() -> list[list[str]]:
    """Return the words of every command."""
    command: Any = typer.main.get_command(cli.app)
    found = []
    for name, child in command.commands.items():
        found += [[name, inner] for inner in getattr(child, "commands", {})] or [[name]]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(eyespot: Call, words: list[str]) -> None:
    found = eyespot(*words, "--help")
    assert found.code == 0
    assert f"Example: eyespot {' '.join(words)}" in found.out
    assert found.err == ""


def test_version_and_help(eyespot: Call) -> None:
    assert re.fullmatch(r"eyespot \d+\.\d+\.\d+\n", eyespot("--version").out)
    assert "train" in eyespot("--help").out


# ------------------------------------------------------------------------------------------------------ real processes


def start(*words: str | Path, **keywords: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **keywords.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-m", "eyespot", *map(str, words)],
        stdout=keywords.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **keywords,
    )


def finish(process: subprocess.Popen[str]) -> Outcome:
    out, err = process.communicate(timeout=180)
    return Outcome(process.returncode, out or "", err)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from eyespot.cli import _run; _run(['--help']);"
        "heavy = {'torch', 'torchvision', 'sklearn', 'matplotlib', 'numpy', 'PIL', 'pydantic'} & set(sys.modules);"
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# A closed terminal, 129, has a test of its own below. What number SIGUSR1 has differs between systems.
STOPS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
STOPS += [(signal.SIGUSR1, 128 + signal.SIGUSR1)] if hasattr(signal, "SIGUSR1") else []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), STOPS)
def test_a_signal_stops_a_training_within_seconds_and_tells_how_it_goes_on(
    pictures: Path, tmp_path: Path, number: int, code: int
) -> None:
    folder = tmp_path / "my run"
    process = start("train", pictures, "--out", folder, *TINY_WORDS, "--set", "training.epochs=2000", "--json")
    deadline, log = time.monotonic() + 100, folder / "log.txt"
    while not (log.exists() and "epoch   1" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    sent = time.monotonic()
    found = finish(process)
    assert time.monotonic() - sent < 20
    assert found.code == code
    assert found.out == ""
    assert found.last == f"stopped; go on with: eyespot train --resume --out '{folder}'"
    assert not Run.open(folder).finished
    assert (folder / "log.txt").read_text().count("epoch   1") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_closing_the_terminal_stops_a_training_that_goes_on_where_it_was(pictures: Path, tmp_path: Path) -> None:
    import pty

    folder = tmp_path / "run"
    words = ["train", pictures, "--out", folder, *TINY_WORDS, "--set", "training.epochs=2000"]
    process, terminal = pty.fork()
    if not process:
        os.environ.update(OMP_NUM_THREADS="1", TERM="xterm")
        os.execv(sys.executable, [sys.executable, "-m", "eyespot", *map(str, words)])
    deadline, log = time.monotonic() + 50, folder / "log.txt"
    while not (log.exists() and "epoch   1" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
        os.read(terminal, 1 << 16)
    os.close(terminal)
    status = os.waitpid(process, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 129
    assert not Run.open(folder).finished
    assert log.read_text().count("epoch   1") == 1
    checkpoint, complaints = latest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    assert complaints == []


LOST = """
import os, signal, sys, time
from eyespot import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
class Fragile:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))  # a signal that comes while a destructor runs
def work(words):
    fragile = Fragile()
    del fragile
    for _ in range(200):
        time.sleep(0.1)
    return 0
cli._call = work
cli.main([])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_a_destructor_swallows_stops_the_command_all_the_same(number: int, code: int) -> None:
    words = [sys.executable, "-c", LOST, str(int(number))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=180)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_other_lost_errors_are_still_shown() -> None:
    code = LOST.replace("os.kill(os.getpid(), int(sys.argv[1]))", "raise ValueError('odd')").replace("200", "0")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0
    assert "ValueError: odd" in done.stderr


def test_a_library_that_calls_a_signal_an_import_error_does_not_change_the_exit_code(
    eyespot: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(words: list[str]) -> int:
        try:
            raise Interrupted(15)
        except Interrupted:
            raise ImportError("a library could not be loaded")  # noqa: B904

    monkeypatch.setattr(cli, "_call", load)
    assert eyespot() == (143, "", "")


@pytest.mark.parametrize(
    ("words", "verb"),
    [
        (["evaluate", "RUN", "--robustness"], "eyespot.robustness.evaluate_robustness"),
        (["check", "PICTURES", "--labels"], "eyespot.label_check.check_labels"),
        (["predict", "RUN", "PICTURES", "--csv", "OUT"], "eyespot.predicting.answers"),
        (["study", "run", "dll2018"], "eyespot.studies.study.run_study"),
    ],
)
def test_a_stopped_command_says_that_it_goes_on(
    run: Path,
    pictures: Path,
    tmp_path: Path,
    eyespot: Call,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    verb: str,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Interrupted(15)

    monkeypatch.setattr(verb, stop)
    places = {"RUN": run, "PICTURES": pictures, "OUT": tmp_path / "out.csv"}
    found = eyespot(*(places.get(word, word) for word in words))
    assert (found.code, found.last) == (143, "stopped; the same command goes on")


def test_a_point_that_was_named_and_not_run_is_no_success(eyespot: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    point = runner.Point("vgg", "fast", "digits", not_run="no weights")
    monkeypatch.setattr(
        "eyespot.studies.study.run_study", lambda *_, **__: [runner.Outcome(point, "not run", reason="no weights")]
    )
    assert eyespot("study", "run", "dll2018").code == 0
    assert eyespot("study", "run", "dll2018", "--only", "other").code == 0
    for name in ("vgg", "vgg-seed0"):
        assert eyespot("study", "run", "dll2018", "--only", name).code == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_two_processes_cannot_share_a_folder(pictures: Path, trained: Run, tmp_path: Path, eyespot: Call) -> None:
    with RunWriter(tmp_path / "run", trained.config):
        found = eyespot("train", pictures, "--recipe", "small", "--out", tmp_path / "run")
    assert found.code == 1
    assert "another process is writing this run in" in found.last


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shell")
@pytest.mark.parametrize(
    ("line", "code", "complaint"),
    [
        ("recipes | head -0; exit ${PIPESTATUS[0]}", 141, ""),
        ("data list | head -0; exit ${PIPESTATUS[0]}", 141, ""),  # a table of rich, which would end it with 1
        ("recipes fast >&-", 0, ""),
        ("recipes nope 2>&-", 2, ""),
        pytest.param(
            "recipes fast > /dev/full",
            1,
            "error: No space left on device in stdout: check the path and the disk\n",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full"),
        ),
    ],
)
def test_closed_and_full_outputs(line: str, code: int, complaint: str) -> None:
    script = f'"$0" -m eyespot {line}'
    done = subprocess.run(["bash", "-c", script, sys.executable], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, complaint)
    assert "error" not in done.stdout  # which is for results, also where stderr is closed


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shell")
def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code = "import os, eyespot.cli as cli; cli._fill_closed_streams(); print(os.open(os.devnull, os.O_RDONLY) > 2)"
    script = '"$0" -c "$1" <&- 2>&-'
    done = subprocess.run(["bash", "-c", script, sys.executable, code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows deletes no folder that somebody works in")
def test_in_a_folder_that_was_deleted_the_next_step_is_said(tmp_path: Path) -> None:
    script = 'mkdir gone && cd gone && rmdir ../gone && "$0" -m eyespot train digits'
    call = ["bash", "-c", script, sys.executable]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = "error: the current folder was deleted: cd to a folder that exists\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_an_old_locale_and_no_home_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "é.toml").write_text('name = "日本"\ndescription = "é"\n', encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "EYESPOT_CACHE")}
    environment |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    for words in (["recipes", "é.toml", "--json"], ["recipes", "é.toml"], ["data", "cache"]):
        done = subprocess.run(
            [sys.executable, "-m", "eyespot", *words], capture_output=True, env=environment, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == b""
        assert done.stdout.isascii()
        if "--json" in words:
            assert json.loads(done.stdout)["name"] == "日本"


def test_a_stream_without_our_signs_gets_others_and_names_become_escapes() -> None:
    codecs.register_error("here", cli._write_otherwise)
    told = "\N{MINUS SIGN}0.8 \N{RIGHTWARDS ARROW} 日本 ±2 \N{EN DASH} é"
    assert told.encode("cp1252", "here").decode("cp1252") == "-0.8 -> \\u65e5\\u672c ±2 \N{EN DASH} é"
    assert told.encode("ascii", "here") == b"-0.8 -> \\u65e5\\u672c +-2 - \\xe9"


# ------------------------------------------------------------------------------------------------- models in the box


def test_a_model_in_the_box_is_listed_and_answers(
    eyespot: Call, run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eyespot.evaluation import bundle

    shutil.copytree(run / "bundle", tmp_path / "box" / "spot-pictures")
    monkeypatch.setattr(bundle, "_BOX", tmp_path / "box")
    listed, card = eyespot("models").out.splitlines()[-2:]
    assert card.endswith(str(tmp_path / "box" / "spot-pictures" / "README.md"))
    assert re.fullmatch(
        r"trained, ready to use: spot-pictures \(spot trained on pictures\), .* on test \(n = 6, .*\); "
        r"eyespot predict spot-pictures PICTURE",
        listed,
    ), listed
    row = json.loads(eyespot("models", "--json").out)[-1]
    assert row["name"] == "spot-pictures"
    assert row["metrics"]["test"]["n"] == 6
    assert eyespot("predict", "spot-pictures", pictures / "cat" / "000.png").out.count("%") == 1
    with_data = eyespot("evaluate", "spot-pictures")
    assert with_data.last == "error: a bundle has no data of its own in spot-pictures: name data with --data"

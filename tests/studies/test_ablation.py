from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import eyespot
from eyespot import cli
from eyespot.analysis import words
from eyespot.analysis.ablation import Ablation, Arm, measure_ablation
from eyespot.analysis.ablation_page import describe_level, lead, render_ablation
from eyespot.errors import DataError, RunError, RunLockedError, TrainingError, UsageError
from eyespot.evaluation.statistics import mean_interval
from eyespot.locks import file_lock
from eyespot.runs import Run
from eyespot.studies import ablation, estimate, runner

from ..conftest import TINY

SETTINGS = {**TINY, "training.epochs": 1}


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Train points in this process, which saves its start; return their names as they are run."""
    seen: list[str] = []

    def train(words: Sequence[str], log: Path, path: Path, epochs: int, label: str, observer: Any) -> int:
        seen.append(path.name)
        log.parent.mkdir(exist_ok=True)
        changes = [word for place, word in enumerate(words) if words[place - 1] == "--set"]
        if any("label_smoothing" in change and "0.9" in change for change in changes):
            log.write_text("error: the loss is not finite in step 3: lower optimizer.lr\n")
            return 1
        eyespot.train(words[-1], recipe=words[words.index("--recipe") + 1], settings=changes, out=path)
        return 0

    monkeypatch.setattr(runner, "_train", train)
    monkeypatch.setattr(estimate, "estimate_seconds", lambda asked, **rest: (1.0, 0))
    return seen


def test_an_ablation_from_end_to_end(in_process: list[str], pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "ab"
    found = eyespot.ablate(
        "small", pictures, without=["flip"], factors=["training.label_smoothing=0.9"], seeds=2,
        settings={**SETTINGS, "evaluation.views": "mirror"}, out=out,
    )  # fmt: skip
    assert in_process[:3] == ["baseline-seed0", "without-flip-seed0", "label_smoothing-0.9-seed0"]
    flip, failed = found.found.effects
    assert flip.seeds == (0, 1)
    runs = {name: Run(out / "runs" / f"{name}-seed0") for name in ("baseline", "without-flip")}
    difference = runs["without-flip"].metrics["val"]["top1"] - runs["baseline"].metrics["val"]["top1"]
    assert flip.deltas[0] == pytest.approx(difference)
    assert {run.config.evaluation.views for run in runs.values()} == {"mirror"}
    assert failed.seeds == ()
    assert "the loss is not finite in step 3" in failed.reason
    assert all(run.metrics["test_reads"] == 0 and "test" not in run.metrics for run in runs.values())
    page = found.report.read_text()
    assert "test was not read" in page
    assert "runs/without-flip-seed0/report.html" in page
    # More seeds add to what is there; the failed ones are tried again.
    before = len(in_process)
    eyespot.ablate(out=out, resume=True, seeds=3)
    assert set(in_process[before:]) == {
        *(f"label_smoothing-0.9-seed{seed}" for seed in range(3)), "baseline-seed2", "without-flip-seed2"
    }  # fmt: skip
    with pytest.raises(UsageError, match="it has 3 seeds already"):
        eyespot.ablate(out=out, resume=True, seeds=2)
    # What runs with other limits is not comparable with what is there.
    with pytest.raises(UsageError, match="its runs have no time limit"):
        eyespot.ablate(out=out, resume=True, minutes=1.0)
    with pytest.raises(UsageError, match="its runs use auto"):
        eyespot.ablate(out=out, resume=True, device="cpu")
    with pytest.raises(RunError, match="there is an ablation already"):
        eyespot.ablate("small", pictures, without=["flip"], settings=SETTINGS, out=out)


def test_more_seeds_are_not_noted_while_another_process_runs_the_points(
    in_process: list[str], pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ab"
    eyespot.ablate("small", pictures, without=["flip"], seeds=1, settings=SETTINGS, out=out)
    before = (out / "ablation.json").read_bytes()
    with file_lock(out / ".lock"), pytest.raises(RunLockedError, match="another process is running these points"):
        eyespot.ablate(out=out, resume=True, seeds=2)
    assert (out / "ablation.json").read_bytes() == before


def test_an_ablation_whose_pictures_have_moved_says_how_to_go_on(
    in_process: list[str], pictures: Path, tmp_path: Path
) -> None:
    photos, out = Path(shutil.copytree(pictures, tmp_path / "photos")), tmp_path / "ab"
    eyespot.ablate("small", photos, without=["flip"], seeds=1, settings=SETTINGS, out=out)
    photos.rename(tmp_path / "elsewhere")
    eyespot.ablate(out=out, resume=True)  # nothing is left to train
    with pytest.raises(DataError, match=r"its pictures are not there any more: .*photos in .*ab: .* a link to them"):
        eyespot.ablate(out=out, resume=True, seeds=2)
    photos.symlink_to(tmp_path / "elsewhere")
    eyespot.ablate(out=out, resume=True, seeds=2)
    assert len(in_process) == 4


def test_an_ablation_does_not_go_on_on_other_pictures(in_process: list[str], pictures: Path, tmp_path: Path) -> None:
    photos, out = Path(shutil.copytree(pictures, tmp_path / "photos")), tmp_path / "ab"
    eyespot.ablate("small", photos, without=["flip"], seeds=1, settings=SETTINGS, out=out)
    Image.new("RGB", (12, 12), (200, 1, 2)).save(photos / "cat" / "more.png")
    eyespot.ablate(out=out, resume=True)  # nothing is left to train
    with pytest.raises(DataError, match=r"are not those that the run divided: 60 then, 61 now .*baseline-seed0"):
        eyespot.ablate(out=out, resume=True, seeds=2)
    (photos / "cat" / "more.png").unlink()
    eyespot.ablate(out=out, resume=True, seeds=2)
    assert len(in_process) == 4


def test_an_ablation_with_corrected_labels_is_reported_and_goes_on(
    in_process: list[str], pictures: Path, tmp_path: Path
) -> None:
    fixes = tmp_path / "fixes.csv"
    fixes.write_text("id,split,given,suggested,score,decision\ncat/000.png,train,cat,dog,1.0,accept\n")
    settings = {**SETTINGS, "data.label_fixes": str(fixes)}
    found = eyespot.ablate("small", pictures, without=["flip"], seeds=2, settings=settings, out=tmp_path / "ab").found
    assert found.effects[0].seeds == (0, 1)
    eyespot.ablate(out=tmp_path / "ab", resume=True)
    assert len(in_process) == 4


def test_the_command_prints_table_and_json(
    in_process: list[str], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ablate", "small", str(pictures), "--without", "flip", "--epochs", "1", "--seeds", "1"]
    sets = [part for key, value in SETTINGS.items() if key != "model.args" for part in ("--set", f"{key}={value}")]
    sets += ["--set", "model.args={widths=[4,6,8]}"]
    assert cli._run([*words, *sets, "--out", str(tmp_path / "a"), "--test"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^change +top-1 on test", out, re.MULTILINE)
    assert "whether these two trained networks differ" in out
    assert "has been chosen on test" in out
    assert cli._run(["ablate", "--resume", "--out", str(tmp_path / "a"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["split"] == "test"
    assert found["effects"][0]["name"] == "without-flip"
    assert len(in_process) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "no recipe"),
        ("smal digits --without flip", r"Did you mean 'small'"),
        ("small digit --without flip", r"Did you mean 'digits'"),
        ("small digits", "nothing to take away or to vary"),
        ("small digits --without flip --seeds 0", "--seeds is 0: give 1 or more"),
        ("small digits --without flip --minutes -1", "--minutes is -1"),
        ("small digits --without flip --set data.final=true", "leaves no val to compare on"),
        ("small digits --without flip --set data.val_fraction=0", "no val split to choose on"),
        ("small digits --factor optimizer.lr=-1", "optimizer.lr"),
        ("small digits --factor model.args.widths=3,4", "must be a list of 3 numbers"),
        ("small PICTURES --without flip --out PICTURES/x", "would lie among the pictures"),
        ("--resume --out nowhere", r"no ablation \(no ablation\.json\)"),
        ("small --resume --out nowhere", "a resumed ablation keeps"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(
    words: str,
    said: str,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli._run(["ablate", *words.replace("PICTURES", str(pictures)).split()]) in (1, 2)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(said, last), last
    assert not (tmp_path / "runs").exists()
    assert not (pictures / "x").exists()


@pytest.mark.parametrize("name", ["recipe.toml", "report.html", "points.json"])
def test_an_ablation_writes_over_no_file_of_another_kind(
    name: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    words = ["ablate", "small", str(pictures), "--without", "flip", "--out", str(tmp_path)]
    assert cli._run(words) == 1
    assert f"{name} is there already, and an ablation would write over it" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.glob(name)] == ["mine"]
    assert not (tmp_path / "ablation.json").exists()


def test_an_ablation_that_was_killed_before_its_plan_was_written_begins_again(
    in_process: list[str], pictures: Path, tmp_path: Path
) -> None:
    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    words: dict[str, Any] = {"without": ["flip"], "seeds": 1, "settings": SETTINGS, "out": tmp_path / "a"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "_write_plan", end)
        with pytest.raises(KeyboardInterrupt):
            ablation.ablate("small", pictures, **words)
    assert (tmp_path / "a" / "recipe.toml").exists()
    ablation.ablate("small", pictures, **words)
    assert len(in_process) == 2


def test_of_two_ablations_that_begin_at_once_in_one_folder_one_keeps_its_plan(
    in_process: list[str], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: dict[str, Any] = {"seeds": 1, "settings": SETTINGS, "out": tmp_path / "a"}

    def overtaken(*_: Any) -> None:  # between the look at the folder and the first file in it
        monkeypatch.undo()
        monkeypatch.setattr(ablation, "run_points", lambda *_, **__: [])
        with pytest.raises(TrainingError):  # nothing is run here
            ablation.ablate("small", pictures, without=["schedule"], **words)

    monkeypatch.setattr(ablation, "refuse_other_recipe", overtaken)
    with pytest.raises(RunError, match="there is an ablation already"):
        ablation.ablate("small", pictures, without=["flip"], **words)
    assert [change.name for change in ablation.read_plan(tmp_path / "a").changes] == ["without-schedule"]


def test_a_damaged_plan_is_said(tmp_path: Path) -> None:
    (tmp_path / "ablation.json").write_text('{"format": 1}')
    with pytest.raises(RunError, match="KeyError"):
        ablation.read_plan(tmp_path)
    (tmp_path / "ablation.json").write_text('{"format": 9, "plan": {}}')
    with pytest.raises(RunError, match="another version"):
        ablation.read_plan(tmp_path)


def test_nothing_finished_is_an_error(
    in_process: list[str], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: Sequence[str], log: Path, *_: Any) -> int:
        log.parent.mkdir(exist_ok=True)
        log.write_text("error: the labels are gone in x: bring them back\n")
        return 1

    monkeypatch.setattr(runner, "_train", fail)
    with pytest.raises(TrainingError, match=r"no run came to its end .*the labels are gone"):
        eyespot.ablate("small", pictures, without=["flip"], seeds=1, settings=SETTINGS, out=tmp_path / "a")


@pytest.fixture(scope="module")
def arms(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Arm]:
    """Return a baseline and two changes with four seeds each: one is worse by a quarter of the pictures, one equal."""
    from eyespot.config import parse_config
    from eyespot.evaluation.evaluate import read_predictions

    base = tmp_path_factory.mktemp("arms")
    test = read_predictions(trained.path / "predictions.npz")["test"]  # type: ignore[index]
    found = []
    for name, wrong in (("baseline", 0), ("worse", 2), ("equal", 0)):
        runs = {}
        for seed in range(4):
            path = base / f"{name}-seed{seed}"
            shutil.copytree(trained.path, path)
            text = (path / "config.toml").read_text()
            config = parse_config(text, where="x", changes={"training.seed": seed, "name": name})
            (path / "config.toml").write_text(config.to_toml())
            logits = np.eye(3, dtype=np.float32)[test.labels]
            for place in range(wrong + (seed == 3 and name == "worse")):
                logits[place] = np.roll(logits[place], 1)
            arrays = dict(np.load(path / "predictions.npz"))
            key = next(key for key in arrays if "test" in key and arrays[key].shape == logits.shape)
            arrays[key] = logits
            np.savez(path / "predictions.npz", **arrays)
            metrics = json.loads((path / "metrics.json").read_text())
            metrics["test"] = {"n": len(logits), "top1": float((logits.argmax(1) == test.labels).mean())}
            (path / "metrics.json").write_text(json.dumps(metrics))
            runs[seed] = path
        found.append(Arm(name, name, f"{name}: a → b", runs))
    return found


def measured(arms: list[Arm]) -> Ablation:
    return measure_ablation(arms[0], arms[1:], recipe="small", data="pictures", split="test")


def test_effects_agree_with_a_computation_by_hand(arms: list[Arm]) -> None:
    from scipy.stats import ttest_rel

    found = measured(arms)
    worse, equal = found.effects
    n = found.n
    deltas = [-2 / n, -2 / n, -2 / n, -3 / n]
    assert worse.deltas == pytest.approx(deltas)
    assert worse.difference.mean == pytest.approx(sum(deltas) / 4)
    assert worse.p_value == pytest.approx(ttest_rel([1 + d for d in deltas], [1] * 4).pvalue)
    assert worse.p_holm == pytest.approx(2 * worse.p_value)
    assert worse.is_told
    assert equal.p_value == 1.0
    assert lead(found).startswith("This makes a difference: worse")
    pictures = [-1.0, -1.0, -0.25, *[0.0] * (n - 3), 1.0, -1.0]  # the last two: one more for each kind of run
    assert worse.picture_error == pytest.approx(float(np.std(pictures)) / math.sqrt(n + 2))
    alone = measured([arms[0], Arm("worse", "worse", "", {seed: arms[1].runs[seed] for seed in range(3)})])
    assert lead(alone) == "No difference to the baseline can be told for 'worse'."
    (close,) = alone.effects
    assert close.deltas == pytest.approx([-2 / n] * 3)
    assert close.p_value == 0.25  # three seeds that agree to the picture have no spread to go by
    assert math.isnan(close.difference.low)
    assert f"({words.signed_points(-2 / n)} with every seed on test, 3 seeds, p = 0.25)" in close.sentence
    # Whatever is said of a level has its interval: of one seed the pictures', of several that of their mean.
    assert describe_level(worse) == (
        f"{words.mean_percent(worse.top1.mean, worse.top1.low, worse.top1.high)} ± {100 * worse.top1.std:.2f}"
    )
    assert worse.top1.low == pytest.approx(mean_interval([1 + d for d in deltas]).low)
    (once,) = measured([arms[0], Arm("worse", "worse", "", {0: arms[1].runs[0]})]).effects
    assert describe_level(once) == words.share(n - 2, n)
    page = render_ablation(found)
    assert "c-r4" in page
    assert "worse: a → b" in page


def test_missing_seeds_are_left_out_of_the_pairs(arms: list[Arm]) -> None:
    partial = Arm("worse", "worse", "", {1: arms[1].runs[1]}, "seed 0 failed: no memory")
    found = measured([arms[0], partial])
    assert found.effects[0].seeds == (1,)
    assert found.effects[0].reason == "seed 0 failed: no memory"
    assert math.isfinite(found.effects[0].difference.low)
    # The others' p is over seeds; who reads this one like theirs takes two networks for two recipes.
    assert any(note.startswith("Only one seed of worse can be compared") for note in found.notes)
    assert "4 seeds at most" in render_ablation(found)
    assert "4 seeds each" in render_ablation(measured(arms))
    alone = measured([Arm("baseline", "baseline", "", {}), Arm("x", "x", "", {0: arms[1].runs[0]})])
    page = render_ablation(alone)
    assert "Nothing can be compared yet" in page
    assert not re.search(r"\b0 (seeds|test pictures|pictures)", page)
    assert "Student's" not in page
    json.dumps(found.as_dict(), allow_nan=False)


def test_where_val_is_test_nothing_is_ablated_on_val(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="val is test, which an ablation does not read"):
        eyespot.ablate(
            "small",
            pictures,
            without=["flip"],
            settings={"data.allow_leak": True, "mistakes": ["select-on-test"]},
            out=tmp_path / "ab",
        )
    assert not (tmp_path / "ab").exists()

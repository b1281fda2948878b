"""Comparisons of run folders that are written by hand: what is said, and what is refused."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eyespot
from eyespot.analysis import words
from eyespot.analysis.compare import compare_runs
from eyespot.comparing import print_comparison
from eyespot.config import load_config
from eyespot.errors import DataError, RunError, UsageError
from eyespot.evaluation.evaluate import write_predictions
from eyespot.evaluation.metrics import nll_loss

N = 1000


def write_run(
    folder: Path,
    right: np.ndarray[Any, Any],
    *,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    fingerprint: str = "f1",
    ids: list[str] | None = None,
    labels: np.ndarray[Any, Any] | None = None,
    split: str = "test",
) -> Path:
    """Write a finished run that names the pictures of `right` right and calls the others the next class."""
    folder.mkdir(parents=True)
    n = len(right)
    labels = np.arange(n, dtype=np.int64) % 3 if labels is None else labels
    logits = np.zeros((n, 3), np.float32)
    logits[np.arange(n), np.where(right, labels, (labels + 1) % 3)] = 2
    config = load_config("fast", changes={**(settings or {}), "training.seed": seed})
    (folder / "config.toml").write_text(config.to_toml())
    top1 = float(np.mean(right))
    per_class = {name: {"n": n // 3} for name in ("cat", "dog", "eel")}
    figures = {"n": n, "top1": top1, "top1_ci95": [top1, top1], "ece": 0.02, "per_class": per_class}
    figures["nll_loss"] = nll_loss(logits, labels)
    metrics = {split: figures, "train": {**figures, "top1": 0.99}, "train_seconds": 120.0, "test_reads": 1}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    known = {"dataset_fingerprint": fingerprint, "device": "cpu", "finished": "2026-01-01T00:00:00+00:00"}
    (folder / "provenance.json").write_text(json.dumps(known))
    rows = [
        {"epoch": e, "train/loss": 1 / e, "train/top1": 0.5, "val/loss": 1.1 / e, "images_per_second": 100.0 * e}
        for e in (1, 2, 3)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_predictions(
        folder / "predictions.npz",
        {split: (logits, labels, ids or [f"test/{i:05}" for i in range(n)])},  # type: ignore[dict-item]
    )
    return folder


def hits(share: float, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random(N) < share


def test_a_clear_difference_and_none_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = hits(0.9)
    same = good.copy()
    same[:3] = ~same[:3]
    paths = [
        write_run(tmp_path / "good", good),
        write_run(tmp_path / "same", same, settings={"training.epochs": 3}),
        write_run(tmp_path / "bad", good & hits(0.8, 1), settings={"training.epochs": 4}),
    ]
    found = eyespot.compare(*paths)
    sentences = [pair.sentence for pair in found.pairs]
    assert sentences[0].startswith("No difference between good and same can be told from 1,000 test pictures")
    assert sentences[1].startswith("good names more of the 1,000 test pictures right than bad")
    assert "after Holm's correction for 3 pairs" in sentences[1]
    assert found.pairs[1].low < found.pairs[1].difference < found.pairs[1].high < 0
    assert found.pairs[0].p_holm >= found.pairs[0].p_value
    run = found.runs[0]
    assert (run.minutes, run.images_per_second, run.parameters) == (2.0, 200.0, None)
    assert run.gap == pytest.approx(0.99 - good.mean())
    assert run.points_per_minute == pytest.approx(50 * good.mean())
    print_comparison(found)
    told = capsys.readouterr().out
    assert "not their recipes" in told
    assert "n = 1,000 test pictures" in told
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["pairs"][0]["first"] == "A"
    assert compare_runs(paths).as_dict() == found.as_dict()  # seeded


def test_pictures_in_another_order_are_matched_by_id_also_in_a_copied_folder(tmp_path: Path) -> None:
    right, order = hits(0.8), np.random.default_rng(3).permutation(N)
    first = write_run(tmp_path / "one" / "run", right)
    ids = [f"test/{i:05}" for i in order]
    second = write_run(
        tmp_path / "w" / "run", right[order], ids=ids, labels=(order % 3).astype(np.int64), settings={"name": "other"}
    )
    moved = Path(shutil.move(second, tmp_path / "two" / "run"))
    found = compare_runs([first, moved])
    assert (found.pairs[0].only_first, found.pairs[0].only_second, found.pairs[0].p_value) == (0, 0, 1.0)
    assert "the same answer to all 1,000 test pictures" in found.pairs[0].sentence
    assert [run.name for run in found.runs] == ["one/run", "two/run"]


def test_runs_that_differ_only_in_their_seed_are_one_group(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"a{s}", hits(0.8, s), seed=s) for s in (0, 1, 2)]
    paths += [write_run(tmp_path / f"b{s}", hits(0.9, s), seed=s, settings={"training.epochs": 3}) for s in (0, 1, 2)]
    paths += [write_run(tmp_path / "copy", hits(0.8, 0), seed=0)]
    found = compare_runs(paths)
    first, second = found.groups
    assert (first.seeds, first.runs, second.runs) == ((0, 1, 2), (0, 1, 2), (3, 4, 5))
    values = [hits(0.8, s).mean() for s in (0, 1, 2)]
    assert first.top1.n == 3
    assert first.top1.mean == pytest.approx(np.mean(values))
    assert first.top1.std == pytest.approx(np.std(values, ddof=1))
    assert found.group_pairs[0].paired
    assert "is better than" in found.group_pairs[0].sentence
    assert "copy" in next(note for note in found.notes if "no further seed" in note)
    uneven = compare_runs(paths[:5])
    assert not uneven.group_pairs[0].paired
    assert math.isfinite(uneven.group_pairs[0].difference.low)
    assert "3 and 2 seeds, not paired" in uneven.group_pairs[0].sentence


def test_runs_on_other_training_pictures_are_no_further_seed(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"a{s}", hits(0.8, s), seed=s, fingerprint=f"f{s}") for s in (0, 1)]
    for path in paths:  # the test pictures are the same
        known = json.loads((path / "provenance.json").read_text())
        (path / "provenance.json").write_text(json.dumps({**known, "split_digests": {"test": "d"}}))
    found = compare_runs(paths)
    assert [group.seeds for group in found.groups] == [(0,), (1,)]
    assert "differ only in their seed" not in found.pairs[0].sentence


def test_differences_are_written_as_they_can_be() -> None:
    assert words.signed_points(-1e-17) == "+0.0 points"
    assert words.signed_points(-0.0004) == "\N{MINUS SIGN}0.04 points"
    assert words.signed_interval((-1.127, 1.079)) == "[\N{MINUS SIGN}100.0, +100.0]"
    assert words.signed_interval((0.0002, 0.004)) == "[+0.02, +0.40]"  # not [+0.0, ...]: it does not hold 0
    assert words.signed_interval((-0.0031, -1e-17)) == "[\N{MINUS SIGN}0.3, +0.0]"


def test_a_p_value_beside_the_level_that_decides_is_written_on_its_own_side() -> None:
    found = [words.p_value(p) for p in (0.0494, 0.0498, 0.04998, 0.05, 0.05002, 0.0503)]
    assert found == ["p = 0.049", "p = 0.0498", "p < 0.05", "p = 0.050", "p > 0.05", "p = 0.0503"]


def level(right: int) -> np.ndarray[Any, Any]:
    return np.arange(N) < right


def test_seeds_that_agree_give_no_interval_and_decide_nothing(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"a{s}", level(800 + s), seed=s) for s in (0, 1)]
    paths += [write_run(tmp_path / f"b{s}", level(850 + s), seed=s, settings={"training.epochs": 3}) for s in (0, 1)]
    found = compare_runs(paths)
    (pair,) = found.group_pairs
    assert (pair.paired, pair.p_value, pair.p_holm) == (True, 0.5, 0.5)
    assert math.isnan(pair.difference.low)
    assert "no difference between fast" in pair.sentence
    assert "(+5.0 points with every seed, p = 0.50, 2 seeds, paired)" in pair.sentence
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))["group_pairs"][0]
    assert (told["p_holm"], told["difference"]["low"]) == (0.5, None)


def test_seeds_that_agree_and_are_not_paired_decide_nothing_where_they_are_few(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"a{s}", level(800), seed=s) for s in range(4)]
    paths += [write_run(tmp_path / f"b{s}", level(850), seed=s, settings={"training.epochs": 3}) for s in range(4, 8)]
    (few,) = compare_runs([*paths[:2], *paths[4:6]]).group_pairs
    assert (few.paired, few.p_value) == (False, 1.0)
    assert "no difference" in few.sentence
    found = compare_runs(paths)
    assert found.group_pairs[0].p_value == pytest.approx(2 / 70)  # exact: one order of eight runs, and its mirror
    assert "80.0 % with each of 4 seeds, so no spread to go by" in found.groups[0].sentence
    eyespot.compare(*paths, out=tmp_path / "page.html")
    assert "nan" not in (tmp_path / "page.html").read_text()


def test_pairs_of_groups_are_corrected_for_their_number(tmp_path: Path) -> None:
    from scipy.stats import ttest_ind, ttest_rel

    levels = {1: (800, 804, 811), 2: (803, 812, 814), 3: (820, 818, 835)}
    paths = [
        write_run(tmp_path / f"e{epochs}-{seed}", level(right), seed=seed, settings={"training.epochs": epochs})
        for epochs, rights in levels.items()
        for seed, right in enumerate(rights)
    ]
    pairs = compare_runs(paths).group_pairs
    expected = [ttest_rel(levels[i], levels[j]).pvalue for i, j in ((1, 2), (1, 3), (2, 3))]
    assert [pair.p_value for pair in pairs] == pytest.approx(expected)
    low, high = pairs[1].difference.low, pairs[1].difference.high
    assert 0 < low < high  # alone it would be told; as one of three it is not
    assert pairs[1].p_holm == pytest.approx(3 * min(expected))
    assert "no difference" in pairs[1].sentence
    assert "after Holm's correction for 3 pairs" in pairs[1].sentence
    (uneven,) = compare_runs([*paths[:2], *paths[6:]]).group_pairs
    assert uneven.p_value == pytest.approx(ttest_ind(levels[1][:2], levels[3], equal_var=False).pvalue)


def with_digests(run: Path, **digests: str) -> Path:
    known = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps({**known, "split_digests": digests}))
    return run


def test_only_the_compared_pictures_have_to_be_the_same(tmp_path: Path) -> None:
    right = with_digests(write_run(tmp_path / "right", hits(0.8)), train="a", test="t")
    leaked = with_digests(write_run(tmp_path / "leaked", hits(0.9), fingerprint="f2"), train="b", test="t")
    found = compare_runs([right, leaked])
    assert any("Only the test pictures are the same for all runs: leaked had other train" in x for x in found.notes)
    other = with_digests(write_run(tmp_path / "other", hits(0.9)), train="a", test="u")
    with pytest.raises(DataError, match="different test pictures, though they have equal names in right and other"):
        compare_runs([right, other])
    old = write_run(tmp_path / "old", hits(0.9), fingerprint="f2")
    with pytest.raises(DataError, match="different data: fingerprint f1 and f2"):
        compare_runs([right, old])
    val = with_digests(write_run(tmp_path / "val", hits(0.9), fingerprint="f2", split="val"), train="b", test="t")
    with pytest.raises(DataError, match="different data: fingerprint f1 and f2"):  # of val nothing is known
        compare_runs([with_digests(write_run(tmp_path / "val0", hits(0.8), split="val"), test="t"), val])


def test_pictures_of_which_nothing_is_known_are_matched_by_name_and_that_is_said(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "a", hits(0.8)), write_run(tmp_path / "b", hits(0.9))
    assert not any("matched by id" in note for note in compare_runs([first, second]).notes)
    (second / "provenance.json").unlink()
    note = next(note for note in compare_runs([first, second]).notes if "matched by id and label only" in note)
    assert note.startswith("b: ")
    # A run in between that knows nothing does not make two others the same.
    third = write_run(tmp_path / "c", hits(0.9), fingerprint="f2")
    with pytest.raises(DataError, match=r"fingerprint f1 and f2.* in a and c"):
        compare_runs([second, first, third])


def test_seeds_with_corrected_labels_are_one_group(tmp_path: Path) -> None:
    paths = []
    for seed, sha256 in enumerate(("x", "x", "y")):
        path = write_run(
            tmp_path / f"r{seed}", hits(0.8, seed), seed=seed, settings={"data.label_fixes": f"{seed}.csv"}
        )
        known = json.loads((path / "provenance.json").read_text())
        (path / "provenance.json").write_text(
            json.dumps({**known, "label_fixes": {"sha256": sha256, "file": f"/{seed}.csv"}})
        )
        paths.append(path)
    assert [group.seeds for group in compare_runs(paths).groups] == [(0, 1), (2,)]


def test_seeds_of_which_different_accuracies_were_asked_are_one_group(tmp_path: Path) -> None:
    asked = [{}, {"evaluation.target_top1": 0.8}]
    paths = [
        write_run(tmp_path / str(seed), hits(0.8, seed), seed=seed, settings=settings)
        for seed, settings in enumerate(asked)
    ]
    assert [group.seeds for group in compare_runs(paths).groups] == [(0, 1)]


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("metrics.json", {"train": {"n": 3}}, "it says nothing of top1 of train"),
        ("metrics.json", {"test": {"top1": "0.4"}}, "top1 of test is '0.4', not a number"),
        ("metrics.json", {"test": {"nll_loss": "x"}}, "nll_loss of test is 'x', not a number"),
        ("metrics.json", {"test": {"ece": [1]}}, r"ece of test is \[1\], not a number"),
        ("metrics.json", {"test": {"ece_ci95": 0.1}}, "ece_ci95 of test is 0.1, not two numbers"),
        ("metrics.json", {"test": {"ece_ci95": [0, "x"]}}, "ece_ci95 of test is 'x', not a number"),
        ("metrics.json", {"train_seconds": "12"}, "train_seconds is '12', not a number"),
        ("metrics.json", {"test_reads": None}, "test_reads is None, not a number"),
        ("provenance.json", {"parameters": "many"}, "parameters is 'many', not a number"),
        ("history.jsonl", {"val/loss": "x"}, "val/loss is 'x', not a number"),
        ("history.jsonl", {"images_per_second": True}, "images_per_second is True, not a number"),
    ],
)
def test_a_run_folder_with_something_else_than_numbers_is_refused_with_its_file(
    tmp_path: Path, file: str, change: dict[str, Any], said: str
) -> None:
    base, odd = write_run(tmp_path / "base", hits(0.8)), write_run(tmp_path / "odd", hits(0.8))
    known = json.loads((odd / file).read_text().splitlines()[0])
    whole = {key: {**known[key], **part} if key == "test" else part for key, part in change.items()}
    (odd / file).write_text(json.dumps({**known, **whole}) + "\n")
    with pytest.raises(RunError, match=rf"{said} in .*odd.{file}: restore the file, or train again"):
        compare_runs([base, odd])


def test_what_cannot_be_compared_is_refused_and_named(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", hits(0.8))
    other = write_run(tmp_path / "data", hits(0.8), fingerprint="f2")
    with pytest.raises(DataError, match=r"different data: fingerprint f1 and f2.* in base and data: compare runs"):
        compare_runs([base, other])
    ids = [f"test/{i:05}" for i in range(5, N + 5)]
    with pytest.raises(DataError, match=r"different test pictures \(1,000 and 1,000, 995 shared; such as 'test/00000'"):
        compare_runs([base, write_run(tmp_path / "ids", hits(0.8), ids=ids)])
    labels = np.arange(N, dtype=np.int64) % 3
    labels[0] = 2
    with pytest.raises(DataError, match="1 test picture with different labels in base and labels"):
        compare_runs([base, write_run(tmp_path / "labels", hits(0.8), labels=labels)])
    with pytest.raises(DataError, match="no test or val split that every run was measured on"):
        compare_runs([base, write_run(tmp_path / "val", hits(0.8), split="val")])
    with pytest.raises(UsageError, match="cannot compare on split 'train' in --split"):
        compare_runs([base, other], split="train")
    with pytest.raises(UsageError, match="1 run to compare: name two"):
        compare_runs([base])
    with pytest.raises(UsageError, match="the same run twice"):
        compare_runs([base, base])
    with pytest.raises(RunError, match="no such folder"):
        compare_runs([base, tmp_path / "nothing"])


def test_unfinished_damaged_and_contradicting_runs_are_refused(tmp_path: Path) -> None:
    base, other = write_run(tmp_path / "base", hits(0.8)), write_run(tmp_path / "other", hits(0.7))
    metrics = json.loads((other / "metrics.json").read_text())
    for key, said in (("top1", "95.0 %"), ("nll_loss", "a loss of 0.95")):
        edited = {**metrics, "test": {**metrics["test"], key: 0.95}}
        (other / "metrics.json").write_text(json.dumps(edited))
        with pytest.raises(RunError, match=f"metrics.json says {said} on test, predictions.npz"):
            compare_runs([base, other])
    (other / "predictions.npz").write_bytes(b"PK nothing")
    with pytest.raises(RunError, match="cannot read"):
        compare_runs([base, other])
    (other / "predictions.npz").unlink()
    with pytest.raises(RunError, match=r"npz is missing .*: restore the file, or write it again: .*--resume --out"):
        compare_runs([base, other])
    (other / "metrics.json").unlink()
    (other / "provenance.json").unlink()
    with pytest.raises(RunError, match=r"the run is not finished in .*other: eyespot train --resume --out .*other"):
        compare_runs([base, other])


def test_a_machine_that_is_not_known_is_no_other_machine(tmp_path: Path) -> None:
    base, other = write_run(tmp_path / "base", hits(0.8)), write_run(tmp_path / "other", hits(0.7))
    (other / "provenance.json").unlink()
    told = " ".join(compare_runs([base, other]).notes)
    assert "Not every run says on what machine it was trained" in told
    assert "different machines" not in told


def test_a_run_on_train_and_val_is_said_to_have_had_more_pictures(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path / "usual", hits(0.8)),
        write_run(tmp_path / "last", hits(0.9), settings={"data.final": True}),
    ]
    told = " ".join(compare_runs(paths).notes)
    assert "last trained on train + val (--final), the others on train alone" in told
    assert "--final" not in " ".join(compare_runs([paths[0], write_run(tmp_path / "b", hits(0.7))]).notes)


def test_runs_that_name_equally_many_right_are_all_named(tmp_path: Path) -> None:
    from eyespot.analysis.comparison_page import render_comparison

    def right(count: int, name: str) -> Path:
        return write_run(tmp_path / name, np.arange(36) < count, settings={"training.epochs": len(name)})

    paths = [right(24, "a"), right(24, "bb"), right(22, "ccc")]
    page = render_comparison(compare_runs(paths)).replace("\N{NO-BREAK SPACE}", " ")
    assert "a and bb name the most pictures right, 66.7 % [50.3, 79.8] each, but cannot be told from any other" in page
    page = render_comparison(compare_runs([*paths[:2], right(24, "dddd")])).replace("\N{NO-BREAK SPACE}", " ")
    assert "All 3 runs name equally many of 36 pictures right, 66.7 % [50.3, 79.8]." in page


def test_the_page_is_whole_in_one_file_and_says_what_it_cannot_show(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"a{s}", hits(0.8, s), seed=s) for s in (0, 1)]
    paths.append(write_run(tmp_path / "<b>", hits(0.9, 5), settings={"training.epochs": 3}))
    told = paths[-1] / "metrics.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"train_seconds": 180.0}))
    page = tmp_path / "compare.html"
    eyespot.compare(*paths, out=page)
    text = page.read_text()
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert "&lt;b&gt; names the most pictures right" in text
    assert "<b>" not in text
    assert "Accuracy over minutes" in text
    assert "Accuracy over million parameters" not in text  # the same for all
    assert re.search(r"names the most pictures right, [\d.]+\xa0% \[[\d.]+, [\d.]+\]", text)
    assert "+0.00 points" not in text
    gaps = text.split('id="gaps"')[1].split("</section>")[0]
    assert gaps.count(", n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}1,000") == 2 * len(paths)
    assert "The pictures cannot be shown: the run does not say its data" in text
    assert text.count('class="line c-r0"') >= 2  # val curve, cost
    with pytest.raises(UsageError, match=r"a page needs a name that ends in \.html, not 'page\.png'"):
        eyespot.compare(*paths, out=tmp_path / "page.png")


def test_no_curve_is_drawn_of_a_fine_tuning_that_was_not_kept(tmp_path: Path) -> None:
    from eyespot.analysis.comparison_page import render_comparison

    paths = [write_run(tmp_path / f"r{place}", hits(0.8, place), seed=place) for place in range(2)]
    assert "No curve" not in render_comparison(compare_runs(paths))
    told = paths[1] / "metrics.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"head": {"kept": True}}))
    assert "No curve: B (a head" in render_comparison(compare_runs(paths))


def test_no_two_lines_of_a_chart_have_one_colour(tmp_path: Path) -> None:
    from eyespot.analysis.comparison_page import render_comparison

    paths = [write_run(tmp_path / f"r{place}", hits(0.8, place), seed=place) for place in range(8)]
    page = render_comparison(compare_runs(paths))
    curves = page.split('id="curves"')[1].split("</section>")[0]
    for chart in re.findall(r"<svg.*?</svg>", curves):
        names = re.findall(r'class="label (c-r\d)', chart)
        assert names
        assert len(set(names)) == len(names)
    assert "The last 2 runs are left out of these charts." in curves


def test_it_is_said_of_which_pairs_pictures_are_shown(tmp_path: Path) -> None:
    from eyespot.analysis.comparison_page import Flips, render_comparison

    paths = [write_run(tmp_path / f"r{place}", hits(0.8, place), seed=place) for place in range(3)]
    found = compare_runs(paths)
    page = render_comparison(found, flips=[Flips("A", "B", 3, []), Flips("B", "A", 2, []), Flips("A", "C", 3, [])])
    assert "Shown for A against B, C only." in page
    assert "Shown for" not in render_comparison(compare_runs(paths[:2]), flips=[Flips("A", "B", 3, [])])


def test_pairs_that_were_not_looked_at_are_not_said_to_agree(tmp_path: Path) -> None:
    same, page = hits(0.8), tmp_path / "page.html"
    paths = [write_run(tmp_path / f"r{place}", same, seed=place) for place in range(5)]
    eyespot.compare(*paths, out=page)
    assert "every picture is named right by all of these runs" in page.read_text()
    eyespot.compare(*paths, write_run(tmp_path / "other", hits(0.8, 1), seed=5), out=page)
    assert "None of them between A and the next 4; the table above counts every pair." in page.read_text()


def test_pictures_on_which_runs_disagree_are_shown(tmp_path: Path, pictures: Path) -> None:
    from tests.conftest import TINY

    runs = [
        eyespot.train(pictures, recipe="small", settings={**TINY, "training.seed": seed, "training.epochs": 1}, out=out)
        for seed, out in ((0, tmp_path / "one"), (1, tmp_path / "two"))
    ]
    found = eyespot.compare(*(run.path for run in runs), out=tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    disagree = int((found.runs[0].right != found.runs[1].right).sum())
    assert text.count("data:image/png") == disagree
    assert found.runs[0].parameters
    assert found.runs[0].gflop
    assert found.class_names == ["cat", "dog", "eel"]

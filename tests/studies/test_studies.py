"""The published studies: every experiment is a point, every mistake has its twin, and the page says what is what."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eyespot.errors import ConfigError, EyespotError, RunError, UsageError
from eyespot.evaluation.evaluate import write_predictions
from eyespot.evaluation.statistics import paired_bootstrap
from eyespot.mistakes import MISTAKES
from eyespot.models.dropout import Dropout
from eyespot.models.pretrained import backbone_facts
from eyespot.models.registry import build_model
from eyespot.opening import load_recipe
from eyespot.runs import Run
from eyespot.studies import estimate, runner
from eyespot.studies import study as studies
from eyespot.studies.figures import (
    Row,
    _answers,
    _difference,
    _overlay,
    _table_row,
    read_rows,
    write_study_report,
)
from eyespot.studies.layer_tables import check_layer_tables, compare_layers
from eyespot.studies.points import with_seeds
from eyespot.studies.runner import run_points
from eyespot.studies.schema import RIGHT, PrintedTable, Study, load_study, study_names
from eyespot.studies.study import run_study, study_points, variants
from eyespot.studies.tables import describe_claim, describe_outcomes, describe_study
from eyespot.terminal import Terminal

from ..conftest import TINY, draw_pictures

NAMES = ["culp2021", "dll2018", "gomez2025", "zouari2021"]


def test_the_four_studies_are_there() -> None:
    assert study_names() == NAMES


def test_the_32_experiments_of_culp2021_are_points_in_order() -> None:
    experiments = [point.id for point in load_study("culp2021").points if re.fullmatch(r"exp\d\d", point.id)]
    assert experiments == [f"exp{number:02d}" for number in range(1, 33)]


def test_experiments_before_the_leak_was_found_are_leaked_and_have_a_twin() -> None:
    points = {point.id: point for point in load_study("culp2021").points}
    ids = load_study("culp2021").point_ids()
    for number in range(1, 33):
        leaked = "train-on-test" in points[f"exp{number:02d}"].mistakes
        assert leaked == (number <= 17)
        assert (f"exp{number:02d}{RIGHT}" in ids) == leaked


@pytest.mark.parametrize("name", NAMES)
def test_every_training_has_valid_settings_and_only_those_with_mistakes_make_them(name: str) -> None:
    study = load_study(name)
    points = {point.name: point for point in study_points(study, with_weights=False)}
    assert list(points) == study.point_ids()
    for variant in variants(study):
        config = load_recipe(points[variant.id].recipe, points[variant.id].settings)
        expected = [] if variant.id.endswith(RIGHT) else variant.point.mistakes
        assert config.mistakes == expected
        assert config.data.allow_leak == bool({"train-on-test", "select-on-test"} & set(expected))
        assert config.name == f"{name}-{variant.id}"


def test_every_mistake_is_in_some_study() -> None:
    made = {mistake for name in NAMES for point in load_study(name).points for mistake in point.mistakes}
    assert made == set(MISTAKES)


def test_claims_carry_their_binomial_interval_and_their_split() -> None:
    claims = {point.id: point.claims for name in NAMES for point in load_study(name).points}
    assert describe_claim(claims["epochs100"][0]) == "77.4 % ± 0.8 on test (n = 10,000, original pixels)"
    assert describe_claim(claims["vgg"][0]) == "90.0 % ± 0.8 on val (n = 5,000, original pixels)"
    assert describe_claim(claims["exp20"][0]) == "84.0 % published, unknown split (n not given, original pixels)"
    errors = {id_: [100 * claim.error for claim in found if claim.error] for id_, found in claims.items()}
    assert errors["alexnet"] == pytest.approx([1.24, 0.86], abs=0.005)
    assert errors["frozen-a"] == pytest.approx([1.27, 0.82], abs=0.005)


def test_typos_of_the_layer_tables_are_named_and_nothing_else() -> None:
    tables = load_study("gomez2025").layer_tables + load_study("dll2018").layer_tables
    assert [table.model for table in tables] == ["vgg16-mini", "alexnet-mini", "vgg16", "convnet3"]
    for table in tables:
        if table.model == "vgg16":  # 138 million numbers: the arithmetic is in test_models
            continue
        wrong = {name: by for name, _, _, _, by in compare_layers(table)["rows"] if by}
        expected = {"vgg16-mini": {"conv2d_7": 8_800, "dense": 8_000}, "alexnet-mini": {"conv2d_2": 800}}
        assert wrong == expected.get(table.model, {})
        if table.printed_total:
            assert compare_layers(table)["total"] == table.printed_total


def test_a_study_is_described_in_words() -> None:
    text = describe_study(load_study("zouari2021"))
    assert "resnet50: ResNet50, last block and head, RMSprop 2e-5 (L60, L88)" in text
    assert "    mistake: The val pictures are the test pictures" in text
    assert "    done right: resnet50-right" in text


def train_here(words: Sequence[str], *others: object) -> int:
    """Train as the runner's process would; that it is one is the runner's own test."""
    import eyespot

    settings = [value for key, value in pairwise(words) if key == "--set"]
    eyespot.train(
        words[-1], recipe=words[words.index("--recipe") + 1], out=words[words.index("--out") + 1], settings=settings
    )
    return 0


SMALL = """
name = "small-study"
title = "A leak"
[[points]]
id = "leak"
title = "trained on test"
recipe = "small"
mistakes = ["train-on-test"]
changes = { "training.epochs" = 2, "model.args" = { widths = [4, 6, 8] }, "training.batch_size" = 16 }
claims = [{ split = "test", top1 = 0.99, n = 10000, minutes = 1 }]
[[points]]
id = "vgg"
title = "frozen VGG16"
recipe = "gomez2025-vgg16-frozen-b"
[[overlays]]
title = "both"
points = ["leak", "leak-right"]
[[data_sizes]]
title = "sizes"
lines = [{ name = "one", points = ["leak-right"] }]
"""


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ('title = "trained', 'titel = "trained', "unknown key points.1.titel. Did you mean 'title'?"),
        ('name = "small-study"', 'name = "small-study"\nauthr = "x"', "unknown key authr. Did you mean 'author'?"),
        ("top1 = 0.99", "top1 = 99", "points.1.claims.1.top1: Input should be less than or equal to 1"),
        ('id = "vgg"', 'id = "leak"', "two points are called 'leak'"),
        ('recipe = "small"', 'recipe = "smal"', "unknown recipe 'smal'. Did you mean 'small'?"),
        ('points = ["leak", "leak-right"]', 'points = ["leek"]', "no point 'leek' to draw. Did you mean 'leak'?"),
        ('["train-on-test"]', '["train-on-tset"]', "points.1.mistakes.1: Input should be 'train-on-test'"),
        ('"training.epochs"', '"training.epoch"', "point 'leak': unknown key training.epoch. Did you mean 'train"),
        (
            '"training.epochs" = 2',
            '"training" = 2',
            "point 'leak': --set training.batch_size: 'training' is a value, not a section in",
        ),
        (
            'recipe = "gomez2025-vgg16-frozen-b"',
            'recipe = "none.toml"',
            "point 'vgg': cannot read recipe (No such file",
        ),
        ('mistakes = ["train-on-test"]', "as_published = { x = 1 }", "point 'leak' has as_published and no mistakes"),
        ('name = "small-study"', 'name = "../../x"', "name is '../../x': use at most 61 letters, digits, '-', '_' and"),
        ('id = "vgg"', 'id = "VGG"', "points.2.id is 'VGG': use at most 61 lower-case letters, digits, '-', '_' and"),
        ("name =", "name", "not valid TOML"),
        ("top1 = 0.99", f"top1 = 1{'0' * 5000}", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_study_is_one_line(tmp_path: Path, before: str, after: str, sentence: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(SMALL.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ('model = "spot"', 'model = "spott"', "Unknown model 'spott'. Did you mean 'spot'?"),
        ("widths =", "width =", "Unknown argument 'width' of model 'spot'. Did you mean 'widths'?"),
        ('ours = "head', 'ours = "heap', "spot has no layer 'heap'. Did you mean 'head'?"),
        ("rows =", 'frozen = ["x"]\nrows =', "spot has no layer 'x' in layer table"),
    ],
)
def test_layer_tables_of_nothing_are_found_before_anything_is_run(
    tmp_path: Path, before: str, after: str, sentence: str
) -> None:
    table = '[[layer_tables]]\ntitle = "T"\nmodel = "spot"\nargs = { widths = [4, 6, 8] }\n'
    table += 'rows = [{ name = "head", ours = "head" }]\n'
    path = tmp_path / "s.toml"
    path.write_text(SMALL + table, encoding="utf-8")
    check_layer_tables(load_study(path))
    path.write_text(SMALL + table.replace(before, after), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        run_study(path, out=tmp_path / "out")
    assert sentence in str(caught.value)
    assert "in layer table 'T'" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NAMES)
def test_layer_tables_have_their_layers_and_say_what_is_trained(name: str) -> None:
    study = load_study(name)
    check_layer_tables(study)
    told = {table.model: compare_layers(table)["warnings"] for table in study.layer_tables if table.model != "vgg16"}
    expected = {
        ("gomez2025", "vgg16-mini"): "Trained: 1,184,426 of 1,186,346 numbers: bn 64 of 128, ",
        (
            "zouari2021",
            "resnet50",
        ): "Trained: 40,898,506 of 49,696,522 numbers: resnet50 without top 14,964,736 of 23,561,152, ",
    }
    for (of, model), sentence in expected.items():
        if of == name:
            assert told[model][0].startswith(sentence)


def test_what_a_table_freezes_is_not_trained() -> None:
    rows = [{"name": "first", "ours": "features.conv1"}, {"name": "last", "ours": "classifier"}]
    table = PrintedTable.model_validate({"title": "T", "model": "convnet3", "frozen": ["features"], "rows": rows})
    (trained,) = compare_layers(table)["warnings"]
    assert trained == "Trained: 164,730 of 257,978 numbers: first 0 of 896, and all of the other rows."


def test_points_of_equal_settings_are_named_twins() -> None:
    for name in NAMES:
        study = load_study(name)
        points = {point.id: point for point in study.points}
        same = {id_: known.partition(",")[0] for id_, known in study.same_settings().items()}
        for id_, first in same.items():
            if id_ in points and first in points:
                twin = re.search(r"Twin of ([\w-]+)", points[id_].note)
                # A twin may come before the experiment that it repeats in another place.
                alike = [first, *(other for other, known in same.items() if known == first)]
                assert (twin and twin[1] in alike) or f"Twin of {id_}:" in points[first].note, (name, id_)


def test_a_row_says_whose_settings_it_has(tmp_path: Path) -> None:
    study = load_study("culp2021")
    (tmp_path / "points.json").write_text(json.dumps({"points": [{"id": "exp01-seed0", "title": "a"}]}))
    rows = {row.id: row for row in read_rows(study, tmp_path)}
    told = {id_: found[1] for id_, row in rows.items() if (found := re.search(r"Same settings as ([\w-]+)", row.note))}
    assert told["exp06-right"] == told["exp07-right"] == told["exp08-right"] == "exp04-right"
    assert rows["exp05-right"].note == "Same settings as exp04-right, but for the seed."
    alike: dict[str, list[str]] = {}
    for variant in variants(study):
        config = load_recipe(variant.point.recipe, variant.settings).model_dump(mode="json")
        settings = {**config, "name": "", "description": "", "training": {**config["training"], "seed": 0}}
        alike.setdefault(json.dumps(settings, sort_keys=True), []).append(variant.id)
    for first, *others in alike.values():
        assert first not in told
        assert all(told.get(id_) == first or "Twin of" in rows[id_].note for id_ in others)


def test_a_point_has_the_seed_that_it_names() -> None:
    points = {point.name: point for point in study_points(load_study("culp2021"), with_weights=False)}
    assert (points["exp14"].seed, points["exp15"].seed) == (0, 1)
    assert [point.id for point in with_seeds([points["exp05"]], 2)] == ["exp05-seed1", "exp05-seed2"]
    changed = study_points(load_study("dll2018"), with_weights=False, changes=["training.seed=7"])
    assert {point.seed for point in changed} == {7}


def test_what_culp2021_claims_stands_where_it_was_measured() -> None:
    points = {point.id: point for point in load_study("culp2021").points}
    assert [claim.top1 for claim in points["exp18-vgg16"].claims] == [0.77]
    assert points["exp18"].claims == []


def test_a_study_from_a_file_says_the_command_that_runs_it() -> None:
    study = load_study("dll2018")
    assert describe_study(study).endswith("eyespot study run dll2018 --only epochs100")
    assert describe_study(study, "my study.toml").endswith("eyespot study run 'my study.toml' --only epochs100")


def test_wrong_changes_of_all_points_name_the_first() -> None:
    with pytest.raises(ConfigError, match=r"unknown key training.epoch.* in point epochs100"):
        study_points(load_study("dll2018"), with_weights=False, changes=["training.epoch=3"])


def test_unknown_studies_and_points_are_offered_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown study 'culp2012'. Did you mean 'culp2021'\?: 4 studies: culp2021"):
        load_study("culp2012")
    with pytest.raises(ConfigError, match=r"cannot read the study \(No such file or directory\) in"):
        load_study("nowhere.toml")
    points = study_points(load_study("dll2018"), with_weights=False)
    with pytest.raises(UsageError, match=r"no point 'epoch100'\. Did you mean 'epochs100'"):
        run_points(points, tmp_path / "out", only=["epoch100"], observer=Terminal(quiet=True))


def test_weights_that_cannot_be_had_are_replaced_or_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "_has_weights", lambda model: model in ("efficientnet_lite0", "alexnet-mini"))
    study = load_study("gomez2025")
    listed = {point.name: point for point in study_points(study)}
    assert listed["alexnet"].not_run == ""
    assert listed["frozen-a"].not_run.startswith("no pretrained weights of vgg16 at hand")
    replaced = {point.name: point for point in study_points(study, weights_from="efficientnet_lite0")}
    assert replaced["frozen-a"].title.endswith("(as published), efficientnet_lite0 in place of vgg16")
    assert replaced["frozen-a"].settings["input.size_px"] == "auto"
    assert replaced["frozen-32px"].settings["input.size_px"] == 32  # the point is about the size
    with pytest.raises(UsageError, match="no pretrained weights of vgg19 at hand in --weights-from"):
        study_points(study, weights_from="vgg19")


def test_weights_that_are_given_as_a_file_are_at_hand_and_go_into_no_other_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(studies, "_has_weights", lambda model: model == "efficientnet_lite0")
    changes = ["model.weights=mine.safetensors"]
    for stand_in in (None, "efficientnet_lite0"):
        points = study_points(load_study("zouari2021"), weights_from=stand_in, changes=changes)
        assert {(point.not_run, "in place of" in point.title) for point in points} == {("", False)}
        assert points[0].settings["model.weights"] == "mine.safetensors"


def test_every_backbone_of_zouari2021_has_its_own_size() -> None:
    points = [point for point in load_study("zouari2021").points if point.id.startswith("backbone-")]
    assert len(points) == 4
    for point in points:
        config = load_recipe(point.recipe, point.settings)
        assert config.input.size_px == backbone_facts(config.model.name).size_px


def test_what_cannot_stand_in_and_what_is_no_device_are_refused_before_anything(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="spot is no backbone with pretrained weights in --weights-from"):
        study_points(load_study("culp2021"), weights_from="spot", with_weights=False)
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        run_study("dll2018", out=tmp_path / "out", device="tpu")
    assert not (tmp_path / "out").exists()


def test_the_folder_of_another_study_keeps_its_report(tmp_path: Path) -> None:
    (tmp_path / "points.json").write_text(json.dumps({"points": [{"id": "other-seed0", "title": "other"}]}))
    with pytest.raises(RunError, match="no point of dll2018 was run here"):
        write_study_report(load_study("dll2018"), tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_study_runs_goes_on_and_shows_what_the_leak_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, split in enumerate(("train", "test")):
        draw_pictures(tmp_path / "data" / split, ("cat", "dog", "eel"), 12, seed=seed)
    path, out = tmp_path / "s.toml", tmp_path / "out"
    path.write_text(SMALL, encoding="utf-8")
    monkeypatch.setattr(studies, "_has_weights", lambda model: model != "vgg16")
    monkeypatch.setattr(runner, "_train", train_here)
    monkeypatch.setattr(estimate, "estimate_seconds", lambda asked, **others: (1.0, 0))
    with pytest.raises(RunError, match="no study was run here"):
        read_rows(load_study(path), out)
    outcomes = run_study(path, out=out, data=str(tmp_path / "data"))
    assert [outcome.state for outcome in outcomes] == ["finished", "finished", "not run"]
    assert "leak-seed0        leaked: " in describe_outcomes(outcomes)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "As published: leaked: " in page
    assert "99.0 % ± 0.2 on test" in re.sub("\u00a0", " ", page)
    assert "no pretrained weights of vgg16 at hand" in page
    assert re.search(r"minutes of training\. 1! \(ours with a published mistake\): [^;]*; 1 \(published\): ", page)
    assert re.search(
        r'aria-label="both: top1\. 1 from [^"]*; 2 from', page
    )  # the leaked run has no val line to be named
    # Accuracy over cost: ours with the mistake, what was published for it, ours done right.
    own, right = (Run(out / "runs" / f"{id_}-seed0").metrics for id_ in ("leak", f"leak{RIGHT}"))
    plain = re.sub("\u00a0", " ", page)
    (figure,) = re.findall(r"<figcaption>Minutes of training</figcaption>(<svg.*?</svg>)", plain, re.DOTALL)
    spoken = re.findall(
        r"(\d)!?(?: \([^)]*\))?: ([\d.]+) ?% at",
        re.findall(r'aria-label="Accuracy over minutes of training\. (.*?)"', figure)[0],
    )
    assert [number for number, _ in spoken] == ["1", "1", "2"]
    shares = [own["test"]["top1"], 0.99, right["test"]["top1"]]
    assert [float(value) for _, value in spoken] == pytest.approx([100 * share for share in shares], abs=0.51)
    assert re.findall(r'"(dot(?: hollow)?) c-(\w+)"', figure) == [
        ("dot", "serious"), ("dot hollow", "claim"), ("dot", "test"),
    ]  # fmt: skip
    # Accuracy over the number of training pictures.
    line = f"one, {right['train']['n']} training pictures: {read_rows(load_study(path), out)[1].figure('test')}"
    assert line in plain
    assert re.search(r'aria-label="sizes\. one from', plain)
    assert "http" not in page.replace("http-equiv", "")
    assert "eyespot study report FILE.toml --pictures FOLDER" in page
    before = (out / "journal.jsonl").read_text()
    assert [outcome.state for outcome in run_study(path, out=out, data=str(tmp_path / "data"))][:2] == ["finished"] * 2
    assert (out / "journal.jsonl").read_text() == before
    # Pictures of somebody's own, one of them none.
    own = tmp_path / "own"
    own.mkdir()
    (own / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "data" / "test" / "cat" / "000.png").rename(own / "cat.png")
    write_study_report(load_study(path), out, pictures=own)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "no answer: " in page
    assert "cat.png" in page
    with pytest.raises(EyespotError, match="no such folder"):
        write_study_report(load_study(path), out, pictures=tmp_path / "nowhere")


def test_seeds_are_summed_up_and_a_quick_look_is_said(tmp_path: Path) -> None:
    study = Study.model_validate(
        {"name": "s", "title": "t", "points": [{"id": "a", "title": "a", "recipe": "small", "changes": TINY}]}
    )
    data = draw_pictures(tmp_path / "data", ("cat", "dog", "eel"), 20)
    import eyespot

    points = []
    for seed in (0, 1):
        eyespot.train(
            data, recipe="small", settings={**TINY, "training.seed": seed}, out=tmp_path / "runs" / f"a-seed{seed}"
        )
        points.append({"id": f"a-seed{seed}", "title": "a"})
    document = {"limits": {"minutes": None, "epochs_scale": 0.5}, "points": points}
    (tmp_path / "points.json").write_text(json.dumps(document))
    (row,) = read_rows(study, tmp_path)
    assert re.match(
        r"[\d.]+ %( \[[\d.]+, [\d.]+\])?, sd [\d.]+ points over 2 seeds, on test \(n = 6, 1 view\)",
        row.figure("test"),
    )
    page = write_study_report(study, tmp_path).read_text(encoding="utf-8")
    assert "epochs times 0.5, so not the published settings" in re.sub("\u00a0", " ", page)


def test_what_a_mistake_does_is_told_on_the_same_pictures_over_all_seeds(trained: Run, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    labels = np.zeros(200, dtype=np.int64)
    ids = [f"{place}.png" for place in range(200)]
    right = [np.arange(200) < hits for hits in (110, 112, 111)]
    wrong = [hits | (chance.random(200) < 0.1) for hits in right]

    def runs(name: str, hits: Sequence[np.ndarray]) -> tuple[Run, ...]:
        made = []
        for seed, one in enumerate(hits):
            path = tmp_path / f"{name}-seed{seed}"
            shutil.copytree(trained.path, path)
            (path / "config.toml").write_text(
                load_recipe("small", {**TINY, "training.seed": seed}).to_toml(), encoding="utf-8"
            )
            logits = np.stack([one, ~one], axis=1).astype(np.float32)
            write_predictions(path / "predictions.npz", {"test": (logits, labels, ids)})
            made.append(Run(path))
        return tuple(made)

    first, second = Row(1, "a", "a", runs=runs("a", wrong)), Row(2, "a-right", "a", runs=runs("b", right))
    one = _difference(replace(first, runs=first.runs[:1]), second, "test")
    low, high = paired_bootstrap(right[0], wrong[0])
    gain = 100 * (wrong[0].mean() - right[0].mean())
    assert f"{gain:.1f} points above done right ([{100 * low:+.1f}, {100 * high:+.1f}]" in one
    assert one.endswith("1 seed)")
    every = _difference(first, second, "test")
    mean = 100 * np.mean([a.mean() - b.mean() for a, b in zip(wrong, right, strict=True)])
    assert f"{mean:.1f} points above done right" in every
    assert every.endswith("3 seeds)")
    assert "no difference can be told (+0.0 points with every seed" in _difference(second, second, "test")
    assert "for want of predictions" in _difference(first, second, "val")


def test_a_study_of_other_data_says_nothing_of_original_pixels() -> None:
    claim = {"split": "test", "top1": 0.5, "n": 100}
    points = [{"id": "a", "title": "a", "recipe": "small", "claims": [claim]}]
    text = describe_study(Study.model_validate({"name": "s", "title": "t", "data": "digits", "points": points}))
    assert text.startswith("t (publication)\n")
    assert "published: 50.0 % ± 9.8 on test (n = 100)\n" in text


@pytest.fixture
def folder_of_runs(trained: Run, tmp_path: Path) -> Callable[..., list[Row]]:
    """Return what makes a folder of finished runs of one point, each with settings of its own, and reads its rows."""

    def make(*settings: dict[str, Any], title: str = "a", recipe: str = "small") -> list[Row]:
        asked = []
        for seed, changes in enumerate(settings):
            path = tmp_path / "runs" / f"a-seed{seed}"
            shutil.copytree(trained.path, path)
            config = load_recipe(recipe, {**TINY, "model.args": {}, "training.seed": seed, **changes})
            (path / "config.toml").write_text(config.to_toml(), encoding="utf-8")
            limits = {"minutes": config.training.minutes or None, "epochs_scale": 1.0}
            asked.append({"id": path.name, "title": title, "limits": limits})
        (tmp_path / "points.json").write_text(json.dumps({"limits": {}, "points": asked}), encoding="utf-8")
        points = [{"id": "a", "title": "a", "recipe": recipe}]
        return read_rows(Study.model_validate({"name": "s", "title": "t", "points": points}), tmp_path)

    return make


def test_a_backbone_that_stands_in_is_said_whatever_was_asked_for_last(
    folder_of_runs: Callable[..., list[Row]],
) -> None:
    stand_in = {"model.name": "efficientnet_lite0"}
    (row,) = folder_of_runs(stand_in, stand_in, title="frozen VGG16", recipe="gomez2025-vgg16-frozen-b")
    assert row.title == "frozen VGG16, efficientnet_lite0 in place of vgg16 at 12 px"


def test_a_stand_in_of_one_seed_alone_is_said_of_that_seed(folder_of_runs: Callable[..., list[Row]]) -> None:
    (row,) = folder_of_runs({}, {"model.name": "convnet3"}, title="a, convnet3 tried")
    assert row.title == "a, convnet3 tried, convnet3 in place of spot at 12 px (seed 1)"


def test_the_limit_of_each_run_is_said(folder_of_runs: Callable[..., list[Row]], tmp_path: Path) -> None:
    (row,) = folder_of_runs({"training.minutes": 5}, {"training.minutes": 10})
    assert row.held == ("at most 5 minutes of training (seed 0)", "at most 10 minutes of training (seed 1)")
    study = Study.model_validate({"name": "s", "title": "t", "points": [{"id": "a", "title": "a", "recipe": "small"}]})
    page = write_study_report(study, tmp_path).read_text(encoding="utf-8")
    assert "At most 5 minutes of training (seed 0)." in re.sub("\u00a0", " ", page)


def test_a_limit_that_differs_between_points_stands_in_each_row(
    folder_of_runs: Callable[..., list[Row]], trained: Run
) -> None:
    (row,) = folder_of_runs({"training.minutes": 5})
    assert _table_row(row, row.held)["note"] == "At most 5 minutes of training."
    assert _table_row(row, ())["note"] == ""


def test_a_picture_and_a_run_that_fail_are_no_answer(
    folder_of_runs: Callable[..., list[Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eyespot.data import decoding

    (row,) = folder_of_runs({})
    own = draw_pictures(tmp_path / "own", ("one",), 1, size=40) / "one"
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow raises above twice as many
    assert _answers({"a": row}, own) == {
        "pictures": [("000.png", "")],
        "lines": [(1, "a", ["no answer: is over 89 Mpx"])],
        "own": True,
    }
    monkeypatch.undo()
    (row.runs[0].path / "bundle" / "weights.safetensors").write_bytes(b"nothing")
    ((_, _, (said,)),) = _answers({"a": row}, own)["lines"]
    assert said.startswith("no answer: ")


def test_a_curve_that_is_gone_makes_no_difference_to_nothing(trained: Run, tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(
        'name = "one"\ntitle = "one"\nauthor = "nobody"\nyear = "2026"\nkind = "test"\ndata = "digits"\n'
        '[[points]]\nid = "p"\ntitle = "p"\nrecipe = "small"\nmistakes = ["augmented-val"]\n'
    )
    names = ["p-seed0", f"p{RIGHT}-seed0"]
    for name in names:
        shutil.copytree(trained.path, tmp_path / "study" / "runs" / name)
    (tmp_path / "study" / "runs" / names[0] / "history.jsonl").unlink()
    points = [{"id": name, "title": "p"} for name in names]
    (tmp_path / "study" / "points.json").write_text(json.dumps({"points": points}))
    page = write_study_report(load_study(tmp_path / "one.toml"), tmp_path / "study").read_text()
    assert "on val while training" in page
    assert "between the two" not in page


@pytest.mark.parametrize(("last", "logarithmic"), [(2.305, False), (0.01, True)])
def test_the_losses_of_an_overlay_have_ticks_that_differ_and_room(last: float, logarithmic: bool) -> None:
    history = [{"epoch": place, "train/loss": loss} for place, loss in enumerate((2.312, 2.3, last), start=1)]
    row = Row(1, "a", "a", runs=(SimpleNamespace(history=history, metrics={}),))  # type: ignore[arg-type]
    chart = str((_overlay("all", ["a"], {"a": row}) or {})["loss"])
    ticks = re.findall(r'text-anchor="end">([^<]*)<', chart)
    assert len(ticks) == len(set(ticks)) > 2
    assert ("logarithmic axis" in chart) == logarithmic


def test_seconds_and_minutes_of_quick_runs_are_not_rounded_to_nothing() -> None:
    row = Row(1, "quick", "a quick run")
    row.__dict__["metrics"] = [{"train_seconds": 2.4, "test": {"seconds": 0.036}}]
    row.__dict__["figure"] = lambda split: ""
    told = _table_row(row, ())
    assert (told["minutes"], told["seconds"]) == ("0.040", "0.036")


def test_heads_of_zouari2021_on_a_frozen_and_on_a_trained_backbone_differ_in_that_alone() -> None:
    points = {point.id: point for point in load_study("zouari2021").points}
    for frozen, trained in (("frozen", "full"), ("frozen-short", "full-short")):
        one, other = (load_recipe(points[id_].recipe, points[id_].settings) for id_ in (frozen, trained))
        assert (one.model.mode, other.model.mode) == ("features", "full")
        assert one.model.args == other.model.args
        assert (one.optimizer, one.training) == (other.optimizer, other.training)
        assert one.features.solver == "gradient" or one.model.args["hidden"]  # neither is solved: both are trained


def test_what_gomez2025_does_not_publish_is_said_with_what_stands_here() -> None:
    points = {point.id: point for point in load_study("gomez2025").points}
    rates = {"vgg": "0.1 after each of the four blocks", "alexnet": "0.5 after each", "frozen-a": "0.5 here"}
    for id_, rate in rates.items():
        assert "of the dropout" in points[id_].note
        assert f"not published: {rate}" in points[id_].note
    models = [load_recipe(f"gomez2025-{name}", ()).model for name in ("vgg", "alexnet")]
    networks = [build_model(model.name, num_classes=10, size_px=32, args=model.args) for model in models]
    found = [[part.p for part in network.modules() if isinstance(part, Dropout)] for network in networks]
    assert found == [[0.1, 0.1, 0.1, 0.1], [0.5, 0.5]]
    assert load_recipe("gomez2025-vgg16-frozen-a", ()).model.args["dropout"] == 0.5


def test_the_heads_of_gomez2025_differ_in_pooling_hidden_layer_and_preprocessing() -> None:
    found = set()
    for variant in variants(load_study("gomez2025")):
        config = load_recipe(variant.point.recipe, variant.settings)
        if config.model.name == "vgg16" and config.input.size_px == 224:
            args = config.model.args
            found.add((args["pool"], bool(args.get("hidden")), config.input.normalize))
    assert found == {
        (pool, hidden, pixels)
        for pool in ("flatten", "gap")
        for hidden in (True, False)
        for pixels in ("scalar", "auto")
    }


def test_the_page_counts_the_points_of_every_study() -> None:
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert re.search(rf"^\| `{name}` \|.*\| {len(load_study(name).point_ids())} \|", page, re.MULTILINE), name


def test_sizes_and_preprocessing_of_culp2021_are_what_its_notes_say() -> None:
    study = load_study("culp2021")
    configs = {point.id: load_recipe(point.recipe, point.settings) for point in study.points}
    sizes = {"vgg16": 288, "densenet121": 224, "inception_v3": 299}
    for number in range(1, 33):
        config = configs[f"exp{number:02d}"]
        assert config.input.size_px == sizes.get(config.model.name, 299 if number == 32 else 288)
        expected = "raw" if number < 6 else "twice" if 8 <= number <= 17 else "auto"
        assert config.input.normalize == expected
        assert config.model.mode == ("full" if number <= 3 else "features")
    of_sizes = [configs[id_] for id_ in ("size150", "size288", "exp32")]
    assert [config.input.size_px for config in of_sizes] == [150, 288, 299]
    assert all(config.model.args == of_sizes[0].model.args for config in of_sizes)
    assert "without the division by 255" in next(point.note for point in study.points if point.id == "exp18")

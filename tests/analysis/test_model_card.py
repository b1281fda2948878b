"""The model card: complete, from the run alone, and harmless whatever strangers call their classes."""

from __future__ import annotations

import re

import pytest

from eyespot.analysis.cautions import DataCard
from eyespot.analysis.model_card import model_card, plain
from eyespot.analysis.verdict import judge
from eyespot.evaluation.bundle import read_info
from eyespot.evaluation.bundle_info import Pretrained
from eyespot.opening import data_card, open_data, pack_data
from eyespot.runs import Run
from eyespot.terminal import Terminal

SECTIONS = [
    "Intended use",
    "Data",
    "Figures",
    "To know before believing a figure",
    "Confidence",
    "Unknown pictures",
    "Known confusions",
    "What was checked",
    "What was not checked",
    "Weights",
    "How to load it",
]


def test_every_run_ends_with_a_card_of_its_own_figures(trained: Run) -> None:
    text = (trained.path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    test = trained.metrics["test"]
    low, high = test["top1_ci95"]
    assert f"| test | {test['n']} | {100 * test['top1']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] |" in text
    assert "cat, dog, eel" in text
    assert f"test, before | {test['n']} | {test['uncalibrated']['ece']:.4f} [" in text
    assert f"test, after | {test['n']} | {test['ece']:.4f} [" in text
    assert "the model never says unknown" in text
    assert "0 groups of equal pictures" in text
    assert "From scratch: no other weights are in it" in text
    assert str(trained.path) not in text


def test_names_of_strangers_are_shown_and_do_nothing_else(trained: Run) -> None:
    info = read_info(trained.path / "bundle")
    nasty = ("<script>alert(1)</script>", "a|b\n# c", "[x](javascript:alert(1)) `code` http://evil.example")
    per_class = dict(zip(nasty, trained.metrics["test"]["per_class"].values(), strict=True))
    confusion = [[0, 5, 0], [0, 5, 0], [1, 0, 4]]
    metrics = {"test": {**trained.metrics["test"], "per_class": per_class, "confusion": confusion}}
    info = info.model_copy(
        update={"class_names": nasty, "pretrained": Pretrained(source="net <b>", licence="CC-BY-NC-4.0")}
    )
    text = model_card(info, metrics, {"notes": ["<img src=x>"]})
    assert "<script" not in text
    assert "<img" not in text
    assert "<b>" not in text
    assert not re.search(r"(?<!\\)\](?=\()", text)
    assert "http://" not in text
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [name for name in SECTIONS if name != "What was checked"]
    assert not re.search(r"^# c", text, re.MULTILINE)
    assert "Begun from net &lt;b&gt;, licence: CC-BY-NC-4.0" in text
    rows = [line for line in text.splitlines() if "5 of 5" in line]
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 5


def test_a_card_carries_the_warnings_of_its_run(trained: Run) -> None:
    guess = {"n": 8, "top1": 0.375, "top1_ci95": [0.137, 0.694]}
    verdict = judge([], {"test": guess}, num_classes=3, epochs_planned=1)
    text = model_card(read_info(trained.path / "bundle"), {"test": guess}, {}, verdict=verdict)
    assert "- 37.5 % \\[13.7, 69.4\\] on test (n = 8) cannot be told from chance" in text
    assert text.index("cannot be told from chance") < text.index("Guessing gives")


def test_a_card_counts_the_readings_of_test_until_it_was_written(trained: Run) -> None:
    info = read_info(trained.path / "bundle")
    for reads, often in ((1, "once"), (3, "3 times")):
        text = model_card(info, {**trained.metrics, "test_reads": reads}, {})
        assert f"Test had been read {often} when this card was written." in text  # later ones are in metrics.json


def test_a_model_that_was_never_measured_has_a_card(trained: Run) -> None:
    text = model_card(read_info(trained.path / "bundle"), {}, {}, final=True)
    assert "It was not measured." in text
    assert "Trained on train + val with a fixed recipe" in text


def test_the_rule_for_unknown_pictures_is_told_with_what_it_does_to_test(trained: Run) -> None:
    metrics = dict(trained.metrics)
    rule = {"parts": {"energy": {}, "pixels": {}}, "threshold": 3.25, "fraction": 0.05, "n": 400}
    metrics["unknown"] = {"rule": rule, "note": ""}
    refused = {"refused_fraction": 0.06, "refused_ci95": [0.05, 0.07], "accepted": 940, "accepted_top1": 0.93}
    refused["accepted_top1_ci95"] = [0.912, 0.945]
    metrics["test"] = {**metrics["test"], "n": 1000, "unknown": refused}
    packed = pack_data(
        open_data(trained.provenance["data"], Terminal(quiet=True)), trained.config, Terminal(quiet=True)
    )
    text = model_card(read_info(trained.path / "bundle"), metrics, data_card(packed))
    rule_in_words = "set on 400 val pictures so that of pictures like them at most 5.0 % are, on average"
    assert f"its score (energy, pixels) is above 3.25, {rule_in_words}." in text
    assert "On test (n = 1,000) 6.0 % [5.0, 7.0] are refused; accuracy on the other 940: 93.0 % [91.2, 94.5]." in text


def test_what_was_looked_for_is_not_told_as_unchecked(trained: Run) -> None:
    info = read_info(trained.path / "bundle")
    card: DataCard = {"leaks": 0}
    assert "(`eyespot check` looks for near copies)" in model_card(info, trained.metrics, card)
    card["near_across"] = {"test": 3, "test_total": 200, "val": 0, "val_total": 50, "correlation": 0.94}
    text = model_card(info, trained.metrics, card)
    assert "by a search that misses some: 3 of 200 test pictures, 0 of 50 val pictures." in text
    assert "looks for near copies" not in text
    card["near_across"] = {**card["near_across"], "too_alike": 1, "test": 0}
    assert "Near copies: the pictures are too alike to tell them" in model_card(info, trained.metrics, card)
    assert "compression, when this card was written (`eyespot evaluate RUN --robustness`" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat", "cat"),
        ("a\nb", "a\\\\nb"),
        ("x" * 99, "x" * 77 + "..."),
        ("# a", "\\# a"),
        ("- a", "\\- a"),
        ("1. a", "1\\. a"),
        ("www.a.b", "www\\.a.b"),
        ("a*b_c", "a\\*b\\_c"),
    ],
)
def test_plain(text: str, shown: str) -> None:
    assert plain(text) == shown

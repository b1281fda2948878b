from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyespot.analysis.headline import describe_top1, describe_views, headline_split
from eyespot.analysis.verdict import Finding, confused_pairs, judge, sort_findings
from eyespot.evaluation.metrics import wilson_interval
from eyespot.evaluation.views import Views

Split = Callable[..., dict[str, Any]]
History = Callable[..., list[dict[str, Any]]]
RNG = np.random.default_rng(0)


def falling(epochs: int = 30, start: float = 2.3, end: float = 0.3, pace: float = 5.0) -> list[float]:
    return [end + (start - end) * math.exp(-index / pace) for index in range(epochs)]


def kinds_of(history: list[dict[str, Any]], metrics: dict[str, Any], classes: int = 10, planned: int = 0) -> list[str]:
    verdict = judge(history, metrics, num_classes=classes, epochs_planned=planned or len(history))
    return [finding.kind for finding in verdict.findings]


@pytest.fixture
def healthy(split_of: Split) -> dict[str, Any]:
    return {"test": split_of(0.941), "val": split_of(0.943, 5_000), "train": split_of(0.985, 45_000)}


def annealed(epochs: int = 30) -> list[float]:
    return [0.05 * (1 + math.cos(math.pi * (index + 1) / epochs)) for index in range(epochs)]


# ---- how a number is said ----


def test_describe_top1_names_split_n_interval_and_views() -> None:
    figures = {"top1": 0.941, "top1_ci95": [0.9362, 0.9454], "n": 10_000, "views": "none"}
    assert describe_top1(figures, "test") == "94.1 % [93.6, 94.5] on test (n = 10,000, 1 view)"
    assert (
        describe_top1({**figures, "views": "mirror"}, "val")
        == "94.1 % [93.6, 94.5] on val (n = 10,000, 2 views: mirror)"
    )
    del figures["views"]
    assert describe_top1(figures, "test") == "94.1 % [93.6, 94.5] on test (n = 10,000)"
    figures["drawn_from"] = 45_000
    assert describe_top1(figures, "train") == "94.1 % [93.6, 94.5] on train (n = 10,000 of 45,000)"


def test_every_kind_of_views_has_few_words() -> None:
    for name in get_args(Views):
        assert "view" in describe_views(name)
    assert describe_views(None) == ""


def test_the_sentence_holds_accuracy_gap_and_the_confused_pair(metrics_of: Split, history_of: History) -> None:
    test = metrics_of([[96, 1, 1, 2], [0, 88, 12, 0], [1, 9, 90, 0], [2, 0, 0, 98]])
    train = metrics_of([[1000, 0, 0, 0], [0, 990, 10, 0], [0, 10, 990, 0], [0, 0, 0, 1000]])
    metrics = {"test": test, "val": test, "train": train}
    names = ["bird", "cat", "dog", "ship"]
    verdict = judge(history_of(falling()), metrics, num_classes=4, epochs_planned=30, class_names=names)
    assert verdict.headline == describe_top1(test, "test")
    assert verdict.sentence.startswith(f"{verdict.headline}: ")
    assert "Train is 6.5 points above val: 99.5 %" in verdict.sentence
    assert describe_top1(train, "train") in verdict.sentence
    assert describe_top1(test, "val") in verdict.sentence
    assert (
        "Most confused: 12 of 100 'cat' taken for 'dog' and 9 of 100 'dog' taken for 'cat', on test."
        in verdict.sentence
    )
    test["confusion"][0] = [79, 21, 0, 0]  # now bird and cat are confused as often
    tied = judge(history_of(falling()), metrics, num_classes=4, epochs_planned=30, class_names=names)
    assert "Most confused" not in tied.sentence
    test["confusion"][0] = [96, 1, 1, 2]
    without_names = judge(history_of(falling()), metrics, num_classes=4, epochs_planned=30)
    assert without_names.sentence == verdict.sentence  # taken from per_class
    del test["per_class"]
    assert (
        "class 1 taken for class 2" in judge(history_of(falling()), metrics, num_classes=4, epochs_planned=30).sentence
    )


def test_confused_pairs_count_both_directions_and_start_with_the_more_frequent() -> None:
    pairs = confused_pairs(np.array([[5, 1, 0], [4, 6, 2], [0, 2, 8]]), 5)
    assert [(p.first, p.second, p.first_as_second, p.second_as_first) for p in pairs] == [(1, 0, 4, 1), (1, 2, 2, 2)]
    assert (pairs[0].first_count, pairs[0].second_count) == (12, 6)
    assert confused_pairs(np.eye(3, dtype=np.int64), 5) == []


def test_findings_are_sorted_by_severity_and_titled() -> None:
    findings = [Finding("b-note", "note", ""), Finding("at-chance", "serious", ""), Finding("c", "warning", "")]
    assert [finding.severity for finding in sort_findings(findings)] == ["serious", "warning", "note"]
    assert findings[1].title == "At chance"


# ---- runs without a fault ----


def test_a_healthy_run_has_no_findings(healthy: dict[str, Any], history_of: History) -> None:
    loss = [x + float(RNG.normal(0, 0.005)) for x in falling()]
    val = [x + float(RNG.normal(0, 0.02)) * (1 - i / 30) for i, x in enumerate(falling(end=0.35))]
    verdict = judge(
        history_of(loss, val, [0.95 - 0.25 * (x - 0.35) for x in val], annealed()),
        healthy,
        num_classes=10,
        epochs_planned=30,
    )
    assert verdict.findings == ()
    assert "nothing in its curves speaks against it" in verdict.sentence


def test_the_last_points_of_an_annealed_schedule_are_not_called_unfinished(
    healthy: dict[str, Any], history_of: History
) -> None:
    val_top1 = [0.6, 0.72, 0.79, 0.84, 0.87, 0.895, 0.915, 0.93]  # as airbench: the end still brings 1.5 points
    history = history_of(falling(8, pace=2), falling(8, pace=2), val_top1, [8, 7, 6, 5, 4, 3, 1.5, 0.01])
    assert kinds_of(history, healthy) == []


def test_one_epoch_is_too_little_to_judge(healthy: dict[str, Any], history_of: History) -> None:
    verdict = judge(history_of([1.0], [1.0], [0.9]), healthy, num_classes=10, epochs_planned=1)
    assert "a single epoch leaves no curve to judge" in verdict.sentence


# ---- overfit and underfit ----


def test_overfit_is_seen_in_the_gap(split_of: Split, history_of: History) -> None:
    metrics = {"test": split_of(0.80), "val": split_of(0.80, 5_000), "train": split_of(0.95, 45_000)}
    verdict = judge(history_of(falling()), metrics, num_classes=10, epochs_planned=30)
    (finding,) = verdict.findings
    assert (finding.kind, finding.severity) == ("overfit", "warning")
    assert "Train is 15.0 points above val" in finding.text
    assert "it knows its training pictures much better than new ones" in verdict.sentence
    metrics["train"] = split_of(1.0, 45_000)
    metrics["val"] = metrics["test"] = split_of(0.6, 5_000)
    assert judge(history_of(falling()), metrics, num_classes=10, epochs_planned=30).findings[0].severity == "serious"


def test_the_best_epoch_is_recommended_only_where_it_can_be_kept_and_was_not(
    split_of: Split, history_of: History
) -> None:
    def said(**known: Any) -> str:
        metrics = {"test": split_of(0.6), "val": split_of(0.6, 5_000), "train": split_of(0.95, 45_000), **known}
        (finding,) = judge(history_of(falling(), val), metrics, num_classes=10, epochs_planned=30).findings
        return finding.text

    val = [*falling(29), 2.0]  # the last epoch was not the best
    assert "training.restore_best = true" in said()
    assert "training.restore_best = true" in said(best_epoch=30)
    val = falling()
    assert "restore_best" not in said(best_epoch=30)  # it may be on
    val = [*falling(29), 2.0]
    assert said(best_epoch=12).endswith("Augment more, or raise weight decay or dropout.")
    assert said(val={}).endswith("Augment more, or raise weight decay or dropout.")  # --final refuses it


def test_a_val_loss_that_turns_is_the_first_sign_of_overfitting(healthy: dict[str, Any], history_of: History) -> None:
    val = [max(1.8 * math.exp(-i / 4), 0.5 + 0.02 * i) for i in range(30)]
    history = history_of(falling(end=0.01), val, [0.9] * 30)
    verdict = judge(history, healthy, num_classes=10, epochs_planned=30)
    (finding,) = verdict.findings
    assert finding.kind == "val-loss-turned"
    assert re.search(r"from 0\.\d+ around epoch (5|6|7) to 1\.060 at the end", finding.text)
    assert "the first sign of overfitting" in verdict.sentence
    overfit = {
        **healthy,
        "train": healthy["train"] | {"top1": 1.0},
        "val": {**healthy["val"], "top1": 0.8, "top1_ci95": [0.78, 0.82]},
    }
    text = next(
        f.text for f in judge(history, overfit, num_classes=10, epochs_planned=30).findings if f.kind == "overfit"
    )
    assert "; and val loss rose from" in text


def test_a_noisy_val_loss_over_few_pictures_has_not_turned(healthy: dict[str, Any], history_of: History) -> None:
    noisy = [0.18 + 0.03 * math.sin(7 * i) + max(0, 1.5 - 0.3 * i) for i in range(40)]
    assert kinds_of(history_of(falling(40, end=0.5), noisy, [0.98] * 40), healthy) == []
    tiny = [max(0.01, 0.3 - 0.02 * i) + 0.0004 * i for i in range(30)]  # doubles at the end, and means nothing
    assert kinds_of(history_of(falling(end=0.01), tiny, [0.999] * 30), healthy) == []


def test_a_val_loss_that_rises_together_with_train_loss_is_no_overfitting(
    healthy: dict[str, Any], history_of: History
) -> None:
    loss = falling(10) + [0.6 + 0.05 * i for i in range(20)]
    assert not {"overfit", "val-loss-turned"} & set(kinds_of(history_of(loss, loss, [0.9] * 30), healthy))


def test_a_gap_within_the_interval_of_a_few_pictures_is_no_overfitting(split_of: Split, history_of: History) -> None:
    metrics = {"val": split_of(0.7, 20, 2), "train": split_of(0.81, 200, 2)}
    assert "overfit" not in kinds_of(history_of(falling()), metrics, classes=2)
    few = {"val": split_of(0.8, 5, 2), "train": split_of(1.0, 38, 2)}  # one wrong of five, where 38 are right
    assert "overfit" not in kinds_of(history_of(falling()), few, classes=2)
    more = {"val": split_of(0.8, 50, 2), "train": split_of(1.0, 380, 2)}
    assert "overfit" in kinds_of(history_of(falling()), more, classes=2)


def test_a_final_run_is_judged_against_test(split_of: Split, history_of: History) -> None:
    metrics = {"test": split_of(0.7), "train": split_of(0.99, 50_000)}
    verdict = judge(history_of(falling()), metrics, num_classes=10, epochs_planned=30)
    assert "above test" in verdict.findings[0].text
    assert "points above test: 99.0 %" in verdict.sentence


def test_underfit(split_of: Split, history_of: History) -> None:
    metrics = {"test": split_of(0.40), "val": split_of(0.40, 5_000), "train": split_of(0.42, 45_000)}
    verdict = judge(history_of(falling(end=1.6, pace=3)), metrics, num_classes=10, epochs_planned=30)
    (finding,) = verdict.findings
    assert finding.kind == "underfit"
    assert "val is about as good" in finding.text, "it may be up to five points worse"
    assert "42.0 %" in finding.text
    assert "10.0 %" in finding.text


def test_half_right_of_two_classes_is_far_and_of_a_hundred_is_not(split_of: Split, history_of: History) -> None:
    history = history_of(falling())
    two = {"val": split_of(0.7, 4_000, 2), "train": split_of(0.7, 4_000, 2)}
    hundred = {"val": split_of(0.7, 5_000, 100), "train": split_of(0.7, 5_000, 100)}
    assert "underfit" in kinds_of(history, two, classes=2)
    assert "underfit" not in kinds_of(history, hundred, classes=100)


# ---- chance ----


def test_at_chance(split_of: Split, history_of: History) -> None:
    metrics = {name: split_of(0.101, n) for name, n in (("test", 10_000), ("val", 5_000), ("train", 45_000))}
    noise = [2.303 + float(RNG.normal(0, 0.003)) for _ in range(30)]
    verdict = judge(history_of(noise, noise, [0.1] * 30), metrics, num_classes=10, epochs_planned=30)
    (finding,) = verdict.findings
    assert (finding.kind, finding.severity) == ("at-chance", "serious")
    assert "10 classes gives 10.0 %" in finding.text
    assert "optimizer.lr" in finding.text
    assert "cannot be told from guessing" in verdict.sentence
    assert "Most confused" not in verdict.sentence


def test_one_answer_for_everything_is_said(metrics_of: Split, history_of: History) -> None:
    table = [[0, 100, 0, 0]] * 4
    (finding,) = judge(history_of([1.4] * 3), {"test": metrics_of(table)}, num_classes=4, epochs_planned=3).findings[:1]
    assert "one and the same answer for 100.0 %" in finding.text


def test_chance_on_test_but_not_on_train_points_at_the_labels(split_of: Split, history_of: History) -> None:
    metrics = {"test": split_of(0.1), "train": split_of(0.95, 45_000)}
    finding = judge(history_of(falling()), metrics, num_classes=10, epochs_planned=30).findings[0]
    assert finding.kind == "at-chance"
    assert "look for labels of test" in finding.text


def test_chance_on_a_handful_of_pictures_blames_their_number(split_of: Split, history_of: History) -> None:
    test = {**split_of(0.3, 10), "n": 8, "top1": 0.375, "top1_ci95": [0.137, 0.694]}
    train = {**split_of(0.6, 60), "n": 67, "top1": 0.597, "top1_ci95": [0.477, 0.706]}
    (finding, *_) = judge(
        history_of(falling()), {"test": test, "train": train}, num_classes=3, epochs_planned=30
    ).findings
    assert finding.kind == "at-chance"
    assert "n = 8 is too few to tell" in finding.text
    assert "look for labels" not in finding.text
    assert "learning rate" not in finding.text


def test_four_pictures_are_no_reason_to_doubt_their_labels(split_of: Split, history_of: History) -> None:
    test = {**split_of(0.5, 20), "n": 4, "top1": 0.75, "top1_ci95": [0.301, 0.954]}
    (finding, *_) = judge([], {"test": test, "train": split_of(1.0, 30)}, num_classes=2, epochs_planned=0).findings
    assert finding.kind == "at-chance"
    assert "n = 4 is too few to tell" in finding.text
    assert "more than half of the way from guessing to" in finding.text
    assert "look for labels" not in finding.text


def test_a_solved_head_is_not_told_to_augment_or_keep_an_epoch(split_of: Split) -> None:
    metrics = {"test": split_of(0.7, 1000), "train": split_of(1.0, 1000), "head": {"l2": 0.1}}
    (finding, *_) = judge([], metrics, num_classes=10, epochs_planned=20).findings
    assert finding.kind == "overfit"
    assert "restore_best" not in finding.text
    assert "--minutes" in finding.text


def test_curves_of_a_fine_tuning_that_was_not_kept_are_not_those_of_the_head_that_was_measured(
    split_of: Split, history_of: History
) -> None:
    metrics = {"test": split_of(0.7, 1000), "train": split_of(1.0, 1000), "head": {"l2": 0.1, "kept": True}}
    verdict = judge(history_of([2.3] * 10), metrics, num_classes=10, epochs_planned=20)
    found = {finding.kind: finding.text for finding in verdict.findings}
    assert list(found) == ["overfit", "too-few-pictures", "fine-tuning-not-kept"]
    assert "--minutes" not in found["overfit"]
    assert "restore_best" not in found["overfit"]
    del metrics["head"]["kept"]
    tuned, *_ = judge(history_of(falling()), metrics, num_classes=10, epochs_planned=30).findings
    assert "Augment more" in tuned.text


def test_no_gap_is_not_called_one(split_of: Split, history_of: History) -> None:
    metrics = {name: split_of(0.9) for name in ("test", "train")}
    sentence = judge(history_of(falling()), metrics, num_classes=10, epochs_planned=30).sentence
    assert "Train is level with test: 90.0 %" in sentence


def test_labels_that_are_wrong_in_every_split_are_looked_for_in_train(split_of: Split, history_of: History) -> None:
    metrics = {"test": split_of(0.1), "val": split_of(0.1), "train": split_of(0.9)}
    found = judge(history_of(falling()), metrics, num_classes=10, epochs_planned=30).findings
    assert [finding.kind for finding in found] == ["at-chance"]  # and not: augment more
    assert "nothing that holds for 10.0 %" in found[0].text
    assert "in train first" in found[0].text


def test_worse_than_chance_points_at_the_class_list(split_of: Split, history_of: History) -> None:
    verdict = judge(history_of(falling()), {"test": split_of(0.02)}, num_classes=10, epochs_planned=30)
    assert verdict.findings[0].kind == "worse-than-chance"
    assert "worse than chance" in verdict.findings[0].text
    assert "guessing would do better" in verdict.sentence
    assert "cannot be told" not in verdict.sentence
    assert "class lists" in verdict.findings[0].text
    metrics = {"test": split_of(0.02), "train": split_of(0.02)}  # a network that fell in: no list would mend it
    found = judge(history_of(falling()), metrics, num_classes=10, epochs_planned=30).findings[0]
    assert found.kind == "worse-than-chance"
    assert "class lists" not in found.text
    assert "a learning rate that is too high" in found.text


def test_no_better_than_the_most_frequent_class(metrics_of: Split, history_of: History) -> None:
    metrics = {"test": metrics_of([[890, 10], [95, 5]], ["well", "ill"])}
    verdict = judge(history_of(falling()), metrics, num_classes=2, epochs_planned=30)
    assert [finding.kind for finding in verdict.findings] == ["no-better-than-one-answer"]
    assert "90.0 %" in verdict.findings[0].text
    assert "it cannot be told from always naming the most frequent class" in verdict.sentence
    assert "show the rare classes more often" in verdict.findings[0].text
    metrics = {"test": metrics_of([[81, 17], [1, 1]], ["well", "ill"])}  # as where the rare class was weighted up
    worse = judge(history_of(falling()), metrics, num_classes=2, epochs_planned=30).findings[0]
    assert worse.kind == "worse-than-one-answer"
    assert "rare classes" not in worse.text
    assert "it is the most frequent one that is missed" in worse.text


@pytest.mark.parametrize(
    ("confusion", "kinds"),
    [
        (
            [[17, 0], [0, 1]],
            ["no-better-than-one-answer", "too-few-pictures"],
        ),  # 100 %, and one picture makes the difference
        ([[890, 10], [80, 20]], ["no-better-than-one-answer"]),
        ([[893, 7], [75, 25]], []),  # 91.8 % [89.9, 93.3]: 25 pictures won and 7 lost are more than chance
        ([[830, 70], [90, 10]], ["worse-than-one-answer"]),
    ],
)
def test_the_most_frequent_class_is_compared_picture_by_picture(
    metrics_of: Split, history_of: History, confusion: list[list[int]], kinds: list[str]
) -> None:
    metrics = {"test": metrics_of(confusion, ["well", "ill"])}
    verdict = judge(history_of(falling()), metrics, num_classes=2, epochs_planned=30)
    assert [finding.kind for finding in verdict.findings] == kinds
    assert ("would do better" in verdict.sentence) == (kinds == ["worse-than-one-answer"])


def test_classes_that_are_as_frequent_are_not_to_be_balanced(metrics_of: Split, history_of: History) -> None:
    for confusion, uneven in [([[560, 480], [440, 520]], False), ([[890, 10], [80, 20]], True)]:
        metrics = {"test": metrics_of(confusion, ["well", "ill"])}
        (finding,) = judge(history_of(falling()), metrics, num_classes=2, epochs_planned=30).findings
        assert finding.kind == "no-better-than-one-answer"
        assert "Read the recall of each class" in finding.text
        assert ("rare classes" in finding.text) == uneven


# ---- the learning rate, and the length of the run ----


def test_divergence_is_serious_and_named_with_its_epoch(healthy: dict[str, Any], history_of: History) -> None:
    history = history_of([2.0, 1.5, math.nan, math.nan])
    assert (
        judge(history, healthy, num_classes=10, epochs_planned=4)
        .findings[0]
        .text.startswith("The train loss is not a number from epoch 3")
    )
    history[1]["train/loss"] = None
    assert "from epoch 2" in judge(history, healthy, num_classes=10, epochs_planned=4).findings[0].text


def test_a_rising_train_loss_means_a_high_learning_rate(healthy: dict[str, Any], history_of: History) -> None:
    loss = [*falling(24, end=0.8), 0.9, 1.0, 1.1, 1.2, 1.3, 1.4]
    assert kinds_of(history_of(loss), healthy) == ["learning-rate-too-high"]


def test_an_oscillating_train_loss_means_a_high_learning_rate(healthy: dict[str, Any], history_of: History) -> None:
    loss = [1.2 + (0.25 if i % 2 else -0.2) for i in range(20)]
    verdict = judge(history_of(loss), healthy, num_classes=10, epochs_planned=20)
    assert [finding.kind for finding in verdict.findings] == ["learning-rate-too-high"]
    assert "went up in" in verdict.findings[0].text


def test_val_that_never_settles_means_a_high_learning_rate(healthy: dict[str, Any], history_of: History) -> None:
    top1 = [0.8 + (0.04 if i % 2 else -0.04) for i in range(30)]
    verdict = judge(history_of(falling(), [0.6] * 30, top1), healthy, num_classes=10, epochs_planned=30)
    assert "learning-rate-too-high" in [finding.kind for finding in verdict.findings]
    assert "val/top1 swings by 8.0 points" in " ".join(finding.text for finding in verdict.findings)


def test_swings_that_few_val_pictures_explain_are_not_blamed_on_the_rate(split_of: Split, history_of: History) -> None:
    metrics = {"val": split_of(0.8, 60), "train": split_of(0.85, 600)}
    top1 = [0.8 + (0.04 if i % 2 else -0.04) for i in range(30)]
    assert "learning-rate-too-high" not in kinds_of(history_of(falling(), [0.6] * 30, top1), metrics)


def test_a_slow_straight_fall_means_a_low_learning_rate(split_of: Split, history_of: History) -> None:
    metrics = {"test": split_of(0.35), "val": split_of(0.35, 5_000), "train": split_of(0.36, 45_000)}
    history = history_of([2.3 - 0.02 * i for i in range(20)], [2.3 - 0.02 * i for i in range(20)], [0.35] * 20)
    assert "learning-rate-too-low" in kinds_of(history, metrics)
    assert "learning-rate-too-low" not in kinds_of(history_of(falling(end=1.4, pace=2)), metrics)


def test_a_rate_that_falls_to_zero_does_not_hide_that_it_was_too_low(split_of: Split, history_of: History) -> None:
    metrics = {"test": split_of(0.35), "val": split_of(0.35, 5_000), "train": split_of(0.36, 45_000)}
    rates = [0.001 * (1 - i / 12) for i in range(12)]
    for steepness, low in ((0.08, True), (0.8, False)):  # the second is a healthy run of few epochs
        history = history_of((2.3 - steepness * np.cumsum(rates) / sum(rates)).tolist(), lr=rates)
        found = {one.kind: one.text for one in judge(history, metrics, num_classes=10, epochs_planned=12).findings}
        assert ("learning-rate-too-low" in found) == low
        assert ("find a rate with --lr auto" in found["underfit"]) == low


def test_who_overfits_has_learned_and_is_not_told_to_learn_faster_or_to_augment_less(
    split_of: Split, history_of: History
) -> None:
    slow = [1.1 - 0.013 * i for i in range(30)]
    history = history_of(slow, [1.08 - 0.006 * min(i, 10) + 0.012 * max(0, i - 10) for i in range(30)], [0.45] * 30)
    wide = {"test": split_of(0.45), "val": split_of(0.45, 5_000), "train": split_of(0.6, 45_000)}
    assert kinds_of(history, wide, classes=3) == ["overfit"]
    level = {**wide, "train": split_of(0.47, 45_000)}
    assert kinds_of(history, level, classes=3) == ["val-loss-turned"]


def test_a_loss_that_stays_up_by_design_is_not_blamed_on_the_rate(split_of: Split, history_of: History) -> None:
    """As with label smoothing and the hardest pictures alone, which leave a network that knows its pictures."""
    metrics = {"test": split_of(0.9), "val": split_of(0.91, 5_000), "train": split_of(0.99, 45_000)}
    history = history_of([1.63 - 0.06 * i for i in range(11)], falling(11), [0.9] * 11)
    assert "learning-rate-too-low" not in kinds_of(history, metrics)


def test_not_converged_while_the_rate_is_still_up(healthy: dict[str, Any], history_of: History) -> None:
    top1 = [0.5 + 0.013 * i for i in range(30)]
    verdict = judge(history_of(falling(), falling(), top1), healthy, num_classes=10, epochs_planned=30)
    (finding,) = verdict.findings
    assert finding.kind == "not-converged"
    assert "The last 3 epochs of 30 still raised val/top1 by 3.9 points" in finding.text
    assert "it was still improving when it ended" in verdict.sentence


@pytest.mark.parametrize("last", [0.75, 1.0])
def test_one_picture_more_is_no_progress(last: float, split_of: Split, history_of: History) -> None:
    val = {**split_of(0.5, 20), "n": 4, "top1": last, "top1_ci95": [0.5 * last, 1.0]}
    assert "not-converged" not in kinds_of(
        history_of(falling(4), falling(4), [0.5, 0.5, last - 0.25, last]), {"val": val}
    )


def test_a_step_that_few_val_pictures_explain_is_no_progress(split_of: Split, history_of: History) -> None:
    for n, unfinished in [(40, False), (4_000, True)]:
        metrics = {"val": split_of(0.8, n)}
        told = kinds_of(history_of(falling(8), falling(8), [0.78] * 7 + [0.85]), metrics)
        assert ("not-converged" in told) == unfinished


def test_a_steep_end_is_too_short_even_with_an_annealed_rate(healthy: dict[str, Any], history_of: History) -> None:
    history = history_of(falling(5), falling(5), [0.4, 0.55, 0.65, 0.72, 0.79], [4, 3, 2, 1, 0.0])
    assert kinds_of(history, healthy) == ["not-converged"]


def test_a_run_that_ended_early_says_why(healthy: dict[str, Any], history_of: History) -> None:
    history = history_of(falling(12), falling(12), [0.9] * 12)
    assert kinds_of(history, healthy, planned=30) == ["stopped-early"]
    told = {**healthy, "stopped": "early stop: val/loss was best at epoch 7"}
    finding = judge(history, told, num_classes=10, epochs_planned=30).findings[0]
    assert finding.text == "The run ended after 12 of 30 planned epochs (early stop: val/loss was best at epoch 7)."


# ---- how sure the figures are ----


def test_too_few_pictures_says_how_many_would_do(split_of: Split, history_of: History) -> None:
    metrics = {"test": split_of(0.8, 200), "val": split_of(0.8, 200), "train": split_of(0.82, 2_000)}
    (finding,) = judge(history_of(falling()), metrics, num_classes=10, epochs_planned=30).findings
    assert finding.kind == "too-few-pictures"
    assert "n = 200" in finding.text
    assert "so a smaller difference may be luck." in finding.text  # a paired test can tell one
    assert "About 6,300 pictures would make it 2.0 points wide." in finding.text
    low, high = wilson_interval(5_005, 6_300)  # the middle of the interval of 160 of 200
    assert high - low == pytest.approx(0.02, abs=5e-4)


def test_how_many_pictures_would_do_holds_for_a_dozen_too(split_of: Split, history_of: History) -> None:
    dozen = {**split_of(0.6, 200), "n": 12, "top1": 7 / 12, "top1_ci95": wilson_interval(7, 12)}
    metrics = {"test": dozen, "val": split_of(0.6, 200), "train": split_of(0.62, 2_000)}
    findings = judge(history_of(falling()), metrics, num_classes=2, epochs_planned=30).findings
    (text,) = (finding.text for finding in findings if finding.kind == "too-few-pictures")
    assert "About 9,500 pictures would make it 2.0 points wide." in text
    low, high = wilson_interval(5_346, 9_500)
    assert high - low == pytest.approx(0.02, abs=5e-4)


def test_val_and_test_that_differ_by_more_than_chance(split_of: Split, history_of: History) -> None:
    metrics = {"test": split_of(0.86), "val": split_of(0.92, 5_000), "train": split_of(0.95, 45_000)}
    (finding,) = judge(history_of(falling()), metrics, num_classes=10, epochs_planned=30).findings
    assert finding.kind == "val-and-test-disagree"
    assert "6.0 points below val" in finding.text
    assert "near copies" in finding.text
    metrics["test"] = split_of(0.95)
    (finding,) = judge(history_of(falling()), metrics, num_classes=10, epochs_planned=30).findings
    assert "above val" in finding.text
    assert "near copies" not in finding.text
    metrics["test"] = split_of(0.95, views="mirror")
    (finding,) = judge(history_of(falling()), metrics, num_classes=10, epochs_planned=30).findings
    assert finding.severity == "note"
    assert "different test-time views" in finding.text


def test_ten_val_pictures_that_are_all_right_do_not_disagree_with_80_per_cent(
    split_of: Split, history_of: History
) -> None:
    """Chance gives such a pair one time in ten: 0.8 ** 10."""
    metrics = {"val": split_of(1.0, 10), "test": split_of(0.8, 1_000)}
    assert "val-and-test-disagree" not in kinds_of(history_of(falling()), metrics)
    metrics = {"val": split_of(1.0, 40), "test": split_of(0.8, 1_000)}
    assert "val-and-test-disagree" in kinds_of(history_of(falling()), metrics)


def test_only_train_measured_is_serious(split_of: Split, history_of: History) -> None:
    verdict = judge(history_of(falling()), {"train": split_of(0.99)}, num_classes=10, epochs_planned=30)
    assert [finding.kind for finding in verdict.findings] == ["only-train-measured"]
    assert "says nothing about new ones" in verdict.sentence
    assert "points above" not in verdict.sentence


def test_without_figures_there_is_still_a_verdict(history_of: History) -> None:
    verdict = judge(history_of(falling()), {}, num_classes=10, epochs_planned=30)
    assert verdict.sentence == "No accuracy was measured."
    assert verdict.headline == ""
    assert judge([], {}, num_classes=2, epochs_planned=3).findings == ()


def test_headline_split_prefers_test() -> None:
    assert headline_split({"train": {"n": 1}, "val": {"n": 1}, "test": {"n": 1}}) == "test"
    assert headline_split({"train": {"n": 1}, "val": {"n": 1}, "test": None}) == "val"
    assert headline_split({}) is None


_CURVE = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=32))


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from(["lr", "train/loss", "train/top1", "val/loss", "val/top1"]), _CURVE),
        max_size=25,
    ),
    splits=st.dictionaries(
        st.sampled_from(["train", "val", "test"]),
        st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=3, max_size=3).filter(
            lambda table: sum(map(sum, table)) > 0
        ),
    ),
    planned=st.integers(1, 30),
)
def test_any_history_and_any_figures_get_a_verdict(
    rows: list[dict[str, Any]], splits: dict[str, list[list[int]]], planned: int
) -> None:
    from eyespot.evaluation.metrics import wilson_interval

    metrics = {}
    for name, table in splits.items():
        n, hits = sum(map(sum, table)), sum(table[i][i] for i in range(3))
        metrics[name] = {"n": n, "top1": hits / n, "top1_ci95": wilson_interval(hits, n), "confusion": table}
    verdict = judge(rows, metrics, num_classes=3, epochs_planned=planned)
    assert verdict.sentence.endswith(".")
    assert all(finding.text.endswith(".") for finding in verdict.findings)
    if metrics:
        assert f"n = {metrics[headline_split(metrics) or '']['n']:,}" in verdict.sentence


def test_a_steep_fall_at_the_end_is_no_rise(healthy: dict[str, Any], history_of: History) -> None:
    loss = [2.25, 2.06, 1.73, 1.25, 0.79, 0.5]  # the median of the last two is 29 % above the last
    assert "learning-rate-too-high" not in kinds_of(history_of(loss), healthy)


def test_a_first_epoch_far_above_guessing_is_a_rate_too_high_where_the_run_never_recovered(
    split_of: Split, history_of: History
) -> None:
    loss = [7.6, *falling(8, start=2.1, end=1.7)]
    poor = {"test": split_of(0.29), "val": split_of(0.29, 5_000), "train": split_of(0.3, 45_000)}
    verdict = judge(history_of(loss), poor, num_classes=10, epochs_planned=9)
    (finding,) = [finding for finding in verdict.findings if finding.kind == "learning-rate-too-high"]
    assert finding.text.startswith("The train loss of the first epoch was 7.600, and guessing is 2.303.")
    good = {"test": split_of(0.9), "val": split_of(0.9, 5_000), "train": split_of(0.95, 45_000)}
    assert "learning-rate-too-high" not in kinds_of(history_of([7.6, *falling(8)]), good)


def test_who_has_searched_for_the_rate_is_not_sent_to_search_for_it(split_of: Split, history_of: History) -> None:
    guess = {"test": split_of(0.1), "val": split_of(0.1), "train": split_of(0.1)}
    poor = {"test": split_of(0.3), "val": split_of(0.3), "train": split_of(0.3)}
    barely = [2.3 - 0.005 * epoch for epoch in range(30)]
    rising = [2.0 - 0.05 * epoch for epoch in range(20)] + [1.1 + 0.1 * epoch for epoch in range(10)]
    seen = set()
    for curve, metrics in ((barely, guess), (barely, poor), (rising, poor), (barely[:2], poor)):
        for found in (None, 0.021):
            verdict = judge(history_of(curve), metrics, num_classes=10, epochs_planned=len(curve), found_lr=found)
            told = {finding.kind: finding.text for finding in verdict.findings if " rate" in finding.text}
            seen |= set(told)
            assert all(("with --lr auto" in text) == (found is None) for text in told.values()), told
            assert all(("found (0.021)" in text) == (found is not None) for text in told.values()), told
    assert seen == {"at-chance", "underfit", "learning-rate-too-high", "learning-rate-too-low"}


def test_a_rate_that_fell_to_zero_is_not_to_fall_to_zero(split_of: Split, history_of: History) -> None:
    poor = {"test": split_of(0.3), "val": split_of(0.3), "train": split_of(0.3)}
    rising = [2.0 - 0.05 * epoch for epoch in range(20)] + [1.1 + 0.1 * epoch for epoch in range(10)]
    for last, advice in ((1.0, "to a third, or let it fall to zero."), (0.01, "to a third.")):
        rows = [row | {"lr": 0.1 * (1 if place < 29 else last)} for place, row in enumerate(history_of(rising))]
        found = {one.kind: one.text for one in judge(rows, poor, num_classes=10, epochs_planned=30).findings}
        assert found["learning-rate-too-high"].endswith(advice)

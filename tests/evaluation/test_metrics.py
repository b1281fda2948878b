"""The numbers against scikit-learn, hand computations and simulation."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eyespot.errors import DataError, TrainingError, UsageError
from eyespot.evaluation.metrics import (
    adaptive_calibration_error,
    brier_score,
    calibration_intervals,
    check_finite,
    confusion_matrix,
    expected_calibration_error,
    log_softmax,
    measure,
    nll_loss,
    precision_recall_f1,
    softmax,
    top_k_accuracy,
    wilson_interval,
)


def some_answers(n: int = 400, num_classes: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 logits (n, K) that are right more often than chance, and labels of unequal frequency."""
    rng = np.random.default_rng(seed)
    weights = np.arange(1, num_classes + 1) / np.arange(1, num_classes + 1).sum()
    labels = rng.choice(num_classes, size=n, p=weights)
    logits = rng.normal(size=(n, num_classes)).astype(np.float32)
    logits[np.arange(n), labels] += 1.5
    return logits, labels


class TestWilsonInterval:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (score, no continuity correction).
    @pytest.mark.parametrize(
        ("successes", "n", "low", "high"),
        [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
    )
    def test_published_values(self, successes: int, n: int, low: float, high: float) -> None:
        assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)

    def test_it_solves_the_equation_it_comes_from(self) -> None:
        # The bounds are the shares p at which (share - p) / sqrt(p (1 - p) / n) is exactly z.
        z = 1.959963984540054
        for p in wilson_interval(37, 50):
            assert abs(37 / 50 - p) / math.sqrt(p * (1 - p) / 50) == pytest.approx(z)

    @given(st.integers(1, 10**6), st.data())
    def test_holds_the_share_and_stays_in_bounds(self, n: int, data: st.DataObject) -> None:
        successes = data.draw(st.integers(0, n))
        low, high = wilson_interval(successes, n)
        assert 0 <= low <= successes / n <= high <= 1
        mirrored = wilson_interval(n - successes, n)
        assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)

    def test_the_edges_are_exact(self) -> None:
        for n in (1, 7, 10_000):
            assert wilson_interval(0, n)[0] == 0.0
            assert wilson_interval(n, n)[1] == 1.0

    @pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.94])
    def test_it_covers_the_true_share_as_often_as_it_says(self, share: float) -> None:
        n = 200
        draws = np.random.default_rng(1).binomial(n, share, size=20_000)
        low, high = np.array([wilson_interval(hits, n) for hits in range(n + 1)]).T
        covered = ((low[draws] <= share) & (share <= high[draws])).mean()
        assert 0.93 <= covered <= 0.97

    def test_more_confidence_is_wider(self) -> None:
        assert wilson_interval(5, 10, 0.99)[0] < wilson_interval(5, 10, 0.9)[0]

    def test_bad_arguments(self) -> None:
        with pytest.raises(DataError, match="0 trials"):
            wilson_interval(0, 0)
        with pytest.raises(UsageError, match="11 successes in 10 trials"):
            wilson_interval(11, 10)
        with pytest.raises(UsageError, match="confidence 95"):
            wilson_interval(1, 10, 95)


class TestSoftmax:
    @given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
    def test_is_a_distribution_however_large_the_logits(self, logits: np.ndarray) -> None:
        probs = softmax(logits)
        assert probs.dtype == np.float64
        assert ((probs >= 0) & (probs <= 1)).all()
        np.testing.assert_allclose(probs.sum(axis=1), 1)
        assert np.isfinite(log_softmax(logits)).all()

    def test_by_hand(self) -> None:
        logits = np.log(np.array([[1.0, 2.0, 5.0]]))
        np.testing.assert_allclose(softmax(logits), [[1 / 8, 2 / 8, 5 / 8]])
        np.testing.assert_allclose(log_softmax(logits), np.log([[1 / 8, 2 / 8, 5 / 8]]))

    def test_small_probabilities_keep_their_logarithm(self) -> None:
        assert log_softmax(np.array([[0.0, 5000.0]]))[0, 0] == pytest.approx(-5000)


class TestTopK:
    @pytest.mark.parametrize("k", [1, 2, 5, 7])
    def test_against_sklearn(self, k: int) -> None:
        logits, labels = some_answers()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # k = K is "always right", as it is meant here
            expected = sklearn.metrics.top_k_accuracy_score(labels, logits, k=k, labels=range(7))
        assert top_k_accuracy(logits, labels, k) == pytest.approx(expected)

    def test_equal_scores_are_ranked_by_index(self) -> None:
        labels = np.arange(4)
        assert top_k_accuracy(np.zeros((4, 4)), labels, 1) == 0.25
        assert top_k_accuracy(np.zeros((4, 4)), labels, 2) == 0.5

    @pytest.mark.parametrize("k", [0, 8])
    def test_bad_k(self, k: int) -> None:
        with pytest.raises(UsageError, match=f"top-{k} of 7 classes: use k from 1 to 7"):
            top_k_accuracy(*some_answers(), k)


class TestLosses:
    def test_nll_against_sklearn(self) -> None:
        logits, labels = some_answers()
        assert nll_loss(logits, labels) == pytest.approx(sklearn.metrics.log_loss(labels, softmax(logits)))

    def test_guessing_costs_ln_k(self) -> None:
        assert nll_loss(np.zeros((5, 10), np.float32), np.arange(5)) == pytest.approx(math.log(10))

    def test_certainty_costs_nothing_and_the_zero_has_no_sign(self) -> None:
        assert math.copysign(1, nll_loss(np.array([[1e9, 0.0]]), np.array([0]))) == 1.0

    def test_brier_by_hand(self) -> None:
        probs = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]])
        # (0.3² + 0.2² + 0.1²) and (1² + 1²), halved by the mean over two images.
        assert brier_score(probs, np.array([0, 2])) == pytest.approx((0.14 + 2) / 2)

    def test_brier_of_two_classes_is_twice_sklearns(self) -> None:
        logits, labels = some_answers(num_classes=2)
        probs = softmax(logits)
        assert brier_score(probs, labels) == pytest.approx(2 * sklearn.metrics.brier_score_loss(labels, probs[:, 1]))

    def test_the_input_is_not_changed(self) -> None:
        probs = np.array([[0.5, 0.5]])
        brier_score(probs, np.array([0]))
        assert probs.tolist() == [[0.5, 0.5]]


class TestCalibration:
    def naive(self, probs: np.ndarray, labels: np.ndarray, bins: int) -> float:
        total = 0.0
        for i in range(bins):
            low, high = i / bins, (i + 1) / bins
            confidence = probs.max(axis=1)
            inside = (confidence > low) & (confidence <= high)
            if inside.any():
                right = (probs.argmax(axis=1) == labels)[inside].mean()
                total += inside.mean() * abs(right - confidence[inside].mean())
        return total

    @pytest.mark.parametrize("bins", [1, 10, 15])
    def test_against_the_definition(self, bins: int) -> None:
        logits, labels = some_answers(seed=3)
        probs = softmax(logits)
        assert expected_calibration_error(probs, labels, bins) == pytest.approx(self.naive(probs, labels, bins))

    def test_by_hand(self) -> None:
        probs = np.array([[0.8, 0.2]] * 5)
        assert expected_calibration_error(probs, np.array([0, 0, 0, 0, 1])) == pytest.approx(0)
        assert expected_calibration_error(probs, np.array([1, 1, 1, 1, 1])) == pytest.approx(0.8)

    def test_certain_and_right_is_calibrated(self) -> None:
        assert expected_calibration_error(np.eye(3), np.arange(3)) == 0.0

    def test_no_bins(self) -> None:
        with pytest.raises(UsageError, match="0 bins: use 15"):
            expected_calibration_error(np.eye(3), np.arange(3), 0)


class TestPerClass:
    def test_against_sklearn(self) -> None:
        logits, labels = some_answers()
        preds = logits.argmax(axis=1)
        confusion = confusion_matrix(labels, preds, 7)
        np.testing.assert_array_equal(confusion, sklearn.metrics.confusion_matrix(labels, preds, labels=range(7)))
        expected = sklearn.metrics.precision_recall_fscore_support(labels, preds, labels=range(7), zero_division=0)
        for ours, theirs in zip(precision_recall_f1(confusion), expected, strict=False):
            np.testing.assert_allclose(ours, theirs)

    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1))
    def test_classes_that_do_not_occur_or_are_never_predicted(self, pairs: list[tuple[int, int]]) -> None:
        labels, preds = np.array(pairs).T
        confusion = confusion_matrix(labels, preds, 5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = sklearn.metrics.precision_recall_fscore_support(labels, preds, labels=range(5), zero_division=0)
        for ours, theirs in zip(precision_recall_f1(confusion), expected, strict=False):
            np.testing.assert_allclose(ours, theirs)


def binary(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (n, 2) whose first answer is class 0 with these confidences, and labels."""
    return np.stack([confidence, 1 - confidence], axis=1), np.where(right, 0, 1)


class TestCalibrationIntervals:
    # How far the share of right answers lies below the confidence, and how many answers.
    @pytest.mark.parametrize(("off", "n"), [(0.0, 30), (0.0, 400), (0.05, 100), (0.1, 400)])
    @pytest.mark.parametrize("shape", [(0.5, 4.0), (1.0, 1.0)])
    def test_they_hold_the_true_error_at_least_as_often_as_they_say(
        self, off: float, n: int, shape: tuple[float, float]
    ) -> None:
        rng = np.random.default_rng(0)
        held = np.zeros(2)
        for _ in range(200):
            confidence = 1 - rng.beta(*shape, n) * 0.4  # from 0.6 on: the error of every range is `off`
            answers = binary(confidence, rng.random(n) < confidence - off)
            held += [low <= off <= high for low, high in calibration_intervals(*answers)]
        assert (held / 200 >= 0.94).all()

    def test_a_calibrated_model_s_error_is_not_told_from_0_and_a_wrong_one_s_is(self) -> None:
        rng = np.random.default_rng(1)
        confidence = rng.uniform(0.5, 1, 1000)
        (low, high), _ = calibration_intervals(*binary(confidence, rng.random(1000) < confidence))
        assert low == 0
        assert 0.01 < high < 0.1
        (low, _), (adaptive_low, _) = calibration_intervals(*binary(confidence, rng.random(1000) < confidence - 0.2))
        assert min(low, adaptive_low) > 0.1

    @given(st.integers(1, 40), st.integers(2, 5), st.floats(0.01, 50))
    def test_they_hold_the_measured_error_and_stay_in_bounds(self, n: int, num_classes: int, scale: float) -> None:
        logits, labels = some_answers(n, num_classes)
        probs = softmax(logits * scale)
        errors = expected_calibration_error(probs, labels), adaptive_calibration_error(probs, labels)
        for error, (low, high) in zip(errors, calibration_intervals(probs, labels), strict=True):
            assert 0 <= low <= error <= high <= 1

    def test_a_dozen_sure_and_right_answers_leave_a_doubt(self) -> None:
        for low, high in calibration_intervals(np.eye(12), np.arange(12)):
            assert low == 0
            assert high == pytest.approx(1.96**2 / 12, abs=1e-3)


class TestMeasure:
    names = ("a", "b", "c", "d", "e", "f", "g")

    def test_the_document(self) -> None:
        logits, labels = some_answers()
        result = measure(logits, labels, self.names, seconds=0.5, views="mirror")
        assert list(result) == [
            *("n", "top1", "top1_ci95", "top5", "nll_loss", "ece", "ece_ci95"),
            *("adaptive_ece", "adaptive_ece_ci95", "brier", "reliability"),
            *("uncalibrated", "per_class", "confusion"),
            *("seconds", "images_per_second", "views"),
        ]
        assert json.loads(json.dumps(result, allow_nan=False)) == result
        assert result["n"] == 400
        assert result["top1"] == pytest.approx((logits.argmax(1) == labels).mean())
        assert result["top1_ci95"] == list(wilson_interval(round(result["top1"] * 400), 400))
        assert result["top5"] == top_k_accuracy(logits, labels, 5)
        assert list(result["per_class"]) == list(self.names)
        assert result["per_class"]["g"]["n"] == (labels == 6).sum()
        assert sum(entry["n"] for entry in result["per_class"].values()) == 400
        assert np.array(result["confusion"]).sum(axis=1).tolist() == np.bincount(labels).tolist()
        assert result["images_per_second"] == 800
        assert result["views"] == "mirror"

    @pytest.mark.parametrize(("num_classes", "has_top5"), [(2, False), (5, False), (6, True)])
    def test_top5_only_where_it_says_something(self, num_classes: int, has_top5: bool) -> None:
        result = measure(*some_answers(num_classes=num_classes), self.names[:num_classes], seconds=1)
        assert (result["top5"] is not None) == has_top5

    @settings(max_examples=50)
    @given(
        hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(width=32)),
        st.integers(0, 2),
    )
    def test_any_finite_logits_give_finite_numbers_and_others_an_error(self, logits: np.ndarray, label: int) -> None:
        labels = np.full(len(logits), label)
        if not np.isfinite(logits).all():
            with pytest.raises(TrainingError, match="NaN or infinity"):
                measure(logits, labels, "xyz", seconds=1)
            return
        json.dumps(measure(logits, labels, "xyz", seconds=1), allow_nan=False)

    def test_no_time_measured(self) -> None:
        assert measure(*some_answers(), self.names, seconds=0)["images_per_second"] == 0.0

    def test_nan_names_how_many(self) -> None:
        logits = some_answers()[0]
        logits[3, 2] = np.nan
        logits[9, 0] = np.inf
        with pytest.raises(TrainingError, match="NaN or infinity for 2 of 400 images"):
            check_finite(logits)

    def test_no_images(self) -> None:
        with pytest.raises(DataError, match="no images to measure"):
            measure(np.zeros((0, 3), np.float32), np.zeros(0, np.int64), "xyz", seconds=1)

    @pytest.mark.parametrize("label", [-1, 3])
    def test_a_label_without_an_output(self, label: int) -> None:
        with pytest.raises(DataError, match=f"label {label} where the model has the outputs 0 to 2"):
            measure(np.zeros((2, 3), np.float32), np.array([0, label]), "xyz", seconds=1)

    def test_shapes_that_do_not_belong_together(self) -> None:
        with pytest.raises(UsageError, match=r"logits of shape \(2, 3\) and labels of shape \(3,\)"):
            measure(np.zeros((2, 3), np.float32), np.zeros(3, np.int64), "xyz", seconds=1)
        with pytest.raises(UsageError, match="2 class names for 3 outputs"):
            measure(np.zeros((2, 3), np.float32), np.zeros(2, np.int64), "xy", seconds=1)

"""The temperature: found where it was planted, drawn towards 1 by few pictures, and never a change of an answer."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from eyespot.errors import DataError, TrainingError
from eyespot.evaluation.calibration import fit_temperature, without_val
from eyespot.evaluation.metrics import (
    adaptive_calibration_error,
    calibration_metrics,
    nll_loss,
    reliability_bins,
    softmax,
)


def planted(n: int, temperature: float, num_classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits whose labels were drawn from softmax(logits / temperature)."""
    dice = np.random.default_rng(seed)
    logits = dice.normal(size=(n, num_classes)).astype(np.float32) * 3
    probs = softmax(logits / temperature)
    labels = (probs.cumsum(axis=1) > dice.random((n, 1))).argmax(axis=1)
    return logits, labels.astype(np.int64)


class TestFit:
    @pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
    def test_finds_what_was_planted(self, temperature: float) -> None:
        found = fit_temperature(*planted(20_000, temperature))
        assert found.temperature == pytest.approx(temperature, rel=0.05)
        assert found.n == 20_000
        assert found.note == ""

    def test_against_scipy(self) -> None:
        logits, labels = planted(2000, 1.7)

        def loss(log_t: float) -> float:
            return 2000 * nll_loss(logits / np.exp(log_t), labels) + log_t**2 / (2 * np.log(2) ** 2)

        best = scipy.optimize.minimize_scalar(loss, bounds=(-2, 2), method="bounded", options={"xatol": 1e-8})
        assert fit_temperature(logits, labels).temperature == pytest.approx(np.exp(best.x), rel=1e-5)

    def test_ece_falls_on_pictures_that_were_not_fitted(self) -> None:
        found = fit_temperature(*planted(5000, 3.0))
        logits, labels = planted(5000, 3.0, seed=1)
        before, after = (calibration_metrics(logits, labels, t) for t in (1.0, found.temperature))
        for name in ("ece", "adaptive_ece", "brier", "nll_loss"):
            assert after[name] < before[name]
        assert after["ece"] < 0.03 < before["ece"]

    def test_few_pictures_that_are_all_right_make_nobody_sure(self) -> None:
        logits = np.eye(3, dtype=np.float32)[[0, 1, 2] * 4] * 5
        found = fit_temperature(logits, np.array([0, 1, 2] * 4))
        assert 0.3 < found.temperature < 1.0
        assert found.note == "fitted on only 12 val pictures, and so drawn towards 1"
        many = fit_temperature(np.tile(logits, (1000, 1)), np.array([0, 1, 2] * 4000))
        assert many.temperature < found.temperature

    def test_extreme_logits_stay_within_bounds(self) -> None:
        for scale in (1e-30, 1e4, 1e30):
            logits, labels = planted(200, 1.0)
            assert 0.05 <= fit_temperature(logits * np.float32(scale), labels).temperature <= 20

    def test_without_val_it_is_one_and_said(self) -> None:
        assert without_val().temperature == 1.0
        assert without_val().as_dict()["fitted_on"] is None
        assert "not calibrated" in without_val().note

    def test_nothing_to_fit(self) -> None:
        with pytest.raises(DataError, match="no images to measure: give a split"):
            fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
        with pytest.raises(TrainingError, match="answers NaN or infinity"):
            fit_temperature(np.array([[np.nan, 1.0]], np.float32), np.array([0]))


class TestMetrics:
    @given(st.integers(0, 10**6), st.integers(1, 60))
    @settings(max_examples=50, deadline=None)
    def test_both_errors_agree_in_one_range(self, seed: int, n: int) -> None:
        logits, labels = planted(n, 1.0, seed=seed)
        probs = softmax(logits)
        gap = abs(float((probs.argmax(1) == labels).mean() - probs.max(1).mean()))
        assert adaptive_calibration_error(probs, labels, bins=1) == pytest.approx(gap, abs=1e-12)
        assert gap - 1e-12 <= adaptive_calibration_error(probs, labels) <= 1

    def test_by_hand(self) -> None:
        probs = np.array([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]])
        labels = np.array([0, 1, 0, 0])
        assert adaptive_calibration_error(probs, labels, bins=2) == pytest.approx((0.2 + 0.2) / 4)
        assert reliability_bins(probs, labels, bins=2) == [[pytest.approx(0.75), 0.75, 4]]
        assert reliability_bins(probs, labels) == [
            [pytest.approx(0.6), 0.5, 2],
            [pytest.approx(0.9), 1.0, 2],
        ]

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from eyespot.errors import UsageError
from eyespot.evaluation.metrics import wilson_interval
from eyespot.evaluation.statistics import (
    accuracy_error,
    holm,
    mcnemar_exact,
    mean_interval,
    mean_p_value,
    paired_bootstrap,
    picture_error,
)


@pytest.mark.parametrize("seed", range(5))
def test_figures_agree_with_statsmodels(seed: int) -> None:
    dice = np.random.default_rng(seed)
    first, second = dice.random(500) < 0.8, dice.random(500) < 0.75
    table = [[(first & second).sum(), (first & ~second).sum()], [(~first & second).sum(), (~first & ~second).sum()]]
    assert mcnemar_exact(first, second).p_value == pytest.approx(mcnemar(table, exact=True).pvalue, abs=1e-9)
    p = dice.random(7) ** 3
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-9)
    values = dice.normal(0.9, 0.01, 4)
    found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx(DescrStatsW(values).tconfint_mean(0.05), abs=1e-9)
    assert found.std == pytest.approx(stats.tstd(values), abs=1e-9)


def test_the_paired_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    dice, hits = np.random.default_rng(0), 0
    for trial in range(1000):
        cells = dice.choice(4, 1000, p=[0.7, 0.12, 0.08, 0.1])  # both, only first, only second, neither
        low, high = paired_bootstrap(cells < 2, (cells == 0) | (cells == 2), draws=1000, seed=trial)
        hits += low <= -0.04 <= high
    assert 0.93 <= hits / 1000 <= 0.97


@pytest.mark.parametrize(("only_first", "only_second", "n"), [(0, 0, 5), (0, 3, 3), (2, 0, 2), (0, 1, 40)])
def test_a_few_pictures_leave_doubt_also_where_all_of_them_agree(only_first: int, only_second: int, n: int) -> None:
    places = np.arange(n)
    first, second = places < only_first, (places >= only_first) & (places < only_first + only_second)
    low, high = paired_bootstrap(first, second)
    assert low < 0 < high, "McNemar tells nothing of any of these"
    assert low <= (only_second - only_first) / n <= high


def test_the_paired_bootstrap_of_five_pictures_covers_the_truth() -> None:
    dice, hits = np.random.default_rng(0), 0
    for trial in range(500):  # without the two pictures more: 54 %
        cells = dice.choice(3, 5, p=[0.05, 0.15, 0.8])
        low, high = paired_bootstrap(cells == 0, cells == 1, draws=1000, seed=trial)
        hits += low <= 0.1 <= high
    assert hits / 500 >= 0.95


def test_what_tells_nothing_says_so() -> None:
    same = np.array([True, False, True])
    assert mcnemar_exact(same, same) == (0, 0, 1.0)
    assert math.isnan(mean_interval([0.9]).std)
    with pytest.raises(UsageError, match="the same pictures"):
        mcnemar_exact(same, same[:2])
    with pytest.raises(UsageError, match="mean of nothing"):
        mean_interval([])


def test_the_p_value_over_seeds_is_scipys_paired_t_test() -> None:
    from scipy.stats import ttest_rel

    first, second = [0.91, 0.905, 0.913, 0.9], [0.9, 0.902, 0.9, 0.898]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    assert mean_p_value(differences) == pytest.approx(ttest_rel(second, first).pvalue, rel=1e-9)
    assert mean_p_value([0.01]) == mean_p_value([0.0, 0.0]) == 1.0
    assert mean_p_value([0.01] * 3) == 0.25  # no spread to go by: the sign test of three seeds


def test_the_picture_error_is_the_spread_of_the_difference_over_draws_of_pictures() -> None:
    dice = np.random.default_rng(0)
    hard = dice.random(200_000) < 0.3  # the second kind of run fails on these, whatever the seed
    first, second = np.ones((2, len(hard)), dtype=bool), np.stack([~hard, ~hard])
    differences, errors = [], []
    for start in range(0, len(hard), 500):
        part = slice(start, start + 500)
        differences.append(float(second[:, part].mean() - first[:, part].mean()))
        errors.append(picture_error(first[:, part], second[:, part]))
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=0.1)


def test_errors_from_the_pictures_do_not_vanish_where_all_are_right() -> None:
    for share, n in ((0.5, 30), (0.9, 400), (1.0, 24), (0.0, 7)):
        low, high = wilson_interval(round(share * n), n)
        assert accuracy_error(share, n) == pytest.approx((high - low) / 2 / 1.959964, rel=1e-6)
    agreed = np.ones((3, 24), dtype=bool)
    assert picture_error(agreed, agreed) == pytest.approx(np.sqrt(2 / 26 / 26))


def test_ablations_without_an_effect_find_one_in_five_of_a_hundred() -> None:
    dice = np.random.default_rng(0)
    found = 0
    for _ in range(1000):
        baseline, changes = dice.normal(size=3), dice.normal(size=(5, 3))
        found += bool(holm([mean_p_value(list(change - baseline)) for change in changes]).min() < 0.05)
    assert 25 <= found <= 70  # the changes share their baseline, so it is a little under 50

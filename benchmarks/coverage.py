"""How often the 95 % intervals hold the truth, where simulations know it: `python benchmarks/coverage.py`.

Prints one line for each interval: the share that covers, and its own standard error. No data, no training.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from eyespot.evaluation.metrics import wilson_interval
from eyespot.evaluation.statistics import mean_interval, paired_bootstrap

_CELLS = (0.88, 0.03, 0.02, 0.07)  # both right, only the first, only the second, neither


def cover_wilson(trials: int, n: int, truth: float) -> float:
    """Return the share of Wilson intervals of `n` pictures that hold an accuracy."""
    hits = np.random.default_rng(0).binomial(n, truth, trials).tolist()
    return float(np.mean([low <= truth <= high for low, high in (wilson_interval(hit, n) for hit in hits)]))


def cover_bootstrap(trials: int, n: int, draws: int) -> float:
    """Return the share of paired bootstrap intervals that hold the difference of two runs."""
    dice, held, truth = np.random.default_rng(1), 0, _CELLS[2] - _CELLS[1]
    for trial in range(trials):
        counts = dice.multinomial(n, _CELLS)
        cells = np.repeat(np.arange(4), counts)
        low, high = paired_bootstrap(cells < 2, (cells == 0) | (cells == 2), draws=draws, seed=trial)
        held += low <= truth <= high
    return held / trials


def cover_seeds(trials: int, seeds: int) -> float:
    """Return the share of t intervals over `seeds` normal figures that hold their mean."""
    values = np.random.default_rng(2).normal(0.9, 0.003, (trials, seeds))
    found = [mean_interval(row) for row in values.tolist()]
    return float(np.mean([one.low <= 0.9 <= one.high for one in found]))


def main() -> None:
    """Run the simulations and print their shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=2_000, help="Bootstrap samples of each interval.")
    asked = parser.parse_args()
    trials, draws = asked.trials, asked.draws
    shares = {
        "Wilson, accuracy 0.9, n 10,000": cover_wilson(trials, 10_000, 0.9),
        "Wilson, accuracy 0.9, n 200": cover_wilson(trials, 200, 0.9),
        "paired bootstrap, n 10,000, 5 % discordant": cover_bootstrap(trials, 10_000, draws),
        "paired bootstrap, n 1,000, 5 % discordant": cover_bootstrap(trials, 1_000, draws),
        "mean over 3 seeds": cover_seeds(trials, 3),
        "mean over 10 seeds": cover_seeds(trials, 10),
    }
    for name, share in shares.items():
        print(f"{name}: {100 * share:.2f} % +- {100 * math.sqrt(share * (1 - share) / trials):.2f} ({trials} trials)")


if __name__ == "__main__":
    main()

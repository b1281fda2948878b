"""Search near copies among up to a million thumbnails, and see how the work grows with their number.

    python benchmarks/near_copies.py 100000 300000 1000000 --out benchmarks/results/near-copies-2cores.csv

The thumbnails are mixtures of two pictures of CIFAR-10 (JPEG 75), so that any number of different ones can be made with
the spectra of real ones; a hundredth are copies of another one, mirrored or not, with noise of 4 levels. `compared`,
pairs of thumbnails that were compared out of `pairs`, does not depend on the machine. `recall` is of the copies.
"""

from __future__ import annotations

import argparse
import csv
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.arrays import Int64Array, UInt8Array
from eyespot.data.fingerprints import find_near_pairs
from eyespot.opening import load_recipe, open_data, pack_data
from eyespot.terminal import Terminal

_BLOCK = 10_000


def make_thumbnails(real: UInt8Array, count: int, seed: int) -> tuple[UInt8Array, Int64Array]:
    """Return uint8 (count, 32, 32), and int64 (copies, 2): places of planted copies and of their originals."""
    dice = np.random.default_rng(seed)
    thumbs = np.empty((count, *real.shape[1:]), np.uint8)
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        one, other = dice.integers(0, len(real), (2, end - start))
        share = dice.uniform(0.3, 0.7, (end - start, 1, 1)).astype(np.float32)
        thumbs[start:end] = share * real[one] + (1 - share) * real[other][:, ::-1]
    places = dice.permutation(count)[: 2 * (count // 100)].reshape(-1, 2)
    for copy, source in places.tolist():
        picture = thumbs[source][:, :: dice.choice([-1, 1])].astype(np.float32)
        thumbs[copy] = np.clip(picture + dice.normal(0, 4, picture.shape), 0, 255)
    return thumbs, places


def measure(real: UInt8Array, count: int, seed: int) -> dict[str, Any]:
    """Return one row."""
    thumbs, places = make_thumbnails(real, count, seed)
    started = time.monotonic()
    found = find_near_pairs(thumbs, np.arange(count))
    seconds = time.monotonic() - started
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    hits = sum((min(pair), max(pair)) in pairs for pair in places.tolist())
    return {
        "pictures": count,
        "seconds": round(seconds, 1),
        "microseconds_each": round(1e6 * seconds / count, 1),
        "pairs": count * (count - 1) // 2,
        "compared": found.compared,
        "compared_each": round(found.compared / count, 2),
        "cut": found.cut,
        "found": len(found.first),
        "planted": len(places),
        "recall": round(hits / max(len(places), 1), 4),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="+", type=int)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    watcher = Terminal(quiet=True)
    packed = pack_data(open_data(asked.data, watcher), load_recipe("fast", {}), watcher)
    real = packed.splits["train"].thumbs
    assert real is not None
    rows = []
    for count in asked.counts:
        rows.append(measure(real, count, asked.seed))
        print(rows[-1], file=sys.stderr, flush=True)
        with open(asked.out, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()

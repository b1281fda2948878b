"""What training keeps of its pace on a machine that does other things, by how long a thread waits for another one.

python benchmarks/crowded.py --spins 300000 20000 --busy 0 2 --rounds 3

Prints CSV: pictures a second, median of the epochs, of `eyespot train digits` at 8 px and at 32 px, for each
GOMP_SPINCOUNT (300000 is GNU's default) in turn, alone and beside processes that do nothing but count.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eyespot.runs import Run

EPOCHS = {8: 8, 32: 2}
"""Epochs by size of the picture, px: some seconds of training each."""


@contextmanager
def counting(processes: int) -> Iterator[None]:
    """Keep so many processes busy, each in a session of its own, as other people's are."""
    command = [sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(command, start_new_session=True) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def pace(size_px: int, spins: int) -> float:
    """Return pictures a second of a training, median of its epochs."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "eyespot", "train", "digits", "--out", str(run)]
        command += ["--set", f"training.epochs={EPOCHS[size_px]}", "--set", f"input.size_px={size_px}"]
        command += ["--set", "training.threads=0"]  # the recipe takes one
        environment = os.environ | {"GOMP_SPINCOUNT": str(spins)}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return statistics.median(row["images_per_second"] for row in Run.open(run).history)


def main() -> None:
    """Measure each combination in turn and print a row for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spins", type=int, nargs="+", default=[300_000, 20_000])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["size_px", "busy_processes", "spins", "n", "pictures_per_second", "lowest", "highest"])
    for size_px in EPOCHS:
        for busy in asked.busy:
            found: dict[int, list[float]] = {spins: [] for spins in asked.spins}
            with counting(busy):
                for _ in range(asked.rounds):
                    for spins in asked.spins:
                        found[spins].append(pace(size_px, spins))
            for spins, values in found.items():
                figures = [round(value) for value in (statistics.median(values), min(values), max(values))]
                table.writerow([size_px, busy, spins, len(values), *figures])
            sys.stdout.flush()


if __name__ == "__main__":
    main()

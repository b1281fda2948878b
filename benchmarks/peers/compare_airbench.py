"""Time to the accuracy of airbench94-Muon: that program and a recipe in turn (A B A B), on the same pictures.

python benchmarks/peers/compare_airbench.py DATA --source airbench94_muon.py [--recipe sprint] [--rounds 5]

Both train on all training pictures, and both figures are of six views. With `--peer-epochs 3` the peer's seconds are
put together of an epoch of each kind (`airbench_peer.py`): for timing where its accuracy is known from other runs.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from eyespot.runs import Run


def ours(data: Path, recipe: str, seed: int) -> dict[str, Any]:
    """Train with a recipe from start to report, and return what it took and gave."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        command = [sys.executable, "-m", "eyespot", "train", str(data), "--recipe", recipe, "--final"]
        begun = time.perf_counter()
        subprocess.run([*command, "--seed", str(seed), "--out", str(run)], check=True, capture_output=True)
        wall = time.perf_counter() - begun
        metrics = Run.open(run).metrics
    return {
        "tool": f"eyespot train --recipe {recipe} --final",
        "seed": seed,
        "epochs": metrics["epochs"],
        "train_seconds": round(metrics["train_seconds"], 1),
        "wall_seconds": round(wall, 1),
        "top1_six_views": metrics["test"]["top1"] if metrics["test"]["views"] == "mirror-shift" else None,
    }


def theirs(data: Path, source: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Run the peer."""
    script = Path(__file__).with_name("airbench_peer.py")
    command = [sys.executable, str(script), str(data), "--source", str(source), "--seed", str(seed)]
    output = subprocess.run([*command, "--epochs", str(epochs)], check=True, capture_output=True, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def main() -> None:
    """Run the rounds, write a row a run as CSV, and say the ratio of the training times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--recipe", default="sprint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-epochs", type=int, choices=(3, 8), default=8)
    options = parser.parse_args()
    columns = ["tool", "seed", "epochs", "epoch_seconds", "train_seconds", "wall_seconds"]
    columns += ["top1_one_view", "top1_six_views"]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    ratios = []
    for seed in range(options.rounds):
        peer = theirs(options.data, options.source, seed, options.peer_epochs)
        mine = ours(options.data, options.recipe, seed)
        writer.writerows([peer, mine])
        sys.stdout.flush()
        ratios.append(mine["train_seconds"] / peer["train_seconds"])
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}, n = {len(ratios)}"
    print(f"ratio of training seconds: median {statistics.median(ratios):.3f} ({spread})", file=sys.stderr)


if __name__ == "__main__":
    main()

"""Training speed of a study's network here and in Keras, in turn (A B A B), as a ratio.

python benchmarks/peers/compare_speed.py DATA --keras /tmp/keras/bin/python [--network convnet3] [--rounds 5]

Both sides: the same network, batch size 64, augmentation included, the median step of 200 (Keras: `keras_peer.py`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench import training_speed, variant

RECIPES = {"convnet3": "dll2018", "vgg16-mini": "gomez2025-vgg"}
STEPS = 200


def main() -> None:
    """Measure and print one line of JSON a round, then the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--keras", required=True, help="the Python that has TensorFlow")
    parser.add_argument("--network", choices=RECIPES, default="convnet3")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    peer = [options.keras, str(Path(__file__).with_name("keras_peer.py")), str(options.data)]
    peer += ["--network", options.network, "--steps", str(STEPS)]
    ours, theirs = [], []
    for _ in range(options.rounds):
        ours.append(training_speed(variant(RECIPES[options.network]), steps=STEPS))
        answer = subprocess.run(peer, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        theirs.append(json.loads(answer)["images_per_second"])
        print(json.dumps({"eyespot": round(ours[-1], 1), "keras": theirs[-1]}), flush=True)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    speeds = f"eyespot {statistics.median(ours):,.0f} pictures/s, Keras {statistics.median(theirs):,.0f}"
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}, n = {len(ratios)}"
    print(f"{options.network}: {speeds}, ratio {statistics.median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    main()

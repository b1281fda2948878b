"""Ultralytics on the same pictures: yolo11n-cls from scratch at 32 px, with its own defaults and time limit.

python benchmarks/peers/ultralytics_peer.py DATA [--minutes 10] [--batch-size 16]

Needs `pip install ultralytics`. DATA has train/CLASS/* and test/CLASS/*; Ultralytics selects its epoch on test/.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import ultralytics


def main() -> None:
    """Train for the budget and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--batch-size", type=int, default=16, help="its own default; larger ones are faster at 32 px")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = ultralytics.YOLO("yolo11n-cls.yaml")
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model.train(
            data=str(options.data.resolve()),
            imgsz=32,
            batch=options.batch_size,
            time=options.minutes / 60,
            seed=options.seed,
            device="cpu",
            project=folder,
            verbose=False,
            plots=False,
        )
        seconds = time.perf_counter() - begun
        metrics = model.val(data=str(options.data.resolve()), split="test", imgsz=32, device="cpu", project=folder)
    test = options.data / "test"
    print(
        json.dumps(
            {
                "peer": f"ultralytics {ultralytics.__version__}",
                "network": "yolo11n-cls",
                "batch_size": options.batch_size,
                "train_seconds": round(seconds, 1),
                "seed": options.seed,
                "test_n": sum(1 for path in test.rglob("*") if path.is_file()),
                "test_top1": round(float(metrics.top1), 4),
            }
        )
    )


if __name__ == "__main__":
    main()

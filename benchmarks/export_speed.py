"""How fast a trained model answers as an exported file, in 8 bits, and in torch: variants in turn, with their spread.

python benchmarks/export_speed.py RUN [--rounds 7] [--out FILE.csv]

RUN is a run whose data are at hand, as `eyespot export RUN --int8` needs. What that costs in accuracy on val is in the
first lines. Other work on the machine spoils the figures.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import eyespot
from bench import machine, values_in_turn
from eyespot.deployment.export import open_session
from eyespot.device import plan_compute, prepare_process
from eyespot.evaluation.bundle import find_bundle, load_bundle
from eyespot.evaluation.predictor import Predictor

BATCHES = (1, 64, 500)
PICTURES = 2000  # a round, at batches over 1


def rate(answer: Callable[[], object], batch: int) -> float:
    """Return pictures per second over one round."""
    repeats = 100 if batch == 1 else PICTURES // batch
    started = time.perf_counter()
    for _ in range(repeats):
        answer()
    return batch * repeats / (time.perf_counter() - started)


def main() -> None:
    """Export, measure and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    prepare_process()
    with tempfile.TemporaryDirectory() as folder:
        files = [eyespot.export(options.run, out=folder), eyespot.export(options.run, out=folder, int8=True)]
        for file in files:
            print(file.describe())
        sessions = dict(zip(("ONNX float32", "ONNX int8"), (open_session(file.path) for file in files), strict=True))
        predictors = {
            "torch float32": Predictor(*load_bundle(find_bundle(options.run)), plan_compute("cpu", "float32")),
            "torch bf16": Predictor(*load_bundle(find_bundle(options.run)), plan_compute("cpu", "bf16")),
        }
        info = next(iter(predictors.values())).info
        side, rows = info.input.size_px, []
        for batch in BATCHES:
            images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
            tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
            if info.input.channels == 1:
                tensor = tensor[:, :1]
            variants: dict[str, Callable[[], object]] = {
                name: lambda session=session, images=images: session.run(["probs"], {"images": images})
                for name, session in sessions.items()
            } | {
                name: lambda predictor=predictor, tensor=tensor: predictor.batch_logits(tensor, views=info.views)
                for name, predictor in predictors.items()
            }
            for answer in variants.values():
                answer()
            rates = {name: lambda answer=answer, batch=batch: rate(answer, batch) for name, answer in variants.items()}
            values = values_in_turn(rates, options.rounds)
            base = values["ONNX float32"]
            for name, found in values.items():
                ratio = statistics.median(a / b for a, b in zip(found, base, strict=True))
                print(
                    f"batch {batch:>4}  {name:<14} {statistics.median(found):>9,.0f} pictures/s"
                    f"  [{min(found):,.0f}, {max(found):,.0f}], {ratio:.2f} x ONNX float32, n = {len(found)}"
                )
                figures = [f"{figure:.4g}" for figure in (statistics.median(found), min(found), max(found), ratio)]
                rows.append([batch, name, "pictures/s", *figures, len(found)])
    name = f"export-torch{torch.__version__.split('+')[0]}-{os.cpu_count()}cores.csv"
    path = options.out or Path(__file__).parent / "results" / name
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = ["batch", "variant", "unit", "median", "low", "high", "ratio", "n", "processor", "features", "torch"]
        writer.writerow(names)
        writer.writerows([*row, *machine()] for row in rows)
    print(path)


if __name__ == "__main__":
    main()

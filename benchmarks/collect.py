"""Collect finished runs into a CSV file: one row a run, with the command and the environment.

python benchmarks/collect.py runs/a runs/b > rows.csv

`train_minutes` counts the encoding of frozen features whenever that was done, `wall_minutes` this command alone, which
may have found them in the cache.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from datetime import datetime

from eyespot.runs import Run


def row(run: Run) -> dict[str, object]:
    """Return one run's figures."""
    metrics, known = run.metrics, run.provenance
    test, val, train = (metrics.get(split, {}) for split in ("test", "val", "train"))
    rates = [entry["images_per_second"] for entry in run.history]
    begun, ended = (datetime.fromisoformat(known[key]) for key in ("started", "finished"))
    low, high = test.get("top1_ci95", (None, None))
    return {
        "command": known["command"],
        "data": known["dataset"],
        "recipe": run.config.name,
        "seed": run.config.training.seed,
        "epochs": metrics["epochs"],
        "stopped": metrics["stopped"],
        "train_minutes": round(metrics["train_seconds"] / 60, 2),
        "wall_minutes": round((ended - begun).total_seconds() / 60, 2),
        "packing_seconds": round(known["packing_seconds"], 1),
        "test_top1": test.get("top1"),
        "test_ci95_low": low and round(low, 4),
        "test_ci95_high": high and round(high, 4),
        "test_n": test.get("n"),
        "views": test.get("views"),
        "val_top1": val.get("top1"),
        "val_n": val.get("n"),
        "train_top1": train.get("top1"),
        "test_nll": test and round(test["nll_loss"], 4),
        "test_ece": test and round(test["ece"], 4),
        "images_per_second": round(statistics.median(rates), 1) if rates else None,  # a solved head has no epochs
        "peak_memory_gb": known.get("peak_memory_bytes") and round(known["peak_memory_bytes"] / 1e9, 2),
        "precision": known["precision"],
        "threads": known["threads"],
        "processor": known["processor"],
        "torch": known["versions"]["torch"],
    }


def main() -> None:
    """Write the CSV to stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    rows = [row(Run.open(folder)) for folder in parser.parse_args().runs]
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    main()

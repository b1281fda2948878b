"""What a model trained on square pictures says about photographs that are not square, by how they become square.

    python benchmarks/photographs.py runs/a runs/b runs/c --out photographs.csv

No set of labelled photographs of these classes is at hand, so test pictures of the run's data stand for them, in two
ways. `filled`: the square is cut to the aspect, so that the object fills the photograph and may run out of it.
`off-centre`: the square lies at a random place of a larger photograph of the aspect, whose rest is its own border
continued and blurred. Both are enlarged fifteenfold, and every other one stands upright.

Ways: `centre` (what predict does after training on squares), `squash`, `pad` (black bars), `three` (squares at both
ends and in the middle, logits averaged), `centre+squash` (logits averaged).
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageFilter

from eyespot.arrays import Float32Array, Int64Array, UInt8Array
from eyespot.data.resizing import Fit, RowFormat
from eyespot.evaluating import own_data
from eyespot.evaluation.metrics import wilson_interval
from eyespot.evaluation.predictor import Predictor, load_predictor
from eyespot.runs import Run
from eyespot.terminal import Terminal
from eyespot.training.prepare import read_positions

ASPECTS = {"1:1": 1.0, "4:3": 4 / 3, "3:2": 3 / 2, "16:9": 16 / 9, "2:1": 2.0}
WAYS = {
    "centre": ("crop",),
    "squash": ("squash",),
    "pad": ("pad",),
    "three": ("start", "crop", "end"),
    "centre+squash": ("crop", "squash"),
}
VIEWS = ("crop", "squash", "pad", "start", "end")
_ENLARGED = 15
_BATCH = 100


def filled(square: UInt8Array, aspect: float, dice: np.random.Generator) -> UInt8Array:
    """Return a part of a square picture with an aspect, enlarged."""
    side = len(square)
    height = round(side / aspect)
    first = int(dice.integers(0, side - height + 1))
    return enlarged(square[first : first + height])


def off_centre(square: UInt8Array, aspect: float, dice: np.random.Generator) -> UInt8Array:
    """Return a photograph of an aspect with the square picture somewhere along it, enlarged."""
    side = len(square)
    extra = round(side * aspect) - side
    before = int(dice.integers(0, extra + 1))
    wide = np.pad(square, ((0, 0), (before, extra - before), (0, 0)), mode="edge")
    scene = np.array(Image.fromarray(wide).filter(ImageFilter.GaussianBlur(3)))
    scene[:, before : before + side] = square
    return enlarged(scene)


def enlarged(pixels: UInt8Array) -> UInt8Array:
    """Return a picture at the size of a photograph."""
    height, width = pixels.shape[:2]
    picture = Image.fromarray(pixels).resize((_ENLARGED * width, _ENLARGED * height), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def square_of(photograph: UInt8Array, way: str, form: RowFormat) -> UInt8Array:
    """Return uint8 (S, S, C) of a photograph."""
    height, width = photograph.shape[:2]
    short = min(width, height)
    if way == "start":
        photograph, way = photograph[:short, :short], "crop"
    elif way == "end":
        photograph, way = photograph[height - short :, width - short :], "crop"
    return replace(form, fit=cast("Fit", way)).square(photograph)


def measure(run: Run, predictor: Predictor, pictures: UInt8Array, labels: Int64Array) -> list[dict[str, Any]]:
    """Return a row for each kind of photograph, aspect and way."""
    spec = predictor.info.input
    form = RowFormat(spec.size_px, 1 if spec.channels == 1 else 3, "crop", spec.interpolation)
    rows = []
    for kind, make in (("filled", filled), ("off-centre", off_centre)):
        for name, aspect in ASPECTS.items():
            dice = np.random.default_rng(0)
            seen: dict[str, list[Float32Array]] = {view: [] for view in VIEWS}
            for start in range(0, len(pictures), _BATCH):
                photographs = []
                for place, picture in enumerate(pictures[start : start + _BATCH]):
                    # Every other photograph stands upright, what is on it does in all of them.
                    turned = make(picture.swapaxes(0, 1), aspect, dice) if place % 2 else make(picture, aspect, dice)
                    photographs.append(turned.swapaxes(0, 1) if place % 2 else turned)
                for view in VIEWS:
                    squares = np.stack([square_of(np.ascontiguousarray(each), view, form) for each in photographs])
                    pixels = torch.from_numpy(squares).permute(0, 3, 1, 2)
                    seen[view].append(predictor.batch_logits(pixels, views=predictor.info.views).numpy())
            for way, views in WAYS.items():
                logits = np.mean([np.concatenate(seen[view]) for view in views], axis=0)
                right = int((logits.argmax(axis=1) == labels).sum())
                low, high = wilson_interval(right, len(labels))
                facts = {"run": run.path.name, "kind": kind, "aspect": name, "way": way, "n": len(labels)}
                rows.append({**facts, "top1": right / len(labels), "low": round(low, 4), "high": round(high, 4)})
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--pictures", type=int, default=2000, help="of test, evenly spread")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for folder in asked.runs:
        run, watcher = Run.open(folder), Terminal(quiet=True)
        packed, splits = own_data(run, watcher)
        if not (total := splits.count("test")):
            raise SystemExit(f"{folder} has no test pictures")
        places = np.unique(np.linspace(0, total - 1, min(total, asked.pictures)).astype(np.int64))
        pictures = read_positions(packed, splits, "test", places)
        if pictures.shape[-1] == 1:
            raise SystemExit(f"{folder} was trained on grey pictures: photographs have colours")
        rows += measure(run, load_predictor(folder, unknown="never"), pictures, splits.labels(packed, "test")[places])
        with open(asked.out, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()

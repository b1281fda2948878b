"""Hold `eyespot train photos/` against the best linear classifier on the same features.

    python benchmarks/linear_heads.py cifar10-jpeg/ --out benchmarks/results/linear-heads-torch2.15.csv

The folder holds train/CLASS and test/CLASS. No set of labelled photographs is at hand: for each pair of classes, 250
training pictures and 1,000 test pictures are drawn and enlarged to JPEG files of 200 to 640 px. `eyespot train` takes
them as anybody's folder. Then scikit-learn's linear classifiers are fitted to what its head reads of the same training
pictures, each as it is and mirrored, standardised; a test picture is judged by the mean of both views. Rows: `eyespot`;
each family with the setting that is best on val (a tie: the strongest penalty); and `best on test`, the one of all
settings that is best on the test pictures, which nobody could choose. `p`: McNemar's exact test of the row against
eyespot on the same test pictures.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import eyespot
from eyespot.arrays import BoolArray, Float32Array, Int64Array
from eyespot.data.dataset import SplitName
from eyespot.evaluating import own_data
from eyespot.evaluation.evaluate import read_predictions
from eyespot.evaluation.metrics import wilson_interval
from eyespot.evaluation.predictor import Predictor, load_predictor
from eyespot.evaluation.statistics import mcnemar_exact
from eyespot.terminal import Terminal
from eyespot.training.prepare import read_positions

PAIRS = ("cat-dog", "deer-horse", "airplane-bird", "automobile-truck", "frog-ship")
STRENGTHS = 10.0 ** np.arange(-5, 2.5, 0.5)  # C of scikit-learn; the inverse of a penalty
FAMILIES = {
    "logistic regression": lambda c: LogisticRegression(C=c, max_iter=5000),
    "linear SVM": lambda c: LinearSVC(C=c, max_iter=20_000),
    "ridge": lambda c: RidgeClassifier(alpha=1 / c),
    "linear discriminant": lambda c: LinearDiscriminantAnalysis(solver="lsqr", shrinkage=min(1.0, 0.01 / c**0.5)),
}
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
_BATCH = 50


def photographs(source: Path, folder: Path, names: Sequence[str], train: int, test: int, seed: int) -> None:
    """Write `train` and `test` pictures of the classes, enlarged, as split folders."""
    dice = np.random.default_rng(seed)
    for split, number in (("train", train), ("test", test)):
        for name in names:
            files = sorted((source / split / name).iterdir())
            target = folder / split / name
            target.mkdir(parents=True)
            for place in dice.choice(len(files), number // len(names), replace=False):
                side = int(dice.integers(200, 641))
                with Image.open(files[place]) as picture:
                    enlarged = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
                enlarged.save(target / f"{place}.jpg", quality=90)


def features_of(predictor: Predictor, pictures: np.ndarray) -> list[Float32Array]:
    """Return what the head reads, (N, D), of pictures as they are and mirrored."""
    views: list[list[np.ndarray]] = [[], []]
    for start in range(0, len(pictures), _BATCH):
        pixels = torch.from_numpy(pictures[start : start + _BATCH]).permute(0, 3, 1, 2)
        for found, view in zip(views, (pixels, pixels.flip(3)), strict=True):
            found.append(predictor.outputs(view, features=True, distances=False).features.numpy())
    return [np.concatenate(found) for found in views]


def judged(classifier: Any, views: Sequence[Float32Array]) -> Int64Array:
    """Return the class, 0 or 1, of each picture by the mean of its views."""
    scores: Float32Array = np.mean([classifier.decision_function(view) for view in views], axis=0)
    return (scores > 0).astype(np.int64)


def rivals(split: dict[str, list[Float32Array]], labels: dict[str, Int64Array]) -> dict[str, tuple[str, BoolArray]]:
    """Return for each family, and for the best of all on test, the setting and what of test it is right about."""
    found, oracle = {}, ("", np.zeros(len(labels["test"]), np.bool_))
    rows, wanted = np.concatenate(split["train"]), np.tile(labels["train"], 2)
    for family, build in FAMILIES.items():
        best = -1.0
        for strength in STRENGTHS:
            classifier = make_pipeline(StandardScaler(), build(strength)).fit(rows, wanted)
            on_val = float((judged(classifier, split["val"]) == labels["val"]).mean())
            right = judged(classifier, split["test"]) == labels["test"]
            setting = f"C {strength:.3g}"
            if on_val > best:
                best, found[family] = on_val, (setting, right)
            if right.sum() > oracle[1].sum():
                oracle = (f"{family}, {setting}", right)
    return {**found, "best on test": oracle}


def measure(folder: Path, out: Path) -> list[dict[str, Any]]:
    """Train on a folder and return its rows."""
    watcher = Terminal(quiet=True)
    run = eyespot.train(folder, out=out, resume=out.exists())
    packed, splits = own_data(run, watcher)
    predictor = load_predictor(out, unknown="never")
    features, labels = {}, {}
    for name in SPLITS:
        pictures = read_positions(packed, splits, name, np.arange(splits.count(name)))
        features[name], labels[name] = features_of(predictor, pictures), splits.labels(packed, name)
    right = read_predictions(out / "predictions.npz")["test"].logits.argmax(axis=1) == labels["test"]
    seconds = run.metrics["train_seconds"]
    rows = []
    for name, (setting, theirs) in {
        "eyespot": (f"trained in {seconds:.1f} s", right),
        **rivals(features, labels),
    }.items():
        low, high = wilson_interval(int(theirs.sum()), len(theirs))
        row = {"pair": folder.name, "train": len(labels["train"]), "val": len(labels["val"]), "test": len(theirs)}
        row |= {"classifier": name, "setting": setting, "top1": round(float(theirs.mean()), 4), "low": round(low, 4)}
        row |= {"high": round(high, 4), "p": round(mcnemar_exact(right, theirs).p_value, 4)}
        rows.append(row | {"processor": run.provenance["processor"], "torch": torch.__version__})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--pairs", nargs="+", default=PAIRS)
    parser.add_argument("--train", type=int, default=250, help="training pictures of both classes together")
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, pair in enumerate(asked.pairs):
            data = Path(folder, pair)
            photographs(asked.source, data, pair.split("-"), asked.train, asked.test, number)
            rows += measure(data, Path(folder, "runs", pair))
            with open(asked.out, "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()

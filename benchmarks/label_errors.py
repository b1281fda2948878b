"""Plant wrong labels in CIFAR-10 and measure how well `eyespot check --labels` ranks and lists them.

    python benchmarks/label_errors.py --seeds 0 --out networks.csv
    python benchmarks/label_errors.py --judge heads --seeds 0 1 2 --out heads.csv

What they wrote on several days is joined in benchmarks/results/label-errors-bf16-torch2.15-2cores.csv.

Of the 50,000 training pictures of CIFAR-10 (JPEG 75) a tenth gets another label: `random`, any other class; `by-class`,
a fifth of each of five classes goes to one other class (truck to automobile, bird to airplane, deer to horse, cat to
dog, dog to cat). The pictures keep their own wrong labels, which count as right here. The table is written after every
round: a row for each planting, round and score. `precision_at_planted`: how many of the first 5,000 are planted;
`auroc` is of the whole ranking; `listed` and the `list_` columns are of what the command would list. Score `1-p`: one
minus the probability of the given label, without an estimate of the label noise. `seconds` since the planting. The
judges are what the command takes for many small pictures, a network for each of three folds, or with `--judge heads`
what it takes for others, heads on frozen features, in two rounds.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from eyespot.analysis.label_errors import LabelErrors, assign_folds, find_label_errors
from eyespot.arrays import BoolArray, Float32Array, FloatArray, Int64Array
from eyespot.cross_validation import encode_all, networks_out_of_sample, recipe_from_scratch
from eyespot.data.fingerprints import contents_of
from eyespot.evaluation.metrics import softmax
from eyespot.label_check import judge_features, together
from eyespot.opening import load_recipe, open_data, pack_data
from eyespot.terminal import Terminal

TURNED = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}
KINDS = ("random", "by-class")


def plant(labels: Int64Array, class_names: tuple[str, ...], kind: str, seed: int) -> Int64Array:
    """Return the labels with a tenth of them wrong."""
    dice = np.random.default_rng(seed)
    planted = labels.copy()
    if kind == "random":
        places = dice.choice(len(labels), len(labels) // 10, replace=False)
        planted[places] = (labels[places] + dice.integers(1, len(class_names), len(places))) % len(class_names)
        return planted
    for one, other in TURNED.items():
        places = np.flatnonzero(labels == class_names.index(one))
        planted[dice.choice(places, len(labels) // 50, replace=False)] = class_names.index(other)
    return planted


def ranked(scores: FloatArray, wrong: BoolArray) -> dict[str, float]:
    """Return how well scores rank the planted labels."""
    first = np.argsort(-scores, kind="stable")[: wrong.sum()]
    return {
        "precision_at_planted": round(float(wrong[first].mean()), 4),
        "auroc": round(float(roc_auc_score(wrong, scores)), 4),
    }


def main() -> None:
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--judge", choices=("networks", "heads"), default="networks")
    parser.add_argument("--minutes", type=float, default=10.0, help="for the networks of all folds")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    watcher = Terminal(quiet=True)
    folds, rounds = (3, 1) if asked.judge == "networks" else (5, 2)
    config = load_recipe("features", {"features.views": 1})
    if asked.judge == "networks":
        config = recipe_from_scratch(10**6, asked.minutes / folds)
    packed = pack_data(open_data(asked.data, watcher), config, watcher)
    labels, names = packed.splits["train"].labels, packed.dataset.class_names
    judge = (networks if asked.judge == "networks" else heads)(packed, config, watcher)
    tied = together_in_train(packed, folds, watcher)
    rows: list[dict[str, Any]] = []
    for seed in asked.seeds:
        for kind in asked.kinds:
            given = plant(labels, names, kind, seed)
            wrong = given != labels
            fold = assign_folds(given, tied, folds, seed=seed)
            started = time.monotonic()
            judged = judge(given, fold)
            for number, (logits, found) in zip(range(1, rounds + 1), judged, strict=False):
                seconds = round(time.monotonic() - started, 1)
                head = {
                    "data": packed.dataset.name,
                    "n": len(labels),
                    "planted": int(wrong.sum()),
                    "kind": kind,
                    "judge": asked.judge,
                    "seed": seed,
                    "round": number,
                    "model_top1_on_true": round(float((logits.argmax(axis=1) == labels).mean()), 4),
                    "seconds": seconds,
                }
                plain = 1 - softmax(logits)[np.arange(len(given)), given]
                listed = wrong[found.places]
                list_facts = {
                    "listed": len(listed),
                    "list_precision": round(float(listed.mean()), 4),
                    "list_recall": round(float(listed.sum() / wrong.sum()), 4),
                    "right_suggestions": round(float((found.suggested == labels[found.places])[listed].mean()), 4),
                    "estimated_wrong": round(found.expected),
                }
                nothing = dict.fromkeys(list_facts, "")
                rows.append({**head, "score": "1-p", **ranked(plain, wrong), **nothing})
                rows.append({**head, "score": "posterior", **ranked(found.scores, wrong), **list_facts})
                print(rows[-2], rows[-1], sep="\n", file=sys.stderr, flush=True)
                with open(asked.out, "w", encoding="utf-8", newline="") as file:
                    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(rows)


Judge = Callable[[Int64Array, Int64Array], Iterator[tuple[Float32Array, LabelErrors]]]


def networks(packed: Any, config: Any, watcher: Terminal) -> Judge:
    """Return what judges labels by networks from scratch: labels and folds, each int64 (n,)."""

    def judge(given: Int64Array, fold: Int64Array) -> Iterator[tuple[Float32Array, LabelErrors]]:
        planted = replace(packed, splits={**packed.splits, "train": replace(packed.splits["train"], labels=given)})
        with networks_out_of_sample(planted, ["train"], fold, config, watcher) as logits:
            yield logits, find_label_errors(logits, given, fold)

    return judge


def heads(packed: Any, config: Any, watcher: Terminal) -> Judge:
    """Return what judges labels by heads on frozen features, round after round."""
    features = encode_all(packed, ["train"], config, watcher)
    classes = packed.dataset.num_classes
    return lambda given, fold: judge_features(features, given, fold, num_classes=classes)


def together_in_train(packed: Any, folds: int, watcher: Terminal) -> Int64Array:
    """Return which training pictures must be in one fold, int64 (n,)."""
    names = [name for name in ("train", "val", "test") if name in packed.splits]
    contents = contents_of(np.concatenate([packed.splits[name].hashes for name in names]))
    return together(packed, contents, folds, watcher)[: len(packed.splits["train"])]


if __name__ == "__main__":
    main()

"""How well the shipped rule, and others, tell unknown pictures from genuine ones: networks that never saw two classes.

python benchmarks/unknown.py cifar10-folder/                       trains three networks first, about half an hour
python benchmarks/unknown.py cifar10-folder/ --runs runs/cat-truck runs/deer-airplane runs/dog-ship

The folder holds train/CLASS/*.png and test/CLASS/*.png. For each pair in HELD_OUT, `fast` is trained on the other
classes; genuine pictures are the test pictures of those. Near: test pictures of the two classes that were left out.
Far: everything else. Rules are fitted on train and val alone, as at the end of every run; no set below is used for
anything but these figures. AUROC: the chance that a strange picture scores above a genuine one. FPR95: the share of
strange pictures that pass where 95 % of the genuine ones do.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

import eyespot
from eyespot.data.pictures import pixels_of
from eyespot.device import prepare_process
from eyespot.evaluating import own_data
from eyespot.evaluation.predictor import Outputs, Predictor, load_predictor
from eyespot.measuring import Measuring
from eyespot.runs import Run
from eyespot.terminal import Terminal
from eyespot.training.prepare import read_positions

HELD_OUT = ("cat-truck", "deer-airplane", "dog-ship")
EPOCHS = 8
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")  # Debian: dataset-fashion-mnist
TURNED = 2000  # genuine pictures that are turned or made grey
TRAIN_ROWS = 5000  # for the rules that compare with more training pictures than the shipped one
Score = Callable[[Outputs], np.ndarray]
Pictures = np.ndarray
"""uint8 (N, S, S, 3)."""


class Measured(NamedTuple):
    """One rule on one set, for one network: fractions."""

    rule: str
    kind: str
    strange: str
    n: int
    auroc: float
    fpr95: float


# ------------------------------------------------------------------------------------------------------------ pictures


def far_sets(predictor: Predictor, genuine: Pictures) -> dict[str, Pictures]:
    """Return strange pictures by name, the same for every network."""
    from skimage import data
    from sklearn.datasets import load_digits, load_sample_images

    dice = np.random.default_rng(0)

    def square(picture: np.ndarray) -> Pictures:
        return pixels_of(np.ascontiguousarray(picture), predictor.info.input)

    def cut(pictures: Sequence[np.ndarray], count: int, shortest: int, longest: int) -> Pictures:
        found = []
        for number in range(count):
            picture = pictures[number % len(pictures)]
            high, wide = picture.shape[:2]
            side = int(dice.integers(min(shortest, high, wide), min(longest, high, wide) + 1))
            top, left = int(dice.integers(high - side + 1)), int(dice.integers(wide - side + 1))
            found.append(square(picture[top : top + side, left : left + side]))
        return np.stack(found)

    sets = {"digits": np.stack([square((digit * 15.9).astype(np.uint8)) for digit in load_digits().images])}
    if FASHION_MNIST.exists():
        content = np.frombuffer(gzip.decompress(FASHION_MNIST.read_bytes())[16:], np.uint8).reshape(-1, 28, 28)
        sets["fashion-mnist"] = np.stack([square(picture) for picture in content[:TURNED]])
    sets["textures"] = cut([data.brick(), data.grass(), data.gravel()], 500, 64, 256)
    photographs = [data.astronaut(), data.coffee(), data.camera(), data.coins(), data.moon(), data.page(), data.text()]
    sets["photographs"] = cut([*photographs, data.clock(), *load_sample_images().images], 500, 128, 512)
    sets["noise"] = noise(dice, predictor.info.input.size_px)
    turned = genuine[:: max(1, len(genuine) // TURNED)]
    sets["upside down"] = np.ascontiguousarray(turned[:, ::-1, ::-1])
    sets["on the side"] = np.ascontiguousarray(np.rot90(turned, axes=(1, 2)))
    grey = (turned @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    sets["grey"] = np.repeat(grey[..., None], 3, axis=3)
    return sets


def noise(dice: np.random.Generator, side: int) -> Pictures:
    """Return 600 pictures: a third noise, a third smooth noise, a third one colour each."""
    coarse = torch.from_numpy(dice.random((200, 3, 8, 8)))
    smooth = F.interpolate(coarse, side, mode="bicubic").clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1).numpy()
    plain = np.broadcast_to(dice.integers(0, 256, (200, 1, 1, 3), np.uint8), (200, side, side, 3))
    return np.concatenate([dice.integers(0, 256, (200, side, side, 3), np.uint8), smooth, plain])


def near_sets(predictor: Predictor, data: Path, names: Sequence[str]) -> dict[str, Pictures]:
    """Return the test pictures of the classes that the network never saw."""
    files = {name: sorted((data / "test" / name).iterdir()) for name in names}
    return {name: np.stack([pixels_of(path, predictor.info.input) for path in paths]) for name, paths in files.items()}


# --------------------------------------------------------------------------------------------------------------- rules


def rules(predictor: Predictor, train: Outputs, labels: Tensor, val: Outputs) -> dict[str, Score]:
    """Return every rule, fitted: higher is stranger."""
    if (shipped := predictor.unknown) is None:
        raise SystemExit("too few val pictures for a threshold: give more pictures")
    parts = list(shipped.parts)

    def unit(outputs: Outputs) -> Tensor:
        return F.normalize(outputs.features, dim=1)

    rows = unit(train)
    centre = train.features.mean(0)
    means = torch.stack([train.features[labels == label].mean(0) for label in labels.unique()])
    within = _inverse((train.features - means[torch.searchsorted(labels.unique(), labels)]).T)
    over_all = _inverse((train.features - centre).T)
    residual = torch.linalg.eigh(torch.cov((train.features - centre).T)).eigenvectors[:, : -len(means) * 2]
    length = ((train.features - centre) @ residual).norm(dim=1).mean()
    scale = train.logits.max(1).values.mean() / length

    def squares(features: Tensor, means: Tensor, inverse: Tensor) -> Tensor:
        apart = features[:, None] - means  # (N, K, D)
        return ((apart @ inverse) * apart).sum(2).min(1).values

    def knn(outputs: Outputs) -> Tensor:
        return 1 - (unit(outputs) @ rows.T).topk(50, dim=1).values[:, -1]

    def relative(o: Outputs) -> Tensor:
        return squares(o.features, means, within) - squares(o.features, centre[None], over_all)

    def spread(score: Callable[[Outputs], Tensor]) -> Callable[[Outputs], Tensor]:
        seen = score(val)
        return lambda o: (score(o) - seen.median()) / seen.std()

    energy, features = spread(lambda o: -o.logits.logsumexp(1)), spread(knn)
    found: dict[str, Callable[[Outputs], Tensor]] = {
        "shipped": lambda o: shipped.total(o.distances),
        **{f"shipped: {part} alone": (lambda o, at=at: o.distances[:, at]) for at, part in enumerate(parts)},
        "MSP": lambda o: -o.logits.softmax(1).max(1).values,
        "max logit": lambda o: -o.logits.max(1).values,
        "entropy": lambda o: torch.distributions.Categorical(logits=o.logits).entropy(),
        "kNN (k 50)": knn,
        "energy + kNN": lambda o: energy(o) + features(o),
        "Mahalanobis": lambda o: squares(o.features, means, within),
        "relative Mahalanobis": relative,
        "ViM": lambda o: scale * ((o.features - centre) @ residual).norm(dim=1) - o.logits.logsumexp(1),
    }
    return {name: (lambda o, score=score: score(o).numpy()) for name, score in found.items()}


def _inverse(rows: Tensor) -> Tensor:
    """Return the inverse covariance of rows (D, N), which few pictures must not make singular."""
    covariance = rows @ rows.T / rows.shape[1]
    return torch.linalg.inv(covariance + 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance)))


# ----------------------------------------------------------------------------------------------------------- measuring


def outputs_of(predictor: Predictor, pictures: Pictures) -> Outputs:
    """Return what the network says about any number of pictures, with the views that it ships with."""
    found = [
        predictor.outputs(
            torch.from_numpy(np.ascontiguousarray(pictures[start : start + 250])).permute(0, 3, 1, 2),
            views=predictor.info.views,
            features=True,
        )
        for start in range(0, len(pictures), 250)
    ]
    return Outputs(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def measure(run: Path, data: Path) -> list[Measured]:
    """Return every rule on every set for one network; its own rule is fitted again by the code of today."""
    watcher = Terminal(quiet=True)
    packed, splits = own_data(Run(run), watcher)
    job = Measuring(packed, splits, SimpleNamespace(store=None), Run(run).config, watcher)  # type: ignore[arg-type]
    predictor, _, _, _ = job.run(load_predictor(run, unknown="never"), ("train", "val"))
    labels = splits.labels(packed, "train")
    spread = np.linspace(0, len(labels) - 1, min(TRAIN_ROWS, len(labels))).astype(np.int64)
    train = outputs_of(predictor, read_positions(packed, splits, "train", spread))
    val = outputs_of(predictor, read_positions(packed, splits, "val", np.arange(splits.count("val"))))
    genuine = read_positions(packed, splits, "test", np.arange(splits.count("test")))
    scores = rules(predictor, train, torch.from_numpy(labels[spread]), val)
    there = outputs_of(predictor, genuine)
    left_out = sorted({path.name for path in (data / "test").iterdir()} - set(predictor.class_names))
    found = []
    for kind, sets in (("near", near_sets(predictor, data, left_out)), ("far", far_sets(predictor, genuine))):
        for strange, pictures in sets.items():
            told = outputs_of(predictor, pictures)
            for rule, score in scores.items():
                own, foreign = score(there), score(told)
                area = roc_auc_score(np.repeat([0, 1], [len(own), len(foreign)]), np.concatenate([own, foreign]))
                passed = float((foreign <= np.quantile(own, 0.95)).mean())
                found.append(Measured(rule, kind, strange, len(pictures), area, passed))
    return found


def table(measured: Mapping[str, Sequence[Measured]]) -> list[dict[str, str | float | int]]:
    """Return rows for the CSV file: a rule on a set (near ones together), mean and deviation over the networks."""
    columns: dict[tuple[str, str, str], list[Measured]] = {}
    for found in measured.values():
        for one in found:
            columns.setdefault(
                (one.rule, one.kind, "left-out classes" if one.kind == "near" else one.strange), []
            ).append(one)
    rows: list[dict[str, str | float | int]] = []
    for (rule, kind, strange), ones in columns.items():
        row: dict[str, str | float | int] = {"rule": rule, "kind": kind, "set": strange, "networks": len(measured)}
        row["n"] = sum(one.n for one in ones)
        for field in ("auroc", "fpr95"):
            values = [100 * getattr(one, field) for one in ones]
            row[field] = round(statistics.mean(values), 1)
            row[f"{field}_std"] = round(statistics.stdev(values), 1) if len(values) > 1 else ""
        rows.append(row)
    return rows


def train_without(data: Path, pair: str, work: Path, seed: int, recipe: str = "fast") -> Path:
    """Train `fast` on the classes that are not in a pair like `cat-truck`; return the run."""
    folder = work / "data" / pair
    for split in ("train", "test"):
        for kept in sorted((data / split).iterdir()):
            if kept.name in pair.split("-"):
                continue
            (folder / split / kept.name).mkdir(parents=True, exist_ok=True)
            for path in kept.iterdir():
                if not (link := folder / split / kept.name / path.name).exists():
                    os.link(path, link)
    settings = {"training.epochs": EPOCHS, "training.seed": seed}
    return eyespot.train(folder, recipe=recipe, settings=settings, out=work / "runs" / pair).path


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--runs", type=Path, nargs="+", help="finished runs, each on all but some classes of the folder"
    )
    parser.add_argument("--work", type=Path, default=Path("unknown-work"), help="for the trainings")
    parser.add_argument("--recipe", default="fast", help="of the trainings")
    parser.add_argument("--out", type=Path, default=Path("unknown.csv"))
    asked = parser.parse_args()
    prepare_process()
    runs = asked.runs or [
        train_without(asked.data, pair, asked.work, seed, asked.recipe) for seed, pair in enumerate(HELD_OUT)
    ]
    rows = table({run.name: measure(run, asked.data) for run in runs})
    with open(asked.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(f"{row['rule']:24} {row['kind']:5} {row['set']:18} AUROC {row['auroc']:5}  FPR95 {row['fpr95']:5}")


if __name__ == "__main__":
    main()

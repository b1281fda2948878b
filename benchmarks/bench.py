"""How fast every part is, on this machine: one CSV row a figure, with its spread and the environment.

make bench                                                            everything, twenty minutes or more on two cores
python benchmarks/bench.py training loader --out some.csv             only some of it
python benchmarks/bench.py training --recipe dll2018 --out one.csv    one recipe

Nothing here asserts anything; other work on the machine spoils the figures. Variants are measured in turn (A B A B),
so that a machine that becomes slower does so for all of them.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from eyespot.config import Config, load_config
from eyespot.data.dataset import Dataset, Items
from eyespot.data.dividing import make_splits
from eyespot.data.packing import pack_dataset
from eyespot.device import cpu_features, plan_compute, prepare_process
from eyespot.evaluation.predictor import load_predictor
from eyespot.runs import RunWriter, environment
from eyespot.terminal import Terminal
from eyespot.training.fit import TrainState, fit
from eyespot.training.prepare import Prepared, prepare_training

ROUNDS = 5
RECIPES = ("fast", "sprint", "strong", "small", "digits", "dll2018", "gomez2025-vgg", "gomez2025-alexnet")
SIDES = {"digits": 8}
"""Pixels of the pictures a recipe is for, where they are not 32."""
Figure = tuple[str, str, list[float], str]
"""What was measured, its variant, the values, their unit."""


def pictures(count: int, size_px: int = 32) -> Dataset:
    """Return noise in ten classes: what a step costs does not depend on what is in the pictures."""
    dice = np.random.default_rng(0)
    pixels = dice.integers(0, 256, (count, size_px, size_px, 3), dtype=np.uint8)
    items = Items([f"train/{i:05d}" for i in range(count)], np.arange(count) % 10, pixels=pixels)
    return Dataset("noise", tuple("abcdefghij"), {"train": items}, False, "memory", "arrays")


class StepClock(Terminal):
    """An observer that notes when each step ended."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.times: list[float] = []

    def on_step(self, state: TrainState, *, loss: float | None, top1: float | None) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())


def prepared_noise(config: Config, size_px: int, steps: int) -> Prepared:
    """Return what a training on so many batches of noise begins with."""
    prepare_process()
    packed = pack_dataset(pictures(config.training.batch_size * steps, size_px), size_px=size_px)
    splits = make_splits(packed, val_fraction=0.0, test_fraction=0.0, stratify=False, seed=0, final=True)
    return prepare_training(packed, splits, config, plan_compute("auto", config.training.precision))


def training_speed(config: Config, *, size_px: int = 32, steps: int = 30) -> float:
    """Return pictures per second of the real loop, the median of some steps."""
    prepared, clock = prepared_noise(config, size_px, steps), StepClock()
    plan = plan_compute("auto", config.training.precision)
    with tempfile.TemporaryDirectory() as folder, RunWriter(Path(folder) / "run", config, resume=False) as writer:
        fit(prepared.model, prepared.data, config, plan=plan, writer=writer, observer=clock)
    return config.training.batch_size / statistics.median(np.diff(clock.times[5:]))


def variant(name: str, **changes: object) -> Config:
    """Return a recipe for one epoch at full picture size, none held out, with changes."""
    settings: dict[str, object] = {
        "training.epochs": 1,
        "training.size_schedule": [],
        "training.restore_best": False,
        "training.early_stopping_epochs": 0,
        "data.final": True,
    }
    if load_config(name).schedule.name == "plateau":
        settings["schedule.name"] = "constant"
    return load_config(name, changes=settings | {key.replace("__", "."): value for key, value in changes.items()})


def values_in_turn(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure all variants once, then again, and so on."""
    values: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            values[name].append(measure())
    return values


def in_turn(what: str, unit: str, variants: Mapping[str, Callable[[], float]]) -> Iterator[Figure]:
    """Yield a figure for each variant."""
    for name, found in values_in_turn(variants, ROUNDS).items():
        yield what, name, found, unit


def machine() -> list[str]:
    """Return the processor, its features and torch's version: the last columns of each row."""
    return [environment()["processor"], " ".join(cpu_features()), torch.__version__]


def ceiling(recipes: tuple[str, ...]) -> Iterator[Figure]:
    """Yield what products of two 2048 x 2048 matrices reach, the median of 30: the most that a training can."""

    def speed(precision: torch.dtype) -> float:
        matrix, seconds = torch.ones(2048, 2048, dtype=precision), []
        for _ in range(30):
            started = time.perf_counter()
            matrix @ matrix
            seconds.append(time.perf_counter() - started)
        return 2 * 2048**3 / 1e9 / statistics.median(seconds)

    precisions = {"float32": torch.float32, "bf16": torch.bfloat16}
    yield from in_turn("ceiling", "GFLOP/s", {name: lambda each=each: speed(each) for name, each in precisions.items()})


def training(recipes: tuple[str, ...]) -> Iterator[Figure]:
    """Yield the speed of each recipe's network at its batch size and full picture size."""

    def speed(name: str) -> float:
        return training_speed(variant(name), size_px=SIDES.get(name, 32))

    yield from in_turn("training", "pictures/s", {name: lambda name=name: speed(name) for name in recipes})


def scaling(recipes: tuple[str, ...]) -> Iterator[Figure]:
    """Yield the speed of `fast` against batch size, width, picture size and threads."""

    def speed(size_px: int = 32, steps: int = 15, **changes: object) -> float:
        return training_speed(variant("fast", **changes), size_px=size_px, steps=steps)

    batch_sizes = {str(n): lambda n=n: speed(training__batch_size=n) for n in (125, 250, 500, 1000)}
    yield from in_turn("batch size", "pictures/s", batch_sizes)
    widths = ([32, 128, 128], [64, 128, 256], [64, 256, 256], [128, 384, 384])
    yield from in_turn("widths", "pictures/s", {str(w): lambda w=w: speed(model__args={"widths": w}) for w in widths})
    sizes = {f"{side} px": lambda side=side: speed(size_px=side) for side in (16, 24, 32, 48)}
    yield from in_turn("picture size", "pictures/s", sizes)

    def with_threads(count: int) -> float:
        threads = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            return speed()
        finally:
            torch.set_num_threads(threads)

    counts = sorted({1, torch.get_num_threads()})
    yield from in_turn("threads", "pictures/s", {str(n): lambda n=n: with_threads(n) for n in counts})


def loader(recipes: tuple[str, ...]) -> Iterator[Figure]:
    """Yield how many augmented pictures a second the data side gives, without a network."""

    def speed(name: str) -> float:
        config = variant(name)
        data = prepared_noise(config, SIDES.get(name, 32), max(1, 12_800 // config.training.batch_size)).data
        generator, seen = torch.Generator().manual_seed(0), 0
        started = time.perf_counter()
        for batch in data.train.batches(0):
            data.train_transform(batch.images, batch.labels, generator=generator, epoch=0, indices=batch.indices)
            seen += len(batch.labels)
        return seen / (time.perf_counter() - started)

    yield from in_turn(
        "loader and augmentation", "pictures/s", {name: lambda name=name: speed(name) for name in recipes}
    )


def predict(recipes: tuple[str, ...]) -> Iterator[Figure]:
    """Yield the seconds that `spot-cifar10` takes for 10,000 pictures that are in memory, its own loading included."""
    prepare_process()
    images = torch.randint(0, 256, (500, 3, 32, 32), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)

    def seconds(views: str) -> float:
        started = time.perf_counter()
        predictor = load_predictor("spot-cifar10", unknown="never")
        for _ in range(20):
            predictor.batch_logits(images, views=views)  # type: ignore[arg-type]
        return time.perf_counter() - started

    variants = {views: lambda v=views: seconds(v) for views in ("none", "mirror", "mirror-shift")}
    yield from in_turn("load and 10,000 predictions", "s", variants)


def startup(recipes: tuple[str, ...]) -> Iterator[Figure]:
    """Yield the seconds of a command that does nothing, beside Python itself."""

    def seconds(*command: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        return time.perf_counter() - started

    yield from in_turn(
        "start",
        "s",
        {
            "python -c pass": lambda: seconds("-c", "pass"),
            "eyespot --help": lambda: seconds("-m", "eyespot", "--help"),
            "import torch": lambda: seconds("-c", "import torch"),
        },
    )


PARTS = {
    "startup": startup,
    "ceiling": ceiling,
    "loader": loader,
    "predict": predict,
    "training": training,
    "scaling": scaling,
}


def main() -> None:
    """Measure and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=f"{', '.join(PARTS)}; all")
    parser.add_argument("--recipe", action="append", help="only these recipes")
    parser.add_argument("--out", type=Path, default=None, help="CSV file; benchmarks/results/speed-... when left out")
    options = parser.parse_args()
    if (options.parts or options.recipe) and options.out is None:
        parser.error("a part of the rows would replace all of the published ones: name a file with --out")
    plan = plan_compute("auto")
    name = f"speed-{plan.precision}-torch{torch.__version__.split('+')[0]}-{plan.device}-{os.cpu_count()}cores.csv"
    path = options.out or Path(__file__).parent / "results" / name
    unfinished = path.with_name(f"{path.name}.tmp")
    with open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["what", "variant", "unit", "median", "low", "high", "n", "processor", "features", "torch"])
        for part in options.parts or PARTS:
            for what, name, values, unit in PARTS[part](tuple(options.recipe or RECIPES)):
                figures = [f"{figure:.4g}" for figure in (statistics.median(values), min(values), max(values))]
                spread = f"[{figures[1]}, {figures[2]}], n = {len(values)}"
                print(f"{what:<27} {name:<20} {figures[0]:>9} {unit}  {spread}", flush=True)
                writer.writerow([what, name, unit, *figures, len(values), *machine()])
                file.flush()
    unfinished.replace(path)
    print(path)


if __name__ == "__main__":
    main()

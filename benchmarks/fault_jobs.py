"""The commands that `faults` strikes: what is typed, what is typed after it broke off, and what comes of it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

_RECIPE = """
name = "mortal"
description = "a checkpoint every few steps"
[augment]
translate_px = 1
[model]
name = "convnet3"
[optimizer]
name = "adam"
lr = 1e-3
[training]
epochs = 4
batch_size = 64
ema_decay = 0.95
checkpoint_minutes = 0.002
"""
_STUDY = """
name = "tiny"
title = "two points"
author = "nobody"
year = "2026"
kind = "test"
data = "digits"
[[points]]
id = "one"
title = "one"
recipe = "../mortal.toml"
[[points]]
id = "two"
title = "two"
recipe = "../mortal.toml"
changes = { "optimizer.lr" = 0.002 }
"""


@dataclass(frozen=True)
class Job:
    """A command, what its user types after it broke off, and what it makes.

    Attributes:
        first: The words after `eyespot`; paths are relative to the trial's folder, `../` are shared.
        outcome: Folder of the trial -> name -> digest; equal for equal results.
        resume: Typed after it broke off, and `first` again where there is nothing to resume yet; none: always `first`.
        needs: Shared things that are made before the first trial.
        changes: The one of them that the command writes into: each trial has a copy.
    """

    first: tuple[str, ...]
    outcome: Callable[[Path], dict[str, str]]
    resume: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    changes: str = ""

    @property
    def again(self) -> tuple[tuple[str, ...], ...]:
        """What is typed after it broke off, in turn until one succeeds."""
        return (self.resume, self.first) if self.resume else (self.first,)


def digest(content: bytes) -> str:
    """Return a short digest."""
    return hashlib.sha256(content).hexdigest()[:16]


def packed_pixels(place: Path) -> dict[str, str]:
    """Return the packed pixels and records, whatever the folder's key: the times of unpacked files are part of it."""
    found = sorted(path for path in (place / "cache" / "packed").rglob("*.bin"))
    return {f"{number} {path.name}": digest(path.read_bytes()) for number, path in enumerate(found)}


def one_file(name: str) -> Callable[[Path], dict[str, str]]:
    """Return an outcome: the bytes of a file."""
    return lambda place: {name: digest((place / name).read_bytes())}


def runs_below(folder: str) -> Callable[[Path], dict[str, str]]:
    """Return an outcome: weights, predictions, history but for times, division and figures of every run."""

    def outcome(place: Path) -> dict[str, str]:
        found = {}
        for weights in sorted((place / folder).rglob("bundle/weights.safetensors")):
            run = weights.parents[1]
            name = str(run.relative_to(place))
            found[f"{name} weights"] = digest(weights.read_bytes())
            found[f"{name} split"] = digest((run / "split.json").read_bytes())
            with np.load(run / "predictions.npz") as arrays:
                found[f"{name} predictions"] = digest(b"".join(arrays[key].tobytes() for key in sorted(arrays)))
            history = run / "history.jsonl"  # a head that was solved has none
            rows = [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
            for row in rows:
                for key in [key for key in row if "second" in key]:
                    del row[key]
            found[f"{name} history"] = digest(json.dumps(rows).encode())
            metrics = json.loads((run / "metrics.json").read_text())
            found[f"{name} top-1"] = str(
                [metrics[split]["top1"] for split in ("train", "val", "test") if split in metrics]
            )
            found[f"{name} report"] = str((run / "report.html").read_text().rstrip().endswith("</html>"))
        return found

    return outcome


def cells(place: Path) -> dict[str, str]:
    """Return the figures of `evaluate --robustness`."""
    document = json.loads((place / "run" / "robustness.json").read_text())
    return {"cells": digest(re.sub(r'"[a-z_]*seconds": [0-9.]+', "", json.dumps(document)).encode())}


_RESUME = ("train", "--resume", "--out", "run")
_WITHOUT = ("--without", "augment.translate_px", "--seeds", "1")
TRAIN = ("train", "digits", "--recipe", "../mortal.toml", "--device", "cpu", "--out", "run")
JOBS = {
    "train": Job(TRAIN, runs_below("run"), _RESUME),
    "transfer": Job(
        ("train", "../few", "--recipe", "features", "--out", "run"), runs_below("run"), _RESUME, needs=("few",)
    ),
    "pack": Job(("data", "pack", "../pictures.zip"), packed_pixels, needs=("pictures",)),
    "predict": Job(
        ("predict", "spot-cifar10", "../pictures", "--csv", "out.csv"), one_file("out.csv"), needs=("pictures",)
    ),
    "robustness": Job(
        ("evaluate", "run", "--split", "val", "--robustness", "--limit", "50"), cells, needs=("run",), changes="run"
    ),
    "export": Job(("export", "../run", "--format", "onnx", "--out", "out"), one_file("out/model.onnx"), needs=("run",)),
    "study": Job(("study", "run", "../study.toml", "--out", "study"), runs_below("study")),
    "ablate": Job(
        ("ablate", "../mortal.toml", "digits", *_WITHOUT, "--out", "study"),
        runs_below("study"),
        ("ablate", "--resume", "--out", "study"),
    ),
}


def make_shared(folder: Path, needs: Collection[str]) -> None:
    """Write what the jobs read, but for a finished run: recipe, study, pictures of four classes."""
    (folder / "mortal.toml").write_text(_RECIPE)
    (folder / "study.toml").write_text(_STUDY)
    for name, count in (("pictures", 1200), ("few", 120)):
        dice = np.random.default_rng(0)
        for index in range(count if name in needs else 0):
            pixels = dice.integers(0, 90, (32, 32, 3))
            pixels[..., index % 3] += 40 * (index % 4)
            path = folder / name / f"class{index % 4}" / f"{index:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    if "pictures" in needs:
        shutil.make_archive(str(folder / "pictures"), "zip", folder / "pictures")

"""The third promise: killed at any moment, nothing is lost, and the result is the same to the last bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from eyespot.evaluation.evaluate import read_predictions
from eyespot.runs import Run

from .conftest import without_times

RECIPE = """
name = "mortal"
description = "slow enough to be killed, with a checkpoint every few steps"
[augment]
translate_px = 1
rotate_degrees = 5.0
[model]
name = "convnet3"
[optimizer]
name = "adam"
lr = 1e-3
[training]
epochs = {epochs}
batch_size = 32
precision = "float32"
ema_decay = 0.95
checkpoint_minutes = 0.001
"""

KILLS = 20


def train_in_lives(folder: Path, recipe: Path, *, seed: int, lives: int) -> int:
    command = [
        sys.executable,
        str(Path(__file__).with_name("lives.py")),
        str(folder),
        str(recipe),
        str(seed),
        str(lives),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=560, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.slow
def test_killed_twenty_times_at_random_it_ends_the_same_to_the_bit(tmp_path: Path) -> None:
    recipe = tmp_path / "mortal.toml"
    recipe.write_text(RECIPE.format(epochs=30))
    assert train_in_lives(tmp_path / "whole", recipe, seed=0, lives=0) == 0
    assert train_in_lives(tmp_path / "killed", recipe, seed=1, lives=KILLS) == KILLS
    whole, killed = Run.open(tmp_path / "whole"), Run.open(tmp_path / "killed")

    one = load_file(whole.path / "bundle" / "weights.safetensors")
    two = load_file(killed.path / "bundle" / "weights.safetensors")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.tobytes() == two[name].tobytes(), name
    assert without_times(whole.history) == without_times(killed.history)
    assert len(killed.history) == 30
    for split, expected in read_predictions(whole.path / "predictions.npz").items():
        assert expected.logits.tobytes() == read_predictions(killed.path / "predictions.npz")[split].logits.tobytes()
    assert (whole.path / "split.json").read_bytes() == (killed.path / "split.json").read_bytes()
    for split in ("train", "val", "test"):
        assert whole.metrics[split]["top1"] == killed.metrics[split]["top1"]
    assert not list(killed.path.rglob("*.tmp"))
    for line in (killed.path / "history.jsonl").read_text().splitlines():
        json.loads(line)
    resumed = [line for line in (killed.path / "log.txt").read_text().splitlines() if "resumed after step" in line]
    assert len(resumed) > KILLS / 4

"""`eyespot study run` with its processes killed at random moments: the same weights as one that nobody killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import eyespot
from eyespot.runs import Run
from eyespot.studies.journal import read_journal
from eyespot.studies.schema import load_study

STUDY = """
name = "tiny"
title = "three tiny points"
author = "nobody"
year = "2026"
kind = "test"
data = "{data}"

[[points]]
id = "one"
title = "one"
recipe = "small"
changes = {common}

[[points]]
id = "two"
title = "two, with another rate"
recipe = "small"
changes = {other}

[[points]]
id = "three"
title = "three, without mirroring"
recipe = "small"
changes = {plain}
"""
COMMON = (
    '"model.args" = { widths = [4, 6, 8] }, "training.epochs" = 5, "training.batch_size" = 4, '
    '"training.precision" = "float32"'
)


def study(pictures: Path, folder: Path) -> Path:
    text = STUDY.format(
        data=pictures,
        common=f"{{ {COMMON} }}",
        other=f'{{ {COMMON}, "optimizer.lr" = 0.02 }}',
        plain=f'{{ {COMMON}, "augment.flip" = "none" }}',
    )
    path = folder / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return path


def weights(out: Path) -> dict[str, bytes]:
    return {path.name: (path / "bundle" / "weights.safetensors").read_bytes() for path in (out / "runs").iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(600)  # the processes start several times, each takes seconds
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_study_killed_at_random_moments_ends_with_the_same_weights(pictures: Path, tmp_path: Path) -> None:
    recipe, whole, killed = study(pictures, tmp_path), tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "eyespot", "study", "run", str(recipe), "--out"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for point in load_study(recipe).points:  # in this process: a new one for each takes seconds to start
        eyespot.train(pictures, recipe=point.recipe, settings=point.changes, out=whole / "runs" / f"{point.id}-seed0")
    torch.set_num_threads(before)
    dice, kills, last = random.Random(0), 0, None
    while True:
        with subprocess.Popen(
            [*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=env
        ) as process:
            began = len(read_journal(killed))
            while process.poll() is None and (kills == 2 or len(read_journal(killed)) == began):
                time.sleep(0.01)  # until it is at work on a point
            if kills < 2 and process.poll() is None:
                # From the start of the process to its report: a point takes about as long as this.
                time.sleep(dice.uniform(0, 4))
                process.send_signal(signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
            last = process.wait()
            if last != -signal.SIGKILL:
                break
    assert last == 0
    assert kills > 0
    assert weights(killed) == weights(whole)
    rows = read_journal(killed)
    ended = [row["point"] for row in rows if row["event"] == "finished"]
    assert len(ended) == len(set(ended)), rows  # none is run twice
    for name in weights(whole):
        one, two = (Run(out / "runs" / name) for out in (whole, killed))
        assert one.metrics["test"]["top1"] == two.metrics["test"]["top1"]
        assert [row["train/loss"] for row in one.history] == [row["train/loss"] for row in two.history]
        assert two.metrics["test_reads"] >= 1
    assert json.loads((killed / "points.json").read_text())["points"][0]["id"] == "one-seed0"

"""A sweep of twelve short trials whose driver is killed three times, beside one that nobody kills.

python benchmarks/sweep_kills.py kills --seed 0      two to five minutes on two cores; prints one JSON document

Trials of `digits`, three epochs each. A kill comes up to three seconds after every third trial has ended, at a random
moment. What counts: every trial ended, and ended once; states, figures and weights are those of the whole sweep; no
process and no folder of Ray is left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

SPACE = """
[optimizer]
lr = { low = 0.01, high = 0.3, log = true }
[augment]
translate_px = { low = 0, high = 2 }
[training]
label_smoothing = { choice = [0.0, 0.1, 0.2] }
"""
TRIALS, KILLS = 12, 3
OVER = ("finished", "stopped", "failed")


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the journal's lines about trials that are whole."""
    path = folder / "journal.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line)["trial"] for line in lines if '"trial"' in line and line.endswith("}")]


def ended(folder: Path) -> list[int]:
    """Return the numbers of the trials that have ended, once for each end."""
    return [row["number"] for row in rows(folder) if row["state"] in OVER]


def still_runs(number: int, born: float) -> bool:
    """Return whether a process that began at this moment is still there."""
    try:
        return bool(psutil.Process(number).create_time() == born)
    except psutil.Error:
        return False


def ray_folders() -> set[str]:
    """Return the temporary folders of Ray that sweeps have made."""
    return {str(path) for path in Path(tempfile.gettempdir()).glob("eyeray-*")}


def run_sweep(folder: Path, space: Path, kills: int, dice: random.Random) -> dict[str, Any]:
    """Run a sweep to its end with so many kills on the way; return when they came, and what was left."""
    command = [sys.executable, "-m", "eyespot", "sweep"]
    first = ["small", "digits", "--space", str(space), "--trials", str(TRIALS), "--epochs", "3"]
    first += ["--out", str(folder), "--set", "model.args={widths=[8,16,32]}"]
    killed_after, started, code, seconds = [], [], None, time.monotonic()
    folders_before = ray_folders()
    for life in range(kills + 1):
        words = [*command, *(first if life == 0 else ["--resume", "--out", str(folder)])]
        with (folder.parent / f"{folder.name}-{life}.log").open("w") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
        if life < kills:
            goal = len(ended(folder)) + TRIALS // (kills + 1)
            while process.poll() is None and len(ended(folder)) < goal:
                time.sleep(0.02)
            time.sleep(dice.uniform(0, 3))
            if (folder / "engine.json").exists():
                started += json.loads((folder / "engine.json").read_text())["processes"]
            killed_after.append(len(ended(folder)))
            process.send_signal(signal.SIGKILL)
        code = process.wait()
    return {
        "exit_code": code,
        "seconds": round(time.monotonic() - seconds, 1),
        "ended_before_each_kill": killed_after,
        "processes_left": [number for number, born in started if still_runs(number, born)],
        "folders_left": sorted(ray_folders() - folders_before),
    }


def outcome(folder: Path) -> dict[int, Any]:
    """Return state, settings, figures and weights of each trial."""
    found = {}
    for row in rows(folder):
        weights = folder / "trials" / f"{row['number']:04d}" / "bundle" / "weights.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None
        found[row["number"]] = [*(row[key] for key in ("state", "settings", "epochs", "top1", "loss")), digest]
    return found


def main() -> None:
    """Run both sweeps and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    space = arguments.folder / "space.toml"
    space.write_text(SPACE)
    whole, killed = arguments.folder / "whole", arguments.folder / "killed"
    dice = random.Random(arguments.seed)
    undisturbed = run_sweep(whole, space, 0, dice)
    disturbed = run_sweep(killed, space, KILLS, dice)
    one, two = outcome(whole), outcome(killed)
    result = {
        "whole": undisturbed,
        "killed": disturbed,
        "every_trial_ended_once": sorted(ended(killed)) == list(range(1, TRIALS + 1)),
        "starts": sum(row["state"] == "running" for row in rows(killed)),
        "trials_that_differ": [number for number in one if one[number] != two.get(number)],
        "trials_with_weights": sum(entry[-1] is not None for entry in two.values()),
        "test_reads": json.loads((killed / "sweep.json").read_text())["result"]["test_reads"],
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

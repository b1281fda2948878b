"""airbench94 in its Muon variant on this processor.

python benchmarks/peers/airbench_peer.py DATA --source airbench94_muon.py [--seed 0] [--epochs 8]

SOURCE is the file of github.com/KellerJordan/cifar10-airbench. It is run from a copy in which cuda is cpu, half is
bfloat16, nothing is compiled, SGD is not the fused one and no run warms up; DATA has train/CLASS/* and test/CLASS/*.

Of its eight epochs the first three train the bias of the stem, which makes a step dearer, and the first one also does
what is done once: whitening, normalising, mirroring, padding. `--epochs 3` is for timing: the first epoch, another of
its kind and one of the cheaper kind, of which the seconds of eight are put together. Its accuracy means nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

EPOCHS = 8
# (what the file says, what a CPU needs)
CHANGES = (
    ("import uuid\n", "import time\n"),
    ("@torch.compile\n", ""),
    ('map_location=torch.device("cuda")', 'map_location=torch.device("cpu")'),
    ("self.images.half()", "self.images.bfloat16()"),
    ("mod.half()", "mod.bfloat16()"),
    ("nesterov=True, fused=True", "nesterov=True"),
    ("    starter = torch.cuda.Event(enable_timing=True)\n", ""),
    ("    ender = torch.cuda.Event(enable_timing=True)\n", "    begun = 0.0\n"),
    ("        starter.record()\n", "        nonlocal begun\n        begun = time.perf_counter()\n"),
    ("        ender.record()\n        torch.cuda.synchronize()\n", ""),
    ("1e-3 * starter.elapsed_time(ender)", "time.perf_counter() - begun"),
)
MAIN = """
if __name__ == "__main__":
    torch.manual_seed(int(sys.argv[1]))
    main(int(sys.argv[1]), CifarNet().to(memory_format=torch.channels_last))
"""


def for_cpu(source: str, epochs: int) -> str:
    """Return the program with the changes, each of which has to find its place."""
    lengths = (  # in this order: the second one may write what the first one looks for
        ("ceil(3 * len(train_loader))", f"ceil({3 if epochs == EPOCHS else 2} * len(train_loader))"),
        ("ceil(8 * len(train_loader))", f"ceil({epochs} * len(train_loader))"),
    )
    for old, new in (*CHANGES, *lengths):
        if old not in source:
            raise SystemExit(f"the file is not the one this script knows: it has no {old.strip()!r}")
        source = source.replace(old, new)
    return source[: source.index('if __name__ == "__main__":')] + MAIN


def write_tensors(data: Path, folder: Path) -> None:
    """Decode all pictures into the two files that the program reads."""
    for split in ("train", "test"):
        classes = sorted(path.name for path in (data / split).iterdir() if path.is_dir())
        files = [(path, k) for k, name in enumerate(classes) for path in sorted((data / split / name).iterdir())]
        images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in files])
        labels = torch.tensor([label for _, label in files])
        torch.save({"images": torch.from_numpy(images), "labels": labels, "classes": classes}, folder / f"{split}.pt")


def main() -> None:
    """Run the program once and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, choices=(3, EPOCHS), default=EPOCHS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cifar10").mkdir()
        write_tensors(options.data, folder / "cifar10")
        program = folder / "airbench_cpu.py"
        program.write_text(for_cpu(options.source.read_text(encoding="utf-8"), options.epochs), encoding="utf-8")
        begun = time.perf_counter()
        command = [sys.executable, program.name, str(options.seed)]
        output = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
        wall = time.perf_counter() - begun
    # | run | epoch | train_acc | val_acc | tta_val_acc | time_seconds |, one row an epoch and one with the views
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("|")]
    *epochs, final = rows  # the last row's clock runs on through the evaluation with views
    ends = [0.0, *(float(row[5]) for row in epochs)]
    seconds = [end - start for start, end in pairwise(ends)]
    of_eight = seconds[0] + 2 * seconds[1] + 5 * seconds[2] if options.epochs == 3 else ends[-1]
    answer = {
        "tool": "airbench94_muon",
        "seed": options.seed,
        "epochs": options.epochs,
        "epoch_seconds": " ".join(f"{second:.1f}" for second in seconds),
        "train_seconds": round(of_eight, 1),
        "wall_seconds": round(wall, 1),
        "top1_one_view": float(epochs[-1][3]),
        "top1_six_views": float(final[4]),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

"""What all tests share: a cache of their own, real data where they lie, and one thread."""

from __future__ import annotations

import os
import signal
from collections import Counter

# Before torch is loaded, for threads and processes of the tests as well: the tests themselves fill the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from eyespot.runs import Run

PROJECT = Path(__file__).resolve().parents[1]

# A job in the background of a script, or under `nohup`, ignores these, and so would every process that a test starts.
for _name, _usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _name), _usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests, then those with many: at the end no worker waits for another one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path], item.path))  # stable within a file


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep every test away from the user's cache; data named by EYESPOT_DATA are only read."""
    os.environ["EYESPOT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return a folder with the archive of real CIFAR-10 pictures, or skip."""
    folders = [*os.environ.get("EYESPOT_DATA", "").split(os.pathsep), str(PROJECT.parent / "shared" / "data")]
    for folder in folders:
        if folder and any(Path(folder).glob("cifar10*")):
            return Path(folder)
    pytest.skip("no real pictures: set EYESPOT_DATA to a folder with cifar10*.tar.xz")


def draw_pictures(folder: Path, classes: tuple[str, ...], count: int, *, size: int = 12, seed: int = 0) -> Path:
    """Write class folders of noisy pictures, each class of a colour of its own, that a small network learns at once."""
    dice = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = dice.integers(0, 60, (size, size, 3))
            pixels[..., number % 3] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index:03}.png")
    return folder


TINY = {
    "model.args": {"widths": [4, 6, 8]},
    "training.epochs": 2,
    "training.batch_size": 16,
    "training.precision": "float32",
}
"""Settings with which a recipe is done in a second."""


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three classes with twenty pictures each; not to be changed."""
    return draw_pictures(tmp_path_factory.mktemp("data") / "pictures", ("cat", "dog", "eel"), 20)


@pytest.fixture(scope="session")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a finished run on `pictures`; to be copied before it is changed."""
    import eyespot

    return eyespot.train(pictures, recipe="small", settings=TINY, out=tmp_path_factory.mktemp("runs") / "trained")

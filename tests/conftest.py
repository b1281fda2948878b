"""What all tests share: a cache of their own, real data where they lie, and one thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


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

"""The Makefile's virtual environment: whole, or not there and said what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"

pytestmark = [
    pytest.mark.skipif(os.name != "posix" or shutil.which("make") is None, reason="no make"),
    pytest.mark.skipif(not MAKEFILE.is_file(), reason="an installed package has no Makefile"),
]

# Stands for Python: `make_venv` is what `-m venv FOLDER` does, and `ready` whether `import ensurepip` works.
PYTHON = """#!/bin/sh
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin"; touch "$3/pyvenv.cfg"; {make_venv} ;;
    "-c import ensurepip, venv") exit {ready} ;;
    "-c "*) exit 0 ;;
esac
exit 1
"""
WITHOUT_PIP = "printf '#!/bin/sh\\nexit 1\\n' > $3/bin/python; chmod +x $3/bin/python"
WITH_PIP = "printf '#!/bin/sh\\nexit 0\\n' > $3/bin/python; chmod +x $3/bin/python; exit 0"


def make(folder: Path, *, make_venv: str, ready: int) -> subprocess.CompletedProcess[str]:
    (folder / "pyproject.toml").touch()
    python = folder / "python"
    python.write_text(PYTHON.format(make_venv=make_venv, ready=ready))
    python.chmod(0o755)
    command = ["make", "-f", str(MAKEFILE), f"PYTHON={python}", "VENV=.venv", ".venv/.installed"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("status", [0, 1])
def test_a_failed_environment_is_removed_and_what_is_missing_is_named(tmp_path: Path, status: int) -> None:
    done = make(tmp_path, make_venv=f"{WITHOUT_PIP}; exit {status}", ready=1)
    assert done.returncode != 0
    assert "cannot make virtual environments: on Debian or Ubuntu, sudo apt install python3-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()
    done = make(tmp_path, make_venv=WITH_PIP, ready=0)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / ".venv" / ".installed").exists()


def test_another_failure_names_no_package(tmp_path: Path) -> None:
    done = make(tmp_path, make_venv=f"{WITHOUT_PIP}; echo disk full >&2; exit 1", ready=0)
    assert done.returncode != 0
    assert "disk full" in done.stderr
    assert "python3-venv" not in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_half_an_environment_from_before_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "pyvenv.cfg").touch()
    (tmp_path / ".venv" / "bin" / "python").symlink_to("/bin/false")
    assert make(tmp_path, make_venv=WITH_PIP, ready=0).returncode == 0


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "mine.txt").touch()
    done = make(tmp_path, make_venv=WITH_PIP, ready=0)
    assert done.returncode != 0
    assert ".venv is there and is no virtual environment" in done.stderr
    assert (tmp_path / ".venv" / "mine.txt").exists()

"""The shape of the house: which room may import which, what nothing does at import, and the exported names."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import eyespot

SOURCE = Path(eyespot.__file__).parent

# A room imports only rooms with a smaller number; equal numbers are strangers, except within one room.
GROUND = ("arrays", "errors", "augment_config", "caches", "config", "device", "locks", "mistakes", "seeds")
ORDER = {
    **dict.fromkeys(GROUND, 0),
    "files": 0.5,
    "runs": 1,
    "notes": 2,
    "data": 2,
    "models": 2,
    "evaluation": 3,
    "training": 4,
    "analysis": 4,
    "deployment": 5,
    "opening": 6,
    "terminal": 6,
    "measuring": 6.5,
    "finishing": 7,
    "tracking": 7,
    "answer_file": 7,
    "predicting": 8,
    "explaining": 9,
    "evaluating": 8,
    "starting": 8,
    "comparing": 8,
    "data_verbs": 8,
    "checking": 8,
    "cross_validation": 8,
    "label_check": 9,
    "robustness": 9,
    "studies": 9,
    "sweeps": 9,
    "exporting": 9,
    "doctor": 9,
    "tables": 10,
    "commands": 11,
    "cli": 12,
    "__main__": 13,
}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Return the rooms of eyespot that a file imports at run time; type-checking imports do not run."""
    rooms = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" if node.module == "eyespot" else node.module for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("eyespot.")}
    return rooms - {"__version__"}


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_rooms_to_its_left(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        pytest.skip("the package loads its names lazily from every room")
    assert room in ORDER, f"{room} has no place in the order"
    for other in imports_of(path) - {room}:
        assert ORDER[other] < ORDER[room] or ORDER[other] == ORDER[room] == 0, f"{room} imports {other}"


def test_only_pretrained_imports_timm() -> None:
    users = [path.name for path in FILES if "timm" in {n.split(".")[0] for n in _all_imports(path)}]
    assert set(users) <= {"pretrained.py"}


def _all_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_importing_the_package_and_its_command_line_loads_nothing_heavy() -> None:
    code = (
        "import sys, threading, os; before = dict(os.environ); import eyespot, eyespot.cli;"
        "heavy = {'torch', 'torchvision', 'timm', 'sklearn', 'matplotlib', 'numpy', 'PIL', 'pydantic'};"
        "heavy &= set(sys.modules);"
        "assert not heavy, heavy; assert threading.active_count() == 1; assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_modules_that_the_pages_name_need_no_import_of_their_own() -> None:
    code = (
        "import sys, eyespot; eyespot.errors.UsageError, eyespot.terminal.Terminal; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_exported_names_are_exactly_these_and_all_resolve() -> None:
    assert eyespot.__all__ == sorted(eyespot.__all__, key=lambda name: (name.islower(), name))
    expected = {
        "BundleInfo",
        "Comparison",
        "Evaluation",
        "EyespotError",
        "Prediction",
        "Predictor",
        "Run",
        "Sweep",
        "SweepOptions",
        "__version__",
        "ablate",
        "check",
        "compare",
        "evaluate",
        "evaluate_robustness",
        "explain",
        "export",
        "load",
        "serve",
        "sweep",
        "run_study",
        "train",
    }
    assert set(eyespot.__all__) == expected
    for name in expected:
        assert getattr(eyespot, name) is not None
    assert set(dir(eyespot)) == expected
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        eyespot.trian  # noqa: B018


def test_fit_has_no_parameter_for_the_test_split() -> None:
    from eyespot.training import fit

    assert set(fit.TrainData.__dataclass_fields__) == {
        "train",
        "val",
        "train_transform",
        "eval_transform",
        "num_classes",
        "class_weights",
    }


def test_nothing_of_a_machine_or_registry_is_named() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for word in ("index-url", "find-links", "/root/", "/work/"):
            assert word not in text, f"{path} mentions {word}"

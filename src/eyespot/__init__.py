"""Train, compare, explain and ship image classifiers.

    import eyespot
    run = eyespot.train("photos/", recipe="fast", out="runs/a")
    predictor = eyespot.load("runs/a")
    predictor.predict(["cat.jpg"])

Names are loaded when they are first used: importing this package imports neither torch nor anything else heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eyespot.analysis.compare import Comparison
    from eyespot.checking import check
    from eyespot.comparing import compare
    from eyespot.deployment.server import serve
    from eyespot.errors import EyespotError
    from eyespot.evaluating import evaluate
    from eyespot.evaluation.bundle_info import BundleInfo
    from eyespot.evaluation.evaluate import Evaluation
    from eyespot.evaluation.predictor import Prediction, Predictor
    from eyespot.evaluation.predictor import load_predictor as load
    from eyespot.explaining import explain
    from eyespot.exporting import export
    from eyespot.robustness import evaluate_robustness
    from eyespot.runs import Run
    from eyespot.starting import train
    from eyespot.studies.ablation import ablate
    from eyespot.studies.study import run_study
    from eyespot.sweeps.sweep import Sweep, SweepOptions, sweep

__version__ = "0.1.0"

__all__ = [
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
    "run_study",
    "serve",
    "sweep",
    "train",
]

_HOMES = {
    "BundleInfo": "eyespot.evaluation.bundle_info",
    "Comparison": "eyespot.analysis.compare",
    "Evaluation": "eyespot.evaluation.evaluate",
    "EyespotError": "eyespot.errors",
    "Prediction": "eyespot.evaluation.predictor",
    "Predictor": "eyespot.evaluation.predictor",
    "Run": "eyespot.runs",
    "Sweep": "eyespot.sweeps.sweep",
    "SweepOptions": "eyespot.sweeps.sweep",
    "ablate": "eyespot.studies.ablation",
    "check": "eyespot.checking",
    "compare": "eyespot.comparing",
    "evaluate": "eyespot.evaluating",
    "evaluate_robustness": "eyespot.robustness",
    "explain": "eyespot.explaining",
    "export": "eyespot.exporting",
    "load": "eyespot.evaluation.predictor:load_predictor",
    "serve": "eyespot.deployment.server",
    "run_study": "eyespot.studies.study",
    "sweep": "eyespot.sweeps.sweep",
    "train": "eyespot.starting",
}


def __getattr__(name: str) -> Any:
    """Import a public name's module, or one of the modules that the pages name, on first use."""
    if name in ("errors", "terminal"):
        return importlib.import_module(f"eyespot.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'eyespot' has no attribute {name!r}")
    importlib.import_module("eyespot.device").wait_briefly()  # most of these load torch
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)

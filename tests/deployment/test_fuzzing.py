"""Requests that nobody thought of, made by schemathesis from the OpenAPI document: none is answered with a 5xx."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from eyespot.deployment.engine import open_engine
from eyespot.deployment.limits import Limits
from eyespot.runs import Run

from .test_server import Running


def test_no_request_breaks_a_check(trained: Run, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    path = Path(__file__).parents[2] / "benchmarks" / "fuzzing.py"
    spec = importlib.util.spec_from_file_location("fuzzing", path)
    assert spec is not None
    assert spec.loader is not None
    fuzzing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzzing)
    server = Running(open_engine(trained.path, engine="torch"), Limits())
    try:
        code = fuzzing.fuzz(f"{server.url}/openapi.json", 20)
    finally:
        server.close()
    told = capfd.readouterr().out
    assert code == 0, told
    assert "generated" in told

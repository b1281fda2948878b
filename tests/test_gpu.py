"""What holds on the processor holds on a GPU: the same tests on both, the second where there is one (`-m gpu`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import eyespot
from eyespot.errors import Interrupted, MemoryLimitError
from eyespot.runs import Run

from .test_verbs import Listener

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")],
)
everywhere = pytest.mark.parametrize("device", ["cpu", CUDA])
SHORT = {"training.epochs": 3, "training.batch_size": 64, "model.args": {"widths": [16, 24, 32]}}


def weights_of(run: Run) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in load_file(run.path / "bundle" / "weights.safetensors").items()}


@everywhere
def test_it_learns_and_leaves_the_programs_random_numbers_alone(device: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    generators = [torch.default_generator, *(torch.cuda.default_generators if device == "cuda" else [])]
    before = [generator.get_state().clone() for generator in generators]
    run = eyespot.train("digits", recipe="digits", settings=SHORT, out=tmp_path / "run", device=device)
    assert run.metrics["val"]["top1"] > 0.8
    assert run.provenance["device"] == device
    assert bool(run.provenance.get("gpu")) == (device == "cuda")
    assert all(torch.equal(one, other.get_state()) for one, other in zip(before, generators, strict=True))


@everywhere
def test_stopped_and_resumed_it_ends_the_same_to_the_bit(device: str, tmp_path: Path) -> None:
    def train(name: str, **more: object) -> Run:
        return eyespot.train("digits", recipe="digits", settings=SHORT, out=tmp_path / name, device=device, **more)  # type: ignore[arg-type]

    whole = train("whole")
    with pytest.raises(Interrupted):
        train("stopped", observer=Listener(stop_after=30))
    resumed = eyespot.train(out=tmp_path / "stopped", resume=True)
    assert resumed.provenance["device"] == device
    assert weights_of(resumed) == weights_of(whole)
    for split in ("val", "test"):
        assert resumed.metrics[split]["nll_loss"] == whole.metrics[split]["nll_loss"]


@everywhere
def test_its_answers_are_those_of_the_processor(device: str, tmp_path: Path) -> None:
    settings = {**SHORT, "training.precision": "float32"}
    run = eyespot.train("digits", recipe="digits", settings=settings, out=tmp_path / "run", device=device)
    pictures = [np.full((8, 8), value, dtype=np.uint8) for value in range(0, 250, 10)]
    here, there = eyespot.load(run.path, device="cpu"), eyespot.load(run.path, device=device)
    assert here.predict_probs(pictures) == pytest.approx(there.predict_probs(pictures), abs=1e-4)


@everywhere
def test_where_memory_is_short_the_error_names_a_batch_size(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**26) / total)
    else:
        from eyespot.models.spot import Spot

        def fail(self: Spot, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")

        monkeypatch.setattr(Spot, "forward", fail)
    settings = {**SHORT, "training.batch_size": 1024, "model.args": {"widths": [512, 512, 512]}}
    try:
        with pytest.raises(MemoryLimitError, match=r"training\.batch_size=\d+"):
            eyespot.train("digits", recipe="digits", settings=settings, out=tmp_path / "run", device=device)
    finally:
        if device == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)

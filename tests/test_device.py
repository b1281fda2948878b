"""Where to compute: devices that are there, and what a GPU is told before a run. None of it needs a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
import torch

from eyespot import device as device_module
from eyespot import doctor
from eyespot.device import (
    ComputePlan,
    bf16_speedup,
    find_device,
    gpu_name,
    is_memory_error,
    plan_compute,
    prepare_process,
    random_numbers_kept,
)
from eyespot.errors import UsageError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current = 0

    @contextmanager
    def chosen(device: str) -> Iterator[None]:
        nonlocal current
        before, current = current, torch.device(device).index or 0
        yield
        current = before

    monkeypatch.setattr(torch.cuda, "device", chosen)
    monkeypatch.setattr(torch.cuda, "get_arch_list", list)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current == 0)


@pytest.mark.parametrize("device", ["auto:0", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "cuda:0:1", "cpu:\u0661"])
@pytest.mark.usefixtures("two_gpus")
def test_a_device_that_torch_would_not_read_is_unknown(device: str) -> None:
    with pytest.raises(UsageError, match=r"unknown device .*use auto, cpu, cuda or mps"):
        plan_compute(device)


def test_other_defaults_of_torch_are_refused_in_words() -> None:
    try:
        torch.set_default_dtype(torch.float64)
        with pytest.raises(UsageError, match=r"default type was set to torch.float64: call torch.set_default_dtype"):
            plan_compute("cpu")
        torch.set_default_dtype(torch.float32)
        with torch.device("meta"), pytest.raises(UsageError, match="default device was set to meta: call"):
            plan_compute("cpu")
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_is_found_before_the_first_tensor() -> None:
    assert [plan_compute(device).device for device in ("cuda", "cuda:0", "cuda:1", "cpu:0", "auto")] == [
        *("cuda", "cuda:0", "cuda:1", "cpu", "cuda")
    ]
    with pytest.raises(UsageError, match="device 'cuda:9' is not on this machine: use --device cuda:0 to cuda:1"):
        plan_compute("cuda:9")
    with pytest.raises(UsageError, match="device 'cpu:1' is not on this machine: use --device cpu:0"):
        plan_compute("cpu:1")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("built", "card", "runs"),
    [
        (["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"], (6, 1), False),
        (["sm_75", "sm_80", "sm_86", "sm_90"], (8, 9), True),
        (["sm_75", "sm_86"], (8, 0), False),
        (["sm_75", "sm_80", "sm_90"], (12, 0), False),
        (["sm_75", "sm_80", "compute_80"], (12, 0), True),
        (["compute_90"], (8, 6), False),
        (["sm_90a", "compute_90a"], (9, 0), True),
        (["sm_100a", "compute_100a"], (10, 3), False),
        (["gfx90a", "gfx942"], (9, 0), True),
        ([], (6, 1), True),
    ],
)
def test_a_gpu_that_torch_has_no_kernels_for_is_not_taken(
    built: list[str], card: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    if runs:
        assert find_device() == find_device("cuda") == "cuda"
        return
    assert find_device() == "cpu"
    name = f"this torch has no kernels for a card (sm_{card[0]}{card[1]})"
    for precision in ("auto", "float32"):
        assert plan_compute(precision=precision).reason.endswith(f"; {name}")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"{re.escape(name)}: use --device cpu"):
        find_device("cuda:1")
    row = next(check for check in doctor._compute() if check.name == "device")
    assert row.status == "warning"
    assert name in row.value


def test_a_gpu_is_called_by_its_name_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {"cuda": SimpleNamespace(name="NVIDIA H200", total_memory=150_754_820_096)}
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    assert gpu_name("cuda") == "NVIDIA H200, 151 GB"
    assert gpu_name("cpu") == gpu_name("mps") == ""


@pytest.mark.usefixtures("two_gpus")
def test_the_precision_is_that_of_the_gpu_that_is_meant() -> None:
    assert plan_compute("cuda:0") == ComputePlan("cuda:0", "bf16", "the GPU has bf16")
    assert plan_compute("cuda:1") == ComputePlan("cuda:1", "float32", "the GPU has no native bf16")


@pytest.mark.parametrize(
    ("features", "speedup", "precision", "reason"),
    [
        (["avx512", "avx512_bf16", "amx_bf16"], 7.0, "bf16", "the processor has AMX-BF16"),
        (["avx512", "avx512_bf16"], 2.8, "bf16", "the processor has AVX512-BF16"),
        (["avx512_bf16"], 0.5, "float32", "the processor has AVX512-BF16, but float32 is the faster one on it"),
        (["avx512"], 9.0, "float32", "the processor has no native bf16"),
    ],
)
def test_auto_takes_bf16_where_it_is_native_and_faster(
    features: list[str], speedup: float, precision: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "cpu_features", lambda: features)
    monkeypatch.setattr(device_module, "bf16_speedup", lambda: speedup)
    assert plan_compute("cpu") == ComputePlan("cpu", precision, reason)
    assert plan_compute("cpu", "bf16").precision == "bf16"


def test_the_speedup_is_measured_once_and_leaves_the_threads_as_they_were() -> None:
    threads = torch.get_num_threads()
    bf16_speedup.cache_clear()
    first = bf16_speedup()
    assert first > 0
    assert bf16_speedup() == first
    assert torch.get_num_threads() == threads


def settings() -> dict[str, object]:
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "cudnn deterministic": torch.backends.cudnn.deterministic,
        "cudnn benchmark": torch.backends.cudnn.benchmark,
        "cudnn tf32": torch.backends.cudnn.allow_tf32,
        "matmul tf32": torch.backends.cuda.matmul.allow_tf32,
        "convolutions": torch.backends.cudnn.conv.fp32_precision,
        "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


@pytest.fixture
def kept_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = settings()
    yield
    torch.use_deterministic_algorithms(bool(before["deterministic"]), warn_only=bool(before["warn only"]))
    torch.utils.deterministic.fill_uninitialized_memory = bool(before["fill"])
    torch.backends.cudnn.deterministic = bool(before["cudnn deterministic"])
    torch.backends.cudnn.benchmark = bool(before["cudnn benchmark"])
    torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = "none"
    torch.backends.cudnn.allow_tf32 = bool(before["cudnn tf32"])
    torch.backends.cuda.matmul.allow_tf32 = bool(before["matmul tf32"])


@pytest.mark.usefixtures("kept_settings")
def test_a_gpu_computes_the_same_each_time_and_float32_as_float32() -> None:
    torch.backends.cudnn.benchmark = True
    torch.backends.fp32_precision = "tf32"  # as a program may ask for everywhere
    prepare_process(ComputePlan("cuda:1", "float32", "asked for"))
    assert settings() == {
        "deterministic": True,
        "warn only": True,
        "fill": False,
        "cudnn deterministic": True,
        "cudnn benchmark": False,
        "cudnn tf32": False,
        "matmul tf32": False,
        "convolutions": "ieee",
        "cublas": ":4096:8",
    }


@pytest.mark.usefixtures("kept_settings")
def test_the_users_own_workspace_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    prepare_process(ComputePlan("cuda", "bf16", "the GPU has bf16"))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.usefixtures("kept_settings")
@pytest.mark.parametrize("plan", [None, ComputePlan("cpu", "float32", ""), ComputePlan("mps", "float32", "")])
def test_elsewhere_torch_is_left_as_it_is(plan: ComputePlan | None) -> None:
    before = settings()
    prepare_process(plan)
    assert settings() == before


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("fails", [False, True])
def test_random_numbers_are_given_back_those_of_every_gpu_too(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {0: torch.tensor([1]), 1: torch.tensor([2])}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({device: state}))
    before, processor = dict(states), torch.get_rng_state()
    with suppress(KeyError), random_numbers_kept(ComputePlan("cuda:1", "float32", "")):
        torch.rand(3)
        states.update({0: torch.tensor([7]), 1: torch.tensor([7])})  # as `torch.cuda.manual_seed_all` does
        if fails:
            raise KeyError
    assert states == before
    assert torch.equal(torch.get_rng_state(), processor)


@pytest.mark.parametrize("used", ["eyespot.train", "main(['recipes'])"])
@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_wait_briefly_from_before_torch_is_loaded(
    used: str, environment: dict[str, str], expected: str
) -> None:
    code = (
        "import os, sys, eyespot; from contextlib import suppress; from eyespot.cli import main;"
        " assert 'torch' not in sys.modules\n"
        f"with suppress(SystemExit): {used}\n"
        "print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    plain = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    found = subprocess.run([sys.executable, "-c", code], env=plain | environment, capture_output=True, text=True)
    assert found.stdout.split()[-1] == expected, found.stderr


@pytest.mark.parametrize("device", ["cuda:" + 5000 * "9", "cpu:" + 5000 * "9"])
def test_a_number_of_thousands_of_digits_is_no_device(device: str) -> None:
    with pytest.raises(UsageError):
        find_device(device)


@pytest.mark.parametrize(("platform", "expected"), [("linux", [(-1, 2**31 - 1), (-3, 2**30)]), ("darwin", [])])
def test_freed_memory_is_kept_where_glibc_can(
    platform: str, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[int, int]] = []
    monkeypatch.setattr(device_module.sys, "platform", platform)
    monkeypatch.setattr(
        device_module.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *setting: called.append(setting))
    )
    prepare_process()
    assert called == expected


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
)
def test_the_libraries_of_a_gpu_have_words_of_their_own_for_no_memory(said: str) -> None:
    assert is_memory_error(RuntimeError(said))

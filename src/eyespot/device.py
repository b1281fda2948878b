"""Where and in which precision to compute, and the process settings that make it fast.

Before this: nothing. After this: `fit` and `Predictor` ask here once and pass a `ComputePlan` on.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from eyespot.errors import UsageError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bf16"]

_WORTHWHILE_SPEEDUP = 1.5
"""From here on `auto` takes bf16. Seen: 0.5 (Intel without AMX), 2.8 to 4.2 (AMD); convolutions gain less."""


@dataclass(frozen=True)
class ComputePlan:
    """Where to compute and how.

    Attributes:
        device: `cpu`, `cuda` or `mps`, as torch writes it; one of several GPUs has its number, `cuda:1`.
        precision: What the matrix products run in; losses, metrics and weights stay float32.
        reason: Why this precision, in words, for the log and the provenance.
    """

    device: str
    precision: Precision
    reason: str

    def autocast(self) -> torch.autocast:
        """Return the context in which forward passes run."""
        import torch

        return torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16, enabled=self.precision == "bf16")


def plan_compute(device: str = "auto", precision: Literal["auto", "float32", "bf16"] = "auto") -> ComputePlan:
    """Return the device and precision to use.

    Args:
        device: `auto` takes a GPU where torch sees one.
        precision: `auto` takes bf16 only where the hardware multiplies it natively, and faster than float32.

    Raises:
        UsageError: As `find_device`.
    """
    passed_over = missing_kernels() if device == "auto" else ""
    device = find_device(device)
    if precision != "auto":
        reason = f"{precision} was asked for"
    else:
        fast, reason = _fast_bf16(device)
        precision = "bf16" if fast else "float32"
    reason = f"{reason}; {passed_over}" if passed_over else reason
    return ComputePlan(device, precision, reason)


def find_device(device: str = "auto") -> str:
    """Return the device that is meant, as torch writes it: for `auto` a GPU where torch sees one and can use it.

    Raises:
        UsageError: The device is unknown or not on this machine, or torch has no kernels for it; or the program has
            changed what torch makes tensors of, with which neither a network nor its weights are what they say.
    """
    import torch

    for name, found, needed in (
        ("type", torch.get_default_dtype(), "torch.set_default_dtype(torch.float32)"),
        ("device", torch.get_default_device().type, "torch.set_default_device(None), and name the device here"),
    ):
        if found not in (torch.float32, "cpu"):
            raise UsageError(f"torch's default {name} was set to {found}", remedy=f"call {needed}")
    device = str(device)  # a `torch.device` says its name
    kind, numbered, number = device.partition(":")
    if kind not in {"auto", "cpu", "cuda", "mps"} or (numbered and (kind == "auto" or not _is_number(number))):
        raise UsageError(f"unknown device {device!r}", remedy="use auto, cpu, cuda or mps")
    if kind == "auto":
        has_gpu = torch.cuda.is_available() and not missing_kernels()
        return "cuda" if has_gpu else "mps" if torch.backends.mps.is_available() else "cpu"
    if (kind == "cuda" and not torch.cuda.is_available()) or (kind == "mps" and not torch.backends.mps.is_available()):
        raise UsageError(f"device {device!r} is not on this machine", remedy="use --device cpu or --device auto")
    # Torch takes any number here and fails at the first tensor.
    if numbered and int(number) >= (count := torch.cuda.device_count() if kind == "cuda" else 1):
        last = f" to {kind}:{count - 1}" if count > 1 else ""
        raise UsageError(f"device {device!r} is not on this machine", remedy=f"use --device {kind}:0{last}")
    if kind == "cuda" and (missing := missing_kernels(device)):
        raise UsageError(missing, remedy="use --device cpu, or a torch that is built for this GPU")
    return device if kind == "cuda" else kind  # there is one of the others, with or without its number


def missing_kernels(device: str = "cuda") -> str:
    """Return in words that this torch has no kernels for a GPU of NVIDIA; nothing where it has, or there is none."""
    import torch

    # Of AMD's GPUs the names are others, and a torch that does not say what it was built for is believed.
    names = torch.cuda.get_arch_list() if torch.cuda.is_available() else []
    built = [found for name in names if (found := re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", name))]
    if not built:
        return ""
    own = torch.cuda.get_device_capability(device)
    for found in built:
        version = (int(found[2]), int(found[3]))
        # Machine code runs on later GPUs of its generation, intermediate code on all later ones, that of `a` on none.
        later = own >= version and (own[0] == version[0] or found[1] == "compute")
        if own == version or (later and found[4] != "a"):
            return ""
    return f"this torch has no kernels for {torch.cuda.get_device_name(device)} (sm_{own[0]}{own[1]})"


def gpu_name(device: str) -> str:
    """Return the name and memory of a GPU of CUDA, such as `NVIDIA H200, 151 GB`; nothing for another device."""
    import torch

    if not device.startswith("cuda"):
        return ""
    card = torch.cuda.get_device_properties(device)
    return f"{card.name}, {card.total_memory / 1e9:.0f} GB"


def _is_number(text: str) -> bool:
    """Return whether a text is a whole number as torch writes it: ASCII digits, no zero in front."""
    return len(text) < 10 and text.isdecimal() and str(int(text)) == text


def _fast_bf16(device: str) -> tuple[bool, str]:
    """Return whether bf16 products are the faster ones on the device, and why."""
    import torch

    kind = device.split(":")[0]
    if kind == "cuda":
        with torch.cuda.device(device):  # torch asks the current one
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return native, "the GPU has bf16" if native else "the GPU has no native bf16"
    if kind == "mps":
        return False, "float32 on Apple GPUs: bf16 is not measured there"
    features = cpu_features()
    for name in ("amx_bf16", "avx512_bf16"):
        if name in features:
            found = f"the processor has {name.upper().replace('_', '-')}"
            fast = bf16_speedup() >= _WORTHWHILE_SPEEDUP
            return fast, found if fast else f"{found}, but float32 is the faster one on it"
    return False, "the processor has no native bf16"


@lru_cache(maxsize=1)
def bf16_speedup() -> float:
    """Return how many times as fast as in float32 this processor multiplies matrices in bf16; about 10 ms, once.

    That it has instructions for bf16 says little: AVX512-BF16 of an Intel Xeon without AMX took twice the time of
    float32, that of an AMD EPYC a quarter. One thread, in turn and the best of several, so that other work on the
    machine does not decide.
    """
    import torch

    threads = torch.get_num_threads()
    ones = {dtype: torch.ones(384, 384, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    seconds = dict.fromkeys(ones, float("inf"))
    try:
        torch.set_num_threads(1)
        for _ in range(8):  # the first ones warm up
            for dtype, matrix in ones.items():
                started = time.perf_counter()
                matrix @ matrix
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def cpu_features() -> list[str]:
    """Return which of the features that decide the speed here the processor has."""
    import torch

    # torch.cpu keeps these under private names in some releases: a missing one means unknown, so float32.
    probes = {
        "avx2": "_is_avx2_supported",
        "avx512": "_is_avx512_supported",
        "avx512_bf16": "_is_avx512_bf16_supported",
        "amx_bf16": "_is_amx_tile_supported",
    }
    return [name for name, probe in probes.items() if getattr(torch.cpu, probe, lambda: False)()]


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_process(plan: ComputePlan | None = None) -> None:
    """Make the process fit for a run, before the first tensor of it: memory, and on a GPU of NVIDIA its kernels.

    Args:
        plan: Where the run computes; None where nothing is known of it yet.
    """
    _keep_freed_memory()
    if plan is not None:
        choose_kernels(plan)


@contextmanager
def random_numbers_kept(plan: ComputePlan) -> Iterator[None]:
    """Give torch's random numbers back as they were: the processor's, and those of the GPUs of the plan's kind."""
    import torch

    kind = plan.device.split(":")[0]
    gpus = range(torch.cuda.device_count()) if kind == "cuda" else ()  # a step seeds them all
    with ExitStack() as stack:
        if kind == "mps":
            stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        stack.enter_context(torch.random.fork_rng(devices=gpus, device_type="cuda"))
        yield


def wait_briefly() -> None:
    """Let a thread of torch's that waits for another one soon give up its core; to be called before torch is loaded.

    GNU's OpenMP lets it turn in a loop for up to 6 ms first, with this for 1.6 (seen on an Intel Xeon). On a machine
    that does other things the loop takes the core from the very thread that it waits for (docs/performance.md). Other
    OpenMPs do not read this, and a user's own choice stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def choose_kernels(plan: ComputePlan) -> None:
    """On a GPU of NVIDIA take kernels that give the same bits each time, where torch has them, and exact float32.

    Where it has none, it says so once for each of them. Nothing of this is set for the CPU, whose results it could
    change. It holds for the process, and stays.
    """
    if plan.device.split(":")[0] != "cuda":
        return
    import torch

    # Matrix products read this when their library starts, so it comes before the first of them; 24 MB for each GPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A debugging aid, and a pass over each new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    # TF32 has 10 bits of mantissa where float32 has 23. What is meant to be fast runs in bf16; what is left in float32,
    # such as the check that folding changed nothing, has to be exact.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.fp32_precision = "ieee"  # else it is that of torch.backends, which a program may have set


def _keep_freed_memory() -> None:
    """Keep freed memory in the process, so that each training step does not fault its pages in again.

    Big tensors come and go every step. By default glibc gives each of them back to the kernel and gets zeroed pages
    anew; on two cores that was a fifth of a training step. Equivalent to MALLOC_TRIM_THRESHOLD_ and
    MALLOC_MMAP_THRESHOLD_ in the environment, which would have to be set before the process starts. Only glibc has it;
    elsewhere this does nothing. Peak memory is what it was: freed blocks are used again.
    """
    if not sys.platform.startswith("linux"):
        return
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_mmap_threshold, 2**30)


def peak_memory_bytes() -> int | None:
    """Return the largest resident size of this process so far, or None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def is_memory_error(error: BaseException) -> bool:
    """Return whether memory ran out.

    Torch's CPU allocator says so in a plain RuntimeError, the system in an OSError, and safetensors panics.
    """
    words = (
        "can't allocate memory",
        "cannot allocate memory",
        "not enough memory",
        "out of memory",
        "bad_alloc",
        "_status_alloc_failed",  # cuBLAS, and cuDNN before 9
        "allocation_failed",  # cuDNN
        "failed to allocate memory",  # ONNX Runtime
        "failed to serialize proto",  # onnx does not say why; a graph that is too large for it has its weights outside
        "could not create a primitive",  # oneDNN does not say why; in practice its scratch memory
    )
    if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "PanicException"):
        return True  # known by name: the command line asks before torch is loaded
    return any(word in str(error).lower() for word in words)

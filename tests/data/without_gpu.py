"""What a GPU would be asked to do, counted without one: torch follows shapes and devices, and computes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from eyespot.data import augmentations, transforms

_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_LOOKS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
_KEPT = (augmentations.constant, transforms._scale_and_offset, transforms._resize_weights)


class Traffic(TorchDispatchMode):
    """Counts what goes between the computer's memory and a GPU.

    Attributes:
        waited: Copies that the program waits for, and looks at a GPU's numbers.
        copies: The other copies.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waited = self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _COPIES:
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            if source.device.type != result.device.type:
                is_async = (kwargs or {}).get("non_blocking", False) or True in args[2:]
                self.copies += is_async
                self.waited += not is_async
        elif func in _LOOKS:
            self.waited += args[0].device.type != "cpu"
        return result


@contextmanager
def no_gpu() -> Iterator[None]:
    """Let tensors be on `cuda` that have no memory; what was kept of them is forgotten."""
    for kept in _KEPT:
        kept.cache_clear()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        for kept in _KEPT:
            kept.cache_clear()

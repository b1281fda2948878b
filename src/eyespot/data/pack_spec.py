"""What the pictures of a data set become, and whether that fits: decided from headers, before anything is decoded.

Before this: `sources` made a `Dataset`. After this: `packing` decodes every picture as the `PackSpec` says.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from eyespot.caches import cache_folder
from eyespot.data.dataset import Dataset, Items
from eyespot.data.decoding import Header, probe_picture
from eyespot.data.resizing import Channels, Fit, Interpolation, RowFormat
from eyespot.errors import BadImageError, UsageError

_SAMPLE = 256  # pictures whose headers decide about size and channels
_SMALLEST_PX = 16  # what "auto" may choose
LARGEST_PX = 64  # what it may choose where the model does not say


@dataclass(frozen=True)
class PackSpec:
    """What every picture becomes.

    Attributes:
        row_format: What is kept of it.
        reason: Why this size and these channels, in words.
    """

    row_format: RowFormat
    reason: str


@dataclass(frozen=True)
class PackEstimate:
    """Whether the packed pixels of a data set would fit, said before anything is decoded.

    Attributes:
        bytes: N * S * L * C.
        fits: False: the pictures will be streamed from their files, unless they were packed before.
        reason: The estimate and what it was compared with, in words.
        allowed: False: the caller's own limit forbids packed pixels, also those that were packed before.
    """

    bytes: int
    fits: bool
    reason: str
    allowed: bool = True


def choose_spec(
    dataset: Dataset,
    *,
    size_px: int | Literal["auto"],
    channels: Literal["auto", 1, 3],
    fit: Fit,
    interpolation: Interpolation,
    largest_px: int = LARGEST_PX,
) -> PackSpec:
    """Return what every picture is packed to, with `auto` resolved.

    Only training pictures decide: an evenly spread sample of 256 headers, or the shape of an array.

    Args:
        dataset: What was found.
        size_px: `auto` takes the size that all pictures share where it is square and at most 64 px; otherwise the
            median short side, rounded to a multiple of 8, between 16 and 64.
        channels: `auto` takes 1 where all are grey.
        fit: As in `RowFormat`; `short-side` becomes `crop` where all sampled pictures are square.
        interpolation: As in `RowFormat`.
        largest_px: What `auto` may choose at most, in place of 64.

    Raises:
        UsageError: The size is not positive.
    """
    if size_px != "auto" and size_px < 1:
        raise UsageError(f"picture size {size_px} px", remedy="use a whole number from 1, or auto")
    asked = "auto" in (size_px, channels) or fit == "short-side"
    headers = _sample_headers(dataset.splits["train"]) if asked else []
    if size_px == "auto":
        side, size_reason = _auto_size(headers, largest_px)
    else:
        side, size_reason = size_px, f"{size_px} px, as asked for"
    depth: Channels
    if channels != "auto":
        depth, depth_reason = channels, "as the recipe says"
    elif headers and all(header.is_grey for header in headers):
        depth, depth_reason = 1, "all sampled pictures are grey"
    else:
        depth, depth_reason = 3, "there are colours"
    if fit == "short-side" and all(header.width_px == header.height_px for header in headers):
        fit = "crop"
    return PackSpec(RowFormat(side, depth, fit, interpolation), f"{size_reason}; channels {depth}, {depth_reason}")


def typical_side_px(dataset: Dataset) -> float:
    """Return the median short side of an evenly spread sample of the training pictures, 0 where none can be read."""
    headers = _sample_headers(dataset.splits["train"])
    return statistics.median(min(header.width_px, header.height_px) for header in headers) if headers else 0.0


def estimate_pack(dataset: Dataset, spec: PackSpec, *, memory_limit_bytes: int | None = None) -> PackEstimate:
    """Return how many bytes the packed pixels take, and whether they fit where they have yet to be packed.

    The cache is not asked: what is in it already takes no more of the disk, and `pack_dataset` looks there first.

    Args:
        dataset: What was found.
        spec: What every picture becomes.
        memory_limit_bytes: Most bytes of packed pixels; None allows half of the memory that is available, and nine
            tenths of the free space where the cache is.
    """
    number = sum(len(items) for items in dataset.splits.values())
    size = number * spec.row_format.row_bytes
    height, width, channels = spec.row_format.shape
    what = f"{number:,} pictures of {width} x {height} x {channels} take {size_words(size)}"
    if is_ready(dataset, spec):
        return PackEstimate(size, True, f"{what}; they are in memory as they are")
    free = _free_disk_bytes(cache_folder("packed"))
    if any(items.pixels is not None for items in dataset.splits.values()):
        return PackEstimate(size, True, f"{what} in {cache_folder('packed')}")  # there are no files to stream from
    memory = available_memory_bytes()
    limits = [(memory_limit_bytes, "the memory limit")] if memory_limit_bytes is not None else []
    if memory_limit_bytes is None and memory is not None:
        limits.append((memory // 2, "half of the available memory"))
    if free is not None:
        limits.append((free * 9 // 10, f"nine tenths of the free space in {cache_folder('packed')}"))
    for limit, name in limits:
        if size > limit:
            reason = f"{what}, more than {name} ({size_words(limit)}): they are streamed from their files"
            allowed = memory_limit_bytes is None or size <= memory_limit_bytes
            return PackEstimate(size, False, reason, allowed)
    return PackEstimate(size, True, f"{what}; they are decoded once and packed")


def is_ready(dataset: Dataset, spec: PackSpec) -> bool:
    """Return whether all pictures are arrays of the right shape already: they are referenced, not copied."""
    shape = spec.row_format.shape
    return all(items.pixels is not None and items.pixels.shape[1:] == shape for items in dataset.splits.values())


def _sample_headers(items: Items) -> list[Header]:
    """Return the headers of an evenly spread sample; pictures that cannot be read say nothing here."""
    if items.pixels is not None:
        height, width, depth = items.pixels.shape[1:]
        return [Header(width, height, "L" if depth == 1 else "RGB")] if len(items) else []
    assert items.paths is not None
    headers = []
    for i in np.unique(np.linspace(0, len(items) - 1, min(len(items), _SAMPLE)).round().astype(int)).tolist():
        with contextlib.suppress(BadImageError):
            headers.append(probe_picture(items.paths[i]))
    return headers


def _auto_size(headers: list[Header], largest_px: int) -> tuple[int, str]:
    if not headers:
        return 32, "32 px, because no sampled picture can be read"
    sizes = {(header.width_px, header.height_px) for header in headers}
    width, height = next(iter(sizes))
    if len(sizes) == 1 and width == height <= largest_px:
        return width, f"{width} px, which all sampled pictures have"
    median = statistics.median(min(header.width_px, header.height_px) for header in headers)
    side = min(max(8 * math.floor(median / 8 + 0.5), _SMALLEST_PX), largest_px)
    return side, (
        f"{side} px, for a median short side of {median:g} px (multiples of 8 between {_SMALLEST_PX} and {largest_px})"
    )


def _free_disk_bytes(folder: Path) -> int | None:
    """Return the free bytes where a folder is or will be."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def available_memory_bytes() -> int | None:
    """Return the memory that this process may still take, None where the system does not say."""
    known = []
    if sys.platform == "win32":
        import ctypes

        status = (ctypes.c_ulonglong * 8)()  # MEMORYSTATUSEX: two 32-bit fields, then seven of 64 bits
        ctypes.cast(status, ctypes.POINTER(ctypes.c_ulong))[0] = ctypes.sizeof(status)
        if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            known.append(int(status[2]))
        return min(known, default=None)
    with contextlib.suppress(OSError):
        if found := re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text()):
            known.append(int(found[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        known.append(_container_memory_bytes(Path("/sys/fs/cgroup")))
    if not known:
        with contextlib.suppress(OSError, ValueError):
            known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(known, default=None)


def _container_memory_bytes(group: Path) -> int:
    """Return what the limit of a container leaves.

    The files that were read last count as taken (`memory.current`) and are given up when memory is asked for: without
    them a container that has read its pictures once would seem full.

    Args:
        group: Folder of the control group, version 2.

    Raises:
        OSError: There is no such group.
        ValueError: It has no limit: `max` is no number.
    """
    limit = int((group / "memory.max").read_text())
    taken = int((group / "memory.current").read_text())
    with contextlib.suppress(OSError):
        if found := re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE):
            taken -= int(found[1])
    return max(0, limit - taken)


def size_words(size: int) -> str:
    """Return a size as `184.0 MB` or `3.2 GB`."""
    return f"{size / 1e9:,.1f} GB" if size >= 10**9 else f"{size / 1e6:,.1f} MB"

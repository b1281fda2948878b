"""Every picture decoded once: a memory-mapped uint8 array of all pixels, kept in the cache and keyed by the content.

Before this: `sources` made a `Dataset`. After this: `splits` and `loaders` take the `PackedDataset`, and its
`ScanReport` goes through `checks.enforce`. What would not fit stays in its files: it is scanned all the same, and
loaders decode it anew in each epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from eyespot.data.checks import require_usable
from eyespot.data.dataset import Dataset, PackedDataset
from eyespot.data.pack_cache import CacheEntry, remove_leftovers
from eyespot.data.pack_spec import PackEstimate, PackSpec, choose_spec, estimate_pack
from eyespot.data.resizing import Fit, Interpolation
from eyespot.errors import DataError
from eyespot.files import describe_disk_error
from eyespot.locks import file_lock

_WAITING = "waiting for another process that packs the same pictures"

__all__ = [
    "PackEstimate",
    "PackSpec",
    "choose_spec",
    "estimate_pack",
    "pack_dataset",
]


def pack_dataset(
    dataset: Dataset,
    *,
    size_px: int | Literal["auto"] = "auto",
    fit: Fit = "crop",
    interpolation: Interpolation = "bicubic",
    channels: Literal["auto", 1, 3] = "auto",
    on_bad_image: Literal["refuse", "skip"] = "refuse",
    workers: int | None = None,
    memory_limit_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    message: Callable[[str], None] = lambda text: None,
) -> PackedDataset:
    """Return the data set scanned and ready for training, from the cache where it was packed before.

    The cache is asked by names, sizes and times of the files and by the content of arrays. Processes that ask for the
    same at the same time wait for the one that packs.

    Args:
        dataset: What was found.
        size_px: As in `choose_spec`.
        fit: As in `choose_spec`.
        interpolation: As in `RowFormat`.
        channels: As in `choose_spec`.
        on_bad_image: `refuse` raises where a picture cannot be used; `skip` leaves it out. The scan is kept either way.
        workers: Decoding processes; None takes one a core.
        memory_limit_bytes: As in `estimate_pack`. Where the pixels do not fit, the splits have `paths` instead. What
            was packed before is used whatever memory and disk are free today, unless it is over this limit.
        progress: Is called with the number of pictures done and of all pictures; first with 0 where pictures have to
            be decoded, and only with all where none has.
        message: Told that another process packs the same pictures, where it is waited for.

    Raises:
        DataError: No pictures; bad pictures that are refused, or that leave nothing of a class; the cache folder cannot
            be written; a decoding worker was killed; files changed while they were read.
        UsageError: The size is not positive.
    """
    number = sum(len(items) for items in dataset.splits.values())
    if number == 0:
        raise DataError("no pictures", where=dataset.origin, remedy="name a folder of pictures")
    spec = choose_spec(dataset, size_px=size_px, channels=channels, fit=fit, interpolation=interpolation)
    estimate = estimate_pack(dataset, spec, memory_limit_bytes=memory_limit_bytes)
    progress = progress or _no_progress
    entry = CacheEntry(dataset, spec)
    remove_leftovers(entry.folder.parent)
    packed = _packed_before(entry, estimate)
    if packed is None:
        try:
            with file_lock(entry.lock_path, on_wait=partial(message, _WAITING)):
                # Another process may have packed it while we waited.
                packed = _packed_before(entry, estimate)
                if packed is None:
                    progress(0, number)
                    packed = entry.build(estimate.fits, workers, progress)
        except OSError as error:
            what, step = describe_disk_error(error)
            raise DataError(
                f"cannot keep packed pixels ({what})",
                where=entry.folder.parent,
                remedy=f"{step}; EYESPOT_CACHE names the folder",
            ) from error
    else:
        progress(number, number)
    require_usable(packed.report, dataset, on_bad_image=on_bad_image)
    return packed


def _packed_before(entry: CacheEntry, estimate: PackEstimate) -> PackedDataset | None:
    """Return what the cache has: with pixels where they may be used, else the scan alone where that is enough."""
    packed = entry.load(with_pixels=True) if estimate.allowed else None
    return packed if packed is not None or estimate.fits else entry.load(with_pixels=False)


def _no_progress(done: int, total: int) -> None:
    pass

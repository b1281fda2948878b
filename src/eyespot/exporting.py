"""The verb `export`: the model of a run leaves it as a file, compared on the run's own pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from eyespot.errors import DataError, EyespotError, UsageError, did_you_mean
from eyespot.evaluating import own_data
from eyespot.files import checked_folder
from eyespot.opening import Observer
from eyespot.runs import BUNDLE, Run
from eyespot.terminal import Terminal

if TYPE_CHECKING:
    from eyespot.arrays import UInt8Array
    from eyespot.data.dataset import PackedDataset
    from eyespot.data.splits import Splits
    from eyespot.deployment.export import Exported, Labelled

_COMPARED = 5000  # pictures of val
_CALIBRATION = 512  # pictures of train
_REAL = 24  # pictures of the run among those on which probabilities are compared


def export(
    run: str | os.PathLike[str],
    format: str = "onnx",
    *,
    out: str | Path | None = None,
    int8: bool = False,
    half: bool = False,
    observer: Observer | None = None,
) -> Exported:
    """Write a trained model as a file that needs nothing of eyespot, and compare it with the model.

    Args:
        run: Run folder, bundle, or a model that comes with eyespot.
        format: `onnx` or `torch`: pictures in, probabilities out, the preparation inside; `safetensors`: the bundle.
        out: Folder to write into; `export` in the run folder, or `NAME-export` for a bundle, when left out.
        int8: 8-bit weights and activations, calibrated on training pictures; for `onnx` and runs whose data are there.
        half: float16 weights, half the size; for `safetensors`. Compared with the model, which the card says.
        observer: Told about what happens.

    Raises:
        UsageError: An unknown format, or options that do not go together.
        MissingExtraError: A package of the extra `export` is not installed.
        RunError: There is no model in `run`, the file exists, or cannot be written.
        CheckpointError: The bundle is damaged.
        DataError: `int8` without the run's data.
        ModelError: The network cannot be exported, or the file's answers are not the model's.
    """
    from eyespot.deployment.export import FORMATS, export_bundle, export_onnx, export_torch, sample_pictures
    from eyespot.evaluation.bundle import find_bundle

    watcher = observer or Terminal(quiet=True)
    if format not in FORMATS:
        raise UsageError(
            f"unknown format {format!r}.{did_you_mean(format, FORMATS)}", remedy=f"use {', '.join(FORMATS)}"
        )
    for option, given, needed in (("int8", int8, "onnx"), ("half", half, "safetensors")):
        if given and format != needed:
            raise UsageError(f"{option} with format {format}", remedy=f"use {option} with format {needed}")
    bundle = find_bundle(run)
    home = bundle.parent if bundle.name == BUNDLE and (bundle.parent / "config.toml").exists() else None
    folder = checked_folder(out) if out is not None else _default_folder(bundle, home)
    if format == "safetensors" and not half:
        return export_bundle(bundle, folder / "bundle")
    pictures = sample_pictures()
    labelled = calibration = None
    try:
        if home is None:
            raise DataError("a bundle has no pictures", where=run)
        packed, splits = own_data(Run.open(home), watcher)
        labelled = _labelled(packed, splits)
        calibration = _spread(packed, splits, "train", _CALIBRATION)[0] if int8 else None
        pictures += [_rgb(image) for image in labelled.images[:_REAL]] if labelled is not None else []
    except EyespotError as error:
        if int8:
            raise DataError(
                f"int8 is calibrated on training pictures, and they are not at hand ({error.what})",
                where=error.where or run,
                remedy=f"{error.remedy or 'export the run where its data are'}, or leave --int8 out",
            ) from error
        watcher.on_message(f"note: compared on sample pictures only ({error.what})")
    if half:
        return export_bundle(bundle, folder / "bundle", half=True, pictures=pictures, labelled=labelled)
    if format == "torch":
        return export_torch(bundle, folder / "model.pt2", pictures=pictures, labelled=labelled)
    return export_onnx(
        bundle,
        folder / ("model-int8.onnx" if int8 else "model.onnx"),
        pictures=pictures,
        int8=int8,
        calibration=calibration,
        labelled=labelled,
    )


def _default_folder(bundle: Path, home: Path | None) -> Path:
    return home / "export" if home is not None else Path(f"{bundle.resolve().name}-export")


def _labelled(packed: PackedDataset, splits: Splits) -> Labelled | None:
    """Return pictures of val with labels, of train where there is no val. Test is not read: nothing is judged here."""
    from eyespot.deployment.export import Labelled

    split = "val" if splits.count("val") else "train"
    images, places = _spread(packed, splits, split, _COMPARED)
    return Labelled(images, splits.labels(packed, split)[places], split)  # type: ignore[arg-type]


def _spread(packed: PackedDataset, splits: Splits, split: str, count: int) -> tuple[UInt8Array, UInt8Array]:
    """Return up to `count` pictures uint8 (N, S, S, C), evenly over a split, and their positions in it."""
    import numpy as np

    from eyespot.training.prepare import read_positions

    total = splits.count(split)  # type: ignore[arg-type]
    places = np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))
    return read_positions(packed, splits, split, places), places  # type: ignore[arg-type, return-value]


def _rgb(image: UInt8Array) -> UInt8Array:
    return image if image.shape[2] == 3 else image.repeat(3, axis=2)

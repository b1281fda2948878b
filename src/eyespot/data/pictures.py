"""Pictures in whatever form somebody gives them become a model's pixels: paths, bytes, Pillow images, arrays, folders.

Before this: `decoding` and the bundle's `input_spec`. After this: `evaluation.predictor`, the command line, the server.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from eyespot.arrays import UInt8Array
from eyespot.data.decoding import decode_image
from eyespot.data.input_spec import InputSpec
from eyespot.data.walking import NO_PICTURES_REMEDY, walk_pictures
from eyespot.errors import DataError, UsageError

Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]"

_REMEDY_PICTURES = "give paths, bytes of a file, Pillow images or uint8 arrays (H, W), (H, W, 1), (H, W, 3), (H, W, 4)"


def find_pictures(path: str | os.PathLike[str]) -> list[Path]:
    """Return the pictures in a folder and below it, sorted by path; a path that is no folder comes back alone.

    What counts is what counts in training: hidden files, a system's litter and files with the extension of something
    else are left out. Links to folders are not followed. Nothing is opened: a missing file gets its error when it is
    predicted.

    Args:
        path: Folder or file.

    Raises:
        DataError: A folder cannot be listed, or there is no picture in it.
    """
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    found = []
    for name, error in walk_pictures(folder):
        if error is not None:
            raise DataError(error, where=name, remedy="check its permissions")
        found.append(Path(name))
    if not found:
        raise DataError("no pictures", where=folder, remedy=NO_PICTURES_REMEDY)
    return found


def named_pictures(pictures: Sequence[Picture]) -> list[tuple[str, Picture]]:
    """Return a name for each picture and the picture, or refuse what is no list of pictures, before any is decoded."""
    single = isinstance(pictures, (str, bytes, os.PathLike, Image.Image)) or not isinstance(pictures, Iterable)
    if single or (isinstance(pictures, np.ndarray) and pictures.dtype.kind not in "OU" and pictures.ndim < 4):
        raise UsageError(
            f"one {type(pictures).__name__} where a list of pictures is needed", remedy="put it in a list: [picture]"
        )
    named: list[tuple[str, Picture]] = []
    for number, picture in enumerate(pictures, start=1):
        if isinstance(picture, (str, os.PathLike)):
            named.append((os.fspath(picture), picture))
            continue
        if isinstance(picture, np.ndarray):
            _image_of_array(picture)
        elif not isinstance(picture, (bytes, Image.Image)):
            raise UsageError(f"picture {number} is a {type(picture).__name__}", remedy=_REMEDY_PICTURES)
        named.append((str(getattr(picture, "filename", "")) or f"picture {number}", picture))
    return named


def pixels_of(picture: Picture, spec: InputSpec) -> UInt8Array:
    """Return the pixels of one picture as the model wants them: the same for the same file as packing keeps.

    Args:
        picture: Path, bytes of a picture file, Pillow image, or uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
        spec: The model's input: size S, channels C, fit and interpolation.

    Returns:
        uint8 (S, S, C).

    Raises:
        BadImageError: It cannot be decoded.
        UsageError: It is no picture, such as a float array.
    """
    return spec.row_format.square(decode_any(picture, spec))


def decode_any(picture: Picture, spec: InputSpec) -> UInt8Array:
    """Return the pixels of one picture at its own size, uint8 (H, W, C) with the model's C.

    Raises:
        BadImageError: It cannot be decoded.
        UsageError: It is no picture, such as a float array.
    """
    source: Path | bytes | Image.Image
    if isinstance(picture, np.ndarray):
        source = _image_of_array(picture)
    elif isinstance(picture, (bytes, Image.Image)):
        source = picture
    elif isinstance(picture, (str, os.PathLike)):
        source = Path(picture)
    else:
        raise UsageError(f"a {type(picture).__name__} is not a picture", remedy=_REMEDY_PICTURES)
    return decode_image(source, channels=spec.row_format.channels)


def _image_of_array(pixels: np.ndarray[Any, Any]) -> Image.Image:
    """Return the Pillow image of an array, so that grey, RGB and RGBA have the conversion that files have."""
    if pixels.dtype != np.uint8:
        guess = ", which looks as if it were already normalised" if pixels.dtype.kind == "f" else ""
        raise UsageError(f"an array of type {pixels.dtype}{guess}", remedy="give uint8 pixels 0..255 (H, W, C)")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        hint = "; colours come last" if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) else ""
        raise UsageError(f"an array of shape {pixels.shape} is not a picture{hint}", remedy=_REMEDY_PICTURES)
    return Image.fromarray(np.ascontiguousarray(pixels))

"""The shippable form of a model: a folder with its weights, `model.json` and a card, and nothing that could run.

Before this: a trained network. After this: `predictor` loads the bundle and answers.

A bundle may come from a stranger. Its architecture is a name from the fixed registry, never code to import; nothing in
it is a path; nothing is unpickled. What it declares is checked before memory is spent on it: model.json against its own
digest and its limits, the size of the weights file against the declared architecture, the weights against their digest,
names, shapes, types and values against the architecture. So every flipped, missing or foreign byte ends in an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from eyespot.caches import user_path
from eyespot.data.transforms import EvalTransform
from eyespot.errors import CheckpointError, EyespotError, RunError, did_you_mean, first_line
from eyespot.evaluation.bundle_info import FORMAT_VERSION, REMEDY, BundleInfo, parse_info
from eyespot.evaluation.unknown import UnknownScore, parse_score
from eyespot.files import fsync_folder, remedy_for_unreadable
from eyespot.locks import temporary_folder
from eyespot.models.registry import build_model
from eyespot.runs import BUNDLE

WEIGHTS = "weights.safetensors"
INFO = "model.json"
UNKNOWN = "unknown.safetensors"
CARD = "README.md"

_BOX = Path(__file__).parents[1] / "boxed"  # bundles that are part of the package, a folder each

# Limits on what is read of a bundle, far over what a real one needs.
_MAX_INFO_BYTES = 32 * 1024**2
_HEADER_BYTES_PER_TENSOR = 1024  # safetensors spends about 100 on a tensor's name, type, shape and place


# ------------------------------------------------------------------------------------------------------------- saving


def save_bundle(
    folder: Path, model: nn.Module, info: BundleInfo, *, unknown: UnknownScore | None = None, card: str = ""
) -> BundleInfo:
    """Write a bundle so that a kill at any moment leaves the old one or the new one, never a part.

    The same weights and info give the same bytes. One process at a time may write a folder.

    Args:
        folder: Where to; a bundle that is there is replaced, a folder with anything else in it is refused.
        model: The network, on any device.
        info: Everything else, `weights_dtype` too; digests and `eval_transform` are filled in here.
        unknown: What the rule in `info.unknown` compares with; None where there is no rule.
        card: The text of README.md; left out where it is empty.

    Returns:
        The info as it was written, with its digests.

    Raises:
        CheckpointError: The weights do not belong to the architecture in `info`, or hold NaN or infinity.
        RunError: The disk is full, the folder cannot be written or holds other files; nothing half-written is left.
    """
    folder = folder.resolve()
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    declared = _declared_tensors(info, folder)
    _check_tensors(tensors, declared, folder)
    tensors = _as_stored(tensors, info)
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float16 and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{name!r} has values over 65,504, which float16 cannot hold", where=folder, remedy="store float32"
            )
    weights = save(tensors)
    filled: dict[str, Any] = {
        "eval_transform": EvalTransform(info.input).describe(),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "info_sha256": "",
        "format_version": FORMAT_VERSION,
    }
    info = info.model_copy(update=filled)
    info = info.model_copy(update={"info_sha256": info.digest()})
    document = (json.dumps(info.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    # What is written must be what will be read, whatever numbers the caller put in.
    info = parse_info(document, folder / INFO)
    files = {WEIGHTS: weights, INFO: document}
    if info.unknown is not None and info.unknown.sha256:
        content = unknown.content() if unknown is not None else b""
        parse_score(content, info.unknown, folder)
        files[UNKNOWN] = content
    if card:
        files[CARD] = card.encode("utf-8", "replace")
    try:
        _check_the_way(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder.parent, f".{folder.name}.bundle-", ".tmp") as temporary:
            for name, content in files.items():
                with open(temporary / name, "xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            fsync_folder(temporary)
            _replace_folder(temporary, folder)
    except OSError as error:
        raise RunError(
            f"cannot write the bundle ({error.strerror or type(error).__name__})",
            where=folder,
            remedy="free some space, or choose a folder that can be written",
        ) from error
    return info


def _check_the_way(folder: Path) -> None:
    """Refuse to replace anything but a bundle."""
    if folder.exists() and (not folder.is_dir() or not set(os.listdir(folder)) <= {WEIGHTS, INFO, UNKNOWN, CARD}):
        raise RunError("there are other files than a bundle's", where=folder, remedy="choose another or a new folder")


def _replace_folder(new: Path, folder: Path) -> None:
    """Put the folder `new` in the place of `folder`.

    No system but Linux swaps two folders in one step: for the moment between the two renames the old bundle has the
    name that `_whole_folder` falls back to.
    """
    old = _old_folder(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(new, folder)
    fsync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _old_folder(folder: Path) -> Path:
    whole = Path(os.path.abspath(folder))  # `.` and `/` have no name of their own
    return whole.parent / f".{whole.name}.old"


def _whole_folder(folder: Path) -> Path:
    """Return the folder, or the one it was renamed to when a replacement was killed half-way."""
    old = _old_folder(folder)
    return old if old.is_dir() and not folder.exists() else folder


# ------------------------------------------------------------------------------------------------------------ loading


def is_bundle(folder: Path) -> bool:
    """Return whether a folder has a bundle's files, or one of them. Nothing is read."""
    folder = _whole_folder(folder)
    return (folder / INFO).exists() or (folder / WEIGHTS).exists()


def boxed_names() -> list[str]:
    """Return the names of the models that come with eyespot."""
    return sorted(folder.name for folder in _BOX.iterdir() if is_bundle(folder)) if _BOX.is_dir() else []


def find_bundle(path: str | os.PathLike[str]) -> Path:
    """Return the folder of the bundle that a user names.

    Args:
        path: Run folder, bundle folder, or the name of a model that comes with eyespot; folders come first.

    Raises:
        RunError: There is nothing of that name, or a run that has no model yet.
    """
    folder = user_path(path)
    for candidate in (folder / BUNDLE, folder):
        if is_bundle(candidate):
            return candidate
    names = boxed_names()
    if os.fspath(path) in names and not folder.exists():
        return _BOX / os.fspath(path)
    if (folder / "config.toml").is_file():
        raise RunError(
            "the run has no model yet (no bundle/model.json)",
            where=folder,
            remedy=f"finish it: eyespot train --out {folder} --resume",
        )
    what = "not a folder" if folder.exists() else f"no such folder.{did_you_mean(folder.name, names)}"
    if folder.is_dir():
        what = "neither a run nor a bundle: no bundle/model.json and no model.json"
    known = f", or {' or '.join(names)}" if names else ""
    raise RunError(what, where=folder, remedy=f"give a folder that eyespot train wrote{known}")


def read_info(folder: Path) -> BundleInfo:
    """Return what a bundle says about itself, without reading its weights.

    Raises:
        CheckpointError: model.json is missing, damaged, foreign, or of a newer eyespot.
    """
    path = _whole_folder(folder) / INFO
    return parse_info(_read(path, _MAX_INFO_BYTES), path)


def load_bundle(folder: Path) -> tuple[nn.Module, BundleInfo]:
    """Return the network of a bundle, its weights in place, and what the bundle says about it.

    The random state of torch is left as it was.

    Args:
        folder: Folder with weights.safetensors and model.json.

    Returns:
        The network in eval mode on the CPU, and the content of model.json.

    Raises:
        CheckpointError: A file is missing, damaged, foreign, of a newer eyespot, or does not fit the other one.
    """
    info = read_info(folder)
    path = _whole_folder(folder) / WEIGHTS
    declared = _as_stored(_declared_tensors(info, path), info)
    payload = sum(tensor.nbytes for tensor in declared.values())
    limit = payload + _HEADER_BYTES_PER_TENSOR * (len(declared) + 1)
    content = _read(path, limit)
    if hashlib.sha256(content).hexdigest() != info.weights_sha256:
        raise CheckpointError("weights are damaged, or belong to another model.json", where=path, remedy=REMEDY)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"not a safetensors file ({first_line(error)})", where=path, remedy=REMEDY) from error
    _check_tensors(tensors, declared, path)
    with torch.random.fork_rng(devices=[]), _as_checkpoint_error(path):
        model = _build(info)
    model.load_state_dict(tensors)  # copies into the network's float32
    return model.eval(), info


def load_unknown(folder: Path, info: BundleInfo) -> UnknownScore | None:
    """Return the score that says how far a picture is from training; None where the bundle has no rule.

    Raises:
        CheckpointError: unknown.safetensors is missing, damaged or foreign.
    """
    if info.unknown is None:
        return None
    if not info.unknown.sha256:
        return UnknownScore({}, info.unknown.neighbours, info.unknown.parts)
    path = _whole_folder(folder) / UNKNOWN
    return parse_score(_read(path, info.unknown.max_bytes), info.unknown, path)


def read_card(folder: Path) -> str:
    """Return the text of README.md; empty where there is none.

    Raises:
        CheckpointError: It is no file, too long, or cannot be read.
    """
    path = _whole_folder(folder) / CARD
    return _read(path, _MAX_INFO_BYTES).decode("utf-8", "replace") if path.exists() else ""


def _as_stored(tensors: Mapping[str, Tensor], info: BundleInfo) -> dict[str, Tensor]:
    """Return tensors in the types that the file keeps them in.

    Only what is large is worth halving: biases and batch statistics, whose range is not bounded, stay float32.
    """
    if info.weights_dtype == "float32":
        return dict(tensors)
    return {
        name: tensor.half() if tensor.dtype == torch.float32 and tensor.ndim > 1 else tensor
        for name, tensor in tensors.items()
    }


def _build(info: BundleInfo) -> nn.Module:
    return build_model(
        info.architecture.name,
        num_classes=info.num_classes,
        in_channels=info.input.channels,
        size_px=info.input.input_px,
        args=info.architecture.args,
    )


def _declared_tensors(info: BundleInfo, where: Path) -> dict[str, Tensor]:
    """Return the tensors that the architecture needs, without memory: the meta device knows shapes only.

    Raises:
        CheckpointError: The registry has no such architecture, or it cannot be built like this.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _as_checkpoint_error(where):
        return dict(_build(info).state_dict())


@contextlib.contextmanager
def _as_checkpoint_error(where: Path) -> Iterator[None]:
    """Say of an architecture that cannot be built that it is the bundle that is wrong, not the user's command."""
    try:
        yield
    except (EyespotError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:
        reason = error.what if isinstance(error, EyespotError) else first_line(error)
        raise CheckpointError(
            f"the declared architecture cannot be built ({reason})",
            where=where,
            remedy="update eyespot if the bundle is newer, else take it again from where it was trained",
        ) from error


def _check_tensors(found: Mapping[str, Tensor], declared: Mapping[str, Tensor], where: Path) -> None:
    """Refuse weights whose names, shapes, types or values are not those of the architecture."""
    missing, extra = sorted(declared.keys() - found.keys()), sorted(found.keys() - declared.keys())
    problem = ""
    if missing:
        problem = f"{len(missing)} tensors are missing, the first is {missing[0]!r}"
    elif extra:
        problem = f"{len(extra)} tensors are of another architecture, the first is {extra[0][:80]!r}"
    else:
        for name, tensor in found.items():
            wanted = declared[name]
            if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
                problem = f"{name!r} is {_kind(tensor)} where the architecture has {_kind(wanted)}"
            elif tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                problem = f"{name!r} holds NaN or infinity"
            if problem:
                break
    if problem:
        raise CheckpointError(f"the weights do not fit: {problem}", where=where, remedy=REMEDY)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _read(path: Path, limit: int) -> bytes:
    """Return a file's content; what is not a regular file, or is larger than expected, is refused unread."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise CheckpointError("not a file", where=path, remedy=REMEDY)
        if status.st_size > limit:
            raise CheckpointError(
                f"{status.st_size:,} bytes where at most {limit:,} are expected", where=path, remedy=REMEDY
            )
        with open(path, "rb") as file:
            return file.read(status.st_size)  # a buffer of `limit` bytes might not fit
    except OSError as error:
        raise CheckpointError(
            f"cannot read ({error.strerror or type(error).__name__})",
            where=path,
            remedy=remedy_for_unreadable(error, "a bundle is a folder with weights.safetensors and model.json"),
        ) from error

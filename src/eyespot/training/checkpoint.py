"""Resumable state on disk: written in one step, checked whole before a byte of it is used, never a pickle.

A checkpoint is a safetensors file followed by the SHA-256 of all that stands before it. The digest finds every flipped,
missing or foreign byte; safetensors holds tensors and a JSON text and cannot run code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from eyespot.errors import CheckpointError, RunError
from eyespot.files import write_atomic

_MAGIC = b"EYESPOT1"
_KEEP = 2  # a damaged newest checkpoint leaves one to fall back to


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on.

    Attributes:
        tensors: Named tensors: `model/...`, `ema/...`, `optimizer/...`, `hardest/...`.
        state: JSON values: counters, running sums, history, schedule.
    """

    tensors: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in one step; `prune` removes old ones.

    Raises:
        RunError: The disk is full or the folder cannot be written; earlier checkpoints are whole.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    body = save(tensors, metadata={"state": json.dumps(checkpoint.state, allow_nan=False)})
    write_atomic(path, body + hashlib.sha256(body).digest() + _MAGIC)


def read_checkpoint(path: Path) -> Checkpoint:
    """Return a checkpoint, after its digest was found right.

    Raises:
        CheckpointError: The file is gone, damaged, or something else.
        RunError: It is there and cannot be read now: that is no damage, for which an earlier one would be taken.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"cannot read ({error.strerror})", where=path, remedy="restore the file") from error
    except OSError as error:
        remedy = "check its permissions and the disk, then --resume; an earlier one is taken where you delete it"
        raise RunError(f"cannot read ({error.strerror})", where=path, remedy=remedy) from error
    body, digest, magic = content[:-40], content[-40:-8], content[-8:]
    if len(content) < 48 or magic != _MAGIC or hashlib.sha256(body).digest() != digest:
        raise CheckpointError(
            "damaged, or not a checkpoint of eyespot", where=path, remedy="delete it and resume from an earlier one"
        )
    try:
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        return Checkpoint(load(body), json.loads(header["__metadata__"]["state"]))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"not readable ({error})", where=path, remedy="it was written by another version: train again"
        ) from error


def step_path(folder: Path, step: int) -> Path:
    """Return the file name of the checkpoint after a number of steps."""
    return folder / f"step-{step:09d}.ckpt"


def best_path(folder: Path, epoch: int) -> Path:
    """Return the file name of the weights of the best epoch so far, counted from 1."""
    return folder / f"best-{epoch:06d}.ckpt"


def prune(folder: Path) -> None:
    """Delete all but the newest two step checkpoints and the newest two best weights, which are those they name."""
    for pattern in ("step-*.ckpt", "best-*.ckpt"):
        for old in sorted(folder.glob(pattern))[:-_KEEP]:
            with contextlib.suppress(OSError):
                old.unlink()


def drop_after(folder: Path, *, step: int, epoch: int) -> None:
    """Delete what is newer than the checkpoint that a run goes on from: damaged ones, and best weights to come again.

    A damaged one that stayed would be counted among the newest, in place of one to fall back to.
    """
    for pattern, newest in (("step-*.ckpt", step_path(folder, step)), ("best-*.ckpt", best_path(folder, epoch))):
        for path in folder.glob(pattern):
            if path.name > newest.name:
                with contextlib.suppress(OSError):
                    path.unlink()


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest whole step checkpoint and a sentence for each damaged one that was passed over.

    Raises:
        CheckpointError: There are checkpoints, and all are damaged.
        RunError: The newest whole one cannot be read now.
    """
    complaints: list[str] = []
    paths = sorted(folder.glob("step-*.ckpt"), reverse=True)
    for path in paths:
        try:
            return read_checkpoint(path), complaints
        except CheckpointError as error:
            complaints.append(str(error))
    if paths:
        raise CheckpointError(
            "all checkpoints are damaged", where=folder, remedy="delete the run folder and train again"
        )
    return None, complaints


def module_tensors(prefix: str, module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a module's parameters and buffers under `prefix/name`."""
    return {f"{prefix}/{name}": tensor for name, tensor in module.state_dict().items()}


def load_module(prefix: str, module: nn.Module, checkpoint: Checkpoint, where: Path) -> None:
    """Put a checkpoint's tensors into a module; `where` is named in errors.

    Raises:
        CheckpointError: Names or shapes differ: the checkpoint is of another architecture or class list.
    """
    start = f"{prefix}/"
    found = {name[len(start) :]: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(start)}
    expected = module.state_dict()
    wrong = set(found) ^ set(expected) or {name for name in found if found[name].shape != expected[name].shape}
    if wrong:
        raise CheckpointError(
            f"the checkpoint is of another model ({sorted(wrong)[0]!r} does not fit)",
            where=where,
            remedy="resume with the recipe it was started with",
        )
    module.load_state_dict(found)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return an optimizer's state as named tensors and JSON values.

    Returns:
        `optimizer/INDEX/KEY` -> tensor, and `{"INDEX/KEY": number}` for what is not a tensor.
    """
    tensors, numbers = {}, {}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            elif value is not None:  # SGD without momentum keeps None
                numbers[f"{index}/{key}"] = value
    return tensors, numbers


def load_optimizer(optimizer: torch.optim.Optimizer, checkpoint: Checkpoint, numbers: Mapping[str, Any]) -> None:
    """Put a checkpoint's tensors and numbers into an optimizer with the same groups."""
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in checkpoint.tensors.items():
        if name.startswith("optimizer/"):
            _, place, key = name.split("/", 2)
            state.setdefault(int(place), {})[key] = tensor
    for name, number in numbers.items():
        place, key = name.split("/", 1)
        state.setdefault(int(place), {})[key] = number
    # Fused optimizers walk through memory: their buffers must have the strides of their parameters (channels_last),
    # which a file does not keep.
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entries in state.items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor) and value.shape == parameters[index].shape:
                entries[key] = torch.empty_like(parameters[index].detach(), dtype=value.dtype).copy_(value)
    # The groups' settings come from the recipe; only the learning rate moves, and the loop sets it at every step.
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

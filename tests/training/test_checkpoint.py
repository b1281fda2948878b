from __future__ import annotations

import errno
import itertools
import os
import pickle
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eyespot.errors import CheckpointError, RunError
from eyespot.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_module,
    module_tensors,
    prune,
    read_checkpoint,
    step_path,
    write_checkpoint,
)


def checkpoint(step: int = 1) -> Checkpoint:
    tensors = {"model/a": torch.arange(100.0), "model/b": torch.tensor(3), "optimizer/0/step": torch.tensor(1.5)}
    return Checkpoint(tensors, {"step": step, "sum": 0.1 + 0.2, "name": "ä", "none": None})


def test_round_trip_to_the_bit(tmp_path: Path) -> None:
    path = step_path(tmp_path, 7)
    write_checkpoint(path, checkpoint())
    found = read_checkpoint(path)
    assert found.state == checkpoint().state
    assert set(found.tensors) == set(checkpoint().tensors)
    for name, tensor in checkpoint().tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_every_kind_of_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.ckpt"
    write_checkpoint(path, checkpoint())
    whole = path.read_bytes()
    dice = random.Random(0)
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [whole + b"x", b"\0" * len(whole), pickle.dumps({"a": 1}), whole[::-1]]
    for _ in range(1200):
        place = dice.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << dice.randrange(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
    with pytest.raises(CheckpointError, match="cannot read"):
        read_checkpoint(tmp_path / "none.ckpt")


def test_a_damaged_newest_checkpoint_falls_back_and_says_so(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_checkpoint(step_path(tmp_path, step), checkpoint(step))
    prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002.ckpt", "step-000000003.ckpt"]
    step_path(tmp_path, 3).write_bytes(b"half")
    found, complaints = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.state["step"] == 2
    assert "step-000000003.ckpt" in complaints[0]
    step_path(tmp_path, 2).write_bytes(b"")
    with pytest.raises(CheckpointError, match="all checkpoints are damaged"):
        latest_checkpoint(tmp_path)
    assert latest_checkpoint(tmp_path / "none") == (None, [])


@pytest.mark.parametrize("call", range(1, 6))
def test_killed_at_any_call_there_is_a_whole_checkpoint(
    tmp_path: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    calls = itertools.count(1)

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if next(calls) >= call:  # what is dead cleans nothing up
                raise Killed
            return real(*args, **kwargs)

        return wrapper

    write_checkpoint(step_path(tmp_path, 1), checkpoint(1))
    with monkeypatch.context() as patch:
        for name in ("fsync", "replace", "unlink", "open"):
            patch.setattr(os, name, dying(getattr(os, name)))
        with suppress(Killed):
            write_checkpoint(step_path(tmp_path, 2), checkpoint(2))
    found, complaints = latest_checkpoint(tmp_path)
    assert found is not None
    assert (found.state["step"] in (1, 2), complaints) == (True, [])
    write_checkpoint(step_path(tmp_path, 3), checkpoint(3))
    found, complaints = latest_checkpoint(tmp_path)
    assert found is not None
    assert (found.state["step"], complaints) == (3, [])


def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        write_checkpoint(step_path(tmp_path, step), checkpoint(step))

    def refuse(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(RunError, match=r"cannot read \(.+\) in .*step-000000002.ckpt: check .* --resume") as found:
            latest_checkpoint(tmp_path)
    assert not isinstance(found.value, CheckpointError)  # for which earlier ones, or the last weights, would be taken
    newest, complaints = latest_checkpoint(tmp_path)
    assert newest is not None
    assert (newest.state["step"], complaints) == (2, [])


def test_modules_take_only_their_own_tensors(tmp_path: Path) -> None:
    one, two, other = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(4, 2)
    saved = Checkpoint(module_tensors("model", one), {})
    load_module("model", two, saved, tmp_path)
    assert torch.equal(one.weight, two.weight)
    with pytest.raises(CheckpointError, match="another model"):
        load_module("model", other, saved, tmp_path)
    with pytest.raises(CheckpointError, match="another model"):
        load_module("ema", two, saved, tmp_path)

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eyespot
from eyespot.config import load_config, recipe_names
from eyespot.data import packing
from eyespot.data.dataset import PackedDataset
from eyespot.data.dividing import make_splits
from eyespot.data.transforms import EvalTransform
from eyespot.device import ComputePlan
from eyespot.errors import ConfigError, Interrupted, RunError
from eyespot.files import write_json
from eyespot.runs import Run, RunWriter
from eyespot.training import prepare as module
from eyespot.training.prepare import Prepared, prepare_training, read_positions

from .conftest import Watcher, prepare, tiny_config, tiny_packed, without_times


def with_pixels(packed: PackedDataset, change: Any) -> PackedDataset:
    split = packed.splits["train"]
    assert split.pixels is not None
    return replace(packed, splits={"train": replace(split, pixels=change(split.pixels.copy()))})


@pytest.mark.parametrize("normalize", ["channel", "scalar", "minmax", "half"])
@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation_statistics_by_hand(normalize: str, channels: int) -> None:
    packed = tiny_packed(channels=channels)
    splits = make_splits(packed, val_fraction=0.2, test_fraction=0.0, stratify=True, seed=0, final=False)
    rows = splits.indices["train"]["train"]
    pixels = packed.splits["train"].pixels[rows] / 255  # type: ignore[index]
    axes = (0, 1, 2) if normalize == "channel" else None
    expected = {
        "minmax": (np.zeros(channels), np.ones(channels)),
        "half": (np.full(channels, 0.5), np.full(channels, 0.5)),
    }.get(normalize, (pixels.mean(axes) * np.ones(channels), pixels.std(axes) * np.ones(channels)))
    spec = prepare(tiny_config(input__normalize=normalize), packed).spec
    assert spec.mean == pytest.approx(expected[0])
    assert spec.std == pytest.approx(expected[1])


def test_val_and_test_pictures_do_not_move_the_statistics_or_the_whitening() -> None:
    packed = tiny_packed()
    splits = make_splits(packed, val_fraction=0.2, test_fraction=0.2, stratify=True, seed=0, final=False)
    others = np.concatenate([splits.indices["val"]["train"], splits.indices["test"]["train"]])

    def spoil(pixels: np.ndarray) -> np.ndarray:
        pixels[others] = 255
        return pixels

    config = tiny_config(model__name="spot", model__args={"widths": [4, 4, 4]})
    plan = ComputePlan("cpu", "float32", "test")
    clean = prepare_training(packed, splits, config, plan)
    spoiled = prepare_training(with_pixels(packed, spoil), splits, config, plan)
    assert clean.spec == spoiled.spec
    for one, two in zip(clean.model.state_dict().values(), spoiled.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_val_pictures_are_never_augmented_and_train_pictures_are() -> None:
    config = tiny_config(augment__flip="random", augment__translate_px=2, augment__rotate_degrees=20.0)
    prepared = prepare(config)
    assert type(prepared.data.eval_transform) is EvalTransform
    assert prepared.data.val is not None
    batch = next(iter(prepared.data.val.batches(0)))
    first, again = prepared.data.eval_transform(batch.images), prepared.data.eval_transform(batch.images)
    plain = (batch.images.float() / 255 - prepared.spec.mean[0]) / prepared.spec.std[0]
    torch.testing.assert_close(first, plain)
    assert torch.equal(first, again)
    train = next(iter(prepared.data.train.batches(0)))
    augmented = prepared.data.train_transform(
        train.images, train.labels, generator=torch.Generator().manual_seed(0), epoch=0, indices=train.indices
    )
    assert not torch.allclose(augmented, prepared.data.eval_transform(train.images))


def test_pictures_of_one_colour_can_be_normalised() -> None:
    packed = with_pixels(tiny_packed(), lambda pixels: np.full_like(pixels, 7))
    spec = prepare(tiny_config(), packed).spec
    assert spec.std == pytest.approx((1 / 255,))


def test_whitened_outputs_are_uncorrelated() -> None:
    prepared = prepare(tiny_config(model__name="spot"), tiny_packed(300, size=12, channels=3))
    batch = next(iter(prepared.data.train.batches(0)))
    with torch.no_grad():
        model: Any = prepared.model
        out = torch.nn.functional.conv2d(prepared.data.eval_transform(batch.images), model.whiten.weight)
    half = out.shape[1] // 2
    flat = out[:, :half].permute(1, 0, 2, 3).reshape(half, -1)
    covariance = flat @ flat.T / flat.shape[1]
    # The regularisation leaves variances at or below 1; off the diagonal there is next to nothing.
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    assert covariance.diagonal().max() < 1.3
    assert off_diagonal.abs().max() < 0.25
    assert torch.equal(out[:, :half], -out[:, half:])


def test_pictures_are_read_by_their_position_in_a_split() -> None:
    packed = tiny_packed()
    splits = make_splits(packed, val_fraction=0.2, test_fraction=0.0, stratify=True, seed=0, final=False)
    rows = splits.indices["val"]["train"]
    found = read_positions(packed, splits, "val", np.array([3, 0]))
    assert np.array_equal(found, packed.splits["train"].pixels[rows[[3, 0]]])  # type: ignore[index]
    assert read_positions(packed, splits, "val", np.array([], dtype=np.int64)).shape == (0, 8, 8, 1)


# ------------------------------------------------------------------------------------------------ measured once a run


SPOT = {"model__name": "spot", "model__args": {"widths": [4, 4, 4]}}


class Counts(Watcher):
    """Remembers what was counted."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, list[tuple[int, int | None]]] = {}

    def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
        self.counts.setdefault(label, []).append((done, total))


def streamed(packed: PackedDataset, folder: Path) -> PackedDataset:
    """Return the same pictures as files that are decoded when they are needed."""
    split = packed.splits["train"]
    assert split.pixels is not None
    folder.mkdir()
    paths = [folder / f"{row:05}.png" for row in range(len(split))]
    for path, pixels in zip(paths, split.pixels, strict=True):
        Image.fromarray(pixels).save(path)
    return replace(packed, splits={"train": replace(split, pixels=None, paths=paths)})


def prepare_in(folder: Path, packed: PackedDataset, watcher: Watcher | None = None, **changes: Any) -> Prepared:
    """Prepare in a run folder, which may hold a run already."""
    config = tiny_config(**SPOT, **changes)
    splits = make_splits(packed, val_fraction=0.2, test_fraction=0.0, stratify=True, seed=0, final=False)
    with RunWriter(folder, config, resume=True) as writer:
        plan = ComputePlan("cpu", "float32", "test")
        return prepare_training(packed, splits, config, plan, writer=writer, observer=watcher)


def test_a_run_that_streamed_keeps_its_statistics_when_it_goes_on_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STREAM_SAMPLE", 10)
    packed = tiny_packed(channels=3)
    watcher = Counts()
    first = prepare_in(tmp_path / "run", streamed(packed, tmp_path / "files"), watcher)
    assert watcher.counts["measuring colours"] == [(10, 10)]
    assert watcher.counts["whitening"][0] == (16, 96)
    assert watcher.counts["whitening"][-1] == (96, 96)
    assert first.spec.mean != prepare(tiny_config(**SPOT), packed).spec.mean, "the sample says something else"
    again = prepare_in(tmp_path / "run", packed)
    assert again.spec == first.spec
    for one, two in zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_nothing_is_measured_on_pictures_where_a_checkpoint_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, folder = tiny_packed(channels=3), tmp_path / "run"
    first = prepare_in(folder, packed)
    (folder / "checkpoints" / "step-000000001.ckpt").write_bytes(b"whatever")
    monkeypatch.setattr(module, "latest_checkpoint", lambda folder: (object(), []))
    monkeypatch.setattr(module, "read_pixels", lambda *arguments: pytest.fail("a picture is read"))
    assert prepare_in(folder, packed).spec == first.spec
    monkeypatch.undo()
    # A range test that is repeated comes before the checkpoint: it needs the weights as they were.
    monkeypatch.setattr(module, "latest_checkpoint", lambda folder: (object(), []))
    again = prepare_in(folder, packed, optimizer__lr="auto")
    assert torch.equal(again.model.state_dict()["whiten.weight"], first.model.state_dict()["whiten.weight"])


@pytest.mark.parametrize("damage", [3, {"size_px": 8}, {"colour": "red"}])
def test_a_damaged_input_spec_is_named(tmp_path: Path, damage: object) -> None:
    packed, folder = tiny_packed(channels=3), tmp_path / "run"
    prepare_in(folder, packed)
    known = Run(folder).provenance
    write_json(folder / "provenance.json", {**known, "input": damage})
    with pytest.raises(RunError, match=r"no input spec under 'input' .*provenance\.json: restore the file"):
        prepare_in(folder, packed)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_run_ends_the_same_whether_its_lives_stream_or_not(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: bool
) -> None:
    monkeypatch.setattr(module, "_STREAM_SAMPLE", 10)
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
    known = packing.estimate_pack

    def train(name: str, *, fits: bool, **arguments: Any) -> Run:
        with monkeypatch.context() as patched:
            patched.setattr(packing, "estimate_pack", lambda *a, **k: replace(known(*a, **k), fits=fits))
            return eyespot.train(out=tmp_path / name, device="cpu", **arguments)

    def stop(number: int) -> None:
        if number == 3 and checkpoint:
            signal.raise_signal(signal.SIGINT)
        elif number == 3:
            raise OSError("the power is gone")

    settings = {
        "model.args": {"widths": [4, 4, 4]},
        "training.epochs": 2,
        "training.batch_size": 16,
        "training.precision": "float32",
        "data.workers": 1,
    }
    asked = {"data": pictures, "recipe": "small", "settings": {"model.name": "spot", **settings}}
    whole = train("whole", fits=False, **asked)
    with pytest.raises(Interrupted if checkpoint else OSError):
        train("run", fits=False, **asked, observer=Watcher(stop))
    resumed = train("run", fits=True, resume=True)
    assert without_times(resumed.history) == without_times(whole.history)
    assert (resumed.path / "bundle" / "weights.safetensors").read_bytes() == (
        whole.path / "bundle" / "weights.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(("model", "size"), [("spot", 8), ("resnet18-small", 8)])
def test_a_batch_of_one_picture_where_batch_norm_sees_one_value(model: str, size: int) -> None:
    args = {"widths": [4, 6, 8]} if model == "spot" else {"width": 4}
    config = tiny_config(model__name=model, model__args=args, training__batch_size=1)
    with pytest.raises(
        ConfigError, match=r"no statistics of a batch of one picture .*batch_size 1: --set training.batch"
    ):
        prepare(config, tiny_packed(size=size))


def test_settings_without_effect_are_said() -> None:
    config = tiny_config(
        optimizer__name="muon", optimizer__lr=0.1, optimizer__weight_decay=0.1, optimizer__nesterov=True,
        schedule__name="cosine", schedule__step_epochs=[2], model__name="spot", model__args={"widths": [4, 6, 8]},
    )  # fmt: skip
    assert prepare(config).notes == (
        "note: muon does not use optimizer.nesterov, optimizer.weight_decay: they have no effect",
        "note: cosine does not use schedule.step_epochs: it has no effect",
    )


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_that_come_along_have_no_such_settings(name: str) -> None:
    assert not module.unused_settings(load_config(name))


def test_the_network_lies_in_the_order_that_convolutions_are_fast_in() -> None:
    weights = [one for one in prepare(tiny_config()).model.parameters() if one.ndim == 4 and min(one.shape[1:]) > 1]
    assert weights
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in weights)

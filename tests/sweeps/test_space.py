from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyespot.analysis.words import spell
from eyespot.config import parse_config, recipe_text
from eyespot.errors import ConfigError
from eyespot.sweeps.space import Factor, Space, load_space, setting_of

SPACE = """
[optimizer]
lr = { low = 0.01, high = 0.5, log = true }
name = { choice = ["sgd", "muon"] }
[augment]
translate_px = { low = 0, high = 3 }
[training]
label_smoothing = { low = 0.0, high = 0.25, step = 0.1 }
[model.args]
widths = { choice = [[4, 6, 8], [8, 12, 16]] }
"""


def load(tmp_path: Path, text: str, recipe: str = "small") -> Space:
    path = tmp_path / "space.toml"
    path.write_text(text)
    return load_space(path, recipe_text(recipe), recipe)


def test_a_space_is_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    space = load(tmp_path, SPACE)
    assert space.keys == (
        "optimizer.lr",
        "optimizer.name",
        "augment.translate_px",
        "training.label_smoothing",
        "model.args.widths",
    )
    lr, name, shift, smoothing, widths = space.factors
    assert lr.log
    assert not lr.int
    assert shift.int  # whole bounds
    assert shift.values() == (0, 1, 2, 3)
    assert smoothing.high == pytest.approx(0.2)  # the last value that the steps reach
    assert widths.value(1) == [8, 12, 16]
    assert name.describe() == "sgd, muon"
    assert lr.describe() == "0.01 to 0.5, on a logarithmic scale"
    assert shift.describe() == "whole numbers 0 to 3"
    assert space.size is None
    assert Space.from_json(space.as_json()) == space


def test_dotted_keys_are_the_same_as_sections(tmp_path: Path) -> None:
    assert load(tmp_path, "optimizer.lr = { low = 0.1, high = 0.2 }").keys == ("optimizer.lr",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the search space is empty"),
        ("[optimizer]", "optimizer"),
        ("optimizer.lr = 0.1", r"optimizer\.lr is 0\.1: write \{ choice"),
        ("optimizer.lr = { hi = 3, low = 1 }", r"unknown word 'hi' in optimizer\.lr\. Did you mean 'high'\?"),
        ("optimizer.lrr = { low = 1, high = 2 }", r"unknown setting optimizer\.lrr\. Did you mean 'optimizer\.lr'\?"),
        ("optimiser.lr = { low = 1, high = 2 }", r"unknown setting optimiser\.lr\. Did you mean 'optimizer\.lr'\?"),
        ("lr = { low = 1, high = 2 }", r"unknown setting lr\. Did you mean"),
        ("optimizer.lr = { low = 1 }", r"optimizer\.lr has no high"),
        ("optimizer.lr = { low = 2.0, high = 1.0 }", "low 2 is not below high 1"),
        ("optimizer.lr = { low = 0.0, high = 1.0, log = true }", "starts above 0"),
        ("optimizer.lr = { low = 'a', high = 1.0 }", "low is 'a', not a number"),
        ("optimizer.lr = { low = 0.1, high = inf }", "high is inf, not a number"),
        (f"optimizer.lr = {{ low = 1, high = 1{'0' * 400} }}", "high is beyond 1e\\+15"),
        (f"optimizer.lr = {{ low = 1, high = 1{'0' * 5000} }}", "not valid TOML"),
        ("optimizer.lr = { low = 0.1, high = 1.0, step = 1e-320 }", "does not fit between 0.1 and 1"),
        ("mistakes = { choice = [[], ['select-on-test']] }", "mistakes cannot be searched"),
        ("optimizer.lr = { low = 0.1, high = 1.0, log = 1 }", "log is 1, not true or false"),
        ("optimizer.lr = { low = 0.1, high = 1.0, log = true, step = 0.1 }", "log and step exclude each other"),
        ("optimizer.lr = { low = 0.1, high = 1.0, step = 3 }", "step 3 does not fit"),
        ("training.batch_size = { low = 1.5, high = 9, int = true }", "not whole"),
        ("optimizer.lr = { choice = [0.1], low = 2 }", "a choice and a range"),
        ("optimizer.lr = { choice = [0.1] }", "a list of two values or more"),
        ("optimizer.lr = { choice = [0.1, 0.1] }", "names a value twice"),
        ("optimizer.lr = { low = -1.0, high = 0.1 }", "greater than 0"),
        ("optimizer.name = { choice = ['sgd', 'sdg'] }", r"optimizer\.name is 'sdg'"),
        ("model.name = { choice = ['spot', 'resnt'] }", "resnt"),
        ("model.args.widthz = { choice = [1, 2] }", "widthz"),
        ("training.seed = { low = 0, high = 9 }", "the luckiest seed is no better recipe"),
        ("data.val_fraction = { low = 0.1, high = 0.5 }", "compared on the same pictures"),
        ("evaluation.test = { choice = [true, false] }", "no trial of a sweep reads test"),
        ("evaluation.target_top1 = { low = 0.5, high = 0.9 }", "it changes no figure"),
        ("name = { choice = ['a', 'b'] }", "no setting of the training"),
        ("[optimizer\nlr", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_space_is_said_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "space.toml" in str(caught.value)
    assert caught.value.remedy


def test_all_errors_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.lrr.*training\.seed"):
        load(tmp_path, "optimizer.lrr = { low = 1, high = 2 }\ntraining.seed = { low = 0, high = 9 }")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"cannot read the search space \(No such file or directory\) in .*nowhere\.toml"
    ):
        load_space(tmp_path / "nowhere.toml", recipe_text("small"), "small")


@settings(max_examples=200)
@given(
    st.recursive(
        st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
        lambda inner: st.lists(inner, max_size=3),
    )
)
def test_any_value_is_taken_or_refused(value: Any) -> None:
    from eyespot.errors import UsageError
    from eyespot.sweeps.space import _factor

    for spec in ({"choice": value}, {"low": value, "high": 2}, {"low": 0.1, "high": value, "log": True}, value):
        try:
            factor = _factor("optimizer.lr", spec)
        except UsageError:
            continue
        assert factor.describe()


@given(low=st.integers(-50, 50), span=st.integers(1, 40), step=st.integers(1, 9))
def test_every_value_of_a_range_is_drawn_and_found_again(low: int, span: int, step: int) -> None:
    step = min(step, span)
    factor = Factor("training.epochs", low=low, high=low + span // step * step, step=step, int=True)
    values = factor.values()
    assert values is not None
    assert values[0] == low
    assert values[-1] == factor.high
    for value in values:
        assert factor.value(factor.drawn(value)) == value
        assert factor.distribution()._contains(factor.drawn(value))
    assert factor.drawn(low - 1) is None


def test_what_is_not_in_the_space_cannot_be_drawn(tmp_path: Path) -> None:
    space = load(tmp_path, SPACE)
    config = parse_config(recipe_text("small"), where="small")
    own = {key: setting_of(config, key) for key in space.keys}
    assert own["model.args.widths"] is None
    assert space.drawn(own) is None
    assert space.drawn({"optimizer.lr": 0.1}) is None
    fitting = {**own, "model.args.widths": [4, 6, 8], "training.label_smoothing": 0.1}
    drawn = space.drawn(fitting)
    assert drawn is not None
    assert space.settings(drawn) == fitting
    assert Factor("x.y", choice=(1, 2)).drawn(True) is None
    assert spell([0.1234567, True, "a"]) == "[0.123, true, a]"


@pytest.mark.parametrize(
    ("low", "high", "step", "last"),
    [(0.0, 0.9, 0.3, 0.9), (0.0, 0.45, 0.15, 0.45), (0.0, 0.3, 0.1, 0.3), (0.1, 0.7, 0.1, 0.7)],
)
def test_a_stepped_range_has_the_values_that_were_written(
    tmp_path: Path, low: float, high: float, step: float, last: float
) -> None:
    space = load(tmp_path, f"[training]\nlabel_smoothing = {{ low = {low}, high = {high}, step = {step} }}\n")
    (factor,) = space.factors
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distribution = factor.distribution()
    assert distribution.high == factor.high == last
    values = factor.values()
    assert values is not None
    assert values[-1] == last
    assert all(distribution._contains(value) for value in values)
    assert [factor.value(factor.drawn(value)) for value in values] == list(values)
    assert factor.value(low + step * (len(values) - 1)) == last, "as Optuna computes it"

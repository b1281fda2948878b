"""The registry: names, arguments, and that nothing is imported by name."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import subprocess
import sys

import pytest

from eyespot.errors import UsageError
from eyespot.models.dropout import Dropout
from eyespot.models.registry import build_model, check_args, model_entry, model_names


def test_names():
    assert model_names() == ("spot", "convnet3", "vgg16-mini", "alexnet-mini", "resnet18-small")


@pytest.mark.parametrize("name", model_names())
def test_entries_are_complete_and_frozen(name):
    entry = model_entry(name)
    assert entry.name == name
    assert entry.title
    assert "\n" not in entry.title
    assert entry.source
    assert 1 <= entry.min_size_px <= entry.default_size_px
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.min_size_px = 1
    with pytest.raises(TypeError):
        entry.args["x"] = 1


@pytest.mark.parametrize("name", model_names())
def test_entry_lists_exactly_the_arguments_of_its_builder(name):
    entry = model_entry(name)
    module, _, attribute = entry.build.partition(":")
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not there yet")
    parameters = inspect.signature(getattr(importlib.import_module(module), attribute)).parameters
    common = {"num_classes", "in_channels", "size_px"}
    assert common <= set(parameters)
    assert {key: value.default for key, value in parameters.items() if key not in common} == dict(entry.args)


def test_unknown_model_offers_the_nearest():
    with pytest.raises(UsageError) as caught:
        model_entry("resnt18-small")
    text = f"Unknown model 'resnt18-small'. Did you mean 'resnet18-small'? {len(model_names())} models of eyespot, "
    text += "and every model of timm: eyespot models"
    assert str(caught.value) == text
    assert caught.value.exit_code == 2
    for misspelt, meant in (("resnt18", "resnet18"), ("convnet", "convnet3"), ("resnet_50", "resnet50")):
        with pytest.raises(UsageError, match=f"Did you mean '{meant}'"):
            model_entry(misspelt)


@pytest.mark.parametrize("name", ["", "os:system", "eyespot.models.convnet3:ConvNet3", "../convnet3", "CONVNET3"])
def test_only_names_of_the_table_build(name):
    with pytest.raises(UsageError, match="Unknown model"):
        build_model(name, num_classes=10, size_px=32)


def test_unknown_argument_lists_the_allowed():
    with pytest.raises(UsageError) as caught:
        build_model("resnet18-small", num_classes=10, size_px=32, args={"widht": 32})
    assert str(caught.value) == (
        "Unknown argument 'widht' of model 'resnet18-small'. Did you mean 'width'? Allowed: width, zero_init:"
        " eyespot models resnet18-small"
    )


@pytest.mark.parametrize("key", ["num_classes", "in_channels", "size_px"])
def test_what_follows_from_the_data_is_no_argument(key):
    with pytest.raises(UsageError, match="Unknown argument"):
        build_model("convnet3", num_classes=10, size_px=32, args={key: 3})


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("resnet18-small", {"width": 64.0}, "width is 64.0 and must be a whole number in the arguments of model"),
        ("resnet18-small", {"width": True}, "width is True and must be a whole number"),
        ("resnet18-small", {"zero_init": 1}, "zero_init is 1 and must be true or false"),
        ("alexnet-mini", {"dropout": "0.5"}, "dropout is '0.5' and must be a number"),
        ("alexnet-mini", {"dropout": True}, "dropout is True and must be a number"),
        ("convnet3", {"dropout": 0.3}, "must be a list of 4 numbers"),
        ("convnet3", {"dropout": [0.3, 0.3, 0.4]}, "must be a list of 4 numbers"),
        ("convnet3", {"dropout": [0.3, 0.3, 0.4, None]}, "use for example dropout = [0.3, 0.3, 0.4, 0.3]"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused(name, args, words):
    with pytest.raises(UsageError) as caught:
        build_model(name, num_classes=10, size_px=32, args=args)
    assert words in str(caught.value)
    assert name in str(caught.value)


def test_arguments_come_from_toml_and_json():
    model = build_model("vgg16-mini", num_classes=3, size_px=16, args={"dropout": [0, 0.1, 0, 0.5]})
    assert [layer.p for layer in model.modules() if isinstance(layer, Dropout)] == [0.0, 0.1, 0.0, 0.5]
    assert build_model("alexnet-mini", num_classes=3, size_px=32, args={"dropout": 0}).num_classes == 3
    assert build_model("resnet18-small", num_classes=3, size_px=32, args={"width": 8}).num_features == 64


def test_listing_the_models_does_not_import_torch():
    code = "import sys, eyespot.models.registry as r; r.model_names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=180).returncode == 0


def test_a_whole_number_that_no_float_holds_is_refused() -> None:
    with pytest.raises(UsageError, match=r"dropout .* must be a number"):
        check_args("alexnet-mini", {"dropout": 10**400})

"""The contract that every registered model keeps, and the arithmetic of the published networks."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from eyespot.errors import ModelError
from eyespot.models.alexnet_mini import AlexNetMini
from eyespot.models.convnet3 import ConvNet3
from eyespot.models.dropout import Dropout
from eyespot.models.protocol import ImageClassifier
from eyespot.models.registry import build_model, model_entry, model_names
from eyespot.models.resnet_small import ResNet18Small
from eyespot.models.summary import count_parameters, layer_table
from eyespot.models.vgg_mini import VGGMini

FLATTEN_NETS = ("convnet3", "vgg16-mini", "alexnet-mini")


def _exists(name: str) -> bool:
    return importlib.util.find_spec(model_entry(name).build.partition(":")[0]) is not None


NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(not _exists(name), reason=f"the module of {name} is not there yet"))
    for name in model_names()
]
each_model = pytest.mark.parametrize("name", NAMES)


def build(name: str, *, num_classes: int = 10, in_channels: int = 3, size_px: int = 32, **args: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, num_classes=num_classes, in_channels=in_channels, size_px=size_px, args=args)


def images_for(model: nn.Module, count: int, size_px: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, model.in_channels, size_px, size_px, generator=generator)


# --- contract


@each_model
def test_follows_the_protocol(name):
    model = build(name, num_classes=7)
    assert isinstance(model, ImageClassifier)
    assert (model.num_classes, model.in_channels) == (7, 3)
    assert model.training
    assert isinstance(model.get_classifier(), nn.Module)


@each_model
def test_forward_is_head_of_features(name):
    model = build(name).eval()
    images = images_for(model, 4)
    with torch.no_grad():
        features = model.forward_features(images)
        vector = model.forward_head(features, pre_logits=True)
        logits = model(images)
        assert features.ndim == 4
        assert features.shape[0] == 4
        assert vector.shape == (4, model.num_features)
        assert logits.shape == (4, 10)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(model.forward_head(features), logits)
        # Logits may be scaled after the classifier, never shifted: a linear map of what it returns.
        direct = model.get_classifier()(vector)
        scale = logits.norm() / direct.norm()
        torch.testing.assert_close(direct * scale, logits, rtol=1e-4, atol=1e-5)


@each_model
@settings(max_examples=8, deadline=None)
@given(
    extra_px=st.integers(0, 41), num_classes=st.integers(2, 120), in_channels=st.integers(1, 5), count=st.integers(1, 3)
)
def test_takes_any_size_from_its_minimum_any_classes_any_channels(name, extra_px, num_classes, in_channels, count):
    size_px = model_entry(name).min_size_px + extra_px
    model = build(name, num_classes=num_classes, in_channels=in_channels, size_px=size_px).eval()
    with torch.no_grad():
        logits = model(images_for(model, count, size_px))
    assert logits.shape == (count, num_classes)
    assert logits.isfinite().all()


@each_model
@pytest.mark.parametrize("in_channels", [1, 3])
def test_smallest_size_works_and_one_pixel_less_is_refused(name, in_channels):
    smallest = model_entry(name).min_size_px
    model = build(name, in_channels=in_channels, size_px=smallest, num_classes=2).eval()
    with torch.no_grad():
        assert model(images_for(model, 2, smallest)).shape == (2, 2)
    with pytest.raises(ModelError, match=f"the smallest are {smallest}x{smallest} px in model '{name}'"):
        build(name, in_channels=in_channels, size_px=smallest - 1)


@each_model
def test_seed_decides_the_weights(name):
    first, second = build(name), build(name)
    torch.manual_seed(1)
    third = build_model(name, num_classes=10, size_px=32)
    state, same, other = first.state_dict(), second.state_dict(), third.state_dict()
    assert all(torch.equal(state[key], same[key]) for key in state)
    assert not all(torch.equal(state[key], other[key]) for key in state)


@each_model
def test_state_dict_round_trip_gives_identical_logits(name):
    model = build(name)
    images = images_for(model, 4)
    model(images)  # Moves the statistics away from their start values.
    torch.manual_seed(99)
    twin = build_model(name, num_classes=10, size_px=32)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model.eval()(images), twin.eval()(images))


@each_model
def test_gradient_reaches_every_trainable_parameter(name):
    model = build(name)
    nn.functional.cross_entropy(model(images_for(model, 16)), torch.arange(16) % 10).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.any(), key
    assert any(parameter.requires_grad for parameter in model.parameters())


@each_model
def test_reset_classifier_changes_the_outputs_and_nothing_else(name):
    model = build(name).to(torch.float64).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.reset_classifier(4)
    assert model.num_classes == 4
    with torch.no_grad():
        assert model(images_for(model, 2).double()).shape == (2, 4)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    own = {id(tensor) for tensor in model.get_classifier().state_dict(keep_vars=True).values()}
    assert changed == {key for key, value in model.state_dict(keep_vars=True).items() if id(value) in own}


@each_model
def test_reset_classifier_refuses_one_class(name):
    with pytest.raises(ModelError, match="the number of classes is 1, at least 2"):
        build(name).reset_classifier(1)


@each_model
def test_eval_mode_is_independent_of_the_other_images(name):
    model = build(name).eval()
    images = images_for(model, 6)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[2:3], model(images[2:3]), rtol=1e-4, atol=1e-5)


@each_model
def test_bfloat16_autocast_is_near_float32(name):
    model = build(name).eval()
    images = images_for(model, 4)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(images)
    assert rounded.isfinite().all()
    # bfloat16 keeps 8 bits: a few percent over some ten layers.
    assert (rounded.float() - exact).norm() < 0.1 * exact.norm()


@each_model
def test_channels_last_gives_the_same_logits(name):
    model = build(name).eval()
    images = images_for(model, 4)
    with torch.no_grad():
        expected = model(images)
        model.to(memory_format=torch.channels_last)
        got = model(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@each_model
@pytest.mark.parametrize(
    ("num_classes", "in_channels", "words"),
    [(1, 3, "the number of classes is 1, at least 2"), (10, 0, "the number of image channels is 0, at least 1")],
)
def test_impossible_requests_are_refused(name, num_classes, in_channels, words):
    with pytest.raises(ModelError, match=words) as caught:
        build(name, num_classes=num_classes, in_channels=in_channels)
    assert name in str(caught.value)
    assert caught.value.remedy


# --- what a forward pass refuses


@pytest.mark.parametrize("name", FLATTEN_NETS)
@pytest.mark.parametrize("shape", [(2, 3, 40, 40), (2, 3, 32, 40), (2, 3, 33, 33)])
def test_networks_with_flatten_name_expected_and_given_size(name, shape):
    with pytest.raises(ModelError) as caught:
        build(name)(torch.zeros(shape))
    text = str(caught.value)
    assert f"images of shape {shape} where (B, 3, 32, 32) is expected in model '{name}'" in text
    assert "resize the images to 32x32 px" in text


@pytest.mark.parametrize("name", [*FLATTEN_NETS, "resnet18-small"])
def test_wrong_channels_and_wrong_rank_are_named(name):
    model = build(name)
    with pytest.raises(ModelError, match="in_channels=1"):
        model(torch.zeros(2, 1, 32, 32))
    with pytest.raises(ModelError, match="a single image is a batch of one"):
        model(torch.zeros(3, 32, 32))


def test_resnet_takes_sizes_it_was_not_built_for():
    model = build("resnet18-small", width=8).eval()
    with torch.no_grad():
        assert model.forward_features(torch.zeros(1, 3, 50, 20)).shape == (1, 64, 7, 3)
        assert model(torch.zeros(1, 3, 50, 20)).shape == (1, 10)
    with pytest.raises(ModelError, match=r"where \(B, 3, H, W\) is expected"):
        model(torch.zeros(1, 4, 32, 32))


# --- arguments


@pytest.mark.parametrize("build_class", [ConvNet3, VGGMini, AlexNetMini])
def test_classes_refuse_what_the_registry_refuses(build_class):
    with pytest.raises(ModelError, match="too small"):
        build_class(size_px=7)
    with pytest.raises(ModelError, match="at least 2"):
        build_class(num_classes=1)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("convnet3", [0.3, 0.3, 1.0, 0.3]),
        ("vgg16-mini", [0.2, 0.3, 0.4, -0.1]),
        ("alexnet-mini", 1.5),
        ("alexnet-mini", math.nan),
    ],
)
def test_dropout_rates_are_probabilities(name, rates):
    with pytest.raises(ModelError, match=r"dropout rate \S+ is outside of \[0, 1\)"):
        build(name, dropout=rates)


@pytest.mark.parametrize(
    ("name", "rates", "expected"),
    [
        ("convnet3", (0.1, 0.2, 0.3, 0.4), [0.1, 0.2, 0.3, 0.4]),
        ("vgg16-mini", (0.1, 0.2, 0.3, 0.4), [0.1, 0.2, 0.3, 0.4]),
        ("alexnet-mini", 0.25, [0.25, 0.25]),
    ],
)
def test_dropout_rates_arrive_in_order(name, rates, expected):
    model = build(name, dropout=rates)
    assert [layer.p for layer in model.modules() if isinstance(layer, Dropout)] == expected


def test_default_dropout_rates():
    rates = {name: [layer.p for layer in build(name).modules() if isinstance(layer, Dropout)] for name in FLATTEN_NETS}
    assert rates == {
        "convnet3": [0.3, 0.3, 0.4, 0.3],
        "vgg16-mini": [0.2, 0.3, 0.4, 0.5],
        "alexnet-mini": [0.5, 0.5],
    }


@pytest.mark.parametrize("width", [1, 16])
def test_resnet_width(width):
    model = build("resnet18-small", width=width).eval()
    assert model.num_features == 8 * width
    with torch.no_grad():
        assert model.forward_features(images_for(model, 2)).shape == (2, 8 * width, 4, 4)


def test_resnet_width_below_one_is_refused():
    with pytest.raises(ModelError, match="width 0 is below 1 in model 'resnet18-small'"):
        build("resnet18-small", width=0)


def test_resnet_zero_init_starts_every_block_as_its_shortcut():
    images = torch.randn(2, 8, 12, 12).abs()  # A block's input comes out of a ReLU.
    block = ResNet18Small(width=8, zero_init=True).stage1[0]
    assert torch.equal(block(images), images)
    assert not torch.equal(ResNet18Small(width=8).stage1[0](images), images)


@pytest.mark.parametrize("name", FLATTEN_NETS)
def test_weights_start_as_keras_starts_them(name):
    model = build(name)
    model.reset_classifier(37)
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        area = layer.weight[0, 0].numel()
        limit = math.sqrt(6 / ((layer.weight.shape[0] + layer.weight.shape[1]) * area))
        assert not layer.bias.any()
        assert layer.weight.abs().max().item() <= limit * (1 + 1e-6)
        assert layer.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.1)
    assert layers[-1].out_features == 37
    assert all(layer.eps == 1e-3 for layer in model.modules() if isinstance(layer, nn.BatchNorm2d))


# --- the published arithmetic (bn rows count the moving statistics, as Keras does)

CONVNET3 = [
    ("conv1", 896, (32, 32, 32)),
    ("pool1", 0, (32, 16, 16)),
    ("conv2", 18_496, (64, 16, 16)),
    ("pool2", 0, (64, 8, 8)),
    ("conv3", 73_856, (128, 8, 8)),
    ("pool3", 0, (128, 4, 4)),
    ("flatten", 0, (2_048,)),
    ("hidden", 163_920, (80,)),
    ("classifier", 810, (10,)),
]
FIGURE_2 = [
    ("conv1_1", 896, (32, 32, 32)),
    ("norm1_1", 128, (32, 32, 32)),
    ("conv1_2", 9_248, (32, 32, 32)),
    ("norm1_2", 128, (32, 32, 32)),
    ("pool1", 0, (32, 16, 16)),
    ("conv2_1", 18_496, (64, 16, 16)),
    ("norm2_1", 256, (64, 16, 16)),
    ("conv2_2", 36_928, (64, 16, 16)),
    ("norm2_2", 256, (64, 16, 16)),
    ("pool2", 0, (64, 8, 8)),
    ("conv3_1", 73_856, (128, 8, 8)),
    ("norm3_1", 512, (128, 8, 8)),
    ("conv3_2", 147_584, (128, 8, 8)),
    ("norm3_2", 512, (128, 8, 8)),
    ("pool3", 0, (128, 4, 4)),
    ("conv4_1", 295_168, (256, 4, 4)),
    ("norm4_1", 1_024, (256, 4, 4)),
    ("conv4_2", 590_080, (256, 4, 4)),  # printed 598,880
    ("norm4_2", 1_024, (256, 4, 4)),
    ("pool4", 0, (256, 2, 2)),
    ("flatten", 0, (1_024,)),  # printed 1824
    ("classifier", 10_250, (10,)),  # printed 18,250
]
FIGURE_3 = [
    ("conv1", 46_592, (128, 6, 6)),
    ("norm1", 512, (128, 6, 6)),
    ("pool1", 0, (128, 3, 3)),
    ("conv2", 819_456, (256, 3, 3)),
    ("norm2", 1_024, (256, 3, 3)),
    ("pool2", 0, (256, 1, 1)),
    ("conv3", 590_080, (256, 1, 1)),  # printed 590,880
    ("norm3", 1_024, (256, 1, 1)),
    ("conv4", 65_792, (256, 1, 1)),
    ("norm4", 1_024, (256, 1, 1)),
    ("conv5", 65_792, (256, 1, 1)),
    ("norm5", 1_024, (256, 1, 1)),
    ("pool5", 0, (256, 1, 1)),
    ("flatten", 0, (256,)),
    ("dense1", 263_168, (1_024,)),
    ("dense2", 1_049_600, (1_024,)),
    ("classifier", 10_250, (10,)),
]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_convnet3_pools_before_relu_and_has_the_numbers_of_the_published_order(precision: torch.dtype) -> None:
    torch.manual_seed(0)
    network = ConvNet3().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(16, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    images[:4] = images[4:5]  # with equal values in a window

    def published(x: torch.Tensor) -> torch.Tensor:
        for number in (1, 2, 3):
            x = F.max_pool2d(F.relu(getattr(network.features, f"conv{number}")(x)), 2)
        return network.classifier(network.read_map(x))

    found = []
    for forward in (network, published):
        network.zero_grad()
        with torch.autocast("cpu", dtype=precision, enabled=precision is torch.bfloat16):
            logits = forward(images)
        logits.float().square().sum().backward()
        found.append([logits.detach(), *(weight.grad for weight in network.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "published"), [("convnet3", CONVNET3), ("vgg16-mini", FIGURE_2), ("alexnet-mini", FIGURE_3)]
)
def test_every_row_of_the_published_tables(name, published):
    table = layer_table(build(name), in_channels=3, size_px=32)
    rows = [
        (row.name.rpartition(".")[2], row.total, row.output_shape)
        for row in table.rows
        if row.kind not in ("ReLU", "Dropout")
    ]
    assert rows == published


@pytest.mark.parametrize(
    ("name", "parameters", "statistics", "total", "mib"),
    [
        ("convnet3", 257_978, 0, 257_978, 0.98),
        ("vgg16-mini", 1_184_426, 1_920, 1_186_346, 4.53),
        ("alexnet-mini", 2_913_034, 2_304, 2_915_338, 11.12),
        ("resnet18-small", 11_173_962, 9_600, 11_183_562, 42.66),
    ],
)
def test_totals(name, parameters, statistics, total, mib):
    model = build(name)
    count = count_parameters(model)
    assert (count.trainable, count.frozen, count.statistics, count.total) == (parameters, 0, statistics, total)
    assert round(count.mib_float32, 2) == mib
    assert count.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["vgg16-mini", "alexnet-mini"])
def test_order_is_convolution_activation_normalisation(name):
    kinds = [type(layer).__name__ for layer in build(name).features]
    for index, kind in enumerate(kinds):
        if kind == "Conv2d":
            assert kinds[index + 1 : index + 3] == ["ReLU", "BatchNorm2d"]


def test_third_pooling_of_alexnet_keeps_an_odd_row():
    model = build("alexnet-mini", size_px=64)  # 64 px: 14 -> 7 -> 3 -> 2
    assert model.forward_features(images_for(model, 2, 64)).shape == (2, 256, 2, 2)

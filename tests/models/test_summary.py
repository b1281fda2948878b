"""The layer table against torch's own counter, timm's models and the published head arithmetic."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from eyespot.errors import MemoryLimitError, ModelError
from eyespot.models.registry import build_model
from eyespot.models.summary import LayerTable, count_parameters, layer_table


def table_of(model: nn.Module, size_px: int = 32, in_channels: int = 3) -> LayerTable:
    return layer_table(model, in_channels=in_channels, size_px=size_px)


# --- counts


def test_count_separates_trained_frozen_and_statistics():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(5, 2))
    model[0].weight.requires_grad_(False)
    count = count_parameters(model)
    assert (count.trainable, count.frozen, count.statistics) == (8 + 12, 108, 8)
    assert (count.parameters, count.total, count.bytes_float32) == (128, 136, 544)
    assert count.mib_float32 == 544 / 2**20


def test_count_takes_shared_tensors_once_and_unsaved_buffers_not_at_all():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    model.register_buffer("kept", torch.zeros(3))
    model.register_buffer("again", model.kept)
    model.register_buffer("derived", torch.zeros(100), persistent=False)
    model.register_buffer("steps", torch.zeros(1, dtype=torch.int64))
    count = count_parameters(model)
    assert (count.parameters, count.statistics) == (20, 3)
    rows = table_of(nn.Sequential(nn.Flatten(), nn.Linear(12, 4), model), 2).rows
    assert sum(row.parameters for row in rows) == 20 + 52
    assert sum(row.statistics for row in rows) == 3
    assert [row.parameters for row in rows if row.name.startswith("2.")] == [20, 0, 0]


# --- rows


def test_rows_of_a_small_network():
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 5)
    )
    model[4].weight.requires_grad_(False)
    table = table_of(model, 7, in_channels=2)
    conv, norm, relu, flatten, dense = table.rows
    assert (conv.name, conv.kind, conv.output_shape, conv.map_px) == ("0", "Conv2d", (6, 3, 3), (3, 3))
    assert (conv.parameters, conv.trainable, conv.macs) == (60, 60, 6 * 9 * 9)
    assert (norm.parameters, norm.statistics, norm.total, norm.macs) == (12, 12, 24, 0)
    assert (relu.map_px, relu.total, flatten.output_shape) == (None, 0, (54,))
    assert (dense.parameters, dense.trainable, dense.macs) == (275, 5, 270)
    assert table.input_shape == (2, 7, 7)
    assert table.macs == conv.macs + dense.macs
    assert table.count.total == sum(row.total for row in table.rows)
    assert table.warnings == ()


@pytest.mark.parametrize("name", ["convnet3", "vgg16-mini", "alexnet-mini", "resnet18-small"])
def test_macs_of_the_rows_equal_half_of_torchs_flops(name):
    model = build_model(name, num_classes=10, size_px=40)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 40, 40))
    table = table_of(model, 40)
    assert table.macs == sum(row.macs for row in table.rows) == counter.get_total_flops() // 2


def test_macs_hold_the_products_of_attention_which_have_no_row():
    table = table_of(timm.create_model("vit_tiny_patch16_224", num_classes=10), 224)
    tokens, width, blocks = 14 * 14 + 1, 192, 12
    attention = 2 * blocks * tokens * tokens * width  # queries with keys, and what they weigh
    assert table.macs == sum(row.macs for row in table.rows) + attention


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050", "efficientnet_b0"])
def test_rows_sum_to_the_count_for_models_of_timm(name):
    model = timm.create_model(name, pretrained=False, num_classes=10)
    table = table_of(model, 224)
    assert sum(row.parameters for row in table.rows) == sum(parameter.numel() for parameter in model.parameters())
    assert sum(row.total for row in table.rows) == table.count.total
    assert sum(row.trainable for row in table.rows) == table.count.trainable
    assert table.warnings == ()  # Squeeze-and-excitation and global pooling are no early collapse.


def test_layers_that_did_not_run_come_last():
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Linear(3, 3)
            self.scale = nn.Parameter(torch.ones(7))
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, images: Tensor) -> Tensor:
            return self.pool(images).flatten(1)

    table = table_of(Auxiliary())
    assert [(row.name, row.output_shape, row.parameters) for row in table.rows] == [
        ("pool", (3, 1, 1), 0),
        ("(model)", (3,), 7),
        ("auxiliary", (), 12),
    ]


def test_attention_returns_a_tuple():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, images: Tensor) -> Tensor:
            return self.attention(images[:, 0], images[:, 0], images[:, 0])[0]

    model = Attention()
    table = table_of(model, 8, in_channels=1)
    assert table.rows[0].output_shape == (8, 8)
    assert sum(row.parameters for row in table.rows) == sum(parameter.numel() for parameter in model.parameters())


def test_layers_without_tensors_in_or_out():
    class Maps(nn.Module):
        def forward(self, *, images: Tensor) -> dict[str, Tensor]:
            return {"images": images}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps = Maps()

        def forward(self, images: Tensor) -> Tensor:
            return self.maps(images=images)["images"]

    (row,) = table_of(Model()).rows
    assert (row.name, row.output_shape, row.map_px) == ("maps", (), None)


def test_as_dict_is_json_and_complete():
    table = table_of(build_model("vgg16-mini", num_classes=10, size_px=32))
    document = json.loads(json.dumps(table.as_dict()))
    assert document["total"] == 1_186_346
    assert document["bytes_float32"] == 4 * 1_186_346
    assert (document["trainable"], document["frozen"], document["statistics"]) == (1_184_426, 0, 1_920)
    assert document["input_shape"] == [3, 32, 32]
    assert document["macs"] == table.macs
    assert document["warnings"] == []
    assert document["rows"][0] == {
        "name": "features.conv1_1",
        "kind": "Conv2d",
        "output_shape": [32, 32, 32],
        "map_px": [32, 32],
        "parameters": 896,
        "statistics": 0,
        "trainable": 896,
        "macs": 27 * 32 * 32 * 32,
    }
    assert document["rows"][1]["map_px"] is None


# --- it leaves no trace


def test_nothing_is_changed():
    model = build_model("vgg16-mini", num_classes=10, size_px=32)
    model.features[4].eval()  # A layer frozen by hand stays so.
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    with torch.inference_mode():
        table_of(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.is_grad_enabled()


def test_random_state_survives_a_model_that_draws():
    class Noisy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images + torch.randn_like(images)

    random = torch.get_rng_state()
    table_of(Noisy())
    assert torch.equal(torch.get_rng_state(), random)


def test_failure_is_one_line_and_leaves_no_trace():
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Conv2d(4, 4, 5))
    with pytest.raises(ModelError, match=r"an image of shape \(3, 6, 6\) does not go through: .* in model Sequential"):
        table_of(model, 6)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_an_image_that_memory_has_no_room_for_is_not_called_too_small():
    with pytest.raises(MemoryLimitError, match=r"no memory left for an image of 10000000 x 10000000 px: use smaller"):
        table_of(nn.Sequential(nn.Conv2d(3, 4, 5)), 10_000_000)


def test_own_models_say_their_size():
    with pytest.raises(ModelError, match=r"where \(B, 3, 32, 32\) is expected"):
        table_of(build_model("convnet3", num_classes=10, size_px=32), 48)


def test_half_precision_and_meta_models_work():
    model = build_model("convnet3", num_classes=10, size_px=32)
    assert table_of(model.to(torch.bfloat16)).count.total == 257_978
    assert table_of(model.to("meta")).count.total == 257_978


# --- warnings


def test_alexnet_at_32_px_collapses_early():
    (warning,) = table_of(build_model("alexnet-mini", num_classes=10, size_px=32)).warnings
    assert "The map is already 1x1 after features.pool2, with 6 of 8 weight layers to come" in warning


def test_alexnet_at_64_px_does_not():
    warnings = table_of(build_model("alexnet-mini", num_classes=10, size_px=64), 64).warnings
    assert not any("already 1x1" in warning for warning in warnings)


@pytest.mark.parametrize(("layers", "warned"), [(2, True), (1, False)])
def test_the_last_third_is_not_warned_of(layers, warned):
    """Two convolutions, then 1x1, then a head: 2 of 4 weight layers are before the last third, 2 of 3 are not."""
    head = [nn.Linear(4, 4), nn.ReLU()] * (layers - 1) + [nn.Linear(4, 2)]
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), *head
    )
    assert any("already 1x1 after 4" in warning for warning in table_of(model, 8).warnings) == warned


@pytest.mark.parametrize("name", ["convnet3", "vgg16-mini", "resnet18-small"])
def test_the_other_networks_have_no_warnings_at_32_px(name):
    assert table_of(build_model(name, num_classes=10, size_px=32)).warnings == ()


@pytest.mark.parametrize(
    ("channels", "map_px", "flatten", "pooled"),
    [
        (512, 9, 21_239_306, 267_786),  # VGG16 at 288
        (1024, 7, 25_695_754, 529_930),  # DenseNet121 at 224
        (2048, 8, 67_114_506, 1_054_218),  # InceptionV3 at 299
        (1536, 8, 50_337_290, 792_074),  # InceptionResNetV2 at 299
        (2048, 7, 51_385_866, 1_054_218),  # ResNet50 at 224
    ],
)
def test_flatten_head_of_culp2021_against_pooling(channels, map_px, flatten, pooled):
    features = channels * map_px * map_px
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Conv2d(1, channels, 1), nn.Flatten(), nn.Linear(features, 512), nn.ReLU(), nn.Linear(512, 10)
        )
    (warning,) = table_of(model, map_px, in_channels=1).warnings
    assert f"flattened map of {features:,} features in 2 and has {flatten:,} parameters" in warning
    assert f"global average pooling it would have {pooled:,}," in warning


def test_flatten_head_of_zouari2021_with_functional_flatten_and_batch_norms():
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Conv2d(1, 2048, 1)
            layers: list[nn.Module] = []
            width = 7 * 7 * 2048
            for hidden in (256, 128, 64):
                layers += [nn.BatchNorm1d(width), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.5)]
                width = hidden
            self.head = nn.Sequential(*layers, nn.BatchNorm1d(width), nn.Linear(width, 10))

        def forward(self, images: Tensor) -> Tensor:
            return self.head(torch.flatten(self.backbone(images), 1))

    with torch.device("meta"):
        model = Head()
    (warning,) = table_of(model, 7, in_channels=1).warnings
    assert "26,135,370 parameters" in warning
    assert "576,330" in warning


class FunctionalPools(nn.Module):
    """Two convolutions on a map that functions pool, then a head: no hook sees the pooling."""

    def __init__(self, pool_px: tuple[int, int], head_inputs: int) -> None:
        super().__init__()
        self.pool_px = pool_px
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 64, 1)
        self.head = nn.Sequential(nn.Linear(head_inputs, 2000), nn.ReLU(), nn.Linear(2000, 10))

    def forward(self, images: Tensor) -> Tensor:
        images = functional.max_pool2d(self.first(images), self.pool_px[0])
        images = functional.max_pool2d(self.second(images), self.pool_px[1])
        return self.head(images.flatten(1))


def test_collapse_by_a_function_is_seen():
    (warning,) = table_of(FunctionalPools((16, 1), 64), 16).warnings
    assert "The map is already 1x1 before second, with 3 of 4 weight layers to come" in warning


def test_flatten_after_a_function_is_seen():
    (warning,) = table_of(FunctionalPools((1, 2), 64 * 64), 16).warnings
    assert "flattened map of 4,096 features in head.0 and has 8,214,010 parameters" in warning
    assert "it would have 150,010," in warning


def test_average_and_maximum_side_by_side_are_no_flattened_map():
    class ConcatPool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 512, 1), nn.Linear(1024, 1000)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.conv(images)
            return self.head(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1))

    assert table_of(ConcatPool(), 8).warnings == ()


def test_pooled_and_small_heads_are_not_warned_of():
    pooled = nn.Sequential(nn.Conv2d(3, 2000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2000, 1000))
    small = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(8 * 64, 10))
    assert table_of(pooled, 8).warnings == ()
    assert table_of(small, 8).warnings == ()


@pytest.mark.parametrize(
    "between",
    [
        [],
        [nn.Dropout(0.5)],
        [nn.BatchNorm1d(8), nn.Identity(), nn.Dropout(0.2)],
    ],
)
def test_stacked_linear_layers_are_named(between):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), *between, nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    (warning,) = table_of(model, 2).warnings
    assert warning.startswith(f"{2 + len(between)} follows a linear layer without an activation in between")


class Activated(nn.Module):
    """Two linear layers with a function between them, which no hook sees."""

    def __init__(self, between: object) -> None:
        super().__init__()
        self.first, self.second, self.between = nn.Linear(12, 8), nn.Linear(8, 4), between

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.between(self.first(images.flatten(1))))


@pytest.mark.parametrize(
    "between",
    [functional.relu, torch.relu_, torch.tanh, nn.ReLU(inplace=True), nn.GELU()],
    ids=["relu", "relu_", "tanh", "inplace", "gelu"],
)
def test_activations_of_every_kind_are_seen(between):
    assert table_of(Activated(between), 2).warnings == ()


def test_no_activation_between_functions_is_seen():
    assert len(table_of(Activated(lambda vector: vector), 2).warnings) == 1

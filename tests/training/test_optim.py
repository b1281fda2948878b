from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from eyespot.config import OptimizerConfig
from eyespot.models.registry import build_model
from eyespot.training.checkpoint import Checkpoint, load_optimizer, optimizer_state, read_checkpoint, write_checkpoint
from eyespot.training.optim import UNTIL, build_optimizer, orthogonalize

NAMES = ["sgd", "adam", "adamw", "rmsprop", "muon"]


def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model("spot", num_classes=3, in_channels=1, size_px=8, args={"widths": [4, 6, 8]})


def take_steps(network: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for step in range(count):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 1, 8, 8, generator=generator)
        labels = torch.randint(0, 3, (8,), generator=generator)
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_moves_every_trainable_parameter_and_no_other(name: str) -> None:
    network = model()
    before = {key: value.clone() for key, value in network.named_parameters()}
    optimizer = build_optimizer(network, OptimizerConfig(name=name, lr=0.01), batch_size=8)
    take_steps(network, optimizer, 2)
    for key, value in network.named_parameters():
        assert torch.equal(value, before[key]) is not value.requires_grad, key
    assert all(group["peak_lr"] == group["lr"] for group in optimizer.param_groups)


@pytest.mark.parametrize("name", NAMES)
def test_state_survives_a_checkpoint_to_the_bit(name: str, tmp_path: Path) -> None:
    settings = OptimizerConfig(name=name, lr=0.01, momentum=0.5)
    one, two = model(), model()
    first = build_optimizer(one, settings, batch_size=8)
    take_steps(one, first, 3)
    two.load_state_dict(one.state_dict())
    second = build_optimizer(two, settings, batch_size=8)
    tensors, numbers = optimizer_state(first)
    write_checkpoint(tmp_path / "x", Checkpoint(tensors, numbers))
    saved = read_checkpoint(tmp_path / "x")
    load_optimizer(second, saved, saved.state)
    take_steps(one, first, 2)
    take_steps(two, second, 2)
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_steps_equal_torchs_own(name: str) -> None:
    classes = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    keywords = {"sgd": {"momentum": 0.9}, "rmsprop": {"momentum": 0.9}}.get(name, {})
    one, two = nn.Linear(4, 3), nn.Linear(4, 3)
    two.load_state_dict(one.state_dict())
    settings = OptimizerConfig(name=name, lr=0.05, momentum=0.9, weight_decay=0.0)
    reference = classes[name](two.parameters(), lr=0.05, weight_decay=0.0, **keywords)
    for network, optimizer in ((one, build_optimizer(one, settings, batch_size=8)), (two, reference)):
        for step in range(3):
            images = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            network(images).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(one.weight, two.weight)


def test_biases_and_norms_do_not_decay() -> None:
    optimizer = build_optimizer(model(), OptimizerConfig(name="adamw", weight_decay=0.1), batch_size=8)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert (group["weight_decay"] > 0) == (parameter.ndim > 1)


def test_muon_groups() -> None:
    network = model()
    settings = OptimizerConfig(name="muon", lr=0.1, bias_lr=0.05, head_lr=0.5, stem_bias_fraction=0.25)
    groups = build_optimizer(network, settings, batch_size=8).param_groups
    assert [group["orthogonal"] for group in groups] == [True, False, False, False]
    assert [group["lr"] for group in groups] == [0.1, 0.4, 0.4, 4.0]
    assert groups[1][UNTIL] == 0.25
    assert groups[1]["params"][0] is network.whiten.bias
    assert groups[3]["params"][0] is network.head.weight
    counted = sum(len(group["params"]) for group in groups)
    assert counted == sum(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16)])
def test_orthogonalize_brings_singular_values_near_one_and_keeps_the_vectors(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    # Three steps need singular values that are not too far apart, as gradients' are after momentum.
    u, s, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = u @ torch.diag(s.clamp_min(s.max() / 3)) @ v
    result = orthogonalize(matrix)
    assert result.shape == matrix.shape
    values = torch.linalg.svdvals(result)
    assert 0.4 < values.min() <= values.max() < 1.6
    cosine = nn.functional.cosine_similarity((u @ v).flatten(), result.flatten(), dim=0)
    assert cosine > 0.95


def test_muon_keeps_the_norm_of_filters() -> None:
    network = model()
    optimizer = build_optimizer(network, OptimizerConfig(name="muon", lr=1e-6), batch_size=8)
    take_steps(network, optimizer, 1)
    weight = network.groups[0].conv2.weight
    assert weight.norm().item() == pytest.approx(len(weight) ** 0.5, rel=1e-3)

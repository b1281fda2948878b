"""One step of training, looked at by itself: inputs, loss, descent."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from eyespot.device import ComputePlan
from eyespot.training.step import compute_loss, descend, draw_inputs, fit_sizes

from .conftest import prepare, tiny_config

LABELS = torch.tensor([0, 0, 0, 1, 1, 2])


def test_pictures_are_mixed_and_shown_at_the_size_of_the_moment() -> None:
    config = tiny_config(training__mixup_alpha=1.0, training__size_schedule=[[0.0, 6], [0.5, 8]])
    data = prepare(config).data
    batch = next(iter(data.train.batches(0)))
    for progress, side in ((0.0, 6), (0.4, 6), (0.5, 8), (1.0, 8)):
        images, targets = draw_inputs(batch, data, config, step=0, epoch=0, progress=progress)
        assert images.shape[-2:] == (side, side)
        assert ((targets > 0) & (targets < 1)).any()
        assert torch.allclose(targets.sum(1), torch.ones(len(targets)))
    again, _ = draw_inputs(batch, data, config, step=0, epoch=0, progress=1.0)
    other, _ = draw_inputs(batch, data, config, step=1, epoch=0, progress=1.0)
    assert torch.equal(again, images)
    assert not torch.equal(other, images)


def test_cutmix_reaches_the_pictures_and_their_targets() -> None:
    plain, mixed = (
        tiny_config(augment__translate_px=0),
        tiny_config(training__cutmix_alpha=1.0, augment__translate_px=0),
    )
    data = prepare(plain).data
    batch = next(iter(data.train.batches(0)))
    images, targets = draw_inputs(batch, data, plain, step=0, epoch=0, progress=0.0)
    cut, shared = draw_inputs(batch, data, mixed, step=0, epoch=0, progress=0.0)
    assert torch.equal(targets, F.one_hot(batch.labels, 3).float())
    assert not torch.equal(cut, images)
    assert ((shared > 0) & (shared < 1)).any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [None, torch.tensor([0.1, 0.5, 4.0])])
def test_a_smoothed_loss_weighs_pictures_by_their_class(smoothing: float, class_weights: torch.Tensor | None) -> None:
    config = tiny_config(training__label_smoothing=smoothing)
    prepared = prepare(config)
    plan, images, targets = ComputePlan("cpu", "float32", "test"), torch.randn(6, 1, 8, 8), F.one_hot(LABELS, 3).float()
    data = replace(prepared.data, class_weights=class_weights)
    loss, logits = compute_loss(prepared.model, images, targets, data, config, plan, step=0)
    each = F.cross_entropy(logits, LABELS, label_smoothing=smoothing, reduction="none")
    weights = torch.ones(3) if class_weights is None else class_weights
    assert loss.item() == pytest.approx((each * weights[LABELS]).mean().item(), rel=1e-5)


def test_the_loss_is_float32_where_the_network_computes_in_bf16() -> None:
    config = tiny_config()
    prepared, targets, seen = prepare(config), F.one_hot(LABELS, 3).float(), []
    prepared.model.register_forward_hook(lambda model, inputs, answer: seen.append(answer.dtype))
    plan = ComputePlan("cpu", "bf16", "test")
    loss, logits = compute_loss(prepared.model, torch.randn(6, 1, 8, 8), targets, prepared.data, config, plan, step=0)
    assert seen == [torch.bfloat16]
    assert loss.dtype == logits.dtype == torch.float32


@pytest.mark.parametrize(("clip_norm", "length"), [(1.0, 1.0), (0.0, 1e4 * 6**0.5), (1e9, 1e4 * 6**0.5)])
def test_a_gradient_over_the_limit_is_clipped_to_it(clip_norm: float, length: float) -> None:
    model = torch.nn.Linear(2, 2)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    loss = 1e4 * model(torch.ones(1, 2)).sum()
    descend(model, torch.optim.SGD(model.parameters(), lr=1.0), loss, clip_norm=clip_norm)
    after = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    assert (after - before).norm().item() == pytest.approx(length, rel=1e-3)


def test_progressive_sizes_end_at_the_size_of_the_pictures() -> None:
    config = tiny_config(training__size_schedule=[(0.0, 24), (0.4, 28), (0.75, 32)])
    assert fit_sizes(config, 64).training.size_schedule == [(0.0, 48), (0.4, 56), (0.75, 64)]
    assert fit_sizes(config, 32) is config
    assert fit_sizes(config, 28) is config  # never enlarged: `resize_images`
    assert fit_sizes(tiny_config(), 64).training.size_schedule == []

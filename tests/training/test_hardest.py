from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from eyespot.errors import CheckpointError, EyespotError
from eyespot.training.hardest import HardestPictures

from .conftest import run_fit, tiny_config


def hardest(count: int = 10, steps: int = 3, batch_size: int = 2, seed: int = 0) -> HardestPictures:
    return HardestPictures(count, steps, batch_size=batch_size, seed=seed, device="cpu")


def note(chooser: HardestPictures, indices: torch.Tensor, certainty: torch.Tensor) -> None:
    """Let the network be that certain of the right one of two classes."""
    labels = torch.zeros(len(indices), dtype=torch.int64)
    chooser.note(indices, torch.stack([certainty, torch.zeros(len(indices))], 1), labels)


def test_an_epoch_has_whole_batches_of_different_pictures() -> None:
    chooser = hardest()
    order = chooser.order(0)
    assert order.shape == (6,)
    assert order.dtype == torch.int64
    assert len(set(order.tolist())) == 6
    assert torch.equal(order, hardest().order(0))
    assert not torch.equal(order, hardest(seed=1).order(0))


def test_unseen_pictures_come_first_and_then_those_with_the_largest_loss() -> None:
    chooser = hardest()
    first = chooser.order(0)
    note(chooser, first, -torch.arange(6.0))  # the last is the hardest
    chooser.end_epoch()
    second = set(chooser.order(1).tolist())
    assert second >= set(range(10)) - set(first.tolist()), "four were not seen yet"
    assert second & set(first.tolist()) == set(first[-2:].tolist()), "and the two hardest of the others"


def test_losses_count_from_the_next_epoch_on() -> None:
    chooser = hardest()
    before = chooser.order(0)
    note(chooser, before, torch.full((6,), 9.0))
    assert torch.equal(chooser.order(0), before), "a resumed epoch goes on in its order"
    chooser.end_epoch()
    assert not torch.equal(chooser.order(0), before)


def test_the_loss_is_that_of_the_labels() -> None:
    chooser = hardest(count=3, steps=1, batch_size=1)
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0]]), torch.tensor([0, 0, 0])
    chooser.note(torch.arange(3), logits, labels)
    chooser.end_epoch()
    expected = int(F.cross_entropy(logits, labels, reduction="none").argmax())
    assert chooser.order(1).tolist() == [expected] == [1]


def test_tensors_bring_everything_back() -> None:
    chooser = hardest()
    note(chooser, chooser.order(0), torch.arange(6.0))
    other = hardest()
    other.load({name: tensor.clone() for name, tensor in chooser.tensors().items()})
    for one in (chooser, other):
        one.end_epoch()
    assert torch.equal(chooser.order(1), other.order(1))


def test_a_batch_as_large_as_train_shows_all() -> None:
    assert sorted(hardest(count=3, steps=1, batch_size=64).order(0).tolist()) == [0, 1, 2]


def test_a_run_sees_each_picture_and_takes_fewer_steps(tmp_path: Path) -> None:
    config = tiny_config(training__hardest_share=0.5, training__batch_size=8, training__epochs=8)
    result = run_fit(tmp_path, config)
    whole = run_fit(tmp_path / "whole", tiny_config(training__batch_size=8, training__epochs=1))
    assert result.state.steps_per_epoch == round(whole.state.steps_per_epoch / 2)
    assert result.state.history[-1]["val/top1"] > 0.9


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_has_as_many_steps_as_were_planned(tmp_path: Path, share: float, drop_last: bool) -> None:
    changes = {"training__drop_last": drop_last, "training__batch_size": 7, "training__epochs": 2}
    result = run_fit(tmp_path, tiny_config(training__hardest_share=share, **changes))
    assert result.state.step == result.state.total_steps
    assert result.state.steps_per_epoch >= 1


@pytest.mark.parametrize("tensors", [{}, hardest(count=11).tensors()], ids=["all pictures", "other pictures"])
def test_a_checkpoint_of_another_run_is_refused(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError, match="10 pictures"):
        hardest().load(tensors)


def test_mixed_pictures_have_no_loss_of_their_own() -> None:
    with pytest.raises(EyespotError, match="hardest_share needs the loss of each picture"):
        tiny_config(training__hardest_share=0.5, training__mixup_alpha=0.2)

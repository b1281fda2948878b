from __future__ import annotations

import pytest
import torch

from eyespot.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_share_of_zeros_and_mean(p: float, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.ones(32, 16, 20, 20).contiguous(memory_format=layout).requires_grad_()
    y = Dropout(p)(x)
    n = x.numel()
    zeros = (y == 0).sum().item() / n
    rounded = min(round(p * 256), 255) / 256
    assert abs(zeros - rounded) < 4 * (rounded * (1 - rounded) / n) ** 0.5
    assert y.max().item() == pytest.approx(1 / (1 - rounded), rel=1e-5)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, y == 0)


def test_no_two_neighbours_share_their_fate() -> None:
    torch.manual_seed(0)
    zero = (Dropout(0.5)(torch.ones(1 << 16)) == 0).float()
    assert abs(torch.corrcoef(torch.stack([zero[:-1], zero[1:]]))[0, 1].item()) < 0.02


def test_it_follows_torchs_seed_and_changes_from_call_to_call() -> None:
    layer, x = Dropout(0.5), torch.ones(1000)
    torch.manual_seed(3)
    one, two = layer(x), layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), one)
    assert torch.equal(layer(x), two)
    assert not torch.equal(one, two)


def test_identity_in_eval_and_at_zero_and_dtype_kept() -> None:
    x = torch.randn(7, 5, dtype=torch.bfloat16)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert Dropout(0.5)(x).dtype == torch.bfloat16
    assert repr(Dropout(0.25)) == "Dropout(p=0.25)"

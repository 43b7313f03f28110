from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from semantoks.model import linear
from semantoks.model.linear import MLP, Linear

pytestmark = pytest.mark.skipif(
    not linear._has_products(), reason="this processor or PyTorch has no bfloat16 products"
)


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 33), (5, 3, 33), (2, 1, 4, 33)])
def test_a_product_and_its_gradients_are_those_of_float32(shape, bias):
    torch.manual_seed(0)
    ours = Linear(33, 21, bias=bias)
    theirs = nn.Linear(33, 21, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(shape)
    found, expected = ((x + 0).requires_grad_() for _ in range(2))
    with autocast():
        y = ours(found)
    assert y.dtype == torch.bfloat16
    z = theirs(expected)
    torch.testing.assert_close(y.float(), z, rtol=0.02, atol=0.02)
    weights = torch.randn_like(z)
    (y * weights).sum().backward()
    (z * weights).sum().backward()
    for mine, its in zip(
        (found, *ours.parameters()), (expected, *theirs.parameters()), strict=True
    ):
        assert mine.grad.dtype == torch.float32
        torch.testing.assert_close(mine.grad, its.grad, rtol=0.03, atol=0.1)
    with torch.no_grad(), autocast():
        torch.testing.assert_close(ours(x), y.detach())


def test_an_mlp_without_gradients_is_the_same(monkeypatch):
    torch.manual_seed(0)
    mlp = MLP(24, 41)
    x = torch.randn(5, 9, 24)
    with autocast():
        with_gradient = mlp(x)
        with torch.no_grad():
            without = mlp(x)
            monkeypatch.setattr(linear, "_has_products", lambda: False)
            plain = mlp(x)
    torch.testing.assert_close(without, with_gradient.detach(), rtol=0.02, atol=0.005)
    torch.testing.assert_close(without, plain, rtol=0.02, atol=0.005)
    exact = mlp(x)
    assert (without - exact).abs().max() < 0.01
    assert exact.dtype == torch.float32, "only where bfloat16 was asked for"


def test_what_is_not_trained_gets_no_gradient():
    layer = Linear(6, 4)
    layer.weight.requires_grad_(False)
    with autocast():
        layer(torch.randn(3, 6)).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None


def test_no_rows_at_all():
    layer = Linear(6, 4)
    with autocast():
        assert layer(torch.randn(0, 6)).shape == (0, 4)


def test_a_copy_in_bfloat16_needs_no_autocast():
    layer = Linear(6, 4)
    low = copy.deepcopy(layer).to(torch.bfloat16)
    x = torch.randn(5, 6)
    with torch.inference_mode():
        torch.testing.assert_close(low(x.bfloat16()).float(), layer(x), rtol=0.02, atol=0.02)

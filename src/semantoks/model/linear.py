"""Linear maps whose bias, and GELU, are part of the product: in bfloat16 on a CPU.

Every pass over an activation costs memory bandwidth, which two cores have little of. Elsewhere, in
other arithmetic and while a compiler or an exporter looks on, these are PyTorch's own operations.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """``torch.nn.Linear``, its bias added within the product where that can be."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        if not self._fused(x):
            return super().forward(x)
        if torch.is_grad_enabled():
            out: Tensor = _Product.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
            return out
        return _product(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """Return GELU of the map, in one go where no gradient needs what is in between."""
        if torch.is_grad_enabled() or not self._fused(x):
            return F.gelu(self(x))
        return _product(x, self.weight, self.bias, "gelu")

    def _fused(self, x: Tensor) -> bool:
        if x.device.type != "cpu" or x.numel() == 0 or torch.compiler.is_compiling():
            return False
        used = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        return used == torch.bfloat16 and _has_products()


class MLP(nn.Sequential):
    """Linear map, GELU, linear map."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(Linear(width, hidden), nn.GELU(), Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        first, _, last = self
        if not isinstance(first, Linear):  # replaced, by a low-rank update for instance
            out: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return out
        y: Tensor = last(first.gelu(x))
        return y


@cache
def _has_products() -> bool:
    """Return whether this build of PyTorch, on this processor, has oneDNN's bfloat16 products."""
    ops = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(ops, "_linear_pointwise")
        and hasattr(ops, "_is_mkldnn_bf16_supported")
        and bool(ops._is_mkldnn_bf16_supported())
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, then: str = "none") -> Tensor:
    bias = None if bias is None else bias.bfloat16()
    out: Tensor = torch.ops.mkldnn._linear_pointwise(
        x.bfloat16().contiguous(), weight.bfloat16(), bias, then, [], "none"
    )
    return out


class _Product(torch.autograd.Function):
    """The product with its gradient; gradients of weights have the weights' own type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        low, low_weight = x.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(low, low_weight)
        ctx.types = x.dtype, weight.dtype, None if bias is None else bias.dtype
        return _product(low, low_weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        x_type, weight_type, bias_type = ctx.types
        return (
            (rows @ weight).view(x.shape).to(x_type) if of_x else None,
            (rows.T @ x.flatten(0, -2)).to(weight_type) if of_weight else None,
            rows.sum(dim=0).to(bias_type) if of_bias else None,
        )

"""Pre-norm transformer blocks with LayerScale. Source: Brain-Semantoks (ICLR 2026), encoder."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from semantoks.model.linear import MLP, Linear

_SHORT = 256  # tokens
_AT_ONCE = 2**20  # attention weights, of long sequences: they stay in the caches


def causal_mask(n_rows: int, n_patches: int, *, device: torch.device) -> Tensor:
    """Return which tokens every token may see where time is causal.

    A token sees all rows at its own and earlier patches; the CLS token sees all tokens, and none of
    them sees it.

    Returns
    -------
    Tensor of bool, shape (1 + N P, 1 + N P)
        True where the token of the row may see that of the column.
    """
    patch = torch.arange(n_patches, device=device).repeat(n_rows)
    size = 1 + n_rows * n_patches
    seen = torch.ones(size, size, dtype=torch.bool, device=device)
    seen[1:, 1:] = patch[:, None] >= patch
    seen[1:, 0] = False
    return seen


def attend(qkv: Tensor, n_heads: int, seen: Tensor | None = None) -> Tensor:
    """Softmax attention: queries, keys and values (B, S, 3 D) to (B, S, D).

    With `seen`, bool (S, S), a token attends to those that are True in its row.

    On a CPU, two products around a softmax beat the fused kernel while a sequence is short, and in
    bfloat16 its backward pass always.
    """
    short, learns = qkv.shape[1] <= _SHORT, torch.is_grad_enabled() and qkv.requires_grad
    if (
        seen is None
        and qkv.device.type == "cpu"
        and (short or (learns and qkv.dtype == torch.bfloat16))
    ):
        if learns:
            out: Tensor = _Attend.apply(qkv, n_heads)  # type: ignore[no-untyped-call]
            return out
        query, key, value = _by_head(qkv, n_heads)
        return _joined(_weights(query, key) @ value, n_heads)
    query, key, value = _split(qkv, n_heads)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    return mixed.transpose(1, 2).flatten(2)


def _split(qkv: Tensor, n_heads: int) -> Tensor:
    """Map (B, S, 3 D) to (3, B, H, S, D_head), without a copy."""
    return qkv.view(*qkv.shape[:2], 3, n_heads, -1).permute(2, 0, 3, 1, 4)


def _by_head(qkv: Tensor, n_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return scaled queries, keys and values, (B H, S, D_head) each."""
    # One copy of all three: products of more than three axes would copy each of their own.
    query, key, value = _split(qkv, n_heads).flatten(1, 2).unbind()
    return query * query.shape[-1] ** -0.5, key, value


def _weights(query: Tensor, key: Tensor) -> Tensor:
    """Return the attention's weights, (B H, S, S)."""
    return _softmax(query @ key.transpose(1, 2))


def _softmax(scores: Tensor) -> Tensor:
    """Return the softmax over the last axis, computed in float32 or wider.

    That is also the fast one: rows of bfloat16 are not vectorised.
    """
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(dim=-1, dtype=wide).to(scores.dtype)


def _joined(x: Tensor, n_heads: int) -> Tensor:
    """Map (B H, S, D_head) to (B, S, D)."""
    return x.view(-1, n_heads, *x.shape[1:]).transpose(1, 2).flatten(2)


class _Attend(torch.autograd.Function):
    """Attention with a gradient that copies and converts less than that of its single steps.

    The weights are kept for the gradient where all heads are computed at once. Of long sequences
    they are computed again, a few heads at a time, so that those of all heads are never held.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, n_heads: int) -> Tensor:
        query, key, value = _by_head(qkv, n_heads)
        mixed, weights = torch.empty_like(value), None
        parts = _parts(query)
        for part in parts:
            weights = _weights(query[part], key[part])
            torch.bmm(weights, value[part], out=mixed[part])
        ctx.save_for_backward(query, key, value, weights if len(parts) == 1 else None)
        ctx.n_heads = n_heads
        return _joined(mixed, n_heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        query, key, value, kept = ctx.saved_tensors
        n_heads: int = ctx.n_heads
        by_head = gradient.reshape(*gradient.shape[:2], n_heads, -1)
        of_mixed = by_head.transpose(1, 2).flatten(0, 1)
        all_three = query.new_empty(3, *query.shape)
        for part in _parts(query):
            weights = _weights(query[part], key[part]) if kept is None else kept
            of_scores = torch._softmax_backward_data(
                of_mixed[part] @ value[part].transpose(1, 2), weights, -1, weights.dtype
            )
            torch.bmm(of_scores, key[part], out=all_three[0, part])
            torch.bmm(of_scores.transpose(1, 2), query[part], out=all_three[1, part])
            torch.bmm(weights.transpose(1, 2), of_mixed[part], out=all_three[2, part])
        all_three[0].mul_(query.shape[-1] ** -0.5)
        split = all_three.view(3, -1, n_heads, *query.shape[1:]).permute(1, 3, 0, 2, 4)
        return split.flatten(2), None


def _parts(query: Tensor) -> list[slice]:
    """Return the heads, (B H, S, D_head), that are computed at once."""
    n_heads, length, _ = query.shape
    size = n_heads if length <= _SHORT else max(1, _AT_ONCE // length**2)
    return [slice(start, start + size) for start in range(0, n_heads, size)]


def pick(x: Tensor, rows: Tensor | None) -> Tensor:
    """Return the rows of (B, S, D) at these places of its flattened (B S, D), or all of it."""
    return x if rows is None else x.flatten(0, 1).index_select(0, rows)


class Attention(nn.Module):
    """Multi-head self-attention, no bias in the query, key and value maps."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.projection = Linear(width, width)

    def forward(self, x: Tensor, rows: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """Map (B, S, D) to (B, S, D), or to its rows (R, D)."""
        out: Tensor = self.projection(pick(attend(self.qkv(x), self.n_heads, seen), rows))
        return out

    def first(self, x: Tensor) -> Tensor:
        """Map (B, S, D) to the first token's row, (B, D).

        One query needs no keys and no values of the other tokens: the keys' map is applied to the
        query instead, and the values' map to what the query gathers.
        """
        by_head = self.qkv.weight.view(3, self.n_heads, -1, x.shape[-1])
        of_query, of_key, of_value = by_head.unbind()
        query = torch.einsum("bw,hdw->bhd", x[:, 0], of_query) * of_query.shape[1] ** -0.5
        scores = torch.einsum("bhd,hdw->bhw", query, of_key) @ x.transpose(1, 2).to(query.dtype)
        gathered = _softmax(scores) @ x.to(query.dtype)
        out: Tensor = self.projection(torch.einsum("bhw,hdw->bhd", gathered, of_value).flatten(1))
        return out


class Block(nn.Module):
    """``x += ls1 * Attn(LN(x)); x += ls2 * MLP(LN(x))``, each dropped with `drop_path`."""

    def __init__(
        self, width: int, n_heads: int, mlp_ratio: float, layer_scale: float, drop_path: float
    ) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, n_heads)
        self.scale1 = nn.Parameter(torch.full((width,), layer_scale))
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden)
        self.scale2 = nn.Parameter(torch.full((width,), layer_scale))
        self.drop_path = drop_path

    def _drop(self, y: Tensor, x: Tensor, rows: Tensor | None) -> Tensor:
        """Drop the whole residual branch of random recordings of `x` (stochastic depth)."""
        if not self.training or self.drop_path == 0.0:
            return y
        keep = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.drop_path
        return y * pick(keep.expand(*x.shape[:2], 1), rows) / (1.0 - self.drop_path)

    def forward(self, x: Tensor, rows: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """Map (B, S, D) to (B, S, D), or only to those rows of its flattened form (R, D).

        With `seen`, bool (S, S), a token attends to those that are True in its row.
        """
        return self._residual(x, self.attention(self.norm1(x), rows, seen), rows)

    def first(self, x: Tensor) -> Tensor:
        """Map (B, S, D) to the first token's row, (B, D)."""
        rows = torch.arange(len(x), device=x.device) * x.shape[1]
        return self._residual(x, self.attention.first(self.norm1(x)), rows)

    def _residual(self, x: Tensor, mixed: Tensor, rows: Tensor | None) -> Tensor:
        """Add what attention mixed, and the MLP, to these rows of `x`."""
        y = torch.addcmul(pick(x, rows), self.scale1, self._drop(mixed, x, rows))
        return torch.addcmul(y, self.scale2, self._drop(self.mlp(self.norm2(y)), x, rows))

"""Pre-norm transformer blocks with LayerScale. Source: Brain-Semantoks (ICLR 2026), encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantoks.model.linear import MLP, Linear

_SHORT = 256  # tokens


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention, (B, H, S, D_head) each.

    On a CPU, two products around a softmax beat the fused kernel while a sequence is short: in
    bfloat16 its backward pass takes five times as long.
    """
    if query.device.type != "cpu" or query.shape[-2] > _SHORT:
        return F.scaled_dot_product_attention(query, key, value)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    # The softmax in float32, or wider, is also the fast one: rows of bfloat16 are not vectorised.
    wide = torch.promote_types(scores.dtype, torch.float32)
    mixed: Tensor = scores.softmax(dim=-1, dtype=wide).to(scores.dtype) @ value
    return mixed


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

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Map (B, S, D) to (B, S, D), or to its rows (R, D)."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.n_heads, width // self.n_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = attend(query, key, value).transpose(1, 2).reshape(batch, length, width)
        out: Tensor = self.projection(pick(mixed, rows))
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

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Map (B, S, D) to (B, S, D), or only to those rows of its flattened form (R, D)."""
        mixed = self._drop(self.attention(self.norm1(x), rows), x, rows)
        y = torch.addcmul(pick(x, rows), self.scale1, mixed)
        return torch.addcmul(y, self.scale2, self._drop(self.mlp(self.norm2(y)), x, rows))


def sincos_positions(n_patches: int, width: int, *, like: Tensor) -> Tensor:
    """Return fixed sine-cosine positions of the patches, shape (P, D): sines, then cosines.

    Computed for as many patches as there are, in float64, then rounded to float32 and cast to
    the type of `like`.
    """
    frequencies = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = torch.arange(n_patches, dtype=torch.float64)[:, None] * frequencies
    positions = torch.cat([angles.sin(), angles.cos()], dim=1)
    return positions.float().to(dtype=like.dtype, device=like.device)

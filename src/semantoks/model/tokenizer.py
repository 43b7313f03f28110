"""Semantic tokenizer: one token per functional network and time patch.

1. The ROIs of one network and one patch, (C_n, L), go through parallel branches of convolutions.
2. The branches' outputs are concatenated to D channels, GELU, pooled over the L time points.
3. LayerNorm.

Every network has its own weights. Source: Brain-Semantoks (ICLR 2026), semantic tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Discriminator
from torch import Tensor, nn

from semantoks.errors import ConfigError
from semantoks.model.longconv import StructuredConv

Pooling = Literal["mean", "max", "attention"]


def _check_positive(branch: Branch, *names: str) -> None:
    for name in names:
        value = getattr(branch, name)
        if value is not None and value <= 0:
            raise ConfigError("must be positive", field=f"encoder.branches.{name}", value=value)


@dataclass(frozen=True, kw_only=True)
class DenseBranch:
    """A convolution over all ROIs of the network at once."""

    kind: Literal["dense"] = "dense"
    """Names this kind of branch."""
    width: int | None = None
    """Output channels; null gives the branch an even share of the encoder's width."""
    kernel_length: int = 3
    """Kernel length, time points."""
    dilation: int = 1
    """Distance between the kernel's taps, time points; above 1 the branch is dilated."""

    def __post_init__(self) -> None:
        _check_positive(self, "width", "kernel_length", "dilation")


@dataclass(frozen=True, kw_only=True)
class SeparableBranch:
    """A convolution per ROI followed by a linear map over ROIs."""

    kind: Literal["separable"] = "separable"
    """Names this kind of branch."""
    width: int | None = None
    """Output channels; null gives the branch an even share of the encoder's width."""
    kernel_length: int = 3
    """Kernel length, time points."""
    dilation: int = 1
    """Distance between the kernel's taps, time points."""

    def __post_init__(self) -> None:
        _check_positive(self, "width", "kernel_length", "dilation")


@dataclass(frozen=True, kw_only=True)
class StructuredBranch:
    """A structured long convolution per ROI followed by a linear map over heads and ROIs."""

    kind: Literal["structured"] = "structured"
    """Names this kind of branch."""
    width: int | None = None
    """Output channels; null gives the branch an even share of the encoder's width."""
    n_scales: int = 3
    """Learned pieces per kernel; the kernel has base_length * 2**(n_scales - 1) taps."""
    base_length: int = 4
    """Learned values per piece."""
    decay_min: float = 2.0
    """Decay of the first ROI's kernel from scale to scale."""
    decay_max: float = 2.0
    """Decay of the last ROI's kernel; linear in between."""

    def __post_init__(self) -> None:
        _check_positive(self, "width", "n_scales", "base_length", "decay_min", "decay_max")


# Told apart by `kind`, so that an error is about the branch that was meant.
Branch = Annotated[DenseBranch | SeparableBranch | StructuredBranch, Discriminator("kind")]


def branch_widths(branches: Sequence[Branch], width: int) -> list[int]:
    """Return the output channels of every branch; they sum to `width`.

    Raises
    ------
    ConfigError
        If the given widths leave nothing, or not an even share, for the others.
    """
    rest = width - sum(b.width or 0 for b in branches)
    free = sum(b.width is None for b in branches)
    if (free == 0 and rest != 0) or (free and (rest <= 0 or rest % free)):
        raise ConfigError(
            f"the branches' widths must add up to the encoder's width {width}",
            field="encoder.branches",
            value=[b.width for b in branches],
            fix="Give every branch a width, or leave some null to share the rest evenly",
        )
    return [b.width if b.width is not None else rest // free for b in branches]


def _same_conv(
    n_in: int, n_out: int, kernel_length: int, dilation: int, groups: int = 1
) -> nn.Conv1d:
    return nn.Conv1d(
        n_in, n_out, kernel_length, padding="same", dilation=dilation, groups=groups, bias=True
    )


class StructuredProjection(nn.Module):
    """Structured long convolution and a linear map to `width` channels."""

    def __init__(self, n_rois: int, width: int, branch: StructuredBranch) -> None:
        super().__init__()
        n_heads = -(-width // n_rois)
        self.conv = StructuredConv(
            n_rois,
            n_heads,
            n_scales=branch.n_scales,
            base_length=branch.base_length,
            decay_min=branch.decay_min,
            decay_max=branch.decay_max,
        )
        self.projection = nn.Linear(n_heads * n_rois, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (M, n_rois, L) to (M, width, L)."""
        y: Tensor = self.projection(self.conv(x).transpose(1, 2))
        return y.transpose(1, 2)


def build_branch(branch: Branch, n_rois: int, width: int) -> nn.Module:
    """Return the module of one branch: (M, n_rois, L) -> (M, width, L)."""
    if isinstance(branch, DenseBranch):
        return _same_conv(n_rois, width, branch.kernel_length, branch.dilation)
    if isinstance(branch, SeparableBranch):
        return nn.Sequential(
            _same_conv(n_rois, n_rois, branch.kernel_length, branch.dilation, groups=n_rois),
            nn.Conv1d(n_rois, width, 1),
        )
    return StructuredProjection(n_rois, width, branch)


class AttentionPooling(nn.Module):
    """Weighted mean over time with one learned, bias-free scorer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scorer = nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (M, D, L) to (M, D)."""
        weights: Tensor = self.scorer(x.transpose(1, 2)).softmax(dim=1)
        return (x @ weights).squeeze(-1)


class NetworkTokenizer(nn.Module):
    """Token of one network: (M, C_n, L) -> (M, D)."""

    def __init__(
        self, n_rois: int, width: int, branches: Sequence[Branch], pooling: Pooling
    ) -> None:
        super().__init__()
        widths = branch_widths(branches, width)
        self.branches = nn.ModuleList(
            build_branch(branch, n_rois, w) for branch, w in zip(branches, widths, strict=True)
        )
        self.pooling = pooling
        self.attention = AttentionPooling(width) if pooling == "attention" else None
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokenize patches on their own, with zero padding at their borders."""
        y = F.gelu(torch.cat([branch(x) for branch in self.branches], dim=1))
        if self.attention is not None:
            pooled = self.attention(y)
        else:
            pooled = y.mean(dim=-1) if self.pooling == "mean" else y.amax(dim=-1)
        out: Tensor = self.norm(pooled)
        return out


class SemanticTokenizer(nn.Module):
    """One token per network and patch, every network with its own weights.

    Parameters
    ----------
    network_rois : sequence of sequences of int
        ROI columns of every network.
    width : int
        Token width D.
    patch_length : int
        Time points per patch L.
    branches : sequence of Branch
        Parallel branches of every network's tokenizer.
    pooling : {"mean", "max", "attention"}
        Pooling over the time points of a patch.
    """

    def __init__(
        self,
        network_rois: Sequence[Sequence[int]],
        width: int,
        patch_length: int,
        branches: Sequence[Branch],
        pooling: Pooling,
    ) -> None:
        super().__init__()
        self.patch_length = patch_length
        self.networks = nn.ModuleList(
            NetworkTokenizer(len(rois), width, branches, pooling) for rois in network_rois
        )
        for i, rois in enumerate(network_rois):
            self.register_buffer(f"rois_{i}", torch.as_tensor(rois), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokenize.

        Parameters
        ----------
        x : Tensor of shape (B, C, T)

        Returns
        -------
        Tensor of shape (B, N, P, D)
        """
        batch, _, n_times = x.shape
        n_patches = n_times // self.patch_length
        tokens = []
        for i, network in enumerate(self.networks):
            rois = x.index_select(1, self.get_buffer(f"rois_{i}"))
            patches = rois.view(batch, -1, n_patches, self.patch_length).transpose(1, 2)
            token = network(patches.flatten(0, 1))
            tokens.append(token.view(batch, n_patches, -1))
        return torch.stack(tokens, dim=1)


class RoiTokenizer(nn.Module):
    """One token per ROI and patch: a linear map of its L values, shared by all ROIs."""

    def __init__(self, width: int, patch_length: int) -> None:
        super().__init__()
        self.patch_length = patch_length
        self.projection = nn.Linear(patch_length, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, P, D)."""
        tokens: Tensor = self.projection(x.reshape(*x.shape[:2], -1, self.patch_length))
        return tokens

"""Semantic tokenizer: one token per functional network and time patch.

1. The ROIs of one network and one patch, (C_n, L), go through parallel branches of convolutions.
2. The branches' outputs are concatenated to D channels, GELU, pooled over the L time points.
3. LayerNorm.

Every network has its own weights. Inside, signals have the shape (C_n, L, M) with all patches of
all recordings along the last axis M, so that everything is a few large matrix products.
Source: Brain-Semantoks (ICLR 2026), semantic tokenizer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Discriminator
from torch import Tensor, nn

from semantoks.errors import ConfigError
from semantoks.model.longconv import StructuredConv, convolve_rois, shifts
from semantoks.model.places import places
from semantoks.model.recompute import run

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


def _left(conv: nn.Conv1d) -> int:
    """Zeros before the signal that keep its length, as PyTorch pads for "same"."""
    return int(conv.dilation[0] * (conv.kernel_size[0] - 1) // 2)


def _mix(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map the channels of (K, L, M) linearly: (W, L, M)."""
    assert bias is not None
    return torch.addmm(bias.unsqueeze(1), weight, x.flatten(1)).view(len(bias), *x.shape[1:])


class FoldedConv(nn.Conv2d):
    """A branch as the one convolution over time that all of its linear steps make.

    Parameters
    ----------
    weight : Tensor of shape (W, C_n, taps)
        The padding is that of "same".
    bias : Tensor of shape (W,)
    dilation : int
    """

    def __init__(self, weight: Tensor, bias: Tensor, dilation: int = 1) -> None:
        width, n_rois, taps = weight.shape
        super().__init__(n_rois, width, (taps, 1), dilation=(dilation, 1), padding="same")
        self.weight = nn.Parameter(weight.unsqueeze(-1), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)


class DenseConv(nn.Conv1d):
    """Convolution over all ROIs of a network as one matrix product over ROIs and taps."""

    def __init__(self, n_rois: int, width: int, branch: DenseBranch) -> None:
        super().__init__(n_rois, width, branch.kernel_length, dilation=branch.dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n_rois, L, M) to (width, L, M)."""
        (taps,), (dilation,), left = self.kernel_size, self.dilation, _left(self)
        padded = F.pad(x, (0, 0, left, dilation * (taps - 1) - left))
        starts = range(0, taps * dilation, dilation)
        lagged = torch.cat([padded[:, s : s + x.shape[1]] for s in starts])
        return _mix(lagged, self.weight.transpose(1, 2).flatten(1), self.bias)

    def folded(self) -> FoldedConv:
        """Return the branch as one convolution."""
        assert self.bias is not None
        return FoldedConv(self.weight, self.bias, self.dilation[0])


class SeparableConv(nn.Sequential):
    """A convolution per ROI, then a linear map over ROIs."""

    _shifts: Tensor

    def __init__(self, n_rois: int, width: int, length: int, branch: SeparableBranch) -> None:
        taps, dilation = branch.kernel_length, branch.dilation
        own = nn.Conv1d(n_rois, n_rois, taps, dilation=dilation, groups=n_rois)
        super().__init__(own, nn.Conv1d(n_rois, width, 1))
        self.dilation = dilation
        meets = shifts(taps, _left(own), length, dilation)
        self.register_buffer("_shifts", meets, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n_rois, L, M) to (width, L, M)."""
        taps, own_bias, across, bias = self._weights()
        y = convolve_rois(x, taps, self._shifts)
        return _mix(y + own_bias[:, None, None], across, bias)

    def folded(self) -> FoldedConv:
        """Return the branch as one convolution."""
        taps, own_bias, across, bias = self._weights()
        return FoldedConv(
            across.unsqueeze(-1) * taps.squeeze(1), bias + across @ own_bias, self.dilation
        )

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return taps (C_n, 1, taps) and bias per ROI, the map over ROIs (W, C_n) and its bias."""
        own, across = self
        assert isinstance(own, nn.Conv1d)
        assert isinstance(across, nn.Conv1d)
        assert own.bias is not None
        assert across.bias is not None
        return own.weight, own.bias, across.weight.squeeze(-1), across.bias


class StructuredProjection(nn.Module):
    """Structured long convolution and a linear map to `width` channels."""

    def __init__(self, n_rois: int, width: int, length: int, branch: StructuredBranch) -> None:
        super().__init__()
        n_heads = -(-width // n_rois)
        self.conv = StructuredConv(
            n_rois,
            n_heads,
            length,
            n_scales=branch.n_scales,
            base_length=branch.base_length,
            decay_min=branch.decay_min,
            decay_max=branch.decay_max,
        )
        self.projection = nn.Linear(n_heads * n_rois, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n_rois, L, M) to (width, L, M)."""
        return _mix(self.conv(x), self.projection.weight, self.projection.bias)

    def folded(self) -> FoldedConv:
        """Return the branch as one convolution."""
        taps = self.conv.weights()
        mix = self.projection.weight.view(-1, *taps.shape[:2])
        return FoldedConv(torch.einsum("wch,cht->wct", mix, taps), self.projection.bias)


def build_branch(branch: Branch, n_rois: int, width: int, length: int) -> nn.Module:
    """Return the module of one branch: (n_rois, L, M) -> (width, L, M)."""
    if isinstance(branch, DenseBranch):
        return DenseConv(n_rois, width, branch)
    if isinstance(branch, SeparableBranch):
        return SeparableConv(n_rois, width, length, branch)
    return StructuredProjection(n_rois, width, length, branch)


class AttentionPooling(nn.Module):
    """Weighted mean over time with one learned, bias-free scorer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scorer = nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (D, L, M) to (D, M)."""
        weights = (self.scorer.weight @ x.flatten(1)).view(x.shape[1:]).softmax(dim=0)
        return (x * weights).sum(dim=1)


class NetworkTokenizer(nn.Module):
    """Token of one network: (C_n, L, M) -> (M, D)."""

    def __init__(
        self,
        n_rois: int,
        width: int,
        length: int,
        branches: Sequence[Branch],
        pooling: Pooling,
    ) -> None:
        super().__init__()
        widths = branch_widths(branches, width)
        self.branches = nn.ModuleList(
            build_branch(branch, n_rois, w, length)
            for branch, w in zip(branches, widths, strict=True)
        )
        self.pooling = pooling
        self.attention = AttentionPooling(width) if pooling == "attention" else None
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokenize patches on their own, with zero padding at their borders."""
        return self.token([F.gelu(branch(x)) for branch in self.branches])

    def token(self, parts: list[Tensor]) -> Tensor:
        """Pool what comes out of the branches, (W, L, M) each, and normalise it: (M, D)."""
        if self.attention is not None:
            pooled = self.attention(torch.cat(parts))
        elif self.pooling == "mean":
            pooled = torch.cat([part.sum(dim=1) for part in parts]) / parts[0].shape[1]
        else:
            pooled = torch.cat([part.amax(dim=1) for part in parts])
        out: Tensor = self.norm(pooled.T)
        return out


class FoldedTokenizer(nn.Module):
    """`NetworkTokenizer` without gradient, every branch as one convolution: (C_n, L, M) -> (M, D).

    A library of convolutions skips the padding and leaves channels last, which mean pooling keeps.
    """

    def __init__(self, network: NetworkTokenizer, length: int) -> None:
        super().__init__()
        self.network = network
        self.mean = nn.AvgPool2d((length, 1))
        self.convs = nn.ModuleList()
        for branch in network.branches:
            assert isinstance(branch, DenseConv | SeparableConv | StructuredProjection)
            self.convs.append(branch.folded())

    def forward(self, x: Tensor) -> Tensor:
        """Tokenize patches on their own, with zero padding at their borders."""
        parts = [F.gelu(conv(x.unsqueeze(0))) for conv in self.convs]
        if self.network.pooling == "mean":  # pooled beforehand, by the same library
            parts = [self.mean(part) for part in parts]
        return self.network.token([part.squeeze(0) for part in parts])


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
            NetworkTokenizer(len(rois), width, patch_length, branches, pooling)
            for rois in network_rois
        )
        for i, rois in enumerate(network_rois):
            self.register_buffer(f"rois_{i}", torch.as_tensor(rois), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, checkpoint: bool = False) -> Tensor:
        """Tokenize.

        Parameters
        ----------
        x : Tensor of shape (B, C, T)
        mask : Tensor of bool, shape (B, N, P), optional
            True where no token is needed: what is there means nothing.
        checkpoint : bool
            Compute the insides of every network's tokenizer again for the gradient.

        Returns
        -------
        Tensor of shape (B, N, P, D)
        """
        batch, n_rois, n_times = x.shape
        n_patches = n_times // self.patch_length
        if torch.is_autocast_enabled(x.device.type):  # once, before every network reads it
            x = x.to(torch.get_autocast_dtype(x.device.type))
        grid = x.reshape(batch, n_rois, n_patches, self.patch_length)
        patches = grid.permute(1, 3, 0, 2).flatten(2)
        kept = self._kept(mask)
        tokens = []
        for i, network in enumerate(self.networks):
            own = patches.index_select(0, self.get_buffer(f"rois_{i}"))
            if kept is None:
                tokens.append(run(network, own, checkpoint=checkpoint))
            else:
                token = run(network, own.index_select(2, kept[i]), checkpoint=checkpoint)
                nothing = token.new_zeros(patches.shape[2], token.shape[1])
                tokens.append(nothing.index_copy(0, kept[i], token))
        return torch.stack(tokens).view(len(tokens), batch, n_patches, -1).transpose(0, 1)

    @torch.no_grad()
    def folded(self) -> SemanticTokenizer:
        """Return a copy for embedding alone, with `FoldedTokenizer` for every network."""
        copied = copy.deepcopy(self)
        networks = cast("list[NetworkTokenizer]", list(copied.networks))
        copied.networks = nn.ModuleList(
            FoldedTokenizer(network, self.patch_length) for network in networks
        )
        return copied

    @staticmethod
    def _kept(mask: Tensor | None) -> Sequence[Tensor] | None:
        """Return the places along the axis of patches that each network tokenizes."""
        if mask is None:
            return None
        return [where for where, _ in places(~mask.transpose(0, 1).flatten(1))]


class RoiTokenizer(nn.Module):
    """One token per ROI and patch: a linear map of its L values, shared by all ROIs."""

    def __init__(self, width: int, patch_length: int) -> None:
        super().__init__()
        self.patch_length = patch_length
        self.projection = nn.Linear(patch_length, width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,  # noqa: ARG002
        *,
        checkpoint: bool = False,  # noqa: ARG002
    ) -> Tensor:
        """Map (B, C, T) to (B, C, P, D); too cheap to leave masked tokens out."""
        tokens: Tensor = self.projection(x.reshape(*x.shape[:2], -1, self.patch_length))
        return tokens

"""Branches of the semantic tokenizer: convolutions from a network's ROIs to channels.

Inside, signals have the shape (C_n, L, M) with all patches of all recordings along the last axis M,
so that everything is a few large matrix products.
Source: Brain-Semantoks (ICLR 2026), semantic tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Discriminator
from torch import Tensor, nn

from semantoks.config import check_positive
from semantoks.errors import ConfigError
from semantoks.model.tokenizers.longconv import StructuredConv, convolve_rois, shifts


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
        check_positive(self, "encoder.branches", "width", "kernel_length", "dilation")


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
        check_positive(self, "encoder.branches", "width", "kernel_length", "dilation")


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
        check_positive(
            self, "encoder.branches", "width", "n_scales", "base_length", "decay_min", "decay_max"
        )


# Chosen by `kind`, so that an error is about the branch that was meant.
Branch = Annotated[DenseBranch | SeparableBranch | StructuredBranch, Discriminator("kind")]

#: The paper's.
BRANCHES: tuple[Branch, ...] = (DenseBranch(), StructuredBranch())


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
        # Not F.pad, which before torch 2.9 refuses a batch without patches.
        zeros = x.new_zeros(len(x), dilation * (taps - 1), x.shape[2])
        padded = torch.cat([zeros[:, :left], x, zeros[:, left:]], dim=1)
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

"""Semantic tokenizer: one token per functional network and time patch.

1. The ROIs of one network and one patch, (C_n, L), go through parallel branches of convolutions.
2. The branches' outputs are concatenated to D channels, GELU, pooled over the L time points.
3. LayerNorm.

Every network has its own weights. With one network that holds all ROIs, a token stands for the
whole brain. Inside, signals have the shape (C_n, L, M), see `semantoks.model.tokenizers.branches`.
Source: Brain-Semantoks (ICLR 2026), semantic tokenizer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantoks.atlas.channels import Channels, TokenRows
from semantoks.model.places import places
from semantoks.model.positions import LearnedPositions
from semantoks.model.recompute import run
from semantoks.model.tokenizers.base import Pooling, Tokenizer
from semantoks.model.tokenizers.branches import (
    Branch,
    DenseConv,
    SeparableConv,
    StructuredProjection,
    branch_widths,
    build_branch,
)

if TYPE_CHECKING:
    from semantoks.model.encoder import EncoderConfig


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


class SemanticTokenizer(Tokenizer):
    """One token per network and patch, every network with its own weights.

    Parameters
    ----------
    rows : TokenRows
        ROIs of every network.
    width : int
        Token width D.
    patch_length : int
        Time points per patch L.
    branches : sequence of Branch
        Parallel branches of every network's tokenizer.
    pooling : {"mean", "max", "attention"}
        Pooling over the time points of a patch.
    """

    has_branches = True

    def __init__(
        self,
        rows: TokenRows,
        width: int,
        patch_length: int,
        branches: Sequence[Branch],
        pooling: Pooling,
    ) -> None:
        super().__init__(rows, LearnedPositions(len(rows), width))
        self.patch_length = patch_length
        self.networks = nn.ModuleList(
            NetworkTokenizer(len(rois), width, patch_length, branches, pooling)
            for rois in rows.channels
        )
        for i, rois in enumerate(rows.channels):
            self.register_buffer(f"rois_{i}", torch.as_tensor(rois), persistent=False)

    @classmethod
    def build(cls, config: EncoderConfig, channels: Channels) -> SemanticTokenizer:
        """Return the tokenizer of an encoder."""
        rows = cls.rows_of(channels)
        return cls(rows, config.width, config.patch_length, config.branches, config.pooling)

    @staticmethod
    def rows_of(channels: Channels) -> TokenRows:
        """Return the networks: the groups of the channels."""
        return TokenRows.by_group(channels)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, checkpoint: bool = False) -> Tensor:
        """Tokenize.

        Parameters
        ----------
        x : Tensor of shape (B, C, T)
        mask : Tensor of bool, shape (B, N, P), optional
            True where no token is needed; the values returned there are arbitrary.
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
    def folded(self) -> nn.Module:
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


class WholeBrainTokenizer(SemanticTokenizer):
    """One token per patch: a semantic tokenizer with one network that holds all ROIs."""

    @staticmethod
    def rows_of(channels: Channels) -> TokenRows:
        """Return one row of all channels."""
        return TokenRows.of(channels, ("whole brain",), [np.arange(len(channels))])

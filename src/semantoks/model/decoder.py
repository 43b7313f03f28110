"""Decoders: a narrow transformer over the encoder's tokens, and linear maps back to signals.

Source: He et al., CVPR 2022 (masked autoencoders), section 3: a light decoder sees the tokens that
the encoder finished and one learned vector in place of the hidden ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semantoks.atlas.channels import TokenRows
from semantoks.config import check_positive
from semantoks.errors import ConfigError
from semantoks.model.encoder import Encoder
from semantoks.model.positions import make_positions
from semantoks.model.transformer import Block


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Size of a decoder, which training alone uses."""

    width: int = 96
    """Width of a token; a multiple of head_width."""
    depth: int = 2
    """Transformer blocks."""
    head_width: int = 32
    """Width of one attention head."""

    def __post_init__(self) -> None:
        check_positive(self, "objective.decoder", "width", "depth", "head_width")
        if self.width % self.head_width or self.width % 2:
            raise ConfigError(
                f"must be even and a multiple of head_width ({self.head_width})",
                field="objective.decoder.width",
                value=self.width,
            )


class TokenDecoder(nn.Module):
    """A narrow transformer over an encoder's tokens, with its own positions of the same kind.

    Parameters
    ----------
    encoder : Encoder
        Gives the rows of the token grid and the width of its tokens.
    config : DecoderConfig
    """

    def __init__(self, encoder: Encoder, config: DecoderConfig) -> None:
        super().__init__()
        self.entry = nn.Linear(encoder.config.width, config.width)
        self.hidden_token = nn.Parameter(0.02 * torch.randn(config.width))
        self.positions = make_positions(
            encoder.config.positions, encoder.rows, encoder.channels, config.width
        )
        self.positions.draw()
        n_heads = config.width // config.head_width
        self.blocks = nn.ModuleList(
            Block(config.width, n_heads, 4.0, 1.0, 0.0) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, cls: Tensor, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Decode.

        Parameters
        ----------
        cls : Tensor of shape (B, D)
        tokens : Tensor of shape (B, N * P, D)
            Of the encoder; what stands at hidden places is not seen.
        hidden : Tensor of bool, shape (B, N, P)

        Returns
        -------
        Tensor of shape (B, N, P, W)
        """
        entered = self.entry(tokens).unflatten(1, hidden.shape[1:])
        blank = self.hidden_token.to(entered.dtype)
        grid = self.positions(torch.where(hidden.unsqueeze(-1), blank, entered))
        sequence = torch.cat([self.entry(cls).unsqueeze(1), grid.flatten(1, 2)], dim=1)
        for block in self.blocks:
            sequence = block(sequence)
        out: Tensor = self.norm(sequence[:, 1:]).unflatten(1, hidden.shape[1:])
        return out


class SignalHead(nn.Module):
    """Linear maps from a token to the signals of the channels of its row, M in all.

    Rows of a single channel share one map; rows of several channels have one each.

    Parameters
    ----------
    rows : TokenRows
    width, patch_length : int
        Width of the tokens, time points per patch L.
    """

    def __init__(self, rows: TokenRows, width: int, patch_length: int) -> None:
        super().__init__()
        self.patch_length = patch_length
        self._sizes = [len(places) for places in rows.channels]
        self.n_channels = sum(self._sizes)
        shared = set(self._sizes) == {1}
        self.maps = nn.ModuleList(
            nn.Linear(width, size * patch_length) for size in ([1] if shared else self._sizes)
        )
        places = torch.cat([torch.as_tensor(places) for places in rows.channels])
        row = torch.arange(len(rows)).repeat_interleave(torch.tensor(self._sizes))
        self.register_buffer("_channel", places, persistent=False)
        self.register_buffer("_row", row, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, P, W) to signals (B, M, P, L)."""
        if len(self.maps) == 1 and len(self._sizes) > 1:
            out: Tensor = self.maps[0](tokens)
            return out
        rows = [
            one(tokens[:, n]).unflatten(-1, (size, self.patch_length)).transpose(1, 2)
            for n, (one, size) in enumerate(zip(self.maps, self._sizes, strict=True))
        ]
        return torch.cat(rows, dim=1)

    def patches(self, x: Tensor) -> Tensor:
        """Return signals (B, C, T) as what `forward` gives, (B, M, P, L)."""
        out: Tensor = x[:, self.get_buffer("_channel")].unflatten(2, (-1, self.patch_length))
        return out

    def to_channels(self, signals: Tensor, n_channels: int) -> Tensor:
        """Put signals (B, M, L) into the order of the channels, (B, C, L)."""
        blank = signals.new_zeros(len(signals), n_channels, signals.shape[2])
        return blank.index_copy(1, self.get_buffer("_channel"), signals)

    def by_channel(self, grid: Tensor) -> Tensor:
        """Repeat a grid (B, N, P) for the channels of every row, (B, M, P)."""
        return grid.index_select(1, self.get_buffer("_row"))

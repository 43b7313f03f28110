"""One token per ROI and time patch. Source: Brain-Semantoks (ICLR 2026), granularity of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from semantoks.atlas.channels import Channels, TokenRows
from semantoks.model.positions import LearnedPositions
from semantoks.model.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from semantoks.model.encoder import EncoderConfig


class RoiTokenizer(Tokenizer):
    """One token per ROI and patch: a linear map of its L values, shared by all ROIs.

    Parameters
    ----------
    rows : TokenRows
        One per ROI, in order.
    width, patch_length : int
        Token width D, time points per patch L.
    """

    def __init__(self, rows: TokenRows, width: int, patch_length: int) -> None:
        super().__init__(rows, LearnedPositions(len(rows), width))
        self.patch_length = patch_length
        self.projection = nn.Linear(patch_length, width)

    @classmethod
    def build(cls, config: EncoderConfig, channels: Channels) -> RoiTokenizer:
        """Return the tokenizer of an encoder."""
        rows = TokenRows.by_channel(channels)
        return cls(rows, config.width, config.patch_length)

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

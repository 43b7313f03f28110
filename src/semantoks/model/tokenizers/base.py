"""`Tokenizer`: what turns signals into a grid of tokens, whatever a row of the grid stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor, nn

from semantoks.atlas.channels import Channels, TokenRows
from semantoks.model.positions import Positions

if TYPE_CHECKING:
    from semantoks.model.encoder import EncoderConfig

Pooling = Literal["mean", "max", "attention"]


class Tokenizer(nn.Module, ABC):
    """Signals (B, C, T) to tokens (B, N, P, D), P patches of L time points each.

    A new kind of tokenizer is one file with a subclass, and one line in
    `semantoks.model.tokenizers.registry`.

    Parameters
    ----------
    rows : TokenRows
        What every row of the token grid stands for, which channels it reads, and when it counts as
        missing.
    positions : Positions
        Adds to every token where it stands.
    """

    #: Whether it is made of `EncoderConfig.branches` and `EncoderConfig.pooling`.
    has_branches = False
    #: Whether a token reads a whole crop, of any length: then P is 1, and a volume that is zero in
    #: every channel holds no data (padding, or interpolated across censored volumes).
    whole: ClassVar[bool] = False
    #: Whether `fit` learns from training crops before the first step.
    is_fitted_first: ClassVar[bool] = False

    def __init__(self, rows: TokenRows, positions: Positions) -> None:
        super().__init__()
        self.rows = rows
        self.positions = positions  # first, so that optimisers meet it first

    @classmethod
    @abstractmethod
    def build(cls, config: EncoderConfig, channels: Channels) -> Tokenizer:
        """Return the tokenizer of an encoder."""

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None, *, checkpoint: bool = False) -> Tensor:
        """Tokenize.

        Parameters
        ----------
        x : Tensor of shape (B, C, T)
        mask : Tensor of bool, shape (B, N, P), optional
            True where no token is needed; the values returned there are arbitrary.
        checkpoint : bool
            Compute the insides again for the gradient, where that saves memory.

        Returns
        -------
        Tensor of shape (B, N, P, D)
            Without positions.
        """

    def folded(self) -> nn.Module:
        """Return what maps signals to the same tokens fastest, for embedding alone."""
        return self

    def reads(self, channels: Channels) -> bool:  # noqa: ARG002
        """Return whether the same weights can read these channels in place of their own.

        The weights of most tokenizers belong to a fixed list of channels. One that works from
        groups or coordinates says here which other channels it understands.
        """
        return False

    def shortest(self, config: EncoderConfig) -> int:
        """Return how many volumes a recording must have."""
        return config.patch_length

    def fit(self, crops: Tensor) -> None:
        """Fit what has a closed form on unlabelled training crops (B, C, T): nothing by default."""

    def copy_fitted(self, other: Tokenizer) -> None:
        """Take over what `fit` fitted to another tokenizer of this kind: nothing by default."""

"""Vector-quantised tokenizer: one token per ROI and time patch, made of codes.

1. A patch of L values is replaced by the nearest entry of a first codebook, what is left over by
   the nearest entry of a second one, and so on (residual vector quantisation).
2. The token is the sum of one learned vector per code.

The codebooks are fitted once, by k-means on unlabelled training crops before the first step, and
are stored with the weights: codes are a fixed function of the signal, every objective can train on
them, and no codebook can collapse. How evenly its entries are used is the perplexity.

Source: residual vector quantisation as in SoundStream (Zeghidour et al., 2021); codebooks that are
learned before the model, as in MEG-GPT (Huang et al., 2025). Changed: k-means in place of an
autoencoder with a straight-through gradient and a commitment loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from semantoks.atlas.channels import Channels, TokenRows
from semantoks.config import check_positive
from semantoks.model.positions import LearnedPositions
from semantoks.model.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from semantoks.model.encoder import EncoderConfig

_FITTED_ON = 50_000  # patches, at most
_AT_ONCE = 2**15  # patches


@dataclass(frozen=True, kw_only=True)
class VQConfig:
    """Codes of patches (only for the granularity "vq")."""

    n_codebooks: int = 4
    """Codebooks, each for what the ones before it leave over."""
    n_codes: int = 256
    """Entries of a codebook."""

    def __post_init__(self) -> None:
        check_positive(self, "encoder.vq", "n_codebooks", "n_codes")


class VQTokenizer(Tokenizer):
    """One token per ROI and patch: the sum of the vectors of its codes.

    Parameters
    ----------
    rows : TokenRows
        One per ROI, in order.
    width, patch_length : int
        Token width D, time points per patch L.
    config : VQConfig

    Attributes
    ----------
    codebooks : Tensor of shape (K, n_codes, L)
        Fitted before training; zero where fewer patches than codes were seen.
    usage : Tensor of shape (K, n_codes)
        Share of every code over the patches that the codebooks were fitted to.
    """

    is_fitted_first: ClassVar[bool] = True
    codebooks: Tensor
    usage: Tensor

    def __init__(self, rows: TokenRows, width: int, patch_length: int, config: VQConfig) -> None:
        super().__init__(rows, LearnedPositions(len(rows), width))
        self.patch_length = patch_length
        shape = (config.n_codebooks, config.n_codes)
        self.vectors = nn.Parameter(torch.randn(*shape, width) / config.n_codebooks**0.5)
        self.register_buffer("codebooks", torch.zeros(*shape, patch_length))
        self.register_buffer("usage", torch.zeros(shape))

    @classmethod
    def build(cls, config: EncoderConfig, channels: Channels) -> VQTokenizer:
        """Return the tokenizer of an encoder."""
        rows = TokenRows.by_channel(channels)
        return cls(rows, config.width, config.patch_length, config.vq)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,  # noqa: ARG002
        *,
        checkpoint: bool = False,  # noqa: ARG002
    ) -> Tensor:
        """Map (B, C, T) to (B, C, P, D); too cheap to leave masked tokens out."""
        codes = self.codes(x)
        chosen = [own[code] for own, code in zip(self.vectors, codes.unbind(-1), strict=True)]
        return torch.stack(chosen).sum(dim=0)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of signals (B, C, T), int64, shape (B, C, P, K)."""
        patches = x.unflatten(2, (-1, self.patch_length))
        with torch.autocast(x.device.type, enabled=False):
            rows = patches.flatten(0, 2).to(self.codebooks.dtype)
            found = torch.cat([self._residual(some)[0] for some in rows.split(_AT_ONCE)])
        return found.view(*patches.shape[:3], -1)

    def _residual(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes (n, K) of patches (n, L), and what all codebooks leave over."""
        codes = []
        for codebook in self.codebooks:
            nearest = (codebook.square().sum(dim=1) - 2 * rows @ codebook.T).argmin(dim=1)
            codes.append(nearest)
            rows = rows - codebook[nearest]
        return torch.stack(codes, dim=1), rows

    @property
    def perplexity(self) -> Tensor:
        """How many codes of every codebook are in even use: exp of the entropy of `usage`, (K,)."""
        entropy: Tensor = torch.special.entr(self.usage).sum(dim=1)
        return entropy.exp()

    @torch.no_grad()
    def fit(self, crops: Tensor) -> None:
        """Fit the codebooks to unlabelled training crops (B, C, T), one after the other."""
        from sklearn.cluster import MiniBatchKMeans

        rows = crops.unflatten(2, (-1, self.patch_length)).flatten(0, 2).float().cpu()
        rows = rows[rows.any(dim=1)]
        generator = torch.Generator().manual_seed(0)
        rows = rows[torch.randperm(len(rows), generator=generator)[:_FITTED_ON]]
        for codebook, usage in zip(self.codebooks, self.usage, strict=True):
            n_codes = min(len(codebook), len(rows))
            means = MiniBatchKMeans(n_codes, n_init=3, batch_size=4096, random_state=0)
            codes = torch.as_tensor(means.fit_predict(rows.numpy()), dtype=torch.int64)
            centres = torch.as_tensor(means.cluster_centers_).float()
            codebook.fill_(0)
            codebook[:n_codes] = centres
            usage.copy_(codes.bincount(minlength=len(usage)) / len(codes))
            rows = rows - centres[codes]

    def copy_fitted(self, other: Tokenizer) -> None:
        """Take over the codebooks, which are no weights that training changes."""
        assert isinstance(other, VQTokenizer)
        self.codebooks.copy_(other.codebooks)
        self.usage.copy_(other.usage)

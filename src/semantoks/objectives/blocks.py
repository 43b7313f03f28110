"""Masked connectivity: the blocks of hidden networks, from the connections of the others.

Tokens of second order, one per network, some networks hidden. For every pair of hidden networks
(n, m), n = m among them, a linear map of the sum of their two finished tokens gives the principal
coordinates y of the block of E = log(I + b R) that holds their connections,

    L = sum_(n, m) ||y_nm - W_nm (h_n + h_m)||^2 / |M|,  M the coordinates that are compared.

A block is compared only where both networks are hidden: else the token of the one that is seen
holds it.

Source: ST-MAE (spatio-temporal masked autoencoder of dynamic connectivity), from which it takes the
masked reconstruction of connectivity. Changed: what is hidden are networks of one crop's
connectivity, not windows of it, so that tokens are those of the second-order model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from semantoks.config import check_positive
from semantoks.model.encoder import Encoder
from semantoks.model.spectral import principal_axes
from semantoks.model.tokenizers.connectome import ConnectomeTokenizer
from semantoks.objectives.objective import hidden_tokens
from semantoks.objectives.parallel import at_least_float32
from semantoks.objectives.prediction import refuse_first_order, second_order
from semantoks.objectives.reconstruction import Reconstructed, SquaredErrorObjective
from semantoks.views.batch import ViewBatch
from semantoks.views.crops import CropGroup, ViewPlan

_AT_ONCE = 64  # crops


@dataclass(frozen=True, kw_only=True)
class BlocksConfig:
    """Masked connectivity; which networks are hidden is that of `views.masks`."""

    kind: Literal["blocks"] = "blocks"
    """Objective."""
    n_components: int = 16
    """Principal coordinates of a block."""

    def __post_init__(self) -> None:
        check_positive(self, "objective", "n_components")


class BlockDecoder(nn.Module):
    """An encoder of second-order tokens with a linear decoder per pair of networks.

    Parameters
    ----------
    encoder : Encoder
    n_components : int
        Principal coordinates K of a block.

    Attributes
    ----------
    axes_0, axes_1, ... : Tensor of shape (C_n * C_m, K)
        Principal axes of the blocks, in the order of `pairs`, fitted before training.
    """

    def __init__(self, encoder: Encoder, n_components: int) -> None:
        super().__init__()
        self.encoder, self.n_components = encoder, n_components
        self.pairs = torch.triu_indices(encoder.n_networks, encoder.n_networks)
        n_pairs = self.pairs.shape[1]
        width = encoder.config.width
        self.weight = nn.Parameter(torch.randn(n_pairs, width, n_components) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(n_pairs, n_components))
        sizes = [len(own) for own in encoder.rows.channels]
        for i, (n, m) in enumerate(self.pairs.T.tolist()):
            self.register_buffer(f"axes_{i}", torch.zeros(sizes[n] * sizes[m], n_components))

    @property
    def tokenizer(self) -> ConnectomeTokenizer:
        """The tokenizer, of second order."""
        return second_order(self.encoder)

    def block(self, centred: Tensor, pair: int) -> Tensor:
        """Return a block of matrices (B, C, C), flattened, (B, C_n * C_m)."""
        n, m = (self.encoder.rows.channels[i] for i in self.pairs[:, pair].tolist())
        out: Tensor = centred[:, n][:, :, m].flatten(1)
        return out

    @torch.no_grad()
    def coordinates(self, centred: Tensor) -> Tensor:
        """Return the principal coordinates of all blocks of (B, C, C), shape (B, pairs, K)."""
        with torch.autocast(centred.device.type, enabled=False):
            found = [
                self.block(centred, i) @ self.get_buffer(f"axes_{i}").to(centred)
                for i in range(len(self.weight))
            ]
        return torch.stack(found, dim=1)

    def forward(self, view: Tensor, hidden: Tensor, missing: Tensor | None) -> Reconstructed:
        """Predict the blocks of hidden networks, and compare.

        Parameters
        ----------
        view : Tensor of shape (B, C, T)
        hidden : Tensor of bool, shape (B, N, 1)
        missing : Tensor of bool, shape (B, N, 1), or None
        """
        centred = self.tokenizer.centred(view)
        tokens = self.tokenizer.tokens(self.tokenizer.coordinates(centred))
        sequence = self.encoder.assemble(tokens, hidden)
        every = torch.arange(hidden.numel(), device=view.device)
        cls, finished = self.encoder.finish(sequence, every)
        grid = finished.view(len(view), self.encoder.n_networks, -1)
        one, two = self.pairs.to(view.device)
        both = grid[:, one] + grid[:, two]
        found = at_least_float32(torch.einsum("bqd,qdk->bqk", both, self.weight) + self.bias)
        target = at_least_float32(self.coordinates(centred))
        compared = hidden[..., 0] if missing is None else (hidden & ~missing)[..., 0]
        kept = (compared[:, one] & compared[:, two]).unsqueeze(-1)
        error = ((found - target) * kept).square().sum(dim=(1, 2))
        energy = (target * kept).square().sum(dim=(1, 2))
        size = kept.sum(dim=(1, 2)).to(error) * self.n_components
        return Reconstructed(cls.detach(), error, energy, size)


class Blocks(SquaredErrorObjective):
    """The objective.

    Parameters
    ----------
    encoder : Encoder
        With second-order tokens.
    config : BlocksConfig

    Raises
    ------
    ConfigError
        If the tokens of the encoder are not of second order.
    """

    needs_masks: ClassVar[bool] = True
    views = ViewPlan(groups=(CropGroup(n_views=1),))

    def __init__(self, encoder: Encoder, config: BlocksConfig) -> None:
        super().__init__()
        refuse_first_order(encoder, config.kind)
        self.config = config
        self.online = BlockDecoder(encoder, config.n_components)

    @torch.no_grad()
    def fit(self, crops: Tensor) -> None:
        """Fit the tokenizer, and the axes of the blocks, on training crops (B, C, T)."""
        super().fit(crops)
        learner = self.online
        centred = [learner.tokenizer.centred(some).float() for some in crops.split(_AT_ONCE)]
        for i in range(len(learner.weight)):
            rows = torch.cat([learner.block(some, i) for some in centred])
            learner.get_buffer(f"axes_{i}").copy_(principal_axes(rows, self.config.n_components))

    def inputs(self, part: ViewBatch, plan: None) -> tuple[Tensor, Tensor, Tensor | None]:  # noqa: ARG002
        """Return the crops, their hidden networks, and those without data."""
        hidden = hidden_tokens(part)
        assert hidden is not None
        return part.views[0], hidden[0], None if part.missing is None else part.missing[0]

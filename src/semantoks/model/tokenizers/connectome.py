"""Connectome tokenizer: one token per functional network, of second order.

1. E = log(I + b R), R the correlations of all ROIs over the volumes of a crop.
2. The rows of E that belong to network n, less their mean over recordings, become their principal
   coordinates.
3. A linear map of these coordinates is the token of network n.

Mean and principal axes are fitted once, on unlabelled training crops before the first step, and are
stored with the weights. A crop of any length is one patch. Entries of a ROI without data are taken
to be at their mean: a network with partial coverage has smaller coordinates, not those of zeros.

Beyond the paper: its tokens are of first order (of signals), these are of second order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantoks.atlas.channels import Channels, TokenRows
from semantoks.config import check_positive
from semantoks.errors import ConfigError
from semantoks.model.positions import LearnedPositions
from semantoks.model.spectral import principal_axes, spectral_connectivity
from semantoks.model.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from semantoks.model.encoder import EncoderConfig

_AT_ONCE = 64  # crops


@dataclass(frozen=True, kw_only=True)
class ConnectomeConfig:
    """Second-order tokens (only for the granularity "connectome")."""

    factor: float = 2 / 3
    """The factor b of log(I + b R)."""
    n_components: int = 128
    """Principal coordinates per network."""
    dropout: float = 0.2
    """Share of the coordinates that are dropped in training."""
    shortest: int = 30
    """Volumes that a recording must have, at the store's TR."""

    def __post_init__(self) -> None:
        for name, least in (("n_components", 1), ("shortest", 3)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"must be at least {least}",
                    field=f"encoder.connectome.{name}",
                    value=getattr(self, name),
                )
        check_positive(self, "encoder.connectome", "factor")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(
                "must lie in [0, 1)", field="encoder.connectome.dropout", value=self.dropout
            )


class ConnectomeTokenizer(Tokenizer):
    """One token per network: a linear map of the principal coordinates of its rows of E.

    Parameters
    ----------
    rows : TokenRows
        ROIs of every network.
    n_channels : int
        ROIs C.
    width : int
        Token width D.
    config : ConnectomeConfig

    Attributes
    ----------
    mean : Tensor of shape (C, C)
        Mean of E over training crops.
    axes_0, axes_1, ... : Tensor of shape (C_n * C, K)
        Principal axes of the rows of network n, divided by the root mean square of the coordinates
        over training crops; zero where fewer crops than `n_components` were seen.
    spread : Tensor of shape (4,)
        Standard deviation of every part of an embedding, see `semantoks.model.readout`.
    """

    whole: ClassVar[bool] = True
    is_fitted_first: ClassVar[bool] = True
    mean: Tensor
    spread: Tensor

    def __init__(
        self, rows: TokenRows, n_channels: int, width: int, config: ConnectomeConfig
    ) -> None:
        super().__init__(rows, LearnedPositions(len(rows), width))
        self.config = config
        self.maps = nn.ModuleList(nn.Linear(config.n_components, width) for _ in rows.names)
        self.register_buffer("mean", torch.zeros(n_channels, n_channels))
        self.register_buffer("spread", torch.ones(4))
        for i, rois in enumerate(rows.channels):
            self.register_buffer(f"rois_{i}", torch.as_tensor(rois), persistent=False)
            axes = torch.zeros(len(rois) * n_channels, config.n_components)
            self.register_buffer(f"axes_{i}", axes)

    @classmethod
    def build(cls, config: EncoderConfig, channels: Channels) -> ConnectomeTokenizer:
        """Return the tokenizer of an encoder."""
        rows = TokenRows.by_group(channels)
        return cls(rows, len(channels), config.width, config.connectome)

    def shortest(self, config: EncoderConfig) -> int:
        """Return how many volumes a recording must have."""
        return config.connectome.shortest

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,  # noqa: ARG002
        *,
        checkpoint: bool = False,  # noqa: ARG002
    ) -> Tensor:
        """Map (B, C, T) to (B, N, 1, D); too cheap to leave masked tokens out."""
        return self.tokens(self.coordinates(self.centred(x)))

    @torch.no_grad()
    def connectome(self, x: Tensor) -> Tensor:
        """Return E = log(I + b R) of signals (B, C, T), shape (B, C, C), in float32 or wider."""
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return spectral_connectivity(x.to(wide), "log", self.config.factor)

    @torch.no_grad()
    def centred(self, x: Tensor) -> Tensor:
        """Return E less its mean over training crops, 0 where a ROI has no data, (B, C, C)."""
        found = self.connectome(x)
        present = found.diagonal(dim1=1, dim2=2) != 0
        return (found - self.mean.to(found)) * (present.unsqueeze(1) & present.unsqueeze(2))

    @torch.no_grad()
    def coordinates(self, centred: Tensor) -> Tensor:
        """Return the principal coordinates of the networks.

        Parameters
        ----------
        centred : Tensor of shape (B, C, C)
            From `centred`.

        Returns
        -------
        Tensor of shape (B, N, K)
            Of the type of the weights; their mean square over training crops is 1.
        """
        with torch.autocast(centred.device.type, enabled=False):
            coordinates = [
                centred[:, self.get_buffer(f"rois_{i}")].flatten(1)
                @ self.get_buffer(f"axes_{i}").to(centred)
                for i in range(len(self.rows))
            ]
        return torch.stack(coordinates, dim=1).to(self.mean.dtype)

    def tokens(self, coordinates: Tensor) -> Tensor:
        """Map coordinates (B, N, K) to tokens (B, N, 1, D)."""
        seen = F.dropout(coordinates, self.config.dropout, self.training)
        tokens = [one(seen[:, i]) for i, one in enumerate(self.maps)]
        return torch.stack(tokens, dim=1).unsqueeze(2)

    @torch.no_grad()
    def fit(self, crops: Tensor) -> None:
        """Fit mean and principal axes on unlabelled training crops (B, C, T)."""
        found = torch.cat([self.connectome(some).float() for some in crops.split(_AT_ONCE)])
        present = found.diagonal(dim1=1, dim2=2) != 0
        n_present = (present.unsqueeze(1) & present.unsqueeze(2)).sum(dim=0)
        self.mean.copy_(found.sum(dim=0) / n_present.clamp(min=1))
        del found
        centred = torch.cat([self.centred(some).float() for some in crops.split(_AT_ONCE)])
        for i, rois in enumerate(self.rows.channels):
            axes = principal_axes(centred[:, rois].flatten(1), self.config.n_components)
            self.get_buffer(f"axes_{i}").copy_(axes)

    def copy_fitted(self, other: Tokenizer) -> None:
        """Take over mean and principal axes, which are no weights that training changes."""
        assert isinstance(other, ConnectomeTokenizer)
        own = {name: value for name, value in other.named_buffers() if name != "spread"}
        self.load_state_dict(own, strict=False)

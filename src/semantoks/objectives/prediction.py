"""Prediction of one part of a scan from another: the objective of the second-order model.

Two parts of a recording share no volume. From the CLS token of one, with networks hidden and
coordinates dropped, a linear decoder predicts the principal coordinates of the other's E. What two
parts have in common belongs to the person, what they do not have is noise.

Beyond the paper: needs no teacher and no negative pairs; what is predicted is fixed, so that
nothing can collapse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from semantoks.config import check_positive
from semantoks.errors import ConfigError
from semantoks.model.encoder import Encoder
from semantoks.model.spectral import principal_axes, triangle
from semantoks.model.tokenizers.connectome import ConnectomeTokenizer
from semantoks.objectives.objective import Losses, Moment, Objective, hidden_tokens
from semantoks.objectives.parallel import at_least_float32, total
from semantoks.views.batch import ViewBatch
from semantoks.views.crops import CropGroup, ViewPlan


@dataclass(frozen=True, kw_only=True)
class PredictionConfig:
    """Prediction of the other part of the scan."""

    kind: Literal["prediction"] = "prediction"
    """Objective."""
    weight: float = 5.0
    """Weight of the squared error, which is 1 where the mean is predicted."""
    n_components: int = 256
    """Principal coordinates of E = log(I + b R) that are predicted."""

    def __post_init__(self) -> None:
        check_positive(self, "objective", "weight", "n_components")


class Predicted(NamedTuple):
    """Outputs of the learner.

    Parameters
    ----------
    embedding : Tensor of shape (2, B, D)
        CLS tokens.
    prediction : Tensor of shape (2, B, K)
        Of the coordinates of the other part.
    coordinates : Tensor of shape (2, B, K)
        Of every part itself.
    """

    embedding: Tensor
    prediction: Tensor
    coordinates: Tensor


class Predictor(nn.Module):
    """An encoder of second-order tokens with a linear decoder.

    Parameters
    ----------
    encoder : Encoder
    n_components : int
        Principal coordinates K that are predicted.
    """

    axes: Tensor

    def __init__(self, encoder: Encoder, n_components: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.Linear(encoder.config.width, n_components)
        n_rois = len(encoder.channels)
        self.register_buffer("axes", torch.zeros(n_rois * (n_rois + 1) // 2, n_components))

    def forward(self, views: Tensor, hidden: Tensor | None) -> Predicted:
        """Embed both parts and predict each from the other.

        Parameters
        ----------
        views : Tensor of shape (2, B, C, T)
        hidden : Tensor of bool, shape (2, B, N, 1), or None
            Tokens replaced by the mask vector.
        """
        tokenizer, shape = second_order(self.encoder), views.shape[:2]
        centred = tokenizer.centred(views.flatten(0, 1))
        mask = None if hidden is None else hidden.flatten(0, 1)
        tokens = tokenizer.tokens(tokenizer.coordinates(centred))
        cls, _ = self.encoder.finish(self.encoder.assemble(tokens, mask))
        with torch.no_grad(), torch.autocast(views.device.type, enabled=False):
            coordinates = triangle(centred) @ self.axes.to(centred)
        found = (cls, self.decoder(cls), coordinates)
        return Predicted(*(one.unflatten(0, shape) for one in found))


def second_order(encoder: Encoder) -> ConnectomeTokenizer:
    """Return the tokenizer of an encoder, which is of second order."""
    assert isinstance(encoder.tokenizer, ConnectomeTokenizer)
    return encoder.tokenizer


def refuse_first_order(encoder: Encoder, kind: str) -> None:
    """Refuse an encoder whose tokens are not of second order."""
    if not isinstance(encoder.tokenizer, ConnectomeTokenizer):
        raise ConfigError(
            "needs second-order tokens",
            field="objective.kind",
            value=kind,
            fix="Start from the preset connectome-small or connectome-base",
        )


class Prediction(Objective[None, Predicted]):
    """The objective.

    Parameters
    ----------
    encoder : Encoder
        With second-order tokens.
    config : PredictionConfig

    Raises
    ------
    ConfigError
        If the tokens of the encoder are not of second order.
    """

    roles: ClassVar[tuple[str, ...]] = ("online",)
    trained: ClassVar[str] = "online"
    batch_axes: ClassVar[Mapping[str, int]] = {"embedding": 1, "prediction": 1, "coordinates": 1}
    views = ViewPlan(groups=(CropGroup(halves=True),))

    def __init__(self, encoder: Encoder, config: PredictionConfig) -> None:
        super().__init__()
        refuse_first_order(encoder, config.kind)
        self.config = config
        self.online = Predictor(encoder, config.n_components)

    @torch.no_grad()
    def fit(self, crops: Tensor) -> None:
        """Fit the tokenizer, and the axes of what is predicted, on training crops (B, C, T)."""
        super().fit(crops)
        tokenizer = second_order(self.online.encoder)
        rows = torch.cat([triangle(tokenizer.centred(some)).float() for some in crops.split(64)])
        self.online.axes.copy_(principal_axes(rows, self.config.n_components))

    def plan(self, batch: ViewBatch, moment: Moment) -> None:
        """Every step computes the same."""

    def inputs(self, part: ViewBatch, plan: None) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """Return the parts of the scans, and the tokens that are hidden."""
        return part.views, hidden_tokens(part)

    def loss(self, outputs: Predicted, targets: Predicted | None, plan: None) -> Losses:  # noqa: ARG002
        """Return the squared error of the predictions, as a share of what is predicted."""
        target = at_least_float32(outputs.coordinates.detach()).flip(0)
        error = (at_least_float32(outputs.prediction) - target).square().sum()
        share = total(error) / total(target.square().sum())
        return Losses(self.config.weight * share, {"prediction": share}, outputs.embedding[0])

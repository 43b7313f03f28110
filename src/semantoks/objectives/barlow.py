"""Barlow Twins: the correlations between the embeddings of two views are the identity.

Every dimension of the embedding is the same for two views of a recording (1 on the diagonal), and
no two dimensions say the same (0 elsewhere): no teacher and no negative pairs.

Source: Zbontar et al., ICML 2021. Changed: the projector normalises by LayerNorm, see
`semantoks.objectives.expanded`, and the optimiser is AdamW, not LARS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from semantoks.config import check_positive
from semantoks.model.encoder import Encoder
from semantoks.objectives.expanded import Expanded, ExpandedEncoder
from semantoks.objectives.objective import Losses, Moment, Objective, hidden_tokens
from semantoks.objectives.terms.redundancy import cross_correlation
from semantoks.views.batch import ViewBatch


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsConfig:
    """Barlow Twins; the weight is the paper's."""

    kind: Literal["barlow"] = "barlow"
    """Objective."""
    redundancy_weight: float = 5e-3
    """Weight of the squared correlations between different dimensions (lambda)."""
    scale: float = 0.1
    """Weight of the whole loss, a sum over dimensions: as its gradient is clipped to a norm, this
    matters little (the paper's LARS does not depend on it either)."""
    eps: float = 1e-5
    """Added to the variances."""
    projector_width: int = 1024
    """Width of the three layers of the projector (the paper's images: 8192)."""

    def __post_init__(self) -> None:
        check_positive(self, "objective", "redundancy_weight", "scale", "eps", "projector_width")


class BarlowTwins(Objective[None, Expanded]):
    """The objective; on steps with masks both views are masked, as one more augmentation.

    Parameters
    ----------
    encoder : Encoder
    config : BarlowTwinsConfig
    """

    roles: ClassVar[tuple[str, ...]] = ("online",)
    trained: ClassVar[str] = "online"
    batch_axes: ClassVar[Mapping[str, int]] = {"embedding": 1, "expanded": 1}

    def __init__(self, encoder: Encoder, config: BarlowTwinsConfig) -> None:
        super().__init__()
        self.config = config
        self.online = ExpandedEncoder(encoder, [config.projector_width] * 3)

    def plan(self, batch: ViewBatch, moment: Moment) -> None:
        """Every step computes the same."""

    def inputs(self, part: ViewBatch, plan: None) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """Return the views and the tokens that are hidden."""
        return part.views, hidden_tokens(part)

    def loss(self, outputs: Expanded, targets: Expanded | None, plan: None) -> Losses:  # noqa: ARG002
        """Return ``sum_i (1 - C_ii)^2 + lambda sum_i sum_j!=i C_ij^2`` (equation 1), scaled."""
        correlation = cross_correlation(*outputs.expanded, eps=self.config.eps)
        diagonal = correlation.diagonal()
        terms = {
            "invariance": (1 - diagonal).square().sum(),
            "redundancy": correlation.square().sum() - diagonal.square().sum(),
        }
        total = terms["invariance"] + self.config.redundancy_weight * terms["redundancy"]
        return Losses(self.config.scale * total, terms, outputs.embedding[0].detach())

"""VICReg: invariance between views, with variance and covariance of the embeddings held.

No teacher and no negative pairs: two views of a recording are embedded alike, every dimension of
the embedding varies over recordings, and different dimensions do not covary.

Source: Bardes, Ponce and LeCun, ICLR 2022. Changed: the expander normalises by LayerNorm, see
`semantoks.objectives.expanded`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from semantoks.config import check_positive
from semantoks.errors import ConfigError
from semantoks.model.encoder import Encoder
from semantoks.objectives.expanded import Expanded, ExpandedEncoder
from semantoks.objectives.objective import Losses, Moment, Objective, hidden_tokens
from semantoks.objectives.terms.redundancy import (
    covariance_matrix,
    invariance,
    off_diagonal,
    variance_hinge,
)
from semantoks.views.batch import ViewBatch


@dataclass(frozen=True, kw_only=True)
class VICRegConfig:
    """VICReg; the weights are the paper's."""

    kind: Literal["vicreg"] = "vicreg"
    """Objective."""
    invariance_weight: float = 25.0
    """Weight of the distance between the two views (lambda)."""
    variance_weight: float = 25.0
    """Weight of the hinge that keeps every dimension's standard deviation up (mu)."""
    covariance_weight: float = 1.0
    """Weight of the squared covariances between dimensions (nu)."""
    target_deviation: float = 1.0
    """Standard deviation below which the hinge acts (gamma)."""
    eps: float = 1e-4
    """Added to the variances."""
    expander_width: int = 1024
    """Width of the three layers of the expander (the paper's images: 8192)."""

    def __post_init__(self) -> None:
        for name in ("invariance_weight", "variance_weight", "covariance_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    "must not be negative", field=f"objective.{name}", value=getattr(self, name)
                )
        check_positive(self, "objective", "target_deviation", "eps", "expander_width")
        if self.invariance_weight == self.variance_weight == self.covariance_weight == 0:
            raise ConfigError("at least one term must have a weight", field="objective")


class VICReg(Objective[None, Expanded]):
    """The objective; on steps with masks both views are masked, as one more augmentation.

    Parameters
    ----------
    encoder : Encoder
    config : VICRegConfig

    References
    ----------
    Bardes, Ponce and LeCun, ICLR 2022.
    """

    roles: ClassVar[tuple[str, ...]] = ("online",)
    trained: ClassVar[str] = "online"
    batch_axes: ClassVar[Mapping[str, int]] = {"embedding": 1, "expanded": 1}

    def __init__(self, encoder: Encoder, config: VICRegConfig) -> None:
        super().__init__()
        self.config = config
        self.online = ExpandedEncoder(encoder, [config.expander_width] * 3)

    def plan(self, batch: ViewBatch, moment: Moment) -> None:
        """Every step computes the same."""

    def inputs(self, part: ViewBatch, plan: None) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """Return the views and the tokens that are hidden."""
        return part.views, hidden_tokens(part)

    def loss(self, outputs: Expanded, targets: Expanded | None, plan: None) -> Losses:  # noqa: ARG002
        """Return the weighted sum of the three terms (equation 6).

        Variance and covariance are those of the first view plus those of the second.
        """
        config = self.config
        one, two = outputs.expanded
        matrices = [covariance_matrix(z) for z in (one, two)]
        hinges = [
            variance_hinge(c, target=config.target_deviation, eps=config.eps) for c in matrices
        ]
        terms = {
            "invariance": invariance(one, two),
            "variance": hinges[0] + hinges[1],
            "covariance": off_diagonal(matrices[0]) + off_diagonal(matrices[1]),
        }
        total = (
            config.invariance_weight * terms["invariance"]
            + config.variance_weight * terms["variance"]
            + config.covariance_weight * terms["covariance"]
        )
        return Losses(total, terms, outputs.embedding[0].detach())

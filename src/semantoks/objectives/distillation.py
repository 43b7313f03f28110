"""Self-distillation with a teacher-guided temporal regulariser (TTR): Brain-Semantoks.

One step, in order:
1. The student encodes both views, masked; the teacher encodes them whole, without gradient.
2. L_cls: SimDINO on the projected CLS tokens of the two views.
3. L_net (TTR): SimDINO on the projections of the tokens averaged over patches, one row per
   recording and network; its weight falls to zero early in training.
4. L_mask: agreement of the student's masked tokens with the teacher's at the same place.
5. After the optimiser's step the teacher follows as the student's moving average.

Source: Brain-Semantoks (ICLR 2026), objective.
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
from semantoks.model.places import places
from semantoks.model.projection import ProjectionHead
from semantoks.objectives import schedules
from semantoks.objectives.objective import Losses, Moment, hidden_tokens
from semantoks.objectives.teacher import TeacherObjective
from semantoks.objectives.terms.coding_rate import Spread, masked_agreement, simdino
from semantoks.views.batch import ViewBatch


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Self-distillation: loss terms and projection; the defaults are the paper's."""

    kind: Literal["distillation"] = "distillation"
    """Objective."""
    cls_weight: float = 1.0
    """Weight of L_cls."""
    network_weight: float = 0.5
    """Initial weight of L_net (TTR); 0 switches it off."""
    network_decay: Literal["cosine", "linear", "never"] = "cosine"
    """How L_net's weight falls to zero; "never" keeps it on throughout."""
    network_epochs: float = 5.0
    """Epochs after which L_net's weight is zero (5 % of the paper's training)."""
    mask_weight: float = 0.5
    """Weight of L_mask on steps with masks."""
    separate_mask_head: bool = False
    """Give masked tokens a projection head of their own."""
    projection_hidden: int = 1024
    """Hidden units of the projection."""
    projection_width: int = 128
    """Width of the projection d."""
    eps: float = 0.05
    """Precision of the coding rate."""
    spread: Spread = "batch"
    """What the coding rate spreads out on several processes: the whole batch, or what each process
    holds ("process")."""

    def __post_init__(self) -> None:
        for name in ("cls_weight", "network_weight", "mask_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    "must not be negative", field=f"objective.{name}", value=getattr(self, name)
                )
        check_positive(
            self, "objective", "network_epochs", "projection_hidden", "projection_width", "eps"
        )
        if self.cls_weight == self.network_weight == self.mask_weight == 0:
            raise ConfigError("at least one loss term must have a weight", field="objective")


class Projections(NamedTuple):
    """What the loss needs of the student or the teacher; None where no term asks for it.

    Parameters
    ----------
    embedding : Tensor of shape (2, B, D)
        CLS tokens.
    cls : Tensor of shape (2, B, d) or None
        Projected CLS tokens.
    network : Tensor of shape (2, B, N, d) or None
        Projections of the tokens averaged over patches.
    tokens : Tensor of shape (R, d) or None
        Projections of the tokens that L_mask compares.
    compared : Tensor of bool, shape (2 B, N * P), or None
        Which tokens these are, in the order of ``compared.nonzero()``.
    """

    embedding: Tensor
    cls: Tensor | None
    network: Tensor | None
    tokens: Tensor | None
    compared: Tensor | None


class Terms(NamedTuple):
    """Which loss terms are computed on a step."""

    cls: bool
    network: bool
    mask: bool


class DistillationPlan(NamedTuple):
    """What a step computes.

    Parameters
    ----------
    terms : Terms
    network_weight : float
        Weight of L_net.
    """

    terms: Terms
    network_weight: float


class ProjectedEncoder(nn.Module):
    """An encoder with its projection head(s): the student or the teacher.

    Parameters
    ----------
    encoder : Encoder
    config : DistillationConfig
    """

    def __init__(self, encoder: Encoder, config: DistillationConfig) -> None:
        super().__init__()
        self.encoder = encoder
        sizes = (encoder.config.width, config.projection_hidden, config.projection_width)
        self.head = ProjectionHead(*sizes)
        self.mask_head = ProjectionHead(*sizes) if config.separate_mask_head else self.head

    def forward(
        self, views: Tensor, hidden: Tensor | None, compared: Tensor | None, terms: Terms
    ) -> Projections:
        """Encode and project two views; tokens that no term asks for are not finished.

        Parameters
        ----------
        views : Tensor of shape (2, B, C, T)
        hidden : Tensor of bool, shape (2, B, N, P), or None
            Tokens replaced by the mask vector.
        compared : Tensor of bool, shape (2, B, N, P), or None
            Tokens that L_mask compares.
        terms : Terms
        """
        x = views.flatten(0, 1)
        mask = None if hidden is None else hidden.flatten(0, 1)
        wanted = None if compared is None or not terms.mask else compared.flatten(0, 1)
        rows, n_wanted = (None, 0) if wanted is None else places(wanted.reshape(1, -1))[0]
        networks = None
        if terms.network:
            out = self.encoder(x, mask)
            grid = out.tokens.view(len(x), self.encoder.n_networks, -1, out.tokens.shape[-1])
            cls, networks = out.cls, grid.mean(dim=2)
            tokens = out.tokens[:0, 0] if rows is None else out.tokens.flatten(0, 1)[rows]
        else:
            cls, tokens = self.encoder.read(x, mask, rows)

        def by_view(z: Tensor) -> Tensor:
            return z.view(*views.shape[:2], *z.shape[1:])

        return Projections(
            by_view(cls),
            by_view(self.head(cls)) if terms.cls else None,
            None if networks is None else by_view(self.head(networks)),
            None if wanted is None else self.mask_head(tokens)[:n_wanted],
            None if wanted is None else wanted.flatten(1),
        )


class SelfDistillation(TeacherObjective[DistillationPlan, Projections]):
    """Student and teacher, and the loss between them.

    Parameters
    ----------
    encoder : Encoder
        Becomes the student; the teacher starts as its copy.
    config : DistillationConfig

    See Also
    --------
    VICReg : Another objective.

    References
    ----------
    Brain-Semantoks, ICLR 2026, https://arxiv.org/abs/2512.11582. SimDINO: Wu et al., ICML 2025.
    """

    batch_axes: ClassVar[Mapping[str, int]] = {
        "embedding": 1,
        "cls": 1,
        "network": 1,
        "tokens": 0,
        "compared": 0,
    }

    def __init__(self, encoder: Encoder, config: DistillationConfig) -> None:
        super().__init__(ProjectedEncoder(encoder, config))
        self.config = config

    def plan(self, batch: ViewBatch, moment: Moment) -> DistillationPlan:
        """Return which terms this step computes, and the weight of L_net."""
        config = self.config
        return self.plan_with(
            batch,
            schedules.network_weight(
                moment.epoch, config.network_weight, config.network_decay, config.network_epochs
            ),
        )

    def plan_with(self, batch: ViewBatch, network_weight: float) -> DistillationPlan:
        """Return the plan for a given weight of L_net; at 0 the term is not computed."""
        masked = batch.masks is not None and self.config.mask_weight > 0
        terms = Terms(self.config.cls_weight > 0, network_weight > 0, masked)
        return DistillationPlan(terms, network_weight)

    def inputs(
        self, part: ViewBatch, plan: DistillationPlan
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Terms]:
        """Return the student's arguments: views, hidden tokens, compared tokens, terms."""
        return part.views, hidden_tokens(part), _compared(part), plan.terms

    @torch.no_grad()
    def targets(self, part: ViewBatch, plan: DistillationPlan) -> Projections:
        """Return the teacher's projections of the whole views."""
        compared = _compared(part)
        targets: Projections = self.teacher(part.views, part.missing, compared, plan.terms)
        return targets

    def loss(
        self, outputs: Projections, targets: Projections | None, plan: DistillationPlan
    ) -> Losses:
        """Return the losses of the student's projections against the teacher's."""
        assert targets is not None
        config, student, teacher = self.config, outputs, targets
        cls = network = mask = student.embedding.new_zeros(())
        if student.cls is not None and teacher.cls is not None:
            cls = simdino(student.cls, teacher.cls, eps=config.eps, spread=config.spread)
        if student.network is not None and teacher.network is not None:
            rows = (student.network.flatten(1, 2), teacher.network.flatten(1, 2))
            network = simdino(*rows, eps=config.eps, spread=config.spread)
        if student.tokens is not None and teacher.tokens is not None:
            assert student.compared is not None
            mask = masked_agreement(student.tokens, teacher.tokens, student.compared)
        total = config.cls_weight * cls + plan.network_weight * network + config.mask_weight * mask
        if not total.requires_grad:  # no term has a weight on this step: a gradient of zero
            total = total + 0.0 * student.embedding.sum()
        terms = {"cls": cls, "network": network, "mask": mask}
        return Losses(total, terms, teacher.embedding[0])


def _compared(batch: ViewBatch) -> Tensor | None:
    """Return the tokens that L_mask compares: masked, and with data."""
    if batch.masks is None or batch.missing is None:
        return batch.masks
    return batch.masks & ~batch.missing

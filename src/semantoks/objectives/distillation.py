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

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from semantoks.errors import ConfigError
from semantoks.model.encoder import Encoder
from semantoks.model.projection import ProjectionHead
from semantoks.objectives.terms import masked_agreement, simdino
from semantoks.views.batch import ViewBatch


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Loss terms and projection; the defaults are the paper's."""

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

    def __post_init__(self) -> None:
        for name in ("cls_weight", "network_weight", "mask_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    "must not be negative", field=f"objective.{name}", value=getattr(self, name)
                )
        for name in ("network_epochs", "projection_hidden", "projection_width", "eps"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    "must be positive", field=f"objective.{name}", value=getattr(self, name)
                )
        if self.cls_weight == self.network_weight == self.mask_weight == 0:
            raise ConfigError("at least one loss term needs a weight", field="objective")


@dataclass(frozen=True)
class Losses:
    """Loss terms of one step, scalars, before their weights; `total` carries the weights.

    Parameters
    ----------
    total, cls, network, mask : Tensor of shape ()
    embeddings : Tensor of shape (B, D)
        The teacher's CLS tokens of the first view, for the collapse monitors.
    """

    total: Tensor
    cls: Tensor
    network: Tensor
    mask: Tensor
    embeddings: Tensor


@dataclass(frozen=True)
class Rows:
    """What the losses compare of M views, before its projection.

    Parameters
    ----------
    cls : Tensor of shape (M, D)
    hidden : Tensor of shape (R, D)
        Tokens that the student does not see.
    networks : Tensor of shape (M, N, D), or None
        Tokens averaged over patches; None where L_net has no weight.
    """

    cls: Tensor
    hidden: Tensor
    networks: Tensor | None


class ProjectedEncoder(nn.Module):
    """An encoder with its projection head(s): the student or the teacher.

    Parameters
    ----------
    encoder : Encoder
    config : ObjectiveConfig
    """

    def __init__(self, encoder: Encoder, config: ObjectiveConfig) -> None:
        super().__init__()
        self.encoder = encoder
        sizes = (encoder.config.width, config.projection_hidden, config.projection_width)
        self.head = ProjectionHead(*sizes)
        self.mask_head = ProjectionHead(*sizes) if config.separate_mask_head else self.head

    def read(
        self, x: Tensor, mask: Tensor | None, hidden: Tensor | None, *, networks: bool
    ) -> Rows:
        """Encode M views and return the rows that a loss compares, before their projection.

        Parameters
        ----------
        x : Tensor of shape (M, C, T)
        mask : Tensor of bool, shape (M, N, P), or None
            What is not seen.
        hidden : Tensor of bool, shape (M, N, P), or None
            The tokens that L_mask compares.
        networks : bool
            Whether L_net is computed, which needs every token.
        """
        if not networks:
            return Rows(*self.encoder.read(x, mask, hidden), None)
        out = self.encoder(x, mask)
        grid = out.tokens.view(len(x), self.encoder.n_networks, -1, out.tokens.shape[-1])
        tokens = out.tokens[:, :0].flatten(0, 1) if hidden is None else grid[hidden]
        return Rows(out.cls, tokens, grid.mean(dim=2))


class SelfDistillation(nn.Module):
    """Student and teacher, and the loss between them.

    Parameters
    ----------
    encoder : Encoder
        Becomes the student; the teacher starts as its copy.
    config : ObjectiveConfig
    """

    def __init__(self, encoder: Encoder, config: ObjectiveConfig) -> None:
        super().__init__()
        self.config = config
        self.student = ProjectedEncoder(encoder, config)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SelfDistillation:
        """Set the student's mode; the teacher is always in evaluation mode (no drop path)."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: ViewBatch, network_weight: float) -> Losses:
        """Compute the loss of one step.

        Parameters
        ----------
        batch : ViewBatch
        network_weight : float
            Weight of L_net at this step; at 0 the term is not computed.

        Returns
        -------
        Losses
        """
        config = self.config
        n_views, n_recordings = batch.views.shape[:2]
        x = batch.views.flatten(0, 1)
        missing = None if batch.missing is None else batch.missing.flatten(0, 1)
        masks = None if batch.masks is None else batch.masks.flatten(0, 1)
        seen = masks if missing is None else missing if masks is None else masks | missing
        hidden = None
        if masks is not None and config.mask_weight:
            hidden = masks if missing is None else masks & ~missing
        student = self.student.read(x, seen, hidden, networks=network_weight > 0)
        with torch.no_grad():
            teacher = self.teacher.read(x, missing, hidden, networks=network_weight > 0)

        def by_view(z: Tensor) -> Tensor:
            return z.view(n_views, -1, z.shape[-1])

        cls = network = mask = x.new_zeros(())
        if config.cls_weight:
            with torch.no_grad():
                target = self.teacher.head(teacher.cls)
            cls = simdino(by_view(self.student.head(student.cls)), by_view(target), eps=config.eps)
        if student.networks is not None and teacher.networks is not None:
            with torch.no_grad():
                target = self.teacher.head(teacher.networks)
            found = self.student.head(student.networks)
            network = simdino(by_view(found), by_view(target), eps=config.eps)
        if hidden is not None:
            with torch.no_grad():
                target = self.teacher.mask_head(teacher.hidden)
            found = self.student.mask_head(student.hidden)
            mask = masked_agreement(found, target, hidden.flatten(1))
        total = config.cls_weight * cls + network_weight * network + config.mask_weight * mask
        if not total.requires_grad:  # no term has a weight on this step: a gradient of zero
            total = total + 0.0 * student.cls.sum()
        return Losses(total, cls, network, mask, teacher.cls[:n_recordings])

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher: ``teacher = momentum * teacher + (1 - momentum) * student``.

        Parameters
        ----------
        momentum : float
            In [0, 1]. Buffers are constants and stay.
        """
        torch._foreach_lerp_(
            list(self.teacher.parameters()), list(self.student.parameters()), 1.0 - momentum
        )

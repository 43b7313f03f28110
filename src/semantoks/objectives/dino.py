"""Self-distillation with DINO's softmax heads: the teacher's soft assignment to prototypes.

One step, in order:
1. The teacher encodes the long crops whole; its scores of K prototypes become a distribution, kept
   from collapsing by centring (DINO) or by Sinkhorn-Knopp (SwAV, DINOv2).
2. The student encodes the long crops, masked on some steps, and more, shorter ones (multi-crop).
3. Its distribution of every crop is to match the teacher's of every other crop.
4. KoLeo spreads the student's CLS tokens of each long crop over the sphere (DINOv2).
5. After the optimiser's step the teacher follows as the student's moving average, and the centre as
   that of the teacher's scores.

Sources: Caron et al., ICCV 2021 (DINO; equations 1 to 4); Oquab et al., TMLR 2024 (DINOv2);
Caron et al., NeurIPS 2020 (SwAV: Sinkhorn-Knopp, multi-crop). Changed: fewer prototypes; no loss on
tokens (iBOT), which `distillation` has in its own way; one optimiser for all weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantoks.config import check_positive
from semantoks.errors import ConfigError
from semantoks.model.encoder import Encoder
from semantoks.model.linear import Linear
from semantoks.objectives.objective import Losses, Moment, hidden_tokens
from semantoks.objectives.parallel import at_least_float32, count, total
from semantoks.objectives.schedules import OptimConfig
from semantoks.objectives.teacher import TeacherObjective
from semantoks.objectives.terms.contrastive import koleo
from semantoks.objectives.terms.prototypes import assign, cross_view_entropy
from semantoks.views.batch import ViewBatch
from semantoks.views.crops import CropGroup, ViewPlan


@dataclass(frozen=True, kw_only=True)
class DINOConfig:
    """DINO; the defaults are DINOv2's, but for the size of the head."""

    kind: Literal["dino"] = "dino"
    """Objective."""
    n_prototypes: int = 4096
    """Prototypes K (the paper's images: 65536)."""
    head_hidden: int = 1024
    """Hidden units of the head's two hidden layers (the paper: 2048)."""
    bottleneck: int = 256
    """Width of the unit vectors that are compared with prototypes."""
    balance: Literal["sinkhorn", "centring"] = "sinkhorn"
    """What keeps the teacher from giving all crops one prototype: Sinkhorn-Knopp over the batch
    (DINOv2), or a centre that follows the scores (DINO), which takes many more steps."""
    centre_momentum: float = 0.9
    """Momentum of the centre (m)."""
    sinkhorn_iterations: int = 3
    """Iterations of Sinkhorn-Knopp."""
    student_temperature: float = 0.1
    """Temperature of the student's softmax."""
    teacher_temperature: float = 0.04
    """Temperature of the teacher's softmax."""
    freeze_epochs: float = 1.0
    """Epochs during which the prototypes stay as they are."""
    koleo_weight: float = 0.1
    """Weight of KoLeo; 0 switches it off."""
    n_short: int = 4
    """Further, shorter crops per recording, which the student alone sees; 0: none."""
    short_patches: int = 2
    """Patches of a shorter crop."""

    def __post_init__(self) -> None:
        check_positive(
            self,
            "objective",
            "n_prototypes",
            "head_hidden",
            "bottleneck",
            "sinkhorn_iterations",
            "student_temperature",
            "teacher_temperature",
            "short_patches",
        )
        for name in ("freeze_epochs", "koleo_weight", "n_short"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    "must not be negative", field=f"objective.{name}", value=getattr(self, name)
                )
        if not 0.0 <= self.centre_momentum < 1.0:
            raise ConfigError(
                "must lie in [0, 1)", field="objective.centre_momentum", value=self.centre_momentum
            )


class Scored(NamedTuple):
    """Outputs of the student or the teacher.

    Parameters
    ----------
    embedding : Tensor of shape (2, B, D)
        CLS tokens of the long crops.
    scores : Tensor of shape (V, B, K)
        Cosines with the prototypes; of the long crops first.
    """

    embedding: Tensor
    scores: Tensor


class ScoredEncoder(nn.Module):
    """An encoder with prototypes: the student or the teacher.

    Parameters
    ----------
    encoder : Encoder
    config : DINOConfig
    """

    def __init__(self, encoder: Encoder, config: DINOConfig) -> None:
        super().__init__()
        self.encoder = encoder
        hidden = config.head_hidden
        self.head = nn.Sequential(
            Linear(encoder.config.width, hidden),
            nn.GELU(),
            Linear(hidden, hidden),
            nn.GELU(),
            Linear(hidden, config.bottleneck),
        )
        for layer in self.head.modules():
            if isinstance(layer, Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.randn(config.n_prototypes, config.bottleneck))

    def forward(self, crops: list[tuple[Tensor, Tensor | None]], frozen: bool) -> Scored:
        """Score crops of one or two lengths.

        Parameters
        ----------
        crops : list of (Tensor of shape (V, B, C, T), Tensor of bool of shape (V, B, N, P) or None)
            Views, and their tokens that are replaced by the mask vector; the long crops first.
        frozen : bool
            Whether the prototypes pass no gradient on.
        """
        tokens = [self._read(views, hidden) for views, hidden in crops]
        unit = F.normalize(self.head(torch.cat(tokens)), dim=-1)
        prototypes = F.normalize(self.prototypes.detach() if frozen else self.prototypes, dim=-1)
        return Scored(tokens[0], unit @ prototypes.T)

    def _read(self, views: Tensor, hidden: Tensor | None) -> Tensor:
        mask = None if hidden is None else hidden.flatten(0, 1)
        cls, _ = self.encoder.read(views.flatten(0, 1), mask)
        by_view: Tensor = cls.unflatten(0, views.shape[:2])
        return by_view


class DINO(TeacherObjective[bool, Scored]):
    """Student and teacher, and the loss between them; the plan says if prototypes are frozen.

    Parameters
    ----------
    encoder : Encoder
        Becomes the student; the teacher starts as its copy.
    config : DINOConfig
    """

    batch_axes: ClassVar[Mapping[str, int]] = {"embedding": 1, "scores": 1}
    centre: Tensor
    mean_scores: Tensor

    def __init__(self, encoder: Encoder, config: DINOConfig) -> None:
        super().__init__(ScoredEncoder(encoder, config))
        self.config = config
        if config.n_short:
            short = CropGroup(n_views=config.n_short, n_patches=config.short_patches)
            self.views = ViewPlan(groups=(CropGroup(), short))
        self.register_buffer("centre", torch.zeros(config.n_prototypes))
        self.register_buffer("mean_scores", torch.zeros(config.n_prototypes), persistent=False)

    def plan(self, batch: ViewBatch, moment: Moment) -> bool:  # noqa: ARG002
        """Return whether the prototypes are frozen on this step."""
        return moment.epoch < self.config.freeze_epochs

    def inputs(
        self, part: ViewBatch, plan: bool
    ) -> tuple[list[tuple[Tensor, Tensor | None]], bool]:
        """Return all crops with their hidden tokens, and whether the prototypes are frozen."""
        short = [(more.views, more.missing) for more in part.more]
        return [(part.views, hidden_tokens(part)), *short], plan

    @torch.no_grad()
    def targets(self, part: ViewBatch, plan: bool) -> Scored:
        """Return the teacher's scores of the whole long crops."""
        scored: Scored = self.teacher([(part.views, part.missing)], plan)
        return scored

    def loss(self, outputs: Scored, targets: Scored | None, plan: bool) -> Losses:  # noqa: ARG002
        """Return the cross-entropy between crops (equation 3), and KoLeo."""
        assert targets is not None
        config = self.config
        scores = at_least_float32(targets.scores)
        n = count(scores.shape[1], device=scores.device) * len(scores)
        self.mean_scores = total(scores.sum(dim=(0, 1))) / n
        centre = self.centre if config.balance == "centring" else None
        wanted = assign(
            scores, config.teacher_temperature, centre, iterations=config.sinkhorn_iterations
        )
        given = at_least_float32(outputs.scores) / config.student_temperature
        entropy = cross_view_entropy(given, wanted)
        terms = {"dino": entropy}
        weighted = entropy
        if config.koleo_weight:
            terms["koleo"] = torch.stack([koleo(z) for z in outputs.embedding]).mean()
            weighted = weighted + config.koleo_weight * terms["koleo"]
        return Losses(weighted, terms, targets.embedding[0])

    def after_step(self, moment: Moment, optim: OptimConfig) -> dict[str, float]:
        """Move the teacher and the centre (equation 4); return the teacher's momentum."""
        self.centre.lerp_(self.mean_scores.to(self.centre), 1 - self.config.centre_momentum)
        return super().after_step(moment, optim)

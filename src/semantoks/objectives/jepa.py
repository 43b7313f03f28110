"""Latent prediction: the tokens that a target encoder gives of what the learner does not see.

One crop of every recording. The context encoder sees one block of networks (or ROIs) and patches;
a narrow predictor gives, for every hidden place, what the target encoder makes of the whole crop
there. The target encoder follows as the context encoder's moving average. With t the target tokens,
normalised over their D dimensions, and p the predictions, the loss of a region R of hidden tokens
is

    L_R = 1 / (|R| D) sum_{i in R} sum_d smooth_l1(p_id - t_id),
    smooth_l1(e) = e^2 / 2 where |e| < 1, else |e| - 1/2,

and the whole loss is the mean of L_R over the regions that the batch has: other networks at the
same time (cross-ROI), the same networks at another time (cross-time), and other networks at another
time (double-cross).

Source: Brain-JEPA (Dong et al., NeurIPS 2024), after I-JEPA (Assran et al., CVPR 2023). Changed:
the encoder sees a learned vector in place of a hidden token, as with every objective here; all
hidden tokens are targets, not blocks drawn from each region, and the regions weigh the same.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantoks.model.decoder import DecoderConfig, TokenDecoder
from semantoks.model.encoder import Encoder
from semantoks.objectives import schedules
from semantoks.objectives.objective import Losses, Moment, Objective, hidden_tokens
from semantoks.objectives.parallel import at_least_float32, total
from semantoks.objectives.schedules import OptimConfig
from semantoks.objectives.teacher import follow
from semantoks.views.batch import ViewBatch
from semantoks.views.crops import CropGroup, ViewPlan

REGIONS = ("cross_roi", "cross_time", "double_cross")


@dataclass(frozen=True, kw_only=True)
class JEPAConfig:
    """Latent prediction; the masks should be views.masks.kind=cross."""

    kind: Literal["jepa"] = "jepa"
    """Objective."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Size of the predictor."""


class Latents(NamedTuple):
    """What is predicted, or what it is compared with.

    Parameters
    ----------
    embedding : Tensor of shape (B, 2 D)
    tokens : Tensor of shape (B, N, P, D)
        Predictions; or target tokens, normalised.
    regions : Tensor of bool, shape (B, 3, N, P), or None
        Tokens to compare: cross-ROI, cross-time and double-cross.
    """

    embedding: Tensor
    tokens: Tensor
    regions: Tensor | None


def split_regions(hidden: Tensor, missing: Tensor | None) -> Tensor:
    """Return which hidden tokens with data belong to which region.

    Parameters
    ----------
    hidden : Tensor of bool, shape (B, N, P)
        Masked, or without data.
    missing : Tensor of bool, shape (B, N, P), or None

    Returns
    -------
    Tensor of bool, shape (B, 3, N, P)
        Cross-ROI: of a row of which nothing is seen, at a time at which something is. Cross-time:
        of a row of which something is seen. Double-cross: neither.
    """
    other_row = hidden.all(dim=2, keepdim=True)
    other_time = hidden.all(dim=1, keepdim=True)
    compared = hidden if missing is None else hidden & ~missing
    regions = (other_row & ~other_time, ~other_row, other_row & other_time)
    return torch.stack([compared & region for region in regions], dim=1)


class ContextEncoder(nn.Module):
    """An encoder with its predictor.

    Parameters
    ----------
    encoder : Encoder
    config : DecoderConfig
    """

    def __init__(self, encoder: Encoder, config: DecoderConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = TokenDecoder(encoder, config)
        self.exit = nn.Linear(config.width, encoder.config.width)

    def forward(self, view: Tensor, hidden: Tensor, missing: Tensor | None) -> Latents:
        """Predict the target tokens at hidden places.

        Parameters
        ----------
        view : Tensor of shape (B, C, T)
        hidden : Tensor of bool, shape (B, N, P)
        missing : Tensor of bool, shape (B, N, P), or None
        """
        out = self.encoder(view, hidden)
        found = self.exit(self.predictor(out.cls, out.tokens, hidden))
        return Latents(out.cls_avg.detach(), found, split_regions(hidden, missing))


class JEPA(Objective[None, Latents]):
    """Context and target encoder, and the loss between them.

    Parameters
    ----------
    encoder : Encoder
        Becomes the context encoder; the target encoder starts as its copy.
    config : JEPAConfig
    """

    roles: ClassVar[tuple[str, ...]] = ("target", "context")
    trained: ClassVar[str] = "context"
    batch_axes: ClassVar[Mapping[str, int]] = dict.fromkeys(Latents._fields, 0)
    needs_masks: ClassVar[bool] = True
    views = ViewPlan(groups=(CropGroup(n_views=1),), clean=True)

    def __init__(self, encoder: Encoder, config: JEPAConfig) -> None:
        super().__init__()
        self.config = config
        self.context = ContextEncoder(encoder, config.decoder)
        target = copy.deepcopy(encoder).requires_grad_(False).eval()
        self.target = nn.ModuleDict({"encoder": target})

    def train(self, mode: bool = True) -> Self:
        """Set the context encoder's mode; the target encoder is always in evaluation mode."""
        super().train(mode)
        self.target.eval()
        return self

    def plan(self, batch: ViewBatch, moment: Moment) -> None:
        """Every step computes the same."""

    def inputs(self, part: ViewBatch, plan: None) -> tuple[Tensor, Tensor, Tensor | None]:  # noqa: ARG002
        """Return the augmented crops, their hidden tokens, and those without data."""
        hidden = hidden_tokens(part)
        assert hidden is not None
        return part.views[0], hidden[0], None if part.missing is None else part.missing[0]

    @torch.no_grad()
    def targets(self, part: ViewBatch, plan: None) -> Latents:  # noqa: ARG002
        """Return the target encoder's tokens of the whole crops before augmentation."""
        assert part.clean is not None
        missing = None if part.missing is None else part.missing[0]
        encoder = self.encoder("target")
        out = encoder(part.clean[0], missing)
        tokens = at_least_float32(out.tokens).unflatten(1, (encoder.n_networks, -1))
        return Latents(out.cls_avg, F.layer_norm(tokens, tokens.shape[-1:]), None)

    def loss(self, outputs: Latents, targets: Latents | None, plan: None) -> Losses:  # noqa: ARG002
        """Return the mean over regions of the smooth L1 distance to the target tokens."""
        assert targets is not None
        assert outputs.regions is not None
        found = at_least_float32(outputs.tokens)
        distance = F.smooth_l1_loss(found, targets.tokens, reduction="none").mean(dim=-1)
        sums = total((distance.unsqueeze(1) * outputs.regions).sum(dim=(0, 2, 3)))
        sizes = total(outputs.regions.sum(dim=(0, 2, 3)).to(sums))
        means = sums / sizes.clamp(min=1)
        whole = means.sum() / (sizes > 0).sum().clamp(min=1)
        return Losses(whole, dict(zip(REGIONS, means, strict=True)), targets.embedding)

    def after_step(self, moment: Moment, optim: OptimConfig) -> dict[str, float]:
        """Move the target encoder; return its momentum."""
        momentum = schedules.teacher_momentum(moment.step, moment.n_steps, optim)
        follow(self.encoder("target"), self.encoder("context"), momentum)
        return {"teacher_momentum": momentum}

"""Temporal order and direction: which of two crops of a scan is earlier, and which runs backwards.

Two tasks whose labels cost nothing, each a logistic regression on CLS tokens:

- order: of two crops of a scan, did the first begin earlier? From ``[z1, z2, z1 - z2]``. Pairs that
  begin less than `min_distance` apart do not count.
- direction: does a crop run forwards or backwards? The second view is also encoded reversed in
  time, as far as it was recorded; the first is the example of a crop that runs forwards.

Chance is log 2 for either term. Sources: Banville et al., J. Neural Eng. 2021 (order of EEG windows
as a pretext task); Iqbal et al., Brain Sci. 2025 (time reversal of fMRI series); Deco et al.,
Network Neurosci. 2023 (BOLD signals have an arrow of time that a network can tell). Changed: both
tasks at once, on one encoder.
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
from semantoks.objectives.objective import Losses, Moment, Objective, hidden_tokens
from semantoks.objectives.parallel import at_least_float32, count, total
from semantoks.views.batch import ViewBatch


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """Temporal order and time reversal."""

    kind: Literal["order"] = "order"
    """Objective."""
    order_weight: float = 1.0
    """Weight of telling which crop is earlier; 0 switches it off."""
    direction_weight: float = 1.0
    """Weight of telling crops that run backwards; 0 switches it off."""
    min_distance: int = 10
    """Smallest distance between the starts of two crops whose order counts, time points."""

    def __post_init__(self) -> None:
        for name in ("order_weight", "direction_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    "must not be negative", field=f"objective.{name}", value=getattr(self, name)
                )
        if self.order_weight == self.direction_weight == 0:
            raise ConfigError("at least one term must have a weight", field="objective")
        check_positive(self, "objective", "min_distance")


class Judged(NamedTuple):
    """Outputs of the learner.

    Parameters
    ----------
    embedding : Tensor of shape (2, B, D)
        CLS tokens of the crops as they are.
    earlier : Tensor of shape (B,)
        Logit of the first crop being the earlier one.
    backwards : Tensor of shape (2, B), or None
        Logits of running backwards: of the first crop, and of the second when reversed. None if no
        term asks for them.
    """

    embedding: Tensor
    earlier: Tensor
    backwards: Tensor | None


class Judge(nn.Module):
    """An encoder with a linear head for each task.

    Parameters
    ----------
    encoder : Encoder
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.earlier = nn.Linear(3 * encoder.config.width, 1)
        self.backwards = nn.Linear(encoder.config.width, 1)

    def forward(
        self, views: Tensor, hidden: Tensor | None, mirrored: Tensor | None, gone: Tensor | None
    ) -> Judged:
        """Judge the order of two views, and the direction of the first and of a reversed one.

        Parameters
        ----------
        views : Tensor of shape (2, B, C, T)
        hidden : Tensor of bool, shape (2, B, N, P), or None
            Tokens replaced by the mask vector.
        mirrored : Tensor of shape (B, C, T), or None
            The second view reversed in time.
        gone : Tensor of bool, shape (B, N, P), or None
            Its hidden tokens.
        """
        x = views if mirrored is None else torch.cat([views, mirrored[None]])
        mask = None
        if hidden is not None:
            mask = hidden if gone is None else torch.cat([hidden, gone[None]])
            mask = mask.flatten(0, 1)
        z = self.encoder.read(x.flatten(0, 1), mask)[0].unflatten(0, x.shape[:2])
        pair = torch.cat([z[0], z[1], z[0] - z[1]], dim=-1)
        backwards = None if mirrored is None else self.backwards(z[::2]).squeeze(-1)
        return Judged(z[:2], self.earlier(pair).squeeze(-1), backwards)


class OrderPlan(NamedTuple):
    """What a step judges: starts of the crops (2, B), whether direction counts."""

    starts: Tensor
    direction: bool


class Order(Objective[OrderPlan, Judged]):
    """The objective; on steps with masks the views are masked, as one more augmentation.

    Parameters
    ----------
    encoder : Encoder
    config : OrderConfig
    """

    roles: ClassVar[tuple[str, ...]] = ("online",)
    trained: ClassVar[str] = "online"
    batch_axes: ClassVar[Mapping[str, int]] = {"embedding": 1, "earlier": 0, "backwards": 1}

    def __init__(self, encoder: Encoder, config: OrderConfig) -> None:
        super().__init__()
        self.config = config
        self.online = Judge(encoder)

    def plan(self, batch: ViewBatch, moment: Moment) -> OrderPlan:  # noqa: ARG002
        """Return where the crops start, and whether their direction is judged."""
        assert batch.starts is not None
        return OrderPlan(batch.starts, self.config.direction_weight > 0)

    def inputs(
        self, part: ViewBatch, plan: OrderPlan
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Return the views with their hidden tokens, and the second view reversed with the same."""
        hidden = hidden_tokens(part)
        if not plan.direction:
            return part.views, hidden, None, None
        assert part.lengths is not None
        mirrored = reversed_in_time(part.views[1], part.lengths[1])
        return part.views, hidden, mirrored, None if hidden is None else hidden[1]

    def loss(self, outputs: Judged, targets: Judged | None, plan: OrderPlan) -> Losses:  # noqa: ARG002
        """Return the weighted cross-entropies, means over the recordings of all processes."""
        config = self.config
        logits = at_least_float32(outputs.earlier)
        later_by = (plan.starts[1] - plan.starts[0]).to(logits.device, non_blocking=True)
        counts = (later_by.abs() >= config.min_distance).to(logits.dtype)
        label = (later_by > 0).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits, label, reduction="none")
        terms = {"order": total((each * counts).sum()) / total(counts.sum()).clamp(min=1)}
        weighted = config.order_weight * terms["order"]
        if outputs.backwards is not None:
            as_it_is, mirrored = at_least_float32(outputs.backwards)
            wrong = torch.stack([F.softplus(as_it_is), F.softplus(-mirrored)])
            terms["direction"] = total(wrong.sum()) / count(wrong.numel(), device=wrong.device)
            weighted = weighted + config.direction_weight * terms["direction"]
        return Losses(weighted, terms, outputs.embedding[0].detach())


def reversed_in_time(views: Tensor, lengths: Tensor) -> Tensor:
    """Return views whose recorded part runs backwards; what fills them up stays at the end.

    Parameters
    ----------
    views : Tensor of shape (B, C, T)
    lengths : Tensor of int64, shape (B,)
        Time points that were recorded.
    """
    time = torch.arange(views.shape[-1], device=views.device)
    end = lengths.to(views.device, non_blocking=True)[:, None]
    source = torch.where(time < end, end - 1 - time, time)
    return views.gather(2, source[:, None].expand_as(views))

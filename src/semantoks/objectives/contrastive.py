"""Contrast: a positive pair of crops is embedded alike, and unlike its negatives (InfoNCE).

What is a positive decides what is learned:

- ``crop``: another crop of the same recording; negatives are the crops of all other recordings.
  Source: Chen et al., ICML 2020 (SimCLR).
- ``subject``: a crop of another recording of the same person, as far as there is one; negatives
  are the crops of all other people. What changes between a person's scans is not learned.
- ``time``: a crop of the same scan that lies near; negatives are crops of the same scan that lie
  far. What a scan keeps throughout, e.g. who is scanned, cannot be learned; what changes can.
  Sources: Banville et al., J. Neural Eng. 2021 (relative positioning) and Front. Neurosci. 2023,
  1199312, where neighbouring and distant thirds of a scan are contrasted.

Negatives are those of all processes. Changed: the head normalises by LayerNorm, see
`semantoks.objectives.expanded`, and the optimiser is AdamW, not LARS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from semantoks.config import check_positive
from semantoks.errors import ConfigError, InputError
from semantoks.model.encoder import Encoder
from semantoks.objectives.expanded import Expanded, ExpandedEncoder
from semantoks.objectives.objective import Losses, Moment, Objective, hidden_tokens
from semantoks.objectives.parallel import at_least_float32, gather_rows, total
from semantoks.objectives.terms.contrastive import info_nce, two_view_info_nce
from semantoks.views.batch import ViewBatch
from semantoks.views.crops import CropGroup, ViewPlan


@dataclass(frozen=True, kw_only=True)
class TimeConfig:
    """Crops that are contrasted within a scan; only with positives=time."""

    n_pairs: int = 4
    """Pairs of near crops per scan."""
    n_patches: int = 2
    """Patches per crop."""
    gap: int = 10
    """Largest gap between the crops of a pair, time points; they share no volume."""
    margin: int = 0
    """How much farther away than any pair a negative starts at least, time points."""

    def __post_init__(self) -> None:
        check_positive(self, "objective.time", "n_patches")
        if self.n_pairs < 2:
            raise ConfigError(
                "must be at least 2", field="objective.time.n_pairs", value=self.n_pairs
            )
        for name in ("gap", "margin"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    "must not be negative",
                    field=f"objective.time.{name}",
                    value=getattr(self, name),
                )


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """Contrast of crops; temperature and head are SimCLR's, its hidden layer is narrower."""

    kind: Literal["contrastive"] = "contrastive"
    """Objective."""
    positives: Literal["crop", "time", "subject"] = "crop"
    """What is embedded alike: crops of a recording, near crops of a scan (against far ones), or
    crops of different recordings of a subject."""
    temperature: float = 0.1
    """Divides the cosines (tau)."""
    projection_hidden: int = 1024
    """Hidden units of the projection (the paper's images: 2048)."""
    projection_width: int = 128
    """Width of the projection d."""
    time: TimeConfig = field(default_factory=TimeConfig)

    def __post_init__(self) -> None:
        check_positive(self, "objective", "temperature", "projection_hidden", "projection_width")
        if self.positives != "time" and self.time != TimeConfig():
            raise ConfigError(
                f"has no effect on positives={self.positives}",
                field="objective.time",
                fix="Leave it out, or set objective.positives=time",
            )


class Contrastive(Objective[Tensor, Expanded]):
    """The objective; on steps with masks all views are masked, as one more augmentation.

    The plan of a step holds where its crops start, shape (V, B).

    Parameters
    ----------
    encoder : Encoder
    config : ContrastiveConfig
    """

    roles: ClassVar[tuple[str, ...]] = ("online",)
    trained: ClassVar[str] = "online"
    batch_axes: ClassVar[Mapping[str, int]] = {"embedding": 1, "expanded": 1}

    def __init__(self, encoder: Encoder, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        self.online = ExpandedEncoder(encoder, [config.projection_hidden, config.projection_width])
        time = config.time
        if config.positives == "time":
            group = CropGroup(n_views=2 * time.n_pairs, n_patches=time.n_patches, pair_gap=time.gap)
            self.views = ViewPlan(groups=(group,))
        elif config.positives == "subject":
            self.views = ViewPlan(groups=(CropGroup(across=True),))
        length = time.n_patches * encoder.config.patch_length
        self.far = length + time.gap + 1 + time.margin

    def plan(self, batch: ViewBatch, moment: Moment) -> Tensor:
        """Return where the crops start.

        Raises
        ------
        InputError
            Before the first step, if no recording is long enough for crops that lie far.
        """
        starts = batch.starts
        assert starts is not None
        if self.config.positives == "time" and moment.step == 0:
            reach = starts.amax(dim=0) - starts.amin(dim=0)
            if int(reach.max()) < self.far:
                raise InputError(
                    f"must be at least {self.far} time points in some recordings",
                    field="distance between crops of a scan",
                    value=int(reach.max()),
                    fix="Set objective.time.n_patches, gap or margin lower",
                )
        return starts

    def inputs(self, part: ViewBatch, plan: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """Return the views and the tokens that are hidden."""
        return part.views, hidden_tokens(part)

    def loss(self, outputs: Expanded, targets: Expanded | None, plan: Tensor) -> Losses:  # noqa: ARG002
        """Return the mean InfoNCE over crops, those of all processes."""
        if self.config.positives == "time":
            loss = self._within_scans(outputs.expanded, plan)
        else:
            z = gather_rows(outputs.expanded.transpose(0, 1)).transpose(0, 1)
            loss = two_view_info_nce(z, self.config.temperature)
        return Losses(loss, {"contrast": loss}, outputs.embedding[0].detach())

    def _within_scans(self, expanded: Tensor, starts: Tensor) -> Tensor:
        """Return the mean over crops (V, B) that have a far crop in their scan."""
        unit = F.normalize(at_least_float32(expanded), dim=-1).transpose(0, 1)  # (B, V, d)
        begin = starts.T.to(unit.device, non_blocking=True)
        far = (begin[:, :, None] - begin[:, None]).abs() >= self.far
        place = torch.arange(begin.shape[1], device=unit.device)
        mate = (place[:, None] == place ^ 1).expand_as(far)  # crops 0 and 1, 2 and 3, ...
        loss, counted = info_nce(unit @ unit.mT / self.config.temperature, mate, far)
        return total(loss.sum()) / total(counted.sum()).clamp(min=1)

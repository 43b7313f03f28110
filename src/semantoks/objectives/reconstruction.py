"""Masked reconstruction of signals: a masked autoencoder on patches of ROIs or networks.

One crop of every recording, some of its tokens hidden. A light decoder sees the finished tokens,
and one learned vector where they are hidden, and gives back the signals of the hidden ones. The
loss is the mean squared error of these values alone,

    L = sum_m ||x_m - y_m||^2 / |M|,  M the values of hidden patches that hold data.

Source: BrainLM (Ortega Caro et al., ICLR 2024), after masked autoencoders (He et al., CVPR 2022).
Changed: the encoder sees a learned vector in place of a hidden token, as with every objective here,
where the paper leaves the token out; its tokens may be those of networks, which are decoded to the
signals of all their ROIs; the target is the crop before augmentation; a patch of a ROI that is zero
throughout holds no data and is no target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from semantoks.errors import ConfigError
from semantoks.model.decoder import DecoderConfig, SignalHead, TokenDecoder
from semantoks.model.encoder import Encoder
from semantoks.objectives.objective import Losses, Moment, Objective, hidden_tokens
from semantoks.objectives.parallel import at_least_float32, total
from semantoks.views.batch import ViewBatch
from semantoks.views.crops import CropGroup, ViewPlan


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """Masked reconstruction of signals; how much is hidden is that of `views.masks`."""

    kind: Literal["reconstruction"] = "reconstruction"
    """Objective."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)


class Reconstructed(NamedTuple):
    """Outputs of the learner: sums over the values that are compared, per recording.

    Parameters
    ----------
    embedding : Tensor of shape (B, 2 D)
    error : Tensor of shape (B,)
        Squared errors.
    energy : Tensor of shape (B,)
        Squares of the targets.
    size : Tensor of shape (B,)
        Number of values.
    """

    embedding: Tensor
    error: Tensor
    energy: Tensor
    size: Tensor


def compare(found: Tensor, target: Tensor, compared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return sums over the values that are compared, (B,) each.

    Parameters
    ----------
    found, target : Tensor of shape (B, M, P, L)
    compared : Tensor of bool, shape (B, M, P)
        Patches to compare; those without data are left out.

    Returns
    -------
    error, energy, size : Tensor of shape (B,)
        Squared errors, squared targets, and the number of values.
    """
    kept = (compared & (target != 0).any(dim=-1)).unsqueeze(-1)
    target = at_least_float32(target)
    error = ((at_least_float32(found) - target) * kept).square().flatten(1).sum(dim=1)
    energy = (target * kept).square().flatten(1).sum(dim=1)
    return error, energy, kept.flatten(1).sum(dim=1).to(error) * target.shape[-1]


def squared_error(outputs: Reconstructed) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the mean squared error over all processes, and the terms for the logs.

    "unexplained" is the error as a share of the targets' squares: 1 where zeros are predicted.
    """
    error = total(outputs.error.sum())
    sums = [total(x.detach().sum()).clamp(min=1e-12) for x in (outputs.size, outputs.energy)]
    loss = error / sums[0]
    return loss, {"reconstruction": loss, "unexplained": error.detach() / sums[1]}


class Autoencoder(nn.Module):
    """An encoder with its decoder.

    Parameters
    ----------
    encoder : Encoder
    config : DecoderConfig
    """

    def __init__(self, encoder: Encoder, config: DecoderConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = TokenDecoder(encoder, config)
        self.head = SignalHead(encoder.rows, config.width, encoder.config.patch_length)

    def forward(self, view: Tensor, hidden: Tensor, target: Tensor) -> Reconstructed:
        """Encode a view and compare what is decoded of its hidden tokens.

        Parameters
        ----------
        view : Tensor of shape (B, C, T)
        hidden : Tensor of bool, shape (B, N, P)
        target : Tensor of shape (B, C, T)
            The crop before augmentation.
        """
        out = self.encoder(view, hidden)
        found = self.head(self.decoder(out.cls, out.tokens, hidden))
        compared = self.head.by_channel(hidden)
        sums = compare(found, self.head.patches(target), compared)
        return Reconstructed(out.cls_avg.detach(), *sums)


class SquaredErrorObjective(Objective[None, Reconstructed]):
    """What objectives share whose learner compares by itself what it gives back."""

    roles: ClassVar[tuple[str, ...]] = ("online",)
    trained: ClassVar[str] = "online"
    batch_axes: ClassVar[Mapping[str, int]] = dict.fromkeys(Reconstructed._fields, 0)

    def plan(self, batch: ViewBatch, moment: Moment) -> None:
        """Every step computes the same."""

    def loss(
        self,
        outputs: Reconstructed,
        targets: Reconstructed | None,  # noqa: ARG002 - the learner has compared
        plan: None,  # noqa: ARG002 - there is none
    ) -> Losses:
        """Return the mean squared error of what is compared."""
        return Losses(*squared_error(outputs), outputs.embedding)


class Reconstruction(SquaredErrorObjective):
    """The objective.

    Parameters
    ----------
    encoder : Encoder
        With tokens of signals.
    config : ReconstructionConfig

    Raises
    ------
    ConfigError
        If the tokens of the encoder are of second order.
    """

    needs_masks: ClassVar[bool] = True
    views = ViewPlan(groups=(CropGroup(n_views=1),), clean=True)

    def __init__(self, encoder: Encoder, config: ReconstructionConfig) -> None:
        super().__init__()
        refuse_whole(encoder, config.kind)
        self.config = config
        self.online = Autoencoder(encoder, config.decoder)

    def inputs(self, part: ViewBatch, plan: None) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        """Return the augmented crops, their hidden tokens, and the crops before augmentation."""
        hidden = hidden_tokens(part)
        assert hidden is not None
        assert part.clean is not None
        return part.views[0], hidden[0], part.clean[0]


def refuse_whole(encoder: Encoder, kind: str) -> None:
    """Refuse an encoder whose tokens read whole crops: they have no patches to give back."""
    if encoder.tokenizer.whole:
        raise ConfigError(
            "needs tokens of signals",
            field="objective.kind",
            value=kind,
            fix="Set encoder.granularity=networks or encoder.granularity=rois",
        )

"""Next-patch prediction: the signals of the coming patch from all that came before.

One crop of every recording, seen by an encoder whose attention is causal: a token sees its own and
earlier patches of all networks (or ROIs). From the token h of row n and patch p a linear map gives
the signals of that row at patch p + 1,

    L = sum_{p < P} ||x_{p + 1} - W h_p||^2 / M,  M the number of values that hold data.

The embedding is the mean over tokens: the CLS token reads all of them, but nothing trains it.

Source: causal sequence modelling of Thomas, Re and Poldrack (NeurIPS 2022) and MEG-GPT (Huang et
al., 2025). Changed: what is predicted is the patch itself with a squared error, i.e. the mean of a
Gaussian, not the next volume with an absolute error or a code of a codebook.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from semantoks.errors import ConfigError, InputError
from semantoks.model.decoder import SignalHead
from semantoks.model.encoder import Encoder
from semantoks.model.pretrained import load_pretrained, weights_under
from semantoks.model.weights import check_weights
from semantoks.objectives.objective import hidden_tokens
from semantoks.objectives.reconstruction import (
    Reconstructed,
    SquaredErrorObjective,
    compare,
    refuse_whole,
)
from semantoks.views.batch import ViewBatch
from semantoks.views.crops import CropGroup, ViewPlan


@dataclass(frozen=True, kw_only=True)
class AutoregressiveConfig:
    """Next-patch prediction; needs encoder.attention=causal."""

    kind: Literal["autoregressive"] = "autoregressive"
    """Objective."""


class NextPatch(nn.Module):
    """A causal encoder with the linear maps to the signals of the next patch.

    Parameters
    ----------
    encoder : Encoder
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        config = encoder.config
        self.head = SignalHead(encoder.rows, config.width, config.patch_length)

    def predict(self, view: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the signals that follow every patch, and the mean over tokens.

        Parameters
        ----------
        view : Tensor of shape (B, C, T)
        hidden : Tensor of bool, shape (B, N, P), or None

        Returns
        -------
        prediction : Tensor of shape (B, M, P, L)
            At p that of patch p + 1.
        mean : Tensor of shape (B, D)
        """
        out = self.encoder(view, hidden)
        grid = out.tokens.unflatten(1, (self.encoder.n_networks, -1))
        return self.head(grid), out.mean

    def forward(
        self, view: Tensor, hidden: Tensor | None, missing: Tensor | None, target: Tensor
    ) -> Reconstructed:
        """Predict every patch but the first, and compare.

        Parameters
        ----------
        view : Tensor of shape (B, C, T)
        hidden : Tensor of bool, shape (B, N, P), or None
            Tokens that are not seen: masked, or without data.
        missing : Tensor of bool, shape (B, N, P), or None
            Tokens without data, which are no target.
        target : Tensor of shape (B, C, T)
            The crop before augmentation.
        """
        found, mean = self.predict(view, hidden)
        coming = self.head.patches(target)[:, :, 1:]
        compared = torch.ones(coming.shape[:-1], dtype=torch.bool, device=coming.device)
        if missing is not None:
            compared = ~self.head.by_channel(missing)[:, :, 1:]
        return Reconstructed(mean.detach(), *compare(found[:, :, :-1], coming, compared))


def load_next_patch(source: str | Path) -> NextPatch:
    """Load a model that was trained to predict the next patch.

    Parameters
    ----------
    source : path or str
        What `load_pretrained` takes.

    Raises
    ------
    InputError
        If the model was trained in another way.
    """
    encoder = load_pretrained(source)
    head = weights_under(source, "online.head.")
    if encoder.config.attention != "causal" or not head:
        raise InputError(
            "must have been trained to predict the next patch",
            field="model",
            value=str(source),
            fix="Pretrain with objective.kind=autoregressive encoder.attention=causal",
        )
    model = NextPatch(encoder)
    expected = {name: w.shape for name, w in model.head.state_dict().items()}
    check_weights(head, expected, str(source))
    model.head.load_state_dict(head)
    return model.eval().requires_grad_(False)


class Autoregressive(SquaredErrorObjective):
    """The objective; on steps with masks hidden tokens are not seen, but predicted all the same.

    Parameters
    ----------
    encoder : Encoder
        With tokens of signals and causal attention, and at least two patches per view.
    config : AutoregressiveConfig

    Raises
    ------
    ConfigError
        If the encoder is another one.
    """

    views = ViewPlan(groups=(CropGroup(n_views=1),), clean=True)

    def __init__(self, encoder: Encoder, config: AutoregressiveConfig) -> None:
        super().__init__()
        refuse_whole(encoder, config.kind)
        for name, fits, rule, fix in (
            ("attention", encoder.config.attention == "causal", "must be causal", "causal"),
            ("n_patches", encoder.config.n_patches > 1, "must be at least 2", "5"),
        ):
            if not fits:
                raise ConfigError(
                    f"{rule} to predict what comes next",
                    field=f"encoder.{name}",
                    value=getattr(encoder.config, name),
                    fix=f"Set encoder.{name}={fix}",
                )
        self.config = config
        self.online = NextPatch(encoder)

    def inputs(
        self,
        part: ViewBatch,
        plan: None,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """Return the augmented crops, what is hidden or missing, and the crops before it."""
        assert part.clean is not None
        hidden, missing = (None if x is None else x[0] for x in (hidden_tokens(part), part.missing))
        return part.views[0], hidden, missing, part.clean[0]

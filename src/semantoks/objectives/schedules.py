"""Schedules as functions of the step. Source: Brain-Semantoks (ICLR 2026), optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from semantoks.config import check_positive
from semantoks.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser and schedules; the defaults are the paper's."""

    epochs: int = 100
    """Passes over the subjects."""
    batch_size: int = 512
    """Recordings per step, at most; an epoch is divided into nearly equal batches, so that none is
    partial and no subject is dropped."""
    base_lr: float = 7e-4
    """Peak learning rate for a batch of 256; the rate scales linearly with the size that the
    batches really have (202 subjects are one batch of 202, whatever batch_size is above)."""
    warmup_epochs: float = 3.0
    """Epochs of linear warm-up from 0, followed by a cosine to 0."""
    weight_decay: float = 0.05
    """Weight decay at the start, on all parameters."""
    weight_decay_end: float = 0.3
    """Weight decay at the end (cosine)."""
    beta1: float = 0.9
    """AdamW: decay of the gradient's mean."""
    beta2: float = 0.999
    """AdamW: decay of the gradient's square."""
    clip_norm: float = 1.0
    """Norm to which the gradient is clipped."""
    teacher_momentum: float = 0.99
    """Teacher's momentum at the start; it rises to 1 (cosine)."""

    def __post_init__(self) -> None:
        check_positive(self, "optim", "epochs", "batch_size", "base_lr", "clip_norm")
        for name in ("warmup_epochs", "weight_decay", "weight_decay_end"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    "must not be negative", field=f"optim.{name}", value=getattr(self, name)
                )
        for name in ("beta1", "beta2", "teacher_momentum"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(
                    "must lie in [0, 1)", field=f"optim.{name}", value=getattr(self, name)
                )
        if self.warmup_epochs >= self.epochs:
            raise ConfigError(
                f"must be less than optim.epochs ({self.epochs})",
                field="optim.warmup_epochs",
                value=self.warmup_epochs,
            )


def _falling(progress: float) -> float:
    """Half a cosine from 1 (progress 0) to 0 (progress 1)."""
    return 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def learning_rate(
    step: int, steps_per_epoch: int, config: OptimConfig, *, batch_size: float
) -> float:
    """Linear warm-up from 0 to ``base_lr * batch_size / 256``, then a cosine to 0.

    Parameters
    ----------
    step : int
        Steps taken before this one.
    steps_per_epoch : int
    config : OptimConfig
    batch_size : float
        Mean number of recordings in a batch. The authors drop the last, partial batch of an epoch
        to keep the rate and the batch together; with nearly equal batches nothing need be dropped.
    """
    peak = config.base_lr * batch_size / 256
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return peak * step / warmup
    return peak * _falling((step - warmup) / (config.epochs * steps_per_epoch - warmup))


def weight_decay(step: int, n_steps: int, config: OptimConfig) -> float:
    """Cosine from weight_decay to weight_decay_end."""
    start, end = config.weight_decay, config.weight_decay_end
    return end + (start - end) * _falling(step / n_steps)


def teacher_momentum(step: int, n_steps: int, config: OptimConfig) -> float:
    """``1 - (1 - m0) * (cos(pi t / n_steps) + 1) / 2``."""
    return 1.0 - (1.0 - config.teacher_momentum) * _falling(step / n_steps)


def network_weight(epoch: float, initial: float, decay: str, epochs: float) -> float:
    """Weight of L_net (TTR) after so many epochs (fractions count).

    Parameters
    ----------
    epoch : float
    initial : float
        Weight at epoch 0.
    decay : {"cosine", "linear", "never"}
    epochs : float
        Epoch from which the weight is 0.
    """
    if decay == "never":
        return initial
    if epoch >= epochs:
        return 0.0
    return initial * (_falling(epoch / epochs) if decay == "cosine" else 1.0 - epoch / epochs)

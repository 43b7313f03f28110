"""The protocol of objectives: what the trainer asks of a way to learn.

One step, in order:

1. `plan` sees the whole batch of this process and decides what the step computes.
2. For every part of the batch, `inputs` gives the arguments of the trained module (`learner`), and
   `targets` what its outputs are compared with.
3. `loss` sees the outputs and targets of all parts together, so that terms which compare recordings
   compare all of them.
4. After the optimiser's step `after_step` moves what follows the learner, e.g. a teacher.

A new objective is one module with a configuration and a class, and one line in
`semantoks.objectives.registry`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from torch import Tensor, nn

from semantoks.model.encoder import Encoder
from semantoks.model.positions import Positions
from semantoks.objectives.schedules import OptimConfig
from semantoks.views.batch import ViewBatch
from semantoks.views.crops import ViewPlan

PlanT = TypeVar("PlanT")
OutputsT = TypeVar("OutputsT", bound=NamedTuple)


@dataclass(frozen=True)
class Moment:
    """The place of a step in its run.

    Parameters
    ----------
    step : int
        Steps taken before this one.
    n_steps : int
        Steps of the whole run.
    steps_per_epoch : int
    """

    step: int
    n_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> float:
        """Epochs before this step, with their fraction."""
        return self.step / self.steps_per_epoch


@dataclass(frozen=True)
class Losses:
    """Losses of one step.

    Parameters
    ----------
    total : Tensor of shape ()
        What is minimised; it carries the weights of the terms.
    terms : mapping of str to Tensor of shape ()
        The terms before their weights; 0 where a step does not compute one.
    embeddings : Tensor of shape (B, D)
        One embedding per recording, for the collapse monitors.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    embeddings: Tensor


class Objective(nn.Module, Generic[PlanT, OutputsT]):
    """A way to learn from views.

    Attributes
    ----------
    roles : tuple of str
        Names of the submodules that hold an ``encoder``; the first is the one to evaluate.
    trained : str
        Name of the submodule that the optimiser trains, one of `roles`.
    batch_axes : mapping of str to int
        Axis along which the parts of a batch are joined, for every field of the outputs.
    needs_masks : bool
        Whether it learns from hidden tokens alone, so that every step must have masks.
    views : ViewPlan
        Number, lengths and relation of the crops that it needs.
    """

    roles: ClassVar[tuple[str, ...]]
    trained: ClassVar[str]
    batch_axes: ClassVar[Mapping[str, int]]
    needs_masks: ClassVar[bool] = False
    views: ViewPlan = ViewPlan()

    @property
    def learner(self) -> nn.Module:
        """The trained module."""
        return self.get_submodule(self.trained)

    def encoder(self, role: str | None = None) -> Encoder:
        """Return the encoder of a role, by default the trained one."""
        found = self.get_submodule(f"{role or self.trained}.encoder")
        assert isinstance(found, Encoder)
        return found

    def fit(self, crops: Tensor) -> None:
        """Fit what has a closed form on training crops (B, C, T), before the first step."""
        tokenizer = self.encoder().tokenizer
        tokenizer.fit(crops)
        for role in self.roles:
            if role != self.trained:
                self.encoder(role).tokenizer.copy_fitted(tokenizer)
        for module in self.modules():
            if isinstance(module, Positions):
                module.fit(crops)

    @abstractmethod
    def plan(self, batch: ViewBatch, moment: Moment) -> PlanT:
        """Return what this step computes."""

    @abstractmethod
    def inputs(self, part: ViewBatch, plan: PlanT) -> tuple[Any, ...]:
        """Return the arguments of the learner for a part of the batch."""

    def targets(self, part: ViewBatch, plan: PlanT) -> OutputsT | None:  # noqa: ARG002
        """Return what the learner's outputs for a part are compared with, without gradient."""
        return None

    @abstractmethod
    def loss(self, outputs: OutputsT, targets: OutputsT | None, plan: PlanT) -> Losses:
        """Return the losses of the whole batch on every process of the run."""

    def after_step(self, moment: Moment, optim: OptimConfig) -> dict[str, float]:  # noqa: ARG002
        """Follow the optimiser's step; return what the logs should show of it."""
        return {}


def hidden_tokens(batch: ViewBatch) -> Tensor | None:
    """Return the tokens that the learner does not see: masked, or without data."""
    if batch.masks is None or batch.missing is None:
        return batch.missing if batch.masks is None else batch.masks
    return batch.masks | batch.missing

"""The gradient of one step: over several processes, and in parts where memory is short.

In parts, the loss is still that of the whole batch, the coding rate included. The student's
projections of all parts are computed without a graph; the loss of all of them gives the gradient
of every projection; then every part is computed again with its graph and takes its share on. It is
exact and costs one more forward pass. Source: Gao et al., RepL4NLP 2021 (gradient caching).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from semantoks.objectives.distillation import (
    Losses,
    Projections,
    SelfDistillation,
    student_input,
)
from semantoks.train.distributed import n_processes
from semantoks.views.batch import ViewBatch

Context = Callable[[int], AbstractContextManager[None]]


class Gradient:
    """Compute losses and gradients of a step; on several processes they are the whole batch's.

    Parameters
    ----------
    method : SelfDistillation
    n_parts : int
        Parts in which this process computes its recordings.
    """

    def __init__(self, method: SelfDistillation, n_parts: int) -> None:
        self._method, self._n_parts = method, n_parts
        self._student: nn.Module = method.student
        if n_processes() > 1:
            with warnings.catch_warnings():
                # torch 2.13 renames broadcast_buffers; 2.6 knows no other name.
                warnings.simplefilter("ignore", FutureWarning)
                # A step without masks, say, reaches no mask vector: such parameters must be found.
                self._student = DistributedDataParallel(
                    method.student, broadcast_buffers=False, find_unused_parameters=True
                )
            for tensor in method.teacher.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)

    def losses(
        self, batch: ViewBatch, network_weight: float, context: Context
    ) -> tuple[Losses, Callable[[], None]]:
        """Return the losses, and the function that computes the gradients.

        Parameters
        ----------
        batch : ViewBatch
            This process's recordings.
        network_weight : float
            Weight of L_net.
        context : callable
            Gives, for the number of a part, the context of its forward passes: arithmetic, and the
            same random numbers every time.
        """
        parts = batch.split(self._n_parts)
        terms = self._method.terms(batch, network_weight)
        if len(parts) == 1:
            with context(0):
                targets = self._method.targets(batch, terms)
                student = self._student(*student_input(batch), terms)
            losses = self._method.loss(student, targets, network_weight)
            return losses, losses.total.backward
        teachers, students = [], []
        for i, part in enumerate(parts):
            with torch.no_grad(), context(i):
                teachers.append(self._method.targets(part, terms))
                students.append(self._method.student(*student_input(part), terms))
        leaves = [Projections(*map(_leaf, part)) for part in students]  # type: ignore[arg-type]
        losses = self._method.loss(_joined(leaves), _joined(teachers), network_weight)

        def backward() -> None:
            losses.total.backward()
            for i, part in enumerate(parts):
                with self._sync(last=i == len(parts) - 1):
                    with context(i):
                        again = self._student(*student_input(part), terms)
                    _hand_on(again, leaves[i])

        return losses, backward

    def _sync(self, *, last: bool) -> AbstractContextManager[None]:
        """Average over processes with the last part only."""
        if last or not isinstance(self._student, DistributedDataParallel):
            return nullcontext()
        return self._student.no_sync()


def _leaf(x: Tensor | None) -> Tensor | None:
    """Return a tensor that keeps its gradient."""
    return x.detach().requires_grad_() if x is not None and x.is_floating_point() else x


def _joined(parts: list[Projections]) -> Projections:
    """Join the parts of a batch."""

    def join(name: str) -> Tensor | None:
        there = [t for t in (getattr(part, name) for part in parts) if t is not None]
        return torch.cat(there, dim=0 if name in ("tokens", "compared") else 1) if there else None

    return Projections(*(join(name) for name in Projections._fields))  # type: ignore[arg-type]


def _hand_on(again: Projections, leaves: Projections) -> None:
    """Go back from projections whose gradients are known."""
    tensors, gradients = [], []
    for output, leaf in zip(again, leaves, strict=True):
        if output is not None and leaf is not None and leaf.grad is not None:
            tensors.append(output)
            gradients.append(leaf.grad)
    torch.autograd.backward(tensors, gradients)

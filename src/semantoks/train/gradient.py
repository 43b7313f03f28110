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
            losses = self._method.loss(student, targets, batch, network_weight)
            return losses, losses.total.backward
        teachers, students = [], []
        for i, part in enumerate(parts):
            with torch.no_grad(), context(i):
                teachers.append(self._method.targets(part, terms))
                students.append(self._method.student(*student_input(part), terms))
        targets, cached = _joined(teachers, leaves=False), _joined(students, leaves=True)
        losses = self._method.loss(cached, targets, batch, network_weight)

        def backward() -> None:
            losses.total.backward()  # type: ignore[no-untyped-call]
            begin = 0
            for i, part in enumerate(parts):
                end = begin + part.views.shape[1]
                with self._sync(last=i == len(parts) - 1):
                    with context(i):
                        again = self._student(*student_input(part), terms)
                    _hand_on(again, cached, slice(begin, end))
                begin = end

        return losses, backward

    def _sync(self, *, last: bool) -> AbstractContextManager[None]:
        """Average over processes with the last part only."""
        if last or not isinstance(self._student, DistributedDataParallel):
            return nullcontext()
        return self._student.no_sync()


def _joined(parts: list[Projections], *, leaves: bool) -> Projections:
    """Join the parts of a batch; as leaves, their gradients are kept."""

    def join(tensors: tuple[Tensor | None, ...]) -> Tensor | None:
        there = [t for t in tensors if t is not None]
        return torch.cat(there, dim=1).requires_grad_(leaves) if there else None

    return Projections(*(join(tensors) for tensors in zip(*parts, strict=True)))  # type: ignore[arg-type]


def _hand_on(again: Projections, cached: Projections, place: slice) -> None:
    """Go back from projections whose gradients are known."""
    tensors, gradients = [], []
    for output, leaf in zip(again, cached, strict=True):
        if output is not None and leaf is not None and leaf.grad is not None:
            tensors.append(output)
            gradients.append(leaf.grad[:, place])
    torch.autograd.backward(tensors, gradients)

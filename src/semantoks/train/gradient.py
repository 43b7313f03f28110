"""The gradient of one step: over several processes, and in parts where memory is short.

In parts, the loss is still that of the whole batch, with all terms that compare recordings. The
outputs of all parts are computed without a graph; the loss of all of them gives the gradient of
every output; then every part is computed again with its graph and passes its share on. It is exact
and costs one more forward pass. Source: Gao et al., RepL4NLP 2021 (gradient caching).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from semantoks.objectives.objective import Losses, Objective
from semantoks.train.distributed import n_processes
from semantoks.views.batch import ViewBatch

Context = Callable[[int], AbstractContextManager[None]]


class Gradient:
    """Compute losses and gradients of a step; on several processes they are the whole batch's.

    Parameters
    ----------
    objective : Objective
    n_parts : int
        Parts in which this process computes its recordings.
    """

    def __init__(self, objective: Objective[Any, Any], n_parts: int) -> None:
        self._objective, self._n_parts = objective, n_parts
        self._learner: nn.Module = objective.learner
        if n_processes() > 1:
            with warnings.catch_warnings():
                # torch 2.13 renames broadcast_buffers; 2.6 knows no other name.
                warnings.simplefilter("ignore", FutureWarning)
                # A step without masks, e.g., reaches no mask vector: such parameters must be found.
                self._learner = DistributedDataParallel(
                    objective.learner, broadcast_buffers=False, find_unused_parameters=True
                )
            for name, tensor in objective.state_dict().items():
                if not name.startswith(f"{objective.trained}."):
                    torch.distributed.broadcast(tensor, src=0)

    def losses(
        self, batch: ViewBatch, plan: Any, context: Context
    ) -> tuple[Losses, Callable[[], None]]:
        """Return the losses, and the function that computes the gradients.

        Parameters
        ----------
        batch : ViewBatch
            This process's recordings.
        plan : object
            What `Objective.plan` returns for the batch.
        context : callable
            Gives, for the number of a part, the context of its forward passes: arithmetic, and the
            same random numbers every time.
        """
        objective = self._objective
        parts = batch.split(self._n_parts)
        if len(parts) == 1:
            with context(0):
                targets = objective.targets(batch, plan)
                outputs = self._learner(*objective.inputs(batch, plan))
            losses = objective.loss(outputs, targets, plan)
            return losses, losses.total.backward
        all_targets, all_outputs = [], []
        for i, part in enumerate(parts):
            with torch.no_grad(), context(i):
                all_targets.append(objective.targets(part, plan))
                all_outputs.append(objective.learner(*objective.inputs(part, plan)))
        leaves = [type(outputs)(*map(_leaf, outputs)) for outputs in all_outputs]
        axes = objective.batch_axes
        losses = objective.loss(joined(leaves, axes), joined(all_targets, axes), plan)

        def backward() -> None:
            losses.total.backward()
            for i, part in enumerate(parts):
                with self._sync(last=i == len(parts) - 1):
                    with context(i):
                        again = self._learner(*objective.inputs(part, plan))
                    _pass_on(again, leaves[i])

        return losses, backward

    def _sync(self, *, last: bool) -> AbstractContextManager[None]:
        """Average over processes with the last part only."""
        if last or not isinstance(self._learner, DistributedDataParallel):
            return nullcontext()
        return self._learner.no_sync()


def _leaf(x: Tensor | None) -> Tensor | None:
    """Return a tensor that keeps its gradient."""
    return x.detach().requires_grad_() if x is not None and x.is_floating_point() else x


def joined(parts: Sequence[Any], axes: Mapping[str, int]) -> Any:
    """Join the outputs, or the targets, of the parts of a batch.

    Parameters
    ----------
    parts : sequence of named tuples of Tensor or None, or of None
    axes : mapping of str to int
        Axis along which each field is joined.

    Returns
    -------
    named tuple, or None
    """
    first = parts[0]
    if first is None:
        return None

    def join(name: str) -> Tensor | None:
        there = [t for t in (getattr(part, name) for part in parts) if t is not None]
        return torch.cat(there, dim=axes[name]) if there else None

    return type(first)(*(join(name) for name in first._fields))


def _pass_on(again: tuple[Tensor | None, ...], leaves: tuple[Tensor | None, ...]) -> None:
    """Go back from outputs whose gradients are known."""
    tensors, gradients = [], []
    for output, leaf in zip(again, leaves, strict=True):
        if output is not None and leaf is not None and leaf.grad is not None:
            tensors.append(output)
            gradients.append(leaf.grad)
    torch.autograd.backward(tensors, gradients)

"""Guards of a run: batches that are not finite never reach the weights, a collapse warns."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semantoks.data.recording import subject_key
from semantoks.errors import InputError
from semantoks.objectives.objective import Losses
from semantoks.train.distributed import gather_rows, is_main
from semantoks.train.logs import RunLogs
from semantoks.views.batch import ViewBatch

#: Batches skipped in a row after which the weights, not the data, are to blame.
MAX_SKIPPED = 10


class TrainingWarning(UserWarning):
    """Training continues, but needs attention."""


class BatchGuard:
    """Say what is wrong with a batch whose loss or gradient is not finite.

    Parameters
    ----------
    run : Path
    ids : array of str
        Identifiers of the store's recordings.
    skip : bool
        Leave such a batch out; else stop.
    """

    def __init__(self, run: Path, ids: NDArray[np.str_], *, skip: bool) -> None:
        self._run, self._ids, self._skip = run, ids, skip
        self._in_a_row = 0

    def passed(self) -> None:
        """Record a batch whose loss and gradient were finite."""
        self._in_a_row = 0

    def refuse(
        self,
        what: str,
        step: int,
        batch: ViewBatch,
        losses: Losses,
        logs: RunLogs,
    ) -> None:
        """Name the recordings to blame; then stop, or write down that the batch is skipped.

        Parameters
        ----------
        what : str
            "loss" or "gradient".
        step : int
        batch : ViewBatch
            This process's part.
        losses : Losses
        logs : RunLogs

        Raises
        ------
        InputError
            If the run is to stop, or too many batches in a row were bad.
        """
        finite = gather_rows(_finite_recordings(batch, losses.embeddings)).cpu().numpy()
        assert batch.recordings is not None
        mine = batch.recordings.movedim(-1, 0).to(losses.embeddings.device)
        recordings = gather_rows(mine).cpu().numpy()  # several per subject, perhaps
        blamed = recordings if finite.all() or not finite.any() else recordings[~finite]
        bad = np.array([*dict.fromkeys(blamed.ravel().tolist())])
        names = ", ".join(self._ids[bad][:8]) + (" ..." if len(bad) > 8 else "")
        self._in_a_row += 1
        if not self._skip or self._in_a_row >= MAX_SKIPPED:
            row = f" ({self._in_a_row} batches in a row)" if self._in_a_row > 1 else ""
            raise InputError(
                f"the {what} is not finite at step {step}{row}; the weights were not changed",
                file=self._run,
                field="recordings of the batch" if len(blamed) == len(finite) else "recordings",
                value=names,
                fix="Check these recordings (`semantoks check STORE`); resume with "
                "train.on_nan=skip to exclude such batches, or start again with a lower "
                "optim.base_lr",
            )
        logs.event(
            {
                "step": step,
                "event": f"{what} not finite, batch skipped",
                "rows": [int(i) for i in bad],
                "recordings": [subject_key(self._ids[i]) for i in bad],
            }
        )
        if is_main():
            text = f"step {step}: the {what} is not finite; the batch was skipped. Look at {names}"
            warnings.warn(text, TrainingWarning, stacklevel=2)


def _finite_recordings(batch: ViewBatch, embeddings: Tensor) -> Tensor:
    """Return which recordings have finite views and embeddings: (B,)."""
    views = torch.isfinite(batch.views).flatten(2).all(dim=2).all(dim=0)
    return views & torch.isfinite(embeddings).all(dim=1)


class CollapseGuard:
    """Warn, once, when the embeddings of a batch fall together.

    Parameters
    ----------
    smallest : float
        Effective rank below which to warn; 0 never. Small batches, whose rank cannot be high, are
        held to a quarter of the highest possible.
    """

    def __init__(self, smallest: float) -> None:
        self._smallest, self._warned = smallest, False

    def look(self, step: int, rank: float, embeddings: Tensor, logs: RunLogs) -> None:
        """Look at the effective rank of the embeddings (m, D) of a step."""
        m, width = embeddings.shape
        threshold = min(self._smallest, min(m - 1, width) / 4)
        if self._warned or not rank < threshold:
            return
        self._warned = True
        logs.event({"step": step, "event": "collapse", "effective_rank": rank})
        if is_main():
            text = (
                f"step {step}: the embeddings are collapsing (effective rank {rank:.1f}, below "
                f"{threshold:.1f}). Recordings become indistinguishable. Lower optim.base_lr, "
                "lengthen optim.warmup_epochs, use larger batches, or lower objective.eps, "
                "which spreads the embeddings more strongly"
            )
            warnings.warn(text, TrainingWarning, stacklevel=2)

"""`ViewBatch`: two augmented, masked views of a batch of recordings."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ViewBatch:
    """Two views of B recordings.

    Parameters
    ----------
    views : Tensor of shape (2, B, C, T)
    masks : Tensor of bool, shape (2, B, N, P), or None
        True where the student sees the mask vector; None on a step without masks.
    missing : Tensor of bool, shape (2, B, N, P), or None
        True where there is no data at all (past the end of a short recording, a network
        outside the field of view): masked for the student and the teacher, and no target.
    """

    views: Tensor
    masks: Tensor | None
    missing: Tensor | None = None

    def split(self, n_parts: int) -> list[ViewBatch]:
        """Return the batch in nearly equal parts, none of them empty.

        Parameters
        ----------
        n_parts : int
            At most so many.
        """
        n = self.views.shape[1]
        parts = min(n_parts, n)
        ends = [n * (i + 1) // parts for i in range(parts)]
        chosen = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        return [
            ViewBatch(
                self.views[:, s],
                None if self.masks is None else self.masks[:, s],
                None if self.missing is None else self.missing[:, s],
            )
            for s in chosen
        ]

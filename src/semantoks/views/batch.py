"""`ViewBatch`: augmented, masked views of a batch of recordings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class ViewBatch:
    """V views of B recordings; V is 2 unless the objective asks for another number.

    Parameters
    ----------
    views : Tensor of shape (V, B, C, T)
    masks : Tensor of bool, shape (V, B, N, P), or None
        True where the learner sees the mask vector; None on a step without masks.
    missing : Tensor of bool, shape (V, B, N, P), or None
        True where there is no data at all (past the end of a short recording, a network
        outside the field of view): hidden from every encoder, and no target.
    clean : Tensor of shape (V, B, C, T), or None
        The views before augmentation, where the objective asks for them.
    recordings : Tensor of int64, shape (B,), or None
        Rows of the recordings in the table of the store, on the CPU; (V, B) where the views of a
        subject come from several recordings.
    subjects : Tensor of int64, shape (B,), or None
        Number of every recording's subject, on the CPU.
    starts : Tensor of int64, shape (V, B), or None
        First time point of every view in its recording, on the CPU.
    lengths : Tensor of int64, shape (V, B), or None
        Time points of every view that were recorded, on the CPU; zeros fill up the rest.
    more : tuple of ViewBatch
        Crops of other lengths of the same recordings.
    """

    views: Tensor
    masks: Tensor | None
    missing: Tensor | None = None
    clean: Tensor | None = None
    recordings: Tensor | None = None
    subjects: Tensor | None = None
    starts: Tensor | None = None
    lengths: Tensor | None = None
    more: tuple[ViewBatch, ...] = ()

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
        return [self._part(slice(a, b)) for a, b in zip([0, *ends[:-1]], ends, strict=True)]

    def _part(self, chosen: slice) -> ViewBatch:
        def of(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[:, chosen] if x.ndim > 1 else x[chosen]

        return ViewBatch(
            views=self.views[:, chosen],
            masks=of(self.masks),
            missing=of(self.missing),
            clean=of(self.clean),
            recordings=of(self.recordings),
            subjects=of(self.subjects),
            starts=of(self.starts),
            lengths=of(self.lengths),
            more=tuple(group._part(chosen) for group in self.more),
        )

    def double(self) -> ViewBatch:
        """Return the batch with its signals in float64."""
        return replace(
            self,
            views=self.views.double(),
            clean=None if self.clean is None else self.clean.double(),
            more=tuple(group.double() for group in self.more),
        )

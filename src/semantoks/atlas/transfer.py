"""Signals of one atlas from those of another, by spatial overlap: an approximation, with its loss.

A target ROI's signal is the mean of the source ROIs that share its place, weighted by the volume
shared. It is exact where target ROIs are unions of source ROIs; elsewhere `covered` and `purity`
say how much is lost. Where the images are available, parcellating them again is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.atlas.parcellation import Parcellation
from semantoks.atlas.volume import AtlasVolume
from semantoks.errors import InputError


@dataclass(frozen=True, eq=False)
class Transfer:
    """Weights from the ROIs of one parcellation to those of another.

    Parameters
    ----------
    source, target : Parcellation
    overlap : ndarray of shape (n_target, n_source)
        Volume shared, cubic millimetres.
    target_sizes, source_sizes : ndarray of shape (n_target,), (n_source,)
        Volume of every ROI, cubic millimetres.
    """

    source: Parcellation
    target: Parcellation
    overlap: NDArray[np.float64]
    target_sizes: NDArray[np.float64]
    source_sizes: NDArray[np.float64]

    @classmethod
    def between(
        cls,
        source: Parcellation,
        source_image: str | Path,
        target: Parcellation,
        target_image: str | Path,
    ) -> Transfer:
        """Measure the overlap of two atlases' volumes, through their affines.

        Raises
        ------
        InputError
            An image has other values than its parcellation, or they do not meet anywhere.
        """
        have = AtlasVolume.load(source_image, source)
        want = AtlasVolume.load(target_image, target)
        here = have.on_grid(want.affine, want.places.shape)
        both = (here >= 0) & (want.places >= 0)
        overlap = np.zeros((len(target), len(source)))
        voxel = abs(np.linalg.det(want.affine[:3, :3]))
        np.add.at(overlap, (want.places[both], here[both]), voxel)
        if not overlap.any():
            rule = f"the atlases {source.name} and {target.name} do not meet anywhere"
            raise InputError(rule, file=target_image, fix="Give images in the same space")
        return cls(source, target, overlap, want.sizes, have.sizes)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Share of every target ROI that lies in every source ROI, (n_target, n_source)."""
        return self.overlap / self.target_sizes[:, None]

    @property
    def covered(self) -> NDArray[np.float64]:
        """Share of every target ROI that lies in any source ROI, (n_target,)."""
        return np.asarray(self.weights.sum(axis=1))

    @property
    def purity(self) -> NDArray[np.float64]:
        """Share of the source ROIs used that lies in the target ROI, weighted as used, (n_target,).

        1 where a target ROI is a union of source ROIs; small where it is a sliver of a large one,
        whose signal then is mostly that of its neighbours.
        """
        within = np.minimum(self.overlap / self.source_sizes, 1.0)
        with np.errstate(invalid="ignore"):
            purity = (self.weights * within).sum(axis=1) / self.covered
        return np.asarray(np.nan_to_num(purity))

    def report(self) -> pd.DataFrame:
        """Return label, covered, purity and number of source ROIs of every target ROI."""
        return pd.DataFrame(
            {
                "label": self.target.labels,
                "covered": self.covered.round(3),
                "purity": self.purity.round(3),
                "n_sources": (self.overlap > 0).sum(axis=1),
            }
        )

    def apply(
        self,
        signal: NDArray[np.floating],
        roi_names: Sequence[str],
        *,
        coverage: NDArray[np.floating] | None = None,
        source: str | Path = "recording",
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the signals of the target ROIs, and their coverage.

        Parameters
        ----------
        signal : ndarray of shape (n_times, n_source)
            NaN or constant columns have no data; rows that are NaN throughout are censored.
        roi_names : sequence of str
            Names of the columns, those of the source parcellation in any order.
        coverage : ndarray of shape (n_source,), optional
            Fraction of every column's ROI that has data; all of it by default.
        source : str or path
            For messages.

        Returns
        -------
        signal : ndarray of shape (n_times, n_target)
            NaN for a ROI that no source ROI with data shares a place with.
        coverage : ndarray of shape (n_target,)
        """
        columns = self.source.columns_of(roi_names, source=source)
        x = np.asarray(signal, np.float64)[:, columns]
        taken = np.isfinite(x).any(axis=1)
        rows = x[taken] if taken.any() else x
        there = np.isfinite(rows).all(axis=0) & (np.ptp(np.nan_to_num(rows), axis=0) > 0)
        own = there if coverage is None else there * np.nan_to_num(coverage)[columns]
        weights = self.weights * own
        covered = weights.sum(axis=1)
        out = np.full((len(x), len(self.target)), np.nan)
        some = covered > 0
        out[:, some] = x[:, there] @ (weights[some][:, there] / covered[some, None]).T
        return out, covered

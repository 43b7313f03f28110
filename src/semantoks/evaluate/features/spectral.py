"""How strongly, and how fast, regions fluctuate: baselines without any connectivity."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from semantoks.data.signal import check_tr
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.features.blocks import Scaling
from semantoks.evaluate.features.inputs import Signals
from semantoks.evaluate.features.transformer import SignalTransformer

#: Slow-5, slow-4 and slow-3 (Zuo et al. 2010), hertz.
SLOW_BANDS = ((0.01, 0.027), (0.027, 0.073), (0.073, 0.198))
_SMALLEST = 1e-6  # a region without data has no logarithm


class AmplitudeBaseline(SignalTransformer):
    """Logarithm of the standard deviation over time, of networks or of ROIs.

    Parameters
    ----------
    level : {"network", "roi"}
        The mean signal of every network of a store's parcellation, whose amplitude is large where
        its ROIs go together; or every ROI, where recordings were not z-scored.

    Attributes
    ----------
    n_features_in_ : int
        Number of ROIs.
    network_names_ : tuple of str
        Of ``level="network"``.
    """

    stateless: ClassVar[bool] = True  # every recording is described on its own
    scaling: ClassVar[Scaling] = "feature"  # amplitudes differ by orders of magnitude

    def __init__(self, level: Literal["network", "roi"] = "network") -> None:
        self.level = level

    def fit(self, X: Signals, y: object = None) -> Self:  # noqa: ARG002 - scikit-learn's contract
        """Check what is given.

        Raises
        ------
        InputError
            If networks are asked for and `X` is no store, or ROIs and it is z-scored.
        """
        if self.level not in ("network", "roi"):
            raise InputError("must be network or roi", field="level", value=self.level)
        if self.level == "roi":
            refuse_z_scored(X, "level")
        elif isinstance(X, RecordingStore):
            self.network_names_ = X.parcellation.network_names
        else:
            raise InputError(
                "networks are known of a store only", field="X", fix="Give a store, or level='roi'"
            )
        self._see_rois(X)
        return self

    def transform(self, X: Signals) -> NDArray[np.float32]:
        """Return the amplitudes.

        Returns
        -------
        ndarray of float32, shape (n_recordings, n_networks) or (n_recordings, n_rois)
        """
        signals = self._signals(X)
        if self.level == "network" and isinstance(X, RecordingStore):
            members = X.parcellation.network_indices
            signals = (_network_means(s, members) for s in signals)
        return np.stack([np.log(s.std(axis=0) + _SMALLEST).astype(np.float32) for s in signals])

    def _output_names(self, rois: list[str]) -> list[str]:
        return rois if self.level == "roi" else [*self.network_names_]


class SpectralBaseline(SignalTransformer):
    """Amplitude of every ROI in bands of frequency: ALFF, or its share of all amplitude: fALFF.

    Sources: Zang et al. 2007; Zou et al. 2008.

    Parameters
    ----------
    bands : sequence of (low, high)
        Hertz; slow-5, slow-4 and slow-3 by default.
    relative : bool
        fALFF: the band's share of the amplitudes of all frequencies. Otherwise the logarithm of the
        band's mean amplitude, which a z-scored store does not have.
    tr : float, optional
        TR of signals given as arrays, seconds; a store states its own.

    Attributes
    ----------
    n_features_in_ : int
        Number of ROIs.
    """

    stateless: ClassVar[bool] = True  # every recording is described on its own
    scaling: ClassVar[Scaling] = "feature"  # amplitudes differ by orders of magnitude

    def __init__(
        self,
        bands: tuple[tuple[float, float], ...] = SLOW_BANDS,
        *,
        relative: bool = True,
        tr: float | None = None,
    ) -> None:
        self.bands = bands
        self.relative = relative
        self.tr = tr

    def fit(self, X: Signals, y: object = None) -> Self:  # noqa: ARG002 - scikit-learn's contract
        """Check what is given.

        Raises
        ------
        InputError
            If the TR is not known, a band is none or above the Nyquist frequency, or amplitudes
            are asked of a z-scored store.
        """
        nyquist = 0.5 / self._tr(X)
        for low, high in self.bands:
            if not 0 <= low < high or low >= nyquist:
                raise InputError(
                    f"a band is (low, high), and low is below the Nyquist frequency {nyquist:g} Hz",
                    field="bands",
                    value=(low, high),
                )
        if not self.relative:
            refuse_z_scored(X, "relative")
        self._see_rois(X)
        return self

    def _tr(self, X: Signals) -> float:
        return X.tr if isinstance(X, RecordingStore) else check_tr(self.tr, "X")

    def transform(self, X: Signals) -> NDArray[np.float32]:
        """Return the amplitudes in the bands.

        Returns
        -------
        ndarray of float32, shape (n_recordings, n_bands * n_rois)
            Band by band.

        Raises
        ------
        InputError
            If a recording is too short to have a frequency within a band.
        """
        signals, tr = self._signals(X, in_time=True), self._tr(X)
        return np.stack([self._describe(s, tr) for s in signals])

    def _describe(self, signal: NDArray[np.floating], tr: float) -> NDArray[np.float32]:
        x = signal - signal.mean(axis=0)
        frequency = np.fft.rfftfreq(len(x), tr)
        amplitude = np.abs(np.fft.rfft(x, axis=0))
        total = amplitude.sum(axis=0)
        parts = []
        for low, high in self.bands:
            inside = (frequency >= low) & (frequency < high)
            if not inside.any():
                raise InputError(
                    f"has no frequency from {low:g} to {high:g} Hz in {len(x)} time points",
                    field="bands",
                    value=(low, high),
                )
            band = amplitude[inside]
            if self.relative:
                parts.append(band.sum(axis=0) / np.where(total > 0, total, 1.0))
            else:
                parts.append(np.log(band.mean(axis=0) / np.sqrt(len(x)) + _SMALLEST))
        return np.concatenate(parts).astype(np.float32)

    def _output_names(self, rois: list[str]) -> list[str]:
        return [f"{roi} {low:g}-{high:g} Hz" for low, high in self.bands for roi in rois]


def refuse_z_scored(X: Signals, field: str) -> None:
    """Refuse a store whose ROIs all have the same amplitude.

    Raises
    ------
    InputError
        If the store was z-scored.
    """
    if isinstance(X, RecordingStore) and X.preprocessing.zscore:
        raise InputError(
            "every ROI was z-scored: there are no amplitudes left",
            file=X.path,
            field=field,
            fix="Prepare the store without z-scoring, or compare networks or shares instead",
        )


def _network_means(
    signal: NDArray[np.floating], members: tuple[NDArray[np.intp], ...]
) -> NDArray[np.floating]:
    """Return the mean signal of every network's ROIs with data."""
    has_data = (signal != 0).any(axis=0)
    return np.stack(
        [
            signal[:, rois].sum(axis=1) / max(np.count_nonzero(has_data[rois]), 1)
            for rois in members
        ],
        axis=1,
    )

"""Spectral connectivity as a baseline: R^a or log(I + b R), in one or several frequency bands.

The functions are those of `semantoks.model.spectral`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from semantoks.data.filters import band_pass
from semantoks.data.signal import check_tr
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.features.blocks import FeatureBlock
from semantoks.evaluate.features.inputs import Signals
from semantoks.evaluate.features.transformer import SignalTransformer, pair_names
from semantoks.model.spectral import FUNCTIONS, Compression, triangle
from semantoks.model.spectral import spectral_connectivity as of_batch


def spectral_connectivity(
    signal: NDArray[np.floating], kind: Compression = "power", strength: float = 0.5
) -> NDArray[np.float64]:
    """Return R^a or log(I + b R) of the correlation matrix R.

    Parameters
    ----------
    signal : ndarray of shape (n_times, n_rois)
        A ROI without variance has zeros in its row and column. Fewer volumes than ROIs are fine:
        both functions are zero at zero, so that the null space of R contributes nothing.
    kind : {"power", "log"}
    strength : float
        The exponent a in (0, 1], or the factor b > 0.

    Returns
    -------
    ndarray of shape (n_rois, n_rois)
        Symmetric.
    """
    return np.asarray(of_batch(_batch_of_one(signal), kind, strength)[0])


def _batch_of_one(signal: NDArray[np.floating]) -> torch.Tensor:
    return torch.from_numpy(np.array(signal.T, np.float64, order="C"))[None]


class SpectralConnectivityBaseline(SignalTransformer):
    """Spectral connectivity: R^a or log(I + b R), lower triangle with the diagonal.

    Nothing is learned. Off-diagonal values are multiplied by the square root of 2, so that
    Euclidean distances between features are Frobenius distances between matrices.

    Parameters
    ----------
    kind : {"power", "log"}
    strength : float, or sequence of float
        The exponent a in (0, 1], or the factor b > 0. The defaults were chosen on ABIDE, whose
        scores with them are therefore no independent evidence. Several are features side by side,
        of which an evaluation (`evaluate_probes`) chooses one in the inner folds; outside of it,
        put baseline and probe into a pipeline, and that into scikit-learn's ``GridSearchCV``.
    bands : sequence of (low, high), optional
        Frequency bands in hertz, side by side; None leaves a side open. By default the signals
        are taken as they are.
    tr : float, optional
        TR of signals given as arrays, seconds, which bands need; a store states its own.

    Attributes
    ----------
    n_features_in_ : int
        Number of ROIs.
    blocks_ : tuple of FeatureBlock
        Of every strength.
    one_of_ : bool
        Whether the blocks are alternatives: there are several strengths.

    See Also
    --------
    ConnectivityBaseline : Fisher-z correlations, the linear limit.
    TangentBaseline : Logarithms at a reference fitted on the training part.

    Examples
    --------
    >>> signals = np.random.default_rng(0).standard_normal((2, 90, 5))
    >>> SpectralConnectivityBaseline("log", 2 / 3).fit_transform(signals).shape
    (2, 15)
    >>> bands = ((0.01, 0.08), (0.08, 0.2))
    >>> SpectralConnectivityBaseline(bands=bands, tr=2.0).fit_transform(signals).shape
    (2, 30)
    """

    stateless: ClassVar[bool] = True  # every recording is described on its own

    def __init__(
        self,
        kind: Compression = "power",
        strength: float | Sequence[float] = 0.5,
        *,
        bands: Sequence[tuple[float | None, float | None]] | None = None,
        tr: float | None = None,
    ) -> None:
        self.kind = kind
        self.strength = strength
        self.bands = bands
        self.tr = tr

    def fit(self, X: Signals, y: object = None) -> Self:  # noqa: ARG002 - scikit-learn's contract
        """Note the ROIs.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)

        Raises
        ------
        InputError
            If `kind` is unknown, `strength` outside of its range, there is none or one comes twice,
            there is no band, or bands are asked for without a TR.
        """
        if self.kind not in FUNCTIONS:
            raise InputError("must be power or log", field="kind", value=self.kind)
        strengths = self._strengths()
        highest = 1.0 if self.kind == "power" else np.inf
        if not strengths or not all(0 < one <= highest for one in strengths):
            rule = "must be in (0, 1] for a power, and positive for log"
            raise InputError(rule, field="strength", value=self.strength)
        if len(set(strengths)) < len(strengths):
            raise InputError("must differ", field="strength", value=self.strength)
        if self.bands is not None and not len(self.bands):
            raise InputError("must hold at least one (low, high)", field="bands", value=self.bands)
        if self.bands is not None and not isinstance(X, RecordingStore):
            check_tr(self.tr, "signals")
        self._see_rois(X)
        size = len(self.bands or (None,)) * self.n_features_in_ * (self.n_features_in_ + 1) // 2
        self.blocks_ = tuple(FeatureBlock(name=f"{s:g}", n_columns=size) for s in strengths)
        self.one_of_ = len(strengths) > 1
        return self

    def _strengths(self) -> tuple[float, ...]:
        if isinstance(self.strength, Sequence):
            return tuple(self.strength)
        return (self.strength,)

    def transform(self, X: Signals) -> NDArray[np.float32]:
        """Return the spectral connectivity of every recording.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)
            Of a store, only volumes that are no interpolation across censored ones are used.

        Returns
        -------
        ndarray of float32, shape (n_recordings, n_strengths * n_bands * n_rois * (n_rois + 1) / 2)
        """
        found = []
        for signals in self._in_bands(X):
            batches = [_batch_of_one(x) for x in signals]
            each = [(x, strength) for strength in self._strengths() for x in batches]
            matrices = [of_batch(x, self.kind, strength) for x, strength in each]
            found.append(np.concatenate([triangle(one)[0].numpy() for one in matrices]))
        return np.stack(found).astype(np.float32)

    def _in_bands(self, X: Signals) -> Iterator[list[NDArray[np.floating]]]:
        """Yield the signals of every recording, one per band."""
        if self.bands is None:
            yield from ([x] for x in self._signals(X))
            return
        tr = X.tr if isinstance(X, RecordingStore) else float(self.tr or 0)
        for i, x in enumerate(self._signals(X, in_time=True)):
            kept = X.kept(i) if isinstance(X, RecordingStore) else slice(None)
            yield [band_pass(x, tr, *band)[kept] for band in self.bands]

    def _output_names(self, rois: list[str]) -> list[str]:
        names = pair_names(rois, diagonal=True)
        if self.bands is not None:
            names = [f"{name} {_name(band)}" for band in self.bands for name in names]
        if not self.one_of_:
            return names
        return [f"{name} {strength:g}" for strength in self._strengths() for name in names]


def _name(band: tuple[float | None, float | None]) -> str:
    low, high = ("" if edge is None else f"{edge:g}" for edge in band)
    return f"{low}-{high} Hz"

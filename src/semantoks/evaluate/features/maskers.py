"""Signals of nilearn's maskers, with the names of their regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.errors import InputError


def region_names(masker: Any) -> tuple[str, ...]:
    """Return the name of every column that a labels masker returns.

    Parameters
    ----------
    masker : NiftiLabelsMasker or SurfaceLabelsMasker
        Of nilearn, fitted, with the names of its regions (``lut=`` or ``labels=``).

    Raises
    ------
    InputError
        If the masker does not name its regions.
    """
    names = getattr(masker, "region_names_", None)
    if not names:
        raise InputError(
            "must know the names of its regions, and be fitted",
            field="masker",
            value=type(masker).__name__,
            fix="Give it the atlas's lut= (or labels=), and fit it",
        )
    return tuple(str(names[i]) for i in sorted(names))


def masker_signals(masker: Any, signals: Sequence[NDArray[np.floating]]) -> list[pd.DataFrame]:
    """Name the columns of what a masker returned, so that estimators read them by name.

    Parameters
    ----------
    masker : NiftiLabelsMasker or SurfaceLabelsMasker
        See `region_names`.
    signals : sequence of array (n_times, n_regions)
        What ``masker.transform`` returned for some images.

    Returns
    -------
    list of DataFrame
        What every estimator of recordings takes.

    Raises
    ------
    InputError
        If the masker does not name its regions, or a signal has another number of columns: a
        masker drops regions without voxels.

    Examples
    --------
    ``masker_signals(masker, [masker.transform(image) for image in images])``
    """
    names = region_names(masker)
    for i, signal in enumerate(signals):
        if np.ndim(signal) != 2 or np.shape(signal)[1] != len(names):
            rule = f"must have the shape (n_times, {len(names)} regions)"
            raise InputError(rule, field=f"signals[{i}].shape", value=np.shape(signal))
    return [pd.DataFrame(np.asarray(signal), columns=list(names)) for signal in signals]

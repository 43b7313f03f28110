"""Crops of recordings as an encoder reads them: shared by embedding, fine-tuning and occlusion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semantoks.data.mixture import places
from semantoks.data.signal import flat_rois
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.features.inputs import Signals, is_named, roi_names, signal_list
from semantoks.model.crops import Source, cut
from semantoks.model.encoder import Encoder
from semantoks.views.crops import evenly_spaced_starts
from semantoks.views.loader import missing_rows


def sources(encoder: Encoder, X: Signals, tr: float | None) -> Iterator[Source]:
    """Yield the recordings of `X`, checked against what the encoder expects.

    Parameters
    ----------
    encoder : Encoder
    X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)
        A store is put into order by the names of its ROIs and must have been preprocessed like the
        encoder's training data; whole networks may be missing. Arrays are preprocessed here, and
        so are tables whose columns have the names of the ROIs, in any order; a constant ROI counts
        as missing.
    tr : float or None
        TR of arrays, seconds.

    Raises
    ------
    InputError
        If the ROIs, the TR or the preprocessing do not fit, a signal holds NaN or does not vary in
        any ROI, or a recording is shorter than one patch.
    """
    for source in _unchecked(encoder, X, tr):
        if not np.isfinite(source.signal).all():
            raise InputError(
                "holds values that are not finite",
                file=source.name,
                field="signal",
                fix="Leave the recording out; if it comes from a store, `semantoks check` it",
            )
        n_times = source.kept.sum() if encoder.tokenizer.whole else len(source.signal)
        if n_times < encoder.shortest:
            what = "the shortest recording" if encoder.tokenizer.whole else "one patch"
            raise InputError(
                f"is shorter than {what} of {encoder.shortest} time points at a TR of "
                f"{encoder.preprocessing.tr:g} s",
                file=source.name,
                field="length",
                value=int(n_times),
                fix="Leave the recording out",
            )
        yield source


def _unchecked(encoder: Encoder, X: Signals, tr: float | None) -> Iterator[Source]:
    n_rois = len(encoder.channels)
    if isinstance(X, RecordingStore):
        place = _fit(encoder, X)
        absent = missing_rows(X, encoder.rows, place, n_rois)
        for i in range(len(X)):
            signal = np.zeros((int(X.table["length"].iloc[i]), n_rois), np.float32)
            signal[:, place] = X.signal(i)
            yield Source(str(X.table["id"].iloc[i]), signal, absent[i], X.kept(i))
        return
    if tr is None:
        raise InputError(
            "the TR of signals given as arrays is not stated",
            field="tr",
            value=None,
            fix="Give tr=seconds to the estimator",
        )
    named = [_by_name(encoder, x, f"X[{i}]") for i, x in enumerate(X)] if roi_names(X) else X
    for i, x in enumerate(signal_list(named, n_rois)):
        signal = encoder.preprocessing.apply(x, tr, f"X[{i}]")
        flat = flat_rois(x)
        if flat.all():
            rule, fix = "must vary in time in some ROI", "Leave the recording out"
            raise InputError(rule, file=f"X[{i}]", field="signal", fix=fix)
        signal[:, flat] = 0.0  # as in a store, not what rounding leaves of a constant
        absent = np.array([flat[rois].all() for rois in encoder.rows.channels])
        yield Source(f"X[{i}]", signal, absent, np.ones(len(signal), bool))


def _by_name(encoder: Encoder, signal: Any, source: str) -> NDArray[np.floating]:
    """Return a table's columns in the encoder's order; arrays as they are."""
    if not is_named(signal):
        return np.asarray(signal)
    channels = encoder.channels
    places_of = channels.indices_of([*signal.columns], source)
    if len(places_of) != len(channels):
        rule = f"must name all {len(channels)} ROIs of {channels.name}"
        raise InputError(rule, file=source, field="columns", value=len(places_of))
    return signal.to_numpy()[:, np.argsort(places_of)]


def _fit(encoder: Encoder, store: RecordingStore) -> list[int]:
    """Return the encoder's channel of every column of the store.

    A store without the ROIs of some networks (e.g. no cerebellum) fits: a network without columns
    counts as one without data.
    """
    if store.preprocessing != encoder.preprocessing:
        raise InputError(
            f"was preprocessed in another way than the encoder's training data, "
            f"{encoder.preprocessing}",
            file=store.path,
            field="preprocessing",
            value=store.preprocessing,
            fix="Prepare the recordings again with the encoder's settings",
        )
    return places(encoder.channels, store, encoder.rows)


def even_crops(encoder: Encoder, source: Source, n_crops: int) -> tuple[Tensor, Tensor]:
    """Cut evenly spaced crops; a model that reads crops of any length gets the whole recording.

    Parameters
    ----------
    encoder : Encoder
    source : Source
    n_crops : int
        At most.

    Returns
    -------
    views, missing
        As from `cut`.
    """
    length = encoder.config.view_length
    if not encoder.tokenizer.whole:
        return cut(encoder, source, evenly_spaced_starts(len(source.signal), length, n_crops))
    signal = torch.from_numpy(source.signal * source.kept[:, None])
    return signal.T[None].contiguous(), torch.from_numpy(source.absent[None, :, None])

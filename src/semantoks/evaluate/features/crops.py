"""Crops of recordings as an encoder reads them: shared by embedding, fine-tuning and occlusion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semantoks.data.mixture import places
from semantoks.data.signal import flat_rois
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.features.inputs import Signals, signal_list
from semantoks.model.encoder import Encoder
from semantoks.views.crops import IntArray, evenly_spaced_starts
from semantoks.views.loader import missing_rows


@dataclass(frozen=True, eq=False)
class Source:
    """One recording, preprocessed, ROIs in the encoder's order.

    Parameters
    ----------
    name : str
        For messages.
    signal : ndarray of float32, shape (n_times, n_rois)
        At least one patch long.
    absent : ndarray of bool, shape (N,)
        Networks without data.
    kept : ndarray of bool, shape (n_times,)
        False where the signal is interpolated across censored volumes.
    """

    name: str
    signal: NDArray[np.float32]
    absent: NDArray[np.bool_]
    kept: NDArray[np.bool_]


def sources(encoder: Encoder, X: Signals, tr: float | None) -> Iterator[Source]:
    """Yield the recordings of `X`, checked against what the encoder expects.

    Parameters
    ----------
    encoder : Encoder
    X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)
        A store is put into order by the names of its ROIs and must have been preprocessed like the
        encoder's training data; whole networks may be missing. Arrays are preprocessed here; a ROI
        that is constant counts as missing.
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
    for i, x in enumerate(signal_list(X, n_rois)):
        signal = encoder.preprocessing.apply(x, tr, f"X[{i}]")
        flat = flat_rois(x)
        if flat.all():
            rule, fix = "must vary in time in some ROI", "Leave the recording out"
            raise InputError(rule, file=f"X[{i}]", field="signal", fix=fix)
        signal[:, flat] = 0.0  # as in a store, not what rounding leaves of a constant
        absent = np.array([flat[rois].all() for rois in encoder.rows.channels])
        yield Source(f"X[{i}]", signal, absent, np.ones(len(signal), bool))


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


def cut(encoder: Encoder, source: Source, starts: IntArray) -> tuple[Tensor, Tensor]:
    """Cut crops of the length of a view; a short recording is padded with zeros at its end.

    Parameters
    ----------
    encoder : Encoder
    source : Source
    starts : int array of shape (K,)

    Returns
    -------
    views : Tensor of float32, shape (K, C, T)
    missing : Tensor of bool, shape (K, N, P)
        Patches past the end or less than half of whose time points are kept, and networks without
        data. A crop of which no patch would be left keeps those that are not past the end.
    """
    config = encoder.config
    signal = source.signal
    if encoder.tokenizer.whole:  # zeros are no data there
        signal = signal * source.kept[:, None]
    short = max(config.view_length - len(source.signal), 0)
    padded = np.pad(signal, ((0, short), (0, 0)))
    views = np.stack([padded[s : s + config.view_length].T for s in starts])
    begins = np.arange(config.n_patches) * config.patch_length
    real = np.clip(len(source.signal) - begins, 0, config.patch_length)  # time points per patch
    past = real == 0
    kept = np.pad(source.kept, (0, short))
    shape = (len(starts), config.n_patches, config.patch_length)
    counts = np.stack([kept[s : s + config.view_length] for s in starts]).reshape(shape).sum(axis=2)
    lost = past | (2 * counts < real)
    lost = np.where(lost.all(axis=1, keepdims=True), past, lost)
    return (
        torch.from_numpy(np.ascontiguousarray(views, np.float32)),
        torch.from_numpy(source.absent[:, None] | lost[:, None]),
    )

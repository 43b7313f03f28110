"""Crops of recordings as an encoder reads them, and the one crop that `Encoder.prepare` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semantoks.arrays import Signal
from semantoks.errors import InputError
from semantoks.views.crops import IntArray

if TYPE_CHECKING:
    from semantoks.model.encoder import Encoder


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


class ReadsSignals:
    """What turns a signal into the input of an encoder."""

    def prepare(self, signal: Signal | Tensor, tr: float) -> tuple[Tensor, Tensor]:
        """Preprocess a recording as the training data were, and cut the view in its middle.

        Views of several recordings have one shape and stack to a batch:
        ``encoder(views, masks)``. `semantoks.Embedder` averages evenly spaced views instead.

        Parameters
        ----------
        signal : array or Tensor of shape (n_times, C)
            The ROIs of `channels`, in their order. Any mean and scale.
        tr : float
            Repetition time, seconds.

        Returns
        -------
        view : Tensor of float32, shape (C, T)
            A recording shorter than a view, or than a patch, is padded with zeros at its end.
        mask : Tensor of bool, shape (N, P)
            True for patches without data.

        Raises
        ------
        InputError
            If the number of ROIs or the TR does not fit, or a value is not finite.

        Examples
        --------
        >>> import numpy as np
        >>> from semantoks import load_pretrained
        >>> encoder = load_pretrained()
        >>> signal = np.random.default_rng(0).standard_normal((90, len(encoder.channels)))
        >>> view, mask = encoder.prepare(signal, tr=2.5)
        >>> encoder(view[None], mask[None]).cls_avg.shape
        torch.Size([1, 512])
        """
        encoder = cast("Encoder", self)
        values, n_rois = np.asarray(signal), len(encoder.channels)
        if values.ndim != 2 or values.shape[1] != n_rois:
            raise InputError(
                f"must have the shape (n_times, {n_rois} ROIs)",
                field="signal.shape",
                value=values.shape,
                fix=f"Give the ROIs of {encoder.channels.name}, time first",
            )
        x = encoder.preprocessing.apply(values, tr)
        absent, kept = np.zeros(encoder.n_networks, bool), np.ones(len(x), bool)
        start = max(len(x) - encoder.config.view_length, 0) // 2
        views, missing = cut(encoder, Source("signal", x, absent, kept), np.array([start]))
        return views[0], missing[0]

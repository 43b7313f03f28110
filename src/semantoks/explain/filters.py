"""The learned long-convolution filters and what they pass, in hertz at the encoder's TR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from semantoks.errors import InputError
from semantoks.model.encoder import Encoder
from semantoks.model.tokenizers.longconv import StructuredConv
from semantoks.model.tokenizers.networks import SemanticTokenizer


@dataclass(frozen=True, eq=False)
class NetworkFilters:
    """Filters of one network.

    Parameters
    ----------
    network : str
    lags : ndarray of shape (length,)
        Seconds from the output's time to the input's: negative lags look back.
    impulse : ndarray of shape (n_heads * n_rois, length)
        Weight of the input at every lag, the skip included.
    frequencies : ndarray of shape (n_frequencies,)
        Hertz, from 0 to the Nyquist frequency.
    gain : ndarray of shape (n_heads * n_rois, n_frequencies)
        Amplitude response |H(f)|.
    """

    network: str
    lags: NDArray[np.float64]
    impulse: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    gain: NDArray[np.float64]


def network_filters(encoder: Encoder, n_frequencies: int = 129) -> list[NetworkFilters]:
    """Return the structured filters of every network.

    Parameters
    ----------
    encoder : Encoder
    n_frequencies : int

    Returns
    -------
    list of NetworkFilters
        In the order of the networks; a network with several structured branches has all their
        filters.

    Raises
    ------
    InputError
        If the encoder has no structured branch.
    """
    tr = encoder.preprocessing.tr
    found = []
    if not isinstance(encoder.tokenizer, SemanticTokenizer):
        raise InputError(
            "has no long convolution",
            field="encoder.granularity",
            value=encoder.config.granularity,
        )
    for name, network in zip(encoder.rows.names, encoder.tokenizer.networks, strict=True):
        convs = [m for m in network.modules() if isinstance(m, StructuredConv)]
        for conv in convs:
            impulse, offsets = impulse_response(conv)
            frequencies = np.linspace(0.0, 0.5 / tr, n_frequencies)
            phase = np.exp(2j * np.pi * frequencies[:, None] * offsets * tr)
            gain = np.abs(impulse @ phase.T)
            lags = np.asarray(offsets * tr, np.float64)
            found.append(NetworkFilters(name, lags, impulse, frequencies, gain))
    if not found:
        raise InputError("has no structured long convolution", field="encoder.branches")
    return found


def impulse_response(conv: StructuredConv) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the weights of one structured convolution, and at which time points they act.

    Returns
    -------
    weights : ndarray of shape (n_heads * n_channels, length)
        Weight of ``x[t + offset]`` in ``y[t]``, ordered (channel, head) as the outputs are.
    offsets : ndarray of int, shape (length,)
    """
    with torch.no_grad():
        weights = conv.weights().flatten(0, 1).double().numpy()
    return weights, np.arange(weights.shape[1]) - (weights.shape[1] - 1) // 2

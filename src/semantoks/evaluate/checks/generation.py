"""Recordings sampled from a model that predicts the next patch, and their distance to real ones.

1. A recording starts with the first patch of a real one, which is dropped later.
2. The next patch is what the model predicts from the last view, plus an innovation E: Gaussian with
   the covariance of channels S and of time points U of the model's residuals, E = S^1/2 Z U^1/2.
3. The first view is dropped too, so that nothing of the real patch is left.

Residuals come from one half of the people, the comparison is with the other half, and the distance
between the two halves is the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from semantoks.arrays import Array
from semantoks.evaluate.features.crops import even_crops
from semantoks.model.crops import Source
from semantoks.objectives.autoregressive import NextPatch

_N_CROPS = 4
_SEGMENT = 64  # volumes of Welch's windows


@dataclass(frozen=True)
class Innovations:
    """Square roots of the covariances of a model's residuals.

    Parameters
    ----------
    channels : Tensor of shape (M, M)
        S^1/2, of the channels that the model predicts.
    times : Tensor of shape (L, L)
        U^1/2; the trace of U is L.
    prompts : Tensor of shape (R, C, L)
        First patches of the recordings.
    """

    channels: Tensor
    times: Tensor
    prompts: Tensor


@torch.no_grad()
def measure(model: NextPatch, recordings: Iterable[Source]) -> Innovations:
    """Measure the residuals of a model on recordings.

    Patches without data are left out.
    """
    n_channels, length = model.head.n_channels, model.head.patch_length
    by_channel = torch.zeros(n_channels, n_channels, dtype=torch.float64)
    by_time = torch.zeros(length, length, dtype=torch.float64)
    n_patches, prompts = 0, []
    for source in recordings:
        views, missing = even_crops(model.encoder, source, _N_CROPS)
        found, _ = model.predict(views, missing if missing.any() else None)
        coming = model.head.patches(views)[:, :, 1:]
        kept = ~model.head.by_channel(missing)[:, :, 1:].unsqueeze(-1)
        residual = ((coming - found[:, :, :-1]) * kept).transpose(1, 2).flatten(0, 1).double()
        by_channel += torch.einsum("kml,knl->mn", residual, residual)
        by_time += torch.einsum("kml,kmn->ln", residual, residual)
        n_patches += len(residual)
        prompts.append(views[0, :, :length])
    return Innovations(
        _root(by_channel / (n_patches * length)),
        _root(by_time * length / by_time.trace()),
        torch.stack(prompts),
    )


def _root(covariance: Tensor) -> Tensor:
    """Return the symmetric square root, in float32."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root.float()


@torch.no_grad()
def sample(
    model: NextPatch, innovations: Innovations, *, n_recordings: int, n_times: int, seed: int
) -> NDArray[np.float32]:
    """Sample recordings.

    Parameters
    ----------
    model : NextPatch
    innovations : Innovations
    n_recordings, n_times : int
        How many, and of how many volumes.
    seed : int

    Returns
    -------
    ndarray of float32, shape (n_recordings, n_times, C)
    """
    generator = torch.Generator().manual_seed(seed)
    head, config = model.head, model.encoder.config
    n_patches = config.n_patches + -(-n_times // head.patch_length)
    which = torch.randint(len(innovations.prompts), (n_recordings,), generator=generator)
    x = innovations.prompts[which]
    size = (n_recordings, len(innovations.channels), head.patch_length)
    for _ in range(n_patches):
        mean = model.predict(x[:, :, -config.view_length :], None)[0][:, :, -1]
        noise = torch.randn(size, generator=generator)
        coming = mean + innovations.channels @ noise @ innovations.times
        x = torch.cat([x, head.to_channels(coming, x.shape[1])], dim=2)
    out: NDArray[np.float32] = x[:, :, -n_times:].transpose(1, 2).contiguous().numpy()
    return out


def segment(groups: Mapping[str, Sequence[NDArray[np.floating]]]) -> int:
    """Return how many volumes Welch's windows have: those of the shortest recording, at most."""
    return min(_SEGMENT, *(len(x) for signals in groups.values() for x in signals))


def spectrum(
    signals: Sequence[NDArray[np.floating]], tr: float, *, size: int
) -> tuple[Array, Array]:
    """Return frequencies in hertz, and the mean power of channels and recordings, summing to 1.

    Windows of `size` volumes, as Welch (1967).
    """
    from scipy.signal import welch

    power = []
    for signal in signals:
        hertz, found = welch(signal, fs=1 / tr, nperseg=size, axis=0)
        power.append(found.mean(axis=1))
    mean = np.mean(power, axis=0)
    return hertz, mean / mean.sum()


def connectivity(signals: Sequence[NDArray[np.floating]]) -> Array:
    """Return the mean correlation of every pair of channels, averaged as Fisher z, (edges,)."""
    rows = []
    for signal in signals:
        x = signal - signal.mean(axis=0)
        norm = np.linalg.norm(x, axis=0)
        x = x / np.where(norm > 0, norm, 1)
        edges = np.triu_indices(x.shape[1], 1)
        rows.append(np.arctanh((x.T @ x)[edges].clip(-0.999, 0.999)))
    mean: Array = np.tanh(np.mean(rows, axis=0))
    return mean


def distances(
    groups: Mapping[str, Sequence[NDArray[np.floating]]], tr: float
) -> tuple[pd.DataFrame, dict[str, tuple[Array, Array]]]:
    """Compare groups of recordings, each with the next one.

    Parameters
    ----------
    groups : mapping of str to sequence of arrays (n_times, C)
    tr : float
        Seconds.

    Returns
    -------
    table : DataFrame
        Columns one, two, spectrum_distance (half the sum of absolute differences, 0 to 1),
        connectivity_correlation, connectivity_difference (mean absolute).
    found : mapping of str to (power, edges)
        Of every group.
    """
    size = segment(groups)
    found = {name: (spectrum(x, tr, size=size)[1], connectivity(x)) for name, x in groups.items()}
    rows = []
    for one, two in pairwise(found):
        (power, edges), (other_power, other_edges) = found[one], found[two]
        rows.append(
            {
                "one": one,
                "two": two,
                "spectrum_distance": abs(power - other_power).sum() / 2,
                "connectivity_correlation": np.corrcoef(edges, other_edges)[0, 1],
                "connectivity_difference": abs(edges - other_edges).mean(),
            }
        )
    return pd.DataFrame(rows), found

"""What every functional network contributes to a recording's embedding.

Source: Brain-Semantoks (ICLR 2026), network occlusion: all networks but one masked, as in training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from semantoks.evaluate.features.crops import even_crops, sources
from semantoks.evaluate.features.inputs import Signals
from semantoks.evaluate.stats.bootstrap import cluster_resamples
from semantoks.model.encoder import Encoder


@dataclass(frozen=True, eq=False)
class Occlusion:
    """How far the embedding moves when networks are masked.

    Parameters
    ----------
    networks : tuple of str, length N
    alone : ndarray of shape (n_recordings, N)
        Cosine distance between the whole embedding (``cls_avg``) and that with all networks but
        this one masked: small where the network alone says most of it. NaN where it has no data.
    without : ndarray of shape (n_recordings, N)
        Cosine distance to the embedding with only this network masked: large where nothing else
        makes up for it. NaN where it has no data.
    """

    networks: tuple[str, ...]
    alone: NDArray[np.float64]
    without: NDArray[np.float64]

    def summary(self, subjects: NDArray[np.str_], *, seed: int = 0) -> pd.DataFrame:
        """Return mean distances with 95 % bootstrap intervals over subjects.

        Parameters
        ----------
        subjects : array of shape (n_recordings,)
        seed : int

        Returns
        -------
        DataFrame
            Columns network, measure ("alone", "without"), mean, ci_low, ci_high.
        """
        samples = cluster_resamples(subjects, 1000, seed)
        rows = []
        for measure in ("alone", "without"):
            values = getattr(self, measure)
            for i, network in enumerate(self.networks):
                column = values[:, i]
                if np.isnan(column).all():
                    continue
                drawn = [np.nanmean(column[s]) for s in samples if not np.isnan(column[s]).all()]
                low, high = np.quantile(drawn, [0.025, 0.975])
                rows.append((network, measure, float(np.nanmean(column)), low, high))
        return pd.DataFrame(rows, columns=["network", "measure", "mean", "ci_low", "ci_high"])


@torch.inference_mode()
def network_embeddings(
    encoder: Encoder, X: Signals, *, tr: float | None = None, n_crops: int = 8
) -> NDArray[np.float32]:
    """Return the embedding of every network: its tokens with data averaged over patches and crops.

    Parameters
    ----------
    encoder : Encoder
    X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)
    tr : float, optional
        TR of arrays, seconds.
    n_crops : int

    Returns
    -------
    ndarray of float32, shape (n_recordings, N, D)
        NaN where a network has no data.
    """
    rows = []
    for views, missing in _crops(encoder, X, tr, n_crops):
        tokens = encoder(views, missing if missing.any() else None).tokens
        grid = tokens.view(len(views), encoder.n_networks, -1, tokens.shape[-1])
        real = ~missing.expand(grid.shape[:3])[..., None]
        mean = (grid * real).sum(dim=(0, 2)) / real.sum(dim=(0, 2))  # 0 / 0 is NaN
        rows.append(mean.float().numpy())
    return np.stack(rows)


@torch.inference_mode()
def occlusion(
    encoder: Encoder, X: Signals, *, tr: float | None = None, n_crops: int = 8
) -> Occlusion:
    """Mask networks as in training and measure how far the embedding moves.

    Parameters
    ----------
    encoder : Encoder
    X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)
    tr : float, optional
        TR of arrays, seconds.
    n_crops : int

    Returns
    -------
    Occlusion
    """
    n_networks = encoder.n_networks
    alone, without = [], []
    for views, missing in _crops(encoder, X, tr, n_crops):
        whole = _embedding(encoder, views, missing)
        absent = missing.all(dim=2).all(dim=0)
        distances = torch.full((2, n_networks), float("nan"), dtype=torch.float64)
        for i in range(n_networks):
            if absent[i]:
                continue
            only = torch.zeros(n_networks, 1, dtype=torch.bool)
            only[i] = True
            for row, masked in enumerate((~only, only)):
                moved = _embedding(encoder, views, missing | masked)
                distances[row, i] = 1.0 - F.cosine_similarity(whole, moved, dim=0)
        alone.append(distances[0].numpy())
        without.append(distances[1].numpy())
    return Occlusion(encoder.rows.names, np.stack(alone), np.stack(without))


def _embedding(encoder: Encoder, views: Tensor, mask: Tensor) -> Tensor:
    crops: Tensor = encoder(views, mask if mask.any() else None).cls_avg
    return crops.double().mean(dim=0)


def _crops(
    encoder: Encoder, X: Signals, tr: float | None, n_crops: int
) -> Iterator[tuple[Tensor, Tensor]]:
    for source in sources(encoder, X, tr):
        yield even_crops(encoder, source, n_crops)

"""How the networks' embeddings lie to each other, against the canonical order of the networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import squareform

from semantoks.errors import InputError


@dataclass(frozen=True, eq=False)
class Geometry:
    """Similarity of the networks' embeddings and their hierarchy.

    Parameters
    ----------
    networks : tuple of str, length N
        Those of which a recording has data.
    similarity : ndarray of shape (N, N)
        Mean over recordings of the cosine between networks' embeddings, after the mean over
        networks of the same recording was removed: what is common to all networks says nothing
        about which are alike.
    tree : ndarray of shape (N - 1, 4)
        SciPy linkage (average) of the distances ``1 - similarity``.
    cophenetic : float
        Correlation of the tree's distances with the real ones: how far it is a hierarchy at all.
    """

    networks: tuple[str, ...]
    similarity: NDArray[np.float64]
    tree: NDArray[np.float64]
    cophenetic: float


def geometry(embeddings: NDArray[np.floating], networks: tuple[str, ...]) -> Geometry:
    """Compare networks' embeddings.

    Parameters
    ----------
    embeddings : ndarray of shape (n_recordings, N, D)
        See `semantoks.explain.networks.network_embeddings`.
    networks : tuple of str, length N

    Raises
    ------
    InputError
        If fewer than 3 networks have data, or two of them in no recording together.
    """
    x = np.asarray(embeddings, np.float64)
    there = np.asarray(np.isfinite(x).all(axis=2))
    some = np.asarray(there.any(axis=0))
    networks = tuple(name for name, known in zip(networks, some, strict=True) if known)
    if len(networks) < 3:
        raise InputError("a hierarchy needs at least 3 networks", field="networks", value=networks)
    x, there = np.where(there[..., None], x, 0)[:, some], there[:, some].astype(np.float64)
    centre = x.sum(axis=1) / np.maximum(there.sum(axis=1), 1)[:, None]
    x = (x - centre[:, None]) * there[..., None]
    x /= np.maximum(np.linalg.norm(x, axis=2, keepdims=True), 1e-12)
    together = there.T @ there
    if not together.all():
        one, other = (networks[i] for i in np.argwhere(together == 0)[0])
        raise InputError(f"no recording has data of both {one} and {other}", field="networks")
    similarity = np.einsum("rnd,rmd->nm", x, x) / together
    similarity = (similarity + similarity.T) / 2
    np.fill_diagonal(similarity, 1.0)
    distances = squareform(np.maximum(1.0 - similarity, 0.0), checks=False)
    tree = linkage(distances, "average")
    agreement, _ = cophenet(tree, distances)
    return Geometry(networks, similarity, tree, float(agreement))

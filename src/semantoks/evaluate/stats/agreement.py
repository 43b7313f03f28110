"""Measures of agreement between two measurements of the same people: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from semantoks.arrays import Array
from semantoks.errors import InputError

IccForm = Literal["ICC(1,1)", "ICC(2,1)", "ICC(3,1)"]

ICC_FORMS: tuple[IccForm, ...] = ("ICC(1,1)", "ICC(2,1)", "ICC(3,1)")


def similarity_matrix(first: Array, second: Array) -> Array:
    """Return the Pearson correlations over features of all pairs, shape (n_first, n_second)."""

    def unit(x: Array) -> Array:
        centred = x - x.mean(axis=1, keepdims=True)
        return np.asarray(centred / np.linalg.norm(centred, axis=1, keepdims=True))

    return np.asarray(unit(first) @ unit(second).T)


def identified(similarity: Array) -> Array:
    """Return which pairs of a first and a second measurement are each other's most similar.

    Source: Finn et al. 2015, Nature Neuroscience 18:1664. A person is identified where no other
    person's measurement is as similar; k equals count 1 / k. The diagonal tells who is identified,
    other elements what a permutation of people would count.

    Parameters
    ----------
    similarity : array of shape (n, n)

    Returns
    -------
    ndarray of shape (2, n, n)
        First to second, second to first.
    """
    hits = []
    for axis in (1, 0):
        best = similarity == similarity.max(axis=axis, keepdims=True)
        hits.append(best / best.sum(axis=axis, keepdims=True))
    return np.stack(hits)


def identifiability(similarity: Array, weights: Array) -> Array:
    """Return the differential identifiability of bootstrap samples of people.

    It is 100 times the mean similarity within people minus that between people. Source: Amico and
    Goñi 2018, Scientific Reports 8:8254, equation 1.

    Parameters
    ----------
    similarity : array of shape (n, n)
    weights : array of shape (samples, n)
        How often every person is in a sample; copies of a person are no other people.

    Returns
    -------
    ndarray of shape (samples,)
    """
    own, squares = np.diag(similarity), np.square(weights)
    total = weights.sum(axis=1)
    between = ((weights @ similarity) * weights).sum(axis=1) - squares @ own
    pairs = np.square(total) - squares.sum(axis=1)
    pairs = np.where(pairs > 0, pairs, np.nan)  # a sample of one person has no others
    return np.asarray(100 * (weights @ own / total - between / pairs))


def discriminated(first: Array, second: Array) -> Array:
    """Return in which share of comparisons two measurements are nearer than those of other people.

    The mean of the diagonal is the discriminability of Bridgeford et al. 2021, PLoS Computational
    Biology 17:e1009279, equation 1, with Euclidean distances; other elements are what a permutation
    of people would count. Equal distances count one half.

    Parameters
    ----------
    first, second : array of shape (n, n_features)

    Returns
    -------
    ndarray of shape (n, n)
        Of every pair of a first (rows) and a second measurement (columns).
    """
    n = len(first)
    points = np.concatenate([first, second])
    points = points - points.mean(axis=0)
    squares = np.square(points).sum(axis=1)
    distance = (squares[:, None] + squares - 2 * points @ points.T).clip(0)
    np.fill_diagonal(distance, -1.0)  # a measurement is compared with others only
    share = (2 * n - rankdata(distance, axis=1)) / (2 * n - 2)
    return np.asarray((share[:n, n:] + share[n:, :n].T) / 2)


def icc(values: ArrayLike, form: IccForm = "ICC(3,1)") -> Array:
    """Return the intraclass correlation of every feature.

    Source: Shrout and Fleiss 1979, Psychological Bulletin 86:420. ICC(1,1): every person has other
    raters; ICC(2,1): raters are a sample, and their offsets count as error; ICC(3,1): the raters
    are these, and their offsets do not count.

    Parameters
    ----------
    values : array of shape (n_subjects, n_measurements) or (n_subjects, n_measurements, n_features)
    form : {"ICC(1,1)", "ICC(2,1)", "ICC(3,1)"}

    Returns
    -------
    ndarray of shape (n_features,)
        NaN where a feature does not vary.

    Raises
    ------
    InputError
        There are fewer than 2 people or measurements, or a value is not finite.
    """
    x = np.asarray(values, np.float64)
    if x.ndim == 2:
        x = x[..., None]
    if x.ndim != 3 or x.shape[0] < 2 or x.shape[1] < 2 or not np.isfinite(x).all():
        raise InputError(
            "needs finite numbers of shape (people, measurements, features), with 2 people and 2 "
            "measurements at least",
            field="values",
            value=x.shape,
        )
    if form not in ICC_FORMS:
        raise InputError(f"must be one of {', '.join(ICC_FORMS)}", field="form", value=form)
    return np.asarray(icc_within([IccSums.of(x)], [np.ones((1, len(x)))])[form][0])


@dataclass(frozen=True, eq=False)
class IccSums:
    """Sums of every person, from which the variances of any sample of people follow.

    Parameters
    ----------
    by_measurement : ndarray of shape (k, n, n_features)
        Values without the mean of their feature.
    total, squares : ndarray of shape (n, n_features)
        Sums over measurements of values and of their squares.
    varies : bool array of shape (n_features,)
    """

    by_measurement: Array
    total: Array
    squares: Array
    varies: NDArray[np.bool_]

    @classmethod
    def of(cls, x: Array) -> IccSums:
        """Sum values of shape (n, k, n_features)."""
        spread = np.ptp(x, axis=(0, 1))
        varies = spread > 1e-12 * np.abs(x).max(axis=(0, 1))
        centred = x - x.mean(axis=(0, 1))  # so that differences of squares lose no digits
        return cls(
            np.ascontiguousarray(centred.swapaxes(0, 1)),
            centred.sum(axis=1),
            np.square(centred).sum(axis=1),
            varies,
        )

    def squares_of(self, weights: Array) -> tuple[Array, Array, Array]:
        """Return the sums of squares between people, between measurements, and within people.

        Each has the shape (samples, n_features), for people counted `weights` (samples, n) times.
        """
        k = len(self.by_measurement)
        n = weights.sum(axis=1, keepdims=True)
        columns = np.stack([weights @ x for x in self.by_measurement])
        correction = np.square(columns.sum(axis=0)) / (n * k)
        between = weights @ np.square(self.total) / k - correction
        raters = np.square(columns).sum(axis=0) / n - correction
        return between, raters, weights @ self.squares - correction - between


def icc_within(sites: Sequence[IccSums], weights: Sequence[Array]) -> dict[IccForm, Array]:
    """Return every form of the intraclass correlation, shape (samples, n_features).

    Mean squares are pooled over sites by their degrees of freedom, as in an analysis of variance
    with the site as a factor: differences between sites count neither as people nor as error.

    Parameters
    ----------
    sites : sequence of IccSums
        Of the people of every site.
    weights : sequence of arrays of shape (samples, n_of_the_site)
        How often every person counts.
    """
    parts = [one.squares_of(w) for one, w in zip(sites, weights, strict=True)]
    between, raters, within = (np.sum(squares, axis=0) for squares in zip(*parts, strict=True))
    varies = np.any([one.varies for one in sites], axis=0)
    n = np.sum([w.sum(axis=1, keepdims=True) for w in weights], axis=0)
    return _forms(between, raters, within, n, len(sites), len(sites[0].by_measurement), varies)


def permuted_icc(
    sites: Sequence[IccSums], orders: Sequence[Sequence[NDArray[np.intp]]]
) -> dict[IccForm, Array]:
    """Return what `icc_within` gives for second measurements in other orders.

    Parameters
    ----------
    sites : sequence of IccSums
        Of two measurements.
    orders : sequence of sequences of int arrays
        For every permutation, the order of every site's people.
    """
    parts = [one.squares_of(np.ones((1, len(one.total)))) for one in sites]
    between, raters, within = (np.sum(squares, axis=0) for squares in zip(*parts, strict=True))
    varies = np.any([one.varies for one in sites], axis=0)
    moved = np.zeros((len(orders), len(varies)))
    for place, one in enumerate(sites):
        first, second = one.by_measurement
        own = np.einsum("nf,nf->f", first, second)
        for row, order in zip(moved, orders, strict=True):
            row += np.einsum("nf,nf->f", first, second[order[place]]) - own
    n = np.full((1, 1), float(sum(len(one.total) for one in sites)))
    # Of two measurements, only products across them change: what people gain, error loses.
    return _forms(between + moved, raters, within - moved, n, len(sites), 2, varies)


def _forms(
    between: Array,
    raters: Array,
    within: Array,
    n: Array,
    n_sites: int,
    k: int,
    varies: NDArray[np.bool_],
) -> dict[IccForm, Array]:
    """Return the forms from sums of squares of n people at some sites, measured k times."""
    df = n - n_sites
    msb, msw = between / df, within / (n * (k - 1))
    mse = (within - raters) / (df * (k - 1))
    offsets = k * (raters / (k - 1) - n_sites * mse) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        forms: dict[IccForm, Array] = {
            "ICC(1,1)": (msb - msw) / (msb + (k - 1) * msw),
            "ICC(2,1)": (msb - mse) / (msb + (k - 1) * mse + offsets),
            "ICC(3,1)": (msb - mse) / (msb + (k - 1) * mse),
        }
    return {form: np.where(varies, found, np.nan) for form, found in forms.items()}

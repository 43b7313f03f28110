"""Reliability: whether two recordings of one person are alike.

1. Every person is measured twice at one site: in two sessions, or in the two halves of one scan.
2. Fingerprinting asks whether the two are each other's nearest among the people of the site;
   differential identifiability by how much; discriminability in how many comparisons.
3. The intraclass correlation says how much of every feature's variance within sites is between
   people.

People are compared with people of their site only: across sites, a scanner that marks all its scans
alike would pass for a person. The measures of sites are averaged with the number of people as
weights; the mean squares of the intraclass correlation are pooled by degrees of freedom. Nothing is
fitted. Intervals are percentile bootstrap intervals over people within sites; chance is what
remains when the second measurements are permuted among the people of a site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from semantoks.arrays import Array
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.checks.repeated import comparable, halves, session_pairs
from semantoks.evaluate.stats.agreement import (
    ICC_FORMS,
    IccSums,
    discriminated,
    icc_within,
    identifiability,
    identified,
    permuted_icc,
    similarity_matrix,
)

_BLOCK = 64  # bootstrap samples whose variances of all features are held at once
_PERMUTED = 2000  # features of which chance levels of the intraclass correlation are computed
_IDENTIFIED, _DIFFERENTIAL, _DISCRIMINATED = (
    "identification rate",
    "differential identifiability",
    "discriminability",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """How well two measurements of the same people agree.

    Parameters
    ----------
    subjects : tuple of str, length n
    sites : tuple of str, length n
        Site of every person; equal ones were compared.
    similarity : ndarray of shape (n, n)
        Pearson correlation over features of first (rows) and second measurements (columns).
    icc : ndarray of shape (n_features,)
        ICC(3,1) of every feature within sites; NaN where a feature does not vary.
    scores : DataFrame
        One row per measure: measure, value, ci_low, ci_high, chance (mean over permutations),
        chance_high (exceeded by one permutation in 20), p (share of permutations that reach the
        value), n_subjects, n_sites.
    draws : DataFrame
        The measures (columns) of every bootstrap sample (rows); equal seeds drew equal people.
    left_out : tuple of str
        Subjects without anyone to compare with: alone at their site, or of an unknown one.
    """

    subjects: tuple[str, ...]
    sites: tuple[str, ...]
    similarity: Array
    icc: Array
    scores: pd.DataFrame
    draws: pd.DataFrame
    left_out: tuple[str, ...] = ()


def measure_reliability(
    store: RecordingStore,
    models: Mapping[str, Any],
    *,
    of: Literal["sessions", "halves"] = "sessions",
    gap: float = 0.0,
    seed: int = 0,
    n_bootstrap: int = 1000,
    n_permutations: int = 200,
) -> dict[str, Reliability]:
    """Measure every model's reliability within sites on the same people.

    Where no site is stated, all people are compared. People who are alone at their site, or whose
    site is unknown, are left out.

    Parameters
    ----------
    store : RecordingStore
    models : mapping of str to transformer
        Transformers of a store that learn nothing (``stateless``): `Embedder`,
        `ConnectivityBaseline`.
    of : {"sessions", "halves"}
        See `session_pairs` and `halves`.
    gap : float
        Seconds between halves.
    seed, n_bootstrap, n_permutations : int

    Returns
    -------
    dict of str to Reliability

    Raises
    ------
    InputError
        Too few people have two recordings, or share their site with another; recordings are too
        short, `of` is unknown, or a model learns from the people that it is
        measured on.
    """
    for name, model in models.items():
        if not getattr(model, "stateless", False):
            rule = "learns from recordings, and would from those that it is measured on"
            raise InputError(rule, field="models", value=name)
    if of not in ("sessions", "halves"):
        raise InputError("must be sessions or halves", field="of", value=of)
    if of == "halves":
        first, second = halves(store, gap=gap)
    else:
        a, b = session_pairs(store.table)
        first, second = store.select(a), store.select(b)
    sites, kept = comparable(first.table)
    left_out = tuple(first.table["subject"][~kept].astype(str))
    first, second = first.select(kept), second.select(kept)
    subjects = first.table["subject"].to_numpy(str)
    found = {}
    for name, model in models.items():
        fitted = model.fit(store)
        measured = reliability(
            fitted.transform(first),
            fitted.transform(second),
            subjects,
            sites[kept],
            seed=seed,
            n_bootstrap=n_bootstrap,
            n_permutations=n_permutations,
        )
        found[name] = replace(measured, left_out=left_out)
    return found


# -- measures --------------------------------------------------------------------------------------


def reliability(
    first: ArrayLike,
    second: ArrayLike,
    subjects: ArrayLike,
    sites: ArrayLike | None = None,
    *,
    seed: int = 0,
    n_bootstrap: int = 1000,
    n_permutations: int = 200,
) -> Reliability:
    """Compare two measurements of the same people, within sites.

    Parameters
    ----------
    first, second : array of shape (n_subjects, n_features)
        Row i of both belongs to the same person.
    subjects : array of str, shape (n_subjects,)
    sites : array of str, shape (n_subjects,), optional
        By default all people are compared.
    seed : int
    n_bootstrap : int
        Bootstrap over subjects within sites. For identification and discriminability, the people
        that a person is compared with stay those of the sample.
    n_permutations : int
        Permutations of people within sites, for chance.

    Returns
    -------
    Reliability

    Raises
    ------
    InputError
        Shapes differ, there are fewer than 3 people or 2 features, a value is not finite, a person
        comes twice or is alone at a site, or a person's features do not vary.
    """
    a, b, names, where = _checked(first, second, subjects, sites)
    rng = np.random.default_rng(seed)
    places = [_Site.of(np.flatnonzero(where == site), a, b) for site in np.unique(where)]
    drawn = [one.draw(rng, n_bootstrap) for one in places]
    orders = [[rng.permutation(len(one.rows)) for one in places] for _ in range(n_permutations)]
    every = [np.ones((1, len(one.rows))) for one in places]
    own = [[np.arange(len(one.rows)) for one in places]]
    measured = {name: values[0] for name, values in _paired(places, own).items()}
    samples, chance = _resampled(places, drawn), _paired(places, orders)
    sums = [one.sums for one in places]
    iccs = icc_within(sums, every)
    blocks = [
        icc_within(sums, [w[i : i + _BLOCK] for w in drawn]) for i in range(0, n_bootstrap, _BLOCK)
    ]
    some = np.unique(np.linspace(0, a.shape[1] - 1, _PERMUTED).astype(int))
    permuted = permuted_icc([_sums(one.rows, a[:, some], b[:, some]) for one in places], orders)
    for form in ICC_FORMS:
        name = f"median {form}"
        measured[name] = _median(iccs[form])[0]
        samples[name] = np.concatenate([_median(block[form]) for block in blocks])
        chance[name] = _median(permuted[form])
    return Reliability(
        subjects=tuple(names.tolist()),
        sites=tuple(where.tolist()),
        similarity=similarity_matrix(a, b),
        icc=iccs["ICC(3,1)"][0],
        scores=_score_table(measured, samples, chance, len(names), len(places)),
        draws=pd.DataFrame(samples),
    )


@dataclass(frozen=True, eq=False)
class _Site:
    """The people of a site: what every pairing of their measurements would score.

    Parameters
    ----------
    rows : int array of shape (n,)
    similarity : ndarray of shape (n, n)
    pairs : dict of str to ndarray of shape (n, n)
        Measures that are means over people; see `identified` and `discriminated`.
    sums : IccSums
    """

    rows: NDArray[np.intp]
    similarity: Array
    pairs: Mapping[str, Array]
    sums: IccSums

    @classmethod
    def of(cls, rows: NDArray[np.intp], first: Array, second: Array) -> _Site:
        """Compare the people of these rows."""
        similarity = similarity_matrix(first[rows], second[rows])
        forwards, backwards = identified(similarity)
        pairs = {
            _IDENTIFIED: (forwards + backwards) / 2,
            f"{_IDENTIFIED}, first to second": forwards,
            f"{_IDENTIFIED}, second to first": backwards,
            _DISCRIMINATED: discriminated(first[rows], second[rows]),
        }
        return cls(rows, similarity, pairs, _sums(rows, first, second))

    def draw(self, rng: np.random.Generator, n_bootstrap: int) -> Array:
        """Return how often every person is in every bootstrap sample, shape (samples, n)."""
        n = len(self.rows)
        return rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap).astype(np.float64)


def _sums(rows: NDArray[np.intp], first: Array, second: Array) -> IccSums:
    return IccSums.of(np.stack([first[rows], second[rows]], axis=1))


def _paired(
    sites: Sequence[_Site], orders: Sequence[Sequence[NDArray[np.intp]]]
) -> dict[str, Array]:
    """Return the measures when people are paired in these orders, each of shape (orders,)."""
    n = sum(len(one.rows) for one in sites)
    out = {name: np.zeros(len(orders)) for name in (*sites[0].pairs, _DIFFERENTIAL)}
    for row, order in enumerate(orders):
        for one, other in zip(sites, order, strict=True):
            every = np.arange(len(other))
            for name, pairs in one.pairs.items():
                out[name][row] += pairs[every, other].sum() / n
            gap = identifiability(one.similarity[:, other], np.ones((1, len(other))))[0]
            out[_DIFFERENTIAL][row] += len(other) / n * gap
    return out


def _resampled(sites: Sequence[_Site], drawn: Sequence[Array]) -> dict[str, Array]:
    """Return the measures of bootstrap samples, each of shape (samples,)."""
    weights = np.hstack(drawn)
    shares = {name: [np.diag(one.pairs[name]) for one in sites] for name in sites[0].pairs}
    n = weights.shape[1]
    out = {name: weights @ np.concatenate(own) / n for name, own in shares.items()}
    gaps = np.stack([identifiability(s.similarity, w) for s, w in zip(sites, drawn, strict=True)])
    sizes = np.where(np.isnan(gaps), 0.0, [[len(one.rows)] for one in sites])
    total = sizes.sum(axis=0)  # a site of which one person alone was drawn says nothing
    out[_DIFFERENTIAL] = (np.nan_to_num(gaps) * sizes).sum(axis=0) / np.where(total, total, np.nan)
    return out


def _median(values: Array) -> Array:
    """Return the median over features that vary, per sample; NaN where none does."""
    out, known = np.full(len(values), np.nan), ~np.isnan(values).all(axis=1)
    out[known] = np.nanmedian(values[known], axis=1)
    return out


def _score_table(
    measured: Mapping[str, float],
    samples: Mapping[str, Array],
    chance: Mapping[str, Array],
    n_subjects: int,
    n_sites: int,
) -> pd.DataFrame:
    rows = []
    for name, value in measured.items():
        known, guesses = (x[~np.isnan(x)] for x in (samples[name], chance[name]))
        low, high = np.quantile(known, [0.025, 0.975]) if known.size else (np.nan, np.nan)
        row = {"measure": name, "value": float(value), "ci_low": low, "ci_high": high}
        row["chance"] = guesses.mean() if guesses.size else np.nan
        row["chance_high"] = np.quantile(guesses, 0.95) if guesses.size else np.nan
        row["p"] = (1 + int((guesses >= value - 1e-12).sum())) / (1 + guesses.size)
        rows.append(row | {"n_subjects": n_subjects, "n_sites": n_sites})
    return pd.DataFrame(rows)


# -- tables over models ----------------------------------------------------------------------------


def reliability_scores(results: Mapping[str, Reliability]) -> pd.DataFrame:
    """Return the scores of all models below each other, with the column ``model``."""
    parts = [r.scores.assign(model=name) for name, r in results.items()]
    table = pd.concat(parts, ignore_index=True)
    return table[["model", *[c for c in table.columns if c != "model"]]]


def reliability_differences(results: Mapping[str, Reliability], against: str) -> pd.DataFrame:
    """Return what every model scores above another one, on the same bootstrap samples of people.

    Parameters
    ----------
    results : mapping of str to Reliability
        Of the same people, with the same seed.
    against : str
        The model that is subtracted.

    Returns
    -------
    DataFrame
        model, against, measure, value, ci_low, ci_high.

    Raises
    ------
    InputError
        The model is unknown, or results are of other people or bootstrap samples.
    """
    if against not in results:
        raise InputError("is no model", field="against", value=against)
    base = results[against]
    rows = []
    for name, result in results.items():
        people = (result.subjects, result.sites, len(result.draws))
        if people != (base.subjects, base.sites, len(base.draws)):
            raise InputError("was measured on other people than the rest", field=name)
        if name == against:
            continue
        gaps = result.draws - base.draws
        value = result.scores.set_index("measure")["value"]
        value = value - base.scores.set_index("measure")["value"]
        for measure in gaps.columns:
            known = gaps[measure].dropna()
            low, high = known.quantile([0.025, 0.975]) if len(known) else (np.nan, np.nan)
            row = {"model": name, "against": against, "measure": measure}
            rows.append(row | {"value": value[measure], "ci_low": low, "ci_high": high})
    columns = ["model", "against", "measure", "value", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=columns)


def _checked(
    first: ArrayLike, second: ArrayLike, subjects: ArrayLike, sites: ArrayLike | None
) -> tuple[Array, Array, NDArray[np.str_], NDArray[np.str_]]:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    names = np.asarray(subjects).astype(str)
    if a.ndim != 2 or a.shape != b.shape or a.shape[0] < 3 or a.shape[1] < 2:
        rule = "must both have the shape (people, features), with 3 people and 2 features at least"
        raise InputError(rule, field="first, second", value=(a.shape, b.shape))
    if names.shape != (len(a),) or len(set(names)) < len(a):
        rule = f"need {len(a)} different names, one per row"
        raise InputError(rule, field="subjects", value=names.shape)
    where = np.full(len(a), "") if sites is None else np.asarray(sites).astype(str)
    if where.shape != names.shape:
        raise InputError("must name one site per row", field="sites", value=where.shape)
    alone = [site for site, n in zip(*np.unique(where, return_counts=True), strict=True) if n < 2]
    if alone:
        rule = "has one person only: people are compared within sites"
        raise InputError(rule, field="sites", value=str(alone[0]), fix="Leave this person out")
    for field, x in (("first", a), ("second", b)):
        bad = ~np.isfinite(x).all(axis=1)
        if bad.any():
            raise InputError("holds values that are not finite", field=field, value=names[bad][0])
        flat = np.ptp(x, axis=1) == 0
        if flat.any():
            rule = "has features that are all the same: nothing to compare"
            raise InputError(rule, field=field, value=names[flat][0])
    return a, b, names, where

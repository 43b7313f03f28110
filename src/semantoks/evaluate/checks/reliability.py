"""Reliability: whether two recordings of one person are alike.

1. Every person is measured twice: in two sessions, or in the two halves of one scan.
2. Fingerprinting asks whether the two are each other's nearest among all people; differential
   identifiability by how much; discriminability in how many comparisons.
3. The intraclass correlation says how much of every feature's variance is between people.

Nothing is fitted. Intervals are percentile bootstrap intervals over people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from semantoks.arrays import Array
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.stats.agreement import (
    ICC_FORMS,
    IccSums,
    discriminated,
    identifiability,
    identified,
    similarity_matrix,
)

_BLOCK = 64  # bootstrap samples whose variances of all features are held at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """How well two measurements of the same people agree.

    Parameters
    ----------
    subjects : tuple of str, length n
    similarity : ndarray of shape (n, n)
        Pearson correlation over features of first (rows) and second measurements (columns).
    icc : ndarray of shape (n_features,)
        ICC(3,1) of every feature; NaN where a feature does not vary.
    scores : DataFrame
        One row per measure: measure, value, ci_low, ci_high, chance, n_subjects.
    draws : DataFrame
        The measures (columns) of every bootstrap sample (rows); equal seeds drew equal people.
    """

    subjects: tuple[str, ...]
    similarity: Array
    icc: Array
    scores: pd.DataFrame
    draws: pd.DataFrame


# -- two measurements of every person --------------------------------------------------------------


def session_pairs(table: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of the first two recordings of every person who has two.

    Parameters
    ----------
    table : DataFrame
        Columns ``subject``, ``session``, ``run`` and ``id``; recordings of a subject are ordered by
        session, run and id.

    Returns
    -------
    first, second : int arrays of shape (n_subjects,)
        In the order of the subjects' names.

    Raises
    ------
    InputError
        Fewer than 2 subjects have two recordings.
    """
    keys = [table[c].fillna("").astype(str).to_numpy(str) for c in ("session", "run", "id")]
    subjects = table["subject"].to_numpy(str)
    order = np.lexsort((*reversed(keys), subjects))
    names, start, count = np.unique(subjects[order], return_index=True, return_counts=True)
    start = start[count > 1]
    if len(start) < 2:
        raise InputError(
            f"{len(start)} of {len(names)} subjects have two recordings; at least 2 are needed",
            field="subject",
            fix="Compare the halves of every scan",
        )
    return order[start], order[start + 1]


def halves(store: RecordingStore, *, gap: float = 0.0) -> tuple[RecordingStore, RecordingStore]:
    """Return the first and the second half of every recording, on the same files.

    Subjects with several recordings keep their first one. Halves are equally long; a volume in the
    middle is left out where their number is odd.

    Parameters
    ----------
    store : RecordingStore
    gap : float
        Seconds left out in the middle, so that what a filter smears over the border counts in
        neither half.

    Raises
    ------
    InputError
        The gap is negative, or leaves a recording fewer than two volumes per half.
    """
    if gap < 0:
        raise InputError("must not be negative", field="gap", value=gap)
    order = store.table.assign(**{"": np.arange(len(store))}).sort_values(
        ["subject", "session", "run", "id"], na_position="first"
    )
    chosen = store.select(order.drop_duplicates("subject")[""].sort_values().to_numpy())
    lengths = chosen.table["length"].to_numpy(np.int64)
    half = (lengths - int(np.ceil(gap / store.tr - 1e-9))) // 2
    if (half < 2).any():
        i = int(np.flatnonzero(half < 2)[0])
        rule = f"is too short for two halves and a gap of {gap:g} s"
        value = f"{lengths[i] * store.tr:g} s"
        raise InputError(rule, file=chosen.table["id"].iloc[i], field="length", value=value)
    times = {"id": chosen.table["id"], "duration": half * store.tr}
    start = chosen.table["offset"].to_numpy(
        np.float64
    )  # onsets count from the source's first volume
    first = chosen.trials(pd.DataFrame({**times, "onset": start}))
    second = chosen.trials(pd.DataFrame({**times, "onset": start + (lengths - half) * store.tr}))
    return first, second


def measure_reliability(
    store: RecordingStore,
    models: Mapping[str, Any],
    *,
    of: Literal["sessions", "halves"] = "sessions",
    gap: float = 0.0,
    seed: int = 0,
    n_bootstrap: int = 1000,
) -> dict[str, Reliability]:
    """Measure every model's reliability on the same people.

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
    seed, n_bootstrap : int

    Returns
    -------
    dict of str to Reliability

    Raises
    ------
    InputError
        Too few people have two recordings, recordings are too short, `of` is unknown, or a model
        learns from the people that it is measured on.
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
    subjects = first.table["subject"].to_numpy(str)
    found = {}
    for name, model in models.items():
        fitted = model.fit(store)
        pair = fitted.transform(first), fitted.transform(second)
        found[name] = reliability(*pair, subjects, seed=seed, n_bootstrap=n_bootstrap)
    return found


# -- measures --------------------------------------------------------------------------------------


def reliability(
    first: ArrayLike,
    second: ArrayLike,
    subjects: ArrayLike,
    *,
    seed: int = 0,
    n_bootstrap: int = 1000,
) -> Reliability:
    """Compare two measurements of the same people.

    Parameters
    ----------
    first, second : array of shape (n_subjects, n_features)
        Row i of both belongs to the same person.
    subjects : array of str, shape (n_subjects,)
    seed, n_bootstrap : int
        Bootstrap over subjects. For identification and discriminability, the people that a person
        is compared with stay those of the sample.

    Returns
    -------
    Reliability

    Raises
    ------
    InputError
        Shapes differ, there are fewer than 3 people or 2 features, a value is not finite, a person
        comes twice, or a person's features do not vary.
    """
    a, b, names = _checked(first, second, subjects)
    n = len(names)
    similarity = similarity_matrix(a, b)
    hits = identified(similarity)
    better = discriminated(a, b)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap).astype(np.float64)
    values, drawn, chance = {}, {}, {}
    for name, share, guess in (
        ("identification rate", hits.mean(axis=0), 1 / n),
        ("identification rate, first to second", hits[0], 1 / n),
        ("identification rate, second to first", hits[1], 1 / n),
        ("discriminability", better, 0.5),
    ):
        values[name], drawn[name], chance[name] = share.mean(), weights @ share / n, guess
    name = "differential identifiability"
    one = np.ones((1, n))
    values[name] = identifiability(similarity, one)[0]
    drawn[name], chance[name] = identifiability(similarity, weights), 0.0
    both = np.stack([a, b], axis=1)
    sums = IccSums.of(both)
    every = sums.icc(one)
    blocks = [sums.icc(weights[i : i + _BLOCK]) for i in range(0, n_bootstrap, _BLOCK)]
    for form in ICC_FORMS:
        name = f"median {form}"
        values[name], chance[name] = _median(every[form])[0], 0.0
        drawn[name] = np.concatenate([_median(block[form]) for block in blocks])
    return Reliability(
        subjects=tuple(names.tolist()),
        similarity=similarity,
        icc=every["ICC(3,1)"][0],
        scores=_score_table(values, drawn, chance, n),
        draws=pd.DataFrame(drawn),
    )


def _median(values: Array) -> Array:
    """Return the median over features that vary, per sample; NaN where none does."""
    out, known = np.full(len(values), np.nan), ~np.isnan(values).all(axis=1)
    out[known] = np.nanmedian(values[known], axis=1)
    return out


def _score_table(
    values: Mapping[str, float], drawn: Mapping[str, Array], chance: Mapping[str, float], n: int
) -> pd.DataFrame:
    rows = []
    for name, value in values.items():
        known = drawn[name][~np.isnan(drawn[name])]
        low, high = np.quantile(known, [0.025, 0.975]) if known.size else (np.nan, np.nan)
        row = {"measure": name, "value": float(value), "ci_low": low, "ci_high": high}
        rows.append(row | {"chance": chance[name], "n_subjects": n})
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
        if result.subjects != base.subjects or len(result.draws) != len(base.draws):
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
    first: ArrayLike, second: ArrayLike, subjects: ArrayLike
) -> tuple[Array, Array, NDArray[np.str_]]:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    names = np.asarray(subjects).astype(str)
    if a.ndim != 2 or a.shape != b.shape or a.shape[0] < 3 or a.shape[1] < 2:
        rule = "must both have the shape (people, features), with 3 people and 2 features at least"
        raise InputError(rule, field="first, second", value=(a.shape, b.shape))
    if names.shape != (len(a),) or len(set(names)) < len(a):
        rule = f"need {len(a)} different names, one per row"
        raise InputError(rule, field="subjects", value=names.shape)
    for field, x in (("first", a), ("second", b)):
        bad = ~np.isfinite(x).all(axis=1)
        if bad.any():
            raise InputError("holds values that are not finite", field=field, value=names[bad][0])
        flat = np.ptp(x, axis=1) == 0
        if flat.any():
            rule = "has features that are all the same: nothing to compare"
            raise InputError(rule, field=field, value=names[flat][0])
    return a, b, names

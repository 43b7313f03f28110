"""Scores, intervals, tests and verdicts of predictions.

The first metric of a kind of target is the one that is tested and that decides; naming it before
anything is computed is what keeps the tests honest. The others come with intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.arrays import Array
from semantoks.evaluate.stats.kinds import Kind
from semantoks.evaluate.stats.metrics import (
    LOWER_IS_BETTER,
    METRICS,
    Codes,
    Metric,
    cluster_resamples,
    hierarchical_resamples,
    interval,
    mean_score,
    resampled_scores,
    resamples,
)
from semantoks.evaluate.stats.significance import (
    cohen_dz,
    corrected_t_p,
    holm,
    permutation_p,
    person_losses,
    sign_flip_p,
    swap_p,
)

#: Fewer sites than these say nothing about other sites.
MIN_SITES = 5
#: Adjusted p-values below it decide.
ALPHA = 0.05
#: The verdict where no test decides.
UNDECIDED = "no significant difference"

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The tested units of one target, in one order for all models and repetitions.

    Parameters
    ----------
    kind : {"classification", "regression"}
    y : array of shape (n,)
        Class codes, or values.
    predicted : mapping of model to array of shape (n_repeats, n, n_classes) or (n_repeats, n)
    subjects, clusters, sites : arrays of str, shape (n,)
        Clusters are what is drawn and swapped as a whole: families where the design keeps them
        whole, else subjects. An unknown site is empty.
    folds : array of str, shape (n_repeats, n)
    """

    kind: Kind
    y: NDArray[Any]
    predicted: dict[str, Array]
    subjects: NDArray[np.str_]
    clusters: NDArray[np.str_]
    sites: NDArray[np.str_]
    folds: NDArray[np.str_]

    @classmethod
    def of(cls, predictions: pd.DataFrame, kind: Kind, classes: Sequence[str] | None) -> Outcomes:
        """Arrange the predictions of one target.

        Parameters
        ----------
        predictions : DataFrame
            See `ProbeResult`. A unit that several folds of a repetition test (a person scanned at
            two sites) counts once: its predictions are averaged.
        kind : {"classification", "regression"}
        classes : sequence of str, optional
        """
        stacks: dict[str, Array] = {}
        for model, part in predictions.groupby("model", sort=False):
            stacks[str(model)] = np.stack([_unit_means(r) for _, r in part.groupby("repeat")])
        first = predictions[predictions["model"] == predictions["model"].iloc[0]]
        units = [r.drop_duplicates("unit").sort_values("unit") for _, r in first.groupby("repeat")]
        truth = units[0]["truth"]
        if kind == "classification":
            y: NDArray[Any] = np.searchsorted(np.asarray(classes), truth.to_numpy(str))
        else:
            y = truth.to_numpy(np.float64)
            stacks = {model: stack[:, :, 0] for model, stack in stacks.items()}
        return cls(
            kind,
            y,
            stacks,
            units[0]["subject"].to_numpy(str),
            units[0]["cluster"].to_numpy(str),
            units[0]["site"].fillna("").astype(str).to_numpy(str),
            np.stack([r["fold"].to_numpy(str) for r in units]),
        )

    def part(self, rows: Codes) -> Outcomes:
        """Return the outcomes of some of the tested units."""
        return Outcomes(
            self.kind,
            self.y[rows],
            {model: scores[:, rows] for model, scores in self.predicted.items()},
            self.subjects[rows],
            self.clusters[rows],
            self.sites[rows],
            self.folds[:, rows],
        )

    def samples(self, n_bootstrap: int, seed: int) -> list[Codes]:
        """Return bootstrap samples of clusters, within classes where each has one row."""
        if len(set(self.clusters)) < len(self.y):
            return cluster_resamples(self.clusters, n_bootstrap, seed)
        strata = self.y if self.kind == "classification" else None
        return list(resamples(len(self.y), n_bootstrap, seed, strata))

    def site_samples(self, n_bootstrap: int, seed: int) -> list[Codes]:
        """Return bootstrap samples of sites and their clusters; none of few or unknown sites."""
        if (self.sites == "").any() or len(set(self.sites)) < MIN_SITES:
            return []
        return hierarchical_resamples(self.sites, self.clusters, n_bootstrap, seed)


def _unit_means(rows: pd.DataFrame) -> Array:
    """Return the mean scores of every unit, units sorted."""
    scores = pd.DataFrame(np.stack(rows["scores"].to_list()))
    return np.asarray(scores.groupby(rows["unit"].to_numpy()).mean(), np.float64)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How often samples are drawn.

    Parameters
    ----------
    n_bootstrap, n_permutations, seed : int
    """

    n_bootstrap: int
    n_permutations: int
    seed: int


def score_models(
    tested: Outcomes, against: Sequence[str], chance: str, sampling: Sampling
) -> tuple[list[Row], list[Row]]:
    """Score every model, and compare it with every reference.

    Parameters
    ----------
    tested : Outcomes
    against : sequence of str
        The references; names of no model are passed over.
    chance : str
        The model that knows nothing: it is tested against none, others against a permuted truth.
    sampling : Sampling

    Returns
    -------
    scores, differences : lists of dict
        As `ProbeResult` has them, p-values not yet adjusted for their number.
    """
    samples = tested.samples(sampling.n_bootstrap, sampling.seed)
    site_samples = tested.site_samples(sampling.n_bootstrap, sampling.seed)
    scores: list[Row] = []
    differences: list[Row] = []
    for i, (name, metric) in enumerate(METRICS[tested.kind].items()):
        values, drawn, over_sites = {}, {}, {}
        for model, predicted in tested.predicted.items():
            values[model] = mean_score(metric, tested.y, predicted)
            drawn[model] = resampled_scores(metric, tested.y, predicted, samples)
            over_sites[model] = resampled_scores(metric, tested.y, predicted, site_samples)
            p = float("nan")
            if i == 0 and model != chance:
                p = _chance_p(tested, metric, predicted, sampling)
            row = {"model": model, "metric": name, "value": values[model]}
            row |= _intervals(drawn[model], over_sites[model])
            scores.append(row | {"n_subjects": len(set(tested.subjects)), "p_value": p})
        for model, other in _pairs(values, against):
            row = {"model": model, "against": other, "metric": name}
            row |= {"value": values[model] - values[other]}
            row |= _intervals(drawn[model] - drawn[other], over_sites[model] - over_sites[other])
            asked = i == 0 and chance not in (model, other)
            row |= _comparison(tested, metric, model, other, sampling) if asked else _UNTESTED
            differences.append(row)
    return scores, differences


_UNTESTED: Row = {"test": "", "p_value": float("nan"), "effect_size": float("nan")}


def _pairs(models: dict[str, float], against: Sequence[str]) -> Iterator[tuple[str, str]]:
    for model in models:
        yield from ((model, other) for other in against if other in models and other != model)


def _intervals(drawn: Array, over_sites: Array) -> Row:
    low, high = interval(drawn)
    site_low, site_high = interval(over_sites) if len(over_sites) else (float("nan"),) * 2
    return {"ci_low": low, "ci_high": high, "site_low": site_low, "site_high": site_high}


def _chance_p(tested: Outcomes, metric: Metric, predicted: Array, sampling: Sampling) -> float:
    """Permute the truth of people within sites, or folds where no site is known."""
    y, strata = tested.y, tested.sites
    if (strata == "").any():
        strata = tested.folds[0]
    who, first, of = np.unique(tested.subjects, return_index=True, return_inverse=True)
    if len(who) < len(y):
        if tested.kind == "classification" and (y != y[first][of]).any():
            strata = tested.subjects  # trials: what is exchangeable are those of one person
        else:  # the recordings of a person are no independent facts
            counts = np.bincount(of)
            predicted = np.stack([_sums(p, of) for p in predicted])
            predicted /= counts.reshape(-1, *[1] * (predicted.ndim - 2))
            y = y[first] if tested.kind == "classification" else _sums(y, of) / counts
            strata = strata[first]
    return permutation_p(metric, y, predicted, strata, sampling.n_permutations, sampling.seed)


def _sums(values: Array, groups: Codes) -> Array:
    out = np.zeros((groups.max() + 1, *values.shape[1:]))
    np.add.at(out, groups, values)
    return out


def _comparison(
    tested: Outcomes, metric: Metric, model: str, other: str, sampling: Sampling
) -> Row:
    """Test the difference of two models by its first metric."""
    a, b, y = tested.predicted[model], tested.predicted[other], tested.y
    classify = tested.kind == "classification"
    gain = person_losses(y, b, classify) - person_losses(y, a, classify)
    codes = np.unique(tested.subjects, return_inverse=True)[1]
    per_subject = np.bincount(codes, weights=gain) / np.bincount(codes)
    clusters = tested.clusters
    n, seed = sampling.n_permutations, sampling.seed
    if len(a) > 1:
        test = "corrected resampled t"
        p = corrected_t_p(*_fold_differences(tested, metric, a, b))
    elif classify:
        test = "sign flips of people"
        p = sign_flip_p(gain, clusters, n, seed)
    else:
        test = "swaps of people"
        z = [(x[0] - x[0].mean()) / (x[0].std() or 1.0) for x in (a, b)]
        p = swap_p(metric, y, z[0], z[1], clusters, n, seed)
    return {"test": test, "p_value": p, "effect_size": cohen_dz(per_subject)}


def _fold_differences(tested: Outcomes, metric: Metric, a: Array, b: Array) -> tuple[Array, float]:
    """Return the differences of every fold's scores, and the mean of n_test / n_train."""
    differences, ratios = [], []
    for repeat, names in enumerate(tested.folds):
        for name in np.unique(names):
            rows = names == name
            y = tested.y[rows]
            differences.append(metric(y, a[repeat][rows]) - metric(y, b[repeat][rows]))
            ratios.append(rows.sum() / (~rows).sum())
    return np.array(differences), float(np.mean(ratios))


def adjusted(scores: pd.DataFrame, differences: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Adjust p-values for their number (Holm) and say what they decide.

    Parameters
    ----------
    scores, differences : DataFrame
        Of all targets. Scores are one family; differences are one per reference.

    Returns
    -------
    scores, differences : DataFrame
        With ``p_holm``; differences also with ``verdict``: better, worse or no significant
        difference, and empty where nothing was tested.
    """
    scores = scores.assign(p_holm=holm(scores["p_value"].to_numpy(float)))
    differences = differences.assign(p_holm=np.nan)
    for _, rows in differences.groupby("against"):
        differences.loc[rows.index, "p_holm"] = holm(rows["p_value"].to_numpy(float))
    gain = differences["value"].to_numpy(float) * np.where(
        differences["metric"].isin(sorted(LOWER_IS_BETTER)), -1.0, 1.0
    )
    decided = differences["p_holm"].to_numpy(float) < ALPHA
    verdict = np.where(decided, np.where(gain > 0, "better", "worse"), UNDECIDED)
    verdict = np.where(differences["p_holm"].isna(), "", verdict)
    return scores, differences.assign(verdict=verdict)

"""Scores, intervals, tests and verdicts of predictions.

One number per verdict: the estimate, its interval, its sign and its p-value are all of the first
metric of a target, which is fixed before anything is computed. The others come with intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.arrays import Array
from semantoks.evaluate.compare.roles import SEEDED, beside, role
from semantoks.evaluate.stats.inference import (
    ALPHA,
    Inference,
    Jackknife,
    Measured,
    holm,
    inference_blocks,
    mean_jackknife,
    replicate_variance,
)
from semantoks.evaluate.stats.kinds import Kind
from semantoks.evaluate.stats.metrics import (
    LOWER_IS_BETTER,
    Codes,
    Limits,
    Metric,
    balanced,
    ordered_metrics,
)

#: The verdict where a test does not decide.
UNDECIDED = "no significant difference"

#: Predictions that differ by less than this share are equal.
_EQUAL = 1e-9

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The tested units of one target, in one order for all models and repetitions.

    Parameters
    ----------
    kind : {"classification", "ordinal", "regression"}
    y : array of shape (n,)
        Class codes, or values.
    predicted : mapping of model to array of shape (n_replicates * n_repeats, n, ...)
        Probabilities of shape (n_classes,) per unit, or values. Repetitions of a replicate follow
        each other.
    subjects, clusters, sites : arrays of str, shape (n,)
        Clusters are families where the design keeps them whole, else subjects. An unknown site is
        empty.
    folds : array of str, shape (n_repeats, n)
    blocks : int array of shape (n,), optional
        Block of every unit; see `semantoks.evaluate.compare.units`. Without blocks, people are
        counted and models are taken as they were fitted.
    without : mapping of model to array of shape (n_replicates * n_repeats, n, n_blocks, ...)
        Predictions of models not trained on a block; models that cannot tell are missing.
    thresholds : mapping of model to array of shape (n_replicates * n_repeats, n, n_classes)
        By which probabilities are divided before the largest decides; without them, by none.
    by_site : bool, optional
        Whether sites are the strata of metrics, or folds; by default sites where two or more are
        known, one of every unit.
    """

    kind: Kind
    y: NDArray[Any]
    predicted: dict[str, Array]
    subjects: NDArray[np.str_]
    clusters: NDArray[np.str_]
    sites: NDArray[np.str_]
    folds: NDArray[np.str_]
    blocks: Codes | None = None
    without: Mapping[str, Array] = field(default_factory=dict)
    thresholds: Mapping[str, Array] = field(default_factory=dict)
    by_site: bool | None = None

    @classmethod
    def of(cls, predictions: pd.DataFrame, kind: Kind, classes: Sequence[str] | None) -> Outcomes:
        """Arrange the predictions of one target.

        Parameters
        ----------
        predictions : DataFrame
            See `ProbeResult`. A unit that several folds of a repetition test (a person scanned at
            two sites) counts once: its predictions are averaged.
        kind : {"classification", "ordinal", "regression"}
        classes : sequence of str, optional
        """
        stacks: dict[str, Array] = {}
        without: dict[str, Array] = {}
        thresholds: dict[str, Array] = {}
        for model, part in predictions.groupby("model", sort=False):
            repeats = [rows for _, rows in part.groupby(["replicate", "repeat"])]
            stacks[str(model)] = np.stack([_unit_means(rows, "scores") for rows in repeats])
            if kind == "classification" and "thresholds" in part:
                limits = [_unit_means(rows, "thresholds") for rows in repeats]
                thresholds[str(model)] = np.stack(limits)
            if "without" in part and part["without"].notna().all():
                without[str(model)] = np.stack([_unit_means(rows, "without") for rows in repeats])
        first = predictions[predictions["model"] == predictions["model"].iloc[0]]
        first = first[first["replicate"] == first["replicate"].iloc[0]]
        units = [r.drop_duplicates("unit").sort_values("unit") for _, r in first.groupby("repeat")]
        truth = units[0]["truth"]
        if kind == "classification":
            order = {str(c): code for code, c in enumerate(classes or ())}
            y: NDArray[Any] = truth.astype(str).map(order).to_numpy(np.intp)
        else:
            y = truth.to_numpy(np.float64)
            stacks = {model: stack[..., 0] for model, stack in stacks.items()}
            without = {model: stack[..., 0] for model, stack in without.items()}
        return cls(
            kind,
            y,
            stacks,
            units[0]["subject"].to_numpy(str),
            units[0]["cluster"].to_numpy(str),
            units[0]["site"].fillna("").astype(str).to_numpy(str),
            np.stack([r["fold"].to_numpy(str) for r in units]),
            units[0]["block"].to_numpy(np.intp) if "block" in units[0] else None,
            without,
            thresholds,
        )

    @property
    def strata(self) -> Codes:
        """Return the stratum of every unit in every repetition, shape (n_repeats, n)."""
        names = [self.sites] * len(self.folds) if self.within_sites else list(self.folds)
        return np.stack([np.unique(of, return_inverse=True)[1] for of in names])

    @property
    def within_sites(self) -> bool:
        """Whether the strata are sites; else they are folds."""
        if self.by_site is not None:
            return self.by_site
        return not (self.sites == "").any() and len(set(self.sites)) > 1

    def part(self, rows: Codes) -> Outcomes:
        """Return the outcomes of some of the tested units, of the models as they were fitted."""
        return Outcomes(
            self.kind,
            self.y[rows],
            {model: scores[:, rows] for model, scores in self.predicted.items()},
            self.subjects[rows],
            self.clusters[rows],
            self.sites[rows],
            self.folds[:, rows],
            thresholds={model: limits[:, rows] for model, limits in self.thresholds.items()},
            by_site=self.within_sites,
        )

    def is_constant(self, model: str) -> bool:
        """Return whether a model predicts the same for everyone of a fold, in every fold."""
        several = False
        for i, scores in enumerate(self.predicted[model]):
            _, first, codes = np.unique(
                self.folds[i % len(self.folds)], return_index=True, return_inverse=True
            )
            if np.abs(scores - scores[first[codes]]).max() > _EQUAL * np.abs(scores).max():
                return False
            several |= len(first) < len(codes)
        return several

    def balanced(self, model: str) -> Array:
        """Return probabilities divided by thresholds, means over repetitions and replicates.

        What metrics other than the Brier score read, shape (n, n_classes): the largest decides.
        """
        p, limits = self.predicted[model], self.thresholds.get(model)
        return np.asarray((p if limits is None else balanced(p, limits)).mean(axis=0), np.float64)

    def tested(self, chance: str) -> Measured:
        """Return what metrics read; `chance` is the model that knows nothing."""
        base = self.predicted[chance]
        if self.blocks is None:  # of fitted models: no block is both tested and trained on
            blocks = inference_blocks(self.clusters, self.strata[0], self.y, 0)
            return Measured(self.y, self.strata, blocks, base, n_folds=1)
        codes = np.unique(self.blocks, return_inverse=True)[1]
        n_folds, without = len(set(self.folds[0])), self._without(chance, slice(None))
        return Measured(self.y, self.strata, codes, base, n_folds, without)

    def _without(self, model: str, part: slice) -> Array | None:
        """Return what a model predicts without the blocks that are tested."""
        found = self.without.get(model)
        if found is None or self.blocks is None:
            return None
        return found[part].take(np.unique(self.blocks), axis=2)

    def jackknives(self, metric: Metric, model: str, tested: Measured) -> list[Jackknife]:
        """Return a jackknife for every replicate of a model."""
        predicted, n = self.predicted[model], len(self.folds)
        limits = self.thresholds.get(model)
        found = []
        for start in range(0, len(predicted), n):
            part = slice(start, start + n)
            scores, without = predicted[part], self._without(model, part)
            if limits is not None:
                scores = metric.reads(scores, limits[part])
                if without is not None:
                    without = metric.reads(without, limits[part][:, :, None])
            found.append(Jackknife.of(metric, tested, scores, without))
        return found


def _unit_means(rows: pd.DataFrame, column: str) -> Array:
    """Return the mean of every unit, units sorted."""
    stacked = np.stack(rows[column].to_list())
    flat = pd.DataFrame(stacked.reshape(len(stacked), -1))
    means = flat.groupby(rows["unit"].to_numpy()).mean().to_numpy(np.float64)
    return means.reshape(len(means), *stacked.shape[1:])


@dataclass(frozen=True, eq=False)
class ModelScore:
    """A model's score by one metric, over its replicates.

    Parameters
    ----------
    parts : sequence of Jackknife
        Of every replicate.
    mean : Jackknife
    between : float
        See `replicate_variance`.
    """

    parts: Sequence[Jackknife]
    mean: Jackknife
    between: float

    @classmethod
    def of(cls, parts: Sequence[Jackknife]) -> ModelScore:
        """Summarise the replicates."""
        return cls(parts, mean_jackknife(parts), replicate_variance(parts))

    @property
    def n(self) -> int:
        """Number of replicates."""
        return len(self.parts)

    def estimate(self) -> Inference:
        """Return the mean score."""
        return Inference.of(self.mean, self.between / self.n, self.n)

    def minus(self, other: ModelScore, *, draws: tuple[bool, bool]) -> Inference:
        """Return the difference; `draws` tells which of the two depends on a seed.

        One run of a model that depends on a seed varies as the replicates of the other do: better
        than a mean of random weights is not yet better than random weights.
        """
        between, n = 0.0, 1
        for mine, yours, drawn in ((self, other, draws[0]), (other, self, draws[1])):
            if mine.n > 1:
                between, n = between + mine.between / mine.n, max(n, mine.n)
            elif drawn and yours.n > 1:
                between += yours.between
        return Inference.of(self.mean.minus(other.mean), between, n)


def score_models(
    outcomes: Outcomes,
    against: Sequence[str],
    chance: str,
    metrics: Mapping[str, Metric] | None = None,
    *,
    verdict: bool = True,
) -> tuple[list[Row], list[Row]]:
    """Score every model, and compare it with every reference.

    Parameters
    ----------
    outcomes : Outcomes
    against : sequence of str
        The references; names of no model are passed over.
    chance : str
        The model that knows nothing.
    metrics : mapping of str to Metric, optional
        The first is tested; by default those of the kind of target.
    verdict : bool
        Whether anything is tested; see `semantoks.evaluate.compare.units`.

    Returns
    -------
    scores, differences : lists of dict
        As `ProbeResult` has them, p-values not yet adjusted for their number. The score of knowing
        nothing, and of a model that predicts the same for everyone, is no estimate: it has neither
        an interval nor a test. Differences from it have intervals.
    """
    tested = outcomes.tested(chance)
    flat = {m for m in outcomes.predicted if m == chance or outcomes.is_constant(m)}
    scores: list[Row] = []
    differences: list[Row] = []
    for i, (name, metric) in enumerate((metrics or ordered_metrics(outcomes.kind)).items()):
        asked = verdict and i == 0
        found = {
            m: ModelScore.of(outcomes.jackknives(metric, m, tested)) for m in outcomes.predicted
        }
        null = metric.at_chance(outcomes.predicted[chance].shape[-1])
        for model, score in found.items():
            row = {"model": model, "metric": name, "n_replicates": score.n}
            row |= {"n_subjects": len(set(outcomes.subjects)), "chance": null}
            told = score.estimate()
            if model in flat:
                told = Inference(told.value, float("nan"), float("nan"))
            numbers = numbers_of(told, null if asked else float("nan"), metric.limits)
            scores.append(row | numbers)
        for model, other in compared(found, against):
            gap = found[model].minus(
                found[other], draws=(role(model) in SEEDED, role(other) in SEEDED)
            )
            tests = asked and chance not in (model, other)
            row = {"model": model, "against": other, "metric": name}
            limits = metric.difference_limits
            differences.append(row | numbers_of(gap, 0.0 if tests else float("nan"), limits))
    return scores, differences


def compared(models: Iterable[str], against: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield what is compared; models side by side with a baseline only with that baseline."""
    models = list(models)
    for model in models:
        others = [name for name in against if name in models and name != model]
        yield from ((model, name) for name in others if beside(model) in ("", name))


def numbers_of(found: Inference, null: float, limits: Limits) -> Row:
    """Return an estimate as columns of a result; the p-value is that of another true value."""
    low, high = found.interval(limits)
    return {
        "value": found.value,
        "se": found.se,
        "df": found.df,
        "ci_low": low,
        "ci_high": high,
        "detectable": found.detectable,
        "p_value": found.p_value(null),
    }


def adjusted(scores: pd.DataFrame, differences: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Adjust p-values for their number (Holm) and say what they decide.

    Parameters
    ----------
    scores, differences : DataFrame
        Of all targets. Scores are one family; differences are one per reference.

    Returns
    -------
    scores, differences : DataFrame
        With ``p_holm`` and ``verdict``: better, worse or no significant difference (of scores: from
        chance), and empty where nothing was tested.
    """
    scores = scores.assign(p_holm=holm(scores["p_value"].to_numpy(float)))
    differences = differences.assign(p_holm=np.nan)
    for _, rows in differences.groupby("against"):
        differences.loc[rows.index, "p_holm"] = holm(rows["p_value"].to_numpy(float))
    excess = scores["value"] - scores["chance"]
    return (
        scores.assign(verdict=_verdicts(scores, excess)),
        differences.assign(verdict=_verdicts(differences, differences["value"])),
    )


def _verdicts(table: pd.DataFrame, gain: pd.Series) -> NDArray[np.str_]:
    better = gain.to_numpy(float) * np.where(table["metric"].isin(LOWER_IS_BETTER), -1.0, 1.0) > 0
    decided = table["p_holm"].to_numpy(float) < ALPHA
    verdict = np.where(decided, np.where(better, "better", "worse"), UNDECIDED)
    return np.where(table["p_holm"].isna(), "", verdict)

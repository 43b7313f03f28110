"""Inference from one number: a score or a difference, its standard error, interval and p-value.

Scores are counted in *blocks*, the units of the question: sites where sites are left out, else
people or families (at most `MAX_BLOCKS` groups of them). The variance is that of the jackknife over
blocks, corrected for the fact that in cross-validation every block is tested once and trained on
otherwise:

- `own`: the score changes by this much if a block is not tested. Their variance N is what tests
  over people or sites use. It takes fitted models as given and is half the variance of a score of
  noise, because the product of two blocks enters the score twice, once with either as the training
  part, and N counts it as two independent facts: a test at 5 % would find 17 % of differences
  between noise models.
- `full`: the score changes by this much if a block is neither tested nor trained on. Their
  variance J counts such products twice too often (Efron & Stein 1981, Annals of Statistics 9:586).

With V1 the variance of what blocks contribute alone and V2 that of products of two blocks,
``N = V1 + V2 / 2`` and ``J = V1 + 2 V2``, so that ``V1 + V2 = (2 N + J) / 3``. Where it is not
known what a model would predict without a block, the variance is the upper bound ``2 N``, close to
the correction of Nadeau & Bengio (2003, Machine Learning 52:239, equation 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as t_distribution

from semantoks.arrays import Array
from semantoks.evaluate.stats.metrics import UNLIMITED, Codes, Limits, Metric

#: People are counted in this many groups at most (delete-a-group jackknife, Kott 2001).
MAX_BLOCKS = 50
#: Level of intervals and of tests.
ALPHA = 0.05
#: A change of a score that is a rounding error, as a share of the largest.
_NOTHING = 1e-9
#: The power at which a difference counts as detectable.
POWER = 0.8


@dataclass(frozen=True, eq=False)
class Measured:
    """What every metric of a target reads: the tested units, in one order for all models.

    Parameters
    ----------
    y : array of shape (n,)
        Class codes, or values.
    strata : int array of shape (n_repeats, n)
    blocks : int array of shape (n,)
        Block of every unit, from 0; see the module.
    base : array of shape (n_repeats, n, ...)
        Predictions of knowing nothing.
    n_folds : int
        Folds of a repetition. With one the training part is never tested: variances are N.
    base_without : array of shape (n_repeats, n, n_blocks, ...), optional
        The same of what knows nothing and was not trained on a block.
    """

    y: NDArray[np.generic]
    strata: Codes
    blocks: Codes
    base: Array
    n_folds: int
    base_without: Array | None = None


@dataclass(frozen=True, eq=False)
class Jackknife:
    """A score and what it is without every block.

    Parameters
    ----------
    value : float
    own, full : array of shape (n_blocks,)
        See the module; ``full`` is None where it is not known.
    weights : array of shape (n_blocks,)
        Units of every block; 0 of a block that the score does not depend on, unless that is true of
        all.
    single : bool
        Whether there is one fold only.
    """

    value: float
    own: Array
    full: Array | None
    weights: Array
    single: bool = False

    @classmethod
    def of(
        cls, metric: Metric, tested: Measured, predicted: Array, without: Array | None
    ) -> Jackknife:
        """Score predictions with and without every block.

        Parameters
        ----------
        metric : Metric
        tested : Measured
        predicted : array of shape (n_repeats, n, ...)
        without : array of shape (n_repeats, n, n_blocks, ...), optional
            Predictions of models that were not trained on the block.
        """
        n_blocks = int(tested.blocks.max()) + 1

        def score(keep: NDArray[np.bool_] | slice, block: int | None) -> float:
            if not tested.y[keep].size:
                return float("nan")
            scores, base = predicted, tested.base
            if block is not None and without is not None:
                scores = without[:, :, block]
                base = base if tested.base_without is None else tested.base_without[:, :, block]
            parts = [
                metric(tested.y[keep], scores[r, keep], tested.strata[r, keep], base[r, keep])
                for r in range(len(predicted))
            ]
            return float(np.mean(parts))

        value = score(slice(None), None)
        kept = [tested.blocks != block for block in range(n_blocks)]
        own = np.array([value - score(keep, None) for keep in kept])
        full = None
        if without is not None:
            full = np.array([value - score(keep, block) for block, keep in enumerate(kept)])
        weights = np.bincount(tested.blocks).astype(np.float64)
        changes = np.abs(own)
        counted = changes > _NOTHING * changes.max()  # a site with one class adds no AUROC
        if counted.any():
            weights = np.where(counted, weights, 0.0)
        return cls(value, own, full, weights, tested.n_folds == 1)

    def minus(self, other: Jackknife) -> Jackknife:
        """Return the difference of two scores of the same units."""
        full = None
        if self.full is not None and other.full is not None:
            full = self.full - other.full
        value, own = self.value - other.value, self.own - other.own
        weights = np.maximum(self.weights, other.weights)
        return Jackknife(value, own, full, weights, self.single)

    def times(self, factor: float) -> Jackknife:
        """Return the score in another unit, or with another sign."""
        full = None if self.full is None else factor * self.full
        own = factor * self.own
        return Jackknife(factor * self.value, own, full, self.weights, self.single)

    @property
    def variance(self) -> float:
        """The variance of the value; NaN where it is not known without some block."""
        n = _jackknife_variance(self.own)
        if self.single:
            return n
        if self.full is None:
            return 2.0 * n
        return max(n, (2.0 * n + _jackknife_variance(self.full)) / 3.0)

    @property
    def df(self) -> float:
        """Degrees of freedom: blocks as many as equal ones would weigh (Kish 1965), minus one."""
        return max(float(self.weights.sum() ** 2 / np.square(self.weights).sum()) - 1.0, 1.0)


def _jackknife_variance(changes: Array) -> float:
    n = len(changes)
    return float((n - 1) / n * np.square(changes - changes.mean()).sum()) if n > 1 else float("nan")


def mean_jackknife(parts: Sequence[Jackknife]) -> Jackknife:
    """Return the mean of replicates: draws of random weights, or pretraining runs."""
    full = None
    if all(part.full is not None for part in parts):
        full = np.mean([part.full for part in parts if part.full is not None], axis=0)
    own = np.mean([part.own for part in parts], axis=0)
    value = float(np.mean([part.value for part in parts]))
    weights = np.max([part.weights for part in parts], axis=0)
    return Jackknife(value, own, full, weights, parts[0].single)


def replicate_variance(parts: Sequence[Jackknife]) -> float:
    """Return the variance of the score between replicates, beyond what the tested people explain.

    The observed variance of the replicates' scores is the sum of both; the second is half the mean
    variance of their paired differences.

    Parameters
    ----------
    parts : sequence of Jackknife
        Of one model; 0 for one replicate.
    """
    if len(parts) < 2:
        return 0.0
    observed = float(np.var([part.value for part in parts], ddof=1))
    pairs = [a.minus(b).variance for i, a in enumerate(parts) for b in parts[:i]]
    return max(observed - float(np.mean(pairs)) / 2.0, 0.0)


@dataclass(frozen=True)
class Inference:
    """A number with its standard error, from which interval and p-value follow.

    Parameters
    ----------
    value, se, df : float
        ``se`` is NaN where it is not known.
    """

    value: float
    se: float
    df: float

    @classmethod
    def of(cls, jackknife: Jackknife, between: float = 0.0, n_replicates: int = 1) -> Inference:
        """Return the estimate of a jackknife, whose replicates add `between` to its variance.

        Degrees of freedom are Satterthwaite's (1946).

        Parameters
        ----------
        jackknife : Jackknife
        between : float
            Variance of the mean over replicates.
        n_replicates : int
            Replicates from which it was estimated.
        """
        variance, df = jackknife.variance, jackknife.df
        if between > 0:
            shares = variance**2 / df + between**2 / max(n_replicates - 1, 1)
            df = (variance + between) ** 2 / shares if shares > 0 else df
        return cls(jackknife.value, float(np.sqrt(variance + between)), float(df))

    def interval(self, limits: Limits = UNLIMITED) -> Limits:
        """Return the 95 % interval, cut off where no true value can be.

        What is cut off holds no true value: it covers as often as before, and holds a null value,
        which can be true, exactly when the test does not reject it.

        Parameters
        ----------
        limits : (float, float)
            The least and the most that the number can be.
        """
        reach = float(t_distribution.ppf(1.0 - ALPHA / 2, self.df)) * self.se
        low, high = np.clip([self.value - reach, self.value + reach], *limits)
        return float(low), float(high)

    def p_value(self, null: float) -> float:
        """Return the two-sided p-value of another true value; NaN where it is not known.

        Where all blocks agree, as at a perfect score, it is that of the sign test over blocks.
        """
        gap = abs(self.value - null)
        if np.isnan(gap):
            return float("nan")
        if self.se == 0:
            return 1.0 if gap == 0 else float(2.0**-self.df)
        return float(2.0 * t_distribution.sf(gap / self.se, self.df))

    @property
    def detectable(self) -> float:
        """The true difference that a two-sided test at 5 % finds with a power of 80 %."""
        reach = sum(float(t_distribution.ppf(q, self.df)) for q in (1.0 - ALPHA / 2, POWER))
        return reach * self.se


def inference_blocks(
    clusters: NDArray[np.str_], strata: NDArray[np.generic], y: NDArray[np.generic], seed: int
) -> Codes:
    """Return a block for every row: its cluster, or its group where there are too many clusters.

    Groups are alike: clusters are sorted by stratum and truth, in random order within them, and
    dealt out in turn.

    Parameters
    ----------
    clusters : array of shape (n,)
    strata, y : array of shape (n,)
        Of every row; a cluster goes by its first one.
    seed : int
    """
    _, first, codes = np.unique(clusters, return_index=True, return_inverse=True)
    n = len(first)
    if n <= MAX_BLOCKS:
        return np.asarray(codes, np.intp)
    order = np.lexsort(
        (
            np.random.default_rng(seed).permutation(n),
            np.unique(y[first], return_inverse=True)[1],
            np.unique(strata[first], return_inverse=True)[1],
        )
    )
    block = np.empty(n, np.intp)
    block[order] = np.arange(n) % MAX_BLOCKS
    return np.asarray(block[codes], np.intp)


def holm(p_values: Sequence[float] | Array) -> Array:
    """Return p-values adjusted for their number (Holm 1979); unknown ones (NaN) do not count.

    Parameters
    ----------
    p_values : sequence of float
    """
    p = np.asarray(p_values, np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    out = np.full(len(p), np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return out

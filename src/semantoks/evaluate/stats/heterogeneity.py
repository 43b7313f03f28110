"""Random-effects summary of one score over sites.

It describes how a score differs between sites. Verdicts rest on the test of
`semantoks.evaluate.stats.inference`, whose estimate weighs sites otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2
from scipy.stats import t as t_distribution

from semantoks.arrays import Array
from semantoks.evaluate.stats.inference import ALPHA


@dataclass(frozen=True)
class RandomEffects:
    """How a score differs between sites.

    Parameters
    ----------
    mean, se : float
        Random-effects mean and its standard error (Hartung & Knapp 2001), which is not smaller than
        that of equal scores at all sites (Röver, Knapp & Friede 2015).
    ci_low, ci_high : float
        95 % interval of the mean.
    low, high : float
        95 % prediction interval: where the true score of another site lies.
    tau : float
        Standard deviation of the true score over sites (Paule & Mandel 1982).
    i2 : float
        Share of the variation that is not sampling error (Higgins & Thompson 2002), in [0, 1].
    p_value : float
        Of Cochran's Q, against equal scores at all sites.
    n_sites : int
    """

    mean: float
    se: float
    ci_low: float
    ci_high: float
    low: float
    high: float
    tau: float
    i2: float
    p_value: float
    n_sites: int

    def p_value_of(self, null: float) -> float:
        """Return the two-sided p-value of another mean, on the degrees of freedom of `ci_low`."""
        return float(2 * t_distribution.sf(abs(self.mean - null) / self.se, self.n_sites - 1))


def random_effects(values: Array, errors: Array) -> RandomEffects | None:
    """Summarise scores of sites with their standard errors.

    Parameters
    ----------
    values, errors : array of shape (n_sites,)
        Sites whose score is not known, or whose error is not known or zero, are left out.

    Returns
    -------
    RandomEffects or None
        None with fewer than 3 sites.
    """
    usable = np.isfinite(values) & np.isfinite(errors) & (errors > 0)
    y, v = np.asarray(values)[usable], np.square(np.asarray(errors)[usable])
    k = len(y)
    if k < 3:
        return None

    def q(tau2: float) -> float:
        w = 1 / (v + tau2)
        return float(w @ np.square(y - w @ y / w.sum()))

    tau2, high = 0.0, float(np.var(y, ddof=1)) + float(v.max())
    if q(0.0) > k - 1:
        while q(high) > k - 1:
            high *= 2
        tau2 = float(brentq(lambda t: q(t) - (k - 1), 0.0, high))
    w = 1 / (v + tau2)
    mean = float(w @ y / w.sum())
    se = float(np.sqrt(max(q(tau2) / (k - 1), 1.0) / w.sum()))
    own, other = (float(t_distribution.ppf(1 - ALPHA / 2, df)) for df in (k - 1, k - 2))
    reach = own * se
    further = other * float(np.sqrt(tau2 + se**2))
    cochran = q(0.0)
    return RandomEffects(
        mean=mean,
        se=se,
        ci_low=mean - reach,
        ci_high=mean + reach,
        low=mean - further,
        high=mean + further,
        tau=float(np.sqrt(tau2)),
        i2=max(0.0, 1 - (k - 1) / cochran) if cochran > 0 else 0.0,
        p_value=float(chi2.sf(cochran, k - 1)),
        n_sites=k,
    )

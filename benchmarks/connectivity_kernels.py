"""How much faster the probes and the tangent space are than nilearn and scikit-learn used plainly.

    python benchmarks/connectivity_kernels.py [--people 1000] [--rois 200] [--folds 1]

Both ways do the same in one run on the same simulated recordings: features, then one site out of
20 left out, features standardised, the strength of the penalty chosen by inner folds over sites,
the left-out site predicted. Plainly, that is `ConnectivityMeasure`, `StandardScaler` and
`LogisticRegression` in a `GridSearchCV`. Only `--folds` of the 20 sites are computed: the plain way
takes minutes each. Prints seconds and their ratio; absolute seconds are those of this machine.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from nilearn.connectome import ConnectivityMeasure
from sklearn.covariance import EmpiricalCovariance, LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.spectral_connectivity import SpectralConnectivityBaseline
from semantoks.evaluate.features.tangent import TangentBaseline, standardised
from semantoks.evaluate.predictors.probe import STRENGTHS, LinearProbe

N_SITES = 20


def simulate(n_people, n_rois, rng):
    """Return signals of a low-dimensional, autocorrelated source and the labels of two groups."""
    y = rng.integers(0, 2, n_people)
    mixing = rng.standard_normal((30, n_rois))
    change = 0.15 * rng.standard_normal((30, n_rois))
    signals = []
    for label in y:
        n_times = int(rng.integers(100, 290))
        source = rng.standard_normal((n_times + 2, 30)).cumsum(axis=0)
        own = mixing + label * change + 0.5 * rng.standard_normal((30, n_rois))
        x = np.diff(source, n=2, axis=0) @ own + 4 * rng.standard_normal((n_times, n_rois))
        signals.append(standardised(x))
    return signals, y


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def plain_probe(X, y, sites, train, test):
    pipe = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=5000, tol=1e-6)
    )
    grid = {"logisticregression__C": [1 / (s * X.shape[1]) for s in STRENGTHS]}
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    search = GridSearchCV(pipe, grid, cv=folds, scoring="neg_log_loss")
    search.fit(X[train], y[train], groups=sites[train])
    return search.predict_proba(X[test])[:, 1]


def our_probe(X, y, sites, train, test):
    return LinearProbe().fit(X[train], y[train], groups=sites[train]).predict_proba(X[test])[:, 1]


def plain_roots(signals):
    """Correlations, one batched eigendecomposition, square roots; the same vectors."""
    values, vectors = np.linalg.eigh(np.stack([np.corrcoef(x.T) for x in signals]))
    roots = (vectors * np.sqrt(values.clip(min=0.0))[:, None]) @ vectors.swapaxes(1, 2)
    rows, columns = np.tril_indices(roots.shape[1])
    return roots[:, rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2.0))


def plain_tangent(signals, train, test):
    measure = ConnectivityMeasure(
        kind="tangent", cov_estimator=LedoitWolf(store_precision=False), vectorize=True
    )
    measure.fit([signals[i] for i in train])
    return measure.transform(signals)[test]


def our_tangent(prepared, train, test, reference):
    tangent = TangentBaseline(reference).fit_prepared(prepared[train])
    return tangent.transform_prepared(prepared)[test]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--rois", type=int, default=200)
    parser.add_argument("--folds", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    signals, y = simulate(options.people, options.rois, rng)
    sites = np.arange(options.people) % N_SITES
    rows = []

    plain_fc = ConnectivityMeasure(
        kind="correlation",
        cov_estimator=EmpiricalCovariance(),
        vectorize=True,
        discard_diagonal=True,
    )
    before, plain = timed(lambda: np.arctanh(plain_fc.fit_transform(signals)))
    after, ours = timed(lambda: ConnectivityBaseline().fit_transform(signals))
    rows.append(("connectivity, all people", before, after, abs(plain - ours).max()))
    before, plain = timed(lambda: plain_roots(signals))
    after, roots = timed(lambda: SpectralConnectivityBaseline().fit_transform(signals))
    rows.append(("spectral connectivity, all people", before, after, abs(plain - roots).max()))
    for fold in range(options.folds):
        train, test = np.flatnonzero(sites != fold), np.flatnonzero(sites == fold)
        before, plain = timed(lambda: plain_probe(ours, y, sites, train, test))  # noqa: B023
        after, found = timed(lambda: our_probe(ours, y, sites, train, test))  # noqa: B023
        rows.append((f"nested probe, site {fold}", before, after, abs(plain - found).max()))
    train, test = np.flatnonzero(sites != 0), np.flatnonzero(sites == 0)
    before, plain = timed(lambda: plain_tangent(signals, train, test) * np.sqrt(2))
    once, prepared = timed(lambda: TangentBaseline("geometric").prepare(signals))
    after, found = timed(lambda: our_tangent(prepared, train, test, "geometric"))
    rows.append(("tangent, one fold, geometric mean", before, after, abs(plain - found).max()))
    more, prepared = timed(lambda: TangentBaseline().prepare(signals))
    after, found = timed(lambda: our_tangent(prepared, train, test, "log-euclidean"))
    rows.append(("tangent, one fold, log-Euclidean", before, after, float("nan")))

    print(f"{options.people} people, {options.rois} ROIs")
    print(f"{'':36}{'plain, s':>10}{'ours, s':>10}{'ratio':>8}{'largest difference':>20}")
    for name, before, after, difference in rows:
        ratio = before / after
        print(f"{name:36}{before:10.2f}{after:10.2f}{ratio:8.1f}{difference:20.1e}")
    print(f"once for all folds: covariances {once:.1f} s, with logarithms {more:.1f} s")


if __name__ == "__main__":
    warnings.simplefilter("ignore", FutureWarning)
    main()

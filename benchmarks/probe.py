"""The linear model on connectivity of ABIDE, every site left out once: scores and cost.

    semantoks prepare abide stores/abide-raw --missing-rois mark --low-hz 0 --high-hz 0
    python -m benchmarks.probe stores/abide-raw

1. Scores of functional connectivity for sex, diagnosis and log age: of all people together, and
   within sites, beside what is to be reached.
2. Processor time of the probe (blocks scaled, ridge regression, 17 strengths chosen by 20 inner
   folds), against the one that it replaced (features standardised, logistic regression with
   balanced classes, 6 strengths chosen by the log loss of 5 inner folds), alternating in one run.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd

from semantoks import RecordingStore
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.predictors.probe import LinearProbe, LinearProbeRegressor
from semantoks.evaluate.stats.metrics import auroc, balanced, pearson_r

#: What is to be reached without a filter: metric of all people, or r within sites.
BARS = {
    "sex": ("pooled AUROC", 0.715),
    "diagnosis": ("pooled AUROC", 0.755),
    "log age": ("r within", 0.60),
}


def replaced() -> LinearProbe:
    """Return the probe that was the default before."""
    strengths = tuple(float(10.0**k) for k in range(-2, 4))
    return LinearProbe(
        "logistic", strengths=strengths, class_weight="balanced", scaling="feature", n_folds=5
    )


def main() -> None:
    """Print scores and seconds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store")
    parser.add_argument("--sites", type=int, help="time this many sites only", default=6)
    given = parser.parse_args()
    store = RecordingStore(given.store)
    X = np.asarray(ConnectivityBaseline().fit_transform(store), np.float32)
    table = store.table
    names, site = np.unique(table["site"].to_numpy(str), return_inverse=True)
    female = (table["sex"] == "female").to_numpy(int)
    autism = (table["diagnosis"] == "autism").to_numpy(int)
    log_age = np.log(table["age"].to_numpy(float))

    rows = []
    for target, y in {"sex": female, "diagnosis": autism, "log age": log_age}.items():
        classes = target != "log age"
        p, scores = np.empty((len(y), 2)), np.empty((len(y), 2))
        strengths = []
        for left in range(len(names)):
            train, test = np.flatnonzero(site != left), np.flatnonzero(site == left)
            probe = (LinearProbe if classes else LinearProbeRegressor)()
            probe.fit(X[train], y[train], groups=site[train])
            strengths.append(probe.strength_)
            if isinstance(probe, LinearProbe):
                p[test] = probe.predict_proba(X[test])
                scores[test] = balanced(p[test], probe.thresholds_)
            else:
                p[test] = scores[test] = probe.predict(X[test])[:, None]
        row: dict[str, object] = {"target": target}
        if classes:
            within = auroc(y, p, site)
            row |= {"pooled AUROC": auroc(y, scores), "of probabilities": auroc(y, p)}
            right = scores.argmax(axis=1) == y
            row |= {"AUROC within": within}
            row |= {"balanced accuracy": np.mean([right[y == c].mean() for c in (0, 1)])}
        else:
            row |= {"r": pearson_r(y, p[:, 0]), "r within": pearson_r(y, p[:, 0], site)}
        metric, bar = BARS[target]
        reached = round(float(str(row[metric])), 3) >= bar
        row |= {"to be reached": f"{metric} {bar}", "reached": "yes" if reached else "no"}
        rows.append(row | {"median strength": np.median(strengths)})
    print(pd.DataFrame(rows).set_index("target").T.to_string(float_format="{:.4f}".format))

    seconds = np.zeros((given.sites, 2))
    for left in range(given.sites):
        train = np.flatnonzero(site != left)
        for i, make in enumerate((replaced, LinearProbe)):
            start = time.process_time()
            make().fit(X[train], autism[train], groups=site[train])
            seconds[left, i] = time.process_time() - start
    before, now = seconds.sum(axis=0) / given.sites
    print(f"one site: {before:.2f} s replaced, {now:.2f} s now, ratio {now / before:.2f}")


if __name__ == "__main__":
    main()

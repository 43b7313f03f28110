"""Reliability between two days against the length of the scan: connectivity and functions of it.

    python -m benchmarks.scan_length stores/twice --minutes 3 --minutes 6 --minutes 15

The store holds two sessions per person. Of every recording the first minutes are used.
Identification rate and intraclass correlations come with 95 % intervals over people, and
differences to connectivity (Fisher z) on the same bootstrap samples. Nothing is fitted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from benchmarks.abide import beginnings
from semantoks import RecordingStore
from semantoks.evaluate.checks.reliability import (
    measure_reliability,
    reliability_differences,
    reliability_scores,
)
from semantoks.evaluate.compare.roles import CONNECTIVITY, SPECTRAL
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.spectral_connectivity import SpectralConnectivityBaseline

MEASURES = ("identification rate", "discriminability", "median ICC(3,1)")


def main() -> None:
    """Print one table per length."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--minutes", type=float, action="append", required=True)
    given = parser.parse_args()
    store = RecordingStore(given.store)
    models = {
        CONNECTIVITY: ConnectivityBaseline(),
        SPECTRAL: SpectralConnectivityBaseline(),
        "spectral": SpectralConnectivityBaseline("log", 2 / 3),
    }
    for minutes in given.minutes:
        found = measure_reliability(beginnings(store, 60 * minutes), models)
        scores = reliability_scores(found).assign(against="")
        rows = pd.concat([scores, reliability_differences(found, CONNECTIVITY)])
        rows = rows[rows["measure"].isin(MEASURES)]
        print(f"\n{minutes:g} minutes, {rows['n_subjects'].max():.0f} people\n")
        columns = ["measure", "model", "against", "value", "ci_low", "ci_high"]
        print(rows[columns].round(3).sort_values("measure", kind="stable").to_string(index=False))


if __name__ == "__main__":
    main()

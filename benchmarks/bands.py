"""How much connectivity knows in other frequency bands: stores of the same people of ABIDE.

    semantoks prepare abide stores/abide --missing-rois mark
    semantoks prepare abide stores/open --missing-rois mark --low-hz 0 --high-hz 0
    python -m benchmarks.bands stores/abide stores/open

Every site is left out once, as in `benchmarks.abide`; differences to the first store come with
95 % intervals over sites.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from benchmarks.abide import predict, table, targets_of
from semantoks import RecordingStore
from semantoks.evaluate.features.connectivity import ConnectivityBaseline


def name_of(store: RecordingStore) -> str:
    """Return the band of a store in words."""
    steps = store.preprocessing
    return f"{steps.low_hz or 0:g} to {steps.high_hz or 0.5 / steps.tr:g} Hz"


def main() -> None:
    """Print one row per store and target."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stores", nargs="+", help="the first is the one to compare with")
    stores = [RecordingStore(path) for path in parser.parse_args().stores]
    first = stores[0].table
    sites, Y = first["site"].to_numpy(str), targets_of(first)
    found = {}
    for i, store in enumerate(stores):
        if [*store.table["id"]] != [*first["id"]]:
            raise SystemExit(f"{store.path} holds other recordings")
        x = ConnectivityBaseline().fit_transform(store)
        found["connectivity" if i == 0 else name_of(store)] = predict(
            [x], Y, sites, np.unique(sites)
        )
    rows = pd.DataFrame(table(Y, found, sites)).sort_values("target", kind="stable")
    print(rows.replace("connectivity", name_of(stores[0])).round(3).to_string(index=False))


if __name__ == "__main__":
    main()

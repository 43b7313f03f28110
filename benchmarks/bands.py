"""How much connectivity knows in other frequency bands: stores of the same people of ABIDE.

    semantoks prepare abide stores/abide --missing-rois mark
    semantoks prepare abide stores/open --missing-rois mark --low-hz 0 --high-hz 0
    python -m benchmarks.bands stores/abide stores/open

Every site is left out once, with the verdicts of `benchmarks.abide`; differences are to the first
store.
"""

from __future__ import annotations

import argparse

from benchmarks.abide import TARGETS, Result, asked, markdown, rotated
from semantoks import RecordingStore
from semantoks.data.designs import LeaveOneSiteOut
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.roles import CONNECTIVITY
from semantoks.evaluate.features.connectivity import ConnectivityBaseline


def name_of(store: RecordingStore) -> str:
    """Return the band of a store in words."""
    steps = store.preprocessing
    how = f", {steps.filter}" if steps.low_hz or steps.high_hz else ""
    return f"{steps.low_hz or 0:g} to {steps.high_hz or 0.5 / steps.tr:g} Hz{how}"


def main() -> None:
    """Print the scores of every store, and the differences to the first."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stores", nargs="+", help="the first is the one to compare with")
    stores = [RecordingStore(path) for path in parser.parse_args().stores]
    models = {}
    for i, store in enumerate(stores):
        if [*store.table["id"]] != [*stores[0].table["id"]]:
            raise SystemExit(f"{store.path} holds other recordings")
        x = ConnectivityBaseline().fit_transform(store)
        models[name_of(store) if i else CONNECTIVITY] = rotated(x)
    found = evaluate_probes(
        stores[0],
        models,
        TARGETS,
        design=LeaveOneSiteOut(),
        against=(CONNECTIVITY,),
        metric=("r",),
    )
    scores, gaps = (part[part["p_value"].notna()] for part in (found.scores, found.differences))
    for line in markdown(Result(scores, asked(gaps), len(stores[0]))):
        print(line.replace(CONNECTIVITY, name_of(stores[0])))


if __name__ == "__main__":
    main()

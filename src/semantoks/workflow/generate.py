"""Sampled recordings of one model, and their comparison with real ones, in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.recording import Recording
from semantoks.data.store import RecordingStore, write_store
from semantoks.errors import InputError
from semantoks.evaluate.checks.generation import distances, measure, sample, segment, spectrum
from semantoks.evaluate.features.crops import sources
from semantoks.figures import generation as plots
from semantoks.files import refuse_existing, staged_folder
from semantoks.objectives.autoregressive import load_next_patch

REAL, OTHER, GENERATED = "real", "real, other half", "generated"


def generate_recordings(
    model: str | Path,
    store: str | Path,
    out: str | Path,
    *,
    n_recordings: int = 32,
    n_times: int | None = None,
    seed: int = 0,
) -> list[Path]:
    """Sample recordings from a model of the next patch and compare them with those of a store.

    Parameters
    ----------
    model : path or str
        What `load_pretrained` takes, trained with objective.kind=autoregressive.
    store : path
        Half of its subjects, drawn by `seed`, give the residuals and the first patches, the other
        half is what the sampled recordings are compared with.
    out : path
        New folder: store (the sampled recordings), comparison.tsv, spectra.tsv and .png,
        connectivity.tsv and .png.
    n_recordings : int
    n_times : int, optional
        Volumes of every sampled recording; by default the median of the store.
    seed : int

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError
        If the model cannot predict, the store does not fit it or has fewer than 4 subjects, or the
        folder exists and is not empty.
    """
    folder = Path(out)
    refuse_existing(folder, folder=True)
    predictor, real = load_next_patch(model), RecordingStore(store)
    encoder = predictor.encoder
    assert isinstance(encoder.channels, Parcellation)
    subjects = np.unique(real.table["subject"].to_numpy(str))
    if n_recordings < 1:
        raise InputError("must be at least 1", field="n_recordings", value=n_recordings)
    if len(subjects) < 4:
        rule = "must have at least 4 subjects: two to sample from, two to compare with"
        raise InputError(rule, file=real.path, field="subjects", value=len(subjects))
    first = np.random.default_rng(seed).permutation(subjects)[: len(subjects) // 2]
    measured = real.table["subject"].isin(first).to_numpy()
    found = list(sources(encoder, real, None))
    half, other = ([s for s, own in zip(found, measured == m, strict=True) if own] for m in (1, 0))
    length = n_times or int(real.table["length"].median())
    signals = sample(
        predictor, measure(predictor, half), n_recordings=n_recordings, n_times=length, seed=seed
    )
    sampled = [
        Recording(
            signal=signal,
            roi_names=encoder.channels.labels,
            tr=encoder.preprocessing.tr,
            subject=f"generated{i:04}",
            source=f"generated recording {i}",
        )
        for i, signal in enumerate(signals)
    ]
    with staged_folder(folder) as new:
        made = write_store(
            new / "store", sampled, encoder.channels, encoder.preprocessing, min_times=1
        )
        groups = {
            OTHER: [s.signal for s in half],
            REAL: [s.signal for s in other],
            GENERATED: [made.signal(i) for i in range(len(made))],
        }
        written = _compare(new, groups, encoder.channels, encoder.preprocessing.tr)
    return [folder / name for name in ("store", *written)]


def _compare(
    folder: Path,
    groups: Mapping[str, Sequence[NDArray[np.floating]]],
    channels: Parcellation,
    tr: float,
) -> list[str]:
    """Write the tables and figures of the comparison; return their names."""
    table, values = distances(groups, tr)
    hertz, _ = spectrum(next(iter(groups.values())), tr, size=segment(groups))
    power = {name: own for name, (own, _) in values.items()}
    edges = {name: own for name, (_, own) in values.items()}
    one, two = (np.array(channels.labels)[i] for i in np.triu_indices(len(channels), 1))
    tables = {
        "comparison.tsv": table,
        "spectra.tsv": pd.DataFrame({"hz": hertz, **power}),
        "connectivity.tsv": pd.DataFrame({"one": one, "two": two, **edges}),
    }
    for name, frame in tables.items():
        frame.to_csv(folder / name, sep="\t", index=False, float_format="%.6g")
    figures = {
        "spectra.png": plots.spectra(hertz, power),
        "connectivity.png": plots.edges(edges[REAL], edges[GENERATED]),
    }
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=160)
    return [*tables, *figures]

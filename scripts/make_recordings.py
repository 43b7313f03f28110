"""Make the recordings that come with the repository from larger sets of public recordings.

    python scripts/make_recordings.py SOURCE_FOLDER [TARGET_FOLDER]

Writes, for `stages` and `abide-sample`: `recordings.npz`, `participants.tsv` and
`description.json` (how they were chosen, and the error of the quantisation as measured here). The
same sources give the same bytes. LICENSE, ATTRIBUTION.md and participants.json beside them are
written by hand.

Signals are int8: ``signals[a:b] * step``, with one step per recording and ROI, ``max(std / 20,
max|x| / 127)``, so that nothing is clipped and the rounding error is at most std / 40 where no
value exceeds 6.35 standard deviations.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from semantoks.atlas.parcellation import Parcellation
from semantoks.datasets import ABIDE_RATERS, ABIDE_SAMPLE_SITES, RECORDINGS, abide_people

SEED = 20260213
PER_SITE = 29
QUOTA = {"control": 15, "autism": 14}


def quantise(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    step = np.maximum(x.std(axis=0) / 20, np.abs(x).max(axis=0) / 127).astype(np.float32)
    return np.rint(x / step).astype(np.int8), step


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """As numpy.savez_compressed, but with fixed times in the archive, so the same every time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.save(stream, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, stream.getvalue(), compresslevel=9)


def quantisation_errors(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Largest and mean change of ROI x ROI correlations, and the lowest signal correlation."""
    changes = [
        np.abs(np.corrcoef(before.T) - np.corrcoef(after.T)).astype(np.float32)
        for before, after in pairs
    ]
    lowest = min(
        float(np.corrcoef(before[:, roi], after[:, roi])[0, 1])
        for before, after in pairs
        for roi in range(before.shape[1])
    )
    return {
        "largest_change_of_a_correlation": round(max(float(c.max()) for c in changes), 5),
        "mean_change_of_a_correlation": round(float(np.mean([c.mean() for c in changes])), 6),
        "lowest_correlation_of_a_signal": round(lowest, 6),
    }


def write(folder: Path, signals, table: pd.DataFrame, roi_names, description: dict) -> None:
    """Write one set: `signals` holds one (n_times, n_rois) float array per row of `table`."""
    folder.mkdir(parents=True, exist_ok=True)
    quantised, steps = zip(*(quantise(x) for x in signals), strict=True)
    restored = [q * step for q, step in zip(quantised, steps, strict=True)]
    offsets = np.cumsum([0, *map(len, signals)])
    arrays = {
        "signals": np.concatenate(quantised),
        "step": np.stack(steps),
        "offsets": offsets,
        "roi_names": np.array(roi_names),
    }
    write_npz(folder / "recordings.npz", arrays)
    table.to_csv(folder / "participants.tsv", sep="\t", index=False, lineterminator="\n")
    description["quantisation"] = quantisation_errors(list(zip(signals, restored, strict=True)))
    description["n_recordings"] = len(table)
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    (folder / "description.json").write_text(text, encoding="utf-8")
    size = (folder / "recordings.npz").stat().st_size / 1e6
    print(f"{folder.name}: {len(table)} recordings, {size:.2f} MB, {description['quantisation']}")


def split(source: np.lib.npyio.NpzFile, columns: slice = slice(None)) -> list[np.ndarray]:
    signals, offsets = source["ts"][:, columns].astype(np.float32), source["offsets"]
    return [signals[a:b] for a, b in pairwise(offsets)]


def make_stages(source: Path, target: Path) -> None:
    data = np.load(source / "stages" / "stages_psychosis_s400_19_noGMR_f16.npz")
    official = Parcellation.load("schaefer400").labels
    assert [*data["roi"][:400]] == [f"schaefer400_7N_{i}" for i in range(1, 401)]
    ids = pd.Series(data["ids"]).str.extract(r"^sub-(\d+)_ses-(\d)$")
    assert (("ses-" + ids[1]) == data["meta_session"]).all()
    table = pd.DataFrame({"subject": ids[0], "session": ids[1], "task": "rest", "tr": 2.0})
    table["arm"] = data["meta_arm"]
    for score in ("bprs", "sofas"):
        for months, point in ((6, "tp4"), (12, "tp5")):
            table[f"{score}_change_{months}m"] = data[f"meta_{score}_change_{point}"]
    description = {
        "name": "STAGES: first-episode psychosis, resting-state fMRI",
        "licence": "Apache-2.0",
        "parcellation": "schaefer400",
        "tr": "2.0 s, ASSUMED: the source does not state it",
        "units": "arbitrary; the temporal mean is removed",
        "preprocessing": "at the source: linear detrending, ICA-AROMA, 8 regressors from white "
        "matter and cerebrospinal fluid, band-pass 0.008-0.08 Hz; no grey-matter regression",
        "left_out": "19 subcortical columns, whose names the source does not give",
    }
    write(target / "stages", split(data, slice(400)), table, official, description)


ABIDE_COLUMNS = {
    "SUB_ID": "sub_id",
    "SITE_ID": "site",
    "DX_GROUP": "dx_group",
    "SEX": "sex",
    "AGE_AT_SCAN": "age",
    "func_mean_fd": "mean_fd",
    "EYE_STATUS_AT_SCAN": "eye_status",
    "FIQ": "fiq",
}


def abide_table(data: np.lib.npyio.NpzFile) -> pd.DataFrame:
    columns = {official: data[f"meta_{name}"] for official, name in ABIDE_COLUMNS.items()}
    table = abide_people(pd.DataFrame({**columns, "FILE_ID": data["ids"]}))
    assert np.allclose(table["tr"], data["meta_tr"])
    return table


def choose(table: pd.DataFrame) -> pd.DataFrame:
    """Choose about 29 people per site, both diagnoses as even as they go, women first.

    Within a site and diagnosis the women come first, then the men, each in the order of a hash of
    the seed and the subject. Each diagnosis fills its quota; what one lacks, the other fills.
    """
    order = table["subject"].map(lambda s: sha256(f"{SEED}:{s}".encode()).hexdigest())
    ranked = table.assign(order=order, man=table["sex"] == "male").sort_values(["man", "order"])
    chosen = []
    for site in ABIDE_SAMPLE_SITES:
        here = ranked[ranked["site"] == site]
        first = pd.concat([here[here["diagnosis"] == dx].head(n) for dx, n in QUOTA.items()])
        rest = here.drop(first.index).head(PER_SITE - len(first))
        chosen.append(pd.concat([first, rest]).sort_values("subject"))
    return pd.concat(chosen).drop(columns=["order", "man"])


def make_abide_sample(source: Path, target: Path) -> None:
    data = np.load(source / "abide1" / "abide1_cc200_nofilt_noglobal_f16.npz")
    assert [*data["roi"]] == [str(i) for i in range(1, 201)]
    signals, table = split(data), abide_table(data)
    standard = data["meta_in_pcp_file_list"].copy()
    for rater in ABIDE_RATERS:
        standard &= data[f"meta_{rater}"] != "fail"
    assert standard.sum() == 974
    varies = np.array([bool((x.std(axis=0) > 0).all()) for x in signals])
    chosen = choose(table[standard & varies])
    description = {
        "name": "ABIDE I, a sample of 7 sites, resting-state fMRI",
        "licence": "CC BY-NC-SA 3.0",
        "parcellation": "cc200",
        "sites": list(ABIDE_SAMPLE_SITES),
        "seed": SEED,
        "selection": "of the 974 people whom no rater (overall, functional 2 and 3) failed and "
        "whom the Preprocessed Connectomes Project lists, without a ROI of zero variance; "
        "per site 15 controls and 14 people with autism where there are as many, women first",
        "tr": "per recording, in participants.tsv",
        "units": "arbitrary; the temporal mean is removed",
        "preprocessing": "at the source: C-PAC, nuisance regression, no band-pass filter, no "
        "global signal regression",
    }
    labels = Parcellation.load("cc200").labels
    write(
        target / "abide-sample",
        [signals[i] for i in chosen.index],
        chosen,
        labels,
        description,
    )
    print(chosen.groupby(["site", "diagnosis", "sex"]).size().unstack([1, 2]))


if __name__ == "__main__":
    origin = Path(sys.argv[1])
    destination = Path(sys.argv[2]) if len(sys.argv) > 2 else RECORDINGS
    make_stages(origin, destination)
    make_abide_sample(origin, destination)

"""Public recordings to start from: a sample of ABIDE I that comes with the package, and others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.recording import Recording
from semantoks.data.sources.items import Item
from semantoks.data.sources.table import recording_fields
from semantoks.errors import InputError, nearest

#: Folder of the recordings; a wheel holds the ABIDE sample alone.
RECORDINGS = Path(__file__).parent / "recordings"

#: Sites of the ABIDE sample. Models pretrained on ABIDE leave these sites out, so that the sample
#: stays unseen by them.
ABIDE_SAMPLE_SITES = ("KKI", "LEUVEN_2", "PITT", "SDSU", "STANFORD", "UCLA_1", "YALE")

# Repetition times in seconds, by site: the phenotypic file of ABIDE has no such column. CMU scanned
# at two, distinguished by its file names.
_ABIDE_TR = {
    "CALTECH": 2.0,
    "CMU_A": 2.0,
    "CMU_B": 1.5,
    "KKI": 2.5,
    "LEUVEN_1": 1.6667,
    "LEUVEN_2": 1.6667,
    "MAX_MUN": 3.0,
    "NYU": 2.0,
    "OHSU": 2.5,
    "OLIN": 1.5,
    "PITT": 1.5,
    "SBL": 2.2,
    "SDSU": 2.0,
    "STANFORD": 2.0,
    "TRINITY": 2.0,
    "UCLA_1": 3.0,
    "UCLA_2": 3.0,
    "UM_1": 2.0,
    "UM_2": 2.0,
    "USM": 2.0,
    "YALE": 2.0,
}
#: Columns of the phenotypic file whose verdict "fail" excludes a recording.
ABIDE_RATERS = ("qc_rater_1", "qc_func_rater_2", "qc_func_rater_3")
_ABIDE_ATLASES = {"cc200": "rois_cc200", "aal116": "rois_aal"}


def load_stages() -> list[Recording]:
    """Load 92 resting-state recordings of 55 people with first-episode psychosis (STAGES trial).

    Schaefer-400 parcels, 234 time points, TR 2 s (assumed: the source does not state it), band-pass
    filtered at the source. Phenotypes: trial arm and standardised changes of symptoms (BPRS) and
    functioning (SOFAS) after 6 and 12 months. Apache-2.0; see
    ``recordings/stages``. These recordings come with the repository, not with a wheel.

    Returns
    -------
    list of Recording

    Raises
    ------
    InputError
        The recordings are not there.
    """
    return list(_load("stages"))


def load_abide_sample() -> list[Recording]:
    """Load resting-state recordings of 202 people of 7 ABIDE I sites, 93 of them with autism.

    CC200 ROIs, 116 to 246 time points, TR 1.5 to 3 s. Phenotypes: diagnosis, sex, age (years), eyes
    (open or closed), fiq. They come with the package, so that nothing is downloaded.
    CC BY-NC-SA 3.0; ``recordings/abide-sample`` says how they were chosen.

    Returns
    -------
    list of Recording

    Raises
    ------
    InputError
        The recordings are not there.
    """
    return list(_load("abide-sample"))


def fetch_abide(
    data_dir: str | Path | None = None,
    *,
    parcellation: str = "cc200",
    sites: Sequence[str] | None = None,
    n_subjects: int | None = None,
    verbose: int = 1,
) -> list[Recording]:
    """Download ABIDE I region time series (Preprocessed Connectomes Project) through nilearn.

    C-PAC, no band-pass filter, no global signal regression; the people whom no rater (overall,
    functional 2 and 3) failed, 974 in all, the number of the paper. ROIs of
    zero variance are listed in `Recording.missing_rois`. CC BY-NC-SA 3.0.

    Parameters
    ----------
    data_dir : str or path, optional
        Where nilearn keeps downloads; its own default otherwise. Files there are not fetched again.
    parcellation : {"cc200", "aal116"}
        Which region time series.
    sites : sequence of str, optional
        Only these sites, as the phenotypic file spells them: NYU, UM_1, ...
    n_subjects : int, optional
        Only the first people of the phenotypic file, counted before the quality selection.
    verbose : int
        How much nilearn says.

    Returns
    -------
    list of Recording

    Raises
    ------
    InputError
        Unknown parcellation or site, or a downloaded file that is not as expected.
    """
    if parcellation not in _ABIDE_ATLASES:
        rule, fix = "has no time series in this collection", nearest(parcellation, _ABIDE_ATLASES)
        raise InputError(rule, field="parcellation", value=parcellation, fix=fix)
    # CMU is one site in the phenotypic file, with two TRs.
    known = {"CMU" if site.startswith("CMU") else site for site in _ABIDE_TR}
    for site in sites or ():
        if site not in known:
            raise InputError("is no site", field="sites", value=site, fix=nearest(site, known))
    from nilearn.datasets import fetch_abide_pcp  # slow to import, and needed only here

    derivative = _ABIDE_ATLASES[parcellation]
    fetched = fetch_abide_pcp(
        data_dir=data_dir,
        n_subjects=n_subjects,
        pipeline="cpac",
        band_pass_filtering=False,
        global_signal_regression=False,
        derivatives=[derivative],
        quality_checked=False,  # nilearn's own selection is another one, of 871 people
        verbose=verbose,
        **({} if sites is None else {"SITE_ID": list(sites)}),
    )
    phenotypic = fetched["phenotypic"].reset_index(drop=True)
    rows = abide_people(phenotypic).to_dict("records")
    return [
        _abide_recording(
            fetched[derivative][i], phenotypic["FILE_ID"][i], derivative, data_dir, row
        )
        for i, row in enumerate(rows)
        if not any(phenotypic[rater][i] == "fail" for rater in ABIDE_RATERS)
    ]


def _abide_recording(
    signal: NDArray[np.floating],
    file_id: str,
    derivative: str,
    data_dir: str | Path | None,
    row: Mapping[Any, Any],
) -> Recording:
    from nilearn.datasets import get_data_dirs

    # nilearn drops the names of the ROIs that head the file; they are read again, not assumed.
    name = Path("ABIDE_pcp", "cpac", "nofilt_noglobal", f"{file_id}_{derivative}.1D")
    found = [Path(root, name) for root in get_data_dirs(data_dir) if Path(root, name).is_file()]
    if not found:
        raise InputError("the file that nilearn fetched is not where it keeps its files", file=name)
    with found[0].open(encoding="utf-8") as stream:
        roi_names = tuple(stream.readline().split())
    if np.ndim(signal) != 2 or signal.shape[1] != len(roi_names):
        rule = f"has {len(roi_names)} ROI names in its first line"
        raise InputError(rule, file=found[0], field="shape", value=np.shape(signal))
    flat = np.flatnonzero(np.ptp(signal, axis=0) == 0)
    return Recording(
        signal=signal.astype(np.float32),
        roi_names=roi_names,
        missing_rois=tuple(roi_names[roi] for roi in flat),
        source=str(found[0]),
        **recording_fields(row),
    )


def abide_people(phenotypic: pd.DataFrame) -> pd.DataFrame:
    """Return the people of ABIDE I in words, from the codes of its phenotypic file.

    Parameters
    ----------
    phenotypic : DataFrame
        Columns SUB_ID, FILE_ID, SITE_ID, DX_GROUP, SEX, AGE_AT_SCAN, func_mean_fd,
        EYE_STATUS_AT_SCAN, FIQ.

    Returns
    -------
    DataFrame
        Columns subject, site, task, tr (s), diagnosis, sex, age (years), mean_fd (mm), eyes, fiq,
        with the same rows; missing codes are missing values.
    """
    # "CMU_a_0050642" scanned at another TR than "CMU_b_0050663".
    scanners = phenotypic["FILE_ID"].str.rsplit("_", n=1).str[0].str.upper()
    keys = phenotypic["SITE_ID"].where(phenotypic["SITE_ID"] != "CMU", scanners)
    fiq = phenotypic["FIQ"].astype(float)
    return pd.DataFrame(
        {
            "subject": [f"{int(subject):07d}" for subject in phenotypic["SUB_ID"]],
            "site": phenotypic["SITE_ID"],
            "task": "rest",
            "tr": keys.map(_ABIDE_TR),
            "diagnosis": phenotypic["DX_GROUP"].map({1: "autism", 2: "control"}),
            "sex": phenotypic["SEX"].map({1: "male", 2: "female"}),
            "age": phenotypic["AGE_AT_SCAN"].astype(float).round(2),
            "mean_fd": phenotypic["func_mean_fd"].astype(float).round(6),
            "eyes": phenotypic["EYE_STATUS_AT_SCAN"].map({1: "open", 2: "closed"}),
            "fiq": fiq.where(fiq > 0).round(1),
        }
    )


@dataclass(frozen=True)
class Sample:
    """A set of recordings that `semantoks prepare` knows by name.

    Parameters
    ----------
    load : callable
        Returns the recordings.
    parcellation : str
        The built-in parcellation of their ROIs.
    """

    load: Callable[[], list[Recording]]
    parcellation: str


DATASETS = {
    "stages": Sample(load_stages, "schaefer400"),
    "abide-sample": Sample(load_abide_sample, "cc200"),
    "abide": Sample(fetch_abide, "cc200"),  # downloads
}


def _folder(name: str) -> Path:
    folder = Path(os.environ.get("SEMANTOKS_RECORDINGS", RECORDINGS)) / name
    if not (folder / "recordings.npz").is_file():
        raise InputError(
            "the recordings are not here; they come with the repository, not with the package",
            file=folder,
            fix="Install from a clone of the repository (pip install -e .), or set "
            "SEMANTOKS_RECORDINGS to its folder recordings",
        )
    return folder


def _load(name: str) -> Iterator[Recording]:
    folder = _folder(name)
    text = {"subject": str, "session": str, "run": str}
    table = pd.read_csv(folder / "participants.tsv", sep="\t", dtype=text)
    with np.load(folder / "recordings.npz") as data:
        signals, step, offsets = data["signals"], data["step"], data["offsets"]
        roi_names = tuple(map(str, data["roi_names"]))
    for i, row in enumerate(table.to_dict("records")):
        yield Recording(
            signal=signals[offsets[i] : offsets[i + 1]] * step[i],
            roi_names=roi_names,
            source=f"{name} row {i + 1}",
            **recording_fields(row),
        )


def sample_items(name: str) -> list[Item]:
    """Return the recordings of one of `DATASETS` as items, to prepare a store from."""
    return [
        Item(recording.id, (), partial(_nth, name, i), {"subject": recording.subject})
        for i, recording in enumerate(_all(name))
    ]


def _nth(name: str, i: int) -> Recording:
    return _all(name)[i]


@lru_cache(maxsize=1)
def _all(name: str) -> list[Recording]:
    return DATASETS[name].load()

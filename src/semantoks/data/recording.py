"""`Recording`: one run of one person, as it travels between the readers and the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

Phenotype = str | float | int | bool | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """Parcellated BOLD signals of one run.

    Parameters
    ----------
    signal : ndarray of shape (n_times, n_rois)
        Time first, as nilearn's maskers return it; float32 or wider.
    roi_names : tuple of str, length n_rois
        Name of every column of `signal`, in its order.
    tr : float
        Repetition time, seconds.
    subject : str
        Subject identifier without the ``sub-`` prefix.
    session, task, run : str, optional
        BIDS entities without their prefixes.
    acquisition : str, optional
        Further BIDS entities that tell runs apart, as in the file name: ``acq-mb_dir-AP``.
    site : str, optional
        Acquisition site.
    mean_fd : float, optional
        Mean framewise displacement, millimetres.
    censored_fraction : float, optional
        Fraction of volumes censored before this signal was made, 0 to 1.
    missing_rois : tuple of str
        Names of ROIs without data (outside the field of view, say); their columns are zero.
    coverage : ndarray of shape (n_rois,), optional
        Fraction of every ROI's voxels or vertices that have data.
    confounds : ndarray of shape (n_times, n_confounds), optional
        To be regressed out of the signals (`semantoks.data.denoise`).
    kept : bool array of shape (n_times,), optional
        False for censored volumes, whose values are not used.
    dummy_scans : int
        Volumes at the beginning from before the steady state; they are removed.
    start_time : float
        Time of the first volume, seconds from the start of the acquisition (BIDS ``StartTime``:
        half a TR after slice timing correction to the middle).
    dvars : float, optional
        Mean standardised DVARS of the whole brain, where the source states it.
    phenotypes : mapping
        Further columns: diagnosis, age, ...; None where unknown.
    source : str
        Where it came from (a file, a data set), for messages.
    notes : tuple of str
        What was decided while reading that is worth a look, alike for alike recordings.

    See Also
    --------
    prepare_store : Reads recordings from files.

    Examples
    --------
    >>> import numpy as np
    >>> from semantoks import Parcellation, Recording
    >>> names = Parcellation.load("cc200").labels
    >>> signal = np.zeros((150, 200))
    >>> one = Recording(signal=signal, roi_names=names, tr=2.0, subject="01", task="rest")
    >>> one.id
    'sub-01_task-rest'
    """

    signal: NDArray[np.floating]
    roi_names: tuple[str, ...]
    tr: float
    subject: str
    session: str | None = None
    task: str | None = None
    acquisition: str | None = None
    run: str | None = None
    site: str | None = None
    mean_fd: float | None = None
    censored_fraction: float | None = None
    missing_rois: tuple[str, ...] = ()
    coverage: NDArray[np.floating] | None = None
    confounds: NDArray[np.floating] | None = None
    kept: NDArray[np.bool_] | None = None
    dummy_scans: int = 0
    start_time: float = 0.0
    dvars: float | None = None
    phenotypes: Mapping[str, Phenotype] = field(default_factory=dict)
    source: str = "recording"
    notes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """BIDS-like identifier, unique within a store: ``sub-01_ses-1_task-rest_run-1``."""
        return recording_id(self.subject, self.session, self.task, self.acquisition, self.run)


def recording_id(
    subject: str, session: str | None, task: str | None, acquisition: str | None, run: str | None
) -> str:
    """Return the identifier of a recording: its entities in the order of BIDS."""
    parts = [f"sub-{subject}", session and f"ses-{session}", task and f"task-{task}"]
    parts += [acquisition, run and f"run-{run}"]
    return "_".join(part for part in parts if part)


def subject_key(subject: str) -> str:
    """Return the hashed name of a subject, which subjects of other data sets can share."""
    return sha256(subject.encode()).hexdigest()[:16]


def person_key(data_set: str, subject: str) -> str:
    """Return the hashed identifier of a person: the data set and the subject's name in it."""
    return sha256(f"{data_set}\n{subject}".encode()).hexdigest()[:16]

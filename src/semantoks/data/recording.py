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
    site : str, optional
        Acquisition site.
    mean_fd : float, optional
        Mean framewise displacement, millimetres.
    censored_fraction : float, optional
        Fraction of volumes censored before this signal was made, 0 to 1.
    missing_rois : tuple of str
        Names of ROIs without data (outside the field of view, say); their columns are zero.
    phenotypes : mapping
        Further columns: diagnosis, age, ...; None where unknown.
    source : str
        Where it came from (a file, a data set), for messages.
    """

    signal: NDArray[np.floating]
    roi_names: tuple[str, ...]
    tr: float
    subject: str
    session: str | None = None
    task: str | None = None
    run: str | None = None
    site: str | None = None
    mean_fd: float | None = None
    censored_fraction: float | None = None
    missing_rois: tuple[str, ...] = ()
    phenotypes: Mapping[str, Phenotype] = field(default_factory=dict)
    source: str = "recording"

    @property
    def id(self) -> str:
        """BIDS-like identifier, unique within a store: ``sub-01_ses-1_task-rest_run-1``."""
        parts = (
            ("sub", self.subject),
            ("ses", self.session),
            ("task", self.task),
            ("run", self.run),
        )
        return "_".join(f"{key}-{value}" for key, value in parts if value is not None)


def subject_key(subject: str) -> str:
    """Return the hashed identifier under which a subject is recorded in shared artefacts."""
    return sha256(subject.encode()).hexdigest()[:16]

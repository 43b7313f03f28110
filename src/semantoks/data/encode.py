"""One recording on its way into a store: checked, put into order, preprocessed, made float16."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.denoise import Censoring, check_confounds
from semantoks.data.recording import Recording
from semantoks.data.signal import (
    Preprocessing,
    check_tr,
    flat_rois,
    resampled_kept,
    resampled_length,
)
from semantoks.errors import InputError
from semantoks.flags import Flag

MIN_TIMES = 20  # time points at the target TR; one patch of the method (METHOD "Notation": L)
#: Columns of the index before the phenotypes.
INDEX_COLUMNS = (
    "id",
    "subject",
    "session",
    "task",
    "acquisition",
    "run",
    "site",
    "source_tr",
    "shard",
    "start",
    "length",
    "offset",
    "mean_fd",
    "censored_fraction",
    "missing_rois",
)


@dataclass(frozen=True, kw_only=True)
class RoiRules:
    """What becomes of ROIs without data, and of ROIs that the parcellation does not have."""

    missing_rois: Literal["refuse", "mark"] = "refuse"
    """Refuse recordings with ROIs without data, or mark these and store zeros."""
    extra_rois: Literal["refuse", "drop"] = "refuse"
    """Refuse recordings with ROIs that the parcellation does not have, or drop these."""
    min_coverage: Annotated[float, Flag(metavar="FRACTION")] = 0.5
    """Count ROIs as without data if less of their voxels is covered (XCP-D's rule)."""

    def __post_init__(self) -> None:
        if self.missing_rois not in ("refuse", "mark"):
            rule = "must be 'refuse' or 'mark'"
            raise InputError(rule, field="missing_rois", value=self.missing_rois)
        if self.extra_rois not in ("refuse", "drop"):
            rule = "must be 'refuse' or 'drop'"
            raise InputError(rule, field="extra_rois", value=self.extra_rois)
        if not 0 <= self.min_coverage <= 1:
            raise InputError("must be in [0, 1]", field="min_coverage", value=self.min_coverage)


@dataclass(frozen=True, kw_only=True)
class StoreSpec(RoiRules):
    """What every recording of a store is brought to.

    Parameters
    ----------
    parcellation : Parcellation
        The ROIs to store, in its order; recordings are put into that order by name.
    preprocessing : Preprocessing
        What is done to every signal.
    censoring : Censoring
        What is done about censored volumes.
    min_times : int
        Recordings shorter than this after preprocessing are refused (time points; one patch).
    missing_rois : {"refuse", "mark"}
        What to do with ROIs without data (zero variance, not a number throughout, covered too
        little, absent, or listed in `Recording.missing_rois`): refuse the recording, or store zeros
        and list them in the index.
    extra_rois, min_coverage
        See `RoiRules`.
    """

    parcellation: Parcellation
    preprocessing: Preprocessing
    censoring: Censoring = field(default_factory=Censoring)
    min_times: int = MIN_TIMES

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, the parcellation by its name and hash."""
        plain = {k: v for k, v in self.__dict__.items() if isinstance(v, (str, int, float))}
        atlas = {"name": self.parcellation.name, "hash": self.parcellation.hash}
        return {
            "parcellation": atlas,
            "preprocessing": self.preprocessing.to_dict(),
            "censoring": asdict(self.censoring),
            **plain,
        }


@dataclass(frozen=True, eq=False)
class Encoded:
    """A recording as a store holds it.

    Parameters
    ----------
    row : dict
        Its row of the index, but for its place in the shards.
    signal : float16 array of shape (n_times, n_rois)
        Preprocessed, in the order of the parcellation.
    source : str
        Where it came from, for messages.
    kept : bool array of shape (n_times,), optional
        False where the signal is interpolated across censored volumes; all are kept by default.
    raw : ndarray of shape (n_kept, n_rois), optional
        The signals as they came, without censored volumes, in the order of the parcellation;
        missing ROIs are zero.
    volumes : int array of shape (n_kept,), optional
        Which volume of the source every row of `raw` is.
    tdof : float, optional
        Temporal degrees of freedom left (`Preprocessing.tdof`).
    """

    row: dict[str, Any]
    signal: NDArray[np.float16]
    source: str
    kept: NDArray[np.bool_] | None = None
    raw: NDArray[np.floating] | None = None
    volumes: NDArray[np.intp] | None = None
    tdof: float | None = None

    @property
    def phenotypes(self) -> list[str]:
        """Names of the columns beyond those of every index."""
        return [name for name in self.row if name not in INDEX_COLUMNS]


def encode(recording: Recording, spec: StoreSpec) -> Encoded:
    """Check a recording and bring it into the form of the store.

    Raises
    ------
    InputError
        The recording breaks a rule, named with the recording, the ROI and the way out.
    """
    where = f"{recording.source} ({recording.id})"
    tr = check_tr(recording.tr, where)
    n_times = len(recording.signal)
    confounds, kept = check_confounds(recording.confounds, recording.kept, n_times, where)
    n_dummies = max(recording.dummy_scans, spec.censoring.dummy_scans)
    kept[:n_dummies] = False
    used = spec.censoring.stretch(kept, tr, where)
    raw, missing = _in_order(recording, kept, spec, where)
    _check_length(used.stop - used.start, spec, tr, where)
    own = None if confounds is None else confounds[used]
    tdof = spec.preprocessing.tdof(tr, kept[used], own)
    spec.censoring.check_tdof(tdof, 0 if own is None else own.shape[1], where)
    stored = spec.preprocessing.apply(raw[used], tr, where, confounds=own, kept=kept[used])
    absent = [spec.parcellation.labels.index(name) for name in missing]
    stored[:, absent] = 0  # rounding of a regression is no signal
    half = _as_float16(stored, where)
    names = ("id", "subject", "session", "task", "acquisition", "run", "site")
    row: dict[str, Any] = {name: getattr(recording, name) for name in names}
    row |= {"source_tr": tr, "length": len(half)}
    row["offset"] = recording.start_time + used.start * tr
    censored = _censored(recording, kept[n_dummies:])
    row |= {"mean_fd": recording.mean_fd, "censored_fraction": censored, "missing_rois": missing}
    taken = [name for name in recording.phenotypes if name in INDEX_COLUMNS]
    if taken:
        rule = "is a column of the index; a phenotype needs another name"
        raise InputError(rule, file=where, field="phenotype", value=taken[0])
    return Encoded(
        row=row | dict(recording.phenotypes),
        signal=half,
        source=where,
        kept=resampled_kept(kept[used], tr, spec.preprocessing.tr),
        raw=raw[kept],
        volumes=np.flatnonzero(kept),
        tdof=tdof,
    )


def _censored(recording: Recording, kept: NDArray[np.bool_]) -> float | None:
    if recording.censored_fraction is not None or recording.kept is None:
        return recording.censored_fraction
    return float(1 - kept.mean())


def _as_float16(stored: NDArray[np.float32], where: str) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = stored.astype(np.float16)
    if not np.isfinite(half).all():
        rule = "exceeds the range of float16 (65504)"
        fix = "Store z-scored signals (zscore=True)"
        value = float(abs(stored).max())
        raise InputError(rule, file=where, field="signal", value=value, fix=fix)
    return half


def _check_length(n_times: int, spec: StoreSpec, tr: float, where: str) -> None:
    target = spec.preprocessing.tr
    length = resampled_length(n_times, tr, target)
    if length < spec.min_times:
        rule = f"is shorter than {spec.min_times} time points of {target:g} s"
        fix = "Leave the recording out, or choose shorter patches"
        value = f"{length} ({length * target:g} s)"
        raise InputError(rule, file=where, field="length", value=value, fix=fix)


def _in_order(
    recording: Recording, kept: NDArray[np.bool_], spec: StoreSpec, where: str
) -> tuple[NDArray[np.floating], list[str]]:
    """Return the signal in the order of the parcellation, and its ROIs without data."""
    shape, atlas = np.shape(recording.signal), spec.parcellation
    if len(shape) != 2 or shape[1] != len(recording.roi_names):
        rule = f"must have the shape (n_times, {len(recording.roi_names)}), one column per name"
        raise InputError(rule, file=where, field="signal", value=shape)
    columns = atlas.columns_of(
        recording.roi_names,
        source=where,
        extra=spec.extra_rois == "drop",
        absent=spec.missing_rois == "mark",
    )
    signal = np.asarray(recording.signal, np.float64)[:, columns]
    signal[:, columns < 0] = 0
    reasons = _reasons(signal, kept, columns, recording, spec, where)
    lost = reasons != ""
    if lost.any() and spec.missing_rois == "refuse":
        who = [f"{atlas.labels[i]} ({reasons[i]})" for i in np.flatnonzero(lost)]
        shown = ", ".join(who[:5]) + (", ..." if len(who) > 5 else "")
        rule = f"{len(who)} ROIs have no data: {shown}"
        fix = "Leave the recording out, or mark them (missing_rois, --missing-rois mark)"
        raise InputError(rule, file=where, field="signal", fix=fix)
    if lost.all():
        raise InputError("no ROI has data", file=where, field="signal")
    signal[:, lost] = 0
    return signal, [atlas.labels[i] for i in np.flatnonzero(lost)]


def _reasons(
    signal: NDArray[np.float64],
    used: NDArray[np.bool_],
    columns: NDArray[np.intp],
    recording: Recording,
    spec: StoreSpec,
    where: str,
) -> NDArray[np.str_]:
    """Return why every ROI has no data, "" for those that have; clean the signal in place."""
    finite = np.isfinite(signal[used])
    empty = np.logical_not(finite.any(axis=0))
    partly = np.logical_not(finite.all(axis=0) | empty)
    if partly.any():
        rule = f"holds values that are not finite in {_names(spec.parcellation, partly)}"
        fix = "Remove or interpolate those time points, or leave the recording out"
        raise InputError(rule, file=where, field="signal", fix=fix)
    signal[~np.isfinite(signal)] = 0  # empty columns, and censored volumes, which are not used
    kept = signal[used]
    reasons = np.where(flat_rois(kept), "zero variance", "").astype("U40")
    reasons[empty] = "not a number"
    reasons[_listed(recording, columns, where)] = "listed as missing"
    if recording.coverage is not None:
        low = np.asarray(recording.coverage)[columns] < spec.min_coverage
        reasons[low] = f"covered by less than {spec.min_coverage:.0%}"
    reasons[columns < 0] = "no column"
    return reasons


def _listed(recording: Recording, columns: NDArray[np.intp], where: str) -> NDArray[np.bool_]:
    unknown = [name for name in recording.missing_rois if name not in recording.roi_names]
    if unknown:
        shown = ", ".join(unknown[:5])
        rule = f"lists ROIs that it does not have: {shown}"
        raise InputError(rule, file=where, field="missing_rois")
    places = [recording.roi_names.index(name) for name in recording.missing_rois]
    return np.isin(columns, places)


def _names(atlas: Parcellation, mask: NDArray[np.bool_]) -> str:
    names = [atlas.labels[i] for i in np.flatnonzero(mask)]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

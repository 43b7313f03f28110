"""Images of BOLD signals, averaged within the ROIs of an atlas: NIfTI, CIFTI and GIFTI.

1. The atlas's image assigns voxels or vertices to ROIs. Volumes are brought to the
   grid of the BOLD image (nearest neighbour, through the affines); a surface has the same vertices.
2. The values of a volume are told by the ROIs' index, and the ROIs must be where the table has
   them: an image in another order is refused. GIFTI and CIFTI labels are told by name.
3. A ROI's signal is the mean over its voxels that are in the mask, finite and vary in time; how
   many of its voxels that are is its coverage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.cifti2.cifti2_axes import BrainModelAxis, LabelAxis, ParcelsAxis, SeriesAxis
from numpy.typing import NDArray

from semantoks.atlas.parcellation import Parcellation
from semantoks.atlas.volume import (
    AtlasVolume,
    image_affine,
    image_data,
    load_image,
    voxels_over_time,
)
from semantoks.data.sources.bids import UNSURE, Stated
from semantoks.data.sources.items import Reading
from semantoks.errors import InputError, readable

#: Endings of the names of images.
ENDINGS = (".nii", ".nii.gz", ".func.gii", ".gii")
VOLUMES = (".nii", ".nii.gz")
FASTEST = 0.02  # seconds; faster than any volume is taken
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_NO_ROI = ("???", "Unknown", "unknown", "Medial_Wall", "Background+FreeSurfer_Defined_Medial_Wall")


@dataclass(frozen=True, eq=False)
class ParcellatedImage:
    """Means of the ROIs of one image.

    Parameters
    ----------
    signal : ndarray of shape (n_times, n_rois)
        NaN for a ROI without a voxel.
    names : tuple of str, length n_rois
    coverage : ndarray of shape (n_rois,)
        Fraction of every ROI's voxels or vertices that have data.
    tr : float, str or None
        Seconds, if the image is of a kind that states it reliably (CIFTI); another unit in words.
    """

    signal: NDArray[np.float64]
    names: tuple[str, ...]
    coverage: NDArray[np.float64]
    tr: float | str | None


def is_image(file: Path) -> bool:
    """Return whether a file is an image of BOLD signals; a parcellated series is none."""
    return file.name.endswith(ENDINGS) and not file.name.endswith(".ptseries.nii")


def read_image(file: Path, reading: Reading, mask: Path | None = None) -> ParcellatedImage:
    """Average an image within the ROIs of `reading.atlas`.

    Parameters
    ----------
    file : path
        A 4-D NIfTI volume, a CIFTI dense series (.dtseries.nii), or the left one of two GIFTI
        series (``hemi-L``, ``lh``).
    reading : Reading
        The atlas and its image.
    mask : path, optional
        Brain mask on the grid of the volume.

    Raises
    ------
    InputError
        The image is damaged, not 4-D, has an unusable affine, or does not fit atlas or mask.
    """
    if not reading.atlas_images:
        rule = "is an image, and the image of the atlas is not given"
        fix = "Give it (atlas_images, --atlas-image)"
        raise InputError(rule, file=file, field="atlas", value=reading.atlas.name, fix=fix)
    if file.name.endswith(".dtseries.nii"):
        return _dense(file, reading.atlas, reading.atlas_images)
    if file.name.endswith(".gii"):
        return _surface(file, reading.atlas, reading.atlas_images)
    return _volume(file, reading.atlas, reading.atlas_images, mask)


# -- volumes ---------------------------------------------------------------------------------------


def _volume(
    file: Path, atlas: Parcellation, images: tuple[Path, ...], mask: Path | None
) -> ParcellatedImage:
    image = load_image(file)
    if len(image.shape) != 4 or image.shape[3] < 2 or min(image.shape) < 1:
        rule, fix = "must be 4-D with several volumes", "Save it with the axes x, y, z, time"
        raise InputError(rule, file=file, field="shape", value=image.shape, fix=fix)
    if image.get_data_dtype().kind not in "iuf":
        value = image.get_data_dtype()
        raise InputError("must hold real numbers", file=file, field="data type", value=value)
    affine = image_affine(image, file)
    parcels = AtlasVolume.load(_only(images, file), atlas, complete=False)
    places = parcels.on_grid(affine, image.shape[:3])
    place = places.ravel(order="F")
    inside = place >= 0
    if mask is not None:
        inside &= _mask(mask, affine, image.shape[:3]).ravel(order="F")
    if not inside.any():
        where = f" and the mask {mask.name}" if mask else ""
        rule = f"has no voxel in the atlas {images[0].name}{where}"
        fix = "Check that image and atlas are in the same space"
        raise InputError(rule, file=file, field="space", fix=fix)
    voxels = np.flatnonzero(inside)
    data, (slope, inter) = voxels_over_time(image, file, voxels)
    total = parcels.sizes / abs(np.linalg.det(affine[:3, :3]))
    means = _means(data, place[voxels], parcels.names, total, None)
    return replace(means, signal=slope * means.signal + inter)


def _means(
    data: NDArray[Any],
    place: NDArray[np.intp],
    names: tuple[str, ...],
    total: NDArray[np.float64],
    tr: float | str | None,
) -> ParcellatedImage:
    """Average (n_times, n_voxels) within ROIs over the voxels that are finite and vary."""
    good = np.zeros(len(place), bool)
    for row in data:  # one volume after the other, so that nothing of the image's size is made
        good |= row != data[0]
    for row in data:
        good &= np.isfinite(row)
    place, n_rois = place[good], len(names)
    counts = np.bincount(place, minlength=n_rois)
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = [np.bincount(place, weights=row[good], minlength=n_rois) for row in data]
        signal = np.where(counts > 0, np.stack(sums) / counts, np.nan)
        coverage = np.where(total > 0, np.minimum(counts / total, 1.0), 0.0)
    return ParcellatedImage(signal, names, coverage, tr)


def _mask(file: Path, affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    image = load_image(file)
    if image.shape[:3] != shape or not np.allclose(image_affine(image, file), affine, atol=1e-3):
        rule = f"the mask is not on the grid of its image, {shape}"
        raise InputError(rule, file=file, field="grid", value=image.shape)
    inside = image_data(image, file).reshape(shape) > 0
    if not inside.any():
        raise InputError("the mask is empty", file=file)
    return np.asarray(inside)


def _only(images: tuple[Path, ...], file: Path) -> Path:
    if len(images) != 1:
        rule = f"needs one image of the atlas, not {len(images)}"
        raise InputError(rule, file=file, field="atlas_images")
    return images[0]


def image_tr(file: Path, image: ParcellatedImage) -> Stated:
    """Return what an image states of the TR; the header of a NIfTI volume is not believed alone."""
    if image.tr is not None:
        return Stated("header", image.tr, file.name)
    return Stated(UNSURE, _header_tr(file) if file.name.endswith(VOLUMES) else None, file.name)


def _header_tr(file: Path) -> float | None:
    """Return what the header of a NIfTI image states of the TR, seconds; None for nothing."""
    header = load_image(file).header
    unit = _SECONDS.get(header.get_xyzt_units()[1])
    zooms = header.get_zooms()
    if unit is None or len(zooms) < 4 or not zooms[3] > 0:
        return None
    seconds = float(zooms[3]) * unit
    return seconds if seconds >= FASTEST else float(zooms[3])  # seconds under the unit of others


# -- CIFTI -----------------------------------------------------------------------------------------


def _cifti(file: Path, kinds: tuple[type, type]) -> tuple[Any, Any, NDArray[Any]]:
    image = load_image(file)
    if not isinstance(image, nib.Cifti2Image):
        raise InputError("is no CIFTI-2 file", file=file, value=type(image).__name__)
    with readable(file, known=(AttributeError, TypeError, LookupError)):
        axes = [image.header.get_axis(i) for i in (0, 1)]
    if not (isinstance(axes[0], kinds[0]) and isinstance(axes[1], kinds[1])):
        found = " x ".join(type(axis).__name__ for axis in axes)
        wanted = " x ".join(kind.__name__ for kind in kinds)
        raise InputError(
            f"is not the kind of CIFTI file expected ({wanted})", file=file, value=found
        )
    if not all(image.shape):
        raise InputError("holds no data", file=file, field="shape", value=image.shape)
    return axes[0], axes[1], image_data(image, file)


def _series_tr(axis: Any) -> float | str:
    return float(axis.step) if axis.unit == "SECOND" else f"{axis.step:g} {axis.unit.lower()}"


def read_ptseries(file: Path) -> tuple[NDArray[np.float64], tuple[str, ...], float | str]:
    """Return signal (n_times, n_rois), names and TR (seconds) of a CIFTI parcellated series.

    A series in another unit than seconds is stated in words.
    """
    series, parcels, data = _cifti(file, (SeriesAxis, ParcelsAxis))
    return data.astype(np.float64), tuple(map(str, parcels.name)), _series_tr(series)


def _dense(file: Path, atlas: Parcellation, images: tuple[Path, ...]) -> ParcellatedImage:
    series, models, data = _cifti(file, (SeriesAxis, BrainModelAxis))
    labels, where, values = _cifti(_only(images, file), (LabelAxis, BrainModelAxis))
    table = {key: name for key, (name, _) in labels.label[0].items()}
    names, codes = _named(values[0].astype(np.int64), table, atlas, images[0])
    rows = {key: i for i, key in enumerate(_grayordinates(models))}
    keys = _grayordinates(where)
    in_atlas = np.flatnonzero(codes >= 0)
    found = np.array([rows.get(keys[i], -1) for i in in_atlas], np.intp)
    if not (found >= 0).any():
        rule = f"shares no grayordinate with the atlas {images[0].name}"
        raise InputError(rule, file=file, field="space", fix="Use a dlabel of the same density")
    total = np.bincount(codes[in_atlas], minlength=len(names)).astype(np.float64)
    here = found >= 0
    tr = _series_tr(series)
    return _means(data[:, found[here]], codes[in_atlas][here], names, total, tr)


def _grayordinates(axis: Any) -> list[tuple[Any, ...]]:
    """Return what tells every grayordinate: structure and vertex, or place in millimetres."""
    keys: list[tuple[Any, ...]] = []
    for name, _, part in axis.iter_structures():
        if name in part.nvertices:
            size = part.nvertices[name]
            keys += [(name, size, int(v)) for v in part.vertex]
        else:
            world = nib.affines.apply_affine(part.affine, part.voxel)
            keys += [(name, *place) for place in np.rint(world * 10).astype(int).tolist()]
    return keys


def _named(
    values: NDArray[np.int64], table: dict[int, str], atlas: Parcellation, file: Path
) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Return the names of the labels present, and which of them every vertex has; -1 for none."""
    present = [int(v) for v in np.unique(values) if v != 0 and table.get(int(v)) not in _NO_ROI]
    unnamed = [v for v in present if v not in table]
    if unnamed:
        raise InputError(f"has values without a name: {unnamed[:5]}", file=file, field="labels")
    names = tuple(table[v] for v in present)
    atlas.columns_of(names, source=file, extra=True)  # the atlas must be this one
    lookup = {v: i for i, v in enumerate(present)}
    return names, np.array([lookup.get(int(v), -1) for v in values], np.intp)


# -- GIFTI -----------------------------------------------------------------------------------------

_LEFT_RIGHT = (("hemi-L", "hemi-R"), ("_lh_", "_rh_"), ("lh.", "rh."), (".L.", ".R."))


def right_of(file: Path) -> Path:
    """Return the right hemisphere's file of a left one, told by its name.

    Raises
    ------
    InputError
        The name does not state left, or the right one is missing.
    """
    for left, right in _LEFT_RIGHT:
        if left in file.name:
            other = file.with_name(file.name.replace(left, right))
            if other.is_file():
                return other
            raise InputError(f"the right hemisphere, {other.name}, is missing", file=file)
    rule = "a GIFTI series is given by its left hemisphere (hemi-L, lh.), the right one beside it"
    raise InputError(rule, file=file, field="file", value=file.name)


def _surface(file: Path, atlas: Parcellation, images: tuple[Path, ...]) -> ParcellatedImage:
    if len(images) != 2:
        rule = f"needs two images of the atlas, left and right, not {len(images)}"
        raise InputError(rule, file=file, field="atlas_images")
    names: list[str] = []
    codes, parts = [], []
    for side, half, labels in zip((0, 1), (file, right_of(file)), images, strict=True):
        image = load_image(labels)
        if _side(labels, image) == 1 - side:
            rule, fix = "is the image of the other hemisphere", "Give the left one first"
            raise InputError(rule, file=labels, field="atlas_images", fix=fix)
        table = {label.key: label.label for label in image.labeltable.labels}
        own, code = _label_codes(image, table, labels)
        data = _gifti_series(half)
        if len(data) != len(code):
            rule = f"has {len(data)} vertices where {labels.name} has {len(code)}"
            raise InputError(rule, file=half, field="vertices")
        codes.append(np.where(code >= 0, code + len(names), -1))
        parts.append(data)
        names += own
    if parts[0].shape[1] != parts[1].shape[1]:
        rule = "the hemispheres have different numbers of time points"
        raise InputError(rule, file=file, value=[p.shape[1] for p in parts])
    atlas.columns_of(names, source=images[0], extra=True)
    place, data = np.concatenate(codes), np.concatenate(parts)
    total = np.bincount(place[place >= 0], minlength=len(names)).astype(np.float64)
    return _means(data[place >= 0].T, place[place >= 0], tuple(names), total, None)


def _side(file: Path, image: Any) -> int | None:
    """Return 0 for left and 1 for right, as a GIFTI image or its name states; None if neither."""
    arrays = [array.meta for array in image.darrays]
    stated = [str(meta.get("AnatomicalStructurePrimary")) for meta in (image.meta, *arrays)]
    marks = [(k, left_right[k]) for left_right in _LEFT_RIGHT for k in (0, 1)]
    sides = [k for k, name in enumerate(("CortexLeft", "CortexRight")) if name in stated]
    return next(iter([*sides, *(k for k, mark in marks if mark in file.name)]), None)


def _label_codes(
    image: Any, table: dict[int, str], file: Path
) -> tuple[list[str], NDArray[np.intp]]:
    values = np.asarray(image.darrays[0].data).astype(np.int64).ravel()
    present = [int(v) for v in np.unique(values) if table.get(int(v), "???") not in _NO_ROI]
    present = [v for v in present if v != 0]
    if not present:
        raise InputError("has no named labels", file=file)
    lookup = {v: i for i, v in enumerate(present)}
    return [table[v] for v in present], np.array([lookup.get(int(v), -1) for v in values], np.intp)


def _gifti_series(file: Path) -> NDArray[np.float64]:
    """Return (n_vertices, n_times) of a GIFTI series: an array per time point, or one matrix."""
    image = load_image(file)
    arrays = [np.asarray(array.data, np.float64) for array in getattr(image, "darrays", [])]
    if not arrays or len({a.shape for a in arrays}) != 1:
        raise InputError("is no GIFTI series: its arrays are not of one size", file=file)
    if len(arrays) == 1 and arrays[0].ndim == 2:
        return arrays[0]
    if arrays[0].ndim != 1 or len(arrays) < 2:
        raise InputError("must hold several time points", file=file, value=len(arrays))
    return np.stack(arrays, axis=1)

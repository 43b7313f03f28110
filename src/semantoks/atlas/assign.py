"""Functional networks of the ROIs of any atlas, by where they are in MNI152 space.

The reference is Yeo-7 (liberal mask), the subcortex of Tian (2020), and boxes for cerebellum and
brain stem (`scripts/make_atlas_tables.py`). The brain stem counts as Subcortical: the method's nine
networks know none. An assignment by less than half of a ROI is weak, and named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from semantoks.atlas.builtin import TABLES
from semantoks.atlas.networks import NETWORK_ORDER
from semantoks.atlas.volume import whole_numbers
from semantoks.errors import InputError

SPACE = "MNI152NLin6Asym"
_REFERENCE = TABLES / f"networks_space-{SPACE}_res-2mm.nii.gz"
_CODES = ("", *NETWORK_ORDER, "Subcortical")  # 10 is the brain stem

#: Below this share of a ROI its network is a weak guess.
WEAK = 0.5
RADIUS = 5.0  # mm, of the spheres around coordinates


@cache
def _reference() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    image: Any = nib.load(_REFERENCE)
    return np.asarray(image.dataobj).astype(np.uint8), np.linalg.inv(image.affine)


def networks_at(places: ArrayLike) -> NDArray[np.uint8]:
    """Return the code of the network at every place: 1 to 9, 10 the brain stem, 0 none.

    Parameters
    ----------
    places : array of shape (n, 3)
        MNI152 coordinates, millimetres.
    """
    codes, to_voxel = _reference()
    voxels = np.rint(nib.affines.apply_affine(to_voxel, np.asarray(places))).astype(int)
    inside = ((voxels >= 0) & (voxels < codes.shape)).all(axis=-1)
    found = np.zeros(len(voxels), np.uint8)
    found[inside] = codes[tuple(voxels[inside].T)]
    return found


def assign_by_overlap(image: str | Path, labels: Mapping[int, str] | None = None) -> pd.DataFrame:
    """Assign a network to every ROI of an atlas's volume in MNI152 space.

    Parameters
    ----------
    image : path
        3-D volume, one whole number per ROI, 0 for none.
    labels : mapping of int to str, optional
        Name of every value; ``ROI_<value>`` by default.

    Returns
    -------
    DataFrame
        One row per ROI, ready for `Parcellation.from_frame`: label, network, x, y, z (centroid,
        mm), space, index (its value), and overlap_fraction, second_network, second_fraction,
        covered_fraction, method (overlap; nearest where no voxel is in a network).

    Raises
    ------
    InputError
        The image is not 3-D with whole numbers, or values and labels do not match.
    """
    file = Path(image)
    whole, affine = whole_numbers(file)
    present = [int(v) for v in np.unique(whole) if v > 0]
    names = dict(labels) if labels is not None else {v: f"ROI_{v}" for v in present}
    if set(names) != set(present):
        lost, unknown = sorted(set(names) - set(present)), sorted(set(present) - set(names))
        rule = f"values and labels differ: no voxel has {lost[:5]}, no label is for {unknown[:5]}"
        raise InputError(rule, file=file, field="values")
    rows = []
    for value in present:
        voxels = np.argwhere(whole == value)
        places = nib.affines.apply_affine(affine, voxels)
        row = {"label": names[value], **_row(places, networks_at(places), "overlap")}
        rows.append(row | {"index": value})
    return _table(rows)


def assign_by_coordinates(
    coordinates: ArrayLike, labels: Sequence[str], *, radius: float = RADIUS
) -> pd.DataFrame:
    """Assign a network to spheres around coordinates in MNI152 space.

    Parameters
    ----------
    coordinates : array of shape (n_rois, 3)
        Millimetres.
    labels : sequence of str, length n_rois
    radius : float
        Millimetres.

    Returns
    -------
    DataFrame
        See `assign_by_overlap`; without index.

    Raises
    ------
    InputError
        The shapes differ or a coordinate is not finite.

    See Also
    --------
    Parcellation.load : Reads the table from a file.

    References
    ----------
    Yeo et al. (2011), Journal of Neurophysiology 106:1125-1165.

    Examples
    --------
    >>> from semantoks import assign_by_coordinates
    >>> table = assign_by_coordinates([(-8, -92, 4), (2, -52, 28)], ["calcarine", "precuneus"])
    >>> table["network"].tolist()
    ['Vis', 'Default']
    """
    centres = np.asarray(coordinates, np.float64)
    if centres.shape != (len(labels), 3) or not np.isfinite(centres).all():
        rule = f"need three finite numbers for each of the {len(labels)} ROIs"
        raise InputError(rule, field="coordinates", value=centres.shape)
    steps = np.arange(-radius, radius + 1e-9, 1.0)
    ball = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    ball = ball[np.linalg.norm(ball, axis=1) <= radius]
    rows = []
    for label, centre in zip(labels, centres, strict=True):
        places = centre + ball
        rows.append({"label": label, **_row(places, networks_at(places), "coordinates")})
    return _table(rows)


def weak(table: pd.DataFrame) -> list[str]:
    """Return the weak assignments of a table, in words."""
    rows = table[(table["overlap_fraction"] < WEAK) | (table["method"] == "nearest")]
    found = []
    for row in rows.to_dict("records"):
        text = f"{row['label']}: {row['network']} {row['overlap_fraction']:.0%}"
        second = f", {row['second_network']} {row['second_fraction']:.0%}"
        found.append(text + second if row["second_network"] else text)
    return found


def _row(places: NDArray[np.float64], codes: NDArray[np.uint8], method: str) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for code, count in enumerate(np.bincount(codes, minlength=len(_CODES))):
        if code:
            counts[_CODES[code]] = counts.get(_CODES[code], 0) + int(count)
    (first, n_first), (second, n_second) = sorted(counts.items(), key=lambda pair: -pair[1])[:2]
    centre = places.mean(axis=0)
    if n_first == 0:
        first, method = _nearest(centre), "nearest"
    return {
        "network": first,
        **dict(zip("xyz", centre.round(1).tolist(), strict=True)),
        "overlap_fraction": n_first / len(codes),
        "second_network": second if n_second else "",
        "second_fraction": n_second / len(codes),
        "covered_fraction": float((codes > 0).mean()),
        "method": method,
    }


def _nearest(place: NDArray[np.float64]) -> str:
    """Return the network of the nearest voxel that has one."""
    codes, to_voxel = _reference()
    voxels = np.argwhere(codes > 0)
    centres = nib.affines.apply_affine(np.linalg.inv(to_voxel), voxels)
    best = int(np.argmin(np.linalg.norm(centres - place, axis=1)))
    return _CODES[codes[tuple(voxels[best])]]


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    fractions = ["overlap_fraction", "second_fraction", "covered_fraction"]
    table = pd.DataFrame(rows).assign(space=SPACE)
    table[fractions] = table[fractions].round(3)
    first = ["label", "network", "x", "y", "z", "space"]
    return table[first + [name for name in table.columns if name not in first]]

"""`AtlasVolume`: which voxel belongs to which ROI; images read with errors that say what is wrong.

The index of a parcellation states the value of every ROI in the volume, and the ROIs must be
where the parcellation has them: a volume in another order is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from numpy.typing import NDArray

from semantoks.atlas.parcellation import Parcellation
from semantoks.errors import InputError, readable

#: The ROIs of a volume may lie this far from where their table has them, in the median, mm.
MAX_SHIFT = 8.0
#: Of the ROIs, this part may be missing in a volume or new in it; with more it is another atlas.
MAX_OTHER = 0.1


def load_image(file: Path) -> Any:
    """Return an image of nibabel, its data not read yet.

    Raises
    ------
    InputError
        There is no such file, or it is no image.
    """
    if not file.is_file():
        raise InputError("there is no such file", file=file)
    with readable(file), file.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    fix = None
    if packed != file.name.endswith(".gz"):
        fix = f"Rename it: it is {'' if packed else 'not '}packed, and only such names end in .gz"
    # nibabel's parsers of GIFTI and CIFTI look words of the file up, and walk trees that it states.
    with readable(file, known=(AttributeError, TypeError, LookupError), fix=fix):
        return nib.load(file)


def image_data(image: Any, file: Path) -> NDArray[Any]:
    """Return the data of an image: as stored, or as float32 where they are stored scaled.

    Raises
    ------
    InputError
        The file is truncated or damaged.
    """
    data = image.dataobj
    with readable(file):
        if (getattr(data, "slope", 1), getattr(data, "inter", 0)) != (1, 0):
            return np.asarray(data, dtype=np.float32)
        return np.asarray(data)


def voxels_over_time(
    image: Any, file: Path, voxels: NDArray[np.intp]
) -> tuple[NDArray[Any], tuple[float, float]]:
    """Return some voxels of a 4-D image, read volume by volume: never the whole image is held.

    Parameters
    ----------
    image : nibabel image
    file : Path
    voxels : int array of shape (n_voxels,)
        Places in a volume in Fortran order, as the file holds it.

    Returns
    -------
    data : ndarray of shape (n_times, n_voxels)
        As stored.
    scaling : (float, float)
        Slope and intercept that make the values of them.

    Raises
    ------
    InputError
        The file is truncated or damaged.
    """
    proxy = image.dataobj
    n_times, size = image.shape[3], int(np.prod(image.shape[:3])) * proxy.dtype.itemsize
    data = np.empty((n_times, len(voxels)), proxy.dtype.newbyteorder("="))
    with readable(file), ImageOpener(str(file)) as stream:
        stream.seek(proxy.offset)
        for row in data:
            content = stream.read(size)
            if len(content) < size:
                raise EOFError("it ends before its last volume")
            row[:] = np.frombuffer(content, proxy.dtype)[voxels]
        stream.read(1)  # at its end, gzip compares the checksum
    return data, (float(proxy.slope), float(proxy.inter))


def image_affine(image: Any, file: Path) -> NDArray[np.float64]:
    """Return the affine of an image, voxels to millimetres, shape (4, 4).

    Raises
    ------
    InputError
        It is not finite, or its voxels have no plausible volume.
    """
    affine = np.asarray(image.affine, np.float64)
    volume = abs(np.linalg.det(affine[:3, :3])) if np.isfinite(affine).all() else 0.0
    if not 1e-3 < volume < 1e6:  # cubic millimetres
        rule = "has an affine that places no voxels (voxel volume in mm3)"
        raise InputError(rule, file=file, field="affine", value=f"{volume:g}")
    return affine


def whole_numbers(file: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the values of a 3-D volume of whole numbers, and its affine.

    Raises
    ------
    InputError
        It cannot be read, is not 3-D, or holds other values.
    """
    image = load_image(file)
    shape = image.shape[:3] if image.shape[3:] == (1,) else image.shape
    if len(shape) != 3:
        rule = "the image of an atlas must be 3-D, one value per ROI"
        raise InputError(rule, file=file, field="shape", value=image.shape)
    values = np.nan_to_num(image_data(image, file).reshape(shape), nan=0.0)  # NaN is background
    whole = np.rint(values)
    if not np.allclose(values, whole, atol=1e-3):
        raise InputError("the values of an atlas must be whole numbers", file=file)
    return whole.astype(np.int64), image_affine(image, file)


@dataclass(frozen=True, eq=False)
class AtlasVolume:
    """The volume of an atlas.

    Parameters
    ----------
    places : int array of shape (x, y, z)
        ROI of every voxel, -1 for none.
    affine : ndarray of shape (4, 4)
        Voxels to millimetres.
    names : tuple of str
        ROIs: those of the parcellation, then the values that it does not have (``value 223``).
    """

    places: NDArray[np.intp]
    affine: NDArray[np.float64]
    names: tuple[str, ...]

    @classmethod
    def load(cls, file: str | Path, atlas: Parcellation, *, complete: bool = True) -> AtlasVolume:
        """Read and check the volume of a parcellation; the last ones are kept in memory.

        Parameters
        ----------
        file : path
        atlas : Parcellation
        complete : bool
            Refuse a volume that has not all ROIs, or further ones; if not, a few may be missing (as
            resampling loses small ones) or new.

        Raises
        ------
        InputError
            The file is no such volume, its values are not those of the parcellation, or its ROIs
            are elsewhere.
        """
        path = Path(file)
        if not path.is_file():
            raise InputError("there is no such image of an atlas", file=path)
        # Equal parcellations may still differ in what matters here.
        version = (atlas.index, atlas.aliases, atlas.space, atlas.coordinates.tobytes())
        return _read(path, atlas, complete, path.stat().st_mtime_ns, version)

    @cached_property
    def sizes(self) -> NDArray[np.float64]:
        """Volume of every ROI, cubic millimetres, (n_rois,)."""
        counts = np.bincount(self.places[self.places >= 0], minlength=len(self.names))
        return np.asarray(counts * abs(np.linalg.det(self.affine[:3, :3])))

    def on_grid(self, affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.intp]:
        """Return the ROI of every voxel of another grid, by nearest neighbour, -1 for none.

        Parameters
        ----------
        affine : ndarray of shape (4, 4)
        shape : (int, int, int)
        """
        if self.places.shape == shape and np.allclose(self.affine, affine, atol=1e-3):
            return self.places
        return _moved(self, affine.tobytes(), shape)


@lru_cache(maxsize=4)
def _read(
    file: Path, atlas: Parcellation, complete: bool, changed: int, version: tuple[object, ...]
) -> AtlasVolume:
    del changed, version  # they tell the entries of the cache apart
    whole, affine = whole_numbers(file)
    values = np.unique(whole[whole > 0])
    own = _index(values, atlas, file, complete)
    further = np.setdiff1d(values, own)
    index = np.concatenate([own, further])
    lookup = np.full(int(max(whole.max(), index.max())) + 1, -1, np.intp)
    lookup[index] = np.arange(len(index))
    places = np.where(whole > 0, lookup[np.maximum(whole, 0)], -1)
    _check_places(np.where(places < len(atlas), places, -1), affine, atlas, file)
    return AtlasVolume(places, affine, (*atlas.labels, *(f"value {v}" for v in further)))


@lru_cache(maxsize=8)
def _moved(volume: AtlasVolume, affine: bytes, shape: tuple[int, ...]) -> NDArray[np.intp]:
    from nilearn.image import resample_img
    from nilearn.image.resampling import BoundingBoxError

    target = np.frombuffer(affine).reshape(4, 4)
    labels = (volume.places + 1).astype(np.int32)
    source = nib.Nifti1Image(labels, volume.affine)
    try:
        moved = resample_img(
            source,
            target_affine=target,
            target_shape=shape,
            interpolation="nearest",
            force_resample=True,
            copy_header=True,
        )
    except BoundingBoxError:
        return np.full(shape, -1, np.intp)
    return np.asarray(moved.dataobj).astype(np.intp) - 1


def _index(
    values: NDArray[np.int64], atlas: Parcellation, file: Path, complete: bool
) -> NDArray[np.int64]:
    """Return the value of every ROI: its index, or the number in an alias such as ``#2001``."""
    schemes = [atlas.index] if atlas.index else []
    if all(any(name.startswith("#") for name in names) for names in atlas.aliases):
        codes = [next(n for n in names if n.startswith("#")) for names in atlas.aliases]
        if all(code[1:].isdecimal() for code in codes):
            schemes.append(tuple(int(code[1:]) for code in codes))
    if not schemes:
        rule = f"the parcellation {atlas.name} does not state the value of each ROI"
        fix = "Add a column `index` with the values of the image to its table"
        raise InputError(rule, file=file, field="index", fix=fix)
    for scheme in schemes:
        if set(values.tolist()) == set(scheme):
            return np.array(scheme)
    nearest = max(schemes, key=lambda scheme: len({*values.tolist()} & {*scheme}))
    other = len({*values.tolist()} ^ {*nearest})
    if not complete and other <= MAX_OTHER * len(atlas):
        return np.array(nearest)
    unknown = sorted(set(values.tolist()) - set(schemes[0]))
    lost = sorted(set(schemes[0]) - set(values.tolist()))
    rule = (
        f"has not the {len(atlas)} values of {atlas.name}: unknown {unknown[:5]}, "
        f"missing {lost[:5]} ({len(values)} values)"
    )
    fix = "Give the image of this atlas, or a table of your own with a column `index`"
    raise InputError(rule, file=file, field="values", fix=fix)


def _check_places(
    places: NDArray[np.intp], affine: NDArray[np.float64], atlas: Parcellation, file: Path
) -> None:
    """Refuse an image whose ROIs are not where the parcellation has them."""
    known = np.isfinite(atlas.coordinates).all(axis=1)
    if not known.any() or not atlas.space.startswith("MNI"):
        return
    voxels = np.argwhere(places >= 0)
    roi = places[tuple(voxels.T)]
    counts = np.bincount(roi, minlength=len(atlas))[:, None]
    known &= counts[:, 0] > 0  # not lost in resampling
    world = nib.affines.apply_affine(affine, voxels)
    sums = np.stack([np.bincount(roi, axis, minlength=len(atlas)) for axis in world.T], axis=1)
    centres = sums / np.maximum(counts, 1)
    away = np.linalg.norm(centres - atlas.coordinates, axis=1)[known]
    if len(away) and np.median(away) > MAX_SHIFT:
        rule = (
            f"its ROIs are not where {atlas.name} has them: {np.median(away):.0f} mm away in the "
            "median; another order of the values, another atlas, or another space"
        )
        schaefer = atlas.name.startswith("schaefer")
        fix = "Schaefer's volumes come in two orders: `-17n` names that of 17 networks"
        raise InputError(
            rule, file=file, field="atlas", value=atlas.name, fix=fix if schaefer else None
        )

"""Volumes averaged within ROIs: the plain mean, in the memory of an image, damage noticed."""

from __future__ import annotations

import gzip
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

import trees
from semantoks.data.sources.images import read_image
from semantoks.data.sources.items import Reading
from semantoks.errors import InputError

N_TIMES = 33


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    study = trees.make_study(n_subjects=1, n_times=N_TIMES)
    image = trees.atlas_volume(tmp_path_factory.mktemp("atlas") / "atlas.nii.gz", study.atlas)
    return Reading(atlas=study.atlas, atlas_images=(image,))


def bold(dtype, seed=0):
    """Noise with voxels that are constant, and of floats not finite at one time point."""
    data = np.random.default_rng(seed).normal(900, 60, (*trees.SHAPE, N_TIMES)).astype(dtype)
    data[1, :4] = 7
    if np.dtype(dtype).kind == "f":
        data[2, 1:3, 2:4, 5] = np.nan
        data[3, 4:6, 3, 0] = np.inf
    return data


def plain_means(values, reading):
    """Mean over the voxels that are finite and vary, and their share, ROI by ROI."""
    labels = np.asarray(nib.load(reading.atlas_images[0]).dataobj)
    means, shares = [], []
    for value in reading.atlas.index:
        own = values[labels == value].astype(np.float64)
        good = np.isfinite(own).all(axis=1)
        good[good] = np.ptp(own[good], axis=1) > 0
        means.append(own[good].mean(axis=0) if good.any() else np.full(N_TIMES, np.nan))
        shares.append(good.mean())
    return np.stack(means, axis=1), np.array(shares)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, ">i2", np.float32, np.float64])
def test_a_volume_is_averaged_as_it_is(tmp_path, reading, dtype, ending):
    data = bold(dtype)
    file = tmp_path / f"bold{ending}"
    header = nib.Nifti1Header(endianness=">" if dtype == ">i2" else "<")
    header.set_data_dtype(dtype)
    nib.save(nib.Nifti1Image(data, trees.AFFINE, header), file)
    found = read_image(file, reading)
    means, shares = plain_means(data, reading)
    np.testing.assert_allclose(found.signal, means, rtol=1e-12)
    np.testing.assert_array_equal(found.coverage, shares)
    assert (shares < 1).any()


def test_a_scale_is_applied(tmp_path, reading):
    image = nib.Nifti1Image(bold(np.float64) + 0.25, trees.AFFINE)
    image = nib.Nifti1Image(np.nan_to_num(image.get_fdata(), posinf=0), trees.AFFINE)
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "bold.nii.gz")
    saved = nib.load(tmp_path / "bold.nii.gz")
    assert saved.dataobj.slope != 1
    means, _ = plain_means(np.asarray(saved.dataobj), reading)
    np.testing.assert_allclose(read_image(tmp_path / "bold.nii.gz", reading).signal, means)


def test_reading_takes_no_more_memory_than_the_image_and_a_volume(tmp_path, reading):
    data = np.tile(bold(np.int16), (1, 1, 1, 30))
    nib.save(nib.Nifti1Image(data, trees.AFFINE), tmp_path / "bold.nii.gz")
    read_image(tmp_path / "bold.nii.gz", reading)
    tracemalloc.start()
    read_image(tmp_path / "bold.nii.gz", reading)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < data.nbytes + 2 * data[..., 0].size * 8


def test_a_wrong_checksum_of_gzip_is_damage(tmp_path, reading):
    """The numbers can be unpacked, and they are other numbers."""
    file = tmp_path / "bold.nii.gz"
    nib.save(nib.Nifti1Image(bold(np.int16), trees.AFFINE), tmp_path / "bold.nii")
    packed = bytearray(gzip.compress((tmp_path / "bold.nii").read_bytes(), compresslevel=0))
    packed[len(packed) // 2] ^= 1
    file.write_bytes(packed)
    with pytest.raises(InputError, match=r"bold\.nii\.gz: .*(damaged|cannot be read)"):
        read_image(file, reading)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("lost", [1, 1000, trees.SHAPE[0] * 2 * 500])
def test_a_truncated_image_is_damage(tmp_path, reading, ending, lost):
    """Cut within the last volume, at the end of one, or long before: never the product's fault."""
    file = tmp_path / f"bold{ending}"
    nib.save(nib.Nifti1Image(bold(np.int16), trees.AFFINE), tmp_path / "whole.nii")
    content = (tmp_path / "whole.nii").read_bytes()[:-lost]
    file.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    with pytest.raises(InputError, match=r"is damaged.*ends before its last volume"):
        read_image(file, reading)


def test_colours_and_impossible_shapes_are_refused(tmp_path, reading):
    file = tmp_path / "bold.nii"
    colour = np.zeros((*trees.SHAPE, N_TIMES), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, trees.AFFINE), file)
    with pytest.raises(InputError, match=r"bold\.nii: data type = .*must hold real numbers"):
        read_image(file, reading)
    nib.save(nib.Nifti1Image(bold(np.int16), trees.AFFINE), file)
    content = bytearray(file.read_bytes())
    content[42:44] = np.int16(-9).tobytes()  # the first axis
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"must be 4-D with several volumes"):
        read_image(file, reading)

"""Where ROIs are: networks by place, volumes of atlases, signals moved between atlases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trees
from semantoks.atlas.assign import (
    assign_by_coordinates,
    assign_by_overlap,
    networks_at,
    weak,
)
from semantoks.atlas.networks import NETWORK_ORDER
from semantoks.atlas.parcellation import Parcellation
from semantoks.atlas.transfer import Transfer
from semantoks.atlas.volume import AtlasVolume
from semantoks.data.encode import RoiRules
from semantoks.data.reader import RecordingStore
from semantoks.data.signal import Preprocessing
from semantoks.data.sources.find import find_items
from semantoks.data.sources.items import Reading
from semantoks.errors import InputError
from semantoks.workflow.prepare import assign_atlas, prepare_store

ATLASES = Path(__file__).parents[2] / "shared" / "atlas"
ABIDE = Path(__file__).parents[2] / "shared" / "data" / "abide1"
SEVEN = "7Networks_order_space-MNI152NLin6Asym_res-2x2x2"
with_atlases = pytest.mark.skipif(not ATLASES.exists(), reason="needs the atlases' images")
with_abide = pytest.mark.skipif(not ABIDE.exists(), reason="needs ABIDE's volumes")


def test_places_have_the_networks_that_they_are_known_for():
    known = {
        (-6, -90, 0): "Vis",  # calcarine
        (-40, -22, 56): "SomMot",  # hand area
        (-6, -52, 28): "Default",  # posterior cingulate
        (-26, -68, 48): "DorsAttn",  # intraparietal sulcus
        (38, 18, 2): "SalVentAttn",  # anterior insula
        (-10, -18, 8): "Subcortical",  # thalamus
        (26, -66, -30): "Cerebellar",
        (0, -28, -34): "Subcortical",  # brain stem
    }
    codes = networks_at(list(known))
    names = ["", *NETWORK_ORDER, "Subcortical"]
    assert [names[code] for code in codes] == list(known.values())
    table = assign_by_coordinates(list(known), [f"r{i}" for i in range(len(known))])
    assert table["network"].tolist() == list(known.values())
    assert (networks_at([(0, 0, 500), (1e6, 0, 0)]) == 0).all()


@pytest.mark.parametrize("name", ["power264", "schaefer200", "glasser360", "cc200"])
def test_coordinates_agree_with_the_tables(name):
    atlas = Parcellation.load(name)
    table = assign_by_coordinates(atlas.coordinates, atlas.labels)
    strong = (table["overlap_fraction"] > 0.6).to_numpy()
    same = table["network"].to_numpy() == np.array(atlas.networks)
    assert same[strong].mean() > 0.9
    assert strong.mean() > 0.5


def test_coordinates_have_to_be_numbers():
    with pytest.raises(InputError, match="three finite numbers for each of the 2 ROIs"):
        assign_by_coordinates([[0, 0, np.nan], [1, 2, 3]], ["a", "b"])


def box_atlas(path, boxes, size=2.0):
    """Save a volume over MNI152 with boxes around centres; values 1, 2, ..."""
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = -90, -126, -72
    values = np.zeros((90, 109, 91), np.int16)
    for value, (centre, half) in enumerate(boxes, start=1):
        first = np.rint((np.array(centre) - half - affine[:3, 3]) / size).astype(int)
        last = np.rint((np.array(centre) + half - affine[:3, 3]) / size).astype(int)
        values[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = value
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def test_an_unknown_atlas_gets_networks_and_its_weak_ones_are_named(tmp_path):
    boxes = [((-6, -86, 0), 6), ((0, -52, 28), 6), ((38, 18, 2), 4), ((0, 80, 90), 4)]
    image = box_atlas(tmp_path / "mine.nii.gz", boxes)
    labels = pd.DataFrame({"index": [3, 1, 2, 4], "label": ["insula", "v1", "pcc", "outside"]})
    labels.to_csv(tmp_path / "labels.tsv", sep="\t", index=False)
    table, poor = assign_atlas(image, tmp_path / "mine.tsv", tmp_path / "labels.tsv")
    assert dict(zip(table["label"], table["network"], strict=True)) | {"outside": "?"} == {
        "v1": "Vis",
        "pcc": "Default",
        "insula": "SalVentAttn",
        "outside": "?",
    }
    assert table.set_index("label").at["outside", "method"] == "nearest"
    assert [line.split(":")[0] for line in poor] == [
        row.label for row in table.itertuples() if row.overlap_fraction < 0.5
    ]
    assert "outside" in [line.split(":")[0] for line in poor]
    atlas = Parcellation.load(tmp_path / "mine.tsv")
    assert atlas.index == (1, 2, 3, 4)
    np.testing.assert_allclose(atlas.coordinates[1], (-1, -53, 27), atol=1.1)
    np.testing.assert_allclose(AtlasVolume.load(image, atlas).sizes, [1728, 1728, 512, 512])
    with pytest.raises(InputError, match="exists already"):
        assign_atlas(image, tmp_path / "mine.tsv")
    with pytest.raises(InputError, match=r"no voxel has \[7\], no label is for \[4\]"):
        assign_by_overlap(image, {1: "a", 2: "b", 3: "c", 7: "d"})
    assert assign_by_overlap(image)["label"].tolist() == ["ROI_1", "ROI_2", "ROI_3", "ROI_4"]
    assert weak(table) == poor


@with_atlases
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cc200", "cc200/CC200.nii.gz"),
        (
            "schaefer200",
            "schaefer2018/Schaefer200_7Networks_order_space-MNI152NLin6Asym_res-2x2x2.nii.gz",
        ),
        ("tian-s3", "tian2020/Tian_Subcortex_S3_3T_2mm.nii.gz"),
        ("aal116", "aal/AAL116_1mm_affine-corrected.nii.gz"),
    ],
)
def test_overlap_agrees_with_the_tables_of_real_atlases(name, file):
    atlas = Parcellation.load(name)
    table = assign_by_overlap(ATLASES / file).set_index("index")
    found = table.loc[list(atlas.index), "network"].to_numpy()
    # Schaefer's names come from the surface, and the cerebellum here is a box.
    assert (found == np.array(atlas.networks)).mean() > 0.85
    assert AtlasVolume.load(ATLASES / file, atlas).names == atlas.labels


@with_atlases
def test_the_volume_of_the_other_order_is_refused():
    file = (
        ATLASES
        / "schaefer2018"
        / ("Schaefer400_7Networks_order_space-MNI152NLin6Asym_res-2x2x2.nii.gz")
    )
    atlas = Parcellation.load("schaefer400")
    assert AtlasVolume.load(file, atlas).names == atlas.labels
    with pytest.raises(InputError, match=r"not where schaefer400-17n has them.*come in two orders"):
        AtlasVolume.load(file, Parcellation.load("schaefer400-17n"))


@with_abide
def test_a_painted_volume_of_a_real_person_gives_back_its_series(tmp_path):
    file = ABIDE / "paintback_NYU_0050954_cc200_3mm_bold.nii.gz"
    reading = Reading(
        atlas=Parcellation.load("cc200"),
        atlas_images=(ABIDE / "CC200_abide_3mm.nii.gz",),
        tr=2.0,
        subject="0050954",
    )
    (item,) = find_items(file, reading)
    recording = item.load()
    with np.load(ABIDE / "abide1_cc200_nofilt_noglobal_f16.npz") as data:
        ids = [str(i) for i in data["ids"]]
        row = next(i for i, name in enumerate(ids) if "50954" in name)
        first, last = data["offsets"][row : row + 2]
        series = data["ts"][first:last].astype(np.float64)
    ours = recording.signal - recording.signal.mean(axis=0)
    series = series - series.mean(axis=0)
    assert ours.shape == series.shape
    there = (series.std(axis=0) > 0) & np.isfinite(ours).all(axis=0)
    assert there.mean() > 0.98
    scale = series[:, there].std()
    np.testing.assert_allclose(ours[:, there], series[:, there], atol=0.02 * scale)
    store = prepare_store(
        str(file), tmp_path / "s", reading=reading, rois=RoiRules(missing_rois="mark")
    ).store
    expected = Preprocessing().apply(series[:, there], 2.0)
    assert (
        np.corrcoef(RecordingStore(store).signal(0)[:, there].ravel(), expected.ravel())[0, 1]
        > 0.999
    )


# -- between atlases -------------------------------------------------------------------------------


def halves(tmp_path):
    """Two atlases: 4 boxes; and the same place cut into 2, of which the second is cut short."""
    fine = box_atlas(
        tmp_path / "fine.nii.gz",
        [((-45 + 20 * i, -50, 20), 10) for i in range(4)],
    )
    values = np.asarray(nib.load(fine).dataobj)
    coarse = np.where(values > 0, (values + 1) // 2, 0)
    coarse[values == 4] = 0
    nib.save(nib.Nifti1Image(coarse, nib.load(fine).affine), tmp_path / "coarse.nii.gz")
    atlases = [
        Parcellation(
            name=name,
            labels=tuple(f"{name}{i}" for i in range(n)),
            networks=("Vis",) * n,
            index=tuple(range(1, n + 1)),
        )
        for name, n in (("fine", 4), ("coarse", 2))
    ]
    return atlases, fine, tmp_path / "coarse.nii.gz"


def test_unions_of_rois_are_moved_exactly(tmp_path):
    (fine, coarse), fine_image, coarse_image = halves(tmp_path)
    transfer = Transfer.between(fine, fine_image, coarse, coarse_image)
    np.testing.assert_allclose(transfer.weights, [[0.5, 0.5, 0, 0], [0, 0, 1, 0]])
    np.testing.assert_allclose(transfer.covered, 1)
    np.testing.assert_allclose(transfer.purity, 1)
    signal = np.random.default_rng(0).standard_normal((9, 4))
    moved, coverage = transfer.apply(signal, fine.labels)
    np.testing.assert_allclose(moved, np.stack([signal[:, :2].mean(1), signal[:, 2]], axis=1))
    turned, _ = transfer.apply(signal[:, ::-1], fine.labels[::-1])
    np.testing.assert_allclose(turned, moved)
    signal[:, 1] = np.nan
    lacking, coverage = transfer.apply(signal, fine.labels)
    np.testing.assert_allclose(coverage, [0.5, 1])
    np.testing.assert_allclose(lacking[:, 0], signal[:, 0])
    back = Transfer.between(coarse, coarse_image, fine, fine_image)
    np.testing.assert_allclose(back.covered, [1, 1, 1, 0])
    np.testing.assert_allclose(back.purity, [0.5, 0.5, 1, 0])
    assert np.isnan(back.apply(moved, coarse.labels)[0][:, 3]).all()


def test_coverage_and_censored_volumes_move_along(tmp_path):
    (fine, coarse), fine_image, coarse_image = halves(tmp_path)
    transfer = Transfer.between(fine, fine_image, coarse, coarse_image)
    signal = np.random.default_rng(1).standard_normal((9, 4))
    signal[5] = np.nan
    moved, coverage = transfer.apply(signal, fine.labels, coverage=np.array([1, 0.5, 0.25, 1]))
    np.testing.assert_allclose(coverage, [0.75, 0.25])
    expected = np.stack([(2 * signal[:, 0] + signal[:, 1]) / 3, signal[:, 2]], axis=1)
    np.testing.assert_allclose(moved, expected, equal_nan=True)
    assert np.flatnonzero(np.isnan(moved).all(axis=1)).tolist() == [5]


@given(st.integers(0, 2**31 - 1))
def test_moving_constants_gives_constants(seed):
    rng = np.random.default_rng(seed)
    overlap = rng.random((3, 5)) * (rng.random((3, 5)) > 0.4)
    atlases = [
        Parcellation(name=f"a{n}", labels=tuple(f"r{i}" for i in range(n)), networks=("Vis",) * n)
        for n in (5, 3)
    ]
    sizes = overlap.sum(axis=1) + rng.random(3) + 0.01
    transfer = Transfer(*atlases, overlap, sizes, overlap.sum(axis=0) + rng.random(5) + 0.01)
    assert ((transfer.covered >= 0) & (transfer.covered <= 1 + 1e-12)).all()
    assert ((transfer.purity >= 0) & (transfer.purity <= 1 + 1e-12)).all()
    ramp = np.arange(6.0)[:, None] @ np.ones((1, 5))
    moved, coverage = transfer.apply(ramp, atlases[0].labels)
    for column, share in enumerate(coverage):
        expected = ramp[:, 0] if share > 0 else np.full(6, np.nan)
        np.testing.assert_allclose(moved[:, column], expected)


def test_a_store_of_another_atlas_is_made_with_its_loss_stated(tmp_path):
    (fine, coarse), fine_image, coarse_image = halves(tmp_path)
    study = trees.make_study(n_times=50)
    signals = {k: v[:, :4] for k, v in study.signals.items()}
    frame = trees.table(tmp_path / "t", trees.Study(fine, signals))
    reading = Reading(
        atlas=coarse,
        atlas_images=(coarse_image,),
        from_atlas=fine,
        from_image=fine_image,
        roi_names=fine.labels,
    )
    report = prepare_store(str(frame), tmp_path / "s", reading=reading)
    store = RecordingStore(report.store)
    assert store.parcellation.labels == coarse.labels
    expected = Preprocessing().apply(signals["01"][:, 2:3], 2.0)
    np.testing.assert_allclose(store.signal(0)[:, 1:], expected, atol=2e-3)
    assert "moved from fine to coarse by overlap" in store.header["provenance"]["notes"][0]
    root = trees.xcpd(tmp_path / "x", trees.Study(fine, signals), uncovered={"02": fine.labels[1]})
    moved = find_items(root, replace(reading, roi_names=None))[1].load()
    np.testing.assert_allclose(moved.coverage, [0.5, 1])
    with pytest.raises(InputError, match="moving to another atlas needs the volumes of both"):
        Reading(atlas=coarse, from_atlas=fine, from_image=fine_image)


# -- images that lost or gained a label ------------------------------------------------------------


@pytest.fixture
def cubes(tmp_path):
    """An atlas of 21 ROIs without places, its volume, and a BOLD image in it."""
    labels = tuple(f"R{i}" for i in range(21))
    atlas = Parcellation(
        name="cubes", labels=labels, networks=("Vis", "Cont", "Default") * 7, index=range(1, 22)
    )
    values = np.zeros((7, 6, 5), np.int16)
    values[:, 1:4, 2] = np.arange(1, 22).reshape(7, 3)
    bold = np.random.default_rng(4).standard_normal((*values.shape, 60)).cumsum(-1)
    nib.save(nib.Nifti1Image(bold.astype(np.float32), np.eye(4)), tmp_path / "sub-1_bold.nii")
    return atlas, values


def stored(folder, atlas, values, **rules):
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "atlas.nii")
    reading = Reading(atlas=atlas, atlas_images=(folder / "atlas.nii",), tr=2.0)
    rois = RoiRules(**rules)
    report = prepare_store(
        str(folder / "sub-1_bold.nii"), folder / "store", reading=reading, rois=rois
    )
    return RecordingStore(report.store)


def test_labels_lost_in_resampling_are_missing_rois(tmp_path, cubes):
    atlas, values = cubes
    values[values == 17] = 0
    with pytest.raises(InputError, match="1 ROIs have no data: R16"):
        stored(tmp_path, atlas, values)
    store = stored(tmp_path, atlas, values, missing_rois="mark")
    assert store.table["missing_rois"][0] == ("R16",)


def test_a_further_label_is_an_extra_roi(tmp_path, cubes):
    atlas, values = cubes
    values[0, 5, 4] = 223
    with pytest.raises(InputError, match=r"has 22 ROIs where cubes has 21.*--extra-rois drop"):
        stored(tmp_path, atlas, values)
    store = stored(tmp_path, atlas, values, extra_rois="drop")
    assert store.table["missing_rois"][0] == ()


def test_nan_is_background(tmp_path, cubes):
    atlas, values = cubes
    store = stored(tmp_path, atlas, np.where(values > 0, values, np.nan).astype(np.float32))
    assert store.table["missing_rois"][0] == ()


def test_many_other_labels_are_another_atlas(tmp_path, cubes):
    atlas, values = cubes
    values[values > 18] += 100
    with pytest.raises(InputError, match="has not the 21 values of cubes"):
        stored(tmp_path, atlas, values, missing_rois="mark", extra_rois="drop")

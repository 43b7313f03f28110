"""From what a lab has to a store: every source, kills, shards, bad files, phenotypes, quality."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.maskers import NiftiLabelsMasker
from nilearn.signal import clean
from scipy.signal import detrend as scipy_detrend

import trees
from semantoks.data.denoise import Censoring
from semantoks.data.encode import RoiRules
from semantoks.data.phenotypes import PhenotypeRules
from semantoks.data.quality import QualityRules
from semantoks.data.shards import Running
from semantoks.data.signal import Preprocessing
from semantoks.data.sources.find import find_items
from semantoks.data.sources.items import Reading
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError, StoreError
from semantoks.workflow.prepare import prepare_store

STEPS = Preprocessing(tr=2.0, low_hz=0.01, high_hz=0.1)


@pytest.fixture(autouse=True)
def _no_page(request, monkeypatch):
    """Leave the page out: it takes most of the time, and few tests look at it."""
    if "page" not in request.fixturenames:
        monkeypatch.setattr("semantoks.workflow.prepare.write_quality_page", lambda _: None)


@pytest.fixture
def page():
    """Have the page of quality written."""


@pytest.fixture(scope="module")
def study():
    return trees.make_study()


@pytest.fixture
def atlas_image(tmp_path, study):
    return trees.atlas_volume(tmp_path / "atlas.nii.gz", study.atlas)


def prepared(source, path, reading, **options):
    report = prepare_store(str(source), path, preprocessing=STEPS, reading=reading, **options)
    return RecordingStore(report.store), report


def content(store):
    table = store.table.drop(columns=["mean_fd", "censored_fraction"])
    return table, [store.signal(i) for i in range(len(store))]


def sources(folder, study, atlas_image):
    reading = Reading(atlas=study.atlas)
    named = replace(reading, roi_names=study.atlas.labels)
    return {
        "fmriprep": (
            trees.fmriprep(folder / "fmriprep", study),
            replace(reading, atlas_images=(atlas_image,), denoise=None),
        ),
        "xcpd": (trees.xcpd(folder / "xcpd", study), reading),
        "halfpipe": (trees.halfpipe(folder / "halfpipe", study), named),
        "table": (trees.table(folder / "table", study), named),
        "hdf5": (trees.hdf5(folder / "study.h5", study), replace(named, tr=2.0)),
    }


def test_five_sources_of_the_same_data_make_the_same_store(tmp_path, study, atlas_image):
    pytest.importorskip("h5py")
    expected = None
    for name, (source, reading) in sources(tmp_path, study, atlas_image).items():
        store, report = prepared(source, tmp_path / f"store-{name}", reading)
        assert report.count("stored") == 3, report.quality["reason"].tolist()
        store.verify()
        table, signals = content(store)
        if expected is None:
            expected = table, signals
            for i, signal in enumerate(study.signals.values()):
                own = STEPS.apply(signal, 2.0).astype(np.float16)
                np.testing.assert_allclose(signals[i], own, atol=2e-3)
        pd.testing.assert_frame_equal(table, expected[0])
        for one, other in zip(signals, expected[1], strict=True):
            np.testing.assert_allclose(one, other, atol=2e-3)
    assert expected[0]["id"].tolist() == [
        "sub-01_task-rest",
        "sub-02_task-rest",
        "sub-03_task-rest",
    ]


def test_volumes_are_averaged_as_nilearn_does(tmp_path, study, atlas_image):
    file = trees.volume(tmp_path / "sub-01_bold.nii.gz", study, "01")
    image = nib.load(file)
    rng = np.random.default_rng(0)
    data = image.get_fdata(dtype=np.float32) + rng.normal(0, 5, image.shape).astype(np.float32)
    nib.save(nib.Nifti1Image(data, image.affine, image.header), file)
    (item,) = find_items(file, Reading(atlas=study.atlas, atlas_images=(atlas_image,), tr=2.0))
    theirs = NiftiLabelsMasker(atlas_image, standardize=None, reports=False).fit_transform(file)
    recording = item.load()
    np.testing.assert_allclose(recording.signal, theirs, rtol=1e-6)
    assert (recording.coverage == 1).all()


def test_a_volume_on_another_grid_is_read_through_the_affines(tmp_path, study, atlas_image):
    file = trees.volume(tmp_path / "sub-01_bold.nii.gz", study, "01")
    image = nib.load(atlas_image)
    fine = np.kron(image.get_fdata(), np.ones((2, 2, 2))).astype(np.int16)
    affine = image.affine.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] -= 1  # the centre of the first of eight small voxels
    nib.save(nib.Nifti1Image(fine[::-1], affine @ np.diag([-1, 1, 1, 1]) @ _flip(17)), atlas_image)
    (item,) = find_items(file, Reading(atlas=study.atlas, atlas_images=(atlas_image,), tr=2.0))
    recording = item.load()
    np.testing.assert_allclose(recording.signal, study.signals["01"], atol=1e-2)
    np.testing.assert_allclose(recording.coverage, 1)


def _flip(last):
    shift = np.eye(4)
    shift[0, 3] = -last
    return shift


def test_the_mask_leaves_voxels_out_and_coverage_says_so(tmp_path, study, atlas_image):
    root = trees.fmriprep(tmp_path / "fmriprep", study)
    mask_file = next((root / "sub-02" / "func").glob("*mask.nii.gz"))
    mask = np.ones(trees.SHAPE, np.uint8)
    inside = nib.load(atlas_image).get_fdata()
    lost = np.argwhere(inside == study.atlas.index[4])
    mask[tuple(lost[: len(lost) * 3 // 4].T)] = 0
    mask[inside == study.atlas.index[5]] = 0
    nib.save(nib.Nifti1Image(mask, trees.AFFINE), mask_file)
    reading = Reading(atlas=study.atlas, atlas_images=(atlas_image,), denoise=None)
    _, report = prepared(root, tmp_path / "strict", reading)
    failed = report.quality[report.quality["status"] == "failed"]
    assert failed["id"].tolist() == ["sub-02_task-rest"]
    assert "Cont_4 (covered by less than 50%), Default_5" in failed["reason"].iloc[0]
    store, _ = prepared(root, tmp_path / "marked", reading, rois=RoiRules(missing_rois="mark"))
    assert store.table["missing_rois"].tolist() == [(), ("Cont_4", "Default_5"), ()]
    assert not store.signal(1)[:, [4, 5]].any()


def test_denoising_regresses_nilearns_confounds_out(tmp_path, study, atlas_image):
    root = trees.fmriprep(tmp_path / "fmriprep", study)
    reading = Reading(atlas=study.atlas, atlas_images=(atlas_image,), denoise="simple")
    recording = find_items(root, reading)[0].load()
    table = pd.read_csv(next(root.glob("sub-01/func/*confounds*.tsv")), sep="\t", na_values="n/a")
    assert recording.confounds.shape == (len(table), 24 + 2 + 2)
    assert recording.mean_fd == pytest.approx(table["framewise_displacement"].mean())
    plain = Preprocessing(low_hz=None, high_hz=None)
    ours = plain.apply(recording.signal, 2.0, confounds=recording.confounds)
    theirs = clean(
        study.signals["01"],
        confounds=recording.confounds,
        detrend=True,
        standardize="zscore_sample",
        filter=False,
        t_r=2.0,
    )
    n = len(theirs)
    np.testing.assert_allclose(ours, theirs * np.sqrt(n / (n - 1)), atol=2e-3)


def test_a_band_keeps_nothing_of_the_confounds():
    """Regressing filtered confounds from filtered signals leaves them uncorrelated."""
    rng = np.random.default_rng(2)
    confounds = rng.standard_normal((120, 3)).cumsum(axis=0)
    signal = rng.standard_normal((120, 5)) + confounds @ rng.standard_normal((3, 5))
    out = STEPS.apply(signal, 2.0, confounds=confounds)
    filtered = STEPS.apply(confounds, 2.0)
    assert abs(filtered.T @ out / len(out)).max() < 1e-5
    assert abs(filtered.T @ STEPS.apply(signal, 2.0) / len(out)).max() > 0.3


def with_dummies(root, n):
    """Add the columns in which fMRIPrep marks the volumes before the steady state."""
    for path in root.rglob("*desc-confounds*.tsv"):
        table = pd.read_csv(path, sep="\t", na_values="n/a")
        for k in range(n):
            table[f"non_steady_state_outlier{k:02}"] = (np.arange(len(table)) == k).astype(int)
        table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    return root


@pytest.mark.parametrize("denoise", [None, "simple"])
def test_dummy_scans_that_fmriprep_found_are_removed(tmp_path, study, atlas_image, denoise):
    root = with_dummies(trees.fmriprep(tmp_path / "fmriprep", study), 3)
    for path in root.rglob("*_bold.json"):
        facts = json.loads(path.read_text()) | {"StartTime": 1.0}
        path.write_text(json.dumps(facts))
    reading = Reading(atlas=study.atlas, atlas_images=(atlas_image,), denoise=denoise)
    store, report = prepared(root, tmp_path / "store", reading)
    assert store.table["length"].tolist() == [157, 161, 165]
    assert store.table["offset"].tolist() == [7.0, 7.0, 7.0]  # 3 volumes, and half a TR
    notes = store.header["provenance"]["notes"]
    assert any("3 dummy scans at the beginning removed" in note for note in notes)
    if denoise is None:
        own = STEPS.apply(study.signals["02"][3:], 2.0).astype(np.float16)
        np.testing.assert_allclose(store.raw(1).astype(float), own.astype(float), atol=4e-3)
    assert report.quality["offset"].tolist() == [7.0, 7.0, 7.0]


@pytest.mark.parametrize("removed", [0, 3])
def test_dummy_scans_of_time_series(tmp_path, study, removed):
    """HALFpipe's series hold them, those of other tools do not: confounds beside them tell."""
    root = trees.halfpipe(tmp_path / "halfpipe", study)
    for subject, signal in study.signals.items():
        func = root / f"sub-{subject}" / "func"
        name = f"sub-{subject}_task-rest_desc-confounds_timeseries.tsv"
        trees.confounds(func / name, len(signal) + removed)
    with_dummies(root, 3)
    names = study.atlas.labels
    store, _ = prepared(root, tmp_path / "store", Reading(atlas=study.atlas, roi_names=names))
    assert store.table["offset"].tolist() == [6.0, 6.0, 6.0]
    assert store.table["length"].tolist() == [n - 3 + removed for n in (160, 164, 168)]
    assert store.table["censored_fraction"].isna().all()


def test_scrubbing_interpolates_within_the_bound(tmp_path, study, atlas_image):
    root = trees.fmriprep(tmp_path / "fmriprep", study, spikes=(20, 21, 40))
    options = {"scrub": 0, "fd_threshold": 0.5}
    reading = Reading(
        atlas=study.atlas,
        atlas_images=(atlas_image,),
        denoise="scrubbing",
        denoise_options=options,
    )
    store, report = prepared(root, tmp_path / "store", reading)
    assert report.count("stored") == 3
    assert store.table["length"].tolist() == [160, 164, 168]
    assert store.table["censored_fraction"].round(4).tolist() == [0.0188, 0.0183, 0.0179]
    with pytest.raises(InputError, match=r"has 1 gaps of censored volumes longer than 4 s"):
        prepared(root, tmp_path / "refused", reading, censoring=Censoring(max_gap=4.0))
    cut = Censoring(max_gap=4.0, long_gaps="cut")
    shorter, _ = prepared(root, tmp_path / "cut", reading, censoring=cut)
    assert shorter.table["offset"].tolist() == [44.0, 44.0, 44.0]
    assert shorter.table["length"].tolist() == [138, 142, 146]


def test_the_values_of_censored_volumes_do_not_matter(study):
    signal = study.signals["02"] - 1000
    kept = np.ones(len(signal), bool)
    kept[[7, 8, 30]] = False
    wild = signal.copy()
    wild[~kept] = 1e4
    np.testing.assert_array_equal(
        STEPS.apply(signal, 2.0, kept=kept), STEPS.apply(wild, 2.0, kept=kept)
    )


def test_censored_series_of_xcpd_are_put_back_in_time(tmp_path, study):
    censored = {"01": (10, 11, 33), "03": (0, 1, 166, 167)}
    root = trees.xcpd(tmp_path / "xcpd", study, censored)
    reading = Reading(atlas=study.atlas)
    store, report = prepared(root, tmp_path / "store", reading)
    assert report.count("stored") == 3
    assert store.table["length"].tolist() == [160, 164, 164]
    assert store.table["offset"].tolist() == [0.0, 0.0, 4.0]
    assert store.table["censored_fraction"].round(4).tolist() == [0.0188, 0.0, 0.0238]
    assert store.table["mean_fd"].round(3).tolist() == [0.149, 0.149, 0.149]
    kept = np.ones(160, bool)
    kept[[10, 11, 33]] = False
    expected = STEPS.apply(study.signals["01"], 2.0, kept=kept)
    np.testing.assert_allclose(store.signal(0), expected, atol=2e-3)
    for file in root.rglob("*outliers.tsv"):
        file.unlink()
    with pytest.raises(
        InputError, match="has 157 rows where the scan has 160 volumes: it is censored"
    ):
        find_items(root, reading)[0].load()


def test_a_series_that_fits_neither_scan_nor_outliers_is_refused(tmp_path, study):
    root = trees.xcpd(tmp_path / "xcpd", study, {"01": (10, 11, 33)})
    file = next(root.glob("sub-01/func/*seg-Seven*timeseries.tsv"))
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-5]) + "\n")
    with pytest.raises(
        InputError, match=r"has 152 rows, which is neither the scan \(160 .*\(157\)"
    ):
        find_items(root, Reading(atlas=study.atlas))[0].load()


def test_uncovered_parcels_become_missing_not_zero_variance(tmp_path, study):
    root = trees.xcpd(tmp_path / "xcpd", study, uncovered={"02": "Vis_2"})
    store, _ = prepared(
        root, tmp_path / "store", Reading(atlas=study.atlas), rois=RoiRules(missing_rois="mark")
    )
    assert store.table["missing_rois"].tolist() == [(), ("Vis_2",), ()]
    _, report = prepared(root, tmp_path / "strict", Reading(atlas=study.atlas))
    assert report.count("failed") == 1


def test_the_atlas_is_told_by_the_names_in_the_files(tmp_path, study):
    root = trees.xcpd(tmp_path / "xcpd", study, atlas_name="4S456Parcels")  # a name that lies
    items = find_items(root, Reading(atlas=study.atlas))
    assert [len(item.load().roi_names) for item in items] == [7, 7, 7]
    from semantoks.atlas.parcellation import Parcellation

    with pytest.raises(InputError, match=r"no time series has the ROIs of cc200"):
        find_items(root, Reading(atlas=Parcellation.load("cc200")))
    shutil.copytree(root, tmp_path / "two")
    for file in list((tmp_path / "two").rglob("*seg-4S456Parcels*timeseries.tsv")):
        shutil.copy(file, file.with_name(file.name.replace("NLin2009cAsym", "NLin6Asym")))
    with pytest.raises(
        InputError, match=r"several kinds of files.*NLin2009cAsym.*NLin6Asym.*3 files"
    ):
        find_items(tmp_path / "two", Reading(atlas=study.atlas))
    chosen = Reading(atlas=study.atlas, entities={"space": "MNI152NLin6Asym"})
    assert len(find_items(tmp_path / "two", chosen)) == 3


def test_cifti_and_gifti_give_direct_averages(tmp_path, study):
    dense, labels = trees.dense_cifti(tmp_path, study, "02")
    reading = Reading(atlas=study.atlas, atlas_images=(labels,))
    recording = find_items(dense, reading)[0].load()
    assert recording.tr == 2.0
    columns = study.atlas.columns_of(recording.roi_names)
    np.testing.assert_allclose(recording.signal[:, columns], study.signals["02"], atol=1e-3)
    series = trees.ptseries(tmp_path / "sub-02_task-rest.ptseries.nii", study, "02")
    parcellated = find_items(series, Reading(atlas=study.atlas))[0].load()
    np.testing.assert_array_equal(parcellated.signal, study.signals["02"])
    left, both = trees.gifti(tmp_path, study, "03")
    reading = Reading(atlas=study.atlas, atlas_images=both, tr=2.0)
    recording = find_items(left, reading)[0].load()
    columns = study.atlas.columns_of(recording.roi_names)
    np.testing.assert_allclose(recording.signal[:, columns], study.signals["03"], atol=1e-3)


def test_fmripreps_cifti_is_found(tmp_path, study):
    func = tmp_path / "fmriprep" / "sub-02" / "func"
    func.mkdir(parents=True)
    _, labels = trees.dense_cifti(func, study, "02")
    trees.confounds(func / "sub-02_task-rest_desc-confounds_timeseries.tsv", 164)
    reading = Reading(atlas=study.atlas, atlas_images=(labels,), denoise="simple")
    store, report = prepared(tmp_path / "fmriprep", tmp_path / "store", reading)
    assert (report.count("stored"), len(store)) == (1, 1)


# -- at scale --------------------------------------------------------------------------------------


def files_of(folder):
    files = sorted(Path(folder).iterdir())
    return {file.name: file.read_bytes() for file in files if file.suffix != ".html"}


def test_shards_processes_and_kills_change_nothing(tmp_path, study, monkeypatch):
    root = trees.xcpd(tmp_path / "xcpd", study, {"02": (5,)})
    reading = Reading(atlas=study.atlas)
    prepared(root, tmp_path / "a" / "store", reading)
    whole = files_of(tmp_path / "a" / "store")
    assert not (tmp_path / "a" / "store.partial").exists()

    report = prepare_store(
        str(root),
        tmp_path / "b" / "store",
        preprocessing=STEPS,
        reading=reading,
        running=Running(shard=(2, 2)),
    )
    assert (report.finished, len(report.quality)) == (False, 1)
    assert not (tmp_path / "b" / "store").exists()
    prepare_store(
        str(root),
        tmp_path / "b" / "store",
        preprocessing=STEPS,
        reading=reading,
        running=Running(shard=(1, 2)),
    )
    tried = []
    monkeypatch.setattr("semantoks.data.prepare._one", lambda item, *_: tried.append(item.id))
    prepared(root, tmp_path / "b" / "store", reading)
    assert tried == []  # the shards had done everything
    assert files_of(tmp_path / "b" / "store") == whole
    monkeypatch.undo()

    prepared(root, tmp_path / "c" / "store", reading, running=Running(n_jobs=2))
    assert files_of(tmp_path / "c" / "store") == whole

    from semantoks.data import prepare as module

    real, count = module._one, []

    def dies(*arguments):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "_one", dies)
    with pytest.raises(KeyboardInterrupt):
        prepared(root, tmp_path / "d" / "store", reading)
    assert not (tmp_path / "d" / "store").exists()
    monkeypatch.setattr(module, "_one", lambda *a: tried.append(a[0].id) or real(*a))
    prepared(root, tmp_path / "d" / "store", reading)
    assert tried == ["sub-03_task-rest"]
    assert files_of(tmp_path / "d" / "store") == whole


def test_the_same_command_again_does_nothing_and_another_is_refused(tmp_path, study):
    root, reading = trees.xcpd(tmp_path / "xcpd", study), Reading(atlas=study.atlas)
    prepared(root, tmp_path / "store", reading)
    before = files_of(tmp_path / "store")
    _, report = prepared(root, tmp_path / "store", reading)
    assert report.count("stored") == 3
    assert files_of(tmp_path / "store") == before
    with pytest.raises(StoreError, match="holds a store made with other settings"):
        prepared(root, tmp_path / "store", reading, rois=RoiRules(min_coverage=0.7))
    assert files_of(tmp_path / "store") == before


def half_prepared(folder, study):
    """Prepare the first of two parts into a store that is not finished."""
    root, reading = trees.xcpd(folder / "xcpd", study), Reading(atlas=study.atlas)
    prepare_store(
        str(root),
        folder / "s",
        preprocessing=STEPS,
        reading=reading,
        running=Running(shard=(1, 2)),
    )
    return root, reading


def test_a_partial_folder_of_other_settings_is_refused(tmp_path, study):
    root, reading = half_prepared(tmp_path, study)
    with pytest.raises(StoreError, match=r"s\.partial: was begun with other settings"):
        prepared(root, tmp_path / "s", reading, rois=RoiRules(min_coverage=0.7))


def test_a_partial_folder_of_an_older_format_is_refused(tmp_path, study):
    """Its parts do not tell which time points are kept."""
    root, reading = half_prepared(tmp_path, study)
    note = tmp_path / "s.partial" / "settings.json"
    begun = json.loads(note.read_text())
    del begun["store format"]
    note.write_text(json.dumps(begun))
    message = r"s\.partial: was begun with other settings \(store format\).*delete this folder"
    with pytest.raises(StoreError, match=message):
        prepared(root, tmp_path / "s", reading)
    shutil.rmtree(note.parent)
    prepared(root, tmp_path / "s", reading)
    assert RecordingStore(tmp_path / "s").header["format_version"] == 2


def test_what_changed_on_disk_is_read_again(tmp_path, study):
    root, reading = trees.xcpd(tmp_path / "xcpd", study), Reading(atlas=study.atlas)
    prepare_store(
        str(root),
        tmp_path / "s",
        preprocessing=STEPS,
        reading=reading,
        running=Running(shard=(1, 1)),
    )
    file = next(root.glob("sub-01/func/*seg-Seven*timeseries.tsv"))
    frame = pd.read_csv(file, sep="\t")
    (-frame).to_csv(file, sep="\t", index=False)
    store, _ = prepared(root, tmp_path / "s", reading)
    np.testing.assert_allclose(store.signal(0), -STEPS.apply(study.signals["01"], 2.0), atol=2e-3)


# -- bad input -------------------------------------------------------------------------------------


def damage(root, kind):
    func = root / "sub-02" / "func"
    bold = next(func.glob(f"*{trees.SPACE}*bold.nii.gz"))
    if kind == "truncated":
        bold.write_bytes(bold.read_bytes()[:3000])
    elif kind == "no gzip":
        bold.write_bytes(b"not an image")
    elif kind == "3-D":
        nib.save(nib.Nifti1Image(np.ones(trees.SHAPE, np.float32), trees.AFFINE), bold)
    elif kind == "affine":
        image = nib.load(bold)
        tiny = np.diag([1e-5, 1e-5, 1e-5, 1])
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), tiny), bold)
    elif kind == "space":
        image = nib.load(bold)
        far = trees.AFFINE.copy()
        far[:3, 3] += 5000
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), far), bold)
        mask = next(func.glob("*mask.nii.gz"))
        nib.save(nib.Nifti1Image(np.ones(trees.SHAPE, np.uint8), far), mask)
    elif kind == "empty mask":
        mask = next(func.glob("*mask.nii.gz"))
        nib.save(nib.Nifti1Image(np.zeros(trees.SHAPE, np.uint8), trees.AFFINE), mask)
    elif kind == "TR 0":
        next(func.glob("*bold.json")).write_text('{"RepetitionTime": 0}')
    elif kind == "sidecar":
        next(func.glob("*bold.json")).write_text('{"RepetitionTime": ')
    elif kind == "sidecar bytes":
        next(func.glob("*bold.json")).write_bytes(b"\xff\xfe\x00")
    elif kind == "no sidecar":
        next(func.glob("*bold.json")).unlink()
    elif kind == "confounds":
        table = next(func.glob("*confounds*.tsv"))
        table.write_text("\n".join(table.read_text().splitlines()[:-4]) + "\n")
    elif kind == "no confounds":
        next(func.glob("*confounds*.tsv")).unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", r"bold\.nii\.gz: (is damaged|cannot be read)"),
        ("no gzip", r"bold\.nii\.gz: is damaged"),
        ("3-D", r"shape = \(9, 10, 11\): must be 4-D"),
        ("affine", r"has an affine that places no voxels"),
        ("space", r"has no voxel in the atlas .*same space"),
        ("empty mask", r"mask\.nii\.gz: the mask is empty"),
        ("TR 0", r"bold\.json\): tr = 0\.0: the TR must be a positive"),
        ("sidecar", r"bold\.json: is not JSON"),
        ("sidecar bytes", r"bold\.json: is not JSON"),
        ("no sidecar", r"stated by the header of the image alone \(2 s\)\. Confirm it"),
        ("confounds", r"has 160 rows where the image has 164 volumes"),
        ("no confounds", r"has no confounds \(desc-confounds_timeseries\.tsv\)"),
    ],
)
def test_one_bad_recording_leaves_the_rest_unharmed(tmp_path, study, atlas_image, kind, message):
    root = trees.fmriprep(tmp_path / "fmriprep", study)
    damage(root, kind)
    reading = Reading(atlas=study.atlas, atlas_images=(atlas_image,), denoise="simple")
    store, report = prepared(root, tmp_path / "store", reading)
    store.verify()
    assert store.table["subject"].tolist() == ["01", "03"]
    failed = report.quality.set_index("id").loc["sub-02_task-rest"]
    assert failed["status"] == "failed"
    with pytest.raises(InputError, match=message):
        raise InputError(failed["reason"].rstrip("."))


def test_duplicates_and_loops_of_links(tmp_path, study):
    root, reading = trees.xcpd(tmp_path / "xcpd", study), Reading(atlas=study.atlas)
    (root / "sub-01" / "again").symlink_to(root, target_is_directory=True)
    assert len(find_items(root, reading)) == 3
    shutil.copytree(root / "sub-03" / "func", root / "sub-03" / "copy")
    *others, doubled = find_items(root, reading)
    assert [item.load().subject for item in others] == ["01", "02"]
    with pytest.raises(InputError, match=r"id = 'sub-03_task-rest': is the same recording as"):
        doubled.load()


def test_an_atlas_image_that_is_another_atlas_is_refused(tmp_path, study, atlas_image):
    file = trees.volume(tmp_path / "sub-01_bold.nii.gz", study, "01")
    fewer = replace(study.atlas, index=tuple(range(1, 8)))
    with pytest.raises(InputError, match=r"has not the 7 values of seven: unknown \[8, 9\]"):
        find_items(file, Reading(atlas=fewer, atlas_images=(atlas_image,), tr=2.0))[0].load()
    places = nib.affines.apply_affine(
        trees.AFFINE,
        [np.argwhere(nib.load(atlas_image).get_fdata() == v).mean(0) for v in study.atlas.index],
    )
    there = replace(study.atlas, coordinates=places, space="MNI152NLin6Asym")
    assert find_items(file, Reading(atlas=there, atlas_images=(atlas_image,), tr=2.0))[0].load()
    turned = replace(there, coordinates=np.roll(places, 3, axis=0))
    with pytest.raises(InputError, match=r"its ROIs are not where seven has them: \d+ mm away"):
        find_items(file, Reading(atlas=turned, atlas_images=(atlas_image,), tr=2.0))[0].load()


def test_a_single_image_needs_its_tr_confirmed_and_a_subject(tmp_path, study, atlas_image):
    file = trees.volume(tmp_path / "bold.nii.gz", study, "01")
    reading = Reading(atlas=study.atlas, atlas_images=(atlas_image,))
    with pytest.raises(InputError, match="its name states no subject"):
        find_items(file, reading)
    (item,) = find_items(file, replace(reading, subject="x"))
    with pytest.raises(InputError, match=r"header of the image alone \(2 s\).*source_tr=2"):
        item.load()


def test_a_full_disk_keeps_what_is_done(tmp_path, study, monkeypatch):
    root, reading = trees.xcpd(tmp_path / "xcpd", study), Reading(atlas=study.atlas)
    real, calls = os.fsync, []

    def full(handle):
        calls.append(1)
        if len(calls) == 5:  # a file and its folder each, settings first
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device.*run the same command again"):
        prepared(root, tmp_path / "store", reading)
    monkeypatch.undo()
    assert len(list((tmp_path / "store.partial").glob("*.npz"))) == 1
    assert not list((tmp_path / "store.partial").glob(".partial-*"))
    store, _ = prepared(root, tmp_path / "store", reading)
    assert len(store) == 3


# -- phenotypes and quality ------------------------------------------------------------------------


def participants(path, rows, columns=("participant_id", "sex", "age", "score")):
    text = "\n".join("\t".join(map(str, row)) for row in (columns, *rows)) + "\n"
    path.write_text(text, encoding="utf-8")
    return path


def test_phenotypes_join_by_subject(tmp_path, study):
    root = trees.xcpd(tmp_path / "xcpd", study)
    rows = [("sub-01", "f", 31, -9999), ("sub-03", "m", 47, 1.5), ("sub-09", "f", 20, 2)]
    participants(root / "participants.tsv", rows)
    store, report = prepared(root, tmp_path / "store", Reading(atlas=study.atlas))
    assert store.table["sex"].fillna("?").tolist() == ["f", "?", "m"]
    assert store.table["age"].tolist()[::2] == [31, 47]
    assert np.isnan(store.table["score"].astype(float)[:2]).all()
    join = report.join
    assert (join.n_joined, join.without_row, join.without_recording) == (
        2,
        ("sub-02_task-rest",),
        ("09",),
    )
    assert join.unknown == {"sex": 1, "age": 1, "score": 2}


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([("1", 1), ("2", 2)], ("participant_id", "x"), r"Only leading zeros differ"),
        ([("A", 1)], ("participant_id", "x"), r"no subject of the tables has a recording: 'A'"),
        (
            [("01", "01", 3)],
            ("participant_id", "session_id", "x"),
            r"subject '01' has session '01' there, none here.*drop their column",
        ),
        ([("01", 1)], ("who", "x"), r"has no column of the subjects"),
        ([("01", 1)], ("participant_id", "task"), r"'task': is a column of the store's index"),
    ],
)
def test_tables_of_phenotypes_that_cannot_be_joined(tmp_path, study, rows, columns, message):
    root = trees.xcpd(tmp_path / "xcpd", study)
    table = participants(tmp_path / "p.tsv", rows, columns)
    with pytest.raises(InputError, match=message):
        prepared(
            root,
            tmp_path / "store",
            Reading(atlas=study.atlas),
            phenotypes=PhenotypeRules(tables=(table,)),
        )
    assert not (tmp_path / "store").exists()


@pytest.mark.usefixtures("page")
def test_rules_exclude_with_a_reason(tmp_path, study):
    root = trees.xcpd(tmp_path / "xcpd", study, {"02": tuple(range(4, 164, 6))})
    rules = QualityRules(max_censored_fraction=0.1, max_mean_fd=0.5)
    store, report = prepared(root, tmp_path / "store", Reading(atlas=study.atlas), quality=rules)
    assert store.table["subject"].tolist() == ["01", "03"]
    row = report.quality.set_index("id").loc["sub-02_task-rest"]
    assert (row["status"], row["reason"]) == ("excluded", "censored_fraction 0.165 > 0.1")
    text = (tmp_path / "store" / "quality.html").read_text()
    assert "censored_fraction 0.165 &gt; 0.1" in text


def test_a_rule_on_what_is_not_known_is_refused(tmp_path, study):
    demeaned = {k: v - v.mean(axis=0) for k, v in study.signals.items()}
    root = trees.xcpd(tmp_path / "xcpd", replace(study, signals=demeaned))
    rules = QualityRules(min_tsnr=9)
    with pytest.raises(InputError, match="min_tsnr: is set, but tsnr is not known"):
        prepared(root, tmp_path / "store", Reading(atlas=study.atlas), quality=rules)
    assert not (tmp_path / "store").exists()


def test_quality_is_measured(tmp_path, study):
    store, report = prepared(
        trees.xcpd(tmp_path / "xcpd", study), tmp_path / "store", Reading(atlas=study.atlas)
    )
    table = report.quality.set_index("id")
    signal = study.signals["01"]
    noise = scipy_detrend(signal, axis=0).std(axis=0)
    expected = np.median(signal.mean(axis=0) / noise)
    assert table.loc["sub-01_task-rest", "minutes"] == pytest.approx(16 / 3)
    assert table.loc["sub-01_task-rest", "tsnr"] == pytest.approx(expected)
    assert (table["spectral_slope"] < -1).all()  # random walks fall with the square of frequency
    assert table["typicality"].between(-1, 1).all()
    stored = store.signal(0)
    assert table.loc["sub-01_task-rest", "global_signal"] == pytest.approx(
        stored.mean(axis=1).std(), rel=1e-2
    )
    pd.testing.assert_frame_equal(pd.read_parquet(store.path / "quality.parquet"), report.quality)
    header = json.loads((store.path / "store.json").read_text())
    assert set(header["extras"]) == {"quality.parquet", "carpets.npz"}
    (store.path / "carpets.npz").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"carpets\.npz: is not what was written"):
        store.verify()


def test_every_part_is_read_once(tmp_path, study, monkeypatch):
    """Of the file of a recording, every array; the note of a few lines is read again."""
    opened = np.lib.npyio.NpzFile.__getitem__
    read = Counter()

    def counted(self, name):
        read[Path(self.fid.name).name, name] += 1
        return opened(self, name)

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", counted)
    root = trees.xcpd(tmp_path / "xcpd", study, {"02": tuple(range(4, 164, 6))})
    rules = QualityRules(max_censored_fraction=0.1)
    _, report = prepared(root, tmp_path / "store", Reading(atlas=study.atlas), quality=rules)
    assert report.count("excluded") == 1
    arrays = {key: n for key, n in read.items() if key[1] in ("signal", "kept", "profile")}
    assert len(arrays) == 3 * 3 - 1  # of who is excluded, not which volumes are kept
    assert set(arrays.values()) == {1}


def test_a_subject_of_several_rows_that_differ_fails_alone(tmp_path, study):
    root = trees.xcpd(tmp_path / "xcpd", study)
    rows = [("sub-01", "f"), ("sub-02", "m"), ("sub-02", "f"), ("sub-03", "m"), ("sub-03", "m")]
    participants(root / "participants.tsv", rows, ("participant_id", "sex"))
    store, report = prepared(root, tmp_path / "store", Reading(atlas=study.atlas))
    assert store.table["sex"].tolist() == ["f", "m"]
    reason = report.quality.set_index("id").at["sub-02_task-rest", "reason"]
    assert "participants.tsv: subject: has 2 rows of subject 02, which differ" in reason


# -- decisions about the cohort --------------------------------------------------------------------


def listed(folder, study, columns):
    """Return a table that lists the recordings of a study, with further columns."""
    path = trees.table(folder, study)
    pd.read_csv(path, sep="\t", dtype=str).assign(**columns).to_csv(path, sep="\t", index=False)
    return path


def test_a_contradiction_fails_one_recording_before_anything_is_read(tmp_path, study, monkeypatch):
    source = listed(tmp_path / "t", study, {"site": ["A", "B", "C"]})
    rows = [("01", "A"), ("02", "A"), ("03", "C")]
    table = participants(tmp_path / "p.tsv", rows, ("participant_id", "site"))
    tried = []
    monkeypatch.setattr("semantoks.data.prepare._one", count_calls(tried))
    monkeypatch.setattr("semantoks.workflow.prepare.write_quality_page", lambda _: None)
    report = prepare_store(
        str(source),
        tmp_path / "store",
        reading=Reading(atlas=study.atlas, roi_names=study.atlas.labels),
        phenotypes=PhenotypeRules(tables=(table,)),
    )
    assert tried == ["sub-01_task-rest", "sub-03_task-rest"]
    failed = report.quality.set_index("id").loc["sub-02_task-rest"]
    assert failed["status"] == "failed"
    assert "the source says 'B', the table of phenotypes 'A'" in failed["reason"]
    assert RecordingStore(report.store).table["site"].tolist() == ["A", "C"]


def count_calls(tried):
    from semantoks.data import prepare as module

    real = module._one

    def one(item, *others):
        tried.append(item.id)
        return real(item, *others)

    return one


def test_labels_that_differ_within_a_subject_fail_all_of_its_recordings(tmp_path, study):
    columns = {"subject": ["01", "01", "02"], "session": ["a", "b", "a"], "sex": ["F", "M", "F"]}
    source = listed(tmp_path / "t", study, columns)
    reading = Reading(atlas=study.atlas, roi_names=study.atlas.labels)
    store, report = prepared(source, tmp_path / "store", reading)
    assert store.table["subject"].tolist() == ["02"]
    reasons = report.quality["reason"].tolist()
    assert reasons[0] == reasons[1]
    assert "--varying sex" in reasons[0]
    varying = PhenotypeRules(varying=("sex",))
    store, _ = prepared(source, tmp_path / "again", reading, phenotypes=varying)
    assert store.table["sex"].tolist() == ["F", "M", "F"]


def test_columns_that_mix_kinds_are_refused_before_anything_is_read(tmp_path, study, monkeypatch):
    source = listed(tmp_path / "t", study, {"group": ["1", "2", "n/a"]})
    table = participants(tmp_path / "p.tsv", [("03", "control")], ("participant_id", "group"))
    tried = []
    monkeypatch.setattr("semantoks.data.prepare._one", count_calls(tried))
    with pytest.raises(InputError, match="group: mixes numbers and text over the recordings"):
        prepare_store(
            str(source),
            tmp_path / "store",
            reading=Reading(atlas=study.atlas, roi_names=study.atlas.labels),
            phenotypes=PhenotypeRules(tables=(table,)),
        )
    assert tried == []


def test_one_file_under_two_subjects_is_named(tmp_path, study):
    source = listed(tmp_path / "t", study, {"file": ["01.npy", "02.npy", "01.npy"]})
    reading = Reading(atlas=study.atlas, roi_names=study.atlas.labels)
    _, report = prepared(source, tmp_path / "store", reading)
    (told,) = (remark for remark in report.remarks if "same signal" in remark)
    assert told.startswith("sub-01_task-rest and sub-03_task-rest hold the same signal")

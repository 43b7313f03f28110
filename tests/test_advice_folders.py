"""Advice about derivatives, images and single recordings, followed: the same call gets through."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import trees
from advice import advised
from semantoks.atlas.parcellation import Parcellation
from semantoks.data.cohort import contradictions, one_kind
from semantoks.data.denoise import Censoring, regress_out
from semantoks.data.encode import StoreSpec, encode
from semantoks.data.filters import band_pass
from semantoks.data.quality import QualityRules
from semantoks.data.signal import Preprocessing, check_tr
from semantoks.data.sources.find import find_items
from semantoks.data.sources.images import read_image
from semantoks.data.sources.items import Reading


@pytest.fixture(scope="module")
def study():
    return trees.make_study(n_subjects=2)


@pytest.fixture
def reading(study):
    return Reading(atlas=study.atlas)


@pytest.fixture
def images(tmp_path, study):
    image = trees.atlas_volume(tmp_path / "seven.nii.gz", study.atlas)
    return Reading(atlas=study.atlas, atlas_images=(image,))


def load(root, reading):
    return [item.load() for item in find_items(root, reading)]


# -- which files -----------------------------------------------------------------------------------


def test_a_folder_without_series(tmp_path, study, reading, images):
    place = "data/sources/variants._nothing"
    advice = "Check that it is a derivatives folder with sub-*"
    empty = tmp_path / "empty"
    empty.mkdir()
    for one in (reading, images):
        with advised(place, advice):
            find_items(empty, one)
    tree = trees.fmriprep(tmp_path / "prep", study)
    with advised(place, " BOLD images: give the image of the atlas (--atlas-image)"):
        find_items(tree, reading)
    assert len(load(tree, images)) == 2
    series = trees.xcpd(tmp_path / "xcpd", study)
    with advised(place, " time series: leave the image of the atlas out to read them"):
        find_items(series, images)
    assert len(load(series, reading)) == 2
    with advised(place, "Choose another strategy (--denoise simple)"):
        find_items(tree, replace(images, denoise="ica_aroma"))
    assert len(load(tree, replace(images, denoise="simple"))) == 2
    func = tmp_path / "dense" / "sub-01" / "func"
    func.mkdir(parents=True)
    _, dlabel = trees.dense_cifti(func, study, "01")
    with advised(place, ": give an atlas of that kind (--atlas-image)"):
        find_items(tmp_path / "dense", replace(images, denoise=None))
    fitting = replace(images, denoise=None, atlas_images=(dlabel,))
    assert len(load(tmp_path / "dense", fitting)) == 1


def test_entities_that_no_file_has(tmp_path, study, reading):
    tree, place = trees.xcpd(tmp_path, study), "data/sources/variants._no_such_entities"
    with advised(place, "The files have "):
        find_items(tree, replace(reading, entities={"space": "T1w"}))
    assert find_items(tree, replace(reading, entities={"space": trees.SPACE}))
    for file in tree.rglob("sub-02*seg-Seven*timeseries.*"):
        file.rename(file.with_name(file.name.replace("_seg-", "_res-2_seg-")))
    one, both = {"res": "2"}, {"res": "2", "sub": "01"}
    with advised(place, "Leave one out"):
        find_items(tree, replace(reading, entities=both))
    assert len(find_items(tree, replace(reading, entities=one))) == 1


def test_several_kinds_of_files(tmp_path, study, reading):
    tree = trees.xcpd(tmp_path, study)
    for file in tree.rglob("*seg-Seven*timeseries.tsv"):
        other = file.with_name(file.name.replace("stat-mean", "stat-median"))
        other.write_bytes(file.read_bytes())
    with advised("data/sources/variants._one_variant", "Choose one kind: "):
        find_items(tree, reading)
    assert len(load(tree, replace(reading, entities={"stat": "mean"}))) == 2


@pytest.mark.parametrize("way", ["atlas", "names"])
def test_series_of_another_atlas(tmp_path, study, reading, way):
    tree = (trees.xcpd if way == "atlas" else trees.halfpipe)(tmp_path, study)
    other = Reading(atlas=Parcellation.load("cc200")) if way == "atlas" else reading
    advice = "Choose the parcellation of the files (--atlas), or name their columns (--roi-names)"
    with advised("data/sources/variants._fitting", advice):
        find_items(tree, other)
    names = None if way == "atlas" else study.atlas.labels
    assert len(load(tree, replace(reading, roi_names=names))) == 2


def test_conditions_of_conn(tmp_path, study, reading):
    from scipy.io import savemat

    cells, names = np.empty((1, trees.N_ROIS), object), np.empty((1, trees.N_ROIS), object)
    cells[0, :] = [column[:, None] for column in study.signals["01"].T]
    names[0, :] = list(study.atlas.labels)
    for condition in ("001", "002"):
        file = tmp_path / f"ROI_Subject001_Condition{condition}.mat"
        savemat(file, {"data": cells, "names": names})
    reading = replace(reading, tr=2.0)
    with advised("data/sources/toolboxes._conn", "Choose one: --where condition="):
        find_items(tmp_path, reading)
    assert len(load(tmp_path, replace(reading, entities={"condition": "001"}))) == 1


def test_region_tables_of_another_atlas(tmp_path):
    atlas = Parcellation(name="two", labels=("x", "y"), networks=("g", "h"))
    folder = tmp_path / "1000001_31018_2_0"
    folder.mkdir()
    rows = "label_name,timepoint_0,timepoint_1,timepoint_2\nx,0.1,0.5,0.2\ny,0.7,0.4,0.9\n"
    (folder / "fMRI.small.csv").write_text(rows)
    advice = "Choose the parcellation of the files (--atlas)"
    with advised("data/sources/toolboxes._kinds", advice):
        find_items(tmp_path, Reading(atlas=Parcellation.load("aal116"), tr=0.7))
    assert len(find_items(tmp_path, Reading(atlas=atlas, tr=0.7))) == 1


def test_one_recording_twice(tmp_path, study, reading):
    table = trees.table(tmp_path, study)
    rows = pd.read_csv(table, sep="\t", dtype=str).assign(subject="01")
    rows.to_csv(table, sep="\t", index=False)
    named = replace(reading, roi_names=study.atlas.labels)
    advice = "Tell them apart by session, task or run, or leave one out"
    with advised("data/sources/find._refuse_doubled", advice):
        load(table, named)
    rows.assign(run=["1", "2"]).to_csv(table, sep="\t", index=False)
    assert len(load(table, named)) == 2
    rows[:1].to_csv(table, sep="\t", index=False)
    assert len(load(table, named)) == 1


# -- what lies beside ------------------------------------------------------------------------------


def test_two_files_of_outliers(tmp_path, study, reading):
    tree = trees.xcpd(tmp_path, study)
    (file,) = tree.rglob("sub-01*_outliers.tsv")
    extra = [
        file.with_name(file.name.replace("_outliers", f"_desc-{k}_outliers")) for k in ("a", "b")
    ]
    for other in extra:
        other.write_bytes(file.read_bytes())
    file.unlink()
    advice = "Leave only the one that belongs to it in the folder"
    with advised("data/sources/scans.only", advice):
        load(tree, reading)
    extra[0].unlink()
    assert len(load(tree, reading)) == 2


@pytest.mark.parametrize("interpolated", [True, False])
def test_censored_series(tmp_path, study, reading, interpolated):
    tree = trees.xcpd(tmp_path / "censored", study, censored={"01": (5, 6)})
    (outliers,) = tree.rglob("sub-01*_outliers.tsv")
    kept = outliers.read_bytes()
    outliers.unlink()
    advice = "Keep the outliers.tsv beside it, or have the time series written interpolated"
    with advised("data/sources/scans.whole", advice):
        load(tree, reading)
    if interpolated:
        whole = trees.xcpd(tmp_path / "whole", study)
        assert len(load(whole, reading)) == 2
    else:
        outliers.write_bytes(kept)
        assert len(load(tree, reading)) == 2


def test_a_start_that_is_no_number(tmp_path, study, reading):
    table = trees.table(tmp_path, study)
    named = replace(reading, roi_names=study.atlas.labels)
    beside = tmp_path / "01.json"
    beside.write_text(json.dumps({"StartTime": "soon"}))
    advice = "Correct it, or remove it from the file"
    with advised("data/sources/bids.start_time", advice):
        load(table, named)
    for content in ({"StartTime": 1.5}, {}):
        beside.write_text(json.dumps(content))
        assert load(table, named)[0].start_time == content.get("StartTime", 0)


# -- TR --------------------------------------------------------------------------------------------


def test_the_tr_of_a_header(tmp_path, study, images):
    file = trees.volume(tmp_path / "sub-01_task-rest_bold.nii.gz", study, "01")
    with advised("data/sources/bids._seconds", "Confirm it (source_tr="):
        load(file, images)
    assert load(file, replace(images, tr=2.0))[0].tr == 2


def test_a_tr_that_is_impossible():
    place = "data/signal.check_tr"
    with advised(
        place, "State the repetition time in seconds (RepetitionTime in the BIDS sidecar)"
    ):
        check_tr(None)
    with advised(place, "If so, give "):
        check_tr(2000)
    assert check_tr(2) == 2


@pytest.mark.parametrize("by", ["option", "sidecar"])
def test_a_tr_that_is_missing(tmp_path, study, reading, by):
    file = tmp_path / "sub-01_ts.npy"
    np.save(file, study.signals["01"])
    named = replace(reading, roi_names=study.atlas.labels)
    with advised("data/sources/bids._seconds", ", or give it (source_tr, --source-tr), which"):
        load(file, named)
    if by == "option":
        named = replace(named, tr=2.0)
    else:
        file.with_suffix(".json").write_text('{"RepetitionTime": 2}')
    assert load(file, named)[0].tr == 2


# -- images ----------------------------------------------------------------------------------------


def test_images_and_their_atlas(tmp_path, study, images):
    file = trees.volume(tmp_path / "sub-01_task-rest_bold.nii.gz", study, "01")
    bare = replace(images, atlas_images=())
    with advised("data/sources/images.read_image", "Give it (atlas_images, --atlas-image)"):
        read_image(file, bare)
    signal = read_image(file, images).signal
    assert signal.shape == study.signals["01"].shape
    far = trees.AFFINE.copy()
    far[:3, 3] += 300
    image = nib.load(file)
    away = tmp_path / "away.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), far), away)
    with advised("data/sources/images._volume", "Check that image and atlas are in the same space"):
        read_image(away, images)
    read_image(file, images)


def test_a_dlabel_of_another_density(tmp_path, study, reading):
    dense, dlabel = trees.dense_cifti(tmp_path, study, "01")
    image = nib.load(dlabel)
    labels, models = (image.header.get_axis(i) for i in (0, 1))
    parts = [
        nib.cifti2.BrainModelAxis.from_surface(part.vertex, 99, name)
        for name, _, part in models.iter_structures()
    ]
    other = tmp_path / "other.dlabel.nii"
    nib.save(nib.Cifti2Image(image.get_fdata(), (labels, parts[0] + parts[1])), other)
    advice = "Use a dlabel of the same density"
    with advised("data/sources/images._dense", advice):
        read_image(dense, replace(reading, atlas_images=(other,)))
    read_image(dense, replace(reading, atlas_images=(dlabel,)))


def test_moving_to_another_atlas_needs_both_images(tmp_path, study):
    image = trees.atlas_volume(tmp_path / "seven.nii.gz", study.atlas)
    both = {"atlas": study.atlas, "from_atlas": study.atlas, "from_image": image}
    advice = "Give the volume of the new one too (atlas_images, --atlas-image)"
    with advised("data/sources/items.__post_init__", advice):
        Reading(**both)
    Reading(**both, atlas_images=(image,))


# -- denoising -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["add", "none"])
def test_images_without_confounds(tmp_path, study, images, way):
    tree = trees.fmriprep(tmp_path, study)
    found = {file: file.read_bytes() for file in tree.rglob("*confounds_timeseries.tsv")}
    for file in found:
        file.unlink()
    advice = "Add them, or say that no denoising is wanted (denoise=None, --denoise none)"
    with advised("data/sources/derivatives._denoising", advice):
        load(tree, images)
    for file, content in found.items() if way == "add" else ():
        file.write_bytes(content)
    assert len(load(tree, images if way == "add" else replace(images, denoise=None))) == 2


def test_a_strategy_without_its_columns(tmp_path, study, images):
    tree = trees.fmriprep(tmp_path, study)
    for file in tree.rglob("*confounds_timeseries.tsv"):
        frame = pd.read_csv(file, sep="\t")
        frame = frame.drop(columns=[c for c in frame if "a_comp_cor" in c])
        frame.to_csv(file, sep="\t", index=False, na_rep="n/a")
        file.with_suffix(".json").write_text("{}")
    advice = "Choose another strategy or option (--denoise, --denoise-option)"
    with advised("data/sources/derivatives._denoising", advice):
        load(tree, replace(images, denoise="compcor"))
    assert len(load(tree, replace(images, denoise="scrubbing"))) == 2
    options = {"global_signal": "all"}
    with advised("data/sources/derivatives._denoising", advice):
        load(tree, replace(images, denoise_options=options))
    assert len(load(tree, replace(images, denoise_options={"global_signal": "basic"}))) == 2


BAND = Preprocessing(tr=2.0)


def spec(study, **settings):
    defaults = {"parcellation": study.atlas, "preprocessing": BAND, "min_times": 6}
    return StoreSpec(**(defaults | settings))


@pytest.fixture
def recording(tmp_path, study, reading):
    table = trees.table(tmp_path / "one", study)
    return load(table, replace(reading, roi_names=study.atlas.labels))[0]


def test_gaps_that_are_too_long(recording, study):
    kept = np.ones(len(recording.signal), bool)
    kept[40:60] = False
    gap = replace(recording, kept=kept)
    advice = "Cut the recording at them (--cut-gaps), allow longer ones (--max-gap), "
    with advised("data/denoise.stretch", advice):
        encode(gap, spec(study))
    encode(gap, spec(study, censoring=Censoring(long_gaps="cut")))
    encode(gap, spec(study, censoring=Censoring(max_gap=50)))


def test_too_few_volumes_kept(recording, study):
    sparse = replace(recording, kept=np.arange(len(recording.signal)) % 3 == 0)
    advice = "Leave the recording out, or lower min_kept (--min-kept)"
    with advised("data/denoise.stretch", advice):
        encode(sparse, spec(study))
    encode(sparse, spec(study, censoring=Censoring(min_kept=0.3)))


def confounded(recording, n):
    noise = np.random.default_rng(1).standard_normal((len(recording.signal), n))
    return replace(recording, confounds=noise)


@pytest.mark.parametrize("way", ["fewer", "wider", "lower"])
def test_confounds_that_leave_nothing(recording, study, way):
    many = confounded(recording, 55)
    advice = "Regress out fewer confounds (e.g. --denoise-option motion=basic), widen the band "
    with advised("data/denoise.check_tdof", advice):
        encode(many, spec(study))
    if way == "fewer":
        encode(confounded(recording, 12), spec(study))
    elif way == "wider":
        encode(many, spec(study, preprocessing=Preprocessing(tr=2.0, high_hz=None)))
    else:
        encode(many, spec(study, censoring=Censoring(min_tdof=1)))


def test_as_many_confounds_as_volumes(recording):
    noise, kept = confounded(recording, 60).confounds, np.arange(len(recording.signal)) < 60
    advice = "Choose fewer confounds (e.g. --denoise-option motion=basic), or leave it out"
    with advised("data/denoise.regress_out", advice):
        regress_out(recording.signal, noise, kept, "here")
    regress_out(recording.signal, noise[:, :12], kept, "here")


def test_confounds_of_another_length(recording, study):
    lengths = confounded(recording, 6)
    cut = replace(recording, confounds=lengths.confounds[:-4])
    advice = "They do not belong together, or volumes were removed from one of them"
    with advised("data/denoise.check_confounds", advice):
        encode(cut, spec(study))
    encode(lengths, spec(study))
    encode(replace(cut, signal=recording.signal[:-4]), spec(study))


# -- signals ---------------------------------------------------------------------------------------


def test_signals_that_cannot_be_stored(recording, study):
    huge = replace(recording, signal=recording.signal * 1e6)
    plain = Preprocessing(tr=2.0, zscore=False)
    with advised("data/encode._as_float16", "Store z-scored signals (zscore=True)"):
        encode(huge, spec(study, preprocessing=plain))
    encode(huge, spec(study))


def test_recordings_that_are_too_short(recording, study):
    short = replace(recording, signal=recording.signal[:30])
    advice = "Leave the recording out, or choose shorter patches"
    with advised("data/encode._check_length", advice):
        encode(short, spec(study, min_times=40))
    encode(short, spec(study, min_times=20))


def test_rois_and_time_points_without_data(recording, study):
    signal = recording.signal.copy()
    signal[:, 2] = 5
    flat = replace(recording, signal=signal)
    advice = "Leave the recording out, or mark them (missing_rois, --missing-rois mark)"
    with advised("data/encode._in_order", advice):
        encode(flat, spec(study))
    marked = encode(flat, spec(study, missing_rois="mark"))
    assert marked.row["missing_rois"] == [study.atlas.labels[2]]
    holes = recording.signal.copy()
    holes[7, 3] = np.nan
    broken = replace(recording, signal=holes)
    advice = "Remove or interpolate those time points, or leave the recording out"
    with advised("data/encode._reasons", advice):
        encode(broken, spec(study))
    holes[7, 3] = holes[[6, 8], 3].mean()
    encode(replace(recording, signal=holes), spec(study))


def test_bands(study):
    signal = study.signals["01"]
    place = "data/filters.edges"
    with advised(place, "Give a positive frequency in Hz, or none"):
        band_pass(signal, 2.0, -0.01, 0.1)
    band_pass(signal, 2.0, 0.01, 0.1)
    band_pass(signal, 2.0, None, 0.1)
    with advised(place, "Choose a lower edge, or none; and check that the TR is in seconds"):
        band_pass(signal, 20.0, 0.05, 0.1)
    band_pass(signal, 20.0, 0.01, None)
    band_pass(signal, 20.0, None, None)
    band_pass(signal, 2.0, 0.05, 0.1)


def test_rules_on_what_is_not_known():
    measured = {"id": "sub-1", "minutes": 6.0}
    advice = "Give it (mean_fd in the table, confounds beside the file), or drop the rule"
    rules = QualityRules(max_mean_fd=0.5, min_minutes=4)
    with advised("data/quality.reason", advice):
        rules.reason(measured)
    assert rules.reason(measured | {"mean_fd": 0.2}) == ""
    assert replace(rules, max_mean_fd=None).reason(measured) == ""


# -- the cohort ------------------------------------------------------------------------------------


def test_labels_of_a_subject_that_differ():
    facts = {
        "a": {"subject": "1", "session": "1", "sex": "F"},
        "b": {"subject": "1", "session": "2", "sex": "M"},
    }
    advice = "Correct the labels, or declare that they may vary (varying, --varying "
    with advised("data/cohort.differing", advice):
        assert set(contradictions(facts, None)) == {"a", "b"}
    assert not contradictions(facts, None, varying=["sex"])
    facts["b"]["sex"] = "F"
    assert not contradictions(facts, None)


def test_columns_of_several_kinds():
    with advised("data/cohort.one_kind", "Give values of one kind"):
        one_kind("age", [31, "old", 40])
    one_kind("age", [31, None, 40])

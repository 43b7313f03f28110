"""Series, images and what lies beside them, as further programs and people write them."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import trees
from advice import advised
from semantoks.data.quality import QualityRules
from semantoks.data.sources.find import find_items
from semantoks.data.sources.images import read_image
from semantoks.data.sources.items import Reading
from semantoks.data.sources.series import read_series
from semantoks.tables import read_names, read_table
from semantoks.workflow.prepare import prepare_store

STUDY = trees.make_study(n_subjects=2, n_times=60)
SIGNAL, ATLAS = STUDY.signals["01"], STUDY.atlas
LABELS = list(ATLAS.labels)
READING = Reading(atlas=ATLAS, tr=2.0)


def load(root, reading=READING):
    return [item.load() for item in find_items(root, reading)]


def same(series, names=ATLAS.labels):
    np.testing.assert_array_equal(series.signal, SIGNAL)
    assert series.names == names


def lines(*head, sep="\t", rows=SIGNAL, first=()):
    text = [sep.join([*first, *(f"{v:.5f}" for v in row)]) for row in rows]
    return "\n".join([*head, *text]) + "\n"


# -- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["Mean_{}", "NZMean_{}", "#{}"])
def test_values_of_an_atlas_of_ones_own_name_its_rois(tmp_path, header):
    file = tmp_path / "sub-01_ts.1D"
    names = [header.format(value) for value in ATLAS.index]
    file.write_text(lines("\t".join(["File", "Sub-brick", *names]), first=("a.nii", "0[?]")))
    same(read_series(file, READING))
    built_in = replace(READING, atlas=replace(ATLAS, name="schaefer400"))
    assert read_series(file, built_in).names == tuple(names), "its volumes have several orders"


def test_labels_of_columns_in_comments_of_afni(tmp_path):
    file = tmp_path / "sub-01_ts.1D"
    head = ("# <matrix", '#  ni_type="7*double"', f'#  ColumnLabels="{" ; ".join(LABELS)}"', "# >")
    file.write_text(lines(*head, sep=" ") + "# </matrix>\n")
    same(read_series(file, READING))


@pytest.mark.parametrize("name", ["t", "seconds", "time_s"])
def test_times_are_no_roi(tmp_path, name):
    frame = pd.DataFrame(SIGNAL, columns=LABELS, index=pd.Index(np.arange(60) * 2.0, name=name))
    frame.to_parquet(tmp_path / "sub-01.parquet")
    same(read_series(tmp_path / "sub-01.parquet", READING))


@pytest.mark.parametrize(
    ("above", "below"),
    [
        (["", "Signals"], []),
        (["", "Visual", "", "Control", "", "", "Default"], []),
        ([], ["", *["a.u."] * 7]),
        (["", "Signals"], ["s", *["a.u."] * 7]),
    ],
)
@pytest.mark.parametrize("ending", [".xlsx", ".tsv"])
def test_headers_of_spreadsheets(tmp_path, above, below, ending):
    rows = [row for row in (above, ["Volume", *LABELS], below) if row]
    rows = [[*row, *[""] * (8 - len(row))] for row in rows]
    frame = pd.DataFrame([*rows, *([i, *row] for i, row in enumerate(SIGNAL.tolist()))])
    file = tmp_path / f"sub-01{ending}"
    if ending == ".xlsx":
        pytest.importorskip("openpyxl")
        frame.to_excel(file, index=False, header=False)
    else:
        frame.to_csv(file, sep="\t", index=False, header=False)
    series = read_series(file, READING)
    same(series)
    assert ("units" in series.notes[0]) == bool(below)


def test_a_first_time_point_of_words_is_not_left_out(tmp_path):
    file = tmp_path / "sub-01.tsv"
    words = "\t".join(f"e{i}" for i in range(7))
    file.write_text(lines("\t".join(LABELS), words))
    advice = "Correct it: digits and one decimal mark, thousands not separated"
    with advised("data/sources/columns._numbers", advice):
        read_series(file, READING)
    file.write_text(lines("\t".join(LABELS)))
    same(read_series(file, READING))


def test_merged_cells_above_phenotypes(tmp_path):
    file = tmp_path / "people.csv"
    file.write_text(",Demographics,,Clinical,\nparticipant_id,age,sex,score,date\n1,30,F,2.5,x\n")
    assert [*read_table(file).frame.columns] == ["participant_id", "age", "sex", "score", "date"]
    assert "header in line 2" in read_table(file).notes[0]
    file.write_text(",file,subject\nr1,a.npy,s1\nr2,b.npy,s2\n")
    assert [*read_table(file).frame.columns] == ["file", "subject"]


def test_names_of_rois_in_tables_of_colours(tmp_path):
    file = tmp_path / "names.txt"
    rows = [f"{value} {name} 10 20 30 0" for value, name in zip(ATLAS.index, LABELS, strict=True)]
    file.write_text("\n".join(["0 Unknown 0 0 0 0", *rows]))
    assert read_names(file) == ATLAS.labels
    rows = [f"{i},{name}" for i, name in enumerate(LABELS)]
    file.write_text("\n".join(["ROI,Region name", *rows]))
    assert read_names(file) == ATLAS.labels


def test_names_that_are_not_there(tmp_path):
    file, names = tmp_path / "sub-01.npy", {"roi_names": ATLAS.labels}
    np.save(file, SIGNAL)
    with advised("data/sources/series.read_series", "Give the names (roi_names, --roi-names)"):
        read_series(file, READING)
    same(read_series(file, replace(READING, **names)))
    advice = "Give one name per column (roi_names, --roi-names)"
    with advised("data/sources/series._oriented", advice):
        read_series(file, replace(READING, roi_names=ATLAS.labels[:6]))
    np.savez(tmp_path / "sub-01.npz", ts=SIGNAL, labels=np.array(LABELS), age=3)
    same(read_series(tmp_path / "sub-01.npz", READING))


@pytest.mark.parametrize("content", [SIGNAL[None], SIGNAL + 1j, np.array([[1, "x"]], object)])
def test_arrays_that_are_no_series(tmp_path, content):
    file, named = tmp_path / "sub-01.npy", replace(READING, roi_names=ATLAS.labels)
    np.save(file, content, allow_pickle=True)
    place = "data/sources/series._read_npy"
    if content.dtype != object:
        place = "data/sources/matlab.matrix"
    with advised(place, "Save one matrix of real numbers per recording"):
        read_series(file, named)
    np.save(file, SIGNAL)
    same(read_series(file, named))


@pytest.mark.parametrize("half", [np.triu, np.tril])
def test_half_of_a_connectivity_matrix(tmp_path, half):
    file = tmp_path / "sub-01.npy"
    np.save(file, half(np.corrcoef(SIGNAL.T), 0))
    advice = "Give the file of the series that it was computed from"
    with advised("data/sources/series._refuse_connectivity", advice):
        read_series(file, replace(READING, roi_names=ATLAS.labels))


def test_sessions_and_pipelines_of_dpabi(tmp_path):
    named = replace(READING, roi_names=ATLAS.labels)
    for folder in ("ROISignals_A", "S2_ROISignals_A", "ROISignals_Aglobal"):
        (tmp_path / folder).mkdir()
        np.savetxt(tmp_path / folder / "ROISignals_01.txt", SIGNAL)
    with advised("data/sources/toolboxes._dpabi", "Give one of these folders"):
        find_items(tmp_path, named)
    assert len(load(tmp_path / "ROISignals_Aglobal", named)) == 1
    (tmp_path / "ROISignals_Aglobal" / "ROISignals_01.txt").unlink()
    assert [(r.subject, r.session) for r in load(tmp_path, named)] == [("01", "1"), ("01", "2")]


# -- images ----------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    image = trees.atlas_volume(tmp_path / "seven.nii.gz", ATLAS)
    return Reading(atlas=ATLAS, atlas_images=(image,), denoise=None)


@pytest.mark.parametrize(
    ("zoom", "unit"), [(2, "sec"), (2000, "msec"), (2e6, "usec"), (2000, "sec"), (2, "msec")]
)
def test_a_header_suggests_a_tr_that_works(tmp_path, images, zoom, unit):
    file = trees.volume(tmp_path / "sub-01_bold.nii.gz", STUDY, "01", tr=zoom)
    image = nib.load(file)
    image = nib.Nifti1Image(image.get_fdata(), image.affine, image.header)
    image.header.set_xyzt_units("mm", unit)
    nib.save(image, file)
    advice = "Confirm it (source_tr="
    with (
        pytest.raises(ValueError, match="--source-tr 2"),
        advised("data/sources/bids._seconds", advice, raised=True),
    ):
        load(file, images)
    assert load(file, replace(images, tr=2.0))[0].tr == 2


@pytest.mark.parametrize("packed", [True, False])
def test_endings_that_do_not_fit(tmp_path, images, packed):
    good = trees.volume(tmp_path / f"sub-01_bold.nii{'.gz' * packed}", STUDY, "01")
    bad = good.rename(tmp_path / f"sub-01_bold.nii{'.gz' * (not packed)}")
    with advised("atlas/volume.load_image", "Rename it: it is "):
        read_image(bad, images)
    bad.rename(good)
    assert read_image(good, images).signal.shape == SIGNAL.shape


def test_axes_that_are_not_four(tmp_path, images):
    file = trees.volume(tmp_path / "sub-01_bold.nii.gz", STUDY, "01")
    image = nib.load(file)
    five = nib.Nifti1Image(image.get_fdata()[:, :, :, None], image.affine)
    nib.save(five, tmp_path / "five.nii.gz")
    with advised("data/sources/images._volume", "Save it with the axes x, y, z, time"):
        read_image(tmp_path / "five.nii.gz", images)
    assert read_image(file, images).signal.shape == SIGNAL.shape


@pytest.mark.parametrize("exponent", [0, -3])
def test_units_of_cifti(tmp_path, exponent):
    file = trees.ptseries(tmp_path / "sub-01_bold.ptseries.nii", STUDY, "01")
    image, reading = nib.load(file), Reading(atlas=ATLAS)
    axis = image.header.matrix.get_index_map(0)
    axis.series_exponent, axis.series_step = exponent, 2 * 10**-exponent

    def saved(name):
        data = np.asarray(image.dataobj)
        nib.save(nib.Cifti2Image(data, image.header, image.nifti_header), tmp_path / name)
        return tmp_path / name

    assert load(saved("sub-02_bold.ptseries.nii"), reading)[0].tr == 2
    axis.series_unit = "HERTZ"
    hertz = saved("sub-03_bold.ptseries.nii")
    with advised("data/sources/bids._seconds", ", or give it (source_tr, --source-tr), which"):
        load(hertz, reading)
    assert load(hertz, replace(reading, tr=2.0))[0].tr == 2


@pytest.mark.parametrize("stated", ["name", "metadata"])
def test_hemispheres_that_are_swapped(tmp_path, stated):
    series, labels = trees.gifti(tmp_path, STUDY, "01")
    if stated == "metadata":
        for k, side in enumerate(("Left", "Right")):
            image = nib.load(labels[k])
            meta = {"AnatomicalStructurePrimary": f"Cortex{side}"}
            image.darrays[0].meta = nib.gifti.GiftiMetaData(meta)
            nib.save(image, tmp_path / f"{k}.label.gii")
        labels = (tmp_path / "0.label.gii", tmp_path / "1.label.gii")
    reading = Reading(atlas=ATLAS, atlas_images=labels)
    with advised("data/sources/images._surface", "Give the left one first"):
        read_image(series, replace(reading, atlas_images=labels[::-1]))
    assert read_image(series, reading).signal.shape == SIGNAL.shape


def test_images_that_are_raw(tmp_path, images):
    tree = tmp_path / "bids"
    raw = trees.volume(tree / "sub-01" / "func" / "sub-01_task-rest_bold.nii.gz", STUDY, "01")
    advice = "Its images are raw or in the space of a person: preprocess them with fMRIPrep, "
    with advised("data/sources/variants._nothing", advice):
        find_items(tree, images)
    raw.rename(raw.with_name("sub-01_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"))
    assert len(find_items(tree, images)) == 1


# -- what lies beside ------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_sidecars_in_other_encodings(tmp_path, encoding):
    np.save(tmp_path / "sub-01.npy", SIGNAL)
    named, beside = Reading(atlas=ATLAS, roi_names=ATLAS.labels), tmp_path / "sub-01.json"
    beside.write_text("{'RepetitionTime': 2}")
    advice = "Correct it, or move it out of the folder"
    with advised("data/sources/bids.read_json", advice):
        load(tmp_path / "sub-01.npy", named)
    beside.write_bytes('{"RepetitionTime": 2, "Site": "Köln"}'.encode(encoding))
    assert load(tmp_path / "sub-01.npy", named)[0].tr == 2
    beside.unlink()
    assert load(tmp_path / "sub-01.npy", replace(named, tr=2.0))[0].tr == 2


@pytest.mark.parametrize("way", ["utf-16", "semicolons", "commas"])
def test_confounds_that_a_spreadsheet_saved(tmp_path, images, way):
    tree = trees.fmriprep(tmp_path / "prep", STUDY)
    reading = replace(images, denoise="simple")
    good = {file: file.read_text() for file in tree.rglob("*confounds_timeseries.tsv")}
    for file, text in good.items():
        changed = {
            "utf-16": text.encode("utf-16"),
            "semicolons": text.replace("\t", ";").encode(),
            "commas": text.replace(".", ",").encode(),
        }
        file.write_bytes(changed[way])
    advice = "Save it again as UTF-8 text, separated by tabs, with decimal points"
    with advised("data/sources/derivatives._denoising", advice):
        load(tree, reading)
    for file, text in good.items():
        file.write_text(text)
    assert load(tree, reading)[0].confounds is not None


def test_outliers_as_truth_values(tmp_path):
    tree = trees.xcpd(tmp_path, STUDY, censored={"01": (5, 6)})
    (file,) = tree.rglob("sub-01*_outliers.tsv")
    text = file.read_text()
    file.write_text(text.replace("0\n", "2\n"))
    advice = "Write 1 for an outlier and 0 for all others"
    with advised("data/sources/scans.read_outliers", advice):
        load(tree)
    for good in (text, text.replace("0\n", "False\n").replace("1\n", "True\n")):
        file.write_text(good)
        np.testing.assert_array_equal(np.flatnonzero(~load(tree)[0].kept), [5, 6])


def test_motion_of_another_scan(tmp_path):
    tree = trees.xcpd(tmp_path, STUDY)
    (file,) = tree.rglob("sub-01*_motion.tsv")
    whole = file.read_text()
    file.write_text("\n".join(whole.split("\n")[:40]))
    advice = "Restore the file, or move it out of the folder"
    with advised("data/sources/derivatives._load_series", advice):
        load(tree)
    file.write_text(whole)
    assert load(tree)[0].mean_fd == pytest.approx(0.15, rel=0.02)
    file.unlink()
    assert load(tree)[0].mean_fd is None


def test_unknown_coverage_is_none(tmp_path):
    tree = trees.halfpipe(tmp_path, STUDY)
    for file in tree.rglob("*timeseries.json"):
        file.write_text(json.dumps({"SamplingFrequency": 0.5, "Coverage": [1.0] * 6 + [None]}))
    found = load(tree, replace(READING, roi_names=ATLAS.labels))
    np.testing.assert_array_equal(found[0].coverage, [1] * 6 + [0])


def test_cohorts_of_infants(tmp_path):
    tree = trees.xcpd(tmp_path, STUDY)
    for k, subject in enumerate(STUDY.subjects):
        for file in [*tree.rglob(f"sub-{subject}_*")]:
            space = f"space-MNIInfant_cohort-{k + 1}"
            file.rename(file.with_name(file.name.replace(f"space-{trees.SPACE}", space)))
    items = find_items(tree, READING)
    assert len(items) == 2
    assert items[0].notes[0].startswith("cohorts 1, 2 of the space in one store; --where cohort=1")
    assert len(load(tree, replace(READING, entities={"cohort": "2"}))) == 1


def test_names_given_for_headers_of_values_in_folders(tmp_path):
    """C-PAC's header numbers the ROIs of an atlas that may be in any order."""
    for subject, signal in STUDY.signals.items():
        func = tmp_path / f"sub-{subject}" / "func"
        func.mkdir(parents=True)
        header = "\t".join(f"#{k}" for k in range(101, 108))
        name = f"sub-{subject}_task-rest_atlas-seven_desc-Mean-1_timeseries.1D"
        (func / name).write_text(lines(header, rows=signal))
    advice = "Choose the parcellation of the files (--atlas), or name their columns (--roi-names)"
    with advised("data/sources/variants._fitting", advice):
        find_items(tmp_path, READING)
    found = load(tmp_path, replace(READING, roi_names=ATLAS.labels))
    np.testing.assert_array_equal(found[0].signal, SIGNAL)


def test_a_rule_that_cannot_tell_fails_its_recording_only(tmp_path):
    tree = trees.xcpd(tmp_path / "xcpd", STUDY)
    next(tree.rglob("sub-02*_motion.tsv")).unlink()
    rules = QualityRules(max_mean_fd=0.5)
    report = prepare_store(str(tree), tmp_path / "store", reading=READING, quality=rules)
    assert [*report.quality["status"]] == ["stored", "failed"]
    assert "mean_fd is not known" in report.quality["reason"][1]


def test_packed_tables_are_told_by_their_content(tmp_path):
    text = lines("\t".join(LABELS)).encode()
    for name, content in (("a.tsv", gzip.compress(text)), ("b.tsv.gz", text)):
        (tmp_path / f"sub-01_{name}").write_bytes(content)
        same(read_series(tmp_path / f"sub-01_{name}", READING))

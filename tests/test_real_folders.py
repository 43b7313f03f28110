"""Layouts that tools write: XCP-D through its releases, scaled images, several files of motion."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import trees
from semantoks.data.sources.find import READERS, find_items
from semantoks.data.sources.images import read_image
from semantoks.data.sources.items import Reading
from semantoks.errors import InputError
from semantoks.workflow.prepare import prepare_store


@pytest.fixture
def study():
    return trees.make_study(n_subjects=2)


def func_of(root, subject):
    return root / f"sub-{subject}" / "func"


def test_every_source_has_one_reader(tmp_path, study):
    (tmp_path / "x").mkdir()
    np.savetxt(tmp_path / "x" / "ROISignals_01.txt", study.signals["01"])
    (tmp_path / "abide.schaefer400.arrow" / "train").mkdir(parents=True)
    (tmp_path / "abide.schaefer400.arrow" / "train" / "data-00000-of-00001.arrow").touch()
    sources = {
        "toolbox": tmp_path / "x",
        "arrow": tmp_path / "abide.schaefer400.arrow",
        "derivatives": trees.fmriprep(tmp_path / "fmriprep", study),
        "hdf5": trees.hdf5(tmp_path / "all.h5", study),
        "table": trees.table(tmp_path / "table", study),
        "image": trees.volume(tmp_path / "sub-01_bold.nii.gz", study, "01"),
        "series": trees.ptseries(tmp_path / "sub-01_bold.ptseries.nii", study, "01"),
    }
    assert sources.keys() == READERS.keys()
    for kind, path in sources.items():
        assert next(name for name, reader in READERS.items() if reader.holds(path)) == kind


def test_an_unknown_source_lists_every_reader(tmp_path, study):
    (tmp_path / "notes.docx").write_text("none")
    with pytest.raises(InputError) as error:
        find_items(tmp_path / "notes.docx", Reading(atlas=study.atlas))
    assert all(reader.help in str(error.value) for reader in READERS.values())


@pytest.mark.parametrize("dtype", [np.int16, np.uint8])
def test_scaled_volumes_are_read_as_nibabel_reads_them(tmp_path, study, dtype):
    atlas = trees.atlas_volume(tmp_path / "atlas.nii.gz", study.atlas)
    data = nib.load(trees.volume(tmp_path / "plain.nii.gz", study, "01")).get_fdata()
    image = nib.Nifti1Image(data, trees.AFFINE)
    image.set_data_dtype(dtype)
    nib.save(image, tmp_path / "scaled.nii.gz")
    stored = nib.load(tmp_path / "scaled.nii.gz")
    assert stored.dataobj.slope != 1
    nib.save(
        nib.Nifti1Image(stored.get_fdata(dtype=np.float32), trees.AFFINE), tmp_path / "known.nii.gz"
    )
    reading = Reading(atlas=study.atlas, atlas_images=(atlas,))
    read, known = (read_image(tmp_path / f"{name}.nii.gz", reading) for name in ("scaled", "known"))
    assert np.allclose(read.signal, known.signal, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("censored", [False, True])
def test_volumes_left_out_to_equal_lengths_are_no_outliers(tmp_path, study, censored):
    out = (4, 11, 30)
    root = trees.xcpd(tmp_path, study, censored={"01": out if censored else (), "02": ()})
    path = func_of(root, "01") / "sub-01_task-rest_outliers.tsv"
    n_times = len(study.signals["01"])
    table = pd.DataFrame({"framewise_displacement": np.isin(np.arange(n_times), out).astype(int)})
    table["exact_20"] = (np.arange(n_times) >= 20).astype(int)
    table.to_csv(path, sep="\t", index=False)
    recording = find_items(root, Reading(atlas=study.atlas))[0].load()
    assert np.flatnonzero(~recording.kept).tolist() == list(out)


def rename_motion(root, subject, *descriptions):
    folder = func_of(root, subject)
    plain = folder / f"sub-{subject}_task-rest_motion.tsv"
    for k, desc in enumerate(descriptions, start=1):
        frame = pd.read_csv(plain, sep="\t") + k
        frame.to_csv(folder / f"sub-{subject}_task-rest_{desc}_motion.tsv", sep="\t", index=False)
    return plain


def test_unfiltered_motion_is_meant(tmp_path, study):
    root = trees.xcpd(tmp_path, study)
    rename_motion(root, "02", "desc-filtered")
    one, two = (item.load() for item in find_items(root, Reading(atlas=study.atlas)))
    assert one.mean_fd < two.mean_fd < 0.15  # displaced files would be above 1


def test_unclear_motion_stops_one_recording_only(tmp_path, study):
    root = trees.xcpd(tmp_path, study)
    rename_motion(root, "02", "desc-filtered", "desc-other").unlink()
    one, two = find_items(root, Reading(atlas=study.atlas))
    assert np.isfinite(one.load().mean_fd)
    with pytest.raises(InputError, match=r"several files motion: .*filtered.*other"):
        two.load()


def with_cifti(root, study):
    for subject in study.subjects:
        stem = f"sub-{subject}_task-rest_space-{trees.SPACE}_seg-Seven_den-91k_stat-mean"
        trees.ptseries(func_of(root, subject) / f"{stem}_timeseries.ptseries.nii", study, subject)
    return root


@pytest.mark.parametrize(
    ("entities", "ending"), [({}, ".tsv"), ({"den": "91k"}, ".ptseries.nii"), ({"den": ""}, ".tsv")]
)
def test_a_density_in_one_of_two_names_is_no_other_kind(tmp_path, study, entities, ending):
    uncovered = study.atlas.labels[3]
    root = with_cifti(trees.xcpd(tmp_path, study, uncovered={"02": uncovered}), study)
    items = find_items(root, Reading(atlas=study.atlas, entities=entities))
    assert len(items) == 2
    assert all(item.files[0].name.endswith(ending) for item in items)
    coverage = items[1].load().coverage
    assert coverage.tolist() == [0.2 if name == uncovered else 1 for name in study.atlas.labels]


def test_kinds_are_told_apart_by_the_entity_in_which_they_differ(tmp_path, study):
    root = trees.xcpd(tmp_path / "a", study)
    trees.xcpd(root / "again", study, atlas_name="Same")
    with pytest.raises(
        InputError, match=r"several kinds.*one kind: --where seg=Same, --where seg="
    ):
        find_items(root, Reading(atlas=study.atlas))
    assert len(find_items(root, Reading(atlas=study.atlas, entities={"seg": "Same"}))) == 2


def test_an_entity_that_no_file_has_is_named_with_those_that_there_are(tmp_path, study):
    root = trees.xcpd(tmp_path, study)
    with pytest.raises(
        InputError, match=r"--where task = 'nback': no file.*have --where task=rest"
    ):
        find_items(root, Reading(atlas=study.atlas, entities={"task": "nback"}))


def test_a_damaged_first_file_does_not_decide_for_the_others(tmp_path, study):
    root = trees.xcpd(tmp_path, study)
    next(func_of(root, "01").glob("*seg-Seven*_timeseries.tsv")).write_bytes(b"")
    one, two = find_items(root, Reading(atlas=study.atlas))
    assert two.load().subject == "02"
    with pytest.raises(InputError, match="empty"):
        one.load()


def test_ica_aroma_reads_its_own_images(tmp_path, study):
    """And says so where there are none; other strategies leave them alone."""
    atlas = trees.atlas_volume(tmp_path / "atlas.nii.gz", study.atlas)
    root = trees.fmriprep(tmp_path / "fmriprep", study)
    reading = Reading(atlas=study.atlas, atlas_images=(atlas,), denoise="ica_aroma")
    with pytest.raises(InputError, match=r"smoothAROMAnonaggr.*--denoise simple"):
        find_items(root, reading)
    for subject in study.subjects:
        stem = f"sub-{subject}_task-rest_space-{trees.SPACE}_desc-smoothAROMAnonaggr_bold"
        trees.volume(func_of(root, subject) / f"{stem}.nii.gz", study, subject)
        (func_of(root, subject) / f"{stem}.json").write_text('{"RepetitionTime": 2.0}')
    items = find_items(root, reading)
    assert all("smoothAROMAnonaggr" in item.files[0].name for item in items)
    confounds = items[0].load().confounds
    assert confounds.shape == (
        len(study.signals["01"]),
        4,
    )  # white matter, CSF, two of low frequency: no motion
    simple = find_items(root, replace(reading, denoise="simple"))
    assert all("desc-preproc_bold" in item.files[0].name for item in simple)


@pytest.mark.parametrize("name", ["desc-confounds_timeseries", "desc-confounds_regressors"])
def test_confounds_have_an_old_and_a_new_name(tmp_path, study, name):
    atlas = trees.atlas_volume(tmp_path / "atlas.nii.gz", study.atlas)
    root = trees.fmriprep(tmp_path / "fmriprep", study)
    for path in root.rglob("*desc-confounds_timeseries.*"):
        path.rename(path.with_name(path.name.replace("desc-confounds_timeseries", name)))
    recording = find_items(root, Reading(atlas=study.atlas, atlas_images=(atlas,)))[0].load()
    assert recording.confounds is not None
    assert recording.mean_fd == pytest.approx(0.1)


def joined(root, subject, runs):
    """Turn the scan of a subject into runs and their concatenation, as XCP-D names them."""
    for path in sorted(func_of(root, subject).iterdir()):
        content = path.read_text()
        for run in runs:
            path.with_name(path.name.replace("task-rest", f"task-rest_run-{run}")).write_text(
                content
            )
        if path.name.endswith(("timeseries.tsv", "motion.tsv", "outliers.tsv")):
            header, *rows = content.splitlines()
            path.write_text("\n".join([header, *rows * len(runs)]) + "\n")


@pytest.mark.parametrize("runs", [("01",), ("01", "02")])
def test_the_concatenation_of_runs_is_left_out_with_a_note(tmp_path, study, runs):
    root = trees.xcpd(tmp_path, study)
    joined(root, "02", runs)
    first, *others = find_items(root, Reading(atlas=study.atlas))
    assert [item.id for item in others] == [f"sub-02_task-rest_run-{run}" for run in runs]
    assert first.notes == ()
    assert "--where run=" in others[0].notes[0]
    whole = find_items(root, Reading(atlas=study.atlas, entities={"run": ""}))
    assert [item.id for item in whole] == ["sub-01_task-rest", "sub-02_task-rest"]
    assert len(whole[1].load().signal) == len(runs) * len(study.signals["02"])


def test_files_of_another_hash_are_not_beside(tmp_path, study):
    """fMRIPrep's multiverse: two pipelines side by side, confounds of each."""
    atlas = trees.atlas_volume(tmp_path / "atlas.nii.gz", study.atlas)
    root = trees.fmriprep(tmp_path / "fmriprep", study)
    for path in sorted(root.rglob("*task-rest*")):
        for hash_ in ("aa11", "bb22"):
            name = path.name.replace("task-rest", f"task-rest_hash-{hash_}")
            path.with_name(name).write_bytes(path.read_bytes())
        path.unlink()
    reading = Reading(atlas=study.atlas, atlas_images=(atlas,))
    with pytest.raises(InputError, match=r"--where hash=aa11, --where hash=bb22"):
        find_items(root, reading)
    items = find_items(root, replace(reading, entities={"hash": "bb22"}))
    assert all("bb22" in path.name for item in items for path in item.files)
    assert items[0].load().confounds is not None


def test_tasks_of_a_folder_are_named_with_the_way_to_choose_one(tmp_path, study, monkeypatch):
    monkeypatch.setattr("semantoks.workflow.prepare.write_quality_page", lambda _: None)
    root, reading = trees.xcpd(tmp_path / "xcpd", study), Reading(atlas=study.atlas)
    for file in func_of(root, "02").iterdir():
        file.rename(file.with_name(file.name.replace("task-rest", "task-nback")))
    report = prepare_store(str(root), tmp_path / "store", reading=reading)
    (told,) = (remark for remark in report.remarks if "several tasks" in remark)
    assert "rest 1" in told
    assert "nback 1" in told
    chosen = dict([told.partition("--where ")[2].split()[0].split("=")])
    assert len(find_items(root, replace(reading, entities=chosen))) == 1

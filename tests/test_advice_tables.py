"""Advice about tables, atlases and files of series, followed: the same call gets through."""

from __future__ import annotations

import builtins
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import trees
from advice import advised
from semantoks.atlas.channels import Channels
from semantoks.atlas.parcellation import Parcellation
from semantoks.atlas.transfer import Transfer
from semantoks.atlas.volume import AtlasVolume
from semantoks.data.phenotypes import PhenotypeRules, Phenotypes, check_overlap
from semantoks.data.reader import RecordingStore
from semantoks.data.signal import Preprocessing
from semantoks.data.sources.find import find_items
from semantoks.data.sources.items import Reading
from semantoks.data.sources.series import read_series
from semantoks.data.sources.table import table_items
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.pretrained import save_model
from semantoks.tables import read_names, read_table
from semantoks.workflow.prepare import _items, assign_atlas, prepare_store

NETWORKS = ("Vis", "Vis", "Cont", "Cont", "Default")
ATLAS = Parcellation(name="five", labels=("a1", "a2", "b1", "b2", "c1"), networks=NETWORKS)
SIGNAL = np.random.default_rng(4).standard_normal((31, 5)).round(4)


@pytest.fixture
def write(tmp_path):
    def make(name, content):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True, parents=True)
        if isinstance(content, str):
            file.write_text(content)
        elif isinstance(content, np.ndarray):
            np.save(file, content)
        elif file.suffix == ".xlsx":
            pytest.importorskip("openpyxl")
            content.to_excel(file, index=False)
        else:
            content.to_csv(file, sep="\t" if ".tsv" in name else ",", index=False)
        return file

    return make


class Electrodes(Channels):
    name, labels, space = "three", ("x", "y", "z"), "MNI152"
    coordinates = np.zeros((3, 3))
    groups = ("g", "g", "h")


def volume(path, values, affine=None):
    nib.save(nib.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


# -- tables ----------------------------------------------------------------------------------------


def test_names_in_several_columns(write):
    file = write("names.tsv", "value\twhat\tside\n3\tx\tL\n4\ty\tR\n")
    with advised("tables.read_names", "Call it label"):
        read_names(file)
    write("names.tsv", "value\tlabel\tside\n3\tx\tL\n4\ty\tR\n")
    assert read_names(file) == ("x", "y")


def test_cells_with_the_separator(write):
    file = write("people.csv", "who,town\n1,Bern\n2,Basel\n3,Zug\n4,Chur, GR\n")
    with advised("tables._columns", "Quote the cells that hold the separator"):
        read_table(file)
    write("people.csv", 'who,town\n1,Bern\n2,Basel\n3,Zug\n4,"Chur, GR"\n')
    assert read_table(file).frame["town"][3] == "Chur, GR"


def test_sheets(write, monkeypatch):
    frame = pd.DataFrame({"who": [1, 2], "age": [30, 41]})
    file, saved = write("people.xlsx", frame), write("people.csv", frame)
    real = builtins.__import__

    def without(name, *others, **more):
        if name == "openpyxl":
            raise ImportError
        return real(name, *others, **more)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without)
        advice = "Install it: pip install semantoks[excel], or save the sheet as .csv"
        with advised("tables._excel", advice):
            read_table(file)
        assert read_table(saved).frame["age"].tolist() == [30, 41]
    assert read_table(file).frame["age"].tolist() == [30, 41]  # installed
    with pd.ExcelWriter(file) as book:
        frame.to_excel(book, sheet_name="one", index=False)
        frame.to_excel(book, sheet_name="two", index=False)
    with advised("tables._excel", "Save the one that is meant in a file of its own"):
        read_table(file)
    write("people.xlsx", frame)
    assert read_table(file).frame["age"].tolist() == [30, 41]
    file.write_bytes(file.read_bytes()[:300])
    with advised("tables._excel", "Save the sheet as .csv"):
        read_table(file)
    assert read_table(saved).frame["age"].tolist() == [30, 41]


# -- atlases ---------------------------------------------------------------------------------------


def test_names_of_atlases_and_networks():
    with advised("atlas/parcellation.load", "Did you mean"):
        Parcellation.load("schaefer40")
    Parcellation.load("schaefer400")
    with advised("atlas/parcellation.select", "Did you mean"):
        ATLAS.select(networks=["Viz"])
    assert len(ATLAS.select(networks=["Vis"])) == 2
    reading = Reading(atlas=ATLAS)
    with advised("workflow/prepare._items", "Did you mean"):
        _items("stage", reading)
    _items("stages", None)
    with advised("workflow/prepare._items", "Leave the atlas and the TR out"):
        _items("stages", reading)


def test_an_atlas_that_is_not_stated(write):
    file = write("sub-1_ts.csv", pd.DataFrame(SIGNAL, columns=ATLAS.labels))
    with advised("workflow/prepare._items", "Give a built-in one"):
        _items(str(file), None)
    ATLAS.save(file.with_name("five.tsv"))
    own = Parcellation.load(file.with_name("five.tsv"))
    assert len(_items(str(file), Reading(atlas=own))[0]) == 1
    assert len(_items(str(file), Reading(atlas=Parcellation.load("cc200")))[0]) == 1


def test_an_atlas_without_networks(write):
    file = write("mine.csv", "label,system\nx,Vis\ny,Cont\n")
    advice = "Give a table with the columns label and network"
    with advised("atlas/parcellation.from_frame", advice):
        Parcellation.load(file)
    write("mine.csv", "label,network\nx,Vis\ny,Cont\n")
    assert Parcellation.load(file).labels == ("x", "y")


def test_names_that_are_not_those_of_the_atlas():
    place = "atlas/parcellation._misfit"
    with advised(place, "Name every column as "):
        ATLAS.columns_of(("1", "2", "3", "4", "5"))
    ATLAS.columns_of(ATLAS.labels)
    with advised(place, "These are the names of "):
        ATLAS.columns_of(Parcellation.load("cc200").labels)
    Parcellation.load("cc200").columns_of(Parcellation.load("cc200").labels)  # chosen
    some = ATLAS.labels[:3]
    with advised(place, "Mark the others as missing (missing_rois, --missing-rois mark), or cut "):
        ATLAS.columns_of(some)
    assert ATLAS.columns_of(some, absent=True).tolist() == [0, 1, 2, -1, -1]
    assert ATLAS.select(some).columns_of(some).tolist() == [0, 1, 2]
    more = (*ATLAS.labels, "z")
    with advised(place, "Drop the others (extra_rois, --extra-rois drop)"):
        ATLAS.columns_of(more)
    assert ATLAS.columns_of(more, extra=True).tolist() == [0, 1, 2, 3, 4]
    both = (*ATLAS.labels[:4], "z")
    advice = "; or drop the others and mark what is missing (--extra-rois drop "
    with advised(place, advice):
        ATLAS.columns_of(both)
    assert ATLAS.columns_of(both, extra=True, absent=True).tolist() == [0, 1, 2, 3, -1]
    channels = Electrodes()
    with advised("atlas/channels._misfit", "Name every column as "):
        channels.indices_of(("x", "q"))
    assert channels.indices_of(("x", "z")) == [0, 2]


def test_names_of_two_schemes():
    atlas = Parcellation(
        name="two", labels=("x", "y"), networks=("g", "h"), aliases=(("#1",), ("#2",))
    )
    with advised("atlas/parcellation.columns_of", "Name all columns in one scheme"):
        atlas.columns_of(("x", "#2"))
    for names in (("x", "y"), ("#2", "#1")):
        assert sorted(atlas.columns_of(names)) == [0, 1]


def test_images_of_atlases(tmp_path):
    values = np.zeros((6, 6, 6), np.int16)
    for k in range(5):
        values[k : k + 1, 1:5, 1:5] = k + 1
    image = volume(tmp_path / "five.nii", values)
    advice = "Add a column `index` with the values of the image to its table"
    with advised("atlas/volume._index", advice):
        AtlasVolume.load(image, ATLAS)
    indexed = replace(ATLAS, index=(1, 2, 3, 4, 5))
    AtlasVolume.load(image, indexed)
    other = volume(tmp_path / "other.nii", np.where(values, values + 50, 0).astype(np.int16))
    with advised("atlas/volume._index", "Give the image of this atlas, or a table of your own"):
        AtlasVolume.load(other, indexed)
    AtlasVolume.load(image, indexed)
    AtlasVolume.load(other, replace(ATLAS, index=(51, 52, 53, 54, 55)))
    far = np.eye(4)
    far[:3, 3] = 500
    away = volume(tmp_path / "away.nii", values, far)
    with advised("atlas/transfer.between", "Give images in the same space"):
        Transfer.between(indexed, image, indexed, away)
    Transfer.between(indexed, image, indexed, image)


def test_the_other_order_of_schaefers_atlas(tmp_path):
    atlas, other = Parcellation.load("schaefer100"), Parcellation.load("schaefer100-17n")
    values, affine = np.zeros((91, 109, 91), np.int16), np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -90, -126, -72
    for index, centre in zip(other.index, other.coordinates, strict=True):
        values[tuple(np.rint((centre - affine[:3, 3]) / 2).astype(int))] = index
    image = volume(tmp_path / "schaefer.nii", values, affine)
    advice = "Schaefer's volumes come in two orders: `-17n` names that of 17 networks"
    with advised("atlas/volume._check_places", advice):
        AtlasVolume.load(image, atlas)
    AtlasVolume.load(image, other)


def test_labels_of_values(tmp_path, write):
    values = np.zeros((9, 9, 9), np.int16)
    values[2:5, 2:5, 2:5] = 4
    image = volume(tmp_path / "one.nii", values, np.diag([4.0, 4, 4, 1]))
    labels = write("labels.csv", "value,name\n4,thalamus\n")
    with advised("workflow/prepare._labels_of_values", "Name its columns so"):
        assign_atlas(image, tmp_path / "out.tsv", labels)
    write("labels.csv", "index,label\n4,thalamus\n")
    assert assign_atlas(image, tmp_path / "out.tsv", labels)[0]["label"].tolist() == ["thalamus"]


# -- preprocessing for a model ---------------------------------------------------------------------


def test_a_store_is_prepared_for_a_model(tmp_path, write, parcellation, monkeypatch):
    monkeypatch.setattr("semantoks.workflow.prepare.write_quality_page", lambda _: None)
    steps = Preprocessing(tr=1.5, low_hz=None, high_hz=0.2)
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    encoder = Encoder.random(config, parcellation, steps, seed=2)
    (tmp_path / "model").mkdir()
    weights = {f"teacher.encoder.{k}": v for k, v in encoder.state_dict().items()}
    save_model(tmp_path / "model", weights, encoder, roles=("teacher",))
    signal = np.random.default_rng(3).standard_normal((60, len(parcellation)))
    file = write("sub-1_ts.csv", pd.DataFrame(signal, columns=parcellation.labels))

    def prepare(preprocessing=None):
        return prepare_store(
            str(file),
            tmp_path / "store",
            reading=Reading(atlas=parcellation, tr=1.5),
            preprocessing=preprocessing,
            for_model=tmp_path / "model",
        )

    with advised("workflow/prepare._preprocessing", "Leave TR, band and scaling out"):
        prepare(Preprocessing(tr=0.8))
    assert RecordingStore(prepare().store).preprocessing == steps


# -- phenotypes ------------------------------------------------------------------------------------


def test_columns_of_phenotypes(write):
    place = "data/phenotypes.read"
    file = write("people.tsv", "participant_id\tage\tlength\n1\t30\t5\n")
    with advised(place, "Rename the column, or choose others (columns, --phenotype)"):
        Phenotypes.read([file])
    assert Phenotypes.read([file], ["age"]).columns == ("age",)
    with advised(place, "Did you mean"):
        Phenotypes.read([file], ["agee"])
    write("people.tsv", "participant_id\tage\tminutes\n1\t30\t5\n")
    assert Phenotypes.read([file]).columns == ("age", "minutes")
    write("people.tsv", "who\tage\n1\t30\n")
    with advised("data/phenotypes._read", "Name the column of the subjects participant_id"):
        Phenotypes.read([file])
    write("people.tsv", "participant_id\tage\n1\t30\n")
    Phenotypes.read([file])
    write("people.tsv", "participant_id\tage\n1\t30\n1\t31\n")
    advice = "Keep one row per subject, or add a column session"
    with advised("data/phenotypes._doubled", advice):
        Phenotypes.read([file]).fill({"subject": "1", "session": None}, "here")
    write("people.tsv", "participant_id\tsession\tage\n1\ta\t30\n1\tb\t31\n")
    assert Phenotypes.read([file]).of("1", "b") == {"age": 31}


@pytest.mark.parametrize("dropped", [True, False])
def test_sessions_and_leading_zeros(write, dropped):
    file = write("people.tsv", "participant_id\tsession\tage\n01\t1\t30\n")
    recordings = [("sub-01", ("01", None))]
    place = "data/phenotypes.check_overlap"
    advice = "Write the sessions alike, or drop their column: then rows join by subject"
    with advised(place, advice):
        check_overlap(Phenotypes.read([file]), recordings)
    if dropped:
        write("people.tsv", "participant_id\tage\n01\t30\n")
        check_overlap(Phenotypes.read([file]), recordings)
    else:
        check_overlap(Phenotypes.read([file]), [("sub-01_ses-1", ("01", "1"))])
    write("people.tsv", "participant_id\tage\n1\t30\n")
    with advised(place, "Only leading zeros differ: write the subjects alike"):
        check_overlap(Phenotypes.read([file]), recordings)
    write("people.tsv", "participant_id\tage\n01\t30\n")
    check_overlap(Phenotypes.read([file]), recordings)


def test_a_table_of_other_people(tmp_path, write):
    file = write("participants.tsv", "participant_id\tage\nA\t30\n")
    recordings = [("sub-01", ("01", None))]
    advice = "Write the subjects alike, or join no table (--no-participants)"
    with advised("data/phenotypes.check_overlap", advice):
        check_overlap(PhenotypeRules().read(tmp_path), recordings)
    assert PhenotypeRules(participants=False).read(tmp_path) is None
    file.write_text("participant_id\tage\n01\t30\n")
    check_overlap(PhenotypeRules().read(tmp_path), recordings)


# -- series ----------------------------------------------------------------------------------------


def test_series_without_names(write):
    file, reading = write("a.csv", pd.DataFrame(SIGNAL)), Reading(atlas=ATLAS)
    write("a.csv", "\n".join(",".join(map(str, row)) for row in SIGNAL))
    advice = "Put the names into the first line, or give them (roi_names, --roi-names)"
    with advised("data/sources/series.read_series", advice):
        read_series(file, reading)
    given = replace(reading, roi_names=ATLAS.labels)
    assert read_series(file, given).names == ATLAS.labels
    write("a.csv", pd.DataFrame(SIGNAL, columns=ATLAS.labels))
    assert read_series(file, reading).names == ATLAS.labels


def test_names_for_other_columns(write):
    file = write("a.csv", pd.DataFrame(SIGNAL, columns=[f"V{i}" for i in range(5)]))
    reading = Reading(atlas=ATLAS, roi_names=ATLAS.labels[:4])
    with advised("data/sources/series.chosen_names", "Give one name per column"):
        read_series(file, reading)
    assert read_series(file, replace(reading, roi_names=ATLAS.labels)).names == ATLAS.labels


def test_series_that_lie_on_their_side(write):
    file = write("a.npy", SIGNAL.T)
    reading = Reading(atlas=ATLAS, roi_names=ATLAS.labels)
    with advised("data/sources/series._oriented", "Its other axis has "):
        read_series(file, reading)
    turned = read_series(file, replace(reading, orientation="rois-first"))
    np.testing.assert_array_equal(turned.signal, SIGNAL)


def test_connectivity_instead_of_series(write):
    reading = Reading(atlas=ATLAS, roi_names=ATLAS.labels)
    file = write("a.npy", np.corrcoef(SIGNAL.T))
    advice = "Give the file of the series that it was computed from"
    with advised("data/sources/series._refuse_connectivity", advice):
        read_series(file, reading)
    assert read_series(write("b.npy", SIGNAL), reading).signal.shape == SIGNAL.shape


def test_a_cut_line(write):
    text = pd.DataFrame(SIGNAL, columns=ATLAS.labels).to_csv(index=False)
    file, reading = write("a.csv", text[:-9]), Reading(atlas=ATLAS)
    advice = "Write the file again: it may be cut, or hold two tables"
    with advised("data/sources/columns._refuse_cut_rows", advice):
        read_series(file, reading)
    write("a.csv", text)
    assert read_series(file, reading).signal.shape == SIGNAL.shape


def test_arrays_of_matlab(tmp_path):
    from scipy.io import savemat

    reading = Reading(atlas=ATLAS, roi_names=ATLAS.labels)
    file = tmp_path / "a.mat"
    savemat(file, {"signal": SIGNAL, "other": SIGNAL * 2})
    with advised("data/sources/matlab.choose", "Choose one (variable, --variable)"):
        read_series(file, reading)
    with advised("data/sources/matlab.choose", "It has "):
        read_series(file, replace(reading, variable="sginal"))
    found = read_series(file, replace(reading, variable="other")).signal
    np.testing.assert_allclose(found, SIGNAL * 2)


@pytest.mark.parametrize("way", ["variable", "folder"])
def test_sessions_of_conn(tmp_path, way):
    from scipy.io import savemat

    cells = np.empty((1, 5), object)
    cells[0, :] = [column[:, None] for column in SIGNAL.T]
    names = np.empty((1, 5), object)
    names[0, :] = list(ATLAS.labels)
    file = tmp_path / "ROI_Subject001_Condition000.mat"
    sessions = np.repeat([1, 2], (15, 16))[:, None]
    savemat(file, {"data": cells, "names": names, "data_sessions": sessions})
    reading = Reading(atlas=ATLAS, tr=2.0)
    advice = "Choose one (variable, --variable), or give the folder: it is read by session"
    with advised("data/sources/matlab._conn", advice):
        read_series(file, reading)
    if way == "variable":
        assert len(read_series(file, replace(reading, variable="2")).signal) == 16
    else:
        assert [len(i.load().signal) for i in find_items(tmp_path, reading)] == [15, 16]


def test_files_outside_of_the_folder(tmp_path, write):
    write("data/a.csv", pd.DataFrame(SIGNAL, columns=ATLAS.labels))
    table = write("lists/all.tsv", "file\tsubject\ttr\n../data/a.csv\t1\t2\n")
    reading = Reading(atlas=ATLAS)
    with advised("data/sources/table._inside", "Say where the files are (root, --root)"):
        table_items(table, reading)
    write("lists/all.tsv", "file\tsubject\ttr\na.csv\t1\t2\n")
    (item,) = table_items(table, replace(reading, root=tmp_path / "data"))
    assert item.load().tr == 2


def test_a_file_without_a_subject(write):
    file = write("a.csv", pd.DataFrame(SIGNAL, columns=ATLAS.labels))
    reading = Reading(atlas=ATLAS, tr=2.0)
    with advised("data/sources/find._single", "Give it (subject, --subject)"):
        find_items(file, reading)
    (item,) = find_items(file, replace(reading, subject="7"))
    assert item.load().subject == "7"


# -- HDF5 ------------------------------------------------------------------------------------------


def test_hdf5_files(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    study = trees.make_study(n_subjects=2)
    file = trees.hdf5(tmp_path / "study.h5", study)
    reading = Reading(atlas=study.atlas, tr=2.0)
    advice = "Give the names in the file's order (--roi-names: a text file, or a parcellation)"
    with advised("data/sources/hdf5.hdf5_items", advice):
        find_items(file, reading)
    named = replace(reading, roi_names=study.atlas.labels)
    find_items(file, named)
    real = builtins.__import__

    def without(name, *others, **more):
        if name == "h5py":
            raise ImportError
        return real(name, *others, **more)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without)
        with advised("data/sources/matlab.import_h5py", "Install it: pip install semantoks[hdf5]"):
            find_items(file, named)
    find_items(file, named)  # installed
    with h5py.File(file, "a") as content:
        content["timeseries/other"] = content["timeseries/seven"][()]
        content["ts_len"] = np.array([500.0, 100.0])
    wide = replace(named, atlas=replace(study.atlas, name="mine"))
    advice = "Choose one (variable, --variable), or join several with +"
    with advised("data/sources/hdf5._atlases", advice):
        find_items(file, wide)
    find_items(file, replace(wide, variable="other"))
    place = "data/sources/hdf5._length"
    with advised(place, "Correct it, or remove it from the file: NaN then marks the padding"):
        find_items(file, named)[0].load()
    with h5py.File(file, "a") as content:
        content["ts_len"][0] = 90
    assert len(find_items(file, named)[0].load().signal) == 90
    with h5py.File(file, "a") as content:
        del content["ts_len"]
    assert len(find_items(file, named)[0].load().signal) == len(study.signals["01"])


def test_hdf5_files_that_link_to_others(tmp_path):
    h5py = pytest.importorskip("h5py")
    study = trees.make_study(n_subjects=2)
    file = trees.hdf5(tmp_path / "study.h5", study)
    linked = tmp_path / "linked.h5"
    reading = Reading(atlas=study.atlas, roi_names=study.atlas.labels, tr=2.0)
    with h5py.File(linked, "w") as content:
        content["timeseries/seven"] = h5py.ExternalLink(file, "timeseries/seven")
        content["long_subject_id"] = h5py.ExternalLink(file, "long_subject_id")
    advice = "Copy them into this one: links are not followed"
    with advised("data/sources/matlab.check_own", advice):
        find_items(linked, reading)
    with h5py.File(linked, "w") as content, h5py.File(file) as source:
        for name in ("timeseries/seven", "long_subject_id"):
            source.copy(name, content, name)
    assert len(find_items(linked, reading)) == 2

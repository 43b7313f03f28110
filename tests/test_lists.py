"""Lists of files as people write them: columns, paths, codes, durations; options without use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import trees
from advice import advised
from semantoks.data.phenotypes import PhenotypeRules, Phenotypes
from semantoks.data.sources.find import find_items
from semantoks.data.sources.items import Reading
from semantoks.tables import read_table
from semantoks.workflow.prepare import prepare_store

STUDY = trees.make_study(n_subjects=3, n_times=60)
READING = Reading(atlas=STUDY.atlas)


def listing(folder, file="file", subject="subject", **columns):
    """Write a list of files: every column given as one value or one per person, as text."""
    for name, signal in STUDY.signals.items():
        frame = pd.DataFrame(signal, columns=list(STUDY.atlas.labels))
        frame.to_csv(folder / f"{name}.tsv", sep="\t", index=False)
    rows = {file: [f"{name}.tsv" for name in STUDY.subjects], subject: STUDY.subjects}
    table = pd.DataFrame(rows | {"tr": "2"} | columns, dtype=object)
    table.to_csv(folder / "list.tsv", sep="\t", index=False)
    return folder / "list.tsv"


def load(table, reading=READING):
    return [item.load() for item in find_items(table, reading)]


def stored(table, tmp_path, **options):
    report = prepare_store(str(table), tmp_path / "store", reading=READING, **options)
    return pd.read_parquet(tmp_path / "store" / "recordings.parquet"), report.remarks


# -- columns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["File", "filename", "File path", "PATH"])
@pytest.mark.parametrize("subject", ["Subject", "participant_id", "SUB", "Subject ID"])
def test_columns_by_near_names(tmp_path, file, subject):
    table = listing(tmp_path, file, subject, Site="A", Mean_FD="0.2", Session=["1", "2", "3"])
    found = load(table)
    assert [r.subject for r in found] == STUDY.subjects
    assert [(r.site, r.mean_fd, r.session) for r in found] == [("A", 0.2, s) for s in "123"]
    assert not any(r.phenotypes for r in found)
    (notes,) = {item.notes for item in find_items(table, READING)}
    for name, known in ((file, "file"), (subject, "subject"), ("Mean_FD", "mean_fd")):
        assert f"list.tsv: the column {name} is read as {known}" in notes


def test_the_very_name_of_a_column_comes_first(tmp_path):
    table = listing(tmp_path, Participant_ID=["x", "y", "z"], path="elsewhere")
    found = load(table)
    assert [r.subject for r in found] == STUDY.subjects
    assert [r.phenotypes["Participant_ID"] for r in found] == ["x", "y", "z"]


def test_a_list_without_a_column(tmp_path):
    table = listing(tmp_path, subject="person")
    advice = "Rename the column that holds it to "
    with advised("data/sources/table._read_rows", advice):
        find_items(table, READING)
    assert len(load(listing(tmp_path))) == 3


@pytest.mark.parametrize("content", ["01.tsv\n02.tsv\n", "file subject\n01.tsv 01\n02.tsv 02\n"])
def test_a_list_without_separators_or_names(tmp_path, content):
    listing(tmp_path)
    table = tmp_path / "list.csv"
    table.write_text(content)
    advice = "Name its columns in the first line, separated by tabs, commas or semicolons"
    with advised("data/sources/find._single", advice):
        find_items(table, READING)
    table.write_text("file,subject,tr\n01.tsv,01,2\n02.tsv,02,2\n")
    assert len(load(table)) == 2


def test_columns_that_come_twice(tmp_path):
    table = tmp_path / "list.csv"
    table.write_text("age,sex,age\n1,F,2\n")
    with advised("tables._columns", "Rename one of them, or remove it"):
        read_table(table)
    for header, row in (("age,sex,age2", "1,F,2"), ("age,sex", "1,F")):
        table.write_text(f"{header}\n{row}\n")
        assert len(read_table(table).frame) == 1


# -- cells -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tr", ["2000 ms", "2000ms", "2 s", "2.0s", "2 sec", "2,0", "2000"])
def test_durations_with_units(tmp_path, tr):
    assert {r.tr for r in load(listing(tmp_path, tr=tr))} == {2.0}
    table = listing(tmp_path, tr=None)
    for name in STUDY.subjects:
        (tmp_path / f"{name}.json").write_text(f'{{"RepetitionTime": "{tr}", "StartTime": "{tr}"}}')
    starts = 2000.0 if tr == "2000" else 2.0  # a start may be late: no unit is guessed
    assert {(r.tr, r.start_time) for r in load(table)} == {(2.0, starts)}


@pytest.mark.parametrize("tr", ["two", "2 h", "~2", "ms"])
def test_durations_that_are_none(tmp_path, tr):
    table = listing(tmp_path, tr=tr)
    with advised("data/sources/table._item", "Correct the cell, or give the TR (source_tr, "):
        find_items(table, READING)
    found = load(table, replace(READING, tr=2.0))
    assert {r.tr for r in found} == {2.0}
    assert f"TR 2 s (--source-tr) overrides {tr!r} (table)" in found[0].notes
    assert len(load(listing(tmp_path))) == 3


@pytest.mark.parametrize(
    ("column", "cell"),
    [("mean_fd", "-0.1"), ("mean_fd", "0.2 mm"), ("mean_fd", "inf"), ("censored_fraction", "12")],
)
def test_numbers_out_of_their_range(tmp_path, column, cell):
    table = listing(tmp_path, **{column: cell})
    with advised("data/sources/table._in_range", "Correct the cell, or leave it empty"):
        find_items(table, READING)
    for mended in (None, "0.25", "0,25", "n/a"):
        assert len(load(listing(tmp_path, **{column: mended}))) == 3


@pytest.mark.parametrize("column", ["file", "subject"])
def test_cells_that_must_be_filled(tmp_path, column):
    table = listing(tmp_path)
    rows = pd.read_csv(table, sep="\t", dtype=str)
    rows.assign(**{column: None}).to_csv(table, sep="\t", index=False)
    with advised("data/sources/table._item", "Fill the cell in, or leave the row out"):
        find_items(table, READING)
    rows.loc[[1], column] = None
    rows.drop(index=1).to_csv(table, sep="\t", index=False)
    assert len(load(table)) == 2
    assert len(load(listing(tmp_path))) == 3


def test_paths(tmp_path):
    folder = tmp_path / "lists"
    (folder / "data").mkdir(parents=True)
    listing(folder / "data")
    table = listing(folder, file="name", file_="")
    for path in (r"data\{}.tsv", "./data/{}.tsv", f"{folder}/data/{{}}.tsv"):
        rows = pd.read_csv(table, sep="\t", dtype=str)
        rows["file"] = [path.format(name) for name in STUDY.subjects]
        rows.to_csv(table, sep="\t", index=False)
        assert len(load(table)) == 3
    other = tmp_path / "other"
    other.mkdir()
    rows["file"] = [f"../lists/data/{name}.tsv" for name in STUDY.subjects]
    rows.to_csv(other / "list.tsv", sep="\t", index=False)
    with advised("data/sources/table._inside", "Say where the files are (root, --root)"):
        find_items(other / "list.tsv", READING)
    for root in (tmp_path, folder):  # a path may start from the root, or from the table
        assert len(load(other / "list.tsv", replace(READING, root=root))) == 3
    rows["file"] = [f"data/{name}.tsv" for name in STUDY.subjects]
    rows.to_csv(other / "list.tsv", sep="\t", index=False)
    advice = "Correct the path, or state the folder that it starts from (root, --root)"
    with advised("data/sources/table._inside", advice):
        find_items(other / "list.tsv", READING)
    assert len(load(other / "list.tsv", replace(READING, root=folder))) == 3


# -- codes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["list", "phenotypes"])
def test_sites_that_are_one_number_are_one_site(tmp_path, way):
    sites = ["1", "1.0", "01"]
    table = listing(tmp_path, **({"site": sites} if way == "list" else {}))
    rules = PhenotypeRules()
    if way == "phenotypes":
        rows = pd.DataFrame({"participant_id": STUDY.subjects, "site": sites})
        rows.to_csv(tmp_path / "people.tsv", sep="\t", index=False)
        rules = PhenotypeRules(tables=(tmp_path / "people.tsv",))
    index, remarks = stored(table, tmp_path, phenotypes=rules)
    assert [*index["site"]] == ["1", "1", "1"]
    told = "site: '01' (1) is taken for '1' (2); --keep-case site keeps them apart"
    assert told in remarks
    assert any("site: '1.0' (1 cell) read as a whole number" in line for line in remarks)
    kept = replace(rules, keep_case=("site",))
    report = prepare_store(str(table), tmp_path / "kept", reading=READING, phenotypes=kept)
    assert [*pd.read_parquet(report.store / "recordings.parquet")["site"]] == ["1", "1", "01"]


def test_a_site_is_one_in_both_tables(tmp_path):
    table = listing(tmp_path, site=["01", "2", "03"])
    rows = pd.DataFrame({"participant_id": STUDY.subjects, "site": ["1", "2.0", "3"]})
    rows.to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    rules = PhenotypeRules(tables=(tmp_path / "people.tsv",))
    index, _ = stored(table, tmp_path, phenotypes=rules)
    assert [*index["site"]] == ["01", "2", "03"]


def test_identifiers_lose_what_spreadsheets_add(tmp_path):
    table = listing(tmp_path, session=["1.0", "2.0", None], run=["1", "1.0", "02"])
    assert [(r.session, r.run) for r in load(table)] == [("1", "1"), ("2", "1"), (None, "02")]
    rows = pd.DataFrame({"file": "f", "subject": ["1.0", "1.5"]})
    rows.to_csv(tmp_path / "list.tsv", sep="\t", index=False)
    assert [*read_table(tmp_path / "list.tsv", ["subject"]).frame["subject"]] == ["1.0", "1.5"]


def test_prefixes_in_capitals_and_zeros_that_were_lost(tmp_path):
    rows = pd.DataFrame({"participant_id": ["SUB-01", "2", "Sub-03"], "age": [30, 40, 50]})
    rows.to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    assert Phenotypes.read([tmp_path / "people.tsv"]).of("03", None) == {"age": 50}
    rules = PhenotypeRules(tables=(tmp_path / "people.tsv",))
    index, remarks = stored(listing(tmp_path), tmp_path, phenotypes=rules)
    np.testing.assert_array_equal(index["age"], [30, np.nan, 50])
    assert any("2 of 3 recordings have a row; none has sub-02 (some differ" in r for r in remarks)


# -- options ---------------------------------------------------------------------------------------


def test_entities_choose_rows(tmp_path):
    table = listing(tmp_path, task=["rest", "nback", "rest"], acq=["a", None, None])
    advice = "They have "
    with advised("data/sources/items.chosen", advice):
        find_items(table, replace(READING, entities={"task": "movie"}))
    for entities, n in (
        ({"task": "rest"}, 2),
        ({"task": "rest", "acq": ""}, 1),
        ({"sub": "02"}, 1),
    ):
        assert len(load(table, replace(READING, entities=entities))) == n


def test_a_subject_for_many(tmp_path):
    table = listing(tmp_path)
    with advised("data/sources/find._unused", "Leave it out"):
        find_items(table, replace(READING, subject="07"))
    assert len(load(table)) == 3


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"denoise": "compcor"}, "--denoise"),
        ({"denoise_options": {"motion": "basic"}}, "--denoise-option"),
        ({"variable": "x"}, "--variable"),
        ({"orientation": "rois-first"}, "--orientation rois-first"),
    ],
)
def test_options_without_an_effect_are_named(tmp_path, options, flag):
    (item, *_) = find_items(listing(tmp_path), replace(READING, **options))
    notes = [note for note in (*item.notes, *item.load().notes) if f"{flag} is not used" in note]
    assert len(notes) == 1
    tree = trees.xcpd(tmp_path / "xcpd", STUDY)
    (item, *_) = find_items(tree, replace(READING, **options))
    assert any(f"{flag} is not used" in note for note in (*item.notes, *item.load().notes))


def test_options_that_are_used_are_not_named(tmp_path):
    image = trees.atlas_volume(tmp_path / "seven.nii.gz", STUDY.atlas)
    tree = trees.fmriprep(tmp_path / "prep", STUDY)
    options = {"denoise": "scrubbing", "denoise_options": {"fd_threshold": 0.5}}
    reading = replace(READING, atlas_images=(image,), **options)
    assert {item.notes for item in find_items(tree, reading)} == {()}
    half = replace(READING, roi_names=STUDY.atlas.labels, root=tmp_path)
    (notes,) = {item.notes for item in find_items(trees.halfpipe(tmp_path / "h", STUDY), half)}
    assert notes == ("--root is not used: the source is a derivatives folder",)


def test_a_source_that_is_none(tmp_path):
    file = tmp_path / "sub-01_000.netts"
    np.savetxt(file, STUDY.signals["01"])
    with advised("data/sources/find._items", "Write it as one of these"):
        find_items(file, READING)
    named = replace(READING, roi_names=STUDY.atlas.labels, tr=2.0)
    assert len(load(file.rename(file.with_suffix(".1D")), named)) == 1

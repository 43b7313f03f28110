"""Tables and files as labs have them, from the command to the store: read right, or named."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import scipy.io

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.phenotypes import PhenotypeRules, Phenotypes
from semantoks.data.sources.find import find_items
from semantoks.data.sources.items import Reading
from semantoks.data.sources.series import read_joined, read_series
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.compare.targets import Target, class_names, target_values
from semantoks.workflow.prepare import prepare_store

ATLAS = Parcellation(
    name="five",
    labels=("a", "b", "c", "d", "e"),
    networks=("Vis", "Vis", "Cont", "Cont", "Cont"),
    aliases=tuple((f"#{n}",) for n in (2001, 2002, 2101, 2102, 9170)),
)
N_TIMES = 60


def signal(seed, n_times=N_TIMES):
    rng = np.random.default_rng(seed)
    return 1000 + rng.standard_normal((n_times, len(ATLAS))).cumsum(axis=0).round(3)


def cohort(tmp_path, n=12, **columns):
    """Write a table of recordings and their files."""
    for i in range(n):
        frame = pd.DataFrame(signal(i), columns=[*ATLAS.labels])
        frame.to_csv(tmp_path / f"{i}.tsv", sep="\t", index=False)
    files = {"file": [f"{i}.tsv" for i in range(n)], "subject": [f"{i:02}" for i in range(n)]}
    table = tmp_path / "rec.tsv"
    pd.DataFrame({**files, "tr": 2.0, **columns}).to_csv(table, sep="\t", index=False)
    return table


def prepared(source, tmp_path, **options):
    reading = Reading(atlas=ATLAS, **options.pop("reading", {}))
    report = prepare_store(str(source), tmp_path / "store", reading=reading, **options)
    return RecordingStore(report.store).table, report


# -- what is worth a look --------------------------------------------------------------------------


def test_cells_read_as_unknown_are_reported(tmp_path):
    ages = [str(20 + i) for i in range(12)]
    table, report = prepared(cohort(tmp_path, age=[".", "NA", *ages[2:]]), tmp_path)
    assert pd.to_numeric(table["age"]).isna().sum() == 2
    assert "rec.tsv: age: '.' (1 cell), 'NA' (1 cell) read as unknown" in report.remarks


def test_the_cells_that_keep_a_column_from_numbers_are_named(tmp_path):
    ages = [str(20 + i) for i in range(12)]
    _, report = prepared(cohort(tmp_path, age=[*ages[:5], ">89", *ages[6:]]), tmp_path)
    told = "rec.tsv: age: '>89' (1 cell) (line 7) is no number, so the column is text"
    assert told in report.remarks
    store = RecordingStore(report.store)
    for kind in ("regression", None):
        with pytest.raises(InputError, match=r"1 of 12 values are none: '>89'"):
            target_values(store, Target("age", kind), "refuse")


def test_spellings_of_a_class_become_one_and_are_reported(tmp_path):
    sex = ["M", "F ", "M", "f", " F", "F"] * 2
    source = cohort(tmp_path, sex=sex, **{" age ": 30, "allele": ["A", "a"] * 6})
    apart = PhenotypeRules(keep_case=("allele",))
    table, report = prepared(source, tmp_path, phenotypes=apart)
    assert table["sex"].tolist() == ["M", "F", "M", "F", "F", "F"] * 2
    assert table["allele"].tolist() == ["A", "a"] * 6
    assert table["age"].tolist() == [30] * 12
    assert "sex: 'f' (2) is taken for 'F' (6); --keep-case sex keeps them apart" in report.remarks


def test_whole_numbers_are_whole_classes_beside_unknown_ones(tmp_path):
    _, report = prepared(cohort(tmp_path, group=["1", "2", "n/a", "2"] * 3), tmp_path)
    _, y, _ = target_values(
        RecordingStore(report.store), Target("group", "classification"), missing="drop"
    )
    assert sorted(set(y)) == ["1", "2"]
    assert class_names(pd.Series([0.5, 1.0])).tolist() == ["0.5", "1.0"]


def test_none_is_a_class_and_is_reported(tmp_path):
    table, report = prepared(cohort(tmp_path, drug=["None", "SSRI", "n/a"] * 4), tmp_path)
    assert table["drug"].fillna("?").tolist() == ["None", "SSRI", "?"] * 4
    assert any("drug: 'None' is kept as a class" in remark for remark in report.remarks)


def test_a_join_of_some_people_is_reported(tmp_path):
    people = tmp_path / "people.csv"
    people.write_text("Subject;IQ\n03;1,5\n04;99\n05;100\n77;1\n")
    rules = PhenotypeRules(tables=(people,))
    table, report = prepared(cohort(tmp_path), tmp_path, phenotypes=rules)
    assert table["IQ"].notna().sum() == 3
    assert table["IQ"].max() == 100
    assert "phenotypes: 3 of 12 recordings have a row; none has sub-00, sub-01 and 7 more" in (
        report.remarks
    )
    assert RecordingStore(report.store).header["provenance"]["notes"] == [*report.remarks]


def test_one_file_under_two_subjects_is_reported(tmp_path):
    table = cohort(tmp_path)
    table.write_text(table.read_text().replace("\n7.tsv", "\n3.tsv"))
    _, report = prepared(table, tmp_path)
    assert any("sub-03 and sub-07 hold the same signal" in remark for remark in report.remarks)


def test_the_same_command_reports_the_same(tmp_path):
    source = cohort(tmp_path, sex=["F", "f"] * 6)
    _, first = prepared(source, tmp_path)
    _, again = prepared(source, tmp_path)
    assert first.remarks == again.remarks


# -- files of series -------------------------------------------------------------------------------

READING = Reading(atlas=ATLAS)


@pytest.mark.parametrize("diagonal", [1, 0, np.inf, np.nan])
@pytest.mark.parametrize("ending", [".npy", ".csv"])
def test_connectivity_matrices_are_refused(tmp_path, diagonal, ending):
    matrix = np.corrcoef(signal(0).T)
    np.fill_diagonal(matrix, diagonal)
    file = tmp_path / f"sub-01_fc{ending}"
    if ending == ".npy":
        np.save(file, matrix)
    else:
        pd.DataFrame(matrix, columns=[*ATLAS.labels]).to_csv(file, index=False)
    with pytest.raises(InputError, match=r"sub-01_fc.*is a connectivity matrix"):
        read_series(file, Reading(atlas=ATLAS, roi_names=ATLAS.labels))


def test_as_many_volumes_as_rois_are_still_a_series(tmp_path):
    np.save(tmp_path / "a.npy", signal(0, n_times=5))
    reading = Reading(atlas=ATLAS, roi_names=ATLAS.labels)
    assert read_series(tmp_path / "a.npy", reading).signal.shape == (5, 5)


@pytest.mark.parametrize("head", ["#2001\t#2002\t#2101\t#2102\t#9170", "# 1.0\n# a\tb\tc\td\te"])
def test_headers_of_the_connectomes_project_and_cpac(tmp_path, head):
    x = signal(1)
    body = "\n".join("\t".join(map(str, row)) for row in x)
    (tmp_path / "a.1D").write_text(f"{head}\n{body}\n")
    series = read_series(tmp_path / "a.1D", READING)
    assert ATLAS.columns_of(series.names).tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(series.signal, x)


def test_tables_of_3droistats(tmp_path):
    """ADHD-200: file and sub-brick first, the value of every ROI after Mean_."""
    x = signal(2)
    head = "File\tSub-brick\t" + "\t".join(f"Mean_{n} " for n in (2001, 2002, 2101, 2102, 9170))
    rows = [f"rest.nii.gz\t{i}[?]\t" + "\t".join(map(str, row)) for i, row in enumerate(x)]
    (tmp_path / "a.1D").write_text("\n".join([head, *rows]))
    series = read_series(tmp_path / "a.1D", READING)
    assert ATLAS.columns_of(series.names).tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(series.signal, x)
    assert "File, Sub-brick" in series.notes[0]


def test_tables_of_3droistats_without_a_header(tmp_path):
    x = signal(2)
    rows = [f"rest.nii.gz\t{i}[?]\t" + "\t".join(map(str, row)) for i, row in enumerate(x)]
    (tmp_path / "a.1D").write_text("\n".join(rows))
    series = read_series(tmp_path / "a.1D", Reading(atlas=ATLAS, roi_names=ATLAS.labels))
    assert np.array_equal(series.signal, x)


def test_matrices_that_matlab_saves_as_text(tmp_path):
    """DPABI's ROISignals_*.txt: save -ascii."""
    x = signal(3)
    np.savetxt(tmp_path / "ROISignals_01.txt", x, fmt="%16.7e", delimiter="")
    series = read_series(
        tmp_path / "ROISignals_01.txt", Reading(atlas=ATLAS, roi_names=ATLAS.labels)
    )
    assert np.allclose(series.signal, x, rtol=1e-6)


def test_dpabis_matrices(tmp_path):
    x = signal(3)
    scipy.io.savemat(tmp_path / "ROISignals_01.mat", {"ROISignals": x, "theROILabel": [[1]]})
    series = read_series(
        tmp_path / "ROISignals_01.mat", Reading(atlas=ATLAS, roi_names=ATLAS.labels)
    )
    assert np.array_equal(series.signal, x)


def cells(values):
    row = np.empty((1, len(values)), object)
    row[0, :] = values
    return row


def conn(file, x, sessions):
    names = ["Grey Matter", "White Matter", "CSF", *(f"five.{name}" for name in ATLAS.labels)]
    tissues = [np.random.default_rng(9).standard_normal((len(x), k)) for k in (1, 16, 16)]
    rois = [np.stack([column, column**2], axis=1) for column in x.T]
    data = np.empty((1, len(names)), object)
    for i, series in enumerate([*tissues, *rois]):
        data[0, i] = series
    content = {"names": cells(names), "data": data, "data_sessions": sessions[:, None]}
    scipy.io.savemat(file, content)
    return file


def conn73(file, x, sessions):
    """The same as MATLAB writes it with -v7.3: references to arrays that are turned."""
    h5py = pytest.importorskip("h5py")
    names = ["Grey Matter", "White Matter", "CSF", *(f"five.{name}" for name in ATLAS.labels)]
    series = [np.ones((len(x), 2))] * 3 + [column[:, None] for column in x.T]
    with h5py.File(file, "w", userblock_size=512) as content:
        for what, values in (("names", names), ("data", series)):
            cell = content.create_dataset(what, (len(values), 1), h5py.ref_dtype)
            for i, value in enumerate(values):
                text = isinstance(value, str)
                array = np.array([[ord(c)] for c in value], np.uint16) if text else value.T
                made = content.create_dataset(f"#refs#/{what}{i}", data=array)
                made.attrs["MATLAB_class"] = np.bytes_("char" if text else "double")
                cell[i, 0] = made.ref
        content["data_sessions"] = sessions[None, :]
    with file.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return file


@pytest.mark.parametrize("write", [conn, conn73])
def test_files_of_conn(tmp_path, write):
    x = signal(4)
    file = write(tmp_path / "ROI_Subject001_Condition000.mat", x, np.ones(N_TIMES))
    series = read_series(file, READING)
    assert series.names == ATLAS.labels
    assert np.array_equal(series.signal, x)
    assert "3 tissues left out" in series.notes[0]


@pytest.mark.parametrize("write", [conn, conn73])
def test_sessions_of_conn_are_chosen_never_joined(tmp_path, write):
    x = signal(4)
    file = write(tmp_path / "ROI_Subject001_Condition000.mat", x, np.repeat([1, 2], [25, 35]))
    with pytest.raises(InputError, match="holds the sessions 1, 2 one after the other"):
        read_series(file, READING)
    chosen = read_series(file, Reading(atlas=ATLAS, variable="2"))
    assert np.array_equal(chosen.signal, x[25:])


def test_names_beside_a_matrix_count(tmp_path):
    x = signal(5)
    content = {"ts": x[:, ::-1], "rois": cells([*ATLAS.labels[::-1]]), "tr": 2.0}
    scipy.io.savemat(tmp_path / "a.mat", content)
    series = read_series(tmp_path / "a.mat", READING)
    assert series.names == ATLAS.labels[::-1]
    assert np.array_equal(series.signal, x[:, ::-1])


def biobank(file, x, names):
    frame = pd.DataFrame(x.T, columns=[f"timepoint_{i}" for i in range(len(x))])
    frame.insert(0, "label_name", names)
    frame.to_csv(file, index=False)
    return file


def test_region_tables_of_the_uk_biobank(tmp_path):
    """ROIs in rows, several files per person."""
    x = signal(6)
    files = [
        biobank(tmp_path / "fMRI.Three.csv.gz", x[:, :3], ATLAS.labels[:3]),
        biobank(tmp_path / "fMRI.Two.csv.gz", x[:, 3:], ATLAS.labels[3:]),
    ]
    series = read_joined(files, READING)
    assert series.names == ATLAS.labels
    assert np.array_equal(series.signal, x)
    assert "ROIs in rows" in series.notes[0]


def test_names_given_are_used_or_the_file_wins_and_says_so(tmp_path):
    x = signal(7)
    given = Reading(atlas=ATLAS, roi_names=("e", "d", "c", "b", "a"))
    pd.DataFrame(x, columns=[*"ABCDF"]).to_csv(tmp_path / "generic.csv", index=False)
    pd.DataFrame(x, columns=[*ATLAS.labels]).to_csv(tmp_path / "named.csv", index=False)
    replaced = read_series(tmp_path / "generic.csv", given)
    assert replaced.names == given.roi_names
    assert "--roi-names replaces a header that names no ROI" in replaced.notes[-1]
    kept = read_series(tmp_path / "named.csv", given)
    assert kept.names == ATLAS.labels
    assert "--roi-names is not used" in kept.notes[-1]
    pd.DataFrame(x[:, :4], columns=[*"ABCD"]).to_csv(tmp_path / "few.csv", index=False)
    with pytest.raises(InputError, match=r"has 4 columns \(A, B and 2 more\) for 5 names"):
        read_series(tmp_path / "few.csv", given)


def test_numbered_columns_are_no_time_point(tmp_path):
    """A header of the values of an atlas, without a sign that it is one."""
    x = signal(8)
    body = "\n".join("\t".join(map(str, row)) for row in x)
    (tmp_path / "a.txt").write_text(f"2001\t2002\t2101\t2102\t9170\n{body}\n")
    series = read_series(tmp_path / "a.txt", Reading(atlas=ATLAS, roi_names=ATLAS.labels))
    assert np.array_equal(series.signal, x)


@pytest.mark.parametrize("packed", [False, True])
def test_the_ending_gz_is_told_by_the_content(tmp_path, packed):
    content = pd.DataFrame(signal(1), columns=[*ATLAS.labels]).to_csv(index=False).encode()
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(content) if packed else content)
    assert read_series(tmp_path / "a.csv.gz", READING).names == ATLAS.labels


def test_cpacs_series_are_found(tmp_path):
    func = tmp_path / "cpac" / "sub-01" / "ses-1" / "func"
    func.mkdir(parents=True)
    body = "\n".join("\t".join(map(str, row)) for row in signal(1))
    head = "\t".join(f"#{n}" for n in (2001, 2002, 2101, 2102, 9170))
    stem = "sub-01_ses-1_task-rest_run-1_space-template_desc-Mean"
    (func / f"{stem}_timeseries.1D").write_text(f"{head}\n{body}\n")
    (func / f"{stem}_timeseries.json").write_text(json.dumps({"RepetitionTime": 2.0}))
    table, _ = prepared(tmp_path / "cpac", tmp_path)
    assert table["id"].tolist() == ["sub-01_ses-1_task-rest_run-1"]


# -- folders of toolboxes --------------------------------------------------------------------------


def test_a_project_of_conn(tmp_path):
    """Sessions become runs; the condition of the whole scan is read."""
    folder = tmp_path / "conn_project" / "results" / "preprocessing"
    folder.mkdir(parents=True)
    x = signal(1, n_times=2 * N_TIMES)
    sessions = np.repeat([1, 2], N_TIMES)
    for condition in ("000", "001"):
        conn(folder / f"ROI_Subject001_Condition{condition}.mat", x, sessions)
    conn(folder / "ROI_Subject002_Condition000.mat", signal(2), np.ones(N_TIMES))
    items = find_items(tmp_path / "conn_project", Reading(atlas=ATLAS, tr=2.0))
    assert [item.id for item in items] == ["sub-001_run-1", "sub-001_run-2", "sub-002"]
    assert np.array_equal(items[1].load().signal, x[N_TIMES:])
    (folder / "ROI_Subject001_Condition000.mat").rename(folder / "ROI_Subject001_Condition002.mat")
    (folder / "ROI_Subject002_Condition000.mat").unlink()
    with pytest.raises(InputError, match="conditions 001, 002") as error:
        find_items(tmp_path / "conn_project", Reading(atlas=ATLAS, tr=2.0))
    key, value = error.value.fix.removeprefix("Choose one: --where ").split("=")
    chosen = Reading(atlas=ATLAS, tr=2.0, entities={key: value})
    assert len(find_items(tmp_path / "conn_project", chosen)) == 2


def test_a_folder_of_dpabi(tmp_path):
    folder = tmp_path / "Results" / "ROISignals_FunImgARCWF"
    folder.mkdir(parents=True)
    for i, subject in enumerate(("Sub_001", "Sub_002")):
        scipy.io.savemat(folder / f"ROISignals_{subject}.mat", {"ROISignals": signal(i)})
        np.savetxt(folder / f"ROISignals_{subject}.txt", signal(i))
        matrix = {"ROICorrelation": np.corrcoef(signal(i).T)}
        scipy.io.savemat(folder / f"ROICorrelation_{subject}.mat", matrix)
    np.savetxt(folder / "ROISignals_Sub_003.txt", signal(2))
    how = {"tr": 2.0, "roi_names": ATLAS.labels}
    table, _ = prepared(tmp_path / "Results", tmp_path, reading=how)
    assert table["subject"].tolist() == ["Sub_001", "Sub_002", "Sub_003"]


@pytest.mark.parametrize("place", ["{eid}_31018_2_0", "{eid}/i2"])
def test_folders_of_the_uk_biobank(tmp_path, place):
    """The files that make up the atlas are joined; other parcellations beside them are not."""
    for i, eid in enumerate((1000001, 1000002)):
        folder = tmp_path / "ukb" / place.format(eid=eid)
        folder.mkdir(parents=True)
        x = signal(i)
        biobank(folder / "fMRI.Three.csv.gz", x[:, :3], ATLAS.labels[:3])
        biobank(folder / "fMRI.Two.csv.gz", x[:, 3:], ATLAS.labels[3:])
        biobank(folder / "fMRI.One.csv.gz", x[:, 4:], ATLAS.labels[4:])
        biobank(folder / "fMRI.Other.csv.gz", x[:, :2], ("x", "y"))
    items = find_items(tmp_path / "ukb", Reading(atlas=ATLAS, tr=0.735))
    assert [item.id for item in items] == ["sub-1000001_ses-2", "sub-1000002_ses-2"]
    assert np.array_equal(items[1].load().signal, signal(1))


def test_a_table_joins_files_with_plus(tmp_path):
    x = signal(6)
    biobank(tmp_path / "a.csv", x[:, :3], ATLAS.labels[:3])
    biobank(tmp_path / "b.csv", x[:, 3:], ATLAS.labels[3:])
    (tmp_path / "rec.csv").write_text("file;subject;tr\na.csv + b.csv;01;2,5\n")
    (item,) = find_items(tmp_path / "rec.csv", READING)
    recording = item.load()
    assert np.array_equal(recording.signal, x)
    assert recording.tr == 2.5


def test_a_damaged_file_says_nothing_of_other_people(tmp_path):
    """Which files make up the atlas, and which sessions there are, is told by those that can be."""
    for i, eid in enumerate((1000001, 1000002)):
        folder = tmp_path / "ukb" / f"{eid}_31018_2_0"
        folder.mkdir(parents=True)
        x = signal(i)
        for name, columns in (("Three", slice(3)), ("Two", slice(3, None))):
            biobank(folder / f"fMRI.{name}.csv.gz", x[:, columns], ATLAS.labels[columns])
    (tmp_path / "ukb" / "1000001_31018_2_0" / "fMRI.Three.csv.gz").write_bytes(b"\x1f\x8b damaged")
    first, second = find_items(tmp_path / "ukb", Reading(atlas=ATLAS, tr=0.735))
    assert np.array_equal(second.load().signal, signal(1))
    with pytest.raises(InputError, match=r"fMRI\.Three\.csv\.gz: is not a table"):
        first.load()
    folder = tmp_path / "conn"
    folder.mkdir()
    for i in (1, 2):
        conn(folder / f"ROI_Subject00{i}_Condition000.mat", signal(i), np.ones(len(signal(i))))
    (folder / "ROI_Subject001_Condition000.mat").write_bytes(b"damaged")
    first, second = find_items(folder, Reading(atlas=ATLAS, tr=2.0))
    assert second.load().subject == "002"
    with pytest.raises(InputError, match=r"Subject001_Condition000\.mat"):
        first.load()


@pytest.mark.parametrize("column", ["site", "Site", "SITE_ID"])
def test_sites_by_another_name_are_sites(tmp_path, column):
    """Numbers of sites are names, also beside an empty cell."""
    (tmp_path / "p.csv").write_text(f"Subject;{column};age\n1;2;30\n2;;31\n3;07;32\n")
    phenotypes = Phenotypes.read([tmp_path / "p.csv"])
    assert [phenotypes.of(s, None)["site"] for s in "123"] == ["2", None, "07"]
    told = [note for note in phenotypes.notes if "is read as site" in note]
    assert len(told) == (column != "site")


@pytest.mark.parametrize("name", ["scan", "series"])
def test_a_list_of_files_by_another_name_is_told_what_it_needs(tmp_path, name):
    table = cohort(tmp_path, n=2)
    pd.read_csv(table, sep="\t").rename(columns={"file": name}).to_csv(table, sep="\t", index=False)
    with pytest.raises(InputError, match="needs the columns file and subject"):
        find_items(table, READING)


def test_a_list_of_files_with_semicolons_is_one(tmp_path):
    table = cohort(tmp_path, n=2)
    pd.read_csv(table, sep="\t").to_csv(table, sep=";", index=False)
    assert [item.load().tr for item in find_items(table, READING)] == [2, 2]


def test_tasks_side_by_side_are_named(tmp_path):
    _, report = prepared(cohort(tmp_path, n=3, task=["rest", "nback", "rest"]), tmp_path)
    told = "several tasks in one store: rest 2, nback 1; --where task=rest reads one"
    assert told in report.remarks

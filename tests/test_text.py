"""Tables as spreadsheets, AFNI, R, SPSS and pandas write them hold the same numbers and words."""

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.phenotypes import Phenotypes
from semantoks.data.sources.columns import named_columns, read_columns
from semantoks.data.sources.items import Reading, read_names
from semantoks.errors import InputError
from semantoks.tables import read_table

SIGNAL = np.random.default_rng(2).standard_normal((6, 3)).round(3)
NAMES = ("left", "right", "süd, 2")
ATLAS = Parcellation(name="three", labels=NAMES, networks=("a", "b", "b"))
READING = Reading(atlas=ATLAS)


def text(separator, names=(*NAMES[:2], "south"), end="", comma=False):
    rows = [separator.join(map(str, row)) + end for row in SIGNAL]
    rows = [row.replace(".", ",") for row in rows] if comma else rows
    return "\n".join([separator.join(names), *rows] if names else rows) + "\n"


@st.composite
def written(draw, values, names):
    """Return the bytes of a table as some program writes it."""
    separator = draw(st.sampled_from(["\t", ";", ",", "  ", " \t"]))
    comma = draw(st.booleans()) and separator != ","
    always = draw(st.booleans())

    def cell(value):
        decimal = "," if comma else "."
        plain = value if isinstance(value, str) else repr(value).replace(".", decimal)
        quoted = always or any(mark in plain for mark in ",; ")
        return f'"{plain}"' if quoted else plain

    rows = [[*names], *values]
    if draw(st.booleans()):  # row numbers, as pandas writes them
        counts = [str(i) for i in range(len(values))]
        unnamed = '""' if separator.isspace() else ""
        rows = [[unnamed, *map(cell, names)]] + [
            [count, *map(cell, row)] for count, row in zip(counts, values, strict=True)
        ]
        lines = [separator.join(row) for row in rows]
    else:
        lines = [separator.join(map(cell, row)) for row in rows]
    if draw(st.booleans()) and not separator.isspace():
        lines = [line + separator for line in lines]
    if draw(st.booleans()):
        lines[0] = "#" + lines[0]
    if draw(st.booleans()):
        lines = ["# AFNI, version 1, 2 or 3", "# of that day", *lines, "# end"]
    if draw(st.booleans()):
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(["", "  "])))
    ending = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    encodings = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"]
    content = (ending.join(lines) + ending).encode(draw(st.sampled_from(encodings)))
    return gzip.compress(content) if draw(st.booleans()) else content


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_numbers_survive_every_way_of_writing(tmp_path_factory, data):
    numbers = st.floats(-1e4, 1e4).map(lambda x: round(x, 3) + 0.0005)
    values = data.draw(st.lists(st.tuples(numbers, numbers, numbers), min_size=4, max_size=9))
    name = data.draw(st.sampled_from(["a.tsv", "a.csv", "a.txt", "a.1D", "a.csv.gz"]))
    file = tmp_path_factory.mktemp("written") / name
    file.write_bytes(data.draw(written(values, NAMES)))
    signal, names, _ = read_columns(file, READING)
    assert names == NAMES
    assert np.array_equal(signal, np.array(values))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_words_and_numbers_survive_every_way_of_writing(tmp_path_factory, data):
    words = st.sampled_from(["Zoë", "M, old", "None; ever", "b", "01"])
    ages = st.integers(5, 99).map(lambda n: n + 0.25)
    rows = data.draw(st.lists(st.tuples(words, words, ages), min_size=2, max_size=9))
    file = tmp_path_factory.mktemp("written") / data.draw(st.sampled_from(["a.txt", "a.1D"]))
    file.write_bytes(data.draw(written(rows, ("subject", "größe", "age"))))
    frame = read_table(file, words=["subject"]).frame
    assert [tuple(row) for row in frame.to_numpy()] == rows
    assert [*frame.columns] == ["subject", "größe", "age"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", text(",")),
        ("b.csv", text(";")),
        ("c.csv", text(";", comma=True)),
        ("d.txt", text("  ")),
        ("e.1D", "# a program, its version\n#" + text("\t")),
        ("f.tsv", text("\t").replace("\n", "\r\n")),
        ("g.csv", pd.DataFrame(SIGNAL, columns=(*NAMES[:2], "south")).to_csv()),
        ("h.tsv", "left\tright\tsouth\n" + pd.DataFrame(SIGNAL).to_csv(sep="\t", header=False)),
        ("i.csv", "sep=;\n" + text(";")),
        ("j.txt", text("\t", end="\t")),
        ("k.csv", text("\t", comma=True)),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_all_ways_of_writing_hold_the_same(tmp_path, name, content, encoding):
    (tmp_path / name).write_bytes(content.encode(encoding))
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(content.encode(encoding)))
    for file in (tmp_path / name, packed):
        signal, names, _ = read_columns(file, READING)
        assert names == ("left", "right", "south")
        assert np.array_equal(signal, SIGNAL)


@pytest.mark.parametrize("separator", ["\t", ",", ";", "   "])
@pytest.mark.parametrize("ending", [".tsv", ".csv", ".txt", ".1D"])
def test_numbers_without_names(tmp_path, separator, ending):
    file = tmp_path / f"a{ending}"
    file.write_text(text(separator, names=(), comma=separator == ";"))
    signal, names, read_as = read_columns(file, READING)
    assert names is None
    assert np.array_equal(signal, SIGNAL)
    assert "no header" in read_as


def test_a_separator_at_the_end_of_all_lines_is_no_roi(tmp_path):
    (tmp_path / "a.tsv").write_text(text("\t", names=(), end="\t"))
    signal, names, _ = read_columns(tmp_path / "a.tsv", READING)
    assert names is None
    assert np.array_equal(signal, SIGNAL)


def test_a_named_roi_without_values_stays(tmp_path):
    (tmp_path / "a.tsv").write_text("north\tsouth\n1\t\n2\t\n")
    signal, names, _ = read_columns(tmp_path / "a.tsv", READING)
    assert names == ("north", "south")
    assert np.array_equal(signal, [[1, np.nan], [2, np.nan]], equal_nan=True)


def test_what_was_understood_is_stated(tmp_path):
    (tmp_path / "a.csv").write_bytes(
        ("% made by hand\nscan;Time;" + text(";", comma=True))
        .replace("\n-", "\nrest;0,0;-")
        .replace("\n0", "\nrest;0,0;0")
        .replace("\n1", "\nrest;0,0;1")
        .replace("scan", "scän")
        .encode("latin-1")
    )
    lines = (tmp_path / "a.csv").read_text("latin-1").splitlines()
    lines[2:] = [line.replace("0,0", f"{2 * i},0", 1) for i, line in enumerate(lines[2:])]
    (tmp_path / "a.csv").write_text("\n".join(lines), "latin-1")
    signal, names, read_as = read_columns(tmp_path / "a.csv", READING)
    assert names == ("left", "right", "south")
    assert np.array_equal(signal, SIGNAL)
    for words in ("Latin-1", "semicolons", "1 comment line", "decimal commas", "scän, Time"):
        assert words in read_as


@pytest.mark.parametrize(
    ("content", "value", "place"),
    [
        ("left,right\n1.5,2\n3.5,x4\n", "x4", "line 3, column 2 'right'"),
        ("# c\n\nleft,right\n1.5,2\n\n3.5,1_0\n", "1_0", "line 6, column 2 'right'"),
        ("1.5;2,5\n3,5;4.5\nabc;1\n", "2,5", "line 1, column 2"),
    ],
)
def test_the_cell_that_is_no_number_is_named(tmp_path, content, value, place):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match="must be a number") as error:
        read_columns(tmp_path / "a.csv", READING)
    assert error.value.value == value
    assert place in str(error.value)


def test_a_cut_line_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("left,right,south\n1,2,3\n4,5,6\n7,8\n")
    with pytest.raises(InputError, match="line 4 has 2 cells where most have 3"):
        read_columns(tmp_path / "a.csv", READING)


def test_binary_files_are_no_text(tmp_path):
    (tmp_path / "a.tsv").write_bytes(bytes(range(256)) * 9)
    with pytest.raises(InputError, match="is not a table that can be read"):
        read_columns(tmp_path / "a.tsv", READING)


def test_a_header_is_read_from_the_beginning_of_a_large_file(tmp_path):
    head = "\t".join(NAMES) + "\n"
    (tmp_path / "a.tsv").write_text(head + "1.25\t2.5\t3.5\n" * 400_000)
    assert named_columns(tmp_path / "a.tsv") == NAMES


# -- tables about people -------------------------------------------------------------------------


def test_names_and_cells_are_stripped(tmp_path):
    (tmp_path / "a.csv").write_text("subject; sex ;age\nM\u00fcller;F ;31\nb; F;.\n", "latin-1")
    table = read_table(tmp_path / "a.csv")
    assert table.frame["subject"].tolist() == ["M\u00fcller", "b"]
    assert table.frame["sex"].tolist() == ["F", "F"]
    assert table.frame["age"].tolist() == [31, None]
    assert table.notes == (
        "a.csv: read as Latin-1, separated by semicolons, 2 rows",
        "a.csv: age: '.' (1 cell) read as unknown",
    )


@pytest.mark.parametrize(
    ("cells", "values", "note"),
    [
        (["1", "2", ""], [1, 2, None], None),
        (["1", "n/a", "3"], [1, None, 3], None),
        (["1.5", "NA", "-999"], [1.5, None, None], "'NA' (1 cell), '-999' (1 cell) read as"),
        (["1,5", "2,25", ""], [1.5, 2.25, None], None),
        (["007", "8", "9"], ["007", "8", "9"], None),
        (["True", "FALSE", ""], [True, False, None], None),
        (["None", "SSRI", "SSRI"], ["None", "SSRI", "SSRI"], "'None' is kept as a class"),
        (["NA", "a", "a"], [None, "a", "a"], "'NA' (1 cell) read as unknown"),
        (["None", "1", "2"], [None, 1, 2], "'None' (1 cell) read as unknown"),
        (["20", ">89", "33"], ["20", ">89", "33"], "'>89' (1 cell) (line 3) is no number"),
    ],
)
def test_columns_have_one_kind(tmp_path, cells, values, note):
    lines = [f's{i}\t"{cell}"' for i, cell in enumerate(cells)]
    (tmp_path / "a.tsv").write_text("\n".join(["subject\tx", *lines]))
    table = read_table(tmp_path / "a.tsv")
    assert table.frame["x"].tolist() == values
    assert [type(v) for v in table.frame["x"]] == [type(v) for v in values]
    assert len(table.notes) == 1 + (note is not None)
    assert note is None or note in table.notes[1]


def test_codes_of_sites_stay_whole_beside_an_unknown_one(tmp_path):
    (tmp_path / "people.tsv").write_text("subject\tsite\tgroup\n01\t1\t2\n02\t\t\n03\t2\t1\n")
    people = Phenotypes.read([tmp_path / "people.tsv"])
    assert [people.of(s, None)["site"] for s in ("01", "02", "03")] == ["1", None, "2"]
    assert [people.of(s, None)["group"] for s in ("01", "02", "03")] == [2, None, 1]


def test_a_line_that_describes_the_columns_is_no_person(tmp_path):
    """NDA's tables: a title, the names, a line of descriptions."""
    (tmp_path / "ndar.txt").write_text(
        '"ndar_subject"\t"01"\n'
        '"subjectkey"\t"interview_age"\t"sex"\n'
        '"The GUID of the subject"\t"Age in months at the interview"\t"Sex of the subject"\n'
        '"NDAR1"\t"120"\t"F"\n"NDAR2"\t"131"\t"M"\n'
    )
    people = Phenotypes.read([tmp_path / "ndar.txt"])
    assert people.of("NDAR2", None) == {"interview_age": 131, "sex": "M"}
    assert len(people.rows) == 2
    assert "line 3 describes the columns" in people.notes[1]


@pytest.mark.parametrize("column", ["participant_id", "Subject", "SUB_ID", "subject id", "eid"])
@pytest.mark.parametrize("ending", [".xlsx", ".parquet", ".csv"])
def test_people_in_sheets_and_parquet(tmp_path, column, ending):
    frame = pd.DataFrame(
        {column: ["01", "02", "03"], "age": [31, None, 40], "sex": ["F ", "M", None]}
    )
    file = tmp_path / f"people{ending}"
    if ending == ".xlsx":
        frame.to_excel(file, index=False)
    elif ending == ".csv":
        frame.to_csv(file, index=False)
    else:
        frame.to_parquet(file)
    people = Phenotypes.read([file])
    assert people.of("01", None) == {"age": 31, "sex": "F"}
    assert people.of("02", None) == {"age": None, "sex": "M"}
    assert people.of("03", None) == {"age": 40, "sex": None}


def test_a_workbook_of_several_sheets_is_refused(tmp_path):
    with pd.ExcelWriter(tmp_path / "a.xlsx") as book:
        pd.DataFrame({"a": [1]}).to_excel(book, sheet_name="one", index=False)
        pd.DataFrame({"a": [1]}).to_excel(book, sheet_name="two", index=False)
    with pytest.raises(InputError, match="several sheets: one, two"):
        read_table(tmp_path / "a.xlsx")


def test_excel_needs_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(InputError, match=r"pip install semantoks\[excel\]"):
        read_table(tmp_path / "a.xlsx")


def test_signals_in_parquet_are_exact(tmp_path):
    signal = SIGNAL.astype(np.float32)
    pd.DataFrame(signal, columns=[*NAMES]).to_parquet(tmp_path / "a.parquet")
    found, names, _ = read_columns(tmp_path / "a.parquet", READING)
    assert names == NAMES
    assert np.array_equal(found, signal)


# -- names of ROIs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "left\nright\nsüd, 2\n",
        "# of the atlas\r\nleft\r\n\r\n right \r\nsüd, 2\r\n",
        "label\nleft\nright\nsüd, 2\n",
        'left\tright\t"süd, 2"\n',
        "index\tlabel\tnetwork\n1\tleft\ta\n2\tright\tb\n3\tsüd, 2\tb\n",
        'name,hemisphere\nleft,L\nright,R\n"süd, 2",L\n',
        "1\tleft\t0\t0\t0\n2\tright\t9\t9\t9\n3\tsüd, 2\t1\t2\t3\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_names_of_rois_go_through_the_same_door(tmp_path, content, encoding):
    (tmp_path / "names.txt").write_bytes(content.encode(encoding))
    assert read_names(tmp_path / "names.txt") == NAMES


def test_names_with_commas_stay_whole(tmp_path):
    (tmp_path / "names.txt").write_text("Frontal Pole, left\nFrontal Pole, right\n")
    assert read_names(tmp_path / "names.txt") == ("Frontal Pole, left", "Frontal Pole, right")


def test_numbered_names_stay(tmp_path):
    (tmp_path / "names.txt").write_text("#1\n#2\n")
    assert read_names(tmp_path / "names.txt") == ("#1", "#2")


@pytest.mark.parametrize("content", ["", "a,1\nb,2\n"])
def test_files_without_clear_names_are_refused(tmp_path, content):
    (tmp_path / "names.csv").write_text(content)
    with pytest.raises(InputError, match="name"):
        read_names(tmp_path / "names.csv")

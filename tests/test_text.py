"""Text tables as spreadsheets, AFNI, R and pandas write them hold the same numbers."""

import gzip

import numpy as np
import pandas as pd
import pytest

from semantoks.data.phenotypes import Phenotypes
from semantoks.data.sources.series import read_text
from semantoks.data.text import read_table

SIGNAL = np.random.default_rng(2).standard_normal((6, 3)).round(3)
NAMES = ("left", "right", "south")


def text(separator, names=NAMES, end="", comma=False):
    rows = [separator.join(map(str, row)) + end for row in SIGNAL]
    rows = [row.replace(".", ",") for row in rows] if comma else rows
    return "\n".join([separator.join(names), *rows] if names else rows) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", text(",")),
        ("b.csv", text(";")),
        ("c.csv", text(";", comma=True)),
        ("d.txt", text("  ")),
        ("e.1D", "# a program, its version\n#" + text("\t")),
        ("f.tsv", text("\t").replace("\n", "\r\n")),
        ("g.csv", pd.DataFrame(SIGNAL, columns=NAMES).to_csv()),
        ("h.tsv", "\t".join(NAMES) + "\n" + pd.DataFrame(SIGNAL).to_csv(sep="\t", header=False)),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_all_ways_of_writing_hold_the_same(tmp_path, name, content, encoding):
    (tmp_path / name).write_bytes(content.encode(encoding))
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(content.encode(encoding)))
    for file in (tmp_path / name, packed):
        signal, names = read_text(file)
        assert names == NAMES
        assert np.array_equal(signal, SIGNAL)


def test_a_separator_at_the_end_of_all_lines_is_no_roi(tmp_path):
    (tmp_path / "a.tsv").write_text(text("\t", names=(), end="\t"))
    signal, names = read_text(tmp_path / "a.tsv")
    assert names is None
    assert np.array_equal(signal, SIGNAL)


def test_a_named_roi_without_values_stays(tmp_path):
    (tmp_path / "a.tsv").write_text("north\tsouth\n1\t\n2\t\n")
    signal, names = read_text(tmp_path / "a.tsv")
    assert names == ("north", "south")
    assert np.array_equal(signal, [[1, np.nan], [2, np.nan]], equal_nan=True)


def test_names_and_cells_are_stripped(tmp_path):
    (tmp_path / "a.csv").write_text("subject; sex ;age\nM\u00fcller;F ;31\nb; F;.\n", "latin-1")
    frame = read_table(tmp_path / "a.csv", na_values=["."])
    assert frame["subject"].tolist() == ["M\u00fcller", "b"]
    assert frame["sex"].tolist() == ["F", "F"]
    assert frame["age"].isna().tolist() == [False, True]


def test_codes_of_sites_stay_whole_beside_an_unknown_one(tmp_path):
    (tmp_path / "people.tsv").write_text("subject\tsite\n01\t1\n02\t\n")
    people = Phenotypes.read([tmp_path / "people.tsv"])
    assert [people.of(subject, None)["site"] for subject in ("01", "02")] == ["1", None]

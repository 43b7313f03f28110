"""Every table that a person may have touched goes through one reader, and holds the same."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import semantoks
import trees
from semantoks.atlas.parcellation import Parcellation
from semantoks.data.sources.derivatives import derivative_items
from semantoks.data.sources.items import Reading
from semantoks.errors import InputError
from semantoks.workflow.prepare import assign_atlas

PACKAGE = Path(semantoks.__file__).parent
#: Tables that this package wrote itself.
OWN = {"data/reader.py", "datasets.py"}


def spreadsheet(frame: pd.DataFrame) -> bytes:
    """Return a table as spreadsheets in half of Europe write it, with a blank row and a comment."""
    first, *rest = frame.to_csv(sep=";", decimal=",", index=False, quoting=1).splitlines()
    blank = ";" * (len(frame.columns) - 1)
    return "\r\n".join(["# exported", first, blank, *rest]).encode("utf-16")


def excel(file: Path, frame: pd.DataFrame) -> Path:
    pytest.importorskip("openpyxl")
    frame.to_excel(file, index=False)
    return file


def test_no_module_reads_tables_in_a_way_of_its_own():
    other = re.compile(r"read_csv|read_table\(.*sep|read_excel|genfromtxt|loadtxt|csv\.reader")
    found = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if other.search(file.read_text(encoding="utf-8"))
    }
    assert found == OWN | {"text.py"}


ODD = Parcellation(
    name="odd",
    labels=("#2001", "#2002", "NA", "7", "süd"),
    networks=("Vis", "Vis", "Cont", "None", "Cont"),
    coordinates=((-1.5, 2.0, 3.0), (4.5, 5, 6), (7, 8, 9), (1, 2, 3), (0, 0, 0.5)),
    space="MNI152",
    index=(2001, 2002, 5, 7, 9),
)


@pytest.mark.parametrize("way", ["odd.tsv", "odd.csv", "odd.xlsx"])
def test_atlases_of_ones_own(tmp_path, way):
    file, frame = tmp_path / way, ODD.to_frame()
    if way == "odd.tsv":
        ODD.save(file)
    elif way == "odd.csv":
        file.write_bytes(spreadsheet(frame))
    else:
        excel(file, frame)
    loaded = Parcellation.load(file)
    assert loaded.labels == ODD.labels
    assert loaded.networks == ODD.networks
    assert loaded.index == ODD.index
    np.testing.assert_array_equal(loaded.coordinates, ODD.coordinates)


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".xlsx"])
def test_labels_of_the_values_of_an_image(tmp_path, ending):
    values = np.zeros((20, 20, 20), np.int16)
    values[4:8, 4:8, 4:8], values[10:14, 10:14, 10:14] = 3, 11
    image = tmp_path / "mine.nii.gz"
    nib.save(nib.Nifti1Image(values, np.diag([4.0, 4, 4, 1])), image)
    frame = pd.DataFrame({"index": [11, 3], "label": ["süd", "NA"], "size": [0.5, 1.5]})
    file = tmp_path / f"labels{ending}"
    if ending == ".xlsx":
        excel(file, frame)
    else:
        file.write_bytes(spreadsheet(frame))
    table, _ = assign_atlas(image, tmp_path / "atlas.tsv", file)
    assert dict(zip(table["index"], table["label"], strict=True)) == {3: "NA", 11: "süd"}


def test_labels_without_whole_values_are_refused(tmp_path):
    file = tmp_path / "labels.tsv"
    for content, message in (
        ("index\tlabel\n3\ta\n4.5\tb\n", "index = '4.5': must be a whole number"),
        ("index\tlabel\n\ta\n", "index = '': must be a whole number"),
        ("value\tname\n3\ta\n", "must have the columns index and label"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            assign_atlas(tmp_path / "none.nii", tmp_path / "atlas.tsv", file)


def test_what_lies_beside_a_scan_survives_a_spreadsheet(tmp_path):
    study = trees.make_study(n_subjects=1)
    out = {"01": (5, 6, 40)}
    plain = trees.xcpd(tmp_path / "plain", study, censored=out)
    saved = trees.xcpd(tmp_path / "saved", study, censored=out)
    files = [*saved.rglob("*.tsv")]
    assert {re.sub(r".*_", "", file.stem) for file in files} >= {"outliers", "motion", "bold"}
    for file in files:
        frame = pd.read_csv(file, sep="\t")
        file.write_bytes(spreadsheet(frame))
    (one,), (other,) = (
        [item.load() for item in derivative_items(root, Reading(atlas=study.atlas))]
        for root in (plain, saved)
    )
    assert one.mean_fd == pytest.approx(0.15, rel=0.02)
    assert other.mean_fd == one.mean_fd
    np.testing.assert_array_equal(other.signal, one.signal)
    np.testing.assert_array_equal(np.flatnonzero(~other.kept), out["01"])
    np.testing.assert_array_equal(other.coverage, one.coverage)

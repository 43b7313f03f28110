"""Reading recordings from a table of files: names and TR are stated, never guessed."""

import json
import pickle
import re
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.encode import StoreSpec
from semantoks.data.prepare import prepare
from semantoks.data.signal import Preprocessing
from semantoks.data.sources.bids import UNSURE, Stated, settle_tr, sidecar_trs
from semantoks.data.sources.find import find_items
from semantoks.data.sources.hdf5 import hdf5_items
from semantoks.data.sources.items import Reading, read_names
from semantoks.data.sources.table import table_items
from semantoks.errors import InputError

NAMES = ("north", "south", "east")
TOY = Parcellation(name="toy", labels=NAMES, networks=("Vis", "Vis", "Cont"))
SIGNAL = np.random.default_rng(1).standard_normal((7, 3)).round(3)


def write_signal(path, header=NAMES, signal=SIGNAL):
    separator = {".tsv": "\t", ".csv": ","}[path.suffix]
    lines = [] if header is None else [separator.join(header)]
    lines += [separator.join(f"{value}" for value in row) for row in signal]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_table(folder, text="file\tsubject\ttr\na.tsv\t01\t2.5\n", name="table.tsv"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def read_table(table, *, tr=None, roi_names=None):
    """Read everything; the parcellation matters to images only."""
    if isinstance(roi_names, (str, Path)):
        roi_names = read_names(roi_names)
    names = None if roi_names is None else tuple(roi_names)
    items = table_items(table, Reading(atlas=TOY, tr=tr, roi_names=names))
    return [item.load() for item in items]


def read_one(table, **arguments):
    (recording,) = read_table(table, **arguments)
    return recording


def test_a_table_with_everything(tmp_path):
    (tmp_path / "deep").mkdir()
    write_signal(tmp_path / "deep" / "a.tsv")
    write_signal(tmp_path / "b.csv", signal=SIGNAL * 2)
    table = write_table(
        tmp_path,
        "file\tsubject\tsession\ttask\trun\tsite\ttr\tmean_fd\tcensored_fraction\tsex\tage\tscore\n"
        "deep/a.tsv\tsub-007\tses-1\ttask-rest\trun-02\t12\t2.5\t0.125\t0.5\tfemale\t31\t1.5\n"
        "b.csv\t008\tn/a\trest\t\t\t2\t\t\tn/a\t32\t\n",
    )
    first, second = read_table(table)
    assert np.allclose(first.signal, SIGNAL)
    assert np.allclose(second.signal, SIGNAL * 2)
    assert first.roi_names == second.roi_names == NAMES
    assert first.id == "sub-007_ses-1_task-rest_run-02"
    assert second.id == "sub-008_task-rest"
    assert (first.site, first.tr, first.mean_fd, first.censored_fraction) == ("12", 2.5, 0.125, 0.5)
    assert (second.site, second.mean_fd) == (None, None)
    assert first.phenotypes == {"sex": "female", "age": 31, "score": 1.5}
    assert second.phenotypes == {"sex": None, "age": 32, "score": None}
    assert first.source == str(tmp_path / "deep" / "a.tsv")


def test_arrays_take_their_names_from_the_argument(tmp_path):
    np.save(tmp_path / "a.npy", SIGNAL.astype(np.float32))
    (tmp_path / "names.txt").write_text("north\nsouth\neast\n")
    table = write_table(tmp_path, "file,subject\na.npy,01\n", "table.csv")
    for names in (NAMES, list(NAMES), tmp_path / "names.txt", str(tmp_path / "names.txt")):
        recording = read_one(table, tr=2.0, roi_names=names)
        assert recording.roi_names == NAMES
        assert np.allclose(recording.signal, SIGNAL)
        assert recording.tr == 2.0


@pytest.mark.parametrize("header", [None, ("0", "1", "2"), ("1", "2", "3")])
def test_a_file_without_names_needs_the_argument(tmp_path, header):
    write_signal(tmp_path / "a.tsv", header)
    with pytest.raises(
        InputError, match=r"a\.tsv: ROI names: does not name its ROIs, and an order"
    ):
        read_one(write_table(tmp_path))
    recording = read_one(write_table(tmp_path), roi_names=NAMES)
    # A line that counts the columns is no time point; a first line of data is one.
    assert np.allclose(recording.signal, SIGNAL)


def test_names_in_the_file_win(tmp_path):
    write_signal(tmp_path / "a.tsv")
    assert read_one(write_table(tmp_path), roi_names=("p", "q", "r")).roi_names == NAMES


def sidecar(folder, content='{"RepetitionTime": 2.5}'):
    (folder / "a.json").write_text(content, encoding="utf-8")


def test_tr_comes_from_the_sidecar(tmp_path):
    write_signal(tmp_path / "a.tsv")
    sidecar(tmp_path)
    table = write_table(tmp_path, "file\tsubject\na.tsv\t01\n")
    assert read_one(table).tr == 2.5
    assert read_one(table, tr=2.5).tr == 2.5


def test_one_rule_of_authority_settles_the_tr(tmp_path):
    """The option, the table, the sidecar, the header; what is overridden is noted."""
    write_signal(tmp_path / "a.tsv")
    sidecar(tmp_path, json.dumps({"RepetitionTime": 3.0}))
    assert read_one(write_table(tmp_path)).tr == 2.5
    notes = read_one(write_table(tmp_path)).notes
    assert notes[0] == "TR 2.5 s (table) overrides 3 s (sidecar)"
    chosen = read_one(write_table(tmp_path), tr=2)
    assert chosen.tr == 2
    assert chosen.notes[:-1] == (
        "TR 2 s (--source-tr) overrides 2.5 s (table)",
        "TR 2 s (--source-tr) overrides 3 s (sidecar)",
    )


@pytest.mark.parametrize(
    ("content", "tr", "n_notes"),
    [
        ({"RepetitionTime": "2.5"}, 2.5, 0),
        ({"RepetitionTime": 0.72, "SamplingFrequency": 1.39}, 0.72, 0),
        ({"RepetitionTime": 0.72, "SamplingFrequency": 0.5}, 0.72, 1),
        ({"SamplingFrequency": "0.5"}, 2, 0),
        ({"RepetitionTime": 1.5, "SamplingFrequency": "TR"}, 1.5, 0),
        ({"RepetitionTime": 2500}, 2.5, 1),
        ({"RepetitionTime": "2500"}, 2.5, 1),
    ],
)
def test_text_milliseconds_and_rounded_frequencies_are_understood(tmp_path, content, tr, n_notes):
    stated = sidecar_trs({key: (value, tmp_path / "a.json") for key, value in content.items()})
    timing = settle_tr(tmp_path / "a.tsv", None, stated)
    assert timing.tr == tr
    assert len(timing.notes) == n_notes


@pytest.mark.parametrize("by", ["header", "sidecar"])
def test_a_rounded_frequency_yields_to_the_tr_that_it_is_of(tmp_path, by):
    frequency = Stated("sampling frequency", 1 / 1.39, "a.json", rounded=True)
    exact = Stated(by, 0.72, "a.dtseries.nii")
    assert settle_tr(tmp_path / "a.tsv", None, [frequency, exact]) == (0.72, ())
    assert settle_tr(tmp_path / "a.tsv", None, [exact, frequency]) == (0.72, ())


@pytest.mark.parametrize("seconds", [2, 2000])
def test_the_header_of_a_volume_is_confirmed_as_the_advice_says(tmp_path, seconds):
    header = Stated(UNSURE, seconds, "a.nii.gz")
    with pytest.raises(InputError, match=r"--source-tr 2\)") as error:
        settle_tr(tmp_path / "a.nii.gz", None, [header])
    (advice,) = re.findall(r"--source-tr (\S+)\)", error.value.fix)
    timing = settle_tr(tmp_path / "a.nii.gz", float(advice), [header])
    assert timing == (2, ())


@given(
    option=st.none() | st.floats(0.1, 5),
    values=st.lists(st.floats(0.1, 5) | st.sampled_from(["x", 0, -1, None]), max_size=4),
)
def test_the_first_source_that_states_a_tr_decides(option, values):
    stated = [Stated("sidecar", value, f"{i}.json") for i, value in enumerate(values)]
    first = next((v for v in [option, *values] if v is not None), None)
    if isinstance(first, float):
        assert settle_tr(Path("a.tsv"), option, stated).tr == first
        return
    with pytest.raises(InputError, match="--source-tr"):
        settle_tr(Path("a.tsv"), option, stated)


@pytest.mark.parametrize("content", [0, -1, "two", [2], 1e7])
def test_advice_about_an_impossible_tr_works(tmp_path, content):
    write_signal(tmp_path / "a.tsv")
    sidecar(tmp_path, json.dumps({"RepetitionTime": content}))
    table = write_table(tmp_path, "file\tsubject\na.tsv\t01\n")
    with pytest.raises(InputError, match="--source-tr"):
        read_one(table)
    assert read_one(table, tr=2).tr == 2


@pytest.mark.parametrize(("content", "tr"), [("2,5", 2.5), (" 2.5 ", 2.5), ("2500", 2.5)])
def test_trs_as_text_are_numbers(tmp_path, content, tr):
    write_signal(tmp_path / "a.tsv")
    sidecar(tmp_path, json.dumps({"RepetitionTime": content}))
    assert read_one(write_table(tmp_path, "file\tsubject\na.tsv\t01\n")).tr == tr


def test_an_option_in_milliseconds_is_refused_before_anything_is_read():
    with pytest.raises(InputError, match=r"--source-tr.*tr = 2000\.0.*If so, give 2\b"):
        Reading(atlas=TOY, tr=2000)
    assert Reading(atlas=TOY, tr=2).tr == 2


def test_a_missing_or_implausible_tr_is_refused(tmp_path):
    write_signal(tmp_path / "a.tsv")
    nothing = write_table(tmp_path, "file\tsubject\na.tsv\t01\n", "nothing.tsv")
    with pytest.raises(InputError, match=r"a\.tsv: tr = None: the TR is missing.*--source-tr"):
        read_one(nothing)
    with pytest.raises(
        InputError, match=r"a\.tsv \(table\): tr = -2\.0: the TR must be a positive"
    ):
        read_one(write_table(tmp_path, "file\tsubject\ttr\na.tsv\t01\t-2\n"))
    sidecar(tmp_path, "{")
    with pytest.raises(InputError, match=r"a\.json: is not JSON"):
        read_one(nothing)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("series\tsubject\na.tsv\t01\n", r"has no column 'file'"),
        ("file\ttr\na.tsv\t2\n", r"columns = \['file', 'tr'\]: has no column 'subject'"),
        ("file\tsubject\ttr\na.tsv\t\t2\n", r"has no subject in line 2"),
        ("file\tsubject\ttr\na.tsv\t01\ttwo\n", r"tr = 'two': must be a number"),
        ("file\tsubject\n", r"lists no recordings"),
        ("file\tsubject\ttr\nb.tsv\t01\t2\n", r"file = 'b\.tsv': lists a file that does not exist"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    write_signal(tmp_path / "a.tsv")
    with pytest.raises(InputError, match=message):
        list(read_table(write_table(tmp_path, text)))


def test_a_bad_row_stops_its_own_recording_only(tmp_path):
    for name in ("a.tsv", "b.tsv"):
        write_signal(tmp_path / name)
    rows = ["a.tsv\tsub-01\t2", "none.tsv\t02\t2", "b.tsv\t03\ttwo", "b.tsv\t\t2"]
    rows += ["b.tsv\t05\t2.5", "\t06\t2", "../b.tsv\t07\t2"]
    table = write_table(tmp_path, "\n".join(["file\tsubject\ttr", *rows]) + "\n")
    items = table_items(table, Reading(atlas=TOY))
    names = ["01", "02", "03", "line 5", "05", "06", "07"]
    assert [item.id.removeprefix("sub-") for item in items] == names
    messages = {
        1: r"file = 'none\.tsv': lists a file that does not exist",
        2: r"tr = 'two': must be a number of seconds \(line 4\)",
        3: "has no subject in line 5",
        5: "has no file in line 7",
        6: "lists a file outside of",
    }
    for i, item in enumerate(items):
        if i not in messages:
            assert item.load().tr == (2, 0, 0, 0, 2.5)[i]
            continue
        with pytest.raises(InputError, match=messages[i]):
            pickle.loads(pickle.dumps(item)).load()
    steps = Preprocessing(low_hz=None, high_hz=None)
    spec = StoreSpec(parcellation=TOY, preprocessing=steps, min_times=4)
    report = prepare(items, tmp_path / "s", spec)
    stored = [status == "stored" for status in report.quality["status"]]
    assert stored == [i not in messages for i in range(7)]


def test_a_subject_is_given_with_or_without_its_prefix(tmp_path):
    write_signal(tmp_path / "a.tsv")
    for subject in ("7", "sub-7"):
        (item,) = find_items(tmp_path / "a.tsv", Reading(atlas=TOY, tr=2.0, subject=subject))
        assert (item.id, item.load().subject) == ("sub-7", "7")


def test_bad_tables_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match=r"table\.tsv: lists no recordings"):
        read_table(write_table(tmp_path, "file\tsubject\n"))
    with pytest.raises(InputError, match="there is no such file"):
        read_table(tmp_path / "nowhere.tsv")
    with pytest.raises(InputError, match=r"must be a file that lists names"):
        read_table(write_table(tmp_path), roi_names=tmp_path / "nowhere.txt")
    with pytest.raises(InputError, match=r"suffix = '\.docx': must be a table"):
        read_table(write_table(tmp_path, name="table.docx"))


def test_bad_files_are_refused(tmp_path):
    table = write_table(tmp_path)
    (tmp_path / "a.tsv").write_text("north\tsouth\n1.0\tq\n")
    with pytest.raises(
        InputError, match=r"signal = 'q': must be a number \(line 2, column 2 'south'\)"
    ):
        read_one(table)
    (tmp_path / "a.tsv").write_text("north\tsouth\n1.0\t2.0\n1.0\t2.0\t3.0\n")
    with pytest.raises(InputError, match=r"a\.tsv: signal: line 2 has 2 cells where most have 3"):
        read_one(table)
    arrays = write_table(tmp_path, "file\tsubject\ttr\na.npy\t01\t2\n")
    np.save(tmp_path / "a.npy", np.zeros(5))
    with pytest.raises(
        InputError, match=r"a\.npy.*'float64 \(5,\)': must be real numbers of the shape"
    ):
        read_one(arrays, roi_names=NAMES)
    np.save(tmp_path / "a.npy", np.array([["x"]]))
    with pytest.raises(InputError, match="must be real numbers"):
        read_one(arrays, roi_names=NAMES)
    (tmp_path / "a.npy").write_bytes(b"not an array")
    with pytest.raises(InputError, match=r"a\.npy: is damaged, or not what it should be"):
        read_one(arrays, roi_names=NAMES)
    (tmp_path / "a.doc").write_text("1 2 3\n")
    with pytest.raises(
        InputError, match=r"must be a file of time series \(\.tsv, .*\.npy, .*\.mat"
    ):
        read_one(write_table(tmp_path, "file\tsubject\ttr\na.doc\t01\t2\n"))


@pytest.mark.parametrize("name", ["../b.tsv", "/etc/hosts", "deep/../../b.tsv"])
def test_files_outside_of_the_folder_are_refused(tmp_path, name):
    folder = tmp_path / "study"
    folder.mkdir()
    write_signal(tmp_path / "b.tsv")
    with pytest.raises(InputError, match=r"lists a file outside of .*study"):
        read_one(write_table(folder, f"file\tsubject\ttr\n{name}\t01\t2\n"))
    table = write_table(folder, "file\tsubject\ttr\nb.tsv\t01\t2\n")
    atlas = Parcellation(name="toy", labels=NAMES, networks=("Vis", "Vis", "Cont"))
    (item,) = table_items(table, Reading(atlas=atlas, root=tmp_path))
    assert item.load().roi_names == NAMES


def test_the_orientation_is_stated_never_guessed(tmp_path):
    np.save(tmp_path / "a.npy", SIGNAL.T)
    table = write_table(tmp_path, "file\tsubject\ttr\na.npy\t01\t2\n")
    with pytest.raises(InputError, match=r"has 7 columns .*time-first.* 3 names.*rois-first"):
        read_one(table, roi_names=NAMES)
    atlas = Parcellation(name="toy", labels=NAMES, networks=("Vis", "Vis", "Cont"))
    reading = Reading(atlas=atlas, roi_names=NAMES, orientation="rois-first")
    (item,) = table_items(table, reading)
    np.testing.assert_array_equal(item.load().signal, SIGNAL)
    np.save(tmp_path / "a.npy", SIGNAL[:, :2])
    with pytest.raises(InputError, match=r"has 7 columns .*rois-first\) for 3 names of ROIs\."):
        item.load()


def test_matlab_matrices(tmp_path):
    savemat(tmp_path / "a.mat", {"ts": SIGNAL, "tr": 2.0, "note": "x"})
    table = write_table(tmp_path, "file\tsubject\ttr\na.mat\t01\t2\n")
    np.testing.assert_array_equal(read_one(table, roi_names=NAMES).signal, SIGNAL)
    savemat(tmp_path / "a.mat", {"ts": SIGNAL, "fc": np.eye(3)})
    with pytest.raises(InputError, match=r"holds 2 matrices: fc, ts"):
        read_one(table, roi_names=NAMES)
    atlas = Parcellation(name="toy", labels=NAMES, networks=("Vis", "Vis", "Cont"))
    (item,) = table_items(table, Reading(atlas=atlas, roi_names=NAMES, variable="ts"))
    np.testing.assert_array_equal(item.load().signal, SIGNAL)
    (item,) = table_items(table, Reading(atlas=atlas, roi_names=NAMES, variable="TS"))
    with pytest.raises(InputError, match=r"variable = 'TS': the file has no such array.*fc, ts"):
        item.load()
    (tmp_path / "a.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:150])
    with pytest.raises(InputError, match=r"a\.mat: cannot be read"):
        read_one(table, roi_names=NAMES)


def test_matlab_files_of_version_73(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["ts"] = SIGNAL.T  # as MATLAB lays out a 7 x 3 matrix
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    with (tmp_path / "a.mat").open("r+b") as stream:
        stream.write(head)
    table = write_table(tmp_path, "file\tsubject\ttr\na.mat\t01\t2\n")
    np.testing.assert_array_equal(read_one(table, roi_names=NAMES).signal, SIGNAL)


def test_empty_cells_are_not_a_number_and_left_to_the_store(tmp_path):
    (tmp_path / "a.tsv").write_text("north\tsouth\n1.0\tn/a\n2.0\t\n")
    signal = read_one(write_table(tmp_path)).signal
    assert (signal[:, 0] == [1, 2]).all()
    assert np.isnan(signal[:, 1]).all()


def test_what_nilearn_users_save_is_read(tmp_path):
    frame = pd.DataFrame(SIGNAL, columns=NAMES)
    frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    recording = read_one(write_table(tmp_path))
    assert recording.roi_names == NAMES
    assert np.allclose(recording.signal, SIGNAL)


def test_names_given_replace_a_header_that_names_no_roi(tmp_path):
    write_signal(tmp_path / "a.tsv", header=("V1", "V2", "V3"))
    turned = ("east", "south", "north")
    assert read_one(write_table(tmp_path), roi_names=turned).roi_names == turned


def test_the_subject_may_be_called_participant_id(tmp_path):
    write_signal(tmp_path / "a.tsv")
    table = write_table(tmp_path, "file;participant_id;tr\na.tsv;sub-07;2\n", "table.csv")
    assert read_one(table).subject == "07"


@pytest.mark.parametrize(("start", "expected"), [("1.25", 1.25), ('"0.5"', 0.5), ("null", 0.0)])
def test_the_start_comes_from_the_sidecar(tmp_path, start, expected):
    write_signal(tmp_path / "a.tsv")
    sidecar(tmp_path, f'{{"RepetitionTime": 2.5, "StartTime": {start}}}')
    assert read_one(write_table(tmp_path, "file\tsubject\na.tsv\t01\n")).start_time == expected
    sidecar(tmp_path, '{"RepetitionTime": 2.5, "StartTime": "soon"}')
    with pytest.raises(InputError, match=r"a\.json: StartTime = 'soon': must be a number"):
        read_one(write_table(tmp_path, "file\tsubject\na.tsv\t01\n"))


def write_hdf5(path, lengths=None, padding=0.0):
    """Three subjects of 40, 33 and 51 time points, padded to 51."""
    signal = np.full((3, 3, 51), padding)
    for k, n in enumerate((40, 33, 51)):
        signal[k, :, :n] = np.random.default_rng(k).standard_normal((3, n))
    with h5py.File(path, "w") as file:
        file["timeseries/toy"] = signal
        file["long_subject_id"] = np.array(["a", "b", "c"], dtype=h5py.string_dtype())
        if lengths is not None:
            file["ts_len"] = np.array(lengths)
    return signal


def read_hdf5(path):
    atlas = Parcellation(name="toy", labels=NAMES, networks=("Vis", "Vis", "Cont"))
    items = hdf5_items(path, Reading(atlas=atlas, tr=2.0, roi_names=NAMES))
    return [item.load() for item in items]


def test_an_hdf5_file_states_the_lengths(tmp_path):
    """Padding need not be NaN: what lies past ``ts_len`` is no data."""
    for padding, dtype in ((0.0, np.int64), (np.nan, np.float32)):
        signal = write_hdf5(tmp_path / "s.h5", np.array([40, 33, 51], dtype), padding)
        found = read_hdf5(tmp_path / "s.h5")
        assert [len(one.signal) for one in found] == [40, 33, 51]
        np.testing.assert_array_equal(found[1].signal, signal[1, :, :33].T)
        assert not any(one.phenotypes for one in found)


@pytest.mark.parametrize("length", [0, 52, 33.5, -1])
def test_an_impossible_length_is_refused(tmp_path, length):
    write_hdf5(tmp_path / "s.h5", [40.0, length, 51.0])
    with pytest.raises(
        InputError, match=r"s\.h5\[1\]: ts_len = .*must be a whole number from 1 to 51"
    ):
        read_hdf5(tmp_path / "s.h5")
    write_hdf5(tmp_path / "s.h5", None, np.nan)  # the way out
    assert [len(one.signal) for one in read_hdf5(tmp_path / "s.h5")] == [40, 33, 51]

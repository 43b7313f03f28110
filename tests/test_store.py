"""The store gives back what went in, and refuses what must not."""

import errno
import json
import pickle
import resource
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.denoise import Censoring
from semantoks.data.integrity import check_store, strip_subjects
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import RecordingStore, StoreSpec, StoreWriter, write_store
from semantoks.errors import InputError, StoreError
from semantoks.evaluate.features.connectivity import ConnectivityBaseline

RAW = Preprocessing(detrend=False, low_hz=None, high_hz=None, zscore=False)
LENGTHS = (29, 24, 37, 31, 26)


def make(parcellation, n_times=29, subject="01", seed=0, **fields) -> Recording:
    rng = np.random.default_rng([seed, n_times])
    signal = rng.standard_normal((n_times, len(parcellation)))
    fields = {"roi_names": parcellation.labels, "tr": 2.0, "source": f"file-{subject}"} | fields
    return Recording(**{"signal": signal, "subject": subject} | fields)


@pytest.fixture
def five(parcellation) -> list[Recording]:
    return [make(parcellation, n, f"{i:02}", site="AB"[i % 2]) for i, n in enumerate(LENGTHS)]


@pytest.fixture
def store(five, parcellation, tmp_path) -> RecordingStore:
    # 60 rows per shard: two recordings, then one with two, so that shards differ in size.
    return write_store(tmp_path / "store", five, parcellation, RAW, shard_rows=60)


# -- what goes in comes out ----------------------------------------------------------------------


def test_signals_come_back_as_float16(store, five):
    assert len(store) == 5
    for i, recording in enumerate(five):
        assert store.raw(i).dtype == np.float16
        assert (store.raw(i) == recording.signal.astype(np.float16)).all()
        assert store.signal(i).dtype == np.float32
        assert np.allclose(store.signal(i), recording.signal, rtol=2**-10, atol=1e-7)


def test_signals_are_memory_mapped(store):
    base = store.raw(1)
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_anyone_reads_it_in_one_line(store, five):
    shard = np.load(store.path / "signals-00000.npy", mmap_mode="r")
    assert shard.flags.c_contiguous  # time-major on the disk: a crop is one contiguous read
    assert shard.dtype == np.float16
    assert shard.shape == (29 + 24, 11)
    assert (shard[29:] == five[1].signal.astype(np.float16)).all()
    assert list(pd.read_parquet(store.path / "recordings.parquet")["length"]) == list(LENGTHS)
    header = json.loads((store.path / "store.json").read_text())
    assert header["format_version"] == 2
    assert [shard["rows"] for shard in header["shards"]] == [53, 37, 57]
    for shard in header["shards"]:
        content = (store.path / shard["file"]).read_bytes()
        assert sha256(content).hexdigest() == shard["sha256"]


def test_the_index_holds_everything_known(parcellation, tmp_path):
    known = make(
        parcellation,
        subject="07",
        session="2",
        task="rest",
        run="1",
        site="NYU",
        mean_fd=0.25,
        censored_fraction=0.125,
        phenotypes={"sex": "female", "age": 31.5, "left": True},
    )
    unknown = make(parcellation, 33, "08", phenotypes={"sex": None, "age": None, "left": None})
    table = write_store(tmp_path / "s", [known, unknown], parcellation, RAW).table
    row = table.iloc[0].to_dict()
    assert row["id"] == "sub-07_ses-2_task-rest_run-1"
    assert [row[key] for key in ("subject", "session", "task", "run", "site")] == (
        ["07", "2", "rest", "1", "NYU"]
    )
    assert (row["mean_fd"], row["censored_fraction"], row["source_tr"]) == (0.25, 0.125, 2.0)
    assert (row["sex"], row["age"], row["left"]) == ("female", 31.5, True)
    assert (row["shard"], row["start"], row["length"], row["missing_rois"]) == (0, 0, 29, ())
    missing = ["session", "task", "run", "site", "mean_fd", "censored_fraction"]
    assert table.iloc[1][[*missing, "sex", "age", "left"]].isna().all()


def test_rois_are_reordered_by_name(parcellation, tmp_path):
    order = np.random.default_rng(5).permutation(11)
    straight = make(parcellation)
    shuffled = replace(
        straight,
        signal=straight.signal[:, order],
        roi_names=tuple(parcellation.labels[i] for i in order),
    )
    a = write_store(tmp_path / "a", [straight], parcellation, RAW)
    b = write_store(tmp_path / "b", [shuffled], parcellation, RAW)
    assert not (order == np.arange(11)).all()
    assert (a.raw(0) == b.raw(0)).all()
    assert b.raw(0).flags.c_contiguous


def test_17_network_order_is_reordered_by_name(tmp_path):
    atlas = Parcellation.load("schaefer400")
    order = np.random.default_rng(6).permutation(400)
    recording = make(atlas)
    other = replace(
        recording,
        signal=recording.signal[:, order],
        roi_names=tuple(atlas.aliases[i][1] for i in order),
    )
    assert other.roi_names[0].startswith("17Networks_")
    stored = write_store(tmp_path / "s", [other], atlas, RAW)
    assert (stored.raw(0) == recording.signal.astype(np.float16)).all()


def test_parcellation_and_preprocessing_come_back(parcellation, tmp_path):
    preprocessing = Preprocessing(tr=1.0, high_hz=0.2)
    recordings = [make(parcellation, 61, "1", tr=3.0), make(parcellation, 90, "2")]
    stored = write_store(tmp_path / "s", recordings, parcellation, preprocessing)
    assert stored.parcellation == parcellation
    assert stored.parcellation.name == "toy11"
    assert stored.preprocessing == preprocessing
    assert stored.tr == 1.0
    assert list(stored.table["source_tr"]) == [3.0, 2.0]
    assert list(stored.table["length"]) == [181, 179]
    expected = preprocessing.apply(recordings[1].signal, 2.0).astype(np.float16)
    assert (stored.raw(1) == expected).all()
    assert set(stored.header["steps"]) == {"2", "3"}
    assert np.allclose(stored.signal(0).std(axis=0), 1, atol=1e-3)


def test_info_counts_what_is_there(store):
    info = store.info()
    assert (info["n_recordings"], info["n_subjects"], info["n_rois"]) == (5, 5, 11)
    assert info["sites"] == {"A": 3, "B": 2}
    assert info["networks"] == {"Vis": 2, "Limbic": 4, "Default": 5}
    assert info["minutes"]["sum"] == pytest.approx(sum(LENGTHS) * 2 / 60)
    json.dumps(info)


# -- crops ---------------------------------------------------------------------------------------


@given(data=st.data(), length=st.integers(1, 45), n_views=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_gather_gives_contiguous_crops_and_zeros_past_the_end(crops_store, data, length, n_views):
    store = crops_store
    which = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=7))
    starts = [[data.draw(st.integers(0, LENGTHS[i] - 1)) for i in which] for _ in range(n_views)]
    crops = store.gather(which, starts, length)
    assert crops.shape == (n_views, len(which), length, 11)
    assert crops.dtype == np.float16
    for view in range(n_views):
        for place, i in enumerate(which):
            expected = np.zeros((length, 11), np.float16)
            piece = store.raw(i)[starts[view][place] :][:length]
            expected[: len(piece)] = piece
            assert (crops[view, place] == expected).all()


@pytest.fixture(scope="module")
def crops_store(parcellation, tmp_path_factory) -> RecordingStore:
    recordings = [make(parcellation, n, str(i)) for i, n in enumerate(LENGTHS)]
    path = tmp_path_factory.mktemp("crops") / "store"
    return write_store(path, recordings, parcellation, RAW, shard_rows=60)


@pytest.mark.parametrize(
    ("recordings", "starts", "message"),
    [
        ([5], [[0]], r"recordings = .*: must be in \[0, 5\)"),
        ([-1], [[0]], r"must be in \[0, 5\)"),
        ([0, 1], [[0, -1]], r"starts = -1: every crop must start within its recording"),
        ([0, 1], [[0, 24]], r"starts = 24: every crop must start within"),
        ([0, 1], [0, 1], r"starts = \(2,\): must have the shape \(V, B\) with B = 2"),
    ],
)
def test_gather_refuses_what_is_not_there(crops_store, recordings, starts, message):
    with pytest.raises(InputError, match=message):
        crops_store.gather(recordings, starts, 4)


# -- views on a store ----------------------------------------------------------------------------


def test_select_by_index_and_by_mask(store):
    chosen = store.select([4, 1])
    assert list(chosen.table["subject"]) == ["04", "01"]
    assert list(chosen.table.index) == [0, 1]
    assert (chosen.raw(0) == store.raw(4)).all()
    assert (chosen.gather([1], [[3]], 5)[0, 0] == store.raw(1)[3:8]).all()
    masked = store.select((store.table["site"] == "B").to_numpy())
    assert list(masked.table["subject"]) == ["01", "03"]
    assert len(masked.select([1])) == 1
    assert len(store) == 5


def test_select_refuses_what_is_not_there(store):
    with pytest.raises(InputError, match=r"a mask needs one value for each of the 5 recordings"):
        store.select([True, False])
    with pytest.raises(InputError, match=r"must be in \[0, 5\)"):
        store.select([5])


def test_fingerprint_tells_stores_and_choices_apart(store, five, parcellation, tmp_path):
    same = write_store(tmp_path / "same", five, parcellation, RAW, shard_rows=60)
    louder = [replace(five[0], signal=five[0].signal * 2), *five[1:]]
    other = write_store(tmp_path / "other", louder, parcellation, RAW, shard_rows=60)
    assert same.fingerprint == store.fingerprint
    assert store.select(range(5)).fingerprint == store.fingerprint
    assert len({store.fingerprint, other.fingerprint, store.select([0]).fingerprint}) == 3


def test_a_pickled_store_carries_no_signals(store):
    chosen = store.select([3])
    again = pickle.loads(pickle.dumps(chosen))
    assert (again.raw(0) == store.raw(3)).all()
    assert again.fingerprint == chosen.fingerprint
    assert "_shards" not in chosen.__getstate__()


# -- recordings that are refused -----------------------------------------------------------------


def broken(parcellation, roi, value) -> np.ndarray:
    signal = make(parcellation).signal.copy()
    signal[:, roi] = value
    return signal


def partly_nan(parcellation) -> np.ndarray:
    signal = make(parcellation).signal.copy()
    signal[4, 6] = np.nan
    return signal


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda _: {"tr": None}, r"file-01 \(sub-01\): tr = None: the TR is missing"),
        (lambda _: {"tr": 2000.0}, r"sub-01.*tr = 2000.*is it in milliseconds\?"),
        (lambda _: {"tr": float("nan")}, r"must be a positive number of seconds"),
        (
            lambda p: {"signal": np.ones((29, 9)), "roi_names": p.labels[:9]},
            r"sub-01\): ROI names: has 9 ROIs where toy11 has 11",
        ),
        (
            lambda _: {"signal": np.ones((29, 9))},
            r"signal = \(29, 9\): must have the shape \(n_times, 11\)",
        ),
        (lambda _: {"roi_names": tuple(map(str, range(11)))}, r"an order is never guessed"),
        (
            lambda p: {"signal": broken(p, [2, 7], 5.0)},
            r"sub-01\).*2 ROIs have no data: {2} \(zero variance\), {7} \(zero",
        ),
        (
            lambda p: {"signal": broken(p, 3, np.arange(29.0)[:])},
            r"1 ROIs have no data: {3} \(zero variance\)",  # a line has no variance left either
        ),
        (lambda p: {"signal": broken(p, 4, np.nan)}, r"1 ROIs have no data: {4} \(not a number\)"),
        (lambda p: {"signal": partly_nan(p)}, r"holds values that are not finite in {6}"),
        (lambda p: {"missing_rois": (p.labels[5],)}, r"no data: {5} \(listed as missing\)"),
        (lambda _: {"missing_rois": ("Q",)}, r"lists ROIs that it does not have: Q"),
        (
            lambda p: {"signal": make(p).signal[:19]},
            r"length = '19 \(38 s\)': is shorter than 20 time points of 2 s",
        ),
        (lambda p: {"signal": broken(p, 8, [1e5, -1e5] * 14 + [0])}, r"the range of float16"),
        (lambda _: {"phenotypes": {"site": "A"}}, r"'site': is a column of the index"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_recordings_are_refused_and_named(parcellation, tmp_path, changes, message):
    recording = replace(make(parcellation), **changes(parcellation))
    expected = message
    for place, label in enumerate(parcellation.labels):
        expected = expected.replace(f"{{{place}}}", label)
    with pytest.raises(InputError, match=expected):
        write_store(tmp_path / "s", [recording], parcellation, RAW)
    assert not (tmp_path / "s").exists()


def test_a_refused_recording_leaves_the_store_usable(parcellation, tmp_path):
    spec = StoreSpec(parcellation=parcellation, preprocessing=RAW)
    with StoreWriter(tmp_path / "s", spec) as writer:
        with pytest.raises(InputError, match="milliseconds"):
            writer.add(make(parcellation, subject="1", tr=3000))
        writer.add(make(parcellation, subject="1"))
    assert list(RecordingStore(tmp_path / "s").table["subject"]) == ["1"]


def test_missing_rois_can_be_marked(parcellation, tmp_path):
    recordings = [
        make(parcellation, subject="1", signal=broken(parcellation, [2, 7], 5.0)),
        make(parcellation, subject="2", signal=broken(parcellation, 4, np.nan)),
        make(parcellation, subject="3", missing_rois=(parcellation.labels[9],)),
        make(parcellation, subject="4"),
    ]
    stored = write_store(
        tmp_path / "s", recordings, parcellation, Preprocessing(), missing_rois="mark"
    )
    names = parcellation.labels
    marked = [(names[2], names[7]), (names[4],), (names[9],), ()]
    assert list(stored.table["missing_rois"]) == marked
    for i, missing in enumerate(marked):
        zero = (stored.raw(i) == 0).all(axis=0)
        assert [names[roi] for roi in np.flatnonzero(zero)] == list(missing)
    assert stored.info()["with_missing_rois"] == 3


def test_marking_still_refuses_holes_and_nothing_at_all(parcellation, tmp_path):
    holes = make(parcellation, signal=partly_nan(parcellation))
    with pytest.raises(InputError, match=f"not finite in {parcellation.labels[6]}"):
        write_store(tmp_path / "s", [holes], parcellation, RAW, missing_rois="mark")
    empty = make(parcellation, signal=np.zeros((29, 11)))
    with pytest.raises(InputError, match="no ROI has data"):
        write_store(tmp_path / "s", [empty], parcellation, RAW, missing_rois="mark")
    with pytest.raises(InputError, match="must be 'refuse' or 'mark'"):
        StoreSpec(parcellation=parcellation, preprocessing=RAW, missing_rois="drop")


def test_the_same_recording_twice_is_refused(parcellation, tmp_path):
    recordings = [make(parcellation, source="a.tsv"), make(parcellation, 33, source="b.tsv")]
    message = r"b\.tsv.*id = 'sub-01': the same recording is there already, from a\.tsv"
    with pytest.raises(InputError, match=message):
        write_store(tmp_path / "s", recordings, parcellation, RAW)


def test_a_subject_with_two_diagnoses_is_refused(parcellation, tmp_path):
    def two(first, second):
        return [
            make(parcellation, session="1", phenotypes=first, source="a.tsv"),
            make(parcellation, session="2", phenotypes=second, source="b.tsv"),
        ]

    message = r"diagnosis: subject '01' has several: 'autism' \(a\.tsv.*\), 'control' \(b\.tsv"
    labels = ({"diagnosis": "autism"}, {"diagnosis": "control"})
    with pytest.raises(InputError, match=message):
        write_store(tmp_path / "s", two(*labels), parcellation, RAW)
    with pytest.raises(InputError, match=r"patient: subject '01' has several: True .*, False"):
        write_store(tmp_path / "s", two({"patient": True}, {"patient": False}), parcellation, RAW)
    # Numbers change from session to session, an unknown label contradicts none, and what may
    # change can be declared.
    later = write_store(tmp_path / "a", two({"age": 9.5}, {"age": 11.0}), parcellation, RAW)
    assert list(later.table["age"]) == [9.5, 11.0]
    for gap in (None, float("nan")):
        path = tmp_path / f"gap-{gap}"
        write_store(path, two({"diagnosis": gap}, {"diagnosis": "autism"}), parcellation, RAW)
    write_store(tmp_path / "v", two(*labels), parcellation, RAW, varying=["diagnosis"])


def test_a_phenotype_has_values_of_one_kind(parcellation, tmp_path):
    recordings = [
        make(parcellation, subject="1", phenotypes={"score": "high"}),
        make(parcellation, subject="2", phenotypes={"score": 3}),
    ]
    with pytest.raises(InputError, match=r"score: mixes numbers and text over the recordings"):
        write_store(tmp_path / "s", recordings, parcellation, RAW)
    assert not (tmp_path / "s").exists()


def test_an_empty_store_is_refused(parcellation, tmp_path):
    with pytest.raises(InputError, match="one recording at least"):
        write_store(tmp_path / "s", [], parcellation, RAW)
    assert not (tmp_path / "s").exists()


# -- folders and devices -------------------------------------------------------------------------


def test_an_existing_store_is_not_overwritten(store, five, parcellation):
    before = {path.name: path.read_bytes() for path in store.path.iterdir()}
    with pytest.raises(StoreError, match="exists already and is not overwritten"):
        write_store(store.path, five, parcellation, RAW)
    assert {path.name: path.read_bytes() for path in store.path.iterdir()} == before


def test_other_folders_and_files_are_not_touched(five, parcellation, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="exists already and is not overwritten"):
        write_store(tmp_path, five, parcellation, RAW)
    with pytest.raises(StoreError, match="exists already and is not overwritten"):
        write_store(tmp_path / "thesis.txt", five, parcellation, RAW)
    with pytest.raises(StoreError, match=r"s: cannot be made \(Not a directory\)"):
        write_store(tmp_path / "thesis.txt" / "s", five, parcellation, RAW)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_may_be_filled_and_stays_when_it_fails(five, parcellation, tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(InputError, match="already, from"):
        write_store(tmp_path / "s", [*five, five[0]], parcellation, RAW, shard_rows=40)
    assert list((tmp_path / "s").iterdir()) == []
    assert len(write_store(tmp_path / "s", five, parcellation, RAW)) == 5


def test_interruption_removes_what_was_written(five, parcellation, tmp_path):
    def interrupted():
        yield from five
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "s", interrupted(), parcellation, RAW, shard_rows=40)
    assert not (tmp_path / "s").exists()


def test_no_space_left_is_said_and_undone(five, parcellation, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("semantoks.files.os.fsync", full)
    message = r"signals-00000\.npy: cannot be written \(No space left on device\).*Free space"
    with pytest.raises(StoreError, match=message):
        write_store(tmp_path / "s", five, parcellation, RAW)
    assert not (tmp_path / "s").exists()


def test_a_real_limit_on_the_size_of_files(five, parcellation, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Above the header of the array and below its end.
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(StoreError, match=r"signals-00000\.npy: cannot be written"):
            write_store(tmp_path / "s", five, parcellation, RAW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "s").exists()


# -- stores that are refused ---------------------------------------------------------------------


def test_half_written_stores_are_recognised(store):
    (store.path / "store.json").unlink()
    with pytest.raises(StoreError, match=r"is a half-written store.*Delete the folder"):
        RecordingStore(store.path)


def test_no_store_at_all(tmp_path):
    with pytest.raises(StoreError, match="there is no such folder"):
        RecordingStore(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"is no store \(it holds no store\.json\)"):
        RecordingStore(tmp_path)


def change_header(store, **changes):
    path = store.path / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_newer_version_is_refused(store):
    change_header(store, format_version=3)
    message = r"format_version = 3: is newer than this version of the package reads \(2\).*Update"
    with pytest.raises(StoreError, match=message):
        RecordingStore(store.path)


def test_another_json_is_no_header(store):
    change_header(store, format="something")
    with pytest.raises(StoreError, match="is not the header of a store"):
        RecordingStore(store.path)
    (store.path / "store.json").write_text("{")
    with pytest.raises(StoreError, match="is not JSON"):
        RecordingStore(store.path)


def test_a_truncated_shard_is_refused(store):
    shard = store.path / "signals-00001.npy"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(StoreError, match=r"signals-00001\.npy: is damaged.*Restore"):
        RecordingStore(store.path)


def test_a_shard_of_another_shape_is_refused(store):
    np.save(store.path / "signals-00001.npy", np.zeros((36, 11), np.float16))
    with pytest.raises(StoreError, match=r"'float16 \(36, 11\)': .* of shape \(37, 11\)"):
        RecordingStore(store.path)


@pytest.mark.parametrize("name", ["rois.tsv", "recordings.parquet", "signals-00002.npy"])
def test_missing_files_are_named(store, name):
    (store.path / name).unlink()
    with pytest.raises(StoreError, match=rf"{name}: a .* is missing"):
        RecordingStore(store.path)


@pytest.mark.parametrize("name", ["rois.tsv", "recordings.parquet"])
def test_changed_files_are_refused(store, name):
    path = store.path / name
    path.write_bytes(path.read_bytes().replace(b"Limbic", b"limbic") + b"\n")
    with pytest.raises(StoreError, match=rf"{name}: is not what was written"):
        RecordingStore(store.path)


def test_verify_finds_a_changed_value(store):
    store.verify()
    shard = store.path / "signals-00002.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match=r"signals-00002\.npy: is not what was written"):
        RecordingStore(store.path).verify()


# -- censored volumes ------------------------------------------------------------------------------


def censored(parcellation, n_times=60, share=0.4, seed=3, tr=2.0) -> Recording:
    """Return white noise of known correlation with nonsense in the censored volumes."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((n_times, 1))
    signal = common + rng.standard_normal((n_times, len(parcellation)))
    kept = rng.permutation(n_times) >= share * n_times
    kept[[0, -1]] = True
    signal[~kept] = 50 * rng.standard_normal((int((~kept).sum()), 1))
    one = make(parcellation, n_times, f"s{seed}", signal=signal, tr=tr)
    return replace(one, kept=kept)


def test_a_store_remembers_which_time_points_are_data(parcellation, tmp_path):
    whole, half = make(parcellation, 29, "a"), censored(parcellation, 60)
    store = write_store(tmp_path / "s", [whole, half], parcellation, RAW, shard_rows=60)
    assert store.kept(0).all()
    assert (store.kept(1) == half.kept).all()
    assert (pickle.loads(pickle.dumps(store)).select([1]).kept(0) == half.kept).all()
    events = pd.DataFrame({"id": store.table["id"][[1, 1]], "onset": [0, 24.0], "duration": 12.0})
    assert (store.trials(events).kept(1) == half.kept[12:18]).all()


def test_a_resampled_time_point_is_data_if_both_its_neighbours_are(parcellation, tmp_path):
    kept = np.ones(31, bool)
    kept[[4, 11]] = False
    one = make(parcellation, 31, tr=3.0, kept=kept)
    (found,) = (write_store(tmp_path / "s", [one], parcellation, RAW).kept(0),)
    times = np.arange(len(found)) * 2.0  # 9 < t < 15 and 30 < t < 36 touch volumes 4 and 11
    assert (found == ~(((times > 9) & (times < 15)) | ((times > 30) & (times < 36)))).all()


def test_kept_time_points_are_checked_and_stripped_like_signals(parcellation, tmp_path):
    half = censored(parcellation)
    store = write_store(tmp_path / "s", [half], parcellation, RAW)
    assert (strip_subjects(store.path, tmp_path / "stripped").kept(0) == half.kept).all()
    assert check_store(store.path) == []
    (store.path / "kept.npy").write_bytes(b"nothing")
    assert any("kept.npy: is not what was written" in line for line in check_store(store.path))
    with pytest.raises(StoreError, match=r"kept\.npy: is not what was written"):
        RecordingStore(store.path)


def test_a_store_of_the_first_format_is_read(store):
    header = json.loads((store.path / "store.json").read_text())
    del header["kept_sha256"]
    (store.path / "store.json").write_text(json.dumps(header | {"format_version": 1}))
    (store.path / "kept.npy").unlink()
    old = RecordingStore(store.path)
    assert all(old.kept(i).all() and len(old.kept(i)) == LENGTHS[i] for i in range(5))
    assert check_store(store.path) == []
    assert strip_subjects(store.path, store.path.with_name("stripped")).kept(2).all()


def test_connectivity_of_kept_time_points_is_nearer_to_the_truth(parcellation, tmp_path):
    """All correlations are 0.5; interpolated volumes add variance that no brain made."""
    many = [censored(parcellation, 150, seed=seed) for seed in range(12)]
    spec = StoreSpec(
        parcellation=parcellation,
        preprocessing=Preprocessing(),
        censoring=Censoring(max_gap=60, min_kept=0.3),
    )
    with StoreWriter(tmp_path / "s", spec) as writer:
        for one in many:
            writer.add(one)
    store = RecordingStore(tmp_path / "s")
    truth = np.arctanh(0.5)
    whole = [store.signal(i) for i in range(len(store))]
    kept, filled = (np.abs(ConnectivityBaseline().fit_transform(x) - truth) for x in (store, whole))
    by_hand = np.corrcoef(store.signal(4)[many[4].kept].T)[np.tril_indices(11, -1)]
    found = np.tanh(ConnectivityBaseline().fit_transform(store)[4])
    np.testing.assert_allclose(found, by_hand, atol=1e-3)
    assert kept.mean() < filled.mean()


def test_trials_have_fingerprints_of_their_own(store):
    """The same ids at other times are other signals: a cache must not take one for the other."""
    ids = [*store.table["id"][:2]]
    first, later, longer = (
        store.trials(pd.DataFrame({"id": ids, "onset": onset, "duration": duration}))
        for onset, duration in ((0.0, 20.0), (8.0, 20.0), (0.0, 22.0))
    )
    assert [*first.table["id"]] == [*later.table["id"]]
    assert len({first.fingerprint, later.fingerprint, longer.fingerprint}) == 3

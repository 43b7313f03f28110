"""One scan under two names: what is found, and which of it affects a score."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.recording import Recording
from semantoks.data.seen import SeenData, SeenStore
from semantoks.data.signal import Preprocessing
from semantoks.data.splits import Fold
from semantoks.data.store import write_store
from semantoks.datasets import load_abide_sample
from semantoks.errors import InputError
from semantoks.evaluate.checks.copies import duplicate_recordings, shared_recordings
from semantoks.evaluate.checks.duplicates import find_duplicates
from semantoks.evaluate.checks.leaks import leak_alarms
from semantoks.model.encoder import Encoder, EncoderConfig

BAND = Preprocessing(tr=2.0, low_hz=0.01, high_hz=0.1)


def recording(x, subject, labels, *, tr=2.0, session=None):
    return Recording(
        signal=x, roi_names=labels, tr=tr, subject=subject, session=session, site="somewhere"
    )


@pytest.fixture(scope="module")
def copies(tmp_path_factory, parcellation):
    """23 scans of one covariance, and copies of some: as it is, scaled, cut, at another TR."""
    rng = np.random.default_rng(9)
    mixing = rng.standard_normal((11, 11))
    labels = parcellation.labels
    scans = [
        (rng.standard_normal((150 + 3 * i, 11)) + rng.standard_normal((150 + 3 * i, 1))) @ mixing
        for i in range(23)
    ]
    recordings = [recording(x, f"p{i:02}", labels) for i, x in enumerate(scans)]
    gain, offset = rng.uniform(0.2, 5, 11), rng.uniform(-99, 99, 11)
    noisy = scans[13] + 0.3 * scans[13].std(axis=0) * rng.standard_normal(scans[13].shape)
    recordings += [
        recording(scans[2], "same", labels),
        recording(scans[4] * gain + offset, "scaled", labels),
        recording(scans[7][9:], "cut", labels),
        recording(scans[10][20:-30] * gain, "both", labels),
        recording(noisy, "again", labels),
    ]
    folder = tmp_path_factory.mktemp("copies")
    return write_store(folder / "store", recordings, parcellation, BAND), scans, folder


EXPECTED = {
    ("sub-p02", "sub-same"): 0.0,
    ("sub-p04", "sub-scaled"): 0.0,
    ("sub-p07", "sub-cut"): 18.0,
    ("sub-p10", "sub-both"): 40.0,
    ("sub-p13", "sub-again"): 0.0,
}


def test_copies_are_found_and_nothing_else(copies):
    store, _, _ = copies
    found = find_duplicates(store)
    pairs = found.set_index(["first", "second"])["shift_s"].to_dict()
    assert pairs == EXPECTED
    assert found["correlation"].between(0.85, 1).all()
    assert find_duplicates(store, threshold=-1)["correlation"].nlargest(6).iloc[-1] < 0.45
    (alarm,) = duplicate_recordings(store)
    assert {tuple(pair.split(" (")[0].split(" = ")) for pair in alarm.found} == set(EXPECTED)
    assert alarm.severity == "warning", "without folds, it is unknown"
    assert "5 pairs are one scan each (5 under two subjects)" in alarm.what
    assert "+18 s" in alarm.found[2]


def test_a_leak_is_what_a_fold_divides(copies):
    """Copies p02, p04, p07, p10, p13 are rows 23 to 27: only the first two reach a score."""
    store, _, _ = copies
    rows = np.arange(28)
    tested = np.array([2, 24, 7, 25, 0, 5])  # p02 and the copy of p04 are tested, the others not;
    unused = np.array([10, 26])  # p07 with its copy, and p10 with its copy nowhere
    fold = Fold("1", np.setdiff1d(rows, [*tested, *unused]), tested)
    leak, notice = duplicate_recordings(store, [fold])
    assert leak.severity == "leak"
    assert [pair.split(" (")[0] for pair in leak.found] == [
        "sub-p02 = sub-same",
        "sub-p04 = sub-scaled",
    ]
    assert notice.severity == "notice"
    assert len(notice.found) == 3
    assert "no fold trains on one and tests the other" in notice.what
    kinds = [a.severity for a in leak_alarms(store, folds=[Fold("1", rows[:20], rows[20:23])])]
    assert kinds == ["notice"]


def test_copies_are_found_in_any_order(copies):
    store, _, _ = copies
    order = np.random.default_rng(0).permutation(len(store))
    found = find_duplicates(store.select(order))
    assert {frozenset(p) for p in zip(found["first"], found["second"], strict=True)} == {
        frozenset(p) for p in EXPECTED
    }


def test_volumes_dropped_at_a_slower_scanner_are_no_whole_volumes(tmp_path, parcellation):
    """3 volumes of 3 s are 4.5 of 2 s."""
    rng = np.random.default_rng(1)
    labels = parcellation.labels
    scans = [rng.standard_normal((120, 11)) for _ in range(9)]
    recordings = [recording(x, f"p{i}", labels, tr=3.0) for i, x in enumerate(scans)]
    recordings.append(recording(scans[5][3:], "cut", labels, tr=3.0))
    store = write_store(tmp_path / "s", recordings, parcellation, BAND)
    found = find_duplicates(store)
    assert found[["first", "second", "shift_s"]].to_numpy().tolist() == [["sub-p5", "sub-cut", 9.0]]
    assert found["correlation"][0] > 0.95


def test_a_person_s_copy_counts_once_and_is_no_leak(tmp_path, parcellation):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2, 100, 11))
    recordings = [
        recording(x, "a", parcellation.labels, session="1"),
        recording(x, "a", parcellation.labels, session="2"),
        recording(y, "b", parcellation.labels),
    ]
    store = write_store(tmp_path / "s", recordings, parcellation, BAND)
    (alarm,) = duplicate_recordings(store)
    assert alarm.severity == "warning"
    assert alarm.found == ("sub-a_ses-1 = sub-a_ses-2 (r = 1.00)",)
    assert "two subjects" not in alarm.what
    assert find_duplicates(store.select([0, 2])).empty
    assert find_duplicates(store.select([2])).empty


def test_trials_of_a_few_volumes_are_compared_too(copies):
    store, _, _ = copies
    events = pd.DataFrame(
        {"id": ["sub-p02", "sub-same", "sub-p05"], "onset": 30.0, "duration": 24.0}
    )
    found = find_duplicates(store.trials(events))
    assert found[["first_subject", "second_subject"]].to_numpy().tolist() == [["p02", "same"]]


def test_people_of_another_store_are_found(copies, parcellation):
    store, scans, folder = copies
    rng = np.random.default_rng(3)
    labels = parcellation.labels
    others = [recording(rng.standard_normal((140, 11)), f"n{i}", labels) for i in range(6)]
    others += [recording(scans[19], "x19", labels), recording(scans[20][5:], "p20", labels)]
    other = write_store(folder / "other", others, parcellation, BAND)
    found = find_duplicates(store.select(np.arange(23)), other)
    assert found[["first", "second"]].to_numpy().tolist() == [
        ["sub-p19", "sub-x19"],
        ["sub-p20", "sub-p20"],
    ]
    alarms = leak_alarms(store.select(np.arange(23)), trained_on=other)
    (leak,) = alarms
    assert leak.severity == "leak", "the same person in both is a leak, too"
    assert leak.what == (
        "2 pairs of a tested recording and one of the training store are one scan "
        "(1 under two subjects)"
    )
    slower = write_store(
        folder / "slower", others, parcellation, Preprocessing(tr=3.0, low_hz=0.01, high_hz=0.1)
    )
    for one, two in ((slower, store), (store, slower)):
        found = find_duplicates(one, two)
        assert {frozenset(p) for p in found[["first_subject", "second_subject"]].to_numpy()} == {
            frozenset(("p19", "x19")),
            frozenset(("p20",)),
        }


def test_people_in_pretraining_are_found_by_their_scans(copies, parcellation, preprocessing):
    store, scans, folder = copies
    labels = parcellation.labels
    rng = np.random.default_rng(8)
    others = [
        recording(scans[3], "z", labels),
        recording(rng.standard_normal((90, 11)), "y", labels),
    ]
    other = write_store(folder / "pretraining", others, parcellation, BAND)
    fold = Fold("1", np.arange(8, 23), np.arange(8))
    alarms = leak_alarms(store, folds=[fold], pretrained_on=[other])
    assert [a.severity for a in alarms] == ["leak", "notice"]
    assert alarms[0].found == ("sub-p03 = sub-z (r = 1.00)",)
    assert "one of the pretraining store" in alarms[0].what
    away = Fold("1", np.arange(8), np.arange(8, 23))
    assert "leak" not in {
        a.severity for a in leak_alarms(store, folds=[away], pretrained_on=[other])
    }
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    model = Encoder.random(config, parcellation, preprocessing, seed=0)
    model.pretraining = SeenData(stores=(SeenStore(name="theirs", fingerprint=""),))
    missing = leak_alarms(store, folds=[fold], models={"m": model}, pretrained_on=[other])
    assert [(a.what, a.found) for a in missing if "compared" in a.what] == [
        (
            "scans were not compared with those that 'm' was pretrained on: the stores are not "
            "given (--pretraining-store)",
            ("theirs",),
        )
    ]


def test_stores_of_different_atlases_are_not_compared_and_the_reason_is_stated(copies, tmp_path):
    store, _, _ = copies
    frame = store.parcellation.to_frame()
    signals = np.random.default_rng(0).standard_normal((80, 11))
    named = frame.assign(label=[f"other {i}" for i in range(11)])
    atlas = Parcellation.from_frame(named, name="other", source="other")
    other = write_store(tmp_path / "o", [recording(signals, "a", atlas.labels)], atlas, BAND)
    (alarm,) = shared_recordings(store, other, "pretraining")
    assert (alarm.severity, alarm.found) == ("notice", ("o",))
    assert "not compared" in alarm.what
    assert "has 0 of 11 ROIs in common with store (toy11)" in alarm.what
    editions = []
    for name, moved in (("first", 0), ("second", 7)):
        x = np.where(np.arange(11) < moved, 9.0, 0.0)
        atlas = Parcellation.from_frame(frame.assign(x=x, y=0.0, z=0.0), name=name, source=name)
        scan = [recording(signals, "a", atlas.labels)]
        editions.append(write_store(tmp_path / name, scan, atlas, BAND))
    with pytest.raises(InputError, match="has 4 of 11 ROIs in common"):
        find_duplicates(*editions)


def test_a_common_task_makes_no_copies(tmp_path, parcellation):
    """A task that drives 3 of 11 ROIs of all people alike, twice as strong as the rest."""
    rng = np.random.default_rng(6)
    task = 2 * rng.standard_normal((120, 1)) * (np.arange(11) < 3)
    labels = parcellation.labels
    scans = [recording(task + rng.standard_normal((120, 11)), f"p{i}", labels) for i in range(15)]
    store = write_store(tmp_path / "s", scans, parcellation, BAND)
    assert find_duplicates(store, threshold=-1)["correlation"].max() < 0.55


def test_a_real_scan_under_two_ids_is_found_among_real_scans(tmp_path):
    """Real recordings of 41 people; three of them once more, cut and scaled."""
    real = load_abide_sample()[::5]
    again = []
    for k, drop in ((3, 4), (11, 0), (20, 10)):
        x = real[k].signal[drop:] * 0.37 + 5
        again.append(
            Recording(
                signal=x,
                roi_names=real[k].roi_names,
                tr=real[k].tr,
                subject=f"copy{k}",
                site=real[k].site,
                missing_rois=real[k].missing_rois,
            )
        )
    plain = [
        Recording(
            signal=r.signal,
            roi_names=r.roi_names,
            tr=r.tr,
            subject=r.subject,
            site=r.site,
            missing_rois=r.missing_rois,
        )
        for r in real
    ]
    atlas = Parcellation.load("cc200")
    store = write_store(tmp_path / "real", plain + again, atlas, BAND, missing_rois="mark")
    found = find_duplicates(store)
    assert set(zip(found["first"], found["second"], strict=True)) == {
        (f"sub-{real[k].subject}", f"sub-copy{k}") for k in (3, 11, 20)
    }
    shift = found.set_index("second")["shift_s"]
    assert shift["sub-copy3"] == pytest.approx(4 * real[3].tr, abs=0.5)
    assert shift["sub-copy11"] == 0
    rest = find_duplicates(store.select(np.arange(len(real))), threshold=-1)
    assert rest["correlation"].max() < 0.3, "different people are far from the threshold"

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.designs import GroupedKFold
from semantoks.data.recording import Recording, subject_key
from semantoks.data.seen import SeenData
from semantoks.data.signal import Preprocessing
from semantoks.data.splits import Fold, grouped_folds, leave_one_site_out
from semantoks.data.store import write_store
from semantoks.datasets import _ABIDE_TR, load_abide_sample
from semantoks.errors import InputError
from semantoks.evaluate.checks.associations import associations
from semantoks.evaluate.checks.duplicates import find_duplicates
from semantoks.evaluate.checks.leaks import (
    CEILINGS,
    Alarm,
    duplicate_recordings,
    implausible_scores,
    leak_alarms,
    seen_in_pretraining,
    shared_members,
    targets_that_follow,
)
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.embed import Embedder
from semantoks.model.encoder import Encoder, EncoderConfig

BAND = Preprocessing(tr=2.0, low_hz=0.01, high_hz=0.1)


# -- who is where ----------------------------------------------------------------------------------


@pytest.fixture
def people():
    """64 recordings of 52 people, some of them siblings, at 4 sites."""
    who = np.repeat(np.arange(52), np.where(np.arange(52) < 12, 2, 1))
    return pd.DataFrame(
        {
            "subject": [f"p{i:02}" for i in who],
            "family": [f"f{i // 2}" if i < 20 else None for i in who],
            "site": [f"s{i % 4}" for i in who],
        }
    )


def test_a_subject_in_both_parts_is_named(people):
    rows = np.arange(64)
    folds = [Fold("1", rows[rows % 2 == 0], rows[rows % 2 == 1]), Fold("2", rows[30:], rows[:30])]
    (alarm,) = shared_members(people, folds, ["subject"])
    assert alarm.severity == "leak"
    assert alarm.found == tuple(f"p{i:02}" for i in range(12))
    assert "12 of them, in 1 of 2 folds (1)" in alarm.what


def test_siblings_in_both_parts_are_named_and_the_missing_are_no_family(people):
    folds = grouped_folds(people, 4, seed=0)
    (alarm,) = shared_members(people, folds)
    assert "family" in alarm.what
    assert set(alarm.found) <= {f"f{i}" for i in range(10)}
    assert len(alarm.found) > 2
    whole = pd.factorize(people["family"].fillna(people["subject"]))[0]
    test = [whole % 4 == k for k in range(4)]
    kept = [Fold(str(k), np.flatnonzero(~t), np.flatnonzero(t)) for k, t in enumerate(test)]
    assert shared_members(people, kept) == []
    assert shared_members(people.drop(columns="family"), folds) == []


@pytest.fixture
def embedder(parcellation, preprocessing):
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    return Embedder(Encoder.random(config, parcellation, preprocessing, seed=0)).fit([])


def test_what_the_weights_have_seen(store, embedder):
    table = store.table
    assert seen_in_pretraining(table, {"random": embedder, "fc": ConnectivityBaseline()}) == []
    embedder.encoder_.pretraining = SeenData(
        subjects=tuple(subject_key(s) for s in ("p03", "p07", "elsewhere")),
        sites=("west", "abroad"),
    )
    leak, warning = seen_in_pretraining(table, {"mine": embedder})
    assert (leak.severity, leak.found) == ("leak", ("p03", "p07"))
    assert "'mine' was pretrained on 2 of the 10 tested subjects" in leak.what
    assert (warning.severity, warning.found) == ("warning", ("west",))
    assert seen_in_pretraining(table, {"mine": embedder.encoder_}) == [leak, warning]
    embedder.encoder_.pretraining = SeenData(sites=("abroad",))
    (notice,) = seen_in_pretraining(table, {"theirs": embedder})
    assert (notice.severity, notice.found) == ("notice", ("theirs",))
    assert "do not state the subjects" in notice.what
    with pytest.raises(InputError, match="is not fitted"):
        seen_in_pretraining(table, {"new": Embedder(embedder.encoder_)})


# -- duplicates ------------------------------------------------------------------------------------


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
    alarms = duplicate_recordings(store)
    assert {a.found for a in alarms} == set(EXPECTED)
    assert {a.severity for a in alarms} == {"leak"}
    assert "sub-p07 and sub-cut are one scan" in alarms[2].what
    assert "+18 s" in alarms[2].what


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
    assert alarm.found == ("sub-a_ses-1", "sub-a_ses-2")
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
    assert [a.severity for a in alarms] == ["leak", "leak"], "the same person in both is a leak"
    slower = write_store(
        folder / "slower", others, parcellation, Preprocessing(tr=3.0, low_hz=0.01, high_hz=0.1)
    )
    with pytest.raises(InputError, match="needs the ROIs and the TR"):
        find_duplicates(store, slower)


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


# -- targets and confounds -------------------------------------------------------------------------


@pytest.fixture
def cohort():
    """150 people at 3 sites; the site tells the diagnosis, motion the age, nothing the sex."""
    rng = np.random.default_rng(12)
    site = np.repeat(["a", "b", "c"], [40, 50, 60])
    ill = rng.random(150) < np.select([site == "a", site == "b"], [1.0, 0.5], 0.1)
    fd = rng.gamma(2, 0.1, 150)
    return pd.DataFrame(
        {
            "subject": [f"p{i}" for i in range(150)],
            "site": site,
            "source_tr": np.where(site == "c", 3.0, 2.0),
            "mean_fd": fd,
            "diagnosis": np.where(ill, "ill", "well"),
            "group": np.where(site == "c", "late", "early"),
            "age": 50 - 40 * fd + rng.normal(0, 3, 150),
            "sex": rng.choice(["f", "m"], 150),
        }
    )


def test_targets_that_follow_are_named_with_their_sites(cohort):
    alarms = targets_that_follow(cohort, ["diagnosis", "age", "sex"])
    pairs = {tuple(a.what.split(":")[0].split(" follows ")): a for a in alarms}
    assert set(pairs) == {("diagnosis", "site"), ("diagnosis", "source_tr"), ("age", "mean_fd")}
    by_site = pairs[("diagnosis", "site")]
    assert by_site.severity == "warning"
    assert by_site.found[0].startswith(("a: 100 % ill", "c: "))
    assert any(f.startswith("a: 100 % ill") for f in by_site.found)
    assert "Cramér's V" in by_site.what
    assert pairs[("age", "mean_fd")].found == ("falls as the other rises",)
    (same,) = targets_that_follow(cohort, ["group"], ["source_tr"])
    assert same.severity == "leak"
    assert "Cramér's V 1.00" in same.what


def test_tests_are_scipy_s(cohort):
    found = associations(cohort, ["diagnosis", "age"]).set_index(["target", "confound"])
    counts = pd.crosstab(cohort["site"], cohort["diagnosis"]).to_numpy()
    chi2 = stats.chi2_contingency(counts, correction=False)
    assert found.loc[("diagnosis", "site"), "p"] == pytest.approx(chi2.pvalue)
    plain = stats.contingency.association(counts, correction=False)
    assert found.loc[("diagnosis", "site"), "effect"] == pytest.approx(plain, abs=0.02)
    by_site = [part["age"] for _, part in cohort.groupby("site")]
    assert found.loc[("age", "site"), "p"] == pytest.approx(stats.kruskal(*by_site).pvalue)
    rho = stats.spearmanr(cohort["age"], cohort["mean_fd"])
    assert found.loc[("age", "mean_fd"), "effect"] == pytest.approx(-rho.statistic)
    # Holm by hand: the k-th smallest of m times m - k + 1, never falling.
    p = np.sort(found["p"])
    expected = np.minimum(np.maximum.accumulate(p * np.arange(len(p), 0, -1)), 1)
    np.testing.assert_allclose(np.sort(found["p_holm"]), expected)


def test_without_an_effect_alarms_are_rare():
    rng = np.random.default_rng(5)
    alarms, effects = 0, []
    for _ in range(80):
        table = pd.DataFrame(
            {
                "subject": np.arange(60).astype(str),
                "site": rng.choice([*"abcde"], 60),
                "mean_fd": rng.random(60),
                "diagnosis": rng.choice(["x", "y"], 60),
                "age": rng.random(60),
            }
        )
        alarms += bool(targets_that_follow(table, ["diagnosis", "age"]))
        effects.append(associations(table, ["diagnosis"], ["site"])["effect"][0])
    assert alarms <= 8  # 5 %, and two standard deviations more
    assert np.median(effects) < 0.1, "corrected for bias"


def test_recordings_of_a_subject_count_once(cohort):
    twice = pd.concat([cohort, cohort, cohort], ignore_index=True)
    pd.testing.assert_frame_equal(
        associations(twice, ["diagnosis", "age"]), associations(cohort, ["diagnosis", "age"])
    )
    gaps = cohort.assign(site=cohort["site"].mask(cohort.index < 20), scanner="one")
    assert associations(gaps, ["diagnosis"], ["site", "scanner"])["n_subjects"].tolist() == [130]
    codes = cohort.assign(code=(cohort["diagnosis"] == "ill").astype(int))
    for kind, test in (("classification", "chi-square"), ("regression", "Kruskal-Wallis")):
        found = associations(codes, [Target("code", kind)], ["site"])
        assert found["test"].tolist() == [test]
    with pytest.raises(InputError, match="Did you mean 'site'"):
        associations(cohort, ["diagnosis"], ["sit"])


# -- ceilings --------------------------------------------------------------------------------------


def test_scores_that_cannot_be():
    table = pd.DataFrame({"site": ["NYU", "YALE", "NYU"], "diagnosis": ["autism", "control", None]})
    scores = pd.DataFrame(
        {
            "target": ["diagnosis"] * 4 + ["sex"],
            "model": ["good", "odd", "leaky", "leaky", "leaky"],
            "metric": ["balanced accuracy"] * 3 + ["AUROC", "balanced accuracy"],
            "value": [0.70, 0.77, 0.92, 0.95, 0.95],
            "ci_low": [0.66, 0.73, 0.90, 0.9, 0.9],
        }
    )
    odd, leaky = implausible_scores(scores, table)
    assert (odd.severity, odd.found) == ("warning", ("odd",))
    assert (leaky.severity, leaky.found) == ("leak", ("leaky",))
    assert "'leaky' predicts diagnosis of ABIDE I with a balanced accuracy of 0.92" in leaky.what
    assert implausible_scores(scores, table.assign(site="elsewhere")) == []
    assert implausible_scores(scores, table.drop(columns="diagnosis")) == []
    assert implausible_scores(scores, table.assign(diagnosis=["a", "b", "a"])) == []


def test_abide_is_known_by_all_its_sites():
    assert CEILINGS[0].sites == {"CMU" if s.startswith("CMU") else s for s in _ABIDE_TR}


# -- together --------------------------------------------------------------------------------------


def test_all_alarms_of_a_store_leaks_first(store, embedder):
    result = evaluate_probes(
        store,
        {"m": ConnectivityBaseline()},
        ["sex"],
        design=GroupedKFold(n_folds=2),
    )
    embedder.encoder_.pretraining = SeenData(sites=("west",))
    rows = np.arange(len(store))
    found = leak_alarms(
        store,
        ["sex"],
        folds=[Fold("odd", rows[::2], rows[1::2])],
        models={"m": embedder},
        scores=result.scores,
    )
    assert [a.severity for a in found] == ["leak", "warning", "notice"]
    assert {a.kind for a in found} == {"shared members", "seen in pretraining"}
    assert all(isinstance(a, Alarm) and a.found for a in found)
    json.dumps([a.to_dict() for a in found])
    assert leak_alarms(store, ["sex"], folds=leave_one_site_out(store.table)) == []


def test_who_is_only_trained_on_may_have_been_seen(store, embedder):
    """The encoder left out one site, at which alone it is tested: nothing is wrong."""
    folds = leave_one_site_out(store.table)
    site = store.table["site"].to_numpy(str)[folds[0].test[0]]
    others = store.table[store.table["site"] != site]
    embedder.encoder_.pretraining = SeenData(
        subjects=tuple({subject_key(s) for s in others["subject"]}),
        sites=tuple(set(others["site"])),
    )
    assert leak_alarms(store, folds=folds[:1], models={"m": embedder}) == []
    kinds = [a.kind for a in leak_alarms(store, folds=folds, models={"m": embedder})]
    assert kinds == ["seen in pretraining"] * 2, "people and sites"

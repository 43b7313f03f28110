from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from semantoks.data.designs import GroupedKFold
from semantoks.data.recording import person_key, subject_key
from semantoks.data.seen import SeenData, SeenStore
from semantoks.data.signal import Preprocessing
from semantoks.data.splits import Fold, grouped_folds, leave_one_site_out
from semantoks.datasets import _ABIDE_TR
from semantoks.errors import InputError
from semantoks.evaluate.checks.alarm import Alarm
from semantoks.evaluate.checks.associations import associations
from semantoks.evaluate.checks.leaks import (
    CEILINGS,
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


def seen_by(data_set, names, sites=()):
    """Return what weights have seen that were pretrained on these people."""
    return SeenData(
        subjects=tuple(subject_key(s) for s in names),
        people=tuple(person_key(data_set, s) for s in names),
        sites=sites,
        stores=(SeenStore(name="theirs", fingerprint="", data_sets=(data_set,)),),
    )


@pytest.fixture
def embedder(parcellation, preprocessing):
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    return Embedder(Encoder.random(config, parcellation, preprocessing, seed=0)).fit([])


def test_what_the_weights_have_seen(store, embedder):
    assert seen_in_pretraining(store, {"random": embedder, "fc": ConnectivityBaseline()}) == []
    embedder.encoder_.pretraining = seen_by(
        store.path.name, ("p03", "p07", "elsewhere"), sites=("west", "abroad")
    )
    leak, warning = seen_in_pretraining(store, {"mine": embedder})
    assert (leak.severity, leak.found) == ("leak", ("p03", "p07"))
    assert "'mine' was pretrained on 2 of the 10 tested subjects" in leak.what
    assert (warning.severity, warning.found) == ("warning", ("west",))
    assert seen_in_pretraining(store, {"mine": embedder.encoder_}) == [leak, warning]
    embedder.encoder_.pretraining = SeenData(sites=("abroad",))
    (notice,) = seen_in_pretraining(store, {"theirs": embedder})
    assert (notice.severity, notice.found) == ("notice", ("theirs",))
    assert "do not state the subjects" in notice.what
    with pytest.raises(InputError, match="is not fitted"):
        seen_in_pretraining(store, {"new": Embedder(embedder.encoder_)})


def test_names_that_coincide_are_a_note_and_of_older_weights_a_warning(store, embedder):
    """sub-p03 of another data set is another person."""
    embedder.encoder_.pretraining = seen = seen_by("elsewhere", ("p03", "p07"), sites=("west",))
    people, sites = seen_in_pretraining(store, {"mine": embedder})
    assert (people.severity, people.found) == ("notice", ("p03", "p07"))
    assert people.what.startswith("same names: 2 of the 10 tested subjects")
    assert (sites.severity, sites.found) == ("notice", ("west",))
    assert "1 of the 3 tested site names, in another data set" in sites.what
    embedder.encoder_.pretraining = replace(seen, people=None, stores=())
    people, sites = seen_in_pretraining(store, {"old": embedder})
    assert (people.severity, people.found) == ("warning", ("p03", "p07"))
    assert "do not state of which data set" in people.what
    assert sites.severity == "warning"
    assert (people.of_people, sites.of_people) == (True, False)


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
    embedder.encoder_.pretraining = replace(
        seen_by(store.path.name, set(others["subject"]), sites=tuple(set(others["site"]))),
        stores=(),
    )
    assert leak_alarms(store, folds=folds[:1], models={"m": embedder}) == []
    kinds = [a.kind for a in leak_alarms(store, folds=folds, models={"m": embedder})]
    assert kinds == ["seen in pretraining"] * 2, "people and sites"

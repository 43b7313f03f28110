from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from semantoks.data.designs import GroupedKFold
from semantoks.errors import InputError
from semantoks.evaluate.checks.subgroups import subgroup_scores
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.stats.metrics import balanced


class Frame:
    """A store's face for evaluation, with any table."""

    def __init__(self, store, table):
        self.table, self.path, self.fingerprint = table, store.path, store.fingerprint
        self.parcellation, self.tr, self.header = store.parcellation, store.tr, store.header
        self.preprocessing = store.preprocessing

    def __len__(self):
        return len(self.table)


@pytest.fixture(scope="module")
def evaluated(store):
    """118 recordings of 90 people; the feature knows the sex at site s0 and nowhere else."""
    rng = np.random.default_rng(3)
    people = np.repeat(np.arange(90), np.where(np.arange(90) < 28, 2, 1))
    n = len(people)
    table = pd.DataFrame(
        {
            "id": [f"r{i}" for i in range(n)],
            "subject": [f"p{i:02}" for i in people],
            "site": np.where(people == 7, "lonely", [f"s{i % 3}" for i in people]),
            "source_tr": np.where(people % 3 == 1, 10.0, 2.5),
            "mean_fd": rng.gamma(2, 0.1, n),
            "sex": np.where(people // 3 % 2 == 0, "female", "male"),
            "age": 20.0 + people,
        }
    )
    table.loc[0, "source_tr"] = 10.0  # somebody scanned at two TRs
    X = rng.standard_normal((n, 4)).astype(np.float32)
    X[:, 0] += np.where(table["site"] == "s0", 8.0, 0.0) * np.where(table["sex"] == "male", 1, -1)
    X[:, 1] += 0.2 * table["age"]
    result = evaluate_probes(
        Frame(store, table),
        {"m": X, "noise": X[:, 2:]},
        ["sex", "age"],
        design=GroupedKFold(n_folds=4),
    )
    return result, table


def test_scores_within_sites_are_scikit_learn_s(evaluated):
    result, table = evaluated
    found = subgroup_scores(result, table, "site")
    at = found.set_index(["target", "group", "model", "metric"]).sort_index()
    outcomes = result.outcomes("sex", ["m"])
    y = outcomes.y
    # What orders people of different folds is the probability divided by the threshold.
    scores = balanced(outcomes.predicted["m"][0], outcomes.thresholds["m"][0])
    decided = scores.argmax(axis=1)
    units = np.sort(result.predictions["unit"].unique())
    site = table.drop_duplicates("subject").set_index("subject")["site"][units].to_numpy(str)
    for name in ("s0", "s1", "s2"):
        inside = site == name
        row = at.loc[("sex", name, "m")]
        right = balanced_accuracy_score(y[inside], decided[inside])
        assert row.loc["balanced accuracy", "value"] == pytest.approx(right)
        area = roc_auc_score(y[inside], scores[inside, 1])
        assert row.loc["AUROC", "value"] == pytest.approx(area)
        assert row.loc["AUROC", "n_subjects"] == inside.sum()
    assert at.loc[("sex", "s0", "m", "AUROC"), "ci_low"] > 0.9
    assert at.loc[("sex", "s1", "m", "AUROC"), "value"] < 0.75
    lonely = at.loc[("sex", "lonely")]
    assert lonely["value"].isna().all()
    assert set(lonely["n_subjects"]) == {1}
    pd.testing.assert_frame_equal(found, subgroup_scores(result, table, "site"))


def test_trs_are_groups_and_motion_is_cut_into_thirds(evaluated):
    result, table = evaluated
    by_tr = subgroup_scores(result, table, "source_tr")
    assert list(dict.fromkeys(by_tr["group"])) == ["2.5", "10.0", "several"]
    counts = by_tr.drop_duplicates("group").set_index("group")["n_subjects"]
    assert counts["several"] == 1
    assert counts.sum() == 90
    by_motion = subgroup_scores(result, table, "mean_fd")
    counts = by_motion.drop_duplicates("group").set_index("group")["n_subjects"]
    assert counts.to_dict() == {"lowest third": 30, "middle third": 30, "highest third": 30}
    age = by_motion[(by_motion["target"] == "age") & (by_motion["metric"] == "r")]
    assert (age.loc[age["model"] == "m", "value"] > 0.7).all()


def test_unknown_values_are_a_group_and_unknown_people_an_error(evaluated):
    result, table = evaluated
    gaps = table.assign(site=table["site"].where(table["site"] != "s1"))
    found = subgroup_scores(result, gaps, "site")
    assert "unknown" in set(found["group"])
    with pytest.raises(InputError, match="is it that of another store"):
        subgroup_scores(result, table[table["subject"] != "p03"], "site")
    with pytest.raises(InputError, match="Did you mean 'site'"):
        subgroup_scores(result, table, "sites")

"""Cohorts with something known planted, or nothing: the right conclusion must come out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn.model_selection import StratifiedKFold

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.designs import GroupedKFold, LeaveOneSiteOut
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import write_store
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.scoring import Outcomes, Sampling, adjusted, score_models
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.spectral import AmplitudeBaseline
from semantoks.evaluate.predictors.probe import LinearProbe

NETWORKS = ("a", "a", "a", "b", "b", "c", "c", "c", "c")
ROIS = tuple(f"{network}{i}" for i, network in enumerate(NETWORKS))
N_PEOPLE, N_SITES, N_TIMES = 80, 5, 60


def cohort(path, plant, seed=0):
    """80 people at 5 sites, noise with one difference between the groups or the sites."""
    rng = np.random.default_rng(seed)
    recordings = []
    for i in range(N_PEOPLE):
        site = i % N_SITES
        # Of people from the first sites many are patients, of the last ones few.
        patient = rng.uniform() < (0.9 - 0.2 * site if plant == "site" else 0.5)
        x = rng.standard_normal((N_TIMES, len(ROIS)))
        if plant == "variance" and patient:
            x[:, 3:5] *= 1.5
        if plant == "coupling" and patient:
            x[:, 1] = 0.8 * x[:, 1] + 0.6 * x[:, 7]  # of the same variance
        if plant == "site":
            x[:, 6] += 0.4 * site * x[:, 2]
        recordings.append(
            Recording(
                signal=x,
                roi_names=ROIS,
                tr=2.0,
                subject=f"p{i:02}",
                site=f"s{site}",
                phenotypes={"group": "patient" if patient else "control"},
            )
        )
    networks = Parcellation(name="nine", labels=ROIS, networks=NETWORKS)
    plain = Preprocessing(tr=2.0, low_hz=None, high_hz=None, zscore=False)
    return write_store(path, recordings, networks, plain)


def judged(store, design):
    models = {"connectivity": ConnectivityBaseline(), "amplitude": AmplitudeBaseline("roi")}
    result = evaluate_probes(
        store,
        models,
        ["group"],
        design=design,
        baselines=["confounds"],
        n_bootstrap=200,
        n_permutations=999,
    )
    first = result.scores.query("metric == 'balanced accuracy'").set_index("model")
    verdict = result.differences.query("test != ''").set_index(["model", "against"])["verdict"]
    return first, verdict


def test_a_network_s_variance_is_seen_in_amplitude_only(tmp_path):
    scores, verdict = judged(cohort(tmp_path / "s", "variance"), LeaveOneSiteOut())
    assert scores.loc["amplitude", "ci_low"] > 0.7
    assert scores.loc["amplitude", "p_holm"] < 0.01
    assert scores.loc["connectivity", "p_holm"] > 0.05
    assert verdict["amplitude", "connectivity"] == "better"
    assert verdict["confounds", "connectivity"] == "no significant difference"


def test_a_pair_s_coupling_is_seen_in_connectivity_only(tmp_path):
    design = GroupedKFold(n_folds=4, n_repeats=3)
    scores, verdict = judged(cohort(tmp_path / "s", "coupling"), design)
    assert scores.loc["connectivity", "ci_low"] > 0.7
    assert scores.loc["connectivity", "p_holm"] < 0.01
    assert scores.loc["amplitude", "ci_low"] < 0.65
    assert verdict["amplitude", "connectivity"] == "worse"


def test_what_only_follows_the_site_is_gone_where_the_site_is_left_out(tmp_path):
    store = cohort(tmp_path / "s", "site")
    mixed, _ = judged(store, GroupedKFold())
    assert mixed.loc["connectivity", "ci_low"] > 0.5, "random folds are taken in"
    assert mixed.loc["confounds", "ci_low"] > 0.5, "and so is who knows the site alone"
    assert mixed.loc["connectivity", "p_value"] > 0.05, "but not the test within sites"
    apart, _ = judged(store, LeaveOneSiteOut())
    assert apart.loc["connectivity", "p_value"] > 0.05
    assert apart.loc["confounds", "p_value"] > 0.05


@pytest.mark.parametrize("n_repeats", [1, 2])
def test_with_nothing_planted_false_positives_stay_at_their_level(n_repeats):
    """Cross-validated probes on noise, 200 seeds; the bound is passed once in a thousand sets."""
    n, sampling = 36, Sampling(n_bootstrap=1, n_permutations=99, seed=0)
    found = {"against chance": 0, "one against the other": 0}
    people = np.arange(n).astype(str)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        y = rng.permutation(np.arange(n) % 2)
        scores = {name: np.empty((n_repeats, n, 2)) for name in ("connectivity", "other")}
        names = np.empty((n_repeats, n), dtype="U1")
        noise = {name: rng.standard_normal((n, 5)) for name in scores}
        for repeat in range(n_repeats):
            splitter = StratifiedKFold(4, shuffle=True, random_state=10 * seed + repeat)
            for number, (train, test) in enumerate(splitter.split(y, y)):
                names[repeat, test] = number
                for name, X in noise.items():
                    probe = LinearProbe("ridge", strengths=(1.0,)).fit(
                        X[train], y[train], held_out=[]
                    )
                    scores[name][repeat, test] = probe.predict_proba(X[test])
        outcomes = Outcomes("classification", y, scores, people, people, np.full(n, ""), names)
        rows = score_models(outcomes, ["connectivity"], "chance", sampling)
        of_models, gaps = adjusted(*map(pd.DataFrame, rows))
        found["against chance"] += bool((of_models["p_holm"] < 0.05).any())
        found["one against the other"] += bool(gaps["verdict"].isin(["better", "worse"]).any())
    highest = binom.ppf(0.999, 200, 0.05)
    for name, count in found.items():
        assert count <= highest, (name, count)
    assert found["one against the other"] > 0, "a test that never fires proves nothing"

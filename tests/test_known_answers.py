"""Cohorts with something known planted, or nothing: the right conclusion must come out."""

from __future__ import annotations

import numpy as np

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.designs import GroupedKFold, LeaveOneSiteOut
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import write_store
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.spectral import AmplitudeBaseline

NETWORKS = ("a", "a", "a", "b", "b", "c", "c", "c", "c")
ROIS = tuple(f"{network}{i}" for i, network in enumerate(NETWORKS))
N_PEOPLE, N_SITES, N_TIMES = 96, 8, 60


def cohort(path, plant, seed=0):
    """96 people at 8 sites, noise with one difference between the groups or the sites."""
    rng = np.random.default_rng(seed)
    recordings = []
    for i in range(N_PEOPLE):
        site = i % N_SITES
        # Of people from the first sites many are patients, of the last ones few.
        patient = rng.uniform() < (0.95 - 0.13 * site if plant == "site" else 0.5)
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


def judged(store, design, metric="AUROC"):
    models = {"connectivity": ConnectivityBaseline(), "amplitude": AmplitudeBaseline("roi")}
    result = evaluate_probes(
        store,
        models,
        ["group"],
        design=design,
        baselines=["confounds"],
    )
    first = result.scores.loc[result.scores["metric"] == metric].set_index("model")
    verdict = result.differences.query("p_value.notna()").set_index(["model", "against"])["verdict"]
    return first, verdict


def test_a_network_s_variance_is_seen_in_amplitude_only(tmp_path):
    scores, verdict = judged(cohort(tmp_path / "s", "variance"), LeaveOneSiteOut())
    assert scores.loc["amplitude", "ci_low"] > 0.7
    assert scores.loc["amplitude", "p_holm"] < 0.05
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
    pooled, _ = judged(store, GroupedKFold(), "pooled AUROC")
    assert pooled.loc["connectivity", "value"] > 0.58, "a pooled score is taken in"
    assert pooled.loc["confounds", "value"] > 0.58, "and so is who knows the site alone"
    mixed, _ = judged(store, GroupedKFold())
    assert mixed.loc["connectivity", "p_value"] > 0.05, "but not the score within sites"
    apart, _ = judged(store, LeaveOneSiteOut())
    assert apart.loc["connectivity", "p_value"] > 0.05
    assert apart.loc["confounds", "value"] <= 0.55

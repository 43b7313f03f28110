from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.signal import Preprocessing
from semantoks.data.store import write_store
from semantoks.datasets import load_stages
from semantoks.errors import InputError
from semantoks.evaluate.checks.reliability import (
    measure_reliability,
    reliability,
    reliability_differences,
    reliability_scores,
)
from semantoks.evaluate.checks.repeated import halves, session_pairs
from semantoks.evaluate.features.connectivity import ConnectivityBaseline, fisher_z_connectivity
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.features.tangent import TangentBaseline
from semantoks.evaluate.stats.agreement import (
    ICC_FORMS,
    IccSums,
    discriminated,
    icc,
    icc_within,
    identifiability,
    identified,
    permuted_icc,
    similarity_matrix,
)
from semantoks.model.encoder import Encoder, EncoderConfig

# Shrout and Fleiss 1979, table 2: 6 targets rated by 4 judges.
RATINGS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)


# -- measures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "value"), [("ICC(1,1)", 0.17), ("ICC(2,1)", 0.29), ("ICC(3,1)", 0.71)]
)
def test_icc_of_shrout_and_fleiss(form, value):
    assert round(icc(RATINGS, form)[0], 2) == value


def literal_icc(x):
    """Mean squares of a two-way table, spelled out."""
    n, k = x.shape
    grand, rows, columns = x.mean(), x.mean(axis=1), x.mean(axis=0)
    bms = k * sum((r - grand) ** 2 for r in rows) / (n - 1)
    jms = n * sum((c - grand) ** 2 for c in columns) / (k - 1)
    wms = sum((x[i, j] - rows[i]) ** 2 for i in range(n) for j in range(k)) / (n * (k - 1))
    ems = sum((x[i, j] - rows[i] - columns[j] + grand) ** 2 for i in range(n) for j in range(k)) / (
        (n - 1) * (k - 1)
    )
    return {
        "ICC(1,1)": (bms - wms) / (bms + (k - 1) * wms),
        "ICC(2,1)": (bms - ems) / (bms + (k - 1) * ems + k * (jms - ems) / n),
        "ICC(3,1)": (bms - ems) / (bms + (k - 1) * ems),
    }


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 9), st.integers(2, 4))
def test_icc_of_many_features_at_once(seed, n, k):
    rng = np.random.default_rng(seed)
    x = 1e4 + rng.normal(size=(n, 1, 5)) + rng.normal(size=(n, k, 5)) + rng.normal(size=(k, 5))
    for form in ICC_FORMS:
        expected = [literal_icc(x[..., d])[form] for d in range(5)]
        np.testing.assert_allclose(icc(x, form), expected, rtol=1e-5, atol=1e-7)


def test_icc_is_what_the_sample_was_made_with():
    """People vary with variance 3, error with 1: ICC = 3 / 4; an offset counts in ICC(2,1) only."""
    rng = np.random.default_rng(0)
    x = np.sqrt(3) * rng.standard_normal((4000, 1, 3)) + rng.standard_normal((4000, 2, 3))
    for form in ICC_FORMS:
        np.testing.assert_allclose(icc(x, form), 0.75, atol=0.03)
    x[:, 1] += 2.0  # variance over the two measurements: 2
    np.testing.assert_allclose(icc(x, "ICC(3,1)"), 0.75, atol=0.03)
    np.testing.assert_allclose(icc(x, "ICC(2,1)"), 3 / (3 + 1 + 2), atol=0.03)


def test_icc_of_a_feature_that_does_not_vary_is_unknown():
    x = np.stack([RATINGS[:, :2], np.full((6, 2), 0.1)], axis=-1)
    found = icc(x)
    assert np.isnan(found[1])
    assert np.isfinite(found[0])
    with pytest.raises(InputError, match="2 people and 2 measurements"):
        icc(RATINGS[:, :1])
    with pytest.raises(InputError, match="must be one of"):
        icc(RATINGS, "ICC(4,1)")


def test_identification_counts_the_nearest_in_both_directions():
    similarity = np.array([[0.9, 0.1, 0.95], [0.2, 0.8, 0.3], [0.1, 0.2, 0.4]])
    first_to_second, second_to_first = (np.diag(hits) for hits in identified(similarity))
    assert first_to_second.tolist() == [0, 1, 1]
    assert second_to_first.tolist() == [1, 1, 0]
    assert np.diag(identified(np.ones((4, 4)))[0]).mean() == 0.25, (
        "features that are all the same: chance"
    )


def test_differential_identifiability_of_a_matrix():
    similarity = np.array([[0.9, 0.1, 0.3], [0.2, 0.8, 0.3], [0.1, 0.2, 0.7]])
    found = identifiability(similarity, np.ones((1, len(similarity))))
    assert found == pytest.approx(100 * (0.8 - 0.2))
    # Person 0 twice, person 2 once: two measurements of the same person are not "others".
    own, others = (2 * 0.9 + 0.7) / 3, (2 * 0.3 + 2 * 0.1) / 4
    found = identifiability(similarity, np.array([[2.0, 0.0, 1.0]]))[0]
    assert found == pytest.approx(100 * (own - others))


def test_similarity_is_numpy_s_correlation():
    rng = np.random.default_rng(1)
    a, b = rng.normal(3, 2, (5, 13)), rng.normal(-1, 4, (4, 13))
    np.testing.assert_allclose(similarity_matrix(a, b), np.corrcoef(a, b)[:5, 5:], atol=1e-12)


def test_discriminability_is_the_share_of_comparisons_won():
    rng = np.random.default_rng(2)
    people = rng.standard_normal((7, 4))
    x = np.stack([people + 0.9 * rng.standard_normal((7, 4)) for _ in range(2)])
    wins, total = 0, 0
    for i in range(7):
        for t in range(2):
            own = cdist(x[t, i : i + 1], x[1 - t, i : i + 1])[0, 0]
            for j in range(7):
                for s in range(2):
                    if j != i:
                        wins += own < cdist(x[t, i : i + 1], x[s, j : j + 1])[0, 0]
                        total += 1
    assert 0.5 < wins / total < 1
    share = discriminated(x[0], x[1])
    assert np.diag(share).mean() == pytest.approx(wins / total)
    order = rng.permutation(7)
    again = np.diag(discriminated(x[0], x[1][order]))
    np.testing.assert_allclose(share[np.arange(7), order], again)
    ties = discriminated(np.zeros((3, 2)), np.zeros((3, 2)))
    assert np.diag(ties).tolist() == [0.5] * 3


def test_icc_within_sites_is_that_of_an_analysis_of_variance_with_the_site_as_a_factor():
    """Mean squares of statsmodels-like tables, spelled out per site and pooled."""
    rng = np.random.default_rng(4)
    sites = [
        9 * g + rng.normal(size=(n, 1)) + rng.normal(size=(n, 2)) for g, n in enumerate((4, 7, 2))
    ]
    df = 4 + 7 + 2 - 3
    bms = sum(2 * np.square(x.mean(axis=1) - x.mean()).sum() for x in sites) / df
    ems = 0.0
    for x in sites:
        rest = x - x.mean(axis=1, keepdims=True) - x.mean(axis=0) + x.mean()
        ems += np.square(rest).sum() / df
    sums = [IccSums.of(x[..., None]) for x in sites]
    found = icc_within(sums, [np.ones((1, len(x))) for x in sites])
    assert found["ICC(3,1)"][0, 0] == pytest.approx((bms - ems) / (bms + ems))
    orders = [[rng.permutation(len(x)) for x in sites] for _ in range(3)]
    quick = permuted_icc(sums, orders)
    for i, order in enumerate(orders):
        moved = [
            np.stack([x[:, 0], x[o, 1]], axis=1)[..., None]
            for x, o in zip(sites, order, strict=True)
        ]
        slow = icc_within([IccSums.of(x) for x in moved], [np.ones((1, len(x))) for x in sites])
        for form in ICC_FORMS:
            assert quick[form][i] == pytest.approx(slow[form][0])


# -- together --------------------------------------------------------------------------------------


def sample(n, noise, seed=0):
    rng = np.random.default_rng(seed)
    people = rng.standard_normal((n, 31))
    return [people + noise * rng.standard_normal((n, 31)) for _ in range(2)]


def test_people_who_are_alike_are_found_and_strangers_are_not():
    names = [f"p{i}" for i in range(40)]
    clear = reliability(*sample(40, 0.4), names, n_bootstrap=200)
    noise = reliability(*sample(40, 100.0), names, n_bootstrap=200)
    good, bad = (r.scores.set_index("measure") for r in (clear, noise))
    assert good.loc["identification rate", "value"] > 0.95
    assert good.loc["discriminability", "ci_low"] > 0.95
    assert good.loc["median ICC(3,1)", "value"] == pytest.approx(1 / 1.16, abs=0.05)
    assert bad.loc["identification rate", "value"] < 0.15
    for measure in ("discriminability", "differential identifiability", "median ICC(3,1)"):
        row = bad.loc[measure]
        assert row["ci_low"] < row["chance"] < row["ci_high"]
    assert (good["ci_low"] <= good["value"] + 1e-12).all()
    assert (good["value"] <= good["ci_high"] + 1e-12).all()
    assert clear.similarity.shape == (40, 40)
    assert clear.icc.shape == (31,)


def of_sites(signal, sizes=(12, 7, 16, 5), offset=1.0, seed=0):
    """Two measurements of people at sites whose features differ by `offset` SD."""
    rng = np.random.default_rng(seed)
    where = np.repeat(np.arange(len(sizes)), sizes)
    shared = offset * rng.standard_normal((len(sizes), 61))[where]
    people = shared + signal * rng.standard_normal((len(where), 61))
    return [people + rng.standard_normal(people.shape) for _ in range(2)], where


def scored(signal, *, seed=0, across=False):
    (a, b), where = of_sites(signal, seed=seed)
    names = [f"p{i}" for i in range(len(where))]
    sites = None if across else where
    found = reliability(a, b, names, sites, n_bootstrap=200, n_permutations=99)
    return found.scores.set_index("measure")


MEASURES = ["identification rate", "differential identifiability", "discriminability"]
MEASURES += ["median ICC(3,1)"]


def test_a_scanner_is_no_person():
    """No person signal, sites 1 SD apart: chance within sites, and a mirage across them."""
    runs = [scored(0.0, seed=seed) for seed in range(12)]
    mean = sum(run["value"] for run in runs) / len(runs)
    assert mean["discriminability"] == pytest.approx(0.5, abs=0.03)
    assert mean["median ICC(3,1)"] == pytest.approx(0.0, abs=0.03)
    assert mean["identification rate"] == pytest.approx(4 / 40, abs=0.04)
    assert mean["differential identifiability"] == pytest.approx(0.0, abs=1.5)
    for measure in MEASURES:
        chance = np.mean([run.loc[measure, "chance"] for run in runs])
        assert mean[measure] == pytest.approx(chance, abs=4 if "differential" in measure else 0.04)
        assert sum(run.loc[measure, "p"] <= 0.05 for run in runs) <= 3
    assert scored(0.0, across=True).loc["discriminability", "value"] > 0.8


def test_people_are_found_within_sites():
    found = scored(1.0)
    assert found.loc["median ICC(3,1)", "value"] == pytest.approx(0.5, abs=0.08)
    assert found.loc["discriminability", "value"] > 0.9
    assert (found.loc[MEASURES, "p"] == 0.01).all()
    assert (found.loc[MEASURES, "chance_high"] < found.loc[MEASURES, "ci_low"]).all()
    assert set(found["n_sites"]) == {4}


def test_where_every_person_is_alone_nothing_is_measured(store):
    (a, b), where = of_sites(1.0)
    alone = np.where(np.arange(40) == 3, 9, where)
    with pytest.raises(InputError, match="sites = '9': has one person only"):
        reliability(a, b, [f"p{i}" for i in range(40)], alone)
    fc = {"fc": ConnectivityBaseline()}
    usual = measure_reliability(store, fc, of="halves", n_bootstrap=20)["fc"]
    moved = store.select(np.arange(len(store)))
    moved.table["site"] = moved.table["subject"]
    with pytest.raises(InputError, match="0 of 10 people measured twice share their site"):
        measure_reliability(moved, fc, of="halves")
    moved.table["site"] = store.table["site"].where(store.table["subject"] != "p03", "moon")
    found = measure_reliability(moved, fc, of="halves", n_bootstrap=20)["fc"]
    assert found.left_out == ("p03",)
    assert set(usual.subjects) - set(found.subjects) == {"p03"}
    moved.table["site"] = None
    everyone = measure_reliability(moved, fc, of="halves", n_bootstrap=20)["fc"]
    assert (everyone.left_out, set(everyone.sites)) == ((), {""})


def test_runs_of_one_session_are_no_two_sessions():
    entities = [
        *[("a", "1", "1"), ("a", "1", "2"), ("a", "2", "1"), ("b", "1", "1"), ("b", "1", "2")],
        *[("c", "1", None), ("c", "3", None), ("c", "4", None)],
    ]
    table = pd.DataFrame(entities, columns=["subject", "session", "run"])
    table = table.assign(site="here", id=[f"r{i}" for i in range(len(table))])
    first, second = session_pairs(table)
    assert list(zip(first, second, strict=True)) == [(0, 2), (5, 6)]
    first, second = session_pairs(table.assign(session=None))
    assert list(zip(first, second, strict=True)) == [(0, 2), (3, 4), (5, 6)]


def test_sessions_at_two_sites_are_no_pair(store):
    table = store.table.copy()
    second = (table["subject"] == "p01") & (table["session"] == "2")
    table.loc[second, "site"] = "moon"
    first, _ = session_pairs(table)
    assert table["subject"].iloc[first].tolist() == ["p00", "p02"]


def test_bootstrap_of_the_icc_is_that_of_the_rows_drawn():
    a, b = sample(9, 0.7)
    found = reliability(a, b, list("abcdefghi"), seed=3, n_bootstrap=70)
    weights = np.random.default_rng(3).multinomial(9, np.full(9, 1 / 9), size=70)
    for s in (0, 13, 69):
        rows = np.repeat(np.arange(9), weights[s])
        for form in ICC_FORMS:
            expected = np.median(icc(np.stack([a[rows], b[rows]], axis=1), form))
            assert found.draws[f"median {form}"][s] == pytest.approx(expected)


def test_same_seed_same_numbers_and_differences_are_paired():
    names = [f"p{i}" for i in range(23)]
    make = lambda noise: reliability(*sample(23, noise), names, seed=5, n_bootstrap=150)  # noqa: E731
    results = {"a": make(0.5), "b": make(3.0), "c": make(0.5)}
    pd.testing.assert_frame_equal(results["a"].scores, results["c"].scores)
    gaps = reliability_differences(results, "a").set_index(["model", "measure"])
    zero = gaps.loc[("c", "discriminability")]
    assert (zero[["value", "ci_low", "ci_high"]] == 0).all()
    assert gaps.loc[("b", "discriminability"), "ci_high"] < 0
    scores = reliability_scores(results)
    assert scores.columns[0] == "model"
    assert len(scores) == 3 * len(results["a"].scores)
    with pytest.raises(InputError, match="is no model"):
        reliability_differences(results, "z")
    other = reliability(*sample(23, 1), [f"q{i}" for i in range(23)], n_bootstrap=150)
    with pytest.raises(InputError, match="other people"):
        reliability_differences({"a": results["a"], "o": other}, "a")


def test_what_cannot_be_compared_is_refused():
    a, b = sample(6, 1.0)
    with pytest.raises(InputError, match="must both have the shape"):
        reliability(a, b[:5], list("abcdef"))
    with pytest.raises(InputError, match="different names"):
        reliability(a, b, list("abcdea"))
    flat, broken = a.copy(), a.copy()
    flat[4], broken[2, 1] = 0.5, np.nan
    with pytest.raises(InputError, match="first = 'e': has features that are all the same"):
        reliability(flat, b, list("abcdef"))
    with pytest.raises(InputError, match="second = 'c': holds values that are not finite"):
        reliability(a, broken, list("abcdef"))


# -- stores ----------------------------------------------------------------------------------------


def test_pairs_are_the_first_two_sessions(store):
    first, second = session_pairs(store.table)
    table = store.table
    assert table["subject"].iloc[first].tolist() == ["p00", "p01", "p02"]
    assert table["subject"].iloc[second].tolist() == ["p00", "p01", "p02"]
    assert set(table["session"].iloc[first]) == {"1"}
    assert set(table["session"].iloc[second]) == {"2"}
    back = table.iloc[::-1].reset_index(drop=True)
    again = session_pairs(back)
    assert back["id"].iloc[again[0]].tolist() == table["id"].iloc[first].tolist()
    with pytest.raises(InputError, match="0 of 7 subjects have two sessions"):
        session_pairs(table[~table["subject"].isin(["p00", "p01", "p02"])])


@pytest.mark.parametrize(("gap", "volumes"), [(0.0, 0), (5.0, 3)])
def test_halves_are_the_ends_of_every_scan(store, gap, volumes):
    first, second = halves(store, gap=gap)
    assert len(first) == len(second) == 10, "a person once"
    for i in range(10):
        row = store.table.index[store.table["subject"] == first.table["subject"][i]][0]
        whole = store.signal(row)
        n = (len(whole) - volumes) // 2
        np.testing.assert_array_equal(first.signal(i), whole[:n])
        np.testing.assert_array_equal(second.signal(i), whole[len(whole) - n :])
    with pytest.raises(InputError, match="too short for two halves"):
        halves(store, gap=90)
    with pytest.raises(InputError, match="must not be negative"):
        halves(store, gap=-1)


def test_people_of_stages_are_recognised(tmp_path):
    """Real recordings: 12 people twice. Connectivity knows them, not when shuffled."""
    people = load_stages()
    counts = pd.Series([r.subject for r in people]).value_counts()
    names = sorted(counts.index[counts == 2])[:12]
    twice = [r for r in people if r.subject in names]
    atlas = Parcellation.load("schaefer400")
    store = write_store(tmp_path / "stages", twice, atlas, Preprocessing(tr=2.0))
    config = EncoderConfig(width=32, depth=1, head_width=16, patch_length=20, n_patches=5)
    random = Encoder.random(config, atlas, store.preprocessing, seed=0)
    models = {"connectivity": ConnectivityBaseline(), "random weights": Embedder(random)}
    found = measure_reliability(store, models, n_bootstrap=100)
    rates = reliability_scores(found).set_index(["model", "measure"])["value"]
    assert rates[("connectivity", "identification rate")] > 0.7
    assert rates[("connectivity", "discriminability")] > 0.65
    assert 0.5 < rates[("random weights", "discriminability")] < 1
    first, second = session_pairs(store.table)
    x = [
        np.stack([fisher_z_connectivity(store.signal(i)[:, ::9]) for i in rows])
        for rows in (first, second)
    ]
    moved = reliability(x[0], np.roll(x[1], 1, axis=0), np.arange(12), n_bootstrap=50)
    assert moved.scores["value"].iloc[0] < 0.3
    fc = {"c": ConnectivityBaseline()}
    of_halves = measure_reliability(store, fc, of="halves", gap=10, n_bootstrap=20)
    assert of_halves["c"].scores["value"].iloc[0] > 0.7
    with pytest.raises(InputError, match="must be sessions or halves"):
        measure_reliability(store, models, of="runs")
    with pytest.raises(InputError, match="models = 't': learns from recordings"):
        measure_reliability(store, {"t": TangentBaseline()})

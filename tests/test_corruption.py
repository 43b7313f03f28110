from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dct
from scipy.signal import periodogram

from semantoks.data.designs import AcrossStores, GroupedKFold, LeaveOneSiteOut
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing, resample, zscore
from semantoks.data.store import write_store
from semantoks.errors import InputError
from semantoks.evaluate.checks.corruption import (
    CORRUPTIONS,
    Corruption,
    Scan,
    corrupted,
    heartbeat,
    missing_networks,
    missing_regions,
    motion_spikes,
    respiration,
    shorter_scan,
    slow_drift,
    slower_sampling,
)
from semantoks.evaluate.checks.sensitivity import corruption_curves
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.features.connectivity import ConnectivityBaseline, fisher_z_connectivity
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.features.tangent import TangentBaseline
from semantoks.model.encoder import Encoder, EncoderConfig

OPEN = Preprocessing(tr=0.5, low_hz=None, high_hz=None, detrend=False)
RAW = replace(OPEN, zscore=False)
ADDITIVE = (motion_spikes, respiration, heartbeat, slow_drift)


def scan(n_times=400, n_rois=7, preprocessing=OPEN, source_tr=None, seed=0):
    x = np.random.default_rng(seed).standard_normal((n_times, n_rois))
    return Scan(
        signal=zscore(x),
        kept=np.ones(n_times, bool),
        missing=np.zeros(n_rois, bool),
        networks=(np.array([0, 3]), np.array([1, 2, 6]), np.array([4, 5])),
        source_tr=source_tr or preprocessing.tr,
        preprocessing=preprocessing,
    )


def disturbance(apply, severity, base, seed=1):
    """What is added before the signal is z-scored again."""
    free = replace(base, preprocessing=replace(base.preprocessing, zscore=False))
    return apply(free, severity, np.random.default_rng(seed)).signal - base.signal


def power(x, tr, low, high):
    hertz, density = periodogram(x, fs=1 / tr, axis=0)
    inside = (hertz >= low) & (hertz <= high)
    return density[inside].sum() / density.sum()


# -- one scan --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("apply", "band"), [(respiration, (0.17, 0.4)), (heartbeat, (0.7, 1.0))])
def test_rhythms_have_their_band_and_their_strength(apply, band):
    base = scan(n_times=997)
    added = disturbance(apply, 0.6, base)
    assert np.sqrt(np.square(added).mean()) == pytest.approx(0.6, rel=1e-6)
    if apply is heartbeat:  # 0.8 to 1.4 Hz sampled every 0.5 s: above 1 Hz it folds back
        band = (0.5, 1.0)
    assert power(added, 0.5, *band) > 0.97
    assert power(disturbance(apply, 0.6, base, seed=9), 0.5, *band) > 0.97


def test_the_heart_is_aliased_by_the_scanner_s_tr():
    """A rhythm of f Hz sampled every 2 s shows at its distance to the nearest multiple of 0.5."""
    slow = replace(OPEN, tr=2.0)
    for seed in range(3):
        fine = disturbance(heartbeat, 1.0, scan(n_times=1600), seed)
        hertz, density = periodogram(fine[:, 0], fs=2.0)
        true = hertz[density.argmax()]
        coarse = disturbance(heartbeat, 1.0, scan(preprocessing=slow), seed)
        hertz, density = periodogram(coarse[:, 0], fs=0.5)
        centre = (hertz * density).sum() / density.sum()
        assert 0 < centre < 0.25
        assert 0 < true <= 1.0


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(ADDITIVE), st.floats(0.2, 3), st.sampled_from([1.5, 2.0, 3.0]))
def test_a_band_pass_that_removes_it_in_reality_removes_it_here(apply, severity, source_tr):
    band = Preprocessing(tr=2.0, low_hz=0.01, high_hz=0.1)
    base = scan(n_times=211, preprocessing=band, source_tr=source_tr)
    added = disturbance(apply, severity, base)
    assert added.shape == base.signal.shape
    inside = power(added, 2.0, 0.005, 0.13) if added.any() else 1.0
    left = np.square(added).mean()
    # The ends of the scan keep a trace of a rhythm that is otherwise gone.
    assert inside > 0.95 or (1 - inside) * left < 0.01 * severity**2


def test_drift_is_slow_and_a_high_pass_takes_it_away():
    added = disturbance(slow_drift, 2.0, scan(n_times=600))
    assert np.sqrt(np.square(added).mean()) == pytest.approx(2.0, rel=1e-6)
    waves = np.square(dct(added, axis=0, norm="ortho"))  # wave k has k / 600 Hz
    assert waves[:7].sum() > 0.999999 * waves.sum()
    assert waves[3:7].any()
    filtered = Preprocessing(tr=0.5, low_hz=0.03, high_hz=None)
    left = disturbance(slow_drift, 2.0, scan(n_times=600, preprocessing=filtered))
    assert np.square(left).mean() < 0.01 * 2.0**2


def test_motion_drops_the_whole_brain_at_once_as_often_as_asked():
    base = scan(n_times=1200)  # 10 minutes
    counts = []
    for seed in range(30):
        added = disturbance(motion_spikes, 2.0, base, seed)
        assert added.max() < 1e-9, "a loss of signal"
        onsets = (np.diff(added.mean(axis=1)) < -1.5).sum()
        counts.append(onsets)
    assert 16 < np.mean(counts) < 21, "20 movements, a few of them in the same volume or next"
    one = next(x for s in range(99) if (x := disturbance(motion_spikes, 0.1, base, s)).any())
    start = np.flatnonzero(one[:, 0])[0]
    np.testing.assert_allclose(one[start + 8] / one[start], np.exp(-1), rtol=1e-6)
    assert np.corrcoef(one.T).min() > 0.99


def test_motion_raises_connectivity():
    base = scan(n_times=600)
    moved = motion_spikes(base, 6.0, np.random.default_rng(0))
    assert np.abs(fisher_z_connectivity(base.signal)).mean() < 0.1
    assert fisher_z_connectivity(moved.signal).mean() > 0.3
    np.testing.assert_allclose(moved.signal.std(axis=0), 1, atol=1e-6)


def test_slower_sampling_loses_what_is_above_the_new_nyquist():
    base = scan(n_times=800)
    slow = slower_sampling(base, 1.5, np.random.default_rng(0))  # TR 1.25 s: 0.4 Hz
    expected = zscore(resample(resample(base.signal, 0.5, 1.25), 1.25, 0.5))
    np.testing.assert_array_equal(slow.signal, expected)
    assert power(base.signal, 0.5, 0.45, 1) > 0.5
    assert power(slow.signal, 0.5, 0.45, 1) < 0.01
    extreme = slower_sampling(scan(n_times=11), 1e6, np.random.default_rng(0))
    assert extreme.signal.shape == (11, 7)


def test_kept_time_points_follow_a_shorter_or_slower_scan():
    base = scan(n_times=60)
    base.kept[[7, 31, 32]] = False
    marked = replace(base, signal=np.arange(60.0)[:, None] * np.ones(7), preprocessing=RAW)
    for seed in range(9):
        short = shorter_scan(marked, 0.5, np.random.default_rng(seed))
        assert (short.kept == ~np.isin(short.signal[:, 0].round(), [7, 31, 32])).all()
    # At twice the TR, volumes 7 and 31 are not sampled; 31 to 33 need volume 32.
    slow = slower_sampling(base, 1.0, np.random.default_rng(0))
    assert np.flatnonzero(~slow.kept).tolist() == [31, 32, 33]
    with pytest.raises(InputError, match=r"kept\.shape = \(60,\): must have one value for each"):
        replace(base, signal=base.signal[:50])


def test_a_shorter_scan_is_a_stretch_of_the_scan():
    base = scan(n_times=150)
    starts = set()
    for seed in range(20):
        short = shorter_scan(base, 0.6, np.random.default_rng(seed)).signal
        assert short.shape == (60, 7)
        places = [s for s in range(91) if np.allclose(short, zscore(base.signal[s : s + 60]))]
        assert len(places) == 1
        starts |= set(places)
    assert len(starts) > 10
    assert len(shorter_scan(base, 0.99, np.random.default_rng(0)).signal) == 20
    assert len(shorter_scan(scan(n_times=15), 0.5, np.random.default_rng(0)).signal) == 15


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-3, 1.0), st.integers(0, 10**6))
def test_missing_parts_are_zero_and_marked(severity, seed):
    base = scan(n_times=30)
    rois = missing_regions(base, severity, np.random.default_rng(seed))
    networks = missing_networks(base, severity, np.random.default_rng(seed))
    for worse in (rois, networks):
        assert 0 < worse.missing.sum() < 7
        np.testing.assert_array_equal(worse.missing, (worse.signal == 0).all(axis=0))
        np.testing.assert_array_equal(
            worse.signal[:, ~worse.missing], base.signal[:, ~worse.missing]
        )
    assert rois.missing.sum() == min(max(round(severity * 7), 1), 6)
    for members in base.networks:
        assert len(set(networks.missing[members])) == 1, "a network goes as a whole"
    with pytest.raises(InputError, match="none to lose"):
        missing_networks(replace(base, networks=(np.arange(7),)), 0.5, np.random.default_rng(0))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_is_pure_deterministic_and_grows(name):
    way = CORRUPTIONS[name]
    base = scan(n_times=240, preprocessing=Preprocessing(tr=0.5, low_hz=None, high_hz=None))
    before = base.signal.copy()
    assert list(way.severities) == sorted(way.severities)
    distance = []
    for severity in (way.severities[0], way.severities[-1]):
        worse = way.apply(base, severity, np.random.default_rng(5))
        again = way.apply(base, severity, np.random.default_rng(5))
        np.testing.assert_array_equal(worse.signal, again.signal)
        assert np.isfinite(worse.signal).all()
        difference = fisher_z_connectivity(worse.signal) - fisher_z_connectivity(base.signal)
        distance.append(np.abs(difference).mean())
    np.testing.assert_array_equal(base.signal, before)
    assert 0 < distance[0] < distance[1]


# -- stores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupted_store_is_a_store(store, name):
    worse = corrupted(store, name, CORRUPTIONS[name].severities[-1], seed=3)
    assert len(worse) == len(store)
    assert worse.table["id"].tolist() == store.table["id"].tolist()
    differ = 0
    for i in range(len(store)):
        signal = worse.signal(i)
        assert len(signal) == worse.table["length"][i]
        lost = np.isin(store.parcellation.labels, worse.table["missing_rois"][i])
        np.testing.assert_array_equal(signal[:, lost], 0)
        differ += signal.shape != store.signal(i).shape or not np.array_equal(
            signal, store.signal(i)
        )
    # A scan of a minute and a half need not hold a movement, nor be resampled to another length.
    assert differ >= len(store) - 2
    assert worse.fingerprint != store.fingerprint
    again = corrupted(store, name, CORRUPTIONS[name].severities[-1], seed=3)
    assert worse.fingerprint == again.fingerprint


def test_fingerprints_cover_the_signals(store):
    """Corruptions of one name differ in their signals; a cache must not mix them up."""

    def scaled_by(factor):
        def change(scan, severity, _rng):
            return replace(scan, signal=scan.signal * (1 + (factor * severity) * (scan.signal > 0)))

        return Corruption(apply=change, unit="x", severities=(1.0,), methods="changes")

    one, two, same = (corrupted(store, scaled_by(f), 1.0, seed=3) for f in (0.5, 0.75, 0.5))
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != two.fingerprint
    assert one.select([1, 3]).fingerprint == same.select([1, 3]).fingerprint != one.fingerprint
    assert pickle.loads(pickle.dumps(one)).fingerprint == one.fingerprint


def test_order_and_company_do_not_matter(store):
    whole = corrupted(store, "heartbeat", 1.0, seed=3)
    rows = [8, 2, 5]
    for part in (
        corrupted(store.select(rows), "heartbeat", 1.0, seed=3),
        whole.select(rows),
        pickle.loads(pickle.dumps(whole.select(rows))),
    ):
        for k, i in enumerate(rows):
            np.testing.assert_array_equal(part.signal(k), whole.signal(i))
    assert not np.array_equal(corrupted(store, "heartbeat", 1.0, seed=4).signal(2), whole.signal(2))
    np.testing.assert_array_equal(
        whole.gather([4], [[3]], 11)[0, 0].astype(np.float32), whole.signal(4)[3:14]
    )
    trial = whole.trials(
        pd.DataFrame({"id": [store.table["id"][6]], "onset": [8.0], "duration": [20.0]})
    )
    np.testing.assert_array_equal(trial.signal(0), whole.signal(6)[4:14])


def test_severity_zero_changes_nothing(store):
    same = corrupted(store, "motion spikes", 0.0, seed=0)
    for i in range(len(store)):
        np.testing.assert_array_equal(same.signal(i), store.signal(i))
    with pytest.raises(InputError, match="must be 0 or more"):
        corrupted(store, "motion spikes", -1.0, seed=0)
    with pytest.raises(InputError, match="Known: heartbeat, missing networks"):
        corrupted(store, "noise", 1.0, seed=0)


def test_encoder_and_connectivity_read_it(store, parcellation):
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    encoder = Encoder.random(config, parcellation, store.preprocessing, seed=0)
    embedder = Embedder(encoder).fit(store)
    clean = embedder.transform(store)
    np.testing.assert_array_equal(
        embedder.transform(corrupted(store, "slow drift", 0.0, seed=0)), clean
    )
    for name in ("missing networks", "shorter scan", "motion spikes"):
        found = embedder.transform(corrupted(store, name, 0.5, seed=0))
        assert found.shape == clean.shape
        assert np.abs(found - clean).max() > 1e-3


# -- curves ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory, parcellation):
    """44 people, 9 of them twice, whose sex is one coupling of ROIs 0 and 1."""
    rng = np.random.default_rng(6)
    recordings = []
    for person in range(44):
        for session in range(2 if person < 9 else 1):
            x = rng.standard_normal((121 + person % 5, 11))
            if person % 2:
                x[:, 1] = 0.7 * x[:, 0] + 0.7 * x[:, 1]
            recordings.append(
                Recording(
                    signal=x,
                    roi_names=parcellation.labels,
                    tr=2.0,
                    subject=f"p{person:02}",
                    session=str(session + 1),
                    site=("east", "north", "west")[person % 3],
                    phenotypes={
                        "sex": ("female", "male")[person % 2],
                        "load": float(np.corrcoef(x[:, 4], x[:, 5])[0, 1]) if not session else None,
                    },
                )
            )
    folder = tmp_path_factory.mktemp("planted") / "store"
    plain = Preprocessing(tr=2.0, low_hz=None, high_hz=None)
    return write_store(folder, recordings, parcellation, plain, varying=("load",))


def test_curves_start_at_the_clean_score_and_fall(planted):
    ways = {
        "nothing": Corruption(apply=lambda s, _, __: s, unit="none", severities=(1.0,), methods=""),
        "heartbeat": Corruption(apply=heartbeat, unit="sd", severities=(0.5, 6.0), methods=""),
    }
    models = {"connectivity": ConnectivityBaseline()}
    found = corruption_curves(planted, models, "sex", corruptions=ways)
    at = found[found["metric"] == "AUROC"].set_index(["corruption", "severity"])
    assert at.loc[("none", 0.0), "ci_low"] > 0.8
    assert at.loc[("none", 0.0), "n_subjects"] == 44
    same = at.loc[("nothing", 1.0)]
    assert same["value"] == at.loc[("none", 0.0), "value"]
    assert same["change_low"] == same["change"] == same["change_high"] == 0
    assert at.loc[("heartbeat", 6.0), "value"] < at.loc[("heartbeat", 0.5), "value"]
    assert at.loc[("heartbeat", 6.0), "change_high"] < -0.1
    again = corruption_curves(planted, models, "sex", corruptions=ways)
    pd.testing.assert_frame_equal(found, again)


def test_clean_scores_are_those_of_the_evaluation(planted):
    models = {"connectivity": ConnectivityBaseline()}
    models["tangent"] = TangentBaseline()
    for design in (GroupedKFold(n_folds=3), LeaveOneSiteOut()):
        curve = corruption_curves(planted, models, "sex", corruptions=[], design=design)
        scores = evaluate_probes(planted, models, ["sex"], design=design).scores
        expected = scores.set_index(["model", "metric"])["value"]
        found = curve.set_index(["model", "metric"])["value"]
        np.testing.assert_allclose(found, expected[found.index], rtol=1e-6)


def test_curves_of_a_number(planted):
    found = corruption_curves(
        planted,
        {"connectivity": ConnectivityBaseline()},
        "load",
        corruptions=["missing regions"],
        missing="drop",
    )
    r = found[found["metric"] == "r"].set_index("severity")["value"]
    assert r[0.0] > 0.6
    assert r[0.4] < r[0.0] - 0.1
    assert set(found["metric"]) == {"MAE gain", "r", "MAE", "R2"}
    with pytest.raises(InputError, match="is not a corruption"):
        corruption_curves(planted, {"c": ConnectivityBaseline()}, "sex", corruptions=["snow"])
    with pytest.raises(InputError, match="must stay within one store"):
        corruption_curves(planted, {}, "sex", design=AcrossStores(train=planted))

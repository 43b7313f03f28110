"""Denoising: what filter, censoring and confounds leave of a recording."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.denoise import Censoring
from semantoks.data.encode import StoreSpec, encode
from semantoks.data.filters import band_pass, filter_dof
from semantoks.data.quality import measure, standardised_dvars
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import write_store
from semantoks.errors import InputError

ATLAS = Parcellation(name="five", labels=tuple("abcde"), networks=("v", "v", "w", "w", "w"))


def recording(n_times, n_confounds=0, tr=2.0, kept=None, seed=0):
    rng = np.random.default_rng(seed)
    confounds = rng.standard_normal((n_times, n_confounds)) if n_confounds else None
    return Recording(
        signal=rng.standard_normal((n_times, 5)) + 100,
        roi_names=ATLAS.labels,
        tr=tr,
        subject="01",
        confounds=confounds,
        kept=kept,
    )


def spec(preprocessing=None, **censoring):
    return StoreSpec(
        parcellation=ATLAS,
        preprocessing=preprocessing or Preprocessing(),
        censoring=Censoring(**censoring),
    )


@pytest.mark.parametrize(
    ("n_times", "tr", "low", "high"),
    [(75, 2.0, 0.01, 0.1), (190, 0.8, 0.01, 0.15), (140, 2.5, 0.02, None), (120, 1.1, None, 0.1)],
)
def test_a_filter_leaves_its_trace(n_times, tr, low, high):
    """The degrees of freedom of a linear smoother: the trace of its matrix, less the constant."""
    matrix = band_pass(np.eye(n_times), tr, low, high)
    constant = 0 if low else 1
    assert filter_dof(n_times, tr, low, high) == pytest.approx(matrix.trace() - constant, abs=1)


@pytest.mark.parametrize(
    ("n_times", "n_confounds", "low", "high"),
    [(150, 12, 0.01, 0.1), (110, 31, 0.02, None), (170, 17, None, 0.12), (90, 30, None, None)],
)
def test_noise_keeps_the_share_that_the_degrees_of_freedom_say(n_times, n_confounds, low, high):
    rng = np.random.default_rng(3)
    steps = Preprocessing(low_hz=low, high_hz=high, zscore=False)
    noise = rng.standard_normal((n_times, 300))
    confounds = rng.standard_normal((n_times, n_confounds))
    before = steps.apply(noise, 2.0)
    after = steps.apply(noise, 2.0, confounds=confounds)
    kept = np.ones(n_times, bool)
    said = steps.tdof(2.0, kept, confounds) / steps.tdof(2.0, kept, None)
    assert np.square(after).sum() / np.square(before).sum() == pytest.approx(said, abs=0.1)


def test_confounds_that_say_the_same_count_once():
    steps, kept = Preprocessing(), np.ones(130, bool)
    confounds = np.random.default_rng(1).standard_normal((130, 7))
    twice = np.column_stack([confounds, confounds @ np.ones((7, 3)), np.ones(130)])
    left = steps.tdof(2.0, kept, confounds)
    assert left == pytest.approx(steps.tdof(2.0, kept, None) - 7)
    assert steps.tdof(2.0, kept, twice) == pytest.approx(left)


def test_censored_volumes_cost_their_share():
    kept = np.random.default_rng(2).random(200) > 0.4
    kept[[0, -1]] = True
    lost = Preprocessing().tdof(2.0, kept, None) / Preprocessing().tdof(2.0, kept | True, None)
    assert lost == pytest.approx(kept.mean(), abs=0.01)


def test_more_confounds_than_the_filter_leaves_are_refused():
    """75 volumes at 2 s and 0.01-0.1 Hz: 27 degrees of freedom, for 36 confounds."""
    short = recording(75, 36)
    steps = Preprocessing(zscore=False)
    left = steps.apply(short.signal, 2.0, confounds=short.confounds)
    assert np.square(left).sum() < 0.02 * np.square(steps.apply(short.signal, 2.0)).sum()
    with pytest.raises(InputError, match=r"confounds = 36: must leave 10 .* leave 0\.0") as caught:
        encode(short, spec())
    assert "--denoise-option motion=basic" in str(caught.value)
    # Every way out gets further.
    encode(replace(short, confounds=short.confounds[:, :8]), spec())
    encode(short, spec(Preprocessing(high_hz=None)))
    encode(replace(short, confounds=short.confounds[:, :20]), spec(min_tdof=5))
    encode(recording(75), spec())
    with pytest.raises(InputError, match=r"min_tdof = 0: must be positive"):
        spec(min_tdof=0)


def test_degrees_of_freedom_are_a_column_of_the_quality_table():
    one = recording(210, 11)
    found = measure(one, encode(one, spec()), 2.0)["tdof"]
    assert found == pytest.approx(210 * 2 * 2.0 * 0.09 - 11, abs=1)


# -- which volumes are used ------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=3, max_size=60).filter(any), st.integers(1, 5))
def test_a_cut_keeps_the_stretch_with_most_data(kept, max_gap):
    kept = np.array(kept)
    cut = Censoring(max_gap=max_gap * 2.0, long_gaps="cut", min_kept=0.01)
    found = cut.stretch(kept, 2.0, "x")
    assert kept[found][[0, -1]].all()
    for first in np.flatnonzero(kept):  # every other stretch, by force
        for last in np.flatnonzero(kept[first:]) + first:
            if np.diff(np.flatnonzero(kept[first : last + 1])).max(initial=0) <= max_gap:
                assert kept[first : last + 1].sum() <= kept[found].sum()


def test_a_long_stretch_of_little_data_loses():
    """30 volumes that hold 11 against 20 that hold 20."""
    kept = np.r_[np.arange(31) % 3 == 0, np.zeros(9, bool), np.ones(20, bool)]
    cut = Censoring(max_gap=7.0, long_gaps="cut").stretch(kept, 2.0, "x")
    assert (cut.start, cut.stop) == (40, 60)


@pytest.mark.parametrize(("known", "asked"), [(4, 0), (0, 4), (2, 4), (4, 3)])
def test_dummy_scans_are_removed(known, asked):
    whole = recording(80, 3)
    signal = whole.signal.copy()
    signal[:4] += 1e5
    wild = replace(whole, signal=signal, dummy_scans=known)
    found = encode(wild, spec(dummy_scans=asked))
    later = replace(whole, signal=whole.signal[4:], confounds=whole.confounds[4:])
    np.testing.assert_array_equal(found.signal, encode(later, spec()).signal)
    assert (found.row["offset"], found.row["length"]) == (8.0, 76)
    assert found.row["censored_fraction"] is None
    assert measure(wild, found, 2.0)["offset"] == 8.0
    flags = np.ones(80, bool)
    flags[[1, 20]] = False
    kept = replace(wild, kept=flags)
    assert encode(kept, spec(dummy_scans=asked)).row["censored_fraction"] == pytest.approx(1 / 76)
    assert flags[0], "what the caller gave is left as it was"
    with pytest.raises(InputError, match=r"every volume is censored"):
        encode(wild, spec(dummy_scans=80))
    with pytest.raises(InputError, match=r"dummy_scans = -1: must be 0 or more"):
        spec(dummy_scans=-1)


def test_trials_start_at_the_time_of_the_acquisition(tmp_path):
    """After slice timing correction to the middle, the first volume is half a TR late."""
    steps = Preprocessing(low_hz=None, high_hz=None, detrend=False, zscore=False)
    found = {}
    for start, dummies in ((0.0, 0), (1.0, 0), (1.0, 3)):
        one = replace(recording(70), start_time=start, dummy_scans=dummies)
        order = np.random.default_rng(5).permutation(70)
        one = replace(one, signal=order[:, None] + 100.0 * np.arange(5))
        store = write_store(tmp_path / f"{start}{dummies}", [one], ATLAS, steps)
        assert store.table["offset"][0] == start + 2 * dummies
        events = pd.DataFrame({"id": store.table["id"], "onset": [21.0], "duration": [44.0]})
        found[start, dummies] = np.argsort(order)[store.trials(events).signal(0)[:, 0].astype(int)]
    assert found[0.0, 0][0] == 10  # 20 s is the nearest even volume to 21 s
    assert found[1.0, 0][0] == found[1.0, 3][0] == 10  # 21 s
    assert len(found[1.0, 3]) == 22


# -- DVARS -----------------------------------------------------------------------------------------


def dvars_of_nipype(x):
    """Nichols 2013 by the steps of nipype's ``compute_dvars``, which fMRIPrep runs, per volume."""
    order = np.sort(x, axis=0)
    places = [int(np.floor(q * (len(x) - 1))) for q in (0.25, 0.75)]
    robust = (order[places[1]] - order[places[0]]) / 1.349
    ar1 = []
    for column in (x - x.mean(axis=0)).T:
        products = np.correlate(column, column, mode="full")[len(column) - 1 :] / len(column)
        ar1.append(products[1] / products[0])
    expected = [np.sqrt(2 * (1 - a)) * sd for a, sd in zip(ar1, robust, strict=True)]
    return np.array([np.sqrt(np.mean(step**2)) for step in np.diff(x, axis=0)]) / np.mean(expected)


@pytest.mark.parametrize("n_times", [61, 84, 130])
def test_dvars_is_that_of_fmriprep(n_times):
    rng = np.random.default_rng(n_times)
    x = 500 + rng.standard_normal((n_times, 7)).cumsum(axis=0) * np.arange(1, 8)
    found = standardised_dvars(np.c_[x, np.full(n_times, 3.0)], np.arange(n_times))
    assert found == pytest.approx(dvars_of_nipype(x).mean())


def test_dvars_of_noise_is_one_and_crosses_no_gap():
    rng = np.random.default_rng(4)
    x = 100 + rng.standard_normal((900, 60))
    assert standardised_dvars(x, np.arange(900)) == pytest.approx(1, abs=0.03)
    x[450:] += 50  # between two volumes that are not neighbours
    volumes = np.r_[:450, 460:910]
    ends = np.diff(x, axis=0)[449]
    inside = np.sqrt(np.square(np.delete(np.diff(x, axis=0), 449, axis=0)).mean(axis=1)).mean()
    assert np.sqrt(np.square(ends).mean()) > 30 * inside
    centred = x - x.mean(axis=0)
    lag = (centred[1:] * centred[:-1]).sum(axis=0) - centred[449] * centred[450]
    ar1 = lag / 898 * 899 / 900 / x.var(axis=0)
    quartiles = [np.sort(x, axis=0)[k] for k in (224, 674)]
    expected = np.sqrt(2 * (1 - ar1)) * (quartiles[1] - quartiles[0]) / 1.349
    assert standardised_dvars(x, volumes) == pytest.approx(inside / expected.mean())
    assert np.isnan(standardised_dvars(x[::2], np.arange(0, 900, 2)))

"""Signals keep what they should keep and lose what they should lose."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.glm.first_level.design_matrix import create_cosine_drift
from scipy.signal import resample_poly

from semantoks.data.filters import band_pass, filter_dof
from semantoks.data.signal import (
    Preprocessing,
    check_tr,
    detrend,
    resample,
    resampled_length,
    zscore,
)
from semantoks.errors import InputError

TR_PAIRS = [(0.72, 2.0), (1.667, 2.0), (2.5, 2.0), (3.0, 2.0), (2.0, 0.8), (1.5, 3.0)]
EDGE = 40.0  # seconds at either end that lean on the continuation of the signal


def sine(frequency, tr, n_times, phase=0.4):
    return np.sin(2 * np.pi * frequency * np.arange(n_times) * tr + phase)[:, None]


def middle(x, tr):
    edge = int(np.ceil(EDGE / tr))
    return x[edge:-edge]


# -- detrend, z-score ----------------------------------------------------------------------------


def test_detrend_removes_a_line_and_nothing_else():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((29, 3))
    line = np.arange(29)[:, None] * [0.5, -2.0, 7.0] + [3.0, 0.0, -1e4]
    clean = detrend(x)
    assert np.allclose(detrend(x + line), clean, atol=1e-8)
    time = np.arange(29) - 14
    assert np.allclose(time @ clean, 0, atol=1e-10)
    assert np.allclose(clean.mean(axis=0), 0, atol=1e-12)
    assert np.corrcoef(clean[:, 0], x[:, 0])[0, 1] > 0.9


def test_zscore_is_the_formula_of_the_method():
    x = np.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]])
    expected = (x[:, 0] - 3) / (np.sqrt((4 + 1 + 9) / 3) + 1e-8)
    assert np.allclose(zscore(x)[:, 0], expected, rtol=0, atol=1e-14)
    assert (zscore(x)[:, 1] == 0).all()


# -- band-pass -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frequency", "gain"), [(0.002, 0), (0.01, 0.5), (0.03, 1), (0.05, 1), (0.1, 0.5), (0.2, 0)]
)
def test_band_pass_has_the_gain_it_says(frequency, gain):
    x = sine(frequency, 2.0, 700)
    y = band_pass(x, 2.0, 0.01, 0.1)
    inner = slice(150, -150)
    # Projection on the sine: amplitude and phase at once.
    assert y[inner].ravel() @ x[inner].ravel() / (x[inner].ravel() @ x[inner].ravel()) == (
        pytest.approx(gain, abs=0.01)
    )
    if gain == 1:
        assert np.abs(y - x)[inner].max() < 0.01


@pytest.mark.parametrize("n_times", [75, 118])
def test_cosines_below_the_band_are_regressed_out_as_nilearn_does(n_times):
    x, tr = np.random.default_rng(5).standard_normal((n_times, 3)), 2.2
    drifts = create_cosine_drift(0.013, np.arange(n_times) * tr)
    expected = x - drifts @ np.linalg.lstsq(drifts, x, rcond=None)[0]
    assert np.allclose(band_pass(x, tr, 0.013, None, "cosine"), expected, atol=1e-10)


@given(
    n_times=st.integers(20, 90),
    tr=st.floats(0.6, 3.0),
    low=st.sampled_from([None, 0.008, 0.02]),
    high=st.sampled_from([None, 0.08, 0.1]),
)
def test_a_cosine_filter_is_a_projection_with_the_rank_it_states(n_times, tr, low, high):
    matrix = band_pass(np.eye(n_times), tr, low, high, "cosine")
    assert np.allclose(matrix @ matrix, matrix, atol=1e-10)
    assert np.allclose(matrix, matrix.T, atol=1e-10)
    constant = 1.0 if low is None else 0.0
    assert filter_dof(n_times, tr, low, high, "cosine") == pytest.approx(matrix.trace() - constant)


def test_a_filter_that_is_none():
    with pytest.raises(InputError, match="filter = 'fir': must be butterworth or cosine"):
        band_pass(np.zeros((30, 2)), 2.0, 0.01, 0.1, "fir")


def test_band_pass_commutes_with_turning_time_round():
    x = np.random.default_rng(2).standard_normal((160, 3))
    assert np.allclose(band_pass(x[::-1], 2.0, 0.01, 0.1)[60:-60][::-1],
                       band_pass(x, 2.0, 0.01, 0.1)[60:-60], atol=0.02)  # fmt: skip


def test_constants_pass_low_pass_only_and_do_not_ring():
    x = np.full((37, 2), 1e4)
    assert np.allclose(band_pass(x, 2.0, None, 0.1), x)
    assert np.abs(band_pass(x, 2.0, 0.01, 0.1)).max() < 1e-8
    assert np.abs(band_pass(x, 2.0, 0.01, None)).max() < 1e-8


def test_upper_edge_above_nyquist_has_nothing_to_remove():
    x = np.random.default_rng(3).standard_normal((61, 3))
    assert (band_pass(x, 6.0, 0.01, 0.1) == band_pass(x, 6.0, 0.01, None)).all()
    assert (band_pass(x, 6.0, None, 0.1) == x).all()


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (0.0, 0.1, r"low_hz = 0.0: must be positive"),
        (0.01, -1.0, r"high_hz = -1.0: must be positive"),
        (0.1, 0.01, r"low_hz = 0.1: must be below high_hz = 0.01"),
        (0.25, 0.3, r"low_hz = 0.25: is not below the Nyquist frequency 0.25 Hz of TR 2 s"),
    ],
)
def test_impossible_bands_are_refused(low, high, message):
    with pytest.raises(InputError, match=message):
        band_pass(np.zeros((30, 2)), 2.0, low, high)


# -- resampling ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("tr", "new_tr"), TR_PAIRS)
@pytest.mark.parametrize("part", [0.1, 0.4, 0.7])
def test_a_sine_below_both_nyquists_stays_itself(tr, new_tr, part):
    frequency = part * min(0.5 / tr, 0.5 / new_tr)
    n_times = int(420 / tr)
    y = resample(sine(frequency, tr, n_times), tr, new_tr)
    expected = sine(frequency, new_tr, len(y))
    assert np.abs(middle(y - expected, new_tr)).max() < 2e-3
    assert np.abs(y - expected).max() < 0.3  # the very ends lean on the continuation


@pytest.mark.parametrize(("tr", "new_tr"), [pair for pair in TR_PAIRS if pair[0] < pair[1]])
def test_a_sine_above_the_new_nyquist_is_gone(tr, new_tr):
    frequency = 1.25 * 0.5 / new_tr
    if frequency > 0.5 / tr:  # the old signal cannot hold it either
        frequency = 0.999 * 0.5 / tr
    y = resample(sine(frequency, tr, int(420 / tr)), tr, new_tr)
    naive = sine(frequency, new_tr, len(y))  # what taking every k-th sample would alias
    assert np.abs(naive).max() > 0.9
    limit = 2e-3 if frequency > 1.2 * 0.5 / new_tr else 0.2
    assert np.abs(middle(y, new_tr)).max() < limit


def test_agrees_with_an_independent_polyphase_resampler():
    rng = np.random.default_rng(4)
    smooth = band_pass(rng.standard_normal((500, 3)), 0.72, 0.01, 0.1)
    ours = resample(smooth, 0.72, 2.0)
    theirs = resample_poly(smooth, 9, 25, axis=0, window=("kaiser", 8.0))[: len(ours)]
    assert np.abs(middle(ours - theirs, 2.0)).max() < 0.01 * smooth.std()


@given(
    tr=st.floats(0.4, 4.0),
    new_tr=st.floats(0.4, 4.0),
    n_times=st.integers(2, 70),
    level=st.floats(-1e4, 1e4),
)
@settings(max_examples=30, deadline=None)
def test_constants_stay_constant_at_any_pair_of_trs(tr, new_tr, n_times, level):
    y = resample(np.full((n_times, 2), level), tr, new_tr)
    assert np.allclose(y, level, rtol=1e-9, atol=1e-9)
    assert len(y) == resampled_length(n_times, tr, new_tr)
    # All new samples lie within the recording, and the next one would not.
    assert (len(y) - 1) * new_tr <= (n_times - 1) * tr + 1e-3
    assert len(y) * new_tr > (n_times - 1) * tr - 1e-3


@given(tr=st.floats(0.5, 3.5), new_tr=st.floats(0.5, 3.5), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_resampling_is_linear(tr, new_tr, seed):
    a, b = np.random.default_rng(seed).standard_normal((2, 41, 3))
    together = resample(2 * a - 3 * b, tr, new_tr)
    assert np.allclose(together, 2 * resample(a, tr, new_tr) - 3 * resample(b, tr, new_tr))


@pytest.mark.parametrize(("tr", "new_tr"), [(0.72, 2.0), (2.0, 0.8), (1.5, 2.0), (3.0, 2.0)])
@pytest.mark.parametrize("band", [(0.01, 0.04), (0.04, 0.08), (0.08, 0.12)])
def test_power_of_a_band_below_the_new_nyquist_frequency_is_kept_to_1_percent(tr, new_tr, band):
    n_times = int(1500 / tr)
    x = band_pass(np.random.default_rng(6).standard_normal((n_times, 4)), tr, *band)
    y = resample(x, tr, new_tr)
    before, after = (
        np.square(middle(signal, step)).mean(axis=0) for signal, step in ((x, tr), (y, new_tr))
    )
    np.testing.assert_allclose(after, before, rtol=0.01)


def test_the_same_tr_changes_nothing():
    x = np.random.default_rng(5).standard_normal((23, 3)).astype(np.float32)
    assert (resample(x, 2.0, 2.0) == x).all()


@pytest.mark.parametrize(
    ("n_times", "tr", "new_tr", "length"),
    [(1200, 0.72, 2.0, 432), (176, 2.0, 2.0, 176), (116, 3.0, 2.0, 173), (152, 2.5, 2.0, 189)],
)
def test_length_follows_the_duration(n_times, tr, new_tr, length):
    assert resampled_length(n_times, tr, new_tr) == length


# -- TR ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tr", "message"),
    [
        (None, r"sub-3\.tsv: tr = None: the TR is missing.*RepetitionTime"),
        ("2", r"the TR must be a number of seconds"),
        (float("nan"), r"must be a positive number of seconds"),
        (0, r"tr = 0\.0: the TR must be a positive number"),
        (-2.0, r"must be a positive number"),
        (2000, r"above 20 s is not plausible; is it in milliseconds\? If so, give 2"),
    ],
)
def test_implausible_tr_is_refused(tr, message):
    with pytest.raises(InputError, match=message):
        check_tr(tr, "sub-3.tsv")


def test_plausible_tr_is_given_back():
    assert check_tr(np.float32(0.5)) == 0.5
    assert check_tr(20) == 20.0


# -- all together --------------------------------------------------------------------------------


def test_steps_are_applied_in_the_documented_order():
    x = np.random.default_rng(6).standard_normal((130, 3)) + np.arange(130)[:, None]
    by_hand = zscore(resample(band_pass(detrend(x), 1.4, 0.01, 0.1), 1.4, 2.0))
    applied = Preprocessing().apply(x, 1.4)
    assert applied.dtype == np.float32
    assert np.allclose(applied, by_hand, atol=1e-6)
    assert applied.shape == (resampled_length(130, 1.4, 2.0), 3)


def test_steps_can_be_left_out():
    x = np.random.default_rng(7).standard_normal((31, 2)).astype(np.float32)
    nothing = Preprocessing(tr=1.1, detrend=False, low_hz=None, high_hz=None, zscore=False)
    assert (nothing.apply(x, 1.1) == x).all()
    assert nothing.steps(1.1) == []


def test_the_record_names_what_was_done():
    steps = Preprocessing().steps(3.0)
    assert [step["step"] for step in steps] == ["detrend", "band_pass", "resample", "zscore"]
    assert (steps[1]["low_hz"], steps[1]["high_hz"]) == (0.01, 0.1)
    assert (steps[2]["tr"], steps[2]["new_tr"]) == (3.0, 2.0)
    assert [step["step"] for step in Preprocessing().steps(2.0)] == [
        "detrend",
        "band_pass",
        "zscore",
    ]
    assert Preprocessing().steps(6.0)[1]["high_hz"] is None  # above Nyquist: nothing was done


@pytest.mark.parametrize(
    ("signal", "tr", "message"),
    [
        (np.zeros(30), 2.0, r"f\.npy: shape = \(30,\): a signal has the shape"),
        (np.zeros((1, 3)), 2.0, r"two time points at least"),
        (np.full((30, 3), np.nan), 2.0, r"column 0 holds values that are not finite"),
        (np.zeros((30, 3)), 2000.0, r"milliseconds"),
    ],
)
def test_bad_signals_are_refused(signal, tr, message):
    with pytest.raises(InputError, match=message):
        Preprocessing().apply(signal, tr, source="f.npy")


def test_bad_settings_are_refused_at_once():
    with pytest.raises(InputError, match="milliseconds"):
        Preprocessing(tr=2000.0)
    with pytest.raises(InputError, match=r"low_hz = 0.2: must be below high_hz = 0.1"):
        Preprocessing(low_hz=0.2)

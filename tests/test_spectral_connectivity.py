"""Spectral connectivity against SciPy's matrix functions, and where matrices are singular."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power, logm
from sklearn.utils.estimator_checks import check_estimator

from semantoks.errors import InputError
from semantoks.evaluate.features.spectral_connectivity import (
    SpectralConnectivityBaseline,
    spectral_connectivity,
)


def signal(n_times, n_rois, seed=0):
    rng = np.random.default_rng(seed)
    return (
        3
        + rng.standard_normal((n_times, 4)) @ rng.standard_normal((4, n_rois))
        + (rng.standard_normal((n_times, n_rois)))
    )


@pytest.mark.parametrize("exponent", [0.35, 0.5, 1.0])
def test_the_power_is_scipy_s(exponent):
    x = signal(61, 7)
    expected = fractional_matrix_power(np.corrcoef(x.T), exponent)
    np.testing.assert_allclose(spectral_connectivity(x, "power", exponent), expected, atol=1e-10)


@pytest.mark.parametrize("n_times", [61, 5])  # more and fewer volumes than ROIs
def test_the_logarithm_is_scipy_s(n_times):
    x = signal(n_times, 7)
    expected = logm(np.eye(7) + 2 / 3 * np.corrcoef(x.T))
    np.testing.assert_allclose(spectral_connectivity(x, "log", 2 / 3), expected, atol=1e-10)


def test_a_singular_power_squares_back():
    x = signal(6, 11)
    root = spectral_connectivity(x, "power", 0.5)
    np.testing.assert_allclose(root @ root, np.corrcoef(x.T), atol=1e-10)


@given(st.integers(2, 30), st.integers(2, 12), st.sampled_from(["power", "log"]))
def test_it_does_not_depend_on_units_or_the_order_of_volumes(n_times, n_rois, kind):
    x = signal(n_times, n_rois, seed=n_times)
    found = spectral_connectivity(x, kind, 0.5)
    assert np.isfinite(found).all()
    other = 100 * x[::-1] - 7
    np.testing.assert_allclose(spectral_connectivity(other, kind, 0.5), found, atol=1e-6)


def test_a_constant_roi_has_zeros_and_leaves_the_others_as_they_are():
    x = signal(40, 6)
    flat = np.insert(x, 2, 5.0, axis=1)
    found = spectral_connectivity(flat, "power", 0.4)
    np.testing.assert_allclose(found[2], 0, atol=1e-12)
    rest = np.delete(np.delete(found, 2, axis=0), 2, axis=1)
    np.testing.assert_allclose(rest, spectral_connectivity(x, "power", 0.4), atol=1e-12)


def test_features_keep_the_distances_of_the_matrices():
    signals = [signal(50, 5, seed) for seed in range(3)]
    found = SpectralConnectivityBaseline().fit_transform(signals)
    assert found.shape == (3, 15)
    matrices = [spectral_connectivity(x) for x in signals]
    expected = np.linalg.norm(matrices[0] - matrices[2])
    assert np.linalg.norm(found[0] - found[2]) == pytest.approx(expected, rel=1e-5)


def test_several_strengths_lie_side_by_side():
    signals, bands = [signal(50, 5, seed) for seed in range(3)], ((0.01, 0.1), (0.1, None))
    both = SpectralConnectivityBaseline("log", (0.5, 2.0), bands=bands, tr=2.0).fit(signals)
    found = both.transform(signals)
    parts = [
        SpectralConnectivityBaseline("log", s, bands=bands, tr=2.0).fit_transform(signals)
        for s in (0.5, 2.0)
    ]
    np.testing.assert_array_equal(found, np.hstack(parts))
    assert [block.n_columns for block in both.blocks_] == [30, 30]
    names = both.get_feature_names_out()
    assert len(set(names)) == 60
    assert names[-1].endswith("0.1- Hz 2")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kind": "cube"}, "kind = 'cube': must be power or log"),
        ({"strength": 0.0}, "strength = 0.0: must be in"),
        ({"strength": 1.5}, "strength = 1.5: must be in"),
        ({"kind": "log", "strength": -1.0}, "strength = -1.0: must be in"),
        ({"strength": ()}, r"strength = \(\): must be in"),
        ({"strength": (0.5, 2.0)}, r"strength = \(0.5, 2.0\): must be in"),
        ({"strength": (0.5, 0.5)}, r"strength = \(0.5, 0.5\): must differ"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(InputError, match=message):
        SpectralConnectivityBaseline(**parameters).fit([signal(20, 3)])


@pytest.mark.filterwarnings("ignore:Can't test estimator")  # with its 2-D data, that is
def test_scikit_learn_s_contract():
    check_estimator(SpectralConnectivityBaseline())

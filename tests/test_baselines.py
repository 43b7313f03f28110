"""Baselines against nilearn and SciPy, and what they must not see."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from nilearn.connectome import ConnectivityMeasure
from scipy.linalg import expm, inv, logm, sqrtm
from scipy.signal import periodogram
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.utils.estimator_checks import check_estimator

from semantoks.data.signal import Preprocessing
from semantoks.data.store import write_store
from semantoks.errors import InputError
from semantoks.evaluate.features.baselines import BASELINES, baseline_names, make_baselines
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.covariates import ConfoundsBaseline
from semantoks.evaluate.features.spectral import AmplitudeBaseline, SpectralBaseline
from semantoks.evaluate.features.tangent import AugmentedCovarianceBaseline, TangentBaseline


@pytest.fixture(scope="module")
def signals():
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((7, 7))
    return [
        (rng.standard_normal((n, 7)) @ (mix + 0.3 * rng.standard_normal((7, 7)))) * 5 + 3
        for n in (57, 72, 61, 90, 66)
    ]


def estimators_of_arrays():
    return [
        ConnectivityBaseline("ledoit-wolf"),
        ConnectivityBaseline("partial"),
        TangentBaseline(),
        AugmentedCovarianceBaseline(),
        AmplitudeBaseline("roi"),
        SpectralBaseline(tr=2.0, bands=((0.0, 0.2),)),
    ]


@pytest.mark.filterwarnings("ignore:Can't test estimator")  # with its 2-D data, that is
@pytest.mark.parametrize("estimator", estimators_of_arrays(), ids=repr)
def test_scikit_learn_s_contract_without_data(estimator):
    check_estimator(estimator)


def nilearn(kind, signals):
    measure = ConnectivityMeasure(
        kind=kind,
        cov_estimator=LedoitWolf(store_precision=False, assume_centered=True),
        standardize=False,
        vectorize=True,
        discard_diagonal=kind != "tangent",
    )
    return measure.fit_transform([(x - x.mean(axis=0)) / x.std(axis=0) for x in signals])


@pytest.mark.parametrize(
    ("kind", "name"), [("correlation", "ledoit-wolf"), ("partial correlation", "partial")]
)
def test_shrunk_connectivity_equals_nilearn_s(signals, kind, name):
    expected = np.arctanh(nilearn(kind, signals))
    found = ConnectivityBaseline(name).fit_transform(signals)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_tangent_space_equals_nilearn_s(signals):
    found = TangentBaseline("geometric").fit_transform(signals)
    expected = np.sqrt(2) * nilearn("tangent", signals)  # its vectors are that much shorter
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert found.shape == (5, 28)


def test_the_log_euclidean_reference(signals):
    z = [(x - x.mean(0)) / x.std(0) for x in signals]
    covariances = [LedoitWolf(assume_centered=True).fit(x).covariance_ for x in z]
    reference = expm(np.mean([logm(c) for c in covariances[:3]], axis=0))
    whitening = inv(sqrtm(reference))
    expected = logm(whitening @ covariances[4] @ whitening)
    tangent = TangentBaseline().fit(signals[:3])
    found = tangent.transform(signals[4:])[0]
    rows, columns = np.tril_indices(7)
    scale = np.where(rows == columns, 1, np.sqrt(2))
    np.testing.assert_allclose(found, expected[rows, columns] * scale, atol=1e-4)
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(expected), rel=1e-4)


def test_what_is_prepared_gives_what_signals_give(signals):
    tangent = AugmentedCovarianceBaseline(order=3, lag=2)
    expected = tangent.fit(signals[:3]).transform(signals)
    prepared = tangent.prepare(signals)
    np.testing.assert_array_equal(
        tangent.fit_prepared(prepared[:3]).transform_prepared(prepared), expected
    )
    assert expected.shape == (5, 21 * 22 // 2)


def test_lags_are_in_the_augmented_covariance():
    """Two ROIs that do not correlate, but one follows the other by two time points."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3002))
    led = [np.column_stack([row[2:], row[:-2]]) for row in x]
    prepared = AugmentedCovarianceBaseline(order=2, lag=2).prepare(led)[:, 0]
    assert abs(prepared[:, 0, 1]).max() < 0.1
    # Columns: both now, both two points later; what leads now follows two points later.
    np.testing.assert_allclose(prepared[:, 0, 3], 1, atol=0.05)
    assert abs(prepared[:, 1, 2]).max() < 0.1


def test_rois_without_data_are_no_trouble(signals):
    flat = [x.copy() for x in signals]
    flat[0][:, 2] = 0
    for estimator in estimators_of_arrays():
        assert np.isfinite(estimator.fit_transform(flat)).all(), estimator


# -- amplitude and spectrum ------------------------------------------------------------------------


def test_shares_of_amplitude(signals):
    bands = ((0.0, 0.05), (0.05, 0.26))
    found = SpectralBaseline(bands, tr=2.0).fit_transform(signals)
    frequency, power = periodogram(signals[1], 0.5, axis=0, detrend="constant", scaling="spectrum")
    # A real signal's power counts positive and negative frequencies; those at the ends are one.
    amplitude = np.sqrt(power / np.where((frequency == 0) | (frequency == 0.25), 1, 2)[:, None])
    low = amplitude[frequency < 0.05].sum(0) / amplitude.sum(0)
    np.testing.assert_allclose(found[1], np.r_[low, 1 - low], rtol=1e-5)


def test_amplitudes(signals, recordings, parcellation, store, tmp_path):
    np.testing.assert_allclose(
        AmplitudeBaseline("roi").fit_transform(signals)[2], np.log(signals[2].std(0)), rtol=1e-4
    )
    doubled = SpectralBaseline(tr=2.0, relative=False).fit_transform([signals[0], 2 * signals[0]])
    np.testing.assert_allclose(doubled[1] - doubled[0], np.log(2), atol=1e-4)
    plain = Preprocessing(tr=2.0, zscore=False)
    raw = write_store(tmp_path / "raw", recordings, parcellation, plain)
    found = AmplitudeBaseline().fit_transform(raw)
    assert found.shape == (13, 3)
    members = parcellation.network_indices[1]
    expected = np.log(raw.signal(4)[:, members].mean(axis=1).std())
    assert found[4, 1] == pytest.approx(expected, rel=1e-3)
    for baseline in (AmplitudeBaseline("roi"), SpectralBaseline(relative=False)):
        assert np.isfinite(baseline.fit_transform(raw)).all()
        with pytest.raises(InputError, match="there are no amplitudes left"):
            baseline.fit(store)


# -- confounds -------------------------------------------------------------------------------------


def test_confounds_are_coded_by_the_training_part(store):
    half = store.select([0, 1, 2, 3, 4])
    coded = ConfoundsBaseline(("site", "age", "sex")).fit(half)
    sites = sorted(set(half.table["site"]))
    values = coded.transform(store)
    assert coded.coding_[0] == sites
    np.testing.assert_array_equal(
        values[:, : len(sites)].argmax(1)[:5], half.table["site"].map(sites.index)
    )
    np.testing.assert_allclose(values[:, len(sites)], store.table["age"], rtol=1e-6)
    new = ~store.table["site"].isin(sites)
    assert (values[new, : len(sites)] == 0).all()


def test_an_unknown_number_is_the_training_part_s_mean_and_marked(store):
    prepared = ConfoundsBaseline(("age",)).prepare(store).copy()
    prepared[7] = None
    coded = ConfoundsBaseline().fit_prepared(prepared[:6]).transform_prepared(prepared)
    mean = store.table["age"][:6].mean()
    np.testing.assert_allclose(coded[7], [mean, 1.0])
    assert (np.delete(coded[:, 1], 7) == 0).all()


def test_a_target_is_no_confound_of_its_own(store):
    baseline = ConfoundsBaseline(("age", "sex"))
    without = baseline.for_target("age")
    assert without.fit_transform(store).shape == (13, 2)
    assert baseline.fit_transform(store).shape == (13, 4)
    with pytest.raises(InputError, match="no confound is left"):
        without.for_target("sex").fit(store)
    with pytest.raises(InputError, match=r"agee: the store has no such column"):
        ConfoundsBaseline(("agee",)).fit(store)
    with pytest.raises(InputError, match="are columns of a store"):
        ConfoundsBaseline().fit([np.zeros((9, 3))])


# -- names, and what is none -----------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_of_the_table_describes_recordings(name, store):
    baseline = make_baselines([name])[name]
    if name == "spectrum":  # 47 time points are too few for its lowest band
        baseline.set_params(bands=((0.01, 0.1),))
    values = baseline.fit(store).transform(store)
    assert len(values) == 13
    assert np.isfinite(values).all()
    assert clone(baseline).get_params() == baseline.get_params()


def test_baselines_have_names_that_can_be_typed():
    options = [baseline.option for baseline in BASELINES.values()]
    assert len(set(options)) == len(options)
    assert not any(" " in option for option in options)
    assert baseline_names(options) == tuple(BASELINES) == baseline_names([*BASELINES])
    assert baseline_names(["tangent", "fc", "tangent space"]) == ("tangent space", "connectivity")
    with pytest.raises(InputError, match=r"'tangens': is not a baseline\. Did you mean 'tangent'"):
        baseline_names(["tangens"])
    with pytest.raises(InputError, match=r"'tangents': is not a baseline"):
        make_baselines(["tangents"])


def test_a_new_baseline_is_a_choice_of_the_command_line():
    code = (
        "from semantoks.evaluate.features.baselines import BASELINES, Baseline\n"
        "BASELINES['mean'] = Baseline(option='total', help='h', methods='m', make=dict)\n"
        "from semantoks.commands.main import app; app(['evaluate', '--help'])"
    )
    wide = os.environ | {"COLUMNS": "300"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=wide
    )
    assert "confounds, total" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("estimator", "X", "message"),
    [
        (ConnectivityBaseline("spearman"), None, r"kind = 'spearman'.*pearson or ledoit-wolf"),
        (TangentBaseline("arithmetic"), None, "must be log-euclidean or geometric"),
        (TangentBaseline(), [np.ones((9, 1))], "at least 2 ROIs"),
        (TangentBaseline(), [np.ones((9, 3)), np.ones((9, 4))], r"X\[1\]\.shape"),
        (AugmentedCovarianceBaseline(order=0), None, "at least 1"),
        (AugmentedCovarianceBaseline(order=4, lag=30), None, "is too short for 4 copies"),
        (AmplitudeBaseline(), None, "networks are known of a store only"),
        (AmplitudeBaseline("voxel"), None, "must be network or roi"),
        (SpectralBaseline(), None, "TR is missing"),
        (SpectralBaseline(((0.3, 0.4),), tr=2.0), None, "below the Nyquist frequency 0.25 Hz"),
        (SpectralBaseline(((0.02, 0.021),), tr=2.0), None, "has no frequency from 0.02 to 0.021"),
    ],
)
def test_what_cannot_be_described(signals, estimator, X, message):
    with pytest.raises(InputError, match=message):
        estimator.fit(signals if X is None else X).transform(signals)


def test_the_geometric_mean_says_when_it_fails(signals, monkeypatch):
    monkeypatch.setattr("semantoks.evaluate.features.tangent._MAX_STEPS", 1)
    with pytest.raises(InputError, match="has not converged after 1 steps"):
        TangentBaseline("geometric").fit(signals)

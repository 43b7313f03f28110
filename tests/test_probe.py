from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from nilearn.connectome import ConnectivityMeasure
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from semantoks.data.store import write_store
from semantoks.errors import InputError
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.predictors.probe import LinearProbe, LinearProbeRegressor
from semantoks.evaluate.stats import bootstrap
from semantoks.evaluate.stats import metrics as statistics
from semantoks.model.encoder import Encoder, EncoderConfig


@pytest.fixture(scope="module")
def encoder(parcellation, preprocessing):
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    return Encoder.random(config, parcellation, preprocessing, seed=2).eval()


def transformers_of_signals():
    from semantoks.atlas.parcellation import Parcellation
    from semantoks.data.signal import Preprocessing

    two = Parcellation(name="two", labels=("a", "b", "c"), networks=("u", "v", "v"))
    config = EncoderConfig(width=8, depth=1, head_width=8, patch_length=3, n_patches=2)
    model = Encoder.random(config, two, Preprocessing(low_hz=None, high_hz=None), seed=0)
    return [ConnectivityBaseline(), Embedder(model, tr=2.0)]


def expected_failures(_):
    """Repeated rows come into other inner folds than weighted ones, as in `RidgeCV(cv=5)`."""
    reason = "inner folds are of rows; with a given strength, test_linear compares both exactly"
    return {"check_sample_weight_equivalence_on_dense_data": reason}


@parametrize_with_checks(
    [LinearProbe(), LinearProbeRegressor()], expected_failed_checks=expected_failures
)
def test_scikit_learn_s_contract(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:Can't test estimator")  # with its 2-D data, that is
@pytest.mark.parametrize("estimator", transformers_of_signals(), ids=lambda e: type(e).__name__)
def test_scikit_learn_s_contract_without_data(estimator):
    check_estimator(estimator)


# -- probes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "p"), [(40, 7), (23, 61)])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_probe_is_standardised_logistic_regression(n, p, n_classes):
    rng = np.random.default_rng(n)
    X = rng.standard_normal((n, p)) * rng.uniform(0.1, 9, p) + rng.uniform(-5, 5, p)
    y = np.array(["u", "v", "w"])[rng.integers(0, n_classes, n)]
    options = {"strengths": (0.3,), "class_weight": "balanced", "scaling": "feature"}
    probe = LinearProbe("logistic", **options).fit(X, y)
    plain = LogisticRegression(C=1 / (0.3 * p), class_weight="balanced", tol=1e-8, max_iter=9000)
    reference = make_pipeline(StandardScaler(), plain).fit(X, y)
    other = rng.standard_normal((31, p)) * 3
    np.testing.assert_allclose(
        probe.predict_proba(other), reference.predict_proba(other), atol=2e-4
    )
    assert (probe.predict(other) == reference.predict(other)).mean() > 0.95


@pytest.mark.parametrize(("n", "p"), [(40, 7), (23, 61)])
def test_the_regression_probe_is_standardised_ridge(n, p):
    rng = np.random.default_rng(n)
    X, y = rng.standard_normal((n, p)) * 4 + 3, rng.standard_normal(n) * 9 + 40
    probe = LinearProbeRegressor(strengths=(0.7,), scaling="feature").fit(X, y)
    reference = make_pipeline(StandardScaler(), Ridge(0.7 * p)).fit(X, y)
    np.testing.assert_allclose(probe.predict(X[:9]), reference.predict(X[:9]), rtol=1e-9)


def test_the_strength_is_chosen_in_the_training_part_by_groups():
    """Rows of a group are copies: folds that ignore groups would find no penalty best."""
    rng = np.random.default_rng(5)
    X = np.repeat(rng.standard_normal((30, 80)), 4, axis=0)
    groups = np.repeat(np.arange(30), 4)
    y = np.repeat(rng.integers(0, 2, 30), 4)
    X = X + 0.01 * rng.standard_normal(X.shape)
    leaky, honest = LinearProbe().fit(X, y), LinearProbe().fit(X, y, groups=groups)
    assert leaky.strength_ < 0.1
    assert honest.strength_ > 10
    numbers = y + 0.1 * np.repeat(rng.standard_normal(30), 4)
    assert LinearProbeRegressor().fit(X, numbers).strength_ < 0.01
    assert LinearProbeRegressor().fit(X, numbers, groups=groups).strength_ > 10


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="one class: 'a'"):
        LinearProbe().fit(np.zeros((4, 3)), ["a"] * 4)


# -- statistics ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_metrics_equal_scikit_learn_s(n_classes):
    rng = np.random.default_rng(n_classes)
    y = rng.integers(0, n_classes, 57)
    scores = rng.dirichlet(np.ones(n_classes), 57).round(2)  # with ties
    scores = scores / scores.sum(axis=1, keepdims=True)
    assert statistics.balanced_accuracy(y, scores) == pytest.approx(
        balanced_accuracy_score(y, scores.argmax(axis=1))
    )
    reference = (
        roc_auc_score(y, scores[:, 1])
        if n_classes == 2
        else roc_auc_score(y, scores, multi_class="ovr")
    )
    assert statistics.auroc(y, scores) == pytest.approx(reference)
    truth, predicted = rng.standard_normal((2, 41))
    assert statistics.pearson_r(truth, predicted) == pytest.approx(
        np.corrcoef(truth, predicted)[0, 1]
    )
    assert statistics.r_squared(truth, predicted) == pytest.approx(r2_score(truth, predicted))
    assert statistics.mean_absolute_error(truth, predicted) == pytest.approx(
        mean_absolute_error(truth, predicted)
    )


def test_bootstrap_intervals_cover():
    people = np.arange(60).astype(str)
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        truth = rng.standard_normal(60)
        guess = truth + rng.standard_normal(60)  # r = 1 / sqrt(2) in the population
        drawn = bootstrap.cluster_resamples(people, 200, seed)
        found = bootstrap.estimate(statistics.pearson_r, truth, guess, drawn)
        assert found.ci_low < found.value < found.ci_high
        covered += found.ci_low < 1 / np.sqrt(2) < found.ci_high
    assert 0.89 <= covered / 200 <= 0.98


# -- connectivity ----------------------------------------------------------------------------------


def test_connectivity_equals_nilearn_s():
    rng = np.random.default_rng(1)
    signals = [rng.standard_normal((n, 11)).cumsum(axis=0) for n in (37, 52, 41)]
    measure = ConnectivityMeasure(
        kind="correlation", vectorize=True, discard_diagonal=True, standardize=False
    )
    from sklearn.covariance import EmpiricalCovariance

    measure.set_params(cov_estimator=EmpiricalCovariance())
    expected = np.arctanh(measure.fit_transform(signals))
    np.testing.assert_allclose(
        ConnectivityBaseline().fit_transform(signals), expected, rtol=2e-4, atol=1e-5
    )


def test_connectivity_of_a_store_and_of_rois_without_data(store):
    values = ConnectivityBaseline().fit_transform(store)
    arrays = ConnectivityBaseline().fit_transform([store.signal(i) for i in range(len(store))])
    np.testing.assert_array_equal(values, arrays)
    assert values.shape == (13, 55)
    flat = store.signal(0).copy()
    flat[:, 4] = 0
    same = flat.copy()
    same[:, 7] = same[:, 6]
    one, two = ConnectivityBaseline().fit_transform([flat, same])
    assert (one == 0).sum() == 10, "a ROI without data correlates with nothing"
    assert np.isfinite(two).all(), "equal signals have a finite Fisher z"


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((5, 6)), r"X\.shape = \(5, 6\)"),
        ([np.zeros((9, 3)), np.zeros((9, 4))], r"X\[1\]\.shape = \(9, 4\).*3 ROIs"),
        ([np.zeros((9, 3)), np.full((9, 3), np.nan)], r"X\[1\] = 'ROI 0': holds NaN"),
        ([np.zeros((9, 1))], "at least 2 ROIs"),
        ([], "holds no recordings"),
    ],
)
def test_signals_that_are_none(X, message):
    with pytest.raises(InputError, match=message):
        ConnectivityBaseline().fit(X)


# -- embeddings ------------------------------------------------------------------------------------


def test_embeddings_are_the_mean_over_evenly_spaced_crops(encoder, store):
    import torch

    values = Embedder(encoder, n_crops=3).fit_transform(store)
    assert values.shape == (13, 32)
    signal = store.signal(4)
    last = len(signal) - 24
    crops = [signal[s : s + 24].T for s in (0, round(last / 2), last)]
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(np.stack(crops))).cls_avg
    np.testing.assert_allclose(values[4], expected.mean(dim=0).numpy(), atol=1e-6)
    cls = Embedder(encoder, n_crops=3, parts=("cls",)).fit_transform(store)
    np.testing.assert_array_equal(cls, values[:, 16:])


def test_a_batch_mate_never_changes_a_result(encoder, store):
    together = Embedder(encoder).fit_transform(store)
    for i in (0, 5, 12):
        alone = Embedder(encoder).fit_transform(store.select([i]))
        np.testing.assert_array_equal(alone[0], together[i])
    turned = Embedder(encoder).fit_transform(store.select(list(range(13))[::-1]))
    np.testing.assert_array_equal(turned[::-1], together)


def test_arrays_are_preprocessed_like_the_store(encoder, store, recordings):
    from_store = Embedder(encoder).fit_transform(store)
    arrays = [recording.signal for recording in recordings]
    from_arrays = Embedder(encoder, tr=2.0).fit_transform(arrays)
    np.testing.assert_allclose(from_arrays, from_store, atol=0.01)  # the store is float16
    assert np.abs(from_arrays - from_store[::-1]).max() > 0.1


def test_short_recordings_are_padded_and_masked(encoder, preprocessing):
    import torch

    rng = np.random.default_rng(0)
    x = rng.standard_normal((15, 11))
    embedder = Embedder(encoder, tr=2.0).fit([x])
    value = embedder.transform([x])[0]
    padded = np.zeros((24, 11), np.float32)
    padded[:15] = preprocessing.apply(x, 2.0)
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[:, :, 3] = True  # times 18-23; patch 2 has data up to time 14
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(padded.T[None]), mask).cls_avg[0]
    np.testing.assert_allclose(value, expected.numpy(), atol=1e-6)
    with pytest.raises(InputError, match=r"X\[0\]: length = 5: is shorter than one patch of 6"):
        embedder.transform([x[:5]])


def test_a_store_in_another_order_of_rois_is_reordered_by_name(
    encoder, store, recordings, parcellation, preprocessing, tmp_path
):
    turned = parcellation.select(parcellation.labels[::-1])
    other = write_store(tmp_path / "turned", recordings, turned, preprocessing)
    np.testing.assert_array_equal(
        Embedder(encoder).fit_transform(other), Embedder(encoder).fit_transform(store)
    )


def test_a_store_without_a_network_is_read_with_that_network_masked(
    encoder, store, recordings, parcellation, preprocessing, tmp_path
):
    import torch

    some = parcellation.select(networks=["Default", "Vis"])
    rois = [parcellation.labels.index(label) for label in some.labels]
    less = [
        dataclasses.replace(r, signal=r.signal[:, rois], roi_names=some.labels) for r in recordings
    ]
    smaller = write_store(tmp_path / "less", less, some, preprocessing)
    values = Embedder(encoder, n_crops=1).fit_transform(smaller)
    x = torch.from_numpy(store.signal(6)[:24].T.copy())[None]
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[:, 1] = True
    with torch.inference_mode():
        expected = encoder(x, mask).cls_avg[0].numpy()
    np.testing.assert_allclose(values[6], expected, atol=1e-6)
    part = parcellation.select(parcellation.labels[:8])
    cut = [
        dataclasses.replace(r, signal=r.signal[:, :8], roi_names=part.labels) for r in recordings
    ]
    torn = write_store(tmp_path / "torn", cut, part, preprocessing)
    with pytest.raises(
        InputError, match=r"of the \d ROIs of the network .*; a network must be complete"
    ):
        Embedder(encoder).fit_transform(torn)


def test_what_does_not_fit_the_encoder_is_refused(encoder, recordings, parcellation, tmp_path):
    from semantoks.data.signal import Preprocessing

    embedder = Embedder(encoder).fit([])
    with pytest.raises(InputError, match=r"tr = None: the TR of signals given as arrays"):
        embedder.transform([recordings[0].signal])
    with pytest.raises(InputError, match="is it in milliseconds"):
        Embedder(encoder, tr=2000).fit_transform([recordings[0].signal])
    with pytest.raises(InputError, match=r"X\[0\]\.shape = \(47, 7\).*11 ROIs"):
        Embedder(encoder, tr=2.0).fit_transform([recordings[0].signal[:, :7]])
    wide = write_store(tmp_path / "wide", recordings, parcellation, Preprocessing(high_hz=0.2))
    with pytest.raises(InputError, match="was preprocessed in another way"):
        embedder.transform(wide)
    for wrong, message in (
        ({"n_crops": 0}, "at least 1"),
        ({"parts": ("patches",)}, "must be of mean, cls"),
        ({"parts": "cls"}, "must be different names out of"),
    ):
        with pytest.raises(InputError, match=message):
            Embedder(encoder, **wrong).fit([])


def test_the_headline_use(encoder, recordings):
    signals = [recording.signal for recording in recordings]
    y = [recording.phenotypes["sex"] for recording in recordings]
    pipe = make_pipeline(Embedder(encoder, tr=2.0), LinearProbe()).fit(signals, y)
    assert pipe.predict(signals).shape == (13,)
    assert pipe[:1].get_feature_names_out()[-1] == "e0031"

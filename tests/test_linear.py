"""The linear models of the probes, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_sample_weight

from semantoks.errors import InputError
from semantoks.evaluate.predictors.linear import RidgePath, RowSpace
from semantoks.evaluate.predictors.probe import LinearProbe, LinearProbeRegressor

SIZES = pytest.mark.parametrize(("n", "p"), [(47, 7), (29, 61)])
CLASSES = pytest.mark.parametrize("n_classes", [2, 3])


def data(n, p, n_classes=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * rng.uniform(0.1, 9, p) + rng.uniform(-5, 5, p)
    y = np.arange(n) % (n_classes + 1) % n_classes  # the first class is the largest
    X[:, 0] += 3 * y
    return X, np.array(["u", "v", "w"])[y], rng.standard_normal((31, p)) * 3


@SIZES
@CLASSES
def test_logistic_regression(n, p, n_classes):
    X, y, other = data(n, p, n_classes)
    for weight in ("balanced", None, {"u": 1.0, "v": 3.0, "w": 0.5}):
        probe = LinearProbe(strengths=(0.2,), class_weight=weight).fit(X, y)
        weight = weight if not isinstance(weight, dict) else {c: weight[c] for c in set(y)}
        plain = LogisticRegression(C=1 / (0.2 * p), class_weight=weight, tol=1e-10, max_iter=9000)
        reference = make_pipeline(StandardScaler(), plain).fit(X, y)
        np.testing.assert_allclose(
            probe.predict_proba(other), reference.predict_proba(other), atol=2e-5
        )


@SIZES
@CLASSES
def test_ridge_classifier(n, p, n_classes):
    X, y, other = data(n, p, n_classes)
    probe = LinearProbe("ridge", strengths=(0.4,)).fit(X, y)
    plain = RidgeClassifier(0.4 * p, class_weight="balanced")
    reference = make_pipeline(StandardScaler(), plain).fit(X, y)
    np.testing.assert_allclose(
        probe.decision_function(other), reference.decision_function(other), rtol=1e-8
    )
    assert (probe.predict(other) == reference.predict(other)).all()


@SIZES
@CLASSES
def test_support_vector_machine(n, p, n_classes):
    X, y, other = data(n, p, n_classes)
    weight = "balanced" if n_classes == 2 else None  # of more, liblinear weights one side only
    probe = LinearProbe("svm", strengths=(0.6,), class_weight=weight).fit(X, y)
    plain = LinearSVC(
        C=1 / (0.6 * p), class_weight=weight, intercept_scaling=1e4, tol=1e-10, dual=False
    )
    reference = make_pipeline(StandardScaler(), plain).fit(X, y)
    np.testing.assert_allclose(
        probe.decision_function(other), reference.decision_function(other), atol=2e-4
    )


@pytest.mark.parametrize("model", ["ridge", "svm"])
@CLASSES
def test_probabilities_from_scores_are_calibrated_and_keep_the_order(model, n_classes):
    rng = np.random.default_rng(3)
    y = rng.integers(0, n_classes, 400)
    X = rng.standard_normal((400, 9)) + 0.8 * np.eye(9)[y]
    probe = LinearProbe(model).fit(X[:200], y[:200])
    p = probe.predict_proba(X[200:])
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert (probe.classes_[p.argmax(axis=1)] == probe.predict(X[200:])).all()
    logistic = LinearProbe().fit(X[:200], y[:200]).predict_proba(X[200:])
    assert log_loss(y[200:], p) == pytest.approx(log_loss(y[200:], logistic), rel=0.1)


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match=r"model = 'forest': must be logistic, ridge or svm"):
        LinearProbe("forest").fit(np.zeros((4, 2)), [0, 1, 0, 1])


@SIZES
def test_float32_changes_nothing_that_matters(n, p):
    X, y, other = data(n, p)
    wide, narrow = LinearProbe().fit(X, y), LinearProbe().fit(X.astype(np.float32), y)
    assert wide.strength_ == narrow.strength_
    np.testing.assert_allclose(wide.predict_proba(other), narrow.predict_proba(other), atol=1e-4)


def test_features_that_do_not_vary_or_are_copies():
    X, y, other = data(29, 61)
    more = np.hstack([X, X[:, :5], np.full((29, 3), 7.0)])
    probe = LinearProbe(strengths=(0.3,)).fit(more, y)
    p = probe.predict_proba(np.hstack([other, other[:, :5], np.full((31, 3), 9.0)]))
    assert np.isfinite(p).all()
    nothing = LinearProbe().fit(np.zeros((29, 3)), y)
    np.testing.assert_allclose(nothing.predict_proba(np.ones((4, 3))), 0.5, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_left_out_is_what_a_fit_without_it_predicts(weighted):
    rng = np.random.default_rng(1)
    T, Y = rng.standard_normal((37, 5)), rng.standard_normal((37, 2))
    weight = rng.uniform(0.2, 3, 37) if weighted else np.ones(37)
    groups = [np.arange(37)[i::4] for i in range(3)]  # a quarter of the rows is never left out
    found = RidgePath(T, Y, weight).left_out(0.7, groups)
    assert np.isnan(found[3::4]).all()
    for rows in groups:
        rest = np.setdiff1d(np.arange(37), rows)
        model = Ridge(0.7).fit(T[rest], Y[rest], sample_weight=weight[rest])
        np.testing.assert_allclose(found[rows], model.predict(T[rows]), rtol=1e-8)


def test_fits_without_a_block_are_those_of_the_other_rows():
    rng = np.random.default_rng(6)
    T, Y, weight = rng.standard_normal((43, 7)), rng.standard_normal((43, 2)), rng.uniform(1, 3, 43)
    blocks = [np.arange(5), np.array([], int), np.arange(9, 43, 3)]
    coef, intercept = RidgePath(T, Y, weight).without(0.7, blocks)
    for i, rows in enumerate(blocks):
        kept = np.setdiff1d(np.arange(43), rows)
        one = RidgePath(T[kept], Y[kept], weight[kept]).fit(0.7)
        np.testing.assert_allclose(coef[:, 2 * i : 2 * i + 2], one[0], atol=1e-10)
        np.testing.assert_allclose(intercept[2 * i : 2 * i + 2], one[1], atol=1e-10)


@pytest.mark.parametrize("model", ["logistic", "ridge"])
def test_predictions_without_a_block(model):
    """An empty block changes nothing; another one only a little, towards the fit without it."""
    X, y, other = data(60, 5, 2, seed=3)
    X[:, 0] -= 2.5 * (y == "v")  # not separable
    gone = np.arange(11)
    probe = LinearProbe(model, strengths=(1.0,), class_weight=None)
    whole = probe.fit(X, y, held_out=[], blocks=[np.array([], int), gone])
    p = whole.predict_proba(other)
    without = whole.predict_without(other)
    assert without.shape == (31, 2, 2)
    np.testing.assert_allclose(without[:, 0], p, atol=2e-4)
    kept = LinearProbe(model, strengths=(1.0,), class_weight=None)
    kept.fit(X[11:], y[11:], held_out=[])
    found = np.abs(without[:, 1] - kept.predict_proba(other)).mean()
    assert found < 0.5 * np.abs(p - kept.predict_proba(other)).mean()
    assert LinearProbe("svm").fit(X, y, blocks=[gone]).predict_without(other) is None


def test_the_chosen_strength_is_that_of_a_search_by_hand():
    """The scale of the features is that of the training part; all else is fitted in the folds."""
    rng = np.random.default_rng(8)
    groups = np.repeat(np.arange(23), 3)
    X = rng.standard_normal((69, 110))
    y = X[:, :9].sum(axis=1) + 4 * rng.standard_normal(69)
    labels = (y > 0).astype(int)
    Z = StandardScaler().fit_transform(X)
    strengths = (0.01, 0.1, 1.0, 10.0)
    folds = list(GroupKFold(4).split(X, groups=groups))
    errors, losses = np.zeros((2, 4))
    weight = compute_sample_weight("balanced", labels)
    for i, strength in enumerate(strengths):
        for train, test in folds:
            ridge = Ridge(strength * 110).fit(Z[train], y[train])
            errors[i] += np.square(ridge.predict(Z[test]) - y[test]).sum()
            model = LogisticRegression(C=1 / (strength * 110), tol=1e-8, max_iter=9000)
            model.fit(Z[train], labels[train], sample_weight=weight[train])
            p = model.predict_proba(Z[test])
            losses[i] -= weight[test] @ np.log(p[np.arange(len(test)), labels[test]])
    assert np.argmin(errors) > 0 or np.argmin(losses) > 0, "a test of more than the smallest"
    regressor = LinearProbeRegressor(strengths=strengths).fit(
        X, y, held_out=[test for _, test in folds]
    )
    assert regressor.strength_ == strengths[np.argmin(errors)]
    probe = LinearProbe(strengths=strengths).fit(X, labels, held_out=[test for _, test in folds])
    assert probe.strength_ == strengths[np.argmin(losses)]


@SIZES
def test_coordinates_are_a_rotation_of_the_standardised_features(n, p):
    X, _, _ = data(n, p)
    space = RowSpace(X)
    T = space.coordinates
    np.testing.assert_allclose(T.sum(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(T.T @ T, np.diag(np.diag(T.T @ T)), atol=1e-9)
    Z = StandardScaler().fit_transform(X)
    np.testing.assert_allclose(T @ T.T, Z @ Z.T / p, atol=1e-9)
    coef, intercept = space.restore(np.ones((T.shape[1], 1)), np.array([2.0]))
    np.testing.assert_allclose(X @ coef.T + intercept, T.sum(axis=1)[:, None] + 2.0, atol=1e-9)
    assert coef.shape == (1, p)

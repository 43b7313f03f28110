"""The linear models of the probes, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_sample_weight

from semantoks.errors import InputError
from semantoks.evaluate.features.blocks import FeatureBlock
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
        probe = LinearProbe(
            "logistic", strengths=(0.2,), class_weight=weight, scaling="feature"
        ).fit(X, y)
        weight = weight if not isinstance(weight, dict) else {c: weight[c] for c in set(y)}
        plain = LogisticRegression(C=1 / (0.2 * p), class_weight=weight, tol=1e-10, max_iter=9000)
        reference = make_pipeline(StandardScaler(), plain).fit(X, y)
        np.testing.assert_allclose(
            probe.predict_proba(other), reference.predict_proba(other), atol=2e-5
        )


class Scaler(BaseEstimator, TransformerMixin):
    """Centre; divide by the root of the total variance, or standardise and divide by it."""

    def __init__(self, scaling):
        self.scaling = scaling

    def fit(self, X, y=None):  # noqa: ARG002
        self.mean_ = X.mean(axis=0)
        by_block = np.full(X.shape[1], np.sqrt(X.var(axis=0).sum()))
        self.scale_ = by_block if self.scaling == "block" else X.std(axis=0) * np.sqrt(X.shape[1])
        return self

    def transform(self, X):
        return (X - self.mean_) / self.scale_


SCALINGS = pytest.mark.parametrize("scaling", ["block", "feature"])


def scores(probe, X):
    return (X @ probe.coef_.T + probe.intercept_).squeeze()


@SIZES
@CLASSES
@SCALINGS
@pytest.mark.parametrize("weight", ["balanced", None])
def test_ridge_classifier(n, p, n_classes, scaling, weight):
    X, y, other = data(n, p, n_classes)
    options = {"strengths": (0.4,), "class_weight": weight, "scaling": scaling}
    probe = LinearProbe(**options).fit(X, y)
    plain = RidgeClassifier(0.4, class_weight=weight)
    reference = make_pipeline(Scaler(scaling), plain).fit(X, y)
    np.testing.assert_allclose(
        scores(probe, other), reference.decision_function(other), rtol=1e-8, atol=1e-10
    )


@SIZES
@SCALINGS
def test_ridge_and_kernel_ridge(n, p, scaling):
    X, _, other = data(n, p)
    y = X[:, 0] * 5 + np.arange(n)
    found = LinearProbeRegressor(strengths=(0.03,), scaling=scaling).fit(X, y).predict(other)
    plain = make_pipeline(Scaler(scaling), Ridge(0.03)).fit(X, y)
    np.testing.assert_allclose(found, plain.predict(other), rtol=1e-8)
    scaler = Scaler(scaling).fit(X)
    kernel = KernelRidge(alpha=0.03).fit(scaler.transform(X), y - y.mean())
    np.testing.assert_allclose(found, kernel.predict(scaler.transform(other)) + y.mean(), rtol=1e-8)


@SIZES
@pytest.mark.parametrize("model", ["ridge", "logistic", "svm"])
def test_weights_of_rows_equal_repeated_rows(n, p, model):
    X, y, other = data(n, p)
    weight = np.arange(n) % 4  # some rows count for nothing
    rows = np.repeat(np.arange(n), weight)
    probe = LinearProbe(model, strengths=(0.3,), n_folds=1)
    found = clone(probe).fit(X, y, sample_weight=weight).predict_proba(other)
    np.testing.assert_allclose(
        found, clone(probe).fit(X[rows], y[rows]).predict_proba(other), atol=1e-5
    )
    numbers = X[:, 0] * 5 + np.arange(n)
    ridge = LinearProbeRegressor(strengths=(0.3,), n_folds=1)
    np.testing.assert_allclose(
        clone(ridge).fit(X, numbers, sample_weight=weight).predict(other),
        clone(ridge).fit(X[rows], numbers[rows]).predict(other),
        rtol=1e-8,
    )
    with pytest.raises(ValueError, match="at least one non-zero"):
        clone(ridge).fit(X, numbers, sample_weight=np.zeros(n))


def test_everything_decided_by_left_out_rows_weighs_as_repeated_rows():
    """Strength, calibration and thresholds, on the same held-out rows."""
    X, y, _ = data(83, 140, seed=4)
    weight = 1 + np.arange(83) % 3
    rows = np.repeat(np.arange(83), weight)
    held = np.arange(83) % 5 == 0
    for criterion in ("squared error", "AUROC", "log loss"):
        probe = LinearProbe(criterion=criterion)
        once = clone(probe).fit(X, y, sample_weight=weight, held_out=[np.flatnonzero(held)])
        again = clone(probe).fit(X[rows], y[rows], held_out=[np.flatnonzero(held[rows])])
        np.testing.assert_allclose(once.path_.losses, again.path_.losses, rtol=1e-6)
        assert once.strength_ == again.strength_
        np.testing.assert_allclose(once.thresholds_, again.thresholds_, rtol=1e-4)
        np.testing.assert_allclose(once.calibration_.slope, again.calibration_.slope, rtol=1e-3)


@SIZES
@CLASSES
def test_support_vector_machine(n, p, n_classes):
    X, y, other = data(n, p, n_classes)
    weight = "balanced" if n_classes == 2 else None  # of more, liblinear weights one side only
    options = {"strengths": (0.6,), "class_weight": weight, "scaling": "feature"}
    probe = LinearProbe("svm", **options).fit(X, y)
    plain = LinearSVC(
        C=1 / (0.6 * p), class_weight=weight, intercept_scaling=1e4, tol=1e-10, dual=False
    )
    reference = make_pipeline(StandardScaler(), plain).fit(X, y)
    np.testing.assert_allclose(scores(probe, other), reference.decision_function(other), atol=2e-4)


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
    logistic = LinearProbe("logistic").fit(X[:200], y[:200]).predict_proba(X[200:])
    assert log_loss(y[200:], p) == pytest.approx(log_loss(y[200:], logistic), rel=0.1)


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match=r"model = 'forest': must be ridge, logistic or svm"):
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
    share = (y == "u").mean()
    np.testing.assert_allclose(nothing.predict_proba(np.ones((4, 3)))[:, 0], share)
    assert (nothing.balanced_proba(np.ones((4, 3))) == 0.5).all(), "knowing nothing is no score"


@SIZES
@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_left_out_is_what_a_fit_without_it_predicts(n, p, weighted):
    rng = np.random.default_rng(1)
    X, Y = data(n, p)[0], rng.standard_normal((n, 2))
    weight = rng.uniform(0.2, 3, n) if weighted else np.ones(n)
    groups = [np.arange(n)[i::4] for i in range(3)]  # a quarter of the rows is never left out
    space = RowSpace(X, [FeatureBlock(name="x", n_columns=p)], np.ones(n), weight)
    found, _ = RidgePath.of(space, Y).left_out([0.7, 2.0], groups)
    assert np.isnan(found[3::4]).all()
    T = space.coordinates
    for rows in groups:
        rest = np.setdiff1d(np.arange(n), rows)
        model = Ridge(0.7).fit(T[rest], Y[rest], sample_weight=weight[rest])
        np.testing.assert_allclose(found[rows], model.predict(T[rows]), rtol=1e-7, atol=1e-10)


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
    whole = probe.fit(X, y, held_out=[], without=[np.array([], int), gone])
    p = whole.predict_proba(other)
    without = whole.predict_without(other)
    assert without.shape == (31, 2, 2)
    np.testing.assert_allclose(without[:, 0], p, atol=2e-4)
    kept = LinearProbe(model, strengths=(1.0,), class_weight=None)
    kept.fit(X[11:], y[11:], held_out=[])
    found = np.abs(without[:, 1] - kept.predict_proba(other)).mean()
    assert found < 0.5 * np.abs(p - kept.predict_proba(other)).mean()
    assert LinearProbe("svm").fit(X, y, without=[gone]).predict_without(other) is None


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
    regressor = LinearProbeRegressor(strengths=strengths, scaling="feature").fit(
        X, y, held_out=[test for _, test in folds]
    )
    assert regressor.strength_ == strengths[np.argmin(errors)]
    options = {"strengths": strengths, "class_weight": "balanced", "scaling": "feature"}
    held_out = [test for _, test in folds]
    probe = LinearProbe("logistic", **options).fit(X, labels, held_out=held_out)
    assert probe.strength_ == strengths[np.argmin(losses)]
    np.testing.assert_allclose(probe.path_.losses, losses / weight.sum(), rtol=1e-5)


@SIZES
@SCALINGS
def test_coordinates_are_a_rotation_of_the_scaled_features(n, p, scaling):
    X, _, _ = data(n, p)
    space = RowSpace(X, [FeatureBlock(name="x", n_columns=p, scaling=scaling)], np.ones(n))
    T = space.coordinates
    np.testing.assert_allclose(T.sum(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(T.T @ T, np.diag(space.values), atol=1e-9)
    Z = Scaler(scaling).fit_transform(X)
    np.testing.assert_allclose(T @ T.T, Z @ Z.T, atol=1e-9)
    coef, intercept = space.restore(np.ones((T.shape[1], 1)), np.array([2.0]))
    np.testing.assert_allclose(X @ coef.T + intercept, T.sum(axis=1)[:, None] + 2.0, atol=1e-9)
    assert coef.shape == (1, p)


@pytest.mark.parametrize(("n", "widths"), [(53, (4, 9, 2)), (29, (31, 7, 2))])
def test_blocks_weigh_the_same_in_any_unit(n, widths):
    rng = np.random.default_rng(6)
    parts = [rng.standard_normal((n, w)) * rng.uniform(0.5, 2, w) for w in widths]
    y = parts[0][:, 0] + rng.standard_normal(n)
    scalings = ("block", "feature", "block")
    blocks = [
        FeatureBlock(name=f"b{i}", n_columns=w, scaling=s)
        for i, (w, s) in enumerate(zip(widths, scalings, strict=True))
    ]
    probe = LinearProbeRegressor(blocks=blocks)
    found = clone(probe).fit(np.hstack(parts), y)
    scaled = [Scaler(s).fit_transform(x) for x, s in zip(parts, scalings, strict=True)]
    Z = np.hstack(scaled) / np.sqrt(3)
    assert np.square(Z).sum() == pytest.approx(n)
    plain = Ridge(found.strength_).fit(Z, y)
    np.testing.assert_allclose(found.predict(np.hstack(parts)), plain.predict(Z), rtol=1e-8)
    other_units = [parts[0] * 1e6, parts[1] * rng.uniform(1, 100, widths[1]) - 40, parts[2] / 7]
    again = clone(probe).fit(np.hstack(other_units), y)
    assert again.strength_ == found.strength_
    np.testing.assert_allclose(
        again.predict(np.hstack(other_units)), found.predict(np.hstack(parts)), rtol=1e-6
    )
    # A block that does not vary counts as absent.
    constant = [*blocks, FeatureBlock(name="constant", n_columns=5)]
    more = np.hstack([*parts, np.full((n, 5), 1e4)])
    still = LinearProbeRegressor(blocks=constant).fit(more, y)
    np.testing.assert_allclose(still.predict(more), found.predict(np.hstack(parts)), rtol=1e-8)
    assert (still.coef_[-5:] == 0).all()


def test_blocks_that_do_not_fit_are_refused():
    X, y, _ = data(29, 61)
    two = [FeatureBlock(name="a", n_columns=60), FeatureBlock(name="b", n_columns=2)]
    with pytest.raises(InputError, match="blocks = 62: must have the 61 columns of the features"):
        LinearProbe(blocks=two).fit(X, y)
    same = [FeatureBlock(name="a", n_columns=60), FeatureBlock(name="a", n_columns=1)]
    with pytest.raises(InputError, match="must have names that differ"):
        LinearProbe(blocks=same).fit(X, y)
    with pytest.raises(InputError, match="must have at least 1 column"):
        FeatureBlock(name="a", n_columns=0)
    with pytest.raises(InputError, match="scaling = 'row': must be block or feature"):
        LinearProbe(scaling="row").fit(X, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "accuracy"}, "criterion = 'accuracy': must be one of squared error, AUROC"),
        ({"model": "svm", "criterion": "squared error"}, "must be one of AUROC, log loss for"),
        ({"strengths": ()}, "strengths"),
        ({"strengths": (1.0, -1.0)}, "must be positive numbers"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(options, message):
    X, y, _ = data(29, 61)
    with pytest.raises(InputError, match=message):
        LinearProbe(**options).fit(X, y)

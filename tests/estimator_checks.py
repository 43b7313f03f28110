"""A check suite for estimators of recordings: what scikit-learn's checks do not reach.

scikit-learn gives 2-D data to what it checks; an estimator of recordings (recordings x times x
ROIs) gets almost no check from it. Each check here takes an unfitted estimator and an `Example`.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags

from semantoks import load_estimator, save_estimator
from semantoks.errors import InputError


@dataclass(frozen=True, eq=False)
class Example:
    """Recordings of one length as an array (n, n_times, n_rois), and classes or values."""

    X: NDArray[np.float64]
    y: NDArray[Any]


def output(model: BaseEstimator, X: Any) -> NDArray[Any]:
    if hasattr(model, "transform"):
        return np.asarray(model.transform(X))
    return np.asarray(model.predict_proba(X) if is_classifier(model) else model.predict(X))


def fitted(estimator: BaseEstimator, example: Example) -> BaseEstimator:
    return clone(estimator).fit(example.X, example.y)


def check_parameters_are_only_stored(estimator, example, tmp_path):  # noqa: ARG001
    before = set(vars(estimator))
    assert before == set(estimator.get_params(deep=False)), "__init__ only stores its parameters"
    again = clone(estimator)
    assert repr(again.get_params(deep=False).keys()) == repr(
        estimator.get_params(deep=False).keys()
    )
    values = copy.copy(vars(estimator))
    model = estimator.fit(example.X, example.y)
    assert model is estimator, "fit returns self"
    for name, value in values.items():
        assert getattr(estimator, name) is value, f"fit changed the parameter {name}"
    learned = {name for name in vars(estimator) if not name.startswith("_")} - before
    assert all(name.endswith("_") for name in learned), learned


def check_unfitted(estimator, example, tmp_path):  # noqa: ARG001
    for name in ("transform", "predict", "predict_proba", "get_feature_names_out"):
        if hasattr(estimator, name):
            with pytest.raises(NotFittedError):
                getattr(estimator, name)(*([] if "names" in name else [example.X]))


def check_tags(estimator, example, tmp_path):  # noqa: ARG001
    tags = get_tags(estimator).input_tags
    assert (tags.two_d_array, tags.three_d_array) == (False, True)
    assert fitted(estimator, example).n_features_in_ == example.X.shape[2]


def check_containers(estimator, example, tmp_path):
    """A list, a tuple, objects, another memory layout, a read-only map: the same result."""
    model = fitted(estimator, example)
    expected = output(model, example.X)
    objects = np.empty(len(example.X), dtype=object)
    objects[:] = [*example.X]
    file = tmp_path / "x.npy"
    np.save(file, example.X)
    mapped = np.load(file, mmap_mode="r")
    frames = [pd.DataFrame(x) for x in example.X]
    of_objects = [x.astype(object) for x in example.X]
    for other in ([*example.X], (*example.X,), objects, np.asfortranarray(example.X), mapped,
                  frames, of_objects, pd.Series([*example.X])):  # fmt: skip
        np.testing.assert_array_equal(output(model, other), expected)
    again = clone(estimator).fit(objects, example.y)
    np.testing.assert_array_equal(output(again, objects), expected)


def check_float32(estimator, example, tmp_path):  # noqa: ARG001
    narrow = Example(example.X.astype(np.float32), example.y)
    one = output(fitted(estimator, example), example.X)
    two = output(fitted(estimator, narrow), narrow.X)
    if hasattr(estimator, "transform"):
        assert one.dtype == two.dtype == np.float32
    np.testing.assert_allclose(one, two, rtol=1e-2, atol=1e-3)


def check_input_is_left_as_it_was(estimator, example, tmp_path):  # noqa: ARG001
    X, y = example.X.copy(), example.y.copy()
    output(fitted(estimator, Example(X, y)), X)
    np.testing.assert_array_equal(X, example.X)
    np.testing.assert_array_equal(y, example.y)


def check_lengths_may_differ(estimator, example, tmp_path):  # noqa: ARG001
    signals = [x[: len(x) - 2 * (i % 3)] for i, x in enumerate(example.X)]
    model = clone(estimator).fit(signals, example.y)
    alone = np.concatenate([output(model, [signal]) for signal in signals])
    np.testing.assert_allclose(output(model, signals), alone, rtol=1e-5, atol=1e-6)


def check_recordings_do_not_touch_each_other(estimator, example, tmp_path):  # noqa: ARG001
    model = fitted(estimator, example)
    order = np.random.default_rng(0).permutation(len(example.X))[:-2]
    found, expected = output(model, example.X[order]), output(model, example.X)[order]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def check_bad_input_is_refused(estimator, example, tmp_path):  # noqa: ARG001
    X, y = example.X, example.y
    model = fitted(estimator, example)
    bad = [
        (X[0], "shape"),
        (X[..., None], "shape"),
        (3.5, "must be a store"),
        ([], "no recordings"),
        (X * 1j, "real numbers"),
        ([["a", "b"]] * len(X), "real numbers"),
        (np.array([object()] * len(X)), "must hold numbers"),
    ]
    for value in (np.nan, np.inf):
        spoilt = X.copy()
        spoilt[1, 2, 3] = value
        bad.append((spoilt, "X\\[1\\] = 'ROI 3': holds NaN or infinite"))
    for wrong, message in bad:
        with pytest.raises(InputError, match=message):
            output(model, wrong)
        with pytest.raises(InputError, match=message):
            output(clone(estimator).fit(wrong, y), wrong)
    with pytest.raises(InputError, match="must have the shape"):
        output(model, X[:, :, :-1])


def check_fit_is_idempotent(estimator, example, tmp_path):  # noqa: ARG001
    model = fitted(estimator, example)
    before = output(model, example.X)
    state = set(vars(model))
    output(model, example.X)
    assert set(vars(model)) == state, "prediction leaves the estimator as it was"
    np.testing.assert_array_equal(output(model.fit(example.X, example.y), example.X), before)
    if hasattr(model, "fit_transform"):
        other = clone(estimator).fit_transform(example.X, example.y)
        np.testing.assert_array_equal(other, before)


def check_it_is_saved(estimator, example, tmp_path):
    """By pickle, and in a folder; unfitted, too."""
    model = fitted(estimator, example)
    expected = output(model, example.X)
    for again in (
        pickle.loads(pickle.dumps(model)),
        load_estimator(save_estimator(tmp_path / "fitted", model)),
        load_estimator(save_estimator(tmp_path / "blank", clone(estimator))).fit(
            example.X, example.y
        ),
    ):
        assert type(again) is type(estimator)
        np.testing.assert_array_equal(output(again, example.X), expected)


def check_names_of_features(estimator, example, tmp_path):  # noqa: ARG001
    if not hasattr(estimator, "transform"):
        return
    model = fitted(estimator, example)
    rois = [f"region {i}" for i in range(example.X.shape[2])]
    for names in (model.get_feature_names_out(), model.get_feature_names_out(rois)):
        assert names.dtype == object
        assert names.shape == output(model, example.X).shape[1:]
        assert len({*names}) == len(names)
    frame = clone(estimator).set_output(transform="pandas").fit_transform(example.X, example.y)
    assert [*frame.columns] == [*model.get_feature_names_out()]


def check_the_global_generators_are_left_alone(estimator, example, tmp_path):  # noqa: ARG001
    import torch

    states = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    output(fitted(estimator, example), example.X)
    np.testing.assert_array_equal(np.random.get_state()[1], states[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])


CHECKS: Sequence[Callable[..., None]] = [
    value for name, value in sorted(vars().items()) if name.startswith("check_")
]

"""What the linear probes share: checked input, blocks, weights, models without some rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from semantoks.arrays import Array, Rows
from semantoks.errors import InputError
from semantoks.evaluate.features.blocks import FeatureBlock, Scaling, check_blocks
from semantoks.evaluate.predictors.linear import Fit, RidgePath, RowSpace

FLOATS = [np.float64, np.float32]


class ProbeBase(BaseEstimator):  # type: ignore[misc]
    """What both probes share: checked input, blocks, weights, rows to leave out."""

    coef_: Array
    strength_: float
    blocks: Sequence[FeatureBlock] | None
    scaling: Scaling
    n_features_in_: int

    def read(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, *, numeric: bool
    ) -> tuple[NDArray[np.floating], NDArray[Any], Array]:
        """Return features, targets and weights, checked."""
        X, y = validate_data(self, X, y, dtype=FLOATS, y_numeric=numeric)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return np.asarray(X), np.asarray(y), np.asarray(weight, np.float64)

    def feature_blocks(self) -> tuple[FeatureBlock, ...]:
        """Return the blocks given, or the one of all features."""
        n = self.n_features_in_
        if self.blocks is not None:
            return check_blocks(self.blocks, n)
        return (FeatureBlock(name="features", n_columns=n, scaling=self.scaling),)

    def rows_of(
        self,
        weight: Array,
        groups: ArrayLike | None,
        held_out: Sequence[Rows] | None,
        without: Sequence[Rows] | None,
    ) -> FittedRows:
        """Return the rows of positive weight, and what is known of them."""
        kept = np.flatnonzero(weight > 0)

        def among(parts: Sequence[Rows] | None) -> list[Rows] | None:
            if parts is None:
                return None
            return [np.flatnonzero(np.isin(kept, rows)) for rows in parts]

        held = among(held_out)
        return FittedRows(
            kept,
            None if groups is None else np.asarray(groups)[kept],
            None if held is None else [rows for rows in held if len(rows)],
            among(without),
        )

    def restore(
        self, space: RowSpace, fit: Fit, path: RidgePath | None, groups: Sequence[Rows] | None
    ) -> Fit:
        """Return the fit in the features as they came; keep those without each group of rows.

        They are kept if that was asked for and can be told.
        """
        coef, intercept = fit
        n = coef.shape[1]
        if path is not None and groups:
            others, of_others = path.without(self.strength_, groups)
            coef, intercept = np.hstack([coef, others]), np.append(intercept, of_others)
        coef, intercept = space.restore(coef, intercept)
        self._without = (coef[n:], intercept[n:]) if len(coef) > n else None
        return coef[:n], intercept[:n]

    def scores_without(self, X: ArrayLike) -> Array | None:
        """Return scores of the models without each group, (n, n_groups, n_outputs)."""
        check_is_fitted(self)
        if self._without is None:
            return None
        X = np.asarray(validate_data(self, X, dtype=FLOATS, reset=False))
        coef, intercept = self._without
        n_outputs = np.atleast_2d(self.coef_).shape[0]
        return np.asarray((X @ coef.T + intercept).reshape(len(X), -1, n_outputs), np.float64)


def class_labels(y: ArrayLike) -> NDArray[Any]:
    """Return labels of classes, after checking that they are no measurements, such as ages.

    Parameters
    ----------
    y : array of shape (n,)
        Text, truth values or whole numbers; of numbers at most one value per 2 rows, or 2.

    Raises
    ------
    InputError
        If a label is missing, or the numbers are no classes.
    """
    labels = np.asarray(column_or_1d(y))
    if pd.isna(labels).any():
        n = int(pd.isna(labels).sum())
        raise InputError("must name the class of every recording", field="y", value=f"{n} missing")
    if labels.dtype.kind in "iuf":
        n = len(np.unique(labels))
        if n > max(2, len(labels) // 2) or (labels != np.floor(labels)).any():
            raise InputError(
                f"must be classes: {n} different numbers in {len(labels)} rows are a measurement",
                field="y",
                fix="Fit a regressor (FineTunerRegressor); numbers that do name classes, as text",
            )
    return labels


class RowSpaces:
    """Row spaces of the same features: models of several targets on the same rows share one."""

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, ...], RowSpace] = {}

    def of(
        self,
        X: NDArray[np.floating],
        rows: Rows,
        blocks: Sequence[FeatureBlock],
        weight: Array,
        loss_weight: Array | None = None,
    ) -> RowSpace:
        """Return the row space of some rows of features; see `RowSpace`."""
        given = (rows, weight, weight if loss_weight is None else loss_weight)
        key = tuple(array.tobytes() for array in given)
        if key not in self._kept:
            chosen = X if len(rows) == len(X) else X[rows]
            self._kept[key] = RowSpace(chosen, blocks, weight, loss_weight)
        return self._kept[key]


@dataclass(frozen=True, eq=False)
class FittedRows:
    """Rows that are fitted to, their groups, and positions among them."""

    kept: Rows
    groups: NDArray[Any] | None
    held_out: list[Rows] | None
    without: list[Rows] | None


def person_weights(subjects: ArrayLike) -> Array:
    """Return weights of recordings with which people weigh the same: one over their number.

    Parameters
    ----------
    subjects : array of shape (n,)
    """
    _, who, counts = np.unique(np.asarray(subjects), return_inverse=True, return_counts=True)
    return np.asarray(1.0 / counts[who], np.float64)


def positive(strengths: Sequence[float]) -> tuple[float, ...]:
    """Return strengths as numbers, after checking them.

    Raises
    ------
    InputError
        If there is none, or one is not positive.
    """
    values = tuple(float(s) for s in strengths)
    if not values or not all(np.isfinite(s) and s > 0 for s in values):
        raise InputError("must be positive numbers", field="strengths", value=strengths)
    return values

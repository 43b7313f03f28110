"""What else could explain a score: how well confounds are in the features, and taking them out.

`confound_table` asks whether the probe that predicts a target predicts the site, the scanner, the
motion or the TR just as well. `ConfoundRegressor` (and `ComBat`) learn from the training part only;
who comes from where is handed to `fit` and to `transform`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from semantoks.arrays import Array
from semantoks.data.splits import Fold, grouped_folds
from semantoks.errors import InputError, nearest
from semantoks.evaluate.predictors.base import FLOATS, person_weights
from semantoks.evaluate.predictors.probe import LinearProbe, LinearProbeRegressor
from semantoks.evaluate.stats.bootstrap import cluster_resamples, estimate
from semantoks.evaluate.stats.metrics import METRICS

# -- confounds as numbers --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Coding:
    """Columns of a table as standardised numbers, categories one-hot.

    Parameters
    ----------
    categories : dict
        Per column the categories, or None for numbers.
    mean, scale : ndarray of shape (n_coded,)
    """

    categories: dict[str, tuple[str, ...] | None]
    mean: Array
    scale: Array

    @classmethod
    def learn(cls, table: pd.DataFrame, field: str, unseen: str = "refuse") -> Coding:
        """Note the columns, their categories, means and scales; `field` is for messages."""
        if unseen == "refuse":
            _complete(table, field)
        categories = {
            str(name): None
            if _is_numeric(column)
            else tuple(sorted(set(column.dropna().astype(str))))
            for name, column in table.items()
        }
        raw = _raw(table, categories, field, unseen)
        known = ~np.isnan(raw)
        counts = known.sum(axis=0).clip(1)
        mean = np.where(known, raw, 0.0).sum(axis=0) / counts
        std = np.sqrt(np.square(np.where(known, raw - mean, 0.0)).sum(axis=0) / counts)
        return cls(categories, mean, np.where(std > 0, std, 1.0))

    def apply(self, table: pd.DataFrame, field: str, unseen: str = "refuse") -> Array:
        """Return the numbers, shape (n, n_coded); what is kept as unseen is 0, the average."""
        missing = [name for name in self.categories if name not in table.columns]
        if missing:
            raise InputError("lack a column that was fitted on", field=field, value=missing[0])
        if unseen == "refuse":
            _complete(table[[*self.categories]], field)
        raw = _raw(table, self.categories, field, unseen)
        return np.nan_to_num((raw - self.mean) / self.scale, nan=0.0)


def _raw(
    table: pd.DataFrame, categories: Mapping[str, tuple[str, ...] | None], field: str, unseen: str
) -> Array:
    """Return numbers, uncentred; unknown values and unseen categories are NaN, the average."""
    parts = [np.empty((len(table), 0))]
    for name, known in categories.items():
        if known is None:
            if not _is_numeric(table[name]):
                raise InputError("was a column of numbers in fit", field=f"{field}[{name!r}]")
            parts.append(table[[name]].to_numpy(np.float64))
            continue
        absent = table[name].isna().to_numpy(bool)
        values = table[name].astype(str).to_numpy(str)
        new = sorted(set(values[~absent].tolist()) - set(known))
        if new and unseen == "refuse":
            raise InputError(
                "holds categories that the training part does not",
                field=f"{field}[{name!r}]",
                value=new,
                fix="Leave these recordings or this column out",
            )
        dummies = (values[:, None] == np.asarray(known)).astype(np.float64)
        dummies[absent | np.isin(values, new)] = np.nan
        parts.append(dummies)
    return np.hstack(parts)


def _is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and column.dtype != bool


def _complete(table: pd.DataFrame, field: str) -> None:
    for name, column in table.items():
        absent = column.isna().to_numpy(bool)
        if absent.any():
            raise InputError(
                f"{absent.sum()} of {len(table)} recordings have no value",
                field=f"{field}[{name!r}]",
                fix="Leave these recordings or this column out",
            )


def as_frame(values: pd.DataFrame | ArrayLike, n_rows: int, field: str) -> pd.DataFrame:
    """Return the values as a table with one row per row of X; `field` is for messages."""
    if not isinstance(values, pd.DataFrame):
        array = np.asarray(values)
        values = pd.DataFrame(array.reshape(len(array), -1)).infer_objects()
        values.columns = pd.Index([str(i) for i in range(values.shape[1])])
    if len(values) != n_rows:
        raise InputError(
            f"need one row for each of the {n_rows} rows of X", field=field, value=len(values)
        )
    return values


# -- regression ------------------------------------------------------------------------------------


class ConfoundRegressor(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Subtract from every feature what a linear model of the confounds predicts.

    The features keep their means. Source: Snoek, Miletić and Scholte 2019, NeuroImage 184:741,
    cross-validated confound regression.

    Parameters
    ----------
    unseen : {"refuse", "keep"}
        What happens to rows without a value, or with a category that the training part does not
        hold, as every left-out site is. "keep": nothing is subtracted for that column.

    Attributes
    ----------
    coef_ : ndarray of shape (n_confound_columns, n_features)
    """

    def __init__(self, *, unseen: Literal["refuse", "keep"] = "refuse") -> None:
        self.unseen = unseen

    def fit(
        self,
        X: ArrayLike,
        y: object = None,  # noqa: ARG002 - scikit-learn's contract
        *,
        confounds: pd.DataFrame | ArrayLike,
    ) -> Self:
        """Fit one linear model per feature.

        Parameters
        ----------
        X : array of shape (n, n_features)
        confounds : DataFrame or array of shape (n, n_columns)
            Numbers as they are, text and truth values as categories.

        Raises
        ------
        InputError
            Values are missing and `unseen` is "refuse", or there are as many confounds as rows.
        """
        if self.unseen not in ("refuse", "keep"):
            raise InputError("must be refuse or keep", field="unseen", value=self.unseen)
        X = np.asarray(validate_data(self, X, dtype=np.float64, ensure_min_samples=2))
        table = as_frame(confounds, len(X), "confounds")
        self.coding_ = Coding.learn(table, "confounds", self.unseen)
        known = self.coding_.apply(table, "confounds", self.unseen)
        rank = np.linalg.matrix_rank(known) if known.size else 0
        if rank >= len(X) - 1:
            raise InputError(
                f"explain {len(X)} rows completely, whatever the features are",
                field="confounds",
                value=f"{rank} columns",
                fix="Leave some out",
            )
        self.coef_ = np.linalg.lstsq(known, X - X.mean(axis=0), rcond=None)[0]
        return self

    def transform(
        self, X: ArrayLike, *, confounds: pd.DataFrame | ArrayLike
    ) -> NDArray[np.floating]:
        """Subtract what the confounds predict.

        Parameters
        ----------
        X : array of shape (n, n_features)
        confounds : DataFrame or array of shape (n, n_columns)
            The columns that were fitted on.

        Returns
        -------
        ndarray of shape (n, n_features)
            float32 for float32, else float64; computed in float64.

        Raises
        ------
        InputError
            A column is missing; or `unseen` is "refuse", and a value is missing or a category new.
        """
        check_is_fitted(self)
        given = np.asarray(validate_data(self, X, dtype=FLOATS, reset=False))
        X = given.astype(np.float64)
        table = as_frame(confounds, len(X), "confounds")
        predicted: Array = self.coding_.apply(table, "confounds", self.unseen) @ self.coef_
        return np.asarray(X - predicted, given.dtype)

    def fit_transform(
        self, X: ArrayLike, y: object = None, *, confounds: pd.DataFrame | ArrayLike
    ) -> NDArray[np.floating]:
        """Fit on the rows and return them without what their confounds predict."""
        return self.fit(X, y, confounds=confounds).transform(X, confounds=confounds)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


# -- how well confounds can be read off features ---------------------------------------------------

#: Columns that `confound_table` looks at where a table has them.
ACQUISITION = ("site", "scanner", "source_tr", "mean_fd")
_METRIC = {"classification": "balanced accuracy", "regression": "r"}
_FEW = 10  # different numbers: a TR is a class, mean framewise displacement is not


def confound_table(
    features: Mapping[str, ArrayLike],
    table: pd.DataFrame,
    columns: Sequence[str] | None = None,
    *,
    n_folds: int = 5,
    seed: int = 0,
    n_bootstrap: int = 1000,
) -> pd.DataFrame:
    """Predict confounds from features, with the probe and the folds that targets get.

    Parameters
    ----------
    features : mapping of str to array of shape (n_recordings, n_features)
        By model.
    table : DataFrame
        One row per recording, with the column ``subject``.
    columns : sequence of str, optional
        Confounds. Text, truth values and at most 10 different numbers (TRs) are classes; other
        numbers are regressed on. Those of `ACQUISITION` that are there and vary by default.
    n_folds : int
        Folds over subjects. Classes of fewer subjects are left out.
    seed, n_bootstrap : int
        Intervals are over subjects.

    Returns
    -------
    DataFrame
        One row per model and confound: model, confound, kind, metric (balanced accuracy or Pearson
        r), value, ci_low, ci_high, chance, n_classes, n_recordings, n_left_out (no value, or too
        small a class).

    Raises
    ------
    InputError
        A column is unknown or does not vary, or features do not have a row per recording.
    """
    for name, X in features.items():
        if np.ndim(X) != 2 or len(np.asarray(X)) != len(table):
            rule = f"features need one row for each of the {len(table)} recordings"
            raise InputError(rule, field=f"features[{name!r}]", value=np.shape(X))
    rows = []
    for column in _confounds(table, columns):
        kept, y, kind = _confound(table, column, n_folds)
        part = table.iloc[kept]
        facts = {
            "confound": column,
            "kind": kind,
            "metric": _METRIC[kind],
            "chance": 1 / len(set(y)) if kind == "classification" else 0.0,
            "n_classes": len(set(y)) if kind == "classification" else None,
            "n_recordings": len(kept),
            "n_left_out": len(table) - len(kept),
        }
        folds = grouped_folds(
            part, n_folds, labels=y if kind == "classification" else None, seed=seed
        )
        samples = cluster_resamples(part["subject"].to_numpy(str), n_bootstrap, seed)
        for name, X in features.items():
            predicted = _cross_predict(np.asarray(X)[kept], y, kind, part, folds, seed)
            codes = np.unique(y, return_inverse=True)[1] if kind == "classification" else y
            found = estimate(METRICS[kind][str(facts["metric"])], codes, predicted, samples)
            rows.append({"model": name, **facts, **vars(found)})
    order = ["model", "confound", "kind", "metric", "value", "ci_low", "ci_high", "chance"]
    frame = pd.DataFrame(rows, columns=[*order, "n_classes", "n_recordings", "n_left_out"])
    return frame.astype({"n_classes": "Int64"})


def _confounds(table: pd.DataFrame, columns: Sequence[str] | None) -> list[str]:
    if columns is None:
        return [c for c in ACQUISITION if c in table.columns and table[c].nunique() > 1]
    for column in columns:
        if column not in table.columns:
            fix = nearest(column, [str(c) for c in table.columns])
            raise InputError("is no column of the table", field="columns", value=column, fix=fix)
        if table[column].nunique() < 2:
            raise InputError("does not vary: nothing can follow it", field="columns", value=column)
    return [*columns]


def _confound(
    table: pd.DataFrame, column: str, n_folds: int
) -> tuple[NDArray[np.intp], NDArray[Any], Literal["classification", "regression"]]:
    """Return the rows that count, their values, and the kind of the confound."""
    known = table[column].notna().to_numpy(bool)
    if _is_numeric(table[column]) and table[column].nunique() > _FEW:
        rows = np.flatnonzero(known)
        return rows, table[column].iloc[rows].to_numpy(np.float64), "regression"
    text = table[column].astype(str)
    subjects = table[known].groupby(text[known])["subject"].nunique()
    rows = np.flatnonzero(known & text.isin(subjects.index[subjects >= n_folds]).to_numpy(bool))
    y = text.iloc[rows].to_numpy(str)
    if len(set(y)) < 2:
        raise InputError(
            f"has fewer than 2 classes of at least {n_folds} subjects",
            field="columns",
            value=column,
            fix="Use fewer folds, or leave the column out",
        )
    return rows, y, "classification"


def _cross_predict(
    X: NDArray[np.floating],
    y: NDArray[Any],
    kind: str,
    table: pd.DataFrame,
    folds: Sequence[Fold],
    seed: int,
) -> Array:
    subjects = table["subject"].to_numpy(str)
    classes = np.unique(y)
    out = np.zeros((len(y), len(classes) if kind == "classification" else 1))
    for fold in folds:
        who = subjects[fold.train]
        inside: dict[str, Any] = {"groups": who, "sample_weight": person_weights(who)}
        if kind == "classification":
            probe = LinearProbe(seed=seed).fit(X[fold.train], y[fold.train], **inside)
            columns = np.searchsorted(classes, probe.classes_)
            out[np.ix_(fold.test, columns)] = probe.balanced_proba(X[fold.test])
        else:
            ridge = LinearProbeRegressor(seed=seed).fit(X[fold.train], y[fold.train], **inside)
            out[fold.test, 0] = ridge.predict(X[fold.test])
    return out if kind == "classification" else out[:, 0]

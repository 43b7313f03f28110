"""Models whose features are cleaned of confounds in the fold: to see what a score owes to them.

`Harmonised` and `Residualised` wrap a model that fits nothing. What they learn they learn from the
recordings they are fitted on, so that `evaluate_probes` compares a model with its cleaned self on
the same folds, with intervals and tests::

    evaluate_probes(store, {"fc": fc, "fc, ComBat": Harmonised(fc, unseen="adapt")}, ["diagnosis"])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from semantoks.data.splits import check_column
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.checks.combat import ComBat
from semantoks.evaluate.checks.confounds import ConfoundRegressor
from semantoks.evaluate.features.blocks import Scaling
from semantoks.evaluate.features.transformer import StoreTransformer

FeatureMatrix = NDArray[np.float32]


class _Adjusted(StoreTransformer):
    """Features of a model next to columns of the store, cleaned by what was learned in `fit`."""

    model: Any

    @property
    def scaling(self) -> Scaling:
        """Cleaned features are scaled as the model's."""
        scaling: Scaling = getattr(self.model, "scaling", "block")
        return scaling

    def _columns(self) -> tuple[str, ...]:
        raise NotImplementedError

    def _learn(self, X: FeatureMatrix, table: pd.DataFrame) -> None:
        raise NotImplementedError

    def _clean(self, X: FeatureMatrix, table: pd.DataFrame) -> NDArray[np.floating]:
        raise NotImplementedError

    def prepare(self, X: RecordingStore) -> NDArray[np.void]:
        """Return features and columns of every recording, before anything is learned.

        Parameters
        ----------
        X : RecordingStore

        Returns
        -------
        structured ndarray of shape (n_recordings,)
            Fields ``features`` (float32) and ``columns`` (object).

        Raises
        ------
        InputError
            The model learns something itself, or a column is unknown.
        """
        if not getattr(self.model, "stateless", False):
            rule = "must be a model that learns nothing: it is not fitted in the fold here"
            raise InputError(rule, field="model", value=type(self.model).__name__)
        names = self._columns()
        for name in names:
            check_column(X.table, name, X.path)
        features = np.asarray(self.model.fit(X).transform(X), np.float32)
        fields = [("features", np.float32, features.shape[1:]), ("columns", object, (len(names),))]
        prepared = np.empty(len(features), np.dtype(fields))
        prepared["features"] = features
        prepared["columns"] = X.table[[*names]].to_numpy(object)
        return prepared

    def fit_prepared(self, prepared: NDArray[np.void]) -> Self:
        """Learn from a training part, as `prepare` returned it.

        Raises
        ------
        InputError
            Values of a column are missing, or see `ComBat` and `ConfoundRegressor`.
        """
        self._learn(prepared["features"], self._table(prepared))
        return self

    def transform_prepared(self, prepared: NDArray[np.void]) -> FeatureMatrix:
        """Return the cleaned features, float32 (n_recordings, n_features)."""
        return self._clean(prepared["features"], self._table(prepared)).astype(np.float32)

    def fit(self, X: RecordingStore, y: object = None) -> Self:  # noqa: ARG002 - scikit-learn
        """Learn from the recordings of a store; see `fit_prepared`."""
        return self.fit_prepared(self.prepare(X))

    def transform(self, X: RecordingStore) -> FeatureMatrix:
        """Return the cleaned features of the recordings of a store.

        Returns
        -------
        ndarray of float32, shape (n_recordings, n_features)
        """
        check_is_fitted(self)
        return self.transform_prepared(self.prepare(X))

    def _table(self, prepared: NDArray[np.void]) -> pd.DataFrame:
        return pd.DataFrame(prepared["columns"], columns=[*self._columns()]).infer_objects()


class Harmonised(_Adjusted):
    """A model's features, harmonised over sites by `ComBat` fitted in the fold.

    Parameters
    ----------
    model : transformer
        Of a store, that learns nothing: `Embedder`, `ConnectivityBaseline`.
    batch : str
        Column of the batches.
    keep : tuple of str
        Columns whose effects are kept. A target among them is left out when that target is
        evaluated: the test part would be told its own answer.
    unseen : {"refuse", "keep", "adapt"}
        What happens to recordings of a site without training recordings; see `ComBat`.

    Attributes
    ----------
    combat_ : ComBat
    """

    def __init__(
        self,
        model: Any,
        *,
        batch: str = "site",
        keep: Sequence[str] = (),
        unseen: Literal["refuse", "keep", "adapt"] = "refuse",
    ) -> None:
        self.model = model
        self.batch = batch
        self.keep = keep
        self.unseen = unseen

    def for_target(self, target: str) -> Harmonised:
        """Return the same without the target among the columns kept."""
        if target not in self.keep:
            return self
        keep = tuple(name for name in self.keep if name != target)
        return Harmonised(self.model, batch=self.batch, keep=keep, unseen=self.unseen)

    def _columns(self) -> tuple[str, ...]:
        return (self.batch, *self.keep)

    def _covariates(self, table: pd.DataFrame) -> pd.DataFrame | None:
        return table[[*self.keep]] if self.keep else None

    def _learn(self, X: FeatureMatrix, table: pd.DataFrame) -> None:
        combat = ComBat(unseen=self.unseen)
        self.combat_ = combat.fit(
            X, batch=table[self.batch].to_numpy(object), covariates=self._covariates(table)
        )

    def _clean(self, X: FeatureMatrix, table: pd.DataFrame) -> NDArray[np.floating]:
        batch = table[self.batch].to_numpy(object)
        return self.combat_.transform(X, batch=batch, covariates=self._covariates(table))


class Residualised(_Adjusted):
    """A model's features without what confounds predict of them, fitted in the fold.

    Parameters
    ----------
    model : transformer
        Of a store, that learns nothing: `Embedder`, `ConnectivityBaseline`.
    confounds : tuple of str
        Columns; see `ConfoundRegressor`. A target among them is left out when that target is
        evaluated: nothing would be left of it.
    unseen : {"refuse", "keep"}
        What happens to recordings without a value, or of a category without training recordings.

    Attributes
    ----------
    regressor_ : ConfoundRegressor
    """

    def __init__(
        self,
        model: Any,
        *,
        confounds: Sequence[str] = ("site", "mean_fd"),
        unseen: Literal["refuse", "keep"] = "keep",
    ) -> None:
        self.model = model
        self.confounds = confounds
        self.unseen = unseen

    def for_target(self, target: str) -> Residualised:
        """Return the same without the target among the confounds."""
        if target not in self.confounds:
            return self
        confounds = tuple(name for name in self.confounds if name != target)
        return Residualised(self.model, confounds=confounds, unseen=self.unseen)

    def _columns(self) -> tuple[str, ...]:
        return tuple(self.confounds)

    def _learn(self, X: FeatureMatrix, table: pd.DataFrame) -> None:
        self.regressor_ = ConfoundRegressor(unseen=self.unseen).fit(X, confounds=table)

    def _clean(self, X: FeatureMatrix, table: pd.DataFrame) -> NDArray[np.floating]:
        return self.regressor_.transform(X, confounds=table)

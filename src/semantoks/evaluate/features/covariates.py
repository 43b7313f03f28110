"""What could be known without any brain: age, sex, site, motion, as a baseline of their own."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from semantoks.data.splits import check_column
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.features.blocks import Scaling
from semantoks.evaluate.features.transformer import StoreTransformer

#: Columns that are taken where a store has them.
CONFOUNDS = ("age", "sex", "site", "mean_fd", "source_tr")


class ConfoundsBaseline(StoreTransformer):
    """Columns of a store's index as features: what a model has to know more than.

    Numbers stay numbers, an unknown one becomes the mean of the training part and is marked; text
    is coded one-hot by the values of the training part, an unknown value or a new one by zeros.

    Parameters
    ----------
    columns : tuple of str, optional
        Those of age, sex, site, mean_fd and source_tr that the store has, by default.
    leave_out : tuple of str
        Columns that are not taken: the target.

    Attributes
    ----------
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : ndarray of str
        The columns, if it was fitted on a store.
    coding_ : list
        Of every column the mean of a number, or the values of text.
    """

    scaling: ClassVar[Scaling] = "feature"  # an age, a site and a mean FD have no common unit

    def __init__(
        self, columns: tuple[str, ...] | None = None, *, leave_out: tuple[str, ...] = ()
    ) -> None:
        self.columns = columns
        self.leave_out = leave_out

    def for_target(self, target: str) -> ConfoundsBaseline:
        """Return the same baseline without the target among its columns."""
        return ConfoundsBaseline(self.columns, leave_out=(*self.leave_out, target))

    def prepare(self, X: RecordingStore) -> NDArray[np.object_]:
        """Return the columns of every recording.

        Parameters
        ----------
        X : RecordingStore

        Returns
        -------
        ndarray of object, shape (n_recordings, n_columns)
            Unknown values are None.

        Raises
        ------
        InputError
            If `X` is no store, a column is unknown, or none is left.
        """
        return self._columns(X).to_numpy(object)

    def _columns(self, X: RecordingStore) -> pd.DataFrame:
        if not hasattr(X, "table"):
            raise InputError("confounds are columns of a store", field="X", fix="Give a store")
        table: pd.DataFrame = X.table
        names = [c for c in CONFOUNDS if c in table and table[c].notna().any()]
        if self.columns is not None:
            names = list(self.columns)
        for name in names:
            check_column(table, name, X.path)
        names = [name for name in names if name not in self.leave_out]
        if not names:
            raise InputError("no confound is left", file=X.path, field="columns")
        chosen = table[names].astype(object)
        return chosen.where(chosen.notna(), None)

    def fit_prepared(self, prepared: NDArray[np.object_]) -> Self:
        """Find means and values of a training part, as `prepare` returned it."""
        self.n_features_in_ = prepared.shape[1]
        self.coding_: list[float | list[str]] = []
        for column in prepared.T:
            known = [value for value in column if value is not None]
            numbers = bool(known) and all(_is_number(value) for value in known)
            self.coding_.append(
                float(np.mean(np.asarray(known, np.float64)))
                if numbers
                else sorted({str(value) for value in known})
            )
        return self

    def transform_prepared(self, prepared: NDArray[np.object_]) -> NDArray[np.float32]:
        """Return the coded columns, as `prepare` returned them."""
        check_is_fitted(self, "coding_")
        parts: list[Any] = []
        for column, coding in zip(prepared.T, self.coding_, strict=True):
            unknown = np.array([value is None for value in column])
            if isinstance(coding, float):
                parts += [np.where(unknown, coding, column).astype(np.float64), unknown]
            else:
                text = np.array([str(value) for value in column])
                parts += [(text == value) & ~unknown for value in coding]
        return np.column_stack(parts).astype(np.float32)

    def fit(self, X: RecordingStore, y: object = None) -> Self:  # noqa: ARG002
        """Find means and values of the recordings of a store."""
        columns = self._columns(X)
        self.feature_names_in_ = np.asarray(columns.columns, dtype=object)
        return self.fit_prepared(columns.to_numpy(object))

    def transform(self, X: RecordingStore) -> NDArray[np.float32]:
        """Return the coded columns of the recordings of a store.

        Returns
        -------
        ndarray of float32, shape (n_recordings, n_features)

        Raises
        ------
        InputError
            If the store has other columns than that of fit.
        """
        check_is_fitted(self, "coding_")
        columns = self._columns(X)
        if [*columns] != [*self.feature_names_in_]:
            rule = f"must be those that the estimator was fitted on: {[*self.feature_names_in_]}"
            raise InputError(rule, file=X.path, field="columns", value=[*columns])
        return self.transform_prepared(columns.to_numpy(object))

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the column, or column=value for text; a mark of unknown numbers follows each."""
        check_is_fitted(self, "coding_")
        names: list[str] = []
        for column, coding in zip(self.feature_names_in_, self.coding_, strict=True):
            if isinstance(coding, float):
                names += [column, f"{column} unknown"]
            else:
                names += [f"{column}={value}" for value in coding]
        return np.asarray(names, dtype=object)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_))

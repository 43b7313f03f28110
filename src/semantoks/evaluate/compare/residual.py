"""Targets without what covariates explain of them: fitted in the training part of every fold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from semantoks.arrays import Array
from semantoks.data.splits import Fold
from semantoks.errors import InputError
from semantoks.evaluate.compare.cohort import Cohort
from semantoks.evaluate.compare.prediction import Task
from semantoks.evaluate.features.covariates import ConfoundsBaseline
from semantoks.evaluate.predictors.base import person_weights


def fitted_tasks(cohort: Cohort, task: Task) -> list[Task]:
    """Return what is fitted for a target: itself, or one task per fold with values of its own.

    Where covariates are taken from the target, its values differ from fold to fold: those of the
    training and of the test part are the residuals of a regression on the training part.

    Parameters
    ----------
    cohort : Cohort
    task : Task

    Raises
    ------
    InputError
        See `residuals`.
    """
    columns = task.target.residualise
    if not columns:
        return [task]
    table = cohort.table.iloc[task.rows]

    def values(fold: Fold) -> Array:
        return residuals(table, np.asarray(task.y, np.float64), fold, columns)

    folds = [replace(task, y=values(fold), folds=[fold], small=[]) for fold in task.folds]
    small = [replace(task, y=values(f), folds=[], small=[(n, f)]) for n, f in task.small]
    return folds + small


def residuals(table: pd.DataFrame, y: Array, fold: Fold, columns: tuple[str, ...]) -> Array:
    """Return the values of both parts of a fold without what covariates explain in its training.

    People weigh the same in the regression, which has an intercept; text is coded one-hot.

    Parameters
    ----------
    table : DataFrame
        The rows of the target, with known values of the covariates.
    y : array of shape (n_rows,)
    fold : Fold
    columns : tuple of str

    Returns
    -------
    ndarray of shape (n_rows,)
        NaN in neither part.

    Raises
    ------
    InputError
        If the test part has a category that the training part lacks, or there are too few people.
    """
    for name in columns:
        if pd.api.types.is_numeric_dtype(table[name]) and table[name].dtype != bool:
            continue
        new = set(table[name].iloc[fold.test].astype(str)) - set(
            table[name].iloc[fold.train].astype(str)
        )
        if new:
            raise InputError(
                f"the training part of fold {fold.name} has no person of {name} {min(new)!r}: its "
                "effect on the target is not known",
                field="residualise",
                value=name,
                fix="Leave the column out, or divide people otherwise",
            )
    raw = table[[*columns]].to_numpy(object)
    coding = ConfoundsBaseline(columns).fit_prepared(raw[fold.train])
    known = coding.transform_prepared(raw).astype(np.float64)
    middle = known[fold.train].mean(axis=0)
    X = np.column_stack([np.ones(len(known)), known - middle])
    subjects = table["subject"].to_numpy(str)[fold.train]
    rank, n_people = np.linalg.matrix_rank(X[fold.train]), len(set(subjects))
    if rank >= n_people:
        raise InputError(
            f"explains the {n_people} training people of fold {fold.name} completely",
            field="residualise",
            value=", ".join(columns),
            fix="Leave some columns out",
        )
    root = np.sqrt(person_weights(subjects))
    coef = np.linalg.lstsq(X[fold.train] * root[:, None], y[fold.train] * root, rcond=None)[0]
    out = np.full(len(y), np.nan)
    for rows in (fold.train, fold.test):
        out[rows] = y[rows] - X[rows] @ coef
    return out

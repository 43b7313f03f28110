"""What is predicted: a column of the store's index, checked before anything is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.splits import check_column
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError, listed
from semantoks.evaluate.compare.cohort import Cohort
from semantoks.evaluate.stats.kinds import Kind
from semantoks.text import number

#: What may be done to numbers before they are predicted.
Transform = Literal["log"]


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Parameters
    ----------
    column : str
        Column of the store's index.
    kind : {"classification", "ordinal", "regression"}, optional
        Text and truth values are classes; numbers are regressed on, but a column of few whole
        numbers could be any of the three and must be told. Ordinal numbers are predicted like
        others and scored by their order.
    positive : str, optional
        Of two classes the one whose probability, sensitivity and AUPRC are stated; by default the
        class with fewer people, of equals the last in the order of the alphabet.
    transform : {"log"}, optional
        Predict the logarithm of a number: errors are then relative, as of an age or a volume.
    residualise : tuple of str
        Columns whose linear effects are taken from a number, in the training part of every fold;
        see `semantoks.evaluate.compare.residual`.

    Examples
    --------
    >>> from semantoks import Target
    >>> Target.parse("age:regression").column
    'age'
    """

    column: str
    kind: Kind | None = None
    positive: str | None = None
    transform: Transform | None = None
    residualise: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the target in results, e.g. age, log age or age without sex."""
        name = self.column if self.transform is None else f"{self.transform} {self.column}"
        return f"{name} without {listed(self.residualise)}" if self.residualise else name

    @classmethod
    def parse(cls, text: str) -> Target:
        """Return the target that ``column``, ``column:kind`` or ``column:kind:class`` names.

        ``column:regression:log`` is its logarithm.

        Raises
        ------
        InputError
            If the kind is another.
        """
        column, _, rest = text.partition(":")
        kind, _, more = rest.partition(":")
        known = {"classification": (more,), "regression": ("", *get_args(Transform))}
        if kind not in ("", *get_args(Kind)) or more not in known.get(kind, ("",)):
            raise InputError(
                "a target is column, column:classification, column:ordinal or column:regression; "
                "column:classification:CLASS also states the positive class, and "
                "column:regression:log takes the logarithm",
                field="target",
                value=text,
            )
        if kind == "regression":
            return cls(column, kind, transform=more or None)  # type: ignore[arg-type]
        return cls(column, kind or None, more or None)  # type: ignore[arg-type]


TargetRows = tuple[NDArray[np.intp], NDArray[Any], Kind]  # rows of the store, their values, kind


def target_values(
    store: RecordingStore | Cohort, target: Target, missing: str, unit: str = "subject"
) -> TargetRows:
    """Return the rows that have a value of the target, the values, and the kind.

    Parameters
    ----------
    store : RecordingStore or Cohort
    target : Target
    missing : {"refuse", "drop"}
    unit : {"subject", "recording"}
        Whether the recordings of a subject must have one label.

    Raises
    ------
    InputError
        If the column is unknown, values are missing, contradict each other, or are of one class.
    """
    table = store.table
    where: dict[str, Any] = {"file": store.path, "field": target.column}
    check_column(table, target.column, store.path)
    column = table[target.column]
    unknown = column.isna().to_numpy(bool)
    if unknown.all():
        fix = "Leave this target out, or give its values to `semantoks prepare --phenotypes`"
        raise InputError("no recording has a value", **where, fix=fix)
    if unknown.any() and missing != "drop":
        who = sorted(table.loc[unknown, "subject"].astype(str).unique())
        shown = ", ".join(who[:5]) + (", ..." if len(who) > 5 else "")
        raise InputError(
            f"{unknown.sum()} of {len(table)} recordings have no value (subjects {shown})",
            **where,
            fix="Leave them out with missing='drop' (--drop-missing)",
        )
    rows = np.flatnonzero(~unknown)
    values = column.iloc[rows]
    kind = target.kind or _guess_kind(values, where)
    if target.residualise:
        rows, values = _with_covariates(table, rows, values, target, kind, missing, where)
    if kind != "classification":
        if not pd.api.types.is_numeric_dtype(values) or values.dtype == bool:
            raise _no_numbers(values, where)
        return rows, _transformed(values.to_numpy(np.float64), target, where), kind
    y = class_names(values)
    per_subject = pd.DataFrame({"s": table["subject"].iloc[rows].to_numpy(str), "y": y})
    several = per_subject.groupby("s")["y"].nunique()
    if (several > 1).any() and unit == "subject":
        who = several.index[several > 1][0]
        raise InputError(
            f"subject {who!r} has different labels",
            **where,
            value=sorted(per_subject.loc[per_subject["s"] == who, "y"].unique()),
            fix="Correct them, leave the subject out, or predict recordings (unit='recording')",
        )
    if len(set(y)) < 2:
        raise InputError("has one class only: there is nothing to tell apart", **where, value=y[0])
    return rows, y, kind


def _with_covariates(
    table: pd.DataFrame,
    rows: NDArray[np.intp],
    values: pd.Series,
    target: Target,
    kind: Kind,
    missing: str,
    where: dict[str, Any],
) -> tuple[NDArray[np.intp], pd.Series]:
    """Return the rows whose covariates are known, and their values."""
    if kind != "regression":
        raise InputError(
            f"covariates can be taken from numbers only, not from a target of {kind}",
            **where,
            fix="Ask what models add to the covariates (--beside confounds), or evaluate this "
            "target without --residualise",
        )
    for name in target.residualise:
        check_column(table, name, where["file"], "residualise")
        if name == target.column:
            rule, fix = "is the target itself", "Evaluate this target without it"
            raise InputError(rule, field="residualise", value=name, fix=fix)
    known = table[[*target.residualise]].iloc[rows].notna().all(axis=1).to_numpy(bool)
    if (not known.all() and missing != "drop") or not known.any():
        raise InputError(
            f"{(~known).sum()} of {len(known)} recordings have no value of a column to residualise "
            "on",
            file=where["file"],
            field="residualise",
            value=", ".join(target.residualise),
            fix="Leave them out with missing='drop' (--drop-missing), or leave the column out",
        )
    return rows[known], values[known]


def _transformed(values: NDArray[Any], target: Target, where: dict[str, Any]) -> NDArray[Any]:
    if target.transform is None:
        return values
    if (values <= 0).any():
        rule = "a logarithm needs positive numbers"
        raise InputError(rule, **where, value=float(values.min()), fix="Predict it as it is")
    return np.asarray(np.log(values), np.float64)


def class_names(values: pd.Series) -> NDArray[np.str_]:
    """Return classes as text; whole numbers stay whole beside unknown ones, which make them 1.0."""
    numbers = pd.api.types.is_float_dtype(values)
    if numbers and (values == values.round()).all():
        values = values.astype(np.int64)
    return values.astype(str).to_numpy(str)


def _no_numbers(values: pd.Series, where: dict[str, Any]) -> InputError:
    """Return the error about a column that should hold numbers: which values are none."""
    odd = [v for v in values if not isinstance(v, str) or number(v) is None]
    shown = listed([repr(value) for value in dict.fromkeys(odd)], shown=4)
    return InputError(
        f"regression needs numbers, and {len(odd)} of {len(values)} values are none: {shown}",
        **where,
        fix="Write n/a where the number is unknown, and prepare the store again",
    )


def _guess_kind(values: pd.Series, where: dict[str, Any]) -> Kind:
    if not pd.api.types.is_numeric_dtype(values) or values.dtype == bool:
        odd = sum(not isinstance(v, str) or number(v) is None for v in values)
        if 0 < 2 * odd < len(values):
            error = _no_numbers(values, where)
            fix = f"{error.fix}; or state that they are classes: {where['field']}:classification"
            raise InputError(error.rule, **where, fix=fix)
        return "classification"
    whole = bool((values == values.round()).all())
    if whole and values.nunique() <= 10:
        raise InputError(
            f"could be classes or a scale: {values.nunique()} different whole numbers",
            **where,
            fix=f"State it: Target({where['field']!r}, 'classification'), 'ordinal' or "
            f"'regression' ({where['field']}:classification on the command line)",
        )
    return "regression"


def class_order(
    y: NDArray[np.str_], subjects: NDArray[np.str_], positive: str | None
) -> NDArray[np.str_]:
    """Return the classes in the order of scores; of two, the positive one is the second.

    Parameters
    ----------
    y, subjects : array of str, shape (n,)
    positive : str or None
        See `Target`.

    Raises
    ------
    InputError
        If there is no such class, or there are more than two.
    """
    classes = np.unique(y)
    if positive is not None and (len(classes) != 2 or positive not in classes):
        raise InputError(
            f"must be one of two classes ({', '.join(classes)})", field="positive", value=positive
        )
    if len(classes) != 2:
        return classes
    if positive is None:
        counts = [len(set(subjects[y == name])) for name in classes]
        return classes[::-1] if counts[0] < counts[1] else classes
    return classes if positive == classes[1] else classes[::-1]

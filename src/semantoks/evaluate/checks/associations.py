"""How strongly targets follow the site, the scanner, the TR and the motion: tests and effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from semantoks.errors import InputError, nearest
from semantoks.evaluate.checks.confounds import ACQUISITION
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.stats.inference import holm

#: Effects from which on one speaks of a medium one (Cohen 1988), and of all but determination.
EFFECTS = {
    "Cramér's V": (0.3, 0.9),
    "epsilon squared": (0.06, 0.8),
    "Spearman's rho": (0.3, 0.9),
}
_FEW = 10  # different numbers: TRs are groups
_SHOWN = 3


def associations(
    table: pd.DataFrame, targets: Sequence[Target | str], columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Test every target against every confound, over subjects.

    Classes against groups: chi-square and Cramér's V, corrected for bias (Bergsma 2013, Journal of
    the Korean Statistical Society 42:323). Numbers against groups, either way round:
    Kruskal-Wallis and epsilon squared, H / (n - 1) without its expectation under no effect.
    Numbers against numbers: Spearman's rho, its size.

    Parameters
    ----------
    table : DataFrame
        One row per recording; the first recording of a subject with both values counts.
    targets : sequence of Target or str
        Text and truth values are classes, numbers are numbers unless the target says otherwise.
    columns : sequence of str, optional
        Confounds; numbers of at most 10 values (TRs) are groups. Those of `ACQUISITION` that are
        there by default. Confounds and targets that do not vary are left out.

    Returns
    -------
    DataFrame
        target, confound, test, p, p_holm (over all rows), effect_name, effect, medium, determined
        (see `EFFECTS`), where (tuple of str: the groups that stand out), n_subjects.

    Raises
    ------
    InputError
        A column is unknown.
    """
    chosen = [t if isinstance(t, Target) else Target(t) for t in targets]
    if columns is None:
        columns = [c for c in ACQUISITION if c in table.columns]
    for column in [*(t.column for t in chosen), *columns]:
        if column not in table.columns:
            fix = nearest(column, [str(c) for c in table.columns])
            raise InputError("is no column of the table", field="columns", value=column, fix=fix)
    rows = []
    for target in chosen:
        for column in columns:
            if column == target.column:
                continue
            part = table.dropna(subset=[target.column, column]).drop_duplicates("subject")
            y, c = part[target.column], part[column]
            if y.nunique() < 2 or c.nunique() < 2 or len(part) < 4:
                continue
            numbers = _numeric(y) if target.kind is None else target.kind == "regression"
            groups = not _numeric(c) or c.nunique() <= _FEW
            found = _association(y, c, numbers, groups)
            row = {"target": target.column, "confound": column, **found, "n_subjects": len(part)}
            rows.append(row)
    order = ["target", "confound", "test", "p", "effect_name", "effect", "where", "n_subjects"]
    frame = pd.DataFrame(rows, columns=order)
    frame.insert(4, "p_holm", holm(frame["p"].to_numpy(np.float64)))
    for k, name in enumerate(("medium", "determined")):
        frame[name] = [EFFECTS[effect][k] for effect in frame["effect_name"]]
    return frame


def _numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and column.dtype != bool


def _association(y: pd.Series, c: pd.Series, numbers: bool, groups: bool) -> dict[str, Any]:
    if numbers and not groups:
        rho, p = stats.spearmanr(y.to_numpy(np.float64), c.to_numpy(np.float64))
        where = ("rises together" if rho > 0 else "falls as the other rises",)
        return _row("Spearman", p, "Spearman's rho", abs(rho), where)
    if numbers:
        return _between(y.to_numpy(np.float64), c.astype(str))
    if not groups:
        return _between(c.to_numpy(np.float64), y.astype(str))
    return _classes(y.astype(str), c.astype(str))


def _row(test: str, p: Any, name: str, effect: float, where: Sequence[str]) -> dict[str, Any]:
    facts = {"test": test, "p": float(p), "effect_name": name, "effect": float(effect)}
    return facts | {"where": tuple(where)}


def _between(values: NDArray[np.float64], group: pd.Series) -> dict[str, Any]:
    """Compare numbers between groups; the groups farthest from the median stand out."""
    by = pd.Series(values).groupby(group.to_numpy(str))
    found = stats.kruskal(*[part.to_numpy(np.float64) for _, part in by])
    n, k = len(values), by.ngroups
    effect = max((found.statistic - k + 1) / (n - k), 0.0) if n > k else 0.0
    median = by.median()
    far = (median - np.median(values)).abs().sort_values(ascending=False, kind="stable")
    where = [f"{name}: median {median[name]:.3g}" for name in far.index[:_SHOWN]]
    return _row("Kruskal-Wallis", found.pvalue, "epsilon squared", effect, where)


def _classes(y: pd.Series, c: pd.Series) -> dict[str, Any]:
    """Compare shares of classes between groups; the largest adjusted residuals stand out."""
    counts = pd.crosstab(c.to_numpy(str), y.to_numpy(str))
    found = stats.chi2_contingency(counts.to_numpy(), correction=False)
    n, (r, k) = len(y), counts.shape
    phi = max(found.statistic / n - (r - 1) * (k - 1) / (n - 1), 0.0)
    least = min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1
    effect = min(np.sqrt(phi / least), 1.0) if least > 0 else 0.0
    share = counts.to_numpy() / counts.to_numpy().sum(axis=1, keepdims=True)
    rest = np.outer(1 - counts.sum(axis=1) / n, 1 - counts.sum(axis=0) / n)
    residual = (counts.to_numpy() - found.expected_freq) / np.sqrt(found.expected_freq * rest)
    groups, labels = [*map(str, counts.index)], [*map(str, counts.columns)]
    largest = np.argsort(-residual, axis=None, kind="stable")[:_SHOWN]
    where = [
        f"{groups[i]}: {100 * share[i, j]:.0f} % {labels[j]}"
        for i, j in (divmod(int(place), k) for place in largest)
    ]
    return _row("chi-square", found.pvalue, "Cramér's V", effect, where)

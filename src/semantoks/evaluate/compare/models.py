"""What a model of an evaluation gives a probe in a fold.

Features are computed once where nothing is learned, else in the fold. A model is one of these.

1. An array of features, one row per recording.
2. A transformer that declares ``stateless = True``: what it gives for a recording depends on that
   recording alone (`Embedder`, `ConnectivityBaseline`). It transforms once, before any split.
3. A transformer with `prepare`, `fit_prepared` and `transform_prepared` (`TangentBaseline`): what
   depends on a recording alone is prepared once, the rest is fitted on the training part.
4. Any other transformer: fitted on the recordings of the training part, in every fold.
5. A predictor (`FineTuner`, a pipeline that ends in a probe): it replaces the probe. Its `fit` is
   given the groups that stay together inside, and the stated validation part, if it takes them.
6. A mapping of "classification" and "regression" to predictors: one for each kind of target.
7. `SideBySide`: the features of several models of kinds 1 to 4 next to each other.
8. `Inductive`: models of kinds 1 to 4, pretrained without some sites, each for these sites only.

A transformer may say how its features are scaled (`semantoks.evaluate.features.blocks`), and, by
`one_of_`, that its blocks are alternatives, of which the inner folds of every fold choose one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from semantoks.arrays import Rows
from semantoks.errors import InputError
from semantoks.evaluate.compare.cohort import Cohort
from semantoks.evaluate.features.blocks import FeatureBlock, blocks_of
from semantoks.evaluate.predictors.base import RowSpaces

Values = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FoldFeatures:
    """Features of one fold.

    Parameters
    ----------
    train, test : arrays of shape (n_rows, n_features)
    blocks : tuple of FeatureBlock
        Which columns are scaled together.
    name : str
        Of one of several alternatives.
    spaces : RowSpaces
        What probes of several targets share.
    """

    train: Values
    test: Values
    blocks: tuple[FeatureBlock, ...]
    name: str = ""
    spaces: RowSpaces = field(default_factory=RowSpaces)


@dataclass(frozen=True, eq=False)
class SideBySide:
    """Models whose features stand next to each other, every model weighing the same.

    What an embedding adds to connectivity is the difference between the score of both side by side
    and that of connectivity alone.

    Parameters
    ----------
    parts : mapping of str to array or transformer
    """

    parts: Mapping[str, Any]

    def for_target(self, target: str) -> SideBySide:
        """Return the same for a target: of parts that depend on it, those without it."""
        parts = {
            name: part.for_target(target) if hasattr(part, "for_target") else part
            for name, part in self.parts.items()
        }
        same = all(parts[name] is part for name, part in self.parts.items())
        return self if same else SideBySide(parts)


@dataclass(frozen=True, eq=False)
class Inductive:
    """Models pretrained without some sites, each of which is tested at these sites only.

    One encoder cannot be tested at all sites of the store that it was pretrained on without having
    seen them; several can, each pretrained without a group of sites.

    Parameters
    ----------
    parts : mapping of tuple of str to array or transformer
        The sites that a model has not seen, and the model.
    """

    parts: Mapping[tuple[str, ...], Any]

    def of_sites(self, name: str, sites: Collection[str]) -> tuple[str, ...]:
        """Return the key of the model that has seen none of these sites.

        Raises
        ------
        InputError
            If there is none.
        """
        for unseen in self.parts:
            if set(sites) <= set(unseen):
                return unseen
        rule = "must hold a model that was pretrained without the sites of every fold"
        fix = "Leave one site out at a time, and pretrain without each of them"
        raise InputError(rule, field=f"models[{name!r}]", value=sorted(sites), fix=fix)


@dataclass(frozen=True, eq=False)
class Features:
    """Features of one model for any fold.

    Parameters
    ----------
    cohort : Cohort
    name : str
        Of the model, for messages.
    model : array, transformer
    ready : array or None
        Features of all recordings where nothing is learned; what was prepared where there is
        `fit_prepared`; None where the transformer reads recordings in every fold.
    fitted : bool
        Whether something is fitted in the fold.
    parts : mapping of str, or of tuple of str, to Features
        Of models side by side, or of those pretrained without some sites.
    """

    cohort: Cohort
    name: str
    model: Any
    ready: NDArray[Any] | None
    fitted: bool
    parts: Mapping[Any, Features] = field(default_factory=dict)

    @classmethod
    def of(cls, cohort: Cohort, name: str, model: Any) -> Features:
        """Compute what can be computed before any split.

        Raises
        ------
        InputError
            If features have not one row per recording, or are not finite.
        """
        if isinstance(model, (SideBySide, Inductive)):
            parts = {part: cls.of(cohort, name, one) for part, one in model.parts.items()}
            return cls(cohort, name, model, None, True, parts)
        if isinstance(model, np.ndarray):
            return cls(cohort, name, model, _checked(name, model, len(cohort)), False)
        if hasattr(model, "fit_prepared"):
            prepared = np.concatenate([model.prepare(store) for store in cohort.stores])
            return cls(cohort, name, model, prepared, True)
        if getattr(model, "stateless", False):
            each = [model.fit(store).transform(store) for store in cohort.stores]
            values = _checked(name, np.concatenate(each), len(cohort))
            return cls(cohort, name, model, values, False)
        return cls(cohort, name, model, None, True)

    def of_fold(self, train: Rows, test: Rows) -> tuple[FoldFeatures, ...]:
        """Return the features of the training and of the test rows.

        Several where the model has alternatives, of which inner folds choose one.
        """
        if isinstance(self.model, Inductive):
            sites = self.cohort.table["site"].iloc[test].fillna("").astype(str)
            unseen = self.model.of_sites(self.name, set(sites))
            return self.parts[unseen].of_fold(train, test)
        if self.parts:
            each = [part.of_fold(train, test) for part in self.parts.values()]
            return tuple(
                _side_by_side(dict(zip(self.parts, one, strict=True))) for one in product(*each)
            )
        if not self.fitted and self.ready is not None:
            return _alternatives(self.model, self.ready[train], self.ready[test])
        model = clone(self.model)
        if self.ready is not None:
            model.fit_prepared(self.ready[train])
            parts = [model.transform_prepared(self.ready[rows]) for rows in (train, test)]
        else:
            model.fit(self.cohort.select(train))
            parts = [model.transform(self.cohort.select(rows)) for rows in (train, test)]
        X_train, X_test = (
            _checked(self.name, x, len(rows)) for x, rows in zip(parts, (train, test), strict=True)
        )
        return _alternatives(model, X_train, X_test)


def _alternatives(model: Any, train: Values, test: Values) -> tuple[FoldFeatures, ...]:
    blocks = blocks_of(model, train.shape[1])
    if not getattr(model, "one_of_", False):
        return (FoldFeatures(train, test, blocks),)
    ends = np.cumsum([block.n_columns for block in blocks])[:-1]
    parts = [np.split(values, ends, axis=1) for values in (train, test)]
    return tuple(
        FoldFeatures(a, b, (block,), block.name) for a, b, block in zip(*parts, blocks, strict=True)
    )


def _side_by_side(parts: Mapping[str, FoldFeatures]) -> FoldFeatures:
    blocks: list[FeatureBlock] = []
    for name, part in parts.items():
        several = len(part.blocks) > 1
        blocks += [replace(b, name=f"{name}, {b.name}" if several else name) for b in part.blocks]
    train, test = (
        np.hstack([part.train for part in parts.values()]),
        np.hstack([part.test for part in parts.values()]),
    )
    chosen = ", ".join(part.name for part in parts.values() if part.name)
    return FoldFeatures(train, test, tuple(blocks), chosen)


def _checked(name: str, values: NDArray[Any], n_rows: int) -> Values:
    if values.ndim != 2 or len(values) != n_rows:
        raise InputError(
            f"features must have one row per recording ({n_rows})",
            field=f"models[{name!r}]",
            value=values.shape,
        )
    if not np.isfinite(values).all():
        raise InputError("features hold NaN or infinite values", field=f"models[{name!r}]")
    return np.asarray(values, np.float32)

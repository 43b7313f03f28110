"""Units of inference: about whom a score may say something, decided before anything is fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.splits import Fold
from semantoks.errors import InputError
from semantoks.evaluate.stats.inference import inference_blocks
from semantoks.evaluate.stats.metrics import Codes, Metric

#: Fewer sites than these say nothing about other sites.
MIN_SITES = 6


@dataclass(frozen=True, eq=False)
class Units:
    """What intervals and tests count.

    Parameters
    ----------
    name : str
        sites, people, or groups of people by a column.
    n : int
        Those that are tested.
    blocks : int array of shape (n_rows,)
        Block of every row; blocks are units, or groups of them where there are very many.
    why_not : str
        Why no verdict is given; empty where it may be.
    """

    name: str
    n: int
    blocks: Codes
    why_not: str = ""


def units_of(
    table: pd.DataFrame,
    y: NDArray[np.generic],
    folds: list[Fold],
    group: str,
    clusters: NDArray[np.str_],
    *,
    classes: bool,
    seed: int,
) -> Units:
    """Return the units of inference of a design.

    Where sites are left out they are the sites, since the question is another site; with fewer than
    `MIN_SITES` (of which members of two classes are tested), intervals are over people at these
    sites and nothing is tested. In every other design they are people, or what the design keeps
    together.

    Parameters
    ----------
    table : DataFrame
        The rows of the target.
    y : array of shape (n_rows,)
    folds : list of Fold
    group : str
        What the design keeps together.
    clusters : array of str, shape (n_rows,)
        Families where the design keeps them whole, else subjects.
    classes : bool
        Whether `y` holds classes.
    seed : int

    Raises
    ------
    InputError
        If fewer than two people are tested.
    """
    test = np.unique(np.concatenate([fold.test for fold in folds]))
    if len(set(clusters[test])) < 2:
        raise InputError(
            "a score needs at least 2 tested people, or families that stay together",
            field="test part",
            value=", ".join(map(str, sorted(set(clusters[test])))),
            fix="Test more sites or people",
        )
    sites = table["site"].fillna("").astype(str).to_numpy(str)
    name, why_not = "people", ""
    if group == "site":
        at = pd.DataFrame({"site": sites[test], "y": y[test]})
        n_tested = at["site"].nunique()
        usable = int((at.groupby("site")["y"].nunique() > 1).sum()) if classes else n_tested
        if usable >= MIN_SITES:
            blocks = np.unique(sites, return_inverse=True)[1]
            return Units("sites", n_tested, np.asarray(blocks, np.intp))
        which = f"{usable} of {n_tested} tested sites have people of two classes"
        why_not = (
            f"{which if classes else f'sites tested: {n_tested}'}; {MIN_SITES} are needed for a "
            "verdict about sites never seen. Intervals cover other people at these sites"
        )
    elif group != "subject":
        name = f"groups of people ({group})"
    blocks = inference_blocks(clusters, sites, y, seed)
    return Units(name, len(set(clusters[test])), blocks, why_not)


def undecidable(
    table: pd.DataFrame,
    y: NDArray[np.generic],
    folds: list[Fold],
    group: str,
    metric: Metric,
    *,
    classes: bool,
) -> str:
    """Return why the metric that decides cannot say anything about people; empty where it can.

    Parameters
    ----------
    table, y, folds, group, classes
        See `units_of`.
    metric : Metric
    """
    test = np.unique(np.concatenate([fold.test for fold in folds]))
    sites = table["site"].fillna("").astype(str).to_numpy(str)[test]
    if (sites == "").any() or len(set(sites)) < 2:  # folds are compared within, not sites
        return ""
    varies = pd.Series(y[test]).groupby(sites).nunique() > 1
    if classes and metric.within and varies.sum() < 2:
        return (
            f"{varies.sum()} of {len(varies)} tested sites have people of two classes; 2 are "
            "needed to compare people within sites. A pooled score (--metric 'pooled AUROC') "
            "would compare sites as well"
        )
    if not classes and not varies.any() and (metric.within or group != "site"):
        return (
            "the target has one value at every site: what tells sites apart predicts it, and the "
            "people of a site count once. With --groups site, sites are predicted and counted"
        )
    return ""

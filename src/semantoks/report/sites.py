"""Forest plots of sites, and how a score differs between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from semantoks.assess.parts.base import listed
from semantoks.assess.parts.section import Column, Pictures, SectionBlock, Table
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CONNECTIVITY
from semantoks.evaluate.stats.heterogeneity import RandomEffects, random_effects
from semantoks.evaluate.stats.inference import ALPHA
from semantoks.evaluate.stats.metrics import METRICS
from semantoks.figures.picture import Picture
from semantoks.figures.sites import FOREST_SITES, Diamond, forest

#: A model and what its score is compared with; empty for the score itself.
Pair = tuple[str, str]


@dataclass(frozen=True, eq=False)
class _OverSites:
    """One number at every site.

    Parameters
    ----------
    name : str
        What it is of.
    sites : DataFrame
        Columns site, n, value, ci_low, ci_high; the largest site first.
    decided : dict
        The row of the result that the verdict rests on, and the chance level (0 of a difference).
    summary : RandomEffects or None
    """

    name: str
    sites: pd.DataFrame
    decided: dict[str, Any]
    summary: RandomEffects | None


def forest_blocks(
    result: ProbeResult, target: str, pairs: Sequence[Pair], *, explained: bool = False
) -> list[SectionBlock]:
    """Return forest plots of pairs of models, and a table of their summaries over sites.

    Nothing where sites are not known.
    """
    found = [one for pair in pairs if (one := _over_sites(result, target, *pair)) is not None]
    if not found:
        return []
    facts = result.meta["targets"][target]
    counted, metric = facts["counted"], facts["metric"]
    rests = "estimate" if counted["why_not"] else "verdict"
    over = f"{rests}, over {counted['n']} {counted['units']}"
    pictures = [_picture(one, f"{metric} of {target}", over) for one in found]
    note = _note(counted["units"]) if explained else ""
    return [
        Pictures(pictures, size="half", note=note),
        _summaries(target, metric, rests, found),
    ]


def _note(counted: str) -> str:
    """Return how to read forest plots, and which number decides."""
    return (
        f"Squares: one site each, in brackets the people tested, intervals over its people; of "
        f"more than {FOREST_SITES} sites the largest. Filled diamond: the estimate that a verdict "
        f"rests on, which counts {counted}. Open diamond: the random-effects mean, another number, "
        "which weighs sites by their precision and decides nothing (Paule and Mandel, 1982; "
        "Hartung and Knapp, 2001). tau: standard deviation of the true values over sites. I²: "
        "share of the variation that is more than chance. Sites without a standard error, e.g. "
        "with a perfect score, are not in the mean."
    )


def _over_sites(result: ProbeResult, target: str, model: str, against: str) -> _OverSites | None:
    sites, table = result.sites, result.differences if against else result.scores
    metric = result.meta["targets"][target]["metric"]

    def of_pair(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows[(rows["target"] == target) & (rows["model"] == model)]
        return rows[rows["against"] == against] if "against" in rows else rows

    sites = of_pair(sites).sort_values("n", ascending=False, kind="stable")
    rows = of_pair(table[table["metric"] == metric])
    if len(sites) < 2 or rows.empty:
        return None
    of_kind = METRICS[result.meta["targets"][target]["kind"]][metric]
    low, high = of_kind.difference_limits if against else of_kind.limits
    reach = t_distribution.ppf(1 - ALPHA / 2, np.maximum(sites["n"] - 1, 1)) * sites["se"]
    return _OverSites(
        f"{model} − {against}" if against else model,
        sites.assign(
            ci_low=(sites["value"] - reach).clip(lower=low),
            ci_high=(sites["value"] + reach).clip(upper=high),
        ),
        {"chance": 0.0} | {str(k): v for k, v in rows.iloc[0].items()},
        random_effects(sites["value"].to_numpy(float), sites["se"].to_numpy(float)),
    )


def _picture(one: _OverSites, what: str, over: str) -> Picture:
    middle, low, high = (one.decided[name] for name in ("value", "ci_low", "ci_high"))
    diamonds = [Diamond(over, middle, low, high, True)]
    if one.summary is not None:
        ends = (one.summary.mean, one.summary.ci_low, one.summary.ci_high)
        diamonds.append(Diamond("random effects", *ends, False))
    null = one.decided["chance"]
    level = None if np.isnan(null) else null
    drawn = forest(one.sites.head(FOREST_SITES), diamonds, f"{what}: {one.name}", level)
    alt = f"Forest plot over {len(one.sites)} sites, {what}, {one.name}: " + "; ".join(
        f"{d.name} {d.value:.2f}, interval {d.ci_low:.2f} to {d.ci_high:.2f}" for d in diamonds
    )
    return Picture(drawn, alt)


def _summaries(target: str, metric: str, rests: str, found: Sequence[_OverSites]) -> Table:
    nothing = dict.fromkeys(RandomEffects.__dataclass_fields__, float("nan"))
    rows = []
    for one in found:
        random = nothing if one.summary is None else asdict(one.summary)
        mean = {**random, "value": random["mean"]}
        other = {"ci_low": random["low"], "ci_high": random["high"]}
        n = len(one.sites) if one.summary is None else one.summary.n_sites
        ends = [random["tau"], random["i2"], random["p_value"], other]
        rows.append([one.name, one.decided, mean, n, *ends])
    return Table(
        caption=f"{target}: {metric} over sites, {listed([one.name for one in found])}",
        columns=[
            Column("model"),
            Column(rests, "estimate", ".3f"),
            Column("random-effects mean", "estimate", ".3f"),
            Column("sites in it", "number", "d"),
            Column("tau", "number", ".3f"),
            Column("I²", "number", ".0%"),
            Column("p (Cochran's Q)", "p"),
            Column("expected at another site (95 %)", "range", ".3f"),
        ],
        rows=rows,
    )


def site_table(result: ProbeResult, target: str) -> Table | None:
    """Return the scores of all sites, and the differences from connectivity, folded.

    None where sites are not known.
    """
    rows = result.sites
    rows = rows[(rows["target"] == target) & rows["against"].isin(["", CONNECTIVITY])]
    if rows.empty:
        return None
    return Table(
        caption=f"{target}: scores and differences at every site",
        columns=[
            Column("site"),
            Column("people", "number", "d"),
            Column("model"),
            Column("minus"),
            Column(str(rows["metric"].iloc[0]), "number", ".3f"),
            Column("standard error", "number", ".3f"),
        ],
        rows=rows[["site", "n", "model", "against", "value", "se"]].to_numpy(object).tolist(),
        fold="closed",
    )

"""The people tested: their number, classes, age, sex and motion, site by site."""

from __future__ import annotations

import pandas as pd

from semantoks.assess.parts.base import Found, Question, Work
from semantoks.assess.parts.section import Column, Section, Table

#: Columns described next to the targets, where the store has them.
_DESCRIBED = ("age", "sex", "mean_fd")
_NAMES = {"mean_fd": "mean FD, mm"}
#: Classes that are counted one by one.
_COUNTED = 4
#: Sites of a table that begins unfolded.
_OPEN = 6
_ALL, _UNKNOWN = "all", "not stated"


def compute(work: Work) -> Found:
    """Describe the tested people of every site, and all of them."""
    table = work.store.table
    table = table[table["subject"].isin(work.comparison.predictions["subject"])]
    columns = [*(target.column for target in work.plan.targets), *_DESCRIBED]
    shown = [c for c in dict.fromkeys(columns) if c in table and table[c].notna().any()]
    people = table.groupby("subject", sort=False)
    numbers = [c for c in shown if _is_number(table[c])]
    each = people[[*shown, "site"]].first().assign(**{c: people[c].mean() for c in numbers})
    sites = each["site"].astype(object).fillna(_UNKNOWN).astype(str)
    groups = [(str(site), rows) for site, rows in each.groupby(sites)]
    rows = [
        {"site": site, "people": len(group), **{c: _summary(group[c]) for c in shown}}
        for site, group in [*groups, (_ALL, each)]
    ]
    facts = {"columns": shown, "targets": [target.column for target in work.plan.targets]}
    return Found({"people": pd.DataFrame(rows)}, {**facts, "n_sites": len(groups)})


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and values.dtype != bool


def _summary(values: pd.Series) -> str:
    """Return mean and standard deviation, or counts of classes, and how many are unknown."""
    known = values.dropna()
    if known.empty:
        return "unknown"
    if _is_number(known) and known.nunique() > _COUNTED:
        text = f"{known.mean():.3g} ({known.std():.2g})"
    else:
        counts = known.astype(str).value_counts().sort_index()
        text = ", ".join(f"{name} {n}" for name, n in counts.items())
        text = text if len(counts) <= _COUNTED else f"{len(counts)} classes"
    unknown = len(values) - len(known)
    return f"{text}; {unknown} unknown" if unknown else text


def _described(found: Found, columns: list[str]) -> str:
    """Return all people in a phrase."""
    everyone = found.tables["people"].iloc[-1]
    n = found.facts["n_sites"]
    parts = [f"{_NAMES.get(c, c)} {everyone[c]}" for c in columns]
    at = f" at {n} sites" if n > 1 else ""
    about = f" ({'; '.join(parts)})" if parts else ""
    return f"{everyone['people']} people{at}{about}"


def sentence(found: Found) -> str:
    """Return the part's sentence in the methods paragraph, which describes targets elsewhere."""
    others = [c for c in found.facts["columns"] if c not in found.facts["targets"]]
    what = "; numbers: mean (standard deviation)" if others else ""
    return f"We tested {_described(found, others)}{what}."


def show(found: Found) -> Section:
    """Return a row per site, the last of all; unfolded where there are few."""
    columns = found.facts["columns"]
    table = Table(
        caption=f"Tested: {_described(found, columns)}",
        columns=[
            Column("site"),
            Column("people", "number", "d"),
            *(Column(_NAMES.get(c, c)) for c in columns),
        ],
        rows=found.tables["people"][["site", "people", *columns]].to_numpy(object).tolist(),
        fold="open" if found.facts["n_sites"] <= _OPEN else "closed",
    )
    return Section("", [table])


QUESTION = Question(compute=compute, sentence=sentence, show=show, on_top=True)

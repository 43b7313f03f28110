"""The parts of an assessment beyond the comparison: from models and a store to tables.

A part that this store cannot answer raises an `InputError` that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from semantoks.assess.cache import StoredEmbedder
from semantoks.assess.plan import Part, Plan, confound_columns
from semantoks.data.designs import AcrossStores
from semantoks.data.splits import Fold
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.checks.adjusted import Harmonised, Residualised
from semantoks.evaluate.checks.associations import associations
from semantoks.evaluate.checks.confounds import ACQUISITION, confound_table
from semantoks.evaluate.checks.leaks import leak_alarms
from semantoks.evaluate.checks.reliability import (
    measure_reliability,
    reliability_differences,
    reliability_scores,
    session_pairs,
)
from semantoks.evaluate.checks.sensitivity import corruption_curves
from semantoks.evaluate.checks.subgroups import subgroup_scores
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CHANCE, CONNECTIVITY
from semantoks.evaluate.compare.scoring import adjusted
from semantoks.evaluate.compare.targets import target_values
from semantoks.explain.networks import occlusion
from semantoks.figures.brain import roi_values

#: Recordings in which networks are masked: it takes two passes per network each.
IMPORTANCE_RECORDINGS = 50
#: Seconds between the halves of a scan, which a filter would otherwise smear into each other.
GAP = 10.0
#: Name of the features that confounds were regressed out of.
REGRESSED = "confounds regressed out"
_SUBGROUPS = ("site", "source_tr", "mean_fd")


@dataclass(frozen=True, eq=False)
class Found:
    """What a part found.

    Parameters
    ----------
    tables : dict of str to DataFrame
    facts : dict
        Plain values.
    """

    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Work:
    """What the parts work on.

    Parameters
    ----------
    store : RecordingStore
    plan : Plan
    trained : dict of str to StoredEmbedder
        The models in question.
    controls : dict of str to transformer
        Random weights and connectivity.
    comparison : ProbeResult
    """

    store: RecordingStore
    plan: Plan
    trained: Mapping[str, StoredEmbedder]
    controls: Mapping[str, Any]
    comparison: ProbeResult

    @property
    def in_question(self) -> dict[str, Any]:
        """The trained models and connectivity, what they have to beat."""
        return {**self.trained, CONNECTIVITY: self.controls[CONNECTIVITY]}

    @property
    def everything(self) -> dict[str, Any]:
        """The trained models and all controls that fit nothing."""
        return {**self.trained, **self.controls}


def subgroups(work: Work) -> Found:
    """Score every model within sites, TRs and thirds of motion."""
    table = work.store.table
    columns = [c for c in _SUBGROUPS if c in table and table[c].nunique() > 1]
    if not columns:
        rule = "no site, TR or motion that varies is known of these recordings"
        raise InputError(rule, field="subgroups")
    parts = [
        subgroup_scores(
            work.comparison,
            table,
            column,
            seed=work.plan.seed,
            n_bootstrap=work.plan.n_bootstrap,
        )
        for column in columns
    ]
    return Found({"scores": pd.concat(parts, ignore_index=True)})


def confounds(work: Work) -> Found:
    """Predict site, scanner, TR and motion from features, and targets from them."""
    table = work.store.table
    features = {
        name: np.asarray(model.fit(work.store).transform(work.store))
        for name, model in work.everything.items()
    }
    found, left_out = [], {}
    for column in (c for c in ACQUISITION if c in table and table[c].nunique() > 1):
        try:
            part = confound_table(
                features,
                table,
                [column],
                seed=work.plan.seed,
                n_bootstrap=work.plan.n_bootstrap,
            )
        except InputError as error:  # too few people of a site, say; the others are looked at
            left_out[column] = str(error)
        else:
            found.append(part)
    tied = associations(table, work.plan.targets)
    if not found and tied.empty:
        rule = "no site, scanner, TR or motion that varies is known of these recordings"
        raise InputError(rule, field="confounds")
    tables = {"associations": tied.assign(where=tied["where"].map(list))}
    if found:
        tables["readable"] = pd.concat(found, ignore_index=True)
    return Found(tables, {"left_out": left_out})


def cleaned(work: Work) -> Found:
    """Compare models with themselves after confound regression, and after ComBat."""
    plan, store = work.plan, work.store
    columns = plan.confounds if plan.confounds is not None else confound_columns(store)
    variants: dict[str, Callable[[Any], Any]] = {}
    if any({*columns} - {target.column} for target in plan.targets):
        variants[REGRESSED] = lambda model: Residualised(model, confounds=columns, unseen="keep")
    if plan.harmonise is not None and store.table[plan.harmonise].notna().any():
        name = f"ComBat over {plan.harmonise}"
        batch = plan.harmonise
        variants[name] = lambda model: Harmonised(model, batch=batch, unseen="adapt")
    scores, differences, why_not = [], [], {}
    for what, wrap in variants.items():
        try:
            result = _against_itself(work, {n: wrap(m) for n, m in work.in_question.items()})
        except InputError as error:
            why_not[what] = str(error)
            continue
        scores.append(result.scores.assign(variant=what))
        differences.append(result.differences.assign(variant=what))
    if not scores:
        rule = "; ".join(why_not.values()) or "no confound is known of nine in ten recordings"
        raise InputError(rule, field="adjusted")
    # What was compared is every model with itself: the family of tests has to be theirs alone.
    columns_of = {"p_holm", "verdict"}
    both = (pd.concat(parts, ignore_index=True) for parts in (scores, differences))
    tables = adjusted(*(t.drop(columns=[c for c in columns_of if c in t]) for t in both))
    return Found(
        dict(zip(("scores", "differences"), tables, strict=True)),
        {
            "variants": [*variants],
            "left_out": why_not,
            "confounds": [*columns],
            "unknown": {c: int(store.table[c].isna().sum()) for c in columns},
        },
    )


def _against_itself(work: Work, wrapped: Mapping[str, Any]) -> ProbeResult:
    """Return scores of models and their cleaned selves, and those differences alone."""
    plan = work.plan
    own = {f"{name}, cleaned": name for name in wrapped}
    result = evaluate_probes(
        work.store,
        {**work.in_question, **{f"{name}, cleaned": model for name, model in wrapped.items()}},
        plan.targets,
        design=plan.design,
        probe=plan.probe,
        missing=plan.missing,
        against=[*wrapped],
        seed=plan.seed,
        n_bootstrap=plan.n_bootstrap,
        n_permutations=plan.n_permutations,
    )
    kept = result.scores["model"] != CHANCE
    gaps = result.differences
    mine = gaps["model"].map(own) == gaps["against"]
    scores = result.scores[kept].assign(
        cleaned=lambda t: t["model"].isin([*own]), model=lambda t: t["model"].replace(own)
    )
    gaps = gaps[mine].assign(model=lambda t: t["against"])
    return ProbeResult(scores, gaps, result.predictions, result.meta)


def corruption(work: Work) -> Found:
    """Score models on worse and worse scans, for the first target."""
    plan = work.plan
    curves = corruption_curves(
        work.store,
        work.in_question,
        plan.targets[0],
        design=plan.design,
        probe=plan.probe,
        missing=plan.missing,
        seed=plan.seed,
        n_bootstrap=plan.n_bootstrap,
    )
    return Found({"curves": curves})


def reliability(work: Work) -> Found:
    """Measure whether people are recognised: in another session, or in the other half."""
    try:
        session_pairs(work.store.table)
        of = "sessions"
    except InputError:
        of = "halves"
    found = measure_reliability(
        work.store,
        work.everything,
        of=of,  # type: ignore[arg-type]
        gap=GAP,
        seed=work.plan.seed,
        n_bootstrap=work.plan.n_bootstrap,
    )
    tables = {
        "scores": reliability_scores(found),
        "differences": reliability_differences(found, CONNECTIVITY),
        "icc": pd.concat(
            pd.DataFrame({"model": name, "icc": one.icc}) for name, one in found.items()
        ).reset_index(drop=True),
    }
    for i, one in enumerate(found.values()):
        matrix = pd.DataFrame(one.similarity.astype(np.float32))
        tables[f"similarity{i}"] = matrix.rename(columns=str)
    n = len(next(iter(found.values())).subjects)
    return Found(tables, {"of": of, "models": [*found], "n_subjects": n})


def alarms(work: Work) -> Found:
    """Look for what makes scores too good; see `semantoks.evaluate.checks.leaks`."""
    plan, store = work.plan, work.store
    across = isinstance(plan.design, AcrossStores)
    found = leak_alarms(
        store,
        plan.targets,
        folds=[] if across else _folds(work),
        models={name: model.fit(store) for name, model in work.trained.items()},
        scores=work.comparison.scores,
        trained_on=plan.design.train if isinstance(plan.design, AcrossStores) else None,
    )
    return Found(facts={"alarms": [alarm.to_dict() for alarm in found]})


def _folds(work: Work) -> list[Fold]:
    """Return the folds of all targets, rows as in the store."""
    folds = []
    for target in work.plan.targets:
        rows, y, kind = target_values(work.store, target, work.plan.missing)
        labels = y if kind == "classification" else None
        for fold in work.plan.design.folds(work.store.table.iloc[rows], labels, work.plan.seed):
            named = f"{target.column} {fold.name}"
            folds.append(Fold(named, rows[fold.train], rows[fold.test], fold.repeat))
    return folds


def maps(work: Work) -> Found:
    """Return the first two principal components of every trained model's embeddings."""
    if not work.trained:
        raise InputError("no model was given", field="models")
    table = work.store.table
    columns = ["site", *(t.column for t in work.plan.targets), "mean_fd"]
    shown = [c for c in dict.fromkeys(columns) if c in table and table[c].notna().any()]
    tables, shares = {}, {}
    for i, (name, model) in enumerate(work.trained.items()):
        embeddings = model.fit(work.store).transform(work.store)
        if len(embeddings) < 3 or not np.ptp(embeddings, axis=0).any():
            raise InputError("fewer than three different embeddings", field=name)
        pca = PCA(2, svd_solver="full").fit(embeddings)
        points = pd.DataFrame(pca.transform(embeddings), columns=["PC 1", "PC 2"])
        tables[f"points{i}"] = pd.concat([points, table[shown].reset_index(drop=True)], axis=1)
        shares[name] = [float(share) for share in pca.explained_variance_ratio_]
    return Found(tables, {"shares": shares, "columns": shown})


def importance(work: Work) -> Found:
    """Mask networks in every trained model; see `semantoks.explain.networks`."""
    if not work.trained:
        raise InputError("no model was given", field="models")
    store = work.store
    if len(store) > IMPORTANCE_RECORDINGS:
        rows = np.linspace(0, len(store) - 1, IMPORTANCE_RECORDINGS).astype(int)
        store = store.select(rows)
    subjects = store.table["subject"].to_numpy(str)
    summaries, rois = [], {}
    for i, (name, model) in enumerate(work.trained.items()):
        encoder = model.fit(store).encoder_
        found = occlusion(encoder, store, n_crops=work.plan.n_crops)
        summary = found.summary(subjects, seed=work.plan.seed)
        summaries.append(summary.assign(model=name))
        places = pd.DataFrame(encoder.parcellation.coordinates, columns=["x", "y", "z"])
        rois[f"rois{i}"] = places.assign(value=roi_values(encoder, summary, "without"))
    tables = {"networks": pd.concat(summaries, ignore_index=True), **rois}
    return Found(tables, {"models": [*work.trained], "n_recordings": len(store)})


COMPUTE: dict[Part, Callable[[Work], Found]] = {
    "subgroups": subgroups,
    "confounds": confounds,
    "adjusted": cleaned,
    "corruption": corruption,
    "reliability": reliability,
    "alarms": alarms,
    "maps": maps,
    "importance": importance,
}

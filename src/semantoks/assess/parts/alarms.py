"""Leak alarms: shared people, duplicate scans, implausible scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semantoks.assess.parts.base import Found, Note, Question, Work
from semantoks.assess.parts.section import Section, Warnings
from semantoks.data.designs import AcrossStores
from semantoks.data.splits import Fold
from semantoks.evaluate.checks.duplicates import THRESHOLD
from semantoks.evaluate.checks.leaks import leak_alarms
from semantoks.evaluate.compare.cohort import Cohort
from semantoks.evaluate.compare.targets import target_values


def compute(work: Work) -> Found:
    """Look for what makes scores too good; see `semantoks.evaluate.checks.leaks`."""
    plan, store = work.plan, work.store
    folds, trained_on = _folds(work), None
    if isinstance(plan.design, AcrossStores):  # its rows come before those of the tested store
        n = len(plan.design.train)
        trained_on = plan.design.train.select(np.unique(np.concatenate([f.train for f in folds])))
        folds = [Fold(f.name, f.train[:0], f.test - n, f.repeat) for f in folds]
    found = leak_alarms(
        store,
        plan.targets,
        folds=folds,
        models={name: model.fit(store) for name, model in work.trained.items()},
        scores=work.comparison.scores,
        trained_on=trained_on,
        pretrained_on=plan.pretraining,
    )
    return Found(facts={"alarms": [alarm.to_dict() for alarm in found]})


def _folds(work: Work) -> list[Fold]:
    """Return the folds of all targets, rows as in the cohort."""
    plan, folds = work.plan, []
    cohort = Cohort.of(work.store, plan.design)
    for target in plan.targets:
        rows, y, kind = target_values(cohort, target, plan.missing)
        labels = y if kind == "classification" else None
        for fold in plan.design.folds(cohort.table.iloc[rows], labels, plan.seed):
            named = f"{target.column} {fold.name}"
            folds.append(Fold(named, rows[fold.train], rows[fold.test], fold.repeat))
    return folds


def sentence(found: Found) -> str:
    """Return the part's sentence in the methods paragraph."""
    n = len(found.facts["alarms"])
    raised = "no alarm was raised" if not n else f"{n} alarm{'s were' if n > 1 else ' was'} raised"
    return (
        "We checked for subjects in both parts, test data in pretraining, scans under two names "
        "(median over regions of the correlation over volumes at the best shift, at least "
        f"{THRESHOLD:g}), "
        f"targets associated with confounds and implausible scores ({raised})."
    )


def show(found: Found) -> Section:
    """Return the alarms; of people only how many there are."""
    rows = []
    for alarm in found.facts["alarms"]:
        names = alarm["found"]
        people = alarm.get("of_people", True)
        listed = f"{len(names)} named in alarms/part.json" if people else ", ".join(names)
        rows.append((alarm["severity"], alarm["what"], listed))
    none = (
        "No alarm: no shared or duplicate people, no test data in pretraining as far as is known, "
        "no target that follows site, scanner, TR or motion."
    )
    return Section("", [Warnings(rows, none)])


def notes(found: Found) -> Sequence[Note]:
    """Return what the command prints: every alarm with the first of what it found."""
    printed = []
    for alarm in found.facts["alarms"]:
        some = ", ".join(alarm["found"][:5]) + (", ..." if len(alarm["found"]) > 5 else "")
        printed.append((f"{alarm['severity'].upper()}: {alarm['what']}", [some]))
    return printed


QUESTION = Question(compute=compute, sentence=sentence, show=show, notes=notes, on_top=True)

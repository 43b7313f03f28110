"""`semantoks evaluate`, `paper-probe`, `report`: scores, controls and pages."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import click

from semantoks.assess.parts.table import PARTS, chosen_parts
from semantoks.assess.plan import Plan
from semantoks.commands.model import Crops, Device, Model, Store
from semantoks.commands.options import Argument, command
from semantoks.commands.output import records, show
from semantoks.data.designs import Division
from semantoks.flags import Flag

_log = logging.getLogger(__name__)


def _parts() -> tuple[str, ...]:
    return tuple(PARTS)


def _jobs(asked: int | None) -> int:
    """Return how many folds to fit at once: one per core that this process may use, at most 4."""
    from joblib import cpu_count

    if asked is not None and asked < 1:
        raise click.BadParameter("must be at least 1", param_hint="--jobs")
    return asked or min(cpu_count(), 4)


Targets = Annotated[
    tuple[str, ...],
    Flag(
        name="--target",
        metavar="COLUMN",
        panel="Question",
        help="Predict this column; column:classification or column:regression states its kind",
    ),
]


@command
def evaluate(
    store: Store,
    out: Annotated[Path, Argument("FOLDER", "Folder of the evaluation.")],
    plan: Annotated[Plan, Flag(panel="Question")],
    division: Annotated[Division, Flag(panel="Design")],
    model: Annotated[
        tuple[str, ...],
        Flag(
            metavar="MODEL",
            panel="Model",
            help="Evaluate this run, checkpoint, model folder, .pth or hf://owner/name, "
            "also as NAME=PATH; NAME='runs/small-*' takes several runs of one configuration as "
            "replicates; without one, the baselines alone",
        ),
    ] = (),
    features: Annotated[
        tuple[str, ...],
        Flag(
            metavar="FILE",
            panel="Model",
            help="Evaluate another model by this table of its features, also as NAME=FILE: a "
            "column id or subject, and columns of numbers",
        ),
    ] = (),
    only: Annotated[
        tuple[str, ...],
        Flag(
            metavar="PART",
            panel="Parts",
            known=_parts,
            help="Compute this part beyond the scores; by default all",
        ),
    ] = (),
    skip: Annotated[
        tuple[str, ...],
        Flag(metavar="PART", panel="Parts", known=_parts, help="Leave out this part"),
    ] = (),
    device: Device = "auto",
    jobs: Annotated[
        int | None,
        Flag(
            name="--jobs/-j",
            metavar="N",
            help="Fit this many folds at the same time, each with a copy of the features; by "
            "default one per core, at most 4",
        ),
    ] = None,
) -> None:
    """Compare models with controls; write the report.

    Every part looks for another explanation of the scores. Rerunning the command resumes it.
    """
    from semantoks.report.terminal import assessment_summary
    from semantoks.workflow.evaluate import REPORT, evaluate_store

    found = evaluate_store(
        store,
        out,
        models=model,
        features=features,
        plan=replace(plan, design=division.design()),
        parts=chosen_parts(only or None, skip),
        device=device,
        n_jobs=_jobs(jobs),
        say=_log.info,
    )
    result = found.comparison
    facts = {
        "report": out / REPORT,
        "scores": records(result.scores),
        "differences": records(result.differences),
        "battery": records(result.battery),
        "parts": [*found.parts],
        "no_verdict": {
            target: facts["counted"]["why_not"]
            for target, facts in result.meta["targets"].items()
            if facts["counted"]["why_not"]
        },
        "not_done": dict(found.why_not),
    }
    show(facts, assessment_summary(found), f"Report: {out / REPORT}")


@command
def paper_probe(
    store: Store,
    model: Model,
    target: Targets,
    repetitions: Annotated[
        int, Flag(metavar="N", panel="Design", help="Draw this many stratified splits.")
    ] = 10,
    crops: Crops = 8,
    seed: Annotated[int, Flag(metavar="N", help="Draw splits and probes by this seed.")] = 0,
) -> None:
    """Score a model by the paper's own probe.

    For a comparison with published numbers only: it mixes sites over the parts and has no
    controls. For claims use `semantoks evaluate`.
    """
    from semantoks.data.store import RecordingStore
    from semantoks.evaluate.compare import paper
    from semantoks.evaluate.compare.targets import Target
    from semantoks.evaluate.features.embed import Embedder

    recordings, lines, facts = RecordingStore(store), [], {}
    for name in target:
        scores = paper.paper_probe(
            recordings,
            Embedder(model, n_crops=crops),
            Target.parse(name),
            n_repetitions=repetitions,
            seed=seed,
        )
        mean, std = float(scores["value"].mean()), float(scores["value"].std())
        metric = str(scores["metric"].iloc[0])
        lines.append(f"{name}: {metric} {mean:.3f} +- {std:.3f} over {repetitions} splits")
        facts[name] = {"metric": metric, "mean": mean, "std": std, "values": [*scores["value"]]}
    show(facts, "\n".join(lines))


@command
def report(
    out: Annotated[Path, Argument("FILE", "New HTML file.")],
    run: Annotated[
        tuple[Path, ...], Flag(metavar="RUN", panel="Source", help="Show this run.")
    ] = (),
    result: Annotated[
        tuple[Path, ...],
        Flag(metavar="FOLDER", panel="Source", help="Show the results in this folder."),
    ] = (),
    store: Annotated[
        tuple[Path, ...], Flag(metavar="STORE", panel="Source", help="Show this store.")
    ] = (),
    together: Annotated[
        bool,
        Flag(
            panel="Source",
            help="Summarise the results over data sets too, by random effects; they must be of "
            "other people and of the same targets",
        ),
    ] = False,
) -> None:
    """Write one HTML page on runs, results and stores.

    It holds its own figures and works offline.
    """
    from semantoks.errors import InputError
    from semantoks.report.page import write_report

    if not (run or result or store):
        raise InputError("there is nothing to report", fix="Give --run, --result or --store")
    write_report(out, runs=run, results=result, stores=store, together=together)
    show({"report": out}, f"Report: {out}")

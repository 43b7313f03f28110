"""`semantoks ablate`, `compare`, `scale`, `demo`: many steps, or many runs, by one command."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from semantoks.commands.options import Argument, command
from semantoks.commands.output import progress, records, show
from semantoks.commands.train import Config, Preset, Stores, data_stores
from semantoks.files import write_file
from semantoks.flags import Flag
from semantoks.train.run import RunConfig
from semantoks.workflow.demo import SIZES
from semantoks.workflow.study import Probing

_log = logging.getLogger(__name__)

Overrides = Annotated[
    tuple[str, ...],
    Flag(
        name="--set",
        metavar="KEY=VALUE",
        panel="Model",
        help="Change a key of every run's configuration",
    ),
]


@command
def ablate(
    configs: Annotated[
        tuple[Path, ...], Argument("FILE...", "YAML files of runs; the first is the reference.")
    ],
    out: Annotated[Path, Flag(metavar="FOLDER", help="Write the study into this folder.")],
    probing: Annotated[Probing, Flag(panel="Question")],
    set_: Overrides = (),
    store: Stores = (),
) -> None:
    """Pretrain several configurations and compare them over seeds.

    Their probes are compared with those of the first, connectivity and random weights on the same
    folds. Rerunning the command resumes it.
    """
    from semantoks.workflow import study

    changes = [*set_, *data_stores(store)]
    result, summary = study.ablate(configs, out, probing, overrides=changes, say=_log.info)
    table = study.ablation_table(summary)
    write_file(out / "ablations.md", table)
    facts = {
        "table": out / "ablations.md",
        "summary": records(summary),
        "scores": records(result.scores),
    }
    show(facts, table)


@command
def compare(
    configs: Annotated[
        tuple[Path, ...], Argument("FILE...", "YAML files of runs; the first is the reference.")
    ],
    out: Annotated[Path, Flag(metavar="FOLDER", help="Write the study into this folder.")],
    probing: Annotated[Probing, Flag(panel="Question")],
    flops: Annotated[
        float | None,
        Flag(
            metavar="N",
            panel="Model",
            help="Floating-point operations of one pretraining; the first file's own by default",
        ),
    ] = None,
    set_: Overrides = (),
    store: Stores = (),
) -> None:
    """Compare objectives, each with the same compute.

    The epochs of every configuration follow from the measured operations of its steps. Scores with
    verdicts, costs, loss curves and collapse monitors are in one report. Rerunning the command
    resumes it.
    """
    from semantoks.workflow import compare as comparison

    changes = [*set_, *data_stores(store)]
    result, summary, costs = comparison.compare(
        configs, out, probing, flops=flops, overrides=changes, say=_log.info
    )
    table = (out / comparison.TABLES).read_text(encoding="utf-8")
    facts = {
        "report": out / comparison.REPORT,
        "summary": records(summary),
        "costs": records(costs),
        "scores": records(result.scores),
    }
    show(facts, table, f"Report: {out / comparison.REPORT}")


@command
def scale(
    out: Annotated[Path, Argument("FOLDER", "Folder of the study.")],
    n_subjects: Annotated[
        tuple[int, ...],
        Flag(metavar="N", panel="Question", help="Pretrain on this many people; give 2 or more"),
    ],
    probing: Annotated[Probing, Flag(panel="Question")],
    config: Config = None,
    preset: Preset = None,
    set_: Overrides = (),
    store: Stores = (),
) -> None:
    """Pretrain on more and more people; score the probes.

    Several seeds each; draws the scores beside connectivity and random weights. Rerunning the
    command resumes it.
    """
    from semantoks.workflow import study

    resolved = RunConfig.load(config, [*set_, *data_stores(store)], preset=preset)
    result, summary = study.scale(resolved, n_subjects, out, probing, say=_log.info)
    figure = out / "scaling.png"
    facts = {"figure": figure, "summary": records(summary), "scores": records(result.scores)}
    show(facts, study.ablation_table(summary), f"Figure: {figure}")


@command
def demo(
    out: Annotated[Path, Argument("FOLDER", "New folder for everything that the demo makes.")],
    size: Annotated[
        str,
        Flag(known=lambda: tuple(SIZES), help="Train this size; smallest takes seconds."),
    ] = "default",
) -> None:
    """Run all steps on recordings that come with it.

    Prepare, pretrain, evaluate and report, in a few minutes on two cores.
    """
    from semantoks.report.tables import score_tables
    from semantoks.workflow.demo import run_demo

    page, scores = run_demo(out, size, progress())
    facts = {"report": page, "scores": records(scores)}
    show(facts, score_tables(scores), f"Report: {page}")

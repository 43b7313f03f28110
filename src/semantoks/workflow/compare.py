"""Objectives side by side: several configurations under the same compute, and one report.

1. A step of every configuration is measured in floating-point operations: products of the learner,
   forward and backward, and of the teacher. Its epochs are as many as the given amount allows,
   rounded to whole ones; warm-up and schedules follow.
2. All are pretrained with several seeds and probed as in `semantoks.workflow.study`.
3. The report shows scores with intervals and verdicts, what each run cost, its loss curves and its
   collapse monitors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from semantoks.errors import ConfigError
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.files import write_file
from semantoks.report.page import write_report
from semantoks.train.run import RunConfig
from semantoks.train.setup import METRICS
from semantoks.train.trainer import Trainer
from semantoks.workflow.study import Probing, ablation_table, load_all, pretrain_all, probe_all

#: Names of the page and of the tables in the folder of a comparison.
REPORT, TABLES = "report.html", "comparison.md"


def compare(
    files: Sequence[str | Path],
    out: str | Path,
    probing: Probing,
    *,
    flops: float | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> tuple[ProbeResult, pd.DataFrame, pd.DataFrame]:
    """Pretrain every configuration under the same compute and compare their probes.

    Parameters
    ----------
    files : sequence of path
        YAML files of runs; the first is the reference. Their stems name them.
    out : path
        Folder of the study: ``runs/STEM-SEED``, ``result``, ``report.html`` and ``comparison.md``.
    probing : Probing
    flops : float, optional
        Floating-point operations of one pretraining; what the first configuration takes, if None.
    overrides : sequence of str
        ``key.sub=value`` for all runs.
    say : callable
        Told what happens.

    Returns
    -------
    result : ProbeResult
        Models are called by their stem; their replicates are the seeds.
    summary : DataFrame
        See `semantoks.workflow.study.summarise`; the reference is the first configuration.
    costs : DataFrame
        See `costs`.

    Raises
    ------
    ConfigError
        If two files have the same stem, a configuration is illegal, or `flops` are too few for its
        warm-up.
    InputError
        If the result is there already.
    """
    folder, configs = Path(out), load_all(files, overrides)
    measured = {name: measure(config) for name, config in configs.items()}
    reference = next(iter(configs))
    budget = flops or configs[reference].optim.epochs * measured[reference]
    equal = {
        name: _with_budget(name, config, budget, measured[name]) for name, config in configs.items()
    }
    for name, config in equal.items():
        say(f"{name}: {config.optim.epochs} epochs of {measured[name]:.3g} operations")
    runs = pretrain_all(equal, folder, probing, say)
    result, summary = probe_all(runs, folder, probing, configs[reference].data.stores[0])
    spent = costs(runs, equal, measured)
    write_file(folder / TABLES, f"{ablation_table(summary)}\n{cost_table(spent)}", overwrite=True)
    page = folder / REPORT
    page.unlink(missing_ok=True)
    every = [run for of_one in runs.values() for run in of_one]
    write_report(page, results=[folder / "result"], runs=every)
    return result, summary, spent


def measure(config: RunConfig) -> float:
    """Return the floating-point operations of an epoch of pretraining."""
    plain = replace(
        config.train,
        precision="float32",
        compile=False,
        accumulate=1,
        checkpoint_activations=False,
        keep_best=False,
    )
    with TemporaryDirectory() as folder:
        trainer = Trainer(replace(config, train=plain), Path(folder) / "run")
        return trainer.flops_per_step() * trainer.n_steps / config.optim.epochs


def _with_budget(name: str, config: RunConfig, flops: float, per_epoch: float) -> RunConfig:
    epochs = round(flops / per_epoch)
    if epochs <= config.optim.warmup_epochs:
        raise ConfigError(
            f"allow {epochs} epochs of {name}, whose warm-up has {config.optim.warmup_epochs:g}",
            field="flops",
            value=flops,
            fix="Allow more, or set optim.warmup_epochs lower",
        )
    return replace(config, optim=replace(config.optim, epochs=epochs))


def costs(
    runs: Mapping[str, Sequence[Path]],
    configs: Mapping[str, RunConfig],
    per_epoch: Mapping[str, float],
) -> pd.DataFrame:
    """Return what every configuration cost, and its collapse monitors at the end.

    Returns
    -------
    DataFrame
        model, objective, epochs, steps, flops (of one run), seconds (of one run, summed over
        interruptions as far as they were logged), loss, effective_rank and mean_cosine of a
        batch's embeddings at the end; the last four are means over seeds.
    """
    rows = []
    for name, folders in runs.items():
        last = pd.DataFrame(
            json.loads((run / METRICS).read_text(encoding="utf-8").splitlines()[-1])
            for run in folders
        )
        means = last[["seconds", "loss", "effective_rank", "mean_cosine"]].mean()
        rows.append(
            {
                "model": name,
                "objective": configs[name].objective.kind,
                "epochs": configs[name].optim.epochs,
                "steps": int(last["n_steps"].iloc[0]),
                "flops": per_epoch[name] * configs[name].optim.epochs,
                **means.to_dict(),
            }
        )
    return pd.DataFrame(rows)


def cost_table(spent: pd.DataFrame) -> str:
    """Return `costs` as a Markdown table."""
    forms = {
        "flops": "{:.3g}",
        "seconds": "{:.0f}",
        "loss": "{:.3f}",
        "effective_rank": "{:.1f}",
        "mean_cosine": "{:.3f}",
    }
    lines = [[*spent.columns], ["---"] * len(spent.columns)]
    lines += [
        [forms.get(str(name), "{}").format(value) for name, value in row.items()]
        for row in spent.to_dict("records")
    ]
    table = "\n".join(f"| {' | '.join(line).replace('_', ' ')} |" for line in lines)
    return f"{table}\n\nOf one run; the last four columns are means over seeds, at the last step.\n"

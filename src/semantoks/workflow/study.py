"""Studies of many runs: ablations, and scores against the number of people in pretraining.

Every run of a study is an ordinary run with its own folder, so that rerunning an interrupted study
resumes it. Test sites are left out of the pretraining of every run. Where a run mixes several
stores, the first is the one that is probed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from semantoks.data.designs import design_for
from semantoks.data.store import RecordingStore
from semantoks.errors import ConfigError, InputError
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import RANDOM
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.stats.metrics import LOWER_IS_BETTER, METRICS, resamples
from semantoks.figures.style import PALETTE
from semantoks.files import staged_file
from semantoks.flags import Flag
from semantoks.model.pretrained import load_pretrained
from semantoks.train.run import RunConfig
from semantoks.train.setup import CONFIG, training_recordings
from semantoks.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Probing:
    """How the runs of a study are compared."""

    targets: Annotated[tuple[str, ...], Flag(name="--target", metavar="COLUMN")]
    """Predict this column; column:classification or column:regression states its kind."""
    groups: Literal["subject", "site"] = "subject"
    """Keep these together in one fold."""
    test_sites: Annotated[tuple[str, ...], Flag(name="--test-site", metavar="SITE")] = ()
    """Test this site and leave it out of every pretraining; needs groups by site."""
    n_crops: Annotated[int, Flag(name="--crops", metavar="N")] = 8
    """Average over this many evenly spaced crops per recording."""
    seed: int = 0
    """Draw folds and bootstrap samples by this seed."""


def ablate(
    files: Sequence[str | Path],
    out: str | Path,
    probing: Probing,
    *,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> ProbeResult:
    """Pretrain every configuration and compare their probes with the first one's.

    Parameters
    ----------
    files : sequence of path
        YAML files of runs; the first is the reference. Their stems name them.
    out : path
        Folder of the study: ``runs/STEM`` and ``result``.
    probing : Probing
    overrides : sequence of str
        ``key.sub=value`` for all runs (the store, the number of epochs).
    say : callable
        Told what happens.

    Returns
    -------
    ProbeResult
        Its `differences` are those to the first configuration, paired over people.

    Raises
    ------
    ConfigError
        If two files have the same stem, or a configuration is illegal.
    InputError
        If the result is there already.
    """
    stems = [Path(file).stem for file in files]
    if len(set(stems)) != len(stems) or not stems:
        raise ConfigError("every configuration needs a file name of its own", value=stems)
    configs = {
        stem: RunConfig.load(file, overrides) for stem, file in zip(stems, files, strict=True)
    }
    runs = _pretrain_all(configs, Path(out), probing, say)
    return _compare(runs, Path(out), probing, configs[stems[0]].data.stores[0])


def scale(
    config: RunConfig,
    n_subjects: Sequence[int],
    out: str | Path,
    probing: Probing,
    *,
    say: Callable[[str], None] = print,
) -> tuple[ProbeResult, pd.DataFrame]:
    """Pretrain on more and more people and fit a power law to the probes' scores.

    The groups of people are nested. Every run makes the same number of epochs.

    Parameters
    ----------
    config : RunConfig
    n_subjects : sequence of int
        Numbers of people in pretraining, at least 3 of them.
    out : path
        Folder of the study: ``runs/N``, ``result``, ``scaling.tsv`` and ``scaling.png``.
    probing : Probing
    say : callable

    Returns
    -------
    result : ProbeResult
    fits : DataFrame
        See `fit_power_laws`.
    """
    sizes = sorted(set(n_subjects))
    if len(sizes) < 3 or sizes[0] < 2:
        raise ConfigError(
            "a curve needs at least 3 different numbers of people, 2 or more each",
            field="n_subjects",
            value=list(n_subjects),
        )
    configs = {str(n): replace(config, data=replace(config.data, n_subjects=n)) for n in sizes}
    folder = Path(out)
    runs = _pretrain_all(configs, folder, probing, say)
    result = _compare(runs, folder, probing, config.data.stores[0])
    fits = fit_power_laws(result, sizes, seed=probing.seed)
    with staged_file(folder / "scaling.tsv") as table:
        fits.to_csv(table, sep="\t", index=False)
    with staged_file(folder / "scaling.png") as picture:
        scaling_figure(result, sizes, fits).savefig(picture, dpi=160)
    return result, fits


def _pretrain_all(
    configs: Mapping[str, RunConfig], out: Path, probing: Probing, say: Callable[[str], None]
) -> dict[str, Path]:
    if (out / "result").exists():
        raise InputError("holds the result of a study already", file=out, fix="Choose another")
    ready = {}
    for name, config in configs.items():
        tested: Sequence[str] = probing.test_sites
        if len(config.data.stores) > 1:  # the first of them is probed
            tested = [f"{Path(config.data.stores[0]).name}:{site}" for site in tested]
        excluded = tuple(dict.fromkeys([*config.data.exclude_sites, *tested]))
        config = replace(config, data=replace(config.data, exclude_sites=excluded))
        training_recordings(config)  # every run's data, before the first hour of the first run
        ready[name] = config
    runs = {}
    for i, (name, config) in enumerate(ready.items()):
        run = out / "runs" / name
        trainer = Trainer(config, run, resume=(run / CONFIG).exists())
        say(f"{i + 1}/{len(ready)} {name}: from step {trainer.step} of {trainer.n_steps}")
        trainer.fit()
        if trainer.step < trainer.n_steps:
            raise KeyboardInterrupt
        runs[name] = run
    return runs


def _compare(runs: Mapping[str, Path], out: Path, probing: Probing, store: str) -> ProbeResult:
    reference = next(iter(runs))
    encoder = load_pretrained(runs[reference])
    control = encoder.with_random_weights(probing.seed)
    models: dict[str, Any] = {
        name: Embedder(run, n_crops=probing.n_crops) for name, run in runs.items()
    }
    models[RANDOM] = Embedder(control, n_crops=probing.n_crops)
    result = evaluate_probes(
        RecordingStore(store),
        models,
        [Target.parse(target) for target in probing.targets],
        design=design_for(probing.groups, probing.test_sites),
        against=(reference,),
        seed=probing.seed,
    )
    result.save(out / "result")
    return result


def fit_power_laws(
    result: ProbeResult, sizes: Sequence[int], *, n_bootstrap: int = 500, seed: int = 0
) -> pd.DataFrame:
    """Fit ``1 - score = k * n ** -c`` to the first metric of every target.

    Parameters
    ----------
    result : ProbeResult
        Models named after the numbers of people.
    sizes : sequence of int
    n_bootstrap : int
        Bootstrap samples of tested people, the same for all sizes.
    seed : int

    Returns
    -------
    DataFrame
        Columns target, metric, k, c, c_low, c_high: c > 0 is a score that grows with people, and
        its 95 % interval.
    """
    rows = []
    for target, facts in result.meta["targets"].items():
        name, metric = next(iter(METRICS[facts["kind"]].items()))
        if name in LOWER_IS_BETTER:
            raise InputError("has no best value of 1", field="metric", value=name)
        y, predicted = result.arrays(target, [str(n) for n in sizes])
        strata = y if facts["kind"] == "classification" else None
        samples = resamples(len(y), n_bootstrap, seed, strata)
        k, c = _power_law(sizes, [metric(y, p) for p in predicted])
        drawn = [_power_law(sizes, [metric(y[s], p[s]) for p in predicted])[1] for s in samples]
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        row = {"target": target, "metric": name, "k": k, "c": c, "c_low": low, "c_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def _power_law(sizes: Sequence[int], scores: Sequence[float]) -> tuple[float, float]:
    """Return k and c of the least-squares line through the logarithms."""
    slope, intercept = np.polyfit(
        np.log(sizes), np.log(np.maximum(1.0 - np.array(scores), 1e-9)), 1
    )
    return float(np.exp(intercept)), float(-slope)


def scaling_figure(result: ProbeResult, sizes: Sequence[int], fits: pd.DataFrame) -> Figure:
    """Draw the scores against the number of people in pretraining, with the fitted power laws."""
    figure = Figure(figsize=(3.6 * len(fits), 3.2), layout="constrained")
    for i, fit in enumerate(fits.to_dict("records")):
        axes = figure.add_subplot(1, len(fits), i + 1)
        scores = result.scores.query("target == @fit['target'] and metric == @fit['metric']")
        scores = scores.set_index("model").loc[[str(n) for n in sizes]]
        low = scores["value"] - scores["ci_low"]
        high = scores["ci_high"] - scores["value"]
        axes.errorbar(sizes, scores["value"], [low, high], fmt="o", color=PALETTE[0], capsize=2)
        line = np.geomspace(sizes[0], sizes[-1], 60)
        axes.plot(line, 1.0 - fit["k"] * line ** -fit["c"], color=PALETTE[1])
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
        axes.set_xlabel("people in pretraining")
        axes.set_ylabel(fit["metric"])
        interval = f"[{fit['c_low']:.3f}, {fit['c_high']:.3f}]"
        axes.set_title(f"{fit['target']}: exponent {fit['c']:.3f} {interval}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def ablation_table(result: ProbeResult) -> str:
    """Return the first metric of every target and the paired differences as a Markdown table."""
    head = ["configuration"]
    body: dict[str, list[str]] = {}
    for target, facts in result.meta["targets"].items():
        name = next(iter(METRICS[facts["kind"]]))
        head += [f"{target}, {name}", "difference"]
        scores = result.scores.query("target == @target and metric == @name")
        gaps = result.differences.query("target == @target and metric == @name").set_index("model")
        for row in scores.to_dict("records"):
            cells = body.setdefault(row["model"], [])
            cells.append(_with_interval(row, "{:.3f}"))
            known = row["model"] in gaps.index
            cells.append(_with_interval(gaps.loc[row["model"]], "{:+.3f}") if known else "")
    lines = [head, ["---"] * len(head), *([model, *cells] for model, cells in body.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _with_interval(row: Mapping[Any, Any] | pd.Series, form: str) -> str:
    value, low, high = (form.format(row[name]) for name in ("value", "ci_low", "ci_high"))
    return f"{value} [{low}, {high}]"

"""Studies of many runs: ablations, and scores against the number of people in pretraining.

1. Every configuration is pretrained with several seeds. A run is an ordinary run with its own
   folder, so that rerunning an interrupted study resumes it. Test sites are left out of the
   pretraining of every run. Where a run mixes several stores, the first is the one that is probed.
2. All runs are probed on the same folds, with functional connectivity, spectral connectivity and as
   many draws of random weights.
3. A score is the mean over seeds; intervals and verdicts count people and seeds
   (`semantoks.evaluate.compare.scoring`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from semantoks.data.designs import design_for
from semantoks.data.store import RecordingStore
from semantoks.errors import ConfigError, InputError
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CHANCE, CONNECTIVITY, RANDOM, SPECTRAL
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.stats.metrics import METRICS
from semantoks.figures.style import PALETTE
from semantoks.files import staged_file
from semantoks.flags import Flag
from semantoks.model.encoder import Encoder
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
    n_seeds: Annotated[int, Flag(name="--seeds", metavar="N")] = 3
    """Pretrain every configuration with this many seeds, from its own on."""
    n_random: Annotated[int, Flag(name="--random-draws", metavar="N")] = 5
    """Draw the random weights that models are compared with this many times."""
    seed: int = 0
    """Draw folds and bootstrap samples by this seed."""

    def __post_init__(self) -> None:
        for name in ("n_seeds", "n_random"):
            if getattr(self, name) < 1:
                raise ConfigError("must be at least 1", field=name, value=getattr(self, name))


def ablate(
    files: Sequence[str | Path],
    out: str | Path,
    probing: Probing,
    *,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> tuple[ProbeResult, pd.DataFrame]:
    """Pretrain every configuration with several seeds and compare their probes with the first's.

    Parameters
    ----------
    files : sequence of path
        YAML files of runs; the first is the reference. Their stems name them.
    out : path
        Folder of the study: ``runs/STEM-SEED`` and ``result``.
    probing : Probing
    overrides : sequence of str
        ``key.sub=value`` for all runs (the store, the number of epochs).
    say : callable
        Told what happens.

    Returns
    -------
    result : ProbeResult
        Models are called by their stem; their replicates are the seeds.
    summary : DataFrame
        See `summarise`; the reference is the first configuration.

    Raises
    ------
    ConfigError
        If two files have the same stem, or a configuration is illegal.
    InputError
        If the result is there already.
    """
    configs = load_all(files, overrides)
    runs = pretrain_all(configs, Path(out), probing, say)
    return probe_all(runs, Path(out), probing, next(iter(configs.values())).data.stores[0])


def load_all(files: Sequence[str | Path], overrides: Sequence[str]) -> dict[str, RunConfig]:
    """Return the configurations of the runs of a study by the stems of their files.

    Raises
    ------
    ConfigError
        If two files have the same stem, or a configuration is illegal.
    """
    stems = [Path(file).stem for file in files]
    if len(set(stems)) != len(stems) or not stems:
        raise ConfigError("every configuration needs a file name of its own", value=stems)
    return {stem: RunConfig.load(file, overrides) for stem, file in zip(stems, files, strict=True)}


#: Baselines in every study, beside random weights.
_BASELINES = (CONNECTIVITY, SPECTRAL)


def scale(
    config: RunConfig,
    n_subjects: Sequence[int],
    out: str | Path,
    probing: Probing,
    *,
    say: Callable[[str], None] = print,
) -> tuple[ProbeResult, pd.DataFrame]:
    """Pretrain on more and more people and score the probes.

    The groups of people of one seed are nested; another seed draws other people. Every run makes
    the same number of epochs, so that more people also mean more steps. No law is fitted: a few
    sizes do not determine an asymptote, and without one an exponent means nothing.

    Parameters
    ----------
    config : RunConfig
    n_subjects : sequence of int
        Numbers of people in pretraining, at least 2 of them.
    out : path
        Folder of the study: ``runs/N-SEED``, ``result``, ``scaling.tsv`` and ``scaling.png``.
    probing : Probing
    say : callable

    Returns
    -------
    result : ProbeResult
        Models are called by their number of people; their replicates are the seeds.
    summary : DataFrame
        See `summarise`; with the column n_subjects, missing for baselines.
    """
    sizes = sorted(set(n_subjects))
    if len(sizes) < 2 or sizes[0] < 2:
        raise ConfigError(
            "a curve needs at least 2 different numbers of people, 2 or more each",
            field="n_subjects",
            value=list(n_subjects),
        )
    configs = {str(n): replace(config, data=replace(config.data, n_subjects=n)) for n in sizes}
    folder = Path(out)
    runs = pretrain_all(configs, folder, probing, say)
    result, summary = probe_all(runs, folder, probing, config.data.stores[0])
    summary.insert(
        0, "n_subjects", pd.to_numeric(summary["model"], errors="coerce").astype("Int64")
    )
    with staged_file(folder / "scaling.tsv") as table:
        summary.to_csv(table, sep="\t", index=False)
    with staged_file(folder / "scaling.png") as picture:
        scaling_figure(result, summary).savefig(picture, dpi=160)
    return result, summary


def _seeded(name: str, seed: int) -> str:
    return f"{name} (seed {seed})"


def pretrain_all(
    configs: Mapping[str, RunConfig], out: Path, probing: Probing, say: Callable[[str], None]
) -> dict[str, list[Path]]:
    """Return the runs of every configuration, one per seed."""
    if (out / "result").exists():
        raise InputError(
            "holds the result of a study already", file=out, fix="Choose another folder"
        )
    ready: dict[tuple[str, int], RunConfig] = {}
    for name, config in configs.items():
        tested: Sequence[str] = probing.test_sites
        if len(config.data.stores) > 1:  # the first of them is probed
            tested = [f"{Path(config.data.stores[0]).name}:{site}" for site in tested]
        excluded = tuple(dict.fromkeys([*config.data.exclude_sites, *tested]))
        config = replace(config, data=replace(config.data, exclude_sites=excluded))
        for seed in range(config.seed, config.seed + probing.n_seeds):
            ready[name, seed] = replace(config, seed=seed)
            # Every run's data are opened before the first hour of the first run.
            training_recordings(ready[name, seed])
    runs: dict[str, list[Path]] = {name: [] for name in configs}
    for i, ((name, seed), config) in enumerate(ready.items()):
        run = out / "runs" / f"{name}-{seed}"
        trainer = Trainer(config, run, resume=(run / CONFIG).exists())
        called = _seeded(name, seed)
        say(f"{i + 1}/{len(ready)} {called}: from step {trainer.step} of {trainer.n_steps}")
        trainer.fit()
        if trainer.step < trainer.n_steps:
            raise KeyboardInterrupt
        runs[name].append(run)
    return runs


def probe_all(
    runs: Mapping[str, Sequence[Path]], out: Path, probing: Probing, store: str
) -> tuple[ProbeResult, pd.DataFrame]:
    """Probe all runs, random weights and the baselines on the same folds."""
    reference = next(iter(runs))
    encoder = load_pretrained(runs[reference][0])
    random: list[Path | Encoder] = [
        encoder.with_random_weights(seed)
        for seed in range(probing.seed, probing.seed + probing.n_random)
    ]
    models = {
        name: [Embedder(source, n_crops=probing.n_crops) for source in sources]
        for name, sources in (*runs.items(), (RANDOM, random))
    }
    result = evaluate_probes(
        RecordingStore(store),
        models,
        [Target.parse(target) for target in probing.targets],
        design=design_for(probing.groups, probing.test_sites),
        baselines=_BASELINES,
        against=(reference, CONNECTIVITY),
        seed=probing.seed,
    )
    result.save(out / "result")
    return result, summarise(result, reference)


def summarise(result: ProbeResult, reference: str) -> pd.DataFrame:
    """Return the first metric of every target over the seeds of every configuration.

    Parameters
    ----------
    result : ProbeResult
        Of models whose replicates are the seeds.
    reference : str
        The configuration that others are compared with.

    Returns
    -------
    DataFrame
        target, metric, model (the configuration), n_seeds; value, ci_low, ci_high, the mean over
        seeds and its 95 % interval over tested people and seeds; sd, the standard deviation over
        seeds (missing for one); difference, difference_low, difference_high and verdict, the same
        of the gap to the reference.
    """
    of = ["target", "metric", "model"]
    first = result.scores.groupby("target")["metric"].transform("first")
    scores = result.scores[result.scores["metric"] == first].rename(
        columns={"n_replicates": "n_seeds"}
    )
    scores["sd"] = [
        np.std(seed_scores(result, *names), ddof=1) if n > 1 else np.nan
        for *names, n in scores[[*of, "n_seeds"]].itertuples(index=False)
    ]
    gaps = result.differences[result.differences["against"] == reference].rename(
        columns={"value": "difference", "ci_low": "difference_low", "ci_high": "difference_high"}
    )
    told = ["difference", "difference_low", "difference_high", "verdict"]
    kept = [*of, "n_seeds", "value", "ci_low", "ci_high", "sd"]
    summary: pd.DataFrame = scores[kept].merge(gaps[[*of, *told]], how="left", on=of)
    return summary


def seed_scores(result: ProbeResult, target: str, metric: str, model: str) -> list[float]:
    """Return the score of every seed of a model."""
    tested = result.outcomes(target, [model, CHANCE])
    measured = METRICS[result.meta["targets"][target]["kind"]][metric]
    return [one.value for one in tested.jackknives(measured, model, tested.tested(CHANCE))]


def scaling_figure(result: ProbeResult, summary: pd.DataFrame) -> Figure:
    """Draw the scores of every seed against the people in pretraining, with the baselines.

    The band around random weights is one standard deviation over their draws.
    """
    targets = [*dict.fromkeys(summary["target"])]
    figure = Figure(figsize=(3.6 * len(targets), 3.4), layout="constrained")
    for i, target in enumerate(targets):
        axes = figure.add_subplot(1, len(targets), i + 1)
        rows = summary[summary["target"] == target]
        metric = rows["metric"].iloc[0]
        curve, rest = rows[rows["n_subjects"].notna()], rows[rows["n_subjects"].isna()]
        sizes = curve["n_subjects"].astype(int).tolist()
        for size in sizes:
            seeds = seed_scores(result, target, metric, str(size))
            axes.plot([size] * len(seeds), seeds, ".", color=PALETTE[0], alpha=0.6)
        axes.plot(sizes, curve["value"], "-", color=PALETTE[0], label="mean over seeds")
        for row, colour in zip(rest.to_dict("records"), PALETTE[1:], strict=False):
            axes.axhline(row["value"], color=colour, linestyle="--", label=row["model"])
            if row["n_seeds"] > 1:
                low, high = row["value"] - row["sd"], row["value"] + row["sd"]
                axes.axhspan(low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
        axes.set_xlabel("people in pretraining")
        axes.set_ylabel(metric)
        axes.set_title(target, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7
    )
    return figure


def ablation_table(summary: pd.DataFrame) -> str:
    """Return the scores and differences of `summarise` as a Markdown table, with what they are."""
    reference = summary["model"].iloc[0]
    head, body = ["configuration", "seeds"], dict[str, list[str]]()
    for (target, metric), rows in summary.groupby(["target", "metric"], sort=False):
        head += [f"{target}, {metric}", f"minus {reference}"]
        for row in rows.to_dict("records"):
            cells = body.setdefault(row["model"], [str(row["n_seeds"])])
            spread = "" if np.isnan(row["sd"]) else f" ± {row['sd']:.3f}"
            score = f"{row['value']:.3f}{spread} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
            cells.append("" if np.isnan(row["value"]) else score)
            gap = [row[f"difference{end}"] for end in ("", "_low", "_high")]
            verdict = f" {row['verdict']}" if row["verdict"] in ("better", "worse") else ""
            told = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*gap) + verdict
            cells.append("" if np.isnan(gap[0]) else told)
    lines = [head, ["---"] * len(head), *([model, *cells] for model, cells in body.items())]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"{table}\n\nMean over seeds ± their standard deviation [95 % interval over tested people "
        f"and seeds]. Without better or worse, the difference to {reference} is not significant "
        "(Holm over all rows and targets).\n"
    )

"""Command line: one thin function per subcommand. Heavy imports wait until a command runs."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semantoks import __version__
from semantoks.errors import ConfigError, InputError, SemantoksError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="semantoks",
    help="Foundation models of brain dynamics: from parcellated fMRI to honest prediction.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


MODEL_HELP = "A run, checkpoint or model folder, the authors' .pth, or owner/name on the hub."


class MissingRois(StrEnum):
    """What to do with ROIs that have no data."""

    refuse = "refuse"
    mark = "mark"


class Groups(StrEnum):
    """What stays together in one fold."""

    subject = "subject"
    site = "site"


class Preset(StrEnum):
    """Size of the model."""

    paper = "paper"
    small = "small"
    tiny = "tiny"


class DemoSize(StrEnum):
    """How long the demo takes."""

    default = "default"
    smallest = "smallest"


def _console() -> Console:
    from rich.console import Console

    return Console()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="A table of files, a shipped sample (stages, abide-sample), or abide (download)."
        ),
    ],
    store: Annotated[Path, typer.Argument(help="Folder of the new store.")],
    atlas: Annotated[
        str | None, typer.Option(help="Parcellation: a built-in name or a TSV of your own.")
    ] = None,
    source_tr: Annotated[
        float | None, typer.Option(help="TR of the files, s, where no column or sidecar says it.")
    ] = None,
    tr: Annotated[float, typer.Option(help="TR of the store, s.")] = 2.0,
    low_hz: Annotated[float, typer.Option(help="Lower edge of the band, Hz; 0: none.")] = 0.01,
    high_hz: Annotated[float, typer.Option(help="Upper edge of the band, Hz; 0: none.")] = 0.1,
    missing_rois: Annotated[
        MissingRois, typer.Option(help="ROIs without data: refuse the recording, or mark them.")
    ] = MissingRois.refuse,
) -> None:
    """Read recordings, check and preprocess them, and write a store."""
    from semantoks.data.signal import Preprocessing
    from semantoks.tables import listing
    from semantoks.workflow import describe_path, prepare_store

    preprocessing = Preprocessing(tr=tr, low_hz=low_hz or None, high_hz=high_hz or None)
    made = prepare_store(
        source,
        store,
        atlas=atlas,
        preprocessing=preprocessing,
        source_tr=source_tr,
        missing_rois=missing_rois.value,
    )
    _console().print(listing(describe_path(str(made.path))))


@app.command()
def pretrain(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key.sub=value; `semantoks config` lists them.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with what differs from the preset.")
    ] = None,
    preset: Annotated[
        Preset | None, typer.Option(help="Size of the model; the file's `preset`, or paper.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Recording store: data.store.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run.")] = False,
) -> None:
    """Pretrain an encoder on the recordings of a store, without labels."""
    from semantoks.train.run import RunConfig
    from semantoks.train.screen import TrainingScreen
    from semantoks.train.setup import CONFIG
    from semantoks.train.trainer import Trainer

    if resume and config is None and preset is None and (run / CONFIG).exists():
        config = run / CONFIG
    changes = [*(overrides or ()), *([f"data.store={store}"] if store else ())]
    resolved = RunConfig.load(config, changes, preset=preset.value if preset else None)
    console = _console()
    with TrainingScreen(console) as screen:
        trainer = Trainer(resolved, run, resume=resume, reporter=screen)
        folder = trainer.fit()
    if trainer.step < trainer.n_steps:
        console.print(f"Stopped at step {trainer.step} of {trainer.n_steps}; saved {folder}.")
        console.print(f"Continue with: semantoks pretrain {run} --resume")
        raise typer.Exit(130)
    console.print(f"Trained {trainer.n_steps} steps; the weights are in {folder}")


@app.command()
def embed(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    store: Annotated[Path, typer.Argument(help="Recording store.")],
    out: Annotated[Path, typer.Argument(help="New table: .parquet, .csv or .tsv.")],
    crops: Annotated[int, typer.Option(help="Evenly spaced crops per recording.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    engine: Annotated[str, typer.Option(help="torch, onnx, openvino, auto.")] = "torch",
    precision: Annotated[str, typer.Option(help="float32, or low: faster, nearly equal.")] = (
        "float32"
    ),
) -> None:
    """Embed the recordings of a store: one row per recording."""
    from semantoks.workflow import embed_store

    table = embed_store(
        model,
        store,
        out,
        n_crops=crops,
        device=device,
        engine=engine,  # type: ignore[arg-type] # checked by Embedder, like the next
        precision=precision,  # type: ignore[arg-type]
    )
    _console().print(f"{len(table)} recordings embedded: {out}")


@app.command()
def probe(
    store: Annotated[Path, typer.Argument(help="Recording store.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new result.")],
    target: Annotated[
        list[str],
        typer.Option(help="Column to predict, or column:classification, column:regression."),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"{MODEL_HELP} May be repeated; none: connectivity alone."),
    ] = None,
    groups: Annotated[
        Groups, typer.Option(help="subject: grouped folds; site: leave one site out.")
    ] = Groups.subject,
    test_site: Annotated[
        list[str] | None, typer.Option(help="Only these sites are tested (with --groups site).")
    ] = None,
    drop_missing: Annotated[
        bool, typer.Option("--drop-missing", help="Leave out recordings without the label.")
    ] = False,
    crops: Annotated[int, typer.Option(help="Evenly spaced crops per recording.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of folds, random weights, bootstrap.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
) -> None:
    """Predict targets from frozen embeddings, next to connectivity and random weights."""
    from semantoks.tables import score_tables
    from semantoks.workflow import probe_store

    result = probe_store(
        store,
        out,
        models=model or [],
        targets=target,
        groups=groups.value,
        test_sites=test_site or None,
        missing="drop" if drop_missing else "refuse",
        n_crops=crops,
        seed=seed,
        device=device,
    )
    _console().print(score_tables(result.scores))


@app.command()
def paper_probe(
    store: Annotated[Path, typer.Argument(help="Recording store.")],
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    target: Annotated[list[str], typer.Option(help="Column, or column:kind, to predict.")],
    repetitions: Annotated[int, typer.Option(help="Random stratified splits.")] = 10,
    crops: Annotated[int, typer.Option(help="Evenly spaced crops per recording.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of splits and probes.")] = 0,
) -> None:
    """Score a model by the paper's own probe, to compare with published numbers.

    It mixes sites over the parts and has no controls: for claims use `semantoks probe`.
    """
    from semantoks.data.store import RecordingStore
    from semantoks.evaluate.embed import Embedder
    from semantoks.evaluate.protocol import paper_probe
    from semantoks.workflow import parse_target

    recordings = RecordingStore(store)
    for name in target:
        scores = paper_probe(
            recordings,
            Embedder(model, n_crops=crops),
            parse_target(name),
            n_repetitions=repetitions,
            seed=seed,
        )
        mean, std = scores["value"].mean(), scores["value"].std()
        metric = scores["metric"].iloc[0]
        typer.echo(f"{name}: {metric} {mean:.3f} +- {std:.3f} over {repetitions} splits")


@app.command()
def ablate(
    configs: Annotated[
        list[Path], typer.Argument(help="YAML files of runs; the first is the reference.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the study.")],
    target: Annotated[list[str], typer.Option(help="Column, or column:kind, to predict.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key.sub=value for all runs.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Recording store: data.store.")] = None,
    groups: Annotated[Groups, typer.Option(help="What stays together in one fold.")] = (
        Groups.subject
    ),
    test_site: Annotated[
        list[str] | None, typer.Option(help="Tested, and left out of every pretraining.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds and bootstrap.")] = 0,
) -> None:
    """Pretrain a list of configurations and compare their probes with the first one's."""
    from semantoks.studies import Probing, ablate, ablation_table

    console = _console()
    changes = [*(set_ or ()), *([f"data.store={store}"] if store else ())]
    probing = Probing(
        targets=tuple(target),
        groups=groups.value,
        test_sites=tuple(test_site or ()),
        seed=seed,
    )
    result = ablate(configs, out, probing, overrides=changes, say=console.print)
    table = ablation_table(result)
    (out / "ablations.md").write_text(table, encoding="utf-8")
    typer.echo(table)


@app.command()
def scale(
    out: Annotated[Path, typer.Argument(help="Folder of the study.")],
    n_subjects: Annotated[list[int], typer.Option(help="People in pretraining; repeat it.")],
    target: Annotated[list[str], typer.Option(help="Column, or column:kind, to predict.")],
    config: Annotated[Path | None, typer.Option(help="YAML file of the run.")] = None,
    preset: Annotated[Preset | None, typer.Option(help="Size of the model.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key.sub=value.")] = None,
    store: Annotated[Path | None, typer.Option(help="Recording store: data.store.")] = None,
    groups: Annotated[Groups, typer.Option(help="What stays together in one fold.")] = (
        Groups.subject
    ),
    test_site: Annotated[
        list[str] | None, typer.Option(help="Tested, and left out of every pretraining.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds and bootstrap.")] = 0,
) -> None:
    """Pretrain on more and more people; fit a power law to the probes' scores."""
    from semantoks.studies import Probing, scale
    from semantoks.train.run import RunConfig

    console = _console()
    changes = [*(set_ or ()), *([f"data.store={store}"] if store else ())]
    resolved = RunConfig.load(config, changes, preset=preset.value if preset else None)
    probing = Probing(
        targets=tuple(target),
        groups=groups.value,
        test_sites=tuple(test_site or ()),
        seed=seed,
    )
    _, fits = scale(resolved, n_subjects, out, probing, say=console.print)
    console.print(fits.to_string(index=False))
    console.print(f"Figure: {out / 'scaling.png'}")


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    store: Annotated[Path, typer.Argument(help="Recording store.")],
    out: Annotated[Path, typer.Argument(help="New folder for figures and tables.")],
    crops: Annotated[int, typer.Option(help="Evenly spaced crops per recording.")] = 8,
) -> None:
    """Look inside a model: network occlusion, filters, geometry of the networks."""
    from semantoks.explain.explain import explain

    for path in explain(model, store, out, n_crops=crops):
        typer.echo(path)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A model of ours, or the authors' .pth.")],
    target: Annotated[Path, typer.Argument(help="New: a .pth is theirs, a folder is ours.")],
) -> None:
    """Convert weights between our folders and the authors' checkpoints, exactly."""
    from semantoks.model.pretrained import convert

    _console().print(f"Written: {convert(source, target)}")


@app.command()
def report(
    out: Annotated[Path, typer.Argument(help="New HTML file.")],
    run: Annotated[list[Path] | None, typer.Option(help="Folder of a run.")] = None,
    result: Annotated[list[Path] | None, typer.Option(help="Folder of a result.")] = None,
    store: Annotated[list[Path] | None, typer.Option(help="Recording store.")] = None,
) -> None:
    """Write one self-contained HTML page about runs, results and stores."""
    from semantoks.report.report import write_report

    if not (run or result or store):
        raise InputError("there is nothing to report", fix="Give --run, --result or --store")
    write_report(out, runs=run or [], results=result or [], stores=store or [])
    _console().print(f"Report: {out}")


@app.command("config")
def config_(
    preset: Annotated[Preset, typer.Option(help="Whose values to show.")] = Preset.paper,
    yaml: Annotated[bool, typer.Option("--yaml", help="As YAML, to start a file from.")] = False,
) -> None:
    """Print every key of a run's configuration with its value and its documentation."""
    from semantoks.config import describe
    from semantoks.train.run import RunConfig

    config = RunConfig.preset(preset.value)
    if yaml:
        typer.echo(config.to_yaml(), nl=False)
        return
    from semantoks.tables import key_lines

    typer.echo(key_lines(describe(config)))


@app.command()
def info(
    path: Annotated[str, typer.Argument(help="A store, a run, a model, or a parcellation.")],
) -> None:
    """Say what a store, a run, a model or a parcellation holds."""
    from semantoks.tables import listing
    from semantoks.workflow import describe_path

    _console().print(listing(describe_path(path)))


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder for everything that the demo makes.")],
    size: Annotated[
        DemoSize, typer.Option(help="smallest: a tiny model, to see that all works.")
    ] = DemoSize.default,
) -> None:
    """Run the whole way on the real recordings that come with the repository."""
    from semantoks.demo import run_demo

    run_demo(out, size.value, _console())


def main() -> None:
    """Run the command line; an error that a user can act on is one message and exit code 2."""
    try:
        app()
    except SemantoksError as error:
        kind = "configuration error" if isinstance(error, ConfigError) else "error"
        typer.echo(f"semantoks: {kind}: {error}", err=True)
        sys.exit(2)

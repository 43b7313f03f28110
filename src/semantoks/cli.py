"""Command line: one thin function per subcommand. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semantoks import __version__
from semantoks.assess.parts.table import PARTS, chosen_parts
from semantoks.errors import ConfigError, InputError, SemantoksError, StoreError
from semantoks.evaluate.features.baselines import BASELINES, baseline_names

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


class ExtraRois(StrEnum):
    """What to do with ROIs that the parcellation does not have."""

    refuse = "refuse"
    drop = "drop"


class Orientation(StrEnum):
    """Order of the axes of an array."""

    time_first = "time-first"
    rois_first = "rois-first"


class Groups(StrEnum):
    """What stays together in one fold."""

    subject = "subject"
    site = "site"


#: What models are compared with.
Baseline = StrEnum(  # type: ignore[misc] # its members are those of the table
    "Baseline", [(b.option.replace("-", "_"), b.option) for b in BASELINES.values()]
)


#: What `evaluate` computes beyond the scores.
PartName = StrEnum("PartName", [(name, name) for name in PARTS])  # type: ignore[misc] # likewise


class ProbeModel(StrEnum):
    """Linear model behind features."""

    logistic = "logistic"
    ridge = "ridge"
    svm = "svm"


class FineTuning(StrEnum):
    """What is trained when a model is fine-tuned."""

    head = "head"
    full = "full"
    frozen_then_full = "frozen-then-full"
    lora = "lora"


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
            help="A derivatives folder (fMRIPrep, XCP-D, HALFpipe), a table of files, an image or "
            "file of time series, an .h5 file; stages, abide-sample, or abide (download)."
        ),
    ],
    store: Annotated[Path, typer.Argument(help="Folder of the new store.")],
    atlas: Annotated[
        str | None, typer.Option(help="Parcellation: a built-in name or a TSV of your own.")
    ] = None,
    atlas_image: Annotated[
        list[Path] | None,
        typer.Option(help="Its image: a volume, a dlabel, or two label.gii (left, then right)."),
    ] = None,
    from_atlas: Annotated[
        str | None,
        typer.Option(help="Move time series from this parcellation to --atlas, by overlap."),
    ] = None,
    from_image: Annotated[Path | None, typer.Option(help="Volume of --from-atlas.")] = None,
    roi_names: Annotated[
        str | None,
        typer.Option(help="Names of unnamed columns: a text file, or a built-in parcellation."),
    ] = None,
    source_tr: Annotated[
        float | None, typer.Option(help="TR of the files, s, where no column or sidecar says it.")
    ] = None,
    orientation: Annotated[
        Orientation, typer.Option(help="Axes of arrays without names.")
    ] = Orientation.time_first,
    variable: Annotated[str | None, typer.Option(help="Array of a .mat or .h5 file.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Entity of the files, space=MNI152NLin6Asym say.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Subject of a single file.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the files of a table.")] = None,
    denoise: Annotated[
        str, typer.Option(help="fMRIPrep: simple, scrubbing, compcor, ica_aroma, none.")
    ] = "simple",
    denoise_option: Annotated[
        list[str] | None, typer.Option(help="What differs from it: global_signal=basic, say.")
    ] = None,
    max_gap: Annotated[
        float, typer.Option(help="Longest gap of censored volumes interpolated across, s.")
    ] = 10.0,
    cut_gaps: Annotated[
        bool, typer.Option("--cut-gaps", help="Keep the longest stretch without longer gaps.")
    ] = False,
    tr: Annotated[float, typer.Option(help="TR of the store, s.")] = 2.0,
    low_hz: Annotated[float, typer.Option(help="Lower edge of the band, Hz; 0: none.")] = 0.01,
    high_hz: Annotated[float, typer.Option(help="Upper edge of the band, Hz; 0: none.")] = 0.1,
    missing_rois: Annotated[
        MissingRois, typer.Option(help="ROIs without data: refuse the recording, or mark them.")
    ] = MissingRois.refuse,
    extra_rois: Annotated[
        ExtraRois, typer.Option(help="ROIs beyond the parcellation: refuse, or drop them.")
    ] = ExtraRois.refuse,
    min_coverage: Annotated[
        float, typer.Option(help="ROIs covered less count as without data.")
    ] = 0.5,
    phenotypes: Annotated[
        list[Path] | None, typer.Option(help="Table joined by subject (and session).")
    ] = None,
    phenotype: Annotated[
        list[str] | None, typer.Option(help="Only these columns of the tables.")
    ] = None,
    varying: Annotated[
        list[str] | None, typer.Option(help="Label that may differ within a subject.")
    ] = None,
    max_fd: Annotated[float | None, typer.Option(help="Exclude above this mean FD, mm.")] = None,
    max_censored: Annotated[
        float | None, typer.Option(help="Exclude above this fraction of censored volumes.")
    ] = None,
    min_minutes: Annotated[float | None, typer.Option(help="Exclude below this length.")] = None,
    max_missing: Annotated[
        int | None, typer.Option(help="Exclude above this number of ROIs without data.")
    ] = None,
    min_tsnr: Annotated[float | None, typer.Option(help="Exclude below this tSNR.")] = None,
    max_dvars: Annotated[float | None, typer.Option(help="Exclude above this DVARS.")] = None,
    min_typicality: Annotated[
        float | None, typer.Option(help="Exclude below this correlation with the cohort.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes; -1: all cores.")] = 1,
    shard: Annotated[
        str | None, typer.Option(help="i/n: only this part; without it, finish the store.")
    ] = None,
) -> None:
    """Read recordings, check and preprocess them, and write a store. Run again to continue."""
    from semantoks.atlas.parcellation import Parcellation
    from semantoks.config import override
    from semantoks.data.denoise import Censoring
    from semantoks.data.quality import QualityRules
    from semantoks.data.signal import Preprocessing
    from semantoks.data.sources.items import Reading, read_names
    from semantoks.report.tables import listing
    from semantoks.report.terminal import PrepareScreen, prepare_summary
    from semantoks.workflow.describe import describe_path
    from semantoks.workflow.prepare import prepare_store

    reading = None
    if atlas is not None:
        reading = Reading(
            atlas=Parcellation.load(atlas),
            atlas_images=tuple(atlas_image or ()),
            from_atlas=None if from_atlas is None else Parcellation.load(from_atlas),
            from_image=from_image,
            roi_names=None if roi_names is None else read_names(roi_names),
            tr=source_tr,
            orientation=orientation.value,
            variable=variable,
            entities=_pairs(where),
            denoise=None if denoise == "none" else denoise,
            denoise_options=override({}, denoise_option or ()),
            subject=subject,
            root=root,
        )
    elif source_tr is not None or atlas_image:
        raise InputError("needs --atlas", field="source-tr, atlas-image")
    console = _console()
    with PrepareScreen(console) as screen:
        report = prepare_store(
            source,
            store,
            preprocessing=Preprocessing(tr=tr, low_hz=low_hz or None, high_hz=high_hz or None),
            reading=reading,
            censoring=Censoring(max_gap=max_gap, long_gaps="cut" if cut_gaps else "refuse"),
            missing_rois=missing_rois.value,
            extra_rois=extra_rois.value,
            min_coverage=min_coverage,
            phenotypes=phenotypes or (),
            phenotype_columns=phenotype,
            varying=varying or (),
            rules=QualityRules(
                max_mean_fd=max_fd,
                max_censored_fraction=max_censored,
                min_minutes=min_minutes,
                max_missing_rois=max_missing,
                min_tsnr=min_tsnr,
                max_dvars=max_dvars,
                min_typicality=min_typicality,
            ),
            n_jobs=jobs,
            shard=_shard(shard),
            progress=screen,
        )
    if report.finished:
        console.print(listing(describe_path(str(report.store))))
    console.print(prepare_summary(report), markup=False, highlight=False, soft_wrap=True)
    if report.count("failed"):
        raise typer.Exit(3)


def _pairs(texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or ():
        key, _, value = text.partition("=")
        if not key or not value:
            raise InputError("has to be entity=value", field="where", value=text)
        pairs[key] = value
    return pairs


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal()):
        raise InputError("has to be i/n, 3/10 say", field="shard", value=text)
    return int(first), int(count)


@app.command()
def assign(
    image: Annotated[Path, typer.Argument(help="Volume of an atlas in MNI152 space.")],
    out: Annotated[Path, typer.Argument(help="New table: a parcellation for --atlas.")],
    labels: Annotated[
        Path | None, typer.Option(help="Table with the columns index and label; else ROI_1, ...")
    ] = None,
) -> None:
    """Give the ROIs of an atlas of your own their networks, by overlap with Yeo-7."""
    from semantoks.workflow.prepare import assign_atlas

    table, weak = assign_atlas(image, out, labels)
    counts = ", ".join(f"{name} {n}" for name, n in table["network"].value_counts().items())
    _console().print(f"{len(table)} ROIs: {counts}\nWritten: {out}", markup=False)
    if weak:
        _console().print(f"{len(weak)} weak, less than half in one network; look at them:")
        _console().print("\n".join(f"  {line}" for line in weak), markup=False)


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
    store: Annotated[
        list[Path] | None,
        typer.Option(help="Recording store: data.store. Repeat it to mix several."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run.")] = False,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="Continue the run if there is one, else start it.")
    ] = False,
) -> None:
    """Pretrain an encoder on the recordings of a store, or of several, without labels.

    On several GPUs: torchrun --nproc-per-node 4 -m semantoks pretrain RUN ...
    """
    from semantoks.train.distributed import is_main, process_group, was_restarted
    from semantoks.train.run import RunConfig
    from semantoks.train.screen import TrainingScreen
    from semantoks.train.setup import CONFIG
    from semantoks.train.trainer import Trainer

    resume = resume or ((auto_resume or was_restarted()) and (run / CONFIG).exists())
    if resume and config is None and preset is None and (run / CONFIG).exists():
        config = run / CONFIG
    changes = [*(overrides or ()), *_stores(store)]
    resolved = RunConfig.load(config, changes, preset=preset.value if preset else None)
    console = _console()
    with process_group(resolved.train.device), TrainingScreen(console) as screen:
        console.quiet = not is_main()
        trainer = Trainer(resolved, run, resume=resume, reporter=screen)
        folder = trainer.fit()
    if trainer.step < trainer.n_steps:
        console.print(f"Stopped at step {trainer.step} of {trainer.n_steps}; saved {folder}.")
        console.print(f"Continue with: semantoks pretrain {run} --resume")
        raise typer.Exit(130)
    console.print(f"Trained {trainer.n_steps} steps; the weights are in {folder}")


def _stores(paths: list[Path] | None) -> list[str]:
    """Return the override that names one store, or a list of them."""
    if not paths:
        return []
    names = [str(path) for path in paths]
    return [f"data.store={names[0] if len(names) == 1 else json.dumps(names)}"]


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
    shard: Annotated[
        str | None, typer.Option(help="i/n: only this part; without it, finish the table.")
    ] = None,
) -> None:
    """Embed the recordings of a store: one row per recording."""
    from semantoks.workflow.embed import embed_store

    table = embed_store(
        model,
        store,
        out,
        n_crops=crops,
        device=device,
        engine=engine,  # type: ignore[arg-type] # checked by Embedder, like the next
        precision=precision,  # type: ignore[arg-type]
        shard=_shard(shard),
    )
    if shard is not None:
        where = f"shard {shard} is in {out}.partial; without --shard, all become one table"
        _console().print(f"{len(table)} recordings embedded: {where}", markup=False)
        return
    _console().print(f"{len(table)} recordings embedded: {out}")


@app.command()
def evaluate(
    store: Annotated[Path, typer.Argument(help="Recording store.")],
    out: Annotated[Path, typer.Argument(help="Folder of the evaluation; run again to go on.")],
    target: Annotated[
        list[str],
        typer.Option(help="Column to predict, or column:classification, column:regression."),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"{MODEL_HELP} May be repeated; none: baselines alone."),
    ] = None,
    baseline: Annotated[
        list[Baseline] | None, typer.Option(help="Next to fc, which always comes; repeat it.")
    ] = None,
    groups: Annotated[
        str, typer.Option(help="What stays together: subject, family ...; site: one left out.")
    ] = "subject",
    test_site: Annotated[
        list[str] | None, typer.Option(help="Only these sites are tested (with --groups site).")
    ] = None,
    folds: Annotated[int, typer.Option(help="Folds over the groups.")] = 5,
    repeats: Annotated[int, typer.Option(help="Repetitions with other folds.")] = 1,
    split: Annotated[
        str | None, typer.Option(help="Column that says train, validation or test.")
    ] = None,
    train_store: Annotated[
        Path | None, typer.Option(help="Train on this store, test on the other.")
    ] = None,
    n_train: Annotated[
        list[int] | None, typer.Option(help="Fit on so few people too; repeat it.")
    ] = None,
    probe: Annotated[ProbeModel, typer.Option(help="Linear model.")] = ProbeModel.logistic,
    finetune: Annotated[
        list[FineTuning] | None, typer.Option(help="Fine-tune the models too; repeat it.")
    ] = None,
    finetune_option: Annotated[
        list[str] | None,
        typer.Option(help="What differs from the paper's way: epochs=20, patience=5, say."),
    ] = None,
    confound: Annotated[
        list[str] | None,
        typer.Option(help="Column regressed out; age, sex, site and motion by default."),
    ] = None,
    harmonise: Annotated[str, typer.Option(help="Column that ComBat harmonises.")] = "site",
    only: Annotated[
        list[PartName] | None,
        typer.Option(help="Compute these parts beyond the scores (repeatable); default: all."),
    ] = None,
    skip: Annotated[
        list[PartName] | None, typer.Option(help="Leave out a part (repeatable).")
    ] = None,
    drop_missing: Annotated[
        bool, typer.Option("--drop-missing", help="Leave out recordings without the label.")
    ] = False,
    crops: Annotated[int, typer.Option(help="Evenly spaced crops per recording.")] = 8,
    n_bootstrap: Annotated[int, typer.Option(help="Bootstrap samples.")] = 1000,
    n_permutations: Annotated[int, typer.Option(help="Permutations of a test.")] = 5000,
    seed: Annotated[int, typer.Option(help="Seed of folds, random weights, tests.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Folds at the same time.")] = 1,
) -> None:
    """Compare models with honest controls, look for other explanations, write the report."""
    from semantoks.assess.plan import Plan
    from semantoks.config import override, parse
    from semantoks.data.designs import SmallSamples, design_for
    from semantoks.data.store import RecordingStore
    from semantoks.evaluate.compare.evaluation import Probe
    from semantoks.evaluate.compare.targets import Target
    from semantoks.evaluate.predictors.tuning import Tuning
    from semantoks.report.terminal import assessment_summary
    from semantoks.workflow.evaluate import REPORT, evaluate_store

    plan = Plan(
        targets=tuple(map(Target.parse, target)),
        design=design_for(
            groups,
            test_site or (),
            split=split,
            train=None if train_store is None else RecordingStore(train_store),
            n_folds=folds,
            n_repeats=repeats,
        ),
        baselines=baseline_names([b.value for b in baseline or ()]),
        curve=SmallSamples(n_subjects=tuple(n_train)) if n_train else None,
        probe=Probe(model=probe.value),
        finetune=tuple(way.value for way in finetune or ()),
        tuning=parse(Tuning, override({}, finetune_option or ())),
        confounds=None if confound is None else tuple(confound),
        harmonise=harmonise,
        missing="drop" if drop_missing else "refuse",
        n_crops=crops,
        n_bootstrap=n_bootstrap,
        n_permutations=n_permutations,
        seed=seed,
    )
    console = _console()
    found = evaluate_store(
        store,
        out,
        models=model or [],
        plan=plan,
        parts=chosen_parts(only or None, skip or ()),
        device=device,
        n_jobs=jobs,
        say=lambda text: console.print(text, markup=False, highlight=False),
    )
    console.print(assessment_summary(found))
    console.print(f"Report: {out / REPORT}", markup=False, highlight=False)


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

    It mixes sites over the parts and has no controls: for claims use `semantoks evaluate`.
    """
    from semantoks.data.store import RecordingStore
    from semantoks.evaluate.compare.paper import paper_probe
    from semantoks.evaluate.compare.targets import Target
    from semantoks.evaluate.features.embed import Embedder

    recordings = RecordingStore(store)
    for name in target:
        scores = paper_probe(
            recordings,
            Embedder(model, n_crops=crops),
            Target.parse(name),
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
    store: Annotated[
        list[Path] | None,
        typer.Option(help="Recording store: data.store. Repeat it to mix several."),
    ] = None,
    groups: Annotated[Groups, typer.Option(help="What stays together in one fold.")] = (
        Groups.subject
    ),
    test_site: Annotated[
        list[str] | None, typer.Option(help="Tested, and left out of every pretraining.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds and bootstrap.")] = 0,
) -> None:
    """Pretrain a list of configurations and compare their probes with the first one's."""
    from semantoks.files import write_file
    from semantoks.workflow.study import Probing, ablate, ablation_table

    console = _console()
    changes = [*(set_ or ()), *_stores(store)]
    probing = Probing(
        targets=tuple(target),
        groups=groups.value,
        test_sites=tuple(test_site or ()),
        seed=seed,
    )
    result = ablate(configs, out, probing, overrides=changes, say=console.print)
    table = ablation_table(result)
    write_file(out / "ablations.md", table)
    typer.echo(table)


@app.command()
def scale(
    out: Annotated[Path, typer.Argument(help="Folder of the study.")],
    n_subjects: Annotated[list[int], typer.Option(help="People in pretraining; repeat it.")],
    target: Annotated[list[str], typer.Option(help="Column, or column:kind, to predict.")],
    config: Annotated[Path | None, typer.Option(help="YAML file of the run.")] = None,
    preset: Annotated[Preset | None, typer.Option(help="Size of the model.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key.sub=value.")] = None,
    store: Annotated[
        list[Path] | None,
        typer.Option(help="Recording store: data.store. Repeat it to mix several."),
    ] = None,
    groups: Annotated[Groups, typer.Option(help="What stays together in one fold.")] = (
        Groups.subject
    ),
    test_site: Annotated[
        list[str] | None, typer.Option(help="Tested, and left out of every pretraining.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds and bootstrap.")] = 0,
) -> None:
    """Pretrain on more and more people; fit a power law to the probes' scores."""
    from semantoks.train.run import RunConfig
    from semantoks.workflow.study import Probing, scale

    console = _console()
    changes = [*(set_ or ()), *_stores(store)]
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
    from semantoks.workflow.explain import explain

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
    from semantoks.report.page import write_report

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
    from semantoks.report.tables import key_lines

    typer.echo(key_lines(describe(config)))


@app.command()
def info(
    path: Annotated[str, typer.Argument(help="A store, a run, a model, or a parcellation.")],
) -> None:
    """Say what a store, a run, a model or a parcellation holds."""
    from semantoks.report.tables import listing
    from semantoks.workflow.describe import describe_path

    _console().print(listing(describe_path(path)))


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A store, or a run.")],
) -> None:
    """Compare every file of a store, or of a run's checkpoints, with its checksum."""
    from semantoks.workflow.describe import check_path

    problems = check_path(path)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise StoreError(
            f"{len(problems)} problems",
            file=path,
            fix="Restore these files from a copy, or make them again",
        )
    typer.echo(f"{path}: every file is as it was written")


@app.command()
def strip(
    store: Annotated[Path, typer.Argument(help="Recording store.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new store.")],
    salt: Annotated[
        str | None,
        typer.Option(help="Secret of the pseudonyms; without it one is drawn and forgotten."),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Column to leave out; may be repeated.")
    ] = None,
) -> None:
    """Copy a store with pseudonyms instead of subjects, to hand it on."""
    from semantoks.data.integrity import strip_subjects

    made = strip_subjects(store, out, salt=salt, drop=tuple(drop or ()))
    left = ", ".join(made.phenotypes) or "none"
    _console().print(f"{len(made)} recordings: {out}; columns that are still there: {left}")


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    }
)
def slurm(
    context: typer.Context,
    time: Annotated[str, typer.Option(help="Time limit of a job.")] = "24:00:00",
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    gpus: Annotated[int, typer.Option(help="GPUs per machine; one process each.")] = 0,
    cpus: Annotated[int, typer.Option(help="Cores per machine.")] = 8,
    memory: Annotated[str | None, typer.Option(help="Memory per machine: 64G.")] = None,
    partition: Annotated[str | None, typer.Option(help="Partition of the cluster.")] = None,
    account: Annotated[str | None, typer.Option(help="Account that pays.")] = None,
    shards: Annotated[int, typer.Option(help="Jobs that divide prepare, embed.")] = 1,
    warning: Annotated[int, typer.Option(help="Seconds before the limit to save.")] = 300,
    print_: Annotated[
        bool, typer.Option("--print", help="Print the batch script; submit nothing.")
    ] = False,
) -> None:
    """Submit pretrain, prepare or embed to Slurm: stops when told, requeues, resumes by itself.

    The command stands last: semantoks slurm --gpus 4 --time 8:00:00 pretrain runs/a ...
    """
    from semantoks.workflow.slurm import SlurmJob, batch_script, submit

    job = SlurmJob(
        time=time,
        nodes=nodes,
        gpus=gpus,
        cpus=cpus,
        memory=memory,
        partition=partition,
        account=account,
        shards=shards,
        warning=warning,
    )
    script = batch_script(context.args, job)
    if print_:
        typer.echo(script, nl=False)
        return
    typer.echo(f"Submitted job {submit(script)}")
    if shards > 1:
        typer.echo(f"When all {shards} are done: semantoks {shlex.join(context.args)}")


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder for everything that the demo makes.")],
    size: Annotated[
        DemoSize, typer.Option(help="smallest: a tiny model, to see that all works.")
    ] = DemoSize.default,
) -> None:
    """Run the whole way on the real recordings that come with the repository."""
    from semantoks.workflow.demo import run_demo

    run_demo(out, size.value, _console())


def main() -> None:
    """Run the command line; an error that a user can act on is one message and exit code 2."""
    try:
        app()
    except SemantoksError as error:
        kind = "configuration error" if isinstance(error, ConfigError) else "error"
        typer.echo(f"semantoks: {kind}: {error}", err=True)
        sys.exit(2)

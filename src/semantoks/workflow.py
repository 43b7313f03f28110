"""Whole steps from files to files, as the command line offers them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from semantoks.assess.assessment import Assessment, assess
from semantoks.assess.plan import PARTS, Part, Plan
from semantoks.atlas.assign import assign_by_overlap, weak
from semantoks.atlas.parcellation import Parcellation
from semantoks.config import read_yaml
from semantoks.data.denoise import Censoring
from semantoks.data.encode import StoreSpec
from semantoks.data.integrity import check_store
from semantoks.data.phenotypes import Phenotypes
from semantoks.data.prepare import PrepareReport, Progress, prepare
from semantoks.data.quality import QualityRules
from semantoks.data.reader import HEADER as STORE_HEADER
from semantoks.data.shards import of_shard, write_whole
from semantoks.data.signal import Preprocessing
from semantoks.data.sources.bids import BidsFile
from semantoks.data.sources.find import find_items, transfer_of
from semantoks.data.sources.images import is_image
from semantoks.data.sources.items import Item, Reading
from semantoks.data.store import RecordingStore
from semantoks.datasets import DATASETS, sample_items
from semantoks.errors import InputError, nearest
from semantoks.evaluate.embed import Embedder
from semantoks.evaluate.engines import EngineName, Precision
from semantoks.evaluate.shards import embed_shard, merge_shards
from semantoks.evaluate.targets import Target
from semantoks.model.encoder import Encoder
from semantoks.model.pretrained import HEADER as MODEL_HEADER
from semantoks.model.pretrained import load_pretrained
from semantoks.model.weights import weights_hash
from semantoks.report.quality import QUALITY_PAGE, write_quality_page
from semantoks.report.report import write_report
from semantoks.train.checkpoint import check_checkpoints
from semantoks.train.setup import CONFIG, METRICS, pick_device

#: Name of the page in the folder of an evaluation.
REPORT = "report.html"
_SUFFIXES = (".parquet", ".csv", ".tsv")


def prepare_store(
    source: str,
    path: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    reading: Reading | None = None,
    censoring: Censoring | None = None,
    missing_rois: Literal["refuse", "mark"] = "refuse",
    extra_rois: Literal["refuse", "drop"] = "refuse",
    min_coverage: float = 0.5,
    phenotypes: Sequence[str | Path] = (),
    phenotype_columns: Sequence[str] | None = None,
    rules: QualityRules | None = None,
    varying: Sequence[str] = (),
    n_jobs: int = 1,
    shard: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> PrepareReport:
    """Read recordings, check and preprocess them, and write a store and its page of quality.

    Parameters
    ----------
    source : str
        A sample that comes with the repository, ``abide`` (downloads all of it), or the path of a
        derivatives folder (fMRIPrep, XCP-D, HALFpipe), of a table of files, of an HDF5 file, or of
        a single image or file of time series (`semantoks.data.sources.find.find_items`).
    path : path
        Folder of the new store.
    preprocessing : Preprocessing, optional
        The paper's by default.
    reading : Reading, optional
        The parcellation, and what the files do not say; the shipped samples know theirs.
    censoring, missing_rois, extra_rois, min_coverage
        See `semantoks.data.encode.StoreSpec`.
    phenotypes : sequence of path
        Tables joined by subject and session; ``participants.tsv`` of a derivatives folder is one
        if it is there.
    phenotype_columns : sequence of str, optional
        Only these of their columns.
    rules, varying, n_jobs, shard, progress
        See `semantoks.data.prepare.prepare`.

    Returns
    -------
    PrepareReport

    Raises
    ------
    InputError
        If the source is unknown, the atlas is not stated, or no recording can be used.
    StoreError
        If the folder exists or cannot be written.
    """
    items, atlas, how = _items(source, reading)
    notes = [] if reading is None else _notes(items, reading)
    spec = StoreSpec(
        parcellation=atlas,
        preprocessing=preprocessing or Preprocessing(),
        censoring=censoring or Censoring(),
        missing_rois=missing_rois,
        extra_rois=extra_rois,
        min_coverage=min_coverage,
    )
    tables = [Path(table) for table in phenotypes]
    participants = Path(source) / "participants.tsv"
    if participants.is_file() and not tables:
        tables = [participants]
    known = Phenotypes.read(tables, phenotype_columns) if tables else None
    report = prepare(
        items,
        path,
        spec,
        phenotypes=known,
        rules=rules,
        varying=varying,
        n_jobs=n_jobs,
        shard=shard,
        provenance={"source": Path(source).name, "reading": how, "notes": notes},
        progress=progress,
    )
    if report.finished and not (report.store / QUALITY_PAGE).exists():
        write_quality_page(report.store)
    return report


def _notes(items: Sequence[Item], reading: Reading) -> list[str]:
    """Return what was assumed of spaces, and what moving to another atlas costs."""
    if reading.from_atlas is not None:
        transfer = transfer_of(reading)
        assert transfer is not None
        table = transfer.report()
        low = table[(table["covered"] < 0.5) | (table["purity"] < 0.5)]
        return [
            f"moved from {reading.from_atlas.name} to {reading.atlas.name} by overlap, an "
            f"approximation: ROIs are covered by {table['covered'].median():.0%}, the source ROIs "
            f"used lie in them by {table['purity'].median():.0%} (medians); {len(low)} of "
            f"{len(table)} ROIs have one of the two below 50 %"
            + (f": {', '.join(low['label'][:5])}" if len(low) else "")
        ]
    if not reading.atlas_images or not is_image(items[0].files[0]):
        return []
    own = BidsFile(reading.atlas_images[0]).entities
    atlas = own.get("space") or own.get("tpl") or reading.atlas.space
    spaces = sorted({BidsFile(item.files[0]).entities.get("space", "unknown") for item in items})
    note = f"images in {', '.join(spaces)}, atlas in {atlas}"
    if spaces == [atlas]:
        return [note]
    return [f"{note}: read through the affines, taken for one space and not warped"]


def _items(
    source: str, reading: Reading | None
) -> tuple[Sequence[Item], Parcellation, dict[str, Any]]:
    """Return the recordings of a source, their parcellation, and how they are read."""
    if source in DATASETS:
        sample = DATASETS[source]
        if reading is not None:
            raise InputError(
                f"{source} is in {sample.parcellation} and states its own TRs",
                field="reading",
                fix="Leave the atlas and the TR out",
            )
        return sample_items(source), Parcellation.load(sample.parcellation), {}
    if not Path(source).exists():
        raise InputError(
            "is neither a file or folder nor a sample",
            field="source",
            value=source,
            fix=nearest(source, DATASETS),
        )
    if reading is None:
        raise InputError(
            "the parcellation of the recordings is not stated",
            file=source,
            field="atlas",
            fix=f"Give one of {', '.join(Parcellation.available())}, or a TSV of your own",
        )
    return find_items(source, reading), reading.atlas, reading.to_dict()


def assign_atlas(
    image: str | Path, out: str | Path, labels: str | Path | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Assign networks to the ROIs of a volume and write the table of the parcellation.

    Parameters
    ----------
    image : path
        See `semantoks.atlas.assign.assign_by_overlap`.
    out : path
        New .tsv that `Parcellation.load` reads.
    labels : path, optional
        Table (.tsv, .csv) with the columns ``index`` (value in the image) and ``label``.

    Returns
    -------
    DataFrame, list of str
        The table, and the weak assignments in words.

    Raises
    ------
    InputError
        The file exists, or labels and image do not match.
    """
    file = Path(out)
    if file.exists():
        raise InputError("exists already and is not overwritten", file=file)
    names = None
    if labels is not None:
        separator = "," if Path(labels).suffix == ".csv" else "\t"
        try:
            frame = pd.read_csv(labels, sep=separator, dtype={"label": str})
            names = dict(zip(frame["index"].astype(int), frame["label"], strict=True))
        except (OSError, ValueError, KeyError) as error:
            rule = f"has to be a table with the columns index and label ({error})"
            raise InputError(rule, file=labels) from None
    table = assign_by_overlap(image, names)
    Parcellation.from_frame(table, name=file.stem, source=image)  # refuses repeated labels
    table.to_csv(file, sep="\t", index=False, lineterminator="\n")
    return table, weak(table)


def embed_store(
    model: str | Path,
    store: str | Path,
    out: str | Path,
    *,
    n_crops: int = 8,
    device: str = "auto",
    engine: EngineName | Literal["auto"] = "torch",
    precision: Precision = "float32",
    shard: tuple[int, int] | None = None,
) -> pd.DataFrame:
    """Embed the recordings of a store and write one row per recording.

    In shards, what is done lies in ``OUT.partial``, and the same call again goes on. Once all are
    done, the same call without `shard` writes the table, the same as without shards to the bit.

    Parameters
    ----------
    model : path
        Run, checkpoint or model.
    store : path
    out : path
        New ``.parquet``, ``.csv`` or ``.tsv``: id, subject, session, site, then ``e0000`` ...
    n_crops : int
        Evenly spaced crops per recording, averaged.
    device : str
    engine, precision : str
        As for `Embedder`.
    shard : (int, int), optional
        (i, n): only every n-th recording, from the i-th of 1 to n, and no table.

    Returns
    -------
    DataFrame of shape (n_recordings, 4 + 2 D)
        Of a shard: id, subject, session and site of its recordings.

    Raises
    ------
    InputError
        If the file exists, has another ending, or model and store do not fit.
    StoreError
        If shards are missing, too many, or of another model, store or way of embedding.
    """
    target = Path(out)
    if target.suffix not in _SUFFIXES:
        raise InputError(f"the table's ending must be one of {', '.join(_SUFFIXES)}", file=target)
    if target.exists():
        raise InputError("exists already and is not overwritten", file=target)
    recordings = RecordingStore(store)
    embedder = Embedder(
        model,
        n_crops=n_crops,
        device=str(pick_device(device)),
        engine=engine,
        precision=precision,
    )
    ids = recordings.table[["id", "subject", "session", "site"]]
    partial = target.with_name(target.name + ".partial")
    if shard is None and not partial.exists():
        values = embedder.fit_transform(recordings)
    else:
        made_from = _made_from(embedder.fit(recordings), recordings)
        if shard is not None:
            embed_shard(embedder, recordings, partial, shard, made_from)
            return ids.iloc[of_shard(range(len(ids)), shard)].reset_index(drop=True)
        values = merge_shards(recordings, partial, made_from)
    names = [f"e{i:04d}" for i in range(values.shape[1])]
    table = pd.concat([ids, pd.DataFrame(values, columns=names)], axis=1)
    stream = io.BytesIO()
    if target.suffix == ".parquet":
        table.to_parquet(stream, index=False)
    else:
        separator = "," if target.suffix == ".csv" else "\t"
        table.to_csv(stream, sep=separator, index=False, na_rep="n/a")
    write_whole(target, stream.getvalue())
    if partial.exists():
        shutil.rmtree(partial)
    return table


def _made_from(embedder: Embedder, store: RecordingStore) -> dict[str, Any]:
    """Return what decides embeddings to the bit, as plain values."""
    if embedder.engine == "auto":
        raise InputError(
            "which engine is the fastest may differ from shard to shard",
            field="engine",
            value="auto",
            fix="Name one: torch, onnx or openvino",
        )
    return {
        "model": weights_hash(embedder.encoder_),
        "store": store.fingerprint,
        "crops": embedder.n_crops,
        "engine": embedder.engine_,
        "precision": embedder.precision,
        "device": torch.device(embedder.device).type,
        "versions": {name: metadata.version(name) for name in ("semantoks", "torch")},
    }


def evaluate_store(
    store: str | Path,
    out: str | Path,
    *,
    models: Sequence[str | Path],
    plan: Plan,
    parts: Collection[Part] = PARTS,
    device: str = "auto",
    n_jobs: int = 1,
    say: Callable[[str], None] = print,
) -> Assessment:
    """Evaluate models on a store, look for what else explains the scores, and write the report.

    Parameters
    ----------
    store : path
    out : path
        Folder of the evaluation: tables as Parquet, facts as JSON, and ``report.html``. Run again
        with the same arguments, what is there is not computed again.
    models : sequence of path
        Runs, checkpoints or models; none compares the baselines.
    plan : Plan
        Targets, design, baselines, tests.
    parts : collection of Part
        What is done beyond the comparison.
    device : str
        Device of the encoders.
    n_jobs : int
        Folds computed at the same time.
    say : callable
        Told what happens.

    Returns
    -------
    Assessment

    Raises
    ------
    InputError
        Two models have one name, the folder holds something else, or the comparison cannot be made.
    """
    recordings = RecordingStore(store)
    encoders: dict[str, Encoder] = {}
    for path in models:
        name = Path(path).name
        if name in encoders:
            raise InputError(
                "another model of this comparison has the same name",
                field="models",
                value=str(path),
                fix="Rename its folder",
            )
        encoders[name] = load_pretrained(path)
    assessment = assess(
        recordings,
        out,
        encoders,
        plan,
        parts=parts,
        device=str(pick_device(device)),
        n_jobs=n_jobs,
        say=say,
    )
    page = Path(out) / REPORT
    page.unlink(missing_ok=True)
    write_report(page, results=[out])
    return assessment


def parse_target(text: str) -> Target:
    """Return the target that ``column`` or ``column:kind`` names."""
    column, _, kind = text.partition(":")
    if kind not in ("", "classification", "regression"):
        raise InputError(
            "a target is column, column:classification or column:regression",
            field="target",
            value=text,
        )
    return Target(column, kind=kind or None)  # type: ignore[arg-type]


def describe_path(path: str) -> dict[str, object]:
    """Return the facts that ``semantoks info`` prints about a store, run, model or parcellation.

    Raises
    ------
    InputError
        If it is none of them.
    """
    folder = Path(path)
    if (folder / STORE_HEADER).exists() or list(folder.glob("signals-*.npy")):
        return _store_facts(RecordingStore(folder))
    if (folder / CONFIG).exists() or (folder / MODEL_HEADER).exists():
        return _model_facts(folder)
    if folder.suffix == ".pth":
        return _model_facts(folder)
    if path in Parcellation.available() or folder.is_file():
        parcellation = Parcellation.load(path)
        sizes = zip(parcellation.network_names, parcellation.network_indices, strict=True)
        return {
            "parcellation": parcellation.name,
            "ROIs": len(parcellation),
            "networks": _counts({name: len(rois) for name, rois in sizes}),
            "space": parcellation.space,
            "first, last ROI": f"{parcellation.labels[0]}, {parcellation.labels[-1]}",
            "hash": parcellation.hash[:16],
        }
    raise InputError(
        "is no store, run, model or parcellation",
        field="path",
        value=path,
        fix=f"Built-in parcellations: {', '.join(Parcellation.available())}",
    )


def check_path(path: str | Path) -> list[str]:
    """Return what is wrong with the files of a store, or of a run's checkpoints.

    Raises
    ------
    InputError
        If it is neither.
    """
    folder = Path(path)
    if (folder / CONFIG).exists():
        return check_checkpoints(folder)
    return check_store(folder)


def _store_facts(store: RecordingStore) -> dict[str, object]:
    info = store.info()
    minutes = info["minutes"]
    steps = "; ".join(
        f"TR {tr} s: " + ", ".join(str(step["step"]) for step in steps)
        for tr, steps in sorted(info["steps"].items(), key=lambda item: float(item[0]))
    )
    return {
        "store": info["path"],
        "recordings": f"{info['n_recordings']} of {info['n_subjects']} people, "
        f"{minutes['min']:.1f} to {minutes['max']:.1f} min, {minutes['sum'] / 60:.1f} h together",
        "TR": f"{info['tr']:g} s",
        "parcellation": f"{info['parcellation']}, {info['n_rois']} ROIs",
        "networks": _counts(info["networks"]),
        "sites": _counts(info["sites"]) or "not stated",
        "phenotypes": _counts(info["phenotypes"]) or "none",
        "missing ROIs": f"in {info['with_missing_rois']} recordings",
        "notes": "; ".join(store.header.get("provenance", {}).get("notes", [])) or "none",
        "preprocessing": store.preprocessing,
        "steps by source": steps,
        "size": f"{info['megabytes']:.1f} MB, written by semantoks {info['package_version']}",
        "fingerprint": info["fingerprint"][:16],
    }


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in numbers.items())


def _model_facts(folder: Path) -> dict[str, object]:
    facts: dict[str, object] = {}
    if (folder / CONFIG).exists():
        facts["run"] = folder
        facts["store"] = read_yaml(folder / CONFIG).get("data", {}).get("store")
        lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
        last: Mapping[str, Any] = json.loads(lines[-1]) if lines else {}
        facts["steps"] = f"{last.get('step', 0)} of {last.get('n_steps', '?')}"
    encoder = load_pretrained(folder)
    config = encoder.config
    facts["encoder"] = (
        f"width {config.width}, depth {config.depth}, {encoder.n_networks} networks x "
        f"{config.n_patches} patches of {config.patch_length} time points"
    )
    facts["parameters"] = f"{sum(p.numel() for p in encoder.parameters()):,}"
    facts["parcellation"] = f"{encoder.parcellation.name}, {len(encoder.parcellation)} ROIs"
    facts["preprocessing"] = encoder.preprocessing
    if encoder.pretraining:
        seen = encoder.pretraining
        facts["has seen"] = "not stated"
        if seen["subjects"] is not None:
            facts["has seen"] = (
                f"{seen['n_recordings']} recordings of {seen['n_subjects']} people, "
                f"sites {', '.join(seen['sites']) or 'not stated'}"
            )
    return facts

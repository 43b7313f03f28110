"""`semantoks embed`, `convert`, `explain`, `generate`: what is done with one trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from semantoks.commands.options import Argument, command
from semantoks.commands.output import show
from semantoks.data.shards import read_shard
from semantoks.flags import Flag
from semantoks.model.engines import EngineName, Precision

Model = Annotated[
    str,
    Argument(
        "MODEL",
        "Run, checkpoint, model folder, the authors' .pth, hf://owner/name, or "
        "connectome-base, which comes with the package.",
    ),
]
Store = Annotated[Path, Argument("STORE", "Recording store.")]
Crops = Annotated[
    int,
    Flag(
        name="--crops",
        metavar="N",
        panel="Model",
        help="Average over this many evenly spaced crops per recording.",
    ),
]
Device = Annotated[
    str, Flag(metavar="DEVICE", help="Compute on auto (a GPU if there is one), cpu, cuda, cuda:1.")
]


def _parts() -> tuple[str, ...]:
    from semantoks.model.readout import PARTS

    return PARTS


@command
def embed(
    model: Model,
    store: Store,
    out: Annotated[Path, Argument("TABLE", "New table: .parquet, .csv or .tsv.")],
    crops: Crops = 8,
    part: Annotated[
        tuple[str, ...],
        Flag(
            metavar="NAME",
            known=_parts,
            panel="Model",
            help="Read this part of the embeddings; by default what suits the model (repeatable).",
        ),
    ] = (),
    device: Device = "auto",
    engine: Annotated[
        EngineName | Literal["auto"],
        Flag(help="Compute with this engine; auto takes the fastest one."),
    ] = "torch",
    precision: Annotated[
        Precision, Flag(help="Compute in float32, or low: faster, nearly equal.")
    ] = "float32",
    shard: Annotated[
        tuple[int, int] | None,
        Flag(
            metavar="I/N",
            read=read_shard,
            single=True,
            of=str,
            help="Embed only the I-th of N parts; without it, merge the parts into the table.",
        ),
    ] = None,
) -> None:
    """Embed a store: a table with one row per recording."""
    from semantoks.workflow.embed import embed_store

    table = embed_store(
        model,
        store,
        out,
        n_crops=crops,
        parts=part or None,
        device=device,
        engine=engine,
        precision=precision,
        shard=shard,
    )
    where = str(out)
    if shard is not None:
        i, n = shard
        where = f"shard {i}/{n} is in {out}.partial; without --shard, all become one table"
    facts = {"table": out, "n_recordings": len(table), "shard": shard, "finished": shard is None}
    show(facts, f"{len(table)} recordings embedded: {where}")


@command
def convert(
    source: Annotated[str, Argument("MODEL", "A model of ours, or the authors' .pth.")],
    target: Annotated[Path, Argument("TARGET", "New .pth (the authors' format) or folder (ours).")],
    compact: Annotated[
        bool, Flag(help="Keep only the encoder to evaluate, in float16: a folder to share.")
    ] = False,
) -> None:
    """Convert weights to and from the authors' checkpoints.

    Every number stays as it is, unless --compact is given.
    """
    from semantoks.model import pretrained

    written = pretrained.convert(source, target, compact=compact)
    show({"written": written}, f"Written: {written}")


@command
def explain(
    model: Model,
    store: Store,
    out: Annotated[Path, Argument("FOLDER", "New folder for figures and tables.")],
    crops: Crops = 8,
) -> None:
    """Map what a model uses: networks, filters, geometry.

    Occlusion of each network, frequency response of the filters, similarity of the networks.
    """
    from semantoks.workflow.explain import explain_model

    written = explain_model(model, store, out, n_crops=crops)
    show({"written": written}, "\n".join(map(str, written)))


@command
def generate(
    model: Model,
    store: Store,
    out: Annotated[Path, Flag(metavar="FOLDER", help="Write to this new folder.")],
    n_recordings: Annotated[int, Flag(metavar="N", help="Sample this many recordings.")] = 32,
    n_times: Annotated[
        int | None,
        Flag(metavar="N", help="Volumes of each; by default the median of the store."),
    ] = None,
    seed: Annotated[int, Flag(metavar="N", help="Seed of the sampling.")] = 0,
) -> None:
    """Sample recordings; compare them with real ones.

    For a model trained with objective.kind=autoregressive: power spectra and connectivity.
    """
    from semantoks.workflow.generate import generate_recordings

    written = generate_recordings(
        model, store, out, n_recordings=n_recordings, n_times=n_times, seed=seed
    )
    show({"written": written}, "\n".join(map(str, written)))

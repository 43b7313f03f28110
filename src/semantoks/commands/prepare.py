"""`semantoks prepare`, `semantoks assign`: recordings to a store, an atlas to a parcellation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click

from semantoks.commands.options import Argument, command
from semantoks.commands.output import progress, records, show
from semantoks.data.denoise import Censoring
from semantoks.data.encode import RoiRules
from semantoks.data.phenotypes import PhenotypeRules
from semantoks.data.quality import QualityRules
from semantoks.data.shards import Running
from semantoks.data.signal import Preprocessing
from semantoks.data.sources.items import Reading
from semantoks.flags import Flag

#: What the end of `prepare` states of the store; `semantoks info` states all.
_SHOWN = ("recordings", "TR", "parcellation", "sites", "phenotypes", "missing ROIs")


@command
def prepare(
    source: Annotated[
        str,
        Argument(
            "SOURCE",
            "Derivatives folder (fMRIPrep, XCP-D, HALFpipe, C-PAC), table of files, image or file "
            "of time series, .h5 file; or stages, abide-sample, abide (download).",
        ),
    ],
    store: Annotated[Path, Argument("STORE", "Folder of the new store.")],
    reading: Annotated[Reading | None, Flag(panel="Source")],
    preprocessing: Annotated[Preprocessing, Flag(panel="Signal")],
    censoring: Annotated[Censoring, Flag(panel="Signal")],
    rois: Annotated[RoiRules, Flag(panel="Atlas")],
    phenotypes: Annotated[PhenotypeRules, Flag(panel="Phenotypes")],
    quality: Annotated[QualityRules, Flag(panel="Quality")],
    running: Annotated[Running, Flag(panel="Running")],
    for_model: Annotated[
        str | None,
        Flag(
            metavar="MODEL",
            panel="Signal",
            help="Take TR, band and scaling from this model, which then reads the store.",
        ),
    ] = None,
) -> None:
    """Read recordings, check and preprocess them into a store.

    Rerunning the command resumes it: what is done is not read again.
    """
    from semantoks.report.tables import listing
    from semantoks.report.terminal import PrepareScreen, prepare_summary
    from semantoks.workflow.describe import describe_path
    from semantoks.workflow.prepare import prepare_store

    with PrepareScreen(progress()) as screen:
        report = prepare_store(
            source,
            store,
            reading=reading,
            preprocessing=preprocessing,
            for_model=for_model,
            censoring=censoring,
            rois=rois,
            phenotypes=phenotypes,
            quality=quality,
            running=running,
            progress=screen,
        )
    facts = {
        "store": report.store,
        "finished": report.finished,
        **{status: report.count(status) for status in ("stored", "excluded", "failed")},
        "recordings": records(report.quality),
        "remarks": report.remarks,
    }
    lines = describe_path(str(report.store)).lines if report.finished else {}
    about = [listing({name: lines[name] for name in _SHOWN})] if lines else []
    show(facts, *about, prepare_summary(report))
    if report.count("failed"):
        raise click.exceptions.Exit(3)


@command
def assign(
    image: Annotated[Path, Argument("FILE", "Volume of an atlas in MNI152 space.")],
    out: Annotated[Path, Argument("TABLE", "New .tsv: a parcellation for --atlas.")],
    labels: Annotated[
        Path | None,
        Flag(
            metavar="FILE",
            panel="Atlas",
            help="Name the ROIs by this table with the columns index and label; by default "
            "ROI_1, ROI_2 ...",
        ),
    ] = None,
) -> None:
    """Assign networks to the ROIs of an atlas of your own.

    A ROI belongs to the Yeo-7 network that it overlaps most.
    """
    from semantoks.workflow.prepare import assign_atlas

    table, weak = assign_atlas(image, out, labels)
    counts = {str(name): int(n) for name, n in table["network"].value_counts().items()}
    listed = ", ".join(f"{name} {n}" for name, n in counts.items())
    lines = [f"{len(table)} ROIs: {listed}", f"Written: {out}"]
    if weak:
        lines.append(f"{len(weak)} weak, less than half in one network; look at them:")
        lines += [f"  {line}" for line in weak]
    show({"table": out, "rois": len(table), "networks": counts, "weak": weak}, "\n".join(lines))

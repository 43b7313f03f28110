"""`Item`: a recording that is known, but not read yet; `Reading`: how files are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from semantoks import tables
from semantoks.atlas.parcellation import Parcellation
from semantoks.config import override
from semantoks.data.recording import Recording
from semantoks.data.signal import check_tr
from semantoks.errors import InputError, listed
from semantoks.flags import Flag

#: Facts of a recording by the entities of BIDS that are named otherwise.
_ENTITIES = {"sub": "subject", "ses": "session", "acq": "acquisition"}
#: nilearn's strategies of denoising fMRIPrep's outputs (`load_confounds_strategy`).
STRATEGIES = ("simple", "scrubbing", "compcor", "ica_aroma")


def read_names(text: str | Path) -> tuple[str, ...]:
    """Return names of ROIs: those that a file lists, or the labels of a built-in parcellation.

    Raises
    ------
    InputError
        It is neither, or the file cannot be read (`semantoks.tables.read_names`).
    """
    if str(text) in Parcellation.available():
        return Parcellation.load(text).labels
    path = Path(text)
    if not path.is_file():
        rule = "must be a file that lists names, or a built-in parcellation"
        raise InputError(rule, field="roi_names", value=str(text))
    return tables.read_names(path)


def _strategies() -> tuple[str, ...]:
    return (*STRATEGIES, "none")


def _strategy(name: str) -> str | None:
    return None if name == "none" else name


def _options(texts: Sequence[str]) -> dict[str, Any]:
    return override({}, texts)


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            rule = "must have the form entity=value, e.g. space=MNI152NLin6Asym"
            raise InputError(rule, field="entities", value=text)
        pairs[key] = value
    return pairs


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read; everything that they do not say themselves."""

    atlas: Annotated[Parcellation, Flag(metavar="ATLAS", panel="Atlas", read=Parcellation.load)]
    """Store the ROIs of this parcellation: a built-in name or a table of your own."""
    atlas_images: Annotated[
        tuple[Path, ...], Flag(name="--atlas-image", metavar="FILE", panel="Atlas")
    ] = ()
    """Read images with this image of the atlas: a volume, a dlabel, or two label.gii (left,
    right)."""
    from_atlas: Annotated[
        Parcellation | None, Flag(metavar="ATLAS", panel="Atlas", read=Parcellation.load)
    ] = None
    """Move time series from this parcellation to the atlas, by overlap of the two images."""
    from_image: Annotated[Path | None, Flag(metavar="FILE", panel="Atlas")] = None
    """Take this volume as the image of that parcellation."""
    roi_names: Annotated[
        tuple[str, ...] | None, Flag(metavar="FILE", panel="Atlas", read=read_names, single=True)
    ] = None
    """Name the columns of files without names: a text file with one name per line, or a built-in
    parcellation."""
    entities: Annotated[
        Mapping[str, str],
        Flag(name="--where", metavar="ENTITY=VALUE", read=_pairs, several=True),
    ] = field(default_factory=dict)
    """Read only the recordings with this BIDS entity (of a table: with this value of a column),
    e.g. space=MNI152NLin6Asym or task=rest; den= means without it."""
    root: Annotated[Path | None, Flag(metavar="FOLDER")] = None
    """Look for the files of a table in this folder; by default in the table's."""
    subject: Annotated[str | None, Flag(metavar="NAME")] = None
    """Name the subject of a single file whose name has no sub-, with or without it."""
    tr: Annotated[float | None, Flag(name="--source-tr", metavar="SECONDS")] = None
    """Take this TR, in seconds, whatever columns, sidecars and headers say."""
    orientation: Literal["time-first", "rois-first"] = "time-first"
    """State the order of the axes of arrays without names (.npy, .mat, tables without a header)."""
    variable: Annotated[str | None, Flag(metavar="NAME")] = None
    """Read this array of a .mat or .h5 file; join several of an .h5 file with +."""
    denoise: Annotated[str | None, Flag(panel="Signal", read=_strategy, known=_strategies)] = (
        "simple"
    )
    """Denoise fMRIPrep's outputs by this strategy of nilearn."""
    denoise_options: Annotated[
        Mapping[str, Any],
        Flag(
            name="--denoise-option",
            metavar="KEY=VALUE",
            panel="Signal",
            read=_options,
            several=True,
        ),
    ] = field(default_factory=dict)
    """Change an option of the strategy, e.g. global_signal=basic or fd_threshold=0.3."""

    def __post_init__(self) -> None:
        if self.orientation not in ("time-first", "rois-first"):
            rule = "must be time-first or rois-first"
            raise InputError(rule, field="orientation", value=self.orientation)
        if self.denoise is not None and self.denoise not in STRATEGIES:
            rule = f"must be one of {', '.join(STRATEGIES)}, or None"
            raise InputError(rule, field="denoise", value=self.denoise)
        if self.subject is not None:
            object.__setattr__(self, "subject", self.subject.removeprefix("sub-"))
        if self.tr is not None:
            check_tr(self.tr, "source_tr (--source-tr)")
        if (self.from_atlas is None) != (self.from_image is None):
            raise InputError("must be given together", field="from_atlas, from_image")
        if self.from_atlas is not None and len(self.atlas_images) != 1:
            rule = "moving to another atlas needs the volumes of both"
            fix = "Give the volume of the new one too (atlas_images, --atlas-image)"
            raise InputError(rule, field="atlas_images", fix=fix)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, files by their names."""
        return {
            "from_atlas": self.from_atlas.name if self.from_atlas else None,
            "atlas": self.atlas.name,
            "atlas_images": [path.name for path in self.atlas_images],
            "roi_names": list(self.roi_names) if self.roi_names else None,
            "tr": self.tr,
            "orientation": self.orientation,
            "variable": self.variable,
            "entities": dict(self.entities),
            "denoise": self.denoise,
            "denoise_options": {k: str(v) for k, v in self.denoise_options.items()},
            "subject": self.subject,
        }


@dataclass(frozen=True, eq=False)
class Item:
    """A recording that can be read.

    Parameters
    ----------
    id : str
        Identifier of the recording.
    files : tuple of Path
        What it is read from; if they change, it must be read again.
    load : callable
        Reads it; can be pickled.
    facts : mapping
        What is known without reading it, as plain values: a row of a table.
    notes : tuple of str
        What was decided about it that is worth a look.
    """

    id: str
    files: tuple[Path, ...]
    load: Callable[[], Recording]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def signature(self) -> dict[str, Any]:
        """Return what tells whether the recording must be read again, as plain values."""
        stats = [path.stat() for path in self.files if path.exists()]
        sizes = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
        return {"id": self.id, "files": sizes, "facts": {k: str(v) for k, v in self.facts.items()}}


def chosen(items: Sequence[Item], entities: Mapping[str, str], source: Path) -> list[Item]:
    """Return the recordings with some entities, told by their facts; an empty one is absent.

    Parameters
    ----------
    items : sequence of Item
    entities : mapping
        As `Reading.entities`; names of facts (``site``) are understood, too.
    source : Path
        For messages.

    Raises
    ------
    InputError
        No recording has one of them.
    """
    kept = [*items]
    for key, value in entities.items():
        stated = [str(item.facts.get(_ENTITIES.get(key, key)) or "") for item in kept]
        if value not in stated:
            rule = "no recording has this"
            fix = f"They have {listed([f'--where {key}={v}' for v in sorted({*stated})], shown=8)}"
            raise InputError(rule, file=source, field=f"--where {key}", value=value, fix=fix)
        kept = [item for item, own in zip(kept, stated, strict=True) if own == value]
    return kept

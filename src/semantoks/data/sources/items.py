"""`Item`: a recording that is known, but not read yet; `Reading`: how files are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.recording import Recording
from semantoks.errors import InputError

#: nilearn's strategies of denoising fMRIPrep's outputs (`load_confounds_strategy`).
STRATEGIES = ("simple", "scrubbing", "compcor", "ica_aroma")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read; everything that they do not say themselves."""

    atlas: Parcellation
    """The ROIs wanted."""
    atlas_images: tuple[Path, ...] = ()
    """Image of the atlas: a volume, a CIFTI dlabel, or two GIFTI labels (left, right)."""
    from_atlas: Parcellation | None = None
    """Parcellation of the files' time series, to be moved to `atlas` by overlap of the images."""
    from_image: Path | None = None
    """Volume of `from_atlas`."""
    roi_names: tuple[str, ...] | None = None
    """Names of the columns of files that do not hold them, in their order."""
    tr: float | None = None
    """Repetition time of files that do not state it, seconds."""
    orientation: Literal["time-first", "rois-first"] = "time-first"
    """Order of the axes of arrays without names (.npy, .mat, tables without a first line)."""
    variable: str | None = None
    """Which array of a .mat or .h5 file; several of an .h5 file are joined with ``+``."""
    entities: Mapping[str, str] = field(default_factory=dict)
    """BIDS entities of the files to read: ``{"space": "MNI152NLin6Asym", "task": "rest"}``."""
    denoise: str | None = "simple"
    """nilearn's strategy for fMRIPrep's outputs, simple, scrubbing, compcor or ica_aroma; none."""
    denoise_options: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the strategy: ``{"global_signal": "basic", "fd_threshold": 0.3}``."""
    subject: str | None = None
    """Subject of a single file whose name has no ``sub-``."""
    root: Path | None = None
    """Folder in which the files of a table are; by default the table's."""

    def __post_init__(self) -> None:
        if self.orientation not in ("time-first", "rois-first"):
            rule = "has to be time-first or rois-first"
            raise InputError(rule, field="orientation", value=self.orientation)
        if self.denoise is not None and self.denoise not in STRATEGIES:
            rule = f"has to be one of {', '.join(STRATEGIES)}, or none"
            raise InputError(rule, field="denoise", value=self.denoise)

        if (self.from_atlas is None) != (self.from_image is None):
            raise InputError("go together", field="from_atlas, from_image")
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
        What it is read from; if they change, it has to be read again.
    load : callable
        Reads it; can be pickled.
    facts : mapping
        What is known without reading it, as plain values: a row of a table.
    """

    id: str
    files: tuple[Path, ...]
    load: Callable[[], Recording]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def signature(self) -> dict[str, Any]:
        """Return what tells whether the recording has to be read again, as plain values."""
        stats = [path.stat() for path in self.files if path.exists()]
        sizes = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
        return {"id": self.id, "files": sizes, "facts": {k: str(v) for k, v in self.facts.items()}}


def read_names(text: str | Path) -> tuple[str, ...]:
    """Return names of ROIs: the lines of a text file, or the labels of a built-in parcellation.

    Raises
    ------
    InputError
        It is neither.
    """
    if str(text) in Parcellation.available():
        return Parcellation.load(text).labels
    path = Path(text)
    if not path.is_file():
        rule = "is neither a text file with one name per line nor a built-in parcellation"
        raise InputError(rule, field="roi_names", value=str(text))
    return tuple(path.read_text(encoding="utf-8").splitlines())

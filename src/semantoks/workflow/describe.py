"""What a path holds, and whether it is whole."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from semantoks import __version__
from semantoks.atlas.parcellation import Parcellation
from semantoks.config import read_yaml
from semantoks.data.integrity import check_store
from semantoks.data.layout import HEADER as STORE_HEADER
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError, nearest
from semantoks.model.pretrained import HEADER as MODEL_HEADER
from semantoks.model.pretrained import INCLUDED, load_pretrained
from semantoks.train.checkpoint import check_checkpoints
from semantoks.train.setup import CONFIG, METRICS, pick_device


@dataclass(frozen=True)
class Description:
    """What a path holds.

    Parameters
    ----------
    facts : dict
        Plain values, for other programs.
    lines : dict
        The same for people: title and text.
    """

    facts: dict[str, Any]
    lines: dict[str, object]


def installation() -> dict[str, str]:
    """Return what ``semantoks --version`` prints: versions, device, shipped weights."""
    packages = ("torch", "numpy", "scikit-learn", "nilearn")
    name = pick_device("auto")
    device = f"{torch.cuda.get_device_name(name)} (cuda)" if name.type == "cuda" else "cpu"
    weights = {
        folder.name: sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        for folder in sorted(INCLUDED.iterdir())
        if folder.is_dir()
    }
    return {
        "semantoks": __version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
        "device": f"{device}, {torch.get_num_threads()} threads",
        "weights": ", ".join(f"{model} ({size:.1f} MB)" for model, size in weights.items()),
    }


def describe_path(path: str) -> Description:
    """Return what ``semantoks info`` prints about a store, run, model or parcellation.

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
        networks = {name: len(rois) for name, rois in sizes}
        facts = {
            "parcellation": parcellation.name,
            "n_rois": len(parcellation),
            "networks": networks,
            "space": parcellation.space,
            "rois": [*parcellation.labels],
            "hash": parcellation.hash,
        }
        lines = {
            "parcellation": parcellation.name,
            "ROIs": len(parcellation),
            "networks": _counts(networks),
            "space": parcellation.space,
            "first, last ROI": f"{parcellation.labels[0]}, {parcellation.labels[-1]}",
            "hash": parcellation.hash[:16],
        }
        return Description({"kind": "parcellation", **facts}, lines)
    raise InputError(
        "must be a store, a run, a model or a parcellation",
        field="path",
        value=path,
        fix=nearest(path, Parcellation.available(), n=3),
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


def _store_facts(store: RecordingStore) -> Description:
    info = store.info()
    minutes = info["minutes"]
    steps = "; ".join(
        f"TR {tr} s: " + ", ".join(str(step["step"]) for step in steps)
        for tr, steps in sorted(info["steps"].items(), key=lambda item: float(item[0]))
    )
    notes = store.header.get("provenance", {}).get("notes", [])
    facts = {"kind": "store", **info, "preprocessing": store.preprocessing, "notes": notes}
    lines = {
        "store": info["path"],
        "recordings": f"{info['n_recordings']} of {info['n_subjects']} people, "
        f"{minutes['min']:.1f} to {minutes['max']:.1f} min, {minutes['sum'] / 60:.1f} h together",
        "TR": f"{info['tr']:g} s",
        "parcellation": f"{info['parcellation']}, {info['n_rois']} ROIs",
        "networks": _counts(info["networks"]),
        "sites": _counts(info["sites"]) or "not stated",
        "phenotypes": _counts(info["phenotypes"]) or "none",
        "missing ROIs": f"in {info['with_missing_rois']} recordings",
        "notes": "; ".join(notes) or "none",
        "preprocessing": store.preprocessing,
        "steps by source": steps,
        "size": f"{info['megabytes']:.1f} MB, written by semantoks {info['package_version']}",
        "fingerprint": info["fingerprint"][:16],
    }
    return Description(facts, lines)


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in numbers.items())


def _model_facts(folder: Path) -> Description:
    facts: dict[str, Any] = {"kind": "model", "path": folder}
    lines: dict[str, object] = {}
    if (folder / CONFIG).exists():
        metrics = (folder / METRICS).read_text(encoding="utf-8").splitlines()
        last: Mapping[str, Any] = json.loads(metrics[-1]) if metrics else {}
        facts |= {
            "kind": "run",
            "store": read_yaml(folder / CONFIG).get("data", {}).get("store"),
            "step": last.get("step", 0),
            "n_steps": last.get("n_steps"),
        }
        lines["run"], lines["store"] = folder, facts["store"]
        lines["steps"] = f"{facts['step']} of {facts['n_steps'] or '?'}"
    encoder = load_pretrained(folder)
    config = encoder.config
    n_parameters = sum(p.numel() for p in encoder.parameters())
    facts |= {
        "encoder": config,
        "n_parameters": n_parameters,
        "parcellation": encoder.channels.name,
        "n_rois": len(encoder.channels),
        "preprocessing": encoder.preprocessing,
        "pretraining": encoder.pretraining,
    }
    lines["encoder"] = (
        f"width {config.width}, depth {config.depth}, {encoder.n_networks} networks x "
        f"{config.n_patches} patches of {config.patch_length} time points"
    )
    lines["parameters"] = f"{n_parameters:,}"
    lines["parcellation"] = f"{encoder.channels.name}, {len(encoder.channels)} ROIs"
    lines["preprocessing"] = encoder.preprocessing
    seen = encoder.pretraining
    if seen is not None:
        lines["has seen"] = "not stated"
        if seen.subjects is not None:
            lines["has seen"] = (
                f"{seen.n_recordings} recordings of {seen.n_subjects} people, "
                f"sites {', '.join(seen.sites or ()) or 'not stated'}"
            )
    return Description(facts, lines)

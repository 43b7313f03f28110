"""What a path holds, and whether it is whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semantoks.atlas.parcellation import Parcellation
from semantoks.config import read_yaml
from semantoks.data.integrity import check_store
from semantoks.data.reader import HEADER as STORE_HEADER
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError, nearest
from semantoks.model.pretrained import HEADER as MODEL_HEADER
from semantoks.model.pretrained import load_pretrained
from semantoks.train.checkpoint import check_checkpoints
from semantoks.train.setup import CONFIG, METRICS


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
    facts["parcellation"] = f"{encoder.channels.name}, {len(encoder.channels)} ROIs"
    facts["preprocessing"] = encoder.preprocessing
    seen = encoder.pretraining
    if seen is not None:
        facts["has seen"] = "not stated"
        if seen.subjects is not None:
            facts["has seen"] = (
                f"{seen.n_recordings} recordings of {seen.n_subjects} people, "
                f"sites {', '.join(seen.sites or ()) or 'not stated'}"
            )
    return facts

"""Save and load encoders: a folder with safetensors, a JSON header and the table of ROIs.

A model folder holds ``model.safetensors`` (``student.*`` and ``teacher.*``), ``config.json``
(architecture, preprocessing, what the weights have seen) and ``rois.tsv``. Every checkpoint of a
run is such a folder, and a run's folder stands for its newest checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from semantoks.atlas.parcellation import Parcellation
from semantoks.config import parse, to_tree
from semantoks.data.signal import Preprocessing
from semantoks.errors import CheckpointError
from semantoks.model.encoder import Encoder, EncoderConfig

Role = Literal["teacher", "student"]

FORMAT_VERSION = 1
WEIGHTS, HEADER, ROIS = "model.safetensors", "config.json", "rois.tsv"


def save_model(folder: Path, weights: Mapping[str, Tensor], encoder: Encoder) -> None:
    """Write a model folder; the folder exists and is the caller's own.

    Parameters
    ----------
    folder : Path
    weights : mapping of str to Tensor
        Entries named ``student.encoder.*`` and ``teacher.encoder.*``, and what else belongs to
        them (the projection heads).
    encoder : Encoder
        Gives the header.
    """
    save_file({k: v.detach().contiguous() for k, v in weights.items()}, folder / WEIGHTS)
    header = {
        "format": FORMAT_VERSION,
        "encoder": to_tree(encoder.config),
        "preprocessing": to_tree(encoder.preprocessing),
        "parcellation": {"name": encoder.parcellation.name, "hash": encoder.parcellation.hash},
        "pretraining": encoder.pretraining,
        "versions": {name: metadata.version(name) for name in ("semantoks", "torch")},
    }
    (folder / HEADER).write_text(json.dumps(header, indent=1), encoding="utf-8")
    encoder.parcellation.save(folder / ROIS)


def newest_checkpoint(run: Path) -> Path | None:
    """Return the newest checkpoint of a run's folder, or None."""
    return max((run / "checkpoints").glob("step-*"), default=None, key=lambda p: p.name)


def _model_folder(source: Path) -> Path:
    if (source / HEADER).exists():
        return source
    checkpoint = newest_checkpoint(source)
    if checkpoint is not None:
        return checkpoint
    raise CheckpointError(
        f"is no model: it has neither {HEADER} nor checkpoints/",
        file=source,
        fix="Give the folder of a run, of one of its checkpoints, or of an exported model",
    )


def read_header(folder: Path) -> dict[str, Any]:
    """Read and check ``config.json`` of a model folder."""
    file = folder / HEADER
    try:
        header = json.loads(file.read_text(encoding="utf-8"))
        version = header["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"is damaged ({error})", file=file) from None
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"was written by a newer version of semantoks (this one reads up to {FORMAT_VERSION})",
            file=file,
            field="format",
            value=version,
            fix="Upgrade semantoks",
        )
    return dict(header)


def load_pretrained(source: str | Path, role: Role = "teacher") -> Encoder:
    """Load an encoder for inference.

    Parameters
    ----------
    source : path
        Folder of a run (its newest checkpoint), of a checkpoint, or of a model.
    role : {"teacher", "student"}
        The teacher is what the paper evaluates.

    Returns
    -------
    Encoder
        In evaluation mode, on the CPU, its `pretraining` saying what it has seen.

    Raises
    ------
    CheckpointError
        If the folder is no model, is damaged, or its weights do not fit its header.
    """
    folder = _model_folder(Path(source))
    header = read_header(folder)
    try:
        encoder_config = parse(EncoderConfig, header["encoder"])
        preprocessing = parse(Preprocessing, header["preprocessing"])
        parcellation = Parcellation.load(folder / ROIS)
        expected_hash = header["parcellation"]["hash"]
        name = header["parcellation"]["name"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"is damaged: {error}", file=folder / HEADER) from None
    if parcellation.hash != expected_hash:
        raise CheckpointError(
            f"does not list the ROIs that {HEADER} states", file=folder / ROIS, field="hash"
        )
    parcellation = replace(parcellation, name=name)
    encoder = Encoder.random(encoder_config, parcellation, preprocessing, seed=0)
    encoder.load_state_dict(read_weights(folder, f"{role}.encoder.", encoder.state_dict()))
    encoder.pretraining = header.get("pretraining")
    return encoder.eval().requires_grad_(False)


def read_weights(folder: Path, prefix: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the entries under `prefix`; names and shapes must be those of `expected`.

    Raises
    ------
    CheckpointError
        Naming what is missing, left over or of another shape.
    """
    file = folder / WEIGHTS
    try:
        with safe_open(file, framework="pt") as archive:
            found: dict[str, Tensor] = {
                name.removeprefix(prefix): archive.get_tensor(name)
                for name in archive.keys()  # noqa: SIM118 - not a dict
                if name.startswith(prefix)
            }
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"is missing or truncated ({error})", file=file) from None
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not known" for name in found if name not in expected]
    problems += [
        f"{name} has the shape {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"does not fit its header: {'; '.join(problems[:5])}{more}", file=file
        )
    broken = [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError("holds NaN or infinite weights", file=file, field=broken[0])
    return found

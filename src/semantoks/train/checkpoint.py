"""Checkpoints of a run: written whole or not at all, and enough to go on exactly.

A checkpoint is a model folder (see `semantoks.model.pretrained`) plus the optimiser's state.
Views, masks and the order of recordings are functions of the step, so no generator is saved.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from semantoks.errors import CheckpointError
from semantoks.model.pretrained import newest_checkpoint, read_weights, save_model
from semantoks.objectives.distillation import SelfDistillation

OPTIMIZER, PROGRESS = "optimizer.safetensors", "progress.json"


def save_checkpoint(
    run: Path, step: int, method: SelfDistillation, optimizer: torch.optim.Optimizer, keep: int
) -> Path:
    """Write ``checkpoints/step-XXXXXXXX`` by rename, then remove all but the newest `keep`.

    Parameters
    ----------
    run : Path
        Folder of the run.
    step : int
        Steps done.
    method : SelfDistillation
    optimizer : torch Optimizer
    keep : int

    Returns
    -------
    Path
        The checkpoint's folder.

    Raises
    ------
    CheckpointError
        If it cannot be written (a full disk, say); earlier checkpoints stay.
    """
    folder = run / "checkpoints" / f"step-{step:08d}"
    if folder.exists():  # renamed into place, so whole; the same step has the same state
        return folder
    writing = folder.with_name(f".writing-{folder.name}")
    try:
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
        save_model(writing, _unique(method), method.student.encoder)
        save_file(_optimizer_tensors(method, optimizer), writing / OPTIMIZER)
        (writing / PROGRESS).write_text(json.dumps({"step": step}), encoding="utf-8")
        for path in [*writing.iterdir(), writing]:
            _fsync(path)
        writing.rename(folder)
        _fsync(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(writing, ignore_errors=True)
        raise CheckpointError(
            f"could not be written ({error}); earlier checkpoints are unharmed",
            file=folder,
            fix="Free some space, then continue the run with --resume",
        ) from error
    for old in sorted(folder.parent.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def load_checkpoint(
    run: Path, method: SelfDistillation, optimizer: torch.optim.Optimizer
) -> int | None:
    """Load the newest checkpoint into `method` and `optimizer`.

    Returns
    -------
    int or None
        Steps done; None if the run has no checkpoint yet.

    Raises
    ------
    CheckpointError
        If the checkpoint is damaged or belongs to another model.
    """
    folder = newest_checkpoint(run)
    if folder is None:
        return None
    method.load_state_dict(read_weights(folder, "", _unique(method)), strict=False)
    file = folder / OPTIMIZER
    try:
        step = int(json.loads((folder / PROGRESS).read_text(encoding="utf-8"))["step"])
        with safe_open(file, framework="pt") as archive:
            saved = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"is missing or damaged ({error})", file=file) from None
    state = optimizer.state_dict()
    for i, name in enumerate(_trained(method)):
        entries = {k.partition("|")[2]: v for k, v in saved.items() if k.startswith(f"{name}|")}
        if entries:  # a parameter that no loss has reached yet has no state
            state["state"][i] = entries
    optimizer.load_state_dict(state)
    return step


def _unique(method: SelfDistillation) -> dict[str, Tensor]:
    """Return the state without the second names of shared parameters."""
    shared = "" if method.config.separate_mask_head else ".mask_head."
    return {k: v for k, v in method.state_dict().items() if not shared or shared not in k}


def _trained(method: SelfDistillation) -> list[str]:
    return [name for name, p in method.named_parameters() if p.requires_grad]


def _optimizer_tensors(
    method: SelfDistillation, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{name}|{key}": value.contiguous()
        for i, name in enumerate(_trained(method))
        for key, value in state.get(i, {}).items()
    }


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

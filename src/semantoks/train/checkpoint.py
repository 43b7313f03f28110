"""Checkpoints of a run: whole or absent, and enough to resume exactly.

A checkpoint is a model folder (see `semantoks.model.pretrained`) plus the optimiser's state.
Views, masks and the order of recordings are functions of the step, so no generator is saved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from semantoks.data.layout import file_sha256
from semantoks.errors import CheckpointError, entry, readable
from semantoks.files import remove_folder, remove_partial, staged_folder
from semantoks.model.pretrained import newest_checkpoint, read_weights, save_model
from semantoks.model.weights import current_name
from semantoks.objectives.objective import Objective

OPTIMIZER, PROGRESS = "optimizer.safetensors", "progress.json"
#: Checkpoints of earlier versions state the rank of an augmented batch, under another name.
RANK = "effective_rank_of_fixed_batch"


def save_checkpoint(
    run: Path,
    step: int,
    objective: Objective[Any, Any],
    optimizer: torch.optim.Optimizer,
    *,
    keep: int,
    effective_rank: float | None = None,
    keep_best: bool = False,
) -> Path:
    """Write ``checkpoints/step-XXXXXXXX`` by rename, then remove old ones.

    Parameters
    ----------
    run : Path
        Folder of the run.
    step : int
        Steps done.
    objective : Objective
    optimizer : torch Optimizer
    keep : int
        Number of the newest checkpoints to keep.
    effective_rank : float, optional
        Of the embeddings of the run's fixed batch at this step.
    keep_best : bool
        Keep the one with the highest effective rank, too.

    Returns
    -------
    Path
        The checkpoint's folder.

    Raises
    ------
    CheckpointError
        If it cannot be written (e.g. on a full disk); earlier checkpoints stay.
    """
    folder = run / "checkpoints" / _name(step)
    if folder.exists():  # renamed into place, so whole; the same step has the same state
        return folder
    remove_partial(folder.parent)
    fix = "Free some space, then resume the run with --resume"
    with staged_folder(folder, kind=CheckpointError, fix=fix) as writing:
        save_model(writing, _unique(objective), objective.encoder(), roles=objective.roles)
        save_file(optimizer_tensors(_trained(objective), optimizer), writing / OPTIMIZER)
        progress = {
            "step": step,
            RANK: effective_rank,
            "sha256": {path.name: file_sha256(path) for path in sorted(writing.iterdir())},
        }
        (writing / PROGRESS).write_text(json.dumps(progress, indent=1), encoding="utf-8")
    _remove_old(run, keep, keep_best)
    return folder


def best_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint whose embeddings have the highest effective rank, the newest of equals.

    The effective rank needs no labels and follows probe accuracy across many self-supervised
    models. Source: Garrido et al., ICML 2023 (RankMe).

    Parameters
    ----------
    run : Path
        Folder of the run.

    Returns
    -------
    Path or None
        None if no checkpoint states its effective rank.
    """
    best: tuple[float, str, Path] | None = None
    for folder in (run / "checkpoints").glob("step-*"):
        try:
            rank = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))[RANK]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(rank, float) and (best is None or (rank, folder.name) > best[:2]):
            best = (rank, folder.name, folder)
    return None if best is None else best[2]


def _remove_old(run: Path, keep: int, keep_best: bool) -> None:
    """Remove all but the newest checkpoints, and the best."""
    best = best_checkpoint(run) if keep_best else None
    for old in sorted((run / "checkpoints").glob("step-*"))[:-keep]:
        if old != best:
            remove_folder(old)


def load_checkpoint(
    run: Path, objective: Objective[Any, Any], optimizer: torch.optim.Optimizer
) -> int | None:
    """Load the newest checkpoint into `objective` and `optimizer`.

    Returns
    -------
    int or None
        Steps done; None if the run has no checkpoint yet.

    Raises
    ------
    CheckpointError
        If the checkpoint is damaged (its checksums are verified) or belongs to another model.
    """
    folder = newest_checkpoint(run)
    if folder is None:
        return None
    step = _verified_step(folder)
    objective.load_state_dict(read_weights(folder, "", _unique(objective)), strict=False)
    file = folder / OPTIMIZER
    try:
        with safe_open(file, framework="pt") as archive:
            names = archive.keys()
            saved = {current_name(name): archive.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"is missing or damaged ({error})", file=file) from None
    load_optimizer(_trained(objective), optimizer, saved)
    return step


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _verified_step(folder: Path) -> int:
    """Return the steps done, after comparing every file with its checksum."""
    file = folder / PROGRESS
    fix = f"Delete {folder.name} to resume from the checkpoint before it"
    with readable(file, CheckpointError, fix=fix):
        progress = json.loads(file.read_text(encoding="utf-8"))
        step = int(str(entry(progress, "step")))
        checksums = {} if progress.keys() == {"step"} else entry(progress, "sha256")  # older
        if not isinstance(checksums, dict):
            raise ValueError("sha256 must be a mapping")
    if folder.name != _name(step):
        raise CheckpointError("is of another step", file=file, field="step", value=step, fix=fix)
    for name, expected in checksums.items():
        path = folder / Path(name).name
        if not path.is_file() or file_sha256(path) != expected:
            rule = "is missing or damaged (its checksum differs)"
            raise CheckpointError(rule, file=path, fix=fix)
    return step


def check_checkpoints(run: Path) -> list[str]:
    """Return what is wrong with the checkpoints of a run, one line per damaged one."""
    problems = []
    for folder in sorted((run / "checkpoints").glob("step-*")):
        try:
            _verified_step(folder)
        except CheckpointError as error:
            problems.append(str(error))
    return problems


def _unique(objective: Objective[Any, Any]) -> dict[str, Tensor]:
    """Return the state without the second names of shared tensors."""
    named = [*objective.named_parameters(), *objective.named_buffers()]  # each once
    names = {name for name, _ in named}
    return {name: value for name, value in objective.state_dict().items() if name in names}


def _trained(objective: Objective[Any, Any]) -> list[str]:
    return [name for name, p in objective.named_parameters() if p.requires_grad]


def optimizer_tensors(names: Sequence[str], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimiser, its parameters named in its own order."""
    state = optimizer.state_dict()["state"]
    return {
        f"{name}|{key}": value.contiguous()
        for i, name in enumerate(names)
        for key, value in state.get(i, {}).items()
    }


def load_optimizer(
    names: Sequence[str], optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]
) -> None:
    """Load what `optimizer_tensors` returned."""
    state = optimizer.state_dict()
    for i, name in enumerate(names):
        entries = {k.partition("|")[2]: v for k, v in saved.items() if k.startswith(f"{name}|")}
        if entries:  # a parameter that no loss has reached yet has no state
            state["state"][i] = entries
    optimizer.load_state_dict(state)

"""Checkpoints of fine-tuning: one file per fit, from which a killed fit resumes exactly.

What is random in an epoch is a function of its number, so no generator is saved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from semantoks.errors import CheckpointError, entry, readable
from semantoks.files import staged_file
from semantoks.model.weights import check_weights, current_name, tensors_hash
from semantoks.train.checkpoint import load_optimizer, optimizer_tensors


class TuningCheckpoint:
    """The trained parameters, the best of them so far, the optimiser, and what was measured.

    Parameters
    ----------
    model : torch module
        Holds every parameter of the optimiser.
    optimizer : torch Optimizer

    Attributes
    ----------
    parameters : dict of str to Parameter
        In the order of the optimiser.
    best : dict of str to Tensor
        What `keep` kept; may be empty.
    history : list of dict
        One per epoch that was done.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        name_of = {parameter: name for name, parameter in model.named_parameters()}
        groups = optimizer.param_groups
        self.parameters = {name_of[p]: p for group in groups for p in group["params"]}
        self.optimizer = optimizer
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []

    def keep(self) -> None:
        """Remember the parameters as they are now."""
        self.best = {name: p.detach().clone() for name, p in self.parameters.items()}

    def restore(self) -> None:
        """Go back to the parameters that were kept."""
        self._set(self.best)

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def save(self, file: Path, fit: Mapping[str, Any]) -> None:
        """Write everything into a file that appears whole, in place of the one before.

        Parameters
        ----------
        file : Path
        fit : mapping
            Settings and data of the fit, as plain values.

        Raises
        ------
        CheckpointError
            If it cannot be written; the file of the epoch before stays.
        """
        tensors = {f"model|{n}": p.detach().contiguous() for n, p in self.parameters.items()}
        tensors |= {f"best|{name}": value for name, value in self.best.items()}
        state = optimizer_tensors([*self.parameters], self.optimizer)
        tensors |= {f"optimizer|{name}": value for name, value in state.items()}
        facts = {"fit": dict(fit), "history": self.history, "sha256": tensors_hash(tensors)}
        fix = "Free some space, then fit again: it resumes from the epoch before"
        with staged_file(file, overwrite=True, kind=CheckpointError, fix=fix) as partial:
            save_file(tensors, partial, {name: json.dumps(value) for name, value in facts.items()})

    def load(self, file: Path, fit: Mapping[str, Any]) -> None:
        """Read what `save` wrote.

        Raises
        ------
        CheckpointError
            If the file is damaged, or of a fit with other settings or data.
        """
        fix = "Delete it to begin again"
        with readable(file, CheckpointError, fix=fix):
            with safe_open(file, framework="pt") as archive:
                facts = {name: json.loads(v) for name, v in (archive.metadata() or {}).items()}
                found = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
            held, history, expected = (entry(facts, name) for name in ("fit", "history", "sha256"))
        plain = json.loads(json.dumps(dict(fit)))
        other = sorted(k for k in held.keys() | plain.keys() if held.get(k) != plain.get(k))
        if other:
            raise CheckpointError(
                f"is of another fit: {', '.join(other)} differ",
                file=file,
                field=other[0],
                value=plain.get(other[0]),
                fix=f"Choose another checkpoint. {fix}",
            )
        if tensors_hash(found) != expected:
            raise CheckpointError("is damaged (its checksum differs)", file=file, fix=fix)
        found = {current_name(name): value for name, value in found.items()}
        of = {
            part: {n.removeprefix(f"{part}|"): v for n, v in found.items() if n.startswith(part)}
            for part in ("model", "best", "optimizer")
        }
        check_weights(of["model"], {n: p.shape for n, p in self.parameters.items()}, file)
        self._set(of["model"])
        device = next(iter(self.parameters.values())).device
        self.best = {name: value.to(device) for name, value in of["best"].items()}
        load_optimizer([*self.parameters], self.optimizer, of["optimizer"])
        self.history = history

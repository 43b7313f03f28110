"""Weights by name: the check that a file has those of an architecture, former names, hashes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from semantoks.errors import CheckpointError
from semantoks.model.encoder import Encoder, EncoderConfig

_SHOWN = 5
_LATER = (
    "final_norm",
    "connectome",
    "vq",
    "attention",
    "positions",
    "average",
)  # fields that the architecture got since
_POSITIONS, _FORMER_POSITIONS = "tokenizer.positions.table", "network_embedding"


def current_name(name: str) -> str:
    """Return today's name of a weight that was saved by any version of this package.

    The learned positions belonged to the encoder before they belonged to the tokenizer.
    """
    return name.replace(_FORMER_POSITIONS, _POSITIONS)


def check_weights(
    found: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], file: str | Path
) -> None:
    """Check that `found` holds the `expected` names and shapes, finite, and nothing else.

    Parameters
    ----------
    found : mapping of str to Tensor
    expected : mapping of str to shape
    file : path
        Named in the error.

    Raises
    ------
    CheckpointError
        Naming what is missing, left over, of another shape, or not finite.
    """
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not known" for name in found if name not in expected]
    problems += [
        f"{name} has the shape {tuple(found[name].shape)}, not {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise CheckpointError(
            f"does not fit its header: {'; '.join(problems[:_SHOWN])}{more}", file=file
        )
    broken = [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError("holds NaN or infinite weights", file=file, field=broken[0])


def tensors_hash(tensors: Mapping[str, Tensor], what: str = "") -> str:
    """Return the SHA-256 of tensors and their names, and of what is to be hashed with them."""
    digest = sha256(what.encode())
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _stated(config: EncoderConfig) -> str:
    """Return the architecture as text; what came later only where it is not as before."""
    former = EncoderConfig(average="all")
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    stated = (
        f"{name}={value!r}"
        for name, value in values.items()
        if name not in _LATER or value != getattr(former, name)
    )
    return f"EncoderConfig({', '.join(stated)})"


def weights_hash(encoder: Encoder) -> str:
    """Return the SHA-256 of an encoder's weights and of what it reads.

    Weights go by the names that they have always had, so that recorded hashes stay true.
    """
    reads = f"{_stated(encoder.config)}{encoder.channels.hash}{encoder.preprocessing}"
    weights = {k.replace(_POSITIONS, _FORMER_POSITIONS): v for k, v in encoder.state_dict().items()}
    return tensors_hash(weights, reads)

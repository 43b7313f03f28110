"""The authors' checkpoints: read and written in the form in which they publish them.

1. A file is opened without ever running code from it, and damage is found.
2. Its config, inside or beside it, gives the architecture; its network map the parcellation.
3. Every weight of ours has one name there (`_NAMES`). What their forward pass never uses
   (tokenizers under the two other atlases, a second final norm) and the second names of shared
   weights are left out on reading and filled in on writing.

The form states neither TR nor band: weights in it expect the paper's, `Preprocessing()`.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semantoks.config import to_tree
from semantoks.data.seen import SeenData
from semantoks.data.signal import Preprocessing
from semantoks.errors import CheckpointError, ConfigError
from semantoks.files import staged_file
from semantoks.model.authors_config import (
    architecture,
    find_config,
    has_mask_head,
    heads_of,
    to_authors_config,
    value_at,
)
from semantoks.model.authors_map import ATLASES, MAP_PATH, map_section, token_map, token_order
from semantoks.model.encoder import Encoder
from semantoks.model.positions import sincos_positions
from semantoks.model.weights import check_weights

ROLES = ("teacher", "student")  # the first is what the paper evaluates
CORTEX, *_UNUSED_ATLASES = ATLASES
_TRANSFORMER = "inter_network_transformer"
_POSITIONS = f"{_TRANSFORMER}.temporal_pos_embedding"
_INITIALIZED = "kernel_norm_initialized"
_SHARED = "shared_roi_projection"

# Our name -> theirs, applied one after another.
_NAMES = (
    (r"(\.blocks\.\d+\.mlp)\.2\.", r"\1.3."),
    (r"\.blocks\.", f".{_TRANSFORMER}.transformer_blocks."),
    (r"\.cls_token$", f".{_TRANSFORMER}.cls_token"),
    (r"\.mask_token$", f".{_TRANSFORMER}.mask_embedding"),
    (r"\.tokenizer\.positions\.table$", f".{_TRANSFORMER}.network_learnable_pos_embedding.weight"),
    (r"\.tokenizer\.projection\.", f".{_SHARED}."),
    (r"\.attention\.projection\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
    (r"\.scale(\d)$", r".ls\1.gamma"),
    (r"\.conv\.skip$", ".slconv.D"),
    (r"\.conv\.pieces\.", ".slconv.kernel_list."),
    (r"\.conv\.", ".slconv."),
    (r"\.encoder\.", "_encoder."),
    (r"\.(mask_)?head\.hidden\.", r"_\1predictor.mlp.0."),
    (r"\.(mask_)?head\.out\.", r"_\1predictor.mlp.2."),
)


def authors_name(ours: str, order: Sequence[int]) -> str:
    """Return the authors' name of a weight.

    Parameters
    ----------
    ours : str
        Our name, e.g. ``teacher.encoder.cls_token``.
    order : sequence of int
        Their token index of every row of ours.
    """
    name = re.sub(
        r"\.tokenizer\.networks\.(\d+)\.",
        lambda found: f".network_tokenizers.{CORTEX}.{order[int(found[1])]}.",
        ours,
    )
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _shape_there(ours: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return their shape: the two single tokens have leading axes of length 1."""
    extra = {"mask_token": 1, "cls_token": 2}.get(ours.rpartition(".")[2], 0)
    return (1,) * extra + tuple(shape)


def _is_dead(name: str) -> bool:
    """Return whether an entry is never used in their forward pass."""
    return f".{_TRANSFORMER}.norm." in name or any(
        f".network_tokenizers.{atlas}." in name for atlas in _UNUSED_ATLASES
    )


# -- reading ---------------------------------------------------------------------------------------


def read_authors(
    file: Path, roles: Sequence[str] = ROLES, *, heads: bool = True
) -> tuple[Encoder, dict[str, Tensor]]:
    """Read a checkpoint of the authors.

    Parameters
    ----------
    file : Path
        A ``.pth``; its config is inside, or beside it under its name with ``.yaml``, or as
        ``config.yaml``. A network map of the name that the config gives may lie beside it too.
    roles : sequence of {"student", "teacher"}
        Whose weights to read; those of the other may be missing.
    heads : bool
        Read the projection heads too.

    Returns
    -------
    encoder : Encoder
        Of the right architecture; the weights are not loaded into it.
    weights : dict of str to Tensor
        Under our names: ``student.encoder.*`` and so on.

    Raises
    ------
    CheckpointError
        If the file is damaged, holds code, is of another architecture, or misses entries.
    """
    content = _open(file)
    config = find_config(content, file)
    encoder_config = architecture(config, file)
    data = value_at(config, "data", dict, file)
    parcellation, tokens = token_map(data, encoder_config.granularity, file)
    encoder = Encoder.random(encoder_config, parcellation, Preprocessing(), seed=0)
    encoder.pretraining = _pretraining(content, file)
    shapes = {f"encoder.{name}": tensor.shape for name, tensor in encoder.state_dict().items()}
    if heads:
        shapes |= heads_of(config, file)
    order = token_order(encoder.rows, tokens)
    ours = {f"{role}.{name}": shape for role in roles for name, shape in shapes.items()}
    theirs = {authors_name(name, order): _shape_there(name, shape) for name, shape in ours.items()}
    entries = _entries(content, file)
    _check_constants(entries, encoder, has_mask_head(config, file), file)
    check_weights(_relevant(entries, {name.split(".")[0] for name in theirs}), theirs, file)
    weights = {name: entries[authors_name(name, order)].view(s).float() for name, s in ours.items()}
    for role in roles:
        positions = f"{role}.encoder.tokenizer.positions.table"
        weights[positions] = weights[positions][order]
    return encoder, weights


def _open(file: Path) -> dict[str, Any]:
    """Return what `torch.save` put into the file, without running any code from it."""
    fix = "Fetch the file again"
    if not zipfile.is_zipfile(file):
        with file.open("rb") as stream:
            begun = stream.read(2) == b"PK"
        rule = "is truncated: its end is missing" if begun else "is no PyTorch checkpoint"
        raise CheckpointError(rule, file=file, fix=fix)
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # torch.load does not compare the checksums
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise CheckpointError(f"is damaged ({error})", file=file, fix=fix) from None
    if damaged is not None:
        raise CheckpointError(f"is damaged: {damaged} has another checksum", file=file, fix=fix)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        rule = "holds objects, which could run code, beside weights and plain values"
        raise CheckpointError(rule, file=file, fix="Ask for a file with weights only") from None
    except Exception as error:  # torch.load raises nearly anything for other archives
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"is no PyTorch checkpoint ({reason})", file=file) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"holds a {type(content).__name__}, no weights by name", file=file)
    return content


def _entries(content: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """Return the weights by name, without the prefix that parallel training leaves."""
    state = content.get("model_state_dict", content)
    entries = {
        str(name).removeprefix("module."): tensor
        for name, tensor in (state.items() if isinstance(state, dict) else ())
        if isinstance(tensor, Tensor)
    }
    if not entries:
        rule = "holds no weights: model_state_dict is missing or empty"
        raise CheckpointError(rule, file=file, field="keys", value=[str(k) for k in content][:8])
    return entries


def _relevant(entries: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Return the entries of the modules `wanted`, and those of no module that is known."""
    known = {
        f"{role}_{part}" for role in ROLES for part in ("encoder", "predictor", "mask_predictor")
    }
    constants = (_POSITIONS, f".{_INITIALIZED}")
    return {
        name: tensor
        for name, tensor in entries.items()
        if name.split(".")[0] not in known - wanted
        and not _is_dead(name)
        and not name.endswith(constants)
    }


def _check_constants(
    entries: Mapping[str, Tensor], encoder: Encoder, separate: bool, file: Path
) -> None:
    """Check the entries that follow from others: positions, flags, second names."""
    config = encoder.config
    positions = sincos_positions(config.n_patches, config.width, like=torch.zeros(()))
    for name, tensor in entries.items():
        rule, shared = "", name.replace("_mask_predictor.", "_predictor.")
        if name.endswith(_POSITIONS):
            fits = tensor.shape == positions.shape and torch.allclose(tensor, positions, atol=1e-6)
            rule = "" if fits else f"are no sine-cosine positions of {config.n_patches} patches"
        elif name.endswith(f".{_INITIALIZED}") and not _is_dead(name):
            rule = "" if tensor.all() else "is false: these weights have never been used"
        elif (
            shared != name and not separate and not torch.equal(tensor, entries.get(shared, tensor))
        ):
            rule = f"differs from {shared}, though the config says that they share one head"
        if rule:
            raise CheckpointError(rule, file=file, field=name)


def _pretraining(content: Mapping[str, Any], file: Path) -> SeenData:
    """Return what the weights have seen; the authors' own files do not say."""
    stated = content.get("pretraining")
    if not isinstance(stated, dict):
        return SeenData(source=file.name)
    try:
        return SeenData.from_json(stated)
    except ConfigError as error:
        raise CheckpointError(f"is damaged: {error}", file=file, field="pretraining") from None


# -- writing ---------------------------------------------------------------------------------------


def to_authors(weights: Mapping[str, Tensor], encoder: Encoder) -> dict[str, Tensor]:
    """Return the state dictionary of the authors' form, complete for strict loading.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Of student and teacher with their heads, under our names.
    encoder : Encoder
        Gives the architecture.

    Returns
    -------
    dict of str to Tensor
        Entries that are never used are zero.
    """
    order = range(encoder.n_networks)
    state = {
        authors_name(k, order): v.reshape(_shape_there(k, v.shape)) for k, v in weights.items()
    }
    state |= dict(_constants(state, encoder))
    for name, tensor in list(state.items()):
        if f".network_tokenizers.{CORTEX}." in name:
            for atlas in _UNUSED_ATLASES:
                state[name.replace(f".{CORTEX}.", f".{atlas}.")] = torch.zeros_like(tensor)
        elif "_encoder.norm." in name:
            state[name.replace(".norm.", f".{_TRANSFORMER}.norm.")] = torch.zeros_like(tensor)
        elif "_predictor." in name and "_mask_predictor." not in name:
            state.setdefault(name.replace("_predictor.", "_mask_predictor."), tensor)
    return state


def _constants(state: Mapping[str, Tensor], encoder: Encoder) -> Iterator[tuple[str, Tensor]]:
    config = encoder.config
    for role in ROLES:
        yield (
            f"{role}_encoder.{_POSITIONS}",
            sincos_positions(config.n_patches, config.width, like=encoder.cls_token).detach(),
        )
    for name, tensor in state.items():
        if name.endswith(".kernel_norm"):
            flag = torch.ones((), dtype=torch.bool, device=tensor.device)
            yield name.replace("kernel_norm", _INITIALIZED), flag


def write_authors(file: Path, weights: Mapping[str, Tensor], encoder: Encoder) -> None:
    """Write a new checkpoint in the authors' form.

    Parameters
    ----------
    file : Path
        A network map that is not one of the published two is written beside it.
    weights : mapping of str to Tensor
        Of student and teacher with their heads, under our names.
    encoder : Encoder
        Gives architecture, parcellation and what the weights have seen.

    Raises
    ------
    CheckpointError
        If the authors' form cannot express the model, or a file exists or cannot be written.
    """
    if encoder.preprocessing != Preprocessing():
        raise CheckpointError(
            "the authors' form states no preprocessing and always means the paper's",
            field="preprocessing",
            value=to_tree(encoder.preprocessing),
        )
    out_width, hidden = weights["teacher.head.out.weight"].shape
    separate = "teacher.mask_head.out.weight" in weights
    config = to_authors_config(
        encoder.config, hidden=hidden, out_width=out_width, separate=separate
    )
    section, maps = map_section(encoder.channels, file.stem)
    config["data"] |= section
    unknown, seen = float("nan"), encoder.pretraining
    content: dict[str, Any] = {
        "epoch": 0 if seen is None else seen.epochs or 0,
        "model_state_dict": to_authors(weights, encoder),
        "optimizer_state_dict": {"state": {}, "param_groups": []},
        "scheduler_state_dict": {},
        "loss": unknown,
        "config": config,
        "lr": unknown,
        "wd": unknown,
        "mask_loss_weight": unknown,
        "pretraining": None if seen is None else seen.to_json(),
    }
    stream = io.BytesIO()  # on a full disk `torch.save` raises what says nothing about it
    torch.save(content, stream)
    with staged_file(file, kind=CheckpointError) as made:
        made.write_bytes(stream.getvalue())
        if maps:
            with staged_file(file.with_name(section[MAP_PATH]), kind=CheckpointError) as map_:
                np.savez(map_, allow_pickle=False, **maps)

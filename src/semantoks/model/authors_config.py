"""The config of the authors' checkpoints: to the architecture that it states, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from semantoks.config import parse, read_yaml
from semantoks.errors import CheckpointError, ConfigError
from semantoks.model.encoder import EncoderConfig
from semantoks.model.projection import head_shapes
from semantoks.model.tokenizers.branches import Branch, DenseBranch, StructuredBranch

# What this package expresses; a file that says otherwise is another architecture.
_FIXED = {
    "model_type": "simple_dino_tf",
    "model.backbone_type": "cnn_tf",
    "model.cnn_final_norm": "layer",
    "model.tokenizer.final_norm": "layer",
    "model.projection_nlayers": 2,
}
_POOLING = ("mean", "max")
#: The switch in their section ``data`` -> our granularity, "" for neither switch.
_GRANULARITIES = {"": "networks", "min_spatial": "one", "max_spatial": "rois"}
# Kinds of branches whose names in the weights are known: their key -> our field.
_DENSE = {"out_channels": "width", "kernel_size": "kernel_length", "dilation": "dilation"}
_STRUCTURED = {
    "out_channels": "width",
    "kernel_size": "base_length",
    "num_scales": "n_scales",
    "decay_min": "decay_min",
    "decay_max": "decay_max",
}
_HEAD_WIDTH, _MLP_RATIO = 64, 4.0  # what 0 stands for


def find_config(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return the config inside a checkpoint, or beside it.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    config = content.get("config")
    places = [file.with_suffix(".yaml"), file.parent / "config.yaml"]
    beside = next((place for place in places if place.is_file()), None)
    if config is None and beside is not None:
        try:
            config = read_yaml(beside)
        except ConfigError as error:
            raise CheckpointError(error.rule, file=beside) from None
    if not isinstance(config, dict):
        raise CheckpointError(
            "holds no config, so that patch length, heads and network map are unknown",
            file=file,
            fix=f"Put its config beside it, as {places[0].name}",
        )
    return config


def value_at(
    config: Mapping[str, Any],
    path: str,
    kind: type | tuple[type, ...],
    file: Path,
    default: Any = None,
) -> Any:
    """Return the value of a dotted key, checked to be of this type.

    Raises
    ------
    CheckpointError
        If it is missing without a default, or of another type.
    """
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    value = default if value is None else value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        rule = "is missing" if value is None else f"must be of type {names}"
        raise CheckpointError(rule, file=file, field=f"config.{path}", value=value)
    return value


def architecture(config: Mapping[str, Any], file: Path) -> EncoderConfig:
    """Return the architecture that the authors' config states.

    Raises
    ------
    CheckpointError
        If a key is missing, or the architecture is not one of this package.
    """
    for path, known in _FIXED.items():
        if (value := value_at(config, path, object, file, known)) != known:
            rule = f"is an architecture that this package does not have (it has {known!r})"
            raise CheckpointError(rule, file=file, field=f"config.{path}", value=value)
    width = value_at(config, "model.embedding_dim", int, file)
    heads = value_at(config, "model.heads", int, file, 0)
    mlp = value_at(config, "model.mlp_dim", int, file, 0)
    number = (int, float)
    tree = {
        "average": "all",
        "width": width,
        "depth": value_at(config, "model.depth", int, file),
        "head_width": width // heads if heads else _HEAD_WIDTH,
        "mlp_ratio": mlp / width if mlp else _MLP_RATIO,
        "layer_scale": value_at(config, "model.layer_scale_init_value", number, file, 0.1),
        "drop_path": value_at(config, "model.drop_path_rate", number, file, 0.0),
        **_tokenizer(config, width, file),
        **_patches(config, file),
    }
    try:
        return parse(EncoderConfig, tree)
    except ConfigError as error:
        raise CheckpointError(f"states an impossible architecture: {error}", file=file) from None


def _tokenizer(config: Mapping[str, Any], width: int, file: Path) -> dict[str, Any]:
    granularity = _granularity(config, file)
    if granularity == "rois":  # a linear map, which no other key says anything about
        return {"granularity": granularity}
    pooling = value_at(config, "model.tokenizer.pooling_type", str, file, "mean")
    cnn_width = value_at(config, "model.cnn_dim", int, file, width)
    if cnn_width != width or pooling not in _POOLING:
        raise CheckpointError(
            f"cnn_dim must be embedding_dim, and the pooling one of {', '.join(_POOLING)}",
            file=file,
            field="config.model",
            value={"cnn_dim": cnn_width, "pooling_type": pooling},
        )
    entries = value_at(config, "model.tokenizer.config", list, file)
    branches = [_branch(entry, file) for entry in entries]
    return {"granularity": granularity, "pooling": pooling, "branches": branches}


def _granularity(config: Mapping[str, Any], file: Path) -> str:
    """Return what one token stands for, in our words."""
    switches = [key for key in _GRANULARITIES if key]
    on = [key for key in switches if value_at(config, f"data.{key}", bool, file, False)]
    if len(on) > 1:
        rule = "contradict each other: one token per ROI, or one for the whole brain"
        raise CheckpointError(rule, file=file, field=f"config.data.{', '.join(on)}", value=True)
    return _GRANULARITIES[on[0] if on else ""]


def _patches(config: Mapping[str, Any], file: Path) -> dict[str, int]:
    patch = value_at(config, "data.patch_size", int, file)
    length = value_at(config, "data.target_signal_length", int, file)
    if patch < 1 or length < patch or length % patch:
        raise CheckpointError(
            f"must be a multiple of patch_size ({patch})",
            file=file,
            field="config.data.target_signal_length",
            value=length,
        )
    return {"patch_length": patch, "n_patches": length // patch}


def _branch(entry: Any, file: Path) -> dict[str, Any]:
    kind = entry.get("type") if isinstance(entry, dict) else None
    keys = {"dense": _DENSE, "sgconv": _STRUCTURED}.get(str(kind), {})
    ignored = {"type", "depthwise"}
    if not keys or entry.get("depthwise") or set(entry) - ignored - set(keys):
        raise CheckpointError(
            "is a branch whose weights are not known in the authors' form (dense and sgconv are)",
            file=file,
            field="config.model.tokenizer.config",
            value=entry,
        )
    fields = {keys[theirs]: value for theirs, value in entry.items() if theirs in keys}
    return {"kind": "dense" if kind == "dense" else "structured", **fields}


def heads_of(config: Mapping[str, Any], file: Path) -> dict[str, torch.Size]:
    """Return the shapes of the projection heads that the authors' config states, by our names."""
    width, hidden, out_width = (
        value_at(config, f"model.{key}", int, file)
        for key in ("embedding_dim", "projection_hidden_dim", "projection_bottleneck_dim")
    )
    return head_shapes(width, hidden, out_width, separate=has_mask_head(config, file))


def has_mask_head(config: Mapping[str, Any], file: Path) -> bool:
    """Return whether masked tokens have a projection head of their own."""
    return bool(value_at(config, "dino.use_separate_mask_predictor", bool, file, False))


def to_authors_config(
    config: EncoderConfig, *, hidden: int, out_width: int, separate: bool
) -> dict[str, Any]:
    """Return the sections of the authors' config that state this architecture.

    Parameters
    ----------
    config : EncoderConfig
    hidden, out_width : int
        Of the projection heads.
    separate : bool
        Whether masked tokens have a head of their own.

    Raises
    ------
    CheckpointError
        If the authors' form cannot express it.
    """
    if config.granularity not in _GRANULARITIES.values() or config.pooling not in _POOLING:
        raise CheckpointError(
            f"must be one of {', '.join(_GRANULARITIES.values())} in the authors' form, "
            "with mean or max pooling",
            field="encoder.granularity, encoder.pooling",
            value=(config.granularity, config.pooling),
        )
    for name, known in (("positions", "learned"), ("attention", "full")):
        if getattr(config, name) != known:
            rule = f"must be {known} in the authors' form"
            raise CheckpointError(rule, field=f"encoder.{name}", value=getattr(config, name))
    plain = config.head_width == _HEAD_WIDTH, config.mlp_ratio == _MLP_RATIO
    return {
        "model_type": _FIXED["model_type"],
        "dino": {"use_separate_mask_predictor": separate},
        "data": {
            "patch_size": config.patch_length,
            "target_signal_length": config.view_length,
            **{key: config.granularity == ours for key, ours in _GRANULARITIES.items() if key},
        },
        "model": {
            "backbone_type": _FIXED["model.backbone_type"],
            "cnn_final_norm": _FIXED["model.cnn_final_norm"],
            "cnn_dim": config.width,
            "embedding_dim": config.width,
            "depth": config.depth,
            "heads": 0 if plain[0] else config.width // config.head_width,
            "mlp_dim": 0 if plain[1] else int(config.width * config.mlp_ratio),
            "layer_scale_init_value": config.layer_scale,
            "drop_path_rate": config.drop_path,
            "emb_dropout": 0.0,
            "global_pooling": "cls",
            "projection_nlayers": _FIXED["model.projection_nlayers"],
            "projection_hidden_dim": hidden,
            "projection_bottleneck_dim": out_width,
            "tokenizer": {
                "config": [
                    _to_authors_branch(branch, width)
                    for branch, width in zip(config.branches, config.branch_widths, strict=True)
                ],
                "final_norm": _FIXED["model.tokenizer.final_norm"],
                "pooling_type": config.pooling,
            },
        },
    }


def _to_authors_branch(branch: Branch, width: int) -> dict[str, Any]:
    if isinstance(branch, DenseBranch):
        entry = {"type": "dense", "depthwise": False, "kernel_size": branch.kernel_length}
        if branch.dilation != 1:
            entry["dilation"] = branch.dilation
    elif isinstance(branch, StructuredBranch):
        entry = {
            "type": "sgconv",
            "kernel_size": branch.base_length,
            "num_scales": branch.n_scales,
            "decay_min": branch.decay_min,
            "decay_max": branch.decay_max,
        }
    else:
        rule = "the authors' form is known for dense and structured branches"
        raise CheckpointError(rule, field="encoder.branches", value=branch.kind)
    return entry | {"out_channels": width}

"""The network maps of the authors' checkpoints: which ROI belongs to which token.

A map is an ``.npz`` with one array of ids per atlas; ids are offset per atlas, so only their order
counts: tokens are numbered through the sorted ids of the cortex, then of the other atlases. The
published maps (7 + 2 and 17 + 2 networks) are the built-in parcellations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semantoks.atlas.channels import Channels, TokenRows
from semantoks.atlas.parcellation import Parcellation
from semantoks.errors import CheckpointError, readable

#: ROIs of every atlas, in the order of the columns.
ATLASES = {"schaefer400": 400, "tian3": 50, "buckner7": 7}
#: Number of cortical networks -> built-in parcellation.
MAP_PATH = "network_map_path"  # key of the section ``data``
BUILT_IN = {7: "semantoks457", 17: "semantoks457-17n"}
_ROLES = ("schaefer", "tian", "buckner")


def token_map(
    data: Mapping[str, Any], granularity: str, file: Path
) -> tuple[Parcellation, NDArray[np.int64]]:
    """Return the parcellation that a checkpoint expects, and the token of every ROI in it.

    Parameters
    ----------
    data : mapping
        The section ``data`` of the authors' config.
    granularity : {"networks", "one", "rois"}
        What a token stands for. Unless it is a network, no map is needed.
    file : Path
        The checkpoint; a map of the name that the config gives may lie beside it.

    Returns
    -------
    parcellation : Parcellation
    tokens : ndarray of int, shape (n_rois,)
        Index of every ROI's token in the checkpoint.

    Raises
    ------
    CheckpointError
        If the atlases are others, or the map is not built in and missing or damaged.
    """
    given = {f"{role}_atlas": data.get(f"{role}_atlas") for role in _ROLES}
    if list(given.values()) != list(ATLASES) or data.get("channels", "all") != "all":
        raise CheckpointError(
            f"the names of its ROIs are known for all ROIs of {' + '.join(ATLASES)} only",
            file=file,
            field="config.data",
            value=given | {"channels": data.get("channels", "all")},
        )
    parcellation, tokens = _networks(data, granularity, file)
    if granularity == "rois":
        tokens = np.arange(len(parcellation))
    elif granularity == "one":
        tokens = np.zeros(len(parcellation), np.int64)
    return parcellation, tokens


def _networks(
    data: Mapping[str, Any], granularity: str, file: Path
) -> tuple[Parcellation, NDArray[np.int64]]:
    """Return the parcellation, and the number of every ROI's network in the map."""
    n_networks = data.get("schaefer_networks")
    beside = file.parent / PurePosixPath(str(data.get(MAP_PATH))).name
    if beside.is_file():
        return _own(_read_map(beside, n_networks), beside)
    plain = data.get("tian_networks", 1) == data.get("buckner_networks", 1) == 1
    name = BUILT_IN.get(n_networks) if plain and isinstance(n_networks, int) else None
    if name is None and granularity == "networks":
        raise CheckpointError(
            f"has no built-in network map (those with {sorted(BUILT_IN)} cortical networks have)",
            file=file,
            field="config.data.schaefer_networks",
            value=n_networks,
            fix=f"Put the map beside the checkpoint, as {beside.name}",
        )
    parcellation = Parcellation.load(name or BUILT_IN[7])
    return parcellation, _tokens(parcellation)


def token_order(rows: TokenRows, tokens: NDArray[np.int64]) -> list[int]:
    """Return the checkpoint's token index of every row of ours."""
    return [int(tokens[rois[0]]) for rois in rows.channels]


def map_section(
    channels: Channels, stem: str
) -> tuple[dict[str, Any], dict[str, NDArray[np.int64]]]:
    """Return the section ``data`` on atlases and networks, and the map if it is not built in.

    Parameters
    ----------
    channels : Channels
        Tokens are numbered in the order of their groups.
    stem : str
        Name of the checkpoint; the map beside it is named after it.

    Returns
    -------
    section : dict
    maps : dict of str to int array
        Arrays of the ``.npz`` that `MAP_PATH` of the section names; empty if it is built in.

    Raises
    ------
    CheckpointError
        If the ROIs are not those of the authors' atlases, or a network spans two of them.
    """
    labels = Parcellation.load(BUILT_IN[7]).labels
    if channels.labels != labels:
        raise CheckpointError(
            f"the authors' form knows the {len(labels)} ROIs of {' + '.join(ATLASES)} only",
            field="parcellation",
            value=channels.name,
        )
    ids = _split(_tokens(channels))
    if any(ids[i].max() >= ids[i + 1].min() for i in range(len(ids) - 1)):
        raise CheckpointError(
            "the authors' form numbers the networks atlas by atlas: cortex, subcortex, cerebellum",
            field="parcellation.networks",
            value=channels.group_names,
        )
    counts = [len(np.unique(part)) for part in ids]
    section: dict[str, Any] = {"channels": "all", MAP_PATH: "network_mapping.npz"}
    for role, (atlas, n_rois), count in zip(_ROLES, ATLASES.items(), counts, strict=True):
        section |= {f"{role}_atlas": atlas, f"{role}_rois": n_rois, f"{role}_networks": count}
    if any(channels.groups == Parcellation.load(name).groups for name in BUILT_IN.values()):
        return section, {}
    section[MAP_PATH] = f"{stem}_network_mapping.npz"
    return section, dict(zip(_keys(counts[0]), ids, strict=True))


def _keys(n_networks: object) -> list[str]:
    cortex, *others = ATLASES
    return [f"network_map_{cortex}_{n_networks}n", *(f"network_map_{name}" for name in others)]


def _split(tokens: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.split(tokens, np.cumsum(list(ATLASES.values()))[:-1])


def _tokens(channels: Channels) -> NDArray[np.int64]:
    number = {name: i for i, name in enumerate(channels.group_names)}
    return np.array([number[name] for name in channels.groups])


def _read_map(file: Path, n_networks: object) -> NDArray[np.int64]:
    """Return the token of every ROI."""
    tokens, first = [], 0
    # KeyError: NumPy finds no such array in the archive.
    known = (KeyError, NotImplementedError)
    with (
        readable(file, CheckpointError, known=known),
        np.load(file, allow_pickle=False) as archive,
    ):
        for key, n_rois in zip(_keys(n_networks), ATLASES.values(), strict=True):
            ids = np.asarray(archive[key], dtype=np.float64)
            if ids.shape != (n_rois,) or not np.isfinite(ids).all():
                raise ValueError(f"{key} must give a number for each of {n_rois} ROIs")
            names, place = np.unique(ids, return_inverse=True)
            tokens.append(first + place)
            first += len(names)
    return np.concatenate(tokens)


def _own(tokens: NDArray[np.int64], file: Path) -> tuple[Parcellation, NDArray[np.int64]]:
    """Return the built-in parcellation with these networks, or one named after the map."""
    for name in BUILT_IN.values():
        known = Parcellation.load(name)
        if (tokens == _tokens(known)).all():
            return known, tokens
    networks = tuple(f"network {token + 1:02}" for token in tokens)
    base = Parcellation.load(BUILT_IN[7])
    return replace(base, name=f"{base.name} with {file.name}", networks=networks), tokens

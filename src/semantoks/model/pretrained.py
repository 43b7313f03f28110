"""Save, load and convert encoders: a folder with safetensors, a JSON header, a table of ROIs.

A model folder holds ``model.safetensors`` (e.g. ``student.*`` and ``teacher.*``), ``config.json``
(architecture, preprocessing, what the weights have seen) and ``rois.tsv``. Every checkpoint of a
run is such a folder, and a run's folder stands for its newest checkpoint. The authors' checkpoints
(``.pth``, see `semantoks.model.authors`) are read and written too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from semantoks.atlas.parcellation import Parcellation
from semantoks.config import parse, to_tree
from semantoks.data.seen import SeenData
from semantoks.data.signal import Preprocessing
from semantoks.errors import CheckpointError, InputError, entry, readable
from semantoks.files import refuse_existing, staged_folder
from semantoks.model.authors import ROLES, read_authors, write_authors
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.hub import SCHEME, HubAddress
from semantoks.model.projection import head_shapes
from semantoks.model.weights import check_weights, current_name

FORMAT_VERSION = 2
WEIGHTS, HEADER, ROIS = "model.safetensors", "config.json", "rois.tsv"
#: Folder of the models that come with the package; each holds its card and its licence.
INCLUDED = Path(__file__).parents[1] / "weights"
DEFAULT_MODEL = "connectome-base"


def save_model(
    folder: Path,
    weights: Mapping[str, Tensor],
    encoder: Encoder,
    *,
    roles: Sequence[str] = ROLES,
) -> None:
    """Write a model folder; the folder exists and is the caller's own.

    Parameters
    ----------
    folder : Path
    weights : mapping of str to Tensor
        Entries named ``ROLE.encoder.*`` for every role, and what else belongs to it (e.g.
        projection heads).
    encoder : Encoder
        Gives the header.
    roles : sequence of str
        Copies of the encoder in the weights; the first is the one to evaluate.
    """
    save_file({k: v.detach().contiguous() for k, v in weights.items()}, folder / WEIGHTS)
    seen = encoder.pretraining
    header = {
        "format": FORMAT_VERSION,
        "encoder": to_tree(encoder.config),
        "preprocessing": to_tree(encoder.preprocessing),
        "parcellation": {"name": encoder.channels.name, "hash": encoder.channels.hash},
        "roles": list(roles),
        "pretraining": None if seen is None else seen.to_json(),
        "versions": {name: metadata.version(name) for name in ("semantoks", "torch")},
    }
    (folder / HEADER).write_text(json.dumps(header, indent=1), encoding="utf-8")
    encoder.channels.save(folder / ROIS)


def newest_checkpoint(run: Path) -> Path | None:
    """Return the newest checkpoint of a run's folder, or None."""
    return max((run / "checkpoints").glob("step-*"), default=None, key=lambda p: p.name)


def read_header(folder: Path) -> dict[str, Any]:
    """Read and check ``config.json`` of a model folder."""
    file = folder / HEADER
    with readable(file, CheckpointError):
        header = json.loads(file.read_text(encoding="utf-8"))
        version = entry(header, "format")
        if not isinstance(version, int):
            raise ValueError("format must be a whole number")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"was written by a newer version of semantoks (this one reads up to {FORMAT_VERSION})",
            file=file,
            field="format",
            value=version,
            fix="Upgrade semantoks",
        )
    return dict(header)


def load_pretrained(source: str | Path = DEFAULT_MODEL, role: str | None = None) -> Encoder:
    """Load an encoder for inference.

    Parameters
    ----------
    source : path or str
        Folder of a run (its newest checkpoint), of a checkpoint, or of a model; a checkpoint of
        the authors (``.pth``); or, as a string that is no path, a model that comes with the package
        ("connectome-base"), or ``hf://owner/name`` on the Hugging Face hub, which holds either;
        with a revision and a folder in it, ``hf://owner/name@revision/folder``.
    role : str, optional
        Which copy of the encoder; by default the one to evaluate: of self-distillation the teacher,
        as in the paper (the other is "student").

    Returns
    -------
    Encoder
        In evaluation mode, on the CPU. Its `channels` and `preprocessing` are those that the
        weights expect, its `pretraining` says what they have seen.

    Raises
    ------
    CheckpointError
        If there is no model, it is damaged, or its weights do not fit its header.

    Examples
    --------
    >>> encoder = load_pretrained()  # the model in the box; or e.g. "runs/first"
    >>> encoder.preprocessing.tr
    2.0
    """
    path = _locate(source)
    roles = ROLES if path.is_file() else _roles(path)
    role = role or roles[0]
    if role not in roles:
        raise InputError(f"must be one of {', '.join(roles)}", field="role", value=role)
    if path.is_file():
        encoder, weights = read_authors(path, (role,), heads=False)
        weights = {name.removeprefix(f"{role}.encoder."): w for name, w in weights.items()}
    else:
        encoder = _blank_encoder(path)
        weights = read_weights(path, f"{role}.encoder.", encoder.state_dict())
    encoder.load_state_dict(weights)
    return encoder.eval().requires_grad_(False)


def convert(source: str | Path, target: str | Path, *, compact: bool = False) -> Path:
    """Convert a checkpoint of the authors to a model folder, or a model folder to a checkpoint.

    All weights are copied exactly, e.g. student and teacher with their projection heads. The
    authors' form averages all tokens, those without data too (``encoder.average = "all"``).

    Parameters
    ----------
    source : path or str
        What `load_pretrained` takes.
    target : path
        New: a file ending in ``.pth`` is written as the authors do, complete for their strict
        loading; anything else is a folder of ours. A network map that is not one of the published
        two is written beside a ``.pth``.
    compact : bool
        Keep only the encoder to evaluate, in float16: a folder to share.

    Returns
    -------
    Path
        The target.

    Raises
    ------
    CheckpointError
        If the source is no complete model, the target exists or cannot be written, or the authors'
        form cannot express the model. Nothing is left behind.
    """
    target = Path(target)
    refuse_existing(target, folder=target.suffix != ".pth", kind=CheckpointError)
    path = _locate(source)
    roles: tuple[str, ...] = ROLES
    if compact:
        if target.suffix == ".pth":
            rule = "the authors' form holds all weights in float32"
            raise CheckpointError(rule, file=target, fix="Name a folder")
        encoder = load_pretrained(path)
        roles = roles[:1] if path.is_file() else _roles(path)[:1]
        state = encoder.state_dict()
        weights = {f"{roles[0]}.encoder.{name}": value.half() for name, value in state.items()}
    elif path.is_file():
        encoder, weights = read_authors(path)
    else:
        encoder, weights, roles = _read_all(path)
    if target.suffix == ".pth":
        if set(roles) != set(ROLES):
            rule = f"the authors' form holds {' and '.join(ROLES)}, this model {', '.join(roles)}"
            raise CheckpointError(rule, file=path, fix="Convert it to a folder")
        write_authors(target, weights, encoder)
    else:
        with staged_folder(target, kind=CheckpointError) as made:
            save_model(made, weights, encoder, roles=roles)
    return target


def _locate(source: str | Path) -> Path:
    """Return the model folder of ours, or the file of the authors, that `source` stands for."""
    path = Path(source)
    if isinstance(source, str) and source.startswith(SCHEME):
        path = HubAddress.parse(source).download(HEADER, (ROIS, WEIGHTS), read_header)
    elif not path.exists() and (INCLUDED / source / HEADER).exists():
        return INCLUDED / source
    if path.is_file():
        return path
    folder = path if (path / HEADER).exists() else newest_checkpoint(path)
    if folder is not None:
        return folder
    files = sorted(path.glob("*.pth"))
    if len(files) == 1:
        return files[0]
    raise CheckpointError(
        f"is no model: it has neither {HEADER} nor checkpoints/ nor a single .pth"
        if path.exists()
        else "does not exist",
        file=path,
        fix="Give the folder of a run, of one of its checkpoints, or of an exported model, "
        f"a .pth of the authors, {SCHEME}owner/name on the Hugging Face hub, or {DEFAULT_MODEL}",
    )


def _roles(folder: Path) -> tuple[str, ...]:
    """Return the copies of the encoder in a model folder; older headers do not list them."""
    roles = read_header(folder).get("roles", ROLES)
    if (
        not isinstance(roles, (list, tuple))
        or not roles
        or not all(isinstance(r, str) for r in roles)
    ):
        rule = "is damaged: must list the copies of the encoder"
        raise CheckpointError(rule, file=folder / HEADER, field="roles", value=roles)
    return tuple(roles)


def _blank_encoder(folder: Path) -> Encoder:
    """Return the encoder that a model folder's header describes, its weights not loaded."""
    header = read_header(folder)
    try:
        encoder = entry(header, "encoder")
        if not isinstance(encoder, dict):
            raise ValueError("encoder must be a mapping")
        encoder_config = parse(EncoderConfig, {"average": "all", **encoder})
        preprocessing = parse(Preprocessing, entry(header, "preprocessing"))
        stated = header.get("pretraining")
        seen = None if stated is None else SeenData.from_json(stated)
        parcellation = Parcellation.load(folder / ROIS)
        expected_hash = entry(header, "parcellation", "hash")
        name = entry(header, "parcellation", "name")
    except ValueError as error:
        raise CheckpointError(f"is damaged: {error}", file=folder / HEADER) from None
    if parcellation.hash != expected_hash:
        raise CheckpointError(
            f"does not list the ROIs that {HEADER} states", file=folder / ROIS, field="hash"
        )
    parcellation = replace(parcellation, name=name)
    encoder = Encoder.random(encoder_config, parcellation, preprocessing, seed=0)
    encoder.pretraining = seen
    return encoder


def _read_all(folder: Path) -> tuple[Encoder, dict[str, Tensor], tuple[str, ...]]:
    """Read all weights, and the roles in them."""
    encoder = _blank_encoder(folder)
    roles = _roles(folder)
    encoder_shapes = {f"encoder.{name}": w.shape for name, w in encoder.state_dict().items()}
    weights: dict[str, Tensor] = {}
    for role in roles:
        found = _tensors(folder, f"{role}.")
        expected = dict(encoder_shapes)
        if set(roles) == set(ROLES):
            # The header does not state the heads' widths; without a head the check names it.
            last = found.get("head.out.weight")
            out_width, hidden = (1, 1) if last is None else last.shape
            expected |= head_shapes(
                encoder.config.width, hidden, out_width, separate="mask_head.out.weight" in found
            )
        else:
            expected |= {k: w.shape for k, w in found.items() if not k.startswith("encoder.")}
        check_weights(found, expected, folder / WEIGHTS)
        weights |= {f"{role}.{name}": tensor for name, tensor in found.items()}
    return encoder, weights, roles


def read_weights(folder: Path, prefix: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the entries under `prefix`; names and shapes must be those of `expected`.

    Raises
    ------
    CheckpointError
        Naming what is missing, left over or of another shape.
    """
    found = _tensors(folder, prefix)
    check_weights(found, {k: v.shape for k, v in expected.items()}, folder / WEIGHTS)
    return found


def weights_under(source: str | Path, prefix: str) -> dict[str, Tensor]:
    """Return the weights of a model folder whose names begin with `prefix`, without it.

    Parameters
    ----------
    source : path or str
        What `load_pretrained` takes.
    prefix : str
        E.g. "online.head."; empty where there are none, or the source is a file of the authors.
    """
    path = _locate(source)
    return {} if path.is_file() else _tensors(path, prefix)


def _tensors(folder: Path, prefix: str) -> dict[str, Tensor]:
    file = folder / WEIGHTS
    try:
        with safe_open(file, framework="pt") as archive:
            return {
                current_name(name).removeprefix(prefix): archive.get_tensor(name)
                for name in archive.keys()  # noqa: SIM118 - not a dict
                if name.startswith(prefix)
            }
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"is missing or truncated ({error})", file=file) from None

"""Fitted estimators in a folder: saved without pickle, loaded without running anything.

A pipeline holds an encoder, whose format is a model folder, and estimators, whose fitted state is
numbers, text and arrays. skops saves the second and not the first, so that both have one form here:
``estimator.json`` (classes, parameters, fitted attributes), ``arrays.safetensors``, and a model
folder for every encoder. Only estimators and dataclasses of this package and of scikit-learn are
built again, from data; a file cannot name a function, or a class from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import is_dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn import config_context
from sklearn.base import BaseEstimator
from torch import nn

from semantoks.errors import CheckpointError, InputError, readable
from semantoks.files import staged_folder
from semantoks.model.encoder import Encoder
from semantoks.model.pretrained import load_pretrained

FORMAT = 1
HEADER, ARRAYS = "estimator.json", "arrays.safetensors"
_PACKAGES = ("semantoks", "sklearn")
_ROUTING = "_metadata_request"  # what `set_fit_request` and its like leave in an estimator
_METHODS = ("fit", "partial_fit", "predict", "predict_proba", "score", "split", "transform")


def save_estimator(folder: str | Path, estimator: BaseEstimator) -> Path:
    """Save an estimator or a pipeline, fitted or not.

    Parameters
    ----------
    folder : path
        New.
    estimator : scikit-learn estimator
        Of this package or of scikit-learn, made of numbers, text, arrays, encoders and other
        estimators: every one of this package, pipelines, linear models, scalers. Trees hold
        compiled objects and are refused.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If something in the estimator is none of these, or the folder exists.

    See Also
    --------
    load_estimator

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from semantoks import LinearProbe, load_estimator, save_estimator
    >>> X, y = np.random.default_rng(0).standard_normal((20, 3)), ["a", "b"] * 10
    >>> with tempfile.TemporaryDirectory() as there:
    ...     folder = save_estimator(f"{there}/probe", LinearProbe().fit(X, y))
    ...     load_estimator(folder).predict(X[:1]).shape
    (1,)
    """
    with staged_folder(folder) as made:
        writer = _Writer(made)
        tree = writer.encode(estimator, type(estimator).__name__)
        versions = {name: metadata.version(name) for name in ("semantoks", "scikit-learn", "torch")}
        header = {"format": FORMAT, "versions": versions, "estimator": tree}
        (made / HEADER).write_text(json.dumps(header, indent=1), encoding="utf-8")
        save_file(writer.arrays, made / ARRAYS)
    return Path(folder)


def load_estimator(folder: str | Path) -> Any:
    """Load what `save_estimator` saved; predictions are the same to the last bit.

    Parameters
    ----------
    folder : path

    Returns
    -------
    scikit-learn estimator

    Raises
    ------
    CheckpointError
        If the folder holds no estimator, is damaged, was written by a newer version, or names a
        class that is no estimator of this package or of scikit-learn.
    """
    folder = Path(folder)
    with readable(folder / HEADER, CheckpointError):
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        version, tree = header["format"], header["estimator"]
        if not isinstance(version, int):
            raise ValueError("format must be a whole number")
    if version > FORMAT:
        rule = f"was written by a newer version of semantoks (this one reads up to {FORMAT})"
        fix = "Upgrade semantoks"
        raise CheckpointError(rule, file=folder, field="format", value=version, fix=fix)
    try:
        return _Reader(folder).decode(tree)
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise CheckpointError(f"is damaged: {error}", file=folder / HEADER) from None


class _Writer:
    """Estimators to trees of JSON; arrays and encoders are set aside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[str, NDArray[Any]] = {}
        self._encoders: dict[int, str] = {}

    def encode(self, value: Any, place: str) -> Any:
        """Return the tree of a value; `place` names it in messages."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        for kind, encode in self._kinds().items():
            if isinstance(value, kind):
                return encode(value, place)
        if not _allowed(type(value)):
            raise InputError(
                "cannot be saved: it is no number, text, array, encoder or estimator",
                field=place,
                value=type(value).__name__,
                fix="skops saves trees and other estimators of scikit-learn; put the Embedder "
                "before it, and save its features",
            )
        state = value.__getstate__() if isinstance(value, BaseEstimator) else vars(value)
        if _ROUTING in state:  # refers to the estimator itself
            requests = value.get_metadata_routing()
            methods = {m: getattr(requests, m).requests for m in _METHODS if hasattr(requests, m)}
            state = state | {_ROUTING: {m: asked for m, asked in methods.items() if asked}}
        name = f"{type(value).__module__}:{type(value).__qualname__}"
        return {"object": name, "state": self._items(state, place)}

    def _kinds(self) -> dict[Any, Callable[[Any, str], Any]]:
        return {
            (list, tuple): self._sequence,
            dict: lambda value, place: {"dict": self._items(value, place)},
            Path: lambda value, _: {"path": str(value)},
            np.ndarray: self._array,
            np.generic: lambda value, place: {"scalar": self._array(np.asarray(value), place)},
            Encoder: self._encoder,
            nn.Linear: self._linear,
            nn.Sequential: lambda value, place: {"layers": self._sequence([*value], place)},
            nn.GELU: lambda *_: {"gelu": None},
        }

    def _items(self, values: dict[Any, Any], place: str) -> list[Any]:
        return [
            [self.encode(key, place), self.encode(value, f"{place}.{key}")]
            for key, value in values.items()
        ]

    def _sequence(self, values: Any, place: str) -> Any:
        kind = "tuple" if isinstance(values, tuple) else "list"
        return {kind: [self.encode(v, f"{place}[{i}]") for i, v in enumerate(values)]}

    def _array(self, array: NDArray[Any], place: str) -> Any:
        shape = list(array.shape)
        if array.dtype.kind in "OUM":
            dtype = str(array.dtype)
            values = array.astype(str) if array.dtype.kind == "M" else array
            return {"values": self._sequence(values.ravel().tolist(), place), "dtype": dtype,
                    "shape": shape}  # fmt: skip
        name = f"{len(self.arrays)}"
        self.arrays[name] = np.ascontiguousarray(array).reshape(-1)
        return {"array": name, "shape": shape}

    def _encoder(self, encoder: Encoder, _: str) -> Any:
        name = self._encoders.setdefault(id(encoder), f"encoder-{len(self._encoders)}")
        if not (self.folder / name).exists():
            encoder.save_pretrained(self.folder / name)
        return {"encoder": name}

    def _linear(self, layer: nn.Linear, place: str) -> Any:
        weights = [p.detach().cpu().numpy() for p in (layer.weight, layer.bias)]
        return {"linear": self._sequence(weights, place)}


class _Reader:
    """Trees of JSON to estimators."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._arrays = load_file(folder / ARRAYS)
        self._encoders: dict[str, Encoder] = {}

    def decode(self, tree: Any) -> Any:
        """Return the value of a tree."""
        if not isinstance(tree, dict):
            return tree
        decode = self.decode
        match tree:
            case {"list": values}:
                return [decode(value) for value in values]
            case {"tuple": values}:
                return tuple(decode(value) for value in values)
            case {"dict": items}:
                return {decode(key): decode(value) for key, value in items}
            case {"path": text}:
                return Path(text)
            case {"scalar": array}:
                return decode(array)[()]
            case {"array": name, "shape": shape}:
                return self._arrays[name].reshape(shape)
            case {"values": values, "dtype": dtype, "shape": shape}:
                out = np.empty(len(flat := decode(values)), dtype=dtype)
                out[:] = flat
                return out.reshape(shape)
            case {"encoder": str(name)}:
                if name not in self._encoders:
                    self._encoders[name] = load_pretrained(self.folder / Path(name).name)
                return self._encoders[name]
            case {"linear": parts}:
                return _linear(*decode(parts))
            case {"layers": layers}:
                return nn.Sequential(*decode(layers)).eval().requires_grad_(False)
            case {"gelu": None}:
                return nn.GELU()
            case {"object": str(name), "state": items}:
                return self._object(name, {decode(key): decode(value) for key, value in items})
        raise ValueError(f"unknown entry {sorted(tree)}")

    def _object(self, name: str, state: dict[str, Any]) -> Any:
        module, _, qualname = name.partition(":")
        kind = None
        if module.split(".")[0] in _PACKAGES:
            kind = getattr(import_module(module), qualname, None)
        if not isinstance(kind, type) or not _allowed(kind):
            rule = "is no estimator of semantoks or scikit-learn, and is not loaded"
            raise CheckpointError(rule, file=self.folder / HEADER, field="object", value=name)
        made: Any = object.__new__(kind)
        if isinstance(made, BaseEstimator):
            requests = state.pop(_ROUTING, {})
            made.__setstate__(state)
            with config_context(enable_metadata_routing=True):
                for method, asked in requests.items():
                    getattr(made, f"set_{method}_request")(**asked)
        else:
            made.__dict__.update(state)
        return made


def _allowed(kind: type) -> bool:
    """Say whether objects of a class are plain data with a known meaning."""
    if kind.__module__.split(".")[0] not in _PACKAGES:
        return False
    return issubclass(kind, BaseEstimator) or is_dataclass(kind)


def _linear(weight: NDArray[Any], bias: NDArray[Any]) -> nn.Linear:
    layer = nn.Linear(*weight.shape[::-1])
    layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return layer.eval().requires_grad_(False)

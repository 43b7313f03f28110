"""A device that is not there: tensors of ``meta`` that hold numbers, which the CPU computes.

Every operation raises where a GPU's would: if it meets tensors of two devices (apart from single
numbers of the CPU, and copies from one to the other). Waits for the device are counted. Backward
passes, optimisers and checkpoints work; autocast and inference mode are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
_COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
_WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class Elsewhere(Tensor):
    """A tensor on `DEVICE`; its numbers are in `here`."""

    here: Tensor
    is_meta = False  # a meta tensor has no numbers, and is not loaded

    @staticmethod
    def __new__(cls, here: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            layout=here.layout,
            device=DEVICE,
            requires_grad=here.requires_grad,
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of `device`")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: object) -> str:
        return f"Elsewhere({self.here!r})"


class _Device(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        there = [x for x in tensors if isinstance(x, Elsewhere)]
        others = [x for x in tensors if not isinstance(x, Elsewhere) and x.ndim]
        if there and others and func not in _COPIES:
            shapes = [tuple(x.shape) for x in others]
            raise RuntimeError(f"{func}: tensors of two devices, {shapes} on the CPU")
        device = kwargs.get("device")
        stays = bool(there) if device is None else torch.device(device) == DEVICE
        if there and (func in _WAITS or not stays):
            self.waits.append(str(func))
        plain = tree_map(lambda x: x.here if isinstance(x, Elsewhere) else x, (args, kwargs))
        if device is not None:
            plain[1]["device"] = torch.device("cpu")
        out = func(*plain[0], **plain[1])
        if not stays:
            return out
        out = tree_map(lambda x: Elsewhere(x) if isinstance(x, Tensor) else x, out)
        return return_and_correct_aliasing(func, args, kwargs, out)


class _Generator(torch.Generator):
    """A generator of `DEVICE`."""

    def __new__(cls, device: object = "cpu") -> _Generator:
        made = super().__new__(cls, "cpu")
        made.place = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.place


@contextmanager
def device() -> Iterator[list[str]]:
    """Have `DEVICE` in this machine; gives the waits for it, to be looked at or cleared."""
    plain, tensor = torch.autocast, torch.tensor

    def autocast(device_type: str, *arguments: Any, **options: Any) -> torch.autocast:
        return plain("cpu" if device_type == DEVICE.type else device_type, *arguments, **options)

    def moved(data: object, *, device: torch.device | None = None, **options: Any) -> Tensor:
        return tensor(data, **options).to(device)  # PyTorch's own leaves the numbers of meta out

    with pytest.MonkeyPatch.context() as patch, _Device() as mode:
        patch.setattr(torch, "autocast", autocast)
        patch.setattr(torch, "is_autocast_enabled", lambda _: False)
        patch.setattr(torch, "tensor", moved)
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(torch, "inference_mode", torch.no_grad)
        yield mode.waits

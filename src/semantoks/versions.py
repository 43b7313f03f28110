"""Versions of the packages that this one needs."""

from __future__ import annotations

import re
from importlib import metadata

_CPU_TORCH = (
    ' (without an NVIDIA GPU: choose "CPU" at pytorch.org/get-started/locally, for 0.2 GB instead '
    "of 5)"
)


def check_dependencies() -> None:
    """Refuse a package that is missing or older than this one's metadata asks for.

    pip enforces the versions only when it installs this package; what is installed afterwards may
    replace them.

    Raises
    ------
    ImportError
        Names all of them, and the command that installs them.
    """
    try:
        needed = metadata.requires("semantoks") or []
    except metadata.PackageNotFoundError:  # run from its source, not installed
        return
    problems, install = [], []
    for requirement in needed:
        parsed = re.fullmatch(r"([\w.-]+) *>= *([\d.]+)", requirement)
        if parsed is None:  # of an extra
            continue
        name, least = parsed.groups()
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            problems.append(f"{name} is missing")
        else:
            if _numbers(found) >= _numbers(least):
                continue
            problems.append(f"{name} is {found}")
        install.append(f"{name}>={least}")
    if problems:
        names = " ".join(f'"{name}"' for name in install)
        hint = _CPU_TORCH if any(name.startswith("torch>") for name in install) else ""
        raise ImportError(
            f"semantoks needs {', '.join(install)}, but {', '.join(problems)}. "
            f"Install with `pip install {names}`{hint}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a release: 2.10.0+cpu is (2, 10)."""
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)

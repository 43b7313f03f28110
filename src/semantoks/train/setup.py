"""Setup of a run: its device, recordings and folder."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from timeit import repeat

import numpy as np
import torch

from semantoks import config as trees
from semantoks.data.mixture import Recordings, StoreMixture
from semantoks.data.store import RecordingStore
from semantoks.errors import CheckpointError, ConfigError, entry, nearest, readable
from semantoks.files import PARTIAL, refuse_existing, write_file
from semantoks.objectives.parallel import n_processes
from semantoks.train.distributed import any_process
from semantoks.train.run import DataConfig, RunConfig

CONFIG, METRICS, ENVIRONMENT = "config.yaml", "metrics.jsonl", "environment.json"
EVENTS = "events.jsonl"
_PACKAGES = ("semantoks", "torch", "numpy", "scipy", "scikit-learn", "nilearn", "pandas")


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` takes CUDA where there is one.

    Raises
    ------
    ConfigError
        If there is no such device, or it is neither a CPU nor a CUDA device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ConfigError(
            "must be auto, cpu or cuda: the loss and its monitors compute in float64, which other "
            "devices lack, and none of them has been tried",
            field="train.device",
            value=name,
            fix="Use auto or cpu",
        )
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"is no device of this machine ({str(error).splitlines()[0]})",
            field="train.device",
            value=name,
            fix="Use auto or cpu",
        ) from None
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """Return the arithmetic called `name`; ``auto`` is bfloat16 where `device` is fast at it.

    All processes of a run use the same.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = device.type == "cpu" and _bfloat16_pays()
    return "bfloat16" if any_process(fast, device) else "float32"


@cache
def _bfloat16_pays() -> bool:
    """Measure whether this processor multiplies bfloat16 clearly faster than float32.

    Where it is native, twice as fast or more; where it is emulated, several times slower.
    """
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(512, 512, dtype=dtype)
        seconds.append(min(repeat(lambda x=x: x @ x, number=2, repeat=7)))  # type: ignore[misc]
    plain, low = seconds
    return low < 0.75 * plain


def check_compiler(device: torch.device) -> None:
    """Refuse to compile where ``torch.compile`` has nothing to compile with.

    Raises
    ------
    ConfigError
    """
    if device.type == "cuda":
        there = find_spec("triton") is not None
    else:
        names = (os.environ.get("CXX", "g++"), "clang++", "cl")
        there = any(shutil.which(name) for name in names)
    needed = "the package triton" if device.type == "cuda" else "a C++ compiler"
    if there:
        try:
            import_module("torch.utils.cpp_extension")
        except ImportError as error:  # of setuptools, which torch 2.6 does not install
            there, needed = False, f"the package {error.name}"
    if not there:
        raise ConfigError(
            f"needs {needed}",
            field="train.compile",
            value=True,
            fix="Install one, or leave train.compile=false",
        )


def training_recordings(config: RunConfig) -> tuple[Recordings, Recordings]:
    """Open the store, or the mixture of several, and keep what pretraining may see.

    Returns
    -------
    trained : RecordingStore or StoreMixture
        What the weights are trained on.
    compared : RecordingStore or StoreMixture
        What checkpoints are compared on: other subjects with ``data.n_held_out``, else the same.

    Raises
    ------
    ConfigError
        If no store is named, a site to leave out is in none of them or in several, or there are
        too few subjects.
    InputError
        If the stores do not fit together.
    """
    data = config.data
    if not all(data.stores) or not data.stores:
        raise ConfigError(
            "names no recording store",
            field="data.store",
            value=data.store,
            fix="Make one with `semantoks prepare`, then give data.store=FOLDER",
        )
    stores = [RecordingStore(path) for path in data.stores]
    store = stores[0] if len(stores) == 1 else StoreMixture(stores)
    if data.exclude_sites:
        sites = store.table["site"]
        known = {str(s) for s in sites.dropna()}
        excluded = [_site(site, known, data) for site in data.exclude_sites]
        store = store.select(~sites.isin(excluded).to_numpy(bool))
    if data.n_subjects is None and not data.n_held_out:
        return store, store
    subject_of = store.table["subject"].to_numpy(str)
    subjects = np.random.default_rng(config.seed).permutation(np.unique(subject_of))
    n = len(subjects) - data.n_held_out if data.n_subjects is None else data.n_subjects
    if n < 2 or n + data.n_held_out > len(subjects):
        raise ConfigError(
            f"there are only {len(subjects)} subjects to pretrain on",
            field="data.n_subjects" if not data.n_held_out else "data.n_subjects, n_held_out",
            value=data.n_subjects if not data.n_held_out else (data.n_subjects, data.n_held_out),
        )
    trained = store.select(np.isin(subject_of, subjects[:n]))
    if not data.n_held_out:
        return trained, trained
    return trained, store.select(np.isin(subject_of, subjects[-data.n_held_out :]))


def _site(site: str, known: set[str], data: DataConfig) -> str:
    """Return the site as the table calls it."""
    # In the table of a mixture sites are called STORE:SITE.
    several = len(data.stores) > 1
    found = [k for k in sorted(known) if site == k or (several and site == k.partition(":")[2])]
    if len(found) == 1:
        return found[0]
    stores = " or ".join(data.stores)
    raise ConfigError(
        "is a site of several stores" if found else f"is no site of {stores}",
        field="data.exclude_sites",
        value=site,
        fix=f"Choose one, or name all: {', '.join(found)}" if found else nearest(site, known),
    )


def check_run_folder(run: Path, config: RunConfig, resume: bool) -> None:
    """Refuse a folder that a new run would overwrite, or a resumed one would not continue.

    Raises
    ------
    ConfigError
    """
    file = run / CONFIG
    if not resume:
        if file.exists():
            fix = "Resume it with --resume, or choose another folder"
            raise ConfigError("already holds a run", file=run, fix=fix)
        # A process that was killed while it started leaves a partial file at most.
        if not (run.is_dir() and all(f.name.startswith(PARTIAL) for f in run.iterdir())):
            refuse_existing(run, kind=ConfigError)
        return
    if not file.exists():
        raise ConfigError("holds no run to resume", file=run, fix="Start it without --resume")
    old = trees.parse(RunConfig, trees.read_yaml(file), file=file)
    changed = trees.differences(config, old)
    changed.pop("train", None)  # how a run is carried out may change on the way
    if changed:
        raise ConfigError(
            "differs from the run that is to be resumed",
            file=file,
            field="configuration",
            value=changed,
            fix="Resume with the same configuration, or start a new run in another folder",
        )


def open_run(run: Path, config: RunConfig, device: torch.device, precision: str) -> None:
    """Make the folder, and write the configuration and the environment into it."""
    environment = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": config.seed,
        "device": str(device),
        "precision": precision,
        "processes": n_processes(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        # torch's own version names its build (+cpu, +cu124), its metadata need not.
        "versions": {n: metadata.version(n) for n in _PACKAGES} | {"torch": str(torch.__version__)},
    }
    write_file(run / CONFIG, config.to_yaml(), overwrite=True, kind=ConfigError)
    text = json.dumps(environment, indent=1)
    write_file(run / ENVIRONMENT, text, overwrite=True, kind=ConfigError)
    (run / "checkpoints").mkdir(exist_ok=True)


def forget_metrics_after(file: Path, step: int) -> None:
    """Drop the lines of steps that the checkpoint does not hold and that will come again."""
    if file.exists():
        with readable(file, CheckpointError):
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            # A last line without its end was being written when the process was killed.
            whole = [line for line in lines if line.endswith("\n")]
            kept = [x for x in whole if int(str(entry(json.loads(x), "step"))) <= step]
        write_file(file, "".join(kept), overwrite=True, kind=CheckpointError)

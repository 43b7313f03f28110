"""Small recordings, stores and encoders whose sizes all differ, so that a swapped axis fails."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import RecordingStore, write_store
from semantoks.train.run import RunConfig

PINS = Path(__file__).parents[1] / "constraints.txt"


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors: all of them in the pinned environment, this package's own in others."""
    config.addinivalue_line("filterwarnings", "error" if pinned() else "error:::semantoks")
    config.addinivalue_line("markers", "clone: reads documents, scripts or data of the repository")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the repository where the tests lie beside an installed wheel."""
    for item in items:
        if item.get_closest_marker("clone") and not PINS.is_file():
            item.add_marker(pytest.mark.skip(reason="needs a clone of the repository"))


def pinned() -> bool:
    """Return whether the packages are those of constraints.txt."""
    if not PINS.is_file():
        return False
    versions = {
        d.name.lower().replace("_", "-"): d.version.partition("+")[0]
        for d in metadata.distributions()
    }
    pins = re.findall(r"(?m)^([\w.-]+)==([\w.]+)$", PINS.read_text(encoding="utf-8"))
    return all(versions.get(name, version) == version for name, version in pins)


# C = 11 ROIs in networks of 2, 4 and 5; patches of 6 time points, 4 per view: T = 24.
NETWORK_SIZES = {"Vis": 2, "Limbic": 4, "Default": 5}
PATCH_LENGTH, N_PATCHES = 6, 4


@pytest.fixture(scope="session")
def parcellation() -> Parcellation:
    networks = [name for name, size in NETWORK_SIZES.items() for _ in range(size)]
    # Interleaved, so that a network is no contiguous block of columns.
    order = np.random.default_rng(3).permutation(len(networks))
    networks = [networks[i] for i in order]
    labels = tuple(f"{name}_{i}" for i, name in enumerate(networks))
    return Parcellation(name="toy11", labels=labels, networks=tuple(networks))


@pytest.fixture(scope="session")
def recordings(parcellation: Parcellation) -> list[Recording]:
    """13 recordings of 10 people at 3 sites; 3 people come twice; sex shows in one coupling."""
    rng = np.random.default_rng(7)
    out = []
    for person in range(10):
        sex = ("female", "male")[person % 2]
        for session in range(2 if person < 3 else 1):
            n_times = 47 + 3 * person + session
            signal = rng.standard_normal((n_times, len(parcellation))).cumsum(axis=0)
            if sex == "female":
                signal[:, 1] = signal[:, 0] + 0.1 * signal[:, 1]
            out.append(
                Recording(
                    signal=signal,
                    roi_names=parcellation.labels,
                    tr=2.0,
                    subject=f"p{person:02}",
                    session=str(session + 1),
                    site=("east", "north", "west")[person % 3],
                    mean_fd=0.05 * (person + 1),
                    phenotypes={"sex": sex, "age": 20.5 + person},
                    source=f"recording {len(out)}",
                )
            )
    return out


@pytest.fixture(scope="session")
def preprocessing() -> Preprocessing:
    return Preprocessing(tr=2.0, low_hz=0.01, high_hz=0.1)


@pytest.fixture(scope="session")
def store_path(
    tmp_path_factory: pytest.TempPathFactory,
    recordings: list[Recording],
    parcellation: Parcellation,
    preprocessing: Preprocessing,
) -> Path:
    path = tmp_path_factory.mktemp("stores") / "toy"
    write_store(path, recordings, parcellation, preprocessing, shard_rows=200)
    return path


@pytest.fixture(scope="session")
def store(store_path: Path) -> RecordingStore:
    return RecordingStore(store_path)


@pytest.fixture(scope="session")
def tiny_run(store_path: Path) -> Callable[..., RunConfig]:
    """Return a maker of runs on the toy store: a few steps of a very small encoder."""

    def make(**changes: object) -> RunConfig:
        base: dict[str, Any] = {
            "data": {"store": str(store_path)},
            "encoder": {
                "width": 16,
                "depth": 2,
                "head_width": 8,
                "patch_length": PATCH_LENGTH,
                "n_patches": N_PATCHES,
            },
            "objective": {"projection_hidden": 12, "projection_width": 9, "network_epochs": 1.5},
            "optim": {"epochs": 3, "batch_size": 4, "warmup_epochs": 1.0, "base_lr": 0.05},
            "train": {"log_every": 1, "checkpoint_epochs": 1, "device": "cpu"},
        }
        for dotted, value in changes.items():
            section, _, key = dotted.partition("__")
            if key:
                base[section][key] = value
            else:
                base[section] = value
        return RunConfig.preset("paper", base)

    return make

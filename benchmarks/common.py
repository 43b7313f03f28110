"""What the benchmarks share: timing side by side, lines of the table, memory of a process."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.signal import Preprocessing
from semantoks.model.encoder import Encoder
from semantoks.train.memory import reuse_freed_memory
from semantoks.train.run import RunConfig

ATLAS = "semantoks457"  # the paper's 457 ROIs in 9 networks


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Parameters
    ----------
    what : str
    goal, measured : str
        With their units.
    ratio : float or None
        Against the yardstick of the same run.
    passed : bool or None
        None where no goal is set.
    """

    what: str
    goal: str
    measured: str
    ratio: float | None
    passed: bool | None


def side_by_side(
    contestants: Mapping[str, Callable[[], object]],
    repeats: int,
    warm_up: int = 1,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each, run in turns so that all meet the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warm_up + repeats):
        for name, run in contestants.items():
            start = clock()
            run()
            if turn >= warm_up:
                seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def encoder_for(config: RunConfig, seed: int = 0) -> Encoder:
    """Return a random encoder on the paper's ROIs."""
    parcellation = Parcellation.load(ATLAS)
    preprocessing = Preprocessing(tr=2.0, low_hz=0.01, high_hz=0.1)
    return Encoder.random(config.encoder, parcellation, preprocessing, seed=seed)


def peak_gb() -> float:
    """Return the largest memory that this process has held, GB.

    Linux's getrusage counts what a process held before it became this program, too.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9  # bytes on a Mac


def in_new_process(module: str, *arguments: str) -> str:
    """Run ``python -m module arguments`` and return the last line that it prints."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def show(lines: list[Line]) -> None:
    """Print the lines for a reader, and last as JSON for `benchmarks.run`."""
    for line in lines:
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}x"
        verdict = {True: "pass", False: "short", None: ""}[line.passed]
        print(f"{line.what:58} goal {line.goal:24} {line.measured:34} {ratio:8} {verdict}")
    print(json.dumps([asdict(line) for line in lines]))


def use_threads(n: int) -> None:
    """Fix the number of threads for everything that follows, and use memory as `Trainer` does."""
    torch.set_num_threads(n)
    reuse_freed_memory()

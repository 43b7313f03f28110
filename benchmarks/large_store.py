"""A store of the size of UK Biobank next to a small one: opening, memory, crops per second, epochs.

    python -m benchmarks.large_store [--recordings 40000] [--small 1000] [--folder /tmp]

Writes recordings of 180 time points on the paper's 457 ROIs (float16: 165 kB each, 6.6 GB for
40,000) through the package's writer; their signals are 16 arrays of noise, repeated. Everything is
removed again. Every store is opened in processes of its own. Memory is what no other process could
share and no page cache gives back (RssAnon of Linux); crops of both stores are read in turns, from
the page cache as far as the memory of the machine goes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.common import (
    Line,
    encoder_for,
    in_new_process,
    peak_gb,
    show,
    side_by_side,
    use_threads,
)
from benchmarks.data import make_loader
from semantoks.atlas.parcellation import Parcellation
from semantoks.data.encode import Encoded
from semantoks.data.store import RecordingStore, StoreSpec, StoreWriter
from semantoks.train.run import RunConfig

N_TIMES, N_SIGNALS, BATCH = 180, 16, 256
OPEN_GOAL, SAME, EPOCH_GOAL = 1.0, 0.9, 0.01
MEMORY_GOAL = 0.1  # GB more than the small store takes


def encoded(n: int, parcellation: Parcellation) -> Iterator[Encoded]:
    """Yield recordings as UK Biobank has them: one per person, four sites, some without ROIs."""
    rng = np.random.default_rng(0)
    shape = (N_SIGNALS, N_TIMES, len(parcellation))
    signals = rng.standard_normal(shape, dtype=np.float32).astype(np.float16)
    lost = list(parcellation.labels[-7:])
    for i in range(n):
        subject = f"{1_000_000 + i}"
        row = {"id": f"sub-{subject}_ses-2_task-rest", "subject": subject, "session": "2"}
        row |= {"task": "rest", "acquisition": None, "run": None, "site": f"site{i % 4}"}
        row |= {"source_tr": 0.735, "offset": 0.0, "length": N_TIMES, "mean_fd": 0.1}
        row |= {"censored_fraction": 0.0, "missing_rois": [] if i % 50 else lost}
        row |= {"sex": "FM"[i % 2], "age": 45.0 + i % 37}
        yield Encoded(row, signals[i % N_SIGNALS], f"recording {i}")


def write(folder: Path, n: int) -> dict[str, float]:
    encoder = encoder_for(RunConfig.preset("tiny"))
    spec = StoreSpec(parcellation=encoder.channels, preprocessing=encoder.preprocessing)
    before = anonymous_gb()
    start = time.perf_counter()
    with StoreWriter(folder, spec) as writer:
        for one in encoded(n, encoder.channels):
            writer.append(one)
    return {"seconds": time.perf_counter() - start, "gb": peak_gb() - before}


def anonymous_gb() -> float:
    """Return the memory of this process that is no mapped file, GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("RssAnon")).split()[1]) * 1024 / 1e9


def opened(folder: Path) -> dict[str, float]:
    """Open a store and read some batches; return the seconds and the memory that it takes."""
    before, start = anonymous_gb(), time.perf_counter()
    store = RecordingStore(folder)
    seconds = time.perf_counter() - start
    after = anonymous_gb()
    start = time.perf_counter()
    loader = make_loader(store, RunConfig.preset("small"), BATCH)
    loader_seconds = time.perf_counter() - start
    most, read = 0.0, batches(store)
    for step in range(20):
        read()
        loader.batch(step)
        most = max(most, anonymous_gb())
    return {
        "seconds": seconds,
        "loader_seconds": loader_seconds,
        "open_gb": after - before,
        "read_gb": most - before,
    }


def whole_process(folder: Path) -> float:
    """Return the seconds of a process that opens a store and does nothing else."""
    code = f"from semantoks import RecordingStore; RecordingStore({str(folder)!r})"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def batches(store: RecordingStore) -> Callable[[], object]:
    """Return a function that reads two crops of each of `BATCH` random recordings."""
    rng = np.random.default_rng(0)

    def read() -> object:
        which = rng.choice(len(store), BATCH, replace=False)
        return store.gather(which, rng.integers(0, N_TIMES - 100 + 1, (2, BATCH)), 100)

    return read


@dataclass
class Speed:
    """Medians of one store: seconds of a batch of raw crops, of views, of an epoch's order."""

    crops: float
    views: float
    order: float


def speeds(folders: dict[str, Path], repeats: int) -> dict[str, Speed]:
    stores = {name: RecordingStore(folder) for name, folder in folders.items()}
    loaders = {n: make_loader(s, RunConfig.preset("small"), BATCH) for n, s in stores.items()}
    steps = {name: iter(range(10**9)) for name in stores}
    crops = side_by_side({n: batches(s) for n, s in stores.items()}, repeats)
    views = side_by_side(
        {n: lambda x=x, n=n: x.batch(next(steps[n])) for n, x in loaders.items()}, repeats
    )
    order = side_by_side(
        {
            n: lambda x=x, n=n: x.recordings(next(steps[n]) * x.steps_per_epoch)
            for n, x in loaders.items()
        },
        repeats,
    )
    return {n: Speed(crops[n], views[n], order[n]) for n in stores}


def lines(n: int, n_small: int, folder: Path, repeats: int) -> list[Line]:
    folders = {"small": folder / "small", "large": folder / "large"}
    facts: dict[str, dict[str, float]] = {}
    for name, count in (("small", n_small), ("large", n)):
        done = in_new_process(
            __spec__.name, "--write", str(folders[name]), "--recordings", str(count)
        )
        facts[name] = {f"write_{k}": v for k, v in json.loads(done).items()}
    for name, path in folders.items():
        facts[name] |= json.loads(in_new_process(__spec__.name, "--open", str(path)))
        facts[name]["whole"] = whole_process(path)
    fast = speeds(folders, repeats)
    small, large = facts["small"], facts["large"]
    what = f"{n:,} against {n_small:,} recordings"
    out = [
        Line(
            f"writing {n:,} recordings, memory above the small one's",
            f"<= {MEMORY_GOAL:g} GB",
            f"{large['write_gb']:.2f} against {small['write_gb']:.2f} GB",
            None,
            large["write_gb"] - small["write_gb"] <= MEMORY_GOAL,
        ),
        Line(
            f"opening a store of {n:,}, fresh process",
            f"< {OPEN_GOAL:g} s",
            f"{large['seconds']:.2f} s ({small['seconds']:.2f} s)",
            None,
            large["seconds"] < OPEN_GOAL,
        ),
        Line(
            "the same with interpreter and imports",
            "",
            f"{large['whole']:.2f} s ({small['whole']:.2f} s)",
            None,
            None,
        ),
        Line(
            "the loader of views, ready",
            f"< {OPEN_GOAL:g} s",
            f"{large['loader_seconds']:.2f} s ({small['loader_seconds']:.2f} s)",
            None,
            large["loader_seconds"] < OPEN_GOAL,
        ),
    ]
    for key, title in (("open_gb", "memory of opening"), ("read_gb", "and of reading 20 batches")):
        out.append(
            Line(
                title,
                f"<= {MEMORY_GOAL:g} GB above the small one's",
                f"{large[key]:.3f} against {small[key]:.3f} GB",
                None,
                large[key] - small[key] <= MEMORY_GOAL,
            )
        )
    for key, title in (("crops", "raw crops"), ("views", "views, augmented")):
        one, two = (2 * BATCH / getattr(fast[x], key) for x in ("small", "large"))
        measured = f"{two:.0f} against {one:.0f} crops/s"
        out.append(
            Line(
                f"{title}, {what}", f">= {SAME:g}", measured, round(two / one, 2), two / one >= SAME
            )
        )
    order = fast["large"].order
    out.append(
        Line(
            f"drawing the order of an epoch of {n:,} people",
            f"< {1000 * EPOCH_GOAL:g} ms",
            f"{1000 * order:.1f} ms ({1000 * fast['small'].order:.1f} ms)",
            None,
            order < EPOCH_GOAL,
        )
    )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=40_000)
    parser.add_argument("--small", type=int, default=1_000)
    parser.add_argument("--folder", help="where the stores are written; the temporary folder")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    use_threads(1)
    if options.write:
        print(json.dumps(write(options.write, options.recordings)))
    elif options.open:
        print(json.dumps(opened(options.open)))
    else:
        with TemporaryDirectory(dir=options.folder) as folder:
            show(lines(options.recordings, options.small, Path(folder), options.repeats))


if __name__ == "__main__":
    main()

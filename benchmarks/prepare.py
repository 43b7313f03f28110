"""Recordings per minute and memory of `semantoks prepare` on volumes, against nilearn used naively.

    python benchmarks/prepare.py [--recordings 8] [--volumes 200] [--jobs 2]

Naively: all images loaded, then `NiftiLabelsMasker` transforms one by one, with the same confounds
and band. Both read the same made fMRIPrep tree (61 x 73 x 61 voxels of 3 mm, int16, gzip; a made
atlas of 200 ROIs) and each runs in a process of its own; memory is the largest resident set of the
process and, for ours with several jobs, of its largest worker. "gzip alone" unpacks the images and
does nothing else. Then the parts of it, each against the plain way of doing it, to the same result.
The page of quality, drawn once per store, is left out. To compare versions, give
another one's folder (--against ../other/src): it runs between ours, on the same files.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
SHAPE = (61, 73, 61)
#: Once per process, not once per recording; left out of the times.
IMPORTS = (
    "nilearn.interfaces.fmriprep",
    "nilearn.maskers",
    "scipy.signal",
    "scipy.sparse",
    "semantoks.report.quality",
    "semantoks.workflow.prepare",
)
AFFINE = np.array([[3.0, 0, 0, -90], [0, 3, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])


def make(root: Path, n_recordings: int, n_volumes: int) -> None:
    """Make the tree, its atlas and the atlas's table."""
    import trees

    rng = np.random.default_rng(0)
    blocks = np.zeros(SHAPE, np.int16)
    grid = np.stack(np.meshgrid(range(10, 50, 7), range(10, 60, 7), range(8, 36, 7)), -1)
    for value, (x, y, z) in enumerate(grid.reshape(-1, 3)[:200], start=1):
        blocks[x : x + 6, y : y + 6, z : z + 6] = value
    nib.save(nib.Nifti1Image(blocks, AFFINE), root / "atlas.nii.gz")
    values = np.unique(blocks[blocks > 0])
    lines = ["label\tnetwork\tindex", *(f"roi{v}\tVis\t{v}" for v in values)]
    (root / "atlas.tsv").write_text("\n".join(lines) + "\n")
    brain = np.zeros(SHAPE, bool)
    brain[6:56, 6:66, 4:52] = True
    for i in range(n_recordings):
        func = root / "tree" / f"sub-{i:02}" / "func"
        func.mkdir(parents=True)
        stem = f"sub-{i:02}_task-rest"
        data = np.zeros((*SHAPE, n_volumes), np.int16)
        noise = rng.normal(1000, 30, (int(brain.sum()), n_volumes))
        data[brain] = (noise + 20 * rng.standard_normal((1, n_volumes))).astype(np.int16)
        space = func / f"{stem}_space-MNI152NLin6Asym"
        nib.save(nib.Nifti1Image(data, AFFINE), f"{space}_desc-preproc_bold.nii.gz")
        Path(f"{space}_desc-preproc_bold.json").write_text('{"RepetitionTime": 2.0}')
        mask = nib.Nifti1Image(brain.astype(np.uint8), AFFINE)
        nib.save(mask, f"{space}_desc-brain_mask.nii.gz")
        trees.confounds(func / f"{stem}_desc-confounds_timeseries.tsv", n_volumes, i)


def ours(root: Path, jobs: int) -> None:
    from semantoks.atlas.parcellation import Parcellation
    from semantoks.data.shards import Running
    from semantoks.data.sources.items import Reading
    from semantoks.workflow import prepare

    prepare.write_quality_page = lambda _: None
    atlas = Parcellation.load(root / "atlas.tsv")
    reading = Reading(atlas=atlas, atlas_images=(root / "atlas.nii.gz",))
    report = prepare.prepare_store(
        str(root / "tree"), root / "store", reading=reading, running=Running(n_jobs=jobs)
    )
    assert report.count("failed") == 0, report.quality["reason"].tolist()


def naive(root: Path) -> None:
    from nilearn.interfaces.fmriprep import load_confounds_strategy
    from nilearn.maskers import NiftiLabelsMasker

    files = sorted((root / "tree").rglob("*bold.nii.gz"))
    images = [nib.load(file) for file in files]
    for image in images:
        image.get_fdata(dtype=np.float32)
    for file, image in zip(files, images, strict=True):
        mask = str(file).replace("preproc_bold", "brain_mask")
        confounds, sample = load_confounds_strategy(str(file), denoise_strategy="simple")
        masker = NiftiLabelsMasker(
            root / "atlas.nii.gz",
            mask_img=mask,
            detrend=True,
            standardize="zscore_sample",
            low_pass=0.1,
            high_pass=0.01,
            t_r=2.0,
            reports=False,
        )
        np.save(file.with_suffix(".npy"), masker.fit_transform(image, confounds, sample))


def parts(root: Path) -> list[str]:
    """Time one image, the crops of a store and a resampling against the plain way of each."""
    from semantoks import Parcellation, RecordingStore
    from semantoks.data.signal import _resampling_weights, resample
    from semantoks.data.sources.images import read_image
    from semantoks.data.sources.items import Reading

    atlas = Parcellation.load(root / "atlas.tsv")
    reading = Reading(atlas=atlas, atlas_images=(root / "atlas.nii.gz",))
    file = sorted((root / "tree").rglob("*bold.nii.gz"))[0]
    labels = np.asarray(nib.load(root / "atlas.nii.gz").dataobj)

    def plain_image() -> np.ndarray:
        data = nib.load(file).get_fdata()
        return np.stack([data[labels == value].mean(axis=0) for value in atlas.index], axis=1)

    store = RecordingStore(next(root.glob("store-*")))
    rng = np.random.default_rng(0)
    length = min(100, int(store.table["length"].min()))
    rows = rng.integers(0, len(store), 512)
    starts = np.array([rng.integers(0, store.table["length"][i] - length + 1) for i in rows])

    def plain_crops() -> np.ndarray:
        times = np.arange(length)
        return np.stack([store.raw(i)[s + times] for i, s in zip(rows, starts, strict=True)])

    signal = rng.standard_normal((1200, len(atlas)))

    def banded() -> np.ndarray:
        _resampling_weights.cache_clear()
        return resample(signal, 0.72, 2.0)

    def dense() -> np.ndarray:
        _resampling_weights.cache_clear()
        weights = _resampling_weights(len(signal), 0.72, 2.0).toarray()
        margin = (weights.shape[1] - len(signal)) // 2
        edges = ((margin, margin), (0, 0))
        return weights @ np.pad(signal, edges, mode="reflect", reflect_type="odd")

    lines = []
    for what, ours_, plain in (
        ("one image to ROIs", lambda: read_image(file, reading).signal, plain_image),
        ("512 crops of a store", lambda: store.gather(rows, starts[None], length)[0], plain_crops),
        ("resampling 1200 volumes", banded, dense),
    ):
        (fast, one), (slow, other) = _timed(ours_), _timed(plain)
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)
        lines.append(f"{what:30} {fast:7.4f} s, plainly {slow:7.4f} s ({slow / fast:.1f}x)")
    return lines


def _timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Return the seconds of the fastest of three runs, and the result."""
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - begin)
    return min(seconds), result


def unpacked(root: Path) -> None:
    for file in sorted((root / "tree").rglob("*bold.nii.gz")):
        with gzip.open(file) as stream:
            while stream.read(1 << 20):
                pass


def timed(arguments: list[str], source: Path | None = None) -> dict[str, float]:
    command = [sys.executable, __file__, *arguments]
    folders = {} if source is None else {"PYTHONPATH": str(source)}
    env = os.environ | folders
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def timed_text(arguments: list[str]) -> str:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr.strip()


def child(root: Path, what: str) -> None:
    for name in IMPORTS:
        importlib.import_module(name)
    begin, started = time.perf_counter(), time.process_time()
    if what == "naive":
        naive(root)
    elif what.startswith("make"):
        make(root, *map(int, what.split()[1:]))
    elif what == "gzip":
        unpacked(root)
    elif what == "parts":
        print("\n".join(parts(root)), file=sys.stderr)
    else:
        ours(root, int(what))
    seconds = time.perf_counter() - begin
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = time.process_time() - started
    gb = max(one.ru_maxrss for one in used) / 1e6
    print(json.dumps({"seconds": seconds, "cpu": cpu, "gb": gb}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recordings", type=int, default=8)
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--child", nargs=2)
    options = parser.parse_args()
    if options.child:
        child(Path(options.child[0]), options.child[1])
        return
    jobs = str(options.jobs)
    runs: list[tuple[str, str, Path | None]] = [
        ("gzip alone", "gzip", None),
        ("nilearn, naively", "naive", None),
        ("semantoks, 1 process", "1", None),
        (f"semantoks, {jobs} processes", jobs, None),
    ]
    if options.against is not None:
        runs.append(("the other version, 1 process", "1", options.against))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # In a process of its own: a large parent would count in the memory of what it starts.
        timed(["--child", folder, f"make {options.recordings} {options.volumes}"])
        rows = {}
        for i, (name, what, source) in enumerate(runs):
            rows[name] = timed(["--child", folder, what], source)
            if (root / "store").exists():
                (root / "store").rename(root / f"store-{i}")
        said = timed_text(["--child", folder, "parts"])
    print(f"{options.recordings} recordings of {options.volumes} volumes, {SHAPE} voxels, 200 ROIs")
    base = rows["nilearn, naively"]
    for name, row in rows.items():
        ratio = base["cpu"] / row["cpu"]
        cpu = f", {row['cpu'] / options.recordings:5.2f} s of CPU each ({ratio:.2f}x)"
        print(
            f"{name:30} {60 * options.recordings / row['seconds']:7.1f} recordings/min, "
            f"{row['gb']:.2f} GB" + ("" if "processes" in name else cpu)
        )
    print(said)


if __name__ == "__main__":
    main()

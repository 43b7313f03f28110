"""Damaged and random files: every reader gives its value or the package's own error, at once.

``SEMANTOKS_FUZZ`` is the number of cases of all tests together: 500 by default, 10,000 at night.
More than 500 are drawn anew every time.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

import trees
from semantoks import config
from semantoks.atlas.parcellation import Parcellation
from semantoks.data.encode import StoreSpec
from semantoks.data.integrity import check_store
from semantoks.data.layout import file_sha256
from semantoks.data.prepare import prepare
from semantoks.data.reader import RecordingStore
from semantoks.data.signal import Preprocessing
from semantoks.data.sources.find import find_items
from semantoks.data.sources.items import Reading
from semantoks.errors import OWN_FAULT, SemantoksError
from semantoks.model.authors import read_authors
from semantoks.model.pretrained import load_pretrained
from semantoks.train.checkpoint import check_checkpoints
from semantoks.train.run import RunConfig
from semantoks.train.trainer import Trainer

TOTAL = int(os.environ.get("SEMANTOKS_FUZZ", "500"))
N_TESTS = 34  # parametrised cases below
SECONDS, GIGABYTES = 20, 2

fuzz = settings(
    max_examples=max(TOTAL // N_TESTS, 5),
    derandomize=TOTAL <= 500,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True, scope="module")
def memory_bound():
    """A reader that believes a damaged length fails here, and takes no machine down."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(
        resource.RLIMIT_AS, (pages * resource.getpagesize() + GIGABYTES * 2**30, hard)
    )
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def survives(call: Callable[[], object]) -> None:
    """Run a reader; it may refuse, but only in the package's own words and in time."""

    def late(*_):
        raise AssertionError(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        call()
    except SemantoksError as error:
        text = str(error)
        assert text.strip()
        assert OWN_FAULT not in text
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


place = st.floats(0, 1, exclude_max=True)
edits = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), place, st.integers(0, 7)),
        st.tuples(st.just("set"), place, st.integers(0, 255)),
        st.tuples(st.just("cut"), place, place),
        st.tuples(st.just("repeat"), place, place),
        st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=9)),
        st.tuples(st.just("end"), place, st.none()),
        st.tuples(st.just("zero"), place, place),
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, changes) -> bytes:
    out = bytearray(data)
    for kind, where, what in changes:
        at = int(where * len(out))
        if kind in ("flip", "set") and out:
            out[at] = out[at] ^ (1 << what) if kind == "flip" else what
        elif kind in ("cut", "repeat", "zero"):
            stop = at + int(what * min(len(out) - at, 300))
            part = {"cut": b"", "repeat": bytes(out[at:stop]) * 2, "zero": b"\0" * (stop - at)}
            out[at:stop] = part[kind]
        elif kind == "insert":
            out[at:at] = what
        elif kind == "end":
            del out[at:]
    return bytes(out)


class Damage:
    """A folder with one file damaged, restored afterwards."""

    def __init__(self, file: Path, changes) -> None:
        self.file, self.before = file, file.read_bytes()
        self.after = mutated(self.before, changes)

    def __enter__(self) -> Path:
        self.file.write_bytes(self.after)
        return self.file

    def __exit__(self, *_) -> None:
        self.file.write_bytes(self.before)


# -- stores ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store_copy(store_path, tmp_path_factory) -> Path:
    return shutil.copytree(store_path, tmp_path_factory.mktemp("fuzz") / "store")


def use_store(path: Path) -> None:
    store = RecordingStore(path)
    for i in range(len(store)):
        store.signal(i)
    store.info()


@pytest.mark.parametrize(
    "name", ["store.json", "rois.tsv", "recordings.parquet", "signals-00001.npy"]
)
@given(changes=edits)
@fuzz
def test_damaged_stores(store_copy, name, changes):
    with Damage(store_copy / name, changes):
        survives(lambda: use_store(store_copy))
        survives(lambda: check_store(store_copy))


@pytest.mark.parametrize(
    ("name", "key"), [("rois.tsv", "rois_sha256"), ("recordings.parquet", "index_sha256")]
)
@given(changes=edits)
@fuzz
def test_stores_that_were_never_right(store_copy, name, key, changes):
    """The checksum fits: another program wrote this."""
    header = json.loads((store_copy / "store.json").read_text())
    with Damage(store_copy / name, changes) as file, Damage(store_copy / "store.json", []):
        (store_copy / "store.json").write_text(json.dumps(header | {key: file_sha256(file)}))
        survives(lambda: use_store(store_copy))


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_run, tmp_path_factory):
    config, run = tiny_run(optim__epochs=2), tmp_path_factory.mktemp("fuzz") / "run"
    return config, run, Trainer(config, run).fit()


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "optimizer.safetensors",
        "config.json",
        "rois.tsv",
        "progress.json",
    ],
)
@given(changes=edits)
@fuzz
def test_damaged_checkpoints(trained, name, changes):
    config, run, folder = trained
    with Damage(folder / name, changes):
        survives(lambda: load_pretrained(folder))
        survives(lambda: Trainer(config, run, resume=True))
        survives(lambda: check_checkpoints(run))


@given(changes=edits)
@fuzz
def test_damaged_configurations_and_logs_of_runs(trained, changes):
    config, run, _ = trained
    for name in ("config.yaml", "metrics.jsonl"):
        with Damage(run / name, changes):
            survives(lambda: Trainer(config, run, resume=True))


@given(changes=edits)
@fuzz
def test_damaged_checkpoints_of_the_authors(tmp_path_factory, changes):
    golden = Path(__file__).parent / "golden" / "reference_tiny.pth"
    folder = tmp_path_factory.mktemp("authors")
    (folder / "a.pth").write_bytes(mutated(golden.read_bytes(), changes))
    survives(lambda: read_authors(folder / "a.pth"))
    shutil.rmtree(folder)


# -- what people write -----------------------------------------------------------------------------

SMALL = "preset: small\ndata: {store: a, exclude_sites: [KKI, YALE]}\nviews: {masks: {kind: slice}}"


@given(changes=edits)
@fuzz
def test_damaged_yaml(tmp_path_factory, changes):
    file = tmp_path_factory.mktemp("yaml") / "run.yaml"
    text = SMALL + "\nencoder: {branches: [{kind: dense}], width: 64}\noptim: {epochs: 9}\n"
    file.write_bytes(mutated(text.encode(), changes))
    survives(lambda: RunConfig.load(file))
    shutil.rmtree(file.parent)


keys = st.sampled_from([key.path for key in config.describe(RunConfig())]) | st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(assignments=st.lists(st.tuples(keys, values), max_size=4))
@fuzz
def test_random_overrides(assignments):
    texts = [f"{key}={yaml.safe_dump(value).strip()}" for key, value in assignments]
    survives(lambda: RunConfig.load(None, texts))


@given(texts=st.lists(st.text(max_size=30), max_size=3))
@fuzz
def test_random_words_as_overrides(texts):
    survives(lambda: RunConfig.load(None, texts))


@pytest.fixture(scope="module")
def table(tmp_path_factory, recordings) -> Path:
    """Return a table of one file of every kind, with a sidecar."""
    folder = tmp_path_factory.mktemp("fuzz")
    one, names = recordings[0].signal[:30], recordings[0].roi_names
    pd.DataFrame(one, columns=names).to_csv(folder / "a.tsv", sep="\t", index=False)
    np.save(folder / "b.npy", one.astype(np.float32))
    savemat(folder / "c.mat", {"signal": one})
    kept = {"file": ["a.tsv", "b.npy", "c.mat"], "subject": ["1", "2", "3"], "age": [20, 31, 4]}
    pd.DataFrame(kept | {"tr": 2.0}).to_csv(folder / "table.tsv", sep="\t", index=False)
    (folder / "a.json").write_text('{"RepetitionTime": 2.0, "EchoTime": 0.03}')
    return folder / "table.tsv"


def use_source(source: Path, reading: Reading, out: Path) -> int:
    spec = StoreSpec(parcellation=reading.atlas, preprocessing=Preprocessing())
    try:
        items = find_items(source, reading)
        done = prepare(items, out, spec)
        assert done.count("stored") <= len(items)
        assert not done.quality["reason"].str.contains(OWN_FAULT).any(), done.quality["reason"]
        return done.count("stored")
    finally:
        for folder in (out, out.with_name(f"{out.name}.partial")):
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", ["table.tsv", "a.tsv", "b.npy", "c.mat", "a.json"])
@given(changes=edits)
@fuzz
def test_damaged_tables_and_signals(table, recordings, parcellation, name, changes):
    reading = Reading(atlas=parcellation, roi_names=recordings[0].roi_names)
    with Damage(table.parent / name, changes):
        survives(lambda: use_source(table, reading, table.parent / "store"))


@pytest.fixture(scope="module")
def images(tmp_path_factory, parcellation) -> tuple[Path, Reading]:
    folder = tmp_path_factory.mktemp("images")
    labels = np.resize(np.arange(len(parcellation) + 1, dtype=np.int16), (3, 4, 5))
    series = np.random.default_rng(1).standard_normal((3, 4, 5, 25)).astype(np.float32)
    nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / "atlas.nii")
    for ending in (".nii", ".nii.gz"):
        nib.save(nib.Nifti1Image(series, np.eye(4)), folder / f"sub-1_bold{ending}")
    indexed = replace(parcellation, index=tuple(range(1, len(parcellation) + 1)))
    return folder, Reading(atlas=indexed, atlas_images=(folder / "atlas.nii",), tr=2.0)


@pytest.mark.parametrize("name", ["sub-1_bold.nii", "sub-1_bold.nii.gz", "atlas.nii"])
@given(changes=edits)
@fuzz
def test_damaged_images(images, name, changes):
    folder, reading = images
    file = folder / ("sub-1_bold.nii" if name == "atlas.nii" else name)
    with Damage(folder / name, changes):
        survives(lambda: use_source(file, reading, folder / "store"))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, tuple[Path, Path, Reading]]:
    """Return files by name, the source that holds each, and how it is read."""
    study, folder = trees.make_study(n_subjects=2), tmp_path_factory.mktemp("made")
    plain = Reading(atlas=study.atlas, tr=2.0)
    dense, dlabel = trees.dense_cifti(folder, study, "01")
    left, labels = trees.gifti(folder, study, "01")
    cifti, gifti = replace(plain, atlas_images=(dlabel,)), replace(plain, atlas_images=labels)
    frame = pd.DataFrame(study.signals["01"], columns=list(study.atlas.labels))
    frame.to_csv(folder / "sub-1.tsv.gz", sep="\t", index=False)
    frame.to_parquet(folder / "sub-1.parquet")
    found = {
        "dtseries": (dense, dense, cifti),
        "dlabel": (dlabel, dense, cifti),
        "gii": (left, left, gifti),
        "label.gii": (labels[0], left, gifti),
        "tsv.gz": (folder / "sub-1.tsv.gz", folder / "sub-1.tsv.gz", plain),
        "parquet": (folder / "sub-1.parquet", folder / "sub-1.parquet", plain),
    }
    root = trees.xcpd(folder / "xcpd", study)
    for name in ("outliers.tsv", "coverage_bold.tsv", "denoised_bold.json"):
        found[name] = (next((root / "sub-01").rglob(f"*{name}")), root, replace(plain, tr=None))
    return found


@pytest.mark.parametrize(
    "name",
    [
        "dtseries",
        "dlabel",
        "gii",
        "label.gii",
        "tsv.gz",
        "parquet",
        "outliers.tsv",
        "coverage_bold.tsv",
        "denoised_bold.json",
    ],
)
@given(changes=edits)
@fuzz
def test_damaged_surfaces_sheets_and_neighbours(made, name, changes):
    file, source, reading = made[name]
    with Damage(file, changes):
        survives(lambda: use_source(source, reading, source.with_name("store")))


def test_the_files_are_good_before_they_are_damaged(table, images, made, recordings, parcellation):
    reading = Reading(atlas=parcellation, roi_names=recordings[0].roi_names)
    assert use_source(table, reading, table.parent / "store") == 3
    folder, reading = images
    for ending in (".nii", ".nii.gz"):
        assert use_source(folder / f"sub-1_bold{ending}", reading, folder / "store") == 1
    for file, source, reading in made.values():
        assert use_source(source, reading, file.with_name("store")) == (2 if source.is_dir() else 1)


@given(changes=edits)
@fuzz
def test_damaged_parcellations(tmp_path_factory, parcellation, changes):
    file = tmp_path_factory.mktemp("atlas") / "atlas.tsv"
    parcellation.save(file)
    file.write_bytes(mutated(file.read_bytes(), changes))
    survives(lambda: Parcellation.load(file))
    shutil.rmtree(file.parent)

"""Files that mean harm: nothing in them is ever run, and nothing leaves its folder."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import semantoks
from semantoks.atlas.parcellation import Parcellation
from semantoks.data.encode import StoreSpec
from semantoks.data.layout import file_sha256
from semantoks.data.prepare import prepare
from semantoks.data.reader import RecordingStore
from semantoks.data.signal import Preprocessing
from semantoks.data.sources.find import find_items
from semantoks.data.sources.items import Reading
from semantoks.data.store import write_store
from semantoks.errors import CheckpointError, InputError, SemantoksError
from semantoks.model.pretrained import load_pretrained
from semantoks.report.page import write_report
from semantoks.train.run import RunConfig
from semantoks.train.trainer import Trainer


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


@pytest.fixture
def trace(tmp_path):
    """Return the file that harm would make, and see that there is none."""
    file = tmp_path / "harm-was-done"
    yield file
    assert not file.exists()


def test_the_bomb_works(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "made")))
    assert (tmp_path / "made").exists()


# -- pickles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_malicious_pth_is_not_unpickled(tmp_path, trace, as_zip):
    content = {"model": Bomb(trace), "config": {}}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=as_zip)
    with pytest.raises(CheckpointError):
        load_pretrained(tmp_path / "a.pth")


def test_a_pickle_called_pth_is_not_unpickled(tmp_path, trace):
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(CheckpointError):
        load_pretrained(tmp_path / "a.pth")


def signals_of(file: Path, parcellation) -> None:
    """Read a file as `semantoks prepare` does."""
    reading = Reading(atlas=parcellation, roi_names=parcellation.labels, tr=2.0, subject="1")
    spec = StoreSpec(parcellation=parcellation, preprocessing=Preprocessing())
    prepare(find_items(file, reading), file.parent / "store", spec)


@pytest.mark.parametrize("name", ["object.npy", "pickle.npy", "archive.npy"])
def test_a_malicious_npy_is_not_unpickled(tmp_path, trace, parcellation, name):
    file = tmp_path / name
    if name == "object.npy":
        np.save(file, np.array([[Bomb(trace)]], dtype=object), allow_pickle=True)
    elif name == "pickle.npy":
        file.write_bytes(pickle.dumps(Bomb(trace)))
    else:
        buffer = io.BytesIO()
        np.savez(buffer, a=np.array([Bomb(trace)], dtype=object))
        file.write_bytes(buffer.getvalue())
    with pytest.raises(SemantoksError):
        signals_of(file, parcellation)


def test_a_malicious_shard_of_a_store_is_not_unpickled(tmp_path, trace, store_path):
    path = shutil.copytree(store_path, tmp_path / "store")
    np.save(path / "signals-00000.npy", np.array([Bomb(trace)], dtype=object), allow_pickle=True)
    header = json.loads((path / "store.json").read_text())
    header["shards"][0]["sha256"] = file_sha256(path / "signals-00000.npy")
    (path / "store.json").write_text(json.dumps(header))
    with pytest.raises(SemantoksError):
        RecordingStore(path)


def test_a_malicious_network_map_is_not_unpickled(tmp_path, trace):
    golden = Path(__file__).parent / "golden"
    shutil.copy(golden / "reference_tiny.pth", tmp_path)
    with np.load(golden / "reference_network_mapping.npz") as maps:
        harm = {key: np.array([Bomb(trace)], dtype=object) for key in maps}
    assert harm
    np.savez(tmp_path / "network_mapping.npz", **harm)
    with pytest.raises(CheckpointError, match=r"network_mapping\.npz: is damaged"):
        load_pretrained(tmp_path / "reference_tiny.pth")


def test_a_malicious_yaml_is_not_run(tmp_path, trace):
    text = f"seed: !!python/object/apply:os.mkdir ['{trace}']"
    yaml.unsafe_load(text)
    trace.rmdir()  # it does what it says
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(SemantoksError, match="not valid YAML"):
        RunConfig.load(tmp_path / "run.yaml")
    with pytest.raises(SemantoksError):
        RunConfig.load(None, [text.replace(": ", "=", 1)])


def test_a_yaml_that_grows_is_refused(tmp_path):
    """A billion laughs: nine levels of nine references each."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    with pytest.raises(SemantoksError, match="unknown key a0"):
        RunConfig.load(tmp_path / "run.yaml")


def test_nothing_in_the_package_can_load_a_pickle():
    """Every reader of a format that may hold one says that it must not."""
    source = {
        file: file.read_text(encoding="utf-8")
        for file in Path(semantoks.__file__).parent.rglob("*.py")
    }
    for file, text in source.items():
        assert not re.search(r"pickle\.loads?\(|read_pickle|joblib\.load|yaml\.load\(", text), file
        for call in re.findall(r"torch\.load\((?:[^()]|\([^()]*\))*\)", text):
            assert "weights_only=True" in call, file
        for call in re.findall(r"np\.load\((?:[^()]|\([^()]*\))*\)", text):
            assert "allow_pickle=True" not in call, file


# -- bombs and paths -------------------------------------------------------------------------------


def test_a_gzip_bomb_takes_no_memory(tmp_path, parcellation):
    """A gigabyte of zeros in a megabyte, with the header of an image that claims far more."""
    import nibabel as nib

    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000, 30000))
    header.set_data_dtype(np.float64)
    with gzip.open(tmp_path / "sub-1_bold.nii.gz", "wb", compresslevel=9) as stream:
        stream.write(header.binaryblock + b"\0" * 4)
        for _ in range(64):
            stream.write(b"\0" * 2**20)
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.int16), np.eye(4)), tmp_path / "atlas.nii")
    reading = Reading(atlas=parcellation, atlas_images=(tmp_path / "atlas.nii",), tr=2.0)
    spec = StoreSpec(parcellation=parcellation, preprocessing=Preprocessing())
    with pytest.raises(SemantoksError):
        prepare(find_items(tmp_path / "sub-1_bold.nii.gz", reading), tmp_path / "store", spec)


def test_an_npy_that_claims_to_be_large_is_refused(tmp_path, parcellation):
    with (tmp_path / "a.npy").open("wb") as stream:
        header = {"descr": "<f8", "fortran_order": False, "shape": (2**50, 11)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(b"\0" * 99)
    with pytest.raises(SemantoksError):
        signals_of(tmp_path / "a.npy", parcellation)


def test_a_store_s_shards_lie_in_its_folder(tmp_path, store_path):
    path = shutil.copytree(store_path, tmp_path / "store")
    header = json.loads((path / "store.json").read_text())
    (path / "signals-00000.npy").rename(tmp_path / "outside.npy")
    header["shards"][0]["file"] = "../outside.npy"
    (path / "store.json").write_text(json.dumps(header))
    with pytest.raises(SemantoksError, match="must lie in the folder of the store"):
        RecordingStore(path)


def test_a_table_s_files_lie_in_its_folder(tmp_path, parcellation):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.tsv").write_text("a\tb\n1\t2\n")
    rows = pd.DataFrame({"file": ["../secret.tsv"], "subject": ["1"]})
    rows.to_csv(tmp_path / "in" / "table.tsv", sep="\t", index=False)
    with pytest.raises(SemantoksError, match="lists a file outside of"):
        find_items(tmp_path / "in" / "table.tsv", Reading(atlas=parcellation))


@pytest.mark.parametrize("how", ["link", "group", "raw", "virtual", "labels"])
def test_an_hdf5_file_takes_nothing_from_other_files(tmp_path, parcellation, how):
    h5py = pytest.importorskip("h5py")
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["timeseries/x"] = np.ones((2, len(parcellation), 50))
        file["long_subject_id"] = np.array(["1", "2"], dtype=h5py.string_dtype())
    (tmp_path / "raw").write_bytes(b"s" * 2 * len(parcellation) * 50)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if how == "group":
            file["timeseries"] = h5py.ExternalLink(secret, "timeseries")
        elif how == "link":
            file.create_group("timeseries")["x"] = h5py.ExternalLink(secret, "timeseries/x")
        elif how == "raw":
            shape, where = (2, len(parcellation), 50), [(str(tmp_path / "raw"), 0, 2**20)]
            file.create_dataset("timeseries/x", shape, "i1", external=where)
        elif how == "virtual":
            layout = h5py.VirtualLayout((2, len(parcellation), 50), "f8")
            layout[:] = h5py.VirtualSource(secret, "timeseries/x", layout.shape)
            file.create_group("timeseries").create_virtual_dataset("x", layout)
        else:
            file["timeseries/x"] = np.ones((2, len(parcellation), 50))
        if how == "labels":
            file["long_subject_id"] = h5py.ExternalLink(secret, "long_subject_id")
        else:
            file["long_subject_id"] = np.array(["1", "2"], dtype=h5py.string_dtype())
    reading = Reading(atlas=parcellation, roi_names=parcellation.labels, tr=2.0)
    with pytest.raises(InputError, match="takes its values from another file"):
        find_items(tmp_path / "a.h5", reading)


def test_an_hdf5_file_that_claims_to_be_large_is_refused(tmp_path, parcellation):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("timeseries/x", (2, 11, 2**40), "f8", chunks=(1, 1, 99))
        file["long_subject_id"] = np.array(["1", "2"], dtype=h5py.string_dtype())
    reading = Reading(atlas=parcellation, roi_names=parcellation.labels, tr=2.0)
    with pytest.raises(InputError, match="claims 90112 GB in one piece"):
        find_items(tmp_path / "a.h5", reading)
    with h5py.File(tmp_path / "b.mat", "w", userblock_size=512) as file:
        file.create_dataset("signal", (11, 2**40), "f8", chunks=(1, 99))
    (tmp_path / "b.mat").write_bytes(
        b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + (tmp_path / "b.mat").read_bytes()[128:]
    )
    with pytest.raises(InputError, match="claims 90112 GB in one piece"):
        signals_of(tmp_path / "b.mat", parcellation)


def test_archives_of_the_authors_are_not_unpacked_to_disk(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("../../harm", "x")
        archive.writestr("a/data.pkl", "x")
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(CheckpointError):
        load_pretrained(tmp_path / "a.pth")
    assert sorted(tmp_path.parent.rglob("*")) == before


# -- reports and the network -----------------------------------------------------------------------

SCRIPT = "<script>alert(1)</script>"


def test_a_report_escapes_what_comes_from_data(tmp_path, recordings, parcellation, tiny_run):
    from dataclasses import replace

    named = Parcellation(
        name=SCRIPT, labels=parcellation.labels, networks=tuple(parcellation.networks)
    )
    evil = [
        replace(
            r,
            subject=r.subject + SCRIPT,
            site=f"{r.site}{SCRIPT}",
            phenotypes={f"dx{SCRIPT}": r.phenotypes["sex"] + SCRIPT},
        )
        for r in recordings
    ]
    write_store(tmp_path / "evil<script>", evil, named, Preprocessing(tr=2.0))
    config = tiny_run(data__store=str(tmp_path / "evil<script>"), optim__epochs=2)
    Trainer(config, tmp_path / "run<script>").fit()
    write_report(
        tmp_path / "r.html",
        runs=[tmp_path / "run<script>"],
        results=[],
        stores=[tmp_path / "evil<script>"],
    )
    text = (tmp_path / "r.html").read_text()
    assert "<script" not in text.lower()
    assert "&lt;script&gt;" in text


def test_offline_nothing_touches_the_network(tmp_path):
    """HF_HUB_OFFLINE is respected: a model that is not here is an error at once, no connection."""
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__):\n"
        "    print('CONNECTED'); raise OSError('no network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from semantoks import load_pretrained\n"
        "from semantoks.errors import CheckpointError\n"
        "try:\n"
        "    load_pretrained('nobody/nothing')\n"
        "except CheckpointError as error:\n"
        "    print('refused', error)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("refused")
    assert "CONNECTED" not in done.stdout


def test_training_and_embedding_need_no_network(tmp_path, tiny_run, store_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    Trainer(tiny_run(optim__epochs=2), tmp_path / "run").fit()
    write_report(tmp_path / "r.html", runs=[tmp_path / "run"], results=[], stores=[store_path])

"""Stores that were damaged after they were written, and stores that are handed on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from semantoks.data.encode import StoreSpec
from semantoks.data.integrity import check_store, strip_subjects
from semantoks.data.layout import file_sha256
from semantoks.data.store import RecordingStore, StoreWriter, write_store
from semantoks.errors import InputError, StoreError


@pytest.fixture
def copy(store_path, tmp_path):
    """Return a store of several shards that a test may harm."""
    return shutil.copytree(store_path, tmp_path / "store")


def flip(path, at, bit=3):
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def test_a_store_as_it_was_written_has_no_problems(store_path):
    assert len(RecordingStore(store_path).header["shards"]) > 2
    assert check_store(store_path) == []


@pytest.mark.parametrize("name", ["signals-00001.npy", "rois.tsv", "recordings.parquet"])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
def test_a_flipped_bit_is_found_wherever_it_is(copy, name, place):
    flip(copy / name, int(place * (copy / name).stat().st_size))
    (line,) = check_store(copy)
    assert line.startswith(f"{name}: is not what was written (checksum differs)")


def test_the_recordings_of_a_damaged_shard_are_named(copy):
    table = RecordingStore(copy).table
    flip(copy / "signals-00001.npy", -1)
    (copy / "signals-00002.npy").unlink()
    one, two = check_store(copy)
    for line, shard in ((one, 1), (two, 2)):
        ids = [*table["id"][table["shard"] == shard]]
        assert f"it holds {len(ids)} of 13 recordings: {ids[0]}" in line
    assert two.startswith("signals-00002.npy: is missing")
    with pytest.raises(StoreError, match=r"signals-00002.npy: a shard is missing"):
        RecordingStore(copy)


def test_values_that_were_never_finite_are_found(copy):
    """Another program wrote them: the checksums are right."""
    store = RecordingStore(copy)
    row = store.table.iloc[4]
    shard = store.header["shards"][row["shard"]]
    signals = np.load(copy / shard["file"])
    signals[row["start"] + 3, 2] = np.inf
    np.save(copy / shard["file"], signals)
    shard["sha256"] = file_sha256(copy / shard["file"])
    (copy / "store.json").write_text(json.dumps(store.header))
    assert check_store(copy) == [f"values that are not finite in 1 of 13 recordings: {row['id']}"]


def test_a_file_that_does_not_belong_is_named(copy):
    (copy / "signals-00099.npy").touch()
    assert check_store(copy) == ["signals-00099.npy: does not belong to this store"]


def test_two_writers_do_not_harm_each_other(recordings, parcellation, preprocessing, tmp_path):
    """Both begin in an empty folder; the one that is second to write gives up."""
    arguments = (
        tmp_path / "store",
        StoreSpec(parcellation=parcellation, preprocessing=preprocessing),
    )
    with StoreWriter(*arguments, shard_rows=60) as first:
        second = StoreWriter(*arguments, shard_rows=60)
        second.__enter__()
        first.add(recordings[0])
        second.add(recordings[3])
        first.add(recordings[1])  # a shard of the first is on the disk now
        with pytest.raises(StoreError, match="another process is writing a store") as caught:
            second.add(recordings[4])
        second.__exit__(type(caught.value), caught.value, None)
        first.add(recordings[2])
    with pytest.raises(StoreError, match="exists already and is not overwritten"):
        StoreWriter(*arguments).__enter__()
    store = RecordingStore(tmp_path / "store")
    assert list(store.table["id"]) == [r.id for r in recordings[:3]]
    assert check_store(tmp_path / "store") == []


def test_a_reader_during_writing_is_told(recordings, parcellation, preprocessing, tmp_path):
    spec = StoreSpec(parcellation=parcellation, preprocessing=preprocessing)
    with StoreWriter(tmp_path / "s", spec, shard_rows=60) as writer:
        for recording in recordings[:3]:
            writer.add(recording)
        with pytest.raises(StoreError, match="is a half-written store"):
            RecordingStore(tmp_path / "s")
        with pytest.raises(StoreError, match="is a half-written store"):
            check_store(tmp_path / "s")


def test_a_killed_writer_leaves_no_store(tmp_path, store_path):
    """Ends at once, as by kill -9, with one shard written and the next begun."""
    code = (
        "import os, sys\n"
        "from semantoks.data.store import RecordingStore, StoreWriter\n"
        "from semantoks.data.encode import StoreSpec\n"
        "from semantoks.data.recording import Recording\n"
        "old = RecordingStore(sys.argv[1])\n"
        "spec = StoreSpec(parcellation=old.parcellation, preprocessing=old.preprocessing)\n"
        "writer = StoreWriter(sys.argv[2], spec, shard_rows=60)\n"
        "writer.__enter__()\n"
        "for i in range(3):\n"
        "    names, signal = old.parcellation.labels, old.signal(i)\n"
        "    writer.add(Recording(signal=signal, roi_names=names, tr=2.0, subject=str(i)))\n"
        "os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, store_path, tmp_path / "killed"])
    assert done.returncode == 9
    assert list((tmp_path / "killed").glob("signals-*.npy"))
    with pytest.raises(StoreError, match=r"half-written.*Delete the folder and write"):
        RecordingStore(tmp_path / "killed")


# -- handing on ------------------------------------------------------------------------------------


@pytest.fixture
def telling(recordings, parcellation, preprocessing, tmp_path):
    """Return a store whose phenotypes tell the subject, too."""
    named = [
        replace(
            r,
            phenotypes=r.phenotypes
            | {"SUB_ID": f"00{r.subject}", "hospital_number": 7.0 + i, "age": 20.0},
            subject=r.subject.removeprefix("p"),
        )
        for i, r in enumerate(recordings)
    ]
    named = [
        replace(r, phenotypes=r.phenotypes | {"SUB_ID": float(r.subject), "age": 20.5})
        for r in named
    ]
    write_store(tmp_path / "telling", named, parcellation, preprocessing, shard_rows=200)
    return tmp_path / "telling"


def test_stripped_stores_know_nobody(telling, tmp_path):
    old = RecordingStore(telling)
    new = strip_subjects(telling, tmp_path / "new", drop=("hospital_number",))
    assert check_store(tmp_path / "new") == []
    assert new.phenotypes == ("sex", "age"), "a copy of the subject's id goes of itself"
    assert not set(new.table["subject"]) & set(old.table["subject"])
    for i in range(len(old)):
        assert (new.raw(i) == old.raw(i)).all()
        assert new.table["id"][i] == f"sub-{new.table['subject'][i]}_ses-{old.table['session'][i]}"
    groups = [table.groupby("subject", sort=False).ngroup() for table in (old.table, new.table)]
    assert groups[0].equals(groups[1]), "the same person has the same pseudonym"
    kept = [c for c in new.table.columns if c not in ("subject", "id")]
    pd.testing.assert_frame_equal(new.table[kept], old.table[kept])


def test_pseudonyms_follow_the_salt(store_path, store, tmp_path):
    from semantoks.data.recording import subject_key

    one, two, three, four = (
        set(strip_subjects(store_path, tmp_path / name, salt=salt).table["subject"])
        for name, salt in (("1", None), ("2", None), ("3", "s"), ("4", "s"))
    )
    assert three == four
    assert len(one | two | three) == 3 * 10
    assert not one & {subject_key(s) for s in store.table["subject"]}, "nobody can try all names"


def test_what_cannot_be_stripped_is_refused(copy, tmp_path):
    with pytest.raises(InputError, match=r"drop = 'shoes': is no phenotype"):
        strip_subjects(copy, tmp_path / "new", drop=("shoes",))
    with pytest.raises(StoreError, match="exists already"):
        strip_subjects(copy, copy)
    flip(copy / "signals-00001.npy", -1)
    with pytest.raises(StoreError, match="checksum differs"):
        strip_subjects(copy, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["store"]

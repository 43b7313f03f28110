"""Advice about stores, designs, mixtures and commands, followed: the same call gets through."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import trees
from advice import advised
from semantoks.assess.plan import Plan
from semantoks.atlas.channels import TokenRows
from semantoks.atlas.parcellation import Parcellation
from semantoks.commands.main import app
from semantoks.data.designs import AcrossStores, FixedSplit, design_for
from semantoks.data.encode import RoiRules, StoreSpec
from semantoks.data.layout import INDEX, KEPT, file_sha256, read_header
from semantoks.data.mixture import StoreMixture, places
from semantoks.data.reader import RecordingStore
from semantoks.data.shards import Running
from semantoks.data.signal import Preprocessing
from semantoks.data.sources.items import Reading
from semantoks.data.splits import (
    check_column,
    column_values,
    grouped_folds,
    hold_out,
    leave_one_site_out,
    three_parts,
)
from semantoks.data.store import StoreWriter, write_store
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.workflow.describe import describe_path
from semantoks.workflow.evaluate import evaluate_store
from semantoks.workflow.prepare import prepare_store
from semantoks.workflow.slurm import SlurmError, SlurmJob, batch_script, submit


@pytest.fixture
def copy(store_path, tmp_path):
    """A store that may be damaged; `restore` brings it back."""
    return restore(store_path, tmp_path / "copy")


def restore(source, target):
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target)


def rewrite(store, **changes):
    """Change a store's header."""
    file = store / "store.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


RESTORE = "Restore the folder from its source, or write the store again"


def no_rois(store):
    (store / "rois.tsv").unlink()


def no_header(store):
    (store / "store.json").write_text("{")


def no_columns(store):
    pd.read_parquet(store / INDEX).drop(columns="subject").to_parquet(store / INDEX)
    rewrite(store, index_sha256=file_sha256(store / INDEX))


def too_long(store):
    table = pd.read_parquet(store / INDEX)
    table.assign(length=table["length"] + 10**6).to_parquet(store / INDEX)
    rewrite(store, index_sha256=file_sha256(store / INDEX))


def no_shard(store):
    (store / "signals-00001.npy").unlink()


def few_kept(store):
    np.save(store / KEPT, np.ones(3, bool))
    rewrite(store, kept_sha256=file_sha256(store / KEPT))


def test_damaged_stores_are_restored(store_path, copy):
    with advised("data/layout.checked", RESTORE):
        no_rois(copy)
        RecordingStore(copy)
    restore(store_path, copy)
    with advised("data/layout.read_header", RESTORE):
        no_header(copy)
        RecordingStore(copy)
    restore(store_path, copy)
    with advised("data/layout.read_index", RESTORE):
        no_columns(copy)
        RecordingStore(copy)
    restore(store_path, copy)
    with advised("data/reader.__init__", RESTORE):
        too_long(copy)
        RecordingStore(copy)
    restore(store_path, copy)
    with advised("data/reader._map_shards", RESTORE):
        no_shard(copy)
        RecordingStore(copy)
    restore(store_path, copy)
    with advised("data/reader._map_kept", RESTORE):
        few_kept(copy)
        RecordingStore(copy)
    restore(store_path, copy)
    RecordingStore(copy)


def test_folders_that_are_no_stores(tmp_path, copy, recordings, parcellation, preprocessing):
    place, new = "data/layout.read_header", tmp_path / "new"
    with advised(place, "Make a store with `semantoks prepare`"):
        read_header(new)
    new.mkdir()
    with advised(place, "Make one with `semantoks prepare`"):
        read_header(new)
    rewrite(copy, format_version=99)
    with advised(place, "Update semantoks, or write the store again with this version"):
        read_header(copy)
    (copy / "store.json").unlink()
    with advised(place, "Delete the folder and write the store again"):
        read_header(copy)
    shutil.rmtree(copy)
    for path in (new, copy):
        write_store(path, recordings, parcellation, preprocessing)
        read_header(path)


@pytest.fixture
def spec(parcellation, preprocessing):
    return StoreSpec(parcellation=parcellation, preprocessing=preprocessing)


def test_writing_stores(tmp_path, spec, recordings):
    (tmp_path / "file").touch()
    with advised("data/store.__enter__", "Choose another folder"):
        StoreWriter(tmp_path / "file" / "store", spec).__enter__()
    advice = "Tell them apart by session, task or run, or leave one out"
    other = replace(recordings[0], run="2")
    with advised("data/store._check_identity", advice), StoreWriter(tmp_path / "s", spec) as writer:
        for recording in (recordings[0], recordings[0]):
            writer.add(recording)
    with StoreWriter(tmp_path / "s", spec) as writer:
        for recording in (recordings[0], other):
            writer.add(recording)


def test_two_writers_of_one_folder(tmp_path, spec, recordings):
    with StoreWriter(tmp_path / "s", spec, shard_rows=60) as first:
        second = StoreWriter(tmp_path / "s", spec, shard_rows=60)
        second.__enter__()
        first.add(recordings[0])
        second.add(recordings[3])
        first.add(recordings[1])  # a shard of the first is on the disk now
        with advised("data/store._write", "Give every store its own folder"):
            second.add(recordings[4])
    with StoreWriter(tmp_path / "own", spec) as second:
        second.add(recordings[1])
    assert len(RecordingStore(tmp_path / "own")) == 1


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_full_disk(tmp_path, spec, recordings, monkeypatch):
    advice = "Free space or choose another folder; what was written so far is removed again"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with advised("data/store._write", advice):
            write_store(tmp_path / "s", recordings[:2], spec.parcellation, spec.preprocessing)
    for name in ("s", "other"):
        write_store(tmp_path / name, recordings[:2], spec.parcellation, spec.preprocessing)


def test_preparing_again(tmp_path, monkeypatch):
    monkeypatch.setattr("semantoks.workflow.prepare.write_quality_page", lambda _: None)
    study = trees.make_study(n_subjects=2)
    root, reading = trees.xcpd(tmp_path / "xcpd", study), Reading(atlas=study.atlas)

    def prepare(store, shard=None, coverage=0.5):
        return prepare_store(
            str(root),
            store,
            reading=reading,
            rois=RoiRules(min_coverage=coverage),
            running=Running(shard=shard),
        )

    store = tmp_path / "store"
    advice = "Free space and run the same command again: what is done is kept"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with advised("data/shards.write_part", advice):
            prepare(store)
    prepare(store, shard=(1, 2))
    advice = "Use the same settings to finish it, or delete this folder to begin again"
    with advised("data/shards.open_partial", advice):
        prepare(store, coverage=0.7)
    prepare(store)
    other = tmp_path / "other"
    prepare(other, shard=(1, 2))
    shutil.rmtree(tmp_path / "other.partial")
    prepare(other, coverage=0.7)
    advice = "Choose another folder, or delete this one first"
    with advised("data/prepare._existing", advice):
        prepare(store, coverage=0.7)
    prepare(tmp_path / "third", coverage=0.7)
    shutil.rmtree(store)
    prepare(store, coverage=0.7)


# -- splits and designs ----------------------------------------------------------------------------


@pytest.fixture
def table():
    """23 recordings of 20 people at 3 sites."""
    people = np.r_[np.arange(20), np.arange(3)]
    return pd.DataFrame(
        {
            "subject": [f"p{i:02}" for i in people],
            "site": [f"s{i % 3}" for i in people],
            "y": np.array(["a", "b", "b"])[people % 3],
            "part": np.array(["train", "test"])[people % 2],
        }
    )


def test_columns_of_a_table(table):
    with advised("data/splits.check_column", "Did you mean"):
        check_column(table, "sites")
    check_column(table, "site")
    gap = table.assign(site=table["site"].where(table.index != 4))
    with advised("data/splits.column_values", "State the "):
        column_values(gap, "site")
    column_values(table, "site")
    column_values(gap, "subject")


def test_sites_left_out(table):
    place = "data/splits.leave_one_site_out"
    with advised(place, "Known: "):
        leave_one_site_out(table, ["s9"])
    leave_one_site_out(table, ["s2"])
    one = table.assign(site="s0")
    with advised(place, "Group by subject"):
        leave_one_site_out(one)
    assert len(grouped_folds(one, 4, labels=None, seed=0)) == 4


def test_folds_and_classes(table):
    place, few = "data/splits._check_counts", table[:3]
    with advised(place, "Use at most "):
        grouped_folds(few, 4, labels=None, seed=0)
    grouped_folds(few, 3, labels=None, seed=0)
    y = np.where(np.arange(23) < 3, "rare", "often")
    with advised(place, " folds, or merge or leave out the class"):
        grouped_folds(table, 5, labels=y, seed=0)
    grouped_folds(table, 3, labels=y, seed=0)
    y = np.where(np.arange(23) == 5, "rare", "often")
    advice = "Merge the class with another, leave it out, or predict numbers (column:regression)"
    with advised(place, advice):
        grouped_folds(table, 5, labels=y, seed=0)
    grouped_folds(table, 5, labels=np.full(23, "often"), seed=0)
    grouped_folds(table[y == "often"], 5, labels=y[y == "often"], seed=0)
    grouped_folds(table, 5, labels=None, seed=0)


def test_parts_and_held_out_groups(table):
    subjects, y = table["subject"], np.where(table["subject"] == "p05", "rare", "often")
    with advised("data/splits.three_parts", "Leave the class out, or use folds"):
        three_parts(subjects, y, (0.6, 0.2, 0.2), seed=0)
    three_parts(subjects[y == "often"], y[y == "often"], (0.6, 0.2, 0.2), seed=0)
    with advised("data/splits.hold_out", "Train without early stopping"):
        hold_out(["a", "b"], ["x", "y"], 0.5, seed=0)
    hold_out(["a", "b", "c", "d"], ["x", "y", "x", "y"], 0.5, seed=0)


def test_designs(table, store, tmp_path, recordings, parcellation, preprocessing):
    with advised("data/designs.design_for", "Group by site, without repetitions"):
        design_for("subject", ["s1"])
    design_for("site", ["s1"])
    mixed = table.assign(part=["train"] * 20 + ["test"] * 3)
    design = FixedSplit(column="part")
    with advised("data/designs.folds", "Put all recordings of a subject into one part"):
        design.folds(mixed, None, 0)
    design.folds(table, None, 0)
    place = "data/designs._refuse_shared"
    advice = "Leave them out of one store; if they are other people, rename them"
    with advised(place, advice):
        AcrossStores(train=store).table_with(store)
    others = [replace(r, subject=f"q{r.subject}") for r in recordings]
    renamed = write_store(tmp_path / "renamed", others, parcellation, preprocessing)
    AcrossStores(train=store).table_with(renamed)
    half = write_store(tmp_path / "half", recordings[:6], parcellation, preprocessing)
    rest = write_store(tmp_path / "rest", recordings[6:], parcellation, preprocessing)
    AcrossStores(train=half).table_with(rest)
    raw = write_store(tmp_path / "raw", others, parcellation, Preprocessing(tr=2.0, high_hz=None))
    advice = "Prepare both stores with the same parcellation and settings"
    with advised("data/designs.table_with", advice):
        AcrossStores(train=store).table_with(raw)


# -- mixtures --------------------------------------------------------------------------------------


def test_mixtures(tmp_path, store, recordings, parcellation, preprocessing):
    others = [replace(r, subject=f"q{r.subject}") for r in recordings]

    def made(name, atlas=parcellation, steps=preprocessing, columns=slice(None)):
        named = [
            replace(r, roi_names=r.roi_names[columns], signal=r.signal[:, columns]) for r in others
        ]
        return write_store(tmp_path / name, named, atlas, steps)

    same = made(f"a/{store.path.name}")
    with advised("data/mixture.__init__", "Rename its folder"):
        StoreMixture([store, same])
    same.path.rename(tmp_path / "renamed")
    good = RecordingStore(tmp_path / "renamed")
    StoreMixture([store, good])

    networks = tuple(reversed(parcellation.networks))
    moved = made("moved", Parcellation(name="m", labels=parcellation.labels, networks=networks))
    with advised("data/mixture._check_atlas", "Prepare the recordings with one parcellation"):
        StoreMixture([store, moved])

    place = "data/mixture._check_preprocessing"
    other = made("other", steps=replace(preprocessing, low_hz=0.02))
    with advised(place, "Prepare one of them again with the other's settings"):
        StoreMixture([store, other])
    open_band = replace(preprocessing, high_hz=None)
    slow, fast = made("slow", steps=open_band), made("fast", steps=replace(open_band, tr=1.0))
    with advised(place, "Prepare it again at a TR of "):
        StoreMixture([slow, fast])
    StoreMixture([fast, slow])  # put first
    StoreMixture([slow, made("again", steps=open_band)])

    part = parcellation.select(parcellation.labels[:9])
    cut = made("cut", atlas=part, columns=slice(9))
    rows = TokenRows.by_group(parcellation)
    with advised("data/mixture.places", "Prepare the recordings with "):
        places(parcellation, cut, rows)
    named = [replace(r, roi_names=r.roi_names[:9], signal=r.signal[:, :9]) for r in others]
    marked = write_store(
        tmp_path / "marked", named, parcellation, preprocessing, missing_rois="mark"
    )
    assert len(places(parcellation, marked, rows)) == len(parcellation)


# -- commands --------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_commands(tmp_path, store_path, copy):
    with advised("commands/evaluate.report", "Give --run, --result or --store"):
        run("report", tmp_path / "r.html")
    assert run("report", tmp_path / "r.html", "--store", store_path).exit_code == 0
    (copy / "signals-00001.npy").write_bytes(b"damaged")
    advice = "Restore these files from a copy, or make them again"
    with advised("commands/store.check", advice):
        run("check", copy)
    restore(store_path, copy)
    assert run("check", copy).exit_code == 0
    with advised("workflow/describe.describe_path", "Did you mean"):
        describe_path("schaefer40")
    describe_path("schaefer400")


def test_two_models_of_one_name(tmp_path, store_path, monkeypatch):
    for name in ("load_pretrained", "assess", "write_report"):
        monkeypatch.setattr(f"semantoks.workflow.evaluate.{name}", lambda *_, **__: None)
    model = tmp_path / "a" / "model"
    out, plan = tmp_path / "out", Plan(targets=("sex",))
    with advised("workflow/evaluate._named", "Name it: --model NAME=PATH"):
        evaluate_store(store_path, out, models=[model, tmp_path / "b" / "model"], plan=plan)
    evaluate_store(store_path, out, models=[model, f"other={tmp_path}/b/model"], plan=plan)


def test_two_tables_of_one_name(tmp_path, store_path, monkeypatch):
    for name in ("assess", "write_report"):
        monkeypatch.setattr(f"semantoks.workflow.evaluate.{name}", lambda *_, **__: None)
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / "x.tsv")
        subjects = sorted(set(RecordingStore(store_path).table["subject"]))
        pd.DataFrame({"subject": subjects, "v": 1.5}).to_csv(files[-1], sep="\t", index=False)
    out, plan = tmp_path / "out", Plan(targets=("sex",))
    with advised("workflow/evaluate.evaluate_store", "Name it: --features NAME=FILE"):
        evaluate_store(store_path, out, models=[], features=files, plan=plan)
    files[1] = f"y={files[1]}"
    evaluate_store(store_path, out, models=[], features=files, plan=plan)


def test_runs_of_one_configuration(tmp_path, store_path, monkeypatch):
    seen = {}
    store = RecordingStore(store_path)
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    kinds = {"small-1": config, "small-2": config, "deep": replace(config, depth=2)}
    models = {}
    for seed, (name, of) in enumerate(kinds.items()):
        models[name] = Encoder.random(of, store.parcellation, store.preprocessing, seed=seed)
        (tmp_path / name).mkdir()
    load = "semantoks.workflow.evaluate.load_pretrained"
    monkeypatch.setattr(load, lambda path: models[path])
    monkeypatch.setattr("semantoks.workflow.evaluate.assess", lambda *a, **_: seen.update(m=a[2]))
    monkeypatch.setattr("semantoks.workflow.evaluate.write_report", lambda *_, **__: None)
    out, plan = tmp_path / "out", Plan(targets=("sex",))
    monkeypatch.chdir(tmp_path)
    with advised("workflow/evaluate._named", "Put quotes around NAME=PATTERN, and give the path"):
        evaluate_store(store_path, out, models=["small=runs/small-*"], plan=plan)
    evaluate_store(store_path, out, models=["small=small-*"], plan=plan)
    assert [*map(len, seen["m"].values())] == [2]
    advice = "Give models of other configurations another name"
    with advised("workflow/evaluate._replicates", advice):
        evaluate_store(store_path, out, models=["all=[ds]*[p12]"], plan=plan)
    evaluate_store(store_path, out, models=["small=small-*", "deep=deep"], plan=plan)
    assert {name: len(each) for name, each in seen["m"].items()} == {"small": 2, "deep": 1}


def test_jobs_of_a_cluster():
    with advised("workflow/slurm.__post_init__", "Raise --time, or lower --warning"):
        SlurmJob(time="4", warning=300)
    SlurmJob(time="40", warning=300)
    SlurmJob(time="4", warning=100)
    job = SlurmJob(time="8:00:00")
    with advised("workflow/slurm.batch_script", "semantoks slurm [OPTIONS] pretrain RUN [...]"):
        batch_script(["pretrain", "--epochs", "3"], job)
    batch_script(["pretrain", "runs/a", "--epochs", "3"], job)


def sbatch(folder, text):
    """Put a program called sbatch into a folder, and return the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "sbatch").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "sbatch").chmod(0o755)
    return folder


def test_submitting_jobs(tmp_path, monkeypatch):
    script = batch_script(["pretrain", "runs/a"], SlurmJob())
    place = "workflow/slurm.submit"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(SlurmError, match="Submit on a login node of a cluster with Slurm"):
        submit(script)
    sbatch(tmp_path / "bin", 'echo "sbatch: error: not today" >&2; exit 1')
    with pytest.raises(SlurmError, match="Try the script that --print shows with `sbatch"):
        submit(script)
    sbatch(tmp_path / "bin", "echo 4711")
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", full)
        with advised(place, "Submit from a folder that you may write to"):
            submit(script)
    assert submit(script) == "4711"

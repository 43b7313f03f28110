"""Embedding in shards: the same table to the bit, again after a kill, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from advice import advised
from semantoks.commands.main import app
from semantoks.errors import InputError, StoreError
from semantoks.evaluate.features.embed import Embedder
from semantoks.train.trainer import Trainer
from semantoks.workflow import embed_shards as shards
from semantoks.workflow.embed import embed_store


@pytest.fixture(scope="module")
def models(tiny_run, tmp_path_factory):
    """Two models of one architecture."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("one", "two")):
        Trainer(tiny_run(optim__epochs=2, seed=seed), folder / name).fit()
    return folder


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(shards, "_BLOCK", 2)


@pytest.fixture
def embed(models, store_path, tmp_path):
    """Return what embeds into tmp_path/e.parquet, in shards of 3 if asked."""

    def run(shard=None, *, model="one", out="e.parquet", store=store_path, **options):
        target = tmp_path / out
        options = {"n_crops": 3, "device": "cpu"} | options
        return embed_store(models / model, store, target, shard=shard, **options)

    return run


def all_shards(embed, **options):
    for i in (3, 1, 2):
        embed((i, 3), **options)


@pytest.mark.parametrize("ending", ["parquet", "tsv"])
def test_shards_make_the_same_table_to_the_bit(embed, tmp_path, store, ending, monkeypatch):
    whole = embed(out=f"whole.{ending}")
    out = f"e.{ending}"
    parts = [embed((i, 3), out=out) for i in (1, 3, 2)]
    assert [len(part) for part in parts] == [5, 4, 4]
    assert parts[1]["id"].tolist() == store.table["id"][2::3].tolist()
    assert not (tmp_path / out).exists()
    monkeypatch.setattr(Embedder, "transform", None)  # all is done, also for a shard run again
    embed((2, 3), out=out)
    merged = embed(out=out)
    assert merged.equals(whole)
    assert (tmp_path / out).read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert not (tmp_path / f"{out}.partial").exists()


def test_a_killed_shard_goes_on_where_it_was(embed, monkeypatch):
    whole = embed(out="whole.csv")
    real, embedded = Embedder.transform, []

    def dies(self, X):
        if len(embedded) == 2:
            raise KeyboardInterrupt
        embedded.append(list(X.table["id"]))
        return real(self, X)

    monkeypatch.setattr(Embedder, "transform", dies)
    with pytest.raises(KeyboardInterrupt):
        embed((1, 3))
    first, embedded[:] = list(embedded), []
    embed((1, 3))
    assert [len(ids) for ids in [*first, *embedded]] == [2, 2, 1]
    monkeypatch.undo()
    monkeypatch.setattr(shards, "_BLOCK", 2)
    embed((2, 3))
    embed((3, 3))
    assert embed().equals(whole)


def test_missing_shards_are_named(embed, tmp_path):
    with pytest.raises(InputError, match=r"shard = '4/3': must be i/n with 1 <= i <= n"):
        embed((4, 3))
    assert not list(tmp_path.iterdir())
    embed((2, 3))
    message = r"2 of 3 shards are missing or not finished: 1/3, 3/3"
    with (
        pytest.raises(StoreError, match=message),
        advised("workflow/embed_shards.merge_shards", "Run them, --shard ", raised=True),
    ):
        embed()
    all_shards(embed)
    (tmp_path / "e.parquet.partial" / "shard-3-of-3-block-1.npz").unlink()
    with pytest.raises(StoreError, match=r"1 of 3 .*: 3/3\. Run them, --shard 3/3 first, then"):
        embed()
    assert not (tmp_path / "e.parquet").exists()
    embed((3, 3))
    embed()


@pytest.mark.parametrize(
    ("shard", "options", "named"),
    [
        ((1, 3), {"model": "two"}, "model"),
        ((1, 3), {"n_crops": 4}, "crops"),
        ((1, 3), {"precision": "low"}, "precision"),
        ((1, 4), {}, "shards"),
        (None, {"model": "two"}, "model"),
        (None, {"n_crops": 4, "precision": "low"}, "crops, precision"),
    ],
)
def test_shards_of_something_else_are_refused_at_the_door(embed, shard, options, named):
    all_shards(embed)
    with pytest.raises(StoreError, match=rf"was begun with other settings \({named}\)"):
        embed(shard, **options)
    assert len(embed()) == 13


def test_another_store_and_an_engine_that_may_differ_are_refused(embed, tmp_path, store_path):
    embed((1, 3))
    other = tmp_path / "other"
    shutil.copytree(store_path, other)
    header = json.loads((other / "store.json").read_text())
    header["provenance"] = {"source": "elsewhere"}
    (other / "store.json").write_text(json.dumps(header))
    with pytest.raises(StoreError, match=r"other settings \(store\)"):
        embed((2, 3), store=other)
    with (
        pytest.raises(InputError, match=r"engine = 'auto'.*Name one"),
        advised("workflow/embed._made_from", "Name one: torch, onnx or openvino", raised=True),
    ):
        embed((2, 3), engine="auto")
    embed((2, 3), engine="torch")


def test_files_from_elsewhere_are_named(embed, tmp_path):
    all_shards(embed)
    all_shards(embed, model="two", out="other.parquet")
    mine, others = (tmp_path / f"{name}.parquet.partial" for name in ("e", "other"))
    copy = mine / "shard-1-of-3-block-0 (copy).npz"
    shutil.copy(mine / "shard-1-of-3-block-0.npz", copy)
    place = "workflow/embed_shards.merge_shards"
    with (
        pytest.raises(StoreError, match=r"none of the 3 shards: shard-1-of-3-block-0 \(copy\)"),
        advised(place, "Take it out of the folder", raised=True),
    ):
        embed()
    copy.unlink()
    name = "shard-2-of-3-block-1.npz"
    shutil.copy(others / name, mine / name)
    (mine / "shard-3-of-3-block-0.npz").write_bytes(b"half")
    with (
        pytest.raises(StoreError, match=rf"damaged ones: {name}, shard-3-of-3-block-0\.npz"),
        advised(place, "Delete these files and run their shards again", raised=True),
    ):
        embed()
    for file in (mine / name, mine / "shard-3-of-3-block-0.npz"):
        file.unlink()
    all_shards(embed)  # puts both right
    expected = embed(out="whole.parquet")
    assert embed().equals(expected)


def test_the_command_line_embeds_in_shards(models, store_path, tmp_path):
    out = tmp_path / "e.csv"
    command = ["embed", str(models / "one"), str(store_path), str(out), "--device", "cpu"]
    said = [CliRunner().invoke(app, [*command, "--shard", f"{i}/2"]).output for i in (1, 2)]
    assert "7 recordings embedded: shard 1/2" in " ".join(said[0].split())
    assert "6 recordings embedded: shard 2/2" in " ".join(said[1].split())
    done = CliRunner().invoke(app, command)
    assert "13 recordings embedded" in done.output
    values = np.genfromtxt(out, delimiter=",", skip_header=1)
    assert values.shape == (13, 4 + 32)

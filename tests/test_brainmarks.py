"""`Encoder.prepare`, and the plugin for Brainmarks run by their own tests and their own probe."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
import torch

from advice import advised
from semantoks.atlas.parcellation import Parcellation
from semantoks.data.signal import Preprocessing
from semantoks.data.sources.find import find_items
from semantoks.data.sources.items import Reading
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.features.crops import even_crops, sources
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.workflow.prepare import prepare_store

# -- prepare ---------------------------------------------------------------------------------------


@pytest.fixture
def encoder(parcellation, preprocessing):
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    return Encoder.random(config, parcellation, preprocessing, seed=2).eval()


def noise(n_times):
    return np.random.default_rng(n_times).standard_normal((n_times, 11)) * 4 + 100


def test_a_long_recording_gives_its_middle(encoder):
    signal = noise(65)
    view, mask = encoder.prepare(signal, tr=2.0)
    (source,) = sources(encoder, [signal], tr=2.0)
    assert torch.equal(view, torch.from_numpy(source.signal[20:44].T))
    assert (view.shape, view.dtype, mask.shape, mask.any().item()) == ((11, 24), torch.float32,
                                                                      (3, 4), False)  # fmt: skip
    again, _ = encoder.prepare(torch.from_numpy(signal * 3 - 7), tr=2.0)  # any mean and scale
    torch.testing.assert_close(again, view, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n_times", "lost"), [(24, 0), (19, 0), (18, 1), (8, 2), (5, 3), (2, 3)])
def test_a_short_recording_is_padded_and_masked(encoder, n_times, lost):
    view, mask = encoder.prepare(noise(n_times), tr=2.0)
    assert (view[:, n_times:] == 0).all()
    assert mask.sum(dim=1).tolist() == [lost] * 3
    assert torch.isfinite(encoder(view[None], mask[None]).cls_avg).all()


def test_prepared_views_are_those_of_the_embedder(encoder):
    signal = noise(20)
    view, mask = encoder.prepare(signal, tr=2.0)
    (source,) = sources(encoder, [signal], tr=2.0)
    views, missing = even_crops(encoder, source, 1)
    assert torch.equal(views[0], view)
    assert torch.equal(missing[0], mask)


def test_the_tr_is_that_of_the_training_data(encoder):
    view, mask = encoder.prepare(noise(24), tr=1.0)  # 12 time points at a TR of 2 s
    assert (view[:, 12:] == 0).all()
    assert mask.sum(dim=1).tolist() == [2] * 3


def test_what_is_no_recording_is_refused(encoder):
    for signal in (noise(24).T, noise(24)[None], noise(24)[:, :5]):
        with pytest.raises(InputError, match=r"must have the shape \(n_times, 11 ROIs\).*toy11"):
            encoder.prepare(signal, tr=2.0)
    spoilt = noise(24)
    spoilt[3, 4] = np.nan
    with pytest.raises(InputError, match="not finite"):
        encoder.prepare(spoilt, tr=2.0)
    with pytest.raises(InputError, match="milliseconds"):
        encoder.prepare(noise(24), tr=2000.0)


# -- their data sets ------------------------------------------------------------------------------


def write_stream(file, recordings, n_batches=1, **extra):
    """Write recordings as Arrow streams of `datasets` are: nested lists, several batches."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, one in enumerate(recordings):
        mean, std = one.signal.mean(0, keepdims=True), one.signal.std(0, keepdims=True)
        rows.append({"sub": one.subject, "ses": one.session, "tr": one.tr, "age": 20.5 + i,
                     "bold": ((one.signal - mean) / std).tolist(), "mean": mean.tolist(),
                     "std": std.tolist(), **extra})  # fmt: skip
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=-(-len(rows) // n_batches))


def test_prepare_reads_their_data_sets(tmp_path, recordings, parcellation, store):
    folder = tmp_path / "toy.space.arrow"
    write_stream(folder / "train" / "data-00000-of-00001.arrow", recordings[:9], n_batches=3)
    write_stream(folder / "test" / "data-00000-of-00001.arrow", recordings[9:])
    reading = Reading(atlas=parcellation, roi_names=parcellation.labels)
    found = {item.id: item for item in find_items(folder, reading)}
    assert len(found) == 13
    for one in recordings:
        item = found[f"sub-{one.subject}_ses-{one.session}"]
        again = item.load()
        np.testing.assert_allclose(again.signal, one.signal, rtol=1e-9, atol=1e-9)
        assert (again.subject, again.session, again.tr) == (one.subject, one.session, 2.0)
    assert [found[id_].facts["part"] for id_ in found].count("test") == 4
    out = tmp_path / "store"
    prepare_store(str(folder), out, reading=reading, preprocessing=store.preprocessing)
    made = RecordingStore(out)
    assert sorted(made.table["id"]) == sorted(found)
    for i, name in enumerate(made.table["id"]):
        j = list(store.table["id"]).index(name)
        np.testing.assert_allclose(made.signal(i), store.signal(j), atol=2e-2)
    assert set(made.table["part"]) == {"train", "test"}


def test_their_data_sets_without_names_or_whole_columns(tmp_path, recordings, parcellation):
    folder = tmp_path / "toy.space.arrow"
    file = folder / "data-00000-of-00001.arrow"
    write_stream(file, recordings[:2])
    with (
        advised("data/sources/arrow.arrow_items", "Give the names in the order", raised=True),
        pytest.raises(InputError, match="does not name its ROIs"),
    ):
        find_items(folder, Reading(atlas=parcellation))
    reading = Reading(atlas=parcellation, roi_names=parcellation.labels)
    assert len(find_items(folder, reading)) == 2
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="arrow"):
        [item.load() for item in find_items(folder, reading)]
    file.write_bytes(b"no arrow at all")
    with pytest.raises(InputError, match="arrow"):
        find_items(folder, reading)
    with pa.OSFile(str(file), "wb") as sink:
        table = pa.table({"sub": ["a"], "text": ["b"]})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(InputError, match="has no column bold"):
        find_items(folder, reading)


# -- the plugin ------------------------------------------------------------------------------------


@pytest.fixture
def brainmarks(tmp_path, monkeypatch):
    """Their package, with a model of Schaefer's 400 parcels in the variable of the plugin."""
    pytest.importorskip("brainmarks.models.registry")
    if find_spec("cortex") is None:  # draws their flat maps
        monkeypatch.setitem(sys.modules, "cortex", ModuleType("cortex"))
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=10, n_patches=3)
    channels = Parcellation.load("schaefer400-17n")
    encoder = Encoder.random(config, channels, Preprocessing(tr=1.0), seed=1)
    folder = encoder.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("SEMANTOKS_MODEL", str(folder))
    monkeypatch.setenv("ABIDE_ROOT", str(tmp_path / "abide"))
    return tmp_path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n_samples", [16, 160])
@pytest.mark.usefixtures("brainmarks")
def test_their_test_of_models_passes(n_samples):
    from brainmarks.models.test_models import test_model

    test_model("semantoks", n_samples)


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_other_rois_is_refused(brainmarks, encoder):
    from brainmarks.models.registry import create_model

    folder = encoder.save_pretrained(brainmarks / "other")
    with pytest.raises(InputError, match=r"parcellation = 'toy11': must have the ROIs, by name"):
        create_model("semantoks", ckpt_path=str(folder))


def write_data_set(root):
    """Write a data set as theirs: Arrow streams in a folder per split, targets in JSON."""
    from datasets.arrow_writer import ArrowWriter

    rng = np.random.default_rng(3)
    targets = {}
    for split, n in {"train": 24, "validation": 8, "test": 10}.items():
        folder = root / "abide.schaefer400.arrow" / split
        folder.mkdir(parents=True)
        with ArrowWriter(path=str(folder / "data-00000-of-00001.arrow")) as writer:
            for i in range(n):
                sub = f"{split}{i}"
                targets[sub] = ("F", "M")[i % 2]
                bold = rng.standard_normal((30 + i, 400)).astype(np.float32)
                if i % 2:  # one wave in all ROIs
                    bold += 3 * np.sin(0.3 * np.arange(len(bold)))[:, None]
                mean, std = bold.mean(0, keepdims=True), bold.std(0, keepdims=True)
                writer.write({"sub": sub, "bold": (bold - mean) / std, "mean": mean, "std": std,
                              "tr": 1.0})  # fmt: skip
            writer.finalize()
    (root / "targets").mkdir()
    (root / "targets" / "abide_target_map_sex.json").write_text(json.dumps(targets))


@pytest.mark.filterwarnings("ignore")
def test_their_logistic_probe_runs_from_end_to_end(brainmarks, monkeypatch):
    main_logistic = pytest.importorskip("brainmarks.main_logistic")
    import brainmarks.datasets.abide as abide
    import pandas as pd
    from omegaconf import OmegaConf

    root = brainmarks / "abide"
    write_data_set(root)
    own, ours = (Parcellation.load(name) for name in ("schaefer400-17n", "schaefer400"))
    found = find_items(root / "abide.schaefer400.arrow", Reading(atlas=ours, roi_names=own.labels))
    assert len(found) == 42
    assert found[0].load().signal.shape == (30, 400)  # the first of the test part
    monkeypatch.setattr(abide, "ABIDE_ROOT", str(root))  # read when it was imported
    cfg = OmegaConf.load(main_logistic.DEFAULT_CONFIG)
    cfg.model, cfg.representation, cfg.dataset = "semantoks", "reg", "abide_sex"
    cfg.update({"num_workers": 1, "device": "cpu", "n_trials": 0, "batch_size": 4, "amp": False})
    cfg.output_root, cfg.dataset_kwargs = str(brainmarks / "out"), {
        "cache_dir": str(brainmarks / "cache")
    }  # fmt: skip
    main_logistic.main(cfg)
    (table,) = (brainmarks / "out").rglob("eval_table.csv")
    scores = pd.read_csv(table).set_index("split")
    assert scores.loc["test", "acc"] > 0.8

"""The recipes of docs/extending.md: each runs as it is printed, and what it registers is used."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

from semantoks.assess.assessment import assess
from semantoks.assess.parts.table import PARTS
from semantoks.assess.plan import Plan
from semantoks.data.designs import GroupedKFold
from semantoks.data.signal import Preprocessing
from semantoks.data.sources.items import Reading
from semantoks.data.sources.series import SERIES
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.features.baselines import BASELINES
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.embed import Embedder
from semantoks.model.encoder import Encoder
from semantoks.model.pretrained import load_pretrained
from semantoks.model.tokenizers.registry import TOKENIZERS
from semantoks.objectives.registry import OBJECTIVES
from semantoks.report.methods import methods_paragraph
from semantoks.report.page import write_report
from semantoks.train.run import RunConfig
from semantoks.train.trainer import Trainer
from semantoks.views.masks import MASKS, MaskConfig, draw_masks
from semantoks.workflow.prepare import prepare_store

pytestmark = pytest.mark.clone
PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
TABLES = (BASELINES, MASKS, OBJECTIVES, PARTS, SERIES, TOKENIZERS)
PLAN = Plan(targets=(Target("sex"),), design=GroupedKFold(n_folds=2), n_bootstrap=20)


def recipes() -> dict[str, str]:
    """Return the code below every heading, by the heading."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for section in sections:
        (code,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        found[section.partition("\n")[0]] = code
    return found


@pytest.fixture
def run_recipe(monkeypatch):
    """Return what runs a recipe as a module; the tables are as before when the test ends."""
    before = [dict(table) for table in TABLES]

    def run(heading: str) -> ModuleType:
        module = ModuleType(f"recipe_{heading.lower().replace(' ', '_')}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(recipes()[heading], f"{PAGE.name}: {heading}", "exec"), vars(module))
        return module

    yield run
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)


def silent(_):
    pass


def test_every_recipe_is_tested():
    tested = re.findall(r'run_recipe\("(.+?)"\)', Path(__file__).read_text(encoding="utf-8"))
    assert sorted(tested) == sorted(recipes())


@pytest.mark.parametrize("heading", ["Mask", "Tokenizer"])
def test_the_command_line_knows_the_key(run_recipe, heading):
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    (change,) = re.findall(r"`semantoks pretrain RUN --store STORE (\S+)`", section)[:1]
    with pytest.raises(InputError):
        RunConfig.load(overrides=[change])
    run_recipe(heading)
    assert change.split("=")[1] in RunConfig.load(overrides=[change]).to_yaml()


def test_a_baseline(run_recipe, store, tmp_path):
    module = run_recipe("Baseline")
    plan = replace(PLAN, baselines=("global-fc",))
    found = assess(store, tmp_path / "out", {}, plan, parts=(), say=silent)
    assert "global connectivity" in set(found.comparison.scores["model"])
    assert (
        "global brain connectivity (mean absolute correlation of every region with all others; "
        "Cole et al., 2010)" in methods_paragraph(found)
    )
    # As many times as there are other ROIs, it is the sum over the pairs that a ROI is part of.
    baseline = module.GlobalConnectivity().fit(store)
    assert baseline.get_feature_names_out().tolist() == [*store.parcellation.labels]
    pairs = np.tanh(ConnectivityBaseline().fit(store).transform(store))
    np.testing.assert_allclose(
        10 * baseline.transform(store).sum(axis=1), 2 * abs(pairs).sum(axis=1), rtol=1e-4
    )


def test_a_part(run_recipe, store, tmp_path):
    run_recipe("Part of the evaluation")
    found = assess(store, tmp_path / "out", {}, PLAN, parts=("length",), say=silent)
    assert not found.why_not
    scores = found.parts["length"].tables["scores"]
    assert set(scores["group"]) == {"lowest third", "middle third", "highest third"}
    people = scores.drop_duplicates("group")["n_subjects"]
    assert people.sum() == 10
    write_report(tmp_path / "report.html", results=[tmp_path / "out"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h3>Scan length</h3>" in page
    assert "middle third" in page
    assert "we computed scores within thirds of scan length." in page


def test_a_source_format(run_recipe, parcellation, recordings, tmp_path):
    run_recipe("Source format")
    turned = [*parcellation.labels[::-1]]
    table = ["file\tsubject\ttr"]
    for i, recording in enumerate(recordings[:3]):
        frame = pd.DataFrame(recording.signal, columns=recording.roi_names)
        frame[turned].to_parquet(tmp_path / f"{i}.parquet")
        table.append(f"{i}.parquet\t{i}\t2.0")
    (tmp_path / "files.tsv").write_text("\n".join(table) + "\n", encoding="utf-8")
    plain = Preprocessing(tr=2.0, detrend=False, low_hz=None, high_hz=None, zscore=True)
    reading = Reading(atlas=parcellation)
    prepare_store(str(tmp_path / "files.tsv"), tmp_path / "s", reading=reading, preprocessing=plain)
    store = RecordingStore(tmp_path / "s")
    assert len(store) == 3
    for i, recording in enumerate(recordings[:3]):
        signal = np.asarray(recording.signal)
        expected = (signal - signal.mean(axis=0)) / signal.std(axis=0)
        np.testing.assert_allclose(store.signal(i), expected, rtol=2e-3, atol=2e-3)
    (tmp_path / "0.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"0\.parquet: is not a Parquet table of numbers"):
        SERIES[".parquet"](tmp_path / "0.parquet", reading)


def test_a_mask(run_recipe, tiny_run, tmp_path):
    run_recipe("Mask")
    config = MaskConfig(kind="staggered", frequency=1.0, ratio_min=0.4, ratio_max=0.7)
    masks = draw_masks(50, 5, 8, config, torch.Generator().manual_seed(2))
    assert masks.shape == (50, 5, 8)
    n_hidden = masks.sum(dim=2)
    assert set(n_hidden.unique().tolist()) == {3, 4, 5}  # ceil(8 r) - 1, r from 0.4 to 0.7
    borders = (masks[..., 1:] != masks[..., :-1]).sum(dim=2) + masks[..., [0, -1]].sum(dim=2)
    assert (borders == 2).all(), "a run"
    assert (masks != masks[:, :1]).any(dim=2)[:, 1:].float().mean() > 0.5, "not one for all"
    with pytest.raises(InputError, match="staggered masks need at least 2 patches"):
        config.check_grid(5, 1)
    run = tiny_run(views={"masks": {"kind": "staggered", "frequency": 1.0}})
    trainer = Trainer(run, tmp_path / "run")
    trainer.fit()
    assert trainer.step == trainer.n_steps


def test_an_objective(run_recipe, tiny_run, tmp_path):
    module = run_recipe("Objective")
    config = tiny_run(optim__base_lr=0.5, optim__epochs=6, train__precision="float64")
    config = replace(config, objective=module.SimSiamConfig(predictor_width=7))
    trainer = Trainer(config, tmp_path / "run")
    trainer.fit()
    loss = pd.read_json(tmp_path / "run" / "metrics.jsonl", lines=True)["loss_prediction"]
    assert loss.iloc[-1] < loss.iloc[0] - 0.2, "it learned"
    x = torch.randn(2, 11, 24, generator=torch.Generator().manual_seed(3))
    trained = trainer.objective.encoder().eval()(x.double()).cls_avg
    loaded = load_pretrained(tmp_path / "run")(x).cls_avg
    torch.testing.assert_close(loaded.double(), trained, rtol=1e-4, atol=1e-5)
    parts = replace(config, train=replace(config.train, accumulate=2))
    Trainer(parts, tmp_path / "parts").fit()
    again = pd.read_json(tmp_path / "parts" / "metrics.jsonl", lines=True)["loss_prediction"]
    np.testing.assert_allclose(again, loss, rtol=1e-9, err_msg="in two parts")
    # The embeddings of the other view, in any length, are predicted perfectly.
    embedding = torch.randn(2, 5, 16, requires_grad=True)
    prediction = (3 * embedding.detach().flip(0)).requires_grad_()
    losses = trainer.objective.loss(module.Predicted(embedding, prediction), None, None)
    losses.total.backward()
    assert losses.total.item() == pytest.approx(-1, abs=1e-6)
    assert prediction.grad is not None
    assert embedding.grad is None


def test_a_tokenizer(run_recipe, tiny_run, store, tmp_path):
    module = run_recipe("Tokenizer")
    config = tiny_run(encoder__granularity="means")
    Trainer(config, tmp_path / "run").fit()
    encoder = load_pretrained(tmp_path / "run")
    assert isinstance(encoder.tokenizer, module.MeanTokenizer)
    start = Encoder.random(
        config.encoder, store.parcellation, store.preprocessing, seed=config.seed
    )
    learned, at_first = (e.tokenizer.projection.weight for e in (encoder, start))
    assert not np.array_equal(learned.detach(), at_first.detach())
    embedded = Embedder(encoder, n_crops=2).fit(store).transform(store)
    assert embedded.shape == (13, 32)
    assert np.isfinite(embedded).all()

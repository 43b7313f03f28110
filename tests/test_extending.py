"""The recipes of docs/extending.md: each runs as it is printed, and what it registers is used."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

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
from semantoks.report.methods import methods_paragraph
from semantoks.report.page import write_report
from semantoks.train.trainer import Trainer
from semantoks.workflow.prepare import prepare_store

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
TABLES = (BASELINES, PARTS, SERIES, TOKENIZERS)
PLAN = Plan(
    targets=(Target("sex"),), design=GroupedKFold(n_folds=2), n_bootstrap=20, n_permutations=19
)


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


def test_a_baseline(run_recipe, store, tmp_path):
    module = run_recipe("Baseline")
    plan = Plan(**vars(PLAN) | {"baselines": ("global-fc",)})
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

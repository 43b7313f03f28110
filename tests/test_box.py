"""The model in the box: offline, small, and blind to the people of the shipped sample."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from semantoks import Embedder, load_pretrained
from semantoks.datasets import ABIDE_SAMPLE_SITES, load_abide_sample
from semantoks.errors import CheckpointError
from semantoks.model.pretrained import DEFAULT_MODEL, INCLUDED, WEIGHTS, convert
from semantoks.model.readout import part_sizes

FOLDER = INCLUDED / DEFAULT_MODEL


@pytest.fixture(scope="module")
def sample():
    return load_abide_sample()[::40]


def test_it_is_small_and_brings_card_and_licence():
    size = sum(file.stat().st_size for file in FOLDER.iterdir())
    assert size <= 20e6
    assert "NonCommercial-ShareAlike 3.0" in (FOLDER / "LICENSE").read_text(encoding="utf-8")
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for said in ("CC BY-NC-SA 3.0", "KKI", "semantoks pretrain", "not good for", "CC200"):
        assert said in card, said
    assert hashlib.sha256((FOLDER / WEIGHTS).read_bytes()).hexdigest()[:16] in card


def test_it_has_not_seen_the_sites_of_the_sample():
    seen = load_pretrained().pretraining
    assert not {*ABIDE_SAMPLE_SITES} & set(seen.sites)
    assert seen.n_subjects == 651


def test_it_embeds_without_an_argument(sample):
    trs = {recording.tr for recording in sample}
    assert len(trs) > 1, "several TRs"
    found = [Embedder(tr=r.tr).fit_transform([r.signal])[0] for r in sample]
    assert np.shape(found) == (len(sample), 22404)
    assert np.isfinite(found).all()
    compact = [
        Embedder(tr=r.tr, parts=("mean", "cls")).fit_transform([r.signal])[0] for r in sample
    ]
    assert np.shape(compact) == (len(sample), 512)
    between = np.corrcoef(compact)[np.triu_indices(len(sample), 1)]
    assert between.max() < 0.9, "people differ"
    sizes = part_sizes(load_pretrained())
    assert sizes == {"mean": 256, "cls": 256, "tokens": 2304, "spectral": 20100}


def test_halves_of_one_scan_are_closer_than_people(sample):
    def halves(r):
        middle = len(r.signal) // 2
        return Embedder(tr=r.tr, parts=("cls",)).fit_transform(
            [r.signal[:middle], r.signal[middle:]]
        )

    first, second = np.swapaxes([halves(r) for r in sample], 0, 1)
    similar = np.corrcoef(first, second)[: len(sample), len(sample) :]
    assert (similar.argmax(axis=1) == np.arange(len(sample))).all()


def test_a_compact_copy_keeps_the_encoder_alone(tmp_path):
    made = convert(DEFAULT_MODEL, tmp_path / "again", compact=True)
    assert (made / WEIGHTS).read_bytes() == (FOLDER / WEIGHTS).read_bytes()
    assert json.loads((made / "config.json").read_text())["roles"] == ["online"]
    with pytest.raises(CheckpointError, match="Name a folder"):
        convert(DEFAULT_MODEL, tmp_path / "again.pth", compact=True)

"""Recordings sampled from a model that predicts the next patch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from semantoks.commands.main import app
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.checks.generation import (
    Innovations,
    connectivity,
    distances,
    measure,
    sample,
    spectrum,
)
from semantoks.model.crops import Source
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.pretrained import save_model
from semantoks.objectives.autoregressive import NextPatch, load_next_patch
from semantoks.workflow.generate import generate_recordings

CONFIG = EncoderConfig(
    width=16, depth=1, head_width=8, patch_length=6, n_patches=4, attention="causal"
)


@pytest.fixture
def model(parcellation, preprocessing) -> NextPatch:
    """Return a model that predicts a constant of 0.25 whatever came before."""
    torch.manual_seed(3)
    made = NextPatch(Encoder.random(CONFIG, parcellation, preprocessing, seed=0)).eval()
    for one in made.head.maps:
        torch.nn.init.zeros_(one.weight)
        torch.nn.init.constant_(one.bias, 0.25)
    return made.requires_grad_(False)


def test_innovations_have_the_covariance_of_the_residuals(model):
    """Of signals 0.25 + S^1/2 Z U^1/2, S and U known."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((11, 11)) / 3
    smooth = np.linalg.cholesky(0.8 ** abs(np.subtract.outer(np.arange(6), np.arange(6))))
    sources = []
    for i in range(150):
        patches = [mixing @ rng.standard_normal((11, 6)) @ smooth.T for _ in range(4)]
        signal = 0.25 + np.concatenate(patches, axis=1).T.astype(np.float32)
        here = np.ones(24, dtype=bool)
        sources.append(Source(str(i), signal, np.zeros(3, dtype=bool), here))
    found = measure(model, sources)
    order = np.concatenate(model.encoder.rows.channels)
    channels = (found.channels @ found.channels.T).numpy()
    expected = (mixing @ mixing.T)[np.ix_(order, order)]
    np.testing.assert_allclose(channels, expected, atol=0.12 * expected.max())
    times = (found.times @ found.times.T).numpy()
    np.testing.assert_allclose(times, smooth @ smooth.T, atol=0.08)
    assert times.trace() == pytest.approx(6, rel=1e-4)
    assert found.prompts.shape == (150, 11, 6)


def test_samples_are_the_prediction_and_innovations(model):
    rng = np.random.default_rng(1)
    root = rng.standard_normal((11, 11))
    channels = torch.from_numpy(root @ root.T / 11).float()
    innovations = Innovations(channels, torch.eye(6), torch.full((5, 11, 6), 99.0))
    x = sample(model, innovations, n_recordings=40, n_times=50, seed=2)
    assert x.shape == (40, 50, 11)
    assert abs(x).max() < 30, "nothing of the first patch is left"
    assert x.mean() == pytest.approx(0.25, abs=0.1)
    order = np.concatenate(model.encoder.rows.channels)
    found = np.cov(x.reshape(-1, 11)[:, order].T)
    expected = (channels @ channels.T).numpy()
    np.testing.assert_allclose(found, expected, atol=0.15 * expected.max())
    assert np.array_equal(x, sample(model, innovations, n_recordings=40, n_times=50, seed=2))
    assert not np.array_equal(x, sample(model, innovations, n_recordings=40, n_times=50, seed=3))


def test_the_mean_follows_from_what_came_before(parcellation, preprocessing):
    """Without innovations a recording is the model's own forecast, view by view."""
    model = NextPatch(Encoder.random(CONFIG, parcellation, preprocessing, seed=0)).eval()
    prompts = torch.randn(1, 11, 6, generator=torch.Generator().manual_seed(0))
    none = Innovations(torch.zeros(11, 11), torch.eye(6), prompts)
    found = sample(model, none, n_recordings=1, n_times=9, seed=0)[0]
    x, order = prompts, np.concatenate(model.encoder.rows.channels)
    with torch.no_grad():
        for _ in range(6):
            coming = torch.zeros(1, 11, 6)
            coming[:, order] = model.predict(x[:, :, -24:], None)[0][:, :, -1]
            x = torch.cat([x, coming], dim=2)
    np.testing.assert_allclose(found, x[0, :, -9:].T, rtol=1e-5, atol=1e-6)


def test_distances_are_computed_by_hand():
    """A sine of 0.05 Hz and one of 0.1 Hz share no power; opposite couplings correlate with -1."""
    time = np.arange(160) * 2.0
    rng = np.random.default_rng(0)

    def recording(hertz, weights):
        wave = np.sin(2 * np.pi * hertz * time)[:, None]
        return wave * weights + 0.01 * rng.standard_normal((160, 3))

    hertz, power = spectrum([recording(0.0625, np.ones(3))], 2.0, size=64)
    assert hertz[power.argmax()] == pytest.approx(0.0625)
    assert power.sum() == pytest.approx(1)
    edges = connectivity([recording(0.05, np.array([1, 1, -1]))])
    np.testing.assert_allclose(edges, [0.999, -0.999, -0.999], atol=1e-3)
    groups = {
        "a": [recording(0.03125, np.array([1, 1, -1]))] * 2,
        "b": [recording(0.125, np.array([1, -1, -1]))],
        "c": [recording(0.125, np.array([1, -1, -1]))],
    }
    table, found = distances(groups, 2.0)
    assert table["spectrum_distance"].tolist() == pytest.approx([1, 0], abs=0.02)
    assert table["connectivity_correlation"].iloc[1] == pytest.approx(1, abs=1e-3)
    assert table["connectivity_correlation"].iloc[0] == pytest.approx(-0.5, abs=1e-2)
    # Edges (0,1), (0,2), (1,2): 1, -1, -1 and -1, -1, 1.
    assert table["connectivity_difference"].iloc[0] == pytest.approx(4 / 3, abs=1e-2)
    assert list(found) == ["a", "b", "c"]


def saved(model, folder):
    folder.mkdir()
    weights = {f"online.{k}": v for k, v in model.state_dict().items()}
    save_model(folder, weights, model.encoder, roles=("online",))
    return folder


def test_the_command_writes_recordings_and_their_comparison(model, store_path, tmp_path):
    path = saved(model, tmp_path / "model")
    again = load_next_patch(path)
    assert torch.equal(again.head.maps[1].bias, model.head.maps[1].bias)
    arguments = ["generate", str(path), str(store_path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--n-recordings", "5", "--n-times", "40"])
    assert result.exit_code == 0, result.output
    names = {"store", *(f"{n}.{e}" for n in ("spectra", "connectivity") for e in ("tsv", "png"))}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names | {"comparison.tsv"}
    made = RecordingStore(tmp_path / "out" / "store")
    assert len(made) == 5
    assert made.signal(0).shape == (40, 11)
    table = pd.read_csv(tmp_path / "out" / "comparison.tsv", sep="\t")
    assert table["one"].tolist() == ["real, other half", "real"]
    assert table["two"].tolist() == ["real", "generated"]
    assert np.isfinite(table.iloc[:, 2:].to_numpy()).all()


def test_what_cannot_be_sampled_is_refused(model, store_path, recordings, parcellation,
                                           preprocessing, tmp_path):  # fmt: skip
    full = Encoder.random(replace(CONFIG, attention="full"), parcellation, preprocessing, seed=0)
    path = saved(NextPatch(full), tmp_path / "full")
    with pytest.raises(InputError, match=r"predict the next patch.*objective\.kind=autoregressive"):
        generate_recordings(path, store_path, tmp_path / "out")
    path = saved(model, tmp_path / "model")
    with pytest.raises(InputError, match="n_recordings = 0: must be at least 1"):
        generate_recordings(path, store_path, tmp_path / "out", n_recordings=0)
    from semantoks.data.store import write_store

    few = write_store(tmp_path / "few", recordings[:3], parcellation, preprocessing)
    with pytest.raises(InputError, match="subjects = 2: must have at least 4 subjects"):
        generate_recordings(path, few.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()

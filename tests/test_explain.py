from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from semantoks.data.store import write_store
from semantoks.errors import InputError
from semantoks.evaluate.features.embed import Embedder
from semantoks.explain.filters import impulse_response, network_filters
from semantoks.explain.geometry import geometry
from semantoks.explain.networks import network_embeddings, occlusion
from semantoks.figures import brain as plots
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.tokenizers.longconv import StructuredConv
from semantoks.train.trainer import Trainer
from semantoks.workflow.explain import explain_model


@pytest.fixture
def encoder(parcellation, preprocessing):
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    return Encoder.random(config, parcellation, preprocessing, seed=2).eval()


# -- networks --------------------------------------------------------------------------------------


def test_network_embeddings_average_to_the_mean_token(encoder, store):
    embeddings = network_embeddings(encoder, store, n_crops=3)
    assert embeddings.shape == (13, 3, 16)
    whole = Embedder(encoder, n_crops=3).fit_transform(store)
    np.testing.assert_allclose(embeddings.mean(axis=1), whole[:, :16], atol=1e-5)


def test_network_embeddings_are_of_patches_with_data(
    encoder, recordings, parcellation, preprocessing, tmp_path
):
    """A recording of 15 time points has no data in the last of four patches of 6."""
    one = replace(recordings[0], signal=recordings[0].signal[:15])
    store = write_store(tmp_path / "s", [one], parcellation, preprocessing, min_times=12)
    found = network_embeddings(encoder, store, n_crops=1)[0]
    view = np.zeros((1, len(parcellation), 24), np.float32)
    view[0, :, :15] = store.signal(0).T
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[:, :, 3] = True
    with torch.inference_mode():
        grid = encoder(torch.from_numpy(view), mask).tokens.view(3, 4, 16)
    np.testing.assert_allclose(found, grid[:, :3].mean(dim=1).numpy(), atol=1e-5)
    part = _store_without_vis(recordings, parcellation, preprocessing)
    embeddings = network_embeddings(encoder, part, n_crops=2)
    assert np.isnan(embeddings[1, 0]).all()
    assert np.isfinite(np.delete(embeddings.reshape(9, 16), 3, axis=0)).all()


def test_occlusion_finds_the_only_network_that_matters(encoder, store):
    """All networks but the second say nothing: their tokens are zero, as the mask token is."""
    encoder.config = replace(encoder.config, average="all")  # so that a mean of zeros is none
    with torch.no_grad():
        encoder.mask_token.zero_()
        for i in (0, 2):
            encoder.tokenizer.networks[i].norm.weight.zero_()
            encoder.tokenizer.networks[i].norm.bias.zero_()
    found = occlusion(encoder, store.select([0, 4, 7, 9]), n_crops=2)
    assert found.networks == ("Vis", "Limbic", "Default")
    np.testing.assert_allclose(found.alone[:, 1], 0, atol=1e-9)
    np.testing.assert_allclose(found.without[:, [0, 2]], 0, atol=1e-9)
    assert (found.without[:, 1] > 1e-3).all()
    np.testing.assert_allclose(found.alone[:, 0], found.without[:, 1])
    summary = found.summary(np.array(["a", "b", "b", "c"]))
    assert len(summary) == 6
    assert (summary["ci_low"] <= summary["mean"] + 1e-12).all()
    assert (summary["mean"] <= summary["ci_high"] + 1e-12).all()


def test_a_network_without_data_has_no_distance(encoder, recordings, parcellation, preprocessing):
    store = _store_without_vis(recordings, parcellation, preprocessing)
    found = occlusion(encoder, store, n_crops=2)
    assert np.isnan(found.alone[1, 0])
    assert np.isnan(found.without[1, 0])
    assert np.isfinite(np.delete(found.without, 1, axis=0)).all()
    assert len(found.summary(np.array(["a", "b", "c"]))) == 6


def _store_without_vis(recordings, parcellation, preprocessing):
    import tempfile
    from pathlib import Path

    some = [recordings[0], recordings[5], recordings[8]]
    signal = some[1].signal.copy()
    signal[:, parcellation.network_indices[0]] = 0
    some[1] = replace(some[1], signal=signal)
    path = Path(tempfile.mkdtemp()) / "s"
    return write_store(path, some, parcellation, preprocessing, missing_rois="mark")


# -- filters ---------------------------------------------------------------------------------------


def test_the_impulse_response_is_what_the_convolution_does():
    torch.manual_seed(1)
    conv = StructuredConv(5, 3, 40, n_scales=2).double()
    weights, offsets = impulse_response(conv)
    assert weights.shape == (15, 8)
    x = torch.randn(1, 5, 40, dtype=torch.float64)
    with torch.no_grad():
        y = conv(x.permute(1, 2, 0))[..., 0].numpy()
    for channel, head in ((0, 0), (3, 1), (4, 2)):
        row = channel * 3 + head
        for t in (10, 25):
            expected = weights[row] @ x[0, channel, t + offsets].numpy()
            assert y[row, t] == pytest.approx(expected)


def test_a_sine_comes_out_with_the_gain_at_its_frequency(encoder):
    filters = network_filters(encoder, n_frequencies=126)
    assert [f.network for f in filters] == ["Vis", "Limbic", "Default"]
    one = filters[1]
    assert one.frequencies[-1] == pytest.approx(0.25), "Nyquist at TR 2 s"
    assert one.gain.shape == (8, 126)
    assert one.lags[0] == -14.0
    short = encoder.tokenizer.networks[1].branches[1].conv
    conv = StructuredConv(short.n_channels, short.n_heads, 400, n_scales=short.n_scales)
    conv.load_state_dict(short.state_dict())
    place = 40
    hz = one.frequencies[place]
    time = torch.arange(400) * 2.0
    pair = torch.stack([torch.cos(2 * np.pi * hz * time), torch.sin(2 * np.pi * hz * time)])
    with torch.no_grad():
        out = conv(pair.T[None].expand(4, 400, 2))
    amplitude = torch.hypot(out[..., 0], out[..., 1])[:, 30:370].numpy()
    np.testing.assert_allclose(amplitude, one.gain[:, [place]].repeat(340, axis=1), rtol=1e-3)


def test_an_encoder_without_long_convolutions_is_refused(parcellation, preprocessing):
    for options, message in (
        ({"granularity": "rois"}, "has no long convolution"),
        ({"branches": ({"kind": "dense"},)}, "has no structured long convolution"),
    ):
        from semantoks.config import parse

        base = {"width": 16, "depth": 1, "head_width": 8, "patch_length": 6}
        config = parse(EncoderConfig, base | options)
        model = Encoder.random(config, parcellation, preprocessing, seed=0)
        with pytest.raises(InputError, match=message):
            network_filters(model)


# -- geometry --------------------------------------------------------------------------------------


def test_geometry_finds_planted_groups():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((2, 40))
    groups = [0, 1, 0, 1, 0]
    x = (
        centres[groups]
        + 0.3 * rng.standard_normal((7, 5, 40))
        + 5 * rng.standard_normal((7, 1, 40))
    )
    found = geometry(x, ("a", "b", "c", "d", "e"))
    same = np.equal.outer(groups, groups)
    off = ~np.eye(5, dtype=bool)
    assert found.similarity[same & off].min() > 0.5
    assert found.similarity[~same].max() < 0
    merged_last = found.tree[-1, :2]
    assert found.tree[-1, 2] > 3 * found.tree[-2, 2]
    assert len(merged_last) == 2
    assert found.cophenetic > 0.95
    with pytest.raises(InputError, match="at least 3 networks"):
        geometry(x[:, :2], ("a", "b"))


def test_networks_without_data_have_no_place_in_the_geometry():
    x = np.random.default_rng(1).standard_normal((9, 4, 20))
    names = ("a", "b", "c", "d")
    gaps = np.insert(x, 2, np.nan, axis=1)
    found = geometry(gaps, ("a", "b", "none", "c", "d"))
    assert found.networks == names
    np.testing.assert_allclose(found.similarity, geometry(x, names).similarity)
    gaps = x.copy()
    gaps[:3, 0] = np.nan  # of three recordings
    centred = x[3:] - x[3:].mean(axis=1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=2, keepdims=True)
    assert geometry(gaps, names).similarity[0, 3] == pytest.approx(
        (unit[:, 0] * unit[:, 3]).sum(1).mean()
    )
    gaps[3:, 3] = np.nan
    with pytest.raises(InputError, match="no recording has data of both a and d"):
        geometry(gaps, names)


# -- the whole -------------------------------------------------------------------------------------


def test_everything_lands_in_a_folder(tiny_run, store_path, tmp_path):
    Trainer(tiny_run(optim__epochs=2), tmp_path / "run").fit()
    written = explain_model(tmp_path / "run", store_path, tmp_path / "out", n_crops=2)
    names = {path.name for path in written}
    assert names == {p.name for p in (tmp_path / "out").iterdir()}
    assert {"occlusion.tsv", "filters.png", "similarity.tsv", "geometry.png"} <= names
    assert "glass_brain.png" not in names, "this parcellation has no coordinates"
    table = pd.read_csv(tmp_path / "out" / "similarity.tsv", sep="\t", index_col="network")
    assert list(table.index) == list(table.columns) == ["Vis", "Limbic", "Default"]
    with pytest.raises(InputError, match="is not overwritten"):
        explain_model(tmp_path / "run", store_path, tmp_path / "out")


def test_a_glass_brain_needs_coordinates_only(preprocessing):
    from semantoks.atlas.parcellation import Parcellation

    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6)
    model = Encoder.random(config, Parcellation.load("aal116"), preprocessing, seed=0)
    summary = pd.DataFrame(
        {"network": model.rows.names, "measure": "without", "mean": np.linspace(0, 1, 9)}
    )
    figure = plots.glass_brain_figure(
        model.channels.coordinates, plots.roi_values(model, summary, "without")
    )
    assert figure is not None
    assert figure.axes

"""The second-order model: tokens of E = log(I + b R), prediction of the other part, readouts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import logm
from sklearn.decomposition import PCA

from semantoks.data.store import write_store
from semantoks.errors import ConfigError, InputError
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.features.spectral_connectivity import SpectralConnectivityBaseline
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.pretrained import load_pretrained
from semantoks.model.readout import part_sizes, read_parts
from semantoks.model.spectral import principal_axes, spectral_connectivity
from semantoks.model.tokenizers.connectome import ConnectomeConfig
from semantoks.model.weights import weights_hash
from semantoks.objectives.prediction import Predicted, Prediction, PredictionConfig
from semantoks.train.run import RunConfig
from semantoks.train.trainer import Trainer
from semantoks.views.crops import draw_halves

CONNECTOME = ConnectomeConfig(n_components=6, shortest=10)
CONFIG = EncoderConfig(
    granularity="connectome",
    width=20,
    depth=1,
    head_width=5,
    layer_scale=1.0,
    final_norm=False,
    patch_length=23,
    n_patches=1,
    connectome=CONNECTOME,
)


def signals(n, n_rois, n_times, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((n_rois, 4))
    x = mixing @ rng.standard_normal((n, 4, n_times)) + rng.standard_normal((n, n_rois, n_times))
    return torch.from_numpy(x.astype(np.float32))


@pytest.fixture
def encoder(parcellation, preprocessing):
    made = Encoder.random(CONFIG, parcellation, preprocessing, seed=0).eval()
    made.tokenizer.fit(signals(40, 11, 31, seed=1))
    return made


@pytest.fixture
def run_config(store_path):
    def make(**changes):
        tree = {
            "data": {"store": str(store_path)},
            "encoder": {
                "width": 20,
                "head_width": 5,
                "patch_length": 23,
                "connectome": {"n_components": 6, "shortest": 10},
            },
            "objective": {"n_components": 7},
            "optim": {"epochs": 2, "batch_size": 5, "warmup_epochs": 1.0},
            "train": {"precision": "float32", "collapse_rank": 0.0, "log_every": 1},
        }
        return RunConfig.preset("connectome-small", tree | changes)

    return make


@pytest.mark.parametrize("n_times", [61, 5])  # more and fewer volumes than ROIs
def test_single_precision_is_scipy_s(n_times):
    x = signals(3, 7, n_times)
    found = spectral_connectivity(x, "log", 2 / 3)
    for one, matrix in zip(x.numpy(), found.numpy(), strict=True):
        expected = logm(np.eye(7) + 2 / 3 * np.corrcoef(one))
        np.testing.assert_allclose(matrix, expected, atol=3e-6)


@given(st.integers(3, 40), st.integers(2, 14), st.integers(0, 9), st.integers(0, 99))
@settings(deadline=None)
def test_volumes_of_zeros_hold_no_data(n_times, n_rois, n_zeros, seed):
    x = signals(1, n_rois, n_times, seed)
    padded = torch.cat([x, torch.zeros(1, n_rois, n_zeros)], dim=2)
    places = torch.randperm(padded.shape[2], generator=torch.Generator().manual_seed(seed))
    found = spectral_connectivity(padded[:, :, places], "log", 0.7)
    torch.testing.assert_close(found, spectral_connectivity(x, "log", 0.7), atol=2e-5, rtol=1e-4)


def test_principal_axes_are_those_of_scikit_learn():
    x = torch.randn(9, 30, generator=torch.Generator().manual_seed(0))
    x = x - x.mean(dim=0)
    axes = principal_axes(x, 4)
    expected = PCA(4).fit(x.numpy()).transform(x.numpy())
    found = (x @ axes).numpy()
    np.testing.assert_allclose(np.square(found).mean(), 1.0, rtol=1e-5)
    ratio = np.sqrt(np.square(expected).mean())
    np.testing.assert_allclose(abs(found) * ratio, abs(expected), rtol=1e-3, atol=1e-4)
    assert torch.all(principal_axes(x[:3], 5)[:, 3:] == 0), "three rows span no more"


def test_a_token_reads_the_rows_of_its_network_only(encoder):
    x = signals(2, 11, 40, seed=5)
    centred = encoder.tokenizer.centred(x)
    before = encoder.tokenizer.coordinates(centred)
    rois = encoder.rows.channels[1]
    centred[:, rois] += 1.0
    after = encoder.tokenizer.coordinates(centred)
    assert not torch.equal(before[:, 1], after[:, 1])
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])


def test_a_roi_without_data_is_at_its_mean(encoder):
    """Coordinates shrink; those of a whole network without data are zero."""
    x = signals(4, 11, 40, seed=2)
    first = encoder.rows.channels[2][0]
    flat = x.clone()
    flat[:, first] = 3.0  # constant, so without variance
    zero = x.clone()
    zero[:, first] = 0.0
    a, b = (encoder.tokenizer.centred(one) for one in (flat, zero))
    assert torch.equal(a[:, first], torch.zeros_like(a[:, first]))
    torch.testing.assert_close(a, b)
    gone = x.clone()
    gone[:, encoder.rows.channels[1]] = 0.0
    found = encoder.tokenizer.coordinates(encoder.tokenizer.centred(gone))
    assert torch.all(found[:, 1] == 0)
    assert torch.isfinite(encoder(gone).cls).all()


@pytest.mark.parametrize("n_times", [10, 23, 57])
def test_crops_of_any_length_are_one_patch(encoder, n_times):
    out = encoder(signals(3, 11, n_times))
    assert out.tokens.shape == (3, 3, 20)
    assert torch.isfinite(out.cls).all()
    assert out.cls.norm() < 1e3


def test_halves_share_no_volume():
    rng = np.random.default_rng(0)
    recorded = rng.integers(2, 90, size=200)
    starts, lengths = draw_halves(recorded, 25, rng)
    assert (lengths >= 1).all()
    assert (lengths <= 25).all()
    assert (starts[0] + lengths[0] == starts[1]).all()
    assert (starts >= 0).all()
    assert (starts[1] + lengths[1] <= recorded).all()


def test_the_loss_is_computed_by_hand(encoder):
    """Predictions of 1 for coordinates of 3 and -1: (4 + 4 + ...) / (9 + 1 + ...)."""
    method = Prediction(encoder, PredictionConfig(weight=2.0, n_components=4))
    coordinates = torch.tensor([3.0, -1.0])[:, None, None].expand(2, 5, 4)
    found = method.loss(
        Predicted(torch.zeros(2, 5, 20), torch.ones(2, 5, 4), coordinates), None, None
    )
    assert float(found.terms["prediction"]) == pytest.approx(8 / 10)
    assert float(found.total) == pytest.approx(2 * 8 / 10)


def test_it_needs_second_order_tokens(parcellation, preprocessing):
    plain = EncoderConfig(width=20, depth=1, head_width=5, patch_length=6, n_patches=4)
    encoder = Encoder.random(plain, parcellation, preprocessing, seed=0)
    with pytest.raises(ConfigError, match="needs second-order tokens"):
        Prediction(encoder, PredictionConfig())
    with pytest.raises(InputError, match="'spectral': needs a model with second-order tokens"):
        Embedder(encoder, tr=2.0, parts=("cls", "spectral")).fit([np.zeros((30, 11))])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {"n_patches": 3}}, "encoder.n_patches = 3: must be 1"),
        ({"views": {"augment": {"noise": "light"}}}, "views.augment.noise = 'light': must be none"),
        ({"encoder": {"connectome": {"factor": 0.0}}}, "factor = 0.0: must be positive"),
        ({"encoder": {"connectome": {"dropout": 1.0}}}, "dropout = 1.0: must lie in"),
        ({"objective": {"weight": 0.0}}, "objective.weight = 0.0: must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.preset("connectome-base", changes)


def test_it_trains_resumes_to_the_bit_and_embeds(run_config, store, tmp_path):
    whole = Trainer(run_config(), tmp_path / "whole")
    whole.fit()
    trained = load_pretrained(tmp_path / "whole")
    assert not torch.all(trained.tokenizer.axes_0 == 0)
    assert torch.all(trained.tokenizer.spread != 1)
    part = Trainer(run_config(), tmp_path / "part")
    part.n_steps, part.config = 2, part.config
    part.fit()
    resumed = Trainer(run_config(), tmp_path / "part", resume=True)
    assert resumed.step == 2
    resumed.fit()
    assert weights_hash(load_pretrained(tmp_path / "part")) == weights_hash(trained)
    sizes = part_sizes(trained)
    assert sizes == {"mean": 20, "cls": 20, "tokens": 60, "spectral": 66}
    found = Embedder(trained, parts=("spectral", "cls")).fit_transform(store)
    assert found.shape == (13, 86)
    assert Embedder(trained).fit_transform(store).shape == (13, 126), "spectral and tokens"
    control = trained.with_random_weights(3)
    assert torch.equal(control.tokenizer.axes_1, trained.tokenizer.axes_1)
    assert not torch.equal(control.cls_token, trained.cls_token)


def test_the_spectral_part_is_the_baseline(encoder, recordings, preprocessing):
    whole = [preprocessing.apply(r.signal, r.tr).astype(np.float32) for r in recordings[:3]]
    baseline = SpectralConnectivityBaseline("log", 2 / 3).fit_transform(whole)
    raw = [r.signal for r in recordings[:3]]
    embedder = Embedder(encoder, tr=2.0, parts=("spectral",)).fit(raw)
    np.testing.assert_allclose(embedder.transform(raw), baseline, atol=2e-5)
    plain = SpectralConnectivityBaseline().fit(whole)
    names = plain.get_feature_names_out(encoder.channels.labels)
    assert [*embedder.get_feature_names_out()] == [*names]
    both = Embedder(encoder, tr=2.0, parts=("cls", "spectral")).fit(raw)
    assert both.get_feature_names_out()[0] == "cls0000"
    np.testing.assert_array_equal(both.transform(raw)[:, 20:], embedder.transform(raw))


def test_only_kept_volumes_are_read(encoder, recordings, parcellation, preprocessing, tmp_path):
    kept = np.ones(len(recordings[0].signal), bool)
    kept[14:17] = False
    censored = replace(recordings[0], kept=kept)
    store = write_store(tmp_path / "s", [censored, recordings[1]], parcellation, preprocessing)
    found = Embedder(encoder, parts=("spectral",)).fit_transform(store)[0]
    alone = SpectralConnectivityBaseline("log", 2 / 3).fit(store).transform(store)[0]
    np.testing.assert_allclose(found, alone, atol=2e-5)
    assert store.kept(0).sum() < len(kept)


def test_a_recording_that_is_too_short_is_refused(encoder):
    x = [np.random.default_rng(0).standard_normal((9, 11))]
    with pytest.raises(InputError, match="shorter than the shortest recording of 10 time points"):
        Embedder(encoder, tr=2.0).fit(x).transform(x)


@pytest.mark.parametrize("constant", [0.0, 3.0, 1e5 + 0.3])
def test_a_constant_roi_of_an_array_is_a_missing_one(encoder, constant):
    """Not what rounding leaves of it after the filter, of which correlations can be large."""
    x = signals(1, 11, 40, seed=3)[0].numpy().T.astype(np.float64)
    parts = ("spectral", "tokens", "cls")
    lacking, network = x.copy(), encoder.rows.channels[0]
    lacking[:, 4] = constant + 0.1 * constant * np.arange(40)  # a line is none either
    lacking[:, network] = constant
    found = Embedder(encoder, parts=parts, tr=2.5).fit_transform([lacking])
    flat = [4, *network]
    plain = encoder.preprocessing.apply(x, 2.5)
    plain[:, flat] = 0
    hidden = torch.zeros(1, 3, 1, dtype=torch.bool)
    hidden[0, 0] = True
    views = torch.from_numpy(plain.T.copy())[None]
    expected = read_parts(encoder, views, hidden, parts).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    matrix = np.zeros((11, 11))
    matrix[np.tril_indices(11)] = found[0, :66]
    assert not matrix[flat].any()
    assert not matrix[:, flat].any()


def test_a_recording_without_any_signal_is_refused(encoder):
    x = [np.tile(np.arange(11.0), (40, 1))]
    rule = r"X\[0\]: signal: must vary in time in some ROI\. Leave the recording out"
    with pytest.raises(InputError, match=rule):
        Embedder(encoder, tr=2.5).fit_transform(x)


@given(st.integers(3, 60), st.integers(0, 99))
def test_fewer_volumes_than_rois_are_stable(n_times, seed):
    """A small change of the signals makes a small change of E, whatever the rank of R."""
    x = signals(1, 23, n_times, seed).double()
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal(x.shape))
    before, after = (spectral_connectivity(y, "log", 2 / 3) for y in (x, x + 1e-6 * x * noise))
    assert (after - before).norm() < 1e-5 * before.norm()


def test_other_engines_are_refused(encoder):
    x = [np.random.default_rng(0).standard_normal((30, 11))]
    with pytest.raises(InputError, match=r"engine, precision = .*cannot embed whole recordings"):
        Embedder(encoder, tr=2.0, precision="low").fit(x)
    assert Embedder(encoder, tr=2.0, engine="auto").fit(x).engine_ == "torch"


def test_bands_lie_side_by_side(recordings):
    x = [r.signal for r in recordings[:2]]
    both = SpectralConnectivityBaseline(bands=((0.01, 0.05), (0.05, None)), tr=2.0).fit(x)
    found = both.transform(x)
    assert found.shape == (2, 132)
    assert both.get_feature_names_out()[-1] == "roi10~roi10 0.05- Hz"
    assert not np.allclose(found[:, :66], found[:, 66:])
    with pytest.raises(InputError, match="tr = None: the TR is missing"):
        SpectralConnectivityBaseline(bands=((0.01, 0.05),)).fit(x)

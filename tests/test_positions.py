"""Positions of rows: learned, from coordinates, from functional gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semantoks.errors import CheckpointError, ConfigError
from semantoks.model.authors_config import to_authors_config
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.gradients import diffusion_map, functional_gradients
from semantoks.model.pretrained import load_pretrained, save_model
from semantoks.model.weights import weights_hash
from semantoks.objectives.distillation import DistillationConfig, SelfDistillation

CONFIG = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)


def test_a_diffusion_map_is_its_equations():
    """Against the eigenvectors of the transition matrix, which is not symmetric."""
    rng = np.random.default_rng(2)
    points = rng.standard_normal((9, 2))
    affinity = np.exp(-((points[:, None] - points) ** 2).sum(-1))
    for alpha in (0.0, 0.5, 1.0):
        degree = affinity.sum(1)
        kernel = affinity / np.outer(degree, degree) ** alpha
        values, vectors = np.linalg.eig(kernel / kernel.sum(1, keepdims=True))
        order = np.argsort(-values.real)
        values, vectors = values.real[order], vectors.real[:, order]
        assert np.ptp(vectors[:, 0]) < 1e-9, "the first is constant"
        found = diffusion_map(torch.from_numpy(affinity), 4, alpha=alpha).numpy()
        for k in range(4):
            mine, theirs = found[:, k], vectors[:, k + 1]
            assert abs(mine @ theirs) == pytest.approx(np.linalg.norm(mine))
            assert mine[abs(mine).argmax()] > 0
        strength = values[1:5] / (1 - values[1:5])
        sizes = np.linalg.norm(found, axis=0) / np.linalg.norm(found[:, 0])
        np.testing.assert_allclose(sizes, strength / strength[0])
        assert (found[:, 0] ** 2).mean() == pytest.approx(1)


def test_a_chain_of_regions_lies_along_its_gradient():
    """20 channels, every one most like its neighbours: the first gradient is their order."""
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((3, 27, 400))
    x = np.stack([noise[:, i : i + 8].sum(axis=1) for i in range(20)], axis=1)
    x[0, 4] = 0  # without data in one crop
    first = functional_gradients(torch.from_numpy(x), 3, kept=0.3)[:, 0].numpy()
    assert abs(np.corrcoef(first, np.arange(20))[0, 1]) > 0.95
    x[:, 4] = 0  # without data at all
    found = functional_gradients(torch.from_numpy(x), 3, kept=0.3)
    assert found.isfinite().all()
    assert not found[4].any()


@pytest.fixture
def placed(parcellation):
    """Return the parcellation with coordinates."""
    places = np.random.default_rng(0).uniform(-70, 70, (11, 3))
    return replace(parcellation, coordinates=places)


def test_neighbours_have_similar_positions(placed, preprocessing):
    places = placed.coordinates.copy()
    places[7] = places[2] + 0.5
    near = replace(placed, coordinates=places)
    config = replace(CONFIG, granularity="rois", positions="coordinates")
    encoder = Encoder.random(config, near, preprocessing, seed=0)
    positions = encoder.tokenizer.positions(torch.zeros(1, 11, 4, 16))[0, :, 0]
    distance = torch.cdist(positions, positions)
    distance.fill_diagonal_(torch.inf)
    assert int(distance[2].argmin()) == 7
    assert encoder(torch.randn(2, 11, 24)).cls_avg.isfinite().all()
    assert not encoder.is_fitted_first


def test_a_network_stands_at_the_mean_of_its_rois(placed, preprocessing):
    config = replace(CONFIG, positions="coordinates")
    networks = Encoder.random(config, placed, preprocessing, seed=0).tokenizer.positions
    rois = Encoder.random(replace(config, granularity="rois"), placed, preprocessing, seed=0)
    for row, own in zip(networks.places, networks.rows.channels, strict=True):
        torch.testing.assert_close(row, rois.tokenizer.positions.places[own].mean(dim=0))


def test_gradients_are_fitted_stored_and_shared(parcellation, preprocessing, tmp_path):
    config = replace(CONFIG, positions="gradients")
    encoder = Encoder.random(config, parcellation, preprocessing, seed=0)
    assert encoder.is_fitted_first
    method = SelfDistillation(encoder, DistillationConfig())
    crops = torch.randn(5, 11, 24, generator=torch.Generator().manual_seed(0))
    method.fit(crops)
    places = encoder.tokenizer.positions.places
    assert places.any()
    assert torch.equal(method.encoder("teacher").tokenizer.positions.places, places)
    gradients = functional_gradients(crops, 10).float()
    own = encoder.rows.channels[1]
    torch.testing.assert_close(places[1], gradients[own].mean(dim=0))
    control = encoder.with_random_weights(4)
    assert torch.equal(control.tokenizer.positions.places, places)
    maps = (one.tokenizer.positions.map.weight for one in (control, encoder))
    assert not torch.equal(*maps)
    (tmp_path / "model").mkdir()
    weights = {f"online.encoder.{k}": v for k, v in encoder.state_dict().items()}
    save_model(tmp_path / "model", weights, encoder, roles=("online",))
    again = load_pretrained(tmp_path / "model")
    assert torch.equal(again.tokenizer.positions.places, places)


def test_what_cannot_be_placed_is_refused(parcellation, preprocessing):
    config = replace(CONFIG, positions="coordinates")
    with pytest.raises(ConfigError, match=r"positions = 'coordinates': needs the coordinates"):
        Encoder.random(config, parcellation, preprocessing, seed=0)
    Encoder.random(replace(CONFIG, positions="gradients"), parcellation, preprocessing, seed=0)
    with pytest.raises(ConfigError, match=r"positions = 'sine': must be learned, coord"):
        replace(CONFIG, positions="sine")
    placed = replace(CONFIG, positions="gradients")
    with pytest.raises(CheckpointError, match=r"encoder\.positions = 'gradients': must be learned"):
        to_authors_config(placed, hidden=7, out_width=5, separate=False)


def test_the_hash_of_weights_knows_positions(placed, preprocessing):
    one = Encoder.random(CONFIG, placed, preprocessing, seed=0)
    two = Encoder.random(replace(CONFIG, positions="coordinates"), placed, preprocessing, seed=0)
    assert weights_hash(one) != weights_hash(two)

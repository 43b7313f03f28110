"""Tokens of residual vector quantisation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semantoks import config as trees
from semantoks.errors import ConfigError
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.pretrained import load_pretrained
from semantoks.model.tokenizers.vq import VQConfig
from semantoks.model.weights import weights_hash
from semantoks.train.run import RunConfig
from semantoks.train.trainer import Trainer

CONFIG = EncoderConfig(
    width=16,
    depth=1,
    head_width=8,
    patch_length=2,
    n_patches=3,
    granularity="vq",
    vq=VQConfig(n_codebooks=2, n_codes=4),
)


@pytest.fixture
def encoder(parcellation, preprocessing) -> Encoder:
    return Encoder.random(CONFIG, parcellation, preprocessing, seed=0)


def test_codes_are_computed_by_hand(encoder):
    """(5, 4) is near (4, 4), which leaves (1, 0); (0.2, 0) near (0, 0), which leaves itself."""
    tokenizer = encoder.tokenizer
    first = [[0.0, 0.0], [4.0, 4.0], [9.0, 9.0], [-9.0, 9.0]]
    second = [[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [5.0, 5.0]]
    tokenizer.codebooks.copy_(torch.tensor([first, second]))
    x = torch.zeros(2, 11, 6)
    x[1, 3, 2:4] = torch.tensor([5.0, 4.0])
    x[0, 2, :2] = torch.tensor([0.2, 0.0])
    codes = tokenizer.codes(x)
    assert codes.shape == (2, 11, 3, 2)
    assert codes[1, 3, 1].tolist() == [1, 1]
    assert codes[0, 2, 0].tolist() == [0, 2]
    tokens = tokenizer(x)
    expected = tokenizer.vectors[0, 1] + tokenizer.vectors[1, 1]
    torch.testing.assert_close(tokens[1, 3, 1], expected)
    tokens[1, 3, 1].sum().backward()
    changed = tokenizer.vectors.grad.abs().sum(dim=2).nonzero().tolist()
    assert changed == [[0, 1], [1, 1]]


def test_codebooks_find_what_patches_are_made_of(encoder):
    """Patches are one of 4 coarse shapes and one of 4 fine ones: two codebooks of 4 suffice."""
    rng = np.random.default_rng(0)
    coarse = np.array([[8, 0], [-8, 0], [0, 8], [0, -8.0]])
    fine = np.array([[1, 1], [-1, 1], [1, -1], [-1, -1.0]])
    patches = coarse[rng.integers(4, size=(40, 11, 3))] + fine[rng.integers(4, size=(40, 11, 3))]
    crops = torch.from_numpy(patches).float().flatten(2)
    crops[0, 5] = 0  # without data: nothing to fit to
    tokenizer = encoder.tokenizer
    tokenizer.fit(crops)
    kept = crops.unflatten(2, (3, 2)).flatten(0, 2)
    kept = kept[kept.any(dim=1)]
    _, left = tokenizer._residual(kept)
    assert left.square().mean() < 0.02 * kept.square().mean()
    torch.testing.assert_close(tokenizer.usage.sum(dim=1), torch.ones(2))
    assert (tokenizer.perplexity > 3.8).all()
    assert (tokenizer.perplexity <= 4.001).all()
    control = encoder.with_random_weights(3)
    assert torch.equal(control.tokenizer.codes(crops), tokenizer.codes(crops))
    assert not torch.equal(control.tokenizer.vectors, tokenizer.vectors)


def test_perplexity_is_the_exponent_of_the_entropy(encoder):
    encoder.tokenizer.usage.copy_(torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0]]))
    torch.testing.assert_close(encoder.tokenizer.perplexity, torch.tensor([1.0, 2.0]))


def test_a_run_fits_codes_and_trains_on_them(tiny_run, tmp_path):
    tree = trees.to_tree(tiny_run(optim__epochs=2, train__precision="float64"))
    tree["encoder"] |= {"granularity": "vq", "vq": {"n_codebooks": 2, "n_codes": 5}}
    runs = {}
    for parts in (1, 2):
        tree["train"]["accumulate"] = parts
        trainer = Trainer(trees.parse(RunConfig, tree), tmp_path / str(parts))
        tokenizers = [trainer.objective.encoder(role).tokenizer for role in ("student", "teacher")]
        assert torch.equal(*(one.codebooks for one in tokenizers))
        start = tokenizers[0].vectors.detach().clone()
        trainer.fit()
        assert not torch.equal(tokenizers[0].vectors, start)
        runs[parts] = load_pretrained(tmp_path / str(parts))
    x = torch.randn(2, 11, 24)
    one, two = runs.values()
    assert torch.equal(one.tokenizer.codes(x), two.tokenizer.codes(x))
    torch.testing.assert_close(one(x).cls_avg, two(x).cls_avg)
    assert (one.tokenizer.perplexity > 2).all()


def test_settings_of_codes(parcellation, preprocessing):
    with pytest.raises(ConfigError, match=r"encoder\.vq\.n_codes = 0: must be positive"):
        VQConfig(n_codes=0)
    other = replace(CONFIG, vq=VQConfig(n_codebooks=2, n_codes=4))
    same = [Encoder.random(c, parcellation, preprocessing, seed=0) for c in (CONFIG, other)]
    assert weights_hash(same[0]) == weights_hash(same[1])

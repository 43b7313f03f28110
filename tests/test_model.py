"""The encoder and its parts, each against a plain formulation of what it computes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from semantoks.atlas.channels import TokenRows
from semantoks.config import parse
from semantoks.errors import ConfigError, InputError
from semantoks.model import transformer
from semantoks.model.encoder import Encoder, EncoderConfig, mean_of
from semantoks.model.places import few_sizes, places
from semantoks.model.positions import sincos_positions
from semantoks.model.projection import ProjectionHead
from semantoks.model.tokenizers.branches import (
    DenseBranch,
    SeparableBranch,
    StructuredBranch,
    branch_widths,
    build_branch,
)
from semantoks.model.tokenizers.longconv import StructuredConv
from semantoks.model.tokenizers.networks import NetworkTokenizer, SemanticTokenizer
from semantoks.model.transformer import Block, attend

# B = 3, C = 11 in networks of 2, 4 and 5 (the fixture `parcellation`), T = 24 = 4 patches of 6.
B, C, T, N, P, L = 3, 11, 24, 3, 4, 6
CONFIG = EncoderConfig(width=20, depth=2, head_width=5, patch_length=L, n_patches=P)


def double(module):
    return module.double().eval()


@pytest.fixture
def make(parcellation, preprocessing):
    def encoder(**changes) -> Encoder:
        config = replace(CONFIG, **changes)
        return double(Encoder.random(config, parcellation, preprocessing, seed=1))

    return encoder


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(B, C, T, generator=torch.Generator().manual_seed(2)).double()


def some_rows(*members: list[int]) -> TokenRows:
    names = tuple(f"row {i}" for i in range(len(members)))
    return TokenRows(names, tuple(map(np.array, members)), np.arange(len(members)))


def some_mask(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(4)) < 0.5


def signals_last(module, x):
    """Run a part of the tokenizer, which takes (C, L, M), on (M, C, L)."""
    y = module(x.permute(1, 2, 0))
    return y if y.ndim == 2 else y.permute(2, 0, 1)


# -- structured long convolution -------------------------------------------------------------------


@given(
    n_channels=st.integers(1, 4),
    n_heads=st.integers(1, 3),
    n_scales=st.integers(1, 4),
    base_length=st.integers(1, 5),
    length=st.integers(1, 9),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_structured_convolution_is_the_plain_one(
    n_channels, n_heads, n_scales, base_length, length, seed
):
    torch.manual_seed(seed)
    conv = double(
        StructuredConv(
            n_channels,
            n_heads,
            length,
            n_scales=n_scales,
            base_length=base_length,
            decay_min=1.5,
            decay_max=2.5,
        )
    )
    conv.requires_grad_(False)
    conv.pieces[-1] += 0.3  # the norm stays what it was at the beginning
    x = torch.randn(2, n_channels, length).double()
    y = signals_last(conv, x).numpy()
    decay = np.linspace(1.5, 2.5, n_channels) if n_channels > 1 else [1.5]
    taps = base_length * 2 ** (n_scales - 1)
    for m in range(2):
        for c in range(n_channels):
            for h in range(n_heads):
                kernel: list[float] = []
                for i, piece in enumerate(conv.pieces):
                    for value in piece[h, c].tolist():
                        kernel += [value * decay[c] ** (n_scales - 1 - i)] * 2 ** max(0, i - 1)
                assert len(kernel) == taps
                norm = float(conv.kernel_norm[h, c, 0])
                full = np.convolve(x[m, c].numpy(), np.array(kernel) / norm)
                expected = full[taps // 2 :][:length] + float(conv.skip[h, c]) * x[m, c].numpy()
                # Channels are ordered (ROI, head), head fast.
                np.testing.assert_allclose(y[m, c * n_heads + h], expected, rtol=1e-6, atol=1e-6)


def test_structured_kernels_begin_with_norm_one():
    conv = StructuredConv(5, 3, 8)
    assert conv.kernel().shape == (3, 5, 16)
    torch.testing.assert_close(conv.kernel().norm(dim=-1), torch.ones(3, 5))
    torch.testing.assert_close(conv.multiplier.flatten(), torch.full((5,), 2.0))
    conv.pieces[0].data *= 3
    assert (conv.kernel().norm(dim=-1) > 1).all(), "the norm is a constant, not a constraint"
    assert set(conv.state_dict()) - set(dict(conv.named_parameters())) == {
        "multiplier",
        "kernel_norm",
    }


# -- tokenizer -------------------------------------------------------------------------------------


def plain_conv(x, weight, bias, dilation=1):
    """A correlation with zero padding that keeps the length, tap by tap."""
    n_out, n_in, taps = weight.shape
    left = dilation * (taps - 1) // 2
    out = np.tile(bias[:, None], (1, x.shape[1])).astype(float)
    for t in range(x.shape[1]):
        for k in range(taps):
            place = t + k * dilation - left
            if 0 <= place < x.shape[1]:
                out[:, t] += weight[:, :, k] @ x[:, place]
    assert n_in == len(x)
    assert n_out == len(out)
    return out


def arrays(module):
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel_length", [3, 5])
def test_dense_and_separable_branches_are_the_plain_ones(dilation, kernel_length):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7).double()
    options = {"kernel_length": kernel_length, "dilation": dilation}
    dense = double(build_branch(DenseBranch(**options), 4, 3, 7))
    separable = double(build_branch(SeparableBranch(**options), 4, 3, 7))
    w, v = arrays(dense), arrays(separable)
    assert v["0.weight"].shape == (4, 1, kernel_length), "one kernel per ROI"
    for m in range(2):
        signal = x[m].numpy()
        expected = plain_conv(signal, w["weight"], w["bias"], dilation)
        np.testing.assert_allclose(signals_last(dense, x)[m].detach(), expected, atol=1e-12)
        own = [
            plain_conv(
                signal[c : c + 1], v["0.weight"][c : c + 1], v["0.bias"][c : c + 1], dilation
            )
            for c in range(4)
        ]
        expected = plain_conv(np.concatenate(own), v["1.weight"], v["1.bias"])
        np.testing.assert_allclose(signals_last(separable, x)[m].detach(), expected, atol=1e-12)


def test_structured_branch_has_enough_heads_and_one_linear_map():
    torch.manual_seed(0)
    branch = double(build_branch(StructuredBranch(), 4, 10, 7))
    assert branch.conv.n_heads == 3, "ceil(10 / 4)"
    assert branch.projection.weight.shape == (10, 12)
    x = torch.randn(2, 4, 7).double()
    w = arrays(branch)
    y = signals_last(branch.conv, x).detach().numpy()
    expected = np.einsum("oc,mct->mot", w["projection.weight"], y)
    np.testing.assert_allclose(
        signals_last(branch, x).detach(),
        expected + w["projection.bias"][None, :, None],
        atol=1e-12,
    )


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_pooling_comes_after_the_branches_and_before_the_norm(pooling):
    torch.manual_seed(0)
    branches = (SeparableBranch(width=3), DenseBranch(), DenseBranch(dilation=2))
    network = double(NetworkTokenizer(4, 11, 7, branches, pooling)).requires_grad_(False)
    x = torch.randn(2, 4, 7).double()
    parts = [signals_last(branch, x) for branch in network.branches]
    assert [part.shape[1] for part in parts] == [3, 4, 4]
    y = F.gelu(torch.cat(parts, dim=1))
    expected = torch.empty(2, 11).double()
    for m in range(2):
        if pooling == "attention":
            scores = [float(network.attention.scorer.weight[0] @ y[m, :, t]) for t in range(7)]
            total = sum(math.exp(s) for s in scores)
            expected[m] = sum(math.exp(s) / total * y[m, :, t] for t, s in enumerate(scores))
            assert network.attention.scorer.bias is None
        else:
            expected[m] = y[m].mean(-1) if pooling == "mean" else y[m].max(-1).values
    torch.testing.assert_close(signals_last(network, x), F.layer_norm(expected, (11,)))


@given(
    taps=st.integers(1, 6),
    dilation=st.integers(1, 3),
    n_scales=st.integers(1, 3),
    base_length=st.integers(1, 5),
    length=st.integers(1, 9),
    pooling=st.sampled_from(["mean", "max", "attention"]),
)
@settings(max_examples=30, deadline=None)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_folded_branches_give_the_same_tokens(
    taps, dilation, n_scales, base_length, length, pooling
):
    torch.manual_seed(taps)
    branches = (
        SeparableBranch(width=3, kernel_length=taps, dilation=dilation),
        DenseBranch(kernel_length=taps, dilation=dilation),
        StructuredBranch(n_scales=n_scales, base_length=base_length, decay_max=3.0),
    )
    tokenizer = double(
        SemanticTokenizer(some_rows([4, 0, 2], [1, 3]), 11, length, branches, pooling)
    )
    x = torch.randn(4, 5, 2 * length).double()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    folded = tokenizer.folded()
    torch.testing.assert_close(folded(x), tokenizer(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tokenizer.state_dict(), before)


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_a_token_is_made_of_its_own_network_and_patch(make, x, parcellation, pooling):
    tokenizer = make(pooling=pooling).tokenizer
    tokens = tokenizer(x)
    assert tokens.shape == (B, N, P, 20)
    for n, rois in enumerate(parcellation.network_indices):
        for p in range(P):
            alone = signals_last(tokenizer.networks[n], x[:, rois, p * L : (p + 1) * L])
            torch.testing.assert_close(tokens[:, n, p], alone, rtol=1e-12, atol=1e-12)


def test_one_token_per_roi_is_one_linear_map(make, x):
    encoder = make(granularity="rois")
    assert encoder.n_networks == C
    assert encoder.rows.names == encoder.channels.labels
    w = arrays(encoder.tokenizer)
    assert w["projection.weight"].shape == (20, L)
    tokens = encoder.tokenizer(x).detach().numpy()
    for c, p in ((0, 0), (7, 2), (10, 3)):
        expected = x[:, c, p * L : (p + 1) * L].numpy() @ w["projection.weight"].T
        np.testing.assert_allclose(tokens[:, c, p], expected + w["projection.bias"], atol=1e-12)
    assert encoder(x, some_mask(B, C, P)).tokens.shape == (B, C * P, 20)


def test_one_network_holds_all_rois(make, x):
    encoder = make(granularity="one")
    assert encoder.rows.names == ("whole brain",)
    assert encoder.tokenizer.networks[0].branches[0].weight.shape == (10, C, 3)
    assert encoder(x, some_mask(B, 1, P)).tokens.shape == (B, P, 20)


def test_networks_are_found_by_name_not_by_place(make, parcellation):
    assert make().rows.names == parcellation.network_names == ("Vis", "Limbic", "Default")
    sizes = [network.branches[0].weight.shape[1] for network in make().tokenizer.networks]
    assert sizes == [2, 4, 5]


# -- transformer -----------------------------------------------------------------------------------


def plain_block(w, x, n_heads):
    """`x += ls1 * Attn(LN(x)); x += ls2 * MLP(LN(x))`, head by head and row by row."""

    def norm(z, name):
        z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)
        return z * w[f"{name}.weight"] + w[f"{name}.bias"]

    length, width = x.shape
    d = width // n_heads
    q, k, v = np.split(norm(x, "norm1") @ w["attention.qkv.weight"].T, 3, axis=1)
    mixed = np.zeros_like(x)
    for h in range(n_heads):
        part = slice(h * d, (h + 1) * d)
        for i in range(length):
            scores = np.exp(q[i, part] @ k[:, part].T / math.sqrt(d))
            mixed[i, part] = scores @ v[:, part] / scores.sum()
    x = x + w["scale1"] * (
        mixed @ w["attention.projection.weight"].T + w["attention.projection.bias"]
    )
    hidden = norm(x, "norm2") @ w["mlp.0.weight"].T + w["mlp.0.bias"]
    hidden = F.gelu(torch.from_numpy(hidden)).numpy()
    return x + w["scale2"] * (hidden @ w["mlp.2.weight"].T + w["mlp.2.bias"])


def test_block_is_the_plain_one():
    torch.manual_seed(0)
    block = double(Block(12, 3, 2.5, 0.1, 0.0))
    for parameter in block.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    w = arrays(block)
    assert w["mlp.0.weight"].shape == (30, 12)
    assert "attention.qkv.bias" not in w
    x = torch.randn(2, 7, 12).double()
    expected = np.stack([plain_block(w, x[m].numpy(), 3) for m in range(2)])
    np.testing.assert_allclose(block(x).detach(), expected, atol=1e-12)


def test_layer_scale_begins_small():
    assert (Block(12, 3, 4.0, 0.1, 0.0).scale2 == 0.1).all()


@pytest.mark.parametrize("places", [None, [0, 3, 11, 12, 13, 30]])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_reading_what_is_wanted_gives_the_same_rows_and_gradients(make, x, places, checkpoint):
    encoder = make().train()
    wanted = None if places is None else torch.tensor(places)
    encoder.checkpoint = checkpoint

    def gradients(cls: torch.Tensor, tokens: torch.Tensor) -> list[torch.Tensor | None]:
        rows = torch.cat([cls, tokens])
        weights = torch.arange(rows.numel()).view(rows.shape).double().sin()
        return list(
            torch.autograd.grad((rows * weights).sum(), encoder.parameters(), allow_unused=True)
        )

    mask = some_mask(B, N, P)
    out = encoder(x, mask)
    expected = out.cls, out.tokens.flatten(0, 1)[[] if places is None else places]
    found = encoder.read(x, mask, wanted)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(*found), gradients(*expected), rtol=1e-10, atol=1e-11)


def test_drop_path_drops_whole_recordings_in_training_only():
    torch.manual_seed(0)
    block = Block(12, 3, 2.0, 1.0, 0.75).double()
    block.mlp = torch.nn.Sequential(torch.nn.Linear(12, 12)).double()
    block.mlp[0].weight.data.zero_()
    block.mlp[0].bias.data.zero_()
    x = torch.randn(1, 5, 12).double().expand(400, 5, 12)
    change = block(x) - x
    kept = change.abs().amax(dim=(1, 2)) > 0
    assert 60 < kept.sum() < 140, "a quarter of 400 is kept"
    whole = block.eval()(x) - x
    torch.testing.assert_close(change[kept], 4.0 * whole[kept])


def test_drop_path_rises_linearly_over_the_blocks(parcellation, preprocessing):
    """As the published configurations mean `drop_path_rate`."""
    config = EncoderConfig(width=8, head_width=4, depth=5, drop_path=0.2)
    blocks = Encoder.random(config, parcellation, preprocessing, seed=0).blocks
    assert [block.drop_path for block in blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    with pytest.raises(ConfigError, match="has no effect on a single block"):
        replace(config, depth=1)


@given(n_patches=st.integers(1, 40), half=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_positions_are_sines_then_cosines(n_patches, half):
    positions = sincos_positions(n_patches, 2 * half, like=torch.zeros(()).double())
    for p in {0, n_patches // 2, n_patches - 1}:
        for j in range(half):
            angle = p * 10000 ** (-j / half)
            assert float(positions[p, j]) == pytest.approx(math.sin(angle), abs=1e-6)
            assert float(positions[p, half + j]) == pytest.approx(math.cos(angle), abs=1e-6)


# -- encoder ---------------------------------------------------------------------------------------


@given(needed=st.lists(st.booleans(), min_size=1, max_size=700))
def test_what_is_needed_is_computed_in_few_sizes(needed):
    ((found, n_needed),) = places(torch.tensor([needed]))
    wanted = np.flatnonzero(needed)
    assert found[:n_needed].tolist() == wanted.tolist()
    assert len(set(found.tolist())) == len(found)
    assert len(found) == len(needed) or len(found) % 16 == 0
    assert len(found) - n_needed < max(16, len(needed) / 16 + 16)


@pytest.mark.parametrize("most", [1, 17, 320, 2880, 100_003])
def test_there_are_few_sizes(most):
    sizes = {few_sizes(n, most) for n in range(0, most + 1, max(1, most // 1000))}
    assert len(sizes) <= 17


def test_the_encoder_is_the_sum_of_its_parts(make, x):
    encoder, mask = make(), some_mask(B, N, P)
    out = encoder(x, mask)
    tokens = encoder.tokenizer(x).detach().clone()
    for b, n, p in np.ndindex(B, N, P):
        if mask[b, n, p]:
            tokens[b, n, p] = encoder.mask_token
        tokens[b, n, p] += encoder.tokenizer.positions.table[n]
        tokens[b, n, p] += sincos_positions(P, 20, like=tokens)[p]
    rows = [torch.cat([encoder.cls_token[None], *tokens[b]]) for b in range(B)]  # patch fast
    sequence = torch.stack(rows)
    for block in encoder.blocks:
        sequence = block(sequence)
    sequence = encoder.norm(sequence)
    torch.testing.assert_close(out.cls, sequence[:, 0])
    torch.testing.assert_close(out.tokens, sequence[:, 1:])
    real = [row[~gone].mean(0) for row, gone in zip(sequence[:, 1:], mask.flatten(1), strict=True)]
    torch.testing.assert_close(out.cls_avg, torch.cat([torch.stack(real), out.cls], dim=1))
    assert out.cls_avg.shape == (B, 40)
    papers = make(average="all")
    papers.load_state_dict(encoder.state_dict())
    found = papers(x, mask).cls_avg
    torch.testing.assert_close(found, torch.cat([sequence[:, 1:].mean(1), out.cls], dim=1))
    assert not torch.allclose(found, out.cls_avg)
    torch.testing.assert_close(papers(x).cls_avg, encoder(x).cls_avg)


def test_the_mean_knows_nothing_of_tokens_without_data(make, x):
    """Whatever stands at the tokens that are left out; of none left, the mean is over all."""
    tokens, gone = torch.randn(B, N * P, 20), some_mask(B, N, P).flatten(1)
    wild = torch.where(gone[..., None], 1e3, tokens)
    torch.testing.assert_close(mean_of(wild, gone), mean_of(tokens, gone))
    everything = torch.ones(B, N, P, dtype=torch.bool)
    out = make()(x, everything)
    torch.testing.assert_close(out.mean, out.tokens.mean(dim=1))
    with pytest.raises(ConfigError, match=r"encoder\.average = 'some': must be data or all"):
        EncoderConfig(average="some")


@pytest.mark.parametrize("granularity", ["networks", "one", "rois"])
@pytest.mark.parametrize("n_patches", [1, 3, 9])
def test_any_number_of_patches(make, granularity, n_patches):
    encoder = make(granularity=granularity)
    x = torch.randn(2, C, n_patches * L).double()
    mask = some_mask(2, encoder.n_networks, n_patches)
    out = encoder(x, mask)
    assert out.tokens.shape == (2, encoder.n_networks * n_patches, 20)
    assert torch.isfinite(out.cls_avg).all()


@pytest.mark.parametrize("granularity", ["networks", "one", "rois"])
def test_batch_mates_do_not_matter(make, x, granularity):
    encoder = make(granularity=granularity)
    mask = some_mask(B, encoder.n_networks, P)
    together = encoder(x, mask)
    for b in range(B):
        alone = encoder(x[b : b + 1], mask[b : b + 1])
        torch.testing.assert_close(together.cls_avg[b], alone.cls_avg[0], rtol=1e-11, atol=1e-12)
    order = [2, 0, 1]
    torch.testing.assert_close(
        encoder(x[order], mask[order]).cls, together.cls[order], rtol=1e-11, atol=1e-12
    )


def test_what_is_masked_cannot_be_seen(make, x, parcellation):
    encoder, mask = make(), torch.zeros(B, N, P, dtype=torch.bool)
    mask[:, 1, 2:] = True
    changed = x.clone()
    changed[:, parcellation.network_indices[1], 2 * L :] += 5.0
    assert torch.equal(encoder(changed, mask).tokens, encoder(x, mask).tokens)
    assert not torch.allclose(encoder(changed).cls, encoder(x).cls)
    assert not torch.allclose(encoder(x, mask).cls, encoder(x).cls)
    assert torch.equal(encoder(x, torch.zeros_like(mask)).cls, encoder(x).cls)


def test_every_parameter_gets_a_gradient(make, x):
    for changes in ({}, {"pooling": "attention"}, {"granularity": "rois"}, {"granularity": "one"}):
        encoder = make(**changes)
        out = encoder(x, some_mask(B, encoder.n_networks, P))
        (out.cls_avg * torch.arange(40)).sum().backward()
        for name, parameter in encoder.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((B, C + 1, T), r"= \(3, 12, 24\): .*\(recordings, 11 ROIs, times\).*'toy11'"),
        ((B, T, C), r"11 ROIs"),
        ((C, T), r"11 ROIs"),
        ((B, C, T + 1), r"multiple of the patch length 6.*Pad with zeros"),
        ((B, C, 0), r"multiple of the patch length 6"),
    ],
)
def test_signals_of_another_shape_are_refused(make, shape, message):
    with pytest.raises(InputError, match=message):
        make()(torch.zeros(shape).double())


@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(B, P, N, dtype=torch.bool),
        torch.zeros(1, N, P, dtype=torch.bool),
        torch.zeros(B, N * P, dtype=torch.bool),
        torch.zeros(B, N, P),
    ],
)
def test_masks_of_another_shape_or_type_are_refused(make, x, mask):
    with pytest.raises(InputError, match=r"\(recordings, networks, patches\) = \(3, 3, 4\)"):
        make()(x, mask)


def test_random_weights_follow_the_seed_alone(parcellation, preprocessing):
    def draw(seed):
        return Encoder.random(CONFIG, parcellation, preprocessing, seed=seed)

    torch.manual_seed(8)
    before = torch.get_rng_state()
    one, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.cls_token, other.cls_token)
    assert one.pretraining is None


def test_tokens_begin_small(make):
    encoder = make(width=400)
    for vectors in (encoder.mask_token, encoder.cls_token, encoder.tokenizer.positions.table):
        assert 0.01 < vectors.std() < 0.03


def test_projection_is_a_unit_vector():
    torch.manual_seed(0)
    head = double(ProjectionHead(6, 9, 4))
    x = torch.randn(2, 3, 6).double()
    y = head(x)
    assert y.shape == (2, 3, 4)
    torch.testing.assert_close(y.norm(dim=-1), torch.ones(2, 3).double())
    w = arrays(head)
    hidden = F.gelu(torch.from_numpy(x.numpy() @ w["hidden.weight"].T + w["hidden.bias"])).numpy()
    plain = hidden @ w["out.weight"].T + w["out.bias"]
    np.testing.assert_allclose(
        y.detach(), plain / np.linalg.norm(plain, axis=-1, keepdims=True), atol=1e-12
    )
    assert not w["hidden.bias"].any()
    assert not w["out.bias"].any()


# -- configuration ---------------------------------------------------------------------------------


def test_defaults_are_the_papers():
    config = EncoderConfig()
    assert (config.width, config.depth, config.width // config.head_width) == (768, 8, 12)
    assert (config.view_length, config.n_patches) == (100, 5)
    assert config.branches == (DenseBranch(), StructuredBranch())
    assert config.branch_widths == [384, 384]


@given(
    given=st.lists(st.one_of(st.none(), st.integers(1, 9)), min_size=1, max_size=5),
    width=st.integers(2, 40),
)
@settings(max_examples=60, deadline=None)
def test_branch_widths_add_up_or_are_refused(given, width):
    branches = [DenseBranch(width=w) for w in given]
    try:
        widths = branch_widths(branches, width)
    except ConfigError:
        stated, free = sum(w or 0 for w in given), given.count(None)
        shares = width > stated and (width - stated) % free == 0 if free else width == stated
        assert not shares, "a division was possible"
        return
    assert sum(widths) == width
    assert min(widths) > 0
    assert all(w in (None, made) for w, made in zip(given, widths, strict=True))
    assert len({made for w, made in zip(given, widths, strict=True) if w is None}) <= 1


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"width": 100}, r"encoder\.width = 100: must be even and a multiple of head_width \(64\)"),
        ({"width": 15, "head_width": 5}, r"must be even"),
        ({"depth": 0}, r"encoder\.depth = 0: must be at least 1"),
        ({"patch_length": 0}, r"encoder\.patch_length = 0"),
        ({"n_patches": -1}, r"encoder\.n_patches = -1"),
        ({"mlp_ratio": 0.0}, r"encoder\.mlp_ratio = 0\.0: must be positive"),
        ({"drop_path": 1.0}, r"encoder\.drop_path = 1\.0: must lie in \[0, 1\)"),
        ({"branches": []}, r"needs at least one branch"),
        ({"branches": [{"kind": "dense", "width": 5}]}, r"must add up to the encoder's width 768"),
        ({"branches": [{"kind": "dense", "kernel_length": 0}]}, r"kernel_length = 0: must be pos"),
        ({"branches": [{"kind": "separable", "dilation": 0}]}, r"dilation = 0: must be positive"),
        ({"branches": [{"kind": "structured", "n_scales": 0}]}, r"n_scales = 0: must be positive"),
        ({"branches": [{"kind": "structured", "decay_min": 0}]}, r"decay_min = 0\.0: must be pos"),
        ({"branches": [{"kind": "fourier"}]}, r"expected tags: 'dense', 'separable', 'structured'"),
        ({"granularity": "rois", "pooling": "max"}, r"no effect with the granularity 'rois'"),
        ({"granularity": "rois", "branches": [{"kind": "dense"}]}, r"no effect with the granul"),
    ],
)
def test_impossible_architectures_are_refused_with_a_reason(tree, message):
    with pytest.raises(ConfigError, match=message):
        parse(EncoderConfig, tree)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.03)]
)
@pytest.mark.parametrize("length", [11, 300])
def test_attention_and_its_gradient_are_those_of_pytorch(dtype, tolerance, length):
    torch.manual_seed(0)
    batch, n_heads, head = 3, 2, 5
    qkv = torch.randn(batch, length, 3 * n_heads * head, dtype=torch.float64)
    weights = torch.randn(batch, length, n_heads * head, dtype=torch.float64)
    ours, theirs = qkv.to(dtype, copy=True).requires_grad_(), qkv.clone().requires_grad_()
    found = attend(ours, n_heads)
    (found.double() * weights).sum().backward()
    query, key, value = (
        x.view(batch, length, n_heads, head).transpose(1, 2) for x in theirs.chunk(3, dim=2)
    )
    expected = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    (expected * weights).sum().backward()
    assert found.dtype == dtype
    for mine, its in ((found, expected), (ours.grad, theirs.grad)):
        torch.testing.assert_close(mine.double(), its, rtol=tolerance, atol=tolerance)
    same = 0 if length < 256 or dtype != torch.bfloat16 else tolerance
    with torch.no_grad():
        torch.testing.assert_close(attend(ours, n_heads), found, rtol=same, atol=same)


def test_a_few_heads_at_a_time_give_the_gradient_of_all_at_once(monkeypatch):
    torch.manual_seed(0)
    batch, length, n_heads, head = 3, 17, 2, 5
    qkv = torch.randn(batch, length, 3 * n_heads * head, dtype=torch.float64)
    found = []
    for short, heads in ((17, 0), (16, 4), (16, 1)):  # all of them, 4 + 2, one by one
        monkeypatch.setattr(transformer, "_SHORT", short)
        monkeypatch.setattr(transformer, "_AT_ONCE", heads * length**2)
        leaf = qkv.clone().requires_grad_()
        mixed = transformer._Attend.apply(leaf, n_heads)
        (mixed**2).sum().backward()
        found.append((mixed.detach(), leaf.grad))
    for one in found[1:]:
        for mine, its in zip(one, found[0], strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semantoks.atlas.channels import TokenRows
from semantoks.config import describe
from semantoks.data.recording import Recording
from semantoks.data.store import write_store
from semantoks.errors import ConfigError, InputError
from semantoks.views.augment import (
    AugmentConfig,
    augment,
    kept_rois,
    kept_times,
    white_noise,
)
from semantoks.views.crops import CropConfig, draw_starts, evenly_spaced_starts
from semantoks.views.loader import ViewLoader
from semantoks.views.masks import MASKS, MaskConfig, draw_masks, network_masks, temporal_masks

quick = settings(max_examples=40, deadline=None)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- crops -----------------------------------------------------------------------------------------


@quick
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=9),
    view=st.integers(1, 120),
    least=st.integers(0, 90),
    extra=st.one_of(st.none(), st.integers(0, 90)),
    seed=st.integers(0, 99),
)
def test_crops_stay_inside_and_keep_their_distance(lengths, view, least, extra, seed):
    config = CropConfig(min_distance=least, max_distance=None if extra is None else least + extra)
    starts = draw_starts(np.array(lengths), view, config, np.random.default_rng(seed))
    room = np.maximum(np.array(lengths) - view, 0)
    assert starts.shape == (2, len(lengths))
    assert (starts >= 0).all()
    assert (starts <= room).all()
    distance = abs(starts[0] - starts[1])
    assert (distance >= np.minimum(least, room)).all()
    if extra is not None:
        assert (distance <= least + extra).all()


def test_independent_crops_reach_every_start_equally():
    starts = draw_starts(np.full(60_000, 107), 100, CropConfig(), np.random.default_rng(1))
    share = np.bincount(starts.ravel(), minlength=8) / starts.size
    np.testing.assert_allclose(share, 1 / 8, atol=0.005)
    assert abs(np.corrcoef(starts)[0, 1]) < 0.02


@quick
@given(length=st.integers(1, 400), view=st.integers(1, 150), n=st.integers(1, 12))
def test_evenly_spaced_crops_cover_both_ends(length, view, n):
    starts = evenly_spaced_starts(length, view, n)
    assert (np.diff(starts) > 0).all()
    assert starts[0] == 0
    assert starts[-1] == (max(length - view, 0) if n > 1 else 0)
    assert len(starts) == min(n, max(length - view, 0) + 1)


def test_even_spacing_takes_both_ends_in_random_order():
    lengths = np.array([107, 100, 41])
    rng = np.random.default_rng(0)
    drawn = [draw_starts(lengths, 100, CropConfig(spacing="even"), rng) for _ in range(60)]
    assert {tuple(starts[:, 0]) for starts in drawn} == {(0, 7), (7, 0)}
    assert all((np.sort(starts, axis=0) == [[0, 0, 0], [7, 0, 0]]).all() for starts in drawn)
    with pytest.raises(ConfigError, match="leaves no distance to choose"):
        CropConfig(spacing="even", max_distance=8)


def test_crop_distances_that_contradict_are_refused():
    with pytest.raises(ConfigError, match=r"max_distance = 3.*at least min_distance \(5\)"):
        CropConfig(min_distance=5, max_distance=3)


# -- augmentation ----------------------------------------------------------------------------------


@quick
@given(
    m=st.integers(1, 5),
    rois=st.integers(1, 23),
    times=st.integers(1, 31),
    low=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_dropouts_hide_the_right_share(m, rois, times, low, seed):
    ratio = (low, min(low + 0.1, 1.0))
    dropped = (~kept_rois(m, rois, ratio, generator(seed))).sum(dim=1)
    assert ((dropped >= max(1, int(low * rois))) & (dropped <= max(1, ratio[1] * rois))).all()

    hidden = ~kept_times(m, times, ratio, generator(seed))
    count = hidden.sum(dim=1)
    assert ((count >= max(1, int(low * times))) & (count <= max(1, ratio[1] * times))).all()
    edges = hidden.int().diff(dim=1, prepend=torch.zeros(m, 1)).clamp(min=0).sum(dim=1)
    assert (edges == 1).all(), "one contiguous block"


def test_amplitude_is_one_factor_per_view_and_noise_has_its_level():
    x = torch.ones(400, 7, 5)
    only = {f.name: "none" for f in dataclasses.fields(AugmentConfig)}
    scaled = augment(x.clone(), AugmentConfig(**{**only, "amplitude": "light"}), generator())
    assert torch.equal(scaled, scaled[:, :1, :1].expand_as(scaled))
    assert 0.8 <= scaled.min() < 0.82
    assert 1.18 < scaled.max() <= 1.2
    noise = augment(x.clone(), AugmentConfig(**{**only, "noise": "heavy"}), generator()) - x
    assert noise.std() == pytest.approx(0.4, rel=0.02)
    assert torch.equal(augment(x.clone(), AugmentConfig(**only), generator()), x)


def test_augmentation_is_a_function_of_the_generator():
    x = torch.randn(37, 11, 24, generator=generator(5))  # its noise comes in more than one part
    one, two = (augment(x.clone(), AugmentConfig(), generator(8)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, augment(x.clone(), AugmentConfig(), generator(9)))
    noise = augment(torch.zeros(37, 11, 24), AugmentConfig(), generator(8)).flatten(1)
    assert (torch.corrcoef(noise) - torch.eye(37)).abs().max() < 0.35, "no part repeats another"


@quick
@given(shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 11)))
def test_noise_of_any_shape(shape):
    assert white_noise(shape, generator()).shape == shape


def test_noise_is_white_and_normal():
    noise = white_noise((499, 1001), generator()).double()
    assert scipy.stats.kstest(noise.flatten(), "norm").pvalue > 0.01
    assert noise.var() == pytest.approx(1.0, abs=0.006)
    for lag in range(1, 9):  # four values come from one random integer
        one, other = noise[:, :-lag].flatten(), noise[:, lag:].flatten()
        assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.006


def test_steps_in_any_order_are_the_same(store):
    in_turn, jumping = make_loader(store), make_loader(store)
    expected = [in_turn.batch(step).views for step in range(4)]
    for step in (0, 1, 3, 2, 2, 3):
        assert torch.equal(jumping.batch(step).views, expected[step])


# -- masks -----------------------------------------------------------------------------------------


@quick
@given(
    kind=st.sampled_from(["slice", "temporal", "network", "random"]),
    n=st.integers(2, 19),
    p=st.integers(2, 17),
    low=st.floats(0.01, 0.9),
    width=st.floats(0, 0.5),
    seed=st.integers(0, 99),
)
def test_masks_hide_something_and_never_all(kind, n, p, low, width, seed):
    config = MaskConfig(kind=kind, frequency=1.0, ratio_min=low, ratio_max=min(low + width, 0.95))
    config.check_grid(n, p)
    masks = draw_masks(6, n, p, config, generator(seed))
    assert masks.shape == (6, n, p)
    assert masks.flatten(1).any(dim=1).all()
    assert not masks.flatten(1).all(dim=1).any()
    whole_patches = masks.all(dim=1).sum(dim=1) * n == masks.flatten(1).sum(dim=1)
    whole_networks = masks.all(dim=2).sum(dim=1) * p == masks.flatten(1).sum(dim=1)
    if kind == "temporal":
        assert whole_patches.all()
    if kind == "network":
        assert whole_networks.all()
    if kind == "slice":
        assert (whole_patches | whole_networks).all()
    if kind == "random":
        share = masks.float().mean(dim=(1, 2))
        assert (share >= low - 1 / (n * p)).all()


@given(
    kind=st.sampled_from(sorted(MASKS)),
    n=st.integers(2, 11),
    p=st.integers(2, 9),
    low=st.floats(0.05, 0.9),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_every_kind_of_mask_hides_what_it_says(kind, n, p, low, seed):
    """At least ratio_min of the grid, less one of what it hides as a whole; never all."""
    config = MaskConfig(kind=kind, frequency=1.0, ratio_min=low, ratio_max=min(low + 0.05, 0.99))
    masks = draw_masks(7, n, p, config, generator(seed))
    hidden = masks.flatten(1).sum(dim=1)
    size = {"networks": p, "patches": n, "tokens": 1}
    slack = max(size[unit] for unit in MASKS[kind].units)
    assert (hidden >= max(1, math.ceil(low * n * p - slack - 1e-3))).all()
    assert (hidden < n * p).all()
    assert MASKS[kind].help
    assert kind in trees_docs()


def trees_docs() -> str:
    (key,) = (k for k in describe(MaskConfig()) if k.path == "kind")
    return key.doc


def test_masks_of_the_paper_hide_3_or_4_of_5_patches_and_5_or_6_of_9_networks():
    temporal = temporal_masks(4000, 9, 5, MaskConfig(), generator())[:, 0].sum(dim=1)
    share = torch.bincount(temporal, minlength=6) / len(temporal)
    # ceil(5 r) - 1 with r ~ U(.65, .85): 3 for r <= .8, else 4.
    torch.testing.assert_close(share, torch.tensor([0, 0, 0, 0.75, 0.25, 0]), atol=0.03, rtol=0)
    network = network_masks(4000, 9, 5, MaskConfig(), generator())[:, :, 0].sum(dim=1)
    share = torch.bincount(network, minlength=10) / len(network)
    assert share[5] == pytest.approx(0.5, abs=0.03)
    assert share[6] == pytest.approx(0.5, abs=0.03)


def test_canonical_masks_keep_finer_tokens_of_a_network_together():
    groups = torch.tensor([0, 2, 1, 2, 0, 2, 3])
    config = MaskConfig(kind="network", frequency=1.0, canonical=True, ratio_min=0.4)
    masks = draw_masks(300, 7, 5, config, generator(), groups)
    for group in range(4):
        rows = masks[:, groups == group]
        assert (rows.all(dim=1) == rows.any(dim=1)).all()
    hidden = torch.stack([masks[:, groups == g].all(dim=(1, 2)) for g in range(4)]).sum(dim=0)
    assert set(hidden.tolist()) == {1, 2}
    with pytest.raises(ConfigError, match="has no effect on masks of the kind 'temporal'"):
        MaskConfig(kind="temporal", canonical=True)


def test_a_temporal_mask_is_one_run_that_reaches_every_patch():
    masks = temporal_masks(3000, 2, 7, MaskConfig(ratio_min=0.3, ratio_max=0.31), generator())
    runs = masks[:, 0].int().diff(dim=1, prepend=torch.zeros(3000, 1)).clamp(min=0).sum(dim=1)
    assert (runs == 1).all()
    assert masks[:, 0].any(dim=0).all()


def test_a_step_uses_masks_as_often_as_configured():
    config = MaskConfig(frequency=0.25)
    used = [draw_masks(1, 3, 4, config, generator(seed)) is not None for seed in range(800)]
    assert np.mean(used) == pytest.approx(0.25, abs=0.05)
    assert draw_masks(1, 3, 4, MaskConfig(kind="none"), generator()) is None


def test_masks_that_cannot_fit_the_grid_are_refused():
    with pytest.raises(ConfigError, match="slice masks need at least 2 patches"):
        MaskConfig(kind="slice").check_grid(9, 1)
    with pytest.raises(ConfigError, match="network masks need at least 2 networks"):
        MaskConfig(kind="network").check_grid(1, 5)
    with pytest.raises(ConfigError, match="0 < ratio_min <= ratio_max < 1"):
        MaskConfig(ratio_min=0.9, ratio_max=0.8)


# -- batches ---------------------------------------------------------------------------------------


def make_loader(store, *, batch_size=4, n_patches=4, seed=0, **changes):
    rows = replace(TokenRows.by_group(store.parcellation), groups=np.array([0, 1, 1]))
    none = AugmentConfig(roi_dropout="none", time_dropout="none", amplitude="none", noise="none")
    options = {"crops": CropConfig(), "augmentation": none, "masks": MaskConfig(frequency=1.0)}
    return ViewLoader(
        store,
        rows,
        patch_length=6,
        n_patches=n_patches,
        batch_size=batch_size,
        seed=seed,
        device=torch.device("cpu"),
        **{**options, **changes},
    )


def test_an_epoch_shows_every_subject_once_in_even_batches(store):
    loader = make_loader(store)
    assert (loader.n_subjects, loader.steps_per_epoch) == (10, 3)
    subjects = store.table["subject"].to_numpy()
    orders = []
    for epoch in range(2):
        steps = range(epoch * 3, epoch * 3 + 3)
        batches = [loader.recordings(step) for step in steps]
        assert sorted(map(len, batches)) == [3, 3, 4]
        shown = np.concatenate(batches)
        assert sorted(subjects[shown]) == sorted(set(subjects))
        orders.append(shown.tolist())
    assert orders[0] != orders[1]


def test_every_recording_of_a_subject_is_shown_sooner_or_later(store):
    loader = make_loader(store)
    shown = np.concatenate([loader.recordings(step) for step in range(3 * 30)])
    assert set(shown) == set(range(len(store)))


def test_a_batch_is_a_function_of_the_step(store):
    one, two = make_loader(store), make_loader(store)
    one.batch(0)  # what came before must not matter
    a, b = one.batch(5), two.batch(5)
    assert torch.equal(a.views, b.views)
    assert torch.equal(a.masks, b.masks)
    assert not torch.equal(a.views, make_loader(store, seed=1).batch(5).views)


def test_views_are_crops_of_their_recording_with_rois_first(store):
    loader = make_loader(store)
    batch = loader.batch(2)
    rows = loader.recordings(2)
    assert batch.views.shape == (2, len(rows), 11, 24)
    assert batch.masks.shape == (2, len(rows), 3, 4)
    assert batch.missing is None
    for view in batch.views:
        for crop, row in zip(view.numpy(), rows, strict=True):
            signal = store.signal(row)
            places = range(len(signal) - 24 + 1)
            assert any(np.array_equal(crop.T, signal[p : p + 24]) for p in places)


def test_patches_past_the_end_and_networks_without_data_are_missing(
    tmp_path, recordings, parcellation, preprocessing
):
    vis = [label for label in parcellation.labels if label.startswith("Vis")]
    some = []
    for i, r in enumerate(recordings[:5]):
        signal = r.signal.copy()
        if i == 2:
            signal[:, [r.roi_names.index(v) for v in vis]] = 0
        some.append(dataclasses.replace(r, signal=signal[: 20 + i]))
    store = write_store(tmp_path / "s", some, parcellation, preprocessing, missing_rois="mark")
    loader = make_loader(store, n_patches=5, batch_size=9)
    batch = loader.batch(0)
    rows = loader.recordings(0)
    assert batch.missing.shape == (2, len(rows), 3, 5)
    for view in range(2):
        for place, row in enumerate(rows):
            missing = batch.missing[view, place].numpy()
            expected = np.zeros((3, 5), bool)
            expected[:, 4] = store.table["length"][row] <= 24  # patch 4 starts at time 24
            expected[0] |= row == 2
            np.testing.assert_array_equal(missing, expected)


def test_one_subject_is_not_enough(tmp_path, recordings, parcellation, preprocessing):
    alone = [r for r in recordings if r.subject == "p00"]
    store = write_store(tmp_path / "s", alone, parcellation, preprocessing)
    with pytest.raises(InputError, match="at least 2 subjects"):
        make_loader(store)


def test_recordings_carry_bids_like_ids(recordings: list[Recording]):
    assert recordings[1].id == "sub-p00_ses-2"

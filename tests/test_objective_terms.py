"""Loss terms of contrast, prototypes, Barlow Twins and order, computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semantoks.errors import ConfigError, InputError
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.objectives.barlow import BarlowTwins, BarlowTwinsConfig
from semantoks.objectives.contrastive import Contrastive, ContrastiveConfig, TimeConfig
from semantoks.objectives.dino import DINO, DINOConfig, Scored
from semantoks.objectives.expanded import Expanded
from semantoks.objectives.objective import Moment
from semantoks.objectives.order import Judged, Order, OrderConfig, OrderPlan, reversed_in_time
from semantoks.objectives.schedules import OptimConfig
from semantoks.objectives.terms.contrastive import info_nce, koleo, two_view_info_nce
from semantoks.objectives.terms.prototypes import assign, cross_view_entropy
from semantoks.objectives.terms.redundancy import cross_correlation
from semantoks.views.batch import ViewBatch
from semantoks.views.crops import CropConfig, CropGroup, draw_group

CONFIG = EncoderConfig(width=20, depth=1, head_width=5, patch_length=6, n_patches=4)
LOG3 = math.log(3)


@pytest.fixture
def encoder(parcellation, preprocessing):
    return Encoder.random(CONFIG, parcellation, preprocessing, seed=0)


def double(*rows):
    return torch.tensor(rows, dtype=torch.float64)


# -- contrast --------------------------------------------------------------------------------------


def test_an_anchor_s_loss_is_that_of_its_softmax():
    """Logits 0, log 2, log 3, log 4; the last does not count."""
    similarity = torch.tensor([0.0, 2.0, 3.0, 4.0]).log().clamp(min=0)[None]
    positive = torch.tensor([[False, True, True, False]])
    negative = torch.tensor([[True, False, False, False]])
    loss, counted = info_nce(similarity, positive, negative)
    # The partition is 1 + 2 + 3; the positives have 2/6 and 3/6.
    assert float(loss) == pytest.approx(-(math.log(2 / 6) + math.log(3 / 6)) / 2)
    assert counted.tolist() == [True]
    loss, counted = info_nce(similarity.requires_grad_(), positive, torch.zeros_like(negative))
    assert (loss.tolist(), counted.tolist()) == ([0.0], [False])
    (gradient,) = torch.autograd.grad(loss.sum(), similarity)
    assert gradient.tolist() == [[0.0] * 4]


def test_two_views_are_contrasted_with_all_other_crops(encoder):
    """Two recordings along the axes, views alike: cosines are 1 and 0."""
    z = torch.stack([double([2.0, 0.0], [0.0, 3.0])] * 2)
    tau = 1 / LOG3
    expected = -math.log(3 / (3 + 1 + 1))
    assert float(two_view_info_nce(z, tau)) == pytest.approx(expected)
    method = Contrastive(encoder, ContrastiveConfig(temperature=tau))
    losses = method.loss(Expanded(torch.zeros(2, 2, 20), z), None, torch.zeros(2, 2))
    assert float(losses.total) == pytest.approx(expected)


def test_time_contrasts_near_crops_with_far_ones_of_the_same_scan(encoder):
    """Two pairs per scan; in the second scan they lie too near one another to count."""
    time = TimeConfig(n_pairs=2, n_patches=1, gap=2, margin=1)
    method = Contrastive(
        encoder, ContrastiveConfig(positives="time", time=time, temperature=1 / LOG3)
    )
    assert method.far == 6 + 2 + 1 + 1
    assert method.views.groups[0] == CropGroup(n_views=4, n_patches=1, pair_gap=2)
    x, y = [1.0, 0.0], [0.0, 1.0]
    z = torch.stack([double(row, y) for row in (x, x, y, x)])  # (4, 2, 2)
    starts = torch.tensor([[0, 0], [7, 7], [30, 8], [37, 9]])
    loss = method.loss(Expanded(torch.zeros(4, 2, 20), z), None, starts).total
    # Anchors 0 and 1: mate 3, negatives 1 and 3. Anchor 2: all 1. Anchor 3: mate 1, both 3.
    expected = [math.log(7 / 3)] * 2 + [math.log(3), math.log(7)]
    assert float(loss) == pytest.approx(sum(expected) / 4)
    batch = ViewBatch(torch.zeros(4, 2, 11, 6), None, starts=starts[:, 1:])
    longer = TimeConfig(n_patches=2, gap=3)
    method = Contrastive(encoder, ContrastiveConfig(positives="time", time=longer))
    with pytest.raises(InputError, match="= 9: must be at least 16 time points in some"):
        method.plan(batch, Moment(0, 9, 3))
    assert method.plan(batch, Moment(1, 9, 3)) is batch.starts


@given(
    n=st.integers(1, 70), length=st.integers(1, 20), gap=st.integers(0, 9), seed=st.integers(0, 9)
)
@settings(max_examples=50, deadline=None)
def test_pairs_of_crops_share_no_volume_where_there_is_room(n, length, gap, seed):
    group = CropGroup(n_views=6, pair_gap=gap)
    starts = draw_group(group, np.array([n, 70]), length, CropConfig(), np.random.default_rng(seed))
    assert starts.shape == (6, 2)
    assert (starts >= 0).all()
    assert (starts <= np.maximum([n - length, 70 - length], 0)).all()
    distance = abs(starts[::2] - starts[1::2])
    assert (distance <= length + gap).all()
    assert (distance[:, 1] >= length).all()


def test_subjects_are_contrasted_over_their_recordings(tiny_run, store, tmp_path):
    from semantoks.train.trainer import Trainer

    tree = {"kind": "contrastive", "positives": "subject", "projection_hidden": 9}
    trainer = Trainer(tiny_run(objective=tree), tmp_path / "run")
    subject = store.table["subject"].to_numpy(str)
    several = 0
    for trainer.step in range(6):
        batch = trainer._batch()
        one, two = batch.recordings.numpy()
        assert (subject[one] == subject[two]).all()
        alone = np.array([(subject == name).sum() == 1 for name in subject[one]])
        assert ((one == two) == alone).all()
        assert np.unique(subject)[batch.subjects].tolist() == subject[one].tolist()
        several += int((~alone).sum())
        for view, recordings in enumerate((one, two)):
            signal = store.signal(int(recordings[0]))[int(batch.starts[view, 0]) :]
            assert len(signal) >= int(batch.lengths[view, 0])
        assert [len(p.recordings[0]) for p in batch.split(2)] == [len(one) // 2, -(-len(one) // 2)]
    assert several > 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContrastiveConfig(temperature=0.0), "temperature = 0.0: must be positive"),
        (lambda: ContrastiveConfig(time=TimeConfig(gap=3)), "no effect on positives=crop"),
        (lambda: TimeConfig(n_pairs=1), "n_pairs = 1: must be at least 2"),
        (lambda: TimeConfig(gap=-1), "gap = -1: must not be negative"),
        (lambda: CropGroup(n_views=3, pair_gap=1), "pair_gap: needs pairs"),
        (lambda: CropGroup(across=True, halves=True), "only one of halves"),
        (lambda: BarlowTwinsConfig(redundancy_weight=0.0), "redundancy_weight = 0.0: must be pos"),
        (lambda: DINOConfig(n_short=-1), "n_short = -1: must not be negative"),
        (lambda: DINOConfig(centre_momentum=1.0), r"centre_momentum = 1.0: must lie in \[0, 1\)"),
        (lambda: OrderConfig(order_weight=-1.0), "order_weight = -1.0: must not be negative"),
        (lambda: OrderConfig(order_weight=0.0, direction_weight=0.0), "at least one term"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# -- Barlow Twins ----------------------------------------------------------------------------------


def test_barlow_twins_by_hand(encoder):
    """Dimension 0 of both views is the same, dimension 1 of the second view has it reversed."""
    one = double([-1.0, 1.0], [0.0, -2.0], [1.0, 1.0])
    two = double([-2.0, 5.0], [0.0, 4.0], [2.0, 3.0])
    # Variances 2/3, 2; 8/3, 2/3. Covariances 4/3, -2/3; 0, 0.
    expected = [[1.0, -1.0], [0.0, 0.0]]
    found = cross_correlation(one, two, eps=0.0)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    method = BarlowTwins(encoder, BarlowTwinsConfig(redundancy_weight=0.5, scale=3.0, eps=1e-12))
    losses = method.loss(Expanded(torch.zeros(2, 3, 20), torch.stack([one, two])), None, None)
    assert {k: float(v) for k, v in losses.terms.items()} == pytest.approx(
        {"invariance": 0 + 1, "redundancy": 1}
    )
    assert float(losses.total) == pytest.approx(3 * (1 + 0.5))
    z = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: cross_correlation(*x), z.requires_grad_())


# -- prototypes ------------------------------------------------------------------------------------


def test_centred_scores_are_sharpened():
    scores = double([[0.5, 0.1], [0.1, 0.1]])
    shares = assign(scores, 0.4 / LOG3, torch.tensor([0.1, 0.1], dtype=torch.float64))
    np.testing.assert_allclose(shares, [[[0.75, 0.25], [0.5, 0.5]]])


def test_sinkhorn_gives_every_prototype_its_share():
    """Two crops of one recording; one iteration by hand: exp are 3, 1 and 3, 3."""
    scores = double([[1.0, 0.0]], [[1.0, 1.0]])
    shares = assign(scores, 1 / LOG3, None, iterations=1)
    # Columns (3, 3) and (1, 3) become (.5, .5) and (.25, .75), rows then sum to 1.
    np.testing.assert_allclose(shares, [[[2 / 3, 1 / 3]], [[0.4, 0.6]]])
    many = torch.rand(2, 40, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shares = assign(many, 0.05, None, iterations=100)
    np.testing.assert_allclose(shares.sum(dim=(0, 1)), [80 / 5] * 5, rtol=1e-3)
    np.testing.assert_allclose(shares.sum(dim=2), np.ones((2, 40)))


def test_every_crop_is_compared_with_the_others():
    """Three crops, the teacher saw the first two: pairs (0, 1), (0, 2), (1, 0), (1, 2)."""
    wanted = double([[1.0, 0.0]], [[0.0, 1.0]])
    p = double([[0.5, 0.5]], [[0.25, 0.75]], [[0.1, 0.9]])
    expected = -(math.log(0.25) + math.log(0.1) + math.log(0.5) + math.log(0.9)) / 4
    assert float(cross_view_entropy(p.log(), wanted)) == pytest.approx(expected)


def test_koleo_by_hand():
    """Unit vectors at 0, 90 and 180 degrees: the nearest is sqrt 2 away from each."""
    assert float(koleo(double([2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]))) == pytest.approx(
        -math.log(math.sqrt(2)), abs=1e-6
    )


def test_the_centre_follows_the_teacher_s_scores(encoder):
    config = DINOConfig(
        n_prototypes=2, head_hidden=5, bottleneck=3, balance="centring", koleo_weight=0.0
    )
    method = DINO(encoder, config)
    scores = torch.tensor([[[0.2, 0.4], [0.6, 0.0]]] * 2)
    outputs = Scored(torch.zeros(2, 2, 20), scores)
    losses = method.loss(outputs, outputs, plan=False)
    assert losses.terms.keys() == {"dino"}
    assert method.centre.tolist() == [0.0, 0.0], "a step that is skipped leaves it"
    values = method.after_step(Moment(0, 9, 3), OptimConfig())
    np.testing.assert_allclose(method.centre, [0.04, 0.02], rtol=1e-6)
    assert values.keys() == {"teacher_momentum"}
    assert method.plan(None, Moment(2, 9, 3))
    assert not method.plan(None, Moment(3, 9, 3))


def test_frozen_prototypes_get_no_gradient(encoder):
    method = DINO(encoder, DINOConfig(n_prototypes=7, head_hidden=5, bottleneck=3, n_short=0))
    views = torch.randn(2, 3, 11, 24)
    for frozen in (True, False):
        method.zero_grad()
        method.student([(views, None)], frozen).scores.square().sum().backward()
        assert (method.student.prototypes.grad is None) is frozen
        assert method.student.head[0].weight.grad.abs().sum() > 0


# -- order -----------------------------------------------------------------------------------------


def test_order_and_direction_by_hand(encoder):
    """The second pair starts too near to count."""
    method = Order(encoder, OrderConfig(order_weight=2.0, direction_weight=5.0, min_distance=4))
    starts = torch.tensor([[0, 5, 9], [4, 2, 1]])
    earlier = double(LOG3, 7.0, -LOG3)
    backwards = double([-LOG3] * 3, [LOG3, LOG3, 0.0])
    outputs = Judged(torch.zeros(2, 3, 20), earlier, backwards)
    losses = method.loss(outputs, None, OrderPlan(starts, True))
    right = -math.log(3 / 4)
    assert float(losses.terms["order"]) == pytest.approx(right)
    assert float(losses.terms["direction"]) == pytest.approx((5 * right + math.log(2)) / 6)
    assert float(losses.total) == pytest.approx(2 * right + 5 * (5 * right + math.log(2)) / 6)


def test_what_was_recorded_runs_backwards():
    views = torch.arange(24.0).view(2, 2, 6)
    found = reversed_in_time(views, torch.tensor([6, 4]))
    assert found[0, 1].tolist() == [11, 10, 9, 8, 7, 6]
    assert found[1, 0].tolist() == [15, 14, 13, 12, 16, 17]


def test_order_alone_encodes_no_reversed_view(encoder):
    method = Order(encoder, OrderConfig(direction_weight=0.0))
    batch = ViewBatch(
        torch.randn(2, 3, 11, 24), None, starts=torch.zeros(2, 3), lengths=torch.full((2, 3), 24)
    )
    plan = method.plan(batch, Moment(0, 9, 3))
    outputs = method.learner(*method.inputs(batch, plan))
    assert outputs.backwards is None
    assert method.loss(outputs, None, plan).total.tolist() == 0, "no pair lies far enough apart"

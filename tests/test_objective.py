"""The loss terms against their equations, and what counts on which step."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semantoks.errors import ConfigError
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.objectives.distillation import DistillationConfig, SelfDistillation
from semantoks.objectives.objective import Losses
from semantoks.objectives.schedules import network_weight
from semantoks.objectives.terms.coding_rate import (
    coding_rate,
    coding_rate_weight,
    masked_agreement,
    simdino,
)
from semantoks.objectives.terms.monitors import effective_rank, mean_cosine
from semantoks.views.batch import ViewBatch

# B = 3, C = 11 in N = 3 networks, T = 24 = 4 patches of 6; d = 7.
B, C, T, N, P, L, D_OUT = 3, 11, 24, 3, 4, 6, 7
CONFIG = EncoderConfig(width=20, depth=1, head_width=5, patch_length=L, n_patches=P)
OBJECTIVE = DistillationConfig(projection_hidden=9, projection_width=D_OUT)


def unit_rows(seed: int, *shape: int) -> torch.Tensor:
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()
    return torch.nn.functional.normalize(z, dim=-1)


# -- terms -----------------------------------------------------------------------------------------


@given(
    m=st.integers(1, 9),
    d=st.integers(1, 9),
    eps=st.floats(0.01, 2.0),
    n_processes=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_coding_rate_is_its_equation(m, d, eps, n_processes, seed):
    z = unit_rows(seed, m, d)
    rate = float(coding_rate(z, eps=eps, n_processes=n_processes))
    # 1/2 logdet through the eigenvalues of Z Z^T: another matrix, the same determinant.
    values = np.linalg.eigvalsh((z @ z.T).numpy()).clip(0)
    expected = 0.5 * np.log1p(d / (m * n_processes * eps) * values).sum()
    assert rate == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert rate >= 0


def test_coding_rate_grows_as_rows_spread():
    alike = unit_rows(0, 1, 6).expand(5, 6)
    assert float(coding_rate(alike)) < float(coding_rate(unit_rows(0, 5, 6)))
    assert (
        float(coding_rate(unit_rows(0, 5, 6)))
        < float(coding_rate(torch.eye(6).double()[:5])) + 1e-9
    )


@pytest.mark.parametrize(("dtype", "wide"), [(torch.bfloat16, torch.float32), (torch.float64,) * 2])
def test_coding_rate_is_computed_in_float32_at_least(dtype, wide):
    assert coding_rate(unit_rows(0, 4, 5).to(dtype)).dtype == wide
    with torch.autocast("cpu", torch.bfloat16):
        z = unit_rows(0, 2, 4, 5).float()
        assert simdino(z, z.flip(0)).dtype == torch.float32
        expected = simdino(z.double(), z.flip(0).double())
    assert float(simdino(z, z.flip(0))) == pytest.approx(float(expected), rel=1e-5)


def test_weight_of_the_coding_rate():
    assert coding_rate_weight(3, 7) == pytest.approx((7 + 3) / (7 * 3))
    assert coding_rate_weight(3, 7, n_processes=4) == pytest.approx((7 + 4 * 3) / (7 * 4 * 3))


def test_simdino_is_its_equation():
    student, teacher = unit_rows(1, 2, 5, D_OUT), unit_rows(2, 2, 5, D_OUT)
    agreement = 0.0
    for t, s in ((0, 1), (1, 0)):  # across views only
        agreement += sum(float(teacher[t, b] @ student[s, b]) for b in range(5)) / 5 / 2
    rate = sum(float(coding_rate((student[v] + teacher[v]) / 2)) for v in range(2)) / 2
    expected = -agreement - (D_OUT + 5) / (D_OUT * 5) * rate
    assert float(simdino(student, teacher)) == pytest.approx(expected, rel=1e-12)


def test_masked_agreement_counts_recordings_not_tokens():
    student, teacher = unit_rows(1, 4, 6, D_OUT), unit_rows(2, 4, 6, D_OUT)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[0, :5] = mask[1, 2] = mask[3, 4:] = True  # recording 2 has no masked token
    means = []
    for m in (0, 1, 3):
        cosines = [float(student[m, k] @ teacher[m, k]) for k in range(6) if mask[m, k]]
        means.append(-sum(cosines) / len(cosines))
    found = masked_agreement(student[mask], teacher[mask], mask)
    assert float(found) == pytest.approx(sum(means) / 3)
    nowhere = torch.zeros_like(mask)
    assert float(masked_agreement(student[nowhere], teacher[nowhere], nowhere)) == 0.0


def test_collapse_monitors_know_collapse():
    line = torch.linspace(1, 2, 9)[:, None] * torch.ones(9, 5)
    assert effective_rank(line) == pytest.approx(1.0, abs=1e-5)
    assert mean_cosine(line) == pytest.approx(1.0)
    corners = torch.cat([torch.eye(5), -torch.eye(5)])
    assert effective_rank(corners) == pytest.approx(5.0)
    assert mean_cosine(corners) == pytest.approx(-1 / 9)


# -- one step --------------------------------------------------------------------------------------


@pytest.fixture
def make(parcellation, preprocessing):
    def method(**changes) -> SelfDistillation:
        encoder = Encoder.random(CONFIG, parcellation, preprocessing, seed=1)
        torch.manual_seed(6)
        out = SelfDistillation(encoder, replace(OBJECTIVE, **changes)).double()
        for parameter in out.teacher.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        return out

    return method


def batch(masked: bool = True, missing: torch.Tensor | None = None) -> ViewBatch:
    generator = torch.Generator().manual_seed(3)
    views = torch.randn(2, B, C, T, generator=generator).double()
    masks = torch.rand(2, B, N, P, generator=generator) < 0.4
    masks[0, 1] = False  # a recording without a masked token
    return ViewBatch(views, masks if masked else None, missing)


def step_of(method: SelfDistillation, views: ViewBatch, network_weight: float) -> Losses:
    """Return the losses of a step, as the trainer computes them of one part."""
    plan = method.plan_with(views, network_weight)
    targets = method.targets(views, plan)
    return method.loss(method.learner(*method.inputs(views, plan)), targets, plan)


def gradients(method: SelfDistillation) -> set[str]:
    named = method.named_parameters(remove_duplicate=False)
    return {name for name, p in named if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("separate", [False, True])
def test_a_step_is_its_equations(make, masked, separate):
    method, step = make(separate_mask_head=separate), batch(masked)
    losses = step_of(method, step, 0.3)
    s, t = method.student, method.teacher
    outs = []
    for v in range(2):
        mask = step.masks[v] if masked else None
        outs.append((s.encoder(step.views[v], mask), t.encoder(step.views[v])))

    def pair(project):
        return (torch.stack([project(p, out[i]) for out in outs]) for i, p in enumerate((s, t)))

    def averages(projected, out):  # the masked positions included, averaged before the projection
        rows = [out.tokens[b, n * P : (n + 1) * P].mean(0) for b in range(B) for n in range(N)]
        return projected.head(torch.stack(rows))

    cls = simdino(*pair(lambda p, out: p.head(out.cls)))
    network = simdino(*pair(averages))
    torch.testing.assert_close(losses.terms["cls"], cls)
    torch.testing.assert_close(losses.terms["network"], network)
    mask = 0.0
    if masked:
        student, teacher = pair(lambda p, out: p.mask_head(out.tokens))
        hidden = step.masks.flatten(2)
        means = [
            -(student[v, b] * teacher[v, b]).sum(-1)[hidden[v, b]].mean()
            for v in range(2)
            for b in range(B)
            if hidden[v, b].any()
        ]
        assert len(means) == 2 * B - 1
        mask = sum(means) / len(means)
        torch.testing.assert_close(losses.terms["mask"], mask)
    else:
        assert losses.terms["mask"].item() == 0.0
    torch.testing.assert_close(losses.total, cls + 0.3 * network + 0.5 * mask)
    torch.testing.assert_close(losses.embeddings, outs[0][1].cls)


def test_the_teacher_sees_whole_views_and_gets_no_gradient(make):
    method = make()
    losses = step_of(method, batch(), 0.5)
    losses.total.backward()
    assert all(name.startswith("student.") for name in gradients(method))
    assert torch.equal(losses.embeddings, step_of(method, batch(masked=False), 0.5).embeddings)


def test_the_teacher_begins_as_the_student_and_follows_it(parcellation, preprocessing):
    encoder = Encoder.random(CONFIG, parcellation, preprocessing, seed=1)
    method = SelfDistillation(encoder, OBJECTIVE)
    pairs = list(zip(method.student.parameters(), method.teacher.parameters(), strict=True))
    assert all(torch.equal(s, t) for s, t in pairs)
    for student, _ in pairs:
        student.data += 1.0
    before = [t.clone() for _, t in pairs]
    buffers = {k: v.clone() for k, v in method.teacher.named_buffers()}
    method.update_teacher(0.75)
    for (student, teacher), old in zip(pairs, before, strict=True):
        torch.testing.assert_close(teacher.data, 0.75 * old + 0.25 * student.data)
    assert all(torch.equal(v, buffers[k]) for k, v in method.teacher.named_buffers())
    method.update_teacher(1.0)
    for (_, teacher), old in zip(pairs, [t.clone() for _, t in pairs], strict=True):
        assert torch.equal(teacher, old)


def test_the_teacher_never_drops_paths(parcellation, preprocessing):
    config = replace(CONFIG, depth=2, drop_path=0.5)
    method = SelfDistillation(Encoder(config, parcellation, preprocessing), OBJECTIVE).train()
    assert method.student.training
    assert not any(module.training for module in method.teacher.modules())
    step = ViewBatch(torch.randn(2, B, C, T), None)
    assert torch.equal(step_of(method, step, 0.5).embeddings, step_of(method, step, 0.5).embeddings)
    torch.manual_seed(0)
    assert len({step_of(method, step, 0.5).terms["cls"].item() for _ in range(9)}) > 1


# -- weights of the terms --------------------------------------------------------------------------


@pytest.mark.parametrize("term", ["cls", "mask"])
def test_a_term_without_weight_is_not_computed(make, term):
    losses = step_of(make(**{f"{term}_weight": 0.0}), batch(), 0.3)
    assert losses.terms[term].item() == 0.0
    whole = step_of(make(), batch(), 0.3)
    rest = {
        "cls": 0.3 * whole.terms["network"] + 0.5 * whole.terms["mask"],
        "mask": whole.terms["cls"] + 0.3 * whole.terms["network"],
    }
    torch.testing.assert_close(losses.total, rest[term])


def test_terms_carry_their_weights(make):
    losses = step_of(make(cls_weight=2.0, mask_weight=0.25), batch(), 0.7)
    expected = (
        2.0 * losses.terms["cls"] + 0.7 * losses.terms["network"] + 0.25 * losses.terms["mask"]
    )
    torch.testing.assert_close(losses.total, expected)


def test_without_l_net_no_gradient_reaches_it(make):
    method = make(cls_weight=0.0)
    losses = step_of(method, batch(), 0.0)
    assert losses.terms["network"].item() == 0.0
    losses.total.backward()
    assert "student.encoder.mask_token" in gradients(method)


def test_a_step_on_which_no_term_counts_changes_nothing_and_can_be_taken(make):
    """Without L_cls, after L_net's time, on a step without masks."""
    method = make(cls_weight=0.0)
    losses = step_of(method, batch(masked=False), 0.0)
    assert losses.total.item() == 0.0
    losses.total.backward()
    assert gradients(method) == set()


@pytest.mark.parametrize("separate", [False, True])
def test_masked_tokens_may_have_a_head_of_their_own(make, separate):
    method = make(separate_mask_head=separate, cls_weight=0.0)
    assert (method.student.mask_head is method.student.head) is not separate
    step_of(method, batch(), 0.0).total.backward()
    moved = gradients(method)
    assert "student.mask_head.out.weight" in moved
    assert ("student.head.out.weight" in moved) is not separate


@pytest.mark.parametrize("decay", ["cosine", "linear", "never"])
def test_l_net_fades_as_configured(decay):
    weights = [network_weight(epoch / 4, 0.5, decay, 5.0) for epoch in range(28)]
    assert weights[0] == 0.5
    for epoch in range(20):
        part = epoch / 4 / 5.0
        expected = {
            "cosine": 0.5 * (1 + math.cos(math.pi * part)),
            "linear": 1 - part,
            "never": 1.0,
        }
        assert weights[epoch] == pytest.approx(0.5 * expected[decay])
    assert weights[20:] == [0.5 if decay == "never" else 0.0] * 8


# -- missing data ----------------------------------------------------------------------------------


def missing_tokens() -> torch.Tensor:
    missing = torch.zeros(2, B, N, P, dtype=torch.bool)
    missing[:, 0, :, 3:] = True  # recording 0 is short
    missing[:, 2, 1] = True  # recording 2 has no second network
    return missing


def test_what_is_missing_is_seen_by_nobody(make, parcellation):
    method, missing = make(), missing_tokens()
    one = batch(missing=missing)
    views = one.views.clone()
    views[:, 0, :, 3 * L :] = 9.0
    views[:, 2, parcellation.network_indices[1]] = -9.0
    two = ViewBatch(views, one.masks, missing)
    seen, unseen = step_of(method, one, 0.5), step_of(method, two, 0.5)
    assert torch.equal(seen.total, unseen.total)
    assert torch.equal(seen.embeddings, unseen.embeddings)
    for name, term in seen.terms.items():
        assert torch.equal(term, unseen.terms[name]), name
    assert not torch.equal(step_of(method, one, 0.5).total, step_of(method, batch(), 0.5).total)


def test_what_is_missing_is_no_target(make):
    method, missing, step = make(), missing_tokens(), batch()
    everywhere = ViewBatch(step.views, step.masks | missing, missing)
    only_real = ViewBatch(step.views, step.masks & ~missing, missing)
    torch.testing.assert_close(
        step_of(method, everywhere, 0.5).terms["mask"],
        step_of(method, only_real, 0.5).terms["mask"],
    )
    nothing = ViewBatch(step.views, missing, missing)
    assert step_of(method, nothing, 0.5).terms["mask"].item() == 0.0


def test_missing_data_without_masks(make):
    losses = step_of(make(), batch(masked=False, missing=missing_tokens()), 0.5)
    assert losses.terms["mask"].item() == 0.0
    assert torch.isfinite(losses.total)


def test_the_batch_order_does_not_matter(make):
    method, step, order = make(), batch(missing=missing_tokens()), [2, 0, 1]
    shuffled = ViewBatch(step.views[:, order], step.masks[:, order], step.missing[:, order])
    torch.testing.assert_close(
        step_of(method, shuffled, 0.5).total, step_of(method, step, 0.5).total
    )
    swapped = ViewBatch(step.views.flip(0), step.masks.flip(0), step.missing.flip(0))
    torch.testing.assert_close(
        step_of(method, swapped, 0.5).total, step_of(method, step, 0.5).total
    )


def test_gradients_are_those_of_finite_differences(make):
    method, step = make(separate_mask_head=True), batch(missing=missing_tokens())
    step_of(method, step, 0.5).total.backward()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in method.student.named_parameters():
        moved = copy.deepcopy(method)
        direction = torch.randn(parameter.shape, generator=generator).double()
        twin = dict(moved.student.named_parameters())[name]
        values = []
        for sign in (1, -1):
            twin.data = parameter.data + sign * 1e-6 * direction
            values.append(float(step_of(moved, step, 0.5).total.detach()))
        slope = (values[0] - values[1]) / 2e-6
        expected = float((parameter.grad * direction).sum())
        assert slope == pytest.approx(expected, rel=1e-4, abs=1e-7), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cls_weight": -1.0}, r"objective\.cls_weight = -1\.0: must not be negative"),
        ({"eps": 0.0}, r"objective\.eps = 0\.0: must be positive"),
        ({"network_epochs": 0.0}, r"objective\.network_epochs"),
        (
            {"cls_weight": 0.0, "network_weight": 0.0, "mask_weight": 0.0},
            "at least one loss term must have a weight",
        ),
    ],
)
def test_impossible_objectives_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        DistillationConfig(**changes)

"""Equal to the authors' numbers: every output, loss term, gradient, and one optimisation step.

The tiny set lives in `tests/golden`; the small one (wider, deeper, more masks, a whole step) is
read from beside the repository where it is there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from semantoks.model.authors import authors_name, read_authors
from semantoks.objectives import schedules
from semantoks.objectives.distillation import DistillationConfig, SelfDistillation
from semantoks.objectives.objective import Losses
from semantoks.views.batch import ViewBatch

TINY = Path(__file__).parent / "golden"
SMALL = Path(__file__).parents[2] / "shared" / "golden"
ORDER = range(9)

# (outputs and losses, gradients' norms): relative to the largest value of an array.
TOLERANCE = {torch.float64: (1e-9, 1e-4), torch.float32: (1e-5, 1e-4)}
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
SETS = pytest.mark.parametrize("which", ["tiny", "small"])
LOSSES = {
    "A_mask_net": (True, 0.5),
    "B_nomask_net": (False, 0.5),
    "C_mask_nonet": (True, 0.0),
    "D_nomask_nonet": (False, 0.0),
}


class Golden:
    """Their numbers, and their weights in our modules."""

    def __init__(self, which: str, dtype: torch.dtype) -> None:
        folder = TINY if which == "tiny" else SMALL
        file = folder / f"golden_{which}.npz"
        if not file.exists():
            pytest.skip(f"{file.name} is not beside this checkout")
        with np.load(file) as archive:
            self.numbers = dict(archive)
        encoder, weights = read_authors(folder / f"reference_{which}.pth")
        out_width, hidden = weights["student.head.out.weight"].shape
        config = DistillationConfig(projection_hidden=hidden, projection_width=out_width)
        self.method = SelfDistillation(encoder, config).to(dtype)
        missing = self.method.load_state_dict(weights, strict=False).missing_keys
        assert all(".mask_head." in name for name in missing)  # shared with the head
        self.dtype = dtype
        # The tiny numbers are float64 without saying so.
        self.suffix = "_f64" if which == "small" and dtype == torch.float64 else ""

    def tensor(self, name: str) -> torch.Tensor:
        values = torch.from_numpy(self.numbers[name])
        return values if values.dtype == torch.bool else values.to(self.dtype)

    def batch(self, masked: bool) -> ViewBatch:
        views = torch.stack([self.tensor("view1"), self.tensor("view2")])
        masks = torch.stack([self.tensor("mask1"), self.tensor("mask2")]) if masked else None
        return ViewBatch(views, masks)

    def losses(self, batch: ViewBatch, network_weight: float) -> Losses:
        plan = self.method.plan_with(batch, network_weight)
        outputs = self.method.learner(*self.method.inputs(batch, plan))
        return self.method.loss(outputs, self.method.targets(batch, plan), plan)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {authors_name(n, ORDER): p for n, p in self.method.named_parameters()}

    def check(self, name: str, ours: torch.Tensor, tolerance: float | None = None) -> None:
        theirs = self.numbers[name + self.suffix]
        worst = np.abs(ours.detach().numpy() - theirs).max() / np.abs(theirs).max()
        assert worst <= (tolerance or TOLERANCE[self.dtype][0]), f"{name}: {worst:.1e}"


@SETS
@DTYPES
def test_outputs(which, dtype):
    golden = Golden(which, dtype)
    x = golden.tensor("x")
    masks = {"": None, "_mask1": "mask1"}
    if which == "small":
        masks |= {"_keep2": "network_mask_keep2", "_dropsc": "network_mask_drop_subcort_cereb"}
        golden.check("teacher_tokenizer_out", golden.method.teacher.encoder.tokenizer(x))
    for role in ("teacher", "student"):
        projected = getattr(golden.method, role)
        for suffix, mask in masks.items():
            out = projected.encoder(x, None if mask is None else golden.tensor(mask))
            golden.check(f"{role}_tokens{suffix}", torch.cat([out.cls[:, None], out.tokens], 1))
            if which == "small":
                golden.check(f"{role}_cls{suffix}", out.cls)
                golden.check(f"{role}_cls_avg{suffix}", out.cls_avg)
            if (role, mask) == ("teacher", None):
                golden.check("teacher_proj_cls", projected.head(out.cls))


@DTYPES
@pytest.mark.parametrize(
    ("which", "case"),
    [("tiny", case) for case in list(LOSSES)[:3]] + [("small", case) for case in LOSSES],
)
def test_losses_and_gradients(which, dtype, case):
    golden = Golden(which, dtype)
    masked, weight = LOSSES[case]
    losses = golden.losses(golden.batch(masked), weight)
    terms = {
        "cls_loss": losses.terms["cls"],
        "network_loss": weight * losses.terms["network"],
        "within_view_loss": losses.terms["mask"],
        "mask_loss": 0.5 * losses.terms["mask"],
        "total_loss": losses.total,
    }
    for name, ours in terms.items():
        theirs = float(golden.numbers[f"loss_{case}_{name}{golden.suffix}"])
        tolerance = TOLERANCE[dtype][0] * max(abs(theirs), 1e-12)
        assert float(ours.detach()) == pytest.approx(theirs, abs=tolerance), name

    losses.total.backward()
    gradients = {n: p.grad for n, p in golden.parameters().items() if p.grad is not None}
    names = golden.numbers[f"grad_names_{case}{golden.suffix}"]
    norms = golden.numbers[f"grad_norms_{case}{golden.suffix}"]
    assert gradients.keys() == set(names.tolist()), "the same parameters get a gradient"
    for name, norm in zip(names, norms, strict=True):
        assert float(gradients[name].norm()) == pytest.approx(norm, rel=TOLERANCE[dtype][1]), name


@DTYPES
def test_whole_gradients(dtype):
    golden = Golden("small", dtype)
    golden.suffix = ""  # their whole gradients are float32 only
    golden.losses(golden.batch(masked=True), 0.5).total.backward()
    parameters = golden.parameters()
    names = [name for name in golden.numbers if name.startswith("grad:")]
    assert len(names) == 6
    for name in names:
        gradient = parameters[name.removeprefix("grad:")].grad
        assert gradient is not None
        # The coding rate of 4 rows is steep: float32 keeps 4 digits of a gradient, theirs too.
        golden.check(name, gradient.reshape(golden.numbers[name].shape), tolerance=1e-4)


@DTYPES
def test_one_optimisation_step(dtype):
    golden = Golden("small", dtype)
    numbers = golden.numbers
    momentum = schedules.teacher_momentum(7, 100, schedules.OptimConfig())
    assert momentum == pytest.approx(float(numbers["step_teacher_momentum"]), rel=1e-12)

    student = list(golden.method.student.parameters())
    optimizer = torch.optim.AdamW(
        student, lr=float(numbers["step_lr"]), weight_decay=float(numbers["step_wd"])
    )
    before = {name: p.detach().clone() for name, p in golden.parameters().items()}
    golden.losses(golden.batch(masked=True), 0.5).total.backward()
    norm = torch.nn.utils.clip_grad_norm_(student, 1.0)
    assert float(norm) == pytest.approx(float(numbers["step_total_grad_norm"]), rel=1e-5)
    optimizer.step()
    golden.method.update_teacher(momentum)

    after = {name: p.detach() for name, p in golden.parameters().items()}
    compared = 0
    columns = (numbers[f"step_{column}"] for column in ("names", "delta_norms", "param_norms"))
    for name, moved, size in zip(*columns, strict=True):
        if name not in after:  # never used in their forward pass
            continue
        # Adam's first step goes by the sign of a gradient, which float32 can turn where it is tiny.
        assert float((after[name] - before[name]).norm()) == pytest.approx(moved, rel=1e-3), name
        assert float(after[name].norm()) == pytest.approx(size, rel=2e-5), name
        compared += 1
    assert compared == len(after) == 302

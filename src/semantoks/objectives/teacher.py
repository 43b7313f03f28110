"""A teacher that follows the student as its moving average: what self-distillation is made of."""

from __future__ import annotations

import copy
from typing import ClassVar, Self

import torch
from torch import nn

from semantoks.objectives import schedules
from semantoks.objectives.objective import Moment, Objective, OutputsT, PlanT
from semantoks.objectives.schedules import OptimConfig


class TeacherObjective(Objective[PlanT, OutputsT]):
    """An objective whose targets come from a teacher.

    Parameters
    ----------
    student : Module
        Holds an ``encoder``; the teacher starts as its copy.
    """

    roles: ClassVar[tuple[str, ...]] = ("teacher", "student")
    trained: ClassVar[str] = "student"

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the student's mode; the teacher is always in evaluation mode (no drop path)."""
        super().train(mode)
        self.teacher.eval()
        return self

    def after_step(self, moment: Moment, optim: OptimConfig) -> dict[str, float]:
        """Move the teacher; return its momentum."""
        momentum = schedules.teacher_momentum(moment.step, moment.n_steps, optim)
        self.update_teacher(momentum)
        return {"teacher_momentum": momentum}

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher: ``teacher = momentum * teacher + (1 - momentum) * student``.

        Parameters
        ----------
        momentum : float
            In [0, 1]. Buffers are constants and stay.
        """
        follow(self.teacher, self.student, momentum)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move every parameter of a teacher towards the student's of the same name."""
    own = dict(student.named_parameters())
    names, moved = zip(*teacher.named_parameters(), strict=True)
    torch._foreach_lerp_(list(moved), [own[name] for name in names], 1.0 - momentum)

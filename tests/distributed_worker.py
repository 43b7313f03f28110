"""One of several processes of a test; see test_distributed.py."""

from __future__ import annotations

import os
import signal
import sys

import torch

from semantoks.objectives.terms.coding_rate import simdino
from semantoks.train.distributed import gather_rows, is_main, n_processes, process_group
from semantoks.train.run import RunConfig
from semantoks.train.trainer import Trainer


def train(config: RunConfig, run: str, stop_after: int) -> None:
    def stop(values: dict[str, float]) -> None:
        if values["step"] == stop_after:
            os.kill(os.getpid(), signal.SIGUSR1)  # reaches one process; all have to stop

    trainer = Trainer(config, run, reporter=stop)
    trainer.fit()
    assert (trainer.step < trainer.n_steps) == (stop_after > 0)


def terms(out: str) -> None:
    generator = torch.Generator().manual_seed(4)
    whole = torch.randn(2, 2, 6, 5, generator=generator, dtype=torch.float64)
    student, teacher = torch.nn.functional.normalize(whole, dim=-1)
    rank = torch.distributed.get_rank()
    part = slice(3 * rank, 3 * rank + 3)
    mine = student[:, part].clone().requires_grad_()
    loss = simdino(mine, teacher[:, part], spread="process")
    loss.backward()
    # What averaging over processes makes of every row's gradient.
    gradient = gather_rows((mine.grad / n_processes()).transpose(0, 1)).transpose(0, 1)
    if is_main():
        found = {"student": student, "teacher": teacher, "process": loss.detach()}
        torch.save(found | {"process_gradient": gradient}, out)


def main() -> None:
    what, *arguments = sys.argv[1:]
    with process_group("cpu"):
        if what == "terms":
            terms(*arguments)
        else:
            for config, run, stop in zip(*[iter(arguments)] * 3, strict=True):
                train(RunConfig.load(config), run, int(stop))


if __name__ == "__main__":
    main()

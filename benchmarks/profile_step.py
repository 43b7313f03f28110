"""Where the time of our step goes, by operation: python -m benchmarks.profile_step --size small."""

from __future__ import annotations

import argparse

import torch
from torch.profiler import profile

from benchmarks.common import use_threads
from benchmarks.pretrain import step
from benchmarks.steps import some_batch
from semantoks.train.run import RunConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small")
    parser.add_argument("--contestant", default="bfloat16")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", type=int, default=25)
    options = parser.parse_args()
    use_threads(options.threads)
    config = RunConfig.preset(options.size)
    one = step(options.contestant, config)
    batches = [some_batch(config, options.batch_size, masked=masked) for masked in (False, True)]
    for batch in batches:
        one(batch, 0.0, 0.99)
    with profile() as found:
        for batch in batches:
            one(batch, 0.0, 0.99)
    table = found.key_averages()
    print(table.table(sort_by="self_cpu_time_total", row_limit=options.rows))


if __name__ == "__main__":
    main()

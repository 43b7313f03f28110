"""
A Slurm cluster
===============

``semantoks slurm`` writes a batch script and submits it. A pretraining saves and stops before its
time is up, requeues and resumes itself; embedding and preparing are divided over a job array. This
page prints scripts and submits nothing.
"""

# %%
# Pretraining on four GPUs
# ------------------------

import subprocess
import sys


def semantoks(line: str) -> str:
    """Run a command and return what it prints."""
    command = [sys.executable, "-m", "semantoks", *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.replace(sys.executable, "python")


print(
    semantoks(
        "slurm --print --gpus 4 --time 8:00:00 --partition gpu "
        "pretrain runs/mine --preset paper --store stores/mine"
    )
)

# %%
# Without ``--print`` it is submitted. The signal before the time limit makes the run write a
# checkpoint and stop; the job requeues itself until the last step.
#
# Embedding on 40 nodes
# ---------------------
# Each job of the array embeds every 40th recording; the same command without ``slurm`` merges the
# shards, or lists the missing ones. The merged table is the one that one process would write, to
# the bit.

print(
    semantoks("slurm --print --shards 40 --cpus 4 embed runs/mine stores/mine embeddings.parquet")
)

# %%
# What was tried in a real Slurm, with warnings, preemption and failures, is in
# :doc:`/results/slurm`.

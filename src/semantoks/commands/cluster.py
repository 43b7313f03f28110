"""`semantoks slurm`, `semantoks completion`: other programs that run this one."""

from __future__ import annotations

import shlex
from typing import Annotated, Literal

import click
from click.shell_completion import get_completion_class

from semantoks.commands.options import Argument, command, command_with
from semantoks.commands.output import show
from semantoks.flags import Flag
from semantoks.workflow.slurm import SlurmJob, batch_script, submit


def slurm_(
    arguments: Annotated[
        tuple[str, ...],
        Argument("COMMAND...", "The command to run, with its own arguments; it comes last."),
    ],
    job: Annotated[SlurmJob, Flag(panel="Running")],
    print_: Annotated[
        bool, Flag(name="--print", panel="General", help="Print the batch script; submit nothing.")
    ] = False,
) -> None:
    """Submit pretrain, prepare or embed to Slurm.

    The job stops when its time is up, requeues and resumes itself:
    semantoks slurm --gpus 4 --time 8:00:00 pretrain runs/a ...
    """
    script = batch_script(arguments, job)
    if print_:
        show({"script": script}, script.rstrip("\n"))
        return
    number, after = submit(script), shlex.join(["semantoks", *arguments])
    text = f"Submitted job {number}"
    if job.shards > 1:
        text += f"\nWhen all {job.shards} are done: {after}"
    show({"job": number, "then": after if job.shards > 1 else None}, text)


slurm = command_with(slurm_, {"ignore_unknown_options": True, "allow_interspersed_args": False})


@command
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Argument("SHELL", "bash, zsh or fish.")],
) -> None:
    """Print the script that completes words in a shell.

    \b
    bash:  eval "$(semantoks completion bash)"      in ~/.bashrc
    zsh:   eval "$(semantoks completion zsh)"       in ~/.zshrc
    fish:  semantoks completion fish | source       in config.fish
    """  # noqa: D301 # click's mark of lines that stay as they are
    made = get_completion_class(shell)
    assert made is not None
    group = click.get_current_context().find_root().command
    script = made(group, {}, "semantoks", "_SEMANTOKS_COMPLETE").source()
    show({"shell": shell, "script": script}, script)

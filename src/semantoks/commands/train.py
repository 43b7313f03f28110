"""`semantoks config`, `semantoks pretrain`: configurations and runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click

from semantoks.commands.options import Argument, command
from semantoks.commands.output import progress, show
from semantoks.flags import Flag
from semantoks.train.run import PRESETS, RunConfig


def _presets() -> tuple[str, ...]:
    return tuple(PRESETS)


def data_stores(paths: Sequence[Path]) -> list[str]:
    """Return the override that names one store, or several."""
    if not paths:
        return []
    names = [str(path) for path in paths]
    return [f"data.store={names[0] if len(names) == 1 else json.dumps(names)}"]


Stores = Annotated[
    tuple[Path, ...],
    Flag(
        name="--store",
        metavar="STORE",
        panel="Source",
        help="Pretrain on this store; several are mixed",
    ),
]
Config = Annotated[
    Path | None,
    Flag(metavar="FILE", panel="Model", help="Read what differs from the preset from this YAML."),
]
Preset = Annotated[
    str | None,
    Flag(
        panel="Model",
        known=_presets,
        help="Take the model and training of this size; by default the file's, else paper.",
    ),
]


@command
def config(
    preset: Annotated[
        str, Flag(panel="Model", known=_presets, help="Print the values of this size.")
    ] = "paper",
    yaml: Annotated[bool, Flag(panel="General", help="Print YAML, to start a file from.")] = False,
) -> None:
    """Print every key of a run's configuration.

    Each with its value, type and meaning; `pretrain` takes it as key.sub=value, or in a file.
    """
    from semantoks.config import describe, to_tree
    from semantoks.report.tables import key_lines

    resolved = RunConfig.preset(preset)
    if yaml:
        show(to_tree(resolved), resolved.to_yaml().rstrip("\n"))
        return
    keys = list(describe(resolved))
    facts = {key.path: {"value": key.default, "type": key.type, "meaning": key.doc} for key in keys}
    show(facts, key_lines(keys))


@command
def pretrain(
    run: Annotated[Path, Argument("RUN", "Folder of the run.")],
    overrides: Annotated[
        tuple[str, ...],
        Argument("[KEY=VALUE]...", "Change a key of the configuration; see semantoks config."),
    ] = (),
    config: Config = None,
    preset: Preset = None,
    store: Stores = (),
    resume: Annotated[
        bool, Flag(help="Resume the run from its last checkpoint, to the same result.")
    ] = False,
    auto_resume: Annotated[bool, Flag(help="Resume the run if it exists, else start it.")] = False,
) -> None:
    """Pretrain an encoder without labels; resume a run.

    On several GPUs: torchrun --nproc-per-node 4 -m semantoks pretrain RUN ...
    """
    from semantoks.train.distributed import is_main, process_group, was_restarted
    from semantoks.train.screen import TrainingScreen
    from semantoks.train.setup import CONFIG
    from semantoks.train.trainer import Trainer

    resume = resume or ((auto_resume or was_restarted()) and (run / CONFIG).exists())
    if resume and config is None and preset is None and (run / CONFIG).exists():
        config = run / CONFIG
    resolved = RunConfig.load(config, [*overrides, *data_stores(store)], preset=preset)
    console = progress()
    with process_group(resolved.train.device), TrainingScreen(console) as screen:
        main = is_main()
        console.quiet = console.quiet or not main
        trainer = Trainer(resolved, run, resume=resume, reporter=screen)
        folder = trainer.fit()
    done = trainer.step == trainer.n_steps
    text = f"Trained {trainer.n_steps} steps; the weights are in {folder}"
    if not done:
        text = f"Stopped at step {trainer.step} of {trainer.n_steps}; saved {folder}.\n"
        text += f"Resume with: semantoks pretrain {run} --resume"
    if main:
        steps = {"step": trainer.step, "n_steps": trainer.n_steps}
        show({"run": run, "checkpoint": folder, **steps, "finished": done}, text)
    if not done:
        raise click.exceptions.Exit(130)

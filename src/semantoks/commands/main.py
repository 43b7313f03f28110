"""`semantoks`: the table of commands, each imported when it runs or its help is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from semantoks.commands.output import EXIT_CODES, Failure
from semantoks.errors import SemantoksError


@dataclass(frozen=True)
class Entry:
    """A command, before it is imported.

    Parameters
    ----------
    module : str
        In `semantoks.commands`; the command is its attribute of the command's name.
    panel : str
        Title under which ``semantoks --help`` lists it.
    summary : str
        First line of its help; fits one line of 80 columns.
    """

    module: str
    panel: str
    summary: str


_DATA, _MODEL, _EVALUATE, _LOOK, _MORE = (
    "Prepare recordings",
    "Pretrain and use models",
    "Evaluate and explain",
    "Inspect and share",
    "More",
)
COMMANDS = {
    "prepare": Entry("prepare", _DATA, "Read recordings, check and preprocess them into a store."),
    "assign": Entry("prepare", _DATA, "Assign networks to the ROIs of an atlas of your own."),
    "config": Entry("train", _MODEL, "Print every key of a run's configuration."),
    "pretrain": Entry("train", _MODEL, "Pretrain an encoder without labels; resume a run."),
    "embed": Entry("model", _MODEL, "Embed a store: a table with one row per recording."),
    "convert": Entry("model", _MODEL, "Convert weights to and from the authors' checkpoints."),
    "evaluate": Entry("evaluate", _EVALUATE, "Compare models with controls; write the report."),
    "paper-probe": Entry("evaluate", _EVALUATE, "Score a model by the paper's own probe."),
    "explain": Entry("model", _EVALUATE, "Map what a model uses: networks, filters, geometry."),
    "generate": Entry("model", _EVALUATE, "Sample recordings; compare them with real ones."),
    "ablate": Entry(
        "study", _EVALUATE, "Pretrain several configurations and compare them over seeds."
    ),
    "compare": Entry("study", _EVALUATE, "Compare objectives, each with the same compute."),
    "scale": Entry("study", _EVALUATE, "Pretrain on more and more people; score the probes."),
    "report": Entry("evaluate", _EVALUATE, "Write one HTML page on runs, results and stores."),
    "info": Entry("store", _LOOK, "Describe a store, a run, a model or a parcellation."),
    "explore": Entry("store", _LOOK, "Look at recordings, embeddings and results in a browser."),
    "check": Entry("store", _LOOK, "Compare the files of a store or a run with checksums."),
    "strip": Entry("store", _LOOK, "Copy a store with pseudonyms instead of subjects."),
    "slurm": Entry("cluster", _MORE, "Submit pretrain, prepare or embed to Slurm."),
    "demo": Entry("study", _MORE, "Run all steps on recordings that come with it."),
    "completion": Entry("cluster", _MORE, "Print the script that completes words in a shell."),
}


class Semantoks(click.Group):
    """The group of all commands of `COMMANDS`."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return [*COMMANDS]

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"semantoks.commands.{COMMANDS[cmd_name].module}")
        found = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the nearest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "semantoks --help lists them."
            ctx.fail(f"No such command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands in panels, none of them imported."""
        width = max(map(len, COMMANDS))
        for panel in dict.fromkeys(entry.panel for entry in COMMANDS.values()):
            with formatter.section(panel):
                formatter.write_dl(
                    [
                        (name.ljust(width), entry.summary)
                        for name, entry in COMMANDS.items()
                        if entry.panel == panel
                    ]
                )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command, none of them imported."""
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [
            CompletionItem(name, help=entry.summary)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ]

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an error that a user can act on becomes one message and an exit code."""
        try:
            return super().invoke(ctx)
        except SemantoksError as error:
            raise Failure.of(error) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print what a report of an error needs: versions, device, weights."""
    if not wanted or ctx.resilient_parsing:
        return
    from semantoks.workflow.describe import installation

    for name, value in installation().items():
        click.echo(f"{name:14} {value}")
    ctx.exit()


_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {n:<4} {text}" for n, text in EXIT_CODES.items())


@click.group(
    cls=Semantoks,
    name="semantoks",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Print the versions of this package and of what it computes with, and exit.",
)
def app() -> None:
    """Foundation models of brain dynamics: from parcellated fMRI to honest prediction.

    `semantoks COMMAND -h` explains a command and its options. Every command takes -v, -q and
    --json; `semantoks completion bash` prints what completes words in the shell.
    """


def main() -> None:
    """Run the command line."""
    app(prog_name="semantoks")

"""What a person sees while a model trains: loss terms, speed, time left, collapse monitors."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from semantoks.train.logs import TERM, Metrics


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class TrainingScreen:
    """Reporter for `Trainer`: a live panel on a terminal, plain lines in a log file.

    Parameters
    ----------
    console : rich Console
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("pretraining"), BarColumn(bar_width=40), MofNCompleteColumn()
        )
        self._task = self._bar.add_task("", total=None)
        self._live = Live(self._bar, console=console, refresh_per_second=4)

    def __enter__(self) -> TrainingScreen:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, metrics: Metrics) -> None:
        """Show the metrics of one logged step."""
        if self._console.is_terminal:
            self._bar.update(self._task, completed=metrics["step"], total=metrics["n_steps"])
            self._live.update(Group(self._bar, self._table(metrics)))
        else:
            self._console.print(self._line(metrics), soft_wrap=True, highlight=False)

    def _table(self, metrics: Metrics) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, text in _columns(metrics):
            table.add_row(f"[dim]{name}[/dim]", text)
        return table

    def _line(self, metrics: Metrics) -> str:
        step = f"step {metrics['step']:.0f}/{metrics['n_steps']:.0f}"
        return "  ".join([step, *(f"{name} {text}" for name, text in _columns(metrics))])


def _columns(metrics: Metrics) -> list[tuple[str, str]]:
    terms = {k.removeprefix(TERM): v for k, v in metrics.items() if k.startswith(TERM)}
    return [
        ("epoch", f"{metrics['epoch']:.1f}"),
        ("loss", f"{metrics['loss']:.3f}"),
        ("terms", " ".join(f"{name} {value:.3f}" for name, value in terms.items())),
        ("learning rate", f"{metrics['lr']:.2e}"),
        ("effective rank", f"{metrics['effective_rank']:.1f}"),
        ("mean cosine", f"{metrics['mean_cosine']:.3f}"),
        ("recordings/s", f"{metrics['recordings_per_s']:.1f}"),
        ("left", _duration(metrics["seconds_left"])),
    ]

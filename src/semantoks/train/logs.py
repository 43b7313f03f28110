"""Logs of a run: metrics and events."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from semantoks.errors import ConfigError
from semantoks.train.setup import EVENTS, METRICS

Metrics = dict[str, float]
#: Prefix of the terms of a loss among the metrics.
TERM = "loss_"
Reporter = Callable[[Metrics], None]


class RunLogs:
    """Write metrics to every log, and events to ``events.jsonl``; use it in a ``with`` statement.

    Parameters
    ----------
    run : Path
    tensorboard : bool
    reporter : callable, optional
        Called with every line of metrics.
    write : bool
        False on all processes of a run but one: nothing is written.
    """

    def __init__(
        self, run: Path, *, tensorboard: bool, reporter: Reporter | None, write: bool
    ) -> None:
        self._run, self._reporter, self._write = run, reporter, write
        self._board: Any = _summary_writer(run) if tensorboard and write else None

    def __enter__(self) -> RunLogs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._board is not None:
            self._board.close()

    def metrics(self, metrics: Metrics) -> None:
        """Write the metrics of one step."""
        if not self._write:
            return
        self._append(METRICS, metrics)
        if self._board is not None:
            for name in metrics.keys() - {"step", "n_steps"}:
                self._board.add_scalar(name, metrics[name], metrics["step"])
        if self._reporter is not None:
            self._reporter(metrics)

    def event(self, event: dict[str, object]) -> None:
        """Write down that something went wrong."""
        if self._write:
            self._append(EVENTS, event)

    def _append(self, name: str, line: dict[str, Any]) -> None:
        # One write per line: a crash leaves whole lines, and one cut short at most.
        with (self._run / name).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def _summary_writer(run: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "TensorBoard is not installed",
            field="train.tensorboard",
            value=True,
            fix='Install it with `pip install "semantoks[tensorboard]"`',
        ) from None
    return SummaryWriter(run / "tensorboard")

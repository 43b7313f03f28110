"""What a person sees on the terminal at the end of a command, and while a store is made."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from semantoks.assess.assessment import Assessment
from semantoks.assess.parts.table import PARTS
from semantoks.data.prepare import PrepareReport
from semantoks.report.tables import score_tables
from semantoks.report.verdicts import battery_verdicts, verdicts

_REMARKS = 12  # shown at the end of `prepare`


class PrepareScreen:
    """Progress of `semantoks.data.prepare.prepare`: a bar with the time left, on a terminal.

    Parameters
    ----------
    console : rich Console
    """

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("recordings"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, failed="")

    def __enter__(self) -> PrepareScreen:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, tried: int, failed: int, total: int) -> None:
        """Show how many recordings were tried, and failed, of all."""
        note = f"{failed} failed" if failed else ""
        self._bar.update(self._task, completed=tried, total=total, failed=note)


def prepare_summary(report: PrepareReport) -> str:
    """Return the end of `semantoks prepare`: how many of what, and what to look at."""
    numbers = [f"{report.count(status)} {status}" for status in ("stored", "excluded", "failed")]
    lines = [f"{len(report.quality)} recordings: {', '.join(numbers)}"]
    left = report.quality[report.quality["status"].isin(["failed", "excluded"])]
    shown = left.head(10).to_dict("records")
    lines += [f"  {row['status']}: {row['id']}: {row['reason']}" for row in shown]
    if len(left) > 10:
        lines.append(f"  and {len(left) - 10} more")
    join = report.join
    if join is not None:
        lines.append(f"phenotypes: {join.n_joined} recordings joined")
        for what, names in (
            ("recordings without a row", join.without_row),
            ("subjects without a recording", join.without_recording),
        ):
            if names:
                some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                lines.append(f"  {len(names)} {what}: {some}")
        unknown = [f"{name} of {count}" for name, count in join.unknown.items() if count]
        if unknown:
            lines.append(f"  unknown: {', '.join(unknown)}")
    if report.remarks:
        lines.append("Worth a look:")
        lines += [f"  {remark}" for remark in report.remarks[:_REMARKS]]
        if len(report.remarks) > _REMARKS:
            lines.append(f"  and {len(report.remarks) - _REMARKS} more (semantoks info)")
    if report.finished and report.count("failed"):
        partial = f"{report.store}.partial"
        lines.append(f"{partial} keeps what was read. After a repair, delete the store and run the")
        lines.append("same command: only what changed is read again. Else delete that folder.")
    if report.finished:
        lines.append(f"Quality: {report.store / 'quality.html'}")
    else:
        lines.append("This part is done; without --shard the same command writes the store.")
    return "\n".join(lines)


def assessment_summary(found: Assessment) -> Group:
    """Return the end of `semantoks evaluate`: scores, verdicts, and what the parts report."""
    result = found.comparison
    blocks: list[RenderableType] = [score_tables(result.scores)]
    for target, facts in result.meta["targets"].items():
        scores = result.scores[result.scores["target"] == target]
        gaps = result.differences[result.differences["target"] == target]
        lines = [
            f"{v.claim} {v.rest}".rstrip()
            for v in verdicts(scores, gaps, facts["counted"]["why_not"], facts.get("constant", ()))
        ]
        blocks.append(_block(f"{target}, {scores['metric'].iloc[0]}", lines))
    if len(result.battery):
        lines = [f"{v.claim} {v.rest}".rstrip() for v in battery_verdicts(result.battery)]
        n = int(result.battery["n_targets"].max())
        blocks.append(_block(f"All {n} targets together, mean standardised difference", lines))
    for name, part in PARTS.items():
        if name in found.parts:
            blocks += [_block(*note) for note in part.load().notes(found.parts[name])]
    blocks += [_block(f"Not computed: {part}", [why]) for part, why in found.why_not.items()]
    return Group(*blocks, Text())


def _block(title: str, lines: Sequence[str]) -> Group:
    inside = [Padding(Text(line), (0, 0, 0, 2)) for line in lines]
    return Group(Text(f"\n{title}", style="bold"), *inside)

"""A figure of a report and the text that stands for it."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure with the text that stands for it where it cannot be seen."""

    figure: Figure
    alt: str

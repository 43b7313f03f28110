"""Masks on the (N, P) token grid, drawn per recording and view. Source: paper, masking.

A new kind of mask is one function and one line in `MASKS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from semantoks.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Which tokens the learner does not see; the default is the paper's."""

    kind: str = "slice"
    """temporal: one run of patches in all networks; network: all patches of random networks;
    slice: a fair coin between the two; random: single tokens; cross: all but one block of networks
    and patches; none: no masks."""
    frequency: float = 0.5
    """Probability that a step uses masks (one coin for the whole batch)."""
    ratio_min: float = 0.65
    """Smallest share of the grid that is masked."""
    ratio_max: float = 0.85
    """Largest share of the grid that is masked."""

    canonical: bool = False
    """Network masks hide whole canonical networks (Yeo-7, subcortex, cerebellum) where tokens are
    finer: ROIs or 17 networks."""

    def __post_init__(self) -> None:
        if self.kind != "none" and self.kind not in MASKS:
            raise ConfigError(
                "is not a kind of mask",
                field="views.masks.kind",
                value=self.kind,
                fix=nearest(self.kind, [*MASKS, "none"]),
            )
        if self.canonical and (self.kind == "none" or not MASKS[self.kind].groups):
            kinds = " or ".join(name for name, mask in MASKS.items() if mask.groups)
            raise ConfigError(
                f"has no effect on masks of the kind {self.kind!r}",
                field="views.masks.canonical",
                value=True,
                fix=f"Leave it out, or choose {kinds} masks",
            )
        if not 0.0 <= self.frequency <= 1.0:
            raise ConfigError(
                "must lie in [0, 1]", field="views.masks.frequency", value=self.frequency
            )
        if not 0.0 < self.ratio_min <= self.ratio_max < 1.0:
            raise ConfigError(
                "must satisfy 0 < ratio_min <= ratio_max < 1",
                field="views.masks.ratio_min, ratio_max",
                value=(self.ratio_min, self.ratio_max),
            )

    def check_grid(self, n_networks: int, n_patches: int) -> None:
        """Refuse a kind of mask that could hide nothing or everything on this grid."""
        if self.kind == "none":
            return
        grid = {
            "networks": n_networks,
            "patches": n_patches,
            "tokens": n_networks * n_patches,
        }
        fields = {"networks": "networks", "patches": "encoder.n_patches", "tokens": "tokens"}
        for unit in MASKS[self.kind].units:
            if grid[unit] < 2:
                raise ConfigError(
                    f"{self.kind} masks need at least 2 {unit}",
                    field=fields[unit],
                    value=grid[unit],
                    fix="Choose another views.masks.kind, or a finer grid",
                )


Unit = Literal["networks", "patches", "tokens"]
Draw = Callable[[int, int, int, MaskConfig, Generator, Tensor | None], Tensor]


@dataclass(frozen=True)
class Mask:
    """A kind of mask.

    Parameters
    ----------
    draw : callable
        (recordings times views M, N, P, config, generator, groups) -> bool, shape (M, N, P). Groups
        are the canonical networks of the rows, shape (N,), or None.
    help : str
        What it hides, in one line.
    units : tuple of {"networks", "patches", "tokens"}
        What is hidden as a whole: the grid must have two of each, and the share that is hidden is
        at least ``ratio_min`` less one of them.
    groups : bool
        Whether `MaskConfig.canonical` has an effect.
    """

    draw: Draw
    help: str
    units: tuple[Unit, ...]
    groups: bool = False


def _integers(low: Tensor, high: Tensor, generator: Generator) -> Tensor:
    """Draw integers uniformly from [low, high], elementwise."""
    span = high - low + 1
    drawn = torch.rand(span.shape, device=generator.device, generator=generator)
    return low + torch.minimum((drawn * span).floor().long(), span - 1)


def _ratios(m: int, config: MaskConfig, generator: Generator) -> Tensor:
    """Draw the share of every mask that is hidden, (M,)."""
    low, high = config.ratio_min, config.ratio_max
    return torch.empty(m, device=generator.device).uniform_(low, high, generator=generator)


def _run_of(length: Tensor, n: int, generator: Generator) -> Tensor:
    """Choose a run of so many places at random, bool (M, n)."""
    start = _integers(torch.zeros_like(length), n - length, generator)
    place = torch.arange(n, device=generator.device)
    return (place >= start[:, None]) & (place < (start + length)[:, None])


def _some_of(count: Tensor, n: int, generator: Generator) -> Tensor:
    """Choose so many places at random, bool (M, n)."""
    order = torch.rand(len(count), n, device=generator.device, generator=generator).argsort(dim=1)
    return order.argsort(dim=1) < count[:, None]


def temporal_masks(
    m: int,
    n_networks: int,
    n_patches: int,
    config: MaskConfig,
    generator: Generator,
    groups: Tensor | None = None,  # noqa: ARG001 - a mask of all networks
) -> Tensor:
    """One run of ``max(1, ceil(r P)) - 1`` patches in all networks, at least one.

    Returns
    -------
    Tensor of bool, shape (M, N, P)
    """
    ratio = _ratios(m, config, generator)
    run = ((ratio * n_patches).ceil().long() - 1).clamp(1, n_patches - 1)
    masked = _run_of(run, n_patches, generator)
    return masked[:, None].expand(m, n_networks, n_patches)


def network_masks(
    m: int,
    n_networks: int,
    n_patches: int,
    config: MaskConfig,
    generator: Generator,
    groups: Tensor | None = None,
) -> Tensor:
    """All patches of ``floor(min N) .. floor(max N) - 1`` networks, at least one.

    With groups, N counts these, and every row goes with its group.

    Returns
    -------
    Tensor of bool, shape (M, N, P)
    """
    if groups is not None:
        n_groups = int(groups.max()) + 1
        return network_masks(m, n_groups, n_patches, config, generator)[:, groups]
    low = min(max(int(config.ratio_min * n_networks), 1), n_networks - 1)
    high = min(max(int(config.ratio_max * n_networks) - 1, low), n_networks - 1)
    bounds = torch.full((m,), low, device=generator.device)
    count = _integers(bounds, torch.full_like(bounds, high), generator)
    masked = _some_of(count, n_networks, generator)
    return masked[:, :, None].expand(m, n_networks, n_patches)


def random_masks(
    m: int,
    n_networks: int,
    n_patches: int,
    config: MaskConfig,
    generator: Generator,
    groups: Tensor | None = None,  # noqa: ARG001 - a mask of single tokens
) -> Tensor:
    """Single tokens, a share between ratio_min and ratio_max of the grid, at least one.

    Returns
    -------
    Tensor of bool, shape (M, N, P)
    """
    total = n_networks * n_patches
    count = (_ratios(m, config, generator) * total).floor().long().clamp(1, total - 1)
    return _some_of(count, total, generator).view(m, n_networks, n_patches)


def slice_masks(
    m: int,
    n_networks: int,
    n_patches: int,
    config: MaskConfig,
    generator: Generator,
    groups: Tensor | None = None,
) -> Tensor:
    """Draw a temporal or a network mask, by a fair coin.

    Returns
    -------
    Tensor of bool, shape (M, N, P)
    """
    grid = (m, n_networks, n_patches)
    networks = network_masks(*grid, config, generator, groups)
    coin = torch.rand(m, device=generator.device, generator=generator) < 0.5
    return torch.where(coin[:, None, None], temporal_masks(*grid, config, generator), networks)


def cross_masks(
    m: int,
    n_networks: int,
    n_patches: int,
    config: MaskConfig,
    generator: Generator,
    groups: Tensor | None = None,
) -> Tensor:
    """All but one block that is seen, of some networks and one run of patches.

    What is hidden are other networks at the same time (cross-ROI), the same networks at another
    time (cross-time), and other networks at another time (double-cross). Of the share v of the grid
    that is seen, v^u is the share of the patches and v^(1-u) that of the networks, u ~ U(1/4, 3/4).
    Source: Brain-JEPA (Dong et al., NeurIPS 2024), spatiotemporal masking.

    Returns
    -------
    Tensor of bool, shape (M, N, P)
    """
    if groups is not None:
        return cross_masks(m, int(groups.max()) + 1, n_patches, config, generator)[:, groups]
    hidden = _ratios(m, config, generator)
    u = torch.empty_like(hidden).uniform_(0.25, 0.75, generator=generator)
    run = ((1 - hidden) ** u * n_patches).round().long().clamp(1, n_patches - 1)
    count = ((1 - hidden) ** (1 - u) * n_networks).round().long().clamp(1, n_networks - 1)
    in_time = _run_of(run, n_patches, generator)
    in_space = _some_of(count, n_networks, generator)
    return ~(in_space[:, :, None] & in_time[:, None, :])


#: The kinds of masks by their names in `MaskConfig.kind`; "none" draws nothing.
MASKS: dict[str, Mask] = {
    "slice": Mask(
        slice_masks, "a fair coin between temporal and network", ("patches", "networks"), True
    ),
    "temporal": Mask(temporal_masks, "one run of patches in all networks", ("patches",)),
    "network": Mask(network_masks, "all patches of random networks", ("networks",), True),
    "random": Mask(random_masks, "single tokens", ("tokens",)),
    "cross": Mask(
        cross_masks, "all but a block of networks and patches", ("networks", "patches"), True
    ),
}


def draw_masks(
    m: int,
    n_networks: int,
    n_patches: int,
    config: MaskConfig,
    generator: Generator,
    groups: Tensor | None = None,
) -> Tensor | None:
    """Draw the masks of one step.

    Parameters
    ----------
    m : int
        Recordings times views.
    n_networks, n_patches : int
        The token grid.
    config : MaskConfig
    generator : torch Generator
    groups : Tensor of int, shape (N,), optional
        Canonical network of every row, 0, 1, ...: network masks hide or leave them whole.

    Returns
    -------
    Tensor of bool, shape (M, N, P), or None
        None on a step without masks. Every mask hides at least one token and never all.
    """
    if config.kind == "none":
        return None
    if torch.rand((), device=generator.device, generator=generator) >= config.frequency:
        return None
    return MASKS[config.kind].draw(m, n_networks, n_patches, config, generator, groups)

"""Masks on the (N, P) token grid, drawn per recording and view. Source: paper, masking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from semantoks.errors import ConfigError

MaskKind = Literal["slice", "temporal", "network", "random", "none"]


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Which tokens the student does not see; the default is the paper's."""

    kind: MaskKind = "slice"
    """temporal: one run of patches in all networks; network: all patches of random networks;
    slice: a fair coin between the two; random: single tokens; none: no masks."""
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
        if self.canonical and self.kind not in ("slice", "network"):
            raise ConfigError(
                f"has no effect on masks of the kind {self.kind!r}",
                field="views.masks.canonical",
                value=True,
                fix="Leave it out, or choose slice or network masks",
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
        fix = "Choose another views.masks.kind, or a finer grid"
        if self.kind in ("slice", "temporal") and n_patches < 2:
            raise ConfigError(
                "temporal masks need at least 2 patches per view",
                field="encoder.n_patches",
                value=n_patches,
                fix=fix,
            )
        if self.kind in ("slice", "network") and n_networks < 2:
            raise ConfigError(
                "network masks need at least 2 networks",
                field="networks",
                value=n_networks,
                fix=fix,
            )
        if self.kind == "random" and n_networks * n_patches < 2:
            raise ConfigError("random masks need at least 2 tokens", field="tokens", fix=fix)


def _integers(low: Tensor, high: Tensor, generator: Generator) -> Tensor:
    """Draw integers uniformly from [low, high], elementwise."""
    span = high - low + 1
    drawn = torch.rand(span.shape, device=generator.device, generator=generator)
    return low + torch.minimum((drawn * span).floor().long(), span - 1)


def temporal_masks(
    m: int, n_networks: int, n_patches: int, config: MaskConfig, generator: Generator
) -> Tensor:
    """One run of ``max(1, ceil(r P)) - 1`` patches in all networks, at least one.

    Returns
    -------
    Tensor of bool, shape (M, N, P)
    """
    ratio = torch.empty(m, device=generator.device).uniform_(
        config.ratio_min, config.ratio_max, generator=generator
    )
    run = ((ratio * n_patches).ceil().long() - 1).clamp(1, n_patches - 1)
    start = _integers(torch.zeros_like(run), n_patches - run, generator)
    patch = torch.arange(n_patches, device=generator.device)
    masked = (patch >= start[:, None]) & (patch < (start + run)[:, None])
    return masked[:, None].expand(m, n_networks, n_patches)


def network_masks(
    m: int, n_networks: int, n_patches: int, config: MaskConfig, generator: Generator
) -> Tensor:
    """All patches of ``floor(min N) .. floor(max N) - 1`` networks, at least one.

    Returns
    -------
    Tensor of bool, shape (M, N, P)
    """
    low = min(max(int(config.ratio_min * n_networks), 1), n_networks - 1)
    high = min(max(int(config.ratio_max * n_networks) - 1, low), n_networks - 1)
    bounds = torch.full((m,), low, device=generator.device)
    count = _integers(bounds, torch.full_like(bounds, high), generator)
    order = torch.rand(m, n_networks, device=generator.device, generator=generator).argsort(1)
    masked = order.argsort(dim=1) < count[:, None]
    return masked[:, :, None].expand(m, n_networks, n_patches)


def random_masks(
    m: int, n_networks: int, n_patches: int, config: MaskConfig, generator: Generator
) -> Tensor:
    """Single tokens, a share between ratio_min and ratio_max of the grid, at least one.

    Returns
    -------
    Tensor of bool, shape (M, N, P)
    """
    total = n_networks * n_patches
    ratio = torch.empty(m, device=generator.device).uniform_(
        config.ratio_min, config.ratio_max, generator=generator
    )
    count = (ratio * total).floor().long().clamp(1, total - 1)
    order = torch.rand(m, total, device=generator.device, generator=generator).argsort(dim=1)
    return (order.argsort(dim=1) < count[:, None]).view(m, n_networks, n_patches)


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
    grid = (m, n_networks, n_patches)
    if config.kind == "temporal":
        return temporal_masks(*grid, config, generator)
    if config.kind == "random":
        return random_masks(*grid, config, generator)
    if groups is None:
        networks = network_masks(*grid, config, generator)
    else:
        n_groups = int(groups.max()) + 1
        networks = network_masks(m, n_groups, n_patches, config, generator)[:, groups]
    if config.kind == "network":
        return networks
    coin = torch.rand(m, device=generator.device, generator=generator) < 0.5
    return torch.where(coin[:, None, None], temporal_masks(*grid, config, generator), networks)

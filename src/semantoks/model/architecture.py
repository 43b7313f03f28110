"""`EncoderConfig`: the architecture of an encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from semantoks.config import check_positive
from semantoks.errors import ConfigError
from semantoks.model.positions import POSITIONS
from semantoks.model.tokenizers.base import Pooling
from semantoks.model.tokenizers.branches import BRANCHES, Branch, branch_widths
from semantoks.model.tokenizers.connectome import ConnectomeConfig
from semantoks.model.tokenizers.registry import TOKENIZERS
from semantoks.model.tokenizers.vq import VQConfig


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Architecture of the encoder; the defaults are the paper's, but for `average`.

    References
    ----------
    Brain-Semantoks, ICLR 2026, https://arxiv.org/abs/2512.11582.

    Examples
    --------
    >>> from semantoks import EncoderConfig
    >>> EncoderConfig(width=192, depth=4, head_width=32).patch_length
    20
    """

    width: int = 768
    """Token width D; a multiple of head_width."""
    depth: int = 8
    """Transformer blocks."""
    head_width: int = 64
    """Width of one attention head; the number of heads is width / head_width."""
    mlp_ratio: float = 4.0
    """Hidden units of a block's MLP per unit of width."""
    layer_scale: float = 0.1
    """Initial value of LayerScale; 1 starts as a block without it."""
    drop_path: float = 0.0
    """Probability that a recording skips a branch of the last block in training (stochastic depth);
    it rises linearly over the blocks, from 0 in the first."""
    patch_length: int = 20
    """Time points per patch L, in volumes at the store's TR."""
    n_patches: int = 5
    """Patches per view P; a view has patch_length * n_patches time points."""
    granularity: str = "networks"
    """What one token stands for: "networks" (a functional network), "one" (the whole brain), "rois"
    (one ROI), "vq" (one ROI, as codes, see `vq`) or "connectome" (the connections of a functional
    network, see `connectome`)."""
    branches: tuple[Branch, ...] = BRANCHES
    """Parallel branches of the tokenizer, concatenated in this order (networks, one)."""
    pooling: Pooling = "mean"
    """Pooling over the time points of a patch: mean, max or attention (networks, one)."""
    final_norm: bool = True
    """Normalise the outputs of the last block."""
    vq: VQConfig = field(default_factory=VQConfig)
    attention: Literal["full", "causal"] = "full"
    """Which tokens a token sees: "full" (all) or "causal" (those of its own and earlier patches);
    the CLS token sees all of them."""
    positions: Literal["learned", "coordinates", "gradients"] = "learned"
    """What tells the rows of the token grid apart: "learned" (a vector per row), "coordinates"
    (their place in the brain) or "gradients" (their place along the functional gradients of the
    training recordings)."""
    connectome: ConnectomeConfig = field(default_factory=ConnectomeConfig)

    average: Literal["data", "all"] = "data"
    """Tokens in the embedding's mean: those with data, or all, as the paper has it; then how many
    are missing shows in the embedding. Models of earlier versions and of the authors have "all"."""

    def __post_init__(self) -> None:
        for name, known in (
            ("average", ("data", "all")),
            ("attention", ("full", "causal")),
            ("positions", POSITIONS),
        ):
            value = getattr(self, name)
            if value not in known:
                rule = f"must be {', '.join(known[:-1])} or {known[-1]}"
                raise ConfigError(rule, field=f"encoder.{name}", value=value)
        for name in ("width", "depth", "head_width", "patch_length", "n_patches"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    "must be at least 1", field=f"encoder.{name}", value=getattr(self, name)
                )
        if self.width % self.head_width or self.width % 2:
            raise ConfigError(
                f"must be even and a multiple of head_width ({self.head_width})",
                field="encoder.width",
                value=self.width,
            )
        if not 0.0 <= self.drop_path < 1.0:
            raise ConfigError("must lie in [0, 1)", field="encoder.drop_path", value=self.drop_path)
        if self.drop_path and self.depth == 1:
            raise ConfigError(
                "has no effect on a single block, where it is 0",
                field="encoder.drop_path",
                value=self.drop_path,
                fix="Leave it out, or use more blocks",
            )
        check_positive(self, "encoder", "mlp_ratio")
        if not self.branches:
            raise ConfigError("needs at least one branch", field="encoder.branches")
        if self.granularity not in TOKENIZERS:
            raise ConfigError(
                f"must be one of {', '.join(TOKENIZERS)}",
                field="encoder.granularity",
                value=self.granularity,
            )
        own = (self.branches, self.pooling) != (BRANCHES, "mean")
        if own and not TOKENIZERS[self.granularity].has_branches:
            raise ConfigError(
                f"have no effect with the granularity {self.granularity!r}",
                field="encoder.branches, encoder.pooling",
                fix="Leave them out, or choose another encoder.granularity",
            )
        if TOKENIZERS[self.granularity].whole and self.n_patches != 1:
            raise ConfigError(
                f"must be 1: with the granularity {self.granularity!r} a view is one patch",
                field="encoder.n_patches",
                value=self.n_patches,
                fix="State the length of a view as encoder.patch_length",
            )
        _ = self.branch_widths

    @property
    def branch_widths(self) -> list[int]:
        """Output channels of every branch of the tokenizer."""
        return branch_widths(self.branches, self.width)

    @property
    def view_length(self) -> int:
        """Time points of a view, T = P L."""
        return self.patch_length * self.n_patches

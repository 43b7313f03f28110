"""`RunConfig`: everything that decides a pretraining run, and the presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from semantoks import config as trees
from semantoks.errors import ConfigError, nearest
from semantoks.model.encoder import EncoderConfig
from semantoks.model.tokenizers.registry import TOKENIZERS
from semantoks.objectives.registry import DEFAULT, OBJECTIVES, ObjectiveConfig
from semantoks.objectives.schedules import OptimConfig
from semantoks.views.augment import AugmentConfig
from semantoks.views.crops import CropConfig
from semantoks.views.masks import MaskConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which recordings the encoder sees."""

    store: str | tuple[str, ...] = ""
    """Folder of the recording store; or a list of them, of which the first decides about the
    parcellation and the TR, and the others are read in these."""
    weights: tuple[float, ...] | None = None
    """With a list of stores: the share of every epoch that each of them makes up, in relation to
    one another ([3, 1]: three quarters, one quarter). An epoch is as long as without weights; a
    store with more people than its share shows others in every epoch, one with fewer repeats its
    own, no person twice in a batch. Null: every person once per epoch."""
    exclude_sites: tuple[str, ...] = ()
    """Sites left out of pretraining, so that they can be test sites; STORE:SITE where two stores
    have one of that name."""
    n_subjects: int | None = None
    """Pretrain on so many subjects, drawn by `seed`, smaller numbers within larger; null: all."""
    n_held_out: int = 0
    """Keep so many subjects, drawn by `seed`, out of training and choose the best checkpoint on
    them; 0: choose it on a fixed batch of those trained on, whose views are not augmented."""

    def __post_init__(self) -> None:
        if self.n_subjects is not None and self.n_subjects < 2:
            raise ConfigError("must be at least 2", field="data.n_subjects", value=self.n_subjects)
        if self.n_held_out < 0 or self.n_held_out == 1:
            raise ConfigError(
                "must be 0, or at least 2", field="data.n_held_out", value=self.n_held_out
            )
        if self.weights is None:
            return
        if len(self.weights) != len(self.stores) or len(self.stores) < 2:
            raise ConfigError(
                f"needs one number for each of the {len(self.stores)} stores, two at least",
                field="data.weights",
                value=self.weights,
            )
        if not all(isfinite(weight) and weight > 0 for weight in self.weights):
            raise ConfigError(
                "must be positive numbers",
                field="data.weights",
                value=self.weights,
                fix="Leave out a store that is not to be seen",
            )

    @property
    def stores(self) -> tuple[str, ...]:
        """Folders of all stores."""
        return (self.store,) if isinstance(self.store, str) else self.store


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """How a recording becomes two views."""

    crops: CropConfig = field(default_factory=CropConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the run is carried out: nothing here changes what is learned, but for precision."""

    device: str = "auto"
    """auto (CUDA, then CPU), cpu, cuda, cuda:1."""
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Arithmetic of the encoders; the loss is always computed in float32 or wider. auto is bfloat16
    where the device is fast at it (NVIDIA GPUs from Ampere on, CPUs where a product is measured to
    be), else float32."""
    compile: bool = False
    """Compile the encoders' blocks (torch.compile), to the same numbers up to rounding: for long
    runs on a GPU. The first steps take longer, by up to minutes."""
    accumulate: int = 1
    """Parts in which a process computes its share of a batch, to need less memory; loss and
    gradient stay those of the whole batch, for one more forward pass of the student."""
    on_nan: Literal["stop", "skip"] = "stop"
    """A batch whose loss or gradient is not finite never reaches the weights: stop and name its
    recordings, or skip it and record it in events.jsonl."""
    collapse_rank: float = 4.0
    """Warn when the effective rank of a batch's embeddings falls below this; 0: never."""
    checkpoint_activations: bool = False
    """Memory before time: compute the insides of the tokenizers and blocks again for the gradient
    instead of keeping them, and keep little code of products. The same numbers, one more forward
    pass of the student; with `accumulate`, the least memory."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    checkpoint_epochs: int = 5
    """Epochs between two checkpoints; the last step always writes one."""
    checkpoint_minutes: float = 8.0
    """Also write a checkpoint when the last one is this many minutes old, so that a killed job
    loses ten minutes at most, the writing included; 0: by epochs only."""
    keep_checkpoints: int = 2
    """Checkpoints kept, newest first."""
    keep_best: bool = True
    """Also keep the checkpoint whose embeddings have the highest effective rank (RankMe) on a
    batch that is fixed for the run (`data.n_held_out`)."""
    tensorboard: bool = False
    """Write TensorBoard events beside metrics.jsonl (needs the extra `tensorboard`)."""

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_epochs", "keep_checkpoints", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    "must be at least 1", field=f"train.{name}", value=getattr(self, name)
                )
        if self.checkpoint_minutes < 0:
            raise ConfigError(
                "must not be negative",
                field="train.checkpoint_minutes",
                value=self.checkpoint_minutes,
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One pretraining run; the defaults are the paper's.

    Examples
    --------
    >>> RunConfig.preset("small", {"data": {"store": "stores/abide"}}).encoder.width
    192
    """

    seed: int = 0
    """Seed of the weights, the order of recordings, views and masks."""
    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    objective: ObjectiveConfig = field(default_factory=OBJECTIVES[DEFAULT][0])
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError("must not be negative", field="seed", value=self.seed)
        self._check_masks()
        whole = TOKENIZERS[self.encoder.granularity].whole
        if whole and self.views.augment.noise != "none":
            raise ConfigError(
                "must be none: this tokenizer takes volumes of zeros for missing data",
                field="views.augment.noise",
                value=self.views.augment.noise,
            )

    def _check_masks(self) -> None:
        """Refuse steps on which an objective of hidden tokens would learn nothing."""
        masks, kind = self.views.masks, self.objective.kind
        if kind not in OBJECTIVES or not OBJECTIVES[kind][1].needs_masks:
            return
        rule = f"must hide tokens on every step: {kind} learns from hidden tokens alone"
        if masks.kind == "none":
            fix = "Set views.masks.kind=random"
            raise ConfigError(rule, field="views.masks.kind", value=masks.kind, fix=fix)
        if masks.frequency < 1:
            fix = "Set views.masks.frequency=1"
            raise ConfigError(rule, field="views.masks.frequency", value=masks.frequency, fix=fix)

    @classmethod
    def preset(cls, name: str, changes: Mapping[str, Any] | None = None) -> RunConfig:
        """Return the preset `name` with `changes` put in.

        Parameters
        ----------
        name : {"paper", "small", "tiny", "connectome-base", "connectome-small"}
        changes : mapping, optional
            Nested values, as in a YAML file.

        Raises
        ------
        ConfigError
            If the preset or a key is unknown, or a value illegal.
        """
        return trees.parse(cls, _merged(_preset(name), changes or {}))

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        overrides: Sequence[str] = (),
        *,
        preset: str | None = None,
    ) -> RunConfig:
        """Read a run's YAML and apply ``key.sub=value`` overrides.

        Parameters
        ----------
        path : path, optional
            Holds the differences from the preset that its key ``preset`` names (``paper`` if
            none).
        overrides : sequence of str
        preset : str, optional
            Overrides the file's ``preset``.

        Raises
        ------
        ConfigError
        """
        tree = trees.read_yaml(path) if path is not None else {}
        tree = trees.override(tree, overrides)
        name = tree.pop("preset", "paper")
        base = _preset(preset or name)
        return trees.parse(cls, _merged(base, tree), file=path)

    def to_yaml(self) -> str:
        """Return all values, resolved, as YAML."""
        return trees.to_yaml(trees.to_tree(self))


# Beyond the paper: tokens of second order (`semantoks.model.tokenizers.connectome`). A view is one
# part of a scan, filled up with zeros; masks hide up to 5 of 9 networks.
_CONNECTOME: dict[str, Any] = {
    "encoder": {
        "granularity": "connectome",
        "width": 256,
        "depth": 1,
        "layer_scale": 1.0,
        "final_norm": False,
        "patch_length": 120,
        "n_patches": 1,
    },
    "views": {
        "augment": dict.fromkeys(("roi_dropout", "time_dropout", "amplitude", "noise"), "none"),
        "masks": {"kind": "network", "frequency": 0.85, "ratio_min": 0.1, "ratio_max": 0.7},
    },
    "objective": {"kind": "prediction"},
    "optim": {
        "epochs": 60,
        "batch_size": 96,
        "base_lr": 2.67e-3,
        "warmup_epochs": 3.0,
        "weight_decay": 0.05,
        "weight_decay_end": 0.05,
    },
}

# A small model has less to learn from and less to learn: bigger steps, smaller batches.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "small": {
        "encoder": {"width": 192, "depth": 4},
        "optim": {"batch_size": 64, "base_lr": 2e-3, "epochs": 60, "warmup_epochs": 3.0},
        "objective": {"network_epochs": 3.0},
    },
    "connectome-base": _CONNECTOME,
    "connectome-small": trees.merge(
        _CONNECTOME,
        {"encoder": {"width": 64, "head_width": 16, "connectome": {"n_components": 32}}},
    ),
    "tiny": {
        "encoder": {"width": 64, "depth": 2},
        "objective": {"projection_hidden": 96, "projection_width": 32, "network_epochs": 2.0},
        "optim": {"batch_size": 32, "base_lr": 4e-3, "epochs": 40, "warmup_epochs": 2.0},
    },
}


def _merged(preset: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Put changes into a preset, without what it states of another kind of objective."""

    def kind(tree: Mapping[str, Any]) -> object:
        objective = tree.get("objective")
        return objective.get("kind") if isinstance(objective, Mapping) else None

    if kind(changes) not in (None, kind(preset) or DEFAULT):
        preset = {key: value for key, value in preset.items() if key != "objective"}
    return trees.merge(preset, changes)


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise ConfigError(
            "is no preset", field="preset", value=name, fix=nearest(str(name), PRESETS)
        )
    return PRESETS[name]

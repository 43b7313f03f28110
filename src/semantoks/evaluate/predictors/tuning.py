"""Settings of fine-tuning, and the names of fine-tuned models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from semantoks.errors import ConfigError, InputError

#: What is trained: everything; the head alone at first; low-rank updates and the head; the head.
Train = Literal["full", "frozen-then-full", "lora", "head"]
Head = Literal["linear", "mlp"]
TuningPrecision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How models are fine-tuned in an evaluation; the defaults are the paper's."""

    head: Head = "linear"
    """Head on ``cls_avg``: one linear map, or two with a GELU between."""
    epochs: int = 50
    """Epochs, each with one random crop per recording."""
    lr: float = 1e-4
    """Learning rate of the head at first; it falls to 0 along a cosine."""
    batch_size: int = 16
    """Recordings per step."""
    layer_decay: float = 0.9
    """Learning rate of a layer per that of the layer above it."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    frozen_epochs: int = 5
    """Epochs of frozen-then-full in which the head alone is trained."""
    lora_rank: int = 8
    """Rank of the updates of lora."""
    lora_alpha: float = 16.0
    """The updates are scaled by lora_alpha / lora_rank."""
    patience: int | None = None
    """Epochs without a smaller loss on people held out, after which training stops; null: never."""
    validation: float = 0.2
    """Share of the training part's groups that is held out for that."""
    precision: TuningPrecision = "float32"
    """Arithmetic of training; weights are float32 either way."""

    def __post_init__(self) -> None:
        rules = {
            "head": (self.head in get_args(Head), "must be linear or mlp"),
            "precision": (
                self.precision in get_args(TuningPrecision),
                "must be float32 or bfloat16",
            ),
            "epochs": (self.epochs >= 1, "must be at least 1"),
            "batch_size": (self.batch_size >= 1, "must be at least 1"),
            "lora_rank": (self.lora_rank >= 1, "must be at least 1"),
            "frozen_epochs": (self.frozen_epochs >= 1, "must be at least 1"),
            "patience": (
                self.patience is None or self.patience >= 1,
                "must be at least 1, or None",
            ),
            "validation": (0.0 < self.validation < 1.0, "must lie between 0 and 1"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ConfigError(rule, field=name, value=getattr(self, name))

    def check(self, train: Train) -> None:
        """Refuse a choice of what is trained that does not go with these settings.

        Raises
        ------
        InputError
        """
        if train not in get_args(Train):
            rule = f"must be one of {', '.join(get_args(Train))}"
            raise InputError(rule, field="train", value=train)
        if train == "frozen-then-full" and self.frozen_epochs >= self.epochs:
            rule = f"must be fewer than the {self.epochs} epochs"
            raise InputError(rule, field="frozen_epochs", value=self.frozen_epochs)


def tuned_name(model: str, train: Train) -> str:
    """Return what a model is called when it is fine-tuned: "mine (lora)"."""
    return f"{model} ({train})"


def untuned_name(name: str) -> str:
    """Return the model that is fine-tuned under this name, or the name itself."""
    for train in get_args(Train):
        name = name.removesuffix(f" ({train})")
    return name

"""The objectives by their kind: the one place that lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator

from semantoks.errors import ConfigError, nearest
from semantoks.model.encoder import Encoder
from semantoks.objectives.autoregressive import Autoregressive, AutoregressiveConfig
from semantoks.objectives.barlow import BarlowTwins, BarlowTwinsConfig
from semantoks.objectives.blocks import Blocks, BlocksConfig
from semantoks.objectives.contrastive import Contrastive, ContrastiveConfig
from semantoks.objectives.dino import DINO, DINOConfig
from semantoks.objectives.distillation import DistillationConfig, SelfDistillation
from semantoks.objectives.jepa import JEPA, JEPAConfig
from semantoks.objectives.objective import Objective
from semantoks.objectives.order import Order, OrderConfig
from semantoks.objectives.prediction import Prediction, PredictionConfig
from semantoks.objectives.reconstruction import Reconstruction, ReconstructionConfig
from semantoks.objectives.vicreg import VICReg, VICRegConfig

#: kind -> configuration, class. The first is the default.
OBJECTIVES: dict[str, tuple[type[Any], type[Objective[Any, Any]]]] = {
    "distillation": (DistillationConfig, SelfDistillation),
    "vicreg": (VICRegConfig, VICReg),
    "prediction": (PredictionConfig, Prediction),
    "autoregressive": (AutoregressiveConfig, Autoregressive),
    "contrastive": (ContrastiveConfig, Contrastive),
    "barlow": (BarlowTwinsConfig, BarlowTwins),
    "dino": (DINOConfig, DINO),
    "order": (OrderConfig, Order),
    "blocks": (BlocksConfig, Blocks),
    "jepa": (JEPAConfig, JEPA),
    "reconstruction": (ReconstructionConfig, Reconstruction),
}
DEFAULT = next(iter(OBJECTIVES))

if TYPE_CHECKING:
    ObjectiveConfig = (
        DistillationConfig
        | VICRegConfig
        | PredictionConfig
        | AutoregressiveConfig
        | ContrastiveConfig
        | BarlowTwinsConfig
        | DINOConfig
        | OrderConfig
        | BlocksConfig
        | JEPAConfig
        | ReconstructionConfig
    )
else:
    _configs = tuple(config for config, _ in OBJECTIVES.values())
    ObjectiveConfig = Annotated[Union[_configs], Discriminator("kind")]  # noqa: UP007


def make_objective(encoder: Encoder, config: ObjectiveConfig) -> Objective[Any, Any]:
    """Return the objective of a configuration around an encoder.

    Parameters
    ----------
    encoder : Encoder
        Is trained in place.
    config : one of the configurations of `OBJECTIVES`

    Raises
    ------
    ConfigError
        If `config` is not of a known kind.
    """
    if config.kind not in OBJECTIVES:
        fix = nearest(config.kind, OBJECTIVES)
        raise ConfigError("is not an objective", field="objective.kind", value=config.kind, fix=fix)
    return OBJECTIVES[config.kind][1](encoder, config)

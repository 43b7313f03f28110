"""Roles of the models of a result: model, control, baseline, chance."""

from __future__ import annotations

from semantoks.evaluate.features.baselines import BASELINES

#: The model that knows nothing: classes as frequent as each other, or the mean of those trained on.
CHANCE = "chance"
#: What every model has to beat: functional connectivity, and its own architecture untrained.
CONTROLS = CONNECTIVITY, RANDOM = "connectivity", "random weights"
#: Roles of models that another seed makes another model.
SEEDED = frozenset({"model", "random"})
#: The baseline that is part of every evaluation: a model that does not beat it has not earned its
#: cost.
SPECTRAL = "spectral connectivity"


def role(model: str) -> str:
    """Return what a model of a result is: model, random, connectivity, baseline or chance."""
    if model == CHANCE:
        return "chance"
    if model == CONNECTIVITY:
        return "connectivity"
    if model in BASELINES:
        return "baseline"
    return "random" if model == RANDOM or model.startswith(f"{RANDOM} (") else "model"

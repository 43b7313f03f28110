"""Roles of the models of a result: model, control, baseline, chance."""

from __future__ import annotations

from semantoks.evaluate.features.baselines import BASELINES

#: The model that knows nothing: classes as frequent as each other, or the mean of those trained on.
CHANCE = "chance"
#: What every model has to beat: functional connectivity, and its own architecture untrained.
CONTROLS = CONNECTIVITY, RANDOM = "connectivity", "random weights"
#: Roles of models that another seed makes another model.
SEEDED = frozenset({"model", "random", "joint"})
#: The baseline that is part of every evaluation: a model that does not beat it has not earned its
#: cost.
SPECTRAL = "spectral connectivity"


def role(model: str) -> str:
    """Return what a model of a result is: model, random, joint, connectivity, baseline, chance."""
    if model == CHANCE:
        return "chance"
    if model == CONNECTIVITY:
        return "connectivity"
    if model in BASELINES:
        return "baseline"
    if beside(model):
        return "joint"
    return "random" if model == RANDOM or model.startswith(f"{RANDOM} (") else "model"


def joint_name(model: str, baseline: str) -> str:
    """Return the name of a model side by side with a baseline."""
    return f"{model} + {baseline}"


def beside(model: str) -> str:
    """Return the baseline that a model stands side by side with; empty if it stands alone."""
    baseline = model.rpartition(" + ")[2]
    return baseline if baseline in BASELINES and baseline != model else ""

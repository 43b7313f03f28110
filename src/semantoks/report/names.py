"""Names of metrics as the field uses them."""

from __future__ import annotations

import numpy as np

from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CHANCE


def metric_name(result: ProbeResult, target: str, metric: str) -> str:
    """Return a metric's name in full: of which class, and whether it is a mean over classes."""
    classes = result.meta["targets"][target]["classes"]
    if not classes or metric not in ("AUROC", "pooled AUROC", "AUPRC"):
        return metric
    if len(classes) > 2:
        return f"macro {metric}"
    if metric != "AUPRC":
        return metric
    truth = result.outcomes(target, [CHANCE]).y
    return f"AUPRC of {classes[1]} (prevalence {np.mean(truth == 1):.2f})"

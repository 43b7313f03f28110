"""Foundation models of brain dynamics, from parcellated fMRI to honest prediction."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Name -> module; imported on first use, so that `semantoks --help` need not wait for torch.
_PUBLIC = {
    "Parcellation": "semantoks.atlas.parcellation",
    "Recording": "semantoks.data.recording",
    "RecordingStore": "semantoks.data.store",
    "Preprocessing": "semantoks.data.signal",
    "Encoder": "semantoks.model.encoder",
    "EncoderConfig": "semantoks.model.encoder",
    "SelfDistillation": "semantoks.objectives.distillation",
    "Trainer": "semantoks.train.trainer",
    "RunConfig": "semantoks.train.run",
    "load_pretrained": "semantoks.model.pretrained",
    "Embedder": "semantoks.evaluate.features.embed",
    "LinearProbe": "semantoks.evaluate.predictors.probe",
    "LinearProbeRegressor": "semantoks.evaluate.predictors.probe",
    "FineTuner": "semantoks.evaluate.predictors.finetune",
    "FineTunerRegressor": "semantoks.evaluate.predictors.finetune",
    "ConnectivityBaseline": "semantoks.evaluate.features.connectivity",
    "evaluate_probes": "semantoks.evaluate.compare.evaluation",
    "Target": "semantoks.evaluate.compare.targets",
    "Plan": "semantoks.assess.plan",
    "Assessment": "semantoks.assess.assessment",
    "evaluate_store": "semantoks.workflow.evaluate",
    "write_report": "semantoks.report.page",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'semantoks' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

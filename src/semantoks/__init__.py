"""Foundation models of brain dynamics, from parcellated fMRI to honest prediction."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from semantoks.versions import check_dependencies

__version__ = "0.1.0"

check_dependencies()

# Name -> module; imported on first use, so that `semantoks --help` need not wait for torch.
_PUBLIC = {
    "SemantoksError": "semantoks.errors",
    "InputError": "semantoks.errors",
    "ConfigError": "semantoks.errors",
    "StoreError": "semantoks.errors",
    "CheckpointError": "semantoks.errors",
    "Channels": "semantoks.atlas.channels",
    "Parcellation": "semantoks.atlas.parcellation",
    "assign_by_coordinates": "semantoks.atlas.assign",
    "Recording": "semantoks.data.recording",
    "RecordingStore": "semantoks.data.store",
    "Preprocessing": "semantoks.data.signal",
    "Censoring": "semantoks.data.denoise",
    "Reading": "semantoks.data.sources.items",
    "RoiRules": "semantoks.data.encode",
    "PhenotypeRules": "semantoks.data.phenotypes",
    "QualityRules": "semantoks.data.quality",
    "Running": "semantoks.data.shards",
    "prepare_store": "semantoks.workflow.prepare",
    "Encoder": "semantoks.model.encoder",
    "EncoderConfig": "semantoks.model.encoder",
    "load_pretrained": "semantoks.model.pretrained",
    "Objective": "semantoks.objectives.objective",
    "SelfDistillation": "semantoks.objectives.distillation",
    "VICReg": "semantoks.objectives.vicreg",
    "Trainer": "semantoks.train.trainer",
    "RunConfig": "semantoks.train.run",
    "Embedder": "semantoks.evaluate.features.embed",
    "ConnectivityBaseline": "semantoks.evaluate.features.connectivity",
    "LinearProbe": "semantoks.evaluate.predictors.probe",
    "LinearProbeRegressor": "semantoks.evaluate.predictors.probe",
    "FineTuner": "semantoks.evaluate.predictors.finetune",
    "FineTunerRegressor": "semantoks.evaluate.predictors.finetune",
    "save_estimator": "semantoks.evaluate.predictors.saving",
    "load_estimator": "semantoks.evaluate.predictors.saving",
    "evaluate_probes": "semantoks.evaluate.compare.evaluation",
    "paper_probe": "semantoks.evaluate.compare.paper",
    "Target": "semantoks.evaluate.compare.targets",
    "Plan": "semantoks.assess.plan",
    "Assessment": "semantoks.assess.assessment",
    "evaluate_store": "semantoks.workflow.evaluate",
    "explain_model": "semantoks.workflow.explain",
    "write_report": "semantoks.report.page",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'semantoks' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

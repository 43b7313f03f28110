"""The methods paragraph of an evaluation, in the words of a paper."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from semantoks.assess.assessment import Assessment
from semantoks.assess.parts.base import listed
from semantoks.assess.parts.table import PARTS
from semantoks.evaluate.compare.roles import role
from semantoks.evaluate.features.baselines import BASELINES

_MODEL = {
    "logistic": "L2-penalised logistic regression",
    "ridge": "ridge regression on class signs",
    "svm": "a linear support vector machine",
}
_TRAINED = {
    "full": "all its weights",
    "frozen-then-full": "the head alone for {frozen_epochs} epochs, then all its weights",
    "lora": "low-rank updates of the linear maps of attention and MLP (rank {lora_rank}, alpha "
    "{lora_alpha:g}; Hu et al., 2022) and the head",
    "head": "the head alone",
}


def methods_paragraph(found: Assessment) -> str:
    """Return what was run as one paragraph: data, models, design, scores, tests, versions."""
    result = found.comparison
    meta = result.meta
    sentences = [
        _data(meta, found.settings),
        *_targets(meta),
        _models(meta),
        *_fine_tunings(meta),
        _design(meta),
        _scores(result.scores["metric"].unique().tolist(), meta),
        _tests(meta),
        *_parts(found),
        _versions(meta),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _data(meta: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    store = meta["store"]
    people = f"{store['n_recordings']} recordings of {store['n_subjects']} people"
    text = f"We evaluated on {people} (data set {store['name']}, "
    text += f"parcellation {store['parcellation']}, TR {store['tr']:g} s"
    steps = settings.get("preprocessing")
    if steps:
        band = f"{steps['low_hz'] or 'open'} to {steps['high_hz'] or 'open'} Hz"
        text += f"; signals {'detrended, ' if steps['detrend'] else ''}band-pass filtered ({band})"
        text += ", resampled" + (" and z-scored per region" if steps["zscore"] else "")
    return text + ")."


def _targets(meta: Mapping[str, Any]) -> list[str]:
    texts = []
    for name, facts in meta["targets"].items():
        what = f"We predicted {name} ({facts['kind']}"
        what += f" of {listed(facts['classes'])}" if facts["classes"] else ""
        what += f"; {facts['n_recordings']} recordings with a value"
        what += f", {facts['n_left_out']} without one excluded" if facts["n_left_out"] else ""
        texts.append(f"{what}).")
    return texts


def _models(meta: Mapping[str, Any]) -> str:
    trained = {
        n: f for n, f in meta["models"].items() if role(n) == "model" and "fine_tuned" not in f
    }
    texts = []
    for name, facts in trained.items():
        seen = facts.get("n_test_subjects_seen")
        data = "pretraining data not stated"
        if seen is not None:
            record = facts["pretraining"]
            how = "and then fine-tuned" if record.get("fine_tuned") else "without labels"
            data = (
                f"pretrained {how} on {record['n_recordings']} recordings, "
                f"{seen or 'none'} of the {facts['n_test_subjects']} tested people among them"
            )
        texts.append(f"{name} ({data})")
    others = [BASELINES[n].sentence() for n in meta["models"] if n in BASELINES]
    text = f"Frozen embeddings of {listed(texts)} were compared with " if texts else "We compared "
    random = ["the same architecture with random weights"] if texts else []
    return f"{text}{listed([*random, *others])}, all with the same folds and the same linear model."


def _fine_tunings(meta: Mapping[str, Any]) -> list[str]:
    """Return how models were fine-tuned, a sentence for those with the same settings."""
    alike: dict[str, dict[str, Any]] = {}
    for name, facts in meta["models"].items():
        if "fine_tuned" in facts:
            same = {
                k: v for k, v in facts["fine_tuned"].items() if k not in ("train", "checkpoint")
            }
            alike.setdefault(json.dumps(same), {})[name] = facts["fine_tuned"]
    return [_fine_tuning(tuned) for tuned in alike.values()]


def _fine_tuning(tuned: Mapping[str, Any]) -> str:
    how = next(iter(tuned.values()))
    models: dict[str, list[str]] = {}
    for name, settings in tuned.items():
        models.setdefault(_TRAINED[settings["train"]].format(**settings), []).append(name)
    named = listed([f"{what} in {listed(names)}" for what, names in models.items()])
    weights = " with balanced class weights" if how.get("class_weight") == "balanced" else ""
    text = (
        f"In place of the linear model, a {how['head']} head was put on the embedding and, on the "
        f"same folds, we trained {named}: AdamW, learning rate {how['lr']:g} falling along a "
        f"cosine over {how['epochs']} epochs and by a factor of {how['layer_decay']:g} from layer "
        f"to layer, batches of {how['batch_size']}, weight decay {how['weight_decay']:g}, "
        f"gradients clipped to {how['clip_norm']:g}, one random crop per recording and epoch, "
        f"{how['precision']}, cross-entropy{weights} for classes and an L1 loss for numbers"
    )
    if how["patience"] is None:
        return f"{text}, without early stopping."
    return (
        f"{text}; training stopped after {how['patience']} epochs without a smaller loss on people "
        f"held out of the training part ({how['validation']:.0%} of its groups, or the stated "
        "validation part), and the weights of the best epoch were taken."
    )


def _design(meta: Mapping[str, Any]) -> str:
    counts = {name: len(facts["folds"]) for name, facts in meta["targets"].items()}
    sizes = sorted(set(counts.values()))
    folds = f"were {listed([str(n) for n in sizes])} folds" if sizes != [1] else "was one fold"
    probe = _MODEL[meta["design"]["probe"]["model"]]
    kinds = {facts["kind"] for facts in meta["targets"].values()}
    fitted = [probe + _weights(meta)] if "classification" in kinds else []
    fitted += ["ridge regression for numbers"] if "regression" in kinds else []
    return (
        f"{meta['design']['sentence']} There {folds} per target (seed {meta['seed']}); no person "
        "was in both parts of a fold. On standardised features we fitted "
        f"{listed(fitted)}; the strength of the penalty was chosen by inner cross-validation over "
        f"groups ({meta['design']['group']}) within the training part, where all fitted steps were "
        "fitted. The predictions of a person's recordings were averaged."
    )


def _weights(meta: Mapping[str, Any]) -> str:
    weight = meta["design"]["probe"]["class_weight"]
    return " with balanced class weights" if weight == "balanced" else ""


def _scores(metrics: Sequence[str], meta: Mapping[str, Any]) -> str:
    counted = {f["counted"]["units"]: f["counted"]["n"] for f in meta["targets"].values()}
    over = listed([f"{n} {units}" for units, n in counted.items()])
    return (
        f"Scores ({listed(metrics)}) have 95 % intervals from a jackknife over {over}, corrected "
        "for the overlap of training parts (Efron and Stein, 1981); AUROC, concordance and r are "
        "those within sites, or within folds where sites are unknown, averaged."
    )


def _tests(meta: Mapping[str, Any]) -> str:
    of = [f"{facts['metric']} of {name}" for name, facts in meta["targets"].items()]
    chosen = any(facts["chosen"] for facts in meta["targets"].values())
    return (
        f"Models were compared with their controls and with chance by {listed(of)}"
        f"{', chosen by the analyst before the analysis,' if chosen else ''} with t tests on the "
        "same jackknife; p-values were adjusted for the number of models and targets (Holm, 1979), "
        "and adjusted p < 0.05 was called significant."
    )


def _parts(found: Assessment) -> list[str]:
    return [part.load().sentence(found.parts[n]) for n, part in PARTS.items() if n in found.parts]


def _versions(meta: Mapping[str, Any]) -> str:
    versions = listed([f"{name} {version}" for name, version in meta["versions"].items()])
    return f"Computed with {versions} on Python {meta['python']}."

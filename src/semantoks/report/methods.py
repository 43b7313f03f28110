"""The methods paragraph of an evaluation: what was run, in the words of a paper."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from semantoks.assess.assessment import Assessment
from semantoks.assess.parts import GAP, REGRESSED
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
_TESTS = {
    "corrected resampled t": "the corrected resampled t test over folds (Nadeau and Bengio, 2003)",
    "sign flips of people": "a paired permutation test that flips the signs of people's "
    "differences in loss",
    "swaps of people": "a paired permutation test that swaps the two models' predictions within "
    "people",
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
        _tests(sorted(set(result.differences["test"]) - {""}), meta),
        *_parts(found),
        _versions(meta),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _data(meta: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    store = meta["store"]
    people = f"{store['n_recordings']} resting or task recordings of {store['n_subjects']} people"
    text = f"We evaluated on {people.replace('resting or task ', '')} (data set {store['name']}, "
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
        what += f" of {_list(facts['classes'])}" if facts["classes"] else ""
        what += f"; {facts['n_recordings']} recordings with a value"
        what += f", {facts['n_left_out']} without one left out" if facts["n_left_out"] else ""
        texts.append(f"{what}).")
    return texts


def _models(meta: Mapping[str, Any]) -> str:
    trained = {
        n: f for n, f in meta["models"].items() if role(n) == "model" and "fine_tuned" not in f
    }
    texts = []
    for name, facts in trained.items():
        seen = facts.get("n_test_subjects_seen")
        said = "whose pretraining data are not stated"
        if seen is not None:
            record = facts["pretraining"]
            how = "with labels in the end" if record.get("fine_tuned") else "without labels"
            said = (
                f"pretrained {how} on {record['n_recordings']} recordings, "
                f"{seen or 'none'} of the {facts['n_test_subjects']} tested people among them"
            )
        texts.append(f"{name} ({said})")
    others = [BASELINES[n].sentence() for n in meta["models"] if n in BASELINES]
    text = f"Frozen embeddings of {_list(texts)} were compared with " if texts else "We compared "
    random = ["the same architecture with random weights"] if texts else []
    return f"{text}{_list([*random, *others])}, all with the same folds and the same linear model."


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
    named = _list([f"{what} in {_list(names)}" for what, names in models.items()])
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
    folds = f"{_list([str(n) for n in sizes])} folds" if sizes != [1] else "one fold"
    probe = _MODEL[meta["design"]["probe"]["model"]]
    kinds = {facts["kind"] for facts in meta["targets"].values()}
    fitted = [probe + _weights(meta)] if "classification" in kinds else []
    fitted += ["ridge regression for numbers"] if "regression" in kinds else []
    return (
        f"{meta['design']['sentence']} ({folds} per target, seed {meta['seed']}; no person was in "
        f"both parts of a fold.) On standardised features we fitted {_list(fitted)}; the strength "
        "of the penalty was chosen by inner cross-validation over groups "
        f"({meta['design']['group']}) within the training part, where all fitted steps were "
        "fitted. The predictions of a person's recordings were averaged."
    )


def _weights(meta: Mapping[str, Any]) -> str:
    weight = meta["design"]["probe"]["class_weight"]
    return " with balanced class weights" if weight == "balanced" else ""


def _scores(metrics: Sequence[str], meta: Mapping[str, Any]) -> str:
    return (
        f"Scores ({_list(metrics)}) are of all tested people together, with 95 % percentile "
        f"bootstrap intervals over people ({meta['n_bootstrap']} samples)."
    )


def _tests(tests: Sequence[str], meta: Mapping[str, Any]) -> str:
    compared = _list([_TESTS[test] for test in tests])
    return (
        (f"Models were compared with their controls by {compared}, " if tests else "")
        + (
            "and with knowing nothing by permuting the truth within sites, or folds where no site "
            if tests
            else "Models were compared with knowing nothing by permuting the truth within "
            "sites, or folds where no site "
        )
        + f"is known ({meta['n_permutations']} permutations); p-values were adjusted for the "
        "number of models and targets (Holm, 1979), and adjusted p < 0.05 was called a difference."
    )


def _parts(found: Assessment) -> list[str]:
    parts, texts = found.parts, []
    if "adjusted" in parts:
        columns = parts["adjusted"].facts["confounds"]
        done = [
            v
            for v in parts["adjusted"].facts["variants"]
            if v not in parts["adjusted"].facts["left_out"]
        ]
        how = []
        if columns and REGRESSED in done:
            how.append(f"with {_list(columns)} regressed out of the features (Snoek et al., 2019)")
        how += [f"after {v} (Johnson et al., 2007)" for v in done if v.startswith("ComBat")]
        texts.append(
            f"Models were also scored {_list(how)}, fitted in the training part; a "
            "target was never among its own confounds."
        )
    if "corruption" in parts:
        texts.append(
            "Robustness was measured by training on the recordings as they are and "
            "testing on recordings with simulated motion spikes, respiratory, cardiac "
            "and slow noise, longer TRs, shorter scans and missing regions."
        )
    if "reliability" in parts:
        facts = parts["reliability"].facts
        of = (
            "two sessions"
            if facts["of"] == "sessions"
            else (f"the two halves of a scan ({GAP:g} s between them)")
        )
        texts.append(
            f"Reliability between {of} of {facts['n_subjects']} people was measured by "
            "identification rate (Finn et al., 2015), differential identifiability "
            "(Amico and Goñi, 2018), discriminability (Bridgeford et al., 2021) and "
            "intraclass correlation (Shrout and Fleiss, 1979)."
        )
    if "importance" in parts:
        n = parts["importance"].facts["n_recordings"]
        texts.append(
            "The importance of a functional network is the cosine distance by which the embedding "
            f"moves when it is masked ({n} recordings)."
        )
    if "alarms" in parts:
        n = len(parts["alarms"].facts["alarms"])
        texts.append(
            "We checked for shared subjects, test data in pretraining, duplicate "
            f"recordings and targets that follow confounds ({n or 'no'} alarms)."
        )
    return texts


def _versions(meta: Mapping[str, Any]) -> str:
    versions = _list([f"{name} {version}" for name, version in meta["versions"].items()])
    return f"Computed with {versions} on Python {meta['python']}."


def _list(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"

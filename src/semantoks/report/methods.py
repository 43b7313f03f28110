"""The methods paragraph of an evaluation, in the words of a paper."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from semantoks.assess.assessment import Assessment
from semantoks.assess.parts.base import listed
from semantoks.assess.parts.table import PARTS
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CHANCE, beside, role
from semantoks.evaluate.features.baselines import BASELINES
from semantoks.evaluate.predictors.probe import N_FOLDS
from semantoks.evaluate.stats.metrics import METRICS
from semantoks.report.names import metric_name

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

_WITHIN = {
    name for of_kind in METRICS.values() for name, metric in of_kind.items() if metric.within
}
_WITHIN |= {f"macro {name}" for name in _WITHIN}


def methods_paragraph(found: Assessment) -> str:
    """Return what was run as one paragraph: data, models, design, scores, tests, versions."""
    result = found.comparison
    meta = result.meta
    sentences = [
        _data(meta, found.settings),
        *(_target(result, name) for name in meta["targets"]),
        _models(meta, found.settings),
        *_fine_tunings(meta),
        _design(result),
        _few(result, found.settings),
        _minutes(meta),
        _scores(result),
        _tests(meta),
        _battery(result),
        *_parts(found),
        _versions(meta),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _data(meta: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    store = meta["store"]
    people = f"{store['n_recordings']} recordings of {store['n_subjects']} people"
    text = f"We evaluated on {people} (data set {store['name']}, "
    text += f"parcellation {store['parcellation']}, TR {store['tr']:g} s"
    done = _preprocessing(settings["preprocessing"]) if "preprocessing" in settings else []
    return f"{text}; signals {listed(done)})." if done else f"{text})."


def _preprocessing(steps: Mapping[str, Any]) -> list[str]:
    """Return what was done to every signal; an open edge of the band filters nothing."""
    low, high = steps["low_hz"], steps["high_hz"]
    done = ["linearly detrended"] if steps["detrend"] else []
    how = ", by regression on cosines" if steps.get("filter") == "cosine" else ""
    if low and high:
        done.append(f"band-pass filtered ({low:g} to {high:g} Hz{how})")
    elif low or high:
        done.append(f"{'high' if low else 'low'}-pass filtered ({low or high:g} Hz{how})")
    done.append("resampled to this TR where the scanner's was another")
    return [*done, "z-scored per region"] if steps["zscore"] else done


def _target(result: ProbeResult, name: str) -> str:
    """Return a target with its kind and the distribution among tested people."""
    facts = result.meta["targets"][name]
    y = result.outcomes(name, [CHANCE]).y
    if facts["classes"]:
        counts = [f"{(y == code).sum()} {each}" for code, each in enumerate(facts["classes"])]
        what = f"{facts['kind']}; tested: {listed(counts)}"
        if len(counts) == 2:
            what += f"; {facts['classes'][1]} is the positive class"
    else:
        what = f"{facts['kind']}; tested: {len(y)}, mean {y.mean():.3g}, "
        what += f"standard deviation {y.std(ddof=1):.2g}"
    if facts.get("residualise"):
        what += f"; residuals of a linear regression on {listed(facts['residualise'])} fitted in "
        what += "the training part of every fold"
    if facts["n_left_out"]:
        what += f"; {facts['n_left_out']} of {facts['n_left_out'] + facts['n_recordings']} "
        what += "recordings without a value excluded"
    return f"We predicted {name} ({what})."


def _models(meta: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    roles = {n: role(n) for n in meta["models"]}
    frozen = [n for n, f in meta["models"].items() if roles[n] == "model" and "fine_tuned" not in f]
    texts = [f"{name} ({_seen(meta['models'][name])})" for name in frozen]
    random = [facts for name, facts in meta["models"].items() if roles[name] == "random"]
    controls = [_random(random, meta["seed"])] if random else []
    controls += [BASELINES[n].sentence() for n in meta["models"] if n in BASELINES]
    if not texts:
        text = f"We compared {listed(controls)}"
    elif "n_crops" in settings:
        n = settings["n_crops"]
        crops = f"{n} evenly spaced crops" if n > 1 else "one crop"
        text = f"Frozen embeddings of {listed(texts)}, means over {crops} per recording, "
        text += f"were compared with {listed(controls)}"
    else:
        text = f"Frozen features of {listed(texts)} were compared with {listed(controls)}"
    text += ", all with the same folds and the same linear model."
    joint = [*dict.fromkeys(beside(name) for name in roles if roles[name] == "joint")]
    if joint:
        text += (
            f" The embeddings were also fitted side by side with {listed(joint)}, both weighing "
        )
        text += "the same, and compared with it alone."
    return text


def _seen(facts: Mapping[str, Any]) -> str:
    """Return what a model was pretrained on."""
    seen, n = facts.get("n_test_subjects_seen"), facts["n_replicates"]
    runs = f"{n} pretraining runs, whose mean is scored; " if n > 1 else ""
    if seen is None:
        return f"{runs}pretraining data not stated"
    record = facts["pretraining"]
    how = "and then fine-tuned" if record.get("fine_tuned") else "without labels"
    data = f"pretrained {how} on {record['n_recordings']} recordings"
    return (
        f"{runs}{data}, {seen or 'none'} of the {facts['n_test_subjects']} tested people among them"
    )


def _random(random: Sequence[Mapping[str, Any]], seed: int) -> str:
    """Return how many draws of random weights there were."""
    n = max(facts["n_replicates"] for facts in random)
    draws = f"{n} draws, whose mean is scored" if n > 1 else "one draw"
    return f"the same architecture with random weights ({draws}; seed {seed})"


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


def _design(result: ProbeResult) -> str:
    """Return how people were divided, and what was fitted and chosen in a training part."""
    meta = result.meta
    sizes = sorted({len(facts["folds"]) for facts in meta["targets"].values()})
    folds = f"folds ({' or '.join(map(str, sizes))} per target; seed {meta['seed']})"
    division = f"{meta['design']['sentence']} No person was in both parts of any of the {folds}."
    if result.choices.empty:  # predictors of their own
        return f"{division} {_averaged(meta)}".rstrip()
    standardised = [n for n in meta["models"] if n in BASELINES and _by_feature(n)]
    scaled = "Features were centred and divided by the root of their total variance"
    if standardised:
        scaled += f" ({listed(standardised)}: standardised one by one)"
    fitted = f"{scaled}, and we fitted {listed(_fitted(meta))}{_weighing(meta)}."
    sentences = [division, fitted, _strength(result), _decided(meta), _averaged(meta)]
    return " ".join(sentence for sentence in sentences if sentence)


def _by_feature(name: str) -> bool:
    """Whether a baseline's features have no common unit, so that each is standardised."""
    return getattr(BASELINES[name].make(), "scaling", "block") == "feature"


def _fitted(meta: Mapping[str, Any]) -> list[str]:
    """Return the linear models, by kind of target."""
    probe, kinds = meta["design"]["probe"], _kinds(meta)
    weights = " with balanced class weights" if probe["class_weight"] == "balanced" else ""
    fitted = [_MODEL[probe["model"]] + weights] if "classification" in kinds else []
    return fitted + ["ridge regression for numbers"] * bool(kinds - {"classification"})


def _kinds(meta: Mapping[str, Any]) -> set[str]:
    return {facts["kind"] for facts in meta["targets"].values()}


def _strength(result: ProbeResult) -> str:
    """Return how the strength of the penalty was chosen, and from what."""
    whole = result.choices[result.choices["size"] == 0]
    grid = sorted({float(s) for strengths in whole["strengths"] for s in strengths})
    criteria = [f"the {name}" for name in whole["criterion"].unique()]
    return (
        f"The strength of the penalty, of {grid[0]:g} to {grid[-1]:g} times the variance of the "
        f"features in {len(grid)} steps, was chosen by {listed(criteria)} of people left out "
        f"within the training part (in at most {N_FOLDS} inner folds by "
        f"{result.meta['design']['group']}, or the stated validation part), where all other steps "
        "were fitted too."
    )


def _decided(meta: Mapping[str, Any]) -> str:
    """Return where probabilities and decisions come from."""
    if "classification" not in _kinds(meta):
        return ""
    learned = ["the thresholds for balanced accuracy"]
    if meta["design"]["probe"]["model"] != "logistic":
        learned.insert(0, "the calibration of probabilities (Platt, 1999)")
    return f"From the same left-out people came {listed(learned)}."


def _several(meta: Mapping[str, Any]) -> bool:
    """Whether people have several recordings."""
    return bool(meta["store"]["n_recordings"] > meta["store"]["n_subjects"])


def _weighing(meta: Mapping[str, Any]) -> str:
    return ", in which people weigh the same" if _several(meta) else ""


def _averaged(meta: Mapping[str, Any]) -> str:
    """Return what became of several recordings of a person."""
    if meta["design"]["unit"] == "recording":
        return "Every recording was predicted by itself."
    return "The predictions of a person's recordings were averaged." if _several(meta) else ""


def _few(result: ProbeResult, settings: Mapping[str, Any]) -> str:
    """Return that models were fitted to few people too, where they were."""
    sizes = [f"{n}" for n in sorted(result.curve["n_train"].unique())]
    if not sizes:
        return ""
    draws = (settings.get("curve") or {}).get("n_draws")
    often = f", {draws} times" if draws else ""
    return f"Models were also fitted to {listed(sizes)} people drawn from the training part{often}."


def _minutes(meta: Mapping[str, Any]) -> str:
    """Return that models were also given less of every recording, where they were."""
    facts = meta.get("minutes")
    if not facts:
        return ""
    lengths = listed([f"{m:g}" for m in facts["minutes"]])
    return (
        f"Models were also fitted and tested on the first {lengths} minutes of data of every "
        f"recording, in {facts['n_people']} people in the same folds; {facts['n_excluded']} people "
        f"with less than {facts['minutes'][-1]:g} minutes were excluded at every length."
    )


def _scores(result: ProbeResult) -> str:
    meta = result.meta
    metrics = [
        metric_name(result, target, str(metric))
        for target in meta["targets"]
        for metric in result.scores.loc[result.scores["target"] == target, "metric"].unique()
    ]
    within = [name for name in dict.fromkeys(metrics) if name in _WITHIN]
    counted = {f["counted"]["units"]: f["counted"]["n"] for f in meta["targets"].values()}
    over = listed([f"{n} {units}" for units, n in counted.items()])
    text = (
        f"Scores ({listed([*dict.fromkeys(metrics)])}) have 95 % intervals from a jackknife over "
        f"{over}, corrected for the overlap of training parts (Efron and Stein, 1981)."
    )
    if within:
        text += f" {listed(within)} compare people within sites, or within folds where sites are "
        text += "unknown, and combine them."
    if len(result.sites):
        text += " Over sites we also state the random-effects mean (Paule and Mandel, 1982; "
        text += "Hartung and Knapp, 2001), which is not tested."
    return text


def _tests(meta: Mapping[str, Any]) -> str:
    tested = {n: f for n, f in meta["targets"].items() if not f["counted"]["why_not"]}
    texts = []
    if tested:
        of = [f"{facts['metric']} of {name}" for name, facts in tested.items()]
        chosen = any(facts["chosen"] for facts in tested.values())
        texts.append(
            f"Models were compared with their controls and with chance by {listed(of)}"
            f"{', chosen by the analyst before the analysis,' if chosen else ''} with two-sided t "
            "tests on the same jackknife; p-values were adjusted for the number of models and "
            "targets (Holm, 1979), and adjusted p < 0.05 was called significant. Detectable "
            "differences are those found with a power of 80 %, unadjusted."
        )
    for name, facts in meta["targets"].items():
        if facts["counted"]["why_not"]:
            texts.append(f"Nothing was tested of {name}: {facts['counted']['why_not']}.")
    return " ".join(texts)


def _battery(result: ProbeResult) -> str:
    """Return how targets were tested together, where they were."""
    if result.battery.empty:
        return ""
    return (
        f"Over the {int(result.battery['n_targets'].max())} targets together, models were compared "
        "by the mean of the differences, each divided by its root mean square over units, with a t "
        "test on the jackknife that leaves every unit out of all targets at once, which allows for "
        "their correlation (Holm over models)."
    )


def _parts(found: Assessment) -> list[str]:
    return [part.load().sentence(found.parts[n]) for n, part in PARTS.items() if n in found.parts]


def _versions(meta: Mapping[str, Any]) -> str:
    versions = listed([f"{name} {version}" for name, version in meta["versions"].items()])
    return f"Computed with {versions} on Python {meta['python']}."

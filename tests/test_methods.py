"""The methods paragraph: its numbers are those of the result, and there are no others."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from semantoks.assess.assessment import assess
from semantoks.assess.plan import Plan
from semantoks.data.designs import GroupedKFold, LeaveOneSiteOut, SmallSamples
from semantoks.data.signal import Preprocessing
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.predictors.probe import N_FOLDS
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.report.methods import _preprocessing, methods_paragraph


def silent(_):
    pass


@pytest.fixture(scope="module")
def found(tmp_path_factory, store):
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    encoder = Encoder.random(config, store.parcellation, store.preprocessing, seed=1).eval()
    plan = Plan(
        targets=(Target("sex"), Target("age")),
        design=GroupedKFold(n_folds=3),
        n_crops=7,
        curve=SmallSamples(n_subjects=(5,), n_draws=4),
        seed=17,
    )
    folder = tmp_path_factory.mktemp("methods") / "o"
    return assess(store, folder, {"mine": encoder}, plan, parts=("cohort",), say=silent)


def numbers(text):
    """Return the numbers of a text but for years of references and versions."""
    text = re.sub(r"\([^()]*\b(19|20)\d\d[a-z]?[^()]*\)", "", text)  # (Holm, 1979)
    text = re.sub(r"Computed with .*", "", text)
    return re.findall(r"(?<![A-Za-z\d.])\d+(?:\.\d+)?(?:e-?\d+)?", text)


def known(found):
    """Return every number that the paragraph may hold, from the result itself."""
    result, settings = found.comparison, found.settings
    meta, steps = result.meta, settings["preprocessing"]
    values = [meta["store"][key] for key in ("n_recordings", "n_subjects", "tr")]
    values += [steps["low_hz"], steps["high_hz"], settings["n_crops"], meta["seed"]]
    values += [len(facts["folds"]) for facts in meta["targets"].values()]
    values += [facts["counted"]["n"] for facts in meta["targets"].values()]
    values += [*settings["curve"]["n_subjects"], settings["curve"]["n_draws"]]
    people = result.predictions.query("model == 'chance' and repeat == 0")
    sex = people.query("target == 'sex'")["truth"].value_counts()
    age = people.query("target == 'age'")["truth"].astype(float)
    texts = [f"{sex.min() / sex.sum():.2f}", f"{age.mean():.3g}", f"{age.std():.2g}"]
    values += [*sex, len(age), people["site"].nunique()]
    grid = result.choices["strengths"].iloc[0]
    values += [min(grid), max(grid), len(grid), N_FOLDS]
    texts += ["95", "80", "0.05", "2"]  # level, power, and R2
    described = found.parts["cohort"].tables["people"].iloc[-1]
    texts += re.findall(r"[\d.]+", f"{described['mean_fd']}")
    return {f"{float(value):g}" for value in [*values, *texts]}


def test_every_number_of_the_paragraph_is_one_of_the_result(found):
    text = methods_paragraph(found)
    said = {f"{float(number):g}" for number in numbers(text)}
    assert said <= known(found), sorted(said - known(found))
    for part in (
        "means over 7 evenly spaced crops per recording",
        "(5 draws, whose mean is scored; seed 17)",
        "3 folds over subjects",
        "(3 per target; seed 17)",
        "chosen by the squared error of people left out",
        "in which people weigh the same",
        "fitted to 5 people drawn from the training part, 4 times",
        "band-pass filtered (0.01 to 0.1 Hz)",
        "resampled to this TR where the scanner's was another",
        "is the positive class",
        "two-sided t tests",
    ):
        assert part in text, part


def test_the_counts_are_those_of_the_people_tested(found):
    people = found.comparison.predictions.query(
        "target == 'sex' and model == 'chance' and repeat == 0"
    )
    counts = people["truth"].value_counts()
    first, second = found.comparison.meta["targets"]["sex"]["classes"]
    expected = f"tested: {counts[first]} {first} and {counts[second]} {second}; {second} is the"
    assert expected in methods_paragraph(found)


@pytest.mark.parametrize(
    ("edges", "text"),
    [
        ((0.01, 0.1), "band-pass filtered (0.01 to 0.1 Hz)"),
        ((0.01, None), "high-pass filtered (0.01 Hz)"),
        ((None, 0.1), "low-pass filtered (0.1 Hz)"),
        ((None, None), ""),
    ],
)
def test_an_open_edge_of_the_filter_is_no_filter(edges, text):
    steps = vars(Preprocessing(tr=2.0, low_hz=edges[0], high_hz=edges[1]))
    filters = [step for step in _preprocessing(steps) if "filtered" in step]
    assert filters == [text] * bool(text)


def test_what_was_not_done_is_not_there(store, found):
    features = np.random.default_rng(0).standard_normal((3, 13, 4)).astype(np.float32)
    result = evaluate_probes(
        store, {"random weights": list(features)}, ["age"], design=LeaveOneSiteOut(), seed=5
    )
    text = methods_paragraph(replace(found, comparison=result, parts={}, settings={}))
    assert "(3 draws, whose mean is scored; seed 5)" in text
    assert "Nothing was tested of age: sites tested: 3; 6 are needed" in text
    assert "thresholds" not in text, "numbers have none"
    assert "standardised one by one" not in text
    absent = [
        "crops",
        "Hz",
        "AUROC",
        "AUPRC",
        "logistic",
        "Holm",
        "filtered",
        "drawn",
        "alarm",
        "None",
    ]
    for word in absent:
        assert word not in text, word

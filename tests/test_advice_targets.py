"""Advice about targets and what models read, followed: the same call gets through."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from advice import advised
from semantoks.data.store import RecordingStore, write_store
from semantoks.errors import InputError
from semantoks.evaluate.compare.targets import Target, target_values
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.crops import sources
from semantoks.evaluate.features.spectral import AmplitudeBaseline
from semantoks.model.architecture import EncoderConfig
from semantoks.model.encoder import Encoder


@pytest.fixture
def made(tmp_path, recordings, parcellation, preprocessing):
    """Return a maker of stores: phenotypes changed by a function of the recording's number."""

    def make(change, settings=preprocessing, name="store"):
        changed = [
            replace(r, phenotypes={**r.phenotypes, **change(i, r)})
            for i, r in enumerate(recordings)
        ]
        path = tmp_path / name
        write_store(path, changed, parcellation, settings, varying=["mood"])
        return RecordingStore(path)

    return make


def of(store, column, missing="refuse", unit="subject", **options):
    return target_values(store, Target(column, **options), missing, unit)


def test_values_that_are_unknown(made):
    store = made(lambda i, _: {"iq": None, "score": None if i == 4 else 0.5 + i})
    advice = "Leave this target out, or give its values to `semantoks prepare --phenotypes`"
    with advised("evaluate/compare/targets.target_values", advice):
        of(store, "iq")
    advice = "Leave them out with missing='drop' (--drop-missing)"
    with advised("evaluate/compare/targets.target_values", advice):
        of(store, "score")
    assert len(of(store, "score", missing="drop")[0]) == 12
    given = made(lambda i, _: {"iq": 90.5 + i}, name="given")
    assert len(of(given, "iq")[0]) == 13


def test_labels_of_a_subject(made):
    store = made(lambda i, _: {"mood": "ab"[i % 2]})
    advice = "Correct them, leave the subject out, or predict recordings (unit='recording')"
    with advised("evaluate/compare/targets.target_values", advice):
        of(store, "mood")
    assert len(of(store, "mood", unit="recording")[0]) == 13
    once = store[np.flatnonzero(~store.table["subject"].isin(["p00", "p01", "p02"]))]
    assert len(of(once, "mood")[0]) == 7


def test_kinds(made):
    store = made(
        lambda _, r: {"stage": int(r.subject[1:]) % 3, "dose": ">9" if r.subject == "p09" else "12"}
    )
    with (
        pytest.raises(InputError) as error,
        advised("evaluate/compare/targets._guess_kind", "State it: Target(", raised=True),
    ):
        of(store, "stage")
    text = error.value.fix
    for kind in re.findall("'(classification|ordinal|regression)'", text):
        assert of(store, "stage", kind=kind)[2] == kind
    (spelled,) = re.findall(r"\((\S+) on the command line", text)
    assert target_values(store, Target.parse(spelled), "refuse")[2] == "classification"
    with advised("evaluate/compare/targets._guess_kind", ":classification"):
        of(store, "dose")
    with advised("evaluate/compare/targets._no_numbers", "Write n/a where the number is unknown"):
        of(store, "dose", kind="regression")
    assert of(store, "dose", kind="classification", unit="recording")[2] == "classification"
    mended = made(lambda i, _: {"dose": None if i == 12 else 12.5}, name="mended")
    assert len(of(mended, "dose", missing="drop", kind="regression")[0]) == 12


def test_logarithms(made):
    store = made(lambda _, r: {"change": float(int(r.subject[1:])) - 3.5})
    with advised("evaluate/compare/targets._transformed", "Predict it as it is"):
        of(store, "change", transform="log")
    assert len(of(store, "change")[0]) == 13


def test_covariates(made):
    store = made(lambda _, r: {"iq": None if r.subject == "p04" else 90.5 + int(r.subject[1:])})
    advice = "Ask what models add to the covariates (--beside confounds), or evaluate this "
    with advised("evaluate/compare/targets._with_covariates", advice):
        of(store, "sex", residualise=("age",))
    of(store, "sex")
    advice = "Evaluate this target without it"
    with advised("evaluate/compare/targets._with_covariates", advice):
        of(store, "age", residualise=("age",))
    of(store, "age")
    advice = "Leave them out with missing='drop' (--drop-missing), or leave the column out"
    with advised("evaluate/compare/targets._with_covariates", advice):
        of(store, "age", residualise=("iq",))
    assert len(of(store, "age", missing="drop", residualise=("iq",))[0]) == 12
    of(store, "age")


# -- what models read ------------------------------------------------------------------------------


def test_kinds_of_connectivity(store):
    with (
        pytest.raises(InputError) as error,
        advised("evaluate/features/connectivity.fit", "Give ", raised=True),
    ):
        ConnectivityBaseline(kind="granger").fit(store)
    for kind in re.findall(r"'?([a-z]+)'?", error.value.fix.removeprefix("Give "))[:1]:
        ConnectivityBaseline(kind=kind).fit(store)


def test_spectra(store, made, preprocessing):
    signals = [store.signal(i) for i in range(4)]
    with advised("evaluate/features/spectral.fit", "Give a store, or level='roi'"):
        AmplitudeBaseline(level="network").fit(signals)
    AmplitudeBaseline(level="network").fit(store)
    AmplitudeBaseline(level="roi").fit(signals)
    advice = "Prepare the store without z-scoring, or compare networks or shares instead"
    with advised("evaluate/features/spectral.refuse_z_scored", advice):
        AmplitudeBaseline(level="roi").fit(store)
    plain = made(lambda *_: {}, settings=replace(preprocessing, zscore=False))
    AmplitudeBaseline(level="roi").fit(plain)


def test_other_parcellations(store, recordings, parcellation, preprocessing, tmp_path):
    fitted = ConnectivityBaseline().fit(store)
    few = parcellation.select(labels=parcellation.labels[:6])
    cut = [replace(r, signal=r.signal[:, :6], roi_names=few.labels) for r in recordings]
    write_store(tmp_path / "few", cut, few, preprocessing)
    advice = "Transform recordings of the parcellation that it was fitted on"
    with advised("evaluate/features/transformer._signals", advice):
        fitted.transform(RecordingStore(tmp_path / "few"))
    fitted.transform(store)


def test_signals_of_an_encoder(store, made, parcellation, preprocessing):
    config = EncoderConfig(
        width=16, depth=1, drop_path=0, head_width=8, patch_length=6, n_patches=4
    )
    encoder = Encoder(config, parcellation, preprocessing)
    signals = [np.random.default_rng(i).standard_normal((40, 11)) for i in range(2)]
    read = lambda X, tr=2.0: [*sources(encoder, X, tr)]  # noqa: E731
    with advised("evaluate/features/crops._unchecked", "Give tr=seconds to the estimator"):
        read(signals, None)
    assert len(read(signals)) == 2
    with advised("evaluate/features/crops._unchecked", "Leave the recording out"):
        read([*signals, np.ones((40, 11))])
    with advised("evaluate/features/crops.sources", "Leave the recording out"):
        read([*signals, signals[0][:5]])
    assert len(read(signals)) == 2
    other = made(lambda *_: {}, settings=replace(preprocessing, high_hz=0.15))
    advice = "Prepare the recordings again with the encoder's settings"
    with advised("evaluate/features/crops._fit", advice):
        read(other)
    assert len(read(store)) == 13

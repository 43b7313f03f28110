"""All transformers of recordings as scikit-learn sees them: names, outputs, other ROIs."""

from __future__ import annotations

import dataclasses
import doctest

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

from semantoks.data.denoise import Censoring
from semantoks.data.signal import Preprocessing
from semantoks.data.store import RecordingStore, StoreSpec, StoreWriter, write_store
from semantoks.errors import InputError
from semantoks.evaluate.features import connectivity
from semantoks.evaluate.features.baselines import BASELINES, make_baselines
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.covariates import ConfoundsBaseline
from semantoks.evaluate.features.crops import sources
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.features.spectral import AmplitudeBaseline, SpectralBaseline
from semantoks.evaluate.features.tangent import AugmentedCovarianceBaseline, TangentBaseline
from semantoks.model.crops import Source, cut
from semantoks.model.encoder import Encoder, EncoderConfig

CONFIG = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
NAMES = [*BASELINES, "embedder"]


@pytest.fixture
def make(store):
    def of(name):
        if name == "embedder":
            encoder = Encoder.random(CONFIG, store.parcellation, store.preprocessing, seed=1)
            return Embedder(encoder.eval(), n_crops=2)
        baseline = make_baselines([name])[name]
        if name == "spectrum":  # 47 time points are too few for its lowest band
            baseline.set_params(bands=((0.01, 0.1), (0.1, 0.2)))
        return baseline

    return of


@pytest.mark.parametrize("name", NAMES)
def test_pandas_output_has_a_name_per_feature(name, make, store):
    plain = make(name).fit(store)
    values = plain.transform(store)
    names = plain.get_feature_names_out()
    assert names.dtype == object
    assert names.shape == values.shape[1:]
    assert len(set(names)) == len(names)
    model = make(name).set_output(transform="pandas")
    for frame in (model.fit_transform(store), model.transform(store)):
        assert isinstance(frame, pd.DataFrame)
        assert list(frame.columns) == list(names)
        np.testing.assert_array_equal(frame, values)
    scaled = make_pipeline(make(name), StandardScaler()).fit(store)
    assert list(scaled.get_feature_names_out()) == list(names)


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_in_is_counted(name, make, store):
    model = make(name).fit(store)
    if isinstance(model, ConfoundsBaseline):
        assert model.n_features_in_ == len(model.feature_names_in_)
        return
    assert model.n_features_in_ == 11
    tags = get_tags(model).input_tags
    assert (tags.two_d_array, tags.three_d_array) == (False, True)
    with pytest.raises(InputError, match=r"must name the 11 ROIs"):
        model.get_feature_names_out(["a", "b"])


@pytest.mark.parametrize("name", sorted({*BASELINES} - {"confounds"}))
def test_other_rois_than_in_fit_are_refused(name, make, store, recordings, tmp_path):
    fewer = [
        dataclasses.replace(r, signal=r.signal[:, :7], roi_names=r.roi_names[:7])
        for r in recordings
    ]
    labels = store.parcellation.labels
    frame = store.parcellation.to_frame()
    parcellation = type(store.parcellation).from_frame
    small = write_store(tmp_path / "s", fewer, parcellation(frame[:7], name="s"), Preprocessing())
    turned = write_store(
        tmp_path / "t", recordings, parcellation(frame[::-1], name="t"), Preprocessing()
    )
    assert turned.parcellation.labels == labels[::-1]
    model = make(name).fit(store)
    with pytest.raises(InputError, match=r"n_rois = 7: must have the 11 ROIs .* was fitted on"):
        model.transform(small)
    with pytest.raises(InputError, match=r"must have the ROIs .* in the same order"):
        model.transform(turned)
    with pytest.raises(InputError, match=r"\(n_times, 11 ROIs\)"):
        model.set_params(**({"tr": 2.0} if name == "spectrum" else {})).transform(
            [r.signal for r in fewer]
        )


def test_a_feature_of_connectivity_names_its_two_rois(store):
    """A feature is the correlation of the two ROIs that its name says."""
    signals = [store.signal(i) for i in range(3)]
    model = ConnectivityBaseline().fit(store)
    matrices = np.stack([np.corrcoef(signal.T) for signal in signals])
    labels = list(store.parcellation.labels)
    for name, column in zip(model.get_feature_names_out(), model.transform(signals).T, strict=True):
        one, two = (labels.index(label) for label in name.split("~"))
        np.testing.assert_allclose(np.tanh(column), matrices[:, one, two], atol=1e-4)
    bare = ConnectivityBaseline().fit(signals)
    assert list(bare.get_feature_names_out()[:3]) == ["roi0~roi1", "roi0~roi2", "roi1~roi2"]
    assert list(bare.get_feature_names_out([f"r{i}" for i in range(11)])[:1]) == ["r0~r1"]
    assert not hasattr(clone(model).fit(store).fit(signals), "feature_names_in_")


def test_names_say_which_value_it_is(store):
    """Where a value can be computed from the name alone."""
    labels = store.parcellation.labels
    tangent = TangentBaseline().fit(store)
    assert list(tangent.get_feature_names_out()[:3]) == [
        f"{labels[0]}~{labels[0]}", f"{labels[0]}~{labels[1]}", f"{labels[1]}~{labels[1]}"
    ]  # fmt: skip
    lags = AugmentedCovarianceBaseline(order=3, lag=2).fit(store).get_feature_names_out()
    assert lags[-1] == f"{labels[-1]}+4~{labels[-1]}+4"
    assert f"{labels[3]}~{labels[1]}+2" in lags
    assert len(lags) == 33 * 34 // 2
    networks = AmplitudeBaseline().fit(store).get_feature_names_out()
    assert tuple(networks) == store.parcellation.network_names
    bands = SpectralBaseline(bands=((0.01, 0.1), (0.1, 0.2))).fit(store).get_feature_names_out()
    assert (bands[0], bands[-1]) == (f"{labels[0]} 0.01-0.1 Hz", f"{labels[-1]} 0.1-0.2 Hz")
    confounds = ConfoundsBaseline(("age", "sex")).fit(store).get_feature_names_out()
    assert list(confounds) == ["age", "age unknown", "sex=female", "sex=male"]


def test_the_examples_hold():
    found = doctest.testmod(connectivity)
    assert found.attempted >= 5
    assert found.failed == 0


# -- censored volumes ------------------------------------------------------------------------------


@pytest.fixture
def censored(recordings, parcellation, preprocessing, tmp_path):
    """Return a store of recordings of which a third of the volumes are censored."""
    raw = dataclasses.replace(preprocessing, low_hz=None, high_hz=None, zscore=False)
    rng = np.random.default_rng(5)
    spec = StoreSpec(
        parcellation=parcellation,
        preprocessing=raw,
        censoring=Censoring(max_gap=60, min_kept=0.3),
    )
    with StoreWriter(tmp_path / "censored", spec) as writer:
        for one in recordings:
            kept = rng.random(len(one.signal)) > 0.33
            kept[[0, -1]] = True
            writer.add(dataclasses.replace(one, kept=kept))
    return RecordingStore(tmp_path / "censored")


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "confounds"])
def test_only_what_needs_the_order_of_time_uses_censored_time_points(name, censored):
    """Lags and frequencies would change if the time points beside a gap became neighbours."""
    model, all_times = make_baselines([name])[name], name in ("spectrum", "augmented covariance")
    if name == "network amplitude":  # networks are known of a store only
        model.set_params(level="roi")
    if name == "spectrum":
        model.set_params(tr=censored.tr, bands=((0.01, 0.1), (0.1, 0.2)))
    keeps = [censored.kept(i) | all_times for i in range(len(censored))]
    by_hand = [censored.signal(i)[keep] for i, keep in enumerate(keeps)]
    found, expected = (clone(model).fit(x).transform(x) for x in (censored, by_hand))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_crops_mask_patches_of_which_less_than_half_is_kept(store, censored):
    encoder = Encoder.random(CONFIG, store.parcellation, store.preprocessing, seed=1)
    absent = np.arange(encoder.n_networks) == 1
    signal = np.zeros((35, len(store.parcellation)), np.float32)
    kept = np.ones(35, bool)
    kept[[6, 7, 8, 12, 13, 14, 15]] = False
    _, missing = cut(encoder, Source("a", signal, absent, kept), np.array([0, 3, 10]))
    # From 0, 3 and 2 of 6 are kept in patches 1 and 2; from 3, at least 3; from 10, 2 in patch 0.
    lost = np.zeros((3, 4), bool)
    lost[0, 2] = lost[2, 0] = True
    assert (missing.numpy() == (absent[:, None] | lost[:, None])).all()

    # Of a crop without any kept patch, only those past the end are masked.
    short = Source("b", signal[:15], ~absent & absent, np.zeros(15, bool))
    _, missing = cut(encoder, short, np.array([0]))
    assert (missing.numpy() == [False, False, False, True]).all()

    encoder = Encoder.random(CONFIG, store.parcellation, censored.preprocessing, seed=1)
    for i, source in enumerate(sources(encoder, censored, None)):
        assert (source.kept == censored.kept(i)).all()

"""Signals of nilearn's maskers in, images, surfaces and connectomes out."""

from __future__ import annotations

import doctest

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.maskers import NiftiLabelsMasker, SurfaceLabelsMasker
from nilearn.plotting import plot_connectome, view_connectome
from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage
from sklearn.pipeline import make_pipeline

from semantoks.errors import InputError
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.features.maskers import masker_signals, region_names
from semantoks.evaluate.predictors.probe import LinearProbe
from semantoks.explain import maps
from semantoks.explain.maps import connectome_matrix, roi_image
from semantoks.explain.networks import occlusion
from semantoks.figures.brain import roi_values
from semantoks.model.encoder import Encoder, EncoderConfig

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def encoder(parcellation, preprocessing):
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    return Encoder.random(config, parcellation, preprocessing, seed=2).eval()


@pytest.fixture
def masker(parcellation):
    """A masker whose regions are in another order than the parcellation."""
    data = np.zeros((13, 5, 4), np.int32)
    order = np.random.default_rng(3).permutation(11)
    for value, roi in enumerate(order, start=2):
        data[roi] = value
    lut = pd.DataFrame({
        "index": [0, *range(2, 13)],
        "name": ["Background", *(parcellation.labels[roi] for roi in order)],
    })  # fmt: skip
    img = nib.Nifti1Image(data, np.diag([3, 3, 3, 1]))
    return NiftiLabelsMasker(img, lut=lut, standardize=None).fit()


@pytest.fixture
def images():
    """Images whose slab i holds the signal of ROI i."""
    rng = np.random.default_rng(4)
    out = []
    for i in range(8):
        signal = rng.standard_normal((30 + i, 11)).astype(np.float32)
        data = np.zeros((13, 5, 4, len(signal)), np.float32)
        data[:11] = signal.T[:, None, None, :]
        out.append((nib.Nifti1Image(data, np.diag([3, 3, 3, 1])), signal))
    return out


def test_signals_of_a_masker_are_read_by_name(masker, images, encoder, parcellation):
    assert set(region_names(masker)) == set(parcellation.labels)
    assert region_names(masker) != parcellation.labels
    named = masker_signals(masker, [masker.transform(image) for image, _ in images])
    by_hand = [signal for _, signal in images]
    embedder = Embedder(encoder, tr=2.0, n_crops=2)
    expected = embedder.fit_transform(by_hand)
    np.testing.assert_allclose(embedder.fit_transform(named), expected, rtol=1e-4, atol=1e-5)

    baseline = ConnectivityBaseline().fit(named)
    assert tuple(baseline.feature_names_in_) == region_names(masker)
    turned = [frame[[*parcellation.labels]] for frame in named]
    np.testing.assert_array_equal(baseline.transform(turned), baseline.transform(named))
    mixed = [named[0], *turned[1:]]
    np.testing.assert_array_equal(baseline.transform(mixed), baseline.transform(named))


def test_names_that_do_not_fit_are_refused(masker, images, encoder):
    named = masker_signals(masker, [masker.transform(images[0][0])])
    other = [named[0].rename(columns={named[0].columns[3]: "Insula"})]
    embedder = Embedder(encoder, tr=2.0).fit(named)
    with pytest.raises(InputError, match="1 of 11 names are not ROIs of toy11: 'Insula'"):
        embedder.transform(other)
    with pytest.raises(InputError, match="must name all 11 ROIs of toy11"):
        embedder.transform([named[0].iloc[:, :7]])
    baseline = ConnectivityBaseline().fit(named)
    with pytest.raises(InputError, match=r"X\[0\]\.columns = .*'Insula'.*must name the 11 ROIs"):
        baseline.transform(other)
    with pytest.raises(InputError, match=r"must have the shape \(n_times, 11 regions\)"):
        masker_signals(masker, [np.zeros((9, 10))])
    nameless = NiftiLabelsMasker(masker.labels_img, standardize=None)
    with pytest.raises(InputError, match="lut="):
        masker_signals(nameless, [])


def test_importance_comes_back_as_an_image(masker, images, encoder, parcellation):
    found = occlusion(encoder, [signal for _, signal in images], tr=2.0, n_crops=2)
    summary = found.summary(np.array([f"p{i}" for i in range(8)]))
    values = roi_values(encoder, summary, "without")
    image = roi_image(values, parcellation.labels, masker)
    data = image.get_fdata()
    assert data.shape == (13, 5, 4)
    np.testing.assert_allclose(data[:11, 2, 1], values, rtol=1e-6)
    assert (data[11:] == 0).all()
    with pytest.raises(InputError, match="regions are no ROI with a value"):
        roi_image(values, [f"r{i}" for i in range(11)], masker)
    with pytest.raises(InputError, match="one number for each of the 11 labels"):
        roi_image(values[:3], parcellation.labels, masker)


def test_importance_comes_back_as_a_surface():
    rng = np.random.default_rng(0)
    face = np.array([[0, 1, 2]])
    mesh = PolyMesh(left=InMemoryMesh(rng.random((7, 3)), face),
                    right=InMemoryMesh(rng.random((5, 3)), face))  # fmt: skip
    labels = SurfaceImage(mesh, {"left": np.array([1, 1, 4, 4, 0, 0, 0]),
                                 "right": np.array([0, 2, 2, 2, 0])})  # fmt: skip
    lut = pd.DataFrame({"index": [0, 1, 2, 4], "name": ["Background", "x", "y", "z"]})
    masker = SurfaceLabelsMasker(labels, lut=lut, standardize=None).fit()
    image = roi_image([30.0, 10.0, 20.0], ["z", "x", "y"], masker)
    np.testing.assert_allclose(np.squeeze(image.data.parts["left"]), [10, 10, 30, 30, 0, 0, 0])
    np.testing.assert_allclose(np.squeeze(image.data.parts["right"]), [0, 20, 20, 20, 0])


def test_weights_come_back_as_a_connectome(images, parcellation):
    signals = [signal for _, signal in images]
    pipe = make_pipeline(ConnectivityBaseline(), LinearProbe()).fit(signals, [0, 1] * 4)
    names = pipe[0].get_feature_names_out(parcellation.labels)
    weights = pipe[1].coef_[0]
    matrix = connectome_matrix(weights, names, parcellation.labels)
    assert (matrix == matrix.T).all()
    one, two = names[17].split("~")
    labels = parcellation.labels
    assert matrix[labels.index(one), labels.index(two)] == weights[17]
    assert (np.diag(matrix) == 0).all()
    places = np.random.default_rng(1).uniform(-40, 40, (11, 3))
    assert "connectome" in view_connectome(matrix, places, edge_threshold="80%").html
    plot_connectome(matrix, places, edge_threshold="80%").close()
    extra = connectome_matrix([*weights, 9.0], [*names, "tokens0000"], labels)
    assert (extra == matrix).all()


def test_what_is_no_connectome_is_refused():
    for names, message in (
        (["e0", "e1"], "connections of two ROIs"),
        (["a~b", "a~x"], "a~x"),
        (["a~b~a", "a~b"], "a~b~a"),
        (["a~b"], "for each of the 1 names"),
    ):
        with pytest.raises(InputError, match=message):
            connectome_matrix([1.0, 2.0], names, ["a", "b"])


def test_the_examples_hold():
    assert doctest.testmod(maps).failed == 0

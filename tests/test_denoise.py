"""Denoising: what filter, censoring and confounds leave of a recording."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.denoise import Censoring
from semantoks.data.encode import StoreSpec, encode
from semantoks.data.quality import measure
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing, band_pass, filter_dof
from semantoks.errors import InputError

ATLAS = Parcellation(name="five", labels=tuple("abcde"), networks=("v", "v", "w", "w", "w"))


def recording(n_times, n_confounds=0, tr=2.0, kept=None, seed=0):
    rng = np.random.default_rng(seed)
    confounds = rng.standard_normal((n_times, n_confounds)) if n_confounds else None
    return Recording(
        signal=rng.standard_normal((n_times, 5)) + 100,
        roi_names=ATLAS.labels,
        tr=tr,
        subject="01",
        confounds=confounds,
        kept=kept,
    )


def spec(preprocessing=None, **censoring):
    return StoreSpec(
        parcellation=ATLAS,
        preprocessing=preprocessing or Preprocessing(),
        censoring=Censoring(**censoring),
    )


@pytest.mark.parametrize(
    ("n_times", "tr", "low", "high"),
    [(75, 2.0, 0.01, 0.1), (190, 0.8, 0.01, 0.15), (140, 2.5, 0.02, None), (120, 1.1, None, 0.1)],
)
def test_a_filter_leaves_its_trace(n_times, tr, low, high):
    """The degrees of freedom of a linear smoother: the trace of its matrix, less the constant."""
    matrix = band_pass(np.eye(n_times), tr, low, high)
    constant = 0 if low else 1
    assert filter_dof(n_times, tr, low, high) == pytest.approx(matrix.trace() - constant, abs=1)


@pytest.mark.parametrize(
    ("n_times", "n_confounds", "low", "high"),
    [(150, 12, 0.01, 0.1), (110, 31, 0.02, None), (170, 17, None, 0.12), (90, 30, None, None)],
)
def test_noise_keeps_the_share_that_the_degrees_of_freedom_say(n_times, n_confounds, low, high):
    rng = np.random.default_rng(3)
    steps = Preprocessing(low_hz=low, high_hz=high, zscore=False)
    noise = rng.standard_normal((n_times, 300))
    confounds = rng.standard_normal((n_times, n_confounds))
    before = steps.apply(noise, 2.0)
    after = steps.apply(noise, 2.0, confounds=confounds)
    kept = np.ones(n_times, bool)
    said = steps.tdof(2.0, kept, confounds) / steps.tdof(2.0, kept, None)
    assert np.square(after).sum() / np.square(before).sum() == pytest.approx(said, abs=0.1)


def test_confounds_that_say_the_same_count_once():
    steps, kept = Preprocessing(), np.ones(130, bool)
    confounds = np.random.default_rng(1).standard_normal((130, 7))
    twice = np.column_stack([confounds, confounds @ np.ones((7, 3)), np.ones(130)])
    left = steps.tdof(2.0, kept, confounds)
    assert left == pytest.approx(steps.tdof(2.0, kept, None) - 7)
    assert steps.tdof(2.0, kept, twice) == pytest.approx(left)


def test_censored_volumes_cost_their_share():
    kept = np.random.default_rng(2).random(200) > 0.4
    kept[[0, -1]] = True
    lost = Preprocessing().tdof(2.0, kept, None) / Preprocessing().tdof(2.0, kept | True, None)
    assert lost == pytest.approx(kept.mean(), abs=0.01)


def test_more_confounds_than_the_filter_leaves_are_refused():
    """75 volumes at 2 s and 0.01-0.1 Hz: 27 degrees of freedom, for 36 confounds."""
    short = recording(75, 36)
    steps = Preprocessing(zscore=False)
    left = steps.apply(short.signal, 2.0, confounds=short.confounds)
    assert np.square(left).sum() < 0.02 * np.square(steps.apply(short.signal, 2.0)).sum()
    with pytest.raises(InputError, match=r"confounds = 36: must leave 10 .* leave 0\.0") as caught:
        encode(short, spec())
    assert "--denoise-option motion=basic" in str(caught.value)
    # Every way out gets further.
    encode(replace(short, confounds=short.confounds[:, :8]), spec())
    encode(short, spec(Preprocessing(high_hz=None)))
    encode(replace(short, confounds=short.confounds[:, :20]), spec(min_tdof=5))
    encode(recording(75), spec())
    with pytest.raises(InputError, match=r"min_tdof = 0: must be positive"):
        spec(min_tdof=0)


def test_degrees_of_freedom_are_a_column_of_the_quality_table():
    one = recording(210, 11)
    found = measure(one, encode(one, spec()), 2.0)["tdof"]
    assert found == pytest.approx(210 * 2 * 2.0 * 0.09 - 11, abs=1)

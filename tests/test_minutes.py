"""Scores against minutes of scan: the same people at every length, and nothing but its minutes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from advice import advised
from semantoks.assess.plan import Plan, _minutes
from semantoks.atlas.parcellation import Parcellation
from semantoks.data.designs import AcrossStores, GroupedKFold
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import RecordingStore, write_store
from semantoks.errors import InputError
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.models import SideBySide
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.tangent import TangentBaseline
from semantoks.report.methods import _minutes as sentence

TR = 2.0
ATLAS = Parcellation(name="toy4", labels=tuple("abcd"), networks=("x", "x", "y", "y"))


def write(path, lengths, *, coupled_from=0, prefix="p", censored=None):
    """A store in which two regions go together in every second person, from some volume on."""
    rng, recordings = np.random.default_rng(len(lengths)), []
    for i, n in enumerate(lengths):
        signal = rng.standard_normal((n, 4)).cumsum(axis=0)
        signal = signal - 0.9 * np.vstack([np.zeros(4), signal[:-1]])
        if i % 2:
            signal[coupled_from:, 1] = signal[coupled_from:, 0] + 0.2 * signal[coupled_from:, 1]
        recordings.append(
            Recording(
                signal=signal,
                roi_names=ATLAS.labels,
                tr=TR,
                subject=f"{prefix}{i:02}",
                phenotypes={"group": "ab"[i % 2], "number": float(i % 2) + 0.01 * i},
                source=f"recording {i}",
                kept=None if censored is None else censored(n),
            )
        )
    return write_store(path, recordings, ATLAS, Preprocessing(tr=TR, low_hz=None, high_hz=None))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """30 people with 6 minutes, 4 with 3; the groups differ after the third minute only."""
    return write(tmp_path_factory.mktemp("m") / "s", [181] * 30 + [95] * 4, coupled_from=90)


def test_the_first_minutes_are_the_first_kept_volumes(tmp_path):
    gaps = write(tmp_path / "gaps", [61, 70], censored=lambda n: np.arange(n) % 3 != 1)
    n_kept = [gaps.kept(i).sum() for i in range(2)]
    np.testing.assert_allclose(gaps.kept_minutes(), np.array(n_kept) * TR / 60)
    short = gaps.first_minutes(1.0)
    for i in range(2):
        assert short.kept(i).sum() == 30
        assert short.kept(i)[-1]
        np.testing.assert_array_equal(short.raw(i), gaps.raw(i)[: len(short.raw(i))])
    assert short.fingerprint != gaps.fingerprint
    assert gaps.first_minutes(n_kept[0] * TR / 60).kept(0).sum() == n_kept[0]
    with pytest.raises(InputError, match=r"sub-p00 has 1\.\d* minutes of data"):
        gaps.first_minutes(2.0)
    with pytest.raises(InputError, match="at least one time point"):
        gaps.first_minutes(0.001)


def test_a_difference_after_three_minutes_is_not_found_before(store):
    models = {
        "connectivity": ConnectivityBaseline(),
        "both": SideBySide({"fc": ConnectivityBaseline(), "tangent": TangentBaseline()}),
        "theirs": np.zeros((len(store), 2), np.float32),
    }
    result = evaluate_probes(
        store, models, ["group"], design=GroupedKFold(n_folds=3), minutes=[6.0, 2.5]
    )
    curve = result.minutes.query("metric == 'AUROC'").set_index(["model", "minutes"]).sort_index()
    assert [*curve.index.unique("minutes")] == [2.5, 6.0]
    assert set(curve.index.unique("model")) == {"connectivity", "both", "chance"}
    for model in ("connectivity", "both"):
        assert curve.loc[(model, 6.0), "value"] > 0.9
        assert curve.loc[(model, 2.5), "ci_low"] < 0.6
        assert (curve.loc[model, "n_subjects"] == 30).all() if "n_subjects" in curve else True
    assert curve.loc[("chance", 6.0), "value"] == 0.5
    assert result.meta["minutes"] == {
        "minutes": [2.5, 6.0],
        "n_people": 30,
        "n_excluded": 4,
        "models_left_out": ["theirs"],
    }
    text = sentence(result.meta)
    assert "first 2.5 and 6 minutes of data of every recording, in 30 people" in text
    assert "4 people with less than 6 minutes were excluded at every length" in text


def test_the_whole_scan_scores_as_the_comparison_does(tmp_path):
    store = write(tmp_path / "equal", [91] * 14)
    result = evaluate_probes(
        store, {"connectivity": ConnectivityBaseline()}, ["number"], minutes=[91 * TR / 60]
    )
    shared = ["model", "metric", "value", "ci_low", "ci_high"]
    pd.testing.assert_frame_equal(result.minutes[shared], result.scores[shared], check_dtype=False)
    result.save(tmp_path / "r")
    back = ProbeResult.load(tmp_path / "r")
    pd.testing.assert_frame_equal(back.minutes, result.minutes)
    (tmp_path / "r" / "minutes.parquet").unlink()
    assert ProbeResult.load(tmp_path / "r").minutes.empty, "results of older versions have none"


def test_people_of_both_stores_are_cut_and_excluded(tmp_path):
    train = write(tmp_path / "train", [95] * 12 + [40], prefix="t")
    tested = write(tmp_path / "tested", [95] * 9 + [50] * 2)
    result = evaluate_probes(
        tested,
        {"connectivity": ConnectivityBaseline()},
        ["number"],
        design=AcrossStores(train=RecordingStore(train.path)),
        minutes=[1.0, 3.0],
    )
    assert result.meta["minutes"]["n_people"] == 21
    assert result.meta["minutes"]["n_excluded"] == 3


def test_too_many_and_too_few_minutes_are_refused(store):
    fc = {"connectivity": ConnectivityBaseline()}
    with pytest.raises(InputError, match=r"minutes = 9\.0: must be at most 6\.03"):
        evaluate_probes(store, fc, ["group"], minutes=[2.0, 9.0])
    with pytest.raises(InputError, match=r"minutes = 0\.03: is too little for connectivity"):
        evaluate_probes(store, fc, ["group"], minutes=[0.03])
    with advised("evaluate/compare/curves.minutes_curve", "Ask for more minutes"):
        evaluate_probes(store, fc, ["group"], minutes=[0.03])
    assert len(evaluate_probes(store, fc, ["group"], minutes=[0.2]).minutes)


def test_minutes_are_read_and_a_part_of_the_question():
    assert _minutes(["2", "7.5"]) == (2.0, 7.5)
    for text in ("0", "-1", "inf", "two"):
        with pytest.raises(InputError, match="must be a positive number"):
            _minutes([text])
    from semantoks.evaluate.compare.targets import Target

    plan = {"targets": (Target("group"),)}
    assert "minutes" not in Plan(**plan).settings()
    assert Plan(**plan, minutes=(2.0,)).settings()["minutes"] == [2.0]

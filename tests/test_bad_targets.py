"""Targets, sites and features that cannot be evaluated as they are, through the command itself."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from semantoks.atlas.parcellation import Parcellation
from semantoks.commands.main import app
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import write_store

N_SITES, N_PEOPLE = 7, 43  # the last person is alone at a site of their own


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng, recordings = np.random.default_rng(0), []
    atlas = Parcellation(name="toy5", labels=tuple("abcde"), networks=("x", "x", "y", "y", "y"))
    for i in range(N_PEOPLE):
        at, sex = i % N_SITES, ("f", "m")[i // N_SITES % 2]
        of_site = ("f", "m")[at % 2]
        phenotypes = {
            "sex": sex,
            "age": 20.5 + i * 7 % 23,
            "by_site": of_site,
            "in_one_site": sex if at == 0 else of_site,
            "of_site": 1.5 + (at if i < N_PEOPLE - 1 else 9),
            "nobodys": None,
        }
        signal = rng.standard_normal((45 + i % 3, 5)).cumsum(axis=0)
        recordings.append(
            Recording(
                signal=signal,
                roi_names=atlas.labels,
                tr=2.0,
                subject=f"p{i:02}",
                site=f"s{at}" if i < N_PEOPLE - 1 else "alone",
                phenotypes=phenotypes,
                source=f"recording {i}",
            )
        )
    path = tmp_path_factory.mktemp("bad") / "store"
    write_store(path, recordings, atlas, Preprocessing(tr=2.0, low_hz=0.01, high_hz=0.1))
    return path


def evaluate(store, out, *arguments):
    """Evaluate; the result has ``told``, its text in one line."""
    given = ["evaluate", store, out, "--only", "alarms", *arguments]
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*map(str, given)], prog_name="semantoks")
    done.told = " ".join(done.output.split())
    return done


def tables(out):
    folder = out / "comparison"
    named = {name: pd.read_parquet(folder / f"{name}.parquet") for name in ("scores", "sites")}
    scores = named["scores"].set_index(["target", "model", "metric"]).sort_index()
    return scores, named["sites"]


@pytest.fixture(scope="module")
def people(store, tmp_path_factory):
    """Five folds over people; one of the models has features that do not vary."""
    folder = tmp_path_factory.mktemp("people")
    ids = [f"sub-p{i:02}" for i in range(N_PEOPLE)]
    flat = folder / "flat.csv"
    pd.DataFrame({"id": ids, "one": 1.0, "two": 2.0}).to_csv(flat, index=False)
    targets = [f"--target={name}" for name in ("in_one_site", "by_site", "of_site", "sex", "age")]
    return evaluate(store, folder / "out", *targets, "--features", flat), folder / "out"


@pytest.fixture(scope="module")
def sites(store, tmp_path_factory):
    """Every site left out."""
    out = tmp_path_factory.mktemp("sites") / "out"
    targets = [f"--target={name}" for name in ("by_site", "of_site", "sex", "age")]
    done = evaluate(store, out, *targets, "--groups", "site", "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), out


def test_people_who_cannot_be_compared_within_sites_get_no_verdict(people):
    done, out = people
    assert done.exit_code == 0, done.output
    for n in (0, 1):
        assert f"No verdict: {n} of 8 tested sites have people of two classes; 2" in done.told
    assert "No verdict: the target has one value at every site" in done.told
    scores, _ = tables(out)
    assert not scores.loc[["in_one_site", "by_site", "of_site"], "verdict"].any()
    assert scores.loc["sex", "verdict"].any()
    page = (out / "report.html").read_text()
    assert page.count("1 of 8 tested sites have people of two classes") == 2, "verdict and methods"


def test_targets_without_a_verdict_are_not_in_the_test_over_all(people):
    done, out = people
    battery = pd.read_parquet(out / "comparison" / "battery.parquet")
    assert set(battery["n_targets"]) == {2}, "sex and age"
    assert "All 2 targets together, mean standardised difference" in done.told
    page = (out / "report.html").read_text()
    assert "Over the 2 targets together" in page
    assert "Differences over all targets together" in page


def test_equal_predictions_are_stated_and_not_tested_against_chance(people):
    done, out = people
    assert done.told.count("The same prediction for everyone: flat.") == 5
    scores, _ = tables(out)
    known = scores.loc[["sex", "age"]]
    flat = known[known.index.get_level_values("model").isin(["flat", "chance"])]
    assert flat[["se", "ci_low", "detectable", "p_value"]].isna().all(axis=None)
    assert flat.loc["sex", "flat", "AUROC"]["value"] == 0.5
    assert flat.loc["age", "flat", "MAE gain"]["value"] == pytest.approx(0, abs=1e-5)
    assert np.isnan(flat.loc["age", "flat", "r"]["value"]), "means of training parts are no skill"


def test_with_sites_left_out_classes_need_sites_and_numbers_do_not(sites):
    found, out = sites
    assert [*found["no_verdict"]] == ["by_site"]
    assert found["no_verdict"]["by_site"].startswith("0 of 8 tested sites have people of two")
    scores, _ = tables(out)
    assert scores.loc["of_site", "connectivity", "MAE gain"]["verdict"]
    assert np.isnan(scores.loc["of_site", "connectivity", "r"]["value"])


def test_a_site_with_one_person_is_tested_but_scores_nothing_within_it(sites):
    _, of_sites = tables(sites[1])
    of_one = of_sites[of_sites["site"] == "alone"]
    assert set(of_one["target"]) == {"of_site", "age"}
    assert of_one["se"].isna().all()
    of_sex = of_sites.loc[of_sites["target"] == "sex", "site"]
    assert set(of_sex) == {f"s{i}" for i in range(N_SITES)}


def test_a_pooled_metric_chosen_beforehand_is_tested(store, tmp_path):
    out = tmp_path / "out"
    done = evaluate(store, out, "--target", "by_site", "--metric", "pooled AUROC")
    assert "No verdict" not in done.told
    assert tables(out)[0].loc["by_site", "connectivity", "pooled AUROC"]["verdict"]


REFUSED = {
    "--target age --groups site --test-site alone": "test part = 'p42': a score needs at least 2 "
    "tested people",
    "--target sex --metric MAE": "metric = 'MAE': must be a metric of these targets",
    "--target age --metric AUROC": "metric = 'AUROC': must be a metric of these targets",
    "--target sex --target nobodys": "nobodys: no recording has a value. Leave this target out",
    "--target sex --target nobodys --drop-missing": "nobodys: no recording has a value. Leave",
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_cannot_be_evaluated_is_refused(store, tmp_path, given):
    done = evaluate(store, tmp_path / "out", *given.split())
    assert done.exit_code == 2
    assert REFUSED[given] in done.told
    assert not (tmp_path / "out" / "comparison").exists()


def test_features_of_other_recordings_are_refused_with_both_names(store, tmp_path):
    table = pd.DataFrame({"id": ["sub-q0", "sub-q1"], "one": [1.0, 2.0]})
    table.to_csv(tmp_path / "theirs.csv", index=False)
    done = evaluate(store, tmp_path / "o", "--target=sex", "--features", tmp_path / "theirs.csv")
    assert done.exit_code == 2
    rule = "id = 'sub-q0': has no row of any of the 43 in the store, which are named e.g. sub-p00"
    assert rule in done.told

"""Several evaluations together: random effects over data sets of other people."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from advice import advised
from semantoks.assess.assessment import Assessment, assess
from semantoks.assess.plan import Plan
from semantoks.commands.main import app
from semantoks.data.designs import GroupedKFold
from semantoks.data.store import write_store
from semantoks.errors import InputError
from semantoks.evaluate.compare.combine import combine, combined_table
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.stats.heterogeneity import random_effects
from semantoks.report.page import write_report


def result(name, gap=0.1, se=0.05, n=40, **facts):
    """A result with one target, a model, connectivity and chance."""
    known = {"kind": "classification", "classes": ["a", "b"], "metric": "AUROC", "residualise": []}
    ends = {"se": se, "ci_low": gap - 2 * se, "ci_high": gap + 2 * se}
    base = {"target": "dx", "metric": "AUROC", "n_subjects": n, **ends}
    scores = [
        {**base, "model": model, "value": value, "chance": 0.5}
        for model, value in (("mine", 0.6 + gap), ("connectivity", 0.6), ("chance", 0.5))
    ]
    scores.append({**scores[0], "metric": "Brier", "value": 0.2})
    gaps = [{**base, "model": "mine", "against": "connectivity", "value": gap}]
    gaps.append({**gaps[0], "model": "chance"})
    meta = {
        "store": {"name": name, "fingerprint": name},
        "people": [f"{name} {i}" for i in range(n)],
        "targets": {"dx": known | facts},
    }
    return ProbeResult(pd.DataFrame(scores), pd.DataFrame(gaps), pd.DataFrame(), meta)


def three():
    sizes = {"north": (0.10, 0.05), "south": (0.02, 0.04), "west": (0.16, 0.08)}
    return {name: result(name, *size, n=40 + i) for i, (name, size) in enumerate(sizes.items())}


def test_it_is_the_random_effects_summary_of_every_common_number():
    found = {(one.model, one.against): one for one in combine(three())}
    assert set(found) == {("mine", ""), ("connectivity", ""), ("mine", "connectivity")}
    gap = found["mine", "connectivity"]
    reference = random_effects(np.array([0.10, 0.02, 0.16]), np.array([0.05, 0.04, 0.08]))
    assert gap.summary == reference
    assert gap.chance == 0
    assert gap.rows["n"].tolist() == [40, 41, 42]
    assert (gap.p_value < 0.05) == (reference.ci_low > 0)
    assert found["mine", ""].chance == 0.5
    table = combined_table([*found.values()]).set_index(["model", "against"])
    row = table.loc[("mine", "connectivity")]
    assert (row["value"], row["tau"]) == (reference.mean, reference.tau)
    assert (row["n"], row["n_results"]) == (123, 3)


def test_the_interval_and_the_p_value_agree():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        summary = random_effects(rng.normal(0.1, 0.1, 5), rng.uniform(0.02, 0.2, 5))
        assert (summary.p_value_of(0.0) < 0.05) == (not summary.ci_low <= 0 <= summary.ci_high)


def test_two_results_have_no_mean():
    results = three()
    del results["west"]
    assert all(one.summary is None and np.isnan(one.p_value) for one in combine(results))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"metric": "Brier"}, "metric of dx must be the same: AUROC in north, Brier in west"),
        ({"classes": ["a", "c"]}, r"classes of dx must be the same: \['a', 'b'\] in north"),
        ({"kind": "regression"}, "kind of dx must be the same"),
        ({"residualise": ["age"]}, r"residualise of dx must be the same: None in north, \['age'\]"),
    ],
)
def test_targets_that_are_not_the_same_are_refused(change, rule):
    with pytest.raises(InputError, match=rule):
        combine({**three(), "west": result("west", **change)})


def test_people_of_two_results_are_refused():
    results, again = three(), result("west")
    again.meta["people"][:2] = ["north 3", "north 5"]
    with pytest.raises(InputError, match="2 people are in both north and west"):
        combine({**results, "west": again})
    del again.meta["people"]
    with pytest.raises(InputError, match="combine = 'west': does not state its people"):
        combine({**results, "west": again})
    with pytest.raises(InputError, match="are of one store: north, again"):
        combine({**results, "again": result("north")})
    with pytest.raises(InputError, match="needs two results"):
        combine({"north": results["north"]})
    other = result("east")
    other.meta["targets"] = {"age": other.meta["targets"]["dx"]}
    tables = (table.assign(target="age") for table in (other.scores, other.differences))
    other = replace(other, **dict(zip(("scores", "differences"), tables, strict=True)))
    with pytest.raises(InputError, match="nothing is in two results"):
        combine({"north": results["north"], "east": other})


def test_a_report_shows_data_sets_together(tmp_path, recordings, parcellation, preprocessing):
    folders = []
    for name in ("one", "two", "three"):
        renamed = [replace(r, subject=f"{name}{r.subject}") for r in recordings]
        store = write_store(tmp_path / name, renamed, parcellation, preprocessing)
        folders.append(tmp_path / f"{name}-result")
        plan = Plan(targets=(Target("sex"),), design=GroupedKFold(n_folds=2))
        assess(store, folders[-1], {}, plan, parts=(), say=lambda _: None)
    given = [word for folder in folders for word in ("--result", str(folder))]
    done = CliRunner().invoke(app, ["report", str(tmp_path / "all.html"), *given, "--together"])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "all.html").read_text()
    assert "All data sets together" in page
    assert "Means over data sets with 95 % intervals" in page
    people = json.loads((folders[0] / "comparison" / "result.json").read_text())["people"]
    assert len(people) == 10
    assert Assessment.load(folders[0]).comparison.meta["people"] == people
    with pytest.raises(InputError, match="needs two results"):
        write_report(tmp_path / "x.html", results=[folders[0]] * 2, together=True)


def test_the_ways_out_work():
    """Every error's advice, followed."""
    results = three()
    shared, old = result("west"), result("west")
    shared.meta["people"][:1] = ["north 3"]
    del old.meta["people"]
    place = "evaluate/compare/combine._refuse_shared"
    with advised(place, "Combine results of other people"):
        combine({**results, "west": shared})
    with advised(place, "Evaluate it again with this version"):
        combine({**results, "west": old})
    with advised("evaluate/compare/combine._refuse_other", "Evaluate one of them again"):
        combine({**results, "west": result("west", metric="Brier")})
    other = result("east")
    other.meta["targets"] = {"age": other.meta["targets"]["dx"]}
    for table in (other.scores, other.differences):
        table["target"] = "age"
    with advised("evaluate/compare/combine.combine", "Evaluate the same targets and models"):
        combine({"north": results["north"], "east": other})
    assert combine(results)

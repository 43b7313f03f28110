from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from advice import advised
from semantoks.config import to_yaml
from semantoks.errors import ConfigError, InputError
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.model.pretrained import load_pretrained
from semantoks.model.weights import weights_hash
from semantoks.train.run import RunConfig
from semantoks.workflow.study import Probing, ablate, ablation_table, scale, summarise

TINY = [
    *("encoder.width=16", "encoder.depth=1", "encoder.head_width=8"),
    *("encoder.patch_length=6", "encoder.n_patches=4", "train.device=cpu"),
    *("optim.epochs=2", "optim.warmup_epochs=0", "optim.batch_size=5"),
    *("objective.projection_hidden=9", "objective.projection_width=7"),
]
PROBING = Probing(targets=("sex",), groups="site", test_sites=("north",), n_crops=2, n_seeds=2)


@pytest.fixture
def configs(tmp_path):
    files = []
    for name, changes in {"full": {}, "no-ttr": {"objective": {"network_weight": 0.0}}}.items():
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(to_yaml({"preset": "tiny", **changes}))
    return files


def test_ablations_are_compared_with_the_first_over_seeds_and_resumed(
    configs, store_path, tmp_path
):
    overrides = [*TINY, f"data.store={store_path}", "seed=4"]
    said: list[str] = []
    result, summary = ablate(configs, tmp_path / "a", PROBING, overrides=overrides, say=said.append)
    assert said == [
        "1/4 full (seed 4): from step 0 of 4",
        "2/4 full (seed 5): from step 0 of 4",
        "3/4 no-ttr (seed 4): from step 0 of 4",
        "4/4 no-ttr (seed 5): from step 0 of 4",
    ]
    runs = [f"{name} (seed {seed})" for name in ("full", "no-ttr") for seed in (4, 5)]
    random = ["random weights (seed 0)", "random weights (seed 1)"]
    baselines = {"connectivity", "spectral connectivity", "chance"}
    assert set(result.scores["model"]) == {*runs, *random, *baselines}
    assert set(result.differences["against"]) == {"connectivity"}
    assert set(result.predictions["site"]) == {"north"}
    weights = [load_pretrained(tmp_path / "a" / "runs" / f"full-{seed}") for seed in (4, 5)]
    assert weights_hash(weights[0]) != weights_hash(weights[1])
    for name in runs:
        assert result.meta["models"][name]["n_test_subjects_seen"] == 0
        assert result.meta["models"][name]["test_sites_seen"] == []
    table = ablation_table(summary)
    assert table.splitlines()[0] == "| configuration | seeds | sex, AUROC | difference |"
    assert [line.split(" | ")[:2] for line in table.splitlines()[2:8]] == [
        ["| full", "2"],
        ["| no-ttr", "2"],
        ["| random weights", "2"],
        ["| connectivity", "1"],
        ["| spectral connectivity", "1"],
        ["| chance", "1"],
    ]

    with (
        pytest.raises(InputError, match="holds the result of a study already"),
        advised("workflow/study._pretrain_all", "Choose another folder", raised=True),
    ):
        ablate(configs, tmp_path / "a", PROBING, overrides=overrides)
    (tmp_path / "a" / "result").rename(tmp_path / "before")
    _, again = ablate(configs, tmp_path / "a", PROBING, overrides=overrides, say=said.append)
    assert said[-1] == "4/4 no-ttr (seed 5): from step 4 of 4"
    pd.testing.assert_frame_equal(again, summary)


def test_scaling_pretrains_on_nested_groups_and_draws_the_curve(store_path, tmp_path):
    config = RunConfig.load(None, [*TINY, f"data.store={store_path}"], preset="tiny")
    result, summary = scale(config, [6, 3], tmp_path / "s", PROBING, say=str)
    people = {}
    for n in (3, 6):
        for seed in (0, 1):
            seen = result.meta["models"][f"{n} (seed {seed})"]["pretraining"]
            assert seen["n_subjects"] == n
            run = load_pretrained(tmp_path / "s" / "runs" / f"{n}-{seed}")
            people[n, seed] = set(run.pretraining.people)
    for seed in (0, 1):
        assert people[3, seed] < people[6, seed]
    assert people[3, 0] != people[3, 1], "another seed draws other people"
    curve = summary[summary["n_subjects"].notna()]
    assert curve["n_subjects"].tolist() == [3, 6]
    assert set(curve["n_seeds"]) == {2}
    assert "connectivity" in set(summary["model"])
    written = pd.read_csv(tmp_path / "s" / "scaling.tsv", sep="\t")
    assert [*written.columns] == [*summary.columns]
    assert (tmp_path / "s" / "scaling.png").stat().st_size > 10_000


def test_seeds_are_averaged_with_their_spread():
    """Three seeds of a, two of b, one baseline; differences are those of all pairs of seeds."""
    values = {"a1": 0.5, "a2": 0.6, "a3": 0.7, "b1": 0.55, "b2": 0.75, "fc": 0.8}
    scores = pd.DataFrame(
        {
            "target": "sex",
            "metric": "AUROC",
            "model": [*values],
            "value": [*values.values()],
            "ci_low": [v - 0.1 for v in values.values()],
            "ci_high": [v + 0.2 for v in values.values()],
        }
    )
    meta = {"targets": {"sex": {"kind": "classification"}}}
    result = ProbeResult(scores, pd.DataFrame(), pd.DataFrame(), meta)
    groups = {"a": ["a1", "a2", "a3"], "b": ["b1", "b2"], "connectivity": ["fc"]}
    found = summarise(result, groups).set_index("model")
    assert found["n_seeds"].to_dict() == {"a": 3, "b": 2, "connectivity": 1}
    assert found["value"].tolist() == pytest.approx([0.6, 0.65, 0.8])
    assert found.loc["a", "sd"] == pytest.approx(0.1)
    assert found.loc["b", "ci_low"] == pytest.approx(0.55)
    assert found.loc["b", "ci_high"] == pytest.approx(0.85)
    assert found.loc["b", "difference"] == pytest.approx(0.05)
    assert found.loc["b", "difference_low"] == pytest.approx(-0.15)
    assert found.loc["b", "difference_high"] == pytest.approx(0.25)
    assert found.loc[["a"], ["difference"]].isna().all(axis=None)
    text = ablation_table(summarise(result, groups))
    assert "| a | 3 | 0.600 ± 0.100 [0.500, 0.800] |  |" in text
    assert "| b | 2 | 0.650 ± 0.141 [0.550, 0.850] | +0.050 (-0.150 to +0.250) |" in text
    assert "| connectivity | 1 | 0.800 [0.700, 1.000] | +0.200 (+0.100 to +0.300) |" in text
    assert "difference to a:" in text


def test_studies_that_cannot_be(configs, store_path, tmp_path):
    config = RunConfig.load(None, [*TINY, f"data.store={store_path}"], preset="tiny")
    with pytest.raises(ConfigError, match="at least 2 different numbers"):
        scale(config, [4, 4], tmp_path / "s", PROBING)
    with pytest.raises(ConfigError, match=r"n_subjects = 99: there are only 7 subjects"):
        scale(config, [2, 99], tmp_path / "s", PROBING)
    with pytest.raises(ConfigError, match="a file name of its own"):
        ablate([configs[0], configs[0]], tmp_path / "s", PROBING)
    with pytest.raises(ConfigError, match="n_seeds = 0: must be at least 1"):
        replace(PROBING, n_seeds=0)
    assert not (tmp_path / "s").exists()

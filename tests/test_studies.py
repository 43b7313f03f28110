from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from advice import advised
from semantoks.config import to_yaml
from semantoks.data.designs import GroupedKFold
from semantoks.errors import ConfigError, InputError
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.model.pretrained import load_pretrained
from semantoks.model.weights import weights_hash
from semantoks.train.run import RunConfig
from semantoks.workflow.compare import compare, measure
from semantoks.workflow.study import Probing, ablate, ablation_table, scale, seed_scores, summarise

TINY = [
    *("encoder.width=16", "encoder.depth=1", "encoder.head_width=8"),
    *("encoder.patch_length=6", "encoder.n_patches=4", "train.device=cpu"),
    *("optim.epochs=2", "optim.warmup_epochs=0", "optim.batch_size=5"),
    *("objective.projection_hidden=9", "objective.projection_width=7"),
]
PROBING = Probing(
    targets=("sex",), groups="site", test_sites=("north",), n_crops=2, n_seeds=2, n_random=2
)


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
    models = {"full", "no-ttr", "random weights"}
    baselines = {"connectivity", "spectral connectivity", "chance"}
    assert set(result.scores["model"]) == {*models, *baselines}
    assert set(result.differences["against"]) == {"full", "connectivity"}
    replicates = result.predictions.groupby("model")["replicate"].nunique().to_dict()
    assert {name: n for name, n in replicates.items() if n > 1} == dict.fromkeys(models, 2)
    assert set(result.predictions["site"]) == {"north"}
    weights = [load_pretrained(tmp_path / "a" / "runs" / f"full-{seed}") for seed in (4, 5)]
    assert weights_hash(weights[0]) != weights_hash(weights[1])
    for name in ("full", "no-ttr"):
        assert result.meta["models"][name]["n_test_subjects_seen"] == 0
        assert result.meta["models"][name]["test_sites_seen"] == []
    table = ablation_table(summary)
    assert table.splitlines()[0] == "| configuration | seeds | sex, AUROC | minus full |"
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
        advised("workflow/study.pretrain_all", "Choose another folder", raised=True),
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
        assert result.meta["models"][str(n)]["pretraining"]["n_subjects"] == n
        for seed in (0, 1):
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


def test_a_summary_is_of_the_seeds(store):
    """Scores over seeds and their spread against scikit-learn's; gaps are the result's."""
    rng = np.random.default_rng(3)
    y = (store.table["sex"] == "female").to_numpy(int)
    models = {
        name: [
            (rng.standard_normal((len(y), 3)) + size * y[:, None]).astype(np.float32)
            for _ in range(n)
        ]
        for name, n, size in (("a", 2, 0.1), ("b", 3, 3.0), ("connectivity", 1, 1.0))
    }
    result = evaluate_probes(store, models, ["sex"], against=["a"], design=GroupedKFold(n_folds=2))
    found = summarise(result, "a").set_index("model")
    assert found["n_seeds"].to_dict() == {"a": 2, "b": 3, "connectivity": 1, "chance": 1}
    rows = result.predictions[result.predictions["model"] == "b"]
    positive = result.meta["targets"]["sex"]["classes"][1]
    each = [
        roc_auc_score(seed["truth"] == positive, [scores[1] for scores in seed["scores"]])
        for _, seed in rows.groupby("replicate")
    ]
    assert seed_scores(result, "sex", "AUROC", "b") == pytest.approx(each)
    assert found.loc["b", "value"] == pytest.approx(np.mean(each))
    assert found.loc["b", "sd"] == pytest.approx(np.std(each, ddof=1))
    gaps = result.differences.query("metric == 'AUROC'").set_index("model")
    assert found.loc["b", "difference"] == gaps.loc["b", "value"]
    assert found.loc["b", "difference_high"] == gaps.loc["b", "ci_high"]
    assert found.loc[["a"], ["difference"]].isna().all(axis=None)
    table = ablation_table(summarise(result, "a"))
    assert table.splitlines()[2].startswith("| a | 2 | ")
    assert f"+{gaps.loc['b', 'value']:.3f} [" in table


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


# -- the same compute ------------------------------------------------------------------------------


def test_operations_of_a_step_are_counted(store_path):
    """Of one more block, by the formula for a transformer."""
    config = RunConfig.load(None, [*TINY, f"data.store={store_path}"], preset="tiny")
    once = measure(config)
    twice = measure(replace(config, encoder=replace(config.encoder, depth=2)))
    width, n_tokens, n_views = 16, 1 + 3 * 4, 2 * 10  # CLS and 3 networks x 4 patches; people
    attention = 4 * width * width + 2 * n_tokens * width
    block = 2 * n_views * n_tokens * (attention + 8 * width * width)
    # Another block, not the last: forward and backward of the student, forward of the teacher.
    assert twice - once == pytest.approx(4 * block, rel=0.03)


def test_objectives_are_compared_under_the_same_compute(store_path, tmp_path):
    files = []
    objectives = {"semantoks": {}, "barlow": {"kind": "barlow", "projector_width": 9}}
    for name, objective in objectives.items():
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(to_yaml({"preset": "tiny", "objective": objective}))
    shape = [key for key in TINY if not key.startswith("objective.")]
    overrides = [*shape, f"data.store={store_path}"]
    said: list[str] = []
    probing = replace(PROBING, n_seeds=1, n_random=1)
    out = tmp_path / "c"
    _, summary, costs = compare(files, out, probing, overrides=overrides, say=said.append)
    assert costs["model"].tolist() == [*objectives]
    assert costs["objective"].tolist() == ["distillation", "barlow"]
    one, two = costs["flops"]
    assert costs["epochs"].tolist()[0] == 2
    per_epoch = two / costs["epochs"][1]
    assert abs(two - one) <= per_epoch / 2, "equal but for whole epochs"
    assert said[0].startswith("semantoks: 2 epochs of ")
    assert set(summary["model"]) >= {*objectives, "connectivity", "random weights", "chance"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "semantoks-0" in page
    assert "barlow-0" in page
    text = (out / "comparison.md").read_text(encoding="utf-8")
    assert (
        "| model | objective | epochs | steps | flops | seconds | loss | effective rank |" in text
    )
    with (
        pytest.raises(ConfigError, match=r"flops = 10\.0: allow 0 epochs of semantoks"),
        advised("workflow/compare._with_budget", "optim.warmup_epochs lower", raised=True),
    ):
        compare(files, tmp_path / "d", probing, flops=10.0, overrides=overrides)

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from semantoks.config import to_yaml
from semantoks.errors import ConfigError, InputError
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.train.run import RunConfig
from semantoks.workflow.study import Probing, ablate, ablation_table, fit_power_laws, scale

TINY = [
    *("encoder.width=16", "encoder.depth=1", "encoder.head_width=8"),
    *("encoder.patch_length=6", "encoder.n_patches=4", "train.device=cpu"),
    *("optim.epochs=2", "optim.warmup_epochs=0", "optim.batch_size=5"),
    *("objective.projection_hidden=9", "objective.projection_width=7"),
]
PROBING = Probing(targets=("sex",), groups="site", test_sites=("north",), n_crops=2)


@pytest.fixture
def configs(tmp_path):
    files = []
    for name, changes in {"full": {}, "no-ttr": {"objective": {"network_weight": 0.0}}}.items():
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(to_yaml({"preset": "tiny", **changes}))
    return files


def test_ablations_are_compared_with_the_first_and_go_on_where_they_were(
    configs, store_path, tmp_path
):
    overrides = [*TINY, f"data.store={store_path}"]
    said: list[str] = []
    result = ablate(configs, tmp_path / "a", PROBING, overrides=overrides, say=said.append)
    assert said == ["1/2 full: from step 0 of 4", "2/2 no-ttr: from step 0 of 4"]
    assert set(result.scores["model"]) == {"full", "no-ttr", "random weights", "chance"}
    assert set(result.differences["against"]) == {"full"}
    assert set(result.predictions["site"]) == {"north"}
    for name in ("full", "no-ttr"):
        assert result.meta["models"][name]["n_test_subjects_seen"] == 0
        assert result.meta["models"][name]["test_sites_seen"] == []
    table = ablation_table(result)
    assert table.splitlines()[0] == "| configuration | sex, balanced accuracy | difference |"
    assert table.count("\n") == 6

    with pytest.raises(InputError, match="holds the result of a study already"):
        ablate(configs, tmp_path / "a", PROBING, overrides=overrides)
    (tmp_path / "a" / "result").rename(tmp_path / "before")
    ablate(configs, tmp_path / "a", PROBING, overrides=overrides, say=said.append)
    assert said[-1] == "2/2 no-ttr: from step 4 of 4"
    pd.testing.assert_frame_equal(
        ProbeResult.load(tmp_path / "a" / "result").scores,
        ProbeResult.load(tmp_path / "before").scores,
    )


def test_scaling_pretrains_on_nested_groups_and_draws_the_curve(store_path, tmp_path):
    config = RunConfig.load(None, [*TINY, f"data.store={store_path}"], preset="tiny")
    result, fits = scale(config, [6, 2, 4], tmp_path / "s", PROBING, say=str)
    seen = [result.meta["models"][n]["pretraining"]["n_subjects"] for n in ("2", "4", "6")]
    assert seen == [2, 4, 6]
    assert list(fits.columns) == ["target", "metric", "k", "c", "c_low", "c_high"]
    assert (tmp_path / "s" / "scaling.png").stat().st_size > 10_000
    keys = []
    for n in ("2", "4", "6"):
        from semantoks.model.pretrained import load_pretrained

        pretraining = load_pretrained(tmp_path / "s" / "runs" / n).pretraining
        keys.append(set(pretraining.subjects))
    assert keys[0] < keys[1] < keys[2]


def test_a_power_law_is_found_with_its_uncertainty():
    """Scores planted to follow 1 - 0.8 n^-0.25."""
    rng = np.random.default_rng(0)
    sizes, n = [50, 200, 800], 4000
    truth = rng.standard_normal(n)
    rows = []
    for size in sizes:
        r = 1 - 0.8 * size**-0.25
        guess = r * truth + np.sqrt(1 - r**2) * rng.standard_normal(n)
        rows.append(
            pd.DataFrame(
                {
                    "target": "age",
                    "model": str(size),
                    "unit": np.arange(n),
                    "subject": np.arange(n),
                    "cluster": np.arange(n),
                    "site": None,
                    "repeat": 0,
                    "fold": "1",
                    "truth": truth.astype(str),
                    "scores": list(guess[:, None]),
                }
            )
        )
    meta = {"targets": {"age": {"kind": "regression", "classes": None}}}
    result = ProbeResult(pd.DataFrame(), pd.DataFrame(), pd.concat(rows), meta)
    (fit,) = fit_power_laws(result, sizes, n_bootstrap=100).to_dict("records")
    assert fit["c"] == pytest.approx(0.25, abs=0.02)
    assert fit["c_low"] < 0.25 < fit["c_high"]
    assert fit["k"] == pytest.approx(0.8, rel=0.1)


def test_studies_that_cannot_be(configs, store_path, tmp_path):
    config = RunConfig.load(None, [*TINY, f"data.store={store_path}"], preset="tiny")
    with pytest.raises(ConfigError, match="at least 3 different numbers"):
        scale(config, [2, 4, 4], tmp_path / "s", PROBING)
    with pytest.raises(ConfigError, match=r"n_subjects = 99: there are only 7 subjects"):
        scale(config, [2, 4, 99], tmp_path / "s", PROBING)
    with pytest.raises(ConfigError, match="a file name of its own"):
        ablate([configs[0], configs[0]], tmp_path / "s", PROBING)
    assert not (tmp_path / "s").exists()

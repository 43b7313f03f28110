from __future__ import annotations

import dataclasses

import pytest
import yaml

from semantoks import config as trees
from semantoks.errors import ConfigError
from semantoks.model.tokenizers.branches import DenseBranch, SeparableBranch, StructuredBranch
from semantoks.train.run import PRESETS, RunConfig


def test_the_defaults_are_the_paper_s():
    config = RunConfig()
    assert (config.encoder.width, config.encoder.depth, config.encoder.view_length) == (768, 8, 100)
    assert (config.optim.batch_size, config.optim.base_lr, config.optim.epochs) == (512, 7e-4, 100)
    assert (config.objective.mask_weight, config.views.masks.kind) == (0.5, "slice")
    assert RunConfig.preset("paper") == config


@pytest.mark.parametrize("name", PRESETS)
def test_a_run_survives_its_yaml(name, tmp_path):
    config = RunConfig.preset(name, {"seed": 5})
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    assert RunConfig.load(tmp_path / "run.yaml") == config
    small = trees.differences(config, RunConfig())
    (tmp_path / "less.yaml").write_text(trees.to_yaml(small))
    assert RunConfig.load(tmp_path / "less.yaml") == config
    assert small["seed"] == 5


def test_overrides_come_last_and_read_numbers_that_yaml_takes_for_text(tmp_path):
    (tmp_path / "run.yaml").write_text("preset: small\noptim: {epochs: 7, base_lr: 1e-4}\n")
    config = RunConfig.load(tmp_path / "run.yaml", ["optim.epochs=9", "encoder.pooling=max"])
    assert (config.encoder.width, config.encoder.pooling) == (192, "max")
    assert (config.optim.epochs, config.optim.base_lr) == (9, 1e-4)
    tiny = RunConfig.load(tmp_path / "run.yaml", preset="tiny")
    assert (tiny.encoder.width, tiny.optim.epochs) == (64, 7)


def test_branches_are_chosen_by_their_kind():
    config = RunConfig.preset(
        "tiny",
        {
            "encoder": {
                "branches": [
                    {"kind": "separable", "width": 10, "dilation": 2},
                    {"kind": "dense"},
                    {"kind": "structured", "n_scales": 2},
                ]
            }
        },
    )
    assert config.encoder.branches == (
        SeparableBranch(width=10, dilation=2),
        DenseBranch(),
        StructuredBranch(n_scales=2),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {"epoch": 3}}, r"unknown key optim\.epoch\. Did you mean 'epochs'\?"),
        ({"optimiser": {}}, r"unknown key optimiser\. Did you mean 'optim'\?"),
        (
            {"encoder": {"branches": [{"kind": "dense", "kernel": 5}]}},
            r"unknown key encoder\.branches\.0\.kernel\. Did you mean 'kernel_length'",
        ),
        ({"optim": {"epochs": "many"}}, r"optim\.epochs = 'many': .*valid integer"),
        ({"optim": {"epochs": 2.5}}, r"optim\.epochs = 2\.5: .*integer"),
        ({"views": {"masks": {"kind": "all"}}}, r"views\.masks\.kind = 'all': .*slice"),
        ({"encoder": {"width": 100}}, r"encoder\.width = 100: must be even and a multiple"),
        ({"optim": {"warmup_epochs": 100}}, r"optim\.warmup_epochs = 100.0: must be less than"),
        ({"encoder": {"branches": [{"kind": "dense", "width": 3}]}}, "widths must add up to"),
        ({"encoder": {"branches": [{"kind": "fourier"}]}}, r"encoder\.branches\.0"),
        (
            {"encoder": {"branches": [{"kind": "dense", "kernel_length": "x"}]}},
            r"encoder\.branches\.0\.kernel_length = 'x': .*integer",
        ),
        ({"encoder": 5}, r"encoder = 5"),
    ],
)
def test_errors_name_the_key_the_value_and_the_way_out(changes, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.preset("paper", changes)


def test_all_errors_come_at_once():
    with pytest.raises(ConfigError) as caught:
        RunConfig.preset("paper", {"seed": "x", "optim": {"epochs": 0}, "train": {"log_every": 0}})
    for part in ("seed = 'x'", "optim.epochs = 0", "train.log_every = 0"):
        assert part in str(caught.value)


def test_files_that_are_no_configuration(tmp_path):
    file = tmp_path / "run.yaml"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        RunConfig.load(file)
    file.write_text("a: [1, 2")
    with pytest.raises(ConfigError, match=r"run\.yaml: is not valid YAML.*line 1"):
        RunConfig.load(file)
    file.write_text("- 1\n")
    with pytest.raises(ConfigError, match="must hold `key: value` pairs"):
        RunConfig.load(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        RunConfig.load(file)
    file.write_text("!!python/object/apply:os.system ['false']")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        RunConfig.load(file)
    file.write_text("")
    assert RunConfig.load(file) == RunConfig()
    with pytest.raises(ConfigError, match=r"preset = 'papre': is no preset\. Did you mean 'paper'"):
        RunConfig.load(file, ["preset=papre"])
    with pytest.raises(ConfigError, match=r"has the form key\.sub=value"):
        RunConfig.load(file, ["optim.epochs"])


def test_every_key_is_documented():
    keys = list(trees.describe(RunConfig()))
    assert len(keys) > 40
    assert [key.path for key in keys if not key.doc] == []
    lr = next(key for key in keys if key.path == "optim.base_lr")
    assert (lr.type, lr.default) == ("float", 7e-4)
    assert lr.doc.startswith("Peak learning rate")


def test_merging_changes_neither_side():
    base, changes = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}
    assert trees.merge(base, changes) == {"a": {"b": 3, "c": 2}}
    assert base == {"a": {"b": 1, "c": 2}}
    assert yaml.safe_load(trees.to_yaml(base)) == base
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 3  # type: ignore[misc]

"""Advice about configurations, training and models, followed: the same call gets through."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from advice import advised
from semantoks.config import override
from semantoks.errors import ConfigError
from semantoks.files import refuse_existing, staged_file
from semantoks.model.architecture import EncoderConfig
from semantoks.model.engines import make_engine
from semantoks.model.pretrained import convert, load_pretrained, read_header
from semantoks.model.readout import check_parts
from semantoks.model.tokenizers.branches import DenseBranch, branch_widths
from semantoks.objectives.contrastive import ContrastiveConfig, TimeConfig
from semantoks.objectives.registry import OBJECTIVES, make_objective
from semantoks.train.run import DataConfig, RunConfig
from semantoks.train.setup import check_run_folder, pick_device, training_recordings
from semantoks.train.trainer import Trainer
from semantoks.views.crops import CropConfig
from semantoks.views.epochs import WeightedEpochs
from semantoks.views.masks import MaskConfig

# -- configurations --------------------------------------------------------------------------------


def test_overrides():
    with advised("config.override", "For example: optim.epochs=20"):
        override({}, ["optim.epochs"])
    assert override({}, ["optim.epochs=20"]) == {"optim": {"epochs": 20}}


def test_presets():
    with advised("train/run._preset", "Did you mean"):
        RunConfig.preset("smal")
    RunConfig.preset("small")


def test_crops_and_masks():
    with advised(
        "views/crops.__post_init__", "Leave min_distance and max_distance out, or choose "
    ):
        CropConfig(spacing="even", min_distance=3)
    CropConfig(spacing="even")
    CropConfig(spacing="random", min_distance=3)
    place = "views/masks.__post_init__"
    with advised(place, "Did you mean"):
        MaskConfig(kind="netwrk")
    MaskConfig(kind="network")
    with (
        pytest.raises(ConfigError) as error,
        advised(place, "Leave it out, or choose ", raised=True),
    ):
        MaskConfig(kind="random", canonical=True)
    MaskConfig(kind="random")
    named = error.value.fix.removeprefix("Leave it out, or choose ").split(" masks")[0]
    for kind in named.split(" or "):
        MaskConfig(kind=kind, canonical=True)
    with advised("views/masks.check_grid", "Choose another views.masks.kind, or a finer grid"):
        MaskConfig(kind="network").check_grid(1, 5)
    MaskConfig(kind="random").check_grid(1, 5)
    MaskConfig(kind="network").check_grid(3, 5)


def test_weights_of_stores():
    place, advice = "train/run.__post_init__", "Leave out a store that is not to be seen"
    with advised(place, advice):
        DataConfig(store=("a", "b", "c"), weights=(1, 0, 2))
    DataConfig(store=("a", "c"), weights=(1, 2))
    groups = np.repeat([0, 1], [5, 3])
    advice = "Weigh it otherwise, leave it out, or use smaller batches"
    with advised("views/epochs.__init__", advice):
        WeightedEpochs(groups, (1, 9), 2)
    for own, weights, steps in ((groups, (5, 3), 2), (groups, (1, 2), 4), (groups[:5], (1,), 2)):
        WeightedEpochs(own, weights, steps)


def test_encoders():
    place = "model/architecture.__post_init__"
    small = {"width": 16, "head_width": 8}
    with advised(place, "Leave it out, or use more blocks"):
        EncoderConfig(**small, depth=1, drop_path=0.1)
    EncoderConfig(**small, depth=1, drop_path=0)
    EncoderConfig(**small, depth=2, drop_path=0.1)
    whole = {"granularity": "connectome", "n_patches": 1}
    with advised(place, "Leave them out, or choose another encoder.granularity"):
        EncoderConfig(**small, **whole, pooling="max")
    EncoderConfig(**small, **whole)
    EncoderConfig(**small, pooling="max")
    with advised(place, "State the length of a view as encoder.patch_length"):
        EncoderConfig(**small, granularity="connectome", n_patches=4, patch_length=20)
    EncoderConfig(**small, granularity="connectome", n_patches=1, patch_length=80)
    branches = (DenseBranch(width=4), DenseBranch(kernel_length=5, width=4))
    advice = "Give every branch a width, or leave some null to share the rest evenly"
    with advised("model/tokenizers/branches.branch_widths", advice):
        branch_widths(branches, 12)
    for last in (8, None):
        assert branch_widths((branches[0], replace(branches[1], width=last)), 12) == [4, 8]


# -- objectives ------------------------------------------------------------------------------------


def test_contrastive_times():
    time = TimeConfig(margin=TimeConfig().margin + 1)
    advice = "Leave it out, or set objective.positives=time"
    with advised("objectives/contrastive.__post_init__", advice):
        ContrastiveConfig(positives="crop", time=time)
    ContrastiveConfig(positives="crop")
    ContrastiveConfig(positives="time", time=time)


def test_objectives(tiny_run, tmp_path, store_path):
    with advised("objectives/registry.make_objective", "Did you mean"):
        make_objective(load_pretrained(), of_kind("vicrg"))
    assert OBJECTIVES["vicreg"]
    with advised(
        "objectives/prediction.refuse_first_order", "Start from the preset connectome-small"
    ):
        Trainer(tiny_run(objective={"kind": "prediction"}), tmp_path / "wrong")
    changes = {"data": {"store": str(store_path)}, "encoder": {"patch_length": 24}}
    Trainer(RunConfig.preset("connectome-small", changes), tmp_path / "connectome")
    masks = {"masks": {"kind": "network", "frequency": 1.0}}
    with advised(
        "objectives/prediction.refuse_first_order", "Start from the preset connectome-small"
    ):
        Trainer(tiny_run(objective={"kind": "blocks"}, views=masks), tmp_path / "no blocks")
    changes |= {"objective": {"kind": "blocks", "n_components": 3}, "views": masks}
    Trainer(RunConfig.preset("connectome-small", changes), tmp_path / "blocks")


def test_objectives_of_patches(tiny_run, tmp_path):
    plain = {"objective": {"kind": "reconstruction"}}
    with advised("train/run._check_masks", "Set views.masks.kind=random"):
        tiny_run(**plain, views={"masks": {"kind": "none", "frequency": 1}})
    with advised("train/run._check_masks", "Set views.masks.frequency=1"):
        tiny_run(**plain, views={"masks": {"kind": "random", "frequency": 0.5}})
    plain["views"] = {"augment": {"noise": "none"}, "masks": {"kind": "random", "frequency": 1}}
    whole = {"granularity": "connectome", "n_patches": 1}
    size = {"width": 16, "depth": 2, "head_width": 8, "patch_length": 6, "n_patches": 4}
    advice = "Set encoder.granularity=networks or encoder.granularity=rois"
    with advised("objectives/reconstruction.refuse_whole", advice):
        Trainer(tiny_run(**plain, encoder=size | whole), tmp_path / "wrong")
    for granularity in ("networks", "rois"):
        run = tiny_run(**plain, encoder=size | {"granularity": granularity})
        Trainer(run, tmp_path / granularity)


def of_kind(kind):
    config = ContrastiveConfig()
    object.__setattr__(config, "kind", kind)
    return config


# -- training --------------------------------------------------------------------------------------


def test_devices():
    with advised("train/setup.pick_device", "Use auto or cpu"):
        pick_device("tpu")
    for name in ("auto", "cpu"):
        pick_device(name)


def test_stores_to_train_on(tiny_run):
    advice = "Make one with `semantoks prepare`, then give data.store=FOLDER"
    with advised("train/setup.training_recordings", advice):
        training_recordings(tiny_run(data__store=""))
    training_recordings(tiny_run())
    with advised("train/setup._site", "Did you mean"):
        training_recordings(tiny_run(data__exclude_sites=["est"]))
    training_recordings(tiny_run(data__exclude_sites=["east"]))


def test_sites_of_several_stores(tiny_run, store_path, tmp_path):
    other = tmp_path / "other"
    other.symlink_to(store_path)
    stores = [str(store_path), str(other)]
    with (
        pytest.raises(ConfigError) as error,
        advised("train/setup._site", "Choose one, or name all: ", raised=True),
    ):
        training_recordings(tiny_run(data__store=stores, data__exclude_sites=["east"]))
    names = error.value.fix.removeprefix("Choose one, or name all: ").split(", ")
    for chosen in (names[:1], names):
        training_recordings(tiny_run(data__store=stores, data__exclude_sites=chosen))


def test_folders_of_runs(tiny_run, tmp_path):
    place, config = "train/setup.check_run_folder", tiny_run(optim__epochs=2)
    run = tmp_path / "run"
    with advised(place, "Start it without --resume"):
        check_run_folder(run, config, resume=True)
    Trainer(config, run).fit()
    with advised(place, "Resume it with --resume, or choose another folder"):
        check_run_folder(run, config, resume=False)
    check_run_folder(run, config, resume=True)
    other = tiny_run(optim__epochs=3)
    advice = "Resume with the same configuration, or start a new run in another folder"
    with advised(place, advice):
        check_run_folder(run, other, resume=True)
    check_run_folder(run, config, resume=True)
    (tmp_path / "new").mkdir()
    check_run_folder(tmp_path / "new", other, resume=False)


# -- files and models ------------------------------------------------------------------------------


def test_files_that_exist(tmp_path):
    (tmp_path / "a").write_text("x")
    with advised("files.refuse_existing", "Choose another name, or delete it first"):
        refuse_existing(tmp_path / "a")
    refuse_existing(tmp_path / "b")
    (tmp_path / "a").unlink()
    refuse_existing(tmp_path / "a")


def test_two_writers_of_one_file(tmp_path):
    advice = "Give each process a target of its own"
    with advised("files._staged", advice), staged_file(tmp_path / "a") as partial:
        partial.write_text("one")
        (tmp_path / "a").write_text("another")
    for name in ("b", "c"):
        with staged_file(tmp_path / name) as partial:
            partial.write_text(name)
    assert (tmp_path / "a").read_text() == "another"


def test_models_of_other_versions(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"format": 99}))
    with advised("model/pretrained.read_header", "Upgrade semantoks"):
        read_header(tmp_path)
    file.write_text(json.dumps({"format": 1}))  # as this version knows it
    assert read_header(tmp_path)["format"] == 1


def test_compact_models(tiny_run, tmp_path):
    Trainer(tiny_run(optim__epochs=2), tmp_path / "run").fit()
    with advised("model/pretrained.convert", "Name a folder"):
        convert(tmp_path / "run", tmp_path / "small.pth", compact=True)
    convert(tmp_path / "run", tmp_path / "small", compact=True)
    encoder = load_pretrained(tmp_path / "small")
    with advised("model/readout.check_parts", "Did you mean"):
        check_parts(encoder, ("clss",))
    check_parts(encoder, ("cls",))
    advice = "Leave it out, or evaluate the baseline spectral-fc beside the model"
    with advised("model/readout.check_parts", advice):
        check_parts(encoder, ("cls", "spectral"))
    check_parts(encoder, ("cls",))


def test_engines_that_cannot():
    model = load_pretrained()  # its tokens read whole recordings
    with advised("model/engines.make_engine", "Use torch in float32"):
        make_engine("onnx", model, 3, "float32", "cpu", ("cls",))
    make_engine("torch", model, 3, "float32", "cpu", ("cls",))

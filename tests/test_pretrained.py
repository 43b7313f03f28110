"""Models of ours: found, read, refused; converting folders."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from semantoks.errors import CheckpointError, InputError
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.pretrained import convert, load_pretrained, save_model
from semantoks.model.weights import weights_hash
from semantoks.objectives.distillation import DistillationConfig, SelfDistillation
from semantoks.train.trainer import Trainer

TINY = Path(__file__).parent / "golden" / "reference_tiny.pth"
CONFIG = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)


@pytest.fixture(scope="module")
def method(parcellation, preprocessing) -> SelfDistillation:
    encoder = Encoder.random(CONFIG, parcellation, preprocessing, seed=11)
    method = SelfDistillation(encoder, DistillationConfig(projection_hidden=7, projection_width=5))
    for parameter in method.teacher.parameters():
        parameter.data.mul_(1.25)
    return method


@pytest.fixture
def folder(tmp_path, method) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    weights = {k: v for k, v in method.state_dict().items() if ".mask_head." not in k}
    save_model(folder, weights, method.student.encoder)
    return folder


def rewrite(folder: Path, **changes: object) -> None:
    header = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(header))


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_model_comes_back_as_it_was(folder, method, role):
    encoder, original = load_pretrained(folder, role), getattr(method, role).encoder
    assert encoder.config == CONFIG
    assert encoder.channels == original.channels
    assert encoder.channels.name == original.channels.name
    assert encoder.preprocessing == original.preprocessing
    state = original.state_dict()
    assert encoder.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in encoder.state_dict().items())
    assert not encoder.training


def test_loading_leaves_the_global_generator_alone(folder):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_pretrained(folder)
    load_pretrained(TINY)
    assert torch.equal(torch.rand(2), expected)


def test_an_unknown_role_is_refused(folder):
    with pytest.raises(InputError, match=r"role = 'pupil': must be one of"):
        load_pretrained(folder, "pupil")


# -- where a model may be --------------------------------------------------------------------------


def test_a_run_stands_for_its_newest_checkpoint(tmp_path, folder):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    folder.rename(run / "checkpoints" / "step-00000010")
    (run / "checkpoints" / "step-00000009").mkdir()
    assert load_pretrained(run).config == CONFIG


def test_a_folder_with_one_checkpoint_of_the_authors_is_a_model(tmp_path):
    (tmp_path / "weights.pth").write_bytes(TINY.read_bytes())
    assert load_pretrained(tmp_path).config.width == 64
    (tmp_path / "more.pth").write_bytes(TINY.read_bytes())
    with pytest.raises(CheckpointError, match=r"nor a single \.pth"):
        load_pretrained(tmp_path)


def test_what_is_not_there_is_refused_without_asking_the_network(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("semantoks.model.hub._client", refuse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for source in ("runs/first", "nothing", "a/b/c", "../x/y", "own er/name", "owner/name"):
        for kind in (str, Path):
            with pytest.raises(CheckpointError, match=r"does not exist.*hf://owner/name"):
                load_pretrained(kind(source))
    for kind in (str, Path):
        with pytest.raises(CheckpointError, match=r"is no model: it has neither config\.json"):
            load_pretrained(kind("runs"))
    with pytest.raises(CheckpointError, match="does not exist"):
        load_pretrained(Path("hf://owner/name"))  # a path is a path


# -- refusing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", r"config\.json: is damaged"),
        ("config.json", "{}", r"config\.json: is damaged.*no entry 'format\'"),
        ("config.json", "[1]", r"config\.json: is damaged"),
        ("rois.tsv", "label\tnetwork\nA\tVis\n", r"rois\.tsv: hash: does not list the ROIs"),
        ("rois.tsv", "label\n", r"config\.json: is damaged: .*has no column 'network'"),
        ("model.safetensors", "", r"model\.safetensors: is missing or truncated"),
        ("model.safetensors", "no weights", r"model\.safetensors: is missing or truncated"),
    ],
)
def test_damaged_parts_are_named(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(folder)


def test_truncated_and_missing_weights_are_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is missing or truncated"):
        load_pretrained(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match="is missing or truncated"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 3}, r"format = 3: was written by a newer version.*Upgrade semantoks"),
        ({"encoder": {"widht": 16}}, r"unknown key widht"),
        ({"encoder": {"width": 24, "depth": 1}}, r"multiple of head_width"),
        (
            {"encoder": {"width": 24, "head_width": 8, "depth": 1}},
            r"mask_token has the shape \(16,\), not \(24,\)",
        ),
        ({"parcellation": {}}, r"is damaged"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("teacher.encoder.cls_token"), r"header: cls_token is missing"),
        (lambda w: w.update({"teacher.encoder.x": torch.ones(2)}), r"x is not known"),
        (lambda w: w["teacher.encoder.cls_token"].fill_(torch.inf), r"cls_token: holds NaN or inf"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, message):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(folder)
    assert load_pretrained(folder, "student").config == CONFIG, "only what is asked for is read"


# -- converting ------------------------------------------------------------------------------------


def test_convert_copies_a_folder_whole(folder, tmp_path):
    made = convert(folder, tmp_path / "new" / "copy")
    one, two = (load_file(f / "model.safetensors") for f in (folder, made))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert sorted(p.name for p in made.parent.iterdir()) == ["copy"]


@pytest.mark.parametrize("name", ["there.pth", "there"])
def test_convert_overwrites_nothing(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(CheckpointError, match="exists already and is not overwritten"):
        convert(TINY, tmp_path / name)
    assert (tmp_path / name).read_text() == "precious"


def test_convert_names_a_missing_head_and_leaves_nothing(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in weights.items() if ".head." not in k}
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"head\.hidden\.weight is missing"):
        convert(folder, tmp_path / "copy")
    assert sorted(tmp_path.iterdir()) == [folder]


def test_convert_says_when_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file/theirs.pth", "file/ours"):
        with pytest.raises(CheckpointError, match="cannot be written"):
            convert(TINY, tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# -- weights saved before the tokenizer owned its positions ----------------------------------------

POSITIONS = "tokenizer.positions.table"


def with_former_names(file: Path) -> None:
    """Rewrite a file of tensors as earlier versions named them."""
    tensors = load_file(file)
    assert any(POSITIONS in name for name in tensors)
    save_file({k.replace(POSITIONS, "network_embedding"): v for k, v in tensors.items()}, file)


def test_a_model_saved_under_former_names_still_loads(folder, method):
    with_former_names(folder / "model.safetensors")
    rewrite(folder, format=1)
    state = method.teacher.encoder.state_dict()
    found = load_pretrained(folder).state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert convert(folder, folder.with_name("again")).is_dir()


def test_a_run_saved_under_former_names_resumes_exactly(tiny_run, tmp_path):
    config = tiny_run(train__checkpoint_epochs=1)
    whole = Trainer(config, tmp_path / "whole")
    whole.fit()
    half = Trainer(tiny_run(train__checkpoint_epochs=1), tmp_path / "half")
    half.fit()
    checkpoints = sorted((tmp_path / "half" / "checkpoints").iterdir())
    shutil.rmtree(checkpoints.pop())
    folder = checkpoints[-1]
    progress = json.loads((folder / "progress.json").read_text())
    for name in ("model.safetensors", "optimizer.safetensors"):
        with_former_names(folder / name)
        progress["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "progress.json").write_text(json.dumps(progress))
    resumed = Trainer(config, tmp_path / "half", resume=True)
    assert 0 < resumed.step < resumed.n_steps
    resumed.fit()
    for one, two in zip(whole.objective.parameters(), resumed.objective.parameters(), strict=True):
        assert torch.equal(one, two)


def load_as(encoder, average):
    """Return a copy that averages other tokens."""
    other = copy.deepcopy(encoder)
    other.config = replace(encoder.config, average=average)
    return other


def test_models_from_before_average_all_tokens(folder, method):
    """Their headers do not state it, and their embeddings stay what they were."""
    encoder = method.teacher.encoder
    x, mask = torch.randn(2, len(encoder.channels), 12), torch.zeros(2, 3, 2, dtype=torch.bool)
    mask[1, 0] = True
    new, header = load_pretrained(folder), json.loads((folder / "config.json").read_text())
    assert header["encoder"].pop("average") == new.config.average == "data"
    (folder / "config.json").write_text(json.dumps(header))
    old = load_pretrained(folder)
    assert old.config.average == "all"
    out = old(x, mask)
    assert torch.equal(out.cls_avg, torch.cat([out.tokens.mean(dim=1), out.cls], dim=1))
    real = new(x, mask).cls_avg
    torch.testing.assert_close(real[0], out.cls_avg[0])
    assert not torch.allclose(real[1], out.cls_avg[1])


def test_the_hash_of_weights_is_that_of_their_former_names(method):
    encoder = method.teacher.encoder
    assert weights_hash(encoder) != weights_hash(load_as(encoder, "all"))
    # Fields of the architecture that came later count only where they are no defaults.
    encoder = load_as(encoder, "all")
    config = repr(encoder.config).split(", final_norm=")[0] + ")"
    digest = hashlib.sha256(f"{config}{encoder.channels.hash}{encoder.preprocessing}".encode())
    former = {k.replace(POSITIONS, "network_embedding"): v for k, v in encoder.state_dict().items()}
    for name in sorted(former):
        digest.update(name.encode())
        digest.update(former[name].numpy().tobytes())
    assert weights_hash(encoder) == digest.hexdigest()

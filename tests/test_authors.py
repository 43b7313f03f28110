"""The authors' checkpoints: read, refused, written."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.designs import GroupedKFold
from semantoks.data.seen import SeenData
from semantoks.data.signal import Preprocessing
from semantoks.errors import CheckpointError
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.features.embed import Embedder
from semantoks.model.authors import authors_name, read_authors, to_authors
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.positions import sincos_positions
from semantoks.model.pretrained import convert, load_pretrained, save_model
from semantoks.model.tokenizers.branches import DenseBranch, SeparableBranch, StructuredBranch
from semantoks.objectives.distillation import DistillationConfig, SelfDistillation

GOLDEN = Path(__file__).parent / "golden"
TINY = GOLDEN / "reference_tiny.pth"
SMALL_FILE = Path(__file__).parents[2] / "shared" / "golden" / "reference_small.pth"
NAME = "teacher_encoder.network_tokenizers.schaefer400.3.branches.1.slconv.D"


def content(file: Path = TINY) -> dict[str, Any]:
    return torch.load(file, weights_only=True)


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny checkpoint after a change of its content."""

    def write(change: Callable[[dict[str, Any]], None], name: str = "changed.pth") -> Path:
        whole = content()
        change(whole)
        torch.save(whole, tmp_path / name)
        return tmp_path / name

    return write


def model(
    config: EncoderConfig,
    parcellation: str | Parcellation = "semantoks457",
    preprocessing: Preprocessing | None = None,
    *,
    separate: bool = False,
) -> SelfDistillation:
    """A student and a teacher that differ, with heads of 10 -> 6."""
    if isinstance(parcellation, str):
        parcellation = Parcellation.load(parcellation)
    torch.manual_seed(5)
    encoder = Encoder(config, parcellation, preprocessing or Preprocessing())
    objective = DistillationConfig(
        projection_hidden=10, projection_width=6, separate_mask_head=separate
    )
    method = SelfDistillation(encoder, objective)
    for parameter in method.teacher.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return method


def weights_of(method: SelfDistillation) -> dict[str, torch.Tensor]:
    shared = not method.config.separate_mask_head
    return {k: v for k, v in method.state_dict().items() if not (shared and ".mask_head." in k)}


def our_folder(folder: Path, method: SelfDistillation) -> Path:
    folder.mkdir()
    save_model(folder, weights_of(method), method.student.encoder)
    return folder


SMALL = EncoderConfig(
    width=24,
    depth=1,
    head_width=6,
    mlp_ratio=1.5,
    patch_length=4,
    n_patches=3,
    branches=(
        StructuredBranch(width=14, n_scales=2, base_length=3, decay_min=1.5),
        DenseBranch(width=10, kernel_length=5, dilation=2),
    ),
    pooling="max",
)


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_checkpoint_knows_what_its_weights_expect(role):
    encoder = load_pretrained(TINY, role)
    assert (encoder.config.width, encoder.config.depth, encoder.config.view_length) == (64, 2, 100)
    assert encoder.channels == Parcellation.load("semantoks457")
    assert encoder.preprocessing == Preprocessing(tr=2.0, low_hz=0.01, high_hz=0.1, zscore=True)
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())
    theirs = content()["model_state_dict"]
    state = {
        authors_name(f"{role}.encoder.{k}", range(9)): v for k, v in encoder.state_dict().items()
    }
    assert all(torch.equal(v, theirs[k].reshape(v.shape)) for k, v in state.items())
    assert state.keys() <= theirs.keys()
    assert encoder.pretraining is not None, "these weights are not random"
    assert encoder.pretraining.subjects is None, "and do not say whom they have seen"


def test_prefixes_of_parallel_training_are_taken_off(changed):
    def prefix(whole):
        state = whole["model_state_dict"]
        whole["model_state_dict"] = {f"module.{k}": v for k, v in state.items()}

    one, two = load_pretrained(TINY), load_pretrained(changed(prefix))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("name", ["changed.yaml", "config.yaml"])
@pytest.mark.parametrize("bare", [False, True])
def test_the_config_may_lie_beside_the_file(changed, tmp_path, name, bare):
    def strip(whole):
        del whole["config"]
        if bare:
            state = whole.pop("model_state_dict")
            whole.clear()
            whole.update(state)

    file = changed(strip)
    with pytest.raises(
        CheckpointError, match=r"holds no config.*Put its config beside.*changed\.yaml"
    ):
        load_pretrained(file)
    (tmp_path / name).write_text(yaml.safe_dump(content()["config"]), encoding="utf-8")
    assert load_pretrained(file).config == load_pretrained(TINY).config


def test_a_file_with_the_teacher_alone_is_enough_for_the_teacher(changed):
    def keep_teacher(whole):
        state = whole["model_state_dict"]
        whole["model_state_dict"] = {k: v for k, v in state.items() if "teacher_encoder" in k}

    file = changed(keep_teacher)
    assert load_pretrained(file).config.width == 64
    with pytest.raises(CheckpointError, match=r"student_encoder\.\S+ is missing; .* and \d+ more"):
        load_pretrained(file, "student")
    with pytest.raises(CheckpointError, match=r"is missing"):
        convert(file, file.with_name("ours"))
    assert not file.with_name("ours").exists()


def test_the_published_maps_are_the_built_in_parcellations():
    with np.load(GOLDEN / "reference_network_mapping.npz") as archive:
        maps = dict(archive)
    for n_networks, name in ((7, "semantoks457"), (17, "semantoks457-17n")):
        parcellation = Parcellation.load(name)
        place = [parcellation.network_names.index(network) for network in parcellation.networks]
        assert (maps[f"network_map_schaefer400_{n_networks}n"] == place[:400]).all()
        assert place[400:] == [n_networks] * 50 + [n_networks + 1] * 7
    assert set(maps["network_map_tian3"]) == {19}
    assert set(maps["network_map_buckner7"]) == {33}


def test_a_published_map_beside_the_file_changes_nothing(changed, tmp_path):
    (tmp_path / "network_mapping.npz").write_bytes(
        (GOLDEN / "reference_network_mapping.npz").read_bytes()
    )
    encoder = load_pretrained(changed(lambda _: None))
    assert encoder.channels == Parcellation.load("semantoks457")


def test_17_networks_are_known_by_the_config(tmp_path):
    source = our_folder(tmp_path / "ours", model(SMALL, "semantoks457-17n"))
    file = convert(source, tmp_path / "theirs.pth")
    assert content(file)["config"]["data"]["schaefer_networks"] == 17
    encoder = load_pretrained(file)
    assert encoder.channels == Parcellation.load("semantoks457-17n")
    assert encoder.n_networks == 19
    assert sorted(tmp_path.iterdir()) == [source, file], "a published map is not written again"


def test_a_probe_says_that_nobody_knows_whom_the_weights_have_seen(
    store, parcellation, preprocessing
):
    config = EncoderConfig(width=8, depth=1, head_width=8, patch_length=6, n_patches=4)
    encoder = Encoder.random(config, parcellation, preprocessing, seed=0)
    encoder.pretraining = load_pretrained(TINY).pretraining
    result = evaluate_probes(
        store, {"m": Embedder(encoder)}, ["sex"], design=GroupedKFold(n_folds=3)
    )
    seen = result.meta["models"]["m"]
    assert seen["pretrained"]
    assert seen["n_test_subjects_seen"] is None, "unknown is not zero"
    assert seen["test_sites_seen"] is None


# -- refusing --------------------------------------------------------------------------------------


def damage(kind: str, file: Path) -> None:
    whole = TINY.read_bytes()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("thesis.txt", "chapter 1")
        return
    place = whole.index(content()["model_state_dict"][NAME].numpy().tobytes())
    file.write_bytes(
        {
            "half": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"subject\tage\n",
            "flipped": whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
        }[kind]
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("half", "is truncated: its end is missing"),
        ("empty", "is no PyTorch checkpoint"),
        ("text", "is no PyTorch checkpoint"),
        ("zip", "is no PyTorch checkpoint"),
        ("flipped", "is damaged: .* has another checksum"),
    ],
)
def test_damaged_files_are_refused(tmp_path, kind, message):
    file = tmp_path / "file.pth"
    damage(kind, file)
    with pytest.raises(CheckpointError, match=rf"file\.pth: {message}"):
        load_pretrained(file)


class Code:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_file_is_refused_and_never_run(changed, tmp_path):
    trap = tmp_path / "trap"
    file = changed(lambda whole: whole.update(extra=Code(trap)))
    with pytest.raises(CheckpointError, match="holds objects, which could run code"):
        load_pretrained(file)
    assert not trap.exists()
    torch.load(file, weights_only=False)
    assert trap.exists(), "the trap works, were it loaded"


def set_config(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(whole: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        node = whole["config"]
        for parent in parents:
            node = node[parent]
        node[last] = value

    return change


def set_weight(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda whole: whole["model_state_dict"].update({name: value})


BLOCK = "teacher_encoder.inter_network_transformer.transformer_blocks"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w["model_state_dict"].pop(NAME), r"schaefer400\.3\.\S+\.D is missing"),
        (set_weight(NAME, torch.ones(2, 61)), r"\.D has the shape \(2, 61\), not \(1, 47\)"),
        (set_weight(NAME, torch.full((1, 47), torch.nan)), r"holds NaN or infinite weights"),
        (set_weight("teacher_encoder.gate.weight", torch.ones(3)), r"gate\.weight is not known"),
        (set_weight("decoder.weight", torch.ones(3)), r"decoder\.weight is not known"),
        (set_config("model.depth", 3), rf"{BLOCK}\.2\.\S+ is missing"),
        (set_config("model.depth", 1), rf"{BLOCK}\.1\.\S+ is not known"),
        (set_config("data.schaefer_networks", 17), r"is missing|has the shape"),
        (set_config("data.schaefer_networks", 12), r"= 12: has no built-in network map"),
        (set_config("data.schaefer_atlas", "schaefer200"), r"names of its ROIs are known for"),
        (set_config("data.channels", "cortex"), r"names of its ROIs are known for"),
        (set_config("data.target_signal_length", 110), r"multiple of patch_size \(20\)"),
        (set_config("data.patch_size", "20"), r"config\.data\.patch_size = '20': must be of"),
        (set_config("data.patch_size", None), r"config\.data\.patch_size = None: is missing"),
        (set_config("data.target_signal_length", 120), r"no sine-cosine positions of 6 patches"),
        (set_config("model.backbone_type", "vit"), r"backbone_type = 'vit': is an architecture"),
        (set_config("model.cnn_dim", 32), r"cnn_dim must be embedding_dim"),
        (set_config("model.tokenizer.pooling_type", "attention"), r"the pooling one of mean, max"),
        (set_config("model.tokenizer.config", [{"type": "mamba"}]), r"'mamba'.*is a branch whose"),
        (
            set_config("model.tokenizer.config", [{"type": "dense", "depthwise": True}]),
            r"is a branch whose weights are not known",
        ),
        (
            set_config("model.tokenizer.config", [{"type": "dense", "out_channels": 32}]),
            r"impossible architecture.*must add up",
        ),
        (set_config("model.embedding_dim", 100), r"cnn_dim|impossible architecture"),
        (
            set_weight("teacher_mask_predictor.mlp.2.bias", torch.ones(32)),
            r"mask_predictor\.mlp\.2\.bias: differs from teacher_predictor",
        ),
        (
            set_weight(NAME.replace(".D", ".kernel_norm_initialized"), torch.tensor(False)),
            r"kernel_norm_initialized: is false: these weights have never been used",
        ),
        (lambda w: w.update(model_state_dict={}), r"holds no weights: model_state_dict is missing"),
        (lambda w: w.update(model_state_dict=[1]), r"holds no weights"),
        (lambda w: w.update(config="tiny"), r"holds no config"),
    ],
)
def test_what_does_not_fit_is_named(changed, change, message):
    file = changed(change)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(file)


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save([torch.ones(3)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list, no weights by name"):
        load_pretrained(tmp_path / "list.pth")


@pytest.mark.parametrize("damaged", [False, True])
def test_a_wrong_map_beside_the_file_is_refused(changed, tmp_path, damaged):
    if damaged:
        (tmp_path / "network_mapping.npz").write_bytes(b"PK no map")
    else:
        np.savez(tmp_path / "network_mapping.npz", network_map_schaefer400_7n=np.zeros(399))
    with pytest.raises(CheckpointError, match=r"network_mapping\.npz: is damaged"):
        load_pretrained(changed(lambda _: None))


# -- other granularities ---------------------------------------------------------------------------

ROWS = {"rois": 457, "one": 1}
SWITCH = {"rois": "max_spatial", "one": "min_spatial"}


def of_granularity(kind: str) -> Callable[[dict[str, Any]], None]:
    """Turn the tiny checkpoint into one of another granularity, as METHOD section 10 says.

    Width 64, patches of 20; the names are written out, not asked of the package.
    """

    def change(whole: dict[str, Any]) -> None:
        whole["config"]["data"][SWITCH[kind]] = True
        generator = torch.Generator().manual_seed(11)
        state = whole["model_state_dict"]
        for name in list(state):
            rest = name.partition(".")[2]
            if rest.endswith("network_learnable_pos_embedding.weight"):
                state[name] = torch.randn(ROWS[kind], 64, generator=generator)
            elif rest.startswith("network_tokenizers.schaefer400.0.") and kind == "one":
                # The visual network has 61 ROIs, and one head for 32 channels, as 457 have.
                shape = [457 if n == 61 else n for n in state[name].shape]
                if state[name].dtype.is_floating_point:
                    state[name] = 0.1 + torch.rand(shape, generator=generator)
            elif rest.startswith("network_tokenizers."):
                del state[name]
        if kind == "rois":
            for role in ("student", "teacher"):
                weight = torch.randn(64, 20, generator=generator)
                state[f"{role}_encoder.shared_roi_projection.weight"] = weight
                state[f"{role}_encoder.shared_roi_projection.bias"] = weight[:, 0] - 0.5

    return change


@pytest.mark.parametrize("kind", ["rois", "one"])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_other_granularities_give_the_numbers_of_their_weights(changed, kind, role):
    file = changed(of_granularity(kind))
    encoder, state = load_pretrained(file, role), content(file)["model_state_dict"]
    assert encoder.config.granularity == kind
    assert encoder.channels == Parcellation.load("semantoks457")
    x = torch.randn(2, 457, 60, generator=torch.Generator().manual_seed(3))
    tokens = encoder.tokenizer(x)
    if kind == "rois":
        weight, bias = (
            state[f"{role}_encoder.shared_roi_projection.{n}"] for n in ("weight", "bias")
        )
        expected = torch.einsum("bcpl,dl->bcpd", x.view(2, 457, 3, 20), weight) + bias
    else:
        expected = plain_token(state, f"{role}_encoder.network_tokenizers.schaefer400.0", x)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
    # The transformer is that of every granularity: only its rows of positions differ.
    mixer = f"{role}_encoder.inter_network_transformer"
    table = state[f"{mixer}.network_learnable_pos_embedding.weight"]
    mask = torch.rand(2, ROWS[kind], 3, generator=torch.Generator().manual_seed(5)) < 0.4
    hidden = state[f"{mixer}.mask_embedding"].view(64)
    grid = torch.where(mask[..., None], hidden, expected) + table[:, None]
    grid = grid + sincos_positions(3, 64, like=grid)
    cls = state[f"{mixer}.cls_token"].view(1, 1, 64).expand(2, 1, 64)
    sequence = torch.cat([cls, grid.flatten(1, 2)], dim=1)
    for block in encoder.blocks:
        sequence = block(sequence)
    out = encoder(x, mask)
    torch.testing.assert_close(out.tokens, encoder.norm(sequence)[:, 1:], rtol=1e-4, atol=1e-4)


def plain_token(state: dict[str, Any], prefix: str, x: torch.Tensor) -> torch.Tensor:
    """A network's tokenizer as METHOD section 3 writes it: (B, C, T) -> (B, 1, P, D)."""
    batch, n_rois, n_times = x.shape
    patches = x.view(batch, n_rois, n_times // 20, 20).transpose(1, 2).flatten(0, 1)
    of = {k.removeprefix(f"{prefix}."): v for k, v in state.items() if k.startswith(f"{prefix}.")}
    dense = F.conv1d(patches, of["branches.0.weight"], of["branches.0.bias"], padding="same")
    conv = {k.removeprefix("branches.1.slconv."): v for k, v in of.items() if ".slconv." in k}
    pieces = [conv[f"kernel_list.{i}"] for i in range(3)]
    scaled = [
        p.repeat_interleave(2 ** max(0, i - 1), dim=-1) * conv["multiplier"] ** (2 - i)
        for i, p in enumerate(pieces)
    ]
    kernel = torch.cat(scaled, dim=-1) / conv["kernel_norm"]  # (h, C, 16)
    full = F.conv1d(
        F.pad(patches, (7, 8)), kernel.flip(-1).transpose(0, 1).reshape(-1, 1, 16), groups=n_rois
    )
    mixed = full + conv["D"].T.reshape(-1, 1) * patches
    long = F.linear(mixed.transpose(1, 2), of["branches.1.projection.weight"]).transpose(1, 2)
    long = long + of["branches.1.projection.bias"][:, None]
    pooled = F.gelu(torch.cat([dense, long], dim=1)).mean(dim=-1)
    token = F.layer_norm(pooled, (64,), of["norm.weight"], of["norm.bias"])
    return token.view(batch, 1, -1, 64)


@pytest.mark.parametrize("kind", ["rois", "one"])
def test_other_granularities_go_there_and_back_exactly(changed, tmp_path, kind):
    file = changed(of_granularity(kind))
    convert(file, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "theirs.pth")
    before, after = content(file), content(tmp_path / "theirs.pth")
    for name, tensor in before["model_state_dict"].items():
        assert torch.equal(tensor, after["model_state_dict"][name]), name
    added = after["model_state_dict"].keys() - before["model_state_dict"].keys()
    assert not any("shared_roi" in name or ".schaefer400." in name for name in added)
    assert after["config"]["data"][SWITCH[kind]] is True
    one, two = load_pretrained(file), load_pretrained(tmp_path / "theirs.pth")
    assert one.config == two.config
    x = torch.randn(2, 457, 40)
    assert torch.equal(one(x).cls_avg, two(x).cls_avg)


def test_one_token_per_roi_needs_no_network_map(changed):
    def change(whole: dict[str, Any]) -> None:
        of_granularity("rois")(whole)
        whole["config"]["data"]["schaefer_networks"] = 12

    assert load_pretrained(changed(change)).n_networks == 457


def test_two_granularities_at_once_are_refused(changed):
    def change(whole: dict[str, Any]) -> None:
        whole["config"]["data"] |= {"max_spatial": True, "min_spatial": True}

    with pytest.raises(CheckpointError, match="contradict each other"):
        load_pretrained(changed(change))


# -- writing ---------------------------------------------------------------------------------------


def test_every_name_and_shape_of_theirs_is_written():
    with torch.device("meta"):  # the default architecture is large
        method = SelfDistillation(
            Encoder(EncoderConfig(), Parcellation.load("semantoks457"), Preprocessing()),
            DistillationConfig(),
        )
    state = to_authors(weights_of(method), method.student.encoder)
    ours = {(k, str(v.dtype).removeprefix("torch."), str(tuple(v.shape))) for k, v in state.items()}
    lines = (GOLDEN / "reference_state_dict.txt").read_text(encoding="utf-8").splitlines()[1:]
    theirs = {(n, t, s) for n, _, t, s, *_ in (line.split("\t") for line in lines)}
    assert len(theirs) == 942
    assert ours == theirs


def test_theirs_to_ours_to_theirs_is_exact(tmp_path):
    convert(TINY, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "theirs.pth")
    before = content()["model_state_dict"]
    after = content(tmp_path / "theirs.pth")["model_state_dict"]
    assert len(after) == 786
    assert before.keys() < after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert torch.equal(tensor, after[name]), name
    for role in ("student", "teacher"):
        shared = [k for k in after if k.startswith(f"{role}_mask_predictor.")]
        assert len(shared) == 4
        assert all(torch.equal(after[k], after[k.replace("_mask", "")]) for k in shared)
    unused = {k: v for k, v in after.items() if k not in before and "_mask_predictor" not in k}
    assert len(unused) == 472
    assert not any(v.any() for k, v in unused.items())


@pytest.mark.skipif(
    not SMALL_FILE.exists(), reason="reference_small.pth is not beside this checkout"
)
def test_a_whole_file_of_theirs_comes_back(tmp_path):
    """With its optimiser, unused entries and second names, as they publish it."""
    convert(SMALL_FILE, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "theirs.pth")
    before, after = content(SMALL_FILE), content(tmp_path / "theirs.pth")
    assert before.keys() <= after.keys()
    one, two = before["model_state_dict"], after["model_state_dict"]
    assert len(one) == 838
    assert {k: (v.shape, v.dtype) for k, v in one.items()} == {
        k: (v.shape, v.dtype) for k, v in two.items()
    }
    differ = [k for k in one if not torch.equal(one[k], two[k])]
    unused = ("tian3", "buckner7", "inter_network_transformer.norm")
    assert all(any(part in name for part in unused) for name in differ)
    model = before["config"]["model"]
    assert model | after["config"]["model"] == model
    data = before["config"]["data"]
    assert data | after["config"]["data"] == data, "what is stated is what they state"


def test_ours_to_theirs_to_ours_is_exact(tmp_path):
    method = model(SMALL, separate=True)
    method.student.encoder.pretraining = seen = SeenData(
        n_recordings=5,
        n_subjects=4,
        subjects=("ab12",),
        sites=("east",),
        epochs=3,
        steps=9,
    )
    source = our_folder(tmp_path / "ours", method)
    file = convert(source, tmp_path / "theirs.pth")
    encoder, weights = read_authors(file)
    assert encoder.config == replace(SMALL, average="all"), "theirs average all tokens"
    assert encoder.pretraining == seen, "whom the weights have seen is not lost"
    expected = weights_of(method)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[k], expected[k]) for k in expected)
    again = load_pretrained(convert(file, tmp_path / "again"), "student")
    x = torch.randn(3, 457, 12)
    assert torch.equal(again(x).cls_avg, method.student.encoder.eval()(x).cls_avg)


def test_networks_of_ones_own_travel_with_their_map(tmp_path):
    base = Parcellation.load("semantoks457")
    # Cortex in 3 networks that appear in another order than their names; subcortex in 2.
    networks = (
        [f"c{(i * 7) % 3}" for i in range(400)] + [f"s{i % 2}" for i in range(50)] + ["b"] * 7
    )
    own = replace(base, name="own", networks=tuple(networks))
    method = model(SMALL, own)
    file = convert(our_folder(tmp_path / "ours", method), tmp_path / "theirs.pth")
    assert (tmp_path / "theirs_network_mapping.npz").is_file()
    encoder = load_pretrained(file)
    file.rename(tmp_path / "moved.pth")
    with pytest.raises(CheckpointError, match=r"theirs_network_mapping\.npz: exists already"):
        convert(tmp_path / "ours", file)
    (tmp_path / "moved.pth").rename(file)
    x = torch.randn(2, 457, 8)
    assert torch.equal(encoder(x).tokens, method.teacher.encoder.eval()(x).tokens)

    # The same weights under a map with other ids in another order: tokens move with their network.
    with np.load(tmp_path / "theirs_network_mapping.npz") as archive:
        maps = dict(archive)
    cortex = maps["network_map_schaefer400_3n"]
    maps["network_map_schaefer400_3n"] = np.array([20, 4, 11])[cortex]
    (tmp_path / "theirs_network_mapping.npz").unlink()
    np.savez(tmp_path / "theirs_network_mapping.npz", **maps)
    state = content(file)
    order = {0: 2, 1: 0, 2: 1}
    moved = {}
    for name, tensor in state["model_state_dict"].items():
        head, found, rest = name.partition(".schaefer400.")
        token, _, rest = rest.partition(".")
        if found:
            moved[f"{head}.schaefer400.{order.get(int(token), int(token))}.{rest}"] = tensor
        elif "network_learnable_pos" in name:
            rows = torch.empty_like(tensor)
            rows[[order.get(i, i) for i in range(len(tensor))]] = tensor
            moved[name] = rows
        else:
            moved[name] = tensor
    torch.save(state | {"model_state_dict": moved}, file)
    assert torch.equal(load_pretrained(file)(x).tokens, encoder(x).tokens)


@pytest.mark.parametrize(
    ("changes", "parcellation", "preprocessing", "message"),
    [
        ({"pooling": "attention"}, "semantoks457", {}, "with mean or max pooling"),
        ({"branches": (SeparableBranch(),)}, "semantoks457", {}, "dense and structured branches"),
        ({}, "cc200", {}, r"knows the 457 ROIs of schaefer400 \+ tian3 \+ buckner7 only"),
        ({}, "semantoks457", {"tr": 0.8}, "states no preprocessing and always means the paper's"),
    ],
)
def test_what_their_form_cannot_say_is_refused(
    tmp_path, changes, parcellation, preprocessing, message
):
    method = model(replace(SMALL, **changes), parcellation, Preprocessing(**preprocessing))
    source = our_folder(tmp_path / "ours", method)
    with pytest.raises(CheckpointError, match=message):
        convert(source, tmp_path / "theirs.pth")
    assert list(tmp_path.iterdir()) == [source], "nothing is left behind"


def test_networks_across_atlases_are_refused(tmp_path):
    base = Parcellation.load("semantoks457")
    mixed = replace(base, networks=("a",) * 300 + ("b",) * 157)
    source = our_folder(tmp_path / "ours", model(SMALL, mixed))
    with pytest.raises(CheckpointError, match="numbers the networks atlas by atlas"):
        convert(source, tmp_path / "theirs.pth")
    assert list(tmp_path.iterdir()) == [source]

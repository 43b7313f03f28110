"""The tokenizer seam: a third kind, of groups of channels, from pretraining to embeddings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from semantoks.atlas.channels import Channels, TokenRows
from semantoks.config import describe
from semantoks.data.store import write_store
from semantoks.errors import ConfigError, InputError
from semantoks.evaluate.features.embed import Embedder
from semantoks.explain.filters import network_filters
from semantoks.explain.networks import network_embeddings, occlusion
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.positions import LearnedPositions
from semantoks.model.pretrained import load_pretrained, save_model
from semantoks.model.tokenizers.base import Tokenizer
from semantoks.model.tokenizers.registry import TOKENIZERS
from semantoks.train.trainer import Trainer

CONFIG = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)


class GroupTokenizer(Tokenizer):
    """The mean signal of a group of channels, through one linear map: no weight knows a ROI."""

    def __init__(self, channels: Channels, width: int, length: int) -> None:
        rows = TokenRows.by_group(channels)
        super().__init__(rows, LearnedPositions(len(rows), width))
        self.length, self.map = length, nn.Linear(length, width)
        member = torch.zeros(len(rows), len(channels))
        for row, places in zip(member, rows.channels, strict=True):
            row[places] = 1 / len(places)
        self.register_buffer("member", member, persistent=False)

    @classmethod
    def build(cls, config: EncoderConfig, channels: Channels) -> GroupTokenizer:
        """Return the tokenizer of an encoder."""
        return cls(channels, config.width, config.patch_length)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,  # noqa: ARG002
        *,
        checkpoint: bool = False,  # noqa: ARG002
    ) -> Tensor:
        """Map (B, C, T) to (B, N, P, D)."""
        means = self.get_buffer("member").to(x.dtype) @ x
        return self.map(means.unflatten(2, (-1, self.length)))

    def reads(self, channels: Channels) -> bool:
        """Read any channels of the same groups."""
        return channels.group_names == self.rows.names


@dataclass(frozen=True, kw_only=True)
class Sensors(Channels):
    """Channels that are no ROIs of an atlas."""

    name: str
    labels: tuple[str, ...]
    regions: tuple[str, ...]
    coordinates: NDArray[np.float64] = dataclasses.field(compare=False)
    space: str = "head"

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the region of every sensor."""
        return self.regions


@pytest.fixture
def groups(monkeypatch):
    """Register the third kind: the one line."""
    monkeypatch.setitem(TOKENIZERS, "groups", GroupTokenizer)


@pytest.mark.usefixtures("groups")
def test_a_third_tokenizer_trains_resumes_and_embeds(tiny_run, store, tmp_path):
    config = tiny_run(encoder__granularity="groups")
    trainer = Trainer(config, tmp_path / "run")
    trainer.fit()
    encoder = load_pretrained(tmp_path / "run")
    trained = trainer.objective.encoder("teacher")
    assert isinstance(encoder.tokenizer, GroupTokenizer)
    assert torch.equal(encoder.tokenizer.map.weight, trained.tokenizer.map.weight)
    assert encoder.config.granularity == "groups"
    seed = config.seed
    start = Encoder.random(config.encoder, store.parcellation, store.preprocessing, seed=seed)
    assert not torch.equal(start.tokenizer.map.weight, encoder.tokenizer.map.weight), "it learned"
    embedded = Embedder(encoder, n_crops=3).fit(store).transform(store)
    assert embedded.shape == (13, 32)
    assert np.isfinite(embedded).all()
    longer = Trainer(config, tmp_path / "run", resume=True)
    assert longer.step == longer.n_steps


@pytest.mark.usefixtures("groups")
def test_what_explains_a_model_asks_the_tokenizer(parcellation, preprocessing, store):
    config = replace(CONFIG, granularity="groups")
    encoder = Encoder.random(config, parcellation, preprocessing, seed=3).eval()
    assert network_embeddings(encoder, store, n_crops=2).shape == (13, 3, 16)
    found = occlusion(encoder, store, n_crops=2)
    assert found.networks == ("Vis", "Limbic", "Default")
    with pytest.raises(InputError, match="'groups': has no long convolution"):
        network_filters(encoder)


@pytest.mark.usefixtures("groups")
def test_weights_without_a_list_of_rois_read_other_channels(
    parcellation, preprocessing, recordings, tmp_path
):
    config = replace(CONFIG, granularity="groups")
    encoder = Encoder.random(config, parcellation, preprocessing, seed=3).eval()
    # 5 ROIs of the 11, in another order; every network keeps at least one.
    labels = [parcellation.labels[places[0]] for places in parcellation.network_indices[::-1]]
    labels += [parcellation.labels[i] for i in parcellation.network_indices[2][3:5]]
    atlas = parcellation.select(labels, name="five")
    columns = [parcellation.labels.index(label) for label in labels]
    some = [replace(r, signal=r.signal[:, columns], roi_names=atlas.labels) for r in recordings]
    small = write_store(tmp_path / "five", some, atlas, preprocessing)
    with pytest.raises(InputError, match="a network must be complete, or absent"):
        Embedder(encoder).fit(small).transform(small)
    other = encoder.reading(atlas)
    assert other.channels == atlas
    embedded = Embedder(other, n_crops=1).fit(small).transform(small)
    assert embedded.shape == (13, 32)
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))
    whole = torch.zeros(2, 11, 24)
    for places in parcellation.network_indices:  # every channel shows the mean of its group
        chosen = [k for k, column in enumerate(columns) if column in places]
        whole[:, places] = x[:, chosen].mean(dim=1, keepdim=True)
    torch.testing.assert_close(other(x).cls_avg, encoder(whole).cls_avg, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="channels = 'part': cannot be read by weights"):
        encoder.reading(parcellation.select(networks=["Vis", "Limbic"], name="part"))


@pytest.mark.parametrize("granularity", ["networks", "one", "rois"])
def test_the_papers_tokenizers_read_a_fixed_list(parcellation, preprocessing, granularity):
    config = replace(CONFIG, granularity=granularity)
    encoder = Encoder.random(config, parcellation, preprocessing, seed=3)
    with pytest.raises(InputError, match=r"'turned': cannot be read by .* toy11\. Prepare the rec"):
        encoder.reading(parcellation.select(parcellation.labels[::-1], name="turned"))


@pytest.mark.parametrize("granularity", ["networks", "one", "rois", "groups"])
@pytest.mark.usefixtures("groups")
def test_channels_need_not_be_rois(preprocessing, granularity, tmp_path):
    regions = ("front", "back", "front", "side", "back", "front", "side")
    places = np.random.default_rng(2).normal(size=(7, 3)).round(3)
    labels = tuple(f"E{i}" for i in range(7))
    sensors = Sensors(name="cap", labels=labels, regions=regions, coordinates=places)
    assert sensors.group_names == ("front", "back", "side")
    encoder = Encoder.random(
        replace(CONFIG, granularity=granularity), sensors, preprocessing, seed=5
    ).eval()
    out = encoder(torch.randn(2, 7, 18))
    n_rows = {"networks": 3, "one": 1, "rois": 7, "groups": 3}[granularity]
    assert out.tokens.shape == (2, 3 * n_rows, 16)
    (tmp_path / "m").mkdir()
    weights = {f"teacher.encoder.{name}": value for name, value in encoder.state_dict().items()}
    save_model(tmp_path / "m", weights, encoder)
    again = load_pretrained(tmp_path / "m")
    assert (again.channels.labels, again.channels.groups) == (labels, regions)
    assert (again.channels.hash, again.channels.name) == (sensors.hash, "cap")
    np.testing.assert_array_equal(again.channels.coordinates, places)
    x = torch.randn(2, 7, 12)
    assert torch.equal(again(x).cls_avg, encoder(x).cls_avg)


def test_rows_without_data_are_those_none_of_whose_channels_have_any(parcellation):
    rows = TokenRows.by_group(parcellation)
    absent = np.zeros((3, 11), dtype=bool)
    absent[1, parcellation.network_indices[1]] = True
    absent[2, parcellation.network_indices[2][1:]] = True
    assert rows.missing(absent).tolist() == [[False] * 3, [False, True, False], [False] * 3]


def test_an_unknown_granularity_names_the_known():
    with pytest.raises(ConfigError, match="'voxels': must be one of networks, one, rois, conn"):
        EncoderConfig(granularity="voxels")
    assert set(TOKENIZERS) == {"networks", "one", "rois", "connectome", "vq"}


def test_every_kind_is_described_in_the_configuration():
    docs = {key.path: key.doc for key in describe(EncoderConfig())}
    assert all(f'"{kind}"' in docs["granularity"] for kind in TOKENIZERS)

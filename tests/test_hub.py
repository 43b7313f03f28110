"""Models on the Hugging Face hub: its own client against a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
import yaml

from semantoks.data.seen import SeenData
from semantoks.errors import CheckpointError, InputError
from semantoks.evaluate.features.embed import Embedder
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.hub import HubAddress
from semantoks.model.pretrained import load_pretrained

huggingface_hub = pytest.importorskip("huggingface_hub")

TINY = Path(__file__).parent / "golden" / "reference_tiny.pth"
COMMITS = {"main": "a" * 40, "v2": "b" * 40}
COMMITS |= {commit: commit for commit in COMMITS.values()}


class Hub(ThreadingHTTPServer):
    """Repositories in folders ``owner/name/COMMIT``, and what was asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.root, self.asked = root, []
        self.moves = False  # the branch, after its first file


class Answer(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path))
        parts = self.path.strip("/").split("/")
        if parts[0] == "api":  # models/owner/name, then what of which revision
            self._api("/".join(parts[2:4]), parts[4], parts[5].partition("?")[0])
            return
        repository, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        commit = COMMITS.get(revision, "none")
        if self.server.moves and self.command == "GET":
            COMMITS["main"] = COMMITS["v2"]
        self._send(self.server.root / repository / commit / name, commit)

    def _send(self, file: Path, commit: str) -> None:
        if not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = file.read_bytes()
        self._ok(body, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'})

    def _api(self, repository: str, what: str, revision: str) -> None:
        commit = COMMITS[revision]
        folder = self.server.root / repository / commit
        found = [f for f in folder.rglob("*") if f.is_file()]
        names = [str(f.relative_to(folder)) for f in found]
        tree = {"id": repository, "sha": commit, "siblings": [{"rfilename": n} for n in names]}
        if what == "tree":
            tree = [{"type": "file", "path": n, "size": f.stat().st_size, "oid": "c" * 40}
                    for n, f in zip(names, found, strict=True)]  # fmt: skip
        self._ok(json.dumps(tree).encode(), {"Content-Type": "application/json"})

    def _ok(self, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = Hub(tmp_path / "hub")
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setitem(COMMITS, "main", "a" * 40)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def encoder(parcellation, preprocessing):
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    return Encoder.random(config, parcellation, preprocessing, seed=5).eval()


def same(one: Encoder, two: Encoder) -> bool:
    theirs = two.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def files_asked(hub: Hub) -> list[str]:
    return [path.split("/resolve/")[1].split("/", 1)[1] for verb, path in hub.asked
            if verb == "GET" and "/resolve/" in path]  # fmt: skip


# -- fetching --------------------------------------------------------------------------------------


def test_only_the_files_of_a_model_are_fetched(encoder, hub):
    folder = encoder.save_pretrained(hub.root / "lab" / "brain.v2" / ("a" * 40))
    (folder / "optimizer.bin").write_bytes(b"large")
    (folder / "published.pth").write_bytes(TINY.read_bytes())
    found = Encoder.from_pretrained("hf://lab/brain.v2")
    assert same(found, encoder)
    assert not found.training
    assert files_asked(hub) == ["config.json", "rois.tsv", "model.safetensors"]
    hub.asked.clear()
    assert same(load_pretrained("hf://lab/brain.v2"), encoder)
    assert files_asked(hub) == []  # the cache holds them


def test_a_revision_and_a_subfolder(encoder, parcellation, preprocessing, hub):
    other = Encoder.random(encoder.config, parcellation, preprocessing, seed=6)
    encoder.save_pretrained(hub.root / "lab" / "brain" / ("a" * 40) / "small" / "net")
    other.save_pretrained(hub.root / "lab" / "brain" / ("b" * 40) / "small" / "net")
    find = Encoder.from_pretrained
    assert same(find("hf://lab/brain", subfolder="small/net"), encoder)
    assert same(find("hf://lab/brain", revision="v2", subfolder="small/net"), other)
    assert same(load_pretrained("hf://lab/brain@v2/small/net"), other)
    assert same(Embedder("hf://lab/brain/small/net", tr=2.0).fit([np.eye(30, 11)]).encoder_,
                encoder)  # fmt: skip
    with pytest.raises(CheckpointError, match="'hf://lab/brain': could not be fetched"):
        find("hf://lab/brain")


def test_all_files_are_of_one_commit(encoder, parcellation, preprocessing, hub):
    """The branch moves while a model is fetched."""
    other = Encoder.random(encoder.config, parcellation, preprocessing, seed=6)
    encoder.save_pretrained(hub.root / "lab" / "brain" / ("a" * 40))
    other.save_pretrained(hub.root / "lab" / "brain" / ("b" * 40))
    hub.moves = True
    assert same(load_pretrained("hf://lab/brain"), encoder)


def test_weights_of_a_newer_version_are_not_fetched(encoder, hub):
    folder = encoder.save_pretrained(hub.root / "lab" / "brain" / ("a" * 40))
    header = folder / "config.json"
    header.write_text(header.read_text().replace('"format": 2', '"format": 99'))
    with pytest.raises(CheckpointError, match="newer version"):
        load_pretrained("hf://lab/brain")
    assert files_asked(hub) == ["config.json"]


def test_what_the_authors_publish_is_fetched(hub):
    folder = hub.root / "lab" / "published" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "weights.pth").write_bytes(TINY.read_bytes())
    (folder / "video.mp4").write_bytes(b"large")
    assert load_pretrained("hf://lab/published").config.width == 64
    assert files_asked(hub) == ["weights.pth"]


def test_a_hub_that_cannot_be_reached_is_an_error_of_ours(encoder, hub, monkeypatch):
    encoder.save_pretrained(hub.root / "lab" / "brain" / ("a" * 40))
    load_pretrained("hf://lab/brain")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(load_pretrained("hf://lab/brain"), encoder)  # from the cache
    with pytest.raises(CheckpointError, match="'hf://no-such/name': could not be fetched from"):
        load_pretrained("hf://no-such/name")


def test_without_the_client_the_error_names_it(encoder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for act in (lambda: load_pretrained("hf://lab/brain"), lambda: encoder.push_to_hub("lab/x")):
        with pytest.raises(InputError, match=r"pip install semantoks\[hub\]"):
            act()


@pytest.mark.parametrize(
    "text", ["hf://", "hf://owner", "hf://a b/c", "hf://a/b/../c", "hf://../c"]
)
def test_addresses_that_are_none(text):
    with pytest.raises(CheckpointError, match="must be hf://owner/name"):
        load_pretrained(text)


@pytest.mark.parametrize("text", ["hf://a/b", "hf://a-b/c.d@v1.0", "hf://a/b/c/d", "hf://a/b@x/c"])
def test_an_address_is_written_as_it_is_read(text):
    assert str(HubAddress.parse(text)) == text


def test_a_revision_belongs_to_the_hub(tmp_path, encoder):
    folder = encoder.save_pretrained(tmp_path / "model")
    assert same(Encoder.from_pretrained(folder), encoder)
    with pytest.raises(CheckpointError, match="must be hf://owner/name"):
        Encoder.from_pretrained(folder, revision="main")


# -- sharing ---------------------------------------------------------------------------------------


class Api:
    """What `HfApi` does, in a folder."""

    root: Path
    calls: list

    def __init__(self, token=None):
        self.calls.append(("token", token))

    def create_repo(self, repository, *, private, exist_ok):
        self.calls.append(("repo", repository, private, exist_ok))

    def create_branch(self, repository, *, branch, exist_ok):
        self.calls.append(("branch", repository, branch, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, path_in_repo, revision, commit_message):
        self.calls.append(("upload", commit_message))
        target = self.root / repo_id / COMMITS[revision or "main"] / (path_in_repo or "")
        target.mkdir(parents=True)
        for file in Path(folder_path).iterdir():
            (target / file.name).write_bytes(file.read_bytes())


@pytest.fixture
def api(hub, monkeypatch):
    Api.root, Api.calls = hub.root, []
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return Api


def test_a_model_is_pushed_and_loaded_again(encoder, api):
    address = encoder.push_to_hub("lab/brain", revision="v2", subfolder="net", license="cc-by-4.0")
    assert address == "hf://lab/brain@v2/net"
    assert same(load_pretrained(address), encoder)
    assert api.calls[1:3] == [
        ("repo", "lab/brain", True, True),
        ("branch", "lab/brain", "v2", True),
    ]
    card = (api.root / "lab/brain" / ("b" * 40) / "net" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "cc-by-4.0"
    assert 'Embedder("hf://lab/brain@v2/net"' in card


def test_a_hub_that_refuses_an_upload(encoder, api, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("403: not yours\nand more")

    monkeypatch.setattr(api, "create_repo", refuse)
    with pytest.raises(
        CheckpointError, match=r"'lab/brain': could not be uploaded.*403: not yours\)"
    ):
        encoder.push_to_hub("lab/brain")
    with pytest.raises(CheckpointError, match="must be hf://owner/name"):
        encoder.push_to_hub("brain")


def test_the_card_is_filled_from_what_the_weights_have_seen(encoder, store, tmp_path):
    bare = (encoder.save_pretrained(tmp_path / "bare") / "README.md").read_text()
    assert "random weights" in bare
    assert "license" not in yaml.safe_load(bare.split("---")[1])
    encoder.pretraining = SeenData.of(store, epochs=7)
    folder = encoder.save_pretrained(tmp_path / "full")
    card = (folder / "README.md").read_text()
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    facts = ["13 recordings of 10 subjects", "east, north, west", "| epochs | 7 |", digest]
    facts += ["toy11, 11 ROIs, 3 rows", "0.01 to 0.1 Hz", "TR of 2 s", 'Embedder("full"']
    for fact in facts:
        assert fact in card, fact
    assert not any(subject in card for subject in store.table["subject"])
    with pytest.raises(CheckpointError, match="exists already"):
        encoder.save_pretrained(folder)

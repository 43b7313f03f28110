"""The explorer: its pages, who may see them, and a browser that clicks through it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from http.client import HTTPConnection
from threading import Thread
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest

from advice import advised
from semantoks.errors import InputError
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.report.explorer import FeatureMap, colours_of
from semantoks.workflow.explore import ExplorerServer, make_explorer


class Page(HTMLParser):
    """Links, dots and text of a page; every tag that is opened must be closed."""

    VOID = ("meta", "link", "input", "img", "br", "circle", "hr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.links, self.open, self.text = html, [], [], ""
        self.images, self.dots = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "a" and "download" not in given:
            self.links.append(given["href"])
        if tag == "img":
            self.images.append(given["alt"])
        if tag == "circle":
            self.dots.append(given["fill"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID and self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def model(parcellation, preprocessing, tmp_path_factory):
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    encoder = Encoder.random(config, parcellation, preprocessing, seed=2)
    return encoder.save_pretrained(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def server(store_path, model):
    with ExplorerServer(store_path, model=model, n_crops=2) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def get(server, path, host=None):
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


# -- pages -----------------------------------------------------------------------------------------


def test_every_link_leads_to_a_page(server):
    """From the first page, all that a reader can click, two of a kind."""
    base = urlsplit(server.url).path
    left, kinds = [base], dict.fromkeys([""], 1)
    while left:
        path = left.pop()
        status, _, body = get(server, path)
        assert status == 200, path
        page = Page(body)
        assert page.open == [], path
        for link in page.links:
            assert link.startswith((base, "#"))
            address = link.partition("#")[0]
            keys = re.sub("=[^&]*", "", address.removeprefix(base))
            kind = re.sub(r"\d+", "0", keys)
            if address and kinds.get(kind, 0) < 2 and address not in left:
                kinds[kind] = kinds.get(kind, 0) + 1
                left.append(address)
    views = {"", "?sort", "map", "map?recording", "map?colour&recording", "importance"}
    assert set(kinds) == views | {"recording/0"}


def test_the_table_of_recordings(server, store):
    base = urlsplit(server.url).path
    rows = re.compile(r'class="recording" href="[^"]*?(\d+)"')
    assert [int(i) for i in rows.findall(get(server, base)[2])] == [*range(13)]
    lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line)
             for line in re.findall("<tr>(.*?)</tr>", get(server, base)[2])]  # fmt: skip
    head, *cells = [[re.sub("<.*?>", "", cell) for cell in line] for line in lines]
    table = pd.DataFrame(cells, columns=head).astype({"minutes": float, "mean_fd": float})
    assert [*table.columns[:6]] == ["id", "subject", "session", "site", "minutes", "mean_fd"]
    np.testing.assert_allclose(table["mean_fd"], store.table["mean_fd"], rtol=1e-3)
    np.testing.assert_allclose(table["minutes"], store.table["length"] * 2 / 60, rtol=1e-3)
    found = rows.findall(get(server, f"{base}?find=north")[2])
    assert [int(i) for i in found] == [*np.flatnonzero(store.table["site"] == "north")]
    order = [int(i) for i in rows.findall(get(server, f"{base}?sort=-mean_fd")[2])]
    assert order == [*store.table["mean_fd"].sort_values(ascending=False, kind="stable").index]
    assert "0 of 13 recordings" in get(server, f"{base}?find=%3Cscript%3E")[2]
    assert "<script" not in get(server, f"{base}?find=%3Cscript%3E")[2]


def test_a_recording_shows_its_signals_and_its_neighbours(server, store):
    page = Page(get(server, urlsplit(server.url).path + "recording/4")[2])
    assert page.images == [f"Carpet plot of {store.table['id'][4]}: ROIs by network over time"]
    assert "age" in page.text
    assert "embeddings of tiny" in page.text
    links = [link for link in page.links if re.search(r"recording/\d+$", link)]
    assert len({link for link in links if not link.endswith(("/3", "/5"))}) >= 6


def test_the_map_is_coloured_and_marks_a_choice(server):
    base = urlsplit(server.url).path
    page = Page(get(server, f"{base}map?colour=site")[2])
    assert len(page.dots) == 13
    assert len(set(page.dots)) == 3
    assert {"east", "north", "west"} <= set(page.text.split())
    chosen = get(server, f"{base}map?colour=age&recording=2")[2]
    assert chosen.count('class="chosen"') == 1
    assert chosen.count('class="near"') == 8
    assert len(set(Page(chosen).dots)) == 5


def test_the_importance_of_networks(server):
    page = Page(get(server, urlsplit(server.url).path + "importance")[2])
    assert page.images == ["Distances of masked networks, tiny"]


def test_without_a_model_it_maps_connectivity(store_path):
    explorer = make_explorer(store_path)
    assert "13 recordings by functional connectivity" in explorer.page("map", {})
    assert "There is no model" in explorer.page("importance", {})
    for path in ("recording/13", "recording/-1", "recording/x", "nothing", "results/0", "map/1"):
        with pytest.raises(LookupError):
            explorer.page(path, {})
    with pytest.raises(LookupError):
        explorer.page("map", {"recording": "99"})


# -- who may see it --------------------------------------------------------------------------------


def test_only_the_address_with_its_token_is_served(server):
    base = urlsplit(server.url).path
    assert server.server_address[0] == "127.0.0.1"
    for path in ("/", "/map", "/x/map", base[:-2], f"/{'a' * 22}/"):
        assert get(server, path)[0] == 403, path
    assert get(server, base, host="evil.example")[0] == 403
    assert get(server, base, host=f"evil.example:{server.server_port}")[0] == 403
    assert get(server, base, host=f"localhost:{server.server_port}")[0] == 200
    assert get(server, f"{base}../../etc/passwd")[0] == 404
    assert get(server, f"{base}recording/99")[0] == 404
    headers = get(server, base)[1]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"


def test_what_cannot_be_explored(server, store_path, tmp_path):
    with (
        advised("workflow/explore.__init__", "Leave it out", raised=True),
        pytest.raises(InputError, match=r"port = .*cannot be used"),
    ):
        ExplorerServer(store_path, port=server.server_port)
    with ExplorerServer(store_path):
        pass
    with pytest.raises(InputError, match="no whole result"):
        make_explorer(store_path, results=[tmp_path])


# -- what is drawn ---------------------------------------------------------------------------------


def test_neighbours_are_those_of_the_features():
    X = np.array([[0.0, 0], [0.1, 0], [5, 5], [5.1, 5], [9, 0]])
    space = FeatureMap.of("x", np.array([3, 8, 11, 20, 25]), X)
    assert next(i for i, _ in space.neighbours(3)) == 8
    assert next(i for i, _ in space.neighbours(20)) == 11
    with pytest.raises(LookupError):
        space.neighbours(4)


def test_colours_have_a_legend():
    colours, legend = colours_of(pd.Series(["a", "b", "a", None]))
    assert colours[0] == colours[2] != colours[1]
    assert [label for _, label in legend] == ["a", "b", "unknown"]
    numbers, legend = colours_of(pd.Series([*np.arange(40.0), np.nan]))
    assert len(set(numbers)) == 6
    assert len(legend) == 6
    whole = pd.Series([*range(40), None], dtype="Int64")
    assert colours_of(whole)[0] == numbers
    many, legend = colours_of(pd.Series([f"s{i % 30}" for i in range(90)]))
    assert [label for _, label in legend][-1] == "23 others"
    assert set(many) == {shade for shade, _ in legend}


# -- a browser -------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_clicks_through_it(server, tmp_path):
    """The pages have no scripts: a click is a link that the browser found in the page."""

    def dom(url):
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"]
        command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
        done = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True,
                              check=True, env=os.environ, timeout=120)  # fmt: skip
        assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
        return done.stdout

    host = server.url.removesuffix(urlsplit(server.url).path)
    on_map = next(link for link in Page(dom(server.url)).links if link.endswith("/map"))
    page = Page(dom(host + on_map))
    assert len(page.dots) == 13
    dot = next(link for link in page.links if link.endswith("recording=7#chosen"))
    chosen = dom(host + dot)
    assert 'class="chosen"' in chosen
    neighbour = re.search(r'class="neighbour" href="([^"]+)"', chosen)[1]
    assert "Nearest neighbours" in dom(host + neighbour)

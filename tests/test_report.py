from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from semantoks.data.store import write_store
from semantoks.errors import InputError
from semantoks.report.report import write_report
from semantoks.train.trainer import Trainer
from semantoks.workflow import probe_store

VILLAIN = "<script>alert('1')</script>"


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; complains about unclosed tags."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.feed(text)
        assert not self.open, f"unclosed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}>"

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def material(tmp_path_factory, recordings, parcellation, preprocessing, tiny_run):
    """A run and a result on recordings whose every text is an attack."""
    folder = tmp_path_factory.mktemp("report")
    hostile = [
        dataclasses.replace(
            r,
            subject=f"{r.subject}{VILLAIN}",
            site=VILLAIN if r.site == "north" else r.site,
            phenotypes={**r.phenotypes, "sex": VILLAIN if r.phenotypes["sex"] == "male" else "f$x"},
        )
        for r in recordings
    ]
    write_store(folder / "store", hostile, parcellation, preprocessing)
    config = tiny_run(data={"store": str(folder / "store"), "exclude_sites": [VILLAIN]})
    Trainer(config, folder / "run").fit()
    probe_store(
        folder / "store",
        folder / "result",
        models=[folder / "run"],
        targets=["sex", "age"],
        groups="site",
    )
    write_report(
        folder / "page.html",
        runs=[folder / "run"],
        results=[folder / "result"],
        stores=[folder / "store"],
    )
    return folder


def test_the_page_is_whole_and_needs_nothing_else(material):
    text = (material / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    links = [v for k, v in page.attributes if k in ("src", "href", "action")]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "url(" not in text
    assert "@import" not in text
    assert page.tags.count("img") == 5, "two score plots, curves, monitors, one map"
    assert all(value for key, value in page.attributes if key == "alt")


def test_texts_from_data_are_shown_and_never_run(material):
    text = (material / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text.lower()
    assert VILLAIN in Page(text).text
    assert not re.search(r"p0\d", Page(text).text), "subjects are not named"


def test_the_page_says_what_was_found_and_seen(material):
    text = Page((material / "page.html").read_text(encoding="utf-8")).text
    for part in (
        "balanced accuracy",
        "Pearson r",
        "random weights",
        "connectivity",
        "One site is left out at a time",
        "it saw 7 of the 10 tested people and the test sites east, west",
        "random weights has seen no recording in pretraining",
        "13 of 10 people",
        "Limbic 4",
        "batch_size: 4",
        "torch",
        "to connectivity",
    ):
        assert part in text, part
    assert re.search(r"(Above|Below|Not told apart from) random weights", text)


def test_a_page_of_stores_alone(store_path, tmp_path):
    write_report(tmp_path / "new" / "page.html", stores=[store_path])
    text = Page((tmp_path / "new" / "page.html").read_text(encoding="utf-8")).text
    assert "Recordings: toy" in text
    assert "Scores" not in text


def test_what_cannot_be_reported(material, tmp_path):
    with pytest.raises(InputError, match=r"page\.html: exists already and is not overwritten"):
        write_report(material / "page.html", runs=[material / "run"])
    with pytest.raises(InputError, match="cannot be read: No such file"):
        write_report(tmp_path / "x.html", runs=[material / "result"])
    with pytest.raises(InputError, match="holds no whole result"):
        write_report(tmp_path / "x.html", results=[material / "run"])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_report(tmp_path / "file" / "x.html", stores=[material / "store"])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]

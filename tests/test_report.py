from __future__ import annotations

import base64
import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from semantoks.assess.plan import Plan
from semantoks.data.designs import LeaveOneSiteOut
from semantoks.data.store import RecordingStore, write_store
from semantoks.errors import InputError
from semantoks.evaluate.checks.corruption import CORRUPTIONS
from semantoks.evaluate.compare.targets import Target
from semantoks.figures import runs as plots
from semantoks.figures import style as figures
from semantoks.model.pretrained import load_pretrained
from semantoks.report.page import write_report
from semantoks.report.sections import _embedding_maps, store_section
from semantoks.report.verdicts import Verdict, seen_facts, verdicts
from semantoks.train.trainer import Trainer
from semantoks.workflow.evaluate import evaluate_store

VILLAIN = "<script>alert(1)</script>"


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
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def values(self, *names):
        return [value for name, value in self.attributes if name in names]


def read(folder):
    return Page((folder / "page.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def material(tmp_path_factory, recordings, parcellation, preprocessing, tiny_run):
    """A run and a result on recordings whose every text is an attack, and their page."""
    folder = tmp_path_factory.mktemp("report")
    hostile = [
        dataclasses.replace(
            r,
            subject=f"{r.subject}{VILLAIN}",
            site={"north": VILLAIN, "west": "西"}.get(r.site, r.site),  # a script without a font
            phenotypes={
                **r.phenotypes,
                "sex": VILLAIN if r.phenotypes["sex"] == "male" else "f$x$",
            },
        )
        for r in recordings
    ]
    write_store(folder / "store", hostile, parcellation, preprocessing)
    config = tiny_run(data={"store": str(folder / "store"), "exclude_sites": [VILLAIN]})
    Trainer(config, folder / "run_a$b$").fit()
    evaluate_store(
        folder / "store",
        folder / "result",
        models=[folder / "run_a$b$"],
        plan=Plan(
            targets=(Target("sex"), Target("age")),
            design=LeaveOneSiteOut(),
            baselines=("tangent space",),
            n_crops=2,
            n_bootstrap=20,
        ),
        say=lambda _: None,
    )
    write_report(
        folder / "page.html",
        runs=[folder / "run_a$b$"],
        results=[folder / "result"],
        stores=[folder / "store"],
    )
    return folder


# -- the page --------------------------------------------------------------------------------------


def test_the_page_is_whole_and_needs_nothing_else(material):
    page = read(material)
    text = (material / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(v.startswith(("data:", "#")) for v in page.values("src", "href", "action"))
    assert "url(" not in text
    assert "@import" not in text
    anchors = [v for v in page.values("href") if v.startswith("#")]
    assert {a[1:] for a in anchors} == set(page.values("id"))
    assert len(anchors) == 3, "a result, a run, a store"
    # Of the run three curves, two monitors, maps by site, sex, age and having been seen.
    pictures = 3 + 2 + 4
    # Of the result per target the scores, a forest plot, and ROC and calibration or two models'
    # predictions; corruptions, fingerprints, maps by site, sex, age and motion, networks.
    pictures += 2 * (1 + 1 + 2) + len(CORRUPTIONS) + 3 + 4 + 1
    assert page.tags.count("img") == pictures == len(page.values("alt"))
    assert all(page.values("alt"))
    assert page.tags.count("th") == len(page.values("scope"))


def test_pictures_are_svg_that_loads_nothing(material):
    for source in read(material).values("src"):
        kind, data = source.split(",")
        assert kind == "data:image/svg+xml;base64"
        svg = base64.b64decode(data).decode()
        assert "</svg>" in svg
        assert "<script" not in svg
        assert not re.search(r'href="(?!#|data:)', svg)


def test_texts_from_data_are_shown_and_never_run(material):
    text = (material / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text.lower()
    assert VILLAIN in read(material).text
    assert "f$x$" in read(material).text
    assert not re.search(r"p0\d", read(material).text), "subjects are not named"


def test_the_page_says_what_was_found_and_seen(material):
    text = read(material).text
    for part in (
        "tests on AUROC",
        "tests on MAE gain",
        "are needed for a verdict about sites never seen",
        "Intervals are over 10 people",
        "One site is left out at a time",
        "run_a$b$ 9 recordings of 7 people 7 of 10 east, 西",
        "random weights none none none",
        "13 of 10 people",
        "Vis 2, Limbic 4, Default 5",
        "batch_size: 4",
        "torch",
        "where 3 is the most a batch of this size can have",
        "The teacher's embeddings of 13 recordings",
        f"site recordings people TR at the source, s length, min mean FD, mm {VILLAIN}",
        "band-pass 0.01 to 0.1 Hz",
        "filter: butterworth",
    ):
        assert part in text, part
    assert "warn" in read(material).values("class"), "a leak is marked"


def test_a_page_of_stores_alone(store_path, tmp_path):
    write_report(tmp_path / "new" / "page.html", stores=[store_path])
    text = read(tmp_path / "new").text
    assert "Recordings: toy" in text
    assert "Scores" not in text
    assert "Pretraining" not in text


def test_what_cannot_be_reported(material, tmp_path):
    run = material / "run_a$b$"
    with pytest.raises(InputError, match=r"page\.html: exists already and is not overwritten"):
        write_report(material / "page.html", runs=[run])
    with pytest.raises(InputError, match="cannot be read: No such file"):
        write_report(tmp_path / "x.html", runs=[material / "result"])
    with pytest.raises(InputError, match="holds no whole result"):
        write_report(tmp_path / "x.html", results=[run])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_report(tmp_path / "file" / "x.html", stores=[material / "store"])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_no_space_leaves_nothing_behind(store_path, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("semantoks.files.os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_report(tmp_path / "page.html", stores=[store_path])
    assert not list(tmp_path.iterdir())


# -- what may be said ------------------------------------------------------------------------------


def frame(columns, *rows):
    return pd.DataFrame(rows, columns=columns.split())


SCORES = "model metric value ci_low ci_high detectable verdict chance"
GAPS = "model against metric value ci_low ci_high detectable verdict"
OPEN = "no significant difference"


def test_tests_decide_and_neither_points_nor_intervals_do():
    m = "AUROC"
    scores = frame(
        SCORES,
        ("good", m, 0.80, 0.7, 0.9, 0.1, "better", 0.5),
        ("lucky", m, 0.95, 0.6, 1.1, 0.5, OPEN, 0.5),
        ("bad", m, 0.30, 0.2, 0.4, 0.2, "worse", 0.5),
        ("connectivity", m, 0.60, 0.52, 0.7, 0.1, "better", 0.5),
        ("chance", m, 0.50, 0.5, 0.5, 0.0, "", 0.5),
        ("bad", "Brier", 0.9, 0.8, 1.0, 0.1, "", 0.25),
    )
    gaps = frame(
        GAPS,
        ("good", "connectivity", m, 0.20, 0.1, 0.3, 0.1, "better"),
        ("lucky", "connectivity", m, 0.35, -0.05, 0.75, 0.417, OPEN),
        ("bad", "connectivity", m, -0.30, -0.4, -0.2, 0.1, "worse"),
        ("chance", "connectivity", m, -0.1, -0.2, 0.0, 0.1, ""),
        ("bad", "connectivity", "Brier", 0.3, 0.2, 0.4, 0.1, ""),
    )
    assert verdicts(scores, gaps) == [
        Verdict(
            "Better than connectivity: good (+0.200 [0.100, 0.300]). Worse than connectivity: bad "
            "(-0.300 [-0.400, -0.200]).",
            "No significant difference: lucky (+0.350 [-0.050, 0.750]; detectable: 0.42).",
        ),
        Verdict(
            "Better than chance (0.5): good, connectivity. Worse than chance (0.5): bad.",
            "No significant difference: lucky (detectable: 0.5).",
        ),
    ]
    baselines = frame(GAPS, ("tangent space", "connectivity", m, 0.20, 0.1, 0.3, 0.1, "better"))
    claims = [v.claim for v in verdicts(scores, pd.concat([gaps, baselines]))]
    assert not any("tangent" in claim for claim in claims), "the table has them"
    assert "tangent space (+0.200" in verdicts(scores, baselines)[0].claim, "no model in question"
    one = gaps[gaps["model"] == "good"]
    assert verdicts(scores, one, "4 sites are tested") == [
        Verdict(
            "No verdict: 4 sites are tested.",
            "Difference from connectivity, untested: good +0.200 [0.100, 0.300].",
        )
    ]


def test_training_is_held_against_its_own_control():
    m = "MAE gain"
    scores = frame(
        SCORES,
        ("a", m, 0.3, 0.2, 0.4, 0.1, "better", 0.0),
        ("random weights (a)", m, -0.4, -0.9, 0.1, 0.2, OPEN, 0.0),
    )
    gaps = frame(
        GAPS,
        ("a", "random weights (a)", m, 0.7, 0.6, 0.8, 0.1, "better"),
        ("b", "random weights (a)", m, 0.7, 0.6, 0.8, 0.1, "better"),
        ("tangent space", "random weights (a)", m, 0.6, 0.5, 0.7, 0.1, "better"),
    )
    assert verdicts(scores, gaps) == [
        Verdict("Better than random weights (a): a (+0.700 [0.600, 0.800]).", ""),
        Verdict(
            "Better than chance (0): a.",
            "No significant difference: random weights (a) (detectable: 0.2).",
        ),
    ]


def test_nothing_tested_is_nothing_said():
    scores = frame(SCORES, ("a", "MAE", 3.0, 2.0, 4.0, 1.0, "", float("nan")))
    gaps = frame(GAPS, ("a", "connectivity", "MAE", -1.0, -2.0, 0.0, 1.0, ""))
    assert verdicts(scores, gaps) == []


def test_unknown_pretraining_is_not_none():
    facts = {"pretrained": True, "n_test_subjects": 9, "n_test_subjects_seen": None}
    facts |= {"test_sites_seen": None, "pretraining": {"n_recordings": None, "n_subjects": None}}
    seen = seen_facts(facts)
    assert seen["leak"] is None
    assert "some of the 9 may be among them" in seen["people"]
    assert seen["sites"] == seen["pretraining"] == "not stated"


# -- figures and sections --------------------------------------------------------------------------


def colors(figure):
    """Return the face colours of all dots, in the order of the points handed in."""
    drawn = np.vstack([c.get_facecolors() for c in figure.axes[0].collections])
    return {tuple(np.round(c[:3], 3)) for c in drawn}


@pytest.mark.parametrize("dtype", [object, "string", bool])
def test_groups_have_colours_and_the_unknown_is_grey(dtype):
    points = np.random.default_rng(0).standard_normal((6, 2))
    texts = ["x", "$y$", "x", "$y$", "x", "x"]
    values = pd.Series([t == "x" for t in texts] if dtype is bool else texts, dtype=dtype)
    figure = plots.embedding_map(points, (0.5, 0.2), "a$b$", values)
    assert len(colors(figure)) == 2
    if dtype is not bool:
        values[2] = None
        figure = plots.embedding_map(points, (0.5, 0.2), "a$b$", values)
        assert len(colors(figure)) == 3
        names = [t.get_text() for t in figure.legends[0].get_texts()]
        assert names == ["$y$", "x", "not stated"]


def test_more_groups_than_colours_are_never_two_of_one_colour():
    kinds = [f"site{i:02}" for i in range(11)]
    values = pd.Series([k for i, k in enumerate(kinds) for _ in range(i + 1)])
    points = np.random.default_rng(0).standard_normal((len(values), 2))
    figure = plots.embedding_map(points, (0.5, 0.2), "site", values)
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == [*kinds[3:], "3 others"]
    assert len(colors(figure)) == len(figures.PALETTE) + 1


def test_numbers_get_a_colour_bar_that_one_extreme_does_not_take():
    values = pd.Series([*range(50), 1e6, np.nan], dtype="Float64")
    points = np.random.default_rng(0).standard_normal((52, 2))
    figure = plots.embedding_map(points, (0.5, 0.2), "age", values)
    assert len(figure.axes) == 2, "the map and its colour bar"
    low, high = figure.axes[0].collections[-1].get_clim()
    assert 0 < low < 2
    assert 47 < high < 50


def test_dots_and_intervals_stand_where_the_numbers_say():
    rows = pd.DataFrame(
        {
            "model": ["a$b$", "random weights", "chance"],
            "role": ["model", "random", "chance"],
            "metric": "balanced accuracy",
            "value": [0.7, 0.6, 0.5],
            "ci_low": [0.65, 0.4, 0.5],
            "ci_high": [0.8, 0.9, 0.5],
        }
    )
    axes = plots.score_intervals(rows, (0.5, "chance")).axes[0]
    level, *drawn = [line.get_xdata() for line in axes.lines]
    assert list(level) == [0.5, 0.5]
    assert [list(x) for x in drawn] == [[0.65, 0.8], [0.7], [0.4, 0.9], [0.6], [0.5, 0.5], [0.5]]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a$b$", "random weights", "chance"]
    heights = [float(line.get_ydata()[0]) for line in axes.lines[1:]]
    assert heights == [2, 2, 1, 1, 0, 0], "the first row is on top"


def test_long_names_keep_both_ends():
    assert figures.short("run-2024-seed-1", 15) == "run-2024-seed-1"
    assert figures.short("run-2024-seed-12", 15) == "run-2024-…ed-12"


def test_maps_say_why_they_are_missing(material, store_path, monkeypatch):
    encoder = load_pretrained(material / "run_a$b$")
    store = RecordingStore(store_path)
    assert _embedding_maps(encoder, store.select([0, 1]), [])["why_not"].startswith("fewer than")
    encoder.preprocessing = dataclasses.replace(encoder.preprocessing, high_hz=0.08)
    assert "preprocess" in _embedding_maps(encoder, store, [])["why_not"]
    monkeypatch.setattr("semantoks.report.sections.MAP_RECORDINGS", 5)
    encoder = load_pretrained(material / "run_a$b$")
    section = _embedding_maps(encoder, store, ["age", "nothing"])
    assert (section["n"], section["shown"]) == (13, 5)
    assert len(section["pictures"]) == 3, "site, age, in pretraining"


def test_labels_of_a_store_are_summed_up_by_site(recordings, parcellation, preprocessing, tmp_path):
    changed = [
        dataclasses.replace(r, site=None, phenotypes={**r.phenotypes, "sex": sex, "score": None})
        for r, sex in zip(recordings[0:8:2], ["f", None, "m", "f"], strict=True)
    ]
    store = write_store(tmp_path / "store", changed, parcellation, preprocessing)
    section = store_section(store, ["age"])
    heads = [column.head for column in section["labels"].columns]
    assert heads == ["site", "age", "sex", "score"], "targets come first"
    ages = [r.phenotypes["age"] for r in changed]
    median, low, high = (f"{f(ages):.3g}" for f in (np.median, min, max))
    assert section["labels"].rows == [
        ["not stated", f"{median} ({low} – {high})", "f 2, m 1; 1 unknown", "unknown"]
    ]
    assert section["sites"].rows[0][:2] == ["not stated", 4]

"""An assessment: every part on the toy store, the folder that is gone on with, the real sample."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from rich.console import Console

from semantoks.assess import parts
from semantoks.assess.assessment import Assessment, assess
from semantoks.assess.cache import StoredEmbedder
from semantoks.assess.parts.base import Found, Question
from semantoks.assess.parts.section import Column, Section, Table
from semantoks.assess.parts.table import PARTS, Part, chosen_parts
from semantoks.assess.plan import Plan, _curve, confound_columns
from semantoks.data.designs import (
    GroupedKFold,
    LeaveOneSiteOut,
    SmallSamples,
)
from semantoks.data.seen import SeenData
from semantoks.data.signal import Preprocessing
from semantoks.data.store import write_store
from semantoks.datasets import DATASETS
from semantoks.errors import InputError
from semantoks.evaluate.checks.adjusted import Harmonised
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.features.baselines import BASELINES, Baseline
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.features.given import read_features
from semantoks.evaluate.features.spectral import AmplitudeBaseline
from semantoks.evaluate.predictors.finetune import make_tuner
from semantoks.evaluate.predictors.training import FineTuned
from semantoks.evaluate.predictors.tuning import Tuning
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.weights import weights_hash
from semantoks.report.evaluation import evaluation_section
from semantoks.report.methods import methods_paragraph
from semantoks.report.page import write_report
from semantoks.report.terminal import assessment_summary

CHEAP = ("subgroups", "confounds", "reliability", "alarms", "maps")


def silent(_):
    pass


def small_encoder(store, seed=1):
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    return Encoder.random(config, store.parcellation, store.preprocessing, seed=seed).eval()


@pytest.fixture(scope="module")
def plan():
    return Plan(
        targets=(Target("sex"),),
        design=GroupedKFold(n_folds=2),
        baselines=("network amplitude",),
        n_crops=2,
        n_random=2,
        n_bootstrap=25,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, store, plan):
    path = tmp_path_factory.mktemp("assess") / "out"
    assess(store, path, {"mine": small_encoder(store)}, plan, parts=CHEAP, say=silent)
    return path


# -- the folder ------------------------------------------------------------------------------------


def test_an_assessment_is_read_back_whole(folder, store, plan):
    found = Assessment.load(folder)
    assert set(found.parts) == set(CHEAP)
    assert not found.why_not
    assert not list(folder.glob(".*")), "nothing half-made is left"
    assert found.settings["store"]["fingerprint"] == store.fingerprint
    assert set(found.comparison.scores["model"]) == {
        "mine",
        "random weights",
        "connectivity",
        "spectral connectivity",
        "network amplitude",
        "chance",
    }
    direct = evaluate_probes(
        store,
        {"mine": Embedder(small_encoder(store), n_crops=2)},
        plan.targets,
        design=plan.design,
    )
    ours = found.comparison.scores.query("model == 'mine'")["value"].to_numpy()
    theirs = direct.scores.query("model == 'mine'")["value"].to_numpy()
    np.testing.assert_array_equal(ours, theirs)


def test_draws_of_random_weights_and_runs_are_replicates(store, plan, tmp_path):
    """Their scores are averaged, and their spread is part of the tests."""
    runs = [small_encoder(store, seed) for seed in (1, 2, 3)]
    found = assess(store, tmp_path / "out", {"mine": runs}, plan, parts=(), say=silent).comparison
    n = found.predictions.groupby("model")["replicate"].nunique()
    assert n.to_dict() == {
        "mine": 3,
        "random weights": 2,
        "chance": 1,
        "connectivity": 1,
        "network amplitude": 1,
        "spectral connectivity": 1,
    }
    at = found.scores.query("metric == 'AUROC'").set_index("model")
    assert at["n_replicates"].to_dict() == n.to_dict()
    alone = [
        evaluate_probes(store, {"x": Embedder(one, n_crops=2)}, plan.targets, design=plan.design)
        for one in runs
    ]
    each = [r.scores.query("model == 'x' and metric == 'AUROC'")["value"].item() for r in alone]
    assert at.loc["mine", "value"] == pytest.approx(np.mean(each))
    random = np.load(tmp_path / "out" / "embeddings" / "random0-1.npz")["embeddings"]
    draw = Embedder(runs[0].with_random_weights(1), n_crops=2).fit_transform(store)
    np.testing.assert_array_equal(random, draw)


def test_what_a_model_adds_is_compared_with_the_baseline_alone(store, plan, tmp_path):
    asked = replace(plan, beside=("connectivity", "confounds"), n_random=1)
    models = {"mine": small_encoder(store)}
    found = assess(store, tmp_path / "out", models, asked, parts=(), say=silent)
    gaps = found.comparison.differences
    joint = gaps[gaps["model"].str.contains("+", regex=False)]
    assert set(zip(joint["model"], joint["against"], strict=True)) == {
        ("mine + connectivity", "connectivity"),
        ("mine + confounds", "confounds"),
    }
    text = methods_paragraph(found)
    assert "side by side with connectivity and confounds, both weighing the same" in text
    seen = found.comparison.meta["models"]
    assert seen["mine + confounds"]["pretrained"] == seen["mine"]["pretrained"]


@pytest.mark.parametrize("text", ["1", "2.5", "0%", "100%", "many", "", "25 %%"])
def test_sizes_of_samples_are_people_or_shares(text):
    assert _curve(["64", "25%", "2"]).n_subjects == (64, 0.25, 2)
    with pytest.raises(InputError, match="a number of people, or a share of the training part"):
        _curve([text])


def test_features_of_another_program_are_a_row(store, plan, tmp_path):
    """By recording or by person, in any order, next to rows of others."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((len(store), 5)).astype(np.float32)
    table = pd.DataFrame(X, columns=list("abcde")).assign(id=store.table["id"], session="1")
    more = table.iloc[:1].assign(id="sub-other")
    shuffled = pd.concat([table, more]).sample(frac=1, random_state=1)
    shuffled.to_parquet(tmp_path / "x.parquet", index=False)
    shuffled.to_csv(tmp_path / "x.csv", index=False)
    for file in ("x.parquet", "x.csv"):
        np.testing.assert_allclose(read_features(tmp_path / file, store), X, rtol=1e-6)
    people = table.drop(columns="id").assign(subject="sub-" + store.table["subject"])
    people = people.drop_duplicates("subject").iloc[::-1]
    people.to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    first = store.table["subject"].drop_duplicates().index
    of_person = store.table["subject"].map(
        dict(zip(store.table["subject"][first], first, strict=True))
    )
    found = read_features(tmp_path / "people.tsv", store)
    np.testing.assert_allclose(found, X[of_person], rtol=1e-6)

    result = assess(
        store, tmp_path / "out", {}, plan, features={"theirs": X}, parts=(), say=silent
    ).comparison
    direct = evaluate_probes(store, {"theirs": X}, plan.targets, design=plan.design)
    ours = result.scores.query("model == 'theirs'")["value"].to_numpy()
    np.testing.assert_array_equal(ours, direct.scores.query("model == 'theirs'")["value"])
    with pytest.raises(InputError, match="answers another question: features differ"):
        assess(store, tmp_path / "out", {}, plan, features={"theirs": X + 1}, say=silent)
    with pytest.raises(InputError, match="is the name of a control or a baseline"):
        assess(store, tmp_path / "new", {}, plan, features={"chance": X}, say=silent)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda t: t.drop(columns="id"), "must have a column id or subject"),
        (lambda t: t.iloc[2:], "id = '.*': has no row of 2 of the 13 in the store"),
        (lambda t: pd.concat([t, t.iloc[3:4]]), "id = '.*': must have one row each"),
        (lambda t: t.assign(b="x"), "b: must be finite numbers, not 'x'"),
        (lambda t: t.assign(c=t["c"].where(t["c"] > t["c"].min())), "c: must be finite numbers"),
        (lambda t: t[["id"]], "must have columns of features"),
    ],
)
def test_features_that_do_not_fit_are_refused(store, tmp_path, change, rule):
    X = np.random.default_rng(3).standard_normal((len(store), 3))
    table = pd.DataFrame(X, columns=list("abc")).assign(id=store.table["id"])
    change(table).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(InputError, match=rule):
        read_features(tmp_path / "x.csv", store)


def test_what_is_there_is_not_computed_again(folder, store, plan, monkeypatch, tmp_path):
    copy = tmp_path / "out"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "alarms")
    (copy / ".partial-1234abcd-alarms").mkdir()
    (copy / ".partial-1234abcd-alarms" / "half").touch()
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*.parquet")}

    def never(*_, **__):
        raise AssertionError("embedded again")

    monkeypatch.setattr(Embedder, "transform", never)
    said = []
    found = assess(store, copy, {"mine": small_encoder(store)}, plan, parts=CHEAP, say=said.append)
    assert "comparison: already computed" in said
    assert "alarms ..." in said
    assert "alarms" in found.parts
    assert not (copy / ".partial-1234abcd-alarms").exists()
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"seed": 1}, "seed"),
        ({"targets": (Target("age"),)}, "targets"),
        ({"design": LeaveOneSiteOut()}, "design"),
        ({"baselines": ()}, "baselines"),
        ({"curve": SmallSamples(n_subjects=(4,))}, "curve"),
    ],
)
def test_another_question_needs_another_folder(folder, store, plan, change, differs):
    with pytest.raises(InputError, match=rf"another question: {differs} differ"):
        assess(store, folder, {"mine": small_encoder(store)}, replace(plan, **change), say=silent)
    with pytest.raises(InputError, match="another question: models differ"):
        assess(store, folder, {"mine": small_encoder(store, 2)}, plan, say=silent)


@pytest.mark.parametrize("file", ["settings.json", "alarms/part.json", "reliability/icc.parquet"])
def test_a_damaged_file_is_named(folder, tmp_path, file):
    copy = tmp_path / "out"
    shutil.copytree(folder, copy)
    (copy / file).write_bytes((copy / file).read_bytes()[:40])
    with pytest.raises(InputError, match=f"{file.partition('/')[0]}.*is damaged"):
        Assessment.load(copy)


def test_a_question_that_was_never_answered_does_not_hold_the_folder(store, plan, tmp_path):
    out, encoders = tmp_path / "out", {"mine": small_encoder(store)}
    refused = replace(plan, design=GroupedKFold(n_folds=900))
    with pytest.raises(InputError, match="900"):
        assess(store, out, encoders, refused, parts=(), say=silent)
    found = assess(store, out, encoders, plan, parts=(), say=silent)
    assert found.settings["design"]["n_folds"] == 2
    (out / "settings.json").unlink()
    with pytest.raises(InputError, match="is not overwritten"):
        assess(store, out, encoders, plan, parts=(), say=silent)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"targets": (Target("sxe"),)}, "targets = 'sxe'"),
        ({"confounds": ("age", "motion")}, "confounds = 'motion'"),
        ({"harmonise": "scanners"}, "harmonise = 'scanners'"),
    ],
)
def test_columns_that_are_not_there_are_refused_at_the_door(store, plan, tmp_path, change, field):
    with pytest.raises(InputError, match=rf"{field}: the store has no such column"):
        assess(store, tmp_path / "out", {}, replace(plan, **change), say=silent)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["n_crops", "n_bootstrap"])
def test_a_plan_needs_targets_and_counts(plan, name):
    with pytest.raises(InputError, match=rf"{name} = 0: must be at least 1"):
        replace(plan, **{name: 0})
    with pytest.raises(InputError, match="targets: must name at least one column"):
        replace(plan, targets=())


def test_a_folder_of_something_else_stays_as_it_is(store, plan, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="is not overwritten"):
        assess(store, tmp_path, {}, plan, say=silent)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="is not a part of an evaluation"):
        assess(store, tmp_path / "x", {}, plan, parts=["everything"], say=silent)
    with pytest.raises(InputError, match="is the name of a control or a baseline"):
        assess(store, tmp_path / "x", {"connectivity": small_encoder(store)}, plan, say=silent)
    assert not (tmp_path / "x").exists()


def test_stored_embeddings_are_those_of_this_store_and_these_weights(store, tmp_path):
    file = tmp_path / "a" / "e.npz"
    encoder = small_encoder(store)
    plain = Embedder(encoder, n_crops=2)
    one = StoredEmbedder(plain, file, store.fingerprint).fit(store)
    assert not hasattr(plain, "encoder_"), "a parameter is not fitted"
    plain.fit(store)
    np.testing.assert_array_equal(one.transform(store), plain.transform(store))
    assert file.exists()
    np.testing.assert_array_equal(one.transform(store), plain.transform(store))
    part = store.select([4, 1])
    np.testing.assert_array_equal(one.transform(part), plain.transform(part))
    times = [pd.DataFrame({"id": store.table["id"], "onset": t, "duration": 48.0}) for t in (0, 6)]
    for trials in map(store.trials, times):  # of the same names, at other times
        held = StoredEmbedder(plain, tmp_path / "trials.npz", trials.fingerprint).fit(trials)
        np.testing.assert_array_equal(held.transform(trials), plain.transform(trials))
    other = small_encoder(store, seed=2)
    assert weights_hash(other) != weights_hash(encoder) == weights_hash(small_encoder(store))
    two = StoredEmbedder(Embedder(other, n_crops=2), file, store.fingerprint).fit(store)
    np.testing.assert_array_equal(
        two.transform(store), Embedder(other, n_crops=2).fit_transform(store)
    )


# -- the parts -------------------------------------------------------------------------------------


def test_what_a_store_cannot_answer_is_said_and_not_computed(recordings, parcellation, tmp_path):
    """No site, one TR, no motion: nothing to regress out, no subgroups, and no model to map."""
    bare = [replace(r, site=None, mean_fd=None, phenotypes={"sex": r.phenotypes["sex"]})
            for r in recordings[3:]]  # fmt: skip
    store = write_store(tmp_path / "s", bare, parcellation, Preprocessing(tr=2.0))
    plan = Plan(
        targets=(Target("sex"),),
        design=GroupedKFold(n_folds=2),
        n_bootstrap=10,
    )
    parts = ("subgroups", "confounds", "adjusted", "maps", "importance", "reliability")
    found = assess(store, tmp_path / "out", {}, plan, parts=parts, say=silent)
    assert set(found.why_not) == {"subgroups", "confounds", "adjusted", "maps", "importance"}
    assert "no site, TR or motion" in found.why_not["subgroups"]
    assert "no confound is known" in found.why_not["adjusted"]
    assert "no model was given" in found.why_not["importance"]
    assert found.parts["reliability"].facts["of"] == "halves"
    section = evaluation_section("out", found)
    assert section["why_not"] == found.why_not
    write_report(tmp_path / "r.html", results=[tmp_path / "out"])
    assert "no model was given" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_the_parts_are_the_files_of_their_folder():
    files = {f.stem for f in Path(parts.__file__).parent.glob("*.py")}
    assert {*PARTS} == files - {"__init__", "base", "section", "table"}


@pytest.mark.parametrize("name", PARTS)
def test_every_part_has_help_and_a_question(name):
    part = PARTS[name]
    assert part.help.endswith(".")
    assert len(part.help) < 80
    assert isinstance(part.load(), Question)


def test_parts_are_chosen_by_name():
    assert chosen_parts() == tuple(PARTS)
    assert chosen_parts(("maps", "alarms")) == ("alarms", "maps"), "in the order of the table"
    assert chosen_parts(("maps", "alarms"), ("maps",)) == ("alarms",)
    assert chosen_parts(()) == ()
    for names in (["mapps"], None):
        with pytest.raises(InputError, match=r"parts = 'mapps'.*Did you mean 'maps'"):
            chosen_parts(names, ["mapps"])


def test_a_new_part_and_a_new_baseline_are_forgotten_nowhere(store, plan, tmp_path, monkeypatch):
    def show(_):
        columns = [Column("who"), Column("how many", "number", "d")]
        return Section("Head count", [Table(columns=columns, rows=[["<all>", 13]], caption="c")])

    question = Question(
        compute=lambda work: Found(facts={"n": len(work.store)}),
        sentence=lambda found: f"We counted {found.facts['n']} recordings.",
        show=show,
        notes=lambda found: [("Counted", [f"{found.facts['n']} in all"])],
    )
    monkeypatch.setitem(PARTS, "count", Part(help="Count.", load=lambda: question))
    extra = Baseline(
        option="means",
        help="Means.",
        methods="means of networks",
        reference="Nobody, 1999",
        make=AmplitudeBaseline,
    )
    monkeypatch.setitem(BASELINES, "mean signal", extra)
    asked = replace(plan, baselines=("mean signal",))
    lines = []
    found = assess(store, tmp_path / "o", {}, asked, parts=("count",), say=lines.append)
    assert "count ..." in lines
    assert found.parts["count"].facts["n"] == 13
    assert "mean signal" in set(found.comparison.scores["model"])
    methods = methods_paragraph(found)
    assert "We counted 13 recordings." in methods
    assert "means of networks (Nobody, 1999)" in methods
    write_report(tmp_path / "r.html", results=[tmp_path / "o"])
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    for text in (
        "<h3>Head count</h3>",
        "&lt;all&gt;",
        '<td class="number">13</td>',
        escape(methods),
    ):
        assert text in page
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(assessment_summary(found))
    assert "13 in all" in console.export_text()


def test_a_new_part_is_a_choice_of_the_command_line():
    code = (
        "from semantoks.assess.parts.table import PARTS, Part; "
        "PARTS['count'] = Part(help='Count.', load=dict); "
        "from semantoks.commands.main import app; app(['evaluate', '--help'])"
    )
    wide = os.environ | {"COLUMNS": "300"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=wide
    )
    assert " ".join(done.stdout.split()).count("importance, count") == 2, "--only and --skip"


def test_a_confound_with_too_few_people_does_not_hide_the_rest(folder):
    found = Assessment.load(folder).parts["confounds"]
    assert "readable" not in found.tables, "three sites of three or four people"
    assert "fewer than 2 classes of at least 5 subjects" in found.facts["left_out"]["site"]
    assert set(found.tables["associations"]["confound"]) == {"site", "mean_fd"}


def test_people_who_come_twice_at_different_sites_are_compared_over_halves(folder):
    found = Assessment.load(folder).parts["reliability"]
    assert (found.facts["of"], found.facts["n_subjects"]) == ("halves", 10)
    assert (found.facts["n_sites"], found.facts["n_left_out"]) == (3, 0)
    assert found.facts["models"] == ["mine", "random weights", "connectivity"]
    assert found.tables["similarity2"].shape == (10, 10)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Every third of the real people of the shipped ABIDE sample, in a store."""
    data = DATASETS["abide-sample"]
    from semantoks.atlas.parcellation import Parcellation

    chosen = list(data.load())[::3]
    path = tmp_path_factory.mktemp("sample") / "abide"
    return write_store(path, chosen, Parcellation.load(data.parcellation), Preprocessing())


def test_cleaned_models_are_compared_with_themselves_alone(sample, tmp_path):
    plan = Plan(
        targets=(Target("diagnosis"), Target("age")),
        design=GroupedKFold(n_folds=3),
        n_bootstrap=30,
        keep=("age", "sex"),
    )
    assert confound_columns(sample) == ("age", "sex", "site", "mean_fd")
    found = assess(sample, tmp_path / "o", {}, plan, parts=("adjusted", "alarms"), say=silent)
    part, name = found.parts["adjusted"], "ComBat over site, keeping age and sex"
    assert part.facts["variants"] == ["confounds regressed out", name]
    assert part.facts["confounds"] == ["age", "sex", "site", "mean_fd"]
    assert not part.facts["left_out"]
    gaps = part.tables["differences"]
    assert set(zip(gaps["model"], gaps["against"], strict=True)) == {
        ("connectivity", "connectivity")
    }
    tested = gaps[gaps["p_value"].notna()]
    assert len(tested) == 2 * 2, "two targets, two ways of cleaning"
    # Holm over exactly these: the smallest of four p-values is multiplied by four.
    smallest = tested["p_value"].min()
    assert tested["p_holm"].min() == pytest.approx(min(4 * smallest, 1.0))
    plain = found.comparison.scores.query("model == 'connectivity'")
    as_they_are = part.tables["scores"].query("not cleaned and variant == @name")
    cleaned = part.tables["scores"].query("cleaned and variant == @name")["value"].to_numpy()
    own = {"c": Harmonised(ConnectivityBaseline(), keep=("age", "sex"), unseen="adapt")}
    direct = evaluate_probes(sample, own, plan.targets, design=plan.design)
    np.testing.assert_allclose(cleaned, direct.scores.query("model == 'c'")["value"], rtol=1e-6)
    np.testing.assert_allclose(plain["value"], as_they_are["value"])
    kinds = {alarm["what"].split(":")[0] for alarm in found.parts["alarms"].facts["alarms"]}
    assert "age follows site" in kinds, "this is so in ABIDE"


def test_a_leak_is_named_in_the_folder_and_counted_on_the_page(store, plan, tmp_path):
    encoder = small_encoder(store)
    seen = store.select(store.table["subject"].isin(["p03", "p05"]).to_numpy())
    encoder.pretraining = SeenData.of(seen)
    assess(store, tmp_path / "o", {"mine": encoder}, plan, parts=("alarms",), say=silent)
    alarms = json.loads((tmp_path / "o" / "alarms" / "part.json").read_text())["alarms"]
    leak = next(a for a in alarms if a["severity"] == "leak")
    assert leak["found"] == ["p03", "p05"]
    write_report(tmp_path / "r.html", results=[tmp_path / "o"])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert '<li class="leak">' in text
    assert "2 named in alarms/part.json" in text
    assert not re.search(r"p0\d", re.sub(r'src="[^"]*"', "", text)), "subjects are not named"


# -- fine-tuning -----------------------------------------------------------------------------------


class Killed(Exception):
    pass


def test_a_killed_evaluation_goes_on_in_the_middle_of_a_fold(store, plan, tmp_path, monkeypatch):
    tuning = Tuning(epochs=3, batch_size=4, lr=1e-2)
    tuned = replace(plan, finetune=("full", "lora"), tuning=tuning, baselines=())
    models = {"mine": small_encoder(store)}
    whole = assess(store, tmp_path / "whole", models, tuned, parts=(), say=silent)
    epochs = 2 * 2 * 3  # ways, folds, epochs

    done, plain = [], FineTuned._epoch
    kill_at = 4

    def counted(self, *arguments):
        if len(done) == kill_at:
            raise Killed
        done.append(1)
        return plain(self, *arguments)

    monkeypatch.setattr(FineTuned, "_epoch", counted)
    with pytest.raises(Killed):
        assess(store, tmp_path / "o", models, tuned, parts=(), say=silent)
    kept = tmp_path / "o" / "tuning"
    assert sorted(f.suffix for f in kept.iterdir()) == [".npz", ".safetensors"]
    kill_at = -1
    found = assess(store, tmp_path / "o", models, tuned, parts=(), say=silent)
    assert len(done) == epochs, "no epoch twice"
    assert {f.suffix for f in kept.iterdir()} == {".npz"}, "weights of folds are not kept"
    pd.testing.assert_frame_equal(found.comparison.predictions, whole.comparison.predictions)
    pd.testing.assert_frame_equal(found.comparison.scores, whole.comparison.scores)
    pd.testing.assert_frame_equal(found.comparison.differences, whole.comparison.differences)

    scores = found.comparison.scores
    assert {"mine", "mine (full)", "mine (lora)"} < set(scores["model"])
    tests = found.comparison.differences.query("verdict != ''")
    assert set(tests.query("model == 'mine (lora)'")["against"]) == {
        "connectivity",
        "random weights",
        "spectral connectivity",
    }
    alone = evaluate_probes(
        store,
        {"a": make_tuner("classification", small_encoder(store), "lora", tuning, n_crops=2,
                         class_weight="balanced", seed=0, device="cpu")},
        plan.targets,
        design=plan.design,
    )  # fmt: skip
    ours = found.comparison.arrays("sex", ["mine (lora)"])[1]
    np.testing.assert_array_equal(ours, alone.arrays("sex", ["a"])[1])

    for change in (
        {"finetune": ("full",)},
        {"tuning": Tuning(epochs=3, lr=1e-2)},
        {"finetune": ()},
    ):
        with pytest.raises(InputError, match=r"another question: (finetune|tuning)"):
            assess(store, tmp_path / "o", models, replace(tuned, **change), parts=(), say=silent)


def test_fine_tuning_is_said_in_the_methods_and_on_the_page(store, plan, tmp_path):
    tuning = Tuning(epochs=2, batch_size=7, patience=1, lora_rank=3, frozen_epochs=1)
    ways = ("frozen-then-full", "lora")
    tuned = replace(
        plan, finetune=ways, tuning=tuning, baselines=(), targets=(Target("sex"), Target("age"))
    )
    models = {"a": small_encoder(store), "b": small_encoder(store, 2)}
    found = assess(store, tmp_path / "o", models, tuned, parts=("subgroups", "alarms"), say=silent)
    assert found.settings["finetune"] == [*ways]
    assert found.settings["tuning"]["lora_rank"] == 3
    text = methods_paragraph(found)
    for part in (
        "Frozen embeddings of a (pretraining data not stated) and b (",
        "the head alone for 1 epochs, then all its weights in a (frozen-then-full) and b (frozen",
        "(rank 3, alpha 16; Hu et al., 2022) and the head in a (lora) and b (lora): AdamW",
        "AdamW, learning rate 0.0001 falling along a cosine",
        "2 epochs and by a factor of 0.9 from layer to layer, batches of 7",
        "cross-entropy with balanced class weights for classes and an L1 loss for numbers",
        "stopped after 1 epochs without a smaller loss on people held out of the training part (20",
    ):
        assert part in text, part
    assert text.count("AdamW") == 1
    section = evaluation_section("o", found)
    assert "and fine-tuned models are fitted" in section["design"]
    claims = {v.claim + v.rest for v in section["answers"][0]["verdicts"]}
    against = next(c for c in claims if "random weights (b)." in c)
    assert "b (lora)" in against
    assert "a (lora)" not in against
    write_report(tmp_path / "r.html", results=[tmp_path / "o"])
    assert "a (frozen-then-full)" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_what_cannot_be_fine_tuned_is_refused_before_anything_is_written(store, plan, tmp_path):
    encoder = small_encoder(store)
    for models, change, message in (
        ({}, {"finetune": ("lora",)}, "there is no model to fine-tune"),
        ({"a": encoder}, {"finetune": ("all",)}, "must be one of full"),
        (
            {"a": encoder, "a (head)": encoder},
            {"finetune": ("head",)},
            "is the name of a fine-tuned",
        ),
        ({"a": encoder}, {"finetune": ("frozen-then-full",), "tuning": Tuning(epochs=5)}, "fewer"),
    ):
        with pytest.raises(InputError, match=message):
            assess(store, tmp_path / "o", models, replace(plan, **change), say=silent)
    assert not (tmp_path / "o").exists()
    assert "finetune" not in plan.settings(), "older folders can be gone on with"


def test_the_people_tested_are_described_site_by_site(recordings, parcellation, tmp_path):
    """Two recordings of a person count once; what is unknown is counted."""
    changed = [
        replace(r, site=None if r.site == "east" else r.site,
                phenotypes={**r.phenotypes, "age": None if r.subject == "p01" else 20.0 + i})
        for i, r in enumerate(recordings)
    ]  # fmt: skip
    store = write_store(tmp_path / "s", changed, parcellation, Preprocessing(tr=2.0))
    plan = Plan(targets=(Target("sex"),), design=GroupedKFold(n_folds=2))
    found = assess(store, tmp_path / "o", {}, plan, parts=("cohort",), say=silent)
    people = found.parts["cohort"].tables["people"].set_index("site")
    table = store.table.groupby("subject").agg({"sex": "first", "site": "first", "age": "mean"})
    assert people.loc["all", "people"] == len(table) == people["people"][:-1].sum()
    assert people.loc["not stated", "people"] == table["site"].isna().sum() > 0
    counts = table["sex"].value_counts()
    assert people.loc["all", "sex"] == f"female {counts['female']}, male {counts['male']}"
    mean, sd = table["age"].mean(), table["age"].std()
    n = table["age"].isna().sum()
    assert people.loc["all", "age"] == f"{mean:.3g} ({sd:.2g}); {n} unknown"
    assert f"We tested {len(table)} people at 3 sites (age {mean:.3g} (" in methods_paragraph(found)


# -- names and words -------------------------------------------------------------------------------


def test_the_methods_say_what_was_run(folder):
    found = Assessment.load(folder)
    text = methods_paragraph(found)
    for part in (
        "13 recordings of 10 people",
        "parcellation toy11",
        "0.01 to 0.1 Hz",
        "We predicted sex (classification; tested: ",
        "the same architecture with random weights (2 draws, whose mean is scored; seed 0)",
        "functional connectivity (Fisher-z",
        "the amplitude of fluctuations",
        "2 folds over subjects",
        "seed 0",
        "ridge regression on class signs, in which people weigh the same",
        "chosen by the squared error of people left out within the training part (in at most 20",
        "From the same left-out people came the calibration of probabilities (Platt, 1999) and",
        "95 % intervals from a jackknife over 10 people",
        "with chance by AUROC of sex with two-sided t tests",
        "Holm, 1979",
        "(10 s between them) of 10 people at 3 sites",
        "scikit-learn",
        "torch",
    ):
        assert part in text, part
    for absent in ("ridge regression for numbers", "motion spikes", "regressed out", "  ", "None"):
        assert absent not in text, absent
    assert methods_paragraph(replace(found, parts={})).count("Reliability") == 0
    for name in found.parts:
        assert PARTS[name].load().sentence(found.parts[name]) in text


def test_a_small_sample_curve_is_drawn(store, plan, tmp_path):
    plan = replace(plan, curve=SmallSamples(n_subjects=(4,), n_draws=2), baselines=())
    found = assess(store, tmp_path / "o", {}, plan, parts=(), say=silent)
    blocks = evaluation_section("o", found)["details"][0].blocks
    alts = [
        picture.alt for block in blocks if block.block == "pictures" for picture in block.pictures
    ]
    assert any("number of training subjects" in alt for alt in alts)


def test_a_plain_result_is_shown_too(store, tmp_path):
    result = evaluate_probes(
        store,
        {"features": np.random.default_rng(0).standard_normal((13, 4)).astype(np.float32)},
        ["sex"],
        design=GroupedKFold(n_folds=2),
    )
    result.save(tmp_path / "result")
    write_report(tmp_path / "r.html", results=[tmp_path / "result"])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Methods paragraph" in text
    assert "features" in text


# -- a browser -------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_opens_the_page_without_an_error(folder, tmp_path):
    page, shot = tmp_path / "r.html", tmp_path / "shot.png"
    write_report(page, results=[folder])
    probe = tmp_path / "broken.html"
    probe.write_text("<script>console.error('seen')</script>")

    def console(file):
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
        ]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1100,3000"]
        command += [f"--screenshot={shot}", file.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        return [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    assert any("seen" in line for line in console(probe)), "errors would be seen"
    assert console(page) == []
    assert shot.stat().st_size > 20_000

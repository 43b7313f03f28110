"""The command line as a user meets it: every command on real and on bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from semantoks.atlas.parcellation import Parcellation
from semantoks.commands import main
from semantoks.data.reader import RecordingStore
from semantoks.data.sources import table as table_module


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command; return exit code and everything that was printed."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["semantoks", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "1000")
        with pytest.raises(SystemExit) as done:
            main.main()
        captured = capsys.readouterr()
        return done.value.code or 0, captured.out + captured.err

    return call


@pytest.fixture
def table(tmp_path, recordings, parcellation):
    """A table of .tsv files with ROI names, and an atlas of one's own."""
    parcellation.save(tmp_path / "atlas.tsv")
    rows = []
    for i, r in enumerate(recordings):
        frame = pd.DataFrame(r.signal, columns=list(r.roi_names))
        frame.to_csv(tmp_path / f"r{i}.tsv", sep="\t", index=False)
        row = {"file": f"r{i}.tsv", "subject": r.subject, "session": r.session, "site": r.site}
        rows.append(row | {"tr": r.tr, **r.phenotypes})
    pd.DataFrame(rows).to_csv(tmp_path / "table.tsv", sep="\t", index=False)
    return tmp_path / "table.tsv"


TINY = [
    *("encoder.width=16", "encoder.depth=1", "encoder.head_width=8"),
    *("encoder.patch_length=6", "encoder.n_patches=4"),
    *("optim.epochs=2", "optim.warmup_epochs=0", "optim.batch_size=5"),
    *("objective.projection_hidden=9", "objective.projection_width=7", "train.device=cpu"),
]


def skip(*parts):
    return [word for part in parts for word in ("--skip", part)]


def test_the_whole_way(run, table, tmp_path):
    store, model = tmp_path / "store", tmp_path / "run"
    code, text = run("prepare", table, store, "--atlas", tmp_path / "atlas.tsv")
    assert (code, "13" in text) == (0, True), text
    code, text = run("info", store)
    assert code == 0
    assert "atlas" in text

    code, text = run("pretrain", model, "--preset", "tiny", "--store", store, *TINY)
    assert code == 0, text
    assert "step 4/4" in text
    assert "effective rank" in text
    code, text = run("info", model)
    assert (code, "4 of 4" in text) == (0, True), text
    code, text = run("pretrain", model, "--preset", "tiny", "--store", store, *TINY)
    assert (code, "already holds a run" in text) == (2, True)
    code, text = run("pretrain", model, "--resume")
    assert (code, "Trained 4 steps" in text) == (0, True), text

    code, text = run("embed", model, store, tmp_path / "e.tsv")
    assert code == 0, text
    embeddings = pd.read_csv(tmp_path / "e.tsv", sep="\t")
    assert embeddings.shape == (13, 4 + 32)
    assert embeddings["id"][1] == "sub-p00_ses-2"
    code, text = run("embed", model, store, tmp_path / "e.tsv")
    assert (code, "is not overwritten" in text) == (2, True)
    code, text = run("embed", model, store, tmp_path / "e.xlsx")
    assert (code, ".parquet, .csv, .tsv" in text) == (2, True)

    targets = ["--target", "sex", "--target", "age:regression"]
    quick = ["--n-bootstrap", "20", "--crops", "2"]
    quick += skip("adjusted", "corruption", "importance", "reliability")
    arguments = ["--model", model, *targets, "--groups", "site", "--baseline", "amplitude", *quick]
    code, text = run("evaluate", store, tmp_path / "r", *arguments)
    assert code == 0, text
    words = ["AUROC", "random weights", "connectivity", "chance", "MAE gain"]
    for word in (*words, "network amplitude", "No verdict", "Report: "):
        assert word in text
    assert (tmp_path / "r" / "report.html").stat().st_size > 50_000
    assert not (tmp_path / "r" / "corruption").exists()
    assert "of a tested recording and one of the pretraining store are one scan" in text
    code, text = run("evaluate", store, tmp_path / "r", *arguments)
    assert (code, "comparison: already computed" in text) == (0, True), text
    code, text = run("evaluate", store, tmp_path / "r", *arguments, "--seed", "1")
    assert (code, "answers another question: seed differ" in text) == (2, True), text
    both = ["--model", model, "--model", tmp_path / "x" / model.name]
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / model.name).symlink_to(model)
    code, text = run("evaluate", store, tmp_path / "r2", *both, *targets)
    assert (code, "has the same name" in text) == (2, True), text
    (tmp_path / "x" / model.name).rename(tmp_path / "x" / "other")
    both[-1] = tmp_path / "x" / "other"
    code, text = run(
        *("evaluate", store, tmp_path / "r2", *both, *targets[:2], "--drop-missing", *quick),
        *skip("alarms", "confounds", "subgroups", "maps"),
    )
    assert code == 0, text
    differences = pd.read_parquet(tmp_path / "r2" / "comparison" / "differences.parquet")
    controls = {
        "connectivity",
        "spectral connectivity",
        "random weights (run)",
        "random weights (other)",
    }
    assert set(differences["against"]) == controls
    only = ["--only", "alarms", "--pretraining-store", store]
    code, text = run("evaluate", store, tmp_path / "r5", "--target", "sex", *quick[:6], *only)
    assert (code, "one of the pretraining store are one scan" in text) == (0, True), text
    code, text = run("evaluate", store, tmp_path / "r3", "--target", "sex", *quick)
    assert (code, "random weights" in text, "connectivity" in text) == (0, False, True), text
    ways = ["--finetune", "lora", "--finetune", "head", "--finetune-option", "epochs=2"]
    code, text = run(
        *("evaluate", store, tmp_path / "r4", "--model", model, *targets, *ways, *quick),
        *("--folds", "2", *skip("subgroups", "confounds", "alarms", "maps")),
    )
    assert (code, "run (lora)" in text, "run (head)" in text) == (0, True, True), text
    settings = json.loads((tmp_path / "r4" / "settings.json").read_text())
    assert (settings["finetune"], settings["tuning"]["epochs"]) == (["lora", "head"], 2)
    code, text = run("paper-probe", store, model, "--target", "sex", "--repetitions", "2")
    assert (code, "over 2 splits" in text) == (0, True), text
    page = tmp_path / "report.html"
    code, text = run("report", page, "--run", model, "--result", tmp_path / "r", "--store", store)
    assert (code, page.stat().st_size > 50_000) == (0, True)


@pytest.mark.clone
def test_a_shipped_sample_is_prepared_and_described(run, tmp_path):
    code, text = run("prepare", "abide-sample", tmp_path / "s", "--tr", "3")
    assert code == 0, text
    header = json.loads((tmp_path / "s" / "store.json").read_text())
    assert (header["n_recordings"], header["tr"]) == (202, 3.0)
    assert (tmp_path / "s" / "quality.html").is_file()
    code, text = run("check", tmp_path / "s")
    assert (code, "every file is as it was written" in text) == (0, True), text
    (tmp_path / "s" / "notes.txt").touch()
    code, text = run("check", tmp_path / "s")
    assert (code, "s: has 1 problem. " in text) == (2, True), text
    code, text = run("prepare", "abide-sample", tmp_path / "t", "--atlas", "aal116")
    assert (code, "abide-sample is in cc200" in text) == (2, True)
    code, text = run("prepare", "abide-simple", tmp_path / "t")
    assert (code, "Did you mean 'abide-sample'?" in text) == (2, True)


def test_config_prints_every_key_with_its_meaning(run, tmp_path):
    code, text = run("config")
    assert code == 0
    for part in ("optim.base_lr", "0.0007", "Peak learning rate", "views.masks.kind"):
        assert part in text
    code, text = run("config", "--preset", "small", "--yaml")
    (tmp_path / "run.yaml").write_text(text)
    code, text = run("pretrain", tmp_path / "r", "--config", tmp_path / "run.yaml")
    assert (code, "data.store = '': names no recording store" in text) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "r", "optim.epoch=3"], "unknown key optim.epoch. Did you mean 'epochs'?"),
        (["pretrain", "r", "--store", "nowhere"], "nowhere"),
        (["pretrain", "r", "--config", "no.yaml"], "no.yaml: cannot be read"),
        (["info", "nowhere"], "must be a store, a run, a model or a parcellation"),
        (["report", "x.html"], "there is nothing to report"),
        (["evaluate", "nowhere", "x", "--target", "sex"], "nowhere"),
        (["evaluate", "s", "x", "--target", "sex:numbers"], "column:classification"),
        (["evaluate", "s", "x", "--target", "sex", "--test-site", "a"], "Group by site"),
        (
            ["evaluate", "s", "x", "--target", "sex", "--finetune-option", "epoch=3"],
            "unknown key epoch. Did you mean 'epochs'?",
        ),
        (["evaluate", "s", "x", "--target", "sex", "--finetune-option", "epochs=0"], "at least 1"),
        (["embed", "nowhere", "nowhere", "x.parquet"], "nowhere"),
        (["prepare", "nowhere.tsv", "x"], "is neither a file or folder nor a sample"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, text = run(*arguments)
    assert code == 2
    assert message in text
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_convert_there_and_back(run, table, tmp_path):
    golden = Path(__file__).parent / "golden" / "reference_tiny.pth"
    ours, theirs = tmp_path / "ours", tmp_path / "theirs.pth"
    assert run("convert", golden, ours)[0] == 0
    assert run("convert", ours, theirs)[0] == 0
    for model in (golden, ours, theirs):
        code, text = run("info", model)
        assert (code, "semantoks457, 457 ROIs" in text) == (0, True), text
    code, text = run("convert", ours, theirs)
    assert (code, "theirs.pth" in text) == (2, True)
    code, text = run("convert", table, tmp_path / "x.pth")
    assert code == 2
    assert "Traceback" not in text


def test_info_knows_the_parcellations(run):
    for name in Parcellation.available():
        code, text = run("info", name)
        assert code == 0
        assert str(len(Parcellation.load(name))) in text


# -- bad input -------------------------------------------------------------------------------------


def rewrite(table, row, change):
    """Change the signal of one file."""
    frame = pd.read_csv(table, sep="\t")
    file = table.parent / frame["file"][row]
    change(pd.read_csv(file, sep="\t")).to_csv(file, sep="\t", index=False)


def prepare_fails(run, table, *extra):
    store = table.parent / "store"
    code, text = run("prepare", table, store, "--atlas", table.parent / "atlas.tsv", *extra)
    assert code == 2, text
    assert "Traceback" not in text
    assert not store.exists()
    return text


def prepare_leaves_one_out(run, table):
    """Prepare a table with one bad recording: 12 of 13 are stored, and the reason is reported."""
    store = table.parent / "store"
    code, text = run("prepare", table, store, "--atlas", table.parent / "atlas.tsv")
    assert code == 3, text
    assert "13 recordings: 12 stored, 0 excluded, 1 failed" in text
    assert len(RecordingStore(store)) == 12
    shutil.rmtree(store)
    return text


def test_wrong_roi_count(run, table):
    rewrite(table, 3, lambda f: f.iloc[:, :-1])
    text = prepare_leaves_one_out(run, table)
    assert "r3.tsv" in text
    assert "has 10 ROIs where atlas has 11" in text


def test_nan_and_zero_variance_are_named(run, table):
    name = pd.read_csv(table.parent / "r4.tsv", sep="\t").columns[6]
    rewrite(table, 4, lambda f: f.assign(**{name: 5.0}))
    text = prepare_leaves_one_out(run, table)
    assert "r4.tsv" in text
    assert name in text
    rewrite(table, 4, lambda f: f.assign(**{name: np.where(f.index == 3, np.nan, f.index**2)}))
    text = prepare_leaves_one_out(run, table)
    assert name in text
    assert "not finite" in text


def test_tr_missing_or_in_milliseconds(run, table):
    rows = pd.read_csv(table, sep="\t")
    rows.drop(columns="tr").to_csv(table, sep="\t", index=False)
    assert "the TR is missing" in prepare_fails(run, table)
    text = prepare_fails(run, table, "--source-tr", "2000")
    assert "milliseconds" in text
    code, _ = run(
        *("prepare", table, table.parent / "s", "--atlas", table.parent / "atlas.tsv"),
        *("--source-tr", "2"),
    )
    assert code == 0


def test_a_repaired_recording_is_read_and_the_others_are_not_again(run, table, monkeypatch):
    rewrite(table, 3, lambda f: f.iloc[:, :-1])
    whole = (table.parent / "r2.tsv").read_text()
    text = prepare_leaves_one_out(run, table)
    assert "only what changed is read again" in text
    (table.parent / "r3.tsv").write_text(whole)
    read = []
    real = table_module.load_listed

    def load(files, *rest):
        read.extend(file.name for file in files)
        return real(files, *rest)

    monkeypatch.setattr(table_module, "load_listed", load)
    store = table.parent / "store"
    code, text = run("prepare", table, store, "--atlas", table.parent / "atlas.tsv")
    assert (code, read) == (0, ["r3.tsv"])
    assert "13 stored" in text
    assert not (table.parent / "store.partial").exists()


def test_a_recording_shorter_than_one_patch(run, table):
    rewrite(table, 5, lambda f: f.iloc[:12])
    text = prepare_leaves_one_out(run, table)
    assert "r5.tsv" in text
    assert "is shorter than 20 time points" in text


def test_a_17_network_order_is_put_in_order_by_name_and_numbers_are_refused(run, tmp_path):
    atlas = Parcellation.load("schaefer400")
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((60, 400))
    place = rng.permutation(400)
    seventeen = [next(a for a in names if "17Networks" in a) for names in atlas.aliases]
    files = {
        "seven.tsv": (signal, atlas.labels),
        "seventeen.tsv": (signal[:, place], [seventeen[i] for i in place]),
        "numbers.tsv": (signal, [str(i) for i in range(1, 401)]),
    }
    for name, (values, columns) in files.items():
        pd.DataFrame(values, columns=list(columns)).to_csv(tmp_path / name, sep="\t", index=False)
    for name in files:
        table = tmp_path / f"table-{name}"
        table.write_text(f"file\tsubject\ttr\n{name}\tp\t2.0\n")
        code, text = run("prepare", table, tmp_path / f"store-{name}", "--atlas", "schaefer400")
        if name == "numbers.tsv":
            assert code == 2
            assert "an order is never guessed" in text
        else:
            assert code == 0, text
    one, two = (
        np.load(tmp_path / f"store-{name}" / "signals-00000.npy")
        for name in ("seven.tsv", "seventeen.tsv")
    )
    np.testing.assert_array_equal(one, two)


def test_the_same_subject_with_two_labels(run, table):
    rows = pd.read_csv(table, sep="\t")
    rows.loc[1, "sex"] = "male"
    rows.to_csv(table, sep="\t", index=False)
    code, text = run(
        "prepare", table, table.parent / "store", "--atlas", table.parent / "atlas.tsv"
    )
    assert code == 3, text
    assert "13 recordings: 11 stored, 0 excluded, 2 failed" in text
    assert "sex: subject 'p00' has several: 'female' (sub-p00_ses-1), 'male'" in text


def test_stores_of_the_future_and_halves_of_stores(run, table, tmp_path):
    store = tmp_path / "store"
    assert run("prepare", table, store, "--atlas", tmp_path / "atlas.tsv")[0] == 0
    header = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps(header | {"format_version": 99}))
    code, text = run("info", store)
    assert (code, "newer" in text) == (2, True)
    (store / "store.json").unlink()
    code, text = run("info", store)
    assert (code, "half-written" in text) == (2, True), text
    code, text = run("prepare", table, store, "--atlas", tmp_path / "atlas.tsv")
    assert (code, "is not overwritten" in text) == (2, True)


def test_help_names_every_command():
    result = CliRunner().invoke(main.app, ["--help"])
    for command in ("prepare", "pretrain", "embed", "evaluate", "report", "config", "info", "demo"):
        assert command in result.output
    shown = CliRunner().invoke(main.app, ["--version"]).output
    assert shown.split()[:2] == ["semantoks", "0.1.0"]
    facts = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert facts["torch"] == torch.__version__
    assert facts["device"].startswith(("cpu", "cuda"))
    assert facts["weights"].startswith("connectome-base (12.6 MB")

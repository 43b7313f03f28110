"""What every command shares: JSON, exit codes, messages, suggestions, completion, late imports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from semantoks.atlas.parcellation import Parcellation
from semantoks.commands import main, output
from semantoks.data.store import write_store
from semantoks.errors import InputError, SemantoksError, listed
from semantoks.workflow import describe

GOLDEN = Path(__file__).parent / "golden" / "reference_tiny.pth"
SHELLS = ("bash", "zsh", "fish")
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture
def run(monkeypatch):
    """Run a command in a terminal of 80 columns; the result has stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(output, "get_terminal_size", shutil.get_terminal_size)

    def call(*arguments):
        return CliRunner().invoke(main.app, [*map(str, arguments)], prog_name="semantoks")

    return call


@pytest.fixture
def table(tmp_path, recordings, parcellation):
    """Three recordings as files, named by a table; and their atlas."""
    parcellation.save(tmp_path / "atlas.tsv")
    rows = []
    for i, r in enumerate(recordings[:3]):
        frame = pd.DataFrame(r.signal, columns=list(r.roi_names))
        frame.to_csv(tmp_path / f"r{i}.tsv", sep="\t", index=False)
        rows.append({"file": f"r{i}.tsv", "subject": r.subject, "session": r.session, "tr": r.tr})
    pd.DataFrame(rows).to_csv(tmp_path / "table.tsv", sep="\t", index=False)
    return tmp_path / "table.tsv"


def reported(done, code=0):
    """Return the one JSON document that is all of stdout."""
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_json_stands_alone_on_stdout(run, store_path, table, tmp_path):
    assert reported(run("info", store_path, "--json"))["n_recordings"] == 13
    assert reported(run("info", "schaefer100", "--json"))["n_rois"] == 100
    assert reported(run("check", store_path, "--json"))["problems"] == []
    keys = reported(run("config", "--preset", "tiny", "--json"))
    assert keys["optim.epochs"].keys() == {"value", "type", "meaning"}
    ours = tmp_path / "ours"
    assert reported(run("convert", GOLDEN, ours, "--json")) == {"written": str(ours)}
    atlas = tmp_path / "atlas.tsv"
    made = reported(run("prepare", table, tmp_path / "s", "--atlas", atlas, "--json"))
    assert (made["finished"], made["stored"], len(made["recordings"])) == (True, 3, 3)
    shared = reported(run("strip", store_path, tmp_path / "shared", "--json"))
    assert shared["n_recordings"] == 13
    for shell in SHELLS:
        assert reported(run("completion", shell, "--json"))["shell"] == shell


def test_json_of_embeddings_and_of_an_evaluation(run, store_path, tiny_run, tmp_path):
    from semantoks.train.trainer import Trainer

    Trainer(tiny_run(), tmp_path / "run").fit()
    out = tmp_path / "e.tsv"
    facts = reported(run("embed", tmp_path / "run", store_path, out, "--crops", "2", "--json"))
    assert facts == {"table": str(out), "n_recordings": 13, "shard": None, "finished": True}
    few = ("--folds", "2", "--only", "alarms", "--n-bootstrap", "20")
    arguments = ("evaluate", store_path, tmp_path / "r", "--target", "sex", *few)
    facts = reported(run(*arguments, "--json"))
    assert facts["parts"] == ["alarms"]
    assert {row["target"] for row in facts["scores"]} == {"sex"}
    assert facts["report"] == str(tmp_path / "r" / "report.html")


def test_json_is_whole_where_the_command_fails(run, store_path, table, tmp_path):
    damaged = shutil.copytree(store_path, tmp_path / "damaged")
    (damaged / "rois.tsv").unlink()
    done = run("check", damaged, "--json")
    assert reported(done, code=2)["problems"] == ["rois.tsv: is missing"]
    assert "damaged: has 1 problem." in done.stderr.replace("\n ", "")
    (tmp_path / "r1.tsv").write_text("no numbers\n")
    atlas = tmp_path / "atlas.tsv"
    done = run("prepare", table, tmp_path / "s", "--atlas", atlas, "--json")
    made = reported(done, code=3)
    assert (made["stored"], made["failed"]) == (2, 1)


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (None, 0),
        (SemantoksError("The work failed."), 1),
        (InputError("must be a store"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(run, store_path, monkeypatch, raised, code):
    def stand_in(_):
        if raised is not None:
            raise raised
        return []

    monkeypatch.setattr(describe, "check_path", stand_in)
    done = run("check", store_path)
    assert done.exit_code == code
    assert "Traceback" not in done.output
    assert code in output.EXIT_CODES
    assert f"{code} " in run("--help").stdout.partition("Exit codes:")[2]


@pytest.mark.parametrize("name", main.COMMANDS)
def test_a_summary_fits_one_line(run, name):
    (line,) = (s for s in run("--help").stdout.splitlines() if s.startswith(f"  {name} "))
    assert len(line) <= 80
    assert line.endswith(main.COMMANDS[name].summary)
    for flag in ("-h", "--help"):
        done = run(name, flag)
        assert done.exit_code == 0
        assert main.COMMANDS[name].summary in " ".join(done.stdout.split())
        assert all(option in done.stdout for option in ("--json", "--verbose", "--quiet"))


@pytest.mark.parametrize("width", [50, 97])
def test_a_message_is_wrapped_at_the_width_of_the_terminal(run, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = run("info", "schaefer40").stderr.splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= width
    assert " ".join(" ".join(lines).split()).startswith("semantoks: error: path = 'schaefer40':")


def test_a_message_stays_short_and_keeps_the_way_out(run, store_path, monkeypatch):
    def stand_in(_):
        raise InputError("lacks " + "ROI, " * 900, file="rois.tsv", fix="Choose another atlas")

    monkeypatch.setattr(describe, "check_path", stand_in)
    message = " ".join(run("check", store_path).stderr.split())
    message = message.removeprefix("semantoks: error: ")
    assert 500 < len(message) <= output.LIMIT == 600
    assert message.startswith("rois.tsv: lacks ROI, ROI,")
    assert message.endswith("... Choose another atlas.")


def test_a_long_list_in_a_message_is_cut(
    run, table, tmp_path, recordings, parcellation, preprocessing
):
    names = [f"R{i}" for i in range(57)]
    assert listed(names) == "R0, R1, R2, R3, R4 and 52 more"
    assert listed(names[:5]) == "R0, R1, R2, R3, R4"
    for i in range(3):
        frame = pd.read_csv(tmp_path / f"r{i}.tsv", sep="\t")
        frame.columns = [f"{name}_renamed" for name in frame.columns]
        frame.to_csv(tmp_path / f"r{i}.tsv", sep="\t", index=False)
    done = run("prepare", table, tmp_path / "s", "--atlas", tmp_path / "atlas.tsv")
    text = " ".join(done.stderr.split())
    assert (done.exit_code, "11 of 11 names are not ROIs" in text) == (2, True), text
    assert "Vis_4_renamed" not in text
    write_store(tmp_path / "whole", recordings, parcellation, preprocessing)
    (tmp_path / "whole" / "signals-00000.npy").unlink()
    text = run("check", tmp_path / "whole").stdout
    assert f"it holds 13 of 13 recordings: {recordings[0].id}, " in text
    assert text.endswith(" and 8 more\n")
    assert recordings[5].id not in text


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (("prepar",), "Did you mean 'prepare'?"),
        (("info", "--jso", "x"), "Did you mean '--json'?"),
        (("prepare", "t.tsv", "s", "--atlas", "schaefr400"), "Did you mean 'schaefer400', "),
        (("info", "schaefr400"), "Did you mean 'schaefer400', "),
    ],
)
def test_the_nearest_word_is_suggested(run, tmp_path, monkeypatch, arguments, near):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    text = " ".join(done.stderr.split())
    assert (done.exit_code, near in text) == (2, True), text
    assert done.stdout == ""
    atlases = [name for name in Parcellation.available() if repr(name) in text]
    assert len(atlases) == (3 if "schaefer" in near else 0)


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_commands_and_options(run, monkeypatch, shell):
    script = run("completion", shell).stdout
    assert "_SEMANTOKS_COMPLETE" in script
    for typed, expected in (("semantoks pre", "pretrain"), ("semantoks info --j", "--json")):
        words = {"bash": str(typed.count(" ")), "zsh": str(typed.count(" "))}
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", words.get(shell, typed.split()[-1]))
        monkeypatch.setenv("_SEMANTOKS_COMPLETE", f"{shell}_complete")
        assert expected in run().stdout


def test_a_command_is_imported_when_it_runs():
    """Neither the help nor completion imports a command; running one imports no other."""
    code = (
        "import sys; from click.testing import CliRunner\n"
        "from semantoks.commands.main import COMMANDS, app\n"
        "tenants = {f'semantoks.commands.{entry.module}' for entry in COMMANDS.values()}\n"
        "CliRunner().invoke(app, ['--help']); print(sorted(tenants & set(sys.modules)))\n"
        "CliRunner().invoke(app, [], env={'_SEMANTOKS_COMPLETE': 'bash_complete',\n"
        "    'COMP_WORDS': 'semantoks pre', 'COMP_CWORD': '1'})\n"
        "print(sorted(tenants & set(sys.modules)))\n"
        "CliRunner().invoke(app, ['check', 'nowhere']); print(sorted(tenants & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]", "['semantoks.commands.store']"]


@pytest.mark.clone
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_documents_exist(page):
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"^    (?:.*-m )?semantoks (.*)$", text, re.MULTILINE):
        words = line.partition(" #")[0].split()
        assert words[0] in main.COMMANDS, line
        found = [main.app.get_command(None, word) for word in words if word in main.COMMANDS]
        known = {flag for command in found for param in command.params for flag in param.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, line


@pytest.mark.clone
def test_exit_codes_are_documented():
    page = (ROOT / "docs" / "preparing.md").read_text(encoding="utf-8")
    for number, meaning in output.EXIT_CODES.items():
        assert f"| {number} | {meaning} |" in page

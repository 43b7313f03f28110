"""Every documented command runs on the derivatives of every release; the table in the documents.

``SEMANTOKS_WRITE_DOCS=1 pytest tests/test_releases.py`` writes the table anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import trees
from releases import RELEASES, build
from semantoks.commands.main import app
from semantoks.data.sources.find import find_items
from semantoks.data.sources.items import Reading

pytestmark = pytest.mark.clone
PAGE = Path(__file__).parents[1] / "docs" / "preparing.md"
BEGIN, END = "<!-- releases: written by tests/test_releases.py -->\n", "<!-- end -->\n"
IMAGE = ("--atlas-image", "{volume}")
#: Documented commands: name, to what follows ``semantoks prepare FOLDER STORE --atlas ATLAS``.
COMMANDS = {
    "time series": (),
    "without names": ("--roi-names", "{names}"),
    "without names or TR": ("--roi-names", "{names}", "--source-tr", "2"),
    "options": ("--missing-rois", "mark", "--min-coverage", "0.6", "--cut-gaps", "--max-fd", "0.5"),
    "simple": (*IMAGE, "--denoise", "simple"),
    "scrubbing": (*IMAGE, "--denoise", "scrubbing"),
    "compcor": (*IMAGE, "--denoise", "compcor"),
    "ica_aroma": (*IMAGE, "--denoise", "ica_aroma"),
    "none": (*IMAGE, "--denoise", "none"),
    "options on images": (*IMAGE, "--denoise-option", "global_signal=basic", "--max-gap", "20"),
    "CIFTI": ("--atlas-image", "{dlabel}"),
    "GIFTI": ("--atlas-image", "{left}", "--atlas-image", "{right}"),
}
CASES = [(name, command) for name, release in RELEASES.items() for command in release.commands]


@pytest.fixture(scope="module")
def study():
    return trees.make_study(n_subjects=2)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory, study) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("atlas")
    study.atlas.save(folder / "seven.tsv")
    (folder / "names.txt").write_text("\n".join(study.atlas.labels))
    _, dlabel = trees.dense_cifti(folder, study, "01")
    _, (left, right) = trees.gifti(folder, study, "01")
    volume = trees.atlas_volume(folder / "seven.nii.gz", study.atlas)
    files = {"atlas": folder / "seven.tsv", "names": folder / "names.txt", "volume": volume}
    files |= {"dlabel": dlabel, "left": left, "right": right}
    return {name: str(file) for name, file in files.items()}


@pytest.fixture(scope="module")
def tree_of(tmp_path_factory, study):
    made: dict[str, Path] = {}

    def tree(name: str) -> Path:
        if name not in made:
            made[name] = build(tmp_path_factory.mktemp("tree"), RELEASES[name], study)
        return made[name]

    return tree


def cell(tree: Path, store: Path, arguments: list[str]) -> str:
    """Run a command, following its advice on entities; return what the table states of it."""
    chosen: list[str] = []
    while True:
        where = [word for entity in chosen for word in ("--where", entity)]
        command = ["prepare", str(tree), str(store), *arguments, *where]
        done = CliRunner().invoke(app, command)
        if done.exit_code == 0:
            (stored,) = re.findall(r"(\d+) stored, 0 excluded, 0 failed", done.output)
            asked = ", ".join(f"`{entity.partition('=')[0]}`" for entity in chosen)
            return f"{stored}, choose {asked}" if asked else stored
        text = " ".join(done.output.split())
        advice = re.findall(
            r"--where (\w+=\S*?)(?:[,;.]* |[,;.]*$)", text.partition("one kind:")[2]
        )
        assert advice, text
        told = [entity.partition("=")[0] for entity in chosen]
        assert advice[0].partition("=")[0] not in told, f"advised twice: {text}"
        chosen.append(advice[0])


def tables(cells: dict[tuple[str, str], str]) -> str:
    """Return one table of time series and one of images."""
    lines = []
    for kind, images in (("time series", False), ("images", True)):
        columns = [name for name in COMMANDS if is_of_images(name) == images]
        lines += [f"| {kind} of | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for name in RELEASES:
            row = [cells.get((name, command), "") for command in columns]
            lines += [f"| {name} | {' | '.join(row)} |"] if any(row) else []
        lines.append("")
    return "\n".join(lines)


def is_of_images(command: str) -> bool:
    return "--atlas-image" in COMMANDS[command]


def documented() -> dict[tuple[str, str], str]:
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    found: dict[tuple[str, str], str] = {}
    for lines in (part.splitlines() for part in text.split("\n\n") if part.strip()):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
        for name, *row in rows:
            found |= {(name, c): text for c, text in zip(head[1:], row, strict=True) if text}
    return found


@pytest.fixture(scope="module")
def written():
    """Collect the cells of all cases, and write them into the document where that is asked for."""
    cells: dict[tuple[str, str], str] = {}
    yield cells
    if os.environ.get("SEMANTOKS_WRITE_DOCS"):
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(before + BEGIN + tables(cells) + END + rest.partition(END)[2], "utf-8")


@pytest.mark.parametrize(("name", "command"), CASES, ids=lambda part: part)
def test_every_documented_command_runs_on_every_release(
    tmp_path, monkeypatch, tree_of, atlas, written, name, command
):
    monkeypatch.setattr("semantoks.workflow.prepare.write_quality_page", lambda _: None)
    arguments = ["--atlas", atlas["atlas"], *(a.format(**atlas) for a in COMMANDS[command])]
    found = cell(tree_of(name), tmp_path / "store", arguments)
    written[name, command] = found
    scans = len(RELEASES[name].scans) * 2
    assert found.partition(",")[0] == str(scans), "every scan, each once"
    if not os.environ.get("SEMANTOKS_WRITE_DOCS"):
        assert documented().get((name, command)) == found


def test_the_tables_have_no_other_cells():
    assert documented().keys() == set(CASES)


@pytest.mark.parametrize("name", [n for n in RELEASES if n.startswith("XCP-D")])
def test_what_lies_beside_a_series_is_read_whatever_its_name(tree_of, study, name):
    release = RELEASES[name]
    for item in find_items(tree_of(name), Reading(atlas=study.atlas)):
        recording = item.load()
        assert recording.mean_fd == pytest.approx(0.1)
        assert recording.tr == study.tr
        assert recording.kept.all()
        if "coverage" in release.files.values():
            assert set(recording.coverage) == {0.75}
        assert not any(note.startswith("TR") for note in recording.notes)


def test_concatenations_of_runs_are_named_in_the_notes(tree_of, study):
    items = find_items(tree_of("XCP-D 26"), Reading(atlas=study.atlas))
    assert [len(item.notes) for item in items] == [1, 0, 1, 0]
    joined = find_items(tree_of("XCP-D 26"), Reading(atlas=study.atlas, entities={"run": ""}))
    assert [item.id for item in joined] == ["sub-01_task-rest", "sub-02_task-rest"]

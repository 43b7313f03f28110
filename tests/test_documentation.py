"""The documentation: the README's example runs as printed, and what pages list exists."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import semantoks
from semantoks.commands.main import COMMANDS

pytestmark = pytest.mark.clone
ROOT = Path(__file__).parents[1]


def test_the_example_of_the_readme_prints_what_it_says(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    printed = text.partition(code)[2].split("\n\n")[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    rows = re.compile(r"^ *(\S+ +\(.+\) AUROC) (0\.\d+)$", re.MULTILINE)
    stated, found = (dict(rows.findall(output)) for output in (printed, done.stdout))
    assert len(stated) == 2
    assert list(stated) == list(found)
    for name, auroc in stated.items():  # another processor may change the last digit
        assert float(found[name]) == pytest.approx(float(auroc), abs=0.011)


def test_the_reference_lists_every_public_name():
    listed = re.findall(r"^   (\w+)$", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE)
    assert set(semantoks.__all__) - {"__version__"} <= set(listed)


def test_every_page_is_in_a_table_of_contents():
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "results").glob("*.md")]
    listed = {line for page in pages for line in page.read_text("utf-8").splitlines()}
    assert {page.stem for page in pages} - listed <= {"index"}


def test_the_page_of_commands_lists_them_all():
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", text, re.MULTILINE)
    assert rows == [(name, entry.summary) for name, entry in COMMANDS.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all examples: the store that several of them prepare is made once."""
    return tmp_path_factory.mktemp("examples")


EXAMPLES = [
    (name, example)
    for name in semantoks.__all__
    for example in doctest.DocTestFinder(recurse=False).find(getattr(semantoks, name), name)
    if example.examples
]


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_examples_of_the_public_names(name, example, folder, monkeypatch):
    monkeypatch.chdir(folder)
    example.globs = {"np": np, name: getattr(semantoks, name)}
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example)
    assert result.attempted > 0
    assert result.failed == 0


def test_many_public_names_have_examples():
    assert len(EXAMPLES) >= 17
